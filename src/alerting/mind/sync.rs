//! Beats, comparison of records, and the electorate.

use std::collections::BTreeSet;
use std::time::Duration;

use promesh_model::{Now, PeerId, Timestamp};

use super::{Alerting, Deferred, Waiter};
use crate::alert::PostedAlert;
use crate::claims::{BEAT_INTERVAL, Heard, SESSION_LAPSE, Session};
use crate::electorate::{Acceptor, AlertPeer, ELECTORS_MAX, Electorate, Proposal, Step, ranked};
use crate::message::{AlertMessage, DiskRecord, MapName, Part};
use crate::nflog::Ballot;

/// Between two comparisons with one peer.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);
/// Peers outside the electorate hear a beat so often: silences and the electorate reach them.
const FAR_BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A proposal that is not decided by then is made anew.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long fresh peers listen for an electorate before the first of them makes one; and before any does.
const FORM_AFTER: [Duration; 2] = [Duration::from_millis(1500), Duration::from_secs(5)];
/// How long records of an electorate that was met are waited for.
const MERGE_MAX: Duration = Duration::from_secs(5);
/// How long a peer that cannot compare its log with a majority takes no part in changing the electorate: others have had
/// the time to learn from those that can.
const SHOW_MAX: Duration = Duration::from_secs(10);
/// All three maps compared.
const ALL_COMPARED: u8 = 0b111;

/// Who votes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Voters {
    pub members: Vec<PeerId>,
    pub number: u64,
    pub degraded: bool,
}

impl Voters {
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }
}

impl Alerting {
    pub(super) fn viewed(&mut self, members: Vec<AlertPeer>, view: u64, now: Now) {
        if view < self.view {
            return;
        }
        self.view = view;
        let gone = self.members.iter().map(|member| member.id).filter(|id| !members.iter().any(|m| m.id == *id));
        for peer in gone.collect::<Vec<_>>() {
            self.absent_since.insert(peer, now.monotonic);
            self.compared.remove(&peer);
            self.log_shown_to.remove(&peer);
            self.beat_from.remove(&peer);
        }
        let fresh = members.iter().any(|member| !self.is_member(member.id));
        self.members = members;
        let present: Vec<PeerId> = self.members.iter().map(|member| member.id).collect();
        self.absent_since.retain(|peer, _| !present.contains(peer));
        if self.electorate.is_none() || fresh {
            // Who is new hears of the electorate at once, and a lone peer forms one at once.
            self.next_beat = now.monotonic;
            self.next_far_beat = now.monotonic;
        }
        self.tend_waiting(now);
    }

    /// The electorate, or who stands in for it once a majority has been away for longer than the hold.
    pub(super) fn voters(&self, now: Now) -> Voters {
        let electorate = self.electorate.clone().unwrap_or_default();
        let away = now.monotonic.since(self.majority_seen);
        if away <= self.timing.notify_hold || electorate.members.is_empty() {
            let met_nobody = self.has_seeds && electorate.number == 1 && electorate.members == [self.me];
            return Voters { members: electorate.members, number: electorate.number, degraded: met_nobody };
        }
        Voters { members: self.reachable(), number: electorate.number, degraded: true }
    }

    /// The highest-ranked reachable peers.
    fn reachable(&self) -> Vec<PeerId> {
        let alive: Vec<AlertPeer> = self.members.iter().filter(|member| member.ready).cloned().collect();
        let mut first: Vec<PeerId> = ranked(&alive).into_iter().take(ELECTORS_MAX).collect();
        if !alive.iter().any(|member| member.id == self.me) {
            first.retain(|peer| *peer != self.me);
        }
        first.sort_unstable();
        first
    }

    /// Sends this peer's beats.
    pub(super) fn beat(&mut self, now: Now) {
        let far = now.monotonic >= self.next_far_beat;
        if far {
            self.next_far_beat = now.monotonic + FAR_BEAT_INTERVAL;
        }
        let voters = self.voters(now);
        if !voters.degraded {
            let heard = voters.members.iter().filter(|peer| {
                let at = self.beats.heard_at(**peer, self.me, now.monotonic);
                at.is_some_and(|at| now.monotonic.since(at) < SESSION_LAPSE)
            });
            if heard.count() >= voters.majority() {
                self.majority_seen = now.monotonic;
            }
        } else if self.electorate_is_back(now) {
            self.majority_seen = now.monotonic;
        }
        let near: BTreeSet<PeerId> = voters.members.iter().copied().chain(self.candidates()).collect();
        let sequence = self.beats.send(now.monotonic);
        let part = Part::Beat {
            boot: self.session.boot,
            sequence,
            electorate: self.electorate.clone(),
            roots: [self.alerts.root(), self.silences.root(), self.log.root()],
        };
        let electors = self.electorate.iter().flat_map(|electorate| electorate.members.clone()).collect::<Vec<_>>();
        let far_ones = self.members.iter().map(|member| member.id).filter(|_| far);
        // To electors that are held for dead as well: were one alive all the same, our session would lapse there while an
        // attempt runs, and it would let another send.
        let all: BTreeSet<PeerId> = far_ones.chain(near).chain(electors).collect();
        for peer in all {
            self.say(peer, part.clone());
        }
    }

