//! Remote write, both protocols, with bodies made by hand.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, StatusCode};
use promesh_model::ingest::{HistogramValue, IngestError};
use promesh_model::{Labels, Timestamp};

use super::fixture::NOW;
use super::{Fixture, Reply, options, request, send};
use crate::backend::{BackendError, Push};

const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// A protobuf message under construction.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, number: u8, mut value: u64) -> Message {
        self.0.push(number << 3);
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn double(mut self, number: u8, value: f64) -> Message {
        self.0.push(number << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(mut self, number: u8, bytes: &[u8]) -> Message {
        self = self.varint(number, bytes.len() as u64);
        let tag = self.0.len() - varint_bytes(bytes.len()) - 1;
        self.0[tag] |= 2;
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(self, number: u8, message: &Message) -> Message {
        self.bytes(number, &message.0)
    }
}

fn varint_bytes(mut value: usize) -> usize {
    let mut bytes = 1;
    while value >= 0x80 {
        (value, bytes) = (value >> 7, bytes + 1);
    }
    bytes
}

fn label(name: &str, value: &str) -> Message {
    Message::default().bytes(1, name.as_bytes()).bytes(2, value.as_bytes())
}

fn sample(value: f64, at: Timestamp) -> Message {
    Message::default().double(1, value).varint(2, at.ms() as u64)
}

/// Counts 1 and 3 in two buckets of schema 2, two in the zero bucket.
fn histogram(at: Timestamp) -> Message {
    let span = Message::default().varint(1, 2).varint(2, 2);
    Message::default()
        .varint(1, 6)
        .double(3, 18.4)
        .varint(4, 4)
        .double(5, 0.001)
        .varint(6, 2)
        .message(11, &span)
        .bytes(12, &[2, 4])
        .varint(15, at.ms() as u64)
}

fn v1_series(labels: &[(&str, &str)], samples: &[Message]) -> Message {
    let labelled =
        labels.iter().fold(Message::default(), |message, (name, value)| message.message(1, &label(name, value)));
    samples.iter().fold(labelled, |message, sample| message.message(2, sample))
}

async fn push(fixture: Fixture, content_type: &str, body: &[u8]) -> (Reply, Vec<Push>) {
    let pushes = Arc::clone(&fixture.pushes);
    let router = crate::router(Arc::new(fixture), options());
    let packed = snap::raw::Encoder::new().compress_vec(body).expect("compresses");
    let builder = request(Method::POST, "/api/v1/write")
        .header("content-type", content_type)
        .header("content-encoding", "snappy");
    let reply = send(&router, builder.body(Body::from(packed)).expect("a request")).await;
    let pushes = pushes.lock().expect("no panic under the lock").clone();
    (reply, pushes)
}

#[tokio::test]
async fn protocol_1_is_stored_whole() {
    let metadata = Message::default().varint(1, 1).bytes(2, b"a_total").bytes(4, b"Some help.").bytes(5, b"seconds");
    let exemplar = Message::default().message(1, &label("trace_id", "x")).double(2, 7.0).varint(3, 5);
    let series = v1_series(
        &[("job", "j"), ("__name__", "a_total"), ("empty", "")],
        &[sample(1.5, Timestamp(1000)), sample(-0.0, NOW)],
    )
    .message(3, &exemplar)
    .message(4, &histogram(Timestamp(2000)));
    let body = Message::default().message(1, &series).message(3, &metadata).varint(9, 1);
    let (reply, pushes) = push(Fixture::default(), V1, &body.0).await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::NO_CONTENT, ""));
    let [push] = &pushes[..] else { panic!("one push") };
    assert_eq!(push.series.len(), 1);
    assert_eq!(push.series[0].labels, Labels::from_pairs([("__name__", "a_total"), ("job", "j")]));
    assert_eq!(push.samples, [(Timestamp(1000), 1.5), (NOW, -0.0)]);
    assert_eq!((push.exemplars[0].value, push.exemplars[0].timestamp), (7.0, Timestamp(5)));
    assert_eq!(push.metadata[0].0, "a_total");
    assert_eq!((push.metadata[0].1.kind.as_str(), push.metadata[0].1.unit.as_str()), ("counter", "seconds"));
    let (at, HistogramValue::Integer(histogram)) = &push.histograms[0] else { panic!("an integer histogram") };
    assert_eq!((at.ms(), histogram.schema, histogram.count, histogram.zero_count), (2000, 2, 6, 2));
    assert_eq!((histogram.positive_spans[0].offset, &histogram.positive_buckets[..]), (1, &[1, 2][..]));
}

