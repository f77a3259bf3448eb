//! `ACL`: who the client is. Users come from a file that no client changes.

use super::super::call::{Action, Call, Refusal};
use super::introspect::help_lines;

/// `ACL` alone is refused by its arity.
pub(super) fn acl(_: &mut Call<'_>) -> Result<Action, Refusal> {
    Err("ERR wrong number of arguments for 'acl' command"
        .to_owned()
        .into())
}

pub(super) fn whoami(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let name = call.session.caller.name().to_owned();
    call.reply().bulk(name.as_bytes());
    Ok(Action::Replied)
}

pub(super) fn help(call: &mut Call<'_>) -> Result<Action, Refusal> {
    help_lines(
        call,
        "ACL",
        &[("WHOAMI", "Return the current connection username.")],
    )
}
