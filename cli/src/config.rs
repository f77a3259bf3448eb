//! The file with what somebody would otherwise type each time: where the cluster is.
//!
//! It is `CAIRN_CONFIG`, or `cairn/config.toml` in the user's configuration directory.
//! Names are those of the flags. Variables go before it, and flags before these.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;

/// The most that is read of it.
const BYTES_MAX: u64 = 1 << 20;

/// What the file says. Paths that are relative in it are so to its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Config {
    /// gRPC addresses of any nodes of the cluster.
    pub(crate) endpoints: Vec<String>,
    /// The CA that signs the nodes' certificates.
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// A certificate to show to the nodes.
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Its private key.
    pub(crate) tls_key_file: Option<PathBuf>,
    /// Which ports speak TLS: `all` or `peer`.
    pub(crate) tls_ports: Option<String>,
    /// The user to log in as, with the password of that file.
    pub(crate) user: Option<String>,
    /// A file with the user's password.
    pub(crate) password_file: Option<PathBuf>,
    /// A file with a token, instead of a user and a password.
    pub(crate) token_file: Option<PathBuf>,
}

impl Config {
    /// Reads the file that was asked for, or else the user's, if there is one.
    pub(crate) fn load(asked: Option<&Path>) -> Result<Self, Failure> {
        let usual = usual_path(
            std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from),
            std::env::var_os("HOME").map(PathBuf::from),
        );
        match (asked, usual) {
            (Some(asked), _) => Self::read(asked),
            (None, Some(usual)) if usual.exists() => Self::read(&usual),
            (None, _) => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: String| {
            Failure::usage(format!(
                "the configuration file {}: {error}",
                path.display()
            ))
        };
        let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if size.len() > BYTES_MAX {
            return Err(failed(format!("has more than {BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let mut config: Self = toml::from_str(&text).map_err(|error| {
            failed(error.to_string().trim_end().to_owned()).with_remedy(
                "It may have: endpoints = [\"host:port\"], tls-ca-file, tls-cert-file, \
                 tls-key-file, tls-ports, user, password-file, token-file",
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [
            &mut config.tls_ca_file,
            &mut config.tls_cert_file,
            &mut config.tls_key_file,
            &mut config.password_file,
            &mut config.token_file,
        ] {
            *file = file.take().map(|file| folder.join(file));
        }
        if config.tls_cert_file.is_some() != config.tls_key_file.is_some() {
            return Err(failed(
                "tls-cert-file and tls-key-file go together".to_owned(),
            ));
        }
        if config.tls_cert_file.is_some() && config.tls_ca_file.is_none() {
            return Err(failed("tls-cert-file needs tls-ca-file".to_owned()));
        }
        if config.user.is_some() != config.password_file.is_some() {
            return Err(failed("user and password-file go together".to_owned()));
        }
        if config.user.is_some() && config.token_file.is_some() {
            return Err(failed(
                "token-file stands instead of user and password-file".to_owned(),
            ));
        }
        Ok(config)
    }
}

/// Where a user's file is, by the base directory specification, which says that relative
/// paths are to be ignored.
fn usual_path(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    xdg.filter(|path| path.is_absolute())
        .or_else(|| {
            home.filter(|path| path.is_absolute())
                .map(|home| home.join(".config"))
        })
        .map(|base| base.join("cairn/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        let config = Config::read(&path).map_err(|failure| failure.to_string())?;
        // The folder's own name is another each time.
        let strip = |file: Option<PathBuf>| {
            file.map(|file| {
                file.strip_prefix(folder.path())
                    .map_or(file.clone(), Path::to_owned)
            })
        };
        Ok(Config {
            tls_ca_file: strip(config.tls_ca_file),
            tls_cert_file: strip(config.tls_cert_file),
            tls_key_file: strip(config.tls_key_file),
            tls_ports: config.tls_ports,
            password_file: strip(config.password_file),
            token_file: strip(config.token_file),
            endpoints: config.endpoints,
            user: config.user,
        })
    }

    #[test]
    fn a_file_is_read_and_its_relative_paths_are_beside_it() {
        assert_eq!(read(""), Ok(Config::default()));
        let config = read(
            "endpoints = ['a:1', 'b:2']\ntls-ca-file = 'ca.pem'\n\
             tls-cert-file = '/etc/me.pem'\ntls-key-file = 'me.key'\ntls-ports = 'peer'\n\
             user = 'me'\npassword-file = 'secret'\n",
        );
        assert_eq!(
            config,
            Ok(Config {
                endpoints: vec!["a:1".to_owned(), "b:2".to_owned()],
                tls_ca_file: Some("ca.pem".into()),
                tls_cert_file: Some("/etc/me.pem".into()),
                tls_key_file: Some("me.key".into()),
                tls_ports: Some("peer".to_owned()),
                user: Some("me".to_owned()),
                password_file: Some("secret".into()),
                token_file: None,
            })
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_what_may_be_there() {
        for (text, words) in [
            ("endpoint = ['a:1']", "tls-key-file"),
            ("endpoints = 'a:1'", "config.toml"),
            ("= 3", "config.toml"),
            ("tls-cert-file = 'x'\ntls-ca-file = 'y'", "go together"),
            (
                "tls-cert-file = 'x'\ntls-key-file = 'y'",
                "needs tls-ca-file",
            ),
            ("user = 'x'", "go together"),
            (
                "user = 'x'\npassword-file = 'y'\ntoken-file = 'z'",
                "instead of",
            ),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn the_usual_place_is_that_of_the_specification() {
        let at = |xdg: Option<&str>, home: Option<&str>| {
            usual_path(xdg.map(PathBuf::from), home.map(PathBuf::from))
        };
        let file = |path: &str| Some(PathBuf::from(path));
        assert_eq!(at(Some("/x"), Some("/h")), file("/x/cairn/config.toml"));
        assert_eq!(
            at(Some("x"), Some("/h")),
            file("/h/.config/cairn/config.toml")
        );
        assert_eq!(at(None, None), None);
    }
}
