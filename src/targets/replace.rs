//! The durable replacement of a file that others write without a lock: a reader,
//! and a machine that lost its power, find the old file or the new one, whole; and
//! what another program wrote in between is not lost.
//!
//! The order is what makes it safe:
//!
//! 1. A lock on the folder keeps other writers of ours away. The kernel drops it
//!    with its holder, so it cannot go stale.
//! 2. The new file is made in the folder of the old one (a rename does not cross
//!    file systems), for its owner only (it holds secrets from its first byte), with
//!    a *lease* on it: whoever opens it from now on waits.
//! 3. It gets the old one's owner, mode and attributes before it gets any content.
//! 4. Content, then `fsync`: a rename may reach the disk before the data does.
//! 5. The old file is looked at again. If it is not what was read, someone else
//!    has written it, and the caller starts again from what they wrote.
//! 6. The two change names (`RENAME_EXCHANGE`). Readers wait at the new one.
//! 7. What came out is looked at. If it is not what was read, another program
//!    renamed its file to the name between 5 and 6. Nobody has read ours yet, so
//!    nobody has missed theirs: a further file is made from theirs and changes
//!    places with ours; and so on, until what comes out is ours.
//! 8. The lease ends, the old file is removed, the folder is synced.
//!
//! Without the lease of step 2 (a file system that has none) others may read, in
//! step 7, a file without what was written in between; without an exchange there is no step
//! 7. Which of the three it was is told as the [`Protection`].

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;
use secrecy::{ExposeSecret, SecretString};

use super::file::{FileError, Found, Identity, Stat, Step, read_whole};
use super::lease::{self, Lease};
use super::leftovers::Name;
use super::place::{Place, give_to_owner_of, look, open_for_sync, remove};
use super::points;

/// How a text is changed so that it holds what it should; `None` if there is
/// nothing to change, or no way to.
pub type Edit<'a> = &'a dyn Fn(&[u8]) -> Option<SecretString>;

/// The pieces that a new file is made of, one after the other. What stays of a large
/// text need not be copied for that.
pub type Content<'a> = &'a [&'a [u8]];

/// What the settings say about a target's file; what they do not say is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The owner's number.
    pub owner: Option<u32>,
    /// The group's number.
    pub group: Option<u32>,
    /// The permission bits.
    pub mode: Option<u32>,
}

impl Attributes {
    /// Whether a file that was found has them.
    #[must_use]
    pub fn fit(&self, found: &Found) -> bool {
        found.identity.0.is_none_or(|stat| {
            self.owner.is_none_or(|owner| owner == stat.owner)
                && self.group.is_none_or(|group| group == stat.group)
                && self.mode.is_none_or(|mode| mode == stat.mode)
        })
    }
}

/// What keeps other programs' updates safe while a file is replaced, the strongest
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// No update is lost, and nobody reads a state without it.
    LeasedExchange,
    /// No update is lost, but another program can read a state without it for some
    /// microseconds, and lose it itself.
    Exchange,
    /// An update in the microseconds between the last look and the rename is lost.
    Rename,
    /// The file is written in place, while a lease keeps readers away: a mount point.
    InPlace,
}

impl Protection {
    /// A short fixed word for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeasedExchange => "leased exchange",
            Self::Exchange => "exchange",
            Self::Rename => "rename",
            Self::InPlace => "in place",
        }
    }
}

/// What came of an attempt to replace a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was replaced.
    Replaced {
        /// What kept others' updates safe.
        protection: Protection,
        /// How many updates of others came in between, and were kept.
        conflicts: u32,
        /// By what to tell the new file, if it is of the given content alone.
        written: Identity,
    },
    /// Someone else wrote in between. Theirs is what stands there.
    Overtaken,
}

/// Puts `content` where `old` was found. If others write in between, `edit` makes
/// the new content from theirs.
///
/// # Errors
///
/// If a step fails; the old file is then as it was, and no new one is left over.
pub fn replace(
    old: &Found,
    content: Content<'_>,
    edit: Edit<'_>,
    attributes: &Attributes,
) -> Result<Outcome, FileError> {
    let (folder, folder_path) = old.place.with_folder()?;
    let site = Site {
        place: &old.place,
        folder: &folder,
        folder_path,
        name: old.place.name(),
        attributes,
    };
    let _turn = take_turn(&folder);
    points::before("create");
    let new = site.fresh(old.identity.0.zip(old.file.as_ref()), content)?;
    points::before("look again");
    let now = site.look(site.name).map_err(|error| site.failed(Step::Read, error))?;
    if now.map(|now| Stat::from(&now)) != old.identity.0 {
        return Ok(Outcome::Overtaken);
    }
    let outcome = match old.identity.0 {
        Some(_) => site.exchange(old, new, edit)?,
        None => site.add(&new)?,
    };
    points::before("sync folder");
    if matches!(outcome, Outcome::Replaced { .. }) {
        open_for_sync(&folder)
            .and_then(rustix::fs::fsync)
            .map_err(|error| FileError::new(Step::SyncFolder, folder_path, error.into()))?;
    }
    Ok(outcome)
}

