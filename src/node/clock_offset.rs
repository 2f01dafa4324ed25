//! How far a peer's clock is from the others'.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::{Monotonic, Now, PeerId, Timestamp};

/// A slot further ahead of a holder's clock is not taken: the clock of whoever started it is wrong, or the holder's is, and
/// the head's windows would follow it.
pub const SLOT_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);
/// Samples may be up to ten minutes ahead of their slot or of who took the push, as in Prometheus (`maxAheadTime`); for a
/// holder that comes on top.
pub const SAMPLE_AHEAD_MAX: Duration = Duration::from_secs(15 * 60);
/// Who owns a shard, and takes or refuses what was pushed to others for it, is half as far off as holders allow.
pub const PUSH_AHEAD_MAX: Duration = Duration::from_secs(12 * 60 + 30);

/// Off by more than this from the median: somebody should look tomorrow.
const WARN_MS: i64 = 500;
/// Off by more than this from a majority that agrees: owns and sends nothing.
const SKEWED_MS: i64 = 2000;
/// For this long without a break: beats that waited in a cut come from many peers as it heals, all late alike, and are
/// through within moments. A wrong clock stays wrong.
const SKEWED_AFTER: Duration = Duration::from_secs(2);

/// The offsets of other peers' clocks from this peer's, from their beats.
#[derive(Clone, Debug, Default)]
pub struct ClockOffsets {
    offsets: BTreeMap<PeerId, i64>,
    /// How many of them are beyond [`SKEWED_MS`]: with less than half there is no need to look for a median, and every
    /// beat asks.
    far: usize,
    /// Since when, and up to which beat, a majority that agrees has seen our clock far off.
    apart: Option<(Monotonic, Monotonic)>,
}

fn is_far(offset: i64) -> bool {
    offset.abs() > SKEWED_MS
}

impl ClockOffsets {
    /// Takes a peer's clock as its beat showed it. The way of the beat is not taken off: it is milliseconds.
    pub fn note(&mut self, peer: PeerId, theirs: Timestamp, now: Now) {
        let seen = theirs.ms() - now.wall.ms();
        let before = self.offsets.get(&peer).copied();
        // A beat comes after it was sent: the later it comes, the further back their clock seems. So what seems nearer the
        // truth is taken at once, and what seems further from it is smoothed, so that late beats, as they come one upon
        // another when a cut heals, are forgotten with the first that is not.
        let offset = before.map_or(seen, |known| seen.max(known + (seen - known) / 4));
        self.offsets.insert(peer, offset);
        self.far -= usize::from(before.is_some_and(is_far));
        self.far += usize::from(is_far(offset));
        let since = self.apart.map_or(now.monotonic, |(since, _)| since);
        self.apart = self.is_apart().then_some((since, now.monotonic));
    }

    /// Forgets a peer.
    pub fn forget(&mut self, peer: PeerId) {
        let gone = self.offsets.remove(&peer);
        self.far -= usize::from(gone.is_some_and(is_far));
        self.apart = self.apart.filter(|_| self.is_apart());
    }

    /// A peer's clock less ours, in ms.
    pub fn of(&self, peer: PeerId) -> Option<i64> {
        self.offsets.get(&peer).copied()
    }

