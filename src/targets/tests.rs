use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::credential::{Credential, Lifetime};
use crate::sources::Origin;

/// A target on a real file, with a simulated clock.
struct Bench {
    folder: TempDir,
    status: Arc<Status>,
    wanted: tokio::sync::watch::Sender<Wanted>,
    target: Target,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        Self::at(folder, path)
    }

    fn with(content: &str) -> Self {
        let bench = Self::new();
        fs::File::create(bench.path()).unwrap();
        put(&bench.path(), content);
        bench
    }

    fn configured(content: &str, change: impl FnOnce(&mut Options, &mut Shared)) -> Self {
        let mut bench = Self::with(content);
        let state = bench.folder.path().join("state");
        bench.target.shared = shared(Some(&state));
        change(&mut bench.target.options, &mut bench.target.shared);
        bench
    }

    fn expire(&self, word: &str) {
        let now = self.clock.now();
        let life = Lifetime::new(now - Duration::from_hours(1), now - Duration::from_mins(1));
        let credential = Credential::new("user", SecretString::from(word), life).unwrap();
        self.wanted.send_replace(Wanted::from([(host(), credential)]));
    }

    fn at(folder: TempDir, path: PathBuf) -> Self {
        // Real time, since files have real time stamps.
        let clock = Clock::system();
        let registries = [(host(), Origin::Google(None))];
        let status = Arc::new(Status::new(clock.clone(), registries, [(path.clone(), "docker")]));
        let wanted = tokio::sync::watch::Sender::new(Wanted::new());
        let dice = fastrand::Rng::with_seed(7);
        let options = Options::of(path);
        let target = Target::new(
            options,
            shared(None),
            clock.clone(),
            Arc::clone(&status),
            wanted.subscribe(),
            dice,
        );
        Self { folder, status, wanted, target, clock }
    }

    fn path(&self) -> PathBuf {
        self.target.options.path.clone()
    }

    fn publish(&self, word: &str) {
        let now = self.clock.now();
        let life = Lifetime::new(now, now + Duration::from_hours(1));
        let credential = Credential::new("user", SecretString::from(word), life).unwrap();
        self.status.set_registry(&host(), |registry| registry.lifetime = Some(life));
        self.wanted.send_modify(|wanted| {
            wanted.insert(host(), credential);
        });
    }

    fn content(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn state(&self) -> crate::status::Report {
        self.status.report()
    }

    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(leftovers::TEMPORARY_PREFIX)).collect()
    }
}

fn shared(state: Option<&Path>) -> Shared {
    let memory = Memory::new(state.map(Path::to_owned));
    Shared { remove_expired: false, in_environment: Arc::new([]), memory }
}

fn host() -> RegistryHost {
    "gcr.io".parse().unwrap()
}

fn auth(word: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("user:{word}"))
}

#[expect(clippy::disallowed_methods, reason = "another program that writes in place")]
fn put(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn a_missing_file_and_folder_are_made_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/config.json");
    let mut bench = Bench::at(folder, path.clone());
    bench.publish("one");
    assert!(bench.target.run_once().await);
    assert!(bench.content().contains(&auth("one")));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    assert!(bench.state().is_ready());
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let mut bench = Bench::new();
    bench.publish("one");
    assert!(bench.target.run_once().await);
    let before = fs::metadata(bench.path()).unwrap();
    assert!(bench.target.run_once().await);
    let after = fs::metadata(bench.path()).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
}

#[tokio::test]
async fn no_file_is_made_before_there_is_a_credential() {
    let mut bench = Bench::new();
    assert!(bench.target.run_once().await);
    assert!(!bench.path().exists());
    assert!(!bench.state().is_ready());
}

