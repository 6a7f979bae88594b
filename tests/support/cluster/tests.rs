//! Each rule, over HTTP as a client meets it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Kind, Rule, StandIn};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const DOCKER: &str = "eyJhdXRocyI6e319";
const OTHER_DOCKER: &str = "eyJhdXRocyI6eyJhIjp7fX19";

/// One connection for one request.
struct Client<'a> {
    to: &'a StandIn,
    accept: &'a str,
    token: Option<&'a str>,
    agent: &'a str,
}

impl<'a> Client<'a> {
    fn new(to: &'a StandIn) -> Self {
        Self { to, accept: "application/json", token: None, agent: "tester/1.0 (linux)" }
    }

    fn metadata(to: &'a StandIn) -> Self {
        Self { accept: METADATA, ..Self::new(to) }
    }

    fn with_token(to: &'a StandIn, token: &'a str) -> Self {
        Self { token: Some(token), ..Self::new(to) }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(self.to.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let token = self.token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\nAccept: {}\r\nUser-Agent: {}\r\n{}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            self.accept,
            self.agent,
            token.unwrap_or_default(),
            body.len()
        )?;
        Ok(BufReader::new(stream))
    }

    fn raw(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> Result<(u16, String, String)> {
        let mut stream = self.send(method, path, kind, body)?;
        let (status, head) = head(&mut stream)?;
        let mut body = String::new();
        stream.read_to_string(&mut body)?;
        Ok((status, head, body))
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, _, body) = self.raw(method, path, kind, &body)?;
        Ok((status, serde_json::from_str(&body).with_context(|| body)?))
    }

    fn get(&self, path: &str) -> Result<(u16, Value)> {
        self.ask("GET", path, "", &Value::Null)
    }

    fn apply(&self, path: &str, manager: &str, body: &Value) -> Result<(u16, Value)> {
        self.ask("PATCH", &format!("{path}?fieldManager={manager}"), APPLY, body)
    }

    fn force(&self, path: &str, manager: &str, body: &Value) -> Result<(u16, Value)> {
        self.ask("PATCH", &format!("{path}?fieldManager={manager}&force=true"), APPLY, body)
    }

    fn merge(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        self.ask("PATCH", path, MERGE, body)
    }

    fn watch(&self, path: &str) -> Result<Events> {
        let mut stream = self.send("GET", path, "", "")?;
        let (status, head) = head(&mut stream)?;
        ensure!(status == 200, "{head}");
        Ok(Events { stream, chunked: head.contains("chunked") })
    }
}

fn head(stream: &mut BufReader<TcpStream>) -> Result<(u16, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "hung up after {head:?}");
    }
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, head.to_lowercase()))
}

/// An open watch.
struct Events {
    stream: BufReader<TcpStream>,
    chunked: bool,
}

impl Events {
    /// The next one; nothing at the end.
    fn next(&mut self) -> Result<Option<(String, Value)>> {
        let mut line = String::new();
        if self.chunked {
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16)?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk)?;
            chunk.truncate(size);
            line = String::from_utf8(chunk)?;
        } else {
            self.stream.read_line(&mut line)?;
        }
        if line.is_empty() {
            return Ok(None);
        }
        let mut event: Value = serde_json::from_str(&line).context(line)?;
        Ok(Some((event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take())))
    }

    /// What happened to what, as in `ADDED a`.
    fn told(&mut self) -> Result<String> {
        let (word, object) = self.next()?.context("the watch ended")?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Ok(format!("{word} {name}").trim_end().to_owned())
    }

    fn is_silent(&mut self) -> Result<bool> {
        self.stream.get_ref().set_read_timeout(Some(Duration::from_millis(150)))?;
        let silent = self.stream.fill_buf().is_err();
        self.stream.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(silent)
    }
}

fn until(what: &str, is: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !is() {
        if started.elapsed() > Duration::from_secs(5) {
            bail!("not so after 5 s: {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

const SECRET: &str = "/api/v1/namespaces/default/secrets/s";
const MAP: &str = "/api/v1/namespaces/default/configmaps/m";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

fn map(data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data })
}

fn named(name: &str, labels: &Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "default", "labels": labels });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata })
}

fn secret(data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" },
        "type": "kubernetes.io/dockerconfigjson", "data": data,
    })
}

fn lease(version: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "l", "resourceVersion": version },
        "spec": { "holderIdentity": "a", "renewTime": "2026-11-28T11:45:29.000000Z" },
    })
}

