//! Which pushed batches other peers have said to have in their logs.

use hashbrown::HashMap;
use parking_lot::Mutex;
use promesh_model::PeerId;
use tokio::sync::oneshot;

/// Whoever waits, by the sequence of the batch. One copy beside the owner's is all that is waited for.
#[derive(Debug, Default)]
pub struct Acks(Mutex<HashMap<u64, oneshot::Sender<PeerId>>>);

impl Acks {
    /// Begins to wait for a batch. Called before it is streamed, so that no answer can come too early.
    pub fn expect(&self, sequence: u64) -> oneshot::Receiver<PeerId> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert(sequence, sender);
        receiver
    }

    /// A peer has a batch.
    pub fn acknowledged(&self, sequence: u64, peer: PeerId) {
        if let Some(waiting) = self.0.lock().remove(&sequence) {
            // Whoever waited may have given up.
            let _ = waiting.send(peer);
        }
    }

    /// Nobody waits for a batch any more.
    pub fn forget(&self, sequence: u64) {
        self.0.lock().remove(&sequence);
    }

    /// How many batches are waited for.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}
