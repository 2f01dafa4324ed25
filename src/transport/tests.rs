//! Two or three real endpoints on loopback, port 0.

mod trouble;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use promesh_model::{PeerId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::chitchat::ChitchatTransport;
use crate::{
    Class, ClusterSecret, PeerKey, RefusalReason, RequestError, StreamError, TlsIdentity, Transport, TransportEvent,
    TransportOptions, generate_secret,
};

/// Far longer than anything here takes, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Peer {
    transport: Transport,
    events: mpsc::Receiver<TransportEvent>,
    addr: SocketAddr,
}

#[allow(clippy::disallowed_methods)] // certificates are checked by rustls against the machine's clock
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_millis() as i64)
}

fn identity(secret: &ClusterSecret, label: &str, id: u128) -> TlsIdentity {
    let key = PeerKey::generate().expect("a key");
    TlsIdentity::from_secret(secret, label, PeerId(id), &key, now()).expect("an identity")
}

fn bind(identity: &TlsIdentity, listen: SocketAddr, boot: u64) -> Peer {
    let (transport, events) = Transport::bind(listen, identity, TransportOptions::new(boot)).expect("binds");
    let addr = transport.local_addr();
    Peer { transport, events, addr }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn peer(id: u128) -> Peer {
    bind(&identity(&ClusterSecret::development(), "default", id), any_port(), id as u64)
}

impl Peer {
    /// The next event that is not about connections.
    async fn next(&mut self) -> TransportEvent {
        loop {
            match timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("open") {
                TransportEvent::Connected { .. } | TransportEvent::Disconnected { .. } => {}
                event => return event,
            }
        }
    }

    async fn next_disconnect(&mut self) -> (SocketAddr, PeerId) {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("open");
            if let TransportEvent::Disconnected { addr, peer, .. } = event {
                return (addr, peer);
            }
        }
    }

    /// Answers every request with its own payload and the kind after its own.
    fn echo(mut self) -> SocketAddr {
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                if let TransportEvent::Request { kind, bytes, responder, .. } = event {
                    let _ = responder.respond(kind + 1, &bytes).await;
                }
            }
        });
        self.addr
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never came true: {what}");
}

#[tokio::test]
async fn a_request_is_answered_and_names_its_asker() {
    let (a, mut b) = (peer(1), peer(2));
    let asked = a.transport.request(b.addr, Class::Control, 7, b"ping", PATIENCE);
    let answered = async {
        let TransportEvent::Request { from, peer, class, kind, bytes, responder } = b.next().await else {
            panic!("not a request");
        };
        assert_eq!((from, peer, class, kind, &bytes[..]), (a.addr, PeerId(1), Class::Control, 7, &b"ping"[..]));
        responder.respond(8, b"pong").await.expect("answers");
    };
    let (answer, ()) = tokio::join!(asked, answered);
    assert_eq!(answer, Ok((8, Bytes::from_static(b"pong"))));
    assert_eq!(a.transport.links().len(), 1, "one connection until another class is needed");
}

#[tokio::test]
async fn the_same_connection_serves_both_directions() {
    let (a, b) = (peer(1), peer(2));
    let (a_addr, transport, a_transport) = (a.addr, b.transport.clone(), a.transport.clone());
    let b_addr = b.echo();
    a.transport.request(b_addr, Class::Control, 1, b"", PATIENCE).await.expect("an answer");
    a.echo();
    transport.request(a_addr, Class::Control, 1, b"", PATIENCE).await.expect("an answer");
    assert_eq!((a_transport.links().len(), transport.links().len()), (1, 1));
}

#[tokio::test]
async fn both_dialling_at_once_ends_with_one_connection() {
    let (a, b) = (peer(1), peer(2));
    let (a_transport, b_transport) = (a.transport.clone(), b.transport.clone());
    let (a_addr, b_addr) = (a.echo(), b.echo());
    let (there, back) = tokio::join!(
        a_transport.request(b_addr, Class::Control, 1, b"x", PATIENCE),
        b_transport.request(a_addr, Class::Control, 1, b"y", PATIENCE)
    );
    assert_eq!((there, back), (Ok((2, "x".into())), Ok((2, "y".into()))));
    let open = |transport: &Transport| transport.0.endpoint.open_connections();
    until("one connection", || (open(&a_transport), open(&b_transport)) == (1, 1)).await;
    a_transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("the one left works");
}

