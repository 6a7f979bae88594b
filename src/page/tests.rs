use serde_json::{Value, json};

use super::*;
use crate::status::Trouble;

#[test]
fn what_comes_from_outside_is_text() {
    for (evil, harmless) in [
        ("<script>alert(1)</script>", "word"),
        ("\" onload=\"alert(1)", "word"),
        ("' style='x", "word"),
        ("a`<b>`", "a`b`"),
    ] {
        let mut report = report();
        let checks = &mut report.checks;
        let trouble = Trouble {
            kind: evil.to_owned(),
            message: evil.to_owned(),
            remedy: evil.to_owned(),
            since: Some(evil.to_owned()),
            count: 2,
        };
        let host = &mut checks.credentials[1];
        for text in [&mut host.component_id, &mut host.kind, &mut host.origin] {
            evil.clone_into(text);
        }
        for text in [
            &mut host.identity,
            &mut host.issued,
            &mut host.expires,
            &mut host.last_success,
            &mut host.last_attempt,
            &mut host.next_refresh,
            &mut host.next_refresh_reason,
            &mut host.verification,
            &mut host.verified,
            &mut host.output,
            &mut host.usable_until,
        ] {
            *text = Some(evil.to_owned());
        }
        host.last_error = Some(trouble.clone());
        host.not_ready = Some(trouble.clone());
        let file = &mut checks.targets[0];
        for text in [&mut file.component_id, &mut file.reader, &mut file.watched_by] {
            evil.clone_into(text);
        }
        file.protection = Some(evil.to_owned());
        (file.verified, file.last_write) = (Some(evil.to_owned()), Some(evil.to_owned()));
        file.in_the_way = vec![trouble.clone()];
        checks.hooks[0].component_id = evil.to_owned();
        checks.hooks[0].last_run = Some(evil.to_owned());
        checks.hooks[0].last_error = Some(trouble);
        for text in [&mut report.release_id, &mut report.service_id, &mut report.started] {
            evil.clone_into(text);
        }

        let html = without_ours(&page(&report));
        for markup in ["<script>alert", " onload=\"", "' style='"] {
            assert!(!html.contains(markup), "{markup}");
        }
        // The same with a harmless text has as many tags, and as many quotes.
        let twin = serde_json::to_string(&report).unwrap();
        let twin = twin.replace(serde_json::to_string(evil).unwrap().trim_matches('"'), harmless);
        let twin = without_ours(&page(&serde_json::from_str(&twin).unwrap()));
        for markup in ['<', '>', '"'] {
            let [one, other] = [&html, &twin].map(|html| html.matches(markup).count());
            assert_eq!(one, other, "{markup} in {evil}");
        }
    }
}

#[test]
fn who_hides_in_text_is_made_visible() {
    assert_eq!(escape("a\u{202e}b\0c\nd"), "a\u{fffd}b\u{fffd}c d");
    assert_eq!(prose("set `hidden`, <now>"), "set <code>hidden</code>, &lt;now&gt;");
    assert_eq!(prose("a lone ` stays"), "a lone ` stays");
    assert_ne!(slug("/a b"), slug("/a_20b"));
}

#[test]
fn the_policy_lets_in_what_is_on_the_page_and_nothing_else() {
    let policy = content_security_policy();
    let html = page(&report());
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        assert_eq!(html.matches(&format!("<{element}")).count(), 1);
        let (_, rest) = html.split_once(&open).unwrap();
        let (text, _) = rest.split_once(&close).unwrap();
        let hash = BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!html.contains("style="), "an inline style would be refused");
}

#[test]
fn nothing_is_fetched_from_anywhere() {
    let mut report = report();
    report.checks.credentials[1].last_error.as_mut().unwrap().message = String::new();
    let html = page(&report);
    for scheme in ["http:", "https:", "//cdn", "@import"] {
        assert!(!html.contains(scheme), "{scheme}");
    }
    let targets = html.split(['"']).zip(html.split(['"']).skip(1));
    for (before, value) in targets {
        if before.ends_with(" src=") || before.ends_with(" href=") {
            let is_ours = value.starts_with('#')
                || value.starts_with("data:")
                || ["status", "metrics", "readyz"].contains(&value);
            assert!(is_ours, "{value}");
        }
    }
}

