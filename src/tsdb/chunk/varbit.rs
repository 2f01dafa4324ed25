//! Numbers of 1 to 72 bits, short for small ones: the counts in histogram chunks.
//!
//! Zero is `0`; else a run of n ones, a zero (none after eight ones), and 3, 6, 9, 12, 18, 25, 56 or 64 bits.
//! Source: prometheus `tsdb/chunkenc/varbit.go`.

use super::ChunkError;
use super::bits::{BitCursor, BitReader};

const WIDTHS: [u32; 8] = [3, 6, 9, 12, 18, 25, 56, 64];

fn write(cursor: &mut BitCursor, out: &mut Vec<u8>, value: u64, class: usize) {
    let ones = class as u32 + 1;
    if ones < 8 {
        cursor.write(out, (1 << (ones + 1)) - 2, ones + 1);
    } else {
        cursor.write(out, 0xff, 8);
    }
    cursor.write(out, value, WIDTHS[class]);
}

/// Appends a signed number.
pub fn write_int(cursor: &mut BitCursor, out: &mut Vec<u8>, value: i64) {
    if value == 0 {
        return cursor.write(out, 0, 1);
    }
    let fits = |width: &&u32| **width == 64 || (value > -(1 << (**width - 1)) && value <= 1 << (**width - 1));
    let class = WIDTHS.iter().position(|width| fits(&width)).expect("64 bits fit");
    write(cursor, out, value as u64, class);
}

/// Appends an unsigned number.
pub fn write_uint(cursor: &mut BitCursor, out: &mut Vec<u8>, value: u64) {
    if value == 0 {
        return cursor.write(out, 0, 1);
    }
    let class = WIDTHS.iter().position(|width| value.leading_zeros() >= 64 - width).expect("64 bits fit");
    write(cursor, out, value, class);
}

/// Reads a signed number.
///
/// # Errors
/// `Short` when the bits end.
pub fn read_int(reader: &mut BitReader<'_>) -> Result<i64, ChunkError> {
    let ones = reader.read_ones(8)?;
    if ones == 0 {
        return Ok(0);
    }
    let width = WIDTHS[ones as usize - 1];
    let value = reader.read(width)?;
    Ok(if width < 64 && value > 1 << (width - 1) { value as i64 - (1 << width) } else { value as i64 })
}

/// Reads an unsigned number.
///
/// # Errors
/// `Short` when the bits end.
pub fn read_uint(reader: &mut BitReader<'_>) -> Result<u64, ChunkError> {
    match reader.read_ones(8)? {
        0 => Ok(0),
        ones => reader.read(WIDTHS[ones as usize - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(values in proptest::collection::vec((any::<i64>(), 0u32..64), 0..50)) {
            let (mut out, mut cursor) = (Vec::new(), BitCursor::aligned());
            for &(value, shift) in &values {
                write_int(&mut cursor, &mut out, value >> shift);
                write_uint(&mut cursor, &mut out, value as u64 >> shift);
            }
            let mut reader = BitReader::new(&out);
            for &(value, shift) in &values {
                prop_assert_eq!(read_int(&mut reader), Ok(value >> shift));
                prop_assert_eq!(read_uint(&mut reader), Ok(value as u64 >> shift));
            }
        }
    }
}
