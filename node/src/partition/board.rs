//! What the engine publishes of each partition, for the tasks that read.
//!
//! One cell per partition, read without a lock: a strong read costs two looks at
//! its cell. The engine writes a cell before it answers any write or sends any
//! message that depends on it, so that
//! - a read that arrives after a write was answered sees a commit index that covers
//!   the write, and
//! - a partition that is handed over stops being read here before its leases are
//!   given back.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use cairn_core::ids::{Epoch, Index, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::record::Member;
use cairn_core::replication::{Generation, Proof, ProofLevel, Standing};
use cairn_core::slots::SLOTS;
use cairn_core::tracking::Seen;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How a replica on this node stands, as published last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// The replica.
    pub replica: ReplicaId,
    /// The promised epoch.
    pub epoch: Epoch,
    /// The prefix of its state.
    pub generation: Generation,
    /// Whether it serves as primary. The lease is a separate question.
    pub serving: bool,
    /// Whether so many replicas lack disk room that data writes cannot commit.
    pub write_blocked_by_disk: bool,
    /// Until when it holds the lease.
    pub lease_until: Micros,
    /// The commit index.
    pub commit: Index,
    /// The applied index of `generation`.
    pub applied: Index,
    /// The last index on disk or under way to it.
    pub head: Index,
    /// The primary of the epoch, as far as known.
    pub primary: Option<Member>,
    /// Until when it may answer reads of the level `replica` by itself, where it is not
    /// primary: a lease for reads.
    pub reads_until: Micros,
}

impl Published {
    /// Whether this very replica is named primary of its epoch.
    #[must_use]
    pub fn is_primary(&self, node: NodeId) -> bool {
        self.primary
            == Some(Member {
                node,
                replica: self.replica,
            })
    }

    /// What decides whether changes of what was read here show.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            replica: self.replica,
            generation: self.generation,
            serving: self.serving,
        }
    }

    /// Whether it may answer at `now` (rule 5).
    #[must_use]
    pub fn leads(&self, now: Micros) -> bool {
        self.serving && now < self.lease_until
    }

    /// Whether it may answer reads at `now` under a lease for reads (rule 6): all that may have
    /// been acknowledged is in its state.
    #[must_use]
    pub fn follows(&self, now: Micros) -> bool {
        now < self.reads_until && self.applied >= self.commit
    }
}

/// The words of a [`Published`], in the order in which they stand in a cell.
const WORDS: usize = 11;
const FLAG_HERE: u64 = 1;
const FLAG_SERVING: u64 = 2;
const FLAG_BLOCKED: u64 = 4;
const FLAG_PRIMARY: u64 = 8;
const WORD_GENERATION: usize = 3;
const WORD_APPLIED: usize = 6;

fn to_words(published: &Published) -> [u64; WORDS] {
    let Published {
        replica,
        epoch,
        generation,
        serving,
        write_blocked_by_disk,
        lease_until,
        commit,
        applied,
        head,
        primary,
        reads_until,
    } = *published;
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    let flags = FLAG_HERE
        | flag(serving, FLAG_SERVING)
        | flag(write_blocked_by_disk, FLAG_BLOCKED)
        | flag(primary.is_some(), FLAG_PRIMARY);
    [
        flags,
        replica.0,
        epoch.0,
        generation.0,
        lease_until.0,
        commit.0,
        applied.0,
        head.0,
        primary.map_or(0, |p| p.node.0),
        primary.map_or(0, |p| p.replica.0),
        reads_until.0,
    ]
}

fn from_words(words: &[u64; WORDS]) -> Option<Published> {
    let [
        flags,
        replica,
        epoch,
        generation,
        lease_until,
        commit,
        applied,
        head,
        primary_node,
        primary_replica,
        reads_until,
    ] = *words;
    (flags & FLAG_HERE != 0).then(|| Published {
        replica: ReplicaId(replica),
        epoch: Epoch(epoch),
        generation: Generation(generation),
        serving: flags & FLAG_SERVING != 0,
        write_blocked_by_disk: flags & FLAG_BLOCKED != 0,
        lease_until: Micros(lease_until),
        commit: Index(commit),
        applied: Index(applied),
        head: Index(head),
        primary: (flags & FLAG_PRIMARY != 0).then_some(Member {
            node: NodeId(primary_node),
            replica: ReplicaId(primary_replica),
        }),
        reads_until: Micros(reads_until),
    })
}

