//! Whatever goes wrong: one message that says what and what to do, the right exit
//! code, an honest status, and nothing lost.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use anyhow::{Context, Result};
use freshcreds::status::Verdict as Health;

use crate::cloud::{Cloud, Fault, Options};
use crate::machine::{
    Daemon, Done, LIMIT, Machine, PROGRAM, ended_with, free_port, put, run, tool, until,
};

/// What somebody had before we came.
const BEFORE: &str = "{\"auths\":{\"example.com\":{\"auth\":\"c29tZW9uZTplbHNl\"}}}\n";

/// Breaks ECR and looks what `once` makes of it; Google's token is written all
/// the same, and everything that was there before stays.
async fn once_with(fault: Fault, kind: &str, words: &str) -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    cloud.ecr().break_with(fault);
    let done = machine.freshcreds(&["once"]).await?;
    told(&done, &cloud, cloud.ecr_registry().host(), kind, words)?;
    assert!(machine.auth(cloud.ecr_registry().host())?.is_none());
    let google = cloud.google().issued().pop().context("nothing was issued")?;
    assert_eq!(machine.auth(cloud.google_registry().host())?, Some(google.auth()));
    assert!(machine.docker_config_text()?.starts_with(BEFORE.trim_end().trim_end_matches('}')));
    Ok(())
}

/// The same for Google.
async fn once_with_google(fault: Fault, kind: &str, words: &str) -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    cloud.google().break_with(fault);
    let done = machine.freshcreds(&["once"]).await?;
    told(&done, &cloud, cloud.google_registry().host(), kind, words)?;
    assert!(machine.auth(cloud.google_registry().host())?.is_none());
    let ecr = cloud.ecr().issued().pop().context("nothing was issued")?;
    assert_eq!(machine.auth(cloud.ecr_registry().host())?, Some(ecr.auth()));
    Ok(())
}

fn told(done: &Done, cloud: &Cloud, host: &str, kind: &str, words: &str) -> Result<()> {
    ended_with(done, 1)?;
    let line = done.stderr.lines().find(|line| line.starts_with(host));
    let line = line.with_context(|| format!("{host} is not named:\n{}", done.stderr))?;
    assert!(line.contains(words), "{line}");
    assert!(done.stderr.contains(&format!("\"kind\":\"{kind}\"")), "{}", done.stderr);
    assert_eq!(cloud.leak_in(done.stderr.as_bytes()), None, "{}", done.stderr);
    Ok(())
}

#[tokio::test]
async fn throttled_in_ecrs_own_words() -> Result<()> {
    once_with(Fault::Throttled, "throttled", "ECR throttles: ThrottlingException").await
}

#[tokio::test]
async fn throttled_by_something_in_front_of_ecr() -> Result<()> {
    let fault = Fault::TooManyRequests { retry_after: Duration::from_secs(1) };
    once_with(fault, "throttled", "HTTP 429").await
}

#[tokio::test]
async fn ecr_fails() -> Result<()> {
    once_with(Fault::ServerError, "server_error", "ECR failed").await
}

#[tokio::test]
async fn ecr_denies() -> Result<()> {
    once_with(Fault::Denied, "denied", "AccessDeniedException").await
}

#[tokio::test]
async fn ecr_hangs() -> Result<()> {
    once_with(Fault::Hang, "timeout", "no answer within 1s").await
}

#[tokio::test]
async fn ecr_hangs_up() -> Result<()> {
    once_with(Fault::HangUp, "unreachable", "cannot reach ECR").await
}

#[tokio::test]
async fn ecr_answers_garbage() -> Result<()> {
    once_with(Fault::Garbage, "bad_answer", "not an answer of its API").await
}

#[tokio::test]
async fn ecr_answers_in_a_wrong_shape() -> Result<()> {
    once_with(Fault::WrongShape, "bad_answer", "ECR gave an answer that cannot be used").await
}

#[tokio::test]
async fn ecr_answers_half() -> Result<()> {
    once_with(Fault::Truncated, "bad_answer", "ECR gave an answer that cannot be used").await
}

#[tokio::test]
async fn ecr_stalls_in_the_middle_of_an_answer() -> Result<()> {
    once_with(Fault::Stalled, "timeout", "no answer within 1s").await
}

#[tokio::test]
async fn google_stalls_in_the_middle_of_an_answer() -> Result<()> {
    once_with_google(Fault::Stalled, "timeout", "no answer within 1s").await
}

