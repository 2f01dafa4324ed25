//! The way of a batch: scraped or received, judged by the ledger, framed, logged, appended, streamed.
//!
//! Sources are spread over lanes, each under a lock of its own; a lane keeps what it takes to frame its sources' batches
//! and to judge their slots. Own batches are framed once, for the log and for all holders. Received ones go into our log as
//! they came where they read there: a segment of the log must read from its own start, and ours may begin elsewhere than
//! the writer's. Else they are framed anew, until the writer's next key frame.

mod copied;
mod pushed;
mod received;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_model::frame;
use promesh_model::ingest::{Batch, IngestError, SeriesIndex, SeriesRef};
use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::{PeerId, ShardId, Timestamp};
use promesh_replication::framing::{self, KIND_BATCH, KIND_COPY, KIND_PUSH, KIND_SETTLED};
use promesh_replication::{BatchHeader, Disposition, Framing, Ledger, Order, Origin, SourceId, Vanishing};
use promesh_transport::FrameSender;
use promesh_tsdb::{
    AppendOutcome, Db, Intake, LogError, Rejected, ReplayDecoder, Replayed, SampleIndex, WriteError, Written,
};
use thiserror::Error;
use tokio::sync::oneshot;

pub use self::copied::Remembered;
pub use self::pushed::Pushed;
use crate::clock;
use crate::pushing::acks::Acks;

const LANES: usize = 32;

/// Why a batch was not stored.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A series was refused, or collected meanwhile.
    #[error(transparent)]
    Series(#[from] IngestError),
    /// The log refused: nothing is stored.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// One holder that our batches stream to.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Who.
    pub peer: PeerId,
    /// Which shards it asked for.
    pub shards: ShardSet,
    /// Where its frames go.
    pub stream: FrameSender,
}

#[derive(Debug, Default)]
struct Lane {
    own: Framing,
    relay: Framing,
    ledger: Ledger,
    /// The log segment that both build on.
    segment: u64,
}

/// Called with the header of every batch that was stored.
pub type Appended = Box<dyn Fn(BatchHeader) + Send + Sync>;

/// Called when the disk begins to refuse what is to be stored.
pub type Refused = Box<dyn Fn(&StoreError) + Send + Sync>;

/// Batches in.
pub struct Ingest {
    db: Arc<Db>,
    lanes: Arc<Lanes>,
    origin: Origin,
    sequence: AtomicU64,
    subscribers: ArcSwap<Vec<Subscriber>>,
    appended: Appended,
    /// Batches that found no room in a holder's stream.
    dropped: AtomicU64,
    streamed_bytes: AtomicU64,
    streamed_samples: AtomicU64,
    /// Which pushed batches others have.
    pub acks: Acks,
    /// Is shown every batch of ours that is in the log.
    tap: std::sync::OnceLock<Tap>,
    /// Whether the disk refused what was to be stored, and nobody said since that it takes it again.
    refuses: AtomicBool,
    refused: Refused,
}

/// Called with every own batch, in the order of its lane. It must not block.
pub type Tap = Box<dyn Fn(ShardId, &Batch) + Send + Sync>;

/// What became of a pushed batch.
pub struct WrittenPush {
    /// What was refused, by its place in the batch as it came.
    pub rejected: Vec<Rejected>,
    /// What is in the log, and whoever says that another log has it too; none when all was refused.
    pub written: Option<(BatchHeader, Batch, Option<oneshot::Receiver<PeerId>>)>,
}

/// The lanes, made before the log is read back, so that they remember what it says.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Mutex<Lane>>,
    /// Which windows were pushed to, by the log and since.
    pub pushed: Pushed,
}

impl Default for Lanes {
    fn default() -> Self {
        let pushed = Pushed::new(promesh_tsdb::DbOptions::default().head.window_ms);
        Lanes { lanes: (0..LANES).map(|_| Mutex::default()).collect(), pushed }
    }
}