/// One partition's cell: a sequence lock over a few words. The sequence is odd
/// while a writer is at work; a reader that saw it odd, or changed, looks again.
pub(super) struct Cell {
    writer: Mutex<()>,
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
    changed: Notify,
    /// How many tasks wait for a change: under load there is none as a rule, and a
    /// change need not look for them.
    waiting: AtomicUsize,
    /// Whether a round for the lapsed lease was asked for and not begun yet: of the
    /// many reads that find the lease lapsed, one asks.
    hurrying: AtomicBool,
    /// The second before which the expiry index has no row: as far as the primary here
    /// knows, see [`super::expiry`].
    next_expiry: AtomicU64,
    by_primary: Proofs,
    by_quorum: Proofs,
}

/// The reads of one level that wait for a proof, and the newest that came.
#[derive(Default)]
struct Proofs {
    /// How many reads have arrived: each has the count before it as its number.
    arrived: AtomicU64,
    /// Whether a proof was asked for and the engine has not looked at `arrived` since: of
    /// the reads that arrive meanwhile, one asks.
    asking: AtomicBool,
    /// The newest proof, and the reads that it covers: those below this number.
    newest: Mutex<Option<(u64, Proof)>>,
}

/// No row at all.
pub(super) const NEVER: u64 = u64::MAX;

/// A task that may wait for a change of a cell. What is published after it was made
/// is not missed.
pub(super) struct Watching<'a> {
    cell: &'a Cell,
}

impl<'a> Watching<'a> {
    /// Told of the next change.
    pub(super) fn changed(&self) -> Notified<'a> {
        self.cell.changed.notified()
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.cell.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cell {
    fn new() -> Self {
        Self {
            writer: Mutex::new(()),
            sequence: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            hurrying: AtomicBool::new(false),
            next_expiry: AtomicU64::new(NEVER),
            by_primary: Proofs::default(),
            by_quorum: Proofs::default(),
        }
    }

    fn proofs(&self, level: ProofLevel) -> &Proofs {
        match level {
            ProofLevel::Replica => &self.by_primary,
            ProofLevel::Quorum => &self.by_quorum,
        }
    }

    /// A read arrives: its number, and whether the caller is the one to ask for a proof.
    ///
    /// Either the engine finds this read among those that have arrived, when it puts its
    /// question, or this read finds that nobody asked.
    pub(super) fn arrive(&self, level: ProofLevel) -> (u64, bool) {
        let proofs = self.proofs(level);
        let number = proofs.arrived.fetch_add(1, Ordering::SeqCst);
        (number, !proofs.asking.swap(true, Ordering::SeqCst))
    }

    /// A read arrives that needs no proof: it counts among those that make a lease for reads
    /// worth asking for.
    pub(super) fn pass(&self, level: ProofLevel) {
        self.proofs(level).arrived.fetch_add(1, Ordering::Relaxed);
    }

    /// The engine is about to put a question: the reads below the returned number have
    /// arrived.
    pub(super) fn arrived(&self, level: ProofLevel) -> u64 {
        let proofs = self.proofs(level);
        proofs.asking.store(false, Ordering::SeqCst);
        proofs.arrived.load(Ordering::SeqCst)
    }

    /// How many reads have arrived, for whoever puts no question for those that wait for one.
    pub(super) fn counted(&self, level: ProofLevel) -> u64 {
        self.proofs(level).arrived.load(Ordering::SeqCst)
    }

    /// Publishes what came of a question for the reads below `before`.
    pub(super) fn prove(&self, level: ProofLevel, before: u64, proof: Proof) {
        {
            let mut newest = self.proofs(level).newest.lock();
            if newest.is_none_or(|(covers, _)| covers <= before) {
                *newest = Some((before, proof));
            }
        }
        self.tell();
    }

    /// What came of a question that was put after the read of that number arrived.
    pub(super) fn proof(&self, level: ProofLevel, number: u64) -> Option<Proof> {
        let newest = *self.proofs(level).newest.lock();
        newest
            .filter(|(covers, _)| number < *covers)
            .map(|(_, proof)| proof)
    }

    /// What was published last; `None` where no replica lives here.
    pub(super) fn load(&self) -> Option<Published> {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let mut words = [0u64; WORDS];
            for (word, cell) in words.iter_mut().zip(&self.words) {
                *word = cell.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return from_words(&words);
            }
            std::hint::spin_loop();
        }
    }

