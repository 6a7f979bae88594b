//! Runs a program that gives a credential: with limits for its time and its output, in an environment without our
//! secrets, and with nothing left of it afterwards.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// A program, its arguments, and what it is told.
#[derive(Debug)]
pub struct Program<'a> {
    /// A path, or a name that is looked up in `PATH`.
    pub name: &'a str,
    /// Its arguments.
    pub arguments: &'a [String],
    /// What it finds in its environment, beside what has no secrets in it.
    pub environment: Vec<(OsString, OsString)>,
    /// What it reads.
    pub input: SecretString,
}

/// What a program had to say.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub output: SecretString,
    /// The beginning of its complaints, without anything that it also printed.
    pub complaints: String,
}

impl Program<'_> {
    /// Runs it. When this is dropped, or the limit is reached, it is killed with all that it started.
    ///
    /// # Errors
    ///
    /// If it cannot be run, does not end, or prints without end. How it ended is not judged here.
    pub async fn run(&self, limit: Duration) -> Result<Said, ProgramError> {
        let name = || self.name.to_owned();
        let cannot_run = |source| ProgramError::CannotRun { name: name(), source };
        let mut child = Command::new(self.name)
            .args(self.arguments)
            .env_clear()
            .envs(kept_environment())
            .envs(way_out())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot_run)?;
        let group = Group::of(child.id());
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let work = async {
            let told = async {
                if let Some(mut stdin) = stdin {
                    // One that does not read it says so by what it does then.
                    let _ = stdin.write_all(self.input.expose_secret().as_bytes()).await;
                }
            };
            let mut printed = Heard::new(LONGEST_OUTPUT);
            let mut complained = Heard::new(LONGEST_COMPLAINT);
            let ended = async {
                let mut status = None;
                let hearing = async {
                    tokio::join!(told, printed.hear(stdout), complained.hear(stderr));
                };
                tokio::pin!(hearing);
                tokio::select! {
                    () = &mut hearing => {}
                    ended = child.wait() => {
                        status = Some(ended);
                        // What it started may hold its output open for ever.
                        drop(timeout(LAST_WORDS, &mut hearing).await);
                    }
                }
                match status {
                    Some(status) => status,
                    None => child.wait().await,
                }
            };
            let status = ended.await.map_err(cannot_run)?;
            if printed.is_too_much {
                return Err(ProgramError::TooMuch { name: name() });
            }
            let output = SecretString::from(String::from_utf8_lossy(&printed.text).into_owned());
            let complaints = String::from_utf8_lossy(&complained.text);
            let given = self.environment.iter().filter_map(|(_, value)| value.to_str());
            let complaints =
                harmless(&complaints, output.expose_secret().split(is_edge).chain(given));
            Ok(Said { status, output, complaints })
        };
        let said = timeout(limit, work).await;
        drop(group);
        said.unwrap_or_else(|_| Err(ProgramError::Hangs { name: name(), limit }))
    }
}

/// What came out of a pipe, as far as there is room.
struct Heard {
    text: Vec<u8>,
    longest: usize,
    is_too_much: bool,
}

impl Heard {
    fn new(longest: usize) -> Self {
        Self { text: Vec::new(), longest, is_too_much: false }
    }

    /// Reads to the end. What is too much is read all the same, and forgotten: one that cannot go on writing does not
    /// end.
    async fn hear(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut piece = vec![0_u8; PIECE];
        while let Ok(length @ 1..) = pipe.read(&mut piece).await {
            let room = self.longest - self.text.len();
            self.text.extend_from_slice(&piece[..length.min(room)]);
            self.is_too_much |= length > room;
        }
        // What went through here was a secret.
        piece.fill(0);
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.text.fill(0);
    }
}

/// A text for a log: nothing in it is one of the `secrets` or looks like one, and nothing is an order to a terminal.
pub fn harmless<'a>(text: &str, secrets: impl Iterator<Item = &'a str>) -> String {
    let secrets: Vec<_> = secrets.filter(|secret| secret.len() >= SHORTEST_SECRET).collect();
    let mut text = text.to_owned();
    for secret in &secrets {
        text = text.replace(secret, "…");
    }
    let mut words: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        let before = words.last().map(|word| word.trim_end_matches(':').to_ascii_lowercase());
        let follows = before.is_some_and(|before| ANNOUNCE.contains(&before.as_str()));
        words.push(if follows || may_be_secret(word) { "…" } else { word });
    }
    let mut text = words.join(" ").replace(char::is_control, "\u{fffd}");
    if text.len() > LONGEST_COMPLAINT {
        let end = (0..=LONGEST_COMPLAINT).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

/// Whether a word could be a token: long, with digits and letters, and neither a host nor a path.
fn may_be_secret(word: &str) -> bool {
    let is_token = |part: &str| {
        let has = |is: fn(&u8) -> bool| part.bytes().any(|byte| is(&byte));
        let is_host =
            part.contains('.') && part.split('.').all(|label| label.len() < LONGEST_WORD / 2);
        part.len() >= SHORTEST_TOKEN
            && has(u8::is_ascii_digit)
            && has(u8::is_ascii_alphabetic)
            && !part.starts_with('/')
            && (!is_host || part.starts_with("eyJ"))
    };
    word.len() > LONGEST_WORD
        || word.split(|sign| is_edge(sign) || ":?&@".contains(sign)).any(is_token)
}

fn is_edge(sign: char) -> bool {
    sign.is_whitespace() || "\"'`,;(){}[]<>=".contains(sign)
}

/// What leads out of this machine, for programs that go there: by which proxy, trusting whom.
fn way_out() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| WAY_OUT.contains(&name.to_ascii_uppercase().as_str()))
    })
}

