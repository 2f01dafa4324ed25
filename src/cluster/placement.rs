//! Which peer ranks where for which shard: rendezvous hashing, in integers.
//!
//! Every ready peer scores every shard; the score is the largest of `weight` hashes, so a peer of twice the weight wins
//! twice as many shards. Ranks go by score, spread over zones: the best of every zone before the second of any. Rank 0
//! owns, ranks 0 … R−1 hold. Only the first [`RANKS_KEPT`] are kept; a join compares one score a shard with them, a
//! leave rescores the shards that had the leaver among them.
//!
//! Why the kept ranks are enough for a join: a newcomer can push others down, but lift nobody who was not among them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, SHARD_COUNT, ShardId};
use xxhash_rust::xxh3::xxh3_64;

/// How many ranks of a shard are known: more than any replication factor with two successors.
pub const RANKS_KEPT: usize = 5;

/// A peer that can own and hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub id: PeerId,
    /// Its failure domain.
    pub zone: String,
    /// Its share, 1–64.
    pub weight: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ranked {
    score: u64,
    member: u16,
}

/// The ranks of all shards over one set of candidates.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// By slot; a slot is free once its candidate left.
    candidates: Vec<Option<Candidate>>,
    by_id: BTreeMap<PeerId, u16>,
    /// Whether some candidate names a zone.
    zoned: bool,
    /// [`RANKS_KEPT`] for each shard, best first, then [`NOBODY`]: one block, so that a changed table is one copy.
    ranks: Vec<Ranked>,
    /// By slot, where scores are shared: all scores of a candidate.
    scores: Vec<Option<Arc<[u64]>>>,
}

const NOBODY: Ranked = Ranked { score: 0, member: u16::MAX };

/// One peer's score for one shard. Changing it moves shards: it belongs to the placement version.
fn score(id: PeerId, weight: u8, shard: u16) -> u64 {
    let mut key = [0u8; 19];
    key[..16].copy_from_slice(&id.to_bytes());
    key[16..18].copy_from_slice(&shard.to_le_bytes());
    (0..weight.max(1))
        .map(|copy| {
            key[18] = copy;
            xxh3_64(&key)
        })
        .max()
        .expect("at least one copy")
}

fn fill(kept: &mut [Ranked], ranked: &[Ranked]) {
    kept.fill(NOBODY);
    kept[..ranked.len()].copy_from_slice(ranked);
}

impl Placement {
    /// Nobody yet.
    pub fn new() -> Placement {
        Placement { ranks: vec![NOBODY; SHARD_COUNT * RANKS_KEPT], ..Placement::default() }
    }

    /// The placement over some candidates.
    pub fn of(candidates: impl IntoIterator<Item = Candidate>) -> Placement {
        let mut placement = Placement::new();
        for candidate in candidates {
            placement.insert(candidate);
        }
        placement
    }

