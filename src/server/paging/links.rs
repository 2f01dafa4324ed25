//! Streams of alerting messages to the other peers: one a peer, opened when there is something to say.
//!
//! A stream begins with the digest of the opener's configuration, which is said again when it changes. Messages that find
//! no stream and no room are lost: the mind says again what must be known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use promesh_alerting::AlertMessage;
use promesh_model::PeerId;
use promesh_model::codec::{self, DecodeError, RPC_BYTES_MAX};
use promesh_transport::{Class, FrameSender, StreamError, Transport};
use tokio::runtime::Handle;

use crate::minds::Addresses;

/// The stream's kind.
pub const ALERTING: u8 = 40;
/// A frame with an alerting message.
pub const MESSAGE: u8 = 41;
/// A frame with the digest of the sender's alerting configuration, or none.
pub const DIGEST: u8 = 42;
/// Messages that may wait for a stream to open.
const WAITING_MAX: usize = 64;
/// After a failure nothing is tried for so long.
const BACK_OFF: Duration = Duration::from_millis(250);

enum Link {
    /// Being opened; what waits for it.
    Opening(Vec<Vec<u8>>),
    Open(FrameSender),
    /// Failed a moment ago.
    Failed,
}

/// The streams to all peers.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    transport: Transport,
    addresses: Addresses,
    runtime: Handle,
    digest: Mutex<Option<u128>>,
    links: Mutex<BTreeMap<PeerId, Link>>,
    lost: AtomicU64,
}

impl Links {
    /// No streams yet. Called within the runtime.
    pub fn new(transport: Transport, addresses: Addresses, digest: Option<u128>) -> Links {
        let shared = Shared {
            transport,
            addresses,
            runtime: Handle::current(),
            digest: Mutex::new(digest),
            links: Mutex::default(),
            lost: AtomicU64::new(0),
        };
        Links(Arc::new(shared))
    }

    /// Tells everybody which configuration this peer has.
    pub fn set_digest(&self, digest: Option<u128>) {
        *self.0.digest.lock() = digest;
        for link in self.0.links.lock().values() {
            if let Link::Open(stream) = link {
                let _ = stream.try_send(DIGEST, &codec::encode(&digest));
            }
        }
    }

    /// Messages that found no way.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Says something to a peer, in order with everything else said to it.
    pub fn send(&self, to: PeerId, message: AlertMessage) {
        for payload in payloads(message) {
            self.send_payload(to, payload);
        }
    }

    fn send_payload(&self, to: PeerId, payload: Vec<u8>) {
        let mut links = self.0.links.lock();
        match links.get_mut(&to) {
            Some(Link::Open(stream)) => match stream.try_send(MESSAGE, &payload) {
                Ok(()) => return,
                Err(StreamError::Closed(_)) => {}
                Err(_) => return self.count_lost(),
            },
            Some(Link::Opening(waiting)) if waiting.len() < WAITING_MAX => return waiting.push(payload),
            Some(_) => return self.count_lost(),
            None => {}
        }
        links.insert(to, Link::Opening(vec![payload]));
        drop(links);
        let own = self.clone();
        self.0.runtime.spawn(async move { own.open(to).await });
    }

    fn count_lost(&self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
    }

    async fn open(self, to: PeerId) {
        let address = self.0.addresses.load().get(&to).copied();
        let opened = match address {
            Some(address) => self.0.transport.open_stream(address, Class::Control, ALERTING, &[]).await.ok(),
            None => None,
        };
        let Some(stream) = opened else {
            self.0.links.lock().insert(to, Link::Failed);
            tokio::time::sleep(BACK_OFF).await;
            self.0.links.lock().remove(&to);
            return;
        };
        self.opened(to, &stream);
        let why = stream.closed().await;
        tracing::debug!(peer = %to, %why, "stream of alerts to a peer ended");
        let mut links = self.0.links.lock();
        if matches!(links.get(&to), Some(Link::Open(present)) if present.is_closed()) {
            links.remove(&to);
        }
    }

    fn opened(&self, to: PeerId, stream: &FrameSender) {
        let mut links = self.0.links.lock();
        let digest = *self.0.digest.lock();
        let _ = stream.try_send(DIGEST, &codec::encode(&digest));
        if let Some(Link::Opening(waiting)) = links.insert(to, Link::Open(stream.clone())) {
            for payload in waiting {
                let _ = stream.try_send(MESSAGE, &payload);
            }
        }
    }
}

/// A message as frames' contents: in halves where it is longer than a frame may be.
fn payloads(message: AlertMessage) -> Vec<Vec<u8>> {
    let encoded = message.encode();
    if encoded.len() <= RPC_BYTES_MAX || message.parts.len() < 2 {
        return vec![encoded];
    }
    let mut first = message.parts;
    let second = first.split_off(first.len() / 2);
    [first, second].into_iter().flat_map(|parts| payloads(AlertMessage { parts })).collect()
}

/// Reads a digest's frame.
///
/// # Errors
/// When it is none.
pub fn read_digest(payload: &[u8]) -> Result<Option<u128>, DecodeError> {
    codec::decode::<Option<u128>, RPC_BYTES_MAX>(payload)
}

#[cfg(test)]
mod tests {
    use promesh_alerting::PostedAlert;
    use promesh_alerting::message::Part;
    use promesh_model::Labels;

    use super::*;

    #[test]
    fn a_long_message_goes_in_pieces_in_order() {
        let alert = |n: usize| PostedAlert {
            labels: Labels::from_pairs([("alertname", format!("{n}").as_str()), ("text", &"x".repeat(10_000))]),
            ..PostedAlert::default()
        };
        let parts: Vec<Part> = (0..400).map(|n| Part::Forward(vec![alert(n)])).collect();
        let payloads = payloads(AlertMessage { parts: parts.clone() });
        assert!(payloads.len() > 3 && payloads.iter().all(|payload| payload.len() <= RPC_BYTES_MAX));
        let again: Vec<Part> =
            payloads.iter().flat_map(|payload| AlertMessage::decode(payload).expect("own bytes").parts).collect();
        assert_eq!(again, parts);
    }

    #[test]
    fn bytes_of_a_digest_are_golden() {
        assert_eq!(DIGEST, 42);
        for (digest, hex) in [(None, "00"), (Some(0x1234_u128), "01fb3412")] {
            let bytes = codec::encode(&digest);
            assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
            assert_eq!(read_digest(&bytes).expect("own bytes"), digest);
        }
    }
}
