//! The endpoint among clients that are slow, many or hostile; the log that nobody reads; what
//! systemd and other programs are told; and that no secret is in any of it.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::cloud::{Cloud, Fault, Options};
use crate::machine::{
    Daemon, LIMIT, Machine, PROGRAM, ended_with, now, pause, put, registries, tell, until,
};

fn short_lived() -> Options {
    Options {
        ecr_life: Duration::from_secs(3),
        google_life: Duration::from_secs(4),
        ..Options::default()
    }
}

/// So many files may this test have open as there may be at all.
fn raise_limit() -> Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

#[tokio::test]
async fn ten_thousand_connections_neither_stop_renewals_nor_answers() -> Result<()> {
    ensure!(raise_limit()? > 12_000, "too few files may be open on this machine for this test");
    let (machine, cloud) = Machine::in_cloud(short_lived()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let before = (memory(daemon.id()?)?, cloud.ecr().issued().len());
    let mut crowd = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..10_000 {
        let mut one = TcpStream::connect(daemon.address()).await?;
        // Some say nothing, some do not end, some say what is no request.
        let words: &[u8] = match number % 5 {
            0 => b"",
            1 => b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nx: ",
            2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            3 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            _ => b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n",
        };
        // It may have been hung up on.
        let _ = one.write_all(words).await;
        crowd.push(one);
        if number % 100 == 0 {
            slowest = slowest.max(probe(&daemon).await?);
        }
    }
    // And then they trickle, all of those that still can.
    let until = now() + Duration::from_secs(8);
    while now() < until {
        for one in &mut crowd {
            let _ = one.try_write(b"y");
        }
        slowest = slowest.max(probe(&daemon).await?);
        pause(Duration::from_millis(50)).await;
    }
    let after = (memory(daemon.id()?)?, cloud.ecr().issued().len());
    tell(&format!("slowest of the probes: {slowest:?}; memory: {} -> {} KiB", before.0, after.0));
    ensure!(slowest < Duration::from_secs(1), "a probe took {slowest:?}");
    ensure!(after.1 >= before.1 + 3, "renewals stopped");
    ensure!(after.0 < before.0 + 8 * 1024, "{} KiB more", after.0 - before.0);
    ensure!(daemon.report().await?.status == Health::Pass);
    drop(crowd);
    Ok(())
}

/// Asks as a probe does, and says how long that took.
async fn probe(daemon: &Daemon) -> Result<Duration> {
    let asked = now();
    for path in ["/readyz", "/livez"] {
        let answer = daemon.get(path).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    Ok(now().duration_since(asked)?)
}

/// What a process occupies, in KiB.
fn memory(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test]
async fn clients_that_are_hostile_are_refused_and_forgotten() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let head = "GET /readyz HTTP/1.1\r\nhost: localhost\r\n";
    let huge = format!("{head}x: {}\r\n\r\n", "y".repeat(1024 * 1024));
    let many = format!("{head}{}\r\n", "x: y\r\n".repeat(10_000));
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(100_000));
    let rebound = "GET /status HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_owned();
    for (request, codes) in [
        (huge, &["431", "400"][..]),
        (many, &["431", "400"]),
        (long, &["414", "431", "400"]),
        (rebound, &["421"]),
    ] {
        let mut stream = TcpStream::connect(daemon.address()).await?;
        // It hangs up before it has read it all.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        let length = stream.read(&mut answer).await.unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer[..length]);
        // What is too long it may hang up on before it has read it all.
        let is_cut = answer.is_empty() && request.len() > 8 * 1024;
        let is_refused = is_cut || codes.iter().any(|code| answer.ends_with(code));
        ensure!(is_refused, "{answer:?} to {:?}", &request[..40]);
    }
    // What is known is not sent again, and what has changed is.
    let status = daemon.get("/status").await?;
    let tag = status.lines().find_map(|line| line.strip_prefix("etag: ")).context("no tag")?;
    pause(Duration::from_secs(3)).await;
    let again = daemon.get_with("/status", &format!("if-none-match: {tag}\r\n")).await?;
    ensure!(again.starts_with("HTTP/1.1 304") && again.ends_with("\r\n\r\n"), "{again}");
    put(&machine.docker_config(), "{\"auths\":")?;
    daemon.wait_for(|report| report.status == Health::Fail).await?;
    let again = daemon.get_with("/status", &format!("if-none-match: {tag}\r\n")).await?;
    ensure!(again.starts_with("HTTP/1.1 503"), "{again}");
    std::fs::remove_file(machine.docker_config())?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    // A hundred requests in one go, and nobody who reads the answers.
    let mut greedy = TcpStream::connect(daemon.address()).await?;
    let requests = "GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    let _ = greedy.write_all(requests.as_bytes()).await;
    probe(&daemon).await?;
    Ok(())
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(short_lived()).await?;
    let mut child = machine.command(PROGRAM).arg("run").stderr(Stdio::piped()).spawn()?;
    let mut log = BufReader::new(child.stderr.take().context("no standard error")?);
    let mut line = String::new();
    while !line.contains("\"listening\"") {
        line.clear();
        ensure!(log.read_line(&mut line).await? > 0, "it does not listen");
    }
    let event: serde_json::Value = serde_json::from_str(&line)?;
    let address = event["fields"]["address"].as_str().context("no address")?.parse()?;
    let address = freshcreds::http::Address::Network(address);
    let id = child.id().and_then(|id| i32::try_from(id).ok()).context("it has ended")?;
    let pid = rustix::process::Pid::from_raw(id).context("no process has the id 0")?;
    // From here on nobody reads. Each signal makes it log a few lines.
    let until = now() + LIMIT;
    loop {
        for _ in 0..50 {
            rustix::process::kill_process(pid, Signal::USR1)?;
            pause(Duration::from_millis(10)).await;
        }
        let metrics = ask(&address, "/metrics").await?;
        let dropped = metrics
            .lines()
            .find_map(|line| line.strip_prefix("freshcreds_log_dropped_lines_total "))
            .context("it is not told how many lines were dropped")?;
        if dropped.parse::<u64>()? > 0 {
            break;
        }
        ensure!(now() < until, "nothing was dropped, so the pipe was not full");
    }
    let issued = cloud.ecr().issued().len();
    pause(Duration::from_secs(4)).await;
    ensure!(cloud.ecr().issued().len() > issued, "renewals stopped");
    let report = freshcreds::http::fetch(&address).await?;
    ensure!(report.is_ready(), "{report:?}");
    rustix::process::kill_process(pid, Signal::TERM)?;
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    ensure!(status.context("it does not end")??.success());
    Ok(())
}

