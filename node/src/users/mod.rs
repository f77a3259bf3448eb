//! Who may do what: users, their secrets and their permissions, from a file that is
//! read again when it changes.
//!
//! - [`Users`]: the file, or none: then everyone may do everything.
//! - [`Caller`]: who speaks on a connection or in a call, and what it may do. It follows
//!   the file: [`Caller::refresh`] costs one load where nothing changed.
//! - [`Permissions`]: the role and the keys.
//! - `file`: the format. `secret`: hashes. `attempts`: what is done against guessing.
//!
//! Invariants:
//! - Where the file cannot be read any more, what was read before stays in force.
//! - A wrong password takes as long for a name that exists as for one that does not,
//!   whatever the hashes in the file cost, and is answered with the same words.
//! - No secret is kept in memory, logged, or shown by `Debug`.

mod attempts;
mod file;
mod permissions;
mod secret;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use ring::hmac;
use subtle::ConstantTimeEq;

use self::attempts::{Attempts, Failure};
use self::file::{Attempt, FILE_BYTES_MAX, NAME_BYTES_MAX, Table, Tag, User};
use crate::tasks::Servers;
use crate::{diagnosis, reload};

pub use self::permissions::{Permissions, Role};
pub use self::secret::{
    PASSWORD_BYTES_MIN, SECRET_BYTES_MAX, SecretError, TOKEN_BYTES_MIN, hash_password, hash_token,
    new_token,
};

/// How often the file is looked at: for so long a user that was taken out goes on.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Why the users file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A credential that does not let its bearer in. What is wrong with it is not said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// There is none, and one is needed.
    Missing,
    /// It is not one of a user.
    Wrong,
}

/// The users of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Users {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    path: PathBuf,
    text: Mutex<String>,
    table: ArcSwap<Table>,
    /// Raised after the table was replaced.
    generation: AtomicU64,
    attempts: Arc<Attempts>,
    /// For the tags of passwords that were found right.
    key: hmac::Key,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("users", &self.table.load().by_name.len())
            .finish_non_exhaustive()
    }
}

/// Whether a credential lets its bearer in: known at once, or once a slow hash was made.
pub enum Checking {
    /// It is known.
    Done(Result<Caller, Denied>),
    /// It will be.
    Waiting(BoxFuture<'static, Result<Caller, Denied>>),
}

impl fmt::Debug for Checking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(result) => f.debug_tuple("Done").field(result).finish(),
            Self::Waiting(_) => f.write_str("Waiting"),
        }
    }
}

/// From where a credential came: for counting, and so that guesses from one address
/// wait for each other and not others for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The listener's word for the metrics.
    pub listener: &'static str,
    /// The client's address.
    pub address: IpAddr,
}

