use std::collections::VecDeque;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Accounts;
use super::super::content::{Entries, Entry, KEY, MANAGER, OWNER};
use super::*;
use crate::credential::Credential;

fn clock() -> Clock {
    Clock::simulated_in_leaps(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000))
}

fn host(name: &str) -> RegistryHost {
    name.parse().unwrap()
}

/// What is to stand in the Secrets; it lives for so many hours.
fn content(clock: &Clock, hosts: &[(&str, u64)]) -> Content {
    let entry = |hours| {
        let life = Lifetime::new(clock.now(), clock.now() + Duration::from_hours(hours));
        let credential = Credential::new("user", "canary".to_owned().into(), life).unwrap();
        Entry { credential, origin: "origin".to_owned() }
    };
    let entries: Entries = hosts.iter().map(|(name, hours)| (host(name), entry(*hours))).collect();
    Content::new(entries, clock)
}

fn meta(value: Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

fn item(value: Value) -> Item {
    Item { meta: meta(value), pulls: Vec::new() }
}

fn namespace(name: &str) -> Item {
    item(json!({ "name": name }))
}

fn terminating(name: &str) -> Item {
    item(json!({ "name": name, "deletionTimestamp": "2027-01-15T08:00:00Z" }))
}

fn foreign(namespace: &str) -> Item {
    item(
        json!({ "name": "pull", "namespace": namespace, "uid": "foreign", "labels": {OWNER: "others"} }),
    )
}

/// One of ours, as the API server tells of it.
fn ours(namespace: &str, uid: &str, text: &str, is_whole: bool) -> Item {
    let data = if is_whole { json!({format!("f:{KEY}"): {}}) } else { json!({}) };
    item(json!({
        "name": "pull", "namespace": namespace, "uid": uid,
        "labels": {OWNER: "us"},
        "annotations": {"freshcreds/registries": text},
        "managedFields": [{
            "manager": MANAGER, "operation": "Apply",
            "fieldsV1": {
                "f:data": data,
                "f:metadata": {"f:annotations": {"f:freshcreds/registries": {}}},
            },
        }],
    }))
}

fn account(namespace: &str, name: &str, version: &str, pulls: &[&str], note: &str) -> Item {
    let mut value = json!({ "name": name, "namespace": namespace, "resourceVersion": version });
    if !note.is_empty() {
        let entries: Vec<_> = note.split(',').map(|name| format!("us/{name}")).collect();
        value["annotations"] = json!({ NOTE: entries.join(",") });
    }
    Item { meta: meta(value), pulls: pulls.iter().map(|pull| (*pull).to_owned()).collect() }
}

fn selected() -> Namespaces {
    Namespaces::Selected { selector: None, excluded: vec!["kube-system".to_owned()] }
}

fn named(names: &[&str]) -> Namespaces {
    Namespaces::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn forbidden() -> Refusal {
    Refusal::Forbidden("no".to_owned())
}

struct Bench {
    places: Places,
    clock: Clock,
}

impl Bench {
    fn new(namespaces: Namespaces) -> Self {
        let clock = clock();
        let options = Options {
            name: "pull".to_owned(),
            namespaces,
            registries: vec![host("gcr.io"), host("quay.io")],
            accounts: Accounts::Named(vec!["default".to_owned()]),
        };
        let mut places = Places::new(options, "us".to_owned(), clock.clone());
        places.want(content(&clock, &[("gcr.io", 1), ("quay.io", 12)]));
        Self { places, clock }
    }

    fn text(&self) -> String {
        self.places.content.as_ref().unwrap().stamp.text.clone()
    }

    fn task(&mut self) -> Option<(String, Task)> {
        let now = self.clock.now();
        self.places.next(now).map(|(namespace, task)| (namespace.into(), task))
    }

    /// The next one is to make the Secret there, and it is made.
    fn make(&mut self, namespace: &str) {
        assert_eq!(self.task(), Some((namespace.to_owned(), Task::Make)));
        self.wrote(namespace);
    }

    fn wrote(&mut self, namespace: &str) -> bool {
        let made = ours(namespace, "uid", &self.text(), true);
        self.places.done(namespace, Done::Secret(made))
    }

    fn fail(&mut self, namespace: &str, task: &Task, refusal: &Refusal) {
        self.places.failed(namespace, task, refusal, 0.5);
    }

    fn pass(&self, pause: Duration) {
        self.clock.set_forward(pause);
    }

    fn summary(&self) -> Summary {
        self.places.summary(self.clock.now())
    }
}

fn renew() -> Task {
    Task::Renew { uid: "uid".into() }
}

#[test]
fn where_the_secret_is_wanted_it_is_made_and_then_nothing_is_left_to_do() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    assert_eq!(bench.task(), None);
    assert!(bench.places.is_idle() && !bench.places.has_faults());
    // Neither is there when it is told by the watch as well.
    let told = ours("a", "uid", &bench.text(), true);
    bench.places.secret_is(&told);
    bench.pass(Duration::from_hours(1));
    assert_eq!(bench.task(), None);
    assert_eq!(bench.places.next_at(), None);
}

#[test]
fn nothing_is_made_before_there_is_something_to_put_into_it() {
    let mut bench = Bench::new(named(&["a"]));
    bench.places.content = None;
    assert_eq!(bench.task(), None);
    let new = content(&bench.clock, &[("gcr.io", 1)]);
    bench.places.want(new);
    bench.make("a");
}

#[test]
fn each_namespace_is_worked_on_once_at_a_time_and_others_meanwhile() {
    let mut bench = Bench::new(named(&["a", "b"]));
    assert_eq!(bench.task(), Some(("a".to_owned(), Task::Make)));
    assert_eq!(bench.task(), Some(("b".to_owned(), Task::Make)));
    assert_eq!(bench.task(), None);
    assert!(!bench.places.is_idle());
    bench.wrote("a");
    assert_eq!(bench.task(), None);
    bench.places.put_off("b");
    assert_eq!(bench.task(), Some(("b".to_owned(), Task::Make)));
}

#[test]
fn a_new_content_renews_every_secret_of_ours_by_its_uid() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.make("a");
    bench.make("b");
    bench.pass(Duration::from_hours(6));
    let new = content(&bench.clock, &[("gcr.io", 1)]);
    bench.places.want(new);
    for name in ["a", "b"] {
        assert_eq!(bench.task(), Some((name.to_owned(), renew())));
        assert!(!bench.wrote(name), "that is no repair");
    }
    assert_eq!(bench.task(), None);
}

