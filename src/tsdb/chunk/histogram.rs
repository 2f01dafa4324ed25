//! Encodings 2 and 3: native histograms with integer and with float counts.
//!
//! ```text
//! count u16 | counter reset (2 bits of a byte) | layout | first sample | …
//! integer: t, count, zero count, buckets as deltas of deltas in varbits; the sum XORed
//! float:   t as delta of delta in varbits; count, zero count, sum and each bucket XORed with its predecessor
//! ```
//! All histograms of a chunk have one layout. A new bucket widens it, which writes the chunk anew; a counter reset or
//! another schema begins a new chunk. A staleness marker is a sum without buckets; only markers follow it.
//!
//! Source: prometheus `tsdb/chunkenc/histogram.go`, `float_histogram.go`.

use std::sync::Arc;

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterReset, FloatHistogram, Histogram, Span};
use promesh_model::ingest::HistogramValue;
use promesh_model::value::is_stale;

use super::bits::{BitCursor, BitReader};
use super::layout::{Layout, bucket_indexes, merged_indexes, spans_of, spread};
use super::varbit::{read_int, read_uint, write_int, write_uint};
use super::xor::{XOR_WINDOW_NONE, read_xor, write_xor};
use super::{ChunkError, Encoding, SAMPLES_PER_CHUNK, sample_count};

const FLAGS_AT: usize = 2;
const HEADER_BYTES: usize = 3;

/// What is needed to go on with a chunk.
#[derive(Clone, Debug)]
pub struct HistogramAppender(Box<State>);

#[derive(Clone, Debug)]
struct State {
    layout: Layout,
    reset: CounterReset,
    count: u16,
    cursor: BitCursor,
    last_at: i64,
    delta: i64,
    sum: Xored,
    numbers: Numbers,
}

#[derive(Clone, Debug)]
enum Numbers {
    Integer(Vec<Counted>),
    Float(Vec<Xored>),
}

/// A number written as a delta of deltas.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    value: i64,
    delta: i64,
}

/// A float written as an XOR.
#[derive(Clone, Copy, Debug)]
struct Xored {
    bits: u64,
    leading: u8,
    trailing: u8,
}

impl Xored {
    fn new(value: f64) -> Xored {
        Xored { bits: value.to_bits(), leading: XOR_WINDOW_NONE, trailing: 0 }
    }

    fn value(self) -> f64 {
        f64::from_bits(self.bits)
    }

    fn write(&mut self, cursor: &mut BitCursor, out: &mut Vec<u8>, value: f64) {
        write_xor(cursor, out, value.to_bits() ^ self.bits, &mut self.leading, &mut self.trailing);
        self.bits = value.to_bits();
    }

    fn read(&mut self, reader: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.bits = read_xor(reader, self.bits, &mut self.leading, &mut self.trailing)?;
        Ok(())
    }
}

/// A histogram taken apart: layout, sum, and the numbers in the order in which a chunk has them. For integers the
/// buckets are deltas, as in the chunk.
struct Parts {
    layout: Layout,
    hint: CounterReset,
    sum: f64,
    numbers: PartNumbers,
}

enum PartNumbers {
    Integer(Vec<i64>),
    Float(Vec<f64>),
}

impl Parts {
    fn of(value: &HistogramValue) -> Parts {
        match value {
            HistogramValue::Integer(h) if is_stale(h.sum) => Parts::stale(h.sum, h.counter_reset, true),
            HistogramValue::Float(h) if is_stale(h.sum) => Parts::stale(h.sum, h.counter_reset, false),
            HistogramValue::Integer(h) => {
                let mut numbers = vec![h.count as i64, h.zero_count as i64];
                numbers.extend(h.positive_buckets.iter().chain(&h.negative_buckets));
                let layout =
                    layout_of(h.schema, h.zero_threshold, &h.positive_spans, &h.negative_spans, &h.custom_values);
                Parts { layout, hint: h.counter_reset, sum: h.sum, numbers: PartNumbers::Integer(numbers) }
            }
            HistogramValue::Float(h) => {
                let mut numbers = vec![h.count, h.zero_count];
                numbers.extend(h.positive_buckets.iter().chain(&h.negative_buckets));
                let layout =
                    layout_of(h.schema, h.zero_threshold, &h.positive_spans, &h.negative_spans, &h.custom_values);
                Parts { layout, hint: h.counter_reset, sum: h.sum, numbers: PartNumbers::Float(numbers) }
            }
        }
    }

