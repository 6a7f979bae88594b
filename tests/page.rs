//! The page as its readers see it: a real browser looks at it on a phone, a tablet and a
//! desktop, by day and by night, with and without JavaScript, and axe judges it.
//!
//! `tests/page/check.mjs` drives the browser; its pictures are in `target/page`. A tool that is
//! missing fails the tests and says so; none is skipped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use freshcreds::page::{content_security_policy, page};
use freshcreds::status::{
    Checks, CredentialReport, HookReport, QuarterReport, Report, SettingsReport, TargetReport,
    Trouble, Verdict,
};

#[test]
fn all_is_well() -> Result<()> {
    look_at("healthy", &healthy())
}

#[test]
fn renewals_fail() -> Result<()> {
    look_at("degraded", &degraded())
}

#[test]
fn credentials_are_missing() -> Result<()> {
    look_at("failed", &failed())
}

#[test]
fn nothing_was_fetched_yet() -> Result<()> {
    look_at("first-start", &first_start())
}

#[test]
fn two_hundred_registries() -> Result<()> {
    look_at("fleet", &fleet())
}

#[test]
fn the_page_follows_the_daemon_and_tells_when_it_is_gone() -> Result<()> {
    let server = Server::start(healthy())?;
    browse(&server.address, "watch", &["--watch"])
}

// --- Reports -----------------------------------------------------------------------------------

fn healthy() -> Report {
    let credentials = vec![
        ecr("123456789012.dkr.ecr.eu-west-1.amazonaws.com", 3 * HOUR),
        google("europe-docker.pkg.dev", 11 * MINUTE),
        ecr("210987654321.dkr.ecr.us-east-1.amazonaws.com", 5 * HOUR + 48 * MINUTE),
    ];
    report(credentials, vec![target("/home/ci/.docker/config.json")])
}

fn degraded() -> Report {
    let mut report = healthy();
    let failing = &mut report.checks.credentials[1];
    fail(
        failing,
        "unreachable",
        "https://oauth2.googleapis.com/token cannot be reached: connection refused (os error 111)",
        "see whether this machine reaches the service: DNS, routes, firewall, certificates",
        7,
    );
    report.checks.hooks.push(HookReport {
        component_id: "/usr/local/bin/reload-builders --all".to_owned(),
        component_type: "hook".to_owned(),
        status: Verdict::Warn,
        last_run: Some(ago(3 * HOUR)),
        last_error: Some(trouble(
            "hook_failed",
            "it ended with exit status 3",
            "run the hook's command by hand, as the user that freshcreds runs as; it runs again after the next change, or at SIGUSR1",
            Some(3 * HOUR),
            1,
        )),
    });
    report.checks.settings.push(SettingsReport {
        component_type: "settings".to_owned(),
        status: Verdict::Warn,
        last_error: trouble(
            "bad_settings",
            "/etc/freshcreds/config.toml, line 12, column 1: unknown key `regsitries`; do you mean `registries`?",
            "mend the settings file, and send SIGHUP",
            Some(20 * MINUTE),
            1,
        ),
    });
    judged(report)
}

