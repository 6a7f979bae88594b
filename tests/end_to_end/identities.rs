//! Every way in which a machine can have an identity, up to the token in the
//! file: each link of AWS's default chain, and Google's metadata server.
//!
//! ECR's stand-in only gives a token to the access key that it was told to trust,
//! so a token in the file proves which link was used.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use freshcreds::status::Verdict as Health;
use tokio::task::JoinSet;

use crate::cloud::{Cloud, Options};
use crate::machine::{LIMIT, Machine, ecr_registry, ended_with, is_running, put, run};

const KEY_ID: &str = "identity-under-test";

/// A machine that has no identity of its own, and a cloud that trusts one key.
async fn machine() -> Result<(Machine, Cloud)> {
    let cloud = Cloud::start(Options::default()).await?;
    cloud.revoke_access_key(Cloud::ACCESS_KEY_ID);
    cloud.trust_access_key(KEY_ID);
    let mut machine = Machine::new()?;
    machine.set("AWS_ENDPOINT_URL_ECR", cloud.ecr_endpoint());
    machine.settings(&ecr_registry(&cloud))?;
    Ok((machine, cloud))
}

async fn gets_a_token(machine: &Machine, cloud: &Cloud) -> Result<()> {
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    let issued = cloud.ecr().issued().pop().context("nothing was issued")?;
    assert_eq!(machine.auth(cloud.ecr_registry().host())?, Some(issued.auth()));
    Ok(())
}

/// What an issuer of temporary credentials gives, in the form of the container's
/// and the instance's metadata.
fn temporary() -> String {
    format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{KEY_ID}\",\
         \"SecretAccessKey\":\"not-verified\",\"Token\":\"session\",\
         \"Expiration\":\"2100-01-01T00:00:00Z\",\"LastUpdated\":\"2020-01-01T00:00:00Z\"}}"
    )
}

/// A server on loopback that answers by path, and remembers who asked.
struct Metadata {
    address: String,
    asked: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    _task: JoinSet<()>,
}

type Asked = Arc<Mutex<Vec<(String, HeaderMap)>>>;

impl Metadata {
    async fn start() -> Result<Self> {
        let asked = Asked::default();
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let mut task = JoinSet::new();
        task.spawn(async move {
            // It ends when it is dropped.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { address, asked, _task: task })
    }

    fn header(&self, path: &str, name: &str) -> Option<String> {
        let asked = self.asked.lock().ok()?;
        let (_, headers) = asked.iter().find(|(asked, _)| asked.starts_with(path))?;
        Some(headers.get(name)?.to_str().ok()?.to_owned())
    }
}

async fn answer(State(asked): State<Asked>, uri: Uri, headers: HeaderMap) -> impl IntoResponse {
    let path = uri.path().to_owned();
    if let Ok(mut asked) = asked.lock() {
        asked.push((path.clone(), headers));
    }
    let (code, text) = match path.as_str() {
        "/container"
        | "/latest/meta-data/iam/security-credentials/builder"
        | "/latest/meta-data/iam/security-credentials-extended/builder" => {
            (StatusCode::OK, temporary())
        }
        "/latest/api/token" => (StatusCode::OK, "imds-session".to_owned()),
        "/latest/meta-data/iam/security-credentials/"
        | "/latest/meta-data/iam/security-credentials-extended/" => {
            (StatusCode::OK, "builder".to_owned())
        }
        // STS, for a web identity.
        "/" => (
            StatusCode::OK,
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{KEY_ID}</AccessKeyId>\
                 <SecretAccessKey>not-verified</SecretAccessKey><SessionToken>session</SessionToken>\
                 <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
                 <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/builder/x</Arn>\
                 <AssumedRoleId>id:x</AssumedRoleId></AssumedRoleUser>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            ),
        ),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    (code, [("x-aws-ec2-metadata-token-ttl-seconds", "21600")], text)
}

#[tokio::test]
async fn an_access_key_in_the_environment() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    machine.set("AWS_ACCESS_KEY_ID", KEY_ID);
    machine.set("AWS_SECRET_ACCESS_KEY", "not-verified");
    gets_a_token(&machine, &cloud).await
}

#[tokio::test]
async fn a_profile() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    let file = machine.home().join("credentials");
    put(&file, &format!("[builder]\naws_access_key_id={KEY_ID}\naws_secret_access_key=x\n"))?;
    machine.set("AWS_SHARED_CREDENTIALS_FILE", file);
    machine.set("AWS_PROFILE", "builder");
    gets_a_token(&machine, &cloud).await
}