    /// The candidates, by id.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.by_id.values().filter_map(|&member| self.candidates[usize::from(member)].as_ref())
    }

    /// Whether a peer is a candidate.
    pub fn contains(&self, peer: PeerId) -> bool {
        self.by_id.contains_key(&peer)
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Makes the candidates these; does nothing for those that stay as they are.
    pub fn update(&mut self, candidates: &[Candidate]) {
        self.update_with(candidates, |_| None);
    }

    fn update_with(&mut self, candidates: &[Candidate], mut scores: impl FnMut(&Candidate) -> Option<Arc<[u64]>>) {
        let wanted: BTreeMap<PeerId, &Candidate> = candidates.iter().map(|c| (c.id, c)).collect();
        let outdated = self.candidates().filter(|known| wanted.get(&known.id).is_none_or(|want| want != known));
        let outdated: Vec<PeerId> = outdated.map(|known| known.id).collect();
        self.remove_all(&outdated);
        for candidate in candidates {
            if !self.by_id.contains_key(&candidate.id) {
                self.insert_scored(candidate.clone(), scores(candidate));
            }
        }
    }

    /// Adds a candidate; replaces one of the same id.
    pub fn insert(&mut self, candidate: Candidate) {
        self.insert_scored(candidate, None);
    }

    fn insert_scored(&mut self, candidate: Candidate, scores: Option<Arc<[u64]>>) {
        self.remove(candidate.id);
        let free = self.candidates.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.candidates.push(None);
            self.scores.push(None);
            self.candidates.len() - 1
        });
        let member = u16::try_from(slot).expect("a mesh has fewer than 65,536 peers");
        let (id, weight) = (candidate.id, candidate.weight);
        self.by_id.insert(id, member);
        self.zoned |= !candidate.zone.is_empty();
        self.candidates[slot] = Some(candidate);
        self.scores[slot].clone_from(&scores);
        let mut ranks = std::mem::take(&mut self.ranks);
        let mut all = Vec::with_capacity(RANKS_KEPT + 1);
        for (shard, kept) in ranks.chunks_exact_mut(RANKS_KEPT).enumerate() {
            let fresh = scores.as_ref().map_or_else(|| score(id, weight, shard as u16), |scores| scores[shard]);
            // Nobody is lifted by a newcomer: one that is worse than the last of those kept changes nothing.
            let last = kept[RANKS_KEPT - 1];
            if !self.zoned && last != NOBODY && fresh < self.scored(last, shard).score {
                continue;
            }
            all.clear();
            all.extend(kept.iter().filter(|ranked| **ranked != NOBODY).map(|ranked| self.scored(*ranked, shard)));
            all.push(Ranked { score: fresh, member });
            self.order(&mut all);
            fill(kept, &all);
        }
        self.ranks = ranks;
    }

    /// With its score: a table made out of a shared order has none of its own.
    fn scored(&self, ranked: Ranked, shard: usize) -> Ranked {
        let shared = self.scores[usize::from(ranked.member)].as_ref().map(|scores| scores[shard]);
        Ranked { score: shared.unwrap_or(ranked.score), ..ranked }
    }

    /// Removes a candidate.
    pub fn remove(&mut self, id: PeerId) {
        self.remove_all(&[id]);
    }

    /// Half a mesh that is cut off goes at once: a shard that ranks several of them is scored anew once.
    fn remove_all(&mut self, ids: &[PeerId]) {
        let mut gone = vec![false; self.candidates.len()];
        for member in ids.iter().filter_map(|id| self.by_id.remove(id)).map(usize::from) {
            (self.candidates[member], self.scores[member], gone[member]) = (None, None, true);
        }
        if !gone.contains(&true) {
            return;
        }
        let mut ranks = std::mem::take(&mut self.ranks);
        for (shard, kept) in ranks.chunks_exact_mut(RANKS_KEPT).enumerate() {
            if kept.iter().any(|ranked| gone.get(usize::from(ranked.member)) == Some(&true)) {
                fill(kept, &self.rescored(shard as u16));
            }
        }
        self.ranks = ranks;
    }

    fn rescored(&self, shard: u16) -> Vec<Ranked> {
        let scored = |&member: &u16| {
            let candidate = self.candidates[usize::from(member)].as_ref().expect("by_id names living candidates");
            let shared = self.scores[usize::from(member)].as_ref().map(|scores| scores[usize::from(shard)]);
            Ranked { score: shared.unwrap_or_else(|| score(candidate.id, candidate.weight, shard)), member }
        };
        let mut all: Vec<Ranked> = self.by_id.values().map(scored).collect();
        self.order(&mut all);
        all
    }

    fn candidate(&self, member: u16) -> &Candidate {
        self.candidates[usize::from(member)].as_ref().expect("ranks name living candidates")
    }

    /// Best of every zone first, then second of every zone, each level by score; ties by id. Cuts to what is kept.
    fn order(&self, ranked: &mut Vec<Ranked>) {
        let better = |a: &Ranked, b: &Ranked| {
            b.score.cmp(&a.score).then_with(|| self.candidate(a.member).id.cmp(&self.candidate(b.member).id))
        };
        if !self.zoned && ranked.len() > 2 * RANKS_KEPT {
            ranked.select_nth_unstable_by(RANKS_KEPT - 1, better);
            ranked.truncate(RANKS_KEPT);
        }
        ranked.sort_unstable_by(better);
        if self.zoned {
            let mut seen: Vec<(&str, usize)> = Vec::new();
            let mut leveled: Vec<(usize, Ranked)> = Vec::with_capacity(ranked.len());
            for &entry in ranked.iter() {
                let zone = self.candidate(entry.member).zone.as_str();
                let level = match seen.iter_mut().find(|(known, _)| *known == zone) {
                    Some((_, count)) => {
                        *count += 1;
                        *count
                    }
                    None => {
                        seen.push((zone, 0));
                        0
                    }
                };
                leveled.push((level, entry));
            }
            leveled.sort_by_key(|(level, _)| *level);
            *ranked = leveled.into_iter().map(|(_, entry)| entry).collect();
        }
        ranked.truncate(RANKS_KEPT);
    }

    /// The peers of a shard, best first; at most [`RANKS_KEPT`].
    pub fn ranks(&self, shard: ShardId) -> impl Iterator<Item = PeerId> + '_ {
        let first = usize::from(shard.0) * RANKS_KEPT;
        let kept = self.ranks.get(first..first + RANKS_KEPT).unwrap_or_default();
        kept.iter().filter(|ranked| **ranked != NOBODY).map(|ranked| self.candidate(ranked.member).id)
    }

    /// Whose a shard is.
    pub fn owner(&self, shard: ShardId) -> Option<PeerId> {
        self.ranks(shard).next()
    }

    /// The best of all candidates that satisfy a condition, however far behind the ranks kept; zones do not count.
    pub fn best_of(&self, shard: ShardId, able: impl Fn(&PeerId) -> bool) -> Option<PeerId> {
        let able = self.candidates().filter(|candidate| able(&candidate.id));
        able.max_by_key(|c| (score(c.id, c.weight, shard.0), c.id)).map(|candidate| candidate.id)
    }

    /// Who shares a shard with a peer among the first `count` ranks.
    pub fn partners(&self, peer: PeerId, count: usize) -> BTreeSet<PeerId> {
        let Some(&member) = self.by_id.get(&peer) else { return BTreeSet::new() };
        let mut partners = BTreeSet::new();
        for kept in self.ranks.chunks_exact(RANKS_KEPT) {
            let first = &kept[..count.min(RANKS_KEPT)];
            if first.iter().any(|ranked| ranked.member == member) {
                partners.extend(first.iter().filter(|ranked| **ranked != NOBODY).map(|ranked| ranked.member));
            }
        }
        partners.into_iter().map(|member| self.candidate(member).id).filter(|id| *id != peer).collect()
    }

    /// A peer's rank for a shard, if it is among those kept.
    pub fn rank_of(&self, shard: ShardId, peer: PeerId) -> Option<usize> {
        let member = *self.by_id.get(&peer)?;
        let first = usize::from(shard.0) * RANKS_KEPT;
        self.ranks.get(first..first + RANKS_KEPT)?.iter().position(|ranked| ranked.member == member)
    }

    /// Of some shards, those for which each of some peers is among the ranks kept.
    ///
    /// One walk over the shards for all peers: asked one peer at a time this was most of what a mesh of a hundred did
    /// while it started.
    pub fn ranked_of(&self, shards: &ShardSet, peers: &[PeerId]) -> Vec<ShardSet> {
        let slots: Vec<Option<u16>> = peers.iter().map(|peer| self.by_id.get(peer).copied()).collect();
        let mut by_slot: Vec<Option<Vec<u16>>> = vec![None; self.candidates.len()];
        for slot in slots.iter().flatten() {
            by_slot[usize::from(*slot)] = Some(Vec::new());
        }
        for shard in shards.iter() {
            let first = usize::from(shard.0) * RANKS_KEPT;
            for ranked in self.ranks.get(first..first + RANKS_KEPT).unwrap_or_default() {
                if let Some(Some(theirs)) = by_slot.get_mut(usize::from(ranked.member)) {
                    theirs.push(shard.0);
                }
            }
        }
        let take = |slot: &Option<u16>| slot.and_then(|slot| by_slot[usize::from(slot)].take()).unwrap_or_default();
        slots.iter().map(take).map(ShardSet::of_rising).collect()
    }

    /// Of some shards, those for which one peer ranks before another; where neither is among the ranks kept, by id.
    pub fn before(&self, shards: &ShardSet, one: PeerId, other: PeerId) -> ShardSet {
        let slot = |peer| self.by_id.get(&peer).copied();
        let (one_at, other_at) = (slot(one), slot(other));
        let rank = |kept: &[Ranked], slot: Option<u16>| {
            slot.and_then(|slot| kept.iter().position(|ranked| ranked.member == slot)).unwrap_or(usize::MAX)
        };
        let is_before = |shard: &ShardId| {
            let first = usize::from(shard.0) * RANKS_KEPT;
            let kept = self.ranks.get(first..first + RANKS_KEPT).unwrap_or_default();
            (rank(kept, one_at), one) < (rank(kept, other_at), other)
        };
        shards.iter().filter(is_before).collect()
    }

    /// The shards for which a peer is among the first `count`.
    pub fn shards_within(&self, peer: PeerId, count: usize) -> ShardSet {
        let Some(&member) = self.by_id.get(&peer) else { return ShardSet::default() };
        let within = |kept: &[Ranked]| kept.iter().take(count).any(|ranked| ranked.member == member);
        self.ranks
            .chunks_exact(RANKS_KEPT)
            .enumerate()
            .filter(|(_, kept)| within(kept))
            .map(|(s, _)| ShardId(s as u16))
            .collect()
    }
}

