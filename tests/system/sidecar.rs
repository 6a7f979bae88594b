//! freshcreds beside the applications of `dist/compose`: in containers of a real engine, by these very
//! files, with tokens that live for seconds and a registry whose password follows them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::clients;
use crate::cloud::{Cloud, Fault, Options, Verdict};
use crate::distribution::Distribution;
use crate::engine::Engine;
use crate::machine::{
    Done, LIMIT, Machine, ecr, ecr_registry, ended_with, free_port, put, run, wait_until,
};
use crate::shipped;

/// How often a token is renewed while the applications pull.
const ROTATIONS: usize = 4;

/// How long a token lives here: half of it is enough for all that is done with one.
const LIFE: Duration = Duration::from_secs(30);

/// All of `dist/compose` at once, on the machine's own network: the stand-ins listen on loopback.
struct Composition {
    cloud: Cloud,
    registry: Distribution,
    engine: Engine,
    machine: Machine,
    settings: PathBuf,
    port: u16,
}

impl Composition {
    async fn new() -> Result<Self> {
        let options = Options { short_tokens: true, ecr_life: LIFE, ..Options::default() };
        let (machine, cloud) = Machine::in_cloud(options).await?;
        let registry = Distribution::start(&machine).await?;
        let engine = Engine::with_images().await?;
        shipped::image(&engine).await?;
        clients::ready(&engine).await?;
        let settings = machine.home().join("freshcreds.toml");
        put(&settings, &(ecr_registry(&cloud) + &ecr(&registry.host)))?;
        let this = Self { cloud, registry, engine, machine, settings, port: free_port()? };
        put(&this.here(), &this.what_is_different_here())?;
        // What a run that was killed has left.
        this.down().await?;
        Ok(this)
    }

    /// The file that joins those of `dist/compose`.
    fn here(&self) -> PathBuf {
        self.machine.home().join("here.yaml")
    }

    fn what_is_different_here(&self) -> String {
        let watched = self.cloud.ecr_registry().image();
        format!(
            r#"
services:
  freshcreds:
    network_mode: host
    environment:
      AWS_ENDPOINT_URL_ECR: "{ecr}"
      AWS_EC2_METADATA_DISABLED: "true"
      FRESHCREDS_CONFIG: /etc/freshcreds/config.toml
      FRESHCREDS_LISTEN: 127.0.0.1:{port}
    volumes:
      - {settings}:/etc/freshcreds/config.toml:ro
  reader:
    network_mode: host
    command: [sleep, infinity]
    init: true
  engine:
    network_mode: host
  watcher:
    network_mode: host
    init: true
    # Once more each time, as something that runs for months does.
    command:
      - sh
      - -c
      - >-
        while :; do
        skopeo inspect --tls-verify=false docker://{watched} > /dev/null && echo pulled || echo FAILED;
        sleep 0.2;
        done
"#,
            ecr = self.cloud.ecr_endpoint(),
            port = self.port,
            settings = self.settings.display(),
        )
    }

    fn compose(&self) -> Command {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/compose");
        let mut command = self.machine.command("docker-compose");
        command
            .env("DOCKER_HOST", self.engine.socket())
            .env("DOCKER_SOCKET", self.engine.socket().trim_start_matches("unix://"))
            .env("FRESHCREDS_REGISTRIES", self.hosts())
            .env("FRESHCREDS_IMAGE", "freshcreds")
            .env("APPLICATION_IMAGE", clients::NAME)
            .env("WATCHER_IMAGE", clients::NAME)
            .args(["--project-name", "freshcreds-test"]);
        for file in ["compose.yaml", "reader.yaml", "engine.yaml", "watcher.yaml"] {
            command.arg("--file").arg(folder.join(file));
        }
        command.arg("--file").arg(self.here());
        command
    }

    async fn down(&self) -> Result<()> {
        let mut command = self.compose();
        ended_with(&run(command.args(["down", "--volumes", "--timeout", "2"])).await?, 0)
    }

