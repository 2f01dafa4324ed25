//! Tombstones: spans of time that were deleted from series of a block.
//!
//! ```text
//! 0x0130BA30 | version 1 | (series uvarint | min varint | max varint)… | crc32c of the entries
//! ```

use std::collections::BTreeMap;

use promesh_model::storage::SeriesColumns;

use super::Damage;
use super::codec::{Reader, put_uvarint, put_varint};

const MAGIC: u32 = 0x0130_BA30;

/// The deleted spans of a block's series, inclusive at both ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones {
    spans: BTreeMap<u64, Vec<(i64, i64)>>,
}

impl Tombstones {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Tombstones, Damage> {
        let mut reader = Reader::at(bytes, 0);
        if reader.u32()? != MAGIC {
            return Err(Damage::new(0, "not a tombstones file"));
        }
        let end = bytes.len().checked_sub(4).filter(|end| *end > 4).ok_or(Damage::new(4, "the file ends early"))?;
        // Of the entries only: the version came later.
        Reader::at(bytes, end).check(&bytes[5..end])?;
        let mut reader = Reader::at(&bytes[..end], 4);
        if reader.u8()? != 1 {
            return Err(Damage::new(4, "tombstones of another version than 1"));
        }
        let mut tombstones = Tombstones::default();
        while !reader.is_at_end() {
            let (series, min, max) = (reader.uvarint()?, reader.varint()?, reader.varint()?);
            tombstones.add(series, min, max);
        }
        Ok(tombstones)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_be_bytes().to_vec();
        out.push(1);
        for (series, spans) in &self.spans {
            for (min, max) in spans {
                put_uvarint(&mut out, *series);
                put_varint(&mut out, *min);
                put_varint(&mut out, *max);
            }
        }
        let checksum = crc32c::crc32c(&out[5..]);
        out.extend_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Deletes a span of a series; spans that touch become one.
    pub fn add(&mut self, series: u64, min: i64, max: i64) {
        if min > max {
            return;
        }
        let spans = self.spans.entry(series).or_default();
        let (mut min, mut max) = (min, max);
        spans.retain(|span| {
            let touches = span.0 <= max.saturating_add(1) && min <= span.1.saturating_add(1);
            if touches {
                min = min.min(span.0);
                max = max.max(span.1);
            }
            !touches
        });
        let place = spans.partition_point(|span| span.0 < min);
        spans.insert(place, (min, max));
    }

    /// The deleted spans of a series, in time order.
    pub fn of(&self, series: u64) -> &[(i64, i64)] {
        self.spans.get(&series).map_or(&[], Vec::as_slice)
    }

    /// How many spans there are.
    pub fn len(&self) -> usize {
        self.spans.values().map(Vec::len).sum()
    }

    /// Whether nothing was deleted.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Takes the deleted samples of a series out of its columns.
    pub fn apply(&self, series: u64, columns: &mut SeriesColumns) {
        let spans = self.of(series);
        if !spans.is_empty() {
            drop_spans(spans, columns);
        }
    }
}

/// Takes the samples within spans out of columns.
pub fn drop_spans(spans: &[(i64, i64)], columns: &mut SeriesColumns) {
    let deleted = |at: i64| spans.iter().any(|(min, max)| (*min..=*max).contains(&at));
    let keep: Vec<bool> = columns.timestamps.iter().map(|at| !deleted(*at)).collect();
    let mut keeps = keep.iter().copied();
    columns.start_timestamps.retain(|_| keeps.next().unwrap_or(true));
    let mut keeps = keep.iter().copied();
    columns.values.retain(|_| keeps.next().unwrap_or(true));
    columns.timestamps.retain(|at| !deleted(*at));
    columns.histograms.retain(|point| !deleted(point.timestamp));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_file_is_prometheus() {
        assert_eq!(Tombstones::default().to_bytes(), [0x01, 0x30, 0xba, 0x30, 0x01, 0, 0, 0, 0]);
    }

    #[test]
    fn spans_that_touch_become_one() {
        let mut tombstones = Tombstones::default();
        for (min, max) in [(10, 20), (30, 40), (21, 25), (26, 29), (50, 60)] {
            tombstones.add(7, min, max);
        }
        assert_eq!(tombstones.of(7), [(10, 40), (50, 60)]);
        assert_eq!(Tombstones::parse(&tombstones.to_bytes()), Ok(tombstones));
    }
}
