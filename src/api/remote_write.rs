//! `/write`: the remote write receiver, protocol 1.0 and 2.0.
//!
//! Bodies are decoded by hand from borrowed bytes: one allocation a series, none a label. What cannot be stored is
//! said, series by series; the rest of the push is stored all the same.

mod decode;
mod known;
pub(crate) mod proto;
mod v1;
mod v2;

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use promesh_model::Timestamp;
use tracing::warn;

use crate::backend::{BackendError, Push, PushOutcome};
use crate::respond::text;
use crate::router::Api;
use decode::Decoded;
pub(crate) use known::KnownLabels;

/// The messages that can be accepted.
pub(crate) const MESSAGES: [&str; 2] = ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"];
const PROTOBUF: &str = "application/x-protobuf";
/// Upstream's bound on a decompressed body; a compressed one is not longer.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Samples further ahead are refused.
pub(crate) const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// Refusals that are told one by one.
const REFUSALS_TOLD_MAX: usize = 20;
/// The bytes of one of them that are told.
const REFUSAL_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

pub(crate) async fn write(State(api): State<Api>, request: Request) -> Response {
    if !api.options.enable_remote_write_receiver {
        let why = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver";
        return text(StatusCode::NOT_FOUND, why);
    }
    let version = match negotiate(request.headers(), &api.options.remote_write_messages) {
        Ok(version) => version,
        Err(why) => return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, why),
    };
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let latest = Timestamp(api.backend.now().wall.ms().saturating_add(AHEAD_MS_MAX));
    // Milliseconds of work for the largest body: off the threads that serve others.
    let known = Arc::clone(&api.pushed);
    let decoded = tokio::task::spawn_blocking(move || decode(version, &body, latest, &known)).await;
    let decoded = match decoded {
        Ok(Ok(decoded)) => decoded,
        Ok(Err(why)) => return text(StatusCode::BAD_REQUEST, why),
        Err(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, "decoding panicked: this is a bug"),
    };
    let Decoded { push, invalid, is_ahead } = decoded;
    let outcome = if is_empty(&push) { Ok(PushOutcome::default()) } else { api.backend.push(push).await };
    match version {
        Version::One => answer_v1(&invalid, is_ahead, outcome),
        Version::Two => answer_v2(&invalid, outcome),
    }
}

fn is_empty(push: &Push) -> bool {
    push.series.is_empty() && push.metadata.is_empty()
}

/// Which message it is, and that it is one that is wanted.
fn negotiate(headers: &HeaderMap, accepted: &[String]) -> Result<Version, String> {
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or("");
    // Clients of 1.0 may leave both headers out.
    let content_type = Some(header(CONTENT_TYPE).trim()).filter(|value| !value.is_empty()).unwrap_or(PROTOBUF);
    let (version, message) = message_of(content_type)?;
    if !accepted.iter().any(|name| name == message) {
        let accepted = accepted.join(" ");
        return Err(format!("{message} protobuf message is not accepted by this server; accepted [{accepted}]"));
    }
    let encoding = header(CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") {
        return Err(format!(
            "{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable"
        ));
    }
    Ok(version)
}

fn message_of(content_type: &str) -> Result<(Version, &str), String> {
    let mut parts = content_type.split(';');
    if parts.next() != Some(PROTOBUF) {
        return Err(format!("expected {PROTOBUF} as the first (media) part, got {content_type} content-type"));
    }
    for part in parts {
        let pair: Vec<&str> = part.split('=').collect();
        let [name, value] = pair[..] else {
            let rule = "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values";
            return Err(format!("{rule}, got {part} in {content_type} content-type"));
        };
        match (name.trim(), value) {
            ("proto", "prometheus.WriteRequest") => return Ok((Version::One, MESSAGES[0])),
            ("proto", "io.prometheus.write.v2.Request") => return Ok((Version::Two, MESSAGES[1])),
            ("proto", other) => {
                let known = MESSAGES.join(", ");
                return Err(format!(
                    "got {content_type} content type; unknown type for remote write protobuf message {other}, \
                     supported: {known}"
                ));
            }
            _ => {}
        }
    }
    Ok((Version::One, MESSAGES[0]))
}

