//! The reader's side of a stream.

use promesh_model::ingest::{Batch, SeriesIndex};
use promesh_model::value::stale_nan;

use super::bits::BitReader;
use super::sections::{self, Section};
use super::wire::{Head, Reader, take_head};
use super::{Decoded, Framing, FramingError, Stream};

/// The most float samples of one batch; scrape and push limits are far below.
const SAMPLES_MAX: usize = 16 << 20;

/// The sections of a payload, not yet read.
#[derive(Default)]
struct Sections<'a> {
    definitions: Option<&'a [u8]>,
    layout: Option<&'a [u8]>,
    vanished: Option<&'a [u8]>,
    values: Option<&'a [u8]>,
    /// Whether `values` is in the later form.
    scaled: bool,
    timestamps: Option<&'a [u8]>,
    start_timestamps: Option<&'a [u8]>,
    histograms: Option<&'a [u8]>,
    exemplars: Option<&'a [u8]>,
    metadata: Option<&'a [u8]>,
}

impl<'a> Sections<'a> {
    fn take(mut reader: Reader<'a>) -> Result<Sections<'a>, FramingError> {
        let mut sections = Sections::default();
        while !reader.is_empty() {
            let number = reader.byte()?;
            let payload = reader.bytes()?;
            let place = match Section::of(number) {
                Some(Section::Definitions) => &mut sections.definitions,
                Some(Section::Layout) => &mut sections.layout,
                Some(Section::Vanished) => &mut sections.vanished,
                Some(Section::Values) => &mut sections.values,
                Some(Section::ScaledValues) => {
                    sections.scaled = true;
                    &mut sections.values
                }
                Some(Section::Timestamps) => &mut sections.timestamps,
                Some(Section::StartTimestamps) => &mut sections.start_timestamps,
                Some(Section::Histograms) => &mut sections.histograms,
                Some(Section::Exemplars) => &mut sections.exemplars,
                Some(Section::Metadata) => &mut sections.metadata,
                // A newer writer's: kept in the log, of no use here.
                None => continue,
            };
            *place = Some(payload);
        }
        Ok(sections)
    }
}

impl Framing {
    /// Decodes the payload of a batch. A payload already decoded (its sequence is not newer than the stream's) decodes
    /// only as a key frame.
    ///
    /// # Errors
    /// As [`FramingError`] says; the stream is as before, but after `Checksum` it waits for a key frame.
    pub fn decode(&mut self, payload: &[u8], index: &dyn SeriesIndex) -> Result<Decoded, FramingError> {
        let mut reader = Reader(payload);
        let Head { header, base } = take_head(&mut reader)?;
        let sections = Sections::take(reader)?;
        let stream = self.streams.entry((header.order.origin, header.source, header.shard)).or_default();
        if let Some(base) = base
            && (stream.sequence != base || stream.key_wanted)
        {
            return Err(FramingError::NoBase { sequence: header.sequence, base });
        }
        let mut fresh = Stream { epoch: header.epoch(), ..Stream::default() };
        let target = if base.is_none() { &mut fresh } else { &mut *stream };
        let mut batch = Batch { slot: header.slot, ..Batch::default() };
        match target.read_floats(&sections, &mut batch, index) {
            Ok(()) => {}
            Err(error) => {
                // A half-read dictionary is no base for anything.
                stream.key_wanted = true;
                return Err(error);
            }
        }
        target.sequence = header.sequence;
        if base.is_none() {
            *stream = fresh;
        }
        if let Some(payload) = sections.timestamps {
            batch.timestamps = sections::take_sparse_times(payload, header.slot)?;
        }
        if let Some(payload) = sections.start_timestamps {
            batch.start_timestamps = sections::take_sparse_times(payload, header.slot)?;
        }
        let floats = batch.series.len() as u32;
        if batch.timestamps.iter().chain(&batch.start_timestamps).any(|&(index, _)| index >= floats) {
            return Err(FramingError::Malformed("an instant of no sample"));
        }
        if let Some(payload) = sections.histograms {
            batch.histograms = sections::take_histograms(payload, index)?;
        }
        if let Some(payload) = sections.exemplars {
            batch.exemplars = sections::take_exemplars(payload, index)?;
        }
        if let Some(payload) = sections.metadata {
            batch.metadata = sections::take_metadata(payload)?;
        }
        Ok(Decoded { header, key: base.is_none(), batch })
    }
}

impl Stream {
    fn read_floats(
        &mut self,
        sections: &Sections<'_>,
        batch: &mut Batch,
        index: &dyn SeriesIndex,
    ) -> Result<(), FramingError> {
        if let Some(payload) = sections.definitions {
            for labels in sections::unpack_definitions(payload)? {
                self.dictionary.push(index.resolve(&labels)?);
            }
            self.values.resize(self.dictionary.len(), 0.0);
        }
        if let Some(payload) = sections.layout {
            // A sample takes a bit at least: no list outgrows its values.
            let samples_max = sections.values.map_or(0, |values| values.len().saturating_mul(8)).min(SAMPLES_MAX);
            self.current = Some(take_runs(payload, self.dictionary.len(), samples_max)?);
        }
        let payload = sections.values.ok_or(FramingError::Malformed("no values"))?;
        let (checksum, bits) = payload.split_at_checked(4).ok_or(FramingError::Malformed("no checksum"))?;
        match sections.scaled {
            true => self.read_values(bits, batch, BitReader::take_scaled)?,
            false => self.read_values(bits, batch, BitReader::take_value)?,
        }
        if sections::values_checksum(&batch.values).to_le_bytes() != *checksum {
            return Err(FramingError::Checksum);
        }
        self.forget_identity();
        if let Some(payload) = sections.vanished {
            for position in take_runs(payload, self.dictionary.len(), self.dictionary.len())? {
                batch.series.push(self.dictionary[position as usize]);
                batch.values.push(stale_nan());
            }
        }
        Ok(())
    }

