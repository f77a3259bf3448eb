//! Which keys clients ask this node for most: sampled where they are served, judged once a
//! second by a task of its own ([`cairn_core::hot`]), told to whoever asks.
//!
//! A request that is no sample costs one draw of a random number. How many are sampled follows
//! what is asked: all where little is, some thousands in a second where much is.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_core::cluster::report::{HEAT_KEYS_MAX, HEAT_PARTITIONS_MAX, HeatReport, KeyHeat};
use cairn_core::counters::name::told_as;
use cairn_core::hot::{HotKey, KeyHash, Loads, PartitionLoad, Touch, Watch, WatchOptions};
use cairn_core::ids::{Micros, PartitionId};
use cairn_core::kv::request::WriteOp;
use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::clock;
use super::links::AgentLink;
use super::shared::Shared;
use crate::processor::{look_time, thread_time};

/// How often what was sampled is judged.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// Samples in a second that are enough.
const SAMPLES: usize = 4096;
/// Samples that wait to be judged at most.
const WAITING_MAX: usize = 4 * SAMPLES;
/// At most one in so many is sampled.
const EVERY_MAX: u32 = 1 << 10;
/// Names of longer keys are not kept.
const NAME_BYTES_MAX: usize = 256;

/// What is said of hot keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HotKeysShown {
    /// Hashes of their names.
    #[default]
    Hashes,
    /// Their names, which may be secrets.
    Names,
    /// Nothing: nobody looks for them.
    Off,
}

/// What was judged last.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Heated {
    /// What clients ask of the node, in a second.
    pub requests_per_second: f64,
    /// The keys that are hot, the hottest first.
    pub keys: Vec<HotKey>,
}

/// The samples, and what came of them.
#[derive(Debug)]
pub(super) struct Heat {
    shown: HotKeysShown,
    /// One request in so many is sampled: a power of two.
    every: AtomicU32,
    waiting: Mutex<Vec<Touch>>,
    /// Reads that any replica might have answered, by partition.
    replica_reads: Mutex<BTreeMap<PartitionId, u64>>,
    /// Time on a processor, by partition.
    spent: Mutex<BTreeMap<PartitionId, Duration>>,
    judged: ArcSwap<Heated>,
}

impl Heat {
    pub(super) fn new(shown: HotKeysShown) -> Self {
        Self {
            shown,
            every: AtomicU32::new(1),
            waiting: Mutex::default(),
            replica_reads: Mutex::default(),
            spent: Mutex::default(),
            judged: ArcSwap::default(),
        }
    }

    /// Whether nobody looks for hot keys.
    pub(super) fn is_off(&self) -> bool {
        self.shown == HotKeysShown::Off
    }

    /// A read was served that found so many bytes.
    pub(super) fn read(&self, partition: PartitionId, key: &[u8], bytes: usize) {
        if let Some(weight) = self.draw() {
            self.keep(partition, key, bytes, false, weight);
        }
    }

    /// A read was asked for that any replica may answer. It is counted by
    /// [`Self::read`] besides.
    pub(super) fn replica_read(&self, partition: PartitionId) {
        if let Some(weight) = self.draw()
            && let Some(mut reads) = self.replica_reads.try_lock()
        {
            *reads.entry(partition).or_default() += u64::from(weight);
        }
    }

    /// Runs `work` for the partition, and times it if it is a sample.
    pub(super) fn timed<T>(&self, partition: PartitionId, work: impl FnOnce() -> T) -> T {
        let Some(weight) = self.draw() else {
            return work();
        };
        let since = thread_time();
        let done = work();
        let spent = thread_time().saturating_sub(since + look_time());
        // As with samples: not worth waiting for.
        if let Some(mut all) = self.spent.try_lock() {
            *all.entry(partition).or_default() += spent * weight;
        }
        done
    }

    /// So much time on a processor went to these partitions, to each by how much was done for it.
    pub(super) fn spent(&self, shares: &[(PartitionId, usize)], time: Duration) {
        let done: usize = shares.iter().map(|(_, done)| done).sum();
        if done > 0 {
            let each = time.as_secs_f64() / done as f64;
            let mut all = self.spent.lock();
            for (partition, done) in shares {
                let part = Duration::from_secs_f64(each * *done as f64);
                *all.entry(*partition).or_default() += part;
            }
        }
    }

