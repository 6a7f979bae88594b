//! The credentials that stand in the Secrets of an earlier run, or of another replica: whoever
//! takes over goes on with them, and asks no cloud.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::calls::Call;
use super::content::Entries;
use super::mirror::{Kind, Mirror, Told};
use super::places::Places;
use super::{Namespaces, Options};
use crate::clock::Clock;
use crate::credential::{Credential, RegistryHost};
use crate::kubernetes::{Link, Refusal};

/// What was found.
#[derive(Default)]
pub struct Recalled(pub(super) Entries);

impl Recalled {
    /// The credential of one of these hosts that is from this origin, the one that lives longest.
    #[must_use]
    pub fn of(&self, hosts: &[RegistryHost], origin: &str) -> Option<Credential> {
        let found = hosts.iter().filter_map(|host| self.0.get(host));
        let found = found.filter(|entry| entry.origin == origin);
        found.map(|entry| &entry.credential).max_by_key(|one| one.lifetime().expires()).cloned()
    }

    /// With what another Secret has, where that lives longer.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (host, entry) in other.0 {
            let ends = |entry: &super::content::Entry| entry.credential.lifetime().expires();
            if self.0.get(&host).is_none_or(|known| ends(known) < ends(&entry)) {
                self.0.insert(host, entry);
            }
        }
        self
    }
}

/// What stands in the newest Secret.
///
/// # Errors
///
/// If nobody can look.
pub async fn recall(
    link: &Arc<Link>,
    options: &Options,
    owner: &str,
    clock: &Clock,
) -> Result<Recalled, Refusal> {
    let mut places = Places::new(options.clone(), owner.to_owned(), clock.clone());
    let mut looked = Err(Refusal::NotFound(String::new()));
    for kind in options.secrets(Scope::Cluster) {
        looked = look(link, kind, &mut places, clock).await;
    }
    if let (Err(Refusal::Forbidden(_)), Namespaces::Named(_)) = (&looked, &options.namespaces) {
        for kind in options.secrets(Scope::Namespace) {
            looked = look(link, kind, &mut places, clock).await;
            if places.newest().is_some() {
                break;
            }
        }
    }
    newest(link, &places, owner).await.unwrap_or_else(|| looked.map(|()| Recalled::default()))
}

/// What the newest of the Secrets that are known has; nothing if there is none.
pub(super) async fn newest(
    link: &Arc<Link>,
    places: &Places,
    owner: &str,
) -> Option<Result<Recalled, Refusal>> {
    let (namespace, stamp) = places.newest()?;
    let call = Call {
        link: Arc::clone(link),
        namespace: namespace.into(),
        name: places.name().to_owned(),
        owner: owner.to_owned(),
    };
    Some(call.read(stamp).await.map(Recalled))
}

/// Looks once at all Secrets of one kind.
async fn look(
    link: &Arc<Link>,
    kind: Kind,
    places: &mut Places,
    clock: &Clock,
) -> Result<(), Refusal> {
    let (tell, mut told) = mpsc::channel(64);
    let mirror = Mirror::new(kind, Arc::clone(link), clock.clone(), fastrand::Rng::new(), tell);
    let listening = async {
        while let Some((_, told)) = told.recv().await {
            if let Told::Is(item) = told {
                places.secret_is(&item);
            }
        }
    };
    tokio::join!(mirror.run_once(), listening).0
}

/// Where something is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In the cluster as a whole.
    Cluster,
    /// In each of the named namespaces, for whoever may look there alone.
    Namespace,
}

impl Options {
    /// How its Secrets are looked at.
    pub(super) fn secrets(&self, scope: Scope) -> Vec<Kind> {
        let kind = |namespace| Kind::Secrets { namespace, name: self.name.clone() };
        self.scoped(scope).into_iter().map(kind).collect()
    }

    pub(super) fn scoped(&self, scope: Scope) -> Vec<Option<String>> {
        match (&self.namespaces, scope) {
            (Namespaces::Named(names), Scope::Namespace) => {
                names.iter().cloned().map(Some).collect()
            }
            _ => vec![None],
        }
    }
}
