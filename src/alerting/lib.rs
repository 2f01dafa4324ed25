//! Alerts, from being posted to having been told once: a pure mind, [`Alerting`].
//!
//! Feed it, in this order of importance:
//!
//! * [`Input::View`] whenever membership or a member's readiness, zone, weight or alerting digest changes, this peer
//!   among the members, and once at the start: without a view nothing is formed and nothing sent.
//! * [`Input::Timeout`] at [`Alerting::poll_timeout`], to the millisecond if possible: flush instants hang on it. It is
//!   worked out anew by every call, never more than 500 ms ahead.
//! * [`Input::Persisted`] after the record of [`Output::Persist`] was appended *and synced*; tokens rise, one call may
//!   acknowledge many (group commit). Nothing is acknowledged to anybody before. On start, the frames go through
//!   [`message::decode_records`] into [`Setup::records`] in the order in which they were written; when the log grows
//!   past a few times [`Alerting::snapshot`], replace it by that.
//! * [`Input::Message`] for each [`Output::Send`] that arrives, from whom TLS says it is. A reliable, ordered stream is
//!   best; lost and repeated messages are survived. [`message::AlertMessage::encode`] gives a frame.
//! * [`Input::Post`] for alerts of own rules ([`PostedAlert::own_rule`]) and of `POST /api/v2/alerts`, at most 1,000 at
//!   once; answer the client on [`Output::Posted`]. Silences likewise.
//! * [`Input::Notified`] exactly once for each [`Output::Notify`]. The hands run attempts side by side, connect, then read
//!   the lease (`not_after`, moved by [`Output::LeaseUntil`]), and only before it send the first byte; past it they
//!   answer [`Outcome::Expired`]. After the first byte the lease does not matter any more.
//! * [`Input::Configured`] after a reload, with the digest that this peer also publishes in its `PeerRecord`.
//!
//! `Now` must not run backwards in `monotonic`; it must count suspended time, or a paused peer would trust its lease.
//! [`Setup::boot`] must differ in every life: the generation does. After a pause the first inputs may come in any order.
//!
//! What the API serves is in [`api`] and [`views`]: pure functions over the mind. Only electors hold alerts and the log; a peer that
//! is none ([`Alerting::electorate`]) forwards posts by itself, and its API must ask an elector.
//!
//! What an Alertmanager left behind is read by [`inherit`].
//!
//! Inside: [`records`] (replicated maps), [`alert`], [`silence`], [`nflog`], [`route`], [`inhibit`], [`dispatch`] (when
//! groups are due), [`electorate`] (who votes), [`claims`] and [`candidacy`] (who may send), and the mind that joins them.

pub mod alert;
pub mod api;
pub mod candidacy;
pub mod claims;
pub mod dispatch;
pub mod electorate;
pub mod inherit;
pub mod inhibit;
pub mod message;
mod mind;
pub mod nflog;
pub mod records;
pub mod route;
pub mod silence;
pub mod views;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod golden;

pub use alert::{AlertKey, PostedAlert};
pub use electorate::{AlertPeer, Electorate};
pub use message::AlertMessage;
pub use mind::{
    Alerting, ClaimId, Counters, Input, Limits, Notification, NotifiedAlert, Outcome, Output, Setup, Timing,
};
pub use silence::{SilenceBody, SilenceError, SilenceId};
