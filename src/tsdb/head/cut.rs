//! Turning a window of the head into a block.
//!
//! In a block a series' samples are canonical: a chunk every 120 samples from the window's start, whatever the order
//! in which they came, so that two peers with the same samples write the same chunks. The head's own chunks are that
//! already unless something came late; then the window is written anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use promesh_model::ShardId;
use promesh_model::labels::Labels;

use super::pages::PAGE_SLOTS;
use super::series::{Series, Value};
use super::spill::SpilledChunk;
use super::{Head, labels_of, series_key};
use crate::chunk::histogram::HistogramAppender;
use crate::chunk::xor::XorAppender;
use crate::chunk::{self, Chunk, Encoding, SAMPLES_PER_CHUNK};

/// The series of the head in label order at one moment.
#[derive(Debug)]
pub struct SortedSeries {
    /// All label texts, sorted.
    pub symbols: Vec<Arc<str>>,
    /// Slots and their generations.
    slots: Vec<(u32, u32)>,
}

impl SortedSeries {
    /// How many series.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Which samples a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutKind {
    /// All of the span; late samples are taken aside until [`Head::end_cut`].
    Window,
    /// Only the late samples of the span: its other samples are in a block already.
    LateOnly,
    /// All of the span, and nothing is taken aside: a copy.
    Copy,
    /// Only the late samples of the span, and nothing is taken aside.
    LateCopy,
}

impl Head {
    /// From now on nothing is taken in order before `end`: a cut of what lies there may begin. Whoever calls sees to it
    /// that no append is under way.
    pub fn seal_before(&self, end: i64) {
        self.sealing.fetch_max(end, Ordering::AcqRel);
    }

    /// The series in label order.
    pub fn sorted_series(&self) -> SortedSeries {
        let (symbols, ranks) = self.index.read().symbols.ranked();
        let mut arena: Vec<u32> = Vec::new();
        let mut series: Vec<(u32, u32, u32, u32)> = Vec::new();
        for (first, page) in self.pages.iter() {
            for (offset, slot) in page.lock().iter().enumerate() {
                let Some(found) = &slot.series else { continue };
                let start = arena.len() as u32;
                // A symbol newer than the ranks belongs to a series newer than the cut.
                if found.labels.iter().any(|symbol| ranks.get(*symbol as usize).is_none_or(|rank| *rank == u32::MAX)) {
                    continue;
                }
                arena.extend(found.labels.iter().map(|symbol| ranks[*symbol as usize]));
                series.push((first + offset as u32, slot.generation, start, arena.len() as u32));
            }
        }
        let ranks_of = |entry: &(u32, u32, u32, u32)| &arena[entry.2 as usize..entry.3 as usize];
        series.sort_unstable_by(|a, b| ranks_of(a).cmp(ranks_of(b)));
        SortedSeries { symbols, slots: series.into_iter().map(|(slot, generation, _, _)| (slot, generation)).collect() }
    }

    /// The slot and the labels of the series at a place of that order, if it is still there and its shard is wanted.
    pub fn sorted_at(
        &self,
        sorted: &SortedSeries,
        place: usize,
        wanted: impl Fn(ShardId) -> bool,
    ) -> Option<(u32, Labels)> {
        let (slot, generation) = *sorted.slots.get(place)?;
        let page = self.pages.page(slot)?.lock();
        let found = &page[slot as usize % PAGE_SLOTS];
        let series = found.series.as_ref().filter(|series| found.generation == generation && wanted(series.shard))?;
        Some((slot, labels_of(&self.index.read().symbols, &series.labels)))
    }

