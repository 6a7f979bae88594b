//! The text of a docker `config.json`, changed by splicing.
//!
//! The file belongs to docker, to podman and to its owner. Nothing is parsed
//! into a tree and printed again: `serde_json` says where each value stands in
//! the text, our own values are cut out and replaced, and every other byte is
//! copied. So order, unknown keys, numbers of any size, escapes, duplicates,
//! indentation and line ends stay as they were.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::credential::RegistryHost;

/// A parsed `config.json`; it borrows the text and changes nothing in it.
pub struct Document<'a> {
    text: &'a str,
    root: Root<'a>,
}

impl<'a> Document<'a> {
    /// Finds where everything stands in `bytes`.
    ///
    /// An empty file and a lone `null` count as a file without entries, as they
    /// do for docker.
    ///
    /// # Errors
    ///
    /// If the bytes are not a JSON object, or its `auths` is not one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadDocument> {
        if bytes.starts_with(BYTE_ORDER_MARK) {
            return Err(BadDocument::ByteOrderMark);
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| BadDocument::NotUtf8 { offset: error.valid_up_to() })?;
        if matches!(text.trim_matches(JSON_SPACE), "" | "null") {
            return Ok(Self { text, root: Root::Blank });
        }
        let object = Object::parse(text, text.trim_matches(JSON_SPACE), "the file")?;
        let mut auths = Vec::new();
        for member in object.members.iter().filter(|member| member.is(AUTHS)) {
            auths.push(match member.raw {
                "null" => Auths::Null(member.value.clone()),
                raw => Auths::Object(Object::parse(text, raw, "its `auths`")?),
            });
        }
        Ok(Self { text, root: Root::Object { object, auths } })
    }

    /// The `auth` that a reader finds under the bare `host`, if there is one.
    #[must_use]
    pub fn auth(&self, host: &RegistryHost) -> Option<SecretString> {
        // Where a key stands twice, Go's decoder and podman's take the last one.
        let entry = self.entries().filter(|entry| entry.key == host.as_str()).last()?;
        self.plain_auth(entry)
    }

    /// Where the string stands that is all there is under the bare `host`, quotes
    /// included; `None` if there is more, or if the host is there twice.
    pub(super) fn place(&self, host: &RegistryHost) -> Option<Range<usize>> {
        let mut entries = self.entries().filter(|entry| entry.key == host.as_str());
        let (entry, None) = (entries.next()?, entries.next()) else { return None };
        plain_entry(self.text, entry)
    }

    /// The whole new text with `auth` under each bare host, or `None` if that is
    /// what the text has already.
    #[must_use]
    pub fn with(&self, wanted: &[(RegistryHost, SecretString)]) -> Option<SecretString> {
        let mut edits = Vec::new();
        let mut missing = Vec::new();
        for (host, auth) in wanted {
            let mut found = false;
            for entry in self.entries().filter(|entry| entry.key == host.as_str()) {
                found = true;
                edits.extend(self.replacement(entry, auth));
            }
            if !found {
                missing.push((host, auth));
            }
        }
        if !missing.is_empty() {
            edits.push(self.insertion(&missing));
        }
        if edits.is_empty() {
            return None;
        }
        Some(apply(self.text, edits))
    }

    /// The text without the entries that `is_unwanted` names, or `None` if there is none
    /// of them. It gets an entry's key, and its `auth` if that is all it has.
    #[must_use]
    pub fn without(
        &self,
        is_unwanted: impl Fn(&str, Option<&SecretString>) -> bool,
    ) -> Option<SecretString> {
        let mut edits = Vec::new();
        if let Root::Object { auths, .. } = &self.root {
            for auths in auths {
                if let Auths::Object(object) = auths {
                    edits.extend(self.removals(object, |member| {
                        is_unwanted(&member.key, self.plain_auth(member).as_ref())
                    }));
                }
            }
        }
        (!edits.is_empty()).then(|| apply(self.text, edits))
    }

    /// The text with these values under `credHelpers`, or without the key where the value
    /// is `None`; or `None` if that is what the text has already.
    #[must_use]
    pub fn with_helpers(&self, helpers: &[(&str, Option<String>)]) -> Option<SecretString> {
        let Root::Object { object, .. } = &self.root else { return None };
        let mut edits = Vec::new();
        let mut home = None;
        let mut missing: Vec<(&str, String)> = Vec::new();
        let found: Vec<(&Member<'_>, Option<Object<'_>>)> = object
            .members
            .iter()
            .filter(|member| member.is(CRED_HELPERS))
            .map(|member| (member, Object::parse(self.text, member.raw, "").ok()))
            .collect();
        for (key, value) in helpers {
            let mut is_there = false;
            for helper in
                found.iter().filter_map(|(_, object)| object.as_ref()).flat_map(|o| &o.members)
            {
                if helper.key == *key {
                    is_there = true;
                    if let Some(value) = value.as_ref().filter(|value| *value != helper.raw) {
                        edits.push(Edit { span: helper.value.clone(), text: value.clone().into() });
                    }
                }
            }
            if let Some(value) = value.as_ref().filter(|_| !is_there) {
                missing.push((key, value.clone()));
            }
        }
        for (member, object) in &found {
            if let Some(object) = object {
                edits.extend(self.removals(object, |helper| {
                    helpers.iter().any(|(key, value)| *key == helper.key && value.is_none())
                }));
            }
            home = Some((member, object));
        }
        if !missing.is_empty() {
            let members: Vec<(&str, Value<'_>)> =
                missing.iter().map(|(key, value)| (*key, Value::Raw(value))).collect();
            edits.push(match home {
                Some((member, Some(object))) => self.insertion_into(member, object, &members),
                Some((member, None)) => {
                    let layout = Layout::of(member, self.unit());
                    Edit { span: member.value.clone(), text: layout.object(&members) }
                }
                None => self.insertion_of(object, CRED_HELPERS, &members),
            });
        }
        (!edits.is_empty()).then(|| apply(self.text, edits))
    }

    /// Which programs the file names for the hosts, as Go's decoder understands it.
    #[must_use]
    pub fn helpers(&self) -> Helpers {
        let mut helpers = Helpers::default();
        for member in self.members() {
            if member.is(CREDS_STORE)
                && let Ok(name) = serde_json::from_str::<String>(member.raw)
            {
                helpers.store = name;
            }
            if member.is(CRED_HELPERS)
                && let Ok(object) = Object::parse(self.text, member.raw, "")
            {
                for helper in object.members {
                    let name = serde_json::from_str::<String>(helper.raw).unwrap_or_default();
                    helpers.by_host.insert(helper.key, (name, helper.raw.to_owned()));
                }
            }
        }
        helpers
    }

    /// The members of the file.
    pub(super) fn members(&self) -> &[Member<'a>] {
        match &self.root {
            Root::Blank => &[],
            Root::Object { object, .. } => &object.members,
        }
    }

    /// The members of `auths`.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Member<'a>> {
        let auths: &[Auths<'a>] = match &self.root {
            Root::Blank => &[],
            Root::Object { auths, .. } => auths,
        };
        auths.iter().flat_map(|auths| match auths {
            Auths::Null(_) => &[],
            Auths::Object(object) => object.members.as_slice(),
        })
    }

    fn plain_auth(&self, entry: &Member<'_>) -> Option<SecretString> {
        let plain = plain_entry(self.text, entry)?;
        serde_json::from_str::<String>(&self.text[plain]).ok().map(SecretString::from)
    }

    /// Cuts members out of an object, each with one comma.
    fn removals(
        &self,
        object: &Object<'_>,
        is_unwanted: impl Fn(&Member<'_>) -> bool,
    ) -> Vec<Edit> {
        let unwanted: Vec<bool> = object.members.iter().map(is_unwanted).collect();
        let Some(first_kept) = unwanted.iter().position(|unwanted| !unwanted) else {
            let is_empty = object.members.is_empty();
            let text = SecretString::from("{}");
            return if is_empty {
                Vec::new()
            } else {
                vec![Edit { span: object.span.clone(), text }]
            };
        };
        let mut edits = Vec::new();
        if first_kept > 0 {
            let start = offset_in(self.text, object.members[0].gap);
            let end = offset_in(self.text, object.members[first_kept].gap);
            edits.push(Edit { span: start..end, text: SecretString::default() });
        }
        for (pair, unwanted) in object.members.windows(2).zip(&unwanted[1..]).skip(first_kept) {
            if *unwanted {
                let span = pair[0].value.end..pair[1].value.end;
                edits.push(Edit { span, text: SecretString::default() });
            }
        }
        edits
    }

    /// How an entry that is there already gets `auth` as its only content.
    fn replacement(&self, entry: &Member<'a>, auth: &SecretString) -> Option<Edit> {
        let wanted = quoted(auth.expose_secret());
        if let Some(span) = plain_entry(self.text, entry) {
            let same = self.text[span.clone()] == *wanted.expose_secret();
            return (!same).then_some(Edit { span, text: wanted });
        }
        let layout = Layout::of(entry, self.unit());
        Some(Edit { span: entry.value.clone(), text: layout.entry(&wanted) })
    }

    /// One edit that puts all of `missing` at the end of the last `auths`.
    fn insertion(&self, missing: &[(&RegistryHost, &SecretString)]) -> Edit {
        let members: Vec<(&str, Value<'_>)> =
            missing.iter().map(|(host, auth)| (host.as_str(), Value::Entry(auth))).collect();
        let Root::Object { object, auths } = &self.root else {
            // Leading and trailing space is not worth keeping in a blank file.
            let text = Layout::dockers().document(AUTHS, &members);
            return Edit { span: 0..self.text.len(), text };
        };
        let exact = object.members.iter().filter(|member| member.is(AUTHS));
        match auths.iter().zip(exact).last() {
            None => self.insertion_of(object, AUTHS, &members),
            Some((Auths::Null(span), member)) => {
                let layout = Layout::of(member, self.unit());
                Edit { span: span.clone(), text: layout.object(&members) }
            }
            Some((Auths::Object(home), member)) => self.insertion_into(member, home, &members),
        }
    }

    /// Puts `new` at the end of the object that is the value of `member`.
    fn insertion_into(
        &self,
        member: &Member<'_>,
        object: &Object<'_>,
        new: &[(&str, Value<'_>)],
    ) -> Edit {
        let Some(last) = object.members.last() else {
            let layout = Layout::of(member, self.unit());
            return Edit { span: object.span.clone(), text: layout.object(new) };
        };
        let layout = Layout::of(last, self.unit());
        let mut text = String::new();
        for (key, value) in new {
            text.push(',');
            layout.push_member(&mut text, key, *value);
        }
        Edit { span: last.value.end..last.value.end, text: text.into() }
    }

    /// Puts an object with `new` as a further member `key` at the end of the file's.
    fn insertion_of(&self, file: &Object<'_>, key: &str, new: &[(&str, Value<'_>)]) -> Edit {
        let Some(last) = file.members.last() else {
            return Edit { span: file.span.clone(), text: Layout::dockers().document(key, new) };
        };
        let layout = Layout::of(last, self.unit());
        let value = layout.object(new);
        let text = format!(",{}\"{key}\"{}{}", layout.gap, layout.colon, value.expose_secret());
        Edit { span: last.value.end..last.value.end, text: text.into() }
    }

    /// One step of indentation in this file: what stands before its first key.
    fn unit(&self) -> &'a str {
        let first = match &self.root {
            Root::Blank => None,
            Root::Object { object, .. } => object.members.first(),
        };
        first
            .and_then(|first| first.gap.rsplit_once('\n'))
            .map(|(_, indent)| indent)
            .filter(|indent| !indent.is_empty())
            .unwrap_or(DOCKERS_INDENT)
    }
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text has secrets in it.
        formatter.debug_struct("Document").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

/// Why a file is not touched. No text has anything of the file's content in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadDocument {
    /// Docker does not read such a file either.
    #[error("it starts with a byte order mark, which docker cannot read: save it as UTF-8 without")]
    ByteOrderMark,
    /// JSON is UTF-8.
    #[error("it is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// Counted from zero.
        offset: usize,
    },
    /// Not JSON at all.
    #[error("it is not valid JSON at line {line}, column {column}: repair it, or move it away")]
    NotJson {
        /// Counted from one.
        line: usize,
        /// Counted from one.
        column: usize,
    },
    /// JSON, but not what docker's file is made of.
    #[error("{what} is not a JSON object")]
    NotAnObject {
        /// The file, or a part of it.
        what: &'static str,
    },
}

