//! HTTP: paths, verbs and answers, who may do what, and what is to go wrong.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::AbortHandle;

use super::fields::Writer;
use super::store::{Filter, Form, Key, Kind, Object, Refusal, Store, text, wrong_name};
use super::{Call, Rule};

/// What the handle, the connections and the controllers share.
pub(super) struct Shared {
    store: Mutex<Store>,
    desk: Mutex<Desk>,
}

/// What is not the cluster's state.
pub(super) struct Desk {
    pub(super) calls: Vec<Call>,
    /// The number of the first of them.
    pub(super) first_call: u64,
    pub(super) records_calls: bool,
    pub(super) counts: HashMap<(String, Option<Kind>), u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) limit: usize,
    pub(super) delay: Duration,
    in_flight: usize,
    pub(super) most_in_flight: usize,
    /// By token; without any, everybody may do everything.
    pub(super) users: BTreeMap<String, (String, Vec<Rule>)>,
    pub(super) bookmark_every: Duration,
    pub(super) connections: BTreeMap<u64, AbortHandle>,
    next_connection: u64,
}

/// Decides by method, path and query.
pub(super) type Matching = Box<dyn Fn(&str, &str, &str) -> bool + Send>;

pub(super) struct Fault {
    /// How often it is still to be met.
    pub(super) left: u64,
    pub(super) matching: Matching,
    /// Without one nothing is ever answered.
    pub(super) answer: Option<Canned>,
}

#[derive(Clone)]
pub(super) struct Canned {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

enum Fate {
    Served,
    Answered(Canned),
    Hung,
}

impl Shared {
    pub(super) fn new(store: Store) -> Self {
        let desk = Desk {
            calls: Vec::new(),
            first_call: 0,
            records_calls: true,
            counts: HashMap::new(),
            faults: Vec::new(),
            limit: usize::MAX,
            delay: Duration::ZERO,
            in_flight: 0,
            most_in_flight: 0,
            users: BTreeMap::new(),
            bookmark_every: Duration::from_mins(1),
            connections: BTreeMap::new(),
            next_connection: 0,
        };
        Self { store: Mutex::new(store), desk: Mutex::new(desk) }
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes connections until it is aborted.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for a while.
            rest(Duration::from_millis(10)).await;
            continue;
        };
        let mut desk = shared.desk();
        let id = desk.next_connection;
        desk.next_connection += 1;
        let task = tokio::spawn(connection(shared.clone(), stream, id));
        desk.connections.insert(id, task.abort_handle());
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, id: u64) {
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| answer(shared.clone(), request));
    let builder = hyper::server::conn::http1::Builder::new();
    // What the client does to its connection is its own business.
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
    shared.desk().connections.remove(&id);
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let asked = Asked::new(&head);
    let (number, fate, flight) = shared.receives(&asked);
    let mut response = match fate {
        Fate::Hung => std::future::pending().await,
        Fate::Answered(canned) => canned.response(),
        Fate::Served => match body.collect().await {
            Ok(body) => shared.serves(&asked, &body.to_bytes()),
            Err(_) => refused(&Refusal::bad_request("the body ended too early")),
        },
    };
    let delay = shared.desk().delay;
    if !delay.is_zero() {
        rest(delay).await;
    }
    shared.answered(number, response.status().as_u16());
    response.body_mut().flight = flight;
    Ok(response)
}

/// A request without its body.
struct Asked {
    method: Method,
    path: String,
    query: String,
    parameters: BTreeMap<String, String>,
    target: Option<Target>,
    /// As RBAC calls it.
    verb: &'static str,
    accept: String,
    content_type: String,
    agent: String,
    token: Option<String>,
}

/// What a path means.
#[derive(Clone)]
struct Target {
    kind: Kind,
    /// "" is all of them, or none.
    namespace: String,
    /// "" is all of them.
    name: String,
}