#[tokio::test]
async fn datagrams_sent_while_dialling_arrive() {
    let (a, mut b) = (peer(1), peer(2));
    a.transport.send_datagram(b.addr, Bytes::from_static(b"probe")).expect("small enough");
    let TransportEvent::Datagram { from, peer, bytes } = b.next().await else { panic!("not a datagram") };
    assert_eq!((from, peer, &bytes[..]), (a.addr, PeerId(1), &b"probe"[..]));
    let too_long = Bytes::from(vec![0; crate::DATAGRAM_BYTES_MAX + 1]);
    assert!(a.transport.send_datagram(b.addr, too_long).is_err());
    let longest = Bytes::from(vec![0; crate::DATAGRAM_BYTES_MAX]);
    a.transport.send_datagram(b.addr, longest).expect("small enough");
    assert!(matches!(b.next().await, TransportEvent::Datagram { bytes, .. } if bytes.len() == 1150));
}

#[tokio::test]
async fn messages_arrive_whole() {
    let (a, mut b) = (peer(1), peer(2));
    let large = vec![7; crate::MESSAGE_BYTES_MAX];
    a.transport.send_message(b.addr, 3, &large).expect("sent");
    let TransportEvent::Message { from, kind, bytes, .. } = b.next().await else { panic!("not a message") };
    assert_eq!((from, kind, &bytes[..]), (a.addr, 3, &large[..]));
    assert!(a.transport.send_message(b.addr, 3, &vec![7; crate::MESSAGE_BYTES_MAX + 1]).is_err());
}

