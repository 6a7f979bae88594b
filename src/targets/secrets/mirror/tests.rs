use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::super::scripted::{Asked, Cluster, Ending, Fate, event, status};
use super::*;

/// A mirror of the Secrets named `pull`, and who listens to it.
struct Bench {
    cluster: Cluster,
    clock: Clock,
    told: mpsc::Receiver<(Kind, Told)>,
    task: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(prepare: impl FnOnce(&Cluster)) -> Self {
        Self::of(Kind::Secrets { namespace: None, name: "pull".to_owned() }, prepare)
    }

    fn of(kind: Kind, prepare: impl FnOnce(&Cluster)) -> Self {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        let cluster = Cluster::new(&clock);
        prepare(&cluster);
        let (tell, told) = mpsc::channel(64);
        let dice = fastrand::Rng::with_seed(7);
        let mirror = Mirror::new(kind, cluster.link(), clock.clone(), dice, tell);
        let task = tokio::spawn(mirror.run());
        Self { cluster, clock, told, task }
    }

    /// What is told next, in short.
    async fn next(&mut self) -> String {
        let told = tokio::time::timeout(Duration::from_hours(2), self.told.recv()).await;
        match told.expect("something is told").expect("it goes on").1 {
            Told::Is(item) => {
                let text = |text: Option<String>| text.unwrap_or_default();
                format!("{}/{}", text(item.meta.namespace), text(item.meta.name))
            }
            Told::Gone((namespace, name)) => format!("-{namespace}/{name}"),
            Told::All => "all".to_owned(),
            Told::Blind(refusal) => format!("blind: {refusal}"),
        }
    }

    async fn expect(&mut self, all: &[&str]) {
        for expected in all {
            let told = self.next().await;
            assert!(told.starts_with(expected), "{told} and not {expected}");
        }
    }

    /// What is asked within a while.
    async fn asked_within(&mut self, pause: Duration) -> Vec<Asked> {
        self.cluster.asked();
        self.clock.sleep(pause).await;
        self.cluster.asked()
    }
}

fn secret(cluster: &Cluster, namespace: &str) {
    cluster.put("secrets", namespace, "pull", json!({}));
}

fn forbidden() -> Fate {
    Fate::Refused(403, "Forbidden", Value::Null)
}

#[tokio::test(start_paused = true)]
async fn everything_is_listed_in_pages_and_then_watched_from_there() {
    let mut bench = Bench::with(|cluster| {
        for index in 0..1203 {
            secret(cluster, &format!("n{index:04}"));
        }
        cluster.put("secrets", "n0001", "another", json!({}));
    });
    for index in 0..1203 {
        assert_eq!(bench.next().await, format!("n{index:04}/pull"));
    }
    bench.expect(&["all"]).await;
    bench.clock.sleep(Duration::from_secs(1)).await;
    let asked = bench.cluster.asked();
    let shown: Vec<_> = asked
        .iter()
        .map(|one| {
            let query = |name: &str| one.query.get(name).cloned().unwrap_or_default();
            assert_eq!(query("fieldSelector"), "metadata.name=pull");
            assert_eq!(one.path, "/api/v1/secrets");
            (one.is_watch(), query("limit"), query("continue"), query("resourceVersion"))
        })
        .collect();
    let version = bench.cluster.version().to_string();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        shown,
        [
            (false, text("500"), text(""), text("")),
            (false, text("500"), text("500"), text("")),
            (false, text("500"), text("1000"), text("")),
            (true, text(""), text(""), version),
        ]
    );
    assert_eq!(asked[3].query["allowWatchBookmarks"], "true");
    assert_eq!(asked[3].query["timeoutSeconds"], "240");
}

