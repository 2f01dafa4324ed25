//! From a due group to a sent notification: assess, claim, send, log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_model::{Labels, Monotonic, Now, PeerId, Timestamp};

use super::{Alerting, ClaimId, Notification, NotifiedAlert, Outcome, Output};
use crate::alert::AlertKey;
use crate::candidacy::Candidacy;
use crate::dispatch::{GroupId, Slot, due, first_due};
use crate::electorate::score;
use crate::message::Part;
use crate::nflog::{Ballot, Done, KeyId, LogKey, NotifyReason, idempotency_key, needs_update};

/// How often a peer that is not the sender looks whether the sender has sent.
const RECHECK: Duration = Duration::from_secs(1);
/// How long the next in line leaves it to a sender that lives.
const RANK_STEP: Duration = Duration::from_secs(5);
/// Voters that have not answered are asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// What must be left of a lease for an attempt to begin.
const LEASE_MIN: Duration = Duration::from_millis(500);
/// How many electorates' majorities may prolong an attempt's lease: as others name them, so that there is a bound.
const ELECTORATES_MAX: usize = 8;
/// The shortest and the longest wait after a failed attempt.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// A wish to send, on its way.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(super) flush: Timestamp,
    pub(super) candidacy: Candidacy,
    pub(super) asked_at: Monotonic,
    pub(super) attempts: u32,
    /// Whether the receiver may have taken what an attempt told, although that failed.
    pub(super) tried: bool,
    /// Until when the attempts since the first that failed count as one notification.
    pub(super) counts_until: Option<Monotonic>,
    pub(super) state: State,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// Voters are asked.
    Voting,
    /// Nothing to do before then.
    Waiting(Monotonic),
    /// An attempt runs; majorities of those that let it begin, or of an electorate since, can prolong its lease.
    Sending {
        id: ClaimId,
        told: Told,
        lease: Monotonic,
        electorates: Vec<(u64, Vec<PeerId>)>,
        alone: bool,
        fails_at: Monotonic,
    },
}

/// What an attempt tells.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// When it began.
    at: Timestamp,
    /// By which ballot a majority let it begin. Greater ones, by which voters are asked on meanwhile, nobody need have
    /// accepted: they say nothing about what others were allowed to send since.
    ballot: Ballot,
    firing: BTreeSet<u64>,
    resolved: BTreeSet<u64>,
    /// Of each alert told as ended, the beginning of the last span that was known then.
    ended: BTreeMap<AlertKey, Timestamp>,
}

impl Told {
    /// As the log has it.
    fn done(self, key: LogKey, flush: Timestamp, data: BTreeMap<String, String>) -> Done {
        let ballot = self.ballot;
        Done { key, flush, ballot, at: self.at, firing: self.firing, resolved: self.resolved, data }
    }
}

impl Claim {
    pub(crate) fn is_sending(&self) -> bool {
        matches!(self.state, State::Sending { .. })
    }
}

/// What a group looks like to one integration.
pub(super) struct Assessment {
    reason: NotifyReason,
    pub(super) firing: BTreeSet<u64>,
    pub(super) resolved: BTreeSet<u64>,
    alerts: Vec<(AlertKey, bool)>,
}

impl Alerting {
    fn born(&self, group: &GroupId, now: Timestamp) -> Option<Timestamp> {
        let alerts = &self.dispatcher.group(group)?.alerts;
        let born = |key: &AlertKey| {
            let (value, grace) = (self.alerts.get(key)?, self.grace);
            value.is_firing(now, grace).then(|| value.born(now, grace)).flatten()
        };
        alerts.iter().filter_map(born).min()
    }

    fn due_at(&self, key: KeyId, slot: &Slot, now: Timestamp) -> Option<Timestamp> {
        let node = self.tree.node(slot.group.0);
        let born = self.born(&slot.group, now);
        due(born, self.log.get(&key), slot.looked_at, node.group_wait, node.group_interval, now)
    }