fn v2_body(references: &[u8]) -> Message {
    let symbols = ["", "__name__", "up", "job", "j", "help text"];
    let series = Message::default()
        .bytes(1, references)
        .message(2, &sample(1.0, Timestamp(1000)))
        .message(5, &Message::default().varint(1, 2).varint(3, 5))
        .varint(6, 500);
    let with_symbols = symbols.iter().fold(Message::default(), |message, symbol| message.bytes(4, symbol.as_bytes()));
    with_symbols.message(5, &series)
}

#[tokio::test]
async fn protocol_2_is_stored_and_says_how_much() {
    let (reply, pushes) = push(Fixture::default(), V2, &v2_body(&[1, 2, 3, 4]).0).await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(reply.header("x-prometheus-remote-write-samples-written"), "1");
    assert_eq!(reply.header("x-prometheus-remote-write-histograms-written"), "0");
    assert_eq!(reply.header("x-prometheus-remote-write-exemplars-written"), "0");
    assert_eq!(pushes[0].series[0].labels, Labels::from_pairs([("__name__", "up"), ("job", "j")]));
    assert_eq!(pushes[0].series[0].start, Timestamp(500));
    assert_eq!((pushes[0].metadata[0].1.kind.as_str(), pushes[0].metadata[0].1.help.as_str()), ("gauge", "help text"));
}

#[tokio::test]
async fn what_protocol_2_cannot_store_is_a_400_with_the_rest_written() {
    for (references, why) in [
        (&[3, 4][..], "invalid metric name or labels, got {job=\"j\"}"),
        (&[1, 2, 3, 4, 3, 2], "duplicated label job"),
        (&[1, 2, 3], "labels_refs has an odd length 3"),
        (&[1, 99], "invalid symbol reference 99"),
    ] {
        let (reply, _) = push(Fixture::default(), V2, &v2_body(references).0).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.text().contains(why), "{}", reply.text());
        assert_eq!(reply.header("x-prometheus-remote-write-samples-written"), "0");
    }
    let refuses = vec![(Labels::from_pairs([("__name__", "up")]), IngestError::OutOfOrder)];
    let (reply, _) = push(Fixture { push_refuses: refuses, ..Fixture::default() }, V2, &v2_body(&[1, 2]).0).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.text(), "out of order sample for series {__name__=\"up\"}\n");
    // Whoever sent a megabyte of labels is not sent it back.
    let long = Labels::from_pairs([("__name__", "up"), ("long", &"x".repeat(1 << 20))]);
    let refuses = vec![(long, IngestError::TooOld)];
    let (reply, _) = push(Fixture { push_refuses: refuses, ..Fixture::default() }, V2, &v2_body(&[1, 2]).0).await;
    assert!(reply.text().starts_with("too old sample for series {__name__=\"up\", long=\"xxx"));
    assert!(reply.text().len() < 2048, "{} bytes", reply.text().len());
}