/// A server that nobody should come to.
fn trap() -> Result<(std::net::TcpListener, Fault)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let to = listener.local_addr()?;
    Ok((listener, Fault::Redirect { to }))
}

#[tokio::test]
async fn nobody_is_led_away_from_ecr() -> Result<()> {
    let (listener, fault) = trap()?;
    once_with(fault, "bad_answer", "it sends us elsewhere").await?;
    assert!(listener.accept().is_err(), "it went where it was sent");
    Ok(())
}

#[tokio::test]
async fn nobody_is_led_away_from_google() -> Result<()> {
    let (listener, fault) = trap()?;
    once_with_google(fault, "bad_answer", "it sends us elsewhere").await?;
    assert!(listener.accept().is_err(), "it went where it was sent");
    Ok(())
}

#[tokio::test]
async fn ecr_answers_with_an_expired_token() -> Result<()> {
    once_with(Fault::Expired, "expired_answer", "had expired already, at 2015").await
}

#[tokio::test]
async fn ecr_answers_without_a_token() -> Result<()> {
    once_with(Fault::NoToken, "bad_answer", "no token").await
}

#[tokio::test]
async fn ecr_answers_with_what_is_not_base64() -> Result<()> {
    once_with(Fault::NotBase64, "bad_answer", "not base64").await
}

#[tokio::test]
async fn ecr_answers_with_a_token_without_a_colon() -> Result<()> {
    once_with(Fault::NoColon, "bad_answer", "does not decode to `user:password`").await
}

#[tokio::test]
async fn google_throttles() -> Result<()> {
    let fault = Fault::TooManyRequests { retry_after: Duration::from_secs(1) };
    once_with_google(fault, "throttled", "HTTP 429").await
}

#[tokio::test]
async fn google_fails() -> Result<()> {
    once_with_google(Fault::ServerError, "server_error", "Google failed: HTTP 500").await
}

#[tokio::test]
async fn google_denies() -> Result<()> {
    once_with_google(Fault::Denied, "refused", "invalid_grant: Invalid JWT Signature").await
}

#[tokio::test]
async fn google_hangs() -> Result<()> {
    once_with_google(Fault::Hang, "timeout", "no answer within 1s").await
}

#[tokio::test]
async fn google_answers_garbage() -> Result<()> {
    once_with_google(Fault::Garbage, "bad_answer", "Google gave an answer").await
}

#[tokio::test]
async fn google_answers_with_a_bare_secret() -> Result<()> {
    once_with_google(Fault::WrongShape, "bad_answer", "Google gave an answer").await
}

#[tokio::test]
async fn google_answers_half() -> Result<()> {
    once_with_google(Fault::Truncated, "bad_answer", "Google gave an answer").await
}

#[tokio::test]
async fn google_answers_with_an_expired_token() -> Result<()> {
    once_with_google(Fault::Expired, "expired_answer", "had expired already").await
}

#[tokio::test]
async fn google_answers_with_a_line_break_in_the_token() -> Result<()> {
    once_with_google(Fault::NotBase64, "bad_answer", "control character").await
}