#[tokio::test(start_paused = true)]
async fn each_change_is_told() {
    let mut bench = Bench::new();
    // The list of nothing has no items at all.
    bench.expect(&["all"]).await;
    secret(&bench.cluster, "a");
    bench.expect(&["a/pull"]).await;
    bench.cluster.change("secrets", "a", "pull", |secret| secret["x"] = 1.into());
    bench.cluster.put("secrets", "a", "another", json!({}));
    bench.cluster.remove("secrets", "a", "pull");
    secret(&bench.cluster, "b");
    bench.expect(&["a/pull", "-a/pull", "b/pull"]).await;
}

#[tokio::test(start_paused = true)]
async fn service_accounts_come_with_what_they_pull_with_and_by_their_labels() {
    let kind = Kind::Accounts {
        namespace: Some("a".to_owned()),
        name: None,
        labels: Some("pulls=yes".to_owned()),
    };
    let mut bench = Bench::of(kind, |cluster| {
        let labels = json!({"labels": {"pulls": "yes"}});
        cluster.put(
            "serviceaccounts",
            "a",
            "one",
            json!({"metadata": labels, "imagePullSecrets": [{"name": "x"}, {"name": "y"}]}),
        );
        cluster.put("serviceaccounts", "a", "two", json!({}));
        cluster.put("serviceaccounts", "b", "one", json!({"metadata": labels}));
    });
    let Some((_, Told::Is(item))) = bench.told.recv().await else { panic!("not told") };
    assert_eq!(
        (item.meta.name.as_deref(), &item.pulls[..]),
        (Some("one"), &["x".to_owned(), "y".to_owned()][..])
    );
    bench.expect(&["all"]).await;
    // One that loses the label is gone, and one that gets it comes.
    bench
        .cluster
        .change("serviceaccounts", "a", "one", |one| one["metadata"]["labels"] = json!({}));
    bench.cluster.change("serviceaccounts", "a", "two", |two| {
        two["metadata"]["labels"] = json!({"pulls": "yes"});
    });
    bench.expect(&["-a/one", "a/two"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_taken_up_where_it_ended_and_a_bookmark_counts() {
    let mut bench = Bench::new();
    bench.expect(&["all"]).await;
    let mut count = 0;
    bench.cluster.decide(move |_| {
        count += 1;
        let bookmark = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": "4711", "creationTimestamp": null},
        });
        let added = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"name": "pull", "namespace": "a", "resourceVersion": "4712"},
        });
        match count {
            1 => Fate::Streamed(event("BOOKMARK", &bookmark), Ending::Clean),
            2 => Fate::Streamed(event("ADDED", &added), Ending::Clean),
            _ => Fate::Streamed(String::new(), Ending::Never),
        }
    });
    let asked = bench.asked_within(Duration::from_secs(245)).await;
    bench.expect(&["a/pull"]).await;
    let versions: Vec<_> = asked.iter().map(|one| one.query["resourceVersion"].as_str()).collect();
    assert_eq!(versions, ["100", "4711", "4712"], "and no list");
}

