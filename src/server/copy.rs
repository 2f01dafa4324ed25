//! Copies between peers: chunks of the open window, a few hundred series a frame, compressed.
//!
//! Ahead of the chunks the donor says which batches fill the newest slots, and with each chunk whose batches it belongs to
//! (`orders`). A donor of an older build does not know that request and is asked for plain chunks.

mod orders;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use promesh_model::codec::{self, BULK_BYTES_MAX, RPC_BYTES_MAX};
use promesh_model::ingest::{Batch, HistogramSample, SeriesIndex, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::storage::SeriesColumns;
use promesh_model::{Monotonic, PeerId, ShardId, Timestamp};
use promesh_node::MeshView;
use promesh_replication::SlotOrders;
use promesh_transport::{Class, FrameSender, Responder, Transport};
use promesh_tsdb::HeadChunk;
use promesh_tsdb::chunk::{self, Encoding};
use promesh_tsdb::head::series::Value;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use thiserror::Error;
use tokio::runtime::Handle;

use self::orders::Contest;
use crate::ahead;
use crate::clock;
use crate::ingest::{Ingest, Remembered};
use crate::telemetry::Telemetry;

/// "Send me the chunks of these shards."
pub const FETCH: u8 = 36;
/// The same, and say whose batches fill the newest slots.
pub const FETCH_ORDERED: u8 = 74;
const CHUNKS: u8 = 37;
const END: u8 = 38;
/// The newest slots of sources, and the batches that fill them.
const SOURCES: u8 = 75;
const ORDERED_CHUNKS: u8 = 76;
/// "I do not know that request."
const REFUSED: u8 = 0xff;
const FRAME_BYTES: usize = 512 << 10;
/// Nothing for so long: the copy has failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// Samples of one batch of the log.
const BATCH_SAMPLES: usize = 8_000;

/// Why a copy failed; what came is kept.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The donor did not answer, or its answer broke off.
    #[error("the donor's answer: {0}")]
    Donor(String),
    /// It could not be stored here.
    #[error(transparent)]
    Store(#[from] crate::ingest::StoreError),
}

#[derive(Serialize, Deserialize)]
struct Wanted {
    shards: ShardSet,
    since: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct WireChunk {
    labels: Labels,
    encoding: u8,
    bytes: Vec<u8>,
}

/// A chunk, and the place of its source among those named before, from 1; 0 for none.
#[derive(Serialize, Deserialize)]
struct OrderedChunk {
    labels: Labels,
    encoding: u8,
    bytes: Vec<u8>,
    source: u32,
}

/// Sends pieces of a copy from a thread that may block.
pub struct Sending<'a, T> {
    /// Where they go.
    pub frames: FrameSender,
    runtime: &'a Handle,
    kind: u8,
    piece: Vec<T>,
    bytes: usize,
}

impl<'a, T: Serialize> Sending<'a, T> {
    /// Pieces of one kind.
    pub fn new(frames: FrameSender, runtime: &'a Handle, kind: u8) -> Sending<'a, T> {
        Sending { frames, runtime, kind, piece: Vec::new(), bytes: 0 }
    }

    /// Takes one that is about so large, and sends the piece when it is full. Whether the other side still listens.
    pub fn push(&mut self, one: T, bytes: usize) -> bool {
        self.piece.push(one);
        self.bytes += bytes;
        self.bytes < FRAME_BYTES || self.flush()
    }

    /// Sends what is left.
    pub fn flush(&mut self) -> bool {
        if self.piece.is_empty() {
            return true;
        }
        self.bytes = 0;
        let plain = codec::encode(&std::mem::take(&mut self.piece));
        let packed = zstd::bulk::compress(&plain, 1).unwrap_or_default();
        let payload = codec::encode(&(plain.len() as u64, packed));
        self.runtime.block_on(self.frames.send(self.kind, &payload)).is_ok()
    }
}

/// Answers [`FETCH`] and [`FETCH_ORDERED`]: chunks with samples at or after the instant asked for, or that came after it, then
/// since when they are all there is. Runs on a thread that may block.
pub fn serve(
    ingest: &Ingest,
    view: Option<&MeshView>,
    kind: u8,
    payload: &Bytes,
    responder: Responder,
    runtime: &Handle,
) {
    let frames = {
        let _inside = runtime.enter();
        responder.stream()
    };
    let Ok(wanted) = codec::decode::<Wanted, RPC_BYTES_MAX>(payload) else { return };
    let since = wanted.since.map_or(Timestamp::MIN, Timestamp);
    let head = ingest.db().head();
    // What came since then for a time before it is younger than that as well, to whoever was away.
    let reaches = ingest.reaches(&wanted.shards, since);
    let since_of = |shard: ShardId| {
        wanted.shards.contains(shard).then(|| reaches.get(&shard).map_or(since, |oldest| since.min(*oldest)))
    };
    let mut chunks = head.export_open(&since_of);
    let bytes_of = |chunk: &HeadChunk| chunk.bytes.len() + chunk.labels.as_packed().len() + 16;
    let whole = if kind == FETCH_ORDERED {
        let Remembered { sources, series: known } = ingest.remembered(&wanted.shards, since);
        let mut named = Sending::new(frames.clone(), runtime, SOURCES);
        let all_named = sources.into_iter().all(|orders| {
            let bytes = orders.slots.len() * 40 + 32;
            named.push(orders, bytes)
        });
        let mut sending = Sending::new(frames.clone(), runtime, ORDERED_CHUNKS);
        all_named
            && named.flush()
            && chunks.all(|(series, chunk)| {
                let source = known.get(&series).map_or(0, |place| place + 1);
                let (bytes, encoding) = (bytes_of(&chunk), chunk.encoding as u8);
                sending.push(OrderedChunk { labels: chunk.labels, encoding, bytes: chunk.bytes, source }, bytes)
            })
            && sending.flush()
    } else {
        let mut sending = Sending::new(frames.clone(), runtime, CHUNKS);
        chunks.all(|(_, chunk)| {
            let (bytes, encoding) = (bytes_of(&chunk), chunk.encoding as u8);
            sending.push(WireChunk { labels: chunk.labels, encoding, bytes: chunk.bytes }, bytes)
        }) && sending.flush()
    };
    if !whole {
        return;
    }
    // What lies in blocks does not come with the open window: it is history, and copied as that.
    let open_from = head.min_time().max(ingest.db().blocks_end());
    let whole_from = match (view.and_then(|view| view.own.whole_from(&wanted.shards)), wanted.since) {
        (Some(held_from), _) => held_from.max(open_from),
        // A part of the log is worth having from anybody; the open window only from one that holds it whole.
        (None, Some(since)) => Timestamp(since),
        (None, None) => return,
    };
    let _ = runtime.block_on(frames.send(END, &codec::encode(&whole_from)));
}

/// What of a copy lies too far ahead to be taken: since when, and of which shards.
pub type Left = Option<(Timestamp, ShardSet)>;

/// Copies shards from a peer; answers since when what came is all there is, and what of it was left.
///
/// # Errors
/// As [`CopyError`] says.
pub async fn fetch(
    transport: &Transport,
    from: (PeerId, SocketAddr),
    shards: ShardSet,
    since: Option<Timestamp>,
    ingest: &Arc<Ingest>,
    telemetry: &Telemetry,
) -> Result<(Timestamp, Left), CopyError> {
    let asked = codec::encode(&Wanted { shards, since: since.map(Timestamp::ms) });
    match fetch_as(FETCH_ORDERED, transport, from, &asked, ingest, telemetry).await? {
        Some(copied) => Ok(copied),
        None => {
            let copied = fetch_as(FETCH, transport, from, &asked, ingest, telemetry).await?;
            copied.ok_or_else(|| CopyError::Donor("it refuses to be copied from".to_owned()))
        }
    }
}

/// `None` when the donor does not know the request.
async fn fetch_as(
    kind: u8,
    transport: &Transport,
    (peer, from): (PeerId, SocketAddr),
    asked: &[u8],
    ingest: &Arc<Ingest>,
    telemetry: &Telemetry,
) -> Result<Option<(Timestamp, Left)>, CopyError> {
    let donor = |error: String| CopyError::Donor(error);
    let began: Monotonic = clock::monotonic();
    let asking = transport.request_stream(from, Class::Bulk, kind, asked, PATIENCE);
    let mut frames = asking.await.map_err(|error| donor(error.to_string()))?;
    let mut total = 0;
    let mut taking = Taking { latest: ahead::latest(clock::wall()), ..Taking::default() };
    loop {
        let frame = tokio::time::timeout(PATIENCE, frames.recv()).await;
        let frame = frame.map_err(|_| donor("nothing came in time".to_owned()))?;
        let (kind, payload) =
            frame.map_err(|error| donor(error.to_string()))?.ok_or_else(|| donor("it broke off".to_owned()))?;
        match kind {
            CHUNKS | SOURCES | ORDERED_CHUNKS => {
                total += payload.len();
                telemetry.copied_bytes.fetch_add(payload.len() as u64, std::sync::atomic::Ordering::Relaxed);
                let ingest = Arc::clone(ingest);
                let stored = tokio::task::spawn_blocking(move || {
                    let mut taking = taking;
                    take(kind, &payload, &mut taking, &ingest).map(|()| taking)
                });
                taking = stored.await.map_err(|error| donor(error.to_string()))??;
            }
            END => {
                let whole_from = codec::decode::<Timestamp, RPC_BYTES_MAX>(&payload);
                let whole_from = whole_from.map_err(|error| donor(error.to_string()))?;
                let ingest = Arc::clone(ingest);
                let Taking { contest, left, left_count, .. } = taking;
                if let Some((since, _)) = &left {
                    telemetry.ahead.left(peer, left_count, *since, clock::now());
                }
                let settled = tokio::task::spawn_blocking(move || contest.settle(&ingest)).await;
                let replaced = settled.map_err(|error| donor(error.to_string()))??;
                let took = clock::monotonic().since(began);
                tracing::debug!(%from, bytes = total, replaced, ?took, "copied chunks");
                return Ok(Some((whole_from, left)));
            }
            REFUSED if total == 0 => return Ok(None),
            other => return Err(donor(format!("a frame of kind {other}"))),
        }
    }
}

fn malformed(what: impl std::fmt::Display) -> CopyError {
    CopyError::Donor(format!("malformed chunks: {what}"))
}

/// Reads a piece of a copy.
///
/// # Errors
/// `Donor` when it is not what [`Sending`] makes.
pub fn unpack<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<Vec<T>, CopyError> {
    let (length, packed) = codec::decode::<(u64, Vec<u8>), BULK_BYTES_MAX>(payload).map_err(malformed)?;
    if length > BULK_BYTES_MAX as u64 {
        return Err(malformed("too long"));
    }
    let plain = zstd::bulk::decompress(&packed, length as usize).map_err(malformed)?;
    codec::decode::<Vec<T>, BULK_BYTES_MAX>(&plain).map_err(malformed)
}

/// What is kept in mind while a copy comes in.
#[derive(Default)]
struct Taking {
    contest: Contest,
    /// The last instant that is taken.
    latest: Timestamp,
    left: Left,
    left_count: u64,
}

impl Taking {
    /// Whether a sample is too far ahead: then it is left.
    fn leaves(&mut self, labels: &Labels, at: Timestamp) -> bool {
        if at <= self.latest {
            return false;
        }
        let (since, shards) = self.left.get_or_insert_with(|| (at, ShardSet::default()));
        *since = at.min(*since);
        shards.insert(shard_of(labels));
        self.left_count += 1;
        true
    }
}

fn take(kind: u8, payload: &[u8], taking: &mut Taking, ingest: &Ingest) -> Result<(), CopyError> {
    match kind {
        SOURCES => {
            let mut sources: Vec<SlotOrders> = unpack(payload)?;
            sources.iter_mut().for_each(|orders| orders.slots.retain(|(slot, _)| *slot <= taking.latest));
            taking.contest.add(sources, ingest).map_err(malformed)
        }
        ORDERED_CHUNKS => store(ingest, unpack(payload)?, taking),
        _ => {
            let unordered =
                |WireChunk { labels, encoding, bytes }: WireChunk| OrderedChunk { labels, encoding, bytes, source: 0 };
            store(ingest, unpack(payload)?.into_iter().map(unordered).collect(), taking)
        }
    }
}

/// What is here already of one series. Logs are fetched from all that may have some of it, and most of it is the same: what
/// is here is neither logged again nor looked for sample by sample.
#[derive(Default)]
struct Here {
    columns: SeriesColumns,
}

impl Here {
    /// Reads what lies in the span of some samples.
    fn read(&mut self, ingest: &Ingest, series: SeriesRef, samples: &[(i64, Value)]) {
        self.columns.clear();
        let instants = || samples.iter().map(|(at, _)| *at);
        if let (Some(first), Some(last)) = (instants().min(), instants().max()) {
            // What cannot be read is not here; whoever queries it is told.
            ingest.db().head().read_resolved(series, first, last, &mut self.columns, &mut Vec::new());
        }
    }

    /// Whether this very sample is here; of histograms nothing is known.
    fn has(&self, at: Timestamp, value: &Value) -> bool {
        let Value::Float(bits) = value else { return false };
        let found = self.columns.timestamps.binary_search(&at.ms());
        found.is_ok_and(|place| self.columns.values[place].to_bits() == *bits)
    }
}

fn store(ingest: &Ingest, chunks: Vec<OrderedChunk>, taking: &mut Taking) -> Result<(), CopyError> {
    let (mut batch, mut here) = (Batch::default(), Here::default());
    let mut samples: Vec<(i64, Value)> = Vec::new();
    for OrderedChunk { labels, encoding, bytes, source } in chunks {
        let encoding = Encoding::from_byte(encoding).map_err(malformed)?;
        let source = (source as usize).checked_sub(1);
        if source.is_some_and(|source| !taking.contest.has(source)) {
            return Err(malformed("a source that was not named"));
        }
        let series = ingest.db().resolve(&labels).map_err(crate::ingest::StoreError::from)?;
        let decoded = chunk::for_each_value(encoding, &bytes, |at, value| {
            samples.push((at, value()));
            true
        });
        decoded.map_err(malformed)?;
        here.read(ingest, series, &samples);
        for (at, value) in samples.drain(..) {
            let at = Timestamp(at);
            if taking.leaves(&labels, at) {
                continue;
            }
            if source.is_some_and(|source| !taking.contest.is_plain(source, series, at, &value)) {
                continue;
            }
            if here.has(at, &value) {
                continue;
            }
            match value {
                Value::Float(bits) => {
                    batch.timestamps.push((batch.series.len() as u32, at));
                    batch.series.push(series);
                    batch.values.push(f64::from_bits(bits));
                }
                Value::Histogram(value) => {
                    let start = Timestamp(0);
                    batch.histograms.push(HistogramSample { series, timestamp: at, value, start });
                }
            }
            batch.slot = batch.slot.max(at);
        }
        if batch.series.len() + batch.histograms.len() >= BATCH_SAMPLES {
            ingest.write_copied(std::mem::take(&mut batch))?;
        }
    }
    if !batch.series.is_empty() || !batch.histograms.is_empty() {
        ingest.write_copied(batch)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use promesh_model::{Generation, ShardId};
    use promesh_replication::{Order, Origin, SourceId};

    use super::*;

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let origin = Origin { writer: PeerId(9), generation: Generation(3) };
        let order = Order { failed: false, rank: 1, origin };
        let slots = vec![(Timestamp(5_000), order)];
        let sources = vec![SlotOrders { source: SourceId(7), shard: ShardId(70), slots }];
        let labels = Labels::from_pairs([("a", "b")]);
        let plain = WireChunk { labels: labels.clone(), encoding: 1, bytes: vec![1, 2] };
        let chunk = OrderedChunk { labels, encoding: 1, bytes: vec![1, 2], source: 1 };
        let wanted = Wanted { shards: [ShardId(70)].into_iter().collect(), since: Some(5) };
        assert_eq!(REFUSED, 0xff, "as the transport says it");
        let mut seen = String::new();
        for (kind, name, bytes) in [
            (FETCH, "asked", codec::encode(&wanted)),
            (FETCH_ORDERED, "asked", codec::encode(&wanted)),
            (CHUNKS, "chunks", codec::encode(&vec![plain])),
            (SOURCES, "sources", codec::encode(&sources)),
            (ORDERED_CHUNKS, "chunks", codec::encode(&vec![chunk])),
            (END, "whole from", codec::encode(&Timestamp(5))),
        ] {
            let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            seen.push_str(&format!("{kind} {name} {shown}\n"));
        }
        let read = codec::decode::<Vec<SlotOrders>, BULK_BYTES_MAX>(&codec::encode(&sources)).expect("decodes");
        assert_eq!(read, sources);
        expect_test::expect![[r#"
            36 asked 000146010a
            74 asked 000146010a
            37 chunks 01040161016201020102
            75 sources 01074601fb102700010903
            76 chunks 0104016101620102010201
            38 whole from 0a
        "#]]
        .assert_eq(&seen);
    }
}
