//! What both issuers have: a fault to show, and a record of what they gave.

use std::time::Duration;

use anyhow::{Result, bail};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;

use super::http::{self, Response};
use super::{Fault, Issued, Verdict, now};

/// Gives tokens, and keeps a record of them.
pub(crate) struct Issuer {
    ledger: watch::Sender<Ledger>,
}

#[derive(Default)]
struct Ledger {
    fault: Option<Fault>,
    calls: usize,
    issued: Vec<Issued>,
    secrets: Vec<String>,
}

impl Issuer {
    pub(super) fn new() -> Self {
        Self { ledger: watch::Sender::default() }
    }

    /// Makes every call fail in this way from now on.
    pub(crate) fn break_with(&self, fault: Fault) {
        self.ledger.send_modify(|ledger| ledger.fault = Some(fault));
    }

    /// Makes every call that comes from now on succeed.
    pub(crate) fn mend(&self) {
        self.ledger.send_modify(|ledger| ledger.fault = None);
    }

    /// How often it was asked, failures included. Clients that repeat a request
    /// by themselves count more than once.
    pub(crate) fn calls(&self) -> usize {
        self.ledger.borrow().calls
    }

    /// The tokens that it gave, the oldest first; those that were of no use from
    /// the start are not among them.
    pub(crate) fn issued(&self) -> Vec<Issued> {
        self.ledger.borrow().issued.clone()
    }

    /// Waits until it was asked so many times, for as long as that takes.
    pub(crate) async fn wait_for_calls(&self, count: usize) {
        self.wait_for(|ledger| ledger.calls >= count).await;
    }

    /// Waits until it gave so many tokens, for as long as that takes.
    pub(crate) async fn wait_for_issued(&self, count: usize) {
        self.wait_for(|ledger| ledger.issued.len() >= count).await;
    }

    /// Everything secret that left it or came to it.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.ledger.borrow().secrets.clone()
    }

    /// Puts a token on record that its registry will take.
    pub(super) fn issue(&self, username: &'static str, password: String, life: Duration) -> Issued {
        let at = now();
        let issued = Issued { username, password, at, expires: at + life };
        self.ledger.send_modify(|ledger| {
            ledger.secrets.extend([issued.password.clone(), issued.auth()]);
            ledger.issued.push(issued.clone());
        });
        issued
    }

    /// Puts on record what must not be seen.
    pub(super) fn keep_secret(&self, secret: &str) {
        self.ledger.send_modify(|ledger| ledger.secrets.push(secret.to_owned()));
    }

    /// A secret that is no token.
    pub(super) fn decoy(&self) -> Result<String> {
        let decoy = random_text(DECOY_BYTES)?;
        self.keep_secret(&decoy);
        Ok(decoy)
    }

    /// What a registry thinks of a user name and a password.
    pub(super) fn judge(&self, username: &str, password: &str) -> Verdict {
        let is_it = |issued: &&Issued| issued.username == username && issued.password == password;
        match self.ledger.borrow().issued.iter().find(is_it) {
            None => Verdict::Unknown,
            Some(issued) if issued.is_over() => Verdict::Expired,
            Some(_) => Verdict::Authorised,
        }
    }

    /// Counts a call and answers it: with what is `good`, or in the way of the fault
    /// that there is. `in_own_words` answers those that look different for each issuer.
    pub(super) async fn answer(
        &self,
        good: impl FnOnce() -> Result<Response>,
        in_own_words: impl FnOnce(Fault) -> Result<Response>,
    ) -> Result<Response> {
        self.ledger.send_modify(|ledger| ledger.calls += 1);
        let fault = self.ledger.borrow().fault;
        match fault {
            None => good(),
            Some(Fault::TooManyRequests { retry_after }) => http::too_many_requests(retry_after),
            Some(Fault::ServerError) => http::text(500, "Internal Server Error\n"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangUp) => bail!("hangs up, as it was told to"),
            Some(Fault::Garbage) => http::text(200, &format!("<p>{}</p>\n", self.decoy()?)),
            Some(Fault::WrongShape) => http::json(200, &self.decoy()?.into()),
            Some(Fault::Truncated) => http::truncated(good()?).await,
            Some(Fault::Stalled) => http::stalled(good()?).await,
            Some(Fault::Redirect { to }) => http::redirect(to),
            Some(
                fault @ (Fault::Throttled
                | Fault::Denied
                | Fault::Expired
                | Fault::NoToken
                | Fault::NotBase64
                | Fault::NoColon),
            ) => in_own_words(fault),
        }
    }

    async fn wait_for(&self, condition: impl Fn(&Ledger) -> bool) {
        // It only fails without a sender, which is here.
        drop(self.ledger.subscribe().wait_for(condition).await);
    }
}

/// A text that nobody can guess, of this many random bytes.
pub(super) fn random_text(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    rand::fill(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

const DECOY_BYTES: usize = 48;