/// The programs that a file names to get credentials from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Helpers {
    /// `credsStore`; empty if there is none.
    pub store: String,
    /// `credHelpers`: by host, the name and the JSON that it stands there as.
    pub by_host: BTreeMap<String, (String, String)>,
}

/// The text is blank, or one object.
enum Root<'a> {
    Blank,
    Object { object: Object<'a>, auths: Vec<Auths<'a>> },
}

/// Go's decoder merges every `auths` there is, and takes `null` for an empty one.
enum Auths<'a> {
    Null(Range<usize>),
    Object(Object<'a>),
}

/// A JSON object and where it stands in the whole text.
pub(super) struct Object<'a> {
    span: Range<usize>,
    pub(super) members: Vec<Member<'a>>,
}

impl<'a> Object<'a> {
    /// Parses `part`, which is a part of `text`.
    pub(super) fn parse(
        text: &'a str,
        part: &'a str,
        what: &'static str,
    ) -> Result<Self, BadDocument> {
        let Pairs(pairs) = serde_json::from_str(part).map_err(|error| {
            if error.is_data() {
                return BadDocument::NotAnObject { what };
            }
            let start = offset_in(text, part);
            let before = &text[..start];
            let lines = before.matches('\n').count();
            let column = if error.line() == 1 {
                before.rsplit('\n').next().unwrap_or_default().len() + error.column()
            } else {
                error.column()
            };
            BadDocument::NotJson { line: lines + error.line(), column }
        })?;
        let start = offset_in(text, part);
        let mut members = Vec::with_capacity(pairs.len());
        let mut cursor = start + 1;
        for (key, raw) in pairs {
            let value_start = offset_in(text, raw.get());
            let value = value_start..value_start + raw.get().len();
            members.push(Member::new(text, cursor, key, value));
            cursor = value_start + raw.get().len();
        }
        Ok(Self { span: start..start + part.len(), members })
    }
}

