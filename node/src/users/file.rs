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

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;

use super::permissions::{Keys, Permissions, Role};
use super::secret::{self, Cost};
use crate::reload;

/// The most that the file may have, in bytes.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// The most users.
const USERS_MAX: usize = 10_000;
/// The longest name, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// The most passwords, and the most tokens, of one user: one, and others while it is
/// replaced.
const SECRETS_MAX: usize = 8;
/// At how many costs the passwords of a file may be hashed: one, and others while users move
/// on to it.
const COSTS_MAX: usize = 4;
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
    /// Each password that is tried is hashed at each of them.
    #[error(
        "its passwords are hashed at {0} different costs (m, t and p), and {COSTS_MAX} are the most"
    )]
    Costs(usize),
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
    /// By password.
    costs: Vec<Cost>,
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
    /// What a password is held against that is said to be of nobody: of each cost in the
    /// file as many as the user with the most of that cost has.
    decoys: Vec<(Cost, String)>,
}

/// A hash that a password is held against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    pub(super) hash: String,
    /// Its place among the user's passwords; `None` for a decoy.
    pub(super) own: Option<usize>,
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
            decoys: Vec::new(),
        };
        for entry in document.user {
            let name = entry.name.clone();
            table
                .add(entry)
                .map_err(|reason| FileError::User { user: name, reason })?;
        }
        table.set_decoys()?;
        Ok(table)
    }

    fn set_decoys(&mut self) -> Result<(), FileError> {
        let mut most: BTreeMap<Cost, usize> = BTreeMap::new();
        for user in self.by_name.values() {
            let mut own: BTreeMap<Cost, usize> = BTreeMap::new();
            for cost in &user.costs {
                *own.entry(*cost).or_default() += 1;
            }
            for (cost, count) in own {
                let most = most.entry(cost).or_default();
                *most = count.max(*most);
            }
        }
        if most.len() > COSTS_MAX {
            return Err(FileError::Costs(most.len()));
        }
        if most.is_empty() {
            most.insert(Cost::OWN, 1);
        }
        self.decoys = most
            .into_iter()
            .flat_map(|(cost, count)| std::iter::repeat_n((cost, cost.decoy()), count))
            .collect();
        Ok(())
    }

    /// What a password is held against that is said to be of this user, or of a name that
    /// is nobody's. The costs are the same whoever it is, so that the time tells nothing of
    /// whether there is such a user.
    pub(super) fn attempts(&self, user: Option<&User>) -> Vec<Attempt> {
        let mut own: Vec<(usize, Cost)> = user.map_or_else(Vec::new, |user| {
            user.costs.iter().copied().enumerate().collect()
        });
        self.decoys
            .iter()
            .map(|(cost, decoy)| {
                let found = own.iter().position(|(_, other)| other == cost);
                let found = found.map(|at| own.swap_remove(at).0);
                let real = found.and_then(|at| user?.passwords.get(at));
                Attempt {
                    hash: real.unwrap_or(decoy).clone(),
                    own: found,
                }
            })
            .collect()
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
        let costs = passwords
            .iter()
            .enumerate()
            .map(|(at, line)| {
                secret::check_password_hash(line)
                    .map_err(|reason| format!("passwords[{at}]: {reason}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
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
            costs,
            tokens,
            anonymous,
            name,
        });
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
    let line = reload::toml_line(text, error);
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

    fn hashed(memory: u32, passes: u32) -> String {
        format!(
            "\"$argon2id$v=19$m={memory},t={passes},p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OWFiY2RlZg\""
        )
    }

    #[test]
    fn a_login_costs_the_same_whoever_it_says_it_is() {
        let with = |name: &str, passwords: &[String]| {
            user(&format!("passwords = [{}]", passwords.join(", "))).replace("\"a\"", name)
        };
        let (cheap, usual, dear) = (hashed(64, 1), hashed(19_456, 2), hashed(65_536, 8));
        let text = with("\"cheap\"", &[cheap.clone(), cheap.clone()])
            + &with("\"dear\"", std::slice::from_ref(&dear))
            + &with("\"both\"", &[dear, usual, cheap])
            + &user(&format!("tokens = [\"{TOKEN}\"]"));
        let table = Table::parse(&text).expect("a good file");
        let costs = |user: Option<&User>| {
            let mut costs: Vec<Cost> = table
                .attempts(user)
                .iter()
                .map(|attempt| secret::check_password_hash(&attempt.hash).expect("a hash"))
                .collect();
            costs.sort_unstable();
            costs
        };
        let nobody = costs(None);
        assert_eq!(nobody.len(), 4);
        for user in table.by_name.values() {
            assert_eq!(costs(Some(user)), nobody, "{}", user.name);
            assert!(nobody.last() >= user.costs.iter().max());
            // Each of its passwords is tried, once.
            let attempts = table.attempts(Some(user));
            let mut own: Vec<_> = attempts.iter().filter_map(|attempt| attempt.own).collect();
            own.sort_unstable();
            assert_eq!(own, (0..user.passwords.len()).collect::<Vec<_>>());
            for attempt in attempts {
                if let Some(at) = attempt.own {
                    assert_eq!(attempt.hash, user.passwords[at]);
                }
            }
        }
        // Without any password there is one to try all the same.
        let table = Table::parse(&user(&format!("tokens = [\"{TOKEN}\"]"))).expect("good");
        let only = table.attempts(None);
        assert_eq!(only.len(), 1);
        assert_eq!(secret::check_password_hash(&only[0].hash), Ok(Cost::OWN));
    }

    #[test]
    fn a_file_of_too_many_costs_is_refused() {
        let with = |costs: u32| {
            let hashes: Vec<String> = (1..=costs).map(|passes| hashed(64, passes)).collect();
            user(&format!("passwords = [{}]", hashes.join(", ")))
        };
        Table::parse(&with(4)).expect("a good file");
        assert!(wrong(&with(5)).contains("at 5 different costs"));
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