#[test]
fn what_somebody_changed_or_removed_is_put_back() {
    let mut bench = Bench::new(named(&["a"]));
    bench.make("a");
    let changed = ours("a", "uid", &bench.text(), false);
    bench.places.secret_is(&changed);
    assert_eq!(bench.task(), Some(("a".to_owned(), renew())));
    assert!(bench.wrote("a"));
    bench.places.secret_gone("a");
    assert_eq!(bench.task(), Some(("a".to_owned(), Task::Make)));
    assert!(bench.wrote("a"));
    assert_eq!(bench.task(), None);
}

#[test]
fn what_is_ours_elsewhere_is_removed_but_only_if_we_made_it() {
    for namespaces in [selected(), named(&["a"])] {
        let mut bench = Bench::new(namespaces);
        let mut copied = ours("b", "copied", "{}", true);
        copied.meta.managed_fields = None;
        bench.places.secret_is(&copied);
        bench.places.secret_is(&ours("c", "uid", "{}", true));
        bench.places.secret_is(&foreign("d"));
        let tasks: Vec<_> = std::iter::from_fn(|| bench.task()).collect();
        let elsewhere: Vec<_> = tasks.into_iter().filter(|(name, _)| name != "a").collect();
        assert_eq!(elsewhere, [("c".to_owned(), Task::Remove { uid: "uid".into() })]);
        bench.places.done("c", Done::Removed);
        assert_eq!(bench.task(), None);
    }
}

#[test]
fn a_namespace_that_is_not_selected_any_more_is_cleared() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    bench.places.namespace_gone("a");
    assert_eq!(bench.task(), Some(("a".to_owned(), Task::Remove { uid: "uid".into() })));
    let task = Task::Remove { uid: "uid".into() };
    bench.fail("a", &task, &Refusal::NotFound(String::new()));
    assert_eq!(bench.task(), None);
    assert!(!bench.places.has_faults());
}

#[test]
fn an_excluded_namespace_gets_none_and_one_that_was_excluded_later_is_cleared() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("kube-system"));
    assert_eq!(bench.task(), None);
    bench.places.secret_is(&ours("kube-system", "uid", "{}", true));
    assert_eq!(bench.task(), Some(("kube-system".to_owned(), Task::Remove { uid: "uid".into() })));
}

#[test]
fn a_foreign_secret_is_left_alone_until_it_is_gone() {
    let mut bench = Bench::new(named(&["a"]));
    bench.places.secret_is(&foreign("a"));
    assert_eq!(bench.task(), None);
    let new = content(&bench.clock, &[("gcr.io", 1)]);
    bench.places.want(new);
    assert_eq!(bench.task(), None);
    assert_eq!(bench.summary().foreign, ["a"]);
    bench.places.secret_gone("a");
    bench.make("a");
}

#[test]
fn a_foreign_secret_is_known_in_a_namespace_that_is_selected_later() {
    let mut bench = Bench::new(selected());
    bench.places.secret_is(&foreign("a"));
    assert_eq!(bench.task(), None);
    bench.places.namespace_is(&namespace("a"));
    assert_eq!(bench.task(), None);
    assert_eq!(bench.summary().counts.foreign, 1);
}

#[test]
fn a_secret_that_somebody_makes_at_the_same_moment_is_no_fault_of_ours() {
    let mut bench = Bench::new(named(&["a"]));
    assert!(bench.task().is_some());
    // The watch is faster than the answer.
    bench.places.secret_is(&foreign("a"));
    bench.fail("a", &Task::Make, &Refusal::Conflict("conflict".to_owned()));
    bench.pass(Duration::from_mins(1));
    assert_eq!(bench.task(), None);
    assert!(!bench.places.has_faults());
}

