//! The page's routes, as a browser asks them, over coordinators in this process.

use axum::body::to_bytes;
use base64::Engine as _;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::coordinator::tests::{Fleet, eventually, settings};
use crate::users::hash_password;

async fn ask(routes: &Router, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
    let mut request = axum::http::Request::get(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    routes.clone().oneshot(request).await.unwrap()
}

fn text<'a>(response: &'a Response, name: &header::HeaderName) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

/// The document and its tag.
async fn document(routes: &Router) -> (Value, String) {
    let response = ask(routes, DOCUMENT, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(&response, &header::CONTENT_TYPE), "application/json");
    let tag = text(&response, &header::ETAG).to_owned();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (serde_json::from_slice(&body).unwrap(), tag)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_served_whole_and_asks_nobody_else() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let routes = fleet.page(0);
    for (path, content_type, source) in FILES {
        let response = ask(&routes, path, &[]).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(text(&response, &header::CONTENT_TYPE), content_type);
        assert_eq!(text(&response, &header::CONTENT_SECURITY_POLICY), POLICY);
        assert_eq!(text(&response, &header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        let tag = text(&response, &header::ETAG).to_owned();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body, source.as_bytes());
        // Only what a browser has already is not sent again.
        let again = ask(&routes, path, &[(header::IF_NONE_MATCH, &tag)]).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        let other = ask(&routes, path, &[(header::IF_NONE_MATCH, "\"0\"")]).await;
        assert_eq!(other.status(), StatusCode::OK, "{path}");
        let source = source.replace("http://www.w3.org/2000/svg", "");
        assert!(!source.contains("//") || !source.contains("://"), "{path}");
    }
    assert_eq!(
        ask(&routes, "/nothing", &[]).await.status(),
        StatusCode::NOT_FOUND
    );
    fleet.stop_all().await;
}

/// A document without what grows by the passing of time.
fn without_ages(mut document: Value) -> Value {
    for node in document["nodes"].as_array_mut().unwrap() {
        node["healthForMs"] = Value::Null;
        node["heardMsAgo"] = Value::Null;
    }
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_has_a_new_tag_where_more_than_an_age_has_changed() {
    let mut fleet = Fleet::started(1, settings(3)).await;
    let routes = fleet.page(0);
    fleet.register(0, "u1", "n1").await.unwrap();
    let (mut before, mut tag) = document(&routes).await;
    let (mut aged, mut changed) = (0, 0);
    let registered = fleet.register(0, "u2", "n2");
    let ((), _) = tokio::join!(
        async {
            while aged < 2 || changed < 1 {
                let (next, next_tag) = eventually("another document", || async {
                    let (next, next_tag) = document(&routes).await;
                    (next != before).then_some((next, next_tag))
                })
                .await;
                let same = without_ages(next.clone()) == without_ages(before.clone());
                assert_eq!(same, next_tag == tag, "{before} {next}");
                if same {
                    aged += 1;
                    let known = [(header::IF_NONE_MATCH, next_tag.as_str())];
                    let told = ask(&routes, DOCUMENT, &known).await.status();
                    // It may have changed in between.
                    assert!(matches!(told, StatusCode::NOT_MODIFIED | StatusCode::OK));
                } else {
                    changed += 1;
                }
                (before, tag) = (next, next_tag);
            }
        },
        async { registered.await.unwrap() }
    );
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_tells_what_the_leader_says_and_who_is_silent() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    fleet.register(leader, "u1", "n1").await.unwrap();
    let name = |place: usize| fleet.addresses[place].name.clone();
    let follower = (leader + 1) % 3;
    let routes = fleet.page(follower);
    let told = eventually("the leader's document", || async {
        let (told, _) = document(&routes).await;
        (told["nodes"].as_array()?.len() == 1 && told["answeredBy"] == name(leader)).then_some(told)
    })
    .await;
    assert_eq!(told["leading"], true);
    assert_eq!(told["ring"][0]["share"], 1.0);
    assert_eq!(told["ring"][0]["points"].as_array().unwrap().len(), 16);
    let answers = |document: &Value, of: &str| {
        let coordinators = document["coordinators"].as_array().unwrap();
        let one = coordinators.iter().find(|c| c["name"] == of).unwrap();
        one.get("answers").cloned()
    };
    let (third, stopped) = ((leader + 2) % 3, name((leader + 2) % 3));
    for silent in [false, true] {
        if silent {
            fleet.stop(third).await;
        }
        eventually("word of the third", || async {
            let (told, _) = document(&routes).await;
            (answers(&told, &stopped) == Some(Value::Bool(!silent))).then_some(())
        })
        .await;
    }

    // Where nobody leads, it tells what it has, and that it is no leader's.
    fleet.stop(leader).await;
    let told = eventually("a document of its own", || async {
        let (told, _) = document(&routes).await;
        (told["answeredBy"] != told["nothing"] && told["leading"] == false).then_some(told)
    })
    .await;
    assert_eq!(told["answeredBy"], fleet.addresses[follower].name.as_str());
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_are_users_the_page_is_for_any_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    let hash = hash_password(b"looks only").unwrap();
    let user = format!(
        "[[user]]\nname = \"look\"\nrole = \"reader\"\nkeys = []\npasswords = [\"{hash}\"]\n"
    );
    std::fs::write(&path, &user).unwrap();
    let mut fleet = Fleet::new(1, settings(1)).await;
    fleet.users = Users::load(Some(&path)).unwrap();
    fleet.start(0).await;
    fleet.leader().await;
    let routes = fleet.page(0);
    let basic = |text: &str| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        format!("Basic {encoded}")
    };
    let right = basic("look:looks only");
    let wrong = basic("look:something else");
    for path in ["/", "/page.js", DOCUMENT] {
        for refused in [None, Some(&wrong), Some(&"Basic ?".to_owned())] {
            let headers = refused.map(|value| (header::AUTHORIZATION, value.as_str()));
            let response = ask(&routes, path, headers.as_slice()).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
            assert!(text(&response, &header::WWW_AUTHENTICATE).starts_with("Basic "));
        }
        let let_in = ask(&routes, path, &[(header::AUTHORIZATION, &right)]).await;
        assert_eq!(let_in.status(), StatusCode::OK, "{path}");
    }
    let anonymous = "[[user]]\nname = \"all\"\nrole = \"reader\"\nkeys = []\nanonymous = true\n";
    std::fs::write(&path, user + anonymous).unwrap();
    fleet.users.reload().unwrap();
    assert_eq!(ask(&routes, DOCUMENT, &[]).await.status(), StatusCode::OK);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_documents_are_on_their_way_and_no_more() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let routes = fleet.page(0);
    let mut untaken = Vec::new();
    for _ in 0..UNDER_WAY_MAX {
        let response = ask(&routes, DOCUMENT, &[]).await;
        assert_eq!(response.status(), StatusCode::OK);
        untaken.push(response);
    }
    let beyond = ask(&routes, DOCUMENT, &[]).await;
    assert_eq!(beyond.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(&beyond, &header::RETRY_AFTER), "1");
    // The rest of the page is there all the same.
    assert_eq!(ask(&routes, "/", &[]).await.status(), StatusCode::OK);
    untaken.pop();
    assert_eq!(ask(&routes, DOCUMENT, &[]).await.status(), StatusCode::OK);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_a_coordinator_that_stopped_does_not_keep_its_disk_open() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let routes = fleet.page(0);
    document(&routes).await;
    fleet.stop(0).await;
    let answer = ask(&routes, DOCUMENT, &[]).await.status();
    assert_eq!(answer, StatusCode::SERVICE_UNAVAILABLE);
    // Which it could not be opened again otherwise.
    fleet.start(0).await;
    fleet.leader().await;
    document(&fleet.page(0)).await;
    fleet.stop(0).await;
}
