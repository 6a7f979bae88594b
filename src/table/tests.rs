use std::ffi::OsString;
use std::fs::File;

use proptest::prelude::*;
use unicode_width::UnicodeWidthChar;

use super::*;
use crate::status::{Checks, SettingsReport, Trouble};

const START: u64 = 1_800_000_000;

/// So many seconds after noon.
fn at(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(START + seconds))
        .to_string()
}

/// A credential of which three hours of twelve are over.
fn credential(host: &str) -> CredentialReport {
    CredentialReport {
        component_id: host.to_owned(),
        component_type: "registry".to_owned(),
        status: Verdict::Pass,
        observed_value: Some(9 * 3600),
        observed_unit: "s".to_owned(),
        usable_seconds: Some(9 * 3600),
        usable_until: Some(at(12 * 3600)),
        kind: "ecr".to_owned(),
        origin: "ecr eu-west-1".to_owned(),
        clock_skew_seconds: None,
        identity: None,
        issued: Some(at(0)),
        expires: Some(at(12 * 3600)),
        never_expires: false,
        last_success: Some(at(0)),
        last_attempt: Some(at(0)),
        consecutive_failures: 0,
        last_error: None,
        next_refresh: Some(at(6 * 3600)),
        next_refresh_reason: Some("half of its life is over then".to_owned()),
        verification: None,
        verified: None,
        output: None,
        not_ready: None,
        history: Vec::new(),
    }
}

fn target(path: &str) -> TargetReport {
    TargetReport {
        component_id: path.to_owned(),
        component_type: "target".to_owned(),
        status: Verdict::Pass,
        verified: Some(at(3 * 3600)),
        last_write: Some(at(1)),
        namespaces: None,
        reader: "docker".to_owned(),
        protection: Some("leased exchange".to_owned()),
        watched_by: "events".to_owned(),
        last_error: None,
        in_the_way: Vec::new(),
    }
}

fn trouble(kind: &str, message: &str, remedy: &str) -> Trouble {
    let (kind, message, remedy) = (kind.to_owned(), message.to_owned(), remedy.to_owned());
    Trouble { kind, message, remedy, since: Some(at(2 * 3600)), count: 7 }
}

fn report(credentials: Vec<CredentialReport>, targets: Vec<TargetReport>) -> Report {
    let worst = credentials.iter().map(|check| check.status);
    let status = worst.chain(targets.iter().map(|check| check.status)).max();
    Report {
        status: status.unwrap_or(Verdict::Fail),
        service_id: "freshcreds".to_owned(),
        version: "1".to_owned(),
        release_id: "0.1.0".to_owned(),
        time: at(3 * 3600),
        started: at(0),
        output: Vec::new(),
        checks: Checks { credentials, targets, ..Checks::default() },
    }
}

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

fn healthy() -> Report {
    let mut google = credential("europe-west1-docker.pkg.dev");
    google.kind = "google".to_owned();
    google.next_refresh_reason =
        Some("its issuer gives no new one before its last minutes".to_owned());
    google.next_refresh = Some(at(11 * 3600 + 2400));
    let third = credential("210987654321.dkr.ecr.ap-southeast-1.amazonaws.com");
    report(vec![credential(ECR), google, third], vec![target("/root/.docker/config.json")])
}

fn degraded() -> Report {
    let mut report = healthy();
    let check = &mut report.checks.credentials[2];
    check.status = Verdict::Warn;
    check.consecutive_failures = 7;
    check.next_refresh = Some(at(3 * 3600 + 42));
    check.next_refresh_reason = Some("the last fetch failed".to_owned());
    check.last_error = Some(trouble(
        "unreachable",
        "cannot reach https://api.ecr.ap-southeast-1.amazonaws.com: connection timed out",
        "see whether this machine reaches the service: DNS, routes, firewall, certificates",
    ));
    report.checks.hooks.push(HookReport {
        component_id: "systemctl reload kubelet".to_owned(),
        component_type: "hook".to_owned(),
        status: Verdict::Warn,
        last_run: Some(at(2 * 3600)),
        last_error: Some(trouble("hook_failed", "it ended with 1", "run the command by hand")),
    });
    report.status = Verdict::Warn;
    report
}