/// Tries out what protects a file in this folder, by two files of our own.
///
/// # Errors
///
/// If no file could be replaced in it.
pub fn probe(old: &Found) -> Result<Option<Protection>, FileError> {
    let Some(folder) = old.place.folder() else { return Ok(None) };
    if is_mount_point(folder, old.place.name()) {
        return Err(FileError::MountPoint { path: old.place.path() });
    }
    let attributes = &Attributes::default();
    let folder_path = old.place.folder_path();
    let site = Site { place: &old.place, folder, folder_path, name: old.place.name(), attributes };
    let (one, other) = (site.fresh(None, &[])?, site.fresh(None, &[])?);
    let exchanged =
        rustix::fs::renameat_with(folder, &one.name, folder, &other.name, RenameFlags::EXCHANGE);
    Ok(Some(match exchanged {
        Ok(()) if one.is_leased => Protection::LeasedExchange,
        Ok(()) => Protection::Exchange,
        Err(_) => Protection::Rename,
    }))
}

/// Whether a name in a folder is a mount point of its own, as the single file of a
/// bind mount is: the system refuses to rename over it.
pub(super) fn is_mount_point(folder: &File, name: &OsStr) -> bool {
    let mount = |name: &OsStr, flags| {
        rustix::fs::statx(folder, name, flags, StatxFlags::MNT_ID)
            .ok()
            .filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0)
            .map(|stat| stat.stx_mnt_id)
    };
    let of_file = mount(name, AtFlags::SYMLINK_NOFOLLOW);
    let of_folder = mount(OsStr::new(""), AtFlags::EMPTY_PATH);
    of_file.zip(of_folder).is_some_and(|(file, folder)| file != folder)
}

/// Keeps other writers of ours out of a folder, until it is dropped.
///
/// Whoever may read a folder may lock it, so nobody waits for ever: without the lock
/// we are to each other what other programs are.
pub(super) fn take_turn(folder: &File) -> Option<File> {
    let folder = open_for_sync(folder).ok()?;
    let mut pause = SHORTEST_PAUSE;
    loop {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::AGAIN) if pause <= LONGEST_PAUSE => std::thread::sleep(pause),
            Err(_) => return None,
        }
        pause *= 2;
    }
}

/// A folder, and the name in it that is replaced.
struct Site<'a> {
    place: &'a Place,
    folder: &'a File,
    folder_path: &'a Path,
    name: &'a OsStr,
    attributes: &'a Attributes,
}

