//! docs/recipes.md, line by line: the user, the home and the environment in which each agent starts a job
//! are real, and so are systemd, cron and the reader. The agents and their servers are not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::booted::Booted;
use crate::cloud::{Cloud, Options};
use crate::machine::free_port;
use crate::units::{in_cloud, inspect, lapse, settings};

/// Lives of which two pass while a job looks on.
const SHORT: Options = Options {
    ecr_life: Duration::from_secs(16),
    google_life: Duration::from_secs(16),
    google_caches_until: None,
    short_tokens: false,
};

/// What the recipes pull.
const IMAGE: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/application:latest";

#[tokio::test]
async fn jobs_of_agents_with_a_user_of_their_own_find_fresh_credentials() -> Result<()> {
    let (machine, cloud) = in_cloud(SHORT).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    // As their packages make them; jenkins is there already.
    booted
        .sh("useradd --create-home --shell /bin/bash gitlab-runner
             useradd --create-home --shell /bin/bash runner
             useradd --create-home --home-dir /var/lib/buildkite-agent --shell /bin/sh buildkite-agent")
        .await?;
    let agents = [
        ("Jenkins agent", "jenkins", "/var/lib/jenkins", ""),
        // The only one that starts its jobs by a login.
        ("GitLab runner, shell executor", "gitlab-runner", "/home/gitlab-runner", "--login"),
        ("Buildkite agent", "buildkite-agent", "/var/lib/buildkite-agent", ""),
        ("GitHub Actions runner", "runner", "/home/runner", ""),
    ];
    for (section, user, home, login) in agents {
        let recipe = Recipe::read(section)?;
        for line in recipe.of_root() {
            booted.sh(line).await.context(section)?;
        }
        for line in recipe.of_jobs().chain(recipe.block("sh")) {
            // Tokens that live for seconds stand for some that live for hours.
            let line = with_skopeo(&line, &cloud).replace("--min-life 2h", "--min-life 5s");
            let shell = if login.is_empty() { "sh -euc" } else { "bash --login -euc" };
            let job = format!(
                "runuser -u {user} -- env -i HOME={home} USER={user} LOGNAME={user} \
                 PATH=/usr/local/bin:/usr/bin:/bin {shell} '{line}'"
            );
            booted.until(&job).await.context(section)?;
            // And when the tokens of now are dead.
            lapse(&cloud).await?;
            booted.sh(&job).await.context(section)?;
        }
    }
    booted.stop().await
}

#[tokio::test]
async fn the_runner_and_the_jobs_of_gitlabs_docker_executor_read_one_file_each() -> Result<()> {
    let (machine, cloud) = in_cloud(SHORT).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    let port = free_port()?;
    let root = format!("FRESHCREDS_LISTEN=127.0.0.1:{port}\n");
    booted.put("/etc/default/freshcreds-root", &root).await?;
    let recipe = Recipe::read("GitLab runner, docker executor")?;
    for line in recipe.of_root() {
        booted.sh(line).await?;
    }
    let pull = with_skopeo(&format!("docker pull {IMAGE}"), &cloud);
    booted.until(&pull).await?;
    // In a job's container, whose user is root, the folder is root's home's, and cannot be written.
    let volume = recipe.block("toml").next().context("no volume")?;
    let folder = "/var/lib/freshcreds/docker";
    ensure!(volume.contains(&format!("{folder}:/root/.docker:ro")), "another one: {volume}");
    let job = format!(
        "unshare --mount sh -euc 'mount --bind -o ro {folder} /root/.docker; {pull}; ! touch /root/.docker/x'"
    );
    booted.until(&job).await?;
    booted.stop().await
}

#[tokio::test]
async fn a_line_of_cron_fetches_and_says_nothing() -> Result<()> {
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let booted = Booted::start(&machine).await?;
    settings(&booted, &cloud).await?;
    let line = Recipe::read("cron")?.block("crontab").next().context("no line")?;
    let command = line.splitn(6, ' ').nth(5).context("no command")?.to_owned();
    let identity = "set -a; . /etc/default/freshcreds; set +a";
    let said =
        booted.sh(&format!("{identity}; runuser -u ci -- env HOME=/home/ci {command}")).await?;
    assert_eq!(said, "", "cron would send that by mail");
    let now = "rm /home/ci/.docker/config.json
               { cat /etc/default/freshcreds; echo \"* * * * * COMMAND\"; } | crontab -u ci -";
    booted.sh(&now.replace("COMMAND", &command)).await?;
    booted.sh("systemctl start cron").await?;
    // At the next full minute.
    let is_there = "test -e /home/ci/.docker/config.json";
    if booted.until(is_there).await.is_err() {
        booted.until(is_there).await?;
    }
    booted.stop().await
}

/// A section of the document.
struct Recipe(String);

impl Recipe {
    fn read(section: &str) -> Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md");
        let text = std::fs::read_to_string(path)?;
        let (_, after) = text
            .split_once(&format!("\n## {section}\n"))
            .with_context(|| format!("no {section}"))?;
        Ok(Self(after.split("\n## ").next().unwrap_or(after).to_owned()))
    }

    /// The text of each block of a language.
    fn block(&self, language: &str) -> impl Iterator<Item = String> {
        let fence = format!("```{language}\n");
        let blocks = self.0.split(fence.as_str()).skip(1);
        let texts = blocks.filter_map(|rest| rest.split("```").next());
        texts.map(|text| text.trim_end().to_owned()).collect::<Vec<_>>().into_iter()
    }

    fn of_root(&self) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(|line| line.strip_prefix("# "))
    }

    fn of_jobs(&self) -> impl Iterator<Item = String> {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.map(str::to_owned).collect::<Vec<_>>().into_iter()
    }
}

/// There is no engine on the machine: skopeo asks for the image, by the same file.
fn with_skopeo(line: &str, cloud: &Cloud) -> String {
    line.replace(&format!("docker pull {IMAGE}"), &inspect(cloud))
}