#[tokio::test]
async fn a_program_that_a_profile_names() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    let program = machine.home().join("identity");
    let answer = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{KEY_ID}\",\"SecretAccessKey\":\"not-verified\"}}"
    );
    put(&program, &format!("#!/bin/sh\necho '{answer}'\n"))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))?;
    let file = machine.home().join("config");
    put(&file, &format!("[default]\ncredential_process={}\n", program.display()))?;
    machine.set("AWS_CONFIG_FILE", file);
    gets_a_token(&machine, &cloud).await
}

#[tokio::test]
async fn a_web_identity_whose_token_file_is_rotated() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    let sts = Metadata::start().await?;
    let token = machine.home().join("token");
    put(&token, "first-web-identity")?;
    machine.set("AWS_ENDPOINT_URL_STS", sts.address.clone());
    machine.set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/builder");
    machine.set("AWS_WEB_IDENTITY_TOKEN_FILE", token.clone());
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    put(&token, "second-web-identity")?;
    daemon.signal(rustix::process::Signal::USR1)?;
    tokio::time::timeout(LIMIT, cloud.ecr().wait_for_issued(2)).await?;
    // Asked again, rather than remembered.
    let asked = sts.asked.lock().map(|asked| asked.len()).unwrap_or_default();
    assert_eq!(asked, 2);
    assert!(!daemon.log().contains("web-identity"), "{}", daemon.log());
    Ok(())
}

#[tokio::test]
async fn a_pods_identity() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    let agent = Metadata::start().await?;
    let token = machine.home().join("token");
    put(&token, "pod-identity-token")?;
    machine.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", agent.address));
    machine.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
    gets_a_token(&machine, &cloud).await?;
    assert_eq!(agent.header("/container", "authorization").as_deref(), Some("pod-identity-token"));
    Ok(())
}

#[tokio::test]
async fn an_instances_role() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    let metadata = Metadata::start().await?;
    machine.set("AWS_EC2_METADATA_DISABLED", "false");
    machine.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.address.clone());
    gets_a_token(&machine, &cloud).await?;
    // The second version of the protocol, which asks for a session first.
    let session = metadata.header("/latest/meta-data", "x-aws-ec2-metadata-token");
    assert_eq!(session.as_deref(), Some("imds-session"));
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_file_is_read_anew() -> Result<()> {
    let (mut machine, cloud) = machine().await?;
    let file = machine.home().join("credentials");
    let write = |id: &str| {
        put(&file, &format!("[default]\naws_access_key_id={id}\naws_secret_access_key=x\n"))
    };
    write(KEY_ID)?;
    machine.set("AWS_SHARED_CREDENTIALS_FILE", file.clone());
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    cloud.revoke_access_key(KEY_ID);
    cloud.trust_access_key("rotated-identity");
    write("rotated-identity")?;
    daemon.signal(rustix::process::Signal::USR1)?;
    tokio::time::timeout(LIMIT, cloud.ecr().wait_for_issued(2)).await?;
    let report = daemon
        .wait_for(|report| {
            let identity = report.checks.credentials[0].identity.as_deref();
            identity.is_some_and(|identity| identity.ends_with("tity"))
        })
        .await?;
    assert_eq!(report.status, Health::Pass);
    Ok(())
}

