//! A replica that clients read hears its primary alone, while another primary is wanted: of
//! what is decided then it hears nothing, and what it may answer is told by leases alone.

use cairn_core::cluster::supervisor::{AdminRequest, Input};
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::PartitionRecord;
use rand::Rng;
use rand::rngs::StdRng;

use crate::coordinators::Doing;

use super::{Brain, COORDINATORS, Happening, World};

/// What is to happen to it.
#[derive(Debug)]
pub(super) enum Confined {
    /// It is read, until then.
    Read {
        node: NodeId,
        partition: PartitionId,
        until: Micros,
    },
    /// Another primary is wanted: this one, where one is named, and by what the old one hands over.
    Follow {
        partition: PartitionId,
        hand_over: bool,
        to: Option<NodeId>,
    },
}

/// Whom the coordinators are not to hear from when they have raised a partition's epoch.
#[derive(Debug)]
pub(super) struct Silence {
    partition: PartitionId,
    node: NodeId,
    until: Micros,
}

impl World {
    /// Nobody writes for a while, so that whoever reads may be granted leases for that; and the
    /// primary may hear too little of the others for a whole lease of its own, so that it
    /// rests on the one that is read.
    pub(super) fn confine(&mut self, rng: &mut StdRng) {
        let partition = self.partitions.draw(rng);
        let Some(record) = self.record(partition) else {
            return;
        };
        let Some(primary) = record.primary else {
            return;
        };
        let config = &record.config;
        let mut others = config.answering_reads();
        others.retain(|member| member.node != primary.node);
        if others.is_empty() {
            return;
        }
        let read = others.swap_remove(rng.random_range(0..others.len())).node;
        let lease = self.timing.lease.0;
        let parted = rng.random_bool(0.5);
        let quiet = match parted {
            true => lease + rng.random_range(0..lease),
            false => rng.random_range(0..lease),
        };
        let turn = 110_000 + quiet;
        let until = self
            .now
            .plus(Micros(turn + rng.random_range(20_000..300_000)));
        let turned = self.now.plus(Micros(turn));
        let again = turned.plus(Micros(rng.random_range(0..20_000)));
        self.hushed.insert(partition, again);
        let (old, f) = (primary.node.0, read.0);
        self.cut_all_but(read, &[old], until);
        if parted {
            let again = turned.plus(Micros(rng.random_range(0..5_000)));
            self.cut_all_but(primary.node, &[f, COORDINATORS], again);
        }
        self.say(|| format!("{read} hears {old} alone, and is read, until {until:?}"));
        self.coverage.count("confined replica");
        self.at(
            0,
            Happening::Confined(Confined::Read {
                node: read,
                partition,
                until,
            }),
        );
        let to = others.first().map(|member| member.node);
        let hand_over = rng.random_bool(0.5);
        let follow = Confined::Follow {
            partition,
            hand_over,
            to: to.filter(|_| rng.random_bool(0.7)),
        };
        self.at(turn, Happening::Confined(follow));
        if rng.random_bool(0.5) {
            // The coordinators do not hear what it granted.
            self.silence = Some(Silence {
                partition,
                node: primary.node,
                until,
            });
        }
    }

    /// Whether nobody is to write to a partition just now.
    pub(super) fn is_hushed(&self, partition: PartitionId) -> bool {
        let until = self.hushed.get(&partition);
        until.is_some_and(|until| *until > self.now)
    }

    /// The coordinators have decided on a record.
    pub(super) fn keep_silent(&mut self, record: &PartitionRecord) {
        let named = |silence: &Silence| silence.partition == record.id && record.primary.is_none();
        if let Some(Silence { node, until, .. }) = self.silence.take_if(|silence| named(silence)) {
            let others: Vec<u64> = (1..=self.nodes.len() as u64).collect();
            self.cut_all_but(node, &others, until);
            self.say(|| format!("the coordinators do not hear {node} until {until:?}"));
        }
    }

    /// Something happens to it.
    pub(super) fn confined(&mut self, confined: Confined) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        match confined {
            Confined::Read {
                node,
                partition,
                until,
            } => {
                if self.now >= until {
                    return Ok(());
                }
                let after = self.rng.random_range(300..3_000);
                self.at(after, Happening::Confined(confined));
                let n = (node.0 - 1) as usize;
                self.read_at(n, partition, ReadLevel::Replica)
            }
            Confined::Follow {
                partition,
                hand_over,
                to,
            } => {
                if let Brain::StandIn(stand_in) = &mut self.brain {
                    let stand_in = &mut stand_in[partition.0 as usize];
                    let mut acts = Vec::new();
                    if matches!(stand_in.doing, Doing::Idle) {
                        stand_in.promote(self.now, &mut acts);
                    }
                    return self.act(partition, acts);
                }
                let request = match hand_over {
                    true => AdminRequest::HandOver { partition, to },
                    false => AdminRequest::Promote { partition },
                };
                self.supervise(Input::Admin(request))
            }
        }
    }

    fn cut_all_but(&mut self, node: NodeId, but: &[u64], until: Micros) {
        for other in COORDINATORS..=self.nodes.len() as u64 {
            if other != node.0 && !but.contains(&other) {
                self.cut.insert((node.0, other), until);
                self.cut.insert((other, node.0), until);
            }
        }
    }
}
