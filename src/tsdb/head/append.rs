//! Taking batches in.

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};
use promesh_model::ingest::{Batch, HistogramValue, IngestError, SeriesRef};
use promesh_model::time::Timestamp;
use promesh_model::value::is_stale;

use super::pages::{PAGE_SLOTS, Pages, Slot};
use super::series::{Appended, Bounds, Series};
use super::{Head, generation_of, slot_of};

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendOutcome {
    /// Samples that are the newest of their series.
    pub appended: u64,
    /// Samples taken in among older ones.
    pub late: u64,
    /// Samples that were there already: a success.
    pub duplicates: u64,
    /// Samples, of those above, where another value was there and the better of the two stays.
    pub settled: u64,
    /// Exemplars taken.
    pub exemplars: u64,
    /// What was refused, and why.
    pub rejected: Vec<Rejected>,
}

/// One refused sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub index: SampleIndex,
    /// Why.
    pub reason: IngestError,
}

/// A sample of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SampleIndex {
    /// A place in `Batch::series`.
    Float(u32),
    /// A place in `Batch::histograms`.
    Histogram(u32),
    /// A place in `Batch::exemplars`.
    Exemplar(u32),
}

impl AppendOutcome {
    /// How many were refused for this reason.
    pub fn rejected_for(&self, reason: &IngestError) -> usize {
        self.rejected.iter().filter(|rejected| rejected.reason == *reason).count()
    }

    /// The float samples whose series was collected: resolve them again.
    pub fn unknown_series(&self) -> impl Iterator<Item = SampleIndex> + '_ {
        self.rejected.iter().filter(|rejected| rejected.reason == IngestError::UnknownSeries).map(|found| found.index)
    }

    fn note(&mut self, index: SampleIndex, result: Result<Appended, IngestError>) {
        match result {
            Ok(Appended::InOrder) => self.appended += 1,
            Ok(Appended::Late) => self.late += 1,
            Ok(Appended::Duplicate) => self.duplicates += 1,
            Ok(Appended::Settled(came_in)) => {
                self.settled += 1;
                *(if came_in { &mut self.late } else { &mut self.duplicates }) += 1;
            }
            Err(reason) => self.rejected.push(Rejected { index, reason }),
        }
    }

    /// Adds what became of another batch.
    pub fn add(&mut self, other: AppendOutcome) {
        self.appended += other.appended;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.settled += other.settled;
        self.exemplars += other.exemplars;
        self.rejected.extend(other.rejected);
    }
}

/// Keeps the page of the last series locked: the next one is most likely on it too.
pub(super) struct Cursor<'a> {
    pages: &'a Pages,
    page: u32,
    guard: Option<MutexGuard<'a, Box<[Slot]>>>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(pages: &'a Pages) -> Cursor<'a> {
        Cursor { pages, page: u32::MAX, guard: None }
    }

    #[inline]
    pub(super) fn series(&mut self, series: SeriesRef) -> Option<&mut Series> {
        let slot = slot_of(series);
        if slot / PAGE_SLOTS as u32 != self.page || self.guard.is_none() {
            // Never two pages at once: two batches could wait for each other's.
            self.guard = None;
            self.guard = Some(self.pages.page(slot)?.lock());
            self.page = slot / PAGE_SLOTS as u32;
        }
        let place = &mut self.guard.as_mut()?[slot as usize % PAGE_SLOTS];
        if place.generation == generation_of(series) { place.series.as_mut() } else { None }
    }
}

impl Head {
    /// Takes a batch in as its producer's newest.
    pub fn append(&self, batch: &Batch) -> AppendOutcome {
        self.append_within(batch, self.bounds())
    }

    /// Takes a batch in that was read back from the log. Lanes of the log are read side by side, so that the newest
    /// sample of the head says nothing about what was newest when the batch was written.
    pub fn append_replayed(&self, batch: &Batch) -> AppendOutcome {
        self.append_within(batch, self.bounds_replayed())
    }

