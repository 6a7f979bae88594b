use base64::Engine;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::super::scripted::{Asked, Cluster, Fate};
use super::*;
use crate::credential::{Credential, Lifetime};
use crate::metrics::Metrics;
use crate::sources::Origin;
use crate::status::{Counts, Named};

/// Keepers of the Secret `pull`, and all that they have to do with.
struct Bench {
    cluster: Cluster,
    clock: Clock,
    status: Arc<Status>,
    wanted: watch::Sender<Wanted>,
    options: Options,
    is_leading: bool,
    remove_expired: bool,
}

/// One that runs.
struct Running {
    stop: CancellationToken,
    given_up: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    fn new(namespaces: Namespaces) -> Self {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        let status = Status::with(clock.clone(), Metrics::new());
        let hosts = [host("gcr.io"), host("eu.gcr.io")];
        let registries = hosts.clone().map(|host| (host, Origin::Google(None)));
        let name = TargetName::Secret("pull".to_owned());
        status.follow(registries, [Named { name, reader: "kubelet", hosts: None }], []);
        let accounts = Accounts::None;
        let options =
            Options { name: "pull".to_owned(), namespaces, registries: hosts.to_vec(), accounts };
        Self {
            cluster: Cluster::new(&clock),
            clock,
            status: Arc::new(status),
            wanted: watch::Sender::new(Wanted::new()),
            options,
            is_leading: true,
            remove_expired: false,
        }
    }

    /// With the namespaces `n00`, `n01` and so on, of which these are named or all are selected.
    fn with(count: usize, namespaces: Namespaces) -> Self {
        let bench = Self::new(namespaces);
        for index in 0..count {
            bench.cluster.namespace(&format!("n{index:02}"));
        }
        bench
    }

    fn keeper(&self) -> Keeper {
        let work = Work {
            options: self.options.clone(),
            owner: "us".to_owned(),
            link: self.cluster.link(),
            is_leading: self.is_leading,
            remove_expired: self.remove_expired,
        };
        let (clock, status) = (self.clock.clone(), Arc::clone(&self.status));
        let dice = fastrand::Rng::with_seed(7);
        Keeper::new(work, clock, status, self.wanted.subscribe(), dice)
    }

    fn run(&self) -> Running {
        let (stop, given_up) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(self.keeper().run(stop.clone(), given_up.clone()));
        Running { stop, given_up, task }
    }

    /// Both credentials, with this word as their secret.
    fn publish(&self, word: &str) {
        self.publish_one("gcr.io", word);
        self.publish_one("eu.gcr.io", word);
    }

    fn publish_one(&self, name: &str, word: &str) {
        let now = self.clock.now();
        let life = Lifetime::new(now, now + Duration::from_hours(1));
        let credential = Credential::new("user", word.to_owned().into(), life).unwrap();
        self.wanted.send_modify(|wanted| drop(wanted.insert(host(name), credential)));
    }

    async fn pass(&self, pause: Duration) {
        self.clock.sleep(pause).await;
    }

