//! The loop that keeps one Secret as it should be, in every namespace where it should be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::calls::Call;
use super::content::{Content, Entries, Entry, are_same};
use super::mirror::{Kind, Mirror, Told};
use super::places::{Done, Places, Summary, Task};
use super::recall::{Recalled, Scope, agreed};
use super::{Accounts, Namespaces, Options};
use crate::clock::Clock;
use crate::credential::{RegistryHost, Wanted};
use crate::kubernetes::{Link, Refusal};
use crate::schedule;
use crate::status::{Failing, InTheWay, Status, TargetName};
use crate::trouble;

/// What one keeper is to do, and with whom.
#[derive(Clone)]
pub struct Work {
    /// What the settings say.
    pub options: Options,
    /// Whose the Secrets are.
    pub owner: String,
    /// The way to the cluster.
    pub link: Arc<Link>,
    /// Whether it may change anything; else it only watches, as another replica does the work.
    pub is_leading: bool,
    /// Whether an entry that has expired is taken out.
    pub remove_expired: bool,
}

/// Keeps one Secret as it should be.
pub struct Keeper {
    work: Work,
    name: TargetName,
    clock: Clock,
    status: Arc<Status>,
    wanted: watch::Receiver<Wanted>,
    dice: fastrand::Rng,
    places: Places,
    /// What stood in the Secrets before; until it is known, none of them is written with less than
    /// all that is to be in it.
    carried: Option<Entries>,
    /// Whether nobody can say what stood there.
    do_not_agree: bool,
    tell: mpsc::Sender<(Kind, Told)>,
    told: mpsc::Receiver<(Kind, Told)>,
    sights: BTreeMap<Kind, Sight>,
    scope: Scope,
    /// Nothing is changed any more from then on.
    given_up: CancellationToken,
    tasks: JoinSet<(Box<str>, Task, Result<Done, Refusal>)>,
    /// What is wrong with the cluster as a whole, and when it is tried again.
    trouble: Option<(Refusal, SystemTime)>,
    failures: u32,
    /// Since it was idle last.
    pass: Pass,
    /// By the monotonic clock.
    told_last: Option<Duration>,
}

/// What is seen of one kind.
struct Sight {
    is_seeing: bool,
    blind: Option<Refusal>,
    /// Ends with us.
    _mirror: Option<AbortOnDropHandle<()>>,
}

impl Sight {
    fn new(mirror: Option<AbortOnDropHandle<()>>) -> Self {
        Self { is_seeing: false, blind: None, _mirror: mirror }
    }
}

/// What was done since all was as it should be.
#[derive(Default)]
struct Pass {
    written: usize,
    removed: usize,
    accounts: usize,
    repaired: usize,
}

impl Keeper {
    /// A loop that has not begun.
    #[must_use]
    pub fn new(
        work: Work,
        clock: Clock,
        status: Arc<Status>,
        wanted: watch::Receiver<Wanted>,
        dice: fastrand::Rng,
    ) -> Self {
        let (tell, told) = mpsc::channel(MOST_UNHEARD);
        let places = Places::new(work.options.clone(), work.owner.clone(), clock.clone());
        Self {
            name: TargetName::Secret(work.options.name.clone()),
            work,
            clock,
            status,
            wanted,
            dice,
            places,
            carried: None,
            do_not_agree: false,
            tell,
            told,
            sights: BTreeMap::new(),
            scope: Scope::Cluster,
            given_up: CancellationToken::new(),
            tasks: JoinSet::new(),
            trouble: None,
            failures: 0,
            pass: Pass::default(),
            told_last: None,
        }
    }

    /// With what stood in the Secrets before.
    #[must_use]
    pub fn carrying(mut self, recalled: Option<Recalled>) -> Self {
        self.carried = recalled.map(|recalled| recalled.0);
        self
    }

