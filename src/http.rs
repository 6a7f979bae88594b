//! The endpoint: `/`, `/livez`, `/readyz`, `/healthz`, `/status` and `/metrics`.
//!
//! It reads the status and nothing else, and takes only GET and HEAD. It has a thread of its
//! own, so that no renewal keeps an answer waiting, and an answer comes even if the loops
//! hang: then it says so.

mod address;
mod connections;
mod fetch;
mod guard;
mod routes;

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::address::{Address, BadAddress};
use self::connections::Listener;
pub use self::fetch::{FetchStatusError, fetch};
use self::guard::Guard;
use self::routes::Routes;
use crate::clock::Clock;
use crate::status::Status;

/// An endpoint that is bound and does not answer yet.
pub struct Bound {
    socket: Socket,
    address: Address,
    guard: Guard,
}

/// What is handed to the thread that answers.
enum Socket {
    Network(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Removed),
}

impl Bound {
    /// Takes the address, so that a daemon that cannot have it does not start. On the network
    /// it is known by its addresses, as `localhost`, and by `names`.
    ///
    /// # Errors
    ///
    /// If the system does not give it.
    pub async fn bind(address: &Address, names: &[String]) -> io::Result<Self> {
        match address {
            Address::Network(address) => {
                let listener = TcpListener::bind(address).await?;
                Ok(Self {
                    address: Address::Network(listener.local_addr()?),
                    socket: Socket::Network(listener.into_std()?),
                    guard: Guard::of_names(names),
                })
            }
            Address::Unix(path) => {
                let (listener, removed) = bind_unix(path).await?;
                Ok(Self {
                    address: address.clone(),
                    socket: Socket::Unix(listener.into_std()?, removed),
                    guard: Guard::default(),
                })
            }
        }
    }

    /// Where it listens; the port is the one that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Starts to answer, until `stop`. What is given back ends when it has ended.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn serve(
        self,
        status: Arc<Status>,
        clock: Clock,
        stop: CancellationToken,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let (has_ended, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let routes = Routes::new(status, self.guard);
        let socket = self.socket;
        std::thread::Builder::new().name("endpoint".to_owned()).stack_size(STACK).spawn(
            move || {
                runtime.block_on(async {
                    let (listener, removed) = match socket {
                        Socket::Network(listener) => {
                            (TcpListener::from_std(listener).map(Listener::Network), None)
                        }
                        Socket::Unix(listener, removed) => {
                            (UnixListener::from_std(listener).map(Listener::Unix), Some(removed))
                        }
                    };
                    if let Ok(listener) = listener {
                        connections::serve(listener, routes, clock, stop).await;
                    }
                    drop(removed);
                });
                drop(has_ended);
            },
        )?;
        Ok(async move {
            // Nothing is ever sent: that the sender is gone is what is waited for.
            let _ = ended.await;
        })
    }
}

/// Makes the socket, in the place of one that a daemon left which was killed.
///
/// Who may reach the folder may ask: it is what everyone on the machine could do on
/// loopback. So the socket is made for all; to change that afterwards, by its name, would be
/// to change whatever has that name by then.
async fn bind_unix(path: &Path) -> io::Result<(UnixListener, Removed)> {
    if socket_at(path).is_some() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let before = rustix::process::umask(NOT_EXECUTABLE);
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let (listener, path) = (listener?, path.to_owned());
    let socket = socket_at(&path).ok_or(io::ErrorKind::NotFound)?;
    Ok((listener, Removed { path, socket }))
}

/// A socket's file, which is removed with it, if it still is the same.
struct Removed {
    path: PathBuf,
    socket: (u64, u64),
}

/// Which socket has a name, if one has it.
fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}

impl Drop for Removed {
    fn drop(&mut self) {
        if socket_at(&self.path) == Some(self.socket) {
            // The folder may be gone, too.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

const NOT_EXECUTABLE: Mode = Mode::from_raw_mode(0o111);

/// Answers need little, but some of them are long texts.
const STACK: usize = 512 * 1024;

#[cfg(test)]
mod tests;
