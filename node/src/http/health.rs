//! What `/livez` and `/readyz` answer.

use std::sync::Arc;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What, in a word or two with hyphens: `wal-recovered`.
    pub name: &'static str,
    /// Why it is not well, if it is not.
    pub failure: Option<String>,
}

impl Check {
    /// It is well.
    #[must_use]
    pub fn ok(name: &'static str) -> Self {
        Self {
            name,
            failure: None,
        }
    }

    /// It is not, and why.
    pub fn failed(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            name,
            failure: Some(why.into()),
        }
    }

    /// It is as `ok` says.
    pub fn when(name: &'static str, ok: bool, otherwise: impl Into<String>) -> Self {
        if ok {
            Self::ok(name)
        } else {
            Self::failed(name, otherwise)
        }
    }
}

/// Everything that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// In the order in which it is shown.
    pub checks: Vec<Check>,
}

impl Health {
    /// From the checks.
    #[must_use]
    pub fn new(checks: Vec<Check>) -> Self {
        Self { checks }
    }

    /// Whether everything is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.failure.is_none())
    }

    /// As text, in the form that Kubernetes' own components use: `[+]name ok`,
    /// `[-]name failed: why`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            match &check.failure {
                None => {
                    text.push_str("[+]");
                    text.push_str(check.name);
                    text.push_str(" ok\n");
                }
                Some(why) => {
                    text.push_str("[-]");
                    text.push_str(check.name);
                    text.push_str(" failed: ");
                    text.push_str(why);
                    text.push('\n');
                }
            }
        }
        text.push_str(if self.is_ok() { "ok\n" } else { "failed\n" });
        text
    }
}

/// Looks at the process. Called on a network thread: it must not block.
pub type Probe = Arc<dyn Fn() -> Health + Send + Sync>;
