//! Years of simulated time: the very loops of the daemon, on a real file, against an
//! issuer that fails, caches, hangs and denies, on a machine that is suspended, paused
//! and has its clock set. The dice are seeded; a year that goes wrong names its seed.
//!
//! `FRESHCREDS_YEARS` says how many (20), `FRESHCREDS_SEED` which one alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use freshcreds::clock::Clock;
use freshcreds::credential::{Credential, Lifetime, RegistryHost, Wanted};
use freshcreds::refresh::{Assignment, Refresh};
use freshcreds::schedule::Issuer;
use freshcreds::sources::{Fetch, FetchError, Minted, Origin, Source};
use freshcreds::status::Status;
use freshcreds::targets::memory::Memory;
use freshcreds::targets::{Options, Shared, Target};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const HOST: &str = "gcr.io";
const YEAR: Duration = Duration::from_hours(365 * 24);
/// An attempt ends after this.
const LIMIT: Duration = Duration::from_secs(30);

/// What docs/scheduling.md promises: as long as this the issuer has to be in reach, once
/// the renewal is due, and the token does not expire.
const WINDOW: Duration = Duration::from_mins(2);
/// The same after it denied, or asked to be left alone.
const WINDOW_AFTER_DENIAL: Duration = Duration::from_mins(6);
/// The same behind a cache that gives a new token only in the last minutes.
const WINDOW_OF_CACHE: Duration = Duration::from_secs(35);

/// The world outside: time as it really is, and the issuer.
struct World {
    started: Instant,
    /// For how long the machine stood still.
    stood_still: Mutex<Duration>,
    weather: Mutex<Weather>,
    issuer: Issuer,
    life: Duration,
    ledger: Mutex<Ledger>,
    calls: AtomicU64,
    /// What the last call met with: a pause that a denial has brought outlasts its weather.
    met: Mutex<Option<Fault>>,
}

/// How it is between the machine and the issuer, and since when.
#[derive(Clone, Copy, Debug)]
struct Weather {
    fault: Option<Fault>,
    since: Duration,
    /// How long it has to be fine for a renewal.
    window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Unreachable,
    Silent,
    Broken,
    Throttled,
    Denied,
}

/// Every token that was given, by its `auth`.
#[derive(Default)]
struct Ledger {
    given: BTreeMap<String, Given>,
    /// Of an issuer that caches.
    cached: Option<(String, Given)>,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    expires: Duration,
    /// From when on another one can be had.
    due: Duration,
}

impl World {
    /// The time as it really is.
    fn now(&self) -> Duration {
        let stood_still = self.stood_still.lock().map(|time| *time).unwrap_or_default();
        self.started.elapsed() + stood_still
    }

    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token that the issuer gives now, and how long it has to live.
    fn give(&self) -> (String, Given) {
        let now = self.now();
        let serial = self.calls.load(Ordering::Relaxed);
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((word, given)) = &ledger.cached
            && now < given.due
        {
            return (word.clone(), *given);
        }
        let expires = now + self.life;
        let due = match self.issuer {
            // As late as the schedule may be.
            Issuer::Minting => now + self.life.mul_f64(0.55),
            Issuer::Caching => expires - Duration::from_secs(225 + serial % 75),
        };
        let (word, given) = (format!("token-{serial}"), Given { expires, due });
        if self.issuer == Issuer::Caching {
            ledger.cached = Some((word.clone(), given));
        }
        ledger.given.insert(auth(&word), given);
        (word, given)
    }
}

fn auth(word: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("user:{word}"))
}

/// What the daemon asks.
struct Asked {
    world: Arc<World>,
    clock: Clock,
}

impl Source for Asked {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(async move {
            self.world.calls.fetch_add(1, Ordering::Relaxed);
            let service = "the issuer";
            let detail = String::new();
            let retry_after = Some(Duration::from_hours(24));
            let asked = self.clock.now();
            let fault = self.world.weather().fault;
            *self.world.met.lock().unwrap_or_else(PoisonError::into_inner) = fault;
            match fault {
                Some(Fault::Unreachable) => Err(FetchError::Unreachable { service, detail }),
                Some(Fault::Silent) => std::future::pending().await,
                Some(Fault::Broken) => {
                    Err(FetchError::Server { service, detail, retry_after: None })
                }
                Some(Fault::Throttled) => {
                    Err(FetchError::Throttled { service, detail, retry_after })
                }
                Some(Fault::Denied) => Err(FetchError::Denied { service, detail }),
                None => {
                    let (word, given) = self.world.give();
                    let left = given.expires.saturating_sub(self.world.now());
                    let life = Lifetime::new(asked, asked + left);
                    let credential = Credential::new("user", word.into(), life)
                        .map_err(|_| FetchError::TimedOut { limit: LIMIT })?;
                    let (issuer, identity) = (self.world.issuer, "someone".to_owned());
                    Ok(Minted { credential, issuer, identity, skew: None })
                }
            }
        })
    }
}

