//! Where a file stands: the folder, held open, and the name in it that all links
//! lead to.
//!
//! Everything is done by the open folder and the bare name. So nobody who swaps a
//! folder or a link on the way can lead a write elsewhere between two steps, and
//! a path at the system's limit leaves room for the name of a temporary file.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::file::{FileError, Step};
use super::watch::Spot;

/// A folder and a name in it.
pub(super) struct Place {
    /// `None` if there is no such folder.
    folder: Option<File>,
    folder_path: PathBuf,
    name: OsString,
    /// The names that lead to it: each link, and the last one found.
    spots: BTreeSet<Spot>,
}

impl Place {
    /// Follows every link of `path`, the last one too, which may dangle.
    ///
    /// Root is careful in whose company it walks. A link that belongs to somebody
    /// else is only followed to what is theirs: else whoever owns a home folder
    /// could have root write into any file of the machine. And in a folder that
    /// others may write to, what is neither root's, nor the folder's owner's, nor
    /// the `expected` owner's is refused: they would be given the credentials.
    pub(super) fn find(path: &Path, expected: Option<u32>) -> Result<Self, FileError> {
        let failed = |at: &Path, error: Errno| FileError::new(Step::Resolve, at, error.into());
        let is_root = rustix::process::geteuid().is_root();
        let mut folder_path = PathBuf::from(if path.is_absolute() { "/" } else { "." });
        let mut folder = open_folder(rustix::fs::CWD, &folder_path)
            .map_err(|error| failed(&folder_path, error))?;
        let mut ahead: Vec<OsString> = steps(path);
        let mut links = 0;
        let mut owners_of_links = Vec::new();
        let mut spots = BTreeSet::new();
        while let Some(step) = ahead.pop() {
            let here = folder_path.join(&step);
            let found = look(&folder, &step).map_err(|error| failed(&here, error))?;
            if is_root && let Some(found) = &found {
                let above = metadata_of(&folder).map_err(|error| failed(&here, error))?;
                let is_shared = above.mode() & WRITABLE_BY_OTHERS != 0;
                let owner = found.uid();
                if is_shared
                    && ![ROOT, above.uid()].contains(&owner)
                    && expected != Some(owner)
                    && (found.is_symlink() || ahead.is_empty())
                {
                    return Err(FileError::Planted { path: here, owner });
                }
            }
            match found {
                Some(found) if found.is_symlink() => {
                    spots.insert((folder_path.clone(), step.clone()));
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(FileError::Circle { path: path.to_owned() });
                    }
                    if is_root && found.uid() != ROOT {
                        owners_of_links.push(found.uid());
                    }
                    let link = rustix::fs::readlinkat(&folder, &step, Vec::new())
                        .map_err(|error| failed(&here, error))?;
                    let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
                    if link.is_absolute() {
                        folder_path = PathBuf::from("/");
                        folder = open_folder(rustix::fs::CWD, &folder_path)
                            .map_err(|error| failed(&here, error))?;
                    }
                    ahead.extend(steps(&link));
                }
                Some(_) if !ahead.is_empty() => {
                    folder = open_folder(&folder, Path::new(&step))
                        .map_err(|error| failed(&here, error))?;
                    folder_path = here;
                }
                _ => {
                    let owner = match &found {
                        Some(found) => found.uid(),
                        None => metadata_of(&folder).map_err(|error| failed(&here, error))?.uid(),
                    };
                    if let Some(link) = owners_of_links.into_iter().find(|link| *link != owner) {
                        return Err(FileError::ForeignLink {
                            path: path.to_owned(),
                            to: here,
                            link,
                            owner,
                        });
                    }
                    spots.insert((folder_path.clone(), step.clone()));
                    if let Some(name) = ahead.first().cloned() {
                        // Some folders are missing on the way.
                        let on_the_way = ahead.iter().skip(1).rev();
                        let folder_path = on_the_way.fold(here, |path, step| path.join(step));
                        return Ok(Self { folder: None, folder_path, name, spots });
                    }
                    return Ok(Self { folder: Some(folder), folder_path, name: step, spots });
                }
            }
        }
        Err(FileError::NotAFile { path: path.to_owned(), what: "a folder" })
    }

    /// The whole path.
    pub(super) fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }

    /// The path of the folder.
    pub(super) fn folder_path(&self) -> &Path {
        &self.folder_path
    }

    /// The name in it.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// What to watch, to know when something else stands there.
    pub(super) fn spots(&self) -> &BTreeSet<Spot> {
        &self.spots
    }

    /// The open folder, if there is one.
    pub(super) fn folder(&self) -> Option<&File> {
        self.folder.as_ref()
    }

    /// The same place, with its folder made if it was missing.
    pub(super) fn with_folder(&self) -> Result<(File, &Path), FileError> {
        if let Some(folder) = &self.folder {
            let folder = folder.try_clone();
            return Ok((
                folder.map_err(|error| self.failed(Step::MakeFolder, error))?,
                &self.folder_path,
            ));
        }
        make_folder(&self.folder_path)?;
        let folder = open_folder(rustix::fs::CWD, &self.folder_path)
            .map_err(|error| self.failed(Step::MakeFolder, error.into()))?;
        Ok((folder, &self.folder_path))
    }

    fn failed(&self, step: Step, error: io::Error) -> FileError {
        FileError::new(step, &self.folder_path, error)
    }
}

