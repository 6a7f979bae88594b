use std::path::Path;

use super::*;
use std::collections::BTreeMap;

use crate::credential::Lifetime;
use crate::registry::Answer;
use crate::schedule::{Next, Reason};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

/// One registry, one target, and a simulated clock.
fn status() -> Status {
    let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
    Status::new(
        clock.clone(),
        [(host("gcr.io"), Origin::Google(None))],
        [(PathBuf::from("/config.json"), "docker")],
    )
}

/// A token that was fetched and stands in the file.
fn fetch(status: &Status, length: Duration) {
    let now = status.clock.now();
    let life = Lifetime::new(now, now + length);
    status.set_registry(&host("gcr.io"), |registry| {
        registry.lifetime = Some(life);
        registry.last_success = Some(now);
        registry.last_attempt = Some(now);
        registry.next = Some(Next { at: now + length / 2, reason: Reason::HalfLife });
    });
    status.set_target(&Path::new("/config.json").into(), |target| {
        target.looked = Some(status.clock.monotonic());
        target.verified = Some(now);
        target.found = BTreeMap::from([(host("gcr.io"), life.expires())]);
    });
}

fn fail(status: &Status) {
    status.set_registry(&host("gcr.io"), |registry| {
        let message = "cannot reach it".to_owned();
        registry.failing = Some(Failing::after(
            registry.failing.as_ref(),
            status.clock.now(),
            trouble::Kind::Unreachable,
            message,
        ));
    });
}

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn nothing_is_ready_before_the_first_credential() {
    let report = status().report();
    assert_eq!(report.status, Verdict::Fail);
    assert_eq!(report.output, ["gcr.io: there is no credential yet"]);
}

