//! One series of the head: its labels, its newest sample, its open chunk, and what few series need, apart.
//!
//! The newest sample is **pending**: it stands beside the chunk, so that it can be replaced when two writers wrote the
//! same slot; the next later sample moves it into the chunk. A sample that comes late is kept apart, sorted, until the
//! window it belongs to becomes a block.

use promesh_model::ingest::{HistogramValue, IngestError};
use promesh_model::shard::ShardId;

use super::late::Late;
use super::spill::{Spill, SpillRef, SpilledChunk};
use super::starts::Starts;
use super::symbols::Symbol;
use crate::chunk::histogram::HistogramAppender;
use crate::chunk::xor::{self, XorAppender};
use crate::chunk::{self, Encoding};

/// A series. Kept small: there are millions.
#[derive(Debug)]
pub struct Series {
    /// Name, value, name, value … in name order.
    pub labels: Box<[Symbol]>,
    /// The low half of the labels' hash: for the table, which keeps no keys.
    pub hash: u32,
    /// Its shard, for ever.
    pub shard: ShardId,
    /// The collector saw it without a sample: the next time it goes.
    pub unused: bool,
    pending: Pending,
    pending_at: i64,
    pending_bits: u64,
    floats: Option<XorAppender>,
    chunk: Vec<u8>,
    spilled: SpillRef,
    extra: Option<Box<Extra>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    None,
    Float,
    Histogram,
}

/// What few series have.
#[derive(Debug, Default)]
struct Extra {
    /// The pending histogram; its instant is the series' `pending_at`.
    pending: Option<HistogramValue>,
    /// The open chunk of a histogram series.
    histograms: Option<Box<HistogramAppender>>,
    /// Samples that came late.
    late: Late,
    /// Chunks copied from another peer that lie before all others.
    earlier: SpillRef,
    /// The first instant of what lies after `earlier`.
    earlier_end: i64,
    /// Start timestamps.
    starts: Starts,
}

/// What became of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is the newest.
    InOrder,
    /// It was taken in among older ones.
    Late,
    /// It was there already.
    Duplicate,
    /// Another value was there, and the better of the two stays: whether it came in.
    Settled(bool),
}

/// What decides where a sample may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Before this, nothing is taken in order.
    pub in_order_min: i64,
    /// Before this, nothing is taken late; `i64::MAX` takes nothing late.
    pub late_min: i64,
    /// Whether the user set an out-of-order window: then refusals say "too old".
    pub has_late_window: bool,
    /// Length of a window: chunks end where windows do.
    pub window_ms: i64,
    /// Replicated data: a sample that contradicts another is kept, reading decides.
    pub replicated: bool,
}

/// A sample's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// The bits of a float.
    Float(u64),
    /// A histogram.
    Histogram(HistogramValue),
}

const NOTHING: i64 = i64::MIN;

impl Series {
    /// A series without samples.
    pub fn new(labels: Box<[Symbol]>, hash: u32, shard: ShardId) -> Series {
        Series {
            labels,
            hash,
            shard,
            unused: false,
            pending: Pending::None,
            pending_at: NOTHING,
            pending_bits: 0,
            floats: None,
            chunk: Vec::new(),
            spilled: SpillRef::NONE,
            extra: None,
        }
    }

    /// A sample that was just appended has this start timestamp; `before` was the newest sample until then.
    pub fn note_start(&mut self, at: i64, start: i64, appended: &Appended, before: i64) {
        let starts = &mut self.extra.get_or_insert_default().starts;
        match appended {
            Appended::InOrder => starts.push(at, start, before),
            Appended::Late | Appended::Settled(true) => starts.set(at, start),
            // Who copied the sample may not have known it.
            Appended::Duplicate if starts.of(at) == 0 => starts.set(at, start),
            Appended::Duplicate | Appended::Settled(false) => {}
        }
    }

    /// The start timestamps, if any sample has one.
    pub fn starts(&self) -> Option<&Starts> {
        self.extra.as_ref().map(|extra| &extra.starts).filter(|starts| !starts.is_empty())
    }

