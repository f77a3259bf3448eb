//! Scans and watches come back as they were sent, and nothing that comes in can panic.

use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, PartitionId, Position};
use cairn_core::kv::request::Value;
use cairn_core::kv::scan::{Row, ScanPage, ScanQuery};
use cairn_core::kv::watch::{KeyEvent, KeyFilter};
use cairn_proto::keyspace::{WatchEnd, WatchQuery, WatchUpdate};
use cairn_proto::kv::KvError;
use cairn_proto::pb::kv::v1 as pb;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..20).prop_map(Bytes::from)
}

fn partition() -> impl Strategy<Value = PartitionId> {
    (0..16_384u32).prop_map(PartitionId)
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, index)| Position {
        epoch: Epoch(epoch),
        index: Index(index),
    })
}

fn value() -> impl Strategy<Value = Value> {
    (bytes(), position(), option::of(any::<u64>()))
        .prop_map(|(data, version, expires_at)| Value::string(data, version, expires_at))
}

fn event() -> impl Strategy<Value = KeyEvent> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| KeyEvent::Put { key, value }),
        (key(), position()).prop_map(|(key, version)| KeyEvent::Deleted { key, version }),
    ]
}

fn update() -> impl Strategy<Value = WatchUpdate> {
    prop_oneof![
        (partition(), vec(event(), 0..4), position()).prop_map(|(partition, events, position)| {
            WatchUpdate::Events {
                partition,
                events,
                position,
            }
        }),
        vec((partition(), position()), 0..4).prop_map(WatchUpdate::Positions),
        partition().prop_map(|partition| WatchUpdate::End {
            partition,
            why: WatchEnd::Compacted,
        }),
        partition().prop_map(|partition| WatchUpdate::End {
            partition,
            why: WatchEnd::Refused(KvError::NotReady { partition }),
        }),
    ]
}

/// Encodes, decodes, and converts back.
fn travel<P, T>(sent: P) -> T
where
    P: Message + Default,
    T: TryFrom<P>,
    T::Error: std::fmt::Debug,
{
    let bytes = sent.encode_to_vec();
    let received = P::decode(bytes.as_slice()).expect("it was just encoded");
    T::try_from(received).expect("it is sound")
}

proptest! {
    #[test]
    fn scans_come_back_as_they_were(
        partition in partition(),
        prefix in bytes(),
        after in option::of(key()),
        limit in 1..10_000usize,
        size in 1..1_000_000usize,
        keys_only in any::<bool>(),
        rows in vec((key(), value()), 0..5),
    ) {
        let query = ScanQuery { partition, prefix, after: after.clone(), limit, bytes: size, keys_only };
        prop_assert_eq!(travel::<pb::ScanRequest, ScanQuery>(query.clone().into()), query);
        let rows = rows.into_iter().map(|(key, value)| Row { key, value }).collect();
        let page = ScanPage { rows, next: after };
        prop_assert_eq!(travel::<pb::ScanReply, ScanPage>(page.clone().into()), page);
    }

    #[test]
    fn watches_come_back_as_they_were(
        key in key(),
        is_key in any::<bool>(),
        from in btree_map(partition(), option::of(position()), 1..5),
        heartbeat in 100..60_000u64,
        update in update(),
    ) {
        let filter = if is_key { KeyFilter::Key(key) } else { KeyFilter::Prefix(key) };
        let query = WatchQuery {
            filter,
            from: from.into_iter().collect(),
            heartbeat: Duration::from_millis(heartbeat),
        };
        prop_assert_eq!(travel::<pb::WatchRequest, WatchQuery>(query.clone().into()), query);
        prop_assert_eq!(travel::<pb::WatchReply, WatchUpdate>(update.clone().into()), update);
    }

    #[test]
    fn no_bytes_make_a_conversion_panic(junk in vec(any::<u8>(), 0..200)) {
        let _ = pb::ScanRequest::decode(&junk[..]).map(ScanQuery::try_from);
        let _ = pb::ScanReply::decode(&junk[..]).map(ScanPage::try_from);
        let _ = pb::WatchRequest::decode(&junk[..]).map(WatchQuery::try_from);
        let _ = pb::WatchReply::decode(&junk[..]).map(WatchUpdate::try_from);
    }
}

#[test]
fn what_asks_for_too_much_is_refused_by_its_name() {
    let scan = |change: fn(&mut pb::ScanRequest)| {
        let mut request = pb::ScanRequest::default();
        change(&mut request);
        ScanQuery::try_from(request).map_err(|error| error.field().to_owned())
    };
    let usual = scan(|_| {}).expect("every field has a default");
    assert_eq!((usual.limit, usual.bytes), (1000, 1 << 20));
    let refused = |field: &str| Err(field.to_owned());
    assert_eq!(scan(|r| r.limit = 10_001), refused("limit"));
    assert_eq!(scan(|r| r.bytes = u32::MAX), refused("bytes"));
    assert_eq!(scan(|r| r.partition = 16_384), refused("partition"));
    let long = |r: &mut pb::ScanRequest| r.prefix = vec![0; (64 << 10) + 1].into();
    assert_eq!(scan(long), refused("prefix"));

    let watch = |change: fn(&mut pb::WatchRequest)| {
        let mut request = pb::WatchRequest {
            what: Some(pb::watch_request::What::Prefix(Bytes::new())),
            from: vec![pb::WatchFrom::default()],
            heartbeat_ms: 0,
        };
        change(&mut request);
        WatchQuery::try_from(request)
            .map(drop)
            .map_err(|error| error.field().to_owned())
    };
    assert_eq!(watch(|_| {}), Ok(()));
    assert_eq!(watch(|r| r.what = None), Err("what".to_owned()));
    assert_eq!(watch(|r| r.from.clear()), Err("from".to_owned()));
    let twice = |r: &mut pb::WatchRequest| r.from.push(pb::WatchFrom::default());
    assert_eq!(watch(twice), Err("from.partition".to_owned()));
    assert_eq!(
        watch(|r| r.heartbeat_ms = 99),
        Err("heartbeat_ms".to_owned())
    );
}
