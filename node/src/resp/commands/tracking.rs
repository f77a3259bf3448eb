//! `CLIENT TRACKING` and its kin, and the channel on which RESP2 is told.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::tracking::{Collision, Prefixes};

use super::super::backend::ReadLevel;
use super::super::call::{Action, Args, Call, Refusal};
use super::super::encode::{Protocol, parse_integer};
use super::super::server::LISTENER;
use super::super::tracking::{CHANNEL, Mode, Tracking};
use super::super::words;
use crate::tracking::Scope;
use crate::users::Users;

/// The most prefixes of one client, and the longest.
const PREFIXES_MAX: usize = 256;
const PREFIX_BYTES_MAX: usize = 1024;

const SWITCH_BROADCAST: &[u8] = b"ERR You can't switch BCAST mode on/off before disabling \
tracking for this client, and then re-enabling it with a different mode.";
const SWITCH_OPT: &[u8] = b"ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for \
this client, and then re-enabling it with a different mode.";
const NOT_TRACKING: &[u8] =
    b"ERR CLIENT CACHING can be called only when the client is in tracking \
mode with OPTIN or OPTOUT mode enabled";

/// What `CLIENT TRACKING` asks for.
#[derive(Default)]
struct Wish {
    redirect: Option<u64>,
    broadcast: bool,
    prefixes: Vec<Bytes>,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
}

pub(super) fn client_tracking(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    if args.is(2, "OFF") {
        Wish::read(call, args)?;
        call.session.tracking = None;
        call.client.about.lock().tracking = None;
        return call.ok();
    }
    if !args.is(2, "ON") {
        return Err(words::SYNTAX.into());
    }
    let wish = Wish::read(call, args)?;
    turn_on(call, wish)?;
    call.ok()
}

impl Wish {
    fn read(call: &Call<'_>, args: Args<'_>) -> Result<Self, Refusal> {
        let mut wish = Self::default();
        let mut at = 3;
        while at < args.len() {
            if args.is(at, "REDIRECT") && at + 1 < args.len() {
                if wish.redirect.is_some() {
                    return Err(b"ERR A client can only redirect to a single other client"
                        .as_slice()
                        .into());
                }
                wish.redirect = Some(redirect(call, args.get(at + 1))?);
                at += 1;
            } else if args.is(at, "BCAST") {
                wish.broadcast = true;
            } else if args.is(at, "OPTIN") {
                wish.opt_in = true;
            } else if args.is(at, "OPTOUT") {
                wish.opt_out = true;
            } else if args.is(at, "NOLOOP") {
                wish.no_loop = true;
            } else if args.is(at, "PREFIX") && at + 1 < args.len() {
                wish.prefixes.push(Bytes::copy_from_slice(args.get(at + 1)));
                at += 1;
            } else {
                return Err(words::SYNTAX.into());
            }
            at += 1;
        }
        Ok(wish)
    }
}

/// A client of the same user: names of keys are told to it.
fn redirect(call: &Call<'_>, id: &[u8]) -> Result<u64, Refusal> {
    let id = parse_integer(id).ok_or(Refusal::from(words::NOT_AN_INTEGER))?;
    let other = u64::try_from(id)
        .ok()
        .and_then(|id| call.shared.clients.find(id));
    let other = other.filter(|other| {
        let user = other.about.lock().user.clone();
        user == call.client.about.lock().user
    });
    other.map(|other| other.id).ok_or(Refusal::from(
        b"ERR The client ID you want redirect to does not exist".as_slice(),
    ))
}

