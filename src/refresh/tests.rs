use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;

use secrecy::SecretString;

use super::*;
use crate::schedule::{Issuer, Reason};
use crate::sources::Fetch;

type Script = Box<dyn FnMut(SystemTime) -> Result<Minted, FetchError> + Send>;

/// An issuer in memory, which answers what the test makes up.
struct Fake {
    clock: Clock,
    script: Mutex<Script>,
    calls: Arc<Mutex<Vec<SystemTime>>>,
}

impl Source for Fake {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(async move {
            let now = self.clock.now();
            self.calls.lock().unwrap().push(now);
            (self.script.lock().unwrap())(now)
        })
    }
}

/// An issuer that never answers.
struct Silent;

impl Source for Silent {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(std::future::pending())
    }
}

struct Bench {
    clock: Clock,
    status: Arc<Status>,
    wanted: watch::Sender<Wanted>,
    refresh: Refresh,
    calls: Arc<Mutex<Vec<SystemTime>>>,
}

impl Bench {
    fn new(script: impl FnMut(SystemTime) -> Result<Minted, FetchError> + Send + 'static) -> Self {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        let calls = Arc::default();
        let script: Mutex<Script> = Mutex::new(Box::new(script));
        let source = Fake { clock: clock.clone(), script, calls: Arc::clone(&calls) };
        Self::of(clock, Box::new(source), calls)
    }

