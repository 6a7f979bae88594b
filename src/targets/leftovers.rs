//! What a killed writer leaves, and what becomes of it at the next start.
//!
//! A temporary file has a name that says what it is, so that what is left needs no
//! memory to be told apart:
//!
//! - `.freshcreds-RANDOM.new` was never at the target's name: it is removed.
//! - `.freshcreds-RANDOM.NEW.OLD.SECONDS.NANOS` is one half of an exchange of the inode `NEW` for
//!   the inode `OLD` of that time. If it holds either, all is accounted for, and it is
//!   removed. If it holds a third one, another program's file was displaced, and we
//!   were killed before that was merged: it is merged now.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::file::{FileError, Found, Step, read_whole};
use super::place::{look, open_for_sync, remove};
use super::replace::{self, Attributes, Edit, take_turn};

/// The name of a temporary file, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Never published.
    Unpublished,
    /// One half of an exchange.
    Exchange { new: u64, old: u64, modified: (i64, i64) },
}

impl Name {
    /// A name for a file that is being made.
    pub(super) fn unpublished() -> String {
        format!("{TEMPORARY_PREFIX}{:016x}.new", fastrand::u64(..))
    }

    /// A name for the file `new` that is to displace `old`.
    pub(super) fn exchange(new: u64, old: u64, modified: (i64, i64)) -> String {
        let (seconds, nanos) = modified;
        format!("{TEMPORARY_PREFIX}{:016x}.{new}.{old}.{seconds}.{nanos}", fastrand::u64(..))
    }

    /// What a name says, if it is one of ours.
    pub(super) fn parse(name: &OsStr) -> Option<Self> {
        let rest = name.to_str()?.strip_prefix(TEMPORARY_PREFIX)?;
        let mut parts = rest.split('.').skip(1);
        match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("new", None, ..) => Some(Self::Unpublished),
            (new, Some(old), Some(seconds), Some(nanos)) => Some(Self::Exchange {
                new: new.parse().ok()?,
                old: old.parse().ok()?,
                modified: (seconds.parse().ok()?, nanos.parse().ok()?),
            }),
            _ => None,
        }
    }
}

/// The start of a temporary file's name; docker's own start with the file's name.
pub const TEMPORARY_PREFIX: &str = ".freshcreds-";

/// Clears the folder of what a killed writer of ours left there, and merges what
/// another program had written, and we had displaced, at that moment. Says how
/// many files it found.
///
/// `edit` gives the text of another program what `found` has of ours.
///
/// # Errors
///
/// If something cannot be removed or merged.
pub fn clear(found: &Found, edit: Edit<'_>, attributes: &Attributes) -> Result<usize, FileError> {
    let Some(folder) = found.place.folder() else { return Ok(0) };
    let folder_path = found.place.folder_path();
    let failed = |error: Errno| FileError::new(Step::Read, folder_path, error.into());
    let names = leftovers(folder).map_err(failed)?;
    if names.is_empty() {
        return Ok(0);
    }
    // The files of a writer that is alive are not left over.
    let Some(turn) = take_turn(folder) else { return Ok(0) };
    let mut left = Vec::new();
    for name in leftovers(folder).map_err(failed)? {
        if let Some(meaning) = Name::parse(&name)
            && let Some(metadata) = look(folder, &name).map_err(failed)?
        {
            left.push(Left { name, meaning, metadata });
        }
    }
    let stranded: Vec<&Left> = left.iter().filter(|one| one.is_stranded(&left)).collect();
    let mut merged = Ok(());
    // The replacement takes the turn itself.
    drop(turn);
    for one in &stranded {
        merged = one.rescue(found, folder, edit, attributes);
    }
    merged?;
    for one in left.iter().filter(|one| !one.is_stranded(&left)) {
        remove(folder, &one.name).map_err(|error| one.failed(found, error))?;
    }
    let target_file = found.place.path().display().to_string();
    info!(target_file, files = left.len(), "cleared what a killed writer left");
    Ok(left.len())
}

struct Left {
    name: OsString,
    meaning: Name,
    metadata: Metadata,
}

impl Left {
    /// Whether it holds what another program wrote and nobody merged.
    fn is_stranded(&self, all: &[Self]) -> bool {
        let Name::Exchange { new, old, modified } = self.meaning else { return false };
        let inode = self.metadata.ino();
        let times = (self.metadata.mtime(), self.metadata.mtime_nsec());
        let is_accounted =
            inode == new || inode == old && (modified == (0, 0) || modified == times);
        // What ours displaced was merged into the one that was to displace ours, if
        // that one took its place.
        let is_merged = all.iter().any(|other| {
            matches!(other.meaning, Name::Exchange { new: next, old, .. }
                if old == new && other.metadata.ino() != next)
        });
        !is_accounted && !is_merged
    }

    /// Brings back what it holds: merged, if the target is as we left it; else beside
    /// it, for a person to look at.
    fn rescue(
        &self,
        found: &Found,
        folder: &File,
        edit: Edit<'_>,
        attributes: &Attributes,
    ) -> Result<(), FileError> {
        let path = found.place.path();
        let Name::Exchange { new, .. } = self.meaning else { return Ok(()) };
        let is_as_we_left_it = found.identity.0.is_some_and(|stat| stat.inode == new);
        let theirs = self.read(folder, found)?;
        if is_as_we_left_it && let Ok(text) = String::from_utf8(theirs) {
            let content = edit(text.as_bytes()).unwrap_or_else(|| SecretString::from(text));
            // Nobody merges into the merged: should others write now, the next turn
            // starts from theirs, and this file is still here.
            let outcome = replace::replace(
                found,
                &[content.expose_secret().as_bytes()],
                &|_| None,
                attributes,
            )?;
            if matches!(outcome, replace::Outcome::Replaced { .. }) {
                info!(target_file = %path.display(), "merged what another program had written");
                return remove(folder, &self.name).map_err(|error| self.failed(found, error));
            }
        }
        let mut aside = found.place.name().to_owned();
        aside.push(format!(".recovered-{:016x}", fastrand::u64(..)));
        rustix::fs::renameat_with(folder, &self.name, folder, &aside, RenameFlags::NOREPLACE)
            .or_else(|_| rustix::fs::renameat(folder, &self.name, folder, &aside))
            .map_err(|error| self.failed(found, error))?;
        let aside = PathBuf::from(&aside);
        warn!(
            target_file = %path.display(),
            kept_as = %found.place.folder_path().join(aside).display(),
            "another program wrote the file while a writer was killed, and others wrote it since: \
             compare them, and remove the one that is kept aside"
        );
        Ok(())
    }

    fn read(&self, folder: &File, found: &Found) -> Result<Vec<u8>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, &self.name, flags, Mode::empty())
            .map_err(|error| self.failed(found, error))?;
        read_whole(&mut File::from(file), &found.place.folder_path().join(&self.name))
    }

    fn failed(&self, found: &Found, error: Errno) -> FileError {
        let path = found.place.folder_path().join(&self.name);
        FileError::new(Step::ClearUp, &path, error.into())
    }
}

fn leftovers(folder: &File) -> Result<Vec<OsString>, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in Dir::read_from(open_for_sync(folder)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(TEMPORARY_PREFIX.as_bytes()) {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