    /// Sets a slot's timer by what is known.
    pub(super) fn schedule(&mut self, key: KeyId, now: Now) {
        let Some(slot) = self.dispatcher.slot(key) else { return };
        let at = if self.claims.contains_key(&key) { None } else { self.due_at(key, slot, now.wall) };
        self.dispatcher.set_timer(key, at);
    }

    /// A slot's timer has come.
    pub(super) fn look(&mut self, key: KeyId, now: Now) {
        let Some(slot) = self.dispatcher.slot(key).cloned() else { return };
        if self.claims.contains_key(&key) {
            return;
        }
        let Some(flush) = self.due_at(key, &slot, now.wall) else { return };
        if flush > now.wall {
            self.dispatcher.set_timer(key, Some(flush));
            return;
        }
        if !self.assess(key, &slot, now).reason.should_notify() {
            self.dispatcher.looked_at(key, flush);
            return self.schedule(key, now);
        }
        let turn = self.rank(key, now).map(|rank| flush.after(RANK_STEP * rank as u32));
        match turn {
            Some(turn) if turn <= now.wall && self.is_ready(now) => {
                self.claim(key, self.begun(key, &slot, flush, now), now);
            }
            _ => self.dispatcher.set_timer(key, Some(now.wall.after(RECHECK))),
        }
    }

    /// The instant of a claim: one that somebody has begun and not ended since the group's last done is continued, so
    /// that a repeat of what the receiver may have taken bears the same name.
    fn begun(&self, key: KeyId, slot: &Slot, flush: Timestamp, now: Now) -> Timestamp {
        let node = self.tree.node(slot.group.0);
        let last = self.log.get(&key);
        let first = first_due(self.born(&slot.group, now.wall), last, node.group_wait, node.group_interval);
        let open = self.voter.vote(key).filter(|vote| vote.is_open(last)).map(|vote| vote.flush);
        open.filter(|open| first.is_some_and(|first| *open >= first) && *open < flush).unwrap_or(flush)
    }

    /// This peer's place among those that may send: electors that live and run the current configuration.
    pub(super) fn rank(&self, key: KeyId, now: Now) -> Option<usize> {
        let voters = self.voters(now);
        let peers: Vec<_> =
            self.members.iter().filter(|peer| peer.ready && voters.members.contains(&peer.id)).collect();
        let mut votes: BTreeMap<u128, usize> = BTreeMap::new();
        for digest in peers.iter().filter_map(|peer| peer.alerting_digest) {
            *votes.entry(digest).or_default() += 1;
        }
        let (current, _) = votes.iter().max_by_key(|(digest, count)| (**count, std::cmp::Reverse(**digest)))?;
        let young = self.voter.trusts_all(now.monotonic);
        let mut able: Vec<_> = peers
            .into_iter()
            .filter(|peer| peer.alerting_digest == Some(*current) && (young || self.hears(peer.id, now)))
            .map(|peer| (std::cmp::Reverse(score(&key.0.to_le_bytes(), peer)), peer.id))
            .collect();
        able.sort_unstable();
        if self.digest != *current {
            return None;
        }
        able.iter().position(|(_, peer)| *peer == self.me)
    }

    /// What the group has to tell: alerts that are neither silenced nor inhibited, and whether that is news.
    pub(super) fn assess(&self, key: KeyId, slot: &Slot, now: Now) -> Assessment {
        let node = self.tree.node(slot.group.0);
        let last = self.log.get(&key);
        let born = self.born(&slot.group, now.wall);
        let mut assessment = Assessment {
            reason: NotifyReason::DoNotNotify,
            firing: BTreeSet::new(),
            resolved: BTreeSet::new(),
            alerts: Vec::new(),
        };
        let (mut known_firing, mut known_resolved) = (BTreeSet::new(), BTreeSet::new());
        if self.is_muted(slot.group.0, now.wall) {
            return assessment;
        }
        let alerts = self.dispatcher.group(&slot.group).map(|group| group.alerts.clone()).unwrap_or_default();
        for alert in alerts {
            let Some(value) = self.alerts.get(&alert) else { continue };
            let firing = value.is_firing(now.wall, self.grace);
            let short = alert.short();
            // As the last telling calls it.
            let known = last.map_or(short, |last| last.hash(alert, &value.labels));
            let told_firing = last.is_some_and(|last| last.firing.contains(&known));
            let ended = value.ends_at();
            let new_end = born.is_some_and(|born| ended >= born)
                && last.is_none_or(|last| ended > last.at && !last.resolved.contains(&known));
            if !(firing || told_firing || new_end) || value.spans.keys().all(|start| *start > now.wall) {
                continue;
            }
            if self.is_quiet(&value.labels, now.wall) {
                continue;
            }
            if firing {
                assessment.firing.insert(short);
                known_firing.insert(known);
            } else {
                assessment.resolved.insert(short);
                known_resolved.insert(known);
            }
            assessment.alerts.push((alert, firing));
        }
        assessment.reason = needs_update(
            last,
            &known_firing,
            &known_resolved,
            slot.integration.send_resolved,
            node.repeat_interval,
            now.wall,
        );
        // Quiet alerts that were told as firing are no news, and no end.
        if assessment.alerts.is_empty() {
            assessment.reason = NotifyReason::DoNotNotify;
        }
        assessment
    }