/// Who has what: `manager/operation` and the fields below `f:data`.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array();
    let entries = entries.into_iter().flatten().map(|entry| {
        let word = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let data = entry["fieldsV1"]["f:data"].as_object().into_iter().flatten();
        let data: Vec<_> = data.map(|(key, _)| key.trim_start_matches("f:").to_owned()).collect();
        format!("{}/{}: {}", word("manager"), word("operation"), data.join(" "))
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

#[test]
fn an_apply_creates_and_then_changes() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let (status, made) = client.apply(MAP, "one", &map(&json!({ "a": "1" })))?;
    assert_eq!((status, &made["data"]), (201, &json!({ "a": "1" })));
    let (status, changed) = client.apply(MAP, "one", &map(&json!({ "a": "2" })))?;
    assert_eq!((status, &changed["data"]), (200, &json!({ "a": "2" })));
    assert_eq!(made["metadata"]["uid"], changed["metadata"]["uid"]);
    assert_ne!(made["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    assert_eq!(owners(&changed), ["one/Apply: a"]);
    Ok(())
}

#[test]
fn an_apply_that_changes_nothing_is_no_write() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let (_, first) = client.apply(MAP, "one", &map(&json!({ "a": "1" })))?;
    let version = first["metadata"]["resourceVersion"].as_str().context("no version")?;
    let mut events = client.watch(&format!("{MAPS}?watch=true&resourceVersion={version}"))?;
    let (_, second) = client.apply(MAP, "one", &map(&json!({ "a": "1" })))?;
    assert_eq!(first, second);
    assert!(events.is_silent()?);
    Ok(())
}

#[test]
fn what_an_apply_leaves_out_goes_unless_somebody_else_has_it() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    client.apply(MAP, "one", &map(&json!({ "a": "1", "b": "1", "c": "1" })))?;
    let (_, both) = client.apply(MAP, "two", &map(&json!({ "b": "1" })))?;
    assert_eq!(owners(&both), ["one/Apply: a b c", "two/Apply: b"]);
    let (_, left) = client.apply(MAP, "one", &map(&json!({ "a": "1" })))?;
    assert_eq!(left["data"], json!({ "a": "1", "b": "1" }));
    assert_eq!(owners(&left), ["one/Apply: a", "two/Apply: b"]);
    client.apply(MAP, "two", &map(&json!({})))?;
    let (_, left) = client.apply(MAP, "one", &map(&json!({})))?;
    assert!(left.get("data").is_none(), "{left}");
    Ok(())
}

#[test]
fn another_value_is_a_conflict_and_force_takes_the_field() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    client.apply(MAP, "one", &map(&json!({ "a": "1", "b": "1" })))?;
    let (status, refused) = client.apply(MAP, "two", &map(&json!({ "a": "2" })))?;
    assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
    let message = "Apply failed with 1 conflict: conflict with \"one\": .data.a";
    assert_eq!(refused["message"], message);
    let cause = json!({
        "reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a",
    });
    assert_eq!(refused["details"]["causes"], json!([cause]));
    let (status, forced) = client.force(MAP, "two", &map(&json!({ "a": "2" })))?;
    assert_eq!((status, &forced["data"]), (200, &json!({ "a": "2", "b": "1" })));
    assert_eq!(owners(&forced), ["one/Apply: b", "two/Apply: a"]);
    Ok(())
}

#[test]
fn a_patch_takes_what_it_changes_from_the_appliers() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client { agent: "kubectl/v1.30 (linux)", ..Client::new(&standin) };
    client.apply(MAP, "one", &map(&json!({ "a": "1", "b": "1" })))?;
    let (_, patched) = client.merge(MAP, &json!({ "data": { "a": "2", "b": "1", "c": "3" } }))?;
    assert_eq!(owners(&patched), ["kubectl/Update: a c", "one/Apply: b"]);
    let (status, refused) = client.apply(MAP, "one", &map(&json!({ "a": "1" })))?;
    assert_eq!(status, 409);
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("conflict with \"kubectl\" using v1: .data.a"), "{message}");
    let (_, patched) = client.merge(MAP, &json!({ "data": { "a": null } }))?;
    assert_eq!(owners(&patched), ["kubectl/Update: c", "one/Apply: b"]);
    Ok(())
}

