//! What a peer says of itself that ranking or claims read.

use std::fmt;
use std::net::SocketAddr;

use promesh_model::{Generation, PeerId};
use serde::{Deserialize, Serialize};

/// Where a peer stands on its way in, or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PeerState {
    /// Has not met the mesh yet, or waits for it to settle.
    Joining,
    /// Fetches the open window of the shards it will hold.
    Syncing,
    /// Owns, holds, answers.
    Ready,
    /// Gives its shards away before it stops.
    Leaving,
    /// Its clock is off: holds and answers, owns nothing.
    Skewed,
    /// Its disk is full: answers, owns nothing new.
    Full,
}

impl PeerState {
    /// As the cluster endpoint writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Joining => "joining",
            PeerState::Syncing => "syncing",
            PeerState::Ready => "ready",
            PeerState::Leaving => "leaving",
            PeerState::Skewed => "skewed",
            PeerState::Full => "full",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything about a peer that ranking or claims read: one versioned value of at most 250 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Whose.
    pub id: PeerId,
    /// In which of its lives.
    pub generation: Generation,
    /// Grows with every change within a generation.
    pub version: u64,
    /// Where it stands.
    pub state: PeerState,
    /// Failure domain; empty if none was named. At most 64 bytes.
    pub zone: String,
    /// Share of shards relative to others, 1–64.
    pub weight: u8,
    /// Oldest and newest protocol it speaks.
    pub protocol: (u8, u8),
    /// Where its HTTP server listens, as others reach it.
    pub web_address: Option<SocketAddr>,
    /// One hash over the digests of its configuration.
    pub root: u128,
}

impl PeerRecord {
    /// Whether this one replaces `other` of the same peer.
    pub fn is_newer_than(&self, other: &PeerRecord) -> bool {
        (self.generation, self.version) > (other.generation, other.version)
    }
}
