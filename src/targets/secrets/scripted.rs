//! An API server in memory, for tests: as the real one answers, or as a test has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::content::{KEY, MANAGER, OWNER};
use crate::clock::Clock;
use crate::kubernetes::Link;

/// What becomes of a call.
pub(super) enum Fate {
    /// It is done.
    Done,
    /// It is refused with this status, this reason and these details.
    Refused(u16, &'static str, Value),
    /// It is answered with this.
    Answered(u16, String),
    /// It is answered with this, and then it goes on as the ending says.
    Streamed(String, Ending),
    /// The connection breaks.
    Broken,
    /// Nobody answers.
    Never,
}

/// How the body of an answer ends.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    Clean,
    Broken,
    Never,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: String,
    /// Since the start of the program.
    pub(super) at: Duration,
}

impl Asked {
    pub(super) fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }

    pub(super) fn is_list(&self) -> bool {
        self.method == "GET" && !self.is_watch() && self.name().is_none()
    }

    pub(super) fn is_write(&self) -> bool {
        self.method != "GET"
    }

    /// The namespace, the resource and the name.
    fn parts(&self) -> (Option<&str>, &str, Option<&str>) {
        let parts: Vec<&str> = self.path.trim_start_matches("/api/v1/").split('/').collect();
        match parts[..] {
            ["namespaces", namespace, resource] => (Some(namespace), resource, None),
            ["namespaces", namespace, resource, name] => (Some(namespace), resource, Some(name)),
            [resource] => (None, resource, None),
            _ => panic!("{}", self.path),
        }
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.parts().0
    }

    pub(super) fn resource(&self) -> &str {
        self.parts().1
    }

    fn name(&self) -> Option<&str> {
        self.parts().2
    }
}

type Fates = Box<dyn FnMut(&Asked) -> Fate + Send>;
type Key = (String, String, String);
type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// The API server.
#[derive(Clone)]
pub(super) struct Cluster {
    clock: Clock,
    state: Arc<Mutex<State>>,
    news: watch::Sender<()>,
}

struct State {
    version: u64,
    objects: BTreeMap<Key, Value>,
    /// Each change: its version, and the object before and after.
    changes: Vec<(u64, Key, Option<Value>, Option<Value>)>,
    /// Before this nothing is known any more.
    oldest: u64,
    fates: Fates,
    asked: Vec<Asked>,
    under_way: usize,
    most_under_way: usize,
}

impl Cluster {
    pub(super) fn new(clock: &Clock) -> Self {
        let state = State {
            version: 100,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            oldest: 0,
            fates: Box::new(|_| Fate::Done),
            asked: Vec::new(),
            under_way: 0,
            most_under_way: 0,
        };
        Self {
            clock: clock.clone(),
            state: Arc::new(Mutex::new(state)),
            news: watch::Sender::new(()),
        }
    }

