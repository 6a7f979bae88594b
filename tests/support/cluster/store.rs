//! What is in the cluster, the rules for it, and the history that watches live on.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::fields::{self, Writer};

/// What there can be in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Core v1.
    Namespace,
    /// Core v1.
    Secret,
    /// Core v1.
    ServiceAccount,
    /// Core v1.
    ConfigMap,
    /// coordination.k8s.io/v1.
    Lease,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Namespace, Self::Secret, Self::ServiceAccount, Self::ConfigMap, Self::Lease];

    /// As in `kind: Secret`.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Lease => "Lease",
        }
    }

    /// As in a path.
    #[must_use]
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Secret => "secrets",
            Self::ServiceAccount => "serviceaccounts",
            Self::ConfigMap => "configmaps",
            Self::Lease => "leases",
        }
    }

    /// As people type it.
    pub(super) fn short(self) -> Option<&'static str> {
        match self {
            Self::Namespace => Some("ns"),
            Self::ServiceAccount => Some("sa"),
            Self::ConfigMap => Some("cm"),
            Self::Secret | Self::Lease => None,
        }
    }

    pub(super) fn group(self) -> &'static str {
        if self == Self::Lease { "coordination.k8s.io" } else { "" }
    }

    pub(super) fn api_version(self) -> &'static str {
        if self == Self::Lease { "coordination.k8s.io/v1" } else { "v1" }
    }

    /// As messages name it.
    pub(super) fn qualified(self) -> &'static str {
        if self == Self::Lease { "leases.coordination.k8s.io" } else { self.resource() }
    }

    /// The same for the kind.
    fn qualified_name(self) -> &'static str {
        if self == Self::Lease { "Lease.coordination.k8s.io" } else { self.name() }
    }

    /// Unknown fields get lost.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Namespace => &["metadata", "spec", "status"],
            Self::Secret => &["metadata", "data", "type", "immutable"],
            Self::ServiceAccount => {
                &["metadata", "secrets", "imagePullSecrets", "automountServiceAccountToken"]
            }
            Self::ConfigMap => &["metadata", "data", "binaryData", "immutable"],
            Self::Lease => &["metadata", "spec"],
        }
    }
}

/// A namespace ("" for what has none) and a name.
pub(super) type Key = (String, String);

/// How an object is written out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    Full,
    Metadata,
}

/// One state of an object; its texts are made once.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) version: u64,
    /// Without `apiVersion` and `kind`.
    pub(super) value: Value,
    item: OnceLock<String>,
    metadata: OnceLock<String>,
}

impl Object {
    fn new(kind: Kind, key: Key, version: u64, mut value: Value) -> Self {
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        let (item, metadata) = (OnceLock::new(), OnceLock::new());
        Self { kind, key, version, value, item, metadata }
    }

    /// With `apiVersion` and `kind`.
    pub(super) fn whole(&self) -> Value {
        let mut value = self.value.clone();
        value["apiVersion"] = json!(self.kind.api_version());
        value["kind"] = json!(self.kind.name());
        value
    }

    pub(super) fn uid(&self) -> &str {
        self.value["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// As in an answer or an event.
    pub(super) fn text(&self, form: Form) -> String {
        match form {
            Form::Full => {
                let (version, kind) = (self.kind.api_version(), self.kind.name());
                let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\"");
                format!("{head},{}", &self.item(form)[1..])
            }
            Form::Metadata => self.item(form).to_owned(),
        }
    }

    /// As in a list: only what is reduced to its metadata says there what it is.
    pub(super) fn item(&self, form: Form) -> &str {
        match form {
            Form::Full => self.item.get_or_init(|| self.value.to_string()),
            Form::Metadata => self.metadata.get_or_init(|| {
                let head = "\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\"";
                format!("{{{head},\"metadata\":{}}}", self.value["metadata"])
            }),
        }
    }

    /// A namespace, or what has a finalizer.
    pub(super) fn is_terminating(&self) -> bool {
        self.value["metadata"].get("deletionTimestamp").is_some()
    }
}

/// An answer that is no success.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
    details: Value,
    /// Where a list that is too old can go on.
    token: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, token: None }
    }

    pub(super) fn about(mut self, kind: Kind, name: &str) -> Self {
        let mut details = json!({ "kind": kind.resource() });
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !kind.group().is_empty() {
            details["group"] = json!(kind.group());
        }
        self.details = details;
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.qualified());
        Self::new(404, "NotFound", message).about(kind, name)
    }

    fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        let head = format!("Operation cannot be fulfilled on {} {name:?}", kind.qualified());
        Self::new(409, "Conflict", format!("{head}: {why}")).about(kind, name)
    }

    fn stale(kind: Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    fn invalid(kind: Kind, name: &str, field: &str, reason: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is invalid: {field}: {why}", kind.qualified_name());
        let mut refusal = Self::new(422, "Invalid", message).about(kind, name);
        refusal.details["kind"] = json!(kind.name());
        refusal.details["causes"] = json!([{ "reason": reason, "message": why, "field": field }]);
        refusal
    }

    pub(super) fn nameless(kind: Kind) -> Self {
        let why = "Required value: name or generateName is required";
        Self::invalid(kind, "", "metadata.name", "FieldValueRequired", why)
    }

    /// About the query of a patch.
    pub(super) fn of_options(field: &str, reason: &str, why: &str) -> Self {
        let message = format!("PatchOptions.meta.k8s.io \"\" is invalid: {field}: {why}");
        let mut refusal = Self::new(422, "Invalid", message);
        let cause = json!({ "reason": reason, "message": why, "field": field });
        let (group, kind) = ("meta.k8s.io", "PatchOptions");
        refusal.details = json!({ "group": group, "kind": kind, "causes": [cause] });
        refusal
    }

    /// As deletions say it, in words of their own.
    fn not_that_one(live: &Object, what: &str, wanted: &str, why: &str) -> Self {
        let (kind, name) = (live.kind, &live.key.1);
        let record = if what == "UID" { live.uid().to_owned() } else { live.version.to_string() };
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the {what} in the precondition ({wanted}) does not match the {what} in record ({record}). The object might have been {why}",
            kind.qualified_name()
        );
        let mut refusal = Self::new(409, "Conflict", message).about(kind, name);
        refusal.details["kind"] = json!(kind.name());
        refusal
    }

    fn immutable(kind: Kind, name: &str, field: &str, value: &Value) -> Self {
        let why = format!("Invalid value: {value}: field is immutable");
        Self::invalid(kind, name, field, "FieldValueInvalid", &why)
    }

    pub(super) fn body(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.token {
            metadata["continue"] = json!(token);
        }
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        body
    }
}