impl Lanes {
    fn of(&self, source: SourceId) -> &Mutex<Lane> {
        &self.lanes[(source.0 % LANES as u128) as usize]
    }
}

/// Reads our own log back at start.
pub struct LogDecoder(pub Arc<Lanes>);

impl ReplayDecoder for LogDecoder {
    fn lane(&self, _: u8, payload: &[u8]) -> u64 {
        framing::peek(payload).map_or(0, |(header, _)| (header.source.0 % LANES as u128) as u64)
    }

    fn decode(&mut self, kind: u8, payload: &[u8], index: &dyn SeriesIndex) -> Result<Option<Replayed>, String> {
        if kind == KIND_COPY {
            let copied = Framing::new().decode(payload, index).map_err(|error| error.to_string())?;
            return Ok(Some(Replayed::Late(copied.batch)));
        }
        if kind == KIND_PUSH {
            let (header, _) = framing::peek(payload).map_err(|error| error.to_string())?;
            let mut lane = self.0.of(header.source).lock();
            let pushed = lane.relay.decode(payload, index).map_err(|error| error.to_string())?;
            drop(lane);
            self.0.pushed.note_replayed(header.shard, &pushed.batch, false);
            return Ok(Some(Replayed::Late(pushed.batch)));
        }
        if kind != KIND_BATCH && kind != KIND_SETTLED {
            return Ok(None);
        }
        let (header, _) = framing::peek(payload).map_err(|error| error.to_string())?;
        let mut lane = self.0.of(header.source).lock();
        let mut alone = Framing::new();
        let framing = if kind == KIND_SETTLED { &mut alone } else { &mut lane.relay };
        let decoded = framing.decode(payload, index).map_err(|error| error.to_string())?;
        let disposition = lane.ledger.admit(&header);
        let batch = decoded.batch;
        self.0.pushed.note_replayed(header.shard, &batch, true);
        Ok(match disposition {
            Disposition::Append => Some(Replayed::Append(batch)),
            Disposition::Late => Some(Replayed::Late(batch)),
            Disposition::Replace(loser) => {
                let loser_series = lane.series_of(loser.origin, header.source, header.shard).unwrap_or_default();
                Some(Replayed::Replace { loser_series, slot: header.slot, batch })
            }
            Disposition::Ignore => None,
        })
    }
}

impl Lane {
    /// What the newest batch of a stream contained, whoever wrote it.
    fn series_of(&self, origin: Origin, source: SourceId, shard: ShardId) -> Option<Vec<SeriesRef>> {
        let own = self.own.newest_series(origin, source, shard);
        own.or_else(|| self.relay.newest_series(origin, source, shard))
    }

    /// A new segment begins with key frames.
    fn enter_segment(&mut self, segment: u64) {
        if self.segment != segment {
            self.segment = segment;
            self.own.want_keys(|_| true);
            self.relay.want_keys(|_| true);
        }
    }
}

/// Which stream's memory a frame builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Book {
    /// That of our own batches.
    Own,
    /// That of what others wrote.
    Relay,
    /// None: the frame stands alone.
    None,
}

/// How a batch becomes a frame.
struct Framed {
    kind: u8,
    book: Book,
    /// What the batch before had, if another origin wrote it.
    before: Option<Vec<SeriesRef>>,
    /// What becomes of series that the batch before had and this one has not.
    vanishing: Vanishing,
}

impl Framed {
    fn plain(kind: u8, book: Book) -> Framed {
        Framed { kind, book, before: None, vanishing: Vanishing::Unmarked }
    }
}

/// What an own batch is, besides its samples.
#[derive(Clone, Copy, Debug)]
pub struct OwnBatch {
    /// What produced it.
    pub source: SourceId,
    /// The shard of the source itself; parts in other shards follow.
    pub shard: ShardId,
    /// The writer's rank, as the mind saw it.
    pub rank: u8,
    /// Whether the scrape failed.
    pub failed: bool,
    /// What becomes of series that the batch before had and this one has not.
    pub vanishing: Vanishing,
}

