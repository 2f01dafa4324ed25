//! The alerting half as `/api/v2` sees it.

use async_trait::async_trait;
use bytes::Bytes;
use promesh_alerting::api::{GettableSilence, ReceiverView};
use promesh_alerting::{PostedAlert, SilenceBody, SilenceError, SilenceId};
use promesh_config::alertmanager::MatcherMode;
use promesh_model::Now;
use serde_json::Value;
use thiserror::Error;

/// Why a question about alerts has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PagerError {
    /// The question makes no sense: 400.
    #[error("{0}")]
    Bad(String),
    /// Nobody who knows can be asked now: 503.
    #[error("{0}")]
    Unavailable(String),
    /// About a silence.
    #[error(transparent)]
    Silence(#[from] SilenceError),
}

/// Which list of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertList {
    /// `/alerts`
    Alerts,
    /// `/alerts/groups`
    Groups,
}

/// The alerting half of the mesh, whichever peer is asked.
#[async_trait]
pub trait Pager: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> Now;

    /// How matchers are read, and which names labels may have.
    fn matcher_mode(&self) -> MatcherMode;

    /// What `/status` says.
    async fn status(&self) -> Value;

    /// All receivers.
    async fn receivers(&self) -> Vec<ReceiverView>;

    /// A list of alerts as JSON, by the parameters of a request.
    ///
    /// # Errors
    /// `Bad` for a parameter that is none, `Unavailable` when no elector answers.
    async fn alerts(&self, list: AlertList, query: Vec<(String, String)>) -> Result<Bytes, PagerError>;

    /// Takes alerts; returns when they are safe.
    ///
    /// # Errors
    /// `Unavailable` when they are not yet.
    async fn post(&self, alerts: Vec<PostedAlert>) -> Result<(), PagerError>;

    /// Counts alerts that were refused.
    fn count_invalid(&self, alerts: usize);

    /// Silences that all filters match.
    ///
    /// # Errors
    /// `Bad` when a filter is no matcher.
    async fn silences(&self, filters: Vec<String>) -> Result<Vec<GettableSilence>, PagerError>;

    /// One silence.
    ///
    /// # Errors
    /// `Silence` when there is none.
    async fn silence(&self, id: SilenceId) -> Result<GettableSilence, PagerError>;

    /// Writes a silence; gives the name under which it stands.
    ///
    /// # Errors
    /// `Silence` when it cannot be.
    async fn put_silence(&self, id: Option<SilenceId>, body: SilenceBody) -> Result<SilenceId, PagerError>;

    /// Ends a silence; one that has ended is fine.
    ///
    /// # Errors
    /// `Silence` when there is none.
    async fn expire_silence(&self, id: SilenceId) -> Result<(), PagerError>;
}
