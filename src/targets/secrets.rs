//! Image pull secrets: the loop that keeps one Secret fresh in many namespaces of a cluster.
//!
//! | | |
//! | --- | --- |
//! | `content` | what stands in a Secret, and what its annotations say of it |
//! | `mirror` | tells what there is in the cluster, and what changes |
//! | `places` | knows each namespace, and what is to be done there |
//! | `notes` | which names are in a service account because of us |
//! | `calls` | does it |
//! | `keeper` | the loop that puts them together |
//! | `recall` | knows what stood there before |
//! | `rights` | asks what the API server would let us do, for `doctor` |
//! | `sweep` | removes what the settings no longer name, and everything at a `logout` |

#[cfg(feature = "kubernetes")]
mod calls;
#[cfg(feature = "kubernetes")]
mod content;
#[cfg(feature = "kubernetes")]
mod keeper;
#[cfg(feature = "kubernetes")]
mod mirror;
#[cfg(feature = "kubernetes")]
mod notes;
#[cfg(feature = "kubernetes")]
mod places;
#[cfg(feature = "kubernetes")]
mod recall;
#[cfg(feature = "kubernetes")]
pub mod rights;
#[cfg(feature = "kubernetes")]
#[cfg(test)]
mod scripted;
#[cfg(feature = "kubernetes")]
mod sweep;

#[cfg(feature = "kubernetes")]
pub use self::keeper::{Keeper, Work};
#[cfg(feature = "kubernetes")]
pub use self::recall::{Recalled, recall};
#[cfg(feature = "kubernetes")]
pub use self::sweep::{log_out, sweep, sweep_named};
use crate::credential::RegistryHost;

/// What the settings say about one Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Where it is to be.
    pub namespaces: Namespaces,
    /// Whose credentials are in it.
    pub registries: Vec<RegistryHost>,
    /// Whose pods get it without naming it.
    pub accounts: Accounts,
}

/// Where a Secret is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// In these.
    Named(Vec<String>),
    /// In those with these labels, or in all, now and later.
    Selected {
        /// The labels, as the API server takes them.
        selector: Option<String>,
        /// In these it is not.
        excluded: Vec<String>,
    },
}

/// Which service accounts get a Secret into their `imagePullSecrets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// None.
    None,
    /// Those of these names.
    Named(Vec<String>),
    /// Those with these labels.
    Selected(String),
}
