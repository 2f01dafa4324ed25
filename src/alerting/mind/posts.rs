//! What is posted: alerts and silences, kept, passed on, acknowledged when enough peers have them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_model::{Labels, Now, PeerId, Timestamp};

use super::{Alerting, Deferred, Output, STOOD_STILL, Waiter, Waiting};
use crate::alert::{AlertKey, AlertValue, Notes, PostedAlert, Span};
use crate::claims::BEAT_INTERVAL;
use crate::inherit;
use crate::message::{DiskRecord, Part};
use crate::nflog::{Done, KeyId};
use crate::silence::{SilenceBody, SilenceError, SilenceId, SilenceState, SilenceValue};

/// The label that holds an alert's name.
const ALERT_NAME: &str = "alertname";
/// Ended alerts that are owed to nobody are kept so long.
const ENDED_RETENTION: Duration = Duration::from_secs(15 * 60);
/// Ended alerts that are owed, but silenced, are kept so long.
const OWED_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Log entries of groups that ended are kept so long; of others, as upstream, five days.
const LOG_RETENTION: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(120 * 3600)];
/// Ended silences are kept so long, as upstream.
const SILENCE_RETENTION: Duration = Duration::from_secs(120 * 3600);
/// Peers' clocks differ by less: one that is off by more sends nothing.
const CLOCK_SLACK: Duration = Duration::from_secs(2);
/// A post forwarded to an elector that does not answer is forwarded to the next.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(1);
/// Posts of at most 1,000 alerts each that wait until this peer knows what others know.
const HELD_MAX: usize = 100;

impl Alerting {
    /// Somebody posts. What no rule dates speaks of now; what is found right after this peer stood still may have waited
    /// all the time.
    pub(super) fn take_post(&mut self, token: u64, mut alerts: Vec<PostedAlert>, now: Now) {
        let woke = self.woke_at.is_some_and(|at| now.monotonic.since(at) < BEAT_INTERVAL);
        let taken_at = if woke { self.slept_from } else { now.wall };
        for alert in &mut alerts {
            alert.evaluated_at.get_or_insert(taken_at);
        }
        if self.is_stale(&alerts, now) {
            self.held.push((token, alerts));
        } else {
            self.post(token, alerts, now);
        }
    }

    fn post(&mut self, token: u64, alerts: Vec<PostedAlert>, now: Now) {
        if self.is_elector() || self.electorate.is_none() {
            self.accept_post(Waiter::Post(token), alerts, now);
        } else {
            self.forward(Waiter::Post(token), alerts, &BTreeSet::new(), now);
        }
    }

    /// Whether these speak of an instant before this peer stood still, and it does not know yet what was said since: what
    /// somebody has ended meanwhile would begin anew.
    fn is_stale(&mut self, alerts: &[PostedAlert], now: Now) -> bool {
        let old = |alert: &PostedAlert| alert.evaluated_at.is_some_and(|at| at.after(STOOD_STILL) <= now.wall);
        self.woke_at.is_some() && self.held.len() < HELD_MAX && alerts.iter().any(old) && !self.has_caught_up(now)
    }

    /// Whether it knows what others know, or has not found any for long enough.
    fn has_caught_up(&mut self, now: Now) -> bool {
        let others = self.electorate.iter().flat_map(|electorate| &electorate.members).any(|peer| *peer != self.me);
        let met_nobody = others && self.other_electors().is_empty();
        let patient = now.monotonic.since(self.unsure_since) < self.timing.notify_hold;
        self.is_ready(now) && !(met_nobody && patient)
    }

    /// Takes the posts that waited.
    pub(super) fn release_held(&mut self, now: Now) {
        if !self.held.is_empty() && self.has_caught_up(now) {
            for (token, alerts) in std::mem::take(&mut self.held) {
                self.post(token, alerts, now);
            }
        }
    }

    pub(super) fn is_elector(&self) -> bool {
        self.electorate.as_ref().is_some_and(|electorate| electorate.contains(self.me))
    }

