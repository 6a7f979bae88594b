//! The loops that keep the Secrets of a cluster, and the part that the election has in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{Crew, Task};
use crate::config::Settings;
use crate::credential::Credential;
use crate::kubernetes::lease::{Election, Standing};
use crate::kubernetes::{Access, LeaseName, Link, Refusal};
use crate::sources::Origin;
use crate::status::{self, Failing, Status};
use crate::targets::secrets::{self, Keeper, Options, Recalled, Work};

/// What runs of it.
#[derive(Default)]
pub(super) struct Cluster {
    link: Option<Arc<Link>>,
    keepers: Vec<Kept>,
    /// Whether this replica is to work, where there are several.
    was_told_to_lead: bool,
    /// How the election stands, which may have changed since.
    standing: Option<watch::Receiver<Standing>>,
    /// Over as soon as the lease is lost, whatever else is under way.
    term: CancellationToken,
    /// The same for the loops of issuers.
    asking: Option<CancellationToken>,
    /// What removes what has left the settings.
    sweeping: Option<AbortOnDropHandle<()>>,
}

impl Cluster {
    /// Whether this replica works, where there are several.
    pub(super) fn is_leading(&self) -> bool {
        // The lease is that of the start, whatever the settings say by now.
        let Some(standing) = &self.standing else { return true };
        self.was_told_to_lead && standing.borrow().is_leading
    }
}

/// The loop of one Secret.
struct Kept {
    work: Work,
    /// Nothing is written any more, not even at the end.
    abandon: CancellationToken,
    task: Task,
}

impl Kept {
    fn is_for(&self, settings: &Settings, link: &Arc<Link>, is_leading: bool) -> bool {
        let Work { options, owner, link: before, is_leading: was_leading, remove_expired } =
            &self.work;
        settings.secrets.contains(options)
            && *owner == settings.cluster.owner
            && *was_leading == is_leading
            && *remove_expired == settings.shared.remove_expired
            && Arc::ptr_eq(before, link)
    }
}

/// What one of the loops is to do.
fn work(settings: &Settings, options: &Options, link: &Arc<Link>, is_leading: bool) -> Work {
    Work {
        options: options.clone(),
        owner: settings.cluster.owner.clone(),
        link: Arc::clone(link),
        is_leading,
        remove_expired: settings.shared.remove_expired,
    }
}

impl Crew {
    /// A way to the cluster that calls are counted on.
    pub(super) fn link(&self, access: &Access) -> Arc<Link> {
        let status = Arc::clone(&self.status);
        let count = move |method: &str, outcome: &str| status.metrics.called(method, outcome);
        Link::new(access.clone(), self.clock.clone(), Arc::new(count))
    }

    /// Starts and ends the loops of Secrets as the settings ask for. Gives what is known of the
    /// credentials, with those that stand in Secrets.
    pub(super) async fn follow_cluster(
        &mut self,
        settings: &Settings,
        mut known: BTreeMap<Origin, Credential>,
    ) -> BTreeMap<Origin, Credential> {
        let is_working = self.is_working();
        let access = &settings.cluster.access;
        let before = self.cluster.link.clone();
        let link = match &before {
            Some(link) if link.access() == access => Arc::clone(link),
            _ if settings.secrets.is_empty() && before.is_none() => return known,
            _ => self.link(access),
        };
        let mut gone = Vec::new();
        for kept in std::mem::take(&mut self.cluster.keepers) {
            if kept.is_for(settings, &link, is_working) {
                self.cluster.keepers.push(kept);
                continue;
            }
            let Kept { work, abandon, task } = kept;
            let Work { options, owner, link: before, is_leading, .. } = work;
            if !is_working {
                // Another replica may have begun.
                abandon.cancel();
            }
            task.end(&self.status).await;
            let is_named = settings.secrets.iter().any(|other| other.name == options.name);
            if is_leading && is_working && (!is_named || owner != settings.cluster.owner) {
                gone.push(Gone { link: before, owner, options });
            }
        }
        self.cluster.link = Some(Arc::clone(&link));
        let recalled =
            if is_working { self.recall_secrets(settings, &link).await } else { Vec::new() };
        // That took its time, and another replica may have begun.
        let is_working = self.is_working();
        if is_working {
            let all = recalled.iter().flatten();
            for (origin, hosts) in settings.sources() {
                let Some(name) = origin.fingerprint() else { continue };
                let found = all.clone().filter_map(|one| one.of(&hosts, &name));
                if let Some(found) = found.max_by_key(|one| one.lifetime().expires()) {
                    known.entry(origin).or_insert(found);
                }
            }
        }
        let mut recalled = recalled.into_iter();
        for options in &settings.secrets {
            if self.cluster.keepers.iter().any(|kept| kept.work.options == *options) {
                continue;
            }
            let work = work(settings, options, &link, is_working);
            let keeper = self.keeper(work.clone()).carrying(recalled.next().flatten());
            let abandon = self.cluster.term.child_token();
            let given_up = abandon.clone();
            let task = self.spawn(&self.stop_keeping, |stop| keeper.run(stop, given_up));
            self.cluster.keepers.push(Kept { work, abandon, task });
        }
        if is_working {
            let sweeping = tokio::spawn(sweep(Sweep {
                link,
                owner: settings.cluster.owner.clone(),
                kept: settings.secrets.clone(),
                gone,
            }));
            self.cluster.sweeping = Some(AbortOnDropHandle::new(sweeping));
        }
        known
    }