/// Rank tables and scores shared by peers of one process that see the same candidates: a simulator's.
#[derive(Debug, Default)]
pub struct RankTables(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    tables: BTreeMap<u64, Weak<Placement>>,
    /// Everybody who was ever a candidate, with its weight, and its place in `scores`.
    known: BTreeMap<(PeerId, u8), u16>,
    scores: Vec<(PeerId, Arc<[u64]>)>,
    /// For each shard all of them, best first: without zones a table is those of them that are candidates.
    order: Vec<Vec<u16>>,
}

impl Shared {
    /// A candidate's place among everybody.
    fn place(&mut self, candidate: &Candidate) -> usize {
        let (id, weight) = (candidate.id, candidate.weight);
        if let Some(known) = self.known.get(&(id, weight)) {
            return usize::from(*known);
        }
        let place = u16::try_from(self.scores.len()).expect("a simulator has fewer than 65,536 peers");
        let scores: Arc<[u64]> = (0..SHARD_COUNT as u16).map(|shard| score(id, weight, shard)).collect();
        self.order.resize_with(SHARD_COUNT, Vec::new);
        for (shard, order) in self.order.iter_mut().enumerate() {
            let is_better = |other: &u16| {
                let (other, theirs) = &self.scores[usize::from(*other)];
                (theirs[shard], id) > (scores[shard], *other)
            };
            order.insert(order.partition_point(is_better), place);
        }
        self.scores.push((id, scores));
        self.known.insert((id, weight), place);
        usize::from(place)
    }

