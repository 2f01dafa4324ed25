//! When samples came whose instants were long past: a peer that was away asks for what is younger than its loss, and would
//! not be given what was pushed meanwhile for a time before it.
//!
//! So a peer that is asked looks further back in shards that such samples came for since then. What it notes is small and
//! errs on the side of looking too far; it is made anew from the log after a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};

use crate::sync::OVERLAP;

/// Arrivals so close together are one, and older ones that lie closer together than half their age: about 20 of a shard.
const TOGETHER: Duration = Duration::from_secs(10);
/// No log that is asked for reaches further back.
const REMEMBERED: Duration = Duration::from_hours(3);

/// The arrivals of old samples, by shard.
#[derive(Clone, Debug, Default)]
pub struct Belated {
    /// Ever newer arrivals with ever younger samples: of an arrival after which older ones came nobody needs to know.
    arrivals: BTreeMap<ShardId, Vec<Arrival>>,
}

/// What came within a while.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    began: Timestamp,
    /// The last of it.
    came: Timestamp,
    oldest: Timestamp,
}

impl Belated {
    /// Whether samples that came at an instant are to be noted. Those are not which are as young as a copy reaches back anyway.
    pub fn is_old(came: Timestamp, oldest: Timestamp) -> bool {
        oldest < came.before(OVERLAP)
    }

    /// Samples came for a shard, the oldest of them of an instant.
    pub fn note(&mut self, shard: ShardId, came: Timestamp, oldest: Timestamp) {
        if !Belated::is_old(came, oldest) {
            return;
        }
        let arrivals = self.arrivals.entry(shard).or_default();
        // A clock that was set back makes no arrival older than one before it.
        let came = arrivals.last().map_or(came, |last| last.came.max(came));
        while arrivals.last().is_some_and(|last| last.oldest >= oldest) {
            arrivals.pop();
        }
        match arrivals.last_mut().filter(|last| came.since(last.began) < TOGETHER) {
            Some(last) => last.came = came,
            None => {
                arrivals.push(Arrival { began: came, came, oldest });
                thin_out(arrivals, came);
            }
        }
    }

    /// Of some shards, those in which older samples than `since` came at or after it, each with the instant of the oldest.
    pub fn reaches(&self, shards: &ShardSet, since: Timestamp) -> BTreeMap<ShardId, Timestamp> {
        let reach = |(shard, arrivals): (&ShardId, &Vec<Arrival>)| {
            let first = arrivals.get(arrivals.partition_point(|arrival| arrival.came < since))?;
            (first.oldest < since && shards.contains(*shard)).then_some((*shard, first.oldest))
        };
        self.arrivals.iter().filter_map(reach).collect()
    }
}

/// Joins arrivals that lie close together for their age, and forgets those that nobody asks for any more.
fn thin_out(arrivals: &mut Vec<Arrival>, now: Timestamp) {
    let mut kept: Vec<Arrival> = Vec::with_capacity(arrivals.len());
    for older in arrivals.iter().rev().filter(|arrival| now.since(arrival.came) <= REMEMBERED) {
        match kept.last_mut() {
            Some(newer) if newer.came.since(older.began) <= now.since(newer.came) / 2 => {
                (newer.began, newer.oldest) = (older.began, older.oldest);
            }
            _ => kept.push(*older),
        }
    }
    kept.reverse();
    *arrivals = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(7);

    fn after(arrivals: &[(i64, i64)]) -> Belated {
        let mut belated = Belated::default();
        arrivals
            .iter()
            .for_each(|(came, oldest)| belated.note(SHARD, Timestamp(came * 1000), Timestamp(oldest * 1000)));
        belated
    }

    fn reach(belated: &Belated, since: i64) -> Option<i64> {
        let reaches = belated.reaches(&[SHARD].into_iter().collect(), Timestamp(since * 1000));
        reaches.get(&SHARD).map(|oldest| oldest.ms() / 1000)
    }

    #[test]
    fn what_came_since_is_looked_for_as_far_back_as_the_oldest_of_it() {
        let belated = after(&[(1000, 500), (1100, 700), (1200, 1000)]);
        let cases = [(900, Some(500)), (1000, Some(500)), (1001, Some(700)), (1150, Some(1000)), (1201, None)];
        cases.iter().for_each(|(since, oldest)| assert_eq!(reach(&belated, *since), *oldest, "since {since}"));
        assert!(belated.reaches(&ShardSet::default(), Timestamp(0)).is_empty());
    }

    #[test]
    fn what_is_as_young_as_a_copy_reaches_anyway_is_not_noted() {
        assert_eq!(reach(&after(&[(1000, 970)]), 990), None);
        assert_eq!(reach(&after(&[(1000, 969)]), 990), Some(969));
    }

    #[test]
    fn many_arrivals_reach_too_far_and_never_too_short() {
        let arrivals: Vec<(i64, i64)> = (0..3000).map(|n| (20_000 + 3 * n, 19_500 + 3 * n - (n % 7) * 40)).collect();
        let belated = after(&arrivals);
        assert!(belated.arrivals[&SHARD].len() <= 25, "{}", belated.arrivals[&SHARD].len());
        for since in (19_900..29_100).step_by(17) {
            let came = arrivals.iter().filter(|(came, _)| *came >= since).map(|(_, oldest)| *oldest);
            if let Some(oldest) = came.min().filter(|oldest| *oldest < since) {
                let reach = reach(&belated, since).expect("something came");
                // Of what came in a stream that is always late, not more than half as much again as the peer missed.
                let most = (29_000 - since) / 2 + 300;
                assert!((oldest - most..=oldest).contains(&reach), "since {since}: {reach} for {oldest}");
            }
        }
        // Hours later nobody asks for it.
        let mut belated = belated;
        belated.note(SHARD, Timestamp(60_000_000), Timestamp(50_000_000));
        assert_eq!(belated.arrivals[&SHARD].len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_hides_no_arrival() {
        assert_eq!(reach(&after(&[(1000, 500), (900, 600)]), 950), Some(500));
    }
}
