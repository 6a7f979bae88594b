//! A machine of its own for each test: a home folder, a settings file, a clean
//! environment, and the built program.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use freshcreds::status::Report;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cloud::{Cloud, Options};

/// Where the program runs.
pub(crate) struct Machine {
    home: TempDir,
    environment: Vec<(OsString, OsString)>,
}

impl Machine {
    /// With nothing on it.
    pub(crate) fn new() -> Result<Self> {
        let home = TempDir::with_prefix("freshcreds-test-")?;
        let mut machine = Self { home, environment: Vec::new() };
        machine.set("HOME", machine.home().as_os_str().to_owned());
        machine.set("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Nobody but the test's own servers is to be asked.
        machine.set("AWS_EC2_METADATA_DISABLED", "true");
        Ok(machine)
    }

    /// With identities for both of the stand-in's clouds, and settings for its
    /// two registries.
    pub(crate) async fn in_cloud(options: Options) -> Result<(Self, Cloud)> {
        let cloud = Cloud::start(options).await?;
        let mut machine = Self::new()?;
        let key = machine.home().join("key.json");
        cloud.write_service_account_key(&key)?;
        for (name, value) in cloud.environment(&key) {
            machine.set(name, value);
        }
        machine.settings(&registries(&cloud))?;
        Ok((machine, cloud))
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Takes a variable away.
    pub(crate) fn unset(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// The variables that every command gets.
    pub(crate) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// Writes the settings file, which every command gets from now on.
    pub(crate) fn settings(&mut self, text: &str) -> Result<()> {
        let path = self.home().join("settings.toml");
        put(&path, &format!("listen = \"127.0.0.1:0\"\nfetch_timeout = \"1s\"\n{text}"))?;
        self.set("FRESHCREDS_CONFIG", path);
        Ok(())
    }

    /// Adds to the settings file.
    pub(crate) fn more_settings(&self, text: &str) -> Result<()> {
        let path = self.home().join("settings.toml");
        let before = std::fs::read_to_string(&path)?;
        put(&path, &(before + text))
    }

    /// Says something about the file that docker reads in the settings.
    pub(crate) fn target_settings(&self, path: &Path, more: &str) -> Result<()> {
        self.more_settings(&format!("[[target]]\npath = \"{}\"\n{more}\n", path.display()))
    }

    /// The file that docker reads on this machine.
    pub(crate) fn docker_config(&self) -> PathBuf {
        self.home().join(".docker/config.json")
    }

    /// Puts `text` where docker reads.
    pub(crate) fn put_docker_config(&self, text: &str) -> Result<()> {
        std::fs::create_dir_all(self.home().join(".docker"))?;
        put(&self.docker_config(), text)
    }

    /// What stands where docker reads.
    pub(crate) fn docker_config_text(&self) -> Result<String> {
        std::fs::read_to_string(self.docker_config()).context("no config.json")
    }

    /// The `auth` of a host, as docker reads it.
    pub(crate) fn auth(&self, host: &str) -> Result<Option<String>> {
        let config: Value = serde_json::from_str(&self.docker_config_text()?)?;
        Ok(config["auths"][host]["auth"].as_str().map(str::to_owned))
    }

    /// Another program on this machine.
    pub(crate) fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.env_clear().envs(self.environment().iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs our program to its end.
    pub(crate) async fn freshcreds(&self, arguments: &[&str]) -> Result<Done> {
        run(self.command(PROGRAM).args(arguments)).await
    }

    /// Starts the daemon, and waits until it listens.
    pub(crate) async fn daemon(&self) -> Result<Daemon> {
        Daemon::start(self.command(PROGRAM).arg("run")).await
    }
}

/// What a program did.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end, which must come.
pub(crate) async fn run(command: &mut Command) -> Result<Done> {
    let program = command.as_std().get_program().to_owned();
    let output = timeout(LIMIT, command.output())
        .await
        .with_context(|| format!("{} does not end", program.display()))?
        .with_context(|| format!("{} cannot be run: run `make setup`", program.display()))?;
    Ok(output.into())
}

/// A running daemon; it is killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Daemon {
    pub(crate) async fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = tokio::sync::oneshot::channel();
        let reader = tokio::spawn(read_log(BufReader::new(stderr), Arc::clone(&log), found));
        let Ok(Ok(address)) = timeout(LIMIT, address).await else {
            bail!("it does not listen: {}", log.lock().map(|log| log.clone()).unwrap_or_default());
        };
        Ok(Self { child, address, log, reader })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that it logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.id()?)?).context("no process has the id 0")?;
        Ok(kill_process(id, signal)?)
    }

    /// The program that was started by the one that was started, which is a tracer.
    pub(crate) fn child(&self) -> Result<Pid> {
        let id = self.id()?;
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let child = children.split_whitespace().next().context("it has no child")?;
        Pid::from_raw(child.parse()?).context("no process has the id 0")
    }