/// What came of a year.
#[derive(Debug, Default)]
struct Figures {
    calls: u64,
    renewals: usize,
    length: Duration,
    /// Looks that found an expired token, for want of an issuer.
    lapses: usize,
    down: Duration,
    faults: usize,
}

struct Year {
    world: Arc<World>,
    clock: Clock,
    status: Arc<Status>,
    path: PathBuf,
    dice: fastrand::Rng,
    figures: Figures,
    length: Duration,
}

impl Year {
    /// Fine and foul weather in turn, and now and then something happens to the clocks.
    async fn pass(&mut self) -> Result<()> {
        while self.world.now() < self.length {
            let (fault, pause) = if self.world.weather().fault.is_some() {
                // From seconds to days, each order of magnitude as likely.
                (None, 10_f64.powf(1.0 + 4.5 * self.dice.f64()))
            } else {
                let faults = [
                    Fault::Unreachable,
                    Fault::Silent,
                    Fault::Broken,
                    Fault::Throttled,
                    Fault::Denied,
                ];
                let fault = faults[self.dice.usize(..faults.len())];
                self.figures.faults += 1;
                (Some(fault), 10_f64.powf(0.5 + 4.2 * self.dice.f64()))
            };
            self.change_weather(fault);
            let pause = Duration::from_secs_f64(pause);
            if fault.is_some() {
                self.figures.down += pause;
            }
            self.wait(pause).await?;
            if self.dice.u8(..8) == 0 {
                self.disturb_clocks();
            }
        }
        Ok(())
    }

    fn change_weather(&self, fault: Option<Fault>) {
        let met = *self.world.met.lock().unwrap_or_else(PoisonError::into_inner);
        let window = match met {
            Some(Fault::Denied | Fault::Throttled) => WINDOW_AFTER_DENIAL,
            _ if self.world.issuer == Issuer::Caching => WINDOW_OF_CACHE,
            _ => WINDOW,
        };
        if let Ok(mut weather) = self.world.weather.lock() {
            *weather = Weather { fault, since: self.world.now(), window };
        }
    }

    fn disturb_clocks(&mut self) {
        self.figures.faults += 1;
        let by = Duration::from_secs_f64(10_f64.powf(5.2 * self.dice.f64()));
        match self.dice.u8(..4) {
            0 => self.clock.set_forward(by),
            1 => self.clock.set_back(by),
            // Suspended: the clock since boot goes on.
            2 => {
                self.stand_still(by);
                self.clock.resume_after(by);
            }
            // A virtual machine that is paused: only its host sets the wall clock right.
            _ => {
                self.stand_still(by);
                self.clock.set_forward(by);
            }
        }
    }

    /// Nothing runs, and what was fine is fine again from now on.
    fn stand_still(&self, by: Duration) {
        if let Ok(mut time) = self.world.stood_still.lock() {
            *time += by;
        }
        let now = self.world.now();
        if let Ok(mut weather) = self.world.weather.lock() {
            weather.since = now;
        }
    }

