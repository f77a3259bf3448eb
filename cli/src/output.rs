//! What commands print. Values go to standard output byte for byte; a reader that
//! closes the pipe early is no error.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::{Failure, Kind};

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    is_read(bytes).map(drop)
}

/// Prints one line of many. Whether anybody still reads: else the others are in vain.
pub(crate) fn line(text: &str) -> Result<bool, Failure> {
    is_read(format!("{text}\n").as_bytes())
}

fn is_read(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(
            Kind::Other,
            format!("write to standard output: {error}"),
        )),
    }
}

/// Prints text.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Prints a value as JSON, indented, with a final line end.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::new(Kind::Other, format!("encode as JSON: {error}")))?;
    text.push(b'\n');
    bytes(&text)
}

/// Prints a table without borders, so that columns can be cut by tools.
pub(crate) fn table<R>(header: &[&str], rows: R) -> Result<(), Failure>
where
    R: IntoIterator<Item = Vec<String>>,
{
    text(&render_table(header, rows))
}

/// A table as [`table`] prints it.
pub(crate) fn render_table<R>(header: &[&str], rows: R) -> String
where
    R: IntoIterator<Item = Vec<String>>,
{
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}
