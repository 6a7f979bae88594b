//! The text of a docker `config.json`, changed by splicing.
//!
//! The file belongs to docker, to podman and to its owner. Nothing is parsed
//! into a tree and printed again: `serde_json` says where each value stands in
//! the text, our own values are cut out and replaced, and every other byte is
//! copied. So order, unknown keys, numbers of any size, escapes, duplicates,
//! indentation and line ends stay as they were.

use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
        let plain = plain_entry(self.text, entry)?;
        serde_json::from_str::<String>(&self.text[plain]).ok().map(SecretString::from)
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

    /// What makes docker pass by the entries of `hosts` in this file.
    #[must_use]
    pub fn obstacles(&self, hosts: &[RegistryHost]) -> Vec<Obstacle> {
        let Root::Object { object, .. } = &self.root else {
            return Vec::new();
        };
        let mut obstacles = Vec::new();
        for member in &object.members {
            if member.is("credsStore")
                && let Ok(name) = serde_json::from_str::<String>(member.raw)
                && !name.is_empty()
            {
                obstacles.push(Obstacle::CredsStore { name });
            }
            if member.is("credHelpers")
                && let Ok(helpers) = Object::parse(self.text, member.raw, "")
            {
                obstacles.extend(helpers.members.iter().filter_map(|helper| {
                    let host = hosts.iter().find(|host| host.as_str() == helper.key)?;
                    let name = serde_json::from_str::<String>(helper.raw).unwrap_or_default();
                    Some(Obstacle::CredHelper { host: host.clone(), name })
                }));
            }
        }
        for entry in self.entries() {
            if !entry_is_readable(entry) {
                obstacles.push(Obstacle::UnreadableEntry { key: shorten(&entry.key) });
            }
        }
        obstacles
    }

    fn entries(&self) -> impl Iterator<Item = &Member<'a>> {
        let auths: &[Auths<'a>] = match &self.root {
            Root::Blank => &[],
            Root::Object { auths, .. } => auths,
        };
        auths.iter().flat_map(|auths| match auths {
            Auths::Null(_) => &[],
            Auths::Object(object) => object.members.as_slice(),
        })
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
        let Root::Object { object, auths } = &self.root else {
            // Leading and trailing space is not worth keeping in a blank file.
            let text = Layout::dockers().document(missing);
            return Edit { span: 0..self.text.len(), text };
        };
        let exact = object.members.iter().filter(|member| member.is(AUTHS));
        let Some((home, member)) = auths.iter().zip(exact).last() else {
            return self.insertion_of_auths(object, missing);
        };
        let layout = Layout::of(member, self.unit());
        match home {
            Auths::Null(span) => Edit { span: span.clone(), text: layout.auths(missing) },
            Auths::Object(object) => match object.members.last() {
                None => Edit { span: object.span.clone(), text: layout.auths(missing) },
                Some(last) => {
                    let layout = Layout::of(last, self.unit());
                    let mut text = String::new();
                    for (host, auth) in missing {
                        text.push(',');
                        layout.push_member(&mut text, host, auth);
                    }
                    Edit { span: last.value.end..last.value.end, text: text.into() }
                }
            },
        }
    }

    fn insertion_of_auths(
        &self,
        object: &Object<'a>,
        missing: &[(&RegistryHost, &SecretString)],
    ) -> Edit {
        let Some(last) = object.members.last() else {
            return Edit { span: object.span.clone(), text: Layout::dockers().document(missing) };
        };
        let layout = Layout::of(last, self.unit());
        let auths = layout.auths(missing);
        let text = format!(",{}\"{AUTHS}\"{}{}", layout.gap, layout.colon, auths.expose_secret());
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

/// Something in the file that makes docker pass by an entry of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// With a `credsStore` docker asks that program for every host, and takes no
    /// `auths`; podman and skopeo do not care.
    CredsStore {
        /// The program's name after `docker-credential-`.
        name: String,
    },
    /// With `credHelpers` for the host every client asks that program.
    CredHelper {
        /// Whose helper it is.
        host: RegistryHost,
        /// The program's name after `docker-credential-`.
        name: String,
    },
    /// One `auth` that does not decode makes docker refuse the whole file.
    UnreadableEntry {
        /// The entry's key.
        key: String,
    },
}

