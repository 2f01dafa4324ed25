//! What other peers wrote: into our log as it came where it reads there, else framed anew.

use promesh_model::frame;
use promesh_model::ingest::Batch;
use promesh_replication::framing::{KIND_BATCH, KIND_PUSH};
use promesh_replication::{BatchHeader, Decoded, Disposition};
use promesh_tsdb::{AppendOutcome, LogError, WriteError, Written};

use super::{Book, Framed, Ingest, Lane, OwnedIntake, StoreError, intake};
use crate::clock;

impl Ingest {
    /// Stores a batch that another peer wrote; `payload` is what it was decoded from.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn write_received(&self, decoded: Decoded, payload: &[u8]) -> Result<AppendOutcome, StoreError> {
        let Decoded { header, mut batch, .. } = decoded;
        let mut lane = self.lanes.of(header.source).lock();
        let disposition = lane.ledger.admit(&header);
        let recorded = self.record_received(&mut lane, &header, &mut batch, payload, disposition);
        let written = recorded.inspect_err(|_| lane.ledger.withdraw(&header, disposition))?;
        drop(lane);
        self.lanes.pushed.note_scraped(header.shard, &batch, clock::wall());
        (self.appended)(header);
        Ok(written.outcome)
    }

    /// Writes a received batch as it came where that reads in the present segment, else framed anew.
    fn record_received(
        &self,
        lane: &mut Lane,
        header: &BatchHeader,
        batch: &mut Batch,
        payload: &[u8],
        disposition: Disposition,
    ) -> Result<Written, StoreError> {
        let segment = self.db.log().segment();
        lane.enter_segment(segment);
        if lane.relay.can_pass(payload) {
            let mut bytes = Vec::with_capacity(payload.len() + frame::HEADER_BYTES);
            frame::write(&mut bytes, KIND_BATCH, payload);
            let taken = intake(disposition, lane, header, batch);
            match self.db.write_as(&bytes, taken.borrow(), Some(segment)) {
                Ok(written) => {
                    lane.relay.pass(header, batch);
                    return Ok(written);
                }
                Err(WriteError::Log(LogError::SegmentCut { .. })) => {}
                Err(error) => {
                    lane.relay.want_keys(|_| true);
                    return Err(self.refused_by(error));
                }
            }
        }
        let how = Framed::plain(KIND_BATCH, Book::Relay);
        let recorded = self.record(lane, how, header, batch, |lane, batch| intake(disposition, lane, header, batch));
        recorded.map(|(written, _)| written)
    }

    /// Stores a push that another peer took.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn write_received_push(&self, decoded: Decoded) -> Result<AppendOutcome, StoreError> {
        let Decoded { header, mut batch, .. } = decoded;
        let mut lane = self.lanes.of(header.source).lock();
        let how = Framed::plain(KIND_PUSH, Book::Relay);
        let (written, _) = self.record(&mut lane, how, &header, &mut batch, |_, batch| OwnedIntake::Late(batch))?;
        self.lanes.pushed.note(header.shard, &batch, clock::wall());
        Ok(written.outcome)
    }
}
