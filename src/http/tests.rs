use std::path::PathBuf;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::Clock;
use crate::sources::Origin;

/// An endpoint on loopback over a status in which nothing is fetched.
struct Bench {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn new() -> Self {
        let status = Status::new(
            Clock::system(),
            [("gcr.io".parse().unwrap(), Origin::Google)],
            Vec::<(PathBuf, &str)>::new(),
        );
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, stop) = (bound.address(), CancellationToken::new());
        let task = tokio::spawn(bound.serve(Arc::new(status), Clock::system(), stop.clone()));
        Self { address, stop, task }
    }

    /// Sends bytes as they are, and gives all that comes back.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes early may reset the connection.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            .await
    }
}

#[tokio::test]
async fn each_path_answers_and_nothing_else_does() {
    let bench = Bench::new().await;
    for (method, path, code) in [
        ("GET", "/livez", "200"),
        ("GET", "/readyz", "503"),
        ("GET", "/healthz", "503"),
        ("GET", "/status", "503"),
        ("GET", "/metrics", "200"),
        ("HEAD", "/livez", "200"),
        ("HEAD", "/status", "503"),
        ("GET", "/nothing", "404"),
        ("POST", "/livez", "405"),
        ("DELETE", "/status", "405"),
    ] {
        let answer = bench.ask(method, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{method} {path}: {answer}");
        if method == "HEAD" {
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_of_this_moment_and_says_what_it_is() {
    let bench = Bench::new().await;
    let ready = bench.ask("GET", "/readyz").await;
    assert!(ready.contains("cache-control: no-store"), "{ready}");
    assert!(ready.ends_with("not ready\ngcr.io: there is no credential yet\n"), "{ready}");
    let status = bench.ask("GET", "/status").await;
    assert!(status.contains("content-type: application/health+json"), "{status}");
    let metrics = bench.ask("GET", "/metrics").await;
    assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(metrics.contains("freshcreds_ready 0\n"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let bench = Bench::new().await;
    let filler = "x".repeat(LARGEST_HEAD + 1);
    let answer = bench.send(&format!("GET /livez HTTP/1.1\r\nx: {filler}\r\n\r\n")).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_hung_up_on() {
    let bench = Bench::new().await;
    let clock = Clock::system();
    let before = clock.monotonic();
    let answer = bench.send("GET /livez HTTP/1.1\r\n").await;
    let took = clock.monotonic() - before;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(took >= HEAD_LIMIT && took < HEAD_LIMIT * 2, "{took:?}");
}

#[tokio::test]
async fn beyond_the_cap_connections_wait_and_are_served_later() {
    let bench = Bench::new().await;
    let mut held = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        held.push(TcpStream::connect(bench.address).await.unwrap());
    }
    // They say nothing, so their time is over at some point, and then it is our turn.
    let answer = bench.ask("GET", "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(held);
}

#[tokio::test]
async fn a_stop_ends_it() {
    let bench = Bench::new().await;
    bench.stop.cancel();
    bench.task.await.unwrap();
    assert!(TcpStream::connect(bench.address).await.is_err());
}

#[tokio::test]
async fn the_client_reads_what_the_endpoint_says() {
    let bench = Bench::new().await;
    let report = fetch(bench.address).await.unwrap();
    assert!(!report.is_ready());
    assert_eq!(report.checks.credentials[0].component_id, "gcr.io");
    assert!(humantime::parse_rfc3339(&report.time).unwrap() > SystemTime::UNIX_EPOCH);
}

#[tokio::test]
async fn the_client_says_who_did_not_answer() {
    let bench = Bench::new().await;
    bench.stop.cancel();
    bench.task.await.unwrap();
    let message = fetch(bench.address).await.unwrap_err().to_string();
    assert!(message.contains("is `freshcreds run` up"), "{message}");

    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = stranger.accept().await.unwrap();
        stream.write_all(b"220 mail.example ready\r\n").await.unwrap();
    });
    let message = fetch(address).await.unwrap_err().to_string();
    assert!(message.contains("no freshcreds of this version"), "{message}");
}