impl Ingest {
    /// Ingestion into a database whose log was read back with these lanes.
    pub fn new(db: Arc<Db>, lanes: Arc<Lanes>, origin: Origin, appended: Appended, refused: Refused) -> Ingest {
        Ingest {
            db,
            lanes,
            origin,
            sequence: AtomicU64::new(0),
            subscribers: ArcSwap::default(),
            appended,
            dropped: AtomicU64::new(0),
            streamed_bytes: AtomicU64::new(0),
            streamed_samples: AtomicU64::new(0),
            acks: Acks::default(),
            tap: std::sync::OnceLock::new(),
            refuses: AtomicBool::new(false),
            refused,
        }
    }

    /// Whether the disk refused what was to be stored, and [`Ingest::tries_again`] was not called since.
    pub fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// The disk is believed to take what is to be stored: its next refusal is told anew.
    pub fn tries_again(&self) {
        self.refuses.store(false, Ordering::Relaxed);
    }

    /// Shows every own batch from now on to this one. Set once.
    pub fn set_tap(&self, tap: Tap) {
        let _ = self.tap.set(tap);
    }

    /// The database.
    pub fn db(&self) -> &Arc<Db> {
        &self.db
    }

    /// The newest slot of a source, and whether its batch is this life's own.
    pub fn newest(&self, source: SourceId, shard: ShardId) -> Option<(Timestamp, bool)> {
        let newest = self.lanes.of(source).lock().ledger.newest(source, shard);
        newest.map(|(slot, order)| (slot, order.origin == self.origin))
    }

    /// Batches that found no room in a holder's stream, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Bytes of own batches streamed to holders, since the start.
    pub fn streamed_bytes(&self) -> u64 {
        self.streamed_bytes.load(Ordering::Relaxed)
    }

    /// Samples in them.
    pub fn streamed_samples(&self) -> u64 {
        self.streamed_samples.load(Ordering::Relaxed)
    }

    /// Makes the holders these. Streams in shards that a holder newly asks for begin with key frames.
    pub fn set_subscribers(&self, subscribers: Vec<Subscriber>, fresh: &ShardSet) {
        for lane in &self.lanes.lanes {
            lane.lock().own.want_keys(|shard| fresh.contains(shard));
        }
        self.subscribers.store(Arc::new(subscribers));
    }

    /// Who our batches stream to.
    pub fn subscribers(&self) -> Arc<Vec<Subscriber>> {
        self.subscribers.load_full()
    }