impl Target {
    fn new(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match segments[..] {
            ["api", "v1", ref rest @ ..] => ("", rest),
            ["apis", group, "v1", ref rest @ ..] => (group, rest),
            _ => return None,
        };
        let (namespace, resource, name) = match *rest {
            [resource] => ("", resource, ""),
            ["namespaces", name] => ("", "namespaces", name),
            ["namespaces", namespace, resource] => (namespace, resource, ""),
            ["namespaces", namespace, resource, name] => (namespace, resource, name),
            _ => return None,
        };
        let kind =
            Kind::ALL.into_iter().find(|it| (it.resource(), it.group()) == (resource, group))?;
        (kind != Kind::Namespace || namespace.is_empty()).then(|| Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Whether something can be created there.
    fn is_a_place(&self) -> bool {
        self.kind == Kind::Namespace || !self.namespace.is_empty()
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

impl Asked {
    fn new(head: &Parts) -> Self {
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let query = head.uri.query().unwrap_or_default();
        let parameters = query.split('&').filter(|it| !it.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decoded(key), percent_decoded(value))
        });
        let parameters: BTreeMap<_, _> = parameters.collect();
        let target = Target::new(head.uri.path());
        let one = target.as_ref().is_some_and(|target| !target.name.is_empty());
        let watches = parameters.get("watch").is_some_and(|it| it == "true" || it == "1");
        let verb = match head.method {
            Method::GET if one => "get",
            Method::GET if watches => "watch",
            Method::GET => "list",
            Method::POST if !one && target.as_ref().is_some_and(Target::is_a_place) => "create",
            Method::PUT if one => "update",
            Method::PATCH if one => "patch",
            Method::DELETE if one => "delete",
            _ => "",
        };
        let token = header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        Self {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: query.to_owned(),
            parameters,
            target,
            verb,
            accept: header(ACCEPT).unwrap_or("*/*").to_owned(),
            content_type: header(CONTENT_TYPE).unwrap_or_default().to_owned(),
            agent: header(USER_AGENT).unwrap_or("unknown").to_owned(),
            token: token.map(str::to_owned),
        }
    }

    fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    fn writer(&self) -> Writer {
        let manager = self.parameters.get("fieldManager").filter(|name| !name.is_empty());
        let agent = || self.agent.split('/').next().unwrap_or_default();
        let dry = self.parameter("dryRun") == "All";
        Writer { dry, ..Writer::new(manager.map_or_else(agent, String::as_str)) }
    }

    fn filter(&self, target: &Target) -> Result<Filter, Refusal> {
        let namespace = Some(target.namespace.as_str()).filter(|name| !name.is_empty());
        let (fields, labels) = (self.parameter("fieldSelector"), self.parameter("labelSelector"));
        Filter::new(namespace, Some(fields), Some(labels))
    }

    /// What the client wants to see; a list has a word of its own for it.
    fn form(&self) -> Result<Form, Refusal> {
        for clause in self.accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                continue;
            }
            match (parts.find_map(|part| part.strip_prefix("as=")), self.verb == "list") {
                (None, _) => return Ok(Form::Full),
                (Some("PartialObjectMetadata"), false)
                | (Some("PartialObjectMetadataList"), true) => return Ok(Form::Metadata),
                (Some(wanted @ "PartialObjectMetadata"), true) => {
                    let why = format!("you requested {wanted}, but the requested object is a list");
                    return Err(Refusal::new(406, "NotAcceptable", why));
                }
                (Some(wanted @ "PartialObjectMetadataList"), false) => {
                    let why =
                        format!("you requested {wanted}, but the requested object is not a list");
                    return Err(Refusal::new(406, "NotAcceptable", why));
                }
                // Tables are not made here.
                (Some(_), _) => {}
            }
        }
        let why = "only the following media types are accepted: application/json";
        Err(Refusal::new(406, "NotAcceptable", why))
    }
}

