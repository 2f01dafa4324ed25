//! Bytes of headers and integers: LEB128, zigzag, bounds checked on the way in.

use promesh_model::{Generation, PeerId, ShardId, Timestamp};

use super::{BatchHeader, FramingError, Order, Origin, SourceId};

const FLAG_FAILED: u8 = 1;
const FLAG_KEY: u8 = 2;

pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn push_signed(out: &mut Vec<u8>, value: i64) {
    push_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes values off the front of a payload.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, FramingError> {
        let (&byte, rest) = self.0.split_first().ok_or(FramingError::Malformed("ends early"))?;
        self.0 = rest;
        Ok(byte)
    }

    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], FramingError> {
        let (slice, rest) = self.0.split_at_checked(length).ok_or(FramingError::Malformed("ends early"))?;
        self.0 = rest;
        Ok(slice)
    }

    pub(super) fn varint(&mut self) -> Result<u64, FramingError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FramingError::Malformed("number too long"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, FramingError> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// A count of things that take at least one byte each of what is left, so that no claim allocates more than the
    /// message's own size allows.
    pub(super) fn count(&mut self, per_byte: usize) -> Result<usize, FramingError> {
        let count = self.varint()?;
        if count > (self.0.len() as u64).saturating_mul(per_byte as u64).saturating_add(per_byte as u64) {
            return Err(FramingError::Malformed("count beyond the message"));
        }
        Ok(count as usize)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], FramingError> {
        let length = self.varint()?;
        self.slice(usize::try_from(length).map_err(|_| FramingError::Malformed("ends early"))?)
    }

    pub(super) fn u128(&mut self) -> Result<u128, FramingError> {
        Ok(u128::from_le_bytes(self.slice(16)?.try_into().expect("sixteen bytes")))
    }
}

/// A header with what ties the batch to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) header: BatchHeader,
    /// Sequence of the batch it builds on; `None` for a key frame.
    pub(super) base: Option<u64>,
}

pub(super) fn push_head(out: &mut Vec<u8>, head: &Head) {
    let header = &head.header;
    let failed = if header.order.failed { FLAG_FAILED } else { 0 };
    out.push(failed | if head.base.is_none() { FLAG_KEY } else { 0 });
    out.push(header.order.rank);
    out.extend_from_slice(&header.source.0.to_le_bytes());
    out.extend_from_slice(&header.order.origin.writer.0.to_le_bytes());
    push_varint(out, header.order.origin.generation.0);
    push_varint(out, u64::from(header.shard.0));
    push_signed(out, header.slot.ms());
    push_varint(out, header.sequence);
    if let Some(base) = head.base {
        // A base is always earlier; its distance is short.
        push_varint(out, header.sequence - base);
    }
}

pub(super) fn take_head(reader: &mut Reader<'_>) -> Result<Head, FramingError> {
    let flags = reader.byte()?;
    let rank = reader.byte()?;
    let source = SourceId(reader.u128()?);
    let writer = PeerId(reader.u128()?);
    let generation = Generation(reader.varint()?);
    let shard = reader.varint()?;
    if shard >= promesh_model::SHARD_COUNT as u64 {
        return Err(FramingError::Malformed("no such shard"));
    }
    let slot = Timestamp(reader.signed()?);
    let sequence = reader.varint()?;
    let base = if flags & FLAG_KEY == 0 {
        let distance = reader.varint()?;
        if distance == 0 || distance > sequence {
            return Err(FramingError::Malformed("base not before the batch"));
        }
        Some(sequence - distance)
    } else {
        None
    };
    let order = Order { failed: flags & FLAG_FAILED != 0, rank, origin: Origin { writer, generation } };
    Ok(Head { header: BatchHeader { source, shard: ShardId(shard as u16), slot, order, sequence }, base })
}

/// Reads what a batch is without decoding it; says whether it is a key frame.
///
/// # Errors
/// `Malformed`.
pub fn peek(payload: &[u8]) -> Result<(BatchHeader, bool), FramingError> {
    let head = take_head(&mut Reader(payload))?;
    Ok((head.header, head.base.is_none()))
}
