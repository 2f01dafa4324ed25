//! Saying beforehand what of a batch would be refused, so that what is refused is not even logged.

use promesh_model::ingest::{Batch, IngestError, SeriesRef};

use super::Head;
use super::append::{Cursor, Rejected, SampleIndex, validate};
use super::series::Value;

impl Head {
    /// What [`Head::append`] would refuse of a batch, in the order of its samples.
    ///
    /// Whoever streams a batch to others has to leave those samples out: others take what the owner took, whatever their
    /// own bounds. True for as long as nobody else appends to these series meanwhile.
    pub fn refusals(&self, batch: &Batch) -> Vec<Rejected> {
        let bounds = self.bounds();
        let mut refused = Vec::new();
        let mut cursor = Cursor::new(&self.pages);
        let mut own_times = batch.timestamps.iter().peekable();
        // The newest sample of the batch itself, while it stays with one series.
        let mut newest: Option<(SeriesRef, i64, u64)> = None;
        for (index, (series, value)) in batch.series.iter().zip(&batch.values).enumerate() {
            let mut at = batch.slot.ms();
            if let Some((_, own)) = own_times.next_if(|(place, _)| *place as usize == index) {
                at = own.ms();
            }
            let bits = value.to_bits();
            let before = newest.filter(|(last, ..)| last == series);
            let judged = match (before, cursor.series(*series)) {
                (_, None) => Err(IngestError::UnknownSeries),
                (Some((_, last, same)), _) if last == at => {
                    if same == bits {
                        Ok(())
                    } else {
                        Err(IngestError::Duplicate)
                    }
                }
                (before, Some(known)) => {
                    let before = before.map_or(i64::MIN, |(_, at, _)| at);
                    known.judge(at, before, || Value::Float(bits), &bounds, &self.spill)
                }
            };
            match judged {
                Ok(()) if before.is_none_or(|(_, last, _)| at > last) => newest = Some((*series, at, bits)),
                Ok(()) => {}
                Err(reason) => refused.push(Rejected { index: SampleIndex::Float(index as u32), reason }),
            }
        }
        let mut newest: Option<(SeriesRef, i64)> = None;
        for (index, sample) in batch.histograms.iter().enumerate() {
            let at = sample.timestamp.ms();
            let before = newest.filter(|(last, _)| *last == sample.series).map_or(i64::MIN, |(_, at)| at);
            let judged = match (validate(&sample.value), cursor.series(sample.series)) {
                (Err(why), _) => Err(IngestError::InvalidHistogram(why)),
                (_, None) => Err(IngestError::UnknownSeries),
                (Ok(()), Some(known)) => {
                    known.judge(at, before, || Value::Histogram(sample.value.clone()), &bounds, &self.spill)
                }
            };
            match judged {
                Ok(()) => newest = Some((sample.series, at.max(before))),
                Err(reason) => refused.push(Rejected { index: SampleIndex::Histogram(index as u32), reason }),
            }
        }
        refused
    }
}
