//! Who may do what on the Redis port, in Redis's own words.

use std::path::PathBuf;

use cairn_node::resp::{Limits, RespConfig};
use cairn_node::users::{Users, hash_password, hash_token};
use tempfile::TempDir;

use crate::memory::Answering;
use crate::support::{Client, Node};

const NO_AUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const NO_KEY: &str =
    "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
const OK: &str = "+OK\r\n";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn cannot_run(command: &str) -> String {
    format!("-NOPERM this user has no permissions to run the '{command}' command\r\n")
}

fn user(name: &str, role: &str, keys: &str, password: &str) -> String {
    let hash = hash_password(password.as_bytes()).expect("hashed");
    format!(
        "[[user]]\nname = \"{name}\"\nrole = \"{role}\"\nkeys = [{keys}]\npasswords = [\"{hash}\"]\n"
    )
}

fn a_reader_and_a_writer() -> String {
    let token = hash_token(TOKEN.as_bytes()).expect("hashed");
    user("app", "writer", "\"app:*\"", "a password")
        + &user("look", "reader", "\"*\"", "looks only")
        + &user("root", "admin", "\"*\"", "the admin's")
        + &format!(
            "[[user]]\nname = \"bot\"\nrole = \"writer\"\nkeys = [\"*\"]\ntokens = [\"{token}\"]\n"
        )
}

struct Guarded {
    node: Node,
    users: Users,
    directory: TempDir,
}

impl Guarded {
    fn new(text: &str) -> Self {
        Self::limited(text, Limits::default())
    }

