//! Removes what is ours in a cluster and named by no settings any more; at a `logout`,
//! everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::ListParams;
use tracing::warn;

use super::calls::Call;
use super::content::{OWNER, Whose, whose};
use super::mirror::Item;
use super::notes::{NOTE, Notes};
use super::{Namespaces, Options};
use crate::clock::Clock;
use crate::kubernetes::lease::{self, Election};
use crate::kubernetes::{LeaseName, Link, Refusal};

/// Removes the Secrets of ours whose names are not among `kept`, and takes their names out of
/// service accounts. They are found by our labels. Says how many Secrets there were.
///
/// # Errors
///
/// If one cannot be removed, or if nobody may look for it; the others are removed all the same.
pub async fn sweep(link: &Arc<Link>, owner: &str, kept: &[Options]) -> Result<usize, Refusal> {
    let mut swept = Swept::default();
    let noted = ListParams::default().labels(NOTE);
    for account in accounts(link, None, &noted).await? {
        let mut stays = BTreeSet::new();
        for options in kept {
            if options.selects(link, &account).await? {
                stays.insert(options.name.as_str());
            }
        }
        swept.note(leave(link, owner, account, |name| stays.contains(name)).await.map(|()| false));
    }
    let labelled = ListParams::default().labels(&format!("{OWNER}={owner}"));
    for secret in secrets(link, None, &labelled).await? {
        let name = secret.meta.name.as_deref().unwrap_or_default();
        if !kept.iter().any(|options| options.name == name) {
            swept.note(remove(link, owner, &secret).await);
        }
    }
    swept.end()
}

/// Removes the Secrets of one name, for whoever may not look for our label: in the whole cluster
/// or, for whoever may not do that either, in the namespaces that are named.
///
/// # Errors
///
/// If one cannot be removed, or if nobody may look for any; the others are removed all the same.
pub async fn sweep_named(
    link: &Arc<Link>,
    owner: &str,
    options: &Options,
) -> Result<usize, Refusal> {
    let mut swept = Swept::default();
    match sweep_in(link, owner, options, None, &mut swept).await {
        Err(Refusal::Forbidden(_)) => {}
        Err(refusal) => return Err(refusal),
        Ok(()) => return swept.end(),
    }
    let Namespaces::Named(names) = &options.namespaces else {
        return Err(Refusal::Forbidden(format!("nobody may look for the Secret {}", options.name)));
    };
    let mut closed = Vec::new();
    for name in names {
        match sweep_in(link, owner, options, Some(name), &mut swept).await {
            // With the namespace its Role has gone, too: nothing of ours can be there.
            Err(refusal @ (Refusal::Forbidden(_) | Refusal::NotFound(_))) => {
                closed.push((name, refusal));
            }
            Err(refusal) => return Err(refusal),
            Ok(()) => {}
        }
    }
    if closed.len() == names.len()
        && let Some((_, refusal)) = closed.pop()
    {
        return Err(refusal);
    }
    for (namespace, refusal) in closed {
        warn!(namespace, %refusal, "nobody can look there, or it is not there any more");
    }
    swept.end()
}

/// What was removed, and what went wrong first.
#[derive(Default)]
struct Swept {
    count: usize,
    refusal: Option<Refusal>,
}

impl Swept {
    fn note(&mut self, removed: Result<bool, Refusal>) {
        match removed {
            Ok(removed) => self.count += usize::from(removed),
            Err(refusal) => self.refusal = self.refusal.take().or(Some(refusal)),
        }
    }

    fn end(self) -> Result<usize, Refusal> {
        self.refusal.map_or(Ok(self.count), Err)
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
    let Some(name) = lease else { return remove_all(link, owner, configured).await };
    let me = "logout".to_owned();
    let mut election = Election::new(Arc::clone(link), name.clone(), me, clock.clone());
    election.seize(WHILE_LOGGING_OUT).await?;
    clock.sleep(lease::NOTICED_WITHIN).await;
    let removed = remove_all(link, owner, configured).await;
    election.seize(AFTER_LOGGING_OUT).await?;
    removed
}

async fn remove_all(
    link: &Arc<Link>,
    owner: &str,
    configured: &[Options],
) -> Result<usize, Refusal> {
    match sweep(link, owner, &[]).await {
        Err(Refusal::Forbidden(_)) => {}
        result => return result,
    }
    let mut swept = Swept::default();
    for options in configured {
        match sweep_named(link, owner, options).await {
            Ok(removed) => swept.count += removed,
            Err(refusal) => swept.note(Err(refusal)),
        }
    }
    swept.end()
}

async fn sweep_in(
    link: &Arc<Link>,
    owner: &str,
    options: &Options,
    namespace: Option<&String>,
    swept: &mut Swept,
) -> Result<(), Refusal> {
    let namespace = namespace.map(String::as_str);
    for parameters in options.account_lists() {
        for account in accounts(link, namespace, &parameters).await? {
            let left = leave(link, owner, account, |name| name != options.name).await;
            swept.note(left.map(|()| false));
        }
    }
    let by_name = ListParams::default().fields(&format!("metadata.name={}", options.name));
    for secret in secrets(link, namespace, &by_name).await? {
        swept.note(remove(link, owner, &secret).await);
    }
    Ok(())
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
    account: Item,
    is_kept: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let call = call(link, owner, &account);
    let mut account = account;
    for _ in 0..MOST_TRIES {
        let meta = &account.meta;
        let before = Notes::read(meta.annotations.as_ref().and_then(|notes| notes.get(NOTE)));
        let gone = before.of(owner).filter(|name| !is_kept(name));
        let notes = gone.fold(before.clone(), |notes, name| notes.without(owner, name));
        if notes == before {
            return Ok(());
        }
        let stays = |name: &&String| !before.has(owner, name) || is_kept(name) || notes.name(name);
        let pulls: Vec<String> = account.pulls.iter().filter(stays).cloned().collect();
        let name = meta.name.as_deref().unwrap_or_default();
        let version = meta.resource_version.as_deref().unwrap_or_default();
        match call.change_account(name, version, &pulls, &notes).await {
            Ok(_) | Err(Refusal::NotFound(_)) => return Ok(()),
            // Somebody has changed it meanwhile.
            Err(Refusal::Conflict(_)) => account = call.read_account(name).await?,
            Err(refusal) => return Err(refusal),
        }
    }
    Err(Refusal::Conflict("a service account is changed all the time".to_owned()))
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
    Ok(listed.await?.items.into_iter().map(|one| Item::of(one.metadata)).collect())
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

/// For so long no replica works while everything is removed.
const WHILE_LOGGING_OUT: Duration = Duration::from_mins(10);

/// For so long none works afterwards: until it is uninstalled, or goes by other settings.
const AFTER_LOGGING_OUT: Duration = Duration::from_mins(1);

const MOST_TRIES: u32 = 20;

/// How long a list may take: it is not read in parts.
const LIMIT: Duration = Duration::from_mins(1);