    /// The median of the others' clocks less ours, in ms.
    pub fn median(&self) -> Option<i64> {
        let mut sorted: Vec<i64> = self.offsets.values().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().wrapping_sub(1) / 2).copied()
    }

    /// Whether our clock is off enough for a warning.
    pub fn is_off(&self) -> bool {
        self.median().is_some_and(|median| median.abs() > WARN_MS)
    }

    /// Whether a majority of the mesh, us included, has agreed within half a second in its beats of two seconds and more,
    /// and we were over two seconds off all the while. With two peers nobody can tell who is right.
    pub fn is_skewed(&self) -> bool {
        self.apart.is_some_and(|(since, last)| last.since(since) >= SKEWED_AFTER)
    }

    fn is_apart(&self) -> bool {
        if self.far * 2 < self.offsets.len() {
            return false;
        }
        let Some(median) = self.median() else { return false };
        let agreeing = self.offsets.values().filter(|offset| (*offset - median).abs() <= WARN_MS).count();
        agreeing >= 2 && agreeing * 2 > self.offsets.len() + 1 && median.abs() > SKEWED_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Now {
        Now { monotonic: Monotonic(ms as u64 * 1_000_000), wall: Timestamp(ms) }
    }

    #[test]
    fn late_beats_are_forgotten_with_the_first_that_is_not() {
        let mut offsets = ClockOffsets::default();
        let beat = |offsets: &mut ClockOffsets, sent: i64, came: i64| {
            offsets.note(PeerId(1), Timestamp(sent + 100), at(came));
        };
        beat(&mut offsets, 0, 0);
        // One late beat is no verdict; many that come as a cut heals are, until they have caught up.
        beat(&mut offsets, 100, 2_100);
        assert_eq!(offsets.of(PeerId(1)), Some(-400));
        (200..5_000).step_by(100).for_each(|sent| beat(&mut offsets, sent, 5_000));
        beat(&mut offsets, 5_000, 5_000);
        assert_eq!(offsets.of(PeerId(1)), Some(100));
        // A clock that is set back is followed within some beats.
        (5_100..8_000).step_by(100).for_each(|sent| beat(&mut offsets, sent - 1_000, sent));
        assert_eq!(offsets.of(PeerId(1)), Some(-897));
    }

    /// What clocks show is noted at an instant; whether ours is skewed then, and once it is noted again two seconds later.
    fn verdicts(offsets: &mut ClockOffsets, came: i64, ahead: &[(u128, i64)]) -> [bool; 2] {
        [came, came + 2_000].map(|came| {
            for (peer, ms) in ahead {
                offsets.note(PeerId(*peer), Timestamp(came + ms), at(came));
            }
            offsets.is_skewed()
        })
    }

    #[test]
    fn only_a_majority_that_agrees_makes_us_skewed() {
        let mut offsets = ClockOffsets::default();
        assert_eq!(verdicts(&mut offsets, 0, &[(1, 5_000)]), [false, false]);
        assert!(offsets.is_off());
        assert_eq!(verdicts(&mut offsets, 5_000, &[(2, 5_100)]), [false, true]);
        assert_eq!(verdicts(&mut offsets, 10_000, &[(2, -60_000)]), [false, false]);
        offsets.forget(PeerId(2));
        assert_eq!(verdicts(&mut offsets, 15_000, &[(3, 5_000)]), [false, true]);
        assert_eq!(verdicts(&mut offsets, 17_500, &[(3, 5_000)]), [true, true]);
        assert_eq!(verdicts(&mut offsets, 20_000, &[(4, 0), (5, 0)]), [false, false]);
    }

    #[test]
    fn a_burst_of_late_beats_makes_nobody_skewed() {
        let mut offsets = ClockOffsets::default();
        let burst = |offsets: &mut ClockOffsets, came: i64, ahead: i64| {
            (1..=2).for_each(|peer| offsets.note(PeerId(peer), Timestamp(came + ahead), at(came)));
            offsets.is_skewed()
        };
        // Met again as a cut heals: what each sent in the cut comes first.
        assert!(!burst(&mut offsets, 5_000, -4_700));
        assert!(!burst(&mut offsets, 6_900, -4_700));
        // Silence says nothing more; the next beat that still shows it does.
        assert!(!offsets.is_skewed());
        assert!(burst(&mut offsets, 7_000, -4_700));
        assert!(!burst(&mut offsets, 7_200, 0));
        // It begins anew with the next one, or with peers that are met again.
        assert!(!burst(&mut offsets, 9_000, -60_000));
        offsets.forget(PeerId(2));
        offsets.note(PeerId(2), Timestamp(10_000), at(10_000));
        assert!(!burst(&mut offsets, 11_500, -60_000));
    }
}
