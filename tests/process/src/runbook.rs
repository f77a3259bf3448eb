//! The commands of a page of the documentation, run as they stand there: what a person would
//! type is what was tried.
//!
//! | a block begins with | and |
//! | --- | --- |
//! | ```` ```sh ```` | has to succeed |
//! | ```` ```sh refused ```` | has to be refused |
//! | ```` ```sh soon ```` | has to succeed within some seconds: it is tried until it does |
//! | ```` ```sh background ```` | is left to run once it said `ready` |
//! | ```` ```sh after Ctrl-C ```` | has to succeed, once that was ended |
//! | ```` ```text ```` | each line of it has to be in what the block before printed |
//!
//! What stands in capitals (`$SURVIVOR`) is the reader's own.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::binary;

const FENCE: &str = "```";

/// What is to become of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It succeeds.
    Runs,
    /// It is refused.
    Refused,
    /// It succeeds at last.
    Soon,
    /// It goes on while the others run.
    Background,
    /// It succeeds once what goes on was ended.
    AfterInterrupt,
}

/// One block of commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// The commands.
    pub commands: String,
    /// What is to become of them.
    pub kind: Kind,
    /// Lines that have to be in what it prints.
    pub shown: Vec<String>,
}

/// The blocks of a page, or of one section, that were not run yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runbook {
    name: String,
    left: VecDeque<Block>,
}

/// What a fence begins.
enum Fence {
    Commands(Kind),
    Shown,
    Other,
}

impl Fence {
    fn of(line: &str) -> Self {
        match line.trim_start_matches('`') {
            "sh" => Self::Commands(Kind::Runs),
            "sh refused" => Self::Commands(Kind::Refused),
            "sh soon" => Self::Commands(Kind::Soon),
            "sh background" => Self::Commands(Kind::Background),
            "sh after Ctrl-C" => Self::Commands(Kind::AfterInterrupt),
            "text" => Self::Shown,
            _ => Self::Other,
        }
    }
}

impl Runbook {
    /// The section of that heading of a page in `docs/`.
    ///
    /// # Errors
    /// Where there is no such section, or nothing to run in it.
    pub fn section(page: &str, heading: &str) -> Result<Self> {
        Self::read(&text_of(page)?, Some(heading)).with_context(|| page.to_owned())
    }

    /// A whole page in `docs/`.
    ///
    /// # Errors
    /// Where there is no such page, or nothing to run in it.
    pub fn page(page: &str) -> Result<Self> {
        Self::read(&text_of(page)?, None).with_context(|| page.to_owned())
    }

    fn read(text: &str, heading: Option<&str>) -> Result<Self> {
        let mut inside = heading.is_none();
        let mut fence: Option<Fence> = None;
        let mut left: VecDeque<Block> = VecDeque::new();
        for line in text.lines() {
            // Blocks in a list are indented.
            let bare = line.trim_start();
            if bare.starts_with(FENCE) {
                fence = match fence {
                    Some(_) => None,
                    None => Some(Fence::of(bare)),
                };
                if let (true, Some(Fence::Commands(kind))) = (inside, &fence) {
                    left.push_back(Block {
                        commands: String::new(),
                        kind: *kind,
                        shown: Vec::new(),
                    });
                }
                continue;
            }
            match (&fence, left.back_mut()) {
                (None, _) => {
                    let title = line.strip_prefix("## ");
                    if let (Some(heading), Some(title)) = (heading, title) {
                        inside = title == heading;
                    }
                }
                (Some(Fence::Commands(_)), Some(block)) if inside => {
                    block.commands.push_str(bare);
                    block.commands.push('\n');
                }
                (Some(Fence::Shown), Some(block)) if inside => block.shown.push(bare.to_owned()),
                (Some(_), _) => {}
            }
        }
        let name = heading.unwrap_or("the page").to_owned();
        ensure!(!left.is_empty(), "nothing to run under \"{name}\"");
        Ok(Self { name, left })
    }

    /// Runs the next block with these variables, which has to end as the page says, and
    /// returns what it printed and said.
    ///
    /// # Errors
    /// Where it does not.
    pub fn run(&mut self, variables: &[(&str, &str)]) -> Result<String> {
        self.run_by(shell, variables)
    }

    fn run_by(
        &mut self,
        shell: impl Fn(&str) -> Result<Command>,
        variables: &[(&str, &str)],
    ) -> Result<String> {
        let block = self.left.pop_front();
        let block = block.with_context(|| format!("\"{}\" has no further commands", self.name))?;
        println!("\"{}\": {}", self.name, block.commands.trim_end());
        let succeeds = match block.kind {
            Kind::Runs => true,
            Kind::Refused => false,
            Kind::Soon | Kind::Background | Kind::AfterInterrupt => {
                bail!("{:?} by itself", block.kind)
            }
        };
        let mut command = shell(&block.commands)?;
        let Output {
            status,
            stdout,
            stderr,
        } = command.envs(variables.iter().copied()).output()?;
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        if status.success() != succeeds {
            bail!("{}ended with {status}: {said}", block.commands);
        }
        for line in &block.shown {
            ensure!(said.contains(line), "{line} is not shown: {said}");
        }
        Ok(said)
    }

    /// Whether everything was run.
    ///
    /// # Errors
    /// Where something is left.
    pub fn finish(self) -> Result<()> {
        ensure!(self.left.is_empty(), "not tried: {:#?}", self.left);
        Ok(())
    }

