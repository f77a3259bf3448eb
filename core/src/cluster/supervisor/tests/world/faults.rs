//! What befalls a node: power cuts, starts, damage.

use super::*;

impl World {
    /// A power cut: what was not flushed is gone.
    pub(in crate::cluster::supervisor::tests) fn kill(&mut self, node: NodeId) {
        let now = self.now;
        let sim = self.nodes.get_mut(&node).expect("a node");
        sim.alive = false;
        for replica in sim.replicas.values_mut() {
            replica.settle(now);
        }
        if self.nodes[&node].stream_open {
            self.set_stream(node, false);
            self.feed(Input::StreamClosed { node });
        }
    }

    /// The process starts again, on its disk.
    pub(in crate::cluster::supervisor::tests) fn start(&mut self, node: NodeId) {
        let now = self.now;
        let sim = self.nodes.get_mut(&node).expect("a node");
        if sim.alive {
            return;
        }
        sim.alive = true;
        sim.session += 1;
        for (partition, replica) in &mut sim.replicas {
            if replica.flushed_promise != replica.promised {
                replica.promised = replica.flushed_promise;
                replica.flushed_at = 0;
                sim.known.remove(partition);
            }
            // Grants are not durable: a full one counts as given (rule 5).
            replica.started_until = now + LEASE;
            replica.hands_over_at = None;
            let led = replica.rose.take() == Some(replica.promised);
            replica.role = if led { Role::Suspended } else { Role::Replica };
            replica.wish = if !replica.whole && !replica.intact {
                Wish::Replace
            } else if led {
                Wish::Promote
            } else {
                Wish::None
            };
        }
    }

    /// Reading found damage.
    pub(in crate::cluster::supervisor::tests) fn corrupt(
        &mut self,
        node: NodeId,
        partition: PartitionId,
    ) {
        if let Some(replica) = self
            .nodes
            .get_mut(&node)
            .and_then(|n| n.replicas.get_mut(&partition))
        {
            replica.whole = false;
            replica.role = Role::Replica;
            replica.wish = Wish::Replace;
            replica.rose = None;
        }
    }

    /// A start found one range of entries missing, and the rest intact.
    pub(in crate::cluster::supervisor::tests) fn lose_range(
        &mut self,
        node: NodeId,
        partition: PartitionId,
    ) {
        self.corrupt(node, partition);
        let there = self.nodes.get_mut(&node);
        if let Some(replica) = there.and_then(|n| n.replicas.get_mut(&partition)) {
            replica.intact = true;
            replica.wish = Wish::None;
        }
    }
}