/// What stands under a name, without following it; nothing is no error.
///
/// It does not wait for a lease, as opening would.
pub(super) fn look(folder: &File, name: &OsStr) -> Result<Option<Metadata>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(found) => metadata_of(&File::from(found)).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn metadata_of(file: &File) -> Result<Metadata, Errno> {
    file.metadata().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Opens a folder that can be synced and locked, which `O_PATH` would not do.
pub(super) fn open_for_sync(folder: &File) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(folder, ".", flags, Mode::empty()).map(File::from)
}

/// Removes a name, if it is there.
pub(super) fn remove(folder: &File, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// What root makes in somebody's folder is theirs: they could not read it otherwise.
pub(super) fn give_to_owner_of(folder: &File, made: &File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let above = folder.metadata()?;
    if above.uid() == made.metadata()?.uid() {
        return Ok(());
    }
    match std::os::unix::fs::fchown(made, Some(above.uid()), Some(above.gid())) {
        // A root without that privilege, in a container: it is root's own, then.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

const ROOT: u32 = 0;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const FOLDER_MODE: u32 = 0o700;

/// What Linux follows (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The steps of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let step = |component: Component<'_>| match component {
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        Component::ParentDir => Some(OsString::from("..")),
        Component::Normal(name) => Some(name.to_owned()),
    };
    let mut steps: Vec<_> = path.components().filter_map(step).collect();
    steps.reverse();
    steps
}

fn open_folder(above: impl std::os::fd::AsFd, name: &Path) -> Result<File, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty()).map(File::from)
}

/// Makes the folder, for its owner only, as docker does; and those above it that
/// are missing.
fn make_folder(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    let failed = |error: Errno| FileError::new(Step::MakeFolder, folder, error.into());
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if above != folder {
        make_folder(above)?;
    }
    let above = open_folder(rustix::fs::CWD, above).map_err(failed)?;
    let name = Path::new(folder.file_name().unwrap_or_else(|| OsStr::new(".")));
    match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(FOLDER_MODE)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    // By its descriptor, since whoever owns the folder above may put something else
    // under the name.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made =
        rustix::fs::openat(&above, name, flags, Mode::empty()).map(File::from).map_err(failed)?;
    made.set_permissions(std::fs::Permissions::from_mode(FOLDER_MODE))
        .and_then(|()| give_to_owner_of(&above, &made))
        .map_err(|error| FileError::new(Step::MakeFolder, folder, error))
}
