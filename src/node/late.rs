//! What was pushed late for windows that this peer does not claim: it has a part of them, which nobody would look for here.
//!
//! Late samples go to whoever acts for their shard now, and from there to those who hold it now. Whoever of them has not
//! the window as a whole, such as a peer that was cut off alone and took every shard, has samples that no claim speaks of:
//! reads ask those who claim the window, and comparisons are made between them. So such a peer keeps a list of what it has
//! in part, and has the others compare that with it, until as many have it as are to have copies.
//!
//! A window is on the list once it is sealed: what came for it before is in logs. Whoever compares takes what it claims
//! and, where nobody claims anything, what it holds now. A peer that cannot be asked is waited for: the list outlives
//! restarts, and is gone through again when somebody comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_cluster::PeerState;
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, Monotonic, PeerId, ShardId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::possession::Extent;
use crate::view::MeshView;

/// What not enough others have yet, is shown to them again after so long, and after twice that the next time …
const REST_MIN: Duration = Duration::from_secs(60);
/// … up to this; at once when a peer comes back, or may have missed something.
const REST_MAX: Duration = Duration::from_secs(3600);
/// While pushes for a window go on it is shown no sooner than so long after the last time.
const PAUSE: Duration = Duration::from_secs(10);
/// Windows on each of the two lists: a year of them. Of more the oldest are forgotten.
const WINDOWS_MAX: usize = 4_400;

/// From the first instant of a window to the first after it.
pub type Span = (Timestamp, Timestamp);

/// The list, as it is kept across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptParts {
    /// Pushed to, in windows that were not sealed.
    pub noted: Vec<Extent>,
    /// Had in part.
    pub parts: Vec<Extent>,
}

/// What one peer has in part.
#[derive(Clone, Debug, Default)]
pub struct LateParts {
    noted: BTreeMap<Span, ShardSet>,
    parts: BTreeMap<Span, Part>,
    /// What was shown a moment ago.
    recent: BTreeMap<Span, Monotonic>,
    changed: bool,
    forgotten: u64,
}

#[derive(Clone, Debug, Default)]
struct Part {
    shards: ShardSet,
    rest: Option<Rest>,
}

/// Not every copy was to be had: until when it is not tried again, while the others are as they were.
#[derive(Clone, Debug)]
struct Rest {
    until: Monotonic,
    lasts: Duration,
    around: Vec<(PeerId, Generation, u64)>,
}

/// Shards of a window that others are to compare with this peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Showing {
    /// The window.
    pub span: Span,
    /// Of which shards.
    pub shards: ShardSet,
    /// Everybody who is there.
    pub to: Vec<PeerId>,
}

impl LateParts {
    /// The list as it was kept.
    pub fn restored(kept: KeptParts) -> LateParts {
        let span = |extent: Extent| ((extent.from, extent.to), extent.shards);
        let part = |extent: Extent| ((extent.from, extent.to), Part { shards: extent.shards, rest: None });
        LateParts {
            noted: kept.noted.into_iter().map(span).collect(),
            parts: kept.parts.into_iter().map(part).collect(),
            ..LateParts::default()
        }
    }

    /// As it is to be kept, if that changed since this was last asked.
    pub fn to_keep(&mut self) -> Option<KeptParts> {
        let extent = |(span, shards): (&Span, &ShardSet)| Extent { from: span.0, to: span.1, shards: shards.clone() };
        std::mem::take(&mut self.changed).then(|| KeptParts {
            noted: self.noted.iter().map(extent).collect(),
            parts: self.parts.iter().map(|(span, part)| (span, &part.shards)).map(extent).collect(),
        })
    }

    /// What was to be kept could not be: it is to be kept again.
    pub fn not_kept(&mut self) {
        self.changed = true;
    }

    /// Windows that this peer has a part of.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Windows that found no room on the lists, so far.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Samples of some shards were pushed for a window.
    pub fn note(&mut self, span: Span, shards: &ShardSet) {
        let noted = self.noted.entry(span).or_default();
        if !shards.is_subset(noted) {
            noted.insert_all(shards);
            self.changed = true;
        }
        while self.noted.len() > WINDOWS_MAX {
            self.noted.pop_first();
            self.forgotten += 1;
        }
    }

    /// Looks which of the windows that are sealed by now this peer has in part. What it claims anything of is compared anyway;
    /// while somebody is away that is shown as well, since reads ask only one of two who claim the same.
    pub fn sift(&mut self, view: &MeshView, is_sealed: impl Fn(Span) -> bool) {
        let all_there = view.peers.iter().all(|peer| peer.alive && !peer.silent);
        let sealed: Vec<Span> = self.noted.keys().copied().filter(|span| is_sealed(*span)).collect();
        for span in sealed {
            let mut shards = self.noted.remove(&span).expect("just seen");
            if all_there {
                shards.remove_all(&view.own.touching(span.0, last(span)));
            }
            self.changed = true;
            if !shards.is_empty() {
                self.parts.entry(span).or_default().shards.insert_all(&shards);
            }
        }
        while self.parts.len() > WINDOWS_MAX {
            self.parts.pop_first();
            self.forgotten += 1;
        }
    }

