//! What a copy says of the newest slots: which batch each sample there belongs to, so that of two batches for one slot
//! every holder keeps the same, however it learnt of them.

use std::collections::BTreeMap;

use promesh_model::Timestamp;
use promesh_model::ingest::{Batch, HistogramSample, SeriesRef};
use promesh_replication::{SlotOrders, Standing};
use promesh_tsdb::head::series::Value;

use crate::ingest::{Ingest, StoreError};

/// Sources in one copy; far more than one peer has.
const SOURCES_MAX: usize = 1 << 20;

/// The newest slots of the sources in a copy, beside what is here.
#[derive(Debug, Default)]
pub struct Contest {
    sources: Vec<SlotOrders>,
    /// By source: how each of its slots stands, where any differs from what is here.
    standings: Vec<Option<Vec<Standing>>>,
    /// Batches that take the place of others here, by source and slot.
    better: BTreeMap<(usize, usize), Batch>,
}

impl Contest {
    /// Takes in what the donor remembers of some sources.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, sources: Vec<SlotOrders>, ingest: &Ingest) -> Result<(), &'static str> {
        if self.sources.len() + sources.len() > SOURCES_MAX {
            return Err("too many sources");
        }
        for orders in sources {
            if orders.slots.len() > SlotOrders::SLOTS_MAX || !orders.slots.is_sorted_by(|a, b| a.0 < b.0) {
                return Err("slots that do not rise, or too many");
            }
            let standings = ingest.compare(&orders);
            let differs = standings.iter().any(|one| matches!(one, Standing::Better | Standing::Worse));
            self.standings.push(differs.then_some(standings));
            self.sources.push(orders);
        }
        Ok(())
    }

    /// Whether the donor named a source by this place.
    pub fn has(&self, source: usize) -> bool {
        source < self.sources.len()
    }

    /// Whether a sample is to be stored like any other; else it belongs to a batch that gives way to the one here, or it
    /// is kept aside with the rest of its batch.
    pub fn is_plain(&mut self, source: usize, series: SeriesRef, at: Timestamp, value: &Value) -> bool {
        let Some(standings) = &self.standings[source] else { return true };
        let Ok(place) = self.sources[source].slots.binary_search_by_key(&at, |(slot, _)| *slot) else { return true };
        match standings[place] {
            Standing::Unknown | Standing::Same => true,
            Standing::Worse => false,
            Standing::Better => {
                let fresh = || Batch { slot: at, ..Batch::default() };
                let batch = self.better.entry((source, place)).or_insert_with(fresh);
                match value {
                    Value::Float(bits) => {
                        batch.series.push(series);
                        batch.values.push(f64::from_bits(*bits));
                    }
                    Value::Histogram(value) => {
                        let (value, start) = (value.clone(), Timestamp(0));
                        batch.histograms.push(HistogramSample { series, timestamp: at, value, start });
                    }
                }
                false
            }
        }
    }

    /// Everything came: the better batches take their places, and the rest of the slots are known from now on.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn settle(self, ingest: &Ingest) -> Result<usize, StoreError> {
        let replaced = self.better.len();
        for ((source, place), batch) in self.better {
            let orders = &self.sources[source];
            ingest.settle_copied(orders.source, orders.shard, orders.slots[place].1, batch)?;
        }
        self.sources.iter().for_each(|orders| ingest.note_copied(orders));
        Ok(replaced)
    }
}
