use std::collections::BTreeMap;
use std::sync::Mutex;

use http_body_util::BodyExt;
use hyper::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;

/// What becomes of one call.
#[derive(Clone, Copy)]
struct Fate {
    /// How long it is on its way, and the answer on its way back.
    there: Duration,
    back: Duration,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Answered,
    /// It is done, and nobody hears of it.
    Unheard,
    /// It does not even arrive.
    Lost,
    /// It arrives, and nothing is done.
    Refused(u16),
}

const WELL: Fate = Fate { there: MOMENT, back: MOMENT, end: End::Answered };
const LOST: Fate = Fate { end: End::Lost, ..WELL };
const MOMENT: Duration = Duration::from_millis(5);

fn refused(code: u16) -> Fate {
    Fate { end: End::Refused(code), ..WELL }
}

/// What is asked for, by whom.
struct Asked<'a> {
    who: &'a str,
    method: &'a str,
}

/// What becomes of each call of a kind, one after the other.
type Turns = fn(u64) -> Fate;

type Fates = Box<dyn FnMut(&Asked<'_>) -> Fate + Send>;

/// An API server that knows one Lease.
#[derive(Clone)]
struct Server(Arc<Mutex<Inner>>);

struct Inner {
    lease: Option<Value>,
    version: u64,
    fates: Fates,
    calls: Vec<String>,
    /// Who leads now, as each one has it.
    leading: BTreeMap<String, bool>,
    /// How often there were two.
    broken: u32,
}

impl Server {
    fn new() -> Self {
        Self::with(|_| WELL)
    }

    fn with(fates: impl FnMut(&Asked<'_>) -> Fate + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            lease: None,
            version: 1,
            fates: Box::new(fates),
            calls: Vec::new(),
            leading: BTreeMap::new(),
            broken: 0,
        })))
    }

    fn decide(&self, fates: impl FnMut(&Asked<'_>) -> Fate + Send + 'static) {
        self.0.lock().unwrap().fates = Box::new(fates);
    }

    fn put(&self, spec: &Value) {
        let mut inner = self.0.lock().unwrap();
        inner.version += 1;
        let metadata = json!({"name": "name", "namespace": "space", "resourceVersion": inner.version.to_string()});
        inner.lease = Some(json!({"metadata": metadata, "spec": spec}));
    }

    fn holder(&self) -> Option<String> {
        let inner = self.0.lock().unwrap();
        Some(inner.lease.as_ref()?["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    fn spec(&self) -> Value {
        self.0.lock().unwrap().lease.as_ref().unwrap()["spec"].clone()
    }

    /// Keeps an eye on one replica from now on.
    async fn watch_over(
        self,
        me: String,
        stop: CancellationToken,
        mut standing: watch::Receiver<Standing>,
    ) {
        loop {
            // Whoever stops it has stopped working before.
            let is_there = tokio::select! {
                biased;
                () = stop.cancelled() => false,
                changed = standing.changed() => changed.is_ok(),
            };
            let is_leading = is_there && standing.borrow_and_update().is_leading;
            let mut inner = self.0.lock().unwrap();
            inner.leading.insert(me.clone(), is_leading);
            let leading = inner.leading.values().filter(|is_leading| **is_leading).count();
            inner.broken += u32::from(leading > 1);
            if !is_there {
                return;
            }
        }
    }

    fn broken(&self) -> u32 {
        self.0.lock().unwrap().broken
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    /// The way of one replica to it.
    fn link(&self, who: &str, clock: &Clock) -> Arc<Link> {
        let (server, who) = (self.clone(), who.to_owned());
        let clock_there = clock.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, who, clock) = (server.clone(), who.clone(), clock_there.clone());
            async move {
                let (tell, told) = tokio::sync::oneshot::channel();
                // What has been sent arrives even if nobody waits for the answer any more.
                tokio::spawn(server.answer(who, clock, request, tell));
                match told.await {
                    Ok(answer) => Ok::<_, std::io::Error>(answer),
                    Err(_) => std::future::pending().await,
                }
            }
        });
        Link::through(service, clock)
    }

    async fn answer(
        self,
        who: String,
        clock: Clock,
        request: Request<Body>,
        tell: tokio::sync::oneshot::Sender<Response<Body>>,
    ) {
        let method = request.method().to_string();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let fate = {
            let mut inner = self.0.lock().unwrap();
            inner.calls.push(format!("{who} {method}"));
            (inner.fates)(&Asked { who: &who, method: &method })
        };
        clock.sleep(fate.there).await;
        let (code, body) = match fate.end {
            End::Lost => return,
            End::Refused(code) => (code, json!({"message": "made up", "code": code, "reason": ""})),
            End::Answered | End::Unheard => self.execute(&method, &body),
        };
        clock.sleep(fate.back).await;
        if fate.end != End::Unheard {
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            drop(tell.send(Response::builder().status(code).body(body).unwrap()));
        }
    }

    fn execute(&self, method: &str, body: &[u8]) -> (u16, Value) {
        let status = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": code}),
            )
        };
        let mut inner = self.0.lock().unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match (method, inner.lease.clone()) {
            ("GET", Some(lease)) => return (200, lease),
            ("GET" | "PUT", None) => return status(404, "NotFound"),
            ("POST", Some(_)) => return status(409, "AlreadyExists"),
            ("PUT", Some(lease))
                if version(&lease) != version(&serde_json::from_slice(body).unwrap()) =>
            {
                return status(409, "Conflict");
            }
            _ => {}
        }
        inner.version += 1;
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        lease["metadata"]["resourceVersion"] = inner.version.to_string().into();
        inner.lease = Some(lease.clone());
        (200, lease)
    }
}

