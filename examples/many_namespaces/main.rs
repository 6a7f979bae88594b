//! What it costs to keep a Secret fresh in thousands of namespaces, against a stand-in for an API
//! server in this process: `make bench` shows the figures, beside `kubectl apply`, which is what
//! scripts for it run.
//!
//! `many_namespaces FRESHCREDS KUBECTL [NAMESPACES]` prints them as JSON.

#[expect(dead_code, reason = "shared with the tests, which use other parts of it")]
#[path = "../../tests/support/cluster/mod.rs"]
mod stand_in;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::stand_in::{Kind, StandIn};

#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let program = PathBuf::from(arguments.next().context("name the program")?);
    let kubectl = PathBuf::from(arguments.next().context("name kubectl")?);
    let count = match arguments.next() {
        Some(count) => count.to_str().context("not a number")?.parse()?,
        None => NAMESPACES,
    };
    let folder = tempfile::tempdir()?;
    let cluster = StandIn::start()?;
    cluster.longest_history(1_000_000);
    for index in 0..count {
        cluster.create_namespace(&format!("team-{index}"), &[])?;
    }
    let peer = apply(&kubectl, &cluster, folder.path())?;
    for index in 0..count {
        cluster.delete(Kind::Secret, &format!("team-{index}"), NAME);
    }
    let daemon = Daemon::start(&program, &cluster, folder.path())?;
    let first = daemon.pass(&cluster, count)?;
    daemon.settle()?;
    let rotation = {
        daemon.signal(Signal::USR1)?;
        daemon.pass(&cluster, count)?
    };
    daemon.settle()?;
    cluster.reset_calls();
    let (before, wakeups) = (daemon.cpu()?, daemon.wakeups()?);
    pause(STEADY);
    let steady = json!({
        "seconds": STEADY.as_secs_f64(),
        "calls": cluster.calls().len(),
        "cpu_ms": (daemon.cpu()? - before) * 1e3,
        "wakeups": daemon.wakeups()? - wakeups,
    });
    let memory = daemon.memory()?;
    let per_namespace =
        |pass: &Value| pass["seconds"].as_f64().unwrap_or_default() / f64::from(count) * 1e3;
    let ratio = peer["ms_each"].as_f64().unwrap_or_default() / per_namespace(&rotation);
    let figures = json!({
        "namespaces": count,
        "first": first,
        "rotation": rotation,
        "steady": steady,
        "memory": memory,
        "kubectl": peer,
        "ratio": ratio,
    });
    println!("{figures}");
    Ok(())
}

struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(program: &Path, cluster: &StandIn, folder: &Path) -> Result<Self> {
        let kubeconfig = folder.join("kubeconfig");
        write(&kubeconfig, &cluster.kubeconfig(None))?;
        // A new token at each call, as long as real ones.
        let mint = folder.join("mint");
        let script = "#!/bin/sh\nsecret=$(head -c 1536 /dev/urandom | base64 -w0)\n\
                      echo \"{\\\"Username\\\":\\\"AWS\\\",\\\"Secret\\\":\\\"$secret\\\"}\"\n";
        write(&mint, script)?;
        fs::set_permissions(&mint, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut settings = format!("listen = \"127.0.0.1:{port}\"\n");
        for host in ["one.example.com", "two.example.com"] {
            let mint = mint.display();
            writeln!(
                settings,
                "[[registry]]\nhost = \"{host}\"\ncommand = [\"{mint}\"]\nlife = \"12h\""
            )?;
        }
        writeln!(
            settings,
            "[[image_pull_secret]]\nname = \"{NAME}\"\nall_namespaces = true\n\
             excluded_namespaces = [\"default\"]\n[kubernetes]\nkubeconfig = \"{}\"",
            kubeconfig.display()
        )?;
        let config = folder.join("config.toml");
        write(&config, &settings)?;
        cluster.reset_calls();
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .context("the program does not start")?;
        Ok(Self { child, port })
    }

    /// Waits until each namespace has been written once more since the calls were counted anew.
    fn pass(&self, cluster: &StandIn, count: u32) -> Result<Value> {
        let (started, cpu) = (now(), self.cpu()?);
        while cluster.count("PATCH", Kind::Secret) < u64::from(count) {
            ensure!(started.elapsed() < LIMIT, "it takes too long");
            pause(Duration::from_millis(5));
        }
        let seconds = started.elapsed().as_secs_f64();
        let figures = json!({
            "seconds": seconds,
            "cpu": self.cpu()? - cpu,
            "calls": cluster.calls().len(),
            "most_in_flight": cluster.most_in_flight(),
        });
        cluster.reset_calls();
        Ok(figures)
    }

    /// Waits until it says that all is well.
    fn settle(&self) -> Result<()> {
        let started = now();
        loop {
            let mut answer = String::new();
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                stream.write_all(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
                stream.read_to_string(&mut answer)?;
            }
            if answer.contains(" 200 ") {
                pause(Duration::from_secs(1));
                return Ok(());
            }
            ensure!(started.elapsed() < LIMIT, "it does not become ready: {answer}");
            pause(Duration::from_millis(100));
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id =
            Pid::from_raw(i32::try_from(self.child.id())?).context("no process has the id 0")?;
        Ok(kill_process(id, signal)?)
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))?)
    }

    /// Seconds of the processor so far.
    fn cpu(&self) -> Result<f64> {
        let stat = self.file("schedstat")?;
        let nanoseconds: f64 = stat.split_whitespace().next().context("no time")?.parse()?;
        // Of its first thread, where the loops are; the others wait.
        Ok(nanoseconds / 1e9)
    }

    fn wakeups(&self) -> Result<u64> {
        let status = self.file("status")?;
        field(&status, "voluntary_ctxt_switches:")
    }

    fn memory(&self) -> Result<Value> {
        let (status, rollup) = (self.file("status")?, self.file("smaps_rollup")?);
        Ok(json!({
            "peak_kib": field(&status, "VmHWM:")?,
            "pss_kib": field(&rollup, "Pss:")?,
        }))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a script does: one file for all namespaces, given to `kubectl apply`.
fn apply(kubectl: &Path, cluster: &StandIn, folder: &Path) -> Result<Value> {
    let kubeconfig = folder.join("kubectl.kubeconfig");
    write(&kubeconfig, &cluster.kubeconfig(None))?;
    let mut manifests = String::new();
    for index in 0..FOR_KUBECTL {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
            "metadata": { "name": NAME, "namespace": format!("team-{index}") },
            "data": { ".dockerconfigjson": "e30=" },
        });
        writeln!(manifests, "{secret}\n---")?;
    }
    let path = folder.join("manifests.yaml");
    write(&path, &manifests)?;
    let started = now();
    let done = Command::new(kubectl)
        .args(["apply", "--server-side", "--force-conflicts", "--validate=false", "--filename"])
        .arg(&path)
        .env("KUBECONFIG", &kubeconfig)
        .env("HOME", folder)
        .output()?;
    if !done.status.success() {
        bail!("kubectl: {}", String::from_utf8_lossy(&done.stderr));
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({
        "namespaces": FOR_KUBECTL,
        "seconds": seconds,
        "ms_each": seconds / f64::from(FOR_KUBECTL) * 1e3,
        "calls": cluster.calls().len(),
    }))
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark is another program, and may write in place"
)]
fn write(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, text)?)
}

#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn pause(pause: Duration) {
    std::thread::sleep(pause);
}

const NAME: &str = "freshcreds";
const NAMESPACES: u32 = 5_000;
const FOR_KUBECTL: u32 = 500;
const STEADY: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_mins(5);
