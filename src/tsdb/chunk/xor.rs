//! Encoding 1: floats. Timestamps as deltas of deltas, values XORed with the one before.
//!
//! ```text
//! count u16 | t0 varint | v0 64 bits | Δt uvarint | xor | (ΔΔt | xor)…
//! ΔΔt: 0 → `0`; 14 bits after `10`; 17 after `110`; 20 after `1110`; 64 after `1111`
//! xor: 0 → `0`; `10` + the bits within the last window; `11` + leading zeros (5) + length (6) + bits
//! ```
//! Source: prometheus `tsdb/chunkenc/xor.go`; Pelkonen et al., "Gorilla", VLDB 2015.

use super::bits::{BitCursor, BitReader, WINDOW_BITS};
use super::{ChunkError, sample_count};

/// What is needed to go on with a chunk: the last sample and the window of the last XOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XorAppender {
    last_at: i64,
    last_bits: u64,
    delta: u64,
    cursor: BitCursor,
    /// `NO_WINDOW` until a value changed.
    leading: u8,
    trailing: u8,
    count: u16,
}

const NO_WINDOW: u8 = 0xff;

impl XorAppender {
    /// Begins a chunk with its first sample.
    pub fn begin(out: &mut Vec<u8>, at: i64, value_bits: u64) -> XorAppender {
        out.clear();
        out.extend_from_slice(&1u16.to_be_bytes());
        let mut cursor = BitCursor::aligned();
        cursor.write_varint(out, at);
        cursor.write(out, value_bits, 64);
        XorAppender { last_at: at, last_bits: value_bits, delta: 0, cursor, leading: NO_WINDOW, trailing: 0, count: 1 }
    }

    /// The instant of the last sample.
    pub fn last_at(&self) -> i64 {
        self.last_at
    }

    /// The value of the last sample.
    pub fn last_bits(&self) -> u64 {
        self.last_bits
    }

    /// How many samples there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Appends a sample to the chunk that this appender began.
    #[inline]
    pub fn append(&mut self, out: &mut Vec<u8>, at: i64, value_bits: u64) {
        let delta = at.wrapping_sub(self.last_at) as u64;
        if self.count == 1 {
            self.cursor.write_uvarint(out, delta);
        } else {
            self.write_delta_of_delta(out, delta.wrapping_sub(self.delta) as i64);
        }
        self.write_xor(out, value_bits ^ self.last_bits);
        self.last_at = at;
        self.last_bits = value_bits;
        self.delta = delta;
        self.count += 1;
        out[..2].copy_from_slice(&self.count.to_be_bytes());
    }

    #[inline]
    fn write_delta_of_delta(&mut self, out: &mut Vec<u8>, change: i64) {
        if change == 0 {
            self.cursor.write(out, 0, 1);
        } else if fits(change, 14) {
            self.cursor.write(out, 0b10 << 14 | change as u64 & mask(14), 16);
        } else if fits(change, 17) {
            self.cursor.write(out, 0b110 << 17 | change as u64 & mask(17), 20);
        } else if fits(change, 20) {
            self.cursor.write(out, 0b1110 << 20 | change as u64 & mask(20), 24);
        } else {
            self.cursor.write(out, 0b1111, 4);
            self.cursor.write(out, change as u64, 64);
        }
    }

    #[inline]
    fn write_xor(&mut self, out: &mut Vec<u8>, change: u64) {
        write_xor(&mut self.cursor, out, change, &mut self.leading, &mut self.trailing);
    }
}

/// Appends a value's XOR with the one before it and keeps the window. Histogram chunks write their floats so too.
#[inline]
pub fn write_xor(cursor: &mut BitCursor, out: &mut Vec<u8>, change: u64, leading: &mut u8, trailing: &mut u8) {
    if change == 0 {
        cursor.write(out, 0, 1);
        return;
    }
    // Five bits hold at most 31.
    let new_leading = change.leading_zeros().min(31) as u8;
    let new_trailing = change.trailing_zeros() as u8;
    if *leading != NO_WINDOW && new_leading >= *leading && new_trailing >= *trailing {
        let count = 64 - u32::from(*leading) - u32::from(*trailing);
        cursor.write(out, 0b10, 2);
        cursor.write(out, change >> *trailing, count);
        return;
    }
    (*leading, *trailing) = (new_leading, new_trailing);
    let count = 64 - u32::from(new_leading) - u32::from(new_trailing);
    // 64 significant bits are written as 0: nothing else would be.
    let header = 0b11 << 11 | u64::from(new_leading) << 6 | u64::from(count & 63);
    cursor.write(out, header, 13);
    cursor.write(out, change >> new_trailing, count);
}

