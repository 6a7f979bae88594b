//! Who set which field: server-side apply, and what every other write does to
//! `managedFields`.
//!
//! A field is a path to a leaf. Maps are walked into; lists and scalars are
//! leaves, as for the few kinds that are here they are atomic.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// From the object's root.
type Path = Vec<String>;
type Set = BTreeSet<Path>;

/// Who writes.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) manager: String,
    /// Nothing is kept.
    pub(super) dry: bool,
}

impl Writer {
    pub(super) fn new(manager: &str) -> Self {
        Self { manager: manager.to_owned(), dry: false }
    }
}

/// A field that somebody else has set to something else.
#[derive(Debug)]
pub(super) struct Conflict {
    pub(super) manager: String,
    /// As in `.metadata.labels.team`.
    pub(super) field: String,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// First, as the entries are sorted so.
    operation: String,
    time: String,
    manager: String,
    version: String,
    fields: Set,
}

/// What a write changed.
#[derive(Default)]
struct Changes {
    /// Set where nothing was, or to another value.
    set: Set,
    removed: Set,
}

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// What `config` makes of `live`, and who has what after it.
pub(super) fn apply(
    live: Option<&Value>,
    config: &Value,
    (by, version, now): (&Writer, &str, &str),
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let nothing = json!({});
    let live = live.unwrap_or(&nothing);
    let mut merged = live.clone();
    merge(&mut merged, config);

    let mut entries = read(live);
    spread(&mut entries, live);
    if entries.is_empty() {
        // Somebody wiped it; what is there is not for the first apply to take.
        let by = Writer::new("before-first-apply");
        entries.push(entry(UPDATE, &by, version, now, compare(&nothing, live).set));
    }
    let fields = leaves(config);
    let own = |entry: &Entry| entry.operation == APPLY && entry.manager == by.manager;
    let before = entries.iter().position(own).map(|at| entries.remove(at).fields);
    entries.push(entry(APPLY, by, version, now, fields));

    // What it applied before and leaves out now goes, unless somebody has it.
    for path in before.into_iter().flatten() {
        let owned = |entry: &Entry| entry.fields.iter().any(|field| field.starts_with(&path));
        if !entries.iter().any(owned) {
            remove(&mut merged, &path);
        }
    }

    let changes = compare(live, &merged);
    let mut conflicts = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !own(entry)) {
        for path in entry.fields.intersection(&changes.set) {
            let manager = match entry.operation.as_str() {
                APPLY => format!("{:?}", entry.manager),
                _ => format!("{:?} using {}", entry.manager, entry.version),
            };
            conflicts.push(Conflict { manager, field: format!(".{}", path.join(".")) });
        }
        entry.fields.retain(|path| !changes.set.contains(path) && !changes.removed.contains(path));
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    write(&mut merged, entries);
    Ok(merged)
}

/// A write that is no apply takes the fields that it changes from everybody else.
pub(super) fn update(old: Option<&Value>, new: &mut Value, by: (&Writer, &str, &str)) {
    let nothing = json!({});
    let is_new = old.is_none();
    let old = old.unwrap_or(&nothing);
    let (by, version, now) = by;
    // The writer's own word on who had what is taken, even an old one.
    let told = new["metadata"]["managedFields"].as_array().is_some_and(|told| !told.is_empty());
    let reset = new["metadata"]["managedFields"] == json!([{}]);
    let mut entries = if reset { Vec::new() } else { read(if told { new } else { old }) };
    let changes = compare(old, new);
    let writes = !changes.set.is_empty() || !changes.removed.is_empty();
    spread(&mut entries, old);
    // Of what nobody is known to have set, only an apply begins to keep account.
    if writes && !reset && (is_new || !entries.is_empty()) {
        for entry in &mut entries {
            entry.fields.retain(|it| !changes.set.contains(it) && !changes.removed.contains(it));
        }
        let own = |entry: &Entry| entry.operation == UPDATE && entry.manager == by.manager;
        let before = entries.iter().position(own).map(|at| entries.remove(at).fields);
        let fields = before.into_iter().flatten();
        // What it had and changed again is its own again.
        let fields = fields.chain(changes.set).collect();
        entries.push(entry(UPDATE, by, version, now, fields));
    }
    write(new, entries);
}

