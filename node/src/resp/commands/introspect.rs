//! `COMMAND`: what the table says of itself.

use super::super::call::{Action, Args, Call, Refusal};
use super::super::encode::Encoder;
use super::super::glob;
use super::super::words;
use super::connection::simple_lines;
use super::{COMMANDS, Command, find, table};

/// What a command is about, as `COMMAND DOCS` groups them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    String,
    Generic,
    Connection,
    Server,
    Cluster,
    Pubsub,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Pubsub => "pubsub",
        }
    }

    fn category(self) -> Option<&'static str> {
        match self {
            Self::String => Some("@string"),
            Self::Generic => Some("@keyspace"),
            Self::Connection => Some("@connection"),
            Self::Pubsub => Some("@pubsub"),
            Self::Server | Self::Cluster => None,
        }
    }
}

/// `COMMAND` alone: every command.
pub(super) fn command(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let mut reply = call.reply();
    reply.array(COMMANDS.len());
    for command in COMMANDS {
        describe(&mut reply, command);
    }
    Ok(Action::Replied)
}

pub(super) fn count(call: &mut Call<'_>) -> Result<Action, Refusal> {
    call.integer(i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX))
}

/// The most commands that are asked for at once by name: a short name may be answered by
/// pages, and a client never needs one twice.
const NAMES_MAX: usize = 512;

fn bounded(names: usize) -> Result<(), Refusal> {
    if names > NAMES_MAX {
        return Err(format!("ERR more than {NAMES_MAX} commands are named").into());
    }
    Ok(())
}

pub(super) fn info(call: &mut Call<'_>) -> Result<Action, Refusal> {
    if call.args.len() == 2 {
        return command(call);
    }
    bounded(call.args.len() - 2)?;
    let names = call.args.from(2);
    let mut reply = call.reply();
    reply.array(names.len());
    for name in names.iter() {
        match by_full_name(name) {
            Some(command) => describe(&mut reply, command),
            None => reply.null(),
        }
    }
    Ok(Action::Replied)
}

/// A command, or a subcommand as `container|name`.
fn by_full_name(name: &[u8]) -> Option<&'static Command> {
    match name.iter().position(|&b| b == b'|') {
        None => find(name),
        Some(bar) => {
            let container = find(&name[..bar])?;
            table::find_in(container.subcommands, container.name, &name[bar + 1..])
        }
    }
}

fn describe(reply: &mut Encoder<'_>, command: &Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity);
    simple_set(reply, command.flags);
    let keys = command.keys;
    reply.integer(keys.first as i64);
    reply.integer(keys.last);
    reply.integer(keys.step as i64);
    simple_set(reply, &categories(command));
    // Tips.
    reply.set(0);
    if keys.first == 0 {
        reply.set(0);
    } else {
        reply.set(1);
        describe_keys(reply, command);
    }
    reply.set(command.subcommands.len());
    for subcommand in command.subcommands {
        describe(reply, subcommand);
    }
}

fn describe_keys(reply: &mut Encoder<'_>, command: &Command) {
    let flags: &[&str] = if command.flags.contains(&"readonly") {
        &["RO", "access"]
    } else if command.keys.last < 0 {
        &["RM", "delete"]
    } else {
        &["RW", "access", "update"]
    };
    reply.map(3);
    reply.bulk(b"flags");
    simple_set(reply, flags);
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    reply.bulk(b"index");
    reply.integer(command.keys.first as i64);
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"range");
    reply.bulk(b"spec");
    reply.map(3);
    reply.bulk(b"lastkey");
    // Counted from the first key on, or from the end.
    reply.integer(if command.keys.last < 0 { -1 } else { 0 });
    reply.bulk(b"keystep");
    reply.integer(command.keys.step as i64);
    reply.bulk(b"limit");
    reply.integer(0);
}

fn simple_set(reply: &mut Encoder<'_>, words: &[&str]) {
    reply.set(words.len());
    for word in words {
        reply.simple(word);
    }
}

fn categories(command: &Command) -> Vec<&'static str> {
    let has = |flag: &str| command.flags.contains(&flag);
    let mut all = Vec::new();
    if has("readonly") && command.keys.first > 0 {
        all.push("@read");
    }
    if has("write") {
        all.push("@write");
    }
    all.extend(command.group.category());
    if has("admin") {
        all.extend(["@admin", "@dangerous"]);
    }
    all.push(if has("fast") { "@fast" } else { "@slow" });
    all
}