impl Shared {
    /// Notes a request, and decides what becomes of it.
    fn receives(self: &Arc<Self>, asked: &Asked) -> (u64, Fate, Option<InFlight>) {
        let mut desk = self.desk();
        let desk = &mut *desk;
        let method = asked.method.as_str();
        let number = desk.first_call + desk.calls.len() as u64;
        if desk.records_calls {
            desk.calls.push(Call {
                method: method.to_owned(),
                path: asked.path.clone(),
                query: asked.query.clone(),
                status: 0,
            });
        }
        let kind = asked.target.as_ref().map(|target| target.kind);
        for word in [method, asked.verb] {
            *desk.counts.entry((word.to_owned(), kind)).or_default() += 1;
        }
        let is_met = |fault: &&mut Fault| (fault.matching)(method, &asked.path, &asked.query);
        let fault = desk.faults.iter_mut().filter(|fault| fault.left > 0).find(is_met);
        let mut fate = match fault {
            None => Fate::Served,
            Some(fault) => {
                fault.left = fault.left.saturating_sub(1);
                fault.answer.clone().map_or(Fate::Hung, Fate::Answered)
            }
        };
        if asked.verb == "watch" {
            return (number, fate, None);
        }
        if desk.in_flight >= desk.limit {
            fate = Fate::Answered(Canned::full());
        }
        desk.in_flight += 1;
        desk.most_in_flight = desk.most_in_flight.max(desk.in_flight);
        (number, fate, Some(InFlight(self.clone())))
    }

    fn answered(&self, number: u64, status: u16) {
        let mut desk = self.desk();
        let at = number.checked_sub(desk.first_call).and_then(|at| usize::try_from(at).ok());
        if let Some(call) = at.and_then(|at| desk.calls.get_mut(at)) {
            call.status = status;
        }
    }

