//! Time that does not go as it should: a process that stands still, a network that is
//! gone for longer than a token lives, and a wall clock that is set.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use rustix::process::Signal;

use crate::cloud::Options;
use crate::machine::{Daemon, Machine, PROGRAM, ecr_registry, ended_with, now, pause, put, run};

const LIFE: Duration = Duration::from_secs(6);

/// With tokens that live for seconds.
fn short() -> Options {
    Options { ecr_life: LIFE, google_life: LIFE, ..Options::default() }
}

#[tokio::test]
async fn a_process_that_was_stopped_for_longer_than_its_token_lived_renews_at_once() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(short()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    daemon.signal(Signal::STOP)?;
    pause(Duration::from_secs(8)).await;
    daemon.signal(Signal::CONT)?;
    let woken = now();
    // Whatever it answers first is true: the token in the file has expired.
    let first = daemon.get("/readyz").await?;
    let has_renewed = daemon.report().await?.is_ready();
    ensure!(first.starts_with("HTTP/1.1 503") || has_renewed, "{first}");
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let took = now().duration_since(woken)?;
    ensure!(took < Duration::from_secs(2), "ready {took:?} after it was woken");
    Ok(())
}

/// Changes the addresses of this thread's own network.
async fn ip(machine: &Machine, arguments: &[&str]) -> Result<()> {
    ended_with(&run(machine.command("ip").args(arguments)).await?, 0)
}

#[tokio::test]
async fn a_network_that_is_cut_for_longer_than_a_token_lives() -> Result<()> {
    // Of this thread, and of the programs that it starts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("a network of one's own takes root")?;
    let outside = Machine::new()?;
    ip(&outside, &["link", "set", "lo", "up"]).await?;
    let (mut machine, cloud) = Machine::in_cloud(short()).await?;
    // The cloud is at 127.0.0.1, so that it can be cut off alone.
    machine.set("FRESHCREDS_LISTEN", "[::1]:0");
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    ip(&outside, &["addr", "del", "127.0.0.1/8", "dev", "lo"]).await?;
    let expiry = |issued: Vec<crate::cloud::Issued>| {
        issued.last().map(|last| last.expires).context("nothing was issued")
    };
    let first_end = expiry(cloud.ecr().issued())?.min(expiry(cloud.google().issued())?);
    loop {
        let before = now();
        let is_ready = daemon.get("/readyz").await?.starts_with("HTTP/1.1 200");
        if !is_ready {
            let late = now().duration_since(first_end).unwrap_or_default();
            ensure!(now() >= first_end - SLACK, "not ready before the end of a token");
            ensure!(late < Duration::from_secs(1), "noticed {late:?} after the end of a token");
            break;
        }
        ensure!(before < first_end + SLACK, "ready after the end of a token");
        pause(Duration::from_millis(50)).await;
    }
    // Long enough for every pause to have grown.
    pause(Duration::from_secs(10)).await;
    ensure!(daemon.get("/livez").await?.starts_with("HTTP/1.1 200"));
    ip(&outside, &["addr", "add", "127.0.0.1/8", "dev", "lo"]).await?;
    let back = now();
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let took = now().duration_since(back)?;
    ensure!(took < Duration::from_secs(5), "ready {took:?} after the network was back");
    Ok(())
}

/// Issuers that say how long, and not until when, have whole seconds only.
const SLACK: Duration = Duration::from_millis(1100);

/// A daemon whose wall clock is ours, moved by what a file says.
struct Clocked {
    machine: Machine,
    daemon: Daemon,
    cloud: crate::cloud::Cloud,
}

impl Clocked {
    async fn start() -> Result<Self> {
        let (mut machine, cloud) = Machine::in_cloud(short()).await?;
        // Google refuses whoever signs with a time that is to come.
        machine.settings(&ecr_registry(&cloud))?;
        let library = glob_of("/usr/lib", "faketime/libfaketime.so.1")
            .context("faketime is missing: run `make setup`")?;
        let offset = machine.home().join("offset");
        put(&offset, "+0")?;
        let mut command = machine.command(PROGRAM);
        command
            .arg("run")
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &offset)
            .env("FAKETIME_NO_CACHE", "1")
            // The clock since boot is asked of the kernel, and cannot be set.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let daemon = Daemon::start(&mut command).await?;
        daemon.wait_for(|report| report.status == Health::Pass).await?;
        Ok(Self { machine, daemon, cloud })
    }

    /// By a rename: of a file that is half written, the clock would be read as half set.
    fn set(&self, offset: &str) -> Result<()> {
        let new = self.machine.home().join("offset.new");
        put(&new, offset)?;
        Ok(std::fs::rename(new, self.machine.home().join("offset"))?)
    }
}

/// The first folder of `root` that has `path` in it: it is named after the machine.
fn glob_of(root: &str, path: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir(root).ok()?.flatten();
    folders.map(|folder| folder.path().join(path)).find(|path| path.exists())
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_keeps_no_dead_token_alive() -> Result<()> {
    let clocked = Clocked::start().await?;
    clocked.set("-1h")?;
    // Three lives: by the wall clock alone nothing would be due for an hour.
    for _ in 0..20 {
        pause(LIFE.mul_f64(0.15)).await;
        let report = clocked.daemon.report().await?;
        ensure!(report.is_ready(), "{:?}\n{}", report.output, clocked.daemon.log());
    }
    let report = clocked.daemon.report().await?;
    let check = &report.checks.credentials[0];
    let left = check.observed_value.context("no credential")?;
    ensure!(left <= LIFE.as_secs(), "{left} s left of {LIFE:?}");
    let skew = check.clock_skew_seconds.context("no skew")?;
    ensure!((3597..=3603).contains(&skew), "{skew} s of skew");
    Ok(())
}

#[tokio::test]
async fn a_wall_clock_that_is_set_forward_costs_one_early_renewal() -> Result<()> {
    let clocked = Clocked::start().await?;
    clocked.set("+1h")?;
    pause(Duration::from_secs(1)).await;
    let report = clocked.daemon.wait_for(|report| report.status == Health::Pass).await?;
    let skew = report.checks.credentials[0].clock_skew_seconds.context("no skew")?;
    ensure!((-3603..=-3597).contains(&skew), "{skew} s of skew");
    let issued = clocked.cloud.ecr().issued().len();
    ensure!(issued <= 4, "{issued} tokens for one step of the clock");
    Ok(())
}
