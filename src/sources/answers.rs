//! What the answers of token endpoints have in common: a token and its life, or a refusal with a reason.

use std::time::{Duration, SystemTime};

use hyper::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::FetchError;
use crate::network::{Answer, Unanswered};

/// An access token, as OAuth has it (<https://www.rfc-editor.org/rfc/rfc6749#section-5.1>).
#[derive(Deserialize)]
pub(super) struct AccessToken {
    pub(super) access_token: SecretString,
    expires_in: Seconds,
}

/// Most write a number, Azure's metadata writes a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

impl AccessToken {
    /// How long it lives from when it was asked for.
    pub(super) fn life(&self) -> Option<Duration> {
        let seconds = match &self.expires_in {
            Seconds::Number(seconds) => *seconds,
            Seconds::Text(text) => text.parse().ok()?,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// The document in a good answer; what a bad one means.
pub(super) fn document<T: serde::de::DeserializeOwned>(
    service: &'static str,
    answer: Result<Answer, Unanswered>,
) -> Result<(T, Answer), FetchError> {
    let answer = good(service, answer)?;
    let document = answer
        .json()
        .map_err(|error| FetchError::BadAnswer { service, detail: error.to_string() })?;
    Ok((document, answer))
}

/// When a token expires, where an answer says it as <https://www.rfc-editor.org/rfc/rfc3339> has it.
pub(super) fn end(service: &'static str, text: &str) -> Result<SystemTime, FetchError> {
    humantime::parse_rfc3339_weak(text).map_err(|_| {
        let detail = "it does not say when the token expires".to_owned();
        FetchError::BadAnswer { service, detail }
    })
}

/// A good answer; what a bad one means.
pub(super) fn good(
    service: &'static str,
    answer: Result<Answer, Unanswered>,
) -> Result<Answer, FetchError> {
    let answer = answer.map_err(|error| unanswered(service, &error))?;
    if answer.status.is_success() { Ok(answer) } else { Err(refusal(service, &answer)) }
}

fn unanswered(service: &'static str, error: &Unanswered) -> FetchError {
    let detail = error.to_string();
    match error {
        Unanswered::Unreachable(_) => FetchError::Unreachable { service, detail },
        Unanswered::CutShort | Unanswered::TooLarge => FetchError::BadAnswer { service, detail },
        Unanswered::BadAddress(_) | Unanswered::InTheClear(_) | Unanswered::BadQuestion => {
            FetchError::BadCredentials { cloud: service, detail }
        }
    }
}

/// What an answer with another status than "good" means.
fn refusal(service: &'static str, answer: &Answer) -> FetchError {
    let (status, retry_after) = (answer.status.as_u16(), answer.retry_after());
    let reason = Reason::of(answer);
    let detail = match (&reason.code, &reason.message) {
        (Some(code), Some(message)) => format!("{code}: {message} (HTTP {status})"),
        (Some(text), None) | (None, Some(text)) => format!("{text} (HTTP {status})"),
        (None, None) => format!("HTTP {}", answer.status),
    };
    let says = |words: &str| reason.message.as_ref().is_some_and(|message| message.contains(words));
    let is_spent = answer.header(&QUOTA_LEFT) == Some("0") || retry_after.is_some();
    match (status, reason.code.as_deref()) {
        // GitHub says so with 403.
        (403, _) if is_spent => FetchError::Throttled { service, detail, retry_after },
        // Entra says so of an assertion that is not of now: a clock's fault, or a file's that is about to be rotated.
        (400..500, Some("invalid_client")) if says("AADSTS700024") => {
            FetchError::Refused { service, detail }
        }
        (429, _) => FetchError::Throttled { service, detail, retry_after },
        (408 | 500.., _) => FetchError::Server { service, detail, retry_after },
        (300..400, _) => FetchError::BadAnswer {
            service,
            detail: "it sends us elsewhere, which it never does: check its address and any proxy"
                .to_owned(),
        },
        // The identity is wrong, whatever time it is.
        (_, Some("invalid_client" | "unauthorized_client" | "access_denied")) | (403, _) => {
            FetchError::Denied { service, detail }
        }
        // A signature or a token that is not good yet or any more can be the clock's fault.
        _ => FetchError::Refused { service, detail },
    }
}

/// Why somebody says no, in the forms in which clouds say it.
struct Reason {
    code: Option<String>,
    message: Option<String>,
}

impl Reason {
    fn of(answer: &Answer) -> Self {
        let Ok(body) = answer.json::<Value>() else { return Self { code: None, message: None } };
        let error = &body["error"];
        let first = &body["errors"][0];
        let text = |value: &Value| value.as_str().map(plain);
        Self {
            // OAuth's; Google's; the registries'.
            code: text(error).or_else(|| text(&error["status"])).or_else(|| text(&first["code"])),
            message: text(&body["error_description"])
                .or_else(|| text(&error["message"]))
                .or_else(|| text(&first["message"]))
                .or_else(|| text(&body["message"])),
        }
    }
}

/// Somebody's words for a log: on one line, not too many, and none so long that it could be a token.
pub(super) fn plain(text: &str) -> String {
    let mut words = String::new();
    for word in text.split_whitespace() {
        if words.len() > LONGEST_REASON {
            words.push_str(" …");
            break;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(if word.len() > LONGEST_WORD { "…" } else { word });
    }
    words.replace(char::is_control, "\u{fffd}")
}

const QUOTA_LEFT: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

const LONGEST_REASON: usize = 400;

/// Longer than an ARN or a long address, and shorter than any token.
const LONGEST_WORD: usize = 150;

/// The whole text of an answer that is nothing but a token.
pub(super) fn text_of(answer: &Answer) -> Option<SecretString> {
    let text = std::str::from_utf8(answer.body().expose_secret()).ok()?.trim();
    (!text.is_empty()).then(|| SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_or_a_text() {
        for (text, seconds) in
            [("3599", Some(3599)), ("\"3599\"", Some(3599)), ("\"x\"", None), ("-1", None)]
        {
            let json = format!("{{\"access_token\":\"x\",\"expires_in\":{text}}}");
            let token: AccessToken = serde_json::from_str(&json).unwrap();
            assert_eq!(token.life(), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn words_of_others_are_short_and_no_orders_to_a_terminal() {
        let token = "x".repeat(200);
        assert_eq!(
            plain(&format!("bad\n\u{1b}[1mtoken {token} here")),
            "bad \u{fffd}[1mtoken … here"
        );
        assert!(plain(&"word ".repeat(1000)).len() < 500);
    }
}