    /// Keeps it as it should be until `stop`. What was fetched by then is written, if that takes a
    /// moment, but nothing any more if that is given up.
    pub async fn run(mut self, stop: CancellationToken, given_up: CancellationToken) {
        self.given_up = given_up.clone();
        let mut has_given_up = false;
        let mut looks = self.status.look_wanted();
        for kind in self.kinds() {
            self.mirror(kind);
        }
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.turn() => {}
            }
            let (clock, wake) = (self.clock.clone(), self.wake_at());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = given_up.cancelled(), if !has_given_up => {
                    // It is ended in a moment. Until then it only watches.
                    has_given_up = true;
                    self.tasks = JoinSet::new();
                }
                Some(told) = self.told.recv() => self.hear_all(told),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.settle(done.ok());
                }
                Ok(()) = self.wanted.changed() => self.clock.sleep(COALESCE).await,
                Ok(()) = looks.changed() => self.told_last = None,
                () = clock.sleep_until(wake) => {}
            }
        }
        let clock_at_the_end = self.clock.clone();
        let finished = async {
            self.refresh();
            self.dispatch();
            while let Some(done) = self.tasks.join_next().await {
                self.settle(done.ok());
                self.dispatch();
            }
        };
        // Whoever comes next goes on with what is not done by then.
        tokio::select! {
            biased;
            () = given_up.cancelled() => {}
            () = finished => {}
            () = clock_at_the_end.sleep(LAST_MOMENT) => {}
        }
    }

    /// Makes it as it should be, once. Says whether it is.
    pub async fn run_once(&mut self) -> bool {
        let mut kinds = self.kinds();
        while let Some(kind) = kinds.pop() {
            // Only of what is looked at is anything heard.
            self.sights.insert(kind.clone(), Sight::new(None));
            match self.look_once(kind.clone()).await {
                Ok(()) => self.see(kind),
                Err(refusal) if self.can_look_closer(&kind, &refusal) => {
                    self.scope = Scope::Namespace;
                    kinds = self.kinds();
                    self.sights.clear();
                }
                Err(refusal) => {
                    let is_for_all =
                        kind.namespace().is_none() && !matches!(kind, Kind::Accounts { .. });
                    let is_all = is_for_all || refusal.is_of_the_cluster();
                    self.blind(kind, refusal);
                    if is_all {
                        break;
                    }
                }
            }
        }
        for _ in 0..MOST_ROUNDS_ONCE {
            self.turn().await;
            while let Some(done) = self.tasks.join_next().await {
                self.settle(done.ok());
                self.turn().await;
            }
            let next = self.places.next_at().filter(|_| self.places.has_faults());
            let again = next.max(self.trouble.as_ref().map(|(_, at)| *at));
            let Some(at) = again else { break };
            self.clock.sleep_until(at.min(self.clock.now() + LONGEST_PAUSE_ONCE)).await;
        }
        self.told_last = None;
        self.tell();
        let summary = self.places.summary(self.clock.now());
        self.sees_all() && self.failing(&summary).is_none()
    }

    async fn look_once(&mut self, kind: Kind) -> Result<(), Refusal> {
        let (tell, mut told) = mpsc::channel(MOST_UNHEARD);
        let (link, clock) = (Arc::clone(&self.work.link), self.clock.clone());
        let looking = Mirror::new(kind, link, clock, self.dice.fork(), tell).run_once();
        let mut looking = std::pin::pin!(looking);
        loop {
            tokio::select! {
                biased;
                Some((kind, told)) = told.recv() => self.hear(&kind, told),
                result = &mut looking => {
                    while let Ok((kind, told)) = told.try_recv() {
                        self.hear(&kind, told);
                    }
                    return result;
                }
            }
        }
    }

    /// Does what can be done now, and says how it is.
    async fn turn(&mut self) {
        self.recall().await;
        self.refresh();
        self.dispatch();
        self.tell();
    }

    // --- what is seen ----------------------------------------------------------------------------

    /// What is to be watched.
    fn kinds(&self) -> Vec<Kind> {
        let options = &self.work.options;
        let mut kinds = options.secrets(self.scope);
        if let Namespaces::Selected { selector, .. } = &options.namespaces {
            kinds.push(Kind::Namespaces(selector.clone()));
        }
        for namespace in options.scoped(self.scope) {
            match &options.accounts {
                Accounts::None => {}
                Accounts::Named(names) => kinds.extend(names.iter().map(|name| Kind::Accounts {
                    namespace: namespace.clone(),
                    name: Some(name.clone()),
                    labels: None,
                })),
                Accounts::Selected(labels) => {
                    let labels = Some(labels.clone());
                    kinds.push(Kind::Accounts { namespace, name: None, labels });
                }
            }
        }
        kinds
    }

    fn mirror(&mut self, kind: Kind) {
        let (link, clock) = (Arc::clone(&self.work.link), self.clock.clone());
        let mirror =
            Mirror::new(kind.clone(), link, clock, self.dice.fork(), self.tell.clone()).run();
        let mirror = AbortOnDropHandle::new(tokio::spawn(mirror));
        self.sights.insert(kind, Sight::new(Some(mirror)));
    }

    fn see(&mut self, kind: Kind) {
        let namespace = kind.namespace().map(str::to_owned);
        let sight = self.sights.entry(kind).or_insert(Sight::new(None));
        (sight.is_seeing, sight.blind) = (true, None);
        self.open_or_close(namespace.as_deref());
    }

    fn blind(&mut self, kind: Kind, refusal: Refusal) {
        let namespace = kind.namespace().map(str::to_owned);
        let sight = self.sights.entry(kind).or_insert(Sight::new(None));
        (sight.is_seeing, sight.blind) = (false, Some(refusal));
        self.open_or_close(namespace.as_deref());
    }

    /// A namespace that nobody can look into holds up no other: with it, its Role has gone.
    fn open_or_close(&mut self, namespace: Option<&str>) {
        let Some(namespace) = namespace else { return };
        let mut sights = self.sights.iter();
        let closed = sights.find_map(|(kind, sight)| {
            let is_of_it = kind.namespace() == Some(namespace);
            let is_secrets = matches!(kind, Kind::Secrets { .. });
            let refusal = sight.blind.as_ref().filter(|_| is_of_it && is_secrets);
            refusal.filter(|refusal| !refusal.is_of_the_cluster()).cloned()
        });
        match closed {
            Some(refusal) => self.places.close(namespace, &refusal),
            None => self.places.open(namespace),
        }
    }

    /// Whether all is seen that can be. Who may not look at service accounts keeps the Secrets fresh
    /// all the same.
    fn sees_all(&self) -> bool {
        let is_refused = |sight: &Sight| {
            sight.blind.as_ref().is_some_and(|refusal| !refusal.is_of_the_cluster())
        };
        let mut sights = self.sights.iter();
        !self.sights.is_empty()
            && sights.all(|(kind, sight)| {
                let can_do_without =
                    kind.namespace().is_some() || matches!(kind, Kind::Accounts { .. });
                sight.is_seeing || can_do_without && is_refused(sight)
            })
    }

    /// Whether each named namespace can be looked at by itself instead.
    fn can_look_closer(&self, kind: &Kind, refusal: &Refusal) -> bool {
        let is_named = matches!(self.work.options.namespaces, Namespaces::Named(_));
        let is_wide = matches!(
            kind,
            Kind::Secrets { namespace: None, .. } | Kind::Accounts { namespace: None, .. }
        );
        is_named && is_wide && matches!(refusal, Refusal::Forbidden(_))
    }

    /// Takes in what was told, with what else is there to hear.
    fn hear_all(&mut self, (kind, told): (Kind, Told)) {
        self.hear(&kind, told);
        for _ in 0..MOST_UNHEARD {
            let Ok((kind, told)) = self.told.try_recv() else { return };
            self.hear(&kind, told);
        }
    }

    fn hear(&mut self, kind: &Kind, told: Told) {
        match told {
            Told::Blind(refusal) if self.can_look_closer(kind, &refusal) => {
                if self.scope == Scope::Cluster {
                    debug!(target_secret = %self.name, "looking at each namespace by itself");
                    self.scope = Scope::Namespace;
                    self.sights.clear();
                    for kind in self.kinds() {
                        self.mirror(kind);
                    }
                }
            }
            // What a mirror of before has still said is of no matter.
            told if !self.sights.contains_key(kind) => drop(told),
            Told::All => self.see(kind.clone()),
            Told::Blind(refusal) => self.blind(kind.clone(), refusal),
            Told::Is(item) => match kind {
                Kind::Namespaces(_) => self.places.namespace_is(&item),
                Kind::Secrets { .. } => self.places.secret_is(&item),
                Kind::Accounts { .. } => self.places.account_is(*item, Some(true)),
            },
            Told::Gone(key) => match kind {
                Kind::Namespaces(_) => self.places.namespace_gone(&key.1),
                Kind::Secrets { .. } => self.places.secret_gone(&key.0),
                Kind::Accounts { .. } => self.places.account_gone(&key),
            },
        }
    }

    // --- what is to be there ---------------------------------------------------------------------

    /// Whether it is to be known what stands in the Secrets, and is not.
    fn is_to_recall(&self) -> bool {
        let wanted = self.wanted.borrow();
        let is_fetched = self.work.options.registries.iter().all(|host| wanted.contains_key(host));
        self.carried.is_none()
            && !self.do_not_agree
            && !is_fetched
            && self.is_leading()
            && self.sees_all()
    }

    /// Learns what stands in the Secrets, if there is something that nobody has fetched yet.
    async fn recall(&mut self) {
        if !self.is_to_recall() {
            return;
        }
        if self.trouble.as_ref().is_some_and(|(_, at)| *at > self.clock.now()) {
            return;
        }
        match agreed(&self.work.link, &self.places, &self.work.owner).await {
            Ok(Some(recalled)) => self.carried = Some(recalled.0),
            Ok(None) => {
                self.do_not_agree = true;
                warn!(
                    target_secret = %self.name,
                    "the Secrets do not agree, so each credential is fetched anew before any is written"
                );
            }
            // The next look says what there is.
            Err(Refusal::NotFound(_)) => {}
            Err(refusal) => self.give_up_for_now(refusal),
        }
    }

    /// Makes the content anew if something in it is another.
    fn refresh(&mut self) {
        if !self.is_leading() {
            return;
        }
        let now = self.clock.now();
        let hosts = &self.work.options.registries;
        let origins: BTreeMap<RegistryHost, String> = self.status.read(|state| {
            let named = hosts.iter().filter_map(|host| Some((host, state.registries.get(host)?)));
            let origins = named.map(|(host, registry)| {
                (host.clone(), registry.origin.fingerprint().unwrap_or_default())
            });
            origins.collect()
        });
        let mut entries = Entries::new();
        {
            let wanted = self.wanted.borrow_and_update();
            for host in hosts {
                let fetched = wanted.get(host).map(|credential| Entry {
                    credential: credential.clone(),
                    origin: origins.get(host).cloned().unwrap_or_default(),
                });
                let before = || self.carried.as_ref()?.get(host).cloned();
                entries.extend(fetched.or_else(before).map(|entry| (host.clone(), entry)));
            }
        }
        let is_whole = entries.len() == hosts.len();
        if self.work.remove_expired {
            entries.retain(|_, entry| !entry.credential.lifetime().is_over(now));
        }
        // A Secret never has less in it than before because a fetch has failed.
        if (self.carried.is_none() && !is_whole)
            || (entries.is_empty() && !self.work.remove_expired)
        {
            return;
        }
        let before = self.places.content.as_ref();
        if before.is_some_and(|before| are_same(&before.entries, &entries)) {
            return;
        }
        self.places.want(Content::new(entries, &self.clock));
    }

    fn is_too_large(&self) -> bool {
        self.places.content.as_ref().is_some_and(|content| {
            content.size() > LARGEST || content.size_of_annotations() > LARGEST_ANNOTATIONS
        })
    }

    /// Whether nothing can be done, until something is heard.
    fn is_held(&self) -> bool {
        !self.is_leading() || !self.sees_all() || self.is_too_large()
    }

    /// Starts what can be done now.
    fn dispatch(&mut self) {
        let now = self.clock.now();
        if !self.is_leading() {
            self.places.pass_over(now);
        }
        let is_paused = self.trouble.as_ref().is_some_and(|(_, at)| *at > now);
        if self.is_held() || is_paused {
            return;
        }
        while self.tasks.len() < AT_ONCE {
            let Some((namespace, task)) = self.places.next(now) else {
                if self.tasks.is_empty() && !self.is_to_recall() {
                    // There is nothing left that it could be about.
                    (self.trouble, self.failures) = (None, 0);
                }
                return;
            };
            let content = self.places.content.clone();
            let call = Call {
                link: Arc::clone(&self.work.link),
                namespace: namespace.clone(),
                name: self.work.options.name.clone(),
                owner: self.work.owner.clone(),
            };
            self.tasks.spawn(async move {
                let result = call.execute(&task, content.as_deref()).await;
                (namespace, task, result)
            });
        }
    }

    /// Takes in what came of something.
    fn settle(&mut self, done: Option<(Box<str>, Task, Result<Done, Refusal>)>) {
        // Only a panic brings nothing, which ends the program where it is released.
        let Some((namespace, task, result)) = done else { return };
        let target = self.name.to_string();
        match result {
            Ok(done) => {
                (self.trouble, self.failures) = (None, 0);
                let is_done = !matches!(done, Done::Read(_));
                let is_repair = self.places.done(&namespace, done);
                let (what, count) = match task {
                    Task::Make | Task::Renew { .. } => ("written", &mut self.pass.written),
                    Task::Remove { .. } => ("removed", &mut self.pass.removed),
                    Task::Account { .. } => ("account", &mut self.pass.accounts),
                };
                if !is_done {
                    return;
                }
                *count += 1;
                self.status.metrics.wrote(&target, what);
                if is_repair {
                    self.pass.repaired += 1;
                    self.status.metrics.overwritten(&target);
                }
                debug!(target_secret = target, %namespace, what, is_repair, "done");
            }
            Err(refusal) => {
                self.status.metrics.wrote(&target, refusal.kind().as_str());
                debug!(target_secret = target, %namespace, %refusal, "not done");
                if refusal.is_of_the_cluster() {
                    self.places.put_off(&namespace);
                    self.give_up_for_now(refusal);
                } else {
                    self.places.failed(&namespace, &task, &refusal, self.dice.f64());
                }
            }
        }
    }

    /// Nothing is to be had from the cluster: everything waits, and not each namespace for itself.
    fn give_up_for_now(&mut self, refusal: Refusal) {
        let now = self.clock.now();
        if self.trouble.as_ref().is_some_and(|(_, at)| *at > now) {
            // Several calls were under way.
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let kind = schedule::Kind::Passing;
        let count = self.failures;
        let failure = schedule::Failure { count, kind, is_cached: false, retry_after: None };
        let next = schedule::after_failure(now, None, failure, self.dice.f64());
        self.trouble = Some((refusal, next.at.min(now + LONGEST_PAUSE)));
    }

    fn is_leading(&self) -> bool {
        self.work.is_leading && !self.given_up.is_cancelled()
    }

    /// When to look again if nothing happens.
    fn wake_at(&self) -> SystemTime {
        let now = self.clock.now();
        let expiry = self.places.content.as_ref().filter(|_| self.work.remove_expired);
        let expiry = expiry.and_then(|content| content.first_end(now));
        let telling = self.told_last.filter(|_| !self.tasks.is_empty()).map(|_| now + TELL_EVERY);
        let (next, again) = (self.places.next_at(), self.trouble.as_ref().map(|(_, at)| *at));
        let [next, again] = [next, again].map(|at| at.filter(|at| !self.is_held() || *at > now));
        let waits = [next, again, expiry, telling];
        let soonest = now + SHORTEST_WAIT;
        let check = self.clock.tick_after(CHECK_EVERY);
        waits.into_iter().flatten().fold(check, SystemTime::min).max(soonest)
    }

    // --- how it is -------------------------------------------------------------------------------

    /// Publishes how it is; while thousands of namespaces are written, now and then.
    fn tell(&mut self) {
        let monotonic = self.clock.monotonic();
        let is_idle = self.places.is_idle();
        let is_early =
            self.told_last.is_some_and(|last| monotonic.saturating_sub(last) < TELL_EVERY);
        if is_early && !is_idle {
            return;
        }
        self.told_last = Some(monotonic);
        let now = self.clock.now();
        let summary = self.places.summary(now);
        let failing = self.failing(&summary);
        let in_the_way = self.in_the_way(&summary, now);
        let (before, known) = self
            .status
            .target(&self.name, |target| (target.failing.clone(), target.in_the_way.clone()))
            .unwrap_or_default();
        self.tell_news(failing.as_ref(), before.as_ref(), &in_the_way, &known);
        let sees_all = self.sees_all();
        let is_done = is_idle && sees_all && (self.places.content.is_some() || !self.is_leading());
        let pass = if is_idle { std::mem::take(&mut self.pass) } else { Pass::default() };
        let Pass { written, removed, accounts, repaired } = pass;
        let has_written = written + removed > 0;
        if has_written || accounts > 0 {
            info!(
                target_secret = %self.name,
                written, removed, accounts, repaired,
                namespaces = summary.counts.wanted,
                "image pull secrets written"
            );
        }
        let is_well = failing.is_none();
        self.status.set_target(&self.name, |target| {
            target.counts = Some(summary.counts);
            target.is_polled = false;
            if sees_all {
                target.looked = Some(monotonic);
                target.found = summary.found;
                target.in_the_way = in_the_way;
            }
            if is_well && is_done {
                target.verified = Some(now);
            }
            if has_written {
                target.wrote(now);
            }
            target.failing = failing.map(|(kind, message)| {
                let same = before.as_ref().filter(|before| before.message == message);
                // It is counted by what is tried, and not by how often it is told.
                same.cloned().unwrap_or_else(|| Failing::after(before.as_ref(), now, kind, message))
            });
        });
        if !self.is_leading() {
            // Nobody fetches here: what stands in the Secrets is all that is known.
            for (host, life) in summary.lives {
                self.status.set_registry(&host, |registry| registry.lifetime = Some(life));
            }
        }
    }

    /// What is wrong, the worst of it.
    fn failing(&self, summary: &Summary) -> Option<(trouble::Kind, String)> {
        let of = |refusal: &Refusal| (refusal.kind(), refusal.to_string());
        // Of a namespace that nobody can look into, its place tells.
        let is_told = |kind: &Kind, refusal: &Refusal| {
            matches!(kind, Kind::Secrets { namespace: Some(_), .. }) && !refusal.is_of_the_cluster()
        };
        let blind = self.sights.iter().find_map(|(kind, sight)| {
            sight.blind.as_ref().filter(|refusal| !is_told(kind, refusal)).map(of)
        });
        let whole = self.trouble.as_ref().map(|(refusal, _)| of(refusal));
        let too_large = || {
            let content = self.places.content.as_ref();
            let [size, notes] = [
                content.map_or(0, |content| content.size()),
                content.map_or(0, |content| content.size_of_annotations()),
            ]
            .map(|bytes| bytes / 1024);
            let message = format!(
                "the credentials take {size} KiB, and what is said of them {notes} KiB; a Secret has room for \
                 {} KiB and {} KiB",
                LARGEST / 1024,
                LARGEST_ANNOTATIONS / 1024
            );
            (trouble::Kind::SecretTooLarge, message)
        };
        let too_large = || self.is_too_large().then(too_large);
        let place = || {
            let (fault, names, count) = summary.faults.iter().max_by_key(|(_, _, count)| *count)?;
            let message = format!("{}: {}", some_of(names, *count), fault.message);
            Some((fault.kind, message))
        };
        blind.or(whole).or_else(too_large).or_else(place)
    }

    /// Somebody else's Secrets. Where the namespaces are named, each of them is a promise; where
    /// they are selected, it is for whoever has a namespace to say what is in it.
    fn in_the_way(&self, summary: &Summary, now: SystemTime) -> Vec<InTheWay> {
        if summary.foreign.is_empty() {
            return Vec::new();
        }
        let is_named = matches!(self.work.options.namespaces, Namespaces::Named(_));
        let first: Vec<_> = summary.foreign.iter().take(MOST_NAMED).cloned().collect();
        let message = format!(
            "{} there is a Secret of this name that is not ours, and that is left alone",
            some_of(&first, summary.foreign.len())
        );
        let hidden = if is_named { self.work.options.registries.clone() } else { Vec::new() };
        let new = InTheWay { kind: trouble::Kind::ForeignSecret, message, hidden, since: now };
        let known = self.status.target(&self.name, |target| target.in_the_way.clone());
        let known = known.unwrap_or_default().into_iter().find(|old| old.is_same(&new));
        vec![known.unwrap_or(new)]
    }

    fn tell_news(
        &self,
        failing: Option<&(trouble::Kind, String)>,
        before: Option<&Failing>,
        in_the_way: &[InTheWay],
        known: &[InTheWay],
    ) {
        match (failing, before) {
            (Some((kind, error)), before)
                if before.is_none_or(|before| before.kind != *kind || before.message != *error) =>
            {
                warn!(target_secret = %self.name, %kind, error, "target not as it should be");
            }
            (None, Some(_)) => info!(target_secret = %self.name, "target is well again"),
            _ => {}
        }
        for new in in_the_way.iter().filter(|new| !known.iter().any(|old| old.is_same(new))) {
            let (kind, detail) = (new.kind, &new.message);
            warn!(target_secret = %self.name, %kind, detail, "readers pass by the credentials");
        }
    }
}

