//! The pictures of the page. Each one says in words what it shows.
//!
//! A style attribute would be refused by the page's own policy, so places are attributes of
//! SVG. They are percentages where a picture is as wide as the page gives it room.

use std::time::{Duration, SystemTime};

use super::words::{add, count, length, relative};
use crate::status::{CredentialReport, QUARTER, QUARTERS, QuarterReport, Verdict, parse_time};

/// Shapes that the page uses again and again, and the ground of hours that nobody knows.
pub(super) const SHAPES: &str = concat!(
    "<svg class=\"shapes\" width=\"0\" height=\"0\" aria-hidden=\"true\" focusable=\"false\"><defs>",
    "<symbol id=\"shape-pass\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"8\"/>",
    "<path class=\"cut\" d=\"M4.4 8.3l2.5 2.5 4.8-5.3\"/></symbol>",
    "<symbol id=\"shape-warn\" viewBox=\"0 0 16 16\">",
    "<path d=\"M8 .6c.6 0 1 .3 1.3.8l6.4 12c.5 1-.2 2-1.2 2H1.5c-1 0-1.7-1-1.2-2l6.4-12C7 .9 7.4.6 8 .6z\"/>",
    "<path class=\"cut\" d=\"M8 5.6v4M8 12.3v.2\"/></symbol>",
    "<symbol id=\"shape-fail\" viewBox=\"0 0 16 16\">",
    "<path d=\"M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7z\"/>",
    "<path class=\"cut\" d=\"M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6\"/></symbol>",
    "<symbol id=\"shape-unknown\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"8\"/>",
    "<path class=\"cut\" d=\"M5.8 6.2c0-3 4.4-2.9 4.4-.2 0 1.7-2.2 1.6-2.2 3.3M8 12v.2\"/></symbol>",
    "<pattern id=\"unknown\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" ",
    "patternTransform=\"rotate(45)\"><path class=\"hatch\" d=\"M0 0v6\"/></pattern>",
    "</defs></svg>"
);

/// The shape of a state. The word stands beside it, so it has no text of its own.
pub(super) fn icon(verdict: Verdict) -> String {
    let name = verdict.as_str();
    format!("<svg class=\"icon\" aria-hidden=\"true\"><use href=\"#shape-{name}\"/></svg>")
}

/// The icon of the browser's tab, as a document of its own.
pub(super) fn tab_icon(verdict: Option<Verdict>) -> String {
    let (ground, shape, cut) = match verdict {
        Some(Verdict::Pass) => {
            ("#1a7f4b", "<circle cx='8' cy='8' r='8'/>", "M4.4 8.3l2.5 2.5 4.8-5.3")
        }
        Some(Verdict::Warn) => ("#b26b00", "<path d='M8 0l8 15.5H0z'/>", "M8 5.6v4M8 12.3v.2"),
        Some(Verdict::Fail) => (
            "#c4291c",
            "<path d='M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7z'/>",
            "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6",
        ),
        None => (
            "#6f7874",
            "<circle cx='8' cy='8' r='8'/>",
            "M5.8 6.2c0-3 4.4-2.9 4.4-.2 0 1.7-2.2 1.6-2.2 3.3M8 12v.2",
        ),
    };
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><g fill='{ground}'>{shape}\
         </g><path d='{cut}' fill='none' stroke='#fff' stroke-width='2' stroke-linecap='round'/>\
         </svg>"
    )
}

/// A credential's life from its issue to its expiry, with what is left of it.
pub(super) fn life(check: &CredentialReport, now: SystemTime, has_words: bool) -> String {
    if check.never_expires {
        return "<svg class=\"life\" role=\"img\"><title>It does not expire.</title>\
                <rect class=\"left\" width=\"100%\" y=\"13\" height=\"8\" rx=\"4\"/></svg>"
            .to_owned();
    }
    let times = (read(check.issued.as_ref()), read(check.expires.as_ref()));
    let (Some(issued), Some(expires)) = times else {
        return "<svg class=\"life\" role=\"img\"><title>There is no credential yet.</title>\
                <rect class=\"ground\" width=\"100%\" y=\"13\" height=\"8\" rx=\"4\"/>\
                <rect class=\"hatched\" width=\"100%\" y=\"13\" height=\"8\" rx=\"4\"/></svg>"
            .to_owned();
    };
    let whole = expires.duration_since(issued).unwrap_or_default();
    let place = |time: SystemTime| share(time.duration_since(issued).unwrap_or_default(), whole);
    let is_over = expires <= now;
    let passed = if is_over { 100.0 } else { place(now) };
    let next = read(check.next_refresh.as_ref()).filter(|next| *next <= expires && !is_over);

    let mut words = if is_over {
        format!("It expired {}", relative(expires, now))
    } else {
        let left = expires.duration_since(now).unwrap_or_default();
        format!("{} of {} are left", length(left), length(whole))
    };
    let mut drawn = format!(
        "<rect class=\"ground\" width=\"100%\" y=\"13\" height=\"8\" rx=\"4\"/>\
         <rect class=\"left\" x=\"{passed:.1}%\" width=\"{:.1}%\" y=\"13\" height=\"8\" rx=\"4\"/>",
        100.0 - passed
    );
    if let Some(next) = next {
        let place = place(next.max(now));
        words.push_str("; the next refresh is ");
        words.push_str(&if next <= now { "due now".to_owned() } else { relative(next, now) });
        add(
            &mut drawn,
            format_args!(
                "<svg x=\"{place:.1}%\" overflow=\"visible\">\
             <path class=\"next\" d=\"M0 11l6 6-6 6-6-6z\"/></svg>"
            ),
        );
        if has_words {
            drawn.push_str(&label(place, 34, "next"));
        }
    }
    add(
        &mut drawn,
        format_args!(
            "<svg x=\"{passed:.1}%\" overflow=\"visible\"><path class=\"now\" d=\"M0 9v16\"/></svg>"
        ),
    );
    if has_words {
        drawn.push_str(&label(passed, 6, "now"));
    }
    format!("<svg class=\"life\" role=\"img\"><title>{words}.</title>{drawn}</svg>")
}

