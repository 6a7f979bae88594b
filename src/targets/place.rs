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
    folder: Folder,
    folder_path: PathBuf,
    name: OsString,
    /// The names that lead to it: each link, and the last one found.
    spots: BTreeSet<Spot>,
    care: Care,
}

enum Folder {
    There(File),
    /// The last folder on the way that is there, its path, and the names that are missing.
    Missing(File, PathBuf, Vec<OsString>),
}

/// In whose company a file is looked for.
struct Care {
    /// Who we are.
    ours: u32,
    expected: Attributes,
    /// Of the links on the way that are neither root's nor our own.
    owners_of_links: Vec<u32>,
}

impl Care {
    /// Whether we may do more than those whose folders we walk.
    fn is_needed(&self) -> bool {
        self.ours == ROOT || self.expected.group.is_some()
    }

    /// Whether it was somebody else who put this into a folder that others may write to.
    fn is_planted(&self, above: &Metadata, found: &Metadata) -> bool {
        let is_shared = above.mode() & WRITABLE_BY_OTHERS != 0;
        let owner = found.uid();
        self.is_needed()
            && is_shared
            && ![ROOT, self.ours, above.uid()].contains(&owner)
            && self.expected.owner != Some(owner)
    }

    /// Whose it is, what stands in a folder or will.
    fn owner(&self, above: &Metadata, found: Option<&Metadata>) -> u32 {
        match found {
            // What we made in somebody's folder is theirs as much as the folder.
            Some(found) if self.ours == ROOT || found.uid() != self.ours => found.uid(),
            _ => above.uid(),
        }
    }

    /// Somebody's link that leads to what is not theirs.
    fn foreign_link(&self, owner: u32) -> Option<u32> {
        self.owners_of_links.iter().copied().find(|link| *link != owner)
    }

    /// The group of a folder that is not of the group which should let us in.
    ///
    /// Whoever owns a folder that all may go through needs no group for it, nor does anybody in one where all may
    /// write.
    fn foreign_group(&self, above: &Metadata) -> Option<u32> {
        let is_open = above.mode() & WRITABLE_BY_ALL != 0
            || self.ours == above.uid() && above.mode() & OPEN_TO_ALL != 0;
        let is_foreign = self.expected.group.is_some_and(|group| group != above.gid());
        (self.ours != ROOT && is_foreign && !is_open).then(|| above.gid())
    }
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
        let mut care = Care { ours, expected, owners_of_links: Vec::new() };
        let mut folder_path = PathBuf::from(if path.is_absolute() { "/" } else { "." });
        let mut folder = open_folder(rustix::fs::CWD, &folder_path)
            .map_err(|error| failed(&folder_path, error))?;
        let mut ahead: Vec<OsString> = steps(path);
        let mut links = 0;
        let mut spots = BTreeSet::new();
        while let Some(step) = ahead.pop() {
            let here = folder_path.join(&step);
            let found = open(&folder, &step).map_err(|error| failed(&here, error))?;
            match found {
                Some((link, found)) if found.is_symlink() => {
                    let above = metadata_of(&folder).map_err(|error| failed(&here, error))?;
                    if care.is_planted(&above, &found) {
                        return Err(FileError::Planted { path: here, owner: found.uid() });
                    }
                    spots.insert((folder_path.clone(), step.clone()));
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(FileError::Circle { path: path.to_owned() });
                    }
                    if care.is_needed() && ![ROOT, ours].contains(&found.uid()) {
                        care.owners_of_links.push(found.uid());
                    }
                    // The very one that was looked at, whatever has its name by now.
                    let link = rustix::fs::readlinkat(&link, "", Vec::new())
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
                found => {
                    spots.insert((folder_path.clone(), step.clone()));
                    let place = if let Some(name) = ahead.first().cloned() {
                        let missing: Vec<_> =
                            std::iter::once(step).chain(ahead.into_iter().skip(1).rev()).collect();
                        let full =
                            missing.iter().fold(folder_path.clone(), |path, step| path.join(step));
                        let folder = Folder::Missing(folder, folder_path, missing);
                        Self { folder, folder_path: full, name, spots, care }
                    } else {
                        let folder = Folder::There(folder);
                        Self { folder, folder_path, name: step, spots, care }
                    };
                    place.admit_at(path, found.as_ref().map(|(_, found)| found))?;
                    return Ok(place);
                }
            }
        }
        Err(FileError::NotAFile { path: path.to_owned(), what: "a folder" })
    }

    /// Whether this file may be the one that stands here, or that has just stood here: under a name, there can be
    /// another one at every look.
    pub(super) fn admit(&self, found: &Metadata) -> Result<(), FileError> {
        self.admit_at(&self.path(), Some(found))
    }

    fn admit_at(&self, path: &Path, found: Option<&Metadata>) -> Result<(), FileError> {
        let (Folder::There(above) | Folder::Missing(above, ..)) = &self.folder;
        let above = metadata_of(above)
            .map_err(|error| FileError::new(Step::Resolve, &self.folder_path, error.into()))?;
        if let Some(found) = found
            && self.care.is_planted(&above, found)
        {
            return Err(FileError::Planted { path: self.path(), owner: found.uid() });
        }
        let owner = self.care.owner(&above, found);
        if let Some(link) = self.care.foreign_link(owner) {
            let (path, to) = (path.to_owned(), self.path());
            return Err(FileError::ForeignLink { path, to, link, owner });
        }
        if let Some(found) = self.care.foreign_group(&above) {
            let group = self.care.expected.group.unwrap_or(found);
            return Err(FileError::ForeignFolder { path: self.folder_path.clone(), found, group });
        }
        Ok(())
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
        match &self.folder {
            Folder::There(folder) => Some(folder),
            Folder::Missing(..) => None,
        }
    }

    /// The same place, with its folder made if it was missing.
    pub(super) fn with_folder(&self) -> Result<(File, &Path), FileError> {
        let folder = match &self.folder {
            Folder::There(folder) => {
                folder.try_clone().map_err(|error| self.failed(Step::MakeFolder, error))?
            }
            Folder::Missing(above, above_path, missing) => {
                make_folders(above, above_path, missing)?
            }
        };
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
    Ok(open(folder, name)?.map(|(_, found)| found))
}

