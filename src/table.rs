//! A report as a table for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use crate::status::{CredentialReport, Report, TargetReport};

/// The table, with a bar for what is left of each credential's life.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut rows = vec![["REGISTRY", "KIND", "LEFT", "LIFE", "NEXT", "STATE"].map(str::to_owned)];
    rows.extend(report.checks.credentials.iter().map(|check| row(check, report)));
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();

    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(&mut text, cells.join("  ").trim_end());
    }
    for target in &report.checks.targets {
        line(&mut text, "");
        line(&mut text, &describe(target));
        for trouble in target.last_error.iter().chain(&target.in_the_way) {
            line(&mut text, &format!("  {}: {}", trouble.kind, trouble.message));
        }
    }
    let failures: Vec<&CredentialReport> = report
        .checks
        .credentials
        .iter()
        .filter(|check| check.last_error.is_some() || check.output.is_some())
        .collect();
    if !failures.is_empty() {
        line(&mut text, "");
    }
    for check in failures {
        if let Some(output) = &check.output {
            line(&mut text, &format!("{}: {output}", check.component_id));
        }
        if let Some(error) = &check.last_error {
            line(
                &mut text,
                &format!(
                    "{}: {} ({} failures in a row, since {}): {}",
                    check.component_id,
                    error.kind,
                    check.consecutive_failures,
                    error.since.as_deref().unwrap_or("just now"),
                    error.message
                ),
            );
        }
    }
    text
}

fn row(check: &CredentialReport, report: &Report) -> [String; 6] {
    let now = parse(Some(&report.time));
    let (issued, expires) = (parse(check.issued.as_ref()), parse(check.expires.as_ref()));
    let next = parse(check.next_refresh.as_ref());
    let left = match (check.observed_value, now, expires) {
        (Some(0), ..) => "expired".to_owned(),
        (Some(seconds), ..) => short(Duration::from_secs(seconds)),
        (None, ..) => "-".to_owned(),
    };
    let bar = match (issued, expires, now) {
        (Some(issued), Some(expires), Some(now)) => bar(issued, expires, now),
        _ => "-".to_owned(),
    };
    let next = match (next, now) {
        (Some(next), Some(now)) => {
            format!("in {}", short(next.duration_since(now).unwrap_or_default()))
        }
        _ => "-".to_owned(),
    };
    [
        check.component_id.clone(),
        check.kind.clone(),
        left,
        bar,
        next,
        check.status.as_str().to_owned(),
    ]
}

fn describe(target: &TargetReport) -> String {
    let verified = target.verified.as_deref().unwrap_or("never");
    let written = target.last_write.as_deref().unwrap_or("never");
    format!(
        "{} {} (verified {verified}, written {written})",
        target.component_id,
        target.status.as_str()
    )
}

/// What is left of a life, in tenths.
fn bar(issued: SystemTime, expires: SystemTime, now: SystemTime) -> String {
    let length = expires.duration_since(issued).unwrap_or_default().as_secs_f64();
    let left = expires.duration_since(now).unwrap_or_default().as_secs_f64();
    let share = if length > 0.0 { (left / length).clamp(0.0, 1.0) } else { 0.0 };
    let mut bar = String::new();
    for tenth in 0..BAR_LENGTH {
        bar.push(if f64::from(tenth) < share * f64::from(BAR_LENGTH) { '█' } else { '░' });
    }
    bar
}

const BAR_LENGTH: u32 = 10;

/// The two largest units of a duration.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

fn parse(text: Option<&String>) -> Option<SystemTime> {
    humantime::parse_rfc3339(text?).ok()
}

fn line(text: &mut String, words: &str) {
    // Writing into a string does not fail.
    let _ = writeln!(text, "{words}");
}
