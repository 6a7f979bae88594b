//! The command line: commands and flags, each flag with its variable.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use secrecy::SecretString;

use crate::config::Options;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "freshcreds",
    version,
    about = "Keeps container-registry credentials fresh",
    long_about = "Keeps container-registry credentials fresh.\n\n\
        Fetches short-lived tokens of Amazon ECR, Google's Artifact Registry, Azure's and others \
        before they expire, writes them into docker's config.json atomically, and tells on an \
        HTTP endpoint how fresh each of them is.",
    after_long_help = EXAMPLES,
    styles = STYLES,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What all commands share.
    #[command(flatten)]
    pub common: Common,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep the credentials of the named registries fresh until a signal ends it
    ///
    /// SIGTERM and SIGINT end it in order (a write under way is finished), a second one ends it
    /// at once. SIGHUP makes it read its settings again: what is unchanged is left alone, what
    /// is new is fetched, what is gone is logged out. SIGUSR1 makes it fetch every credential
    /// now.
    ///
    /// Exits with 0 after an orderly end, 1 if it ended otherwise, 2 if it could not start with
    /// these settings.
    Run(Hosts),
    /// Fetch and write every credential once, for an init container, cron or a systemd timer
    ///
    /// An issuer that fails for a passing reason is asked up to three times. Exits with 0 if
    /// every credential is in every file, 1 if one is not, 2 if the settings are wrong.
    Once(OnceArguments),
    /// Ask the running daemon whether every credential is fresh; for HEALTHCHECK
    ///
    /// Prints what is wrong, if anything is. A settings file that is broken by now is only a
    /// warning: the daemon goes on with what it read before. Exits with 0 if all is ready, 1 if
    /// something is missing or stale or nobody answers, 2 if the settings are wrong.
    Check(CheckArguments),
    /// Remove every entry that freshcreds wrote, from every file, and nothing else
    ///
    /// What was written is known from the state folder. A daemon that runs would write it again,
    /// so stop it first. Exits with 0 if nothing of ours is left, 1 if something is, 2 if the
    /// settings are wrong.
    Logout,
    /// Try each step of the way for each registry, and say what to do where it ends
    ///
    /// As what the registry is recognised, whose identity is found and where, whether a token can be had
    /// and how long it lives, whether the registry takes it; which permission is missing, with the
    /// statement that gives it; whether the files can be written, who reads them, and what is in the
    /// way. Writes no credential, and needs no daemon.
    ///
    /// Exits with 0 if all is well, 1 if something is not, 2 if the settings are wrong.
    Doctor(DoctorArguments),
    /// Show what the running daemon knows: each registry's credential, each file
    ///
    /// The bar is a credential's life from its issue to its expiry: full is what is left, and
    /// the mark in it is where the next one is fetched.
    ///
    /// Exits as `check` does; with --watch, 0 after Ctrl-C or SIGTERM, as `run` does.
    Status(StatusArguments),
}

/// What is kept fresh.
#[derive(Debug, Args)]
pub struct Hosts {
    /// Hosts of registries, as in 123456789012.dkr.ecr.eu-west-1.amazonaws.com or
    /// europe-docker.pkg.dev; kind, account and region are read off the name. Those of the
    /// settings file if there is none. In the variable, commas or blanks stand between them
    #[arg(value_name = "HOST", env = "FRESHCREDS_REGISTRIES", value_delimiter = ',')]
    pub hosts: Vec<String>,
}

/// What to do once.
#[derive(Debug, Args)]
pub struct OnceArguments {
    /// What is kept fresh
    #[command(flatten)]
    pub hosts: Hosts,

    /// How long to wait for credentials that cannot be had at once, as in 2m: at a machine's
    /// start, the network and the identity may come later
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        env = "FRESHCREDS_WAIT",
        value_parser = duration
    )]
    pub wait: Duration,
}

/// What to ask for.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The registries to ask about; all of them if there is none
    #[arg(value_name = "HOST")]
    pub hosts: Vec<String>,

    /// How long the credentials must still be good, as in 2h: for a build that takes so long
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub min_life: Duration,

    /// How long to wait until it is so, as in 5m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
}

/// What to try.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// What to try
    #[command(flatten)]
    pub hosts: Hosts,

    /// Print a document instead of a text
    #[arg(long)]
    pub json: bool,
}

/// How to show the status.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Print what /status answers instead of a table; with --watch, a line each time
    #[arg(long)]
    pub json: bool,

    /// Show it again every few seconds, until Ctrl-C [default: 2]
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = seconds
    )]
    pub watch: Option<Duration>,

    /// When to use colours; `auto`: on a terminal, unless `NO_COLOR` or `CLICOLOR_FORCE` says
    /// otherwise
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// Where they are of use.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// Whether the user wants them, if they said so.
    #[must_use]
    pub fn wanted(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Always => Some(true),
            Self::Never => Some(false),
        }
    }
}

