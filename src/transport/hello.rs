//! The first exchange on a connection: who is there, in which life, speaking which versions.
//!
//! The dialling side opens a bi stream and sends its hello; the other side answers with its own or closes. A pair
//! speaks the lower of the two maxima. The form of the hello never changes: a newer one is a new frame kind.

use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::{PeerId, frame};
use serde::{Deserialize, Serialize};

/// The versions of the protocol between peers that this build speaks, lowest and highest.
pub const PROTOCOL_RANGE: (u16, u16) = (1, 1);
/// The frame kind of a hello.
pub(crate) const KIND_HELLO: u8 = 1;
/// The most bytes of a hello's frame.
pub(crate) const HELLO_BYTES_MAX: usize = 256;

/// What a peer says of itself before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub protocol_min: u16,
    pub protocol_max: u16,
    pub peer: PeerId,
    /// Drawn anew at each start: two connections with unequal nonces are of two lives.
    pub boot: u64,
}

impl Hello {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        frame::write(&mut out, KIND_HELLO, &codec::encode(self));
        out
    }

    pub fn decode(kind: u8, payload: &[u8]) -> Option<Hello> {
        (kind == KIND_HELLO).then(|| codec::decode::<Hello, RPC_BYTES_MAX>(payload).ok()).flatten()
    }

    /// The version that a pair speaks, if there is one.
    pub fn common_version(&self, other: &Hello) -> Option<u16> {
        let version = self.protocol_max.min(other.protocol_max);
        (version >= self.protocol_min.max(other.protocol_min)).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{KIND_REFUSED, UNI_MESSAGE, UNI_STREAM};

    #[test]
    fn golden_bytes() {
        let hello = Hello { protocol_min: 1, protocol_max: 2, peer: PeerId(3), boot: 4 };
        let bytes = hello.encode();
        assert_eq!(bytes[..8], [b'p', b'm', 1, KIND_HELLO, 4, 0, 0, 0]);
        assert_eq!(bytes[12..], [1, 2, 3, 4]);
        assert_eq!(Hello::decode(KIND_HELLO, &bytes[12..]), Some(hello));
        assert_eq!([KIND_REFUSED, UNI_MESSAGE, UNI_STREAM], [0xff, 1, 2]);
    }

    #[test]
    fn a_pair_speaks_the_lower_maximum_or_nothing() {
        let range = |protocol_min, protocol_max| Hello { protocol_min, protocol_max, peer: PeerId(0), boot: 0 };
        assert_eq!(range(1, 2).common_version(&range(2, 3)), Some(2));
        assert_eq!(range(1, 1).common_version(&range(1, 9)), Some(1));
        assert_eq!(range(1, 1).common_version(&range(2, 3)), None);
    }
}