    fn serves(self: &Arc<Self>, asked: &Asked, body: &Bytes) -> Response<Body> {
        let Some(target) = &asked.target else { return discovery(&asked.path) };
        let done = self.may(asked, asked.verb, target).and_then(|()| match asked.verb {
            "get" => {
                let form = asked.form()?;
                let object = self.store().get(target.kind, &target.key())?;
                Ok(json_response(200, object.text(form)))
            }
            "list" => self.lists(asked, target),
            "watch" => self.watches(asked, target),
            "" => Err(Refusal::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )),
            _ => self.writes(asked, target, body),
        });
        done.unwrap_or_else(|refusal| refused(&refusal))
    }

    fn may(&self, asked: &Asked, verb: &str, target: &Target) -> Result<(), Refusal> {
        let desk = self.desk();
        if desk.users.is_empty() {
            return Ok(());
        }
        let nobody = ("system:anonymous".to_owned(), Vec::new());
        let (user, rules) = match &asked.token {
            None => &nobody,
            Some(token) => desk
                .users
                .get(token)
                .ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))?,
        };
        // A list or a watch of one name is judged by that name.
        let named = asked.filter(target).ok().and_then(|filter| filter.name);
        let name = if target.name.is_empty() && verb != "create" {
            named.unwrap_or_default()
        } else {
            target.name.clone()
        };
        let kind = target.kind;
        let namespace = if kind == Kind::Namespace { &target.name } else { &target.namespace };
        if rules.iter().any(|rule| rule.allows(verb, kind.resource(), namespace, &name)) {
            return Ok(());
        }
        let what = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        let message = format!(
            "{}{what} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
            kind.qualified(),
            kind.resource(),
            kind.group()
        );
        Err(Refusal::new(403, "Forbidden", message).about(kind, &name))
    }

    fn lists(&self, asked: &Asked, target: &Target) -> Result<Response<Body>, Refusal> {
        let (form, filter) = (asked.form()?, asked.filter(target)?);
        let limit = match asked.parameter("limit") {
            "" => 0,
            limit => limit.parse().map_err(|_| Refusal::bad_request("limit is no number"))?,
        };
        // What is answered from the cache comes whole.
        let limit = if asked.parameter("resourceVersion") == "0" { 0 } else { limit };
        self.store()
            .is_there_yet(asked.parameter("resourceVersion").parse().unwrap_or_default())?;
        let token = asked.parameters.get("continue").filter(|token| !token.is_empty());
        let page = self.store().list(target.kind, &filter, limit, token.map(String::as_str))?;
        let mut metadata = json!({ "resourceVersion": page.version.to_string() });
        if let Some(token) = page.token {
            metadata["continue"] = json!(token);
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        let (kind, version) = match form {
            Form::Full => (format!("{}List", target.kind.name()), target.kind.api_version()),
            Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1"),
        };
        let mut body = format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
        );
        for (at, object) in page.objects.iter().enumerate() {
            if at > 0 {
                body.push(',');
            }
            body.push_str(object.item(form));
        }
        body.push_str("]}\n");
        if page.objects.is_empty() && form == Form::Metadata {
            // So does the real one.
            body = body.replace("\"items\":[]", "\"items\":null");
        }
        Ok(json_response(200, body))
    }

    fn watches(
        self: &Arc<Self>,
        asked: &Asked,
        target: &Target,
    ) -> Result<Response<Body>, Refusal> {
        let (form, filter) = (asked.form()?, asked.filter(target)?);
        let since = match asked.parameter("resourceVersion") {
            "" | "0" => None,
            version => Some(version.parse().map_err(|_| {
                let why = format!("resourceVersion: Invalid value: {version:?}: invalid syntax");
                Refusal::new(500, "", why)
            })?),
        };
        let bookmarks = asked.parameter("allowWatchBookmarks") == "true";
        let seconds = asked.parameter("timeoutSeconds").parse().unwrap_or(1800);
        let watch = self.store().watch(target.kind, filter, form, since, bookmarks);
        let (id, lines) = match watch {
            Ok(watch) => watch,
            // The real one answers with success, too, and says it then.
            Err(refusal) => {
                let event = json!({ "type": "ERROR", "object": refusal.body() });
                return Ok(json_response(200, format!("{event}\n")));
            }
        };
        let task = tokio::spawn(keep(self.clone(), id, Duration::from_secs(seconds)));
        let watching = Watching { shared: self.clone(), id, task: task.abort_handle() };
        let mut response = json_response(200, String::new());
        *response.body_mut() =
            Body { whole: None, lines: Some(lines), flight: None, _watching: Some(watching) };
        Ok(response)
    }

    fn writes(
        &self,
        asked: &Asked,
        target: &Target,
        body: &Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let kind = target.kind;
        let json =
            asked.content_type.is_empty() || asked.content_type.starts_with("application/json");
        if matches!(asked.verb, "create" | "update") && !json {
            return Err(unknown_format());
        }
        let mut value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) if body.is_empty() && asked.verb == "delete" => Value::Null,
            Err(wrong) => return Err(Refusal::bad_request(format!("error decoding: {wrong}"))),
        };
        let by = asked.writer();
        if asked.verb == "delete" {
            let key = target.key();
            let object = self.store().delete(kind, &key, &value["preconditions"], &by)?;
            return Ok(deleted(&object));
        }
        let form = asked.form()?;
        if asked.verb == "patch" {
            return self.patches(asked, target, value, form);
        }
        check(&value, kind, &target.namespace, false)?;
        let given = text(&value["metadata"]["name"]).to_owned();
        if asked.verb == "update" {
            if given != target.name {
                return Err(wrong_name(&given, &target.name));
            }
            let (object, created) = self.store().update(kind, target.key(), value, &by)?;
            return Ok(json_response(if created { 201 } else { 200 }, object.text(form)));
        }
        if given.is_empty() {
            return Err(Refusal::nameless(kind));
        }
        value["metadata"]["uid"].take();
        let key = (target.namespace.clone(), given);
        let object = self.store().create(kind, key, value, &by)?;
        Ok(json_response(201, object.text(form)))
    }

    fn patches(
        &self,
        asked: &Asked,
        target: &Target,
        patch: Value,
        form: Form,
    ) -> Result<Response<Body>, Refusal> {
        let (kind, by) = (target.kind, asked.writer());
        match asked.content_type.split(';').next().unwrap_or_default() {
            "application/merge-patch+json" => {
                if !asked.parameter("force").is_empty() {
                    let why = "Forbidden: may not be specified for non-apply patch";
                    return Err(Refusal::of_options("force", "FieldValueForbidden", why));
                }
                let object = self.store().merge_patch(kind, target.key(), &patch, &by)?;
                Ok(json_response(200, object.text(form)))
            }
            "application/apply-patch+yaml" => {
                if asked.parameter("fieldManager").is_empty() {
                    let why = "Required value: is required for apply patch";
                    return Err(Refusal::of_options("fieldManager", "FieldValueRequired", why));
                }
                if text(&patch["kind"]).is_empty() || text(&patch["apiVersion"]).is_empty() {
                    return Err(Refusal::bad_request(format!(
                        "Incorrect version specified in apply patch. Specified patch version: , expected: {}",
                        kind.api_version()
                    )));
                }
                check(&patch, kind, &target.namespace, true)?;
                let name = text(&patch["metadata"]["name"]);
                if !name.is_empty() && name != target.name {
                    return Err(wrong_name(name, &target.name));
                }
                let force = asked.parameter("force") == "true";
                // The real one does not say who, nor what.
                let may_create = self.may(asked, "create", target).map_err(|_| {
                    let message = format!("{} {:?} is forbidden: ", kind.qualified(), target.name);
                    Refusal::new(403, "Forbidden", message).about(kind, &target.name)
                });
                let (object, created) =
                    self.store().apply(kind, target.key(), patch, (&by, force), may_create)?;
                Ok(json_response(if created { 201 } else { 200 }, object.text(form)))
            }
            _ => Err(unknown_format()),
        }
    }
}

