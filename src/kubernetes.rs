//! The way to a Kubernetes cluster: how it is reached, and who of several replicas works.

#[cfg(feature = "kubernetes")]
mod gate;
#[cfg(feature = "kubernetes")]
pub mod lease;
#[cfg(feature = "kubernetes")]
mod link;
#[cfg(feature = "kubernetes")]
mod refusal;

use std::fmt;
use std::path::PathBuf;

#[cfg(feature = "kubernetes")]
pub use self::gate::Count;
#[cfg(feature = "kubernetes")]
pub use self::link::{CALL_LIMIT, Link};
#[cfg(feature = "kubernetes")]
pub use self::refusal::Refusal;

/// How the cluster is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The file that says how. Without one: the pod's own account, else `$KUBECONFIG`, else
    /// `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Which context of that file, if not its current one.
    pub context: Option<String>,
}

/// Where a Lease is.
/// <https://kubernetes.io/docs/concepts/architecture/leases/>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for LeaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}