#[test]
fn a_put_replaces_and_takes_what_it_changes() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let (_, mut made) = client.apply(MAP, "one", &map(&json!({ "a": "1", "b": "1" })))?;
    made["data"] = json!({ "a": "2" });
    let (status, put) = client.ask("PUT", &format!("{MAP}?fieldManager=p"), "", &made)?;
    assert_eq!((status, &put["data"]), (200, &json!({ "a": "2" })));
    assert_eq!(owners(&put), ["p/Update: a"]);
    let (status, stale) = client.ask("PUT", MAP, "", &made)?;
    assert_eq!((status, &stale["reason"]), (409, &json!("Conflict")));
    Ok(())
}

#[test]
fn lists_and_scalars_are_owned_as_a_whole() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let path = "/api/v1/namespaces/default/serviceaccounts/a";
    let account = |names: &Value| json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "a" }, "imagePullSecrets": names });
    client.apply(path, "one", &account(&json!([{ "name": "x" }])))?;
    let two = account(&json!([{ "name": "x" }, { "name": "y" }]));
    let (status, refused) = client.apply(path, "two", &two)?;
    assert_eq!(
        (status, &refused["details"]["causes"][0]["field"]),
        (409, &json!(".imagePullSecrets"))
    );
    let (_, forced) = client.force(path, "two", &two)?;
    let metadata = &forced["metadata"]["managedFields"];
    assert_eq!(metadata.as_array().map(Vec::len), Some(1), "{metadata}");
    assert_eq!(metadata[0]["fieldsV1"], json!({ "f:imagePullSecrets": {} }));
    Ok(())
}

#[test]
fn labels_and_annotations_are_owned_one_by_one() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let body = |labels: &Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m", "labels": labels, "annotations": { "x/y": "z" } } });
    client.apply(MAP, "one", &body(&json!({ "a.b/c": "1" })))?;
    let (_, both) = client.apply(MAP, "two", &body(&json!({ "d": "1" })))?;
    assert_eq!(both["metadata"]["labels"], json!({ "a.b/c": "1", "d": "1" }));
    let fields = json!({ "f:metadata": { "f:annotations": { "f:x/y": {} }, "f:labels": { "f:a.b/c": {} } } });
    assert_eq!(both["metadata"]["managedFields"][0]["fieldsV1"], fields);
    Ok(())
}

#[test]
fn wiped_managed_fields_become_before_first_apply() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    client.apply(MAP, "one", &map(&json!({ "a": "1" })))?;
    client.merge(MAP, &json!({ "metadata": { "managedFields": [{}] } }))?;
    let (_, refused) = client.apply(MAP, "one", &map(&json!({ "a": "2" })))?;
    let message = refused["details"]["causes"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("before-first-apply"), "{refused}");
    Ok(())
}

#[test]
fn whoever_made_a_map_and_lost_all_of_it_is_in_the_way_again() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    client.ask("POST", &format!("{MAPS}?fieldManager=maker"), "", &map(&json!({ "a": "1" })))?;
    let (_, forced) = client.force(MAP, "one", &map(&json!({ "a": "2" })))?;
    assert_eq!(owners(&forced), ["maker/Update: ", "one/Apply: a"]);
    let (status, refused) = client.apply(MAP, "one", &map(&json!({ "a": "3" })))?;
    assert_eq!(status, 409);
    let message = "Apply failed with 1 conflict: conflict with \"maker\" using v1: .data.a";
    assert_eq!(refused["message"], message);
    Ok(())
}

#[test]
fn what_has_a_finalizer_stays_until_it_has_none() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let mut body = map(&json!({}));
    body["metadata"]["finalizers"] = json!(["a.b/c"]);
    client.apply(MAP, "one", &body)?;
    let (status, left) = client.ask("DELETE", MAP, "", &Value::Null)?;
    assert_eq!((status, &left["kind"]), (200, &json!("ConfigMap")));
    assert!(client.get(MAP)?.1["metadata"]["deletionTimestamp"].is_string());
    client.merge(MAP, &json!({ "metadata": { "finalizers": null } }))?;
    assert_eq!(client.get(MAP)?.0, 404);
    Ok(())
}

