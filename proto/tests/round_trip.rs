//! Every message comes back as it was sent, and nothing that comes in can panic.

mod strategies;

use std::fmt::Debug;
use std::sync::Arc;

use cairn_core::cluster::report::{Heartbeat, Order, ReplicaReport};
use cairn_core::ids::MapVersion;
use cairn_core::kv::request::{Value, WriteReply, WriteRequest};
use cairn_core::record::{ClusterMap, PartitionRecord};
use cairn_core::replication::PeerMessage;
use cairn_proto::kv::{KvError, ReadRequest};
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::coordinator::v1 as coordinator;
use cairn_proto::pb::kv::v1 as kv;
use cairn_proto::pb::map::v1 as map;
use cairn_proto::pb::peer::v1 as peer;
use cairn_proto::peer::{Handshake, SnapshotChunk};
use proptest::prelude::*;
use prost::Message;

/// Encodes, decodes, and converts back.
fn travel<P, T>(sent: P) -> Result<T, TestCaseError>
where
    P: Message + Default,
    T: TryFrom<P>,
    T::Error: Debug,
{
    let bytes = sent.encode_to_vec();
    let received = P::decode(bytes.as_slice()).expect("it was just encoded");
    T::try_from(received).map_err(|error| TestCaseError::fail(format!("{error:?}")))
}

/// Decodes and converts whatever there is, for the sake of not panicking.
fn survive<P, T>(bytes: &[u8])
where
    P: Message + Default,
    T: TryFrom<P>,
{
    if let Ok(message) = P::decode(bytes) {
        let _ = T::try_from(message);
    }
}

