//! What other terminals ask of the supervisor, and how it does it: each order changes
//! what is to become of nodes, and is answered once that has come about.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::control::{Order, Reply, Request, Standing, State, no_such_node};
use super::layout::{DISCARDED, Node, Role, Traits};
use super::supervise::{Goal, Slot, Supervisor};
use super::try_port;
use crate::failure::Failure;

impl Slot {
    fn state(&self) -> State {
        match (self.pid, self.goal) {
            (Some(_), Goal::Run) => State::Running,
            (Some(_), Goal::Stop | Goal::Wipe | Goal::Remove) => State::Stopping,
            (None, Goal::Run) => State::Restarting,
            (None, Goal::Stop | Goal::Wipe | Goal::Remove) => State::Stopped,
        }
    }
}

impl Supervisor<'_> {
    /// Does what is asked, or begins to.
    ///
    /// # Errors
    /// Where nobody can be told how the nodes are any more.
    pub(super) fn carry_out(&mut self, (request, answer): Order) -> Result<(), Failure> {
        match request {
            Request::List => {
                let all = self.slots.iter().map(|slot| self.standing(slot));
                reply(answer, Ok(all.collect()));
            }
            Request::Add { count, traits } => reply(answer, self.add(count, &traits)),
            Request::Start { node } => reply(answer, self.start_again(&node)),
            Request::Stop { node, kill } => {
                let signal = if kill { Signal::KILL } else { Signal::TERM };
                self.end(&node, Goal::Stop, signal, answer);
            }
            Request::Wipe { node } => self.end(&node, Goal::Wipe, Signal::TERM, answer),
            Request::Remove { node } => self.end(&node, Goal::Remove, Signal::TERM, answer),
        }
        self.publish().map_err(Failure::from)
    }

    fn standing(&self, slot: &Slot) -> Standing {
        Standing {
            node: slot.node.clone(),
            state: slot.state(),
            pid: slot.pid.map(Pid::as_raw_pid),
            log: slot.node.log_file(self.directory),
        }
    }

    fn find(&self, name: &str) -> Result<usize, Failure> {
        let found = self.slots.iter().position(|slot| slot.node.name == name);
        found.ok_or_else(|| no_such_node(name, self.slots.iter().map(|slot| &slot.node)))
    }

    fn add(&mut self, count: u16, traits: &Traits) -> Result<Vec<Standing>, Failure> {
        let may_be_had = |node: &Node| node.ports().iter().all(|(_, port)| try_port(*port).is_ok());
        let (cluster, added) = self.cluster.with_more(count, traits, may_be_had)?;
        cluster.save(self.directory)?;
        self.cluster = cluster;
        let first = self.slots.len();
        added.into_iter().for_each(|node| self.lay_out(node));
        for at in first..self.slots.len() {
            self.start_or_leave(at)?;
        }
        let added = &self.slots[first..];
        Ok(added.iter().map(|slot| self.standing(slot)).collect())
    }

    fn start_again(&mut self, name: &str) -> Result<Vec<Standing>, Failure> {
        let at = self.find(name)?;
        let slot = &mut self.slots[at];
        match (slot.pid.map(Pid::as_raw_pid), slot.state()) {
            (Some(pid), State::Running) => {
                return Err(Failure::refused(format!("{name} runs already (pid {pid})")));
            }
            (Some(pid), _) => {
                return Err(
                    Failure::refused(format!("{name} (pid {pid}) has not ended yet"))
                        .with_remedy("Wait for it, or end it with `cairn dev stop --kill`"),
                );
            }
            (None, _) => {}
        }
        slot.deaths = 0;
        self.start_or_leave(at)?;
        Ok(vec![self.standing(&self.slots[at])])
    }

    /// Starts a node; where there can be no process, the node stays without one instead of
    /// taking the others along.
    fn start_or_leave(&mut self, at: usize) -> Result<(), Failure> {
        let started = self.start(at);
        let slot = &mut self.slots[at];
        match (&started, slot.pid) {
            (Ok(()), Some(pid)) => {
                eprintln!("{} runs (pid {})", slot.node.name, pid.as_raw_pid());
            }
            (Ok(()), None) => {}
            (Err(_), _) => slot.goal = Goal::Stop,
        }
        started
    }

    /// Ends a node's process for the sake of `goal`, and answers once that is reached.
    fn end(&mut self, name: &str, goal: Goal, signal: Signal, answer: oneshot::Sender<Reply>) {
        let at = match self.may_end(name, goal, signal) {
            Ok(at) => at,
            Err(refused) => return reply(answer, Err(refused)),
        };
        let slot = &mut self.slots[at];
        let was = slot.goal;
        if matches!(was, Goal::Run | Goal::Stop) {
            slot.goal = goal;
        }
        slot.restart_at = None;
        slot.waiting.push(answer);
        match slot.pid {
            // Asked twice, it would end at once instead of handing over.
            Some(pid) if was == Goal::Run || signal == Signal::KILL => {
                // One that ended just now needs no signal.
                let _ = kill_process(pid, signal);
            }
            Some(_) => {}
            None => self.reach_goal(at),
        }
    }

    fn may_end(&self, name: &str, goal: Goal, signal: Signal) -> Result<usize, Failure> {
        let at = self.find(name)?;
        let slot = &self.slots[at];
        let refused = |why: &str| Err(Failure::refused(format!("{name} {why}")));
        match (slot.goal, goal) {
            (_, Goal::Remove) if slot.node.role == Role::Coordinator => {
                refused("is a coordinator, and stays one")
            }
            (Goal::Stop, Goal::Stop) if slot.pid.is_none() => refused("is stopped already"),
            // That it is killed for the sake of it is all that may still be asked for.
            (Goal::Wipe, _) if signal != Signal::KILL => refused("is being wiped"),
            (Goal::Remove, _) if signal != Signal::KILL => refused("is being removed"),
            _ => Ok(at),
        }
    }

    /// Does what was to follow the end of a node's process, and answers who waits for it.
    pub(super) fn reach_goal(&mut self, at: usize) {
        let outcome = self.follow_up(at);
        let slot = &mut self.slots[at];
        if outcome.is_err() {
            slot.goal = Goal::Stop;
        }
        let waiting = std::mem::take(&mut slot.waiting);
        let standing = self.standing(&self.slots[at]);
        for answer in waiting {
            let outcome = outcome.clone().map(|()| vec![standing.clone()]);
            reply(answer, outcome);
        }
        if self.slots[at].goal == Goal::Remove {
            let slot = self.slots.remove(at);
            eprintln!("{} is removed", slot.node.name);
        }
    }

    fn follow_up(&mut self, at: usize) -> Result<(), Failure> {
        let node = self.slots[at].node.clone();
        match self.slots[at].goal {
            Goal::Run | Goal::Stop => Ok(()),
            Goal::Wipe => {
                discard(self.directory, &node.name)?;
                eprintln!("{} has lost its disk", node.name);
                self.slots[at].deaths = 0;
                self.start_or_leave(at)
            }
            Goal::Remove => {
                // First what a next start looks at.
                let cluster = self.cluster.without(&node.name);
                cluster.save(self.directory)?;
                self.cluster = cluster;
                discard(self.directory, &node.name).map_err(Failure::from)
            }
        }
    }
}