    /// Waits, and looks at the file whenever a token in it should no longer be there.
    #[expect(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    async fn wait(&mut self, pause: Duration) -> Result<()> {
        let end = self.world.now() + pause;
        while self.world.now() < end {
            let expires = self.in_file()?.map(|given| given.expires);
            let next = match expires {
                Some(expires) if expires > self.world.now() => expires,
                // It lapsed, or there never was one, and nobody gives another.
                _ if self.world.weather().fault.is_some() => end,
                // Somebody does: look closely.
                _ => self.world.now() + LOOK_CLOSELY,
            };
            tokio::time::sleep(next.min(end).saturating_sub(self.world.now())).await;
            self.judge()?;
        }
        Ok(())
    }

    /// The token in the file, if there is one.
    fn in_file(&self) -> Result<Option<Given>> {
        let text = std::fs::read_to_string(&self.path)?;
        let config: serde_json::Value = serde_json::from_str(&text)?;
        ensure!(config["x"] == 1, "the file is damaged: {text}");
        let Some(auth) = config["auths"][HOST]["auth"].as_str() else { return Ok(None) };
        let ledger = self.world.ledger.lock();
        let ledger = ledger.unwrap_or_else(PoisonError::into_inner);
        Ok(Some(*ledger.given.get(auth).context("a token that nobody gave")?))
    }

    /// The two promises: never an expired token while the issuer could be reached, and
    /// never a lie.
    fn judge(&mut self) -> Result<()> {
        let (now, weather) = (self.world.now(), self.world.weather());
        let given = self.in_file()?;
        let is_ready = self.status.report().is_ready();
        let is_good = given.is_some_and(|given| now < given.expires);
        if is_good {
            return Ok(());
        }
        ensure!(!is_ready, "said to be ready, with {given:?} in the file at {now:?}");
        self.figures.lapses += 1;
        let fine_since = match (weather.fault, given) {
            (None, Some(given)) => weather.since.max(given.due),
            (None, None) => weather.since,
            (Some(_), _) => return Ok(()),
        };
        let fine = now.saturating_sub(fine_since);
        if fine >= weather.window + MARGIN {
            bail!("{given:?} in the file at {now:?}, though all was fine for {fine:?}");
        }
        Ok(())
    }
}

const LOOK_CLOSELY: Duration = Duration::from_secs(5);

/// For the write, and for the grain of the looks.
const MARGIN: Duration = Duration::from_secs(6);

async fn year(seed: u64, folder: &Path, most_lives: u32) -> Result<Figures> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let (issuer, life) = match dice.u8(..4) {
        0 => (Issuer::Caching, Duration::from_hours(1)),
        1 => (Issuer::Minting, Duration::from_hours(12)),
        2 => (Issuer::Minting, Duration::from_hours(1)),
        // From two minutes to 36 hours.
        _ => (Issuer::Minting, Duration::from_secs_f64(120.0 * 1080_f64.powf(dice.f64()))),
    };
    // Far from the files' time stamps, which are real.
    let clock = Clock::simulated_in_leaps(SystemTime::UNIX_EPOCH + Duration::from_hours(1_200_000));
    let weather = Weather { fault: None, since: Duration::ZERO, window: WINDOW };
    let world = Arc::new(World {
        started: Instant::now(),
        stood_still: Mutex::default(),
        weather: Mutex::new(weather),
        issuer,
        life,
        ledger: Mutex::default(),
        calls: AtomicU64::new(0),
        met: Mutex::default(),
    });
    let host: RegistryHost = HOST.parse()?;
    let path = folder.join(format!("{seed}.json"));
    put(&path, "{\"x\":1}")?;
    let registries = [(host.clone(), Origin::Google(None))];
    let status = Arc::new(Status::new(clock.clone(), registries, [(path.clone(), "docker")]));
    let wanted = watch::Sender::new(Wanted::new());
    let assignment = Assignment {
        origin: Origin::Google(None),
        hosts: vec![host],
        source: Box::new(Asked { world: Arc::clone(&world), clock: clock.clone() }),
        limit: LIMIT,
        turns: Arc::new(Semaphore::new(1)),
        verifier: None,
    };
    let refresh = Refresh::new(
        assignment,
        clock.clone(),
        Arc::clone(&status),
        wanted.clone(),
        fastrand::Rng::with_seed(seed + 1),
    );
    let shared =
        Shared { remove_expired: false, in_environment: Arc::new([]), memory: Memory::new(None) };
    let target = Target::new(
        Options::of(path.clone()),
        shared,
        clock.clone(),
        Arc::clone(&status),
        wanted.subscribe(),
        fastrand::Rng::with_seed(seed + 2),
    );
    let stop = CancellationToken::new();
    let (_ask, asked) = watch::channel(());
    let fetching = tokio::spawn(refresh.run(stop.clone(), asked));
    let writing = tokio::spawn(target.looking_every(LOOK_EVERY).run(stop.clone()));
    let figures = Figures::default();
    let length = YEAR.min(life.saturating_mul(most_lives));
    let mut year = Year { world, clock, status, path, dice, figures, length };
    let result = year.pass().await;
    stop.cancel();
    fetching.await?;
    writing.await?;
    std::fs::remove_file(&year.path)?;
    let world = &year.world;
    result.with_context(|| {
        format!("{issuer:?}, {life:?}, {:?}: replay with FRESHCREDS_SEED={seed}", world.weather())
    })?;
    year.figures.calls = world.calls.load(Ordering::Relaxed);
    year.figures.length = year.length;
    let ledger = world.ledger.lock().unwrap_or_else(PoisonError::into_inner);
    year.figures.renewals = ledger.given.len();
    let (calls, stated) =
        (year.figures.calls, stated_calls(issuer, life, year.length, &year.figures));
    ensure!(calls <= stated, "{calls} calls, and {stated} are what was stated: seed {seed}");
    Ok(year.figures)
}

