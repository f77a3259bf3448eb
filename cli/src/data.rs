//! `put`, `get`, `del`, `incr`: through the Rust client, so that a retry is applied
//! once. Keys and values are bytes: values come from and go to files and pipes as
//! they are.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_client::{
    Condition, Consistency, Expiry, Position, PutOptions, PutOutcome, ReadLevel, WriteLevel,
};
use serde_json::json;

use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::output::{self, Format};

/// The most that is read of a file: no value is larger.
const VALUE_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PutArgs {
    /// The key
    key: OsString,
    /// Its new value
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    value: Option<OsString>,
    /// Read the value from a file, `-` for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only if the key does not exist
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the key exists
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key has this version, as `get -o json` prints it
    #[arg(long, group = "condition", value_name = "EPOCH/INDEX", value_parser = version)]
    if_version: Option<Position>,
    /// Let the key expire after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_153_600_000))]
    expire: Option<u64>,
    #[command(flatten)]
    level: LevelArgs,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, clap::Args)]
struct LevelArgs {
    /// Acknowledged once a write quorum has flushed it, or all replicas
    #[arg(long, value_name = "quorum|all", value_parser = write_level)]
    write_level: Option<WriteLevel>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The key
    key: OsString,
    /// How current the value must be [default: as the cluster agreed]
    #[arg(long, value_name = "primary|quorum|replica|any", value_parser = read_level)]
    consistency: Option<ReadLevel>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// The keys
    #[arg(required = true)]
    keys: Vec<OsString>,
    #[command(flatten)]
    level: LevelArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IncrementArgs {
    /// The key
    key: OsString,
    /// How much; may be negative
    #[arg(long, default_value_t = 1, allow_hyphen_values = true)]
    by: i64,
    #[command(flatten)]
    level: LevelArgs,
}

fn read_level(text: &str) -> Result<ReadLevel, String> {
    ReadLevel::from_name(text).ok_or_else(|| "give primary, quorum, replica or any".to_owned())
}

fn write_level(text: &str) -> Result<WriteLevel, String> {
    WriteLevel::from_name(text).ok_or_else(|| "give quorum or all".to_owned())
}

fn version(text: &str) -> Result<Position, String> {
    let parse = || {
        let (epoch, index) = text.split_once('/')?;
        Some(Position {
            epoch: cairn_client::Epoch(epoch.parse().ok()?),
            index: cairn_client::Index(index.parse().ok()?),
        })
    };
    parse().ok_or_else(|| "give EPOCH/INDEX, as `get -o json` prints it".to_owned())
}

impl PutArgs {
    fn value(&self) -> Result<Vec<u8>, Failure> {
        match (&self.value, &self.file) {
            (_, Some(file)) => read_file(file),
            (Some(value), None) => Ok(value.clone().into_vec()),
            (None, None) => Err(Failure::usage("neither a value nor --file was given")),
        }
    }

    fn options(&self) -> PutOptions {
        let condition = if self.if_absent {
            Condition::Absent
        } else if self.if_present {
            Condition::Present
        } else {
            self.if_version
                .map_or(Condition::Always, Condition::Version)
        };
        let expiry = self.expire.map_or(Expiry::Never, |seconds| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
            Expiry::AtMillis(now + seconds * 1000)
        });
        PutOptions {
            condition,
            expiry,
            return_previous: false,
            write_level: self.level.write_level,
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: std::io::Error| Failure::usage(format!("read {}: {error}", path.display()));
    let mut value = Vec::new();
    let mut take = |from: &mut dyn Read| from.take(VALUE_BYTES_MAX + 1).read_to_end(&mut value);
    if path.as_os_str() == "-" {
        take(&mut std::io::stdin().lock()).map_err(failed)?;
    } else {
        take(&mut std::fs::File::open(path).map_err(failed)?).map_err(failed)?;
    }
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{} has more than {VALUE_BYTES_MAX} bytes, which no value may have",
            path.display()
        )));
    }
    Ok(value)
}