    /// Sends posted alerts to an elector that is not among those that failed.
    fn forward(&mut self, whose: Waiter, alerts: Vec<PostedAlert>, failed: &BTreeSet<PeerId>, now: Now) {
        let electors = self.electorate.clone().unwrap_or_default().members;
        let alive = electors.iter().filter(|peer| self.is_member(**peer) && !failed.contains(peer));
        let Some(to) = alive.min_by_key(|peer| !self.hears(**peer, now)).copied() else {
            // Nobody to vote: keep it here, it is joined where electors are found again.
            return self.accept_post(whose, alerts, now);
        };
        let request = self.wait_for(whose, now);
        let is_dated = alerts.iter().any(|alert| alert.evaluated_at.is_some());
        self.say(
            to,
            if is_dated {
                Part::ForwardEvaluated(alerts.iter().map(|alert| (alert.clone(), alert.evaluated_at)).collect())
            } else {
                Part::Forward(alerts.clone())
            },
        );
        self.say(to, Part::AckWanted(request));
        if let Some(waiting) = self.waiting.get_mut(&request) {
            waiting.forwarded = Some((to, alerts));
        }
    }

    fn wait_for(&mut self, whose: Waiter, now: Now) -> u64 {
        self.next_request += 1;
        let waiting = Waiting { whose, have: BTreeSet::new(), since: now.monotonic, forwarded: None };
        self.waiting.insert(self.next_request, waiting);
        self.next_request
    }

    /// Keeps posted alerts and passes them on to the other electors.
    pub(super) fn accept_post(&mut self, whose: Waiter, alerts: Vec<PostedAlert>, now: Now) {
        let mut parts = Vec::new();
        for alert in alerts {
            if self.is_one_too_many(&alert, now) {
                self.counters.limited += 1;
                continue;
            }
            if let Some((key, delta)) = self.delta_of(alert, now) {
                self.keep_alert(key, &delta, now);
                parts.push(Part::Alert(key, delta));
            }
        }
        let others = self.other_electors();
        self.replicate(whose, parts, &others, now);
    }

    fn note_name(&mut self, key: AlertKey, labels: &Labels, fires: bool) {
        if self.limits.alerts_per_name_max == 0 {
            return;
        }
        let name = labels.value(ALERT_NAME);
        if fires {
            self.firing_by_name.entry(name.to_owned()).or_default().insert(key);
        } else if let Some(keys) = self.firing_by_name.get_mut(name) {
            keys.remove(&key);
            if keys.is_empty() {
                self.firing_by_name.remove(name);
            }
        }
    }

    /// Whether so many of its name fire already that a new one is left out.
    fn is_one_too_many(&self, alert: &PostedAlert, now: Now) -> bool {
        let most = self.limits.alerts_per_name_max;
        let ends = alert.ends_at.is_some_and(|end| end <= now.wall);
        most > 0
            && !ends
            && self
                .firing_by_name
                .get(alert.labels.value(ALERT_NAME))
                .is_some_and(|keys| keys.len() >= most && !keys.contains(&AlertKey::of(&alert.labels)))
    }

    /// Sends parts to peers, and waits until they and this one have them.
    fn replicate(&mut self, whose: Waiter, parts: Vec<Part>, to: &[PeerId], now: Now) {
        let request = self.wait_for(whose, now);
        for peer in to {
            for part in &parts {
                self.say(*peer, part.clone());
            }
            self.say(*peer, Part::AckWanted(request));
        }
        self.after_disk.push(Deferred::Stored(request));
        if self.disk.is_empty() && self.deferred.is_empty() {
            // Nothing to write: it is as safe as it was.
            self.after_disk.pop();
            self.acked(self.me, request);
        }
    }

    pub(super) fn other_electors(&self) -> Vec<PeerId> {
        let electors = self.electorate.iter().flat_map(|electorate| electorate.members.iter().copied());
        electors.filter(|peer| *peer != self.me && self.is_member(*peer)).collect()
    }