    /// Forgets what retention drops.
    pub fn drop_before(&mut self, oldest: Timestamp) {
        let before = self.noted.len() + self.parts.len();
        self.noted.retain(|span, _| span.1 > oldest);
        self.parts.retain(|span, _| span.1 > oldest);
        self.changed |= self.noted.len() + self.parts.len() < before;
    }

    /// What others are to compare next, the newest window first.
    pub fn next(&self, view: &MeshView, now: Monotonic) -> Option<Showing> {
        let to = listeners(view);
        if to.is_empty() || self.parts.is_empty() {
            return None;
        }
        let around = around(view);
        let is_due = |(span, part): &(&Span, &Part)| match &part.rest {
            Some(rest) => rest.until <= now || rest.around != around,
            None => self.recent.get(span).is_none_or(|at| now.since(*at) >= PAUSE),
        };
        let (span, part) = self.parts.iter().rev().find(is_due)?;
        Some(Showing { span: *span, shards: part.shards.clone(), to })
    }

    /// Who was shown something answered: of which shards it has everything now, or nothing. What as many have as are to
    /// have copies is off the list.
    pub fn shown(
        &mut self,
        showing: &Showing,
        answers: &[(PeerId, Option<ShardSet>)],
        view: &MeshView,
        now: Monotonic,
    ) {
        self.recent.retain(|_, at| now.since(*at) < PAUSE);
        self.recent.insert(showing.span, now);
        let Some(part) = self.parts.get_mut(&showing.span) else { return };
        let all = answers.iter().all(|(_, answer)| answer.is_some());
        let wanted = view.replication_factor.min(1 + view.peers.len()).max(1);
        // This peer counts where it came to claim the window meanwhile.
        let own = view.own.touching(showing.span.0, last(showing.span));
        let have: Vec<&ShardSet> = answers.iter().filter_map(|(_, answer)| answer.as_ref()).chain([&own]).collect();
        let copies = |shard: &ShardId| have.iter().filter(|shards| shards.contains(*shard)).count();
        let done: ShardSet = showing.shards.iter().filter(|shard| all && copies(shard) >= wanted).collect();
        if !done.is_empty() {
            part.shards.remove_all(&done);
            self.changed = true;
        }
        if part.shards.is_empty() {
            self.parts.remove(&showing.span);
            return;
        }
        let around = around(view);
        let before = part.rest.as_ref().filter(|rest| rest.around == around);
        let lasts = before.map_or(REST_MIN, |rest| (rest.lasts * 2).min(REST_MAX));
        part.rest = Some(Rest { until: now + lasts, lasts, around });
    }
}

/// Of shards of a window that another peer has in part, those that this one is to compare with it: what it claims of them,
/// and what nobody claims and it holds now.
pub fn late_concerns(view: &MeshView, span: Span, shards: &ShardSet) -> ShardSet {
    let (from, last) = (span.0, last(span));
    let own = view.own.touching(from, last);
    let claimed = view.possession.values().fold(own.clone(), |all, held| all.union(&held.touching(from, last)));
    own.union(&view.own.open_shards().difference(&claimed)).intersection(shards)
}

fn last(span: Span) -> Timestamp {
    Timestamp(span.1.ms().saturating_sub(1))
}

/// Those that are heard and take part: who copies what it missed compares it afterwards.
fn listeners(view: &MeshView) -> Vec<PeerId> {
    let takes_part = |state| matches!(state, Some(PeerState::Ready | PeerState::Full | PeerState::Skewed));
    let heard = view.peers.iter().filter(|peer| peer.alive && !peer.silent && takes_part(peer.state));
    heard.filter(|peer| view.possession.contains_key(&peer.id)).map(|peer| peer.id).collect()
}