#[tokio::test(start_paused = true)]
async fn ready_ends_in_the_second_in_which_the_credential_does() {
    let status = status();
    fetch(&status, HOUR);
    status.clock.sleep(HOUR - Duration::from_secs(1)).await;
    let report = status.report();
    assert!(report.is_ready());
    status.clock.sleep(Duration::from_secs(1)).await;
    let report = status.report();
    assert!(!report.is_ready());
    assert_eq!(report.output, ["gcr.io: the credential expired 0s ago"]);
    assert_eq!(report.checks.credentials[0].observed_value, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_valid_credential_whose_renewal_fails_is_ready_with_a_warning() {
    let status = status();
    fetch(&status, HOUR);
    fail(&status);
    let since = status.report().time;
    status.clock.sleep(Duration::from_mins(1)).await;
    fail(&status);
    let report = status.report();
    assert_eq!(report.status, Verdict::Warn);
    assert!(report.is_ready());
    assert_eq!(report.output, ["gcr.io: renewals fail: cannot reach it"]);
    let check = &report.checks.credentials[0];
    assert_eq!(check.consecutive_failures, 2);
    assert_eq!(check.last_error.as_ref().unwrap().since.as_ref(), Some(&since));
}

#[tokio::test(start_paused = true)]
async fn an_older_token_in_the_file_counts_with_its_own_expiry() {
    let status = status();
    fetch(&status, HOUR);
    let now = status.clock.now();
    status.set_target(&Path::new("/config.json").into(), |target| {
        target.found = BTreeMap::from([(host("gcr.io"), now + Duration::from_secs(10))]);
    });
    assert!(status.report().is_ready());
    status.clock.sleep(Duration::from_secs(10)).await;
    assert_eq!(status.report().output, ["gcr.io: the one in /config.json has expired"]);
}

#[tokio::test(start_paused = true)]
async fn what_hides_an_entry_makes_it_not_ready() {
    let status = status();
    fetch(&status, HOUR);
    let since = status.clock.now();
    let obstacle = |hidden| InTheWay {
        kind: trouble::Kind::CredHelper,
        message: "a helper".to_owned(),
        hidden,
        since,
    };
    status.set_target(&Path::new("/config.json").into(), |target| {
        target.in_the_way = vec![obstacle(vec![host("gcr.io")])];
    });
    let report = status.report();
    assert!(!report.is_ready());
    assert!(report.output[0].contains("docker passes by it in /config.json: a helper"));
    // Somebody else's entry is their matter.
    status.set_target(&Path::new("/config.json").into(), |target| {
        target.in_the_way = vec![obstacle(vec![])];
    });
    assert!(status.report().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_answer_does_not_hold_up_an_answer() {
    let status = status();
    fetch(&status, HOUR);
    status.clock.sleep(Duration::from_mins(1)).await;
    let asked = status.clock.monotonic();
    assert!(status.fresh_report().await.is_ready());
    assert_eq!(status.clock.monotonic() - asked, LOOK_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_look_at_for_half_a_minute_nobody_knows() {
    let status = status();
    fetch(&status, HOUR);
    status.clock.sleep(HOUR / 2).await;
    // Nobody has asked for long, so nobody has looked.
    assert!(status.fresh_report().await.is_ready());
    status.clock.sleep(readiness::UNSEEN_AFTER - LOOK_LIMIT * 2).await;
    let asked = status.clock.monotonic();
    assert!(status.fresh_judgement().await.is_ready);
    assert_eq!(status.clock.monotonic(), asked, "it is waited for once");
    status.clock.sleep(LOOK_LIMIT * 2).await;
    assert!(!status.fresh_judgement().await.is_ready);
    let report = status.fresh_report().await;
    assert_eq!(report.checks.credentials[0].not_ready.as_ref().unwrap().kind, "unseen");
    assert_eq!(report.checks.targets[0].status, Verdict::Fail);
    // The look comes at last.
    status.set_target(&Path::new("/config.json").into(), |target| {
        target.looked = Some(status.clock.monotonic());
    });
    assert!(status.fresh_judgement().await.is_ready);
    // Later on it is another one that is wanted.
    status.clock.sleep(HOUR / 10).await;
    assert!(status.fresh_judgement().await.is_ready);
}

/// The registry was asked about the token that expires then.
fn ask_registry(status: &Status, expires: SystemTime, is_taken: bool) {
    let refused = || Answer::Refused { detail: "401".to_owned() };
    let answer = if is_taken { Answer::Taken } else { refused() };
    let at = status.clock.now();
    status.set_registry(&host("gcr.io"), |registry| {
        registry.hear(Verified { at, answer, expires });
    });
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_refuses_is_the_token_that_stands_in_the_file() {
    let status = status();
    fetch(&status, HOUR);
    let old = status.clock.now() + HOUR;
    ask_registry(&status, old, false);
    assert!(!status.judgement().is_ready);
    // A new one is taken, and cannot be written.
    status.clock.sleep(HOUR / 2).await;
    let now = status.clock.now();
    let new = Lifetime::new(now, now + HOUR);
    status.set_registry(&host("gcr.io"), |registry| registry.lifetime = Some(new));
    ask_registry(&status, new.expires(), true);
    assert!(!status.judgement().is_ready, "the old one stands in the file");
    status.set_target(&Path::new("/config.json").into(), |target| {
        target.found = BTreeMap::from([(host("gcr.io"), new.expires())]);
    });
    assert!(status.judgement().is_ready);
    ask_registry(&status, new.expires(), false);
    assert!(!status.judgement().is_ready);
    ask_registry(&status, new.expires(), true);
    assert!(status.judgement().is_ready);
    ask_registry(&status, new.expires(), false);
    status.set_registry(&host("gcr.io"), Registry::forget_verification);
    assert!(status.judgement().is_ready);
}

#[tokio::test(start_paused = true)]
async fn a_file_and_its_metrics_are_as_good_as_what_stands_in_it() {
    let status = status();
    assert_eq!(status.report().checks.targets[0].status, Verdict::Fail, "there is nothing yet");
    fetch(&status, HOUR);
    let since = status.clock.now();
    let twin = InTheWay {
        kind: trouble::Kind::Twin,
        message: "a twin".to_owned(),
        hidden: Vec::new(),
        since,
    };
    status.set_target(&Path::new("/config.json").into(), |target| target.in_the_way = vec![twin]);
    assert_eq!(status.report().checks.targets[0].status, Verdict::Warn);
    let ready = "freshcreds_target_ready{target=\"/config.json\"} 1";
    let hidden = "freshcreds_in_the_way{target=\"/config.json\",kind=\"twin\"} 1";
    let text = status.metrics_text(status.judgement());
    assert!(text.contains(ready) && text.contains(hidden), "{text}");
    status.clock.sleep(HOUR).await;
    assert_eq!(status.report().checks.targets[0].status, Verdict::Fail);
    let text = status.metrics_text(status.judgement());
    assert!(!text.contains(ready) && text.contains("freshcreds_ready 0"), "{text}");
    // A target that the settings no longer name has nothing in its way.
    status.follow([(host("gcr.io"), Origin::Google(None))], [], []);
    assert!(
        !status.metrics_text(status.judgement()).contains("in_the_way{"),
        "{}",
        status.metrics_text(status.judgement())
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_cloud_or_a_disk_turns_and_who_waits_for_nothing_hangs() {
    let status = status();
    let clock = status.clock.clone();
    let waiting = clock.clone();
    let work = async move { waiting.attend(std::future::pending::<()>()).await };
    let attending = tokio::spawn(status.pulse().watch(work));
    clock.sleep(HOUR).await;
    assert!(status.is_live());
    let lost = tokio::spawn(status.pulse().watch(std::future::pending::<()>()));
    clock.sleep(PULSE_LIMIT * 2).await;
    assert!(!status.is_live());
    attending.abort();
    lost.abort();
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_is_noticed_and_one_that_only_waits_is_not() {
    let status = status();
    let (good, bad) = (status.pulse(), status.pulse());
    let clock = status.clock.clone();
    let good = tokio::spawn(good.watch({
        let clock = clock.clone();
        async move { clock.sleep(HOUR * 10).await }
    }));
    clock.sleep(HOUR).await;
    assert!(!status.is_live(), "the second loop never turns");

    let bad = tokio::spawn(bad.watch({
        let clock = clock.clone();
        async move { clock.sleep(HOUR * 10).await }
    }));
    clock.sleep(HOUR).await;
    assert!(status.is_live());
    good.abort();
    clock.sleep(PULSE_LIMIT * 2).await;
    assert!(!status.is_live());
    bad.abort();
}

#[tokio::test(start_paused = true)]
async fn the_form_of_a_report_is_kept() {
    let status = status();
    fetch(&status, HOUR);
    status.clock.sleep(Duration::from_mins(1)).await;
    fail(&status);
    insta::assert_json_snapshot!(status.report());
}

#[tokio::test(start_paused = true)]
async fn a_report_can_be_read_back() {
    let status = status();
    let report = status.report();
    let text = serde_json::to_string(&report).unwrap();
    let back: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}
