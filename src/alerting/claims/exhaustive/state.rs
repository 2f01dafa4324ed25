//! A state of the search, and the steps out of it.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const FLUSH: Timestamp = Timestamp(1000);
const KEY: KeyId = KeyId(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Message {
    Intent { from: usize, to: usize, boot: u64, ballot: Ballot, number: u64 },
    Answer { from: usize, to: usize, boot: u64, ballot: Ballot, verdict: Verdict, done: Option<Ballot> },
    Release { to: usize, ballot: Ballot },
    Beat { from: usize, to: usize, boot: u64, sequence: u64 },
    Heard { from: usize, to: usize, boot: u64, sequence: u64 },
    Done { to: usize, ballot: Ballot },
}

impl Message {
    pub(super) fn to(&self) -> usize {
        match self {
            Message::Intent { to, .. }
            | Message::Answer { to, .. }
            | Message::Release { to, .. }
            | Message::Beat { to, .. }
            | Message::Heard { to, .. }
            | Message::Done { to, .. } => *to,
        }
    }

    pub(super) fn from(&self) -> Option<usize> {
        match self {
            Message::Answer { from, .. } | Message::Heard { from, .. } => Some(*from),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) up: bool,
    pub(super) boot: u64,
    pub(super) voter: Voter,
    pub(super) beats: Beats,
    /// The record that the notification was sent, by which ballot.
    pub(super) done: Option<Ballot>,
    pub(super) number: u64,
    pub(super) claim: Option<(Candidacy, Option<Sending>)>,
    pub(super) rounds: u8,
    pub(super) beats_sent: u8,
    /// Who knows what it knows of earlier electorates.
    pub(super) shown: BTreeSet<usize>,
    /// Whether it took part in deciding the third electorate.
    pub(super) decided: bool,
}

impl Peer {
    fn learn(&mut self, done: Option<Ballot>) {
        if done > self.done {
            self.done = done;
            if self.voter.vote(KEY).is_none_or(|vote| vote.electorate < self.number) {
                self.shown.clear();
            }
        }
    }
}

/// An attempt, from being issued to its first byte and beyond.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sending {
    pub(super) lease: Monotonic,
    pub(super) begun: bool,
    /// In which electorate it was issued.
    pub(super) electorate: u64,
    /// By which ballot it was allowed, and is recorded.
    pub(super) ballot: Ballot,
}

/// A notification whose first byte went out.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Sent {
    pub(super) peer: usize,
    pub(super) boot: u64,
    pub(super) candidacy: Candidacy,
    pub(super) electorate: u64,
    pub(super) lease: Monotonic,
    /// Whether its sender has held its lease ever since.
    pub(super) kept: bool,
    /// Whether a majority had the record while it did.
    pub(super) clean: bool,
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) now: u64,
    pub(super) peers: Vec<Peer>,
    pub(super) net: BTreeSet<Message>,
    pub(super) sent: Vec<Sent>,
    pub(super) crashes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Second,
    Deliver(Message),
    Claim(usize),
    Ask(usize),
    /// A round that is complete but not fresh is confirmed.
    Confirm(usize),
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
    /// It takes part in deciding the third electorate.
    Decide(usize),
    /// Two compare their logs.
    Compare(usize, usize),
}

fn done(ballot: Ballot) -> Done {
    let key =
        LogKey { group_key: String::new(), receiver: String::new(), integration: String::new(), index: 0, twin: 0 };
    let (firing, resolved, data) = (BTreeSet::from([1]), BTreeSet::new(), BTreeMap::new());
    Done { key, flush: FLUSH, ballot, at: FLUSH, firing, resolved, data }
}