    fn read_values<'b>(
        &mut self,
        bits: &'b [u8],
        batch: &mut Batch,
        take: impl Fn(&mut BitReader<'b>, f64) -> Result<f64, FramingError>,
    ) -> Result<(), FramingError> {
        let mut reader = BitReader::new(bits);
        match &self.current {
            None => {
                batch.series.extend_from_slice(&self.dictionary);
                batch.values.reserve(self.values.len());
                for last in &mut self.values {
                    *last = take(&mut reader, *last)?;
                    batch.values.push(*last);
                }
            }
            Some(positions) => {
                batch.series.reserve(positions.len());
                batch.values.reserve(positions.len());
                for &position in positions {
                    let last = &mut self.values[position as usize];
                    *last = take(&mut reader, *last)?;
                    batch.series.push(self.dictionary[position as usize]);
                    batch.values.push(*last);
                }
            }
        }
        Ok(())
    }

    /// A list that is the whole dictionary in order needs no list.
    fn forget_identity(&mut self) {
        let whole = self.current.as_ref().is_some_and(|positions| {
            positions.len() == self.dictionary.len()
                && positions.iter().enumerate().all(|(index, &position)| index == position as usize)
        });
        if whole {
            self.current = None;
        }
    }
}

fn take_runs(payload: &[u8], dictionary: usize, count_max: usize) -> Result<Vec<u32>, FramingError> {
    let mut reader = Reader(payload);
    let count = reader.varint()? as usize;
    if count > count_max {
        return Err(FramingError::Malformed("too many samples"));
    }
    let mut positions = Vec::with_capacity(count.min(1 << 16));
    let mut expected = 0i64;
    while positions.len() < count {
        let first = expected.checked_add(reader.signed()?).ok_or(FramingError::Malformed("run"))?;
        let length = reader.varint()?;
        let end = u64::try_from(first).ok().and_then(|first| first.checked_add(length));
        let end =
            end.filter(|&end| end <= dictionary as u64).ok_or(FramingError::Malformed("run beyond dictionary"))?;
        if length == 0 || length > (count - positions.len()) as u64 {
            return Err(FramingError::Malformed("run length"));
        }
        positions.extend(first as u32..end as u32);
        expected = end as i64;
    }
    Ok(positions)
}
