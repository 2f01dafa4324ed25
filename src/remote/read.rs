//! Reading from other servers: remote read, as samples or as a stream of chunks.
//!
//! Source: prometheus `storage/remote/client.go`, `chunked.go`, `read.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use promesh_client::{HttpClient, Request};
use promesh_config::prometheus::RemoteReadConfig;
use promesh_model::ingest::HistogramValue;
use promesh_model::matcher::MatchOp;
use promesh_model::storage::{HistogramPoint, SelectRequest, SeriesColumns};
use promesh_model::{CounterReset, FloatHistogram, Labels, Matcher, Span, Timestamp};
use promesh_tsdb::chunk::{Encoding, for_each_value};
use promesh_tsdb::head::series::Value;

use crate::proto::{Fields, Malformed, Wire, Writer, take_varint};

/// What one answer may take.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// Labels of a series.
const LABELS_MAX: usize = 1_024;

/// One server that samples are read from.
pub struct Reader {
    /// Its settings.
    pub config: RemoteReadConfig,
    client: HttpClient,
    headers: HeaderMap,
    /// What was counted.
    pub counters: ReadCounters,
}

/// What was counted of one server.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// Queries that it answered.
    pub answered: AtomicU64,
    /// Queries that failed.
    pub failed: AtomicU64,
    /// Queries under way.
    pub under_way: AtomicU64,
    /// How long all took together, in µs.
    pub took_us: AtomicU64,
}