fn turn_on(call: &mut Call<'_>, wish: Wish) -> Result<(), Refusal> {
    let Wish {
        redirect,
        broadcast,
        prefixes,
        opt_in,
        opt_out,
        no_loop,
    } = wish;
    let before = call.session.tracking.as_ref().map(|t| &t.mode);
    if !broadcast && !prefixes.is_empty() {
        return Err(b"ERR PREFIX option requires BCAST mode to be enabled"
            .as_slice()
            .into());
    }
    if before.is_some_and(|mode| matches!(mode, Mode::Broadcast(_)) != broadcast) {
        return Err(SWITCH_BROADCAST.into());
    }
    if broadcast && (opt_in || opt_out) {
        return Err(b"ERR OPTIN and OPTOUT are not compatible with BCAST"
            .as_slice()
            .into());
    }
    if opt_in && opt_out {
        return Err(b"ERR You can't specify both OPTIN mode and OPTOUT mode"
            .as_slice()
            .into());
    }
    if (opt_in && before == Some(&Mode::OptOut)) || (opt_out && before == Some(&Mode::OptIn)) {
        return Err(SWITCH_OPT.into());
    }
    let mode = match (before, broadcast, opt_in, opt_out) {
        (Some(Mode::Broadcast(old)), ..) => Mode::Broadcast(more(call, Some(old), prefixes)?),
        (_, true, ..) => Mode::Broadcast(more(call, None, prefixes)?),
        (_, _, true, _) => Mode::OptIn,
        (_, _, _, true) => Mode::OptOut,
        (Some(Mode::OptIn), ..) => Mode::OptIn,
        (Some(Mode::OptOut), ..) => Mode::OptOut,
        _ => Mode::Read,
    };
    let Some(tracker) = call.shared.facts.tracker().map(Arc::clone) else {
        return Err(b"ERR this node tells nobody of keys that change"
            .as_slice()
            .into());
    };
    // What it is told depends on these: it goes on as another reader, and may have missed
    // something between the two.
    let same =
        |tracking: &Tracking| tracking.no_loop == no_loop && (tracking.mode == mode || !broadcast);
    match &mut call.session.tracking {
        Some(tracking) if same(tracking) => tracking.change(mode, no_loop, redirect),
        tracking => {
            let scope = match &mode {
                Mode::Broadcast(prefixes) => Scope::Prefixes(prefixes.clone()),
                Mode::Read | Mode::OptIn | Mode::OptOut => Scope::Read,
            };
            let mail = Arc::clone(&call.client.mail);
            let reader = tracker.open(scope, no_loop, mail);
            if tracking.is_some() {
                call.client.mail.all();
            }
            *tracking = Some(Tracking::new(reader, mode, no_loop, redirect));
        }
    }
    if let Some(tracking) = &call.session.tracking {
        if call.session.level == ReadLevel::Replica {
            tracking.reads_replicas();
        }
        call.client.about.lock().tracking = Some(tracking.about());
    }
    Ok(())
}

/// The prefixes of a client that are to be told, all of which its user may read.
fn more(
    call: &Call<'_>,
    old: Option<&Prefixes>,
    mut prefixes: Vec<Bytes>,
) -> Result<Prefixes, Refusal> {
    if prefixes.is_empty() {
        if let Some(old) = old {
            return Ok(old.clone());
        }
        prefixes.push(Bytes::new());
    }
    let count = prefixes.len() + old.map_or(0, |old| old.as_slice().len());
    if count > PREFIXES_MAX || prefixes.iter().any(|p| p.len() > PREFIX_BYTES_MAX) {
        let text = format!(
            "ERR a client has at most {PREFIXES_MAX} prefixes of at most {PREFIX_BYTES_MAX} bytes"
        );
        return Err(text.into());
    }
    let permissions = call.session.caller.permissions();
    let may = |prefix: &Bytes| permissions.is_some_and(|one| one.may_touch(prefix));
    if !prefixes.iter().all(may) {
        Users::note_forbidden(LISTENER);
        return Err(words::NO_KEY_PERMISSION.into());
    }
    let none = Prefixes::default();
    old.unwrap_or(&none).with(&prefixes).map_err(|collision| {
        let Collision {
            prefix,
            other,
            is_old,
        } = collision;
        let mut text = b"ERR Prefix '".to_vec();
        text.extend_from_slice(&prefix);
        text.extend_from_slice(if is_old {
            b"' overlaps with an existing prefix '".as_slice()
        } else {
            b"' overlaps with another provided prefix '".as_slice()
        });
        text.extend_from_slice(&other);
        text.extend_from_slice(b"'. Prefixes for a single client must not overlap.");
        text.into()
    })
}

