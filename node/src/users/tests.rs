use std::path::Path;

use super::*;

const FROM: Origin = Origin {
    listener: "test",
    address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
};

fn entry(name: &str, role: &str, keys: &str, secrets: &str) -> String {
    format!("[[user]]\nname = \"{name}\"\nrole = \"{role}\"\nkeys = [{keys}]\n{secrets}\n")
}

fn password(text: &str) -> String {
    let hash = hash_password(text.as_bytes()).expect("hashed");
    format!("passwords = [\"{hash}\"]")
}

fn token(text: &str) -> String {
    let hash = hash_token(text.as_bytes()).expect("hashed");
    format!("tokens = [\"{hash}\"]")
}

struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> (Self, Users) {
        let file = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        file.write(text);
        let users = Users::load(Some(&file.path())).expect("a good file");
        (file, users)
    }

    fn path(&self) -> PathBuf {
        Path::new(self.directory.path()).join("users.toml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).expect("written");
    }
}

async fn finish(checking: Checking) -> Result<Caller, Denied> {
    match checking {
        Checking::Done(result) => result,
        Checking::Waiting(result) => result.await,
    }
}

async fn log_in(users: &Users, name: &str, secret: &str) -> Result<Caller, Denied> {
    finish(users.check(name.as_bytes(), secret.as_bytes(), FROM)).await
}

#[test]
fn without_a_file_everyone_may_do_everything() {
    let users = Users::load(None).expect("nothing to read");
    assert!(!users.are_set_up());
    let caller = users.stranger();
    assert!(caller.is_let_in() && caller.has(Role::Admin));
    assert_eq!(caller.name(), "default");
    assert!(!Caller::nobody().is_let_in());
}

#[tokio::test]
async fn a_user_is_known_by_its_password_or_its_token_and_by_nothing_else() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let text = entry(
        "app",
        "writer",
        "\"app:*\"",
        &(password("a password") + "\n" + &token(TOKEN)),
    ) + &entry("other", "reader", "\"*\"", &password("another one"));
    let (_file, users) = File::new(&text);
    assert!(!users.stranger().is_let_in());

    let caller = log_in(&users, "app", "a password")
        .await
        .expect("it is right");
    assert_eq!(caller.name(), "app");
    assert!(caller.permissions().is_some_and(|p| p.may_write(b"app:1")));
    assert!(!caller.has(Role::Admin));
    let caller = log_in(&users, "app", TOKEN).await.expect("it is right");
    assert_eq!(caller.name(), "app");
    let caller = users
        .check_token(TOKEN.as_bytes(), FROM)
        .expect("it is right");
    assert_eq!(caller.name(), "app");

    let long = "x".repeat(SECRET_BYTES_MAX + 1);
    for (name, secret) in [
        ("app", "another one"),
        ("app", ""),
        ("app", long.as_str()),
        ("other", "a password"),
        ("other", TOKEN),
        ("nobody", "a password"),
        ("", ""),
        ("default", "a password"),
    ] {
        let denied = log_in(&users, name, secret)
            .await
            .map(|caller| caller.name().to_owned());
        assert_eq!(denied, Err(Denied::Wrong), "{name} {secret}");
    }
    for secret in [
        "a password",
        "",
        "0123456789abcdef0123456789abcdeg",
        long.as_str(),
    ] {
        assert!(
            users.check_token(secret.as_bytes(), FROM).is_err(),
            "{secret}"
        );
    }
}

#[tokio::test]
async fn a_password_that_was_right_once_is_known_at_once_and_a_wrong_one_never() {
    let text = entry("app", "writer", "\"*\"", &password("a password"));
    let (file, users) = File::new(&text);
    let check = |secret: &str| users.check(b"app", secret.as_bytes(), FROM);
    assert!(matches!(check("a password"), Checking::Waiting(_)));
    finish(check("a password")).await.expect("it is right");
    assert!(matches!(check("a password"), Checking::Done(Ok(_))));
    // Whether there is such a user shows in neither way.
    assert!(matches!(check("a passwore"), Checking::Waiting(_)));
    assert!(matches!(
        users.check(b"nobody", b"a password", FROM),
        Checking::Waiting(_)
    ));

    // A change elsewhere in the file forgets nothing, one of the password does.
    file.write(&(text + &entry("b", "reader", "", &token(&new_token()))));
    assert!(users.reload().expect("a good file"));
    assert!(matches!(check("a password"), Checking::Done(Ok(_))));
    file.write(&entry("app", "writer", "\"*\"", &password("a new one")));
    assert!(users.reload().expect("a good file"));
    assert_eq!(finish(check("a password")).await.err(), Some(Denied::Wrong));
}

#[tokio::test]
async fn callers_follow_the_file() {
    let (first, second) = (new_token(), new_token());
    let both = |role: &str, keys: &str| {
        entry("a", role, keys, &token(&first)) + &entry("b", "reader", "\"*\"", &token(&second))
    };
    let (file, users) = File::new(&both("writer", "\"x:*\""));
    let mut a = users.check_token(first.as_bytes(), FROM).expect("known");
    let mut b = users.check_token(second.as_bytes(), FROM).expect("known");
    let mut stranger = users.stranger();

    file.write(&both("reader", "\"y:*\""));
    assert!(users.reload().expect("a good file"));
    assert!(!users.reload().expect("the same file"));
    // What is open is judged anew.
    assert!(a.permissions().is_some_and(|p| p.may_write(b"x:1")));
    a.refresh();
    let now = a.permissions().expect("still let in");
    assert!(now.may_read(b"y:1") && !now.may_write(b"y:1") && !now.may_read(b"x:1"));

    // A broken file changes nothing, nor does one that is gone.
    file.write("[[user]]\nname = 1");
    assert!(users.reload().is_err());
    std::fs::remove_file(file.path()).expect("removed");
    assert!(users.reload().is_err());
    a.refresh();
    assert!(a.is_let_in() && users.check_token(first.as_bytes(), FROM).is_ok());

    // One user is gone, the other has another secret.
    file.write(&entry("b", "reader", "\"*\"", &token(&new_token())));
    assert!(users.reload().expect("a good file"));
    for caller in [&mut a, &mut b, &mut stranger] {
        caller.refresh();
        assert!(!caller.is_let_in(), "{caller:?}");
    }

    // Strangers may be let in by the file too.
    file.write(&entry("guest", "reader", "\"*\"", "anonymous = true"));
    assert!(users.reload().expect("a good file"));
    stranger.refresh();
    assert_eq!((stranger.name(), stranger.is_let_in()), ("guest", true));
    assert!(finish(users.check(b"guest", b"", FROM)).await.is_err());
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let token_text = new_token();
    let (file, users) = File::new(&entry("a", "reader", "\"*\"", &token(&token_text)));
    let caller = users
        .check_token(token_text.as_bytes(), FROM)
        .expect("known");
    let shown = format!("{users:?} {caller:?} {:?}", users.check(b"a", b"b", FROM));
    let hash = hash_token(token_text.as_bytes()).expect("hashed");
    assert!(
        !shown.contains(&token_text) && !shown.contains(&hash[7..]),
        "{shown}"
    );
    drop(file);
}
