//! The image: what is in it, and how it runs without any right.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::cloud::{Cloud, Fault, Issued, Options};
use crate::engine::Engine;
use crate::machine::{Machine, ended_with, now, pause, put, registries, run, tell};
use crate::shipped::{Container, FOLDER, USER, Volume, build, image, inspect};

// --- what is in it -------------------------------------------------------------------------------

#[tokio::test]
async fn the_image_is_small() -> Result<()> {
    let engine = Engine::with_images().await?;
    let size = inspect(&engine, image(&engine).await?).await?["Size"].as_u64();
    let size = size.context("without a size")?;
    tell(&format!("the image: {size} bytes"));
    ensure!(size <= 15_000_000, "{size} bytes");
    engine.stop().await
}

#[tokio::test]
async fn nothing_in_the_image_can_be_run_but_the_program() -> Result<()> {
    let engine = Engine::with_images().await?;
    let files = Files::of(&engine).await?;
    let mut programs = Vec::new();
    for (path, file) in &files.list {
        let begins = if file.is_file() { std::fs::read(files.at(path))? } else { continue };
        // A program or a library, whatever its mode says, and a script.
        let is_code = begins.starts_with(b"\x7fELF") || begins.starts_with(b"#!");
        if is_code || (file.mode() & 0o111 != 0 && !begins.is_empty()) {
            programs.push(path.as_str());
        }
    }
    assert_eq!(programs, ["/usr/local/bin/freshcreds"]);
    engine.stop().await
}

#[tokio::test]
async fn everything_is_root_s_and_nobody_else_can_write_it_but_the_user_s_folders() -> Result<()> {
    let engine = Engine::with_images().await?;
    let files = Files::of(&engine).await?;
    let folder = std::fs::canonicalize(files.at("/run/freshcreds"))?;
    ensure!(folder.is_dir(), "no folder to write in");
    for (path, file) in &files.list {
        let owner = match path.as_str() {
            "/run/freshcreds" | "/home/nonroot" => USER,
            _ => 0,
        };
        assert_eq!((file.uid(), file.gid()), (owner, owner), "{path}");
        let mode = file.mode() & 0o7777;
        match path.as_str() {
            "/run/freshcreds" => assert_eq!(mode, 0o700, "{path}"),
            "/tmp" | "/var/tmp" => assert_eq!(mode, 0o1777, "{path}"),
            // All may follow a link.
            _ if file.is_symlink() => {}
            _ => assert_eq!(mode & 0o7022, 0, "{path} has mode {mode:o}"),
        }
    }
    engine.stop().await
}

#[tokio::test]
async fn the_image_says_what_it_is_and_out_of_which_commit() -> Result<()> {
    let engine = Engine::with_images().await?;
    let labels = inspect(&engine, image(&engine).await?).await?["Config"]["Labels"].take();
    let label = |name: &str| {
        let label = labels[format!("org.opencontainers.image.{name}")].as_str();
        label.with_context(|| format!("no {name} among {labels:#}"))
    };
    assert_eq!(label("title")?, env!("CARGO_PKG_NAME"));
    assert_eq!(label("licenses")?, env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("version")?, env!("CARGO_PKG_VERSION"));
    ensure!(label("description")?.contains("credentials"));
    let mut git = Command::new("git");
    let head = run(git.current_dir(ROOT).args(["rev-parse", "HEAD"])).await?.stdout;
    // What is not committed yet makes it `-dirty`.
    ensure!(label("revision")?.starts_with(head.trim()));
    let created = humantime::parse_rfc3339(label("created")?)?;
    ensure!(created <= now() && created > SystemTime::UNIX_EPOCH);
    for name in ["source", "documentation"] {
        let url = label(name)?;
        ensure!(url.is_empty() || url.starts_with("https://"), "{name}: {url}");
    }
    engine.stop().await
}

