//! `/otlp/v1/metrics`: metrics from OpenTelemetry's SDKs and collectors, in protobuf or JSON, plain or gzip.

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, Timestamp};
use promesh_otlp::{Sample, Settings, Translated};
use std::collections::BTreeMap;
use std::io::Read as _;

use crate::backend::{Backend, BackendError, Push, PushedSeries};
use crate::remote_write::{AHEAD_MS_MAX, shortened};
use crate::respond::text;
use crate::router::Api;

/// Bound on a body, before and after gzip.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Resources that go to another peer go together up to so many bytes.
const PART_BYTES_MAX: usize = 4 << 20;
/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 20;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Protobuf.
    Protobuf,
    /// JSON.
    Json,
}

/// Why a message, or a part of it, is not taken.
#[derive(Debug)]
pub enum Untaken {
    /// It is no message.
    Malformed(String),
    /// It could not be stored.
    Backend(BackendError),
}

pub(crate) async fn metrics(State(api): State<Api>, request: Request) -> Response {
    if !api.options.enable_otlp_receiver {
        let why = "otlp write receiver needs to be enabled with --web.enable-otlp-receiver";
        return text(StatusCode::NOT_FOUND, why);
    }
    let format = match format_of(request.headers()) {
        Ok(format) => format,
        Err(why) => return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, why),
    };
    let zipped = request.headers().get(CONTENT_ENCODING).is_some_and(|value| value.as_bytes() == b"gzip");
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    match spread(api.backend.as_ref(), format, zipped, body).await {
        Ok(problems) if problems.is_empty() => answer(format),
        Ok(problems) => text(StatusCode::BAD_REQUEST, problems.join("\n")),
        Err(Untaken::Malformed(why)) => text(StatusCode::BAD_REQUEST, why),
        Err(Untaken::Backend(error @ BackendError::Unavailable(_))) => {
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, error);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Err(Untaken::Backend(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// What goes to one peer in one request.
#[derive(Default)]
struct Part {
    shards: ShardSet,
    messages: Vec<Vec<u8>>,
    bytes: usize,
}

/// Takes a message, here or, where differences are added up, by the owner of each resource's shard: two that add up parts
/// of one stream would make two sums of it.
async fn spread(
    backend: &dyn Backend,
    format: Format,
    zipped: bool,
    body: bytes::Bytes,
) -> Result<Vec<String>, Untaken> {
    let cuts = backend.otlp().deltas.is_some();
    let read = tokio::task::spawn_blocking(move || {
        let body = if zipped { unzipped(&body)? } else { body.to_vec() };
        let parts = match format {
            _ if !cuts => return Ok((body, Vec::new())),
            Format::Protobuf => promesh_otlp::split_protobuf(&body),
            Format::Json => promesh_otlp::split_json(&body),
        };
        Ok::<_, String>((body, parts.map_err(|error| error.to_string())?))
    });
    let (body, parts) = read.await.map_err(panicked)?.map_err(Untaken::Malformed)?;
    let mut by_owner: BTreeMap<Option<PeerId>, Vec<Part>> = BTreeMap::new();
    for (shard, message) in parts {
        let of_owner = by_owner.entry(backend.otlp_owner(shard)).or_default();
        if of_owner.last().is_none_or(|part| part.bytes + message.len() > PART_BYTES_MAX) {
            of_owner.push(Part::default());
        }
        let part = of_owner.last_mut().expect("there is one, if only just");
        part.shards.insert(shard);
        part.bytes += message.len();
        part.messages.push(message);
    }
    if by_owner.keys().all(Option::is_none) {
        return take(backend, format, body).await;
    }
    let parts = by_owner.into_iter().flat_map(|(owner, parts)| parts.into_iter().map(move |part| (owner, part)));
    let all = parts.map(|(owner, part)| async move {
        let message = match format {
            Format::Protobuf => promesh_otlp::join_protobuf(&part.messages),
            Format::Json => promesh_otlp::join_json(&part.messages),
        };
        match owner {
            None => take(backend, format, message).await,
            Some(owner) => backend.forward_otlp(owner, &part.shards, format, message).await,
        }
    });
    let mut problems = Vec::new();
    for part in futures_util::future::join_all(all).await {
        problems.append(&mut part?);
    }
    problems.truncate(PROBLEMS_MAX);
    Ok(problems)
}

/// Takes a message here; gives what of it could not be stored, line by line.
///
/// # Errors
/// As [`Untaken`] says: then nothing of it is sure to be stored.
pub async fn take(backend: &dyn Backend, format: Format, body: Vec<u8>) -> Result<Vec<String>, Untaken> {
    let otlp = backend.otlp();
    let read = tokio::task::spawn_blocking(move || {
        let decoded = match format {
            Format::Protobuf => promesh_otlp::decode_protobuf(&body),
            Format::Json => promesh_otlp::decode_json(&body),
        };
        let mut metrics = decoded.map_err(|error| error.to_string())?;
        if let Some(deltas) = &otlp.deltas {
            deltas.lock().accumulate(&mut metrics);
        }
        Ok::<Translated, String>(promesh_otlp::translate(&metrics, &otlp.settings))
    });
    let translated = read.await.map_err(panicked)?.map_err(Untaken::Malformed)?;
    let latest = Timestamp(backend.now().wall.ms().saturating_add(AHEAD_MS_MAX));
    let (push, problems) = push_of(translated, latest);
    let refused =
        if push.series.is_empty() { Vec::new() } else { backend.push(push).await.map_err(Untaken::Backend)?.refused };
    let refused = refused.into_iter().map(|(labels, error)| format!("{error} for series {labels}"));
    let told = problems.into_iter().chain(refused).take(PROBLEMS_MAX);
    Ok(told.map(|line| shortened(&line).to_owned()).collect())
}

fn panicked(_: tokio::task::JoinError) -> Untaken {
    Untaken::Backend(BackendError::Failed("translating OTLP panicked: this is a bug".to_owned()))
}

fn format_of(headers: &HeaderMap) -> Result<Format, String> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/x-protobuf" => Ok(Format::Protobuf),
        "application/json" => Ok(Format::Json),
        other => {
            Err(format!("unsupported content type: {other}, supported: [application/json, application/x-protobuf]"))
        }
    }
}

fn unzipped(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let limit = BODY_BYTES_MAX as u64;
    let read = flate2::read::GzDecoder::new(body).take(limit + 1).read_to_end(&mut out);
    read.map_err(|error| format!("gzip: {error}"))?;
    if out.len() > BODY_BYTES_MAX {
        Err(format!("decoded body is larger than {BODY_BYTES_MAX} bytes"))
    } else {
        Ok(out)
    }
}

/// An empty `ExportMetricsServiceResponse`.
fn answer(format: Format) -> Response {
    match format {
        Format::Protobuf => {
            let mut response = StatusCode::OK.into_response();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            response
        }
        Format::Json => {
            let mut response = "{}".into_response();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    }
}

/// What is to be stored, and what cannot be: samples after `latest` would make the present too old.
fn push_of(translated: Translated, latest: Timestamp) -> (Push, Vec<String>) {
    let mut push = Push { metadata: translated.metadata, ..Push::default() };
    let mut problems = translated.problems;
    for (labels, series) in translated.series {
        let begun = (push.samples.len(), push.histograms.len(), push.exemplars.len());
        if series.samples.iter().any(|(at, _)| *at > latest) {
            problems.push(format!("out of bounds: a sample is too far in the future for series {labels}"));
        }
        for (at, sample) in series.samples.into_iter().filter(|(at, _)| *at <= latest) {
            match sample {
                Sample::Float(value) => push.samples.push((at, value)),
                Sample::Histogram(value) => push.histograms.push((at, value)),
            }
        }
        push.exemplars.extend(series.exemplars);
        push.series.push(PushedSeries {
            labels,
            samples: begun.0..push.samples.len(),
            histograms: begun.1..push.histograms.len(),
            exemplars: begun.2..push.exemplars.len(),
            start: series.start,
        });
    }
    (push, problems)
}

/// What the peer says of how OTLP is taken.
#[derive(Clone)]
pub struct Otlp {
    /// How messages are translated.
    pub settings: Settings,
    /// Where differences are added up; none when they are not.
    pub deltas: Option<std::sync::Arc<parking_lot::Mutex<promesh_otlp::DeltaState>>>,
}