fn failed() -> Report {
    let mut report = healthy();
    let [expired, hidden, _] = &mut report.checks.credentials[..] else { return report };
    fail(
        expired,
        "denied",
        "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/build-machine/i-0abc1234def567890 is not authorized to perform: ecr:GetAuthorizationToken on resource: *",
        "allow this identity what the message names (ECR: ecr:GetAuthorizationToken on `*`)",
        41,
    );
    expired.issued = Some(ago(12 * HOUR + 25 * MINUTE));
    expired.expires = Some(ago(25 * MINUTE));
    expired.observed_value = Some(0);
    lack(
        expired,
        "expired",
        "the credential expired 25m ago",
        "see what the last fetch met with, or what the target's last write did",
        Some(25 * MINUTE),
    );

    let obstacle = trouble(
        "creds_store",
        "`credsStore` is \"desktop\", so docker asks that helper and never looks at this entry",
        "remove `credsStore` from the file, or set `hidden` for the target",
        Some(2 * HOUR),
        1,
    );
    lack(
        hidden,
        "creds_store",
        &format!("docker passes by it in /home/ci/.docker/config.json: {}", obstacle.message),
        &obstacle.remedy,
        Some(2 * HOUR),
    );
    report.checks.targets[0].in_the_way.push(obstacle);
    report.checks.targets[0].status = Verdict::Fail;

    let mut unwritable = target("/run/user/1000/containers/<auth> \"quoted\"/auth.json");
    "podman".clone_into(&mut unwritable.reader);
    unwritable.status = Verdict::Fail;
    unwritable.protection = None;
    unwritable.last_write = None;
    "poll".clone_into(&mut unwritable.watched_by);
    unwritable.last_error = Some(trouble(
        "permission_denied",
        "cannot make a file beside it: Permission denied (os error 13)",
        "make the folder writable for the user that freshcreds runs as",
        Some(26 * HOUR),
        312,
    ));
    report.checks.targets.push(unwritable);
    judged(report)
}

fn first_start() -> Report {
    let mut report = healthy();
    report.started = ago(3 * SECOND);
    for check in &mut report.checks.credentials {
        let next = check.next_refresh.take();
        *check = CredentialReport { next_refresh: next, ..blank(&check.component_id, &check.kind) };
        check.next_refresh = Some(show(NOW));
        check.next_refresh_reason = Some("there is no credential yet".to_owned());
        lack(
            check,
            "nothing_yet",
            "there is no credential yet",
            "nothing, if it was just started; else see what the last fetch met with",
            None,
        );
    }
    let target = &mut report.checks.targets[0];
    (target.last_write, target.protection, target.verified) = (None, None, Some(ago(SECOND)));
    judged(report)
}

fn fleet() -> Report {
    let regions = ["eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-southeast-2"];
    let credentials = (0..200_u64)
        .map(|number| {
            let account = 100_000_000_000 + number * 1_234_567;
            let region = regions[usize::try_from(number).unwrap_or(0) % regions.len()];
            let mut check = match number % 4 {
                0 => google(&format!("{region}-{number}-docker.pkg.dev"), 20 * MINUTE),
                _ => ecr(&format!("{account}.dkr.ecr.{region}.amazonaws.com"), number * 3 * MINUTE),
            };
            if number % 25 == 7 {
                fail(&mut check, "throttled", "ThrottlingException: Rate exceeded", "nothing, if it passes; else look for what else calls this service from the same account", 3);
            }
            if number % 70 == 9 {
                lack(&mut check, "absent", "it is not in /home/ci/.docker/config.json", "see what the target's last write met with; it is put back by itself", Some(MINUTE));
            }
            check
        })
        .collect();
    judged(report(credentials, vec![target("/home/ci/.docker/config.json")]))
}

fn report(credentials: Vec<CredentialReport>, targets: Vec<TargetReport>) -> Report {
    Report {
        status: Verdict::Pass,
        service_id: "freshcreds".to_owned(),
        version: "1".to_owned(),
        release_id: "0.1.0".to_owned(),
        time: show(NOW),
        started: ago(17 * HOUR + 20 * MINUTE),
        output: Vec::new(),
        checks: Checks { credentials, targets, ..Checks::default() },
    }
}

/// The same with the verdict that its parts give.
fn judged(mut report: Report) -> Report {
    let checks = &report.checks;
    let all = checks.credentials.iter().map(|check| check.status);
    let all = all.chain(checks.targets.iter().map(|check| check.status));
    let all = all.chain(checks.hooks.iter().map(|check| check.status));
    let all = all.chain(checks.settings.iter().map(|check| check.status));
    report.status = all.max().unwrap_or(Verdict::Fail);
    report
}