#[test]
fn names_and_labels_are_checked() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let with = |field: &str, value: Value| {
        let mut body = map(&json!({}));
        body["metadata"][field] = value;
        client.apply(MAP, "one", &body)
    };
    assert_eq!(with("labels", json!({ "a.b/C_d": "X.y", "e": "" }))?.0, 201);
    assert_eq!(with("labels", json!({ "a": "b c" }))?.0, 422);
    assert_eq!(with("labels", json!({ "a/b/c": "d" }))?.0, 422);
    assert_eq!(with("labels", json!({ "a": 5 }))?.0, 500);
    assert_eq!(with("annotations", json!({ "a": "{b: c}" }))?.0, 200);
    assert_eq!(with("annotations", json!({ "a": "b".repeat(256 * 1024) }))?.0, 422);
    assert_eq!(client.apply(MAP, "one", &map(&json!({ "a b": "c" })))?.0, 422);
    assert!(standin.create(named("A", &json!({}))).is_err());
    assert!(standin.create_namespace("a.b", &[]).is_err());
    Ok(())
}

#[test]
fn an_empty_list_of_metadata_has_null_for_items() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client { accept: METADATA_LIST, ..Client::new(&standin) };
    assert!(client.get(MAPS)?.1["items"].is_null());
    assert_eq!(Client::new(&standin).get(MAPS)?.1["items"], json!([]));
    Ok(())
}

#[test]
fn an_apply_minds_uid_and_version() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let with =
        |metadata: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
    let (status, refused) = client.apply(MAP, "one", &with(json!({ "uid": "u" })))?;
    assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
    let message = "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid u, and no existing object was found";
    assert_eq!(refused["message"], message);
    let (_, made) = client.apply(MAP, "one", &map(&json!({})))?;
    let (status, refused) = client.apply(MAP, "one", &with(json!({ "uid": "u" })))?;
    assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")));
    let (status, refused) = client.apply(MAP, "one", &with(json!({ "resourceVersion": "1" })))?;
    assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
    let uid = &made["metadata"]["uid"];
    let labels = json!({ "a": "b" });
    let (status, _) = client.apply(MAP, "one", &with(json!({ "uid": uid, "labels": labels })))?;
    assert_eq!(status, 200);
    let (status, _) = client.ask("PATCH", MAP, APPLY, &map(&json!({})))?;
    assert_eq!(status, 422, "without a manager");
    Ok(())
}

#[test]
fn a_dry_run_keeps_nothing() -> Result<()> {
    let standin = StandIn::start()?;
    let path = format!("{MAP}?fieldManager=one&dryRun=All");
    let (status, made) =
        Client::new(&standin).ask("PATCH", &path, APPLY, &map(&json!({ "a": "1" })))?;
    assert_eq!((status, &made["data"]["a"]), (201, &json!("1")));
    assert!(standin.get(Kind::ConfigMap, "default", "m").is_none());
    Ok(())
}

#[test]
fn a_secret_keeps_its_rules() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let docker = |data: &str| secret(&json!({ ".dockerconfigjson": data }));
    let refused = |body: &Value, field: &str| -> Result<()> {
        let (status, answer) = client.force(SECRET, "one", body)?;
        assert_eq!((status, &answer["reason"]), (422, &json!("Invalid")), "{answer}");
        assert_eq!(answer["details"]["causes"][0]["field"], field);
        Ok(())
    };
    refused(&secret(&json!({})), "data[.dockerconfigjson]")?;
    refused(&docker("bm9wZQ=="), "data[.dockerconfigjson]")?;
    refused(&secret(&json!({ ".dockerconfigjson": DOCKER, "b": "AAAA".repeat(349_526) })), "data")?;
    let (status, made) = client.apply(SECRET, "one", &docker(DOCKER))?;
    assert_eq!((status, &made["type"]), (201, &json!("kubernetes.io/dockerconfigjson")));
    let mut other = docker(DOCKER);
    other["type"] = json!("Opaque");
    refused(&other, "type")?;
    let mut fixed = docker(DOCKER);
    fixed["immutable"] = json!(true);
    assert_eq!(client.apply(SECRET, "one", &fixed)?.0, 200);
    fixed["data"] = json!({ ".dockerconfigjson": OTHER_DOCKER });
    refused(&fixed, "data")?;
    let plain = json!({ "metadata": { "name": "plain" } });
    let (_, plain) = client.ask("POST", "/api/v1/namespaces/default/secrets", "", &plain)?;
    assert_eq!(plain["type"], "Opaque");
    Ok(())
}