#[tokio::test]
async fn the_image_carries_the_licences_and_the_parts_list_of_all_that_is_in_it() -> Result<()> {
    let engine = Engine::with_images().await?;
    let files = Files::of(&engine).await?;
    let read = |name: &str| {
        let path = format!("/usr/share/doc/freshcreds/{name}");
        std::fs::read_to_string(files.at(&path)).with_context(|| format!("no {path}"))
    };
    assert_eq!(read("LICENSE")?, std::fs::read_to_string(Path::new(ROOT).join("LICENSE"))?);
    for (name, says) in [
        ("glibc.copyright", "GNU Lesser General Public"),
        ("libgcc.copyright", "GCC Runtime Library Exception"),
        ("LGPL-2.1", "Version 2.1, February 1999"),
        ("GPL-3", "Version 3, 29 June 2007"),
    ] {
        ensure!(read(name)?.contains(says), "{name} does not say `{says}`");
    }
    ensure!(read("rust.copyright").or_else(|_| read("COPYRIGHT-library.html"))?.contains("Rust"));
    for name in ["THIRD-PARTY-LICENSES.txt", "freshcreds.cdx.json"] {
        let committed = std::fs::read_to_string(Path::new(ROOT).join("dist/notices").join(name))?;
        ensure!(read(name)? == committed, "{name} is not the one in dist/notices");
    }
    let parts: Value = serde_json::from_str(&read("freshcreds.cdx.json")?)?;
    assert_eq!(parts["bomFormat"], "CycloneDX");
    let parts = parts["components"].as_array().context("no components")?;
    ensure!(
        parts.iter().any(|part| part["name"] == "tokio"),
        "tokio is in it, and not in the list"
    );
    engine.stop().await
}

#[tokio::test]
async fn the_image_trusts_public_authorities_and_knows_its_user() -> Result<()> {
    let engine = Engine::with_images().await?;
    let files = Files::of(&engine).await?;
    let read = |path| std::fs::read_to_string(files.at(path)).context(path);
    let trusted = read("/etc/ssl/certs/ca-certificates.crt")?;
    let count = trusted.matches("-----BEGIN CERTIFICATE-----").count();
    ensure!((100..250).contains(&count), "{count} authorities");
    ensure!(read("/etc/passwd")?.contains(":65532:65532:"), "no user 65532");
    ensure!(read("/etc/group")?.contains(":65532:"), "no group 65532");
    ensure!(read("/etc/nsswitch.conf")?.contains("files dns"), "names are not asked of DNS");
    engine.stop().await
}

#[tokio::test]
async fn the_image_runs_the_daemon_as_nobody_and_asks_it_whether_all_is_well() -> Result<()> {
    let engine = Engine::with_images().await?;
    let config = inspect(&engine, image(&engine).await?).await?["Config"].take();
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/freshcreds"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    let health = &config["Healthcheck"];
    assert_eq!(health["Test"], json!(["CMD", "/usr/local/bin/freshcreds", "check"]));
    let seconds = |name: &str| health[name].as_u64().map(|nanos| nanos / 1_000_000_000);
    assert_eq!(seconds("Interval"), Some(10));
    assert_eq!(seconds("Timeout"), Some(5));
    assert_eq!(seconds("StartPeriod"), Some(60));
    let variables = config["Env"].as_array().context("no variables")?;
    for wanted in [format!("DOCKER_CONFIG={FOLDER}"), format!("FRESHCREDS_STATE={FOLDER}/.state")] {
        ensure!(variables.contains(&json!(wanted)), "{wanted} is not in {variables:?}");
    }
    assert_eq!(config["Volumes"], Value::Null, "a container that names none leaves none behind");
    engine.stop().await
}

// --- how it runs ---------------------------------------------------------------------------------

#[tokio::test]
async fn without_any_right_it_writes_to_a_shared_volume_and_ends_in_order() -> Result<()> {
    let engine = Engine::with_images().await?;
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let volume = Volume::create(&engine, &[]).await?;
    let container = Container::daemon(&engine, &machine, &[&volume.mount()]).await?;
    container.health("healthy").await?;
    written(&volume.folder().await?, &cloud)?;
    has_no_right(&container).await?;

    // The engine waits for ten seconds before it kills.
    let asked = now();
    ended_with(&container.docker(&["stop"]).await?, 0)?;
    let took = now().duration_since(asked)?;
    let state = container.inspect().await?["State"].take();
    assert_eq!(state["ExitCode"], 0, "{}", container.log().await?);
    ensure!(took < Duration::from_secs(1), "it took {took:?} to end");
    assert_eq!(cloud.leak_in(container.log().await?.as_bytes()), None);

    drop(container);
    drop(volume);
    engine.stop().await
}

