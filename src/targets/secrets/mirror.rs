//! Keeps telling what there is of one kind: everything at first, then each change.
//!
//! A list, then a watch from where the list ended; the watch goes on from where it was cut, and
//! where the API server does not know that place any more, everything is listed again.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::ListMeta;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::kubernetes::{CALL_LIMIT, Link, Refusal};

/// What is told of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Namespaces, those with these labels.
    Namespaces(Option<String>),
    /// Secrets of this name, by their metadata alone; in one namespace or in all.
    Secrets {
        /// The one namespace.
        namespace: Option<String>,
        /// Their name.
        name: String,
    },
    /// Service accounts; in one namespace or in all.
    Accounts {
        /// The one namespace.
        namespace: Option<String>,
        /// Of this name.
        name: Option<String>,
        /// With these labels.
        labels: Option<String>,
    },
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) meta: ObjectMeta,
    /// Of a service account: its `imagePullSecrets`.
    pub(super) pulls: Vec<String>,
}

impl Item {
    /// One that is no service account.
    pub(super) fn of(meta: ObjectMeta) -> Self {
        Self { meta, pulls: Vec::new() }
    }
}

/// Where it is.
pub(super) type Key = (Box<str>, Box<str>);

/// What is told.
#[derive(Debug)]
pub(super) enum Told {
    /// It is there, and like this.
    Is(Box<Item>),
    /// It is not there any more.
    Gone(Key),
    /// Everything has been told, and each change will be.
    All,
    /// Nobody knows what has changed since.
    Blind(Refusal),
}

/// Tells what there is of one kind.
pub(super) struct Mirror {
    kind: Kind,
    link: Arc<Link>,
    clock: Clock,
    dice: fastrand::Rng,
    tell: mpsc::Sender<(Kind, Told)>,
    /// What has been told to be there.
    known: BTreeSet<Key>,
    /// From where a watch goes on.
    version: Option<String>,
    /// When everything was listed last.
    listed: SystemTime,
    failures: u32,
}

impl Mirror {
    pub(super) fn new(
        kind: Kind,
        link: Arc<Link>,
        clock: Clock,
        dice: fastrand::Rng,
        tell: mpsc::Sender<(Kind, Told)>,
    ) -> Self {
        let (known, listed) = (BTreeSet::new(), clock.now());
        Self { kind, link, clock, dice, tell, known, version: None, listed, failures: 0 }
    }

