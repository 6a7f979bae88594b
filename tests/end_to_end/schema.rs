//! `docs/status.schema.json` says all that `/status` answers, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use freshcreds::status::{
    Checks, CredentialReport, ElectionReport, HookReport, NamespacesReport, QuarterReport, Report,
    SettingsReport, TargetReport, Trouble, Verdict,
};
use freshcreds::trouble::Kind;
use serde_json::{Value, json};

use crate::cloud::Options;
use crate::machine::{Machine, put, run, tool};

#[tokio::test]
async fn the_schema_knows_every_field_of_every_answer() -> Result<()> {
    let machine = Machine::new()?;
    for report in [at_start(), healthy(), all_set()] {
        judge(&machine, &strict()?, &serde_json::to_value(report)?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_schema_knows_every_field_of_a_running_daemons_answers() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    let answer = async || -> Result<Value> {
        let answer = daemon.get("/status").await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        serde_json::from_str(body).context("not JSON")
    };
    // Whatever it is at once: it says so, too.
    judge(&machine, &strict()?, &answer().await?).await?;
    daemon.wait_for(|report| report.status == Verdict::Pass).await?;
    let healthy = answer().await?;
    ensure!(healthy["version"] == schema()?["properties"]["version"]["const"], "{healthy}");
    judge(&machine, &strict()?, &healthy).await?;
    put(&machine.docker_config(), "{")?;
    daemon.wait_for(|report| report.status == Verdict::Fail).await?;
    let failing = answer().await?;
    ensure!(failing["checks"]["target:file"][0]["lastError"].is_object(), "{failing}");
    judge(&machine, &strict()?, &failing).await
}

#[tokio::test]
async fn the_schema_lets_later_versions_add_and_nobody_change() -> Result<()> {
    let machine = Machine::new()?;
    let mut report = serde_json::to_value(all_set())?;
    let check = "/checks/registry:credential/0";
    put_at(&mut report, &format!("{check}/added"), json!(1))?;
    put_at(&mut report, &format!("{check}/lastError/kind"), json!("unheard_of"))?;
    judge(&machine, &schema()?, &report).await?;
    ensure!(judge(&machine, &strict()?, &report).await.is_err(), "it is not so strict");
    for (place, wrong) in [
        ("/version", json!("2")),
        ("/status", json!("good")),
        ("/time", json!("yesterday")),
        ("/checks/registry:credential/0/issued", json!("2027-01-15 08:00")),
        ("/checks/registry:credential/0/observedValue", json!("3600")),
        ("/checks/registry:credential/0/lastError/count", json!(0)),
        ("/checks/target:file/0/componentType", json!("registry")),
    ] {
        let mut report = serde_json::to_value(all_set())?;
        put_at(&mut report, place, wrong)?;
        ensure!(judge(&machine, &schema()?, &report).await.is_err(), "{place} may be anything");
    }
    Ok(())
}

/// `required` is what is always there, and `properties` all that ever is.
#[test]
fn what_the_schema_requires_is_always_there_and_all_else_is_not() -> Result<()> {
    let schema = schema()?;
    let (mut always, mut ever) = (BTreeMap::new(), BTreeMap::new());
    for report in [serde_json::to_value(bare())?, serde_json::to_value(all_set())?] {
        collect(&schema, &schema, "", &report, &mut always, &mut ever);
    }
    let mut forms: Vec<(&str, &Value)> = vec![("", &schema)];
    let defined = schema["$defs"].as_object().context("no $defs")?;
    forms.extend(defined.iter().map(|(name, form)| (name.as_str(), form)));
    for (name, form) in forms.into_iter().filter(|(_, form)| form["type"] == "object") {
        let required: BTreeSet<_> = words(&form["required"]).collect();
        let known: BTreeSet<_> =
            form["properties"].as_object().context("no properties")?.keys().cloned().collect();
        assert_eq!(Some(&required), always.get(name), "what is always there in `{name}`");
        assert_eq!(Some(&known), ever.get(name), "what there is in `{name}`");
        assert_eq!(form["additionalProperties"], true, "{name}");
        for (field, property) in form["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "`{name}` does not say what {field} is");
        }
    }
    Ok(())
}

#[test]
fn the_schema_has_every_kind_of_trouble_as_an_example() -> Result<()> {
    let schema = schema()?;
    let examples: Vec<_> =
        words(&schema["$defs"]["trouble"]["properties"]["kind"]["examples"]).collect();
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(examples, kinds);
    Ok(())
}

fn schema() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.schema.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// The schema, to which nothing may be added.
fn strict() -> Result<Value> {
    fn close(value: &mut Value) {
        match value {
            Value::Object(members) => {
                if members.get("additionalProperties") == Some(&Value::Bool(true)) {
                    members.insert("additionalProperties".to_owned(), Value::Bool(false));
                }
                members.values_mut().for_each(close);
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut schema = schema()?;
    close(&mut schema);
    Ok(schema)
}

/// Fails with what is wrong with an answer.
async fn judge(machine: &Machine, schema: &Value, answer: &Value) -> Result<()> {
    let (rules, judged) = (machine.home().join("schema.json"), machine.home().join("answer.json"));
    put(&rules, &schema.to_string())?;
    put(&judged, &answer.to_string())?;
    let mut command = machine.command(tool("check-jsonschema"));
    command.arg("--schemafile").arg(rules).arg(judged).stdin(Stdio::null());
    let done = run(&mut command).await?;
    ensure!(done.code == Some(0), "{}{}\n{answer:#}", done.stdout, done.stderr);
    Ok(())
}

/// Puts a value where a path leads, through what is there.
fn put_at(value: &mut Value, path: &str, new: Value) -> Result<()> {
    let (parent, name) = path.rsplit_once('/').context("no name")?;
    let parent = value.pointer_mut(parent).with_context(|| format!("{parent} is not there"))?;
    parent.as_object_mut().context("not an object")?.insert(name.to_owned(), new);
    Ok(())
}

type Fields = BTreeMap<String, BTreeSet<String>>;

/// Which fields each form has in every value, and which in any.
fn collect(
    schema: &Value,
    form: &Value,
    name: &str,
    value: &Value,
    always: &mut Fields,
    ever: &mut Fields,
) {
    if let Some(place) = form["$ref"].as_str() {
        let name = place.trim_start_matches("#/$defs/");
        return collect(schema, &schema["$defs"][name], name, value, always, ever);
    }
    for item in value.as_array().into_iter().flatten() {
        collect(schema, &form["items"], name, item, always, ever);
    }
    let Some(members) = value.as_object() else { return };
    let fields: BTreeSet<_> = members.keys().cloned().collect();
    always
        .entry(name.to_owned())
        .and_modify(|known| known.retain(|field| fields.contains(field)))
        .or_insert_with(|| fields.clone());
    ever.entry(name.to_owned()).or_default().extend(fields);
    for (field, member) in members {
        collect(schema, &form["properties"][field], name, member, always, ever);
    }
}

fn words(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

const TIME: &str = "2027-01-15T08:00:00Z";

fn time() -> String {
    TIME.to_owned()
}

fn trouble(since: Option<String>) -> Trouble {
    let kind = Kind::Unreachable;
    Trouble {
        kind: kind.as_str().to_owned(),
        message: "cannot reach it".to_owned(),
        remedy: kind.remedy().to_owned(),
        since,
        count: 3,
    }
}

/// Before anything has happened.
fn at_start() -> Report {
    let credential = CredentialReport {
        component_id: "gcr.io".to_owned(),
        component_type: "registry".to_owned(),
        status: Verdict::Fail,
        observed_value: None,
        observed_unit: "s".to_owned(),
        usable_seconds: None,
        usable_until: None,
        kind: "google".to_owned(),
        origin: "google".to_owned(),
        clock_skew_seconds: None,
        identity: None,
        issued: None,
        never_expires: false,
        expires: None,
        last_success: None,
        last_attempt: None,
        consecutive_failures: 0,
        last_error: None,
        next_refresh: None,
        next_refresh_reason: None,
        verification: None,
        verified: None,
        output: Some("there is no credential yet".to_owned()),
        not_ready: Some(Trouble { count: 1, ..trouble(None) }),
        history: Vec::new(),
    };
    let target = TargetReport {
        component_id: "/root/.docker/config.json".to_owned(),
        component_type: "target".to_owned(),
        status: Verdict::Fail,
        verified: None,
        last_write: None,
        reader: "docker".to_owned(),
        namespaces: None,
        protection: None,
        watched_by: "events".to_owned(),
        last_error: None,
        in_the_way: Vec::new(),
    };
    let (credentials, targets) = (vec![credential], vec![target]);
    Report {
        status: Verdict::Fail,
        service_id: "freshcreds".to_owned(),
        version: "1".to_owned(),
        release_id: "0.1.0".to_owned(),
        time: time(),
        started: time(),
        output: vec!["gcr.io: there is no credential yet".to_owned()],
        checks: Checks { credentials, targets, ..Checks::default() },
    }
}

fn healthy() -> Report {
    let mut report = at_start();
    (report.status, report.output) = (Verdict::Pass, Vec::new());
    let check = &mut report.checks.credentials[0];
    (check.status, check.output, check.not_ready) = (Verdict::Pass, None, None);
    (check.observed_value, check.usable_seconds) = (Some(3600), Some(3600));
    check.usable_until = Some(time());
    (check.issued, check.expires) = (Some(time()), Some(time()));
    (check.last_success, check.last_attempt) = (Some(time()), Some(time()));
    check.next_refresh = Some(time());
    check.next_refresh_reason = Some("half of its life is over then".to_owned());
    check.history = vec![QuarterReport { start: time(), renewals: 1, failures: 0 }];
    let check = &mut report.checks.targets[0];
    check.status = Verdict::Pass;
    (check.verified, check.last_write) = (Some(time()), Some(time()));
    check.protection = Some("leased exchange".to_owned());
    report
}

/// As little as can be.
fn bare() -> Report {
    let mut report = at_start();
    report.output.clear();
    let check = &mut report.checks.credentials[0];
    (check.output, check.not_ready) = (None, None);
    report
}

/// With all that there can be, whether or not it can be at one time.
fn all_set() -> Report {
    let mut report = healthy();
    report.status = Verdict::Fail;
    report.output = vec!["gcr.io: there is no credential yet".to_owned()];
    let check = &mut report.checks.credentials[0];
    check.status = Verdict::Fail;
    check.clock_skew_seconds = Some(-90);
    check.identity = Some("builder@example.iam.gserviceaccount.com".to_owned());
    check.consecutive_failures = 3;
    check.never_expires = true;
    check.last_error = Some(trouble(Some(time())));
    (check.verification, check.verified) = (Some("taken".to_owned()), Some(time()));
    check.output = Some("the credential expired 3s ago".to_owned());
    check.not_ready = Some(trouble(None));
    let check = &mut report.checks.targets[0];
    check.status = Verdict::Warn;
    check.last_error = Some(trouble(Some(time())));
    check.in_the_way = vec![trouble(Some(time()))];
    let hook = HookReport {
        component_id: "systemctl reload kubelet".to_owned(),
        component_type: "hook".to_owned(),
        status: Verdict::Warn,
        last_run: Some(time()),
        last_error: Some(trouble(Some(time()))),
    };
    let fresh =
        HookReport { status: Verdict::Pass, last_run: None, last_error: None, ..hook.clone() };
    report.checks.hooks = vec![hook, fresh];
    report.checks.targets[0].namespaces = Some(NamespacesReport {
        wanted: 9,
        fresh: 5,
        older: 1,
        missing: 2,
        foreign: 1,
        failing: 2,
    });
    let secret = TargetReport {
        component_id: "secret/freshcreds".to_owned(),
        reader: "kubelet".to_owned(),
        ..report.checks.targets[0].clone()
    };
    report.checks.secrets = vec![secret];
    let leading = ElectionReport {
        component_id: "freshcreds/freshcreds".to_owned(),
        component_type: "election".to_owned(),
        status: Verdict::Warn,
        leading: false,
        holder: Some("replica-1".to_owned()),
        since: Some(time()),
        last_error: Some(trouble(Some(time()))),
    };
    let alone = ElectionReport {
        status: Verdict::Pass,
        holder: None,
        since: None,
        last_error: None,
        ..leading.clone()
    };
    report.checks.elections = vec![leading, alone];
    report.checks.settings = vec![SettingsReport {
        component_type: "settings".to_owned(),
        status: Verdict::Warn,
        last_error: trouble(Some(time())),
    }];
    report
}