#[tokio::test]
async fn it_writes_to_memory_that_is_shared() -> Result<()> {
    let engine = Engine::with_images().await?;
    let (machine, cloud) = in_cloud(Options::default()).await?;
    // As the compose file has it.
    let memory =
        ["--opt=type=tmpfs", "--opt=device=tmpfs", "--opt=o=size=8m,mode=0700,uid=65532,gid=65532"];
    let volume = Volume::create(&engine, &memory).await?;
    let container = Container::daemon(&engine, &machine, &[&volume.mount()]).await?;
    container.health("healthy").await?;
    written(&volume.folder().await?, &cloud)?;
    let report = container.freshcreds(&["status", "--json"]).await?;
    ensure!(
        report.stdout.contains("leased exchange"),
        "weaker than it could be: {}",
        report.stdout
    );
    drop(container);
    drop(volume);
    engine.stop().await
}

#[tokio::test]
async fn docker_holds_it_for_unhealthy_when_the_tokens_lapse_and_only_then() -> Result<()> {
    let engine = Engine::with_images().await?;
    let short = Options {
        ecr_life: Duration::from_secs(8),
        google_life: Duration::from_secs(8),
        ..Options::default()
    };
    let (machine, cloud) = in_cloud(short).await?;
    let volume = Volume::create(&engine, &[]).await?;
    let container =
        Container::daemon(&engine, &machine, &[&volume.mount(), "--health-retries=1"]).await?;
    container.health("healthy").await?;
    cloud.ecr().wait_for_issued(3).await;
    container.health("healthy").await?;

    for issuer in [cloud.ecr(), cloud.google()] {
        issuer.break_with(Fault::ServerError);
    }
    container.health("unhealthy").await?;
    let last = [cloud.ecr().issued().pop(), cloud.google().issued().pop()];
    ensure!(last.iter().flatten().any(Issued::is_over), "unhealthy while both tokens are good");
    cloud.ecr().mend();
    cloud.google().mend();
    container.health("healthy").await?;
    assert_eq!(container.inspect().await?["RestartCount"], 0);
    drop(container);
    drop(volume);
    engine.stop().await
}

#[tokio::test]
async fn as_the_first_process_it_obeys_signals_and_leaves_no_dead_behind() -> Result<()> {
    let engine = Engine::with_images().await?;
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let volume = Volume::create(&engine, &[]).await?;
    let container = Container::daemon(&engine, &machine, &[&volume.mount()]).await?;
    container.health("healthy").await?;
    let (calls, id) = (cloud.ecr().calls(), process(&container).await?);
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    ensure!(
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")),
        "{status}"
    );

    // A first process has no default for a signal: what it does not handle, it does not get.
    ended_with(&container.docker(&["kill", "--signal=USR1"]).await?, 0)?;
    cloud.ecr().wait_for_calls(calls + 1).await;
    ended_with(&container.docker(&["kill", "--signal=HUP"]).await?, 0)?;
    pause(Duration::from_secs(3)).await;
    container.health("healthy").await?;
    assert_eq!(process(&container).await?, id, "it has started again");
    let processes = container.docker(&["top"]).await?.stdout;
    ensure!(!processes.contains("defunct"), "dead processes:\n{processes}");

    ended_with(&container.docker(&["kill", "--signal=INT"]).await?, 0)?;
    let done = container.docker(&["wait"]).await?;
    assert_eq!(done.stdout.trim(), "0", "{}", container.log().await?);
    drop(container);
    drop(volume);
    engine.stop().await
}

#[tokio::test]
async fn a_container_that_starts_again_goes_on_with_its_tokens() -> Result<()> {
    let engine = Engine::with_images().await?;
    let (machine, cloud) = in_cloud(Options::default()).await?;
    let volume = Volume::create(&engine, &[]).await?;
    let container = Container::daemon(&engine, &machine, &[&volume.mount()]).await?;
    container.health("healthy").await?;
    ended_with(&container.docker(&["restart"]).await?, 0)?;
    container.health("healthy").await?;
    // Another container, with the same volume.
    drop(container);
    let container = Container::daemon(&engine, &machine, &[&volume.mount()]).await?;
    container.health("healthy").await?;
    assert_eq!((cloud.ecr().calls(), cloud.google().calls()), (1, 1));
    written(&volume.folder().await?, &cloud)?;
    // What was written is known, too.
    ended_with(&container.docker(&["stop"]).await?, 0)?;
    drop(container);
    drop(volume);
    engine.stop().await
}

