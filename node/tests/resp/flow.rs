//! Order, patience and bounds: what a connection does with many commands at once,
//! with slow answers, and with clients that mean ill.

use std::sync::Arc;
use std::time::Duration;

use crate::memory::{Answering, Memory, Shared, cluster_map};
use crate::support::{Client, Node, PIPE_BYTES, command};
use arc_swap::ArcSwap;
use cairn_core::ids::{Epoch, PartitionId};
use cairn_core::kv::request::RequestError;
use cairn_node::budget::Budget;
use cairn_node::resp::{Limits, RespConfig, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Lets other tasks run until `what` holds.
async fn until(mut what: impl FnMut() -> bool) {
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(std::time::Instant::now() < patience, "it comes to pass");
        tokio::task::yield_now().await;
    }
}

fn pipeline(commands: &[&str]) -> Vec<u8> {
    commands.iter().flat_map(|text| command(text)).collect()
}

fn slow() -> Node {
    Node::alone(Answering::WhenTold, RespConfig::default())
}

fn no_primary() -> RequestError {
    RequestError::Moved {
        partition: PartitionId(0),
        epoch: Epoch(3),
        primary: None,
    }
}

#[tokio::test]
async fn replies_keep_the_order_of_commands() {
    let node = slow();
    let mut client = node.connect();
    client
        .send(&pipeline(&[
            "PING 1", "SET a 1", "PING 2", "GET b", "INCR c", "ECHO 3",
        ]))
        .await;
    client.expect("$1\r\n1\r\n").await;
    until(|| node.memory.started() == 2).await;
    node.memory.answer(1);
    client.expect("+OK\r\n$1\r\n2\r\n$-1\r\n").await;
    node.memory.answer(1);
    client.expect(":1\r\n$1\r\n3\r\n").await;
}

#[tokio::test]
async fn a_command_sees_the_earlier_ones_of_its_connection() {
    let node = slow();
    let mut client = node.connect();
    client
        .send(&pipeline(&[
            "SET a 1",
            "GET a",
            "INCR a",
            "MGET a a",
            "SET a 9",
            "GET a",
            "GET other",
        ]))
        .await;
    // The increment follows a read that waits for the first write: one at a time.
    for started in 1..=3 {
        until(|| node.memory.started() == started).await;
        assert_eq!(node.memory.answer(usize::MAX), 1);
    }
    client
        .expect("+OK\r\n$1\r\n1\r\n:2\r\n*2\r\n$1\r\n2\r\n$1\r\n2\r\n+OK\r\n$1\r\n9\r\n$-1\r\n")
        .await;
}

#[tokio::test]
async fn writes_are_started_together() {
    let node = slow();
    let mut client = node.connect();
    client
        .send(&pipeline(&["SET a 1", "SET b 2", "INCR a", "DEL b"]))
        .await;
    until(|| node.memory.started() == 4).await;
    assert_eq!(node.memory.answer(usize::MAX), 4);
    client.expect("+OK\r\n+OK\r\n:2\r\n:1\r\n").await;
}

#[tokio::test]
async fn a_partition_without_a_primary_is_waited_for() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    node.memory.refuse(Some(no_primary()));
    client
        .send(&pipeline(&["SET a 1", "INCR a", "GET a", "PING"]))
        .await;
    until(|| node.memory.started() >= 3).await;
    node.memory.refuse(None);
    client.expect("+OK\r\n:2\r\n$1\r\n2\r\n+PONG\r\n").await;
}

