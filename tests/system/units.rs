//! The systemd units, as the package installs them, under a real systemd.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::booted::Booted;
use crate::cloud::{Cloud, Options};
use crate::distribution::Distribution;
use crate::machine::{LIMIT, Machine, ecr_registry, free_port, put, registries, until};

#[tokio::test]
async fn the_daemon_gets_its_identity_from_systemd_and_serves_its_group() -> Result<()> {
    let (machine, cloud) = in_cloud(SHORT).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    // What every service gets here is taken back for the ones that systemd hands over.
    booted.sh("sed -i /identity/d /etc/default/freshcreds").await?;
    booted.sh("usermod -aG freshcreds ci").await?;

    // Without an identity it starts, and says that it has none.
    booted.sh("systemctl start freshcreds").await?;
    booted
        .until("systemctl status freshcreds | grep 'Status: \"0 of 2 registries are ready'")
        .await?;
    booted.sh("systemctl stop freshcreds").await?;

    // With one that is to be handed over and is not there, it does not.
    for name in ["aws", "google"] {
        booted.sh(&format!("install -D -m 644 -t {DROP_INS} {EXAMPLES}/{name}.conf")).await?;
    }
    booted.sh("systemctl daemon-reload").await?;
    booted.fails("systemctl start freshcreds").await?;
    booted.sh("systemctl status freshcreds | grep -q 243/CREDENTIALS || journalctl -u freshcreds | grep -q 'step CREDENTIALS'").await?;
    // It would try again by itself.
    booted.sh("systemctl stop freshcreds; systemctl reset-failed freshcreds || true").await?;

    booted.sh("cd /etc/freshcreds/credentials && install -m 600 /host/aws aws && install -m 600 /host/key.json google.json").await?;
    booted.sh("systemctl start freshcreds").await?;
    booted.until("freshcreds check").await?;
    booted
        .until("systemctl show -p StatusText freshcreds | grep '2 of 2 registries are ready'")
        .await?;
    // Type=notify, a line of status, the watchdog; as its own user.
    let shown = booted
        .sh("systemctl show -p WatchdogUSec,User,ActiveState,StatusText,NRestarts freshcreds")
        .await?;
    for line in [
        "WatchdogUSec=3min",
        "User=freshcreds",
        "ActiveState=active",
        "StatusText=2 of 2 registries are ready",
        "NRestarts=0",
    ] {
        assert!(shown.lines().any(|it| it == line), "no {line} in\n{shown}");
    }
    let id = booted.sh("systemctl show -p MainPID --value freshcreds").await?;
    let id = id.trim();
    let status = booted.sh(&format!("cat /proc/{id}/status")).await?;
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.lines().any(|it| it == line), "no {line} in\n{status}");
    }

    // Its group may read what it writes, and nobody but root the identity.
    let file = "/var/lib/freshcreds/docker/config.json";
    booted
        .sh(&format!("test \"$(stat -c '%a %U:%G' {file})\" = '640 freshcreds:freshcreds'"))
        .await?;
    booted.fails(&format!("runuser -u deploy -- cat {file}")).await?;
    booted.fails("runuser -u ci -- cat /run/credentials/freshcreds.service/aws").await?;
    booted.fails("runuser -u ci -- cat /etc/freshcreds/credentials/aws").await?;
    let pull = format!(
        "runuser -u ci -- env DOCKER_CONFIG=/var/lib/freshcreds/docker {} --authfile {file}",
        inspect(&cloud)
    );
    booted.sh(&pull).await?;

    // The tokens of the first seconds are dead by then, and others are there.
    lapse(&cloud).await?;
    booted.sh(&pull).await?;
    booted.sh("freshcreds check").await?;

    // SIGHUP: new settings, the same process.
    booted.sh("cd /etc/freshcreds && head -n -3 config.toml >new && mv new config.toml").await?;
    booted.sh("systemctl reload freshcreds").await?;
    booted
        .until("systemctl status freshcreds | grep 'Status: \"1 of 1 registries are ready'")
        .await?;
    assert_eq!(booted.sh("systemctl show -p MainPID --value freshcreds").await?.trim(), id);
    let end = "systemctl stop freshcreds; systemctl show -p Result --value freshcreds";
    assert_eq!(booted.sh(end).await?.trim(), "success");
    booted.stop().await
}