/// The C library is in the program, and would have to load parts of itself for other ways than these.
#[tokio::test]
async fn it_finds_hosts_by_file_and_by_dns_and_users_by_name() -> Result<()> {
    let engine = Engine::with_images().await?;
    for by_dns in [false, true] {
        let (mut machine, cloud) = in_cloud(Options::default()).await?;
        let home = machine.home().display().to_string();
        machine.settings(&format!(
            "{}[[target]]\npath = \"{FOLDER}/config.json\"\nowner = \"nonroot\"\ngroup = \"nonroot\"\n",
            registries(&cloud)
        ))?;
        let endpoint = cloud.ecr_endpoint().replace("127.0.0.1", "ecr.cloud.example");
        machine.set("AWS_ENDPOINT_URL_ECR", endpoint);
        let volume = Volume::create(&engine, &[]).await?;
        let resolver = format!("--volume={home}/resolv.conf:/etc/resolv.conf:ro");
        let names = if by_dns {
            let server = name_server()?;
            put(&machine.home().join("resolv.conf"), &format!("nameserver {server}\n"))?;
            resolver.as_str()
        } else {
            "--add-host=ecr.cloud.example:127.0.0.1"
        };
        let container = Container::daemon(&engine, &machine, &[&volume.mount(), names]).await?;
        container.health("healthy").await.with_context(|| format!("by DNS: {by_dns}"))?;
        written(&volume.folder().await?, &cloud)?;
    }
    engine.stop().await
}

#[tokio::test]
async fn an_unknown_user_is_told_as_one() -> Result<()> {
    let engine = Engine::with_images().await?;
    let (mut machine, cloud) = in_cloud(Options::default()).await?;
    machine.settings(&format!(
        "{}[[target]]\npath = \"{FOLDER}/config.json\"\nowner = \"nobody-of-that-name\"\n",
        registries(&cloud)
    ))?;
    let container = Container::daemon(&engine, &machine, &[]).await?;
    assert_eq!(container.docker(&["wait"]).await?.stdout.trim(), "2");
    let log = container.log().await?;
    ensure!(log.contains("nobody-of-that-name"), "{log}");
    drop(container);
    engine.stop().await
}

// --- the other platform --------------------------------------------------------------------------

/// Compiles every dependency once more: `make image-arm64` asks for it by name.
#[tokio::test]
#[ignore = "doubles the time of the suite; `make image-arm64` runs it"]
async fn the_image_for_arm64_is_of_that_kind_and_its_program_fetches_and_writes() -> Result<()> {
    const NAME: &str = "freshcreds:arm64";
    let engine = Engine::with_images().await?;
    build(&engine, &["--platform", "linux/arm64", "--tag", NAME]).await?;
    let image = inspect(&engine, NAME).await?;
    assert_eq!(image["Architecture"], "arm64");
    let size = image["Size"].as_u64().context("without a size")?;
    tell(&format!("the image for arm64: {size} bytes"));
    ensure!(size <= 15_000_000, "{size} bytes");

    let files = Files::of_image(&engine, NAME).await?;
    let program = files.at("/usr/local/bin/freshcreds");
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let emulated = |argument| {
        let mut command = machine.command("qemu-aarch64-static");
        command.arg(&program).arg(argument);
        command
    };
    let said = run(&mut emulated("--version")).await?;
    assert_eq!(said.stdout.trim(), concat!("freshcreds ", env!("CARGO_PKG_VERSION")));
    ended_with(&run(&mut emulated("once")).await?, 0)?;
    let issued = cloud.ecr().issued().pop().context("nothing was issued")?;
    assert_eq!(machine.auth(cloud.ecr_registry().host())?, Some(issued.auth()));
    engine.stop().await
}

// --- what the tests ask --------------------------------------------------------------------------

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All files of the image, laid out in a folder.
struct Files {
    folder: TempDir,
    list: BTreeMap<String, std::fs::Metadata>,
}

impl Files {
    async fn of(engine: &Engine) -> Result<Self> {
        Self::of_image(engine, image(engine).await?).await
    }

