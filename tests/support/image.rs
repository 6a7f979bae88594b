//! The image that is shipped, built by the very Dockerfile, and containers of it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::engine::Engine;
use crate::machine::{Done, LIMIT, Machine, ended_with, pause, run};

/// Who runs in it.
pub(crate) const USER: u32 = 65532;

/// Where it writes.
pub(crate) const FOLDER: &str = "/var/run/freshcreds";

/// Builds the image, or takes what is in the engine's cache, and gives its name there. It is built
/// once in a run of the tests, whoever asks.
pub(crate) async fn image(engine: &Engine) -> Result<&'static str> {
    static BUILT: OnceCell<()> = OnceCell::const_new();
    const NAME: &str = "freshcreds";
    BUILT.get_or_try_init(|| build(engine, &["--tag", NAME])).await?;
    Ok(NAME)
}

/// Builds what the arguments ask for.
pub(crate) async fn build(engine: &Engine, arguments: &[&str]) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/image/build.sh");
    let mut command = Command::new(script);
    command.args(arguments).args(["--progress", "plain"]).stdin(Stdio::null()).kill_on_drop(true);
    command.env("DOCKER_HOST", engine.socket()).env("DOCKER_CONFIG", "/nowhere");
    let output = timeout(BUILD_LIMIT, command.output()).await.context("the build has no end")?;
    ended_with(&output?.into(), 0).context("the image cannot be built")
}

/// A cold build on two slow cores that do something else, too.
const BUILD_LIMIT: Duration = Duration::from_mins(40);

/// A container; it is removed when it is dropped, which must be before the engine is.
pub(crate) struct Container<'engine> {
    engine: &'engine Engine,
    id: String,
}

impl<'engine> Container<'engine> {
    /// Makes one of an image, and does not start it.
    pub(crate) async fn create(engine: &'engine Engine, image: &str) -> Result<Self> {
        Self::made(engine, engine.docker().args(["create", image])).await
    }

    /// Runs the daemon as it is meant to be run: without any right, beside a cloud on loopback, whose
    /// settings are the machine's.
    pub(crate) async fn daemon(
        engine: &'engine Engine,
        machine: &Machine,
        options: &[&str],
    ) -> Result<Self> {
        let image = image(engine).await?;
        Self::beside(engine, machine, &[&CONFINED[..], options, &[image]].concat()).await
    }

    /// Runs it as a line of ours says, which begins with options and has the image in it.
    pub(crate) async fn as_told(
        engine: &'engine Engine,
        machine: &Machine,
        words: &[&str],
    ) -> Result<Self> {
        let here = ["--network=host", "--health-interval=1s"];
        Self::beside(engine, machine, &[&here[..], words].concat()).await
    }

    /// Runs one beside a cloud on loopback, with the machine's settings.
    async fn beside(engine: &'engine Engine, machine: &Machine, words: &[&str]) -> Result<Self> {
        let mut command = engine.docker();
        command.args(["run", "--detach"]);
        for (name, value) in in_container(machine)? {
            command.arg("--env").arg(format!("{name}={value}"));
        }
        let home = machine.home().display();
        command.arg("--volume").arg(format!("{home}:{SETTINGS}:ro"));
        Self::made(engine, command.args(words)).await
    }

    async fn made(engine: &'engine Engine, command: &mut Command) -> Result<Self> {
        let done = run(command).await?;
        // One that cannot be started has been made all the same, and its name printed.
        let container = Self { engine, id: done.stdout.trim().to_owned() };
        ended_with(&done, 0)?;
        Ok(container)
    }

    /// A command of docker about it.
    pub(crate) async fn docker(&self, arguments: &[&str]) -> Result<Done> {
        run(self.engine.docker().args(arguments).arg(&self.id)).await
    }

    /// What docker knows of it.
    pub(crate) async fn inspect(&self) -> Result<Value> {
        inspect(self.engine, &self.id).await
    }

    /// Runs our program in it, beside the daemon.
    pub(crate) async fn freshcreds(&self, arguments: &[&str]) -> Result<Done> {
        let program = ["exec", &self.id, "/usr/local/bin/freshcreds"];
        run(self.engine.docker().args(program).args(arguments)).await
    }

