//! The database: log, head and blocks of one data directory.
//!
//! ```text
//! <dir>/lock               held while the process lives
//! <dir>/format.json        {"version": 1, "min_reader": 1}
//! <dir>/log/…              frames (crate::log)
//! <dir>/checkpoint.json    what of the log is in blocks; metadata
//! <dir>/head/…             full chunks of the head; a cache, made anew at start
//! <dir>/01J…/              blocks, as Prometheus has them
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use promesh_model::ingest::{Batch, IngestError, SeriesIndex, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::time::{Now, Timestamp, ms_of};
use thiserror::Error;

use crate::block::{Block, BlockError};
use crate::blocks::{Blocks, SetAside};
use crate::checkpoint::Checkpoint;
use crate::fs::{Fs, RealFs};
use crate::head::{AppendOutcome, Head, HeadOptions, HeadTombstone};
use crate::import::ImportReport;
use crate::log::{Log, LogError, LogPosition};
use crate::maintain::MaintainError;
use crate::replay::{DecoderFactory, Flushed, ReplayProgress, ReplayReport, instants, replay};

/// How a database is kept.
#[derive(Clone, Debug)]
pub struct DbOptions {
    /// The file system; another one in tests.
    pub fs: Arc<dyn Fs>,
    /// The head.
    pub head: HeadOptions,
    /// A segment of the log is closed when the wall clock passes a multiple of this. Default 1 h: the key frames at the
    /// beginning of each must cost little.
    pub segment_span: Duration,
    /// A segment of the log is closed at this size, too. Default 1 GiB.
    pub segment_bytes_max: u64,
    /// Threads that read the log back at start. Default 2.
    pub replay_threads: usize,
    /// How long samples are kept; `None`: as long as there is room. Default 15 d, as in Prometheus.
    pub retention: Option<Duration>,
    /// How many bytes blocks and log may take; the oldest blocks go first. Default none.
    pub retention_bytes: Option<u64>,
    /// The same as a part of the file system, in percent. Default none.
    pub retention_percent: Option<f64>,
    /// The longest span of a block. Default a tenth of the retention, at most 31 d, as in Prometheus.
    pub block_span_max: Duration,
    /// How long a part of the log is kept for others whose samples are in blocks. Default 3 h.
    pub log_keep_max: Duration,
    /// Over this size nothing is kept for others. Default 10 GiB.
    pub log_bytes_max: u64,
    /// Makes names of blocks unlike those of other peers.
    pub seed: u64,
    /// Says how far the log is read back while [`Db::open`] is at it.
    pub progress: Arc<ReplayProgress>,
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retention {
    /// How long samples are kept; `None`: as long as there is room.
    pub time: Option<Duration>,
    /// How many bytes blocks and log may take; the oldest blocks go first.
    pub bytes: Option<u64>,
    /// The same as a part of the file system, in percent.
    pub percent: Option<f64>,
}

impl Default for DbOptions {
    fn default() -> Self {
        DbOptions {
            fs: Arc::new(RealFs),
            head: HeadOptions::default(),
            segment_span: Duration::from_secs(3600),
            segment_bytes_max: 1 << 30,
            replay_threads: 2,
            retention: Some(Duration::from_secs(15 * 86_400)),
            retention_bytes: None,
            retention_percent: None,
            block_span_max: Duration::from_secs(36 * 3600),
            log_keep_max: Duration::from_secs(3 * 3600),
            log_bytes_max: 10 << 30,
            seed: 0,
            progress: Arc::default(),
        }
    }
}

/// Why a database does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be used.
    #[error("{}: {source}", path.display())]
    Disk {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{}: another process uses this data directory; stop it first, or choose another directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error("{}: format {found} is newer than this build reads ({FORMAT_VERSION}); use a newer promesh", path.display())]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// The oldest format whose readers read it.
        found: u64,
    },
    /// A block cannot be read, and not because it is damaged.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Prometheus' own logs cannot be taken over. They are as they were.
    #[error("take over the logs of Prometheus: {0}")]
    Import(Box<MaintainError>),
    /// The log does not open.
    #[error("{}: {source}", path.display())]
    Log {
        /// The log's folder.
        path: PathBuf,
        /// Why.
        source: LogError,
    },
}

/// Why a batch was not written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The log refused: nothing of the batch is stored.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// What reading the log back did.
    pub replay: ReplayReport,
    /// Blocks that are damaged: renamed, not read.
    pub set_aside: Vec<SetAside>,
    /// Blocks that are read.
    pub blocks: usize,
    /// What was taken over from Prometheus' own logs.
    pub imported: Option<ImportReport>,
}