impl Reader {
    /// A reader.
    ///
    /// # Errors
    /// What cannot be used of the settings.
    pub fn new(config: RemoteReadConfig) -> Result<Reader, String> {
        let client = HttpClient::new(&config.http).map_err(|error| format!("remote_read: {error}"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header {name:?}: {error}"))?;
            let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
            headers.insert(name, value);
        }
        for (name, value) in [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("accept-encoding", "snappy"),
            ("x-prometheus-remote-read-version", "0.1.0"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Ok(Reader { config, client, headers, counters: ReadCounters::default() })
    }

    /// Where, for people.
    pub fn shown_url(&self) -> String {
        self.config.url.as_ref().map(|url| url.redacted()).unwrap_or_default()
    }

    /// Whether a selector is one that this server is asked: it has all required matchers.
    pub fn wants(&self, matchers: &[Matcher]) -> bool {
        self.config.required_matchers.iter().all(|(name, value)| {
            matchers
                .iter()
                .any(|matcher| matcher.op == MatchOp::Equal && matcher.name == name && matcher.value == value)
        })
    }

    /// Reads one selector's series; external labels are put into the selector and taken out of the answer.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub async fn read(
        &self,
        query: &SelectRequest,
        (start, end): (Timestamp, Timestamp),
        external: &Labels,
    ) -> Result<Vec<SeriesColumns>, String> {
        let mut matchers = query.matchers.clone();
        let mut added = Vec::new();
        if self.config.filter_external_labels {
            for (name, value) in external.iter() {
                if !matchers.iter().any(|matcher| matcher.name == name) {
                    matchers.push(Matcher::equal(name, value));
                    added.push(name.to_owned());
                }
            }
        }
        let message = request(&matchers, start, end);
        let body = snap::raw::Encoder::new().compress_vec(&message).expect("selectors are short");
        let url = self.config.url.as_ref().expect("checked when it was read").url().clone();
        let asked = Request { method: Method::POST, url, headers: self.headers.clone(), body: body.into() };
        // The body's own snappy is not a content encoding that is undone on the way.
        let response = self.client.send(asked, self.config.remote_timeout).await.map_err(|error| error.to_string())?;
        let (status, mut headers) = (response.status, response.headers.clone());
        headers.remove(http::header::CONTENT_ENCODING);
        let mut bytes = Vec::new();
        let reading = promesh_client::read_body(response.body, &headers, ANSWER_BYTES_MAX, &mut bytes);
        let read = tokio::time::timeout(self.config.remote_timeout, reading).await;
        read.map_err(|_| "the answer took too long".to_owned())?.map_err(|error| error.to_string())?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim().to_owned();
            return Err(format!("remote server returned HTTP status {status}: {text}"));
        }
        let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let series = if kind.starts_with("application/x-streamed-protobuf") {
            streamed(&bytes, self.config.chunked_read_limit as usize)?
        } else {
            let limit = snap::raw::decompress_len(&bytes).map_err(|_| "snappy: corrupt input".to_owned())?;
            if limit > ANSWER_BYTES_MAX {
                return Err(format!("the answer would be {limit} bytes"));
            }
            let message = snap::raw::Decoder::new().decompress_vec(&bytes).map_err(|error| error.to_string())?;
            sampled(&message).map_err(|error| error.to_string())?
        };
        Ok(tidied(series, &added, start.ms(), end.ms()))
    }
}

fn request(matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Vec<u8> {
    let mut query = Writer::default();
    query.signed(1, start.ms());
    query.signed(2, end.ms());
    for matcher in matchers {
        let mut message = Writer::default();
        let kind = match matcher.op {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        };
        message.unsigned(1, kind);
        message.text(2, &matcher.name);
        message.text(3, &matcher.value);
        query.message(3, &message);
    }
    let mut request = Writer::default();
    request.message(1, &query);
    // A stream of chunks is asked for first; samples will do.
    request.packed(2, |out| {
        out.varint(1);
        out.varint(0);
    });
    request.0
}

fn labels_of(bytes: &[u8], out: &mut Vec<(String, String)>) -> Result<(), Malformed> {
    if out.len() >= LABELS_MAX {
        return Err(Malformed);
    }
    let (mut name, mut value) = (String::new(), String::new());
    let mut fields = Fields(bytes);
    while let Some(field) = fields.read()? {
        match field {
            (1, Wire::Bytes(text)) => name = String::from_utf8(text.to_vec()).map_err(|_| Malformed)?,
            (2, Wire::Bytes(text)) => value = String::from_utf8(text.to_vec()).map_err(|_| Malformed)?,
            _ => {}
        }
    }
    out.push((name, value));
    Ok(())
}

/// A `ReadResponse` with the results of one query.
fn sampled(message: &[u8]) -> Result<Vec<SeriesColumns>, Malformed> {
    let mut all = Vec::new();
    let mut response = Fields(message);
    while let Some(field) = response.read()? {
        let (1, Wire::Bytes(result)) = field else { continue };
        let mut result = Fields(result);
        while let Some(field) = result.read()? {
            let (1, Wire::Bytes(series)) = field else { continue };
            all.push(series_of(series)?);
        }
    }
    Ok(all)
}

fn series_of(bytes: &[u8]) -> Result<SeriesColumns, Malformed> {
    let mut columns = SeriesColumns::default();
    let mut labels = Vec::new();
    let mut fields = Fields(bytes);
    while let Some(field) = fields.read()? {
        match field {
            (1, Wire::Bytes(label)) => labels_of(label, &mut labels)?,
            (2, Wire::Bytes(sample)) => {
                let (mut value, mut at) = (0.0, 0);
                let mut sample = Fields(sample);
                while let Some(field) = sample.read()? {
                    match field {
                        (1, Wire::Fixed64(bits)) => value = f64::from_bits(bits),
                        (2, Wire::Varint(ms)) => at = ms as i64,
                        _ => {}
                    }
                }
                columns.timestamps.push(at);
                columns.values.push(value);
            }
            (4, Wire::Bytes(histogram)) => columns.histograms.push(histogram_of(histogram)?),
            _ => {}
        }
    }
    columns.labels = Labels::from_pairs(labels);
    Ok(columns)
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn histogram_of(bytes: &[u8]) -> Result<HistogramPoint, Malformed> {
    let mut found = FloatHistogram::default();
    let (mut at, mut deltas) = (0, [Vec::new(), Vec::new()]);
    let span = |bytes: &[u8]| -> Result<Span, Malformed> {
        let mut span = Span::default();
        let mut fields = Fields(bytes);
        while let Some(field) = fields.read()? {
            match field {
                (1, Wire::Varint(value)) => span.offset = unzigzag(value) as i32,
                (2, Wire::Varint(value)) => span.length = u32::try_from(value).map_err(|_| Malformed)?,
                _ => {}
            }
        }
        Ok(span)
    };
    let doubles = |bytes: &[u8]| -> Vec<f64> {
        bytes.chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().expect("eight bytes"))).collect()
    };
    let varints = |mut bytes: &[u8], out: &mut Vec<i64>| -> Result<(), Malformed> {
        while !bytes.is_empty() {
            out.push(unzigzag(take_varint(&mut bytes)?));
        }
        Ok(())
    };
    let mut fields = Fields(bytes);
    while let Some(field) = fields.read()? {
        match field {
            (1, Wire::Varint(count)) => found.count = count as f64,
            (2, Wire::Fixed64(bits)) => found.count = f64::from_bits(bits),
            (3, Wire::Fixed64(bits)) => found.sum = f64::from_bits(bits),
            (4, Wire::Varint(schema)) => found.schema = unzigzag(schema) as i32,
            (5, Wire::Fixed64(bits)) => found.zero_threshold = f64::from_bits(bits),
            (6, Wire::Varint(count)) => found.zero_count = count as f64,
            (7, Wire::Fixed64(bits)) => found.zero_count = f64::from_bits(bits),
            (8, Wire::Bytes(bytes)) => found.negative_spans.push(span(bytes)?),
            (9, Wire::Bytes(bytes)) => varints(bytes, &mut deltas[0])?,
            (10, Wire::Bytes(bytes)) => found.negative_buckets = doubles(bytes),
            (11, Wire::Bytes(bytes)) => found.positive_spans.push(span(bytes)?),
            (12, Wire::Bytes(bytes)) => varints(bytes, &mut deltas[1])?,
            (13, Wire::Bytes(bytes)) => found.positive_buckets = doubles(bytes),
            (14, Wire::Varint(1)) => found.counter_reset = CounterReset::Reset,
            (14, Wire::Varint(2)) => found.counter_reset = CounterReset::NotReset,
            (14, Wire::Varint(3)) => found.counter_reset = CounterReset::Gauge,
            (15, Wire::Varint(ms)) => at = ms as i64,
            (16, Wire::Bytes(bytes)) => found.custom_values = doubles(bytes).into(),
            _ => {}
        }
    }
    let [negative, positive] = deltas;
    for (deltas, buckets) in [(negative, &mut found.negative_buckets), (positive, &mut found.positive_buckets)] {
        if buckets.is_empty() {
            let mut sum = 0i64;
            buckets.extend(deltas.into_iter().map(|delta| {
                sum = sum.wrapping_add(delta);
                sum as f64
            }));
        }
    }
    Ok(HistogramPoint { timestamp: at, start: 0, value: Arc::new(found) })
}

/// Frames of a `ChunkedReadResponse`: length, checksum, message.
fn streamed(mut bytes: &[u8], frame_max: usize) -> Result<Vec<SeriesColumns>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = take_varint(&mut bytes).map_err(|error| error.to_string())?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > frame_max {
            return Err(format!("a frame of {length} bytes is over the limit of {frame_max}"));
        }
        let (sum, rest) = bytes.split_first_chunk::<4>().ok_or("the stream ends within a frame")?;
        let (message, rest) = rest.split_at_checked(length).ok_or("the stream ends within a frame")?;
        if crc32c::crc32c(message) != u32::from_be_bytes(*sum) {
            return Err("chunkedReader: corrupted frame; checksum mismatch".to_owned());
        }
        chunked(message, &mut all)?;
        bytes = rest;
    }
    Ok(all)
}