/// One `"key": value` with the white space that gives the file its look.
pub(super) struct Member<'a> {
    pub(super) key: String,
    /// White space before the key.
    gap: &'a str,
    /// The colon and the white space around it.
    colon: &'a str,
    pub(super) raw: &'a str,
    value: Range<usize>,
}

impl<'a> Member<'a> {
    /// A member that stands between `from` (behind the object's brace or the
    /// value before) and the end of its own value.
    fn new(text: &'a str, from: usize, key: String, value: Range<usize>) -> Self {
        let head = &text[from..value.start];
        let key_start = head.find('"').unwrap_or_default();
        let gap_start = head[..key_start].rfind(',').map_or(0, |comma| comma + 1);
        let key_end = key_start + string_length(&head[key_start..]);
        Self {
            key,
            gap: &head[gap_start..key_start],
            colon: &head[key_end..],
            raw: &text[value.clone()],
            value,
        }
    }

    /// Go's decoder takes a known key in any case.
    pub(super) fn is(&self, key: &str) -> bool {
        self.key.eq_ignore_ascii_case(key)
    }
}

/// How the file is laid out around one of its members.
#[derive(Clone, Copy)]
struct Layout<'a> {
    gap: &'a str,
    colon: &'a str,
    unit: &'a str,
}

impl<'a> Layout<'a> {
    fn of(member: &Member<'a>, unit: &'a str) -> Self {
        Self { gap: member.gap, colon: member.colon, unit }
    }