fn failed() -> Report {
    let mut report = degraded();
    let check = &mut report.checks.credentials[1];
    check.status = Verdict::Fail;
    check.observed_value = None;
    (check.issued, check.expires, check.next_refresh) = (None, None, Some(at(0)));
    check.next_refresh_reason = Some("there is no credential yet".to_owned());
    check.not_ready = Some(Trouble {
        since: None,
        count: 1,
        ..trouble("nothing_yet", "there is no credential yet", "see what the last fetch met with")
    });
    report.checks.targets[0].status = Verdict::Fail;
    report.checks.targets[0].in_the_way.push(trouble(
        "creds_store",
        "`credsStore` names `desktop`, so docker does not look into this file",
        "remove `credsStore` from the file, or set `hidden` for the target",
    ));
    report.checks.settings.push(SettingsReport {
        component_type: "settings".to_owned(),
        status: Verdict::Warn,
        last_error: trouble("bad_settings", "line 2: `listne`", "mend the file, and send SIGHUP"),
    });
    report.status = Verdict::Fail;
    report
}

/// Two hundred, of which the last twelve have the same trouble.
fn fleet() -> Report {
    let mut credentials: Vec<_> = (0..200)
        .map(|number| {
            credential(&format!("{}.dkr.ecr.eu-west-1.amazonaws.com", 100_000_000_000_u64 + number))
        })
        .collect();
    for check in &mut credentials[188..] {
        check.status = Verdict::Warn;
        check.last_error = Some(trouble("throttled", "too many calls", "nothing, if it passes"));
    }
    report(credentials, vec![target("/root/.docker/config.json")])
}

/// A terminal without colours.
fn page(width: usize) -> Page {
    Page {
        width: Some(width),
        height: None,
        has_colors: false,
        has_unicode: true,
        can_redraw: true,
    }
}

const FILE: Page =
    Page { width: None, height: None, has_colors: false, has_unicode: true, can_redraw: false };

fn widest(text: &str) -> usize {
    let width = |line: &str| line.chars().map(|c| c.width().unwrap_or(1)).sum();
    text.lines().map(width).max().unwrap_or(0)
}

/// The table, which is no wider than its terminal.
fn shown(report: &Report, width: usize) -> String {
    let text = table(report, &page(width));
    assert!(widest(&text) <= width, "wider than {width}:\n{text}");
    text
}

