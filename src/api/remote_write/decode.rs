//! What both protocols share: samples, histograms, checks of labels.

use std::ops::Range;
use std::sync::Arc;

use promesh_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use promesh_model::ingest::{Exemplar, HistogramValue};
use promesh_model::labels::METRIC_NAME;
use promesh_model::{CounterReset, FloatHistogram, Histogram, Labels, Span, Timestamp};

use super::proto::{Field, Fields, ProtoError, unzigzag};
use crate::backend::{Push, PushedSeries};

/// Labels of one series; more are refused before anything is allocated for them.
const LABELS_MAX: usize = 1024;
/// Series with invalid labels that are remembered by text.
const INVALID_MAX: usize = 100;

/// A push, and what of it cannot be one.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub push: Push,
    /// Why series were left out, one text each; the first hundred.
    pub invalid: Vec<String>,
    /// Whether any was left out because it has samples too far ahead.
    pub is_ahead: bool,
}

impl Decoded {
    pub fn refuse(&mut self, why: impl FnOnce() -> String) {
        if self.invalid.len() < INVALID_MAX {
            self.invalid.push(why());
        }
    }

    /// Where a series' samples will begin.
    pub fn begin(&self) -> Begun {
        let push = &self.push;
        Begun { samples: push.samples.len(), histograms: push.histograms.len(), exemplars: push.exemplars.len() }
    }

    /// Takes what was pushed since `begun` as one series, or takes it out again.
    pub fn finish(&mut self, begun: Begun, labels: Result<Labels, String>, start: Timestamp) {
        let push = &mut self.push;
        match labels {
            Ok(labels) => push.series.push(PushedSeries {
                labels,
                samples: begun.samples..push.samples.len(),
                histograms: begun.histograms..push.histograms.len(),
                exemplars: begun.exemplars..push.exemplars.len(),
                start,
            }),
            Err(why) => {
                push.samples.truncate(begun.samples);
                push.histograms.truncate(begun.histograms);
                push.exemplars.truncate(begun.exemplars);
                self.refuse(|| why);
            }
        }
    }

    /// As [`Decoded::finish`] for samples that began to count at several instants, as around a restart of what is counted:
    /// a series for each stretch, the exemplars with the last.
    pub fn finish_runs(&mut self, begun: Begun, labels: Result<Labels, String>, starts: &Starts) {
        let Ok(labels) = labels else { return self.finish(begun, labels, Timestamp(0)) };
        let (mut sample, mut histogram) = (begun.samples, begun.histograms);
        let exemplars_end = self.push.exemplars.len();
        let mut add = |samples: Range<usize>, histograms: Range<usize>, exemplars: Range<usize>, start: Timestamp| {
            self.push.series.push(PushedSeries { labels: labels.clone(), samples, histograms, exemplars, start });
        };
        for run in starts.samples.chunk_by(|a, b| a == b) {
            add(sample..sample + run.len(), histogram..histogram, begun.exemplars..begun.exemplars, run[0]);
            sample += run.len();
        }
        for run in starts.histograms.chunk_by(|a, b| a == b) {
            add(sample..sample, histogram..histogram + run.len(), begun.exemplars..begun.exemplars, run[0]);
            histogram += run.len();
        }
        if let Some(last) = self.push.series.last_mut() {
            last.exemplars = begun.exemplars..exemplars_end;
        }
    }
}

/// Since when each sample of one series counts; zero where it is not said.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    pub samples: Vec<Timestamp>,
    pub histograms: Vec<Timestamp>,
}

impl Starts {
    pub fn clear(&mut self) {
        self.samples.clear();
        self.histograms.clear();
    }

    /// The one instant of all samples, zero if there are none; `None` where they differ.
    pub fn single(&self) -> Option<Timestamp> {
        let mut all = self.samples.iter().chain(&self.histograms);
        let first = all.next().copied().unwrap_or(Timestamp(0));
        all.all(|start| *start == first).then_some(first)
    }
}

