//! Finds commands in what a client sent.
//!
//! The parser keeps its place, so that a command that arrives byte by byte costs no
//! more than one that arrives whole, and it copies nothing: arguments are ranges of
//! the buffer. Inline commands, which people type, are the exception.

use bytes::{Bytes, BytesMut};

use super::config::Limits;
use super::encode::parse_integer;

/// The longest line that holds a count or a length. Nineteen digits, a sign and a
/// type fit; Redis allows 64 KiB of them, to no one's use.
const HEADER_BYTES: usize = 32;

/// What someone who has not logged in may send, who has nothing to say but `HELLO` and
/// `AUTH`: so many arguments, of so many bytes. As in Redis.
const STRANGERS_ARGUMENTS: usize = 10;
const STRANGERS_BULK_BYTES: usize = 16 << 10;

/// Where an argument stands: start and end, counted from the start of the command.
pub(crate) type Range = (u32, u32);

/// What a client sent is not a command. It is told, and the connection ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    ArrayLength,
    #[error("Protocol error: too big mbulk count string")]
    ArrayHeader,
    #[error("Protocol error: expected '$', got '{0}'")]
    NotBulk(char),
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    #[error("Protocol error: too big bulk count string")]
    BulkHeader,
    #[error("Protocol error: too big inline request")]
    InlineLength,
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    #[error("Protocol error: too big request")]
    RequestLength,
    #[error("Protocol error: unauthenticated multibulk length")]
    StrangersArray,
    #[error("Protocol error: unauthenticated bulk length")]
    StrangersBulk,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// More is needed: at least `bytes` in the buffer, as far as can be told.
    Incomplete { bytes: usize },
    /// A command in the first `bytes` of the buffer; its arguments are ranges of them.
    Command { bytes: usize },
    /// An inline command in the first `bytes` of the buffer; its arguments are
    /// ranges of [`Parser::take_inline`].
    Inline { bytes: usize },
    /// Nothing to do in the first `bytes` of the buffer.
    Nothing { bytes: usize },
}

/// The state of one connection's parser.
#[derive(Debug)]
pub(crate) struct Parser {
    limits: Limits,
    trusted: bool,
    /// How far the command under way was read.
    at: usize,
    /// How many arguments are still to come; `None` before the head of the array.
    missing: Option<usize>,
    /// The length of the argument under way, once its header was read.
    bulk: Option<usize>,
    arguments: Vec<Range>,
    inline: BytesMut,
}

impl Parser {
    pub(crate) fn new(mut limits: Limits) -> Self {
        // Ranges have 32 bits.
        limits.request_bytes = limits.request_bytes.min(1 << 30);
        limits.inline_bytes = limits.inline_bytes.min(1 << 30);
        Self {
            limits,
            trusted: true,
            at: 0,
            missing: None,
            bulk: None,
            arguments: Vec::new(),
            inline: BytesMut::new(),
        }
    }

    /// Whether the client may send more than what it takes to log in.
    pub(crate) fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// Whether a command was begun and not ended.
    pub(crate) fn is_within(&self) -> bool {
        self.missing.is_some()
    }

    /// The arguments of the command found last. The vector is to be given back with
    /// [`Self::recycle`].
    pub(crate) fn take_arguments(&mut self) -> Vec<Range> {
        std::mem::take(&mut self.arguments)
    }

    /// Keeps the vector for the next command.
    pub(crate) fn recycle(&mut self, mut arguments: Vec<Range>) {
        // One command with a million arguments is no reason to keep room for them.
        if arguments.capacity() <= 1024 {
            arguments.clear();
            self.arguments = arguments;
        }
    }

    /// The bytes of an inline command's arguments.
    pub(crate) fn take_inline(&mut self) -> Bytes {
        self.inline.split().freeze()
    }

    /// Looks for a command at the start of `buffer`. Between calls the buffer only
    /// grows at its end, until a command (or nothing) was found, whose bytes are
    /// taken from its start.
    pub(crate) fn find(&mut self, buffer: &[u8]) -> Result<Found, ProtocolError> {
        if self.missing.is_none() {
            match buffer.first() {
                None => return Ok(Found::Incomplete { bytes: 1 }),
                Some(b'*') => {
                    let (number, next) = match header(buffer, 0) {
                        Header::Incomplete => return Ok(incomplete(buffer)),
                        Header::TooLong => return Err(ProtocolError::ArrayHeader),
                        Header::Line { number, next } => (number, next),
                    };
                    let count = number.ok_or(ProtocolError::ArrayLength)?;
                    if count <= 0 {
                        return Ok(Found::Nothing { bytes: next });
                    }
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    if count > self.limits.arguments {
                        return Err(ProtocolError::ArrayLength);
                    }
                    if !self.trusted && count > STRANGERS_ARGUMENTS {
                        return Err(ProtocolError::StrangersArray);
                    }
                    self.arguments.clear();
                    self.at = next;
                    self.missing = Some(count);
                }
                Some(_) => return self.find_inline(buffer),
            }
        }
        self.find_arguments(buffer)
    }

