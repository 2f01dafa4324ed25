//! What minds say to each other. A message is never extended in place: a new form is a new kind number.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_cluster::{Beat, Digests};
use promesh_model::codec::{self, DecodeError, RPC_BYTES_MAX};
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, Timestamp};

use crate::possession::{Debt, Extent};

/// A message between the minds of two peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshMessage {
    /// "I live, and this is how far I am."
    Beat(Beat),
    /// "These shards are mine now: stop at this slot."
    Handover {
        /// Which.
        shards: ShardSet,
        /// The first slot that the sender will start.
        from: Timestamp,
    },
    /// "I stop at this slot."
    HandoverAck {
        /// Which.
        shards: ShardSet,
        /// The first slot that the sender will not start.
        from: Timestamp,
    },
    /// "These are the shards whose slots I start", of those the receiver has to do with. Replaces what was said before.
    Acting(ShardSet),
    /// "This is what I hold whole." Replaces what was said before.
    Possession(Arc<Vec<Extent>>),
    /// "This is what I was not told by others, but for which what I hold is whole." Replaces what was said before.
    Owed(Arc<BTreeMap<PeerId, Debt>>),
    /// "This is what my configuration says": the list behind the root of a record. Replaces what was said before.
    Digests(Digests),
    /// "Send me the list behind your root."
    WantDigests,
}

impl MeshMessage {
    /// The frame kinds of messages; batches have kind 1.
    pub const KINDS: std::ops::RangeInclusive<u8> = 16..=23;

    /// The message's frame kind and payload.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            MeshMessage::Beat(beat) => (16, codec::encode(beat)),
            MeshMessage::Handover { shards, from } => (17, codec::encode(&(shards, from))),
            MeshMessage::HandoverAck { shards, from } => (18, codec::encode(&(shards, from))),
            MeshMessage::Possession(extents) => (19, codec::encode(extents)),
            MeshMessage::Acting(shards) => (20, codec::encode(shards)),
            MeshMessage::Owed(debts) => (21, codec::encode(debts)),
            MeshMessage::Digests(digests) => (22, codec::encode(digests)),
            MeshMessage::WantDigests => (23, Vec::new()),
        }
    }

    /// Reads a message; `None` for a kind this build does not know.
    ///
    /// # Errors
    /// When the payload is not what its kind says.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Option<MeshMessage>, DecodeError> {
        let pair = || codec::decode::<(ShardSet, Timestamp), RPC_BYTES_MAX>(payload);
        Ok(Some(match kind {
            16 => MeshMessage::Beat(codec::decode::<Beat, RPC_BYTES_MAX>(payload)?),
            17 => pair().map(|(shards, from)| MeshMessage::Handover { shards, from })?,
            18 => pair().map(|(shards, from)| MeshMessage::HandoverAck { shards, from })?,
            19 => MeshMessage::Possession(codec::decode::<Arc<Vec<Extent>>, RPC_BYTES_MAX>(payload)?),
            20 => MeshMessage::Acting(codec::decode::<ShardSet, RPC_BYTES_MAX>(payload)?),
            21 => MeshMessage::Owed(codec::decode::<Arc<BTreeMap<PeerId, Debt>>, RPC_BYTES_MAX>(payload)?),
            22 => MeshMessage::Digests(codec::decode::<Digests, RPC_BYTES_MAX>(payload)?),
            23 => MeshMessage::WantDigests,
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use promesh_cluster::Piece;
    use promesh_model::{Generation, Labels, ShardId};

    use super::*;

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let shards: ShardSet = [ShardId(0), ShardId(70)].into_iter().collect();
        let beat = Beat {
            generation: Generation(3),
            wall: Timestamp(1_767_225_600_000),
            started_through: Timestamp(1_767_225_599_000),
            position: 9,
            suspended: false,
        };
        let extent = Extent { from: Timestamp(5), to: Timestamp::MAX, shards: shards.clone() };
        let group = Piece::Group { file: "r.yml".to_owned(), name: "g".to_owned() };
        let pieces = [(Piece::Job("a".to_owned()), 7), (group, 8), (Piece::Alerting, 9)];
        let digests = Digests::of(pieces, Labels::from_pairs([("x", "y")]), &Digests::default(), Timestamp(4));
        let (mut seen, mut kinds) = (String::new(), std::collections::BTreeSet::new());
        for message in [
            MeshMessage::Beat(beat),
            MeshMessage::Handover { shards: shards.clone(), from: Timestamp(7) },
            MeshMessage::HandoverAck { shards: shards.clone(), from: Timestamp(8) },
            MeshMessage::Acting(shards.clone()),
            MeshMessage::Possession(Arc::new(vec![extent])),
            MeshMessage::Owed(Arc::new(BTreeMap::from([(PeerId(1), Debt { since: Timestamp(5), shards })]))),
            MeshMessage::Digests(digests),
            MeshMessage::WantDigests,
        ] {
            let (kind, bytes) = message.encode();
            kinds.insert(kind);
            assert_eq!(MeshMessage::decode(kind, &bytes).expect("decodes"), Some(message));
            let shown: String = bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
            seen.push_str(&format!("{kind} {} {shown}\n", bytes.len()));
        }
        assert_eq!(kinds, MeshMessage::KINDS.collect(), "each kind has its bytes");
        expect_test::expect![[r#"
            16 21 03fd0050b5ed36030000fd3048b5ed360300000900
            17 5 000200460e
            18 5 0002004610
            20 4 00020046
            19 15 010afdfeffffffffffffff00020046
            21 7 01010a00020046
            22 48 040001610107080105722e796d6c01670108080201fe2dd4
            23 0 
        "#]]
        .assert_eq(&seen);
    }

    #[test]
    fn unknown_kinds_are_skipped_and_bad_payloads_refused() {
        assert_eq!(MeshMessage::decode(15, b"x").expect("skipped"), None);
        assert!(MeshMessage::decode(17, &[1, 2, 3]).is_err());
    }
}
