//! Shows in half a minute what freshcreds is for, without an account anywhere.
//!
//! A stand-in for both clouds gives tokens that live for a few seconds. The real
//! program keeps them fresh in a docker `config.json`, while a reader takes them
//! from there and pulls an image, twice a second. At the end stands a proof: each
//! credential was renewed several times, every pull was authorised, and the
//! tokens from the start are refused.
//!
//! `cargo run --example demo [PROGRAM]`; without an argument the program is the
//! one that was built beside this example.

#[expect(dead_code, reason = "the demo breaks nothing; the tests do")]
mod cloud;
mod daemon;
mod reader;
mod screen;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::StatusCode;
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::cloud::{Cloud, Issued, Issuer, Options, Registry, Verdict};
use self::daemon::Daemon;
use self::screen::Screen;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let shown = tokio::select! {
        shown = timeout(LIMIT, show()) => shown.context("it takes too long").flatten(),
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Where nobody reads it, the exit code has to do.
            let _ = writeln!(io::stderr(), "demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether all of the proof holds.
async fn show() -> Result<bool> {
    let mut screen = Screen::new();
    let mut demo = Demo::start().await?;
    demo.introduce(&mut screen)?;
    if let Err(error) = demo.watch(&mut screen).await {
        demo.show_log(&mut screen)?;
        return Err(error);
    }
    let proof = demo.prove().await?;
    screen.say("")?;
    for (holds, claim) in &proof {
        screen.say(&format!("{}  {claim}", if *holds { " ok " } else { "FAIL" }))?;
    }
    let holds = proof.iter().all(|(holds, _)| *holds);
    if !holds {
        demo.show_log(&mut screen)?;
    }
    Ok(holds)
}

struct Demo {
    cloud: Cloud,
    daemon: Daemon,
    started: Instant,
    config: PathBuf,
    /// The mode that it had at first.
    mode: u32,
    ecr: Watched,
    google: Watched,
    /// What `status` printed, to be searched for secrets.
    shown: String,
    /// Last, so that it is removed when nobody needs it any more.
    _folder: TempDir,
}

/// What the reader saw of one registry.
#[derive(Default)]
struct Watched {
    name: &'static str,
    first: Option<String>,
    newest: Option<String>,
    renewals: usize,
    pulls: usize,
    /// The answers to pulls that were not authorised.
    failures: Vec<String>,
    /// How the registry answered to the first token after its end.
    old_answer: Option<StatusCode>,
}

impl Demo {
    async fn start() -> Result<Self> {
        let program = program()?;
        let options =
            Options { ecr_life: ECR_LIFE, google_life: GOOGLE_LIFE, ..Options::default() };
        let cloud = Cloud::start(options).await?;
        let folder = TempDir::with_prefix("freshcreds-demo-")?;
        let home = folder.path();
        let config = home.join("docker/config.json");
        fs::DirBuilder::new().mode(0o700).create(home.join("docker"))?;
        write(&config, CONFIG_MODE, FOREIGN_CONFIG)?;
        let key = home.join("service-account.json");
        cloud.write_service_account_key(&key)?;
        // What is left of the mode that was asked for is the umask's doing.
        let mode = mode_of(&config)?;
        let settings = home.join("freshcreds.toml");
        write(&settings, 0o644, &settings_text(&config, &cloud))?;
        let daemon = Daemon::start(program, &settings, home, cloud.environment(&key)).await?;
        Ok(Self {
            cloud,
            daemon,
            started: Instant::now(),
            config,
            mode,
            ecr: Watched { name: "ECR", ..Watched::default() },
            google: Watched { name: "Google", ..Watched::default() },
            shown: String::new(),
            _folder: folder,
        })
    }

    fn introduce(&self, screen: &mut Screen) -> Result<()> {
        let Self { cloud, daemon, .. } = self;
        let ecr = (cloud.ecr_endpoint(), ECR_LIFE.as_secs(), cloud.ecr_registry().host());
        let google = (cloud.token_uri(), GOOGLE_LIFE.as_secs(), cloud.google_registry().host());
        screen.say("Two clouds, played by this program, and what they serve:")?;
        for (name, (issuer, life, registry)) in [("ECR", ecr), ("Google", google)] {
            screen.say(&format!("  {name:<6}  {registry}, tokens of {life} s from {issuer}"))?;
        }
        screen.say(&format!(
            "The real program: freshcreds run, its endpoint on http://{}/status",
            daemon.address()
        ))?;
        screen.say(&format!("What it keeps fresh: {}", self.config.display()))?;
        screen.say("")?;
        Ok(())
    }

    /// Pulls from both registries until the time is over.
    async fn watch(&mut self, screen: &mut Screen) -> Result<()> {
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.started.elapsed() < LENGTH {
            pause.tick().await;
            let elapsed = self.started.elapsed().as_secs_f64();
            let (cloud, config) = (&self.cloud, &self.config);
            let news = [
                self.ecr.turn(config, cloud.ecr_registry(), cloud.ecr()).await?,
                self.google.turn(config, cloud.google_registry(), cloud.google()).await?,
            ];
            for line in news.iter().flatten() {
                screen.say(&format!("{elapsed:>5.1} s  {line}"))?;
            }
            if self.ecr.newest.is_none() && self.google.newest.is_none() {
                continue;
            }
            let table = self.daemon.status().await?;
            self.shown.push_str(&table);
            let (ecr, google) = (&self.ecr, &self.google);
            screen.draw(&format!(
                "{table}\n{elapsed:>5.1} s  {} pulls, {} failed; renewed: ECR {}, Google {}\n",
                ecr.pulls + google.pulls,
                ecr.failures.len() + google.failures.len(),
                ecr.renewals,
                google.renewals,
            ))?;
        }
        Ok(())
    }

    fn show_log(&self, screen: &mut Screen) -> Result<()> {
        screen.say(&format!("\nThe daemon's log:\n{}\n", self.daemon.log()?.trim_end()))?;
        Ok(())
    }

    /// Ends the daemon, and lists what was to be shown and whether it was.
    async fn prove(&mut self) -> Result<Vec<(bool, String)>> {
        let ended = self.daemon.stop().await;
        let log = self.daemon.log()?;
        let (cloud, ecr, google) = (&self.cloud, &self.ecr, &self.google);
        let mut proof = Vec::new();
        for (watched, registry) in [(ecr, cloud.ecr_registry()), (google, cloud.google_registry())]
        {
            let name = watched.name;
            proof.push((
                watched.renewals >= FEWEST_RENEWALS,
                format!("{name}: the credential was renewed {} times", watched.renewals),
            ));
            proof.push((
                watched.pulls > 0
                    && watched.failures.is_empty()
                    && registry.count(Verdict::Authorised) == watched.pulls
                    && registry.count(Verdict::Unknown) == 0,
                match watched.failures.first() {
                    None => format!("{name}: {} pulls, every one authorised", watched.pulls),
                    Some(first) => format!(
                        "{name}: {} of {} pulls failed, the first with: {first}",
                        watched.failures.len(),
                        watched.pulls
                    ),
                },
            ));
            proof.push((
                watched.old_answer == Some(StatusCode::UNAUTHORIZED)
                    && registry.count(Verdict::Expired) > 0,
                match watched.old_answer {
                    Some(answer) => format!("{name}: to the first token it now says {answer}"),
                    None => format!("{name}: the first token was never tried again"),
                },
            ));
        }
        let text = fs::read_to_string(&self.config)?;
        proof.push((
            has_all_of(&text, FOREIGN_CONFIG) && mode_of(&self.config)? == self.mode,
            "config.json: what others had in it is there byte for byte, and its mode".to_owned(),
        ));
        let leak = cloud.leak_in(log.as_bytes()).or_else(|| cloud.leak_in(self.shown.as_bytes()));
        proof.push((
            leak.is_none(),
            match leak {
                None => {
                    format!("no part of a secret is in the {} lines logged", log.lines().count())
                }
                Some(leak) => format!("a part of a secret was shown: {leak}"),
            },
        ));
        proof.push(match ended {
            Ok(status) => (status.success(), format!("after SIGTERM the daemon ended: {status}")),
            Err(error) => (false, format!("{error:#}")),
        });
        Ok(proof)
    }
}

impl Watched {
    /// Reads the credential and pulls with it; tries the first one again when it
    /// has expired. Says what is new.
    async fn turn(
        &mut self,
        config: &Path,
        registry: &Registry,
        issuer: &Issuer,
    ) -> Result<Vec<String>> {
        let host = registry.host();
        let Some(auth) = reader::read_auth(config, host)? else {
            if self.newest.is_some() {
                bail!("the credential for {host} is gone");
            }
            return Ok(Vec::new());
        };
        self.pulls += 1;
        match reader::pull(host, Cloud::IMAGE, &auth).await {
            Ok(StatusCode::OK) => {}
            Ok(status) => self.failures.push(status.to_string()),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
        let mut news = Vec::new();
        if self.newest.is_none() {
            news.push(format!("{}: the first credential is there", self.name));
        } else if self.newest.as_ref() != Some(&auth) {
            self.renewals += 1;
            news.push(format!("{}: renewed", self.name));
        }
        let first = self.first.get_or_insert_with(|| auth.clone());
        let has_expired = |issued: &Issued| issued.auth() == *first && issued.is_over();
        if self.old_answer.is_none() && issuer.issued().iter().any(has_expired) {
            let answer = reader::pull(host, Cloud::IMAGE, first).await?;
            self.old_answer = Some(answer);
            news.push(format!("{}: the first token has expired; with it: {answer}", self.name));
        }
        self.newest = Some(auth);
        Ok(news)
    }
}

/// Whether `text` is `old` with something put in at one place.
fn has_all_of(text: &str, old: &str) -> bool {
    let (text, old) = (text.as_bytes(), old.as_bytes());
    let before = text.iter().zip(old).take_while(|(new, old)| new == old).count();
    let after = text.iter().rev().zip(old.iter().rev()).take_while(|(new, old)| new == old).count();
    text.len() > old.len() && before + after >= old.len()
}

/// The first argument, or what was built beside this.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::args_os().nth(1) {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).context("this example lies nowhere")?;
    let program = folder.join("freshcreds");
    if !program.is_file() {
        bail!("{} is not there: run `cargo build` first, or name the program", program.display());
    }
    Ok(program)
}

fn settings_text(config: &Path, cloud: &Cloud) -> String {
    let config = config.display();
    let (ecr, google) = (cloud.ecr_registry().host(), cloud.google_registry().host());
    format!(
        r#"listen = "127.0.0.1:0"
log_format = "json"
docker_config = ["{config}"]

[[registry]]
host = "{ecr}"
kind = "ecr"
region = "eu-west-1"

[[registry]]
host = "{google}"
kind = "google"
"#
    )
}

fn mode_of(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode())
}

fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What another program left: an entry and a key that are not ours, and a form
/// that nobody would write by chance.
const FOREIGN_CONFIG: &str = r#"{
   "auths": {
      "example.com": {"auth":  "c29tZW9uZTplbHNl"}
   },
   "someKeyOfTheFuture": [1,2,   3]
}
"#;
const CONFIG_MODE: u32 = 0o640;

const ECR_LIFE: Duration = Duration::from_secs(6);
const GOOGLE_LIFE: Duration = Duration::from_secs(8);
const FEWEST_RENEWALS: usize = 3;
const LENGTH: Duration = Duration::from_secs(26);
const PAUSE: Duration = Duration::from_millis(500);

/// Longer than it takes on any machine.
const LIMIT: Duration = Duration::from_mins(2);
