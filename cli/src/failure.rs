//! How a command fails: what is wrong, what to do about it, and the exit code.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | no such key, a condition did not hold, or `check` found damage; nothing was changed |
//! | 2 | the command line or a setting is wrong; nothing was done |
//! | 3 | the cluster, or the part that is needed, cannot be reached or cannot serve; nothing was done |
//! | 4 | the outcome is unknown: the write may or may not have happened, or what was asked for is not done yet |
//! | 5 | refused: the request cannot be carried out as it stands |
//! | 6 | something else went wrong |

use std::fmt::{self, Display};
use std::process::ExitCode;

/// The kinds of failure, by exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No such key, a condition did not hold, or damage was found.
    NotFound = 1,
    /// The command line or a setting is wrong.
    Usage = 2,
    /// Cannot be reached or cannot serve.
    Unavailable = 3,
    /// May or may not have happened.
    Unknown = 4,
    /// Cannot be carried out as it stands.
    Refused = 5,
    /// Anything else.
    Other = 6,
}

/// A failure with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    remedy: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            remedy: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What is wrong, and what to do about it.
    pub(crate) fn into_words(self) -> (String, Option<String>) {
        (self.message, self.remedy)
    }

    /// Says what it is about.
    #[must_use]
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// Which kind of failure it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  {remedy}")?;
        }
        Ok(())
    }
}

impl From<cairn_client::Error> for Failure {
    fn from(error: cairn_client::Error) -> Self {
        use cairn_client::Error;
        let kind = match &error {
            Error::Connect { .. } | Error::Unavailable { .. } => Kind::Unavailable,
            Error::OutcomeUnknown { .. } => Kind::Unknown,
            Error::Invalid { .. } => Kind::Usage,
            Error::DiskFull
            | Error::Unsupported { .. }
            | Error::Unauthenticated { .. }
            | Error::PermissionDenied { .. }
            | Error::Compacted { .. }
            | Error::NotAnInteger
            | Error::Overflow => Kind::Refused,
        };
        let failure = Self::new(kind, error.to_string());
        match error {
            Error::Unauthenticated { .. } => failure.with_remedy(LOG_IN),
            _ => failure,
        }
    }
}

/// What to do where the cluster lets one in with a credential alone.
const LOG_IN: &str = "Give --user and --password-file, or --token-file; or set CAIRN_USER and \
     CAIRN_PASSWORD, or CAIRN_TOKEN";

impl From<cairn_client::admin::AdminError> for Failure {
    fn from(error: cairn_client::admin::AdminError) -> Self {
        use cairn_client::admin::AdminError;
        let kind = match &error {
            AdminError::NoEndpoint => Kind::Usage,
            AdminError::Dial(_) | AdminError::NoLeader { .. } => Kind::Unavailable,
            AdminError::Refused(_) => Kind::Refused,
            AdminError::Text(_) => Kind::Other,
        };
        let failure = Self::new(kind, error.to_string());
        match error {
            AdminError::Refused(status) if status.code() == tonic::Code::Unauthenticated => {
                failure.with_remedy(LOG_IN)
            }
            _ => failure,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Kind::Other, format!("{error:#}"))
    }
}
