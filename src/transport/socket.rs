//! The UDP socket below QUIC, with an eye on what arrives.
//!
//! Connection ids are signed with a key of this peer. So a stray datagram is told from a packet without asking the QUIC
//! machine, which drops both in silence; and a restarted peer knows packets of its former life and answers them with a
//! stateless reset, which tells the other side at once what a time-out would tell it seconds later.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use sha2::Sha256;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::counters::{Counters, bump};
use crate::identity::random_bytes;
use crate::notices::{Notices, Trouble};

const BUFFER_BYTES: usize = 4 << 20;
const CID_BYTES: usize = 8;
const CID_NONCE_BYTES: usize = 4;
/// A short header, a connection id and the sample that header protection needs.
const SHORT_PACKET_BYTES_MIN: usize = 21;
const QUIC_VERSION_1: u32 = 1;

/// Binds the peer's one UDP port; an unspecified IPv6 address takes IPv4 too.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    for result in [socket.set_recv_buffer_size(BUFFER_BYTES), socket.set_send_buffer_size(BUFFER_BYTES)] {
        if let Err(error) = result {
            warn!(%error, "cannot size the UDP buffers");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Makes connection ids and knows them again, in each life of the peer.
#[derive(Clone, Copy)]
pub(crate) struct KeyedCids(u64);

impl KeyedCids {
    pub fn new(key: &[u8; 32]) -> KeyedCids {
        KeyedCids(xxh3_64_with_seed(key, 0))
    }

    fn signature(self, nonce: &[u8]) -> [u8; CID_BYTES - CID_NONCE_BYTES] {
        let [a, b, c, d, ..] = xxh3_64_with_seed(nonce, self.0).to_le_bytes();
        [a, b, c, d]
    }

    fn is_ours(self, cid: &[u8]) -> bool {
        cid.len() == CID_BYTES && self.signature(&cid[..CID_NONCE_BYTES]) == cid[CID_NONCE_BYTES..]
    }

    /// Whether a datagram is a QUIC packet that this peer could have been sent.
    fn could_be_quic(self, datagram: &[u8]) -> bool {
        match datagram {
            [first, v0, v1, v2, v3, ..] if first & 0x80 != 0 => {
                u32::from_be_bytes([*v0, *v1, *v2, *v3]) == QUIC_VERSION_1 && first & 0x40 != 0
            }
            [first, rest @ ..] => {
                first & 0x40 != 0 && datagram.len() >= SHORT_PACKET_BYTES_MIN && self.is_ours(&rest[..CID_BYTES])
            }
            [] => false,
        }
    }
}

impl ConnectionIdGenerator for KeyedCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce = random_bytes::<CID_NONCE_BYTES>();
        let mut cid = [0; CID_BYTES];
        cid[..CID_NONCE_BYTES].copy_from_slice(&nonce);
        cid[CID_NONCE_BYTES..].copy_from_slice(&self.signature(&nonce));
        ConnectionId::new(&cid)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Signs stateless reset tokens.
pub(crate) struct ResetKey(Hmac<Sha256>);

impl ResetKey {
    pub fn new(key: &[u8; 32]) -> ResetKey {
        ResetKey(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = self.0.clone().chain_update(data).finalize().into_bytes();
        signature_out.copy_from_slice(&tag[..signature_out.len()]);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        self.0.clone().chain_update(data).verify_slice(signature).map_err(|_| CryptoError)
    }
}

/// Datagrams that came lately, by a hash of their beginnings, each in the place that its hash gives it.
///
/// Every packet of QUIC is encrypted under a number of its own, so no two are alike: one that is was sent again by somebody
/// else, or by the line. QUIC drops it in silence. A newer datagram may take an older one's place: then a repeat is missed.
pub(crate) struct Lately(Box<[AtomicU64]>);

const LATELY: usize = 8192;
/// A header, a connection id, a packet number and at least 30 bytes of what is encrypted.
const BEGINNING_BYTES: usize = 64;

impl Default for Lately {
    fn default() -> Self {
        Lately((0..LATELY).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Lately {
    /// Takes note of a datagram; says whether it was noted before.
    fn has_seen(&self, datagram: &[u8]) -> bool {
        let beginning = &datagram[..datagram.len().min(BEGINNING_BYTES)];
        let hash = xxh3_64_with_seed(beginning, datagram.len() as u64).max(1);
        self.0[hash as usize % LATELY].swap(hash, Ordering::Relaxed) == hash
    }
}

/// Addresses at which peers were connected, by hash; a newer one may take an older one's place.
pub(crate) struct Partners(Box<[AtomicU64]>);

const PARTNERS: usize = 4096;

impl Default for Partners {
    fn default() -> Self {
        Partners((0..PARTNERS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Partners {
    /// A peer is connected at this address.
    pub fn note(&self, address: SocketAddr) {
        let hash = Partners::hash(address);
        self.0[hash as usize % PARTNERS].store(hash, Ordering::Relaxed);
    }

    fn knows(&self, address: SocketAddr) -> bool {
        let hash = Partners::hash(address);
        self.0[hash as usize % PARTNERS].load(Ordering::Relaxed) == hash
    }

    fn hash(address: SocketAddr) -> u64 {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        xxh3_64_with_seed(&ip.octets(), u64::from(address.port())).max(1)
    }
}

/// Whether a datagram looks like a stateless reset. It looks like a packet for somebody else: only QUIC, which knows the
/// token of each connection, can tell.
///
/// Source: RFC 9000 §10.3.
fn could_be_reset(datagram: &[u8]) -> bool {
    datagram.len() >= SHORT_PACKET_BYTES_MIN && datagram[0] & 0xc0 == 0x40
}

/// A socket that counts what cannot be QUIC, and what was here before.
pub(crate) struct WatchedSocket {
    pub inner: Arc<dyn AsyncUdpSocket>,
    pub cids: KeyedCids,
    pub counters: Arc<Counters>,
    pub notices: Arc<Notices>,
    pub lately: Lately,
    pub partners: Arc<Partners>,
}

impl fmt::Debug for WatchedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedSocket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl WatchedSocket {
    fn count_stray(&self, datagram: &[u8], from: SocketAddr) {
        if could_be_reset(datagram) && self.partners.knows(from) {
            // A peer that was started again says that it knows nothing of its former life's connections.
            bump(&self.counters.datagrams_reset);
        } else {
            bump(&self.counters.datagrams_garbage);
            self.notices.say(Trouble::Garbage, from, "");
        }
    }
}

impl AsyncUdpSocket for WatchedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(cx, buffers, meta);
        if let Poll::Ready(Ok(count)) = received {
            for (buffer, meta) in buffers.iter().zip(meta.iter()).take(count) {
                let received = &buffer[..meta.len.min(buffer.len())];
                for datagram in received.chunks(meta.stride.max(1)) {
                    if !self.cids.could_be_quic(datagram) {
                        self.count_stray(datagram, meta.addr);
                    } else if self.lately.has_seen(datagram) {
                        bump(&self.counters.datagrams_repeated);
                        self.notices.say(Trouble::Repeated, meta.addr, "");
                    }
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_are_known_again_in_the_next_life() {
        let cid = KeyedCids::new(&[7; 32]).generate_cid();
        assert!(KeyedCids::new(&[7; 32]).is_ours(&cid));
        assert!(!KeyedCids::new(&[8; 32]).is_ours(&cid));
    }

    #[test]
    fn a_datagram_is_known_again_and_others_are_not() {
        let lately = Lately::default();
        let datagram = |number: u32, length: usize| {
            let mut bytes = vec![0x40; length];
            bytes[9..13].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        assert_eq!((0..1000).filter(|number| lately.has_seen(&datagram(*number, 1200))).count(), 0);
        let again = (0..1000).filter(|number| lately.has_seen(&datagram(*number, 1200))).count();
        assert!(again > 850, "a few lost their places: {again}");
        assert!(
            !lately.has_seen(&datagram(999, 40)) && lately.has_seen(&datagram(999, 40)),
            "shorter than a beginning"
        );
    }

    #[test]
    fn garbage_is_told_from_packets() {
        let mut cids = KeyedCids::new(&[7; 32]);
        let mut short = vec![0x40];
        short.extend_from_slice(&cids.generate_cid());
        short.resize(40, 0);
        assert!(cids.could_be_quic(&short));
        assert!(cids.could_be_quic(&[0xc0, 0, 0, 0, 1, 8]));
        for garbage in
            [&b""[..], b"x", b"GET / HTTP/1.1\r\n\r\n and some more bytes", &short[..20], &[0xc0, 0, 0, 0, 9]]
        {
            assert!(!cids.could_be_quic(garbage), "{garbage:?}");
        }
    }
}