async fn ask(address: &freshcreds::http::Address, path: &str) -> Result<String> {
    let freshcreds::http::Address::Network(address) = address else { anyhow::bail!("no network") };
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Stands in for systemd.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// All that it was told since it was asked last, a line each.
    fn told(&self) -> String {
        let mut told = String::new();
        let mut datagram = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            let _ = write!(told, "{}", String::from_utf8_lossy(&datagram[..length]));
        }
        told
    }

    async fn waits_for(&self, words: &[&str]) -> Result<String> {
        let mut told = String::new();
        let waiting = until(LIMIT, || {
            told += &self.told();
            Ok(words.iter().all(|words| told.contains(words)))
        });
        waiting.await.with_context(|| format!("{words:?} was not told"))?;
        Ok(told)
    }
}

#[tokio::test]
async fn systemd_is_told_when_it_is_ready_reloads_and_stops_and_that_it_turns() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(short_lived()).await?;
    let path = machine.home().join("notify");
    let manager = Manager::new(&path)?;
    machine.set("NOTIFY_SOCKET", &path);
    machine.set("WATCHDOG_USEC", "1000000");
    cloud.ecr().break_with(Fault::Hang);
    let mut daemon = machine.daemon().await?;
    pause(Duration::from_millis(500)).await;
    let told = manager.told();
    ensure!(!told.contains("READY"), "before the first pass: {told}");
    ensure!(told.contains("STATUS=0 of 2 registries are ready"), "{told}");
    cloud.ecr().mend();
    let told = manager
        .waits_for(&["READY=1", "STATUS=2 of 2 registries are ready\n", "WATCHDOG=1"])
        .await?;
    ensure!(!told.contains("RELOADING"), "{told}");

    daemon.signal(Signal::HUP)?;
    let told = manager.waits_for(&["RELOADING=1\nMONOTONIC_USEC=", "READY=1"]).await?;
    ensure!(told.find("RELOADING") < told.find("READY"), "{told}");

    cloud.ecr().break_with(Fault::Denied);
    manager.waits_for(&["STATUS=2 of 2 registries are ready: ", "renewals fail"]).await?;
    manager.waits_for(&["STATUS=1 of 2 registries are ready: ", "expired"]).await?;
    // No cloud is a reason to be restarted.
    manager.waits_for(&["WATCHDOG=1"]).await?;

    daemon.signal(Signal::STOP)?;
    pause(Duration::from_millis(200)).await;
    manager.told();
    pause(Duration::from_millis(1500)).await;
    assert_eq!(manager.told(), "", "a process that stands still says nothing");
    daemon.signal(Signal::CONT)?;
    daemon.stop().await?;
    manager.waits_for(&["STOPPING=1"]).await?;
    Ok(())
}