    /// The table over candidates without zones.
    fn ranked(&mut self, candidates: &[Candidate]) -> Placement {
        let places: Vec<usize> = candidates.iter().map(|candidate| self.place(candidate)).collect();
        let mut slots = vec![NOBODY.member; self.scores.len()];
        places.iter().enumerate().for_each(|(slot, place)| slots[*place] = slot as u16);
        let mut ranks = Vec::with_capacity(SHARD_COUNT * RANKS_KEPT);
        for order in &self.order {
            let ranked = order.iter().map(|place| slots[usize::from(*place)]).filter(|slot| *slot != NOBODY.member);
            ranks.extend(ranked.take(RANKS_KEPT).map(|member| Ranked { score: 0, member }));
            ranks.resize(ranks.len().next_multiple_of(RANKS_KEPT), NOBODY);
        }
        ranks.resize(SHARD_COUNT * RANKS_KEPT, NOBODY);
        Placement {
            by_id: candidates.iter().enumerate().map(|(slot, candidate)| (candidate.id, slot as u16)).collect(),
            candidates: candidates.iter().cloned().map(Some).collect(),
            zoned: false,
            ranks,
            scores: places.iter().map(|place| Some(Arc::clone(&self.scores[*place].1))).collect(),
        }
    }
}

impl RankTables {
    /// The table over some candidates, each once: one that exists, or one made from `before`.
    pub fn table(&self, before: &Placement, candidates: &[Candidate]) -> Arc<Placement> {
        let mut shared = self.0.lock().expect("no code that holds this lock panics");
        let key: Vec<u8> = candidates
            .iter()
            .flat_map(|c| [&c.id.to_bytes()[..], c.zone.as_bytes(), &[0xff, c.weight]].concat())
            .collect();
        let key = xxh3_64(&key);
        if let Some(known) = shared.tables.get(&key).and_then(Weak::upgrade)
            && known.candidates().eq(candidates.iter())
        {
            return known;
        }
        let table = if candidates.iter().all(|candidate| candidate.zone.is_empty()) {
            shared.ranked(candidates)
        } else {
            let mut table = before.clone();
            table.update_with(candidates, |candidate| {
                let place = shared.place(candidate);
                Some(Arc::clone(&shared.scores[place].1))
            });
            table
        };
        let table = Arc::new(table);
        shared.tables.insert(key, Arc::downgrade(&table));
        if shared.tables.len().is_multiple_of(1024) {
            shared.tables.retain(|_, table| table.strong_count() > 0);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: u128, zone: &str, weight: u8) -> Candidate {
        Candidate { id: PeerId(id), zone: zone.to_owned(), weight }
    }

    fn first(placement: &Placement, shard: u16) -> Vec<u128> {
        placement.ranks(ShardId(shard)).map(|id| id.0).collect()
    }

    /// A changed figure here moves shards of running meshes: raise the placement version instead.
    #[test]
    fn ranks_are_golden() {
        let placement = Placement::of((1..=6).map(|id| candidate(id, "", 4)));
        let table: Vec<_> = [0, 1, 2, 8191, 16383].map(|shard| first(&placement, shard)).into();
        expect_test::expect!["[[5, 4, 2, 6, 3], [6, 2, 1, 3, 5], [1, 2, 6, 5, 3], [2, 6, 5, 4, 3], [2, 3, 6, 5, 4]]"]
            .assert_eq(&format!("{table:?}"));
    }

    #[test]
    fn shares_follow_weights() {
        let placement = Placement::of([candidate(1, "", 4), candidate(2, "", 4), candidate(3, "", 8)]);
        let owned = |id| placement.shards_within(PeerId(id), 1).len();
        assert_eq!(owned(1) + owned(2) + owned(3), SHARD_COUNT);
        for (id, share) in [(1, 4096), (2, 4096), (3, 8192)] {
            assert!((share * 95 / 100..share * 105 / 100).contains(&owned(id)), "{id}: {}", owned(id));
        }
    }

    #[test]
    fn the_second_rank_is_in_another_zone() {
        let peers = [(1, "a"), (2, "a"), (3, "a"), (4, "b")];
        let placement = Placement::of(peers.map(|(id, zone)| candidate(id, zone, 4)));
        for shard in 0..SHARD_COUNT as u16 {
            let ranks = first(&placement, shard);
            assert!(ranks[..2].contains(&4), "shard {shard}: {ranks:?}");
        }
    }

    #[test]
    fn a_join_moves_only_what_it_takes() {
        let before = Placement::of((1..=9).map(|id| candidate(id, "", 4)));
        let mut after = before.clone();
        after.insert(candidate(10, "", 4));
        let moved = (0..SHARD_COUNT as u16).filter(|&shard| first(&before, shard)[0] != first(&after, shard)[0]);
        let moved: Vec<u16> = moved.collect();
        assert!(moved.iter().all(|&shard| first(&after, shard)[0] == 10));
        assert!((1400..1900).contains(&moved.len()), "{} of 16384", moved.len());
    }

    #[test]
    fn shared_tables_are_those_that_each_peer_would_make() {
        let tables = RankTables::default();
        let candidates: Vec<Candidate> = (1..=9).map(|id| candidate(id, "", 4)).collect();
        let before = tables.table(&Placement::new(), &candidates[..7]);
        let both = [tables.table(&before, &candidates), tables.table(&Placement::new(), &candidates)];
        assert!(Arc::ptr_eq(&both[0], &both[1]));
        let less = tables.table(&both[0], &candidates[2..]);
        // One with a zone and another weight, on top of a table that was made without zones.
        let zoned: Vec<Candidate> = (3..=10).map(|id| candidate(id, if id > 8 { "a" } else { "" }, id as u8)).collect();
        let apart = tables.table(&less, &zoned);
        for (table, fresh) in [(&both[0], &candidates[..]), (&less, &candidates[2..]), (&apart, &zoned[..])] {
            let fresh = Placement::of(fresh.iter().cloned());
            assert!((0..SHARD_COUNT as u16).all(|shard| first(table, shard) == first(&fresh, shard)));
        }
        let of_one = less.partners(PeerId(5), 2);
        assert_eq!(of_one.len(), 6, "in a small mesh everybody shares a shard with everybody");
    }

    #[test]
    fn half_a_mesh_that_goes_at_once_leaves_what_one_by_one_would() {
        let candidates: Vec<Candidate> = (1..=40).map(|id| candidate(id, "", 4)).collect();
        let mut placement = Placement::of(candidates.iter().cloned());
        placement.update(&candidates[20..]);
        let fresh = Placement::of(candidates[20..].iter().cloned());
        assert!((0..SHARD_COUNT as u16).all(|shard| first(&placement, shard) == first(&fresh, shard)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Joins and leaves in any order end where a fresh calculation does.
        #[test]
        fn incremental_equals_fresh(steps in prop::collection::vec((1u128..9, 0usize..3, 1u8..5, any::<bool>()), 1..14)) {
            let mut placement = Placement::new();
            let mut members = BTreeMap::new();
            for (id, zone, weight, joins) in steps {
                if joins {
                    let candidate = candidate(id, ["", "a", "b"][zone], weight);
                    members.insert(id, candidate.clone());
                    placement.insert(candidate);
                } else {
                    members.remove(&id);
                    placement.remove(PeerId(id));
                }
            }
            let fresh = Placement::of(members.into_values());
            for shard in (0..SHARD_COUNT as u16).step_by(61) {
                prop_assert_eq!(first(&placement, shard), first(&fresh, shard));
            }
        }
    }
}
