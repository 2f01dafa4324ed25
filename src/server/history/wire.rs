//! What peers say to each other about sealed windows, and answering it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::digest::SampleDigest;
use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::Budget;
use promesh_model::{ShardId, Timestamp};
use promesh_transport::{Class, FrameReceiver, RequestError, Responder, Transport};
use promesh_tsdb::chunk::{self, Chunk, Encoding};
use promesh_tsdb::{Db, Window, WindowSeries};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::copy::{Sending, unpack};

/// "Of which sealed windows do you have anything?" Answered with their first and last instants.
const WINDOWS: u8 = 77;
/// "What are the digests of these shards in this window?" Answered by shard; shards without samples are not named.
const DIGESTS: u8 = 78;
/// "Send me the series of these shards in this window that I do not have as you have them."
const SERIES: u8 = 79;
/// "I have samples of this window that I was not told by the mesh: compare it with me." Answered, empty, once that is done.
pub const COMPARE: u8 = 83;
/// "I have late samples of these shards in this window: compare them with me." Answered with the shards of which the one who
/// is asked has everything then.
pub const COMPARE_SHARDS: u8 = 86;
/// The request kinds about sealed windows.
pub const KINDS: [u8; 5] = [WINDOWS, DIGESTS, SERIES, COMPARE, COMPARE_SHARDS];
/// Pieces of an answer to [`SERIES`], and its end.
const PIECE: u8 = 80;
const END: u8 = 81;

/// A donor reads a whole window before it answers with digests.
const DIGEST_PATIENCE: Duration = Duration::from_secs(120);
/// Whoever is asked to compare may have to fetch, one window after the other.
const COMPARE_PATIENCE: Duration = Duration::from_secs(300);
/// Between two pieces of a window.
const PIECE_PATIENCE: Duration = Duration::from_secs(60);
const WINDOWS_PATIENCE: Duration = Duration::from_secs(5);
/// So many digests of series fit in a request with room to spare; with more the shards are asked for whole.
const KNOWN_MAX: usize = 300_000;
/// Windows that one peer can name: years of them.
const WINDOWS_MAX: usize = 1 << 17;

#[derive(Serialize, Deserialize)]
struct Asked {
    start: i64,
    end: i64,
    shards: ShardSet,
    /// The digests of series that the asker has, by the hash of their labels.
    known: Vec<(u128, u64, u128)>,
}

#[derive(Serialize, Deserialize)]
struct WireSeries {
    labels: Labels,
    /// Encoding, first and last instant, bytes.
    chunks: Vec<(u8, i64, i64, Vec<u8>)>,
}

/// By shard.
pub type Digests = std::collections::BTreeMap<ShardId, SampleDigest>;

/// Answers a request about sealed windows. Runs on a thread that may block.
pub fn serve(db: &Db, kind: u8, payload: &Bytes, responder: Responder, runtime: &Handle) {
    if kind == WINDOWS {
        let windows = db.sealed_windows(crate::clock::now());
        let named: Vec<(i64, i64)> = windows.iter().map(|window| (window.start.ms(), window.end.ms())).collect();
        let _ = runtime.block_on(responder.respond(WINDOWS, &codec::encode(&named)));
        return;
    }
    let Ok(asked) = codec::decode::<Asked, BULK_BYTES_MAX>(payload) else { return };
    let window = Window { start: Timestamp(asked.start), end: Timestamp(asked.end) };
    let refuse = |responder: Responder, why: &str| drop(runtime.block_on(responder.refuse(why)));
    if kind == DIGESTS {
        match db.shard_digests(&asked.shards, window, &Budget::unlimited()) {
            Ok(digests) => {
                let named: Vec<(u16, u64, u128)> = digests.iter().map(|(s, d)| (s.0, d.count, d.sum)).collect();
                let _ = runtime.block_on(responder.respond(DIGESTS, &codec::encode(&named)));
            }
            Err(error) => refuse(responder, &error.to_string()),
        }
        return;
    }
    let known: HashMap<u128, SampleDigest> =
        asked.known.into_iter().map(|(hash, count, sum)| (hash, SampleDigest { count, sum })).collect();
    let frames = {
        let _inside = runtime.enter();
        responder.stream()
    };
    let mut sending = Sending::new(frames, runtime, PIECE);
    let sent = db.export_window(&asked.shards, window, &known, &Budget::unlimited(), |(labels, chunks)| {
        let bytes = chunks.iter().map(|chunk| chunk.bytes.len() + 24).sum::<usize>() + labels.as_packed().len();
        let chunks = chunks.into_iter().map(|chunk| (chunk.encoding as u8, chunk.min, chunk.max, chunk.bytes));
        sending.push(WireSeries { labels, chunks: chunks.collect() }, bytes)
    });
    match sent {
        Ok(()) if sending.flush() => drop(runtime.block_on(sending.frames.send(END, &[]))),
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "a window could not be read for another peer"),
    }
}

