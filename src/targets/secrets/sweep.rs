//! Removes what is ours in a cluster and named by no settings any more; at a `logout`,
//! everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::ListParams;

use super::calls::Call;
use super::content::{OWNER, Whose, whose};
use super::mirror::Item;
use super::places::NOTE;
use super::recall::Scope;
use super::{Namespaces, Options};
use crate::clock::Clock;
use crate::kubernetes::lease::{self, Election};
use crate::kubernetes::{LeaseName, Link, Refusal};

/// Removes the Secrets of ours whose names are not among `kept`, and takes their names out of
/// service accounts. They are found by our label. Says how many Secrets there were.
///
/// # Errors
///
/// If one cannot be removed, or if nobody may look for it.
pub async fn sweep(link: &Arc<Link>, owner: &str, kept: &[Options]) -> Result<usize, Refusal> {
    let labels = ListParams::default().labels(&format!("{OWNER}={owner}"));
    let is_kept = |name: &str| kept.iter().any(|options| options.name == name);
    for account in accounts(link, None, &labels).await? {
        let mut stays = BTreeSet::new();
        for options in kept {
            if options.selects(link, &account).await? {
                stays.insert(options.name.as_str());
            }
        }
        leave(link, owner, &account, |name| stays.contains(name)).await?;
    }
    let mut removed = 0;
    for secret in secrets(link, None, &labels).await? {
        if !is_kept(secret.meta.name.as_deref().unwrap_or_default()) {
            removed += usize::from(remove(link, owner, &secret).await?);
        }
    }
    Ok(removed)
}

/// Removes the Secrets of one name, for whoever may not look for our label: in the whole cluster
/// or, for whoever may not do that either, in the namespaces that are named.
///
/// # Errors
///
/// If one cannot be removed, or if nobody may look for it.
pub async fn sweep_named(
    link: &Arc<Link>,
    owner: &str,
    options: &Options,
) -> Result<usize, Refusal> {
    match sweep_in(link, owner, options, Scope::Cluster).await {
        Err(Refusal::Forbidden(_)) if matches!(options.namespaces, Namespaces::Named(_)) => {
            sweep_in(link, owner, options, Scope::Namespace).await
        }
        result => result,
    }
}

/// Removes all that is ours. Where there is a lease, it is taken first and kept for a while, so
/// that replicas that still run do not make everything again.
///
/// # Errors
///
/// If something cannot be removed.
pub async fn log_out(
    link: &Arc<Link>,
    lease: Option<&LeaseName>,
    owner: &str,
    configured: &[Options],
    clock: &Clock,
) -> Result<usize, Refusal> {
    if let Some(name) = lease {
        let me = "logout".to_owned();
        let mut election = Election::new(Arc::clone(link), name.clone(), me, clock.clone());
        election.seize(LOGGED_OUT_FOR).await?;
        clock.sleep(lease::NOTICED_WITHIN).await;
    }
    match sweep(link, owner, &[]).await {
        Err(Refusal::Forbidden(_)) => {}
        result => return result,
    }
    let mut removed = 0;
    for options in configured {
        removed += sweep_named(link, owner, options).await?;
    }
    Ok(removed)
}

async fn sweep_in(
    link: &Arc<Link>,
    owner: &str,
    options: &Options,
    scope: Scope,
) -> Result<usize, Refusal> {
    let mut removed = 0;
    for namespace in options.scoped(scope) {
        let namespace = namespace.as_deref();
        for parameters in options.account_lists() {
            for account in accounts(link, namespace, &parameters).await? {
                leave(link, owner, &account, |name| name != options.name).await?;
            }
        }
        let by_name = ListParams::default().fields(&format!("metadata.name={}", options.name));
        for secret in secrets(link, namespace, &by_name).await? {
            removed += usize::from(remove(link, owner, &secret).await?);
        }
    }
    Ok(removed)
}

