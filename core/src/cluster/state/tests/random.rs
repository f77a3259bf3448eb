//! Random commands: whatever is proposed, the invariants hold.

use proptest::prelude::*;

use super::*;

/// A command drawn without regard to whether it makes sense.
fn any_command() -> impl Strategy<Value = Command> {
    let partition = (0u32..3).prop_map(PartitionId);
    let epoch = (1u64..6).prop_map(Epoch);
    let revision = 0u64..3;
    let node = (1u64..7).prop_map(NodeId);
    let replica = (1u64..16).prop_map(ReplicaId);
    let member =
        (node.clone(), replica.clone()).prop_map(|(node, replica)| Member { node, replica });
    prop_oneof![
        (1u64..9, 1u64..6, any::<bool>()).prop_map(|(uuid, name, replace_dead)| {
            Command::RegisterNode(NodeRegistration {
                replace_dead,
                ..registration(&format!("data-{name}"), &format!("u{uuid}"))
            })
        }),
        (node.clone(), any::<bool>()).prop_map(|(node, force)| Command::MarkGone { node, force }),
        (partition.clone(), epoch.clone())
            .prop_map(|(partition, epoch)| Command::RaiseEpoch { partition, epoch }),
        (
            partition.clone(),
            epoch.clone(),
            member.clone(),
            any::<bool>()
        )
            .prop_map(|(partition, epoch, primary, lossy)| Command::NamePrimary {
                partition,
                epoch,
                primary,
                loss: lossy.then_some(Loss { entries_known: 1 }),
            }),
        (partition.clone(), epoch.clone(), revision.clone(), node).prop_map(
            |(partition, epoch, revision, node)| Command::AddLearner {
                partition,
                epoch,
                revision,
                node
            }
        ),
        (
            partition.clone(),
            epoch.clone(),
            revision.clone(),
            replica.clone()
        )
            .prop_map(
                |(partition, epoch, revision, replica)| Command::RemoveLearner {
                    partition,
                    epoch,
                    revision,
                    replica
                }
            ),
        (
            partition.clone(),
            epoch.clone(),
            revision,
            prop::collection::vec(member, 1..4),
            1u8..4
        )
            .prop_map(|(partition, epoch, revision, members, write_quorum)| {
                Command::EnterJoint {
                    partition,
                    epoch,
                    revision,
                    set: ReplicaSet {
                        members,
                        write_quorum,
                    },
                }
            }),
        (partition.clone(), epoch.clone(), any::<bool>()).prop_map(
            |(partition, epoch, forward)| {
                Command::LeaveJoint {
                    partition,
                    epoch,
                    direction: if forward {
                        Direction::Forward
                    } else {
                        Direction::Backward
                    },
                }
            }
        ),
        (
            partition.clone(),
            epoch.clone(),
            prop::collection::vec(replica.clone(), 0..3)
        )
            .prop_map(|(partition, epoch, keep)| Command::Shrink {
                partition,
                epoch,
                keep
            }),
        (partition, epoch, prop::collection::vec(replica, 0..3)).prop_map(
            |(partition, epoch, keep)| Command::KeepSurvivors {
                partition,
                epoch,
                keep
            }
        ),
        any_membership_command(),
    ]
}

/// The same of those that change who is to hold the data.
fn any_membership_command() -> impl Strategy<Value = Command> {
    let node = (1u64..7).prop_map(NodeId);
    let nodes = prop::collection::vec(node.clone(), 0..4);
    prop_oneof![
        node.clone().prop_map(|node| Command::Drain { node }),
        node.clone().prop_map(|node| Command::Undrain { node }),
        node.clone().prop_map(|node| Command::MarkAway { node }),
        node.clone().prop_map(|node| Command::MarkBack { node }),
        node.prop_map(|node| Command::Retire { node }),
        any::<bool>().prop_map(|paused| Command::PauseMoves { paused }),
        (1u8..5, 1u8..5).prop_map(|(replication_factor, write_quorum)| {
            let request = SettingsRequest {
                replication_factor: Some(replication_factor),
                write_quorum: Some(write_quorum.min(replication_factor)),
                partitions: Some(2),
                ..SettingsRequest::default()
            };
            Command::ChangeSettings {
                settings: request.resolve().expect("settings").settings,
            }
        }),
        (0u32..3, nodes.clone(), nodes).prop_map(|(partition, before, seats)| {
            Command::Reseat {
                partition: PartitionId(partition),
                before,
                seats,
            }
        }),
        (0u64..3, 1u64..7).prop_map(|(token, node)| Command::Fenced {
            token,
            command: Box::new(Command::Drain { node: NodeId(node) }),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_proposed_the_invariants_hold_and_records_only_move_forward(
        rf in 1u8..=3,
        w in 1u8..=3,
        commands in prop::collection::vec(any_command(), 0..120),
    ) {
        let mut machine = made(rf, w.min(rf), 4);
        let mut named = BTreeMap::new();
        for command in commands {
            let before = machine.state.clone();
            machine.apply(command);
            for (old, new) in before.partitions().iter().zip(machine.state.partitions()) {
                prop_assert!(new.order() >= old.order());
                prop_assert!(new.order() > old.order() || new == old);
                if let Some(primary) = new.primary {
                    let first = *named.entry((new.id, new.epoch)).or_insert(primary);
                    prop_assert_eq!(first, primary);
                }
            }
        }
    }
}