/// As a person reads it; what is no UTF-8 is replaced.
fn shown(key: &OsStr) -> String {
    String::from_utf8_lossy(key.as_bytes()).into_owned()
}

/// A value in JSON: text where it is text, else its bytes in hexadecimal.
pub(crate) fn value_json(data: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(data) {
        Ok(text) => ("value", text.to_owned()),
        Err(_) => (
            "valueHex",
            data.iter().map(|byte| format!("{byte:02x}")).collect(),
        ),
    }
}

pub(crate) fn put(args: &PutArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let value = args.value()?;
    let key = args.key.clone().into_vec();
    let outcome = block_on(async {
        let client = endpoints.client().await?;
        Ok(client.put_with(key, value, args.options()).await?)
    })?;
    match outcome {
        PutOutcome::Applied { version, .. } => match format {
            Format::Json => output::json(&json!({
                "key": shown(&args.key),
                "version": version.to_string(),
            })),
            Format::Table => Ok(()),
        },
        PutOutcome::ConditionFailed { existing, .. } => Err(Failure::new(
            Kind::NotFound,
            match existing {
                Some(version) => format!("nothing was changed: the key has version {version}"),
                None => "nothing was changed: there is no such key".to_owned(),
            },
        )),
    }
}

pub(crate) fn get(args: &GetArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let key = args.key.clone().into_vec();
    let consistency = args
        .consistency
        .map_or(Consistency::Default, Consistency::from);
    let reading = block_on(async { Ok(endpoints.client().await?.read(key, consistency).await?) })?;
    let Some(value) = reading.value else {
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no key `{}`", shown(&args.key)),
        ));
    };
    match format {
        // Byte for byte, so that a file put is a file got.
        Format::Table => {
            output::bytes(&value.data)?;
            // A terminal's prompt is to stand on a line of its own.
            if std::io::stdout().is_terminal() && !value.data.ends_with(b"\n") {
                output::text("\n")?;
            }
            Ok(())
        }
        Format::Json => {
            let (field, data) = value_json(&value.data);
            let mut shown = json!({
                "key": shown(&args.key),
                field: data,
                "version": value.version.to_string(),
                "expiresAtMs": value.expires_at,
            });
            // Of the level `any` alone: the others are current.
            if let Some(state) = reading.state {
                shown["replica"] = json!({
                    "epoch": state.epoch.0,
                    "applied": state.applied.0,
                    "behind": state.behind(),
                });
            }
            output::json(&shown)
        }
    }
}

pub(crate) fn delete(
    args: &DeleteArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let deleted = block_on(async {
        let client = endpoints.client_at(args.level.write_level).await?;
        let mut deleted = 0u64;
        for key in &args.keys {
            deleted += u64::from(client.delete(key.clone().into_vec()).await?);
        }
        Ok(deleted)
    })?;
    if format == Format::Json {
        output::json(&json!({ "deleted": deleted }))?;
    }
    if deleted == 0 {
        return Err(Failure::new(Kind::NotFound, "there was no such key"));
    }
    Ok(())
}

pub(crate) fn increment(
    args: &IncrementArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let key = args.key.clone().into_vec();
    let sum = block_on(async {
        let client = endpoints.client_at(args.level.write_level).await?;
        Ok(client.increment(key, args.by).await?)
    })?;
    match format {
        Format::Table => output::text(&format!("{sum}\n")),
        Format::Json => output::json(&json!({ "key": shown(&args.key), "value": sum })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_printed() {
        let position = Position {
            epoch: cairn_client::Epoch(3),
            index: cairn_client::Index(42),
        };
        assert_eq!(version(&position.to_string()), Ok(position));
        assert!(version("3").is_err());
        assert!(version("a/b").is_err());
    }

    #[test]
    fn what_is_no_text_is_shown_in_hexadecimal() {
        assert_eq!(value_json(b"abc"), ("value", "abc".to_owned()));
        assert_eq!(value_json(&[0xff, 0x00]), ("valueHex", "ff00".to_owned()));
    }
}