#[test]
fn all_is_well_at_a_glance() {
    insta::assert_snapshot!(shown(&healthy(), 40), @r#"
    ✓ 3 of 3 registries are ready
      freshcreds 0.1.0 at
      2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                  LEFT
    ✓ pass  123456789012…eu-west-1…   9h 00m
    ✓ pass  europe-west1-docker…      9h 00m
    ✓ pass  21098765…ap-southeast-1…  9h 00m
            next refresh of 2: half of its
            life is over then
            next refresh of 1: its issuer
            gives no new one before its last
            minutes

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased
            exchange, in order 0s ago,
            written 2h 59m ago
    "#);
    insta::assert_snapshot!(shown(&healthy(), 60), @r#"
    ✓ 3 of 3 registries are ready
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                   LIFE    LEFT    NEXT
    ✓ pass  123456789012…eu-west-1…    ░█│███  9h 00m  in 3h 00m
    ✓ pass  europe-west1-docker…       ░████│  9h 00m  in 8h 40m
    ✓ pass  210987654…ap-southeast-1…  ░█│███  9h 00m  in 3h 00m
            next refresh of 2: half of its life is over then
            next refresh of 1: its issuer gives no new one
            before its last minutes

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order
            0s ago, written 2h 59m ago
    "#);
    insta::assert_snapshot!(shown(&healthy(), 80), @r#"
    ✓ 3 of 3 registries are ready
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                   LIFE        LEFT    NEXT
    ✓ pass  123456789012.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    ✓ pass  europe-west1-docker.pkg.dev                ░░███████│  9h 00m  in 8h 40m
    ✓ pass  210987654321.dkr.ecr.ap-southeast-1…       ░░██│█████  9h 00m  in 3h 00m
            next refresh of 2: half of its life is over then
            next refresh of 1: its issuer gives no new one before its last minutes

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h
            59m ago
    "#);
    insta::assert_snapshot!(shown(&healthy(), 120), @r#"
    ✓ 3 of 3 registries are ready
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                           LIFE        LEFT    NEXT       WHY THEN
    ✓ pass  123456789012.dkr.ecr.eu-west-1.amazonaws.com       ░░██│█████  9h 00m  in 3h 00m  half of its life is over then
    ✓ pass  europe-west1-docker.pkg.dev                        ░░███████│  9h 00m  in 8h 40m  its issuer gives no new one b…
    ✓ pass  210987654321.dkr.ecr.ap-southeast-1.amazonaws.com  ░░██│█████  9h 00m  in 3h 00m  half of its life is over then
            next refresh of 1: its issuer gives no new one before its last minutes

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h 59m ago
    "#);
    insta::assert_snapshot!(table(&healthy(), &FILE), @r#"
    ✓ 3 of 3 registries are ready
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                           KIND    LIFE                  LEFT    NEXT       WHY THEN
    ✓ pass  123456789012.dkr.ecr.eu-west-1.amazonaws.com       ecr     ░░░░░████│██████████  9h 00m  in 3h 00m  half of its life is over then
    ✓ pass  europe-west1-docker.pkg.dev                        google  ░░░░░██████████████│  9h 00m  in 8h 40m  its issuer gives no new one before its last minutes
    ✓ pass  210987654321.dkr.ecr.ap-southeast-1.amazonaws.com  ecr     ░░░░░████│██████████  9h 00m  in 3h 00m  half of its life is over then

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h 59m ago
    "#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "they are pictures")]
fn what_needs_attention_comes_before_what_is_well() {
    insta::assert_snapshot!(shown(&degraded(), 40), @r#"
    ! 3 of 3 registries are ready (2 warn)
      freshcreds 0.1.0 at
      2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                  LEFT
    ! warn  21098765…ap-southeast-1…  9h 00m
    ✓ pass  123456789012…eu-west-1…   9h 00m
    ✓ pass  europe-west1-docker…      9h 00m
            next refresh of 1: half of its
            life is over then
            next refresh of 1: its issuer
            gives no new one before its last
            minutes
            next refresh of 1: the last
            fetch failed

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased
            exchange, in order 0s ago,
            written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ! 210987654321.dkr.ecr.ap-southeast-1.
      amazonaws.com: cannot reach
      https://api.ecr.ap-southeast-1.
      amazonaws.com: connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     see whether this machine
             reaches the service: DNS,
             routes, firewall, certificates
    ! systemctl reload kubelet: it ended
      with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     run the command by hand
    "#);
    insta::assert_snapshot!(shown(&degraded(), 60), @r#"
    ! 3 of 3 registries are ready (2 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                   LIFE    LEFT    NEXT
    ! warn  210987654…ap-southeast-1…  ░│████  9h 00m  in 42s
    ✓ pass  123456789012…eu-west-1…    ░█│███  9h 00m  in 3h 00m
    ✓ pass  europe-west1-docker…       ░████│  9h 00m  in 8h 40m
            next refresh of 1: half of its life is over then
            next refresh of 1: its issuer gives no new one
            before its last minutes
            next refresh of 1: the last fetch failed

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order
            0s ago, written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot
      reach https://api.ecr.ap-southeast-1.amazonaws.com:
      connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS,
             routes, firewall, certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    "#);
    insta::assert_snapshot!(shown(&degraded(), 80), @r#"
    ! 3 of 3 registries are ready (2 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                   LIFE        LEFT    NEXT
    ! warn  210987654321.dkr.ecr.ap-southeast-1…       ░░│███████  9h 00m  in 42s
    ✓ pass  123456789012.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    ✓ pass  europe-west1-docker.pkg.dev                ░░███████│  9h 00m  in 8h 40m
            next refresh of 1: half of its life is over then
            next refresh of 1: its issuer gives no new one before its last minutes
            next refresh of 1: the last fetch failed

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h
            59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot reach
      https://api.ecr.ap-southeast-1.amazonaws.com: connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS, routes, firewall,
             certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    "#);
    insta::assert_snapshot!(shown(&degraded(), 120), @r#"
    ! 3 of 3 registries are ready (2 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                           LIFE        LEFT    NEXT       WHY THEN
    ! warn  210987654321.dkr.ecr.ap-southeast-1.amazonaws.com  ░░│███████  9h 00m  in 42s     the last fetch failed
    ✓ pass  123456789012.dkr.ecr.eu-west-1.amazonaws.com       ░░██│█████  9h 00m  in 3h 00m  half of its life is over then
    ✓ pass  europe-west1-docker.pkg.dev                        ░░███████│  9h 00m  in 8h 40m  its issuer gives no new one b…
            next refresh of 1: its issuer gives no new one before its last minutes

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot reach https://api.ecr.ap-southeast-1.amazonaws.com:
      connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS, routes, firewall, certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    "#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "they are pictures")]
fn what_does_not_work_comes_first() {
    insta::assert_snapshot!(shown(&failed(), 40), @r#"
    ✗ 2 of 3 registries are ready (2 fail, 3
      warn)
      freshcreds 0.1.0 at
      2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                  LEFT
    ✗ fail  europe-west1-docker…      -
    ! warn  21098765…ap-southeast-1…  9h 00m
    ✓ pass  123456789012…eu-west-1…   9h 00m
            next refresh of 1: half of its
            life is over then
            next refresh of 1: the last
            fetch failed
            next refresh of 1: there is no
            credential yet

    FILES
    ✗ fail  /root/.docker/config.json
            docker reads it, watched, leased
            exchange, in order 0s ago,
            written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ✗ europe-west1-docker.pkg.dev: there is
      no credential yet
      kind   nothing_yet
      since  an unknown time, once
      do     see what the last fetch met
             with
    ✗ /root/.docker/config.json:
      `credsStore` names `desktop`, so
      docker does not look into this file
      kind   creds_store
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     remove `credsStore` from the
             file, or set `hidden` for the
             target
    ! 210987654321.dkr.ecr.ap-southeast-1.
      amazonaws.com: cannot reach
      https://api.ecr.ap-southeast-1.
      amazonaws.com: connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     see whether this machine
             reaches the service: DNS,
             routes, firewall, certificates
    ! systemctl reload kubelet: it ended
      with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     run the command by hand
    ! the settings: line 2: `listne`
      kind   bad_settings
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     mend the file, and send SIGHUP
    "#);
    insta::assert_snapshot!(shown(&failed(), 60), @r#"
    ✗ 2 of 3 registries are ready (2 fail, 3 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                   LIFE    LEFT    NEXT
    ✗ fail  europe-west1-docker…       -       -       now
    ! warn  210987654…ap-southeast-1…  ░│████  9h 00m  in 42s
    ✓ pass  123456789012…eu-west-1…    ░█│███  9h 00m  in 3h 00m
            next refresh of 1: half of its life is over then
            next refresh of 1: the last fetch failed
            next refresh of 1: there is no credential yet

    FILES
    ✗ fail  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order
            0s ago, written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ✗ europe-west1-docker.pkg.dev: there is no credential yet
      kind   nothing_yet
      since  an unknown time, once
      do     see what the last fetch met with
    ✗ /root/.docker/config.json: `credsStore` names `desktop`,
      so docker does not look into this file
      kind   creds_store
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     remove `credsStore` from the file, or set `hidden`
             for the target
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot
      reach https://api.ecr.ap-southeast-1.amazonaws.com:
      connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS,
             routes, firewall, certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    ! the settings: line 2: `listne`
      kind   bad_settings
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     mend the file, and send SIGHUP
    "#);
    insta::assert_snapshot!(shown(&failed(), 80), @r#"
    ✗ 2 of 3 registries are ready (2 fail, 3 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                   LIFE        LEFT    NEXT
    ✗ fail  europe-west1-docker.pkg.dev                -           -       now
    ! warn  210987654321.dkr.ecr.ap-southeast-1…       ░░│███████  9h 00m  in 42s
    ✓ pass  123456789012.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
            next refresh of 1: half of its life is over then
            next refresh of 1: the last fetch failed
            next refresh of 1: there is no credential yet

    FILES
    ✗ fail  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h
            59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ✗ europe-west1-docker.pkg.dev: there is no credential yet
      kind   nothing_yet
      since  an unknown time, once
      do     see what the last fetch met with
    ✗ /root/.docker/config.json: `credsStore` names `desktop`, so docker does not
      look into this file
      kind   creds_store
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     remove `credsStore` from the file, or set `hidden` for the target
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot reach
      https://api.ecr.ap-southeast-1.amazonaws.com: connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS, routes, firewall,
             certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    ! the settings: line 2: `listne`
      kind   bad_settings
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     mend the file, and send SIGHUP
    "#);
    insta::assert_snapshot!(shown(&failed(), 120), @r#"
    ✗ 2 of 3 registries are ready (2 fail, 3 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                           LIFE         LEFT    NEXT       WHY THEN
    ✗ fail  europe-west1-docker.pkg.dev                        -            -       now        there is no credential yet
    ! warn  210987654321.dkr.ecr.ap-southeast-1.amazonaws.com  ░░│████████  9h 00m  in 42s     the last fetch failed
    ✓ pass  123456789012.dkr.ecr.eu-west-1.amazonaws.com       ░░███│█████  9h 00m  in 3h 00m  half of its life is over then

    FILES
    ✗ fail  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ✗ europe-west1-docker.pkg.dev: there is no credential yet
      kind   nothing_yet
      since  an unknown time, once
      do     see what the last fetch met with
    ✗ /root/.docker/config.json: `credsStore` names `desktop`, so docker does not look into this file
      kind   creds_store
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     remove `credsStore` from the file, or set `hidden` for the target
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot reach https://api.ecr.ap-southeast-1.amazonaws.com:
      connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS, routes, firewall, certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    ! the settings: line 2: `listne`
      kind   bad_settings
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     mend the file, and send SIGHUP
    "#);
    insta::assert_snapshot!(table(&failed(), &FILE), @r#"
    ✗ 2 of 3 registries are ready (2 fail, 3 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                           KIND    LIFE                  LEFT    NEXT       WHY THEN
    ✗ fail  europe-west1-docker.pkg.dev                        google  -                     -       now        there is no credential yet
    ! warn  210987654321.dkr.ecr.ap-southeast-1.amazonaws.com  ecr     ░░░░░│██████████████  9h 00m  in 42s     the last fetch failed
    ✓ pass  123456789012.dkr.ecr.eu-west-1.amazonaws.com       ecr     ░░░░░████│██████████  9h 00m  in 3h 00m  half of its life is over then

    FILES
    ✗ fail  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    ✗ europe-west1-docker.pkg.dev: there is no credential yet
      kind   nothing_yet
      since  an unknown time, once
      do     see what the last fetch met with
    ✗ /root/.docker/config.json: `credsStore` names `desktop`, so docker does not look into this file
      kind   creds_store
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     remove `credsStore` from the file, or set `hidden` for the target
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot reach https://api.ecr.ap-southeast-1.amazonaws.com: connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS, routes, firewall, certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    ! the settings: line 2: `listne`
      kind   bad_settings
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     mend the file, and send SIGHUP
    "#);
}

/// The first and the last lines.
fn ends(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let (first, last) = (&lines[..7], &lines[lines.len() - 10..]);
    format!("{}\n[...]\n{}", first.join("\n"), last.join("\n"))
}

#[test]
fn two_hundred_registries_with_one_trouble() {
    insta::assert_snapshot!(ends(&shown(&fleet(), 40)), @r#"
    ! 200 of 200 registries are ready (12
      warn)
      freshcreds 0.1.0 at
      2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                  LEFT
    ! warn  100000000188…eu-west-1…   9h 00m
    [...]
      amazonaws.com,
      100000000189.dkr.ecr.eu-west-1.
      amazonaws.com,
      100000000190.dkr.ecr.eu-west-1.
      amazonaws.com, and 9 more: too many
      calls
      kind   throttled
      since  2027-01-15T10:00:00Z (1h 00m
             ago), 7 times in a row
      do     nothing, if it passes
    "#);
    insta::assert_snapshot!(ends(&shown(&fleet(), 60)), @r#"
    ! 200 of 200 registries are ready (12 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                   LIFE    LEFT    NEXT
    ! warn  100000000188…eu-west-1…    ░█│███  9h 00m  in 3h 00m
    ! warn  100000000189…eu-west-1…    ░█│███  9h 00m  in 3h 00m
    ! warn  100000000190…eu-west-1…    ░█│███  9h 00m  in 3h 00m
    [...]
            0s ago, written 2h 59m ago

    TROUBLES
    ! 100000000188.dkr.ecr.eu-west-1.amazonaws.com,
      100000000189.dkr.ecr.eu-west-1.amazonaws.com,
      100000000190.dkr.ecr.eu-west-1.amazonaws.com, and 9 more:
      too many calls
      kind   throttled
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     nothing, if it passes
    "#);
    insta::assert_snapshot!(ends(&shown(&fleet(), 80)), @r#"
    ! 200 of 200 registries are ready (12 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                   LIFE        LEFT    NEXT
    ! warn  100000000188.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    ! warn  100000000189.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    ! warn  100000000190.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    [...]
            docker reads it, watched, leased exchange, in order 0s ago, written 2h
            59m ago

    TROUBLES
    ! 100000000188.dkr.ecr.eu-west-1.amazonaws.com,
      100000000189.dkr.ecr.eu-west-1.amazonaws.com,
      100000000190.dkr.ecr.eu-west-1.amazonaws.com, and 9 more: too many calls
      kind   throttled
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     nothing, if it passes
    "#);
    insta::assert_snapshot!(ends(&shown(&fleet(), 120)), @r#"
    ! 200 of 200 registries are ready (12 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                      KIND  LIFE        LEFT    NEXT       WHY THEN
    ! warn  100000000188.dkr.ecr.eu-west-1.amazonaws.com  ecr   ░░██│█████  9h 00m  in 3h 00m  half of its life is over then
    ! warn  100000000189.dkr.ecr.eu-west-1.amazonaws.com  ecr   ░░██│█████  9h 00m  in 3h 00m  half of its life is over then
    ! warn  100000000190.dkr.ecr.eu-west-1.amazonaws.com  ecr   ░░██│█████  9h 00m  in 3h 00m  half of its life is over then
    [...]
    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h 59m ago

    TROUBLES
    ! 100000000188.dkr.ecr.eu-west-1.amazonaws.com, 100000000189.dkr.ecr.eu-west-1.amazonaws.com,
      100000000190.dkr.ecr.eu-west-1.amazonaws.com, and 9 more: too many calls
      kind   throttled
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     nothing, if it passes
    "#);
    // Nothing is left out where there is no terminal.
    let text = table(&fleet(), &FILE);
    for check in fleet().checks.credentials {
        assert!(text.contains(&check.component_id));
    }
}

#[test]
fn a_low_terminal_shows_the_worst_and_how_much_more_there_is() {
    let low = Page { height: Some(20), ..page(80) };
    let text = table(&fleet(), &low);
    assert_eq!(text.lines().count(), 20);
    insta::assert_snapshot!(text, @r#"
    ! 200 of 200 registries are ready (12 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                                   LIFE        LEFT    NEXT
    ! warn  100000000188.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    ! warn  100000000189.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    ! warn  100000000190.dkr.ecr.eu-west-1…            ░░██│█████  9h 00m  in 3h 00m
    … and 197 more
            next refresh: half of its life is over then

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order 0s ago, written 2h
            59m ago

    TROUBLES
    ! 100000000188.dkr.ecr.eu-west-1.amazonaws.com,
      100000000189.dkr.ecr.eu-west-1.amazonaws.com,
      100000000190.dkr.ecr.eu-west-1.amazonaws.com, and 9 more: too many calls
    … 3 more lines
    "#);
    let text = table(&failed(), &Page { height: Some(8), ..page(40) });
    assert_eq!(text.lines().count(), 8);
    assert!(text.contains("fail") && text.contains("more lines"), "{text}");
    // What has room is whole.
    let whole = table(&failed(), &page(80));
    let high = Page { height: Some(whole.lines().count()), ..page(80) };
    assert_eq!(table(&failed(), &high), whole);
}

#[test]
fn a_locale_without_unicode_gets_ascii() {
    let mut report = failed();
    report.checks.targets[0].component_id = "/home/zoë/config.json".to_owned();
    let text = table(&report, &Page { has_unicode: false, ..page(60) });
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!(text, @r#"
    x 2 of 3 registries are ready (2 fail, 3 warn)
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                   LIFE    LEFT    NEXT
    x fail  europe-west1-docker..      -       -       now
    ! warn  2109876..ap-southeast-1..  .|####  9h 00m  in 42s
    + pass  123456789012..eu-west-1..  .#|###  9h 00m  in 3h 00m
            next refresh of 1: half of its life is over then
            next refresh of 1: the last fetch failed
            next refresh of 1: there is no credential yet

    FILES
    x fail  /home/zo\u{eb}/config.json
            docker reads it, watched, leased exchange, in order
            0s ago, written 2h 59m ago

    HOOKS
    ! warn  systemctl reload kubelet
            last run 1h 00m ago

    TROUBLES
    x europe-west1-docker.pkg.dev: there is no credential yet
      kind   nothing_yet
      since  an unknown time, once
      do     see what the last fetch met with
    x /home/zo\u{eb}/config.json: `credsStore` names `desktop`,
      so docker does not look into this file
      kind   creds_store
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     remove `credsStore` from the file, or set `hidden`
             for the target
    ! 210987654321.dkr.ecr.ap-southeast-1.amazonaws.com: cannot
      reach https://api.ecr.ap-southeast-1.amazonaws.com:
      connection timed out
      kind   unreachable
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     see whether this machine reaches the service: DNS,
             routes, firewall, certificates
    ! systemctl reload kubelet: it ended with 1
      kind   hook_failed
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     run the command by hand
    ! the settings: line 2: `listne`
      kind   bad_settings
      since  2027-01-15T10:00:00Z (1h 00m ago), 7 times in a row
      do     mend the file, and send SIGHUP
    "#);
}

#[test]
fn colours_say_nothing_that_the_words_do_not() {
    let report = failed();
    for page in [page(80), FILE] {
        let colorful = table(&report, &Page { has_colors: true, ..page.clone() });
        for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"] {
            assert!(colorful.contains(code), "{code:?} is not in {colorful:?}");
        }
        let mut plain = colorful.clone();
        while let Some((before, rest)) = plain.split_once('\x1b') {
            let (_, after) = rest.split_once('m').unwrap();
            plain = format!("{before}{after}");
        }
        assert_eq!(plain, table(&report, &page));
    }
}

#[test]
fn nobody_answers() {
    let why = "no freshcreds answers on 127.0.0.1:8099: Connection refused (os error 111)";
    insta::assert_snapshot!(without_answer(why, None, &page(40)), @r#"
    ✗ no answer: no freshcreds answers on
      127.0.0.1:8099: Connection refused (os
      error 111)
    "#);
    let text = without_answer(why, Some(&healthy()), &page(60));
    assert!(widest(&text) <= 60);
    insta::assert_snapshot!(text, @r#"
    ✗ no answer: no freshcreds answers on 127.0.0.1:8099:
      Connection refused (os error 111)

    The last one, of 2027-01-15T11:00:00Z:
    ✓ 3 of 3 registries are ready
      freshcreds 0.1.0 at 2027-01-15T11:00:00Z, up 3h 00m

    STATE   REGISTRY                   LIFE    LEFT    NEXT
    ✓ pass  123456789012…eu-west-1…    ░█│███  9h 00m  in 3h 00m
    ✓ pass  europe-west1-docker…       ░████│  9h 00m  in 8h 40m
    ✓ pass  210987654…ap-southeast-1…  ░█│███  9h 00m  in 3h 00m
            next refresh of 2: half of its life is over then
            next refresh of 1: its issuer gives no new one
            before its last minutes

    FILES
    ✓ pass  /root/.docker/config.json
            docker reads it, watched, leased exchange, in order
            0s ago, written 2h 59m ago
    "#);
}

#[test]
fn account_and_region_stay_as_long_as_they_can() {
    let short = |width| text::shorten_host(ECR, width, "…");
    assert_eq!(short(44), ECR);
    assert_eq!(short(43), "123456789012.dkr.ecr.eu-west-1…");
    assert_eq!(short(30), "123456789012…eu-west-1…");
    assert_eq!(short(23), "123456789012…eu-west-1…");
    assert_eq!(short(20), "123456789…eu-west-1…");
    assert_eq!(short(15), "1234…eu-west-1…");
    for width in 1..50 {
        assert!(text::width(&short(width)) <= width);
    }
    let google = "europe-west1-docker.pkg.dev";
    assert_eq!(text::shorten_host(google, 23, "…"), "europe-west1-docker…");
}

#[test]
fn the_mark_is_where_the_next_refresh_is() {
    let bar = |next: u64, now: u64| {
        let mut check = credential("gcr.io");
        check.next_refresh = Some(at(next * 3600));
        let mut report = report(vec![check], Vec::new());
        report.time = at(now * 3600);
        let text = shown(&report, 60);
        text.lines().nth(4).unwrap().split_whitespace().nth(3).unwrap().to_owned()
    };
    insta::assert_debug_snapshot!(
        [bar(6, 0), bar(6, 3), bar(6, 6), bar(6, 11), bar(6, 12), bar(13, 12), bar(0, 0)],
        @r#"
    [
        "███████████│███████████",
        "░░░░░██████│███████████",
        "░░░░░░░░░░░░░│██████████████",
        "░░░░░░░░░░░░░│░░░░░░░░░░░███",
        "░░░░░░░░░░░░░│░░░░░░░░░░░░░░",
        "░░░░░░░░░░░░░░░░░░░░░░░",
        "│███████████████████████████",
    ]
    "#
    );
}

#[test]
fn who_wants_colours_gets_them() {
    let file = File::open("/dev/null").unwrap();
    let page = |wants, variables: &'static [(&str, &str)]| {
        Page::of(&file, wants, |name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| OsString::from(value))
        })
    };
    let has_colors = |wants, variables| page(wants, variables).has_colors;
    assert!(!has_colors(None, &[("TERM", "xterm")]), "it is no terminal");
    assert!(has_colors(None, &[("CLICOLOR_FORCE", "1")]));
    assert!(!has_colors(None, &[("CLICOLOR_FORCE", "0")]));
    assert!(!has_colors(None, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert!(has_colors(None, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "")]));
    assert!(has_colors(Some(true), &[("NO_COLOR", "1")]));
    assert!(!has_colors(Some(false), &[("CLICOLOR_FORCE", "1")]));

    let has_unicode = |variables| page(None, variables).has_unicode;
    assert!(has_unicode(&[("LANG", "de_AT.UTF-8")]));
    assert!(has_unicode(&[("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
    assert!(!has_unicode(&[("LC_ALL", "C"), ("LANG", "de_AT.UTF-8")]));
    assert!(!has_unicode(&[]));

    let page = page(None, &[("COLUMNS", "60"), ("TERM", "xterm")]);
    assert_eq!((page.width, page.height, page.can_redraw), (None, None, false));
}

/// Anything that a terminal could take amiss, more often than by chance.
fn nasty() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[a-z0-9./ -]{0,60}",
        Just("\x1b[2J\x1b]0;title\x07".to_owned()),
        Just("漢字かな交じり文".to_owned()),
        Just("👩‍👩‍👧‍👦🇦🇹❤️".to_owned()),
        Just("e\u{301}\u{202e}\u{9b}31m\r\n\t".to_owned()),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn nasty_report() -> impl Strategy<Value = Report> {
    let verdict = || prop_oneof![Just(Verdict::Pass), Just(Verdict::Warn), Just(Verdict::Fail)];
    let names = proptest::collection::vec(nasty(), 16);
    let numbers = proptest::collection::vec(any::<u32>(), 4);
    let times = (proptest::option::of(any::<u64>()), any::<bool>());
    (names, numbers, times, verdict(), verdict()).prop_map(
        |(names, numbers, (left, is_known), one, other)| {
            let mut report = failed();
            let trouble = Trouble {
                kind: names[0].clone(),
                message: names[1].clone(),
                remedy: names[2].clone(),
                since: Some(names[3].clone()),
                count: numbers[0],
            };
            let check = &mut report.checks.credentials[0];
            (check.component_id, check.kind) = (names[4].clone(), names[5].clone());
            (check.status, check.observed_value) = (one, left);
            check.next_refresh_reason = Some(names[6].clone());
            check.last_error = Some(trouble.clone());
            let check = &mut report.checks.targets[0];
            (check.component_id, check.reader) = (names[7].clone(), names[8].clone());
            (check.protection, check.watched_by) = (Some(names[9].clone()), names[10].clone());
            check.verified = Some(names[11].clone());
            check.status = other;
            let check = &mut report.checks.hooks[0];
            check.component_id = names[12].clone();
            check.last_error = Some(trouble);
            (report.service_id, report.release_id) = (names[13].clone(), names[14].clone());
            if !is_known {
                report.time = names[15].clone();
            }
            report
        },
    )
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal_and_none_obeys_a_stranger(
        report in nasty_report(),
        width in 1_usize..200,
        height in proptest::option::of(1_usize..60),
        has_unicode in any::<bool>(),
    ) {
        let page = Page { height, has_unicode, ..page(width) };
        for text in [table(&report, &page), without_answer("gone", Some(&report), &page)] {
            prop_assert!(widest(&text) <= width, "{}", text);
            prop_assert!(text.lines().count() <= height.unwrap_or(usize::MAX));
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", text);
            prop_assert!(!text.contains(['\u{202e}', '\u{200d}', '\u{fe0f}']), "{:?}", text);
            prop_assert!(has_unicode || text.is_ascii(), "{}", text);
        }
        let text = table(&report, &Page { has_unicode, ..FILE });
        prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", text);
    }

    #[test]
    fn a_wrapped_text_loses_no_word(text in "[a-z]{1,12}( [a-z]{1,12}){0,20}", width in 1_usize..40) {
        let lines = text::wrap(&text, width, width);
        let is_short = |line: &String| text::width(line) <= width;
        prop_assert!(lines.iter().all(is_short), "{:?}", lines);
        let letters = |text: &str| text.replace(' ', "");
        prop_assert_eq!(letters(&lines.concat()), letters(&text));
        if width >= 12 {
            prop_assert_eq!(lines.join(" "), text);
        }
    }
}
