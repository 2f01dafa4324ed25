//! chitchat over the transport: each of its messages is one message of ours.
//!
//! Its digests and deltas grow to 64 KiB, so they ride on uni streams, not in datagrams. What arrives is handed in by
//! whoever takes the transport's events, through [`ChitchatInbox`].
//!
//! The awkward part: chitchat 0.13 gives a transport its messages as values and keeps their encoding private; only its
//! own UDP socket can write and read them. So that socket serves as the codec, over a private pair on the loopback
//! interface: each end is connected to the other, one message is under way at a time, and a message that did not come
//! out of the other end in time is lost as any datagram may be. When chitchat makes its encoding public, `Codec` goes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, UdpSocket};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use crate::{MESSAGE_BYTES_MAX, Transport};

/// Messages that may wait for chitchat; it gossips once a second or so with a few peers.
const INBOX_MAX: usize = 256;
/// How long a message may take through the loopback interface.
const CODEC_TIMEOUT: Duration = Duration::from_millis(200);

type Arrived = (SocketAddr, Bytes);

/// Takes chitchat's messages off the transport's events.
#[derive(Clone, Debug)]
pub struct ChitchatInbox(mpsc::Sender<Arrived>);

impl ChitchatInbox {
    /// Hands a message in; dropped when chitchat does not keep up, as UDP would.
    pub fn deliver(&self, from: SocketAddr, bytes: Bytes) {
        if self.0.try_send((from, bytes)).is_err() {
            debug!(%from, "chitchat does not keep up");
        }
    }
}

/// A chitchat transport whose messages have one frame kind of ours. It can be opened once.
#[derive(Debug)]
pub struct ChitchatTransport {
    transport: Transport,
    kind: u8,
    inbox: Arc<Mutex<Option<mpsc::Receiver<Arrived>>>>,
}

impl ChitchatTransport {
    /// Sends with this frame kind; messages of the same kind that arrive go into the inbox.
    pub fn new(transport: Transport, kind: u8) -> (ChitchatTransport, ChitchatInbox) {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        let inbox = Arc::new(Mutex::new(Some(receiver)));
        (ChitchatTransport { transport, kind, inbox }, ChitchatInbox(sender))
    }
}

#[async_trait]
impl chitchat::transport::Transport for ChitchatTransport {
    async fn open(&self, own: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let inbox = self.inbox.lock().take();
        let Some(inbox) = inbox else { anyhow::bail!("chitchat's transport is open already") };
        let (sender, decoded) = mpsc::channel(INBOX_MAX);
        tokio::spawn(decode_all(Codec::open().await?, inbox, sender));
        let encoder = Codec::open().await?;
        Ok(Box::new(ChitchatSocket { transport: self.transport.clone(), own, kind: self.kind, encoder, decoded }))
    }
}

struct ChitchatSocket {
    transport: Transport,
    own: SocketAddr,
    kind: u8,
    encoder: Codec,
    decoded: mpsc::Receiver<RecvOutcome>,
}

#[async_trait]
impl Socket for ChitchatSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.transport.local_addr())
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        // Others know this peer's former life, which had the same address.
        if to == self.own {
            return Ok(SendOutcome { num_bytes_sent: 0 });
        }
        // A message that cannot go is lost as a datagram would be; an error here would end chitchat.
        let Some(bytes) = self.encoder.encode(envelope).await else { return Ok(SendOutcome { num_bytes_sent: 0 }) };
        if let Err(error) = self.transport.send_message(to, self.kind, bytes) {
            debug!(%to, %error, "chitchat message dropped");
        }
        Ok(SendOutcome { num_bytes_sent: bytes.len() })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        self.decoded.recv().await.ok_or_else(|| anyhow::anyhow!("the transport is closed"))
    }
}

async fn decode_all(mut codec: Codec, mut inbox: mpsc::Receiver<Arrived>, decoded: mpsc::Sender<RecvOutcome>) {
    while let Some((from, bytes)) = inbox.recv().await {
        let Some(outcome) = codec.decode(&bytes).await else { continue };
        if decoded.send(RecvOutcome { from_addr: from, ..outcome }).await.is_err() {
            return;
        }
    }
}

/// chitchat's UDP socket and ours, facing each other on the loopback interface.
struct Codec {
    theirs: UdpSocket,
    theirs_addr: SocketAddr,
    ours: tokio::net::UdpSocket,
    ours_addr: SocketAddr,
    buffer: Vec<u8>,
}

impl Codec {
    async fn open() -> anyhow::Result<Codec> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let theirs = UdpSocket::open(loopback).await?;
        let theirs_addr = theirs.local_addr()?;
        let ours = tokio::net::UdpSocket::bind(loopback).await?;
        // Connected: the kernel drops what any other process sends here.
        ours.connect(theirs_addr).await?;
        let ours_addr = ours.local_addr()?;
        Ok(Codec { theirs, theirs_addr, ours, ours_addr, buffer: vec![0; MESSAGE_BYTES_MAX] })
    }

    async fn encode(&mut self, envelope: ChitchatEnvelope) -> Option<&[u8]> {
        // What a timed-out call left behind is not the answer to this one.
        while self.ours.try_recv(&mut self.buffer).is_ok() {}
        self.theirs.send(self.ours_addr, envelope).await.inspect_err(|error| debug!(%error, "chitchat codec")).ok()?;
        let length = timeout(CODEC_TIMEOUT, self.ours.recv(&mut self.buffer)).await.ok()?.ok()?;
        Some(&self.buffer[..length])
    }

    async fn decode(&mut self, bytes: &[u8]) -> Option<RecvOutcome> {
        self.ours.send_to(bytes, self.theirs_addr).await.ok()?;
        let from_ours = async {
            loop {
                let outcome = self.theirs.recv().await.ok()?;
                if outcome.from_addr == self.ours_addr {
                    return Some(outcome);
                }
            }
        };
        timeout(CODEC_TIMEOUT, from_ours).await.ok()?
    }
}
