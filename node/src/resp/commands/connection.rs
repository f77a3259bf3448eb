//! Commands about the connection itself.

use super::super::backend::ReadLevel;
use super::super::call::{Action, Call, Hello, LogIn, Refusal, Replies, Session};
use super::super::encode::{Encoder, Protocol, parse_integer};
use super::super::server::LISTENER;
use super::super::shared::{Client, Fate};
use super::super::words;
use super::introspect::help_lines;
use crate::users::{Caller, Checking, Denied, Origin};

/// The Redis whose behaviour clients may expect; they choose features by it.
pub(super) const REDIS_VERSION: &str = "7.4.0";

/// The most bytes that a client may say of itself in one field.
const ABOUT_BYTES: usize = 1024;

const NO_PASSWORD: &[u8] = b"ERR AUTH <password> called without any password configured for \
the default user. Are you sure your configuration is correct?";
/// The user that Redis means where none is named.
const DEFAULT_USER: &[u8] = b"default";

pub(super) fn ping(call: &mut Call<'_>) -> Result<Action, Refusal> {
    if let Some(replied) = super::tracking::ping_while_subscribed(call) {
        return replied;
    }
    match call.args.len() {
        1 => call.reply().simple("PONG"),
        2 => {
            let message = call.args.get(1);
            call.reply().bulk(message);
        }
        _ => {
            return Err("ERR wrong number of arguments for 'ping' command"
                .to_owned()
                .into());
        }
    }
    Ok(Action::Replied)
}

pub(super) fn echo(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let message = call.args.get(1);
    call.reply().bulk(message);
    Ok(Action::Replied)
}

pub(super) fn hello(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let protocol = match args.len() {
        1 => call.session.protocol,
        _ => match parse_integer(args.get(1)) {
            None => {
                return Err("ERR Protocol version is not an integer or out of range"
                    .to_owned()
                    .into());
            }
            Some(2) => Protocol::Two,
            Some(3) => Protocol::Three,
            Some(_) => return Err("NOPROTO unsupported protocol version".to_owned().into()),
        },
    };
    let mut name = None;
    let mut credential = None;
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "AUTH") && at + 2 < args.len() {
            credential = Some((args.get(at + 1), args.get(at + 2)));
            at += 3;
        } else if args.is(at, "SETNAME") && at + 1 < args.len() {
            name = Some(word(args.get(at + 1)).ok_or_else(bad_name)?);
            at += 2;
        } else {
            let mut text = b"ERR Syntax error in HELLO option '".to_vec();
            text.extend_from_slice(args.get(at));
            text.push(b'\'');
            return Err(text.into());
        }
    }
    let hello = Hello { protocol, name };
    match credential {
        Some((user, secret)) => Ok(log_in(call, Some(user), secret, Some(hello))),
        None if !call.session.caller.is_let_in() => Err(words::NO_AUTH_HELLO.into()),
        None => {
            greet(call, hello);
            Ok(Action::Replied)
        }
    }
}

