//! Who would the real clients log in as? The program says whether they find our entry,
//! and here they are asked.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use freshcreds::credential::RegistryHost;
use freshcreds::targets::document::Document;
use freshcreds::targets::obstacles::{Reader, obstacles};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::machine::{Machine, put, run};

/// A registry that only wants to know who comes.
struct Gatekeeper {
    host: String,
    last: Arc<Mutex<Option<String>>>,
    server: JoinHandle<()>,
}

impl Gatekeeper {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = listener.local_addr()?.to_string();
        let last = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&last);
        let answer = move |headers: HeaderMap| {
            let seen = Arc::clone(&seen);
            async move {
                let version = ("docker-distribution-api-version", "registry/2.0");
                let basic = headers.get("authorization").and_then(|text| text.to_str().ok());
                if let Some(pair) = basic.and_then(|text| text.strip_prefix("Basic ")) {
                    let pair = STANDARD.decode(pair).unwrap_or_default();
                    let pair = String::from_utf8_lossy(&pair).into_owned();
                    let user = pair.split(':').next().unwrap_or_default().to_owned();
                    *seen.lock().await = Some(user);
                    return (StatusCode::NOT_FOUND, [version, ("x-nothing", "-")]).into_response();
                }
                let realm = ("www-authenticate", "Basic realm=\"test\"");
                (StatusCode::UNAUTHORIZED, [version, realm]).into_response()
            }
        };
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, Router::new().fallback(answer)).await;
        });
        Ok(Self { host, last, server })
    }

    async fn who(&self) -> String {
        self.last.lock().await.take().unwrap_or_else(|| "nobody".to_owned())
    }
}

fn auth(user: &str) -> String {
    STANDARD.encode(format!("{user}:word"))
}

/// Every combination of what can be in the way, for a host.
fn cases(host: &str) -> Vec<(String, String)> {
    let ours = json!({ "auth": auth("ours") });
    let plain = json!({ "auths": { host: ours } });
    let mut cases = Vec::new();
    let mut case = |name: String, value: &Value| cases.push((name, value.to_string()));
    for store in [None, Some(""), Some("store"), Some("none")] {
        for helper in [None, Some(""), Some("helper"), Some("none")] {
            let mut value = plain.clone();
            if let Some(store) = store {
                value["credsStore"] = json!(store);
            }
            if let Some(helper) = helper {
                value["credHelpers"] = json!({ host: helper });
            }
            case(format!("credsStore {store:?}, credHelpers {helper:?}"), &value);
        }
    }
    for key in [
        format!("https://{host}"),
        format!("http://{host}"),
        format!("https://{host}/v1/"),
        format!("{host}/"),
        format!("{host}/v2/"),
    ] {
        let twin = json!({ "auth": auth("twin") });
        // Both orders, as text, since a map of JSON has none.
        for (first, second) in
            [((&key, &twin), (&host.to_owned(), &ours)), ((&host.to_owned(), &ours), (&key, &twin))]
        {
            let text = format!(
                "{{\"auths\":{{\"{}\":{},\"{}\":{}}}}}",
                first.0, first.1, second.0, second.1
            );
            cases.push((format!("twin {key}"), text));
        }
    }
    let host_entry = format!("\"auths\":{{\"{host}\":{ours}}}");
    for (name, text) in [
        ("CREDSSTORE", format!("{{{host_entry},\"CREDSSTORE\":\"store\"}}")),
        ("CredHelpers", format!("{{{host_entry},\"CredHelpers\":{{\"{host}\":\"helper\"}}}}")),
        (
            "two credsStore",
            format!("{{\"credsStore\":\"store\",{host_entry},\"credsStore\":\"\"}}"),
        ),
        (
            "two credsStore, turned",
            format!("{{\"credsStore\":\"\",{host_entry},\"credsStore\":\"store\"}}"),
        ),
        (
            "two credHelpers",
            format!(
                "{{\"credHelpers\":{{\"{host}\":\"helper\"}},{host_entry},\"credHelpers\":{{\"x\":\"y\"}}}}"
            ),
        ),
        ("null", format!("{{\"credHelpers\":null,\"credsStore\":null,{host_entry}}}")),
        (
            "a helper of another host",
            format!("{{{host_entry},\"credHelpers\":{{\"https://{host}\":\"helper\"}}}}"),
        ),
        ("credHelpers of a wrong type", format!("{{{host_entry},\"credHelpers\":[\"helper\"]}}")),
        ("psFormat of a wrong type", format!("{{{host_entry},\"psFormat\":5}}")),
        (
            "ours twice",
            format!(
                "{{\"auths\":{{\"{host}\":{{\"auth\":\"{}\"}},\"{host}\":{ours}}}}}",
                auth("first")
            ),
        ),
    ] {
        cases.push((name.to_owned(), text));
    }
    cases
}

/// Whether the program says that the reader finds our entry.
fn is_found(text: &str, host: &RegistryHost, reader: Reader) -> Result<bool> {
    let document = Document::parse(text.as_bytes())?;
    let hosts = [host.clone()];
    Ok(!obstacles(&document, &hosts, reader).iter().any(|one| one.hides(host, reader)))
}

