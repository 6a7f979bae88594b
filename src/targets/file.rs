//! The durable replacement of a file: a reader, and a machine that lost its
//! power, find the old file or the new one, whole.
//!
//! The order is what makes it safe:
//!
//! 1. Links are followed first, so that the link stays and its file is replaced.
//! 2. The new file is made in the folder of the old one (a rename does not cross
//!    file systems), for its owner only (it holds secrets from its first byte).
//! 3. It gets the old one's owner and mode before it gets any content.
//! 4. Content, then `fsync`: a rename may reach the disk before the data does.
//! 5. The old file is looked at again. If it is not what was read, someone else
//!    has written it, and the caller starts again from what they wrote.
//! 6. `rename`, then `fsync` of the folder, which is where the name is kept.
//!
//! Between 5 and 6 another program can still slip in; see `docs/architecture.md`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;
use rustix::process::{Gid, Uid};
use thiserror::Error;

/// What was found at a path: the content, and by what to tell that it is still
/// the same.
pub struct Found {
    /// The whole content; empty if there is no file.
    pub content: Vec<u8>,
    /// Which file it was, and in which state.
    pub identity: Identity,
    /// The file that all links lead to.
    resolved: PathBuf,
}

/// Which file stood at a path, and in which state. Two equal ones mean that
/// nobody wrote in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(Option<Stat>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    owner: u32,
    group: u32,
    mode: u32,
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

    /// Whether the file is so young at `now` that a further write could leave
    /// its time stamps as they are, which have the grain of the kernel's tick.
    #[must_use]
    pub fn is_fresh(self, now: SystemTime) -> bool {
        let Some(stat) = self.0 else { return false };
        let seconds = u64::try_from(stat.changed.0).unwrap_or_default();
        let nanos = u32::try_from(stat.changed.1).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + std::time::Duration::new(seconds, nanos);
        now.duration_since(changed).is_ok_and(|age| age < TICK)
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

/// Reads the whole file that `path` leads to. No file is no error.
///
/// # Errors
///
/// If there is something that is not a regular file, or that cannot be read.
pub fn read(path: &Path) -> Result<Found, FileError> {
    let resolved = resolve(path)?;
    let opened = fs::OpenOptions::new()
        .read(true)
        // A pipe must not hold us up, and a link that appeared since is not followed.
        .custom_flags(bits(OFlags::NONBLOCK | OFlags::NOFOLLOW))
        .open(&resolved);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found { content: Vec::new(), identity: Identity(None), resolved });
        }
        Err(error) => return Err(FileError::new(Step::Read, &resolved, error)),
    };
    let failed = |error| FileError::new(Step::Read, &resolved, error);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: resolved, what: describe(metadata.file_type()) });
    }
    if metadata.len() > LARGEST {
        return Err(FileError::TooLarge { path: resolved });
    }
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1);
    file.read_to_end(&mut content).map_err(failed)?;
    let after = file.metadata().map_err(failed)?;
    if Stat::from(&metadata) != Stat::from(&after) {
        return Err(FileError::Busy { path: resolved });
    }
    Ok(Found { content, identity: Identity(Some(Stat::from(&after))), resolved })
}

/// Puts `content` where `old` was found, if `old` is still there. `false` means
/// that someone else wrote in between, and that nothing was done.
///
/// # Errors
///
/// If a step fails; the old file is then as it was, and no new one is left over.
pub fn replace(old: &Found, content: &[u8]) -> Result<bool, FileError> {
    let path = old.resolved.as_path();
    let folder = parent(path);
    make_folder(folder)?;
    let failed = |step| move |error: io::Error| FileError::new(step, path, error);

    let mut new = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .permissions(fs::Permissions::from_mode(OWNER_ONLY))
        .tempfile_in(folder)
        .map_err(|error| FileError::new(Step::Create, folder, error))?;
    match old.identity.0 {
        Some(stat) => keep_owner_and_mode(new.as_file(), stat),
        None => give_to_owner_of(folder, new.as_file()),
    }
    .map_err(failed(Step::KeepOwner))?;
    new.write_all(content).map_err(failed(Step::Write))?;
    new.as_file().sync_all().map_err(failed(Step::Write))?;

    let now = Identity::at(path).map_err(failed(Step::Read))?;
    if now != old.identity {
        return Ok(false);
    }
    let persisted =
        if old.identity.0.is_some() { new.persist(path) } else { new.persist_noclobber(path) };
    match persisted {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(FileError::new(Step::Rename, path, error.error)),
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| FileError::new(Step::SyncFolder, folder, error))?;
    Ok(true)
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
        ": docker makes one where the file of a bind mount is missing; remove it" } else { "" })]
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
    /// Nobody has a `config.json` of this size.
    #[error("{} is larger than 64 MiB", path.display())]
    TooLarge {
        /// Where.
        path: PathBuf,
    },
    /// Someone was writing while it was read.
    #[error("{} is being written by another program", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
}

