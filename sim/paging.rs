//! The alerting side of a world: what is posted, who sends, and what the receivers saw.
//!
//! Every peer's `Alerting` runs inside its [`promesh_node::Peer`]; its outputs are carried out here. Alerts are posted by
//! own rules, which are sources of the mesh, evaluated by whoever acts for their shard, and by outside clients. The
//! receivers are part of the oracle: they write down what reached them, and what became of the sender meanwhile.

mod plan;
pub(crate) mod posts;
mod receivers;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promesh_alerting::message::{Part, decode_records};
use promesh_alerting::nflog::{Done, KeyId};
use promesh_alerting::{AlertKey, Alerting, ClaimId, Input, Notification, Output, Setup, Timing};
use promesh_config::alertmanager::AlertmanagerConfig;
use promesh_model::{Monotonic, PeerId, Timestamp};
use promesh_node::{Peer, PeerInput};
use promesh_replication::SourceId;
use rand::RngExt;

use crate::world::{Event, MS, SECOND, Wire, World};
pub(crate) use plan::{Moment, PlannedAlert, Strike};
pub(crate) use receivers::{Behaviour, Delivery};
pub(crate) use run::run;

/// A standstill so long is time down, which does not count: sources get a chance to post after it, as after a start.
const SOURCES_GIVE_UP: u64 = 10 * SECOND;
/// The digest of the one configuration.
const DIGEST: u128 = 1;

/// What happens on the alerting side.
#[derive(Debug)]
pub(crate) enum PagingEvent {
    /// Everything written up to this token is durable.
    Persisted { peer: usize, boot: u64, token: u64 },
    /// A connection stands: the first byte goes out if the lease holds.
    FirstByte { peer: usize, boot: u64, attempt: u64 },
    /// The receiver's answer is back.
    Answered { peer: usize, boot: u64, attempt: u64 },
    /// An evaluator posts what it found before it stood still.
    Post(Box<posts::Post>),
    /// An outside client has something to say.
    Client { alert: usize },
    /// Something strikes, now or at a moment of some claim.
    Strike(Strike),
    /// The receivers behave otherwise.
    Receivers(Behaviour),
    /// What became of deliveries under way is looked at.
    Weigh,
}

impl PagingEvent {
    /// Whose process it runs in.
    pub(crate) fn peer(&self) -> Option<usize> {
        match self {
            PagingEvent::Persisted { peer, .. }
            | PagingEvent::FirstByte { peer, .. }
            | PagingEvent::Answered { peer, .. } => Some(*peer),
            PagingEvent::Post(post) => Some(post.peer),
            _ => None,
        }
    }
}

/// The log of records of one peer.
#[derive(Default)]
struct Records {
    synced: Vec<Vec<u8>>,
    written: Vec<(u64, Vec<u8>)>,
}

struct Attempt {
    peer: usize,
    claim: ClaimId,
    notification: Box<Notification>,
    lease: Monotonic,
    outcome: Option<promesh_alerting::Outcome>,
}

/// The alerting side of a world.
pub(crate) struct Paging {
    config: Arc<AlertmanagerConfig>,
    /// What is to be told, in truth.
    pub(crate) alerts: Vec<PlannedAlert>,
    timing: Timing,
    records: Vec<Records>,
    attempts: BTreeMap<u64, Attempt>,
    attempt_count: u64,
    token_count: u64,
    posting: BTreeMap<u64, posts::Posting>,
    memory: BTreeMap<(usize, u64, usize), posts::Memory>,
    behaviour: Behaviour,
    /// For how long at most an evaluator stands still between an evaluation and its post, when the truth changes meanwhile.
    pub(crate) evaluators_pause_ms: i64,
    /// Strikes that wait for a moment, and who may be struck.
    armed: Vec<(Moment, Strike)>,
    /// All that receivers took, in order.
    pub(crate) deliveries: Vec<Delivery>,
    /// When peers started, or went on after a long standstill.
    pub(crate) starts: Vec<u64>,
    /// Deliveries whose record is not yet safe.
    unsettled: BTreeSet<usize>,
    /// Since when each peer cannot reach a majority of the electors that it knows, in ns.
    unable_since: Vec<Option<u64>>,
}

impl Paging {
    pub(crate) fn new(config: &str, alerts: Vec<PlannedAlert>, peers: usize) -> Paging {
        let config = promesh_config::alertmanager::load("sim.yml", config.as_bytes(), Path::new("")).expect("it loads");
        Paging {
            config: Arc::new(config),
            alerts,
            timing: Timing { source_grace: Duration::from_secs(60), ..Timing::default() },
            records: (0..peers).map(|_| Records::default()).collect(),
            attempts: BTreeMap::new(),
            attempt_count: 0,
            token_count: 0,
            posting: BTreeMap::new(),
            memory: BTreeMap::new(),
            behaviour: Behaviour::Well,
            evaluators_pause_ms: 0,
            armed: Vec::new(),
            deliveries: Vec::new(),
            starts: Vec::new(),
            unsettled: BTreeSet::new(),
            unable_since: vec![None; peers],
        }
    }
}