    /// Whether a route is silent by its time intervals.
    fn is_muted(&self, node: usize, now: Timestamp) -> bool {
        !self.muted_by(node, now).is_empty()
    }

    /// The time intervals that silence a route: those that hold the instant, or those outside of which it lies.
    pub(crate) fn muted_by(&self, node: usize, now: Timestamp) -> Vec<String> {
        let node = self.tree.node(node);
        let holds = |name: &&String| self.config.interval(name).is_some_and(|interval| interval.contains(now));
        let mut by: Vec<String> = node.mute_time_intervals.iter().filter(holds).cloned().collect();
        if !node.active_time_intervals.is_empty() && !node.active_time_intervals.iter().any(|name| holds(&name)) {
            by.extend(node.active_time_intervals.iter().cloned());
        }
        by
    }

    /// Whether an alert is silenced or inhibited.
    pub(crate) fn is_quiet(&self, labels: &Labels, now: Timestamp) -> bool {
        self.inhibitor.inhibited_by(labels, |key| self.alerts.get(&key).map(|value| &value.labels)).is_some()
            || self.silences.iter().any(|(_, silence)| silence.silences(labels, now))
    }

    /// The alert that mutes this one.
    pub(crate) fn inhibited_by(&self, labels: &Labels) -> Option<AlertKey> {
        self.inhibitor.inhibited_by(labels, |key| self.alerts.get(&key).map(|value| &value.labels)).map(|(key, _)| key)
    }

    fn lease(&self, claim: &Claim, now: Now) -> Option<Monotonic> {
        let of = |electorate: u64, members: &[PeerId]| {
            claim.candidacy.lease(electorate, members, &self.beats, self.me, now.monotonic)
        };
        match &claim.state {
            State::Sending { electorates, .. } => {
                electorates.iter().filter_map(|(number, of_it)| of(*number, of_it)).max()
            }
            _ => {
                let voters = self.voters(now);
                of(voters.number, &voters.members)
            }
        }
    }

