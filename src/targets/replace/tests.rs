use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::targets::document::Document;
use crate::targets::points::hook;
use crate::targets::{file, leftovers};

fn bytes(text: &SecretString) -> &[u8] {
    text.expose_secret().as_bytes()
}

/// A folder with a `config.json`, as other programs see it.
struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new(content: &str) -> Self {
        let folder = Self { folder: TempDir::with_prefix("freshcreds-").unwrap() };
        folder.rename_over(content);
        folder
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn content(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As docker and podman write.
    fn rename_over(&self, content: &str) {
        let other = self.folder.path().join("config.json123");
        put(&other, content);
        fs::rename(other, self.path()).unwrap();
    }

    fn replace(&self) -> Result<Outcome, FileError> {
        let old = file::read(&self.path(), Attributes::default())?;
        match edit(&old.content) {
            Some(content) => replace(&old, &[bytes(&content)], &edit, &Attributes::default()),
            None => Ok(Outcome::Overtaken),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "another program that writes in place")]
fn put(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}

/// Gives a text our entry.
fn edit(text: &[u8]) -> Option<SecretString> {
    let host = "gcr.io".parse().unwrap();
    Document::parse(text).ok()?.with(&[(host, SecretString::from(OURS))])
}

const OURS: &str = "b3Vyczpub3c=";

fn with_entry(text: &str, host: &str, auth: &str) -> String {
    let mut value: Value = serde_json::from_str(text).unwrap();
    value["auths"][host] = json!({ "auth": auth });
    value.to_string()
}

fn auths(text: &str) -> Map<String, Value> {
    serde_json::from_str::<Value>(text).unwrap()["auths"].as_object().cloned().unwrap_or_default()
}

#[test]
fn nothing_is_left_but_the_file() {
    let folder = Folder::new("{}");
    let outcome = folder.replace().unwrap();
    let protection = Protection::LeasedExchange;
    let Outcome::Replaced { protection: found, conflicts: 0, written } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(found, protection);
    let now = file::read(&folder.path(), Attributes::default()).unwrap().identity;
    assert!(now.is_moved(written));
    assert!(folder.content().contains(OURS));
    assert_eq!(folder.names(), ["config.json"]);
}

#[test]
fn a_file_that_is_not_there_is_made_and_not_over_another() {
    let folder = Folder::new("{}");
    fs::remove_file(folder.path()).unwrap();
    let outcome = folder.replace().unwrap();
    assert!(matches!(outcome, Outcome::Replaced { .. }));

    fs::remove_file(folder.path()).unwrap();
    let old = file::read(&folder.path(), Attributes::default()).unwrap();
    put(&folder.path(), "{}");
    let outcome = replace(&old, &[b"{}"], &edit, &Attributes::default());
    assert_eq!(outcome.unwrap(), Outcome::Overtaken);
    assert_eq!(folder.content(), "{}");
    assert_eq!(folder.names(), ["config.json"]);
}

#[test]
fn a_file_that_is_gone_is_not_brought_back() {
    let folder = Folder::new("{}");
    let old = file::read(&folder.path(), Attributes::default()).unwrap();
    fs::remove_file(folder.path()).unwrap();
    let new = SecretString::from("{}");
    let outcome = replace(&old, &[bytes(&new)], &edit, &Attributes::default()).unwrap();
    assert_eq!(outcome, Outcome::Overtaken);
    assert!(folder.names().is_empty());
}

#[test]
fn attributes_of_the_old_file_are_kept() {
    let folder = Folder::new("{}");
    let file = File::options().write(true).open(folder.path()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::fsetxattr(&file, "user.note", b"kept", flags) == Err(Errno::NOTSUP) {
        // A file system without any has nothing to keep.
        return;
    }
    drop(file);
    folder.replace().unwrap();
    let mut value = [0_u8; 4];
    rustix::fs::getxattr(folder.path(), "user.note", value.as_mut_slice()).unwrap();
    assert_eq!(&value, b"kept");
}

#[test]
fn whoever_opens_the_file_between_the_exchange_and_the_look_waits() {
    let folder = Folder::new("{}");
    let (path, seen) = (folder.path(), Rc::new(RefCell::new(Vec::new())));
    let seen_by_hook = Rc::clone(&seen);
    hook::with(
        move |point| {
            if point == "look at what came out" {
                let nonblocking =
                    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
                let error = nonblocking.map(drop).map_err(|error| error.kind());
                seen_by_hook.borrow_mut().push(error);
            }
        },
        || folder.replace().unwrap(),
    );
    assert_eq!(*seen.borrow(), [Err(io::ErrorKind::WouldBlock)]);
}

#[test]
fn what_is_renamed_to_the_name_between_two_steps_is_merged() {
    for point in ["look again", "announce", "exchange"] {
        let folder = Folder::new(r#"{"auths":{"a.io":{"auth":"eDp5"}}}"#);
        let path = folder.path();
        let outcome = hook::with(
            once_at(point, move || {
                let theirs =
                    with_entry(&fs::read_to_string(&path).unwrap(), "b.io", "bmV3Om9uZQ==");
                put(&path.with_extension("tmp"), &theirs);
                fs::rename(path.with_extension("tmp"), &path).unwrap();
            }),
            || folder.replace().unwrap(),
        );
        let auths = auths(&folder.content());
        assert_eq!(auths["b.io"]["auth"], "bmV3Om9uZQ==", "{point}");
        if point == "look again" {
            assert_eq!(outcome, Outcome::Overtaken);
        } else {
            assert!(matches!(outcome, Outcome::Replaced { conflicts: 1, .. }), "{point}");
            assert_eq!(auths["gcr.io"]["auth"], OURS, "{point}");
        }
        assert_eq!(folder.names(), ["config.json"], "{point}");
    }
}

#[test]
fn who_waited_at_ours_reads_theirs_too() {
    let folder = Folder::new("{}");
    let path = folder.path();
    let reader = Rc::new(RefCell::new(None));
    let reader_of_hook = Rc::clone(&reader);
    let hook = move |point: &'static str| match point {
        "exchange" => {
            put(&path.with_extension("tmp"), r#"{"auths":{"b.io":{"auth":"bmV3Om9uZQ=="}}}"#);
            fs::rename(path.with_extension("tmp"), &path).unwrap();
        }
        "look at what came out" => {
            let path = path.clone();
            *reader_of_hook.borrow_mut() =
                Some(std::thread::spawn(move || fs::read_to_string(path).unwrap()));
            std::thread::sleep(Duration::from_millis(50));
        }
        _ => {}
    };
    let outcome = hook::with(hook, || folder.replace().unwrap());
    assert!(matches!(outcome, Outcome::Replaced { conflicts: 1, .. }));
    let read = reader.borrow_mut().take().unwrap().join().unwrap();
    assert!(read.contains("b.io") && read.contains(OURS), "{read}");
}

#[test]
fn what_was_merged_is_not_merged_again_after_a_crash() {
    for point in ["look at what came out again", "rewrite", "remove"] {
        let folder = Folder::new("{}");
        let path = folder.path();
        let hook = move |here: &'static str| {
            if here == "exchange" {
                put(&path.with_extension("tmp"), r#"{"auths":{"b.io":{"auth":"bmV3Om9uZQ=="}}}"#);
                fs::rename(path.with_extension("tmp"), &path).unwrap();
            }
            if here == point {
                std::panic::resume_unwind(Box::new("killed"));
            }
        };
        assert!(hook::killed_in(|| drop(hook::with(hook, || folder.replace()))));
        assert!(folder.content().contains("b.io") && folder.content().contains(OURS), "{point}");
        let before = folder.content();
        let found = file::read(&folder.path(), Attributes::default()).unwrap();
        leftovers::clear(&found, &edit, &Attributes::default()).unwrap();
        assert_eq!(folder.names(), ["config.json"], "{point}");
        assert_eq!(folder.content(), before, "{point}");
    }
}

/// The numbers of a campaign are in `make stress`.
#[test]
fn provoked_conflicts_lose_and_resurrect_nothing() {
    let times = if std::env::var_os("FRESHCREDS_STRESS").is_some() { 100_000 } else { 1_000 };
    let folder = Folder::new("{}");
    let others = Rc::new(RefCell::new(Others {
        path: folder.path(),
        expected: BTreeMap::new(),
        clock: 0,
        skipped: 0,
    }));
    let mut dice = fastrand::Rng::with_seed(11);
    let mut conflicts = 0;
    for round in 0..times {
        // Another program renames its file to the name just before the exchange.
        let act = match dice.u8(0..10) {
            0..7 => Act::LogIn(dice.u8(0..20)),
            _ => Act::LogOut(dice.u8(0..20)),
        };
        let others_of_hook = Rc::clone(&others);
        let hook = once_at("exchange", move || others_of_hook.borrow_mut().act(&act));
        let old = file::read(&folder.path(), Attributes::default()).unwrap();
        // A new token each time.
        let edit = |text: &[u8]| {
            let host = "gcr.io".parse().unwrap();
            let auth = SecretString::from(format!("b3Vyczp{round:08}"));
            Document::parse(text).ok()?.with(&[(host, auth)])
        };
        let content = edit(&old.content).unwrap();
        let outcome = hook::with(hook, || {
            replace(&old, &[bytes(&content)], &edit, &Attributes::default()).unwrap()
        });
        if let Outcome::Replaced { conflicts: found, .. } = outcome {
            conflicts += found;
        }
        if round % 100 == 0 {
            others.borrow().check(&folder.content()).unwrap();
        }
    }
    others.borrow().check(&folder.content()).unwrap();
    println!("{times} writes, {conflicts} provoked conflicts, 0 lost, 0 resurrected");
    assert_eq!(conflicts, times);
    assert_eq!(folder.names(), ["config.json"]);
}

#[test]
fn what_is_no_document_is_given_back() {
    let folder = Folder::new("{}");
    let path = folder.path();
    let outcome = hook::with(
        once_at("exchange", move || {
            put(&path.with_extension("tmp"), "broken");
            fs::rename(path.with_extension("tmp"), &path).unwrap();
        }),
        || folder.replace().unwrap(),
    );
    assert_eq!(outcome, Outcome::Overtaken);
    assert_eq!(folder.content(), "broken");
    assert_eq!(folder.names(), ["config.json"]);
}

#[test]
fn a_writer_in_place_that_waits_finds_its_file_at_the_name() {
    let folder = Folder::new("{}");
    let path = folder.path();
    let writer = Rc::new(RefCell::new(None));
    let writer_of_hook = Rc::clone(&writer);
    let outcome = hook::with(
        once_at("exchange", move || {
            let path = path.clone();
            *writer_of_hook.borrow_mut() = Some(std::thread::spawn(move || {
                // Waits for the lease that the reader of the old file has.
                put(&path, r#"{"auths":{"b.io":{"auth":"bmV3Om9uZQ=="}}}"#);
            }));
            std::thread::sleep(Duration::from_millis(50));
        }),
        || folder.replace().unwrap(),
    );
    assert_eq!(outcome, Outcome::Overtaken);
    writer.borrow_mut().take().unwrap().join().unwrap();
    assert!(folder.content().contains("b.io"), "{}", folder.content());
    // And the next turn merges.
    folder.replace().unwrap();
    assert!(folder.content().contains("b.io") && folder.content().contains(OURS));
    assert_eq!(folder.names(), ["config.json"]);
}

fn once_at(point: &'static str, act: impl FnOnce() + 'static) -> impl FnMut(&'static str) {
    let mut act = Some(act);
    move |here| {
        if here == point
            && let Some(act) = act.take()
        {
            act();
        }
    }
}

/// What another program does at some moment.
#[derive(Clone, Debug)]
enum Act {
    /// Logs in to a host: reads and renames at once.
    LogIn(u8),
    /// Logs out of a host.
    LogOut(u8),
    /// Removes the file.
    Remove,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u8..4).prop_map(Act::LogIn),
        2 => (0_u8..4).prop_map(Act::LogOut),
        1 => Just(Act::Remove),
    ]
}

/// Other programs, one after the other, each of which reads, changes and renames
/// without a lock, and remembers what must be there.
struct Others {
    path: PathBuf,
    expected: BTreeMap<String, u64>,
    clock: u64,
    /// Acts that could not read the file, since they would have had to wait.
    skipped: usize,
}

impl Others {
    fn act(&mut self, act: &Act) {
        if matches!(act, Act::Remove) {
            if fs::remove_file(&self.path).is_ok() {
                self.expected.clear();
            }
            return;
        }
        // A program would wait here; in the same thread that has to be another time.
        let opened =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
        let mut text = String::new();
        match opened {
            Ok(mut file) => {
                file.read_to_string(&mut text).unwrap();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => text.push_str("{}"),
            Err(_) => {
                self.skipped += 1;
                return;
            }
        }
        let mut value: Value = serde_json::from_str(&text).unwrap();
        match act {
            Act::LogIn(host) => {
                self.clock += 1;
                value["auths"][format!("{host}.io")] = json!({ "auth": self.clock });
                self.expected.insert(format!("{host}.io"), self.clock);
            }
            Act::LogOut(host) => {
                if let Some(auths) = value["auths"].as_object_mut() {
                    auths.remove(&format!("{host}.io"));
                }
                self.expected.remove(&format!("{host}.io"));
            }
            Act::Remove => {}
        }
        let other = self.path.with_extension("other");
        put(&other, &value.to_string());
        fs::rename(other, &self.path).unwrap();
    }

    fn check(&self, text: &str) -> Result<(), TestCaseError> {
        let mut found = auths(text);
        found.remove("gcr.io");
        let found: BTreeMap<String, u64> = found
            .into_iter()
            .map(|(host, entry)| (host, entry["auth"].as_u64().unwrap()))
            .collect();
        prop_assert_eq!(&found, &self.expected);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), ..ProptestConfig::default() })]

    /// Whatever others do between any two steps: nothing of theirs is lost, and
    /// nothing that they took away comes back.
    #[test]
    fn no_interleaving_loses_or_resurrects(
        acts in prop::collection::vec((0_usize..25, any_act()), 0..6),
        rounds in 1_usize..3,
    ) {
        let folder = Folder::new("{}");
        let others = Rc::new(RefCell::new(Others {
            path: folder.path(),
            expected: BTreeMap::new(),
            clock: 0,
            skipped: 0,
        }));
        let (others_of_hook, step) = (Rc::clone(&others), Rc::new(RefCell::new(0)));
        let hook = move |_| {
            let now = *step.borrow();
            *step.borrow_mut() += 1;
            for (_, act) in acts.iter().filter(|(when, _)| *when == now) {
                others_of_hook.borrow_mut().act(act);
            }
        };
        hook::with(hook, || {
            for _ in 0..rounds {
                folder.replace().unwrap();
            }
        });
        // Until nobody interferes.
        for _ in 0..3 {
            folder.replace().unwrap();
        }
        let content = folder.content();
        prop_assert_eq!(&auths(&content)["gcr.io"]["auth"], OURS);
        others.borrow().check(&content)?;
        prop_assert_eq!(folder.names(), ["config.json"]);
    }

    /// Killed before any step: the file is whole, and after the next start nothing of
    /// anybody is lost and nothing is left over.
    #[test]
    fn no_crash_loses_anything(
        acts in prop::collection::vec((0_usize..20, any_act()), 0..4),
        crash in 0_usize..25,
    ) {
        let has_removal = acts.iter().any(|(_, act)| matches!(act, Act::Remove));
        let folder = Folder::new(r#"{"auths":{"gcr.io":{"auth":"b2xkOm9sZA=="}}}"#);
        let others = Rc::new(RefCell::new(Others {
            path: folder.path(),
            expected: BTreeMap::new(),
            clock: 0,
            skipped: 0,
        }));
        let (others_of_hook, step) = (Rc::clone(&others), Rc::new(RefCell::new(0)));
        let hook = move |_| {
            let now = *step.borrow();
            *step.borrow_mut() += 1;
            for (_, act) in acts.iter().filter(|(when, _)| *when == now) {
                others_of_hook.borrow_mut().act(act);
            }
            if now == crash {
                std::panic::resume_unwind(Box::new("killed"));
            }
        };
        let killed = hook::killed_in(|| {
            hook::with(hook, || folder.replace()).unwrap();
        });
        if killed && let Ok(text) = fs::read_to_string(folder.path()) {
            let _: Value = serde_json::from_str(&text).unwrap();
        }
        // The next start.
        let found = file::read(&folder.path(), Attributes::default()).unwrap();
        leftovers::clear(&found, &edit, &Attributes::default()).unwrap();
        for _ in 0..3 {
            folder.replace().unwrap();
        }
        let content = folder.content();
        prop_assert_eq!(&auths(&content)["gcr.io"]["auth"], OURS);
        others.borrow().check(&content)?;
        let mut names = folder.names();
        if has_removal {
            // What was displaced when the file was removed is kept aside: nobody knows
            // whether it was meant.
            names.retain(|name| !name.contains(".recovered-"));
        }
        prop_assert_eq!(names, ["config.json"]);
    }
}

/// How many cases; more when a campaign asks for them.
fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
