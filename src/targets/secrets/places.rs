//! What is known about each namespace, and what is to be done there: no calls, no time of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::tug::Tug;
use super::content::{Content, Stamp, Whose, whose};
use super::mirror::{Item, Key};
use super::notes::{NOTE, Notes};
use super::{Namespaces, Options};
use crate::clock::Clock;
use crate::credential::{Lifetime, RegistryHost};
use crate::kubernetes::Refusal;
use crate::schedule;
use crate::status::Counts;
use crate::trouble;

/// All namespaces that matter.
pub(super) struct Places {
    options: Options,
    owner: String,
    clock: Clock,
    all: BTreeMap<Box<str>, Place>,
    /// What annotations say, each text once: thousands of Secrets have the same.
    stamps: Vec<Arc<Stamp>>,
    /// What the Secrets are to have.
    pub(super) content: Option<Arc<Content>>,
    /// Where something may be to do.
    due: BTreeSet<Box<str>>,
    /// Where something may be to do later.
    later: BTreeSet<(SystemTime, Box<str>)>,
    /// Where something is being done.
    under_way: BTreeMap<Box<str>, UnderWay>,
}

/// What is being done in a namespace.
struct UnderWay {
    /// The service account that it is done to; else it is the Secret.
    account: Option<Box<str>>,
    /// Whether it puts back what somebody took away.
    is_repair: bool,
    /// Whether something was seen of it meanwhile, which may be newer than the answer.
    is_overtaken: bool,
}

/// What is known about one namespace.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
struct Place {
    /// Whether the Secret is to be there.
    is_wanted: bool,
    /// Whether the namespace is being deleted, and all that is in it with it.
    is_going: bool,
    /// Nothing is done there before then.
    not_before: Option<SystemTime>,
    /// Whether a Secret of ours has been there.
    was_served: bool,
    /// When it came.
    since: SystemTime,
    /// Whether anything was tried there since.
    is_tried: bool,
    secret: Known,
    /// Service accounts whose pods are to get the Secret, or that have it from us.
    accounts: BTreeMap<Box<str>, Account>,
    fault: Option<Fault>,
    /// Why nobody can look there, if so.
    closed: Option<Fault>,
    /// What we gave the Secret last.
    written: Option<Arc<Stamp>>,
    /// How often in a row it failed there.
    failures: u32,
    /// Somebody who changes it.
    tug: Tug,
}

/// What is known about a Secret.
enum Known {
    Nothing,
    Foreign,
    Ours { uid: Box<str>, stamp: Arc<Stamp>, is_made_by_us: bool, is_whole: bool },
}

/// What is known about a service account.
struct Account {
    version: Box<str>,
    is_selected: bool,
    pulls: Vec<String>,
    /// The names that are in it because of us, and of other installations.
    notes: Notes,
}

/// What went wrong in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: trouble::Kind,
    pub(super) message: String,
    /// Whether pods miss the Secret because of it.
    is_missed: bool,
}

/// Something to do in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Make the Secret.
    Make,
    /// Give it what it is to have.
    Renew { uid: Box<str> },
    /// Remove it.
    Remove { uid: Box<str> },
    /// Change what a service account pulls with.
    Account { name: Box<str>, version: Box<str>, pulls: Vec<String>, notes: Notes },
}

/// What came of it.
pub(super) enum Done {
    /// The Secret is like this now.
    Secret(Item),
    /// It is gone.
    Removed,
    /// The service account is like this now.
    Account(Item),
    /// Nothing: it was another one than was thought, and is like this.
    Read(Item),
}

/// How the whole is.
#[derive(Default)]
pub(super) struct Summary {
    pub(super) counts: Counts,
    /// Until when the credential of each registry is good in every namespace that counts.
    pub(super) found: BTreeMap<RegistryHost, SystemTime>,
    /// What stands there, newest first: the life of each credential.
    pub(super) lives: BTreeMap<RegistryHost, Lifetime>,
    /// The kinds of faults, with some of the namespaces that have them and how many there are.
    pub(super) faults: Vec<(Fault, Vec<String>, usize)>,
    /// Where somebody else's Secret is.
    pub(super) foreign: Vec<String>,
}