/// Whether two states of an object differ in more than the times of `managedFields`.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    let timeless = |value: &Value| -> Vec<Entry> {
        let mut entries = read(value);
        for entry in &mut entries {
            entry.time.clear();
        }
        entries
    };
    let plain = |value: &Value| -> Map<String, Value> {
        let metadata = value["metadata"].as_object().into_iter().flatten();
        metadata
            .filter(|(key, _)| !matches!(key.as_str(), "managedFields" | "resourceVersion"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let rest = |value: &Value| value.as_object().map_or(0, Map::len);
    let (Some(fields), true) = (one.as_object(), rest(one) == rest(other)) else { return false };
    fields.iter().all(|(key, value)| key == "metadata" || other.get(key) == Some(value))
        && plain(one) == plain(other)
        && timeless(one) == timeless(other)
}

/// As RFC 7386 has it, but that `null` is kept out of what was not there.
pub(super) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn entry(operation: &str, by: &Writer, version: &str, now: &str, fields: Set) -> Entry {
    Entry {
        operation: operation.to_owned(),
        time: now.to_owned(),
        manager: by.manager.clone(),
        version: version.to_owned(),
        fields,
    }
}

/// Nobody owns what makes the object that object.
fn is_owned(path: &[String]) -> bool {
    match path {
        [] => false,
        [one] => !matches!(one.as_str(), "metadata" | "apiVersion" | "kind" | "spec" | "status"),
        // A namespace's; nobody sets them.
        [one, two, ..] if one == "spec" && two == "finalizers" => false,
        [one, two, ..] => {
            one != "metadata"
                || matches!(
                    two.as_str(),
                    "labels" | "annotations" | "finalizers" | "ownerReferences"
                )
        }
    }
}

fn leaves(config: &Value) -> Set {
    let mut set = Set::new();
    walk(config, &mut Path::new(), false, &mut set);
    set
}

/// Whoever has a map and nothing in it is taken for its owner from when it was atomic,
/// and gets all that is in it now. That is how the real one does it, to the surprise of
/// whoever made a map and lost every field of it: the next apply conflicts with that one.
fn spread(entries: &mut [Entry], live: &Value) {
    for entry in entries {
        for path in entry.fields.clone() {
            let mut below = entry.fields.range(path.clone()..).skip(1);
            if below.next().is_some_and(|next| next.starts_with(&path)) {
                continue;
            }
            let value = path.iter().try_fold(live, |value, key| value.get(key));
            if let Some(value @ Value::Object(_)) = value {
                walk(value, &mut path.clone(), true, &mut entry.fields);
            }
        }
    }
}

/// All leaves, and `inner` nodes if they are asked for.
fn walk(value: &Value, at: &mut Path, inner: bool, set: &mut Set) {
    if (inner || !value.is_object()) && is_owned(at) {
        set.insert(at.clone());
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        at.push(key.clone());
        walk(value, at, inner, set);
        at.pop();
    }
}

fn compare(old: &Value, new: &Value) -> Changes {
    let mut changes = Changes::default();
    compare_at(old, new, &mut Path::new(), &mut changes);
    changes
}

fn compare_at(old: &Value, new: &Value, at: &mut Path, changes: &mut Changes) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in after {
                at.push(key.clone());
                compare_at(before.get(key).unwrap_or(&Value::Null), value, at, changes);
                at.pop();
            }
            for (key, value) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
                at.push(key.clone());
                walk(value, at, true, &mut changes.removed);
                at.pop();
            }
        }
        (old, new) if old == new => {}
        (_, new) => walk(new, at, true, &mut changes.set),
    }
}

fn merge(live: &mut Value, config: &Value) {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) => {
            for (key, value) in config {
                merge(live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (live, config) => live.clone_from(config),
    }
}

fn remove(value: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let parent = parents.iter().try_fold(value, |value, key| value.get_mut(key));
    if let Some(Value::Object(map)) = parent {
        map.remove(last);
    }
}

fn read(value: &Value) -> Vec<Entry> {
    let entries = value["metadata"]["managedFields"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = entries.into_iter().flatten().map(|entry| {
        let mut fields = Set::new();
        decode(&entry["fieldsV1"], &mut Path::new(), &mut fields);
        Entry {
            operation: text(&entry["operation"]),
            time: text(&entry["time"]),
            manager: text(&entry["manager"]),
            version: text(&entry["apiVersion"]),
            fields,
        }
    });
    entries.collect()
}

fn write(value: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    let key = |entry: &Entry| (entry.operation.clone(), entry.time.clone(), entry.manager.clone());
    entries.sort_by_key(key);
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let entries = entries.into_iter().map(|entry| {
        json!({
            "manager": entry.manager,
            "operation": entry.operation,
            "apiVersion": entry.version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode(&entry.fields),
        })
    });
    metadata.insert("managedFields".to_owned(), entries.collect());
}

fn decode(node: &Value, at: &mut Path, set: &mut Set) {
    for (key, value) in node.as_object().into_iter().flatten() {
        if key == "." {
            set.insert(at.clone());
        } else if let Some(name) = key.strip_prefix("f:") {
            at.push(name.to_owned());
            if value.as_object().is_some_and(Map::is_empty) {
                set.insert(at.clone());
            }
            decode(value, at, set);
            at.pop();
        }
    }
}

fn encode(fields: &Set) -> Value {
    let mut root = Map::new();
    for path in fields {
        let mut node = &mut root;
        for (depth, key) in path.iter().enumerate() {
            let inner = node.entry(format!("f:{key}")).or_insert_with(|| json!({}));
            let Value::Object(inner) = inner else { break };
            // A map that is owned itself, beside what is in it.
            if depth + 1 < path.len() && fields.contains(&path[..=depth]) {
                inner.insert(".".to_owned(), json!({}));
            }
            node = inner;
        }
    }
    Value::Object(root)
}
