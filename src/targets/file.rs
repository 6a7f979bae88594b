//! One file as it is found: its content, and by what to tell that it is still the
//! same. [`replace`](super::replace) changes it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::lease::{self, Lease};
use super::place::Place;
use super::points;
use super::replace::Attributes;
use crate::trouble;

/// What was found at a path: the content, and by what to tell that it is still
/// the same.
pub struct Found {
    /// The whole content; empty if there is no file.
    pub content: Vec<u8>,
    /// Which file it was, and in which state.
    pub identity: Identity,
    pub(super) place: Place,
    /// Held open until it is replaced.
    pub(super) file: Option<File>,
    /// Whether writers in place wait until then.
    pub(super) is_leased: bool,
}

impl Found {
    /// Who owns the file, if there is one.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        Some(self.file.as_ref()?.metadata().ok()?.uid())
    }

    /// Whether another name leads to the file, by a hard link.
    /// Whose it is and its permission bits, if there is a file.
    #[must_use]
    pub fn owner_and_mode(&self) -> Option<(u32, u32)> {
        self.identity.0.map(|stat| (stat.owner, stat.mode))
    }

    pub(super) fn has_another_name(&self) -> bool {
        let metadata = self.file.as_ref().map(File::metadata);
        metadata.is_some_and(|metadata| metadata.is_ok_and(|metadata| metadata.nlink() > 1))
    }

    fn nothing(place: Place) -> Self {
        Self { content: Vec::new(), identity: Identity(None), place, file: None, is_leased: false }
    }
}

/// Which file stood at a path, and in which state. Two equal ones mean that
/// nobody wrote in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(pub(super) Option<Stat>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) mode: u32,
}

impl Identity {
    /// What stands at `path` now, without reading it.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn at(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Self(Some(Stat::from(&metadata)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Whether it is the same file with the same content, wherever it stands now.
    #[must_use]
    pub fn is_moved(self, other: Self) -> bool {
        self.0.zip(other.0).is_some_and(|(one, other)| one.is_moved(&other))
    }

    /// Whether the file is so young at `now` that a further write could leave
    /// its time stamps as they are, which have the grain of the kernel's tick.
    #[must_use]
    pub fn is_fresh(self, now: SystemTime) -> bool {
        let Some(stat) = self.0 else { return false };
        let seconds = u64::try_from(stat.changed.0).unwrap_or_default();
        let nanos = u32::try_from(stat.changed.1).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        now.duration_since(changed).is_ok_and(|age| age < TICK)
    }
}

impl Stat {
    /// Whether it is the same file with the same content, wherever it stands now: a
    /// rename changes the third time stamp.
    pub(super) fn is_moved(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size, self.modified)
            == (other.device, other.inode, other.size, other.modified)
    }
}

impl From<&fs::Metadata> for Stat {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            owner: metadata.uid(),
            group: metadata.gid(),
            mode: metadata.mode() & PERMISSION_BITS,
        }
    }
}

/// Reads back whether the file in `place` is the one that was `written`, and whether
/// each of the texts stands at its offset in it. Tells its state now.
pub(super) fn read_back<'a>(
    place: &Place,
    written: Identity,
    texts: impl Iterator<Item = (usize, &'a [u8])>,
) -> Option<Identity> {
    points::before("read back");
    let file = rustix::fs::openat(place.folder()?, place.name(), READ_ONLY, Mode::empty()).ok()?;
    let file = File::from(file);
    for (offset, text) in texts {
        let mut found = vec![0_u8; text.len()];
        file.read_exact_at(&mut found, u64::try_from(offset).ok()?).ok()?;
        if found != text {
            return None;
        }
    }
    let now = Identity(Some(Stat::from(&file.metadata().ok()?)));
    now.is_moved(written).then_some(now)
}

/// Reads the whole file that `path` leads to. No file is no error.
///
/// `expected` has an owner whose file it may be, beside root and the folder's owner, and a
/// group whose folder it has to be if that is what lets us in.
///
/// # Errors
///
/// If there is something that is not a regular file, or that cannot be read.
pub fn read(path: &Path, expected: Attributes) -> Result<Found, FileError> {
    let mut pause = SHORTEST_PAUSE;
    loop {
        // The last try takes what it gets, so that nobody who keeps the file open
        // for writing keeps us out of it.
        let is_last = pause > LONGEST_PAUSE;
        match read_now(path, expected, is_last) {
            Err(FileError::Busy { .. }) if !is_last => std::thread::sleep(pause),
            result => return result,
        }
        pause *= 2;
    }
}

