//! The one error of every conversion into a strict type.

use std::fmt;

/// A message that does not say what it must; names the field that is wrong, from
/// the outermost message inwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed {
    field: String,
    problem: String,
}

impl Malformed {
    /// The field has something wrong with it.
    #[must_use]
    pub fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// The field is not there.
    #[must_use]
    pub fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// The same error, seen from the message around it.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }

    /// The path of the field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {} {}", self.field, self.problem)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for tonic::Status {
    fn from(error: Malformed) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

/// Takes a part that must be there and converts it.
pub(crate) fn required<P, T>(part: Option<P>, field: &str) -> Result<T, Malformed>
where
    T: TryFrom<P, Error = Malformed>,
{
    let part = part.ok_or_else(|| Malformed::missing(field))?;
    T::try_from(part).map_err(|e| e.within(field))
}

/// Converts a part that may be absent.
pub(crate) fn optional<P, T>(part: Option<P>, field: &str) -> Result<Option<T>, Malformed>
where
    T: TryFrom<P, Error = Malformed>,
{
    part.map(T::try_from)
        .transpose()
        .map_err(|e| e.within(field))
}

/// Converts a list of at most `limit`.
pub(crate) fn list<P, T>(parts: Vec<P>, limit: usize, field: &str) -> Result<Vec<T>, Malformed>
where
    T: TryFrom<P, Error = Malformed>,
{
    bounded(parts.len(), limit, field)?;
    parts
        .into_iter()
        .enumerate()
        .map(|(at, part)| T::try_from(part).map_err(|e| e.within(&format!("{field}[{at}]"))))
        .collect()
}

/// Refuses a list or a string that is longer than its bound.
pub(crate) fn bounded(len: usize, limit: usize, field: &str) -> Result<(), Malformed> {
    if len > limit {
        return Err(Malformed::new(
            field,
            format!("has {len} parts or bytes, and {limit} is the most"),
        ));
    }
    Ok(())
}

/// Narrows a number.
pub(crate) fn narrow<N>(number: u32, field: &str) -> Result<N, Malformed>
where
    N: TryFrom<u32>,
{
    N::try_from(number).map_err(|_| Malformed::new(field, format!("{number} is out of range")))
}

/// A text of at most `limit` bytes without control characters.
pub(crate) fn text(text: String, limit: usize, field: &str) -> Result<String, Malformed> {
    bounded(text.len(), limit, field)?;
    if text.chars().any(char::is_control) {
        return Err(Malformed::new(field, "has a control character"));
    }
    Ok(text)
}

/// A text that may not be empty.
pub(crate) fn name(value: String, limit: usize, field: &str) -> Result<String, Malformed> {
    if value.is_empty() {
        return Err(Malformed::new(field, "is empty"));
    }
    text(value, limit, field)
}