    /// Forgets the start timestamps of samples before `t`.
    pub fn drop_starts_before(&mut self, t: i64) {
        if let Some(extra) = &mut self.extra {
            extra.starts.drop_before(t);
        }
    }

    /// The instant of the newest sample in order; `i64::MIN` if there is none.
    #[inline]
    pub fn newest(&self) -> i64 {
        if self.pending != Pending::None { self.pending_at } else { self.newest_in_chunk() }
    }

    fn newest_in_chunk(&self) -> i64 {
        let floats = self.floats.as_ref().map_or(NOTHING, XorAppender::last_at);
        let histograms = self.extra.as_ref().and_then(|extra| extra.histograms.as_ref());
        floats.max(histograms.map_or(NOTHING, |open| open.last_at()))
    }

    /// Whether samples that came late wait here.
    pub fn has_late(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.late.is_empty())
    }

    /// The late samples.
    pub fn late(&self) -> Option<&Late> {
        self.extra.as_ref().map(|extra| &extra.late)
    }

    /// The late samples, to write them.
    pub fn late_mut(&mut self) -> Option<&mut Late> {
        self.extra.as_mut().map(|extra| &mut extra.late)
    }

    /// Appends a float.
    ///
    /// # Errors
    /// When it is out of order or bounds, or contradicts a sample that is there.
    #[inline]
    pub fn append_float(
        &mut self,
        at: i64,
        bits: u64,
        bounds: &Bounds,
        spill: &Spill,
    ) -> Result<Appended, IngestError> {
        if at > self.newest() && at >= bounds.in_order_min {
            self.settle_pending(bounds.window_ms, spill);
            self.pending = Pending::Float;
            self.pending_at = at;
            self.pending_bits = bits;
            return Ok(Appended::InOrder);
        }
        self.append_not_newest(at, Value::Float(bits), bounds, spill)
    }

    /// Appends a histogram.
    ///
    /// # Errors
    /// As [`Series::append_float`].
    pub fn append_histogram(
        &mut self,
        at: i64,
        value: &HistogramValue,
        bounds: &Bounds,
        spill: &Spill,
    ) -> Result<Appended, IngestError> {
        if at > self.newest() && at >= bounds.in_order_min {
            self.settle_pending(bounds.window_ms, spill);
            self.pending = Pending::Histogram;
            self.pending_at = at;
            self.extra.get_or_insert_default().pending = Some(value.clone());
            return Ok(Appended::InOrder);
        }
        self.append_not_newest(at, Value::Histogram(value.clone()), bounds, spill)
    }

    #[cold]
    fn append_not_newest(
        &mut self,
        at: i64,
        value: Value,
        bounds: &Bounds,
        spill: &Spill,
    ) -> Result<Appended, IngestError> {
        let present = self.value_at(at, spill);
        if present.as_ref().is_some_and(|present| same(present, &value)) {
            return Ok(Appended::Duplicate);
        }
        if let Some(reason) = self.refusal(at, present.is_some(), bounds) {
            return Err(reason);
        }
        let contradicts = present.is_some();
        let extra = self.extra.get_or_insert_default();
        if !extra.late.insert(at, value) {
            return Ok(if contradicts { Appended::Settled(false) } else { Appended::Duplicate });
        }
        // It may lie among samples with a start, and has none unless it is said.
        extra.starts.set(at, 0);
        Ok(if contradicts { Appended::Settled(true) } else { Appended::Late })
    }

    /// Whether a sample would be taken; `before` is the newest of the series in the same batch.
    ///
    /// # Errors
    /// As [`Series::append_float`].
    #[inline]
    pub fn judge(
        &self,
        at: i64,
        before: i64,
        value: impl FnOnce() -> Value,
        bounds: &Bounds,
        spill: &Spill,
    ) -> Result<(), IngestError> {
        if at > self.newest().max(before) && at >= bounds.in_order_min {
            return Ok(());
        }
        let present = self.value_at(at, spill);
        if present.as_ref().is_some_and(|present| same(present, &value())) {
            return Ok(());
        }
        self.refusal(at, present.is_some(), bounds).map_or(Ok(()), Err)
    }

    /// Why a sample that is not the newest and contradicts or precedes others is refused, if it is.
    fn refusal(&self, at: i64, contradicts: bool, bounds: &Bounds) -> Option<IngestError> {
        if at < bounds.late_min {
            return Some(match bounds.has_late_window {
                _ if contradicts && at == self.newest() => IngestError::Duplicate,
                true => IngestError::TooOld,
                false if at < bounds.in_order_min => IngestError::OutOfBounds,
                false => IngestError::OutOfOrder,
            });
        }
        (contradicts && !bounds.replicated).then_some(IngestError::Duplicate)
    }

    /// The sample at an instant, if one is there.
    fn value_at(&self, at: i64, spill: &Spill) -> Option<Value> {
        if self.pending != Pending::None && at == self.pending_at {
            return match self.pending {
                Pending::Histogram => self.pending_histogram().cloned().map(Value::Histogram),
                _ => Some(Value::Float(self.pending_bits)),
            };
        }
        if let Some(value) = self.late().and_then(|late| late.get(at)) {
            return Some(value);
        }
        let mut found = None;
        for chunk in self.chunks(at, at, spill) {
            chunk::for_each_value(chunk.encoding, &chunk.bytes, |t, value| {
                if t == at {
                    found = Some(value());
                }
                t < at
            })
            .ok();
        }
        found
    }

    fn pending_histogram(&self) -> Option<&HistogramValue> {
        self.extra.as_ref().and_then(|extra| extra.pending.as_ref())
    }

    /// Moves the pending sample into the chunk.
    #[inline]
    fn settle_pending(&mut self, window_ms: i64, spill: &Spill) {
        match self.pending {
            Pending::None => {}
            Pending::Float => self.settle_float(window_ms, spill),
            Pending::Histogram => self.settle_histogram(window_ms, spill),
        }
    }

    #[inline]
    fn settle_float(&mut self, window_ms: i64, spill: &Spill) {
        let (at, bits) = (self.pending_at, self.pending_bits);
        if let Some(appender) = &mut self.floats
            && appender.count() < chunk::SAMPLES_PER_CHUNK
            && same_window(appender.last_at(), at, window_ms)
        {
            reserve(&mut self.chunk);
            appender.append(&mut self.chunk, at, bits);
            return;
        }
        self.close_chunk(spill);
        // A new buffer, not the old one: open chunks are small at first, and there are many.
        self.chunk = Vec::with_capacity(FIRST_BYTES);
        self.floats = Some(XorAppender::begin(&mut self.chunk, at, bits));
    }

    fn settle_histogram(&mut self, window_ms: i64, spill: &Spill) {
        let extra = self.extra.get_or_insert_default();
        let Some(value) = extra.pending.take() else { return };
        let at = self.pending_at;
        if self.floats.is_none()
            && let Some(appender) = &mut extra.histograms
            && same_window(appender.last_at(), at, window_ms)
            && appender.append(&mut self.chunk, at, &value)
        {
            return;
        }
        // Why the appender refused is the new chunk's header.
        let reset = extra.histograms.as_ref().filter(|_| self.floats.is_none()).map(|last| last.reset_before(&value));
        self.close_chunk(spill);
        let appender = HistogramAppender::begin(&mut self.chunk, at, &value, reset.unwrap_or_default());
        self.extra.get_or_insert_default().histograms = Some(Box::new(appender));
    }

    /// Puts the open chunk with the full ones.
    fn close_chunk(&mut self, spill: &Spill) {
        if let Some(open) = self.open_bounds() {
            self.spilled = spill.push(self.spilled, open.0, open.1, open.2, &self.chunk);
        }
        self.floats = None;
        if let Some(extra) = &mut self.extra {
            extra.histograms = None;
        }
        self.chunk = Vec::new();
    }

    fn open_bounds(&self) -> Option<(i64, i64, Encoding)> {
        if let Some(appender) = &self.floats {
            return Some((chunk::first_at(Encoding::Xor, &self.chunk)?, appender.last_at(), Encoding::Xor));
        }
        let appender = self.extra.as_ref()?.histograms.as_ref()?;
        Some((chunk::first_at(appender.encoding(), &self.chunk)?, appender.last_at(), appender.encoding()))
    }

    /// Takes the sample at `slot` away: another writer's stands there instead. What lies in a full chunk stays.
    pub fn retract(&mut self, slot: i64) -> bool {
        let mut found = false;
        if self.pending != Pending::None && self.pending_at == slot {
            self.pending = Pending::None;
            self.pending_at = NOTHING;
            if let Some(extra) = &mut self.extra {
                extra.pending = None;
            }
            found = true;
        }
        found |= self.extra.as_mut().is_some_and(|extra| extra.late.remove(slot));
        found |= self.retract_from_open(slot);
        if found && let Some(extra) = &mut self.extra {
            extra.starts.set(slot, 0);
        }
        found
    }

    /// Writes the open chunk anew without the sample at `slot`, if it is there.
    fn retract_from_open(&mut self, slot: i64) -> bool {
        let Some((min, max, encoding)) = self.open_bounds().filter(|open| (open.0..=open.1).contains(&slot)) else {
            return false;
        };
        let mut samples = Vec::new();
        let read = chunk::for_each_value(encoding, &self.chunk, |at, value| {
            samples.push((at, value()));
            true
        });
        let Some(place) = samples.iter().position(|(at, _)| *at == slot).filter(|_| read.is_ok()) else { return false };
        samples.remove(place);
        debug_assert!(min <= slot && slot <= max, "within its bounds");
        let mut bytes = Vec::with_capacity(self.chunk.len());
        let (mut floats, mut histograms) = (None::<XorAppender>, None::<HistogramAppender>);
        let reset = chunk::histogram::counter_reset(&self.chunk).unwrap_or_default();
        for (at, value) in &samples {
            match (value, &mut floats, &mut histograms) {
                (Value::Float(bits), Some(appender), _) => appender.append(&mut bytes, *at, *bits),
                (Value::Float(bits), None, _) => floats = Some(XorAppender::begin(&mut bytes, *at, *bits)),
                (Value::Histogram(value), _, Some(appender)) => {
                    // Without the sample between them two may not share a chunk: then both stay, and reading decides.
                    if !appender.append(&mut bytes, *at, value) {
                        return false;
                    }
                }
                (Value::Histogram(value), _, None) => {
                    histograms = Some(HistogramAppender::begin(&mut bytes, *at, value, reset));
                }
            }
        }
        self.chunk = bytes;
        self.floats = floats;
        if let Some(extra) = &mut self.extra {
            extra.histograms = histograms.map(Box::new);
        }
        true
    }

    /// The chunks with samples in `start ..= end`, oldest first, without pending and late samples. The open one is
    /// copied.
    pub fn chunks(&self, start: i64, end: i64, spill: &Spill) -> Vec<SpilledChunk> {
        let mut chunks = Vec::new();
        if let Some(extra) = &self.extra
            && extra.earlier != SpillRef::NONE
            && start <= extra.earlier_end
        {
            chunks = spill.chain(extra.earlier, start);
        }
        let open = self.open_bounds();
        if open.is_none_or(|open| open.0 > start) {
            chunks.extend(spill.chain(self.spilled, start));
        }
        chunks.retain(|chunk| chunk.min <= end);
        if let Some((min, max, encoding)) = open.filter(|open| open.0 <= end && open.1 >= start) {
            let bytes = super::spill::ChunkBytes::owned(self.chunk.clone());
            chunks.push(SpilledChunk { min, max, encoding, bytes });
        }
        chunks
    }

    /// Whether any in-order sample is at or after `t`.
    pub fn reaches(&self, t: i64) -> bool {
        self.newest() >= t
    }

    /// Gives the open chunk's memory back when all of it lies before `t`.
    pub fn drop_open_before(&mut self, t: i64, spill: &Spill) {
        if self.newest_in_chunk() != NOTHING && self.newest_in_chunk() < t && self.pending != Pending::None {
            self.close_chunk(spill);
        }
    }

    /// The pending sample.
    pub fn pending(&self) -> Option<(i64, Value)> {
        match self.pending {
            Pending::None => None,
            Pending::Float => Some((self.pending_at, Value::Float(self.pending_bits))),
            Pending::Histogram => Some((self.pending_at, Value::Histogram(self.pending_histogram()?.clone()))),
        }
    }

    /// The newest float, wherever it lies.
    pub fn newest_float(&self) -> Option<(i64, u64)> {
        match self.pending {
            Pending::Float => Some((self.pending_at, self.pending_bits)),
            Pending::Histogram => None,
            Pending::None => self.floats.as_ref().map(|open| (open.last_at(), open.last_bits())),
        }
    }

    /// The newest sample in `start ..= end`, if it is a float that is found without looking beyond the open chunk.
    pub fn newest_float_until(&self, start: i64, end: i64) -> Option<(i64, u64)> {
        if self.pending == Pending::Float && self.pending_at <= end {
            return (self.pending_at >= start).then_some((self.pending_at, self.pending_bits));
        }
        if self.pending == Pending::Histogram && self.pending_at <= end {
            return None;
        }
        let open = self.floats.as_ref()?;
        if open.last_at() <= end {
            return (open.last_at() >= start).then_some((open.last_at(), open.last_bits()));
        }
        let mut found = None;
        xor::for_each(&self.chunk, |at, bits| {
            let within = at <= end;
            if within {
                found = Some((at, bits));
            }
            within
        })
        .ok()?;
        found.filter(|(at, _)| *at >= start)
    }

    /// Decodes the floats of the open chunk in place, without copying it; answers false if it is no float chunk.
    pub fn read_open_floats(&self, start: i64, end: i64, timestamps: &mut Vec<i64>, values: &mut Vec<f64>) -> bool {
        self.floats.is_some() && xor::decode_into(&self.chunk, start, end, timestamps, values).is_ok()
    }

    /// Whether reading `start ..` needs anything but the open float chunk and the pending sample.
    pub fn only_open_floats(&self, start: i64) -> bool {
        let nothing_else =
            self.spilled == SpillRef::NONE && self.extra.as_ref().is_none_or(|extra| extra.earlier == SpillRef::NONE);
        nothing_else || self.open_bounds().is_some_and(|(first, _, _)| first <= start)
    }

    /// Takes in a checked chunk from another peer that lies before everything here; answers false when it does not and
    /// its samples have to be appended one by one.
    pub fn adopt(&mut self, chunk: &SpilledChunk, spill: &Spill) -> bool {
        if self.newest() == NOTHING || chunk.max >= self.first_in_order(spill) {
            return false;
        }
        let earlier = self.extra.as_ref().map_or(SpillRef::NONE, |extra| extra.earlier);
        if spill.get(earlier).is_some_and(|(last, _)| chunk.min <= last.max) {
            return false;
        }
        let extra = self.extra.get_or_insert_default();
        extra.earlier = spill.push(earlier, chunk.min, chunk.max, chunk.encoding, &chunk.bytes);
        extra.earlier_end = chunk.max;
        true
    }

    /// The first instant of the main chain.
    fn first_in_order(&self, spill: &Spill) -> i64 {
        let chained = spill.chain(self.spilled, NOTHING).first().map(|chunk| chunk.min);
        let open = self.open_bounds().map(|open| open.0);
        let pending = (self.pending != Pending::None).then_some(self.pending_at);
        chained.or(open).or(pending).unwrap_or(i64::MAX)
    }
}

const FIRST_BYTES: usize = 32;
/// A sample takes at most 4+64 bits of time and 13+64 bits of value.
const SAMPLE_BYTES_MAX: usize = 20;

/// Grows by little: half of the head's memory is open chunks.
#[inline]
fn reserve(chunk: &mut Vec<u8>) {
    if chunk.capacity() - chunk.len() < SAMPLE_BYTES_MAX {
        let wanted = (chunk.len() + SAMPLE_BYTES_MAX).next_multiple_of(32);
        chunk.reserve_exact(wanted - chunk.len());
    }
}

#[inline]
fn same_window(earlier: i64, later: i64, window_ms: i64) -> bool {
    later - earlier < window_ms && earlier.div_euclid(window_ms) == later.div_euclid(window_ms)
}

/// Whether two values have the same bits.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Histogram(a), Value::Histogram(b)) => super::late::same_histogram(a, b),
        _ => false,
    }
}
