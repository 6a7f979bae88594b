//! Parses, starts the log, loads the settings, runs, and exits: no logic.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
#[cfg(feature = "kubernetes")]
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use freshcreds::cli::{CheckArguments, Cli, Command, Common, LogFormat, LogLevel, StatusArguments};
use freshcreds::clock::Clock;
#[cfg(feature = "kubernetes")]
use freshcreds::config::settings::Cluster;
use freshcreds::config::{BadFile, File, Settings, settings};
use freshcreds::credential::RegistryHost;
use freshcreds::daemon::{self, DaemonError};
use freshcreds::http::Address;
#[cfg(feature = "kubernetes")]
use freshcreds::kubernetes::Link;
use freshcreds::log::Log;
use freshcreds::metrics::Metrics;
use freshcreds::status::{Report, Verdict};
use freshcreds::table::{self, Page};
#[cfg(feature = "kubernetes")]
use freshcreds::targets::secrets;
use freshcreds::watch::{self, Form};
use freshcreds::{doctor, http, log, process, targets};

fn main() -> ExitCode {
    process::keep_memory_private();
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(Failure { code, error, .. }) => {
            print(&mut io::stderr(), &format!("error: {error}"));
            ExitCode::from(code)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let common = &cli.common;
    let file = match (read(common), &cli.command) {
        (Ok(file), _) => file,
        // A daemon that runs does so by settings that were good, and is to be asked even if
        // those of now are not.
        (Err(error), Command::Check(_) | Command::Status(_)) => {
            print(&mut io::stderr(), &format!("warning: {error}"));
            File::default()
        }
        (Err(error), _) => return Err(wrong(error)),
    };
    let log = start_log(&cli.command, common, &file)?;
    // One provider for every TLS connection, whoever makes it. It is the first to
    // be installed, so this cannot fail.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(KEEP_THREADS)
        .build()
        .map_err(failed)?;
    let clock = Clock::system();
    let result: Result<ExitCode, Failure> = runtime.block_on(async {
        match &cli.command {
            Command::Run(hosts) => {
                let settings =
                    Settings::new(&common.options(&hosts.hosts), &file).map_err(wrong)?;
                let reload = || {
                    let file = read(common).map_err(|error| error.to_string())?;
                    Settings::new(&common.options(&hosts.hosts), &file)
                        .map_err(|error| error.to_string())
                };
                let metrics = log.as_ref().map_or_else(Metrics::new, |log| {
                    Metrics::with_dropped_lines(log.dropped_lines())
                });
                daemon::run(&settings, &clock, metrics, &reload).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Once(arguments) => {
                let hosts = &arguments.hosts.hosts;
                let settings = Settings::new(&common.options(hosts), &file).map_err(wrong)?;
                let report = daemon::once(&settings, &clock, arguments.wait).await?;
                Ok(tell_troubles(&report))
            }
            Command::Doctor(arguments) => {
                let hosts = &arguments.hosts.hosts;
                let settings = Settings::new(&common.options(hosts), &file).map_err(wrong)?;
                let findings = doctor::examine(&settings, &clock).await;
                let text = if arguments.json {
                    serde_json::to_string_pretty(&findings).map_err(failed)?
                } else {
                    findings.text()
                };
                print(&mut io::stdout(), &text);
                let is_well = findings.status != Verdict::Fail;
                Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
            }
            Command::Logout => logout(common, &file, &clock).await,
            Command::Check(arguments) => check(common, &file, arguments, &clock).await,
            Command::Status(arguments) => status(common, &file, arguments, &clock).await,
        }
    });
    if result.as_ref().is_err_and(|failure| failure.is_urgent) {
        runtime.shutdown_background();
    } else {
        // A write under way is finished.
        runtime.shutdown_timeout(LAST_WRITE);
    }
    result
}

fn read(common: &Common) -> Result<File, BadFile> {
    common.config().map_or_else(|| Ok(File::default()), File::read)
}

fn start_log(command: &Command, common: &Common, file: &File) -> Result<Option<Log>, Failure> {
    let format = match (common.log_format, file.log_format.as_deref()) {
        (Some(format), _) => Some(format),
        (None, Some(text)) => Some(value::<LogFormat>("log_format", text)?),
        (None, None) => None,
    };
    let level = match (common.log_level, file.log_level.as_deref()) {
        (Some(level), _) => level,
        (None, Some(text)) => value::<LogLevel>("log_level", text)?,
        (None, None) => LogLevel::Info,
    };
    let kind = match command {
        Command::Run(_) => log::Kind::RunsOn,
        _ => log::Kind::Ends,
    };
    Ok(log::start(kind, format, level))
}

fn value<T: ValueEnum>(key: &str, text: &str) -> Result<T, Failure> {
    T::from_str(text, false).map_err(|_| {
        let names = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<_> = names.map(|value| format!("`{}`", value.get_name())).collect();
        wrong(format!("`{key} = \"{text}\"` means nothing: write one of {}", names.join(", ")))
    })
}

/// Removes what we wrote, if no daemon would write it again.
async fn logout(common: &Common, file: &File, clock: &Clock) -> Result<ExitCode, Failure> {
    let options = common.options(&[]);
    if let Ok(Some(address)) = settings::listen(&options, file)
        && let address = address.reachable()
        && http::fetch(&address).await.is_ok()
    {
        return Err(failed(format!(
            "a daemon answers on {address}, which would write the entries again: stop it first"
        )));
    }
    let has_secrets = file.kubernetes.is_some() || !file.image_pull_secret.is_empty();
    if has_secrets {
        let settings = Settings::new(&options, file).map_err(wrong)?;
        log_out_of_the_cluster(&settings, clock).await?;
        if settings.targets.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let targets = settings::targets(&options, file).map_err(wrong)?;
    let memory = settings::memory(&options, file).map_err(wrong)?;
    let results = targets::logout(&targets, &memory).await.map_err(failed)?;
    if results.is_empty() {
        let where_kept = match memory.folder() {
            Some(folder) => format!("in {}; another folder is named by --state", folder.display()),
            None => "without a `state` folder".to_owned(),
        };
        print(&mut io::stderr(), &format!("nothing is known to have been written ({where_kept})"));
    }
    let mut code = ExitCode::SUCCESS;
    for (path, result) in results {
        let path = path.display();
        let text = match result {
            Ok(true) => format!("{path}: our entries are removed"),
            Ok(false) => format!("{path}: nothing of ours is left in it"),
            Err(error) => {
                code = ExitCode::from(NOT_READY);
                format!("{path}: {error}")
            }
        };
        print(&mut io::stderr(), &text);
    }
    Ok(code)
}

/// Removes our Secrets from the cluster.
#[cfg(feature = "kubernetes")]
async fn log_out_of_the_cluster(settings: &Settings, clock: &Clock) -> Result<(), Failure> {
    let Cluster { access, lease, owner } = &settings.cluster;
    let link = Link::new(access.clone(), clock.clone(), Arc::new(|_, _| {}));
    let removed = secrets::log_out(&link, lease.as_ref(), owner, &settings.secrets, clock).await;
    match removed.map_err(failed)? {
        0 => print(&mut io::stderr(), "the cluster has no Secret of ours"),
        1 => print(&mut io::stderr(), "1 Secret of ours is removed from the cluster"),
        count => {
            print(
                &mut io::stderr(),
                &format!("{count} Secrets of ours are removed from the cluster"),
            );
        }
    }
    Ok(())
}

#[cfg(not(feature = "kubernetes"))]
#[expect(clippy::unused_async, reason = "with the feature it waits for the cluster")]
async fn log_out_of_the_cluster(_: &Settings, _: &Clock) -> Result<(), Failure> {
    Ok(())
}

/// Asks until the answer is good, or the time is over.
async fn check(
    common: &Common,
    file: &File,
    arguments: &CheckArguments,
    clock: &Clock,
) -> Result<ExitCode, Failure> {
    let hosts = arguments.hosts.iter().map(|host| host.parse());
    let hosts: Vec<RegistryHost> = hosts.collect::<Result<_, _>>().map_err(wrong)?;
    let until = clock.now() + arguments.wait;
    let is_sharp = !hosts.is_empty() || !arguments.min_life.is_zero();
    loop {
        let is_last = clock.now() >= until;
        match ask(common, file).await {
            // Who asks for all of it is told all of it, warnings too.
            Ok(report) if !is_sharp && (report.is_ready() || is_last) => {
                return Ok(tell_troubles(&report));
            }
            Ok(report) if is_sharp => {
                let why = report.why_not(&hosts, arguments.min_life).map_err(wrong)?;
                if why.is_empty() || is_last {
                    for sentence in &why {
                        pass_on(sentence);
                    }
                    let code = if why.is_empty() { 0 } else { NOT_READY };
                    return Ok(ExitCode::from(code));
                }
            }
            Err(failure) if is_last || failure.code == WRONG_USAGE => return Err(failure),
            Ok(_) | Err(_) => {}
        }
        clock.sleep(ASK_EVERY).await;
    }
}

/// Shows how the daemon is, once or again and again.
async fn status(
    common: &Common,
    file: &File,
    arguments: &StatusArguments,
    clock: &Clock,
) -> Result<ExitCode, Failure> {
    let colors = arguments.color.wanted();
    if let Some(every) = arguments.watch {
        let form = if arguments.json { Form::Json } else { Form::Table { colors } };
        watch::watch(&daemon_address(common, file)?, every, form, clock).await.map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = ask(common, file).await?;
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).map_err(failed)?
    } else {
        let mut page = Page::of(&io::stdout(), colors, |name| std::env::var_os(name));
        // What does not fit can be scrolled back to.
        page.height = None;
        table::table(&report, &page)
    };
    print(&mut io::stdout(), text.trim_end());
    Ok(code(&report))
}

/// Asks the daemon that runs with the same settings.
async fn ask(common: &Common, file: &File) -> Result<Report, Failure> {
    http::fetch(&daemon_address(common, file)?).await.map_err(failed)
}

fn daemon_address(common: &Common, file: &File) -> Result<Address, Failure> {
    let listen = settings::listen(&common.options(&[]), file).map_err(wrong)?;
    let Some(address) = listen else {
        return Err(wrong("with `listen` set to `off` there is nobody to ask"));
    };
    Ok(address.reachable())
}

fn tell_troubles(report: &Report) -> ExitCode {
    for sentence in &report.output {
        pass_on(sentence);
    }
    code(report)
}

/// What somebody says who may not be our daemon, on one line: a terminal is not to do what stands in it.
fn pass_on(sentence: &str) {
    let line: Vec<_> = sentence.split_whitespace().collect();
    print(&mut io::stderr(), &line.join(" ").replace(char::is_control, "\u{fffd}"));
}

fn code(report: &Report) -> ExitCode {
    if report.is_ready() { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) }
}

/// A reader that went away is no failure of ours.
fn print(stream: &mut impl Write, text: &str) {
    let _ = writeln!(stream, "{text}");
}

/// Why there is no better exit code.
struct Failure {
    code: u8,
    /// Nothing is to be waited for.
    is_urgent: bool,
    error: Box<dyn Error>,
}

fn wrong(error: impl Into<Box<dyn Error>>) -> Failure {
    Failure { code: WRONG_USAGE, is_urgent: false, error: error.into() }
}

fn failed(error: impl Into<Box<dyn Error>>) -> Failure {
    Failure { code: NOT_READY, is_urgent: false, error: error.into() }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            // Whoever has the address may be about to end.
            DaemonError::Listen { ref source, .. } if source.kind() != io::ErrorKind::AddrInUse => {
                wrong(error)
            }
            DaemonError::StoppedAtOnce => Self { is_urgent: true, ..failed(error) },
            _ => failed(error),
        }
    }
}

/// How often `check` asks while it waits.
const ASK_EVERY: Duration = Duration::from_millis(500);

const NOT_READY: u8 = 1;

/// As clap's.
const WRONG_USAGE: u8 = 2;

/// A thread that waited for the disk ends when it is done: an idle daemon has none.
const KEEP_THREADS: Duration = Duration::ZERO;

const LAST_WRITE: Duration = Duration::from_secs(2);
