//! Killed at any moment, and refused any step by the system: the file is the old one
//! or the new one, whole, and the next start leaves nothing behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cloud::{Cloud, Options};
use crate::machine::{
    Done, LIMIT, Machine, PROGRAM, campaign, ecr_registry, ended_with, pause, run, tell,
};

/// Somebody's file, with an old entry of ours in the middle.
fn before(cloud: &Cloud) -> String {
    format!(
        "{{\n  \"auths\": {{\n    \"example.com\": {{\"auth\": \"c29tZW9uZTplbHNl\"}},\n    \
         \"{}\": {{\"auth\": \"b2xkOm9sZA==\"}}\n  }},\n  \"unknown\": [1.0e2, \"\\u00e9\"]\n}}\n",
        cloud.ecr_registry().host()
    )
}

struct Scene {
    machine: Machine,
    cloud: Cloud,
    before: String,
}

impl Scene {
    async fn new() -> Result<Self> {
        let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
        // One registry, so that every run takes the same steps.
        machine.settings(&ecr_registry(&cloud))?;
        let before = before(&cloud);
        Ok(Self { machine, cloud, before })
    }

    /// The file is whole, and nothing in it has changed but our entry. Says whether that is
    /// new.
    fn check(&self) -> Result<bool> {
        let text = self.machine.docker_config_text()?;
        serde_json::from_str::<serde_json::Value>(&text).with_context(|| text.clone())?;
        if text == self.before {
            return Ok(false);
        }
        let host = self.cloud.ecr_registry().host();
        let auth = self.machine.auth(host)?.context("our entry is gone")?;
        let issued = self.cloud.ecr().issued();
        ensure!(issued.iter().any(|token| token.auth() == auth), "no token of ours: {text}");
        ensure!(text == self.before.replace("b2xkOm9sZA==", &auth), "changed: {text}");
        Ok(true)
    }

    /// The next start writes, and leaves nothing behind.
    async fn check_next_start(&self) -> Result<()> {
        ended_with(&self.machine.freshcreds(&["once"]).await?, 0)?;
        ensure!(self.check()?, "the next start wrote nothing");
        let folder = self.machine.home().join(".docker");
        let names: Vec<_> = std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<_>>()?;
        ensure!(names == ["config.json"], "left over: {names:?}");
        Ok(())
    }

    fn restore(&self) -> Result<()> {
        self.machine.put_docker_config(&self.before)
    }
}

#[tokio::test]
async fn killed_at_random_moments() -> Result<()> {
    let scene = Scene::new().await?;
    let mut dice = fastrand::Rng::with_seed(5);
    let times = campaign(150, 5_000);
    let (mut new, mut longest) = (0, Duration::from_millis(60));
    for _ in 0..times {
        scene.restore()?;
        let mut child = scene.machine.command(PROGRAM).arg("once").stderr(Stdio::null()).spawn()?;
        let started = crate::machine::now();
        pause(longest.mul_f64(dice.f64())).await;
        let id = child.id().context("it has no id")?;
        match child.try_wait()? {
            // It was done before: a shorter wait next time.
            Some(_) => longest = crate::machine::now().duration_since(started)?,
            None => kill_process(pid(id)?, Signal::KILL)?,
        }
        timeout(LIMIT, child.wait()).await.context("it does not end")??;
        new += usize::from(scene.check()?);
    }
    scene.restore()?;
    scene.check_next_start().await?;
    println!("{times} kills at random, {new} of them after the write; 0 files damaged");
    Ok(())
}

/// The steps of `src/targets/replace.rs`, and how often each is passed by before it
/// is about the file.
#[tokio::test]
async fn killed_before_each_step() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.machine.set("FRESHCREDS_STATE", "off");
    let times = campaign(15, 500);
    let mut kills = 0;
    for point in [
        "create:0",
        "attributes:2",
        "write:2",
        "sync:2",
        "look again:0",
        "announce:0",
        "exchange:0",
        "look at what came out:0",
        "remove:0",
        "sync folder:0",
    ] {
        for _ in 0..times {
            scene.restore()?;
            let mut command = scene.machine.command(PROGRAM);
            let done = run(command.env("FRESHCREDS_CRASH_AT", point).arg("once")).await?;
            ensure!(done.code.is_none(), "it was not killed at `{point}`: {}", done.stderr);
            scene.check()?;
            kills += 1;
        }
        scene.check_next_start().await.context(point)?;
    }
    println!("{kills} kills before the 10 steps of a replacement; 0 files damaged, 0 left over");
    Ok(())
}

/// A program that was stopped where it begins to write, and its thread that writes.
struct Stopped {
    child: Child,
    thread: u32,
}

impl Stopped {
    async fn new(mut command: Command) -> Result<Self> {
        let child = command.arg("once").stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let id = child.id().context("it has no id")?;
        let stopping = async {
            loop {
                if let Some(thread) = stopped_worker(id) {
                    return thread;
                }
                pause(Duration::from_millis(2)).await;
            }
        };
        let thread = timeout(LIMIT, stopping).await.context("it does not stop")?;
        Ok(Self { child, thread })
    }