    pub(super) fn link(&self) -> Arc<Link> {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move { cluster.answer(request).await }
        });
        Link::through(service, &self.clock)
    }

    pub(super) fn decide(&self, fates: impl FnMut(&Asked) -> Fate + Send + 'static) {
        self.state.lock().unwrap().fates = Box::new(fates);
    }

    /// What was asked since.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    pub(super) fn most_under_way(&self) -> usize {
        self.state.lock().unwrap().most_under_way
    }

    pub(super) fn version(&self) -> u64 {
        self.state.lock().unwrap().version
    }

    /// Forgets all changes so far, as a server does after a while.
    pub(super) fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        state.oldest = state.version;
    }

    pub(super) fn namespace(&self, name: &str) {
        self.put("namespaces", "", name, json!({}));
    }

    pub(super) fn account(&self, namespace: &str, name: &str, pulls: &[&str]) {
        let pulls: Vec<_> = pulls.iter().map(|name| json!({ "name": name })).collect();
        self.put("serviceaccounts", namespace, name, json!({ "imagePullSecrets": pulls }));
    }

    /// A Secret that somebody else has made.
    pub(super) fn foreign(&self, namespace: &str, name: &str) {
        let managed =
            json!([{"manager": "other", "operation": "Update", "fieldsV1": {"f:data": {}}}]);
        let value = json!({"type": "Opaque", "metadata": {"managedFields": managed}});
        self.put("secrets", namespace, name, value);
    }

    /// Puts an object there, whatever was there before.
    pub(super) fn put(&self, resource: &str, namespace: &str, name: &str, mut value: Value) {
        value["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            value["metadata"]["namespace"] = namespace.into();
        }
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().unwrap().set(key, Some(value));
        self.news.send_replace(());
    }

    /// Changes an object.
    pub(super) fn change(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let mut value = self.get(resource, namespace, name).unwrap();
        change(&mut value);
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().unwrap().set(key, Some(value));
        self.news.send_replace(());
    }

    pub(super) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().unwrap().set(key, None);
        self.news.send_replace(());
    }

    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().unwrap().objects.get(&key).cloned()
    }

    /// The document that stands in a Secret.
    pub(super) fn document(&self, namespace: &str, name: &str) -> Option<String> {
        use base64::Engine;
        let secret = self.get("secrets", namespace, name)?;
        let data = secret["data"][KEY].as_str()?;
        let data = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        Some(String::from_utf8(data).unwrap())
    }

    /// The names that a service account pulls with.
    pub(super) fn pulls(&self, namespace: &str, name: &str) -> Vec<String> {
        let account = self.get("serviceaccounts", namespace, name).unwrap();
        let pulls = account["imagePullSecrets"].as_array().cloned().unwrap_or_default();
        pulls.iter().map(|pull| pull["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn answer(self, request: Request<Body>) -> Result<Answer, std::io::Error> {
        let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        let asked = Asked {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            body: String::from_utf8(body.to_vec()).unwrap(),
            at: self.clock.monotonic(),
        };
        let accept = parts.headers.get("accept").and_then(|value| value.to_str().ok());
        let is_bare = accept.is_some_and(|accept| accept.contains("as=PartialObjectMetadata"));
        let is_merge = parts
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes() == b"application/merge-patch+json");
        let fate = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(asked.clone());
            (state.fates)(&asked)
        };
        let _counted = Counted::new(&self, &asked);
        let plain = |code: u16, text: String| {
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
            Response::builder().status(code).body(body.boxed_unsync()).unwrap()
        };
        match fate {
            Fate::Done => {}
            Fate::Refused(code, reason, details) => {
                return Ok(plain(code, status(code, reason, reason, &details).to_string()));
            }
            Fate::Answered(code, text) => return Ok(plain(code, text)),
            Fate::Streamed(text, ending) => return Ok(streamed(text, ending)),
            Fate::Broken => return Err(broken()),
            Fate::Never => return std::future::pending().await,
        }
        if asked.is_watch() {
            return Ok(self.watch(&asked, is_bare));
        }
        // A moment, so that calls can meet.
        self.clock.sleep(Duration::from_millis(2)).await;
        let (code, value) = match asked.method.as_str() {
            "GET" if asked.is_list() => self.list(&asked, is_bare),
            "GET" => {
                let (namespace, resource, name) = asked.parts();
                let found = self.get(resource, namespace.unwrap_or_default(), name.unwrap());
                found.map_or_else(|| not_found(&asked), |found| (200, found))
            }
            "PATCH" => {
                let answer = self.state.lock().unwrap().patch(&asked, is_merge);
                self.news.send_replace(());
                answer
            }
            "DELETE" => {
                let answer = self.state.lock().unwrap().delete(&asked);
                self.news.send_replace(());
                answer
            }
            other => panic!("{other}"),
        };
        let value =
            if is_bare && code < 300 && asked.name().is_some() { bare(&value) } else { value };
        Ok(plain(code, value.to_string()))
    }

    fn list(&self, asked: &Asked, is_bare: bool) -> (u16, Value) {
        let state = self.state.lock().unwrap();
        let found = state.objects.iter().filter(|(key, value)| asked.is_for(key, value));
        let all: Vec<Value> =
            found.map(|(_, value)| if is_bare { bare(value) } else { value.clone() }).collect();
        let from: usize = asked.query.get("continue").map_or(0, |from| from.parse().unwrap());
        let limit: usize =
            asked.query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let end = from.saturating_add(limit).min(all.len());
        let mut metadata = json!({"resourceVersion": state.version.to_string()});
        if end < all.len() {
            metadata["continue"] = end.to_string().into();
        }
        // An empty list of metadata is none at all.
        let items = if all.is_empty() { Value::Null } else { json!(all[from..end]) };
        let kind = if is_bare { "PartialObjectMetadataList" } else { "List" };
        let version = if is_bare { "meta.k8s.io/v1" } else { "v1" };
        (200, json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}))
    }

    fn watch(&self, asked: &Asked, is_bare: bool) -> Answer {
        let from: u64 = asked.query["resourceVersion"].parse().unwrap();
        if from < self.state.lock().unwrap().oldest {
            let gone = status(410, "Expired", "too old resource version", &Value::Null);
            return streamed(event("ERROR", &gone), Ending::Clean);
        }
        let lasts = asked.query.get("timeoutSeconds").map_or(300, |text| text.parse().unwrap());
        let end = self.clock.now() + Duration::from_secs(lasts);
        let at = Watching {
            cluster: self.clone(),
            asked: asked.clone(),
            from,
            is_bare,
            end,
            news: self.news.subscribe(),
        };
        let events = stream::unfold(at, |mut at| async move {
            loop {
                at.news.borrow_and_update();
                if let Some(text) = at.next() {
                    let frame = Frame::data(Bytes::from(text));
                    return Some((Ok::<_, std::io::Error>(frame), at));
                }
                let clock = at.cluster.clock.clone();
                tokio::select! {
                    () = clock.sleep_until(at.end) => return None,
                    _ = at.news.changed() => {}
                }
            }
        });
        Response::new(StreamBody::new(events).boxed_unsync())
    }
}

