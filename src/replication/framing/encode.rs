//! The writer's side of a stream.

use hashbrown::HashMap;
use promesh_model::ingest::{Batch, IngestError, SeriesIndex, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::value::stale_nan;
use promesh_model::{ShardId, Timestamp};

use super::bits::BitWriter;
use super::sections::{self, Section};
use super::wire::{Head, push_head, push_signed, push_varint};
use super::{BatchHeader, Framing, Stream};

/// What becomes of series that a writer's batch before had and this one has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vanishing {
    /// Nothing: pushed samples come when they come.
    Unmarked,
    /// Each gets a marker, but those whose sample had an instant of its own: whoever says when it measured may say
    /// nothing for a while. As Prometheus does by default.
    MarkedUnlessStamped,
    /// Each gets a marker (`track_timestamps_staleness`).
    Marked,
}

/// What encoding gave besides the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Whether the batch stands alone.
    pub key: bool,
    /// Series that the batch before had and this one has not, in the order of that batch. Each gets a staleness marker
    /// at the slot, on every holder.
    pub vanished: Vec<SeriesRef>,
}

impl Framing {
    /// Appends the payload of a batch to `out`, and to `batch` the markers of series that vanished.
    ///
    /// `before` is what the newest batch of the same (source, shard) contained, when another origin wrote it: series that
    /// vanished while the target moved get their marker from the new writer.
    ///
    /// # Errors
    /// `UnknownSeries` when a reference died between the scrape and now; nothing was encoded.
    pub fn encode(
        &mut self,
        header: &BatchHeader,
        batch: &mut Batch,
        before: Option<&[SeriesRef]>,
        vanishing: Vanishing,
        index: &dyn SeriesIndex,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, IngestError> {
        let key = (header.order.origin, header.source, header.shard);
        let stream = self.streams.entry(key).or_default();
        let mut vanished = match vanishing {
            Vanishing::Unmarked => Vec::new(),
            _ => vanished_series(stream, before, batch, header.shard, index),
        };
        if vanishing == Vanishing::MarkedUnlessStamped {
            vanished.retain(|series| stream.stamped.binary_search(series).is_err());
            stream.stamped.clear();
            stream.stamped.extend(batch.timestamps.iter().map(|(position, _)| batch.series[*position as usize]));
            stream.stamped.sort_unstable();
        }
        let is_key = stream.wants_key(header, batch.series.len());
        let dictionary = if is_key { None } else { Some(&*stream) };
        let list = SeriesList::of(&batch.series, &vanished, dictionary);
        let definitions = list.definitions(index)?;

        let base = (!is_key).then_some(stream.sequence);
        push_head(out, &Head { header: *header, base });
        if is_key {
            stream.restart(header.epoch());
        }
        if !definitions.is_empty() {
            sections::push(out, Section::Definitions, &sections::pack_definitions(&definitions));
        }
        list.push_layout(out);
        stream.push_values(&list, batch, out);
        stream.advance(list, header);
        sections::push_sparse_times(out, Section::Timestamps, &batch.timestamps, header.slot);
        sections::push_sparse_times(out, Section::StartTimestamps, &batch.start_timestamps, header.slot);
        sections::push_histograms(out, batch, index)?;
        sections::push_exemplars(out, batch, index)?;
        sections::push_metadata(out, batch);

        let marker = stale_nan();
        for &series in &vanished {
            batch.series.push(series);
            batch.values.push(marker);
        }
        Ok(Encoded { key: is_key, vanished })
    }
}

impl Stream {
    fn wants_key(&self, header: &BatchHeader, samples: usize) -> bool {
        self.sequence == 0
            || self.key_wanted
            || self.passed
            || self.epoch != header.epoch()
            // Churn has filled the dictionary with series that are gone.
            || self.dictionary.len() > 2 * samples + 4096
    }

    fn restart(&mut self, epoch: i64) {
        self.epoch = epoch;
        (self.key_wanted, self.passed) = (false, false);
        self.dictionary.clear();
        self.values.clear();
        self.current = None;
    }

    /// The section of values; keeps them as the next batch's base.
    fn push_values(&mut self, list: &SeriesList, batch: &Batch, out: &mut Vec<u8>) {
        self.dictionary.extend_from_slice(&list.new);
        self.values.resize(self.dictionary.len(), 0.0);
        let mut writer = BitWriter::with_capacity(batch.values.len() * 2);
        match &list.positions {
            Positions::Same if self.current.is_none() => {
                for (last, &value) in self.values.iter_mut().zip(&batch.values) {
                    writer.push_scaled(value, *last);
                    *last = value;
                }
            }
            Positions::Same => {
                for (&position, &value) in self.current.as_deref().unwrap_or_default().iter().zip(&batch.values) {
                    let last = &mut self.values[position as usize];
                    writer.push_scaled(value, *last);
                    *last = value;
                }
            }
            Positions::Listed(positions) => {
                for (&position, &value) in positions.iter().zip(&batch.values) {
                    let last = &mut self.values[position as usize];
                    writer.push_scaled(value, *last);
                    *last = value;
                }
            }
        }
        let mut payload = Vec::with_capacity(batch.values.len() * 2 + 4);
        payload.extend_from_slice(&sections::values_checksum(&batch.values).to_le_bytes());
        payload.extend_from_slice(&writer.finish());
        sections::push(out, Section::ScaledValues, &payload);
    }