    fn bounds_replayed(&self) -> Bounds {
        let live = self.bounds();
        let late_min = if live.has_late_window { i64::MIN } else { i64::MAX };
        Bounds { in_order_min: self.in_order_floor(), late_min, ..live }
    }

    /// Takes in a batch that comes late from a peer: wherever its samples belong in time, whatever the user's
    /// out-of-order window.
    pub fn append_late(&self, batch: &Batch) -> AppendOutcome {
        self.append_within(batch, self.bounds_late())
    }

    fn bounds_late(&self) -> Bounds {
        // In order wherever that is possible: a peer that catches up brings hours of it.
        let in_order_min = self.in_order_floor();
        Bounds { in_order_min, late_min: i64::MIN, replicated: true, ..self.bounds() }
    }

    /// Takes in batches that were read back from the log and have the same series and a slot each, one after the other
    /// for every series: what [`Head::append_replayed`], or with `late` [`Head::append_late`], does batch by batch, at a
    /// fraction of the cost, because each series' memory is met once. Refusals name a place in `series`.
    pub fn append_run(
        &self,
        series: &[SeriesRef],
        slots: &[Timestamp],
        values: &[Vec<f64>],
        late: bool,
    ) -> AppendOutcome {
        let bounds = if late { self.bounds_late() } else { self.bounds_replayed() };
        let mut outcome = AppendOutcome::default();
        let (mut newest, mut oldest) = (i64::MIN, i64::MAX);
        let mut cursor = Cursor::new(&self.pages);
        for (index, reference) in series.iter().enumerate() {
            let mut found = cursor.series(*reference);
            for (slot, values) in slots.iter().zip(values) {
                let (at, bits) = (slot.ms(), values[index].to_bits());
                let result = match &mut found {
                    Some(series) => series.append_float(at, bits, &bounds, &self.spill),
                    None => Err(IngestError::UnknownSeries),
                };
                if let Ok(Appended::InOrder) = result {
                    newest = newest.max(at);
                    oldest = oldest.min(at);
                }
                outcome.note(SampleIndex::Float(index as u32), result);
            }
        }
        drop(cursor);
        self.note_appended(newest, oldest, &outcome);
        self.counters.note(&outcome);
        outcome
    }

    fn note_appended(&self, newest: i64, oldest: i64, outcome: &AppendOutcome) {
        self.max.fetch_max(newest, Ordering::AcqRel);
        self.oldest.fetch_min(oldest, Ordering::AcqRel);
        self.late_samples.fetch_add(outcome.late, Ordering::Relaxed);
    }

    /// Takes a batch in whose samples may belong anywhere in time; where two stand at one instant the first stays.
    pub fn append_anywhere(&self, batch: &Batch) -> AppendOutcome {
        self.append_within(batch, Bounds { late_min: i64::MIN, in_order_min: self.in_order_floor(), ..self.bounds() })
    }

    /// Two writers wrote one slot and `batch` is the one that stands: the other's samples of the slot go.
    pub fn replace(&self, loser_series: &[SeriesRef], slot: Timestamp, batch: &Batch) -> AppendOutcome {
        let mut cursor = Cursor::new(&self.pages);
        // The winner's own, too: what the loser was is known by its newest batch, which may have been another one.
        let histograms = batch.histograms.iter().map(|sample| &sample.series);
        for series in loser_series.iter().chain(&batch.series).chain(histograms) {
            if let Some(series) = cursor.series(*series) {
                series.retract(slot.ms());
            }
        }
        drop(cursor);
        // What lies in full chunks already is contradicted, not replaced: reading prefers one of both.
        self.append_late(batch)
    }

