//! Increments that become one entry, in a lane.

use super::*;

/// A connection that others do not wait for.
struct Connection {
    queue: ReplyQueue,
    sent: u64,
}

impl Connection {
    fn new() -> Self {
        Self {
            queue: ReplyQueue::default(),
            sent: 0,
        }
    }

    /// Sends a write, in a turn that goes on.
    fn send(&mut self, rig: &mut Rig, op: WriteOp) {
        self.send_at(rig, WriteLevel::Quorum, op);
    }

    fn send_at(&mut self, rig: &mut Rig, level: WriteLevel, op: WriteOp) {
        let reply = self.queue.reply_to(self.sent);
        self.sent += 1;
        rig.arrive(reply, level, op, None);
    }

    /// What was answered, in the order of the answers.
    fn told(&mut self) -> Vec<(u64, Result<WriteReply, RequestError>)> {
        let mut context = std::task::Context::from_waker(Waker::noop());
        match self.queue.poll_take(&mut context, 1) {
            std::task::Poll::Pending => Vec::new(),
            std::task::Poll::Ready(answers) => answers,
        }
    }

    fn sums(&mut self) -> Vec<i64> {
        let told = self.told().into_iter();
        told.map(|(_, result)| match result.expect("no error").outcome {
            WriteOutcome::Integer(sum) => sum,
            other => panic!("no sum: {other:?}"),
        })
        .collect()
    }
}

/// A primary that serves, whose values are all at hand.
fn rig() -> Rig {
    let rig = Rig::serving();
    *rig.store.cached.borrow_mut() = true;
    rig
}

fn head(rig: &Rig) -> u64 {
    rig.core.standing(PARTITION).expect("lives here").head.0
}

#[test]
fn increments_of_one_turn_are_one_entry_and_each_is_told_its_sum() {
    let mut rig = rig();
    let before = head(&rig);
    let mut connections: Vec<_> = (0..5).map(|_| Connection::new()).collect();
    for connection in &mut connections {
        connection.send(&mut rig, increment("n"));
    }
    rig.settle();
    assert_eq!(head(&rig), before + 1);
    assert_eq!(rig.turn.combined, 5);
    assert!(connections.iter_mut().all(|c| c.told().is_empty()));
    rig.flush();
    let sums: Vec<_> = connections.iter_mut().flat_map(Connection::sums).collect();
    assert_eq!(sums, [1, 2, 3, 4, 5]);
}

#[test]
fn nobody_waits_where_nothing_is_under_way() {
    let mut rig = rig();
    let mut connection = Connection::new();
    connection.send(&mut rig, increment("n"));
    rig.settle();
    assert!(!rig.lane.gathers());
    // Of another key neither.
    connection.send(&mut rig, increment("m"));
    rig.settle();
    assert!(!rig.lane.gathers());
    assert_eq!(rig.turn.combined, 0);
}

#[test]
fn those_that_come_during_a_flush_are_the_next_entry() {
    let mut rig = rig();
    let (mut first, mut second) = (Connection::new(), Connection::new());
    first.send(&mut rig, increment("n"));
    rig.settle();
    let one = head(&rig);
    for _ in 0..3 {
        second.send(&mut rig, increment("n"));
        rig.settle();
        assert_eq!(head(&rig), one, "it waits for the flush of the first");
    }
    rig.flush();
    assert_eq!(head(&rig), one + 1);
    assert_eq!(first.sums(), [1]);
    rig.flush();
    assert_eq!(second.sums(), [2, 3, 4]);
    assert!(!rig.lane.gathers());
}

#[test]
fn what_the_same_connection_sends_later_takes_effect_later() {
    let mut rig = rig();
    let (mut first, mut second) = (Connection::new(), Connection::new());
    first.send(&mut rig, increment("n"));
    rig.settle();
    second.send(&mut rig, increment("n"));
    // Another key, whose increment could go on: it stays behind the one before it.
    second.send(&mut rig, increment("m"));
    rig.settle();
    let one = head(&rig);
    // A stranger's write of a third key overtakes them.
    first.send(&mut rig, set("k", "v"));
    assert_eq!(head(&rig), one + 1);
    assert_eq!(rig.lane.gathering.len(), 2);
    // Their own connection's does not, nor does one of their keys.
    second.send(&mut rig, set("l", "v"));
    assert_eq!(head(&rig), one + 3);
    assert!(!rig.lane.gathers());
    second.send(&mut rig, increment("n"));
    rig.settle();
    assert!(rig.lane.gathers());
    first.send(&mut rig, delete("n"));
    assert_eq!(head(&rig), one + 5);
    rig.settle();
    rig.flush();
    let order: Vec<_> = second.told().into_iter().map(|(token, _)| token).collect();
    assert_eq!(order, [0, 1, 2, 3]);
}

