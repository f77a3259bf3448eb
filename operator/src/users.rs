//! The users file as the nodes read it: the person's own, and after it the operator's user.
//!
//! Nodes that have a users file let nobody change the cluster who is not an admin in it; so
//! the operator is one, with a token of its own. It touches no keys. The person's text stays
//! as it is, so that a node that finds a mistake in it names the right line.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ring::digest;

use crate::pki::SecretData;

/// The operator's name among the users.
pub const OPERATOR_USER: &str = "cairn-operator";
/// The key of the Secret that holds the file.
pub const FILE: &str = "users.toml";
/// The key of the Secret that holds the operator's token.
pub const TOKEN: &str = "token";

/// The most that a person's file may have, in bytes: with the operator's user it must fit
/// into a Secret, which holds 1 MiB.
const FILE_BYTES_MAX: usize = 1_000_000;
/// How long a token may be, in bytes; what a node takes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 22..=512;

/// Why there is no users file. None of the reasons shows what stands in the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UsersError {
    /// It is too long.
    #[error("the users file has {0} bytes, and {FILE_BYTES_MAX} are the most")]
    TooLong(usize),
    /// It is no text.
    #[error("the users file is not UTF-8")]
    NotText,
    /// It is no TOML.
    #[error("the users file is no TOML, see its line {0}")]
    Form(usize),
    /// The users do not stand in tables of their own.
    #[error("the users file must list each user under a [[user]] of its own")]
    Tables,
    /// The operator's name is taken.
    #[error("the users file names {OPERATOR_USER}, which the operator adds itself: take it out")]
    Taken,
    /// The operator's token is none that a node would take.
    #[error("the operator's token must have from 22 to 512 printable characters")]
    Token,
}

/// What the Secret with the users holds: the person's file with the operator's user, and the
/// operator's token.
///
/// # Errors
/// See [`UsersError`].
pub fn compose(person: &[u8], token: &str) -> Result<SecretData, UsersError> {
    if person.len() > FILE_BYTES_MAX {
        return Err(UsersError::TooLong(person.len()));
    }
    if !TOKEN_BYTES.contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(UsersError::Token);
    }
    let person = std::str::from_utf8(person).map_err(|_| UsersError::NotText)?;
    let table: toml::Table =
        toml::from_str(person).map_err(|error| UsersError::Form(line(person, &error)))?;
    let name =
        |user: &toml::Value| user.get("name").and_then(toml::Value::as_str) == Some(OPERATOR_USER);
    match table.get("user") {
        None => {}
        Some(toml::Value::Array(users)) if users.iter().any(name) => return Err(UsersError::Taken),
        Some(toml::Value::Array(_)) => {}
        Some(_) => return Err(UsersError::Tables),
    }
    let mut file = person.to_owned();
    if !file.is_empty() && !file.ends_with('\n') {
        file.push('\n');
    }
    let hash = hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    let _ = write!(
        file,
        "[[user]]\nname = \"{OPERATOR_USER}\"\nrole = \"admin\"\nkeys = []\ntokens = [\"sha256:{hash}\"]\n"
    );
    // `user = [{...}]` is TOML too, and takes no further user.
    if toml::from_str::<toml::Table>(&file).is_err() {
        return Err(UsersError::Tables);
    }
    Ok(BTreeMap::from([
        (FILE.to_owned(), file.into_bytes()),
        (TOKEN.to_owned(), token.as_bytes().to_vec()),
    ]))
}

fn line(text: &str, error: &toml::de::Error) -> usize {
    let before = error.span().and_then(|span| text.get(..span.start));
    before.map_or(1, |before| before.matches('\n').count() + 1)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn file(person: &str) -> Result<toml::Table, UsersError> {
        let data = compose(person.as_bytes(), SECRET)?;
        assert_eq!(data[TOKEN], SECRET.as_bytes());
        let text = String::from_utf8(data[FILE].clone()).expect("text");
        assert!(
            text.starts_with(person),
            "the person's lines keep their numbers"
        );
        Ok(toml::from_str(&text).expect("TOML"))
    }

    #[test]
    fn the_operator_is_an_admin_without_keys_after_the_persons_users() {
        for person in [
            "",
            "# nobody yet",
            "[[user]]\nname = \"app\"\nrole = \"writer\"\nkeys = [\"*\"]\ntokens = [\"sha256:00\"]",
        ] {
            let table = file(person).expect("taken");
            let users = table["user"].as_array().expect("users");
            let own = users.last().expect("one");
            assert_eq!(users.len(), 1 + usize::from(person.contains("app")));
            assert_eq!(own["name"].as_str(), Some(OPERATOR_USER));
            assert_eq!(own["role"].as_str(), Some("admin"));
            assert!(own["keys"].as_array().expect("keys").is_empty());
            // As `printf SECRET | sha256sum` has it.
            assert_eq!(
                own["tokens"][0].as_str(),
                Some("sha256:3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9")
            );
        }
    }

    #[test]
    fn a_file_that_takes_no_further_user_is_refused_without_showing_it() {
        assert_eq!(
            file("user = [{ name = \"app\" }]\n"),
            Err(UsersError::Tables)
        );
        assert_eq!(file("user = 1\n"), Err(UsersError::Tables));
        let taken = "[[user]]\nname = \"cairn-operator\"\n";
        assert_eq!(file(taken), Err(UsersError::Taken));
        let broken = file("[[user]]\nname = \"app\"\ntokens = [s3cret]\n").expect_err("no TOML");
        assert_eq!(broken, UsersError::Form(3));
        assert!(!broken.to_string().contains("s3cret"));
        assert_eq!(compose(&[0xff], SECRET), Err(UsersError::NotText));
        let long = vec![b'#'; FILE_BYTES_MAX + 1];
        assert!(matches!(
            compose(&long, SECRET),
            Err(UsersError::TooLong(_))
        ));
    }

    #[test]
    fn a_token_that_no_node_would_take_is_refused() {
        for token in [
            "",
            "short",
            "with a blank and long enough",
            &"x".repeat(513),
        ] {
            assert_eq!(compose(b"", token), Err(UsersError::Token), "{token}");
        }
    }
}