/// What a list or a watch is of.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    labels: Vec<Requirement>,
}

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    /// Any value will do if there are none.
    values: Vec<String>,
    /// Has to match, or must not.
    wanted: bool,
}

impl Filter {
    pub(super) fn new(
        namespace: Option<&str>,
        fields: Option<&str>,
        labels: Option<&str>,
    ) -> Result<Self, Refusal> {
        let mut filter = Self { namespace: namespace.map(str::to_owned), ..Self::default() };
        for field in fields.into_iter().flat_map(|all| all.split(',')).filter(|it| !it.is_empty()) {
            match field.split_once('=').map(|(key, value)| (key, value.trim_start_matches('='))) {
                Some(("metadata.name", name)) => filter.name = Some(name.to_owned()),
                Some(("metadata.namespace", name)) => filter.namespace = Some(name.to_owned()),
                other => {
                    let (field, _) = other.unwrap_or((field, ""));
                    return Err(Refusal::bad_request(format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )));
                }
            }
        }
        filter.labels = requirements(labels.unwrap_or_default())?;
        Ok(filter)
    }

    /// Without it a list can say how many are left.
    fn is_selective(&self) -> bool {
        self.name.is_some() || !self.labels.is_empty()
    }

    fn matches(&self, object: &Object) -> bool {
        let (namespace, name) = &object.key;
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.labels.iter().all(|requirement| {
                let value = object.value["metadata"]["labels"].get(&requirement.key);
                let value = value.and_then(Value::as_str);
                let any = requirement.values.is_empty();
                value.is_some_and(|value| any || requirement.values.iter().any(|it| it == value))
                    == requirement.wanted
            })
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, Refusal> {
    let mut depth = 0;
    // Commas in brackets belong to a set.
    let parts = text.split(|letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let one = |key: &str, value: &str, wanted| {
                (key.trim().to_owned(), vec![value.trim().to_owned()], wanted)
            };
            let (key, values, wanted) = if let Some((head, set)) = part.split_once('(') {
                let words: Vec<&str> = head.split_whitespace().collect();
                let [key, word @ ("in" | "notin")] = words[..] else {
                    return Err(unparsable(text));
                };
                let set = set.strip_suffix(')').ok_or_else(|| unparsable(text))?;
                let set = set.split(',').map(|value| value.trim().to_owned()).collect();
                (key.to_owned(), set, word == "in")
            } else if let Some((key, value)) = part.split_once("!=") {
                one(key, value, false)
            } else if let Some((key, value)) = part.split_once('=') {
                one(key, value.trim_start_matches('='), true)
            } else if let Some(key) = part.strip_prefix('!') {
                (key.trim().to_owned(), Vec::new(), false)
            } else {
                (part.to_owned(), Vec::new(), true)
            };
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(unparsable(text));
            }
            Ok(Requirement { key, values, wanted })
        })
        .collect()
}

fn unparsable(text: &str) -> Refusal {
    Refusal::bad_request(format!("unable to parse requirement: {text:?}"))
}

/// A change, with what each watch is told made once.
#[derive(Debug)]
struct Event {
    version: u64,
    old: Option<Arc<Object>>,
    new: Option<Arc<Object>>,
    /// The last state, with the version at which it went.
    gone: OnceLock<Option<Arc<Object>>>,
    lines: [OnceLock<Bytes>; 6],
}