/// Lengths of the columns before a series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    samples: usize,
    histograms: usize,
    exemplars: usize,
}

/// Pairs of names and values, reused from series to series.
#[derive(Debug, Default)]
pub(crate) struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Pairs<'a> {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, name: &'a str, value: &'a str) {
        // One more than allowed is kept, so that `series` sees that there were too many.
        if self.0.len() <= LABELS_MAX {
            self.0.push((name, value));
        }
    }

    /// The label set, in order, without empty values; for exemplars, whose labels need no name.
    pub fn labels(&mut self) -> Result<Labels, String> {
        if self.0.len() > LABELS_MAX {
            return Err(format!("series with more than {LABELS_MAX} labels"));
        }
        self.0.retain(|(_, value)| !value.is_empty());
        if !self.0.is_sorted_by_key(|(name, _)| *name) {
            self.0.sort_unstable_by_key(|(name, _)| *name);
        }
        if let Some(pair) = self.0.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let labels = self.shown();
            return Err(format!("invalid labels for series, labels {labels}, duplicated label {}", pair[0].0));
        }
        Ok(Labels::from_sorted(self.0.iter().copied()))
    }

    /// The label set of a series: with a metric name, and names that are not empty.
    pub fn series(&mut self) -> Result<Labels, String> {
        let labels = self.labels()?;
        let nameless = self.0.iter().any(|(name, _)| name.is_empty());
        if nameless || labels.get(METRIC_NAME).is_none() {
            return Err(format!("invalid metric name or labels, got {}", self.shown()));
        }
        Ok(labels)
    }

    /// For messages: also what no label set can hold.
    fn shown(&self) -> String {
        let quoted = promesh_model::labels::quoted;
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
        format!("{{{}}}", pairs.join(", "))
    }
}

/// A float: when, which, and since when it counts, which only 2.0 says.
pub(crate) fn sample(fields: Fields<'_>) -> Result<(Timestamp, f64, Timestamp), ProtoError> {
    let (mut at, mut value, mut start) = (0, 0.0, 0);
    for field in fields {
        let field = field?;
        match field.number {
            1 => value = field.double()?,
            2 => at = field.signed()?,
            3 => start = field.signed()?,
            _ => {}
        }
    }
    Ok((Timestamp(at), value, Timestamp(start)))
}

/// An exemplar whose labels the caller reads.
pub(crate) fn exemplar(labels: Result<Labels, String>, value: f64, timestamp: Timestamp) -> Option<Exemplar> {
    labels.ok().map(|labels| Exemplar { labels, value, timestamp })
}

/// A native histogram, alike in both protocols: when, which, and since when it counts, which only 2.0 says.
pub(crate) fn histogram(fields: Fields<'_>) -> Result<(Timestamp, HistogramValue, Timestamp), ProtoError> {
    let mut read = Read::default();
    for field in fields {
        read.take(&field?)?;
    }
    let (at, start) = (Timestamp(read.timestamp), Timestamp(read.start));
    Ok((at, if read.is_float { read.float()? } else { read.integer()? }, start))
}

#[derive(Default)]
struct Read {
    is_float: bool,
    count_int: u64,
    count_float: f64,
    sum: f64,
    schema: i32,
    zero_threshold: f64,
    zero_int: u64,
    zero_float: f64,
    positive_spans: Vec<Span>,
    negative_spans: Vec<Span>,
    positive_deltas: Vec<i64>,
    negative_deltas: Vec<i64>,
    positive_counts: Vec<f64>,
    negative_counts: Vec<f64>,
    reset: u64,
    timestamp: i64,
    custom_values: Vec<f64>,
    start: i64,
}