    fn stale(sum: f64, hint: CounterReset, integer: bool) -> Parts {
        let numbers = if integer { PartNumbers::Integer(vec![0, 0]) } else { PartNumbers::Float(vec![0.0, 0.0]) };
        Parts { layout: Layout::empty(), hint, sum, numbers }
    }
}

fn layout_of(schema: i32, zero_threshold: f64, positive: &[Span], negative: &[Span], custom: &Arc<[f64]>) -> Layout {
    Layout {
        schema,
        zero_threshold,
        positive: positive.to_vec(),
        negative: negative.to_vec(),
        custom: if schema == CUSTOM_BUCKETS_SCHEMA { Arc::clone(custom) } else { Arc::from([]) },
    }
}

/// What has to happen before a histogram can follow the last one of a chunk.
enum Fit {
    /// Nothing.
    AsItIs,
    /// Chunk and histogram are spread over these buckets.
    Widen(Vec<i32>, Vec<i32>),
    /// A new chunk, and what its header says.
    NewChunk(CounterReset),
}

impl HistogramAppender {
    /// Begins a chunk. `before` is what comparing with the histogram before said.
    pub fn begin(out: &mut Vec<u8>, at: i64, value: &HistogramValue, before: CounterReset) -> HistogramAppender {
        let parts = Parts::of(value);
        let reset = match parts.hint {
            hint @ (CounterReset::Gauge | CounterReset::Reset) => hint,
            _ => before,
        };
        HistogramAppender(Box::new(State::begin(out, at, parts, reset)))
    }

    /// The instant of the last sample.
    pub fn last_at(&self) -> i64 {
        self.0.last_at
    }

    /// How many samples there are.
    pub fn count(&self) -> u16 {
        self.0.count
    }

    /// Which of the two encodings it is.
    pub fn encoding(&self) -> Encoding {
        match self.0.numbers {
            Numbers::Integer(_) => Encoding::Histogram,
            Numbers::Float(_) => Encoding::FloatHistogram,
        }
    }

    /// What the header of a new chunk has to say that begins with this histogram after this chunk.
    pub fn reset_before(&self, value: &HistogramValue) -> CounterReset {
        match self.0.fit(&Parts::of(value)) {
            Fit::NewChunk(reset) => reset,
            Fit::AsItIs | Fit::Widen(..) => CounterReset::NotReset,
        }
    }

    /// Appends a histogram; answers false, and does nothing, if it needs a new chunk.
    pub fn append(&mut self, out: &mut Vec<u8>, at: i64, value: &HistogramValue) -> bool {
        self.0.count < SAMPLES_PER_CHUNK && self.append_more(out, at, value)
    }

    /// As [`HistogramAppender::append`], however many there are already: Prometheus ends chunks by their size, too.
    pub fn append_more(&mut self, out: &mut Vec<u8>, at: i64, value: &HistogramValue) -> bool {
        let parts = Parts::of(value);
        if self.0.count == u16::MAX {
            return false;
        }
        match self.0.fit(&parts) {
            Fit::NewChunk(_) => return false,
            Fit::AsItIs => self.0.append(out, at, parts),
            Fit::Widen(positive, negative) => {
                let Ok(samples) = decode(self.encoding(), out) else { return false };
                let reset = self.0.reset;
                let mut widened: Option<State> = None;
                for (t, old) in samples.iter().map(|(t, old)| (*t, old)).chain([(at, value)]) {
                    let parts = widen(Parts::of(old), &positive, &negative);
                    match &mut widened {
                        None => widened = Some(State::begin(out, t, parts, reset)),
                        Some(state) => state.append(out, t, parts),
                    }
                }
                *self.0 = widened.expect("at least the new sample is there");
            }
        }
        true
    }
}

