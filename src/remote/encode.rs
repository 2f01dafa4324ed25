//! Messages of remote write, from samples in the order in which they are to go.
//!
//! Source: prometheus `prompb/remote.proto`, `prompb/types.proto`, `prompb/io/prometheus/write/v2/types.proto`.

use std::collections::HashMap;
use std::sync::Arc;

use promesh_model::histogram::Span;
use promesh_model::ingest::{HistogramValue, Metadata};
use promesh_model::{CounterReset, Labels};

use crate::proto::{Writer, zigzag};
use crate::queue::{Item, Value};

/// A `prometheus.WriteRequest`, before compression.
pub fn v1(items: &[&Item]) -> Vec<u8> {
    let mut request = Writer::default();
    for run in runs(items) {
        let mut series = Writer::default();
        for (name, value) in run[0].series.labels.iter() {
            series.message(1, &label(name, value));
        }
        for item in run {
            match &item.value {
                Value::Float(value) => series.message(2, &sample(*value, item.at)),
                Value::Exemplar(exemplar) => {
                    let mut message = Writer::default();
                    for (name, value) in exemplar.labels.iter() {
                        message.message(1, &label(name, value));
                    }
                    message.double(2, exemplar.value);
                    message.signed(3, exemplar.timestamp.ms());
                    series.message(3, &message);
                }
                Value::Histogram(value) => series.message(4, &histogram(value, item.at)),
            }
        }
        request.message(1, &series);
    }
    request.0
}

/// A `prometheus.WriteRequest` of metadata alone.
pub fn v1_metadata(families: &[(String, Metadata)]) -> Vec<u8> {
    let mut request = Writer::default();
    for (name, metadata) in families {
        let mut message = Writer::default();
        message.unsigned(1, kind_number(&metadata.kind));
        message.text(2, name);
        message.text(4, &metadata.help);
        message.text(5, &metadata.unit);
        request.message(3, &message);
    }
    request.0
}

/// An `io.prometheus.write.v2.Request`, before compression.
pub fn v2(items: &[&Item]) -> Vec<u8> {
    let mut symbols = Symbols::default();
    let mut all = Writer::default();
    for run in runs(items) {
        let of = &run[0].series;
        let mut series = Writer::default();
        let refs = symbols.labels(&of.labels);
        series.packed(1, |out| refs.iter().for_each(|symbol| out.varint(*symbol)));
        for item in run {
            match &item.value {
                Value::Float(value) => {
                    let mut message = sample(*value, item.at);
                    message.signed(3, item.start);
                    series.message(2, &message);
                }
                Value::Histogram(value) => {
                    let mut message = histogram(value, item.at);
                    message.signed(17, item.start);
                    series.message(3, &message);
                }
                Value::Exemplar(exemplar) => {
                    let mut message = Writer::default();
                    let refs = symbols.labels(&exemplar.labels);
                    message.packed(1, |out| refs.iter().for_each(|symbol| out.varint(*symbol)));
                    message.double(2, exemplar.value);
                    message.signed(3, exemplar.timestamp.ms());
                    series.message(4, &message);
                }
            }
        }
        if let Some(metadata) = &of.metadata {
            let mut message = Writer::default();
            message.unsigned(1, kind_number(&metadata.kind));
            message.unsigned(3, symbols.of(&metadata.help));
            message.unsigned(4, symbols.of(&metadata.unit));
            series.message(5, &message);
        }
        // As it was before 2.0 was settled, for receivers of that time: Prometheus up to 3.7.
        series.signed(6, run.iter().map(|item| item.start).find(|start| *start != 0).unwrap_or(0));
        all.message(5, &series);
    }
    let mut request = Writer::default();
    for symbol in &symbols.list {
        // The first is the empty text, and must be said.
        request.bytes(4, symbol.as_bytes());
    }
    request.0.extend_from_slice(&all.0);
    request.0
}

/// Texts of a request of 2.0, each once; the first is empty.
struct Symbols {
    list: Vec<String>,
    places: HashMap<String, u64>,
}

impl Default for Symbols {
    fn default() -> Self {
        Symbols { list: vec![String::new()], places: HashMap::from([(String::new(), 0)]) }
    }
}

