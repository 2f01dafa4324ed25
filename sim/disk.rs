//! A simulated peer's storage: a log that loses what was not synced, and what follows from it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, ShardId, Timestamp};
use promesh_node::{Belated, Digests, Possession};
use promesh_replication::{BatchHeader, Disposition, Ledger, SourceId, Standing};

/// The span of a digest.
const DIGEST_MS: i64 = 60_000;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) log: Vec<BatchHeader>,
    /// How much of the log would survive.
    pub(crate) synced: usize,
    pub(crate) possession: Possession,
    /// Whom this peer knew alive.
    pub(crate) members: Vec<PeerId>,
    /// Whom it knew besides.
    pub(crate) away: Vec<PeerId>,
    pub(crate) generation: u64,
    /// What the configuration says.
    pub(crate) digests: Digests,
}

/// Batches by slot: what a query would see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) disk: Disk,
    pub(crate) ledger: Ledger,
    pub(crate) kept: BTreeMap<(SourceId, Timestamp), BatchHeader>,
    /// Of each minute of a source, a digest of what is kept: copies are nearly always of what is there already.
    digests: BTreeMap<(SourceId, i64), u64>,
    /// The sources of which anything was ever kept, by shard, each with its newest slot.
    sources: BTreeMap<ShardId, BTreeMap<SourceId, Timestamp>>,
    pub(crate) sequence: u64,
    /// What came long after its time.
    belated: Belated,
    /// How much of the log the sync under way will have made durable.
    pub(crate) sync_began: usize,
    /// Whether nothing can be stored.
    pub(crate) refuses: bool,
    /// Whether the mind was told so.
    pub(crate) refused: bool,
}

impl Store {
    /// Opens a disk after a crash: the unsynced tail of the log is gone.
    pub(crate) fn open(mut disk: Disk) -> Store {
        disk.log.truncate(disk.synced);
        let mut store = Store::default();
        let mut newest = Timestamp::MIN;
        for header in &disk.log {
            store.keep(header);
            // The log does not say when: about when what lies beside it happened.
            newest = newest.max(header.slot);
            store.belated.note(header.shard, newest, header.slot);
        }
        store.sync_began = disk.log.len();
        store.disk = disk;
        store
    }

    /// Takes a batch that its writer sent, or that is of this peer.
    pub(crate) fn take(&mut self, header: BatchHeader, now: Timestamp) {
        self.belated.note(header.shard, now, header.slot);
        self.append(header);
    }

    fn append(&mut self, header: BatchHeader) {
        if self.keep(&header) {
            self.disk.log.push(header);
        }
    }

    /// Says whether it was news.
    fn keep(&mut self, header: &BatchHeader) -> bool {
        let key = (header.source, header.slot);
        let before = self.kept.get(&key).map(|kept| kept.order);
        match self.ledger.admit(header) {
            Disposition::Append | Disposition::Replace(_) => {
                self.put(*header);
            }
            // The values decide, alike on every peer; here the smaller order stands for the better value.
            Disposition::Late if before.is_none_or(|before| header.order < before) => self.put(*header),
            Disposition::Late | Disposition::Ignore => {}
        }
        self.kept.get(&key).map(|kept| kept.order) != before
    }

    fn put(&mut self, header: BatchHeader) {
        let minute = (header.source, header.slot.ms().div_euclid(DIGEST_MS));
        let digest = self.digests.entry(minute).or_default();
        *digest ^= hash(&header);
        if let Some(before) = self.kept.insert((header.source, header.slot), header) {
            *digest ^= hash(&before);
        }
        let newest = self.sources.entry(header.shard).or_default().entry(header.source).or_insert(header.slot);
        *newest = header.slot.max(*newest);
    }

    /// Forgets slots before an instant, as retention does.
    pub(crate) fn forget_before(&mut self, oldest: Timestamp) {
        let kept = std::mem::take(&mut self.kept);
        self.digests.clear();
        kept.into_values().filter(|header| header.slot >= oldest).for_each(|header| self.put(header));
        let log = std::mem::take(&mut self.disk.log);
        let kept = |upto: usize| log[..upto].iter().filter(|header| header.slot >= oldest).count();
        (self.disk.synced, self.sync_began) = (kept(self.disk.synced), kept(self.sync_began));
        self.disk.log = log.into_iter().filter(|header| header.slot >= oldest).collect();
    }