fn blank(host: &str, kind: &str) -> CredentialReport {
    CredentialReport {
        component_id: host.to_owned(),
        component_type: "registry".to_owned(),
        status: Verdict::Pass,
        observed_value: None,
        observed_unit: "s".to_owned(),
        usable_seconds: None,
        usable_until: None,
        kind: kind.to_owned(),
        origin: kind.to_owned(),
        clock_skew_seconds: None,
        identity: None,
        issued: None,
        expires: None,
        never_expires: false,
        last_success: None,
        last_attempt: None,
        consecutive_failures: 0,
        last_error: None,
        next_refresh: None,
        next_refresh_reason: None,
        verification: None,
        verified: None,
        output: None,
        not_ready: None,
        history: Vec::new(),
    }
}

/// A credential of `life` that was issued `age` ago, and renewed at half of its life so far.
fn fresh(host: &str, kind: &str, age: u64, life: u64) -> CredentialReport {
    let renewals =
        (0..24 * HOUR).step_by(usize::try_from(life / 2).unwrap_or(1)).map(|back| age + back);
    let mut history: Vec<_> =
        renewals.filter(|back| *back < 17 * HOUR).map(|back| quarter(back, 1, 0)).collect();
    history.reverse();
    history.dedup_by(|one, other| one.start == other.start);
    CredentialReport {
        observed_value: Some(life.saturating_sub(age)),
        usable_seconds: Some(life.saturating_sub(age)),
        usable_until: Some(ahead(life.saturating_sub(age))),
        issued: Some(ago(age)),
        expires: Some(ahead(life.saturating_sub(age))),
        never_expires: false,
        last_success: Some(ago(age)),
        last_attempt: Some(ago(age)),
        next_refresh: Some(ahead((life / 2).saturating_sub(age))),
        next_refresh_reason: Some("half of its life is over then".to_owned()),
        history,
        ..blank(host, kind)
    }
}

fn ecr(host: &str, age: u64) -> CredentialReport {
    let mut check = fresh(host, "ecr", age % (6 * HOUR), 12 * HOUR);
    let mut parts = host.split('.');
    let account = parts.next().unwrap_or_default();
    let region = parts.nth(2).unwrap_or_default();
    check.origin = format!("ECR in {region}");
    check.identity = Some(format!("arn:aws:iam::{account}:role/build-machine"));
    check.verification = Some("taken".to_owned());
    check.verified = Some(ago(4 * MINUTE));
    check
}

fn google(host: &str, age: u64) -> CredentialReport {
    let mut check = fresh(host, "google", age, HOUR);
    check.identity = Some("builder@example-project.iam.gserviceaccount.com".to_owned());
    check.clock_skew_seconds = Some(-42);
    check
}

fn fail(check: &mut CredentialReport, kind: &str, message: &str, remedy: &str, times: u32) {
    check.status = check.status.max(Verdict::Warn);
    check.consecutive_failures = times;
    check.last_error = Some(trouble(kind, message, remedy, Some(40 * MINUTE), times));
    check.last_attempt = Some(ago(MINUTE));
    check.next_refresh = Some(ahead(95 * SECOND));
    check.next_refresh_reason = Some("the last fetch failed".to_owned());
    check.history.retain(|one| one.start < ago(45 * MINUTE));
    check.history.extend([
        quarter(40 * MINUTE, 0, 3),
        quarter(25 * MINUTE, 0, 2),
        quarter(10 * MINUTE, 0, 2),
    ]);
}

fn lack(check: &mut CredentialReport, kind: &str, message: &str, remedy: &str, since: Option<u64>) {
    check.status = Verdict::Fail;
    check.usable_seconds = None;
    check.usable_until = None;
    check.output = Some(message.to_owned());
    check.not_ready = Some(trouble(kind, message, remedy, since, 1));
}

fn target(path: &str) -> TargetReport {
    TargetReport {
        component_id: path.to_owned(),
        component_type: "target".to_owned(),
        status: Verdict::Pass,
        verified: Some(ago(SECOND)),
        last_write: Some(ago(11 * MINUTE)),
        namespaces: None,
        reader: "docker".to_owned(),
        protection: Some("leased exchange".to_owned()),
        watched_by: "events".to_owned(),
        last_error: None,
        in_the_way: Vec::new(),
    }
}