pub(super) fn client_caching(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let Some(tracking) = &mut call.session.tracking else {
        return Err(NOT_TRACKING.into());
    };
    if call.args.is(2, "YES") {
        if tracking.mode != Mode::OptIn {
            let text =
                b"ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.";
            return Err(text.as_slice().into());
        }
    } else if call.args.is(2, "NO") {
        if tracking.mode != Mode::OptOut {
            let text =
                b"ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.";
            return Err(text.as_slice().into());
        }
    } else {
        return Err(words::SYNTAX.into());
    }
    tracking.said = true;
    call.ok()
}

/// -1: it is told nothing. 0: on this connection.
fn redirection(call: &Call<'_>) -> i64 {
    call.session.tracking.as_ref().map_or(-1, |tracking| {
        let id = tracking.redirect.unwrap_or(0);
        i64::try_from(id).unwrap_or(i64::MAX)
    })
}

pub(super) fn client_getredir(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let redirection = redirection(call);
    call.integer(redirection)
}

pub(super) fn client_trackinginfo(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let redirection = redirection(call);
    let (mut flags, mut prefixes) = (vec!["off"], Vec::new());
    if let Some(tracking) = &call.session.tracking {
        flags = vec!["on"];
        match &tracking.mode {
            Mode::Read => {}
            Mode::OptIn => flags.push("optin"),
            Mode::OptOut => flags.push("optout"),
            Mode::Broadcast(all) => {
                flags.push("bcast");
                prefixes = all.as_slice().to_vec();
            }
        }
        match (tracking.says, &tracking.mode) {
            (true, Mode::OptIn) => flags.push("caching-yes"),
            (true, Mode::OptOut) => flags.push("caching-no"),
            _ => {}
        }
        if tracking.no_loop {
            flags.push("noloop");
        }
        if tracking.is_broken {
            flags.push("broken_redirect");
        }
    }
    let mut reply = call.reply();
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    for flag in flags {
        reply.bulk(flag.as_bytes());
    }
    reply.bulk(b"redirect");
    reply.integer(redirection);
    reply.bulk(b"prefixes");
    reply.array(prefixes.len());
    for prefix in prefixes {
        reply.bulk(&prefix);
    }
    Ok(Action::Replied)
}

pub(super) fn subscribe(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    if args.from(1).iter().any(|channel| channel != CHANNEL) {
        let text = b"ERR there are no channels but __redis__:invalidate, which tells of keys";
        return Err(text.as_slice().into());
    }
    call.session.subscribed = true;
    for _ in 1..args.len() {
        listening(call, "subscribe", Some(CHANNEL));
    }
    Ok(Action::Replied)
}

pub(super) fn unsubscribe(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    if args.len() == 1 {
        let channel = call.session.subscribed.then_some(CHANNEL);
        call.session.subscribed = false;
        listening(call, "unsubscribe", channel);
        return Ok(Action::Replied);
    }
    for channel in args.from(1).iter() {
        if channel == CHANNEL {
            call.session.subscribed = false;
        }
        listening(call, "unsubscribe", Some(channel));
    }
    Ok(Action::Replied)
}

/// Tells to how many channels it listens now.
fn listening(call: &mut Call<'_>, word: &str, channel: Option<&[u8]>) {
    let count = i64::from(call.session.subscribed);
    let mut reply = call.reply();
    reply.push(3);
    reply.bulk(word.as_bytes());
    match channel {
        Some(channel) => reply.bulk(channel),
        None => reply.null(),
    }
    reply.integer(count);
}

/// `PING` of a RESP2 client that listens.
pub(super) fn ping_while_subscribed(call: &mut Call<'_>) -> Option<Result<Action, Refusal>> {
    let session = &call.session;
    if !session.subscribed || session.protocol != Protocol::Two || call.args.len() > 2 {
        return None;
    }
    let message = call.args.get(1);
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk(b"pong");
    reply.bulk(message);
    Some(Ok(Action::Replied))
}