/// The window "no XOR yet" for [`write_xor`] and [`read_xor`].
pub const XOR_WINDOW_NONE: u8 = NO_WINDOW;

/// Reads what [`write_xor`] wrote; answers the value's bits.
///
/// # Errors
/// `Short`, or `Malformed` when the window is impossible.
#[inline(always)]
pub fn read_xor(
    reader: &mut BitReader<'_>,
    last_bits: u64,
    leading: &mut u8,
    trailing: &mut u8,
) -> Result<u64, ChunkError> {
    read_xor_after(reader, 0, last_bits, leading, trailing)
}

/// As [`read_xor`], after so many bits (below 8) that were looked at and not taken yet: mostly one look ahead shows
/// those, the window and the bits in it.
#[inline(always)]
fn read_xor_after(
    reader: &mut BitReader<'_>,
    taken: u32,
    last_bits: u64,
    leading: &mut u8,
    trailing: &mut u8,
) -> Result<u64, ChunkError> {
    let ahead = reader.window() << taken;
    let header = match ahead >> 62 {
        0b00 | 0b01 => {
            reader.advance(taken as usize + 1)?;
            return Ok(last_bits);
        }
        0b10 if *leading == NO_WINDOW => return Err(ChunkError::Malformed("float without a window")),
        0b10 => taken + 2,
        _ => {
            let window = ahead >> 51 & 0x7ff;
            let count = match window & 63 {
                0 => 64,
                count => count as u8,
            };
            *leading = (window >> 6) as u8;
            *trailing =
                64u8.checked_sub(*leading + count).ok_or(ChunkError::Malformed("more than 64 bits in a float"))?;
            taken + 13
        }
    };
    let count = 64 - u32::from(*leading) - u32::from(*trailing);
    if header + count <= WINDOW_BITS {
        reader.advance((header + count) as usize)?;
        return Ok(last_bits ^ ahead << (header - taken) >> (64 - count) << *trailing);
    }
    reader.advance(header as usize)?;
    Ok(last_bits ^ reader.read(count)? << *trailing)
}