    fn has(&self, namespace: &str, name: &str, word: &str) -> bool {
        let Some(document) = self.cluster.document(namespace, "pull") else { return false };
        let document: Value = serde_json::from_str(&document).unwrap();
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("user:{word}"));
        document["auths"][name]["auth"] == auth
    }

    fn writes(&self) -> Vec<Asked> {
        self.cluster.asked().into_iter().filter(Asked::is_write).collect()
    }

    fn told<T>(&self, read: impl FnOnce(&crate::status::Target) -> T) -> T {
        self.status.target(&TargetName::Secret("pull".to_owned()), read).unwrap()
    }

    fn failing(&self) -> Option<String> {
        self.told(|target| target.failing.as_ref().map(|failing| failing.message.clone()))
    }

    fn counts(&self) -> Counts {
        self.told(|target| target.counts).unwrap()
    }

    fn found(&self) -> usize {
        self.told(|target| target.found.len())
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn host(name: &str) -> RegistryHost {
    name.parse().unwrap()
}

fn all() -> Namespaces {
    Namespaces::Selected { selector: None, excluded: Vec::new() }
}

fn named(count: usize) -> Namespaces {
    Namespaces::Named((0..count).map(|index| format!("n{index:02}")).collect())
}

fn refused(code: u16) -> Fate {
    Fate::Refused(code, "made up", Value::Null)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn the_first_pass_writes_it_everywhere_with_few_calls() {
    for namespaces in [all(), named(30)] {
        let bench = Bench::with(30, namespaces);
        bench.publish("one");
        let running = bench.run();
        bench.pass(5 * SECOND).await;
        for index in 0..30 {
            let name = format!("n{index:02}");
            assert!(bench.has(&name, "gcr.io", "one") && bench.has(&name, "eu.gcr.io", "one"));
        }
        let writes = bench.writes();
        assert_eq!(writes.len(), 30);
        assert!(writes.iter().all(|write| write.method == "PATCH"));
        // Without force, where nothing is known to be there.
        assert!(
            writes
                .iter()
                .all(|write| write.query.get("force").is_none_or(|force| force == "false"))
        );
        let most = bench.cluster.most_under_way();
        assert!((2..=8).contains(&most), "{most} at once");
        assert_eq!(bench.counts(), Counts { wanted: 30, fresh: 30, ..Counts::default() });
        assert_eq!((bench.failing(), bench.found()), (None, 2));
        assert!(bench.told(|target| target.verified.is_some() && target.looked.is_some()));
        // And then there is silence.
        bench.pass(Duration::from_mins(3)).await;
        assert!(bench.cluster.asked().is_empty());
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_everything_is_seen() {
    for blind in ["secrets", "namespaces", "serviceaccounts"] {
        let mut bench = Bench::with(3, all());
        bench.options.accounts = Accounts::Named(vec!["default".to_owned()]);
        bench.cluster.account("n00", "default", &[]);
        bench.publish("one");
        bench.cluster.decide(
            move |asked| {
                if asked.resource() == blind { refused(403) } else { Fate::Done }
            },
        );
        let running = bench.run();
        bench.pass(2 * MINUTE).await;
        // Secrets are kept fresh all the same where accounts cannot be looked at.
        let written = if blind == "serviceaccounts" { 3 } else { 0 };
        assert_eq!(bench.writes().len(), written, "{blind}");
        assert!(bench.failing().is_some());
        bench.cluster.decide(|_| Fate::Done);
        bench.pass(MINUTE).await;
        assert_eq!(bench.counts().fresh, 3);
        assert_eq!(bench.cluster.pulls("n00", "default"), ["pull"]);
        assert_eq!(bench.failing(), None);
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_fails_takes_nothing_out_of_a_secret() {
    let bench = Bench::with(3, all());
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    running.end().await;
    // A new start, and only one of the two is to be had.
    bench.wanted.send_replace(Wanted::new());
    bench.cluster.asked();
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    assert!(bench.writes().is_empty());
    bench.publish_one("gcr.io", "two");
    bench.pass(5 * SECOND).await;
    for name in ["n00", "n01", "n02"] {
        assert!(bench.has(name, "gcr.io", "two") && bench.has(name, "eu.gcr.io", "one"), "{name}");
    }
    // And a new namespace gets as much.
    bench.cluster.namespace("new");
    bench.pass(5 * SECOND).await;
    assert!(bench.has("new", "gcr.io", "two") && bench.has("new", "eu.gcr.io", "one"));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_what_stands_there_cannot_be_read_nothing_is_written_over_it() {
    let bench = Bench::with(3, all());
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    running.end().await;
    bench.wanted.send_replace(Wanted::new());
    bench.publish_one("gcr.io", "two");
    bench.cluster.asked();
    bench.cluster.decide(|asked| {
        let is_get = asked.method == "GET" && !asked.is_list() && !asked.is_watch();
        if is_get { refused(500) } else { Fate::Done }
    });
    let running = bench.run();
    bench.pass(2 * MINUTE).await;
    assert!(bench.writes().is_empty());
    assert!(bench.failing().is_some());
    bench.cluster.decide(|_| Fate::Done);
    bench.pass(15 * SECOND).await;
    assert!(bench.has("n00", "gcr.io", "two") && bench.has("n00", "eu.gcr.io", "one"));
    assert_eq!(bench.failing(), None);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_trouble_that_is_over_is_not_told_any_more_even_if_nothing_was_left_to_do() {
    let bench = Bench::with(2, all());
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    running.end().await;
    // All is as it should be; it is only to be known.
    bench.wanted.send_replace(Wanted::new());
    let mut failures = 2;
    bench.cluster.decide(move |asked| {
        let is_get = asked.method == "GET" && !asked.is_list() && !asked.is_watch();
        if is_get && failures > 0 {
            failures -= 1;
            return refused(503);
        }
        Fate::Done
    });
    let running = bench.run();
    bench.pass(MINUTE).await;
    assert_eq!(bench.failing(), None);
    running.end().await;

    // Or the namespace that was to be written goes away.
    let bench = Bench::with(1, all());
    bench.publish("one");
    bench.cluster.decide(|asked| if asked.is_write() { refused(503) } else { Fate::Done });
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    assert!(bench.failing().is_some());
    bench.cluster.remove("namespaces", "", "n00");
    bench.pass(15 * SECOND).await;
    assert_eq!(bench.failing(), None);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_all_fetched_needs_no_look_at_what_stands_there() {
    let bench = Bench::with(2, all());
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    running.end().await;
    bench.publish("two");
    bench.cluster.decide(|asked| {
        let is_get = asked.method == "GET" && !asked.is_list() && !asked.is_watch();
        if is_get { refused(403) } else { Fate::Done }
    });
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    assert!(bench.has("n01", "gcr.io", "two"));
    assert_eq!(bench.failing(), None);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_cluster_pauses_everything_and_not_each_namespace() {
    for fate in [|| refused(503), || refused(429), || refused(401), || Fate::Broken] {
        let bench = Bench::with(30, all());
        bench.publish("one");
        bench.cluster.decide(move |asked| if asked.is_write() { fate() } else { Fate::Done });
        let running = bench.run();
        bench.pass(5 * MINUTE).await;
        let writes = bench.writes().len();
        // Eight at once, every five seconds or so.
        assert!((100..=600).contains(&writes), "{writes}");
        assert!(bench.failing().is_some());
        assert_eq!(bench.counts().failing, 0);
        bench.cluster.decide(|_| Fate::Done);
        bench.pass(15 * SECOND).await;
        assert_eq!(bench.counts().fresh, 30);
        assert_eq!(bench.failing(), None);
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_a_namespace_leaves_the_others_alone() {
    let bench = Bench::with(5, named(6));
    bench.publish("one");
    bench.cluster.decide(|asked| {
        let is_bad = asked.is_write() && asked.namespace() == Some("n01");
        if is_bad { refused(403) } else { Fate::Done }
    });
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    let counts = bench.counts();
    assert_eq!((counts.fresh, counts.failing, counts.missing), (4, 2, 2));
    assert!(bench.failing().unwrap().starts_with("in the namespace n0"));
    assert_eq!(bench.found(), 0, "named namespaces are a promise");
    bench.cluster.decide(|_| Fate::Done);
    bench.cluster.namespace("n05");
    bench.pass(MINUTE).await;
    assert_eq!((bench.counts().fresh, bench.failing(), bench.found()), (6, None, 2));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_look_at_all_namespaces_looks_at_each_that_is_named() {
    for once in [false, true] {
        let mut bench = Bench::with(4, named(3));
        bench.options.accounts = Accounts::Named(vec!["default".to_owned()]);
        for name in ["n00", "n01", "n02", "n03"] {
            bench.cluster.account(name, "default", &["theirs"]);
        }
        bench.publish("one");
        bench.cluster.decide(
            |asked| {
                if asked.namespace().is_none() { refused(403) } else { Fate::Done }
            },
        );
        if once {
            assert!(bench.keeper().run_once().await);
        } else {
            let running = bench.run();
            bench.pass(5 * SECOND).await;
            // The watches are each namespace's own.
            bench.cluster.remove("secrets", "n02", "pull");
            bench.pass(5 * SECOND).await;
            running.end().await;
        }
        for name in ["n00", "n01", "n02"] {
            assert!(bench.has(name, "gcr.io", "one"));
            assert_eq!(bench.cluster.pulls(name, "default"), ["theirs", "pull"]);
        }
        assert_eq!(bench.cluster.pulls("n03", "default"), ["theirs"]);
        assert_eq!(bench.failing(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_may_not_be_seen_cluster_wide_is_enough_to_look_closer() {
    let mut bench = Bench::with(2, named(2));
    bench.options.accounts = Accounts::Named(vec!["default".to_owned()]);
    bench.cluster.account("n00", "default", &[]);
    bench.publish("one");
    bench.cluster.decide(|asked| {
        let is_refused = asked.namespace().is_none() && asked.resource() == "serviceaccounts";
        if is_refused { refused(403) } else { Fate::Done }
    });
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.cluster.pulls("n00", "default"), ["pull"]);
    assert_eq!(bench.counts().fresh, 2);
    assert!(bench.told(|target| target.verified.is_some()));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_single_pass_sees_everything_that_a_loop_sees() {
    let mut bench = Bench::with(12, all());
    bench.options.accounts = Accounts::Named(vec!["default".to_owned()]);
    bench.cluster.account("n01", "default", &["theirs"]);
    bench.cluster.foreign("n02", "pull");
    bench.publish("one");
    assert!(bench.keeper().run_once().await);
    let counts = bench.counts();
    assert_eq!((counts.wanted, counts.fresh, counts.foreign), (12, 11, 1));
    assert_eq!(bench.cluster.pulls("n01", "default"), ["theirs", "pull"]);
    // A second one changes nothing.
    bench.cluster.asked();
    assert!(bench.keeper().run_once().await);
    assert!(bench.writes().is_empty());
    // And one that fails says so.
    bench.publish("two");
    bench.cluster.decide(|asked| if asked.is_write() { refused(403) } else { Fate::Done });
    assert!(!bench.keeper().run_once().await);
    bench.cluster.decide(|_| refused(403));
    assert!(!bench.keeper().run_once().await);
}

#[tokio::test(start_paused = true)]
async fn a_standby_writes_nothing_and_tells_the_lives_that_stand_there() {
    let mut bench = Bench::with(3, all());
    bench.publish("one");
    let leader = bench.run();
    bench.pass(5 * SECOND).await;
    leader.end().await;
    bench.wanted.send_replace(Wanted::new());
    let read = |bench: &Bench| {
        bench.status.read(|state| state.registries[&host("gcr.io")].lifetime.map(Lifetime::expires))
    };
    bench.status.set_registry(&host("gcr.io"), |registry| registry.lifetime = None);
    bench.cluster.asked();
    bench.is_leading = false;
    let standby = bench.run();
    bench.pass(5 * SECOND).await;
    assert!(read(&bench).is_some());
    assert_eq!((bench.counts().fresh, bench.found(), bench.failing()), (3, 2, None));
    assert!(
        bench.told(|target| target.verified.is_some_and(|at| bench.clock.now() < at + 5 * SECOND))
    );
    // Somebody removes one, and it is for the leader to see to it.
    bench.cluster.remove("secrets", "n01", "pull");
    bench.pass(MINUTE).await;
    assert_eq!((bench.counts().missing, bench.found()), (1, 0));
    let asked = bench.cluster.asked();
    assert!(asked.iter().all(|one| one.is_list() || one.is_watch()), "and reads none of them");
    standby.end().await;
    assert!(bench.writes().is_empty());
}

/// How often a loop turns that has nothing to do in an hour.
async fn turns(bench: &Bench, prepare: impl FnOnce(&Cluster)) -> usize {
    bench.publish("one");
    let running = bench.run();
    bench.pass(MINUTE).await;
    prepare(&bench.cluster);
    bench.pass(MINUTE).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.worker_park_count(0);
    bench.pass(10 * MINUTE).await;
    let turns = metrics.worker_park_count(0) - before;
    running.end().await;
    usize::try_from(turns).unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_do_sleeps() {
    let bench = Bench::with(3, all());
    let idle = turns(&bench, |_| {}).await;
    let mut bench = Bench::with(3, all());
    bench.is_leading = false;
    let standby = turns(&bench, |_| {}).await;
    let bench = Bench::with(3, all());
    let blind = turns(&bench, |cluster| {
        cluster.decide(|_| refused(403));
        cluster.remove("secrets", "n00", "pull");
    })
    .await;
    assert!(idle < 500 && standby < 500 && blind < 5000, "{idle} {standby} {blind}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_at_the_end_once_that_is_given_up() {
    let bench = Bench::with(3, all());
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    bench.cluster.asked();
    running.given_up.cancel();
    bench.publish("two");
    running.end().await;
    assert!(bench.writes().is_empty());
    // Else what was fetched last is still written.
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    bench.publish("three");
    running.end().await;
    assert!(bench.has("n00", "gcr.io", "three") && bench.has("n02", "gcr.io", "three"));
    // But that takes no longer than a moment.
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    bench.cluster.decide(|asked| if asked.is_write() { Fate::Never } else { Fate::Done });
    bench.publish("four");
    let started = bench.clock.monotonic();
    running.end().await;
    assert!(bench.clock.monotonic() - started < 6 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_too_large_is_not_written_and_its_size_is_told() {
    let mut bench = Bench::with(1, all());
    let names: Vec<_> = (0..LARGE).map(|index| format!("r{index}.example.com")).collect();
    bench.options.registries = names.iter().map(|name| host(name)).collect();
    for name in &names {
        bench.publish_one(name, &"x".repeat(60_000));
    }
    let running = bench.run();
    bench.pass(MINUTE).await;
    assert!(bench.writes().is_empty());
    let failing = bench.failing().unwrap();
    assert!(failing.starts_with("the credentials take 1"), "{failing}");
    assert!(failing.ends_with(" a Secret has room for 1024 KiB and 240 KiB"), "{failing}");
    bench.publish_one(&names[0], "one");
    bench.pass(SECOND).await;
    assert!(bench.has("n00", &names[0], "one"));
    assert_eq!(bench.failing(), None);
    running.end().await;
}

/// So many large credentials are just too many.
const LARGE: usize = 14;

#[tokio::test(start_paused = true)]
async fn what_others_do_to_it_is_put_right_and_what_is_theirs_is_left() {
    let mut bench = Bench::with(4, all());
    bench.options.accounts = Accounts::Named(vec!["default".to_owned()]);
    bench.cluster.account("n00", "default", &["theirs"]);
    bench.cluster.foreign("n03", "pull");
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.cluster.document("n03", "pull"), None);
    assert_eq!(bench.told(|target| target.in_the_way.len()), 1);
    assert_eq!(bench.found(), 2);
    bench.cluster.remove("secrets", "n00", "pull");
    bench.cluster.change("secrets", "n01", "pull", |secret| {
        secret["data"] = json!({});
        secret["metadata"]["managedFields"][0]["fieldsV1"]["f:data"] = json!({});
    });
    bench.cluster.change("serviceaccounts", "n00", "default", |account| {
        account["imagePullSecrets"] = json!([{"name": "another"}]);
    });
    bench.cluster.namespace("new");
    bench.cluster.account("new", "default", &[]);
    bench.cluster.remove("secrets", "n03", "pull");
    bench.pass(5 * SECOND).await;
    for name in ["n00", "n01", "n02", "n03", "new"] {
        assert!(bench.has(name, "gcr.io", "one"), "{name}");
    }
    assert_eq!(bench.cluster.pulls("n00", "default"), ["another", "pull"]);
    assert_eq!(bench.cluster.pulls("new", "default"), ["pull"]);
    assert_eq!(bench.told(|target| target.in_the_way.len()), 0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_account_that_loses_its_label_loses_the_name_without_a_circle() {
    let mut bench = Bench::with(1, all());
    bench.options.accounts = Accounts::Selected("pulls=yes".to_owned());
    let labelled =
        json!({"metadata": {"labels": {"pulls": "yes"}}, "imagePullSecrets": [{"name": "theirs"}]});
    bench.cluster.put("serviceaccounts", "n00", "one", labelled);
    bench.publish("one");
    let running = bench.run();
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.cluster.pulls("n00", "one"), ["theirs", "pull"]);
    bench.cluster.asked();
    bench.cluster.change("serviceaccounts", "n00", "one", |account| {
        account["metadata"]["labels"] = json!({});
        account["imagePullSecrets"] = json!([{"name": "pull"}, {"name": "new"}]);
    });
    bench.pass(MINUTE).await;
    assert_eq!(bench.cluster.pulls("n00", "one"), ["new"]);
    assert!(bench.writes().len() <= 2);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_credential_is_taken_out_when_it_is_to_be() {
    let mut bench = Bench::with(1, all());
    bench.remove_expired = true;
    bench.publish("one");
    let running = bench.run();
    bench.pass(Duration::from_mins(30)).await;
    bench.publish_one("gcr.io", "two");
    bench.pass(Duration::from_mins(31)).await;
    assert!(bench.has("n00", "gcr.io", "two") && !bench.has("n00", "eu.gcr.io", "one"));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_told_whatever_the_api_server_says() {
    let canary = "canary-secret";
    let base64 = base64::engine::general_purpose::STANDARD;
    let auth = base64.encode(format!("user:{canary}"));
    let document = format!("{{\"auths\":{{\"gcr.io\":{{\"auth\":\"{auth}\"}}}}}}");
    let forms = [canary.to_owned(), auth, base64.encode(document)];
    for code in [200, 400, 422, 500] {
        let bench = Bench::with(1, all());
        bench.publish(canary);
        // It repeats what it was given, and is not what it should be.
        bench.cluster.decide(move |asked| {
            if asked.is_write() { Fate::Answered(code, asked.body.clone()) } else { Fate::Done }
        });
        let running = bench.run();
        bench.pass(5 * SECOND).await;
        let failing = format!("{:?}", bench.failing());
        assert!(!bench.writes().is_empty());
        for form in &forms {
            assert!(!failing.contains(&form[..12]), "{code}: {failing}");
        }
        running.end().await;
    }
}