fn trouble(kind: &str, message: &str, remedy: &str, since: Option<u64>, count: u32) -> Trouble {
    let [kind, message, remedy] = [kind, message, remedy].map(str::to_owned);
    Trouble { kind, message, remedy, since: since.map(ago), count }
}

fn quarter(back: u64, renewals: u32, failures: u32) -> QuarterReport {
    let start = (NOW - back) / (15 * MINUTE) * (15 * MINUTE);
    QuarterReport { start: show(start), renewals, failures }
}

fn ago(seconds: u64) -> String {
    show(NOW - seconds)
}

fn ahead(seconds: u64) -> String {
    show(NOW + seconds)
}

fn show(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

const SECOND: u64 = 1;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// 2027-01-15, 17:23:07.
const NOW: u64 = 1_800_033_787;

// --- The browser -------------------------------------------------------------------------------

fn look_at(name: &str, report: &Report) -> Result<()> {
    let size = page(report).len();
    ensure!(size < LARGEST_PAGE, "{name} has {size} bytes");
    let server = Server::start(report.clone())?;
    browse(&server.address, name, &[])
}

fn browse(address: &str, name: &str, more: &[&str]) -> Result<()> {
    for tool in [Path::new("/usr/bin/chromium"), &root().join("target/tools/browser/made")] {
        ensure!(tool.exists(), "{} is missing: run `make setup`", tool.display());
    }
    let output = Command::new("node")
        .arg(root().join("tests/page/check.mjs"))
        .args([&format!("http://{address}/"), "target/page", name])
        .args(more)
        .current_dir(root())
        .output()
        .context("node is missing: run `make setup`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong: Vec<_> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{errors}", wrong.join("\n"));
    // A check that looked at nothing would have nothing to say either.
    ensure!(said.lines().filter(|line| line.starts_with("ok")).count() > 10, "{said}\n{errors}");
    Ok(())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

const LARGEST_PAGE: usize = 400_000;

// --- The server --------------------------------------------------------------------------------

/// Serves pages on loopback as long as the test runs.
struct Server {
    address: String,
}

impl Server {
    fn start(report: Report) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::new(Mutex::new((report, String::new(), 0)));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || answer(stream, &state));
            }
        });
        Ok(Self { address })
    }
}

/// A report, what the server is told to do instead of showing it, and how often it was asked.
type Shown = Mutex<(Report, String, u64)>;

fn answer(mut stream: TcpStream, shown: &Shown) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (html, how) = {
        let mut shown = shown.lock().map_err(|_| anyhow::anyhow!("a panic elsewhere"))?;
        let (report, how, asked) = &mut *shown;
        if let Some(turn) = head.strip_prefix("POST /turn/") {
            let turn = turn.split(' ').next().unwrap_or_default();
            match turn {
                "healthy" => *report = healthy(),
                "failed" => *report = failed(),
                _ => {}
            }
            turn.clone_into(how);
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")?;
            return Ok(());
        }
        // Each answer is of another second, as the daemon's are.
        if how != "frozen" {
            *asked += 1;
        }
        report.time = ahead(*asked);
        (page(report), how.clone())
    };
    let policy = content_security_policy();
    let (code, html) = match how.as_str() {
        "gone" => return Ok(()),
        "slow" => {
            // Until the browser gives up.
            let _ = stream.read(&mut [0]);
            return Ok(());
        }
        "broken" => ("503 Service Unavailable", "overloaded".to_owned()),
        "other" => ("200 OK", "<h1>Welcome to nginx!</h1>".to_owned()),
        _ => ("200 OK", html),
    };
    write!(
        stream,
        "HTTP/1.1 {code}\r\nContent-Type: text/html; charset=utf-8\r\n\
         Content-Security-Policy: {policy}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{html}",
        html.len()
    )?;
    Ok(())
}
