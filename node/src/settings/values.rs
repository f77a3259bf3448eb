//! What was given for each setting, by flag or by variable, before any of it is
//! judged. A flag wins over its variable.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgMatches, Command};

use super::kinds::flag_of;
use super::table::SETTINGS;

/// Given values by the name of their setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    given: BTreeMap<&'static str, String>,
    unknown: Vec<String>,
}

impl Values {
    /// From variables alone. An empty value counts as not given, so that a
    /// manifest may leave one blank.
    #[must_use]
    pub fn from_variables<I>(variables: I) -> Self
    where
        I: IntoIterator<Item = (String, String)>,
    {
        let mut values = Self::default();
        for (name, value) in variables {
            match SETTINGS.iter().find(|s| s.name == name) {
                Some(_) if value.trim().is_empty() => {}
                Some(setting) => {
                    values.given.insert(setting.name, value);
                }
                None if name.starts_with("CAIRN_") => values.unknown.push(name),
                None => {}
            }
        }
        values
    }

    /// From the variables of this process. One that is not valid UTF-8 cannot be
    /// a setting and is passed over.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variables(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// Lays the flags of `matches`, parsed by [`with_flags`], over the variables.
    #[must_use]
    pub fn with_matches(mut self, matches: &ArgMatches) -> Self {
        for setting in SETTINGS {
            if let Ok(Some(value)) = matches.try_get_one::<String>(setting.name) {
                self.given.insert(setting.name, value.clone());
            }
        }
        self
    }

    /// What was given for a setting.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// Sets one value, as a flag would.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.given.insert(name, value.into());
    }

    /// Variables that begin with `CAIRN_` and are no setting: perhaps a slip of
    /// the pen. Kubernetes injects some of its own for services, so that these
    /// are worth a warning and not a refusal.
    #[must_use]
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }
}

/// Flag and form of the value of each setting, in the order of the table: the
/// parser keeps references to them for as long as the process runs.
static FLAGS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    SETTINGS
        .iter()
        .map(|setting| (flag_of(setting.name), setting.unit.replace('`', "")))
        .collect()
});

/// Adds a flag for every setting to a command. Values are judged by
/// [`super::read`], all together, and not one by one by the parser.
#[must_use]
pub fn with_flags(command: Command) -> Command {
    SETTINGS
        .iter()
        .zip(FLAGS.iter())
        .fold(command, |command, (setting, (flag, form))| {
            command.arg(
                Arg::new(setting.name)
                    .long(flag.as_str())
                    .value_name(form.as_str())
                    .value_parser(NonEmptyStringValueParser::new())
                    .allow_hyphen_values(true)
                    .help_heading(setting.group.title())
                    .help(format!(
                        "{} [{}; default: {}]",
                        setting.purpose, setting.name, setting.default
                    )),
            )
        })
}
