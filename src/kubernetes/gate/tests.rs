use std::time::SystemTime;

use hyper::{Request, Response};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tower::ServiceExt;
use tower_test::mock::{self, Handle};

use super::*;
use crate::kubernetes::{Link, Refusal};

type Server = Handle<Request<Body>, Response<Body>>;

/// What an API server says that has too much to do: no object, but plain text.
const BUSY: &str = "Too many requests, please try again later.\n";

fn clock() -> Clock {
    Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000))
}

fn busy(retry_after: Option<&str>) -> Response<Body> {
    let answer = Response::builder().status(429).header("content-type", "text/plain");
    let answer = match retry_after {
        Some(text) => answer.header("retry-after", text),
        None => answer,
    };
    answer.body(Body::from(BUSY.as_bytes().to_vec())).unwrap()
}

fn well() -> Response<Body> {
    Response::new(Body::from(br#"{"metadata":{"name":"a"}}"#.to_vec()))
}

/// Answers everything, and tells when each call came.
async fn serve(
    mut server: Server,
    clock: Clock,
    calls: Arc<Mutex<Vec<Duration>>>,
    mut answers: impl FnMut(usize) -> Response<Body>,
) {
    while let Some((_, answer)) = server.next_request().await {
        let count = {
            let mut calls = calls.lock().unwrap();
            calls.push(clock.monotonic());
            calls.len()
        };
        answer.send_response(answers(count - 1));
    }
}

/// A way to a server that answers so, and when its calls came.
fn link(
    clock: &Clock,
    answers: impl FnMut(usize) -> Response<Body> + Send + 'static,
) -> (Arc<Link>, Arc<Mutex<Vec<Duration>>>) {
    let (service, server) = mock::pair();
    let calls = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(serve(server, clock.clone(), Arc::clone(&calls), answers));
    (Link::through(service, clock), calls)
}

async fn ask(link: &Link) -> Result<Namespace, Refusal> {
    link.call(Duration::from_mins(5), |client| async move { Api::all(client).get("a").await }).await
}

#[tokio::test(start_paused = true)]
async fn every_call_is_held_back_until_the_server_wants_to_be_asked_again() {
    let clock = clock();
    let (link, calls) = link(&clock, |count| if count == 0 { busy(Some("7")) } else { well() });
    assert_eq!(ask(&link).await.unwrap_err(), Refusal::Busy(429));
    let shut = calls.lock().unwrap()[0];
    clock.sleep(Duration::from_secs(3)).await;
    let (one, two, three) = tokio::join!(ask(&link), ask(&link), ask(&link));
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    for call in &calls.lock().unwrap()[1..] {
        let pause = *call - shut;
        assert!(pause >= Duration::from_secs(7), "{pause:?}");
        assert!(pause < Duration::from_millis(7050), "{pause:?}");
    }
    // And no longer than that.
    let now = clock.monotonic();
    ask(&link).await.unwrap();
    assert_eq!(clock.monotonic(), now);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_a_second_if_nothing_is_said_and_a_minute_at_most() {
    for (said, expected) in [
        (None, 1),
        (Some(""), 1),
        (Some("Wed, 21 Oct 2026 07:28:00 GMT"), 1),
        (Some("-3"), 1),
        (Some("0"), 0),
        (Some("60"), 60),
        (Some("86400"), 60),
        (Some("18446744073709551615"), 60),
    ] {
        let clock = clock();
        let (link, calls) = link(&clock, move |count| if count == 0 { busy(said) } else { well() });
        assert_eq!(ask(&link).await.unwrap_err(), Refusal::Busy(429), "{said:?}");
        ask(&link).await.unwrap();
        let calls = calls.lock().unwrap();
        let (pause, expected) = (calls[1] - calls[0], Duration::from_secs(expected));
        assert!(pause >= expected, "{said:?}: {pause:?}");
        assert!(pause < expected + Duration::from_millis(50), "{said:?}: {pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_longer_of_two_pauses_counts() {
    for pauses in [["2", "9"], ["9", "2"]] {
        let clock = clock();
        let (service, mut server) = mock::pair();
        let link = Link::through(service, &clock);
        let both = tokio::spawn({
            let link = Arc::clone(&link);
            async move { tokio::join!(ask(&link), ask(&link)) }
        });
        // Both are under way before either is answered.
        let (_, first) = server.next_request().await.unwrap();
        let (_, second) = server.next_request().await.unwrap();
        let shut = clock.monotonic();
        first.send_response(busy(Some(pauses[0])));
        second.send_response(busy(Some(pauses[1])));
        let (one, two) = both.await.unwrap();
        assert!(one.is_err() && two.is_err());
        let asking = tokio::spawn(async move { ask(&link).await });
        let (_, answer) = server.next_request().await.unwrap();
        assert!(clock.monotonic() - shut >= Duration::from_secs(9), "{pauses:?}");
        answer.send_response(well());
        asking.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_does_not_open_it() {
    let clock = clock();
    let (link, calls) = link(&clock, |count| if count == 0 { busy(Some("30")) } else { well() });
    ask(&link).await.unwrap_err();
    clock.set_forward(Duration::from_hours(1));
    let (answer, ()) = tokio::join!(ask(&link), async {
        clock.sleep(Duration::from_secs(5)).await;
        clock.set_forward(Duration::from_hours(1));
        clock.sleep(Duration::from_secs(5)).await;
        clock.set_back(Duration::from_hours(5));
    });
    answer.unwrap();
    let calls = calls.lock().unwrap();
    let pause = calls[1] - calls[0];
    assert!(pause >= Duration::from_secs(30) && pause < Duration::from_secs(31), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_want_to_wait_so_long_is_told_and_makes_no_call_later() {
    let clock = clock();
    let (link, calls) = link(&clock, |count| if count == 0 { busy(Some("30")) } else { well() });
    ask(&link).await.unwrap_err();
    let limit = Duration::from_secs(2);
    let answer =
        link.call(limit, |client| async move { Api::<Namespace>::all(client).get("a").await });
    assert_eq!(answer.await.unwrap_err(), Refusal::TimedOut(limit));
    clock.sleep(Duration::from_mins(2)).await;
    assert_eq!(calls.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_other_answer_shuts_it() {
    for code in [200, 401, 403, 409, 500, 503, 504] {
        let clock = clock();
        let (link, calls) = link(&clock, move |_| {
            Response::builder()
                .status(code)
                .header("retry-after", "30")
                .body(Body::empty())
                .unwrap()
        });
        drop(ask(&link).await);
        drop(ask(&link).await);
        let calls = calls.lock().unwrap();
        assert_eq!(calls[0], calls[1], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_what_was_asked_and_what_was_answered() {
    let clock = clock();
    let counted = Arc::new(Mutex::new(Vec::new()));
    let count: Count = {
        let counted = Arc::clone(&counted);
        Arc::new(move |method, outcome| {
            counted.lock().unwrap().push(format!("{method} {outcome}"));
        })
    };
    let gate = Gate::new(clock.clone(), count);
    let (service, mut server) = mock::pair::<Request<Body>, Response<Body>>();
    let mut gated = gate.layer(service);
    for (method, code) in
        [("GET", Some(200)), ("PATCH", Some(409)), ("POST", Some(429)), ("PUT", None)]
    {
        let request = Request::builder().method(method).body(Body::empty()).unwrap();
        let asking = gated.ready().await.unwrap().call(request);
        let (_, answer) = server.next_request().await.unwrap();
        match code {
            Some(429) => answer.send_response(busy(None)),
            Some(code) => {
                answer.send_response(Response::builder().status(code).body(Body::empty()).unwrap());
            }
            None => answer.send_error(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        }
        drop(asking.await);
    }
    assert_eq!(*counted.lock().unwrap(), ["GET 200", "PATCH 409", "POST 429", "PUT error"]);
}
