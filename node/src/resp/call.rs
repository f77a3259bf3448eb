//! One command under way: what a handler is given, and what it wants done.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cairn_core::kv::request::WriteOp;

use super::backend::{Question, ReadLevel};
use super::encode::{Encoder, Protocol, parse_integer};
use super::parser::Range;
use super::shared::{Client, Shared};
use super::tracking::Tracking;
use super::words;
use crate::users::{Caller, Checking};

/// The arguments of a command, its name first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    frame: &'a Bytes,
    ranges: &'a [Range],
}

impl<'a> Args<'a> {
    pub(crate) fn new(frame: &'a Bytes, ranges: &'a [Range]) -> Self {
        Self { frame, ranges }
    }

    /// How many there are, the name included.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// An argument; empty where there is none so late.
    pub(crate) fn get(&self, at: usize) -> &'a [u8] {
        self.ranges.get(at).map_or(&[], |&(start, end)| {
            &self.frame[start as usize..end as usize]
        })
    }

    /// An argument, sharing the buffer.
    pub(crate) fn bytes(&self, at: usize) -> Bytes {
        self.ranges
            .get(at)
            .map_or_else(Bytes::new, |&(start, end)| {
                self.frame.slice(start as usize..end as usize)
            })
    }

    /// Whether an argument is this word, in whatever case.
    pub(crate) fn is(&self, at: usize, word: &str) -> bool {
        self.get(at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// An argument as an integer.
    pub(crate) fn integer(&self, at: usize) -> Result<i64, Refusal> {
        parse_integer(self.get(at)).ok_or(Refusal::from(words::NOT_AN_INTEGER))
    }

    /// All from `at` on.
    pub(crate) fn from(&self, at: usize) -> Args<'a> {
        Args {
            frame: self.frame,
            ranges: self.ranges.get(at..).unwrap_or(&[]),
        }
    }

    /// Each in turn.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let frame = self.frame;
        self.ranges
            .iter()
            .map(move |&(start, end)| &frame[start as usize..end as usize])
    }
}

/// The text of an error, its code first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal(pub(crate) Cow<'static, [u8]>);

impl From<&'static [u8]> for Refusal {
    fn from(text: &'static [u8]) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text.into_bytes()))
    }
}

impl From<Vec<u8>> for Refusal {
    fn from(text: Vec<u8>) -> Self {
        Self(Cow::Owned(text))
    }
}

/// What of its replies a client wants (`CLIENT REPLY`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Replies {
    #[default]
    On,
    Off,
    /// Not that of the next command.
    SkipNext,
}

/// What a connection remembers from command to command.
#[derive(Debug)]
pub(crate) struct Session {
    /// Who speaks.
    pub(crate) caller: Caller,
    pub(crate) protocol: Protocol,
    pub(crate) level: ReadLevel,
    pub(crate) replies: Replies,
    pub(crate) no_evict: bool,
    /// It keeps what it reads, and is told when that changes.
    pub(crate) tracking: Option<Tracking>,
    /// It said `SUBSCRIBE`, so that RESP2 too can tell it what others redirect here.
    pub(crate) subscribed: bool,
}

impl Session {
    /// As it begins, and after `RESET`.
    pub(crate) fn new(caller: Caller) -> Self {
        Self {
            caller,
            protocol: Protocol::default(),
            level: ReadLevel::default(),
            replies: Replies::default(),
            no_evict: false,
            tracking: None,
            subscribed: false,
        }
    }
}

/// What a client asks for that logs in.
#[derive(Debug)]
pub(crate) struct LogIn {
    pub(crate) checking: Checking,
    /// What a `HELLO` asks for besides; `None`: it was an `AUTH`.
    pub(crate) hello: Option<Hello>,
}

/// What `HELLO` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) protocol: Protocol,
    pub(crate) name: Option<String>,
}

/// What a handler works with.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) args: Args<'a>,
    pub(crate) session: &'a mut Session,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) shared: &'a Shared,
    /// Where the reply goes, if the handler makes it itself.
    pub(crate) out: &'a mut BytesMut,
}

impl Call<'_> {
    /// For the reply.
    pub(crate) fn reply(&mut self) -> Encoder<'_> {
        Encoder::new(self.out, self.session.protocol)
    }

    /// `+OK`.
    pub(crate) fn ok(&mut self) -> Result<Action, Refusal> {
        self.reply().ok();
        Ok(Action::Replied)
    }

    /// An integer.
    pub(crate) fn integer(&mut self, number: i64) -> Result<Action, Refusal> {
        self.reply().integer(number);
        Ok(Action::Replied)
    }
}

/// What a handler wants done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Nothing: the reply is written.
    Replied,
    /// Nothing, and no reply.
    Silent,
    /// The reply is written; close once the client has it.
    Quit,
    /// A check of a credential, before which nothing else of the client is run.
    LogIn(LogIn),
    /// A write.
    Write { op: WriteOp, shape: WriteShape },
    /// A read of one key.
    Read { key: Bytes, shape: ReadShape },
    /// A question about all keys of this node.
    Ask(Question),
    /// A read of several keys of the slot.
    ReadMany { keys: Vec<Bytes>, shape: ManyShape },
}

/// How the outcome of a write is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteShape {
    /// `SET`, `MSET`: `OK`, or null where a condition failed.
    Set,
    /// `SET ... GET`, `GETEX`, `GETDEL`: the value before.
    SetGet,
    /// `SETNX`, `EXPIRE`, `MSETNX`: 1 or 0, whether it was done.
    Done,
    /// `DEL`: how many; `INCR`: the integer; `APPEND`: the length.
    Number,
}

/// How a value is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadShape {
    /// `GET`.
    Value,
    /// `STRLEN`.
    Length,
    /// `GETRANGE`: from and to, both included; below zero they count from the end.
    Range(i64, i64),
    /// `EXISTS`, `TOUCH` with one key.
    Exists,
    /// `TYPE`.
    Type,
    /// `TTL` and its kin.
    Expiry(ExpiryShape),
}

/// How an expiry is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExpiryShape {
    /// What is left, in seconds, rounded to the nearest.
    Seconds,
    /// What is left, in milliseconds.
    Millis,
    /// When, in seconds since the Unix epoch.
    AtSeconds,
    /// When, in milliseconds since the Unix epoch.
    AtMillis,
}

/// How several values are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ManyShape {
    /// `MGET`.
    Values,
    /// `EXISTS`: how many exist, each as often as it was named.
    Count,
}