impl Event {
    fn kind(&self) -> Option<Kind> {
        self.new.as_ref().or(self.old.as_ref()).map(|object| object.kind)
    }

    fn gone(&self) -> Option<&Arc<Object>> {
        let gone = self.gone.get_or_init(|| {
            self.old.as_ref().map(|old| {
                let value = old.value.clone();
                Arc::new(Object::new(old.kind, old.key.clone(), self.version, value))
            })
        });
        gone.as_ref()
    }

    /// What a watch is told; nothing if it is none of its business.
    fn line(&self, filter: &Filter, form: Form) -> Option<Bytes> {
        let is =
            |object: &Option<Arc<Object>>| object.as_ref().is_some_and(|it| filter.matches(it));
        let (word, place, object) = match (is(&self.old), is(&self.new)) {
            (false, false) => return None,
            (false, true) => ("ADDED", 0, self.new.as_ref()?),
            (true, true) => ("MODIFIED", 1, self.new.as_ref()?),
            (true, false) => ("DELETED", 2, self.gone()?),
        };
        let place = place + if form == Form::Full { 0 } else { 3 };
        Some(self.lines[place].get_or_init(|| line(word, &object.text(form))).clone())
    }
}

fn line(word: &str, object: &str) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{word}\",\"object\":{object}}}\n"))
}

struct Watch {
    kind: Kind,
    filter: Filter,
    form: Form,
    bookmarks: bool,
    /// Its connection is dead, and neither side knows.
    silent: bool,
    lines: UnboundedSender<Bytes>,
}

/// What the controllers have to do.
#[derive(Debug)]
pub(super) enum Chore {
    /// A namespace is to have its service account.
    Account(String),
    /// Everything in a namespace goes, and then the namespace.
    Empty(String),
}

/// A part of a list.
pub(super) struct Page {
    pub(super) objects: Vec<Arc<Object>>,
    pub(super) version: u64,
    pub(super) token: Option<String>,
    pub(super) remaining: Option<usize>,
}

/// All state, in memory.
pub(super) struct Store {
    version: u64,
    objects: [BTreeMap<Key, Arc<Object>>; 5],
    history: VecDeque<Arc<Event>>,
    /// What happened up to here is forgotten.
    forgotten: u64,
    watches: BTreeMap<u64, Watch>,
    chores: UnboundedSender<(Duration, Chore)>,
    uids: RandomState,
    pub(super) longest_history: usize,
    pub(super) terminating: Duration,
    pub(super) account_delay: Duration,
}

impl Store {
    pub(super) fn new() -> (Self, UnboundedReceiver<(Duration, Chore)>) {
        let (chores, receiver) = unbounded_channel();
        let store = Self {
            version: 0,
            objects: Default::default(),
            history: VecDeque::new(),
            forgotten: 0,
            watches: BTreeMap::new(),
            chores,
            uids: RandomState::new(),
            longest_history: 100_000,
            terminating: Duration::from_millis(20),
            account_delay: Duration::from_millis(20),
        };
        (store, receiver)
    }

    pub(super) fn find(&self, kind: Kind, key: &Key) -> Option<Arc<Object>> {
        self.objects[kind as usize].get(key).cloned()
    }

