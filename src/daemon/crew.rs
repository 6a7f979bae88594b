//! The loops that run, each with what it was started for: new settings end those that
//! have no place in them, start what is new, and leave the others alone.

#[cfg(feature = "kubernetes")]
mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

#[cfg(feature = "kubernetes")]
pub(super) use self::cluster::Candidate;
#[cfg(feature = "kubernetes")]
use self::cluster::Cluster;
use crate::clock::Clock;
use crate::config::Settings;
use crate::credential::{Credential, RegistryHost, Wanted};
use crate::hooks::{self, Hook};
use crate::metrics::Metrics;
use crate::network::Network;
use crate::refresh::{Assignment, Refresh};
use crate::registry::{Registries, Verifier};
use crate::sources::Origin;
use crate::status::{Named, Pulse, Registry, Status, TargetName};
use crate::targets::memory::{Memory, Remembered};
use crate::targets::obstacles::Reader;
use crate::targets::{self, Options, Shared, Target};

/// All loops of a daemon.
pub(super) struct Crew {
    pub(super) status: Arc<Status>,
    clock: Clock,
    wanted: watch::Sender<Wanted>,
    /// Makes every issuer be asked now.
    pub(super) ask: watch::Sender<()>,
    turns: Arc<Semaphore>,
    dice: fastrand::Rng,
    issuers: BTreeMap<Origin, Asked>,
    files: Vec<Kept>,
    #[cfg(feature = "kubernetes")]
    cluster: Cluster,
    hooks: Vec<(hooks::Options, Task)>,
    /// Cancelled when a loop ends that should not.
    broken: CancellationToken,
    /// Cancelled when all of the issuers' loops are to end, all of the targets', and all of
    /// the hooks'.
    stop_asking: CancellationToken,
    stop_keeping: CancellationToken,
    stop_telling: CancellationToken,
}

/// The loop of one issuer.
struct Asked {
    hosts: Vec<RegistryHost>,
    limit: Duration,
    is_verified: bool,
    network: Network,
    task: Task,
}

/// The loop of one target.
struct Kept {
    options: Options,
    shared: Shared,
    task: Task,
}

struct Task {
    stop: CancellationToken,
    handle: JoinHandle<()>,
    /// Of a loop that has to turn.
    pulse: Option<Pulse>,
}

impl Crew {
    pub(super) fn new(clock: &Clock, metrics: Metrics) -> Self {
        Self {
            status: Arc::new(Status::with(clock.clone(), metrics)),
            clock: clock.clone(),
            wanted: watch::Sender::new(Wanted::new()),
            ask: watch::Sender::new(()),
            turns: Arc::new(Semaphore::new(MOST_AT_ONCE)),
            dice: fastrand::Rng::new(),
            issuers: BTreeMap::new(),
            files: Vec::new(),
            #[cfg(feature = "kubernetes")]
            cluster: Cluster::default(),
            hooks: Vec::new(),
            broken: CancellationToken::new(),
            stop_asking: CancellationToken::new(),
            stop_keeping: CancellationToken::new(),
            stop_telling: CancellationToken::new(),
        }
    }

    /// Lets the status speak of what the settings name, and of nothing else.
    pub(super) fn introduce(&self, settings: &Settings) {
        let registries = settings.registries.iter();
        let targets = settings.targets.iter();
        let secrets = settings.secrets.iter().map(|secret| Named {
            name: TargetName::Secret(secret.name.clone()),
            reader: Reader::Kubelet.as_str(),
            hosts: Some(secret.registries.iter().cloned().collect()),
        });
        self.status.follow(
            registries.map(|registry| (registry.host.clone(), registry.origin.clone())),
            targets.map(|target| Named::file(&target.path, target.reader.as_str())).chain(secrets),
            settings.hooks.iter().map(|hook| hook.name.clone()),
        );
    }

