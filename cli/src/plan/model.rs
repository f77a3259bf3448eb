//! What a cluster needs, and whether its nodes have it: arithmetic alone.
//!
//! Load and data lie evenly on the nodes but for `skew`, by which the busiest exceeds the mean;
//! every figure is the busiest node's. A lost node's share is taken over by the others in full,
//! as it is once its replicas were made anew there.

use serde::Serialize;

/// The most nodes that are tried when it is asked how many would do.
const NODES_MAX: u32 = 10_000;

/// What is wanted of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wanted {
    /// Of keys and values, once.
    pub(super) logical_bytes: f64,
    pub(super) replication_factor: u8,
    /// On average, all clients together.
    pub(super) operations_per_second: f64,
    /// What of them reads, from 0 to 1.
    pub(super) read_share: f64,
    pub(super) key_bytes: f64,
    pub(super) value_bytes: f64,
    pub(super) data_nodes: u32,
    /// How much more the peak is than the average.
    pub(super) peak: f64,
    /// How many data nodes may be gone while the peak is carried.
    pub(super) nodes_lost: u32,
    /// By what the busiest node exceeds the mean: 1 is even.
    pub(super) skew: f64,
}

/// What one operation, or one byte, costs a node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Costs {
    pub(super) lead_cpu_us: f64,
    pub(super) follow_cpu_us: f64,
    pub(super) read_cpu_us: f64,
    pub(super) kib_cpu_us: f64,
    pub(super) write_amplification: f64,
    pub(super) entries_per_flush: f64,
    pub(super) space_amplification: f64,
    pub(super) key_overhead_bytes: f64,
    pub(super) key_memory_bytes: f64,
    pub(super) base_memory_bytes: f64,
    pub(super) base_disk_bytes: f64,
}

/// What one node has, and how much of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limits {
    pub(super) processors: f64,
    pub(super) flushes_per_second: f64,
    pub(super) disk_bytes_per_second: f64,
    /// Each way.
    pub(super) network_bytes_per_second: f64,
    /// None: what is needed is only told.
    pub(super) memory_bytes: Option<f64>,
    pub(super) volume_bytes: Option<f64>,
    pub(super) copy_bytes_per_second: f64,
    /// What of processors, disk, network and volume may be used at most, from 0 to 1.
    pub(super) fill: f64,
}

/// What the busiest node does in one situation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) operations_per_second: f64,
    pub(super) reads_per_second: f64,
    /// Of partitions that it leads.
    pub(super) writes_per_second: f64,
    /// Entries that it appends to its log, as primary or not.
    pub(super) entries_per_second: f64,
    pub(super) processors: f64,
    /// So many suffice, each for as many entries as one may cover.
    pub(super) flushes_per_second: f64,
    pub(super) disk_bytes_per_second: f64,
    pub(super) network_in_bytes_per_second: f64,
    pub(super) network_out_bytes_per_second: f64,
    pub(super) stored_bytes: f64,
    pub(super) memory_bytes: f64,
}

/// A situation that the cluster is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Situation {
    Average,
    Peak,
    PeakAndNodesLost,
}

impl Situation {
    pub(super) const ALL: [Self; 3] = [Self::Average, Self::Peak, Self::PeakAndNodesLost];
}

/// One quantity that a node has too little of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exceeded {
    pub(super) what: &'static str,
    pub(super) situation: Situation,
    /// What is needed over what may be used.
    pub(super) ratio: f64,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    pub(super) wanted: Wanted,
    pub(super) costs: Costs,
    pub(super) limits: Limits,
    /// Of all replicas, without what the store adds.
    pub(super) replicated_bytes: f64,
    pub(super) average: Node,
    pub(super) peak: Node,
    pub(super) peak_and_nodes_lost: Node,
    /// What a volume has to hold, so that it is no fuller than it may be with nodes lost.
    pub(super) volume_bytes: f64,
    /// What a pod should ask for.
    pub(super) memory_bytes: f64,
    /// How long the others take to make a lost node's replicas anew.
    pub(super) copy_seconds: f64,
    pub(super) exceeded: Vec<Exceeded>,
    /// The fewest data nodes of this kind that would do, and make anew what was lost; none where
    /// no number does.
    pub(super) data_nodes_needed: Option<u32>,
    pub(super) notes: Vec<String>,
    pub(super) fits: bool,
}