#[test]
fn nothing_is_done_in_a_namespace_that_is_being_deleted() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    bench.places.namespace_is(&terminating("a"));
    bench.places.secret_gone("a");
    let new = content(&bench.clock, &[("gcr.io", 1)]);
    bench.places.want(new);
    assert_eq!(bench.task(), None);
    assert_eq!(bench.summary().counts.wanted, 0);
    bench.places.namespace_gone("a");
    assert_eq!(bench.task(), None);
    bench.pass(GOING);
    assert_eq!(bench.task(), None);
    assert!(bench.places.all.is_empty());
    // It comes back.
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
}

#[test]
fn a_refusal_because_of_the_namespaces_end_is_no_fault_where_namespaces_are_selected() {
    for refusal in [Refusal::Terminating, Refusal::NotFound("gone".to_owned())] {
        let mut bench = Bench::new(selected());
        bench.places.namespace_is(&namespace("a"));
        assert!(bench.task().is_some());
        bench.fail("a", &Task::Make, &refusal);
        assert!(!bench.places.has_faults());
        assert_eq!(bench.task(), None);
        // Unless it stays.
        bench.pass(Duration::from_secs(10));
        assert_eq!(bench.task(), Some(("a".to_owned(), Task::Make)));

        let mut bench = Bench::new(named(&["a"]));
        assert!(bench.task().is_some());
        bench.fail("a", &Task::Make, &refusal);
        assert!(bench.places.has_faults(), "but one that is named is a promise");
        bench.pass(Duration::from_secs(5));
        assert_eq!(bench.task(), Some(("a".to_owned(), Task::Make)));
    }
}

#[test]
fn a_service_account_gets_the_name_once_the_secret_is_there() {
    let mut bench = Bench::new(selected());
    bench.places.account_is(account("a", "default", "1", &["theirs"], ""), Some(true));
    bench.places.namespace_is(&namespace("a"));
    assert_eq!(bench.task(), Some(("a".to_owned(), Task::Make)));
    assert_eq!(bench.task(), None);
    bench.wrote("a");
    let task = Task::Account {
        name: "default".into(),
        version: "1".into(),
        pulls: vec!["theirs".to_owned(), "pull".to_owned()],
        notes: Notes::default().with("us", "pull"),
    };
    assert_eq!(bench.task(), Some(("a".to_owned(), task)));
    let joined = account("a", "default", "2", &["theirs", "pull"], "pull");
    assert!(!bench.places.done("a", Done::Account(joined)));
    assert_eq!(bench.task(), None);
}

#[test]
fn a_service_account_that_was_told_before_its_namespace_is_not_forgotten() {
    let mut bench = Bench::new(selected());
    bench.places.account_is(account("a", "default", "1", &[], ""), Some(true));
    assert_eq!(bench.task(), None);
    // A minute later the namespace gets the label.
    bench.pass(Duration::from_mins(1));
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    assert!(matches!(bench.task(), Some((_, Task::Account { .. }))));
    // And it is forgotten once it is gone itself.
    let mut bench = Bench::new(selected());
    bench.places.account_is(account("a", "default", "1", &[], ""), Some(true));
    bench.places.account_gone(&("a".into(), "default".into()));
    assert_eq!(bench.task(), None);
    assert!(bench.places.all.is_empty());
}

#[test]
fn a_service_account_loses_the_name_before_the_secret_goes_and_others_keep_theirs() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    let joined = account("a", "default", "1", &["one", "pull", "two"], "other,pull");
    bench.places.account_is(joined, Some(true));
    bench.make("a");
    assert_eq!(bench.task(), None);
    bench.places.namespace_gone("a");
    let leave = |version: &str| Task::Account {
        name: "default".into(),
        version: version.into(),
        pulls: vec!["one".to_owned(), "two".to_owned()],
        notes: Notes::default().with("us", "other"),
    };
    assert_eq!(bench.task(), Some(("a".to_owned(), leave("1"))));
    // Somebody has changed it meanwhile: it is read again.
    let read = account("a", "default", "2", &["one", "pull", "two"], "other,pull");
    bench.places.done("a", Done::Read(read));
    assert_eq!(bench.task(), Some(("a".to_owned(), leave("2"))));
    let left = account("a", "default", "3", &["one", "two"], "other");
    bench.places.done("a", Done::Account(left));
    assert!(matches!(bench.task(), Some((_, Task::Remove { .. }))));
}

#[test]
fn a_service_account_that_is_not_selected_any_more_loses_the_name() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    bench.places.account_is(account("a", "default", "1", &["pull"], "pull"), Some(true));
    assert_eq!(bench.task(), None);
    bench.places.account_gone(&("a".into(), "default".into()));
    let Some((_, task @ Task::Account { .. })) = bench.task() else { panic!("nothing to do") };
    // It was deleted, and not only unselected.
    bench.fail("a", &task, &Refusal::NotFound(String::new()));
    assert_eq!(bench.task(), None);
    assert!(bench.places.is_idle() && !bench.places.has_faults());
}