/// The sealed windows that a peer has anything of; none when it does not know the question.
///
/// # Errors
/// Why it does not answer.
pub async fn windows(transport: &Transport, of: SocketAddr) -> Result<Vec<Window>, String> {
    let (kind, bytes) =
        transport.request(of, Class::Bulk, WINDOWS, &[], WINDOWS_PATIENCE).await.map_err(|error| error.to_string())?;
    if kind != WINDOWS {
        return Ok(Vec::new());
    }
    let named = codec::decode::<Vec<(i64, i64)>, BULK_BYTES_MAX>(&bytes).map_err(|error| error.to_string())?;
    let window = |(start, end): &(i64, i64)| Window { start: Timestamp(*start), end: Timestamp(*end) };
    Ok(named.iter().take(WINDOWS_MAX).filter(|(start, end)| start < end).map(window).collect())
}

/// Has a peer compare a window with this one.
///
/// # Errors
/// Why it does not.
pub async fn compare(transport: &Transport, of: SocketAddr, window: Window) -> Result<(), String> {
    let asked = codec::encode(&(window.start.ms(), window.end.ms()));
    let answer = transport.request(of, Class::Bulk, COMPARE, &asked, DIGEST_PATIENCE).await;
    match answer.map_err(|error| error.to_string())? {
        (COMPARE, _) => Ok(()),
        (kind, _) => Err(format!("an answer of kind {kind}")),
    }
}

/// The window that a peer is to compare with the asker.
///
/// # Errors
/// When the bytes are no window.
pub fn window(payload: &[u8]) -> Result<Window, String> {
    let (start, end) =
        codec::decode::<(i64, i64), { codec::RPC_BYTES_MAX }>(payload).map_err(|error| error.to_string())?;
    Ok(Window { start: Timestamp(start), end: Timestamp(end) })
}