#[tokio::test]
async fn statuses_tell_the_sender_whether_to_repeat() {
    let body = Message::default().message(1, &v1_series(&[("__name__", "a")], &[sample(1.0, NOW)]));
    let refuses = vec![(Labels::empty(), IngestError::OutOfOrder)];
    for (fixture, status) in [
        (Fixture::default(), StatusCode::NO_CONTENT),
        (Fixture { push_refuses: refuses, ..Fixture::default() }, StatusCode::BAD_REQUEST),
        (
            Fixture { push_fails: Some(BackendError::Failed("disk".into())), ..Fixture::default() },
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        (
            Fixture { push_fails: Some(BackendError::Unavailable("copies".into())), ..Fixture::default() },
            StatusCode::SERVICE_UNAVAILABLE,
        ),
    ] {
        let (reply, _) = push(fixture, V1, &body.0).await;
        assert_eq!(reply.status, status);
    }
    // Series with invalid labels are left out and counted, no more: as upstream does in 1.0.
    let nameless = Message::default().message(1, &v1_series(&[("job", "a")], &[sample(1.0, NOW)]));
    let (reply, pushes) = push(Fixture::default(), V1, &nameless.0).await;
    assert_eq!((reply.status, pushes.len()), (StatusCode::NO_CONTENT, 0));
    let future =
        Message::default().message(1, &v1_series(&[("__name__", "a")], &[sample(1.0, Timestamp(NOW.ms() + 660_000))]));
    let (reply, pushes) = push(Fixture::default(), V1, &future.0).await;
    assert_eq!((reply.status, pushes.len()), (StatusCode::BAD_REQUEST, 0));
    assert_eq!(reply.text().trim_end(), "out of bounds: timestamp is too far in the future");
    // What is good beside it stands.
    let mixed = future.message(1, &v1_series(&[("__name__", "b")], &[sample(1.0, NOW)]));
    let (reply, pushes) = push(Fixture::default(), V1, &mixed.0).await;
    assert_eq!((reply.status, pushes.len()), (StatusCode::BAD_REQUEST, 1));
}

#[tokio::test]
async fn headers_are_negotiated_as_upstream_does() {
    let router = crate::router(Arc::new(Fixture::default()), options());
    for (content_type, encoding, status, why) in [
        (
            "text/plain",
            "snappy",
            415,
            "expected application/x-protobuf as the first (media) part, got text/plain content-type",
        ),
        ("application/x-protobuf;x", "snappy", 415, "expected parameters to be key-values, got x"),
        ("application/x-protobuf;proto=nope", "snappy", 415, "unknown type for remote write protobuf message nope"),
        (
            "application/x-protobuf",
            "zstd",
            415,
            "zstd encoding (compression) is not accepted by this server; only snappy is acceptable",
        ),
        ("application/x-protobuf", "snappy", 400, "snappy: corrupt input"),
        ("application/x-protobuf", "", 400, "snappy: corrupt input"),
        ("", "", 400, "snappy: corrupt input"),
    ] {
        let mut builder = request(Method::POST, "/api/v1/write");
        for (name, value) in [("content-type", content_type), ("content-encoding", encoding)] {
            builder = if value.is_empty() { builder } else { builder.header(name, value) };
        }
        let reply = send(&router, builder.body(Body::from("\u{ff}garbage")).expect("a request")).await;
        assert_eq!(reply.status.as_u16(), status, "{content_type} {encoding}");
        assert!(reply.text().contains(why), "{}", reply.text());
    }
    let only_v1 = crate::ApiOptions { remote_write_messages: vec!["prometheus.WriteRequest".into()], ..options() };
    let router = crate::router(Arc::new(Fixture::default()), only_v1);
    let builder = request(Method::POST, "/api/v1/write").header("content-type", V2);
    let reply = send(&router, builder.body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.status.as_u16(), 415);
}

#[tokio::test]
async fn a_body_that_claims_too_much_is_refused_unread() {
    let router = crate::router(Arc::new(Fixture::default()), options());
    // Snappy's header: 64 MiB to come.
    let bomb = vec![0x80, 0x80, 0x80, 0x20, 0, 0];
    let builder = request(Method::POST, "/api/v1/write").header("content-type", V1);
    let reply = send(&router, builder.body(Body::from(bomb)).expect("a request")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.text(), "snappy: decoded length 67108864 exceeds limit 33554432\n");
    let contradicting = Message::default()
        .message(1, &v1_series(&[("__name__", "a")], &[]).message(4, &Message::default().bytes(12, &[2, 4])));
    let (reply, _) = push(Fixture::default(), V1, &contradicting.0).await;
    assert_eq!(reply.text(), "histogram: spans do not match the number of buckets\n");
}
