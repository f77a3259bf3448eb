//! Anything at all, sent in any pieces: the connection answers or ends, and the task
//! never panics.

use cairn_node::resp::{Limits, RespConfig};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::memory::Answering;
use crate::support::{Node, command};

const NAMES: &[&str] = &[
    "get",
    "set",
    "incr",
    "del",
    "mget",
    "exists",
    "incrby",
    "decrby",
    "setnx",
    "setex",
    "getset",
    "strlen",
    "type",
    "ttl",
    "pexpiretime",
    "ping",
    "echo",
    "hello",
    "auth",
    "select",
    "readonly",
    "reset",
    "client",
    "cluster",
    "command",
    "config",
    "info",
    "dbsize",
    "time",
    "role",
    "wait",
    "nope",
];

const WORDS: &[&str] = &[
    "a",
    "{a}b",
    "1",
    "-1",
    "3",
    "9223372036854775807",
    "",
    "NX",
    "XX",
    "GET",
    "EX",
    "PXAT",
    "KEEPTTL",
    "AUTH",
    "default",
    "SETNAME",
    "slots",
    "shards",
    "nodes",
    "info",
    "list",
    "docs",
    "getkeys",
    "set",
    "*",
    "[",
    "kill",
    "id",
    "reply",
    "off",
    "skip",
    "on",
    "help",
    "filterby",
    "pattern",
    "setinfo",
    "lib-name",
    "é",
    "a b",
];

fn a_command() -> impl Strategy<Value = Vec<u8>> {
    (
        prop::sample::select(NAMES),
        prop::collection::vec(prop::sample::select(WORDS), 0..6),
    )
        .prop_map(|(name, words)| {
            let mut bytes =
                format!("*{}\r\n${}\r\n{name}\r\n", words.len() + 1, name.len()).into_bytes();
            for word in words {
                bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
            }
            bytes
        })
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => a_command(),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(b"*2\r\n$3\r\nGET\r\n".to_vec()),
    ]
}

async fn feed(pieces: Vec<Vec<u8>>) -> String {
    let config = RespConfig {
        limits: Limits {
            output_bytes: 4096,
            in_flight: 4,
            ..Limits::default()
        },
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let client = node.connect();
    let task = client.task;
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let sending = async {
        for piece in pieces {
            // The server closes early on a protocol error.
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let mut replies = Vec::new();
    let (_, read) = tokio::join!(sending, reader.read_to_end(&mut replies));
    read.expect("a pipe does not fail");
    task.await.expect("the connection does not panic");
    String::from_utf8_lossy(&replies).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_sent_is_answered_or_ends_the_connection(
        pieces in prop::collection::vec(anything(), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(feed(pieces));
    }

    #[test]
    fn the_same_commands_get_the_same_replies_in_whatever_pieces(
        keys in prop::collection::vec("[ab]{1,2}", 1..20),
        cut in 1usize..50,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let mut bytes = Vec::new();
        for key in keys {
            bytes.extend(command(&format!("INCR {key}")));
            bytes.extend(command(&format!("GET {key}")));
            bytes.extend(command(&format!("MGET {key} {key}")));
        }
        let whole = runtime.block_on(feed(vec![bytes.clone()]));
        let pieces = bytes.chunks(cut).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(runtime.block_on(feed(pieces)), whole);
    }
}

#[tokio::test]
async fn arrays_in_arrays_and_the_types_of_resp3_are_no_commands() {
    for (sent, said) in [
        (&b"*2\r\n*1\r\n$1\r\na\r\n"[..], "expected '$', got '*'"),
        (b"*1\r\n%1\r\n", "expected '$', got '%'"),
        (b"*1\r\n_\r\n", "expected '$', got '_'"),
    ] {
        let node = Node::alone(Answering::AtOnce, RespConfig::default());
        let mut client = node.connect();
        client.send(sent).await;
        assert_eq!(
            client.rest().await,
            format!("-ERR Protocol error: {said}\r\n")
        );
    }
}

#[tokio::test]
async fn a_byte_a_minute_is_no_progress() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    client.call("PING", "+PONG\r\n").await;
    let mut ended = 0;
    for byte in b"*2\r\n$3\r\nGET" {
        client.send(&[*byte]).await;
        // The connection's task takes it; then half a minute goes by.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        for _ in 0..30 {
            ended += node.server.sweep();
        }
        if ended > 0 {
            break;
        }
    }
    assert_eq!(ended, 1);
    assert_eq!(client.rest().await, "");
}