#[tokio::test]
async fn googles_metadata_server() -> Result<()> {
    let mut machine = Machine::new()?;
    let config = machine.home().join("settings.toml");
    put(&config, "registries = [\"europe-docker.pkg.dev\"]\nlisten = \"off\"\n")?;
    machine.set("FRESHCREDS_CONFIG", config);
    // Its name and port are fixed, so the machine gets a network of its own in
    // which that name is loopback.
    let (server, hosts) = (machine.home().join("server.py"), machine.home().join("hosts"));
    put(&server, METADATA_SERVER)?;
    put(&hosts, "127.0.0.1 localhost metadata.google.internal\n")?;
    let script = "ip link set lo up && mount --bind \"$1\" /etc/hosts && \
                  python3 \"$2\" \"$3\" once --log-format json";
    let mut command = machine.command("unshare");
    command.args(["--map-root-user", "--net", "--mount", "sh", "-c", script, "sh"]);
    let done = run(command.arg(hosts).arg(server).arg(crate::machine::PROGRAM)).await?;
    ended_with(&done, 0)?;
    assert!(done.stderr.contains("machine@example.iam.gserviceaccount.com"), "{}", done.stderr);
    // An hour's token of which ten minutes are left is asked for again near its end.
    assert!(done.stderr.contains("its issuer gives no new one before"), "{}", done.stderr);
    let pair = STANDARD.encode("oauth2accesstoken:of-the-machine");
    assert_eq!(machine.auth("europe-docker.pkg.dev")?, Some(pair));
    Ok(())
}

/// A machine without a network, whose `gcloud` does what the script says.
fn machine_with_gcloud(script: &str) -> Result<Machine> {
    let mut machine = Machine::new()?;
    let config = machine.home().join("settings.toml");
    put(&config, "registries = [\"gcr.io\"]\nlisten = \"off\"\nfetch_timeout = \"5s\"\n")?;
    machine.set("FRESHCREDS_CONFIG", config);
    let programs = machine.home().join("programs");
    std::fs::create_dir(&programs)?;
    put(&programs.join("gcloud"), script)?;
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(programs.join("gcloud"), mode)?;
    machine.set("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    Ok(machine)
}

#[tokio::test]
async fn gclouds_user() -> Result<()> {
    let machine = machine_with_gcloud("#!/bin/sh\necho of-the-user\n")?;
    let mut command = machine.command("/usr/bin/unshare");
    command.args(["--map-root-user", "--net", crate::machine::PROGRAM, "once"]);
    ended_with(&run(&mut command).await?, 0)?;
    let pair = STANDARD.encode("oauth2accesstoken:of-the-user");
    assert_eq!(machine.auth("gcr.io")?, Some(pair));
    Ok(())
}

#[tokio::test]
async fn a_gcloud_that_hangs_is_ended_with_all_that_it_started() -> Result<()> {
    let script = "#!/bin/sh\nsleep 30 &\necho $! $$ >>\"$HOME/runs\"\nexec sleep 30\n";
    let machine = machine_with_gcloud(script)?;
    let mut command = machine.command("/usr/bin/unshare");
    command.args(["--map-root-user", "--net", crate::machine::PROGRAM, "once"]);
    let done = run(&mut command).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("\"kind\":\"timeout\""), "{}", done.stderr);
    let runs = std::fs::read_to_string(machine.home().join("runs"))?;
    for id in runs.split_whitespace() {
        assert!(!is_running(id), "{id} of {runs}");
    }
    Ok(())
}

/// Serves tokens on port 80 while it runs the program that its arguments name.
const METADATA_SERVER: &str = r#"
import http.server, subprocess, sys, threading

class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Metadata-Flavor") != "Google":
            return self.send_error(403)
        token = b'{"access_token":"of-the-machine","expires_in":600,"token_type":"Bearer"}'
        body = token if self.path.endswith("/token") else b"machine@example.iam.gserviceaccount.com"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 80), Metadata)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"#;