/// Bytes of a message beside keys and values: headers of the protocols, positions, checksums.
const MESSAGE_BYTES: f64 = 60.0;

impl Wanted {
    /// Data nodes that are there.
    fn nodes(&self, situation: Situation) -> f64 {
        let lost = match situation {
            Situation::Average | Situation::Peak => 0,
            Situation::PeakAndNodesLost => self.nodes_lost,
        };
        f64::from(self.data_nodes.saturating_sub(lost).max(1))
    }

    fn operations(&self, situation: Situation) -> f64 {
        match situation {
            Situation::Average => self.operations_per_second,
            Situation::Peak | Situation::PeakAndNodesLost => self.operations_per_second * self.peak,
        }
    }

    fn keys(&self) -> f64 {
        self.logical_bytes / (self.key_bytes + self.value_bytes).max(1.0)
    }

    /// The busiest node's share of the cluster, and how many copies there are of everything.
    fn share(&self, situation: Situation) -> (f64, f64) {
        let nodes = self.nodes(situation);
        // Fewer nodes than copies: each holds all there is.
        let copies = f64::from(self.replication_factor).min(nodes);
        ((self.skew / nodes).min(1.0), copies)
    }

    pub(super) fn node(&self, situation: Situation, costs: &Costs) -> Node {
        let (share, copies) = self.share(situation);
        let operations = self.operations(situation);
        let reads = operations * self.read_share * share;
        let writes = operations * (1.0 - self.read_share) * share;
        let follows = writes * (copies - 1.0);
        let entries = writes + follows;
        let message = self.key_bytes + self.value_bytes + MESSAGE_BYTES;
        let question = self.key_bytes + MESSAGE_BYTES;
        let answer = self.value_bytes + MESSAGE_BYTES;
        let kib = self.value_bytes / 1024.0 * costs.kib_cpu_us;
        let cpu_us = writes * (costs.lead_cpu_us + kib)
            + follows * (costs.follow_cpu_us + kib)
            + reads * (costs.read_cpu_us + kib);
        let held =
            self.logical_bytes * costs.space_amplification + self.keys() * costs.key_overhead_bytes;
        Node {
            operations_per_second: reads + writes,
            reads_per_second: reads,
            writes_per_second: writes,
            entries_per_second: entries,
            processors: cpu_us / 1e6,
            flushes_per_second: entries / costs.entries_per_flush.max(1.0),
            disk_bytes_per_second: entries
                * (self.key_bytes + self.value_bytes)
                * costs.write_amplification,
            // From clients and from primaries; and the other replicas' acknowledgements.
            network_in_bytes_per_second: writes * message
                + reads * question
                + follows * (message + MESSAGE_BYTES),
            // To clients and to the other replicas; and acknowledgements.
            network_out_bytes_per_second: reads * answer
                + writes * MESSAGE_BYTES
                + follows * (message + MESSAGE_BYTES),
            stored_bytes: held * copies * share + costs.base_disk_bytes,
            memory_bytes: costs.base_memory_bytes
                + self.keys() * copies * share * costs.key_memory_bytes,
        }
    }
}

fn exceeded(wanted: &Wanted, costs: &Costs, limits: &Limits) -> Vec<Exceeded> {
    let mut found = Vec::new();
    for situation in Situation::ALL {
        let node = wanted.node(situation, costs);
        let mut hold = |what: &'static str, needed: f64, has: Option<f64>| {
            if let Some(has) = has
                && needed > has
            {
                found.push(Exceeded {
                    what,
                    situation,
                    ratio: needed / has.max(f64::MIN_POSITIVE),
                });
            }
        };
        let fill = |figure: f64| Some(figure * limits.fill);
        hold("processors", node.processors, fill(limits.processors));
        hold(
            "flushes",
            node.flushes_per_second,
            fill(limits.flushes_per_second),
        );
        hold(
            "disk writes",
            node.disk_bytes_per_second,
            fill(limits.disk_bytes_per_second),
        );
        let network = node
            .network_in_bytes_per_second
            .max(node.network_out_bytes_per_second);
        hold("network", network, fill(limits.network_bytes_per_second));
        let volume = limits.volume_bytes.and_then(fill);
        hold("volume", node.stored_bytes, volume);
        hold("memory", node.memory_bytes, limits.memory_bytes);
    }
    found
}