/// Whether a signed number fits as Prometheus counts it: −2ⁿ⁻¹+1 … 2ⁿ⁻¹.
fn fits(value: i64, bits: u32) -> bool {
    let half = 1i64 << (bits - 1);
    value > -half && value <= half
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Decodes the samples of a chunk with `start ≤ t ≤ end` to the end of two columns.
///
/// # Errors
/// When the bytes are no such chunk; samples before the damage are in the columns.
pub fn decode_into(
    chunk: &[u8],
    start: i64,
    end: i64,
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
) -> Result<(), ChunkError> {
    let count = sample_count(chunk)? as usize;
    timestamps.reserve(count.min(chunk.len() * 4));
    values.reserve(count.min(chunk.len() * 4));
    for_each(chunk, |at, bits| {
        if at > end {
            return false;
        }
        if at >= start {
            timestamps.push(at);
            values.push(f64::from_bits(bits));
        }
        true
    })
}

/// Calls `sample` with each (instant, value bits) in turn until it answers false.
///
/// # Errors
/// When the bytes are no such chunk.
#[inline]
pub fn for_each(chunk: &[u8], mut sample: impl FnMut(i64, u64) -> bool) -> Result<(), ChunkError> {
    let count = sample_count(chunk)?;
    if count == 0 {
        return Ok(());
    }
    let mut reader = BitReader::new(&chunk[2..]);
    let mut at = reader.read_varint()?;
    let mut bits = reader.read(64)?;
    if !sample(at, bits) || count == 1 {
        return Ok(());
    }
    let (mut leading, mut trailing) = (NO_WINDOW, 0);
    let mut delta = reader.read_uvarint()?;
    for index in 1..count {
        let steady = index > 1 && reader.window() >> 63 == 0;
        if index > 1 && !steady {
            delta = delta.wrapping_add(read_delta_of_delta(&mut reader)? as u64);
        }
        at = at.wrapping_add(delta as i64);
        bits = read_xor_after(&mut reader, u32::from(steady), bits, &mut leading, &mut trailing)?;
        if !sample(at, bits) {
            return Ok(());
        }
    }
    Ok(())
}

#[inline(always)]
fn read_delta_of_delta(reader: &mut BitReader<'_>) -> Result<i64, ChunkError> {
    let width = match reader.read_ones(4)? {
        0 => return Ok(0),
        1 => 14,
        2 => 17,
        3 => 20,
        _ => return Ok(reader.read(64)? as i64),
    };
    let value = reader.read(width)? as i64;
    // The one value of the range whose top bit is set and that is positive is 2ⁿ⁻¹ itself.
    Ok(if value > 1 << (width - 1) { value - (1 << width) } else { value })
}

/// Makes chunks of at most [`super::SAMPLES_PER_CHUNK`] samples from samples in order.
pub fn encode_all(samples: impl IntoIterator<Item = (i64, u64)>, mut chunk: impl FnMut(i64, i64, Vec<u8>)) {
    let mut open: Option<(i64, XorAppender, Vec<u8>)> = None;
    for (at, bits) in samples {
        match &mut open {
            Some((_, appender, bytes)) if appender.count() < super::SAMPLES_PER_CHUNK => {
                appender.append(bytes, at, bits);
            }
            full => {
                if let Some((first, appender, bytes)) = full.take() {
                    chunk(first, appender.last_at(), bytes);
                }
                let mut bytes = Vec::with_capacity(64);
                let appender = XorAppender::begin(&mut bytes, at, bits);
                *full = Some((at, appender, bytes));
            }
        }
    }
    if let Some((first, appender, bytes)) = open {
        chunk(first, appender.last_at(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(samples: &[(i64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut appender = XorAppender::begin(&mut bytes, samples[0].0, samples[0].1);
        for &(at, bits) in &samples[1..] {
            appender.append(&mut bytes, at, bits);
        }
        bytes
    }

    fn decode(chunk: &[u8]) -> Result<Vec<(i64, u64)>, ChunkError> {
        let mut samples = Vec::new();
        for_each(chunk, |at, bits| {
            samples.push((at, bits));
            true
        })?;
        Ok(samples)
    }

    #[test]
    fn steady_samples_cost_two_bits() {
        let samples: Vec<_> = (0..120).map(|index| (1_700_000_000_000 + index * 15_000, 1f64.to_bits())).collect();
        let chunk = encode(&samples);
        assert_eq!(chunk.len(), 2 + 6 + 8 + 2 + (1 + 118 * 2usize).div_ceil(8));
        assert_eq!(decode(&chunk), Ok(samples));
    }

    #[test]
    fn edges_of_the_delta_classes_come_back() {
        let mut samples = vec![(0, 0), (1 << 21, 1)];
        let (mut at, mut delta) = (1i64 << 21, 1i64 << 21);
        for change in [8192, -8191, -8192, 8193, 65536, -65535, -65536, 65537, 524_288, -524_287, -524_288, 524_289] {
            delta += change;
            at += delta;
            samples.push((at, u64::MAX));
        }
        assert_eq!(decode(&encode(&samples)), Ok(samples));
    }

    fn arb_samples() -> impl Strategy<Value = Vec<(i64, u64)>> {
        let value = prop_oneof![
            any::<u64>(),
            (0u32..1000).prop_map(|v| f64::from(v).to_bits()),
            Just(promesh_model::value::STALE_NAN_BITS)
        ];
        let step = prop_oneof![Just(15_000i64), 1..100_000i64, 1..(1i64 << 40)];
        (any::<i32>(), proptest::collection::vec((step, value), 1..300)).prop_map(|(start, steps)| {
            let mut at = i64::from(start) * 1000;
            steps
                .into_iter()
                .map(|(step, value)| {
                    at += step;
                    (at, value)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn samples_come_back(samples in arb_samples()) {
            let chunk = encode(&samples);
            prop_assert_eq!(decode(&chunk), Ok(samples.clone()));
            let (mut timestamps, mut values) = (Vec::new(), Vec::new());
            let (start, end) = (samples[samples.len() / 3].0, samples[samples.len() / 2].0);
            decode_into(&chunk, start, end, &mut timestamps, &mut values).expect("it was just encoded");
            prop_assert_eq!(&timestamps[..], samples[samples.len() / 3..=samples.len() / 2].iter().map(|s| s.0).collect::<Vec<_>>());
            prop_assert_eq!(values.len(), timestamps.len());
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
