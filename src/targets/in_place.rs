//! Writing into the file itself, for the single file of a bind mount, which cannot
//! be replaced; only where a target's settings ask for it.
//!
//! The promise is weaker. While we write, a lease keeps everyone from opening the
//! file, so no reader on this machine sees half of it. But a power cut or a kill in
//! the middle leaves a mixture, which the next start mends from a copy that was
//! written first. Without leases (most network file systems) it is refused.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::file::{FileError, Identity, Step, read_whole};
use super::lease::{self, Lease};
use super::place::{Place, open_for_sync, remove};
use super::points;
use super::replace::{Attributes, Edit, Outcome, Protection};

/// Writes what `edit` makes of the file into it. `copy` is where it is kept
/// meanwhile.
///
/// # Errors
///
/// If it cannot be done, or others have the file open all the time.
pub(super) fn write(
    path: &Path,
    expected: Attributes,
    copy: &Copy,
    edit: Edit<'_>,
) -> Result<Option<Outcome>, FileError> {
    let Some(mut opened) = Opened::new(path, expected)? else {
        return Err(FileError::Missing { path: path.to_owned() });
    };
    let old = opened.read()?;
    let Some(new) = edit(&old) else { return Ok(None) };
    copy.keep(&old, new.expose_secret().as_bytes())?;
    points::before("write in place");
    opened.reserve(new.expose_secret().len())?;
    if let Err(error) = opened.write(new.expose_secret().as_bytes()) {
        // If that fails too, the copy is still there for the next try.
        opened.write(&old)?;
        return Err(error);
    }
    points::before("remove the copy");
    copy.forget()?;
    let written = Identity(None);
    Ok(Some(Outcome::Replaced { protection: Protection::InPlace, conflicts: 0, written }))
}

/// Mends a file that a killed writer left half written. Says whether it had to.
///
/// # Errors
///
/// If the copy or the file cannot be read or written.
pub(super) fn mend(path: &Path, expected: Attributes, copy: &Copy) -> Result<bool, FileError> {
    let Some(kept) = copy.read()? else { return Ok(false) };
    let mut is_mended = false;
    if let Some(mut opened) = Opened::new(path, expected)? {
        let content = opened.read()?;
        if kept.is_mixture(&content) {
            opened.write(kept.new.expose_secret().as_bytes())?;
            is_mended = true;
        }
    }
    copy.forget()?;
    Ok(is_mended)
}

/// Where the old and the new content are kept while the file is written.
pub(super) struct Copy {
    path: PathBuf,
}

impl Copy {
    /// A copy at `path`.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    fn keep(&self, old: &[u8], new: &[u8]) -> Result<(), FileError> {
        let failed = |error| FileError::new(Step::KeepCopy, &self.path, error);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let kept = KeptText { old: text(old), new: text(new) };
        let json = serde_json::to_string(&kept).map_err(|error| failed(error.into()))?;
        let json = SecretString::from(json);
        let place = Place::find(&self.path, Attributes::default())?;
        let (folder, _) = place.with_folder()?;
        points::before("keep a copy");
        remove(&folder, place.name()).map_err(|error| failed(error.into()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, place.name(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed(error.into()))?;
        let mut file = File::from(file);
        // One that is not whole is of a write that has not begun.
        file.write_all(json.expose_secret().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        open_for_sync(&folder).and_then(rustix::fs::fsync).map_err(|error| failed(error.into()))
    }

    fn read(&self) -> Result<Option<Kept>, FileError> {
        let failed = |error| FileError::new(Step::KeepCopy, &self.path, error);
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(serde_json::from_str::<KeptText>(&text)
                .ok()
                .map(|kept| Kept { old: kept.old.into(), new: kept.new.into() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn forget(&self) -> Result<(), FileError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::new(Step::KeepCopy, &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize, Serialize)]
struct KeptText {
    old: String,
    new: String,
}

struct Kept {
    old: SecretString,
    new: SecretString,
}

impl Kept {
    /// Whether every byte is one of the old or of the new content, and the whole is
    /// neither. The pages of a file may reach the disk in any order.
    fn is_mixture(&self, content: &[u8]) -> bool {
        let (old, new) = (self.old.expose_secret().as_bytes(), self.new.expose_secret().as_bytes());
        let longest = old.len().max(new.len());
        content != old
            && content != new
            && (old.len().min(new.len())..=longest).contains(&content.len())
            && content
                .iter()
                .enumerate()
                .all(|(index, byte)| [old, new].iter().any(|text| text.get(index) == Some(byte)))
    }
}

/// The file, open and leased: nobody else has it open.
struct Opened {
    path: PathBuf,
    file: File,
}

impl Opened {
    fn new(path: &Path, expected: Attributes) -> Result<Option<Self>, FileError> {
        let place = Place::find(path, expected)?;
        let Some(folder) = place.folder() else { return Ok(None) };
        let path = place.path();
        let failed = |error: Errno| FileError::new(Step::OpenInPlace, &path, error.into());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut pause = SHORTEST_PAUSE;
        loop {
            match rustix::fs::openat(folder, place.name(), flags, Mode::empty()).map(File::from) {
                Ok(file) => match lease::take(&file, Lease::AgainstAll) {
                    Ok(()) => return Ok(Some(Self { path, file })),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(FileError::NoLease { path, source: error }),
                },
                Err(Errno::NOENT) => return Ok(None),
                // Somebody else's lease.
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(failed(error)),
            }
            if pause > LONGEST_PAUSE {
                return Err(FileError::Busy { path });
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
    }

    fn read(&mut self) -> Result<Vec<u8>, FileError> {
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(|error| FileError::new(Step::Read, &self.path, error))?;
        read_whole(&mut self.file, &self.path)
    }

    /// A full disk is told before anything has changed.
    fn reserve(&self, length: usize) -> Result<(), FileError> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, length) {
            // Not every file system can.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(FileError::new(Step::Write, &self.path, error.into())),
        }
    }

    /// What is longer is only cut when all is there.
    fn write(&mut self, content: &[u8]) -> Result<(), FileError> {
        let failed = |error| FileError::new(Step::Write, &self.path, error);
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.file.write_all(content).map_err(failed)?;
        points::before("cut in place");
        self.file.set_len(length).and_then(|()| self.file.sync_all()).map_err(failed)
    }
}

/// The name of a copy, for the target whose fingerprint it is.
pub(super) fn copy_name(fingerprint: &str) -> OsString {
    format!("in-place-{fingerprint}.copy").into()
}

/// Doubled with each try: about two seconds in all.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(1024);
