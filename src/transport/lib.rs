//! How peers talk: one UDP socket, QUIC, mutual TLS on everything.
//!
//! A pair of peers shares two connections, opened when first needed: *control* for probes, beats, live batches and
//! requests, *bulk* for copies, so that a copy cannot delay a probe. Four things travel:
//!
//! * datagrams ([`Transport::send_datagram`]), for SWIM: small, fast, may be lost;
//! * messages ([`Transport::send_message`]), one uni stream each, for chitchat: arrive whole or not at all;
//! * requests ([`Transport::request`]), one bi stream each, one frame each way or many back;
//! * streams of frames ([`Transport::open_stream`]), long-lived and ordered, with back-pressure, for batches and chunks.
//!
//! What arrives comes out of one channel of [`TransportEvent`]s. Nothing that must arrive goes in a datagram: the first
//! one after a handshake can be lost, and loopback itself loses some under load.
//!
//! A peer proves with its certificate that it knows the cluster's secret and the cluster's label ([`TlsIdentity`]); a
//! stranger gets nothing. Connections made from both sides at once are settled by the smaller peer id; one made by a
//! restarted peer replaces the one of its former life, known by the boot nonce of the hello.
//!
//! Decides nothing: who is alive and who owns what is said by `cluster`.

mod accept;
pub mod chitchat;

mod counters;
mod dial;
mod endpoint;
mod error;
mod event;
mod hello;
mod identity;
mod link;
mod notices;
mod pki;
mod runtime;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

pub use counters::{CounterSnapshot, RefusalReason};
pub use endpoint::{PeerLink, Transport, TransportOptions};
pub use error::{BindError, RequestError, SendError, StreamError};
pub use event::{Class, Responder, TransportEvent};
pub use hello::PROTOCOL_RANGE;
pub use identity::{ClusterSecret, IdentityError, PeerKey, TlsIdentity, generate_secret};
pub use pki::PkiFiles;
pub use stream::{FrameReceiver, FrameSender};

/// The largest datagram: fits any path before path MTU discovery.
pub const DATAGRAM_BYTES_MAX: usize = promesh_model::codec::DATAGRAM_BYTES_MAX;
/// The largest message of a uni stream, its frame's header aside.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
