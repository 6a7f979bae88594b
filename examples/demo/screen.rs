//! Shows what happens: lines that stay, and below them a picture that is drawn
//! anew where there is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// Standard output.
pub(crate) struct Screen {
    is_terminal: bool,
    /// How many lines the picture has that is on the terminal.
    height: usize,
    last: Option<Instant>,
}

impl Screen {
    /// With nothing on it.
    pub(crate) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), height: 0, last: None }
    }

    /// Writes a line that stays.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        self.erase(&mut output)?;
        writeln!(output, "{line}")
    }

    /// Draws the picture: in place of the last one on a terminal, elsewhere from
    /// time to time.
    pub(crate) fn draw(&mut self, picture: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        if self.is_terminal {
            self.erase(&mut output)?;
            self.height = picture.lines().count();
            // A line that is too long is cut rather than broken in two, or the
            // count of lines would be wrong.
            write!(output, "{NO_WRAP}{}\n{WRAP}", picture.trim_end())?;
            return output.flush();
        }
        if self.last.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.last = Some(Instant::now());
            writeln!(output, "\n{}\n", picture.trim_end())?;
        }
        Ok(())
    }

    fn erase(&mut self, output: &mut impl Write) -> io::Result<()> {
        match std::mem::take(&mut self.height) {
            0 => Ok(()),
            // Up, and clear from there to the end.
            height => write!(output, "\x1b[{height}A\r\x1b[J"),
        }
    }
}

const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// How long a picture is good for where it cannot be drawn over.
const PAUSE: Duration = Duration::from_secs(5);
