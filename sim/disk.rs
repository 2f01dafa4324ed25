//! A simulated peer's storage: a log that loses what was not synced, and what follows from it.

use std::collections::BTreeMap;

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, ShardId, Timestamp};
use promesh_node::{Digests, Possession};
use promesh_replication::{BatchHeader, Disposition, Ledger, SourceId, Standing};

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) log: Vec<BatchHeader>,
    /// How much of the log would survive.
    pub(crate) synced: usize,
    pub(crate) possession: Possession,
    pub(crate) members: Vec<PeerId>,
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
    /// The sources of which anything was ever kept, by shard, each with its newest slot.
    sources: BTreeMap<ShardId, BTreeMap<SourceId, Timestamp>>,
    pub(crate) sequence: u64,
    /// How much of the log the sync under way will have made durable.
    pub(crate) sync_began: usize,
}

impl Store {
    /// Opens a disk after a crash: the unsynced tail of the log is gone.
    pub(crate) fn open(mut disk: Disk) -> Store {
        disk.log.truncate(disk.synced);
        let mut store = Store::default();
        for header in &disk.log {
            store.keep(header);
        }
        store.sync_began = disk.log.len();
        store.disk = disk;
        store
    }

    pub(crate) fn append(&mut self, header: BatchHeader) {
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
                self.kept.insert(key, *header);
                self.note_source(header);
            }
            Disposition::Late => {
                // The values decide, alike on every peer; here the smaller order stands for the better value.
                let kept = self.kept.entry(key).or_insert(*header);
                if header.order < kept.order {
                    *kept = *header;
                }
                self.note_source(header);
            }
            Disposition::Ignore => {}
        }
        self.kept.get(&key).map(|kept| kept.order) != before
    }

    fn note_source(&mut self, header: &BatchHeader) {
        let newest = self.sources.entry(header.shard).or_default().entry(header.source).or_insert(header.slot);
        *newest = header.slot.max(*newest);
    }

    /// Forgets slots before an instant, as retention does.
    pub(crate) fn forget_before(&mut self, oldest: Timestamp) {
        self.kept.retain(|(_, slot), _| *slot >= oldest);
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
            self.kept.insert((header.source, header.slot), header);
            self.note_source(&header);
            self.disk.log.push(header);
        }
    }

    /// What is kept of some shards from an instant on; all of it for the open window.
    pub(crate) fn export(&self, shards: &ShardSet, since: Option<Timestamp>) -> Vec<BatchHeader> {
        let since = since.unwrap_or(Timestamp::MIN);
        let of = |source: SourceId| self.kept.range((source, since)..=(source, Timestamp::MAX));
        let is_new = |(source, newest): (&SourceId, &Timestamp)| (*newest >= since).then_some(*source);
        if shards.len() < self.sources.len() {
            let wanted = shards.iter().filter_map(|shard| self.sources.get(&shard));
            return wanted.flatten().filter_map(is_new).flat_map(of).map(|(_, header)| *header).collect();
        }
        let wanted = self.sources.iter().filter(|(shard, _)| shards.contains(**shard));
        let wanted = wanted.flat_map(|(_, sources)| sources).filter_map(is_new);
        wanted.flat_map(of).map(|(_, header)| *header).collect()
    }
}