#[tokio::test]
async fn mode_and_owner_of_the_old_file_are_kept() {
    for mode in [0o644, 0o640, 0o400] {
        let mut bench = Bench::with("{}");
        fs::set_permissions(bench.path(), fs::Permissions::from_mode(mode)).unwrap();
        // Only root can give a file away; the tests that need it run as root.
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(bench.path(), Some(1000), Some(0)).unwrap();
        }
        bench.publish("one");
        assert!(bench.target.run_once().await);
        let after = fs::metadata(bench.path()).unwrap();
        assert_eq!(after.mode() & 0o777, mode);
        if is_root {
            assert_eq!((after.uid(), after.gid()), (1000, 0));
        }
    }
}

#[tokio::test]
async fn a_link_is_followed_and_stays() {
    let mut bench = Bench::new();
    let elsewhere = bench.folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let real = elsewhere.join("real.json");
    put(&real, r#"{"auths":{"a.io":{"auth":"eDp5"}}}"#);
    symlink("elsewhere/middle.json", bench.path()).unwrap();
    symlink("real.json", elsewhere.join("middle.json")).unwrap();
    bench.publish("one");
    assert!(bench.target.run_once().await);
    assert!(fs::symlink_metadata(bench.path()).unwrap().is_symlink());
    assert!(fs::symlink_metadata(elsewhere.join("middle.json")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&real).unwrap().is_file());
    assert!(fs::read_to_string(&real).unwrap().contains(&auth("one")));
}

#[tokio::test]
async fn a_dangling_link_gets_the_file_that_it_leads_to() {
    let mut bench = Bench::new();
    symlink("later/config.json", bench.path()).unwrap();
    bench.publish("one");
    assert!(bench.target.run_once().await);
    assert!(bench.folder.path().join("later/config.json").is_file());
}

#[tokio::test]
async fn an_invalid_file_is_never_overwritten() {
    for invalid in [r#"{"auths":{"a"#, "[]", "\u{feff}{}", "# a comment\n{}"] {
        let mut bench = Bench::with(invalid);
        bench.publish("one");
        assert!(!bench.target.run_once().await);
        assert_eq!(bench.content(), invalid);
        let report = bench.state();
        assert!(!report.is_ready());
        let error = report.checks.targets[0].last_error.clone().unwrap();
        assert_eq!(error.kind, "invalid");
        assert!(error.message.contains("is left as it is"), "{}", error.message);
        assert!(bench.leftovers().is_empty());
    }
}

#[tokio::test]
async fn a_repaired_file_is_written_and_the_trouble_is_over() {
    let mut bench = Bench::with("{");
    bench.publish("one");
    assert!(!bench.target.run_once().await);
    put(&bench.path(), "{}");
    assert!(bench.target.run_once().await);
    assert!(bench.state().is_ready());
    assert!(bench.state().checks.targets[0].last_error.is_none());
}

#[tokio::test]
async fn what_is_no_file_is_refused_by_its_name() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path()).unwrap();
    bench.publish("one");
    assert!(!bench.target.run_once().await);
    let error = bench.state().checks.targets[0].last_error.clone().unwrap();
    assert_eq!(error.kind, "not_a_file");
    assert!(error.message.contains("is a folder"), "{}", error.message);

    fs::remove_dir(bench.path()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.path(), rustix::fs::Mode::RWXU).unwrap();
    assert!(!bench.target.run_once().await);
    let error = bench.state().checks.targets[0].last_error.clone().unwrap();
    assert!(error.message.contains("is a pipe"), "{}", error.message);
}

#[tokio::test]
async fn a_circle_of_links_is_refused() {
    let mut bench = Bench::new();
    symlink("config.json", bench.path()).unwrap();
    bench.publish("one");
    assert!(!bench.target.run_once().await);
    assert_eq!(bench.state().checks.targets[0].last_error.clone().unwrap().kind, "link_circle");
}

