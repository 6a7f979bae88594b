//! The endpoint says what a client would find, at every moment of every fault: it is never
//! ready beside a token that no registry takes, and never dead because of a cloud or a file.
//!
//! The judge is not the endpoint: it reads the file as a client does, and knows from the
//! issuers which tokens are good.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use freshcreds::status::Verdict as Health;
use tokio::task::JoinSet;

use crate::cloud::{Cloud, Fault, Options};
use crate::machine::{Daemon, LIMIT, Machine, campaign, now, pause, put, tell, until};

/// Long enough to see a fault begin while a token is good, short enough to see it expire.
const LIFE: Duration = Duration::from_secs(4);

/// Google says for how many whole seconds, ECR until when.
const ROUNDING: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(1100)];

/// How long a look at a file may serve for answers.
const LOOK: Duration = Duration::from_millis(1100);

/// What the judge has seen of one registry.
#[derive(Default)]
struct Seen {
    host: String,
    /// Since when a client has found no good token.
    bad_since: Option<SystemTime>,
    /// Since when it has found one.
    good_since: Option<SystemTime>,
    /// The longest that the endpoint said "ready" beside a bad one.
    green: Duration,
    /// How often it was not ready.
    red: usize,
}

struct Judge<'a> {
    machine: &'a Machine,
    daemon: &'a Daemon,
    cloud: &'a Cloud,
    seen: [Seen; 2],
}

impl<'a> Judge<'a> {
    fn new(machine: &'a Machine, daemon: &'a Daemon, cloud: &'a Cloud) -> Self {
        let [ecr, google] = [cloud.ecr_registry(), cloud.google_registry()]
            .map(|registry| Seen { host: registry.host().to_owned(), ..Seen::default() });
        Self { machine, daemon, cloud, seen: [ecr, google] }
    }

    /// Until when the token is good that a client finds; nothing if it finds none.
    fn good_until(&self, index: usize) -> Option<SystemTime> {
        let issuer = if index == 0 { self.cloud.ecr() } else { self.cloud.google() };
        let auth = self.machine.auth(&self.seen[index].host).ok()??;
        let text = self.machine.docker_config_text().ok()?;
        // docker would ask a program that is not there.
        let is_hidden = text.contains("credsStore");
        let tokens = issuer.issued();
        let token = tokens.iter().find(|one| one.auth() == auth)?;
        (!is_hidden).then_some(token.expires)
    }

    /// Holds one answer against what a client finds.
    async fn look(&mut self) -> Result<()> {
        for index in 0..2 {
            let before = self.good_until(index);
            let asked = now();
            let path = format!("/readyz?registry={}", self.seen[index].host);
            let answer = self.daemon.get(&path).await?;
            let is_ready = answer.starts_with("HTTP/1.1 200");
            ensure!(is_ready || answer.starts_with("HTTP/1.1 503"), "{answer}");
            let after = self.good_until(index);
            let seen = &mut self.seen[index];
            // What was so before and after was so meanwhile.
            if before.is_some_and(|until| until > now()) && after.is_some() {
                seen.bad_since = None;
                seen.good_since.get_or_insert(asked);
            } else if before.is_none_or(|until| until <= asked)
                && after.is_none_or(|until| until <= asked)
            {
                seen.good_since = None;
                let since = before.filter(|until| *until <= asked).unwrap_or(asked);
                seen.bad_since.get_or_insert(since);
            }
            if is_ready && let Some(since) = seen.bad_since {
                seen.green = seen.green.max(asked.duration_since(since).unwrap_or_default());
            }
            if !is_ready {
                seen.red += 1;
                // Near its end nobody needs to call it good.
                if before.is_none_or(|until| until < now() + ROUNDING[1]) {
                    continue;
                }
                let for_long = seen.good_since.and_then(|since| asked.duration_since(since).ok());
                if for_long.is_some_and(|pause| pause > 2 * LOOK) {
                    bail!("not ready beside a token that is good for {for_long:?}: {answer}");
                }
            }
        }
        // And what a probe asks, which takes a shorter way to the answer.
        let asked = now();
        let is_ready = self.daemon.get("/readyz").await?.starts_with("HTTP/1.1 200");
        for index in 0..2 {
            let is_bad = self.good_until(index).is_none_or(|until| until <= asked);
            let seen = &mut self.seen[index];
            if is_ready
                && is_bad
                && let Some(since) = seen.bad_since
            {
                seen.green = seen.green.max(asked.duration_since(since).unwrap_or_default());
            }
        }
        let asked = now();
        let live = self.daemon.get("/livez").await?;
        ensure!(live.starts_with("HTTP/1.1 200"), "{live}");
        ensure!(now().duration_since(asked)? < Duration::from_secs(5), "livez was slow");
        Ok(())
    }

