//! The alert rules, the dashboard and the runbook: each by itself, and each against the others.
//! What they ask a running program is in `end_to_end/monitoring.rs`.
//!
//! A tool that is missing fails its tests and says so; none is skipped.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use freshcreds::trouble::Kind;
use serde_json::Value;

use crate::repository::{outcome, read, root};

#[expect(dead_code, reason = "shared with other tests, which use other parts of it")]
#[path = "support/repository.rs"]
mod repository;

#[test]
fn promtool_takes_the_rules() -> Result<()> {
    let said = promtool(&["check", "rules", RULES])?;
    ensure!(said.contains(&format!("SUCCESS: {} rules found", alerts()?.len())), "{said}");
    Ok(())
}

#[test]
fn the_rules_do_what_their_tests_say() -> Result<()> {
    promtool(&["test", "rules", TESTS]).map(drop)
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_silent() -> Result<()> {
    let text = read(TESTS)?;
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in text.split("- alertname: ").skip(1) {
        let (name, case) = case.split_once('\n').context("no end of the line")?;
        let (_, expected) = case.split_once("exp_alerts:").context("nothing is expected")?;
        if expected.starts_with(" []\n") { &mut silent } else { &mut firing }.insert(name);
    }
    let names: Vec<_> = alerts()?.into_iter().map(|alert| alert.name).collect();
    let names: BTreeSet<_> = names.iter().map(String::as_str).collect();
    assert_eq!(firing, names);
    assert_eq!(silent, names);
    Ok(())
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_read_on() -> Result<()> {
    for alert in alerts()? {
        let Alert { name, text } = &alert;
        for key in ["for: ", "summary: ", "description: ", "expr: "] {
            ensure!(text.contains(key), "{name} has no {key}");
        }
        let severity = alert.value("severity")?;
        ensure!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        // As GitHub and GitLab make an anchor of a heading.
        let anchor = format!("{RUNBOOK}#{}", name.to_lowercase());
        ensure!(alert.value("runbook_url")? == anchor, "{name} leads somewhere else");
    }
    Ok(())
}

#[test]
fn the_runbook_has_an_entry_for_each_alert_and_each_kind_of_trouble_and_for_nothing_else()
-> Result<()> {
    let text = read(RUNBOOK)?;
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    let headings: Vec<_> = headings.map(|heading| heading.trim_matches('`')).collect();
    let alerts: Vec<_> = alerts()?.into_iter().map(|alert| alert.name).collect();
    let kinds = Kind::ALL.iter().map(|kind| kind.as_str());
    let wanted: BTreeSet<_> = alerts.iter().map(String::as_str).chain(kinds).collect();
    let found: BTreeSet<_> = headings.iter().copied().collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    let strange: Vec<_> = found.difference(&wanted).collect();
    ensure!(missing.is_empty() && strange.is_empty(), "missing {missing:?}, strange {strange:?}");
    ensure!(headings.len() == wanted.len(), "a heading is there twice");
    Ok(())
}

#[test]
fn every_entry_of_the_runbook_says_what_it_means_and_what_to_do() -> Result<()> {
    let text = read(RUNBOOK)?;
    for entry in text.split("\n### ").skip(1) {
        let (heading, words) = entry.split_once('\n').context("an empty entry")?;
        let words = words.split("\n## ").next().unwrap_or(words);
        for part in ["**Means:** ", "**See:** ", "**Do:** ", "**Meanwhile:** "] {
            let at = words.find(part).with_context(|| format!("{heading} has no {part}"))?;
            ensure!(words[at + part.len()..].trim().len() > 3, "{heading}: {part} is empty");
        }
    }
    Ok(())
}

#[test]
fn every_metric_that_is_named_is_one_of_ours() -> Result<()> {
    let source = read("src/metrics.rs")?;
    let mut named = BTreeSet::new();
    for file in [RULES, TESTS, DASHBOARD, RUNBOOK] {
        for rest in read(file)?.split("freshcreds_").skip(1) {
            let end = rest.find(|letter: char| !(letter.is_ascii_lowercase() || letter == '_'));
            named.insert(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    for name in &named {
        let is_ours = ["", "_total", "_info", "_bucket"].iter().any(|suffix| {
            let stem = name.strip_suffix(suffix).unwrap_or(name);
            let stem = stem.strip_suffix("_seconds").unwrap_or(stem);
            source.contains(&format!("\"{stem}\""))
        });
        ensure!(is_ours, "there is no freshcreds_{name}");
    }
    ensure!(named.len() > 15, "only {named:?} are named");
    Ok(())
}

#[test]
fn every_panel_of_the_dashboard_says_what_it_shows_in_which_unit() -> Result<()> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut ids = BTreeSet::new();
    let mut places: Vec<[u64; 4]> = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().context("a panel without a title")?;
        ensure!(ids.insert(panel["id"].as_u64()), "{title}: its id is there twice");
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(99));
        let [x, y, w, h] = place;
        ensure!(x + w <= 24, "{title} is too wide");
        let overlaps = places.iter().any(|[left, top, width, height]| {
            x < left + width && *left < x + w && y < top + height && *top < y + h
        });
        ensure!(!overlaps, "{title} lies on another panel");
        places.push(place);
        if panel["type"] == "row" {
            continue;
        }
        ensure!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{title}");
        ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        let targets = panel["targets"].as_array().context("no targets")?;
        ensure!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            // Never a data source of somebody's Grafana.
            ensure!(target["datasource"]["uid"] == "${datasource}", "{title}");
            let expression = target["expr"].as_str().context("no expression")?;
            ensure!(expression.contains("job=~\"$job\", instance=~\"$instance\""), "{title}");
        }
    }
    Ok(())
}

/// An alert of the rules, as it is written.
struct Alert {
    name: String,
    text: String,
}

impl Alert {
    /// What stands behind a key, on its line.
    fn value(&self, key: &str) -> Result<&str> {
        let line = self.text.lines().find_map(|line| {
            line.trim_start().strip_prefix(key).and_then(|rest| rest.strip_prefix(": "))
        });
        line.with_context(|| format!("{} has no {key}", self.name))
    }
}

fn alerts() -> Result<Vec<Alert>> {
    let text = read(RULES)?;
    let alerts = text.split("- alert: ").skip(1).map(|part| {
        let (name, text) = part.split_once('\n').context("no end of the line")?;
        Ok(Alert { name: name.to_owned(), text: text.to_owned() })
    });
    alerts.collect()
}

/// What promtool says, who must be content.
fn promtool(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("promtool");
    let (is_content, said) = outcome(command.current_dir(root()).args(arguments))?;
    ensure!(is_content, "promtool {arguments:?}:\n{said}");
    Ok(said)
}

const RULES: &str = "dist/monitoring/freshcreds.rules.yaml";
const TESTS: &str = "dist/monitoring/freshcreds.rules.test.yaml";
const DASHBOARD: &str = "dist/monitoring/grafana-dashboard.json";
const RUNBOOK: &str = "docs/operations.md";
