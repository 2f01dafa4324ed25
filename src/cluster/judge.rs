//! Whether a living member has fallen silent, from its beats.
//!
//! Membership needs seconds to be sure that a peer is dead; a scrape must not wait for it. Every peer beats to those it
//! shares shards with; one that has not been heard for a few of its own usual gaps is *silent*, and the next in rank
//! scrapes for it. A wrong verdict costs a slot scraped twice, which the ledger settles.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::{Generation, Monotonic, PeerId, Timestamp};
use serde::{Deserialize, Serialize};

/// What a peer tells those it shares shards with, several times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// In which of its lives it speaks.
    pub generation: Generation,
    /// Its wall clock.
    pub wall: Timestamp,
    /// Every slot of its own up to here was started.
    pub started_through: Timestamp,
    /// Sequence of the newest batch of its log.
    pub position: u64,
    /// It has stood still and does not trust its view: whoever is next scrapes on.
    pub suspended: bool,
}

/// The shortest silence that counts.
const GRACE_MIN: Duration = Duration::from_millis(500);
/// A silence is this many usual gaps.
const GAPS: u32 = 4;

/// The longest silence that is forgiven, by the size of the mesh; beyond a hundred peers only membership decides.
pub fn grace_max(peers: usize) -> Option<Duration> {
    match peers {
        0..=50 => Some(Duration::from_millis(1200)),
        51..=100 => Some(Duration::from_secs(2)),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Monotonic,
    /// Exponentially smoothed gap between beats.
    gap: Duration,
    beat: Beat,
}

/// What was heard of every other peer.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    heard: BTreeMap<PeerId, Heard>,
    /// No deadline that is still ahead comes before this, and the grace that this was worked out with: in a mesh of a
    /// hundred peers a look at all deadlines with each beat was a seventh of the work.
    floor: (Monotonic, Option<Duration>),
}

impl Judge {
    /// Nothing heard yet.
    pub fn new() -> Judge {
        Judge::default()
    }

    /// Begins to wait for a member that has not beaten yet.
    pub fn expect(&mut self, peer: PeerId, generation: Generation, now: Monotonic) {
        let unheard =
            Beat { generation, wall: Timestamp::MIN, started_through: Timestamp::MIN, position: 0, suspended: true };
        let gap = Duration::from_secs(2) / GAPS;
        self.heard.entry(peer).or_insert(Heard { at: now, gap, beat: unheard });
        self.lower(peer);
    }

    /// A deadline may have come nearer.
    fn lower(&mut self, peer: PeerId) {
        if let (Some(heard), Some(grace)) = (self.heard.get(&peer), self.floor.1) {
            self.floor.0 = self.floor.0.min(heard.at + (heard.gap * GAPS).clamp(GRACE_MIN, grace));
        }
    }

    /// Before this nobody becomes silent in a mesh of so many peers; the deadlines of all need no look until then.
    pub fn floor(&self, peers: usize) -> Monotonic {
        if self.floor.1 == grace_max(peers) { self.floor.0 } else { Monotonic(0) }
    }

    /// Of all that are not silent, the next deadline is at this instant; `None` if there is none.
    pub fn set_floor(&mut self, peers: usize, next: Option<Monotonic>) {
        self.floor = (next.unwrap_or(Monotonic(u64::MAX)), grace_max(peers));
    }

    /// Takes a beat. A beat of an earlier life than one already heard is ignored.
    pub fn hear(&mut self, peer: PeerId, beat: Beat, now: Monotonic, period: Duration) {
        let heard = match self.heard.get(&peer) {
            Some(known) if known.beat.generation > beat.generation => return,
            Some(known) if known.beat.generation == beat.generation && known.beat.wall > Timestamp::MIN => {
                // One long gap must not make the judge patient: it counts as the longest that is forgiven.
                let gap = now.since(known.at).min(period * GAPS);
                Heard { at: now, gap: (known.gap * 7 + gap) / 8, beat }
            }
            _ => Heard { at: now, gap: period, beat },
        };
        self.heard.insert(peer, heard);
        self.lower(peer);
    }

    /// The newest beat of a peer.
    pub fn newest(&self, peer: PeerId) -> Option<&Beat> {
        self.heard.get(&peer).map(|heard| &heard.beat).filter(|beat| beat.wall > Timestamp::MIN)
    }

