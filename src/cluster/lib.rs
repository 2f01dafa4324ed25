//! Who is in the mesh, and who owns what.
//!
//! [`Membership`] says which peers are alive (SWIM, by foca) and what each says of itself ([`PeerRecord`]);
//! [`Placement`] ranks ready peers for every shard; [`Judge`] says, from beats, whose owner has fallen silent before
//! membership knows. [`Elected`] says which version of
//! each piece of the configuration the mesh runs. All are pure: datagrams and instants in, datagrams and decisions out.

mod asks;
mod definitions;
#[cfg(test)]
mod golden;
mod judge;
mod membership;
mod placement;
mod record;
mod swim;

pub use definitions::{Contest, Digests, Elected, KnownDigests, Piece, PieceId, Version};
pub use judge::{Beat, Judge, grace_max};
pub use membership::{MemberView, Membership, MembershipInput, MembershipOutput, Snapshot};
pub use placement::{Candidate, Placement, RANKS_KEPT, RankTables};
pub use record::{PeerRecord, PeerState};
