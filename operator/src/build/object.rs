//! An object of any of the kinds that a cluster consists of.

use std::fmt;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;

macro_rules! objects {
    ($($kind:ident),*) => {
        /// An object to be applied.
        #[derive(Clone, PartialEq)]
        pub enum Object {
            $(
                #[allow(missing_docs)]
                $kind(Box<$kind>),
            )*
        }

        $(
            impl From<$kind> for Object {
                fn from(object: $kind) -> Self {
                    Self::$kind(Box::new(object))
                }
            }
        )*

        impl Object {
            /// Its metadata.
            #[must_use]
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                }
            }

            /// What the API calls its kind.
            #[must_use]
            pub fn resource(&self) -> ApiResource {
                match self {
                    $(Self::$kind(_) => ApiResource::erase::<$kind>(&()),)*
                }
            }

            /// As it is sent, with `apiVersion` and `kind`.
            ///
            /// # Errors
            /// Never, for the kinds that there are; the types do not promise it.
            pub fn to_json(&self) -> serde_json::Result<serde_json::Value> {
                match self {
                    $(Self::$kind(object) => serde_json::to_value(object),)*
                }
            }
        }
    };
}

objects!(
    ServiceAccount,
    Secret,
    ConfigMap,
    Service,
    NetworkPolicy,
    PodDisruptionBudget,
    StatefulSet
);

impl Object {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Object {
    /// Its kind and name alone: a Secret must not come to stand in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource().kind, self.name())
    }
}

/// An object that is not to be, by its name. It may belong to somebody else: only one that
/// the cluster owns is deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unwanted {
    /// A PodDisruptionBudget.
    DisruptionBudget(String),
    /// A Service.
    Service(String),
}