    /// Tells until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            // A watch from a place that the API server has not come to says nothing at all: as
            // after its store was set back to an older copy.
            let is_old = self.clock.now() >= self.listed + LISTED_EVERY;
            let result = match self.version.clone().filter(|_| !is_old) {
                None => self.list().await,
                Some(version) => self.follow(&version).await,
            };
            match result {
                Ok(Heard::Somebody) => self.failures = 0,
                Ok(Heard::Nobody) => return,
                // What has changed since is not known any more: it is looked at as a whole.
                Err(Refusal::Gone(_)) if self.version.is_some() => {
                    self.version = None;
                    // Where that is said of what was listed just now, it is not to go in a circle.
                    self.clock.sleep_until(self.listed + LISTED_AGAIN).await;
                }
                Err(refusal) => {
                    self.failures = self.failures.saturating_add(1);
                    let is_lasting = refusal.is_lasting();
                    if !self.say(Told::Blind(refusal)).await {
                        return;
                    }
                    let longest = if is_lasting { LONGEST_LASTING } else { LONGEST_PAUSE };
                    let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10));
                    let pause = doubled.min(longest).mul_f64(0.5 + 0.5 * self.dice.f64());
                    tokio::select! {
                        () = self.clock.sleep(pause) => {}
                        () = self.tell.closed() => return,
                    }
                }
            }
        }
    }

    /// Tells everything, once, and says that it was all.
    pub(super) async fn run_once(mut self) -> Result<(), Refusal> {
        // What changes meanwhile is for the next time.
        loop {
            match self.list().await {
                Err(Refusal::Gone(_)) => {}
                result => return result.map(drop),
            }
        }
    }

    async fn say(&self, told: Told) -> bool {
        self.tell.send((self.kind.clone(), told)).await.is_ok()
    }

    async fn list(&mut self) -> Result<Heard, Refusal> {
        let mut next = None;
        let mut listed = BTreeSet::new();
        let version = loop {
            let (kind, from) = (self.kind.clone(), next.take());
            let page = self
                .link
                .call(LIST_LIMIT, |client| async move { kind.list(client, from).await })
                .await?;
            for item in page.items {
                listed.insert(key(&item.meta));
                // The rest of the list may not come.
                self.known.insert(key(&item.meta));
                if !self.say(Told::Is(Box::new(item))).await {
                    return Ok(Heard::Nobody);
                }
            }
            next = page.meta.continue_.filter(|next| !next.is_empty());
            if next.is_none() {
                break page.meta.resource_version;
            }
        };
        for gone in std::mem::replace(&mut self.known, listed) {
            if !self.known.contains(&gone) && !self.say(Told::Gone(gone)).await {
                return Ok(Heard::Nobody);
            }
        }
        self.version = Some(version.unwrap_or_default());
        self.listed = self.clock.now();
        Ok(Heard::from(self.say(Told::All).await))
    }

    /// Tells what changes, until the watch ends, as each one does.
    async fn follow(&mut self, version: &str) -> Result<Heard, Refusal> {
        let (kind, from) = (self.kind.clone(), version.to_owned());
        let began = self.clock.now();
        let mut events = self
            .link
            .call(CALL_LIMIT, |client| async move { kind.watch(client, &from).await })
            .await?;
        if self.failures > 0 && !self.say(Told::All).await {
            return Ok(Heard::Nobody);
        }
        self.failures = 0;
        loop {
            // A dead connection brings neither an event nor an end.
            let dead = self.clock.sleep_until(began + WATCH_LASTS + WATCH_GRACE);
            let event = tokio::select! {
                () = self.tell.closed() => return Ok(Heard::Nobody),
                () = dead => return Ok(Heard::Somebody),
                event = events.try_next() => event?,
            };
            let Some(event) = event else {
                self.pause_after(began).await;
                return Ok(Heard::Somebody);
            };
            let told = match event {
                WatchEvent::Added(item) | WatchEvent::Modified(item) => {
                    self.version.clone_from(&item.meta.resource_version);
                    self.known.insert(key(&item.meta));
                    Told::Is(Box::new(item))
                }
                WatchEvent::Deleted(item) => {
                    self.version.clone_from(&item.meta.resource_version);
                    let key = key(&item.meta);
                    self.known.remove(&key);
                    Told::Gone(key)
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.version = Some(bookmark.metadata.resource_version);
                    continue;
                }
                WatchEvent::Error(status) => return Err((*status).into()),
            };
            if !self.say(told).await {
                return Ok(Heard::Nobody);
            }
        }
    }

    /// A watch that ends as soon as it begins is not to be asked for in a circle.
    async fn pause_after(&self, began: SystemTime) {
        self.clock.sleep_until(began + FIRST_PAUSE).await;
    }
}

/// Whether anybody listened.
enum Heard {
    Somebody,
    Nobody,
}

impl From<bool> for Heard {
    fn from(is_heard: bool) -> Self {
        if is_heard { Self::Somebody } else { Self::Nobody }
    }
}

fn key(meta: &ObjectMeta) -> Key {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    (text(&meta.namespace), text(&meta.name))
}

/// A part of a list.
struct Page {
    items: Vec<Item>,
    meta: ListMeta,
}

type Events = BoxStream<'static, kube::Result<WatchEvent<Item>>>;

