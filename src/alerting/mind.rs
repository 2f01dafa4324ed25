//! The mind: inputs in, outputs out. What it decides lies in the modules below; here they are joined.

mod alone;
mod posts;
mod send;
mod sync;
mod voting;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use promesh_config::alertmanager::{AlertmanagerConfig, MatcherMode};
use promesh_model::{Monotonic, Now, PeerId, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::alert::{AlertKey, AlertValue, Grace, PostedAlert};
use crate::claims::{BEAT_INTERVAL, Beats, SESSION_LAPSE, Session, Voter};
use crate::dispatch::Dispatcher;
use crate::electorate::{Acceptor, AlertPeer, Electorate, Proposal};
use crate::inhibit::Inhibitor;
use crate::message::{AlertMessage, DiskRecord, PARTS_MAX, Part, encode_records};
use crate::nflog::{Ballot, Done, KeyId};
use crate::records::Map;
use crate::route::RouteTree;
use crate::silence::{SilenceId, SilenceValue};
pub(crate) use send::Claim;
pub use words::{ClaimId, Input, Notification, NotifiedAlert, Outcome, Output};

/// A longer gap between two steps is a pause: timers are never further ahead than a beat.
const STOOD_STILL: Duration = Duration::from_millis(1500);

/// After so long a source has given up saying what it had to say to a peer that stands still: Prometheus' default timeout of
/// an Alertmanager.
const SOURCES_GIVE_UP: Duration = Duration::from_secs(10);

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long to hold notifications without a majority. Default 10s.
    pub notify_hold: Duration,
    /// After so long without a majority the provisional electorate becomes the next. Default 30m.
    pub replace_after: Duration,
    /// An elector that is Down for so long is voted out. Default 60s.
    pub out_after: Duration,
    /// How long after a start, or a long standstill, alerts of outside sources wait for their source. Default 5m.
    pub source_grace: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            notify_hold: Duration::from_secs(10),
            replace_after: Duration::from_secs(1800),
            out_after: Duration::from_secs(60),
            source_grace: Duration::from_secs(300),
        }
    }
}

/// What a peer takes at most, and how it reads matchers: Alertmanager's flags. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Silences, ended ones that are still kept among them.
    pub silences_max: usize,
    /// Bytes of a silence, as an Alertmanager counts them: those of its record.
    pub silence_bytes_max: usize,
    /// Alerts of one name that fire.
    pub alerts_per_name_max: usize,
    /// How matchers of the API are read, and which names labels may have.
    pub matchers: MatcherMode,
}

/// Figures for the metrics page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Alerts left out because too many of their name fire.
    pub limited: u64,
    /// Notifications sent, by integration kind.
    pub sent: BTreeMap<String, u64>,
    /// Attempts that failed, by integration kind.
    pub failed: BTreeMap<String, u64>,
    /// Attempts whose lease ran out before the first byte.
    pub expired: u64,
    /// Intents that found another live session.
    pub busy: u64,
}

/// What waits for a token to be durable.
#[derive(Clone, Debug)]
enum Deferred {
    /// Tell a peer.
    Send(PeerId, Part),
    /// This peer's own vote counts.
    OwnVote(KeyId, Ballot),
    /// This peer's copy of a post counts.
    Stored(u64),
    /// This peer's own promise about the next electorate counts.
    OwnPromise(u64, Ballot, Option<(Ballot, Vec<PeerId>)>),
    /// This peer's own acceptance counts.
    OwnAccepted(u64, Ballot),
}

/// Somebody waits until enough peers have something.
#[derive(Clone, Debug)]
struct Waiting {
    whose: Waiter,
    have: BTreeSet<PeerId>,
    since: Monotonic,
    /// Posts forwarded for lack of a vote: to whom, and what.
    forwarded: Option<(PeerId, Vec<PostedAlert>)>,
}

#[derive(Clone, Debug)]
enum Waiter {
    Post(u64),
    Forwarded(PeerId, u64),
    Silence(u64, SilenceId),
    Nobody,
}