impl<'a> Site<'a> {
    /// A new file with all that it should have, under a name of its own, on disk.
    fn fresh(
        &self,
        like: Option<(Stat, &File)>,
        content: Content<'_>,
    ) -> Result<Fresh<'a>, FileError> {
        let name = OsString::from(Name::unpublished());
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(OWNER_ONLY);
        let file = rustix::fs::openat(self.folder, &name, flags, mode)
            .map_err(|error| FileError::new(Step::Create, self.folder_path, error.into()))?;
        let file = File::from(file);
        // At once, while it is ours: it can belong to somebody else in a moment.
        let is_leased = lease::take(&file, Lease::AgainstAll).is_ok();
        let written = Identity(None);
        let mut fresh =
            Fresh { folder: self.folder, name, file, is_leased, holds_another: false, written };
        points::before("attributes");
        match like {
            Some((stat, old)) => {
                keep_owner_and_mode(&fresh.file, stat, self.attributes)
                    .map_err(|error| self.failed_at(Step::KeepOwner, error))?;
                copy_attributes(old, &fresh.file)
                    .map_err(|error| self.failed(Step::KeepAttributes, error))?;
            }
            None => give_as_asked(self.folder, &fresh.file, self.attributes)
                .map_err(|error| self.failed_at(Step::KeepOwner, error))?,
        }
        points::before("write");
        for piece in content {
            fresh.file.write_all(piece).map_err(|error| self.failed_at(Step::Write, error))?;
        }
        points::before("sync");
        fresh.file.sync_all().map_err(|error| self.failed_at(Step::Write, error))?;
        fresh.written = Identity(fresh.file.metadata().ok().map(|metadata| Stat::from(&metadata)));
        Ok(fresh)
    }

    /// Gives the name to a file where there was none.
    fn add(&self, new: &Fresh<'_>) -> Result<Outcome, FileError> {
        let protection =
            if new.is_leased { Protection::LeasedExchange } else { Protection::Exchange };
        points::before("add");
        let flags = RenameFlags::NOREPLACE;
        let added = match rustix::fs::renameat_with(
            self.folder,
            &new.name,
            self.folder,
            self.name,
            flags,
        ) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                // A second name, and away with the first: that does not replace either.
                rustix::fs::linkat(self.folder, &new.name, self.folder, self.name, AtFlags::empty())
            }
            result => result,
        };
        match added {
            Ok(()) => Ok(Outcome::Replaced { protection, conflicts: 0, written: new.written }),
            Err(Errno::EXIST) => Ok(Outcome::Overtaken),
            Err(error) => Err(self.failed(Step::Rename, error)),
        }
    }

    /// Puts `new` in the place of what was read, and whatever came in between is
    /// merged.
    fn exchange(
        &self,
        old: &Found,
        mut new: Fresh<'a>,
        edit: Edit<'_>,
    ) -> Result<Outcome, FileError> {
        let Some(stat) = old.identity.0 else { return Ok(Outcome::Overtaken) };
        let failed = |error| self.failed(Step::Rename, error);
        new.announce(stat.inode, stat.modified).map_err(failed)?;
        points::before("exchange");
        match self.swap(&mut new) {
            Ok(()) => {}
            // The old file was removed meanwhile.
            Err(Errno::NOENT) => return Ok(Outcome::Overtaken),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                points::before("rename");
                rustix::fs::renameat(self.folder, &new.name, self.folder, self.name)
                    .map_err(failed)?;
                let (protection, written) = (Protection::Rename, new.written);
                return Ok(Outcome::Replaced { protection, conflicts: 0, written });
            }
            Err(error) => return Err(failed(error)),
        }
        points::before("look at what came out");
        let protection =
            if new.is_leased { Protection::LeasedExchange } else { Protection::Exchange };
        match self.came_out(&new, old, stat).map_err(failed)? {
            CameOut::AsRead => {
                points::before("remove");
                let written = new.written;
                new.discard().map_err(|error| self.failed(Step::ClearUp, error))?;
                Ok(Outcome::Replaced { protection, conflicts: 0, written })
            }
            // They wait to write into the old file, so that has to be the one they
            // find: give it back, and go on when they are done.
            CameOut::Awaited => {
                self.give_back(vec![new], Some(&old.content))?;
                Ok(Outcome::Overtaken)
            }
            CameOut::Another => self.merge(new, edit, protection),
        }
    }

    /// Merges what others renamed to the name, while nobody can read ours.
    ///
    /// Each of `held` stood at the name for a moment, and its own name now holds what it
    /// displaced. The last one stands there now.
    fn merge(
        &self,
        new: Fresh<'a>,
        edit: Edit<'_>,
        protection: Protection,
    ) -> Result<Outcome, FileError> {
        let mut held = vec![new];
        while held.len() <= MOST_CONFLICTS {
            points::before("read theirs");
            let (theirs, next) = match self.merged(&held, edit) {
                Ok(Merge { theirs, next: Some(next) }) => (theirs, next),
                // There is nothing to add to theirs.
                Ok(Merge { theirs, next: None }) => {
                    self.give_back(held, Some(&theirs))?;
                    return Ok(Outcome::Overtaken);
                }
                Err(error) => {
                    self.give_back(held, None)?;
                    return Err(error);
                }
            };
            let (mut next, text) = next;
            points::before("exchange again");
            match self.swap(&mut next) {
                Ok(()) => {}
                // It was removed, by somebody who wanted it to be gone.
                Err(Errno::NOENT) => {
                    self.settle(held, None)?;
                    return Ok(Outcome::Overtaken);
                }
                Err(error) => {
                    drop(next);
                    self.give_back(held, Some(&theirs))?;
                    return Err(self.failed(Step::Rename, error));
                }
            }
            points::before("look at what came out again");
            let out = self.look(&next.name).map_err(|error| self.failed(Step::Rename, error))?;
            let is_ours = held.last().is_some_and(|newest| newest.is(out.as_ref()));
            held.push(next);
            if is_ours {
                let conflicts = u32::try_from(held.len() - 1).unwrap_or(u32::MAX);
                self.settle(held, Some(text.expose_secret().as_bytes()))?;
                let written = Identity(None);
                return Ok(Outcome::Replaced { protection, conflicts, written });
            }
        }
        // They write so fast that there is no end to it.
        self.give_back(held, None)?;
        Ok(Outcome::Overtaken)
    }

    /// A file with theirs, which the last of `held` displaced, and ours.
    fn merged(&self, held: &[Fresh<'a>], edit: Edit<'_>) -> Result<Merge<'a>, FileError> {
        let failed = |error| self.failed_at(Step::Read, error);
        let Some(newest) = held.last() else { return Ok(Merge { theirs: Vec::new(), next: None }) };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.folder, &newest.name, flags, Mode::empty())
            .map_err(|error| self.failed(Step::Read, error))?;
        let mut file = File::from(file);
        let metadata = file.metadata().map_err(failed)?;
        // It can be anybody's who may write here, and whose it is gets what is made of it.
        self.place.admit(&metadata)?;
        let theirs = read_whole(&mut file, self.folder_path)?;
        let stat = Stat::from(&metadata);
        let Some(text) = edit(&theirs) else { return Ok(Merge { theirs, next: None }) };
        let mut next = self.fresh(Some((stat, &file)), &[text.expose_secret().as_bytes()])?;
        let ours = newest.file.metadata().map_err(failed)?;
        next.announce(ours.ino(), UNKNOWN_TIME)
            .map_err(|error| self.failed(Step::Rename, error))?;
        Ok(Merge { theirs, next: Some((next, text)) })
    }

    /// Puts what the last of `held` displaced back to the name.
    fn give_back(&self, mut held: Vec<Fresh<'a>>, theirs: Option<&[u8]>) -> Result<(), FileError> {
        let failed = |error| self.failed(Step::Rename, error);
        let Some(mut newest) = held.pop() else { return Ok(()) };
        for _ in 0..MOST_CONFLICTS {
            points::before("give back");
            match self.swap(&mut newest) {
                Ok(()) => {}
                Err(Errno::NOENT) => break,
                Err(error) => return Err(failed(error)),
            }
            if newest.is(self.look(&newest.name).map_err(failed)?.as_ref()) {
                break;
            }
            // Something newer came out: that is what has to stand there.
        }
        held.push(newest);
        self.settle(held, theirs)
    }

    /// Ends a merge: whoever waits for one of `held` reads `content` in it, and none of
    /// their names stays.
    fn settle(&self, held: Vec<Fresh<'a>>, content: Option<&[u8]>) -> Result<(), FileError> {
        let at_name = self.look(self.name).map_err(|error| self.failed(Step::Rename, error))?;
        for fresh in &held {
            if let Some(content) = content.filter(|_| !fresh.is(at_name.as_ref())) {
                points::before("rewrite");
                // Nobody will find this file by a name again; who waits for it already has
                // nothing better to read.
                let _ = fresh.rewrite(content);
            }
        }
        // From the first on, so that what is left after a crash tells what was merged.
        for fresh in held {
            points::before("remove");
            fresh.discard().map_err(|error| self.failed(Step::ClearUp, error))?;
        }
        Ok(())
    }

    /// Exchanges the names of a file of ours and of what stands at the target's name.
    fn swap(&self, fresh: &mut Fresh<'_>) -> Result<(), Errno> {
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(self.folder, &fresh.name, self.folder, self.name, flags)?;
        fresh.holds_another = true;
        Ok(())
    }

    /// What the exchange displaced.
    fn came_out(&self, new: &Fresh<'_>, old: &Found, stat: Stat) -> Result<CameOut, Errno> {
        let out = self.look(&new.name)?;
        if !out.is_some_and(|out| Stat::from(&out).is_moved(&stat)) {
            return Ok(CameOut::Another);
        }
        let Some(file) = &old.file else { return Ok(CameOut::AsRead) };
        if old.is_leased {
            let is_whole = lease::is_whole(file, Lease::AgainstWriters);
            return Ok(if is_whole { CameOut::AsRead } else { CameOut::Awaited });
        }
        // Without a lease somebody may have written into it within the grain of its
        // time stamps.
        let is_same = is_content(file, &old.content).map_err(|error| errno(&error))?;
        Ok(if is_same { CameOut::AsRead } else { CameOut::Another })
    }

    fn look(&self, name: &OsStr) -> Result<Option<Metadata>, Errno> {
        look(self.folder, name)
    }

    fn failed(&self, step: Step, error: Errno) -> FileError {
        self.failed_at(step, error.into())
    }

    fn failed_at(&self, step: Step, error: io::Error) -> FileError {
        FileError::new(step, &self.path(), error)
    }

    fn path(&self) -> PathBuf {
        self.folder_path.join(self.name)
    }
}