fn read_now(path: &Path, expected: Attributes, is_last: bool) -> Result<Found, FileError> {
    let place = Place::find(path, expected)?;
    let Some(folder) = place.folder() else {
        return Ok(Found::nothing(place));
    };
    let path = place.path();
    let mut file = match rustix::fs::openat(folder, place.name(), READ_ONLY, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Found::nothing(place)),
        Err(Errno::AGAIN) => return Err(FileError::Busy { path }),
        Err(error) => return Err(FileError::new(Step::Read, &path, error.into())),
    };
    let failed = |error| FileError::new(Step::Read, &path, error);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path, what: describe(metadata.file_type()) });
    }
    place.admit(&metadata)?;
    let is_leased = match lease::take(&file, Lease::AgainstWriters) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_last => {
            return Err(FileError::Busy { path });
        }
        // Somebody else's file, or a file system without leases.
        Err(_) => false,
    };
    let content = read_whole(&mut file, &path)?;
    let after = file.metadata().map_err(failed)?;
    if Stat::from(&metadata) != Stat::from(&after) {
        return Err(FileError::Busy { path });
    }
    let identity = Identity(Some(Stat::from(&after)));
    Ok(Found { content, identity, place, file: Some(file), is_leased })
}

/// Reads a file from where it is to its end, unless it is larger than any `config.json`: whoever may write into the
/// folder could have all memory be used up.
pub(super) fn read_whole(file: &mut File, path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |error| FileError::new(Step::Read, path, error);
    let length = file.metadata().map_err(failed)?.len();
    if length > LARGEST {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1);
    // It may grow meanwhile.
    file.take(LARGEST + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > LARGEST {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(content)
}

/// Why a file could not be read or replaced.
#[derive(Debug, Error)]
pub enum FileError {
    /// The system refused a step.
    #[error("cannot {step} {}: {source}{}", path.display(), hint(*step, source))]
    Step {
        /// What was tried.
        step: Step,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else has the name.
    #[error("{} is {what}, not a file{}", path.display(), if *what == "a folder" {
        ": name the file in it; if docker made it, in the place of a mounted file that was \
         missing, remove it" } else { "" })]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// More links in a row than any system follows.
    #[error("{}: the links lead in a circle", path.display())]
    Circle {
        /// Where they start.
        path: PathBuf,
    },
    /// As root, or by a group's leave: a link of somebody's that leads to what is not theirs.
    #[error(
        "{} leads to {} by a link of user {link}, and that is user {owner}'s, so it is not \
         followed; name the file itself, or give the link to root",
        path.display(), to.display()
    )]
    ForeignLink {
        /// Where it starts.
        path: PathBuf,
        /// Where it ends.
        to: PathBuf,
        /// Whose link.
        link: u32,
        /// Whose file.
        owner: u32,
    },
    /// As root, or by a group's leave: a file of somebody's in a folder that they share with others.
    #[error(
        "{} is user {owner}'s, in a folder of somebody else that others may write to, so it \
         gets no credentials; set `owner` for this target if it is right, or remove it",
        path.display()
    )]
    Planted {
        /// Where.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// By a group's leave: the folder of another group.
    #[error(
        "{} is a folder of group {found}, and this target is one of group {group}: it may have been \
         reached by a link of somebody's; give the folder to that group, or mend the link and \
         restart",
        path.display()
    )]
    ForeignFolder {
        /// Where.
        path: PathBuf,
        /// The group that it has.
        found: u32,
        /// The group that it should have.
        group: u32,
    },
    /// Nobody has a `config.json` of this size.
    #[error("{} is larger than 64 MiB", path.display())]
    TooLarge {
        /// Where.
        path: PathBuf,
    },
    /// The single file of a bind mount.
    #[error(
        "{} is a mount point of its own, so it cannot be replaced: mount its folder instead of the \
         single file, or set `write = \"in-place\"` for this target",
        path.display()
    )]
    MountPoint {
        /// Where.
        path: PathBuf,
    },
    /// In place, a file can be changed but not made.
    #[error("{} is not there, and writing in place cannot make it: make an empty one", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// In place, the old content has to be kept somewhere meanwhile.
    #[error("{} cannot be written in place without a folder for `state`: set it", path.display())]
    NoState {
        /// Which file.
        path: PathBuf,
    },
    /// In place, others can only be kept away by a lease.
    #[error(
        "{} cannot be written in place, since its file system or its owner gives us no lease to \
         keep readers away ({source}): run as its owner, or mount its folder",
        path.display()
    )]
    NoLease {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone was writing while it was read.
    #[error("{} is being written by another program", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
}

