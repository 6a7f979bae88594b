//! Who of several replicas works: the one that has the Lease.
//!
//! As in Kubernetes' own components, whoever has it renews it, and whoever does not takes it
//! once it has not been renewed for as long as it says. Nobody compares clocks: the time counts
//! from when a change was last seen.
//! <https://kubernetes.io/docs/concepts/architecture/leases/>

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{LeaseName, Link, Refusal};
use crate::clock::Clock;

/// What a replica knows about who works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is this one.
    pub is_leading: bool,
    /// Who it is, if anybody is known to be.
    pub holder: Option<String>,
    /// Why nobody knows, if so.
    pub failing: Option<Refusal>,
}

/// Takes part in the election.
pub struct Election {
    link: Arc<Link>,
    name: LeaseName,
    /// What this replica is called.
    me: String,
    clock: Clock,
    standing: watch::Sender<Standing>,
    /// The Lease as it was seen last, and since when it has been so, by the monotonic clock.
    seen: Option<(Lease, Duration)>,
    /// When it was last renewed by us, by the clock that goes on while the machine is suspended:
    /// to whoever else stands, it has run out meanwhile.
    renewed: Option<SystemTime>,
}

impl Election {
    /// One that nobody has taken part in yet.
    #[must_use]
    pub fn new(link: Arc<Link>, name: LeaseName, me: String, clock: Clock) -> Self {
        let standing = watch::Sender::default();
        Self { link, name, me, clock, standing, seen: None, renewed: None }
    }