#[test]
fn a_name_that_somebody_else_put_there_is_theirs() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    bench.places.account_is(account("a", "default", "1", &["pull"], "other"), Some(true));
    assert_eq!(bench.task(), None);
    bench.places.account_gone(&("a".into(), "default".into()));
    assert_eq!(bench.task(), None);
}

#[test]
fn the_rest_of_a_namespace_does_not_wait_for_an_account_that_is_gone() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    for name in ["default", "other"] {
        bench.places.account_is(account("a", name, "1", &[], ""), Some(true));
    }
    let (_, task) = bench.task().unwrap();
    bench.fail("a", &task, &Refusal::NotFound(String::new()));
    assert!(matches!(bench.task(), Some((_, Task::Account { name, .. })) if &*name == "other"));
}

#[test]
fn an_answer_does_not_undo_what_was_seen_meanwhile() {
    let mut bench = Bench::new(named(&["a"]));
    assert!(bench.task().is_some());
    // Somebody removes it at once, and the watch is faster than the answer.
    let made = ours("a", "uid", &bench.text(), true);
    bench.places.secret_is(&made);
    bench.places.secret_gone("a");
    bench.wrote("a");
    bench.make("a");
    // What is seen of something else is no matter.
    bench.places.account_is(account("a", "default", "1", &[], ""), Some(true));
    let (_, task) = bench.task().unwrap();
    assert!(matches!(task, Task::Account { .. }));
    bench.places.secret_is(&made);
    bench.places.done("a", Done::Account(account("a", "default", "2", &["pull"], "pull")));
    assert_eq!(bench.task(), None);
}

#[test]
fn who_changes_it_all_the_time_is_not_raced_with_and_it_is_well_when_they_stop() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.make("a");
    bench.make("b");
    let (mut pauses, mut started) = (Vec::new(), bench.clock.now());
    for _ in 0..30 {
        let changed = ours("a", "uid", &bench.text(), false);
        bench.places.secret_is(&changed);
        while bench.task().is_none() {
            bench.pass(Duration::from_millis(500));
        }
        let pause = bench.clock.now().duration_since(started).unwrap();
        pauses.push(pause.as_secs());
        started = bench.clock.now();
        assert!(bench.wrote("a"));
    }
    assert!(pauses[..10].iter().all(|pause| *pause == 0), "{pauses:?}");
    assert!(pauses[25..].iter().all(|pause| (59..=61).contains(pause)), "{pauses:?}");
    let (fault, names, count) = &bench.summary().faults[0];
    assert_eq!(
        (fault.kind, &names[..], *count),
        (trouble::Kind::TugOfWar, &["a".to_owned()][..], 1)
    );
    assert!(!bench.summary().found.is_empty(), "nobody misses it because of that");
    // The other namespace has nothing to do with it.
    bench.places.secret_gone("b");
    bench.make("b");
    bench.pass(Duration::from_mins(2));
    assert_eq!(bench.task(), None);
    assert!(!bench.places.has_faults());
}

#[test]
fn each_namespace_that_fails_is_tried_again_more_and_more_slowly_by_itself() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    let failed = Refusal::Failed { code: 500, message: "no".to_owned() };
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let started = bench.clock.now();
        while bench.task().is_none() {
            bench.pass(Duration::from_millis(100));
            let at = bench.places.next_at().unwrap();
            assert!(at > bench.clock.now() - Duration::from_secs(1));
        }
        pauses.push(bench.clock.now().duration_since(started).unwrap());
        bench.fail("a", &Task::Make, &failed);
        bench.places.namespace_is(&namespace("b"));
        if !bench.places.all["b"].was_served {
            bench.make("b");
        }
    }
    assert!(pauses[0] < Duration::from_millis(50));
    let is_longer = |pair: &[Duration]| pair[0] <= pair[1] + Duration::from_millis(100);
    assert!(pauses.windows(2).all(is_longer), "{pauses:?}");
    assert!(pauses[9] > Duration::from_secs(10) && pauses[9] <= Duration::from_mins(1));
    while bench.task().is_none() {
        bench.pass(Duration::from_secs(1));
    }
    bench.wrote("a");
    assert!(!bench.places.has_faults());
}

#[test]
fn what_is_forbidden_is_tried_every_minute() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    for _ in 0..5 {
        assert!(bench.task().is_some());
        bench.fail("a", &Task::Make, &forbidden());
        bench.pass(Duration::from_secs(59));
        assert_eq!(bench.task(), None);
        bench.pass(Duration::from_secs(1));
    }
}

#[test]
fn a_conflict_is_looked_at_again_soon_but_not_in_a_circle() {
    let mut bench = Bench::new(named(&["a"]));
    bench.make("a");
    let changed = ours("a", "uid", &bench.text(), false);
    bench.places.secret_is(&changed);
    let mut tries = 0;
    let end = bench.clock.now() + Duration::from_mins(1);
    while bench.clock.now() < end {
        if bench.task().is_some() {
            bench.fail("a", &renew(), &Refusal::Conflict("no".to_owned()));
            assert!(!bench.places.has_faults());
            tries += 1;
        }
        bench.pass(Duration::from_millis(50));
    }
    assert!((3..=15).contains(&tries), "{tries}");
}