impl Symbols {
    fn of(&mut self, text: &str) -> u64 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.list.len() as u64;
        self.list.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }

    fn labels(&mut self, labels: &Labels) -> Vec<u64> {
        labels.iter().flat_map(|(name, value)| [self.of(name), self.of(value)]).collect()
    }
}

/// Stretches of one series. Floats and histograms of one series apart, since no message may have both.
fn runs<'a, 'b>(mut items: &'b [&'a Item]) -> Vec<&'b [&'a Item]> {
    let mut runs = Vec::with_capacity(items.len());
    while let Some(first) = items.first() {
        let mut has_histograms = None;
        let belongs = |item: &&&Item| {
            let kind = match item.value {
                Value::Float(_) => Some(false),
                Value::Histogram(_) => Some(true),
                Value::Exemplar(_) => None,
            };
            let is_same = Arc::ptr_eq(&first.series, &item.series) || first.series.is_same(&item.series);
            let fits = kind.is_none() || has_histograms.is_none() || kind == has_histograms;
            has_histograms = has_histograms.or(kind);
            is_same && fits
        };
        let (run, rest) = items.split_at(items.iter().take_while(belongs).count());
        runs.push(run);
        items = rest;
    }
    runs
}

fn label(name: &str, value: &str) -> Writer {
    let mut label = Writer::default();
    label.text(1, name);
    label.text(2, value);
    label
}

fn sample(value: f64, at: i64) -> Writer {
    let mut sample = Writer::default();
    sample.double(1, value);
    sample.signed(2, at);
    sample
}

/// A histogram sample, alike in all protocols.
pub fn histogram(value: &HistogramValue, at: i64) -> Writer {
    let mut out = Writer::default();
    let spans = |out: &mut Writer, number: u32, spans: &[Span]| {
        for span in spans {
            let mut message = Writer::default();
            message.zigzag(1, i64::from(span.offset));
            message.unsigned(2, u64::from(span.length));
            out.message(number, &message);
        }
    };
    let deltas = |out: &mut Writer, number: u32, deltas: &[i64]| {
        out.packed(number, |out| deltas.iter().for_each(|delta| out.varint(zigzag(*delta))));
    };
    let doubles = |out: &mut Writer, number: u32, values: &[f64]| {
        out.packed(number, |out| values.iter().for_each(|value| out.0.extend_from_slice(&value.to_le_bytes())));
    };
    let (reset, custom) = match value {
        HistogramValue::Integer(h) => {
            out.unsigned_always(1, h.count);
            out.double(3, h.sum);
            out.zigzag(4, i64::from(h.schema));
            out.double(5, h.zero_threshold);
            out.unsigned_always(6, h.zero_count);
            spans(&mut out, 8, &h.negative_spans);
            deltas(&mut out, 9, &h.negative_buckets);
            spans(&mut out, 11, &h.positive_spans);
            deltas(&mut out, 12, &h.positive_buckets);
            (h.counter_reset, &h.custom_values)
        }
        HistogramValue::Float(h) => {
            out.double_always(2, h.count);
            out.double(3, h.sum);
            out.zigzag(4, i64::from(h.schema));
            out.double(5, h.zero_threshold);
            out.double_always(7, h.zero_count);
            spans(&mut out, 8, &h.negative_spans);
            doubles(&mut out, 10, &h.negative_buckets);
            spans(&mut out, 11, &h.positive_spans);
            doubles(&mut out, 13, &h.positive_buckets);
            (h.counter_reset, &h.custom_values)
        }
    };
    let hint = match reset {
        CounterReset::Unknown => 0,
        CounterReset::Reset => 1,
        CounterReset::NotReset => 2,
        CounterReset::Gauge => 3,
    };
    out.unsigned(14, hint);
    out.signed(15, at);
    doubles(&mut out, 16, custom);
    out
}

fn kind_number(kind: &str) -> u64 {
    match kind {
        "counter" => 1,
        "gauge" => 2,
        "histogram" => 3,
        "gaugehistogram" => 4,
        "summary" => 5,
        "info" => 6,
        "stateset" => 7,
        _ => 0,
    }
}