#[tokio::test]
async fn google_answers_with_an_empty_token() -> Result<()> {
    once_with_google(Fault::NoColon, "bad_answer", "empty").await
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level() -> Result<()> {
    for fault in [None, Some(Fault::Garbage), Some(Fault::WrongShape), Some(Fault::Truncated)] {
        let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
        if let Some(fault) = fault {
            cloud.ecr().break_with(fault);
            cloud.google().break_with(fault);
        }
        let mut command = machine.command(PROGRAM);
        command.env("RUST_LOG", "trace").args(["once", "--log-level", "trace"]);
        let done = run(&mut command).await?;
        assert_eq!(cloud.leak_in(done.stderr.as_bytes()), None, "{fault:?}");
        assert_eq!(cloud.leak_in(done.stdout.as_bytes()), None, "{fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn no_aws_identity_at_all() -> Result<()> {
    let mut machine = Machine::new()?;
    machine.settings("registries = [\"123456789012.dkr.ecr.eu-west-1.amazonaws.com\"]")?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("no AWS credentials found"), "{}", done.stderr);
    assert!(done.stderr.contains("aws sts get-caller-identity"), "{}", done.stderr);
    assert!(!machine.docker_config().exists());
    Ok(())
}

/// A machine without a network, in which every name is unknown.
fn offline(machine: &Machine) -> tokio::process::Command {
    let mut command = machine.command("/usr/bin/unshare");
    // A gcloud of the machine under the test is none of this one.
    command.env("PATH", machine.home());
    command.args(["--map-root-user", "--net", PROGRAM]);
    command
}

#[tokio::test]
async fn instance_metadata_whose_answers_get_lost() -> Result<()> {
    let (mut machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    // It takes connections, and says nothing: so it looks from behind one hop too many.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    machine.settings(&format!("registries = [\"{host}\"]\n"))?;
    let mut command = machine.command(PROGRAM);
    command
        .args(["once", "--verify", "false"])
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{}", silent.local_addr()?))
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    give_time(&machine)?;
    let done = run(&mut command).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("hop limit"), "{}", done.stderr);
    assert!(!done.stderr.contains("\"kind\":\"timeout\""), "{}", done.stderr);
    Ok(())
}

/// Lets a fetch take longer than the test's usual second, so that a busy machine does not
/// make a timeout of what is another error.
fn give_time(machine: &Machine) -> Result<()> {
    let path = machine.home().join("settings.toml");
    let text = std::fs::read_to_string(&path)?;
    put(&path, &text.replace("fetch_timeout = \"1s\"", "fetch_timeout = \"20s\""))
}

/// Waits until a program that was started takes connections.
async fn listens(address: &str) -> Result<()> {
    until(LIMIT, || Ok(std::net::TcpStream::connect(address).is_ok())).await
}

/// An ECR behind TLS, with a certificate of one's own for this name.
struct Impostor {
    _server: tokio::process::Child,
    endpoint: String,
    certificate: std::path::PathBuf,
}

impl Impostor {
    async fn start(machine: &Machine, name: &str) -> Result<Self> {
        let (key, certificate) = (machine.home().join("tls.key"), machine.home().join("tls.pem"));
        let mut command = machine.command("openssl");
        command
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-addext"])
            .arg(format!("subjectAltName=DNS:{name}"))
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        ended_with(&run(&mut command).await?, 0)?;
        let port = free_port()?;
        let mut command = machine.command("openssl");
        command.args([
            "s_server",
            "-quiet",
            "-www",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-key",
        ]);
        command.arg(&key).arg("-cert").arg(&certificate);
        let server = command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        listens(&format!("127.0.0.1:{port}")).await.context("openssl does not listen")?;
        Ok(Self { _server: server, endpoint: format!("https://localhost:{port}"), certificate })
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_and_one_of_another_name() -> Result<()> {
    for (name, is_trusted, words) in
        [("localhost", false, "UnknownIssuer"), ("other.example.com", true, "not valid for name")]
    {
        let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
        machine.put_docker_config(BEFORE)?;
        give_time(&machine)?;
        let impostor = Impostor::start(&machine, name).await?;
        let mut command = machine.command(PROGRAM);
        command.arg("once").env("AWS_ENDPOINT_URL_ECR", &impostor.endpoint);
        if is_trusted {
            command.env("SSL_CERT_FILE", &impostor.certificate);
        }
        let done = run(&mut command).await?;
        told(&done, &cloud, cloud.ecr_registry().host(), "unreachable", words)?;
        assert!(machine.auth(cloud.ecr_registry().host())?.is_none());
    }
    Ok(())
}

#[tokio::test]
async fn no_google_identity_at_all() -> Result<()> {
    let mut machine = Machine::new()?;
    let text =
        "listen = \"off\"\nfetch_timeout = \"20s\"\nregistries = [\"europe-docker.pkg.dev\"]";
    let path = machine.home().join("google.toml");
    put(&path, text)?;
    machine.set("FRESHCREDS_CONFIG", path);
    let done = run(offline(&machine).arg("once")).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("no Google credentials found"), "{}", done.stderr);
    assert!(done.stderr.contains("GOOGLE_APPLICATION_CREDENTIALS is not set"), "{}", done.stderr);
    Ok(())
}

#[tokio::test]
async fn ecrs_name_is_unknown() -> Result<()> {
    let mut machine = Machine::new()?;
    machine.set("AWS_ACCESS_KEY_ID", Cloud::ACCESS_KEY_ID);
    machine.set("AWS_SECRET_ACCESS_KEY", Cloud::SECRET_ACCESS_KEY);
    machine.put_docker_config(BEFORE)?;
    let path = machine.home().join("ecr.toml");
    let host = "123456789012.dkr.ecr.eu-nowhere-9.amazonaws.com";
    put(&path, &format!("registries = [\"{host}\"]"))?;
    machine.set("FRESHCREDS_CONFIG", path);
    let done = run(offline(&machine).arg("once")).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("cannot reach ECR"), "{}", done.stderr);
    assert!(done.stderr.contains("dns error"), "{}", done.stderr);
    assert_eq!(machine.docker_config_text()?, BEFORE);
    Ok(())
}

#[tokio::test]
async fn a_region_that_does_not_know_the_identity() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    cloud.revoke_access_key(Cloud::ACCESS_KEY_ID);
    let done = machine.freshcreds(&["once"]).await?;
    told(&done, &cloud, cloud.ecr_registry().host(), "denied", "UnrecognizedClientException")
}

#[tokio::test]
async fn a_google_key_that_is_revoked() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    cloud.rotate_service_account_key()?;
    let done = machine.freshcreds(&["once"]).await?;
    told(&done, &cloud, cloud.google_registry().host(), "refused", "invalid_grant")
}

