use std::time::{Duration, SystemTime};

use aws_sdk_ecr::primitives::DateTime;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::credential::Lifetime;
use crate::sources::accept;
use crate::sources::aws::{classify, read_token};

fn origin(name: &str) -> Option<(String, bool, bool)> {
    EcrOrigin::of(name).map(|origin| (origin.region.into(), origin.fips, origin.dual_stack))
}

#[test]
fn every_form_of_host_name_is_read() {
    for (name, region, fips, dual_stack) in [
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com", "us-east-1", false, false),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", true, false),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "eu-west-1", false, true),
        ("123456789012.dkr-ecr-fips.us-east-1.on.aws", "us-east-1", true, true),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1", false, false),
        ("123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", "cn-north-1", false, true),
        ("123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", false, false),
        ("123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", false, false),
        ("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", false, false),
        ("123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", false, false),
        ("123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1", false, false),
    ] {
        assert_eq!(origin(name), Some((region.to_owned(), fips, dual_stack)), "{name}");
    }
}

#[test]
fn what_only_looks_like_it_is_not_taken() {
    for name in [
        "12345678901.dkr.ecr.us-east-1.amazonaws.com",
        "1234567890123.dkr.ecr.us-east-1.amazonaws.com",
        "12345678901a.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example",
        "123456789012.dkr.ecr.amazonaws.com",
        "123456789012.dkr.ecr..amazonaws.com",
        "123456789012.dkr.ecrx.us-east-1.amazonaws.com",
        "123456789012.ecr.us-east-1.amazonaws.com",
        "api.ecr.us-east-1.amazonaws.com",
        "x.123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "public.ecr.aws",
        "",
        // Of one partition, under the name of another.
        "123456789012.dkr.ecr.us-east-1.amazonaws.com.cn",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com",
        "123456789012.dkr.ecr.us-east-1.on.aws",
        "123456789012.dkr-ecr.us-east-1.amazonaws.com",
        "123456789012.dkr.ecr.us-east-1.c2s.ic.gov",
        "123456789012.dkr-ecr.us-iso-east-1.on.aws",
        "123456789012.dkr.ecr.us-iso-east-1.sc2s.sgov.gov",
    ] {
        assert_eq!(origin(name), None, "{name}");
    }
}

const NOW: Duration = Duration::from_hours(24 * 365 * 50);

fn read(
    token: Option<&str>,
    expires: Option<u64>,
) -> Result<(SecretString, SystemTime), FetchError> {
    let expires = expires.map(|at| DateTime::from_secs(i64::try_from(at).unwrap()));
    read_token(SERVICE, token.map(str::to_owned), expires)
}

fn soon() -> u64 {
    NOW.as_secs() + 60
}

#[test]
fn a_token_is_split_at_its_first_colon() {
    let token = STANDARD.encode("AWS:pass:word");
    let (secret, expires) = read(Some(&token), Some(soon())).unwrap();
    assert_eq!(secret.expose_secret(), "pass:word");
    assert_eq!(expires, SystemTime::UNIX_EPOCH + NOW + Duration::from_mins(1));
}

#[test]
fn an_answer_that_cannot_be_used_says_why_and_never_what_it_was() {
    let encode = |text: &str| STANDARD.encode(text);
    for (token, expires, words) in [
        (None, Some(soon()), "no token"),
        (Some(String::new()), Some(soon()), "no token"),
        (Some("not*base64".to_owned()), Some(soon()), "not base64"),
        (Some(STANDARD.encode(b"AWS:\xff")), Some(soon()), "not base64 of a text"),
        (Some(encode("no-colon-in-it")), Some(soon()), "`user:password`"),
        (Some(encode("other:canary")), Some(soon()), "not `AWS`"),
        (Some(encode("AWS:canary")), None, "does not say when"),
    ] {
        let error = read(token.as_deref(), expires).unwrap_err();
        assert_eq!(error.kind().as_str(), "bad_answer");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_already_is_an_error_of_its_own() {
    let token = STANDARD.encode("AWS:word");
    let (secret, expires) = read(Some(&token), Some(1_420_070_400)).unwrap();
    let clock = Clock::simulated(SystemTime::UNIX_EPOCH + NOW);
    let life = Lifetime::new(clock.now(), expires);
    let error = accept(SERVICE, "AWS", secret, life, &clock).unwrap_err();
    assert_eq!(error.kind().as_str(), "expired_answer");
    assert!(error.to_string().contains("2015-01-01T00:00:00Z"), "{error}");
    assert!(error.to_string().contains("clock"), "{error}");
}

#[test]
fn refusals_are_told_apart() {
    for (status, code, kind, is_lasting) in [
        (400, "ThrottlingException", "throttled", false),
        (429, "no error code", "throttled", false),
        (503, "no error code", "server_error", false),
        (500, "ServerException", "server_error", false),
        (400, "AccessDeniedException", "denied", true),
        (400, "UnrecognizedClientException", "denied", true),
        (400, "ExpiredTokenException", "refused", false),
        (403, "InvalidSignatureException", "refused", false),
        (404, "no error code", "refused", false),
    ] {
        let error = classify(SERVICE, status, code, "words", None);
        assert_eq!(
            (error.kind().as_str(), error.is_lasting()),
            (kind, is_lasting),
            "{status} {code}"
        );
        assert!(error.to_string().contains(code), "{error}");
    }
}