/// A watch that somebody listens to.
struct Watching {
    cluster: Cluster,
    asked: Asked,
    from: u64,
    is_bare: bool,
    end: std::time::SystemTime,
    news: watch::Receiver<()>,
}

impl Watching {
    fn next(&mut self) -> Option<String> {
        let state = self.cluster.state.lock().unwrap();
        for (version, key, before, after) in &state.changes {
            if *version <= self.from {
                continue;
            }
            self.from = *version;
            let is_for =
                |value: &Option<Value>| value.clone().filter(|value| self.asked.is_for(key, value));
            let (kind, mut value) = match (is_for(before), is_for(after)) {
                (None, None) => continue,
                (None, Some(value)) => ("ADDED", value),
                (Some(_), Some(value)) => ("MODIFIED", value),
                (Some(value), None) => ("DELETED", value),
            };
            value["metadata"]["resourceVersion"] = version.to_string().into();
            return Some(event(kind, &if self.is_bare { bare(&value) } else { value }));
        }
        None
    }
}

/// Counts what is under way.
struct Counted(Option<Cluster>);

impl Counted {
    fn new(cluster: &Cluster, asked: &Asked) -> Self {
        if !asked.is_write() {
            return Self(None);
        }
        let mut state = cluster.state.lock().unwrap();
        state.under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way);
        Self(Some(cluster.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Self(Some(cluster)) = self {
            cluster.state.lock().unwrap().under_way -= 1;
        }
    }
}

impl Asked {
    fn is_for(&self, (resource, namespace, name): &Key, value: &Value) -> bool {
        let labels = self.query.get("labelSelector").is_none_or(|selector| {
            let (label, wanted) = selector.split_once('=').unwrap();
            value["metadata"]["labels"][label] == wanted
        });
        let field = self.query.get("fieldSelector");
        let named = field.is_none_or(|field| field.strip_prefix("metadata.name=") == Some(name));
        let (here, kind, _) = self.parts();
        kind == resource && here.is_none_or(|here| here == namespace) && labels && named
    }
}

impl State {
    fn set(&mut self, key: Key, value: Option<Value>) {
        self.version += 1;
        let version = self.version;
        let before = self.objects.remove(&key);
        let value = value.map(|mut value| {
            value["metadata"]["resourceVersion"] = version.to_string().into();
            if value["metadata"]["uid"].is_null() {
                value["metadata"]["uid"] = format!("uid-{version}").into();
            }
            value
        });
        if let Some(value) = &value {
            self.objects.insert(key.clone(), value.clone());
        }
        self.changes.push((version, key, before, value));
    }