    pub(super) fn get(&self, kind: Kind, key: &Key) -> Result<Arc<Object>, Refusal> {
        self.find(kind, key).ok_or_else(|| Refusal::not_found(kind, &key.1))
    }

    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects[kind as usize].values()
    }

    /// A list of what is still to come is refused.
    pub(super) fn is_there_yet(&self, version: u64) -> Result<(), Refusal> {
        if version <= self.version {
            return Ok(());
        }
        let current = self.version;
        let message = format!("Timeout: Too large resource version: {version}, current: {current}");
        let mut refusal = Refusal::new(504, "Timeout", message);
        let cause =
            json!({ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" });
        refusal.details = json!({ "causes": [cause], "retryAfterSeconds": 1 });
        Err(refusal)
    }

    /// A page of a list; all pages are of the moment of the first.
    pub(super) fn list(
        &self,
        kind: Kind,
        filter: &Filter,
        limit: usize,
        token: Option<&str>,
    ) -> Result<Page, Refusal> {
        let present = &self.objects[kind as usize];
        let Some(token) = token else {
            return Ok(page(present.range(..), filter, limit, self.version));
        };
        let (version, after) = parse_token(token).ok_or_else(|| {
            Refusal::bad_request("invalid continue token: continue key is not valid")
        })?;
        let from = (std::ops::Bound::Excluded(after.clone()), std::ops::Bound::Unbounded);
        if version < self.forgotten {
            let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
            let mut refusal = Refusal::new(410, "Expired", message);
            refusal.token = Some(make_token(self.version, &after));
            return Err(refusal);
        }
        let mut since = self.history.iter().rev().take_while(|event| event.version > version);
        if since.clone().all(|event| event.kind() != Some(kind)) {
            return Ok(page(present.range(from), filter, limit, version));
        }
        let mut past = present.clone();
        for event in since.by_ref().filter(|event| event.kind() == Some(kind)) {
            match (&event.old, &event.new) {
                (Some(old), _) => drop(past.insert(old.key.clone(), old.clone())),
                (None, Some(new)) => drop(past.remove(&new.key)),
                (None, None) => {}
            }
        }
        Ok(page(past.range(from), filter, limit, version))
    }

    /// Answers with the watch's number, and what to read from.
    pub(super) fn watch(
        &mut self,
        kind: Kind,
        filter: Filter,
        form: Form,
        since: Option<u64>,
        bookmarks: bool,
    ) -> Result<(u64, UnboundedReceiver<Bytes>), Refusal> {
        let (lines, receiver) = unbounded_channel();
        if let Some(since) = since {
            if since < self.forgotten {
                let forgotten = self.forgotten;
                let message = format!("too old resource version: {since} ({forgotten})");
                return Err(Refusal::new(410, "Expired", message));
            }
            let from = self.history.partition_point(|event| event.version <= since);
            for event in self.history.range(from..).filter(|event| event.kind() == Some(kind)) {
                event.line(&filter, form).map(|line| lines.send(line));
            }
        } else {
            for object in self.all(kind).filter(|object| filter.matches(object)) {
                drop(lines.send(line("ADDED", &object.text(form))));
            }
        }
        let id = self.watches.last_key_value().map_or(0, |(id, _)| id + 1);
        self.watches.insert(id, Watch { kind, filter, form, bookmarks, silent: false, lines });
        Ok((id, receiver))
    }

    /// Tells a watch how far it is, or all of them.
    pub(super) fn bookmark(&self, id: Option<u64>) {
        let version = self.version.to_string();
        let watches = self.watches.iter().filter(|(at, _)| id.is_none_or(|id| id == **at));
        for (_, watch) in watches.filter(|(_, watch)| watch.bookmarks && !watch.silent) {
            let (kind, api) = match watch.form {
                Form::Full => (watch.kind.name(), watch.kind.api_version()),
                Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1"),
            };
            let metadata = json!({ "resourceVersion": version, "creationTimestamp": null });
            let object = json!({ "kind": kind, "apiVersion": api, "metadata": metadata });
            drop(watch.lines.send(line("BOOKMARK", &object.to_string())));
        }
    }

    /// Its time is over; a silent one never learns of it.
    pub(super) fn end_watch(&mut self, id: u64) {
        if self.watches.get(&id).is_some_and(|watch| !watch.silent) {
            self.forget_watch(id);
        }
    }

    pub(super) fn forget_watch(&mut self, id: u64) {
        self.watches.remove(&id);
    }

    pub(super) fn watches_open(&self) -> usize {
        self.watches.len()
    }

    pub(super) fn silence_watches(&mut self) {
        for watch in self.watches.values_mut() {
            watch.silent = true;
        }
    }

    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.forgotten = self.version;
    }

    pub(super) fn create(
        &mut self,
        kind: Kind,
        key: Key,
        mut value: Value,
        by: &Writer,
    ) -> Result<Arc<Object>, Refusal> {
        self.admits(kind, &key)?;
        let version = text(&value["metadata"]["resourceVersion"]).to_owned();
        self.settle(kind, &key, None, &mut value)?;
        if !version.is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::new(500, "", message));
        }
        if self.find(kind, &key).is_some() {
            let message = format!("{} {:?} already exists", kind.qualified(), key.1);
            return Err(Refusal::new(409, "AlreadyExists", message).about(kind, &key.1));
        }
        fields::update(None, &mut value, (by, kind.api_version(), &now()));
        Ok(self.keep(kind, key, None, value, by))
    }

    /// Answers whether it is new, too: a lease may be.
    pub(super) fn update(
        &mut self,
        kind: Kind,
        key: Key,
        mut value: Value,
        by: &Writer,
    ) -> Result<(Arc<Object>, bool), Refusal> {
        let Some(live) = self.find(kind, &key) else {
            if kind != Kind::Lease {
                return Err(Refusal::not_found(kind, &key.1));
            }
            value["metadata"]["resourceVersion"].take();
            return self.create(kind, key, value, by).map(|object| (object, true));
        };
        let uid = text(&value["metadata"]["uid"]);
        if !uid.is_empty() && uid != live.uid() {
            let (place, record) = (format!("{}/{}/{}", kind.resource(), key.0, key.1), live.uid());
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{place}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {record}"
            );
            return Err(Refusal::conflict(kind, &key.1, &why));
        }
        match text(&value["metadata"]["resourceVersion"]) {
            "" if kind == Kind::Lease => {
                let why = "Invalid value: 0x0: must be specified for an update";
                let field = "metadata.resourceVersion";
                let message =
                    format!("{} {:?} is invalid: {field}: {why}", kind.qualified(), key.1);
                let mut refusal = Refusal::new(422, "Invalid", message).about(kind, &key.1);
                let cause =
                    json!({ "reason": "FieldValueInvalid", "message": why, "field": field });
                refusal.details["causes"] = json!([cause]);
                return Err(refusal);
            }
            "" => {}
            version if version == live.version.to_string() => {}
            _ => return Err(Refusal::stale(kind, &key.1)),
        }
        self.settle(kind, &key, Some(&live), &mut value)?;
        fields::update(Some(&live.value), &mut value, (by, kind.api_version(), &now()));
        Ok((self.keep(kind, key, Some(live), value, by), false))
    }

    pub(super) fn merge_patch(
        &mut self,
        kind: Kind,
        key: Key,
        patch: &Value,
        by: &Writer,
    ) -> Result<Arc<Object>, Refusal> {
        let live = self.get(kind, &key)?;
        let mut value = live.whole();
        fields::merge_patch(&mut value, patch);
        let metadata = &value["metadata"];
        if metadata["name"] != json!(key.1) {
            return Err(wrong_name(text(&metadata["name"]), &key.1));
        }
        if metadata["uid"] != json!(live.uid()) {
            return Err(Refusal::immutable(kind, &key.1, "metadata.uid", &metadata["uid"]));
        }
        self.update(kind, key, value, by).map(|(object, _)| object)
    }

    /// Answers whether it is new, too. `may_create` says whether the caller may.
    pub(super) fn apply(
        &mut self,
        kind: Kind,
        key: Key,
        mut config: Value,
        (by, force): (&Writer, bool),
        may_create: Result<(), Refusal>,
    ) -> Result<(Arc<Object>, bool), Refusal> {
        let live = self.find(kind, &key);
        let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(Refusal::bad_request("metadata is missing"));
        };
        if metadata.contains_key("managedFields") {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        let uid = metadata.remove("uid").unwrap_or_default();
        let version = metadata.remove("resourceVersion").unwrap_or_default();
        if live.is_none() && !text(&uid).is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                text(&uid)
            );
            return Err(Refusal::conflict(kind, &key.1, &why));
        }
        if let Some(live) = &live {
            if !text(&uid).is_empty() && text(&uid) != live.uid() {
                // As the real one says it; it checks no more than that a uid stays.
                return Err(Refusal::immutable(kind, &key.1, "metadata.uid", &uid));
            }
            if !text(&version).is_empty() && text(&version) != live.version.to_string() {
                return Err(Refusal::stale(kind, &key.1));
            }
        } else {
            may_create?;
            self.admits(kind, &key)?;
        }
        let known = kind.fields();
        let unknown = config.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
        for field in unknown.filter(|field| !matches!(*field, "apiVersion" | "kind")) {
            if !known.contains(&field) {
                let typed = format!(
                    "failed to create typed patch object: .{field}: field not declared in schema"
                );
                return Err(Refusal::new(500, "", typed));
            }
        }
        let before = live.as_ref().map(|live| &live.value);
        let version = kind.api_version();
        let applied = fields::apply(before, &config, (by, version, &now()), force);
        let mut value = applied.map_err(|conflicts| applied_in_vain(&conflicts))?;
        self.settle(kind, &key, live.as_deref(), &mut value)?;
        let created = live.is_none();
        Ok((self.keep(kind, key, live, value, by), created))
    }

    /// Answers with the last state; of a namespace, with the first one of its end.
    pub(super) fn delete(
        &mut self,
        kind: Kind,
        key: &Key,
        preconditions: &Value,
        by: &Writer,
    ) -> Result<Arc<Object>, Refusal> {
        let live = self.get(kind, key)?;
        let wanted = text(&preconditions["uid"]);
        if !wanted.is_empty() && wanted != live.uid() {
            let why = "deleted and then recreated";
            return Err(Refusal::not_that_one(&live, "UID", wanted, why));
        }
        let wanted = text(&preconditions["resourceVersion"]);
        if !wanted.is_empty() && wanted != live.version.to_string() {
            return Err(Refusal::not_that_one(&live, "ResourceVersion", wanted, "modified"));
        }
        if by.dry || live.is_terminating() {
            return Ok(live);
        }
        let mut value = live.value.clone();
        value["metadata"]["deletionTimestamp"] = json!(now());
        if value["metadata"].get("finalizers").is_some() {
            return Ok(self.commit(kind, key.clone(), Some(live), Some(value)));
        }
        if kind == Kind::Namespace {
            value["status"]["phase"] = json!("Terminating");
            drop(self.chores.send((self.terminating, Chore::Empty(key.1.clone()))));
            return Ok(self.commit(kind, key.clone(), Some(live), Some(value)));
        }
        Ok(self.commit(kind, key.clone(), Some(live), None))
    }

    /// What a controller does when its time has come.
    pub(super) fn does(&mut self, chore: Chore) {
        match chore {
            Chore::Account(namespace) => {
                let by = Writer::new("kube-controller-manager");
                let key = (namespace, "default".to_owned());
                // The namespace may be gone, or somebody may have been quicker.
                drop(self.create(Kind::ServiceAccount, key, json!({ "metadata": {} }), &by));
            }
            Chore::Empty(namespace) => {
                for kind in Kind::ALL.into_iter().skip(1) {
                    let all =
                        self.objects[kind as usize].range((namespace.clone(), String::new())..);
                    let inside = all.take_while(|(key, _)| key.0 == namespace);
                    let inside: Vec<_> =
                        inside.map(|(key, it)| (key.clone(), it.clone())).collect();
                    for (key, object) in inside {
                        self.commit(kind, key, Some(object), None);
                    }
                }
                let key = (String::new(), namespace);
                if let Some(object) = self.find(Kind::Namespace, &key) {
                    self.commit(Kind::Namespace, key, Some(object), None);
                }
            }
        }
    }

    /// Whether something new may come into the namespace.
    fn admits(&self, kind: Kind, (namespace, name): &Key) -> Result<(), Refusal> {
        if kind == Kind::Namespace {
            return Ok(());
        }
        let home = self.get(Kind::Namespace, &(String::new(), namespace.clone()))?;
        if home.is_terminating() {
            let message = format!(
                "{} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                kind.qualified()
            );
            let mut refusal = Refusal::new(403, "Forbidden", message).about(kind, name);
            refusal.details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
            return Err(refusal);
        }
        Ok(())
    }

    /// Gives an object what the server alone decides, and refuses what breaks a rule.
    fn settle(
        &self,
        kind: Kind,
        (namespace, name): &Key,
        old: Option<&Object>,
        value: &mut Value,
    ) -> Result<(), Refusal> {
        let Value::Object(fields) = value else {
            return Err(Refusal::bad_request("the object is not a JSON object"));
        };
        fields.retain(|field, value| kind.fields().contains(&field.as_str()) && !value.is_null());
        for field in ["data", "binaryData", "secrets", "imagePullSecrets"] {
            drop_if_empty(fields, field);
        }
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        let Value::Object(metadata) = metadata else {
            return Err(Refusal::bad_request("metadata is not a JSON object"));
        };
        metadata.retain(|field, value| {
            let kept = ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"];
            kept.contains(&field.as_str()) && !value.is_null()
        });
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            drop_if_empty(metadata, field);
        }
        metadata.insert("name".to_owned(), json!(name));
        if !namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        meta_rules(kind, name, value)?;
        let Some(metadata) = value["metadata"].as_object_mut() else { return Ok(()) };
        let old = old.map(|old| &old.value);
        for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
            if let Some(value) = old.and_then(|old| old["metadata"].get(field)) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
        if old.is_none() {
            metadata.insert("uid".to_owned(), json!(self.uid()));
            metadata.insert("creationTimestamp".to_owned(), json!(now()));
        }
        match kind {
            Kind::Namespace => {
                value["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
                let phase =
                    old.map_or_else(|| json!("Active"), |old| old["status"]["phase"].clone());
                value["status"] = json!({ "phase": phase });
                value["spec"] = json!({ "finalizers": ["kubernetes"] });
            }
            Kind::Secret => secret_rules(name, old, value)?,
            Kind::Lease => lease_rules(name, value)?,
            Kind::ServiceAccount | Kind::ConfigMap => {}
        }
        Ok(())
    }

    fn uid(&self) -> String {
        let (high, low) = (self.uids.hash_one(self.version), self.uids.hash_one(!self.version));
        let (head, middle, tail) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
        let (variant, node) = ((low >> 48) & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
        format!("{head:08x}-{middle:04x}-4{tail:03x}-{variant:04x}-{node:012x}")
    }

    /// Commits what is new; a write that changes nothing is none.
    fn keep(
        &mut self,
        kind: Kind,
        key: Key,
        old: Option<Arc<Object>>,
        value: Value,
        by: &Writer,
    ) -> Arc<Object> {
        match old {
            Some(old) if fields::same(&old.value, &value) => old,
            // The last finalizer is gone, and so is the object.
            Some(old)
                if kind != Kind::Namespace
                    && old.is_terminating()
                    && value["metadata"].get("finalizers").is_none() =>
            {
                self.commit(kind, key, Some(old), None)
            }
            old if by.dry => {
                let version = old.map_or(0, |old| old.version);
                Arc::new(Object::new(kind, key, version, value))
            }
            old => self.commit(kind, key, old, Some(value)),
        }
    }

    fn commit(
        &mut self,
        kind: Kind,
        key: Key,
        old: Option<Arc<Object>>,
        value: Option<Value>,
    ) -> Arc<Object> {
        self.version += 1;
        let version = self.version;
        let new = value.map(|value| Arc::new(Object::new(kind, key.clone(), version, value)));
        match &new {
            Some(new) => self.objects[kind as usize].insert(key, new.clone()),
            None => self.objects[kind as usize].remove(&key),
        };
        let (gone, lines) = (OnceLock::new(), Default::default());
        let event = Arc::new(Event { version, old, new, gone, lines });
        for watch in self.watches.values().filter(|watch| watch.kind == kind && !watch.silent) {
            event.line(&watch.filter, watch.form).map(|line| watch.lines.send(line));
        }
        // There is no change without an object.
        let nothing = || Arc::new(Object::new(kind, Key::default(), version, json!({})));
        let last = event.new.as_ref().or_else(|| event.gone()).cloned().unwrap_or_else(nothing);
        let account = match kind {
            Kind::Namespace if event.old.is_none() => Some(last.key.1.clone()),
            Kind::ServiceAccount if event.new.is_none() && last.key.1 == "default" => {
                Some(last.key.0.clone())
            }
            _ => None,
        };
        if let Some(namespace) = account {
            drop(self.chores.send((self.account_delay, Chore::Account(namespace))));
        }
        self.history.push_back(event);
        while self.history.len() > self.longest_history {
            self.forgotten = self.history.pop_front().map_or(0, |event| event.version);
        }
        last
    }
}

