//! What the settings say about a Kubernetes cluster.

use thiserror::Error;

use super::super::file::{File, ImagePullSecretTable, KubernetesTable};
use super::{BadSettings, Registry};
use crate::credential::RegistryHost;
use crate::kubernetes::{Access, LeaseName};
use crate::targets::secrets::{Accounts, Namespaces, Options};

/// The Kubernetes cluster that the secrets are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How it is reached.
    pub access: Access,
    /// By which lease several replicas agree on who works.
    pub lease: Option<LeaseName>,
    /// Whose the secrets are.
    pub owner: String,
}

/// Why the settings of a cluster cannot be used.
#[derive(Debug, Error)]
pub enum BadCluster {
    /// Left out of this program.
    #[error(
        "this program was built without `kubernetes`: build it with that feature, or remove the table"
    )]
    NotBuilt,
    /// Not what Kubernetes calls by.
    #[error(
        "`{key} = \"{text}\"` is no name in Kubernetes: small letters, digits, `-`{}, and a letter or \
         digit at both ends",
        if *.has_dots { " and `.`" } else { "" }
    )]
    Name {
        /// Whose value.
        key: &'static str,
        /// What was written.
        text: String,
        /// Whether dots could be in it.
        has_dots: bool,
    },
    /// Not a label's value.
    #[error(
        "`owner = \"{0}\"` is no value of a label: at most 63 letters, digits, `-`, `_` and `.`, and a letter or digit at both ends"
    )]
    Owner(String),
    /// Not where a lease is.
    #[error(
        "`lease = \"{0}\"` says not where: write NAMESPACE/NAME, as in \"freshcreds/freshcreds\""
    )]
    Lease(String),
    /// Secrets nowhere, or in two ways.
    #[error(
        "it needs one of `namespaces`, `namespace_selector` and `all_namespaces = true`, and no two of them"
    )]
    NoNamespaces,
    /// Nothing to exclude from.
    #[error(
        "`excluded_namespaces` goes with `namespace_selector` or `all_namespaces`; leave the names out of `namespaces` instead"
    )]
    NothingToExclude,
    /// Accounts in two ways.
    #[error("it takes one of `service_accounts` and `service_account_selector`, not both")]
    TwoKindsOfAccounts,
    /// A list with nothing in it, or the same twice.
    #[error("`{key}` {}", match .twice { None => "is empty: leave it out, or name something".to_owned(), Some(name) => format!("names `{name}` twice") })]
    List {
        /// Whose value.
        key: &'static str,
        /// What stands there twice.
        twice: Option<String>,
    },
    /// Not a list of requirements.
    #[error(
        "`{key} = \"{text}\"` is no label selector: write it as in \"team in (red, blue), tier=test\""
    )]
    Selector {
        /// Whose value.
        key: &'static str,
        /// What was written.
        text: String,
    },
    /// A registry that is not kept fresh.
    #[error(
        "`registries` names `{0}`, which is no registry of these settings: add it to them, or remove it here"
    )]
    NoSuchRegistry(String),
    /// Two secrets of one name.
    #[error("it has two tables: leave one")]
    TwoTables,
}

/// The cluster and its secrets.
pub(super) fn cluster(
    file: &File,
    registries: &[Registry],
) -> Result<(Cluster, Vec<Options>), BadSettings> {
    if !cfg!(feature = "kubernetes") {
        if file.kubernetes.is_some() {
            return Err(BadSettings::Kubernetes(BadCluster::NotBuilt));
        }
        if let Some(table) = file.image_pull_secret.first() {
            return Err(bad_secret(&table.name, BadCluster::NotBuilt));
        }
    }
    let default = KubernetesTable::default();
    let table = file.kubernetes.as_ref().unwrap_or(&default);
    let cluster = described(table).map_err(BadSettings::Kubernetes)?;
    let mut secrets = Vec::<Options>::new();
    for table in &file.image_pull_secret {
        let secret = secret(table, registries).map_err(|why| bad_secret(&table.name, why))?;
        if secrets.iter().any(|other| other.name == secret.name) {
            return Err(bad_secret(&table.name, BadCluster::TwoTables));
        }
        secrets.push(secret);
    }
    Ok((cluster, secrets))
}

fn bad_secret(name: &str, why: BadCluster) -> BadSettings {
    BadSettings::ImagePullSecret { name: name.to_owned(), why }
}