/// What stands in our Secrets.
pub(super) enum Agreed<'a> {
    /// There are none.
    Nothing,
    /// This, for one in some of these namespaces.
    On(&'a Stamp, BTreeSet<&'a str>),
    /// This and that.
    Not,
}

impl Places {
    pub(super) fn new(options: Options, owner: String, clock: Clock) -> Self {
        let mut places = Self {
            options,
            owner,
            clock,
            all: BTreeMap::new(),
            stamps: Vec::new(),
            content: None,
            due: BTreeSet::new(),
            later: BTreeSet::new(),
            under_way: BTreeMap::new(),
        };
        if let Namespaces::Named(names) = &places.options.namespaces {
            for name in names.clone() {
                places.place(&name).is_wanted = true;
            }
        }
        places
    }

    /// Whether the namespaces are named.
    fn is_named(&self) -> bool {
        matches!(self.options.namespaces, Namespaces::Named(_))
    }

    fn place(&mut self, namespace: &str) -> &mut Place {
        let since = self.clock.now();
        self.due.insert(namespace.into());
        if !self.all.contains_key(namespace) {
            // It is looked at again when it does not count as new any more.
            self.later.insert((since + NEW_FOR, namespace.into()));
        }
        self.all.entry(namespace.into()).or_insert_with(|| Place {
            is_wanted: false,
            is_going: false,
            not_before: None,
            was_served: false,
            since,
            is_tried: false,
            secret: Known::Nothing,
            accounts: BTreeMap::new(),
            fault: None,
            closed: None,
            written: None,
            failures: 0,
            tug: Tug::default(),
        })
    }

    // --- what was seen ---------------------------------------------------------------------------

    /// A namespace is there.
    pub(super) fn namespace_is(&mut self, item: &Item) {
        let name = item.meta.name.as_deref().unwrap_or_default();
        let Namespaces::Selected { excluded, .. } = &self.options.namespaces else { return };
        // Nothing can be made in one that is being deleted, and nothing need be removed.
        let is_going = item.meta.deletion_timestamp.is_some();
        let is_wanted = !is_going && !excluded.iter().any(|excluded| excluded == name);
        if is_wanted || self.all.contains_key(name) {
            let place = self.place(name);
            if is_wanted && !place.is_wanted {
                // It may be another one of this name.
                place.not_before = None;
            }
            (place.is_wanted, place.is_going) = (is_wanted, is_going);
        }
    }

    /// A namespace is not there any more, or not selected.
    pub(super) fn namespace_gone(&mut self, name: &str) {
        let now = self.clock.now();
        let Some(place) = self.all.get_mut(name) else { return };
        place.is_wanted = false;
        if std::mem::take(&mut place.is_going) {
            // What was in it went with it, which will be told, unless there is a new one.
            return self.wait(name, now + GOING);
        }
        self.due.insert(name.into());
    }

    /// A Secret of our name is there.
    pub(super) fn secret_is(&mut self, item: &Item) {
        let namespace = item.meta.namespace.as_deref().unwrap_or_default();
        self.overtake(namespace, None);
        let known = match whose(&item.meta, &self.owner) {
            Whose::Foreign => Known::Foreign,
            Whose::Ours { text, is_made_by_us, is_whole } => Known::Ours {
                uid: item.meta.uid.as_deref().unwrap_or_default().into(),
                stamp: self.stamp(&text),
                is_made_by_us,
                is_whole,
            },
        };
        let place = self.place(namespace);
        if matches!(known, Known::Foreign) || matches!(place.secret, Known::Foreign) {
            // What failed before was about another one.
            (place.fault, place.not_before) = (None, None);
        }
        place.was_served |= matches!(known, Known::Ours { .. });
        place.secret = known;
    }