    /// What stands in the Secrets whose loops are about to begin; nothing where nobody could look,
    /// or where it takes too long: the loop looks again itself.
    async fn recall_secrets(&self, settings: &Settings, link: &Arc<Link>) -> Vec<Option<Recalled>> {
        let until = self.clock.now() + RECALL_LIMIT;
        let mut all = Vec::new();
        for options in &settings.secrets {
            if self.cluster.keepers.iter().any(|kept| kept.work.options == *options) {
                continue;
            }
            let recalling = secrets::recall(link, options, &settings.cluster.owner, &self.clock);
            let recalled = tokio::select! {
                biased;
                recalled = recalling => recalled,
                () = self.clock.sleep_until(until) => Err(Refusal::TimedOut(RECALL_LIMIT)),
            };
            if let Err(error) = &recalled {
                warn!(target_secret = options.name, %error, "what stands in the cluster is not known");
            }
            all.push(recalled.ok().flatten());
        }
        all
    }

    /// From now on this replica works, until the lease is lost: then everything stops at once, also
    /// while new settings are under way.
    fn begin_term(&mut self) {
        let Some(mut standing) = self.cluster.standing.clone() else { return };
        let (term, asking) = (CancellationToken::new(), self.stop_asking.child_token());
        self.cluster.term = term.clone();
        self.cluster.asking = Some(asking.clone());
        tokio::spawn(async move {
            // The election has ended, too, when the daemon ends.
            drop(standing.wait_for(|standing| !standing.is_leading).await);
            term.cancel();
            asking.cancel();
        });
    }

    /// What issuers' loops end with: all of them, or the term of this replica.
    pub(super) fn asking(&self) -> CancellationToken {
        self.cluster.asking.as_ref().unwrap_or(&self.stop_asking).clone()
    }

    pub(super) fn keeper(&mut self, work: Work) -> Keeper {
        let (clock, status) = (self.clock.clone(), Arc::clone(&self.status));
        Keeper::new(work, clock, status, self.wanted.subscribe(), self.dice.fork())
    }

    /// The parts of a single pass.
    pub(in crate::daemon) fn keepers_once(&mut self, settings: &Settings) -> Vec<Keeper> {
        let link = self.link(&settings.cluster.access);
        let secrets = settings.secrets.iter();
        secrets.map(|options| self.keeper(work(settings, options, &link, true))).collect()
    }

    pub(super) async fn end_cluster(&mut self) {
        for kept in std::mem::take(&mut self.cluster.keepers) {
            kept.task.end(&self.status).await;
        }
    }

    /// Takes part in the election. It has to be ended after everything else.
    pub(in crate::daemon) fn stand(&mut self, settings: &Settings) -> Option<Candidate> {
        let name = settings.cluster.lease.clone()?;
        // Of its own, so that no pause that the API server asks for costs the lease.
        let link = self.link(&settings.cluster.access);
        let election = Election::new(link, name.clone(), me(), self.clock.clone());
        let standing = election.standing();
        self.cluster.standing = Some(standing.clone());
        let stop = CancellationToken::new();
        let pulse = self.status.pulse();
        let handle = self.watch(&stop, pulse.clone().watch(election.run(stop.clone())));
        Some(Candidate { name, standing, task: Task { stop, handle, pulse: Some(pulse) } })
    }