impl Users {
    /// No users: everyone may do everything.
    #[must_use]
    pub fn open() -> Self {
        Self { shared: None }
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// See [`UsersError`].
    pub fn load(path: Option<&Path>) -> Result<Self, UsersError> {
        let shared = path
            .map(|path| {
                let text = read(path)?;
                let table = parse(path, &text)?;
                diagnosis::note_users(text.as_bytes());
                let key: [u8; 32] = rand::random();
                Ok::<_, UsersError>(Arc::new(Shared {
                    path: path.to_owned(),
                    text: Mutex::new(text),
                    table: ArcSwap::from_pointee(table),
                    generation: AtomicU64::new(0),
                    attempts: Arc::new(Attempts::new()),
                    key: hmac::Key::new(hmac::HMAC_SHA256, &key),
                }))
            })
            .transpose()?;
        Ok(Self { shared })
    }

    /// Whether there is a file, so that a credential may be needed.
    #[must_use]
    pub fn are_set_up(&self) -> bool {
        self.shared.is_some()
    }

    /// Who speaks without a credential.
    #[must_use]
    pub fn stranger(&self) -> Caller {
        let Some(shared) = &self.shared else {
            return Caller {
                shared: None,
                generation: 0,
                who: Who::Anyone,
            };
        };
        let generation = shared.generation.load(Ordering::Acquire);
        let anonymous = shared.table.load().anonymous.clone();
        Caller {
            shared: Some(Arc::clone(shared)),
            generation,
            who: anonymous.map_or(Who::Nobody, |user| Who::User {
                user,
                proof: Proof::None,
            }),
        }
    }

    /// Checks a user's password, or one of its tokens in the password's place. What is
    /// not known at once waits for its turn.
    #[must_use]
    pub fn check(&self, name: &[u8], secret: &[u8], from: Origin) -> Checking {
        let Some(shared) = &self.shared else {
            return Checking::Done(Ok(self.stranger()));
        };
        if secret.len() > SECRET_BYTES_MAX || name.len() > NAME_BYTES_MAX {
            return Checking::Done(Err(shared.attempts.deny(Failure::Wrong, None, from)));
        }
        let generation = shared.generation.load(Ordering::Acquire);
        let table = shared.table.load_full();
        let user = std::str::from_utf8(name)
            .ok()
            .and_then(|name| table.by_name.get(name))
            .cloned();
        if let Some(user) = &user
            && let Some(proof) = shared.known(user, secret)
        {
            shared.attempts.admit(from);
            return Checking::Done(Ok(shared.caller(user, proof, generation)));
        }
        let (shared, secret) = (Arc::clone(shared), secret.to_vec());
        Checking::Waiting(Box::pin(async move {
            let turn = shared.attempts.turn(from).await;
            let slow = Arc::clone(&shared);
            let hashed = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let proof = slow.try_passwords(&table, user.as_deref(), &secret);
                (user, proof)
            });
            let (user, proof) = hashed.await.unwrap_or((None, None));
            let name = user.as_ref().map(|user| user.name.as_str());
            match (&user, proof) {
                (Some(user), Some(proof)) => {
                    shared.attempts.admit(from);
                    let mut caller = shared.caller(user, proof, generation);
                    // The file may have changed meanwhile.
                    caller.refresh();
                    Ok(caller)
                }
                _ => Err(shared.attempts.deny(Failure::Wrong, name, from)),
            }
        }))
    }

    /// Checks a secret that came without a name: a token, or else the password of the
    /// user `name`.
    #[must_use]
    pub fn check_nameless(&self, name: &[u8], secret: &[u8], from: Origin) -> Checking {
        match self.find_token(secret) {
            Some(caller) => Checking::Done(Ok(caller)),
            None => self.check(name, secret, from),
        }
    }

    /// Checks a token, which tells by itself whose it is.
    ///
    /// # Errors
    /// [`Denied::Wrong`].
    pub fn check_token(&self, token: &[u8], from: Origin) -> Result<Caller, Denied> {
        let Some(shared) = &self.shared else {
            return Ok(self.stranger());
        };
        match self.find_token(token) {
            Some(caller) => {
                shared.attempts.admit(from);
                Ok(caller)
            }
            None => Err(shared.attempts.deny(Failure::Wrong, None, from)),
        }
    }

    fn find_token(&self, token: &[u8]) -> Option<Caller> {
        let shared = self.shared.as_ref()?;
        if token.len() > SECRET_BYTES_MAX {
            return None;
        }
        let generation = shared.generation.load(Ordering::Acquire);
        // The table is searched by the token's hash: where the search ends early tells
        // of the hash alone, from which no token is found.
        let digest = secret::token_digest(token);
        let table = shared.table.load();
        let user = table.by_token.get(&digest)?;
        Some(shared.caller(user, Proof::Token(digest), generation))
    }

    /// Counts a request without the credential that it needs.
    pub(crate) fn note_missing(&self, from: Origin) {
        if let Some(shared) = &self.shared {
            shared.attempts.deny(Failure::Missing, None, from);
        }
    }

    /// Counts a request that its user may not make.
    pub(crate) fn note_forbidden(listener: &'static str) {
        metrics::counter!("cairn_requests_forbidden_total", "listener" => listener).increment(1);
    }

    /// Looks at the file now; says whether it had changed.
    ///
    /// # Errors
    /// See [`UsersError`]; what was read before stays in force.
    pub fn reload(&self) -> Result<bool, UsersError> {
        self.shared
            .as_ref()
            .map_or(Ok(false), |shared| shared.reload())
    }

    /// Says how things are, and looks at the file now and then among `servers`.
    pub(crate) fn keep_fresh(&self, servers: &mut Servers, encrypted: bool) {
        let Some(shared) = self.shared.clone() else {
            tracing::info!(
                "no CAIRN_USERS_FILE is given: whoever reaches the ports for clients may do everything"
            );
            return;
        };
        if !encrypted {
            tracing::warn!(
                "users are set up and their ports speak no TLS: passwords and tokens travel in \
                 plain text"
            );
        }
        let count = metrics::gauge!("cairn_users");
        count.set(shared.table.load().by_name.len() as f64);
        reload::keep_fresh(
            servers,
            "users file",
            RELOAD_INTERVAL,
            metrics::counter!("cairn_users_reloads_failed_total"),
            move || {
                let changed = shared.reload()?;
                count.set(shared.table.load().by_name.len() as f64);
                Ok::<_, UsersError>(changed)
            },
        );
    }
}

impl Shared {
    fn reload(&self) -> Result<bool, UsersError> {
        let text = read(&self.path)?;
        if *self.text.lock() == text {
            return Ok(false);
        }
        let table = parse(&self.path, &text)?;
        self.keep_verified(&table);
        self.table.store(Arc::new(table));
        // After the table: whoever sees the new number finds the new table.
        self.generation.fetch_add(1, Ordering::Release);
        diagnosis::note_users(text.as_bytes());
        *self.text.lock() = text;
        Ok(true)
    }