    /// Where it is told who works.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Takes part until `stop`, and lets go of the Lease then. Whoever stops it has stopped
    /// working before.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            // A call can take its time, and the next turn comes after a pause: neither makes it
            // longer ours.
            let over = self.over();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = over => self.step_down(),
                () = self.turn() => {}
            }
            let over = self.over();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = over => self.step_down(),
                () = self.clock.sleep(RETRY_EVERY) => {}
            }
        }
        if self.standing.borrow().is_leading {
            // Else the next one has to wait until it runs out.
            drop(self.let_go().await);
        }
    }

    /// Has it for so long, whoever had it: for somebody who removes what they would put back.
    ///
    /// # Errors
    ///
    /// If it cannot be had.
    pub async fn seize(&mut self, duration: Duration) -> Result<(), Refusal> {
        for _ in 0..MOST_TRIES {
            let found = self.get().await?;
            let taken = match found {
                Some(lease) => self.put(self.taken(lease, duration)).await,
                None => self.make(duration).await,
            };
            match taken {
                Err(Refusal::Conflict(_)) => {}
                other => return other.map(drop),
            }
        }
        Err(Refusal::Conflict(format!("the lease {} changes all the time", self.name)))
    }

    /// Ends when it is not ours any more, unless it is renewed.
    fn over(&self) -> impl Future<Output = ()> + use<> {
        let (clock, end) = (self.clock.clone(), self.renewed.map(|at| at + GIVE_UP_AFTER));
        async move {
            match end {
                Some(end) => clock.sleep_until(end).await,
                None => std::future::pending().await,
            }
        }
    }

    fn step_down(&mut self) {
        self.renewed = None;
        self.standing.send_modify(|standing| {
            (standing.is_leading, standing.holder) = (false, None);
        });
    }

    async fn turn(&mut self) {
        // From before the call: what others see may be as old as that.
        let asked = self.clock.now();
        let result = self.try_to_have_it().await;
        let failing = match result {
            Ok(is_ours) => {
                self.renewed = is_ours.then_some(asked);
                None
            }
            // Somebody was faster: the next look says who.
            Err(Refusal::Conflict(_)) => None,
            Err(refusal) => Some(refusal),
        };
        let now = self.clock.now();
        let still = self.renewed.is_some_and(|at| now < at + GIVE_UP_AFTER);
        let holder = if still { Some(self.me.clone()) } else { self.holder() };
        let new = Standing { is_leading: still, holder, failing };
        self.standing.send_if_modified(|standing| {
            let is_new = *standing != new;
            *standing = new;
            is_new
        });
    }

    /// Who has it, as far as it was seen.
    fn holder(&self) -> Option<String> {
        let (lease, _) = self.seen.as_ref()?;
        let holder = lease.spec.as_ref()?.holder_identity.clone()?;
        (!holder.is_empty() && holder != self.me).then_some(holder)
    }

    /// Renews it, or takes it if nobody has it. Says whether it is ours.
    async fn try_to_have_it(&mut self) -> Result<bool, Refusal> {
        let Some(found) = self.get().await? else {
            if self.seen.is_some() && self.renewed.is_none() {
                // Somebody has deleted it, and whoever had it may not know yet.
                self.see(Lease::default());
                if !self.is_over(None) {
                    return Ok(false);
                }
            }
            let made = self.make(DURATION).await?;
            self.see(made);
            return Ok(true);
        };
        self.see(found.clone());
        let spec = found.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let is_free = holder.is_empty() || self.is_over(spec.lease_duration_seconds);
        if holder != self.me && !is_free {
            return Ok(false);
        }
        let lease = self.taken(found, DURATION);
        let taken = self.put(lease).await?;
        self.see(taken);
        Ok(true)
    }

    /// Notes a change; the same Lease keeps the time at which it was seen first.
    fn see(&mut self, lease: Lease) {
        if self.seen.as_ref().is_none_or(|(known, _)| known.spec != lease.spec) {
            self.seen = Some((lease, self.clock.monotonic()));
        }
    }

    /// Whether it has not been renewed for as long as it says.
    fn is_over(&self, seconds: Option<i32>) -> bool {
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = seconds.map_or(DURATION, Duration::from_secs).min(LONGEST);
        let now = self.clock.monotonic();
        self.seen.as_ref().is_none_or(|(_, since)| now.saturating_sub(*since) >= lasts)
    }

    /// The Lease as it is when we have it.
    fn taken(&self, mut lease: Lease, duration: Duration) -> Lease {
        let spec = lease.spec.get_or_insert_default();
        let now = self.time();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            spec.holder_identity = Some(self.me.clone());
            spec.acquire_time.clone_from(&now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.lease_duration_seconds = seconds(duration);
        spec.renew_time = now;
        lease
    }

    fn time(&self) -> Option<MicroTime> {
        Timestamp::try_from(self.clock.wall()).ok().map(MicroTime)
    }

    async fn let_go(&mut self) -> Result<(), Refusal> {
        let Some(mut lease) = self.get().await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = self.time();
        self.put(lease).await.map(drop)
    }

    async fn get(&self) -> Result<Option<Lease>, Refusal> {
        let LeaseName { namespace, name } = &self.name;
        let found = self.link.call(LIMIT, |client| async move {
            Api::<Lease>::namespaced(client, namespace).get_opt(name).await
        });
        found.await
    }

    async fn make(&self, duration: Duration) -> Result<Lease, Refusal> {
        let LeaseName { namespace, name } = &self.name;
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(LeaseSpec::default()) };
        let lease = self.taken(lease, duration);
        let made = self.link.call(LIMIT, |client| async move {
            Api::<Lease>::namespaced(client, namespace).create(&PostParams::default(), &lease).await
        });
        made.await
    }

    /// Changes it if it is still as it was found: it carries the version of then.
    async fn put(&self, lease: Lease) -> Result<Lease, Refusal> {
        let LeaseName { namespace, name } = &self.name;
        let put = self.link.call(LIMIT, |client| async move {
            let leases = Api::<Lease>::namespaced(client, namespace);
            leases.replace(name, &PostParams::default(), &lease).await
        });
        put.await
    }
}

fn seconds(duration: Duration) -> Option<i32> {
    i32::try_from(duration.as_secs()).ok()
}

/// For how long it is ours after a renewal. A renewal is seen two seconds later at the latest, and
/// its end two seconds later again: so 13 seconds after a replica was killed, at the latest, another
/// one has it.
const DURATION: Duration = Duration::from_secs(9);

/// Whoever has not renewed it for so long is believed to be gone, whatever it says.
const LONGEST: Duration = Duration::from_mins(10);

/// By when a replica has stopped working that does not have it any more, even if it cannot ask.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(7);

/// How often it is renewed, or looked at.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// Whoever could not renew it for so long stops working, whatever a call is waiting for: there
/// are some seconds left then before anybody else starts.
const GIVE_UP_AFTER: Duration = Duration::from_secs(6);

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(2);

const MOST_TRIES: u32 = 10;

#[cfg(test)]
mod tests;
