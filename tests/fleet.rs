//! Ten thousand twins against one quota, by the very rules of `schedule`: what they ask
//! for in each second, and whether all of them are served. `make fleet` prints the
//! figures and draws `docs/fleet.svg`.
//!
//! The quota is ECR's for an account and region: 20 calls a second, and 200 at once
//! (<https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html>).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use freshcreds::credential::Lifetime;
use freshcreds::schedule::{self, Failure, Issuer, Kind};

const CALLS_A_SECOND: f64 = 20.0;
const BURST: f64 = 200.0;
const TWELVE_HOURS: Duration = Duration::from_hours(12);
/// A call and its answer.
const ANSWER: Duration = Duration::from_millis(100);

/// A token bucket.
struct Quota {
    left: f64,
    at: Duration,
}

impl Quota {
    fn full() -> Self {
        Self { left: BURST, at: Duration::ZERO }
    }

    fn allows(&mut self, now: Duration) -> bool {
        let gained = now.saturating_sub(self.at).as_secs_f64() * CALLS_A_SECOND;
        (self.left, self.at) = ((self.left + gained).min(BURST), now);
        let is_allowed = self.left >= 1.0;
        if is_allowed {
            self.left -= 1.0;
        }
        is_allowed
    }
}

#[derive(Clone, Copy, Default)]
struct Daemon {
    life: Option<Lifetime>,
    failures: u32,
}

/// What a fleet did in a while.
#[derive(Default)]
struct Figures {
    calls: u64,
    refused: u64,
    /// When the last one had its first token.
    last_served: Duration,
    /// How often a token expired before there was another.
    expired: u64,
    /// Calls in each minute.
    minutes: Vec<u32>,
    /// In each second.
    seconds: Vec<u32>,
}