#[tokio::test]
async fn a_google_key_file_that_is_missing_or_of_another_kind() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let path = machine.home().join("other.json");
    machine.set("GOOGLE_APPLICATION_CREDENTIALS", path.clone());
    let done = machine.freshcreds(&["once"]).await?;
    let host = cloud.google_registry().host();
    told(&done, &cloud, host, "no_credentials", "does not exist")?;

    for (text, words) in [
        ("{\"type\":\"external_account\"}", "a part of it is missing"),
        ("{\"type\":\"authorized_user\"}", "a part of it is missing"),
        ("{\"type\":\"gdch_service_account\"}", "`gdch_service_account` are not supported"),
        ("{\"type\":\"service_account\"}", "a part of the key is missing"),
        ("\"not an object, and a canary\"", "no JSON with a `type`"),
    ] {
        put(&path, text)?;
        let done = machine.freshcreds(&["once"]).await?;
        told(&done, &cloud, host, "bad_credentials", words)?;
        assert!(!done.stderr.contains("canary"), "{}", done.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn a_config_json_that_is_invalid_is_left_alone_and_said_so() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    for text in ["{\"auths\":{\"example.com\":{\"auth\":\"c29tZW9u", "[]", "\u{feff}{}"] {
        machine.put_docker_config(text)?;
        let done = machine.freshcreds(&["once"]).await?;
        ended_with(&done, 1)?;
        assert!(done.stderr.contains("is left as it is"), "{}", done.stderr);
        assert_eq!(machine.docker_config_text()?, text);
    }
    // The daemon says so for as long as it lasts, and no longer.
    let daemon = machine.daemon().await?;
    let report = daemon.wait_for(|report| report.checks.targets[0].last_error.is_some()).await?;
    assert_eq!(report.status, Health::Fail);
    machine.put_docker_config(BEFORE)?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(machine.auth("example.com")?.as_deref(), Some("c29tZW9uZTplbHNl"));
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_written() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    // Root may write everywhere, but not where the file system is read-only.
    let folder = machine.home().join(".docker");
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$2\" once";
    let mut command = machine.command("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(&folder)
        .arg(PROGRAM);
    let done = run(&mut command).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("\"kind\":\"read_only\""), "{}", done.stderr);
    assert!(done.stderr.contains("mount the folder writable"), "{}", done.stderr);
    assert_eq!(machine.docker_config_text()?, BEFORE);
    Ok(())
}

#[tokio::test]
async fn a_single_file_that_is_mounted() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let script = "mount --bind \"$1\" \"$1\" && exec \"$2\" once";
    let mut command = machine.command("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    let done = run(command.arg(machine.docker_config()).arg(PROGRAM)).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("\"kind\":\"mount_point\""), "{}", done.stderr);
    assert!(done.stderr.contains("mount its folder instead"), "{}", done.stderr);
    assert_eq!(machine.docker_config_text()?, BEFORE);
    assert_eq!(
        std::fs::read_dir(machine.home().join(".docker"))?.count(),
        1,
        "a file is left over"
    );
    Ok(())
}