    /// Stores and streams a batch of ours; cut into parts where its series lie in several shards.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn write_own(&self, own: OwnBatch, batch: Batch) -> Result<AppendOutcome, StoreError> {
        let mut outcome = AppendOutcome::default();
        let slot = batch.slot;
        let mut parts = self.parts(own.source, own.shard, batch);
        if own.vanishing != Vanishing::Unmarked {
            parts.extend(self.vanished_parts(own.source, slot, &parts));
        }
        for (shard, part) in parts {
            outcome.add(self.write_part(&own, shard, part)?);
        }
        Ok(outcome)
    }

    /// Empty parts for the shards in which the source had series in its batch before, and has none in this one: a group
    /// that is gone, or a target whose series name other instances and that does not answer. Their series end with it.
    fn vanished_parts(&self, source: SourceId, slot: Timestamp, parts: &[(ShardId, Batch)]) -> Vec<(ShardId, Batch)> {
        let lane = self.lanes.of(source).lock();
        let known = lane.ledger.shards(source);
        if known.len() <= 1 {
            return Vec::new();
        }
        let gone = known.iter().filter(|shard| {
            let newest = lane.ledger.newest(source, **shard);
            let had = |(_, order): (Timestamp, Order)| lane.series_of(order.origin, source, **shard);
            !parts.iter().any(|(written, _)| written == *shard)
                && newest.and_then(had).is_some_and(|series| !series.is_empty())
        });
        gone.map(|shard| (*shard, Batch { slot, ..Batch::default() })).collect()
    }

    /// Most batches lie in one shard whole: then nothing is copied.
    fn parts(&self, source: SourceId, home: ShardId, batch: Batch) -> Vec<(ShardId, Batch)> {
        let shard = |series: &SeriesRef| self.db.labels(*series).map_or(home, |labels| shard_of(&labels));
        let floats_at_home = self.lanes.of(source).lock().own.is_newest_list(self.origin, source, home, &batch.series)
            || batch.series.iter().all(|series| shard(series) == home);
        if floats_at_home && batch.histograms.iter().all(|sample| shard(&sample.series) == home) {
            return vec![(home, batch)];
        }
        split(batch, home, shard)
    }

    fn write_part(&self, own: &OwnBatch, shard: ShardId, mut batch: Batch) -> Result<AppendOutcome, StoreError> {
        let mut lane = self.lanes.of(own.source).lock();
        let order = Order { failed: own.failed, rank: own.rank, origin: self.origin };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let header = BatchHeader { source: own.source, shard, slot: batch.slot, order, sequence };
        let newest = lane.ledger.newest(own.source, shard);
        let before = match newest {
            Some((_, order)) if order.origin != self.origin => lane.series_of(order.origin, own.source, shard),
            _ => None,
        };
        let disposition = lane.ledger.admit(&header);
        if disposition == Disposition::Ignore {
            return Ok(AppendOutcome::default());
        }
        let how = Framed { kind: KIND_BATCH, book: Book::Own, before, vanishing: own.vanishing };
        let recorded =
            self.record(&mut lane, how, &header, &mut batch, |lane, batch| intake(disposition, lane, &header, batch));
        let (written, payload) = recorded.inspect_err(|_| lane.ledger.withdraw(&header, disposition))?;
        self.lanes.pushed.note_scraped(shard, &batch, clock::wall());
        if let Some((_, order)) = newest
            && order.origin != self.origin
        {
            lane.relay.forget(order.origin, own.source, shard);
        }
        self.stream(shard, KIND_BATCH, &payload, batch.series.len() + batch.histograms.len());
        if let Some(tap) = self.tap.get() {
            tap(shard, &batch);
        }
        drop(lane);
        (self.appended)(header);
        Ok(written.outcome)
    }

    /// Frames a batch for the segment that the log is in and writes it; answers the frame's payload too. A segment may be
    /// cut between the two: then the frame would not read from its segment's start, and is made anew.
    fn record(
        &self,
        lane: &mut Lane,
        how: Framed,
        header: &BatchHeader,
        batch: &mut Batch,
        intake: impl for<'b> Fn(&Lane, &'b Batch) -> OwnedIntake<'b>,
    ) -> Result<(Written, Vec<u8>), StoreError> {
        let samples = batch.series.len();
        loop {
            let segment = self.db.log().segment();
            lane.enter_segment(segment);
            let mut payload = Vec::with_capacity(samples * 3 + 128);
            let mut alone = Framing::new();
            let framing = match how.book {
                Book::Own => &mut lane.own,
                Book::Relay => &mut lane.relay,
                Book::None => &mut alone,
            };
            framing.encode(header, batch, how.before.as_deref(), how.vanishing, &*self.db, &mut payload)?;
            let mut bytes = Vec::with_capacity(payload.len() + frame::HEADER_BYTES);
            frame::write(&mut bytes, how.kind, &payload);
            match self.db.write_as(&bytes, intake(lane, batch).borrow(), Some(segment)) {
                Ok(written) => return Ok((written, payload)),
                Err(WriteError::Log(LogError::SegmentCut { .. })) => {
                    // The markers are added again with the next attempt.
                    batch.series.truncate(samples);
                    batch.values.truncate(samples);
                }
                Err(error) => {
                    // What the stream remembers is not in the log: the next batch stands alone.
                    match how.book {
                        Book::Own => {
                            // Others may have room: the slot is not lost with this disk.
                            self.stream(header.shard, how.kind, &payload, samples);
                            lane.own.want_keys(|_| true);
                        }
                        Book::Relay => lane.relay.want_keys(|_| true),
                        Book::None => {}
                    }
                    return Err(self.refused_by(error));
                }
            }
        }
    }

    /// Stores and streams pushed samples of one shard. Their instants follow no slots, so the ledger is not asked: each
    /// sample finds its own place. What is refused is not even logged: others take whatever comes from here. With
    /// `wants_copies` the holders' word can be waited for.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn write_pushed(
        &self,
        source: SourceId,
        shard: ShardId,
        mut batch: Batch,
        wants_copies: bool,
    ) -> Result<WrittenPush, StoreError> {
        // Most pushes are of one instant: it is said once.
        let slot = batch.slot;
        batch.timestamps.retain(|(_, at)| *at != slot);
        let mut lane = self.lanes.of(source).lock();
        let rejected = self.db.head().refusals(&batch);
        if !rejected.is_empty() {
            batch = without(batch, &rejected);
            if batch.series.is_empty() && batch.histograms.is_empty() && batch.exemplars.is_empty() {
                return Ok(WrittenPush { rejected, written: None });
            }
        }
        let order = Order { failed: false, rank: 0, origin: self.origin };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let header = BatchHeader { source, shard, slot: batch.slot, order, sequence };
        let (_, payload) =
            self.record(&mut lane, Framed::plain(KIND_PUSH, Book::Own), &header, &mut batch, |_, batch| {
                OwnedIntake::Append(batch)
            })?;
        self.lanes.pushed.note(shard, &batch, clock::wall());
        let streams = wants_copies && self.subscribers.load().iter().any(|one| one.shards.contains(shard));
        let confirmed = streams.then(|| self.acks.expect(sequence));
        self.stream(shard, KIND_PUSH, &payload, batch.series.len() + batch.histograms.len());
        if let Some(tap) = self.tap.get() {
            tap(shard, &batch);
        }
        Ok(WrittenPush { rejected, written: Some((header, batch, confirmed)) })
    }

    /// Of some shards, those in which older samples than `since` came at or after it, each with the instant of the oldest.
    pub fn reaches(&self, shards: &ShardSet, since: Timestamp) -> BTreeMap<ShardId, Timestamp> {
        self.lanes.pushed.reaches(shards, since)
    }

    fn stream(&self, shard: ShardId, kind: u8, payload: &[u8], samples: usize) {
        for subscriber in self.subscribers.load().iter().filter(|subscriber| subscriber.shards.contains(shard)) {
            if subscriber.stream.try_send(kind, payload).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            } else {
                self.streamed_bytes.fetch_add((payload.len() + frame::HEADER_BYTES) as u64, Ordering::Relaxed);
                self.streamed_samples.fetch_add(samples as u64, Ordering::Relaxed);
            }
        }
    }

    /// The disk refused: said once, until it takes something again.
    fn refused_by(&self, error: WriteError) -> StoreError {
        let error = StoreError::from(error);
        if !self.refuses.swap(true, Ordering::Relaxed) {
            (self.refused)(&error);
        }
        error
    }

    /// Forgets what is known of sources that have been quiet for long.
    pub fn forget_idle(&self, now: Timestamp) {
        for lane in &self.lanes.lanes {
            lane.lock().ledger.forget_idle(now, std::time::Duration::from_secs(2 * 3600));
        }
    }

    /// Slots for which two writers wrote, since the start.
    pub fn split_slots(&self) -> u64 {
        self.lanes.lanes.iter().map(|lane| lane.lock().ledger.split_slots()).sum()
    }

    /// Batches that came when a later slot of their source was here already, since the start.
    pub fn late_batches(&self) -> u64 {
        self.lanes.lanes.iter().map(|lane| lane.lock().ledger.late_batches()).sum()
    }
}