    fn of(clock: Clock, source: Box<dyn Source>, calls: Arc<Mutex<Vec<SystemTime>>>) -> Self {
        let status = Arc::new(Status::new(clock.clone(), [(host(), Origin::Google(None))], []));
        let wanted = watch::Sender::new(Wanted::new());
        let limit = Duration::from_secs(30);
        let turns = Arc::new(Semaphore::new(1));
        let origin = Origin::Google(None);
        let assignment =
            Assignment { origin, hosts: vec![host()], source, limit, turns, verifier: None };
        let dice = fastrand::Rng::with_seed(7);
        let refresh =
            Refresh::new(assignment, clock.clone(), Arc::clone(&status), wanted.clone(), dice);
        Self { clock, status, wanted, refresh, calls }
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    fn has_expired(&self) -> bool {
        let now = self.clock.now();
        self.wanted.borrow().get(&host()).is_none_or(|known| known.lifetime().is_over(now))
    }
}

fn host() -> RegistryHost {
    "gcr.io".parse().unwrap()
}

fn mint(word: &str, now: SystemTime, length: Duration, issuer: Issuer) -> Minted {
    let life = Lifetime::new(now, now + length);
    let credential = Credential::new("user", SecretString::from(word), life).unwrap();
    Minted { credential, issuer, identity: "someone".to_owned(), skew: None }
}

fn unreachable() -> FetchError {
    FetchError::Unreachable { service: "Fake", detail: "down".to_owned() }
}

fn denied() -> FetchError {
    FetchError::Denied { service: "Fake", detail: "no".to_owned() }
}

const TWELVE_HOURS: Duration = Duration::from_hours(12);

/// Runs the loop for a week of simulated time and looks each minute whether the
/// credential is good.
async fn week(bench: Bench) -> (u64, usize) {
    let (stop, (_ask, asked)) = (CancellationToken::new(), watch::channel(()));
    let (clock, wanted, calls) =
        (bench.clock.clone(), bench.wanted.clone(), Arc::clone(&bench.calls));
    let loops = tokio::spawn(bench.refresh.run(stop.clone(), asked));
    clock.sleep(Duration::from_secs(5)).await;
    let mut lapsed = 0;
    for _ in 0..7 * 24 * 60 {
        clock.sleep(Duration::from_mins(1)).await;
        let now = clock.now();
        lapsed += u64::from(
            wanted.borrow().values().next().is_none_or(|one| one.lifetime().is_over(now)),
        );
    }
    stop.cancel();
    loops.await.unwrap();
    let calls = calls.lock().unwrap().len();
    (lapsed, calls)
}

#[tokio::test(start_paused = true)]
async fn a_quiet_week_costs_four_calls_a_day() {
    let mut serial = 0;
    let bench = Bench::new(move |now| {
        serial += 1;
        Ok(mint(&format!("{serial}"), now, TWELVE_HOURS, Issuer::Minting))
    });
    let (lapsed, calls) = week(bench).await;
    assert_eq!(lapsed, 0);
    assert!((26..=32).contains(&calls), "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn an_outage_never_lets_the_credential_lapse() {
    // Two minutes in every six hours are all that the cloud can be reached.
    let mut start = None;
    let mut serial = 0;
    let bench = Bench::new(move |now| {
        let start = *start.get_or_insert(now);
        let since = now.duration_since(start).unwrap().as_secs();
        if since > 60 && since % (6 * 3600) > 120 {
            return Err(unreachable());
        }
        serial += 1;
        Ok(mint(&format!("{serial}"), now, TWELVE_HOURS, Issuer::Minting))
    });
    let (lapsed, calls) = week(bench).await;
    assert_eq!(lapsed, 0);
    assert!(calls < 7 * 24 * 60 * 3, "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn a_caching_issuer_is_asked_in_its_tokens_last_minutes_and_never_lapses() {
    // One token an hour; the next one comes four minutes before the end.
    let mut held: VecDeque<(String, SystemTime)> = VecDeque::new();
    let bench = Bench::new(move |now| {
        let is_stale = held.back().is_none_or(|(_, expires)| {
            expires.duration_since(now).unwrap_or_default() < Duration::from_mins(4)
        });
        if is_stale {
            held.push_back((format!("{}", held.len()), now + Duration::from_hours(1)));
        }
        let (word, expires) = held.back().unwrap();
        let left = expires.duration_since(now).unwrap();
        Ok(mint(word, now, left, Issuer::Caching))
    });
    let (lapsed, calls) = week(bench).await;
    assert_eq!(lapsed, 0);
    // 56 minutes a token; a handful of looks at each.
    assert!((180 * 2..180 * 7).contains(&calls), "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_an_outcome_of_its_own_and_writes_nothing() {
    let start = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)).now();
    let mut bench = Bench::new(move |now| {
        let left = (start + Duration::from_hours(1)).duration_since(now).unwrap();
        Ok(mint("same", now, left, Issuer::Caching))
    });
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    let mut changes = bench.wanted.subscribe();
    bench.clock.sleep(Duration::from_mins(30)).await;
    let (result, next) = bench.refresh.fetch(Reason::First).await;
    result.unwrap();
    assert!(!changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(next.reason, Reason::LastMinutes);
    let text = bench.status.metrics.text();
    assert!(text.contains("outcome=\"same_token\"} 1"), "{text}");
    assert!(text.contains("outcome=\"success\"} 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_old_credential_and_says_what_is_wrong() {
    let mut answers = VecDeque::from([true, false, false, true]);
    let mut bench = Bench::new(move |now| {
        if answers.pop_front().unwrap() {
            Ok(mint("word", now, TWELVE_HOURS, Issuer::Minting))
        } else {
            Err(unreachable())
        }
    });
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    bench.refresh.fetch(Reason::First).await.0.unwrap_err();
    bench.refresh.fetch(Reason::First).await.0.unwrap_err();
    assert!(!bench.has_expired());
    let check = bench.status.report().checks.credentials.remove(0);
    assert_eq!(check.consecutive_failures, 2);
    let error = check.last_error.unwrap();
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("unreachable", "cannot reach Fake: down")
    );
    assert!(error.since.is_some());
    assert!(check.next_refresh_reason.unwrap().contains("failed"));

    bench.clock.sleep(Duration::from_mins(1)).await;
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    let check = bench.status.report().checks.credentials.remove(0);
    assert_eq!(check.consecutive_failures, 0);
    assert!(check.last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_issuer_is_given_up_after_the_limit() {
    let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(1));
    let mut bench = Bench::of(clock.clone(), Box::new(Silent), Arc::default());
    let (result, _) = bench.refresh.fetch(Reason::First).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind().as_str(), "timeout");
    assert_eq!(error.to_string(), "no answer within 30s");
    assert!(clock.monotonic() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn once_tries_again_only_where_it_may_help() {
    let mut bench = Bench::new(|_| Err(unreachable()));
    bench.refresh.run_once(3, bench.clock.now()).await.unwrap_err();
    assert_eq!(bench.calls(), 3);

    let mut bench = Bench::new(|_| Err(denied()));
    bench.refresh.run_once(3, bench.clock.now() + TWELVE_HOURS).await.unwrap_err();
    assert_eq!(bench.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn once_waits_as_long_as_it_is_told_to_and_no_longer_than_it_must() {
    let start = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)).now();
    let mut bench = Bench::new(move |now| {
        if now < start + Duration::from_secs(40) {
            return Err(unreachable());
        }
        Ok(mint("word", now, TWELVE_HOURS, Issuer::Minting))
    });
    let until = bench.clock.now() + Duration::from_secs(20);
    bench.refresh.run_once(3, until).await.unwrap_err();
    assert!(bench.clock.now() > until - Duration::from_secs(3));
    bench.refresh.run_once(3, until + Duration::from_hours(1)).await.unwrap();
    // It is there within two seconds of the network.
    assert!(bench.clock.now() <= start + Duration::from_secs(42));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_brings_the_end_closer_is_believed() {
    let mut lives = VecDeque::from([TWELVE_HOURS, Duration::from_hours(1)]);
    let mut bench =
        Bench::new(move |now| Ok(mint("same", now, lives.pop_front().unwrap(), Issuer::Minting)));
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    let (_, next) = bench.refresh.fetch(Reason::First).await;
    let now = bench.clock.now();
    let left = bench.wanted.borrow()[&host()].lifetime().left(now);
    assert!(left <= Duration::from_hours(1), "{left:?}");
    assert!(next.at < now + left);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_does_not_keep_others_from_being_asked() {
    let silent = Bench::new(|_| Err(unreachable()));
    let turns = Arc::clone(&silent.refresh.assignment.turns);
    let mut silent = silent;
    silent.refresh.assignment.source = Box::new(Silent);
    let clock = silent.clock.clone();
    let hanging = tokio::spawn(async move { silent.refresh.fetch(Reason::First).await.0.is_err() });
    clock.sleep(Duration::from_secs(1)).await;
    assert_eq!(turns.available_permits(), 0);
    clock.sleep(Duration::from_secs(2)).await;
    assert_eq!(turns.available_permits(), 1);
    assert!(hanging.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_signal_fetches_now_and_a_stop_ends_even_a_fetch_under_way() {
    let bench = Bench::new(|now| Ok(mint("word", now, TWELVE_HOURS, Issuer::Minting)));
    let (stop, (ask, asked)) = (CancellationToken::new(), watch::channel(()));
    let (clock, calls) = (bench.clock.clone(), Arc::clone(&bench.calls));
    let loops = tokio::spawn(bench.refresh.run(stop.clone(), asked));
    clock.sleep(Duration::from_secs(1)).await;
    assert_eq!(calls.lock().unwrap().len(), 1);
    ask.send_replace(());
    clock.sleep(Duration::from_secs(1)).await;
    assert_eq!(calls.lock().unwrap().len(), 2);
    stop.cancel();
    loops.await.unwrap();

    let silent = Bench::of(clock.clone(), Box::new(Silent), Arc::default());
    let (stop, (_ask, asked)) = (CancellationToken::new(), watch::channel(()));
    let loops = tokio::spawn(silent.refresh.run(stop.clone(), asked));
    clock.sleep(Duration::from_secs(1)).await;
    stop.cancel();
    loops.await.unwrap();
}

/// A registry that says what the test makes up of a token.
struct Door(Box<dyn Fn(&str) -> Answer + Send + Sync>);

impl Verifier for Door {
    fn ask<'a>(
        &'a self,
        _: &'a RegistryHost,
        credential: &'a Credential,
    ) -> crate::registry::Asking<'a> {
        use secrecy::ExposeSecret;
        let answer = (self.0)(credential.secret().expose_secret());
        Box::pin(std::future::ready(answer))
    }
}

fn refused() -> Answer {
    Answer::Refused { detail: "HTTP 401".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_registry_refuses_is_not_published_and_another_is_fetched_at_once() {
    let mut serial = 0;
    let mut bench = Bench::new(move |now| {
        serial += 1;
        Ok(mint(&format!("{serial}"), now, TWELVE_HOURS, Issuer::Minting))
    });
    let door = Door(Box::new(|word| if word == "1" { refused() } else { Answer::Taken }));
    bench.refresh.assignment.verifier = Some(Arc::new(door));
    let (result, next) = bench.refresh.fetch(Reason::First).await;
    assert_eq!(result.unwrap_err().kind().as_str(), "rejected");
    assert!(bench.wanted.borrow().is_empty());
    assert!(next.at <= bench.clock.now() + Duration::from_secs(2));
    let check = bench.status.report().checks.credentials.remove(0);
    assert_eq!(check.verification.as_deref(), Some("refused"));
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    assert!(!bench.has_expired());
    let check = bench.status.report().checks.credentials.remove(0);
    assert_eq!(check.verification.as_deref(), Some("taken"));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_refuses_every_token_is_asked_slowly_and_the_old_one_stays() {
    let is_shut = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shut = Arc::clone(&is_shut);
    let mut serial = 0;
    let mut bench = Bench::new(move |now| {
        serial += 1;
        Ok(mint(&format!("{serial}"), now, TWELVE_HOURS, Issuer::Minting))
    });
    let door = Door(Box::new(move |_| {
        if shut.load(std::sync::atomic::Ordering::Relaxed) { refused() } else { Answer::Taken }
    }));
    bench.refresh.assignment.verifier = Some(Arc::new(door));
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    is_shut.store(true, std::sync::atomic::Ordering::Relaxed);
    let status = Arc::clone(&bench.status);
    let (clock, calls, wanted) =
        (bench.clock.clone(), Arc::clone(&bench.calls), bench.wanted.clone());
    let (stop, (_ask, asked)) = (CancellationToken::new(), watch::channel(()));
    let now = bench.clock.now();
    bench.refresh.first = Next { at: now + TWELVE_HOURS / 2, reason: Reason::HalfLife };
    let loops = tokio::spawn(bench.refresh.run(stop.clone(), asked));
    // The registry is asked every quarter of an hour: that is when it comes out.
    clock.sleep(Duration::from_mins(17)).await;
    let check = status.report().checks.credentials.remove(0);
    assert_eq!(check.verification.as_deref(), Some("refused"));
    assert!(check.output.unwrap().contains("the registry refuses"));
    let first = calls.lock().unwrap().len();
    clock.sleep(Duration::from_hours(1)).await;
    let more = calls.lock().unwrap().len() - first;
    assert!((10..=40).contains(&more), "{more} calls in an hour");
    let word = secrecy::ExposeSecret::expose_secret(wanted.borrow()[&host()].secret()).to_owned();
    assert_eq!(word, "1", "what stands there is as good at least");
    stop.cancel();
    loops.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_cannot_be_asked_changes_nothing() {
    let mut bench = Bench::new(|now| Ok(mint("1", now, TWELVE_HOURS, Issuer::Minting)));
    let door = Door(Box::new(|_| Answer::Unknown { detail: "down".to_owned() }));
    bench.refresh.assignment.verifier = Some(Arc::new(door));
    bench.refresh.fetch(Reason::First).await.0.unwrap();
    assert!(!bench.has_expired());
    let check = bench.status.report().checks.credentials.remove(0);
    assert_eq!(check.verification.as_deref(), Some("unknown"));
}
