//! What peers of a world say to each other on streams.

use promesh_alerting::AlertMessage;
use promesh_cluster::Snapshot;
use promesh_model::Timestamp;
use promesh_model::codec;
use promesh_model::shard::ShardSet;
use promesh_node::{MeshMessage, Span};
use promesh_replication::{BatchHeader, SourceId};

/// What travels on streams.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Mind(MeshMessage),
    Alerting(AlertMessage),
    Batch(BatchHeader),
    Subscribe(ShardSet),
    Ask(Snapshot),
    Answer(Snapshot),
    Fetch {
        token: u64,
        shards: ShardSet,
        since: Option<Timestamp>,
    },
    Fetched {
        token: u64,
        batches: Vec<BatchHeader>,
        whole_from: Option<Timestamp>,
    },
    Window {
        token: u64,
        window: i64,
        shards: ShardSet,
    },
    WindowIs {
        token: u64,
        batches: Vec<BatchHeader>,
    },
    /// "I have late pushes in no claim of mine: this is all that I have of these shards in that window."
    Late {
        token: u64,
        span: Span,
        shards: ShardSet,
        batches: Vec<BatchHeader>,
    },
    /// "What have you of these shards in this span?"
    Read {
        token: u64,
        ask: usize,
        shards: ShardSet,
        span: Span,
    },
    /// "I have your question", by the transport of who may be long in answering it.
    ReadHeard {
        token: u64,
        ask: usize,
    },
    ReadIs {
        token: u64,
        ask: usize,
        keys: Vec<(SourceId, Timestamp)>,
    },
    /// "Of these I have everything now."
    LateTaken {
        token: u64,
        has: ShardSet,
    },
}

impl Wire {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Wire::Mind(MeshMessage::Beat(_)) => "beat",
            Wire::Mind(MeshMessage::Handover { .. } | MeshMessage::HandoverAck { .. }) => "handover",
            Wire::Mind(MeshMessage::Acting(_)) => "acting",
            Wire::Mind(MeshMessage::Possession(_)) => "possession",
            Wire::Mind(MeshMessage::Owed(_)) => "owed",
            Wire::Mind(MeshMessage::Digests(_) | MeshMessage::WantDigests) => "digests",
            Wire::Alerting(_) => "alerting",
            Wire::Batch(_) => "batch",
            Wire::Subscribe(_) => "subscribe",
            Wire::Ask(_) | Wire::Answer(_) => "exchange",
            Wire::Fetch { .. } | Wire::Fetched { .. } => "copy",
            Wire::Window { .. } | Wire::WindowIs { .. } => "window",
            Wire::Late { .. } | Wire::LateTaken { .. } => "late",
            Wire::Read { .. } | Wire::ReadHeard { .. } | Wire::ReadIs { .. } => "read",
        }
    }

    /// About as many bytes as it takes on a stream, framing aside; batches are samples, and not counted.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Wire::Mind(message) => message.encode().1.len() as u64,
            Wire::Alerting(message) => message.encode().len() as u64,
            Wire::Subscribe(shards) => codec::encode(shards).len() as u64,
            Wire::Ask(snapshot) | Wire::Answer(snapshot) => codec::encode(snapshot).len() as u64,
            Wire::Fetch { shards, .. } | Wire::Window { shards, .. } => codec::encode(shards).len() as u64,
            Wire::Late { shards, .. } | Wire::LateTaken { has: shards, .. } => codec::encode(shards).len() as u64,
            Wire::Batch(_) | Wire::Fetched { .. } | Wire::WindowIs { .. } => 0,
            Wire::Read { .. } | Wire::ReadHeard { .. } | Wire::ReadIs { .. } => 0,
        }
    }
}
