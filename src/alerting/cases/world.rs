//! The world of the cases: an event heap, peers with disks, links with faults, a receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promesh_config::alertmanager::AlertmanagerConfig;
use promesh_model::{Labels, Matcher, Monotonic, Now, PeerId, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::message::decode_records;
use crate::nflog::KeyId;
use crate::{AlertMessage, AlertPeer, Alerting, ClaimId, Input, Notification, Outcome, Output, PostedAlert, Setup};
use crate::{SilenceBody, SilenceId, Timing};

const START_MS: i64 = 1_700_000_000_000;

/// How the receiver behaves.
#[derive(Clone, Copy, Debug)]
pub enum Receiver {
    /// Takes all at once.
    Well,
    /// Takes all after a while.
    Slow(Duration),
    /// Answers 500 until so long after the start of the case.
    FailsUntil(Duration),
}

struct Attempt {
    peer: usize,
    claim: ClaimId,
    notification: Box<Notification>,
    lease: Monotonic,
}

enum Event {
    Wake(usize),
    Persisted(usize, u64, u64),
    Deliver(usize, usize, AlertMessage),
    View(usize),
    Post(usize, u64, Vec<PostedAlert>),
    /// Connected: the first byte goes out if the lease holds.
    FirstByte(u64),
    /// The receiver's answer is back.
    Answered(u64, usize, u64),
    Resume(usize),
}

#[derive(Default)]
struct Disk {
    synced: Vec<Vec<u8>>,
    written: Vec<(u64, Vec<u8>)>,
}

pub struct World {
    peers: Vec<Option<Alerting>>,
    lives: Vec<u64>,
    disks: Vec<Disk>,
    paused: BTreeMap<usize, Vec<Event>>,
    alone: BTreeSet<usize>,
    /// Pairs whose messages to one another are lost, although each is seen by others.
    severed: BTreeSet<(usize, usize)>,
    loss: f64,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    now_ns: u64,
    rng: StdRng,
    config: Arc<AlertmanagerConfig>,
    pub receiver: Receiver,
    attempts: BTreeMap<u64, Attempt>,
    next_attempt: u64,
    told: Vec<String>,
    /// Of each message that was told: its name, and who told it.
    pub telling: Vec<(String, usize)>,
    keys: Vec<(String, KeyId, Timestamp)>,
    answers: u64,
    acknowledged: usize,
    posts: BTreeMap<u64, String>,
    acknowledged_names: BTreeSet<String>,
    cut_off: BTreeMap<String, usize>,
    next_token: u64,
    view: u64,
}

impl World {
    pub fn new(peers: usize, config: &str, seed: u64) -> World {
        let config = promesh_config::alertmanager::load("a.yml", config.as_bytes(), Path::new("")).expect("it loads");
        let mut world = World {
            peers: (0..peers).map(|_| None).collect(),
            lives: vec![0; peers],
            disks: (0..peers).map(|_| Disk::default()).collect(),
            paused: BTreeMap::new(),
            alone: BTreeSet::new(),
            severed: BTreeSet::new(),
            loss: 0.0,
            events: BTreeMap::new(),
            order: 0,
            now_ns: 1_000_000_000,
            rng: StdRng::seed_from_u64(seed),
            config: Arc::new(config),
            receiver: Receiver::Well,
            attempts: BTreeMap::new(),
            next_attempt: 0,
            told: Vec::new(),
            telling: Vec::new(),
            keys: Vec::new(),
            answers: 0,
            acknowledged: 0,
            posts: BTreeMap::new(),
            acknowledged_names: BTreeSet::new(),
            cut_off: BTreeMap::new(),
            next_token: 0,
            view: 0,
        };
        for peer in 0..peers {
            world.start(peer);
        }
        world
    }

    /// A peer's mind as it stands.
    pub fn mind(&self, peer: usize) -> (&Alerting, Now) {
        (self.peers[peer].as_ref().expect("it lives"), self.now())
    }

    fn now(&self) -> Now {
        let ms = i64::try_from(self.now_ns / 1_000_000).expect("a short case");
        Now { monotonic: Monotonic(self.now_ns), wall: Timestamp(START_MS + ms) }
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        let at = self.now_ns + delay.as_nanos() as u64;
        self.events.insert((at, self.order), event);
    }

    pub fn start(&mut self, peer: usize) {
        self.lives[peer] += 1;
        let records =
            self.disks[peer].synced.iter().flat_map(|frame| decode_records(frame).expect("own bytes")).collect();
        let setup = Setup {
            limits: crate::Limits::default(),
            me: PeerId(peer as u128 + 1),
            boot: self.lives[peer],
            seed: self.rng.random(),
            config: Arc::clone(&self.config),
            digest: 1,
            timing: Timing::default(),
            has_seeds: false,
            records,
        };
        self.peers[peer] = Some(Alerting::new(setup, self.now()));
        self.views();
        self.at(Duration::ZERO, Event::Wake(peer));
    }

    /// Everybody learns who is alive, a little later.
    fn views(&mut self) {
        self.view += 1;
        for peer in 0..self.peers.len() {
            let delay = Duration::from_millis(self.rng.random_range(1..50));
            self.at(delay, Event::View(peer));
        }
    }

    fn members_for(&self, viewer: usize) -> Vec<AlertPeer> {
        let reaches = |peer: usize| {
            peer == viewer || self.alone.contains(&peer) == self.alone.contains(&viewer) && !self.alone.contains(&peer)
        };
        (0..self.peers.len())
            .filter(|peer| self.peers[*peer].is_some() && reaches(*peer))
            .map(|peer| AlertPeer {
                id: PeerId(peer as u128 + 1),
                zone: String::new(),
                weight: 4,
                ready: true,
                alerting_digest: Some(1),
            })
            .collect()
    }

    pub fn kill(&mut self, peer: usize) {
        self.count_doubts();
        self.peers[peer] = None;
        self.disks[peer].written.clear();
        self.paused.remove(&peer);
        let cut: Vec<u64> = self.attempts.iter().filter(|(_, a)| a.peer == peer).map(|(id, _)| *id).collect();
        for id in cut {
            self.attempts.remove(&id);
        }
        self.view += 1;
        self.at_views_after(Duration::from_millis(3500));
    }

    /// What the receiver has taken and no majority has in its log may be told again after a fault.
    fn count_doubts(&mut self) {
        let majority = self.peers.len() / 2 + 1;
        for (name, key, flush) in std::mem::take(&mut self.keys) {
            let logged =
                self.peers.iter().flatten().filter(|peer| peer.log.get(&key).is_some_and(|done| done.flush >= flush));
            if logged.count() < majority {
                *self.cut_off.entry(name).or_default() += 1;
            } else {
                self.keys.push((name, key, flush));
            }
        }
    }

    /// Kills a peer whose attempt has not begun to send.
    pub fn kill_before_sending(&mut self, peer: usize) {
        self.kill(peer);
    }

    pub fn pause(&mut self, peer: usize, span: Duration) {
        if self.peers[peer].is_some() {
            self.count_doubts();
            self.paused.insert(peer, Vec::new());
            self.at(span, Event::Resume(peer));
        }
    }

    pub fn cut(&mut self, peer: usize) {
        self.count_doubts();
        self.alone.insert(peer);
        self.at_views_after(Duration::from_millis(3500));
    }

    fn at_views_after(&mut self, delay: Duration) {
        for peer in 0..self.peers.len() {
            self.at(delay, Event::View(peer));
        }
    }

    /// Nothing passes between two any more; by way of others both are known to live.
    pub fn sever(&mut self, a: usize, b: usize) {
        self.severed.extend([(a, b), (b, a)]);
    }

    pub fn heal(&mut self) {
        self.alone.clear();
        self.severed.clear();
        self.at_views_after(Duration::from_millis(500));
    }

    pub fn heal_all(&mut self) {
        self.heal();
        self.loss = 0.0;
        let paused: Vec<usize> = self.paused.keys().copied().collect();
        for peer in paused {
            self.at(Duration::ZERO, Event::Resume(peer));
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].is_none() {
                self.start(peer);
            }
        }
        self.views();
    }

    pub fn random_fault(&mut self) {
        let peer = self.rng.random_range(0..self.peers.len());
        let dead = self.peers.iter().filter(|peer| peer.is_none()).count();
        match self.rng.random_range(0..6) {
            0 if dead == 0 => self.kill(peer),
            1 => {
                let span = Duration::from_millis(self.rng.random_range(500..20_000));
                self.pause(peer, span);
            }
            2 if self.alone.is_empty() => self.cut(peer),
            3 => self.heal(),
            4 => self.loss = 0.2,
            _ => {}
        }
    }

    pub fn post(&mut self, peer: usize, labels: &[(&str, &str)], firing: bool) {
        self.next_token += 1;
        let token = self.next_token;
        self.posts.insert(token, labels[0].1.to_owned());
        let valid = if firing { Duration::from_secs(3600) } else { Duration::ZERO };
        let alerts = vec![self.posted(labels, valid)];
        self.input(peer, Input::Post { token, alerts });
    }

    /// An alert that ends unless it is posted again.
    pub fn post_valid_for(&mut self, peer: usize, labels: &[(&str, &str)], valid: Duration) {
        self.next_token += 1;
        let (token, alerts) = (self.next_token, vec![self.posted(labels, valid)]);
        self.posts.insert(token, labels[0].1.to_owned());
        self.input(peer, Input::Post { token, alerts });
    }

    /// A post that a peer finds when it goes on.
    pub fn post_to_standing_still(&mut self, peer: usize, labels: &[(&str, &str)]) {
        self.next_token += 1;
        let (token, alerts) = (self.next_token, vec![self.posted(labels, Duration::from_secs(3600))]);
        self.posts.insert(token, labels[0].1.to_owned());
        self.paused.get_mut(&peer).expect("it stands still").push(Event::Post(peer, token, alerts));
    }

    fn posted(&self, labels: &[(&str, &str)], valid: Duration) -> PostedAlert {
        PostedAlert {
            labels: Labels::from_pairs(labels.iter().copied()),
            ends_at: Some(self.now().wall.after(valid)),
            ..PostedAlert::default()
        }
    }

    pub fn silence(&mut self, peer: usize, name: &str, value: &str, span: Duration) -> SilenceId {
        self.next_token += 1;
        let token = self.next_token;
        let body = SilenceBody {
            matcher_sets: vec![vec![Matcher::equal(name, value)]],
            starts_at: self.now().wall,
            ends_at: self.now().wall.after(span),
            ..SilenceBody::default()
        };
        self.input(peer, Input::PutSilence { token, id: None, body });
        self.run_for(Duration::from_secs(1));
        let alerting = self.peers[peer].as_ref().expect("alive");
        alerting.silences.iter().next().map(|(id, _)| *id).expect("it was kept")
    }

    pub fn expire_silence(&mut self, peer: usize, id: SilenceId) {
        self.next_token += 1;
        let token = self.next_token;
        self.input(peer, Input::ExpireSilence { token, id });
    }

    fn input(&mut self, peer: usize, input: Input) {
        let now = self.now();
        let Some(alerting) = &mut self.peers[peer] else { return };
        alerting.handle(input, now);
        let mut outputs = Vec::new();
        while let Some(output) = alerting.poll_output() {
            outputs.push(output);
        }
        let wake = alerting.poll_timeout();
        for output in outputs {
            self.output(peer, output);
        }
        if let Some(wake) = wake {
            let delay = Duration::from_nanos(wake.0.saturating_sub(self.now_ns).max(1_000_000));
            self.at(delay, Event::Wake(peer));
        }
    }

    fn output(&mut self, peer: usize, output: Output) {
        match output {
            Output::Send { to, message } => {
                let to = to.0 as usize - 1;
                let lost = self.rng.random_bool(self.loss);
                let delay = Duration::from_micros(self.rng.random_range(200..5000));
                if !lost {
                    let message = AlertMessage::decode(&message.encode()).expect("own bytes");
                    self.at(delay, Event::Deliver(peer, to, message));
                }
            }
            Output::Persist { token, record } => {
                self.disks[peer].written.push((token, record));
                let delay = Duration::from_micros(self.rng.random_range(500..20_000));
                self.at(delay, Event::Persisted(peer, self.lives[peer], token));
            }
            Output::Posted { token, result } => {
                assert_eq!(result, Ok(()));
                self.acknowledged += 1;
                self.acknowledged_names.extend(self.posts.remove(&token));
            }
            Output::SilencePut { result, .. } => drop(result.expect("the silence is well-formed")),
            Output::Notify { claim, notification, not_after } => {
                self.next_attempt += 1;
                let id = self.next_attempt;
                self.attempts.insert(id, Attempt { peer, claim, notification, lease: not_after });
                let delay = Duration::from_millis(self.rng.random_range(1..300));
                self.at(delay, Event::FirstByte(id));
            }
            Output::LeaseUntil { claims, not_after } => {
                for attempt in self.attempts.values_mut().filter(|a| a.peer == peer && claims.contains(&a.claim)) {
                    attempt.lease = not_after;
                }
            }
        }
    }

    /// Runs until somebody holds a claim and is about to send.
    pub fn run_until_attempt(&mut self, most: Duration) -> Option<usize> {
        let end = self.now_ns + most.as_nanos() as u64;
        while self.now_ns < end {
            if let Some(attempt) = self.attempts.values().next() {
                return Some(attempt.peer);
            }
            self.step(end);
        }
        None
    }

    /// Runs until the receiver has taken something; gives who told it.
    pub fn run_until_told(&mut self, most: Duration) -> Option<usize> {
        let end = self.now_ns + most.as_nanos() as u64;
        while self.now_ns < end && self.telling.is_empty() {
            self.step(end);
        }
        self.telling.last().map(|(_, peer)| *peer)
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now_ns + span.as_nanos() as u64;
        while self.now_ns < end {
            self.step(end);
        }
    }

    fn step(&mut self, end: u64) {
        let Some(((at, order), _)) = self.events.first_key_value().filter(|((at, _), _)| *at <= end) else {
            self.now_ns = end;
            return;
        };
        let (at, order) = (*at, *order);
        let event = self.events.remove(&(at, order)).expect("seen above");
        self.now_ns = self.now_ns.max(at);
        self.happen(event);
    }

    fn happen(&mut self, event: Event) {
        let whose = match &event {
            Event::Wake(peer)
            | Event::Persisted(peer, ..)
            | Event::Deliver(_, peer, _)
            | Event::View(peer)
            | Event::Post(peer, ..) => Some(*peer),
            Event::FirstByte(id) => self.attempts.get(id).map(|attempt| attempt.peer),
            Event::Answered(_, peer, _) => Some(*peer),
            Event::Resume(_) => None,
        };
        if let Some(held) = whose.and_then(|peer| self.paused.get_mut(&peer)) {
            // A paused process does nothing; what comes waits for it.
            if !matches!(event, Event::Wake(_)) {
                held.push(event);
            }
            return;
        }
        match event {
            Event::Wake(peer) => {
                let due =
                    self.peers[peer].as_ref().and_then(Alerting::poll_timeout).is_some_and(|at| at.0 <= self.now_ns);
                if due {
                    self.input(peer, Input::Timeout);
                }
            }
            Event::Persisted(peer, life, token) => self.persisted(peer, life, token),
            Event::Deliver(from, to, message) => {
                let split =
                    self.alone.contains(&from) || self.alone.contains(&to) || self.severed.contains(&(from, to));
                if !split {
                    self.input(to, Input::Message { from: PeerId(from as u128 + 1), message });
                }
            }
            Event::View(peer) => {
                let (members, view) = (self.members_for(peer), self.view);
                self.input(peer, Input::View { members, view });
            }
            Event::Post(peer, token, alerts) => self.input(peer, Input::Post { token, alerts }),
            Event::FirstByte(id) => self.first_byte(id),
            Event::Answered(id, peer, life) => self.answered(id, peer, life),
            Event::Resume(peer) => {
                for event in self.paused.remove(&peer).unwrap_or_default() {
                    self.at(Duration::ZERO, event);
                }
                self.at(Duration::ZERO, Event::Wake(peer));
            }
        }
    }

    fn persisted(&mut self, peer: usize, life: u64, token: u64) {
        if self.peers[peer].is_none() || life != self.lives[peer] {
            return;
        }
        let disk = &mut self.disks[peer];
        while disk.written.first().is_some_and(|(written, _)| *written <= token) {
            let (_, record) = disk.written.remove(0);
            disk.synced.push(record);
        }
        self.input(peer, Input::Persisted { token });
    }

    fn first_byte(&mut self, id: u64) {
        let Some(attempt) = self.attempts.remove(&id) else { return };
        let peer = attempt.peer;
        if self.now_ns > attempt.lease.0 {
            return self.input(peer, Input::Notified { claim: attempt.claim, outcome: Outcome::Expired });
        }
        let failing = matches!(self.receiver, Receiver::FailsUntil(until)
            if self.now_ns < 21_000_000_000 + until.as_nanos() as u64);
        if failing {
            let outcome = Outcome::Retry { after: None, why: "500".to_owned() };
            return self.input(peer, Input::Notified { claim: attempt.claim, outcome });
        }
        self.telling.push((attempt.notification.idempotency_key.clone(), peer));
        for alert in &attempt.notification.alerts {
            let state = if alert.ends_at.is_none() { "firing" } else { "resolved" };
            self.told.push(format!("{state} {}", alert.labels.value("alertname")));
        }
        let name = attempt.notification.group_labels.value("alertname").to_owned();
        if attempt.notification.degraded || self.alone.contains(&peer) {
            // Both sides of a long cut tell; and who is cut off between its claim and its first byte can tell nobody.
            *self.cut_off.entry(name.clone()).or_default() += 1;
        }
        self.keys.push((name, attempt.notification.key.id(), attempt.notification.flush));
        let delay = match self.receiver {
            Receiver::Slow(span) => span,
            _ => Duration::from_millis(self.rng.random_range(1..50)),
        };
        self.answers += 1;
        let index = self.answers;
        self.attempts.insert(u64::MAX - index, attempt);
        self.at(delay, Event::Answered(index, peer, self.lives[peer]));
    }

    fn answered(&mut self, index: u64, peer: usize, life: u64) {
        let Some(attempt) = self.attempts.remove(&(u64::MAX - index)) else { return };
        if life == self.lives[peer] {
            let outcome = Outcome::Sent { data: BTreeMap::new() };
            self.input(peer, Input::Notified { claim: attempt.claim, outcome });
        }
    }

    pub fn told(&self) -> Vec<String> {
        self.told.clone()
    }

    pub fn posts_acknowledged(&self) -> usize {
        self.acknowledged
    }

    pub fn was_acknowledged(&self, name: &str) -> bool {
        self.acknowledged_names.contains(name)
    }

    /// How often an attempt for an alert was cut off after the receiver had taken it, or no majority was there for longer
    /// than the hold.
    pub fn cut_off(&self, name: &str) -> usize {
        self.cut_off.get(name).copied().unwrap_or(0)
    }

    /// How many electors the newest electorate has that anybody knows.
    pub fn most_electors(&self) -> usize {
        let known = self.peers.iter().flatten().filter_map(Alerting::electorate);
        known.max_by_key(|electorate| electorate.number).map_or(0, |electorate| electorate.members.len())
    }

    /// How many electors all living peers agree on; zero when they do not.
    pub fn electors(&self) -> usize {
        let mut seen: Vec<_> = self.peers.iter().flatten().map(|alerting| alerting.electorate().cloned()).collect();
        seen.dedup();
        match seen.as_slice() {
            [Some(electorate)] => electorate.members.len(),
            _ => 0,
        }
    }
}
