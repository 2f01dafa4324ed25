//! Reading the log back into the head: one thread scans, several decode, each with lanes of its own.

mod runs;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use promesh_model::ingest::{Batch, SeriesIndex, SeriesRef};
use promesh_model::time::Timestamp;

use crate::fs::Fs;
use crate::head::{AppendOutcome, Head};
use crate::log::{FrameRef, Log, LogError, LogPosition, ScanReport};
use runs::Runs;

/// Understands the frames that the caller wrote into the log.
pub trait ReplayDecoder: Send {
    /// Which lane a frame belongs to: frames of one lane are decoded in order and by one decoder. Frames that name
    /// others as their base are of the same lane.
    fn lane(&self, kind: u8, payload: &[u8]) -> u64;

    /// What a frame says.
    ///
    /// # Errors
    /// Why it says nothing: it is counted, and replay goes on.
    fn decode(&mut self, kind: u8, payload: &[u8], index: &dyn SeriesIndex) -> Result<Option<Replayed>, String>;
}

/// Makes decoders: one for each thread of replay.
pub type DecoderFactory<'a> = &'a (dyn Fn() -> Box<dyn ReplayDecoder> + Sync);

/// What a frame of the log meant when it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Replayed {
    /// A batch taken in as its producer's newest.
    Append(Batch),
    /// A batch that came late from a peer.
    Late(Batch),
    /// A batch that stands in place of another for the same slot.
    Replace {
        /// The series of the batch that lost.
        loser_series: Vec<SeriesRef>,
        /// The slot of both.
        slot: Timestamp,
        /// The batch that stands.
        batch: Batch,
    },
}

/// What replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// What the files looked like.
    pub scan: ScanReport,
    /// Samples taken, late ones included.
    pub samples: u64,
    /// Samples that were there already.
    pub duplicates: u64,
    /// Samples refused; most of them were refused the first time too.
    pub refused: u64,
    /// Samples that are in blocks.
    pub in_blocks: u64,
    /// Frames that said nothing, and one example of why.
    pub undecodable: u64,
    /// See `undecodable`.
    pub first_error: Option<String>,
}

/// What is in blocks already: samples before `before` in frames before `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flushed {
    /// The log's end when the newest block was made.
    pub through: LogPosition,
    /// The end of that block.
    pub before: Timestamp,
}

impl Default for Flushed {
    fn default() -> Self {
        Flushed { through: LogPosition::default(), before: Timestamp::MIN }
    }
}

/// How far replay is, for whoever waits for it. Numbers of segments of the log; all 0 until it begins.
#[derive(Debug, Default)]
pub struct ReplayProgress {
    first: AtomicU64,
    last: AtomicU64,
    current: AtomicU64,
}

impl ReplayProgress {
    /// The first segment to read, the last, and the one that is being read.
    pub fn segments(&self) -> [u64; 3] {
        [&self.first, &self.last, &self.current].map(|number| number.load(Ordering::Relaxed))
    }

    fn begin(&self, segments: &[u64]) {
        let (first, last) = (segments.first().copied().unwrap_or(0), segments.last().copied().unwrap_or(0));
        self.first.store(first, Ordering::Relaxed);
        self.last.store(last, Ordering::Relaxed);
        self.reach(first);
    }

