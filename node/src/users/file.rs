//! The users file: TOML, read strictly and bounded.
//!
//! ```toml
//! [[user]]
//! name = "app"
//! role = "writer"                  # reader, writer or admin
//! keys = ["app:*", "shared:*"]     # "*" is every key
//! passwords = ["$argon2id$..."]    # of `cairn user hash`; two while one is replaced
//! tokens = ["sha256:..."]          # of `cairn user token`
//! ```
//!
//! A user with `anonymous = true` has no secret: it is who speaks without a credential.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;

use super::permissions::{Keys, Permissions, Role};
use super::secret;

/// The most that the file may have, in bytes.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// The most users.
const USERS_MAX: usize = 10_000;
/// The longest name, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// The most passwords, and the most tokens, of one user: one, and others while it is
/// replaced.
const SECRETS_MAX: usize = 8;
/// The most prefixes of one user.
const PREFIXES_MAX: usize = 256;
/// The longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 1024;

/// Why a file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is no TOML, or of another form. Without the line itself, which may be a secret.
    #[error("{0}")]
    Form(String),
    /// A user is not as one may be.
    #[error("user {user:?}: {reason}")]
    User {
        /// Whose.
        user: String,
        /// What is wrong.
        reason: String,
    },
    /// There are too many, or none.
    #[error("it has {0} users, from 1 to {USERS_MAX} are taken")]
    Count(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    user: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: Role,
    keys: Vec<String>,
    #[serde(default)]
    passwords: Vec<String>,
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    anonymous: bool,
}

/// What is remembered of a password that was found right: its tag under a key that only
/// this process has, so that trying it again is fast and memory holds no password.
pub(super) type Tag = [u8; 32];

/// A user.
pub(super) struct User {
    pub(super) name: String,
    pub(super) permissions: Permissions,
    pub(super) passwords: Vec<String>,
    pub(super) tokens: Vec<[u8; 32]>,
    pub(super) anonymous: bool,
    /// By password: its tag, once it was found right.
    pub(super) verified: Mutex<Vec<Option<Tag>>>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

/// Every user of one version of the file.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) by_name: HashMap<String, Arc<User>>,
    pub(super) by_token: HashMap<[u8; 32], Arc<User>>,
    pub(super) anonymous: Option<Arc<User>>,
    /// How many hashes a password is held against, whoever's it is said to be, so that
    /// the time tells nothing of whether there is such a user.
    pub(super) checks: usize,
}

impl Table {
    /// Reads a file.
    pub(super) fn parse(text: &str) -> Result<Self, FileError> {
        let document: Document =
            toml::from_str(text).map_err(|error| FileError::Form(of_toml(text, &error)))?;
        let count = document.user.len();
        if count == 0 || count > USERS_MAX {
            return Err(FileError::Count(count));
        }
        let mut table = Self {
            by_name: HashMap::with_capacity(count),
            by_token: HashMap::new(),
            anonymous: None,
            checks: 1,
        };
        for entry in document.user {
            let name = entry.name.clone();
            table
                .add(entry)
                .map_err(|reason| FileError::User { user: name, reason })?;
        }
        Ok(table)
    }

