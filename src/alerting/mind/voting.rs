//! Votes: asked for, given, held and given back.

use std::collections::BTreeSet;
use std::time::Duration;

use promesh_model::{Monotonic, Now, PeerId, Timestamp};

use super::send::{Claim, State};
use super::{Alerting, Deferred};
use crate::candidacy::Candidacy;
use crate::message::{Answer, DiskRecord, Intent, PARTS_MAX, Part, Verdict};
use crate::nflog::{Ballot, KeyId};

/// A claim that met another is tried again after this.
const BUSY_RETRY: Duration = Duration::from_millis(500);
/// A peer whose last beat is older may not get what it is told.
const UNHEARD: Duration = Duration::from_millis(1500);
/// How often a peer that was not heard is told again that an intent was given back.
const RELEASES_AGAIN: u8 = 3;

impl Alerting {
    pub(super) fn claim(&mut self, key: KeyId, flush: Timestamp, now: Now) {
        let seen = self.voter.vote(key).map_or(0, |vote| vote.ballot.number);
        let logged = self.log.get(&key).map_or(0, |done| done.ballot.number);
        let ballot = Ballot { number: 1 + seen.max(logged).max(self.released_number), peer: self.me };
        let claim = Claim {
            flush,
            candidacy: Candidacy::new(ballot, self.voters(now).number, now.monotonic),
            asked_at: now.monotonic,
            attempts: 0,
            tried: false,
            counts_until: None,
            state: State::Voting,
        };
        self.claims.insert(key, claim);
        self.ask(key, now);
    }

    /// Asks the voters that have not accepted.
    pub(super) fn ask(&mut self, key: KeyId, now: Now) {
        let voters = self.voters(now);
        let Some(slot) = self.dispatcher.slot(key).cloned() else {
            // What runs is waited for all the same.
            self.claims.retain(|other, claim| *other != key || claim.is_sending());
            return;
        };
        let assessment = self.assess(key, &slot, now);
        let Some(claim) = self.claims.get_mut(&key) else { return };
        claim.asked_at = now.monotonic;
        claim.candidacy.ask_in(voters.number, claim.is_sending(), now.monotonic);
        let intent = Intent {
            key,
            ballot: claim.candidacy.ballot(),
            session: self.session,
            flush: claim.flush,
            firing: assessment.firing,
            resolved: assessment.resolved,
            electorate: voters.number,
        };
        let accepted: BTreeSet<PeerId> = claim.candidacy.accepters().collect();
        for peer in voters.members.iter().filter(|peer| !accepted.contains(peer)) {
            if *peer == self.me {
                self.judge_own(&intent, now);
            } else {
                self.say(*peer, Part::Intent(intent.clone()));
            }
        }
        // Nobody answers for this peer's own vote: were it not heard here, two could hold each other's for ever.
        self.back_off(key, now);
    }

    fn judge_own(&mut self, intent: &Intent, now: Now) {
        match self.voter.judge(intent, self.log.get(&intent.key), now.monotonic) {
            Verdict::Accepted => {
                self.write_vote(intent.key);
                self.after_disk.push(Deferred::OwnVote(intent.key, intent.ballot));
            }
            verdict => {
                if verdict == Verdict::Busy {
                    self.remind_holder(intent.key);
                }
                if let Some(claim) = self.claims.get_mut(&intent.key) {
                    claim.candidacy.answered(self.me, intent.ballot, verdict);
                }
            }
        }
    }

    pub(super) fn write_vote(&mut self, key: KeyId) {
        if let Some(vote) = self.voter.vote(key).copied() {
            self.write(DiskRecord::Vote(key, vote));
        }
    }

    pub(super) fn own_vote(&mut self, key: KeyId, ballot: Ballot, now: Now) {
        let answer = Answer { key, ballot, verdict: Verdict::Accepted, done: None };
        self.answered(self.me, answer, now);
    }

