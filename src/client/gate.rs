//! A body that asks, when it is about to go out, whether it still may.
//!
//! hyper asks for the body after connecting and TLS, before it flushes the head: a gate that is closed by then ends the
//! request with nothing sent, or at most a head without its body, which no receiver acts on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Says whether the request may go out now.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn() -> bool + Send + Sync>);

impl Gate {
    /// A gate that is open while `may_go` says so.
    pub fn new(may_go: impl Fn() -> bool + Send + Sync + 'static) -> Gate {
        Gate(Arc::new(may_go))
    }

    /// Whether it is open now.
    pub fn is_open(&self) -> bool {
        (self.0)()
    }
}

/// The gate was closed.
#[derive(Debug, thiserror::Error)]
#[error("the time to send it was over")]
pub(crate) struct Closed;

/// One piece of bytes behind a gate.
pub(crate) struct GatedBody {
    data: Option<Bytes>,
    gate: Option<Gate>,
}

impl GatedBody {
    pub(crate) fn new(data: Bytes, gate: Option<Gate>) -> GatedBody {
        GatedBody { data: Some(data).filter(|data| !data.is_empty()), gate }
    }
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if self.data.is_some() && self.gate.as_ref().is_some_and(|gate| !gate.is_open()) {
            self.data = None;
            return Poll::Ready(Some(Err(Closed)));
        }
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