    fn add(&mut self, entry: Entry) -> Result<(), String> {
        let Entry {
            name,
            role,
            keys,
            passwords,
            tokens,
            anonymous,
        } = entry;
        if name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
        {
            return Err(format!(
                "a name has 1 to {NAME_BYTES_MAX} printable ASCII characters, and no colon"
            ));
        }
        if passwords.len() > SECRETS_MAX || tokens.len() > SECRETS_MAX {
            return Err(format!("more than {SECRETS_MAX} passwords or tokens"));
        }
        if anonymous != (passwords.is_empty() && tokens.is_empty()) {
            return Err(if anonymous {
                "an anonymous user has neither passwords nor tokens".to_owned()
            } else {
                "it has neither passwords nor tokens, so that nobody could log in".to_owned()
            });
        }
        for (at, password) in passwords.iter().enumerate() {
            secret::check_password_hash(password)
                .map_err(|reason| format!("passwords[{at}]: {reason}"))?;
        }
        let tokens = tokens
            .iter()
            .enumerate()
            .map(|(at, line)| {
                secret::parse_token_hash(line).map_err(|reason| format!("tokens[{at}]: {reason}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let user = Arc::new(User {
            permissions: Permissions {
                role,
                keys: read_keys(&keys)?,
            },
            verified: Mutex::new(vec![None; passwords.len()]),
            passwords,
            tokens,
            anonymous,
            name,
        });
        self.checks = self.checks.max(user.passwords.len());
        for token in &user.tokens {
            if self.by_token.insert(*token, Arc::clone(&user)).is_some() {
                return Err("a token of it is in the file twice".to_owned());
            }
        }
        if anonymous && self.anonymous.replace(Arc::clone(&user)).is_some() {
            return Err("there is another anonymous user".to_owned());
        }
        if self.by_name.insert(user.name.clone(), user).is_some() {
            return Err("it is in the file twice".to_owned());
        }
        Ok(())
    }
}

fn read_keys(patterns: &[String]) -> Result<Keys, String> {
    if patterns.len() > PREFIXES_MAX {
        return Err(format!("more than {PREFIXES_MAX} patterns in keys"));
    }
    let mut prefixes = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let prefix = pattern
            .strip_suffix('*')
            .filter(|prefix| !prefix.contains(['*', '?', '[', '\\']))
            .filter(|prefix| prefix.len() <= PREFIX_BYTES_MAX)
            .ok_or_else(|| {
                format!("keys: {pattern:?} is no prefix with a star at its end, such as \"app:*\"")
            })?;
        if prefix.is_empty() {
            return Ok(Keys::All);
        }
        prefixes.push(prefix.as_bytes().into());
    }
    Ok(Keys::Below(prefixes))
}

/// What is wrong and in which line, without showing the line: it may hold a secret.
fn of_toml(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map(|before| before.matches('\n').count() + 1);
    // A value stands between quotes in what is said of its type.
    let message = error.message();
    let message = match (message.find('"'), message.rfind('"')) {
        (Some(from), Some(to)) if from < to => {
            format!("{}...{}", &message[..from], &message[to + 1..])
        }
        _ => message.to_owned(),
    };
    match line {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "sha256:3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9";

    fn user(more: &str) -> String {
        format!("[[user]]\nname = \"a\"\nrole = \"reader\"\nkeys = [\"a:*\"]\n{more}\n")
    }

    fn wrong(text: &str) -> String {
        Table::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_file_says_who_may_do_what() {
        let text = format!(
            "{}\n[[user]]\nname = \"root\"\nrole = \"admin\"\nkeys = [\"*\"]\nanonymous = true\n",
            user(&format!("tokens = [\"{TOKEN}\"]"))
        );
        let table = Table::parse(&text).expect("a good file");
        let reader = &table.by_name["a"].permissions;
        assert!(reader.may_read(b"a:1") && !reader.may_read(b"b") && !reader.may_write(b"a:1"));
        let root = table.anonymous.as_ref().expect("there is one");
        assert!(root.permissions.has(Role::Admin) && root.permissions.may_read_prefix(b""));
        assert_eq!(table.by_token.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_and_no_secret_is() {
        for (text, words) in [
            (String::new(), "missing field `user`"),
            ("user = []".to_owned(), "it has 0 users"),
            (user(""), "neither passwords nor tokens"),
            (
                user("anonymous = true\ntokens = [\"sha256:00\"]"),
                "an anonymous user has neither",
            ),
            (
                user("tokens = [\"sha256:00\"]"),
                "tokens[0]: a token's hash is",
            ),
            (
                user("passwords = [\"hunter2\"]"),
                "passwords[0]: it is no PHC string",
            ),
            (
                user("password = \"hunter2\""),
                "line 5: unknown field `password`",
            ),
            (user("tokens = [hunter2]"), "line 5: "),
            (user("tokens = \"hunter2\""), "line 5: invalid type"),
            (user("passwords = 'hunter2'"), "expected a sequence"),
            (
                user("anonymous = true") + &user("anonymous = true"),
                "another anonymous user",
            ),
            (
                user(&format!("tokens = [\"{TOKEN}\", \"{TOKEN}\"]")),
                "a token of it is in the file twice",
            ),
            (
                user("").replace("a:*", "a"),
                "\"a\" is no prefix with a star",
            ),
            (user("").replace("a:*", "a*b*"), "is no prefix with a star"),
            (user("").replace("reader", "root"), "unknown variant"),
            (user("").replace("\"a\"", "\"a:b\""), "no colon"),
        ] {
            // The keys are judged after the secrets.
            let text = if words.contains("star") {
                format!("{text}tokens = [\"{TOKEN}\"]")
            } else {
                text
            };
            let said = wrong(&text);
            assert!(said.contains(words), "{text}\n{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn fuzz_users_files() {
        let hash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OWFiY2RlZg";
        let seeds = vec![
            user(&format!("tokens = [\"{TOKEN}\"]\npasswords = [\"{hash}\"]")).into_bytes(),
            (user("anonymous = true")
                + &user(&format!("tokens = [\"{TOKEN}\"]")).replace("\"a\"", "\"b\""))
                .into_bytes(),
        ];
        for seed in &seeds {
            let text = std::str::from_utf8(seed).expect("text");
            Table::parse(text).expect("seeds are good files");
        }
        cairn_fuzz::run("users_file", 10, seeds, |input| {
            let Ok(text) = std::str::from_utf8(input) else {
                return;
            };
            if let Ok(table) = Table::parse(text) {
                for user in table.by_name.values() {
                    // Nobody is let in by nothing.
                    assert!(
                        user.anonymous != (!user.passwords.is_empty() || !user.tokens.is_empty())
                    );
                    let _ = user.permissions.may_write(input);
                }
            }
        });
    }
}
