//! What happens in a world.

use bytes::Bytes;
use promesh_model::PeerId;
use promesh_model::Timestamp;
use promesh_model::shard::ShardSet;
use promesh_node::SourceSpec;

use super::Wire;
use crate::faults::Fault;
use crate::paging::PagingEvent;

/// A stream message with its ends.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(super) from: usize,
    pub(super) from_boot: u64,
    pub(super) to: usize,
    pub(super) to_boot: u64,
    pub(super) connection: u32,
    pub(super) wire: Wire,
}

#[derive(Debug)]
pub(crate) enum Event {
    Wake {
        peer: usize,
        boot: u64,
    },
    Datagram {
        to: usize,
        bytes: Bytes,
    },
    Stream(Box<Envelope>),
    Scraped {
        peer: usize,
        boot: u64,
        due: u64,
        spec: SourceSpec,
        slot: Timestamp,
        rank: u8,
    },
    Sync {
        peer: usize,
        boot: u64,
    },
    Seek {
        peer: usize,
        boot: u64,
    },
    FetchTimeout {
        peer: usize,
        boot: u64,
        token: u64,
    },
    Stop {
        peer: usize,
        boot: u64,
    },
    StreamLost {
        peer: usize,
        boot: u64,
        from: PeerId,
    },
    History {
        peer: usize,
        boot: u64,
    },
    HistoryTimeout {
        peer: usize,
        boot: u64,
        token: u64,
    },
    Read {
        peer: usize,
        boot: u64,
    },
    ReadWake {
        peer: usize,
        boot: u64,
        token: u64,
    },
    ReadAnswer {
        peer: usize,
        boot: u64,
        to: usize,
        token: u64,
        ask: usize,
        shards: Box<ShardSet>,
        span: (Timestamp, Timestamp),
    },
    Fault(Fault),
    Resumed(usize),
    Paging(PagingEvent),
}

impl Event {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Event::Wake { .. } => "wake",
            Event::Datagram { .. } => "datagram",
            Event::Stream(envelope) => envelope.wire.kind(),
            Event::Scraped { .. } => "scraped",
            Event::Sync { .. } => "sync",
            Event::Seek { .. } => "seek",
            Event::FetchTimeout { .. } | Event::HistoryTimeout { .. } => "timeout of a copy",
            Event::Stop { .. } | Event::StreamLost { .. } | Event::Resumed(_) | Event::Fault(_) => "fault",
            Event::History { .. } => "look at history",
            Event::Paging(_) => "paging",
            Event::Read { .. } | Event::ReadWake { .. } | Event::ReadAnswer { .. } => "read",
        }
    }

    /// Whose process it runs in.
    pub(super) fn touched(&self) -> Option<usize> {
        match self {
            Event::Wake { peer, .. }
            | Event::Scraped { peer, .. }
            | Event::Sync { peer, .. }
            | Event::Seek { peer, .. }
            | Event::Stop { peer, .. }
            | Event::StreamLost { peer, .. }
            | Event::FetchTimeout { peer, .. }
            | Event::History { peer, .. }
            | Event::HistoryTimeout { peer, .. }
            | Event::Read { peer, .. }
            | Event::ReadWake { peer, .. }
            | Event::ReadAnswer { peer, .. }
            | Event::Resumed(peer) => Some(*peer),
            Event::Paging(event) => event.peer(),
            Event::Datagram { to, .. } => Some(*to),
            Event::Stream(envelope) => Some(envelope.to),
            Event::Fault(_) => None,
        }
    }
}
