//! Keeping the log durable, storage at its work, and an eye on the disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use promesh_model::{Monotonic, Now, Timestamp};
use promesh_node::{Input, MeshView};
use tokio::sync::watch;

use crate::clock;
use crate::peer::Peer;

/// How often the log is synced.
const SYNC_PERIOD: Duration = Duration::from_millis(400);
/// How often storage looks for work, and the disk for room.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(2);

impl Peer {
    /// Syncs the log and lets storage do its work, on a thread of its own.
    pub(crate) fn keep_house(&self) {
        let (ingest, minds) = (Arc::clone(&self.ingest), self.minds.clone());
        let telemetry = Arc::clone(&self.telemetry);
        let body = move || {
            let mut next_maintenance = clock::monotonic();
            let mut full = false;
            let mut failing = false;
            let mut refusal = Refusal::default();
            let mut clock = ClockWatch::new(clock::now());
            loop {
                std::thread::sleep(SYNC_PERIOD);
                if let Some(jump_ms) = clock.jump(clock::now()) {
                    telemetry.clock_jumps.fetch_add(1, Ordering::Relaxed);
                    say_jump(jump_ms, ingest.db().head().max_time());
                }
                let db = ingest.db();
                let synced = db.sync();
                if synced.is_err() != failing {
                    failing = synced.is_err();
                    match synced {
                        Ok(_) => tracing::info!("the log can be made durable again"),
                        Err(error) => tracing::error!(%error, "the log cannot be made durable"),
                    }
                }
                let now = clock::now();
                if now.monotonic < next_maintenance {
                    continue;
                }
                next_maintenance = now.monotonic + MAINTENANCE_PERIOD;
                if let Err(error) = db.maintain(now) {
                    tracing::error!(%error, "storage could not do its work, it is tried again");
                }
                ingest.forget_idle(now.wall);
                let is_full = disk_is_full(db.dir(), full);
                if is_full != full {
                    full = is_full;
                    tracing::warn!(full, "the disk's free room has crossed its limit");
                    minds.tell(Input::DiskFull(full));
                }
                if refusal.may_end(ingest.refuses(), full || failing, now.monotonic) {
                    tracing::info!("the disk is believed to take what is to be stored again");
                    // In this order: a refusal in between is told, if at all, after it.
                    minds.tell(Input::DiskRefuses(false));
                    ingest.tries_again();
                }
            }
        };
        let spawned = std::thread::Builder::new().name("storage".to_owned()).spawn(body);
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for storage: the log is not synced");
        }
    }
}

/// When a disk that refused is tried again: not while it is full or fails, and later each time it refuses anew soon after.
#[derive(Debug, Default)]
struct Refusal {
    since: Option<Monotonic>,
    ended: Option<Monotonic>,
    /// Trials that came to nothing, one soon after the other.
    vain: u32,
}

/// How long after a refusal the disk is tried again for the first time; twice as long after each trial in vain.
const TRIAL_AFTER: Duration = Duration::from_secs(4);
const TRIAL_AFTER_MAX: Duration = Duration::from_secs(300);

impl Refusal {
    /// Looks at the disk; says whether it is to be tried again.
    fn may_end(&mut self, refuses: bool, is_bad: bool, now: Monotonic) -> bool {
        if !refuses {
            return false;
        }
        let since = *self.since.get_or_insert_with(|| {
            let soon = self.ended.is_some_and(|ended| now.since(ended) < 2 * TRIAL_AFTER_MAX);
            self.vain = if soon { self.vain + 1 } else { 0 };
            now
        });
        let patience = TRIAL_AFTER.saturating_mul(1 << self.vain.min(16)).min(TRIAL_AFTER_MAX);
        let ends = !is_bad && now.since(since) >= patience;
        if ends {
            (self.since, self.ended) = (None, Some(now));
        }
        ends
    }
}

/// Sees the wall clock being set: it then goes another way than the monotonic one.
struct ClockWatch {
    offset_ms: i64,
}

/// What the two clocks may drift apart between two looks: more is a jump.
const JUMP_MS: i64 = 1_000;

impl ClockWatch {
    fn new(now: Now) -> ClockWatch {
        ClockWatch { offset_ms: ClockWatch::offset(now) }
    }