/// The alerting half of a peer's mind.
pub struct Alerting {
    me: PeerId,
    session: Session,
    timing: Timing,
    limits: Limits,
    has_seeds: bool,
    rng: StdRng,
    config: Arc<AlertmanagerConfig>,
    digest: u128,
    tree: RouteTree,
    inhibitor: Inhibitor,
    pub(crate) alerts: Map<AlertKey, AlertValue>,
    pub(crate) silences: Map<SilenceId, SilenceValue>,
    pub(crate) log: Map<KeyId, Done>,
    /// Alerts that nobody ended run on meanwhile: their sources have had no chance yet.
    grace: Grace,
    firing: BTreeSet<AlertKey>,
    /// Firing alerts by name, where their number is limited.
    firing_by_name: BTreeMap<String, BTreeSet<AlertKey>>,
    expiries: BTreeSet<(Timestamp, AlertKey)>,
    expiry_of: BTreeMap<AlertKey, Timestamp>,
    pub(crate) dispatcher: Dispatcher,
    members: Vec<AlertPeer>,
    view: u64,
    absent_since: BTreeMap<PeerId, Monotonic>,
    removed: BTreeSet<PeerId>,
    electorate: Option<Electorate>,
    acceptor: Option<Acceptor>,
    proposal: Option<(Proposal, Monotonic)>,
    ballot_seen: u64,
    voter: Voter,
    beats: Beats,
    /// When each peer's last beat came.
    beat_from: BTreeMap<PeerId, Monotonic>,
    compared: BTreeMap<PeerId, u8>,
    compare_sent: BTreeMap<PeerId, Monotonic>,
    /// Who has compared the log with this peer since there was something in it that the present electorate may not know, and
    /// since when there is.
    log_shown_to: BTreeSet<PeerId>,
    log_unshown_since: Monotonic,
    caught_up: BTreeSet<PeerId>,
    /// Electorates that met: nothing is sent before their records are here, or this instant.
    merging: BTreeMap<PeerId, Monotonic>,
    majority_seen: Monotonic,
    claims: BTreeMap<KeyId, Claim>,
    next_claim: u64,
    /// Attempts whose outcome is not known yet.
    running: BTreeMap<ClaimId, KeyId>,
    waiting: BTreeMap<u64, Waiting>,
    next_request: u64,
    /// By peer, the request of a forwarded post whose acknowledgement it asks for next.
    forwarded_just_now: BTreeMap<PeerId, u64>,
    disk: Vec<DiskRecord>,
    after_disk: Vec<Deferred>,
    deferred: VecDeque<(u64, Deferred)>,
    next_token: u64,
    parts: BTreeMap<PeerId, Vec<Part>>,
    outputs: VecDeque<Output>,
    started: Monotonic,
    /// When it started, or last stood still: since then it may not know what others know.
    unsure_since: Monotonic,
    next_beat: Monotonic,
    next_far_beat: Monotonic,
    next_sweep: Monotonic,
    wake: Option<Monotonic>,
    /// When it last did something: a longer gap than any timer's is a pause.
    last_step: Monotonic,
    /// Posts that speak of an instant before it stood still: judged once it knows what others know.
    held: Vec<(u64, Vec<PostedAlert>)>,
    /// When it last found that it had stood still.
    woke_at: Option<Monotonic>,
    /// Since when it had, by its clock now.
    slept_from: Timestamp,
    /// The greatest number of a ballot that was given back: told again, it must not give back a later claim.
    released_number: u64,
    /// What this peer told without a majority, until it meets what others told.
    told_alone: BTreeMap<KeyId, alone::Alone>,
    /// Claims given back while an elector was not heard: how often it is still to be told so once it is.
    owed_releases: BTreeMap<(PeerId, KeyId), (Ballot, u8)>,
    counters: Counters,
}

/// What makes a peer's alerting.
pub struct Setup {
    /// Who it is.
    pub me: PeerId,
    /// Which life; never used before.
    pub boot: u64,
    /// Seed of its randomness.
    pub seed: u64,
    /// The configuration as meant.
    pub config: Arc<AlertmanagerConfig>,
    /// Its digest.
    pub digest: u128,
    /// How long things take.
    pub timing: Timing,
    /// What it takes at most.
    pub limits: Limits,
    /// Whether others are to be expected: seeds are configured that are not this peer itself. What such a peer tells
    /// before it has met anybody is marked as degraded, since others may have begun alone beside it.
    pub has_seeds: bool,
    /// What lies on disk, in the order in which it was persisted.
    pub records: Vec<DiskRecord>,
}