    /// Lets it go on under strace, with these options, and gives what it did and what
    /// strace saw.
    async fn go_on(self, machine: &Machine, options: &[&str]) -> Result<(Done, String)> {
        let log = machine.home().join("strace.log");
        let mut tracer = machine
            .command("strace")
            .args(["-p", &self.thread.to_string(), "-o"])
            .arg(&log)
            .args(options)
            .stderr(Stdio::null())
            .spawn()
            .context("strace is missing: run `make setup`")?;
        let id = self.child.id().context("it has ended")?;
        let attaching = async {
            while !is_traced(id, self.thread) {
                pause(Duration::from_millis(2)).await;
            }
        };
        timeout(LIMIT, attaching).await.context("strace does not attach")?;
        kill_process(pid(id)?, Signal::CONT)?;
        let output = timeout(LIMIT, self.child.wait_with_output()).await;
        let done = Done::from(output.context("it does not end")??);
        timeout(LIMIT, tracer.wait()).await.context("strace does not end")??;
        Ok((done, std::fs::read_to_string(log)?))
    }
}

/// The thread that stopped the program, once all of them stand still. There can be idle
/// ones beside it.
fn stopped_worker(id: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).ok()?;
    let mut worker = None;
    for task in tasks {
        let path = task.ok()?.path();
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        if !stat.rsplit(')').next()?.trim_start().starts_with('T') {
            return None;
        }
        // The system call that it is in: the signal to itself.
        let call = std::fs::read_to_string(path.join("syscall")).ok()?;
        if call.split(' ').next()?.parse() == Ok(libc::SYS_tgkill) {
            worker = path.file_name()?.to_str()?.parse().ok();
        }
    }
    worker
}

fn is_traced(id: u32, thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/task/{thread}/status"));
    status.is_ok_and(|status| {
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}

fn pid(id: u32) -> Result<Pid> {
    Pid::from_raw(i32::try_from(id)?).context("no process has the id 0")
}

/// The ways to write a file.
#[derive(Clone, Copy, Debug)]
enum Way {
    Replace,
    Add,
    InPlace,
}

impl Way {
    fn prepare(self, scene: &mut Scene) -> Result<()> {
        match self {
            // So that the first write is that of the file.
            Self::Replace | Self::Add => scene.machine.set("FRESHCREDS_STATE", "off"),
            Self::InPlace => {
                let path = scene.machine.docker_config();
                scene.machine.target_settings(&path, "write = \"in-place\"")?;
            }
        }
        Ok(())
    }

    fn restore(self, scene: &Scene) -> Result<()> {
        match self {
            Self::Add => match std::fs::remove_file(scene.machine.docker_config()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(std::fs::create_dir_all(scene.machine.home().join(".docker"))?),
            },
            Self::Replace | Self::InPlace => scene.restore(),
        }
    }

    fn check(self, scene: &Scene) -> Result<()> {
        match self {
            Self::Replace => scene.check().map(drop),
            // There is no file, or a whole one.
            Self::Add => match scene.machine.docker_config_text() {
                Ok(text) => Ok(serde_json::from_str(&text).map(|_: serde_json::Value| ())?),
                Err(_) => Ok(()),
            },
            // In between it may be a mixture, which the next start mends.
            Self::InPlace => Ok(()),
        }
    }

    async fn check_next_start(self, scene: &Scene) -> Result<()> {
        match self {
            Self::Replace | Self::InPlace => scene.check_next_start().await,
            Self::Add => {
                ended_with(&scene.machine.freshcreds(&["once"]).await?, 0)?;
                let host = scene.cloud.ecr_registry().host();
                ensure!(scene.machine.auth(host)?.is_some());
                let folder = std::fs::read_dir(scene.machine.home().join(".docker"))?;
                ensure!(folder.count() == 1, "something is left over");
                Ok(())
            }
        }
    }

    fn first_step(self) -> &'static str {
        match self {
            Self::Replace | Self::Add => "create",
            Self::InPlace => "keep a copy",
        }
    }

    /// A whole run on the file as it was before, under strace from the first step on.
    async fn traced(self, scene: &Scene, options: &[&str]) -> Result<(Done, String)> {
        self.restore(scene)?;
        let mut command = scene.machine.command(PROGRAM);
        command.env("FRESHCREDS_STOP_AT", self.first_step());
        Stopped::new(command).await?.go_on(&scene.machine, options).await
    }

    /// Every system call from the first step on, and the how manieth of its name it is.
    async fn calls(self, scene: &Scene) -> Result<Vec<(String, usize)>> {
        let (done, log) = self.traced(scene, &[]).await?;
        ended_with(&done, 0)?;
        let mut counts = BTreeMap::<String, usize>::new();
        let mut calls = Vec::new();
        for line in log.lines() {
            let Some((name, _)) = line.split_once('(') else { continue };
            if name.is_empty()
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                continue;
            }
            let count = counts.entry(name.to_owned()).or_default();
            *count += 1;
            calls.push((name.to_owned(), *count));
        }
        Ok(calls)
    }
}

