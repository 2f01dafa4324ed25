//! Answering parts for other peers, from local storage alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::shard::ShardSet;
use promesh_model::storage::{Budget, Queryable, SelectRequest, SeriesColumns, StorageError};
use promesh_node::MeshView;
use promesh_promql::Engine;
use promesh_transport::{FrameSender, Responder};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::parts::{PartCounters, compute_here};
use crate::wire::{
    DONE, FAILED, LABEL_SETS, LIST, Listed, PART, PART_SHORT, PART_STATE, SELECT, SERIES, TEXTS, WireList, WirePart,
    WireSelect, WireSeries,
};

/// The kinds of requests that [`serve`] answers.
pub const KINDS: [u8; 3] = [SELECT, LIST, PART];
/// A state of more bytes is no gain over samples, and one frame must hold it.
const PART_BYTES_MAX: usize = 8 << 20;
/// About how many bytes go into one frame.
const PIECE_BYTES: usize = 256 << 10;

/// What answering takes.
#[derive(Clone)]
pub struct Holder {
    /// Local storage.
    pub local: Arc<dyn Queryable>,
    /// What this peer holds, as far as it knows.
    pub view: watch::Receiver<Option<Arc<MeshView>>>,
    /// Computes aggregations.
    pub engine: Arc<Engine>,
    /// Turns for computing, apart from those of this peer's own queries.
    pub turns: Arc<Semaphore>,
    /// What is counted.
    pub counters: Arc<PartCounters>,
}

/// Answers one request of one of [`KINDS`]. Runs on a thread that may block; ends when the asker is gone.
pub fn serve(holder: &Holder, kind: u8, payload: &Bytes, responder: Responder, runtime: &Handle) {
    let frames = {
        // Spawns the task that writes.
        let _inside = runtime.enter();
        responder.stream()
    };
    let answered = match kind {
        SELECT => select(&*holder.local, payload, &frames, runtime),
        LIST => list(&*holder.local, payload, &frames, runtime),
        PART => part(holder, payload, &frames, runtime),
        _ => Err(StorageError::Failed("not a read".to_owned())),
    };
    if let Err(error) = answered {
        let _ = runtime.block_on(frames.send(FAILED, error.to_string().as_bytes()));
    }
}

fn malformed(error: codec::DecodeError) -> StorageError {
    StorageError::Failed(format!("malformed request: {error}"))
}

fn send(frames: &FrameSender, kind: u8, payload: &[u8], runtime: &Handle) -> Result<(), StorageError> {
    runtime.block_on(frames.send(kind, payload)).map_err(|_| StorageError::Cancelled)
}

fn select(local: &dyn Queryable, payload: &[u8], frames: &FrameSender, runtime: &Handle) -> Result<(), StorageError> {
    let WireSelect { requests, shards, samples_max } =
        codec::decode::<WireSelect, RPC_BYTES_MAX>(payload).map_err(malformed)?;
    let requests: Vec<_> = requests.into_iter().map(crate::wire::WireRequest::into_request).collect();
    let requests = restricted(&requests, &shards);
    let mut warnings = Vec::new();
    for (index, mut cursor) in local.cursors(&requests, &Budget::new(samples_max))?.into_iter().enumerate() {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        let mut series = SeriesColumns::default();
        while cursor.next(&mut series)? {
            let series = WireSeries::of(std::mem::take(&mut series));
            bytes += series.bytes();
            piece.push(series);
            if bytes >= PIECE_BYTES {
                send(frames, SERIES, &codec::encode(&(index as u32, std::mem::take(&mut piece))), runtime)?;
                bytes = 0;
            }
        }
        if !piece.is_empty() {
            send(frames, SERIES, &codec::encode(&(index as u32, piece)), runtime)?;
        }
        warnings.extend(cursor.take_warnings());
    }
    send(frames, DONE, &codec::encode(&warnings), runtime)
}

/// Computes an aggregation, or says that its samples are to be read instead.
fn part(holder: &Holder, payload: &[u8], frames: &FrameSender, runtime: &Handle) -> Result<(), StorageError> {
    let asked = codec::decode::<WirePart, RPC_BYTES_MAX>(payload).map_err(malformed)?;
    let turn = runtime.block_on(holder.turns.acquire()).map_err(|_| StorageError::Cancelled)?;
    let view = holder.view.borrow().clone();
    let answer = compute_here(&holder.local, view.as_deref(), &holder.engine, asked);
    drop(turn);
    match answer {
        Ok(answer) => {
            let encoded = codec::encode(&answer);
            if encoded.len() > PART_BYTES_MAX {
                let why = format!("the state has {} bytes, more than {PART_BYTES_MAX}", encoded.len());
                return send(frames, PART_SHORT, why.as_bytes(), runtime);
            }
            holder.counters.served.fetch_add(1, Ordering::Relaxed);
            send(frames, PART_STATE, &encoded, runtime)
        }
        Err(error) => send(frames, PART_SHORT, error.to_string().as_bytes(), runtime),
    }
}

/// The same requests, for series of some shards.
pub(crate) fn restricted(requests: &[SelectRequest], shards: &ShardSet) -> Vec<SelectRequest> {
    let shards = Arc::new(shards.clone());
    let restrict = |request: &SelectRequest| {
        let mut request = request.clone();
        request.hints.shards = Some(Arc::clone(&shards));
        request
    };
    requests.iter().map(restrict).collect()
}

fn list(local: &dyn Queryable, payload: &[u8], frames: &FrameSender, runtime: &Handle) -> Result<(), StorageError> {
    let wanted = codec::decode::<WireList, RPC_BYTES_MAX>(payload).map_err(malformed)?;
    let (request, budget) = (wanted.request(), Budget::unlimited());
    let warnings = match &wanted.what {
        Listed::Series => {
            let found = local.series(&request, &budget)?;
            for piece in found.items.chunks(1000) {
                send(frames, LABEL_SETS, &codec::encode(piece), runtime)?;
            }
            found.warnings
        }
        texts => {
            let found = match texts {
                Listed::Values(name) => local.label_values(name, &request, &budget)?,
                _ => local.label_names(&request, &budget)?,
            };
            for piece in found.items.chunks(1000) {
                send(frames, TEXTS, &codec::encode(piece), runtime)?;
            }
            found.warnings
        }
    };
    send(frames, DONE, &codec::encode(&warnings), runtime)
}
