//! What a paging run is made of: alerts in truth, and what strikes when.

use std::collections::BTreeMap;

use promesh_model::{Labels, SHARD_COUNT, ShardId};
use promesh_node::SourceSpec;
use promesh_replication::SourceId;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Behaviour, PagingEvent};
use crate::faults::Fault;
use crate::world::{Event, MS, SECOND, World, job};

/// An alert, in truth.
#[derive(Clone, Debug)]
pub(crate) struct PlannedAlert {
    group: usize,
    instance: usize,
    /// From when to when it fires, in ms of the world.
    pub(crate) episodes: Vec<(i64, i64)>,
    /// The own rule that evaluates it; none when a client posts it.
    pub(crate) rule: Option<SourceId>,
    /// A client that ends by saying nothing more.
    pub(crate) ends_silently: bool,
    /// When firing or end of an episode was first acknowledged.
    pub(crate) acknowledged: BTreeMap<(usize, bool), u64>,
}

impl PlannedAlert {
    pub(crate) fn labels(&self) -> Labels {
        let (group, instance) = (format!("g{}", self.group), format!("i{}", self.instance));
        Labels::from_pairs([("alertname", group.as_str()), ("instance", instance.as_str())])
    }

    /// The episode that runs at an instant.
    pub(crate) fn episode_at(&self, at: i64) -> Option<usize> {
        self.episodes.iter().position(|(begin, end)| *begin <= at && at < *end)
    }

    /// The last episode that was over by an instant.
    pub(crate) fn ended_before(&self, at: i64) -> Option<usize> {
        self.episodes.iter().rposition(|(_, end)| *end <= at)
    }

    /// Whether the mesh had acknowledged by an instant of the world, in ns, that an episode began.
    pub(crate) fn is_known(&self, episode: usize, at: u64) -> bool {
        self.acknowledged.get(&(episode, true)).is_some_and(|known| *known <= at)
    }

    /// Whether it fires at any instant of a span.
    pub(crate) fn fires_within(&self, from: i64, to: i64) -> bool {
        self.episodes.iter().any(|(begin, end)| *begin <= to && from < *end)
    }

    /// Whether it fires at every instant of a span.
    pub(crate) fn fires_throughout(&self, from: i64, to: i64) -> bool {
        self.episodes.iter().any(|(begin, end)| *begin <= from && to < *end)
    }
}

/// A moment in the life of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    BeforeIntent,
    AfterIntent,
    Connecting,
    Sending,
    Answered,
}

/// What strikes the peer whose claim is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    moment: Moment,
    what: What,
    /// In ns.
    lasts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Kill,
    Pause,
    /// Nothing in, nothing out.
    CutOff,
    /// Out, but not in; or the other way round.
    CutOneWay {
        inbound: bool,
    },
}

impl World {
    pub(super) fn arm(&mut self, strike: Strike) {
        self.paging().armed.push((strike.moment, strike));
    }

    /// A claim of a peer is at a moment; says whether the peer died of it.
    pub(super) fn moment(&mut self, peer: usize, moment: Moment) -> bool {
        let armed = &mut self.paging().armed;
        let Some(at) = armed.iter().position(|(when, _)| *when == moment) else { return false };
        let (_, strike) = armed.remove(at);
        let until = self.now + strike.lasts;
        if self.verbose {
            println!("{:9.3} s {peer} is struck by {strike:?}", self.now as f64 / 1e9);
        }
        self.note_fault(self.now);
        let others: Vec<usize> = (0..self.peers.len()).filter(|other| *other != peer).collect();
        match strike.what {
            What::Kill => {
                self.strike(Fault::Kill(peer));
                self.plan(vec![(until, Fault::Start(peer))]);
            }
            What::Pause => self.strike(Fault::Pause(peer, strike.lasts)),
            What::CutOff | What::CutOneWay { .. } => {
                for other in others {
                    for (inbound, from, to) in [(true, other, peer), (false, peer, other)] {
                        if strike.what == What::CutOff || strike.what == (What::CutOneWay { inbound }) {
                            self.strike(Fault::Cut(from, to));
                            self.plan(vec![(until, Fault::Heal(from, to))]);
                        }
                    }
                }
            }
        }
        strike.what == What::Kill
    }
}

/// A configuration whose waits are short enough for a run.
pub(crate) fn config(rng: &mut StdRng) -> String {
    let (wait, interval) = (rng.random_range(1..5), rng.random_range(8..21));
    let second = if rng.random_bool(0.3) { ", {url: 'http://other/'}" } else { "" };
    format!(
        "route: {{receiver: hook, group_by: [alertname], group_wait: {wait}s, group_interval: {interval}s, \
         repeat_interval: 4h}}\nreceivers:\n- name: hook\n  webhook_configs: [{{url: 'http://hook/'}}{second}]\n"
    )
}

