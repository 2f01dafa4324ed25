//! Answers: Prometheus' envelope around data, warnings and infos.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body::Frame;
use promesh_promql::capped;
use serde::Serialize;
use serde_json::Value as Json;

/// The most remarks of a kind in an answer.
const REMARKS_MAX: usize = 10;
/// The bytes of a piece of a long answer.
const PIECE_BYTES: usize = 64 << 10;

/// What stands beside the data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remarks {
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
}

impl Remarks {
    pub fn warnings(warnings: Vec<String>) -> Remarks {
        Remarks { warnings, infos: Vec::new() }
    }

    /// The end of the envelope: remarks, if there are any, and the closing brace.
    fn tail(self) -> Vec<u8> {
        let mut tail = Vec::new();
        for (name, kind, texts) in [("warnings", "warning", self.warnings), ("infos", "info", self.infos)] {
            if !texts.is_empty() {
                tail.extend_from_slice(format!(",\"{name}\":").as_bytes());
                let texts = capped(texts, REMARKS_MAX, kind);
                serde_json::to_writer(&mut tail, &texts).expect("texts are always JSON");
            }
        }
        tail.push(b'}');
        tail
    }
}

const HEAD: &[u8] = b"{\"status\":\"success\",\"data\":";

fn json(body: Body) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Data of modest size.
pub(crate) fn success(data: &impl Serialize) -> Response {
    success_with(data, Remarks::default())
}

/// Data of modest size, with remarks.
pub(crate) fn success_with(data: &impl Serialize, remarks: Remarks) -> Response {
    let mut body = HEAD.to_vec();
    serde_json::to_writer(&mut body, data).expect("what the API shows has text keys only");
    body.append(&mut remarks.tail());
    json(body.into())
}

/// Nothing to say.
pub(crate) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Plain text, as Go's `http.Error` writes it.
pub(crate) fn text(status: StatusCode, text: impl std::fmt::Display) -> Response {
    let mut response = (status, format!("{text}\n")).into_response();
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// JSON as a value, for data of any shape.
pub(crate) fn success_json(data: &Json) -> Response {
    success(data)
}

/// Data of any size: `write` appends until there is enough and says whether all is written. `before` and `after` stand
/// around it within the envelope.
pub(crate) fn success_in_pieces(
    before: &[u8],
    write: impl FnMut(&mut Vec<u8>, usize) -> bool + Send + Unpin + 'static,
    after: Vec<u8>,
    remarks: Remarks,
) -> Response {
    let mut first = HEAD.to_vec();
    first.extend_from_slice(before);
    let mut tail = after;
    tail.append(&mut remarks.tail());
    let mut pieces = Pieces { write, tail: Some(tail) };
    let whole = pieces.fill(&mut first);
    // Most answers fit one piece: they get a length.
    if whole { json(first.into()) } else { json(Body::new(PiecesBody { first: Some(first.into()), pieces })) }
}

struct Pieces<W> {
    write: W,
    /// What follows the data; taken with the last piece.
    tail: Option<Vec<u8>>,
}

impl<W: FnMut(&mut Vec<u8>, usize) -> bool> Pieces<W> {
    /// Appends the next piece; says whether it was the last.
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let done = (self.write)(out, PIECE_BYTES);
        if done && let Some(mut tail) = self.tail.take() {
            out.append(&mut tail);
        }
        done
    }
}

struct PiecesBody<W> {
    first: Option<Bytes>,
    pieces: Pieces<W>,
}

impl<W: FnMut(&mut Vec<u8>, usize) -> bool + Unpin> http_body::Body for PiecesBody<W> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.pieces.tail.is_none() {
            return Poll::Ready(None);
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 2));
        self.pieces.fill(&mut piece);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}