impl State {
    fn begin(out: &mut Vec<u8>, at: i64, parts: Parts, reset: CounterReset) -> State {
        out.clear();
        out.extend_from_slice(&1u16.to_be_bytes());
        out.push(reset_flags(reset));
        let mut cursor = BitCursor::aligned();
        parts.layout.write(&mut cursor, out);
        write_int(&mut cursor, out, at);
        let numbers = match &parts.numbers {
            PartNumbers::Integer(values) => {
                write_uint(&mut cursor, out, values[0] as u64);
                write_uint(&mut cursor, out, values[1] as u64);
                cursor.write(out, parts.sum.to_bits(), 64);
                values[2..].iter().for_each(|value| write_int(&mut cursor, out, *value));
                Numbers::Integer(values.iter().map(|value| Counted { value: *value, delta: 0 }).collect())
            }
            PartNumbers::Float(values) => {
                cursor.write(out, values[0].to_bits(), 64);
                cursor.write(out, values[1].to_bits(), 64);
                cursor.write(out, parts.sum.to_bits(), 64);
                values[2..].iter().for_each(|value| cursor.write(out, value.to_bits(), 64));
                Numbers::Float(values.iter().map(|value| Xored::new(*value)).collect())
            }
        };
        let sum = Xored::new(parts.sum);
        State { layout: parts.layout, reset, count: 1, cursor, last_at: at, delta: 0, sum, numbers }
    }

    /// Appends a sample that fits as it is.
    fn append(&mut self, out: &mut Vec<u8>, at: i64, parts: Parts) {
        let State { cursor, sum, numbers, .. } = self;
        let delta = at.wrapping_sub(self.last_at);
        write_int(cursor, out, delta.wrapping_sub(self.delta));
        let stale = is_stale(parts.sum);
        match (numbers, parts.numbers) {
            (Numbers::Integer(last), PartNumbers::Integer(values)) => {
                for (index, value) in values.iter().enumerate() {
                    if index == 2 {
                        sum.write(cursor, out, parts.sum);
                    }
                    let delta = value.wrapping_sub(last[index].value);
                    let change = delta.wrapping_sub(last[index].delta);
                    // Only markers follow a marker: what its counts would have been does not matter.
                    write_int(cursor, out, if stale { 0 } else { change });
                    last[index] = Counted { value: *value, delta };
                }
                if values.len() == 2 {
                    sum.write(cursor, out, parts.sum);
                }
            }
            (Numbers::Float(last), PartNumbers::Float(values)) => {
                for (index, value) in values.iter().enumerate() {
                    if index == 2 {
                        sum.write(cursor, out, parts.sum);
                    }
                    last[index].write(cursor, out, *value);
                }
                if values.len() == 2 {
                    sum.write(cursor, out, parts.sum);
                }
            }
            _ => unreachable!("`fit` wants a new chunk for another kind"),
        }
        self.delta = delta;
        self.last_at = at;
        self.count += 1;
        out[..2].copy_from_slice(&self.count.to_be_bytes());
    }

    fn fit(&self, parts: &Parts) -> Fit {
        let is_gauge = parts.hint == CounterReset::Gauge;
        let same_kind = matches!(
            (&self.numbers, &parts.numbers),
            (Numbers::Integer(_), PartNumbers::Integer(_)) | (Numbers::Float(_), PartNumbers::Float(_))
        );
        if !same_kind || is_gauge != (self.reset == CounterReset::Gauge) {
            return Fit::NewChunk(if is_gauge { CounterReset::Gauge } else { CounterReset::Unknown });
        }
        if parts.hint == CounterReset::Reset {
            return Fit::NewChunk(CounterReset::Reset);
        }
        if is_stale(parts.sum) {
            return Fit::AsItIs;
        }
        let unknown = if is_gauge { CounterReset::Gauge } else { CounterReset::Unknown };
        if is_stale(self.sum.value()) {
            return Fit::NewChunk(unknown);
        }
        if !is_gauge && self.is_less(&parts.numbers, 0) {
            return Fit::NewChunk(CounterReset::Reset);
        }
        if parts.layout.schema != self.layout.schema || parts.layout.zero_threshold != self.layout.zero_threshold {
            return Fit::NewChunk(unknown);
        }
        if !same_bounds(&parts.layout.custom, &self.layout.custom) {
            return Fit::NewChunk(if is_gauge { CounterReset::Gauge } else { CounterReset::Reset });
        }
        if !is_gauge && self.is_less(&parts.numbers, 1) {
            return Fit::NewChunk(CounterReset::Reset);
        }
        self.fit_buckets(parts, is_gauge)
    }