    fn reach(&self, segment: u64) {
        self.current.store(segment, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Tally {
    report: ReplayReport,
    newest: BTreeMap<u64, Timestamp>,
}

impl Tally {
    fn note_newest(&mut self, frame: &FrameRef, newest: Timestamp) {
        let known = self.newest.entry(frame.position.segment).or_insert(newest);
        *known = (*known).max(newest);
    }
}

/// Frames sent to a thread at once.
const GROUP_FRAMES: usize = 64;
/// Groups waiting for a thread: bounds what a scan that runs ahead holds.
const GROUPS_WAITING: usize = 8;

/// Opens the log and reads it into the head.
///
/// # Errors
/// As [`Log::open`].
pub fn replay(
    fs: Arc<dyn Fs>,
    dir: &Path,
    head: &Head,
    decoders: DecoderFactory<'_>,
    threads: usize,
    flushed: Flushed,
    progress: &ReplayProgress,
) -> Result<(Log, ReplayReport), LogError> {
    progress.begin(&Log::numbers(&*fs, dir));
    let tally = Mutex::new(Tally::default());
    let threads = threads.max(1);
    let opened = std::thread::scope(|scope| {
        let mut lanes: Vec<Lane> = (0..threads)
            .map(|_| {
                let (sender, receiver) = sync_channel(GROUPS_WAITING);
                let tally = &tally;
                scope.spawn(move || work(&receiver, head, decoders(), flushed, tally));
                Lane { sender, group: Vec::new() }
            })
            .collect();
        let router = decoders();
        let opened = Log::open(fs, dir, |frame| {
            progress.reach(frame.position.segment);
            let lane = router.lane(frame.kind, frame.payload()) % threads as u64;
            lanes[lane as usize].push(frame);
        });
        lanes.iter_mut().for_each(Lane::send);
        opened
    });
    let (log, scan) = opened?;
    let Tally { mut report, newest } = tally.into_inner();
    report.scan = scan;
    newest.into_iter().for_each(|(segment, newest)| log.note_newest(segment, newest));
    Ok((log, report))
}

struct Lane {
    sender: SyncSender<Vec<FrameRef>>,
    group: Vec<FrameRef>,
}

impl Lane {
    fn push(&mut self, frame: FrameRef) {
        self.group.push(frame);
        if self.group.len() == GROUP_FRAMES {
            self.send();
        }
    }

    fn send(&mut self) {
        // A thread that is gone panicked; leaving the scope reports that.
        let _ = self.sender.send(std::mem::take(&mut self.group));
    }
}

fn work(
    receiver: &Receiver<Vec<FrameRef>>,
    head: &Head,
    mut decoder: Box<dyn ReplayDecoder>,
    flushed: Flushed,
    tally: &Mutex<Tally>,
) {
    let mut mine = Tally::default();
    let (mut runs, mut outcome) = (Runs::default(), AppendOutcome::default());
    for frame in receiver.iter().flatten() {
        match decoder.decode(frame.kind, frame.payload(), head) {
            Ok(None) => {}
            Ok(Some(Replayed::Append(batch))) if runs::is_plain(&batch) && batch.slot >= head.min_time() => {
                mine.note_newest(&frame, batch.slot);
                runs.hold(batch, false, head, &mut outcome);
            }
            Ok(Some(Replayed::Late(batch))) if runs::is_plain(&batch) && batch.slot >= head.min_time() => {
                mine.note_newest(&frame, batch.slot);
                runs.hold(batch, true, head, &mut outcome);
            }
            Ok(Some(replayed)) => {
                runs.take_in(head, &mut outcome);
                outcome.add(apply(replayed, &frame, head, flushed, &mut mine));
            }
            Err(why) => {
                mine.report.undecodable += 1;
                mine.report.first_error.get_or_insert(why);
            }
        }
        if !outcome.rejected.is_empty() {
            mine.report.refused += std::mem::take(&mut outcome.rejected).len() as u64;
        }
    }
    runs.take_in(head, &mut outcome);
    mine.report.samples += outcome.appended + outcome.late;
    mine.report.duplicates += outcome.duplicates;
    mine.report.refused += outcome.rejected.len() as u64;
    let mut all = tally.lock();
    let Tally { report, newest } = mine;
    all.report.samples += report.samples;
    all.report.duplicates += report.duplicates;
    all.report.refused += report.refused;
    all.report.in_blocks += report.in_blocks;
    all.report.undecodable += report.undecodable;
    all.report.first_error = all.report.first_error.take().or(report.first_error);
    for (segment, at) in newest {
        let known = all.newest.entry(segment).or_insert(at);
        *known = (*known).max(at);
    }
}

fn apply(replayed: Replayed, frame: &FrameRef, head: &Head, flushed: Flushed, tally: &mut Tally) -> AppendOutcome {
    let batch = match &replayed {
        Replayed::Append(batch) | Replayed::Late(batch) | Replayed::Replace { batch, .. } => batch,
    };
    let (oldest, newest) = instants(batch);
    tally.note_newest(frame, newest);
    let mut outcome = AppendOutcome::default();
    let floor = head.min_time();
    if oldest >= floor {
        outcome = match &replayed {
            Replayed::Append(batch) => head.append_replayed(batch),
            Replayed::Late(batch) => head.append_late(batch),
            Replayed::Replace { loser_series, slot, batch } => head.replace(loser_series, *slot, batch),
        };
    } else {
        let (old, rest) = split(batch, floor);
        let (in_blocks, perhaps) = match frame.position < flushed.through {
            true => split(&old, flushed.before),
            false => (Batch::default(), old),
        };
        tally.report.in_blocks += sample_count(&in_blocks);
        // What is in a block after all is merged with it, sample for sample.
        outcome.add(head.append_late(&perhaps));
        if sample_count(&rest) > 0 || !rest.exemplars.is_empty() || !rest.metadata.is_empty() {
            outcome.add(head.append_replayed(&rest));
        }
    }
    outcome
}

/// The oldest and the newest instant of a batch; the slot if it has no samples.
pub fn instants(batch: &Batch) -> (Timestamp, Timestamp) {
    let (mut oldest, mut newest) = (Timestamp::MAX, Timestamp::MIN);
    let own = batch.timestamps.iter().map(|(_, at)| *at);
    let histograms = batch.histograms.iter().map(|sample| sample.timestamp);
    let slot = (batch.timestamps.len() < batch.series.len()).then_some(batch.slot);
    for at in own.chain(histograms).chain(slot) {
        oldest = oldest.min(at);
        newest = newest.max(at);
    }
    if oldest > newest { (batch.slot, batch.slot) } else { (oldest, newest) }
}

fn sample_count(batch: &Batch) -> u64 {
    (batch.series.len() + batch.histograms.len()) as u64
}

/// The samples before an instant, and everything else.
fn split(batch: &Batch, before: Timestamp) -> (Batch, Batch) {
    let mut old = Batch { slot: batch.slot, ..Batch::default() };
    let mut rest = Batch {
        slot: batch.slot,
        exemplars: batch.exemplars.clone(),
        metadata: batch.metadata.clone(),
        ..Batch::default()
    };
    let mut own = batch.timestamps.iter().peekable();
    let mut starts = batch.start_timestamps.iter().peekable();
    for (index, (series, value)) in batch.series.iter().zip(&batch.values).enumerate() {
        let at = own.next_if(|(place, _)| *place as usize == index).map_or(batch.slot, |(_, at)| *at);
        let side = if at < before { &mut old } else { &mut rest };
        let place = side.series.len() as u32;
        side.timestamps.push((place, at));
        side.start_timestamps
            .extend(starts.next_if(|(own, _)| *own as usize == index).map(|(_, start)| (place, *start)));
        side.series.push(*series);
        side.values.push(*value);
    }
    for sample in &batch.histograms {
        let side = if sample.timestamp < before { &mut old } else { &mut rest };
        side.histograms.push(sample.clone());
    }
    (old, rest)
}