#[test]
fn a_lease_is_taken_by_whoever_has_seen_it_last() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let path = format!("{LEASES}/l");
    assert_eq!(client.get(&path)?.0, 404);
    let (status, made) = client.ask("POST", LEASES, "", &lease(""))?;
    assert_eq!(status, 201);
    assert_eq!(client.ask("POST", LEASES, "", &lease(""))?.1["reason"], "AlreadyExists");
    let seen = made["metadata"]["resourceVersion"].as_str().context("no version")?;
    let mut taken = lease(seen);
    taken["spec"]["holderIdentity"] = json!("b");
    assert_eq!(client.ask("PUT", &path, "", &taken)?.0, 200);
    assert_eq!(client.ask("PUT", &path, "", &taken)?.1["reason"], "Conflict");
    assert_eq!(client.ask("PUT", &path, "", &lease(""))?.0, 422, "without a version");
    let mut short = lease("");
    short["spec"]["renewTime"] = json!("2026-11-28T11:45:29Z");
    assert_eq!(client.ask("POST", LEASES, "", &short)?.0, 400);
    Ok(())
}

#[test]
fn a_deletion_minds_its_preconditions() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let (_, made) = client.apply(MAP, "one", &map(&json!({})))?;
    let options = |uid: &Value| json!({ "preconditions": { "uid": uid } });
    let (status, refused) = client.ask("DELETE", MAP, "", &options(&json!("u")))?;
    assert_eq!((status, &refused["reason"]), (409, &json!("Conflict")));
    let (status, done) = client.ask("DELETE", MAP, "", &options(&made["metadata"]["uid"]))?;
    assert_eq!((status, &done["status"]), (200, &json!("Success")));
    assert_eq!(client.ask("DELETE", MAP, "", &Value::Null)?.0, 404);
    Ok(())
}

#[test]
fn selectors_select() -> Result<()> {
    let standin = StandIn::start()?;
    standin.create(named("a", &json!({ "n": "1", "x": "y" })))?;
    standin.create(named("b", &json!({ "n": "2" })))?;
    standin.create(named("c", &json!({})))?;
    let client = Client::new(&standin);
    let selected = |query: &str| -> Result<String> {
        let (status, list) = client.get(&format!("/api/v1/configmaps?{query}"))?;
        ensure!(status == 200, "{list}");
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items.filter_map(|item| item["metadata"]["name"].as_str()).collect())
    };
    for (query, names) in [
        ("labelSelector=n%3D1", "a"),
        ("labelSelector=n==1", "a"),
        ("labelSelector=n!=1", "bc"),
        ("labelSelector=n+in+(1,2)", "ab"),
        ("labelSelector=n%20notin%20(1,%203)", "bc"),
        ("labelSelector=n", "ab"),
        ("labelSelector=!n", "c"),
        ("labelSelector=n+in+(1,2),!x", "b"),
        ("fieldSelector=metadata.name%3Db", "b"),
        ("fieldSelector=metadata.name=b,metadata.namespace=other", ""),
        ("", "abc"),
    ] {
        assert_eq!(selected(query)?, names, "{query}");
    }
    assert!(selected("labelSelector=n+in+(1").is_err());
    assert!(selected("fieldSelector=data.a=b").is_err());
    Ok(())
}

