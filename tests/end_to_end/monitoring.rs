//! What monitoring sees: a real Prometheus scrapes the real program, with the alert rules of
//! `dist/monitoring` loaded, and is asked all that the dashboard asks.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::time::timeout;

use crate::cloud::{Cloud, Fault, Options};
use crate::machine::{Daemon, Done, LIMIT, Machine, ended_with, pause, put, run};

#[tokio::test]
async fn promtool_has_nothing_to_say_about_a_scrape() -> Result<()> {
    let (machine, _cloud, daemon) = eventful().await?;
    let text = scrape(&machine, &daemon, CLASSIC).await?;
    let done = fed(&machine, "promtool", &["check", "metrics"], &text).await?;
    ended_with(&done, 0)?;
    ensure!(done.stdout.is_empty() && done.stderr.is_empty(), "{}{}", done.stdout, done.stderr);
    Ok(())
}

#[tokio::test]
async fn the_strict_parser_of_openmetrics_takes_a_scrape() -> Result<()> {
    let (machine, _cloud, daemon) = eventful().await?;
    let text = scrape(&machine, &daemon, OPEN_METRICS).await?;
    let python = root().join("target/tools/openmetrics/bin/python");
    let done = fed(&machine, python, &["-c", PARSE], &text).await?;
    ended_with(&done, 0)?;
    // It got to see them, and did not take an empty answer.
    let seen: BTreeSet<_> = done.stdout.lines().collect();
    for family in ["freshcreds_refresh", "freshcreds_build", "freshcreds_fetch_duration_seconds"] {
        ensure!(seen.contains(family), "no {family} in {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_metric_that_the_rules_and_the_dashboard_name_is_exposed() -> Result<()> {
    let (machine, _cloud, daemon) = eventful().await?;
    let text = scrape(&machine, &daemon, CLASSIC).await?;
    let shown: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut asked = names(&std::fs::read_to_string(rules())?);
    for expression in dashboard()?.expressions() {
        asked.append(&mut names(&expression));
    }
    ensure!(asked.len() > 15, "only {asked:?} are named");
    asked.retain(|name| !shown.contains(name.as_str()));
    ensure!(asked.is_empty(), "{asked:?} are not among {shown:?}");
    Ok(())
}

#[tokio::test]
async fn prometheus_gets_data_for_each_panel_and_alerts_when_a_cloud_breaks() -> Result<()> {
    let (machine, cloud, daemon) = eventful().await?;
    let prometheus = Prometheus::start(&machine, &daemon).await?;

    let rules = prometheus.get("rules", &[]).await?;
    let rules = rules["groups"][0]["rules"].as_array().context("no rules")?.clone();
    ensure!(rules.len() > 10, "only {} rules", rules.len());
    for rule in &rules {
        let expression = rule["query"].as_str().context("no expression")?;
        prometheus.query(expression).await.with_context(|| rule["name"].to_string())?;
    }

    for expression in dashboard()?.expressions() {
        let data = async {
            while prometheus.query(&expression).await?.is_empty() {
                // A rate takes two scrapes.
                pause(SCRAPED_EVERY).await;
                overwrite(&machine)?;
            }
            anyhow::Ok(())
        };
        timeout(LIMIT, data).await.with_context(|| format!("no data: {expression}"))??;
    }

    // Nothing is wrong but for what stands in the way of nobody.
    let is_twin = |alert: &Value| is_alert(alert, "FreshcredsInTheWay", "kind", "twin");
    prometheus.wait_for(|alerts| !alerts.is_empty() && alerts.iter().all(is_twin)).await?;

    let host = cloud.ecr_registry().host();
    cloud.ecr().break_with(Fault::ServerError);
    for name in ["FreshcredsRenewalsFailing", "FreshcredsExpiring", "FreshcredsNotReady"] {
        prometheus.wait_for(|alerts| alerts.iter().any(|one| is_ours(one, name, host))).await?;
    }
    // Only where it is.
    let other = cloud.google_registry().host();
    prometheus
        .wait_for(|alerts| alerts.iter().all(|alert| alert["labels"]["registry"] != other))
        .await?;

    cloud.ecr().mend();
    prometheus
        .wait_for(|alerts| alerts.iter().all(|alert| alert["labels"]["registry"] != host))
        .await?;

    // Each was evaluated all the while, and never failed to be.
    let rules = prometheus.get("rules", &[]).await?;
    for rule in rules["groups"][0]["rules"].as_array().context("no rules")? {
        ensure!(rule["health"] == "ok", "{rule}");
    }
    Ok(())
}

/// A daemon to which much has happened already: tokens were renewed, the file was written, and
/// overwritten by another program, a hook ran, and an entry of somebody's is a twin of ours.
async fn eventful() -> Result<(Machine, Cloud, Daemon)> {
    let (machine, cloud) = Machine::in_cloud(LIVELY).await?;
    let twin = format!("https://{}", cloud.ecr_registry().host());
    let auths = serde_json::json!({"auths": {twin: {"auth": "c29tZW9uZTplbHNl"}}});
    machine.put_docker_config(&auths.to_string())?;
    put(&machine.home().join("before.json"), &auths.to_string())?;
    machine.more_settings("[[hook]]\ncommand = [\"true\"]\n")?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(freshcreds::status::Report::is_ready).await?;
    overwrite(&machine)?;
    daemon
        .wait_for(|report| {
            report.is_ready() && daemon.log().contains("another program removed or changed them")
        })
        .await?;
    let renewed = async {
        cloud.ecr().wait_for_issued(2).await;
        cloud.google().wait_for_issued(2).await;
    };
    timeout(LIMIT, renewed).await.context("nothing is renewed")?;
    Ok((machine, cloud, daemon))
}

/// Puts the file back as it was before we came, as another program might.
fn overwrite(machine: &Machine) -> Result<()> {
    let before = std::fs::read_to_string(machine.home().join("before.json"))?;
    put(&machine.docker_config(), &before)
}

/// What Prometheus and its friends get.
async fn scrape(machine: &Machine, daemon: &Daemon, accept: &str) -> Result<String> {
    let url = format!("http://{}/metrics", daemon.address());
    let mut command = machine.command("curl");
    command.args(["-sS", "--fail", "--include", "-H", &format!("Accept: {accept}"), &url]);
    let done = run(&mut command).await?;
    ended_with(&done, 0)?;
    let (head, text) = done.stdout.split_once("\r\n\r\n").context("no end of the head")?;
    let (kind, _) = accept.split_once(';').context("no version is asked for")?;
    ensure!(
        head.to_lowercase().contains(&format!("content-type: {kind};")),
        "{kind} was asked for, and what came is\n{head}"
    );
    Ok(text.to_owned())
}

/// Runs a program to its end that reads `text`.
async fn fed(
    machine: &Machine,
    program: impl AsRef<Path>,
    arguments: &[&str],
    text: &str,
) -> Result<Done> {
    let program = program.as_ref();
    let mut command = machine.command(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("{} cannot be run: run `make setup`", program.display()))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let ended = async {
        stdin.write_all(text.as_bytes()).await?;
        drop(stdin);
        anyhow::Ok(child.wait_with_output().await?)
    };
    Ok(timeout(LIMIT, ended).await.context("it does not end")??.into())
}

/// A real one; it is killed when it is dropped.
struct Prometheus<'a> {
    machine: &'a Machine,
    url: String,
    _child: Child,
}

impl<'a> Prometheus<'a> {
    /// Starts one that scrapes `daemon`, and waits until it has scraped it.
    async fn start(machine: &'a Machine, daemon: &Daemon) -> Result<Self> {
        let settings = machine.home().join("prometheus.yml");
        // JSON is YAML, and quotes what has to be.
        let every = format!("{}ms", SCRAPED_EVERY.as_millis());
        let text = serde_json::json!({
            "global": {
                "scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every
            },
            "rule_files": [rules()],
            "scrape_configs": [{
                "job_name": "freshcreds",
                "static_configs": [{"targets": [daemon.address().to_string()]}]
            }]
        });
        put(&settings, &text.to_string())?;
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = std::fs::File::create(machine.home().join("prometheus.log"))?;
        let mut command = machine.command("prometheus");
        command
            .arg(format!("--config.file={}", settings.display()))
            .arg(format!("--storage.tsdb.path={}", machine.home().join("prometheus").display()))
            .arg(format!("--web.listen-address={free}"))
            .current_dir(machine.home())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().context("prometheus cannot be run: run `make setup`")?;
        let prometheus = Self { machine, url: format!("http://{free}"), _child: child };
        let scraped = async {
            while !prometheus.query("freshcreds_ready == 1").await.is_ok_and(|all| !all.is_empty())
            {
                pause(SCRAPED_EVERY).await;
            }
        };
        timeout(LIMIT, scraped).await.with_context(|| {
            let log = std::fs::read_to_string(machine.home().join("prometheus.log"));
            format!("it does not scrape:\n{}", log.unwrap_or_default())
        })?;
        Ok(prometheus)
    }

    /// What it answers to a question of its API.
    async fn get(&self, what: &str, question: &[(&str, &str)]) -> Result<Value> {
        let mut command = self.machine.command("curl");
        command.args(["-sS", "--noproxy", "*", "--get", &format!("{}/api/v1/{what}", self.url)]);
        for (name, value) in question {
            command.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let done = run(&mut command).await?;
        ended_with(&done, 0)?;
        let mut answer: Value = serde_json::from_str(&done.stdout)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].take())
    }

    /// The samples that an expression has now.
    async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.get("query", &[("query", expression)]).await;
        let mut data = data.with_context(|| expression.to_owned())?;
        serde_json::from_value(data["result"].take()).context("no samples")
    }

    /// Those that are pending or fire.
    async fn alerts(&self) -> Result<Vec<Value>> {
        let mut data = self.get("alerts", &[]).await?;
        serde_json::from_value(data["alerts"].take()).context("no alerts")
    }

    async fn wait_for(&self, wanted: impl Fn(&[Value]) -> bool) -> Result<()> {
        let waiting = async {
            loop {
                let alerts = self.alerts().await?;
                if wanted(&alerts) {
                    return anyhow::Ok(());
                }
                pause(SCRAPED_EVERY).await;
            }
        };
        timeout(LIMIT, waiting).await.context("no such alerts")?
    }
}