#[test]
fn the_verdict_says_what_is_so() {
    let with = |status: &str, change: fn(&mut Report)| {
        let mut report = report();
        report.status = verdict(status);
        change(&mut report);
        let said = Saying::of(&report, parse_time(&report.time).unwrap());
        (said.headline, said.detail)
    };
    let well = |report: &mut Report| {
        report.checks.credentials[1].status = Verdict::Pass;
    };
    let said = with("pass", well);
    assert_eq!(said.0, "Both registries are ready");
    assert_eq!(said.1, "The next refresh is in 10 min: b.pkg.dev.");
    let said = with("warn", |_| {});
    assert_eq!(said.0, "Both registries are ready, but renewals of 1 fail");
    assert!(said.1.ends_with("the first one ends in 20 min: b.pkg.dev."), "{}", said.1);
    let said = with("warn", |report| report.checks.credentials[1].status = Verdict::Pass);
    assert_eq!(said.0, "Both registries are ready, but 1 hook needs attention");
    let said = with("fail", |report| report.checks.credentials[0].status = Verdict::Fail);
    assert_eq!(said.0, "1 of 2 registries is not ready");
    assert_eq!(said.1, "Pulls from a.pkg.dev may fail now.");
    let said = with("fail", |report| report.checks.credentials.clear());
    assert_eq!(said.0, "No registry is kept fresh here");
    let said = with("fail", |report| {
        report.started.clone_from(&report.time);
        for check in &mut report.checks.credentials {
            check.status = Verdict::Fail;
            (check.last_success, check.consecutive_failures) = (None, 0);
        }
    });
    assert_eq!(said.0, "Neither registry is ready");
    assert!(said.1.contains("The first credentials are being fetched."), "{}", said.1);
}

#[test]
fn what_is_wrong_comes_first_and_once() {
    let mut report = report();
    let html = page(&report);
    let place = |words: &str| html.find(words).unwrap_or_else(|| panic!("{words} is missing"));
    assert!(place("id=\"registry-b.pkg.dev\"") < place("id=\"registry-a.pkg.dev\""));
    assert!(place("What is wrong") < place(">Registries<"));
    assert!(html.contains("What to do</strong> see the <code>network</code>"));
    assert!(html.contains("7 times in a row"));

    // What many meet with is told once.
    report.checks.hooks.clear();
    let failing = report.checks.credentials[1].clone();
    for number in 0..30 {
        let mut another = failing.clone();
        another.component_id = format!("{number}.pkg.dev");
        report.checks.credentials.push(another);
    }
    let html = page(&report);
    assert_eq!(html.matches("What to do</strong> see the <code>network</code>").count(), 1);
    assert!(html.contains("<span>31 registries</span>"));

    // What hides an entry is the file's trouble.
    let mut obstacle = failing.last_error.clone().unwrap();
    (obstacle.kind, obstacle.message) = ("creds_store".to_owned(), "a helper is asked".to_owned());
    let mut lack = obstacle.clone();
    lack.message = format!("docker passes by it in /config.json: {}", obstacle.message);
    let mut report = self::report();
    report.checks.targets[0].in_the_way.push(obstacle);
    report.checks.credentials[0].not_ready = Some(lack);
    assert_eq!(page(&report).matches("<code>creds_store</code>").count(), 1);
    assert!(page(&report).contains("It concerns a.pkg.dev."));
}