    /// It is not there any more.
    pub(super) fn secret_gone(&mut self, namespace: &str) {
        self.overtake(namespace, None);
        if let Some(place) = self.all.get_mut(namespace) {
            place.secret = Known::Nothing;
            if place.fault.take().is_some_and(|fault| fault.kind != trouble::Kind::TugOfWar) {
                place.not_before = None;
            }
            self.due.insert(namespace.into());
        }
    }

    /// A service account is there, and its pods are to get the Secret if it `is_selected`; as
    /// before if that is not said.
    pub(super) fn account_is(&mut self, item: Item, is_selected: Option<bool>) {
        let namespace = item.meta.namespace.clone().unwrap_or_default();
        let name = item.meta.name.clone().unwrap_or_default();
        self.overtake(&namespace, Some(&name));
        let known = self.all.get(&*namespace).and_then(|place| place.accounts.get(&*name));
        let is_selected =
            is_selected.unwrap_or_else(|| known.is_some_and(|account| account.is_selected));
        let version = item.meta.resource_version.as_deref().unwrap_or_default();
        if known.is_some_and(|account| is_older(version, &account.version)) {
            // A watch that is behind what an answer has said.
            let place = self.place(&namespace);
            if let Some(account) = place.accounts.get_mut(&*name) {
                account.is_selected = is_selected;
            }
            return;
        }
        let noted = item.meta.annotations.as_ref().and_then(|notes| notes.get(NOTE));
        let account = Account {
            version: item.meta.resource_version.unwrap_or_default().into(),
            is_selected,
            notes: Notes::read(noted),
            pulls: item.pulls,
        };
        let is_known = self.all.contains_key(&*namespace);
        let is_ours = account.notes.has(&self.owner, &self.options.name);
        if is_known || is_ours || !self.is_named() {
            self.place(&namespace).accounts.insert(name.into(), account);
        }
    }

    /// It is not there any more, or not selected.
    pub(super) fn account_gone(&mut self, (namespace, name): &Key) {
        self.overtake(namespace, Some(name));
        let under_way = self.under_way.get(namespace);
        let is_under_way = under_way.is_some_and(|one| one.account.as_ref() == Some(name));
        let Some(place) = self.all.get_mut(namespace) else { return };
        match place.accounts.get_mut(name) {
            // If it is there, our name is to be taken out of it, and it may just be put in.
            Some(account) if is_under_way || account.notes.has(&self.owner, &self.options.name) => {
                account.is_selected = false;
            }
            _ => drop(place.accounts.remove(name)),
        }
        self.due.insert(namespace.clone());
    }

    /// Notes that something was seen of what is being done something to.
    fn overtake(&mut self, namespace: &str, account: Option<&str>) {
        if let Some(under_way) = self.under_way.get_mut(namespace)
            && under_way.account.as_deref() == account
        {
            under_way.is_overtaken = true;
        }
    }

    /// Whether a service account is known to be selected.
    fn is_selected(&self, namespace: &str, item: &Item) -> bool {
        let name = item.meta.name.as_deref().unwrap_or_default();
        let account = self.all.get(namespace).and_then(|place| place.accounts.get(name));
        account.is_some_and(|account| account.is_selected)
    }

    /// The same text is kept once.
    fn stamp(&mut self, text: &str) -> Arc<Stamp> {
        let ours = self.content.iter().map(|content| &content.stamp);
        if let Some(known) = ours.chain(&self.stamps).find(|stamp| stamp.text == text) {
            return Arc::clone(known);
        }
        self.stamps.retain(|stamp| Arc::strong_count(stamp) > 1);
        let stamp = Arc::new(Stamp::read(text, &self.clock));
        self.stamps.push(Arc::clone(&stamp));
        stamp
    }

    /// From now on the Secrets are to have this.
    pub(super) fn want(&mut self, content: Content) {
        self.content = Some(Arc::new(content));
        self.due.extend(self.all.keys().cloned());
    }