    /// Another elector wants to send.
    pub(super) fn judge(&mut self, from: PeerId, intent: &Intent, now: Now) {
        let number = self.electorate.as_ref().map_or(0, |electorate| electorate.number);
        let verdict = if intent.electorate < number {
            if let Some(electorate) = self.electorate.clone() {
                self.say(from, Part::Electorate(electorate));
            }
            Verdict::OldElectorate
        } else {
            self.give_way(intent, now);
            self.voter.judge(intent, self.log.get(&intent.key), now.monotonic)
        };
        let done = self.log.get(&intent.key).cloned();
        let slot = self.dispatcher.slot(intent.key);
        let ends = slot.zip(done.as_ref()).map(|(slot, done)| self.ends_of(slot, done)).unwrap_or_default();
        ends.into_iter().for_each(|end| self.say(from, end));
        let answer = Part::Answer(Answer { key: intent.key, ballot: intent.ballot, verdict, done });
        if verdict == Verdict::Busy {
            self.remind_holder(intent.key);
        }
        if verdict == Verdict::Accepted {
            self.write_vote(intent.key);
            self.after_disk.push(Deferred::Send(from, answer));
        } else {
            self.say(from, answer);
        }
    }

    /// Who holds this peer's vote holds up another: it is told so again, and gives the vote back if it claims nothing any
    /// more. Its word on that may have been lost.
    fn remind_holder(&mut self, key: KeyId) {
        let Some(vote) = self.voter.vote(key).copied() else { return };
        let answer = Answer { key, ballot: vote.ballot, verdict: Verdict::Accepted, done: self.log.get(&key).cloned() };
        self.say(vote.session.peer, Part::Answer(answer));
    }