    fn is_less(&self, numbers: &PartNumbers, index: usize) -> bool {
        match (&self.numbers, numbers) {
            (Numbers::Integer(last), PartNumbers::Integer(values)) => (values[index] as u64) < last[index].value as u64,
            (Numbers::Float(last), PartNumbers::Float(values)) => values[index] < last[index].value(),
            _ => false,
        }
    }

    fn fit_buckets(&self, parts: &Parts, is_gauge: bool) -> Fit {
        let same = parts.layout.positive == self.layout.positive && parts.layout.negative == self.layout.negative;
        if is_gauge && same {
            return Fit::AsItIs;
        }
        let have = [bucket_indexes(&self.layout.positive), bucket_indexes(&self.layout.negative)];
        let want = [bucket_indexes(&parts.layout.positive), bucket_indexes(&parts.layout.negative)];
        if !is_gauge && self.buckets_fell(&parts.numbers, &have, &want) {
            return Fit::NewChunk(CounterReset::Reset);
        }
        if same {
            return Fit::AsItIs;
        }
        let [positive, negative] = [0, 1].map(|side| merged_indexes(&have[side], &want[side]));
        Fit::Widen(positive, negative)
    }

    /// Whether a bucket has less than before.
    fn buckets_fell(&self, numbers: &PartNumbers, have: &[Vec<i32>; 2], want: &[Vec<i32>; 2]) -> bool {
        let mut at = (2, 2);
        for side in 0..2 {
            let (from, to) = (at.0 + have[side].len(), at.1 + want[side].len());
            let fell = match (&self.numbers, numbers) {
                (Numbers::Integer(last), PartNumbers::Integer(values)) => {
                    let before = summed(last[at.0..from].iter().map(|number| number.value));
                    counts_fell(&before, &have[side], &summed(values[at.1..to].iter().copied()), &want[side])
                }
                (Numbers::Float(last), PartNumbers::Float(values)) => {
                    let before: Vec<f64> = last[at.0..from].iter().map(|number| number.value()).collect();
                    counts_fell(&before, &have[side], &values[at.1..to], &want[side])
                }
                _ => false,
            };
            if fell {
                return true;
            }
            at = (from, to);
        }
        false
    }
}

fn counts_fell<T: Copy + Default + PartialOrd>(before: &[T], have: &[i32], after: &[T], want: &[i32]) -> bool {
    let after = spread(after, want, have);
    before.iter().zip(&after).any(|(before, after)| after < before)
    // A bucket that is gone but was not empty fell too; `spread` drops those of `after` that `have` lacks, never these.
}

fn summed(deltas: impl Iterator<Item = i64>) -> Vec<i64> {
    deltas
        .scan(0i64, |count, delta| {
            *count = count.wrapping_add(delta);
            Some(*count)
        })
        .collect()
}

