//! The loop of one issuer: fetch, publish, and wait until the schedule says when.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::credential::{Credential, Lifetime, RegistryHost, Wanted};
use crate::schedule::{self, Failure, Issuer, Next, Reason};
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
}

impl Refresh {
    /// A loop that publishes to `wanted` what its source gives.
    #[must_use]
    pub fn new(
        assignment: Assignment,
        clock: Clock,
        status: Arc<Status>,
        wanted: watch::Sender<Wanted>,
        dice: fastrand::Rng,
    ) -> Self {
        let first = Next { at: clock.now(), reason: Reason::First };
        Self { assignment, clock, status, wanted, dice, current: None, first, failures: 0 }
    }

    /// Starts with a credential of an earlier run, if it is still good: it is published,
    /// and replaced when its time has come.
    #[must_use]
    pub fn going_on_with(mut self, credential: Credential) -> Self {
        let life = credential.lifetime();
        if life.is_over(self.clock.now()) {
            return self;
        }
        // What the issuer is, nobody has said yet. Half of a life is right for one that
        // mints, and one that hands out the same again says so when it is asked.
        let next = schedule::after_success(life, Issuer::Minting, self.dice.f64());
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
            expires = %humantime::format_rfc3339_seconds(life.expires()),
            next = %humantime::format_rfc3339_seconds(next.at),
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

    /// Fetches until it succeeds, at most `tries` times, and not again after a
    /// failure that lasts.
    ///
    /// # Errors
    ///
    /// The last failure, if there was no success.
    pub async fn run_once(&mut self, tries: u32) -> Result<(), FetchError> {
        for _ in 1..tries {
            match self.fetch().await {
                (Ok(()), _) => return Ok(()),
                (Err(error), _) if error.is_lasting() => return Err(error),
                (Err(_), next) => self.clock.sleep_until(next.at).await,
            }
        }
        self.fetch().await.0
    }

    /// Asks once, publishes what came, and says when to ask again.
    async fn fetch(&mut self) -> (Result<(), FetchError>, Next) {
        let started = self.clock.monotonic();
        let asked =
            tokio::time::timeout(self.assignment.limit, self.assignment.source.fetch()).await;
        let result = asked.unwrap_or(Err(FetchError::TimedOut { limit: self.assignment.limit }));
        let took = self.clock.monotonic().saturating_sub(started);
        self.status.metrics.fetched(self.assignment.origin.kind().as_str(), took);
        match result {
            Ok(minted) => (Ok(()), self.succeeded(minted)),
            Err(error) => {
                let next = self.failed(&error);
                (Err(error), next)
            }
        }
    }

    fn succeeded(&mut self, minted: Minted) -> Next {
        let now = self.clock.now();
        let Minted { credential, issuer, identity } = minted;
        let known = self.current.as_ref().filter(|known| {
            known.is_same_token(&credential)
                && credential.lifetime().expires() < known.lifetime().expires() + SAME_EXPIRY
        });
        let dice = self.dice.f64();
        let (outcome, life, next) = if let Some(known) = known {
            // Its age is counted from when it came first.
            let life = known.lifetime();
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
            expires = %humantime::format_rfc3339_seconds(life.expires()),
            next = %humantime::format_rfc3339_seconds(next.at),
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
            is_lasting: error.is_lasting(),
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
            next = %humantime::format_rfc3339_seconds(next.at),
            because = %next.reason,
            "credential not fetched"
        );
        next
    }
}

const SUCCESS: &str = "success";
const SAME_TOKEN: &str = "same_token";

/// An expiry that is worked out from "expires in … seconds" moves by a second or
/// two with each answer.
const SAME_EXPIRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