    /// Whether the next look at a namespace is not due.
    fn is_early(&self, namespace: &str, now: SystemTime) -> bool {
        let place = self.all.get(namespace);
        place.and_then(|place| place.not_before).is_some_and(|at| at > now)
    }

    fn wait(&mut self, namespace: &str, until: SystemTime) {
        if let Some(place) = self.all.get_mut(namespace) {
            place.not_before = Some(until);
            self.later.insert((until, namespace.into()));
        }
    }

    /// Nobody can look into this namespace, which is to be served all the same.
    pub(super) fn close(&mut self, namespace: &str, refusal: &Refusal) {
        let message = format!("nobody can look there ({refusal}), or it is not there");
        let fault = Fault { kind: refusal.kind(), message, is_missed: true };
        self.place(namespace).closed = Some(fault);
    }

    /// It can be looked into again.
    pub(super) fn open(&mut self, namespace: &str) {
        self.place(namespace).closed = None;
    }

    // --- what is to be done ----------------------------------------------------------------------

    /// Something to do, if there is anything.
    pub(super) fn next(&mut self, now: SystemTime) -> Option<(Box<str>, Task)> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.due.extend(self.later.pop_first().map(|(_, namespace)| namespace));
        }
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(namespace) = self.due.pop_first() {
            if self.under_way.contains_key(&namespace) {
                busy.push(namespace);
                continue;
            }
            if self.is_early(&namespace, now) {
                continue;
            }
            if let Some((task, is_repair)) = self.task(&namespace) {
                let account = match &task {
                    Task::Account { name, .. } => Some(name.clone()),
                    _ => None,
                };
                let under_way = UnderWay { account, is_repair, is_overtaken: false };
                self.under_way.insert(namespace.clone(), under_way);
                found = Some((namespace, task));
                break;
            }
            self.settle_down(&namespace);
        }
        self.due.extend(busy);
        found
    }

    /// Does nothing, for whoever only watches.
    pub(super) fn pass_over(&mut self, now: SystemTime) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.later.pop_first();
        }
        for namespace in std::mem::take(&mut self.due) {
            self.settle_down(&namespace);
        }
    }

    /// Nothing is to be done there, and so nothing is wrong.
    fn settle_down(&mut self, namespace: &str) {
        if let Some(place) = self.all.get_mut(namespace) {
            place.fault = None;
            if place.is_forgotten() {
                self.all.remove(namespace);
            }
        }
    }

    /// When something is to be done that is not due.
    pub(super) fn next_at(&self) -> Option<SystemTime> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Whether something failed somewhere when it was tried last.
    pub(super) fn has_faults(&self) -> bool {
        self.all.values().any(|place| place.fault.is_some() || place.closed.is_some())
    }

    /// Whether nothing is to be done now.
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_empty() && self.under_way.is_empty()
    }

    /// What is to be done there, and whether it puts back what somebody took away.
    fn task(&self, namespace: &str) -> Option<(Task, bool)> {
        let place = self.all.get(namespace)?;
        if place.is_going || place.closed.is_some() {
            return None;
        }
        let name = &self.options.name;
        for (account, known) in &place.accounts {
            let has = known.pulls.contains(name);
            let is_ours = known.notes.has(&self.owner, name);
            let is_to_have = place.is_wanted && known.is_selected;
            // One that had it from somebody else is left to them.
            let (pulls, notes) = if is_to_have && !has && matches!(place.secret, Known::Ours { .. })
            {
                let with = known.pulls.iter().chain([name]).cloned().collect();
                (with, known.notes.with(&self.owner, name))
            } else if !is_to_have && is_ours {
                let notes = known.notes.without(&self.owner, name);
                let stays = |other: &&String| *other != name || notes.name(name);
                (known.pulls.iter().filter(stays).cloned().collect(), notes)
            } else {
                continue;
            };
            let (name, version) = (account.clone(), known.version.clone());
            let is_repair = is_to_have && is_ours;
            return Some((Task::Account { name, version, pulls, notes }, is_repair));
        }
        match (&place.secret, place.is_wanted) {
            (Known::Nothing, true) => self.content.as_ref().map(|_| (Task::Make, place.was_served)),
            (Known::Ours { uid, stamp, is_whole, .. }, true) => {
                let content = self.content.as_ref()?;
                let is_fresh = stamp.text == content.stamp.text;
                // It had this already: somebody else has given it something else.
                let is_repair =
                    place.written.as_ref().is_some_and(|had| had.text == content.stamp.text);
                (!is_fresh || !is_whole).then(|| (Task::Renew { uid: uid.clone() }, is_repair))
            }
            (Known::Ours { uid, is_made_by_us: true, .. }, false) => {
                Some((Task::Remove { uid: uid.clone() }, false))
            }
            _ => None,
        }
    }

    /// It was done. Says whether that put back what somebody had taken away.
    pub(super) fn done(&mut self, namespace: &str, done: Done) -> bool {
        let under_way = self.under_way.remove(namespace);
        let is_overtaken = under_way.as_ref().is_some_and(|one| one.is_overtaken);
        let is_repair = under_way.is_some_and(|one| one.is_repair);
        let now = self.clock.now();
        match done {
            // Nothing more is seen of one that is not selected any more.
            Done::Account(item) if !self.is_selected(namespace, &item) => {
                self.account_is(item, None);
            }
            // If what was seen is older than the answer, the next thing seen is not.
            _ if is_overtaken => {
                self.due.insert(namespace.into());
            }
            Done::Secret(item) => {
                self.secret_is(&item);
                if let Some(place) = self.all.get_mut(namespace)
                    && let Known::Ours { stamp, .. } = &place.secret
                {
                    place.written = Some(Arc::clone(stamp));
                }
            }
            Done::Removed => self.secret_gone(namespace),
            Done::Account(item) => self.account_is(item, None),
            Done::Read(item) => {
                self.account_is(item, None);
                return false;
            }
        }
        let Some(place) = self.all.get_mut(namespace) else { return is_repair };
        (place.is_tried, place.fault, place.failures, place.not_before) = (true, None, 0, None);
        if is_repair {
            // Who changes it all the time is not raced with.
            let pause = place.tug.pulled(now);
            if !pause.is_zero() {
                let message = "another program changes it again and again".to_owned();
                let kind = trouble::Kind::TugOfWar;
                place.fault = Some(Fault { kind, message, is_missed: false });
                self.wait(namespace, now + pause);
            }
        }
        is_repair
    }

    /// It failed, and is tried again after `pause`.
    pub(super) fn failed(&mut self, namespace: &str, task: &Task, refusal: &Refusal, dice: f64) {
        let under_way = self.under_way.remove(namespace);
        let is_overtaken = under_way.is_some_and(|one| one.is_overtaken);
        let (now, is_named) = (self.clock.now(), self.is_named());
        let Some(place) = self.all.get_mut(namespace) else { return };
        place.is_tried = true;
        match refusal {
            Refusal::NotFound(_) if is_overtaken && !matches!(task, Task::Make) => {
                self.due.insert(namespace.into());
                return;
            }
            Refusal::NotFound(_) if matches!(task, Task::Remove { .. }) => {
                return self.secret_gone(namespace);
            }
            Refusal::NotFound(_) if let Task::Account { name, .. } = task => {
                place.accounts.remove(name);
                self.due.insert(namespace.into());
                return;
            }
            Refusal::Terminating | Refusal::NotFound(_) if !is_named => {
                // It is going, and the watch will say so; if not, it is looked at again.
                place.fault = None;
                return self.wait(namespace, now + GOING);
            }
            // The watch will say what is there now.
            Refusal::Conflict(_) | Refusal::NotFound(_) if !matches!(task, Task::Make) => {
                let doublings = place.failures.min(MOST_DOUBLINGS);
                place.failures = place.failures.saturating_add(1);
                return self.wait(namespace, now + SOON * 2_u32.pow(doublings));
            }
            _ => {}
        }
        place.failures = place.failures.saturating_add(1);
        place.fault = Some(Fault::of(refusal, task));
        let failure = schedule::Failure {
            count: place.failures,
            kind: if refusal.is_lasting() && !is_named {
                schedule::Kind::Lasting
            } else {
                schedule::Kind::Passing
            },
            is_cached: false,
            retry_after: None,
        };
        let next = schedule::after_failure(now, None, failure, dice);
        // A namespace that is named and not there may come at any time.
        let is_missing = matches!(refusal, Refusal::NotFound(_) | Refusal::Terminating);
        let longest = if is_missing { LONGEST_FOR_A_NAMESPACE } else { LONGEST_PAUSE };
        self.wait(namespace, next.at.min(now + longest));
    }

    /// It was not even tried, since nothing is to be had from the cluster.
    pub(super) fn put_off(&mut self, namespace: &str) {
        self.under_way.remove(namespace);
        self.due.insert(namespace.into());
    }

    // --- how it is -------------------------------------------------------------------------------

    /// How it is. In a namespace that has just come, nothing is missed yet.
    pub(super) fn summary(&self, now: SystemTime) -> Summary {
        let mut summary = Summary::default();
        let mut lacking = false;
        let mut in_use: BTreeMap<*const Stamp, &Arc<Stamp>> = BTreeMap::new();
        for (name, place) in self.all.iter().filter(|(_, place)| place.is_wanted) {
            summary.counts.wanted += 1;
            if let Some(fault) = &place.closed {
                summary.counts.failing += 1;
                lacking = true;
                add(&mut summary.faults, fault, name);
                continue;
            }
            match &place.secret {
                // What stands there now, nobody has said who can be believed.
                Known::Ours { is_whole: false, .. } => {
                    summary.counts.older += 1;
                    lacking |= self.is_named();
                }
                Known::Ours { .. } if !self.is_named() && place.is_kept_from_us() => {
                    summary.counts.older += 1;
                }
                Known::Ours { stamp, .. } => {
                    in_use.entry(Arc::as_ptr(stamp)).or_insert(stamp);
                    let content = self.content.as_ref();
                    // Whoever only watches has nothing newer to compare with.
                    if content.is_none_or(|content| content.stamp.text == stamp.text) {
                        summary.counts.fresh += 1;
                    } else {
                        summary.counts.older += 1;
                    }
                }
                Known::Foreign => {
                    summary.counts.foreign += 1;
                    summary.foreign.push(name.to_string());
                }
                Known::Nothing => {
                    summary.counts.missing += 1;
                    lacking |= place.is_tried || now >= place.since + NEW_FOR;
                }
            }
            if let Some(fault) = &place.fault {
                summary.counts.failing += 1;
                lacking |= fault.is_missed && self.is_named();
                add(&mut summary.faults, fault, name);
            }
        }
        let unwanted = self.all.iter().filter(|(_, place)| !place.is_wanted);
        for (name, fault) in
            unwanted.filter_map(|(name, place)| Some((name, place.fault.as_ref()?)))
        {
            add(&mut summary.faults, fault, name);
        }
        for host in &self.options.registries {
            let ends = in_use.values().map(|stamp| stamp.lives.get(host));
            let until = ends.map(|life| Some(life?.lifetime.expires())).min().flatten();
            // Where it is to be in no namespace, none misses it.
            let until = if in_use.is_empty() { self.content_end(host) } else { until };
            if let Some(until) = until.filter(|_| !lacking) {
                summary.found.insert(host.clone(), until);
            }
            let lives = in_use.values().filter_map(|stamp| Some(stamp.lives.get(host)?.lifetime));
            if let Some(life) = lives.max_by_key(|life| life.expires()) {
                summary.lives.insert(host.clone(), life);
            }
        }
        summary
    }

    fn content_end(&self, host: &RegistryHost) -> Option<SystemTime> {
        let life = self.content.as_ref()?.stamp.lives.get(host)?;
        Some(life.lifetime.expires())
    }

    /// What more than half of our Secrets have, and some of the namespaces that have it: whoever may
    /// write in one namespace can make its Secret say anything.
    pub(super) fn agreed(&self) -> Agreed<'_> {
        let mut having: BTreeMap<&str, (&Stamp, Vec<&str>)> = BTreeMap::new();
        let mut count = 0;
        for (name, place) in &self.all {
            if let Known::Ours { stamp, is_whole: true, .. } = &place.secret {
                having.entry(&stamp.text).or_insert((stamp, Vec::new())).1.push(name);
                count += 1;
            }
        }
        let most = having.into_values().max_by_key(|(_, namespaces)| namespaces.len());
        match most {
            None => Agreed::Nothing,
            Some((stamp, all)) if all.len() * 2 > count => {
                let samples = [all[0], all[all.len() / 2], all[all.len() - 1]];
                Agreed::On(stamp, BTreeSet::from(samples))
            }
            Some(_) => Agreed::Not,
        }
    }

    /// Whether its credential is to be in the Secret.
    pub(super) fn is_for(&self, host: &RegistryHost) -> bool {
        self.options.registries.contains(host)
    }

    pub(super) fn name(&self) -> &str {
        &self.options.name
    }
}

