//! Rule groups as pure state machines: what to query for a slot, what the answers mean, which samples and alerts follow.
//!
//! A [`Group`] is asked to evaluate a slot; it says which expression to query, takes the answer, gives the samples to
//! append and the alerts to send, and goes on with its next rule, so that a rule sees what the rules before it recorded.
//! It knows no clock, no storage and no query engine: the caller drains [`Group::poll_output`] after every call.
//!
//! State survives the move to another peer in two ways: the old owner hands it over ([`Group::state`]), or the new one
//! asks for the replicated `ALERTS` and `ALERTS_FOR_STATE` series and continues from them. A read that misses shards
//! ([`Coverage`]) never resolves an alert by what it did not see.

mod alert;
mod group;
mod restore;
mod spec;
mod state;
mod view;

#[cfg(test)]
mod cases;

pub use alert::{ActiveAlert, AlertState, OutgoingAlert};
pub use group::{Appended, Coverage, Evaluation, Group, Output, ResultSample, Sample, SampleValue, Token};
pub use restore::{RestoreRequest, RestoredSeries};
pub use spec::{AlertingSpec, GroupSpec, RecordingSpec, RuleSpec, Settings, SpecError};
pub use state::{ActiveState, GroupState, RuleState};
pub use view::{AlertView, Health, RuleGroupView, RuleView};

/// The series that says an alert is pending or firing.
pub const ALERTS: &str = "ALERTS";
/// The series whose value is the second since which an alert is active.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";
