//! Results as JSON, written piece by piece.
//!
//! Floats are texts, instants are seconds with a fraction of three digits at most, as Prometheus writes them.

use std::io::Write as _;

use promesh_model::value::format_float;
use promesh_model::{FloatHistogram, Labels, Timestamp};
use promesh_promql::{MatrixSeries, SampleValue, Value, VectorSample};

/// A writing into memory cannot fail.
const INFALLIBLE: &str = "writing into memory does not fail";

/// Writes an instant: seconds, with a fraction of three digits if it has one.
pub fn write_timestamp(out: &mut Vec<u8>, at: Timestamp) {
    let ms = at.ms().unsigned_abs();
    if at.ms() < 0 {
        out.push(b'-');
    }
    write_unsigned(out, ms / 1000);
    if !ms.is_multiple_of(1000) {
        let rest = (ms % 1000) as u16;
        out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)]);
    }
}

fn digit(digit: u16) -> u8 {
    b'0' + digit as u8
}

/// Writes a whole number: a long answer is mostly these.
fn write_unsigned(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit((number % 10) as u16);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Below this, every float without a fraction is a whole number of which all digits count.
const WHOLE_MAX: f64 = 1e15;

/// Writes a float as a JSON text: the shortest that reads back, with an exponent below 1e-6 and from 1e21 on.
///
/// Source: prometheus `util/jsonutil.MarshalFloat`.
pub fn write_float(out: &mut Vec<u8>, value: f64) {
    let magnitude = value.abs();
    if magnitude < WHOLE_MAX && magnitude.trunc() == magnitude {
        out.push(b'"');
        if value.is_sign_negative() {
            out.push(b'-');
        }
        write_unsigned(out, magnitude as u64);
        out.push(b'"');
    } else if magnitude != 0.0 && value.is_finite() && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').expect("`{:e}` always prints an exponent");
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        write!(out, "\"{mantissa}e{sign}{digits:0>2}\"").expect(INFALLIBLE);
    } else if value.is_finite() {
        write!(out, "\"{value}\"").expect(INFALLIBLE);
    } else {
        write!(out, "\"{}\"", format_float(value)).expect(INFALLIBLE);
    }
}

/// Writes a text in quotes.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && !matches!(byte, b'"' | b'\\');
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect(INFALLIBLE);
    }
}

/// Writes a label set as an object.
pub(crate) fn write_labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write_text(out, value);
    }
    out.push(b'}');
}

/// Writes a histogram: count, sum and populated buckets, each `[which bounds belong to it, lower, upper, count]`.
fn write_histogram(out: &mut Vec<u8>, histogram: &FloatHistogram) {
    out.extend_from_slice(b"{\"count\":");
    write_float(out, histogram.count);
    out.extend_from_slice(b",\"sum\":");
    write_float(out, histogram.sum);
    let mut separator: &[u8] = b",\"buckets\":[";
    for bucket in histogram.all_buckets().iter().filter(|bucket| bucket.count != 0.0) {
        out.extend_from_slice(separator);
        separator = b",";
        let bounds = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => b'0',
            (true, false) => b'1',
            (false, false) => b'2',
            (true, true) => b'3',
        };
        out.extend_from_slice(&[b'[', bounds, b',']);
        write_float(out, bucket.lower);
        out.push(b',');
        write_float(out, bucket.upper);
        out.push(b',');
        write_float(out, bucket.count);
        out.push(b']');
    }
    out.extend_from_slice(if separator == b"," { b"]}" } else { b"}" });
}

fn write_point(out: &mut Vec<u8>, at: Timestamp, value: f64) {
    out.push(b'[');
    write_timestamp(out, at);
    out.push(b',');
    write_float(out, value);
    out.push(b']');
}

fn write_histogram_point(out: &mut Vec<u8>, at: Timestamp, histogram: &FloatHistogram) {
    out.push(b'[');
    write_timestamp(out, at);
    out.push(b',');
    write_histogram(out, histogram);
    out.push(b']');
}

