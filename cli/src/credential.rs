//! Who the commands speak as: a user with its password, or a token. Secrets come from
//! files or from the environment, never from the command line, which every user of the
//! machine may read.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use cairn_client::transport;
use cairn_node::users::SECRET_BYTES_MAX;

use crate::config::Config;
use crate::failure::Failure;
use cairn_workload::resp::Auth;

/// The flags.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CredentialArgs {
    /// The user to log in as, with the password of --password-file or CAIRN_PASSWORD
    #[arg(long, global = true, env = "CAIRN_USER", value_name = "NAME")]
    user: Option<String>,
    /// A file with the user's password, `-` for standard input
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<String>,
    /// A file with a token, `-` for standard input; or CAIRN_TOKEN holds one
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "password_file"
    )]
    token_file: Option<String>,
}

/// What a user is known by.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password { user: String, password: String },
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

impl CredentialArgs {
    /// What was given; `variable` looks up the environment. The configuration file
    /// stands below both.
    pub(crate) fn read(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        config: &Config,
    ) -> Result<Option<Credential>, Failure> {
        let file = |path: &Option<String>| path.as_deref().map(read_secret).transpose();
        let given = |name: &str| variable(name).filter(|text| !text.is_empty());
        // What is asked for on the command line goes before the environment.
        if let Some(token) = file(&self.token_file)? {
            return Ok(Some(Credential::Token(token)));
        }
        let password = file(&self.password_file)?;
        let from_file = password.is_some();
        if let Some(password) = password.or_else(|| given("CAIRN_PASSWORD")) {
            return match self.user.clone().filter(|user| !user.is_empty()) {
                Some(user) => Ok(Some(Credential::Password { user, password })),
                None if from_file => Err(Failure::usage("a password was given, and no user")
                    .with_remedy("Give --user or CAIRN_USER too")),
                None => Ok(given("CAIRN_TOKEN").map(Credential::Token)),
            };
        }
        let asked = self.user.as_ref().filter(|user| !user.is_empty());
        // A token is somebody's own: it does not stand for a user that is named.
        if let Some(token) = given("CAIRN_TOKEN").filter(|_| asked.is_none()) {
            return Ok(Some(Credential::Token(token)));
        }
        let configured = |path: &Option<PathBuf>| {
            let path = path.as_ref().map(|path| path.to_string_lossy());
            path.map(|path| read_secret(&path)).transpose()
        };
        if asked.is_none_or(|user| config.user.as_ref() == Some(user)) {
            if let Some(user) = config.user.clone()
                && let Some(password) = configured(&config.password_file)?
            {
                return Ok(Some(Credential::Password { user, password }));
            }
            if asked.is_none() {
                let token = configured(&config.token_file)?;
                return Ok(token.map(Credential::Token));
            }
        }
        match asked {
            Some(user) => Err(Failure::usage(format!(
                "the user {user} was given, and no password"
            ))
            .with_remedy("Give --password-file, or set CAIRN_PASSWORD")),
            None => Ok(None),
        }
    }
}

impl Credential {
    /// For gRPC.
    pub(crate) fn for_grpc(&self) -> Result<transport::Credential, Failure> {
        match self {
            Self::Password { user, password } => transport::Credential::password(user, password)
                .ok_or_else(|| Failure::usage("a user's name has no colon")),
            Self::Token(token) => transport::Credential::token(token)
                .ok_or_else(|| Failure::usage("a token has no control characters")),
        }
    }

    /// For the Redis protocol.
    pub(crate) fn for_resp(&self) -> Auth {
        match self {
            Self::Password { user, password } => Auth::new(&[user.as_bytes(), password.as_bytes()]),
            Self::Token(token) => Auth::new(&[token.as_bytes()]),
        }
    }
}

/// Reads a secret, without the end of its line.
pub(crate) fn read_secret(path: &str) -> Result<String, Failure> {
    let describe = |error: std::io::Error| Failure::usage(format!("read {path}: {error}"));
    // Room for the end of the line, and one more byte to see that it is too long.
    let most = SECRET_BYTES_MAX as u64 + 3;
    let mut text = String::new();
    if path == "-" {
        std::io::stdin()
            .lock()
            .take(most)
            .read_to_string(&mut text)
            .map_err(describe)?;
    } else {
        fs::File::open(Path::new(path))
            .and_then(|file| file.take(most).read_to_string(&mut text))
            .map_err(describe)?;
    }
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{path} holds no secret of 1 to {SECRET_BYTES_MAX} bytes"
        )));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(user: Option<&str>, password: Option<&str>, token: Option<&str>) -> CredentialArgs {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        CredentialArgs {
            user: owned(user),
            password_file: owned(password),
            token_file: owned(token),
        }
    }

    #[test]
    fn secrets_come_from_files_and_then_from_the_environment() {
        let directory = std::env::temp_dir().join(format!("cairn-secret-{}", std::process::id()));
        fs::write(&directory, "from a file\r\n").expect("written");
        let path = directory.to_str().expect("text");
        let empty = Config::default();
        let none = |_: &str| None;
        let all = |name: &str| Some(format!("{name} of the environment"));
        let password = |user: &str, password: &str| {
            Some(Credential::Password {
                user: user.to_owned(),
                password: password.to_owned(),
            })
        };
        let token = |token: &str| Some(Credential::Token(token.to_owned()));
        for (given, found) in [
            (args(None, None, None).read(none, &empty), None),
            (
                args(Some("a"), Some(path), None).read(all, &empty),
                password("a", "from a file"),
            ),
            (
                args(Some("a"), None, None).read(all, &empty),
                password("a", "CAIRN_PASSWORD of the environment"),
            ),
            (
                args(None, None, Some(path)).read(all, &empty),
                token("from a file"),
            ),
            (
                args(None, None, None).read(all, &empty),
                token("CAIRN_TOKEN of the environment"),
            ),
        ] {
            assert_eq!(given, Ok(found));
        }
        let config = Config {
            user: Some("c".to_owned()),
            password_file: Some(path.into()),
            ..Config::default()
        };
        let configured = password("c", "from a file");
        assert_eq!(
            args(None, None, None).read(none, &config),
            Ok(configured.clone())
        );
        assert_eq!(
            args(Some("c"), None, None).read(none, &config),
            Ok(configured)
        );
        let a_token = |name: &str| (name == "CAIRN_TOKEN").then(|| "someone's".to_owned());
        assert!(args(Some("a"), None, None).read(a_token, &empty).is_err());
        // Another user's password is not the file's.
        assert!(args(Some("a"), None, None).read(none, &config).is_err());
        let config = Config {
            token_file: Some(path.into()),
            ..Config::default()
        };
        assert_eq!(
            args(None, None, None).read(none, &config),
            Ok(token("from a file"))
        );
        assert_eq!(
            args(None, None, None).read(all, &config),
            Ok(token("CAIRN_TOKEN of the environment"))
        );
        assert!(args(None, Some(path), None).read(none, &empty).is_err());
        assert!(args(Some("a"), None, None).read(none, &empty).is_err());
        assert!(
            args(Some("a"), Some("/nowhere"), None)
                .read(none, &empty)
                .is_err()
        );
        fs::remove_file(&directory).expect("removed");
    }
}
