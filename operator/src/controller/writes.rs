//! The one door to everything that changes something: an object of Kubernetes, or what the
//! coordinators agreed on.
//!
//! - Nothing is changed by an operator that does not hold the lease at that moment.
//! - An object is deleted only as the one that was looked at just before: by UID and
//!   resourceVersion, after a live read.
//! - A Secret is created, or written over the very version that was read, never applied: of two
//!   operators that race, one loses.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{
    DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::leader::{Leadership, NotLeading};
use crate::metrics::{self, Verb};
use crate::names::FIELD_MANAGER;

/// How long a call to the API server may take.
pub const CALL: Duration = Duration::from_secs(15);
/// The exit code of an operator that was asked to end after so many writes.
pub const EXIT_AFTER_WRITES: i32 = 99;

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another operator acts.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The API server refused, or could not be spoken to.
    #[error("{what}: {source}")]
    Api {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: Box<kube::Error>,
    },
    /// It gave no answer.
    #[error("{what}: no answer within {CALL:?}")]
    Timeout {
        /// What was to be done.
        what: String,
    },
    /// What is there does not hold what it should.
    #[error("{what}: {reason}")]
    Content {
        /// What was looked at.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// A word for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotLeading(_) => "not_leading",
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.is_forbidden() => "forbidden",
                kube::Error::Api(status) if status.is_conflict() => "conflict",
                kube::Error::Api(_) => "refused",
                _ => "unreachable",
            },
            Self::Timeout { .. } => "timeout",
            Self::Content { .. } => "content",
        }
    }

    /// Whether the API server does not let this operator do it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_forbidden)
    }

    /// Whether the API server does not do it, to whoever asks: the object, or what is asked of
    /// it, is not what it takes.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.status()
            .is_some_and(|status| matches!(status.code, 400 | 403 | 422))
    }

    /// Whether the API server does not know the kind.
    #[must_use]
    pub fn is_unknown_kind(&self) -> bool {
        // In plain text, so that there is no reason to read.
        self.status().is_some_and(|status| status.code == 404)
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Reads within [`CALL`].
///
/// # Errors
/// [`Error::Api`], [`Error::Timeout`].
pub async fn within<T>(
    what: impl FnOnce() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match timeout(CALL, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Error::Api {
            what: what(),
            source: Box::new(source),
        }),
        Err(_) => Err(Error::Timeout { what: what() }),
    }
}

/// A namespaced kind that is known when this is compiled.
pub trait Owned:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}

impl<K> Owned for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

/// How an object is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletion {
    /// As is usual for it.
    Usual,
    /// A pod, without its kubelet's word that it ended.
    Force,
    /// Without what belongs to it.
    Orphan,
}

/// What became of a deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deleted {
    /// It goes.
    Done,
    /// It was gone, or going, already.
    Before,
    /// Another one has its name, or it changed since: it is left alone.
    Changed,
}

/// The door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Writes {
    leadership: Leadership,
    count: Arc<AtomicU64>,
    exit_after: Option<u64>,
}

impl Writes {
    /// For an operator that acts while `leadership` says so. `exit_after` ends the process after
    /// so many writes, for tests of what it leaves behind.
    #[must_use]
    pub fn new(leadership: Leadership, exit_after: Option<u64>) -> Self {
        Self {
            leadership,
            count: Arc::default(),
            exit_after,
        }
    }

