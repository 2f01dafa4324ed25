//! Samples out of a copy, and the batches that they were: what of them stands beside what is here.

use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use promesh_model::ingest::{Batch, SeriesRef};
use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};
use promesh_replication::framing::{KIND_COPY, KIND_SETTLED};
use promesh_replication::{BatchHeader, Disposition, Order, SlotOrders, SourceId, Standing};
use promesh_tsdb::AppendOutcome;

use super::{Book, Framed, Ingest, OwnedIntake, StoreError, intake};

/// The sources of which the newest slots are remembered, and what each of their series belongs to.
#[derive(Debug, Default)]
pub struct Remembered {
    /// The sources.
    pub sources: Vec<SlotOrders>,
    /// By series, its place in `sources`.
    pub series: HashMap<SeriesRef, u32>,
}

impl Ingest {
    /// What is remembered of the sources in some shards that had a slot at or after an instant.
    pub fn remembered(&self, shards: &ShardSet, since: Timestamp) -> Remembered {
        let mut all = Remembered::default();
        for lane in &self.lanes.lanes {
            let lane = lane.lock();
            for orders in lane.ledger.slot_orders(shards, since) {
                let place = all.sources.len() as u32;
                let mut origins: Vec<_> = orders.slots.iter().map(|(_, order)| order.origin).collect();
                origins.sort();
                origins.dedup();
                let of = |origin| lane.series_of(origin, orders.source, orders.shard);
                all.series.extend(origins.into_iter().filter_map(of).flatten().map(|series| (series, place)));
                all.sources.push(orders);
            }
        }
        all
    }

    /// How the batches that another peer remembers of a source compare with those that are here.
    pub fn compare(&self, orders: &SlotOrders) -> Vec<Standing> {
        let lane = self.lanes.of(orders.source).lock();
        let compare =
            |(slot, order): &(Timestamp, Order)| lane.ledger.compare(orders.source, orders.shard, *slot, *order);
        orders.slots.iter().map(compare).collect()
    }

    /// Takes note of who filled slots whose samples came in a copy.
    pub fn note_copied(&self, orders: &SlotOrders) {
        let mut lane = self.lanes.of(orders.source).lock();
        for (slot, order) in &orders.slots {
            lane.ledger.note_copied(orders.source, orders.shard, *slot, *order);
        }
    }

    /// Stores a batch out of a copy that stands in the place of the one here, if it still does.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn settle_copied(
        &self,
        source: SourceId,
        shard: ShardId,
        order: Order,
        mut batch: Batch,
    ) -> Result<AppendOutcome, StoreError> {
        // Its writer's own number is not said; in our log it is the base of nothing.
        let header = BatchHeader { source, shard, slot: batch.slot, order, sequence: 1 };
        let mut lane = self.lanes.of(source).lock();
        let disposition = lane.ledger.admit(&header);
        if disposition == Disposition::Ignore {
            return Ok(AppendOutcome::default());
        }
        let how = Framed::plain(KIND_SETTLED, Book::None);
        let recorded =
            self.record(&mut lane, how, &header, &mut batch, |lane, batch| intake(disposition, lane, &header, batch));
        let (written, _) = recorded.inspect_err(|_| lane.ledger.withdraw(&header, disposition))?;
        drop(lane);
        (self.appended)(header);
        Ok(written.outcome)
    }

    /// Stores samples copied from another peer: whatever of them is new, wherever it belongs.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn write_copied(&self, mut batch: Batch) -> Result<AppendOutcome, StoreError> {
        // A source of its own, so that copies disturb nobody's dictionary; never streamed on.
        let source = SourceId(u128::from(self.origin.generation.0));
        let order = Order { failed: false, rank: u8::MAX, origin: self.origin };
        let mut lane = self.lanes.of(source).lock();
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let header = BatchHeader { source, shard: ShardId(0), slot: batch.slot, order, sequence };
        let how = Framed::plain(KIND_COPY, Book::None);
        let (written, _) = self.record(&mut lane, how, &header, &mut batch, |_, batch| OwnedIntake::Late(batch))?;
        Ok(written.outcome)
    }
}
