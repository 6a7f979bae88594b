//! Any bytes as a `config.json`: nothing panics, one entry changes, all else is equal, and
//! twice equals once. `serde_json` is the judge.
#![no_main]

use freshcreds::targets::document::Document;
use freshcreds::targets::obstacles::{Reader, obstacles};
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

const HOST: &str = "gcr.io";
const AUTH: &str = "b3Vyczpub3c=";

fuzz_target!(|bytes: &[u8]| {
    let Ok(document) = Document::parse(bytes) else { return };
    let host = HOST.parse().expect("it is a host");
    for reader in [Reader::Docker, Reader::Podman] {
        let _ = obstacles(&document, std::slice::from_ref(&host), reader);
    }
    let _ = document.with_helpers(&[(HOST, Some("\"\"".to_owned()))]);
    let wanted = [(host, SecretString::from(AUTH))];
    let Some(new) = document.with(&wanted) else { return };
    let new = new.expose_secret().as_bytes();
    let again = Document::parse(new).expect("what was made of a document is one");
    assert!(again.with(&wanted).is_none(), "twice is not once");
    let found = again.auth(&wanted[0].0).expect("it is there");
    assert_eq!(found.expose_secret(), AUTH);
    // What serde_json can hold is the same but for our entry.
    if let (Ok(Value::Object(mut before)), Ok(Value::Object(mut after))) =
        (serde_json::from_slice(bytes), serde_json::from_slice(new))
    {
        for file in [&mut before, &mut after] {
            file.retain(|key, _| !key.eq_ignore_ascii_case("auths"));
        }
        assert_eq!(before, after);
    }
    // And it can be cut out again.
    let without = again.without(|key, _| key == HOST).expect("it was there");
    assert!(Document::parse(without.expose_secret().as_bytes()).is_ok());
});
