//! Talking to an update server: authorised, patient, and with a cookie that is renewed when it is worn out.

use std::time::Duration;

use tierway_common::trust::digest::Digest;
use tokio::time::sleep;
use tracing::debug;

use super::soap::{
    self, AnswerError, Authorisation, Cookie, Delta, Documents, Fault, Filter, Limits, Question, Wanted,
};
use crate::sources::{
    fetch::{FetchError, Retry, post::Post},
    windows::{
        model::{Guid, Identity},
        xml::Element,
    },
};

/// Longest answer: the list of 24,509 revisions has 3 MB, documents come in 2 MB, a single one packed in up to 50 MB.
const ANSWER_BYTES_MAX: u64 = 128 << 20;

/// Cookies that one call may wear out before the server is not believed any more.
const RENEWALS_MAX: u32 = 3;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server refused.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The answer is none.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// There is no answer.
    #[error("could not ask `{operation}`")]
    Fetch {
        /// What.
        operation: &'static str,
        /// Why.
        source: FetchError,
    },
}

/// Who asks whom.
#[derive(Debug)]
pub(super) struct Session<'a, P> {
    post: &'a P,
    /// Without a slash at the end.
    server: &'a str,
    retry: Retry,
    /// A name and a number of this installation.
    account: (&'a str, &'a str),
    authorisation_url: Option<String>,
    authorisation: Option<Authorisation>,
    cookie: Option<Cookie>,
    worn: Option<Cookie>,
}

impl<'a, P: Post> Session<'a, P> {
    /// Nothing said yet.
    pub(super) fn new(post: &'a P, server: &'a str, account: (&'a str, &'a str), retry: Retry) -> Self {
        Self {
            post,
            server: server.trim_end_matches('/'),
            retry,
            account,
            authorisation_url: None,
            authorisation: None,
            cookie: None,
            worn: None,
        }
    }

    /// The server's limits, and the anchor of its configuration.
    pub(super) async fn limits(&mut self, anchor: Option<&str>) -> Result<Limits, CallError> {
        let result = self.call(&|cookie| Question::config_data(cookie, anchor)).await?;
        Ok(soap::limits(&result)?)
    }

    /// Products, classifications and detectoids since the anchor, and the next anchor.
    pub(super) async fn categories(
        &mut self,
        anchor: Option<&str>,
    ) -> Result<(String, Vec<Identity>), CallError> {
        let filter = Filter { anchor, wanted: Wanted::Categories };
        let result = self.call(&|cookie| Question::revision_ids(cookie, &filter)).await?;
        Ok(soap::revision_ids(&result)?)
    }

    /// Updates since the anchor, and the next anchor.
    pub(super) async fn updates(
        &mut self,
        anchor: Option<&str>,
        products: &[(Guid, Delta)],
        classifications: &[(Guid, Delta)],
    ) -> Result<(String, Vec<Identity>), CallError> {
        let filter = Filter { anchor, wanted: Wanted::Updates { products, classifications } };
        let result = self.call(&|cookie| Question::revision_ids(cookie, &filter)).await?;
        Ok(soap::revision_ids(&result)?)
    }

    /// Documents, some `bytes_max` of text at once; a server may give fewer than were asked for.
    pub(super) async fn documents(
        &mut self,
        ids: &[Identity],
        bytes_max: u32,
    ) -> Result<Documents, CallError> {
        let result = self.call(&|cookie| Question::update_data(cookie, ids)).await?;
        Ok(soap::update_data(&result, ids, bytes_max)?)
    }

    /// Asks with a cookie, with a new one where that is the matter.
    async fn call(&mut self, question: &(dyn Fn(&Cookie) -> Question + Sync)) -> Result<Element, CallError> {
        let mut renewals = 0;
        loop {
            let cookie = self.cookie(&mut renewals).await?;
            match self.send(&self.url(soap::SERVICE), &question(&cookie)).await {
                Err(CallError::Fault(fault)) if fault.is_about_cookies() && renewals < RENEWALS_MAX => {
                    debug!(%fault, "renewing the cookie");
                    renewals += 1;
                    self.worn = self.cookie.take();
                    if fault.is("InvalidAuthorizationCookie") {
                        self.authorisation = None;
                    }
                }
                other => return other,
            }
        }
    }

    async fn cookie(&mut self, renewals: &mut u32) -> Result<Cookie, CallError> {
        loop {
            if let Some(cookie) = &self.cookie {
                return Ok(cookie.clone());
            }
            let authorisation = self.authorised().await?;
            let question = Question::cookie(&authorisation, self.worn.as_ref());
            match self.send(&self.url(soap::SERVICE), &question).await {
                Ok(result) => {
                    self.worn = None;
                    self.cookie = Some(soap::cookie(&result)?);
                }
                Err(CallError::Fault(fault)) if fault.is_about_cookies() && *renewals < RENEWALS_MAX => {
                    *renewals += 1;
                    (self.worn, self.authorisation) = (None, None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn authorised(&mut self) -> Result<Authorisation, CallError> {
        if let Some(authorisation) = &self.authorisation {
            return Ok(authorisation.clone());
        }
        let url = match &self.authorisation_url {
            Some(url) => url.clone(),
            None => {
                let result = self.send(&self.url(soap::SERVICE), &Question::auth_config()).await?;
                // Relative to the server; one that names another server is not followed.
                let url = self.url(soap::authorisation_path(&result)?.trim_start_matches('/'));
                self.authorisation_url.insert(url).clone()
            }
        };
        let (name, number) = self.account;
        let result = self.send(&url, &Question::authorisation(name, number)).await?;
        Ok(self.authorisation.insert(soap::authorisation(&result)?).clone())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.server)
    }

    /// Sends one message until it is answered, waiting longer from time to time.
    async fn send(&self, url: &str, question: &Question) -> Result<Element, CallError> {
        let operation = question.operation;
        let mut failures = 0;
        loop {
            let error = match self.once(url, question).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            failures += 1;
            let passes = match &error {
                CallError::Fault(fault) => fault.is("ServerBusy") || fault.is("FileDigestsMissing"),
                CallError::Answer(_) => false,
                CallError::Fetch { source, .. } => source.is_passing(),
            };
            let Some(wait) = self.retry.wait(failures).filter(|_| passes) else { return Err(error) };
            debug!(%error, operation, failures, "asking again");
            sleep(wait + self.jitter(operation, failures, wait)).await;
        }
    }

    async fn once(&self, url: &str, question: &Question) -> Result<Element, CallError> {
        let operation = question.operation;
        let fetch = |source| CallError::Fetch { operation, source };
        let posted = self
            .post
            .post(url, &question.action(), question.envelope(), ANSWER_BYTES_MAX)
            .await
            .map_err(fetch)?;
        match soap::result(operation, &posted.bytes) {
            Ok(Ok(result)) if posted.status == 200 => Ok(result),
            Ok(Err(fault)) => Err(fault.into()),
            // A page of a proxy, or of a server that is just starting.
            _ if posted.status != 200 => {
                Err(fetch(FetchError::Status { url: url.to_owned(), status: posted.status }))
            }
            Err(error) => Err(error.into()),
            Ok(Ok(_)) => Err(fetch(FetchError::Status { url: url.to_owned(), status: posted.status })),
        }
    }

    /// Up to a quarter of the wait, another one at each installation, so that they do not all come at once.
    fn jitter(&self, operation: &str, failures: u32, wait: Duration) -> Duration {
        let seed = Digest::of(format!("{} {operation} {failures}", self.account.1).as_bytes());
        wait / 4 * u32::from(seed.as_bytes()[0]) / 256
    }
}
