//! What a user may do: a role, and the keys that it holds for.

use std::fmt;

use serde::Deserialize;

/// What kind of request a user may make; each role includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads keys.
    Reader,
    /// Reads and writes keys.
    Writer,
    /// Changes the cluster, and sees and ends the connections of others.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        })
    }
}

/// The keys that a user may touch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Keys {
    /// Every key.
    All,
    /// Those that begin with one of these; without any, none.
    Below(Vec<Box<[u8]>>),
}

/// What a user may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permissions {
    pub(super) role: Role,
    pub(super) keys: Keys,
}

impl Permissions {
    /// Everything: what holds where no users are set up.
    pub const ALL: Self = Self {
        role: Role::Admin,
        keys: Keys::All,
    };

    /// The role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the user may do what takes that role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.role >= role
    }

    /// Whether the user may touch a key at all, as far as its role goes.
    #[must_use]
    pub fn may_touch(&self, key: &[u8]) -> bool {
        // A key is among the allowed ones where all that begin with it are.
        self.covers(key)
    }

    /// Whether the user may read a key.
    #[must_use]
    pub fn may_read(&self, key: &[u8]) -> bool {
        self.has(Role::Reader) && self.may_touch(key)
    }

    /// Whether the user may write a key.
    #[must_use]
    pub fn may_write(&self, key: &[u8]) -> bool {
        self.has(Role::Writer) && self.may_touch(key)
    }

    /// Whether the user may read every key that begins with `prefix`: what a scan or a
    /// watch of it takes. The empty prefix is that of all keys.
    #[must_use]
    pub fn may_read_prefix(&self, prefix: &[u8]) -> bool {
        self.has(Role::Reader) && self.covers(prefix)
    }

    fn covers(&self, prefix: &[u8]) -> bool {
        match &self.keys {
            Keys::All => true,
            Keys::Below(allowed) => allowed.iter().any(|one| prefix.starts_with(one)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(role: Role, prefixes: &[&str]) -> Permissions {
        Permissions {
            role,
            keys: Keys::Below(prefixes.iter().map(|p| p.as_bytes().into()).collect()),
        }
    }

    #[test]
    fn a_role_includes_those_below_it() {
        let roles = [Role::Reader, Role::Writer, Role::Admin];
        for (held, role) in roles.into_iter().enumerate() {
            for (asked, wanted) in roles.into_iter().enumerate() {
                assert_eq!(below(role, &[]).has(wanted), held >= asked);
            }
        }
    }

    #[test]
    fn keys_are_those_below_a_prefix() {
        let user = below(Role::Writer, &["app:", "shared:"]);
        assert!(user.may_read(b"app:1") && user.may_write(b"shared:") && user.may_read(b"app:"));
        assert!(!user.may_read(b"app") && !user.may_write(b"other:1") && !user.may_read(b""));
        assert!(!below(Role::Admin, &[]).may_read(b"a"));
        assert!(Permissions::ALL.may_write(b""));
    }

    #[test]
    fn a_reader_writes_nothing() {
        let user = below(Role::Reader, &["app:"]);
        assert!(user.may_read(b"app:1"));
        assert!(!user.may_write(b"app:1"));
    }

    #[test]
    fn a_scan_needs_all_that_it_may_find() {
        let user = below(Role::Reader, &["app:"]);
        assert!(user.may_read_prefix(b"app:") && user.may_read_prefix(b"app:users:"));
        assert!(!user.may_read_prefix(b"ap") && !user.may_read_prefix(b""));
        assert!(Permissions::ALL.may_read_prefix(b""));
    }
}
