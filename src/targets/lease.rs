//! File leases: whoever opens a leased file waits until its holder lets go.
//!
//! It is the one lock on Linux that programs respect which do not know of it, and
//! it cannot go stale: the kernel drops it with the last descriptor, and breaks it
//! after `/proc/sys/fs/lease-break-time` (45 s). A lease can be had on a file of our
//! own, or with `CAP_LEASE` (<https://man7.org/linux/man-pages/man2/F_GETLEASE.2const.html>).

use std::fs::File;
use std::io;

/// Which openers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// Those that want to write. It cannot be had while one has the file open.
    AgainstWriters,
    /// All. It cannot be had while anyone else has the file open.
    AgainstAll,
}

/// Takes a lease on an open file, until it is closed.
pub(super) fn take(file: &File, lease: Lease) -> io::Result<()> {
    system::take(file, lease)
}

/// Whether the lease is still held, and nobody waits for its end.
pub(super) fn is_whole(file: &File, lease: Lease) -> bool {
    system::is_whole(file, lease)
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe library has F_SETLEASE; three calls with integers only")]
mod system {
    use std::os::fd::AsRawFd;

    use libc::{F_GETLEASE, F_RDLCK, F_SETLEASE, F_WRLCK, SIGURG, c_int, fcntl};

    use super::{File, Lease, io};

    pub(super) fn take(file: &File, lease: Lease) -> io::Result<()> {
        // The kernel tells the holder of an opener that waits, by SIGIO, which would
        // end the program. SIGURG does nothing unless it is asked for.
        call(file, F_SETSIG, SIGURG)?;
        call(file, F_SETLEASE, kind(lease)).map(drop)
    }

    pub(super) fn is_whole(file: &File, lease: Lease) -> bool {
        call(file, F_GETLEASE, 0).is_ok_and(|held| held == kind(lease))
    }

    fn kind(lease: Lease) -> c_int {
        c_int::from(match lease {
            Lease::AgainstWriters => F_RDLCK,
            Lease::AgainstAll => F_WRLCK,
        })
    }

    fn call(file: &File, command: c_int, argument: c_int) -> io::Result<c_int> {
        // SAFETY: the descriptor is open as long as the borrow, and all three commands
        // take and give integers: no memory is shared with the kernel.
        let result = unsafe { fcntl(file.as_raw_fd(), command, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    /// The same on every architecture; the `libc` crate has it for a few only.
    const F_SETSIG: c_int = 10;
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{File, Lease, io};

    pub(super) fn take(_: &File, _: Lease) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn is_whole(_: &File, _: Lease) -> bool {
        false
    }
}