    /// What the application in a container does.
    async fn does(&self, service: &str, command: &[&str]) -> Result<Done> {
        run(self.compose().args(["exec", "-T", service]).args(command)).await
    }

    async fn runs(&self, service: &str) -> Result<bool> {
        let done = run(self.compose().args(["ps", "--quiet", service])).await?;
        let id = done.stdout.trim();
        if id.is_empty() {
            return Ok(false);
        }
        let mut command = self.engine.docker();
        let done = run(command.args(["inspect", "--format", "{{.State.Running}}", id])).await?;
        Ok(done.stdout.trim() == "true")
    }

    /// Waits for the next token, and makes the registry take no other one.
    async fn rotates(&self) -> Result<()> {
        let count = self.cloud.ecr().issued().len();
        timeout(LIMIT, self.cloud.ecr().wait_for_issued(count + 1)).await?;
        let newest = self.cloud.ecr().issued().pop().context("nothing was issued")?;
        let auth = newest.auth();
        wait_until(async || {
            let done = self.does("reader", &["cat", "/var/run/freshcreds/config.json"]).await;
            done.is_ok_and(|done| done.stdout.contains(&auth))
        })
        .await?;
        self.registry.accept_only(newest.username, &newest.password)
    }

    fn hosts(&self) -> String {
        format!("{},{}", self.cloud.ecr_registry().host(), self.registry.host)
    }

    fn image(&self) -> String {
        format!("{}/{}", self.registry.host, Cloud::IMAGE)
    }
}

#[tokio::test]
async fn applications_start_with_the_first_token_and_pull_with_each_that_follows() -> Result<()> {
    let all = Composition::new().await?;
    all.cloud.ecr().break_with(Fault::ServerError);

    let mut starting = all.compose();
    starting.args(["up", "--detach", "--no-build"]).kill_on_drop(true);
    let starting = tokio::spawn(async move { run(&mut starting).await });
    timeout(LIMIT, all.cloud.ecr().wait_for_calls(2)).await?;
    for service in ["reader", "engine", "watcher"] {
        ensure!(!all.runs(service).await?, "{service} runs before there is a token");
    }
    all.cloud.ecr().mend();
    ended_with(&starting.await??, 0)?;
    for service in ["reader", "engine", "watcher"] {
        ensure!(all.runs(service).await?, "{service} does not run");
    }

    all.rotates().await?;
    let first = format!("docker://{}", all.cloud.ecr_registry().image());
    let image = format!("docker://{}", all.image());
    let copy = ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    ended_with(&all.does("reader", &[&copy[..], &[&first, &image]].concat()).await?, 0)?;
    for _ in 0..ROTATIONS {
        all.rotates().await?;
        // As kaniko does: every layer is fetched, without an engine.
        let folder = "dir:/tmp/image";
        ended_with(&all.does("reader", &[&copy[..], &[&image, folder]].concat()).await?, 0)?;
        ended_with(&all.does("engine", &["docker", "pull", &all.image()]).await?, 0)?;
        let build = format!("printf 'FROM %s' {} | docker build --pull -", all.image());
        let with_buildkit = ["env", "DOCKER_BUILDKIT=1", "sh", "-c", &build];
        ended_with(&all.does("engine", &with_buildkit).await?, 0)?;
    }

    let done = run(all.compose().args(["logs", "--no-color", "watcher"])).await?;
    let pulled = done.stdout.lines().filter(|line| line.ends_with("pulled")).count();
    ensure!(pulled > 4 * ROTATIONS, "the watcher pulled {pulled} times only");
    ensure!(!done.stdout.contains("FAILED"), "a pull in between failed:\n{}", done.stdout);
    assert_eq!(all.cloud.ecr_registry().count(Verdict::Expired), 0);
    let log = run(all.compose().args(["logs", "--no-color"])).await?;
    assert_eq!(all.cloud.leak_in(log.stdout.as_bytes()), None);
    all.down().await?;
    all.engine.stop().await
}
