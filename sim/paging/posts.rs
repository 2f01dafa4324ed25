//! Who posts alerts: own rules, wherever they are evaluated, and clients from outside.

use promesh_alerting::{Input, PostedAlert};
use promesh_model::{Labels, Timestamp};
use promesh_node::PeerInput;
use promesh_replication::SourceId;
use rand::RngExt;

use super::PagingEvent;
use crate::faults::Fault;
use crate::world::{EPOCH_MS, Event, MS, SECOND, World};

/// How long a posted alert is good for unless it is posted again: four times [`RESEND_MS`], as Prometheus has it.
pub(crate) const VALID_MS: i64 = 4 * RESEND_MS;
const RESEND_MS: i64 = 20_000;
/// How often a client says what it has to say.
const CLIENT_PERIOD: u64 = 10 * SECOND;
/// How long an end is told.
pub(crate) const END_TOLD_MS: i64 = 120_000;

/// A post under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Posting {
    alert: usize,
    episode: usize,
    fires: bool,
}

/// What an evaluator that stands still is about to post.
#[derive(Debug)]
pub(crate) struct Post {
    pub(super) peer: usize,
    pub(super) boot: u64,
    pub(super) alert: usize,
    pub(super) episode: usize,
    pub(super) fires: bool,
    pub(super) posted: PostedAlert,
}

/// What one life of an evaluator knows of a rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Whether it knows that the alert fired: it saw it, or was handed the state.
    knows: bool,
    /// When it last posted, and whether that was an end.
    posted: Option<(Timestamp, bool)>,
    /// Since when it fires, as far as this life knows.
    since: Option<Timestamp>,
}

impl World {
    /// A rule's slot was evaluated by a peer.
    pub(crate) fn evaluated(&mut self, peer: usize, source: SourceId, slot: Timestamp) {
        let Some(alert) = self.rule_of(source) else { return };
        let boot = self.peers[peer].boot;
        let handed_over = self.rng.random_bool(0.8);
        let offset = slot.ms() - EPOCH_MS;
        let planned = self.paging().alerts[alert].clone();
        let episode = planned.episode_at(offset);
        let key = (peer, boot, alert);
        let mut memory = self.paging().memory.get(&key).copied().unwrap_or_default();
        memory.knows |= handed_over && memory.posted.is_none();
        match episode {
            Some(episode) => {
                let due = memory.posted.is_none_or(|(at, end)| end || slot.ms() - at.ms() >= RESEND_MS);
                if memory.since.is_none() || memory.posted.is_some_and(|(_, end)| end) {
                    // A new evaluator without the state begins anew; with it, it goes on.
                    let begun = Timestamp(EPOCH_MS + planned.episodes[episode].0);
                    memory.since = Some(if memory.knows { begun } else { slot });
                }
                memory.knows = true;
                if due {
                    let until = Some(Timestamp(slot.ms() + VALID_MS));
                    let posted = posted(&planned.labels(), memory.since, until, Some(slot));
                    memory.posted = Some((slot, false));
                    self.post_evaluated(peer, alert, episode, true, posted);
                }
            }
            None => {
                let ended = planned.ended_before(offset);
                let told_long = ended.is_none_or(|end| offset - planned.episodes[end].1 > END_TOLD_MS);
                let due = memory.posted.is_none_or(|(at, end)| !end || slot.ms() - at.ms() >= RESEND_MS);
                if let (Some(episode), true, true, false) = (ended, memory.knows, due, told_long) {
                    let posted = posted(&planned.labels(), memory.since, Some(slot), Some(slot));
                    memory.posted = Some((slot, true));
                    self.post_evaluated(peer, alert, episode, false, posted);
                }
            }
        }
        self.paging().memory.insert(key, memory);
    }

    /// A client says what it has to say, to whichever peer it reaches.
    pub(super) fn client(&mut self, alert: usize) {
        self.schedule(self.now + CLIENT_PERIOD, Event::Paging(PagingEvent::Client { alert }));
        let offset = (self.now / MS) as i64;
        let planned = self.paging().alerts[alert].clone();
        let running: Vec<usize> = (0..self.peers.len())
            .filter(|peer| self.peers[*peer].mind.is_some() && self.peers[*peer].paused_until <= self.now)
            .collect();
        if running.is_empty() {
            return;
        }
        let peer = running[self.rng.random_range(0..running.len())];
        let wall = self.wall();
        if let Some(episode) = planned.episode_at(offset) {
            let since = Timestamp(EPOCH_MS + planned.episodes[episode].0);
            let until = Timestamp(wall.ms() + VALID_MS);
            self.post(peer, alert, episode, true, posted(&planned.labels(), Some(since), Some(until), None));
        } else if let Some(episode) = planned.ended_before(offset).filter(|_| !planned.ends_silently) {
            let (begin, end) = planned.episodes[episode];
            if offset - end <= END_TOLD_MS {
                let (since, until) = (Timestamp(EPOCH_MS + begin), Timestamp(EPOCH_MS + end));
                self.post(peer, alert, episode, false, posted(&planned.labels(), Some(since), Some(until), None));
            }
        }
    }

    /// An evaluator posts at once, unless it stands still first.
    fn post_evaluated(&mut self, peer: usize, alert: usize, episode: usize, fires: bool, posted: PostedAlert) {
        let now = (self.now / MS) as i64;
        let (_, end) = self.paging().alerts[alert].episodes[episode];
        let longest = self.paging().evaluators_pause_ms;
        // Worth while only where the truth changes meanwhile.
        if longest > 0 && fires && (now..now + longest / 2).contains(&end) {
            let span = self.rng.random_range(longest / 2..longest) as u64 * MS;
            self.note_fault(self.now);
            self.strike(Fault::Pause(peer, span));
        }
        if self.peers[peer].paused_until <= self.now {
            return self.post(peer, alert, episode, fires, posted);
        }
        let boot = self.peers[peer].boot;
        let post = Box::new(Post { peer, boot, alert, episode, fires, posted });
        self.schedule(self.now, Event::Paging(PagingEvent::Post(post)));
    }

    pub(super) fn post(&mut self, peer: usize, alert: usize, episode: usize, fires: bool, posted: PostedAlert) {
        if self.verbose {
            println!("{:9.3} s {peer} is posted {alert}: fires {fires}, {posted:?}", self.now as f64 / 1e9);
        }
        let paging = self.paging();
        paging.token_count += 1;
        let token = paging.token_count;
        paging.posting.insert(token, Posting { alert, episode, fires });
        self.feed(peer, PeerInput::Alerting(Input::Post { token, alerts: vec![posted] }));
    }

    /// A post was acknowledged: from now on it must not be lost.
    pub(super) fn posted(&mut self, token: u64) {
        let now = self.now;
        let paging = self.paging();
        let Some(Posting { alert, episode, fires }) = paging.posting.remove(&token) else { return };
        let acknowledged = &mut paging.alerts[alert].acknowledged;
        acknowledged.entry((episode, fires)).or_insert(now);
    }
}

fn posted(
    labels: &Labels,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    evaluated_at: Option<Timestamp>,
) -> PostedAlert {
    let own_rule = evaluated_at.is_some();
    PostedAlert {
        labels: labels.clone(),
        starts_at: since,
        ends_at: until,
        own_rule,
        evaluated_at,
        ..PostedAlert::default()
    }
}