/// An [`Intake`] that owns what it borrows.
enum OwnedIntake<'a> {
    Append(&'a Batch),
    Late(&'a Batch),
    LogOnly(&'a Batch),
    Replace(Vec<SeriesRef>, &'a Batch),
}

impl OwnedIntake<'_> {
    fn borrow(&self) -> Intake<'_> {
        match self {
            OwnedIntake::Append(batch) => Intake::Append(batch),
            OwnedIntake::Late(batch) => Intake::Late(batch),
            OwnedIntake::LogOnly(batch) => Intake::LogOnly(batch),
            OwnedIntake::Replace(loser_series, batch) => Intake::Replace { loser_series, slot: batch.slot, batch },
        }
    }
}

fn intake<'a>(disposition: Disposition, lane: &Lane, header: &BatchHeader, batch: &'a Batch) -> OwnedIntake<'a> {
    match disposition {
        Disposition::Append => OwnedIntake::Append(batch),
        Disposition::Late => OwnedIntake::Late(batch),
        Disposition::Ignore => OwnedIntake::LogOnly(batch),
        Disposition::Replace(loser) => {
            let series = lane.series_of(loser.origin, header.source, header.shard).unwrap_or_default();
            OwnedIntake::Replace(series, batch)
        }
    }
}

/// A batch cut by shard; metadata goes with the source's own.
fn split(batch: Batch, home: ShardId, shard: impl Fn(&SeriesRef) -> ShardId) -> Vec<(ShardId, Batch)> {
    let mut parts: BTreeMap<ShardId, Batch> = BTreeMap::new();
    let slot = batch.slot;
    let timestamps: hashbrown::HashMap<u32, Timestamp> = batch.timestamps.into_iter().collect();
    let starts: hashbrown::HashMap<u32, Timestamp> = batch.start_timestamps.into_iter().collect();
    let fresh = || Batch { slot, ..Batch::default() };
    for (index, (series, value)) in batch.series.into_iter().zip(batch.values).enumerate() {
        let part = parts.entry(shard(&series)).or_insert_with(fresh);
        let place = part.series.len() as u32;
        part.series.push(series);
        part.values.push(value);
        if let Some(at) = timestamps.get(&(index as u32)) {
            part.timestamps.push((place, *at));
        }
        if let Some(at) = starts.get(&(index as u32)) {
            part.start_timestamps.push((place, *at));
        }
    }
    for sample in batch.histograms {
        parts.entry(shard(&sample.series)).or_insert_with(fresh).histograms.push(sample);
    }
    for (series, exemplar) in batch.exemplars {
        parts.entry(shard(&series)).or_insert_with(fresh).exemplars.push((series, exemplar));
    }
    parts.entry(home).or_insert_with(fresh).metadata = batch.metadata;
    parts.into_iter().collect()
}

