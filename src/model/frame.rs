//! Frames: the envelope of everything that crosses a wire or lies in the log.
//!
//! ```text
//! magic u16 "pm" | version u8 | kind u8 | length u32 | crc32c u32 | payload
//! ```
//! Little endian; the checksum covers version, kind, length and payload. A kind's payload never changes its form: a new
//! form is a new kind, and older kinds decode for ever.

use thiserror::Error;

/// The frame version this build writes.
pub const FRAME_VERSION: u8 = 1;
/// The bytes before the payload.
pub const HEADER_BYTES: usize = 12;
const MAGIC: [u8; 2] = *b"pm";

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The header or the payload ends early: more bytes may make it whole.
    #[error("frame ends early")]
    Short,
    /// Not a frame at all.
    #[error("not a frame: wrong magic")]
    Magic,
    /// A frame of a version that this build does not know.
    #[error("frame version {0} is newer than this build reads ({FRAME_VERSION})")]
    Version(u8),
    /// A frame longer than the reader allows.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the header claims.
        length: usize,
        /// What the reader allows.
        limit: usize,
    },
    /// The bytes changed on their way.
    #[error("frame checksum does not match")]
    Checksum,
}

/// A frame's payload and what the header says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The form of the payload.
    pub kind: u8,
    /// The message.
    pub payload: &'a [u8],
}

/// Appends a frame to `out`.
///
/// # Panics
/// When the payload is longer than 2^32 − 1 bytes.
pub fn write(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("payloads are bounded far below 4 GiB");
    out.reserve(HEADER_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    out.push(FRAME_VERSION);
    out.push(kind);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(FRAME_VERSION, kind, length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The length of the whole frame whose header starts at `bytes`, once the header is there.
///
/// # Errors
/// All but `Checksum`.
pub fn frame_bytes(bytes: &[u8], limit: usize) -> Result<usize, FrameError> {
    if bytes.len() < HEADER_BYTES {
        let known = bytes.len().min(2);
        return Err(if bytes[..known] == MAGIC[..known] { FrameError::Short } else { FrameError::Magic });
    }
    if bytes[..2] != MAGIC {
        return Err(FrameError::Magic);
    }
    if bytes[2] == 0 || bytes[2] > FRAME_VERSION {
        return Err(FrameError::Version(bytes[2]));
    }
    let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(HEADER_BYTES + length)
}

/// Reads the frame at the front of `bytes`; says how many bytes it took.
///
/// # Errors
/// As [`FrameError`] says; `Short` when more bytes may make it whole.
pub fn read(bytes: &[u8], limit: usize) -> Result<(Frame<'_>, usize), FrameError> {
    let total = frame_bytes(bytes, limit)?;
    let payload = bytes.get(HEADER_BYTES..total).ok_or(FrameError::Short)?;
    let (version, kind) = (bytes[2], bytes[3]);
    let expected = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    if checksum(version, kind, payload.len() as u32, payload) != expected {
        return Err(FrameError::Checksum);
    }
    Ok((Frame { kind, payload }, total))
}

fn checksum(version: u8, kind: u8, length: u32, payload: &[u8]) -> u32 {
    let mut head = [0; 6];
    head[0] = version;
    head[1] = kind;
    head[2..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        write(&mut out, 9, b"hello");
        assert_eq!(out[..8], [b'p', b'm', 1, 9, 5, 0, 0, 0]);
        assert_eq!(&out[12..], b"hello");
        assert_eq!(read(&out, 5), Ok((Frame { kind: 9, payload: b"hello" }, 17)));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut out = Vec::new();
        write(&mut out, 9, b"hello");
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, 1 << 20).is_err(), "bit {bit}");
        }
        for length in 0..out.len() {
            assert_eq!(read(&out[..length], 5), Err(FrameError::Short));
        }
        assert_eq!(read(&out, 4), Err(FrameError::TooLong { length: 5, limit: 4 }));
    }
}