/// A batch that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where its frames lie; durable once [`Db::synced_to`] is past it.
    pub position: LogPosition,
    /// What became of its samples.
    pub outcome: AppendOutcome,
}

/// How a batch is to be taken in.
#[derive(Clone, Copy, Debug)]
pub enum Intake<'a> {
    /// As its producer's newest.
    Append(&'a Batch),
    /// Late, from a peer: wherever it belongs.
    Late(&'a Batch),
    /// In place of another batch for the same slot.
    Replace {
        /// The series of the batch that lost.
        loser_series: &'a [SeriesRef],
        /// The slot of both.
        slot: Timestamp,
        /// The batch that stands.
        batch: &'a Batch,
    },
    /// Not at all: the frames are kept as a base for others.
    LogOnly(&'a Batch),
}

/// The newest form of a data directory that this build reads and writes.
pub const FORMAT_VERSION: u64 = 1;

/// A database. All of it may be used from many threads.
pub struct Db {
    pub(crate) dir: PathBuf,
    pub(crate) options: DbOptions,
    pub(crate) log: Log,
    pub(crate) head: Head,
    /// Held for reading between a batch's way into the log and into the head, so that whoever takes it for writing knows:
    /// what is in the log is in the head.
    pub(crate) gate: RwLock<()>,
    pub(crate) blocks: Blocks,
    /// What is in blocks for good.
    pub(crate) flushed: Mutex<Flushed>,
    /// The same without the late samples that are still to be written.
    pub(crate) cut: Mutex<Flushed>,
    pub(crate) head_tombstones: Mutex<Vec<HeadTombstone>>,
    /// The oldest place of the log that others still read from.
    pub(crate) log_needed: Mutex<Option<LogPosition>>,
    /// Held while blocks are made or merged.
    pub(crate) maintenance: Mutex<()>,
    /// Held while samples are deleted, or a block is read that is then replaced.
    pub(crate) deleting: Mutex<()>,
    pub(crate) ulids: Mutex<u64>,
    pub(crate) retention: Mutex<Retention>,
    segment_period: Mutex<i64>,
    _lock: Box<dyn Send + Sync>,
}

impl Db {
    /// Opens a data directory, making it if need be, and reads its log back.
    ///
    /// # Errors
    /// When the directory cannot be used. Damage inside is no error: see the report.
    pub fn open(
        dir: &Path,
        options: DbOptions,
        decoders: DecoderFactory<'_>,
        now: Now,
    ) -> Result<(Db, OpenReport), OpenError> {
        let fs = Arc::clone(&options.fs);
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Disk { path, source }
        };
        fs.create_dir_all(dir).map_err(disk(dir))?;
        let lock_path = dir.join("lock");
        let lock = fs.lock(&lock_path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { path: lock_path.clone() },
            _ => OpenError::Disk { path: lock_path.clone(), source },
        })?;
        check_format(&*fs, dir)?;
        let head_dir = dir.join("head");
        let head = Head::new(Arc::clone(&fs), &head_dir, options.head.clone()).map_err(disk(&head_dir))?;
        let (blocks, set_aside) = Blocks::open(Arc::clone(&fs), dir, false)?;
        let checkpoint_path = dir.join("checkpoint.json");
        let Checkpoint { flushed, metadata, tombstones } =
            Checkpoint::load(&*fs, dir).map_err(disk(&checkpoint_path))?;
        // A block may be newer than the checkpoint: a crash came between them.
        head.set_min_time(flushed.before.max(Timestamp(blocks.max_time().unwrap_or(i64::MIN))));
        head.restore_metadata(metadata);
        head.apply_tombstones(&tombstones);
        let log_dir = dir.join("log");
        let (log, report) =
            replay(Arc::clone(&fs), &log_dir, &head, decoders, options.replay_threads, flushed, &options.progress)
                .map_err(|source| OpenError::Log { path: log_dir.clone(), source })?;
        let segment_period = Mutex::new(period_of(now, options.segment_span));
        let retention =
            Retention { time: options.retention, bytes: options.retention_bytes, percent: options.retention_percent };
        let db = Db {
            dir: dir.to_owned(),
            options,
            log,
            head,
            gate: RwLock::new(()),
            blocks,
            flushed: Mutex::new(flushed),
            cut: Mutex::new(flushed),
            head_tombstones: Mutex::new(tombstones),
            log_needed: Mutex::new(None),
            maintenance: Mutex::new(()),
            deleting: Mutex::new(()),
            ulids: Mutex::new(0),
            retention: Mutex::new(retention),
            segment_period,
            _lock: lock,
        };
        let imported = db.import_prometheus(now).map_err(|error| OpenError::Import(Box::new(error)))?;
        let report = OpenReport { replay: report, set_aside, blocks: db.blocks.list().len(), imported };
        Ok((db, report))
    }

    /// Writes a batch, framed as `frames`, as its producer's newest: into the log, then into the head.
    ///
    /// # Errors
    /// When the log refuses; nothing is stored. What the head refuses is in the outcome.
    pub fn write(&self, frames: &[u8], batch: &Batch) -> Result<Written, WriteError> {
        self.write_as(frames, Intake::Append(batch), None)
    }

    /// Writes a batch in one of several ways; with `segment`, only if that is the log's present segment (frames that
    /// build on others are only right in the segment where those are: on `SegmentCut`, frame again with key frames).
    ///
    /// # Errors
    /// As [`Db::write`].
    pub fn write_as(&self, frames: &[u8], intake: Intake<'_>, segment: Option<u64>) -> Result<Written, WriteError> {
        let batch = match intake {
            Intake::Append(batch) | Intake::Late(batch) | Intake::LogOnly(batch) => batch,
            Intake::Replace { batch, .. } => batch,
        };
        let _in_log_means_in_head = self.gate.read();
        let position = self.log.append(frames, instants(batch).1, segment)?;
        let outcome = match intake {
            Intake::Append(batch) => self.head.append(batch),
            Intake::Late(batch) => self.head.append_late(batch),
            Intake::Replace { loser_series, slot, batch } => self.head.replace(loser_series, slot, batch),
            Intake::LogOnly(_) => AppendOutcome::default(),
        };
        Ok(Written { position, outcome })
    }

    /// Makes everything written so far durable. Call it at least every second.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn sync(&self) -> Result<LogPosition, LogError> {
        self.log.sync()
    }

    /// Everything before this is durable.
    pub fn synced_to(&self) -> LogPosition {
        self.log.synced_to()
    }

    /// The log, to read frames back from.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How long and how much is kept at present.
    pub fn retention(&self) -> Retention {
        *self.retention.lock()
    }

    /// Sets how long and how much is kept from the next maintenance on. How long a block may become stays as it was opened.
    pub fn set_retention(&self, retention: Retention) {
        *self.retention.lock() = retention;
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Closes the log's segment when it is due.
    pub(crate) fn cut_log_if_due(&self, now: Now) -> Result<bool, LogError> {
        let period = period_of(now, self.options.segment_span);
        let mut last = self.segment_period.lock();
        let is_large = self.log.end().offset >= self.options.segment_bytes_max;
        if *last == period && !is_large {
            return Ok(false);
        }
        self.log.cut()?;
        *last = period;
        Ok(true)
    }

    /// The oldest place of the log that others still need, so that it is kept for a while after its samples are in blocks.
    pub fn set_log_needed_from(&self, position: Option<LogPosition>) {
        *self.log_needed.lock() = position;
    }

    /// The first instant after all blocks, those of late and of copied samples too; `MIN` without any.
    pub fn blocks_end(&self) -> Timestamp {
        self.blocks.list().iter().map(|block| Timestamp(block.meta().max_time)).max().unwrap_or(Timestamp::MIN)
    }

    /// The open blocks, by their first instant.
    pub fn blocks(&self) -> Vec<Arc<Block>> {
        self.blocks.list()
    }
}

fn period_of(now: Now, span: Duration) -> i64 {
    now.wall.ms().div_euclid(ms_of(span).max(1))
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Format {
    version: u64,
    min_reader: u64,
}

fn check_format(fs: &dyn Fs, dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("format.json");
    let disk = |source| OpenError::Disk { path: path.clone(), source };
    if !fs.exists(&path) {
        let format = Format { version: FORMAT_VERSION, min_reader: FORMAT_VERSION };
        let text = serde_json::to_vec(&format).expect("two numbers");
        return crate::fs::replace_file(fs, &path, &text).map_err(disk);
    }
    let bytes = fs.map(&path).map_err(disk)?;
    let format: Format = serde_json::from_slice(&bytes).map_err(|error| disk(io::Error::other(error)))?;
    if format.min_reader > FORMAT_VERSION {
        return Err(OpenError::Format { path, found: format.min_reader });
    }
    Ok(())
}

impl SeriesIndex for Db {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, IngestError> {
        self.head.resolve(labels)
    }

    fn labels(&self, series: SeriesRef) -> Option<Labels> {
        self.head.labels(series)
    }
}
