use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::targets::obstacles::{Reader, obstacles};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn edited(text: &str, entries: &[(&str, &str)]) -> Option<String> {
    let wanted: Vec<_> =
        entries.iter().map(|(name, auth)| (host(name), SecretString::from(*auth))).collect();
    let document = Document::parse(text.as_bytes()).unwrap();
    document.with(&wanted).map(|new| new.expose_secret().to_owned())
}

fn auth(text: &str, name: &str) -> Option<String> {
    let document = Document::parse(text.as_bytes()).unwrap();
    document.auth(&host(name)).map(|auth| auth.expose_secret().to_owned())
}

#[test]
fn a_file_that_is_not_there_yet_is_laid_out_as_docker_does() {
    for blank in ["", " \n", "null", "{}"] {
        let new = edited(blank, &[("gcr.io", "eDp5")]).unwrap();
        assert_eq!(
            new,
            "{\n\t\"auths\": {\n\t\t\"gcr.io\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t}\n\t}\n}"
        );
    }
}

#[test]
fn several_entries_are_added_at_once() {
    let new = edited("{}", &[("a.io", "eDp5"), ("b.io", "eDp6")]).unwrap();
    let value: Value = serde_json::from_str(&new).unwrap();
    assert_eq!(value["auths"]["a.io"]["auth"], "eDp5");
    assert_eq!(value["auths"]["b.io"]["auth"], "eDp6");
}

#[test]
fn an_entry_of_ours_is_replaced_and_nothing_else() {
    let old = "{\"auths\": {\"a.io\":{\"auth\":\"b2xk\"} , \"gcr.io\" : { \"auth\" : \"b2xk\" }}, \"x\": 1e999}\n";
    let new = edited(old, &[("gcr.io", "bmV3")]).unwrap();
    assert_eq!(
        new,
        old.replace("\"gcr.io\" : { \"auth\" : \"b2xk\" }", "\"gcr.io\" : { \"auth\" : \"bmV3\" }")
    );
}

