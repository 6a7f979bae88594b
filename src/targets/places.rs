//! Where our entries stand in a text, so that they can be changed without a look at
//! the rest of it, however large it is.

use std::collections::BTreeMap;
use std::ops::Range;

use secrecy::{ExposeSecret, SecretString};

use super::document::{Document, quoted};
use crate::credential::RegistryHost;

/// Where the `auth` of each host stands in one text, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places(BTreeMap<RegistryHost, Range<usize>>);

impl Places {
    /// Of the hosts that have one entry with nothing else in it.
    pub(super) fn in_document<'a>(
        document: &Document<'_>,
        hosts: impl Iterator<Item = &'a RegistryHost>,
    ) -> Self {
        Self(hosts.filter_map(|host| Some((host.clone(), document.place(host)?))).collect())
    }

    /// The text with another `auth` for each of these hosts; `None` if not all of them
    /// have a place.
    pub(super) fn with<'a>(
        &self,
        text: &'a [u8],
        wanted: impl Iterator<Item = (&'a RegistryHost, &'a SecretString)>,
    ) -> Option<Edited<'a>> {
        let mut edits = Vec::new();
        for (host, auth) in wanted {
            edits.push((self.0.get(host)?.clone(), quoted(auth.expose_secret())));
        }
        edits.sort_by_key(|(span, _)| span.start);
        let mut kept = Vec::with_capacity(edits.len());
        let mut cursor = 0;
        for (span, _) in &edits {
            kept.push(text.get(cursor..span.start)?);
            cursor = span.end;
        }
        let rest = text.get(cursor..)?;
        Some(Edited { edits, kept, rest, before: self.clone() })
    }
}

/// A text with other entries, in pieces.
pub(super) struct Edited<'a> {
    /// What was cut out, in order, and what takes its place.
    edits: Vec<(Range<usize>, SecretString)>,
    /// What stays before each of them.
    kept: Vec<&'a [u8]>,
    /// And behind the last.
    rest: &'a [u8],
    before: Places,
}

impl Edited<'_> {
    /// Its pieces, in order.
    pub(super) fn pieces(&self) -> Vec<&[u8]> {
        let changed = self.edits.iter().map(|(_, auth)| auth.expose_secret().as_bytes());
        let pairs = self.kept.iter().copied().zip(changed);
        pairs.flat_map(|(kept, auth)| [kept, auth]).chain([self.rest]).collect()
    }

    /// What is new in it, and where.
    pub(super) fn changed(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.edits
            .iter()
            .map(|(span, auth)| (self.moved(span.start), auth.expose_secret().as_bytes()))
    }

    /// Where the entries stand in it.
    pub(super) fn places(&self) -> Places {
        let moved = |span: &Range<usize>| self.moved(span.start)..self.moved(span.end);
        Places(self.before.0.iter().map(|(host, span)| (host.clone(), moved(span))).collect())
    }

    /// Where in it stands what stood at `offset`, which is no place inside of a change.
    fn moved(&self, offset: usize) -> usize {
        self.edits.iter().filter(|(span, _)| span.end <= offset).fold(offset, |offset, edit| {
            let (span, auth) = edit;
            offset - span.len() + auth.expose_secret().len()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> RegistryHost {
        name.parse().unwrap()
    }

    const TEXT: &str =
        r#"{"auths":{"b.io":{"auth":"Yg=="},"x.io":{"auth":"eA=="},"a.io":{"auth":"YQ=="}}}"#;

    fn places(text: &str) -> Places {
        let hosts = [host("a.io"), host("b.io"), host("none.io")];
        Places::in_document(&Document::parse(text.as_bytes()).unwrap(), hosts.iter())
    }

    fn edited(text: &str, wanted: &[(&str, &str)]) -> Option<(String, Places)> {
        let wanted: Vec<_> =
            wanted.iter().map(|(name, auth)| (host(name), SecretString::from(*auth))).collect();
        let edited = places(text).with(text.as_bytes(), wanted.iter().map(|(h, a)| (h, a)))?;
        let new = String::from_utf8(edited.pieces().concat()).unwrap();
        for (offset, auth) in edited.changed() {
            assert_eq!(&new.as_bytes()[offset..offset + auth.len()], auth);
        }
        Some((new, edited.places()))
    }

    #[test]
    fn entries_are_changed_as_the_document_would() {
        for wanted in [
            vec![("a.io", "bG9uZ2Vy")],
            vec![("b.io", "")],
            vec![("a.io", "bG9uZ2Vy"), ("b.io", "c2hvcnQ=")],
            vec![],
        ] {
            let (new, places_after) = edited(TEXT, &wanted).unwrap();
            let hosts: Vec<_> =
                wanted.iter().map(|(name, auth)| (host(name), SecretString::from(*auth))).collect();
            let same = Document::parse(TEXT.as_bytes()).unwrap().with(&hosts);
            let same = same.as_ref().map_or(TEXT, |text| text.expose_secret());
            assert_eq!(new, same);
            assert_eq!(places_after, places(&new));
        }
    }

    #[test]
    fn an_entry_with_more_in_it_or_one_that_is_there_twice_has_no_place() {
        for text in [
            r#"{"auths":{"a.io":{"auth":"YQ==","email":"x"}}}"#,
            r#"{"auths":{"a.io":{"auth":"YQ=="},"a.io":{"auth":"YQ=="}}}"#,
            r#"{"auths":{"a.io":{"identitytoken":"x"}}}"#,
            r#"{"auths":{}}"#,
            "",
        ] {
            assert!(edited(text, &[("a.io", "Yg==")]).is_none(), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_shorter_than_it_was_is_not_cut() {
        let wanted = [(host("a.io"), SecretString::from("Yg=="))];
        let all = wanted.iter().map(|(host, auth)| (host, auth));
        assert!(places(TEXT).with(b"{}", all).is_none());
    }
}