/// Some namespaces by name, and how many there are.
fn some_of(names: &[String], count: usize) -> String {
    let shown = names.join(", ");
    match count.saturating_sub(names.len()) {
        0 if count == 1 => format!("in the namespace {shown}"),
        0 => format!("in {count} namespaces ({shown})"),
        _ => format!("in {count} namespaces ({shown}, ...)"),
    }
}

/// How many calls are under way at once: few for an API server, whose default share for a
/// service account is larger, and enough for a thousand namespaces in seconds.
const AT_ONCE: usize = 8;

/// The most that the data of a Secret may take.
/// <https://kubernetes.io/docs/concepts/configuration/secret/#restriction-data-size>
const LARGEST: usize = 1024 * 1024;

/// The most that its annotations may take, less what others may add.
const LARGEST_ANNOTATIONS: usize = 240 * 1024;

/// How much the mirrors can tell before they wait to be heard.
const MOST_UNHEARD: usize = 256;

/// How long to wait for further credentials that come at the same moment.
const COALESCE: Duration = Duration::from_millis(20);

const TELL_EVERY: Duration = Duration::from_millis(200);
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
const CHECK_EVERY: Duration = Duration::from_mins(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// For what was fetched last, at the end.
const LAST_MOMENT: Duration = Duration::from_secs(5);

const MOST_ROUNDS_ONCE: u32 = 3;
const LONGEST_PAUSE_ONCE: Duration = Duration::from_secs(5);
const MOST_NAMED: usize = 5;

#[cfg(test)]
mod tests;
