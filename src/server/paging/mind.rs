//! The thread of the alerting mind and the thread of its record log.
//!
//! The mind's outputs are carried out in order on its own thread by [`Hands`], which must not block. What is to be
//! durable goes to the log's thread, which syncs everything that waits at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use promesh_alerting::message::DiskRecord;
use promesh_alerting::{Alerting, Input, Output};
use promesh_model::{Monotonic, Now};

use super::records::RecordLog;
use crate::clock;
use crate::telemetry::{HANDLE_BUCKETS_NS, handle_bucket};

/// A `handle` that takes longer is a WARN: everything else waits meanwhile.
const HANDLE_MAX: Duration = Duration::from_millis(5);
/// Between two such WARNs.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// The longest sleep, so that a stepped wall clock is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// A log below this is never replaced by a snapshot.
const COMPACT_BYTES_MIN: u64 = 4 << 20;
/// A log that has grown to so many times its snapshot is replaced.
const COMPACT_GROWTH: u64 = 4;
/// Between two tries to write a log that failed.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// What somebody wants to see of the mind.
type Look = Box<dyn FnOnce(&Alerting, Now) + Send>;

/// What is said to the mind's thread.
pub enum ToMind {
    /// Something happened.
    Input(Box<Input>),
    /// Somebody looks at it.
    Look(Look),
    /// The peer stops.
    Stop,
}

/// A way to the mind.
#[derive(Clone)]
pub struct ToAlerting(Sender<ToMind>);

impl ToAlerting {
    /// Tells it. A mind that has ended hears nothing.
    pub fn tell(&self, input: Input) {
        let _ = self.0.send(ToMind::Input(Box::new(input)));
    }

    /// Looks at it; `None` when it has ended.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Alerting, Now) -> T + Send + 'static) -> Option<T> {
        let (answer, asked) = tokio::sync::oneshot::channel();
        let look = Box::new(move |mind: &Alerting, now: Now| drop(answer.send(look(mind, now))));
        self.0.send(ToMind::Look(look)).ok()?;
        asked.await.ok()
    }

    /// Ends both threads; what waits to be durable is made so first.
    pub fn stop(&self) {
        let _ = self.0.send(ToMind::Stop);
    }
}

/// A way to a mind that is yet to be started, and its inbox.
pub fn inbox() -> (ToAlerting, Receiver<ToMind>) {
    let (sender, inbox) = channel();
    (ToAlerting(sender), inbox)
}

/// Carries out everything but [`Output::Persist`]; called on the mind's thread.
pub trait Hands: Send {
    /// One output.
    fn carry_out(&mut self, output: Output);
}

/// What the threads count.
#[derive(Debug, Default)]
pub struct MindFigures {
    /// Inputs.
    pub handled: AtomicU64,
    /// Nanoseconds they took.
    pub handled_ns: AtomicU64,
    /// Inputs by how long they took, as [`HANDLE_BUCKETS_NS`], the rest last.
    pub handle_buckets: [AtomicU64; HANDLE_BUCKETS_NS.len() + 1],
    /// Length of the record log.
    pub log_bytes: AtomicU64,
    /// Syncs of the record log.
    pub log_syncs: AtomicU64,
    /// Failed writes of it.
    pub log_failures: AtomicU64,
}

