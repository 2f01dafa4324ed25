//! No false resolve and no false fire by a move, a restart or a cut.
//!
//! Nobody is told that an alert ended which fires all the time, nor that one fires which is over: the time for its end to
//! be posted, or where a client just falls silent, for its validity and the grace after a start or a long standstill (time
//! down does not count), is left. And what was
//! told as ended is not told as firing again before it has begun again. A mesh that was down when an alert began anew still
//! owes the end of the time before: that it tells this end before it has heard of the new beginning is no false resolve,
//! since the end is true, and the new firing follows.
//!
//! Source: design of the mesh, sections 10, 11 and 16, invariant 8.

use crate::paging::Delivery;
use crate::paging::posts::VALID_MS;
use crate::world::{EPOCH_MS, MS, SECOND, World};

/// An evaluation every 5 s, a post, an attempt, a skewed clock.
const POSTED_MS: i64 = 15_000;
/// From an attempt's beginning to its first byte, in ns, and for what was just posted to be heard of.
const ATTEMPT: u64 = SECOND;
/// What an end that nobody states may take.
const SILENT_MS: i64 = VALID_MS + POSTED_MS;
/// What a peer's clock may be ahead before it sends nothing: it evaluates a slot before its time.
const AHEAD_MS: i64 = 2_000;
/// After every start of a peer, and every long standstill, its sources get this chance to post again.
const GRACE_MS: i64 = 60_000 + POSTED_MS;

pub(crate) fn violations(world: &World) -> Vec<String> {
    let Some(paging) = &world.paging else { return Vec::new() };
    let mut found = Vec::new();
    for (at, delivery) in paging.deliveries.iter().enumerate() {
        let now = (delivery.at / MS) as i64;
        for alert in &delivery.resolved {
            let planned = &paging.alerts[*alert];
            // What is told was settled before the connection stood.
            let begun_by = delivery.at.saturating_sub(ATTEMPT);
            let known =
                planned.episode_at(now).is_some_and(|episode| episode == 0 || planned.is_known(episode, begun_by));
            if planned.fires_throughout(now - POSTED_MS, now) && known && !delivery.degraded {
                found.push(format!("false resolve of {}, {:?}: {delivery:?}", planned.labels(), planned.episodes));
            }
        }
        for alert in &delivery.firing {
            let planned = &paging.alerts[*alert];
            let started = paging.starts.iter().map(|start| (start / MS) as i64).filter(|start| *start <= now).max();
            let waits = started.is_some_and(|started| now - started < GRACE_MS);
            if !planned.fires_within(now - SILENT_MS, now + AHEAD_MS) && !waits && !delivery.degraded {
                found.push(format!("false fire of {}, {:?}: {delivery:?}", planned.labels(), planned.episodes));
            }
            let before = paging.deliveries[..at].iter().rev().find(|d| d.key == delivery.key && mentions(d, *alert));
            if let Some(ended) = before.filter(|before| before.resolved.contains(alert)) {
                let told = (ended.at / MS) as i64;
                let begun = planned.episodes.iter().enumerate().filter(|(_, (begin, _))| *begin <= now);
                let begun_again = begun.map(|(episode, (begin, _))| (episode, *begin)).any(|(episode, begin)| {
                    begin > told - POSTED_MS || episode > 0 && !planned.is_known(episode, ended.at)
                });
                // What only a sender knew that died or was cut off right then, the others cannot hold to; but to an end that
                // was acknowledged, since two had that.
                let end = planned.ended_before(told).and_then(|episode| planned.acknowledged.get(&(episode, false)));
                let was_posted = end.is_some_and(|posted| posted + ATTEMPT < delivery.at);
                let is_known = !ended.degraded && (!ended.in_doubt || was_posted);
                if !begun_again && !delivery.degraded && is_known {
                    found.push(format!(
                        "{} was told as ended and fires again, {:?} after {:?}: {delivery:?} after {ended:?}",
                        planned.labels(),
                        planned.episodes,
                        delivery.flush.ms() - EPOCH_MS,
                    ));
                }
            }
        }
    }
    found
}

fn mentions(delivery: &Delivery, alert: usize) -> bool {
    delivery.firing.contains(&alert) || delivery.resolved.contains(&alert)
}