impl Obstacle {
    /// A short fixed word for logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CredsStore { .. } => "creds_store",
            Self::CredHelper { .. } => "cred_helper",
            Self::UnreadableEntry { .. } => "unreadable_entry",
        }
    }

    /// Whether it keeps docker from the entry of `host`.
    #[must_use]
    pub fn hides(&self, host: &RegistryHost) -> bool {
        match self {
            Self::CredsStore { .. } | Self::UnreadableEntry { .. } => true,
            Self::CredHelper { host: helped, .. } => helped == host,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CredsStore { name } => write!(
                formatter,
                "`credsStore` is set, so docker asks docker-credential-{} instead of reading `auths`: \
                 remove `credsStore` from the file",
                name.escape_default()
            ),
            Self::CredHelper { host, name } => write!(
                formatter,
                "`credHelpers` names docker-credential-{} for {host}, so clients ask it instead of \
                 reading `auths`: remove that line from the file",
                name.escape_default()
            ),
            Self::UnreadableEntry { key } => write!(
                formatter,
                "the `auth` of `{}` does not decode, and docker refuses the whole file for it: \
                 run `docker logout {}`, or remove the entry",
                key.escape_default(),
                key.escape_default()
            ),
        }
    }
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
struct Object<'a> {
    span: Range<usize>,
    members: Vec<Member<'a>>,
}

impl<'a> Object<'a> {
    /// Parses `part`, which is a part of `text`.
    fn parse(text: &'a str, part: &'a str, what: &'static str) -> Result<Self, BadDocument> {
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
struct Member<'a> {
    key: String,
    /// White space before the key.
    gap: &'a str,
    /// The colon and the white space around it.
    colon: &'a str,
    raw: &'a str,
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
    fn is(&self, key: &str) -> bool {
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

    fn push_member(self, text: &mut String, host: &RegistryHost, auth: &SecretString) {
        text.push_str(self.gap);
        text.push_str(quoted(host.as_str()).expose_secret());
        text.push_str(self.colon);
        text.push_str(self.entry(&quoted(auth.expose_secret())).expose_secret());
    }

    /// `{"HOST": …, …}` as the value of a member that is laid out like this one.
    fn auths(self, missing: &[(&RegistryHost, &SecretString)]) -> SecretString {
        let inner_gap = if self.is_broken_into_lines() {
            format!("{}{}", &self.gap[line_start(self.gap)..], self.unit)
        } else {
            self.gap.to_owned()
        };
        let inner = Layout { gap: &inner_gap, colon: self.colon, unit: self.unit };
        let mut text = String::from("{");
        for (index, (host, auth)) in missing.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            inner.push_member(&mut text, host, auth);
        }
        if self.is_broken_into_lines() {
            text.push_str(&self.gap[line_start(self.gap)..]);
        }
        text.push('}');
        text.into()
    }

    fn document(self, missing: &[(&RegistryHost, &SecretString)]) -> SecretString {
        let gap = format!("{}{}", self.gap, self.unit);
        let auths = Layout { gap: &gap, ..self }.auths(missing);
        format!("{{{gap}\"{AUTHS}\"{}{}{}}}", self.colon, auths.expose_secret(), self.gap).into()
    }
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
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const DOCKERS_INDENT: &str = "\t";
const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
const LONGEST_SHOWN_KEY: usize = 80;

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

/// Whether docker can read an entry, ours or not: without an `auth`, or with one
/// that decodes to `user:…`
/// (<https://github.com/docker/cli/blob/v28.2.2/cli/config/configfile/file.go>).
fn entry_is_readable(entry: &Member<'_>) -> bool {
    #[derive(Deserialize)]
    struct Entry {
        auth: Option<String>,
    }
    let Ok(Some(entry)) = serde_json::from_str::<Option<Entry>>(entry.raw) else {
        return entry.raw == "null";
    };
    match entry.auth.as_deref() {
        None | Some("") => true,
        // Go's decoder skips line ends.
        Some(auth) => STANDARD
            .decode(auth.replace(['\r', '\n'], ""))
            .is_ok_and(|pair| pair.iter().position(|byte| *byte == b':').is_some_and(|at| at > 0)),
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

fn quoted(text: &str) -> SecretString {
    // A host and a base64 text have nothing in them that JSON would escape.
    debug_assert!(!text.contains(['"', '\\']) && !text.chars().any(char::is_control));
    format!("\"{text}\"").into()
}

fn shorten(key: &str) -> String {
    key.chars().take(LONGEST_SHOWN_KEY).collect()
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