fn write_sample(out: &mut Vec<u8>, sample: &VectorSample) {
    out.extend_from_slice(b"{\"metric\":");
    write_labels(out, &sample.labels);
    match &sample.value {
        SampleValue::Float(value) => {
            out.extend_from_slice(b",\"value\":");
            write_point(out, sample.at, *value);
        }
        SampleValue::Histogram(histogram) => {
            out.extend_from_slice(b",\"histogram\":");
            write_histogram_point(out, sample.at, histogram);
        }
    }
    out.push(b'}');
}

/// A number as Go's JSON has it: whole ones without a point.
pub(crate) fn go_number(value: f64) -> serde_json::Value {
    const WHOLE_MAX: f64 = (1u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() <= WHOLE_MAX { (value as i64).into() } else { value.into() }
}

/// [`go_number`] where a field is serialized.
pub(crate) fn as_go_number<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&go_number(*value), serializer)
}

/// The word for a value's type.
pub(crate) fn result_type(value: &Value) -> &'static str {
    match value {
        Value::Scalar { .. } => "scalar",
        Value::String { .. } => "string",
        Value::Vector(_) => "vector",
        Value::Matrix(_) => "matrix",
    }
}

/// Writes a query's value, as much at a time as is asked for.
#[derive(Debug)]
pub(crate) struct ValueWriter {
    value: Value,
    /// The element to go on with.
    element: usize,
    /// The point of it to go on with; histograms after floats.
    point: usize,
}

impl ValueWriter {
    pub fn new(value: Value) -> ValueWriter {
        ValueWriter { value, element: 0, point: 0 }
    }

    /// Appends until `out` holds `enough` bytes or all is written; says whether it is.
    pub fn write(&mut self, out: &mut Vec<u8>, enough: usize) -> bool {
        match &self.value {
            Value::Scalar { at, value } => write_scalar(out, *at, &format_float(*value)),
            Value::String { at, value } => write_scalar(out, *at, value),
            Value::Vector(samples) => {
                let more = write_elements(out, enough, &mut self.element, samples, write_sample);
                return !more;
            }
            Value::Matrix(series) => {
                if self.element == 0 && self.point == 0 {
                    out.push(b'[');
                }
                while let Some(current) = series.get(self.element) {
                    if self.element > 0 && self.point == 0 {
                        out.push(b',');
                    }
                    if !write_series(out, enough, &mut self.point, current) {
                        return false;
                    }
                    (self.element, self.point) = (self.element + 1, 0);
                }
                out.push(b']');
            }
        }
        true
    }
}

/// A scalar or a text. Upstream writes their instants as plain numbers, without zeros at the end.
fn write_scalar(out: &mut Vec<u8>, at: Timestamp, text: &str) {
    out.push(b'[');
    write!(out, "{}", at.as_secs_f64()).expect(INFALLIBLE);
    out.push(b',');
    write_text(out, text);
    out.push(b']');
}

/// Writes the elements of a list from `next` on; says whether some are left.
pub(crate) fn write_elements<T>(
    out: &mut Vec<u8>,
    enough: usize,
    next: &mut usize,
    elements: &[T],
    write: impl Fn(&mut Vec<u8>, &T),
) -> bool {
    if *next == 0 {
        out.push(b'[');
    }
    while let Some(element) = elements.get(*next) {
        if *next > 0 {
            out.push(b',');
        }
        write(out, element);
        *next += 1;
        // Not before the first one: every call gets on.
        if out.len() >= enough && *next < elements.len() {
            return true;
        }
    }
    out.push(b']');
    false
}