    /// The parts of a single pass.
    pub(super) fn once(&mut self, settings: &Settings) -> (Vec<Refresh>, Vec<Target>, Vec<Hook>) {
        self.introduce(settings);
        let remembered = remembered(&settings.shared.memory);
        // Whoever runs it once looks at its exit code, and at nothing later.
        let is_verified = settings.verify.unwrap_or(true);
        let sources = settings.sources().into_iter();
        let refreshes = sources
            .map(|(origin, hosts)| self.refresh(settings, origin, hosts, is_verified, None))
            .collect();
        let targets =
            settings.targets.iter().map(|options| self.target(settings, options, &remembered));
        let targets = targets.collect();
        let hooks = settings.hooks.iter().map(|options| {
            Hook::new(options.clone(), self.clock.clone(), Arc::clone(&self.status))
        });
        (refreshes, targets, hooks.collect())
    }

    /// The registries that are asked for, by issuer: none where another replica does the work.
    fn sources(&self, settings: &Settings) -> BTreeMap<Origin, Vec<RegistryHost>> {
        if self.is_working() { settings.sources() } else { BTreeMap::new() }
    }

    #[cfg(feature = "kubernetes")]
    fn is_working(&self) -> bool {
        self.cluster.is_leading()
    }

    #[cfg(not(feature = "kubernetes"))]
    #[expect(clippy::unused_self, reason = "with the feature it depends on the election")]
    fn is_working(&self) -> bool {
        true
    }

    #[cfg(not(feature = "kubernetes"))]
    fn asking(&self) -> CancellationToken {
        self.stop_asking.clone()
    }

    /// Makes the loops those that the settings ask for.
    pub(super) async fn follow(&mut self, settings: &Settings) {
        let hooks = std::mem::take(&mut self.hooks);
        for (options, task) in hooks {
            if settings.hooks.contains(&options) {
                self.hooks.push((options, task));
            } else {
                task.end(&self.status).await;
            }
        }
        let known = self.let_go(settings).await;
        self.introduce(settings);
        let (remembered, recalled) = self.recall(settings).await;
        #[cfg(feature = "kubernetes")]
        let recalled = self.follow_cluster(settings, recalled).await;
        self.take_on(settings, known, &remembered, recalled);
    }

    /// What earlier runs wrote, and what is still good of it for issuers that are new here.
    /// The disk may take its time, and nobody else is to wait for it.
    async fn recall(&self, settings: &Settings) -> (Remembered, BTreeMap<Origin, Credential>) {
        let mut sources = self.sources(settings);
        sources.retain(|origin, _| !self.issuers.contains_key(origin));
        let (targets, clock) = (settings.targets.clone(), self.clock.clone());
        let memory = settings.shared.memory.clone();
        let recalling = tokio::task::spawn_blocking(move || {
            let remembered = remembered(&memory);
            let recall = |(origin, hosts): (Origin, Vec<RegistryHost>)| {
                let name = origin.fingerprint()?;
                let found = targets::recall(&targets, &remembered, &hosts, &name, &clock)?;
                Some((origin, found))
            };
            let recalled = sources.into_iter().filter_map(recall).collect();
            (remembered, recalled)
        });
        // Only a panic gets here, which ends the program where it is released.
        recalling.await.unwrap_or_default()
    }