/// What an exchange displaced.
enum CameOut {
    /// What was read, and nobody wants to write into it.
    AsRead,
    /// What was read, and somebody waits to write into it.
    Awaited,
    /// Another file, or another content.
    Another,
}

/// A file of ours under a name of its own, which goes with it.
struct Fresh<'a> {
    folder: &'a File,
    name: OsString,
    file: File,
    is_leased: bool,
    /// Whether the name holds what was displaced, which is not ours to lose.
    holds_another: bool,
    written: Identity,
}

/// A file of another program that came in between, and what is to take its place.
struct Merge<'a> {
    theirs: Vec<u8>,
    next: Option<(Fresh<'a>, SecretString)>,
}

impl Fresh<'_> {
    /// Takes the name that tells, after a crash, what the exchange was about.
    fn announce(&mut self, displaces: u64, modified: (i64, i64)) -> Result<(), Errno> {
        let own = self.file.metadata().map_err(|error| errno(&error))?.ino();
        let name = OsString::from(Name::exchange(own, displaces, modified));
        points::before("announce");
        rustix::fs::renameat(self.folder, &self.name, self.folder, &name)?;
        self.name = name;
        Ok(())
    }

    /// Whether it is this file that was found.
    fn is(&self, found: Option<&Metadata>) -> bool {
        let own = self.file.metadata();
        found.is_some_and(|found| {
            own.is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        })
    }

    fn rewrite(&self, content: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(content)?;
        file.set_len(u64::try_from(content.len()).unwrap_or(u64::MAX))
    }

    /// Removes what it displaced, which is accounted for.
    fn discard(mut self) -> Result<(), Errno> {
        self.holds_another = true;
        remove(self.folder, &self.name)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.holds_another && !points::is_killed() {
            // What stays is removed at the next start.
            let _ = remove(self.folder, &self.name);
        }
    }
}

