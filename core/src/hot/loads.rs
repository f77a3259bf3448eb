//! How much each partition is asked on one node, from samples.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Micros, PartitionId};

/// What clients ask of one partition where it is told, in a second, smoothed over a few.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionLoad {
    /// Reads.
    pub reads_per_second: u64,
    /// Of those, the ones that any replica may answer: of the levels `replica` and `any`.
    pub replica_reads_per_second: u64,
    /// Writes.
    pub writes_per_second: u64,
    /// Bytes that those reads found and those writes brought.
    pub bytes_per_second: u64,
    /// Microseconds on a processor that deciding on writes, applying them and answering reads at
    /// once took; 0 from a build that does not tell.
    #[serde(default)]
    pub processor_micros_per_second: u64,
}

impl PartitionLoad {
    /// Reads and writes.
    #[must_use]
    pub fn requests_per_second(&self) -> u64 {
        self.reads_per_second.saturating_add(self.writes_per_second)
    }

    /// The sum of two nodes' shares.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = u64::saturating_add;
        Self {
            reads_per_second: sum(self.reads_per_second, other.reads_per_second),
            replica_reads_per_second: sum(
                self.replica_reads_per_second,
                other.replica_reads_per_second,
            ),
            writes_per_second: sum(self.writes_per_second, other.writes_per_second),
            bytes_per_second: sum(self.bytes_per_second, other.bytes_per_second),
            processor_micros_per_second: sum(
                self.processor_micros_per_second,
                other.processor_micros_per_second,
            ),
        }
    }
}

/// After how long what is past counts half.
const HALF_LIFE_SECONDS: f64 = 2.0;
/// Below this many requests in a second a partition is forgotten.
const LEAST: f64 = 0.5;

#[derive(Clone, Copy, Debug, Default)]
struct Rates([f64; 5]);

/// Counts what is asked, and smooths it each time that it is judged.
#[derive(Debug, Default)]
pub struct Loads {
    counted: BTreeMap<PartitionId, Rates>,
    smooth: BTreeMap<PartitionId, Rates>,
}

impl Loads {
    /// A read that stands for `weight` of them, and found so many bytes.
    pub fn read(&mut self, partition: PartitionId, bytes: u64, weight: u32) {
        self.count(partition, 0, weight);
        self.bytes(partition, bytes, weight);
    }

    /// Reads that any replica may answer; they are counted as reads besides.
    pub fn replica_reads(&mut self, partition: PartitionId, weight: u64) {
        let Rates(of) = self.counted.entry(partition).or_default();
        of[1] += weight as f64;
    }

    /// A write that stands for `weight` of them, and brought so many bytes.
    pub fn write(&mut self, partition: PartitionId, bytes: u64, weight: u32) {
        self.count(partition, 2, weight);
        self.bytes(partition, bytes, weight);
    }

    /// Time on a processor that the partition took.
    pub fn processor(&mut self, partition: PartitionId, time: Duration) {
        let Rates(of) = self.counted.entry(partition).or_default();
        of[4] += time.as_secs_f64() * 1e6;
    }

    fn count(&mut self, partition: PartitionId, at: usize, weight: u32) {
        let Rates(of) = self.counted.entry(partition).or_default();
        of[at] += f64::from(weight);
    }

    fn bytes(&mut self, partition: PartitionId, bytes: u64, weight: u32) {
        let Rates(of) = self.counted.entry(partition).or_default();
        of[3] += bytes as f64 * f64::from(weight);
    }

    /// What was asked in the time that passed since it was judged last: the busiest partitions
    /// first, at most `most` of them.
    pub fn judge(&mut self, passed: Micros, most: usize) -> Vec<(PartitionId, PartitionLoad)> {
        let seconds = passed.0 as f64 / 1e6;
        let counted = std::mem::take(&mut self.counted);
        if seconds > 0.0 {
            let kept = 0.5_f64.powf(seconds / HALF_LIFE_SECONDS);
            for Rates(of) in self.smooth.values_mut() {
                for rate in of {
                    *rate *= kept;
                }
            }
            for (partition, Rates(new)) in counted {
                let known = self.smooth.contains_key(&partition);
                // One that was not asked anything begins where it is.
                let part = if known { 1.0 - kept } else { 1.0 };
                let Rates(of) = self.smooth.entry(partition).or_default();
                for (rate, new) in of.iter_mut().zip(new) {
                    *rate += part * new / seconds;
                }
            }
            self.smooth.retain(|_, Rates(of)| of[0] + of[2] >= LEAST);
        }
        let mut told: Vec<(PartitionId, PartitionLoad)> = self
            .smooth
            .iter()
            .map(
                |(partition, Rates([reads, any, writes, bytes, processor]))| {
                    let load = PartitionLoad {
                        reads_per_second: reads.round() as u64,
                        // Two samples of one thing may differ by chance.
                        replica_reads_per_second: any.min(*reads).round() as u64,
                        writes_per_second: writes.round() as u64,
                        bytes_per_second: bytes.round() as u64,
                        processor_micros_per_second: processor.round() as u64,
                    };
                    (*partition, load)
                },
            )
            .collect();
        told.sort_by_key(|(partition, load)| {
            (std::cmp::Reverse(load.requests_per_second()), *partition)
        });
        told.truncate(most);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = Micros::from_millis(1_000);

    #[test]
    fn a_steady_load_is_told_as_it_is_and_fades_when_it_ends() {
        let mut loads = Loads::default();
        let (busy, idle) = (PartitionId(1), PartitionId(2));
        for _ in 0..20 {
            for n in 0..100 {
                loads.read(busy, 50, 8);
                if n % 2 == 0 {
                    loads.replica_reads(busy, 8);
                }
            }
            loads.write(idle, 1_000, 4);
            loads.processor(idle, Duration::from_micros(250));
            // A replica that nobody asks works as well, and is none of those that are asked.
            loads.processor(PartitionId(3), Duration::from_millis(1));
            let told = loads.judge(SECOND, 8);
            assert_eq!(told[0].0, busy);
            let load = told[0].1;
            assert!((799..=801).contains(&load.reads_per_second), "{load:?}");
            assert!(
                (399..=401).contains(&load.replica_reads_per_second),
                "{load:?}"
            );
            assert_eq!(told[1].1.writes_per_second, 4);
            assert_eq!(told[1].1.bytes_per_second, 4_000);
            assert_eq!(told[1].1.processor_micros_per_second, 250);
            assert_eq!(told.len(), 2);
        }
        assert_eq!(loads.judge(SECOND, 1).len(), 1, "only as many as asked for");
        for _ in 0..60 {
            loads.judge(SECOND, 8);
        }
        assert_eq!(loads.judge(SECOND, 8), []);
    }
}
