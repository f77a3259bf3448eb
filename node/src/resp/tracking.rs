//! What a client is told of keys that it keeps (`CLIENT TRACKING`), as Redis tells it.
//!
//! A client is told on its own connection, in RESP3, or on another one that it names, in
//! RESP3 or as a message of a channel. On its own connection whatever it is told comes after
//! the answers to all commands that it had sent before: what they read may be older than the
//! change. Who is told elsewhere has to see to that itself, which Redis's documentation
//! tells how.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use cairn_core::ids::Position;
use cairn_core::kv::request::{BatchAction, WriteOp};
use cairn_core::tracking::{Prefixes, ReaderId};

use super::backend::Backend;
use super::call::{Refusal, Session};
use super::encode::{Encoder, Protocol};
use super::queue::{Due, Reply};
use super::shared::{AboutTracking, Client, Clients};
use crate::tracking::{Post, Reader};
use crate::users::Caller;

/// The channel on which RESP2 is told.
pub(crate) const CHANNEL: &[u8] = b"__redis__:invalidate";
/// What a RESP2 client may say while it listens to the channel.
pub(crate) const SUBSCRIBED: &[&str] = &["subscribe", "unsubscribe", "ping", "quit", "reset"];
/// How many keys stand in one message.
const KEYS_PER_MESSAGE: usize = 64;
/// How many own writes are remembered of a client that is not told of them.
const OWN_MAX: usize = 4096;

/// Which keys a client is told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Those that it read.
    Read,
    /// Those that it read right after it said so (`OPTIN`).
    OptIn,
    /// Those that it read unless it said right before that it does not keep it (`OPTOUT`).
    OptOut,
    /// All that begin in some way (`BCAST`).
    Broadcast(Prefixes),
}

/// A client that keeps what it reads.
#[derive(Debug)]
pub(crate) struct Tracking {
    reader: Reader,
    pub(crate) mode: Mode,
    pub(crate) no_loop: bool,
    /// The client that is told in its place.
    pub(crate) redirect: Option<u64>,
    /// That one is gone.
    pub(crate) is_broken: bool,
    /// What `CLIENT CACHING` said of the next command.
    pub(crate) said: bool,
    /// What it had said of the command under way.
    pub(crate) says: bool,
    /// The positions of own writes of keys, where it is not to be told of them.
    own: BTreeMap<Bytes, Position>,
    /// Told, and kept until the commands up to that number are answered: one of them may
    /// be the very write.
    kept: Option<(u64, Post)>,
}

impl Tracking {
    pub(crate) fn new(reader: Reader, mode: Mode, no_loop: bool, redirect: Option<u64>) -> Self {
        Self {
            reader,
            mode,
            no_loop,
            redirect,
            is_broken: false,
            said: false,
            says: false,
            own: BTreeMap::new(),
            kept: None,
        }
    }

    /// Takes over what is meant otherwise now, while it keeps what it has.
    pub(crate) fn change(&mut self, mode: Mode, no_loop: bool, redirect: Option<u64>) {
        self.mode = mode;
        self.no_loop = no_loop;
        self.redirect = redirect;
        self.is_broken = false;
    }

    pub(crate) fn about(&self) -> AboutTracking {
        AboutTracking {
            broadcast: matches!(self.mode, Mode::Broadcast(_)),
            redirect: self.redirect,
            is_broken: self.is_broken,
        }
    }

    /// It reads from replicas too from now on.
    pub(crate) fn reads_replicas(&self) {
        self.reader.reads_replicas();
    }

    /// A command begins: who is told of what it reads.
    pub(crate) fn begin_command(&mut self) -> Option<ReaderId> {
        self.says = std::mem::take(&mut self.said);
        let reads = match self.mode {
            Mode::Read => true,
            Mode::OptIn => self.says,
            Mode::OptOut => !self.says,
            Mode::Broadcast(_) => false,
        };
        reads.then(|| self.reader.id())
    }