    fn limited(text: &str, limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users.toml");
        std::fs::write(&path, text).expect("written");
        let users = Users::load(Some(&path)).expect("a good file");
        let config = RespConfig {
            users: users.clone(),
            limits,
            ..RespConfig::default()
        };
        Self {
            node: Node::alone(Answering::AtOnce, config),
            users,
            directory,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("users.toml")
    }

    fn rewrite(&self, text: &str) {
        std::fs::write(self.path(), text).expect("written");
        assert!(self.users.reload().expect("a good file"));
    }

    async fn logged_in(&self, auth: &str) -> Client {
        let mut client = self.node.connect();
        // `~` stands for the spaces of a password.
        let words: Vec<String> = auth.split(' ').map(|word| word.replace('~', " ")).collect();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        client.send(&encode(&words)).await;
        client.expect(OK).await;
        client
    }
}

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[tokio::test]
async fn who_has_not_logged_in_learns_nothing_and_does_nothing() {
    let guarded = Guarded::new(&a_reader_and_a_writer());
    let mut client = guarded.node.connect();
    for command in [
        "PING",
        "GET a",
        "SET app:1 2",
        "INFO",
        "CLUSTER SLOTS",
        "COMMAND COUNT",
        "CLIENT ID",
    ] {
        client.call(command, NO_AUTH).await;
    }
    // What is wrong with a command is said before, as in Redis.
    client
        .call(
            "GET",
            "-ERR wrong number of arguments for 'get' command\r\n",
        )
        .await;
    client
        .call(
            "HELLO 3",
            "-NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
             the RESP protocol version at the same time\r\n",
        )
        .await;
    client.call("AUTH app wrong", WRONG).await;
    client.call("AUTH nobody wrong", WRONG).await;
    client.call("AUTH wrong", WRONG).await;
    client.call("HELLO 3 AUTH app wrong", WRONG).await;
    client.call("AUTH a b c", "-ERR syntax error\r\n").await;
    client.call("GET app:1", NO_AUTH).await;
    assert_eq!(guarded.node.memory.started(), 0);
    client.call("QUIT", OK).await;
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_with_its_own_keys() {
    let guarded = Guarded::new(&a_reader_and_a_writer());
    let mut app = guarded.logged_in("AUTH app a~password").await;
    app.call("ACL WHOAMI", "$3\r\napp\r\n").await;
    app.call("SET app:1 2", OK).await;
    app.call("GET app:1", "$1\r\n2\r\n").await;
    app.call("GET other:1", NO_KEY).await;
    app.call("DEL other:1", NO_KEY).await;
    app.call("MGET {app:1}a app:1", NO_KEY).await;
    app.call(
        "SCAN 0 MATCH app:* COUNT 10",
        "*2\r\n$1\r\n0\r\n*1\r\n$5\r\napp:1\r\n",
    )
    .await;
    app.call("SCAN 0", NO_KEY).await;
    app.call("SCAN 0 MATCH a*", NO_KEY).await;
    app.call("CONFIG GET save", &cannot_run("config|get")).await;
    app.call("CLIENT LIST", &cannot_run("client|list")).await;
    app.call("PING", "+PONG\r\n").await;

    let mut look = guarded.logged_in("AUTH look looks~only").await;
    look.call("GET app:1", "$1\r\n2\r\n").await;
    look.call("SET app:1 3", &cannot_run("set")).await;
    look.call("INCR n", &cannot_run("incr")).await;

    let mut root = guarded.logged_in("AUTH root the~admin's").await;
    root.call("SET n 1", OK).await;
    root.call("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n")
        .await;
    root.command("CLIENT LIST").await;
    let list = root.bulk().await;
    assert!(
        list.contains("user=app") && list.contains("user=root"),
        "{list}"
    );
}

#[tokio::test]
async fn a_token_stands_in_a_passwords_place_or_alone() {
    let guarded = Guarded::new(&a_reader_and_a_writer());
    for auth in [format!("AUTH bot {TOKEN}"), format!("AUTH {TOKEN}")] {
        let mut bot = guarded.logged_in(&auth).await;
        bot.call("ACL WHOAMI", "$3\r\nbot\r\n").await;
    }
    let mut client = guarded.node.connect();
    client.call(&format!("AUTH app {TOKEN}"), WRONG).await;
    client.call("ACL WHOAMI", NO_AUTH).await;
}

#[tokio::test]
async fn what_follows_a_login_in_a_pipeline_waits_for_it() {
    let guarded = Guarded::new(&a_reader_and_a_writer());
    let mut client = guarded.node.connect();
    let mut bytes = encode(&[b"GET", b"app:1"]);
    bytes.extend(encode(&[
        b"HELLO",
        b"3",
        b"AUTH",
        b"app",
        b"a password",
        b"SETNAME",
        b"me",
    ]));
    bytes.extend(encode(&[b"SET", b"app:1", b"x"]));
    bytes.extend(encode(&[b"AUTH", b"look", b"wrong"]));
    bytes.extend(encode(&[b"ACL", b"WHOAMI"]));
    bytes.extend(encode(&[b"RESET"]));
    bytes.extend(encode(&[b"GET", b"app:1"]));
    client.send(&bytes).await;
    client.expect(NO_AUTH).await;
    client.expect("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n").await;
    client
        .expect("$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n")
        .await;
    client
        .expect(
            "$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
        )
        .await;
    client.expect(OK).await;
    // A wrong one leaves the client who it was; RESET does not.
    client.expect(WRONG).await;
    client.expect("$3\r\napp\r\n").await;
    client.expect("+RESET\r\n").await;
    client.expect(NO_AUTH).await;
}

#[tokio::test]
async fn an_open_connection_follows_the_file() {
    let guarded = Guarded::new(&a_reader_and_a_writer());
    let mut app = guarded.logged_in("AUTH app a~password").await;
    app.call("SET app:1 2", OK).await;
    let mut bot = guarded.logged_in(&format!("AUTH {TOKEN}")).await;

    let reader = a_reader_and_a_writer().replacen("writer", "reader", 1);
    // The password has a new salt, which is another secret to the node.
    guarded.rewrite(&reader);
    app.call("GET app:1", NO_AUTH).await;
    bot.call("ACL WHOAMI", "$3\r\nbot\r\n").await;
    app.send(&encode(&[b"AUTH", b"app", b"a password"])).await;
    app.expect(OK).await;
    app.call("SET app:1 3", &cannot_run("set")).await;

    guarded.rewrite(&(user("look", "reader", "\"*\"", "looks only") + "[[user]]\nname = \"guest\"\nrole = \"reader\"\nkeys = [\"app:*\"]\nanonymous = true\n"));
    for client in [&mut app, &mut bot] {
        client.call("ACL WHOAMI", "$5\r\nguest\r\n").await;
        client.call("GET app:1", "$1\r\n2\r\n").await;
        client.call("GET other", NO_KEY).await;
    }
}

#[tokio::test]
async fn who_has_not_logged_in_cannot_make_the_node_hold_much() {
    let guarded = Guarded::new(&a_reader_and_a_writer());
    for (bytes, words) in [
        (&b"*11\r\n"[..], "unauthenticated multibulk length"),
        (
            b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
            "unauthenticated bulk length",
        ),
    ] {
        let mut client = guarded.node.connect();
        client.send(bytes).await;
        let said = client.rest().await;
        assert_eq!(said, format!("-ERR Protocol error: {words}\r\n"));
    }
    let mut client = guarded.logged_in("AUTH app a~password").await;
    let long = vec![b'x'; 20_000];
    client.send(&encode(&[b"SET", b"app:1", &long])).await;
    client.expect(OK).await;
}

#[tokio::test]
async fn without_a_file_a_password_is_answered_as_redis_answers_it() {
    let node = Node::alone(Answering::AtOnce, RespConfig::default());
    let mut client = node.connect();
    client
        .call(
            "AUTH a",
            "-ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?\r\n",
        )
        .await;
    client.call("AUTH default a", OK).await;
    client.call("AUTH other a", WRONG).await;
    client.call("ACL WHOAMI", "$7\r\ndefault\r\n").await;
    client
        .call(
            "ACL NOPE",
            "-ERR unknown subcommand 'NOPE'. Try ACL HELP.\r\n",
        )
        .await;
}