    pub(super) fn bounds(&self) -> Bounds {
        let (min, max) = (self.in_order_floor(), self.max.load(Ordering::Acquire));
        let window = self.out_of_order_ms.load(Ordering::Relaxed);
        Bounds {
            // The window before the last half one may be on its way into a block.
            in_order_min: min.max(max.saturating_sub(self.options.window_ms / 2)),
            late_min: if window > 0 { max.saturating_sub(window) } else { i64::MAX },
            has_late_window: window > 0,
            window_ms: self.options.window_ms,
            replicated: false,
        }
    }

    /// What is in blocks, or on its way there, takes nothing in order any more.
    pub(super) fn in_order_floor(&self) -> i64 {
        self.min.load(Ordering::Acquire).max(self.sealing.load(Ordering::Acquire))
    }

    fn append_within(&self, batch: &Batch, bounds: Bounds) -> AppendOutcome {
        let mut outcome = AppendOutcome::default();
        let (mut newest, mut oldest) = (i64::MIN, i64::MAX);
        let mut cursor = Cursor::new(&self.pages);
        let mut own_times = batch.timestamps.iter().peekable();
        let mut starts = batch.start_timestamps.iter().peekable();
        for (index, (series, value)) in batch.series.iter().zip(&batch.values).enumerate() {
            let mut at = batch.slot.ms();
            if let Some((_, own)) = own_times.next_if(|(place, _)| *place as usize == index) {
                at = own.ms();
            }
            let start = starts.next_if(|(place, _)| *place as usize == index).map_or(0, |(_, start)| start.ms());
            let result = match cursor.series(*series) {
                Some(series) if start != 0 => with_start(series, at, start, |series| {
                    series.append_float(at, value.to_bits(), &bounds, &self.spill)
                }),
                Some(series) => series.append_float(at, value.to_bits(), &bounds, &self.spill),
                None => Err(IngestError::UnknownSeries),
            };
            if let Ok(Appended::InOrder) = result {
                newest = newest.max(at);
                oldest = oldest.min(at);
                outcome.appended += 1;
            } else {
                outcome.note(SampleIndex::Float(index as u32), result);
            }
        }
        for (index, sample) in batch.histograms.iter().enumerate() {
            let at = sample.timestamp.ms();
            let result = match (validate(&sample.value), cursor.series(sample.series)) {
                (Err(why), _) => Err(IngestError::InvalidHistogram(why)),
                (_, None) => Err(IngestError::UnknownSeries),
                (Ok(()), Some(series)) => with_start(series, at, sample.start.ms(), |series| {
                    series.append_histogram(at, &sample.value, &bounds, &self.spill)
                }),
            };
            if result == Ok(Appended::InOrder) {
                newest = newest.max(at);
                oldest = oldest.min(at);
            }
            outcome.note(SampleIndex::Histogram(index as u32), result);
        }
        drop(cursor);
        self.note_appended(newest, oldest, &outcome);
        self.append_side(batch, &mut outcome);
        self.counters.note(&outcome);
        outcome
    }

    /// Exemplars and metadata.
    fn append_side(&self, batch: &Batch, outcome: &mut AppendOutcome) {
        if !batch.exemplars.is_empty() {
            let mut exemplars = self.exemplars.lock();
            for (index, (series, exemplar)) in batch.exemplars.iter().enumerate() {
                match exemplars.push(*series, exemplar) {
                    Ok(true) => outcome.exemplars += 1,
                    Ok(false) => {}
                    Err(reason) => {
                        outcome.rejected.push(Rejected { index: SampleIndex::Exemplar(index as u32), reason });
                    }
                }
            }
        }
        if !batch.metadata.is_empty() {
            let mut known = self.metadata.lock();
            for (family, metadata) in &batch.metadata {
                known.insert(family.clone(), metadata.clone());
            }
        }
    }
}

/// Appends a sample that has a start timestamp; 0 for none.
fn with_start(
    series: &mut Series,
    at: i64,
    start: i64,
    append: impl FnOnce(&mut Series) -> Result<Appended, IngestError>,
) -> Result<Appended, IngestError> {
    let before = series.newest();
    let appended = append(series)?;
    if start != 0 {
        series.note_start(at, start, &appended, before);
    }
    Ok(appended)
}

