//! Chunks: runs of one series' samples, compressed as Prometheus compresses them.
//!
//! The bytes of each encoding equal Prometheus' for the same samples, so that blocks are exchanged as they are.
//! Every chunk starts with the count of its samples (u16, big endian).
//!
//! Source: prometheus `tsdb/docs/format/chunks.md`, `tsdb/chunkenc`.

pub mod bits;
pub mod histogram;
pub mod layout;
pub mod varbit;
pub mod xor;

use thiserror::Error;

use crate::head::series::Value;

/// The most samples a chunk may hold by its format.
pub const SAMPLES_MAX: usize = u16::MAX as usize;
/// The samples after which storage starts a new chunk, as Prometheus does.
pub const SAMPLES_PER_CHUNK: u16 = 120;

/// How a chunk's samples are compressed; the number is the one in block files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Floats, XORed.
    Xor = 1,
    /// Native histograms with integer counts.
    Histogram = 2,
    /// Native histograms with float counts.
    FloatHistogram = 3,
}

impl Encoding {
    /// The encoding behind a number.
    ///
    /// # Errors
    /// `Encoding` when this build does not know it.
    pub fn from_byte(byte: u8) -> Result<Encoding, ChunkError> {
        match byte {
            1 => Ok(Encoding::Xor),
            2 => Ok(Encoding::Histogram),
            3 => Ok(Encoding::FloatHistogram),
            other => Err(ChunkError::Encoding(other)),
        }
    }
}

/// A run of samples, compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How the bytes are to be read.
    pub encoding: Encoding,
    /// Instant of the first sample.
    pub min: i64,
    /// Instant of the last sample.
    pub max: i64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Why bytes are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// The bits end before the samples do.
    #[error("chunk ends early")]
    Short,
    /// Bits that no writer makes.
    #[error("malformed chunk: {0}")]
    Malformed(&'static str),
    /// A number that stands for no encoding.
    #[error("unknown chunk encoding {0}")]
    Encoding(u8),
}

/// How many samples a chunk says it holds.
///
/// # Errors
/// `Short` when there is no header.
pub fn sample_count(chunk: &[u8]) -> Result<u16, ChunkError> {
    match chunk {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(ChunkError::Short),
    }
}

/// The instant of a chunk's first sample; nothing when there is none.
pub fn first_at(encoding: Encoding, chunk: &[u8]) -> Option<i64> {
    if sample_count(chunk).ok()? == 0 {
        return None;
    }
    match encoding {
        Encoding::Xor => bits::BitReader::new(&chunk[2..]).read_varint().ok(),
        Encoding::Histogram | Encoding::FloatHistogram => histogram::first_at(chunk).ok(),
    }
}

/// Calls `sample` with each instant, and a way to have its value, until it answers false.
///
/// # Errors
/// When the bytes are no such chunk; the samples before the damage were seen.
pub fn for_each_value(
    encoding: Encoding,
    chunk: &[u8],
    mut sample: impl FnMut(i64, &mut dyn FnMut() -> Value) -> bool,
) -> Result<(), ChunkError> {
    match encoding {
        Encoding::Xor => xor::for_each(chunk, |at, bits| sample(at, &mut || Value::Float(bits))),
        Encoding::Histogram | Encoding::FloatHistogram => {
            histogram::for_each(encoding, chunk, |at, value| sample(at, &mut || Value::Histogram(value())))
        }
    }
}