#[test]
fn found_is_the_earliest_end_over_all_namespaces() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.make("a");
    let old = bench.text();
    let ends = |bench: &Bench| {
        let found = bench.summary().found;
        found.get(&host("gcr.io")).map(|end| end.duration_since(bench.clock.now()).unwrap())
    };
    bench.pass(Duration::from_mins(30));
    let new = content(&bench.clock, &[("gcr.io", 1), ("quay.io", 12)]);
    bench.places.want(new);
    bench.places.secret_is(&ours("b", "uid", &bench.text(), true));
    let near = |found: Option<Duration>, minutes: u64| {
        let expected = Duration::from_mins(minutes);
        found.is_some_and(|found| found <= expected && found + Duration::from_secs(1) > expected)
    };
    assert!(near(ends(&bench), 30));
    let summary = bench.summary();
    let shown = (summary.counts.wanted, summary.counts.fresh, summary.counts.older);
    assert_eq!(shown, (2, 1, 1));
    let newest = summary.lives[&host("gcr.io")].expires();
    assert!(near(newest.duration_since(bench.clock.now()).ok(), 60), "what is newest there");
    bench.places.secret_is(&ours("a", "uid", &bench.text(), true));
    assert!(near(ends(&bench), 60));
    // One that lacks a registry, and one that says nothing of any.
    let part = content(&bench.clock, &[("quay.io", 12)]);
    bench.places.secret_is(&ours("a", "uid", &part.stamp.text, true));
    assert_eq!(ends(&bench), None);
    assert!(bench.summary().found.contains_key(&host("quay.io")));
    bench.places.secret_is(&ours("a", "uid", "", true));
    assert!(bench.summary().found.is_empty());
    bench.places.secret_is(&ours("a", "uid", &old, true));
    assert!(matches!(bench.places.agreed(), Agreed::Not), "one says this, the other that");
    bench.places.secret_is(&ours("c", "uid", &bench.text(), true));
    let Agreed::On(stamp, _) = bench.places.agreed() else { panic!("most say the same") };
    assert_eq!(stamp.text, bench.text());
}

#[test]
fn a_namespace_without_the_secret_counts_unless_it_has_just_come() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.make("a");
    bench.pass(Duration::from_hours(1));
    bench.places.namespace_is(&namespace("b"));
    assert_eq!(bench.summary().found.len(), 2);
    assert_eq!(bench.summary().counts.missing, 1);
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.summary().found.len(), 2);
    bench.pass(Duration::from_secs(1));
    assert!(bench.summary().found.is_empty());
    bench.make("b");
    assert_eq!(bench.summary().found.len(), 2);
    // Once it was tried, it is not new any more.
    bench.places.namespace_is(&namespace("c"));
    assert!(bench.task().is_some());
    bench.fail("c", &Task::Make, &forbidden());
    assert!(bench.summary().found.is_empty());
}

#[test]
fn where_no_namespace_is_selected_none_misses_anything() {
    let bench = Bench::new(selected());
    assert_eq!(bench.summary().found.len(), 2);
}

#[test]
fn a_foreign_secret_is_told_and_where_it_is() {
    for namespaces in [selected(), named(&["a", "b"])] {
        let mut bench = Bench::new(namespaces);
        bench.places.namespace_is(&namespace("a"));
        bench.places.namespace_is(&namespace("b"));
        bench.places.secret_is(&foreign("b"));
        bench.make("a");
        let summary = bench.summary();
        assert_eq!((summary.counts.foreign, &summary.foreign[..]), (1, &["b".to_owned()][..]));
        assert!(summary.faults.is_empty());
        // The others have it all the same.
        assert_eq!(summary.found.len(), 2);
    }
}

#[test]
fn faults_of_a_kind_are_told_together_with_a_few_names() {
    let mut bench = Bench::new(selected());
    for index in 0..20 {
        bench.places.namespace_is(&namespace(&format!("n{index:02}")));
    }
    let failed = Refusal::Failed { code: 500, message: "no".to_owned() };
    for index in 0..20 {
        let (name, task) = bench.task().unwrap();
        let refusal = if index < 18 { forbidden() } else { failed.clone() };
        bench.fail(&name, &task, &refusal);
    }
    let summary = bench.summary();
    assert_eq!(summary.counts.failing, 20);
    let shown: Vec<_> = summary
        .faults
        .iter()
        .map(|(fault, names, count)| (fault.message.as_str(), names.len(), *count))
        .collect();
    let busy = "the Secret cannot be made: the API server failed with 500: no";
    assert_eq!(shown, [("the Secret cannot be made: no", 5, 18), (busy, 2, 2)]);
}