impl Place {
    /// Whether whoever has the namespace keeps us from changing the Secret.
    fn is_kept_from_us(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.kind == trouble::Kind::ImmutableSecret)
    }

    /// Whether nothing is left to know about it.
    fn is_forgotten(&self) -> bool {
        // It may be wanted later, and what is in it is not told again then.
        let mut accounts = self.accounts.values();
        let has_accounts = accounts.any(|account| account.is_selected || !account.notes.is_empty());
        !self.is_wanted && !self.is_going && !has_accounts && matches!(self.secret, Known::Nothing)
    }
}

impl Fault {
    fn of(refusal: &Refusal, task: &Task) -> Self {
        let is_missed = match task {
            Task::Make | Task::Account { .. } => true,
            // What stands there is judged by its age.
            Task::Renew { .. } | Task::Remove { .. } => false,
        };
        let what = match task {
            Task::Make => "the Secret cannot be made".to_owned(),
            Task::Renew { .. } => "the Secret cannot be changed".to_owned(),
            Task::Remove { .. } => "the Secret cannot be removed".to_owned(),
            Task::Account { name, .. } => format!("the service account {name} cannot be changed"),
        };
        Self { kind: refusal.kind(), message: format!("{what}: {refusal}"), is_missed }
    }
}

/// The same fault in many namespaces is one, with some of their names.
fn add(faults: &mut Vec<(Fault, Vec<String>, usize)>, fault: &Fault, namespace: &str) {
    let of_kind = faults.iter().position(|(known, ..)| known.kind == fault.kind);
    match of_kind {
        None => faults.push((fault.clone(), vec![namespace.to_owned()], 1)),
        Some(index) => {
            let (_, names, count) = &mut faults[index];
            *count += 1;
            if names.len() < MOST_NAMED {
                names.push(namespace.to_owned());
            }
        }
    }
}

/// Whether one version is before another. They are numbers that grow, where they are numbers.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>
fn is_older(version: &str, known: &str) -> bool {
    let [version, known] = [version, known].map(str::parse::<u64>);
    matches!((version, known), (Ok(version), Ok(known)) if version < known)
}

/// For so long a namespace that has just come may be without.
const NEW_FOR: Duration = Duration::from_secs(10);
/// When one is looked at again that should be gone.
const GOING: Duration = Duration::from_secs(10);
/// When one is looked at again that has changed at the same moment.
const SOON: Duration = Duration::from_millis(200);
const MOST_DOUBLINGS: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
const LONGEST_FOR_A_NAMESPACE: Duration = Duration::from_secs(5);
/// So many namespaces are named in a message.
const MOST_NAMED: usize = 5;

#[cfg(test)]
mod tests;