    /// What was spent since this was asked last.
    pub(super) fn take_spent(&self) -> BTreeMap<PartitionId, Duration> {
        std::mem::take(&mut *self.spent.lock())
    }

    /// A write was taken. What a batch brings is shared out evenly over its keys.
    pub(super) fn write(&self, partition: PartitionId, op: &WriteOp) {
        if let Some(weight) = self.draw() {
            let names: usize = op.keys().map(Bytes::len).sum();
            let values: usize = op.values().map(Bytes::len).sum();
            let bytes = (names + values) / op.keys().count().max(1);
            for key in op.keys() {
                self.keep(partition, key, bytes, true, weight);
            }
        }
    }

    /// How many requests this one stands for, if it is a sample.
    fn draw(&self) -> Option<u32> {
        let every = self.every.load(Ordering::Relaxed);
        (random() & (every - 1) == 0).then_some(every)
    }

    fn keep(&self, partition: PartitionId, key: &[u8], bytes: usize, is_write: bool, weight: u32) {
        let key = told_as(key);
        let named = self.shown == HotKeysShown::Names && key.len() <= NAME_BYTES_MAX;
        let touch = Touch {
            partition,
            // Which partitions are asked much is no secret.
            hash: if self.is_off() {
                KeyHash(0)
            } else {
                KeyHash::of(key)
            },
            key: named.then(|| Bytes::copy_from_slice(key)),
            is_write,
            bytes: bytes as u64,
            weight,
        };
        // Whoever finds it taken goes without: a sample is not worth waiting for.
        let Some(mut waiting) = self.waiting.try_lock() else {
            return;
        };
        if waiting.len() >= WAITING_MAX {
            return;
        }
        waiting.push(touch);
        if waiting.len() > SAMPLES && waiting.len().is_multiple_of(SAMPLES) {
            // Far more than before: until it is judged, fewer will do.
            let every = weight.saturating_mul(4).min(EVERY_MAX);
            self.every.store(every, Ordering::Relaxed);
        }
    }

    /// What was judged last.
    pub(super) fn judged(&self) -> Arc<Heated> {
        self.judged.load_full()
    }
}