impl FileError {
    /// A short fixed word for logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::NotAFile { .. } => "not_a_file",
            Self::Circle { .. } => "link_circle",
            Self::TooLarge { .. } => "too_large",
            Self::Step { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "permission_denied",
                io::ErrorKind::ReadOnlyFilesystem => "read_only",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "disk_full",
                io::ErrorKind::ResourceBusy => "mount_point",
                _ => "io",
            },
        }
    }

    fn new(step: Step, path: &Path, source: io::Error) -> Self {
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
    /// Write and sync the new file.
    Write,
    /// Put the new file in the place of the old one.
    Rename,
    /// Sync the folder.
    SyncFolder,
}

impl std::fmt::Display for Step {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Resolve => "follow",
            Self::Read => "read",
            Self::MakeFolder => "make the folder",
            Self::Create => "make a new file in",
            Self::KeepOwner => "keep the owner and mode of",
            Self::Write => "write the new content of",
            Self::Rename => "replace",
            Self::SyncFolder => "sync the folder",
        })
    }
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
        (_, io::ErrorKind::StorageFull) => ": the disk is full; the old file stays",
        (Step::KeepOwner, _) => ": run as the file's owner, or as root",
        _ => "",
    }
}

/// The start of a temporary file's name; docker's own start with the file's name.
pub const TEMPORARY_PREFIX: &str = ".freshcreds-";

const FOLDER_MODE: u32 = 0o700;
const OWNER_ONLY: u32 = 0o600;
const PERMISSION_BITS: u32 = 0o7777;
const LARGEST: u64 = 64 * 1024 * 1024;

/// What Linux follows (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Time stamps come from the kernel's tick, which is 10 ms at the coarsest.
const TICK: std::time::Duration = std::time::Duration::from_millis(50);

/// Follows the links by hand, since the last of them may lead to a file that is
/// not there yet.
fn resolve(path: &Path) -> Result<PathBuf, FileError> {
    let mut current = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&current) {
            Ok(link) => current = parent(&current).join(link),
            // Not a link, or nothing there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(current);
            }
            Err(error) => return Err(FileError::new(Step::Resolve, &current, error)),
        }
    }
    Err(FileError::Circle { path: path.to_owned() })
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the folder, for its owner only, as docker does; and those above it that
/// are missing.
fn make_folder(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder);
    if above != folder {
        make_folder(above)?;
    }
    let made = fs::DirBuilder::new().mode(FOLDER_MODE).create(folder);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(FileError::new(Step::MakeFolder, folder, error)),
    }
    // By its descriptor, since whoever owns the folder above may put something else
    // under the name.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(bits(flags))
        .open(folder)
        .and_then(|made| give_to_owner_of(above, &made))
        .map_err(|error| FileError::new(Step::MakeFolder, folder, error))
}

/// What root makes in somebody's folder is theirs: they could not read it otherwise.
fn give_to_owner_of(folder: &Path, made: &File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let above = fs::metadata(folder)?;
    if above.uid() == made.metadata()?.uid() {
        return Ok(());
    }
    let (owner, group) = (Uid::from_raw(above.uid()), Gid::from_raw(above.gid()));
    match rustix::fs::fchown(made, Some(owner), Some(group)) {
        // A root without that privilege, in a container: it is root's own, then.
        Err(rustix::io::Errno::PERM) => Ok(()),
        result => Ok(result?),
    }
}

fn keep_owner_and_mode(new: &File, old: Stat) -> io::Result<()> {
    let metadata = new.metadata()?;
    if (metadata.uid(), metadata.gid()) != (old.owner, old.group) {
        let owner = (metadata.uid() != old.owner).then_some(Uid::from_raw(old.owner));
        let group = (metadata.gid() != old.group).then_some(Gid::from_raw(old.group));
        rustix::fs::fchown(new, owner, group)?;
    }
    new.set_permissions(fs::Permissions::from_mode(old.mode))
}

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

fn bits(flags: OFlags) -> i32 {
    // The same bits; the system's headers call them signed.
    flags.bits().cast_signed()
}