#[test]
fn a_fault_ends_with_the_namespace_that_had_it() {
    let mut bench = Bench::new(selected());
    bench.places.namespace_is(&namespace("a"));
    bench.places.account_is(account("a", "default", "1", &[], ""), Some(true));
    assert!(bench.task().is_some());
    bench.fail("a", &Task::Make, &forbidden());
    bench.places.namespace_gone("a");
    bench.pass(Duration::from_mins(1));
    assert_eq!(bench.task(), None);
    assert!(!bench.places.has_faults());
}

#[test]
fn a_service_account_that_cannot_be_changed_is_missed_where_namespaces_are_named() {
    for (namespaces, is_missed) in [(named(&["a"]), true), (selected(), false)] {
        let mut bench = Bench::new(namespaces);
        bench.places.namespace_is(&namespace("a"));
        bench.make("a");
        bench.places.account_is(account("a", "default", "1", &[], ""), Some(true));
        let (_, task) = bench.task().unwrap();
        bench.fail("a", &task, &forbidden());
        assert_eq!(bench.summary().found.is_empty(), is_missed);
        assert_eq!(bench.summary().faults.len(), 1);
    }
}

#[test]
fn whoever_only_watches_is_idle_and_knows_all_the_same() {
    let mut bench = Bench::new(selected());
    bench.places.content = None;
    bench.places.namespace_is(&namespace("a"));
    let text = content(&bench.clock, &[("gcr.io", 1), ("quay.io", 1)]).stamp.text.clone();
    bench.places.secret_is(&ours("a", "uid", &text, true));
    bench.places.pass_over(bench.clock.now());
    assert!(bench.places.is_idle());
    assert_eq!(bench.summary().counts.fresh, 1);
    assert_eq!(bench.summary().found.len(), 2);
    bench.pass(Duration::from_mins(1));
    bench.places.pass_over(bench.clock.now());
    assert_eq!(bench.places.next_at(), None);
}

// --- any sequence of events ----------------------------------------------------------------------

/// What an API server has, in short, and what it has not told yet.
struct Model {
    serial: u64,
    namespaces: BTreeMap<String, bool>,
    selected: BTreeSet<String>,
    secrets: BTreeMap<String, ModelSecret>,
    accounts: BTreeMap<String, ModelAccount>,
    /// By kind: they can overtake each other.
    news: [VecDeque<News>; 3],
    /// A foreign one is never changed.
    foreign: BTreeMap<String, u64>,
}

#[derive(Clone)]
struct ModelSecret {
    uid: u64,
    is_foreign: bool,
    text: String,
    is_whole: bool,
}

#[derive(Clone, Default)]
struct ModelAccount {
    version: u64,
    is_selected: bool,
    pulls: Vec<String>,
    note: String,
}

enum News {
    Namespace(Item),
    NamespaceGone(String),
    Secret(Item),
    SecretGone(String),
    Account(Item),
    AccountGone(String),
}

type Answer = (String, Task, String, Option<Result<Done, Refusal>>);