/// Judges what was sampled, for as long as the node runs.
pub(super) async fn run(shared: Arc<Shared>, agent: Arc<dyn AgentLink>) {
    let mut judge = HeatJudge::new(clock::boottime());
    let mut due = interval(JUDGED_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    loop {
        due.tick().await;
        let hot = judge.judge(clock::boottime(), &shared.heat);
        shared.limit.judged(&shared.heat.judged.load().keys);
        agent.heat(judge.report(clock::boottime(), &shared.heat));
        if hot > 0 {
            tracing::info!(keys = hot, "keys are asked for far more than others");
        }
    }
}

/// Takes the samples and judges them.
#[derive(Debug)]
struct HeatJudge {
    watch: Watch,
    loads: Loads,
    /// What each of the busiest partitions is asked, as judged last.
    busiest: Vec<(PartitionId, PartitionLoad)>,
    /// When it judged last.
    last: Micros,
    taken: Vec<Touch>,
    hot: Gauge,
    hottest_reads: Gauge,
    hottest_writes: Gauge,
    found: Counter,
}

impl HeatJudge {
    fn new(now: Micros) -> Self {
        Self {
            watch: Watch::new(WatchOptions::default()),
            loads: Loads::default(),
            busiest: Vec::new(),
            last: now,
            taken: Vec::new(),
            hot: gauge!("cairn_hot_keys"),
            hottest_reads: gauge!("cairn_hottest_key_reads_per_second"),
            hottest_writes: gauge!("cairn_hottest_key_writes_per_second"),
            found: counter!("cairn_hot_keys_found_total"),
        }
    }

    /// Judges what was asked since the last time. Returns how many keys have become hot.
    fn judge(&mut self, now: Micros, heat: &Heat) -> usize {
        self.taken.clear();
        std::mem::swap(&mut self.taken, &mut *heat.waiting.lock());
        // They came one after another, and when is not noted with each.
        let apart = now.minus(self.last).0 as f64 / self.taken.len().max(1) as f64;
        let mut asked = 0;
        for (number, touch) in self.taken.iter().enumerate() {
            asked += u64::from(touch.weight);
            let since = ((number as f64 + 0.5) * apart) as u64;
            if !heat.is_off() {
                self.watch.touch(self.last.plus(Micros(since)), touch);
            }
            if touch.is_write {
                self.loads.write(touch.partition, touch.bytes, touch.weight);
            } else {
                self.loads.read(touch.partition, touch.bytes, touch.weight);
            }
        }
        for (partition, reads) in std::mem::take(&mut *heat.replica_reads.lock()) {
            self.loads.replica_reads(partition, reads);
        }
        for (partition, time) in heat.take_spent() {
            self.loads.processor(partition, time);
        }
        let passed = now.minus(self.last);
        self.busiest = self.loads.judge(passed, HEAT_PARTITIONS_MAX);
        self.last = now;
        let every = (asked / SAMPLES as u64).max(1).next_power_of_two();
        let every = u32::try_from(every).unwrap_or(EVERY_MAX).min(EVERY_MAX);
        heat.every.store(every, Ordering::Relaxed);
        let (keys, new) = self.watch.judge(now);
        let most = |rate: fn(&HotKey) -> f64| keys.iter().map(rate).fold(0.0, f64::max);
        self.hot.set(keys.len() as f64);
        self.hottest_reads.set(most(|key| key.reads_per_second));
        self.hottest_writes.set(most(|key| key.writes_per_second));
        self.found.increment(new as u64);
        heat.judged.store(Arc::new(Heated {
            requests_per_second: self.watch.per_second(now),
            keys,
        }));
        new
    }
}

impl HeatJudge {
    /// What the coordinators are told.
    fn report(&self, now: Micros, heat: &Heat) -> HeatReport {
        let judged = heat.judged();
        let keys = judged.keys.iter().take(HEAT_KEYS_MAX);
        HeatReport {
            partitions: self.busiest.clone(),
            keys: keys
                .map(|key| KeyHeat {
                    partition: key.partition,
                    hash: key.hash.0,
                    name: key.key.as_ref().map(|name| name.to_vec()),
                    reads_per_second: key.reads_per_second.round() as u64,
                    writes_per_second: key.writes_per_second.round() as u64,
                    bytes_per_second: key.bytes_per_second.round() as u64,
                    hot_for_ms: now.minus(key.since).0 / 1_000,
                })
                .collect(),
        }
    }
}

/// Xorshift32 (Marsaglia, "Xorshift RNGs", 2003), one for each thread: whether a request is a
/// sample need not be unpredictable, only cheap and in no step with what clients do.
fn random() -> u32 {
    thread_local! {
        static STATE: Cell<u32> = Cell::new(rand::random::<u32>() | 1);
    }
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        state.set(x);
        x
    })
}

#[cfg(test)]
mod tests {
    use cairn_core::kv::request::Condition;

    use super::*;

    const P: PartitionId = PartitionId(3);

    fn ask(heat: &Heat, hot: &[u8], of: usize) {
        for n in 0..of {
            if n % 50 == 0 {
                heat.read(P, hot, 100);
            } else {
                heat.read(P, format!("key {n}").as_bytes(), 10);
            }
        }
    }

    fn seconds(n: u64) -> Micros {
        Micros::from_millis(n * 1_000)
    }

    #[test]
    fn few_requests_are_all_looked_at_and_many_are_sampled() {
        let heat = Heat::new(HotKeysShown::Hashes);
        let mut judge = HeatJudge::new(seconds(0));
        ask(&heat, b"hot", 1_000);
        assert_eq!(heat.waiting.lock().len(), 1_000);
        judge.judge(seconds(1), &heat);
        assert_eq!(heat.every.load(Ordering::Relaxed), 1);
        for second in 2..8 {
            ask(&heat, b"hot", 200_000);
            let sampled = heat.waiting.lock().len();
            assert!(sampled <= WAITING_MAX && (second < 4 || sampled < 2 * SAMPLES));
            judge.judge(seconds(second), &heat);
        }
        // 200,000 a second over 64 are 3,125 samples.
        assert_eq!(heat.every.load(Ordering::Relaxed), 64);
        let judged = heat.judged();
        let asked = judged.requests_per_second;
        assert!((150_000.0..250_000.0).contains(&asked), "{judged:?}");
        assert_eq!(judged.keys.len(), 1, "{judged:?}");
        assert_eq!(judged.keys[0].hash, KeyHash::of(b"hot"));
        assert_eq!(judged.keys[0].key, None, "names are not told");
        assert!((0.01..0.03).contains(&judged.keys[0].share), "{judged:?}");
        for second in 8..30 {
            ask(&heat, b"other", 100);
            judge.judge(seconds(second), &heat);
        }
        assert_eq!(heat.every.load(Ordering::Relaxed), 1);
        assert_eq!(heat.judged().keys, [], "little is asked");
    }