impl World {
    pub(crate) fn paging(&mut self) -> &mut Paging {
        self.paging.as_mut().expect("only worlds with alerting get here")
    }

    /// Adds the third machine to a peer that starts.
    pub(crate) fn with_alerting(&mut self, peer: usize, mind: Peer) -> Peer {
        if self.paging.is_none() {
            return mind;
        }
        let (me, boot, seed, now) = (self.peers[peer].id, self.peers[peer].boot, self.rng.random(), self.clock(peer));
        let at = self.now;
        let zone = self.peers[peer].zone.clone();
        let paging = self.paging();
        paging.starts.push(at);
        let synced = &paging.records[peer].synced;
        let records = synced.iter().flat_map(|frame| decode_records(frame).expect("own bytes")).collect();
        let config = Arc::clone(&paging.config);
        let timing = paging.timing;
        let limits = Default::default();
        let setup = Setup { me, boot, seed, config, digest: DIGEST, timing, limits, has_seeds: peer != 0, records };
        mind.with_alerting(Alerting::new(setup, now), DIGEST, &zone, now)
    }

    /// A peer will have stood still until an instant: after a long standstill it lets sources say again what they have to
    /// say, as after a start.
    pub(crate) fn note_standstill(&mut self, until: u64, lasts: u64) {
        if lasts >= SOURCES_GIVE_UP {
            self.paging().starts.push(until);
        }
    }

    /// A process died: what was not synced is lost, attempts end where they are.
    pub(crate) fn paging_killed(&mut self, peer: usize) {
        let Some(paging) = &mut self.paging else { return };
        // Of what was written, any first part may have reached the disk.
        let kept = self.rng.random_range(0..=paging.records[peer].written.len());
        let written = std::mem::take(&mut paging.records[peer].written);
        paging.records[peer].synced.extend(written.into_iter().take(kept).map(|(_, record)| record));
        paging.attempts.retain(|_, attempt| attempt.peer != peer);
        self.weigh_doubts();
    }

    /// Carries out what a peer's alerting wants.
    pub(crate) fn page(&mut self, peer: usize, output: Output) {
        let boot = self.peers[peer].boot;
        match output {
            Output::Send { to, message } => {
                let is_intent = message.parts.iter().any(|part| matches!(part, Part::Intent(_)));
                if is_intent && self.moment(peer, Moment::BeforeIntent) {
                    return;
                }
                if let Some(to) = self.find(to) {
                    if self.verbose {
                        self.print_said(peer, to, &message.parts);
                    }
                    self.send(peer, to, Wire::Alerting(message));
                }
                if is_intent {
                    self.moment(peer, Moment::AfterIntent);
                }
            }
            Output::Persist { token, record } => {
                let delay = self.rng.random_range(MS / 2..20 * MS);
                self.paging().records[peer].written.push((token, record));
                self.schedule(self.now + delay, Event::Paging(PagingEvent::Persisted { peer, boot, token }));
            }
            Output::Posted { token, result } => {
                debug_assert!(result.is_ok());
                self.posted(token);
            }
            Output::SilencePut { .. } => {}
            Output::Notify { claim, notification, not_after } => {
                let delay = self.rng.random_range(MS..300 * MS);
                let paging = self.paging();
                paging.attempt_count += 1;
                let attempt = paging.attempt_count;
                let begun = Attempt { peer, claim, notification, lease: not_after, outcome: None };
                paging.attempts.insert(attempt, begun);
                self.schedule(self.now + delay, Event::Paging(PagingEvent::FirstByte { peer, boot, attempt }));
                self.moment(peer, Moment::Connecting);
            }
            Output::LeaseUntil { claims, not_after } => {
                for attempt in self.paging().attempts.values_mut() {
                    if attempt.peer == peer && claims.contains(&attempt.claim) {
                        attempt.lease = not_after;
                    }
                }
            }
        }
    }

    /// What is said about claims and the electorate, as it happens.
    fn print_said(&self, peer: usize, to: usize, parts: &[Part]) {
        let at = self.now as f64 / 1e9;
        let dull = |part: &&Part| {
            !matches!(
                part,
                Part::Beat { .. } | Part::BeatHeard { .. } | Part::Sums { .. } | Part::AckWanted(_) | Part::Acked(_)
            )
        };
        for part in parts.iter().filter(dull) {
            println!("{at:9.3} s {peer} says to {to}: {part:?}");
        }
    }

    pub(crate) fn paging_event(&mut self, event: PagingEvent) {
        match event {
            PagingEvent::Persisted { peer, boot, token } if self.is_up(peer, boot) => self.synced(peer, token),
            PagingEvent::FirstByte { peer, boot, attempt } if self.is_up(peer, boot) => self.first_byte(peer, attempt),
            PagingEvent::Answered { peer, boot, attempt } if self.is_up(peer, boot) => self.answered(peer, attempt),
            PagingEvent::Post(post) if self.is_up(post.peer, post.boot) => {
                let posts::Post { peer, alert, episode, fires, posted, .. } = *post;
                self.post(peer, alert, episode, fires, posted);
            }
            PagingEvent::Client { alert } => self.client(alert),
            PagingEvent::Strike(strike) => self.arm(strike),
            PagingEvent::Receivers(behaviour) => self.paging().behaviour = behaviour,
            PagingEvent::Weigh => self.weigh_doubts(),
            _ => {}
        }
    }