#[test]
fn an_entry_is_added_in_the_style_of_its_neighbours() {
    for (old, new) in [
        // Docker's tabs.
        (
            "{\n\t\"auths\": {\n\t\t\"a.io\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t}\n\t},\n\t\"z\": 1\n}",
            "{\n\t\"auths\": {\n\t\t\"a.io\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t},\n\t\t\"gcr.io\": {\n\t\t\t\"auth\": \"bmV3\"\n\t\t}\n\t},\n\t\"z\": 1\n}",
        ),
        // Two blanks, Windows' line ends, a final one.
        (
            "{\r\n  \"auths\": {\r\n    \"a.io\": {}\r\n  }\r\n}\r\n",
            "{\r\n  \"auths\": {\r\n    \"a.io\": {},\r\n    \"gcr.io\": {\r\n      \"auth\": \"bmV3\"\r\n    }\r\n  }\r\n}\r\n",
        ),
        // All in one line.
        (r#"{"auths":{"a.io":{}}}"#, r#"{"auths":{"a.io":{},"gcr.io":{"auth":"bmV3"}}}"#),
        (r#"{"auths": {"a.io": {}}}"#, r#"{"auths": {"a.io": {},"gcr.io": {"auth": "bmV3"}}}"#),
        // No entries yet.
        (r#"{"auths":{}}"#, r#"{"auths":{"gcr.io":{"auth":"bmV3"}}}"#),
        (r#"{"auths":null,"x":2}"#, r#"{"auths":{"gcr.io":{"auth":"bmV3"}},"x":2}"#),
        (
            "{\n    \"auths\": {}\n}\n",
            "{\n    \"auths\": {\n        \"gcr.io\": {\n            \"auth\": \"bmV3\"\n        }\n    }\n}\n",
        ),
        // No `auths` yet.
        (
            "{\n  \"psFormat\": \"x\"\n}\n",
            "{\n  \"psFormat\": \"x\",\n  \"auths\": {\n    \"gcr.io\": {\n      \"auth\": \"bmV3\"\n    }\n  }\n}\n",
        ),
        (r#"{"x":1}"#, r#"{"x":1,"auths":{"gcr.io":{"auth":"bmV3"}}}"#),
        // A blank line between entries.
        (
            "{\n  \"auths\": {\n\n    \"a.io\": {}\n  }\n}",
            "{\n  \"auths\": {\n\n    \"a.io\": {},\n\n    \"gcr.io\": {\n      \"auth\": \"bmV3\"\n    }\n  }\n}",
        ),
    ] {
        assert_eq!(edited(old, &[("gcr.io", "bmV3")]).unwrap(), new);
        assert_eq!(edited(new, &[("gcr.io", "bmV3")]), None, "a second time changes nothing");
    }
}

#[test]
fn whatever_else_an_entry_of_ours_holds_would_win_over_auth_and_goes() {
    let old = r#"{"auths":{"gcr.io":{"auth":"b2xk","identitytoken":"t"}}}"#;
    assert_eq!(
        edited(old, &[("gcr.io", "bmV3")]).unwrap(),
        r#"{"auths":{"gcr.io":{"auth":"bmV3"}}}"#
    );
    for old in [r#"{"auths":{"gcr.io":null}}"#, r#"{"auths":{"gcr.io":{"auth":null}}}"#] {
        assert_eq!(
            edited(old, &[("gcr.io", "bmV3")]).unwrap(),
            r#"{"auths":{"gcr.io":{"auth":"bmV3"}}}"#
        );
    }
}

#[test]
fn where_ours_stands_twice_both_are_replaced_so_that_every_parser_agrees() {
    let old =
        r#"{"auths":{"gcr.io":{"auth":"YQ=="},"gcr.io":{"auth":"Yg=="}},"Auths":{"gcr.io":{}}}"#;
    let new = edited(old, &[("gcr.io", "bmV3")]).unwrap();
    assert_eq!(new.matches("bmV3").count(), 3, "{new}");
}

#[test]
fn a_host_is_looked_up_under_its_bare_name_only() {
    let text = r#"{"auths":{"https://gcr.io":{"auth":"YQ=="},"gcr.io/x":{"auth":"Yg=="}}}"#;
    assert_eq!(auth(text, "gcr.io"), None);
    let new = edited(text, &[("gcr.io", "bmV3")]).unwrap();
    assert_eq!(auth(&new, "gcr.io").unwrap(), "bmV3");
    assert!(new.contains("https://gcr.io") && new.contains("gcr.io/x"));
}

#[test]
fn a_key_written_with_escapes_is_the_same_key() {
    let old = r#"{"auths":{"gcr\u002eio":{"auth":"b2xk"}}}"#;
    assert_eq!(
        edited(old, &[("gcr.io", "bmV3")]).unwrap(),
        r#"{"auths":{"gcr\u002eio":{"auth":"bmV3"}}}"#
    );
}

#[test]
fn what_is_no_docker_config_is_refused_with_its_place() {
    let refused = |bytes: &[u8]| Document::parse(bytes).unwrap_err().to_string();
    assert!(refused(b"\xef\xbb\xbf{}").contains("byte order mark"));
    assert!(refused(b"{\"a\": \"\xff\"}").contains("not UTF-8 at byte 7"));
    assert!(refused(b"[]").contains("the file is not a JSON object"));
    assert!(refused(b"{\"auths\": []}").contains("its `auths` is not a JSON object"));
    assert!(refused(b"{}{}").contains("line 1, column 3"));
    assert!(
        refused(b"{\n \"auths\": {\n  \"a\": }}").contains("line 3, column"),
        "{}",
        refused(b"{\n \"auths\": {\n  \"a\": }}")
    );
    assert!(refused(b"{\"auths\": {\"a").contains("not valid JSON"));
    // A comment, a trailing comma.
    assert!(refused(b"{ // x\n}").contains("not valid JSON"));
    assert!(refused(b"{\"a\": 1,}").contains("not valid JSON"));
}

#[test]
fn a_refusal_never_quotes_the_file() {
    let broken = br#"{"auths": {"a.io": {"auth": "c2VjcmV0OnNlY3JldA=="} "x" }"#;
    let error = Document::parse(broken).unwrap_err();
    let printed = format!("{error} {error:?}");
    assert!(!printed.contains("c2Vj"), "{printed}");
}

#[test]
fn deep_nesting_is_copied_without_a_stack_overflow() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let old = format!("{{\"x\":{deep},\"auths\":{{}}}}");
    let new = edited(&old, &[("gcr.io", "bmV3")]).unwrap();
    assert!(new.starts_with(&old[..old.len() - 3]));
}

fn removed(text: &str, unwanted: &[&str]) -> Option<String> {
    let document = Document::parse(text.as_bytes()).unwrap();
    let new = document.without(|key, _| unwanted.contains(&key));
    new.map(|new| new.expose_secret().to_owned())
}

#[test]
fn an_entry_is_cut_out_with_one_comma() {
    let all = r#"{"auths":{ "a.io":{}, "b.io":{} ,"c.io":{} }, "x":1}"#;
    for (unwanted, left) in [
        (vec!["a.io"], r#"{"auths":{ "b.io":{} ,"c.io":{} }, "x":1}"#),
        (vec!["b.io"], r#"{"auths":{ "a.io":{} ,"c.io":{} }, "x":1}"#),
        (vec!["c.io"], r#"{"auths":{ "a.io":{}, "b.io":{} }, "x":1}"#),
        (vec!["a.io", "b.io"], r#"{"auths":{"c.io":{} }, "x":1}"#),
        (vec!["b.io", "c.io"], r#"{"auths":{ "a.io":{} }, "x":1}"#),
        (vec!["a.io", "c.io"], r#"{"auths":{ "b.io":{} }, "x":1}"#),
        (vec!["a.io", "b.io", "c.io"], r#"{"auths":{}, "x":1}"#),
    ] {
        assert_eq!(removed(all, &unwanted).unwrap(), left, "{unwanted:?}");
    }
    assert_eq!(removed(all, &["d.io"]), None);
    assert_eq!(removed(r#"{"auths":{}}"#, &["d.io"]), None);
}

fn helped(text: &str, helpers: &[(&str, Option<&str>)]) -> Option<String> {
    let helpers: Vec<_> =
        helpers.iter().map(|(host, value)| (*host, value.map(str::to_owned))).collect();
    let document = Document::parse(text.as_bytes()).unwrap();
    document.with_helpers(&helpers).map(|new| new.expose_secret().to_owned())
}

#[test]
fn a_helper_is_added_replaced_and_removed() {
    let empty = Some("\"\"");
    assert_eq!(
        helped(r#"{"credsStore": "x"}"#, &[("a.io", empty)]).unwrap(),
        r#"{"credsStore": "x","credHelpers": {"a.io": ""}}"#
    );
    assert_eq!(
        helped(r#"{"credHelpers": {"a.io": "y", "b.io": "z"}}"#, &[("a.io", empty)]).unwrap(),
        r#"{"credHelpers": {"a.io": "", "b.io": "z"}}"#
    );
    assert_eq!(
        helped(r#"{"credHelpers": {"b.io": "z"}}"#, &[("a.io", empty)]).unwrap(),
        r#"{"credHelpers": {"b.io": "z","a.io": ""}}"#
    );
    assert_eq!(
        helped(r#"{"credHelpers": {"a.io": "", "b.io": "z"}}"#, &[("a.io", None)]).unwrap(),
        r#"{"credHelpers": { "b.io": "z"}}"#
    );
    assert_eq!(
        helped(r#"{"credHelpers":null}"#, &[("a.io", empty)]).unwrap(),
        r#"{"credHelpers":{"a.io":""}}"#
    );
    assert_eq!(helped(r#"{"credHelpers": {"a.io": ""}}"#, &[("a.io", empty)]), None);
    assert_eq!(helped("{}", &[("a.io", None)]), None);
}

fn with_tabs(value: &Value) -> String {
    let mut bytes = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, tabs);
    serde::Serialize::serialize(value, &mut serializer).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Any JSON, printed in any style, with white space in odd places.
fn any_config() -> impl Strategy<Value = (Value, String)> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let key = prop_oneof![Just("gcr.io".to_owned()), "[a-z]{1,3}\\.io", any::<String>()];
    let entry = prop_oneof![
        "[a-z]{1,8}"
            .prop_map(|word| serde_json::json!({ "auth": STANDARD.encode(format!("u:{word}")) })),
        value.clone(),
    ];
    let auths = prop::option::of(prop::collection::hash_map(key, entry, 0..6));
    (prop::collection::hash_map("[a-zA-Z\"\\\\ {]{0,6}", value, 0..5), auths, 0..4_u8).prop_map(
        |(top, auths, style)| {
            let mut object: serde_json::Map<_, _> =
                top.into_iter().filter(|(key, _)| !key.eq_ignore_ascii_case("auths")).collect();
            if let Some(auths) = auths {
                object.insert("auths".to_owned(), Value::Object(auths.into_iter().collect()));
            }
            let value = Value::Object(object);
            let text = match style {
                0 => value.to_string(),
                1 => serde_json::to_string_pretty(&value).unwrap(),
                2 => serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n"),
                _ => format!(" \n{}\n\n", with_tabs(&value)),
            };
            (value, text)
        },
    )
}

proptest! {
    #[test]
    fn any_json_keeps_all_that_is_not_ours((value, text) in any_config(), word in "[A-Za-z0-9+/]{4,40}") {
        let wanted = [(host("gcr.io"), SecretString::from(word.clone())), (host("new.example"), SecretString::from("eDp5"))];
        let document = Document::parse(text.as_bytes()).unwrap();
        let new = document.with(&wanted).unwrap();
        let new = new.expose_secret();

        let mut expected = value;
        for (name, auth) in &wanted {
            expected["auths"][name.as_str()] = serde_json::json!({ "auth": auth.expose_secret() });
        }
        prop_assert_eq!(serde_json::from_str::<Value>(new).unwrap(), expected);

        // Twice equals once.
        let again = Document::parse(new.as_bytes()).unwrap();
        prop_assert!(again.with(&wanted).is_none());
        for (name, auth) in &wanted {
            let found = again.auth(name).unwrap();
            prop_assert_eq!(found.expose_secret(), auth.expose_secret());
        }
    }

    #[test]
    fn bytes_outside_of_our_entry_are_copied((_, text) in any_config()) {
        let first = edited(&text, &[("gcr.io", "Zmlyc3Q=")]).unwrap_or(text);
        let second = edited(&first, &[("gcr.io", "c2Vjb25kLW9uZQ==")]).unwrap();
        prop_assert_eq!(first.replace("Zmlyc3Q=", "c2Vjb25kLW9uZQ=="), second);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(document) = Document::parse(&bytes) {
            let _ = document.with(&[(host("gcr.io"), SecretString::from("eDp5"))]);
            let _ = document.without(|key, _| key.len() > 1);
            let _ = document.with_helpers(&[("gcr.io", Some("\"\"".to_owned()))]);
            for reader in [Reader::Docker, Reader::Podman] {
                let _ = obstacles(&document, &[host("gcr.io")], reader);
            }
        }
    }

    #[test]
    fn no_json_like_text_makes_it_panic(text in "[\\{\\}\\[\\]\",:a1 \\\\n\\n]{0,40}|\\{\"auths\":[\\{\\}\\[\\]\",:a1 ]{0,30}\\}") {
        if let Ok(document) = Document::parse(text.as_bytes())
            && let Some(new) = document.with(&[(host("gcr.io"), SecretString::from("eDp5"))])
        {
            let again = Document::parse(new.expose_secret().as_bytes()).unwrap();
            prop_assert!(again.auth(&host("gcr.io")).is_some());
        }
    }

    #[test]
    fn what_is_added_can_be_cut_out_again((_, text) in any_config()) {
        let before = text.clone();
        let is_new = auth(&before, "zz.example").is_none();
        if is_new && let Some(new) = edited(&text, &[("zz.example", "eDp5")]) {
            let back = removed(&new, &["zz.example"]).unwrap();
            let (one, other): (Value, Value) =
                (serde_json::from_str(&back).unwrap(), serde_json::from_str(&before).unwrap_or(Value::Null));
            // Where there was no `auths`, an empty one stays.
            let auths = |value: &Value| value.get("auths").cloned().filter(|auths| *auths != serde_json::json!({}) && !auths.is_null());
            prop_assert_eq!(auths(&one), auths(&other));
            prop_assert_eq!(one.get("credHelpers"), other.get("credHelpers"));
        }
    }
}
