//! The loop of one issuer: fetch, publish, and wait until the schedule says when.

use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::credential::{Credential, Lifetime, RegistryHost, Wanted};
use crate::registry::{Answer, Verifier};
use crate::schedule::{self, Failure, Issuer, Kind, Next, Reason};
use crate::sources::{FetchError, Minted, Origin, Source};
use crate::status::{Failing, SAME_EXPIRY, Status, Verified};

/// Who is asked, and for whom.
pub struct Assignment {
    /// What the registries have in common.
    pub origin: Origin,
    /// The registries that share the credential.
    pub hosts: Vec<RegistryHost>,
    /// Who is asked.
    pub source: Box<dyn Source>,
    /// How long an answer may take.
    pub limit: Duration,
    /// How many issuers may be asked at once.
    pub turns: Arc<Semaphore>,
    /// Who asks the registries whether they take it, if they are to be asked.
    pub verifier: Option<Arc<dyn Verifier>>,
}

/// Fetches the credential that some registries share, and fetches it again.
pub struct Refresh {
    assignment: Assignment,
    clock: Clock,
    status: Arc<Status>,
    wanted: watch::Sender<Wanted>,
    dice: fastrand::Rng,
    /// The newest credential.
    current: Option<Credential>,
    /// When to ask first.
    first: Next,
    failures: u32,
    /// Whether the issuer caches, as its last answer said.
    is_cached: bool,
    /// When to ask the registries again, if they are to be asked.
    verify_at: Option<SystemTime>,
    /// How many tokens in a row a registry has refused.
    rejections: u32,
}

impl Refresh {
    /// A loop that publishes to `wanted` what its source gives.
    #[must_use]
    pub fn new(
        assignment: Assignment,
        clock: Clock,
        status: Arc<Status>,
        wanted: watch::Sender<Wanted>,
        mut dice: fastrand::Rng,
    ) -> Self {
        let first = schedule::at_start(clock.now(), dice.f64());
        Self {
            assignment,
            clock,
            status,
            wanted,
            dice,
            current: None,
            first,
            failures: 0,
            is_cached: false,
            verify_at: None,
            rejections: 0,
        }
    }

    /// Starts with a credential of an earlier run, if it is still good: it is published,
    /// and replaced when its time has come.
    #[must_use]
    pub fn going_on_with(mut self, credential: Credential) -> Self {
        let (life, now) = (credential.lifetime(), self.clock.now());
        if life.is_over(now) {
            return self;
        }
        let next = schedule::after_restart(now, life, self.dice.f64());
        for host in &self.assignment.hosts {
            self.status.set_registry(host, |registry| {
                registry.lifetime = Some(life);
                registry.next = Some(next);
            });
        }
        self.publish(&credential);
        self.current = Some(credential);
        self.first = next;
        self.verify_at = self.assignment.verifier.is_some().then_some(now);
        info!(
            origin = %self.assignment.origin,
            expires = %self.shown(life.expires()),
            next = %self.shown(next.at),
            "going on with the credential of an earlier run"
        );
        self
    }

    /// Keeps the credential fresh until `stop`; a change of `asked` makes it
    /// fetch at once.
    pub async fn run(mut self, stop: CancellationToken, mut asked: watch::Receiver<()>) {
        let mut next = self.first;
        loop {
            let because = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = asked.changed() => Some(Reason::Signal),
                () = self.assignment.source.change() => Some(Reason::Changed),
                () = self.clock.sleep_until(next.at) => Some(next.reason),
                () = self.time_to_verify() => None,
            };
            let turn = async {
                match because {
                    Some(because) => self.fetch(because).await.1,
                    None if self.is_taken().await => next,
                    None => self.fetch(Reason::Refused).await.1,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                after = turn => next = after,
            }
        }
    }

    /// Fetches until it succeeds: at least `tries` times, and as often as there is time
    /// `until` then, but not again after a failure that lasts.
    ///
    /// # Errors
    ///
    /// The last failure, if there was no success.
    pub async fn run_once(&mut self, tries: u32, until: SystemTime) -> Result<(), FetchError> {
        let mut because = self.first.reason;
        loop {
            match self.fetch(because).await {
                (Ok(()), _) => return Ok(()),
                (Err(error), next) => {
                    let is_over = self.failures >= tries && next.at > until;
                    if is_over || error.is_lasting() {
                        return Err(error);
                    }
                    self.clock.sleep_until(next.at).await;
                    because = next.reason;
                }
            }
        }
    }