    fn electorate_is_back(&self, now: Now) -> bool {
        let electorate = self.electorate.clone().unwrap_or_default();
        let heard = electorate.members.iter().filter(|peer| {
            let at = self.beats.heard_at(**peer, self.me, now.monotonic);
            at.is_some_and(|at| now.monotonic.since(at) < SESSION_LAPSE)
        });
        heard.count() >= electorate.majority()
    }

    /// Who may become an elector: the highest-ranked ready peers.
    fn candidates(&self) -> Vec<PeerId> {
        self.reachable()
    }

    pub(super) fn received(&mut self, from: PeerId, message: AlertMessage, now: Now) {
        if from == self.me {
            return;
        }
        for part in message.parts {
            self.received_part(from, part, now);
        }
    }

    fn received_part(&mut self, from: PeerId, part: Part, now: Now) {
        match part {
            Part::Beat { boot, sequence, electorate, roots } => {
                self.heard_beat(from, boot, sequence, electorate, roots, now);
            }
            Part::BeatHeard { boot, sequence, caught_up } => {
                let heard = if boot == self.session.boot {
                    self.beats.acknowledged(from, sequence, now.monotonic)
                } else {
                    Heard::Nothing
                };
                match heard {
                    Heard::Nothing => {}
                    Heard::InTime => self.leases_moved(now),
                    Heard::AfterLapse => {
                        self.void_answers_of(from, now);
                        self.leases_moved(now);
                    }
                }
                if heard != Heard::Nothing {
                    self.release_again(from);
                }
                if caught_up {
                    self.caught_up.insert(from)
                } else {
                    self.caught_up.remove(&from)
                };
            }
            Part::Alert(key, value) => drop(self.keep_alert(key, &value, now)),
            Part::Silence(id, value) => self.keep_silence(id, &value),
            Part::Done(key, done) => self.keep_done(key, &done, now),
            // This peer stood still: what it finds waiting is old, its sender has turned to another elector, and what it
            // says to fire may have ended since. Who waits for an answer all the same asks again.
            Part::Forward(_) | Part::ForwardEvaluated(_)
                if self.woke_at.is_some_and(|at| now.monotonic.since(at) < SESSION_LAPSE) =>
            {
                self.forwarded_just_now.insert(from, 0);
            }
            Part::Forward(alerts) => self.accept_forwarded(from, alerts, now),
            Part::ForwardEvaluated(dated) => {
                let alerts = dated.into_iter().map(|(alert, evaluated_at)| PostedAlert { evaluated_at, ..alert });
                self.accept_forwarded(from, alerts.collect(), now);
            }
            Part::AckWanted(request) => self.ack(from, request),
            Part::Acked(request) => self.acked(from, request),
            Part::Sums { map, sums, answer } => self.compare(from, map, &sums, answer),
            Part::Compared(map) => self.note_compared(from, map, now),
            Part::Intent(intent) => self.judge(from, &intent, now),
            Part::Answer(answer) => self.answered(from, answer, now),
            Part::Release(key, ballot) => self.released(key, ballot),
            Part::Electorate(electorate) => self.met(from, electorate, now),
            Part::Prepare { number, ballot } => self.prepare(from, number, ballot, now),
            Part::Promise { number, ballot, accepted } => self.promised(from, number, ballot, accepted, now),
            Part::Accept { number, ballot, members } => self.accept(from, number, ballot, &members, now),
            Part::Accepted { number, ballot } => self.accepted(from, number, ballot, now),
        }
    }

    fn accept_forwarded(&mut self, from: PeerId, alerts: Vec<PostedAlert>, now: Now) {
        // The request that follows asks for the acknowledgement.
        self.forwarded_just_now.insert(from, self.next_request + 1);
        self.accept_post(Waiter::Nobody, alerts, now);
    }