const OWNER_ONLY: u32 = 0o600;
const PERMISSION_BITS: u32 = 0o7777;

/// How often others may come in between within one replacement.
const MOST_CONFLICTS: usize = 30;

/// Of a file whose content may change once more.
const UNKNOWN_TIME: (i64, i64) = (0, 0);

/// Doubled with each try: about a second in all.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(512);

fn keep_owner_and_mode(new: &File, old: Stat, attributes: &Attributes) -> io::Result<()> {
    let owner = attributes.owner.unwrap_or(old.owner);
    let group = attributes.group.unwrap_or(old.group);
    let metadata = new.metadata()?;
    if (metadata.uid(), metadata.gid()) != (owner, group) {
        let owner = (metadata.uid() != owner).then_some(owner);
        let group = (metadata.gid() != group).then_some(group);
        std::os::unix::fs::fchown(new, owner, group)?;
    }
    new.set_permissions(Permissions::from_mode(attributes.mode.unwrap_or(old.mode)))
}

fn give_as_asked(folder: &File, new: &File, attributes: &Attributes) -> io::Result<()> {
    if attributes.owner.is_none() && attributes.group.is_none() {
        give_to_owner_of(folder, new)?;
    } else {
        std::os::unix::fs::fchown(new, attributes.owner, attributes.group)?;
    }
    match attributes.mode {
        Some(mode) => new.set_permissions(Permissions::from_mode(mode & PERMISSION_BITS)),
        None => Ok(()),
    }
}

/// Copies what `setfacl`, `setfattr` and `chcon` put on a file.
fn copy_attributes(old: &File, new: &File) -> Result<(), Errno> {
    let length = match rustix::fs::flistxattr_query(old) {
        Ok(0) | Err(Errno::NOTSUP | Errno::BADF) => return Ok(()),
        Ok(length) => length,
        Err(error) => return Err(error),
    };
    let mut names = vec![0_u8; length];
    let length = rustix::fs::flistxattr(old, names.as_mut_slice())?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let length = rustix::fs::fgetxattr_query(old, name)?;
        let mut value = vec![0_u8; length];
        let length = rustix::fs::fgetxattr(old, name, value.as_mut_slice())?;
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(new, name, &value[..length], flags)?;
    }
    Ok(())
}

/// Others, of `trusted` and `security`, belong to the system and to one file.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"system.posix_acl_access" || name == b"security.selinux"
}

fn is_content(file: &File, content: &[u8]) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0_u8; CHUNK];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut buffer, u64::try_from(offset).unwrap_or(u64::MAX))?;
        if length == 0 {
            return Ok(offset == content.len());
        }
        if content.get(offset..offset + length) != Some(&buffer[..length]) {
            return Ok(false);
        }
        offset += length;
    }
}

const CHUNK: usize = 64 * 1024;

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
