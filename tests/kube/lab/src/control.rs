//! How commands reach a lab that is up: one line over a socket in its state folder, and an
//! answer until the end.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;

/// How long an answer may take: importing an image on every node takes longest.
const ANSWER: Duration = Duration::from_secs(300);
/// The longest request.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

/// What a lab may be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// What runs.
    Status,
    /// The process id of a node's first process, as the control plane sees it.
    Pid(String),
    /// Cuts a node's power.
    PowerOff(String),
    /// Starts a node with its disk as it was.
    PowerOn(String),
    /// Imports an archive of images on every node that is on.
    Load(PathBuf),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => write!(f, "status"),
            Self::Pid(node) => write!(f, "pid {node}"),
            Self::PowerOff(node) => write!(f, "power-off {node}"),
            Self::PowerOn(node) => write!(f, "power-on {node}"),
            Self::Load(archive) => write!(f, "load {}", archive.display()),
        }
    }
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (verb, object) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match verb {
            "status" if object.is_empty() => Self::Status,
            "pid" => Self::Pid(object.to_owned()),
            "power-off" => Self::PowerOff(object.to_owned()),
            "power-on" => Self::PowerOn(object.to_owned()),
            "load" => Self::Load(object.into()),
            _ => bail!("a lab does not know {line:?}"),
        })
    }
}

/// Asks a lab and returns what it answered.
///
/// # Errors
/// Where no lab is up, or it could not do so: with its reason.
pub fn ask(state: &Path, request: &Request) -> Result<String> {
    let mut stream = UnixStream::connect(Layout::socket(state))
        .with_context(|| format!("no lab is up in {}", state.display()))?;
    stream.set_read_timeout(Some(ANSWER))?;
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("the lab does not answer {request}"))?;
    match answer.split_once('\n') {
        Some(("ok", answer)) => Ok(answer.to_owned()),
        Some(("error", reason)) => bail!("{}", reason.trim_end()),
        _ => bail!("the lab ended while it was asked to {request}"),
    }
}

/// Takes one request and answers it.
///
/// # Errors
/// Where the caller is gone; what the caller is told is none.
pub fn answer(mut stream: UnixStream, act: impl FnOnce(Request) -> Result<String>) -> Result<()> {
    let mut line = String::new();
    BufReader::new((&stream).take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    let answer = match line.trim_end().parse().and_then(act) {
        Ok(answer) => format!("ok\n{answer}"),
        Err(error) => format!("error\n{error:#}\n"),
    };
    stream.write_all(answer.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        for request in [
            Request::Status,
            Request::Pid("node-1".to_owned()),
            Request::PowerOff("node-1".to_owned()),
            Request::PowerOn("node-2".to_owned()),
            Request::Load("/srv/an image.tar".into()),
        ] {
            assert_eq!(request.to_string().parse::<Request>().unwrap(), request);
        }
        assert!("status of what".parse::<Request>().is_err());
        assert!("".parse::<Request>().is_err());
    }
}