#[test]
fn what_was_before_the_start_is_not_known() {
    let hatched = "class=\"hatched\" width=\"";
    let now = parse_time("2027-01-15T12:00:00Z").unwrap();
    let drawn = |started: &str| day(&[], now, parse_time(started));
    // The newest quarter is the one that has just begun.
    let half = drawn("2027-01-15T00:15:00Z");
    assert!(half.contains(&format!("{hatched}50.0%")), "{half}");
    assert!(half.contains("nothing is known before"), "{half}");
    let whole = drawn("2027-01-10T00:00:00Z");
    assert!(!whole.contains(hatched), "{whole}");
    assert!(whole.contains("no renewal, no failure in the last 24 h."), "{whole}");
}

#[test]
fn a_life_that_is_over_is_empty() {
    let mut report = report();
    let check = &mut report.checks.credentials[0];
    let drawn = life(check, parse_time("2027-01-15T12:30:00Z").unwrap(), true);
    assert!(drawn.contains("15 min of 1 h are left; the next refresh is in 10 min"), "{drawn}");
    assert!(drawn.contains("class=\"left\" x=\"75.0%\" width=\"25.0%\""), "{drawn}");
    let drawn = life(check, parse_time("2027-01-15T13:30:00Z").unwrap(), true);
    assert!(drawn.contains("It expired 45 min ago"), "{drawn}");
    assert!(drawn.contains("width=\"0.0%\""), "{drawn}");
    check.expires = None;
    assert!(
        life(check, parse_time("2027-01-15T12:30:00Z").unwrap(), true)
            .contains("no credential yet")
    );
}

#[test]
fn durations_have_two_units() {
    let said_of = |seconds| length(Duration::from_secs(seconds));
    let said = [0, 59, 61, 601, 3600 * 5 + 720, 86_400 * 3 + 3600 * 4].map(said_of);
    assert_eq!(said, ["0 s", "59 s", "1 min 1 s", "10 min", "5 h 12 min", "3 d 4 h"]);
}

/// Two registries, of which the second cannot be renewed; a file and a hook.
fn report() -> Report {
    let credential = |host: &str| -> Value {
        json!({
            "componentId": host, "componentType": "registry", "status": "pass",
            "observedValue": 1200, "observedUnit": "s", "kind": "google", "origin": "google",
            "identity": "me@example", "issued": "2027-01-15T11:45:00Z",
            "expires": "2027-01-15T12:45:00Z", "lastSuccess": "2027-01-15T11:45:00Z",
            "lastAttempt": "2027-01-15T11:45:00Z", "consecutiveFailures": 0,
            "nextRefresh": "2027-01-15T12:40:00Z",
            "history": [{ "start": "2027-01-15T11:45:00Z", "renewals": 1, "failures": 0 }],
        })
    };
    let trouble = json!({
        "kind": "unreachable", "message": "cannot reach it", "remedy": "see the `network`",
        "since": "2027-01-15T12:00:00Z", "count": 7,
    });
    let mut failing = credential("b.pkg.dev");
    failing["status"] = "warn".into();
    failing["consecutiveFailures"] = 7.into();
    failing["nextRefresh"] = "2027-01-15T12:35:00Z".into();
    failing["lastError"] = trouble.clone();
    let report = json!({
        "status": "warn", "serviceId": "freshcreds", "version": "1", "releaseId": "0.1.0",
        "time": "2027-01-15T12:25:00Z", "started": "2027-01-15T06:00:00Z",
        "checks": {
            "registry:credential": [credential("a.pkg.dev"), failing],
            "target:file": [{
                "componentId": "/config.json", "componentType": "target", "status": "pass",
                "verified": "2027-01-15T12:24:59Z", "reader": "docker", "watchedBy": "events",
            }],
            "hook:run": [{
                "componentId": "reload", "componentType": "hook", "status": "warn",
                "lastError": trouble,
            }],
        },
    });
    serde_json::from_value(report).unwrap()
}

fn verdict(word: &str) -> Verdict {
    serde_json::from_value(word.into()).unwrap()
}

fn without_ours(html: &str) -> String {
    html.replace(CSS, "").replace(JS, "")
}