fn install_helpers(machine: &mut Machine) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let programs = machine.home().join("programs");
    std::fs::create_dir_all(&programs)?;
    for (name, answer) in [
        ("store", "echo '{\"ServerURL\":\"x\",\"Username\":\"store\",\"Secret\":\"s\"}'"),
        ("helper", "echo '{\"ServerURL\":\"x\",\"Username\":\"helper\",\"Secret\":\"s\"}'"),
        ("none", "echo credentials not found in native keychain; exit 1"),
    ] {
        let path = programs.join(format!("docker-credential-{name}"));
        put(&path, &format!("#!/bin/sh\ncat >/dev/null\n{answer}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    machine.set("PATH", format!("{}:{path}", programs.display()));
    Ok(())
}

#[tokio::test]
async fn docker_agrees_with_us_on_who_it_would_log_in_as() -> Result<()> {
    let mut machine = Machine::new()?;
    install_helpers(&mut machine)?;
    let gatekeeper = Gatekeeper::start().await?;
    let engine = Engine::start(&machine).await?;
    let host: RegistryHost = gatekeeper.host.parse()?;
    let mut wrong = Vec::new();
    let cases = cases(&gatekeeper.host);
    for (name, text) in &cases {
        machine.put_docker_config(text)?;
        let mut command = machine.command("docker");
        command.args(["--host", engine.socket(), "pull", "--quiet"]);
        run(command.arg(format!("{host}/team/image:tag"))).await?;
        let who = gatekeeper.who().await;
        if is_found(text, &host, Reader::Docker)? != (who == "ours") {
            wrong.push(format!("{name}: docker logs in as {who}: {text}"));
        }
    }
    engine.stop().await?;
    gatekeeper.server.abort();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("docker agrees in {} cases", cases.len());
    Ok(())
}

#[tokio::test]
async fn one_entry_that_does_not_decode_can_keep_docker_from_all() -> Result<()> {
    let machine = Machine::new()?;
    let gatekeeper = Gatekeeper::start().await?;
    let host: RegistryHost = gatekeeper.host.parse()?;
    let text = format!(
        "{{\"auths\":{{\"{host}\":{{\"auth\":\"{}\"}},\"example.com\":{{\"auth\":\"!!\"}}}}}}",
        auth("ours")
    );
    assert!(!is_found(&text, &host, Reader::Docker)?);
    machine.put_docker_config(&text)?;
    // Docker decodes in random order, so it is the warning that is the same each time.
    let mut command = machine.command("docker");
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").args(["context", "ls"]);
    let done = run(&mut command).await?;
    assert!(done.stderr.contains("illegal base64"), "{}", done.stderr);
    Ok(())
}

#[tokio::test]
async fn skopeo_podman_and_buildah_agree_with_us_on_who_they_would_log_in_as() -> Result<()> {
    let mut machine = Machine::new()?;
    install_helpers(&mut machine)?;
    machine.set("XDG_RUNTIME_DIR", machine.home().join("run"));
    let gatekeeper = Gatekeeper::start().await?;
    let host: RegistryHost = gatekeeper.host.parse()?;
    let mut wrong = Vec::new();
    let cases = cases(&gatekeeper.host);
    for (name, text) in &cases {
        machine.put_docker_config(text)?;
        let is_found = is_found(text, &host, Reader::Podman)?;
        let mut skopeo = machine.command("skopeo");
        skopeo.args(["inspect", "--tls-verify=false"]);
        run(skopeo.arg(format!("docker://{host}/team/image:tag"))).await?;
        let mut found = vec![("skopeo", gatekeeper.who().await)];
        for program in ["podman", "buildah"] {
            let mut command = machine.command(program);
            let done = run(command.args(["login", "--get-login", host.as_str()])).await?;
            found.push((program, done.stdout.trim().to_owned()));
        }
        for (program, who) in found {
            if is_found != (who == "ours") {
                wrong.push(format!("{name}: {program} logs in as {who:?}: {text}"));
            }
        }
    }
    gatekeeper.server.abort();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("skopeo, podman and buildah agree in {} cases", cases.len());
    Ok(())
}

#[tokio::test]
async fn a_path_of_the_registry_is_another_entry_for_podman() -> Result<()> {
    let machine = Machine::new()?;
    let gatekeeper = Gatekeeper::start().await?;
    let host: RegistryHost = gatekeeper.host.parse()?;
    let text = format!(
        "{{\"auths\":{{\"{host}\":{{\"auth\":\"{}\"}},\"{host}/team\":{{\"auth\":\"{}\"}}}}}}",
        auth("ours"),
        auth("team")
    );
    machine.put_docker_config(&text)?;
    for (image, user) in [("team/image:tag", "team"), ("other/image:tag", "ours")] {
        let mut skopeo = machine.command("skopeo");
        skopeo.args(["inspect", "--tls-verify=false"]);
        run(skopeo.arg(format!("docker://{host}/{image}"))).await?;
        assert_eq!(gatekeeper.who().await, user);
    }
    let document = Document::parse(text.as_bytes())?;
    let found = obstacles(&document, std::slice::from_ref(&host), Reader::Podman);
    assert_eq!(found.first().context("it is not reported")?.kind().as_str(), "path_key");
    Ok(())
}