    /// What a post changes about an alert.
    fn delta_of(&self, posted: PostedAlert, now: Now) -> Option<(AlertKey, AlertValue)> {
        if posted.labels.is_empty() {
            return None;
        }
        let key = AlertKey::of(&posted.labels);
        let known = self.alerts.get(&key);
        let grace = self.grace;
        let running = known.filter(|known| known.is_firing(now.wall, grace));
        // Who took it may have stood still before it passed it on: it is judged as it was meant then. The source's clock, or
        // that of the peer which forwards, may be ahead; what it says is over does not run on.
        let said_at = posted.evaluated_at.unwrap_or(now.wall);
        let explicit = posted.ends_at.is_some_and(|end| end <= said_at.after(CLOCK_SLACK));
        // A rule's slots are the same to everybody, other instants are read from different clocks.
        let slack = if posted.own_rule { Duration::ZERO } else { CLOCK_SLACK };
        // Since it was seen to fire somebody has ended it; but what somebody outside dates later than that is new.
        let is_new = |end: Timestamp| !posted.own_rule && posted.starts_at.is_some_and(|start| start > end);
        let overtaken = |end: Timestamp| !explicit && end > said_at.after(slack) && !is_new(end);
        if known.and_then(AlertValue::stated_end).is_some_and(overtaken) {
            return None;
        }
        let ends_at = posted.ends_at.unwrap_or_else(|| now.wall.after(self.config.global.resolve_timeout));
        let mut delta = AlertValue::new(posted.labels);
        delta.updated_at = now.wall;
        match running {
            Some(running) if explicit => {
                // An end is an end of everything that had begun when it was stated.
                let had_begun = |start: Timestamp| start <= said_at.after(slack);
                for (start, span) in running.spans.iter().filter(|(start, span)| !span.explicit && had_begun(**start)) {
                    delta.spans.insert(*start, Span { ends_at: ends_at.max(*start), explicit, born: span.born });
                }
            }
            _ => {
                let continued = running.map(|running| running.starts_at(now.wall, grace));
                let given = posted.starts_at.filter(|_| !(posted.own_rule && continued.is_some()));
                // An end is final: what its source states to run on after it begins anew.
                let is_over = |start: &Timestamp| {
                    known.is_some_and(|known| known.spans.get(start).is_some_and(|span| span.explicit))
                };
                let given = given.filter(|start| explicit || !is_over(start));
                let start = given.or(continued).unwrap_or(now.wall.min(ends_at));
                // What begins after all that runs has run out, and is waited for only since a start, is something new.
                let born = running.and_then(|running| running.born_by(start, now.wall, grace)).unwrap_or(now.wall);
                delta.spans.insert(start, Span { ends_at, explicit, born });
                // What runs may have ended before this rule's alert began, and who knows that be cut off: then its end must
                // not end this. Who sees it for the first time does not know when it began.
                let begun = posted.starts_at.filter(|begun| posted.own_rule && !explicit && *begun > start);
                if let Some(begun) = begun.filter(|begun| *begun < said_at && !is_over(begun)) {
                    delta.spans.insert(begun, Span { ends_at, explicit, born });
                }
            }
        }
        let notes = Notes { annotations: posted.annotations, generator_url: posted.generator_url };
        if let Some(known) = known {
            delta.notes.clone_from(&known.notes);
        }
        // An end that a new owner tells without having seen the alert says nothing new about it.
        if !(posted.own_rule && explicit && notes.annotations.is_empty()) {
            delta.notes.write(notes, self.me);
        }
        Some((key, delta))
    }

    /// Joins an alert, and writes it down if anything was new.
    pub(super) fn keep_alert(&mut self, key: AlertKey, delta: &AlertValue, now: Now) -> bool {
        let old = self.alerts.get(&key).is_none() && self.is_over(delta, now.wall);
        if old || !self.alerts.join(&key, delta) {
            return false;
        }
        self.write(DiskRecord::Alert(key, delta.clone()));
        self.alert_changed(key, now);
        true
    }

    /// Whether an alert is one that peers have begun to forget.
    fn is_over(&self, value: &AlertValue, now: Timestamp) -> bool {
        !value.may_fire(now, self.grace) && value.ends_at().after(OWED_RETENTION) < now
    }