/// Has a peer compare some shards of a window with this one; answers what it has of them now, `None` when it does not know
/// the request.
///
/// # Errors
/// Why it does not.
pub async fn compare_shards(
    transport: &Transport,
    of: SocketAddr,
    window: Window,
    shards: &ShardSet,
) -> Result<Option<ShardSet>, String> {
    let asked = codec::encode(&(window.start.ms(), window.end.ms(), shards));
    match transport.request(of, Class::Bulk, COMPARE_SHARDS, &asked, COMPARE_PATIENCE).await {
        Ok((COMPARE_SHARDS, bytes)) => {
            codec::decode::<ShardSet, { codec::RPC_BYTES_MAX }>(&bytes).map(Some).map_err(|error| error.to_string())
        }
        Ok((kind, _)) => Err(format!("an answer of kind {kind}")),
        Err(RequestError::Refused(why)) if why.contains("are not known here") => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The window, and the shards of it, that a peer is to compare with the asker.
///
/// # Errors
/// When the bytes are not that.
pub fn window_shards(payload: &[u8]) -> Result<(Window, ShardSet), String> {
    let (start, end, shards) =
        codec::decode::<(i64, i64, ShardSet), { codec::RPC_BYTES_MAX }>(payload).map_err(|error| error.to_string())?;
    Ok((Window { start: Timestamp(start), end: Timestamp(end) }, shards))
}

/// A peer's digests of some shards in a window.
///
/// # Errors
/// Why it does not answer.
pub async fn digests(
    transport: &Transport,
    of: SocketAddr,
    shards: &ShardSet,
    window: Window,
) -> Result<Digests, String> {
    let (start, end) = (window.start.ms(), window.end.ms());
    let asked = codec::encode(&Asked { start, end, shards: shards.clone(), known: Vec::new() });
    let answer = transport.request(of, Class::Bulk, DIGESTS, &asked, DIGEST_PATIENCE).await;
    let (kind, bytes) = answer.map_err(|error| error.to_string())?;
    if kind != DIGESTS {
        return Err("it does not say".to_owned());
    }
    let named = codec::decode::<Vec<(u16, u64, u128)>, BULK_BYTES_MAX>(&bytes).map_err(|error| error.to_string())?;
    Ok(named.into_iter().map(|(shard, count, sum)| (ShardId(shard), SampleDigest { count, sum })).collect())
}

/// Series of a window as they come from a peer.
pub struct Incoming(FrameReceiver);

impl Incoming {
    /// Asks a peer for the series of some shards in a window that it has otherwise than `known` says.
    ///
    /// # Errors
    /// Why it does not answer.
    pub async fn ask(
        transport: &Transport,
        of: SocketAddr,
        shards: &ShardSet,
        window: Window,
        known: std::collections::BTreeMap<u128, SampleDigest>,
    ) -> Result<Incoming, String> {
        let known = if known.len() > KNOWN_MAX { Default::default() } else { known };
        let known = known.into_iter().map(|(hash, digest)| (hash, digest.count, digest.sum)).collect();
        let (start, end) = (window.start.ms(), window.end.ms());
        let asked = codec::encode(&Asked { start, end, shards: shards.clone(), known });
        let asking = transport.request_stream(of, Class::Bulk, SERIES, &asked, PIECE_PATIENCE);
        asking.await.map(Incoming).map_err(|error| error.to_string())
    }

    /// The next piece, still packed; `None` once everything came.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let frame = tokio::time::timeout(PIECE_PATIENCE, self.0.recv()).await;
        let frame = frame.map_err(|_| "nothing came in time".to_owned())?.map_err(|error| error.to_string())?;
        match frame {
            Some((PIECE, payload)) => Ok(Some(payload)),
            Some((END, _)) => Ok(None),
            Some((kind, _)) => Err(format!("a frame of kind {kind}")),
            None => Err("it broke off".to_owned()),
        }
    }
}

/// Reads a piece.
///
/// # Errors
/// When it is not what an honest peer sends.
pub fn series(piece: &[u8]) -> Result<Vec<WindowSeries>, String> {
    let read = |one: WireSeries| {
        let chunk = |(encoding, min, max, bytes)| -> Result<Chunk, chunk::ChunkError> {
            Ok(Chunk { encoding: Encoding::from_byte(encoding)?, min, max, bytes })
        };
        let chunks: Result<Vec<Chunk>, _> = one.chunks.into_iter().map(chunk).collect();
        chunks.map(|chunks| (one.labels, chunks)).map_err(|error| error.to_string())
    };
    unpack::<WireSeries>(piece).map_err(|error| error.to_string())?.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let shards: ShardSet = [ShardId(70)].into_iter().collect();
        let late = (0i64, 7_200_000i64, shards.clone());
        let asked = Asked { start: 0, end: 7_200_000, shards: shards.clone(), known: vec![(7, 2, 9)] };
        let series = WireSeries { labels: Labels::from_pairs([("a", "b")]), chunks: vec![(1, 5, 6, vec![1, 2])] };
        let mut seen = String::new();
        for (kind, name, bytes) in [
            (WINDOWS, "windows", codec::encode(&vec![(0i64, 7_200_000i64)])),
            (DIGESTS, "asked", codec::encode(&asked)),
            (DIGESTS, "digests", codec::encode(&vec![(70u16, 2u64, 9u128)])),
            (SERIES, "asked", codec::encode(&asked)),
            (PIECE, "piece", codec::encode(&vec![series])),
            (END, "end", Vec::new()),
            (COMPARE, "asked", codec::encode(&(0i64, 7_200_000i64))),
            (COMPARE_SHARDS, "asked", codec::encode(&late)),
            (COMPARE_SHARDS, "has now", codec::encode(&shards)),
        ] {
            let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            seen.push_str(&format!("{kind} {name} {shown}\n"));
        }
        let read = codec::decode::<Asked, BULK_BYTES_MAX>(&codec::encode(&asked)).expect("own bytes");
        assert_eq!(codec::encode(&read), codec::encode(&asked));
        expect_test::expect![[r#"
            77 windows 0100fc00badb00
            78 asked 00fc00badb0000014601070209
            78 digests 01460209
            79 asked 00fc00badb0000014601070209
            80 piece 01040161016201010a0c020102
            81 end 
            83 asked 00fc00badb00
            86 asked 00fc00badb00000146
            86 has now 000146
        "#]]
        .assert_eq(&seen);
    }
}