    /// Ends the loops that have no place in the settings, and logs out what is gone. Gives
    /// what the ended ones had.
    async fn let_go(&mut self, settings: &Settings) -> BTreeMap<Origin, Credential> {
        let sources = self.sources(settings);
        let is_verified = is_verified(settings);
        let mut known = BTreeMap::new();
        let mut gone_hosts: Vec<RegistryHost> = Vec::new();
        let issuers = std::mem::take(&mut self.issuers);
        for (origin, asked) in issuers {
            let hosts = sources.get(&origin);
            let is_same = asked.limit == settings.fetch_timeout
                && asked.is_verified == is_verified
                && asked.network == settings.network;
            if hosts == Some(&asked.hosts) && is_same {
                self.issuers.insert(origin, asked);
                continue;
            }
            asked.task.end(&self.status).await;
            let credential =
                asked.hosts.iter().find_map(|host| self.wanted.borrow().get(host).cloned());
            known.extend(credential.map(|credential| (origin, credential)));
            gone_hosts.extend(asked.hosts);
        }
        let is_gone = |host: &RegistryHost| {
            !settings.registries.iter().any(|registry| registry.host == *host)
        };
        gone_hosts.retain(is_gone);
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.len();
            wanted.retain(|host, _| !is_gone(host));
            wanted.len() != before
        });
        let is_logged_out = |host: &str| gone_hosts.iter().any(|gone| gone.as_str() == host);
        for kept in std::mem::take(&mut self.files) {
            let mut targets = settings.targets.iter();
            let options = targets.find(|options| options.path == kept.options.path);
            if options == Some(&kept.options) && settings.shared == kept.shared {
                if !gone_hosts.is_empty()
                    && log_out(&kept.options, &kept.shared, is_logged_out).await
                {
                    let now = self.clock.now();
                    self.status.set_target(&kept.options.path.as_path().into(), |target| {
                        target.wrote(now);
                    });
                }
                self.files.push(kept);
                continue;
            }
            let Kept { options: before, shared, task } = kept;
            task.end(&self.status).await;
            if options.is_none() || !gone_hosts.is_empty() {
                log_out(&before, &shared, |host| options.is_none() || is_logged_out(host)).await;
            }
        }
        known
    }

    /// Starts the loops that are missing.
    fn take_on(
        &mut self,
        settings: &Settings,
        mut known: BTreeMap<Origin, Credential>,
        remembered: &Remembered,
        mut recalled: BTreeMap<Origin, Credential>,
    ) {
        // Before the targets' loops, whose first writes are to be told.
        for options in &settings.hooks {
            if !self.hooks.iter().any(|(known, _)| known == options) {
                let (clock, status) = (self.clock.clone(), Arc::clone(&self.status));
                let hook = Hook::new(options.clone(), clock, status);
                // It waits for a program, and is no loop that has to turn.
                let stop = self.stop_telling.child_token();
                let handle = self.watch(&stop, hook.run(stop.clone()));
                self.hooks.push((options.clone(), Task { stop, handle, pulse: None }));
            }
        }
        let is_verified = is_verified(settings);
        for (origin, hosts) in self.sources(settings) {
            if !self.issuers.contains_key(&origin) {
                let credential = known.remove(&origin).or_else(|| recalled.remove(&origin));
                let (whom, all) = (origin.clone(), hosts.clone());
                let refresh = self.refresh(settings, whom, all, is_verified, credential);
                let asked = self.ask.subscribe();
                let task = self.spawn(&self.asking(), |stop| refresh.run(stop, asked));
                let (limit, network) = (settings.fetch_timeout, settings.network.clone());
                self.issuers.insert(origin, Asked { hosts, limit, is_verified, network, task });
            }
        }
        for options in &settings.targets {
            if !self.files.iter().any(|kept| kept.options.path == options.path) {
                let target = self.target(settings, options, remembered);
                let task = self.spawn(&self.stop_keeping, |stop| target.run(stop));
                let (options, shared) = (options.clone(), settings.shared.clone());
                self.files.push(Kept { options, shared, task });
            }
        }
    }

    /// Waits until a loop ends by itself, which none should.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Ends all loops: the targets after the issuers, and they write what these brought; then
    /// the hooks, which tell it.
    pub(super) async fn end(&mut self) {
        self.stop_asking.cancel();
        for (_, asked) in std::mem::take(&mut self.issuers) {
            asked.task.end(&self.status).await;
        }
        self.stop_keeping.cancel();
        for kept in std::mem::take(&mut self.files) {
            kept.task.end(&self.status).await;
        }
        #[cfg(feature = "kubernetes")]
        self.end_cluster().await;
        self.stop_telling.cancel();
        for (_, task) in std::mem::take(&mut self.hooks) {
            task.end(&self.status).await;
        }
    }

    fn refresh(
        &mut self,
        settings: &Settings,
        origin: Origin,
        hosts: Vec<RegistryHost>,
        is_verified: bool,
        known: Option<Credential>,
    ) -> Refresh {
        let network = &settings.network;
        let verifier = || Arc::new(Registries::new(network.clone())) as Arc<dyn Verifier>;
        let assignment = Assignment {
            source: origin.source(&self.clock, network),
            origin,
            hosts,
            limit: settings.fetch_timeout,
            turns: Arc::clone(&self.turns),
            verifier: is_verified.then(verifier),
        };
        if !is_verified {
            for host in &assignment.hosts {
                self.status.set_registry(host, Registry::forget_verification);
            }
        }
        let (clock, status) = (self.clock.clone(), Arc::clone(&self.status));
        let refresh =
            Refresh::new(assignment, clock, status, self.wanted.clone(), self.dice.fork());
        match known {
            Some(credential) => refresh.going_on_with(credential),
            None => refresh,
        }
    }

    fn target(
        &mut self,
        settings: &Settings,
        options: &Options,
        remembered: &Remembered,
    ) -> Target {
        Target::new(
            options.clone(),
            settings.shared.clone(),
            self.clock.clone(),
            Arc::clone(&self.status),
            self.wanted.subscribe(),
            self.dice.fork(),
        )
        .remembering(remembered)
    }

    /// Starts a loop that ends with `all` of its kind, or by itself.
    fn spawn<F>(&self, all: &CancellationToken, work: impl FnOnce(CancellationToken) -> F) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, pulse) = (all.child_token(), self.status.pulse());
        let work = pulse.clone().watch(work(stop.clone()));
        let handle = self.watch(&stop, work);
        Task { stop, handle, pulse: Some(pulse) }
    }

    /// Starts something that must not end before `stop`.
    pub(super) fn watch(
        &self,
        stop: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (is_meant, broken) = (stop.clone(), self.broken.clone().drop_guard());
        tokio::spawn(async move {
            work.await;
            if is_meant.is_cancelled() {
                broken.disarm();
            }
        })
    }
}

