//! How secrets are kept: passwords as slow hashes with a salt each, tokens, which are
//! long and random, as SHA-256.
//!
//! A password can be guessed, so that trying one has to cost time and memory: Argon2id,
//! in the PHC string form that other tools write and read too. A token has 128 random
//! bits or more, which nobody guesses: one fast hash keeps it from being read in the file.

use std::fmt::Write as _;

use argon2::password_hash::SaltString;
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use rand::RngCore;
use ring::digest;

/// The longest password or token that is taken, in bytes.
pub const SECRET_BYTES_MAX: usize = 512;
/// The shortest password of which a hash is made, in bytes.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// The shortest token of which a hash is made, in bytes: what 128 bits take in base64.
pub const TOKEN_BYTES_MIN: usize = 22;
/// What stands before a token's hash in the file.
const TOKEN_HASH: &str = "sha256:";
/// What tokens begin with, so that scanners for leaked secrets know them.
const TOKEN_PREFIX: &str = "cairn_";

/// What hashing one password takes: 19 MiB and two passes, which OWASP recommends.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// The most that a file may make a login cost, for hashes that other tools made.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 8;
const LANES_MAX: u32 = 4;

/// Why a secret is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// Too short to be worth its name.
    #[error("it has {bytes} bytes, and {least} is the least")]
    Short {
        /// How many it has.
        bytes: usize,
        /// How many it should have.
        least: usize,
    },
    /// Longer than any client may send.
    #[error("it has {bytes} bytes, and {SECRET_BYTES_MAX} is the most")]
    Long {
        /// How many it has.
        bytes: usize,
    },
    /// It cannot be hashed.
    #[error("it cannot be hashed: {0}")]
    Hash(String),
}

fn hasher(memory: u32, passes: u32) -> Result<Argon2<'static>, SecretError> {
    Params::new(memory, passes, 1, None)
        .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
        .map_err(|error| SecretError::Hash(error.to_string()))
}

fn check_length(secret: &[u8], least: usize) -> Result<(), SecretError> {
    let bytes = secret.len();
    if bytes < least {
        Err(SecretError::Short { bytes, least })
    } else if bytes > SECRET_BYTES_MAX {
        Err(SecretError::Long { bytes })
    } else {
        Ok(())
    }
}

/// The line of a password for the users file. Slow, on purpose: tens of milliseconds.
///
/// # Errors
/// See [`SecretError`].
pub fn hash_password(password: &[u8]) -> Result<String, SecretError> {
    check_length(password, PASSWORD_BYTES_MIN)?;
    hash_with(password, MEMORY_KIB, PASSES)
}

fn hash_with(password: &[u8], memory: u32, passes: u32) -> Result<String, SecretError> {
    let failed = |error: argon2::password_hash::Error| SecretError::Hash(error.to_string());
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    let hash = hasher(memory, passes)?
        .hash_password(password, &salt)
        .map_err(failed)?;
    Ok(hash.to_string())
}

/// The line of a token for the users file.
///
/// # Errors
/// See [`SecretError`].
pub fn hash_token(token: &[u8]) -> Result<String, SecretError> {
    check_length(token, TOKEN_BYTES_MIN)?;
    let mut line = TOKEN_HASH.to_owned();
    for byte in token_digest(token) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    Ok(line)
}

/// A new token of 256 random bits.
#[must_use]
pub fn new_token() -> String {
    use base64::Engine as _;
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    format!("{TOKEN_PREFIX}{text}")
}

/// The SHA-256 of a token.
pub(super) fn token_digest(token: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    bytes
}

/// Reads the line of a token.
pub(super) fn parse_token_hash(line: &str) -> Result<[u8; 32], String> {
    let parse = || {
        let digits = line.strip_prefix(TOKEN_HASH)?.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(bytes)
    };
    parse().ok_or_else(|| format!("a token's hash is {TOKEN_HASH} and 64 hexadecimal digits"))
}

/// What holding a password against a hash costs, by the parameters of the hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// Of the hashes that are made here.
    pub(super) const OWN: Self = Self {
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: 1,
    };

    /// A hash of this cost that no password is known for: holding one against it takes as
    /// long as against a real one.
    pub(super) fn decoy(self) -> String {
        let Self {
            memory_kib,
            passes,
            lanes,
        } = self;
        // 16 and 32 bytes of zeros, as a salt and a hash have.
        let (salt, hash) = ("A".repeat(22), "A".repeat(43));
        format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
    }
}

