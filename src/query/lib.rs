//! The distributed read: one [`Queryable`] over the data of all peers.
//!
//! [`plan`] says which peer is asked for which shards: this one for all it holds whole over the span, one other holder for
//! each of the rest, several only where nobody alone has the whole span. [`MeshQueryable`] asks them at once; a part that
//! is refused, or unanswered for [`HEDGE`], is asked of the next holder too, and the first whole answer counts.
//! [`serve`] answers such parts for others. [`MeshParts`] has aggregations computed by the holders of their samples.

mod answer;
mod parts;
pub mod plan;
mod serve;
mod wire;

pub use answer::{HEDGE, MeshQueryable};
pub use parts::{MeshParts, PartCounters};
pub use serve::{Holder, KINDS, serve};