fn page<'a>(
    mut range: impl Iterator<Item = (&'a Key, &'a Arc<Object>)>,
    filter: &Filter,
    limit: usize,
    version: u64,
) -> Page {
    let mut matching = range.by_ref().filter(|(_, object)| filter.matches(object));
    let limit = if limit == 0 { usize::MAX } else { limit };
    let objects: Vec<_> = matching.by_ref().take(limit).map(|(_, object)| object.clone()).collect();
    let remaining = matching.count();
    let token = objects.last().filter(|_| remaining > 0).map(|last| make_token(version, &last.key));
    let remaining = Some(remaining).filter(|left| *left > 0 && !filter.is_selective());
    Page { objects, version, token, remaining }
}

/// Hexadecimal, so that nobody reads it.
fn make_token(version: u64, (namespace, name): &Key) -> String {
    format!("{version}/{namespace}/{name}").bytes().fold(String::new(), |mut token, byte| {
        let _ = write!(token, "{byte:02x}");
        token
    })
}

fn parse_token(token: &str) -> Option<(u64, Key)> {
    let digits = (0..token.len()).step_by(2).map(|at| token.get(at..at + 2));
    let bytes: Option<Vec<u8>> =
        digits.map(|digits| u8::from_str_radix(digits?, 16).ok()).collect();
    let text = String::from_utf8(bytes?).ok()?;
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    Some((parts.next()?.parse().ok()?, (parts.next()?, parts.next()?)))
}