    fn patch(&mut self, asked: &Asked, is_merge: bool) -> (u16, Value) {
        let (namespace, resource, name) = asked.parts();
        let namespace = namespace.unwrap();
        let key = (resource.to_owned(), namespace.to_owned(), name.unwrap().to_owned());
        let known =
            self.objects.get(&("namespaces".to_owned(), String::new(), namespace.to_owned()));
        let Some(known) = known.cloned() else { return not_found(asked) };
        let before = self.objects.get(&key).cloned();
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let conflict = |message: &str| (409, status(409, "Conflict", message, &Value::Null));
        if is_merge {
            let Some(mut value) = before else { return not_found(asked) };
            let version = &body["metadata"]["resourceVersion"];
            if !version.is_null() && *version != value["metadata"]["resourceVersion"] {
                return conflict("the object has been modified");
            }
            merge(&mut value, &body);
            self.set(key.clone(), Some(value));
            return (200, self.objects[&key].clone());
        }
        assert_eq!(asked.query["fieldManager"], MANAGER);
        let is_forced = asked.query.get("force").is_some_and(|force| force == "true");
        let uid = &body["metadata"]["uid"];
        match &before {
            None if !uid.is_null() => return conflict("uid mismatch"),
            None if !known["metadata"]["deletionTimestamp"].is_null() => {
                let causes = json!({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]});
                return (403, status(403, "Forbidden", "it is being terminated", &causes));
            }
            Some(value) if !uid.is_null() && *uid != value["metadata"]["uid"] => {
                let causes =
                    json!({"causes": [{"reason": "FieldValueInvalid", "field": "metadata.uid"}]});
                return (422, status(422, "Invalid", "field is immutable", &causes));
            }
            Some(value) => {
                let managers = value["metadata"]["managedFields"].as_array();
                let is_foreign = managers
                    .into_iter()
                    .flatten()
                    .any(|one| one["manager"] != MANAGER && !one["fieldsV1"]["f:data"].is_null());
                if is_foreign && !is_forced {
                    return conflict("Apply failed with 1 conflict");
                }
            }
            None => {}
        }
        let code = if before.is_some() { 200 } else { 201 };
        let mut value = before.clone().unwrap_or_else(|| json!({"metadata": {}}));
        merge(&mut value, &body);
        value["metadata"]["namespace"] = namespace.into();
        value["metadata"]["managedFields"] = json!([{
            "manager": MANAGER, "operation": "Apply", "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:data": {format!("f:{KEY}"): {}},
                "f:metadata": {
                    "f:annotations": {"f:freshcreds/registries": {}},
                    "f:labels": {format!("f:{OWNER}"): {}},
                },
            },
        }]);
        if before.as_ref() != Some(&value) {
            self.set(key.clone(), Some(value));
        }
        (code, self.objects[&key].clone())
    }

    fn delete(&mut self, asked: &Asked) -> (u16, Value) {
        let (namespace, resource, name) = asked.parts();
        let key = (resource.to_owned(), namespace.unwrap().to_owned(), name.unwrap().to_owned());
        let Some(value) = self.objects.get(&key) else { return not_found(asked) };
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let uid = &body["preconditions"]["uid"];
        assert!(uid.is_string(), "nothing is removed without looking at its uid");
        if *uid != value["metadata"]["uid"] {
            return (409, status(409, "Conflict", "the UID in the precondition", &Value::Null));
        }
        self.set(key, None);
        (200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }
}

fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, new) in patch {
        if new.is_null() {
            value.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut value[key], new);
        }
    }
}

fn bare(value: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]})
}

pub(super) fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

pub(super) fn status(code: u16, reason: &str, message: &str, details: &Value) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    if !details.is_null() {
        status["details"] = details.clone();
    }
    status
}

fn not_found(asked: &Asked) -> (u16, Value) {
    (404, status(404, "NotFound", &format!("{} not found", asked.path), &Value::Null))
}

fn streamed(text: String, ending: Ending) -> Answer {
    let first = (!text.is_empty()).then_some(text);
    let events = stream::unfold((first, ending), |(text, ending)| async move {
        if let Some(text) = text {
            return Some((Ok(Frame::data(Bytes::from(text))), (None, ending)));
        }
        match ending {
            Ending::Clean => None,
            Ending::Broken => {
                let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                Some((Err(broken), (None, Ending::Clean)))
            }
            Ending::Never => std::future::pending().await,
        }
    });
    Response::new(StreamBody::new(events).boxed_unsync())
}
