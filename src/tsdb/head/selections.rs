//! Selections that were asked for lately: their series in label order, found and sorted once.
//!
//! Dashboards and rules ask for the same series again and again, while series come and go seldom. A selection is good
//! as long as no series of its metric name came or went; one without a name, as long as none at all did.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use promesh_model::labels::{Labels, METRIC_NAME};
use promesh_model::matcher::{MatchOp, Matcher, matches_all};

use super::{Head, Index};

/// The series that satisfied some matchers at one moment.
#[derive(Debug, Default)]
pub struct SelectedSeries {
    /// Slots and label sets, in label order.
    pub series: Vec<(u32, Labels)>,
    /// The moment: slots freed since may hold other series.
    pub reuse_epoch: u64,
    /// The index' count of changes then.
    changes: u64,
    bytes: usize,
}

/// The bytes of label sets that are kept, and the most selections.
const BYTES_MAX: usize = 64 << 20;
const KEPT_MAX: usize = 128;

/// The selections kept.
#[derive(Debug, Default)]
pub struct Selections {
    /// The least lately used first.
    kept: Mutex<Vec<(Vec<Matcher>, Arc<SelectedSeries>)>>,
}

impl Selections {
    fn find(&self, matchers: &[Matcher], last_change: u64) -> Option<Arc<SelectedSeries>> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|(known, _)| known == matchers)?;
        let entry = kept.remove(at);
        if entry.1.changes < last_change {
            return None;
        }
        let found = Arc::clone(&entry.1);
        kept.push(entry);
        Some(found)
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
        let (slots, changes, reuse_epoch) = {
            let reuse_epoch = self.reuse_epoch.load(Ordering::Acquire);
            let index = self.index.read();
            if let Some(found) = self.selections.find(matchers, last_change(&index, matchers)) {
                return found;
            }
            (index.postings.select(matchers, &index.symbols), index.changes(), reuse_epoch)
        };
        let mut series: Vec<(u32, Labels)> = Vec::with_capacity(slots.len() as usize);
        for slot in &slots {
            series.extend(self.labels_at(slot).map(|labels| (slot, labels)));
        }
        if self.reuse_epoch.load(Ordering::Acquire) != reuse_epoch {
            // A slot that was freed meanwhile may hold a series that was not asked for.
            series.retain(|(_, labels)| matches_all(matchers, labels));
        }
        series.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        let bytes = series.iter().map(|(_, labels)| labels.as_packed().len() + 48).sum();
        let selected = Arc::new(SelectedSeries { series, reuse_epoch, changes, bytes });
        self.selections.keep(matchers, &selected);
        selected
    }
}
