//! Streams of bits, most significant first, and the variable-length numbers in them.

use super::ChunkError;

/// Appends bits to bytes. The bytes are the caller's; this is the count of bits still free in the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitCursor {
    /// 0 … 7: bits not yet used in the last byte.
    free: u8,
}

impl BitCursor {
    /// A cursor at the end of whole bytes.
    pub fn aligned() -> BitCursor {
        BitCursor { free: 0 }
    }

    /// Appends the low `count` bits of `value`, 1 ≤ count ≤ 64.
    #[inline]
    pub fn write(&mut self, out: &mut Vec<u8>, value: u64, count: u32) {
        debug_assert!((1..=64).contains(&count));
        let value = if count == 64 { value } else { value & ((1 << count) - 1) };
        let free = u32::from(self.free);
        if count <= free {
            let last = out.last_mut().expect("free bits lie in a last byte");
            *last |= (value << (free - count)) as u8;
            self.free = (free - count) as u8;
            return;
        }
        let rest = count - free;
        if free > 0 {
            *out.last_mut().expect("free bits lie in a last byte") |= (value >> rest) as u8;
        }
        // `rest` bits are left: put them at the top of a word and take its bytes.
        let word = (value << (64 - rest)).to_be_bytes();
        let bytes = rest.div_ceil(8) as usize;
        let end = out.len() + bytes;
        if out.capacity() - out.len() >= word.len() {
            // A store of known length is one instruction; a copy of unknown length is a call.
            out.extend_from_slice(&word);
            out.truncate(end);
        } else {
            out.extend_from_slice(&word[..bytes]);
        }
        self.free = (bytes as u32 * 8 - rest) as u8;
    }

    /// Appends one bit.
    #[inline]
    pub fn write_bit(&mut self, out: &mut Vec<u8>, bit: bool) {
        self.write(out, u64::from(bit), 1);
    }

    /// Appends a byte-wise LEB128 number.
    pub fn write_uvarint(&mut self, out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            self.write(out, value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.write(out, value, 8);
    }

    /// Appends a zigzag LEB128 number.
    pub fn write_varint(&mut self, out: &mut Vec<u8>, value: i64) {
        self.write_uvarint(out, zigzag(value));
    }
}

/// Zigzag: small magnitudes become small unsigned numbers.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// How many bits a look ahead shows at least.
pub(super) const WINDOW_BITS: u32 = 57;

/// Reads bits from the front.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    /// A reader at the first bit.
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, position: 0 }
    }

    /// The next [`WINDOW_BITS`] bits or more at the top of a word; zeros after the end.
    #[inline(always)]
    pub(super) fn window(&self) -> u64 {
        let start = self.position >> 3;
        let word = match self.bytes.get(start..start + 8) {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().expect("eight bytes")),
            None => self.window_at_end(start),
        };
        word << (self.position & 7)
    }

    #[inline(never)]
    fn window_at_end(&self, start: usize) -> u64 {
        let over = start + 8 - self.bytes.len();
        if over >= 8 {
            return 0;
        }
        match self.bytes.last_chunk() {
            // The last eight bytes, those before the start shifted out.
            Some(last) => u64::from_be_bytes(*last) << (8 * over),
            None => self.bytes[start..].iter().rev().fold(0, |word, byte| word >> 8 | u64::from(*byte) << 56),
        }
    }

    /// Takes bits that were looked at through the window.
    ///
    /// # Errors
    /// `Short` when there are fewer.
    #[inline(always)]
    pub(super) fn advance(&mut self, count: usize) -> Result<(), ChunkError> {
        self.position += count;
        if self.position > self.bytes.len() * 8 { Err(ChunkError::Short) } else { Ok(()) }
    }

    /// The next `count` bits, 1 ≤ count ≤ 64.
    ///
    /// # Errors
    /// `Short` when there are fewer.
    #[inline(always)]
    pub fn read(&mut self, count: u32) -> Result<u64, ChunkError> {
        debug_assert!((1..=64).contains(&count));
        if count <= 56 {
            let value = self.window() >> (64 - count);
            self.advance(count as usize)?;
            Ok(value)
        } else {
            let high = self.window() >> 32;
            self.advance(32)?;
            let low = self.window() >> (96 - count);
            self.advance(count as usize - 32)?;
            Ok(high << (count - 32) | low)
        }
    }

    /// The next bit.
    ///
    /// # Errors
    /// `Short` when there is none.
    #[inline(always)]
    pub fn read_bit(&mut self) -> Result<bool, ChunkError> {
        let value = self.window() >> 63;
        self.advance(1)?;
        Ok(value == 1)
    }

    /// How many ones come before the next zero, at most `limit` (< 57); the zero is taken, after `limit` ones none is.
    ///
    /// # Errors
    /// `Short` when the bits end before that.
    #[inline(always)]
    pub fn read_ones(&mut self, limit: u32) -> Result<u32, ChunkError> {
        let ones = (!self.window()).leading_zeros().min(limit);
        self.advance((ones + u32::from(ones < limit)) as usize)?;
        Ok(ones)
    }

    /// A LEB128 number.
    ///
    /// # Errors
    /// `Short`, or `Malformed` when it has more than 64 bits.
    pub fn read_uvarint(&mut self) -> Result<u64, ChunkError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.read(8)?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ChunkError::Malformed("number of more than 64 bits"))
    }

    /// A zigzag LEB128 number.
    ///
    /// # Errors
    /// As [`BitReader::read_uvarint`].
    pub fn read_varint(&mut self) -> Result<i64, ChunkError> {
        Ok(unzigzag(self.read_uvarint()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_come_back(fields in proptest::collection::vec((any::<u64>(), 1u32..=64), 0..200)) {
            let (mut out, mut cursor) = (Vec::new(), BitCursor::aligned());
            for &(value, count) in &fields {
                cursor.write(&mut out, value, count);
            }
            prop_assert_eq!(out.len(), fields.iter().map(|field| field.1 as usize).sum::<usize>().div_ceil(8));
            let mut reader = BitReader::new(&out);
            for &(value, count) in &fields {
                let expected = if count == 64 { value } else { value & ((1 << count) - 1) };
                prop_assert_eq!(reader.read(count), Ok(expected));
            }
        }

        #[test]
        fn varints_come_back(offset in 1u32..8, value in any::<i64>(), unsigned in any::<u64>()) {
            let (mut out, mut cursor) = (Vec::new(), BitCursor::aligned());
            cursor.write(&mut out, 1, offset);
            cursor.write_varint(&mut out, value);
            cursor.write_uvarint(&mut out, unsigned);
            let mut reader = BitReader::new(&out);
            reader.read(offset).expect("written");
            prop_assert_eq!(reader.read_varint(), Ok(value));
            prop_assert_eq!(reader.read_uvarint(), Ok(unsigned));
            prop_assert_eq!(reader.read(9), Err(ChunkError::Short));
        }
    }
}
