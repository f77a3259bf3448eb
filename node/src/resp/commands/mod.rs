//! The commands: one table, and what stands before each handler.

mod acl;
mod cluster;
mod connection;
mod expiry;
mod introspect;
mod keys;
mod server;
mod strings;
mod table;
mod tracking;

use super::call::{Action, Args, Call, Refusal};
use super::words;
use crate::users::{Caller, Role, Users};
use cairn_core::counters::name::is_reserved;

pub(crate) use connection::logged_in;
pub(crate) use expiry::wall_millis;
pub(crate) use introspect::Group;
pub(crate) use table::{COMMANDS, find};

/// A handler.
pub(crate) type Handler = fn(&mut Call<'_>) -> Result<Action, Refusal>;

/// Where the keys stand among the arguments, as `COMMAND` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keys {
    /// The first; 0: there is none.
    pub(crate) first: usize,
    /// The last; -1: the last argument.
    pub(crate) last: i64,
    /// From one to the next.
    pub(crate) step: usize,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Command {
    /// In lower case; a subcommand's is `container|name`.
    pub(crate) name: &'static str,
    /// The number of arguments, the name included; negative: at least so many.
    pub(crate) arity: i64,
    /// What `COMMAND` says of it.
    pub(crate) flags: &'static [&'static str],
    pub(crate) keys: Keys,
    pub(crate) group: Group,
    pub(crate) since: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) handler: Handler,
    pub(crate) subcommands: &'static [Command],
}

/// The flags that decide something here; the others are for clients.
pub(crate) mod flag {
    /// It changes keys.
    pub(crate) const WRITE: &str = "write";
    /// It is for those who run the cluster.
    pub(crate) const ADMIN: &str = "admin";
    /// It is for those who have not logged in yet too.
    pub(crate) const NO_AUTH: &str = "no_auth";
}

impl Command {
    /// Whether it has a flag.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// Whether it takes so many arguments.
    pub(crate) fn takes(&self, arguments: usize) -> bool {
        let arguments = i64::try_from(arguments).unwrap_or(i64::MAX);
        if self.arity < 0 {
            arguments >= -self.arity
        } else {
            arguments == self.arity
        }
    }

    /// The places of its keys among so many arguments.
    pub(crate) fn key_places(&self, arguments: usize) -> impl Iterator<Item = usize> + use<> {
        let Keys { first, last, step } = self.keys;
        let last = usize::try_from(last)
            .unwrap_or(usize::MAX)
            .min(arguments.saturating_sub(1));
        let end = if first == 0 { 0 } else { last + 1 };
        (first..end).step_by(step.max(1))
    }
}

/// Finds a command and checks what can be checked before it runs, in the order in which
/// Redis does. Returns it and the slot of its keys.
pub(crate) fn admit(
    args: Args<'_>,
    key_bytes_max: usize,
    caller: &Caller,
) -> Result<(&'static Command, u16), Refusal> {
    let command = find(args.get(0)).ok_or_else(|| unknown(args))?;
    let command = match command.subcommands {
        // `COMMAND` alone is a command; the other containers are not, which their
        // arity says.
        subcommands if !subcommands.is_empty() && args.len() > 1 => {
            table::find_in(subcommands, command.name, args.get(1))
                .ok_or_else(|| unknown_subcommand(command, args))?
        }
        _ => command,
    };
    if !command.takes(args.len()) {
        return Err(arity(command.name));
    }
    permit(command, args, caller)?;
    let mut slot = None;
    for place in command.key_places(args.len()) {
        let key = args.get(place);
        if key.len() > key_bytes_max {
            return Err(format!("ERR a key may have at most {key_bytes_max} bytes").into());
        }
        if is_reserved(key) {
            return Err(b"ERR keys that begin with \\xffcairn\\xff are Cairn's own"
                .as_slice()
                .into());
        }
        let this = cairn_core::slots::slot(key);
        if slot.is_some_and(|slot| slot != this) {
            return Err(words::CROSS_SLOT.into());
        }
        slot = Some(this);
    }
    Ok((command, slot.unwrap_or(0)))
}

/// Whether the caller may run the command on its keys.
fn permit(command: &Command, args: Args<'_>, caller: &Caller) -> Result<(), Refusal> {
    let Some(permissions) = caller.permissions() else {
        return if command.has(flag::NO_AUTH) {
            Ok(())
        } else {
            Err(words::NO_AUTH.into())
        };
    };
    let role = if command.has(flag::ADMIN) {
        Role::Admin
    } else if command.has(flag::WRITE) {
        Role::Writer
    } else {
        Role::Reader
    };
    if !permissions.has(role) {
        Users::note_forbidden(super::server::LISTENER);
        return Err(format!(
            "NOPERM this user has no permissions to run the '{}' command",
            command.name
        )
        .into());
    }
    let mut keys = command.key_places(args.len());
    if keys.any(|place| !permissions.may_touch(args.get(place))) {
        Users::note_forbidden(super::server::LISTENER);
        return Err(words::NO_KEY_PERMISSION.into());
    }
    Ok(())
}

/// Redis shows at most so many bytes of what it did not understand.
const SHOWN: usize = 128;

fn unknown(args: Args<'_>) -> Refusal {
    let name = args.get(0);
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(&name[..name.len().min(SHOWN)]);
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for argument in args.from(1).iter() {
        let shown = text.len() - start;
        if shown >= SHOWN {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(&argument[..argument.len().min(SHOWN - shown)]);
        text.extend_from_slice(b"' ");
    }
    text.into()
}

fn unknown_subcommand(command: &Command, args: Args<'_>) -> Refusal {
    let name = args.get(1);
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(&name[..name.len().min(SHOWN)]);
    text.extend_from_slice(b"'. Try ");
    text.extend_from_slice(command.name.to_ascii_uppercase().as_bytes());
    text.extend_from_slice(b" HELP.");
    text.into()
}

/// The command was given too few arguments, or too many.
pub(crate) fn arity(command: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{command}' command").into()
}