/// The most calls that docs/scheduling.md allows.
fn stated_calls(issuer: Issuer, life: Duration, length: Duration, figures: &Figures) -> u64 {
    // While it is fine: one at 45 percent of a life at the earliest; of a cache, up to
    // twenty looks in the last five minutes of each token.
    let fine = match issuer {
        Issuer::Minting => length.as_secs_f64() / (life.as_secs_f64() * 0.45),
        Issuer::Caching => length.as_secs_f64() / (life.as_secs_f64() - 300.0) * 21.0,
    };
    // While it is not: one in five seconds in the mean, and a handful at the start of
    // each fault, and while the end of a token comes close.
    let foul = figures.down.as_secs_f64() / 5.0;
    let faults = u32::try_from(figures.faults).unwrap_or(u32::MAX);
    let renewals = u32::try_from(figures.renewals).unwrap_or(u32::MAX);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a year's calls")]
    let stated = (fine + foul + f64::from(faults) * 40.0 + f64::from(renewals)) as u64;
    stated
}

/// Of one seed, if it is not a campaign: more than a year of tokens that live an hour.
const MOST_LIVES: u32 = 9_000;

/// A year has half a million minutes.
const LOOK_EVERY: Duration = Duration::from_hours(1);

#[expect(clippy::disallowed_methods, reason = "a test is another program, and may write in place")]
fn put(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text)?)
}

fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?)),
        Err(_) => Ok(None),
    }
}

/// In memory where there is a place for it: nobody pulls the plug here.
fn folder() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("freshcreds-simulation-").tempdir_in(memory);
    Ok(builder.or_else(|_| tempfile::tempdir())?)
}

#[test]
fn no_token_expires_in_any_year_while_its_issuer_can_be_reached() -> Result<()> {
    let seeds: Vec<u64> = match (number("FRESHCREDS_SEED")?, number("FRESHCREDS_YEARS")?) {
        (Some(seed), _) => vec![seed],
        (None, years) => (0..years.unwrap_or(20)).collect(),
    };
    // Of a token that lives for minutes, a year is long.
    let is_campaign = number("FRESHCREDS_YEARS")?.is_some();
    let most_lives = if is_campaign { u32::MAX } else { MOST_LIVES };
    let folder = folder()?;
    let next = AtomicU64::new(0);
    let all = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let seed = usize::try_from(index).ok().and_then(|index| seeds.get(index));
                    let Some(seed) = seed else { return };
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .start_paused(true)
                        .build();
                    let result = match runtime {
                        Ok(runtime) => runtime.block_on(year(*seed, folder.path(), most_lives)),
                        Err(error) => Err(error.into()),
                    };
                    if let Ok(mut all) = all.lock() {
                        all.push((*seed, result));
                    }
                }
            });
        }
    });
    let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut sum = Figures::default();
    let mut wrong = Vec::new();
    for (seed, result) in all {
        match result {
            Ok(figures) => {
                sum.calls += figures.calls;
                sum.renewals += figures.renewals;
                sum.length += figures.length;
                sum.lapses += figures.lapses;
                sum.down += figures.down;
                sum.faults += figures.faults;
            }
            Err(error) => wrong.push(format!("seed {seed}: {error:#}")),
        }
    }
    println!(
        "{} seeds, {} days, {} faults, {} renewals by {} calls; out of reach for {} days in all, and {} \
         looks found no good token; {} went wrong",
        seeds.len(),
        sum.length.as_secs() / 86_400,
        sum.faults,
        sum.renewals,
        sum.calls,
        sum.down.as_secs() / 86_400,
        sum.lapses,
        wrong.len(),
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