#[tokio::test]
async fn the_wait_for_a_primary_has_an_end() {
    let config = RespConfig {
        failover_hold: Duration::from_millis(30),
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let mut client = node.connect();
    node.memory.refuse(Some(no_primary()));
    for text in ["SET a 1", "GET a", "EXISTS a a"] {
        client
            .call(text, "-CLUSTERDOWN Hash slot not served\r\n")
            .await;
    }
}

#[tokio::test]
async fn what_a_later_command_overtook_is_not_tried_again() {
    let node = slow();
    let mut client = node.connect();
    client.send(&pipeline(&["SET a 1", "SET a 2"])).await;
    until(|| node.memory.started() == 2).await;
    // The first is refused while the second is still under way: were the first tried
    // again, it would undo the second.
    node.memory.refuse(Some(no_primary()));
    node.memory.answer(1);
    client.expect("-CLUSTERDOWN Hash slot not served\r\n").await;
    node.memory.refuse(None);
    node.memory.answer(1);
    client.expect("+OK\r\n").await;
    client.call("GET a", "$1\r\n2\r\n").await;
}

#[tokio::test]
async fn an_endless_pipeline_of_writes_is_taken_no_faster_than_it_is_answered() {
    let config = RespConfig {
        limits: Limits {
            in_flight: 10,
            ..Limits::default()
        },
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::WhenTold, config);
    let mut client = node.connect();
    client.send(&command("INCR a").repeat(100)).await;
    until(|| node.memory.started() == 10).await;
    let mut answered = 0;
    while answered < 100 {
        assert!(node.memory.started() <= answered + 10);
        answered += node.memory.answer(3) as u64;
        tokio::task::yield_now().await;
    }
    for number in 1..=100 {
        client.expect(&format!(":{number}\r\n")).await;
    }
}

#[tokio::test]
async fn long_commands_that_wait_are_bounded_in_bytes() {
    let megabyte = "x".repeat(1 << 20);
    let node = slow();
    let client = node.connect();
    let (mut replies, mut commands) = tokio::io::split(client.stream);
    let set = command(&format!("SET a {megabyte}"));
    let sending = tokio::spawn(async move {
        for _ in 0..20 {
            commands.write_all(&set).await.expect("the server lives");
        }
    });
    let mut answered = 0;
    while answered < 20 {
        let most = answered + 4;
        until(|| node.memory.started() >= most.min(20)).await;
        // The pipe is full, and nobody takes from it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(node.memory.started() <= most, "they wait without a bound");
        answered += node.memory.answer(1) as u64;
    }
    sending.await.expect("all was sent");
    let mut got = vec![0; 20 * 5];
    replies.read_exact(&mut got).await.expect("all replies");
    assert_eq!(got, b"+OK\r\n".repeat(20));
}

#[tokio::test]
async fn a_long_command_keeps_its_part_of_the_shared_room_until_it_is_answered() {
    let config = RespConfig {
        limits: Limits {
            value_bytes: 1 << 20,
            request_bytes: 1 << 20,
            ..Limits::default()
        },
        room: Budget::new(2 << 20),
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::WhenTold, config);
    let set = command(&format!("SET a {}", "x".repeat(900_000)));
    let send = || {
        let (mut client, set) = (node.connect(), set.clone());
        tokio::spawn(async move {
            client.send(&set).await;
            client.expect("+OK\r\n").await;
        })
    };
    let mut clients = vec![send(), send()];
    until(|| node.memory.started() == 2).await;
    clients.push(send());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.memory.started(), 2, "a third one waits for room");
    node.memory.answer(1);
    until(|| node.memory.started() == 3).await;
    node.memory.answer(2);
    for client in clients {
        client.await.expect("it was answered");
    }
}