    /// Calls `each` with the labels and chunks of every series that has samples in `start .. end`, in label order.
    ///
    /// # Errors
    /// What `each` answers.
    pub fn cut<E>(
        &self,
        sorted: &SortedSeries,
        start: i64,
        end: i64,
        kind: CutKind,
        mut each: impl FnMut(&Labels, &[Chunk]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (slot, generation) in &sorted.slots {
            let Some(page) = self.pages.page(*slot) else { continue };
            let taken = {
                let mut page = page.lock();
                let place = &mut page[*slot as usize % PAGE_SLOTS];
                if place.generation != *generation {
                    continue;
                }
                let Some(series) = place.series.as_mut() else { continue };
                let deleted = self.deleted_spans(series);
                let chunks = self.cut_series(series, start, end, kind, &deleted);
                if chunks.is_empty() {
                    continue;
                }
                (labels_of(&self.index.read().symbols, &series.labels), chunks)
            };
            each(&taken.0, &taken.1)?;
        }
        Ok(())
    }

    fn deleted_spans(&self, series: &Series) -> Vec<(i64, i64)> {
        if !self.has_tombstones.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let key = series_key(&self.index.read().symbols, series);
        self.tombstones.read().get(&key).cloned().unwrap_or_default()
    }

    fn cut_series(
        &self,
        series: &mut Series,
        start: i64,
        end: i64,
        kind: CutKind,
        deleted: &[(i64, i64)],
    ) -> Vec<Chunk> {
        let mut late: Vec<(i64, Value)> = Vec::new();
        match kind {
            CutKind::Copy | CutKind::LateCopy => {
                late.extend(
                    series.late().map(|late| late.range(start, end - 1)).into_iter().flatten().flatten().cloned(),
                );
                late.sort_by_key(|sample| sample.0);
            }
            CutKind::Window | CutKind::LateOnly => {
                late.extend(series.late_mut().map(|late| late.begin_write(start, end)).into_iter().flatten().cloned());
            }
        }
        if matches!(kind, CutKind::LateOnly | CutKind::LateCopy) {
            late.retain(|(at, _)| !is_deleted(deleted, *at));
            return encode(late);
        }
        let chunks = series.chunks(start, end - 1, &self.spill);
        let pending = series.pending().filter(|(at, _)| (start..end).contains(at));
        if late.is_empty() && pending.is_none() && deleted.is_empty() && are_canonical(&chunks, start, end) {
            return chunks.iter().map(chunk_of).collect();
        }
        let mut samples = Vec::new();
        for chunk in &chunks {
            // A damaged chunk was reported when it was met; its whole samples are kept.
            let _ = chunk::for_each_value(chunk.encoding, &chunk.bytes, |at, value| {
                if (start..end).contains(&at) {
                    samples.push((at, value()));
                }
                at < end
            });
        }
        samples.extend(pending);
        let mut samples = join(samples, late);
        samples.retain(|(at, _)| !is_deleted(deleted, *at));
        encode(samples)
    }

    /// Ends a cut: the late samples taken aside are in a block that stands, or wait on.
    pub fn end_cut(&self, stands: bool) {
        if stands {
            self.departures.fetch_add(1, Ordering::AcqRel);
        }
        let mut written = 0;
        for (_, page) in self.pages.iter() {
            for slot in page.lock().iter_mut() {
                if let Some(late) = slot.series.as_mut().and_then(|series| series.late_mut()) {
                    written += late.written(stands) as u64;
                }
            }
        }
        self.late_samples.fetch_sub(written, Ordering::Relaxed);
    }

    /// The windows before `end` in which late samples wait, by their starts.
    pub fn late_windows(&self, end: i64) -> BTreeSet<i64> {
        let window = self.options.window_ms;
        let mut starts = BTreeSet::new();
        if self.late_samples() == 0 {
            return starts;
        }
        for (_, page) in self.pages.iter() {
            for series in page.lock().iter().filter_map(|slot| slot.series.as_ref()) {
                for (at, _) in series.late().map(|late| late.range(i64::MIN, end - 1)).into_iter().flatten().flatten() {
                    starts.insert(at.div_euclid(window) * window);
                }
            }
        }
        starts
    }
}

fn is_deleted(spans: &[(i64, i64)], at: i64) -> bool {
    spans.iter().any(|(min, max)| (*min..=*max).contains(&at))
}

/// Whether the chunks are as a window's are when written anew.
fn are_canonical(chunks: &[SpilledChunk], start: i64, end: i64) -> bool {
    let inside = chunks.iter().all(|chunk| chunk.min >= start && chunk.max < end);
    let full = |chunk: &SpilledChunk| {
        chunk.encoding != Encoding::Xor || chunk::sample_count(&chunk.bytes) == Ok(SAMPLES_PER_CHUNK)
    };
    let rising = chunks.windows(2).all(|pair| pair[0].max < pair[1].min);
    inside && rising && chunks.iter().rev().skip(1).all(full)
}

fn chunk_of(chunk: &SpilledChunk) -> Chunk {
    Chunk { encoding: chunk.encoding, min: chunk.min, max: chunk.max, bytes: chunk.bytes.to_vec() }
}

/// Joins two sorted runs; where two samples stand at one instant the better stays.
pub fn join(a: Vec<(i64, Value)>, b: Vec<(i64, Value)>) -> Vec<(i64, Value)> {
    if b.is_empty() {
        return a;
    }
    let mut joined = a;
    joined.extend(b);
    joined.sort_by(|x, y| {
        x.0.cmp(&y.0).then_with(|| super::late::is_better(&y.1, &x.1).cmp(&super::late::is_better(&x.1, &y.1)))
    });
    joined.dedup_by_key(|sample| sample.0);
    joined
}

/// Makes canonical chunks of samples in time order.
pub fn encode(samples: impl IntoIterator<Item = (i64, Value)>) -> Vec<Chunk> {
    let mut encoder = Encoder::default();
    samples.into_iter().for_each(|(at, value)| encoder.push(at, value));
    encoder.finish()
}

#[derive(Default)]
struct Encoder {
    chunks: Vec<Chunk>,
    open: Open,
}

#[derive(Default)]
enum Open {
    #[default]
    Nothing,
    Floats(i64, XorAppender, Vec<u8>),
    Histograms(i64, HistogramAppender, Vec<u8>),
}

impl Encoder {
    fn push(&mut self, at: i64, value: Value) {
        if let (Open::Floats(_, appender, bytes), Value::Float(bits)) = (&mut self.open, &value)
            && appender.count() < SAMPLES_PER_CHUNK
        {
            appender.append(bytes, at, *bits);
            return;
        }
        if let (Open::Histograms(_, appender, bytes), Value::Histogram(value)) = (&mut self.open, &value)
            && appender.append(bytes, at, value)
        {
            return;
        }
        let mut bytes = Vec::new();
        let next = match &value {
            Value::Float(bits) => {
                let appender = XorAppender::begin(&mut bytes, at, *bits);
                Open::Floats(at, appender, bytes)
            }
            Value::Histogram(value) => {
                let before = match &self.open {
                    Open::Histograms(_, last, _) => last.reset_before(value),
                    Open::Nothing | Open::Floats(..) => Default::default(),
                };
                let appender = HistogramAppender::begin(&mut bytes, at, value, before);
                Open::Histograms(at, appender, bytes)
            }
        };
        let full = std::mem::replace(&mut self.open, next);
        self.close(full);
    }

    fn close(&mut self, open: Open) {
        self.chunks.extend(match open {
            Open::Nothing => None,
            Open::Floats(min, appender, bytes) => {
                Some(Chunk { encoding: Encoding::Xor, min, max: appender.last_at(), bytes })
            }
            Open::Histograms(min, appender, bytes) => {
                Some(Chunk { encoding: appender.encoding(), min, max: appender.last_at(), bytes })
            }
        });
    }

    fn finish(mut self) -> Vec<Chunk> {
        let last = std::mem::take(&mut self.open);
        self.close(last);
        self.chunks
    }
}