fn chunked(message: &[u8], all: &mut Vec<SeriesColumns>) -> Result<(), String> {
    let text = |error: Malformed| error.to_string();
    let mut response = Fields(message);
    while let Some(field) = response.read().map_err(text)? {
        let (1, Wire::Bytes(series)) = field else { continue };
        let mut columns = SeriesColumns::default();
        let mut labels = Vec::new();
        let mut series = Fields(series);
        while let Some(field) = series.read().map_err(text)? {
            match field {
                (1, Wire::Bytes(label)) => labels_of(label, &mut labels).map_err(text)?,
                (2, Wire::Bytes(chunk)) => chunk_of(chunk, &mut columns)?,
                _ => {}
            }
        }
        columns.labels = Labels::from_pairs(labels);
        all.push(columns);
    }
    Ok(())
}

fn chunk_of(bytes: &[u8], columns: &mut SeriesColumns) -> Result<(), String> {
    let (mut kind, mut data): (u64, &[u8]) = (0, &[]);
    let mut fields = Fields(bytes);
    while let Some(field) = fields.read().map_err(|error| error.to_string())? {
        match field {
            (3, Wire::Varint(value)) => kind = value,
            (4, Wire::Bytes(bytes)) => data = bytes,
            _ => {}
        }
    }
    let encoding = Encoding::from_byte(kind as u8).map_err(|error| error.to_string())?;
    let read = for_each_value(encoding, data, |at, value| {
        match value() {
            Value::Float(bits) => {
                columns.timestamps.push(at);
                columns.values.push(f64::from_bits(bits));
            }
            Value::Histogram(value) => {
                let value = match value {
                    HistogramValue::Integer(value) => Arc::new(value.to_float()),
                    HistogramValue::Float(value) => value,
                };
                columns.histograms.push(HistogramPoint { timestamp: at, start: 0, value });
            }
        }
        true
    });
    read.map_err(|error| error.to_string())
}

