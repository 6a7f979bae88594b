//! What it costs a running daemon to change one entry among 10,000, beside writing
//! those bytes durably: `make bench` shows the ratio.
//!
//! `large_file FOLDER [ROUNDS]` writes to `FOLDER`, which should be on a real disk, and
//! prints the medians as JSON.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use freshcreds::clock::Clock;
use freshcreds::credential::{Credential, Lifetime, RegistryHost, Wanted};
use freshcreds::sources::Origin;
use freshcreds::status::Status;
use freshcreds::targets::memory::Memory;
use freshcreds::targets::{Options, Shared, Target};
use tokio::sync::watch;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().context("name a folder to write to")?);
    let rounds = match arguments.next() {
        Some(rounds) => rounds.to_str().context("not a number")?.parse()?,
        None => ROUNDS,
    };
    let path = folder.join("config.json");
    let text = text();
    File::create(&path)?.write_all(text.as_bytes())?;
    let mut daemon = Daemon::new(path.clone())?;
    daemon.change("first").await?;
    write_durably(&folder, &text)?;
    let (mut changes, mut writes) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        pause().await;
        // As a daemon does once a minute.
        ensure!(daemon.target.run_once().await, "the file is not as it should be");
        changes.push(daemon.change(&format!("word-{round}")).await?);
        writes.push(write_durably(&folder, &text)?);
    }
    let (change, write) = (median(changes), median(writes));
    let ratio = change.as_secs_f64() / write.as_secs_f64();
    let figures = serde_json::json!({
        "bytes": text.len(),
        "change": change.as_secs_f64(),
        "write": write.as_secs_f64(),
        "ratio": ratio,
    });
    println!("{figures}");
    std::fs::remove_file(path)?;
    std::fs::remove_file(folder.join("beside"))?;
    Ok(())
}

/// The loop of a daemon's one target.
struct Daemon {
    target: Target,
    wanted: watch::Sender<Wanted>,
    clock: Clock,
    host: RegistryHost,
}

impl Daemon {
    fn new(path: PathBuf) -> Result<Self> {
        let clock = Clock::system();
        let host: RegistryHost = "host05000.example.com".parse()?;
        let registries = [(host.clone(), Origin::Google(None))];
        let targets = [(path.clone(), "docker")];
        let status = Arc::new(Status::new(clock.clone(), registries, targets));
        let wanted = watch::Sender::new(Wanted::new());
        let shared = Shared {
            remove_expired: false,
            in_environment: Arc::new([]),
            memory: Memory::new(None),
        };
        let options = Options::of(path);
        let (receiver, dice) = (wanted.subscribe(), fastrand::Rng::with_seed(0));
        let target = Target::new(options, shared, clock.clone(), status, receiver, dice);
        Ok(Self { target, wanted, clock, host })
    }

    /// Until the new entry is on the disk and was read back.
    async fn change(&mut self, word: &str) -> Result<Duration> {
        let now = self.clock.now();
        let life = Lifetime::new(now, now + Duration::from_hours(1));
        let credential = Credential::new("user", word.to_owned().into(), life)?;
        self.wanted.send_replace(Wanted::from([(self.host.clone(), credential)]));
        let started = self.clock.monotonic();
        ensure!(self.target.run_once().await, "the entry was not written");
        Ok(self.clock.monotonic() - started)
    }
}

/// Replaces the file of the round before, as every change does.
fn write_durably(folder: &Path, text: &str) -> Result<Duration> {
    let (new, path) = (folder.join("new"), folder.join("beside"));
    let started = now();
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(now().duration_since(started)?)
}

/// 10,000 entries with tokens as long as ECR's, 28.8 MB in all.
fn text() -> String {
    let auth = "dTpB".repeat(707);
    let mut entries = String::new();
    for number in 0..10_000 {
        let comma = if number == 0 { "" } else { "," };
        let entry = format!("{{\n\t\t\t\"auth\": \"{auth}\"\n\t\t}}");
        // A text takes all that is written to it.
        let _ = write!(entries, "{comma}\n\t\t\"host{number:05}.example.com\": {entry}");
    }
    format!("{{\n\t\"auths\": {{{entries}\n\t}}\n}}")
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the judge does not ask the judged for the time")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Until the kernel's tick tells two writes apart.
#[expect(clippy::disallowed_methods, reason = "in real time")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

const ROUNDS: usize = 15;