/// Who is there, in which of its lives, and how often it may have missed something.
fn around(view: &MeshView) -> Vec<(PeerId, Generation, u64)> {
    let there = listeners(view);
    let of = |id: &PeerId| view.peer(*id).map(|peer| (*id, peer.generation, peer.doubts));
    there.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::{held, view};
    use crate::possession::Possession;

    const WINDOW: Span = (Timestamp(100), Timestamp(200));
    const ALL: Timestamp = Timestamp::MAX;

    fn set(shards: &[u16]) -> ShardSet {
        shards.iter().map(|&shard| ShardId(shard)).collect()
    }

    fn at(s: u64) -> Monotonic {
        Monotonic(s * 1_000_000_000)
    }

    /// A peer that took every shard at 300, with a push for shard 7 in a window before.
    fn cut_off() -> (LateParts, Possession) {
        let (mut late, own) = (LateParts::default(), held(&[(300, ALL)]));
        late.note(WINDOW, &set(&[7]));
        (late, own)
    }

    #[test]
    fn what_is_pushed_for_a_claimed_window_is_in_no_part_while_all_are_there() {
        let (mut late, own) = cut_off();
        let all_there = view(own.clone(), vec![(2, true, Some(held(&[(0, ALL)])))]);
        late.note((Timestamp(300), Timestamp(400)), &set(&[7]));
        late.sift(&all_there, |span| span.1 < Timestamp(300));
        assert_eq!((late.len(), late.noted.len()), (1, 1), "the open window waits");
        late.sift(&all_there, |_| true);
        assert_eq!((late.len(), late.noted.len()), (1, 0), "and is claimed");
        late.note((Timestamp(300), Timestamp(400)), &set(&[7]));
        late.sift(&view(own, vec![(2, false, None)]), |_| true);
        assert_eq!(late.len(), 2, "somebody is not");
    }

    #[test]
    fn a_window_that_is_pushed_to_all_the_time_is_shown_now_and_then() {
        let (mut late, own) = cut_off();
        let whole = || Some(held(&[(0, ALL)]));
        let there = view(own, vec![(2, true, whole()), (3, true, whole())]);
        let mut shown = 0;
        for second in 0..30 {
            late.note(WINDOW, &set(&[7]));
            late.sift(&there, |_| true);
            if let Some(showing) = late.next(&there, at(second)) {
                shown += 1;
                let has = [2, 3].map(|peer| (PeerId(peer), Some(set(&[7]))));
                late.shown(&showing, &has, &there, at(second));
            }
        }
        assert_eq!((shown, late.len()), (3, 1));
    }

    #[test]
    fn a_part_is_shown_to_all_and_kept_until_as_many_have_it_as_are_to_have_copies() {
        let (mut late, own) = cut_off();
        late.sift(&view(own.clone(), vec![]), |_| true);
        assert!(late.next(&view(own.clone(), vec![]), at(0)).is_none(), "nobody is there");
        let whole = || Some(held(&[(0, ALL)]));
        let one_away = view(own.clone(), vec![(2, true, whole()), (3, false, whole())]);
        let showing = late.next(&one_away, at(0)).expect("one is there");
        assert_eq!(showing, Showing { span: WINDOW, shards: set(&[7]), to: vec![PeerId(2)] });
        late.shown(&showing, &[(PeerId(2), Some(set(&[7])))], &one_away, at(0));
        assert_eq!(late.len(), 1, "two are to have it");
        assert!(late.next(&one_away, at(59)).is_none() && late.next(&one_away, at(60)).is_some());
        let both = view(own, vec![(2, true, whole()), (3, true, whole())]);
        let showing = late.next(&both, at(1)).expect("somebody came back");
        late.shown(&showing, &[(PeerId(2), Some(set(&[7]))), (PeerId(3), None)], &both, at(1));
        assert_eq!(late.len(), 1, "one did not answer");
        late.shown(&showing, &[(PeerId(2), Some(set(&[7]))), (PeerId(3), Some(set(&[7])))], &both, at(2));
        assert!(late.is_empty());
    }

    #[test]
    fn a_part_outlives_a_restart() {
        let (mut late, own) = cut_off();
        late.sift(&view(own, vec![]), |_| true);
        late.note((Timestamp(300), Timestamp(400)), &set(&[8]));
        let kept = late.to_keep().expect("it changed");
        assert!(late.to_keep().is_none());
        let text = serde_json::to_string(&kept).expect("it can be written");
        let mut again = LateParts::restored(serde_json::from_str(&text).expect("and read"));
        assert_eq!((again.len(), again.noted.len()), (1, 1));
        again.drop_before(Timestamp(250));
        assert_eq!((again.len(), again.noted.len()), (0, 1), "retention drops it");
    }

    #[test]
    fn who_claims_the_window_compares_it_and_who_holds_the_shard_where_nobody_does() {
        let shards = set(&[7, 8]);
        let concerns = |own: Possession, other: Possession| {
            late_concerns(&view(own, vec![(2, true, Some(other))]), WINDOW, &shards).len()
        };
        assert_eq!(concerns(held(&[(0, ALL)]), held(&[(300, ALL)])), 2, "it claims the window");
        assert_eq!(concerns(held(&[(0, Timestamp(150))]), held(&[(300, ALL)])), 2, "a part of the window");
        assert_eq!(concerns(held(&[(300, ALL)]), held(&[(0, ALL)])), 0, "the other does");
        assert_eq!(concerns(held(&[(300, ALL)]), held(&[(300, ALL)])), 2, "nobody does");
        assert_eq!(concerns(held(&[(300, Timestamp(400))]), held(&[(300, ALL)])), 0, "nor does it hold the shards");
    }
}