/// Whether a histogram is one that can be stored and computed with.
///
/// # Errors
/// What is wrong with it.
/// Source: prometheus `model/histogram` `Validate`.
pub fn validate(value: &HistogramValue) -> Result<(), String> {
    match value {
        HistogramValue::Integer(h) if is_stale(h.sum) => Ok(()),
        HistogramValue::Float(h) if is_stale(h.sum) => Ok(()),
        HistogramValue::Integer(h) => {
            check_layout(h.schema, &h.custom_values, &h.positive_spans, &h.negative_spans, h.zero_count == 0)?;
            let positive = integer_sum(&h.positive_spans, &h.positive_buckets)?;
            let negative = integer_sum(&h.negative_spans, &h.negative_buckets)?;
            let buckets = positive.checked_add(negative).and_then(|sum| sum.checked_add(h.zero_count));
            let buckets = buckets.ok_or("the buckets overflow")?;
            // Observed NaNs are counted but are in no bucket.
            if if h.sum.is_nan() { h.count < buckets } else { h.count != buckets } {
                return Err(format!("{} observations in buckets, but the count is {}", buckets, h.count));
            }
            Ok(())
        }
        HistogramValue::Float(h) => {
            check_layout(h.schema, &h.custom_values, &h.positive_spans, &h.negative_spans, h.zero_count == 0.0)?;
            if h.count < 0.0 || h.zero_count < 0.0 {
                return Err("negative count".to_owned());
            }
            for (spans, buckets) in [(&h.positive_spans, &h.positive_buckets), (&h.negative_spans, &h.negative_buckets)]
            {
                check_spans(spans, buckets.len())?;
                if buckets.iter().any(|count| *count < 0.0) {
                    return Err("negative bucket count".to_owned());
                }
            }
            Ok(())
        }
    }
}

fn check_layout(
    schema: i32,
    custom: &[f64],
    positive: &[Span],
    negative: &[Span],
    no_zeros: bool,
) -> Result<(), String> {
    if schema == CUSTOM_BUCKETS_SCHEMA {
        if custom.windows(2).any(|pair| pair[0].partial_cmp(&pair[1]) != Some(std::cmp::Ordering::Less)) {
            return Err("custom bounds must rise".to_owned());
        }
        let buckets = positive.iter().map(|span| i64::from(span.offset) + i64::from(span.length)).sum::<i64>();
        if buckets > custom.len() as i64 + 1 {
            return Err(format!("{buckets} buckets, but only {} custom bounds", custom.len()));
        }
        if !negative.is_empty() || !no_zeros {
            return Err("custom buckets have no negative and no zero bucket".to_owned());
        }
        return Ok(());
    }
    if !(-4..=8).contains(&schema) {
        return Err(format!("schema {schema} is not one of -4 to 8 and {CUSTOM_BUCKETS_SCHEMA}"));
    }
    if custom.is_empty() { Ok(()) } else { Err("custom bounds without the schema for them".to_owned()) }
}

fn check_spans(spans: &[Span], buckets: usize) -> Result<(), String> {
    if spans.iter().skip(1).any(|span| span.offset < 0) {
        return Err("a span overlaps the one before it".to_owned());
    }
    let covered: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
    if covered == buckets as u64 { Ok(()) } else { Err(format!("spans need {covered} buckets, have {buckets}")) }
}

fn integer_sum(spans: &[Span], deltas: &[i64]) -> Result<u64, String> {
    check_spans(spans, deltas.len())?;
    let (mut count, mut sum) = (0i64, 0u64);
    for delta in deltas {
        count = count.checked_add(*delta).filter(|count| *count >= 0).ok_or("negative bucket count")?;
        sum = sum.checked_add(count as u64).ok_or("the buckets overflow")?;
    }
    Ok(sum)
}