fn same_bounds(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Spreads a histogram over more buckets.
fn widen(parts: Parts, positive: &[i32], negative: &[i32]) -> Parts {
    if is_stale(parts.sum) {
        return parts;
    }
    let have = [bucket_indexes(&parts.layout.positive), bucket_indexes(&parts.layout.negative)];
    let split = 2 + have[0].len();
    let numbers = match parts.numbers {
        PartNumbers::Integer(values) => {
            let mut widened = values[..2].to_vec();
            for (counts, have, want) in
                [(&values[2..split], &have[0], positive), (&values[split..], &have[1], negative)]
            {
                let mut last = 0;
                for count in spread(&summed(counts.iter().copied()), have, want) {
                    widened.push(count.wrapping_sub(last));
                    last = count;
                }
            }
            PartNumbers::Integer(widened)
        }
        PartNumbers::Float(values) => {
            let mut widened = values[..2].to_vec();
            widened.extend(spread(&values[2..split], &have[0], positive));
            widened.extend(spread(&values[split..], &have[1], negative));
            PartNumbers::Float(widened)
        }
    };
    let layout = Layout { positive: spans_of(positive), negative: spans_of(negative), ..parts.layout };
    Parts { layout, numbers, ..parts }
}

fn reset_flags(reset: CounterReset) -> u8 {
    match reset {
        CounterReset::Unknown => 0,
        CounterReset::NotReset => 0b0100_0000,
        CounterReset::Reset => 0b1000_0000,
        CounterReset::Gauge => 0b1100_0000,
    }
}

fn reset_of_flags(flags: u8) -> CounterReset {
    match flags >> 6 {
        0 => CounterReset::Unknown,
        1 => CounterReset::NotReset,
        2 => CounterReset::Reset,
        _ => CounterReset::Gauge,
    }
}

/// What the header of a histogram chunk says about resets.
///
/// # Errors
/// `Short` when there is no header.
pub fn counter_reset(chunk: &[u8]) -> Result<CounterReset, ChunkError> {
    chunk.get(FLAGS_AT).map(|flags| reset_of_flags(*flags)).ok_or(ChunkError::Short)
}

/// The instant of the first sample.
///
/// # Errors
/// When the bytes are no histogram chunk.
pub fn first_at(chunk: &[u8]) -> Result<i64, ChunkError> {
    let mut reader = BitReader::new(chunk.get(HEADER_BYTES..).ok_or(ChunkError::Short)?);
    Layout::read(&mut reader, chunk.len() * 8)?;
    read_int(&mut reader)
}

/// All samples of a chunk.
///
/// # Errors
/// When the bytes are no such chunk.
pub fn decode(encoding: Encoding, chunk: &[u8]) -> Result<Vec<(i64, HistogramValue)>, ChunkError> {
    let mut samples = Vec::new();
    for_each(encoding, chunk, |at, value| {
        samples.push((at, value()));
        true
    })?;
    Ok(samples)
}

/// Calls `sample` with each instant, and a way to have its value, until it answers false.
///
/// # Errors
/// When the bytes are no such chunk.
pub fn for_each(
    encoding: Encoding,
    chunk: &[u8],
    mut sample: impl FnMut(i64, &mut dyn FnMut() -> HistogramValue) -> bool,
) -> Result<(), ChunkError> {
    let count = sample_count(chunk)?;
    if count == 0 {
        return Ok(());
    }
    let reset = counter_reset(chunk)?;
    let mut reader = BitReader::new(&chunk[HEADER_BYTES..]);
    let mut state = State::read_first(&mut reader, encoding, reset, chunk.len() * 8)?;
    for index in 0..count {
        if index > 0 {
            state.read_next(&mut reader)?;
        }
        state.count = index;
        if !sample(state.last_at, &mut || state.value()) {
            break;
        }
    }
    Ok(())
}

impl State {
    fn read_first(
        reader: &mut BitReader<'_>,
        encoding: Encoding,
        reset: CounterReset,
        bits_max: usize,
    ) -> Result<State, ChunkError> {
        let layout = Layout::read(reader, bits_max)?;
        let buckets: usize = layout.positive.iter().chain(&layout.negative).map(|span| span.length as usize).sum();
        let last_at = read_int(reader)?;
        let (sum, numbers) = if encoding == Encoding::Histogram {
            let mut numbers = vec![read_uint(reader)? as i64, read_uint(reader)? as i64];
            let sum = reader.read(64)?;
            for _ in 0..buckets {
                numbers.push(read_int(reader)?);
            }
            (sum, Numbers::Integer(numbers.into_iter().map(|value| Counted { value, delta: 0 }).collect()))
        } else {
            let mut numbers = vec![reader.read(64)?, reader.read(64)?];
            let sum = reader.read(64)?;
            for _ in 0..buckets {
                numbers.push(reader.read(64)?);
            }
            (sum, Numbers::Float(numbers.into_iter().map(|bits| Xored::new(f64::from_bits(bits))).collect()))
        };
        let sum = Xored::new(f64::from_bits(sum));
        let cursor = BitCursor::aligned();
        Ok(State { layout, reset, count: 0, cursor, last_at, delta: 0, sum, numbers })
    }

    fn read_next(&mut self, reader: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.delta = self.delta.wrapping_add(read_int(reader)?);
        self.last_at = self.last_at.wrapping_add(self.delta);
        match &mut self.numbers {
            Numbers::Integer(numbers) => {
                numbers[0].read(reader)?;
                numbers[1].read(reader)?;
                self.sum.read(reader)?;
                if !is_stale(self.sum.value()) {
                    numbers[2..].iter_mut().try_for_each(|number| number.read(reader))?;
                }
            }
            Numbers::Float(numbers) => {
                numbers[0].read(reader)?;
                numbers[1].read(reader)?;
                self.sum.read(reader)?;
                if !is_stale(self.sum.value()) {
                    numbers[2..].iter_mut().try_for_each(|number| number.read(reader))?;
                }
            }
        }
        Ok(())
    }

    /// The present sample. What its hint says holds within the chunk: nothing is known of the first one, because the
    /// chunk that stood before it may be gone.
    fn value(&self) -> HistogramValue {
        let sum = self.sum.value();
        let counter_reset = match (self.reset, self.count) {
            (CounterReset::Gauge, _) => CounterReset::Gauge,
            (_, 0) => CounterReset::Unknown,
            _ => CounterReset::NotReset,
        };
        let stale = is_stale(sum);
        let positive = self.layout.positive.iter().map(|span| span.length as usize).sum::<usize>();
        match &self.numbers {
            Numbers::Integer(_) if stale => {
                HistogramValue::Integer(Arc::new(Histogram { sum, ..Histogram::default() }))
            }
            Numbers::Float(_) if stale => {
                HistogramValue::Float(Arc::new(FloatHistogram { sum, ..FloatHistogram::default() }))
            }
            Numbers::Integer(numbers) => {
                let buckets: Vec<i64> = numbers[2..].iter().map(|number| number.value).collect();
                HistogramValue::Integer(Arc::new(Histogram {
                    counter_reset,
                    schema: self.layout.schema,
                    zero_threshold: self.layout.zero_threshold,
                    zero_count: numbers[1].value as u64,
                    count: numbers[0].value as u64,
                    sum,
                    positive_spans: self.layout.positive.clone(),
                    negative_spans: self.layout.negative.clone(),
                    positive_buckets: buckets[..positive].to_vec(),
                    negative_buckets: buckets[positive..].to_vec(),
                    custom_values: Arc::clone(&self.layout.custom),
                }))
            }
            Numbers::Float(numbers) => {
                let buckets: Vec<f64> = numbers[2..].iter().map(|number| number.value()).collect();
                HistogramValue::Float(Arc::new(FloatHistogram {
                    counter_reset,
                    schema: self.layout.schema,
                    zero_threshold: self.layout.zero_threshold,
                    zero_count: numbers[1].value(),
                    count: numbers[0].value(),
                    sum,
                    positive_spans: self.layout.positive.clone(),
                    negative_spans: self.layout.negative.clone(),
                    positive_buckets: buckets[..positive].to_vec(),
                    negative_buckets: buckets[positive..].to_vec(),
                    custom_values: Arc::clone(&self.layout.custom),
                }))
            }
        }
    }
}

impl Counted {
    fn read(&mut self, reader: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.delta = self.delta.wrapping_add(read_int(reader)?);
        self.value = self.value.wrapping_add(self.delta);
        Ok(())
    }
}