#[tokio::test]
async fn each_user_has_an_instance_with_its_own_settings_file_and_socket() -> Result<()> {
    let (machine, cloud) = in_cloud(SHORT).await?;
    let other = Distribution::start(&machine).await?;
    other.accept_only("someone", "else")?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    // One registry instead of two.
    let own = format!("fetch_timeout = \"1s\"\n{}", ecr_registry(&cloud));
    booted.put("/etc/freshcreds/ci.toml", &own).await?;
    booted.sh("systemctl enable --now freshcreds@ci freshcreds@jenkins freshcreds-root").await?;

    for (user, home, registries) in
        [("ci", "/home/ci", 1), ("jenkins", "/var/lib/jenkins", 2), ("root", "/root", 2)]
    {
        let listen = match user {
            "root" => String::new(),
            _ => format!("FRESHCREDS_LISTEN=unix:/run/freshcreds/{user}/health.sock"),
        };
        booted.until(&format!("{listen} freshcreds check")).await?;
        let status = booted.sh(&format!("{listen} freshcreds status --json")).await?;
        let status: Value = serde_json::from_str(&status)?;
        assert_eq!(
            status["checks"]["registry:credential"].as_array().map(Vec::len),
            Some(registries),
            "{user}"
        );
        let found = booted
            .sh(&format!("stat -c '%a %U' {home}/.docker {home}/.docker/config.json"))
            .await?;
        assert_eq!(found, format!("700 {user}\n600 {user}\n"));
        // Nothing that it remembers is for others.
        let found = booted.sh(&format!("stat -c '%a %U' /var/lib/freshcreds/state/{user}")).await?;
        assert_eq!(found, format!("700 {user}\n"));
    }
    booted.fails("runuser -u ci -- env FRESHCREDS_LISTEN=unix:/run/freshcreds/jenkins/health.sock freshcreds check").await?;

    // The user logs in by itself, and keeps that.
    booted.sh(&login("ci", &other)).await?;
    lapse(&cloud).await?;
    booted.sh("FRESHCREDS_LISTEN=unix:/run/freshcreds/ci/health.sock freshcreds check").await?;
    let file: Value = serde_json::from_str(&booted.sh("cat /home/ci/.docker/config.json").await?)?;
    assert!(file["auths"][&other.host]["auth"].is_string(), "{file}");
    booted.sh(&format!("runuser -l ci -c '{}'", inspect(&cloud))).await?;

    // The folder is moved away, or removed: what readers look at is what is written.
    for away in ["mv /home/ci/.docker /home/ci/.docker.old", "rm -rf /home/ci/.docker"] {
        booted.sh(&format!("runuser -u ci -- {away}")).await?;
        booted.until("test -s /home/ci/.docker/config.json").await?;
        booted
            .until("FRESHCREDS_LISTEN=unix:/run/freshcreds/ci/health.sock freshcreds check")
            .await?;
    }

    // An instance's identity is its user's, as docs/build-machines.md says.
    booted.sh("install -D -m 644 -t /etc/systemd/system/freshcreds@ci.service.d /usr/share/doc/freshcreds/examples/drop-ins/aws.conf
               install -m 600 /host/aws /etc/freshcreds/credentials/aws
               systemctl daemon-reload && systemctl restart freshcreds@ci").await?;
    booted.sh("runuser -u ci -- cat /run/credentials/freshcreds@ci.service/aws").await?;
    booted.fails("runuser -u deploy -- cat /run/credentials/freshcreds@ci.service/aws").await?;
    booted.stop().await
}

#[tokio::test]
async fn a_link_of_an_instances_user_opens_no_door_that_was_closed() -> Result<()> {
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    // Behind a door that is closed to others there is a folder that is not.
    booted
        .sh("chmod 700 /home/ci && install -d -m 755 -o ci -g ci /home/ci/project
             echo plan >/home/ci/project/plan && chown ci /home/ci/project/plan
             runuser -u deploy -- mkdir /home/deploy/.config")
        .await?;
    booted.fails("runuser -u deploy -- cat /home/ci/project/plan").await?;
    let all = "find /home/ci /root /etc -not -path '*/systemd/*' -printf '%p %i %T@ %s %m %u\n' | sort | sha256sum";
    for to in ["/home/ci/project", "/root/.docker", "/etc/new"] {
        booted
            .sh(&format!(
                "cd /home/deploy && rm -rf .docker .aws .config/gcloud
                 for link in .docker .aws .config/gcloud; do runuser -u deploy -- ln -s {to} /home/deploy/$link; done"
            ))
            .await?;
        let before = booted.sh(all).await?;
        booted.sh("systemctl start freshcreds@deploy").await?;
        booted
            .until("FRESHCREDS_LISTEN=unix:/run/freshcreds/deploy/health.sock freshcreds status --json | jq -e '.checks[\"target:file\"][0].lastError'")
            .await
            .context(to)?;
        let id = booted.sh("systemctl show -p MainPID --value freshcreds@deploy").await?;
        let inside = format!("nsenter --mount --target {} ", id.trim());
        booted.sh(&format!("{inside} test -d /home/deploy/.config")).await?;
        booted.fails(&format!("{inside} test -e /home/ci")).await?;
        booted.fails(&format!("{inside} test -e /root/.docker")).await?;
        booted.sh("systemctl stop freshcreds@deploy").await?;
        assert_eq!(booted.sh(all).await?, before, "{to}");
    }
    booted.stop().await
}

#[tokio::test]
async fn root_without_privileges_reaches_nothing_by_which_root_commands_others() -> Result<()> {
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    booted.sh("systemctl start freshcreds-root").await?;
    booted.until("freshcreds check").await?;
    let id = booted.sh("systemctl show -p MainPID --value freshcreds-root").await?;
    let inside = format!(
        "nsenter --mount --target {} setpriv --bounding-set=-all --inh-caps=-all ",
        id.trim()
    );
    // What root owns and nobody hides is to be seen, or the rest would say nothing.
    booted.sh(&format!("{inside} cat /etc/machine-id")).await?;
    booted.sh("setpriv --bounding-set=-all --inh-caps=-all systemctl list-units").await?;
    booted.fails(&format!("{inside} systemctl list-units")).await?;
    booted.sh("setpriv --bounding-set=-all --inh-caps=-all head -c 1 /etc/shadow").await?;
    booted.fails(&format!("{inside} head -c 1 /etc/shadow")).await?;
    booted.fails(&format!("{inside} ls /etc/freshcreds/credentials")).await?;
    booted.stop().await
}

#[tokio::test]
async fn a_timer_fetches_for_root_and_for_a_user() -> Result<()> {
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    for (unit, home) in [("freshcreds-once", "/root"), ("freshcreds-once@ci", "/home/ci")] {
        // The same timer, at once.
        let soon =
            "[Timer]\nOnCalendar=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n";
        booted.put(&format!("/etc/systemd/system/{unit}.timer.d/soon.conf"), soon).await?;
        booted.sh(&format!("systemctl daemon-reload && systemctl start {unit}.timer")).await?;
        booted
            .sh(&format!("systemctl list-timers --all --no-legend | grep -q {unit}.timer"))
            .await?;
        booted.until(&format!("test -s {home}/.docker/config.json")).await?;
        booted.until(&format!("test $(systemctl show -p ExecMainStatus --value {unit}) = 0 && test $(systemctl show -p ActiveState --value {unit}) = inactive")).await?;
        let file: Value =
            serde_json::from_str(&booted.sh(&format!("cat {home}/.docker/config.json")).await?)?;
        for host in [cloud.ecr_registry().host(), cloud.google_registry().host()] {
            assert!(file["auths"][host]["auth"].is_string(), "{unit}: {file}");
        }
    }
    booted.sh("test $(stat -c %U /home/ci/.docker/config.json) = ci").await?;
    booted.stop().await
}

#[tokio::test]
async fn one_daemon_without_root_keeps_the_files_of_two_users_apart() -> Result<()> {
    let (machine, cloud) = in_cloud(SHORT).await?;
    let other = Distribution::start(&machine).await?;
    other.accept_only("someone", "else")?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    several_users(&booted).await?;
    booted.sh("systemctl start freshcreds").await?;
    booted.until("freshcreds check").await?;

    for round in 0..2 {
        for (user, elses) in [("ci", "deploy"), ("deploy", "ci")] {
            let file = format!("/home/{user}/.docker/config.json");
            booted.sh(&login(user, &other)).await?;
            let pull = format!("runuser -u {user} -- {} --authfile {file}", inspect(&cloud));
            booted.sh(&pull).await.with_context(|| format!("round {round}"))?;
            booted.fails(&format!("runuser -u {elses} -- cat {file}")).await?;
            booted.fails(&format!("runuser -u {elses} -- ls /home/{user}/.docker/")).await?;
        }
        lapse(&cloud).await?;
        booted.until("freshcreds check").await?;
        for user in ["ci", "deploy"] {
            let file = booted.sh(&format!("cat /home/{user}/.docker/config.json")).await?;
            let file: Value = serde_json::from_str(&file)?;
            assert!(file["auths"][&other.host]["auth"].is_string(), "{user}: {file}");
            assert!(
                file["auths"][cloud.ecr_registry().host()]["auth"].is_string(),
                "{user}: {file}"
            );
            let found =
                booted.sh(&format!("stat -c '%a %U:%G' /home/{user}/.docker/config.json")).await?;
            assert_eq!(found, format!("660 freshcreds:{user}\n"));
        }
    }
    let id = booted.sh("systemctl show -p MainPID --value freshcreds").await?;
    let status = booted.sh(&format!("cat /proc/{}/status", id.trim())).await?;
    ensure!(status.contains("CapEff:\t0000000000000000"), "{status}");
    booted.stop().await
}

#[tokio::test]
async fn no_link_of_one_user_leads_the_daemon_to_anothers_file() -> Result<()> {
    let (machine, cloud) = in_cloud(SHORT).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    several_users(&booted).await?;
    booted.sh("systemctl start freshcreds").await?;
    booted.until("freshcreds check").await?;
    let victim = "cat /home/deploy/.docker/config.json; stat -c '%U:%G %a' /home/deploy/.docker/config.json; ls -A /home/deploy/.docker";
    // The file: to what is there, to what is not there yet, and out of the way.
    for to in [
        "/home/deploy/.docker/config.json",
        "/home/deploy/.docker/new.json",
        "/var/lib/freshcreds/docker/config.json",
        "/etc/new.json",
    ] {
        // In one step: what is missing is back at once.
        booted.sh(&format!("runuser -u ci -- ln -sf {to} /home/ci/.docker/config.json")).await?;
        refuses(&booted, "foreign_link").await.context(to)?;
        booted.fails("test -e /etc/new.json").await?;
        ensure!(!booted.sh(victim).await?.contains("new.json"), "{to}");
        booted.sh("runuser -u ci -- rm /home/ci/.docker/config.json").await?;
        booted.until("freshcreds check").await?;
    }
    // The folder, which systemd follows when it binds it.
    booted.sh("systemctl stop freshcreds").await?;
    let before = booted.sh(victim).await?;
    let own = "stat -c '%a %U:%G' /var/lib/freshcreds/docker/config.json";
    for (to, trouble) in [
        ("/home/deploy/.docker", "foreign_folder"),
        ("/etc", "foreign_folder"),
        ("/var/lib/freshcreds/docker", "foreign_folder"),
    ] {
        booted
            .sh(&format!(
                "runuser -u ci -- sh -c 'rm -rf /home/ci/.docker && ln -s {to} /home/ci/.docker'"
            ))
            .await?;
        // deploy's own target is not what is looked at here.
        booted.sh("sed -i '/# deploy/,$d' /etc/freshcreds/config.toml").await?;
        booted.sh("systemctl start freshcreds || true").await?;
        refuses(&booted, trouble).await.context(to)?;
        booted.sh("systemctl stop freshcreds").await?;
        assert_eq!(booted.sh(victim).await?, before, "{to}");
        assert_eq!(booted.sh(own).await?, "640 freshcreds:freshcreds\n", "{to}");
        booted.fails("test -e /etc/config.json").await?;
    }
    booted.stop().await
}

/// The recipe of docs/build-machines.md for one daemon and several users.
async fn several_users(booted: &Booted) -> Result<()> {
    booted
        .sh(&format!(
            "for user in ci deploy; do runuser -u $user -- sh -c 'mkdir -p ~/.docker && chmod 2770 ~/.docker'; done
             install -D -m 644 -t {DROP_INS} {EXAMPLES}/several-users.conf
             systemctl daemon-reload"
        ))
        .await?;
    let mut text = booted.sh("cat /etc/freshcreds/config.toml").await?;
    for user in ["ci", "deploy"] {
        let path = format!("/home/{user}/.docker/config.json");
        let target =
            format!("[[target]]\npath = \"{path}\"\nowner = \"freshcreds\"\ngroup = \"{user}\"");
        text.extend(["# ", user, "\n", target.as_str(), "\nmode = \"0660\"\n"]);
    }
    booted.put("/etc/freshcreds/config.toml", &text).await
}

/// Waits until the daemon says that something of ci's is not as it should be.
async fn refuses(booted: &Booted, trouble: &str) -> Result<()> {
    booted
        .until(&format!("freshcreds status --json | jq -e '[.. | .kind? | select(. == \"{trouble}\")] | length > 0'"))
        .await?;
    Ok(())
}

/// What a user does who has credentials of their own for another registry.
fn login(user: &str, other: &Distribution) -> String {
    let login =
        format!("DOCKER_HOST=unix:///nowhere docker login -u someone -p else {}", other.host);
    format!("runuser -l {user} -c '{login}'")
}

/// What a reader does: it asks the registry for an image, by the file that it finds.
pub(crate) fn inspect(cloud: &Cloud) -> String {
    format!("skopeo inspect --tls-verify=false docker://{}", cloud.ecr_registry().image())
}

/// Waits until the newest token of now is worth nothing any more.
pub(crate) async fn lapse(cloud: &Cloud) -> Result<()> {
    let newest = cloud.ecr().issued().pop().context("nothing was issued")?;
    until(LIMIT, || Ok(newest.is_over())).await
}

/// A cloud, and identities for it in files that a booted machine sees in /host.
pub(crate) async fn in_cloud(options: Options) -> Result<(Machine, Cloud)> {
    let (machine, cloud) = Machine::in_cloud(options).await?;
    let aws = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        Cloud::ACCESS_KEY_ID,
        Cloud::SECRET_ACCESS_KEY
    );
    put(&machine.home().join("aws"), &aws)?;
    Ok((machine, cloud))
}

/// Both registries, in the settings of the machine, and where its clouds are, in its variables.
pub(crate) async fn settings(booted: &Booted, cloud: &Cloud) -> Result<()> {
    let port = free_port()?;
    let text =
        format!("listen = \"127.0.0.1:{port}\"\nfetch_timeout = \"1s\"\n{}", registries(cloud));
    booted.put("/etc/freshcreds/config.toml", &text).await?;
    let variables = format!(
        "AWS_ENDPOINT_URL_ECR={}\nAWS_EC2_METADATA_DISABLED=true\nGCE_METADATA_HOST=127.0.0.1:1\n\
         AWS_SHARED_CREDENTIALS_FILE=/etc/identity/aws\n\
         GOOGLE_APPLICATION_CREDENTIALS=/etc/identity/google.json\n",
        cloud.ecr_endpoint()
    );
    booted.put("/etc/default/freshcreds", &variables).await?;
    booted
        .sh("install -D -m 644 /host/aws /etc/identity/aws && install -m 644 /host/key.json /etc/identity/google.json")
        .await?;
    Ok(())
}

const DROP_INS: &str = "/etc/systemd/system/freshcreds.service.d";
const EXAMPLES: &str = "/usr/share/doc/freshcreds/examples/drop-ins";

/// Lives that end while a test looks on.
const SHORT: Options = Options {
    ecr_life: Duration::from_secs(12),
    google_life: Duration::from_secs(12),
    google_caches_until: None,
    short_tokens: false,
};
