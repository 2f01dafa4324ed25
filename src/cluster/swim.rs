//! What foca needs from us: an identity, a codec, a handler of broadcast records.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, BufMut};
use foca::{BroadcastHandler, Codec, Header, Identity, Invalidates, Member};
use promesh_model::codec::{self, DATAGRAM_BYTES_MAX};
use promesh_model::{Generation, PeerId};
use serde::{Deserialize, Serialize};

use crate::record::PeerRecord;

/// A peer in one of its lives at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: PeerId,
    pub(crate) generation: Generation,
    /// Counts rejoins within a life, after others declared it down. In memory only.
    pub(crate) renewal: u32,
    pub(crate) address: SocketAddr,
}

impl Identity for Node {
    /// The UUID, not the address: a peer that comes back elsewhere is the same peer.
    type Addr = PeerId;

    fn renew(&self) -> Option<Node> {
        Some(Node { renewal: self.renewal + 1, ..*self })
    }

    fn addr(&self) -> PeerId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Node) -> bool {
        (self.generation, self.renewal, self.address) > (adversary.generation, adversary.renewal, adversary.address)
    }
}

pub(crate) struct SwimCodec;

/// foca reads several values from one packet; each takes its own bytes off the front.
fn decode_front<T: serde::de::DeserializeOwned>(mut buf: impl Buf) -> Result<T, codec::DecodeError> {
    let (value, used) = codec::decode_prefix::<T, DATAGRAM_BYTES_MAX>(buf.chunk())?;
    buf.advance(used);
    Ok(value)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SwimCodecError {
    #[error(transparent)]
    Decode(#[from] codec::DecodeError),
    #[error("no room left in the packet")]
    NoRoom,
}

fn encode_whole<T: Serialize>(value: &T, mut buf: impl BufMut) -> Result<(), SwimCodecError> {
    let bytes = codec::encode(value);
    if bytes.len() > buf.remaining_mut() {
        return Err(SwimCodecError::NoRoom);
    }
    buf.put_slice(&bytes);
    Ok(())
}

impl Codec<Node> for SwimCodec {
    type Error = SwimCodecError;

    fn encode_header(&mut self, header: &Header<Node>, buf: impl BufMut) -> Result<(), SwimCodecError> {
        encode_whole(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Node>, SwimCodecError> {
        Ok(decode_front(buf)?)
    }

    fn encode_member(&mut self, member: &Member<Node>, buf: impl BufMut) -> Result<(), SwimCodecError> {
        encode_whole(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Node>, SwimCodecError> {
        Ok(decode_front(buf)?)
    }
}

/// The newest record of every peer.
#[derive(Default)]
pub(crate) struct Records {
    /// Grows with every record taken in.
    pub(crate) changes: u64,
    pub(crate) newest: BTreeMap<PeerId, PeerRecord>,
}

impl Records {
    /// Takes a record in if it is newer than what is known; says whether it was.
    pub(crate) fn take(&mut self, record: PeerRecord) -> bool {
        let newer = self.newest.get(&record.id).is_none_or(|known| record.is_newer_than(known));
        if newer {
            self.changes += 1;
            self.newest.insert(record.id, record);
        }
        newer
    }
}

/// Keeps the newest record of every peer and passes news on.
#[derive(Clone, Default)]
pub(crate) struct SharedRecords(Arc<Mutex<Records>>);

impl SharedRecords {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.lock().expect("no code that holds this lock can panic")
    }
}

pub(crate) struct RecordKey(PeerId, Generation, u64);

impl Invalidates for RecordKey {
    fn invalidates(&self, other: &RecordKey) -> bool {
        self.0 == other.0 && (self.1, self.2) > (other.1, other.2)
    }
}

impl BroadcastHandler<Node> for SharedRecords {
    type Key = RecordKey;
    type Error = codec::DecodeError;

    fn receive_item(&mut self, data: &[u8], _: Option<&Node>) -> Result<Option<RecordKey>, codec::DecodeError> {
        let record: PeerRecord = codec::decode::<PeerRecord, DATAGRAM_BYTES_MAX>(data)?;
        let key = RecordKey(record.id, record.generation, record.version);
        if !self.lock().take(record) {
            return Ok(None);
        }
        Ok(Some(key))
    }
}