impl Task {
    /// Ends it in order: a write under way is finished.
    async fn end(self, status: &Status) {
        self.stop.cancel();
        // One that panicked has ended too.
        let _ = self.handle.await;
        if let Some(pulse) = &self.pulse {
            status.end(pulse);
        }
    }
}

/// A daemon is looked at for days, and asks only if it is told to.
fn is_verified(settings: &Settings) -> bool {
    settings.verify.unwrap_or(false)
}

/// What was written in earlier runs.
fn remembered(memory: &Memory) -> Remembered {
    memory.load().unwrap_or_else(|error| {
        warn!(%error, "what was written before is not known");
        Remembered::default()
    })
}

/// Takes what we wrote for these hosts out of a target. Says whether there was any.
async fn log_out(options: &Options, shared: &Shared, is_gone: impl Fn(&str) -> bool) -> bool {
    let path = options.path.display();
    if !shared.memory.is_kept() {
        warn!(target_file = %path, "without a folder for `state` nothing can be logged out");
        return false;
    }
    match targets::log_out(options, &shared.memory, is_gone).await {
        Ok(Ok(true)) => {
            info!(target_file = %path, "logged out what the settings no longer name");
            return true;
        }
        Ok(Ok(false)) => {}
        Ok(Err(error)) => warn!(target_file = %path, %error, "not logged out"),
        Err(error) => warn!(target_file = %path, %error, "not logged out"),
    }
    false
}

/// How many issuers are asked at once; with a thousand registries in as many regions and
/// accounts it takes seconds, and nobody's limit is run into.
const MOST_AT_ONCE: usize = 16;