fn unknown_format() -> Refusal {
    Refusal::new(415, "UnsupportedMediaType", "415: Unsupported Media Type")
}

/// Bookmarks for a watch, until its time is over.
async fn keep(shared: Arc<Shared>, id: u64, mut left: Duration) {
    // The last one comes shortly before the end, so that the next watch can go on there.
    const BEFORE_THE_END: Duration = Duration::from_secs(2);
    let every = shared.desk().bookmark_every;
    while left > every + BEFORE_THE_END {
        rest(every).await;
        shared.store().bookmark(Some(id));
        left -= every;
    }
    rest(left.saturating_sub(BEFORE_THE_END)).await;
    shared.store().bookmark(Some(id));
    rest(left.min(BEFORE_THE_END)).await;
    shared.store().end_watch(id);
}

#[expect(clippy::disallowed_methods, reason = "the cluster has a clock of its own")]
pub(super) async fn rest(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Whether a body is of that kind and place.
fn check(value: &Value, kind: Kind, namespace: &str, patched: bool) -> Result<(), Refusal> {
    let (given, version) = (text(&value["kind"]), text(&value["apiVersion"]));
    let wrong = |given: &str, wanted: &str| !given.is_empty() && given != wanted;
    if wrong(given, kind.name()) || wrong(version, kind.api_version()) {
        return Err(Refusal::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {version}/{given}",
            kind.name()
        )));
    }
    let home = text(&value["metadata"]["namespace"]);
    if wrong(home, namespace) {
        return Err(Refusal::bad_request(if patched {
            format!(
                "the namespace of the object ({home}) does not match the namespace on the request ({namespace})"
            )
        } else {
            "the namespace of the provided object does not match the namespace sent on the request"
                .to_owned()
        }));
    }
    if value.get("stringData").is_some() {
        return Err(Refusal::bad_request("this stand-in does not know stringData"));
    }
    Ok(())
}

