//! The credentials that stand in the Secrets of an earlier run, or of another replica: whoever
//! takes over goes on with them, and asks no cloud.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::calls::Call;
use super::content::{Entries, are_same};
use super::mirror::{Kind, Mirror, Told};
use super::places::{Agreed, Places};
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
}

/// What stands in our Secrets; nothing if they do not agree.
///
/// # Errors
///
/// If nobody can look.
pub async fn recall(
    link: &Arc<Link>,
    options: &Options,
    owner: &str,
    clock: &Clock,
) -> Result<Option<Recalled>, Refusal> {
    let mut places = Places::new(options.clone(), owner.to_owned(), clock.clone());
    let mut looked = Err(Refusal::NotFound(String::new()));
    for kind in options.secrets(Scope::Cluster) {
        looked = look(link, kind, &mut places, clock).await;
    }
    if let (Err(Refusal::Forbidden(_)), Namespaces::Named(_)) = (&looked, &options.namespaces) {
        for kind in options.secrets(Scope::Namespace) {
            let result = look(link, kind, &mut places, clock).await;
            // With a namespace its Role has gone.
            looked = if looked.is_ok() { Ok(()) } else { result };
        }
    }
    looked?;
    agreed(link, &places, owner).await
}

/// What the Secrets that are known agree on; nothing if they do not.
///
/// More than half have to say the same, and what is read of some of these has to be the same, too.
/// So whoever may write Secrets in one namespace decides nothing for the others.
pub(super) async fn agreed(
    link: &Arc<Link>,
    places: &Places,
    owner: &str,
) -> Result<Option<Recalled>, Refusal> {
    let (stamp, namespaces) = match places.agreed() {
        Agreed::Nothing => return Ok(Some(Recalled::default())),
        Agreed::Not => return Ok(None),
        Agreed::On(stamp, namespaces) => (stamp, namespaces),
    };
    let mut found: Option<Entries> = None;
    for namespace in namespaces {
        let call = Call {
            link: Arc::clone(link),
            namespace: namespace.into(),
            name: places.name().to_owned(),
            owner: owner.to_owned(),
        };
        let mut entries = call.read(stamp).await?;
        entries.retain(|host, _| places.is_for(host));
        match &found {
            Some(known) if !are_same(known, &entries) => return Ok(None),
            _ => found = Some(entries),
        }
    }
    Ok(found.map(Recalled))
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