#[test]
fn pages_are_of_one_moment_until_it_is_forgotten() -> Result<()> {
    let standin = StandIn::start()?;
    for name in ["a", "b", "c", "d"] {
        standin.create(named(name, &json!({})))?;
    }
    let client = Client { accept: METADATA_LIST, ..Client::new(&standin) };
    let (_, first) = client.get(&format!("{MAPS}?limit=1"))?;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert_eq!(first["kind"], "PartialObjectMetadataList");
    assert_eq!(first["items"][0]["kind"], "PartialObjectMetadata");
    let token = first["metadata"]["continue"].as_str().context("no token")?;
    standin.delete(Kind::ConfigMap, "default", "c");
    standin.create(named("bb", &json!({})))?;
    let path = format!("{MAPS}?limit=10&continue={token}");
    let (_, rest) = client.get(&path)?;
    let names: Vec<_> = rest["items"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = names.iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["b", "c", "d"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    standin.compact();
    let (status, expired) = client.get(&path)?;
    assert_eq!((status, &expired["reason"]), (410, &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().context("no token to go on with")?;
    let (status, rest) = client.get(&format!("{MAPS}?continue={token}"))?;
    assert_eq!((status, &rest["items"][1]["metadata"]["name"]), (200, &json!("bb")));
    Ok(())
}

#[test]
fn a_watch_tells_what_comes_into_its_selection_and_what_leaves() -> Result<()> {
    let standin = StandIn::start()?;
    standin.create(named("a", &json!({ "in": "yes" })))?;
    let client = Client::metadata(&standin);
    let mut events = client.watch("/api/v1/configmaps?watch=1&labelSelector=in%3Dyes")?;
    assert_eq!(events.told()?, "ADDED a");
    standin.create(named("b", &json!({ "in": "no" })))?;
    let edit = |label: &'static str| {
        standin.edit(Kind::ConfigMap, "default", "b", move |it| {
            it["metadata"]["labels"]["in"] = json!(label);
        })
    };
    edit("yes")?;
    assert_eq!(events.told()?, "ADDED b");
    standin.edit(Kind::ConfigMap, "default", "b", |it| it["data"] = json!({ "k": "v" }))?;
    assert_eq!(events.told()?, "MODIFIED b");
    let left = edit("no")?;
    let (word, object) = events.next()?.context("it ended")?;
    assert_eq!((word.as_str(), &object["kind"]), ("DELETED", &json!("PartialObjectMetadata")));
    assert_eq!(object["metadata"]["labels"]["in"], "yes", "the last state that matched");
    assert_eq!(object["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    standin.delete(Kind::ConfigMap, "default", "a");
    assert_eq!(events.told()?, "DELETED a");
    assert!(object.get("data").is_none());
    Ok(())
}

#[test]
fn a_watch_goes_on_where_another_ended_and_gets_410_if_that_is_forgotten() -> Result<()> {
    let standin = StandIn::start()?;
    let seen = standin.create(named("a", &json!({})))?;
    standin.create(named("b", &json!({})))?;
    standin.delete(Kind::ConfigMap, "default", "a");
    let client = Client::new(&standin);
    let version = seen["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("/api/v1/configmaps?watch=true&resourceVersion={version}");
    let mut events = client.watch(&path)?;
    assert_eq!((events.told()?, events.told()?), ("ADDED b".into(), "DELETED a".into()));
    standin.compact();
    standin.create(named("c", &json!({})))?;
    assert_eq!(events.told()?, "ADDED c", "an open one is none the worse");
    let (word, status) = client.watch(&path)?.next()?.context("no event")?;
    assert_eq!((word.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert_eq!(status["reason"], "Expired");
    standin.longest_history(2);
    standin.create(named("d", &json!({})))?;
    let (word, _) = client.watch(&path)?.next()?.context("no event")?;
    assert_eq!(word, "ERROR", "the history is bounded");
    Ok(())
}

#[test]
fn a_watch_gets_bookmarks_and_ends_when_its_time_is_over() -> Result<()> {
    let standin = StandIn::start()?;
    standin.bookmark_every(Duration::from_millis(300));
    let client = Client::new(&standin);
    let path = "/api/v1/secrets?watch=true&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut events = client.watch(path)?;
    let (word, object) = events.next()?.context("it ended")?;
    assert_eq!((word.as_str(), &object["kind"]), ("BOOKMARK", &json!("Secret")));
    let started = Instant::now();
    while events.next()?.is_some() {}
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    until("it is closed", || standin.watches_open() == 0)
}

#[test]
fn a_namespace_has_its_label_and_its_account_which_comes_back() -> Result<()> {
    let standin = StandIn::start()?;
    let made = standin.create_namespace("team", &[("a", "b")])?;
    let labels = json!({ "a": "b", "kubernetes.io/metadata.name": "team" });
    assert_eq!(made["metadata"]["labels"], labels);
    let account = || standin.get(Kind::ServiceAccount, "team", "default");
    until("the account is there", || account().is_some())?;
    let first = account().context("gone")?;
    assert!(standin.delete(Kind::ServiceAccount, "team", "default"));
    until("it comes back", || {
        account().is_some_and(|it| it["metadata"]["uid"] != first["metadata"]["uid"])
    })
}

#[test]
fn a_namespace_ends_slowly_and_takes_all_with_it() -> Result<()> {
    let standin = StandIn::start()?;
    standin.terminating_for(Duration::from_millis(300));
    standin.create_namespace("team", &[])?;
    let mut inside = secret(&json!({ ".dockerconfigjson": DOCKER }));
    inside["metadata"]["namespace"] = json!("team");
    standin.create(inside)?;
    let client = Client::new(&standin);
    let now = standin.list(Kind::Secret)[0]["metadata"]["resourceVersion"].clone();
    let now = now.as_str().unwrap_or_default();
    let watch = |resource: &str| {
        client.watch(&format!("/api/v1/{resource}?watch=true&resourceVersion={now}"))
    };
    let (mut secrets, mut namespaces) = (watch("secrets")?, watch("namespaces")?);
    let (status, ending) = client.ask("DELETE", "/api/v1/namespaces/team", "", &Value::Null)?;
    assert_eq!((status, &ending["status"]["phase"]), (200, &json!("Terminating")));
    let path = "/api/v1/namespaces/team/configmaps/m";
    let (status, refused) = client.apply(path, "one", &map(&json!({})))?;
    assert_eq!((status, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(secrets.told()?, "DELETED s");
    assert_eq!(namespaces.told()?, "MODIFIED team");
    assert_eq!(namespaces.told()?, "DELETED team");
    let (status, refused) = client.apply(path, "one", &map(&json!({})))?;
    assert_eq!((status, &refused["message"]), (404, &json!("namespaces \"team\" not found")));
    Ok(())
}

#[test]
fn everybody_sees_metadata_alone_if_asked_for() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::metadata(&standin);
    let body = secret(&json!({ ".dockerconfigjson": DOCKER }));
    let (_, patched) = client.apply(SECRET, "one", &body)?;
    let (_, got) = client.get(SECRET)?;
    assert_eq!(patched, got);
    assert_eq!(got["kind"], "PartialObjectMetadata");
    assert!(got.get("data").is_none() && got["metadata"]["managedFields"].is_array());
    assert_eq!(client.get("/api/v1/secrets")?.0, 406, "a list has another word for it");
    Ok(())
}

#[test]
fn only_what_a_rule_allows_is_done() -> Result<()> {
    let standin = StandIn::start()?;
    let verbs = "get list watch patch delete";
    let rules =
        [Rule::new(verbs, "secrets", "default", "s"), Rule::new("list", "namespaces", "*", "*")];
    standin.allow("t", "somebody", &rules);
    let client = Client::with_token(&standin, "t");
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(client.get(SECRET)?.0, 404);
    assert_eq!(client.get(&format!("{secrets}?fieldSelector=metadata.name%3Ds"))?.0, 200);
    assert_eq!(client.get("/api/v1/namespaces")?.0, 200);
    let (status, refused) = client.get("/api/v1/secrets")?;
    assert_eq!((status, &refused["reason"]), (403, &json!("Forbidden")));
    let message = "secrets is forbidden: User \"somebody\" cannot list resource \"secrets\" in API group \"\" at the cluster scope";
    assert_eq!(refused["message"], message);
    let (status, refused) =
        client.apply(SECRET, "one", &secret(&json!({ ".dockerconfigjson": DOCKER })))?;
    assert_eq!(status, 403);
    assert_eq!(refused["message"], "secrets \"s\" is forbidden: ");
    standin.allow("c", "other", &[Rule::new("create patch", "secrets", "default", "s")]);
    let client = Client::with_token(&standin, "c");
    assert_eq!(
        client.apply(SECRET, "one", &secret(&json!({ ".dockerconfigjson": DOCKER })))?.0,
        201
    );
    assert_eq!(client.ask("POST", secrets, "", &json!({ "metadata": { "name": "s" } }))?.0, 403);
    assert_eq!(Client::with_token(&standin, "x").get(SECRET)?.0, 401);
    Ok(())
}

#[test]
fn answers_can_be_made_up_and_withheld() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    standin.answer_next(
        1,
        |method, path, _| (method, path) == ("GET", MAPS),
        503,
        &[("Retry-After", "7")],
        "no",
    );
    assert_eq!(client.get(SECRET)?.0, 404, "that one was not meant");
    let (status, head, body) = client.raw("GET", MAPS, "", "")?;
    assert_eq!((status, body.as_str()), (503, "no"));
    assert!(head.contains("retry-after: 7"), "{head}");
    assert_eq!(client.get(MAPS)?.0, 200, "only the next one was");
    standin.hang(|_, path, _| path == MAPS);
    let mut hanging = client.send("GET", MAPS, "", "")?;
    hanging.get_ref().set_read_timeout(Some(Duration::from_millis(100)))?;
    assert!(hanging.fill_buf().is_err());
    assert_eq!(standin.calls().last().map(|call| call.status), Some(0));
    standin.calm();
    assert_eq!(client.get(MAPS)?.0, 200);
    Ok(())
}

#[test]
fn a_full_server_says_so_in_plain_words() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    standin.limit(1);
    standin.delay(Duration::from_millis(200));
    let _watch = client.send("GET", "/api/v1/secrets?watch=true", "", "")?;
    let mut first = client.send("GET", MAPS, "", "")?;
    until("it is in", || standin.most_in_flight() == 1)?;
    let (status, answer, body) = client.raw("GET", MAPS, "", "")?;
    assert_eq!((status, body.trim_end()), (429, "Too many requests, please try again later."));
    assert!(answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(head(&mut first)?.0, 200);
    assert_eq!((standin.most_in_flight(), standin.count("list", Kind::ConfigMap)), (2, 2));
    assert_eq!(standin.count("GET", Kind::Secret), 1);
    standin.reset_calls();
    assert_eq!((standin.calls().len(), standin.count("GET", Kind::Secret)), (0, 0));
    Ok(())
}

#[test]
fn connections_are_cut_and_refused_and_the_state_stays() -> Result<()> {
    let standin = StandIn::start()?;
    standin.create(named("a", &json!({})))?;
    let client = Client::new(&standin);
    let mut events = client.watch("/api/v1/configmaps?watch=true")?;
    assert_eq!(events.told()?, "ADDED a");
    standin.cut();
    assert!(events.next().is_err());
    until("it is closed", || standin.watches_open() == 0)?;
    standin.down();
    assert!(client.get(MAPS).is_err());
    standin.up()?;
    assert_eq!(client.get(MAPS)?.1["items"][0]["metadata"]["name"], "a");
    Ok(())
}

#[test]
fn a_silent_watch_is_open_and_told_nothing() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    let path = "/api/v1/configmaps?watch=true";
    let mut silent = client.watch(path)?;
    standin.silence_watches();
    let mut fresh = client.watch(path)?;
    standin.create(named("a", &json!({})))?;
    assert_eq!(fresh.told()?, "ADDED a");
    assert!(silent.is_silent()?);
    assert_eq!(standin.watches_open(), 2);
    Ok(())
}

#[test]
fn a_put_replaces_without_http_too() -> Result<()> {
    let standin = StandIn::start()?;
    standin.record_calls(false);
    let made = standin.replace(named("a", &json!({ "n": "1" })))?;
    let again = standin.replace(named("a", &json!({ "n": "2" })))?;
    assert_eq!(made["metadata"]["uid"], again["metadata"]["uid"]);
    assert!(standin.replace(made).is_err(), "it is stale");
    assert!(standin.edit(Kind::ConfigMap, "default", "b", |_| ()).is_err());
    assert!(!standin.delete(Kind::ConfigMap, "default", "b"));
    assert_eq!(Client::new(&standin).get(MAPS)?.1["items"][0]["metadata"]["labels"]["n"], "2");
    let future = Client::new(&standin).get(&format!("{MAPS}?resourceVersion=99999"))?;
    assert_eq!((future.0, &future.1["reason"]), (504, &json!("Timeout")));
    assert!(standin.calls().is_empty(), "they are not recorded");
    Ok(())
}

#[test]
fn bookmarks_come_when_they_are_asked_for() -> Result<()> {
    let standin = StandIn::start()?;
    standin.account_delay(Duration::ZERO);
    let client = Client::metadata(&standin);
    let mut events = client.watch("/api/v1/secrets?watch=true&allowWatchBookmarks=true")?;
    let made = standin.create_namespace("a", &[])?;
    standin.bookmark();
    let (word, mark) = events.next()?.context("it ended")?;
    assert_eq!((word.as_str(), &mark["kind"]), ("BOOKMARK", &json!("PartialObjectMetadata")));
    let version = |it: &Value| {
        it["metadata"]["resourceVersion"].as_str().and_then(|it| it.parse::<u64>().ok())
    };
    assert!(version(&mark) >= version(&made), "{mark}");
    Ok(())
}

#[test]
fn there_is_a_kubeconfig() -> Result<()> {
    let standin = StandIn::start()?;
    let text = standin.kubeconfig(Some("t"));
    assert!(text.contains(&format!("server: \"{}\"", standin.url())), "{text}");
    assert!(text.contains("user: {token: t}") && standin.kubeconfig(None).contains("user: {}"));
    Ok(())
}

#[test]
fn there_is_something_for_kubectl() -> Result<()> {
    let standin = StandIn::start()?;
    let client = Client::new(&standin);
    assert_eq!(client.raw("GET", "/readyz", "", "")?.2, "ok");
    assert_eq!(client.get("/api/v1")?.1["resources"][1]["name"], "secrets");
    assert_eq!(client.get("/api/v1/nothing")?.1["reason"], "NotFound");
    Ok(())
}