/// What a program needs to find its way, and what has no secrets in it.
pub fn kept_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| KEPT.contains(&name) || name.starts_with("LC_"))
    })
}

/// A program and what it started, as far as that stayed in its process group. It is killed when this is dropped.
#[derive(Debug)]
pub struct Group(Option<Pid>);

impl Group {
    /// Of a program that leads a group of its own.
    #[must_use]
    pub fn of(id: Option<u32>) -> Self {
        Self(id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// Lets it be.
    pub fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended this very moment.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// How a program ended, in words.
#[must_use]
pub fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Why a program has nothing to say.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// There is no such program.
    #[error("{name} cannot be run: {source}")]
    CannotRun {
        /// Which.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It did not end.
    #[error("{name} did not end within {}, and was killed", humantime::format_duration(*limit))]
    Hangs {
        /// Which.
        name: String,
        /// How long it had.
        limit: Duration,
    },
    /// It printed more than any credential is long.
    #[error("{name} printed more than 256 KiB, which is no credential")]
    TooMuch {
        /// Which.
        name: String,
    },
}

const KEPT: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
];

const WAY_OUT: [&str; 8] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
];

/// What comes before a secret.
const ANNOUNCE: [&str; 6] = ["basic", "bearer", "token", "password", "secret", "authorization"];

const LONGEST_OUTPUT: usize = 256 * 1024;
const LONGEST_COMPLAINT: usize = 2048;
const PIECE: usize = 16 * 1024;

/// What is shorter stands in many a sentence.
const SHORTEST_SECRET: usize = 6;

/// What is shorter and not known to be a secret may be shown.
const SHORTEST_TOKEN: usize = 16;

/// Longer than most addresses, and shorter than any token.
const LONGEST_WORD: usize = 100;

/// How long the output of one that has ended is waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, limit: Duration) -> Result<Said, ProgramError> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let input = SecretString::from("told");
        let environment = vec![("EXTRA".into(), "here".into())];
        Program { name: "sh", arguments: &arguments, environment, input }.run(limit).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn it_is_told_and_heard() {
        let said = sh("cat; echo \" $EXTRA\"; echo no >&2; exit 3", LONG).await.unwrap();
        assert_eq!(said.output.expose_secret(), "told here\n");
        assert_eq!((said.complaints.as_str(), said.status.code()), ("no", Some(3)));
    }

    #[tokio::test]
    async fn its_environment_has_nothing_of_ours_but_what_it_needs() {
        // cargo sets these for whoever is tested.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let said = sh("env", LONG).await.unwrap();
        let names = said.output.expose_secret();
        assert!(names.contains("PATH=") && names.contains("EXTRA=here"), "{names}");
        assert!(!names.contains("CARGO_"), "{names}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let script = format!("(sleep 2; touch {}) & sleep 60", mark.display());
        let error = sh(&script, Duration::from_millis(300)).await.unwrap_err();
        assert!(error.to_string().contains("did not end within 300ms"), "{error}");
        crate::clock::Clock::system().sleep(Duration::from_secs(3)).await;
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn what_it_leaves_running_does_not_hold_us_up() {
        let said = sh("echo done; sleep 60 &", LONG).await.unwrap();
        assert_eq!(said.output.expose_secret(), "done\n");
    }

    #[tokio::test]
    async fn one_that_prints_without_end_is_no_credential() {
        let error = sh("head -c 1000000 /dev/zero", LONG).await.unwrap_err();
        assert!(error.to_string().contains("more than 256 KiB"), "{error}");
        let said = sh("head -c 1000000 /dev/zero >&2", LONG).await.unwrap();
        assert!(said.complaints.len() < 10_000);
    }

    #[tokio::test]
    async fn its_complaints_are_told_without_its_secrets() {
        let script = "echo '{\"Secret\":\"s3cr3t-word\"}'; echo \"cannot use 's3cr3t-word' \\033[31mnow\" >&2";
        let said = sh(script, LONG).await.unwrap();
        assert!(!said.complaints.contains("s3cr3t"), "{}", said.complaints);
        assert!(said.complaints.starts_with("cannot use '…'"), "{}", said.complaints);
        assert!(!said.complaints.contains('\u{1b}'));
    }

    #[test]
    fn what_looks_like_a_token_is_not_shown() {
        let shown = |text: &str| harmless(text, ["pa;ss,wo=rd(12)x"].into_iter());
        for text in [
            "it is pa;ss,wo=rd(12)x here",
            "> Authorization: Basic c29tZW9uZTp3b3Jk",
            "+ curl -H PRIVATE-TOKEN:glpat-abcdefgh12345678 https://gitlab.example.com",
            "Bearer short",
            "https://user:abcdefgh12345678@example.com/path",
            "token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        ] {
            let shown = shown(text);
            for secret in ["pa;ss", "c29tZW", "glpat", "short", "abcdefgh1", "eyJ"] {
                assert!(!shown.contains(secret), "{text}: {shown}");
            }
        }
        for text in [
            "no such host: 123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "cannot open /usr/lib/x86_64-linux-gnu/libc.so.6: no such file",
            "credentials not found in native keychain",
        ] {
            assert_eq!(shown(text), text);
        }
        assert!(shown(&"word ".repeat(10_000)).len() < 3000);
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let program =
            Program { name: "/no/such", arguments: &[], environment: Vec::new(), input: "".into() };
        let error = program.run(LONG).await.unwrap_err();
        assert!(error.to_string().starts_with("/no/such cannot be run"), "{error}");
    }
}