#[tokio::test]
async fn a_stream_keeps_its_order_and_shows_back_pressure() {
    let (a, mut b) = (peer(1), peer(2));
    let sender = a.transport.open_stream(b.addr, Class::Control, 5, b"hello").await.expect("opens");
    let TransportEvent::Stream { kind, hello, mut frames, .. } = b.next().await else { panic!("not a stream") };
    assert_eq!((kind, &hello[..]), (5, &b"hello"[..]));
    let payload = vec![1; 256 << 10];
    let mut sent = 0u32;
    // Nobody reads: window and queue fill up, and the sender learns it.
    loop {
        match sender.try_send((sent % 200) as u8, &payload) {
            Ok(()) => sent += 1,
            Err(StreamError::Full) if sent > 16 => break,
            Err(StreamError::Full) => sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sender.queued_bytes() > 0);
    let finished = tokio::spawn(sender.finish());
    for expected in 0..sent {
        let (kind, bytes) = frames.recv().await.expect("a frame").expect("not over");
        assert_eq!((u32::from(kind), bytes.len()), (expected % 200, payload.len()));
    }
    assert_eq!(frames.recv().await, Ok(None));
    finished.await.expect("no panic").expect("finished");
}

#[tokio::test]
async fn a_stopped_stream_is_seen_by_its_sender() {
    let (a, mut b) = (peer(1), peer(2));
    let sender = a.transport.open_stream(b.addr, Class::Bulk, 5, b"").await.expect("opens");
    let TransportEvent::Stream { frames, .. } = b.next().await else { panic!("not a stream") };
    frames.stop();
    let why = timeout(PATIENCE, sender.closed()).await.expect("in time");
    assert!(matches!(why, StreamError::Closed(_)));
    assert!(sender.is_closed() && sender.send(1, b"").await.is_err());
}

#[tokio::test]
async fn an_answer_can_be_many_frames_or_a_refusal_or_nothing() {
    let (a, mut b) = (peer(1), peer(2));
    let b_addr = b.addr;
    tokio::spawn(async move {
        loop {
            let TransportEvent::Request { kind, responder, .. } = b.next().await else { continue };
            match kind {
                1 => {
                    let sender = responder.stream();
                    for part in 0..3 {
                        sender.send(part, b"part").await.expect("sent");
                    }
                }
                2 => responder.refuse("not today").await.expect("sent"),
                _ => drop(responder),
            }
        }
    });
    let mut parts = a.transport.request_stream(b_addr, Class::Bulk, 1, b"", PATIENCE).await.expect("asked");
    for part in 0..3 {
        assert_eq!(parts.recv().await, Ok(Some((part, Bytes::from_static(b"part")))));
    }
    assert_eq!(parts.recv().await, Ok(None));
    let refused = a.transport.request(b_addr, Class::Bulk, 2, b"", PATIENCE).await;
    assert_eq!(refused, Err(RequestError::Refused("not today".into())));
    let unanswered = a.transport.request(b_addr, Class::Bulk, 3, b"", PATIENCE).await;
    assert!(matches!(unanswered, Err(RequestError::Closed(_))), "{unanswered:?}");
}

#[tokio::test]
async fn oversized_requests_are_refused_on_both_sides() {
    let (a, b) = (peer(1), peer(2));
    let limit = Class::Control.frame_bytes_max();
    let refused = a.transport.request(b.addr, Class::Control, 1, &vec![0; limit + 1], PATIENCE).await;
    assert_eq!(refused, Err(RequestError::TooLarge { bytes: limit + 1, limit }));
    let (b_transport, b_addr) = (b.transport.clone(), b.echo());
    let longest = vec![3; limit];
    let answer = a.transport.request(b_addr, Class::Control, 1, &longest, PATIENCE).await;
    assert_eq!(answer, Ok((2, longest.into())));
    // A sender of another build that ignores the limit: its bytes are not read, its stream is stopped.
    let link = a.transport.0.link(b_addr, Class::Control).await.expect("connected");
    let (mut send, mut recv) = link.connection.open_bi().await.expect("a stream");
    let _ = send.write_all(&crate::stream::encode(1, &vec![0; limit + 1])).await;
    assert!(recv.read_to_end(16).await.is_err());
    assert_eq!(b_transport.counters().streams_malformed, 1);
}

#[tokio::test]
async fn another_secret_or_label_is_refused_and_counted() {
    let mut b = peer(2);
    let other_secret = ClusterSecret::new(generate_secret().as_bytes()).expect("a secret");
    for (count, identity) in
        [(1, identity(&other_secret, "default", 1)), (2, identity(&ClusterSecret::development(), "other", 1))]
    {
        let stranger = bind(&identity, any_port(), 1);
        let refused = stranger.transport.request(b.addr, Class::Control, 1, b"x", PATIENCE).await;
        assert!(matches!(&refused, Err(RequestError::Unreachable(why)) if why.contains("secret")), "{refused:?}");
        let counted = || b.transport.counters().refused_for(RefusalReason::Certificate);
        until("the refusal is counted", || counted() == count).await;
        assert!(b.transport.links().is_empty());
        stranger.transport.close().await;
    }
    assert!(b.events.try_recv().is_err(), "a stranger causes no event");
}

#[tokio::test]
async fn an_expired_or_not_yet_valid_certificate_is_refused_and_counted() {
    const DAY_MS: i64 = 86_400_000;
    let b = peer(2);
    for (count, offset_days) in [(1, -40), (2, 10)] {
        let key = PeerKey::generate().expect("a key");
        let made = Timestamp(now().ms() + offset_days * DAY_MS);
        let secret = ClusterSecret::development();
        let identity = TlsIdentity::from_secret(&secret, "default", PeerId(1), &key, made).expect("an identity");
        let out_of_time = bind(&identity, any_port(), 1);
        let refused = out_of_time.transport.request(b.addr, Class::Control, 1, b"x", PATIENCE).await;
        assert!(matches!(&refused, Err(RequestError::Unreachable(_))), "{refused:?}");
        until("counted", || b.transport.counters().refused_for(RefusalReason::Certificate) == count).await;
        out_of_time.transport.close().await;
    }
}

#[tokio::test]
async fn a_renewed_identity_serves_new_connections_and_leaves_open_ones() {
    let (a, b) = (peer(1), peer(2));
    let (b_transport, b_addr) = (b.transport.clone(), b.echo());
    a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("an answer");
    let opened = a.transport.links().len();
    // As after ten days: the same key, a later certificate.
    let secret = ClusterSecret::development();
    let key = PeerKey::generate().expect("a key");
    let renewed = TlsIdentity::from_secret(&secret, "default", PeerId(2), &key, now()).expect("an identity");
    b_transport.set_identity(&renewed).expect("taken");
    a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("the open one works on");
    assert_eq!(a.transport.links().len(), opened);
    let c = peer(3);
    c.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("a new one works");
}

/// The steps of a change of the secret: all trust the next one; one after the other signs by it, and trusts the former
/// one on; then that is forgotten. At every step every two peers reach each other.
#[tokio::test]
async fn a_secret_is_changed_with_an_overlap() {
    let secret = |byte: u8| ClusterSecret::new(&[byte; 40]).expect("long enough");
    let (old, new) = (secret(1), secret(2));
    let with = |id: u128, own: &ClusterSecret, other: Option<&ClusterSecret>| {
        let (key, other) = (PeerKey::generate().expect("a key"), other.cloned().into_iter().collect::<Vec<_>>());
        let made = TlsIdentity::from_secrets(own, &other, "default", PeerId(id), &key, now());
        bind(&made.expect("an identity"), any_port(), id as u64)
    };
    let ask = async |from: &Peer, to: SocketAddr| from.transport.request(to, Class::Control, 1, b"", PATIENCE).await;
    let steps: [[(&ClusterSecret, Option<&ClusterSecret>); 2]; 4] = [
        [(&old, None), (&old, Some(&new))],
        [(&old, Some(&new)), (&new, Some(&old))],
        [(&new, Some(&old)), (&new, Some(&old))],
        [(&new, Some(&old)), (&new, None)],
    ];
    for [(a, also_a), (b, also_b)] in steps {
        let (asker, answerer) = (with(1, a, also_a), with(2, b, also_b).echo());
        ask(&asker, answerer).await.expect("they belong together");
        let (asker, answerer) = (with(2, b, also_b), with(1, a, also_a).echo());
        ask(&asker, answerer).await.expect("and the other way round");
    }
    let (late, done) = (with(1, &old, None), with(2, &new, None).echo());
    assert!(late.transport.request(done, Class::Control, 1, b"", Duration::from_secs(2)).await.is_err());
}

#[tokio::test]
async fn a_certificate_for_another_peer_id_is_refused() {
    let b = peer(2);
    let secret = ClusterSecret::development();
    let mut forged = identity(&secret, "default", 1);
    forged.peer = PeerId(9);
    let liar = bind(&forged, any_port(), 1);
    let refused = liar.transport.request(b.addr, Class::Control, 1, b"x", PATIENCE).await;
    assert!(matches!(refused, Err(RequestError::Unreachable(_))), "{refused:?}");
    until("counted", || b.transport.counters().refused_for(RefusalReason::Hello) == 1).await;
}

#[tokio::test]
async fn another_key_under_a_living_peer_id_is_refused() {
    let (a, b) = (peer(1), peer(2));
    let (b_transport, b_addr) = (b.transport.clone(), b.echo());
    a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("an answer");
    let clone = peer(1);
    let _ = clone.transport.request(b_addr, Class::Control, 1, b"x", Duration::from_secs(2)).await;
    until("counted", || b_transport.counters().refused_for(RefusalReason::KeyChanged) >= 1).await;
    assert!(b_transport.links().iter().all(|link| link.addr == a.addr));
}

#[tokio::test]
async fn garbage_costs_a_counter() {
    let b = peer(2);
    let socket = tokio::net::UdpSocket::bind(any_port()).await.expect("a socket");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 1200], &[0x40; 64], b""] {
        socket.send_to(garbage, b.addr).await.expect("sent");
    }
    // The empty one may never be delivered by the kernel's batching; three at least must be seen.
    until("counted", || b.transport.counters().datagrams_garbage >= 3).await;
    let (a, b_addr) = (peer(1), b.echo());
    a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("works on");
}