    /// Whether this peer takes no part now in deciding the electorate of a number: since an attempt may be under way by a vote
    /// that it gave two electorates before, or since what was told then may be known to those alone who are not asked any
    /// more. It says nothing then; whoever proposed does so again. Such a vote ends with its
    /// attempt, which the receiver's timeout bounds, or with its session; a claim that is not being sent asks anew in the
    /// next electorate as soon as its peer has heard of that. Holders that have missed the end of theirs are reminded.
    pub(super) fn is_held_back(&mut self, number: u64, now: Now) -> bool {
        let held: Vec<_> = self.voter.holds_back(number, |key| self.log.get(&key), now.monotonic).collect();
        if held.is_empty() {
            return !self.is_log_shown(now);
        }
        let running: BTreeSet<KeyId> = self.running.values().copied().collect();
        let is_over = |key: &KeyId| !self.claims.contains_key(key) && !running.contains(key);
        let (over, held): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(key, vote)| vote.session == self.session && is_over(key));
        for (key, vote) in over {
            self.released(key, vote.ballot);
        }
        for (key, _) in held.iter().take(PARTS_MAX) {
            self.remind_holder(*key);
        }
        !held.is_empty() || !self.is_log_shown(now)
    }

    /// A voter answers.
    pub(super) fn answered(&mut self, from: PeerId, answer: Answer, now: Now) {
        if let Some(done) = &answer.done {
            self.keep_done(answer.key, done, now);
        }
        let Some(claim) = self.claims.get_mut(&answer.key) else {
            // It holds the vote for a claim that is given up: it has missed that.
            if answer.verdict == Verdict::Accepted {
                self.say(from, Part::Release(answer.key, answer.ballot));
            }
            return;
        };
        if !claim.candidacy.answered(from, answer.ballot, answer.verdict) {
            return;
        }
        if answer.verdict == Verdict::Busy {
            self.counters.busy += 1;
        }
        match answer.verdict {
            Verdict::Accepted => self.try_send(answer.key, now),
            Verdict::Behind(_) if claim.is_sending() => self.ask_on(answer.key, now),
            _ => self.back_off(answer.key, now),
        }
    }

    /// While an attempt runs and holds its lease, the voters that have not accepted it are asked on, by a ballot that they
    /// do not refuse as too small: a receiver may be slow for longer than an accepter lives, and who never accepted would
    /// let another send.
    pub(super) fn ask_on(&mut self, key: KeyId, now: Now) {
        let lapsed = |claim: &Claim| matches!(claim.state, State::Sending { lease, .. } if lease < now.monotonic);
        if self.claims.get(&key).is_none_or(lapsed) {
            return;
        }
        if let Some(claim) = self.claims.get_mut(&key).filter(|claim| claim.candidacy.is_outdone()) {
            claim.candidacy.raise();
        }
        self.ask(key, now);
    }

    /// Another asks by a greater ballot while this peer's own claim waits for voters that do not answer: it gives back its
    /// own vote. Else it would keep the vote from an attempt that runs for as long as they are silent.
    fn give_way(&mut self, intent: &Intent, now: Now) {
        let Some(claim) = self.claims.get(&intent.key) else { return };
        let waits = matches!(claim.state, State::Voting) && !claim.tried && !claim.candidacy.is_fresh(now.monotonic);
        if waits && claim.candidacy.ballot() < intent.ballot {
            self.withdraw(intent.key, now);
        }
    }

    /// Gives back and waits when a majority can no longer be had with this ballot; who ranks lower waits longer, so that
    /// two that met do not meet again.
    fn back_off(&mut self, key: KeyId, now: Now) {
        let voters = self.voters(now);
        let Some(claim) = self.claims.get(&key) else { return };
        if !claim.candidacy.is_possible(&voters.members) && matches!(claim.state, State::Voting) {
            self.withdraw(key, now);
        }
    }

    fn withdraw(&mut self, key: KeyId, now: Now) {
        let voters = self.voters(now);
        let rank = self.rank(key, now).unwrap_or(0) as u32;
        let Some(claim) = self.claims.get_mut(&key) else { return };
        let ballot = claim.candidacy.ballot();
        claim.candidacy.renew(now.monotonic);
        claim.state = State::Waiting(now.monotonic + BUSY_RETRY * (1 + rank));
        self.released_number = self.released_number.max(ballot.number);
        self.released(key, ballot);
        for peer in voters.members {
            self.say(peer, Part::Release(key, ballot));
        }
    }

    /// A claimant, perhaps this peer, gave its intent back.
    pub(super) fn released(&mut self, key: KeyId, ballot: Ballot) {
        if self.voter.release(key, ballot) {
            self.write_vote(key);
        }
    }

    /// Tells all electors, also those that are held for dead, that an intent was given back. One that is not heard is told
    /// again when it is: else it would hold others up for as long as this peer lives.
    pub(super) fn tell_released(&mut self, key: KeyId, ballot: Ballot, now: Now) {
        self.released(key, ballot);
        self.released_number = self.released_number.max(ballot.number);
        let electors = self.electorate.iter().flat_map(|electorate| electorate.members.clone());
        for peer in electors.chain(self.voters(now).members).collect::<BTreeSet<_>>() {
            if peer == self.me {
                continue;
            }
            self.say(peer, Part::Release(key, ballot));
            let fresh = |at: &Monotonic| now.monotonic.since(*at) < UNHEARD;
            if !self.beat_from.get(&peer).is_some_and(fresh) {
                self.owed_releases.insert((peer, key), (ballot, RELEASES_AGAIN));
            }
        }
    }

    /// A peer is heard: what it may have missed is said again.
    pub(super) fn release_again(&mut self, peer: PeerId) {
        let owed = (peer, KeyId(0))..=(peer, KeyId(u128::MAX));
        let owed: Vec<(KeyId, Ballot)> =
            self.owed_releases.range(owed).map(|((_, key), (ballot, _))| (*key, *ballot)).collect();
        for (key, ballot) in owed {
            self.say(peer, Part::Release(key, ballot));
            if let Some((_, left)) = self.owed_releases.get_mut(&(peer, key)) {
                *left -= 1;
            }
        }
        self.owed_releases.retain(|_, (_, left)| *left > 0);
    }

    /// A voter may have let this peer's session lapse: what it accepted does not count any more.
    pub(super) fn void_answers_of(&mut self, peer: PeerId, now: Now) {
        for claim in self.claims.values_mut() {
            claim.candidacy.void(peer, !matches!(claim.state, State::Voting), now.monotonic);
        }
    }
}