    /// Where all is asked at the same pace, the pace is what is told, from the first second on.
    #[test]
    fn rates_are_told_as_they_are() {
        let heat = Heat::new(HotKeysShown::Hashes);
        let mut judge = HeatJudge::new(seconds(0));
        for second in 1..20 {
            ask(&heat, b"hot", 2_000);
            judge.judge(seconds(second), &heat);
            let judged = heat.judged();
            let asked = judged.requests_per_second;
            assert!((1_940.0..2_060.0).contains(&asked), "{judged:?}");
        }
        let judged = heat.judged();
        let key = &judged.keys[0];
        assert!((36.0..44.0).contains(&key.reads_per_second), "{judged:?}");
        assert!(
            (3_600.0..4_400.0).contains(&key.bytes_per_second),
            "{judged:?}"
        );
    }

    /// However few are timed, what they stand for is what all of them take.
    #[test]
    fn the_time_of_samples_stands_for_that_of_all() {
        let heat = Heat::new(HotKeysShown::Off);
        let work = || (0..20_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n * n));
        let spent = || heat.take_spent().remove(&P).unwrap_or_default();
        let all = |every: u32| {
            heat.every.store(every, Ordering::Relaxed);
            let since = thread_time();
            for _ in 0..4_000 {
                heat.timed(P, work);
            }
            thread_time().saturating_sub(since).as_secs_f64()
        };
        for every in [1, 16] {
            let (took, told) = (all(every), spent().as_secs_f64());
            // Of 250 samples one may have been interrupted more often than others.
            assert!((0.5..1.5).contains(&(told / took)), "{told} of {took}");
        }
    }

    #[test]
    fn names_are_told_where_that_is_set_unless_they_are_long() {
        let heat = Heat::new(HotKeysShown::Names);
        let mut judge = HeatJudge::new(seconds(0));
        let long = vec![b'x'; NAME_BYTES_MAX + 1];
        let keys = [Bytes::from_static(b"short"), long.into()];
        for second in 1..4 {
            for key in keys.iter().cycle().take(400) {
                let op = WriteOp::Delete {
                    key: key.clone(),
                    condition: Condition::default(),
                };
                heat.write(P, &op);
            }
            judge.judge(seconds(second), &heat);
        }
        let judged = heat.judged();
        let named: Vec<&Option<Bytes>> = judged.keys.iter().map(|one| &one.key).collect();
        assert_eq!(named.len(), 2);
        assert!(named.contains(&&Some(keys[0].clone())) && named.contains(&&None));
        assert!(judged.keys.iter().all(|one| one.reads_per_second == 0.0));
    }

    #[test]
    fn where_nobody_looks_for_keys_no_key_is_kept() {
        let heat = Heat::new(HotKeysShown::Off);
        let mut judge = HeatJudge::new(seconds(0));
        ask(&heat, b"hot", 1_000);
        for _ in 0..500 {
            heat.replica_read(P);
        }
        let other = PartitionId(9);
        heat.spent(&[(P, 2), (other, 3), (P, 1)], Duration::from_micros(800));
        let nameless = |touch: &Touch| touch.hash == KeyHash(0) && touch.key.is_none();
        assert!(heat.waiting.lock().iter().all(nameless));
        assert_eq!(judge.judge(seconds(1), &heat), 0);
        assert_eq!(*heat.judged(), Heated::default());
        // How much the partition is asked is told all the same.
        let report = judge.report(seconds(1), &heat);
        assert_eq!(report.keys, []);
        let [(partition, load)] = report.partitions[..] else {
            panic!("{report:?}");
        };
        assert_eq!((partition, load.reads_per_second), (P, 1_000));
        assert_eq!(load.replica_reads_per_second, 500);
        assert_eq!(load.processor_micros_per_second, 400);
    }
}
