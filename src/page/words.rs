//! Words and times for the page, safe to stand in HTML.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use crate::status::parse_time;

/// Text as HTML shows it, in an element or in a quoted attribute.
///
/// Characters that nobody sees could only deceive, so they are made visible.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(' '),
            hidden if hidden.is_control() || turns_text_around(hidden) => safe.push('\u{fffd}'),
            plain => safe.push(plain),
        }
    }
    safe
}

/// Puts more to a text.
pub(super) fn add(text: &mut String, words: fmt::Arguments<'_>) {
    // Writing into a string does not fail.
    let _ = text.write_fmt(words);
}

/// A sentence in which `words in backticks` are to be typed.
pub(super) fn prose(text: &str) -> String {
    let pieces: Vec<_> = text.split('`').collect();
    if pieces.len().is_multiple_of(2) {
        return escape(text);
    }
    let shown = |(index, piece): (usize, &&str)| {
        if index.is_multiple_of(2) {
            escape(piece)
        } else {
            format!("<code>{}</code>", escape(piece))
        }
    };
    pieces.iter().enumerate().map(shown).collect()
}

/// A name that an `id` and a link to it can have: different for different texts.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') {
            slug.push(char::from(byte));
        } else {
            add(&mut slug, format_args!("_{byte:02x}"));
        }
    }
    slug
}

/// "1 file", "2 files".
pub(super) fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

/// The two largest units of a duration.
pub(super) fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) if minutes < 10 => format!("{minutes} min {seconds} s"),
        (0, 0, minutes, _) => format!("{minutes} min"),
        (0, hours, 0, _) => format!("{hours} h"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, 0, ..) => format!("{days} d"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

/// "in 5 min" or "5 min ago".
pub(super) fn relative(time: SystemTime, now: SystemTime) -> String {
    match time.duration_since(now) {
        Ok(ahead) if ahead.is_zero() => "now".to_owned(),
        Ok(ahead) => format!("in {}", length(ahead)),
        Err(behind) => format!("{} ago", length(behind.duration())),
    }
}

/// A time of the report, for machines, with its distance from `now` for people.
pub(super) fn when(text: &str, now: SystemTime) -> String {
    stamp(text, |time| relative(time, now))
}

/// How long ago a time of the report was, for machines and for people.
pub(super) fn lasting(text: &str, now: SystemTime) -> String {
    stamp(text, |time| length(now.duration_since(time).unwrap_or_default()))
}

/// The hour of a time, with its day if that is another one than `today`.
pub(super) fn hour(text: &str, today: &str) -> String {
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(hour)) if today.starts_with(day) => escape(hour),
        (Some(day), Some(hour)) => escape(&format!("{} {hour}", day.get(5..).unwrap_or(day))),
        _ => escape(text),
    }
}

fn stamp(text: &str, words: impl Fn(SystemTime) -> String) -> String {
    let exact = escape(text);
    let Some(time) = parse_time(text) else { return exact };
    format!("<time datetime=\"{exact}\" title=\"{}\">{}</time>", readable(text), words(time))
}

/// A time in full, without the letters that only machines need.
pub(super) fn readable(text: &str) -> String {
    escape(text).replacen('T', " ", 1).replacen('Z', " UTC", 1)
}

/// Characters that make text run the other way, so that it reads as something else.
fn turns_text_around(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
