//! A peer's mind: the machines of the floors below, composed, and the messages between peers.
//!
//! [`Mesh`] decides who starts which slot, who holds what and when this peer is ready; [`Peer`] joins it with
//! membership and alerting, for the simulator as for the server, which gives each a thread of its own and feeds alerting
//! what [`alert_members`] makes of a view. Nothing here reads a clock, opens a socket or touches a disk: slow
//! or failing work goes out as an [`Output`] and its result comes back as an [`Input`].

mod alerting;
mod belated;
mod clock_offset;
mod history;
mod late;
mod mesh;
mod messages;
mod ownership;
mod peer;
mod possession;
pub mod reading;
mod schedule;
mod sync;
mod view;

pub use alerting::alert_members;
pub use belated::Belated;
pub use clock_offset::{ClockOffsets, PUSH_AHEAD_MAX, SAMPLE_AHEAD_MAX, SLOT_AHEAD_MAX};
pub use history::{HistoryPlan, HistoryRules, plan_history, under_replicated_history};
pub use late::{KeptParts, LateParts, Showing, Span, late_concerns};
pub use mesh::{Change, Input, Mesh, MeshConfig, Output};
pub use messages::MeshMessage;
pub use peer::{Peer, PeerInput, PeerOutput};
pub use possession::{Debt, Extent, Possession};
pub use promesh_cluster::{Contest, Digests, Elected, Piece, PieceId, Version};
pub use schedule::{SourceCatalog, SourceSpec};
pub use view::{MeshView, PeerInfo};