impl Alerting {
    /// A peer's alerting as it starts.
    pub fn new(setup: Setup, now: Now) -> Alerting {
        let mut alerting = Alerting {
            me: setup.me,
            session: Session { peer: setup.me, boot: setup.boot },
            timing: setup.timing,
            limits: setup.limits,
            has_seeds: setup.has_seeds,
            rng: StdRng::seed_from_u64(setup.seed),
            tree: RouteTree::new(&setup.config),
            inhibitor: Inhibitor::new(&setup.config),
            config: setup.config,
            digest: setup.digest,
            alerts: Map::default(),
            silences: Map::default(),
            log: Map::default(),
            grace: Grace { from: Timestamp::MIN, until: now.wall.after(setup.timing.source_grace) },
            firing: BTreeSet::new(),
            firing_by_name: BTreeMap::new(),
            expiries: BTreeSet::new(),
            expiry_of: BTreeMap::new(),
            dispatcher: Dispatcher::default(),
            members: Vec::new(),
            view: 0,
            absent_since: BTreeMap::new(),
            removed: BTreeSet::new(),
            electorate: None,
            acceptor: None,
            proposal: None,
            ballot_seen: 0,
            voter: Voter::default(),
            beats: Beats::default(),
            beat_from: BTreeMap::new(),
            held: Vec::new(),
            compared: BTreeMap::new(),
            compare_sent: BTreeMap::new(),
            log_shown_to: BTreeSet::new(),
            log_unshown_since: now.monotonic,
            caught_up: BTreeSet::new(),
            merging: BTreeMap::new(),
            majority_seen: now.monotonic,
            claims: BTreeMap::new(),
            next_claim: 0,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_request: 0,
            forwarded_just_now: BTreeMap::new(),
            disk: Vec::new(),
            after_disk: Vec::new(),
            deferred: VecDeque::new(),
            next_token: 0,
            parts: BTreeMap::new(),
            outputs: VecDeque::new(),
            started: now.monotonic,
            unsure_since: now.monotonic,
            next_beat: now.monotonic,
            next_far_beat: now.monotonic,
            next_sweep: now.monotonic + Duration::from_secs(30),
            wake: Some(now.monotonic),
            last_step: now.monotonic,
            woke_at: None,
            slept_from: now.wall,
            released_number: 0,
            told_alone: BTreeMap::new(),
            owed_releases: BTreeMap::new(),
            counters: Counters::default(),
        };
        alerting.recover(setup.records, now);
        alerting
    }

    fn recover(&mut self, records: Vec<DiskRecord>, now: Now) {
        let mut votes = BTreeMap::new();
        let mut paxos = None;
        for record in records {
            match record {
                DiskRecord::Alert(key, value) => drop(self.alerts.join(&key, &value)),
                DiskRecord::Silence(id, value) => drop(self.silences.join(&id, &value)),
                DiskRecord::Done(key, done) => drop(self.log.join(&key, &done)),
                DiskRecord::Vote(key, vote) => drop(votes.insert(key, vote)),
                DiskRecord::Electorate(electorate) => self.electorate = Some(electorate),
                DiskRecord::Paxos { number, promised, accepted } => {
                    paxos = Some(Acceptor { number, promised: Some(promised), accepted });
                }
            }
        }
        self.voter = Voter::new(self.session, votes, now.monotonic);
        self.acceptor = self.electorate.as_ref().map(|electorate| {
            paxos
                .filter(|acceptor| acceptor.number == electorate.number + 1)
                .unwrap_or_else(|| Acceptor::after(electorate))
        });
        if self.alerts.is_empty() {
            // Nothing was waited for: ends are what they are.
            self.grace.until = now.wall;
        }
        self.regroup(now);
        // What was known when it was told is not: all that had begun by then.
        let told: Vec<(KeyId, Timestamp)> = self.log.iter().map(|(key, done)| (*key, done.at)).collect();
        for (key, at) in told {
            let group = self.dispatcher.slot(key).and_then(|slot| self.dispatcher.group(&slot.group));
            let ended = group.into_iter().flat_map(|group| &group.alerts).map(|alert| (*alert, at)).collect();
            self.end_what_was_told(key, &ended, now);
        }
    }