    /// The present term.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn term(&self) -> Result<u64, NotLeading> {
        self.leadership.term()
    }

    /// To be called after each write, whatever came of it.
    pub fn note(&self) {
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if self.exit_after == Some(count) {
            tracing::error!(count, "ended after so many writes, as asked for");
            std::process::exit(EXIT_AFTER_WRITES);
        }
    }

    /// How many writes there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    async fn write<T>(
        &self,
        verb: Verb,
        kind: &str,
        name: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        self.term()?;
        let result = within(|| format!("{verb} {kind} {name}"), call).await;
        let outcome = result.as_ref().map_or_else(Error::kind, |_| "ok");
        metrics::api_write(verb, kind, outcome);
        self.note();
        result
    }

    /// Applies fields, taking them from whoever else set them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn apply(
        &self,
        api: &Api<DynamicObject>,
        kind: &str,
        name: &str,
        fields: &Value,
    ) -> Result<(), Error> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(fields);
        let call = api.patch(name, &params, &patch);
        self.write(Verb::Apply, kind, name, call).await?;
        Ok(())
    }

    /// Creates an object; `None` where one of that name exists.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create<K: Owned>(&self, api: &Api<K>, object: &K) -> Result<Option<K>, Error> {
        let params = managed();
        let name = object.name_any();
        let made = self
            .write(
                Verb::Create,
                &K::kind(&()),
                &name,
                api.create(&params, object),
            )
            .await;
        match made {
            Err(error) if error.status().is_some_and(|s| s.is_already_exists()) => Ok(None),
            made => made.map(Some),
        }
    }

    /// Writes an object over the version that it was read as; `None` where it changed since.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn replace<K: Owned>(&self, api: &Api<K>, object: &K) -> Result<Option<K>, Error> {
        let params = managed();
        let name = object.name_any();
        let written = self
            .write(
                Verb::Replace,
                &K::kind(&()),
                &name,
                api.replace(&name, &params, object),
            )
            .await;
        match written {
            Err(error) if error.status().is_some_and(|s| s.is_conflict()) => Ok(None),
            written => written.map(Some),
        }
    }

    /// Sets annotations of the very object that was read, or removes those without a value;
    /// `false` where it changed since.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn annotate<K: Owned>(
        &self,
        api: &Api<K>,
        read: &K,
        annotations: &[(&str, Option<&str>)],
    ) -> Result<bool, Error> {
        let annotations: serde_json::Map<String, Value> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        let fields = json!({"metadata": {"annotations": annotations}});
        self.merge(Verb::Annotate, api, read, fields).await
    }

    /// Asks for so much room on the very claim that was read; `false` where it changed since.
    ///
    /// # Errors
    /// See [`Error`]; that its class does not let volumes grow is a refusal.
    pub async fn grow(
        &self,
        api: &Api<PersistentVolumeClaim>,
        read: &PersistentVolumeClaim,
        size: &str,
    ) -> Result<bool, Error> {
        let fields = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        self.merge(Verb::Grow, api, read, fields).await
    }

    /// Merges fields into the very object that was read; `false` where it changed since.
    async fn merge<K: Owned>(
        &self,
        verb: Verb,
        api: &Api<K>,
        read: &K,
        mut fields: Value,
    ) -> Result<bool, Error> {
        let name = read.name_any();
        // UID and resourceVersion in a patch are preconditions.
        fields["metadata"]["uid"] = json!(read.meta().uid);
        fields["metadata"]["resourceVersion"] = json!(read.meta().resource_version);
        let params = PatchParams::default();
        let patch = Patch::Merge(&fields);
        let call = api.patch(&name, &params, &patch);
        let written = self.write(verb, &K::kind(&()), &name, call).await;
        match written {
            Err(error) if error.status().is_some_and(|s| s.is_conflict()) => Ok(false),
            written => written.map(|_| true),
        }
    }

    /// Writes the status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status<K: Owned>(
        &self,
        api: &Api<K>,
        name: &str,
        fields: &Value,
    ) -> Result<K, Error> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(fields);
        self.write(
            Verb::Status,
            &K::kind(&()),
            name,
            api.patch_status(name, &params, &patch),
        )
        .await
    }

    /// Deletes the object of that name if it is still the one with that UID.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<K: Owned>(
        &self,
        api: &Api<K>,
        name: &str,
        uid: &str,
        how: Deletion,
    ) -> Result<Deleted, Error> {
        // A cache may be minutes behind: what is about to be lost is looked at once more.
        let read = within(|| format!("read {name}"), api.get_metadata_opt(name)).await?;
        let Some(live) = read else {
            return Ok(Deleted::Before);
        };
        if live.metadata.uid.as_deref() != Some(uid) {
            return Ok(Deleted::Changed);
        }
        if live.metadata.deletion_timestamp.is_some() && how != Deletion::Force {
            return Ok(Deleted::Before);
        }
        let params = DeleteParams {
            grace_period_seconds: (how == Deletion::Force).then_some(0),
            propagation_policy: (how == Deletion::Orphan).then_some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions {
                uid: live.metadata.uid,
                resource_version: live.metadata.resource_version,
            }),
            ..DeleteParams::default()
        };
        let deleted = self
            .write(Verb::Delete, &K::kind(&()), name, api.delete(name, &params))
            .await;
        match deleted {
            Ok(_) => Ok(Deleted::Done),
            Err(error) if error.status().is_some_and(|s| s.is_not_found()) => Ok(Deleted::Before),
            Err(error) if error.status().is_some_and(|s| s.is_conflict()) => Ok(Deleted::Changed),
            Err(error) => Err(error),
        }
    }
}

fn managed() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