/// Names, labels and annotations have to be such.
fn meta_rules(kind: Kind, name: &str, value: &Value) -> Result<(), Refusal> {
    const ANNOTATIONS: usize = 256 * 1024;
    let invalid = |field: &str, value: &str, what: &str| {
        let why = format!("Invalid value: {value:?}: {what}");
        Err(Refusal::invalid(kind, name, field, "FieldValueInvalid", &why))
    };
    if kind == Kind::Namespace && !is_word(name, 63, "-") {
        return invalid("metadata.name", name, "a lowercase RFC 1123 label must consist of ..");
    }
    if name.len() > 253 || !name.split('.').all(|part| is_word(part, 253, "-")) {
        return invalid("metadata.name", name, "a lowercase RFC 1123 subdomain must consist of ..");
    }
    let mut size = 0;
    for field in ["labels", "annotations"] {
        let path = format!("metadata.{field}");
        for (key, value) in value["metadata"][field].as_object().into_iter().flatten() {
            let Some(value) = value.as_str() else {
                let message = format!(
                    "failed to create typed patch object: .{path}.{key}: expected string, got {value}"
                );
                return Err(Refusal::new(500, "", message));
            };
            let (prefix, rest) = key.split_once('/').map_or((None, &**key), |(a, b)| (Some(a), b));
            let prefixed =
                prefix.is_none_or(|it| it.split('.').all(|part| is_word(part, 253, "-")));
            if !prefixed || !is_word(&rest.to_lowercase(), 63, "-_.") {
                return invalid(&path, key, "name part must consist of ..");
            }
            size += key.len() + value.len();
            let plain = value.is_empty() || is_word(&value.to_lowercase(), 63, "-_.");
            if field == "labels" && !plain {
                return invalid(&path, value, "a valid label must be an empty string or ..");
            }
        }
        if field == "labels" {
            size = 0;
        }
    }
    if size > ANNOTATIONS {
        let why = format!("Too long: must have at most {ANNOTATIONS} bytes");
        let field = "metadata.annotations";
        return Err(Refusal::invalid(kind, name, field, "FieldValueTooLong", &why));
    }
    for (key, _) in value["data"].as_object().into_iter().flatten() {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if key.is_empty() || key.len() > 253 || !key.chars().all(fits) {
            return invalid(&format!("data[{key}]"), key, "a valid config key must consist of ..");
        }
    }
    Ok(())
}