impl MindFigures {
    fn handled(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.handled_ns.fetch_add(ns, Ordering::Relaxed);
        self.handle_buckets[handle_bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }
}

enum ToLog {
    Append { token: u64, record: Vec<u8> },
    Replace { token: u64, records: Vec<DiskRecord> },
}

/// What both threads know of the log.
#[derive(Debug, Default)]
struct LogState {
    compact_at: AtomicU64,
    replacing: AtomicBool,
    failed: AtomicBool,
}

/// Starts both threads.
///
/// # Errors
/// When the system gives no threads.
pub fn start(
    mind: Alerting,
    log: RecordLog,
    (own, inbox): (ToAlerting, Receiver<ToMind>),
    hands: impl Hands + 'static,
    figures: Arc<MindFigures>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let (to_log, log_inbox) = channel();
    let state = Arc::new(LogState::default());
    state.compact_at.store(COMPACT_BYTES_MIN.max(log.bytes()), Ordering::Relaxed);
    figures.log_bytes.store(log.bytes(), Ordering::Relaxed);
    let (log_state, log_figures) = (Arc::clone(&state), Arc::clone(&figures));
    let writer = move || run_log(log, &log_inbox, &own, &log_state, &log_figures);
    let writer = std::thread::Builder::new().name("records".to_owned()).spawn(writer)?;
    let thinker = Thinker { mind, to_log, hands, state, figures, last_token: 0, warned: None, retry_at: None };
    let thinker = std::thread::Builder::new().name("alerting".to_owned()).spawn(move || thinker.run(&inbox))?;
    Ok(vec![thinker, writer])
}

struct Thinker<H> {
    mind: Alerting,
    to_log: Sender<ToLog>,
    hands: H,
    state: Arc<LogState>,
    figures: Arc<MindFigures>,
    last_token: u64,
    warned: Option<Monotonic>,
    retry_at: Option<Monotonic>,
}

impl<H: Hands> Thinker<H> {
    fn run(mut self, inbox: &Receiver<ToMind>) {
        loop {
            while let Some(output) = self.mind.poll_output() {
                match output {
                    Output::Persist { token, record } => {
                        self.last_token = token;
                        let _ = self.to_log.send(ToLog::Append { token, record });
                    }
                    other => self.hands.carry_out(other),
                }
            }
            self.tend_log();
            let sleep = self.mind.poll_timeout().map_or(SLEEP_MAX, |at| at.since(clock::monotonic()).min(SLEEP_MAX));
            match inbox.recv_timeout(sleep) {
                Ok(ToMind::Input(input)) => self.handle(*input),
                Ok(ToMind::Look(look)) => look(&self.mind, clock::now()),
                Err(RecvTimeoutError::Timeout) => self.handle(Input::Timeout),
                Ok(ToMind::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let now = clock::now();
        self.mind.handle(input, now);
        let took = clock::monotonic().since(now.monotonic);
        self.figures.handled(took);
        if took > HANDLE_MAX && self.warned.is_none_or(|at| now.monotonic.since(at) >= WARN_INTERVAL) {
            self.warned = Some(now.monotonic);
            tracing::warn!(?took, "alerting took long over one input");
        }
    }

    /// Replaces a log that is long, or could not be written.
    fn tend_log(&mut self) {
        let now = clock::monotonic();
        let failed = self.state.failed.load(Ordering::Acquire) && self.retry_at.is_none_or(|at| now >= at);
        let long = self.figures.log_bytes.load(Ordering::Relaxed) > self.state.compact_at.load(Ordering::Relaxed);
        if (failed || long) && !self.state.replacing.swap(true, Ordering::AcqRel) {
            self.retry_at = Some(now + LOG_RETRY);
            let replace = ToLog::Replace { token: self.last_token, records: self.mind.snapshot() };
            let _ = self.to_log.send(replace);
        }
    }
}

fn run_log(mut log: RecordLog, inbox: &Receiver<ToLog>, mind: &ToAlerting, state: &LogState, figures: &MindFigures) {
    let mut waiting: Option<ToLog> = None;
    loop {
        let Some(first) = waiting.take().or_else(|| inbox.recv().ok()) else { return };
        let (token, written) = match first {
            ToLog::Append { mut token, record } => {
                let mut frames = vec![record];
                // All that waits goes with one sync.
                while let Ok(next) = inbox.try_recv() {
                    match next {
                        ToLog::Append { token: later, record } => {
                            token = later;
                            frames.push(record);
                        }
                        replace => {
                            waiting = Some(replace);
                            break;
                        }
                    }
                }
                if state.failed.load(Ordering::Acquire) {
                    // Its end is unknown; the next snapshot holds these too.
                    continue;
                }
                (token, log.append(&frames))
            }
            ToLog::Replace { token, records } => {
                let written = log.replace(&records);
                if written.is_ok() {
                    state.compact_at.store(COMPACT_BYTES_MIN.max(COMPACT_GROWTH * log.bytes()), Ordering::Relaxed);
                    if state.failed.swap(false, Ordering::AcqRel) {
                        tracing::info!("records can be made durable again");
                    }
                }
                state.replacing.store(false, Ordering::Release);
                (token, written)
            }
        };
        figures.log_bytes.store(log.bytes(), Ordering::Relaxed);
        match written {
            Ok(()) => {
                figures.log_syncs.fetch_add(1, Ordering::Relaxed);
                mind.tell(Input::Persisted { token });
            }
            Err(error) => {
                figures.log_failures.fetch_add(1, Ordering::Relaxed);
                if !state.failed.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "records cannot be made durable: nothing is acknowledged, it is tried again");
                }
            }
        }
    }
}
