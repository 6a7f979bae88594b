//! `freshcreds status --watch`: asks again and again, and shows each answer in the
//! place of the one before.

use std::future::pending;
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Signal as Stop, getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::Clock;
use crate::http::{self, Address};
use crate::status::Report;
use crate::table::{self, Page};

/// How each answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a table.
    Table {
        /// With colours or without, if somebody said so.
        colors: Option<bool>,
    },
    /// As a line of JSON.
    Json,
}

/// Shows how the daemon on `address` is, every so often, until a signal ends it or
/// the reader goes away.
///
/// # Errors
///
/// If signals cannot be caught, or what is shown cannot be written.
pub async fn watch(
    address: &Address,
    every: Duration,
    form: Form,
    clock: &Clock,
) -> io::Result<()> {
    let mut view = View { form, last: None, why: None, has_shown: false };
    let is_in_place = view.page().is_some_and(|page| page.can_redraw);
    let mut signals = Signals::new(is_in_place)?;
    // From here on a signal ends the loop, and the screen is left in any case.
    let _screen = is_in_place.then(Screen::enter).transpose()?;
    let result = turn(&mut view, &mut signals, address, every, clock).await;
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

async fn turn(
    view: &mut View,
    signals: &mut Signals,
    address: &Address,
    every: Duration,
    clock: &Clock,
) -> io::Result<()> {
    loop {
        {
            let mut answer = pin!(http::fetch(address));
            let answer = loop {
                tokio::select! {
                    answer = &mut answer => break answer,
                    event = signals.next() => match event {
                        Event::End => return Ok(()),
                        event => view.heed(event)?,
                    },
                }
            };
            match answer {
                Ok(report) => (view.last, view.why) = (Some(report), None),
                Err(error) => view.why = Some(error.to_string()),
            }
        }
        view.show()?;
        let mut pause = pin!(clock.sleep(every));
        loop {
            tokio::select! {
                () = &mut pause => break,
                event = signals.next() => match event {
                    Event::End => return Ok(()),
                    event => view.heed(event)?,
                },
            }
        }
    }
}

/// What is shown.
struct View {
    form: Form,
    last: Option<Report>,
    /// Why there is no newer answer.
    why: Option<String>,
    has_shown: bool,
}

impl View {
    /// The page as it is now: a terminal's size changes.
    fn page(&self) -> Option<Page> {
        let Form::Table { colors } = self.form else { return None };
        Some(Page::of(&io::stdout(), colors, |name| std::env::var_os(name)))
    }

    fn show(&mut self) -> io::Result<()> {
        let text = match (self.page(), &self.why, &self.last) {
            (None, None, Some(report)) => serde_json::to_string(report)? + "\n",
            // A line that is no report would be in the way of who reads reports.
            (None, why, _) => {
                let why = why.as_deref().unwrap_or_default();
                // Nobody may be there to read this either.
                let _ = writeln!(io::stderr(), "error: {why}");
                String::new()
            }
            (Some(page), why, last) => {
                let text = match (why, last) {
                    (None, Some(report)) => table::table(report, &page),
                    (why, last) => {
                        let why = why.as_deref().unwrap_or_default();
                        table::without_answer(why, last.as_ref(), &page)
                    }
                };
                match (page.can_redraw, self.has_shown) {
                    (true, _) => in_place(&text),
                    (false, false) => text,
                    (false, true) => format!("\n{text}"),
                }
            }
        };
        self.has_shown = true;
        write(&text)
    }

    fn heed(&mut self, event: Event) -> io::Result<()> {
        if event == Event::Stop {
            write(LEAVE)?;
            // It goes on here when somebody says `fg`.
            kill_process(getpid(), Stop::STOP)?;
            write(ENTER)?;
        }
        let has_something = self.last.is_some() || self.why.is_some();
        if has_something { self.show() } else { Ok(()) }
    }
}

/// The lines, each in the place of the one before it. Nothing is cleared before what
/// replaces it is there, so nothing flickers; and not after it, as the cursor behind a
/// full line still stands on its last character.
fn in_place(text: &str) -> String {
    let text = text.trim_end();
    let (lines, last) =
        text.rsplit_once('\n').map_or((None, text), |(lines, last)| (Some(lines), last));
    let mut frame = HOME.to_owned();
    for line in lines.into_iter().flat_map(|lines| lines.split('\n')) {
        frame.extend([CLEAR_LINE, line, "\n"]);
    }
    frame.extend([CLEAR_REST, last]);
    frame
}

/// The other screen of a terminal, without a cursor, until it is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        write(ENTER)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = write(LEAVE);
    }
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    End,
    Resize,
    Stop,
}

/// The signals that there is something to do about.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Those of a terminal: it hangs up, Ctrl-\, it changes its size, Ctrl-Z.
    terminal: Option<[Signal; 4]>,
}

impl Signals {
    fn new(is_in_place: bool) -> io::Result<Self> {
        let terminal = || -> io::Result<_> {
            let stop = SignalKind::from_raw(Stop::TSTP.as_raw());
            let hangup = signal(SignalKind::hangup())?;
            let quit = signal(SignalKind::quit())?;
            Ok([hangup, quit, signal(SignalKind::window_change())?, signal(stop)?])
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            terminal: is_in_place.then(terminal).transpose()?,
        })
    }

    async fn next(&mut self) -> Event {
        let Self { interrupt, terminate, terminal } = self;
        let of_terminal = async {
            let Some([hangup, quit, resize, stop]) = terminal else { return pending().await };
            tokio::select! {
                _ = hangup.recv() => Event::End,
                _ = quit.recv() => Event::End,
                _ = resize.recv() => Event::Resize,
                _ = stop.recv() => Event::Stop,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Event::End,
            _ = terminate.recv() => Event::End,
            event = of_terminal => event,
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Another screen, so that what was there before comes back; and no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cleared_before_it_is_written_and_what_is_below_before_the_last() {
        assert_eq!(in_place("one\n\ntwo\n"), "\x1b[H\x1b[Kone\n\x1b[K\n\x1b[Jtwo");
        assert_eq!(in_place("one\n"), "\x1b[H\x1b[Jone");
    }
}
