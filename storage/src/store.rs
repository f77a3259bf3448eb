//! The narrow view of the store that holds the state.

use bytes::Bytes;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {reason}")]
pub struct StoreError {
    /// Verb and object.
    pub action: &'static str,
    /// Why, in the store's words.
    pub reason: String,
    /// Whether what is stored does not read as what was written: trying again leads
    /// to the same, and the state has to come from elsewhere.
    pub damaged: bool,
}

/// One change: a key, and its new value or `None` where it goes.
pub type StoreChange = (Bytes, Option<Bytes>);

/// An ordered map of bytes whose batches are atomic, and whose unpersisted tail may
/// be lost at a crash: always whole batches, and the newest first.
pub trait Store {
    /// A key's value.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Whether there is such a key.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    /// Makes all changes at once. No key stands twice among them.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing may be written after a failure.
    fn write(&self, changes: &[StoreChange]) -> Result<(), StoreError>;

    /// Makes durable whatever was written before.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing may be written after a failure.
    fn persist(&self) -> Result<(), StoreError>;

    /// Visits keys from `from` on and before `to` where it is given, ascending,
    /// from one consistent view, until `visit` returns `false`.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError>;

    /// As [`Self::scan`], without the values.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan_keys(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<(), StoreError> {
        self.scan(from, to, &mut |key, _| visit(key))
    }
}