    /// An alert is new, or fires, or ended: its groups, its expiry and what it inhibits follow.
    pub(super) fn alert_changed(&mut self, key: AlertKey, now: Now) {
        let Some(value) = self.alerts.get(&key) else { return };
        let (labels, grace) = (value.labels.clone(), self.grace);
        let fires = value.is_firing(now.wall, grace);
        let starts = value.spans.keys().copied().find(|start| *start > now.wall);
        let next = if fires { value.expires_at(now.wall, grace) } else { starts };
        if let Some(old) = self.expiry_of.remove(&key) {
            self.expiries.remove(&(old, key));
        }
        if let Some(next) = next {
            self.expiry_of.insert(key, next);
            self.expiries.insert((next, key));
        }
        if fires && self.firing.insert(key) {
            self.inhibitor.note(key, &labels, true);
            self.note_name(key, &labels, true);
        } else if !fires && self.firing.remove(&key) {
            self.inhibitor.note(key, &labels, false);
            self.note_name(key, &labels, false);
        }
        for slot in self.dispatcher.insert(&self.tree, key, &labels) {
            self.schedule(slot, now);
        }
    }

    pub(super) fn put_silence(&mut self, token: u64, id: Option<SilenceId>, body: SilenceBody, now: Now) {
        match self.written_silence(id, body, now) {
            Ok((id, value)) => {
                self.keep_silence(id, &value);
                self.spread_silences(token, id, now);
            }
            Err(error) => self.outputs.push_back(Output::SilencePut { token, result: Err(error) }),
        }
    }

    fn written_silence(
        &mut self,
        id: Option<SilenceId>,
        mut body: SilenceBody,
        now: Now,
    ) -> Result<(SilenceId, SilenceValue), SilenceError> {
        body.check(self.limits.matchers)?;
        body.updated_at = now.wall;
        let known = match id {
            Some(id) => Some((id, self.silences.get(&id).cloned().ok_or(SilenceError::NotFound)?)),
            None => None,
        };
        if let Some((id, mut value)) = known {
            if value.body.value.may_become(&body, value.state(now.wall), now.wall) {
                self.check_size(id, &body)?;
                value.body.write(body, self.me);
                return Ok((id, value));
            }
            self.check_count()?;
            // Another silence in its place: this one ends.
            if value.state(now.wall) != SilenceState::Expired {
                value.expired_at = Some(now.wall);
                self.keep_silence(id, &value);
                self.tell_members(&Part::Silence(id, value));
            }
        }
        if body.ends_at <= now.wall {
            return Err(SilenceError::Invalid("end time must be in the future".to_owned()));
        }
        self.check_count()?;
        // What begins in the past begins now.
        body.starts_at = body.starts_at.max(now.wall);
        let id = SilenceId(uuid::Builder::from_random_bytes(self.random_id().to_be_bytes()).into_uuid().as_u128());
        self.check_size(id, &body)?;
        let mut value = SilenceValue::default();
        value.body.write(body, self.me);
        Ok((id, value))
    }

    fn check_count(&self) -> Result<(), SilenceError> {
        let (count, most) = (self.silences.len(), self.limits.silences_max);
        if most == 0 || count < most {
            return Ok(());
        }
        Err(SilenceError::Limit(format!("exceeded maximum number of silences: {count} (limit: {most})")))
    }

    fn check_size(&self, id: SilenceId, body: &SilenceBody) -> Result<(), SilenceError> {
        let most = self.limits.silence_bytes_max;
        if most == 0 {
            return Ok(());
        }
        let bytes = inherit::silence_bytes(id, body, SILENCE_RETENTION);
        if bytes <= most {
            return Ok(());
        }
        Err(SilenceError::Limit(format!("silence exceeded maximum size: {bytes} bytes (limit: {most} bytes)")))
    }

    pub(super) fn expire_silence(&mut self, token: u64, id: SilenceId, now: Now) {
        let Some(mut value) = self.silences.get(&id).cloned() else {
            self.outputs.push_back(Output::SilencePut { token, result: Err(SilenceError::NotFound) });
            return;
        };
        if value.state(now.wall) == SilenceState::Expired {
            // As upstream: it is what was asked for.
            self.outputs.push_back(Output::SilencePut { token, result: Ok(id) });
            return;
        }
        value.expired_at = Some(now.wall);
        self.keep_silence(id, &value);
        self.spread_silences(token, id, now);
    }

