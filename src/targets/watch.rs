//! Tells when another program touches a file, or what leads to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// A name to watch, in a folder.
pub(super) type Spot = (PathBuf, OsString);

#[cfg(target_os = "linux")]
pub(super) use self::system::Watch;

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::OsStr;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;
    use tokio::io::unix::AsyncFd;

    use super::{BTreeSet, OsString, PathBuf, Spot, io};

    /// Watches names in folders, by inotify.
    pub(in crate::targets) struct Watch {
        inotify: AsyncFd<OwnedFd>,
        over: Over,
    }

    /// What is watched: the names, and which folders their paths led to.
    #[derive(Clone, PartialEq, Eq)]
    struct Over {
        spots: BTreeSet<Spot>,
        folders: BTreeSet<(PathBuf, Option<(u64, u64)>)>,
    }

    impl Over {
        fn new(spots: &BTreeSet<Spot>) -> Self {
            let folder = |(folder, _): &Spot| {
                let inode = std::fs::metadata(folder).ok();
                (folder.clone(), inode.map(|inode| (inode.dev(), inode.ino())))
            };
            Self { spots: spots.clone(), folders: spots.iter().map(folder).collect() }
        }
    }

    impl Watch {
        /// Watches `spots` from now on.
        pub(in crate::targets) fn new(spots: &BTreeSet<Spot>) -> io::Result<Self> {
            let over = Over::new(spots);
            let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            for (folder, _) in &over.folders {
                add_watch(&inotify, folder, OF_INTEREST)?;
            }
            #[expect(deprecated, reason = "what takes its place is unsafe; the descriptor is ours")]
            let inotify = AsyncFd::new(inotify)?;
            Ok(Self { inotify, over })
        }

        /// Whether that is what it watches already.
        pub(in crate::targets) fn is_over(&self, spots: &BTreeSet<Spot>) -> bool {
            self.over == Over::new(spots)
        }

        /// Returns when one of the names was touched.
        pub(in crate::targets) async fn changed(&self) -> io::Result<()> {
            loop {
                let mut ready = self.inotify.readable().await?;
                let is_touched = self.drain()?;
                ready.clear_ready();
                if is_touched {
                    return Ok(());
                }
            }
        }

        /// Reads all that has happened, and says whether it is of interest.
        pub(in crate::targets) fn drain(&self) -> io::Result<bool> {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&self.inotify, &mut buffer);
            let mut is_touched = false;
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::WOULDBLOCK) => return Ok(is_touched),
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
                // Without a name it is about the folder itself, or some events are lost.
                is_touched |= match event.file_name() {
                    Some(name) => {
                        let name = OsStr::from_bytes(name.to_bytes());
                        self.over.spots.iter().any(|(_, spot): &(PathBuf, OsString)| spot == name)
                    }
                    None => !event.events().contains(ReadFlags::IGNORED),
                };
            }
        }
    }

    const OF_INTEREST: WatchFlags = WatchFlags::MOVED_TO
        .union(WatchFlags::MOVED_FROM)
        .union(WatchFlags::CREATE)
        .union(WatchFlags::DELETE)
        .union(WatchFlags::CLOSE_WRITE)
        .union(WatchFlags::ATTRIB)
        .union(WatchFlags::MOVE_SELF)
        .union(WatchFlags::DELETE_SELF);
}

#[cfg(not(target_os = "linux"))]
pub(super) struct Watch;

#[cfg(not(target_os = "linux"))]
impl Watch {
    pub(super) fn new(_: &BTreeSet<Spot>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn is_over(&self, _: &BTreeSet<Spot>) -> bool {
        true
    }

    pub(super) async fn changed(&self) -> io::Result<()> {
        std::future::pending().await
    }
}