    /// Sends if a majority has accepted, the lease holds, and the newest done still asks for it.
    pub(super) fn try_send(&mut self, key: KeyId, now: Now) {
        let Some(claim) = self.claims.get(&key).cloned() else { return };
        let voters = self.voters(now);
        let accepted = claim.candidacy.is_accepted(&voters.members);
        if !matches!(claim.state, State::Voting) || !accepted || !self.is_ready(now) {
            return;
        }
        let lease = self.lease(&claim, now).filter(|lease| *lease >= now.monotonic + LEASE_MIN);
        let (Some(lease), Some(slot)) = (lease, self.dispatcher.slot(key).cloned()) else { return };
        let assessment = self.assess(key, &slot, now);
        if self.is_told(key, claim.flush) || !assessment.reason.should_notify() {
            return self.give_up(key, claim.flush, now);
        }
        if voters.majority() > 1 && !claim.candidacy.is_fresh(now.monotonic) {
            if let Some(claim) = self.claims.get_mut(&key) {
                claim.candidacy.confirm(lease, now.monotonic);
            }
            return self.ask(key, now);
        }
        let Assessment { reason, firing, resolved, alerts } = assessment;
        let after_last = self.log.get(&key).map(|done| done.at.after(Duration::from_millis(1)));
        let last_span = |alert: &AlertKey| Some((*alert, *self.alerts.get(alert)?.spans.last_key_value()?.0));
        let ended = alerts.iter().filter(|(_, firing)| !firing).filter_map(|(alert, _)| last_span(alert)).collect();
        let at = after_last.map_or(now.wall, |after| after.max(now.wall));
        let told = Told { at, ballot: claim.candidacy.ballot(), firing, resolved, ended };
        let alerts: Vec<_> =
            alerts.into_iter().filter(|(_, firing)| *firing || slot.integration.send_resolved).collect();
        if alerts.is_empty() {
            // Nobody is told of the end, but the log must know.
            let ended = told.ended.clone();
            let done = told.done(slot.key.clone(), claim.flush, BTreeMap::new());
            return self.log_done(key, &slot, done, &ended, voters.degraded, now);
        }
        let mut notification = self.notification(key, &slot, &claim, reason, &alerts, &told, voters.degraded, now);
        if let Some(until) = claim.counts_until {
            (notification.is_new, notification.fails_at) = (false, until);
        }
        let fails_at = notification.fails_at;
        self.next_claim += 1;
        let id = ClaimId(self.next_claim);
        self.running.insert(id, key);
        if let Some(claim) = self.claims.get_mut(&key) {
            let electorates = vec![(voters.number, voters.members)];
            claim.state = State::Sending { id, told, lease, electorates, alone: voters.degraded, fails_at };
            claim.attempts += 1;
        }
        self.outputs.push_back(Output::Notify { claim: id, notification: Box::new(notification), not_after: lease });
    }

    #[allow(clippy::too_many_arguments)]
    fn notification(
        &self,
        key: KeyId,
        slot: &Slot,
        claim: &Claim,
        reason: NotifyReason,
        alerts: &[(AlertKey, bool)],
        told: &Told,
        degraded: bool,
        now: Now,
    ) -> Notification {
        let shown = alerts.iter().filter_map(|(alert, firing)| {
            let value = self.alerts.get(alert)?;
            Some(NotifiedAlert {
                labels: value.labels.clone(),
                annotations: value.notes.value.annotations.clone(),
                starts_at: value.starts_at(now.wall, self.grace),
                ends_at: (!firing).then(|| value.ends_at()),
                generator_url: value.notes.value.generator_url.clone(),
            })
        });
        let mut shown: Vec<NotifiedAlert> = shown.collect();
        shown.sort_by(|a, b| {
            let by = |name: &str| a.labels.value(name).cmp(b.labels.value(name));
            by("job").then_with(|| by("instance")).then_with(|| a.labels.cmp(&b.labels))
        });
        Notification {
            key: slot.key.clone(),
            integration: slot.integration.clone(),
            flush: claim.flush,
            now: now.wall,
            group_labels: slot.group.1.clone(),
            route_labels: self.tree.node(slot.group.0).labels.clone(),
            alerts: shown,
            reason: reason.as_str(),
            idempotency_key: idempotency_key(key, claim.flush, &told.firing, &told.resolved),
            degraded,
            data: self.log.get(&key).map(|done| done.data.clone()).unwrap_or_default(),
            is_new: true,
            fails_at: now.monotonic + self.tree.node(slot.group.0).group_interval,
        }
    }