/// The same, and holds it.
fn open(folder: &File, name: &OsStr) -> Result<Option<(File, Metadata)>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from) {
        Ok(found) => {
            let metadata = metadata_of(&found)?;
            Ok(Some((found, metadata)))
        }
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
const OPEN_TO_ALL: u32 = 0o001;
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

/// Makes folders one in the other, for their owner only, as docker does. Each is reached from the one above it, which
/// is held open: whoever owns that may put something else under the name.
fn make_folders(above: &File, above_path: &Path, names: &[OsString]) -> Result<File, FileError> {
    let mut path = above_path.to_owned();
    let mut folder =
        above.try_clone().map_err(|error| FileError::new(Step::MakeFolder, &path, error))?;
    for name in names {
        path.push(name);
        folder = make_folder(&folder, name)
            .map_err(|error| FileError::new(Step::MakeFolder, &path, error))?;
    }
    Ok(folder)
}

fn make_folder(above: &File, name: &OsStr) -> io::Result<File> {
    let is_new = match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(FOLDER_MODE)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    if is_new {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = File::from(rustix::fs::openat(above, name, flags, Mode::empty())?);
        made.set_permissions(std::fs::Permissions::from_mode(FOLDER_MODE))?;
        give_to_owner_of(above, &made)?;
    }
    Ok(open_folder(above, Path::new(name))?)
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
        // Whoever owns a folder that all may go through needs no group, nor does anybody where all may write.
        assert_eq!(kind(Place::find_as(DEPLOY, &file, expected(CI))), "foreign_folder");
        fs::set_permissions(&deploy, fs::Permissions::from_mode(0o0755)).unwrap();
        assert_eq!(kind(Place::find_as(DEPLOY, &file, expected(CI))), "found");
        fs::set_permissions(&deploy, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(kind(Place::find_as(DAEMON, &file, expected(CI))), "found");
    }

    #[test]
    fn what_was_put_in_the_place_after_the_look_is_looked_at_again() {
        let Some((above, _, _)) = homes() else { return };
        let shared = above.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        let file = shared.join("config.json");
        File::create(&file).unwrap();
        let place = Place::find(&file, Attributes::default()).unwrap();
        place.admit(&fs::metadata(&file).unwrap()).unwrap();
        chown(&file, Some(CI), None).unwrap();
        let planted = place.admit(&fs::metadata(&file).unwrap()).unwrap_err();
        assert_eq!(planted.kind().as_str(), "foreign_file");
    }

    #[test]
    fn folders_are_made_where_the_way_ended_and_not_where_a_new_link_leads() {
        let above = tempfile::tempdir().unwrap();
        let (home, elsewhere) = (above.path().join("home"), above.path().join("elsewhere"));
        fs::create_dir_all(home.join(".config")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        let path = home.join(".config/containers/deep/auth.json");
        let place = Place::find(&path, Attributes::default()).unwrap();
        // Whoever owns the home is quicker.
        fs::rename(home.join(".config"), home.join("moved")).unwrap();
        symlink(&elsewhere, home.join(".config")).unwrap();
        place.with_folder().unwrap();
        assert!(home.join("moved/containers/deep").is_dir());
        assert!(!elsewhere.join("containers").exists());
        // And what they put in the place of the next folder is not followed.
        let place =
            Place::find(&home.join("moved/further/auth.json"), Attributes::default()).unwrap();
        symlink(&elsewhere, home.join("moved/further")).unwrap();
        assert!(place.with_folder().is_err());
    }
}
