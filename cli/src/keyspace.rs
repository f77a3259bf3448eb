//! `scan` and `watch`: keys one after the other, a line for each. As a table, what is
//! no printable ASCII is escaped, so that a key or a value is always one field of one
//! line; as JSON, each line is a document of its own, for tools that read a stream.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use cairn_client::{
    KeyEvent, KeyFilter, Row, ScanOptions, ScanToken, Value, Watch, WatchOptions, WatchToken,
};
use serde_json::{Map, json};

use crate::data::value_json;
use crate::endpoints::{Endpoints, block_on};
use crate::failure::Failure;
use crate::output::{self, Format};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ScanArgs {
    /// What the keys begin with [default: every key]
    prefix: Option<OsString>,
    /// The most keys that are printed
    #[arg(long, value_name = "KEYS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Without the values
    #[arg(long)]
    keys_only: bool,
    /// Go on where an earlier scan stopped: the token that it printed
    #[arg(long, value_name = "TOKEN")]
    from: Option<ScanToken>,
}

#[derive(Clone, Debug, clap::Args)]
#[group(id = "watched", required = true, multiple = false)]
pub(crate) struct Watched {
    /// The key
    key: Option<OsString>,
    /// All keys that begin so; an empty one: every key
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<OsString>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    watched: Watched,
    /// Go on where an earlier watch stopped: a token that it printed
    #[arg(long, value_name = "TOKEN")]
    from: Option<WatchToken>,
    /// End after so many events
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Bytes in one line, without tabs or other bytes that mean something to a terminal.
fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A document with a key, as text where it is text.
fn of_key(key: &[u8]) -> Map<String, serde_json::Value> {
    let (_, text) = value_json(key);
    let field = if std::str::from_utf8(key).is_ok() {
        "key"
    } else {
        "keyHex"
    };
    Map::from_iter([(field.to_owned(), json!(text))])
}

fn add_value(document: &mut Map<String, serde_json::Value>, value: &Value, with_data: bool) {
    if with_data {
        let (field, data) = value_json(&value.data);
        document.insert(field.to_owned(), json!(data));
    }
    document.insert("version".to_owned(), json!(value.version.to_string()));
    document.insert("expiresAtMs".to_owned(), json!(value.expires_at));
}

/// Whether anybody still reads.
fn print_row(row: &Row, keys_only: bool, format: Format) -> Result<bool, Failure> {
    match format {
        Format::Table if keys_only => output::line(&escaped(&row.key)),
        Format::Table => {
            let (key, value) = (escaped(&row.key), escaped(&row.value.data));
            output::line(&format!("{key}\t{value}"))
        }
        Format::Json => {
            let mut document = of_key(&row.key);
            add_value(&mut document, &row.value, !keys_only);
            output::line(&serde_json::Value::Object(document).to_string())
        }
    }
}

pub(crate) fn scan(args: &ScanArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let prefix = args.prefix.clone().map(OsStringExt::into_vec);
    let options = ScanOptions {
        prefix: prefix.unwrap_or_default().into(),
        from: args.from.clone(),
        keys_only: args.keys_only,
        ..ScanOptions::default()
    };
    let left = block_on(async {
        let mut scan = endpoints.client().await?.scan(options);
        let mut left = args.limit;
        while left != Some(0) {
            let Some(row) = scan.next().await? else {
                return Ok(None);
            };
            if !print_row(&row, args.keys_only, format)? {
                return Ok(None);
            }
            left = left.map(|left| left - 1);
        }
        Ok(scan.token().cloned())
    })?;
    if let Some(token) = left {
        eprintln!("there may be more: --from {token}");
    }
    Ok(())
}

/// Whether anybody still reads.
fn print_event(event: &KeyEvent, watch: &Watch, format: Format) -> Result<bool, Failure> {
    match format {
        Format::Table => {
            let (key, version) = (escaped(event.key()), event.version());
            output::line(&match event {
                KeyEvent::Put { value, .. } => {
                    format!("put\t{key}\t{version}\t{}", escaped(&value.data))
                }
                KeyEvent::Deleted { .. } => format!("deleted\t{key}\t{version}"),
            })
        }
        Format::Json => {
            let mut document = of_key(event.key());
            let kind = match event {
                KeyEvent::Put { value, .. } => {
                    add_value(&mut document, value, true);
                    "put"
                }
                KeyEvent::Deleted { version, .. } => {
                    document.insert("version".to_owned(), json!(version.to_string()));
                    "deleted"
                }
            };
            document.insert("event".to_owned(), json!(kind));
            document.insert("token".to_owned(), json!(watch.token().to_string()));
            output::line(&serde_json::Value::Object(document).to_string())
        }
    }
}

pub(crate) fn watch(
    args: &WatchArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let Watched { key, prefix } = args.watched.clone();
    let filter = match key {
        Some(key) => KeyFilter::Key(key.into_vec().into()),
        None => KeyFilter::Prefix(prefix.unwrap_or_default().into_vec().into()),
    };
    let options = WatchOptions {
        from: args.from.clone(),
        ..WatchOptions::default()
    };
    block_on(async {
        let mut watch = endpoints.client().await?.watch(filter, options).await?;
        // Whoever waits for it may write from here on.
        eprintln!("watching: --from {}", watch.token());
        let mut left = args.limit;
        while left != Some(0) {
            let event = tokio::select! {
                event = watch.next() => event?,
                interrupted = tokio::signal::ctrl_c() => {
                    // Where signals cannot be had, the process ends by them.
                    if interrupted.is_ok() {
                        eprintln!("stopped: --from {}", watch.token());
                        return Ok(());
                    }
                    continue;
                }
            };
            if !print_event(&event, &watch, format)? {
                break;
            }
            left = left.map(|left| left - 1);
        }
        eprintln!("stopped: --from {}", watch.token());
        Ok(())
    })
}