    /// Something happened. Outputs are drained after every call.
    pub fn handle(&mut self, input: Input, now: Now) {
        if now.monotonic.since(self.last_step) >= STOOD_STILL {
            self.woke(now);
        }
        self.last_step = now.monotonic;
        match input {
            Input::View { members, view } => self.viewed(members, view, now),
            Input::Message { from, message } => self.received(from, message, now),
            Input::Persisted { token } => self.persisted(token, now),
            Input::Post { token, alerts } => self.take_post(token, alerts, now),
            Input::PutSilence { token, id, body } => self.put_silence(token, id, body, now),
            Input::ExpireSilence { token, id } => self.expire_silence(token, id, now),
            Input::Notified { claim, outcome } => self.notified(claim, outcome, now),
            Input::Configured { config, digest } => self.configured(config, digest, now),
            Input::Remove { peer } => drop(self.removed.insert(peer)),
            Input::Timeout => {}
        }
        self.release_held(now);
        self.pass_time(now);
        self.finish(now);
    }

    /// This peer stood still.
    fn woke(&mut self, now: Now) {
        self.voter.woke(now.monotonic);
        self.woke_at = Some(now.monotonic);
        let stood = now.monotonic.since(self.last_step);
        self.slept_from = now.wall.before(stood);
        // What others said meanwhile may have been lost with its connections.
        self.unsure_since = now.monotonic;
        self.compared.clear();
        self.compare_sent.clear();
        // Nobody was away but this peer.
        self.majority_seen = now.monotonic;
        // Unless all were: then sources have had no chance to say that their alerts still fire, as after a start.
        if stood >= SOURCES_GIVE_UP {
            let from = if now.wall < self.grace.until { self.grace.from.min(self.slept_from) } else { self.slept_from };
            self.grace = Grace { from, until: now.wall.after(self.timing.source_grace) };
            self.regroup(now);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.wake
    }

    /// Everything that must lie on disk, for a fresh log in place of a long one.
    pub fn snapshot(&self) -> Vec<DiskRecord> {
        let mut records: Vec<DiskRecord> = Vec::new();
        records.extend(self.alerts.iter().map(|(key, value)| DiskRecord::Alert(*key, value.clone())));
        records.extend(self.silences.iter().map(|(id, value)| DiskRecord::Silence(*id, value.clone())));
        records.extend(self.log.iter().map(|(key, done)| DiskRecord::Done(*key, done.clone())));
        records.extend(self.voter.votes().map(|(key, vote)| DiskRecord::Vote(*key, *vote)));
        records.extend(self.electorate.clone().map(DiskRecord::Electorate));
        if let Some(Acceptor { number, promised: Some(promised), accepted }) = &self.acceptor {
            records.push(DiskRecord::Paxos { number: *number, promised: *promised, accepted: accepted.clone() });
        }
        records
    }

    /// The electorate as this peer knows it.
    pub fn electorate(&self) -> Option<&Electorate> {
        self.electorate.as_ref()
    }

    /// What is known to be sent about a key.
    pub fn done(&self, key: KeyId) -> Option<&Done> {
        self.log.get(&key)
    }

    /// Figures.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What it takes at most.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The configuration in use.
    pub fn config(&self) -> &Arc<AlertmanagerConfig> {
        &self.config
    }

    /// The routes in use.
    pub fn tree(&self) -> &RouteTree {
        &self.tree
    }

    /// Whether it sends without a majority.
    pub fn is_degraded(&self, now: Now) -> bool {
        self.voters(now).degraded
    }

    /// For how long alerts that nobody ended run on at least.
    pub(crate) fn grace(&self) -> Grace {
        self.grace
    }

    fn configured(&mut self, config: Arc<AlertmanagerConfig>, digest: u128, now: Now) {
        self.tree = RouteTree::new(&config);
        self.inhibitor = Inhibitor::new(&config);
        self.config = config;
        self.digest = digest;
        // Attempts that run are finished by what they were started with.
        self.claims.retain(|_, claim| claim.is_sending());
        self.dispatcher = Dispatcher::default();
        self.firing.clear();
        self.firing_by_name.clear();
        self.regroup(now);
    }

    /// Puts every alert into its groups.
    fn regroup(&mut self, now: Now) {
        let keys: Vec<AlertKey> = self.alerts.iter().map(|(key, _)| *key).collect();
        for key in keys {
            self.alert_changed(key, now);
        }
    }

    fn pass_time(&mut self, now: Now) {
        while let Some((at, key)) = self.expiries.first().copied().filter(|(at, _)| *at <= now.wall) {
            self.expiries.remove(&(at, key));
            self.expiry_of.remove(&key);
            self.alert_changed(key, now);
        }
        if now.monotonic >= self.next_beat {
            self.next_beat = now.monotonic + BEAT_INTERVAL;
            self.beat(now);
            self.tend_electorate(now);
            self.tend_waiting(now);
            self.tend_claims(now);
        }
        if now.monotonic >= self.next_sweep {
            self.next_sweep = now.monotonic + Duration::from_secs(30);
            self.sweep(now);
        }
        while let Some(key) = self.dispatcher.pop_due(now.wall) {
            self.look(key, now);
        }
    }

    /// Turns what piled up into outputs, and works out when to wake.
    fn finish(&mut self, now: Now) {
        if !self.disk.is_empty() {
            self.next_token += 1;
            let records = std::mem::take(&mut self.disk);
            self.outputs.push_back(Output::Persist { token: self.next_token, record: encode_records(&records) });
        }
        let token = self.next_token;
        self.deferred.extend(self.after_disk.drain(..).map(|deferred| (token, deferred)));
        for (to, mut parts) in std::mem::take(&mut self.parts) {
            while !parts.is_empty() {
                let rest = parts.split_off(parts.len().min(PARTS_MAX));
                let message = AlertMessage { parts: std::mem::replace(&mut parts, rest) };
                self.outputs.push_back(Output::Send { to, message });
            }
        }
        let until = |at: Timestamp| now.monotonic + at.since(now.wall);
        let timers = [self.dispatcher.next_timer(), self.expiries.first().map(|(at, _)| *at)];
        let wall = timers.into_iter().flatten().map(until).min();
        self.wake = Some(wall.unwrap_or(self.next_sweep).min(self.next_beat));
    }

    fn say(&mut self, to: PeerId, part: Part) {
        if to != self.me {
            self.parts.entry(to).or_default().push(part);
        }
    }

    /// Writes a record; what is deferred in the same call waits for it.
    fn write(&mut self, record: DiskRecord) {
        self.disk.push(record);
    }

    fn persisted(&mut self, token: u64, now: Now) {
        while self.deferred.front().is_some_and(|(needed, _)| *needed <= token) {
            let (_, deferred) = self.deferred.pop_front().expect("seen above");
            match deferred {
                Deferred::Send(to, part) => self.say(to, part),
                Deferred::OwnVote(key, ballot) => self.own_vote(key, ballot, now),
                Deferred::Stored(request) => self.acked(self.me, request),
                Deferred::OwnPromise(number, ballot, accepted) => {
                    self.promised(self.me, number, ballot, accepted, now);
                }
                Deferred::OwnAccepted(number, ballot) => self.accepted(self.me, number, ballot, now),
            }
        }
    }

    fn is_member(&self, peer: PeerId) -> bool {
        peer == self.me || self.members.iter().any(|member| member.id == peer)
    }

    /// Whether a peer's beats come.
    fn hears(&self, peer: PeerId, now: Now) -> bool {
        peer == self.me || self.beat_from.get(&peer).is_some_and(|at| now.monotonic.since(*at) < SESSION_LAPSE)
    }

    fn random_id(&mut self) -> u128 {
        self.rng.random()
    }
}
