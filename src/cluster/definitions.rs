//! What the configurations of the peers say, as digests, and which version of each piece the mesh runs.
//!
//! Every peer publishes one digest for each scrape job, for each rule group, for its external labels and for its
//! alerting configuration. The version of a piece that the mesh runs is the one that most ready peers publish, and not
//! to have the piece is a version like any other. Between two with as many votes the one that changed last stands: the
//! operator who reloads one of two peers means what was written last. Only peers that have the version that stands
//! start slots of that piece; the others hold and answer.
//!
//! A peer whose list has not been read yet abstains. It is not counted out either: it would be known within a second,
//! and two peers that count each other out would leave a target to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use promesh_model::{Labels, PeerId, Timestamp, codec};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Pieces of one configuration that are published; those beyond run without a vote.
const PIECES_MAX: usize = 20_000;
/// Pieces that a configuration no longer has and that are remembered, so that their removal has a date.
const REMOVED_MAX: usize = 1_000;

/// A piece of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Piece {
    /// A scrape job, by name.
    Job(String),
    /// A rule group.
    Group {
        /// Its file, relative to the configuration's folder.
        file: String,
        /// Its name.
        name: String,
    },
    /// The labels that leave with every sample and alert.
    ExternalLabels,
    /// Routes, receivers, templates: all of the alerting configuration.
    Alerting,
}

/// A piece's identity in schedules, alike on all peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PieceId(pub u64);

impl Piece {
    /// Its identity.
    pub fn id(&self) -> PieceId {
        PieceId(xxh3_64(&codec::encode(self)))
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Piece::Job(name) => write!(f, "scrape job {name}"),
            Piece::Group { file, name } => write!(f, "rule group {file};{name}"),
            Piece::ExternalLabels => f.write_str("external_labels"),
            Piece::Alerting => f.write_str("alerting"),
        }
    }
}

/// One peer's version of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the content as meant; none when the piece was removed.
    pub digest: Option<u128>,
    /// When that peer's content became this; a restart is no change.
    pub changed: Timestamp,
}

/// What one peer's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    versions: BTreeMap<Piece, Version>,
    external_labels: Labels,
}

impl Digests {
    /// The digests of a configuration read at `now`; pieces that are as they were `before` keep their date.
    pub fn of(
        pieces: impl IntoIterator<Item = (Piece, u128)>,
        external_labels: Labels,
        before: &Digests,
        now: Timestamp,
    ) -> Digests {
        let labels = (Piece::ExternalLabels, external_labels.stable_hash());
        let mut versions = BTreeMap::new();
        for (piece, digest) in [labels].into_iter().chain(pieces).take(PIECES_MAX) {
            let digest = Some(digest);
            let kept = before.versions.get(&piece).filter(|known| known.digest == digest);
            versions.insert(piece, kept.copied().unwrap_or(Version { digest, changed: now }));
        }
        let gone = before.versions.iter().filter(|(piece, _)| !versions.contains_key(*piece));
        let removed = |(piece, known): (&Piece, &Version)| {
            let changed = if known.digest.is_none() { known.changed } else { now };
            (piece.clone(), Version { digest: None, changed })
        };
        let mut removed: Vec<(Piece, Version)> = gone.map(removed).collect();
        removed.sort_by_key(|(_, version)| std::cmp::Reverse(version.changed));
        versions.extend(removed.into_iter().take(REMOVED_MAX));
        Digests { versions, external_labels }
    }

    /// As kept on disk.
    pub fn restored(versions: impl IntoIterator<Item = (Piece, Version)>) -> Digests {
        Digests { versions: versions.into_iter().collect(), external_labels: Labels::default() }
    }

    /// Every piece with its version; removed ones among them.
    pub fn versions(&self) -> impl Iterator<Item = (&Piece, &Version)> {
        self.versions.iter()
    }

    /// The digest of a piece; none if this configuration does not have it.
    pub fn digest(&self, piece: &Piece) -> Option<u128> {
        self.versions.get(piece).and_then(|version| version.digest)
    }

    /// The digest of the alerting configuration; none if there is none.
    pub fn alerting(&self) -> Option<u128> {
        self.digest(&Piece::Alerting)
    }

    /// The labels that leave with every sample and alert.
    pub fn external_labels(&self) -> &Labels {
        &self.external_labels
    }

    /// One hash over all of it, dates included; zero for a peer that publishes nothing.
    pub fn root(&self) -> u128 {
        if self.versions.is_empty() { 0 } else { xxh3_128(&codec::encode(self)) }
    }

    /// One hash over what it has, whenever that changed: equal for equal configurations.
    fn content(&self) -> u128 {
        let present: Vec<(&Piece, u128)> =
            self.versions.iter().filter_map(|(piece, version)| Some((piece, version.digest?))).collect();
        xxh3_128(&codec::encode(&present))
    }

    /// When a piece became what it is; the beginning of time for one that was never there.
    fn changed(&self, piece: &Piece) -> Timestamp {
        self.versions.get(piece).map_or(Timestamp::MIN, |version| version.changed)
    }
}