    pub(super) fn keep_silence(&mut self, id: SilenceId, value: &SilenceValue) {
        if self.silences.join(&id, value) {
            self.write(DiskRecord::Silence(id, value.clone()));
        }
    }

    fn spread_silences(&mut self, token: u64, id: SilenceId, now: Now) {
        let Some(value) = self.silences.get(&id).cloned() else { return };
        let others: Vec<PeerId> = self.members.iter().map(|member| member.id).filter(|id| *id != self.me).collect();
        self.replicate(Waiter::Silence(token, id), vec![Part::Silence(id, value)], &others, now);
    }

    pub(super) fn tell_members(&mut self, part: &Part) {
        let others: Vec<PeerId> = self.members.iter().map(|member| member.id).collect();
        for peer in others {
            self.say(peer, part.clone());
        }
    }

    /// A peer has what somebody waits for.
    pub(super) fn acked(&mut self, from: PeerId, request: u64) {
        if let Some(waiting) = self.waiting.get_mut(&request) {
            waiting.have.insert(from);
        }
        self.answer_waiting(request);
    }

    fn answer_waiting(&mut self, request: u64) {
        let live = 1 + self.other_electors().len();
        let Some(waiting) = self.waiting.get(&request) else { return };
        // A forwarded post is answered by the elector, who counts.
        let needed = if waiting.forwarded.is_some() { 1 } else { live.min(2) };
        if waiting.have.len() < needed {
            return;
        }
        let Some(waiting) = self.waiting.remove(&request) else { return };
        match waiting.whose {
            Waiter::Post(token) => self.outputs.push_back(Output::Posted { token, result: Ok(()) }),
            Waiter::Silence(token, id) => self.outputs.push_back(Output::SilencePut { token, result: Ok(id) }),
            Waiter::Forwarded(from, request) => self.say(from, Part::Acked(request)),
            Waiter::Nobody => {}
        }
    }

    /// Peers may have died since: fewer are needed, forwards go elsewhere.
    pub(super) fn tend_waiting(&mut self, now: Now) {
        let requests: Vec<u64> = self.waiting.keys().copied().collect();
        for request in requests {
            let Some(waiting) = self.waiting.get(&request) else { continue };
            let late = now.monotonic.since(waiting.since) >= FORWARD_TIMEOUT;
            match &waiting.forwarded {
                Some((to, _)) if late || !self.is_member(*to) => {
                    let waiting = self.waiting.remove(&request).expect("seen above");
                    let (to, alerts) = waiting.forwarded.expect("seen above");
                    self.forward(waiting.whose, alerts, &[to].into(), now);
                }
                _ => self.answer_waiting(request),
            }
        }
    }

