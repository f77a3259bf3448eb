//! `CLIENT TRACKING`: what clients are told of keys that they keep, on which connection, and
//! when. The words are those of redis-server.

use cairn_core::ids::PartitionId;
use cairn_node::resp::RespConfig;

use crate::memory::Answering;
use crate::support::{Client, Node};

fn alone() -> Node {
    Node::alone(Answering::AtOnce, RespConfig::default())
}

/// A connection that speaks RESP3.
async fn three(node: &Node) -> Client {
    let mut client = node.connect();
    client.command("HELLO 3").await;
    client.expect("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n").await;
    // What is left of the greeting holds the number of the client.
    for _ in 0..21 {
        client.rest_of_line().await;
    }
    client.call("ECHO end", "$3\r\nend\r\n").await;
    client
}

fn invalidate(key: &str) -> String {
    format!(
        ">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n",
        key.len()
    )
}

#[tokio::test]
async fn who_read_a_key_is_told_once_that_it_changed() {
    let node = alone();
    let mut client = three(&node).await;
    let mut other = node.connect();
    client.call("CLIENT TRACKING ON", "+OK\r\n").await;
    client.call("GET a", "_\r\n").await;
    client.call("MGET b{a} c{a}", "*2\r\n_\r\n_\r\n").await;
    other.call("SET a 1", "+OK\r\n").await;
    client.expect(&invalidate("a")).await;
    other.call("SET a 2", "+OK\r\n").await;
    other.call("SET unread 2", "+OK\r\n").await;
    other.call("SET c{a} 2", "+OK\r\n").await;
    client.expect(&invalidate("c{a}")).await;
    client.call("GET a", "$1\r\n2\r\n").await;
    other.call("DEL a", ":1\r\n").await;
    client.expect(&invalidate("a")).await;
    client.call("CLIENT TRACKING OFF", "+OK\r\n").await;
    client.call("GET a", "_\r\n").await;
    other.call("SET a 1", "+OK\r\n").await;
    client.call("ECHO end", "$3\r\nend\r\n").await;
}

#[tokio::test]
async fn own_writes_are_told_after_their_answer_unless_they_are_not_wanted() {
    let node = alone();
    let mut client = three(&node).await;
    let mut other = node.connect();
    client.call("CLIENT TRACKING ON", "+OK\r\n").await;
    client.call("GET a", "_\r\n").await;
    client
        .call("SET a 1", &format!("+OK\r\n{}", invalidate("a")))
        .await;
    client.call("CLIENT TRACKING OFF", "+OK\r\n").await;
    client.call("CLIENT TRACKING ON NOLOOP", "+OK\r\n").await;
    client.call("GET a", "$1\r\n1\r\n").await;
    client.call("SET a 2", "+OK\r\n").await;
    client.call("MSET a 3 b{a} 3", "+OK\r\n").await;
    client.call("ECHO end", "$3\r\nend\r\n").await;
    // It may keep what it wrote, and is told when somebody else writes.
    other.call("SET a 4", "+OK\r\n").await;
    client.expect(&invalidate("a")).await;
    // What it makes of the value that was there may be more than its own.
    client
        .call("INCR a", &format!(":5\r\n{}", invalidate("a")))
        .await;
}

/// What is told comes after the answer to every command that was sent before it: the value in
/// there may be the old one.
#[tokio::test]
async fn nothing_is_told_before_an_answer_that_may_be_older() {
    let node = Node::alone(Answering::WhenTold, RespConfig::default());
    let mut client = three(&node).await;
    client.call("CLIENT TRACKING ON", "+OK\r\n").await;
    // The read of `a` is done, and its answer waits behind that of the write.
    client.command("SET b 1").await;
    client.command("GET a").await;
    while node.memory.started() < 1 {
        tokio::task::yield_now().await;
    }
    let mut other = node.connect();
    other.command("SET a 1").await;
    while node.memory.started() < 2 {
        tokio::task::yield_now().await;
    }
    // `SET a` is told before `SET b` is answered, which came first.
    assert_eq!(node.memory.answer_last(), 1);
    other.expect("+OK\r\n").await;
    assert_eq!(node.memory.answer(1), 1);
    client
        .expect(&format!("+OK\r\n_\r\n{}", invalidate("a")))
        .await;
}