    /// How long ago a peer was last heard.
    pub fn silence(&self, peer: PeerId, now: Monotonic) -> Option<Duration> {
        self.heard.get(&peer).map(|heard| now.since(heard.at))
    }

    /// The usual gap between a peer's beats.
    pub fn gap(&self, peer: PeerId) -> Option<Duration> {
        self.heard.get(&peer).filter(|heard| heard.beat.wall > Timestamp::MIN).map(|heard| heard.gap)
    }

    /// When a peer counts as silent if it stays so; `None` for one never heard, and in a mesh so large that only
    /// membership decides.
    pub fn deadline(&self, peer: PeerId, peers: usize) -> Option<Monotonic> {
        let heard = self.heard.get(&peer)?;
        let grace = (heard.gap * GAPS).clamp(GRACE_MIN, grace_max(peers)?);
        Some(heard.at + grace)
    }

    /// Waits for everybody as if heard just now: whoever judges was not listening.
    pub fn begin_anew(&mut self, now: Monotonic) {
        self.heard.values_mut().for_each(|heard| heard.at = heard.at.max(now));
    }

    /// Forgets a peer: it left, or is down.
    pub fn forget(&mut self, peer: PeerId) {
        self.heard.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(generation: u64) -> Beat {
        Beat {
            generation: Generation(generation),
            wall: Timestamp(0),
            started_through: Timestamp(0),
            position: 0,
            suspended: false,
        }
    }

    #[test]
    fn four_gaps_of_silence_but_at_least_half_a_second() {
        let (mut judge, peer) = (Judge::new(), PeerId(1));
        let period = Duration::from_millis(200);
        let at = |ms: u64| Monotonic(ms * 1_000_000);
        for count in 0..50 {
            judge.hear(peer, beat(1), at(count * 200), period);
        }
        assert_eq!(judge.deadline(peer, 3), Some(at(49 * 200 + 800)));
        assert_eq!(judge.deadline(peer, 101), None);
        for count in 0..50 {
            judge.hear(peer, beat(1), at(10_000 + count * 20), period);
        }
        let deadline = judge.deadline(peer, 3).expect("heard");
        assert_eq!(deadline.since(at(10_000 + 49 * 20)), GRACE_MIN);
    }

    #[test]
    fn the_floor_is_never_above_a_deadline() {
        let (mut judge, mut dice) = (Judge::new(), 7u64);
        let at = |ms: u64| Monotonic(ms * 1_000_000);
        for step in 0..5_000u64 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (peer, peers) = (PeerId(u128::from(dice >> 33) % 20), if step < 3_000 { 21 } else { 70 });
            let now = at(step * 17);
            match dice >> 60 {
                0 => judge.forget(peer),
                1 => judge.expect(peer, Generation(1), now),
                2 => judge.begin_anew(now),
                _ => judge.hear(peer, beat(1), now, Duration::from_millis(200 + (dice >> 50) % 300)),
            }
            let ahead = (0..20).filter_map(|peer| judge.deadline(PeerId(peer), peers)).filter(|at| *at > now).min();
            assert!(ahead.is_none_or(|ahead| judge.floor(peers) <= ahead), "step {step}");
            if judge.floor(peers) <= now {
                judge.set_floor(peers, ahead);
            }
        }
        assert_eq!(judge.floor(21), Monotonic(0), "another grace");
    }

    #[test]
    fn who_was_not_listening_waits_anew() {
        let (mut judge, peer) = (Judge::new(), PeerId(1));
        judge.hear(peer, beat(1), Monotonic(5), Duration::from_millis(200));
        let deadline = judge.deadline(peer, 3).expect("heard");
        judge.begin_anew(Monotonic(9));
        assert_eq!(judge.deadline(peer, 3).expect("heard").since(deadline), Duration::from_nanos(4));
    }

    #[test]
    fn an_earlier_life_is_not_heard() {
        let (mut judge, peer) = (Judge::new(), PeerId(1));
        judge.hear(peer, beat(2), Monotonic(5), Duration::from_millis(200));
        judge.hear(peer, beat(1), Monotonic(9), Duration::from_millis(200));
        assert_eq!(judge.silence(peer, Monotonic(9)), Some(Duration::from_nanos(4)));
    }
}