#[tokio::test]
async fn an_entry_that_another_program_takes_away_comes_back() {
    let mut bench = Bench::new();
    bench.publish("one");
    assert!(bench.target.run_once().await);
    put(&bench.path(), r#"{"auths":{"a.io":{"auth":"eDp5"}}}"#);
    assert!(bench.target.run_once().await);
    assert!(bench.content().contains(&auth("one")) && bench.content().contains("a.io"));
}

#[tokio::test]
async fn readiness_is_of_what_stands_in_the_file_not_of_what_was_fetched() {
    let mut bench = Bench::new();
    bench.publish("one");
    // Fetched, and not written yet.
    assert!(!bench.state().is_ready());
    assert!(bench.target.run_once().await);
    assert!(bench.state().is_ready());
    // A new one that cannot be written: the old one still stands there, and lives.
    bench.publish("two");
    bench.target.reconcile(false).await;
    assert!(bench.state().is_ready());
    assert!(bench.content().contains(&auth("one")));
    // Someone puts a token there that we know nothing of.
    put(&bench.path(), r#"{"auths":{"gcr.io":{"auth":"eDp5"}}}"#);
    bench.target.reconcile(false).await;
    let report = bench.state();
    assert!(!report.is_ready());
    assert!(report.output[0].contains("it is not in"), "{:?}", report.output);
}

#[tokio::test]
async fn a_creds_store_makes_it_not_ready_since_docker_would_pass_by() {
    let mut bench = Bench::with(r#"{"credsStore":"desktop"}"#);
    bench.publish("one");
    assert!(bench.target.run_once().await, "it is written all the same");
    let report = bench.state();
    assert!(!report.is_ready());
    assert_eq!(report.checks.targets[0].in_the_way[0].kind, "creds_store");
    assert!(report.output[0].contains("remove `credsStore`"), "{:?}", report.output);
}

#[tokio::test]
async fn a_stop_finishes_what_was_fetched() {
    let bench = Bench::new();
    let path = bench.path();
    let (stop, wanted) = (CancellationToken::new(), bench.wanted.clone());
    let loops = tokio::spawn(bench.target.run(stop.clone()));
    bench.status.wait_for(|state| state.targets[0].looked.is_some()).await;
    let now = bench.clock.now();
    let life = Lifetime::new(now, now + Duration::from_hours(1));
    let credential = Credential::new("user", SecretString::from("last"), life).unwrap();
    wanted.send_replace(Wanted::from([(host(), credential)]));
    stop.cancel();
    loops.await.unwrap();
    assert!(fs::read_to_string(path).unwrap().contains(&auth("last")));
}

#[tokio::test]
async fn a_probe_makes_the_loop_look_and_repair() {
    let bench = Bench::new();
    let path = bench.path();
    bench.publish("one");
    let stop = CancellationToken::new();
    let loops = tokio::spawn(bench.target.run(stop.clone()));
    assert!(bench.status.fresh_report().await.is_ready());
    fs::remove_file(&path).unwrap();
    // The last look is good for a second.
    bench.clock.sleep(Duration::from_millis(1100)).await;
    bench.status.fresh_report().await;
    bench.status.wait_for(|state| state.targets[0].found.contains_key(&host())).await;
    assert!(path.is_file());
    stop.cancel();
    loops.await.unwrap();
}

#[test]
fn without_docker_config_it_is_the_home_folder() {
    let path = default_docker_config(None).unwrap();
    assert!(path.ends_with(".docker/config.json"));
    assert_eq!(default_docker_config(Some(Path::new("/x"))).unwrap(), Path::new("/x/config.json"));
}

#[tokio::test]
async fn what_root_makes_in_somebodys_folder_is_theirs() {
    // Nobody else can give anything away.
    let owner = if rustix::process::geteuid().is_root() {
        4711
    } else {
        rustix::process::geteuid().as_raw()
    };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(owner), None).unwrap();
    let path = folder.path().join("a/b/config.json");
    let mut bench = Bench::at(folder, path.clone());
    bench.publish("one");
    assert!(bench.target.run_once().await);
    for made in [path.as_path(), path.parent().unwrap(), path.parent().unwrap().parent().unwrap()] {
        assert_eq!(fs::metadata(made).unwrap().uid(), owner, "{}", made.display());
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn an_expired_entry_stays_unless_the_settings_say_otherwise() {
    for remove in [false, true] {
        let content = r#"{"auths":{"a.io":{"auth":"eDp5"}}}"#;
        let mut bench = Bench::configured(content, |_, shared| shared.remove_expired = remove);
        bench.publish("one");
        assert!(bench.target.run_once().await);
        bench.expire("one");
        assert!(bench.target.run_once().await);
        assert_eq!(bench.content().contains(&auth("one")), !remove);
        assert!(bench.content().contains("a.io"));
        assert!(!bench.state().is_ready());
        if remove {
            assert_eq!(bench.content(), content);
        }
    }
}

#[tokio::test]
async fn an_expired_entry_of_somebody_else_is_not_removed() {
    let content = r#"{"auths":{"gcr.io":{"auth":"eDp5"}}}"#;
    let mut bench = Bench::configured(content, |_, shared| shared.remove_expired = true);
    bench.expire("one");
    assert!(bench.target.run_once().await);
    assert_eq!(bench.content(), content);
}

#[tokio::test]
async fn taken_over_docker_reads_the_entry_and_logout_gives_all_back() {
    for content in [
        r#"{"credsStore":"desktop","auths":{"a.io":{"auth":"eDp5"}}}"#,
        r#"{"auths":{"a.io":{"auth":"eDp5"}},"credHelpers":{"gcr.io":"gcr","b.io":"x"}}"#,
    ] {
        let mut bench = Bench::configured(content, |options, _| options.hidden = Hidden::TakeOver);
        bench.publish("one");
        assert!(bench.target.run_once().await);
        assert!(bench.state().is_ready(), "{:?}", bench.state().output);
        let value: serde_json::Value = serde_json::from_str(&bench.content()).unwrap();
        assert_eq!(value["credHelpers"]["gcr.io"], "");
        // A second write does not forget what was there first.
        bench.publish("two");
        assert!(bench.target.run_once().await);

        let options = [bench.target.options.clone()];
        let results = logout(&options, &bench.target.shared.memory).await.unwrap();
        assert!(matches!(results[..], [(_, Ok(true))]), "{results:?}");
        let after = bench.content().replace(r#","credHelpers":{}"#, "");
        assert_eq!(after, content);
    }
}

#[tokio::test]
async fn a_twin_is_removed_only_where_that_was_asked_for() {
    let content = r#"{"auths":{"https://gcr.io":{"auth":"eDp5"},"a.io":{"auth":"eDp5"}}}"#;
    for (hidden, stays) in [(Hidden::Report, true), (Hidden::TakeOver, false)] {
        let mut bench = Bench::configured(content, |options, _| options.hidden = hidden);
        bench.publish("one");
        assert!(bench.target.run_once().await);
        assert_eq!(bench.content().contains("https://gcr.io"), stays);
        assert!(bench.content().contains("a.io") && bench.state().is_ready());
        let kinds: Vec<_> =
            bench.state().checks.targets[0].in_the_way.iter().map(|one| one.kind.clone()).collect();
        assert_eq!(kinds, if stays { vec!["twin"] } else { vec![] });
    }
}

#[tokio::test]
async fn logout_removes_what_was_written_and_nothing_else() {
    let content = "{\n  \"auths\": {\n    \"a.io\": { \"auth\": \"eDp5\" }\n  },\n  \"x\": 1\n}\n";
    let mut bench = Bench::configured(content, |_, _| {});
    bench.publish("one");
    assert!(bench.target.run_once().await);
    let options = [bench.target.options.clone()];
    let memory = bench.target.shared.memory.clone();
    // An older one of ours that another program brought back is ours too.
    let old = bench.content();
    bench.publish("two");
    assert!(bench.target.run_once().await);
    put(&bench.path(), &old);
    let results = logout(&options, &memory).await.unwrap();
    assert!(matches!(results[..], [(_, Ok(true))]), "{results:?}");
    assert_eq!(bench.content(), content);
    assert!(logout(&options, &memory).await.unwrap().is_empty(), "it is forgotten then");
}

#[tokio::test]
async fn logout_leaves_what_somebody_else_has_put_there_since() {
    let mut bench = Bench::configured("{}", |_, _| {});
    bench.publish("one");
    assert!(bench.target.run_once().await);
    let theirs = r#"{"auths":{"gcr.io":{"auth":"eDp5"}}}"#;
    put(&bench.path(), theirs);
    let options = [bench.target.options.clone()];
    let results = logout(&options, &bench.target.shared.memory).await.unwrap();
    assert!(matches!(results[..], [(_, Ok(false))]), "{results:?}");
    assert_eq!(bench.content(), theirs);
}

#[tokio::test]
async fn what_is_remembered_is_no_secret_and_for_its_owner_only() {
    let mut bench = Bench::configured("{}", |_, _| {});
    bench.publish("do-not-print");
    assert!(bench.target.run_once().await);
    let state = bench.folder.path().join("state");
    let text = fs::read_to_string(state.join("state.json")).unwrap();
    assert!(!text.contains("do-not-print") && !text.contains(&auth("do-not-print")), "{text}");
    assert_eq!(fs::metadata(state.join("state.json")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_token_of_an_earlier_run_is_known_again() {
    let mut bench = Bench::configured("{}", |_, _| {});
    bench.publish("one");
    assert!(bench.target.run_once().await);
    let remembered = bench.target.shared.memory.load().unwrap();
    let options = [bench.target.options.clone()];
    let origin = Origin::Google(None).fingerprint().unwrap();
    let known = recall(&options, &remembered, &[host()], &origin, &bench.clock).unwrap();
    assert_eq!(known.auth().expose_secret(), auth("one"));
    assert!(known.lifetime().left(bench.clock.now()) > Duration::from_mins(59));
    assert!(recall(&options, &remembered, &[host()], "another", &bench.clock).is_none());
    // One that somebody else put there is not ours.
    put(&bench.path(), r#"{"auths":{"gcr.io":{"auth":"eDp5"}}}"#);
    assert!(recall(&options, &remembered, &[host()], &origin, &bench.clock).is_none());
}

#[tokio::test]
async fn owner_group_and_mode_are_as_the_settings_say() {
    let attributes = Attributes { owner: None, group: None, mode: Some(0o640) };
    let mut bench = Bench::configured("{}", |options, _| options.attributes = attributes);
    bench.publish("one");
    assert!(bench.target.run_once().await);
    assert_eq!(fs::metadata(bench.path()).unwrap().mode() & 0o777, 0o640);
    // Docker keeps the mode it finds; if someone changes it, it is put right.
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(bench.target.run_once().await);
    assert_eq!(fs::metadata(bench.path()).unwrap().mode() & 0o777, 0o640);
    assert!(bench.content().contains(&auth("one")));
    if rustix::process::geteuid().is_root() {
        bench.target.options.attributes.owner = Some(4711);
        bench.target.options.attributes.group = Some(4712);
        assert!(bench.target.run_once().await);
        let after = fs::metadata(bench.path()).unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode() & 0o777), (4711, 4712, 0o640));
    }
}

#[tokio::test]
async fn in_place_the_inode_stays() {
    let content = r#"{"auths":{"a.io":{"auth":"eDp5"}},"x":1}"#;
    let mut bench = Bench::configured(content, |options, _| options.write = Write::InPlace);
    let inode = fs::metadata(bench.path()).unwrap().ino();
    for word in ["one", "a-much-longer-one", "x"] {
        bench.publish(word);
        assert!(bench.target.run_once().await, "{:?}", bench.state().output);
        assert!(bench.content().contains(&auth(word)) && bench.content().ends_with(r#""x":1}"#));
        assert_eq!(fs::metadata(bench.path()).unwrap().ino(), inode);
    }
    assert_eq!(bench.state().checks.targets[0].protection.as_deref(), Some("in place"));
    let state = fs::read_dir(bench.folder.path().join("state")).unwrap();
    let names: Vec<_> = state.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["state.json"], "the copy is gone");
}

#[tokio::test]
async fn in_place_a_reader_that_has_the_file_open_is_waited_for() {
    let mut bench = Bench::configured("{}", |options, _| options.write = Write::InPlace);
    bench.publish("one");
    let reader = fs::File::open(bench.path()).unwrap();
    let path = bench.path();
    let wait = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        let half = fs::read_to_string(path);
        drop(reader);
        half
    });
    assert!(bench.target.run_once().await);
    assert_eq!(wait.join().unwrap().unwrap(), "{}");
    assert!(bench.content().contains(&auth("one")));
}

#[tokio::test]
async fn in_place_a_write_that_was_killed_is_mended() {
    for point in ["write in place", "cut in place", "remove the copy"] {
        let content =
            format!(r#"{{"auths":{{"gcr.io":{{"auth":"{}"}}}},"x":1}}"#, auth("long-old"));
        let bench = Bench::configured(&content, |options, _| options.write = Write::InPlace);
        bench.publish("new");
        let options = bench.target.options.clone();
        let copy = bench.folder.path().join("state/copy");
        fs::create_dir(bench.folder.path().join("state")).unwrap();
        let entry = (host(), SecretString::from(auth("new")));
        let edit =
            |text: &[u8]| document::Document::parse(text).ok()?.with(std::slice::from_ref(&entry));
        let killed = points::hook::killed_in(|| {
            let hook = move |here: &'static str| {
                if here == point {
                    std::panic::resume_unwind(Box::new("killed"));
                }
            };
            let copy = in_place::Copy::at(copy.clone());
            let write = || in_place::write(&options.path, options.attributes, &copy, &edit);
            drop(points::hook::with(hook, write));
        });
        assert!(killed);
        let was_mended =
            in_place::mend(&options.path, options.attributes, &in_place::Copy::at(copy.clone()))
                .unwrap();
        assert_eq!(was_mended, point == "cut in place", "{point}");
        let _: serde_json::Value = serde_json::from_str(&bench.content()).unwrap();
        assert!(bench.content().ends_with(r#""x":1}"#) && !copy.exists());
    }
}

#[tokio::test]
async fn a_hostile_link_is_not_followed_by_root() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else has more rights than whoever made the link.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("home");
    fs::create_dir(&theirs).unwrap();
    let victim = folder.path().join("victim.json");
    put(&victim, "{}");
    let link = theirs.join("config.json");
    symlink(&victim, &link).unwrap();
    std::os::unix::fs::chown(&theirs, Some(4711), None).unwrap();
    std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
    let mut bench = Bench::at(folder, link.clone());
    bench.publish("one");
    assert!(!bench.target.run_once().await);
    assert_eq!(bench.state().checks.targets[0].last_error.clone().unwrap().kind, "foreign_link");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "{}");
    // To a file of their own it may lead.
    std::os::unix::fs::chown(&victim, Some(4711), None).unwrap();
    assert!(bench.target.run_once().await);
    assert!(fs::read_to_string(&victim).unwrap().contains(&auth("one")));
}

#[tokio::test]
async fn a_file_that_somebody_planted_in_a_shared_folder_gets_no_credentials() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = Bench::with("{}");
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(bench.path(), Some(4711), None).unwrap();
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o666)).unwrap();
    bench.publish("one");
    assert!(!bench.target.run_once().await);
    assert_eq!(bench.state().checks.targets[0].last_error.clone().unwrap().kind, "foreign_file");
    assert_eq!(bench.content(), "{}");
    bench.target.options.attributes.owner = Some(4711);
    assert!(bench.target.run_once().await);
}

#[tokio::test]
async fn a_file_that_its_reader_may_not_read_makes_it_not_ready() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = Bench::with("{}");
    std::os::unix::fs::chown(bench.folder.path(), Some(4711), None).unwrap();
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o600)).unwrap();
    bench.publish("one");
    assert!(bench.target.run_once().await);
    assert!(!bench.state().is_ready());
    assert_eq!(bench.state().checks.targets[0].in_the_way[0].kind, "no_permission");
    bench.target.options.attributes.owner = Some(4711);
    assert!(bench.target.run_once().await);
    assert!(bench.state().is_ready(), "{:?}", bench.state().output);
}