#[tokio::test]
async fn resp2_is_told_on_a_connection_that_listens() {
    let node = alone();
    let mut listener = node.connect();
    listener.call("CLIENT ID", ":1\r\n").await;
    let channel = "$20\r\n__redis__:invalidate\r\n";
    listener
        .call(
            "SUBSCRIBE __redis__:invalidate",
            &format!("*3\r\n$9\r\nsubscribe\r\n{channel}:1\r\n"),
        )
        .await;
    listener
        .call(
            "GET a",
            "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n",
        )
        .await;
    listener
        .call("PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        .await;
    let mut client = node.connect();
    client
        .call(
            "CLIENT TRACKING ON REDIRECT 77",
            "-ERR The client ID you want redirect to does not exist\r\n",
        )
        .await;
    client
        .call("CLIENT TRACKING ON REDIRECT 1", "+OK\r\n")
        .await;
    client.call("CLIENT GETREDIR", ":1\r\n").await;
    client.call("GET a", "$-1\r\n").await;
    client.call("SET a 1", "+OK\r\n").await;
    let message = format!("*3\r\n$7\r\nmessage\r\n{channel}");
    listener
        .expect(&format!("{message}*1\r\n$1\r\na\r\n"))
        .await;
    client.call("GET a", "$1\r\n1\r\n").await;
    node.memory.tracker.flush(PartitionId(0));
    listener
        .expect(&format!("{message}*1\r\n$1\r\na\r\n"))
        .await;
    listener
        .call(
            "UNSUBSCRIBE",
            &format!("*3\r\n$11\r\nunsubscribe\r\n{channel}:0\r\n"),
        )
        .await;
    listener.call("GET a", "$1\r\n1\r\n").await;
    listener
        .call(
            "SUBSCRIBE news",
            "-ERR there are no channels but __redis__:invalidate, which tells of keys\r\n",
        )
        .await;
}

#[tokio::test]
async fn a_listener_that_is_gone_is_told_of() {
    let node = alone();
    let mut listener = node.connect();
    listener.call("CLIENT ID", ":1\r\n").await;
    let mut client = three(&node).await;
    client
        .call("CLIENT TRACKING ON REDIRECT 1", "+OK\r\n")
        .await;
    client.call("GET a", "_\r\n").await;
    listener.call("QUIT", "+OK\r\n").await;
    listener.task.await.expect("it ends");
    client
        .call(
            "SET a 1",
            "+OK\r\n>2\r\n$21\r\ntracking-redir-broken\r\n:1\r\n",
        )
        .await;
    client
        .call(
            "CLIENT TRACKINGINFO",
            "%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$15\r\nbroken_redirect\r\n$8\r\nredirect\r\n:1\r\n$8\r\nprefixes\r\n*0\r\n",
        )
        .await;
}

#[tokio::test]
async fn broadcasts_tell_of_what_nobody_read() {
    let node = alone();
    let mut client = three(&node).await;
    let mut other = node.connect();
    client
        .call("CLIENT TRACKING ON BCAST PREFIX a: PREFIX b:", "+OK\r\n")
        .await;
    client
        .call(
            "CLIENT TRACKING ON BCAST PREFIX a:1",
            "-ERR Prefix 'a:1' overlaps with an existing prefix 'a:'. Prefixes for a single client must not overlap.\r\n",
        )
        .await;
    client
        .call(
            "CLIENT TRACKINGINFO",
            "%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$5\r\nbcast\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n*2\r\n$2\r\na:\r\n$2\r\nb:\r\n",
        )
        .await;
    other.call("MSET a:{x} 1 c:{x} 1", "+OK\r\n").await;
    client.expect(&invalidate("a:{x}")).await;
    other.call("SET a:{x} 1", "+OK\r\n").await;
    client.expect(&invalidate("a:{x}")).await;
    // Nobody knows which keys it keeps.
    node.memory.tracker.flush(PartitionId(0));
    client.expect(">2\r\n$10\r\ninvalidate\r\n_\r\n").await;
    client
        .call(
            "CLIENT TRACKING ON",
            "-ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.\r\n",
        )
        .await;
}

#[tokio::test]
async fn clients_say_which_reads_they_keep() {
    let node = alone();
    let mut client = three(&node).await;
    let mut other = node.connect();
    client
        .call(
            "CLIENT CACHING YES",
            "-ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled\r\n",
        )
        .await;
    client.call("CLIENT TRACKING ON OPTIN", "+OK\r\n").await;
    client
        .call(
            "CLIENT CACHING NO",
            "-ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.\r\n",
        )
        .await;
    client.call("GET no", "_\r\n").await;
    client.call("CLIENT CACHING YES", "+OK\r\n").await;
    client
        .call(
            "CLIENT TRACKINGINFO",
            "%3\r\n$5\r\nflags\r\n~3\r\n$2\r\non\r\n$5\r\noptin\r\n$11\r\ncaching-yes\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n*0\r\n",
        )
        .await;
    client.call("CLIENT CACHING YES", "+OK\r\n").await;
    client.call("GET yes", "_\r\n").await;
    client.call("GET no", "_\r\n").await;
    other.call("SET no 1", "+OK\r\n").await;
    other.call("SET yes 1", "+OK\r\n").await;
    client.expect(&invalidate("yes")).await;
    client
        .call(
            "CLIENT TRACKING ON OPTOUT",
            "-ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.\r\n",
        )
        .await;
    client.call("CLIENT TRACKING OFF", "+OK\r\n").await;
    client.call("CLIENT TRACKING ON OPTOUT", "+OK\r\n").await;
    client.call("CLIENT CACHING NO", "+OK\r\n").await;
    client.call("GET no", "$1\r\n1\r\n").await;
    client.call("GET yes", "$1\r\n1\r\n").await;
    other.call("SET no 2", "+OK\r\n").await;
    other.call("SET yes 2", "+OK\r\n").await;
    client.expect(&invalidate("yes")).await;
}

#[tokio::test]
async fn options_are_refused_as_redis_does() {
    let node = alone();
    let mut client = node.connect();
    for (command, reply) in [
        ("CLIENT GETREDIR", ":-1\r\n"),
        (
            "CLIENT TRACKINGINFO",
            "*6\r\n$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n",
        ),
        ("CLIENT TRACKING maybe", "-ERR syntax error\r\n"),
        ("CLIENT TRACKING ON WHAT", "-ERR syntax error\r\n"),
        ("CLIENT TRACKING ON PREFIX", "-ERR syntax error\r\n"),
        (
            "CLIENT TRACKING ON PREFIX a",
            "-ERR PREFIX option requires BCAST mode to be enabled\r\n",
        ),
        (
            "CLIENT TRACKING ON BCAST OPTIN",
            "-ERR OPTIN and OPTOUT are not compatible with BCAST\r\n",
        ),
        (
            "CLIENT TRACKING ON OPTIN OPTOUT",
            "-ERR You can't specify both OPTIN mode and OPTOUT mode\r\n",
        ),
        (
            "CLIENT TRACKING ON BCAST PREFIX a PREFIX ab",
            "-ERR Prefix 'a' overlaps with another provided prefix 'ab'. Prefixes for a single client must not overlap.\r\n",
        ),
        (
            "CLIENT TRACKING ON REDIRECT x",
            "-ERR value is not an integer or out of range\r\n",
        ),
        // Nothing can be told to it, which Redis lets it do.
        ("CLIENT TRACKING ON", "+OK\r\n"),
        ("GET a", "$-1\r\n"),
        ("SET a 1", "+OK\r\n"),
        ("RESET", "+RESET\r\n"),
        ("CLIENT GETREDIR", ":-1\r\n"),
    ] {
        client.call(command, reply).await;
    }
}
