//! Prometheus' protobuf exposition: length-delimited `MetricFamily` messages, native histograms among them.
//!
//! Decoded by hand over the bytes: texts are borrowed, unknown fields skipped, every length checked before it is used.
//!
//! Source: prometheus/client_model `io/prometheus/client/metrics.proto`; prometheus `model/textparse/protobufparse.go`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use promesh_model::histogram::{CounterReset, FloatHistogram, Histogram, Span};
use promesh_model::ingest::{Exemplar, HistogramValue};
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, Timestamp};
use xxhash_rust::xxh3::Xxh3;

use crate::buckets::{Classic, compact, spans_fit};
use crate::wire::{Field, Fields, Value};
use crate::{
    Event, HistogramSample, LABELS_MAX, ParseError, Parser, RawLabels, Sample, SeriesKey, format_open_metrics,
};

/// What becomes of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramOptions {
    /// Native histograms are read; else only their classic parts.
    pub native: bool,
    /// Classic histograms are given even beside a native or converted one.
    pub classic_too: bool,
    /// Classic histograms become native ones with custom buckets.
    pub to_custom_buckets: bool,
}

/// Reads protobuf expositions.
#[derive(Debug)]
pub struct ProtobufParser<'a> {
    rest: &'a [u8],
    options: HistogramOptions,
    family: Family<'a>,
    family_count: usize,
    metrics: VecDeque<&'a [u8]>,
    metric: Metric<'a>,
    pending: VecDeque<Item<'a>>,
    /// The item that was given last: what [`Parser::labels`] and [`Parser::exemplar`] speak of.
    given: Option<Item<'a>>,
}

#[derive(Debug, Default)]
struct Family<'a> {
    name: &'a str,
    kind: u64,
}

#[derive(Debug, Default)]
struct Metric<'a> {
    labels: Vec<(&'a str, &'a str)>,
    timestamp: Option<i64>,
    start: Option<i64>,
}

