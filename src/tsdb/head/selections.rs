//! Selections that were asked for lately: their series in label order, found and sorted once.
//!
//! Dashboards and rules ask for the same series again and again, while series come and go seldom. A selection is good
//! as long as no series of its metric name came or went; one without a name, as long as none at all did. While many come, as
//! when shards are copied to this peer, the next is made of the one before and of those that came.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use promesh_model::labels::{Labels, METRIC_NAME};
use promesh_model::matcher::{MatchOp, Matcher, matches_all};
use promesh_model::shard::ShardId;

use super::{Head, Index};

/// One of them.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Where it is.
    pub slot: u32,
    /// Its shard: who wants some shards passes over the others without a look at their labels.
    pub shard: ShardId,
    /// Its label set.
    pub labels: Labels,
}

/// The series that satisfied some matchers at one moment.
#[derive(Debug, Default)]
pub struct SelectedSeries {
    /// In label order.
    pub series: Vec<Selected>,
    /// The moment: slots freed since may hold other series.
    pub reuse_epoch: u64,
    /// The index' count of changes then.
    changes: u64,
    bytes: usize,
}

/// The bytes of label sets that are kept, and the most selections.
const BYTES_MAX: usize = 64 << 20;
const KEPT_MAX: usize = 128;

/// What is kept of a selection.
enum Kept {
    Nothing,
    /// Series came or went since.
    Old(Arc<SelectedSeries>),
    Current(Arc<SelectedSeries>),
}

/// The selections kept.
#[derive(Debug, Default)]
pub struct Selections {
    /// The least lately used first.
    kept: Mutex<Vec<(Vec<Matcher>, Arc<SelectedSeries>)>>,
}

impl Selections {
    fn find(&self, matchers: &[Matcher], last_change: u64) -> Kept {
        let mut kept = self.kept.lock();
        let Some(at) = kept.iter().position(|(known, _)| known == matchers) else { return Kept::Nothing };
        let entry = kept.remove(at);
        if entry.1.changes < last_change {
            return Kept::Old(entry.1);
        }
        let found = Arc::clone(&entry.1);
        kept.push(entry);
        Kept::Current(found)
    }

    fn keep(&self, matchers: &[Matcher], selected: &Arc<SelectedSeries>) {
        if selected.bytes > BYTES_MAX / 2 {
            return;
        }
        let mut kept = self.kept.lock();
        kept.retain(|(known, _)| known != matchers);
        kept.push((matchers.to_vec(), Arc::clone(selected)));
        let mut bytes: usize = kept.iter().map(|(_, selected)| selected.bytes).sum();
        let mut gone = 0;
        while bytes > BYTES_MAX || kept.len() - gone > KEPT_MAX {
            bytes -= kept[gone].1.bytes;
            gone += 1;
        }
        kept.drain(..gone);
    }
}

/// The count of changes at the last one that may have touched a selection.
fn last_change(index: &Index, matchers: &[Matcher]) -> u64 {
    let named = matchers.iter().find(|matcher| matcher.op == MatchOp::Equal && matcher.name == METRIC_NAME);
    match named.filter(|matcher| !matcher.value.is_empty()) {
        // A name that no series has now may have had some: they are counted under no symbol any more.
        Some(matcher) => index.symbols.find(&matcher.value).map_or(index.changes(), |name| index.changed(name)),
        None => index.changes(),
    }
}

impl Head {
    /// The series that satisfy all matchers, in label order.
    pub fn selected_series(&self, matchers: &[Matcher]) -> Arc<SelectedSeries> {
        let reuse_epoch = self.reuse_epoch.load(Ordering::Acquire);
        let (mut slots, changes, old) = {
            let index = self.index.read();
            let old = match self.selections.find(matchers, last_change(&index, matchers)) {
                Kept::Current(found) => return found,
                Kept::Old(old) => Some(old),
                Kept::Nothing => None,
            };
            (index.postings.select(matchers, &index.symbols), index.changes(), old)
        };
        let is_same_epoch = || self.reuse_epoch.load(Ordering::Acquire) == reuse_epoch;
        let mut series: Vec<Selected> = Vec::with_capacity(slots.len() as usize);
        // As long as no slot was freed each holds the series that it held.
        if let Some(old) = old.filter(|old| old.reuse_epoch == reuse_epoch && is_same_epoch()) {
            series.extend(old.series.iter().filter(|one| slots.remove(one.slot)).cloned());
        }
        for slot in &slots {
            series.extend(self.selected_at(slot));
        }
        if !is_same_epoch() {
            // A slot that was freed meanwhile may hold a series that was not asked for.
            series.retain(|one| matches_all(matchers, &one.labels));
        }
        // Of two runs in order this makes one with a comparison for each series.
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        let bytes = series.iter().map(|one| one.labels.as_packed().len() + 48).sum();
        let selected = Arc::new(SelectedSeries { series, reuse_epoch, changes, bytes });
        self.selections.keep(matchers, &selected);
        selected
    }
}
