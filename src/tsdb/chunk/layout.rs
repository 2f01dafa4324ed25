//! What all histograms of a chunk share: schema, zero bucket, and where the buckets are.

use std::sync::Arc;

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};

use super::ChunkError;
use super::bits::{BitCursor, BitReader};
use super::varbit::{read_int, read_uint, write_int, write_uint};

/// The layout of a histogram chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Resolution.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Where the positive buckets are.
    pub positive: Vec<Span>,
    /// Where the negative buckets are.
    pub negative: Vec<Span>,
    /// Bounds of custom buckets.
    pub custom: Arc<[f64]>,
}

impl Layout {
    /// The layout of a chunk of staleness markers.
    pub fn empty() -> Layout {
        Layout { schema: 0, zero_threshold: 0.0, positive: Vec::new(), negative: Vec::new(), custom: Arc::from([]) }
    }

    /// Appends the layout to a chunk.
    pub fn write(&self, cursor: &mut BitCursor, out: &mut Vec<u8>) {
        write_zero_threshold(cursor, out, self.zero_threshold);
        write_int(cursor, out, i64::from(self.schema));
        for spans in [&self.positive, &self.negative] {
            write_uint(cursor, out, spans.len() as u64);
            for span in spans {
                write_uint(cursor, out, u64::from(span.length));
                write_int(cursor, out, i64::from(span.offset));
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            write_uint(cursor, out, self.custom.len() as u64);
            for bound in self.custom.iter() {
                write_bound(cursor, out, *bound);
            }
        }
    }

    /// Reads a layout; `bits_max` bounds how many spans, bounds and buckets are believed.
    ///
    /// # Errors
    /// When the bits are none.
    pub fn read(reader: &mut BitReader<'_>, bits_max: usize) -> Result<Layout, ChunkError> {
        let zero_threshold = read_zero_threshold(reader)?;
        let schema = i32::try_from(read_int(reader)?).map_err(|_| ChunkError::Malformed("schema"))?;
        let positive = read_spans(reader, bits_max)?;
        let negative = read_spans(reader, bits_max)?;
        let mut custom = Vec::new();
        if schema == CUSTOM_BUCKETS_SCHEMA {
            for _ in 0..bounded(read_uint(reader)?, bits_max)? {
                custom.push(read_bound(reader)?);
            }
        }
        Ok(Layout { schema, zero_threshold, positive, negative, custom: custom.into() })
    }
}

fn bounded(count: u64, max: usize) -> Result<usize, ChunkError> {
    usize::try_from(count).ok().filter(|count| *count <= max).ok_or(ChunkError::Malformed("more parts than bits"))
}

fn read_spans(reader: &mut BitReader<'_>, bits_max: usize) -> Result<Vec<Span>, ChunkError> {
    let (mut spans, mut buckets) = (Vec::new(), 0u64);
    for _ in 0..bounded(read_uint(reader)?, bits_max)? {
        let length = u32::try_from(read_uint(reader)?).map_err(|_| ChunkError::Malformed("span length"))?;
        let offset = i32::try_from(read_int(reader)?).map_err(|_| ChunkError::Malformed("span offset"))?;
        buckets += u64::from(length);
        bounded(buckets, bits_max)?;
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

/// Powers of two from 2⁻²⁴³ to 2¹⁰ take one byte.
fn write_zero_threshold(cursor: &mut BitCursor, out: &mut Vec<u8>, threshold: f64) {
    if threshold == 0.0 {
        return cursor.write(out, 0, 8);
    }
    let bits = threshold.to_bits();
    let exponent = (bits >> 52) as i64 - 1022;
    let is_power = bits & ((1 << 52) - 1) == 0 && threshold > 0.0 && threshold.is_normal();
    if is_power && (-242..=11).contains(&exponent) {
        cursor.write(out, (exponent + 243) as u64, 8);
    } else {
        cursor.write(out, 255, 8);
        cursor.write(out, bits, 64);
    }
}

fn read_zero_threshold(reader: &mut BitReader<'_>) -> Result<f64, ChunkError> {
    Ok(match reader.read(8)? {
        0 => 0.0,
        255 => f64::from_bits(reader.read(64)?),
        exponent => 2f64.powi(exponent as i32 - 244),
    })
}

/// Multiples of a thousandth up to 33554.430 are written as numbers, others as a zero bit and the float.
fn write_bound(cursor: &mut BitCursor, out: &mut Vec<u8>, bound: f64) {
    let scaled = bound * 1000.0;
    if (0.0..=33_554_430.0).contains(&scaled) && scaled.round() / 1000.0 == bound {
        write_uint(cursor, out, scaled.round() as u64 + 1);
    } else {
        cursor.write(out, 0, 1);
        cursor.write(out, bound.to_bits(), 64);
    }
}

fn read_bound(reader: &mut BitReader<'_>) -> Result<f64, ChunkError> {
    Ok(match read_uint(reader)? {
        0 => f64::from_bits(reader.read(64)?),
        scaled => (scaled - 1) as f64 / 1000.0,
    })
}

/// The index of every bucket, rising.
pub fn bucket_indexes(spans: &[Span]) -> Vec<i32> {
    let mut indexes = Vec::with_capacity(spans.iter().map(|span| span.length as usize).sum());
    let mut next = 0i32;
    for span in spans {
        next = next.wrapping_add(span.offset);
        for _ in 0..span.length {
            indexes.push(next);
            next = next.wrapping_add(1);
        }
    }
    indexes
}

/// The spans of buckets at rising indexes.
pub fn spans_of(indexes: &[i32]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0i32;
    for &index in indexes {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span { offset: index.wrapping_sub(next), length: 1 }),
        }
        next = index.wrapping_add(1);
    }
    spans
}

/// The sorted union of two rising lists.
pub fn merged_indexes(a: &[i32], b: &[i32]) -> Vec<i32> {
    let mut merged: Vec<i32> = a.iter().chain(b).copied().collect();
    merged.sort_unstable();
    merged.dedup();
    merged
}

/// Absolute counts at the indexes `to`, zero where `from` has no bucket.
pub fn spread<T: Copy + Default>(counts: &[T], from: &[i32], to: &[i32]) -> Vec<T> {
    let mut source = from.iter().zip(counts).peekable();
    to.iter()
        .map(|index| match source.peek() {
            Some((have, count)) if *have == index => {
                let count = **count;
                source.next();
                count
            }
            _ => T::default(),
        })
        .collect()
}