/// Whether there are as many nodes as replicas, with those lost.
fn enough_nodes(wanted: &Wanted) -> bool {
    wanted.data_nodes >= u32::from(wanted.replication_factor).max(wanted.nodes_lost + 1)
}

/// Works it out.
pub(super) fn plan(wanted: Wanted, costs: Costs, limits: Limits) -> Plan {
    let [average, peak, peak_and_nodes_lost] =
        Situation::ALL.map(|situation| wanted.node(situation, &costs));
    let exceeded = exceeded(&wanted, &costs, &limits);
    let left = wanted.nodes(Situation::PeakAndNodesLost);
    let lost_bytes = peak.stored_bytes - costs.base_disk_bytes;
    let fits = exceeded.is_empty() && enough_nodes(&wanted);
    Plan {
        replicated_bytes: wanted.logical_bytes * f64::from(wanted.replication_factor),
        volume_bytes: peak_and_nodes_lost.stored_bytes.max(peak.stored_bytes) / limits.fill,
        // What is not the process's own is the kernel's cache of files, which is what keeps
        // reads of the store from the disk.
        memory_bytes: peak_and_nodes_lost.memory_bytes.max(peak.memory_bytes) * 1.25,
        copy_seconds: f64::from(wanted.nodes_lost) * lost_bytes
            / (left * limits.copy_bytes_per_second),
        data_nodes_needed: needed(&wanted, &costs, &limits),
        notes: notes(&wanted),
        wanted,
        costs,
        limits,
        average,
        peak,
        peak_and_nodes_lost,
        exceeded,
        fits,
    }
}

fn needed(wanted: &Wanted, costs: &Costs, limits: &Limits) -> Option<u32> {
    // With those lost there are as many left as there are to be replicas, so that what they held
    // can be made anew.
    let least = u32::from(wanted.replication_factor) + wanted.nodes_lost;
    (least..=NODES_MAX).find(|&data_nodes| {
        let tried = Wanted {
            data_nodes,
            ..*wanted
        };
        exceeded(&tried, costs, limits).is_empty()
    })
}