pub(super) fn docs(call: &mut Call<'_>) -> Result<Action, Refusal> {
    bounded(call.args.len() - 2)?;
    let wanted: Vec<&'static Command> = if call.args.len() == 2 {
        COMMANDS.iter().collect()
    } else {
        call.args.from(2).iter().filter_map(by_full_name).collect()
    };
    let mut reply = call.reply();
    reply.map(wanted.len());
    for command in wanted {
        reply.bulk(command.name.as_bytes());
        document(&mut reply, command);
    }
    Ok(Action::Replied)
}

fn document(reply: &mut Encoder<'_>, command: &Command) {
    let nested = !command.subcommands.is_empty();
    reply.map(3 + usize::from(nested));
    reply.bulk(b"summary");
    reply.bulk(command.summary.as_bytes());
    reply.bulk(b"since");
    reply.bulk(command.since.as_bytes());
    reply.bulk(b"group");
    reply.bulk(command.group.name().as_bytes());
    if nested {
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        for subcommand in command.subcommands {
            reply.bulk(subcommand.name.as_bytes());
            document(reply, subcommand);
        }
    }
}

pub(super) fn getkeys(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let target: Args<'_> = call.args.from(2);
    let refuse = |text: &str| -> Result<Action, Refusal> { Err(text.to_owned().into()) };
    let Some(command) = find(target.get(0)) else {
        return refuse("ERR Invalid command specified");
    };
    if command.keys.first == 0 {
        return refuse("ERR The command has no key arguments");
    }
    if !command.takes(target.len()) {
        return refuse("ERR Invalid number of arguments specified for command");
    }
    let places: Vec<usize> = command.key_places(target.len()).collect();
    let mut reply = call.reply();
    reply.array(places.len());
    for place in places {
        reply.bulk(target.get(place));
    }
    Ok(Action::Replied)
}

/// `COMMAND LIST [FILTERBY PATTERN glob | ACLCAT category | MODULE name]`.
pub(super) fn list(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let keep: Box<dyn Fn(&Command) -> bool + '_> = match args.len() {
        2 => Box::new(|_| true),
        5 if args.is(2, "FILTERBY") && args.is(3, "PATTERN") => {
            if args.get(4).len() > glob::PATTERN_BYTES_MAX {
                return Err(words::LONG_PATTERN.into());
            }
            Box::new(move |c| glob::matches(args.get(4), c.name.as_bytes()))
        }
        5 if args.is(2, "FILTERBY") && args.is(3, "ACLCAT") => Box::new(move |c| {
            categories(c)
                .iter()
                .any(|name| name.as_bytes()[1..].eq_ignore_ascii_case(args.get(4)))
        }),
        5 if args.is(2, "FILTERBY") && args.is(3, "MODULE") => Box::new(|_| false),
        _ => return Err(words::SYNTAX.into()),
    };
    let kept: Vec<&Command> = COMMANDS.iter().filter(|c| keep(c)).collect();
    drop(keep);
    let mut reply = call.reply();
    reply.array(kept.len());
    for command in kept {
        reply.bulk(command.name.as_bytes());
    }
    Ok(Action::Replied)
}

pub(super) fn help(call: &mut Call<'_>) -> Result<Action, Refusal> {
    help_lines(
        call,
        "COMMAND",
        &[
            ("(no subcommand)", "Return details about all commands."),
            ("COUNT", "Return the total number of commands."),
            (
                "DOCS [<command-name> ...]",
                "Return documentation details about commands.",
            ),
            (
                "GETKEYS <full-command>",
                "Return the keys from a full command.",
            ),
            (
                "INFO [<command-name> ...]",
                "Return details about commands.",
            ),
            (
                "LIST [FILTERBY (PATTERN|ACLCAT|MODULE) <value>]",
                "Return a list of command names.",
            ),
        ],
    )
}

/// The reply to `<container> HELP`.
pub(super) fn help_lines(
    call: &mut Call<'_>,
    container: &str,
    entries: &[(&str, &str)],
) -> Result<Action, Refusal> {
    let mut lines = vec![format!(
        "{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    )];
    for (usage, meaning) in entries.iter().chain(&[("HELP", "Prints this help.")]) {
        lines.push((*usage).to_owned());
        lines.push(format!("    {meaning}"));
    }
    simple_lines(&mut call.reply(), &lines);
    Ok(Action::Replied)
}