#[tokio::test]
async fn a_path_at_the_systems_limit_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut path = folder.path().to_owned();
    while path.as_os_str().len() < 4095 - 250 {
        path.push("x".repeat(200));
    }
    let rest = 4095 - path.as_os_str().len() - "//c".len();
    path.push("y".repeat(rest));
    path.push("c");
    assert_eq!(path.as_os_str().len(), 4095);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut bench = Bench::at(folder, path);
    bench.publish("one");
    assert!(bench.target.run_once().await, "{:?}", bench.state().output);
    assert!(bench.content().contains(&auth("one")));
}

#[tokio::test]
async fn another_program_that_takes_an_entry_away_is_seen_at_once() {
    let bench = Bench::new();
    let path = bench.path();
    bench.publish("one");
    let stop = CancellationToken::new();
    let loops = tokio::spawn(bench.target.run(stop.clone()));
    bench.status.wait_for(|state| state.targets[0].found.contains_key(&host())).await;
    for _ in 0..3 {
        let started = bench.clock.monotonic();
        fs::remove_file(&path).unwrap();
        while !path.exists() {
            bench.clock.sleep(Duration::from_millis(5)).await;
        }
        assert!(bench.clock.monotonic() - started < Duration::from_secs(1));
    }
    let text = bench.status.metrics.text();
    assert!(text.contains("freshcreds_overwritten_total{target="), "{text}");
    stop.cancel();
    loops.await.unwrap();
}