/// What is not gone yet is answered itself, and so is a service account.
fn deleted(object: &Object) -> Response<Body> {
    if object.is_terminating() || object.kind == Kind::ServiceAccount {
        return json_response(200, object.text(Form::Full));
    }
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": object.key.1, "kind": object.kind.resource(), "uid": object.uid() },
    });
    if !object.kind.group().is_empty() {
        body["details"]["group"] = json!(object.kind.group());
    }
    json_response(200, body.to_string())
}

/// Just enough for `kubectl get`.
fn discovery(path: &str) -> Response<Body> {
    let resources = |group: &str, version: &str| {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.group() == group);
        let resources = kinds.map(|kind| {
            json!({
                "name": kind.resource(), "singularName": "", "kind": kind.name(),
                "shortNames": kind.short().map_or_else(Vec::new, |name| vec![name]),
                "namespaced": kind != Kind::Namespace,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            })
        });
        let resources: Value = resources.collect();
        json!({ "kind": "APIResourceList", "groupVersion": version, "resources": resources })
    };
    let body = match path {
        "/readyz" | "/livez" | "/healthz" => {
            return response(200, "text/plain", "ok".to_owned());
        }
        "/version" => json!({ "major": "1", "minor": "20", "gitVersion": "v1.20.0-stand-in" }),
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/api/v1" => resources("", "v1"),
        "/apis" => {
            let version = json!({ "groupVersion": "coordination.k8s.io/v1", "version": "v1" });
            let group = json!({
                "name": "coordination.k8s.io", "versions": [version], "preferredVersion": version,
            });
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group] })
        }
        "/apis/coordination.k8s.io/v1" => {
            resources("coordination.k8s.io", "coordination.k8s.io/v1")
        }
        _ => {
            let message = "the server could not find the requested resource";
            return refused(&Refusal::new(404, "NotFound", message));
        }
    };
    json_response(200, body.to_string())
}

fn refused(refusal: &Refusal) -> Response<Body> {
    json_response(refusal.code, refusal.body().to_string())
}

fn json_response(status: u16, body: String) -> Response<Body> {
    response(status, "application/json", body)
}

fn response(status: u16, kind: &str, body: String) -> Response<Body> {
    let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
    Canned { status, headers, body }.response()
}

impl Canned {
    /// Of a server that has too much to do.
    fn full() -> Self {
        let headers = [("Content-Type", "text/plain; charset=utf-8"), ("Retry-After", "1")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let body = "Too many requests, please try again later.\n".to_owned();
        Self { status: 429, headers, body }
    }

    fn response(self) -> Response<Body> {
        let mut builder = Response::builder().status(self.status);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        let body = |text: String| Body {
            whole: Some(Bytes::from(text)),
            lines: None,
            flight: None,
            _watching: None,
        };
        builder.body(body(self.body)).unwrap_or_else(|wrong| Response::new(body(wrong.to_string())))
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|it| str::from_utf8(it).ok());
        let byte = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is sent: a whole, or the lines of a watch as they come.
struct Body {
    whole: Option<Bytes>,
    lines: Option<UnboundedReceiver<Bytes>>,
    /// A request is in flight until its answer is out.
    flight: Option<InFlight>,
    _watching: Option<Watching>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(lines) = &mut self.lines {
            return lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))));
        }
        let whole = self.whole.take().filter(|whole| !whole.is_empty());
        Poll::Ready(whole.map(|whole| Ok(Frame::data(whole))))
    }

    fn is_end_stream(&self) -> bool {
        self.lines.is_none() && self.whole.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.lines, &self.whole) {
            (Some(_), _) => SizeHint::default(),
            (None, whole) => SizeHint::with_exact(whole.as_ref().map_or(0, |it| it.len() as u64)),
        }
    }
}

struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.desk().in_flight -= 1;
    }
}

/// A watch that ends with its connection.
struct Watching {
    shared: Arc<Shared>,
    id: u64,
    task: AbortHandle,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.store().forget_watch(self.id);
    }
}
