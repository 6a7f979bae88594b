use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::status::Named;

/// Two targets, a folder, and a hook that runs a script there.
struct Bench {
    folder: TempDir,
    status: Arc<Status>,
}

impl Bench {
    fn new() -> Self {
        let targets =
            [(PathBuf::from("/one.json"), "docker"), (PathBuf::from("/two.json"), "podman")];
        let status = Arc::new(Status::new(Clock::system(), [], targets));
        Self { folder: TempDir::new().unwrap(), status }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, text: &str) -> Action {
        let path = self.path("script");
        let text = format!("#!/bin/sh\ncd {}\n{text}\n", self.folder.path().display());
        put(&path, &text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let arguments = vec!["an argument".to_owned(), "$HOME; `id`".to_owned()];
        Action::Run { program: path.display().to_string(), arguments }
    }

    fn hook(&self, action: Action, targets: &[&str]) -> Hook {
        let options = Options {
            name: "hook".to_owned(),
            action,
            targets: targets.iter().map(PathBuf::from).collect(),
            limit: Duration::from_secs(1),
        };
        let known = [("gcr.io".parse().unwrap(), crate::sources::Origin::Google(None))];
        let targets = [("/one.json", "docker"), ("/two.json", "podman")]
            .map(|(path, reader)| Named::file(Path::new(path), reader));
        self.status.follow(known, targets, [options.name.clone()]);
        Hook::new(options, Clock::system(), Arc::clone(&self.status))
    }

    fn write(&self, path: &str) {
        self.status.set_target(&Path::new(path).into(), |target| target.writes += 1);
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn trouble(&self) -> Option<(String, String, u32)> {
        let error = self.status.report().checks.hooks[0].last_error.clone()?;
        Some((error.kind, error.message, error.count))
    }
}

fn put(path: &Path, text: &str) {
    fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Waits until a process has been killed, which takes a moment.
async fn ends(number: &str) {
    let stat = format!("/proc/{}/stat", number.trim().parse::<u32>().unwrap());
    for _ in 0..300 {
        let state = fs::read_to_string(&stat).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        Clock::system().sleep(Duration::from_millis(10)).await;
    }
    panic!("{number} goes on");
}

#[tokio::test]
async fn a_command_runs_after_a_change_and_only_then() {
    let bench = Bench::new();
    let mut hook =
        bench.hook(bench.script("printf '%s|' \"$@\" \"$FRESHCREDS_CHANGED\" >>said"), &[]);
    hook.run_once(&CancellationToken::new()).await;
    assert_eq!(bench.read("said"), "");
    bench.write("/two.json");
    hook.run_once(&CancellationToken::new()).await;
    hook.run_once(&CancellationToken::new()).await;
    // No shell has looked at the arguments.
    assert_eq!(bench.read("said"), "an argument|$HOME; `id`|/two.json|");
    bench.write("/one.json");
    bench.write("/two.json");
    hook.run_once(&CancellationToken::new()).await;
    assert!(bench.read("said").ends_with("|/one.json\n/two.json|"), "{}", bench.read("said"));
    assert_eq!(bench.trouble(), None);
    assert!(bench.status.report().checks.hooks[0].last_run.is_some());
}

#[tokio::test]
async fn a_hook_of_one_target_does_not_care_for_others() {
    let bench = Bench::new();
    let mut hook = bench.hook(bench.script("echo ran >>said"), &["/one.json"]);
    bench.write("/two.json");
    hook.run_once(&CancellationToken::new()).await;
    assert_eq!(bench.read("said"), "");
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    assert_eq!(bench.read("said"), "ran\n");
}

#[tokio::test]
async fn the_environment_has_nothing_of_ours_that_could_be_secret() {
    let bench = Bench::new();
    let mut hook = bench.hook(bench.script("env >said"), &[]);
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    let said = bench.read("said");
    let names: Vec<_> = said.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.contains(&"PATH") && names.contains(&"FRESHCREDS_CHANGED"), "{said}");
    // The tests are run with these.
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{said}");
}

#[tokio::test]
async fn what_fails_is_told_and_counted_and_not_run_again_by_itself() {
    let bench = Bench::new();
    let mut hook = bench.hook(bench.script("echo ran >>said; test -e good || exit 7"), &[]);
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    hook.run_once(&CancellationToken::new()).await;
    assert_eq!(bench.read("said"), "ran\n");
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    let (kind, message, count) = bench.trouble().unwrap();
    assert_eq!((kind.as_str(), count), ("hook_failed", 2));
    assert!(message.ends_with("failed (exit code 7)"), "{message}");
    fs::File::create(bench.path("good")).unwrap();
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    assert_eq!(bench.trouble(), None);

    let action = Action::Run { program: "/nothing/here".to_owned(), arguments: Vec::new() };
    let mut hook = bench.hook(action, &[]);
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    assert!(bench.trouble().unwrap().1.contains("cannot be run"));
}

#[tokio::test]
async fn what_hangs_is_killed_with_all_that_it_started() {
    let bench = Bench::new();
    let mut hook = bench.hook(bench.script("sleep 600 & echo $! >child; wait"), &[]);
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    assert_eq!(bench.trouble().unwrap().0, "hook_timeout");
    ends(&bench.read("child")).await;
}

#[tokio::test]
async fn a_signal_goes_to_the_process_that_a_file_names() {
    let bench = Bench::new();
    let mut child = Command::new("sh")
        // Not HUP, which this process may have been told to ignore (nohup): then its children cannot trap it.
        .args(["-c", "trap 'exit 42' USR1; while :; do sleep 0.01; done"])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Until it listens to the signal.
    Clock::system().sleep(Duration::from_millis(300)).await;
    let pid_file = bench.path("pid");
    let tell = || Action::Tell { signal: "SIGUSR1".parse().unwrap(), pid_file: pid_file.clone() };
    for (text, words) in
        [(None, "there is no"), (Some("none\n"), "the number"), (Some("1\n"), "the number")]
    {
        if let Some(text) = text {
            put(&pid_file, text);
        }
        let mut hook = bench.hook(tell(), &[]);
        bench.write("/one.json");
        hook.run_once(&CancellationToken::new()).await;
        assert!(bench.trouble().unwrap().1.contains(words), "{:?}", bench.trouble());
    }
    let number = format!("{}\n", child.id().unwrap());
    put(&pid_file, &number);
    let mut hook = bench.hook(tell(), &[]);
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    assert_eq!(ended.expect("it was not told").unwrap().code(), Some(42));
    assert_eq!(bench.trouble(), None);
    bench.write("/one.json");
    hook.run_once(&CancellationToken::new()).await;
    assert!(bench.trouble().unwrap().1.contains("cannot be told"), "{:?}", bench.trouble());
}

#[tokio::test]
async fn nobody_makes_us_signal_what_is_not_theirs() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let pid_file = bench.path("pid");
    let own = std::process::id().to_string();
    put(&pid_file, &own);
    std::os::unix::fs::chown(&pid_file, Some(65534), None).unwrap();
    let error = tell("CONT".parse().unwrap(), &pid_file).unwrap_err();
    assert!(matches!(error, HookError::Foreign { writer: 65534, .. }), "{error}");
    std::os::unix::fs::chown(&pid_file, Some(0), None).unwrap();
    tell("CONT".parse().unwrap(), &pid_file).unwrap();
}

#[tokio::test]
async fn a_file_of_processes_that_is_none_or_leads_astray_holds_up_nobody_and_is_refused() {
    let bench = Bench::new();
    let pid_file = bench.path("pid");
    let own = std::process::id().to_string();
    let made = std::process::Command::new("mkfifo").arg(&pid_file).status().unwrap();
    assert!(made.success());
    let error = tell("CONT".parse().unwrap(), &pid_file).unwrap_err();
    assert!(error.to_string().contains("a pipe"), "{error}");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Somebody's link to a file of root's.
    let (folder, roots) = (bench.path("theirs"), bench.path("roots"));
    put(&roots, &own);
    fs::create_dir(&folder).unwrap();
    let link = folder.join("pid");
    std::os::unix::fs::symlink(&roots, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
    std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
    let error = tell("CONT".parse().unwrap(), &link).unwrap_err();
    assert!(matches!(error, HookError::File(FileError::ForeignLink { .. })), "{error}");
}

#[tokio::test]
async fn what_changed_just_before_the_end_is_told_and_what_takes_too_long_then_is_killed() {
    for pause in [0, 20, 100, 250] {
        let bench = Bench::new();
        let hook = bench.hook(bench.script("echo ran >>said"), &[]);
        let stop = CancellationToken::new();
        let running = tokio::spawn(hook.run(stop.clone()));
        bench.write("/one.json");
        Clock::system().sleep(Duration::from_millis(pause)).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(bench.read("said"), "ran\n", "{pause} ms");
    }
    let bench = Bench::new();
    let hook = bench.hook(bench.script("echo $$ >said; sleep 600"), &[]);
    let stop = CancellationToken::new();
    let running = tokio::spawn(hook.run(stop.clone()));
    bench.write("/one.json");
    Clock::system().sleep(Duration::from_millis(500)).await;
    stop.cancel();
    running.await.unwrap();
    ends(&bench.read("said")).await;
}

#[tokio::test]
async fn changes_that_come_together_are_told_once_and_the_last_one_before_the_end() {
    let bench = Bench::new();
    let hook = bench.hook(bench.script("echo ran >>said"), &[]);
    let stop = CancellationToken::new();
    let running = tokio::spawn(hook.run(stop.clone()));
    for _ in 0..5 {
        bench.write("/one.json");
        bench.write("/two.json");
        tokio::task::yield_now().await;
    }
    let clock = Clock::system();
    for _ in 0..300 {
        if !bench.read("said").is_empty() {
            break;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.read("said"), "ran\n");
    bench.write("/one.json");
    stop.cancel();
    running.await.unwrap();
    assert_eq!(bench.read("said"), "ran\nran\n");
}

#[test]
fn signals_have_names() {
    for name in Name::ALL {
        assert_eq!(name.as_str().parse::<Name>().unwrap(), name);
        assert_eq!(format!("SIG{}", name.as_str()).parse::<Name>().unwrap(), name);
    }
    let message = "KILL".parse::<Name>().unwrap_err().to_string();
    for name in Name::ALL {
        assert!(message.contains(&format!("`{}`", name.as_str())), "{message}");
    }
}
