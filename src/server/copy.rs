//! Copies between peers: chunks of the open window, a few hundred series a frame, compressed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use promesh_model::codec::{self, BULK_BYTES_MAX, RPC_BYTES_MAX};
use promesh_model::ingest::{Batch, HistogramSample, SeriesIndex};
use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::{Monotonic, Timestamp};
use promesh_node::MeshView;
use promesh_transport::{Class, Responder, Transport};
use promesh_tsdb::chunk::{self, Encoding};
use promesh_tsdb::head::series::Value;
use promesh_tsdb::{Db, HeadChunk};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::clock;
use crate::ingest::Ingest;
use crate::telemetry::Telemetry;

/// "Send me the chunks of these shards."
pub const FETCH: u8 = 36;
const CHUNKS: u8 = 37;
const END: u8 = 38;
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

/// Answers [`FETCH`]: chunks with samples at or after the instant asked for, then since when they are all there is.
/// Runs on a thread that may block.
pub fn serve(db: &Db, view: Option<&MeshView>, payload: &Bytes, responder: Responder, runtime: &Handle) {
    let frames = {
        let _inside = runtime.enter();
        responder.stream()
    };
    let Ok(wanted) = codec::decode::<Wanted, RPC_BYTES_MAX>(payload) else { return };
    let mut piece: Vec<WireChunk> = Vec::new();
    let mut bytes = 0;
    let in_shards = |shard| wanted.shards.contains(shard);
    let send = |piece: &mut Vec<WireChunk>| {
        let plain = codec::encode(&std::mem::take(piece));
        let packed = zstd::bulk::compress(&plain, 1).unwrap_or_default();
        let payload = codec::encode(&(plain.len() as u64, packed));
        runtime.block_on(frames.send(CHUNKS, &payload)).is_ok()
    };
    for HeadChunk { labels, encoding, max, bytes: content, .. } in db.head().export_open(&in_shards) {
        if wanted.since.is_some_and(|since| max < since) {
            continue;
        }
        bytes += content.len() + labels.as_packed().len() + 16;
        piece.push(WireChunk { labels, encoding: encoding as u8, bytes: content });
        if bytes >= FRAME_BYTES {
            bytes = 0;
            if !send(&mut piece) {
                return;
            }
        }
    }
    if !piece.is_empty() && !send(&mut piece) {
        return;
    }
    let whole_from = match (view.and_then(|view| view.own.whole_from(&wanted.shards)), wanted.since) {
        (Some(held_from), _) => held_from.max(db.head().min_time()),
        // A part of the log is worth having from anybody; the open window only from one that holds it whole.
        (None, Some(since)) => Timestamp(since),
        (None, None) => return,
    };
    let _ = runtime.block_on(frames.send(END, &codec::encode(&whole_from)));
}

/// Copies shards from a peer; answers since when what came is all there is.
///
/// # Errors
/// As [`CopyError`] says.
pub async fn fetch(
    transport: &Transport,
    from: SocketAddr,
    shards: ShardSet,
    since: Option<Timestamp>,
    ingest: &Arc<Ingest>,
    telemetry: &Telemetry,
) -> Result<Timestamp, CopyError> {
    let donor = |error: String| CopyError::Donor(error);
    let began: Monotonic = clock::monotonic();
    let asked = codec::encode(&Wanted { shards, since: since.map(Timestamp::ms) });
    let asking = transport.request_stream(from, Class::Bulk, FETCH, &asked, PATIENCE);
    let mut frames = asking.await.map_err(|error| donor(error.to_string()))?;
    let mut total = 0;
    loop {
        let frame = tokio::time::timeout(PATIENCE, frames.recv()).await;
        let frame = frame.map_err(|_| donor("nothing came in time".to_owned()))?;
        let (kind, payload) =
            frame.map_err(|error| donor(error.to_string()))?.ok_or_else(|| donor("it broke off".to_owned()))?;
        match kind {
            CHUNKS => {
                total += payload.len();
                telemetry.copied_bytes.fetch_add(payload.len() as u64, std::sync::atomic::Ordering::Relaxed);
                let ingest = Arc::clone(ingest);
                let stored = tokio::task::spawn_blocking(move || store(&ingest, &payload)).await;
                stored.map_err(|error| donor(error.to_string()))??;
            }
            END => {
                let took = clock::monotonic().since(began);
                tracing::debug!(%from, bytes = total, ?took, "copied chunks");
                return codec::decode::<Timestamp, RPC_BYTES_MAX>(&payload).map_err(|error| donor(error.to_string()));
            }
            other => return Err(donor(format!("a frame of kind {other}"))),
        }
    }
}

fn store(ingest: &Ingest, payload: &[u8]) -> Result<(), CopyError> {
    let malformed = |what: &str| CopyError::Donor(format!("malformed chunks: {what}"));
    let (length, packed) =
        codec::decode::<(u64, Vec<u8>), BULK_BYTES_MAX>(payload).map_err(|error| malformed(&error.to_string()))?;
    if length > BULK_BYTES_MAX as u64 {
        return Err(malformed("too long"));
    }
    let plain = zstd::bulk::decompress(&packed, length as usize).map_err(|error| malformed(&error.to_string()))?;
    let chunks = codec::decode::<Vec<WireChunk>, BULK_BYTES_MAX>(&plain).map_err(|e| malformed(&e.to_string()))?;
    let mut batch = Batch::default();
    for WireChunk { labels, encoding, bytes } in chunks {
        let encoding = Encoding::from_byte(encoding).map_err(|error| malformed(&error.to_string()))?;
        let series = ingest.db().resolve(&labels).map_err(crate::ingest::StoreError::from)?;
        let decoded = chunk::for_each_value(encoding, &bytes, |at, value| {
            let at = Timestamp(at);
            match value() {
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
            true
        });
        decoded.map_err(|error| malformed(&error.to_string()))?;
        if batch.series.len() + batch.histograms.len() >= BATCH_SAMPLES {
            ingest.write_copied(std::mem::take(&mut batch))?;
        }
    }
    if !batch.series.is_empty() || !batch.histograms.is_empty() {
        ingest.write_copied(batch)?;
    }
    Ok(())
}