    async fn watch(&mut self, pause_of: Duration) -> Result<()> {
        let until = now() + pause_of;
        while now() < until {
            self.look().await?;
            pause(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The longest false green of both, which must be none.
    fn verdict(&self, what: &str, allowed: [Duration; 2]) -> Result<()> {
        for (seen, allowed) in self.seen.iter().zip(allowed) {
            ensure!(
                seen.green <= allowed,
                "{what}: {} was falsely green for {:?}",
                seen.host,
                seen.green
            );
        }
        Ok(())
    }
}

#[tokio::test]
async fn no_fault_of_a_cloud_makes_it_green_beside_a_dead_token_or_kills_it() -> Result<()> {
    let all = [
        Fault::TooManyRequests { retry_after: Duration::from_secs(1) },
        Fault::Throttled,
        Fault::ServerError,
        Fault::Denied,
        Fault::Expired,
        Fault::Hang,
        Fault::HangUp,
        Fault::Garbage,
        Fault::WrongShape,
        Fault::NoToken,
        Fault::NotBase64,
        Fault::NoColon,
        Fault::Truncated,
        Fault::Stalled,
    ];
    let mut running = JoinSet::new();
    for fault in all {
        running.spawn(async move { one_fault(fault).await.with_context(|| format!("{fault:?}")) });
    }
    let mut worst = [Duration::ZERO; 2];
    while let Some(done) = running.join_next().await {
        let green = done??;
        worst = [worst[0].max(green[0]), worst[1].max(green[1])];
    }
    tell(&format!("{} faults; longest false green: {worst:?}", all.len()));
    Ok(())
}

/// Breaks both clouds for longer than a token lives, and mends them.
async fn one_fault(fault: Fault) -> Result<[Duration; 2]> {
    let options = Options { ecr_life: LIFE, google_life: LIFE, ..Options::default() };
    let (machine, cloud) = Machine::in_cloud(options).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let mut judge = Judge::new(&machine, &daemon, &cloud);
    judge.watch(Duration::from_secs(1)).await?;
    cloud.ecr().break_with(fault);
    cloud.google().break_with(fault);
    judge.watch(2 * LIFE).await?;
    let has_seen_it = judge.seen.iter().all(|seen| seen.red > 0);
    ensure!(has_seen_it, "it was ready all the time: was there a fault?");
    let report = daemon.report().await?;
    for check in &report.checks.credentials {
        let error = check.last_error.as_ref().context("no error is told")?;
        ensure!(!error.remedy.is_empty() && error.count > 0 && error.since.is_some(), "{error:?}");
        let lack = check.not_ready.as_ref().context("nothing is told to be missing")?;
        ensure!(lack.kind == "expired" && lack.since.is_some(), "{lack:?}");
    }
    cloud.ecr().mend();
    cloud.google().mend();
    judge.watch(Duration::from_secs(1)).await?;
    judge.verdict("a broken cloud", ROUNDING)?;
    Ok([judge.seen[0].green, judge.seen[1].green])
}

#[tokio::test]
async fn no_fault_of_a_file_makes_it_green_for_longer_than_a_look_lasts() -> Result<()> {
    type Harm = fn(&Machine) -> Result<()>;
    let harms: [(&str, Harm); 6] = [
        ("removed", |machine| Ok(std::fs::remove_file(machine.docker_config())?)),
        ("emptied", |machine| put(&machine.docker_config(), "")),
        ("logged out", |machine| put(&machine.docker_config(), r#"{"auths":{}}"#)),
        ("no document", |machine| put(&machine.docker_config(), "{\"auths\":")),
        ("hidden", |machine| {
            let text = machine.docker_config_text()?;
            put(&machine.docker_config(), &text.replacen('{', "{\"credsStore\":\"none\",", 1))
        }),
        ("a folder in its place", |machine| {
            std::fs::remove_file(machine.docker_config())?;
            Ok(std::fs::create_dir(machine.docker_config())?)
        }),
    ];
    for (what, harm) in harms {
        let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
        let daemon = machine.daemon().await?;
        daemon.wait_for(|report| report.status == Health::Pass).await?;
        let mut judge = Judge::new(&machine, &daemon, &cloud);
        judge.watch(Duration::from_millis(200)).await?;
        harm(&machine)?;
        judge.watch(Duration::from_secs(3)).await.context(what)?;
        judge.verdict(what, [LOOK, LOOK])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_ends_readiness_and_nothing_else() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let id = daemon.id()?;
    // From now on, each write waits for the disk for longer than anyone looks.
    let _tracer = machine
        .command("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync"])
        .args(["-e", "inject=fsync:delay_enter=400000000", "-p", &id.to_string()])
        .spawn()
        .context("strace is missing: run `make setup`")?;
    until(LIMIT, || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        Ok(status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
    })
    .await?;
    std::fs::remove_file(machine.docker_config())?;
    let started = now();
    let report = daemon
        .wait_for(|report| {
            let lacks = report.checks.credentials.iter().filter_map(|one| one.not_ready.as_ref());
            lacks.into_iter().any(|lack| lack.kind == "unseen")
        })
        .await?;
    ensure!(!report.is_ready());
    let took = now().duration_since(started)?;
    ensure!(took < Duration::from_secs(36), "noticed after {took:?}");
    for path in ["/livez", "/readyz"] {
        let asked = now();
        let answer = daemon.get(path).await?;
        ensure!(answer.starts_with(if path == "/livez" { "HTTP/1.1 200" } else { "HTTP/1.1 503" }));
        ensure!(now().duration_since(asked)? < Duration::from_secs(1), "{path} was slow");
    }
    // Loops count as hanging after three minutes, and this one only waits.
    let until = now() + Duration::from_secs(campaign(1, 200).try_into()?);
    while now() < until {
        let live = daemon.get("/livez").await?;
        ensure!(live.starts_with("HTTP/1.1 200"), "{live}");
        pause(Duration::from_secs(1)).await;
    }
    Ok(())
}
