//! The claim protocol, its interleavings within bounds: the real voters, beats and candidacies in an explicit-state
//! search.
//!
//! Two electors want to send the same notification; all electors vote. Messages are delivered in any order, late, or never.
//! Anybody may stand still (it takes no step while time passes), crash and come back with what it had on disk, and the
//! electorate may change by one member, of which each hears at its own time. Time passes in seconds, the grain at which a
//! lease (2.5 s) ends before a session lapses (3 s).
//!
//! The property: nobody sends the first byte while a rival that has sent still holds its lease, nor after a rival recorded
//! its notification at a majority without losing its lease in between. So there is a second notification only where the
//! sender of the first crashed, stood still or was cut off in between.
//!
//! Voters that claim nothing are alike: states that differ by their order are one. What is counted are states up to that.
//!
//! Three, four and five electors are checked whole by way of the voter that two rivals share. Any two majorities of one
//! electorate, and of two that differ by one member, have a member in common; and nothing that one voter does depends on
//! another. So whoever holds two leases at once by two majorities holds both through one common voter. The search runs
//! that voter, a third elector or one of the rivals, against two rivals for which every other elector does whatever it may:
//! it accepts, acknowledges, or refuses and shows the other's ballot, at any time. If no state of this lets both send, no
//! electorate does, of whatever size. What it does not show is the last word of the property for a record that reached a
//! majority without the common voter; that is searched directly, in part.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::*;
use crate::candidacy::Candidacy;
use crate::nflog::LogKey;

const SECOND: Duration = Duration::from_secs(1);
const FLUSH: Timestamp = Timestamp(1000);
const KEY: KeyId = KeyId(1);

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    electors: usize,
    /// Electors that want to send.
    rivals: usize,
    seconds: u64,
    /// Rounds of asking, for each rival.
    rounds: u8,
    /// Beats, for each life of a rival.
    beats: u8,
    crashes: u8,
    /// Whether the electorate changes by a member: the last elector leaves; of a shared voter's, any other.
    change: bool,
    /// The voter that counts, when all others do whatever they may.
    shared: Option<usize>,
}

impl Bounds {
    /// To whom a rival's word goes.
    fn heard_by(self, peer: usize) -> impl Iterator<Item = usize> {
        (0..self.electors).filter(move |other| *other != peer && self.shared.is_none_or(|shared| shared == *other))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Intent { from: usize, to: usize, boot: u64, ballot: Ballot, number: u64 },
    Answer { from: usize, to: usize, boot: u64, ballot: Ballot, verdict: Verdict, done: Option<Ballot> },
    Release { to: usize, ballot: Ballot },
    Beat { from: usize, to: usize, boot: u64, sequence: u64 },
    Heard { from: usize, to: usize, boot: u64, sequence: u64 },
    Done { to: usize, ballot: Ballot },
}

impl Message {
    fn to(&self) -> usize {
        match self {
            Message::Intent { to, .. }
            | Message::Answer { to, .. }
            | Message::Release { to, .. }
            | Message::Beat { to, .. }
            | Message::Heard { to, .. }
            | Message::Done { to, .. } => *to,
        }
    }