#[tokio::test(start_paused = true)]
async fn where_the_version_is_too_old_everything_is_listed_anew_and_what_has_gone_is_told() {
    for by_event in [true, false] {
        let mut bench = Bench::with(|cluster| {
            for namespace in ["a", "b", "c"] {
                secret(cluster, namespace);
            }
        });
        bench.expect(&["a/pull", "b/pull", "c/pull", "all"]).await;
        secret(&bench.cluster, "d");
        bench.expect(&["d/pull"]).await;
        // Nothing is heard, and much is changed meanwhile.
        bench.cluster.decide(|asked| if asked.is_watch() { Fate::Broken } else { Fate::Done });
        bench.clock.sleep(Duration::from_secs(239)).await;
        bench.expect(&["blind: the API server cannot be reached"]).await;
        bench.cluster.remove("secrets", "b", "pull");
        bench.cluster.remove("secrets", "d", "pull");
        secret(&bench.cluster, "e");
        bench.cluster.compact();
        let mut is_first = true;
        bench.cluster.decide(move |asked| {
            let is_gone = asked.is_watch() && !by_event && std::mem::take(&mut is_first);
            if is_gone { Fate::Refused(410, "Expired", Value::Null) } else { Fate::Done }
        });
        loop {
            let told = bench.next().await;
            if !told.starts_with("blind") && told != "all" {
                assert_eq!(told, "a/pull");
                break;
            }
        }
        bench.expect(&["c/pull", "e/pull", "-b/pull", "-d/pull", "all"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_always_calls_its_own_lists_too_old_is_not_asked_in_a_circle() {
    let mut bench = Bench::with(|cluster| secret(cluster, "a"));
    let listening = tokio::spawn(async move {
        bench.cluster.decide(|asked| {
            if asked.is_watch() {
                let gone = status(410, "Expired", "too old", &Value::Null);
                Fate::Streamed(event("ERROR", &gone), Ending::Clean)
            } else {
                Fate::Done
            }
        });
        let started = bench.clock.monotonic();
        while bench.clock.monotonic() - started < Duration::from_mins(1) {
            drop(tokio::time::timeout(Duration::from_secs(1), bench.told.recv()).await);
        }
        bench.cluster.asked().len()
    });
    let asked = listening.await.unwrap();
    assert!(asked < 80, "{asked} calls in a minute");
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_or_cut_off_says_so_and_asks_again_more_and_more_slowly() {
    let refuse: fn() -> Fate = forbidden;
    let cut: fn() -> Fate = || Fate::Broken;
    let silent: fn() -> Fate = || Fate::Never;
    for (fate, longest, least) in [(refuse, 31, 22), (cut, 11, 60), (silent, 71, 8)] {
        let mut bench = Bench::with(|cluster| {
            secret(cluster, "a");
            cluster.decide(move |_| fate());
        });
        let mut blind = 0;
        let started = bench.clock.monotonic();
        while bench.clock.monotonic() - started < Duration::from_mins(10) {
            bench.expect(&["blind"]).await;
            blind += 1;
        }
        assert!(blind >= least && blind < 150, "{blind}");
        let asked = bench.cluster.asked();
        for pair in asked.windows(2) {
            let pause = pair[1].at - pair[0].at;
            assert!(pause >= Duration::from_millis(250), "{pause:?}");
            assert!(pause <= Duration::from_secs(longest), "{pause:?}");
        }
        bench.cluster.decide(|_| Fate::Done);
        loop {
            let told = bench.next().await;
            if !told.starts_with("blind") {
                assert_eq!(told, "a/pull");
                break;
            }
        }
        bench.expect(&["all"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_for_a_while_goes_on_without_a_list() {
    let mut bench = Bench::with(|cluster| secret(cluster, "a"));
    bench.expect(&["a/pull", "all"]).await;
    bench.cluster.decide(|_| forbidden());
    bench.clock.sleep(Duration::from_secs(241)).await;
    bench.expect(&["blind"]).await;
    bench.cluster.asked();
    bench.cluster.remove("secrets", "a", "pull");
    bench.cluster.decide(|_| Fate::Done);
    let mut told = bench.next().await;
    while told.starts_with("blind") {
        told = bench.next().await;
    }
    assert_eq!(told, "all");
    bench.expect(&["-a/pull"]).await;
    assert!(bench.cluster.asked().iter().all(Asked::is_watch));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_or_is_nonsense_is_blindness_until_it_goes_on() {
    for (text, ending) in
        [("", Ending::Broken), ("{\"type\":\n", Ending::Never), ("nonsense\n", Ending::Clean)]
    {
        let mut bench = Bench::new();
        let mut is_first = true;
        bench.cluster.decide(move |asked| {
            let is_broken = asked.is_watch() && std::mem::take(&mut is_first);
            if is_broken { Fate::Streamed(text.to_owned(), ending) } else { Fate::Done }
        });
        bench.expect(&["all"]).await;
        secret(&bench.cluster, "a");
        loop {
            let told = bench.next().await;
            if told == "a/pull" {
                break;
            }
            assert!(told == "all" || told.starts_with("blind"), "{text}: {told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_is_begun_anew() {
    let mut bench = Bench::new();
    bench.expect(&["all"]).await;
    bench.cluster.decide(|_| Fate::Streamed(String::new(), Ending::Never));
    bench.clock.sleep(Duration::from_mins(4)).await;
    let asked = bench.asked_within(Duration::from_mins(20)).await;
    let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(pauses.len() >= 3);
    for pause in pauses {
        assert!(
            pause >= Duration::from_secs(259) && pause <= Duration::from_secs(261),
            "{pause:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_asked_for_in_a_circle() {
    let mut bench = Bench::new();
    bench.expect(&["all"]).await;
    bench.clock.sleep(Duration::from_secs(239)).await;
    bench.cluster.decide(|_| Fate::Streamed(String::new(), Ending::Clean));
    let asked = bench.asked_within(Duration::from_mins(1)).await;
    assert!((200..=241).contains(&asked.len()), "{}", asked.len());
}

#[tokio::test(start_paused = true)]
async fn everything_is_listed_again_after_half_an_hour() {
    let mut bench = Bench::with(|cluster| secret(cluster, "a"));
    bench.expect(&["a/pull", "all"]).await;
    // Its store was set back, and the watch from a version that it has not come to is silent.
    bench.cluster.decide(|asked| {
        if asked.is_watch() { Fate::Streamed(String::new(), Ending::Never) } else { Fate::Done }
    });
    bench.cluster.remove("secrets", "a", "pull");
    let started = bench.clock.monotonic();
    bench.expect(&["-a/pull", "all"]).await;
    let took = bench.clock.monotonic() - started;
    assert!(took >= Duration::from_mins(29) && took <= Duration::from_mins(35), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_told_by_a_list_that_broke_off_is_told_to_be_gone_too() {
    let mut bench = Bench::with(|cluster| {
        for index in 0..501 {
            secret(cluster, &format!("n{index:04}"));
        }
        cluster.decide(|asked| {
            if asked.query.contains_key("continue") { Fate::Broken } else { Fate::Done }
        });
    });
    while !bench.next().await.starts_with("blind") {}
    bench.cluster.remove("secrets", "n0007", "pull");
    bench.cluster.decide(|_| Fate::Done);
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "all") {
        told.push(bench.next().await);
    }
    assert!(told.contains(&"-n0007/pull".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn one_look_tells_everything_and_ends() {
    let mut bench = Bench::with(|cluster| secret(cluster, "a"));
    bench.task.abort();
    let (tell, mut told) = mpsc::channel(64);
    let kind = Kind::Secrets { namespace: Some("a".to_owned()), name: "pull".to_owned() };
    let (link, clock) = (bench.cluster.link(), bench.clock.clone());
    let once = |tell| {
        Mirror::new(
            kind.clone(),
            Arc::clone(&link),
            clock.clone(),
            fastrand::Rng::with_seed(7),
            tell,
        )
        .run_once()
    };
    once(tell.clone()).await.unwrap();
    assert!(matches!(told.recv().await, Some((_, Told::Is(_)))));
    assert!(matches!(told.recv().await, Some((_, Told::All))));
    bench.cluster.decide(|_| forbidden());
    assert!(matches!(once(tell).await, Err(Refusal::Forbidden(_))));
    bench.told.close();
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens() {
    for fate in [|| Fate::Done, forbidden, || Fate::Streamed(String::new(), Ending::Never)] {
        let bench = Bench::with(|cluster| {
            cluster.decide(move |asked| if asked.is_watch() { fate() } else { Fate::Done });
        });
        bench.clock.sleep(Duration::from_secs(1)).await;
        drop(bench.told);
        tokio::time::timeout(Duration::from_secs(1), bench.task).await.unwrap().unwrap();
    }
}
