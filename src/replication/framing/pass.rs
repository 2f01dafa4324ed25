//! Frames of another writer that go into this reader's log as they came.
//!
//! A log segment must read from its own start. What a stream brings builds on its newest key frame, so a frame may stand as
//! it came if the frame before it does, in the same segment, or if it is a key frame itself. Else it is framed anew until
//! the writer's next key frame, which comes with the next epoch at the latest.

use promesh_model::ingest::Batch;
use promesh_model::value::is_stale;

use super::wire::{Reader, take_head};
use super::{BatchHeader, Framing};

impl Framing {
    /// Whether a payload reads after what was framed or passed on here so far.
    pub fn can_pass(&self, payload: &[u8]) -> bool {
        let Ok(head) = take_head(&mut Reader(payload)) else { return false };
        let Some(base) = head.base else { return true };
        let header = head.header;
        let stream = self.streams.get(&(header.order.origin, header.source, header.shard));
        stream.is_some_and(|stream| stream.passed && !stream.key_wanted && stream.sequence == base)
    }

    /// Takes note of a payload that went on as it came, and of what it was decoded to. A batch that is framed here after it
    /// becomes a key frame.
    pub fn pass(&mut self, header: &BatchHeader, batch: &Batch) {
        let stream = self.streams.entry((header.order.origin, header.source, header.shard)).or_default();
        stream.sequence = header.sequence;
        stream.epoch = header.epoch();
        (stream.passed, stream.key_wanted) = (true, false);
        if !stream.is_current(&batch.series) || stream.current.is_some() {
            stream.dictionary.clone_from(&batch.series);
            stream.values.clear();
            stream.values.resize(batch.series.len(), 0.0);
            stream.current = None;
        }
        // Only who ended with this batch is asked for: see `Stream::current_series`.
        if batch.values.iter().any(|value| is_stale(*value)) || stream.values.iter().any(|value| is_stale(*value)) {
            stream.values.clone_from(&batch.values);
        }
    }
}