impl Figures {
    fn count(&mut self, now: Duration, is_allowed: bool) {
        self.calls += 1;
        self.refused += u64::from(!is_allowed);
        for (all, index) in
            [(&mut self.minutes, now.as_secs() / 60), (&mut self.seconds, now.as_secs())]
        {
            let index = usize::try_from(index).unwrap_or(usize::MAX - 1);
            if all.len() <= index {
                all.resize(index + 1, 0);
            }
            all[index] += 1;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    fn share_refused(&self) -> f64 {
        self.refused as f64 / self.calls as f64
    }

    fn peak(&self) -> u32 {
        self.seconds.iter().copied().max().unwrap_or_default()
    }
}

/// Follows daemons that all run for `length`. `first` throws when one asks first, and the
/// token that it has then.
fn follow(
    count: u32,
    length: Duration,
    mut first: impl FnMut(&mut fastrand::Rng) -> (Duration, Option<Lifetime>),
) -> Figures {
    let mut dice = fastrand::Rng::with_seed(u64::from(count));
    let (mut quota, mut figures) = (Quota::full(), Figures::default());
    let mut daemons = Vec::new();
    let mut queue = BinaryHeap::new();
    for index in 0..count {
        let (at, life) = first(&mut dice);
        daemons.push(Daemon { life, failures: 0 });
        queue.push(Reverse((at, index)));
    }
    while let Some(Reverse((now, index))) = queue.pop() {
        if now >= length {
            break;
        }
        let Some(daemon) = usize::try_from(index).ok().and_then(|index| daemons.get_mut(index))
        else {
            continue;
        };
        let is_allowed = quota.allows(now);
        figures.count(now, is_allowed);
        let answered = at(now + ANSWER);
        let next = if is_allowed {
            match daemon.life {
                Some(life) => figures.expired += u64::from(life.is_over(answered)),
                None => figures.last_served = now + ANSWER,
            }
            let life = Lifetime::new(at(now), at(now) + TWELVE_HOURS);
            *daemon = Daemon { life: Some(life), failures: 0 };
            schedule::after_success(life, Issuer::Minting, dice.f64())
        } else {
            daemon.failures += 1;
            let kind = Kind::Passing;
            let failure =
                Failure { count: daemon.failures, kind, is_cached: false, retry_after: None };
            let expires = daemon.life.map(Lifetime::expires);
            schedule::after_failure(answered, expires, failure, dice.f64())
        };
        queue.push(Reverse((since(next.at), index)));
    }
    figures
}

/// Those that a clock starts every `pause`, and that try three times within seconds as
/// the AWS CLI does.
fn cron(count: u32, length: Duration, pause: Duration) -> Figures {
    let mut dice = fastrand::Rng::with_seed(1);
    let (mut quota, mut figures) = (Quota::full(), Figures::default());
    let mut start = Duration::ZERO;
    while start < length {
        let mut queue: BinaryHeap<_> = (0..count)
            // Starting a shell and a Python takes about that long, more or less.
            .map(|_| Reverse((start + Duration::from_secs(1).mul_f64(dice.f64()), 1_u32)))
            .collect();
        while let Some(Reverse((now, attempt))) = queue.pop() {
            let is_allowed = quota.allows(now);
            figures.count(now, is_allowed);
            if !is_allowed && attempt < 3 {
                let ceiling = Duration::from_secs(1) * 2_u32.pow(attempt - 1);
                queue.push(Reverse((now + ceiling.mul_f64(dice.f64()), attempt + 1)));
            } else if !is_allowed {
                figures.expired += 1;
            }
        }
        start += pause;
    }
    figures
}

/// A moment of the simulation as the schedule knows it.
fn at(time: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + EPOCH + time
}

fn since(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default()
}

const EPOCH: Duration = Duration::from_hours(500_000);
const DAY: Duration = Duration::from_hours(24);

/// All are started in the same second, and have nothing.
fn cold_start() -> Figures {
    follow(10_000, DAY, |dice| {
        let started = Duration::from_secs(1).mul_f64(dice.f64());
        (since(schedule::at_start(at(started), dice.f64()).at), None)
    })
}

/// All are at some point of a token's life.
fn at_rest(count: u32) -> Figures {
    follow(count, DAY, |dice| {
        // Somewhere between the last renewal and the next.
        let now = at(Duration::ZERO);
        let life = Lifetime::new(now, now + TWELVE_HOURS);
        let next = schedule::after_success(life, Issuer::Minting, dice.f64());
        let age = since(next.at).mul_f64(dice.f64());
        let life = Lifetime::new(now - age, now - age + TWELVE_HOURS);
        (since(next.at - age), Some(life))
    })
}

/// All are started again in the same second, after `age` of their tokens' lives.
fn restart(age: Duration) -> Figures {
    follow(10_000, Duration::from_hours(2), |dice| {
        let issued = at(Duration::ZERO) - age;
        let life = Lifetime::new(issued, issued + TWELVE_HOURS);
        (since(schedule::after_restart(at(Duration::ZERO), life, dice.f64()).at), Some(life))
    })
}

#[test]
fn ten_thousand_that_start_in_one_second_are_served_as_fast_as_the_quota_allows() -> Result<()> {
    let figures = cold_start();
    let allowed = (10_000.0 - BURST) / CALLS_A_SECOND;
    let took = figures.last_served.as_secs_f64();
    println!(
        "10,000 cold starts: the last is served after {took:.0} s, {:.2} times what the quota \
         takes ({allowed:.0} s); {} calls in the first day, {} of them refused, at most {} a \
         second, {} tokens expired",
        took / allowed,
        figures.calls,
        figures.refused,
        figures.peak(),
        figures.expired
    );
    ensure!(took <= allowed * 1.2 && figures.expired == 0);
    Ok(())
}

#[test]
fn a_region_has_room_for_380_000_daemons_at_rest() -> Result<()> {
    let figures = at_rest(380_000);
    println!(
        "380,000 at rest: {:.1} calls a second in the mean, {:.2} % of {} refused, {} tokens \
         expired (half-life takes 432,000 at the very most)",
        figures.seconds.iter().map(|count| f64::from(*count)).sum::<f64>() / DAY.as_secs_f64(),
        figures.share_refused() * 100.0,
        figures.calls,
        figures.expired
    );
    ensure!(figures.expired == 0 && figures.share_refused() < 0.01);
    Ok(())
}

#[test]
fn a_fleet_that_is_updated_does_not_ask_at_once() -> Result<()> {
    let young = restart(Duration::from_hours(1));
    ensure!(young.calls == 0, "{} calls though all tokens were young", young.calls);
    let old = restart(Duration::from_hours(8));
    println!(
        "10,000 restarts with old tokens: at most {} calls a second, {} expired",
        old.peak(),
        old.expired
    );
    ensure!(old.peak() <= 60 && old.expired == 0);
    Ok(())
}

/// Three rows of calls a minute through a day, on a scale of powers of ten.
fn picture(rows: &[(&str, &Figures)]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 110.0;
    const LEFT: f64 = 56.0;
    const GAP: f64 = 44.0;
    let total = 24.0 + (HEIGHT + GAP) * f64::from(u32::try_from(rows.len()).unwrap_or(0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {total:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Calls a minute of 10,000 daemons through a day</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        LEFT + WIDTH + 16.0
    );
    let mut top = 24.0;
    for (name, figures) in rows {
        let y = |calls: f64| top + HEIGHT - HEIGHT * (calls.max(1.0).log10() / 5.0).min(1.0);
        let _ =
            writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\" fill=\"#111\">{name}</text>", top - 6.0);
        for power in [0, 2, 4] {
            let (line, label) = (y(10_f64.powi(power)), 10_i32.pow(power.unsigned_abs()));
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {line:.1}h{WIDTH}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{label}</text>",
                LEFT - 6.0,
                line + 4.0
            );
        }
        // What the quota allows.
        let line = y(CALLS_A_SECOND * 60.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {line:.1}h{WIDTH}\" stroke=\"#b00\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" fill=\"#b00\">the quota</text>",
            LEFT + 96.0,
            line - 4.0
        );
        let mut path = String::new();
        for (minute, calls) in figures.minutes.iter().take(24 * 60).enumerate() {
            let x = LEFT + WIDTH * f64::from(u32::try_from(minute).unwrap_or(0)) / (24.0 * 60.0);
            if *calls > 0 {
                let _ = write!(path, "M{x:.1} {:.1}V{:.1}", y(1.0), y(f64::from(*calls)));
            }
        }
        let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"#05a\" stroke-width=\"0.7\"/>");
        for hour in [0, 6, 12, 18, 24] {
            let x = LEFT + WIDTH * f64::from(hour) / 24.0;
            let _ = writeln!(
                svg,
                "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{hour} h</text>",
                top + HEIGHT + 16.0
            );
        }
        top += HEIGHT + GAP;
    }
    svg.push_str("</svg>\n");
    svg
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a picture is no credential")]
fn the_picture_in_the_documents_is_of_these_rules() -> Result<()> {
    let ours = cold_start();
    let six_hours = cron(10_000, DAY, Duration::from_hours(6));
    let hourly = cron(10_000, DAY, Duration::from_hours(1));
    println!(
        "10,000 by cron every 6 hours: {} of {} runs end without a token; every 60 minutes: {} of {}",
        six_hours.expired, 40_000, hourly.expired, 240_000
    );
    let svg = picture(&[
        ("freshcreds: calls a minute of 10,000 that were started in the same second", &ours),
        ("cron every 6 hours, the AWS CLI", &six_hours),
        ("cron every 60 minutes, the AWS CLI", &hourly),
    ]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.svg");
    if std::env::var_os("FRESHCREDS_DRAW").is_some() {
        std::fs::write(&path, &svg)?;
    }
    ensure!(std::fs::read_to_string(path)? == svg, "run `make fleet`, which draws it again");
    Ok(())
}