    /// Acknowledges what came before in the message, once it is durable. A forwarded post is acknowledged once another
    /// elector has it too.
    fn ack(&mut self, from: PeerId, request: u64) {
        if let Some(post) = self.forwarded_just_now.remove(&from) {
            if let Some(waiting) = self.waiting.get_mut(&post) {
                waiting.whose = Waiter::Forwarded(from, request);
                return;
            }
            if post == 0 {
                return;
            }
        }
        self.after_disk.push(Deferred::Send(from, Part::Acked(request)));
    }

    fn heard_beat(
        &mut self,
        from: PeerId,
        boot: u64,
        sequence: u64,
        electorate: Option<Electorate>,
        roots: [u64; 3],
        now: Now,
    ) {
        self.beat_from.insert(from, now.monotonic);
        self.voter.beat(Session { peer: from, boot }, now.monotonic);
        match (electorate, &self.electorate) {
            (Some(theirs), _) => self.met(from, theirs, now),
            (None, Some(ours)) => {
                let ours = ours.clone();
                self.say(from, Part::Electorate(ours));
            }
            (None, None) => {}
        }
        let ours = [self.alerts.root(), self.silences.root(), self.log.root()];
        let keeps_all = self.is_elector() || self.candidates().contains(&self.me);
        for (index, map) in [MapName::Alerts, MapName::Silences, MapName::Log].into_iter().enumerate() {
            if ours[index] == roots[index] || (!keeps_all && map != MapName::Silences) {
                self.note_compared(from, map, now);
            }
        }
        let due = self.compare_sent.get(&from).is_none_or(|at| now.monotonic.since(*at) >= COMPARE_INTERVAL);
        if due && ours != roots {
            self.compare_sent.insert(from, now.monotonic);
            for (index, map) in [MapName::Alerts, MapName::Silences, MapName::Log].into_iter().enumerate() {
                if ours[index] != roots[index] && (keeps_all || map == MapName::Silences) {
                    let sums = self.sums_of(map);
                    self.say(from, Part::Sums { map, sums, answer: false });
                }
            }
        }
        let caught_up = self.compared.get(&from) == Some(&ALL_COMPARED);
        self.say(from, Part::BeatHeard { boot, sequence, caught_up });
    }

    fn sums_of(&self, map: MapName) -> Vec<u128> {
        match map {
            MapName::Alerts => self.alerts.sums().to_vec(),
            MapName::Silences => self.silences.sums().to_vec(),
            MapName::Log => self.log.sums().to_vec(),
        }
    }

    fn compare(&mut self, from: PeerId, map: MapName, sums: &[u128], answer: bool) {
        let mut parts: Vec<Part> = match map {
            MapName::Alerts => self.alerts.differing(sums).map(|(k, v)| Part::Alert(*k, v.clone())).collect(),
            MapName::Silences => self.silences.differing(sums).map(|(k, v)| Part::Silence(*k, v.clone())).collect(),
            MapName::Log => self.log.differing(sums).map(|(k, v)| Part::Done(*k, v.clone())).collect(),
        };
        parts.push(Part::Compared(map));
        if !answer {
            parts.push(Part::Sums { map, sums: self.sums_of(map), answer: true });
        }
        for part in parts {
            self.say(from, part);
        }
    }

    fn note_compared(&mut self, from: PeerId, map: MapName, now: Now) {
        // What waited for a peer that stood still was said long ago.
        if self.woke_at.is_some_and(|at| now.monotonic.since(at) < BEAT_INTERVAL) {
            return;
        }
        if map == MapName::Log {
            self.log_shown_to.insert(from);
        }
        *self.compared.entry(from).or_default() |= 1 << map as u8;
        if self.compared.get(&from) == Some(&ALL_COMPARED) {
            self.merging.remove(&from);
        }
    }

    /// There is something in the log, or may be, of which a majority of the present electorate need not know: what was
    /// told in an earlier one.
    pub(super) fn log_is_unshown(&mut self, now: Now) {
        self.log_shown_to.clear();
        self.log_unshown_since = now.monotonic;
    }

    /// Whether a majority of the electorate knows what this peer knows of earlier ones, or has had the time to.
    pub(super) fn is_log_shown(&self, now: Now) -> bool {
        let Some(electorate) = &self.electorate else { return false };
        let knows = |peer: &&PeerId| **peer == self.me || self.log_shown_to.contains(peer);
        electorate.members.iter().filter(knows).count() >= electorate.majority()
            || now.monotonic.since(self.log_unshown_since) >= SHOW_MAX
    }