    fn from(&self) -> Option<usize> {
        match self {
            Message::Answer { from, .. } | Message::Heard { from, .. } => Some(*from),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Peer {
    up: bool,
    boot: u64,
    voter: Voter,
    beats: Beats,
    /// The record that the notification was sent, by which ballot.
    done: Option<Ballot>,
    number: u64,
    claim: Option<(Candidacy, Option<Sending>)>,
    rounds: u8,
    beats_sent: u8,
}

impl Peer {
    fn learn(&mut self, done: Option<Ballot>) {
        self.done = self.done.max(done);
    }
}

/// An attempt, from being issued to its first byte and beyond.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sending {
    lease: Monotonic,
    begun: bool,
}

/// A notification whose first byte went out.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Sent {
    peer: usize,
    boot: u64,
    candidacy: Candidacy,
    lease: Monotonic,
    /// Whether its sender has held its lease ever since.
    kept: bool,
    /// Whether a majority had the record while it did.
    clean: bool,
}

#[derive(Clone)]
struct State {
    now: u64,
    peers: Vec<Peer>,
    net: BTreeSet<Message>,
    sent: Vec<Sent>,
    crashes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Second,
    Deliver(Message),
    Claim(usize),
    Ask(usize),
    /// Who has not accepted is asked while an attempt runs.
    AskOn(usize),
    /// The others refuse, and show the rival's ballot.
    Refused(usize),
    Beat(usize),
    Issue(usize),
    FirstByte(usize),
    Answered(usize),
    Crash(usize),
    Restart(usize),
    Adopt(usize),
}

fn id(peer: usize) -> PeerId {
    PeerId(peer as u128 + 1)
}

fn done(ballot: Ballot) -> Done {
    let key =
        LogKey { group_key: String::new(), receiver: String::new(), integration: String::new(), index: 0, twin: 0 };
    let (firing, resolved, data) = (BTreeSet::from([1]), BTreeSet::new(), BTreeMap::new());
    Done { key, flush: FLUSH, ballot, at: FLUSH, firing, resolved, data }
}

fn members(bounds: Bounds, number: u64) -> Vec<PeerId> {
    if let Some(shared) = bounds.shared {
        return vec![id(shared)];
    }
    (0..bounds.electors - usize::from(number > 1)).map(id).collect()
}

impl State {
    fn new(bounds: Bounds) -> State {
        let peer = |peer| Peer {
            up: true,
            boot: 1,
            // Voters have run long enough to trust what they heard.
            voter: Voter::new(Session { peer: id(peer), boot: 1 }, BTreeMap::new(), Monotonic(0)),
            beats: Beats::default(),
            done: None,
            number: 1,
            claim: None,
            rounds: 0,
            beats_sent: 0,
        };
        let peers = (0..bounds.electors).map(peer).collect();
        State { now: 10, peers, net: BTreeSet::new(), sent: Vec::new(), crashes: 0 }
    }

    fn clock(&self) -> Monotonic {
        Monotonic(0) + SECOND * self.now as u32
    }

    fn steps(&self, bounds: Bounds) -> Vec<Step> {
        let mut steps: Vec<Step> = self
            .net
            .iter()
            .filter(|message| self.peers[message.to()].up)
            .map(|message| Step::Deliver(*message))
            .collect();
        if self.now < 10 + bounds.seconds {
            steps.push(Step::Second);
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let rival = index < bounds.rivals;
            if !peer.up {
                steps.push(Step::Restart(index));
                continue;
            }
            // A crash of who has no vote and sends nothing is a pause.
            if self.crashes < bounds.crashes && (rival || peer.voter.vote(KEY).is_some()) {
                steps.push(Step::Crash(index));
            }
            if bounds.change && peer.number == 1 {
                steps.push(Step::Adopt(index));
            }
            if !rival {
                continue;
            }
            if peer.beats_sent < bounds.beats {
                steps.push(Step::Beat(index));
            }
            match &peer.claim {
                None if peer.done.is_none()
                    && peer.rounds < bounds.rounds
                    && (bounds.shared.is_some() || members(bounds, peer.number).contains(&id(index))) =>
                {
                    steps.push(Step::Claim(index));
                }
                None => {}
                Some((_, None)) => {
                    if peer.rounds < bounds.rounds {
                        steps.push(Step::Ask(index));
                        steps.extend(bounds.shared.map(|_| Step::Refused(index)));
                    }
                    if self.may_issue(bounds, index) {
                        steps.push(Step::Issue(index));
                    }
                }
                Some((_, Some(sending))) if sending.begun => {
                    steps.push(Step::Answered(index));
                    if peer.rounds < bounds.rounds {
                        steps.push(Step::AskOn(index));
                    }
                }
                Some((_, Some(sending))) if self.clock() <= sending.lease => steps.push(Step::FirstByte(index)),
                Some(_) => {}
            }
        }
        steps
    }

    fn may_issue(&self, bounds: Bounds, peer: usize) -> bool {
        let this = &self.peers[peer];
        let Some((candidacy, _)) = &this.claim else { return false };
        let members = members(bounds, this.number);
        let lease = candidacy.lease(&members, &this.beats, id(peer), self.clock());
        this.done.is_none() && candidacy.is_accepted(&members) && lease.is_some_and(|lease| lease > self.clock())
    }