/// What all commands share.
#[derive(Debug, Args)]
pub struct Common {
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE", env = "FRESHCREDS_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    /// A docker config.json or podman auth.json to keep fresh; can be given several times, in
    /// the variable with commas [default: the file
    /// that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]
    #[arg(
        long,
        value_name = "FILE",
        env = "FRESHCREDS_DOCKER_CONFIG",
        value_delimiter = ',',
        global = true
    )]
    pub docker_config: Vec<PathBuf>,

    /// A folder to remember in what was written, or `off`: for `logout`, and for restarts that
    /// fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]
    #[arg(long, value_name = "FOLDER", env = "FRESHCREDS_STATE", global = true)]
    pub state: Option<PathBuf>,

    /// Whether to ask each registry if it takes its credential, before that is written and every
    /// quarter of an hour: true or false [default: true for `once`, false for `run`]
    #[arg(long, value_name = "BOOL", env = "FRESHCREDS_VERIFY", global = true)]
    pub verify: Option<String>,

    /// Authorities to trust beside the machine's, as PEM: of a proxy that looks into TLS, of a
    /// cloud of one's own
    #[arg(long, value_name = "FILE", env = "FRESHCREDS_CA_FILE", global = true)]
    pub ca_file: Option<PathBuf>,

    /// Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off`
    /// [default: 127.0.0.1:8099]
    #[arg(long, value_name = "ADDRESS", env = "FRESHCREDS_LISTEN", global = true)]
    pub listen: Option<String>,

    /// Names by which the endpoint may be asked, besides its addresses and localhost; others are
    /// refused, since a stranger's page could make a browser ask
    #[arg(
        long,
        value_name = "NAME",
        env = "FRESHCREDS_ALLOWED_HOSTS",
        value_delimiter = ',',
        global = true
    )]
    pub allowed_hosts: Vec<String>,

    /// How to log, on standard error [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT", env = "FRESHCREDS_LOG_FORMAT", global = true)]
    pub log_format: Option<LogFormat>,

    /// What to log; the libraries that talk to the clouds never log [default: info]
    #[arg(long, value_name = "LEVEL", env = "FRESHCREDS_LOG_LEVEL", global = true)]
    pub log_level: Option<LogLevel>,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// From how important an event is on that it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only what ends the program.
    Error,
    /// What needs attention.
    Warn,
    /// What was decided.
    Info,
    /// What happens in between.
    Debug,
    /// Everything.
    Trace,
}

impl Common {
    /// The settings file, if one is named.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// What these flags say about the settings.
    #[must_use]
    pub fn options(&self, hosts: &[String]) -> Options {
        let split = |text: &String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let named = |path: &&PathBuf| !path.as_os_str().is_empty();
        // A variable that is set to nothing is not set, as compose files have it.
        Options {
            listen: self.listen.clone().filter(|text| !text.is_empty()),
            allowed_hosts: self.allowed_hosts.iter().flat_map(split).collect(),
            docker_config: self.docker_config.iter().filter(named).cloned().collect(),
            registries: hosts.iter().flat_map(split).collect(),
            docker_config_folder: std::env::var_os("DOCKER_CONFIG").map(PathBuf::from),
            state: self.state.clone().filter(|path| !path.as_os_str().is_empty()),
            ca_file: self.ca_file.clone().filter(|path| !path.as_os_str().is_empty()),
            verify: self.verify.clone().filter(|text| !text.is_empty()),
            state_folder: state_folder(std::env::var_os("STATE_DIRECTORY").as_deref()),
            docker_auth_config: std::env::var("DOCKER_AUTH_CONFIG").ok().map(SecretString::from),
        }
    }
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    // As above: nothing is nothing.
    if text.is_empty() { Ok(Duration::ZERO) } else { humantime::parse_duration(text) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "write 2 or 0.5, or what is between 0.1 and 86400".to_owned())
}

/// The first folder of those that a unit's `StateDirectory=` names.
fn state_folder(variable: Option<&OsStr>) -> Option<PathBuf> {
    let first = variable?.to_str()?.split(':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(first))
}

const EXAMPLES: &str = "\
Examples:
  Keep an ECR registry and Google's European one fresh in ~/.docker/config.json:
    $ freshcreds run 123456789012.dkr.ecr.eu-west-1.amazonaws.com europe-docker.pkg.dev

  Refresh once, from cron or before a build:
    $ freshcreds once --config /etc/freshcreds/config.toml

  Find out why it does not work:
    $ freshcreds doctor

  Ask how the daemon is:
    $ freshcreds status
    $ curl http://127.0.0.1:8099/readyz

Identities are found where the clouds' own tools find them: AWS_* variables, profiles, SSO, web
identity, container and instance metadata; GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth
application-default login`, the metadata server, gcloud; AZURE_* variables, the managed identity, az.
Others are named in the settings file.";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());