    fn write(&self, change: impl FnOnce(&[AtomicU64; WORDS])) {
        let _writer = self.writer.lock();
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        change(&self.words);
        self.sequence.store(before + 2, Ordering::Release);
    }

    /// Publishes how the replica stands. The applied index stays, as long as the
    /// generation does; a new generation begins at `applied`.
    pub(super) fn publish(&self, standing: &Standing, applied: Index) {
        let Standing {
            replica,
            epoch,
            generation,
            serving,
            lease_until,
            commit,
            head,
            write_blocked_by_disk,
            pushing_back: _,
            ack_needs_lease: _,
            primary,
            reads_until,
        } = *standing;
        let words = to_words(&Published {
            replica,
            epoch,
            generation,
            serving,
            write_blocked_by_disk,
            lease_until,
            commit,
            applied,
            head,
            primary,
            reads_until,
        });
        self.write(|cells| {
            let same = cells[WORD_GENERATION].load(Ordering::Relaxed) == generation.0;
            for (at, (cell, word)) in cells.iter().zip(words).enumerate() {
                if at == WORD_APPLIED && same {
                    cell.fetch_max(word, Ordering::Relaxed);
                } else {
                    cell.store(word, Ordering::Relaxed);
                }
            }
        });
        self.tell();
    }

    /// Publishes what the store has applied, unless the replica has another state
    /// by now.
    pub(super) fn publish_applied(&self, generation: Generation, index: Index) {
        self.write(|cells| {
            if cells[WORD_GENERATION].load(Ordering::Relaxed) == generation.0 {
                cells[WORD_APPLIED].fetch_max(index.0, Ordering::Relaxed);
            }
        });
        self.tell();
    }

    /// Publishes that no replica lives here any more.
    pub(super) fn clear(&self) {
        self.write(|cells| cells.iter().for_each(|c| c.store(0, Ordering::Relaxed)));
        self.tell();
    }

    /// To be told of changes.
    pub(super) fn watch(&self) -> Watching<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Either the writer sees that somebody waits, or whoever waits sees, when it
        // looks at the cell after this, what was written.
        fence(Ordering::SeqCst);
        Watching { cell: self }
    }

    fn tell(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// The expiry index may have a row of that second. Told after the head was published
    /// that holds the row: see [`super::expiry`].
    pub(super) fn expires(&self, second: u64) {
        self.next_expiry.fetch_min(second, Ordering::AcqRel);
    }

    /// From which second on the expiry index may have rows; [`NEVER`] where it has none.
    pub(super) fn next_expiry(&self) -> u64 {
        self.next_expiry.load(Ordering::Relaxed)
    }

    /// As [`Self::next_expiry`], for the one who is about to find out anew.
    pub(super) fn take_next_expiry(&self) -> u64 {
        self.next_expiry.swap(NEVER, Ordering::AcqRel)
    }

    /// Whether the caller is the one to ask for a round for the lapsed lease.
    pub(super) fn hurry(&self) -> bool {
        !self.hurrying.swap(true, Ordering::Relaxed)
    }

    /// The round that was asked for begins: the next to find the lease lapsed may ask
    /// for another one.
    pub(super) fn hurried(&self) {
        self.hurrying.store(false, Ordering::Relaxed);
    }
}

/// Every partition's cell.
pub(super) struct Board {
    cells: Box<[OnceLock<Box<Cell>>]>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.cells.iter().filter(|c| c.get().is_some()).count();
        f.debug_struct("Board").field("cells", &used).finish()
    }
}

