//! What is done only once a person has said yes.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;

use crate::failure::Failure;

/// Goes on only where `yes` was given or a person says so.
///
/// # Errors
/// They say no, and are told what was left `undone`; or there is no terminal to ask on, and
/// then the flag `--yes` is the way.
pub(crate) fn require(yes: bool, what: &str, question: &str, undone: &str) -> Result<(), Failure> {
    go_on(yes, "--yes", what, question, undone)
}

/// Goes on with what may lose acknowledged writes only where that was `accepted`, or a person
/// says so.
///
/// # Errors
/// As [`require`]; the flag is `--accept-loss`.
pub(crate) fn require_loss(accepted: bool, what: &str, question: &str) -> Result<(), Failure> {
    go_on(
        accepted,
        "--accept-loss",
        what,
        question,
        "nothing was changed",
    )
}

fn go_on(given: bool, flag: &str, what: &str, question: &str, undone: &str) -> Result<(), Failure> {
    if given || ask(flag, what, question)? {
        return Ok(());
    }
    Err(Failure::refused(undone))
}

/// Asks on the terminal. Anything but a yes is a no.
fn ask(flag: &str, what: &str, question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what} needs a confirmation, and this is no terminal"
        ))
        .with_remedy(format!("Give {flag}")));
    }
    print!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdout()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer).map(|_| ()))
        .context("ask for a confirmation")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