/// Does what `HELLO` asks for, and replies to it.
fn greet(call: &mut Call<'_>, Hello { protocol, name }: Hello) {
    call.session.protocol = protocol;
    {
        let mut about = call.client.about.lock();
        about.resp = protocol.number();
        if let Some(name) = name {
            about.name = name;
        }
    }
    let id = i64::try_from(call.client.id).unwrap_or(i64::MAX);
    let mut reply = call.reply();
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(protocol.number());
    reply.bulk(b"id");
    reply.integer(id);
    reply.bulk(b"mode");
    reply.bulk(b"cluster");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

pub(super) fn auth(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    match args.len() {
        2 if !call.shared.config.users.are_set_up() => Err(NO_PASSWORD.into()),
        2 => Ok(log_in(call, None, args.get(1), None)),
        3 => Ok(log_in(call, Some(args.get(1)), args.get(2), None)),
        _ => Err(words::SYNTAX.into()),
    }
}

fn log_in(call: &mut Call<'_>, user: Option<&[u8]>, secret: &[u8], hello: Option<Hello>) -> Action {
    let users = &call.shared.config.users;
    let checking = if users.are_set_up() {
        let origin = Origin {
            listener: LISTENER,
            address: call.client.ends.remote.ip(),
        };
        match user {
            Some(user) => users.check(user, secret, origin),
            None => users.check_nameless(DEFAULT_USER, secret, origin),
        }
    } else if user.is_none_or(|user| user == DEFAULT_USER) {
        // It has no password, so that whatever it gives is right.
        Checking::Done(Ok(users.stranger()))
    } else {
        Checking::Done(Err(Denied::Wrong))
    };
    Action::LogIn(LogIn { checking, hello })
}

/// A credential was checked: the rest of `AUTH` and `HELLO`.
pub(crate) fn logged_in(
    call: &mut Call<'_>,
    result: Result<Caller, Denied>,
    hello: Option<Hello>,
) -> Result<Action, Refusal> {
    // A wrong credential leaves the client who it was, as in Redis.
    let caller = result.map_err(|_| Refusal::from(words::WRONG_PASSWORD))?;
    call.client.about.lock().user = caller.name().to_owned();
    call.session.caller = caller;
    match hello {
        Some(hello) => {
            greet(call, hello);
            Ok(Action::Replied)
        }
        None => call.ok(),
    }
}

pub(super) fn select(call: &mut Call<'_>) -> Result<Action, Refusal> {
    // The number of a database has 32 bits in Redis.
    let number =
        i32::try_from(call.args.integer(1)?).map_err(|_| Refusal::from(words::NOT_AN_INTEGER))?;
    if number != 0 {
        return Err("ERR SELECT is not allowed in cluster mode"
            .to_owned()
            .into());
    }
    call.ok()
}

pub(super) fn readonly(call: &mut Call<'_>) -> Result<Action, Refusal> {
    read_level(call, ReadLevel::Replica)
}

pub(super) fn readwrite(call: &mut Call<'_>) -> Result<Action, Refusal> {
    read_level(call, ReadLevel::Primary)
}

fn read_level(call: &mut Call<'_>, level: ReadLevel) -> Result<Action, Refusal> {
    call.session.level = level;
    if level == ReadLevel::Replica
        && let Some(tracking) = &call.session.tracking
    {
        tracking.reads_replicas();
    }
    call.client.about.lock().read_only = level == ReadLevel::Replica;
    call.ok()
}

pub(super) fn quit(call: &mut Call<'_>) -> Result<Action, Refusal> {
    call.reply().ok();
    Ok(Action::Quit)
}

pub(super) fn reset(call: &mut Call<'_>) -> Result<Action, Refusal> {
    *call.session = Session::new(call.shared.config.users.stranger());
    {
        let mut about = call.client.about.lock();
        about.user = call.session.caller.name().to_owned();
        about.name.clear();
        about.resp = 2;
        about.read_only = false;
        about.tracking = None;
    }
    call.reply().simple("RESET");
    Ok(Action::Replied)
}

/// `CLIENT` alone is refused by its arity.
pub(super) fn client(_: &mut Call<'_>) -> Result<Action, Refusal> {
    Err("ERR wrong number of arguments for 'client' command"
        .to_owned()
        .into())
}

pub(super) fn client_getname(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let name = call.client.about.lock().name.clone();
    if name.is_empty() {
        call.reply().null();
    } else {
        call.reply().bulk(name.as_bytes());
    }
    Ok(Action::Replied)
}

pub(super) fn client_setname(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let name = word(call.args.get(2)).ok_or_else(bad_name)?;
    call.client.about.lock().name = name;
    call.ok()
}

fn bad_name() -> Refusal {
    "ERR Client names cannot contain spaces, newlines or special characters."
        .to_owned()
        .into()
}

/// Text that may stand in a line of `CLIENT LIST`: printable, without spaces.
fn word(bytes: &[u8]) -> Option<String> {
    if bytes.len() > ABOUT_BYTES || !bytes.iter().all(|b| (b'!'..=b'~').contains(b)) {
        return None;
    }
    String::from_utf8(bytes.to_vec()).ok()
}

pub(super) fn client_setinfo(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let value = word(args.get(3));
    let refuse = |field: &str| -> Refusal {
        format!("ERR {field} cannot contain spaces, newlines or special characters.").into()
    };
    if args.is(2, "lib-name") {
        let value = value.ok_or_else(|| refuse("lib-name"))?;
        call.client.about.lock().library = value;
    } else if args.is(2, "lib-ver") {
        let value = value.ok_or_else(|| refuse("lib-ver"))?;
        call.client.about.lock().library_version = value;
    } else {
        let mut text = b"ERR Unrecognized option '".to_vec();
        text.extend_from_slice(args.get(2));
        text.push(b'\'');
        return Err(text.into());
    }
    call.ok()
}

pub(super) fn client_id(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let id = i64::try_from(call.client.id).unwrap_or(i64::MAX);
    call.integer(id)
}

pub(super) fn client_info(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let mut text = String::new();
    describe(call.client, call.shared.clients.tick(), &mut text);
    call.reply().text(&text);
    Ok(Action::Replied)
}

pub(super) fn client_list(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let mut wanted = None;
    if args.len() == 4 && args.is(2, "TYPE") {
        if !["normal", "master", "replica", "slave", "pubsub"]
            .iter()
            .any(|kind| args.is(3, kind))
        {
            let mut text = b"ERR Unknown client type '".to_vec();
            text.extend_from_slice(args.get(3));
            text.push(b'\'');
            return Err(text.into());
        }
        if !args.is(3, "normal") {
            call.reply().text("");
            return Ok(Action::Replied);
        }
    } else if args.len() > 3 && args.is(2, "ID") {
        let mut ids = Vec::new();
        for id in args.from(3).iter() {
            let id = parse_integer(id)
                .and_then(|id| u64::try_from(id).ok())
                .ok_or_else(|| Refusal::from("ERR Invalid client ID".to_owned()))?;
            ids.push(id);
        }
        wanted = Some(ids);
    } else if args.len() != 2 {
        return Err(words::SYNTAX.into());
    }
    let tick = call.shared.clients.tick();
    let mut text = String::new();
    for client in call.shared.clients.list() {
        if wanted.as_ref().is_none_or(|ids| ids.contains(&client.id)) {
            describe(&client, tick, &mut text);
        }
    }
    call.reply().text(&text);
    Ok(Action::Replied)
}

/// One line of `CLIENT LIST`.
fn describe(client: &Client, tick: u32, text: &mut String) {
    let about = client.about.lock().clone();
    let tracking = about.tracking.unwrap_or_default();
    let mut flags = String::new();
    for (is_so, flag) in [
        (about.read_only, 'r'),
        (about.tracking.is_some(), 't'),
        (tracking.is_broken, 'R'),
        (tracking.broadcast, 'B'),
    ] {
        flags.extend(is_so.then_some(flag));
    }
    if flags.is_empty() {
        flags.push('N');
    }
    let redirect = match (about.tracking, tracking.redirect) {
        (None, _) => -1,
        (Some(_), None) => 0,
        (Some(_), Some(id)) => i64::try_from(id).unwrap_or(i64::MAX),
    };
    text.push_str(&format!(
        "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 \
multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r \
cmd={} user={} redir={redirect} resp={} lib-name={} lib-ver={}\n",
        client.id,
        client.ends.remote,
        client.ends.local,
        about.name,
        client.since.elapsed().as_secs(),
        client.idle_ticks(tick),
        about.command,
        about.user,
        about.resp,
        about.library,
        about.library_version,
    ));
}

/// `CLIENT KILL addr`, or `CLIENT KILL` with `ID`, `ADDR`, `LADDR`, `SKIPME`.
pub(super) fn client_kill(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let clients = call.shared.clients.list();
    if args.len() == 3 {
        let killed = clients
            .iter()
            .filter(|client| client.ends.remote.to_string().as_bytes() == args.get(2))
            .filter(|client| client.doom(Fate::Killed))
            .count();
        return if killed > 0 {
            call.ok()
        } else {
            Err("ERR No such client".to_owned().into())
        };
    }
    if !args.len().is_multiple_of(2) {
        return Err(words::SYNTAX.into());
    }
    let mut skip_me = true;
    let mut id = None;
    let mut remote = None;
    let mut local = None;
    for at in (2..args.len()).step_by(2) {
        if args.is(at, "ID") {
            let number = parse_integer(args.get(at + 1))
                .filter(|id| *id > 0)
                .ok_or_else(|| {
                    Refusal::from("ERR client-id should be greater than 0".to_owned())
                })?;
            id = Some(number.unsigned_abs());
        } else if args.is(at, "ADDR") {
            remote = Some(args.get(at + 1));
        } else if args.is(at, "LADDR") {
            local = Some(args.get(at + 1));
        } else if args.is(at, "SKIPME") {
            skip_me = match (args.is(at + 1, "yes"), args.is(at + 1, "no")) {
                (true, _) => true,
                (_, true) => false,
                _ => return Err(words::SYNTAX.into()),
            };
        } else {
            return Err(words::SYNTAX.into());
        }
    }
    let killed = clients
        .iter()
        .filter(|client| !skip_me || client.id != call.client.id)
        .filter(|client| id.is_none_or(|id| id == client.id))
        .filter(|client| remote.is_none_or(|a| client.ends.remote.to_string().as_bytes() == a))
        .filter(|client| local.is_none_or(|a| client.ends.local.to_string().as_bytes() == a))
        .filter(|client| client.doom(Fate::Killed))
        .count();
    call.integer(i64::try_from(killed).unwrap_or(i64::MAX))
}

pub(super) fn client_reply(call: &mut Call<'_>) -> Result<Action, Refusal> {
    if call.args.is(2, "ON") {
        call.session.replies = Replies::On;
        return call.ok();
    }
    if call.args.is(2, "OFF") {
        call.session.replies = Replies::Off;
    } else if call.args.is(2, "SKIP") {
        if call.session.replies == Replies::On {
            call.session.replies = Replies::SkipNext;
        }
    } else {
        return Err(words::SYNTAX.into());
    }
    Ok(Action::Silent)
}

/// Nothing is evicted, so that there is nothing to switch.
pub(super) fn client_no_evict(call: &mut Call<'_>) -> Result<Action, Refusal> {
    if call.args.is(2, "on") || call.args.is(2, "off") {
        call.session.no_evict = call.args.is(2, "on");
        call.ok()
    } else {
        Err(words::SYNTAX.into())
    }
}

pub(super) fn client_help(call: &mut Call<'_>) -> Result<Action, Refusal> {
    help_lines(
        call,
        "CLIENT",
        &[
            (
                "CACHING (YES|NO)",
                "Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
            ),
            (
                "GETREDIR",
                "Return the client ID we are redirecting to when tracking is enabled.",
            ),
            ("GETNAME", "Return the name of the current connection."),
            ("ID", "Return the ID of the current connection."),
            (
                "INFO",
                "Return information about the current client connection.",
            ),
            ("KILL <ip:port>", "Kill connection made from <ip:port>."),
            (
                "KILL <option> <value> [<option> <value> [...]]",
                "Kill connections by ID, ADDR, LADDR; SKIPME (YES|NO).",
            ),
            (
                "LIST [TYPE <type>|ID <id> [...]]",
                "Return information about client connections.",
            ),
            ("NO-EVICT (ON|OFF)", "Accepted: nothing is evicted."),
            (
                "REPLY (ON|OFF|SKIP)",
                "Control the replies sent to the current connection.",
            ),
            (
                "SETINFO (LIB-NAME|LIB-VER) <value>",
                "Name the client's library.",
            ),
            (
                "SETNAME <name>",
                "Assign the name <name> to the current connection.",
            ),
            (
                "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]] [OPTIN] [OPTOUT] [NOLOOP]",
                "Control server assisted client side caching.",
            ),
            (
                "TRACKINGINFO",
                "Report tracking status for the current connection.",
            ),
        ],
    )
}

/// Appends `lines` as simple strings.
pub(super) fn simple_lines(reply: &mut Encoder<'_>, lines: &[String]) {
    reply.array(lines.len());
    for line in lines {
        reply.simple(line);
    }
}