/// One that takes part.
struct Replica {
    clock: Clock,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Replica {
    fn new(server: &Server, me: &str, skew: i64) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let off = Duration::from_secs(skew.unsigned_abs());
        let clock = Clock::simulated(if skew < 0 { now - off } else { now + off });
        let link = server.link(me, &clock);
        let election = Election::new(link, lease_name(), me.to_owned(), clock.clone());
        let (standing, stop) = (election.standing(), CancellationToken::new());
        let task = tokio::spawn(election.run(stop.clone()));
        tokio::spawn(server.clone().watch_over(me.to_owned(), stop.clone(), standing.clone()));
        Self { clock, standing, stop, task }
    }

    fn leads(&self) -> bool {
        !self.task.is_finished() && self.standing.borrow().is_leading
    }

    fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// By when it leads or does not, from now on.
    async fn until(&self, is_leading: bool) -> Duration {
        let started = self.clock.monotonic();
        let mut standing = self.standing.clone();
        let waiting = standing.wait_for(|standing| standing.is_leading == is_leading);
        tokio::time::timeout(Duration::from_hours(1), waiting).await.unwrap().unwrap();
        self.clock.monotonic() - started
    }

    async fn kill(&mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }

    async fn end(&mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }
}

fn lease_name() -> LeaseName {
    LeaseName { namespace: "space".to_owned(), name: "name".to_owned() }
}

fn clock() -> Clock {
    Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000))
}