#[derive(Debug)]
enum Item<'a> {
    Meta(Event<'a>),
    Float { suffix: &'static str, bound: Option<(&'static str, f64)>, value: f64, exemplar: Option<&'a [u8]> },
    Histogram { value: HistogramValue, exemplars: VecDeque<&'a [u8]> },
}

const COUNTER: u64 = 0;
const GAUGE: u64 = 1;
const SUMMARY: u64 = 2;
const UNTYPED: u64 = 3;
const HISTOGRAM: u64 = 4;
const GAUGE_HISTOGRAM: u64 = 5;

impl<'a> ProtobufParser<'a> {
    /// A parser of a whole exposition.
    pub fn new(input: &'a [u8], options: HistogramOptions) -> ProtobufParser<'a> {
        ProtobufParser {
            rest: input,
            options,
            family: Family::default(),
            family_count: 0,
            metrics: VecDeque::new(),
            metric: Metric::default(),
            pending: VecDeque::new(),
            given: None,
        }
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { message: message.into(), line: self.family_count, context: self.family.name.to_owned() }
    }

    /// False at the end.
    fn next_family(&mut self) -> Result<bool, ParseError> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.family_count += 1;
        self.family = Family::default();
        let mut rest = self.rest;
        let message = crate::wire::delimited(&mut rest).ok_or_else(|| self.error("truncated metric family"))?;
        self.rest = rest;
        let (mut help, mut unit) = ("", "");
        for field in Fields::new(message) {
            match field.map_err(|why| self.error(why))? {
                Field { number: 1, value } => self.family.name = value.text().map_err(|why| self.error(why))?,
                Field { number: 2, value } => help = value.text().map_err(|why| self.error(why))?,
                Field { number: 3, value } => self.family.kind = value.varint().map_err(|why| self.error(why))?,
                Field { number: 4, value } => {
                    self.metrics.push_back(value.bytes().map_err(|why| self.error(why))?);
                }
                Field { number: 5, value } => unit = value.text().map_err(|why| self.error(why))?,
                _ => {}
            }
        }
        if self.metrics.is_empty() {
            return Ok(true);
        }
        let name = self.family.name;
        if name.is_empty() {
            return Err(self.error("invalid metric name: \"\""));
        }
        let kind = match self.family.kind {
            COUNTER => "counter",
            GAUGE => "gauge",
            SUMMARY => "summary",
            UNTYPED => "unknown",
            HISTOGRAM => "histogram",
            GAUGE_HISTOGRAM => "gaugehistogram",
            other => return Err(self.error(format!("unknown metric type {other}"))),
        };
        let family = Cow::Borrowed(name);
        self.pending.push_back(Item::Meta(Event::Help { family: family.clone(), text: Cow::Borrowed(help) }));
        if !unit.is_empty() {
            self.pending.push_back(Item::Meta(Event::Unit { family: family.clone(), unit: Cow::Borrowed(unit) }));
        }
        self.pending.push_back(Item::Meta(Event::Type { family, kind }));
        Ok(true)
    }

    fn next_metric(&mut self, message: &'a [u8]) -> Result<(), ParseError> {
        self.read_metric(message).map_err(|why| self.error(why))
    }

    fn read_metric(&mut self, message: &'a [u8]) -> Result<(), String> {
        self.metric.labels.clear();
        self.metric.timestamp = None;
        self.metric.start = None;
        let mut body = None;
        for field in Fields::new(message) {
            let Field { number, value } = field?;
            match number {
                1 if self.metric.labels.len() == LABELS_MAX => return Err(format!("more than {LABELS_MAX} labels")),
                1 => self.metric.labels.push(label_pair(value.bytes()?)?),
                6 => self.metric.timestamp = Some(value.varint()? as i64).filter(|ms| *ms != 0),
                2 | 3 | 4 | 5 | 7 => body = Some((number, value.bytes()?)),
                _ => {}
            }
        }
        let wanted = match self.family.kind {
            COUNTER => 3,
            GAUGE => 2,
            SUMMARY => 4,
            UNTYPED => 5,
            _ => 7,
        };
        let (_, body) = body.filter(|(number, _)| *number == wanted).unwrap_or((wanted, &[]));
        match self.family.kind {
            SUMMARY => self.summary(body),
            HISTOGRAM | GAUGE_HISTOGRAM => self.histogram(body),
            _ => self.simple(body),
        }
    }

    /// Counter, gauge, untyped.
    fn simple(&mut self, body: &'a [u8]) -> Result<(), String> {
        let (mut number_value, mut exemplar) = (0.0, None);
        for field in Fields::new(body) {
            let Field { number, value } = field?;
            match number {
                1 => number_value = value.double()?,
                2 if self.family.kind == COUNTER => exemplar = Some(value.bytes()?),
                3 if self.family.kind == COUNTER => self.metric.start = Some(instant(value.bytes()?)?),
                _ => {}
            }
        }
        self.push("", None, number_value, exemplar);
        Ok(())
    }

    fn push(
        &mut self,
        suffix: &'static str,
        bound: Option<(&'static str, f64)>,
        value: f64,
        exemplar: Option<&'a [u8]>,
    ) {
        self.pending.push_back(Item::Float { suffix, bound, value: ordinary(value), exemplar });
    }

    fn summary(&mut self, body: &'a [u8]) -> Result<(), String> {
        let (mut count, mut sum, mut quantiles) = (0u64, 0.0, Vec::new());
        for field in Fields::new(body) {
            let Field { number, value } = field?;
            match number {
                1 => count = value.varint()?,
                2 => sum = value.double()?,
                3 => {
                    let mut pair = (0.0, 0.0);
                    for field in Fields::new(value.bytes()?) {
                        match field? {
                            Field { number: 1, value } => pair.0 = value.double()?,
                            Field { number: 2, value } => pair.1 = value.double()?,
                            _ => {}
                        }
                    }
                    quantiles.push(pair);
                }
                4 => self.metric.start = Some(instant(value.bytes()?)?),
                _ => {}
            }
        }
        self.push("_count", None, count as f64, None);
        self.push("_sum", None, sum, None);
        for (quantile, value) in quantiles {
            self.push("", Some(("quantile", quantile)), value, None);
        }
        Ok(())
    }

    fn histogram(&mut self, body: &'a [u8]) -> Result<(), String> {
        let read = RawHistogram::read(body)?;
        self.metric.start = read.start;
        let native = self.options.native && read.is_native();
        if native {
            read.check()?;
            let mut value = read.value(self.family.kind == GAUGE_HISTOGRAM);
            compact(&mut value, 0);
            self.pending.push_back(Item::Histogram { value, exemplars: read.all_exemplars() });
        }
        let converts = !native && self.options.to_custom_buckets;
        if (!native && !converts) || (self.options.classic_too && (!native || !read.buckets.is_empty())) {
            self.classic(&read);
        }
        if converts {
            let mut classic = Classic::default();
            classic.set_count(read.count());
            classic.set_sum(read.sum);
            for bucket in &read.buckets {
                classic.add_bucket(bucket.bound, bucket.count);
            }
            let mut value = classic.convert()?;
            if self.family.kind == GAUGE_HISTOGRAM {
                mark_gauge(&mut value);
            }
            self.pending.push_back(Item::Histogram { value, exemplars: read.all_exemplars() });
        }
        Ok(())
    }

    fn classic(&mut self, read: &RawHistogram<'a>) {
        self.push("_count", None, read.count(), None);
        self.push("_sum", None, read.sum, None);
        let mut ended = false;
        for bucket in &read.buckets {
            self.push("_bucket", Some(("le", bucket.bound)), bucket.count, bucket.exemplar);
            ended = bucket.bound == f64::INFINITY;
            if ended {
                break;
            }
        }
        if !ended {
            self.push("_bucket", Some(("le", f64::INFINITY)), read.count(), None);
        }
    }

    /// Hashes what makes the series: there is no text of it.
    fn key(&self, suffix: &str, bound: Option<(&'static str, f64)>) -> SeriesKey {
        let mut hasher = Xxh3::new();
        let mut bytes = 0;
        let mut feed = |part: &[u8]| {
            hasher.update(part);
            hasher.update(&[0xff]);
            bytes += part.len() as u32 + 1;
        };
        feed(self.family.name.as_bytes());
        feed(suffix.as_bytes());
        for (name, value) in &self.metric.labels {
            feed(name.as_bytes());
            feed(value.as_bytes());
        }
        if let Some((name, bound)) = bound {
            feed(name.as_bytes());
            feed(&bound.to_bits().to_le_bytes());
        }
        SeriesKey { hash: hasher.digest(), bytes }
    }
}

impl Parser for ProtobufParser<'_> {
    fn next(&mut self, hint: Option<SeriesKey>) -> Result<Option<Event<'_>>, ParseError> {
        while self.pending.is_empty() {
            if let Some(message) = self.metrics.pop_front() {
                self.next_metric(message)?;
            } else if !self.next_family()? {
                self.given = None;
                return Ok(None);
            }
        }
        let item = self.pending.pop_front().expect("the loop ends only when there is one");
        let (timestamp, start) = (self.metric.timestamp, self.metric.start);
        let event = match &item {
            Item::Meta(event) => event.clone(),
            Item::Float { suffix, bound, value, .. } => {
                let key = self.key(suffix, *bound);
                Event::Sample(Sample { key, as_hinted: hint == Some(key), value: *value, timestamp, start })
            }
            Item::Histogram { value, .. } => {
                let key = self.key("histogram", None);
                Event::Histogram(HistogramSample { key, value: value.clone(), timestamp, start })
            }
        };
        self.given = Some(item);
        Ok(Some(event))
    }

    fn labels(&self, labels: &mut RawLabels) {
        labels.0.clear();
        let (suffix, bound) = match &self.given {
            Some(Item::Float { suffix, bound, .. }) => (*suffix, *bound),
            _ => ("", None),
        };
        labels.0.push((METRIC_NAME.to_owned(), format!("{}{suffix}", self.family.name)));
        labels.0.extend(self.metric.labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        if let Some((name, bound)) = bound {
            labels.0.push((name.to_owned(), format_open_metrics(bound)));
        }
    }

    fn exemplar(&mut self) -> Option<(Exemplar, bool)> {
        match self.given.as_mut()? {
            Item::Float { exemplar, .. } => read_exemplar(exemplar.take()?).ok(),
            // Those of native histograms count only with an instant: else nobody could tell them from older ones.
            Item::Histogram { exemplars, .. } => loop {
                if let Ok(found @ (_, true)) = read_exemplar(exemplars.pop_front()?) {
                    return Some(found);
                }
            },
            Item::Meta(_) => None,
        }
    }
}

fn label_pair(message: &[u8]) -> Result<(&str, &str), String> {
    let mut pair = ("", "");
    for field in Fields::new(message) {
        match field? {
            Field { number: 1, value } => pair.0 = value.text()?,
            Field { number: 2, value } => pair.1 = value.text()?,
            _ => {}
        }
    }
    Ok(pair)
}

/// A `Timestamp` message in milliseconds.
fn instant(message: &[u8]) -> Result<i64, String> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    for field in Fields::new(message) {
        match field? {
            Field { number: 1, value } => seconds = value.varint()? as i64,
            Field { number: 2, value } => nanos = value.varint()? as i64,
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

fn read_exemplar(message: &[u8]) -> Result<(Exemplar, bool), String> {
    let (mut pairs, mut observed, mut timestamp) = (Vec::new(), 0.0, None);
    for field in Fields::new(message) {
        match field? {
            Field { number: 1, value } => pairs.push(label_pair(value.bytes()?)?),
            Field { number: 2, value } => observed = value.double()?,
            Field { number: 3, value } => timestamp = Some(instant(value.bytes()?)?),
            _ => {}
        }
    }
    let exemplar =
        Exemplar { labels: Labels::from_pairs(pairs), value: observed, timestamp: Timestamp(timestamp.unwrap_or(0)) };
    Ok((exemplar, timestamp.is_some()))
}

/// NaN in its ordinary form: an exposition cannot bring the staleness marker.
fn ordinary(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

struct Bucket<'a> {
    bound: f64,
    count: f64,
    exemplar: Option<&'a [u8]>,
}

#[derive(Default)]
struct RawHistogram<'a> {
    count_integer: u64,
    count_float: f64,
    sum: f64,
    buckets: Vec<Bucket<'a>>,
    schema: i32,
    zero_threshold: f64,
    zero_count: u64,
    zero_count_float: f64,
    spans: [Vec<Span>; 2],
    deltas: [Vec<i64>; 2],
    counts: [Vec<f64>; 2],
    exemplars: VecDeque<&'a [u8]>,
    start: Option<i64>,
}

const POSITIVE: usize = 0;
const NEGATIVE: usize = 1;

impl<'a> RawHistogram<'a> {
    fn read(message: &'a [u8]) -> Result<RawHistogram<'a>, String> {
        let mut read = RawHistogram::default();
        for field in Fields::new(message) {
            let Field { number, value } = field?;
            match number {
                1 => read.count_integer = value.varint()?,
                2 => read.sum = ordinary(value.double()?),
                3 => read.buckets.push(bucket(value.bytes()?)?),
                4 => read.count_float = value.double()?,
                5 => read.schema = zigzag(value.varint()?) as i32,
                6 => read.zero_threshold = value.double()?,
                7 => read.zero_count = value.varint()?,
                8 => read.zero_count_float = value.double()?,
                9 => read.spans[NEGATIVE].push(span(value.bytes()?)?),
                10 => append_deltas(&value, &mut read.deltas[NEGATIVE])?,
                11 => append_doubles(&value, &mut read.counts[NEGATIVE])?,
                12 => read.spans[POSITIVE].push(span(value.bytes()?)?),
                13 => append_deltas(&value, &mut read.deltas[POSITIVE])?,
                14 => append_doubles(&value, &mut read.counts[POSITIVE])?,
                15 => read.start = Some(instant(value.bytes()?)?),
                16 => read.exemplars.push_back(value.bytes()?),
                _ => {}
            }
        }
        Ok(read)
    }

    fn count(&self) -> f64 {
        if self.count_float == 0.0 { self.count_integer as f64 } else { self.count_float }
    }

    /// A span, even an empty one, says that it is native; see upstream's `isNativeHistogram`.
    fn is_native(&self) -> bool {
        self.spans.iter().any(|spans| !spans.is_empty()) || self.zero_threshold > 0.0 || self.zero_count > 0
    }

    fn is_float(&self) -> bool {
        self.count_float > 0.0 || self.zero_count_float > 0.0
    }

    fn check(&self) -> Result<(), String> {
        for (side, what) in [(POSITIVE, "positive"), (NEGATIVE, "negative")] {
            let buckets = if self.is_float() { self.counts[side].len() } else { self.deltas[side].len() };
            if !spans_fit(&self.spans[side], buckets) {
                return Err(format!("{what} side: spans do not describe {buckets} buckets"));
            }
        }
        if !(-4..=8).contains(&self.schema) {
            return Err(format!("histogram has an invalid schema {}", self.schema));
        }
        Ok(())
    }

    fn value(&self, gauge: bool) -> HistogramValue {
        let counter_reset = if gauge { CounterReset::Gauge } else { CounterReset::Unknown };
        let [positive_spans, negative_spans] = self.spans.clone();
        if self.is_float() {
            let [positive_buckets, negative_buckets] = self.counts.clone();
            return HistogramValue::Float(Arc::new(FloatHistogram {
                counter_reset,
                schema: self.schema,
                zero_threshold: self.zero_threshold,
                zero_count: self.zero_count_float,
                count: self.count_float,
                sum: self.sum,
                positive_spans,
                negative_spans,
                positive_buckets,
                negative_buckets,
                custom_values: Arc::from([]),
            }));
        }
        let [positive_buckets, negative_buckets] = self.deltas.clone();
        HistogramValue::Integer(Arc::new(Histogram {
            counter_reset,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            count: self.count_integer,
            sum: self.sum,
            positive_spans,
            negative_spans,
            positive_buckets,
            negative_buckets,
            custom_values: Arc::from([]),
        }))
    }

    /// Its own, else those of its classic buckets.
    fn all_exemplars(&self) -> VecDeque<&'a [u8]> {
        if self.exemplars.is_empty() {
            self.buckets.iter().filter_map(|bucket| bucket.exemplar).collect()
        } else {
            self.exemplars.clone()
        }
    }
}

pub(crate) fn mark_gauge(value: &mut HistogramValue) {
    match value {
        HistogramValue::Integer(histogram) => Arc::make_mut(histogram).counter_reset = CounterReset::Gauge,
        HistogramValue::Float(histogram) => Arc::make_mut(histogram).counter_reset = CounterReset::Gauge,
    }
}

fn bucket(message: &[u8]) -> Result<Bucket<'_>, String> {
    let (mut integer, mut float, mut bound, mut exemplar) = (0u64, 0.0, 0.0, None);
    for field in Fields::new(message) {
        match field? {
            Field { number: 1, value } => integer = value.varint()?,
            Field { number: 2, value } => bound = value.double()?,
            Field { number: 3, value } => exemplar = Some(value.bytes()?),
            Field { number: 4, value } => float = value.double()?,
            _ => {}
        }
    }
    Ok(Bucket { bound, count: if float == 0.0 { integer as f64 } else { float }, exemplar })
}

fn span(message: &[u8]) -> Result<Span, String> {
    let mut span = Span::default();
    for field in Fields::new(message) {
        match field? {
            Field { number: 1, value } => span.offset = zigzag(value.varint()?) as i32,
            Field { number: 2, value } => {
                span.length = u32::try_from(value.varint()?).map_err(|_| "span too long".to_owned())?;
            }
            _ => {}
        }
    }
    Ok(span)
}

fn zigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

/// Packed, or one at a time.
fn append_deltas(value: &Value<'_>, deltas: &mut Vec<i64>) -> Result<(), String> {
    match value {
        &Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                let raw = crate::wire::take_varint(&mut packed).ok_or("truncated number")?;
                deltas.push(zigzag(raw));
            }
        }
        value => deltas.push(zigzag(value.varint()?)),
    }
    Ok(())
}

fn append_doubles(value: &Value<'_>, doubles: &mut Vec<f64>) -> Result<(), String> {
    match value {
        Value::Bytes(packed) if packed.len() % 8 == 0 => {
            let chunks = packed.chunks_exact(8);
            doubles.extend(chunks.map(|chunk| f64::from_le_bytes(chunk.try_into().expect("chunks are 8 bytes long"))));
            Ok(())
        }
        value => {
            doubles.push(value.double()?);
            Ok(())
        }
    }
}