fn is_alert(alert: &Value, name: &str, label: &str, value: &str) -> bool {
    alert["labels"]["alertname"] == name && alert["labels"][label] == value
}

fn is_ours(alert: &Value, name: &str, host: &str) -> bool {
    is_alert(alert, name, "registry", host)
}

/// The dashboard that is shipped.
struct Dashboard(Value);

fn dashboard() -> Result<Dashboard> {
    let text = std::fs::read_to_string(root().join("dist/monitoring/grafana-dashboard.json"))?;
    Ok(Dashboard(serde_json::from_str(&text)?))
}

impl Dashboard {
    /// All that it asks Prometheus, with the variables as they are at first.
    fn expressions(&self) -> Vec<String> {
        let of = |values: &Value, key: &str| -> Vec<String> {
            let values = values.as_array().into_iter().flatten();
            values.filter_map(|value| value[key].as_str().map(str::to_owned)).collect()
        };
        let mut expressions = Vec::new();
        for panel in self.0["panels"].as_array().into_iter().flatten() {
            expressions.append(&mut of(&panel["targets"], "expr"));
        }
        for variable in of(&self.0["templating"]["list"], "definition") {
            // `label_values(METRIC, LABEL)`; there has to be one.
            if let Some(inner) = variable.strip_prefix("label_values(")
                && let Some((metric, label)) = inner.trim_end_matches(')').rsplit_once(", ")
            {
                expressions.push(format!("count by ({label}) ({metric}) > 0"));
            }
        }
        for expression in &mut expressions {
            for (name, value) in VARIABLES {
                *expression = expression.replace(name, value);
            }
        }
        expressions
    }
}

/// The names of our metrics in an expression, or in a file of them.
fn names(text: &str) -> BTreeSet<String> {
    let is_of_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let rests = lines.flat_map(|line| line.split("freshcreds_").skip(1));
    rests
        .filter_map(|rest| rest.split(|letter| !is_of_name(letter)).next())
        .map(|name| format!("freshcreds_{name}"))
        .collect()
}

fn rules() -> PathBuf {
    root().join("dist/monitoring/freshcreds.rules.yaml")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const CLASSIC: &str = "text/plain;version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Prints the names of all families, or fails where the specification is not kept.
const PARSE: &str = "\
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name)
";

const VARIABLES: [(&str, &str); 5] = [
    ("$__rate_interval", "1m"),
    ("$__range", "1m"),
    ("$job", ".*"),
    ("$instance", ".*"),
    ("$registry", ".*"),
];

const SCRAPED_EVERY: Duration = Duration::from_millis(500);

/// Tokens that are renewed within seconds.
const LIVELY: Options = Options {
    ecr_life: Duration::from_secs(8),
    google_life: Duration::from_secs(8),
    google_caches_until: None,
    short_tokens: false,
};