fn described(table: &KubernetesTable) -> Result<Cluster, BadCluster> {
    let lease = match &table.lease {
        None => None,
        Some(text) => {
            let (namespace, name) =
                text.split_once('/').ok_or_else(|| BadCluster::Lease(text.clone()))?;
            let is_name = is_label(namespace) && is_subdomain(name);
            Some(LeaseName { namespace: namespace.to_owned(), name: name.to_owned() })
                .filter(|_| is_name)
                .ok_or_else(|| BadCluster::Lease(text.clone()))?
                .into()
        }
    };
    let owner = table.owner.clone().unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    if !is_label_value(&owner) {
        return Err(BadCluster::Owner(owner));
    }
    let access = Access { kubeconfig: table.kubeconfig.clone(), context: table.context.clone() };
    Ok(Cluster { access, lease, owner })
}

fn secret(table: &ImagePullSecretTable, registries: &[Registry]) -> Result<Options, BadCluster> {
    let name = |key, text: &String, has_dots| {
        let is_name = if has_dots { is_subdomain(text) } else { is_label(text) };
        let bad = || BadCluster::Name { key, text: text.clone(), has_dots };
        is_name.then(|| text.clone()).ok_or_else(bad)
    };
    let list_of = |key, list: &Option<Vec<String>>, has_dots| match list {
        None => Ok(None),
        Some(list) => {
            not_empty_nor_twice(key, list)?;
            list.iter()
                .map(|text| name(key, text, has_dots))
                .collect::<Result<Vec<_>, _>>()
                .map(Some)
        }
    };
    let excluded = list_of("excluded_namespaces", &table.excluded_namespaces, false)?;
    let selector = selector("namespace_selector", table.namespace_selector.as_ref())?;
    let is_for_all = table.all_namespaces == Some(true);
    let namespaces = match (list_of("namespaces", &table.namespaces, false)?, selector, is_for_all)
    {
        (Some(_), None, false) if excluded.is_some() => return Err(BadCluster::NothingToExclude),
        (Some(named), None, false) => Namespaces::Named(named),
        (None, selector @ Some(_), false) | (None, selector @ None, true) => {
            Namespaces::Selected { selector, excluded: excluded.unwrap_or_default() }
        }
        _ => return Err(BadCluster::NoNamespaces),
    };
    let named = list_of("service_accounts", &table.service_accounts, true)?;
    let selected =
        self::selector("service_account_selector", table.service_account_selector.as_ref())?;
    let accounts = match (named, selected) {
        (None, None) => Accounts::None,
        (Some(named), None) => Accounts::Named(named),
        (None, Some(selector)) => Accounts::Selected(selector),
        (Some(_), Some(_)) => return Err(BadCluster::TwoKindsOfAccounts),
    };
    let known = || registries.iter().map(|registry| registry.host.clone());
    let registries = match &table.registries {
        None => known().collect(),
        Some(list) => {
            not_empty_nor_twice("registries", list)?;
            let find = |text: &String| {
                let host = text.parse::<RegistryHost>().ok();
                let found = host.and_then(|host| known().find(|known| *known == host));
                found.ok_or_else(|| BadCluster::NoSuchRegistry(text.clone()))
            };
            list.iter().map(find).collect::<Result<_, _>>()?
        }
    };
    Ok(Options { name: name("name", &table.name, true)?, namespaces, registries, accounts })
}

fn not_empty_nor_twice(key: &'static str, list: &[String]) -> Result<(), BadCluster> {
    let mut before = std::collections::BTreeSet::new();
    let twice = list.iter().find(|one| !before.insert(*one)).cloned();
    if list.is_empty() || twice.is_some() { Err(BadCluster::List { key, twice }) } else { Ok(()) }
}

/// A selector that is none would select everything; what else is in it, the API server judges.
fn selector(key: &'static str, text: Option<&String>) -> Result<Option<String>, BadCluster> {
    let Some(text) = text else { return Ok(None) };
    let is_one = !text.trim().is_empty()
        && text.matches('(').count() == text.matches(')').count()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -_./=!,()".contains(&byte));
    let bad = || BadCluster::Selector { key, text: text.clone() };
    is_one.then(|| Some(text.clone())).ok_or_else(bad)
}

/// What namespaces are called by.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(is_inner) && has_firm_ends(text)
}

/// What most other objects are called by.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label_value(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(is_inner) && has_firm_ends(text)
}

fn has_firm_ends(text: &str) -> bool {
    let is_firm = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_firm(text.as_bytes().first()) && is_firm(text.as_bytes().last())
}
