//! The receivers: part of the oracle, they write down what reached them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_alerting::nflog::KeyId;
use promesh_alerting::{Input, Outcome};
use promesh_model::Timestamp;
use promesh_node::PeerInput;
use rand::RngExt;

use super::{Moment, PagingEvent};
use crate::world::{Event, MS, SECOND, World};

/// How receivers behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// They take all at once.
    Well,
    /// They take all and answer up to so many ns later.
    Slow(u64),
    /// They answer 500 and tell nobody.
    Failing,
    /// They take all and half of their answers are lost.
    Deaf,
}

/// What a receiver took.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// When, in ns of the world.
    pub(crate) at: u64,
    /// Who sent it, in which life.
    pub(crate) peer: usize,
    pub(crate) boot: u64,
    /// Group and integration.
    pub(crate) key: KeyId,
    pub(crate) flush: Timestamp,
    /// Alerts told as firing and as resolved.
    pub(crate) firing: BTreeSet<usize>,
    pub(crate) resolved: BTreeSet<usize>,
    pub(crate) idempotency_key: String,
    /// Whether it was sent without a majority.
    pub(crate) degraded: bool,
    /// Whether the sender died, stood still or was cut off, or the answer was lost, before its record was safe.
    pub(crate) in_doubt: bool,
    /// Since when it is: what was told before that has no excuse in it.
    pub(crate) doubted_from: Option<u64>,
}

impl World {
    pub(super) fn first_byte(&mut self, peer: usize, number: u64) {
        let now = self.clock(peer).monotonic;
        let Some(attempt) = self.paging().attempts.get(&number) else { return };
        let (claim, lease, notification) = (attempt.claim, attempt.lease, attempt.notification.clone());
        if now > lease {
            self.paging().attempts.remove(&number);
            return self.feed(peer, PeerInput::Alerting(Input::Notified { claim, outcome: Outcome::Expired }));
        }
        self.weigh_doubts();
        let behaviour = self.paging().behaviour;
        let (mut latency, mut outcome) = (self.rng.random_range(MS..50 * MS), Outcome::Sent { data: BTreeMap::new() });
        let mut in_doubt = false;
        match behaviour {
            Behaviour::Well => {}
            Behaviour::Slow(most) => latency = self.rng.random_range(MS..most),
            Behaviour::Failing => outcome = Outcome::Retry { after: None, why: "500".to_owned() },
            Behaviour::Deaf => {
                if self.rng.random_bool(0.5) {
                    in_doubt = true;
                    outcome = Outcome::Retry { after: Some(Duration::from_secs(1)), why: "no answer".to_owned() };
                }
            }
        }
        if behaviour != Behaviour::Failing {
            let paging = self.paging.as_ref().expect("it has attempts");
            let index =
                |labels: &promesh_model::Labels| paging.alerts.iter().position(|alert| alert.labels() == *labels);
            let told = |resolved: bool| -> BTreeSet<usize> {
                let alerts = notification.alerts.iter().filter(|alert| alert.ends_at.is_some() == resolved);
                alerts.filter_map(|alert| index(&alert.labels)).collect()
            };
            let delivery = Delivery {
                at: self.now,
                peer,
                boot: self.peers[peer].boot,
                key: notification.key.id(),
                flush: notification.flush,
                firing: told(false),
                resolved: told(true),
                idempotency_key: notification.idempotency_key.clone(),
                degraded: notification.degraded,
                in_doubt,
                doubted_from: in_doubt.then_some(self.now),
            };
            if self.verbose {
                println!("{:9.3} s {peer} tells {delivery:?}", self.now as f64 / 1e9);
            }
            let paging = self.paging();
            paging.unsettled.insert(paging.deliveries.len());
            paging.deliveries.push(delivery);
            self.weigh_doubts();
        }
        if let Some(attempt) = self.paging().attempts.get_mut(&number) {
            attempt.outcome = Some(outcome);
        }
        let boot = self.peers[peer].boot;
        self.schedule(self.now + latency, Event::Paging(PagingEvent::Answered { peer, boot, attempt: number }));
        self.schedule(self.now + latency + SECOND, Event::Paging(PagingEvent::Weigh));
        self.moment(peer, Moment::Sending);
    }

    pub(super) fn answered(&mut self, peer: usize, number: u64) {
        let Some(attempt) = self.paging().attempts.remove(&number) else { return };
        let Some(outcome) = attempt.outcome else { return };
        let sent = matches!(outcome, Outcome::Sent { .. });
        self.feed(peer, PeerInput::Alerting(Input::Notified { claim: attempt.claim, outcome }));
        self.weigh_doubts();
        if sent {
            self.moment(peer, Moment::Answered);
        }
    }
}
