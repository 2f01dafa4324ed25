//! The one place that knows how messages become bytes: bincode 2, standard configuration.
//!
//! bincode is unmaintained (RUSTSEC-2025-0141) and pinned; its bytes are fixed by golden tests wherever a message is
//! defined, so that another encoder could take its place unseen. It has no schema evolution: a message is never
//! extended in place, it gets a new kind number (see [`crate::frame`]).

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The largest message that fits a QUIC datagram before path MTU discovery.
pub const DATAGRAM_BYTES_MAX: usize = 1150;
/// The largest request or answer that is not bulk data.
pub const RPC_BYTES_MAX: usize = 1 << 20;
/// The largest message of any kind.
pub const BULK_BYTES_MAX: usize = 16 << 20;

/// Bytes that are not the message they should be.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not what the type's encoding gives, or longer than the limit.
    #[error("undecodable message: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// The message ends before the bytes do.
    #[error("{0} bytes after the end of a message")]
    TrailingBytes(usize),
}

/// Encodes a message.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, bincode::config::standard())
        .expect("wire types are plain data: no map of unknown length, no fallible serialize")
}

/// Decodes a message that takes all of `bytes`; claims of more than `LIMIT` bytes are refused before anything is
/// allocated for them.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (message, used) = decode_prefix::<T, LIMIT>(bytes)?;
    if used == bytes.len() { Ok(message) } else { Err(DecodeError::TrailingBytes(bytes.len() - used)) }
}

/// Decodes a message from the front of `bytes`; says how many it took.
///
/// # Errors
/// `Malformed`; never `TrailingBytes`.
pub fn decode_prefix<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    Ok(bincode::serde::decode_from_slice(bytes, config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let message = (7u8, 300u32, -2i64, "ab", Some(vec![1u16, 70_00]), 0.5f64);
        let bytes = encode(&message);
        assert_eq!(bytes, [7, 251, 44, 1, 3, 2, b'a', b'b', 1, 2, 1, 251, 88, 27, 0, 0, 0, 0, 0, 0, 224, 63]);
    }

    #[test]
    fn forged_lengths_and_trailing_bytes_are_refused() {
        let mut forged = vec![253];
        forged.extend_from_slice(&(u64::MAX / 4).to_le_bytes());
        assert!(decode::<Vec<u8>, RPC_BYTES_MAX>(&forged).is_err());
        assert!(matches!(decode::<u8, RPC_BYTES_MAX>(&[1, 2]), Err(DecodeError::TrailingBytes(1))));
        assert!(decode::<String, 8>(&encode("longer than eight")).is_err());
    }
}