fn survive_all(bytes: &[u8]) {
    survive::<map::ClusterMap, ClusterMap>(bytes);
    survive::<map::MapUpdate, MapUpdate>(bytes);
    survive::<map::PartitionRecord, PartitionRecord>(bytes);
    survive::<peer::Message, PeerMessage>(bytes);
    survive::<peer::Handshake, Handshake>(bytes);
    survive::<peer::SnapshotChunk, SnapshotChunk>(bytes);
    survive::<coordinator::Order, Order>(bytes);
    survive::<coordinator::ReplicaReport, ReplicaReport>(bytes);
    survive::<coordinator::Heartbeat, Heartbeat>(bytes);
    survive::<kv::PutRequest, WriteRequest>(bytes);
    survive::<kv::DeleteRequest, WriteRequest>(bytes);
    survive::<kv::IncrementRequest, WriteRequest>(bytes);
    survive::<kv::BatchRequest, WriteRequest>(bytes);
    survive::<kv::GetRequest, ReadRequest>(bytes);
    survive::<kv::Value, Value>(bytes);
    survive::<kv::PutReply, WriteReply>(bytes);
    survive::<kv::DeleteReply, WriteReply>(bytes);
    survive::<kv::IncrementReply, WriteReply>(bytes);
    survive::<kv::BatchReply, WriteReply>(bytes);
    survive::<kv::Error, KvError>(bytes);
    if let Ok(update) = map::MapUpdate::decode(bytes)
        && let Ok(update) = MapUpdate::try_from(update)
    {
        let _ = update.apply(&ClusterMap::default());
    }
    let status = tonic::Status::with_details(
        tonic::Code::Unknown,
        "",
        bytes::Bytes::copy_from_slice(bytes),
    );
    let _ = KvError::from_status(&status);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn maps_come_back(sent in strategies::cluster_map()) {
        let came: ClusterMap = travel(map::ClusterMap::from(&sent))?;
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn records_come_back(sent in strategies::record()) {
        let came: PartitionRecord = travel(map::PartitionRecord::from(&sent))?;
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn updates_come_back(sent in strategies::map_update()) {
        let came: MapUpdate = travel(map::MapUpdate::from(&sent))?;
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn an_update_leads_to_the_map_that_it_was_made_from(
        old in strategies::cluster_map(),
        new in strategies::cluster_map(),
        at in any::<u64>(),
    ) {
        // The newer map: the older one, of which some things changed since.
        let mut after = old.clone();
        let at = MapVersion(at / 2);
        let newest = MapVersion(at.0 + 10);
        let mut before = old;
        before.version = at;
        after.version = newest;
        after.settings = new.settings;
        for (id, node) in new.nodes {
            let mut node = (*node).clone();
            node.changed_at = newest;
            after.nodes.insert(id, Arc::new(node));
        }
        for record in new.partitions {
            if let Some(place) = after.partitions.get_mut(record.id.0 as usize) {
                let mut record = (*record).clone();
                record.slots = place.slots;
                record.changed_at = newest;
                *place = Arc::new(record);
            }
        }
        let after = Arc::new(after);
        let update = MapUpdate::since(&after, &before.cluster_id, before.version);
        let whole = MapUpdate::since(&after, "another", before.version);
        prop_assert_eq!(update.clone().apply(&before).expect("fits"), Some(Arc::clone(&after)));
        prop_assert_eq!(update.apply(&after).expect("fits"), None);
        let expected = Some(Arc::clone(&after));
        prop_assert_eq!(whole.apply(&ClusterMap::default()).expect("fits"), expected);
    }

    #[test]
    fn peer_messages_come_back(sent in strategies::peer_message()) {
        let came: PeerMessage = travel(peer::Message::from(sent.clone()))?;
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn handshakes_come_back(sent in strategies::handshake()) {
        let came: Handshake = travel(peer::Handshake::from(sent.clone()))?;
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn snapshot_chunks_come_back(sent in strategies::snapshot_chunk()) {
        let came: SnapshotChunk = travel(peer::SnapshotChunk::from(sent.clone()))?;
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn orders_and_reports_come_back(
        order in strategies::order(),
        report in strategies::report(),
        heartbeat in strategies::heartbeat(),
    ) {
        let came: Order = travel(coordinator::Order::from(order.clone()))?;
        prop_assert_eq!(came, order);
        let came: ReplicaReport = travel(coordinator::ReplicaReport::from(report.clone()))?;
        prop_assert_eq!(came, report);
        let came: Heartbeat = travel(coordinator::Heartbeat::from(heartbeat.clone()))?;
        prop_assert_eq!(came, heartbeat);
    }

    #[test]
    fn writes_come_back(sent in strategies::write_request()) {
        use kv::call::Request;
        let came: WriteRequest = match Request::try_from(sent.clone()).expect("it has a message") {
            Request::Put(put) => travel(put)?,
            Request::Delete(delete) => travel(delete)?,
            Request::Increment(increment) => travel(increment)?,
            Request::Batch(batch) => travel(batch)?,
            Request::Get(get) => return Err(TestCaseError::fail(format!("{get:?}"))),
        };
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn reads_and_values_come_back(
        request in strategies::read_request(),
        value in strategies::value(),
    ) {
        let came: ReadRequest = travel(kv::GetRequest::from(request.clone()))?;
        prop_assert_eq!(came, request);
        let came: Value = travel(kv::Value::from(value.clone()))?;
        prop_assert_eq!(came, value);
    }

    #[test]
    fn replies_come_back(
        put in strategies::put_reply(),
        delete in strategies::delete_reply(),
        increment in strategies::increment_reply(),
        batch in strategies::batch_reply(),
    ) {
        let sent = kv::PutReply::try_from(put.clone()).expect("fits a put");
        prop_assert_eq!(travel::<_, WriteReply>(sent)?, put.clone());
        let sent = kv::DeleteReply::try_from(delete.clone()).expect("fits a delete");
        prop_assert_eq!(travel::<_, WriteReply>(sent)?, delete);
        let sent = kv::IncrementReply::try_from(increment.clone()).expect("fits an increment");
        prop_assert_eq!(travel::<_, WriteReply>(sent)?, increment);
        let sent = kv::BatchReply::try_from(batch.clone()).expect("fits a batch");
        prop_assert_eq!(travel::<_, WriteReply>(sent)?, batch);
        prop_assert!(kv::IncrementReply::try_from(put).is_err());
    }

    #[test]
    fn refusals_come_back_in_a_status(sent in strategies::kv_error()) {
        let status = tonic::Status::from(sent.clone());
        prop_assert_eq!(status.code(), sent.code());
        prop_assert_eq!(KvError::from_status(&status), Some(sent));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survive_all(&bytes);
    }

    /// Nearly well-formed bytes get further than random ones.
    #[test]
    fn damaged_messages_never_panic(
        update in strategies::map_update(),
        message in strategies::peer_message(),
        heartbeat in strategies::heartbeat(),
        request in strategies::write_request(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let request = match kv::call::Request::try_from(request).expect("it has a message") {
            kv::call::Request::Put(put) => put.encode_to_vec(),
            kv::call::Request::Delete(delete) => delete.encode_to_vec(),
            kv::call::Request::Increment(increment) => increment.encode_to_vec(),
            kv::call::Request::Batch(batch) => batch.encode_to_vec(),
            kv::call::Request::Get(get) => get.encode_to_vec(),
        };
        let encoded = [
            map::MapUpdate::from(&update).encode_to_vec(),
            peer::Message::from(message).encode_to_vec(),
            coordinator::Heartbeat::from(heartbeat).encode_to_vec(),
            request,
        ];
        for mut bytes in encoded {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                survive_all(&bytes);
                bytes.truncate(at);
                survive_all(&bytes);
            }
        }
    }
}

#[test]
fn a_malformed_message_names_its_field() {
    let mut message = map::PartitionRecord {
        last_slot: 100,
        config: Some(map::Configuration {
            current: Some(map::ReplicaSet {
                members: vec![map::Member {
                    node: 1,
                    replica: 0,
                }],
                write_quorum: 1,
            }),
            ..map::Configuration::default()
        }),
        ..map::PartitionRecord::default()
    };
    let error = PartitionRecord::try_from(message.clone()).expect_err("replica 0");
    assert_eq!(error.field(), "config.current.members[0].replica");
    message.last_slot = 16_384;
    let error = PartitionRecord::try_from(message).expect_err("no such slot");
    assert_eq!(error.field(), "last_slot");
    let put = kv::PutRequest {
        key: vec![0; 64 * 1024 + 1].into(),
        ..kv::PutRequest::default()
    };
    let error = WriteRequest::try_from(put).expect_err("too long");
    assert_eq!(error.field(), "key");
    let put = kv::PutRequest {
        key: "k".into(),
        sequenced: Some(kv::Sequenced::default()),
        ..kv::PutRequest::default()
    };
    let error = WriteRequest::try_from(put).expect_err("no client");
    assert_eq!(error.field(), "sequenced.client");
}

#[test]
fn entries_that_do_not_count_up_are_refused() {
    let entry = |index| peer::LogEntry {
        index,
        ..peer::LogEntry::default()
    };
    let append = |indexes: &[u64]| peer::Message {
        body: Some(peer::message::Body::Append(peer::Append {
            previous_index: 4,
            entries: indexes.iter().copied().map(entry).collect(),
            ..peer::Append::default()
        })),
    };
    assert!(PeerMessage::try_from(append(&[5, 6])).is_ok());
    for wrong in [&[6][..], &[5, 7], &[5, 5], &[4]] {
        let error = PeerMessage::try_from(append(wrong)).expect_err("a gap");
        assert_eq!(error.field(), "append.entries");
    }
}

#[test]
fn an_update_of_another_cluster_or_across_a_gap_is_refused() {
    let ours = ClusterMap {
        cluster_id: "ours".to_owned(),
        version: MapVersion(5),
        ..ClusterMap::default()
    };
    let newer = |cluster_id: &str| {
        Arc::new(ClusterMap {
            cluster_id: cluster_id.to_owned(),
            version: MapVersion(9),
            ..ClusterMap::default()
        })
    };
    let other = MapUpdate::since(&newer("theirs"), "", MapVersion::ZERO);
    assert!(other.apply(&ours).is_err());
    let gap = MapUpdate::since(&newer("ours"), "ours", MapVersion(7));
    assert!(gap.apply(&ours).is_err());
}

/// A few values of a strategy, always the same.
fn samples<T: Debug>(strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..4)
        .filter_map(|_| strategy.new_tree(&mut runner).ok())
        .map(|tree| proptest::strategy::ValueTree::current(&tree))
        .collect()
}

#[test]
fn fuzz_messages() {
    let mut seeds = Vec::new();
    seeds.extend(
        samples(strategies::cluster_map())
            .iter()
            .map(|m| map::ClusterMap::from(m).encode_to_vec()),
    );
    seeds.extend(
        samples(strategies::record())
            .iter()
            .map(|m| map::PartitionRecord::from(m).encode_to_vec()),
    );
    seeds.extend(
        samples(strategies::map_update())
            .iter()
            .map(|m| map::MapUpdate::from(m).encode_to_vec()),
    );
    let put = kv::PutRequest {
        key: "key".into(),
        value: "value".into(),
        ..kv::PutRequest::default()
    };
    let get = kv::GetRequest {
        key: "key".into(),
        ..kv::GetRequest::default()
    };
    seeds.push(put.encode_to_vec());
    seeds.push(get.encode_to_vec());
    seeds.extend(
        [KvError::Unknown, KvError::Overloaded].map(|e| kv::Error::from(e).encode_to_vec()),
    );
    // Longer ones have only more of the same.
    seeds.retain(|seed| seed.len() < 4096);
    cairn_fuzz::run("messages", 10, seeds, survive_all);
}
