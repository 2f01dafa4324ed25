//! What a request, a datagram and a megabyte cost between two peers on loopback.
//!
//! `cargo bench -p promesh-transport`

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use promesh_model::{PeerId, Timestamp};
use promesh_transport::{Class, ClusterSecret, PeerKey, TlsIdentity, Transport, TransportEvent, TransportOptions};

const PATIENCE: Duration = Duration::from_secs(10);
const BATCH_BYTES: usize = 64 << 10;
const BATCHES: usize = 64;

fn peer(id: u128) -> (Transport, tokio::sync::mpsc::Receiver<TransportEvent>) {
    let key = PeerKey::generate().expect("a key");
    #[allow(clippy::disallowed_methods)] // certificates are checked against the machine's clock
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let now = Timestamp(now.as_millis() as i64);
    let identity = TlsIdentity::from_secret(&ClusterSecret::development(), "bench", PeerId(id), &key, now);
    let listen = "127.0.0.1:0".parse().expect("an address");
    Transport::bind(listen, &identity.expect("an identity"), TransportOptions::new(id as u64)).expect("binds")
}

fn loopback(c: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (from, to, (batches_done, mut batches)) = runtime.block_on(async {
        let (from, _) = peer(1);
        let (transport, mut events) = peer(2);
        let done = tokio::sync::mpsc::channel(64);
        let sender = done.0.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    TransportEvent::Request { kind, bytes, responder, .. } => {
                        let _ = responder.respond(kind, &bytes).await;
                    }
                    TransportEvent::Stream { mut frames, .. } => {
                        let sender = sender.clone();
                        tokio::spawn(async move {
                            let mut taken = 0;
                            while let Ok(Some(_)) = frames.recv().await {
                                taken += 1;
                                if taken % BATCHES == 0 && sender.send(()).await.is_err() {
                                    return;
                                }
                            }
                        });
                    }
                    _ => {}
                }
            }
        });
        (from, transport.local_addr(), done)
    });
    drop(batches_done);

    c.bench_function("request and answer of 200 bytes", |b| {
        let payload = [7; 200];
        b.iter(|| runtime.block_on(from.request(to, Class::Control, 1, &payload, PATIENCE)).expect("an answer"));
    });

    let stream = runtime.block_on(from.open_stream(to, Class::Bulk, 1, b"")).expect("opens");
    let payload = vec![7; BATCH_BYTES];
    let mut group = c.benchmark_group("stream");
    group.sample_size(20).throughput(Throughput::Bytes((BATCHES * BATCH_BYTES) as u64));
    group.bench_function("frames of 64 KiB", |b| {
        b.iter(|| {
            runtime.block_on(async {
                for _ in 0..BATCHES {
                    stream.send(1, &payload).await.expect("sent");
                }
                batches.recv().await.expect("taken");
            });
        });
    });
    group.finish();
}

criterion_group!(benches, loopback);
criterion_main!(benches);