fn of(holder: &str, renewed: &str) -> Value {
    json!({"holderIdentity": holder, "leaseDurationSeconds": 9, "renewTime": renewed})
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_there_is_made_and_one_that_is_free_is_taken() {
    for is_there in [false, true] {
        let server = Server::new();
        if is_there {
            server.put(&of("", "2027-01-15T08:00:00.000000Z"));
        }
        let replica = Replica::new(&server, "one", 0);
        assert!(replica.until(true).await < SECOND);
        assert_eq!(server.holder().as_deref(), Some("one"));
        let spec = server.spec();
        assert_eq!(spec["leaseDurationSeconds"], 9);
        assert_eq!(spec["leaseTransitions"], 1);
        assert!(spec["renewTime"].is_string() && spec["acquireTime"].is_string(), "{spec}");
        assert_eq!(replica.standing().holder.as_deref(), Some("one"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_every_two_seconds_and_its_taking_is_told_once() {
    let server = Server::new();
    let replica = Replica::new(&server, "one", 0);
    replica.until(true).await;
    let acquired = server.spec()["acquireTime"].clone();
    server.calls();
    let mut standing = replica.standing.clone();
    standing.mark_unchanged();
    replica.clock.sleep(Duration::from_mins(1)).await;
    let renewals = server.calls().iter().filter(|call| call.ends_with("PUT")).count();
    assert!((28..=30).contains(&renewals), "{renewals}");
    assert_eq!(server.spec()["acquireTime"], acquired);
    assert_eq!(server.spec()["leaseTransitions"], 1);
    assert!(!standing.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_renews_is_left_to_it_whatever_the_clocks_say() {
    for skew in [-7200, 0, 7200] {
        let server = Server::new();
        let first = Replica::new(&server, "one", 0);
        first.until(true).await;
        let second = Replica::new(&server, "two", skew);
        second.clock.sleep(Duration::from_mins(10)).await;
        assert!(first.leads() && !second.leads(), "{skew}");
        assert_eq!(second.standing().holder.as_deref(), Some("one"));
        assert_eq!(server.spec()["leaseTransitions"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_taken_nine_seconds_after_it_was_seen_to_change_and_not_by_the_clocks_in_it() {
    for renewed in ["1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"] {
        let server = Server::new();
        server.put(&of("dead", renewed));
        let replica = Replica::new(&server, "one", 0);
        let took = replica.until(true).await;
        assert!(took >= 9 * SECOND && took <= 12 * SECOND, "{took:?}");
    }
    for skew in [-7200, 7200] {
        let server = Server::new();
        let mut first = Replica::new(&server, "one", 0);
        let second = Replica::new(&server, "two", skew);
        first.until(true).await;
        first.clock.sleep(Duration::from_mins(1)).await;
        first.kill().await;
        let took = second.until(true).await;
        assert!(took >= 7 * SECOND && took <= 13 * SECOND, "{skew}: {took:?}");
        assert_eq!(server.spec()["leaseTransitions"], 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_says_itself_for_how_long_it_is_held() {
    let server = Server::new();
    let mut spec = of("dead", "2027-01-15T08:00:00.000000Z");
    spec["leaseDurationSeconds"] = 60.into();
    server.put(&spec);
    let replica = Replica::new(&server, "one", 0);
    let took = replica.until(true).await;
    assert!(took >= 60 * SECOND && took <= 63 * SECOND, "{took:?}");
    // One that says nothing, or nonsense, is held for as long as one of ours.
    for nonsense in [Value::Null, (-1).into()] {
        let server = Server::new();
        spec["leaseDurationSeconds"] = nonsense;
        server.put(&spec);
        let took = Replica::new(&server, "one", 0).until(true).await;
        assert!(took >= 9 * SECOND && took <= 12 * SECOND, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_leaves_it_to_whoever_was_faster() {
    let server = Server::new();
    server.put(&of("", "2027-01-15T08:00:00.000000Z"));
    let (faster, mut is_first) = (server.clone(), true);
    server.decide(move |asked| {
        if asked.method == "PUT" && std::mem::take(&mut is_first) {
            let faster = faster.clone();
            tokio::spawn(async move { faster.put(&of("faster", "2027-01-15T08:00:01.000000Z")) });
        }
        WELL
    });
    let replica = Replica::new(&server, "one", 0);
    replica.clock.sleep(SECOND).await;
    assert_eq!(replica.standing(), Standing::default());
    replica.clock.sleep(3 * SECOND).await;
    let standing = replica.standing();
    assert_eq!((standing.is_leading, standing.holder.as_deref()), (false, Some("faster")));
    assert_eq!(standing.failing, None);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_make_it_at_the_same_moment_one_has_it() {
    let server = Server::new();
    let replicas = ["one", "two", "three"].map(|me| Replica::new(&server, me, 0));
    replicas[0].clock.sleep(5 * SECOND).await;
    assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
    let holder = server.holder();
    assert!(replicas.iter().all(|replica| replica.standing().holder == holder));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_it_stops_before_anybody_else_can_take_it() {
    let cases: [(&str, Turns, Turns); 6] = [
        ("refused at once", |_| refused(503), |_| refused(503)),
        ("denied", |_| refused(403), |_| refused(403)),
        ("silent", |_| LOST, |_| LOST),
        ("slow to answer", |_| Fate { back: Duration::from_millis(1990), ..WELL }, |_| LOST),
        // At first it fails at once, and just before the end it takes all the time there is.
        ("late", |turn| if turn < 3 { refused(500) } else { LOST }, |_| LOST),
        (
            "later",
            |turn| match turn {
                0 | 1 => Fate { back: Duration::from_millis(1900), end: End::Refused(500), ..WELL },
                _ => Fate { back: Duration::from_millis(1990), ..WELL },
            },
            |_| LOST,
        ),
    ];
    for (name, gets, puts) in cases {
        for offset in (0..2000).step_by(500) {
            let server = Server::new();
            let first = Replica::new(&server, "one", 0);
            first.until(true).await;
            first.clock.sleep(Duration::from_millis(60_000 + offset)).await;
            let (mut get, mut put) = (0, 0);
            server.decide(move |asked| {
                let (count, fates) =
                    if asked.method == "GET" { (&mut get, gets) } else { (&mut put, puts) };
                *count += 1;
                fates(*count - 1)
            });
            let stopped = first.until(false).await;
            // It was renewed two seconds before at most.
            assert!(stopped <= 6 * SECOND + 10 * MOMENT, "{name}: after {stopped:?}");
            assert!(stopped >= 3 * SECOND, "{name}: after {stopped:?}");
            let standing = first.standing();
            assert_eq!(standing.holder, None, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_suspended_does_not_believe_to_have_it_still() {
    let server = Server::new();
    let replica = Replica::new(&server, "one", 0);
    replica.until(true).await;
    replica.clock.sleep(30 * SECOND).await;
    server.decide(|_| LOST);
    replica.clock.resume_after(Duration::from_mins(1));
    let took = replica.until(false).await;
    assert!(took < MOMENT, "{took:?}");
    server.decide(|_| WELL);
    assert!(replica.until(true).await < 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_nothing() {
    let server = Server::new();
    let first = Replica::new(&server, "one", 0);
    first.until(true).await;
    let second = Replica::new(&server, "two", 0);
    let mut standing = first.standing.clone();
    standing.mark_unchanged();
    for _ in 0..20 {
        first.clock.sleep(17 * SECOND).await;
        server.decide(|_| refused(503));
        first.clock.sleep(3 * SECOND).await;
        assert!(first.leads());
        assert_eq!(first.standing().failing, Some(Refusal::Busy(503)));
        server.decide(|_| WELL);
    }
    assert!(!second.leads());
    assert_eq!(server.spec()["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn it_lets_go_at_the_end_and_the_next_one_has_it_at_once() {
    let server = Server::new();
    let mut first = Replica::new(&server, "one", 0);
    first.until(true).await;
    let mut second = Replica::new(&server, "two", 0);
    second.clock.sleep(Duration::from_mins(1)).await;
    first.end().await;
    assert_eq!(server.holder().as_deref(), Some(""));
    let took = second.until(true).await;
    assert!(took <= 3 * SECOND, "{took:?}");
    // Whoever does not have it leaves it alone.
    let mut third = Replica::new(&server, "three", 0);
    third.clock.sleep(5 * SECOND).await;
    third.end().await;
    assert_eq!(server.holder().as_deref(), Some("two"));
    // An API server that does not answer does not hold up the end for long.
    server.decide(|_| LOST);
    let started = second.clock.monotonic();
    second.end().await;
    assert!(second.clock.monotonic() - started <= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn whoever_seizes_it_has_it_for_so_long_and_the_others_have_stopped_when_they_said() {
    // Whatever becomes of the calls of the others meanwhile.
    let slow = Fate { back: Duration::from_millis(1900), ..WELL };
    for fate in [WELL, LOST, slow, refused(500), refused(409)] {
        for offset in (0..2000).step_by(500) {
            let server = Server::new();
            let first = Replica::new(&server, "one", 0);
            first.until(true).await;
            first.clock.sleep(Duration::from_millis(20_000 + offset)).await;
            server.decide(move |asked| if asked.who == "logout" { WELL } else { fate });
            let clock = clock();
            let link = server.link("logout", &clock);
            let mut election = Election::new(link, lease_name(), "logout".to_owned(), clock);
            election.seize(30 * SECOND).await.unwrap();
            first.clock.sleep(NOTICED_WITHIN).await;
            assert!(!first.leads());
            if offset > 0 {
                continue;
            }
            server.decide(|_| WELL);
            let took = first.until(true).await + NOTICED_WITHIN;
            assert!(took >= 30 * SECOND && took < 45 * SECOND, "{took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_seized_from_one_that_renews_it_all_the_time_and_if_it_is_not_there() {
    let server = Server::new();
    let clock = clock();
    let seizing = || {
        let link = server.link("logout", &clock);
        Election::new(link, lease_name(), "logout".to_owned(), clock.clone())
    };
    seizing().seize(SECOND).await.unwrap();
    assert_eq!(server.holder().as_deref(), Some("logout"));
    let (busy, mut count) = (server.clone(), 0);
    server.decide(move |asked| {
        count += 1;
        if asked.method == "PUT" && count < 10 {
            let busy = busy.clone();
            tokio::spawn(async move { busy.put(&of("busy", "2027-01-15T08:00:01.000000Z")) });
        }
        WELL
    });
    seizing().seize(SECOND).await.unwrap();
    assert_eq!(server.holder().as_deref(), Some("logout"));
    server.decide(|_| refused(409));
    assert!(matches!(seizing().seize(SECOND).await, Err(Refusal::Conflict(_))));
    server.decide(|_| refused(403));
    assert!(matches!(seizing().seize(SECOND).await, Err(Refusal::Forbidden(_))));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_deleted_is_made_again_by_one_of_them() {
    let server = Server::new();
    let replicas = ["one", "two"].map(|me| Replica::new(&server, me, 0));
    for _ in 0..30 {
        replicas[0].clock.sleep(Duration::from_millis(14_100)).await;
        server.0.lock().unwrap().lease = None;
    }
    replicas[0].clock.sleep(15 * SECOND).await;
    assert_eq!(server.broken(), 0);
    assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
}

/// Hours with failures of all kinds, by the dice.
async fn hours(number: u64, count: usize) -> BTreeMap<&'static str, u32> {
    let mut dice = fastrand::Rng::with_seed(number);
    let server = Server::new();
    let names: Vec<String> = (0..count).map(|index| format!("replica-{index}")).collect();
    let skew = |dice: &mut fastrand::Rng| dice.i64(-10_000..10_000);
    let mut replicas: Vec<Replica> =
        names.iter().map(|name| Replica::new(&server, name, skew(&mut dice))).collect();
    let clock = clock();
    let mut count_of = BTreeMap::new();
    let mut serial = 0;
    // How bad it is now, the worst for each replica by itself.
    for _ in 0..ROUNDS {
        let badness: BTreeMap<String, f64> = replicas
            .iter()
            .enumerate()
            .map(|(index, _)| {
                (names[index].clone(), [0.0, 0.05, 0.3, 0.7, 0.95, 1.0][dice.usize(..6)])
            })
            .collect();
        let mut throw = dice.fork();
        server.decide(move |asked| {
            let bad = badness.get(asked.who.split('~').next().unwrap()).copied().unwrap_or(0.0);
            let mut pause = |longest: u64| Duration::from_millis(throw.u64(0..=longest));
            let (there, back) = (pause(300), pause(300));
            if throw.f64() >= bad {
                return Fate { there, back, end: End::Answered };
            }
            let mut pause = |longest: u64| Duration::from_millis(throw.u64(0..=longest));
            let (there, back) = (pause(4000), pause(4000));
            let end = match throw.u8(..6) {
                0 => End::Lost,
                1 => End::Unheard,
                2 => End::Refused(409),
                3 => End::Refused([403, 404, 429, 500, 503][throw.usize(..5)]),
                _ => End::Answered,
            };
            Fate { there, back, end }
        });
        for _ in 0..4 {
            clock.sleep(Duration::from_millis(dice.u64(100..10_000))).await;
            let leading = replicas.iter().filter(|replica| replica.leads()).count();
            assert_eq!((server.broken(), leading.max(1)), (0, 1), "seed {number}");
            *count_of.entry(if leading == 1 { "led" } else { "unled" }).or_default() += 1;
        }
        let chosen = dice.usize(..replicas.len());
        let me = |serial: &mut u32| {
            *serial += 1;
            format!("{}~{serial}", names[chosen])
        };
        match dice.u8(..8) {
            0 | 1 => {
                replicas[chosen].kill().await;
                replicas[chosen] = Replica::new(&server, &me(&mut serial), skew(&mut dice));
                *count_of.entry("killed").or_default() += 1;
            }
            2 => {
                replicas[chosen].stop.cancel();
                let ending = &mut replicas[chosen].task;
                drop(tokio::time::timeout(10 * SECOND, ending).await.unwrap());
                replicas[chosen] = Replica::new(&server, &me(&mut serial), skew(&mut dice));
            }
            3 => {
                // All is well for a while, and one dies: another one leads soon.
                server.decide(|_| WELL);
                clock.sleep(Duration::from_millis(dice.u64(20_000..25_000))).await;
                let leaders: Vec<_> =
                    replicas.iter().enumerate().filter(|(_, one)| one.leads()).collect();
                assert_eq!(leaders.len(), 1, "seed {number}: all is well");
                let leader = leaders[0].0;
                replicas[leader].kill().await;
                clock.sleep(15 * SECOND).await;
                let leading = replicas.iter().filter(|replica| replica.leads()).count();
                assert_eq!(leading, usize::from(count > 1), "seed {number}: 15 s after a kill");
                replicas[leader] = Replica::new(&server, &names[leader], skew(&mut dice));
                *count_of.entry("taken over").or_default() += 1;
            }
            4 => {
                let pause = Duration::from_secs(dice.u64(1..100));
                replicas[chosen].clock.resume_after(pause);
            }
            5 => {
                let pause = Duration::from_secs(dice.u64(1..10_000));
                replicas[chosen].clock.set_back(pause);
            }
            _ => {}
        }
    }
    count_of
}

#[tokio::test(start_paused = true)]
async fn never_do_two_lead_at_the_same_moment_and_somebody_leads_soon_after_a_kill() {
    let mut all = BTreeMap::<_, u32>::new();
    for seed in 0..SEEDS {
        for (what, count) in hours(seed, 2 + usize::from(seed % 2 == 1)).await {
            *all.entry(what).or_default() += count;
        }
    }
    // The simulation has to be worth something.
    assert!(all["led"] > 400 && all["unled"] > 200, "{all:?}");
    assert!(all["killed"] > 40 && all["taken over"] > 15, "{all:?}");
}

const SEEDS: u64 = 6;
const ROUNDS: u32 = 40;
