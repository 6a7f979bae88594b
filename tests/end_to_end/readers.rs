//! The whole chain: a registry that is not ours takes the token of the hour, and
//! the clients that people use pull with what stands in `config.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::cloud::{Cloud, Options};
use crate::distribution::Distribution;
use crate::engine::Engine;
use crate::machine::{
    Daemon, Done, LIMIT, Machine, ecr, ecr_registry, ended_with, run, wait_until,
};

/// Everything that the tests of this file need.
struct Chain {
    machine: Machine,
    cloud: Cloud,
    registry: Distribution,
    daemon: Daemon,
}

impl Chain {
    /// A daemon that keeps an ECR token fresh for a registry that is not ours,
    /// with an image in it.
    async fn new() -> Result<Self> {
        let options = Options { short_tokens: true, ..Options::default() };
        let (mut machine, cloud) = Machine::in_cloud(options).await?;
        let registry = Distribution::start(&machine).await?;
        machine.settings(&(ecr(&registry.host) + &ecr_registry(&cloud)))?;
        let daemon = machine.daemon().await?;
        daemon.wait_for(|report| report.status == Health::Pass).await?;
        let chain = Self { machine, cloud, registry, daemon };
        chain.follow()?;
        // From one registry to another, both with credentials of ours.
        let done = run(chain
            .machine
            .command("skopeo")
            .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--authfile"])
            .arg(chain.machine.docker_config())
            .arg(format!("docker://{}", chain.cloud.ecr_registry().image()))
            .arg(format!("docker://{}", chain.image())))
        .await?;
        ended_with(&done, 0)?;
        Ok(chain)
    }

    fn image(&self) -> String {
        format!("{}/{}", self.registry.host, Cloud::IMAGE)
    }

    /// Makes the registry take the newest token only.
    fn follow(&self) -> Result<()> {
        let newest = self.cloud.ecr().issued().pop().context("nothing was issued")?;
        self.registry.accept_only(newest.username, &newest.password)
    }

    /// Rotates the token, and gives the file as it was before.
    async fn rotate(&self) -> Result<PathBuf> {
        let old = self.machine.home().join("old.json");
        std::fs::copy(self.machine.docker_config(), &old)?;
        let count = self.cloud.ecr().issued().len();
        self.daemon.signal(Signal::USR1)?;
        timeout(LIMIT, self.cloud.ecr().wait_for_issued(count + 1)).await?;
        self.follow()?;
        let auth = self.cloud.ecr().issued().pop().map(|newest| newest.auth());
        wait_until(async || {
            self.machine.auth(&self.registry.host).is_ok_and(|found| found == auth)
        })
        .await?;
        Ok(old)
    }

    /// A client pulls before and after a rotation, and with the old file not any more.
    async fn proves(&self, pull: impl AsyncFn(&Path) -> Result<Done>) -> Result<()> {
        ended_with(&pull(&self.machine.docker_config()).await?, 0)?;
        for _ in 0..3 {
            let old = self.rotate().await?;
            ended_with(&pull(&self.machine.docker_config()).await?, 0)?;
            let refused = pull(&old).await?;
            ensure!(refused.code != Some(0), "the old token is still taken: {}", refused.stdout);
        }
        Ok(())
    }
}

#[tokio::test]
async fn skopeo_pulls_before_and_after_a_rotation() -> Result<()> {
    let chain = Chain::new().await?;
    chain
        .proves(async |config| {
            let mut command = chain.machine.command("skopeo");
            command.args(["inspect", "--tls-verify=false", "--authfile"]).arg(config);
            run(command.arg(format!("docker://{}", chain.image()))).await
        })
        .await
}

#[tokio::test]
async fn skopeo_finds_dockers_file_by_itself() -> Result<()> {
    let chain = Chain::new().await?;
    let mut command = chain.machine.command("skopeo");
    command.args(["inspect", "--tls-verify=false"]).arg(format!("docker://{}", chain.image()));
    ended_with(&run(&mut command).await?, 0)
}

#[tokio::test]
async fn podman_pulls_before_and_after_a_rotation() -> Result<()> {
    let chain = Chain::new().await?;
    let storage = chain.machine.home().join("podman");
    chain
        .proves(async |config| {
            let mut command = chain.machine.command("podman");
            command
                .args(["--storage-driver", "vfs", "--root"])
                .arg(storage.join("root"))
                .arg("--runroot")
                .arg(storage.join("run"))
                .args(["pull", "--tls-verify=false", "--authfile"])
                .arg(config)
                .arg(chain.image());
            run(&mut command).await
        })
        .await
}

#[tokio::test]
async fn docker_pulls_before_and_after_a_rotation() -> Result<()> {
    let chain = Chain::new().await?;
    let engine = Engine::start(&chain.machine).await?;
    let result = chain
        .proves(async |config| {
            // Docker takes a folder, in which the file has its usual name.
            let folder = chain.machine.home().join("docker-cli");
            std::fs::create_dir_all(&folder)?;
            std::fs::copy(config, folder.join("config.json"))?;
            let docker = || {
                let mut command = chain.machine.command("docker");
                command.arg("--config").arg(&folder).args(["--host", engine.socket()]);
                command
            };
            // What is here already would not be asked for.
            run(docker().args(["image", "rm", "--force", &chain.image()])).await?;
            run(docker().args(["pull", "--quiet", &chain.image()])).await
        })
        .await;
    engine.stop().await?;
    result
}

#[tokio::test]
async fn dockers_own_login_beside_us_keeps_its_entry_and_ours() -> Result<()> {
    let chain = Chain::new().await?;
    let elsewhere = Machine::new()?;
    let other = Distribution::start(&elsewhere).await?;
    other.accept_only("someone", "else")?;
    let engine = Engine::start(&chain.machine).await?;
    let folder = chain.machine.home().join(".docker");
    let mut command = chain.machine.command("docker");
    command.arg("--config").arg(&folder).args(["--host", engine.socket(), "login"]);
    command.args(["--username", "someone", "--password", "else", &other.host]);
    let done = run(&mut command).await;
    engine.stop().await?;
    ended_with(&done?, 0)?;
    chain.rotate().await?;
    assert!(chain.machine.auth(&other.host)?.is_some());
    assert!(chain.machine.auth(&chain.registry.host)?.is_some());
    Ok(())
}