#[test]
fn only_the_last_of_an_entry_is_told_its_version() {
    let mut rig = rig();
    let mut connection = Connection::new();
    for _ in 0..3 {
        connection.send(&mut rig, increment("n"));
    }
    rig.settle();
    let entry = head(&rig);
    rig.flush();
    let told = connection.told().into_iter();
    let versions: Vec<_> = told
        .map(|(_, result)| result.expect("no error").position.index.0)
        .collect();
    assert_eq!(versions, [entry - 1, entry - 1, entry]);
}

#[test]
fn a_retry_among_them_is_applied_once() {
    let mut rig = rig();
    rig.submit(increment("n"), named(1));
    rig.load_table();
    rig.flush();
    let tokens: Vec<_> = [1, 2, 2, 3]
        .into_iter()
        .map(|sequence| {
            let token = rig.next_token;
            let reply = rig.queue.reply_to(token);
            rig.arrive(reply, WriteLevel::Quorum, increment("n"), named(sequence));
            token
        })
        .collect();
    rig.settle();
    rig.flush();
    let told = rig.answers();
    let sums: Vec<_> = tokens.iter().map(|token| told[token].clone()).collect();
    let sum = |number| Ok(WriteOutcome::Integer(number));
    assert_eq!(sums, [sum(1), sum(2), sum(2), sum(3)]);
}

#[test]
fn one_for_all_members_has_an_entry_of_its_own() {
    let mut rig = rig();
    let before = head(&rig);
    let mut connection = Connection::new();
    connection.send(&mut rig, increment("n"));
    connection.send_at(&mut rig, WriteLevel::All, increment("n"));
    connection.send(&mut rig, increment("n"));
    rig.settle();
    // The last one waits: what it adds to is not flushed.
    assert_eq!(head(&rig), before + 2);
    rig.flush();
    assert_eq!(head(&rig), before + 3);
}

#[test]
fn what_was_gathered_and_not_proposed_was_surely_not_done() {
    let mut rig = rig();
    let (mut first, mut second) = (Connection::new(), Connection::new());
    first.send(&mut rig, increment("n"));
    rig.settle();
    second.send(&mut rig, increment("n"));
    rig.settle();
    let later = rig.turn.now.plus(Micros(1));
    rig.lane.expire(&mut rig.turn, later);
    rig.settle();
    let error = |connection: &mut Connection| connection.told().pop().map(|(_, result)| result);
    assert_eq!(error(&mut first), Some(Err(RequestError::Unknown)));
    let partition = PARTITION;
    let not_ready = RequestError::NotReady { partition };
    assert_eq!(error(&mut second), Some(Err(not_ready.clone())));
    // So it is at the end of a leadership.
    second.send(&mut rig, increment("n"));
    rig.step(Event::Order {
        order: Order::Fence {
            partition: PARTITION,
            epoch: Epoch(2),
            round: 1,
        },
    });
    assert_eq!(error(&mut second), Some(Err(not_ready)));
    assert_eq!(rig.lane.unanswered(), 0);
}

#[test]
fn increments_that_are_pushed_back_wait_for_the_next_tick_and_are_not_tried_without_end() {
    let mut rig = rig();
    rig.push_back();
    // It takes all that may be written until the next tick.
    rig.submit(set("b", MUCH.as_str()), None);
    let before = head(&rig);
    let mut connections: Vec<_> = (0..3).map(|_| Connection::new()).collect();
    for connection in &mut connections {
        connection.send(&mut rig, increment("n"));
    }
    rig.settle();
    assert!(rig.turn.pushed_back > 0);
    assert_eq!(head(&rig), before);
    assert_eq!(rig.lane.unanswered(), 4);
    rig.catch_up();
    rig.flush();
    rig.flush();
    let sums: Vec<_> = connections.iter_mut().flat_map(Connection::sums).collect();
    assert_eq!(sums, [1, 2, 3]);
}