    pub(crate) fn signal_child(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.child()?, signal)?)
    }

    /// Waits for the end, and says with which code and after how long.
    pub(crate) async fn ended(&mut self) -> Result<(Option<i32>, Duration)> {
        let started = now();
        let status = timeout(LIMIT, self.child.wait()).await.context("it does not end")??;
        timeout(LIMIT, &mut self.reader).await.context("its log has no end")??;
        Ok((status.code(), now().duration_since(started).unwrap_or_default()))
    }

    /// Ends it the hard way.
    pub(crate) async fn abort(&mut self) -> Result<std::process::ExitStatus> {
        self.signal(Signal::ABORT)?;
        Ok(timeout(LIMIT, self.child.wait()).await.context("it does not end")??)
    }

    pub(crate) fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Asks for the end in order.
    pub(crate) async fn stop(&mut self) -> Result<(Option<i32>, Duration)> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// What it says of itself.
    pub(crate) async fn report(&self) -> Result<Report> {
        Ok(freshcreds::http::fetch(&freshcreds::http::Address::Network(self.address)).await?)
    }

    /// Waits until a report is as it should be.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&Report) -> bool) -> Result<Report> {
        let waiting = async {
            loop {
                let report = self.report().await?;
                if wanted(&report) {
                    return anyhow::Ok(report);
                }
                pause(Duration::from_millis(50)).await;
            }
        };
        let found = timeout(LIMIT, waiting).await;
        found.with_context(|| format!("it did not come about; the log:\n{}", self.log()))?
    }

    /// Asks for a path, and gives the whole answer.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        self.get_with(path, "").await
    }

    /// The same, with more headers.
    pub(crate) async fn get_with(&self, path: &str, headers: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let mut stream = tokio::net::TcpStream::connect(self.address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.context("no answer")??;
        Ok(answer)
    }
}

async fn read_log(
    mut lines: BufReader<tokio::process::ChildStderr>,
    log: Arc<Mutex<String>>,
    found: tokio::sync::oneshot::Sender<SocketAddr>,
) {
    let mut found = Some(found);
    let mut line = String::new();
    while lines.read_line(&mut line).await.is_ok_and(|length| length > 0) {
        if let Ok(event) = serde_json::from_str::<Value>(&line)
            && event["fields"]["message"] == "listening"
            && let Some(Ok(address)) = event["fields"]["address"].as_str().map(str::parse)
            && let Some(found) = found.take()
        {
            // Nobody waits any more if it took too long.
            let _ = found.send(address);
        }
        if let Ok(mut log) = log.lock() {
            log.push_str(&line);
        }
        line.clear();
    }
}

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_freshcreds");

/// Nothing here takes that long, unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Settings for the two registries of the stand-in.
pub(crate) fn registries(cloud: &Cloud) -> String {
    ecr_registry(cloud) + &google_registry(cloud)
}

/// Settings for its ECR.
pub(crate) fn ecr_registry(cloud: &Cloud) -> String {
    ecr(cloud.ecr_registry().host())
}

/// Settings for a registry that takes ECR's tokens.
pub(crate) fn ecr(host: &str) -> String {
    format!("[[registry]]\nhost = \"{host}\"\nkind = \"ecr\"\nregion = \"eu-west-1\"\n")
}

/// Settings for its Google.
pub(crate) fn google_registry(cloud: &Cloud) -> String {
    let host = cloud.google_registry().host();
    format!("[[registry]]\nhost = \"{host}\"\nkind = \"google\"\n")
}

/// Waits until something on this machine is as it should be, and no longer than `limit`.
pub(crate) async fn until(limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !is_so()? {
            pause(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    timeout(limit, waiting).await.context("it did not come about in time")?
}

/// Waits until it is so, which takes a call to find out.
pub(crate) async fn wait_until(condition: impl AsyncFn() -> bool) -> Result<()> {
    let waiting = async {
        while !condition().await {
            pause(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, waiting).await.context("it did not come about")
}

/// A port of loopback that nobody has just now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until nobody else uses what a folder is for; it is made. Ours until this is dropped.
pub(crate) async fn turn(folder: &Path) -> Result<std::fs::File> {
    std::fs::create_dir_all(folder)?;
    let turn = std::fs::File::create(folder.join("turn"))?;
    Ok(tokio::task::spawn_blocking(move || turn.lock().map(|()| turn)).await??)
}

/// Whether a process of this number runs; one that has ended and is not yet forgotten does not.
pub(crate) fn is_running(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// A folder of programs that `make setup` installs.
pub(crate) fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name)
}

#[expect(clippy::disallowed_methods, reason = "a test is another program, and may write in place")]
pub(crate) fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "the judge does not ask the judged for the time")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
pub(crate) async fn pause(pause: Duration) {
    tokio::time::sleep(pause).await;
}

/// How often to do something: more often in a campaign (`make stress`).
pub(crate) fn campaign(usual: usize, campaign: usize) -> usize {
    if std::env::var_os("FRESHCREDS_STRESS").is_some() { campaign } else { usual }
}

/// Tells a number that a campaign is run for.
#[expect(clippy::print_stdout, reason = "shown with --nocapture")]
pub(crate) fn tell(text: &str) {
    println!("{text}");
}

/// Fails with all that a program printed if it did not end with this code.
pub(crate) fn ended_with(done: &Done, code: i32) -> Result<()> {
    if done.code != Some(code) {
        bail!("ended with {:?}, not {code}\n{}\n{}", done.code, done.stdout, done.stderr);
    }
    Ok(())
}
