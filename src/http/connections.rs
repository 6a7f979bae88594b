//! Takes connections and keeps a place for whoever really asks.
//!
//! There is a number of places. When all are taken and somebody comes, the place is given to
//! them, and whoever has been silent for longest is hung up on: a probe comes, asks and is
//! answered, so it never is the one. So however many connections are held open or trickle,
//! they cost a bounded number of bytes and keep nobody from an answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::routes::Routes;
use crate::clock::Clock;

/// Where connections come from.
pub(super) enum Listener {
    Network(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Network(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Network(listener) => Stream::Network(listener.accept().await?.0),
            Self::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        })
    }
}

/// Answers until `stop`.
pub(super) async fn serve(
    listener: Listener,
    routes: Routes,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut places = Places::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = places.tasks.join_next_with_id() => {
                places.leave(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    places.take(stream, &routes, &stop);
                    // The one that has come is to be heard before the next one comes.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give them time to come back.
                    debug!(%error, "connection not accepted");
                    clock.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    // Answers under way are finished, and what is silent is let go.
    let ending = async { while places.tasks.join_next().await.is_some() {} };
    drop(tokio::time::timeout(LAST_ANSWERS, ending).await);
}

#[derive(Default)]
struct Places {
    taken: Vec<Place>,
    tasks: JoinSet<()>,
    /// Counts everything that happens, so that it is known what happened before what.
    turns: Arc<AtomicU64>,
}

struct Place {
    task: AbortHandle,
    turn: Turn,
}

impl Places {
    fn take(&mut self, stream: Stream, routes: &Routes, stop: &CancellationToken) {
        self.make_room();
        let turn = Turn { all: Arc::clone(&self.turns), one: Arc::default() };
        turn.take();
        let (routes, stop, its) = (routes.clone(), stop.clone(), turn.clone());
        let task = match stream {
            Stream::Network(stream) => self.tasks.spawn(answer(stream, routes, its, stop)),
            Stream::Unix(stream) => self.tasks.spawn(answer(stream, routes, its, stop)),
        };
        self.taken.push(Place { task, turn });
    }

    /// Hangs up on whoever has been silent for longest, if there is no place left.
    fn make_room(&mut self) {
        if self.taken.len() < MOST_CONNECTIONS {
            return;
        }
        let silent = self.taken.iter().enumerate();
        let silent = silent.min_by_key(|(_, place)| place.turn.rank());
        if let Some((index, _)) = silent {
            self.taken.swap_remove(index).task.abort();
        }
    }

    fn leave(&mut self, id: Id) {
        self.taken.retain(|place| place.task.id() != id);
    }
}

/// Says when a connection was taken, or last asked for something, and whether it is being
/// answered.
#[derive(Clone)]
struct Turn {
    all: Arc<AtomicU64>,
    one: Arc<One>,
}

#[derive(Default)]
struct One {
    last: AtomicU64,
    is_answered: AtomicBool,
}

impl Turn {
    fn take(&self) {
        self.one.last.store(self.all.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Who waits for an answer comes last, and among the others who asked last.
    fn rank(&self) -> (bool, u64) {
        (self.one.is_answered.load(Ordering::Relaxed), self.one.last.load(Ordering::Relaxed))
    }

    async fn answering<T>(self, answer: impl Future<Output = T>) -> T {
        self.take();
        self.one.is_answered.store(true, Ordering::Relaxed);
        let answer = answer.await;
        self.one.is_answered.store(false, Ordering::Relaxed);
        answer
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Routes,
    turn: Turn,
    stop: CancellationToken,
) {
    let one = Arc::clone(&turn.one);
    let service = service_fn(move |request| turn.clone().answering(routes.clone().answer(request)));
    let connection = http1::Builder::new()
        // Without a timer the limit is not kept: https://github.com/tokio-rs/axum/issues/2741
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stalled(&one.last) => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Its error would be the client's.
            drop(connection.await);
        }
    }
}

/// Ends when nothing has been asked for so long that whoever asked does not take the answer.
#[expect(clippy::disallowed_methods, reason = "a limit for a client is no matter of wall time")]
async fn stalled(last: &AtomicU64) {
    loop {
        let before = last.load(Ordering::Relaxed);
        tokio::time::sleep(ANSWER_LIMIT).await;
        if last.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take for a request's head, and how long an idle
/// connection is kept.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a client may take to read an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long answers may take that are under way at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

pub(super) const LARGEST_HEAD: usize = 8 * 1024;

/// Probes and scrapers need a handful.
pub(super) const MOST_CONNECTIONS: usize = 128;
