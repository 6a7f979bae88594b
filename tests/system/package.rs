//! The Debian package: installed, upgraded, removed and purged on a real Debian.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::booted::{Booted, package};
use crate::cloud::{Cloud, Options};
use crate::machine::{Machine, ended_with, put, run};
use crate::units::{in_cloud, settings};

#[tokio::test]
async fn lintian_finds_nothing_in_the_package() -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on=error,warning,info"]).arg(package().await?);
    let done = run(&mut lintian).await?;
    ended_with(&done, 0)
}

#[tokio::test]
async fn the_package_starts_nothing_and_says_what_to_do_next() -> Result<()> {
    let machine = Machine::new()?;
    let booted = Booted::bare(&machine).await?;
    let said = booted.sh("dpkg -i /packages/freshcreds_*-1_*.deb").await?;
    assert!(said.contains("name your registries in /etc/freshcreds/config.toml"), "{said}");
    assert!(!said.contains("dpkg: warning"), "{said}");

    // No alias, no start, no enabled unit; and systemd has nothing to say against the units where they are.
    let units = booted.sh("systemctl list-unit-files --no-legend 'freshcreds*'").await?;
    assert_eq!(units.lines().count(), 7, "{units}");
    assert!(!units.contains(" enabled "), "{units}");
    assert_eq!(booted.sh("systemctl list-units --no-legend --all 'freshcreds*'").await?.trim(), "");
    let all = "freshcreds.service freshcreds-root.service freshcreds@ci.service \
               freshcreds-once.timer freshcreds-once@ci.timer";
    let said = booted.sh(&format!("systemd-analyze verify {all}")).await?;
    assert_eq!(said.trim(), "");

    // The user, and its folder.
    let found = booted.sh("stat -c '%a %U:%G' /var/lib/freshcreds/docker").await?;
    assert_eq!(found.trim(), "2750 freshcreds:freshcreds");
    booted.sh("getent passwd freshcreds | grep -q /usr/sbin/nologin").await?;
    let found = booted.sh("stat -c '%a %U:%G' /var/lib/freshcreds/docker/config.json").await?;
    assert_eq!(found.trim(), "640 freshcreds:freshcreds");

    // What is there to read.
    for page in ["1 freshcreds", "1 freshcreds-run", "1 freshcreds-status", "5 freshcreds.toml"] {
        booted.sh(&format!("man --where {page}")).await?;
    }
    booted.sh("bash -c '. /usr/share/bash-completion/completions/freshcreds'").await?;

    // Without registries it says what is missing, once.
    booted.fails("systemctl start freshcreds").await?;
    let journal = booted.sh("journalctl -u freshcreds -o cat").await?;
    assert_eq!(journal.matches("no registry is named").count(), 1, "{journal}");
    booted.stop().await
}

#[tokio::test]
async fn an_upgrade_keeps_the_settings_and_a_purge_keeps_what_is_the_users() -> Result<()> {
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    let newer = newer_package(&machine).await?;
    booted
        .sh("systemctl enable --now freshcreds-root freshcreds@ci freshcreds-once@deploy.timer")
        .await?;
    let ids = "systemctl show -p MainPID --value freshcreds-root freshcreds@ci";
    let before = booted.sh(ids).await?;

    // As unattended upgrades do: the administrator's changes stay.
    let upgrade = format!("dpkg --force-confdef --force-confold -i /host/{newer}");
    booted.sh(&upgrade).await?;
    booted
        .until("systemctl is-active freshcreds-root freshcreds@ci freshcreds-once@deploy.timer")
        .await?;
    let after = booted.sh(ids).await?;
    for (before, after) in before.split_whitespace().zip(after.split_whitespace()) {
        assert!(before != after && after != "0", "{before} and {after}");
    }
    booted.fails("systemctl is-active freshcreds").await?;
    booted.sh("grep -q fetch_timeout /etc/freshcreds/config.toml").await?;
    booted.sh("grep -q 'of the newer version' /etc/freshcreds/config.toml.dpkg-dist").await?;

    let sums = "sha256sum /root/.docker/config.json /home/ci/.docker/config.json";
    let before = booted.sh(sums).await?;
    booted.sh("dpkg --remove freshcreds").await?;
    assert_eq!(booted.sh("pgrep -c freshcreds || true").await?.trim(), "0");
    booted.sh("test -e /etc/freshcreds/config.toml").await?;

    booted.sh("dpkg --purge freshcreds").await?;
    let left = "find / -xdev -iname '*freshcreds*' -not -path '/proc/*' -not -path '/sys/*' \
                -not -path '/var/log/*' -not -path '/var/lib/dpkg/*' -not -path '/packages/*' -not -path '/tmp/*'";
    assert_eq!(booted.sh(left).await?.trim(), "");
    assert_eq!(booted.sh(sums).await?, before);
    // Whose number must not become somebody else's.
    booted.sh("getent passwd freshcreds").await?;
    booted.stop().await?;
    drop::<Cloud>(cloud);
    Ok(())
}

/// A package like ours with a higher version and another sample.
async fn newer_package(machine: &Machine) -> Result<&'static str> {
    let tree = machine.home().join("newer");
    let mut unpack = Command::new("dpkg-deb");
    ended_with(&run(unpack.arg("-R").arg(package().await?).arg(&tree)).await?, 0)?;
    change(&tree.join("DEBIAN/control"), |text| {
        text.replace(
            concat!(env!("CARGO_PKG_VERSION"), "-1"),
            concat!(env!("CARGO_PKG_VERSION"), "-2"),
        )
    })?;
    change(&tree.join("etc/freshcreds/config.toml"), |text| text + "# of the newer version\n")?;
    let mut pack = Command::new("dpkg-deb");
    pack.args(["-Znone", "--root-owner-group", "-b"]).arg(&tree);
    let done = run(pack.arg(machine.home().join(NEWER)).stdin(Stdio::null())).await?;
    ended_with(&done, 0)?;
    Ok(NEWER)
}

fn change(path: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    let old = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let new = change(old.clone());
    ensure!(new != old, "{} is the same", path.display());
    put(path, &new)
}

const NEWER: &str = "newer.deb";