    fn synced(&mut self, peer: usize, token: u64) {
        let records = &mut self.paging().records[peer];
        while records.written.first().is_some_and(|(written, _)| *written <= token) {
            let (_, record) = records.written.remove(0);
            records.synced.push(record);
        }
        self.feed(peer, PeerInput::Alerting(Input::Persisted { token }));
    }

    /// The alerting of a peer that runs.
    pub(crate) fn alerting(&self, peer: usize) -> Option<&Alerting> {
        self.peers[peer].mind.as_ref()?.alerting.as_ref()
    }

    /// Whether a peer's record of a delivery, or of a later one, would survive its death. Another's record of the same instant is
    /// none: it may say other things.
    fn has_record(&self, peer: usize, key: KeyId, flush: Timestamp, sender: usize) -> bool {
        let sender = self.peers[sender].id;
        let counts = |done: &Done| done.flush > flush || done.flush == flush && done.ballot.peer == sender;
        let knows = self.alerting(peer).and_then(|alerting| alerting.done(key)).is_some_and(counts);
        let paging = self.paging.as_ref().expect("only worlds with alerting get here");
        knows && paging.records[peer].written.is_empty()
    }

    /// Whether some peer that runs knows that an alert was told as firing.
    pub(crate) fn knows_as_told(&self, key: KeyId, alert: &PlannedAlert) -> bool {
        let short = AlertKey::of(&alert.labels()).short();
        let knows = |peer: usize| {
            let done = self.alerting(peer).and_then(|alerting| alerting.done(key));
            done.is_some_and(|done| done.firing.contains(&short))
        };
        (0..self.peers.len()).any(knows)
    }

    fn electors_of(&self, peer: usize) -> Vec<usize> {
        let electorate = self.alerting(peer).and_then(Alerting::electorate);
        let members: &[PeerId] = electorate.map_or(&[], |electorate| &electorate.members);
        members.iter().filter_map(|id| self.find(*id)).collect()
    }

    /// Whether a peer runs and reaches a majority of the electors that it knows.
    fn reaches_majority(&self, peer: usize) -> bool {
        let runs = |peer: usize| self.peers[peer].mind.is_some() && self.peers[peer].paused_until <= self.now;
        let electors = self.electors_of(peer);
        let reached = electors
            .iter()
            .filter(|other| **other == peer || runs(**other) && !self.network.streams_blocked(peer, **other));
        runs(peer) && reached.count() > electors.len() / 2
    }

    /// Looks at deliveries whose record is not safe yet: is it by now, or can the sender not make it so? To be called
    /// before and after everything that changes who reaches whom.
    pub(crate) fn weigh_doubts(&mut self) {
        for peer in 0..self.paging.as_ref().map_or(0, |paging| paging.unable_since.len()) {
            let (able, now) = (self.reaches_majority(peer), self.now);
            let since = &mut self.paging().unable_since[peer];
            // What lasted until now is weighed below.
            let lasted = since.is_some_and(|since| now - since >= DOUBT_AFTER);
            *since = if able { since.filter(|_| lasted) } else { since.or(Some(now)) };
        }
        self.weigh();
        for peer in 0..self.paging.as_ref().map_or(0, |paging| paging.unable_since.len()) {
            if self.reaches_majority(peer) {
                self.paging().unable_since[peer] = None;
            }
        }
    }

    fn weigh(&mut self) {
        let Some(paging) = &self.paging else { return };
        let unsettled: Vec<usize> = paging.unsettled.iter().copied().collect();
        for index in unsettled {
            let Delivery { peer, boot, key, flush, .. } = self.paging().deliveries[index];
            let dead = !self.is_up(peer, boot);
            let electors = self.electors_of(peer);
            let recorded = electors.iter().filter(|elector| self.has_record(**elector, key, flush, peer)).count();
            let settled = !electors.is_empty() && recorded > electors.len() / 2;
            let now = self.now;
            let unable = self.paging().unable_since[peer].filter(|since| now - since >= DOUBT_AFTER);
            let from = unable.or(dead.then_some(now));
            let delivery = &mut self.paging().deliveries[index];
            delivery.in_doubt |= from.is_some();
            delivery.doubted_from = delivery.doubted_from.or(from);
            if settled || dead {
                self.paging().unsettled.remove(&index);
            }
        }
    }

    /// The source of own rules that a source stands for.
    fn rule_of(&self, source: SourceId) -> Option<usize> {
        self.paging.as_ref()?.alerts.iter().position(|alert| alert.rule == Some(source))
    }
}

/// A sender that cannot reach a majority for so long may have let its session lapse at the voters, also if it began to be so
/// before it sent, as it may for the rest of its lease: the last beat that they heard may be half a second older, or as
/// much again as a lost packet costs, and they wait three.
const DOUBT_AFTER: u64 = 2_300 * MS;