    /// Whether this peer knows what the other electors know: before, it sends nothing.
    pub(super) fn is_ready(&mut self, now: Now) -> bool {
        self.merging.retain(|_, until| now.monotonic < *until);
        if !self.merging.is_empty() {
            return false;
        }
        let compared = |peer: &PeerId| self.compared.get(peer) == Some(&ALL_COMPARED);
        let others = self.other_electors();
        others.iter().all(compared) || now.monotonic.since(self.unsure_since) >= self.timing.notify_hold
    }

    /// Another peer tells of an electorate.
    fn met(&mut self, from: PeerId, theirs: Electorate, now: Now) {
        if theirs.members.is_empty() || theirs.members.len() > ELECTORS_MAX {
            return;
        }
        let theirs = Electorate::new(theirs.number, theirs.members);
        let ours = self.electorate.as_ref().map(Electorate::standing);
        if ours.is_some_and(|ours| ours == theirs.standing()) {
            return;
        }
        if ours.is_none_or(|ours| theirs.standing() > ours) {
            // Ours falls. What the others know is taken in before the next send, as they take in what we know.
            let before = self.electorate.clone().unwrap_or_default();
            let unknown = theirs.members.iter().filter(|peer| **peer != self.me && !before.contains(**peer));
            for peer in unknown.filter(|_| !before.members.is_empty()) {
                self.compared.remove(peer);
                self.merging.insert(*peer, now.monotonic + MERGE_MAX);
            }
            self.adopt(theirs, now);
            return;
        }
        // Theirs falls; what its members know is taken in before the next send.
        if self.is_elector() && theirs.contains(from) && !self.electorate.as_ref().is_some_and(|e| e.contains(from)) {
            self.compared.remove(&from);
            self.merging.insert(from, now.monotonic + MERGE_MAX);
        }
        if let Some(ours) = self.electorate.clone() {
            self.say(from, Part::Electorate(ours));
        }
    }

    pub(super) fn adopt(&mut self, electorate: Electorate, now: Now) {
        self.acceptor = Some(Acceptor::after(&electorate));
        self.proposal = None;
        self.write(DiskRecord::Electorate(electorate.clone()));
        self.electorate = Some(electorate.clone());
        self.majority_seen = now.monotonic;
        self.removed.retain(|peer| electorate.contains(*peer));
        self.tell_members(&Part::Electorate(electorate));
        self.log_is_unshown(now);
        // Records are compared with the next beats.
        self.compare_sent.clear();
        self.revote(now);
        let others = self.other_electors();
        let requests: Vec<u64> = self.waiting.keys().copied().collect();
        for request in requests {
            if others.is_empty() {
                self.acked(self.me, request);
            }
        }
    }

    /// Forms, changes and replaces the electorate.
    pub(super) fn tend_electorate(&mut self, now: Now) {
        if self.electorate.is_none() {
            return self.form(now);
        }
        if now.monotonic.since(self.majority_seen) >= self.timing.replace_after {
            let members = self.reachable();
            let number = self.electorate.as_ref().map_or(1, |electorate| electorate.number + 1);
            if members.first() == Some(&self.me) {
                self.adopt(Electorate::new(number, members), now);
            }
            return;
        }
        let Some(wanted) = self.wanted_change(now) else { return };
        let recent = |at: promesh_model::Monotonic| now.monotonic.since(at) < PROPOSAL_TIMEOUT;
        if self.proposal.as_ref().is_some_and(|(_, at)| recent(*at)) {
            return;
        }
        let Some(electorate) = self.electorate.clone() else { return };
        self.ballot_seen += 1;
        let ballot = Ballot { number: self.ballot_seen, peer: self.me };
        let number = electorate.number + 1;
        self.proposal = Some((Proposal::new(number, ballot, wanted), now.monotonic));
        for peer in &electorate.members {
            self.say(*peer, Part::Prepare { number, ballot });
        }
        self.prepare(self.me, number, ballot, now);
    }

    /// The first electorate: a lone peer's own, or the first-ranked one's that hears of no other.
    fn form(&mut self, now: Now) {
        let ready: Vec<AlertPeer> = self.members.iter().filter(|member| member.ready).cloned().collect();
        if !ready.iter().any(|member| member.id == self.me) {
            return;
        }
        let alone = self.members.len() == 1;
        let age = now.monotonic.since(self.started);
        let first = ranked(&ready).first() == Some(&self.me);
        if alone || (first && age >= FORM_AFTER[0]) || age >= FORM_AFTER[1] {
            self.adopt(Electorate::new(1, vec![self.me]), now);
        }
    }