    /// All of it as one program for a shell, for pages whose blocks build on one another. It
    /// keeps what they print in files of the folder in which it runs.
    #[must_use]
    pub fn program(&self) -> String {
        let mut program = "set -m\n\
             trap '[ $? = 0 ] || { echo \"that failed, having printed:\"; cat out; }' EXIT\n"
            .to_owned();
        for Block {
            commands,
            kind,
            shown,
        } in &self.left
        {
            let said = format!("cat <<'END_OF_BLOCK'\n{commands}END_OF_BLOCK\n");
            program.push_str(&said);
            // What may fail without an end to the program, with its code beside it.
            let tried = format!("set +e; (\nset -e\n{commands}) >out 2>&1; code=$?; set -e");
            // Writing to a string cannot fail.
            let _ = match kind {
                Kind::Runs => writeln!(program, "{{\n{commands}}} >out 2>&1"),
                Kind::Refused => writeln!(program, "{tried}; [ $code != 0 ]"),
                Kind::Soon => writeln!(
                    program,
                    "for try in {{1..100}}; do\n{tried}\n\
                     [ $code != 0 ] || break; sleep 0.1\ndone; [ $code = 0 ]"
                ),
                Kind::Background => writeln!(
                    program,
                    "{{\n{commands}}} >background 2>&1 &\nbackground=$!\n\
                     until grep -qx ready background; do kill -0 $background; sleep 0.1; done\n\
                     cp background out"
                ),
                Kind::AfterInterrupt => writeln!(
                    program,
                    "kill -INT -- -$background\nwait $background || true\n{{\n{commands}}} >out 2>&1"
                ),
            };
            for line in shown {
                let quoted = line.replace('\'', r"'\''");
                let _ = writeln!(program, "grep -qF -- '{quoted}' out");
            }
        }
        program
    }
}

fn text_of(page: &str) -> Result<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::read_to_string(docs.join(page)).with_context(|| page.to_owned())
}

/// A shell that ends at the first failure, knows of no other variables and finds the binary
/// under test.
///
/// # Errors
/// Where there is no binary.
pub fn shell(commands: &str) -> Result<Command> {
    let binary = binary::cairn()?;
    ensure!(
        binary.ends_with("cairn"),
        "{} is not called cairn",
        binary.display()
    );
    let own = binary.parent().context("a folder")?.to_owned();
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(own).chain(std::env::split_paths(&usual));
    let mut command = bare_shell(commands);
    command.env("PATH", std::env::join_paths(path)?);
    Ok(command)
}

/// The same without the binary.
fn bare_shell(commands: &str) -> Command {
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("set -euo pipefail\n{commands}")])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", std::env::var_os("HOME").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n## One\n\n```sh\ntrue\n```\n\n## Two\n\n1. Do:\n   ```sh\n   \
                        test \"$A\" = b\n   echo done so\n   ```\n   ```text\n   done\n   ```\n   \
                        Or:\n   ```sh refused\n   false\n   ```\n2. And see:\n   ```\n   ## Two\n   \
                        ```\n\n## Three\n";

    /// Runs the next block without the binary under test: it may not be built.
    fn run(runbook: &mut Runbook, variables: &[(&str, &str)]) -> Result<String> {
        runbook.run_by(|commands| Ok(bare_shell(commands)), variables)
    }

    #[test]
    fn blocks_of_the_section_are_run_in_order_and_none_is_left_out() {
        let mut runbook = Runbook::read(PAGE, Some("Two")).unwrap();
        assert!(runbook.clone().finish().is_err());
        assert_eq!(runbook.left[0].shown, ["done"]);
        assert_eq!(run(&mut runbook, &[("A", "b")]).unwrap(), "done so\n");
        run(&mut runbook, &[]).unwrap();
        assert!(run(&mut runbook, &[]).is_err());
        runbook.finish().unwrap();
        assert!(Runbook::read(PAGE, Some("Three")).is_err());
        assert_eq!(Runbook::read(PAGE, None).unwrap().left.len(), 3);
    }

    #[test]
    fn what_ends_otherwise_than_the_page_says_is_an_error() {
        let run = |page: &str| run(&mut Runbook::read(page, None).unwrap(), &[]);
        assert!(run("```sh refused\ntrue\n```\n").is_err());
        assert!(run("```sh\nfalse\ntrue\n```\n").is_err());
        assert!(run("```sh\necho \"$NOBODY_SAID\"\n```\n").is_err());
        assert!(run("```sh\necho one\n```\n```text\ntwo\n```\n").is_err());
        assert!(run("```sh\necho one\n```\n```text\none\n```\n").is_ok());
    }

    #[test]
    fn a_page_as_a_program_ends_at_what_is_not_as_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let ends_well = |page: &str| {
            let program = Runbook::read(page, None).unwrap().program();
            let mut shell = bare_shell(&program);
            let status = shell.current_dir(&folder).output().unwrap().status;
            status.success()
        };
        let stays = "```sh background\necho ready\nsleep 100\n```\n";
        let rest = "```sh\nA=1\n```\n```sh\necho \"it's $A\"\n```\n```text\nit's 1\n```\n\
                    ```sh refused\nfalse\n```\n```sh after Ctrl-C\ntrue\n```\n";
        assert!(ends_well(&format!("{stays}{rest}")));
        assert!(!ends_well("```sh\necho 1\n```\n```text\n2\n```\n"));
        assert!(!ends_well("```sh\nfalse\necho 1\n```\n"));
        assert!(!ends_well("```sh refused\ntrue\n```\n"));
        let second = "```sh soon\n[ -d b ] || { mkdir b; false; }\necho 2\n```\n```text\n2\n```\n";
        assert!(ends_well(second));
        assert!(!ends_well("```sh soon\n[ -d c ]\n```\n"));
    }
}