    fn advance(&mut self, list: SeriesList, header: &BatchHeader) {
        self.sequence = header.sequence;
        self.epoch = header.epoch();
        if let Positions::Listed(positions) = list.positions {
            let whole = positions.len() == self.dictionary.len()
                && positions.iter().enumerate().all(|(index, &position)| index == position as usize);
            self.current = if whole { None } else { Some(positions) };
        }
    }
}

/// Series of the batch before that this one lacks. Histogram series count as present.
fn vanished_series(
    stream: &Stream,
    before: Option<&[SeriesRef]>,
    batch: &Batch,
    shard: ShardId,
    index: &dyn SeriesIndex,
) -> Vec<SeriesRef> {
    let unchanged = before.is_none() && stream.current.is_none() && stream.dictionary == batch.series;
    if unchanged || (stream.sequence == 0 && before.is_none()) {
        return Vec::new();
    }
    let previous = match before {
        Some(series) => series.to_vec(),
        None => stream.current_series(),
    };
    if previous == batch.series {
        return Vec::new();
    }
    let present: hashbrown::HashSet<SeriesRef> =
        batch.series.iter().copied().chain(batch.histograms.iter().map(|sample| sample.series)).collect();
    let still_ours = |series: &SeriesRef| {
        index.labels(*series).is_some_and(|labels| promesh_model::shard::shard_of(&labels) == shard)
    };
    previous.into_iter().filter(|series| !present.contains(series) && still_ours(series)).collect()
}

/// A batch's float series as positions in the stream's dictionary.
struct SeriesList {
    positions: Positions,
    /// Series that the dictionary gains.
    new: Vec<SeriesRef>,
    /// Dictionary positions of the vanished series.
    vanished: Vec<u32>,
}

enum Positions {
    /// The list of the batch before.
    Same,
    Listed(Vec<u32>),
}

impl SeriesList {
    fn of(series: &[SeriesRef], vanished: &[SeriesRef], dictionary: Option<&Stream>) -> SeriesList {
        if let Some(stream) = dictionary
            && vanished.is_empty()
            && stream.is_current(series)
        {
            return SeriesList { positions: Positions::Same, new: Vec::new(), vanished: Vec::new() };
        }
        let known = dictionary.map_or(&[][..], |stream| &stream.dictionary);
        let mut positions_of: HashMap<SeriesRef, u32> =
            known.iter().enumerate().map(|(position, &series)| (series, position as u32)).collect();
        let mut new = Vec::new();
        let mut position_of = |series: SeriesRef| {
            *positions_of.entry(series).or_insert_with(|| {
                new.push(series);
                (known.len() + new.len() - 1) as u32
            })
        };
        let positions = series.iter().map(|&series| position_of(series)).collect();
        let vanished = vanished.iter().map(|&series| position_of(series)).collect();
        SeriesList { positions: Positions::Listed(positions), new, vanished }
    }

    fn definitions(&self, index: &dyn SeriesIndex) -> Result<Vec<Labels>, IngestError> {
        self.new.iter().map(|&series| index.labels(series).ok_or(IngestError::UnknownSeries)).collect()
    }

    /// The list as runs of consecutive positions: `count, (first as difference to the run's expected start, length)…`.
    fn push_layout(&self, out: &mut Vec<u8>) {
        if let Positions::Listed(positions) = &self.positions {
            sections::push(out, Section::Layout, &runs(positions));
        }
        if !self.vanished.is_empty() {
            sections::push(out, Section::Vanished, &runs(&self.vanished));
        }
    }
}

fn runs(positions: &[u32]) -> Vec<u8> {
    let mut payload = Vec::new();
    push_varint(&mut payload, positions.len() as u64);
    let mut rest = positions;
    let mut expected = 0i64;
    while let Some(&first) = rest.first() {
        let length = rest
            .iter()
            .enumerate()
            .take_while(|&(offset, &p)| u64::from(p) == u64::from(first) + offset as u64)
            .count();
        push_signed(&mut payload, i64::from(first) - expected);
        push_varint(&mut payload, length as u64);
        expected = i64::from(first) + length as i64;
        rest = &rest[length..];
    }
    payload
}

impl Stream {
    pub(super) fn is_current(&self, series: &[SeriesRef]) -> bool {
        match &self.current {
            None => self.dictionary == series,
            Some(positions) => {
                positions.len() == series.len()
                    && positions.iter().zip(series).all(|(&position, &s)| self.dictionary[position as usize] == s)
            }
        }
    }
}

/// Sparse instants as differences to the slot.
pub(super) fn push_times(out: &mut Vec<u8>, times: &[(u32, Timestamp)], slot: Timestamp) {
    push_varint(out, times.len() as u64);
    let mut previous = 0u32;
    for &(index, at) in times {
        push_varint(out, u64::from(index - previous));
        push_signed(out, at.ms().wrapping_sub(slot.ms()));
        previous = index;
    }
}