#[tokio::test]
async fn a_tug_of_war_is_reported_and_not_fought_for_ever() {
    let bench = Bench::new();
    let path = bench.path();
    bench.publish("one");
    let stop = CancellationToken::new();
    let loops = tokio::spawn(bench.target.run(stop.clone()));
    bench.status.wait_for(|state| state.targets[0].found.contains_key(&host())).await;
    let mut pulls = 0;
    let is_told = || {
        let failing = bench.status.read(|state| state.targets[0].failing.clone());
        failing.is_some_and(|failing| failing.kind == trouble::Kind::TugOfWar)
    };
    while !is_told() {
        if fs::read_to_string(&path).is_ok_and(|text| text.contains(&auth("one"))) {
            pulls += 1;
            put(&path, "{}");
        }
        bench.clock.sleep(Duration::from_millis(5)).await;
    }
    assert!(pulls >= 10, "{pulls}");
    // Now it takes its time.
    put(&path, "{}");
    bench.clock.sleep(Duration::from_millis(300)).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
    // What is new is written at once.
    let now = bench.clock.now();
    let life = Lifetime::new(now, now + Duration::from_hours(1));
    let credential = Credential::new("user", SecretString::from("two"), life).unwrap();
    bench.wanted.send_replace(Wanted::from([(host(), credential)]));
    while !fs::read_to_string(&path).unwrap().contains(&auth("two")) {
        bench.clock.sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    loops.await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_moved_away_is_made_anew_and_watched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker/config.json");
    let bench = Bench::at(folder, path.clone());
    bench.publish("one");
    let stop = CancellationToken::new();
    let loops = tokio::spawn(bench.target.run(stop.clone()));
    bench.status.wait_for(|state| state.targets[0].found.contains_key(&host())).await;
    for round in 0..2 {
        let away = bench.folder.path().join(format!("away{round}"));
        fs::rename(path.parent().unwrap(), away).unwrap();
        for _ in 0..2000 {
            if path.exists() {
                break;
            }
            bench.clock.sleep(Duration::from_millis(5)).await;
        }
        assert!(path.exists());
    }
    stop.cancel();
    loops.await.unwrap();
}

#[tokio::test]
async fn a_repaired_file_is_written_at_once() {
    let bench = Bench::with("{");
    let path = bench.path();
    bench.publish("one");
    let stop = CancellationToken::new();
    let loops = tokio::spawn(bench.target.run(stop.clone()));
    bench.status.wait_for(|state| state.targets[0].failing.is_some()).await;
    bench.clock.sleep(Duration::from_millis(100)).await;
    put(&path, "{}");
    for _ in 0..200 {
        bench.clock.sleep(Duration::from_millis(5)).await;
        if fs::read_to_string(&path).unwrap().contains(&auth("one")) {
            break;
        }
    }
    assert!(fs::read_to_string(&path).unwrap().contains(&auth("one")));
    stop.cancel();
    loops.await.unwrap();
}

/// What a turn did that found all as it left it, while `act` happened before the step
/// called `point`; and whether it read back the one entry alone.
async fn changed_while(
    content: &str,
    point: &'static str,
    act: impl Fn(&Path) + 'static,
) -> (Bench, Outcome, bool) {
    let mut bench = Bench::with(content);
    bench.publish("one");
    assert!(bench.target.run_once().await);
    // Until no write can leave the time stamps as they are.
    bench.clock.sleep(Duration::from_millis(60)).await;
    assert!(bench.target.run_once().await);
    bench.publish("two");
    let work = bench.target.work(true);
    let path = bench.path();
    let (mut acts, is_read_back) = (1, std::rc::Rc::new(std::cell::Cell::new(false)));
    let seen = std::rc::Rc::clone(&is_read_back);
    let hook = move |step: &'static str| {
        seen.set(seen.get() || step == "read back");
        if step == point && acts > 0 {
            acts -= 1;
            act(&path);
        }
    };
    let outcome = points::hook::with(hook, || work.reconcile());
    (bench, outcome, is_read_back.get())
}

