//! What is said to the mind, and what it wants done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_config::alertmanager::{AlertmanagerConfig, IntegrationName};
use promesh_model::{Labels, Monotonic, PeerId, Timestamp};

use crate::alert::PostedAlert;
use crate::electorate::AlertPeer;
use crate::message::AlertMessage;
use crate::nflog::LogKey;
use crate::silence::{SilenceBody, SilenceError, SilenceId};

/// Names one attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(pub u64);

/// What happens to a peer's alerting.
#[derive(Clone, Debug)]
pub enum Input {
    /// Who is alive, this peer included.
    View {
        /// The members.
        members: Vec<AlertPeer>,
        /// Grows with every change.
        view: u64,
    },
    /// A message came.
    Message {
        /// From whom.
        from: PeerId,
        /// What.
        message: AlertMessage,
    },
    /// Everything up to this token is durable.
    Persisted {
        /// Of [`Output::Persist`].
        token: u64,
    },
    /// Somebody posts alerts, at most 1,000 at once.
    Post {
        /// For the answer.
        token: u64,
        /// The alerts.
        alerts: Vec<PostedAlert>,
    },
    /// Somebody writes a silence.
    PutSilence {
        /// For the answer.
        token: u64,
        /// The one to change; a new one if none.
        id: Option<SilenceId>,
        /// What it says.
        body: SilenceBody,
    },
    /// Somebody ends a silence.
    ExpireSilence {
        /// For the answer.
        token: u64,
        /// Which.
        id: SilenceId,
    },
    /// An attempt to send ended.
    Notified {
        /// Of [`Output::Notify`].
        claim: ClaimId,
        /// How.
        outcome: Outcome,
    },
    /// The configuration was read anew.
    Configured {
        /// As meant.
        config: Arc<AlertmanagerConfig>,
        /// Of its content; peers compare it.
        digest: u128,
    },
    /// An operator takes a peer out of the electorate without waiting.
    Remove {
        /// Whom.
        peer: PeerId,
    },
    /// The time of [`Alerting::poll_timeout`] has come.
    Timeout,
}

/// What a peer's alerting wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message.
    Send {
        /// To whom.
        to: PeerId,
        /// What.
        message: AlertMessage,
    },
    /// Append to the log of records and sync it; tokens rise, and may be acknowledged many at once.
    Persist {
        /// For [`Input::Persisted`].
        token: u64,
        /// One frame.
        record: Vec<u8>,
    },
    /// Posted alerts are safe.
    Posted {
        /// Of the post.
        token: u64,
        /// Whether they are; else why not.
        result: Result<(), String>,
    },
    /// A silence was written or ended.
    SilencePut {
        /// Of the request.
        token: u64,
        /// Its name, or why not.
        result: Result<SilenceId, SilenceError>,
    },
    /// Send a notification. Read the lease after connecting and TLS, before the first byte: past it, answer `Expired`.
    Notify {
        /// For [`Input::Notified`].
        claim: ClaimId,
        /// What.
        notification: Box<Notification>,
        /// The lease.
        not_after: Monotonic,
    },
    /// Leases of running attempts move.
    LeaseUntil {
        /// Which.
        claims: Vec<ClaimId>,
        /// Until when.
        not_after: Monotonic,
    },
}

/// How an attempt to send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Sent {
        /// What it gave back and wants again.
        data: BTreeMap<String, String>,
    },
    /// It failed in a way that may pass.
    Retry {
        /// What the receiver asked for.
        after: Option<Duration>,
        /// Why.
        why: String,
    },
    /// It will fail for ever.
    Refused {
        /// Why.
        why: String,
    },
    /// The lease had run out before the first byte.
    Expired,
}

/// A notification to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// What the log calls it.
    pub key: LogKey,
    /// Where it goes.
    pub integration: IntegrationName,
    /// The instant it was due.
    pub flush: Timestamp,
    /// The instant of this attempt.
    pub now: Timestamp,
    /// The labels of the group.
    pub group_labels: Labels,
    /// Labels that the route adds; values may be templates.
    pub route_labels: Labels,
    /// Its alerts, by job, instance and labels.
    pub alerts: Vec<NotifiedAlert>,
    /// Why it is sent.
    pub reason: &'static str,
    /// The same for every attempt and every peer.
    pub idempotency_key: String,
    /// Whether it is sent without a majority of the electorate.
    pub degraded: bool,
    /// What the receiver gave back last time.
    pub data: BTreeMap<String, String>,
    /// Whether this is its first attempt, or the first since it was counted as failed.
    pub is_new: bool,
    /// An attempt that fails now or later counts the notification as failed. Upstream gives it up then, after
    /// `group_interval`, and makes another; here it is tried on under its old name.
    pub fails_at: Monotonic,
}

/// An alert as a receiver is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifiedAlert {
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// Since when.
    pub starts_at: Timestamp,
    /// When it ended; `None` while it fires.
    pub ends_at: Option<Timestamp>,
    /// Where it came from.
    pub generator_url: String,
}