    /// Takes a step; says what is wrong with it, if anything.
    fn take(&mut self, step: Step, bounds: Bounds) -> Result<(), String> {
        let now = self.clock();
        match step {
            Step::Second => {
                self.now += 1;
                let now = self.clock();
                for sent in &mut self.sent {
                    sent.kept &= now <= sent.lease;
                }
            }
            Step::Deliver(message) => {
                self.net.remove(&message);
                self.deliver(message, bounds);
            }
            Step::Claim(peer) => {
                let seen = self.peers[peer].voter.vote(KEY).map_or(0, |vote| vote.ballot.number);
                self.peers[peer].claim = Some((Candidacy::new(Ballot { number: seen + 1, peer: id(peer) }), None));
                self.ask(peer, bounds);
            }
            Step::Ask(peer) => {
                // As `back_off` and `tend_claims` do: give back what cannot succeed, else ask who has not accepted.
                let members = members(bounds, self.peers[peer].number);
                let claim = self.peers[peer].claim.as_mut().expect("it has a claim");
                if !claim.0.is_possible(&members) || claim.0.has_void() {
                    let ballot = claim.0.ballot();
                    claim.0.renew();
                    self.peers[peer].voter.release(KEY, ballot);
                    self.net.extend(bounds.heard_by(peer).map(|to| Message::Release { to, ballot }));
                }
                self.ask(peer, bounds);
            }
            Step::AskOn(peer) => self.ask(peer, bounds),
            Step::Refused(peer) => {
                let shown =
                    self.peers.iter().filter_map(|other| other.claim.as_ref()).map(|claim| claim.0.ballot().number);
                let shown = shown.max().unwrap_or(0);
                let claim = self.peers[peer].claim.as_mut().expect("it has a claim");
                let ballot = claim.0.ballot();
                claim.0.answered(PeerId(99), ballot, Verdict::Behind(shown));
                claim.0.renew();
                self.peers[peer].voter.release(KEY, ballot);
                self.net.extend(bounds.heard_by(peer).map(|to| Message::Release { to, ballot }));
                self.ask(peer, bounds);
            }
            Step::Beat(peer) => {
                let this = &mut self.peers[peer];
                this.beats_sent += 1;
                let (boot, sequence) = (this.boot, this.beats.send(now));
                self.net.extend(bounds.heard_by(peer).map(|to| Message::Beat { from: peer, to, boot, sequence }));
            }
            Step::Issue(peer) => {
                let members = members(bounds, self.peers[peer].number);
                let this = &mut self.peers[peer];
                let (candidacy, sending) = this.claim.as_mut().expect("it has a claim");
                let lease = candidacy.lease(&members, &this.beats, id(peer), now).expect("it may be issued");
                *sending = Some(Sending { lease, begun: false });
            }
            Step::FirstByte(peer) => return self.first_byte(peer),
            Step::Answered(peer) => {
                let claim = self.peers[peer].claim.take().expect("it has a claim");
                let ballot = claim.0.ballot();
                self.peers[peer].learn(Some(ballot));
                let others = (0..bounds.electors).filter(|other| *other != peer);
                self.net.extend(others.map(|to| Message::Done { to, ballot }));
                self.note_clean(bounds);
            }
            Step::Crash(peer) => {
                self.crashes += 1;
                let this = &mut self.peers[peer];
                this.up = false;
                this.claim = None;
                for sent in self.sent.iter_mut().filter(|sent| sent.peer == peer) {
                    sent.kept = false;
                }
            }
            Step::Restart(peer) => {
                let this = &mut self.peers[peer];
                this.up = true;
                this.boot += 1;
                let votes = this.voter.votes().map(|(key, vote)| (*key, *vote)).collect();
                this.voter = Voter::new(Session { peer: id(peer), boot: this.boot }, votes, now);
                this.beats = Beats::default();
                this.beats_sent = 0;
            }
            Step::Adopt(peer) => {
                self.peers[peer].number = 2;
                let members = members(bounds, 2);
                match &mut self.peers[peer].claim {
                    Some(claim) if bounds.shared.is_none() && !members.contains(&id(peer)) && claim.1.is_none() => {
                        self.peers[peer].claim = None;
                    }
                    Some((candidacy, None)) => {
                        candidacy.renew();
                        self.ask(peer, bounds);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn first_byte(&mut self, peer: usize) -> Result<(), String> {
        let (candidacy, sending) = self.peers[peer].claim.as_mut().expect("it has a claim");
        let sending = sending.as_mut().expect("it was issued");
        sending.begun = true;
        let (candidacy, lease, boot) = (candidacy.clone(), sending.lease, self.peers[peer].boot);
        let wrong = self.sent.iter().find(|sent| (sent.peer, sent.boot) != (peer, boot) && (sent.kept || sent.clean));
        let wrong = wrong
            .map(|first| format!("{peer} sends after {}: held {}, recorded {}", first.peer, first.kept, first.clean));
        self.sent.push(Sent { peer, boot, candidacy, lease, kept: true, clean: false });
        wrong.map_or(Ok(()), Err)
    }

    fn ask(&mut self, peer: usize, bounds: Bounds) {
        let now = self.clock();
        let this = &mut self.peers[peer];
        this.rounds += 1;
        let (candidacy, _) = this.claim.as_mut().expect("it has a claim");
        let accepted: Vec<PeerId> = candidacy.accepters().collect();
        let intent = intent(id(peer), this.boot, candidacy.ballot(), this.number);
        let record = this.done.map(done);
        let (boot, ballot, number) = (this.boot, candidacy.ballot(), this.number);
        for to in 0..bounds.electors {
            if accepted.contains(&id(to)) || !members(bounds, number).contains(&id(to)) {
                continue;
            }
            if to == peer {
                let verdict = this.voter.judge(&intent, record.as_ref(), now);
                candidacy.answered(id(peer), ballot, verdict);
            } else {
                self.net.insert(Message::Intent { from: peer, to, boot, ballot, number });
            }
        }
    }

    /// Forgets messages that change nothing any more, whenever they come: answers to what is not asked any more, and
    /// acknowledgements for an earlier life or of an older beat than one that was acknowledged.
    fn prune(&mut self) {
        let peers = &self.peers;
        self.net.retain(|message| match *message {
            Message::Answer { to, boot, ballot, done, .. } => {
                let asked = peers[to].claim.as_ref().is_some_and(|(candidacy, _)| candidacy.ballot() == ballot);
                (peers[to].boot == boot && asked) || done > peers[to].done
            }
            Message::Heard { from, to, boot, sequence } => {
                let beats = &peers[to].beats;
                let sent = beats.sent.get(&sequence);
                let known = beats.heard.get(&id(from));
                peers[to].boot == boot && sent.is_some_and(|sent| known.is_none_or(|known| sent >= known))
            }
            Message::Done { to, ballot } => Some(ballot) > peers[to].done,
            _ => true,
        });
    }

    fn deliver(&mut self, message: Message, bounds: Bounds) {
        let now = self.clock();
        match message {
            Message::Intent { from, to, boot, ballot, number } => {
                let voter = &mut self.peers[to];
                let record = voter.done.map(done);
                let verdict = if number < voter.number {
                    Verdict::OldElectorate
                } else {
                    voter.voter.judge(&intent(id(from), boot, ballot, number), record.as_ref(), now)
                };
                let answer = Message::Answer { from: to, to: from, boot, ballot, verdict, done: voter.done };
                self.net.insert(answer);
            }
            Message::Answer { from, to, boot, ballot, verdict, done } => {
                let this = &mut self.peers[to];
                this.learn(done);
                if this.boot == boot
                    && let Some((candidacy, _)) = &mut this.claim
                {
                    candidacy.answered(id(from), ballot, verdict);
                }
                self.note_clean(bounds);
            }
            Message::Release { to, ballot } => drop(self.peers[to].voter.release(KEY, ballot)),
            Message::Beat { from, to, boot, sequence } => {
                self.peers[to].voter.beat(Session { peer: id(from), boot }, now);
                self.net.insert(Message::Heard { from: to, to: from, boot, sequence });
            }
            Message::Heard { from, to, boot, sequence } if self.peers[to].boot == boot => {
                self.heard(from, to, sequence, bounds);
            }
            Message::Heard { .. } => {}
            Message::Done { to, ballot } => {
                self.peers[to].learn(Some(ballot));
                self.note_clean(bounds);
            }
        }
    }

    fn heard(&mut self, from: usize, to: usize, sequence: u64, bounds: Bounds) {
        let now = self.clock();
        let this = &mut self.peers[to];
        let heard = this.beats.acknowledged(id(from), sequence, now);
        let members = members(bounds, this.number);
        if let Some((candidacy, sending)) = &mut this.claim {
            if heard == Heard::AfterLapse {
                candidacy.void(id(from), sending.is_some());
            }
            if let (Some(lease), Some(sending)) = (candidacy.lease(&members, &this.beats, id(to), now), sending) {
                sending.lease = sending.lease.max(lease);
            }
        }
        let (boot, beats) = (this.boot, this.beats.clone());
        for sent in self.sent.iter_mut().filter(|sent| (sent.peer, sent.boot) == (to, boot)) {
            if heard == Heard::AfterLapse {
                sent.candidacy.void(id(from), true);
            }
            if let Some(lease) = sent.candidacy.lease(&members, &beats, id(to), now) {
                sent.lease = sent.lease.max(lease);
            }
        }
    }

    /// A majority has the record: whose sender kept its lease is in the clear.
    fn note_clean(&mut self, bounds: Bounds) {
        for index in 0..self.sent.len() {
            let members = members(bounds, self.peers[self.sent[index].peer].number);
            let have = (0..bounds.electors)
                .filter(|peer| self.peers[*peer].done.is_some() && members.contains(&id(*peer)))
                .count();
            let sent = &mut self.sent[index];
            // Only the sender itself can have told of it.
            let told = self.peers[sent.peer].done.is_some();
            sent.clean |= sent.kept && told && have > members.len() / 2;
        }
    }

    /// A hash that does not know the order of voters that claim nothing.
    fn signature(&self, bounds: Bounds) -> u64 {
        let mut out = DefaultHasher::new();
        (self.now, self.crashes, &self.sent.len()).hash(&mut out);
        let (last, rivals) = (bounds.electors - 1, bounds.rivals);
        let alike = |peer: usize| peer >= rivals && !(bounds.change && peer == last);
        let mut voters: Vec<u64> =
            (0..bounds.electors).filter(|peer| alike(*peer)).map(|peer| self.voter_signature(peer, bounds)).collect();
        voters.sort_unstable();
        voters.hash(&mut out);
        let named = |message: &&Message| !alike(message.to()) && message.from().is_none_or(|from| !alike(from));
        self.net.iter().filter(named).for_each(|message| message.hash(&mut out));
        for peer in (0..bounds.electors).filter(|peer| !alike(*peer)) {
            let this = &self.peers[peer];
            (this.up, this.boot, &this.voter, this.done, this.number, this.rounds, this.beats_sent).hash(&mut out);
            (this.beats.sequence, &this.beats.sent).hash(&mut out);
            let claim =
                this.claim.as_ref().map(|(candidacy, sending)| (candidacy.ballot(), candidacy.behind(), *sending));
            claim.hash(&mut out);
            for other in (0..bounds.electors).filter(|other| !alike(*other)) {
                self.word_of(other, peer).hash(&mut out);
            }
        }
        for sent in &self.sent {
            (sent.peer, sent.boot, sent.candidacy.ballot(), sent.lease, sent.kept, sent.clean).hash(&mut out);
        }
        out.finish()
    }

    /// What a voter is to a rival: its verdict, whether that is void, and when it last heard; then, and for what was sent.
    #[allow(clippy::type_complexity)]
    fn word_of(
        &self,
        voter: usize,
        rival: usize,
    ) -> (Option<(Option<Verdict>, bool)>, Option<Monotonic>, Vec<(Option<Verdict>, bool)>) {
        let this = &self.peers[rival];
        let word = |candidacy: &Candidacy| (candidacy.verdict_of(id(voter)), candidacy.is_void(id(voter)));
        let sent = self.sent.iter().filter(|sent| sent.peer == rival).map(|sent| word(&sent.candidacy)).collect();
        (this.claim.as_ref().map(|(candidacy, _)| word(candidacy)), this.beats.heard.get(&id(voter)).copied(), sent)
    }

    fn voter_signature(&self, peer: usize, bounds: Bounds) -> u64 {
        let mut out = DefaultHasher::new();
        let this = &self.peers[peer];
        (this.up, this.boot, this.done, this.number).hash(&mut out);
        (&this.voter.votes, &this.voter.heard, this.voter.started).hash(&mut out);
        for message in &self.net {
            let anonymous = match *message {
                Message::Answer { from, to, boot, ballot, verdict, done } if from == peer => {
                    Message::Answer { from: 99, to, boot, ballot, verdict, done }
                }
                Message::Heard { from, to, boot, sequence } if from == peer => {
                    Message::Heard { from: 99, to, boot, sequence }
                }
                Message::Intent { from, to, boot, ballot, number } if to == peer => {
                    Message::Intent { from, to: 99, boot, ballot, number }
                }
                Message::Release { to, ballot } if to == peer => Message::Release { to: 99, ballot },
                Message::Beat { from, to, boot, sequence } if to == peer => {
                    Message::Beat { from, to: 99, boot, sequence }
                }
                Message::Done { to, ballot } if to == peer => Message::Done { to: 99, ballot },
                _ => continue,
            };
            anonymous.hash(&mut out);
        }
        for rival in 0..bounds.rivals {
            self.word_of(peer, rival).hash(&mut out);
        }
        out.finish()
    }
}

fn intent(peer: PeerId, boot: u64, ballot: Ballot, number: u64) -> Intent {
    Intent {
        key: KEY,
        ballot,
        session: Session { peer, boot },
        flush: FLUSH,
        firing: BTreeSet::new(),
        resolved: BTreeSet::new(),
        electorate: number,
    }
}

/// Searches states, depth first, until there are no more or so many were seen. Gives how many were seen, how many of them
/// have a second notification, which is allowed only after a loss of the lease, and whether these are all there are.
fn search(bounds: Bounds, most: usize) -> (usize, usize, bool) {
    let mut seen: HashSet<u64> = HashSet::new();
    let mut twice = 0;
    let mut path: Vec<Step> = Vec::new();
    let mut stack: Vec<(State, Vec<Step>)> = Vec::new();
    let first = State::new(bounds);
    seen.insert(first.signature(bounds));
    let steps = first.steps(bounds);
    stack.push((first, steps));
    while let Some((state, steps)) = stack.last_mut() {
        if seen.len() >= most {
            return (seen.len(), twice, false);
        }
        let Some(step) = steps.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        let mut next = state.clone();
        path.push(step);
        if let Err(wrong) = next.take(step, bounds) {
            panic!("{bounds:?}: {wrong}\n{}", path.iter().map(|step| format!("  {step:?}\n")).collect::<String>());
        }
        next.prune();
        if !seen.insert(next.signature(bounds)) {
            path.pop();
            continue;
        }
        twice += usize::from(next.sent.len() > 1);
        let steps = next.steps(bounds);
        stack.push((next, steps));
    }
    (seen.len(), twice, true)
}

fn check(bounds: Bounds, most: usize) -> bool {
    let (states, twice, all) = search(bounds, most);
    let extent = if all { "all" } else { "stopped there" };
    println!("{bounds:?}: {states} states, {extent}; {twice} with a second notification after a lost lease");
    assert!(states > 100, "the search went nowhere");
    all
}

const SMALL: Bounds =
    Bounds { electors: 2, rivals: 2, seconds: 3, rounds: 1, beats: 1, crashes: 0, change: false, shared: None };

/// What a check before every landing can afford: two electors to the end, more of them in part.
#[test]
fn within_bounds_no_interleaving_lets_two_send_while_one_holds_its_lease() {
    assert!(check(SMALL, 2_000_000), "two electors are searched to the end");
    for electors in 3..=5 {
        check(Bounds { electors, seconds: 4, crashes: 1, change: true, ..SMALL }, 60_000);
    }
}

/// The voter that the rivals of any electorate share: a third elector, and a rival itself.
fn shared(bounds: Bounds) -> [Bounds; 2] {
    [Bounds { electors: 3, shared: Some(2), ..bounds }, Bounds { electors: 2, shared: Some(0), ..bounds }]
}

/// Three electors and more, to the end.
#[test]
fn within_bounds_no_voter_lets_two_hold_their_leases_through_it() {
    for bounds in shared(SMALL) {
        assert!(check(bounds, 3_000_000), "{bounds:?} is searched to the end");
    }
}

/// `cargo test -p promesh-alerting --release -- --ignored --nocapture no_voter`; minutes and gigabytes.
#[test]
#[ignore = "minutes; run by name"]
fn within_larger_bounds_no_voter_lets_two_hold_their_leases_through_it() {
    const MOST: usize = 60_000_000;
    for bounds in [
        Bounds { crashes: 1, ..SMALL },
        Bounds { seconds: 4, crashes: 1, ..SMALL },
        Bounds { change: true, ..SMALL },
        Bounds { rounds: 2, ..SMALL },
        Bounds { seconds: 4, beats: 2, ..SMALL },
        Bounds { seconds: 4, crashes: 1, change: true, ..SMALL },
        Bounds { seconds: 4, rounds: 2, crashes: 1, ..SMALL },
    ] {
        for bounds in shared(bounds) {
            check(bounds, MOST);
        }
    }
}

/// `cargo test -p promesh-alerting --release -- --ignored --nocapture interleaving`; minutes and gigabytes.
#[test]
#[ignore = "minutes; run by name"]
fn within_larger_bounds_no_interleaving_lets_two_send_while_one_holds_its_lease() {
    const MOST: usize = 30_000_000;
    check(Bounds { seconds: 4, crashes: 1, ..SMALL }, MOST);
    for electors in 3..=5 {
        check(Bounds { electors, ..SMALL }, MOST);
        check(Bounds { electors, crashes: 1, change: true, ..SMALL }, MOST);
    }
}