    /// An attempt ended.
    pub(super) fn notified(&mut self, id: ClaimId, outcome: Outcome, now: Now) {
        // Each attempt ends once. A claim may have gone since, or have begun another.
        let Some(key) = self.running.remove(&id) else { return };
        let found = self.claims.get(&key).and_then(|claim| match &claim.state {
            State::Sending { id: running, told, alone, fails_at, .. } if *running == id => {
                Some((claim.flush, told.clone(), *alone, *fails_at))
            }
            _ => None,
        });
        let Some((flush, told, alone, fails_at)) = found else { return };
        let kind = self.dispatcher.slot(key).map(|slot| slot.key.integration.clone()).unwrap_or_default();
        match outcome {
            Outcome::Sent { data } => {
                *self.counters.sent.entry(kind).or_default() += 1;
                match self.dispatcher.slot(key).cloned() {
                    Some(slot) => {
                        let ended = told.ended.clone();
                        let done = told.done(slot.key.clone(), flush, data);
                        self.log_done(key, &slot, done, &ended, alone, now);
                    }
                    None => drop(self.claims.remove(&key)),
                }
            }
            Outcome::Retry { after, .. } => {
                *self.counters.failed.entry(kind).or_default() += 1;
                if let Some(claim) = self.claims.get_mut(&key) {
                    let doubled = BACKOFF[0] * 2u32.saturating_pow(claim.attempts.saturating_sub(1).min(6));
                    let wait = after.unwrap_or(doubled).clamp(BACKOFF[0], BACKOFF[1]);
                    claim.tried = true;
                    claim.counts_until = Some(fails_at).filter(|at| now.monotonic < *at);
                    claim.state = State::Waiting(now.monotonic + wait);
                    self.ask_in_present(key, now);
                }
            }
            Outcome::Refused { .. } => {
                *self.counters.failed.entry(kind).or_default() += 1;
                self.give_up(key, flush, now);
            }
            Outcome::Expired => {
                self.counters.expired += 1;
                if let Some(claim) = self.claims.get_mut(&key) {
                    claim.candidacy.renew(now.monotonic);
                    claim.state = State::Waiting(now.monotonic);
                }
            }
        }
    }

    /// Gives a claim back unsent; the instant needs nothing more.
    fn give_up(&mut self, key: KeyId, flush: Timestamp, now: Now) {
        let Some(claim) = self.claims.remove(&key) else { return };
        self.tell_released(key, claim.candidacy.ballot(), now);
        self.dispatcher.looked_at(key, flush);
        self.schedule(key, now);
    }

    fn log_done(
        &mut self,
        key: KeyId,
        slot: &Slot,
        done: Done,
        ended: &BTreeMap<AlertKey, Timestamp>,
        alone: bool,
        now: Now,
    ) {
        let asked_by = self.claims.remove(&key).map(|claim| claim.candidacy.ballot());
        let sent_by = done.ballot;
        self.note_telling(key, &done, alone);
        self.keep_done(key, &done, now);
        self.end_what_was_told(key, ended, now);
        let mut parts = self.ends_of(slot, &done);
        parts.push(Part::Done(key, done));
        self.wait_for_done(parts, now);
        // Who accepted a greater ballot meanwhile waits for the end of that one.
        if let Some(asked_by) = asked_by.filter(|asked_by| *asked_by != sent_by) {
            self.tell_released(key, asked_by, now);
        }
    }

    /// The alerts that were told as ended. They go before the record of that: who learns that they were told must know of
    /// their ends.
    pub(super) fn ends_of(&self, slot: &Slot, done: &Done) -> Vec<Part> {
        let alerts = self.dispatcher.group(&slot.group).map(|group| group.alerts.clone()).unwrap_or_default();
        let ended = alerts.into_iter().filter(|alert| done.resolved.contains(&alert.short()));
        ended.filter_map(|alert| Some(Part::Alert(alert, self.alerts.get(&alert)?.clone()))).collect()
    }

    /// Claims that wait, or whose voters do not answer.
    pub(super) fn tend_claims(&mut self, now: Now) {
        let keys: Vec<KeyId> = self.claims.keys().copied().collect();
        for key in keys {
            let Some(claim) = self.claims.get_mut(&key) else { continue };
            match claim.state {
                State::Waiting(until) if now.monotonic >= until => {
                    claim.state = State::Voting;
                    if claim.candidacy.has_void() {
                        claim.candidacy.renew(now.monotonic);
                    }
                    // An accepted intent stays accepted; others are asked again.
                    self.ask(key, now);
                    self.try_send(key, now);
                }
                State::Voting if now.monotonic.since(claim.asked_at) >= ASK_AGAIN => {
                    self.ask(key, now);
                    self.try_send(key, now);
                }
                State::Voting if claim.candidacy.is_unanswered() => self.ask(key, now),
                State::Voting => self.try_send(key, now),
                // Who did not accept yet, or has started since, is asked on: the attempt outlives the loss of an accepter.
                State::Sending { .. } if now.monotonic.since(claim.asked_at) >= ASK_AGAIN => self.ask_on(key, now),
                _ => {}
            }
            self.abandon_if_moot(key, now);
        }
    }

