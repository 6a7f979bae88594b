//! What a table is drawn on: how wide it is, and what it can show.

use std::ffi::OsString;
use std::fmt::Write;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use clap::builder::styling::{AnsiColor, Style};
use rustix::termios::tcgetwinsize;

use super::text;
use crate::status::Verdict;

/// What a table is drawn on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many columns there are; without an end if nothing is said.
    pub width: Option<usize>,
    /// How many lines there are; without an end if nothing is said.
    pub height: Option<usize>,
    /// Whether it shows colours.
    pub has_colors: bool,
    /// Whether it shows more than ASCII.
    pub has_unicode: bool,
    /// Whether what stands on it can be replaced.
    pub can_redraw: bool,
}

impl Page {
    /// The page that a stream leads to. Colours are there if it is a terminal, unless
    /// the user says otherwise: by `wants_colors`, else by a variable
    /// (<https://no-color.org>, <https://bixense.com/clicolors>).
    #[must_use]
    pub fn of(
        stream: &(impl AsFd + IsTerminal),
        wants_colors: Option<bool>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_terminal = stream.is_terminal();
        let is_able = is_terminal && variable("TERM").is_some_and(|term| term != "dumb");
        let by_itself = if variable("NO_COLOR").is_some() {
            false
        } else if variable("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
            true
        } else {
            is_able && variable("CLICOLOR").is_none_or(|value| value != "0")
        };
        let size = is_terminal.then(|| tcgetwinsize(stream).ok()).flatten();
        let number = |name| variable(name)?.to_str()?.parse().ok();
        let known = |number: &usize| *number > 0;
        let columns = size.map(|size| usize::from(size.ws_col)).filter(known);
        let rows = size.map(|size| usize::from(size.ws_row)).filter(known);
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| variable(name));
        let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
        Self {
            width: is_terminal.then(|| {
                columns.or_else(|| number("COLUMNS").filter(known)).unwrap_or(USUAL_WIDTH)
            }),
            height: rows.filter(|_| is_able),
            has_colors: wants_colors.unwrap_or(by_itself),
            has_unicode: locale.contains("utf-8") || locale.contains("utf8"),
            can_redraw: is_able,
        }
    }

    /// The lines as text.
    pub(super) fn draw(&self, lines: Vec<Line>) -> String {
        let mut text = String::new();
        for mut line in lines {
            line.fit(self.width.unwrap_or(usize::MAX));
            line.draw(&mut text, self.has_colors);
            text.push('\n');
        }
        text
    }

    /// A text after `first`, wrapped at words; the lines after the first start in the
    /// column `indent`.
    pub(super) fn words(&self, first: Line, indent: usize, look: Look, words: &str) -> Vec<Line> {
        let Some(width) = self.width else {
            let mut line = first;
            line.push(look, words);
            return vec![line];
        };
        let left = |start: usize| width.saturating_sub(start).max(1);
        let mut wrapped = text::wrap(words, left(first.width()), left(indent)).into_iter();
        let mut line = first;
        line.push(look, &wrapped.next().unwrap_or_default());
        let mut lines = vec![line];
        for words in wrapped {
            let mut line = Line::new(Look::Plain, &" ".repeat(indent));
            line.push(look, &words);
            lines.push(line);
        }
        lines
    }

    /// The sign and the word for how something is.
    pub(super) fn state(&self, verdict: Verdict) -> Line {
        Line::new(look(verdict), &format!("{} {}", self.symbol(verdict), verdict.as_str()))
    }

    pub(super) fn symbol(&self, verdict: Verdict) -> &'static str {
        match (verdict, self.has_unicode) {
            (Verdict::Pass, true) => "✓",
            (Verdict::Pass, false) => "+",
            (Verdict::Warn, _) => "!",
            (Verdict::Fail, true) => "✗",
            (Verdict::Fail, false) => "x",
        }
    }

    pub(super) fn ellipsis(&self) -> &'static str {
        if self.has_unicode { "…" } else { ".." }
    }

    pub(super) fn harmless(&self, text: &str) -> String {
        text::harmless(text, self.has_unicode)
    }
}

/// How a text looks. The words say all without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
}

/// How a verdict looks.
pub(super) fn look(verdict: Verdict) -> Look {
    match verdict {
        Verdict::Pass => Look::Good,
        Verdict::Warn => Look::Warning,
        Verdict::Fail => Look::Bad,
    }
}

impl Look {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Bold => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// A line, in pieces that each have a look.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(Vec<(Look, String)>);

impl Line {
    pub(super) fn new(look: Look, text: &str) -> Self {
        Self(vec![(look, text.to_owned())])
    }

    pub(super) fn push(&mut self, look: Look, text: &str) {
        self.0.push((look, text.to_owned()));
    }

    pub(super) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text::width(text)).sum()
    }

    /// Fills it with blanks.
    pub(super) fn pad_to(&mut self, width: usize) {
        let blanks = width.saturating_sub(self.width());
        self.push(Look::Plain, &" ".repeat(blanks));
    }

    /// No terminal breaks a line that is no wider than this.
    fn fit(&mut self, limit: usize) {
        let mut left = limit;
        for (_, text) in &mut self.0 {
            let kept = text::head(text, left).len();
            text.truncate(kept);
            left -= text::width(text);
        }
        // Nothing stands behind the last word.
        while let Some((_, text)) = self.0.last_mut() {
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                break;
            }
            self.0.pop();
        }
    }

    fn draw(&self, text: &mut String, has_colors: bool) {
        for (look, piece) in &self.0 {
            let style = if has_colors { look.style() } else { Style::new() };
            // Writing into a string does not fail.
            let _ = write!(text, "{style}{piece}{style:#}");
        }
    }
}

/// Of a terminal that does not say.
const USUAL_WIDTH: usize = 80;
