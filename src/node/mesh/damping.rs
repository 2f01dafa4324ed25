//! A peer that falls over again and again waits before it is ready: ownership falls fast on loss and slowly on join.

use std::time::Duration;

/// Starts without a clean stop within so long are counted.
pub(super) const FLAPPING: Duration = Duration::from_secs(600);
/// Starts within that time that nobody minds: a crash, and the repair of its cause.
const FALLS_FREE: usize = 2;
/// Each further one makes a peer wait so much longer before it is ready …
const DAMPING_STEP: Duration = Duration::from_secs(5);
/// … and this at most: a crash loop with a long period must not leave its shards with one copy for ever.
const DAMPING_MAX: Duration = Duration::from_secs(60);

/// How long a peer waits before it is ready, by how often it was started lately: every time it takes its shards, they
/// change hands twice.
pub(super) fn damping(falls: usize) -> Duration {
    let surplus = u32::try_from(falls.saturating_sub(FALLS_FREE)).unwrap_or(u32::MAX);
    DAMPING_STEP.saturating_mul(surplus).min(DAMPING_MAX)
}

#[cfg(test)]
mod tests {
    use promesh_cluster::{PeerRecord, PeerState};
    use promesh_model::{Generation, Monotonic, Now, PeerId, Timestamp};

    use super::*;
    use crate::mesh::{Input, Mesh, MeshConfig, Output};
    use crate::possession::Possession;

    const STARTED: i64 = 3_600_000;

    fn at(ms: i64) -> Now {
        Now { monotonic: Monotonic(ms as u64 * 1_000_000), wall: Timestamp(ms) }
    }

    fn record() -> PeerRecord {
        PeerRecord {
            id: PeerId(1),
            generation: Generation(9),
            version: 1,
            state: PeerState::Joining,
            zone: String::new(),
            weight: 4,
            protocol: (1, 1),
            web_address: None,
            root: 0,
        }
    }

    /// After how many ms a lone peer is ready that has `possession` on its disk.
    fn ready_after(possession: Possession) -> i64 {
        let config = MeshConfig {
            replication_factor: 2,
            start_hold: Duration::from_secs(10),
            has_seeds: false,
            persisted: Vec::new(),
            remembered: Vec::new(),
            possession,
            newest_sample: None,
            window: Duration::from_secs(7_200),
            rank_tables: None,
        };
        let mut mesh = Mesh::new(config, record(), at(STARTED));
        for ms in (0..120_000).step_by(50) {
            mesh.handle(Input::Timeout, at(STARTED + ms));
            while let Some(output) = mesh.poll_output() {
                if matches!(&output, Output::Record(record) if record.state == PeerState::Ready) {
                    return ms;
                }
            }
        }
        panic!("it is never ready");
    }

    /// What was on its disk after starts so many ms before the one in question.
    fn started_before(all: &[i64]) -> Possession {
        let mut possession = Possession::default();
        for before in all {
            let start = Timestamp(STARTED - before);
            possession.started(start, start.before(FLAPPING));
        }
        possession
    }

    #[test]
    fn each_fall_lately_makes_a_peer_wait_longer_and_one_asked_to_stop_did_not_fall() {
        let minutes = |minutes: &[i64]| minutes.iter().map(|minute| minute * 60_000).collect::<Vec<_>>();
        for (falls, expected) in [
            (minutes(&[]), 0),
            (minutes(&[1]), 0),
            (minutes(&[2, 1]), 5_000),
            (minutes(&[3, 2, 1]), 10_000),
            // Ten minutes ago is forgotten.
            (minutes(&[40, 30, 20, 12, 1]), 0),
            ((1..30).rev().map(|n| n * 10_000).collect(), 60_000),
        ] {
            assert_eq!(ready_after(started_before(&falls)), expected, "started {falls:?} ms before");
        }
        let mut in_peace = started_before(&minutes(&[5, 4, 3, 2, 1]));
        in_peace.stopped_in_peace();
        assert_eq!(ready_after(in_peace), 0);
    }
}