#[tokio::test]
async fn one_s_own_address_is_known_as_such() {
    let a = peer(1);
    let answer = a.transport.request(a.addr, Class::Control, 1, b"x", PATIENCE).await;
    assert_eq!(answer, Err(RequestError::Oneself));
    assert!(a.transport.links().is_empty());
}

#[tokio::test]
async fn an_address_without_a_peer_fails_in_time_and_backs_off() {
    let a = peer(1);
    let empty = std::net::UdpSocket::bind(any_port()).expect("a socket");
    let to = empty.local_addr().expect("bound");
    let answer = a.transport.request(to, Class::Control, 1, b"x", Duration::from_millis(300)).await;
    assert_eq!(answer, Err(RequestError::Timeout));
    let answer = a.transport.request(to, Class::Control, 1, b"x", PATIENCE).await;
    assert!(matches!(answer, Err(RequestError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn a_restart_on_the_same_port_is_noticed_and_connected_anew() {
    let mut a = peer(1);
    let secret = ClusterSecret::development();
    let key = PeerKey::generate().expect("a key");
    let identity = TlsIdentity::from_secret(&secret, "default", PeerId(2), &key, now()).expect("an identity");
    let first = bind(&identity, any_port(), 10);
    let b_addr = first.addr;
    a.transport.request(b_addr, Class::Control, 1, b"x", Duration::from_millis(200)).await.expect_err("nobody answers");
    assert_eq!(a.transport.links().len(), 1);
    first.transport.close().await;
    drop(first);
    assert_eq!(a.next_disconnect().await, (b_addr, PeerId(2)));
    let mut second = None;
    for boot in 11..200 {
        // The port is free once the last task of the first life has let go of it.
        match Transport::bind(b_addr, &identity, TransportOptions::new(boot)) {
            Ok((transport, events)) => {
                second = Some(Peer { transport, events, addr: b_addr });
                break;
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
    second.expect("the port is free again").echo();
    let answer = a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await;
    assert_eq!(answer, Ok((2, "x".into())));
}

#[tokio::test]
async fn a_peer_that_died_without_a_word_resets_its_old_connections() {
    let secret = ClusterSecret::development();
    let key = PeerKey::generate().expect("a key");
    let identity = TlsIdentity::from_secret(&secret, "default", PeerId(2), &key, now()).expect("an identity");
    let mut a = peer(1);
    let first_life = bind(&identity, any_port(), 10);
    let thread = first_life.transport.0.runtime.clone();
    let b_addr = first_life.echo();
    a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("an answer");
    thread.end().await;
    bind(&identity, b_addr, 11).echo();
    // Within a keep-alive, not within the idle time-out: the second life answers the first one's packets.
    let lost = timeout(Duration::from_secs(5), a.next_disconnect()).await.expect("noticed by a reset");
    assert_eq!(lost, (b_addr, PeerId(2)));
    a.transport.request(b_addr, Class::Control, 1, b"x", PATIENCE).await.expect("an answer");
    let counters = a.transport.counters();
    assert!(counters.datagrams_reset >= 1 && counters.datagrams_garbage == 0, "{counters:?}");
    // From where no peer was ever connected it is garbage, whatever it looks like.
    let stranger = tokio::net::UdpSocket::bind(any_port()).await.expect("a socket");
    stranger.send_to(&[0x40; 64], a.addr).await.expect("sent");
    until("counted", || a.transport.counters().datagrams_garbage == 1).await;
}

#[tokio::test]
async fn a_lone_peer_opens_nothing() {
    let a = peer(1);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(a.transport.0.endpoint.open_connections(), 0);
    assert_eq!(a.transport.counters(), crate::CounterSnapshot::default());
}

#[tokio::test]
async fn a_fact_told_to_chitchat_is_known_to_the_other_peer() {
    const KIND: u8 = 9;
    let mut handles = Vec::new();
    let peers = [peer(1), peer(2)];
    let seed = peers[0].addr.to_string();
    for mut peer in peers {
        let (transport, inbox) = ChitchatTransport::new(peer.transport.clone(), KIND);
        tokio::spawn(async move {
            while let Some(event) = peer.events.recv().await {
                if let TransportEvent::Message { from, kind: KIND, bytes, .. } = event {
                    inbox.deliver(from, bytes);
                }
            }
        });
        let id = chitchat::ChitchatId::new(format!("peer-{}", peer.addr.port()), 1, peer.addr);
        let config = chitchat::ChitchatConfig {
            chitchat_id: id,
            cluster_id: "default".into(),
            gossip_interval: Duration::from_millis(50),
            listen_addr: peer.addr,
            seed_nodes: vec![seed.clone()],
            failure_detector_config: chitchat::FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(60),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: chitchat::ProtocolVersion::V1,
        };
        let facts = vec![("load".to_owned(), peer.addr.port().to_string())];
        handles.push(chitchat::spawn_chitchat(config, facts, &transport).await.expect("starts"));
    }
    for handle in &handles {
        let chitchat = handle.chitchat();
        let mut known = 0;
        for _ in 0..400 {
            known = chitchat.lock().await.node_states().values().filter(|state| state.get("load").is_some()).count();
            if known == 2 {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(known, 2);
    }
}

#[test]
fn secrets_are_trimmed_measured_and_never_printed() {
    let secret = ClusterSecret::new(b"  0123456789abcdef0123456789abcdef\n").expect("long enough");
    assert_eq!(format!("{secret:?}"), "<secret>");
    assert!(ClusterSecret::new(b"0123456789abcdef0123456789abcde          ").is_err());
    assert!(generate_secret().len() >= 32);
    assert_ne!(generate_secret(), generate_secret());
}

#[test]
fn certificates_are_renewed_at_two_thirds_and_not_in_step() {
    let identity = identity(&ClusterSecret::development(), "default", 1);
    let day = 86_400_000;
    assert!(identity.expires_at().ms() - now().ms() > 29 * day);
    let renewals: std::collections::BTreeSet<_> =
        (0..8u64).map(|n| identity.renew_at(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2)).collect();
    assert!(renewals.len() > 4);
    for at in renewals {
        let left = identity.expires_at().ms() - at.ms();
        assert!((9 * day..15 * day).contains(&left), "{left}");
    }
}

#[test]
fn a_key_is_made_once_and_kept_for_its_owner_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("peer.key");
    PeerKey::load_or_create(&path).expect("made");
    let made = std::fs::read(&path).expect("there");
    PeerKey::load_or_create(&path).expect("read");
    assert_eq!(std::fs::read(&path).expect("there"), made);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }
    std::fs::write(&path, "damaged").expect("written");
    let error = PeerKey::load_or_create(&path).expect_err("not replaced unasked").to_string();
    assert!(error.contains("peer.key") && error.contains("remove it"), "{error}");
}