    fn offset(now: Now) -> i64 {
        now.wall.ms() - (now.monotonic.0 / 1_000_000) as i64
    }

    /// By how much the clock was set since the last look, in ms; a slow drift is followed.
    fn jump(&mut self, now: Now) -> Option<i64> {
        let before = std::mem::replace(&mut self.offset_ms, ClockWatch::offset(now));
        let jump = self.offset_ms - before;
        (jump.abs() > JUMP_MS).then_some(jump)
    }
}

fn say_jump(jump_ms: i64, newest: Timestamp) {
    let seconds = jump_ms as f64 / 1000.0;
    if jump_ms > 0 {
        tracing::warn!(seconds, "the wall clock was set forward: nothing was scraped for the time between");
    } else {
        // A slot that was scraped once stands: it is not scraped again.
        tracing::warn!(seconds, until = %newest, "the wall clock was set back: nothing is scraped until it has passed what is stored");
    }
}

/// Less than a twentieth and less than 1 GiB is free; twice that ends it.
fn disk_is_full(path: &std::path::Path, was_full: bool) -> bool {
    let Ok(disk) = rustix::fs::statvfs(path) else { return was_full };
    let limit = (disk.f_blocks * disk.f_frsize / 20).min(1 << 30);
    let free = disk.f_bavail * disk.f_frsize;
    if was_full { free < 2 * limit } else { free < limit }
}

/// The web addresses of all peers, this one included, sorted: alike on every peer.
pub(crate) fn peer_addresses(
    mut view: watch::Receiver<Option<Arc<MeshView>>>,
    own: SocketAddr,
) -> watch::Receiver<Arc<[String]>> {
    let list = move |view: &Option<Arc<MeshView>>| -> Arc<[String]> {
        // A peer that is down stays a target: its `up` is 0, as for any other.
        let others = view.iter().flat_map(|view| view.peers.iter()).filter_map(|peer| peer.web_address);
        let mut all: Vec<String> = others.chain([own]).map(|address| address.to_string()).collect();
        all.sort();
        all.dedup();
        all.into()
    };
    let (sender, receiver) = watch::channel(list(&view.borrow()));
    tokio::spawn(async move {
        while view.changed().await.is_ok() {
            let present = list(&view.borrow_and_update());
            sender.send_if_modified(|known| {
                let changed = *known != present;
                *known = present;
                changed
            });
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_refused_is_tried_again_later_each_time_and_not_while_it_is_full() {
        let (mut refusal, at) = (Refusal::default(), |seconds: u64| Monotonic(seconds * 1_000_000_000));
        let mut look = |refuses, is_bad, seconds| refusal.may_end(refuses, is_bad, at(seconds));
        assert!(!look(false, true, 0));
        assert_eq!([2, 4, 8, 20].map(|seconds| look(true, true, seconds)), [false; 4]);
        assert_eq!([look(true, false, 22), look(false, false, 24)], [true, false]);
        // The second time within minutes.
        assert_eq!([26, 32, 34].map(|seconds| look(true, false, seconds)), [false, false, true]);
        assert_eq!([36, 50, 52].map(|seconds| look(true, false, seconds)), [false, false, true]);
        // And after a quiet hour.
        assert_eq!([4_000, 4_004].map(|seconds| look(true, false, seconds)), [false, true]);
    }

    #[test]
    fn a_set_clock_is_seen_once_and_drift_never() {
        let at =
            |wall, monotonic_ms: u64| Now { wall: Timestamp(wall), monotonic: Monotonic(monotonic_ms * 1_000_000) };
        let mut clock = ClockWatch::new(at(50_000, 1_000));
        assert_eq!(clock.jump(at(50_400, 1_400)), None);
        assert_eq!(clock.jump(at(51_700, 1_800)), None, "900 ms of drift");
        assert_eq!(clock.jump(at(60_100, 2_200)), Some(8_000));
        assert_eq!(clock.jump(at(60_500, 2_600)), None);
        assert_eq!(clock.jump(at(50_900, 3_000)), Some(-10_000));
        // A process that stood still for an hour: both clocks went on.
        assert_eq!(clock.jump(at(3_650_900, 3_603_000)), None);
    }
}