impl Board {
    /// An empty board, with room for as many partitions as there can be: one to a
    /// slot.
    pub(super) fn new() -> Self {
        Self {
            cells: (0..SLOTS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The cell, if a replica of the partition was ever seen here.
    pub(super) fn cell(&self, partition: PartitionId) -> Option<&Cell> {
        let cell = self.cells.get(usize::try_from(partition.0).ok()?)?;
        cell.get().map(Box::as_ref)
    }

    /// The cell, made if it was not there; `None` past the last possible partition.
    pub(super) fn cell_or_new(&self, partition: PartitionId) -> Option<&Cell> {
        let cell = self.cells.get(usize::try_from(partition.0).ok()?)?;
        Some(cell.get_or_init(|| Box::new(Cell::new())))
    }

    /// The partitions that have a cell.
    pub(super) fn cells(&self) -> impl Iterator<Item = (PartitionId, &Cell)> {
        (0..)
            .map(PartitionId)
            .zip(&self.cells)
            .filter_map(|(partition, cell)| Some((partition, cell.get()?.as_ref())))
    }

    /// What was published of a partition.
    pub(super) fn load(&self, partition: PartitionId) -> Option<Published> {
        self.cell(partition)?.load()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;

    fn standing(number: u64) -> Standing {
        Standing {
            replica: ReplicaId(number),
            epoch: Epoch(number),
            generation: Generation(number / 100),
            serving: number.is_multiple_of(2),
            lease_until: Micros(number),
            commit: Index(number),
            head: Index(number),
            write_blocked_by_disk: false,
            pushing_back: false,
            ack_needs_lease: false,
            primary: Some(Member {
                node: NodeId(number),
                replica: ReplicaId(number),
            }),
            reads_until: Micros(number),
        }
    }

    #[test]
    fn a_reader_never_sees_half_of_a_change() {
        let board = Arc::new(Board::new());
        let partition = PartitionId(5);
        board
            .cell_or_new(partition)
            .expect("in range")
            .publish(&standing(1), Index(1));
        let reader = std::thread::spawn({
            let board = Arc::clone(&board);
            move || {
                let mut last = 0;
                while last < 20_000 {
                    let seen = board.load(partition).expect("published");
                    assert_eq!(seen.epoch.0, seen.commit.0);
                    assert_eq!(seen.epoch.0, seen.head.0);
                    assert_eq!(seen.primary.expect("known").replica.0, seen.epoch.0);
                    assert!(seen.epoch.0 >= last);
                    last = seen.epoch.0;
                }
            }
        });
        for number in 2..=20_000 {
            let cell = board.cell(partition).expect("made");
            cell.publish(&standing(number), Index(number));
        }
        reader.join().expect("no torn read");
    }

    #[test]
    fn an_applied_index_belongs_to_its_generation() {
        let board = Board::new();
        let cell = board.cell_or_new(PartitionId(0)).expect("in range");
        cell.publish(&standing(150), Index(10));
        cell.publish_applied(Generation(1), Index(20));
        cell.publish_applied(Generation(0), Index(99));
        assert_eq!(cell.load().expect("published").applied, Index(20));
        cell.publish(&standing(160), Index(15));
        assert_eq!(cell.load().expect("published").applied, Index(20));
        cell.publish(&standing(250), Index(12));
        assert_eq!(cell.load().expect("published").applied, Index(12));
        cell.clear();
        assert_eq!(cell.load(), None);
    }

    #[test]
    fn whoever_watches_a_cell_is_told_of_a_change_that_came_after_the_look() {
        let board = Board::new();
        let cell = board.cell_or_new(PartitionId(0)).expect("in range");
        let watching = cell.watch();
        let mut changed = std::pin::pin!(watching.changed());
        changed.as_mut().enable();
        assert!(changed.as_mut().now_or_never().is_none());
        cell.publish_applied(Generation(0), Index(1));
        assert!(changed.as_mut().now_or_never().is_some());
        drop(watching);
        assert_eq!(cell.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn of_many_reads_that_find_the_lease_lapsed_one_asks_for_a_round() {
        let board = Board::new();
        let cell = board.cell_or_new(PartitionId(0)).expect("in range");
        let asked = (0..1000).filter(|_| cell.hurry()).count();
        assert_eq!(asked, 1);
        cell.hurried();
        assert!(cell.hurry());
    }

    #[test]
    fn a_partition_past_the_last_slot_has_no_cell() {
        let board = Board::new();
        assert!(board.cell_or_new(PartitionId(16_384)).is_none());
        assert!(board.load(PartitionId(u32::MAX)).is_none());
    }
}