fn reply(answer: oneshot::Sender<Reply>, outcome: Result<Vec<Standing>, Failure>) {
    // Whoever asked may be gone.
    let _ = answer.send(outcome.map_or_else(Reply::from, Reply::Done));
}

/// Takes a node's directory away in one step, so that nobody ever starts on half of it.
/// What was in it is deleted by a thread of its own, since that may take long.
fn discard(directory: &Path, name: &str) -> anyhow::Result<()> {
    let discarded = directory.join(DISCARDED);
    fs::create_dir_all(&discarded).with_context(|| format!("create {}", discarded.display()))?;
    let (from, to) = (
        directory.join(name),
        discarded.join(format!("{name}-{}", Uuid::new_v4())),
    );
    match fs::rename(&from, &to) {
        // It was never started.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => {
            renamed.with_context(|| format!("rename {} to {}", from.display(), to.display()))?
        }
    }
    tokio::task::spawn_blocking(move || {
        if let Err(error) = fs::remove_dir_all(&to) {
            eprintln!("delete {}: {error}", to.display());
        }
    });
    Ok(())
}

/// Deletes what [`discard`] put aside.
pub(super) fn empty_discarded(directory: &Path) -> anyhow::Result<()> {
    let discarded = directory.join(DISCARDED);
    match fs::remove_dir_all(&discarded) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("delete {}", discarded.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