fn decode(version: Version, body: &[u8], latest: Timestamp, known: &KnownLabels) -> Result<Decoded, String> {
    let length = snap::raw::decompress_len(body).map_err(|_| "snappy: corrupt input".to_owned())?;
    if length > BODY_BYTES_MAX {
        return Err(format!("snappy: decoded length {length} exceeds limit {BODY_BYTES_MAX}"));
    }
    let body = snap::raw::Decoder::new().decompress_vec(body).map_err(|_| "snappy: corrupt input".to_owned())?;
    let decoded = match version {
        Version::One => v1::decode(&body, latest, known),
        Version::Two => v2::decode(&body, latest),
    };
    decoded.map_err(|error| error.to_string())
}

/// 1.0 has no partial success: anything refused for good is a 400, which the sender does not repeat. Series with
/// invalid labels are only counted, as upstream does; it keeps nothing of a request with a sample too far ahead, here the
/// others stand.
fn answer_v1(invalid: &[String], is_ahead: bool, outcome: Result<PushOutcome, BackendError>) -> Response {
    if !invalid.is_empty() {
        warn!(count = invalid.len(), first = %invalid[0], "remote write with invalid series");
    }
    match outcome {
        Ok(outcome) => match outcome.refused.first() {
            None if is_ahead => text(StatusCode::BAD_REQUEST, "out of bounds: timestamp is too far in the future"),
            None => StatusCode::NO_CONTENT.into_response(),
            Some((_, error)) => text(StatusCode::BAD_REQUEST, error),
        },
        Err(error) => failure(&error),
    }
}

/// 2.0 says how much was written, also when something was refused.
fn answer_v2(invalid: &[String], outcome: Result<PushOutcome, BackendError>) -> Response {
    let (written, mut response) = match outcome {
        Ok(outcome) => {
            let refusals = refusals(invalid, &outcome);
            let response = match refusals.is_empty() {
                true => StatusCode::NO_CONTENT.into_response(),
                false => text(StatusCode::BAD_REQUEST, refusals),
            };
            (outcome, response)
        }
        Err(error) => (PushOutcome::default(), failure(&error)),
    };
    let headers = response.headers_mut();
    for (name, count) in [
        ("x-prometheus-remote-write-samples-written", written.samples),
        ("x-prometheus-remote-write-histograms-written", written.histograms),
        ("x-prometheus-remote-write-exemplars-written", written.exemplars),
    ] {
        headers.insert(name, HeaderValue::from(count));
    }
    response
}

/// A line that names a series, without the end of a long one: whoever sent a megabyte of labels has it already.
pub(crate) fn shortened(line: &str) -> &str {
    &line[..line.floor_char_boundary(REFUSAL_BYTES_MAX)]
}

/// One line for each thing refused.
fn refusals(invalid: &[String], outcome: &PushOutcome) -> String {
    let refused = outcome.refused.iter().map(|(labels, error)| format!("{error} for series {labels}"));
    let all: Vec<String> = invalid.iter().cloned().chain(refused).collect();
    let shown: Vec<&str> = all.iter().take(REFUSALS_TOLD_MAX).map(|line| shortened(line)).collect();
    let mut told = shown.join("\n");
    if all.len() > REFUSALS_TOLD_MAX {
        // Writing to a String cannot fail.
        let _ = write!(told, "\nand {} more", all.len() - REFUSALS_TOLD_MAX);
    }
    told
}

fn failure(error: &BackendError) -> Response {
    let status = match error {
        BackendError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        BackendError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        BackendError::Unbuilt(_) => StatusCode::NOT_IMPLEMENTED,
    };
    text(status, error)
}