    /// A reply is about to leave. Of a plain write it is remembered which version of a key
    /// is its own. What a write made of the value that was there, which others may write in
    /// the same entry, is none of them.
    pub(crate) fn answered<B: Backend>(&mut self, due: &Due<'_, B>) {
        if !self.no_loop {
            return;
        }
        let Reply::Write(_, Ok(reply), op) = &due.reply else {
            return;
        };
        if self.own.len() >= OWN_MAX {
            self.own.clear();
        }
        let mut own = |key: &Bytes| {
            let key = Bytes::copy_from_slice(key);
            self.own.insert(key, reply.position);
        };
        match op {
            WriteOp::Set { key, .. } => own(key),
            WriteOp::Batch { operations } => {
                for one in operations {
                    if matches!(one.action, BatchAction::Put { .. }) {
                        own(&one.key);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether it was told something that waits for commands to be answered.
    pub(crate) fn holds_mail(&self) -> bool {
        self.kept.is_some()
    }

    /// Takes what it was told. `taken` commands have come, `popped` of them were answered.
    pub(crate) fn deliver(
        &mut self,
        client: &Client,
        clients: &Clients,
        (taken, popped): (u64, u64),
        messages: &mut Messages<'_>,
    ) {
        if !self.no_loop {
            if !client.mail.is_empty() {
                let post = client.mail.take();
                self.send(client, clients, post, messages);
            }
            return;
        }
        if self.kept.is_none() && !client.mail.is_empty() {
            self.kept = Some((taken, client.mail.take()));
        }
        let due = |(upto, _): &mut (u64, Post)| *upto <= popped;
        if let Some((_, mut post)) = self.kept.take_if(due) {
            let own = &mut self.own;
            post.keys.retain(|(key, version)| {
                let is_own = version.is_some() && own.get(key) == version.as_ref();
                if is_own {
                    own.remove(key);
                }
                !is_own
            });
            self.send(client, clients, post, messages);
        }
    }

    fn send(
        &mut self,
        client: &Client,
        clients: &Clients,
        post: Post,
        messages: &mut Messages<'_>,
    ) {
        let Some(id) = self.redirect else {
            messages.own(&post);
            return;
        };
        match clients.find(id) {
            Some(other) => other.redirected.pass_on(&post),
            None if !self.is_broken => {
                self.is_broken = true;
                client.about.lock().tracking = Some(self.about());
                messages.broken(id);
            }
            None => {}
        }
    }
}

/// Messages that answer no command.
pub(crate) struct Messages<'a> {
    out: BytesMut,
    protocol: Protocol,
    caller: Caller,
    client: &'a Client,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(session: &Session, client: &'a Client) -> Self {
        Self {
            out: BytesMut::new(),
            protocol: session.protocol,
            caller: session.caller.clone(),
            client,
        }
    }

    pub(crate) fn into_bytes(self) -> BytesMut {
        self.out
    }

    /// What it is told of its own keys.
    fn own(&mut self, post: &Post) {
        if self.protocol == Protocol::Three {
            self.invalidate(post, false);
        }
    }

    /// What another has redirected here.
    pub(crate) fn redirected(&mut self, post: Post, subscribed: bool) {
        match self.protocol {
            Protocol::Three => self.invalidate(&post, false),
            Protocol::Two if subscribed => self.invalidate(&post, true),
            Protocol::Two => {
                tracing::debug!(client = self.client.id, "it is told, and does not listen");
            }
        }
    }

    fn invalidate(&mut self, post: &Post, as_message: bool) {
        if post.all {
            self.head(as_message).null();
        }
        // Names are told to nobody who may not touch them: permissions may have changed.
        let may = |key: &Bytes| {
            let permissions = self.caller.permissions();
            permissions.is_some_and(|permissions| permissions.may_touch(key))
        };
        let keys: Vec<&Bytes> = post.keys.iter().map(|(key, _)| key).collect();
        let keys: Vec<&Bytes> = keys.into_iter().filter(|key| may(key)).collect();
        for keys in keys.chunks(KEYS_PER_MESSAGE) {
            let mut message = self.head(as_message);
            message.array(keys.len());
            for key in keys {
                message.bulk(key);
            }
        }
    }

    fn head(&mut self, as_message: bool) -> Encoder<'_> {
        let mut message = Encoder::new(&mut self.out, self.protocol);
        if as_message {
            message.push(3);
            message.bulk(b"message");
            message.bulk(CHANNEL);
        } else {
            message.push(2);
            message.bulk(b"invalidate");
        }
        message
    }

    /// The client to which it was redirected is gone.
    fn broken(&mut self, id: u64) {
        if self.protocol == Protocol::Three {
            let mut message = Encoder::new(&mut self.out, self.protocol);
            message.push(2);
            message.bulk(b"tracking-redir-broken");
            message.integer(i64::try_from(id).unwrap_or(i64::MAX));
        }
    }
}

/// A RESP2 client that listens to the channel takes what comes for that.
pub(crate) fn not_while_subscribed(command: &str) -> Refusal {
    format!(
        "ERR Can't execute '{command}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
         RESET are allowed in this context"
    )
    .into()
}