impl Options {
    /// Whether a service account is one of those that the settings name.
    async fn selects(&self, link: &Arc<Link>, account: &Item) -> Result<bool, Refusal> {
        let name = account.meta.name.as_deref().unwrap_or_default();
        match &self.accounts {
            super::Accounts::None => Ok(false),
            super::Accounts::Named(names) => Ok(names.iter().any(|named| named == name)),
            // Only the API server knows what its selectors mean.
            super::Accounts::Selected(labels) => {
                let namespace = account.meta.namespace.as_deref();
                let one = ListParams::default().labels(labels);
                let one = one.fields(&format!("metadata.name={name}"));
                Ok(!accounts(link, namespace, &one).await?.is_empty())
            }
        }
    }

    fn account_lists(&self) -> Vec<ListParams> {
        match &self.accounts {
            super::Accounts::None => Vec::new(),
            super::Accounts::Named(names) => {
                let by_name = |name| ListParams::default().fields(&format!("metadata.name={name}"));
                names.iter().map(by_name).collect()
            }
            super::Accounts::Selected(labels) => vec![ListParams::default().labels(labels)],
        }
    }
}

/// Takes out of a service account the names that are in it because of us, but those kept.
async fn leave(
    link: &Arc<Link>,
    owner: &str,
    account: &Item,
    is_kept: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let meta = &account.meta;
    let note = meta.annotations.as_ref().and_then(|notes| notes.get(NOTE));
    let ours: Vec<&str> = note.iter().flat_map(|text| text.split(',')).collect();
    let (kept, gone): (Vec<&str>, Vec<&str>) = ours.into_iter().partition(|name| is_kept(name));
    if gone.is_empty() {
        return Ok(());
    }
    let is_left = |name: &&String| !gone.contains(&name.as_str());
    let pulls: Vec<String> = account.pulls.iter().filter(is_left).cloned().collect();
    let call = call(link, owner, account);
    let name = meta.name.as_deref().unwrap_or_default();
    let version = meta.resource_version.as_deref().unwrap_or_default();
    match call.change_account(name, version, &pulls, &kept).await {
        Ok(_) | Err(Refusal::NotFound(_)) => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// Removes a Secret if we made it. Says whether we did.
async fn remove(link: &Arc<Link>, owner: &str, secret: &Item) -> Result<bool, Refusal> {
    if !matches!(whose(&secret.meta, owner), Whose::Ours { is_made_by_us: true, .. }) {
        return Ok(false);
    }
    let uid = secret.meta.uid.as_deref().unwrap_or_default();
    match call(link, owner, secret).remove(uid).await {
        Ok(_) => Ok(true),
        // Somebody was faster.
        Err(Refusal::NotFound(_) | Refusal::Conflict(_)) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

fn call(link: &Arc<Link>, owner: &str, item: &Item) -> Call {
    Call {
        link: Arc::clone(link),
        namespace: item.meta.namespace.as_deref().unwrap_or_default().into(),
        name: item.meta.name.clone().unwrap_or_default(),
        owner: owner.to_owned(),
    }
}

async fn secrets(
    link: &Arc<Link>,
    namespace: Option<&str>,
    parameters: &ListParams,
) -> Result<Vec<Item>, Refusal> {
    let listed = link.call(LIMIT, |client| async move {
        let secrets: Api<Secret> = super::mirror::scoped(client, namespace);
        secrets.list_metadata(parameters).await
    });
    let items = listed.await?.items.into_iter();
    Ok(items.map(|one| Item { meta: one.metadata, pulls: Vec::new() }).collect())
}

async fn accounts(
    link: &Arc<Link>,
    namespace: Option<&str>,
    parameters: &ListParams,
) -> Result<Vec<Item>, Refusal> {
    let listed = link.call(LIMIT, |client| async move {
        let accounts: Api<ServiceAccount> = super::mirror::scoped(client, namespace);
        accounts.list(parameters).await
    });
    Ok(listed.await?.items.into_iter().map(Item::from).collect())
}

/// For so long no replica works after a `logout`: until it is uninstalled.
const LOGGED_OUT_FOR: std::time::Duration = std::time::Duration::from_mins(10);

/// How long a list may take: it is not read in parts.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);
