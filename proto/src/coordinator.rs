//! Orders, reports and heartbeats.

use cairn_core::cluster::report::{
    CopyProgress, FollowerStatus, Heartbeat, HeatReport, NodeFigures, Order, PartitionStatus,
    ReplicaReport, Role, Wish,
};
use cairn_core::ids::{Epoch, Index, MapVersion, Micros, NodeId, ReplicaId};

use crate::limits;
use crate::malformed::{Malformed, bounded, list, required};
use crate::map::{partition, position};
use crate::pb::coordinator::v1 as pb;

impl From<Order> for pb::Order {
    fn from(order: Order) -> Self {
        let order = match order {
            Order::Ask { partition, round } => pb::order::Order::Ask(pb::Ask {
                partition: partition.0,
                round,
            }),
            Order::Fence {
                partition,
                epoch,
                round,
            } => pb::order::Order::Fence(pb::Fence {
                partition: partition.0,
                epoch: epoch.0,
                round,
            }),
            Order::HandOver {
                partition,
                epoch,
                to,
            } => pb::order::Order::HandOver(pb::HandOver {
                partition: partition.0,
                epoch: epoch.0,
                to: Some(to.into()),
            }),
        };
        Self { order: Some(order) }
    }
}

impl TryFrom<pb::Order> for Order {
    type Error = Malformed;

    fn try_from(pb::Order { order }: pb::Order) -> Result<Self, Malformed> {
        Ok(match order.ok_or_else(|| Malformed::missing("order"))? {
            pb::order::Order::Ask(pb::Ask {
                partition: id,
                round,
            }) => Self::Ask {
                partition: partition(id, "ask.partition")?,
                round,
            },
            pb::order::Order::Fence(pb::Fence {
                partition: id,
                epoch,
                round,
            }) => Self::Fence {
                partition: partition(id, "fence.partition")?,
                epoch: Epoch(epoch),
                round,
            },
            pb::order::Order::HandOver(pb::HandOver {
                partition: id,
                epoch,
                to,
            }) => Self::HandOver {
                partition: partition(id, "hand_over.partition")?,
                epoch: Epoch(epoch),
                to: required(to, "hand_over.to")?,
            },
        })
    }
}