#[tokio::test]
async fn a_disk_that_is_full() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let folder = machine.home().join(".docker");
    std::fs::create_dir_all(&folder)?;
    let script = "mount -t tmpfs -o size=8k tmpfs \"$1\" && printf %s \"$3\" > \"$1/config.json\" && \
                  head -c 4096 /dev/zero > \"$1/filler\"; \"$2\" once; code=$?; \
                  cat \"$1/config.json\"; ls -A \"$1\" | wc -l; exit $code";
    let mut command = machine.command("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    let done = run(command.arg(&folder).arg(PROGRAM).arg(BEFORE)).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("\"kind\":\"disk_full\""), "{}", done.stderr);
    assert_eq!(done.stdout, format!("{BEFORE}2\n"), "the old file, and nothing left over");
    Ok(())
}

#[tokio::test]
async fn a_creds_store_that_docker_would_ask_instead() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config("{\"credsStore\":\"desktop\"}")?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("remove `credsStore`"), "{}", done.stderr);
    // A field of an event must not have the name of its text.
    for line in done.stderr.lines().filter(|line| line.starts_with('{')) {
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
    }
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some(), "it is written all the same");
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    machine.set("FRESHCREDS_LISTEN", daemon.address().to_string());
    let done = machine.freshcreds(&["run"]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("choose another address with --listen"), "{}", done.stderr);
    drop(cloud);
    Ok(())
}

#[tokio::test]
async fn motos_ecr_whose_tokens_expired_in_2015() -> Result<()> {
    let mut machine = Machine::new()?;
    let mut moto = Moto::start(&machine).await?;
    machine.set("AWS_ACCESS_KEY_ID", "test");
    machine.set("AWS_SECRET_ACCESS_KEY", "test");
    machine.set("AWS_ENDPOINT_URL", moto.endpoint.clone());
    machine.put_docker_config(BEFORE)?;
    machine.settings("registries = [\"123456789012.dkr.ecr.us-east-1.amazonaws.com\"]")?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("\"kind\":\"expired_answer\""), "{}", done.stderr);
    assert!(done.stderr.contains("had expired already, at 2015"), "{}", done.stderr);
    assert!(done.stderr.contains("check this machine's clock"), "{}", done.stderr);
    assert_eq!(machine.docker_config_text()?, BEFORE);

    // The daemon keeps trying, and never says that it is ready.
    let daemon = machine.daemon().await?;
    let report =
        daemon.wait_for(|report| report.checks.credentials[0].last_error.is_some()).await?;
    assert_eq!(report.status, Health::Fail);
    assert_eq!(machine.docker_config_text()?, BEFORE);
    moto.child.kill().await?;
    let report = daemon
        .wait_for(|report| {
            let error = report.checks.credentials[0].last_error.as_ref();
            error.is_some_and(|error| error.kind == "unreachable")
        })
        .await?;
    assert!(report.checks.credentials[0].consecutive_failures >= 2);
    Ok(())
}

/// moto's server, a stand-in for AWS that is not ours.
struct Moto {
    child: tokio::process::Child,
    endpoint: String,
}

impl Moto {
    async fn start(machine: &Machine) -> Result<Self> {
        let port = free_port()?;
        let child = machine
            .command(tool("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .context("moto_server is missing: run `make setup`")?;
        let address = format!("127.0.0.1:{port}");
        listens(&address).await.context("moto does not listen")?;
        Ok(Self { child, endpoint: format!("http://{address}") })
    }
}

#[tokio::test]
async fn a_file_of_another_owner_keeps_its_owner_and_mode() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let path = machine.docker_config();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(4711), Some(0))?;
    }
    let before = std::fs::metadata(&path)?;
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    let after = std::fs::metadata(&path)?;
    assert_eq!(
        (before.uid(), before.gid(), before.mode()),
        (after.uid(), after.gid(), after.mode())
    );
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_denied_renewal_is_reported_while_the_old_token_still_works() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon: Daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    cloud.ecr().break_with(Fault::Denied);
    daemon.signal(rustix::process::Signal::USR1)?;
    let report = daemon.wait_for(|report| report.status == Health::Warn).await?;
    let check = &report.checks.credentials[0];
    assert_eq!(check.last_error.as_ref().context("no error")?.kind, "denied");
    let reason = check.next_refresh_reason.as_deref().unwrap_or_default();
    assert!(reason.contains("until someone acts"), "{reason}");
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    Ok(())
}
