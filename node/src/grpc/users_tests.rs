//! Who may do what over gRPC, through the Rust client and by hand.

use std::path::PathBuf;
use std::time::Duration;

use cairn_client::transport::{Credential, Dialer};
use cairn_client::{Client, Error, Options};
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_client::KvClient;
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1::MapRequest;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{Code, Request};

use super::fake::FakeCluster;
use crate::users::{Users, hash_password, hash_token, new_token};

/// What no test should take.
const PATIENCE: Duration = Duration::from_secs(20);

struct File {
    directory: TempDir,
    token: String,
    users: Users,
}

impl File {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let token = new_token();
        std::fs::write(directory.path().join("users.toml"), text(&token, "writer"))
            .expect("written");
        let users = Users::load(Some(&directory.path().join("users.toml"))).expect("a good file");
        Self {
            directory,
            token,
            users,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("users.toml")
    }

    fn rewrite(&self, text: &str) {
        std::fs::write(self.path(), text).expect("written");
        assert!(self.users.reload().expect("a good file"));
    }

    fn options(&self) -> Options {
        options(Credential::token(&self.token))
    }
}

fn text(token: &str, role: &str) -> String {
    let token = hash_token(token.as_bytes()).expect("hashed");
    let password = hash_password(b"a: password").expect("hashed");
    format!(
        "[[user]]\nname = \"bot\"\nrole = \"{role}\"\nkeys = [\"app:*\"]\ntokens = [\"{token}\"]\n\
         [[user]]\nname = \"look\"\nrole = \"reader\"\nkeys = [\"*\"]\npasswords = [\"{password}\"]\n"
    )
}

fn options(credential: Option<Credential>) -> Options {
    Options {
        dialer: Dialer {
            credential,
            ..Dialer::default()
        },
        ..Options::default()
    }
}

#[tokio::test]
async fn a_client_without_a_right_credential_is_told_so_at_once() {
    let file = File::new();
    let cluster = FakeCluster::guarded(1, file.users.clone());
    for credential in [
        None,
        Credential::token("0123456789abcdef0123456789abcdef"),
        Credential::password("look", "another password"),
        Credential::password("nobody", "a: password"),
        Credential::password("bot", "a: password"),
    ] {
        let connected = Client::connect([cluster.address(1)], options(credential));
        let refused = timeout(PATIENCE, connected).await.expect("at once");
        assert!(
            matches!(refused, Err(Error::Unauthenticated { .. })),
            "{refused:?}"
        );
    }
    // In the same words whatever is wrong with it.
    let mut said = Vec::new();
    for credential in [
        Credential::token("wrong"),
        Credential::password("look", "wrong"),
        Credential::password("nobody", "wrong"),
    ] {
        let dialer = options(credential).dialer;
        let channel = dialer
            .dial(&cluster.address(1))
            .await
            .expect("a connection");
        let status = TopologyClient::new(channel)
            .get(MapRequest::default())
            .await;
        said.push(status.expect_err("refused").message().to_owned());
    }
    assert!(said.windows(2).all(|two| two[0] == two[1]), "{said:?}");
}

#[tokio::test]
async fn each_call_is_held_to_the_role_and_the_keys() {
    let file = File::new();
    let cluster = FakeCluster::guarded(1, file.users.clone());
    let bot = Client::connect([cluster.address(1)], file.options())
        .await
        .expect("let in");
    bot.put("app:1", "x").await.expect("its own key");
    let value = bot.get("app:1").await.expect("its own key");
    assert!(value.is_some());
    for refused in [
        bot.get("other").await.map(drop),
        bot.put("other", "x").await.map(drop),
        bot.increment("other", 1).await.map(drop),
        bot.delete("other").await.map(drop),
    ] {
        assert!(
            matches!(refused, Err(Error::PermissionDenied { .. })),
            "{refused:?}"
        );
    }

    let look = options(Credential::password("look", "a: password"));
    let look = Client::connect([cluster.address(1)], look)
        .await
        .expect("let in");
    assert!(look.get("app:1").await.expect("a reader reads").is_some());
    let refused = look.put("app:1", "y").await;
    assert!(
        matches!(refused, Err(Error::PermissionDenied { .. })),
        "{refused:?}"
    );
    assert_eq!(cluster.state.lock().asked.len(), 1);

    // Call by call, as other languages do it.
    let dialer = file.options().dialer;
    let channel = dialer
        .dial(&cluster.address(1))
        .await
        .expect("a connection");
    let mut calls = KvClient::new(channel);
    let get = |key: &'static str| pb::GetRequest {
        key: key.into(),
        ..pb::GetRequest::default()
    };
    assert!(calls.get(get("app:1")).await.is_ok());
    let refused = calls.get(get("other")).await.expect_err("not its key");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut request = Request::new(get("app:1"));
    request
        .metadata_mut()
        .insert("authorization", "Bearer x".parse().expect("a header"));
    // The connection's own credential goes with each call.
    assert!(calls.get(request).await.is_ok());
}

#[tokio::test]
async fn an_open_stream_follows_the_file() {
    let file = File::new();
    let cluster = FakeCluster::guarded(1, file.users.clone());
    let client = Client::connect([cluster.address(1)], file.options())
        .await
        .expect("let in");
    client.put("app:1", "x").await.expect("a writer writes");
    file.rewrite(&text(&file.token, "reader"));
    let refused = client.put("app:1", "y").await;
    assert!(
        matches!(refused, Err(Error::PermissionDenied { .. })),
        "{refused:?}"
    );
    assert_eq!(client.stats().connects, 1);

    file.rewrite(&text(&new_token(), "writer"));
    let refused = timeout(PATIENCE, client.get("app:1"))
        .await
        .expect("at once");
    assert!(
        matches!(refused, Err(Error::Unauthenticated { .. })),
        "{refused:?}"
    );
    assert_eq!(cluster.state.lock().asked.len(), 1);

    file.rewrite(&text(&file.token, "writer"));
    client.put("app:1", "y").await.expect("let in again");
}