impl From<Vec<Order>> for pb::Orders {
    fn from(orders: Vec<Order>) -> Self {
        Self {
            orders: orders.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Orders> for Vec<Order> {
    type Error = Malformed;

    fn try_from(pb::Orders { orders }: pb::Orders) -> Result<Self, Malformed> {
        list(orders, limits::ORDERS, "orders")
    }
}

impl From<ReplicaReport> for pb::ReplicaReport {
    fn from(
        ReplicaReport {
            partition,
            member,
            round,
            fenced,
            promised,
            head,
            commit,
            whole,
            head_intact,
            lease_current,
            lease_remaining,
        }: ReplicaReport,
    ) -> Self {
        Self {
            partition: partition.0,
            member: Some(member.into()),
            round,
            promised: promised.0,
            head: Some(head.into()),
            commit: commit.0,
            whole,
            head_intact,
            lease_current,
            lease_remaining_us: lease_remaining.0,
            fenced,
        }
    }
}

impl TryFrom<pb::ReplicaReport> for ReplicaReport {
    type Error = Malformed;

    fn try_from(
        pb::ReplicaReport {
            partition: id,
            member,
            round,
            promised,
            head,
            commit,
            whole,
            head_intact,
            lease_current,
            lease_remaining_us,
            fenced,
        }: pb::ReplicaReport,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            partition: partition(id, "partition")?,
            member: required(member, "member")?,
            round,
            fenced,
            promised: Epoch(promised),
            head: position(head, "head")?,
            commit: Index(commit),
            whole,
            head_intact,
            lease_current,
            lease_remaining: Micros(lease_remaining_us),
        })
    }
}

impl From<Vec<ReplicaReport>> for pb::Reports {
    fn from(reports: Vec<ReplicaReport>) -> Self {
        Self {
            reports: reports.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Reports> for Vec<ReplicaReport> {
    type Error = Malformed;

    fn try_from(pb::Reports { reports }: pb::Reports) -> Result<Self, Malformed> {
        list(reports, limits::ORDERS, "reports")
    }
}

impl From<Heartbeat> for pb::Heartbeat {
    fn from(
        Heartbeat {
            node,
            session,
            sequence,
            map_version,
            unreachable,
            silent_client_ports,
            disk_full,
            draining,
            figures,
            heat,
            full,
            partitions,
        }: Heartbeat,
    ) -> Self {
        Self {
            node: node.0,
            session,
            sequence,
            map_version: map_version.0,
            unreachable: unreachable.into_iter().map(|n| n.0).collect(),
            silent_client_ports: silent_client_ports.into_iter().map(|n| n.0).collect(),
            disk_full,
            draining,
            figures: figures.map(Into::into),
            heat: heat.map(|heat| (*heat).into()),
            full,
            partitions: partitions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Heartbeat> for Heartbeat {
    type Error = Malformed;

    fn try_from(
        pb::Heartbeat {
            node,
            session,
            sequence,
            map_version,
            unreachable,
            silent_client_ports,
            disk_full,
            draining,
            figures,
            heat,
            full,
            partitions,
        }: pb::Heartbeat,
    ) -> Result<Self, Malformed> {
        if node == 0 {
            return Err(Malformed::missing("node"));
        }
        bounded(unreachable.len(), limits::NODES, "unreachable")?;
        bounded(
            silent_client_ports.len(),
            limits::NODES,
            "silent_client_ports",
        )?;
        Ok(Self {
            node: NodeId(node),
            session,
            sequence,
            map_version: MapVersion(map_version),
            unreachable: unreachable.into_iter().map(NodeId).collect(),
            silent_client_ports: silent_client_ports.into_iter().map(NodeId).collect(),
            disk_full,
            draining,
            figures: figures.map(Into::into),
            heat: heat.map(HeatReport::try_from).transpose()?.map(Box::new),
            full,
            partitions: list(partitions, limits::PARTITIONS, "partitions")?,
        })
    }
}

impl From<PartitionStatus> for pb::PartitionStatus {
    fn from(
        PartitionStatus {
            partition,
            replica,
            epoch,
            role,
            head,
            commit,
            applied,
            wish,
            followers,
            bytes,
            copying,
        }: PartitionStatus,
    ) -> Self {
        Self {
            partition: partition.0,
            replica: replica.0,
            epoch: epoch.0,
            role: pb::Role::from(role).into(),
            head: Some(head.into()),
            commit: commit.0,
            applied: applied.0,
            wish: pb::Wish::from(wish).into(),
            followers: followers.into_iter().map(Into::into).collect(),
            bytes,
            copying: copying.map(Into::into),
        }
    }
}

impl TryFrom<pb::PartitionStatus> for PartitionStatus {
    type Error = Malformed;

    fn try_from(
        pb::PartitionStatus {
            partition: id,
            replica,
            epoch,
            role,
            head,
            commit,
            applied,
            wish,
            followers,
            bytes,
            copying,
        }: pb::PartitionStatus,
    ) -> Result<Self, Malformed> {
        if replica == 0 {
            return Err(Malformed::missing("replica"));
        }
        Ok(Self {
            partition: partition(id, "partition")?,
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            role: decode_role(role)?,
            head: position(head, "head")?,
            commit: Index(commit),
            applied: Index(applied),
            wish: decode_wish(wish)?,
            followers: list(followers, limits::FOLLOWERS, "followers")?,
            bytes,
            copying: copying.map(Into::into),
        })
    }
}

impl From<NodeFigures> for pb::NodeFigures {
    fn from(
        NodeFigures {
            disk_total_bytes,
            disk_free_bytes,
            reads_per_second,
            writes_per_second,
            bytes_per_second,
        }: NodeFigures,
    ) -> Self {
        Self {
            disk_total_bytes,
            disk_free_bytes,
            reads_per_second,
            writes_per_second,
            bytes_per_second,
        }
    }
}

impl From<pb::NodeFigures> for NodeFigures {
    fn from(
        pb::NodeFigures {
            disk_total_bytes,
            disk_free_bytes,
            reads_per_second,
            writes_per_second,
            bytes_per_second,
        }: pb::NodeFigures,
    ) -> Self {
        Self {
            disk_total_bytes,
            disk_free_bytes,
            reads_per_second,
            writes_per_second,
            bytes_per_second,
        }
    }
}

impl From<CopyProgress> for pb::CopyProgress {
    fn from(
        CopyProgress {
            received_bytes,
            expected_bytes,
        }: CopyProgress,
    ) -> Self {
        Self {
            received_bytes,
            expected_bytes,
        }
    }
}

impl From<pb::CopyProgress> for CopyProgress {
    fn from(
        pb::CopyProgress {
            received_bytes,
            expected_bytes,
        }: pb::CopyProgress,
    ) -> Self {
        Self {
            received_bytes,
            expected_bytes,
        }
    }
}

impl From<FollowerStatus> for pb::FollowerStatus {
    fn from(
        FollowerStatus {
            replica,
            matched,
            caught_up,
            answering,
            hopeless,
        }: FollowerStatus,
    ) -> Self {
        Self {
            replica: replica.0,
            matched: matched.0,
            caught_up,
            answering,
            hopeless,
        }
    }
}

impl TryFrom<pb::FollowerStatus> for FollowerStatus {
    type Error = Malformed;

    fn try_from(
        pb::FollowerStatus {
            replica,
            matched,
            caught_up,
            answering,
            hopeless,
        }: pb::FollowerStatus,
    ) -> Result<Self, Malformed> {
        if replica == 0 {
            return Err(Malformed::missing("replica"));
        }
        Ok(Self {
            replica: ReplicaId(replica),
            matched: Index(matched),
            caught_up,
            answering,
            hopeless,
        })
    }
}

impl From<Role> for pb::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Replica => Self::Replica,
            Role::Learner => Self::Learner,
            Role::Rising => Self::Rising,
            Role::Primary => Self::Primary,
            Role::Suspended => Self::Suspended,
        }
    }
}

fn decode_role(role: i32) -> Result<Role, Malformed> {
    match pb::Role::try_from(role) {
        Ok(pb::Role::Replica) => Ok(Role::Replica),
        Ok(pb::Role::Learner) => Ok(Role::Learner),
        Ok(pb::Role::Rising) => Ok(Role::Rising),
        Ok(pb::Role::Primary) => Ok(Role::Primary),
        Ok(pb::Role::Suspended) => Ok(Role::Suspended),
        Ok(pb::Role::Unspecified) | Err(_) => {
            Err(Malformed::new("role", format!("{role} is unknown")))
        }
    }
}

impl From<Wish> for pb::Wish {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::None => Self::None,
            Wish::Promote => Self::Promote,
            Wish::HandedOver => Self::HandedOver,
            Wish::Replace => Self::Replace,
        }
    }
}

fn decode_wish(wish: i32) -> Result<Wish, Malformed> {
    match pb::Wish::try_from(wish) {
        Ok(pb::Wish::None) => Ok(Wish::None),
        Ok(pb::Wish::Promote) => Ok(Wish::Promote),
        Ok(pb::Wish::HandedOver) => Ok(Wish::HandedOver),
        Ok(pb::Wish::Replace) => Ok(Wish::Replace),
        Err(_) => Err(Malformed::new("wish", format!("{wish} is unknown"))),
    }
}
