//! The distributed read: one [`Queryable`] over the data of all peers.
//!
//! A [`Reading`](promesh_node::reading::Reading) says which peer is asked for which shards, and whom else when one is late;
//! [`MeshQueryable`] asks them. [`serve`] answers for others. [`MeshParts`] has aggregations computed by the holders of their samples.

mod answer;
mod parts;
mod serve;
mod wire;

pub use answer::MeshQueryable;
pub use parts::{MeshParts, PartCounters};
pub use serve::{Holder, KINDS, serve};