    /// As docker's CLI prints the file: tabs, one member a line.
    fn dockers() -> Self {
        Layout { gap: "\n", colon: ": ", unit: DOCKERS_INDENT }
    }

    fn is_broken_into_lines(self) -> bool {
        self.gap.contains('\n')
    }

    /// `{"auth": …}` as the value of a member that is laid out like this one.
    fn entry(self, auth: &SecretString) -> SecretString {
        let auth = auth.expose_secret();
        let Self { gap, colon, unit } = self;
        if self.is_broken_into_lines() {
            // A gap may have blank lines in it; inside an entry one line end is enough.
            let inner = &gap[line_start(gap)..];
            format!("{{{inner}{unit}\"auth\"{colon}{auth}{inner}}}").into()
        } else {
            format!("{{\"auth\"{colon}{auth}}}").into()
        }
    }

    fn push_member(self, text: &mut String, key: &str, value: Value<'_>) {
        text.push_str(self.gap);
        text.push_str(quoted(key).expose_secret());
        text.push_str(self.colon);
        match value {
            Value::Entry(auth) => {
                text.push_str(self.entry(&quoted(auth.expose_secret())).expose_secret());
            }
            Value::Raw(raw) => text.push_str(raw),
        }
    }

    /// `{"KEY": …, …}` as the value of a member that is laid out like this one.
    fn object(self, members: &[(&str, Value<'_>)]) -> SecretString {
        let inner_gap = if self.is_broken_into_lines() {
            format!("{}{}", &self.gap[line_start(self.gap)..], self.unit)
        } else {
            self.gap.to_owned()
        };
        let inner = Layout { gap: &inner_gap, colon: self.colon, unit: self.unit };
        let mut text = String::from("{");
        for (index, (key, value)) in members.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            inner.push_member(&mut text, key, *value);
        }
        if self.is_broken_into_lines() {
            text.push_str(&self.gap[line_start(self.gap)..]);
        }
        text.push('}');
        text.into()
    }

    /// A whole file with such an object under `key`.
    fn document(self, key: &str, members: &[(&str, Value<'_>)]) -> SecretString {
        let gap = format!("{}{}", self.gap, self.unit);
        let object = Layout { gap: &gap, ..self }.object(members);
        format!("{{{gap}\"{key}\"{}{}{}}}", self.colon, object.expose_secret(), self.gap).into()
    }
}

/// A value that is put into the text.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// `{"auth": …}`.
    Entry(&'a SecretString),
    /// JSON as it is.
    Raw(&'a str),
}

/// A span of the old text and what takes its place.
struct Edit {
    span: Range<usize>,
    text: SecretString,
}

/// An object's members in order, duplicates too.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, &'de RawValue>()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

const AUTHS: &str = "auths";
const CREDS_STORE: &str = "credsStore";
const CRED_HELPERS: &str = "credHelpers";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const DOCKERS_INDENT: &str = "\t";
const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

fn apply(text: &str, mut edits: Vec<Edit>) -> SecretString {
    edits.sort_by_key(|edit| edit.span.start);
    let added: usize = edits.iter().map(|edit| edit.text.expose_secret().len()).sum();
    let mut new = String::with_capacity(text.len() + added);
    let mut cursor = 0;
    for edit in &edits {
        new.push_str(&text[cursor..edit.span.start]);
        new.push_str(edit.text.expose_secret());
        cursor = edit.span.end;
    }
    new.push_str(&text[cursor..]);
    new.into()
}

/// Where the string value of `auth` stands, if it is all that the entry has.
fn plain_entry(text: &str, entry: &Member<'_>) -> Option<Range<usize>> {
    let object = Object::parse(text, &text[entry.value.clone()], "").ok()?;
    match object.members.as_slice() {
        [only] if only.key == "auth" && only.raw.starts_with('"') => Some(only.value.clone()),
        _ => None,
    }
}

/// Where the last line of white space starts, line end included.
fn line_start(gap: &str) -> usize {
    let Some(newline) = gap.rfind('\n') else {
        return 0;
    };
    if gap[..newline].ends_with('\r') { newline - 1 } else { newline }
}

/// How far a part of `text` stands from its start.
fn offset_in(text: &str, part: &str) -> usize {
    part.as_ptr().addr() - text.as_ptr().addr()
}

pub(super) fn quoted(text: &str) -> SecretString {
    // A host, a base64 text and our own keys have nothing in them that JSON would escape.
    debug_assert!(!text.contains(['"', '\\']) && !text.chars().any(char::is_control));
    format!("\"{text}\"").into()
}

/// How long the JSON string is that `text` starts with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests;
