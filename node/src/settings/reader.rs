//! Turns given values into typed ones and collects every problem on the way, so
//! that a person mends them all at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::kinds::flag_of;
use super::values::Values;

/// The longest name that DNS has.
const HOST_BYTES_MAX: usize = 253;

/// One setting that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting's variable.
    pub setting: String,
    /// What was given, if anything.
    pub given: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.setting)?;
        if let Some(given) = &self.given {
            write!(f, "={given}")?;
        }
        write!(f, ": {}. {}.", self.reason, self.remedy)
    }
}

/// Every problem that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.problems.len() == 1 {
            "setting is"
        } else {
            "settings are"
        };
        write!(
            f,
            "{} {noun} wrong; nothing was opened:",
            self.problems.len()
        )?;
        for problem in &self.problems {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

/// Reads settings one by one; remembers which were read and what was wrong.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    values: &'a Values,
    problems: RefCell<Vec<Problem>>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(values: &'a Values) -> Self {
        Self {
            values,
            problems: RefCell::default(),
            read: RefCell::default(),
        }
    }

    /// The names that were read so far.
    #[cfg(test)]
    pub(super) fn names_read(&self) -> BTreeSet<&'static str> {
        self.read.borrow().clone()
    }

    /// `value`, unless something was wrong.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, SettingsError> {
        let problems = self.problems.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(SettingsError { problems }),
        }
    }

    /// Notes a problem with a setting.
    pub(super) fn problem(&self, name: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            setting: name.to_owned(),
            given: self.values.get(name).map(str::to_owned),
            reason: reason.into(),
            remedy: remedy.into(),
        });
    }

    /// The text that was given.
    pub(super) fn text(&self, name: &'static str) -> Option<&'a str> {
        self.read.borrow_mut().insert(name);
        self.values.get(name).map(str::trim)
    }

    /// The text that was given; it is a problem if none was.
    pub(super) fn required(&self, name: &'static str) -> Option<&'a str> {
        let text = self.text(name);
        if text.is_none() {
            self.problem(
                name,
                "it is required and was not given",
                format!("Set {name} or --{}", flag_of(name)),
            );
        }
        text
    }

    /// A number within bounds, if one was given.
    pub(super) fn number<T>(&self, name: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let text = self.text(name)?;
        match text.parse::<T>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(
                    name,
                    "it is not a whole number within its bounds",
                    format!("Give one from {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// Milliseconds within bounds.
    pub(super) fn millis(
        &self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number(name, range).unwrap_or(default))
    }

    /// Bytes within bounds, with an optional suffix.
    pub(super) fn bytes(
        &self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(text) = self.text(name) else {
            return default;
        };
        match parse_bytes(text) {
            Some(bytes) if range.contains(&bytes) => bytes,
            _ => {
                self.problem(
                    name,
                    "it is not a size within its bounds",
                    format!(
                        "Give bytes, or a number with KiB, MiB or GiB, from {} to {}",
                        format_bytes(*range.start()),
                        format_bytes(*range.end())
                    ),
                );
                default
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &'static str, default: bool) -> bool {
        match self.text(name) {
            None => default,
            Some("true" | "1" | "yes") => true,
            Some("false" | "0" | "no") => false,
            Some(_) => {
                self.problem(name, "it is neither true nor false", "Give true or false");
                default
            }
        }
    }

    /// An IP address and a port to listen on.
    pub(super) fn listen(&self, name: &'static str, default: &str) -> Option<SocketAddr> {
        let text = self.text(name).unwrap_or(default);
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.problem(
                    name,
                    "it is not an IP address with a port",
                    format!(
                        "Give one like {default} or [::]:6379; names are for the ADVERTISE settings"
                    ),
                );
                None
            }
        }
    }

    /// A host and a port for others to dial, if one was given.
    pub(super) fn advertised(&self, name: &'static str) -> Option<String> {
        let text = self.text(name)?;
        match check_host_port(text) {
            Ok(()) => Some(text.to_owned()),
            Err(reason) => {
                self.problem(name, reason, "Give one like node-1.example:7401");
                None
            }
        }
    }
}

/// Whether the text is a host with a port from 1 up.
pub(crate) fn check_host_port(text: &str) -> Result<(), &'static str> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("it has no port");
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("its port is not a number from 1 to 65535");
    }
    if host.len() > HOST_BYTES_MAX {
        return Err("its host is longer than 253 bytes");
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let well_formed = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    if well_formed {
        Ok(())
    } else {
        Err("its host is neither a name nor an address")
    }
}

/// Bytes from `123`, `64KiB`, `64Ki`, `64MiB`, `1GiB`.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix.trim() {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The shortest exact form of a size.
pub(super) fn format_bytes(bytes: u64) -> String {
    for (shift, suffix) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_suffix() {
        assert_eq!(parse_bytes("4096"), Some(4096));
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("64Mi"), Some(64 << 20));
        assert_eq!(parse_bytes("1 GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("64MB"), None);
        assert_eq!(parse_bytes("MiB"), None);
        assert_eq!(parse_bytes("-1"), None);
        assert_eq!(parse_bytes("99999999999999999GiB"), None);
        assert_eq!(format_bytes(3 << 20), "3MiB");
        assert_eq!(format_bytes(1000), "1000");
    }

    #[test]
    fn hosts_and_ports_are_checked() {
        for good in ["a:1", "node-1.cairn.svc:7401", "127.0.0.1:80", "[::1]:7401"] {
            assert_eq!(check_host_port(good), Ok(()), "{good}");
        }
        for bad in ["a", "a:0", "a:65536", ":80", "::1:80", "a b:80", "[x]:80"] {
            assert!(check_host_port(bad).is_err(), "{bad}");
        }
    }
}