    async fn of_image(engine: &Engine, name: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("freshcreds-image-")?;
        let container = Container::create(engine, name).await?;
        let archive = folder.path().join("archive.tar");
        let archive_text = archive.to_str().context("not UTF-8")?;
        ended_with(&container.docker(&["export", "--output", archive_text]).await?, 0)?;
        let root = folder.path().join("root");
        std::fs::create_dir(&root)?;
        let mut tar = Command::new("tar");
        tar.args([
            "--extract",
            "--numeric-owner",
            "--same-owner",
            "--preserve-permissions",
            "--file",
        ]);
        ended_with(&run(tar.arg(&archive).arg("--directory").arg(&root)).await?, 0)?;
        let mut files = Self { folder, list: BTreeMap::new() };
        files.walk(&root)?;
        // What the engine puts into every container.
        for path in ["/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"]
        {
            files.list.remove(path);
        }
        files
            .list
            .retain(|path, _| !["/dev", "/proc", "/sys"].iter().any(|it| path.starts_with(it)));
        ensure!(files.list.len() > 10, "there is not much: {:?}", files.list.keys());
        Ok(files)
    }

    fn walk(&mut self, folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            let is_folder = metadata.is_dir();
            let name = path.strip_prefix(self.at("/"))?.to_str().context("not UTF-8")?;
            self.list.insert(format!("/{name}"), metadata);
            if is_folder {
                self.walk(&path)?;
            }
        }
        Ok(())
    }

    /// Where a file of the image lies.
    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path.trim_start_matches('/'))
    }
}

/// A machine beside a cloud, for a container: its daemon listens where no other does.
pub(crate) async fn in_cloud(options: Options) -> Result<(Machine, Cloud)> {
    let (mut machine, cloud) = Machine::in_cloud(options).await?;
    // Port 0 would be another one for each command that asks the daemon.
    machine.set("FRESHCREDS_LISTEN", format!("unix:{FOLDER}/health.sock"));
    Ok((machine, cloud))
}

/// What the image's user has written for docker is what the clouds gave last.
fn written(folder: &Path, cloud: &Cloud) -> Result<()> {
    let path = folder.join("config.json");
    let file = path.metadata()?;
    assert_eq!(file.permissions().mode() & 0o7777, 0o600);
    assert_eq!((file.uid(), file.gid()), (USER, USER));
    let config: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    for (issuer, registry) in
        [(cloud.ecr(), cloud.ecr_registry()), (cloud.google(), cloud.google_registry())]
    {
        let issued = issuer.issued().pop().context("nothing was issued")?;
        assert_eq!(config["auths"][registry.host()]["auth"], json!(issued.auth()));
    }
    Ok(())
}

/// The daemon's number on the machine.
async fn process(container: &Container<'_>) -> Result<u64> {
    container.inspect().await?["State"]["Pid"].as_u64().context("it does not run")
}

/// The kernel's word for it.
async fn has_no_right(container: &Container<'_>) -> Result<()> {
    let id = process(container).await?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(line("Uid:"), Some("65532 65532 65532 65532".to_owned()));
    assert_eq!(line("Gid:"), Some("65532 65532 65532 65532".to_owned()));
    assert_eq!(line("NoNewPrivs:"), Some("1".to_owned()));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), Some("0000000000000000".to_owned()), "{set}");
    }
    Ok(())
}

/// A name server that knows every name to be this machine's.
fn name_server() -> Result<Ipv4Addr> {
    // Out of the way of whoever may listen on the usual address. glibc asks at no other port.
    let address = Ipv4Addr::new(127, 0, 87, 53);
    let socket = UdpSocket::bind((address, 53)).context("cannot be a name server")?;
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut question) {
            let Some(question) = question.get(..length).filter(|it| it.len() > 12) else {
                continue;
            };
            // A name of labels that ends with an empty one, then type and class
            // (https://www.rfc-editor.org/rfc/rfc1035#section-4.1.2).
            let Some(end) = question[12..].iter().position(|byte| *byte == 0) else { continue };
            let Some(asked) = question.get(12..12 + end + 5) else { continue };
            let is_ipv4 = asked[end + 1..end + 3] == [0, 1];
            let answers = u8::from(is_ipv4);
            let mut answer =
                [&question[..2], &[0x85, 0x80, 0, 1, 0, answers, 0, 0, 0, 0], asked].concat();
            if is_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            if socket.send_to(&answer, asker).is_err() {
                break;
            }
        }
    });
    Ok(address)
}