impl Read {
    fn take(&mut self, field: &Field<'_>) -> Result<(), ProtoError> {
        match field.number {
            1 => (self.count_int, self.is_float) = (field.unsigned()?, false),
            2 => (self.count_float, self.is_float) = (field.double()?, true),
            3 => self.sum = field.double()?,
            4 => {
                let schema = i32::try_from(field.zigzag()?);
                self.schema = schema.map_err(|_| ProtoError::Histogram("schema out of range"))?;
            }
            5 => self.zero_threshold = field.double()?,
            6 => self.zero_int = field.unsigned()?,
            7 => self.zero_float = field.double()?,
            8 => self.negative_spans.push(span(field.message()?)?),
            9 => field.each_varint(|value| self.negative_deltas.push(unzigzag(value)))?,
            10 => field.each_double(|value| self.negative_counts.push(value))?,
            11 => self.positive_spans.push(span(field.message()?)?),
            12 => field.each_varint(|value| self.positive_deltas.push(unzigzag(value)))?,
            13 => field.each_double(|value| self.positive_counts.push(value))?,
            14 => self.reset = field.unsigned()?,
            15 => self.timestamp = field.signed()?,
            16 => field.each_double(|value| self.custom_values.push(value))?,
            17 => self.start = field.signed()?,
            _ => {}
        }
        Ok(())
    }

    fn counter_reset(&self) -> CounterReset {
        match self.reset {
            1 => CounterReset::Reset,
            2 => CounterReset::NotReset,
            3 => CounterReset::Gauge,
            _ => CounterReset::Unknown,
        }
    }

    /// As many buckets as the spans say, and a schema that exists: what later code relies on to index.
    fn check(&self, positive: usize, negative: usize) -> Result<(), ProtoError> {
        let buckets = |spans: &[Span]| spans.iter().map(|span| span.length as usize).sum::<usize>();
        if buckets(&self.positive_spans) != positive || buckets(&self.negative_spans) != negative {
            return Err(ProtoError::Histogram("spans do not match the number of buckets"));
        }
        if !(-4..=8).contains(&self.schema) && self.schema != CUSTOM_BUCKETS_SCHEMA {
            return Err(ProtoError::Histogram("unknown schema"));
        }
        Ok(())
    }

    fn integer(self) -> Result<HistogramValue, ProtoError> {
        self.check(self.positive_deltas.len(), self.negative_deltas.len())?;
        Ok(HistogramValue::Integer(Arc::new(Histogram {
            counter_reset: self.counter_reset(),
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_int,
            count: self.count_int,
            sum: self.sum,
            positive_spans: self.positive_spans,
            negative_spans: self.negative_spans,
            positive_buckets: self.positive_deltas,
            negative_buckets: self.negative_deltas,
            custom_values: self.custom_values.into(),
        })))
    }

    fn float(self) -> Result<HistogramValue, ProtoError> {
        self.check(self.positive_counts.len(), self.negative_counts.len())?;
        Ok(HistogramValue::Float(Arc::new(FloatHistogram {
            counter_reset: self.counter_reset(),
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_float,
            count: self.count_float,
            sum: self.sum,
            positive_spans: self.positive_spans,
            negative_spans: self.negative_spans,
            positive_buckets: self.positive_counts,
            negative_buckets: self.negative_counts,
            custom_values: self.custom_values.into(),
        })))
    }
}

fn span(fields: Fields<'_>) -> Result<Span, ProtoError> {
    let mut span = Span::default();
    for field in fields {
        let field = field?;
        let range = |_| ProtoError::Histogram("span out of range");
        match field.number {
            1 => span.offset = field.zigzag()?.try_into().map_err(range)?,
            2 => span.length = field.unsigned()?.try_into().map_err(range)?,
            _ => {}
        }
    }
    Ok(span)
}

/// The word for a metric type's number.
pub(crate) fn metric_type(number: u64) -> &'static str {
    const TYPES: [&str; 9] =
        ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"];
    TYPES.get(number as usize).copied().unwrap_or("unknown")
}