/// A batch without the samples that were refused.
fn without(batch: Batch, refused: &[Rejected]) -> Batch {
    let refused: hashbrown::HashSet<SampleIndex> = refused.iter().map(|one| one.index).collect();
    let timestamps: hashbrown::HashMap<u32, Timestamp> = batch.timestamps.into_iter().collect();
    let starts: hashbrown::HashMap<u32, Timestamp> = batch.start_timestamps.into_iter().collect();
    let mut rest = Batch { slot: batch.slot, exemplars: batch.exemplars, metadata: batch.metadata, ..Batch::default() };
    for (index, (series, value)) in batch.series.into_iter().zip(batch.values).enumerate() {
        let index = index as u32;
        if refused.contains(&SampleIndex::Float(index)) {
            continue;
        }
        let place = rest.series.len() as u32;
        rest.timestamps.extend(timestamps.get(&index).map(|at| (place, *at)));
        rest.start_timestamps.extend(starts.get(&index).map(|at| (place, *at)));
        rest.series.push(series);
        rest.values.push(value);
    }
    let histograms = batch.histograms.into_iter().enumerate();
    let kept = histograms.filter(|(index, _)| !refused.contains(&SampleIndex::Histogram(*index as u32)));
    rest.histograms = kept.map(|(_, sample)| sample).collect();
    rest
}
