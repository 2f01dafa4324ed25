//! What this peer may vouch for of sealed history.

use promesh_model::shard::ShardSet;
use promesh_model::{Now, Timestamp};

use super::Mesh;

impl Mesh {
    pub(super) fn note_history(&mut self, shards: &ShardSet, from: Timestamp, to: Timestamp, now: Now) {
        let before = self.holdings.own.extents().clone();
        self.holdings.own.hold(shards, from, to);
        if *self.holdings.own.extents() != before {
            let me = self.me();
            self.change(now, "copied", me, shards.len(), "history");
        }
    }

    /// The open window is not in blocks: what comes in live goes on.
    pub(super) fn lose_history(&mut self, from: Timestamp, to: Timestamp, now: Now) {
        self.holdings.own.lose(from, to.min(now.wall));
        let me = self.me();
        self.change(now, "damaged", me, 0, "a block cannot be read");
    }
}
