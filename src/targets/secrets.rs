//! Image pull secrets: the loop that keeps one Secret fresh in many namespaces of a cluster.

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