impl FileError {
    /// What is wrong, by kind.
    #[must_use]
    pub fn kind(&self) -> trouble::Kind {
        match self {
            Self::Busy { .. } => trouble::Kind::Busy,
            Self::MountPoint { .. } => trouble::Kind::MountPoint,
            Self::Missing { .. } => trouble::Kind::Missing,
            Self::NoLease { .. } => trouble::Kind::NoLease,
            Self::NoState { .. } => trouble::Kind::NoState,
            Self::ForeignLink { .. } => trouble::Kind::ForeignLink,
            Self::Planted { .. } => trouble::Kind::ForeignFile,
            Self::ForeignFolder { .. } => trouble::Kind::ForeignFolder,
            Self::NotAFile { .. } => trouble::Kind::NotAFile,
            Self::Circle { .. } => trouble::Kind::LinkCircle,
            Self::TooLarge { .. } => trouble::Kind::TooLarge,
            Self::Step { step: Step::Rename, source, .. } if is_forbidden(source) => {
                trouble::Kind::Immutable
            }
            Self::Step { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => trouble::Kind::PermissionDenied,
                io::ErrorKind::ReadOnlyFilesystem => trouble::Kind::ReadOnly,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    trouble::Kind::DiskFull
                }
                io::ErrorKind::ResourceBusy => trouble::Kind::MountPoint,
                _ => trouble::Kind::Io,
            },
        }
    }

    pub(super) fn new(step: Step, path: &Path, source: io::Error) -> Self {
        Self::Step { step, path: path.to_owned(), source }
    }
}

/// The steps that the system can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Follow the links.
    Resolve,
    /// Read the old file.
    Read,
    /// Make the folder.
    MakeFolder,
    /// Make the new file.
    Create,
    /// Give the new file the old one's owner and mode, or its folder's owner.
    KeepOwner,
    /// Give the new file the old one's extended attributes.
    KeepAttributes,
    /// Write and sync the new file.
    Write,
    /// Put the new file in the place of the old one.
    Rename,
    /// Sync the folder.
    SyncFolder,
    /// Remove what a write left.
    ClearUp,
    /// Open the file to write into it.
    OpenInPlace,
    /// Keep a copy while the file is written in place.
    KeepCopy,
}

impl std::fmt::Display for Step {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Resolve => "follow",
            Self::Read => "read",
            Self::MakeFolder => "make the folder",
            Self::Create => "make a new file in",
            Self::KeepOwner => "keep the owner and mode of",
            Self::KeepAttributes => "keep the extended attributes of",
            Self::Write => "write the new content of",
            Self::Rename => "replace",
            Self::SyncFolder => "sync the folder",
            Self::ClearUp => "clear up",
            Self::OpenInPlace => "write into",
            Self::KeepCopy => "keep a copy at",
        })
    }
}

/// Not for want of a permission, but forbidden, as a flag of the file does.
fn is_forbidden(source: &io::Error) -> bool {
    Errno::from_io_error(source) == Some(Errno::PERM)
}

/// What can be done about it.
fn hint(step: Step, source: &io::Error) -> &'static str {
    match (step, source.kind()) {
        (Step::Rename, io::ErrorKind::ResourceBusy) => {
            ": it is a mount point of its own; mount its folder instead of the single file"
        }
        (Step::Rename, io::ErrorKind::CrossesDevices) => {
            ": it lies on another file system than its folder; mount its folder instead"
        }
        (Step::Create, io::ErrorKind::PermissionDenied) => {
            ": the folder must be writable for this user, since the file is replaced as a whole"
        }
        (_, io::ErrorKind::ReadOnlyFilesystem) => ": mount the folder writable",
        (Step::Rename, _) if is_forbidden(source) => {
            ": the file cannot be replaced by anyone; `lsattr` shows it, `chattr -ia` ends it"
        }
        (_, io::ErrorKind::QuotaExceeded) => ": the quota is used up; the old file stays",
        (_, io::ErrorKind::StorageFull) => ": the disk is full; the old file stays",
        (Step::KeepOwner, _) => ": run as the file's owner, or as root",
        _ => "",
    }
}

/// A pipe must not hold us up, nor a lease, and a link that appeared since is not
/// followed.
const READ_ONLY: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const PERMISSION_BITS: u32 = 0o7777;
const LARGEST: u64 = 64 * 1024 * 1024;

/// Time stamps come from the kernel's tick, which is 10 ms at the coarsest.
const TICK: Duration = Duration::from_millis(50);

/// Doubled with each try: about a second in all.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(512);

fn describe(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