    /// Works or stands by, as the election has it.
    pub(in crate::daemon) async fn heed(&mut self, standing: &Standing, settings: &Settings) {
        if self.cluster.was_told_to_lead == standing.is_leading {
            return;
        }
        self.cluster.was_told_to_lead = standing.is_leading;
        if standing.is_leading {
            info!("this replica fetches and writes from now on");
            self.begin_term();
        } else {
            warn!(holder = standing.holder, "this replica stands by from now on");
            self.cluster.sweeping = None;
            self.cluster.term = CancellationToken::new();
            // What others write from now on is newer.
            self.wanted.send_replace(crate::credential::Wanted::new());
        }
        self.follow(settings).await;
        if !standing.is_leading {
            for registry in &settings.registries {
                self.status.set_registry(&registry.host, |registry| {
                    (registry.next, registry.failing) = (None, None);
                });
            }
        }
    }
}

/// Somebody who takes part in an election.
pub(in crate::daemon) struct Candidate {
    name: LeaseName,
    standing: watch::Receiver<Standing>,
    task: Task,
}

impl Candidate {
    /// Waits until it is another standing than the one that was told last; for ever where there
    /// is no election.
    pub(in crate::daemon) async fn changed(candidate: &mut Option<Self>) -> Standing {
        if let Some(Self { standing, .. }) = candidate
            && standing.changed().await.is_ok()
        {
            return standing.borrow_and_update().clone();
        }
        // The election ends by a panic only, which ends the program where it is released.
        std::future::pending().await
    }

    /// Says in the status how the election stands.
    pub(in crate::daemon) fn tell(&self, standing: &Standing, crew: &Crew) {
        let (status, now) = (&crew.status, crew.clock.now());
        let before = status.read(|state| state.election.clone());
        let is_same = before.as_ref().is_some_and(|before| {
            before.is_leading == standing.is_leading && before.holder == standing.holder
        });
        let since = before.as_ref().filter(|_| is_same).and_then(|before| before.since);
        let failing = standing.failing.as_ref().map(|refusal| {
            let before = before.as_ref().and_then(|before| before.failing.as_ref());
            Failing::after(before, now, refusal.kind(), refusal.to_string())
        });
        status.set_election(Some(status::Election {
            lease: self.name.to_string(),
            is_leading: standing.is_leading,
            holder: standing.holder.clone(),
            since: since.or(Some(now)),
            failing,
        }));
    }

    /// Lets go of the lease.
    pub(in crate::daemon) async fn end(self, status: &Status) {
        self.task.end(status).await;
    }
}

/// What is to be removed from the cluster.
struct Sweep {
    link: Arc<Link>,
    owner: String,
    kept: Vec<Options>,
    gone: Vec<Gone>,
}

/// A Secret that has left the settings.
struct Gone {
    link: Arc<Link>,
    owner: String,
    options: Options,
}

/// Removes what the settings name no more, beside everything else.
async fn sweep(sweep: Sweep) {
    let tell = |removed: Result<usize, Refusal>| match removed {
        Ok(0) => {}
        Ok(count) => info!(count, "image pull secrets removed that no settings name"),
        Err(error @ Refusal::Forbidden(_)) => debug!(%error, "nothing swept"),
        Err(error) => warn!(%error, "what no settings name could not be removed"),
    };
    let Sweep { link, owner, kept, gone } = sweep;
    // By name first: that needs fewer rights.
    for Gone { link, owner, options } in gone {
        tell(secrets::sweep_named(&link, &owner, &options).await);
    }
    tell(secrets::sweep(&link, &owner, &kept).await);
}

/// What this replica is called: in a pod its host is its pod, and a pod can be started anew.
fn me() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{}_{:08x}", host.unwrap_or_else(|| "replica".to_owned()), fastrand::u32(..))
}

/// How long the start waits to know what stands in the cluster.
const RECALL_LIMIT: Duration = Duration::from_secs(10);