#[tokio::test]
async fn what_is_held_is_tried_again_as_soon_as_a_newer_map_comes() {
    let config = RespConfig {
        failover_hold: Duration::from_secs(60),
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let mut client = node.connect();
    node.memory.refuse(Some(no_primary()));
    client.command("SET a 1").await;
    until(|| node.memory.started() >= 1).await;
    let began = std::time::Instant::now();
    for _ in 0..100 {
        let before = node.memory.started();
        until(|| {
            node.memory.map_changed();
            node.memory.started() > before
        })
        .await;
    }
    // The pauses alone would take twice as long.
    assert!(began.elapsed() < Duration::from_secs(5));
    node.memory.refuse(None);
    client.expect("+OK\r\n").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    let value = "x".repeat(10_000);
    client.call(&format!("SET a {value}"), "+OK\r\n").await;
    let get = command("GET a");
    let reply = format!("$10000\r\n{value}\r\n");
    // Ten times what may lie unread.
    let most = 10 * RespConfig::default().limits.output_bytes / reply.len();
    let mut asked = 0;
    while asked < most {
        match timeout(Duration::from_millis(200), client.stream.write_all(&get)).await {
            Ok(result) => result.expect("the server lives"),
            Err(_) => break,
        }
        asked += 1;
    }
    // Unread are the replies in the output and the pipe, and the commands in the
    // input and the pipe.
    let bound = (RespConfig::default().limits.output_bytes + PIPE_BYTES) / reply.len()
        + (PIPE_BYTES + (128 << 10)) / get.len();
    assert!(asked <= bound + 100, "{asked} of at most {bound}");
    for _ in 0..asked {
        client.expect(&reply).await;
    }
}

#[tokio::test]
async fn a_reply_may_not_be_too_long() {
    let config = RespConfig {
        limits: Limits {
            reply_bytes: 1000,
            ..Limits::default()
        },
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let mut client = node.connect();
    client
        .call(&format!("SET a {}", "x".repeat(400)), "+OK\r\n")
        .await;
    client
        .call(
            &format!("MGET{}", " a".repeat(1000)),
            "-ERR the reply would be too long, ask for fewer keys\r\n",
        )
        .await;
    client
        .call(&format!("EXISTS{}", " a".repeat(1000)), ":1000\r\n")
        .await;
}

#[tokio::test]
async fn replies_that_had_no_room_are_sent_once_there_is() {
    let config = RespConfig {
        limits: Limits {
            output_bytes: 100,
            ..Limits::default()
        },
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let mut client = node.connect();
    let value = "x".repeat(200);
    client.call(&format!("SET a {value}"), "+OK\r\n").await;
    let swap = format!("SET a {value} GET");
    client.send(&pipeline(&[&swap, &swap, &swap])).await;
    let reply = format!("$200\r\n{value}\r\n");
    client.expect(&reply.repeat(3)).await;
}

#[tokio::test]
async fn long_values_go_in_and_come_out() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    let value = "0123456789abcdef".repeat(1 << 16);
    let set = format!(
        "*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n{value}\r\n",
        value.len()
    );
    client.send(set.as_bytes()).await;
    client.expect("+OK\r\n").await;
    client.send(&pipeline(&["GET a", "PING", "GET a"])).await;
    let reply = format!("${}\r\n{value}\r\n", value.len());
    client.expect(&format!("{reply}+PONG\r\n{reply}")).await;
}

/// Sweeps until the connection has ended, letting everyone else do all that they can
/// in between.
async fn sweep_away(node: &Node, client: &mut Client) {
    for _ in 0..100 {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        if client.task.is_finished() {
            return;
        }
        node.server.sweep();
    }
    panic!("the connection outlived a hundred sweeps");
}

fn impatient() -> RespConfig {
    RespConfig {
        stall_timeout: Duration::from_secs(3),
        ..RespConfig::default()
    }
}

#[tokio::test]
async fn half_a_command_is_not_waited_for_without_end() {
    let node = Node::alone(Answering::AtOnce, impatient());
    for half in [
        &b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16777216\r\nabc"[..],
        b"*1048576\r\n",
        b"GET a",
        b"*1\r\n$4\r\nPI",
    ] {
        let mut client = node.connect();
        client.send(half).await;
        sweep_away(&node, &mut client).await;
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_byte_now_and_then_is_no_progress() {
    let node = Node::alone(Answering::AtOnce, impatient());
    let mut client = node.connect();
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\n").await;
    let mut bytes = 0;
    while !client.task.is_finished() {
        if client.stream.write_all(b"x").await.is_err() {
            break;
        }
        bytes += 1;
        assert!(bytes < 100, "the command would have ended");
        node.server.sweep();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed() {
    let node = Node::alone(Answering::AtOnce, impatient());
    let mut client = node.connect();
    let value = "x".repeat(10_000);
    client.call(&format!("SET a {value}"), "+OK\r\n").await;
    client.send(&command("GET a").repeat(100)).await;
    sweep_away(&node, &mut client).await;
}

#[tokio::test]
async fn an_idle_client_is_left_alone_unless_configured() {
    let node = Node::alone(Answering::AtOnce, impatient());
    let mut client = node.connect();
    client.call("PING", "+PONG\r\n").await;
    for _ in 0..100 {
        assert_eq!(node.server.sweep(), 0);
    }
    client.call("PING", "+PONG\r\n").await;

    let config = RespConfig {
        idle_timeout: Some(Duration::from_secs(5)),
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let mut client = node.connect();
    client.call("PING", "+PONG\r\n").await;
    sweep_away(&node, &mut client).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_slow_write_is_not_the_clients_fault() {
    let node = Node::alone(Answering::WhenTold, impatient());
    let mut client = node.connect();
    client.command("SET a 1").await;
    until(|| node.memory.started() == 1).await;
    for _ in 0..100 {
        assert_eq!(node.server.sweep(), 0);
        tokio::task::yield_now().await;
    }
    node.memory.answer(1);
    client.expect("+OK\r\n").await;
}

#[tokio::test]
async fn unfinished_long_commands_share_a_bounded_room() {
    let config = RespConfig {
        limits: Limits {
            value_bytes: 1 << 20,
            request_bytes: 1 << 20,
            ..Limits::default()
        },
        room: Budget::new(2 << 20),
        stall_timeout: Duration::from_secs(3),
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let announce = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n";
    // Three clients leave long commands unfinished, which fills the room.
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let mut client = node.connect();
        client.send(announce).await;
        let sent = timeout(
            Duration::from_millis(500),
            client.stream.write_all(&[b'x'; 900_000]),
        );
        let _ = sent.await;
        stuck.push(client);
    }
    // Short commands do not notice.
    let mut short = node.connect();
    short.call("PING", "+PONG\r\n").await;
    // A fourth long one waits, and gets its turn once those were swept away.
    let mut long = node.connect();
    let sending = tokio::spawn(async move {
        long.send(announce).await;
        long.send(&[b'x'; 1_000_000]).await;
        long.send(b"\r\n").await;
        long.expect("+OK\r\n").await;
    });
    for client in &mut stuck {
        sweep_away(&node, client).await;
    }
    sending.await.expect("it was answered");
}

#[tokio::test]
async fn a_client_that_closed_its_side_gets_its_answers() {
    let node = slow();
    let mut client = node.connect();
    client.send(&pipeline(&["SET a 1", "GET a"])).await;
    client.send(b"*2\r\n$3\r\nGE").await;
    client.stream.shutdown().await.expect("the pipe closes");
    until(|| node.memory.started() == 1).await;
    node.memory.answer(1);
    assert_eq!(client.rest().await, "+OK\r\n$1\r\n1\r\n");
}

#[tokio::test]
async fn a_drain_answers_what_was_taken() {
    let node = slow();
    let mut client = node.connect();
    client.send(&pipeline(&["SET a 1", "GET a"])).await;
    until(|| node.memory.started() == 1).await;
    node.server.drain();
    node.memory.answer(1);
    assert_eq!(client.rest().await, "+OK\r\n$1\r\n1\r\n");
    let mut late = node.connect();
    assert_eq!(late.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_still_asks_is_answered_before_the_node_leaves() {
    let node = slow();
    let mut client = node.connect();
    client.call("PING", "+PONG\r\n").await;
    node.server.leave();
    // It asks for more than twice as long as one that is quiet would be kept.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.call("PING", "+PONG\r\n").await;
    }
    // What is not answered yet is not quiet.
    client.send(&pipeline(&["SET a 1"])).await;
    until(|| node.memory.started() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.memory.answer(1);
    client.expect("+OK\r\n").await;
    assert_eq!(client.rest().await, "");
    let mut late = node.connect();
    late.call("PING", "+PONG\r\n").await;
    assert_eq!(late.rest().await, "");
}

#[tokio::test]
async fn a_client_can_be_killed() {
    let node = slow();
    let mut client = node.connect();
    client.command("SET a 1").await;
    until(|| node.memory.started() == 1).await;
    let mut other = node.connect();
    other.call("CLIENT KILL ID 1", ":1\r\n").await;
    assert_eq!(client.rest().await, "");
    node.memory.answer(1);
    other.call("GET a", "$1\r\n1\r\n").await;
}

#[tokio::test]
async fn a_listener_has_room_for_so_many_and_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let config = RespConfig {
        connections_max: 2,
        drain_timeout: Duration::from_secs(30),
        ..RespConfig::default()
    };
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(
        listener,
        None,
        Arc::new(Shared(Arc::new(Memory::new(Answering::AtOnce)))),
        Arc::new(ArcSwap::from_pointee(cluster_map(1, 7000, &[Some(1)]))),
        config,
        shutdown.clone(),
    ));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.expect("it connects");
        stream.write_all(b"PING\r\n").await.expect("it writes");
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).await.expect("it answers");
        assert_eq!(&reply, b"+PONG\r\n");
        open.push(stream);
    }
    let mut refused = TcpStream::connect(address).await.expect("it connects");
    let mut words = Vec::new();
    refused.read_to_end(&mut words).await.expect("it closes");
    assert_eq!(words, b"-ERR max number of clients reached\r\n");
    shutdown.cancel();
    serving.await.expect("it ends").expect("without an error");
    for mut stream in open {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("it closes");
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn a_question_about_all_keys_sees_every_command_before_it_and_none_behind_it() {
    let node = slow();
    let mut client = node.connect();
    client
        .send(&pipeline(&[
            "SET a 1",
            "SET b 2",
            "DBSIZE",
            "SCAN 0 COUNT 1",
            "SCAN 1",
            "SET c 3",
            "GET c",
            "DBSIZE",
        ]))
        .await;
    until(|| node.memory.started() == 2).await;
    node.memory.answer(1);
    client.expect("+OK\r\n").await;
    // The question waits for a write of another slot, and a write waits for it.
    assert_eq!(node.memory.started(), 2);
    node.memory.answer(1);
    client
        .expect(concat!(
            "+OK\r\n:2\r\n",
            "*2\r\n$1\r\n1\r\n*1\r\n$1\r\na\r\n",
            "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n",
        ))
        .await;
    until(|| node.memory.started() == 3).await;
    node.memory.answer(1);
    client.expect("+OK\r\n$1\r\n3\r\n:3\r\n").await;
}