    /// Forgets what is over and owed to nobody.
    pub(super) fn sweep(&mut self, now: Now) {
        let ended = |value: &AlertValue, after: Duration| {
            !value.may_fire(now.wall, self.grace) && value.ends_at().after(after) < now.wall
        };
        let over: Vec<(AlertKey, Labels)> = self
            .alerts
            .iter()
            .filter(|(key, value)| {
                ended(value, OWED_RETENTION) || ended(value, ENDED_RETENTION) && !self.is_owed(**key, value)
            })
            .map(|(key, value)| (*key, value.labels.clone()))
            .collect();
        for (key, labels) in over {
            self.alerts.remove(&key);
            self.dispatcher.remove(&self.tree, key, &labels);
        }
        let stale: Vec<_> = self
            .log
            .iter()
            .filter(|(_, done)| done.at.after(LOG_RETENTION[usize::from(!done.firing.is_empty())]) < now.wall)
            .map(|(key, _)| *key)
            .filter(|key| !self.claims.contains_key(key))
            .collect();
        for key in stale {
            self.log.remove(&key);
            self.told_alone.remove(&key);
            self.voter.forget(key);
        }
        let gone: Vec<SilenceId> = self
            .silences
            .iter()
            .filter(|(_, value)| value.ends_at().after(SILENCE_RETENTION) < now.wall)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.silences.remove(&id);
        }
    }

    /// Whether some receiver was told that the alert fires, and not yet that it ended.
    fn is_owed(&self, key: AlertKey, value: &AlertValue) -> bool {
        self.tree.matching(&value.labels).into_iter().any(|node| {
            let id = (node, self.tree.node(node).group_labels(&value.labels));
            let slots = self.dispatcher.group(&id).map_or(&[][..], |group| &group.slots);
            let told = |done: &Done| done.firing.contains(&done.hash(key, &value.labels));
            slots.iter().any(|slot| self.log.get(slot).is_some_and(told))
        })
    }

    /// Joins a record that another peer sent.
    pub(super) fn keep_done(&mut self, key: KeyId, done: &Done, now: Now) {
        let stale = done.at.after(LOG_RETENTION[usize::from(!done.firing.is_empty())]) < now.wall;
        let ended = self.voter.vote(key).filter(|vote| !vote.is_open(self.log.get(&key))).map(|vote| vote.ballot);
        if !stale {
            self.dispatcher.looked_at(key, done.flush);
        }
        // What it says nothing of is kept for its sender, which may not know of that.
        let leaves_out = |before: &&Done| before.firing.iter().any(|alert| !done.mentions(*alert));
        let before = self.log.get(&key).filter(leaves_out).cloned();
        let is_news = !stale && self.log.join(&key, done);
        if !stale {
            self.meet(key, before.as_ref(), done, now);
        }
        if let Some(before) = before.filter(|_| is_news && self.may_hear(done.ballot.peer)) {
            self.say(done.ballot.peer, Part::Done(key, before));
        }
        if !is_news {
            // Others have told newer things since: the intent behind it has come to its end all the same.
            if self.log.get(&key).is_some_and(|known| known.ballot != done.ballot) {
                self.released(key, done.ballot);
            }
            return;
        }
        self.write(DiskRecord::Done(key, done.clone()));
        let number = self.electorate.as_ref().map_or(0, |electorate| electorate.number);
        if self.voter.vote(key).is_none_or(|vote| vote.electorate < number) {
            self.log_is_unshown(now);
        }
        if let Some(ballot) = ended {
            // What was told later may have been about an earlier instant; an intent that came to its end stays there.
            self.released(key, ballot);
        }
        self.abandon_if_moot(key, now);
        self.schedule(key, now);
    }

    /// What a receiver was told to be over is over, and that is written into the alert: else a peer that has not heard of
    /// the end yet, or one that started since and gives sources time to post again, would tell it as firing anew. A source
    /// that posts it later begins a new span. Only who told it writes that, and of spans that it knew of when it began to
    /// tell (`ended` has the last of each): a slow receiver takes its time, in which another may have begun.
    pub(super) fn end_what_was_told(&mut self, key: KeyId, ended: &BTreeMap<AlertKey, Timestamp>, now: Now) {
        let Some(done) = self.log.get(&key) else { return };
        let deltas: Vec<(AlertKey, AlertValue)> = ended
            .iter()
            .filter_map(|(alert, last)| {
                let value = self.alerts.get(alert)?;
                if !done.resolved.contains(&done.hash(*alert, &value.labels)) {
                    return None;
                }
                // Clocks differ by less; what was born later is another span.
                let old = |span: &Span| !span.explicit && span.born.after(CLOCK_SLACK) <= done.at;
                let ended = value.spans.range(..=*last).filter(|(_, span)| old(span));
                let ended = ended.map(|(start, span)| {
                    let ends_at = span.ends_at.min(done.at).max(*start);
                    (*start, Span { ends_at, explicit: true, born: span.born })
                });
                let mut delta = AlertValue::new(value.labels.clone());
                delta.spans = ended.collect();
                (!delta.spans.is_empty()).then_some((*alert, delta))
            })
            .collect();
        for (alert, delta) in deltas {
            self.keep_alert(alert, &delta, now);
        }
    }

    pub(super) fn wait_for_done(&mut self, parts: Vec<Part>, now: Now) {
        // To electors that are held for dead as well: one that lives all the same votes.
        let electors = self.electorate.iter().flat_map(|electorate| electorate.members.iter().copied());
        let others: Vec<PeerId> = electors.filter(|peer| *peer != self.me).collect();
        self.replicate(Waiter::Nobody, parts, &others, now);
    }
}