    /// What was found right stays so where its hash is still in the file: else every
    /// change would have all clients' passwords hashed anew.
    fn keep_verified(&self, new: &Table) {
        let old = self.table.load();
        for (name, user) in &new.by_name {
            let Some(before) = old.by_name.get(name) else {
                continue;
            };
            let tags = before.verified.lock().clone();
            let mut verified = user.verified.lock();
            for (tag, hash) in tags.into_iter().zip(&before.passwords) {
                if let Some(at) = user.passwords.iter().position(|new| new == hash) {
                    verified[at] = tag;
                }
            }
        }
    }

    fn tag(&self, name: &str, secret: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // A name holds no NUL, so that the two cannot run into each other.
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(secret);
        context.sign()
    }

    /// How a secret is known to be a user's without a slow hash.
    fn known(&self, user: &User, secret: &[u8]) -> Option<Proof> {
        let digest = secret::token_digest(secret);
        let mut token = false;
        for own in &user.tokens {
            token |= bool::from(own.ct_eq(&digest));
        }
        if token {
            return Some(Proof::Token(digest));
        }
        let tag = self.tag(&user.name, secret);
        let verified = user.verified.lock();
        let at = verified.iter().position(|known| {
            known.is_some_and(|known| bool::from(known.as_slice().ct_eq(tag.as_ref())))
        })?;
        Some(Proof::Password(user.passwords[at].as_str().into()))
    }

    /// Holds a password against all that [`Table::attempts`] names, whichever is right.
    fn try_passwords(&self, table: &Table, user: Option<&User>, secret: &[u8]) -> Option<Proof> {
        let mut right = None;
        for Attempt { hash, own } in table.attempts(user) {
            if std::hint::black_box(secret::verify_password(secret, &hash)) && own.is_some() {
                right = own;
            }
        }
        let (user, at) = (user?, right?);
        let mut tag: Tag = [0; 32];
        tag.copy_from_slice(self.tag(&user.name, secret).as_ref());
        user.verified.lock()[at] = Some(tag);
        Some(Proof::Password(user.passwords[at].as_str().into()))
    }

    fn caller(self: &Arc<Self>, user: &Arc<User>, proof: Proof, generation: u64) -> Caller {
        Caller {
            shared: Some(Arc::clone(self)),
            generation,
            who: Who::User {
                user: Arc::clone(user),
                proof,
            },
        }
    }
}

fn read(path: &Path) -> Result<String, UsersError> {
    let failed = |source| UsersError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other(format!(
            "it has more than {FILE_BYTES_MAX} bytes"
        ))));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Table, UsersError> {
    Table::parse(text).map_err(|error| UsersError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// By what a user was let in: it is let on for as long as the file has that.
#[derive(Clone, PartialEq, Eq)]
enum Proof {
    /// The user is the anonymous one.
    None,
    /// The hash of the password.
    Password(Arc<str>),
    /// The hash of the token.
    Token([u8; 32]),
}

#[derive(Clone)]
enum Who {
    /// No users are set up.
    Anyone,
    /// One is needed.
    Nobody,
    User {
        user: Arc<User>,
        proof: Proof,
    },
}

/// Who speaks on a connection or in a call.
#[derive(Clone)]
pub struct Caller {
    shared: Option<Arc<Shared>>,
    /// Of the table by which it was judged last.
    generation: u64,
    who: Who,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.name()).finish()
    }
}

impl Caller {
    /// Someone who may do nothing: where it is not known who calls.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            shared: None,
            generation: 0,
            who: Who::Nobody,
        }
    }

    /// Its name; `default`, which is Redis's word, for one without.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.who {
            Who::Anyone | Who::Nobody => "default",
            Who::User { user, .. } => &user.name,
        }
    }

    /// Whether it is let in at all.
    #[must_use]
    pub fn is_let_in(&self) -> bool {
        !matches!(self.who, Who::Nobody)
    }

    /// What it may do; `None`: nothing.
    #[must_use]
    pub fn permissions(&self) -> Option<&Permissions> {
        match &self.who {
            Who::Anyone => Some(&Permissions::ALL),
            Who::Nobody => None,
            Who::User { user, .. } => Some(&user.permissions),
        }
    }

    /// Whether it may do what takes that role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.permissions().is_some_and(|own| own.has(role))
    }

    /// Judges it by the file as it is now: a user that is not in it any more, or not
    /// with the secret by which it was let in, becomes a stranger. Costs one load where
    /// nothing changed. Whoever serves for long asks before each answer.
    pub fn refresh(&mut self) {
        let Some(shared) = &self.shared else { return };
        if shared.generation.load(Ordering::Acquire) == self.generation {
            return;
        }
        let mut now = Users {
            shared: Some(Arc::clone(shared)),
        }
        .stranger();
        if let Who::User { user, proof } = &self.who {
            let table = shared.table.load();
            let present = table.by_name.get(&user.name).filter(|user| match proof {
                Proof::None => user.anonymous,
                Proof::Password(hash) => user.passwords.iter().any(|own| **own == **hash),
                Proof::Token(token) => user.tokens.contains(token),
            });
            if let Some(user) = present {
                now.who = Who::User {
                    user: Arc::clone(user),
                    proof: proof.clone(),
                };
            }
        }
        *self = now;
    }
}