/// A piece of which ready peers have different versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// Which.
    pub piece: Piece,
    /// The version that stands; none: the mesh runs without it.
    pub winner: Option<u128>,
    /// How many ready peers have that version.
    pub votes: usize,
    /// Who has another one.
    pub others: BTreeSet<PeerId>,
}

/// What the vote came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elected {
    contests: BTreeMap<PieceId, Contest>,
    /// The labels that stand; none while nobody is known to vote.
    external_labels: Option<Labels>,
}

impl Elected {
    /// The vote of some ready peers.
    pub fn of<'a>(voters: impl IntoIterator<Item = (PeerId, &'a Digests)>) -> Elected {
        // Configurations are many and alike: what counts is how many peers have each.
        let mut camps: BTreeMap<u128, Vec<(PeerId, &Digests)>> = BTreeMap::new();
        for (peer, digests) in voters.into_iter().filter(|(_, digests)| !digests.versions.is_empty()) {
            camps.entry(digests.content()).or_default().push((peer, digests));
        }
        let camps: Vec<Vec<(PeerId, &Digests)>> = camps.into_values().collect();
        let labels_of = |winner| {
            let has = |camp: &&Vec<(PeerId, &Digests)>| camp[0].1.digest(&Piece::ExternalLabels) == winner;
            camps.iter().find(has).map(|camp| camp[0].1.external_labels.clone())
        };
        if camps.len() < 2 {
            let external_labels = camps.first().map(|camp| camp[0].1.external_labels.clone());
            return Elected { contests: BTreeMap::new(), external_labels };
        }
        let pieces: BTreeSet<&Piece> = camps.iter().flat_map(|camp| camp[0].1.versions.keys()).collect();
        let contests: BTreeMap<PieceId, Contest> =
            pieces.into_iter().filter_map(|piece| contest(piece, &camps)).map(|c| (c.piece.id(), c)).collect();
        let winner = match contests.get(&Piece::ExternalLabels.id()) {
            Some(contest) => contest.winner,
            None => camps[0][0].1.digest(&Piece::ExternalLabels),
        };
        let external_labels = labels_of(winner);
        Elected { contests, external_labels }
    }

    /// The contest over a piece, if ready peers differ.
    pub fn contest(&self, piece: PieceId) -> Option<&Contest> {
        self.contests.get(&piece)
    }

    /// All contests.
    pub fn contests(&self) -> impl Iterator<Item = &Contest> {
        self.contests.values()
    }

    /// Whether all ready peers agree.
    pub fn is_unanimous(&self) -> bool {
        self.contests.is_empty()
    }

    /// Whether a peer may act for a piece: it has the version that stands, or nobody differs.
    pub fn may_act(&self, peer: PeerId, piece: PieceId) -> bool {
        self.contests.get(&piece).is_none_or(|contest| !contest.others.contains(&peer))
    }

    /// Pieces of which a peer has another version than the one that stands.
    pub fn differs(&self, peer: PeerId) -> impl Iterator<Item = &Piece> {
        self.contests.values().filter(move |contest| contest.others.contains(&peer)).map(|contest| &contest.piece)
    }

    /// The external labels that stand.
    pub fn external_labels(&self) -> Option<&Labels> {
        self.external_labels.as_ref()
    }
}

fn contest(piece: &Piece, camps: &[Vec<(PeerId, &Digests)>]) -> Option<Contest> {
    let mut votes: BTreeMap<Option<u128>, (usize, Timestamp)> = BTreeMap::new();
    for camp in camps {
        let changed = camp.iter().map(|(_, digests)| digests.changed(piece)).max().expect("no camp is empty");
        let (count, newest) = votes.entry(camp[0].1.digest(piece)).or_insert((0, Timestamp::MIN));
        *count += camp.len();
        *newest = changed.max(*newest);
    }
    if votes.len() < 2 {
        return None;
    }
    // Two with as many votes that changed in the same millisecond: any rule will do that all peers apply alike.
    let (&winner, &(votes, _)) =
        votes.iter().max_by_key(|(digest, (count, newest))| (*count, *newest, **digest)).expect("two at least");
    let differ = camps.iter().filter(|camp| camp[0].1.digest(piece) != winner);
    let others = differ.flat_map(|camp| camp.iter().map(|(peer, _)| *peer)).collect();
    Some(Contest { piece: piece.clone(), winner, votes, others })
}

/// The lists that were read, by peer, and which were asked for.
#[derive(Clone, Debug, Default)]
pub struct KnownDigests(BTreeMap<PeerId, (u128, Arc<Digests>)>, BTreeMap<u128, Arc<Digests>>);

impl KnownDigests {
    /// Takes in what a peer published.
    pub fn insert(&mut self, peer: PeerId, digests: Digests) {
        let (root, digests) = (digests.root(), Arc::new(digests));
        self.1.insert(root, Arc::clone(&digests));
        self.0.insert(peer, (root, digests));
        self.forget_unused();
    }

    /// Takes a list that has the root of a peer's record, whoever published it; says whether there is one.
    pub fn adopt(&mut self, peer: PeerId, root: u128) -> bool {
        let known = self.1.get(&root).cloned();
        if let Some(digests) = &known {
            self.0.insert(peer, (root, Arc::clone(digests)));
        }
        known.is_some()
    }

