//! The README's quick starts, block by block and line by line. What a test cannot have is put in the place
//! of what the reader has: the clouds are stand-ins, and the editor is one that knows what to write.

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::booted::Booted;
use crate::cloud::Options;
use crate::engine::Engine;
use crate::machine::{ended_with, run};
use crate::shipped::{Container, Volume, image};
use crate::units::{in_cloud, inspect, settings};

#[tokio::test]
async fn the_debian_package_is_started_as_the_readme_says() -> Result<()> {
    let (machine, cloud) = in_cloud(Options::default()).await?;
    // `make package` is what makes it, for every test.
    let booted = Booted::bare(&machine).await?;
    booted.sh("useradd --create-home --home-dir /var/lib/jenkins --shell /bin/sh jenkins").await?;
    for line in quick_start("**On a build machine**")? {
        if line == "$ make package" {
        } else if line.starts_with("# apt install ./target/debian/freshcreds_*.deb") {
            booted.sh("apt-get install --yes /packages/freshcreds_*-1_*.deb").await?;
        } else if line.starts_with("# editor /etc/freshcreds/config.toml") {
            booted.sh("test -e /etc/freshcreds/config.toml").await?;
            settings(&booted, &cloud).await?;
        } else if let Some(command) = line.strip_prefix("# systemctl ") {
            booted.sh(&format!("systemctl {command}")).await?;
        } else {
            bail!("no test knows this line: {line}");
        }
    }
    let pull = format!("runuser -u jenkins -- env HOME=/var/lib/jenkins {}", inspect(&cloud));
    booted.until(&pull).await?;
    booted.stop().await
}

#[tokio::test]
async fn cargo_installs_the_program_as_the_readme_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for line in quick_start("**By itself**")? {
        let command = line.strip_prefix("$ cargo ").with_context(|| format!("what is {line}?"))?;
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(command.split_whitespace()).current_dir(env!("CARGO_MANIFEST_DIR"));
        // Elsewhere than in the home, and without ten minutes of optimisation.
        cargo.args(["--debug", "--root"]).arg(folder.path());
        cargo.kill_on_drop(true);
        let done = cargo.output().await?;
        ensure!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let done = run(Command::new(folder.path().join("bin/freshcreds")).arg("--version")).await?;
    assert_eq!(done.stdout, concat!("freshcreds ", env!("CARGO_PKG_VERSION"), "\n"));
    Ok(())
}

#[tokio::test]
async fn a_container_is_started_as_the_readme_says() -> Result<()> {
    let (machine, _cloud) = crate::image::in_cloud(Options::default()).await?;
    let engine = Engine::with_images().await?;
    let volume = Volume::create(&engine, &["registry-auth"]).await?;
    let mut container = None;
    for line in quick_start("**As a container**")? {
        if line == "$ export DOCKER_BUILDKIT=1" {
        } else if line.starts_with("$ docker build -t freshcreds .") {
            // Of the same Dockerfile, with other bases.
            assert_eq!(image(&engine).await?, "freshcreds");
        } else if let Some(words) = line.strip_prefix("$ docker run ") {
            let words: Vec<&str> = words.split_whitespace().collect();
            container = Some(Container::as_told(&engine, &machine, &words).await?);
        } else {
            bail!("no test knows this line: {line}");
        }
    }
    let container = container.context("nothing is run")?;
    container.health("healthy").await?;
    let written = std::fs::read_to_string(volume.folder().await?.join("config.json"))?;
    ensure!(written.contains("europe-docker.pkg.dev"), "not there: {written}");
    ended_with(&container.freshcreds(&["check"]).await?, 0)?;
    drop((container, volume));
    engine.stop().await
}

/// The lines of the first block below a heading of the README's, without their comments.
fn quick_start(heading: &str) -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?;
    let (_, after) = readme.split_once(heading).with_context(|| format!("no {heading}"))?;
    let block = after.split_once("```console\n").and_then(|(_, rest)| rest.split_once("```"));
    let (block, _) = block.with_context(|| format!("no block below {heading}"))?;
    let without_comment =
        |line: &str| line.split("  #").next().unwrap_or(line).trim_end().to_owned();
    Ok(block.lines().map(without_comment).collect())
}