const SHARED: &str =
    r#"{"auths":{"gcr.io":{"auth":"eDp5"},"a.io":{"auth":"eDp5"}},"x":"12345678901234"}"#;

#[tokio::test]
async fn an_entry_that_is_known_is_changed_without_a_look_at_all_the_others() {
    let (bench, outcome, is_read_back) = changed_while(SHARED, "", |_| ()).await;
    assert!(is_read_back && outcome.wrote && outcome.error.is_none());
    assert_eq!(bench.content(), SHARED.replacen("eDp5", &auth("two"), 1));
    let look = outcome.look.unwrap();
    let wanted = bench.wanted.borrow()[&host()].lifetime().expires();
    assert_eq!(look.found, BTreeMap::from([(host(), wanted)]));
    assert_eq!(look.identity, file::Identity::at(&bench.path()).unwrap());
    assert!(bench.leftovers().is_empty());
}

#[tokio::test]
async fn what_others_write_meanwhile_is_kept_and_seen() {
    let theirs = SHARED.replace(r#""x":"12345678901234""#, r#""credsStore":"pass1""#);
    for point in ["create", "exchange", "look at what came out", "read back"] {
        let text = theirs.clone();
        let act = move |path: &Path| {
            // Of the same size, and with our entry in it: nothing but the file tells them apart.
            let ours = format!("\"gcr.io\":{{\"auth\":\"{}\"}}", auth("two"));
            let text = text.replace(r#""gcr.io":{"auth":"eDp5"}"#, &ours);
            let other = path.with_extension("other");
            put(&other, &text);
            fs::rename(other, path).unwrap();
        };
        let (bench, outcome, _) = changed_while(SHARED, point, act).await;
        let look = outcome.look.unwrap();
        assert_eq!(look.obstacles.len(), 1, "{point}: it has a `credsStore` now");
        assert!(bench.content().contains("pass1"), "{point}");
        assert!(bench.content().contains(&auth("two")), "{point}");
        assert!(bench.leftovers().is_empty(), "{point}");
    }
}
