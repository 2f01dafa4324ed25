//! At most one notification a group and flush, and never the same news twice in a row; at least one always.
//!
//! Twice only where the sender of the first died, stood still or was cut off, or its answer was lost, between the
//! receiver's taking it and a durable record of that, and before the second; or where one of the two was sent without a
//! majority, which is marked.
//! What only such a sender told may also miss its end. So may what others had told before and one that told alone, and died
//! before it met them, did not know of.
//! At least one: what was acknowledged and lasts has been told when everything works again.
//!
//! Source: design of the mesh, sections 1 (P3–P5), 11 and 16, invariant 3.

use std::collections::{BTreeMap, BTreeSet};

use promesh_alerting::nflog::KeyId;

use crate::paging::Delivery;
use crate::world::{MS, SECOND, World};

/// What became of a run's notifications.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) notifications: usize,
    /// Told twice where that is allowed.
    pub(crate) excused: usize,
    pub(crate) violations: Vec<String>,
}

pub(crate) fn violations(world: &World) -> Told {
    let Some(paging) = &world.paging else { return Told::default() };
    let mut told = Told { notifications: paging.deliveries.len(), ..Told::default() };
    let mut by_key: BTreeMap<KeyId, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &paging.deliveries {
        by_key.entry(delivery.key).or_default().push(delivery);
    }
    for deliveries in by_key.values() {
        twice(deliveries, &mut told);
    }
    never(world, &by_key, &mut told);
    told
}

fn twice(deliveries: &[&Delivery], told: &mut Told) {
    for (at, second) in deliveries.iter().enumerate() {
        let same_flush = deliveries[..at].iter().rev().find(|first| first.flush == second.flush);
        let same_news = deliveries[..at]
            .last()
            .filter(|first| first.firing == second.firing && first.resolved == second.resolved)
            .filter(|first| first.flush != second.flush);
        for first in same_flush.into_iter().chain(same_news) {
            let same = first.firing == second.firing && first.resolved == second.resolved;
            if same && first.flush == second.flush && first.idempotency_key != second.idempotency_key {
                told.violations.push(format!("a repeat under another name: {first:?} and {second:?}"));
            }
            // Who told other news alone at the same time may be taken for the later one by the log, and what it told is put
            // right: nobody knows in which order the receiver read the two.
            let is_other = |d: &Delivery| d.firing != first.firing || d.resolved != first.resolved;
            let beside = |d: &Delivery| d.degraded && d.peer != first.peer && d.at + SECOND > first.at && is_other(d);
            let is_set_right = first.flush != second.flush && deliveries[..at].iter().any(|d| beside(d));
            if first.doubted_from.is_some_and(|from| from <= second.at)
                || first.degraded
                || second.degraded
                || is_set_right
            {
                told.excused += 1;
            } else {
                told.violations.push(format!("told twice: {first:?} and {second:?}"));
            }
        }
    }
}

/// What lasted through the end was told, and what ended was told as ended, unless it was never told.
fn never(world: &World, by_key: &BTreeMap<KeyId, Vec<&Delivery>>, told: &mut Told) {
    let Some(paging) = &world.paging else { return };
    let end = (world.now / MS) as i64;
    // Every integration of a receiver is told the same; a group's first notification shows its keys.
    let keys_of = |alert: usize| -> BTreeSet<KeyId> {
        let mentions = |d: &&Delivery| d.firing.contains(&alert) || d.resolved.contains(&alert);
        paging.deliveries.iter().filter(mentions).map(|d| d.key).collect()
    };
    for (index, alert) in paging.alerts.iter().enumerate() {
        let keys = keys_of(index);
        if let Some(episode) = alert.episode_at(end)
            && alert.acknowledged.contains_key(&(episode, true))
            && keys.is_empty()
        {
            told.violations.push(format!("never told: {} since {:?}", alert.labels(), alert.episodes[episode]));
        }
        for key in keys {
            let last = by_key[&key].iter().rev().find(|d| d.firing.contains(&index) || d.resolved.contains(&index));
            let told_firing = last.is_some_and(|last| last.firing.contains(&index));
            // Who died right after telling, or told alone, may have been the only one to know; who knows that it was told
            // as firing owes the end.
            let owed = told_firing && world.knows_as_told(key, alert);
            // Who told alone since, and did not know of it, left it out: the last telling is what the log keeps. It puts that
            // right when it meets the others, unless it died before.
            let died = |d: &Delivery| !world.is_up(d.peer, d.boot);
            let is_hidden = |last: &&&Delivery| by_key[&key].iter().any(|d| d.degraded && d.at > last.at && died(d));
            let is_alone = |last: &&&Delivery| last.in_doubt || last.degraded || is_hidden(last);
            let alone = last.filter(is_alone).is_some() && !owed;
            if told_firing != alert.episode_at(end).is_some() && alone {
                told.excused += 1;
            } else if told_firing != alert.episode_at(end).is_some() {
                told.violations.push(format!(
                    "{} was last told as {}, in truth it is not: {:?}; {last:?}",
                    alert.labels(),
                    if told_firing { "firing" } else { "resolved" },
                    alert.episodes
                ));
            }
        }
    }
}
