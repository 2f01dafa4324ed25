//! Exposition formats → events: raw bytes in, nothing copied, nothing allocated for a line that was seen before.
//!
//! A scrape's lines come in the same order as the last time, so the consumer remembers what stood at each place as a
//! [`SeriesKey`] (length and hash of the raw `name{labels}`) and passes it as a hint. When the bytes at hand have that
//! length and hash, the parser skips over them unread and only the value is parsed; else the line is parsed whole and
//! [`Parser::labels`] gives its labels.

mod buckets;
mod float;
mod nhcb;
mod openmetrics;
mod protobuf;
mod text;
mod wire;

use std::borrow::Cow;

use promesh_model::ingest::{Exemplar, HistogramValue};
use xxhash_rust::xxh3::xxh3_64;

pub use buckets::{limit_resolution, schema_of_factor};
pub use float::parse_float;
pub use nhcb::CustomBucketsParser;
pub use openmetrics::OpenMetricsParser;
pub use protobuf::{HistogramOptions, ProtobufParser};
pub use text::TextParser;

/// The most labels of a series: whoever exposes more is broken or hostile, and must not cost a peer its memory.
pub const LABELS_MAX: usize = 10_000;

/// What identifies the raw bytes of a series in an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// xxh3 of the bytes.
    pub hash: u64,
    /// How many.
    pub bytes: u32,
}

impl SeriesKey {
    /// The key of raw bytes.
    pub fn of(raw: &[u8]) -> SeriesKey {
        SeriesKey { hash: xxh3_64(raw), bytes: raw.len() as u32 }
    }

    /// Whether bytes begin with what this is the key of.
    #[inline]
    fn is_prefix_of(self, bytes: &[u8]) -> bool {
        bytes.get(..self.bytes as usize).is_some_and(|raw| xxh3_64(raw) == self.hash)
    }
}

/// What stands next in an exposition.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A float sample.
    Sample(Sample),
    /// A native histogram.
    Histogram(HistogramSample),
    /// A family's type.
    Type {
        /// The family.
        family: Cow<'a, str>,
        /// `counter`, `gauge`, `histogram`, `gaugehistogram`, `summary`, `info`, `stateset` or `unknown`.
        kind: &'static str,
    },
    /// A family's help text.
    Help {
        /// The family.
        family: Cow<'a, str>,
        /// The text, unescaped.
        text: Cow<'a, str>,
    },
    /// A family's unit.
    Unit {
        /// The family.
        family: Cow<'a, str>,
        /// The unit.
        unit: Cow<'a, str>,
    },
}

/// A float sample of the series that [`Parser::labels`] names until the next event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The series' key.
    pub key: SeriesKey,
    /// Whether the hint was right: the labels were not parsed and cannot be asked for.
    pub as_hinted: bool,
    /// The value; NaN in its ordinary form.
    pub value: f64,
    /// Its own instant in milliseconds.
    pub timestamp: Option<i64>,
    /// When the counter was created, in milliseconds.
    pub start: Option<i64>,
}

/// A native histogram of the series that [`Parser::labels`] names until the next event.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// The series' key.
    pub key: SeriesKey,
    /// The histogram.
    pub value: HistogramValue,
    /// Its own instant in milliseconds.
    pub timestamp: Option<i64>,
    /// When it was created, in milliseconds.
    pub start: Option<i64>,
}

/// Labels of one series as they stand in an exposition: in their order, perhaps with repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawLabels(pub Vec<(String, String)>);

/// Reads one exposition.
pub trait Parser: Send {
    /// The next event, or `None` at the end. `hint` is what a sample here is expected to be.
    ///
    /// # Errors
    /// The first one ends the exposition: what came before it is a part only.
    fn next(&mut self, hint: Option<SeriesKey>) -> Result<Option<Event<'_>>, ParseError>;

    /// The labels of the last sample or histogram, its name as `__name__`. Must not be asked for a hinted one.
    fn labels(&self, labels: &mut RawLabels);

    /// The next exemplar of the last sample or histogram, and whether it has an instant of its own.
    fn exemplar(&mut self) -> Option<(Exemplar, bool)> {
        None
    }
}

/// What is wrong with an exposition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at line {line}: {context:?}")]
pub struct ParseError {
    /// What.
    pub message: String,
    /// In which line, from one; for protobuf, in which family.
    pub line: usize,
    /// The beginning of what stands there.
    pub context: String,
}

impl ParseError {
    /// How much of a bad line is shown.
    const CONTEXT_BYTES: usize = 120;

    pub(crate) fn at(input: &[u8], start: usize, message: impl Into<String>) -> ParseError {
        let rest = &input[start.min(input.len())..];
        let line_end = memchr::memchr(b'\n', rest).unwrap_or(rest.len()).min(Self::CONTEXT_BYTES);
        ParseError {
            message: message.into(),
            line: memchr::memchr_iter(b'\n', &input[..start.min(input.len())]).count() + 1,
            context: String::from_utf8_lossy(&rest[..line_end]).into_owned(),
        }
    }
}

/// `\"`, `\\` and `\n` as what they stand for; any other backslash stands for itself.
pub(crate) fn unescape(text: &str, quotes: bool) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', text.as_bytes()) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut signs = text[first..].chars();
    while let Some(sign) = signs.next() {
        if sign != '\\' {
            out.push(sign);
            continue;
        }
        match signs.clone().next() {
            Some('n') => out.push('\n'),
            Some('\\') => out.push('\\'),
            Some('"') if quotes => out.push('"'),
            _ => {
                out.push('\\');
                continue;
            }
        }
        signs.next();
    }
    Cow::Owned(out)
}

/// `le` and `quantile` in the one form that all formats share: `1` becomes `1.0`.
///
/// Source: prometheus `model/textparse.normalizeFloatsInLabelValues`.
pub(crate) fn normalize_bound(kind: &str, name: &str, value: &str) -> Option<String> {
    let applies =
        (kind == "summary" && name == "quantile") || (matches!(kind, "histogram" | "gaugehistogram") && name == "le");
    let number = applies.then(|| parse_float(value.as_bytes()))??;
    Some(format_open_metrics(number))
}

/// A float as OpenMetrics writes bounds: with a fraction or an exponent, so that it cannot be taken for an integer.
///
/// Source: Go `strconv.FormatFloat(f, 'g', -1, 64)` and `.0`.
pub fn format_open_metrics(number: f64) -> String {
    if number == 1.0 {
        return "1.0".to_owned();
    }
    if number == f64::INFINITY {
        return "+Inf".to_owned();
    }
    if number == f64::NEG_INFINITY {
        return "-Inf".to_owned();
    }
    if number.is_nan() {
        return "NaN".to_owned();
    }
    let text = float::format_go_g(number);
    if text.contains(['e', '.']) { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod protobuf_tests;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod tests;
