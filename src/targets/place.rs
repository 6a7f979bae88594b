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
use super::replace::Attributes;
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
    /// Whoever may do more than those whose folders it walks is careful in their
    /// company: root, and a daemon that a group lets in, whose target then names
    /// that group. A link that belongs to somebody else is only followed to what is
    /// theirs: else whoever owns a home folder could have root write into any file
    /// of the machine, or the daemon into the file of another group. In a folder
    /// that others may write to, what is neither root's, nor our own, nor the
    /// folder's owner's, nor the `expected` owner's is refused: they would be given
    /// the credentials. And a folder that a group lets us into has to be that of the
    /// `expected` group: what was bound into a sandbox leads through no link any
    /// more, but it did when it was bound.
    pub(super) fn find(path: &Path, expected: Attributes) -> Result<Self, FileError> {
        Self::find_as(rustix::process::geteuid().as_raw(), path, expected)
    }

    fn find_as(ours: u32, path: &Path, expected: Attributes) -> Result<Self, FileError> {
        let failed = |at: &Path, error: Errno| FileError::new(Step::Resolve, at, error.into());
        let is_careful = ours == ROOT || expected.group.is_some();
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
            if is_careful && let Some(found) = &found {
                let above = metadata_of(&folder).map_err(|error| failed(&here, error))?;
                let is_shared = above.mode() & WRITABLE_BY_OTHERS != 0;
                let owner = found.uid();
                if is_shared
                    && ![ROOT, ours, above.uid()].contains(&owner)
                    && expected.owner != Some(owner)
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
                    if is_careful && ![ROOT, ours].contains(&found.uid()) {
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
                    let above = metadata_of(&folder).map_err(|error| failed(&here, error))?;
                    let owner = match &found {
                        // What we made in somebody's folder is theirs as much as the folder.
                        Some(found) if ours == ROOT || found.uid() != ours => found.uid(),
                        _ => above.uid(),
                    };
                    if let Some(link) = owners_of_links.into_iter().find(|link| *link != owner) {
                        return Err(FileError::ForeignLink {
                            path: path.to_owned(),
                            to: here,
                            link,
                            owner,
                        });
                    }
                    if let Some(group) = expected.group
                        && ours != ROOT
                        && ours != above.uid()
                        && group != above.gid()
                        && above.mode() & WRITABLE_BY_ALL == 0
                    {
                        let path = folder_path;
                        return Err(FileError::ForeignFolder { path, found: above.gid(), group });
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
const WRITABLE_BY_ALL: u32 = 0o002;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    /// A daemon, two users whose groups let it in, and what it is told of them.
    const DAEMON: u32 = 4710;
    const CI: u32 = 4711;
    const DEPLOY: u32 = 4712;

    fn expected(group: u32) -> Attributes {
        Attributes { owner: Some(DAEMON), group: Some(group), mode: Some(0o660) }
    }

    /// The folders of both, each with a file that the daemon wrote. Nothing without root.
    fn homes() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let above = tempfile::tempdir().unwrap();
        let make = |name: &str, user: u32| {
            let folder = above.path().join(name);
            fs::create_dir(&folder).unwrap();
            let file = folder.join("config.json");
            File::create(&file).unwrap();
            chown(&file, Some(DAEMON), Some(user)).unwrap();
            chown(&folder, Some(user), Some(user)).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o2770)).unwrap();
            folder
        };
        let (ci, deploy) = (make("ci", CI), make("deploy", DEPLOY));
        Some((above, ci, deploy))
    }

    fn link(to: &Path, at: &Path, user: u32) {
        symlink(to, at).unwrap();
        lchown(at, Some(user), None).unwrap();
    }

    fn kind(found: Result<Place, FileError>) -> &'static str {
        found.map_or_else(|error| error.kind().as_str(), |_| "found")
    }

    #[test]
    fn a_daemon_that_a_group_lets_in_writes_what_is_that_groups() {
        let Some((_above, ci, _)) = homes() else { return };
        let find = |name| kind(Place::find_as(DAEMON, &ci.join(name), expected(CI)));
        assert_eq!(find("config.json"), "found");
        assert_eq!(find("missing.json"), "found");
        // docker replaces it by one of its own.
        chown(ci.join("config.json"), Some(CI), None).unwrap();
        assert_eq!(find("config.json"), "found");
        link(Path::new("config.json"), &ci.join("link.json"), CI);
        assert_eq!(find("link.json"), "found");
        // And after the daemon wrote through the link.
        chown(ci.join("config.json"), Some(DAEMON), None).unwrap();
        assert_eq!(find("link.json"), "found");
    }

    #[test]
    fn a_daemon_that_a_group_lets_in_is_led_into_no_other_users_file() {
        let Some((above, ci, deploy)) = homes() else { return };
        let find = |path: &Path| kind(Place::find_as(DAEMON, path, expected(CI)));
        for (name, to) in [("file", "config.json"), ("nothing", "missing.json")] {
            link(&deploy.join(to), &ci.join(name), CI);
            assert_eq!(find(&ci.join(name)), "foreign_link", "{name}");
        }
        link(&deploy, &ci.join("folder"), CI);
        assert_eq!(find(&ci.join("folder/config.json")), "foreign_link");
        link(&above.path().join("etc.json"), &ci.join("root"), CI);
        assert_eq!(find(&ci.join("root")), "foreign_link");
        // Another one who got into the folder.
        chown(ci.join("config.json"), Some(DEPLOY), None).unwrap();
        assert_eq!(find(&ci.join("config.json")), "foreign_file");
    }

    #[test]
    fn a_folder_of_another_group_is_no_place_even_without_a_link() {
        let Some((_above, _, deploy)) = homes() else { return };
        let file = deploy.join("config.json");
        assert_eq!(kind(Place::find_as(DAEMON, &file, expected(CI))), "foreign_folder");
        assert_eq!(kind(Place::find_as(DAEMON, &file, expected(DEPLOY))), "found");
        // Whoever owns the folder needs no group to be let in, nor does anybody where all may write.
        assert_eq!(kind(Place::find_as(DEPLOY, &file, expected(CI))), "found");
        fs::set_permissions(&deploy, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(kind(Place::find_as(DAEMON, &file, expected(CI))), "found");
    }
}
