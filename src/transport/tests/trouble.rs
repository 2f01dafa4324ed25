//! Each trouble from outside costs a counter, and one line of the log.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::CounterSnapshot;

/// What is logged on the thread of a peer's connections.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

/// How often the trouble is made.
const TIMES: u64 = 3;

/// Has a stranger make trouble for a peer again and again.
async fn check(what: &str, trouble: impl AsyncFn(SocketAddr), counted: fn(&CounterSnapshot) -> u64, line: &str) {
    let log = Log::default();
    // While there is but one subscriber, tracing asks the thread of whatever test comes first whether anybody listens.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let victim = peer(2);
    let transport = victim.transport.clone();
    let (logs, begun) = tokio::sync::oneshot::channel();
    transport.spawn(async move {
        // For as long as the thread lives.
        std::mem::forget(tracing::subscriber::set_default(subscriber));
        let _ = logs.send(());
    });
    begun.await.expect("the thread runs it");
    let at = victim.echo();
    for time in 1..=TIMES {
        trouble(at).await;
        until(what, || counted(&transport.counters()) >= time).await;
    }
    let text = String::from_utf8_lossy(&log.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    // A peer says what became of its own dialling, too.
    let own = text.lines().filter(|text| text.contains("WARN") && !text.contains(&format!("remote={at}")));
    let own: Vec<&str> = own.collect();
    assert!(own.len() == 1 && own[0].contains(line), "{what}: {own:#?}");
}

/// Somebody with an identity of its own asks for something.
fn asks(identity: impl Fn() -> TlsIdentity + 'static) -> impl AsyncFn(SocketAddr) {
    async move |at: SocketAddr| {
        let stranger = bind(&identity(), any_port(), 1);
        let refused = stranger.transport.request(at, Class::Control, 1, b"x", Duration::from_secs(3)).await;
        assert!(refused.is_err());
        stranger.transport.close().await;
    }
}

fn made(days_ago: i64) -> impl Fn() -> TlsIdentity {
    move || {
        let (key, made) = (PeerKey::generate().expect("a key"), Timestamp(now().ms() - days_ago * 86_400_000));
        TlsIdentity::from_secret(&ClusterSecret::development(), "default", PeerId(1), &key, made).expect("an identity")
    }
}

fn sends(bytes: &'static [u8]) -> impl AsyncFn(SocketAddr) {
    async move |at: SocketAddr| {
        let socket = tokio::net::UdpSocket::bind(any_port()).await.expect("a socket");
        socket.send_to(bytes, at).await.expect("sent");
    }
}

/// A peer of another build, that sends a frame longer than any may be, or something that is none.
fn streams(bytes: Vec<u8>) -> impl AsyncFn(SocketAddr) {
    let next = AtomicU64::new(10);
    async move |at: SocketAddr| {
        let stranger = peer(u128::from(next.fetch_add(1, Ordering::Relaxed)));
        let link = stranger.transport.0.link(at, Class::Control).await.expect("connected");
        let (mut send, mut recv) = link.connection.open_bi().await.expect("a stream");
        let _ = send.write_all(&bytes).await;
        assert!(recv.read_to_end(16).await.is_err(), "it is stopped");
        stranger.transport.close().await;
    }
}

#[tokio::test]
async fn each_trouble_from_outside_costs_a_counter_and_one_line() {
    let certificate = |counters: &CounterSnapshot| counters.refused_for(RefusalReason::Certificate);
    let other = ClusterSecret::new(generate_secret().as_bytes()).expect("a secret");
    let wrong = asks(move || identity(&other, "default", 1));
    check("another secret", wrong, certificate, r#"reason="certificate""#).await;
    check("another label", asks(|| identity(&ClusterSecret::development(), "other", 1)), certificate, "certificate")
        .await;
    check("a certificate that ran out", asks(made(40)), certificate, r#"reason="certificate""#).await;
    check("a certificate that is not valid yet", asks(made(-10)), certificate, r#"reason="certificate""#).await;
    let liar = asks(|| {
        let mut forged = identity(&ClusterSecret::development(), "default", 1);
        forged.peer = PeerId(9);
        forged
    });
    check("another's id", liar, |counters| counters.refused_for(RefusalReason::Hello), r#"reason="hello""#).await;
    let first = peer(1);
    let (transport, twin) = (first.transport.clone(), first);
    let changed = async move |at: SocketAddr| {
        // The peer itself is connected; then comes another with a key of its own.
        transport.request(at, Class::Control, 1, b"x", PATIENCE).await.expect("an answer");
        asks(|| identity(&ClusterSecret::development(), "default", 1))(at).await;
    };
    let key_changed = |counters: &CounterSnapshot| counters.refused_for(RefusalReason::KeyChanged);
    check("another key", changed, key_changed, r#"reason="key_changed""#).await;
    drop(twin);
    let malformed = |counters: &CounterSnapshot| counters.streams_malformed;
    let long = crate::stream::encode(1, &vec![0; Class::Control.frame_bytes_max() + 1]);
    check("a message too long", streams(long), malformed, "stopped a stream").await;
    check("a stream of something else", streams(b"GET / HTTP/1.1\r\n\r\n".to_vec()), malformed, "stopped a stream")
        .await;
    let garbage = |counters: &CounterSnapshot| counters.datagrams_garbage;
    check("a datagram of something else", sends(b"GET / HTTP/1.1\r\n\r\n"), garbage, "nothing of ours").await;
    check("a forged packet", sends(&[0x40; 64]), garbage, "nothing of ours").await;
    // As any packet of QUIC would, if somebody who heard it sent it again: the first time it is a stranger's hello.
    let hello: &[u8] = &[&[0xc3, 0, 0, 0, 1, 8][..], &[7; 40]].concat().leak()[..];
    let again = async move |at: SocketAddr| {
        sends(hello)(at).await;
        sends(hello)(at).await;
    };
    check("a packet that was heard", again, |counters| counters.datagrams_repeated, "a second time").await;
}