/// The last day in quarters of an hour: renewals stand up, failures hang down, and what was
/// before the program started is hatched.
pub(super) fn day(
    history: &[QuarterReport],
    now: SystemTime,
    started: Option<SystemTime>,
) -> String {
    let first = first_quarter(now);
    let known_from = started
        .map_or(0.0, |started| share(started.duration_since(first).unwrap_or_default(), DAY));
    let (mut renewals, mut failures) = (String::new(), String::new());
    for quarter in history {
        let Some(start) = parse_time(&quarter.start) else { continue };
        let place = start.duration_since(first).unwrap_or_default().as_secs() / QUARTER.as_secs();
        let place = place.min(QUARTERS - 1);
        if quarter.renewals > 0 {
            add(&mut renewals, format_args!("M{place} 9V1"));
        }
        if quarter.failures > 0 {
            // More of them hang lower, so that a storm looks like one.
            let depth = 12 + quarter.failures.min(4) * 2;
            add(&mut failures, format_args!("M{place} 11V{depth}"));
        }
    }
    let mut drawn = format!(
        "<rect class=\"ground\" x=\"{known_from:.1}%\" width=\"{:.1}%\" height=\"100%\"/>",
        100.0 - known_from
    );
    if known_from > 0.0 {
        add(
            &mut drawn,
            format_args!("<rect class=\"hatched\" width=\"{known_from:.1}%\" height=\"100%\"/>"),
        );
    }
    drawn.push_str("<path class=\"hours\" d=\"M23.5 0v20M47.5 0v20M71.5 0v20\"/>");
    for (class, path) in [("renewed", renewals), ("failed", failures)] {
        if !path.is_empty() {
            add(&mut drawn, format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
        }
    }
    // The hatch must not be stretched, the quarters must: so each has its own coordinates.
    let (ground, quarters) = drawn.split_at(drawn.find("<path").unwrap_or(drawn.len()));
    format!(
        "<svg class=\"day\" role=\"img\"><title>{}.</title>{ground}\
         <svg viewBox=\"-.5 0 96 20\" preserveAspectRatio=\"none\">{quarters}</svg></svg>",
        day_in_words(history, now, started)
    )
}

/// What came of the fetches of a day, and of how much of a day one knows.
fn day_in_words(history: &[QuarterReport], now: SystemTime, started: Option<SystemTime>) -> String {
    let happened = what_happened(history);
    match started.and_then(|started| now.duration_since(started).ok()) {
        Some(up) if up < DAY => {
            format!("{happened} in the {} since the start; nothing is known before", length(up))
        }
        _ => format!("{happened} in the last 24 h"),
    }
}

/// What came of the fetches of a day.
pub(super) fn what_happened(history: &[QuarterReport]) -> String {
    let sum = |of: fn(&QuarterReport) -> u32| {
        history.iter().map(|quarter| of(quarter) as usize).sum::<usize>()
    };
    let some = |number: usize, noun: &str| match number {
        0 => format!("no {noun}"),
        number => count(number, noun),
    };
    let (renewals, failures) = (sum(|one| one.renewals), sum(|one| one.failures));
    format!("{}, {}", some(renewals, "renewal"), some(failures, "failure"))
}

/// A word above or below a mark; at the ends it must not be cut off.
fn label(place: f64, height: u32, word: &str) -> String {
    let anchor = match place {
        ..4.0 => "start",
        4.0..=96.0 => "middle",
        _ => "end",
    };
    format!("<text x=\"{place:.1}%\" y=\"{height}\" text-anchor=\"{anchor}\">{word}</text>")
}

/// When the oldest of the quarters that are drawn began; the newest is the one of `now`.
fn first_quarter(now: SystemTime) -> SystemTime {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let quarter = seconds / QUARTER.as_secs();
    SystemTime::UNIX_EPOCH
        + QUARTER * u32::try_from((quarter + 1).saturating_sub(QUARTERS)).unwrap_or(0)
}

/// In percent, from 0 to 100.
fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        return 100.0;
    }
    (part.as_secs_f64() / whole.as_secs_f64() * 100.0).clamp(0.0, 100.0)
}

fn read(text: Option<&String>) -> Option<SystemTime> {
    parse_time(text?)
}

const DAY: Duration = Duration::from_hours(24);
