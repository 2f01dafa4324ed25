//! `/read`: remote read, as samples in one message or as a stream of chunks.
//!
//! Source: prometheus `storage/remote/read_handler.go`, `prompb/remote.proto`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use promesh_model::ingest::HistogramValue;
use promesh_model::matcher::MatchOp;
use promesh_model::storage::{Budget, Queryable, SelectHints, SelectRequest, SeriesColumns, StorageError};
use promesh_model::{Labels, Matcher, Timestamp};
use promesh_remote::proto::Writer;
use promesh_tsdb::head::encode_chunks;
use promesh_tsdb::head::series::Value;
use tokio::sync::mpsc;

use crate::query::CancelOnDrop;
use crate::remote_write::proto::{Fields, ProtoError};
use crate::respond::text;
use crate::router::Api;

/// A request is a few selectors.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Queries of one request.
const QUERIES_MAX: usize = 1000;
/// Frames that wait for a slow reader.
const FRAMES_WAITING: usize = 4;

/// `STREAMED_XOR_CHUNKS`.
const STREAMED: u64 = 1;

#[derive(Debug, Default, PartialEq)]
struct ReadRequest {
    queries: Vec<SelectRequest>,
    accepted: Vec<u64>,
}

pub(crate) async fn read(State(api): State<Api>, request: Request) -> Response {
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let external = api.backend.external_labels();
    let mut asked = match decode(&body) {
        Ok(asked) => asked,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    // External labels are not in storage: a condition on one that holds is dropped.
    for query in &mut asked.queries {
        query.matchers.retain(|matcher| {
            let is_own = matcher.op == MatchOp::Equal && external.get(&matcher.name) == Some(matcher.value.as_str());
            !is_own
        });
    }
    let Ok(permit) = Arc::clone(&api.reads).acquire_owned().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    };
    let storage = api.backend.storage();
    let (samples_max, frame_bytes) = (api.options.read_samples_max, api.options.read_frame_bytes_max.max(1));
    let budget = samples_max.map_or_else(Budget::unlimited, Budget::new);
    let guard = CancelOnDrop(budget.clone());
    let is_streamed = asked.accepted.iter().find(|kind| **kind <= STREAMED) == Some(&STREAMED);
    if is_streamed {
        let (frames, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(FRAMES_WAITING);
        api.backend.reading().spawn_blocking(move || {
            let _permit = permit;
            if let Err(error) = stream(&*storage, &asked.queries, &budget, &external, frame_bytes, &frames) {
                // The reader sees the stream break off.
                let _ = frames.blocking_send(Err(std::io::Error::other(error)));
            }
        });
        let frames = tokio_stream(receiver, guard);
        let mut response = Body::new(StreamBody::new(frames)).into_response();
        let kind = HeaderValue::from_static("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return response;
    }
    let running = api.backend.reading().spawn_blocking(move || {
        let _permit = permit;
        whole(&*storage, &asked.queries, &budget, &external)
    });
    let answered = running.await;
    drop(guard);
    match answered {
        Ok(Ok(message)) => {
            let mut response = message.into_response();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
            response
        }
        Ok(Err(error)) if error == StorageError::TooManySamples.to_string() => {
            let max = samples_max.unwrap_or(u64::MAX);
            text(
                StatusCode::BAD_REQUEST,
                format!("exceeded sample limit ({max}) of --storage.remote.read-sample-limit"),
            )
        }
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "remote read panicked: this is a bug"),
    }
}

/// Frames as they come; the query ends when nobody takes them any more.
fn tokio_stream(
    receiver: mpsc::Receiver<Result<Bytes, std::io::Error>>,
    guard: CancelOnDrop,
) -> impl futures_util::Stream<Item = Result<http_body::Frame<Bytes>, std::io::Error>> {
    futures_util::stream::unfold((receiver, guard), |(mut receiver, guard)| async move {
        let frame = receiver.recv().await?;
        Some((frame.map(http_body::Frame::data), (receiver, guard)))
    })
}

fn decode(body: &[u8]) -> Result<ReadRequest, String> {
    let length = snap::raw::decompress_len(body).map_err(|_| "snappy: corrupt input".to_owned())?;
    if length > BODY_BYTES_MAX {
        return Err(format!("snappy: decoded length {length} exceeds limit {BODY_BYTES_MAX}"));
    }
    let body = snap::raw::Decoder::new().decompress_vec(body).map_err(|_| "snappy: corrupt input".to_owned())?;
    let mut asked = ReadRequest::default();
    for field in Fields(&body) {
        let field = field.map_err(|error| error.to_string())?;
        match field.number {
            1 => {
                let query = field.message().map_err(|error| error.to_string())?;
                asked.queries.push(query_of(query)?);
                if asked.queries.len() > QUERIES_MAX {
                    return Err(format!("more than {QUERIES_MAX} queries"));
                }
            }
            2 => field.each_varint(|kind| asked.accepted.push(kind)).map_err(|error| error.to_string())?,
            _ => {}
        }
    }
    Ok(asked)
}

fn query_of(fields: Fields<'_>) -> Result<SelectRequest, String> {
    let text = |error: ProtoError| error.to_string();
    let mut query =
        SelectRequest { matchers: Vec::new(), start: Timestamp(0), end: Timestamp(0), hints: SelectHints::default() };
    for field in fields {
        let field = field.map_err(text)?;
        match field.number {
            1 => query.start = Timestamp(field.signed().map_err(text)?),
            2 => query.end = Timestamp(field.signed().map_err(text)?),
            3 => query.matchers.push(matcher_of(field.message().map_err(text)?)?),
            _ => {}
        }
    }
    Ok(query)
}

fn matcher_of(fields: Fields<'_>) -> Result<Matcher, String> {
    let text = |error: ProtoError| error.to_string();
    let (mut kind, mut name, mut value) = (0, "", "");
    for field in fields {
        let field = field.map_err(text)?;
        match field.number {
            1 => kind = field.unsigned().map_err(text)?,
            2 => name = field.text().map_err(text)?,
            3 => value = field.text().map_err(text)?,
            _ => {}
        }
    }
    let op = match kind {
        0 => MatchOp::Equal,
        1 => MatchOp::NotEqual,
        2 => MatchOp::Regex,
        3 => MatchOp::NotRegex,
        _ => return Err("invalid matcher type".to_owned()),
    };
    Matcher::new(op, name, value).map_err(|error| error.to_string())
}

/// A series' labels with the external ones; its own win.
fn write_labels(out: &mut Writer, labels: &Labels, external: &Labels) {
    let mut all = labels.to_builder();
    for (name, value) in external.iter().filter(|(name, _)| labels.get(name).is_none()) {
        all.set(name, value);
    }
    for (name, value) in all.build().iter() {
        let mut label = Writer::default();
        label.text(1, name);
        label.text(2, value);
        out.message(1, &label);
    }
}

fn whole(
    storage: &dyn Queryable,
    queries: &[SelectRequest],
    budget: &Budget,
    external: &Labels,
) -> Result<Vec<u8>, String> {
    let mut answer = Writer::default();
    for query in queries {
        let mut result = Writer::default();
        let found = storage.select(std::slice::from_ref(query), budget).map_err(|error| error.to_string())?;
        for columns in found.into_iter().flat_map(|selection| selection.series) {
            let mut series = Writer::default();
            write_labels(&mut series, &columns.labels, external);
            for (at, value) in columns.timestamps.iter().zip(&columns.values) {
                let mut sample = Writer::default();
                sample.double(1, *value);
                sample.signed(2, *at);
                series.message(2, &sample);
            }
            for point in columns.histograms {
                let value = HistogramValue::Float(point.value);
                series.message(4, &promesh_remote::encode::histogram(&value, point.timestamp));
            }
            result.message(1, &series);
        }
        answer.message(1, &result);
    }
    snap::raw::Encoder::new().compress_vec(&answer.0).map_err(|error| error.to_string())
}

fn stream(
    storage: &dyn Queryable,
    queries: &[SelectRequest],
    budget: &Budget,
    external: &Labels,
    frame_bytes: usize,
    frames: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<(), String> {
    for (index, query) in queries.iter().enumerate() {
        let found = storage.select(std::slice::from_ref(query), budget).map_err(|error| error.to_string())?;
        for columns in found.into_iter().flat_map(|selection| selection.series) {
            let mut labels = Writer::default();
            write_labels(&mut labels, &columns.labels, external);
            let mut series = labels.clone();
            let mut is_empty = true;
            for chunk in encode_chunks(values(columns)) {
                let mut message = Writer::default();
                message.signed(1, chunk.min);
                message.signed(2, chunk.max);
                message.unsigned(3, u64::from(chunk.encoding as u8));
                message.bytes(4, &chunk.bytes);
                series.message(2, &message);
                is_empty = false;
                if series.0.len() >= frame_bytes {
                    send(frames, &std::mem::replace(&mut series, labels.clone()), index)?;
                    is_empty = true;
                }
            }
            if !is_empty {
                send(frames, &series, index)?;
            }
        }
    }
    Ok(())
}

fn send(frames: &mpsc::Sender<Result<Bytes, std::io::Error>>, series: &Writer, index: usize) -> Result<(), String> {
    let mut message = Writer::default();
    message.message(1, series);
    message.signed(2, index as i64);
    let mut frame = Writer::default();
    frame.varint(message.0.len() as u64);
    frame.0.extend_from_slice(&crc32c::crc32c(&message.0).to_be_bytes());
    frame.0.extend_from_slice(&message.0);
    frames.blocking_send(Ok(frame.0.into())).map_err(|_| "the reader is gone".to_owned())
}

/// A series' samples in time order.
fn values(columns: SeriesColumns) -> Vec<(i64, Value)> {
    let floats = columns.timestamps.into_iter().zip(columns.values);
    let mut all: Vec<(i64, Value)> = floats.map(|(at, value)| (at, Value::Float(value.to_bits()))).collect();
    let histograms = columns.histograms.into_iter();
    all.extend(histograms.map(|point| (point.timestamp, Value::Histogram(HistogramValue::Float(point.value)))));
    all.sort_by_key(|(at, _)| *at);
    all
}
