//! Commands and their replies, byte for byte. Unless a test says otherwise, the
//! expected bytes are those of redis-server 7.0.15 in cluster mode.

use crate::memory::{Answering, cluster_map};
use crate::support::Node;
use cairn_core::ids::{Epoch, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::kv::request::RequestError;
use cairn_core::record::Member;
use cairn_node::resp::{Limits, RespConfig};

/// Runs each command on a connection of its own node, in turn.
pub(crate) async fn script(lines: &[(&str, &str)]) {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    for (command, expected) in lines {
        client.call(command, expected).await;
    }
}

#[tokio::test]
async fn strings() {
    script(&[
        ("GET k", "$-1\r\n"),
        ("SET k v", "+OK\r\n"),
        ("GET k", "$1\r\nv\r\n"),
        ("set k v XX", "+OK\r\n"),
        ("SET k2 v XX", "$-1\r\n"),
        ("SET k v NX", "$-1\r\n"),
        ("SET k v NX GET", "$1\r\nv\r\n"),
        ("SET k w get", "$1\r\nv\r\n"),
        ("SET k3 w GET", "$-1\r\n"),
        ("SET k4 w NX GET", "$-1\r\n"),
        ("SET k v NX XX", "-ERR syntax error\r\n"),
        ("SET k v XX XX", "+OK\r\n"),
        ("SET k v FOO", "-ERR syntax error\r\n"),
        (
            "SET k",
            "-ERR wrong number of arguments for 'set' command\r\n",
        ),
        ("SETNX k5 1", ":1\r\n"),
        ("SETNX k5 1", ":0\r\n"),
        ("GETSET k5 2", "$1\r\n1\r\n"),
        ("GETSET k6 2", "$-1\r\n"),
        ("STRLEN k5", ":1\r\n"),
        ("STRLEN none", ":0\r\n"),
        ("MGET {a}1 {a}2", "*2\r\n$-1\r\n$-1\r\n"),
        ("SET {a}1 x", "+OK\r\n"),
        ("MGET {a}1 {a}2 {a}1", "*3\r\n$1\r\nx\r\n$-1\r\n$1\r\nx\r\n"),
        (
            "MGET k k9",
            "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        ),
        (
            "GET",
            "-ERR wrong number of arguments for 'get' command\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn expiry() {
    script(&[
        ("SET k v EX", "-ERR syntax error\r\n"),
        (
            "SET k v EX 0",
            "-ERR invalid expire time in 'set' command\r\n",
        ),
        (
            "SET k v EX -1",
            "-ERR invalid expire time in 'set' command\r\n",
        ),
        (
            "SET k v EX abc",
            "-ERR value is not an integer or out of range\r\n",
        ),
        ("SET k v EX abc PX", "-ERR syntax error\r\n"),
        ("SET k v EX 10 PX 10", "-ERR syntax error\r\n"),
        ("SET k v PX 1 PX 200000", "+OK\r\n"),
        ("SET k v KEEPTTL EX 10", "-ERR syntax error\r\n"),
        (
            "SET k v EX 9223372036854775807",
            "-ERR invalid expire time in 'set' command\r\n",
        ),
        (
            "SET k v PX 9223372036854775807",
            "-ERR invalid expire time in 'set' command\r\n",
        ),
        ("SET k v EXAT 9223372036854775", "+OK\r\n"),
        ("SET k v PXAT 9223372036854775807", "+OK\r\n"),
        ("SET k v EX 100", "+OK\r\n"),
        ("TTL k", ":100\r\n"),
        ("SET k w KEEPTTL", "+OK\r\n"),
        ("TTL k", ":100\r\n"),
        ("SET k w", "+OK\r\n"),
        ("TTL k", ":-1\r\n"),
        ("PTTL none", ":-2\r\n"),
        ("SET k v EXAT 33177117420", "+OK\r\n"),
        ("EXPIRETIME k", ":33177117420\r\n"),
        ("PEXPIRETIME k", ":33177117420000\r\n"),
        ("EXPIRETIME none", ":-2\r\n"),
        ("SET k v EXAT 1", "+OK\r\n"),
        ("GET k", "$-1\r\n"),
        (
            "SETEX k 0 v",
            "-ERR invalid expire time in 'setex' command\r\n",
        ),
        (
            "SETEX k a v",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "PSETEX k -5 v",
            "-ERR invalid expire time in 'psetex' command\r\n",
        ),
        ("SETEX k 100 v", "+OK\r\n"),
        ("TTL k", ":100\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn integers() {
    script(&[
        ("INCR n", ":1\r\n"),
        ("INCRBY n 5", ":6\r\n"),
        ("DECR n", ":5\r\n"),
        ("DECRBY n 10", ":-5\r\n"),
        (
            "INCRBY n abc",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "INCRBY n 9223372036854775808",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "DECRBY n -9223372036854775808",
            "-ERR decrement would overflow\r\n",
        ),
        ("SET n 9223372036854775807", "+OK\r\n"),
        ("INCR n", "-ERR increment or decrement would overflow\r\n"),
        ("SET n 01", "+OK\r\n"),
        ("INCR n", "-ERR value is not an integer or out of range\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn keys() {
    script(&[
        ("SET {a}1 x", "+OK\r\n"),
        ("EXISTS {a}1", ":1\r\n"),
        ("EXISTS {a}1 {a}1 {a}2", ":2\r\n"),
        ("TOUCH {a}1", ":1\r\n"),
        ("TYPE {a}1", "+string\r\n"),
        ("TYPE none", "+none\r\n"),
        ("DEL {a}1 {a}1 {a}2", ":1\r\n"),
        ("UNLINK {a}1", ":0\r\n"),
        (
            "DEL k k9",
            "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        ),
        (
            "EXISTS k k9",
            "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        ),
        (
            "DEL",
            "-ERR wrong number of arguments for 'del' command\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn connection() {
    script(&[
        ("PING", "+PONG\r\n"),
        ("PING hello", "$5\r\nhello\r\n"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ("ECHO x", "$1\r\nx\r\n"),
        ("AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n"),
        ("AUTH default x", "+OK\r\n"),
        ("AUTH foo x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("AUTH a b c", "-ERR syntax error\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode\r\n"),
        ("SELECT abc", "-ERR value is not an integer or out of range\r\n"),
        ("READONLY", "+OK\r\n"),
        ("READWRITE", "+OK\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME foo", "+OK\r\n"),
        ("CLIENT GETNAME", "$3\r\nfoo\r\n"),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command\r\n"),
        ("CLIENT ID", ":1\r\n"),
        ("CLIENT NO-EVICT on", "+OK\r\n"),
        ("CLIENT NO-EVICT foo", "-ERR syntax error\r\n"),
        ("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT LIST ID 999", "$0\r\n\r\n"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID\r\n"),
        ("CLIENT KILL ID 999", ":0\r\n"),
        ("CLIENT KILL 1.2.3.4:5", "-ERR No such client\r\n"),
        ("CLIENT KILL FOO x", "-ERR syntax error\r\n"),
        ("CLIENT REPLY FOO", "-ERR syntax error\r\n"),
        ("CLIENT REPLY ON", "+OK\r\n"),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n"),
        ("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"),
        ("RESET", "+RESET\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("RESET x", "-ERR wrong number of arguments for 'reset' command\r\n"),
        ("WAIT a 0", "-ERR value is not an integer or out of range\r\n"),
        ("WAIT 0 a", "-ERR timeout is not an integer or out of range\r\n"),
        ("WAIT 0 -1", "-ERR timeout is negative\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn hello() {
    let map = |proto: &str, head: &str| {
        format!(
            "{head}\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:{proto}\r\n\
             $2\r\nid\r\n:1\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
        )
    };
    let (two, three) = (map("2", "*14"), map("3", "%7"));
    script(&[
        ("HELLO", &two),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        (
            "HELLO abc",
            "-ERR Protocol version is not an integer or out of range\r\n",
        ),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
        (
            "HELLO 3 AUTH x",
            "-ERR Syntax error in HELLO option 'AUTH'\r\n",
        ),
        (
            "HELLO 3 AUTH foo x",
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ),
        // What was refused changed nothing.
        ("GET none", "$-1\r\n"),
        ("HELLO 3 AUTH default x SETNAME abc", &three),
        ("CLIENT GETNAME", "$3\r\nabc\r\n"),
        ("GET none", "_\r\n"),
        ("MGET none", "*1\r\n_\r\n"),
        ("CONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("INFO foo", "=4\r\ntxt:\r\n"),
        ("COMMAND INFO nope", "*1\r\n_\r\n"),
        ("HELLO", &three),
        ("HELLO 2", &two),
        ("GET none", "$-1\r\n"),
        ("HELLO 3", &three),
        ("RESET", "+RESET\r\n"),
        ("GET none", "$-1\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_unknown_is_named_as_in_redis() {
    let long = "a".repeat(180);
    let shown = "a".repeat(122);
    script(&[
        (
            "FOO",
            "-ERR unknown command 'FOO', with args beginning with: \r\n",
        ),
        (
            "FOO a b c",
            "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' 'c' \r\n",
        ),
        (
            &format!("foo bar {long} z"),
            &format!("-ERR unknown command 'foo', with args beginning with: 'bar' '{shown}' \r\n"),
        ),
        (
            "CLUSTER FOO",
            "-ERR unknown subcommand 'FOO'. Try CLUSTER HELP.\r\n",
        ),
        (
            "CLUSTER",
            "-ERR wrong number of arguments for 'cluster' command\r\n",
        ),
        (
            "COMMAND FOO",
            "-ERR unknown subcommand 'FOO'. Try COMMAND HELP.\r\n",
        ),
        (
            "CONFIG FOO",
            "-ERR unknown subcommand 'FOO'. Try CONFIG HELP.\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn line_breaks_of_a_client_do_not_end_an_error() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    client
        .send(b"*2\r\n$8\r\nfoo\r\nbar\r\n$4\r\na\r\nb\r\n")
        .await;
    client
        .expect("-ERR unknown command 'foo  bar', with args beginning with: 'a  b' \r\n")
        .await;
}

#[tokio::test]
async fn commands_about_commands() {
    script(&[
        ("COMMAND GETKEYS SET k v", "*1\r\n$1\r\nk\r\n"),
        ("COMMAND GETKEYS MGET a b c", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"),
        ("COMMAND GETKEYS GET a b", "-ERR Invalid number of arguments specified for command\r\n"),
        ("COMMAND GETKEYS PING a", "-ERR The command has no key arguments\r\n"),
        ("COMMAND GETKEYS NOPE a", "-ERR Invalid command specified\r\n"),
        ("COMMAND GETKEYS GET", "-ERR wrong number of arguments for 'command|getkeys' command\r\n"),
        (
            "COMMAND INFO GET FOO",
            "*2\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*3\r\n+@read\r\n+@string\r\n+@fast\r\n*0\r\n*1\r\n*6\r\n$5\r\nflags\r\n*2\r\n+RO\r\n+access\r\n$12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n*4\r\n$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n*6\r\n$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n:0\r\n*0\r\n$-1\r\n",
        ),
        ("COMMAND DOCS nope", "*0\r\n"),
        ("COMMAND LIST FILTERBY PATTERN getse*", "*1\r\n$6\r\ngetset\r\n"),
        ("CONFIG GET maxmemory", "*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n"),
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command\r\n"),
        ("CONFIG GET nope", "*0\r\n"),
        ("CONFIG SET foo bar", "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'\r\n"),
        ("CONFIG SET databases 1", "-ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config\r\n"),
        ("CONFIG RESETSTAT", "+OK\r\n"),
        ("INFO foo", "$0\r\n\r\n"),
        ("INFO cluster", "$30\r\n# Cluster\r\ncluster_enabled:1\r\n\r\n"),
        ("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("SCAN 0", "*2\r\n$1\r\n0\r\n*0\r\n"),
        ("SCAN x", "-ERR invalid cursor\r\n"),
        ("SCAN -1", "-ERR invalid cursor\r\n"),
        ("SCAN 18446744073709551616", "-ERR invalid cursor\r\n"),
        ("SCAN 0 COUNT", "-ERR syntax error\r\n"),
        ("SCAN 0 COUNT 0", "-ERR syntax error\r\n"),
        ("SCAN 0 COUNT x", "-ERR value is not an integer or out of range\r\n"),
        ("SCAN 0 NOPE 1", "-ERR syntax error\r\n"),
        ("SCAN 0 TYPE hash MATCH * COUNT 5", "*2\r\n$1\r\n0\r\n*0\r\n"),
        ("SCAN", "-ERR wrong number of arguments for 'scan' command\r\n"),
        ("KEYS *", "-ERR KEYS is not supported: SCAN gives the keys page by page\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn info_has_the_sections_that_tools_read() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    client.call("SET k v", "+OK\r\n").await;
    client.command("INFO").await;
    let info = client.bulk().await;
    for line in [
        "# Server",
        "redis_version:7.4.0",
        "redis_mode:cluster",
        "# Clients",
        "connected_clients:1",
        "# Memory",
        "used_memory:",
        "# Stats",
        "total_commands_processed:1",
        "# Replication",
        "role:master",
        "# Cluster",
        "cluster_enabled:1",
        "# Keyspace",
        "db0:keys=1,",
    ] {
        assert!(
            info.lines().any(|l| l.starts_with(line)),
            "{line} in {info}"
        );
    }
    client.command("CLIENT LIST").await;
    let list = client.bulk().await;
    assert!(
        list.starts_with("id=1 addr=127.0.0.1:50000 laddr=127.0.0.1:7000 "),
        "{list}"
    );
    assert!(list.contains(" cmd=client|list "), "{list}");
}

#[tokio::test]
async fn quit_and_http_end_the_connection() {
    for (sent, expected) in [
        (&b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n"[..], "+OK\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", ""),
        (
            b"PING\r\nGET \"a\r\n",
            "+PONG\r\n-ERR Protocol error: unbalanced quotes in request\r\n",
        ),
        (
            b"*1\r\n+PING\r\n",
            "-ERR Protocol error: expected '$', got '+'\r\n",
        ),
    ] {
        let node = Node::alone(Answering::AtOnce, RespConfig::default());
        let mut client = node.connect();
        client.send(sent).await;
        assert_eq!(client.rest().await, expected);
    }
}

#[tokio::test]
async fn replies_that_a_client_does_not_want_are_not_sent() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    client
        .send(b"CLIENT REPLY SKIP\r\nSET k 1\r\nGET k\r\n")
        .await;
    client.expect("$1\r\n1\r\n").await;
    client
        .send(
            b"CLIENT REPLY OFF\r\nPING\r\nNOPE\r\nINCR k\r\nMGET k\r\nCLIENT REPLY ON\r\nGET k\r\n",
        )
        .await;
    client.expect("+OK\r\n$1\r\n2\r\n").await;
}

#[tokio::test]
async fn keys_have_a_longest_length() {
    let config = RespConfig {
        limits: Limits {
            key_bytes: 4,
            keys: 2,
            ..Limits::default()
        },
        ..RespConfig::default()
    };
    let node = Node::alone(Answering::AtOnce, config);
    let mut client = node.connect();
    client
        .call("SET abcde v", "-ERR a key may have at most 4 bytes\r\n")
        .await;
    client.call("SET abcd v", "+OK\r\n").await;
    client
        .call(
            "MGET {a}1 {a}1 {a}1",
            "-ERR a command may name at most 2 keys\r\n",
        )
        .await;
}

/// Three nodes and four partitions: n1, n2, n2, and one without a primary.
fn three_nodes() -> Node {
    let map = cluster_map(3, 7000, &[Some(1), Some(2), Some(2), None]);
    Node::of(map, Answering::AtOnce, RespConfig::default())
}

const ID1: &str = "00000000000040008000000000000001d90752fc";
const ID2: &str = "00000000000040008000000000000002d90751fc";

#[tokio::test]
async fn the_cluster_is_shown_with_every_node_as_a_master() {
    let node = three_nodes();
    let mut client = node.connect();
    client
        .call("CLUSTER MYID", &format!("$40\r\n{ID1}\r\n"))
        .await;
    client.call("CLUSTER KEYSLOT foo", ":12182\r\n").await;
    client.command("CLUSTER NODES").await;
    let nodes = client.bulk().await;
    let lines: Vec<&str> = nodes.lines().collect();
    assert_eq!(lines.len(), 3);
    // The range without a primary stands under this node, which may become it.
    assert_eq!(
        lines[0],
        format!("{ID1} 127.0.0.1:7000@7401 myself,master - 0 0 3 connected 0-4095 12288-16383")
    );
    assert_eq!(
        lines[1],
        format!("{ID2} 127.0.0.1:7001@7402 master - 0 0 3 connected 4096-12287")
    );
    assert!(lines[2].ends_with("127.0.0.1:7002@7403 master - 0 0 0 connected"));
    client.command("CLUSTER INFO").await;
    let info = client.bulk().await;
    for line in [
        "cluster_state:fail",
        "cluster_slots_assigned:16384",
        "cluster_slots_ok:12288",
        "cluster_slots_fail:4096",
        "cluster_known_nodes:3",
        "cluster_size:2",
        "cluster_current_epoch:3",
    ] {
        assert!(info.lines().any(|l| l == line), "{line} in {info}");
    }
}

#[tokio::test]
async fn slots_name_the_primary_first_and_follow_the_map() {
    let node = three_nodes();
    let mut client = node.connect();
    let id = |n: u64| cairn_node_name(n);
    let entry = |first: u32, last: u32, nodes: &[u64]| {
        let mut text = format!("*{}\r\n:{first}\r\n:{last}\r\n", 2 + nodes.len());
        for n in nodes {
            text.push_str(&format!(
                "*4\r\n$9\r\n127.0.0.1\r\n:{}\r\n$40\r\n{}\r\n*0\r\n",
                6999 + n,
                id(*n)
            ));
        }
        text
    };
    // Each node that leads and follows is met as a primary first.
    let expected = format!(
        "*5\r\n{}{}{}{}{}",
        entry(0, 0, &[1]),
        entry(4096, 4096, &[2]),
        entry(1, 4095, &[1, 2, 3]),
        entry(4097, 12287, &[2, 1, 3]),
        entry(12288, 16383, &[1, 2, 3])
    );
    client.call("CLUSTER SLOTS", &expected).await;
    // A newer map is seen by the next command.
    let map = cluster_map(3, 7000, &[Some(3)]);
    node.map.store(std::sync::Arc::new(map));
    client
        .call(
            "CLUSTER SLOTS",
            &format!("*1\r\n{}", entry(0, 16383, &[3, 1, 2])),
        )
        .await;
    client.command("CLUSTER INFO").await;
    assert!(client.bulk().await.starts_with("cluster_state:ok\r\n"));
}

/// The name of a node of [`cluster_map`], from `CLUSTER NODES`' own rule: the digits
/// of the UUID, and eight more.
fn cairn_node_name(node: u64) -> String {
    let names = [ID1, ID2, "00000000000040008000000000000003d90750fc"];
    names[node as usize - 1].to_owned()
}

#[tokio::test]
async fn shards_agree_with_slots() {
    let map = cluster_map(1, 7000, &[Some(1)]);
    let node = Node::of(map, Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    let expected = format!(
        "*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n*14\r\n$2\r\nid\r\n$40\r\n{ID1}\r\n\
         $4\r\nport\r\n:7000\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
         $18\r\nreplication-offset\r\n:0\r\n$6\r\nhealth\r\n$6\r\nonline\r\n"
    );
    client.call("CLUSTER SHARDS", &expected).await;
}

#[tokio::test]
async fn refusals_are_told_in_words_that_clients_act_on() {
    let node = three_nodes();
    let mut client = node.connect();
    let member = |node: u64| Member {
        node: NodeId(node),
        replica: ReplicaId(1),
    };
    let moved = |primary: Option<u64>| RequestError::Moved {
        partition: PartitionId(0),
        epoch: Epoch(3),
        primary: primary.map(member),
    };
    for (error, expected) in [
        (moved(Some(2)), "-MOVED 12182 127.0.0.1:7001\r\n"),
        // A primary that nobody has heard of.
        (moved(Some(9)), "-CLUSTERDOWN Hash slot not served\r\n"),
        // A lagging map names this very node.
        (
            moved(Some(1)),
            "-TRYAGAIN the primary of this slot is not ready yet\r\n",
        ),
        (
            RequestError::NotReady {
                partition: PartitionId(0),
            },
            "-TRYAGAIN the primary of this slot is not ready yet\r\n",
        ),
        (
            RequestError::Unknown,
            "-UNKNOWN the write may or may not have been applied: it was not acknowledged in time\r\n",
        ),
        (
            RequestError::Overloaded,
            "-TRYAGAIN the node has too many writes waiting\r\n",
        ),
        (
            RequestError::DiskFull,
            "-MISCONF Errors writing to the log: too few replicas have disk room. Reads are served\r\n",
        ),
        (
            RequestError::Limited {
                wait: Micros(119_001),
            },
            "-LIMITED this key is asked for too often here: try again in 120 ms\r\n",
        ),
        (RequestError::NoMap, "-CLUSTERDOWN Hash slot not served\r\n"),
    ] {
        node.memory.refuse(Some(error));
        client.call("SET foo bar", expected).await;
        client.call("GET foo", expected).await;
        client.call("MGET foo", expected).await;
    }
}