impl Model {
    fn new() -> Self {
        Self {
            serial: 0,
            namespaces: BTreeMap::new(),
            selected: BTreeSet::new(),
            secrets: BTreeMap::new(),
            accounts: BTreeMap::new(),
            news: Default::default(),
            foreign: BTreeMap::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn secret(&self, name: &str) -> Item {
        let secret = &self.secrets[name];
        let uid = secret.uid.to_string();
        if secret.is_foreign {
            foreign(name)
        } else {
            ours(name, &uid, &secret.text, secret.is_whole)
        }
    }

    fn account(&self, name: &str) -> Item {
        let ModelAccount { version, pulls, note, .. } = &self.accounts[name];
        let pulls: Vec<_> = pulls.iter().map(String::as_str).collect();
        account(name, "default", &version.to_string(), &pulls, note)
    }

    fn tell_secret(&mut self, name: &str) {
        let news = if self.secrets.contains_key(name) {
            News::Secret(self.secret(name))
        } else {
            News::SecretGone(name.to_owned())
        };
        self.news[1].push_back(news);
    }

    /// Something happens there.
    fn happen(&mut self, name: &str, what: u8) {
        let serial = self.next();
        let is_there = self.namespaces.contains_key(name);
        let is_going = self.namespaces.get(name) == Some(&true);
        match what {
            0 if !is_there => {
                self.namespaces.insert(name.to_owned(), false);
                if serial.is_multiple_of(3) {
                    self.select(name);
                }
            }
            1 if is_there && !is_going => {
                if self.selected.remove(name) {
                    self.news[0].push_back(News::NamespaceGone(name.to_owned()));
                } else {
                    self.select(name);
                }
            }
            2 if is_there => {
                if is_going {
                    self.namespaces.remove(name);
                    if self.secrets.remove(name).is_some() {
                        self.foreign.remove(name);
                        self.tell_secret(name);
                    }
                    if self.accounts.remove(name).is_some_and(|account| account.is_selected) {
                        self.news[2].push_back(News::AccountGone(name.to_owned()));
                    }
                    if self.selected.remove(name) {
                        self.news[0].push_back(News::NamespaceGone(name.to_owned()));
                    }
                } else {
                    self.namespaces.insert(name.to_owned(), true);
                    if self.selected.contains(name) {
                        self.news[0].push_back(News::Namespace(terminating(name)));
                    }
                }
            }
            3 if is_there && !is_going && !self.secrets.contains_key(name) => {
                let text = String::new();
                let secret = ModelSecret { uid: serial, is_foreign: true, text, is_whole: true };
                self.secrets.insert(name.to_owned(), secret);
                self.foreign.insert(name.to_owned(), serial);
                self.tell_secret(name);
            }
            4 if self.secrets.remove(name).is_some() => {
                self.foreign.remove(name);
                self.tell_secret(name);
            }
            5 => {
                if let Some(secret) = self.secrets.get_mut(name).filter(|one| !one.is_foreign) {
                    secret.is_whole = false;
                    self.tell_secret(name);
                }
            }
            6 if is_there && !is_going => {
                let new = ModelAccount {
                    version: serial,
                    pulls: vec!["theirs".to_owned()],
                    ..ModelAccount::default()
                };
                let account = self.accounts.entry(name.to_owned()).or_insert(new);
                account.version = serial;
                let was_selected = account.is_selected;
                account.is_selected = !was_selected;
                let news = if was_selected {
                    News::AccountGone(name.to_owned())
                } else {
                    News::Account(self.account(name))
                };
                self.news[2].push_back(news);
            }
            7 => {
                if let Some(account) = self.accounts.get_mut(name) {
                    account.version = serial;
                    account.pulls.push(format!("theirs-{serial}"));
                    if account.is_selected {
                        let news = News::Account(self.account(name));
                        self.news[2].push_back(news);
                    }
                }
            }
            _ => {}
        }
    }

    fn select(&mut self, name: &str) {
        self.selected.insert(name.to_owned());
        self.news[0].push_back(News::Namespace(namespace(name)));
    }

    /// Does what a task says, as the API server does.
    fn execute(&mut self, name: &str, task: &Task, text: &str) -> Result<Done, Refusal> {
        let serial = self.next();
        let conflict = || Err(Refusal::Conflict("conflict".to_owned()));
        let Some(is_going) = self.namespaces.get(name).copied() else {
            return Err(Refusal::NotFound("no such namespace".to_owned()));
        };
        let known = self.secrets.get(name).cloned();
        match task {
            Task::Make | Task::Renew { .. } => {
                let uid = match (&known, task) {
                    (Some(secret), Task::Make) if secret.is_foreign => return conflict(),
                    (Some(secret), Task::Renew { uid }) if **uid != *secret.uid.to_string() => {
                        return conflict();
                    }
                    (None, Task::Renew { .. }) => return conflict(),
                    (None, _) if is_going => return Err(Refusal::Terminating),
                    (Some(secret), _) => secret.uid,
                    (None, _) => serial,
                };
                let is_same = known.is_some_and(|known| known.text == text && known.is_whole);
                let secret =
                    ModelSecret { uid, is_foreign: false, text: text.to_owned(), is_whole: true };
                self.secrets.insert(name.to_owned(), secret);
                if !is_same {
                    self.tell_secret(name);
                }
                Ok(Done::Secret(self.secret(name)))
            }
            Task::Remove { uid } => match known {
                None => Err(Refusal::NotFound("no such secret".to_owned())),
                Some(secret) if secret.uid.to_string() != **uid => conflict(),
                Some(_) => {
                    self.secrets.remove(name);
                    self.tell_secret(name);
                    Ok(Done::Removed)
                }
            },
            Task::Account { version, pulls, notes, .. } => {
                let Some(account) = self.accounts.get_mut(name) else {
                    return Err(Refusal::NotFound("no such account".to_owned()));
                };
                if account.version.to_string() != **version {
                    return Ok(Done::Read(self.account(name)));
                }
                account.version = serial;
                account.pulls.clone_from(pulls);
                account.note = notes.of("us").collect::<Vec<_>>().join(",");
                if account.is_selected {
                    let news = News::Account(self.account(name));
                    self.news[2].push_back(news);
                }
                Ok(Done::Account(self.account(name)))
            }
        }
    }

    fn tell(&mut self, kind: usize, places: &mut Places) -> bool {
        let is_watched = kind != 0 || !places.is_named();
        match self.news[kind].pop_front() {
            None => return false,
            Some(_) if !is_watched => {}
            Some(News::Namespace(item)) => places.namespace_is(&item),
            Some(News::NamespaceGone(name)) => places.namespace_gone(&name),
            Some(News::Secret(item)) => places.secret_is(&item),
            Some(News::SecretGone(name)) => places.secret_gone(&name),
            Some(News::Account(item)) => places.account_is(item, Some(true)),
            Some(News::AccountGone(name)) => {
                places.account_gone(&(name.as_str().into(), "default".into()));
            }
        }
        true
    }

    /// Whether everything is as it should be there.
    fn check(&self, name: &str, is_wanted: bool, text: &str) -> Result<(), String> {
        let secret = self.secrets.get(name);
        let has_ours = secret.is_some_and(|secret| !secret.is_foreign);
        let is_served =
            secret.is_some_and(|one| !one.is_foreign && one.is_whole && one.text == text);
        let is_foreign = secret.is_some_and(|secret| secret.is_foreign);
        if is_wanted && !is_served && !is_foreign {
            return Err(format!("{name} is not served"));
        }
        if !is_wanted && has_ours {
            return Err(format!("{name} still has it"));
        }
        if let Some(account) = self.accounts.get(name) {
            let has = account.pulls.iter().any(|pull| pull == "pull");
            let is_to_have = is_wanted && account.is_selected && is_served;
            if has != is_to_have && !(is_wanted && is_foreign) {
                return Err(format!("the account of {name}: {has} and not {is_to_have}"));
            }
            if !account.pulls.iter().any(|pull| pull == "theirs") {
                return Err(format!("the account of {name} has lost a name of somebody else's"));
            }
        }
        Ok(())
    }
}

/// Lets happen what is listed, and then lets it all come to rest.
fn play(namespaces: Namespaces, steps: &[(u8, u8, u8)]) -> Result<(), String> {
    let mut bench = Bench::new(namespaces);
    let names = ["a", "b", "c"];
    let mut model = Model::new();
    let mut answers: Vec<Answer> = Vec::new();
    for (what, name, choice) in steps {
        let name = names[usize::from(*name) % names.len()];
        match what {
            0..=7 => model.happen(name, *what),
            8..=10 => {
                model.tell(usize::from(what - 8), &mut bench.places);
            }
            11 | 12 => {
                if let Some((name, task)) = bench.task() {
                    answers.push((name, task, bench.text(), None));
                }
            }
            // It arrives, or does not.
            13 => {
                let waiting = answers.iter_mut().filter(|(.., answer)| answer.is_none()).count();
                if waiting > 0 {
                    let index = usize::from(*choice) % waiting;
                    let mut open = answers.iter_mut().filter(|(.., answer)| answer.is_none());
                    let (name, task, text, answer) = open.nth(index).unwrap();
                    *answer = Some(match choice % 16 {
                        0 => Err(forbidden()),
                        1 => Err(Refusal::Failed { code: 500, message: String::new() }),
                        2 => Err(Refusal::Immutable),
                        // It is done, and the answer is lost.
                        3 => {
                            drop(model.execute(name, task, text));
                            Err(Refusal::TimedOut(Duration::from_secs(15)))
                        }
                        _ => model.execute(name, task, text),
                    });
                }
            }
            14 => {
                let done = answers.iter().position(|(.., answer)| answer.is_some());
                if let Some(index) = done {
                    settle(&mut bench, answers.swap_remove(index));
                }
            }
            15 => {
                bench.pass(Duration::from_secs(u64::from(*choice)));
                if *choice > 250 {
                    let new = content(&bench.clock, &[("gcr.io", 1), ("quay.io", 12)]);
                    bench.places.want(new);
                }
            }
            _ => unreachable!(),
        }
    }
    for (name, task, text, answer) in answers {
        let answer = answer.unwrap_or_else(|| model.execute(&name, &task, &text));
        settle(&mut bench, (name, task, text, Some(answer)));
    }
    for _ in 0..100 {
        while (0..3).any(|kind| model.tell(kind, &mut bench.places)) {}
        if let Some((name, task)) = bench.task() {
            let text = bench.text();
            let answer = model.execute(&name, &task, &text);
            settle(&mut bench, (name, task, text, Some(answer)));
        } else {
            bench.pass(Duration::from_secs(30));
        }
    }
    let next = bench.task();
    // A namespace that is named and not there is tried for ever.
    if !bench.places.is_named() && (next.is_some() || !bench.places.is_idle()) {
        return Err(format!("it does not come to rest: {next:?}"));
    }
    for name in model.namespaces.iter().filter(|(_, is_going)| !**is_going).map(|(name, _)| name) {
        let is_wanted = match &bench.places.options.namespaces {
            Namespaces::Named(names) => names.contains(name),
            Namespaces::Selected { .. } => model.selected.contains(name),
        };
        model.check(name, is_wanted, &bench.text())?;
    }
    for (name, uid) in &model.foreign {
        let known = model.secrets.get(name);
        if !known.is_some_and(|known| known.is_foreign && known.uid == *uid) {
            return Err(format!("what somebody else has in {name} was touched"));
        }
    }
    Ok(())
}

fn settle(bench: &mut Bench, (name, task, _, answer): Answer) {
    match answer.unwrap() {
        Ok(done) => {
            bench.places.done(&name, done);
        }
        Err(refusal) if refusal.is_of_the_cluster() => bench.places.put_off(&name),
        Err(refusal) => bench.fail(&name, &task, &refusal),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_happens_it_ends_as_it_should_be_and_what_is_foreign_is_not_touched(
        steps in prop::collection::vec((0..16_u8, 0..3_u8, any::<u8>()), 1..150),
        is_named in any::<bool>(),
    ) {
        let namespaces = if is_named { named(&["a", "b"]) } else { selected() };
        prop_assert_eq!(play(namespaces, &steps), Ok(()));
    }
}