    /// Asks once, publishes what came, and says when to ask again.
    async fn fetch(&mut self, because: Reason) -> (Result<(), FetchError>, Next) {
        let clock = self.clock.clone();
        let asked = clock.attend(async {
            match self.ask().await {
                Ok(minted) => self.verified(minted).await,
                Err(error) => Err(error),
            }
        });
        let asked = asked.await;
        match asked {
            Ok(minted) => (Ok(()), self.succeeded(minted, because)),
            Err(error) => {
                let next = self.failed(&error, because);
                (Err(error), next)
            }
        }
    }

    /// Asks when it is its turn.
    async fn ask(&self) -> Result<Minted, FetchError> {
        // Never closed.
        let turn = Arc::clone(&self.assignment.turns).acquire_owned().await.ok();
        let started = self.clock.monotonic();
        let longest = if self.is_cached { LONGEST_CACHED } else { Duration::MAX };
        let limit = self.assignment.limit.min(longest);
        let mut asking = pin!(tokio::time::timeout(limit, self.assignment.source.fetch()));
        let asked = tokio::select! {
            asked = &mut asking => asked,
            // One that hangs must not keep the others from being asked.
            () = self.clock.sleep(LONGEST_TURN) => {
                drop(turn);
                asking.await
            }
        };
        let result = asked.unwrap_or(Err(FetchError::TimedOut { limit }));
        let took = self.clock.monotonic().saturating_sub(started);
        self.status.metrics.fetched(self.assignment.origin.kind().as_str(), took);
        result
    }

    /// Lets through what no registry refuses. What one of them refuses is not published:
    /// what stands in the targets is as good at least.
    async fn verified(&mut self, minted: Minted) -> Result<Minted, FetchError> {
        self.verify_later();
        let refusals = self.refusals(&minted.credential).await;
        let Some((host, detail)) = refusals.into_iter().next() else {
            self.rejections = 0;
            return Ok(minted);
        };
        self.rejections = self.rejections.saturating_add(1);
        if let Some(current) = self.current.clone() {
            // It is this one that stands there, and that the status has to speak of.
            self.refusals(&current).await;
        }
        // Once more at once, and then not before somebody may have done something.
        Err(FetchError::Rejected { host, detail, is_again: self.rejections > 1 })
    }

    /// Whether no registry refuses what was published.
    async fn is_taken(&mut self) -> bool {
        self.verify_later();
        let Some(credential) = self.current.clone() else { return true };
        let refusals = self.clock.attend(self.refusals(&credential)).await;
        for (host, detail) in &refusals {
            warn!(%host, detail, "the registry refuses the credential");
        }
        refusals.is_empty()
    }

    fn verify_later(&mut self) {
        let later = self.clock.tick_after(VERIFY_EVERY);
        self.verify_at = self.assignment.verifier.is_some().then_some(later);
    }