/// For memory and for other threads: at one time there are more of them than at another.
const VARYING: [&str; 6] = ["futex", "mmap", "munmap", "mprotect", "madvise", "brk"];

async fn killed_at_every_system_call(way: Way) -> Result<()> {
    let mut scene = Scene::new().await?;
    way.prepare(&mut scene)?;
    let calls = way.calls(&scene).await?;
    ensure!(calls.len() > 15, "only {calls:?}");
    let mut missed = Vec::new();
    for (name, count) in &calls {
        let inject = format!("inject={name}:signal=KILL:when={count}");
        let (done, _) = way.traced(&scene, &["-e", &inject]).await?;
        way.check(&scene).with_context(|| format!("{name} number {count}"))?;
        way.check_next_start(&scene).await.with_context(|| format!("{name} number {count}"))?;
        if done.code.is_some() {
            missed.push(name);
        }
    }
    let (count, killed) = (calls.len(), calls.len() - missed.len());
    tell(&format!("{way:?}: killed at {killed} of {count} system calls; 0 files damaged"));
    missed.retain(|name| !VARYING.contains(&name.as_str()));
    ensure!(missed.is_empty(), "there was no such call this time: {missed:?}");
    Ok(())
}

#[tokio::test]
async fn killed_at_every_system_call_of_a_replacement() -> Result<()> {
    killed_at_every_system_call(Way::Replace).await
}

#[tokio::test]
async fn killed_at_every_system_call_of_a_new_file() -> Result<()> {
    killed_at_every_system_call(Way::Add).await
}

#[tokio::test]
async fn killed_at_every_system_call_in_place() -> Result<()> {
    killed_at_every_system_call(Way::InPlace).await
}

/// The calls that touch files, and the errors that they can have.
const ERRORS: [(&str, &[&str]); 14] = [
    ("openat", &["EIO", "ENOSPC", "EMFILE"]),
    ("fcntl", &["EINVAL", "EAGAIN"]),
    ("fchmod", &["EPERM"]),
    ("fchown", &["EPERM"]),
    ("write", &["ENOSPC", "EDQUOT", "EIO", "EINTR"]),
    ("pwrite64", &["EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("statx", &["EIO"]),
    ("renameat", &["EIO", "EBUSY", "EXDEV"]),
    ("renameat2", &["EIO", "EBUSY", "EXDEV", "EINVAL"]),
    ("unlinkat", &["EIO"]),
    ("flock", &["EINTR", "EWOULDBLOCK"]),
    ("ftruncate", &["EIO"]),
    ("fallocate", &["ENOSPC"]),
];

async fn refused_every_system_call(way: Way) -> Result<()> {
    let mut scene = Scene::new().await?;
    way.prepare(&mut scene)?;
    let calls = way.calls(&scene).await?;
    let (mut refused, mut failed) = (0, 0);
    for (name, count) in &calls {
        let Some((_, errors)) = ERRORS.iter().find(|(call, _)| call == name) else { continue };
        for error in *errors {
            let inject = format!("inject={name}:error={error}:when={count}");
            let (done, _) = way.traced(&scene, &["-e", &inject]).await?;
            let place = || format!("{name} number {count}: {error}\n{}", done.stderr);
            match done.code {
                Some(0) => {}
                Some(1) => {
                    failed += 1;
                    let path = scene.machine.docker_config().display().to_string();
                    ensure!(done.stderr.contains(&path), "no message: {}", place());
                    ensure!(done.stderr.contains("\"kind\":"), "no kind: {}", place());
                }
                code => anyhow::bail!("ended with {code:?}: {}", place()),
            }
            let is_whole = match way {
                Way::InPlace => scene.check().map(drop),
                _ => way.check(&scene),
            };
            is_whole.with_context(place)?;
            way.check_next_start(&scene).await.with_context(place)?;
            refused += 1;
        }
    }
    tell(&format!(
        "{way:?}: {refused} calls refused, {failed} runs failed for it; 0 files damaged"
    ));
    ensure!(failed > 3 && refused > 15);
    Ok(())
}

#[tokio::test]
async fn refused_every_system_call_of_a_replacement() -> Result<()> {
    refused_every_system_call(Way::Replace).await
}

#[tokio::test]
async fn refused_every_system_call_of_a_new_file() -> Result<()> {
    refused_every_system_call(Way::Add).await
}

#[tokio::test]
async fn refused_every_system_call_in_place() -> Result<()> {
    refused_every_system_call(Way::InPlace).await
}

#[tokio::test]
async fn a_file_system_without_an_exchange_is_written_with_less_protection() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(&before(&cloud))?;
    let mut command = machine.command("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "inject=renameat2:error=EINVAL"]);
    let daemon = crate::machine::Daemon::start(command.arg(PROGRAM).arg("run")).await?;
    let report = daemon.wait_for(freshcreds::status::Report::is_ready).await?;
    assert_eq!(report.checks.targets[0].protection.as_deref(), Some("rename"));
    daemon.signal_child(Signal::TERM)?;
    let folder: PathBuf = machine.home().join(".docker");
    assert_eq!(std::fs::read_dir(folder)?.count(), 1);
    Ok(())
}
