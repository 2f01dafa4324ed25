//! What comes out of the transport.

use std::net::SocketAddr;

use bytes::Bytes;
use promesh_model::PeerId;
use promesh_model::codec::{BULK_BYTES_MAX, RPC_BYTES_MAX};

use crate::error::StreamError;
use crate::stream::{self, FrameReceiver, FrameSender};

/// Which of a pair's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Probes, beats, live batches, requests: small and urgent.
    Control,
    /// Copies, catch-up, parts of queries: large and patient.
    Bulk,
}

impl Class {
    /// Both.
    pub const ALL: [Class; 2] = [Class::Control, Class::Bulk];

    /// The most bytes of one frame's payload: 1 MiB on control, 16 MiB on bulk.
    pub const fn frame_bytes_max(self) -> usize {
        match self {
            Class::Control => RPC_BYTES_MAX,
            Class::Bulk => BULK_BYTES_MAX,
        }
    }

    pub(crate) const fn alpn(self) -> &'static [u8] {
        match self {
            Class::Control => b"promesh-control/1",
            Class::Bulk => b"promesh-bulk/1",
        }
    }

    pub(crate) fn from_alpn(protocol: &[u8]) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.alpn() == protocol)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// Something that arrived, or a change of a connection.
///
/// `from` is the other side's QUIC socket address, which is also where it listens; `peer` is who it is: named by its
/// certificate, or claimed in its hello under an own PKI.
#[derive(Debug)]
pub enum TransportEvent {
    /// A datagram. Dropped, and counted, when nobody takes events fast enough.
    Datagram {
        /// Sender's address.
        from: SocketAddr,
        /// Sender.
        peer: PeerId,
        /// Content, as it was sent.
        bytes: Bytes,
    },
    /// A message, whole.
    Message {
        /// Sender's address.
        from: SocketAddr,
        /// Sender.
        peer: PeerId,
        /// The frame's kind.
        kind: u8,
        /// The frame's payload.
        bytes: Bytes,
    },
    /// A request that waits for its answer.
    Request {
        /// Asker's address.
        from: SocketAddr,
        /// Asker.
        peer: PeerId,
        /// The connection it came on.
        class: Class,
        /// The frame's kind.
        kind: u8,
        /// The frame's payload.
        bytes: Bytes,
        /// Takes the answer; dropped unused, the asker learns that there is none.
        responder: Responder,
    },
    /// A stream of frames was opened towards this peer.
    Stream {
        /// Opener's address.
        from: SocketAddr,
        /// Opener.
        peer: PeerId,
        /// The connection it came on.
        class: Class,
        /// The kind of the first frame: what the stream is for.
        kind: u8,
        /// The payload of the first frame.
        hello: Bytes,
        /// The frames after it.
        frames: FrameReceiver,
    },
    /// A connection is up.
    Connected {
        /// Its address.
        addr: SocketAddr,
        /// Who is there.
        peer: PeerId,
        /// Which connection.
        class: Class,
    },
    /// The last connection of this class to this peer is gone.
    Disconnected {
        /// Its address.
        addr: SocketAddr,
        /// Who was there.
        peer: PeerId,
        /// Which connection.
        class: Class,
        /// Why, for people.
        reason: String,
    },
}

/// Takes the answer to one request.
#[derive(Debug)]
pub struct Responder {
    pub(crate) send: Option<quinn::SendStream>,
    pub(crate) class: Class,
    pub(crate) context: stream::Context,
}

impl Responder {
    /// Answers with one frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the class' limit, `Closed` when the asker is gone or no longer waits.
    pub async fn respond(mut self, kind: u8, payload: &[u8]) -> Result<(), StreamError> {
        let send = self.send.take().expect("taken only by the methods that consume the responder");
        stream::write_last_frame(send, self.class, kind, payload, &self.context).await.map(drop)
    }

    /// Answers that there is no answer, and why; the asker gets `RequestError::Refused`.
    ///
    /// # Errors
    /// As [`Responder::respond`].
    pub async fn refuse(self, why: &str) -> Result<(), StreamError> {
        let end = why.floor_char_boundary(stream::REFUSAL_BYTES_MAX);
        self.respond(stream::KIND_REFUSED, &why.as_bytes()[..end]).await
    }

    /// Answers with many frames; ends when the sender is finished or dropped.
    pub fn stream(mut self) -> FrameSender {
        let send = self.send.take().expect("taken only by the methods that consume the responder");
        FrameSender::spawn(send, self.class, self.context.clone(), None)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(mut send) = self.send.take() {
            let _ = send.reset(stream::CODE_UNANSWERED);
        }
    }
}