impl State {
    pub(super) fn new(bounds: Bounds) -> State {
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
            shown: BTreeSet::new(),
            decided: false,
        };
        let peers = (0..bounds.electors).map(peer).collect();
        State { now: 10, peers, net: BTreeSet::new(), sent: Vec::new(), crashes: 0 }
    }

    pub(super) fn clock(&self) -> Monotonic {
        Monotonic(0) + SECOND * self.now as u32
    }

    pub(super) fn steps(&self, bounds: Bounds) -> Vec<Step> {
        // What follows once the second has sent is not what a pair is about.
        if bounds.is_pair() && self.sent.iter().any(|sent| sent.peer == 1) {
            return Vec::new();
        }
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
            if peer.number <= u64::from(bounds.change.count()) && (peer.number == 1 || self.is_decided(bounds)) {
                steps.push(Step::Adopt(index));
            }
            if self.may_decide(index, bounds) {
                steps.push(Step::Decide(index));
            }
            steps.extend(self.comparisons(index, bounds).map(|other| Step::Compare(index, other)));
            if !rival {
                continue;
            }
            if peer.beats_sent < bounds.beats {
                steps.push(Step::Beat(index));
            }
            steps.extend(self.steps_of_claim(index, bounds));
        }
        steps
    }

    fn steps_of_claim(&self, index: usize, bounds: Bounds) -> Vec<Step> {
        let peer = &self.peers[index];
        let mut steps = Vec::new();
        let may_ask = peer.rounds < bounds.rounds;
        match &peer.claim {
            None if peer.done.is_none()
                && may_ask
                && (bounds.through != Through::All || bounds.members(peer.number).contains(&id(index))) =>
            {
                steps.push(Step::Claim(index));
            }
            None => {}
            Some((candidacy, None)) => {
                if may_ask {
                    steps.push(Step::Ask(index));
                    if bounds.through != Through::All {
                        steps.push(Step::Refused(index));
                    }
                    if !candidacy.is_fresh(self.clock()) && self.lease(bounds, index).is_some() {
                        steps.push(Step::Confirm(index));
                    }
                }
                if self.may_issue(bounds, index) {
                    steps.push(Step::Issue(index));
                }
            }
            Some((_, Some(sending))) => {
                if sending.begun {
                    steps.push(Step::Answered(index));
                } else if self.clock() <= sending.lease {
                    steps.push(Step::FirstByte(index));
                }
                if may_ask {
                    steps.push(Step::AskOn(index));
                }
            }
        }
        steps
    }

    /// All others do whatever it may need.
    fn is_first_of_pair(&self, bounds: Bounds, peer: usize) -> bool {
        bounds.is_pair() && peer == 0
    }

    /// Whether a majority of the second electorate has decided the third.
    fn is_decided(&self, bounds: Bounds) -> bool {
        let members = bounds.members(2);
        let decided =
            self.peers.iter().enumerate().filter(|(index, peer)| peer.decided && members.contains(&id(*index)));
        decided.count() > members.len() / 2
    }

    /// As the mind does: a member of the second electorate decides the third unless it is held back.
    fn may_decide(&self, index: usize, bounds: Bounds) -> bool {
        let peer = &self.peers[index];
        let record = peer.done.map(done);
        let is_able = bounds.change.count() > 1 && peer.number == 2 && !peer.decided;
        is_able
            && bounds.members(2).contains(&id(index))
            && peer.voter.holds_back(3, |_| record.as_ref(), self.clock()).next().is_none()
            && (bounds.through != Through::All || peer.shown.len() + 1 > bounds.members(2).len() / 2)
    }

    /// With whom an elector compares its log before it decides the third electorate.
    fn comparisons(&self, index: usize, bounds: Bounds) -> impl Iterator<Item = usize> {
        let peer = &self.peers[index];
        let is_able = bounds.through == Through::All && bounds.change.count() > 1 && peer.number == 2 && !peer.decided;
        let is_missing =
            move |other: &usize| is_able && *other != index && !peer.shown.contains(other) && self.peers[*other].up;
        bounds.asked(index, 2).into_iter().filter(is_missing)
    }

    /// Until when an attempt that was issued in an electorate holds its lease, by a majority of that or of one since.
    fn lease_of(&self, bounds: Bounds, peer: usize, candidacy: &Candidacy, issued_in: u64) -> Option<Monotonic> {
        let this = &self.peers[peer];
        let of = |number| candidacy.lease(number, &bounds.members(number), &this.beats, id(peer), self.clock());
        (issued_in..=this.number).filter_map(of).max()
    }

    /// Whoever shares the decision of the third electorate with the first one's majority that holds a lease, holds none
    /// through this voter any more: of the third electorate nobody else need know of the attempt.
    fn check_decision(&self, bounds: Bounds) -> Result<(), String> {
        let Through::Decision(voter) = bounds.through else { return Ok(()) };
        if !self.peers[voter].decided {
            return Ok(());
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let Some((candidacy, sending)) = &peer.claim else { continue };
            let issued_in = sending.map_or(peer.number, |sending| sending.electorate);
            let lease = candidacy.lease(1, &bounds.members(1), &peer.beats, id(index), self.clock());
            if issued_in == 1 && lease.is_some_and(|lease| lease >= self.clock()) {
                return Err(format!("{voter} decided the third electorate, and holds {index}'s lease in the first"));
            }
        }
        Ok(())
    }

    /// The lease of a round that a majority accepted, if it lasts.
    fn lease(&self, bounds: Bounds, peer: usize) -> Option<Monotonic> {
        let this = &self.peers[peer];
        let (candidacy, _) = this.claim.as_ref()?;
        let members = bounds.members(this.number);
        let lease = self.lease_of(bounds, peer, candidacy, this.number);
        lease.filter(|lease| candidacy.is_accepted(&members) && *lease > self.clock())
    }

    fn may_issue(&self, bounds: Bounds, peer: usize) -> bool {
        let this = &self.peers[peer];
        let Some((candidacy, _)) = &this.claim else { return false };
        let holds = match bounds.through {
            Through::Pair { record, .. } => {
                let accepted = candidacy.accepters().any(|accepter| accepter == id(record));
                let is_one_round = candidacy.is_fresh(self.clock()) && self.lease(bounds, peer).is_some();
                accepted && (is_one_round || candidacy.confirms(self.clock()).is_some())
            }
            // Whoever holds its lease is found out through the shared voter, however old the round.
            Through::Shared(_) => self.lease(bounds, peer).is_some(),
            // By the word of others; this voter may be won later.
            Through::Decision(_) => true,
            Through::All => self.lease(bounds, peer).is_some() && candidacy.is_fresh(self.clock()),
        };
        this.done.is_none() && holds
    }

    /// Takes a step; says what is wrong with it, if anything.
    pub(super) fn take(&mut self, step: Step, bounds: Bounds) -> Result<(), String> {
        self.do_step(step, bounds)?;
        self.check_decision(bounds)
    }

    fn do_step(&mut self, step: Step, bounds: Bounds) -> Result<(), String> {
        let now = self.clock();
        match step {
            Step::Second => {
                self.now += 1;
                let now = self.clock();
                for sent in &mut self.sent {
                    sent.kept &= now <= sent.lease || bounds.is_pair();
                }
            }
            Step::Deliver(message) => {
                self.net.remove(&message);
                self.deliver(message, bounds);
            }
            Step::Claim(peer) => {
                let seen = self.peers[peer].voter.vote(KEY).map_or(0, |vote| vote.ballot.number);
                let ballot = Ballot { number: seen + 1, peer: id(peer) };
                self.peers[peer].claim = Some((Candidacy::new(ballot, self.peers[peer].number, now), None));
                self.ask(peer, bounds);
                if self.is_first_of_pair(bounds, peer) {
                    let (_, sending) = self.peers[peer].claim.as_mut().expect("set above");
                    *sending = Some(Sending { lease: now + LEASE, begun: false, electorate: 1, ballot });
                    return self.first_byte(peer, bounds);
                }
            }
            Step::Ask(peer) => {
                // As `back_off` and `tend_claims` do: give back what cannot succeed, else ask who has not accepted.
                let members = bounds.members(self.peers[peer].number);
                let (candidacy, _) = self.peers[peer].claim.as_ref().expect("it has a claim");
                if !candidacy.is_possible(&members) || candidacy.has_void() {
                    self.withdraw(peer, bounds);
                }
                self.ask(peer, bounds);
            }
            Step::Confirm(peer) => {
                let held = self.lease(bounds, peer).expect("a majority accepted");
                let (candidacy, _) = self.peers[peer].claim.as_mut().expect("it has a claim");
                candidacy.confirm(held, now);
                self.ask(peer, bounds);
            }
            Step::AskOn(peer) => {
                let (candidacy, _) = self.peers[peer].claim.as_mut().expect("it has a claim");
                if candidacy.is_outdone() {
                    candidacy.raise();
                }
                self.ask(peer, bounds);
            }
            Step::Refused(peer) => {
                let shown =
                    self.peers.iter().filter_map(|other| other.claim.as_ref()).map(|claim| claim.0.ballot().number);
                let shown = shown.max().unwrap_or(0);
                let (candidacy, _) = self.peers[peer].claim.as_mut().expect("it has a claim");
                let ballot = candidacy.ballot();
                candidacy.answered(PeerId(99), ballot, Verdict::Behind(shown));
                self.withdraw(peer, bounds);
                self.ask(peer, bounds);
            }
            Step::Beat(peer) => {
                let this = &mut self.peers[peer];
                this.beats_sent += 1;
                let (boot, sequence) = (this.boot, this.beats.send(now));
                self.net.extend(bounds.heard_by(peer).map(|to| Message::Beat { from: peer, to, boot, sequence }));
            }
            Step::Issue(peer) => {
                let lease = self.lease(bounds, peer).unwrap_or(now + LEASE);
                let electorate = self.peers[peer].number;
                let (candidacy, sending) = self.peers[peer].claim.as_mut().expect("it has a claim");
                *sending = Some(Sending { lease, begun: false, electorate, ballot: candidacy.ballot() });
            }
            Step::FirstByte(peer) => return self.first_byte(peer, bounds),
            Step::Answered(peer) => {
                let (candidacy, sending) = self.peers[peer].claim.take().expect("it has a claim");
                let (asked_by, ballot) = (candidacy.ballot(), sending.expect("it was issued").ballot);
                self.peers[peer].learn(Some(ballot));
                self.net.extend(bounds.told_by(peer).map(|to| Message::Done { to, ballot }));
                if asked_by != ballot {
                    // Who accepted a greater ballot since waits for the end of that one.
                    self.peers[peer].voter.release(KEY, asked_by);
                    self.net.extend(bounds.heard_by(peer).map(|to| Message::Release { to, ballot: asked_by }));
                }
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
                // In which electorate it voted is not on disk.
                let votes = this.voter.votes().map(|(key, vote)| (*key, Vote { electorate: 0, ..*vote })).collect();
                this.voter = Voter::new(Session { peer: id(peer), boot: this.boot }, votes, now);
                this.beats = Beats::default();
                this.beats_sent = 0;
            }
            Step::Adopt(peer) => self.adopt(peer, bounds),
            Step::Decide(peer) => self.peers[peer].decided = true,
            Step::Compare(peer, other) => {
                let record = self.peers[peer].done.max(self.peers[other].done);
                self.peers[peer].learn(record);
                self.peers[other].learn(record);
                self.peers[peer].shown.insert(other);
                self.note_clean(bounds);
            }
        }
        Ok(())
    }

    fn adopt(&mut self, peer: usize, bounds: Bounds) {
        self.peers[peer].number += 1;
        self.peers[peer].shown.clear();
        let (members, now) = (bounds.members(self.peers[peer].number), self.clock());
        match &mut self.peers[peer].claim {
            Some((_, None)) if bounds.through == Through::All && !members.contains(&id(peer)) => {
                self.peers[peer].claim = None;
            }
            Some((candidacy, None)) => {
                candidacy.renew(now);
                self.ask(peer, bounds);
            }
            _ => {}
        }
    }

    /// A claim is given back, to be asked for anew.
    fn withdraw(&mut self, peer: usize, bounds: Bounds) {
        let now = self.clock();
        let this = &mut self.peers[peer];
        let (candidacy, _) = this.claim.as_mut().expect("it has a claim");
        let ballot = candidacy.ballot();
        candidacy.renew(now);
        this.voter.release(KEY, ballot);
        self.net.extend(bounds.heard_by(peer).map(|to| Message::Release { to, ballot }));
    }

    fn first_byte(&mut self, peer: usize, bounds: Bounds) -> Result<(), String> {
        let boot = self.peers[peer].boot;
        let (candidacy, sending) = self.peers[peer].claim.as_mut().expect("it has a claim");
        let sending = sending.as_mut().expect("it was issued");
        sending.begun = true;
        let (candidacy, lease, electorate) = (candidacy.clone(), sending.lease, sending.electorate);
        let is_wrong = |sent: &&Sent| (sent.kept && !bounds.is_pair()) || sent.clean;
        let others = self.sent.iter().filter(|sent| (sent.peer, sent.boot) != (peer, boot));
        let wrong =
            others.clone().find(is_wrong).filter(|_| !self.is_first_of_pair(bounds, peer)).map(|first| {
                format!("{peer} sends after {}: held {}, recorded {}", first.peer, first.kept, first.clean)
            });
        self.sent.push(Sent { peer, boot, candidacy, electorate, lease, kept: true, clean: false });
        wrong.map_or(Ok(()), Err)
    }

    fn ask(&mut self, peer: usize, bounds: Bounds) {
        let now = self.clock();
        let this = &mut self.peers[peer];
        this.rounds += 1;
        let (candidacy, sending) = this.claim.as_mut().expect("it has a claim");
        candidacy.ask_in(this.number, sending.is_some(), now);
        let accepted: Vec<PeerId> = candidacy.accepters().collect();
        let intent = intent(id(peer), this.boot, candidacy.ballot(), this.number);
        let record = this.done.map(done);
        let (boot, ballot, number) = (this.boot, candidacy.ballot(), this.number);
        for to in bounds.asked(peer, number) {
            if accepted.contains(&id(to)) {
                continue;
            }
            if to == peer {
                let verdict = this.voter.judge(&intent, record.as_ref(), now);
                candidacy.answered(id(peer), ballot, verdict);
            } else {
                self.net.insert(Message::Intent { from: peer, to, boot, ballot, number });
            }
        }
        self.follow(peer);
    }

    /// What was sent is held by what its attempt has been answered since.
    fn follow(&mut self, peer: usize) {
        let this = &self.peers[peer];
        let Some((candidacy, Some(sending))) = this.claim.as_ref().filter(|claim| claim.1.is_some_and(|s| s.begun))
        else {
            return;
        };
        for sent in self.sent.iter_mut().filter(|sent| (sent.peer, sent.boot) == (peer, this.boot)) {
            sent.candidacy.clone_from(candidacy);
            sent.lease = sent.lease.max(sending.lease);
        }
    }

    /// Forgets messages that change nothing any more, whenever they come: answers to what is not asked any more, and
    /// acknowledgements for an earlier life or of an older beat than one that was acknowledged.
    pub(super) fn prune(&mut self) {
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
                let is_old = number < self.peers[to].number;
                if !is_old {
                    self.give_way(to, ballot, bounds);
                }
                let voter = &mut self.peers[to];
                let record = voter.done.map(done);
                let verdict = if is_old {
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
                self.follow(to);
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

    /// As the mind does: a claim that has waited for silent voters gives its own vote to a greater ballot.
    fn give_way(&mut self, to: usize, ballot: Ballot, bounds: Bounds) {
        let waits = self.peers[to].claim.as_ref().is_some_and(|(candidacy, sending)| {
            sending.is_none() && !candidacy.is_fresh(self.clock()) && candidacy.ballot() < ballot
        });
        if waits {
            self.withdraw(to, bounds);
        }
    }

    fn heard(&mut self, from: usize, to: usize, sequence: u64, bounds: Bounds) {
        let now = self.clock();
        let this = &mut self.peers[to];
        let heard = this.beats.acknowledged(id(from), sequence, now);
        let members = bounds.members(this.number);
        if let Some((candidacy, sending)) = &mut this.claim {
            if heard == Heard::AfterLapse {
                candidacy.void(id(from), sending.is_some(), now);
            }
            candidacy.hold(&members, &this.beats, id(to), now);
        }
        let this = &self.peers[to];
        let moved = this.claim.as_ref().and_then(|(candidacy, sending)| {
            let sending = sending.filter(|sending| now <= sending.lease)?;
            self.lease_of(bounds, to, candidacy, sending.electorate)
        });
        if let (Some(lease), Some((_, Some(sending)))) = (moved, &mut self.peers[to].claim) {
            sending.lease = sending.lease.max(lease);
        }
        let boot = self.peers[to].boot;
        for index in 0..self.sent.len() {
            let sent = &mut self.sent[index];
            if (sent.peer, sent.boot) != (to, boot) {
                continue;
            }
            if heard == Heard::AfterLapse {
                sent.candidacy.void(id(from), true, now);
            }
            let sent = &self.sent[index];
            if let Some(lease) = self.lease_of(bounds, to, &sent.candidacy, sent.electorate) {
                let sent = &mut self.sent[index];
                sent.lease = sent.lease.max(lease);
            }
        }
        self.note_clean(bounds);
    }

    /// A majority has the record: whose sender kept its lease is in the clear.
    fn note_clean(&mut self, bounds: Bounds) {
        let now = self.clock();
        for index in 0..self.sent.len() {
            let sender = &self.peers[self.sent[index].peer];
            let members = bounds.members(sender.number);
            let sent = &self.sent[index];
            // Only the sender itself can have told of it.
            let told = sender.done.is_some();
            let is_recorded = match bounds.through {
                Through::Pair { record, .. } => {
                    let lease = self.lease_of(bounds, sent.peer, &sent.candidacy, sent.electorate);
                    sender.boot == sent.boot
                        && self.peers[record].done.is_some()
                        && lease.is_some_and(|lease| now <= lease)
                }
                _ => {
                    let have = (0..bounds.electors)
                        .filter(|peer| self.peers[*peer].done.is_some() && members.contains(&id(*peer)));
                    have.count() > members.len() / 2
                }
            };
            let sent = &mut self.sent[index];
            sent.clean |= sent.kept && told && is_recorded;
        }
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