/// The floats and histograms of one series, by milliseconds.
type ByInstant = (BTreeMap<i64, f64>, BTreeMap<i64, HistogramPoint>);

/// Each series once, its samples in order and within the range, without the labels that were put in.
fn tidied(series: Vec<SeriesColumns>, added: &[String], start: i64, end: i64) -> Vec<SeriesColumns> {
    let mut by_labels: BTreeMap<Labels, ByInstant> = BTreeMap::new();
    for columns in series {
        let labels = columns.labels.without(|name| added.iter().any(|added| added == name));
        let (floats, histograms) = by_labels.entry(labels).or_default();
        let within = |at: &i64| (start..=end).contains(at);
        floats.extend(columns.timestamps.into_iter().zip(columns.values).filter(|(at, _)| within(at)));
        let points = columns.histograms.into_iter().filter(|point| within(&point.timestamp));
        histograms.extend(points.map(|point| (point.timestamp, point)));
    }
    let columns = |(labels, (floats, histograms)): (Labels, ByInstant)| {
        let (timestamps, values) = floats.into_iter().unzip();
        SeriesColumns {
            labels,
            timestamps,
            values,
            histograms: histograms.into_values().collect(),
            ..Default::default()
        }
    };
    let all = by_labels.into_iter().map(columns);
    all.filter(|columns| !columns.timestamps.is_empty() || !columns.histograms.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_an_answer_are_joined_and_lose_the_labels_that_were_put_in() {
        let labels = Labels::from_pairs([("__name__", "a"), ("dc", "x")]);
        let part = |timestamps: Vec<i64>| SeriesColumns {
            labels: labels.clone(),
            values: timestamps.iter().map(|at| *at as f64).collect(),
            timestamps,
            ..Default::default()
        };
        let found = tidied(vec![part(vec![3, 4]), part(vec![1, 2, 3])], &["dc".to_owned()], 2, 9);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].labels, Labels::from_pairs([("__name__", "a")]));
        assert_eq!(found[0].timestamps, [2, 3, 4]);
    }

    #[test]
    fn a_frame_with_another_checksum_is_refused() {
        let mut frame = Writer::default();
        frame.varint(1);
        frame.0.extend_from_slice(&[0, 0, 0, 0, 7]);
        assert!(streamed(&frame.0, 100).expect_err("torn").contains("checksum"));
        let mut long = Writer::default();
        long.varint(1_000_000);
        assert!(streamed(&long.0, 100).expect_err("long").contains("limit"));
    }
}