/// Settings with a hook that notes that it ran.
fn hook(machine: &Machine, cloud: &Cloud) -> Result<String> {
    let script = machine.home().join("hook.sh");
    let ran = machine.home().join("ran");
    put(&script, &format!("#!/bin/sh\n{{ echo \"$*\"; env; }} >>{}\n", ran.display()))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let hook = format!("[[hook]]\ncommand = [\"{}\", \"changed\"]\n", script.display());
    Ok(registries(cloud) + &hook)
}

#[tokio::test]
async fn a_hook_runs_after_each_change_of_a_daemon_and_of_once() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(short_lived()).await?;
    let settings = hook(&machine, &cloud)?;
    machine.settings(&settings)?;
    let ran = machine.home().join("ran");
    let times = || {
        let text = std::fs::read_to_string(&ran).unwrap_or_default();
        text.lines().filter(|line| *line == "changed").count()
    };
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    assert_eq!(times(), 1);
    let daemon = machine.daemon().await?;
    until(LIMIT, || Ok(times() >= 4)).await?;
    let text = std::fs::read_to_string(&ran)?;
    assert_eq!(cloud.leak_in(text.as_bytes()), None, "{text}");
    ensure!(text.contains(&format!("FRESHCREDS_CHANGED={}", machine.docker_config().display())));

    // One that fails is a warning, and no reason not to be ready.
    put(&machine.home().join("hook.sh"), "#!/bin/sh\nexit 3\n")?;
    let report = daemon.wait_for(|report| report.status == Health::Warn).await?;
    let check = report.checks.hooks.first().context("no hook is told")?;
    assert_eq!(check.last_error.as_ref().context("no error")?.kind, "hook_failed");
    let answer = daemon.get("/readyz").await?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("hook"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn no_secret_is_in_anything_that_is_ever_written() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(short_lived()).await?;
    let path = machine.home().join("notify");
    let manager = Manager::new(&path)?;
    machine.set("NOTIFY_SOCKET", &path);
    machine.set("RUST_LOG", "trace");
    let settings = hook(&machine, &cloud)?;
    machine.settings(&format!("verify = true\nlog_level = \"trace\"\n{settings}"))?;
    let mut daemon = machine.daemon().await?;
    daemon
        .wait_for(|report| report.checks.credentials.iter().all(|one| one.issued.is_some()))
        .await?;
    let mut written = String::new();
    for fault in [None, Some(Fault::Garbage), Some(Fault::Denied), Some(Fault::NotBase64), None] {
        if let Some(fault) = fault {
            cloud.ecr().break_with(fault);
            cloud.google().break_with(fault);
        } else {
            cloud.ecr().mend();
            cloud.google().mend();
        }
        daemon.signal(Signal::USR1)?;
        pause(Duration::from_secs(2)).await;
        for path in ["/", "/readyz", "/livez", "/status", "/metrics", "/nothing"] {
            written += &daemon.get(path).await?;
        }
        let id = daemon.id()?;
        written += &std::fs::read_to_string(format!("/proc/{id}/cmdline"))?;
        written += &manager.told();
        written += &machine
            .freshcreds(&["status", "--listen", &daemon.address().to_string()])
            .await?
            .stdout;
    }
    daemon.stop().await?;
    written += &daemon.log();
    for file in files(machine.home())? {
        // What is meant to have them in it.
        let is_meant = file == machine.docker_config() || file.ends_with("key.json");
        if !is_meant {
            written += &String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default());
        }
    }
    ensure!(written.contains("hook ran") && written.contains("STATUS="), "not all was looked at");
    ensure!(cloud.ecr().issued().len() > 2, "too few secrets");
    assert_eq!(cloud.leak_in(written.as_bytes()), None);
    // What is meant to be found is.
    ensure!(cloud.leak_in(machine.docker_config_text()?.as_bytes()).is_some());
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
