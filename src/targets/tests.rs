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

    fn at(folder: TempDir, path: PathBuf) -> Self {
        // Real time, since files have real time stamps.
        let clock = Clock::system();
        let registries = [(host(), Origin::Google)];
        let status = Arc::new(Status::new(clock.clone(), registries, [(path.clone(), "docker")]));
        let wanted = tokio::sync::watch::Sender::new(Wanted::new());
        let dice = fastrand::Rng::with_seed(7);
        let options = Options::of(path);
        let target =
            Target::new(0, options, shared(None), clock.clone(), Arc::clone(&status), wanted.subscribe(), dice);
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
