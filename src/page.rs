//! The page for people: how it is, and what is wrong.

use crate::status::Report;

/// The page that shows a report.
#[must_use]
pub fn page(report: &Report) -> String {
    let lines = report.output.join("\n");
    let lines = lines.replace('&', "&amp;").replace('<', "&lt;");
    let (status, time) = (report.status.as_str(), &report.time);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>freshcreds: {status}</title>\
         <h1>{status}</h1><p>{time}</p><pre>{lines}</pre></html>"
    )
}

/// What the page may load: nothing.
#[must_use]
pub fn content_security_policy() -> &'static str {
    "default-src 'none'"
}
