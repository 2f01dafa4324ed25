//! The mesh as one peer sees it, for readers outside the mind: queries, the cluster endpoint, fan-out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use promesh_cluster::{Digests, Elected, PeerState, PieceId, Placement};
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, PeerId, ShardId, Timestamp};

use crate::possession::Possession;

/// One peer as another sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerInfo {
    /// Who.
    pub id: PeerId,
    /// Its QUIC address.
    pub address: SocketAddr,
    /// Where its HTTP server is, if it has said so.
    pub web_address: Option<SocketAddr>,
    /// In which of its lives.
    pub generation: Generation,
    /// What it says of itself; none until its record arrived.
    pub state: Option<PeerState>,
    /// Its zone.
    pub zone: String,
    /// Whether membership holds it for alive.
    pub alive: bool,
    /// Whether membership suspects it.
    pub suspect: bool,
    /// What its configuration says; of nothing until its list was read.
    pub digests: Arc<Digests>,
    /// Whether its beats have stopped.
    pub silent: bool,
    /// Since when it is what it is.
    pub since: Timestamp,
    /// Its clock less ours, in ms.
    pub clock_offset_ms: Option<i64>,
    /// Shards it says it acts for, of those it shares with us.
    pub acting: usize,
    /// The usual gap between its beats, if it beats to us.
    pub beat_gap: Option<Duration>,
    /// Sequence of its newest batch, by its last beat.
    pub position: u64,
    /// Every slot of its own up to here was started.
    pub started_through: Timestamp,
    /// How often it was found that it may have what is not here: what was compared with it before is compared again.
    pub doubts: u64,
}

/// What one peer knows, at one moment.
#[derive(Clone, Debug)]
pub struct MeshView {
    /// Whose view.
    pub me: PeerId,
    /// Grows with every change.
    pub number: u64,
    /// Where this peer stands.
    pub state: PeerState,
    /// Copies wanted.
    pub replication_factor: usize,
    /// The others, by id.
    pub peers: Vec<PeerInfo>,
    /// Those that it knew in a life before and has not met in this one.
    pub unmet: Vec<PeerId>,
    /// Ranks over ready members.
    pub placement: Arc<Placement>,
    /// Shards whose slots this peer starts.
    pub acting: ShardSet,
    /// What this peer holds.
    pub own: Arc<Possession>,
    /// What the others hold.
    pub possession: Arc<BTreeMap<PeerId, Arc<Possession>>>,
    /// What this peer's configuration says.
    pub digests: Arc<Digests>,
    /// Which versions of it the mesh runs.
    pub elected: Arc<Elected>,
    /// Sources of shards held here of which no batch came for the last two slots.
    pub unscraped: usize,
    /// Copies under way: shards and where from.
    pub fetching: Vec<(PeerId, usize)>,
}

impl PeerInfo {
    /// A peer that is ready and heard, and of which nothing else is known.
    pub fn ready(id: PeerId, address: SocketAddr) -> PeerInfo {
        PeerInfo {
            id,
            address,
            web_address: None,
            generation: Generation(1),
            state: Some(PeerState::Ready),
            zone: String::new(),
            alive: true,
            suspect: false,
            digests: Arc::default(),
            silent: false,
            since: Timestamp(0),
            clock_offset_ms: None,
            acting: 0,
            beat_gap: None,
            position: 0,
            started_through: Timestamp(0),
            doubts: 0,
        }
    }
}

impl MeshView {
    /// What a peer sees that is ready and knows nobody, with two copies wanted.
    pub fn alone(me: PeerId) -> MeshView {
        MeshView {
            me,
            number: 1,
            state: PeerState::Ready,
            replication_factor: 2,
            peers: Vec::new(),
            unmet: Vec::new(),
            placement: Arc::new(Placement::new()),
            acting: ShardSet::default(),
            own: Arc::default(),
            possession: Arc::default(),
            digests: Arc::default(),
            elected: Arc::default(),
            unscraped: 0,
            fetching: Vec::new(),
        }
    }

    /// A peer by id.
    pub fn peer(&self, id: PeerId) -> Option<&PeerInfo> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// Whether this peer may act for a source: it starts the shard's slots, and has the version that the mesh runs.
    pub fn acts_for(&self, shard: ShardId, piece: PieceId) -> bool {
        self.acting.contains(shard) && self.elected.may_act(self.me, piece)
    }

    /// Whether this peer has no majority: as many members are out of reach as are not, those that left in peace aside.
    /// After a crash of one of two that is so as well: nobody can tell the two apart.
    pub fn is_split(&self) -> bool {
        let missing = |peer: &&PeerInfo| !peer.alive && peer.state != Some(PeerState::Leaving);
        let away = self.peers.iter().filter(missing).count();
        let here = 1 + self.peers.iter().filter(|peer| peer.alive).count();
        away >= here
    }

    /// Shards that fewer living peers hold than should: R, or all there are.
    pub fn under_replicated(&self) -> usize {
        let wanted = self.replication_factor.min(self.placement.len());
        if wanted == 0 {
            return 0;
        }
        let mut copies = vec![0u8; promesh_model::SHARD_COUNT];
        let held = self.own.open_shards();
        let living = self.peers.iter().filter(|peer| peer.alive);
        let theirs = living.filter_map(|peer| self.possession.get(&peer.id)).map(|held| held.open_shards());
        for set in theirs.chain([held]) {
            for shard in set.iter() {
                copies[usize::from(shard.0)] = copies[usize::from(shard.0)].saturating_add(1);
            }
        }
        copies.iter().filter(|&&count| usize::from(count) < wanted).count()
    }

    /// Shards for which no living peer, this one included, is known to act.
    pub fn holders(&self, shard: ShardId) -> impl Iterator<Item = PeerId> + '_ {
        self.placement.ranks(shard).take(self.replication_factor)
    }
}