    async fn time_to_verify(&self) {
        match self.verify_at {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Asks every registry, some at once.
    async fn refusals(&self, credential: &Credential) -> Vec<(RegistryHost, String)> {
        let mut refusals = Vec::new();
        let Some(verifier) = &self.assignment.verifier else { return refusals };
        for hosts in self.assignment.hosts.chunks(VERIFIED_AT_ONCE) {
            let mut asking = JoinSet::new();
            for host in hosts {
                let (verifier, credential) = (Arc::clone(verifier), credential.clone());
                let host = host.clone();
                asking.spawn(async move {
                    let answer = verifier.ask(&host, &credential).await;
                    (host, answer)
                });
            }
            while let Some(asked) = asking.join_next().await {
                // Only a panic gets here, which ends the program where it is released.
                let Ok((host, answer)) = asked else { continue };
                match &answer {
                    Answer::Taken => {}
                    Answer::Refused { detail } => refusals.push((host.clone(), detail.clone())),
                    Answer::Unknown { detail } => {
                        debug!(%host, detail, "the registry could not be asked");
                    }
                }
                let expires = credential.lifetime().expires();
                let heard = Verified { at: self.clock.now(), answer, expires };
                self.status.set_registry(&host, |registry| registry.hear(heard));
            }
        }
        refusals
    }

    fn succeeded(&mut self, minted: Minted, because: Reason) -> Next {
        let now = self.clock.now();
        let Minted { credential, issuer, identity, skew } = minted;
        self.is_cached = issuer == Issuer::Caching;
        let dice = self.dice.f64();
        let known = self.current.as_ref().filter(|known| known.is_same_token(&credential));
        let known = known.map(Credential::lifetime).filter(|known| {
            let new = credential.lifetime();
            new.expires() < known.expires() + SAME_EXPIRY || new.is_endless() && known.is_endless()
        });
        let (outcome, life, next) = if let Some(mut life) = known {
            let expires = credential.lifetime().expires();
            if expires + SAME_EXPIRY < life.expires() {
                // Its age is counted from when it came first, but its end has come closer.
                life = Lifetime::new(life.issued(), expires);
                let credential = credential.living(life);
                self.publish(&credential);
                self.current = Some(credential);
            }
            (SAME_TOKEN, life, schedule::after_same_token(now, life, issuer, dice))
        } else {
            let life = credential.lifetime();
            self.publish(&credential);
            self.current = Some(credential);
            (SUCCESS, life, schedule::after_success(life, issuer, dice))
        };
        let failures = std::mem::take(&mut self.failures);
        for host in &self.assignment.hosts {
            self.status.metrics.refreshed(host, outcome);
            self.status.set_registry(host, |registry| {
                registry.identity = Some(identity.clone());
                registry.skew = skew;
                registry.lifetime = Some(life);
                registry.last_attempt = Some(now);
                registry.last_success = Some(now);
                if outcome == SUCCESS {
                    registry.history.renewed(now);
                }
                registry.failing = None;
                registry.next = Some(next);
            });
        }
        info!(
            origin = %self.assignment.origin,
            identity,
            outcome,
            %because,
            expires = %self.shown(life.expires()),
            next = %self.shown(next.at),
            next_because = %next.reason,
            failures_before = failures,
            "credential fetched"
        );
        next
    }

    /// One of our times, for the log.
    fn shown(&self, time: SystemTime) -> impl Display {
        humantime::format_rfc3339_seconds(self.clock.to_wall(time))
    }

    fn publish(&self, credential: &Credential) {
        self.wanted.send_modify(|wanted| {
            let hosts = self.assignment.hosts.iter();
            wanted.extend(hosts.map(|host| (host.clone(), credential.clone())));
        });
    }

    fn failed(&mut self, error: &FetchError, because: Reason) -> Next {
        let now = self.clock.now();
        self.failures = self.failures.saturating_add(1);
        let life = self.current.as_ref().map(Credential::lifetime);
        let failure = Failure {
            count: self.failures,
            kind: if error.is_lasting() {
                Kind::Lasting
            } else if error.may_be_early() && life.is_none_or(|life| life.is_over(now)) {
                Kind::NotThereYet
            } else {
                Kind::Passing
            },
            is_cached: self.is_cached,
            retry_after: error.retry_after(),
        };
        let expires = life.map(Lifetime::expires);
        let next = schedule::after_failure(now, expires, failure, self.dice.f64());
        for host in &self.assignment.hosts {
            self.status.metrics.refreshed(host, error.kind().as_str());
            self.status.set_registry(host, |registry| {
                registry.last_attempt = Some(now);
                registry.history.failed(now);
                registry.failing = Some(Failing::after(
                    registry.failing.as_ref(),
                    now,
                    error.kind(),
                    error.to_string(),
                ));
                registry.next = Some(next);
            });
        }
        warn!(
            origin = %self.assignment.origin,
            kind = %error.kind(),
            %error,
            %because,
            failures = self.failures,
            left = %humantime::format_duration(Duration::from_secs(
                life.map_or(0, |life| life.left(now).as_secs())
            )),
            next = %self.shown(next.at),
            next_because = %next.reason,
            "credential not fetched"
        );
        next
    }
}

const SUCCESS: &str = "success";
const SAME_TOKEN: &str = "same_token";

/// How often the registries are asked whether they still take what was published.
const VERIFY_EVERY: Duration = Duration::from_mins(15);

/// How many registries are asked at once.
const VERIFIED_AT_ONCE: usize = 16;

/// The most that an issuer on the machine itself takes.
const LONGEST_CACHED: Duration = Duration::from_secs(10);

/// How long an issuer counts as being asked.
const LONGEST_TURN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
