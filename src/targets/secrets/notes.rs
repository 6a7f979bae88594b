//! The annotation of a service account that says which names are in its `imagePullSecrets` because
//! of us, and of which installation: several can serve the same account.

use std::collections::BTreeSet;
use std::fmt;

/// Who has put which name there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes(BTreeSet<(String, String)>);

impl Notes {
    /// What the annotation says. Neither owners nor names have a `/` or a `,` in them.
    pub(super) fn read(text: Option<&String>) -> Self {
        let entries = text.into_iter().flat_map(|text| text.split(','));
        let pairs = entries.filter_map(|entry| entry.trim().split_once('/'));
        Self(pairs.map(|(owner, name)| (owner.to_owned(), name.to_owned())).collect())
    }

    pub(super) fn has(&self, owner: &str, name: &str) -> bool {
        self.of(owner).any(|noted| noted == name)
    }

    /// The names that this owner has put there.
    pub(super) fn of(&self, owner: &str) -> impl Iterator<Item = &str> {
        let of_owner = self.0.iter().filter(move |(whose, _)| whose == owner);
        of_owner.map(|(_, name)| name.as_str())
    }

    pub(super) fn with(&self, owner: &str, name: &str) -> Self {
        let mut notes = self.clone();
        notes.0.insert((owner.to_owned(), name.to_owned()));
        notes
    }

    pub(super) fn without(&self, owner: &str, name: &str) -> Self {
        let mut notes = self.clone();
        notes.0.retain(|(whose, noted)| whose != owner || noted != name);
        notes
    }

    /// Whether anybody has put this name there.
    pub(super) fn name(&self, name: &str) -> bool {
        self.0.iter().any(|(_, noted)| noted == name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (owner, name)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{owner}/{name}")?;
        }
        Ok(())
    }
}

/// The annotation, and the label by which accounts with one are found.
pub(super) const NOTE: &str = "freshcreds/image-pull-secrets";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_has_notes_of_its_own() {
        let notes = Notes::read(Some(&"b/two, a/one,nonsense,a/two".to_owned()));
        assert_eq!(notes.to_string(), "a/one,a/two,b/two");
        assert_eq!(notes.of("a").collect::<Vec<_>>(), ["one", "two"]);
        let notes = notes.without("a", "two").without("a", "one");
        assert!(notes.has("b", "two") && notes.name("two") && !notes.name("one"));
        assert!(notes.without("b", "two").is_empty());
        assert_eq!(Notes::default().with("a", "one").to_string(), "a/one");
        assert!(Notes::read(None).is_empty());
    }
}