    fn find_arguments(&mut self, buffer: &[u8]) -> Result<Found, ProtocolError> {
        let mut missing = self.missing.unwrap_or(0);
        while missing > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => {
                    match buffer.get(self.at) {
                        None => {
                            self.missing = Some(missing);
                            return Ok(incomplete(buffer));
                        }
                        Some(b'$') => {}
                        Some(&other) => return Err(ProtocolError::NotBulk(char::from(other))),
                    }
                    let (number, next) = match header(buffer, self.at) {
                        Header::Incomplete => {
                            self.missing = Some(missing);
                            return Ok(incomplete(buffer));
                        }
                        Header::TooLong => return Err(ProtocolError::BulkHeader),
                        Header::Line { number, next } => (number, next),
                    };
                    let length = number
                        .and_then(|n| usize::try_from(n).ok())
                        .filter(|&n| n <= self.limits.value_bytes.max(self.limits.key_bytes))
                        .ok_or(ProtocolError::BulkLength)?;
                    if !self.trusted && length > STRANGERS_BULK_BYTES {
                        return Err(ProtocolError::StrangersBulk);
                    }
                    if next.saturating_add(length) > self.limits.request_bytes {
                        return Err(ProtocolError::RequestLength);
                    }
                    self.at = next;
                    self.bulk = Some(length);
                    length
                }
            };
            let end = self.at + length;
            // What follows the bytes is skipped unseen, as Redis does.
            if buffer.len() < end + 2 {
                self.missing = Some(missing);
                return Ok(Found::Incomplete { bytes: end + 2 });
            }
            // `request_bytes` keeps both within 32 bits.
            self.arguments.push((self.at as u32, end as u32));
            self.at = end + 2;
            self.bulk = None;
            missing -= 1;
        }
        let bytes = self.at;
        self.at = 0;
        self.missing = None;
        Ok(Found::Command { bytes })
    }

    fn find_inline(&mut self, buffer: &[u8]) -> Result<Found, ProtocolError> {
        let scanned = self.at.min(buffer.len());
        let limit = self.limits.inline_bytes;
        let Some(offset) = buffer[scanned..].iter().position(|&b| b == b'\n') else {
            if buffer.len() > limit {
                return Err(ProtocolError::InlineLength);
            }
            self.at = buffer.len();
            return Ok(incomplete(buffer));
        };
        let end = scanned + offset;
        if end > limit {
            return Err(ProtocolError::InlineLength);
        }
        self.at = 0;
        let line = &buffer[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.arguments.clear();
        self.inline.clear();
        split_line(line, &mut self.inline, &mut self.arguments).ok_or(ProtocolError::Quotes)?;
        let bytes = end + 1;
        Ok(if self.arguments.is_empty() {
            Found::Nothing { bytes }
        } else {
            Found::Inline { bytes }
        })
    }
}

fn incomplete(buffer: &[u8]) -> Found {
    Found::Incomplete {
        bytes: buffer.len() + 1,
    }
}

/// The line of a count or a length.
enum Header {
    /// It has not ended yet.
    Incomplete,
    /// It is longer than any number.
    TooLong,
    /// Its number, if it is one, and where the next line begins.
    Line { number: Option<i64>, next: usize },
}

/// Reads the line at `at`, whose first byte is its type.
fn header(buffer: &[u8], at: usize) -> Header {
    let line = &buffer[at + 1..buffer.len().min(at + HEADER_BYTES)];
    match line.iter().position(|&b| b == b'\r' || b == b'\n') {
        // A line feed alone ends no header in Redis either; it would wait for ever.
        Some(end) if line[end] == b'\n' => Header::Line {
            number: None,
            next: buffer.len(),
        },
        // The line feed is not looked at, as in Redis, but it must be there.
        Some(end) if buffer.len() >= at + 1 + end + 2 => Header::Line {
            number: parse_integer(&line[..end]),
            next: at + 1 + end + 2,
        },
        None if buffer.len() >= at + HEADER_BYTES => Header::TooLong,
        Some(_) | None => Header::Incomplete,
    }
}

/// Splits a line into arguments by Redis's rules of quoting. `None`: a quote has no
/// end, or no space behind its end.
fn split_line(line: &[u8], bytes: &mut BytesMut, arguments: &mut Vec<Range>) -> Option<()> {
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|b| is_space(*b)) {
            at += 1;
        }
        if at >= line.len() {
            return Some(());
        }
        let start = bytes.len() as u32;
        while let Some(&byte) = line.get(at) {
            at = match byte {
                b'"' => double_quoted(line, at + 1, bytes)?,
                b'\'' => single_quoted(line, at + 1, bytes)?,
                other if is_space(other) => break,
                other => {
                    bytes.extend_from_slice(&[other]);
                    at + 1
                }
            };
        }
        arguments.push((start, bytes.len() as u32));
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn double_quoted(line: &[u8], mut at: usize, bytes: &mut BytesMut) -> Option<usize> {
    loop {
        let (byte, next) = match *line.get(at)? {
            b'"' => return closed(line, at + 1),
            b'\\' => match *line.get(at + 1)? {
                b'x' if hex(line, at + 2).is_some() => (hex(line, at + 2)?, at + 4),
                b'n' => (b'\n', at + 2),
                b'r' => (b'\r', at + 2),
                b't' => (b'\t', at + 2),
                b'b' => (0x08, at + 2),
                b'a' => (0x07, at + 2),
                other => (other, at + 2),
            },
            other => (other, at + 1),
        };
        bytes.extend_from_slice(&[byte]);
        at = next;
    }
}

fn single_quoted(line: &[u8], mut at: usize, bytes: &mut BytesMut) -> Option<usize> {
    loop {
        let (byte, next) = match *line.get(at)? {
            b'\'' => return closed(line, at + 1),
            b'\\' if line.get(at + 1) == Some(&b'\'') => (b'\'', at + 2),
            other => (other, at + 1),
        };
        bytes.extend_from_slice(&[byte]);
        at = next;
    }
}

/// A closing quote is followed by a space or by nothing.
fn closed(line: &[u8], at: usize) -> Option<usize> {
    match line.get(at) {
        None => Some(at),
        Some(&byte) if is_space(byte) => Some(at),
        Some(_) => None,
    }
}

fn hex(line: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*line.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