fn notes(wanted: &Wanted) -> Vec<String> {
    let mut notes = Vec::new();
    let copies = u32::from(wanted.replication_factor);
    let left = wanted.data_nodes.saturating_sub(wanted.nodes_lost);
    let majority = copies / 2 + 1;
    if wanted.data_nodes < copies {
        notes.push(format!(
            "{} data nodes cannot hold {copies} replicas of anything: give at least {copies}",
            wanted.data_nodes
        ));
    } else if wanted.nodes_lost > 0 && left < majority {
        notes.push(format!(
            "with {} of {} data nodes lost, no partition has a majority of its {copies} replicas: \
             it stands still",
            wanted.nodes_lost, wanted.data_nodes
        ));
    } else if wanted.nodes_lost > 0 && left < copies {
        notes.push(format!(
            "with {} of {} data nodes lost there are fewer nodes than replicas: what was lost is \
             not made anew until one is back",
            wanted.nodes_lost, wanted.data_nodes
        ));
    } else if wanted.nodes_lost >= majority {
        notes.push(format!(
            "where {} nodes are lost at once, partitions of which {majority} replicas were on \
             them stand still until one is back; lost one after the other, they are made anew \
             between",
            wanted.nodes_lost
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::measured::COSTS;
    use super::*;

    /// One terabyte, three copies, 20,000 operations a second over five nodes, twice that at
    /// the peak, one node lost.
    fn wanted() -> Wanted {
        Wanted {
            logical_bytes: 1e12,
            replication_factor: 3,
            operations_per_second: 20_000.0,
            read_share: 0.5,
            key_bytes: 16.0,
            value_bytes: 1_024.0,
            data_nodes: 5,
            peak: 2.0,
            nodes_lost: 1,
            skew: 1.0,
        }
    }

    fn limits() -> Limits {
        Limits {
            processors: 4.0,
            flushes_per_second: 2_000.0,
            disk_bytes_per_second: 1e9,
            network_bytes_per_second: 1e9,
            memory_bytes: None,
            volume_bytes: None,
            copy_bytes_per_second: 40e6,
            fill: 0.75,
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} is not {b}");
    }

    #[test]
    fn a_terabyte_thrice_over_five_nodes() {
        let plan = plan(wanted(), COSTS, limits());
        close(plan.replicated_bytes, 3e12);
        close(plan.average.operations_per_second, 4_000.0);
        close(plan.peak.operations_per_second, 8_000.0);
        close(plan.peak_and_nodes_lost.operations_per_second, 10_000.0);
        // Each write is in three logs, whoever leads it.
        close(plan.average.entries_per_second, 6_000.0);
        close(
            plan.average.entries_per_second,
            3.0 * plan.average.writes_per_second,
        );
        let each = plan.peak.stored_bytes - COSTS.base_disk_bytes;
        let keys = 1e12 / 1_040.0;
        close(
            each,
            (1e12 * COSTS.space_amplification + keys * COSTS.key_overhead_bytes) * 3.0 / 5.0,
        );
        // Four nodes hold what five did.
        let four = plan.peak_and_nodes_lost.stored_bytes - COSTS.base_disk_bytes;
        close(four / each, 5.0 / 4.0);
        close(
            plan.volume_bytes * 0.75,
            plan.peak_and_nodes_lost.stored_bytes,
        );
        close(plan.copy_seconds, each / (4.0 * 40e6));
    }

    #[test]
    fn what_is_exceeded_is_named_with_how_many_nodes_would_do() {
        assert!(plan(wanted(), COSTS, limits()).fits);
        let hungry = Wanted {
            operations_per_second: 400_000.0,
            ..wanted()
        };
        let small = plan(hungry, COSTS, limits());
        assert!(!small.fits);
        let processors = |it: &&Exceeded| it.what == "processors";
        let found = small.exceeded.iter().find(processors).expect("exceeded");
        assert!(found.ratio > 1.0);
        let needed = small.data_nodes_needed.expect("some number does");
        assert!(needed > 5);
        let with = |data_nodes| {
            plan(
                Wanted {
                    data_nodes,
                    ..hungry
                },
                COSTS,
                limits(),
            )
        };
        assert!(with(needed).fits && !with(needed - 1).fits);
        // No number of nodes makes one node's memory larger than what every node needs.
        let bounded = Limits {
            memory_bytes: Some(1e6),
            ..limits()
        };
        let never = plan(wanted(), COSTS, bounded);
        assert_eq!(never.data_nodes_needed, None);
        assert!(never.exceeded.iter().all(|it| it.what == "memory"));
    }

    #[test]
    fn more_of_anything_never_needs_less() {
        let base = plan(wanted(), COSTS, limits());
        let more = [
            Wanted {
                operations_per_second: 30_000.0,
                ..wanted()
            },
            Wanted {
                value_bytes: 4_096.0,
                ..wanted()
            },
            Wanted {
                skew: 1.3,
                ..wanted()
            },
            Wanted {
                nodes_lost: 2,
                ..wanted()
            },
            Wanted {
                peak: 3.0,
                ..wanted()
            },
        ];
        for wanted in more {
            let node = plan(wanted, COSTS, limits()).peak_and_nodes_lost;
            let (was, is) = (base.peak_and_nodes_lost, node);
            assert!(is.processors > was.processors, "{wanted:?}");
            assert!(
                is.disk_bytes_per_second > was.disk_bytes_per_second,
                "{wanted:?}"
            );
            assert!(
                is.network_out_bytes_per_second > was.network_out_bytes_per_second,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn what_such_a_cluster_cannot_do_is_said() {
        let notes = |data_nodes, nodes_lost| {
            plan(
                Wanted {
                    data_nodes,
                    nodes_lost,
                    ..wanted()
                },
                COSTS,
                limits(),
            )
        };
        assert!(notes(5, 1).notes.is_empty());
        let too_few = notes(2, 0);
        assert!(
            !too_few.fits && too_few.notes[0].contains("at least 3"),
            "{too_few:?}"
        );
        assert!(notes(3, 1).notes[0].contains("fewer nodes than replicas"));
        assert!(notes(3, 2).notes[0].contains("stands still"));
        assert!(notes(9, 2).notes[0].contains("at once"));
        assert!(!notes(3, 3).fits);
    }
}
