//! What can go wrong, by operation.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

/// Why the transport does not listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// The UDP port could not be taken.
    #[error("listen on {address} (udp): {source}")]
    Socket {
        /// The wanted address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// TLS refused the identity.
    #[error("transport: {0}")]
    Tls(String),
}

/// Why something was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// Longer than its kind of message may be; nothing was sent.
    #[error("{bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Too many messages are under way; this one was dropped.
    #[error("too many messages are under way")]
    Busy,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No connection; the other side never saw the request.
    #[error("unreachable: {0}")]
    Unreachable(Arc<str>),
    /// The address is this peer's own.
    #[error("the address is this peer's own")]
    Oneself,
    /// Longer than the class allows; nothing was sent.
    #[error("{bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// No answer in time; the other side may have acted on the request.
    #[error("no answer in time")]
    Timeout,
    /// The connection or the stream ended first; the other side may have acted on the request.
    #[error("closed before the answer: {0}")]
    Closed(Arc<str>),
    /// The other side says why not.
    #[error("refused: {0}")]
    Refused(String),
    /// The answer is no frame, or too long.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

/// Why a stream of frames ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// Longer than the class allows; the stream is as before.
    #[error("{bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The queue is full (`try_send` only); the stream is as before.
    #[error("the queue is full")]
    Full,
    /// The stream is over: the other side stopped it or the connection is gone.
    #[error("closed: {0}")]
    Closed(Arc<str>),
    /// What arrived is not a frame, or longer than the class allows; the stream is stopped.
    #[error("malformed frame: {0}")]
    Malformed(promesh_model::frame::FrameError),
}
