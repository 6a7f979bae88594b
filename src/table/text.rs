//! Text that comes from elsewhere: made harmless, measured, shortened, wrapped.

use unicode_width::UnicodeWidthChar;

/// Text without anything that a terminal would obey, or that has no place of its own
/// on a line.
pub(super) fn harmless(text: &str, has_unicode: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_whitespace() {
            clean.push(' ');
        } else if c.width().is_none() || is_invisible(c) || !(has_unicode || c.is_ascii()) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// What is not seen, or changes how what stands beside it is seen.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// How many columns it takes, as a terminal counts: each character for itself.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The first characters that fit.
pub(super) fn head(text: &str, limit: usize) -> &str {
    let mut used = 0;
    for (index, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > limit {
            return &text[..index];
        }
    }
    text
}

/// The last characters that fit.
fn tail(text: &str, limit: usize) -> &str {
    let mut used = 0;
    for (index, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > limit {
            return &text[index + c.len_utf8()..];
        }
    }
    text
}

/// A text that is cut at its end to fit.
pub(super) fn cut(text: &str, limit: usize, ellipsis: &str) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    let kept = head(text, limit.saturating_sub(width(ellipsis)));
    format!("{}{}", kept.trim_end(), head(ellipsis, limit))
}

/// A host that is shortened to fit. What all hosts of a cloud share goes first, so that
/// account and region stay as long as they can; then the middle.
pub(super) fn shorten_host(host: &str, limit: usize, ellipsis: &str) -> String {
    let mut short = host.to_owned();
    for shared in SHARED_ENDS {
        if width(&short) > limit
            && let Some(rest) = short.strip_suffix(shared)
        {
            short = format!("{rest}{ellipsis}");
        }
    }
    if width(&short) > limit
        && let Some((account, region)) = short.split_once(SHARED_MIDDLE)
    {
        // A part of the account is enough to know it by; a part of the region is not.
        let region = format!("{ellipsis}{region}");
        let room = limit.saturating_sub(width(&region));
        if room >= LEAST_ACCOUNT {
            short = format!("{}{region}", head(account, room));
        }
    }
    if width(&short) <= limit {
        return short;
    }
    let room = limit.saturating_sub(width(ellipsis));
    let (first, last) = (head(&short, room - room / 2), tail(&short, room / 2));
    head(&format!("{first}{ellipsis}{last}"), limit).to_owned()
}

/// The lines of a text, broken between words; within a word only if it is longer than
/// a line. The first line has less room than the others, as something stands before it.
pub(super) fn wrap(text: &str, first: usize, limit: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut room = first;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let gap = usize::from(!line.is_empty());
        if width(&line) + gap + width(word) <= room {
            line.push_str(&" "[..gap]);
            line.push_str(word);
            continue;
        }
        if !line.is_empty() || room < limit {
            lines.push(std::mem::take(&mut line));
            room = limit;
        }
        let mut rest = word;
        while width(rest) > limit {
            let (part, more) = rest.split_at(end_of_part(rest, limit));
            lines.push(part.to_owned());
            rest = more;
        }
        line.push_str(rest);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Where to break a word that is longer than a line: after a sign, if there is one in
/// the second half of the line.
fn end_of_part(word: &str, limit: usize) -> usize {
    let all = head(word, limit);
    match all.rfind(['.', '/', ':', '-', '_', ',']) {
        Some(sign) if width(&all[..sign]) * 2 >= limit => sign + 1,
        // One character at least, or this would never end.
        _ => all.len().max(word.chars().next().map_or(0, char::len_utf8)),
    }
}

const SHARED_ENDS: &[&str] = &[".amazonaws.com.cn", ".amazonaws.com", ".on.aws", ".pkg.dev"];

const SHARED_MIDDLE: &str = ".dkr.ecr.";

const LEAST_ACCOUNT: usize = 4;
