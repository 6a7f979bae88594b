use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connections::{HEAD_LIMIT, LARGEST_HEAD, MOST_CONNECTIONS};
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
        let names = ["health.example.com".to_owned()];
        let bound = Bound::bind(&"127.0.0.1:0".parse().unwrap(), &names).await.unwrap();
        let Address::Network(address) = *bound.address() else { panic!("not on the network") };
        let stop = CancellationToken::new();
        let serving = bound.serve(Arc::new(status()), Clock::system(), stop.clone()).unwrap();
        Self { address, stop, task: tokio::spawn(serving) }
    }

    /// Sends bytes as they are, and gives all that comes back.
    async fn send(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that closes early may reset the connection.
        let _ = stream.write_all(request.as_ref()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.ask_with(method, path, "").await
    }

    async fn ask_with(&self, method: &str, path: &str, headers: &str) -> String {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n"
        ))
        .await
    }
}

fn status() -> Status {
    Status::new(
        Clock::system(),
        [("gcr.io".parse().unwrap(), Origin::Google(None))],
        Vec::<(PathBuf, &str)>::new(),
    )
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
        ("GET", "/", "200"),
        ("HEAD", "/", "200"),
        ("HEAD", "/readyz", "503"),
        ("GET", "/nothing", "404"),
        ("OPTIONS", "/livez", "405"),
        ("TRACE", "/livez", "405"),
        ("POST", "/livez", "405"),
        ("DELETE", "/status", "405"),
    ] {
        let answer = bench.ask(method, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{method} {path}: {answer}");
        assert_eq!(code == "405", answer.contains("allow: GET,HEAD"), "{answer}");
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
async fn a_probe_is_answered_at_once_however_many_say_nothing() {
    let bench = Bench::new().await;
    let clock = Clock::system();
    let mut held = Vec::new();
    for round in 0..4 * MOST_CONNECTIONS {
        let mut silent = TcpStream::connect(bench.address).await.unwrap();
        silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        held.push(silent);
        if round % 64 == 0 {
            let before = clock.monotonic();
            let answer = bench.ask("GET", "/livez").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            // Long before any of the silent ones is over.
            assert!(clock.monotonic() - before < HEAD_LIMIT / 2);
        }
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < held.len() + 2 * MOST_CONNECTIONS, "{open} descriptors are open");
}

#[tokio::test]
async fn who_asks_keeps_their_place_and_who_is_silent_loses_it() {
    let bench = Bench::new().await;
    let mut busy = TcpStream::connect(bench.address).await.unwrap();
    let mut silent = TcpStream::connect(bench.address).await.unwrap();
    let clock = Clock::system();
    let before = clock.monotonic();
    let mut others = Vec::new();
    for _ in 0..2 * MOST_CONNECTIONS {
        let other = TcpStream::connect(bench.address).await.unwrap();
        busy.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = [0; 512];
        let length = busy.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        others.push(other);
    }
    let mut nothing = [0; 1];
    assert!(matches!(silent.read(&mut nothing).await, Ok(0) | Err(_)), "it kept its place");
    assert!(clock.monotonic() - before < HEAD_LIMIT, "it only lost it when its time was over");
}

#[tokio::test]
async fn what_is_no_request_is_hung_up_on() {
    let bench = Bench::new().await;
    let many = "x: y\r\n".repeat(200);
    for bytes in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nhost: localhost\r\n\r\n",
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes(),
    ] {
        let answer = bench.send(bytes).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{bytes:?}: {answer}");
    }
    assert!(bench.ask("GET", "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn requests_that_come_together_are_answered_one_after_the_other() {
    let bench = Bench::new().await;
    let one = "GET /livez HTTP/1.1\r\nhost: localhost\r\n";
    let answer = bench.send(format!("{one}\r\n{one}\r\n{one}connection: close\r\n\r\n")).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{answer}");
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused() {
    let bench = Bench::new().await;
    for (host, code) in [
        ("localhost:1", "200"),
        ("127.0.0.1", "200"),
        ("health.example.com", "200"),
        ("evil.example", "421"),
    ] {
        let request = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = bench.send(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{host}: {answer}");
        assert!(!answer.contains("evil"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
    }
    let answer = bench.send("GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = bench.send("GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for() {
    let bench = Bench::new().await;
    let open = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let never = "accept: application/openmetrics-text;q=0, text/plain\r\n";
    for (headers, form, total, end) in [
        (open, "application/openmetrics-text; version=1.0.0", "# TYPE freshcreds_build info", true),
        (never, "text/plain; version=0.0.4", "# TYPE freshcreds_build_info gauge", false),
        ("", "text/plain; version=0.0.4", "# TYPE freshcreds_build_info gauge", false),
    ] {
        let answer = bench.ask_with("GET", "/metrics", headers).await;
        assert!(answer.contains(&format!("content-type: {form}")), "{answer}");
        assert!(answer.contains(total), "{answer}");
        assert_eq!(answer.ends_with("# EOF\n"), end, "{answer}");
        assert!(answer.contains("freshcreds_ready 0\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_long_answer_is_compressed_and_what_is_not_ready_is_told_in_any_case() {
    let bench = Bench::new().await;
    let page = bench.ask("GET", "/").await;
    assert!(page.contains("content-type: text/html"), "{page}");
    for header in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff"]
    {
        assert!(page.contains(header), "{page}");
    }
    let metrics = bench.ask("GET", "/metrics").await;
    let compressed = bench.ask_with("GET", "/metrics", "accept-encoding: gzip\r\n").await;
    assert!(compressed.contains("content-encoding: gzip"), "{compressed}");
    assert!(compressed.len() < metrics.len());
    let short = bench.ask_with("GET", "/livez", "accept-encoding: gzip\r\n").await;
    assert!(!short.contains("content-encoding"), "{short}");
    // What is not ready is told in any case.
    let status = bench.ask_with("GET", "/status", "if-none-match: *\r\n").await;
    assert!(status.starts_with("HTTP/1.1 503"), "{status}");
}

#[tokio::test]
async fn a_socket_in_the_file_system_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("health.sock");
    let address = Address::Unix(path.clone());
    // What a daemon left that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let bound = Bound::bind(&address, &[]).await.unwrap();
    let stop = CancellationToken::new();
    let serving = bound.serve(Arc::new(status()), Clock::system(), stop.clone()).unwrap();
    let report = fetch(&address).await.unwrap();
    assert_eq!(report.checks.credentials[0].component_id, "gcr.io");
    // Nobody takes it from one that runs, nor a file that is none.
    assert!(Bound::bind(&address, &[]).await.is_err());
    let file = folder.path().join("file");
    std::fs::File::create(&file).unwrap();
    assert!(Bound::bind(&Address::Unix(file.clone()), &[]).await.is_err());
    assert!(file.exists());
    stop.cancel();
    serving.await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stop_ends_it() {
    let bench = Bench::new().await;
    let mut silent = TcpStream::connect(bench.address).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let clock = Clock::system();
    let before = clock.monotonic();
    bench.stop.cancel();
    bench.task.await.unwrap();
    assert!(clock.monotonic() - before < HEAD_LIMIT / 2);
    assert!(TcpStream::connect(bench.address).await.is_err());
}

#[tokio::test]
async fn the_client_reads_what_the_endpoint_says() {
    let bench = Bench::new().await;
    let report = fetch(&Address::Network(bench.address)).await.unwrap();
    assert!(!report.is_ready());
    assert_eq!(report.checks.credentials[0].component_id, "gcr.io");
    assert!(humantime::parse_rfc3339(&report.time).unwrap() > SystemTime::UNIX_EPOCH);
}

#[tokio::test]
async fn the_client_says_who_did_not_answer() {
    let bench = Bench::new().await;
    bench.stop.cancel();
    bench.task.await.unwrap();
    let message = fetch(&Address::Network(bench.address)).await.unwrap_err().to_string();
    assert!(message.contains("is `freshcreds run` up"), "{message}");

    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Network(stranger.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = stranger.accept().await.unwrap();
        stream.write_all(b"220 mail.example ready\r\n").await.unwrap();
    });
    let message = fetch(&address).await.unwrap_err().to_string();
    assert!(message.contains("no freshcreds of this version"), "{message}");
}