    /// A list that may be others' as well.
    pub fn offer(&mut self, digests: &Arc<Digests>) {
        self.1.insert(digests.root(), Arc::clone(digests));
        self.forget_unused();
    }

    fn forget_unused(&mut self) {
        if self.1.len() > self.0.len() + 16 {
            self.1.retain(|_, digests| Arc::strong_count(digests) > 1);
        }
    }

    /// The newest list of a peer.
    pub fn of(&self, peer: PeerId) -> Option<&Arc<Digests>> {
        self.0.get(&peer).map(|(_, digests)| digests)
    }

    /// Whether the list behind a peer's root is here. A peer that publishes nothing has nothing to be read.
    pub fn is_current(&self, peer: PeerId, root: u128) -> bool {
        root == 0 || self.0.get(&peer).is_some_and(|(known, _)| *known == root)
    }

    /// Forgets peers that are no members any more.
    pub fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.0.retain(|peer, _| keep(*peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> Piece {
        Piece::Job(name.to_owned())
    }

    fn digests(jobs: &[(&str, u128)], changed: i64) -> Digests {
        let pieces = jobs.iter().map(|(name, digest)| (job(name), *digest));
        Digests::of(pieces, Labels::default(), &Digests::default(), Timestamp(changed))
    }

    fn check(votes: &[(u128, &Digests)], piece: &str, winner: Option<u128>, others: &[u128]) {
        let elected = Elected::of(votes.iter().map(|(peer, digests)| (PeerId(*peer), *digests)));
        let contest = elected.contest(job(piece).id()).expect("they differ");
        assert_eq!(contest.winner, winner);
        assert_eq!(contest.others.iter().map(|peer| peer.0).collect::<Vec<_>>(), others);
        for (peer, _) in votes {
            assert_eq!(elected.may_act(PeerId(*peer), job(piece).id()), !others.contains(peer));
        }
    }

    #[test]
    fn most_ready_peers_decide_and_absence_is_a_vote() {
        let (old, new) = (digests(&[("a", 1), ("b", 7)], 5), digests(&[("a", 2), ("b", 7)], 9));
        check(&[(1, &old), (2, &new), (3, &old)], "a", Some(1), &[2]);
        check(&[(1, &new), (2, &new), (3, &old)], "a", Some(2), &[3]);
        let without = digests(&[("a", 1)], 5);
        check(&[(1, &without), (2, &without), (3, &old)], "b", None, &[3]);
        let elected = Elected::of([(PeerId(1), &old), (PeerId(2), &new)]);
        assert!(elected.contest(job("b").id()).is_none(), "all have the same");
        assert_eq!(elected.differs(PeerId(1)).collect::<Vec<_>>(), [&job("a")]);
    }

    #[test]
    fn between_two_the_one_that_changed_last_stands_also_when_it_was_a_removal() {
        let old = digests(&[("a", 1), ("b", 7)], 5);
        let changed = Digests::of([(job("a"), 2), (job("b"), 7)], Labels::default(), &old, Timestamp(9));
        check(&[(1, &old), (2, &changed)], "a", Some(2), &[1]);
        let removed = Digests::of([(job("b"), 7)], Labels::default(), &old, Timestamp(9));
        check(&[(1, &old), (2, &removed)], "a", None, &[1]);
        // Never to have had it is older than anything.
        let never = digests(&[("b", 7)], 99);
        check(&[(1, &old), (2, &never)], "a", Some(1), &[2]);
    }

    #[test]
    fn a_restart_is_no_change_and_a_removal_keeps_its_date() {
        let before = digests(&[("a", 1), ("b", 2)], 5);
        let again = Digests::of([(job("a"), 1), (job("b"), 2)], Labels::default(), &before, Timestamp(80));
        assert_eq!((again.root(), &again), (before.root(), &before));
        let removed = Digests::of([(job("a"), 1)], Labels::default(), &again, Timestamp(90));
        let later = Digests::of([(job("a"), 1)], Labels::default(), &removed, Timestamp(100));
        assert_eq!(later.versions.get(&job("b")), Some(&Version { digest: None, changed: Timestamp(90) }));
        assert_ne!(removed.root(), again.root());
        assert_eq!(Digests::default().root(), 0);
    }

    #[test]
    fn external_labels_are_the_majoritys_and_one_without_a_list_abstains() {
        let labels = |value: &str| Labels::from_pairs([("region", value)]);
        let of = |value: &str| Digests::of([], labels(value), &Digests::default(), Timestamp(1));
        let (eu, us, none) = (of("eu"), of("us"), Digests::default());
        let elected = Elected::of([(PeerId(1), &eu), (PeerId(2), &us), (PeerId(3), &eu), (PeerId(4), &none)]);
        assert_eq!(elected.external_labels(), Some(&labels("eu")));
        assert!(elected.may_act(PeerId(4), Piece::ExternalLabels.id()));
        assert!(!elected.may_act(PeerId(2), Piece::ExternalLabels.id()));
    }
}