/// What a line costs, which is a password's hash that costs no more than a login may.
pub(super) fn check_password_hash(line: &str) -> Result<Cost, String> {
    let hash = PasswordHash::new(line).map_err(|error| format!("it is no PHC string: {error}"))?;
    if hash.algorithm != argon2::ARGON2ID_IDENT {
        return Err(format!(
            "it is of {}, and only argon2id is known",
            hash.algorithm
        ));
    }
    let params = Params::try_from(&hash).map_err(|error| error.to_string())?;
    if params.m_cost() > MEMORY_KIB_MAX
        || params.t_cost() > PASSES_MAX
        || params.p_cost() > LANES_MAX
    {
        return Err(format!(
            "it costs more than m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX}"
        ));
    }
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err("it has no salt or no hash".to_owned());
    }
    Ok(Cost {
        memory_kib: params.m_cost(),
        passes: params.t_cost(),
        lanes: params.p_cost(),
    })
}

/// Whether a password is the one of a hash that was checked. Slow.
pub(super) fn verify_password(password: &[u8], line: &str) -> bool {
    PasswordHash::new(line)
        .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash_alone() {
        let line = hash_password(b"correct horse").expect("hashed");
        check_password_hash(&line).expect("its own form");
        assert!(
            line.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{line}"
        );
        assert!(verify_password(b"correct horse", &line));
        assert!(!verify_password(b"correct horsf", &line));
        assert_ne!(hash_password(b"correct horse").expect("hashed"), line);
    }

    #[test]
    fn a_hash_that_would_cost_too_much_is_refused() {
        let line = hash_with(b"password", 64, 1).expect("hashed");
        check_password_hash(&line).expect("cheap ones are");
        for (cheap, dear) in [("m=64,", "m=1048576,"), ("t=1,", "t=99,"), ("p=1$", "p=9$")] {
            let dear = line.replace(cheap, dear);
            assert!(check_password_hash(&dear).is_err(), "{dear}");
        }
        for other in [
            "",
            "secret",
            "$2b$10$abc",
            "sha256:00",
            "$argon2id$v=19$m=64,t=1,p=1",
        ] {
            assert!(check_password_hash(other).is_err(), "{other}");
        }
        let other = line.replace("argon2id", "argon2i");
        assert!(check_password_hash(&other).is_err());
    }

    #[test]
    fn a_decoy_costs_what_it_should_and_is_nobodys() {
        for (memory, passes) in [(64, 1), (MEMORY_KIB, PASSES)] {
            let line = hash_with(b"password", memory, passes).expect("hashed");
            let cost = check_password_hash(&line).expect("its own form");
            assert_eq!(cost == Cost::OWN, memory == MEMORY_KIB);
            let decoy = cost.decoy();
            assert_eq!(check_password_hash(&decoy), Ok(cost));
            // It is hashed to the end, and not found to be malformed before.
            let hash = PasswordHash::new(&decoy).expect("well formed");
            let verified = Argon2::default().verify_password(b"password", &hash);
            assert_eq!(verified, Err(argon2::password_hash::Error::Password));
        }
    }

    #[test]
    fn tokens_are_long_and_their_hashes_are_read_back() {
        let token = new_token();
        assert!(token.len() >= TOKEN_BYTES_MIN + TOKEN_PREFIX.len());
        assert_ne!(token, new_token());
        let line = hash_token(token.as_bytes()).expect("long enough");
        assert_eq!(parse_token_hash(&line), Ok(token_digest(token.as_bytes())));
        assert!(matches!(
            hash_token(b"short"),
            Err(SecretError::Short { .. })
        ));
        for wrong in ["", "sha256:", "sha256:zz", &line[..70], &line[7..]] {
            assert!(parse_token_hash(wrong).is_err(), "{wrong}");
        }
        // As `printf TOKEN | sha256sum` has it.
        let line = hash_token(b"0123456789abcdef0123456789abcdef").expect("long enough");
        assert_eq!(
            line,
            "sha256:3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9"
        );
    }
}
