//! What batch jobs push: groups of metrics that stay until they are replaced or deleted, as the Pushgateway keeps them.
//!
//! A push names its group by labels in the path ([`grouping_key`]) and brings families ([`read_families`]). [`Groups`] is
//! the state: a map from grouping labels to [`Group`], each part with a [`Version`], so that two peers' maps merge into the
//! same whatever the order. Nothing here waits, writes or looks at a clock; a push comes with its instant.
//!
//! Source: pushgateway's README and `handler`, `storage` packages.

mod expose;
mod families;
mod group;
mod groups;
mod path;
#[cfg(test)]
mod tests;

pub use families::{Family, Format, read_families};
pub use group::{Group, Stamp, Stored, Version};
pub use groups::{Groups, PushError};
pub use path::{KeyError, grouping_key};

/// The family that says when a group was last pushed to.
pub const PUSH_TIME: &str = "push_time_seconds";
/// The family that says when a push to a group last failed.
pub const PUSH_FAILURE_TIME: &str = "push_failure_time_seconds";
