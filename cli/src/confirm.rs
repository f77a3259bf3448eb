//! What is done only once a person has said yes.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;

use crate::failure::Failure;

/// Asks on the terminal. Anything but a yes is a no.
///
/// # Errors
/// Where there is no terminal to ask on: then the flag `--yes` is the way.
pub(crate) fn ask(what: &str, question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what} needs a confirmation, and this is no terminal"
        ))
        .with_remedy("Give --yes"));
    }
    print!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdout()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer).map(|_| ()))
        .context("ask for a confirmation")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Goes on only where `yes` was given or a person says so.
///
/// # Errors
/// They say no, and are told what was left `undone`; or there is no terminal to ask on.
pub(crate) fn require(yes: bool, what: &str, question: &str, undone: &str) -> Result<(), Failure> {
    if yes || ask(what, question)? {
        return Ok(());
    }
    Err(Failure::refused(undone))
}