/// Alerts of a run that is disturbed until `end`, in ns.
pub(crate) fn alerts(end: u64, rng: &mut StdRng) -> (Vec<PlannedAlert>, Vec<SourceSpec>) {
    let end = (end / MS) as i64;
    let mut sources = Vec::new();
    let mut alerts = Vec::new();
    for group in 0..rng.random_range(2..9) {
        for instance in 0..rng.random_range(1..4) {
            let mut episodes = Vec::new();
            let mut at = rng.random_range(25_000..end);
            for _ in 0..rng.random_range(1..3) {
                let lasts = if rng.random_bool(0.3) { i64::MAX / 4 } else { rng.random_range(15_000..90_000) };
                episodes.push((at, at + lasts));
                // Long enough for the end to be told before it begins again.
                at = at.saturating_add(lasts).saturating_add(rng.random_range(60_000..120_000));
                if at > end {
                    break;
                }
            }
            let rule = rng.random_bool(0.5).then(|| SourceId(rng.random()));
            if let Some(source) = rule {
                let shard = ShardId(rng.random_range(0..SHARD_COUNT as u16));
                sources.push(SourceSpec {
                    source,
                    shard,
                    interval_ms: 5000,
                    phase_ms: None,
                    piece: job().id(),
                    pinned: false,
                });
            }
            let ends_silently = rule.is_none() && rng.random_bool(0.3);
            alerts.push(PlannedAlert { group, instance, episodes, rule, ends_silently, acknowledged: BTreeMap::new() });
        }
    }
    (alerts, sources)
}

/// What happens when: to peers, links and disks; to senders and receivers.
pub(crate) type Plan = (Vec<(u64, Fault)>, Vec<(u64, PagingEvent)>);

/// Faults of a peer that is alone: it dies at any moment, and comes back.
pub(crate) fn faults_alone(end: u64, rng: &mut StdRng) -> Plan {
    let mut paging = Vec::new();
    let mut at = 22 * SECOND;
    while at + 35 * SECOND < end {
        at += rng.random_range(5..30) * SECOND;
        let what = if rng.random_bool(0.8) { What::Kill } else { What::Pause };
        let lasts = rng.random_range(2 * SECOND..20 * SECOND);
        paging.push((at, PagingEvent::Strike(Strike { what, lasts, ..strike(rng) })));
    }
    (Vec::new(), paging)
}

/// Faults of a run until `end`; all of them end by themselves.
pub(crate) fn faults(peers: usize, end: u64, rng: &mut StdRng) -> Plan {
    let mut plan = vec![(0, Fault::Loss(rng.random_range(0..30)))];
    let mut paging = Vec::new();
    let mut at = 22 * SECOND;
    while at + 35 * SECOND < end {
        at += rng.random_range(1..20) * SECOND + rng.random_range(0..SECOND);
        let peer = rng.random_range(0..peers);
        let lasts = rng.random_range(1..25) * SECOND + rng.random_range(0..SECOND);
        match rng.random_range(0..12) {
            0..=3 => paging.push((at, PagingEvent::Strike(strike(rng)))),
            4 => plan.extend([(at, Fault::Kill(peer)), (at + lasts, Fault::Start(peer))]),
            5 => plan.push((at, Fault::Pause(peer, rng.random_range(SECOND / 2..32 * SECOND)))),
            6 => plan.extend(alone(peers, peer, at, at + rng.random_range(1..8) * SECOND, true, rng.random_bool(0.5))),
            7 => plan.extend(alone(peers, peer, at, at + lasts, false, false)),
            8 => {
                for peer in 0..peers {
                    plan.push((at + rng.random_range(0..200 * MS), Fault::Kill(peer)));
                    plan.push((at + rng.random_range(SECOND..8 * SECOND), Fault::Start(peer)));
                }
            }
            9 => plan.extend([(at, Fault::Terminate(peer)), (at + 5 * SECOND + lasts, Fault::Start(peer))]),
            10 => {
                let behaviour = match rng.random_range(0..3) {
                    0 => Behaviour::Slow(20 * SECOND),
                    1 => Behaviour::Failing,
                    _ => Behaviour::Deaf,
                };
                let until = at + rng.random_range(5..50) * SECOND;
                paging.push((at, PagingEvent::Receivers(behaviour)));
                paging.push((until.min(end), PagingEvent::Receivers(Behaviour::Well)));
            }
            _ => plan.push((at, Fault::Step(peer, rng.random_range(-400..400)))),
        }
    }
    (plan, paging)
}

fn strike(rng: &mut StdRng) -> Strike {
    let moments = [Moment::BeforeIntent, Moment::AfterIntent, Moment::Connecting, Moment::Sending, Moment::Answered];
    let moment = moments[rng.random_range(0..moments.len())];
    let (what, lasts) = match rng.random_range(0..5) {
        0 | 1 => (What::Kill, rng.random_range(2 * SECOND..20 * SECOND)),
        2 => (What::Pause, 31 * SECOND),
        3 => (What::CutOff, 6 * SECOND),
        _ => (What::CutOneWay { inbound: rng.random_bool(0.5) }, rng.random_range(SECOND..8 * SECOND)),
    };
    Strike { moment, what, lasts }
}

/// A peer cut off from all others, both ways or one.
fn alone(peers: usize, peer: usize, from: u64, to: u64, one_way: bool, inbound: bool) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    for other in (0..peers).filter(|other| *other != peer) {
        for (into, a, b) in [(true, other, peer), (false, peer, other)] {
            if !one_way || into == inbound {
                plan.extend([(from, Fault::Cut(a, b)), (to, Fault::Heal(a, b))]);
            }
        }
    }
    plan
}

impl World {
    pub(crate) fn plan_paging(&mut self, events: Vec<(u64, PagingEvent)>) {
        for (at, event) in events {
            self.schedule(at, Event::Paging(event));
        }
        let outside: Vec<usize> = {
            let alerts = &self.paging().alerts;
            (0..alerts.len()).filter(|alert| alerts[*alert].rule.is_none()).collect()
        };
        for alert in outside {
            let at = 20 * SECOND + self.rng.random_range(0..10 * SECOND);
            self.schedule(at, Event::Paging(PagingEvent::Client { alert }));
        }
    }
}