    /// Whether somebody has told of an instant or a later one. The log does not always say: of two that told without
    /// knowing of each other it keeps what was told last, which may have been about an earlier one.
    fn is_told(&self, key: KeyId, flush: Timestamp) -> bool {
        self.log.get(&key).is_some_and(|done| done.flush >= flush)
            || self.dispatcher.slot(key).is_some_and(|slot| slot.looked_at >= flush)
    }

    /// A claim whose notification somebody else has sent, or that is no longer this peer's.
    pub(super) fn abandon_if_moot(&mut self, key: KeyId, now: Now) {
        let Some(claim) = self.claims.get(&key) else { return };
        let told = self.is_told(key, claim.flush);
        if !claim.is_sending() && (told || self.rank(key, now).is_none()) {
            let flush = claim.flush;
            if told {
                self.give_up(key, flush, now);
            } else {
                self.give_up(key, flush.before(Duration::from_millis(1)), now);
            }
        }
    }

    /// Another electorate counts: its members must accept. Attempts that run go on by the word of those that let them
    /// begin, and may win the new one's as well.
    pub(super) fn revote(&mut self, now: Now) {
        let voters = self.voters(now);
        let mut running = Vec::new();
        for (key, claim) in &mut self.claims {
            match &mut claim.state {
                State::Sending { electorates, .. } => {
                    if electorates.len() < ELECTORATES_MAX {
                        electorates.push((voters.number, voters.members.clone()));
                    }
                    running.push(*key);
                }
                _ => {
                    claim.candidacy.renew(now.monotonic);
                    claim.state = State::Waiting(now.monotonic);
                }
            }
        }
        for key in running {
            self.ask_on(key, now);
        }
    }

    /// An attempt that failed began in an earlier electorate: while its claim waits the present one is asked, so that
    /// nobody holds a vote of the earlier one, which holds back the next change, for longer than an attempt takes.
    fn ask_in_present(&mut self, key: KeyId, now: Now) {
        let number = self.voters(now).number;
        let Some(claim) = self.claims.get_mut(&key).filter(|claim| !claim.candidacy.is_all_of(number)) else { return };
        claim.candidacy.renew(now.monotonic);
        self.ask(key, now);
    }

    /// Acknowledged beats move the leases of running attempts.
    pub(super) fn leases_moved(&mut self, now: Now) {
        let members = self.voters(now).members;
        for claim in self.claims.values_mut() {
            claim.candidacy.hold(&members, &self.beats, self.me, now.monotonic);
        }
        let mut moved: BTreeMap<Monotonic, Vec<ClaimId>> = BTreeMap::new();
        let keys: Vec<KeyId> = self.claims.keys().copied().collect();
        for key in keys {
            let Some(new) = self.claims.get(&key).and_then(|claim| self.lease(claim, now)) else { continue };
            let Some(claim) = self.claims.get_mut(&key) else { continue };
            match &mut claim.state {
                // A lease that has lapsed is not revived: another may have sent meanwhile.
                State::Sending { id, lease, .. } if new > *lease && now.monotonic <= *lease => {
                    *lease = new;
                    moved.entry(new).or_default().push(*id);
                }
                _ => {}
            }
        }
        for (not_after, claims) in moved {
            self.outputs.push_back(Output::LeaseUntil { claims, not_after });
        }
        self.try_all(now);
    }

    fn try_all(&mut self, now: Now) {
        let voting = self.claims.iter().filter(|(_, claim)| matches!(claim.state, State::Voting));
        let keys: Vec<KeyId> = voting.map(|(key, _)| *key).collect();
        for key in keys {
            self.try_send(key, now);
        }
    }
}