    /// One member out or in, as seen by the first-ranked elector that is alive.
    fn wanted_change(&self, now: Now) -> Option<Vec<PeerId>> {
        let electorate = self.electorate.as_ref()?;
        let ready: Vec<AlertPeer> = self.members.iter().filter(|member| member.ready).cloned().collect();
        let order = ranked(&ready);
        let leader = order.iter().find(|peer| electorate.contains(**peer) && self.hears(**peer, now))?;
        if *leader != self.me {
            return None;
        }
        let out = electorate.members.iter().find(|peer| {
            let long = self.absent_since.get(peer).is_none_or(|at| now.monotonic.since(*at) >= self.timing.out_after);
            !self.is_member(**peer) && long && now.monotonic.since(self.started) >= self.timing.out_after
                || self.removed.contains(peer)
        });
        if let Some(out) = out {
            return Some(electorate.members.iter().copied().filter(|peer| peer != out).collect());
        }
        if electorate.members.len() >= ready.len().min(ELECTORS_MAX) {
            return None;
        }
        let joins = order.iter().find(|peer| !electorate.contains(**peer) && self.caught_up.contains(peer))?;
        Some(electorate.members.iter().copied().chain([*joins]).collect())
    }

    fn acceptor_of(&mut self, number: u64) -> Option<&mut Acceptor> {
        self.acceptor.as_mut().filter(|acceptor| acceptor.number == number)
    }

    fn prepare(&mut self, from: PeerId, number: u64, ballot: Ballot, now: Now) {
        self.ballot_seen = self.ballot_seen.max(ballot.number);
        let ours = self.electorate.clone();
        if self.acceptor_of(number).is_some() && self.is_held_back(number, now) {
            return;
        }
        let Some(acceptor) = self.acceptor_of(number) else {
            if let Some(ours) = ours.filter(|ours| ours.number >= number) {
                self.say(from, Part::Electorate(ours));
            }
            return;
        };
        let accepted = acceptor.accepted.clone();
        let granted = acceptor.prepare(ballot);
        let promised = acceptor.promised.unwrap_or(ballot);
        let record = DiskRecord::Paxos { number, promised, accepted: accepted.clone() };
        if !granted {
            self.say(from, Part::Promise { number, ballot: promised, accepted: None });
            return;
        }
        self.write(record);
        self.after_disk.push(if from == self.me {
            Deferred::OwnPromise(number, ballot, accepted)
        } else {
            Deferred::Send(from, Part::Promise { number, ballot, accepted })
        });
    }

    pub(super) fn promised(
        &mut self,
        from: PeerId,
        number: u64,
        ballot: Ballot,
        accepted: Option<(Ballot, Vec<PeerId>)>,
        now: Now,
    ) {
        self.ballot_seen = self.ballot_seen.max(ballot.number);
        let Some(electorate) = self.electorate.clone() else { return };
        let step = match &mut self.proposal {
            Some((proposal, _)) if proposal.number == number && proposal.ballot == ballot => {
                proposal.promised(from, accepted, &electorate)
            }
            _ => return,
        };
        if let Step::Accept(members) = step {
            for peer in &electorate.members {
                self.say(*peer, Part::Accept { number, ballot, members: members.clone() });
            }
            if electorate.contains(self.me) {
                self.accept(self.me, number, ballot, &members, now);
            }
        }
        debug_assert!(now.wall > Timestamp::MIN);
    }

    fn accept(&mut self, from: PeerId, number: u64, ballot: Ballot, members: &[PeerId], now: Now) {
        if members.is_empty() || members.len() > ELECTORS_MAX {
            return;
        }
        if self.acceptor_of(number).is_none() || self.is_held_back(number, now) {
            return;
        }
        let Some(acceptor) = self.acceptor_of(number) else { return };
        if !acceptor.accept(ballot, members) {
            let promised = acceptor.promised.unwrap_or(ballot);
            self.say(from, Part::Accepted { number, ballot: promised });
            return;
        }
        self.write(DiskRecord::Paxos { number, promised: ballot, accepted: Some((ballot, members.to_vec())) });
        self.after_disk.push(if from == self.me {
            Deferred::OwnAccepted(number, ballot)
        } else {
            Deferred::Send(from, Part::Accepted { number, ballot })
        });
    }

    pub(super) fn accepted(&mut self, from: PeerId, number: u64, ballot: Ballot, now: Now) {
        self.ballot_seen = self.ballot_seen.max(ballot.number);
        let Some(electorate) = self.electorate.clone() else { return };
        let step = match &mut self.proposal {
            Some((proposal, _)) if proposal.number == number && proposal.ballot == ballot => {
                proposal.accepted(from, &electorate)
            }
            _ => return,
        };
        if let Step::Decided(electorate) = step {
            self.adopt(electorate, now);
        }
    }
}