impl Kind {
    /// The one namespace that it is about, if it is about one.
    pub(super) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespaces(_) => None,
            Self::Secrets { namespace, .. } | Self::Accounts { namespace, .. } => {
                namespace.as_deref()
            }
        }
    }

    fn selectors(&self) -> (Option<String>, Option<String>) {
        let named = |name: &String| format!("metadata.name={name}");
        match self {
            Self::Namespaces(labels) => (labels.clone(), None),
            Self::Secrets { name, .. } => (None, Some(named(name))),
            Self::Accounts { name, labels, .. } => (labels.clone(), name.as_ref().map(named)),
        }
    }

    async fn list(self, client: Client, from: Option<String>) -> kube::Result<Page> {
        let (label_selector, field_selector) = self.selectors();
        let parameters = ListParams {
            label_selector,
            field_selector,
            limit: Some(PAGE),
            continue_token: from,
            ..ListParams::default()
        };
        Ok(match self {
            Self::Namespaces(_) => {
                let list = Api::<Namespace>::all(client).list_metadata(&parameters).await?;
                let items = list.items.into_iter().map(|one| Item::of(one.metadata));
                Page { items: items.collect(), meta: list.metadata }
            }
            Self::Secrets { namespace, .. } => {
                let secrets: Api<Secret> = scoped(client, namespace.as_deref());
                let list = secrets.list_metadata(&parameters).await?;
                let items = list.items.into_iter().map(|one| Item::of(one.metadata));
                Page { items: items.collect(), meta: list.metadata }
            }
            Self::Accounts { namespace, .. } => {
                let accounts: Api<ServiceAccount> = scoped(client, namespace.as_deref());
                let list = accounts.list(&parameters).await?;
                let items = list.items.into_iter().map(Item::from);
                Page { items: items.collect(), meta: list.metadata }
            }
        })
    }

    async fn watch(self, client: Client, from: &str) -> kube::Result<Events> {
        let (label_selector, field_selector) = self.selectors();
        let parameters = WatchParams {
            label_selector,
            field_selector,
            timeout: u32::try_from(WATCH_LASTS.as_secs()).ok(),
            ..WatchParams::default()
        };
        Ok(match self {
            Self::Namespaces(_) => {
                let namespaces = Api::<Namespace>::all(client);
                let events = namespaces.watch_metadata(&parameters, from).await?;
                events.map_ok(|event| map(event, |one| Item::of(one.metadata))).boxed()
            }
            Self::Secrets { namespace, .. } => {
                let secrets: Api<Secret> = scoped(client, namespace.as_deref());
                let events = secrets.watch_metadata(&parameters, from).await?;
                events.map_ok(|event| map(event, |one| Item::of(one.metadata))).boxed()
            }
            Self::Accounts { namespace, .. } => {
                let accounts: Api<ServiceAccount> = scoped(client, namespace.as_deref());
                let events = accounts.watch(&parameters, from).await?;
                events.map_ok(|event| map(event, Item::from)).boxed()
            }
        })
    }
}

impl From<ServiceAccount> for Item {
    fn from(account: ServiceAccount) -> Self {
        let pulls = account.image_pull_secrets.into_iter().flatten();
        Self { meta: account.metadata, pulls: pulls.map(|pull| pull.name).collect() }
    }
}

pub(super) fn scoped<K>(client: Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        None => Api::all(client),
        Some(namespace) => Api::namespaced(client, namespace),
    }
}

fn map<T>(event: WatchEvent<T>, item: impl Fn(T) -> Item) -> WatchEvent<Item> {
    match event {
        WatchEvent::Added(one) => WatchEvent::Added(item(one)),
        WatchEvent::Modified(one) => WatchEvent::Modified(item(one)),
        WatchEvent::Deleted(one) => WatchEvent::Deleted(item(one)),
        WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
        WatchEvent::Error(status) => WatchEvent::Error(status),
    }
}

/// How many are listed at once, so that neither side has all of them in its memory.
const PAGE: u32 = 500;

/// How long a page may take.
const LIST_LIMIT: Duration = Duration::from_mins(1);

/// How long a watch lasts before it is begun anew: a connection that died without a word is
/// noticed by then.
const WATCH_LASTS: Duration = Duration::from_mins(4);
const WATCH_GRACE: Duration = Duration::from_secs(20);

/// How often everything is listed, whatever a watch says.
const LISTED_EVERY: Duration = Duration::from_mins(30);

/// And how often at most because a watch cannot go on.
const LISTED_AGAIN: Duration = Duration::from_secs(2);

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After what somebody has to do something about.
const LONGEST_LASTING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
