//! Who is in the mesh, and who owns what.
//!
//! [`Membership`] says which peers are alive (SWIM, by foca) and what each says of itself ([`PeerRecord`]);
//! [`Placement`] ranks ready peers for every shard; [`Judge`] says, from beats, whose owner has fallen silent before
//! membership knows. All three are pure: datagrams and instants in, datagrams and decisions out.

mod judge;
mod membership;
mod placement;
mod record;
mod swim;

pub use judge::{Beat, Judge, grace_max};
pub use membership::{MemberView, Membership, MembershipInput, MembershipOutput, Snapshot};
pub use placement::{Candidate, Placement, RANKS_KEPT};
pub use record::{PeerRecord, PeerState};