/// Lower case letters and digits, and some others between them.
fn is_word(text: &str, longest: usize, others: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.len() <= longest
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|letter| plain(letter) || others.contains(letter))
}

fn secret_rules(name: &str, old: Option<&Value>, value: &mut Value) -> Result<(), Refusal> {
    const DOCKER: &str = ".dockerconfigjson";
    const LIMIT: usize = 1024 * 1024;
    let invalid = |field: &str, reason: &str, why: &str| {
        Err(Refusal::invalid(Kind::Secret, name, field, reason, why))
    };
    if text(&value["type"]).is_empty() {
        value["type"] = json!("Opaque");
    }
    let mut total = 0;
    let mut docker = None;
    for (key, encoded) in value["data"].as_object().into_iter().flatten() {
        let Some(decoded) = encoded.as_str().and_then(base64) else {
            let message = format!(
                "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data in data.{key}"
            );
            return Err(Refusal::bad_request(message));
        };
        total += decoded.len();
        if key == DOCKER {
            docker = Some(decoded);
        }
    }
    if total > LIMIT {
        let why = format!("Too long: must have at most {LIMIT} bytes");
        return invalid("data", "FieldValueTooLong", &why);
    }
    if value["type"] == "kubernetes.io/dockerconfigjson" {
        let field = format!("data[{DOCKER}]");
        let Some(docker) = docker else {
            return invalid(&field, "FieldValueRequired", "Required value");
        };
        if let Err(wrong) = serde_json::from_slice::<serde_json::Map<String, Value>>(&docker) {
            let why = format!("Invalid value: \"<secret contents redacted>\": {wrong}");
            return invalid(&field, "FieldValueInvalid", &why);
        }
    }
    let Some(old) = old else { return Ok(()) };
    if old["type"] != value["type"] {
        return Err(Refusal::immutable(Kind::Secret, name, "type", &value["type"]));
    }
    if old["immutable"] == true {
        let why = "Forbidden: field is immutable when `immutable` is set";
        let changed = ["immutable", "data"].into_iter().find(|field| old[*field] != value[*field]);
        if let Some(field) = changed {
            return invalid(field, "FieldValueForbidden", why);
        }
    }
    Ok(())
}