    pub(crate) fn sync(&mut self) {
        self.disk.synced = self.disk.log.len();
        self.sync_began = self.disk.log.len();
    }

    /// Takes a batch out of a copy; of two for one slot the better stands, as far as slots are remembered.
    pub(crate) fn copy(&mut self, header: BatchHeader) {
        match self.ledger.compare(header.source, header.shard, header.slot, header.order) {
            Standing::Better => self.append(header),
            Standing::Worse => {}
            Standing::Unknown | Standing::Same => {
                self.ledger.note_copied(header.source, header.shard, header.slot, header.order);
                self.copy_sealed(header);
            }
        }
    }

    /// Takes a batch of a slot that is not remembered: where two stand for a slot the values decide, alike on every peer.
    pub(crate) fn copy_sealed(&mut self, header: BatchHeader) {
        let known = self.kept.get(&(header.source, header.slot)).map(|kept| kept.order);
        if known.is_none_or(|known| header.order < known) {
            self.put(header);
            self.disk.log.push(header);
        }
    }

    /// What is kept of some shards from an instant on.
    pub(crate) fn export(&self, shards: &ShardSet, since: Timestamp) -> Vec<BatchHeader> {
        let of = |source: &SourceId| self.kept.range((*source, since)..=(*source, Timestamp::MAX));
        let sources = self.of_shards(shards, &|_| since);
        sources.iter().flat_map(|(source, _)| of(source)).map(|(_, header)| *header).collect()
    }

    /// Which slots of some shards are kept of a span.
    pub(crate) fn between(
        &self,
        shards: &ShardSet,
        (first, last): (Timestamp, Timestamp),
    ) -> Vec<(SourceId, Timestamp)> {
        let of = |source: &SourceId| self.kept.range((*source, first)..=(*source, last));
        let sources = self.of_shards(shards, &|_| first);
        sources.iter().flat_map(|(source, _)| of(source)).map(|(key, _)| *key).collect()
    }

    /// What is kept of some shards from an instant on, and what came since then of before, without what another store has
    /// alike: a repeat changes nothing.
    pub(crate) fn export_to(
        &self,
        other: &Store,
        shards: &ShardSet,
        (since, least): (Timestamp, Timestamp),
    ) -> Vec<BatchHeader> {
        let mut batches = Vec::new();
        let reaches = self.belated.reaches(shards, since);
        let since = |shard: ShardId| reaches.get(&shard).copied().unwrap_or(since).max(least);
        for (source, since) in self.of_shards(shards, &since) {
            let first = since.ms().div_euclid(DIGEST_MS);
            for (key, digest) in self.digests.range((source, first)..=(source, i64::MAX)) {
                if other.digests.get(key) == Some(digest) {
                    continue;
                }
                let begin = Timestamp(key.1.saturating_mul(DIGEST_MS)).max(since);
                let end = Timestamp((key.1 + 1).saturating_mul(DIGEST_MS));
                let differing = self.kept.range((source, begin)..(source, end));
                let news = differing.filter(|(key, one)| other.kept.get(key).is_none_or(|two| two.order != one.order));
                batches.extend(news.map(|(_, header)| *header));
            }
        }
        batches
    }

    /// The sources of some shards that have anything since an instant, which their shard says.
    fn of_shards(&self, shards: &ShardSet, since: &dyn Fn(ShardId) -> Timestamp) -> Vec<(SourceId, Timestamp)> {
        let young = |(shard, sources): (ShardId, &BTreeMap<SourceId, Timestamp>), found: &mut Vec<_>| {
            let since = since(shard);
            let young = sources.iter().filter(|(_, newest)| **newest >= since);
            found.extend(young.map(|(source, _)| (*source, since)));
        };
        let mut found = Vec::new();
        if shards.len() < self.sources.len() {
            let wanted = shards.iter().filter_map(|shard| Some((shard, self.sources.get(&shard)?)));
            wanted.for_each(|shard| young(shard, &mut found));
        } else {
            let wanted = self.sources.iter().filter(|(shard, _)| shards.contains(**shard));
            wanted.for_each(|(shard, sources)| young((*shard, sources), &mut found));
        }
        found
    }
}

fn hash(header: &BatchHeader) -> u64 {
    let mut hasher = DefaultHasher::new();
    (header.slot, header.order).hash(&mut hasher);
    hasher.finish()
}