    /// All that it logged.
    pub(crate) async fn log(&self) -> Result<String> {
        let done = self.docker(&["logs"]).await?;
        Ok(done.stdout + &done.stderr)
    }

    /// Waits until docker holds it for this: `healthy`, or `unhealthy`.
    pub(crate) async fn health(&self, wanted: &str) -> Result<()> {
        let waiting = async {
            while self.inspect().await?["State"]["Health"]["Status"] != wanted {
                pause(Duration::from_millis(100)).await;
            }
            anyhow::Ok(())
        };
        if let Ok(done) = timeout(LIMIT, waiting).await {
            return done;
        }
        let health = self.inspect().await?["State"]["Health"].take();
        bail!("not {wanted}, but {health:#}; it logged:\n{}", self.log().await?)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            remove(self.engine, &["rm", "--force", "--volumes", &self.id]);
        }
    }
}

/// A named volume; it is removed when it is dropped, which must be after its containers are.
pub(crate) struct Volume<'engine> {
    engine: &'engine Engine,
    name: String,
}

impl<'engine> Volume<'engine> {
    /// On the disk, or with the driver's options.
    pub(crate) async fn create(engine: &'engine Engine, options: &[&str]) -> Result<Self> {
        let done = run(engine.docker().args(["volume", "create"]).args(options)).await?;
        ended_with(&done, 0)?;
        Ok(Self { engine, name: done.stdout.trim().to_owned() })
    }

    /// What mounts it where the image writes, for `docker run`.
    pub(crate) fn mount(&self) -> String {
        format!("--volume={}:{FOLDER}", self.name)
    }

    /// Where it is to be seen from outside.
    pub(crate) async fn folder(&self) -> Result<PathBuf> {
        let volume = inspect(self.engine, &self.name).await?;
        Ok(volume["Mountpoint"].as_str().context("it is nowhere")?.into())
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        remove(self.engine, &["volume", "rm", "--force", &self.name]);
    }
}

/// What docker knows of an image, a container or a volume.
pub(crate) async fn inspect(engine: &Engine, name: &str) -> Result<Value> {
    let done = run(engine.docker().args(["inspect", name])).await?;
    ended_with(&done, 0)?;
    Ok(serde_json::from_str::<Value>(&done.stdout)?[0].take())
}

/// Lets the image's user read what the machine has for it, and nobody else.
fn give_to_user(machine: &Machine) -> Result<()> {
    for name in ["", "settings.toml", "key.json"] {
        let path = machine.home().join(name);
        if path.exists() {
            std::os::unix::fs::chown(path, Some(USER), Some(USER))?;
        }
    }
    Ok(())
}

/// Takes something away, whatever comes of it: this is how a test ends that failed, too.
fn remove(engine: &Engine, arguments: &[&str]) {
    let mut command = engine.docker();
    // Whatever it says, it says to nobody.
    let _ = command.as_std_mut().args(arguments).stdin(Stdio::null()).output();
}

/// The least that a container can be given.
const CONFINED: [&str; 7] = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    // The stand-in for the clouds is on the machine's loopback.
    "--network=host",
    "--memory=64m",
    "--pids-limit=32",
    // The image's own question, asked often enough for a test to wait for the answer.
    "--health-interval=1s",
];

/// Where the machine's home is seen in a container.
const SETTINGS: &str = "/etc/freshcreds";

/// The machine's settings as a container is to see them: what lies in the home lies elsewhere there.
fn in_container(machine: &Machine) -> Result<Vec<(String, String)>> {
    give_to_user(machine)?;
    let home = machine.home().to_str().context("not UTF-8")?;
    let mut variables = Vec::new();
    for (name, value) in machine.environment() {
        let text = |text: &std::ffi::OsStr| text.to_str().map(str::to_owned).context("not UTF-8");
        let (name, value) = (text(name)?, text(value)?);
        if name != "HOME" && name != "PATH" {
            variables.push((name, value.replace(home, SETTINGS)));
        }
    }
    ensure!(!variables.is_empty(), "the machine has no settings");
    Ok(variables)
}
