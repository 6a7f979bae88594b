//! The loop of one issuer: fetch, publish, and wait until the schedule says when.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::credential::{Credential, Lifetime, RegistryHost, Wanted};
use crate::schedule::{self, Failure, Issuer, Kind, Next};
use crate::sources::{FetchError, Minted, Origin, Source};
use crate::status::{Failing, Status};

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
        info!(
            origin = %self.assignment.origin,
            expires = %humantime::format_rfc3339_seconds(self.clock.to_wall(life.expires())),
            next = %humantime::format_rfc3339_seconds(self.clock.to_wall(next.at)),
            "going on with the credential of an earlier run"
        );
        self
    }

    /// Keeps the credential fresh until `stop`; a change of `asked` makes it
    /// fetch at once.
    pub async fn run(mut self, stop: CancellationToken, mut asked: watch::Receiver<()>) {
        let mut next = self.first;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = asked.changed() => {}
                () = self.clock.sleep_until(next.at) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                (_, after) = self.fetch() => next = after,
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
        loop {
            match self.fetch().await {
                (Ok(()), _) => return Ok(()),
                (Err(error), next) => {
                    let is_over = self.failures >= tries && next.at > until;
                    if is_over || error.is_lasting() {
                        return Err(error);
                    }
                    self.clock.sleep_until(next.at).await;
                }
            }
        }
    }

    /// Asks once, publishes what came, and says when to ask again.
    async fn fetch(&mut self) -> (Result<(), FetchError>, Next) {
        match self.ask().await {
            Ok(minted) => (Ok(()), self.succeeded(minted)),
            Err(error) => {
                let next = self.failed(&error);
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

    fn succeeded(&mut self, minted: Minted) -> Next {
        let now = self.clock.now();
        let Minted { credential, issuer, identity, skew } = minted;
        self.is_cached = issuer == Issuer::Caching;
        let dice = self.dice.f64();
        let known = self.current.as_ref().filter(|known| known.is_same_token(&credential));
        let known = known
            .map(Credential::lifetime)
            .filter(|known| credential.lifetime().expires() < known.expires() + SAME_EXPIRY);
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
                registry.failing = None;
                registry.next = Some(next);
            });
        }
        info!(
            origin = %self.assignment.origin,
            identity,
            outcome,
            expires = %humantime::format_rfc3339_seconds(self.clock.to_wall(life.expires())),
            next = %humantime::format_rfc3339_seconds(self.clock.to_wall(next.at)),
            because = %next.reason,
            failures_before = failures,
            "credential fetched"
        );
        next
    }

    fn publish(&self, credential: &Credential) {
        self.wanted.send_modify(|wanted| {
            let hosts = self.assignment.hosts.iter();
            wanted.extend(hosts.map(|host| (host.clone(), credential.clone())));
        });
    }

    fn failed(&mut self, error: &FetchError) -> Next {
        let now = self.clock.now();
        self.failures = self.failures.saturating_add(1);
        let life = self.current.as_ref().map(Credential::lifetime);
        let failure = Failure {
            count: self.failures,
            kind: match self.current {
                _ if error.is_lasting() => Kind::Lasting,
                None if error.may_be_early() => Kind::NotThereYet,
                _ => Kind::Passing,
            },
            is_cached: self.is_cached,
            retry_after: error.retry_after(),
        };
        let expires = life.map(Lifetime::expires);
        let next = schedule::after_failure(now, expires, failure, self.dice.f64());
        for host in &self.assignment.hosts {
            self.status.metrics.refreshed(host, error.kind());
            self.status.set_registry(host, |registry| {
                registry.last_attempt = Some(now);
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
            kind = error.kind(),
            %error,
            failures = self.failures,
            left = %humantime::format_duration(Duration::from_secs(
                life.map_or(0, |life| life.left(now).as_secs())
            )),
            next = %humantime::format_rfc3339_seconds(self.clock.to_wall(next.at)),
            because = %next.reason,
            "credential not fetched"
        );
        next
    }
}

const SUCCESS: &str = "success";
const SAME_TOKEN: &str = "same_token";

/// The most that an issuer on the machine itself takes.
const LONGEST_CACHED: Duration = Duration::from_secs(10);

/// How long an issuer counts as being asked.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// An expiry that is worked out from "expires in … seconds" moves by a second or
/// two with each answer.
const SAME_EXPIRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