/// Writes a series of a matrix from `point` on; says whether it is whole.
fn write_series(out: &mut Vec<u8>, enough: usize, point: &mut usize, series: &MatrixSeries) -> bool {
    let (floats, histograms) = (series.floats.len(), series.histograms.len());
    if *point == 0 {
        out.extend_from_slice(b"{\"metric\":");
        write_labels(out, &series.labels);
    }
    while *point < floats + histograms {
        // Not at the very start, where nothing would mark that the labels are out already.
        if *point > 0 && out.len() >= enough {
            return false;
        }
        if *point < floats {
            out.extend_from_slice(if *point == 0 { b",\"values\":[" } else { b"," });
            let (at, value) = series.floats[*point];
            write_point(out, at, value);
        } else {
            if *point == floats && floats > 0 {
                out.push(b']');
            }
            out.extend_from_slice(if *point == floats { b",\"histograms\":[" } else { b"," });
            let (at, histogram) = &series.histograms[*point - floats];
            write_histogram_point(out, *at, histogram);
        }
        *point += 1;
    }
    out.extend_from_slice(if floats + histograms > 0 { b"]}" } else { b"}" });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn floats_and_instants_are_written_as_upstream_does() {
        for (value, text) in [
            (1.0, "1"),
            (0.0, "0"),
            (-10.0, "-10"),
            (999_999_999_999_999.0, "999999999999999"),
            (1_000_000_000_000_001.0, "1000000000000001"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e-6, "0.000001"),
            (1e-7, "1e-07"),
            (1.5e-9, "1.5e-09"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1e300, "-1e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(written(|out| write_float(out, value)), format!("\"{text}\""));
        }
        for (ms, text) in [
            (0, "0"),
            (1, "0.001"),
            (1000, "1"),
            (1010, "1.010"),
            (-1500, "-1.500"),
            (1_435_781_430_780, "1435781430.780"),
            (-1, "-0.001"),
        ] {
            assert_eq!(written(|out| write_timestamp(out, Timestamp(ms))), text);
        }
    }

    #[test]
    fn pieces_of_any_size_make_the_same_text() {
        let labels = Labels::from_pairs([("__name__", "a\"b"), ("job", "x")]);
        let histogram = std::sync::Arc::new(FloatHistogram {
            count: 3.0,
            sum: 4.5,
            zero_count: 3.0,
            zero_threshold: 0.5,
            ..Default::default()
        });
        let series = |floats: i64, histograms: i64| MatrixSeries {
            labels: labels.clone(),
            floats: (0..floats).map(|at| (Timestamp(at * 1000), at as f64)).collect(),
            histograms: (0..histograms).map(|at| (Timestamp(at), histogram.clone())).collect(),
        };
        let sample = |value| VectorSample { labels: labels.clone(), at: Timestamp(1500), value };
        for value in [
            Value::Matrix(vec![series(3, 0), series(0, 2), series(2, 2)]),
            Value::Matrix(Vec::new()),
            Value::Vector(vec![sample(SampleValue::Float(1.0)), sample(SampleValue::Histogram(histogram.clone()))]),
            Value::Scalar { at: Timestamp(1), value: 2.0 },
            Value::String { at: Timestamp(1), value: "\n".into() },
        ] {
            let mut whole = Vec::new();
            assert!(ValueWriter::new(value.clone()).write(&mut whole, usize::MAX));
            serde_json::from_slice::<serde_json::Value>(&whole).expect("valid JSON");
            for size in [1, 10, 100] {
                let (mut writer, mut joined, mut piece) = (ValueWriter::new(value.clone()), Vec::new(), Vec::new());
                while !writer.write(&mut piece, size) {
                    joined.append(&mut piece);
                }
                joined.append(&mut piece);
                assert_eq!(String::from_utf8_lossy(&joined), String::from_utf8_lossy(&whole), "pieces of {size}");
            }
        }
    }

    #[test]
    fn a_vector_looks_as_upstreams() {
        let labels = Labels::from_pairs([("__name__", "up")]);
        let sample = VectorSample { labels, at: Timestamp(1500), value: SampleValue::Float(1.0) };
        let text = written(|out| {
            ValueWriter::new(Value::Vector(vec![sample.clone()])).write(out, usize::MAX);
        });
        assert_eq!(text, r#"[{"metric":{"__name__":"up"},"value":[1.500,"1"]}]"#);
    }
}