/// Go reads a micro time with six digits of a second, and nothing else.
fn lease_rules(name: &str, value: &mut Value) -> Result<(), Refusal> {
    let Some(spec) = value["spec"].as_object_mut() else {
        value["spec"] = json!({});
        return Ok(());
    };
    spec.retain(|_, value| !value.is_null());
    for field in ["acquireTime", "renewTime"] {
        let Some(time) = spec.get(field) else { continue };
        let time = text(time);
        let fraction = time.get(19..26).unwrap_or_default();
        let digits = fraction.chars().skip(1).all(|digit| digit.is_ascii_digit());
        let zoned = time.get(26..).is_some_and(|zone| zone.starts_with(['Z', '+', '-']));
        if !fraction.starts_with('.') || !digits || !zoned || time.get(10..11) != Some("T") {
            let message = format!(
                "Lease in version \"v1\" cannot be handled as a Lease: parsing time {time:?} as \"2006-01-02T15:04:05.000000Z07:00\""
            );
            return Err(Refusal::bad_request(message));
        }
    }
    let seconds = spec.get("leaseDurationSeconds");
    if seconds.is_some_and(|seconds| seconds.as_i64().is_none_or(|seconds| seconds <= 0)) {
        let why =
            &format!("Invalid value: {}: must be greater than 0", spec["leaseDurationSeconds"]);
        let field = "spec.leaseDurationSeconds";
        return Err(Refusal::invalid(Kind::Lease, name, field, "FieldValueInvalid", why));
    }
    Ok(())
}

fn applied_in_vain(conflicts: &[fields::Conflict]) -> Refusal {
    let message = match conflicts {
        [one] => {
            format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field)
        }
        many => {
            let mut groups: BTreeMap<&str, String> = BTreeMap::new();
            for conflict in many {
                let _ =
                    write!(groups.entry(&conflict.manager).or_default(), "\n- {}", conflict.field);
            }
            let groups = groups.iter().map(|(who, what)| format!("conflicts with {who}:{what}"));
            let groups: Vec<_> = groups.collect();
            format!("Apply failed with {} conflicts: {}", many.len(), groups.join("\n"))
        }
    };
    let causes = conflicts.iter().map(|conflict| {
        json!({
            "reason": "FieldManagerConflict",
            "message": format!("conflict with {}", conflict.manager),
            "field": conflict.field,
        })
    });
    let mut refusal = Refusal::new(409, "Conflict", message);
    refusal.details = json!({ "causes": causes.collect::<Vec<_>>() });
    refusal
}

pub(super) fn wrong_name(given: &str, wanted: &str) -> Refusal {
    Refusal::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({wanted})"
    ))
}

fn drop_if_empty(map: &mut serde_json::Map<String, Value>, field: &str) {
    let Some(value) = map.get_mut(field) else { return };
    if let Value::Object(inner) = value {
        inner.retain(|_, value| !value.is_null());
    }
    let empty = match value {
        Value::Object(inner) => inner.is_empty(),
        Value::Array(inner) => inner.is_empty(),
        _ => false,
    };
    if empty {
        map.remove(field);
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Decodes the standard alphabet, with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// The time, as the server writes it: RFC 3339 in whole seconds.
fn now() -> String {
    #[expect(clippy::disallowed_methods, reason = "the cluster has a clock of its own")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, seconds) = (now / 86_400, now % 86_400);
    // Of an era of 400 years that starts in March; see https://howardhinnant.github.io/date_algorithms.html.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + late;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}
