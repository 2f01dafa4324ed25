//! Late pushes for windows that this peer does not claim: shown to the others until enough of them have it.
//!
//! Which these are, and when they are off the list, is decided by [`promesh_node::LateParts`]; here it is kept on the disk
//! and done. It goes beside the copying of windows, which may take long: nobody else knows what is here, and reads do not
//! find it before it was compared.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use promesh_model::PeerId;
use promesh_model::shard::ShardSet;
use promesh_node::{MeshView, Showing, Span};
use promesh_transport::Transport;
use promesh_tsdb::Window;

use super::{History, wire};
use crate::clock;
use crate::options::RETENTION_UNLIMITED;

/// How often this peer looks for late pushes.
const PERIOD: Duration = Duration::from_secs(1);

impl History {
    /// Looks for late pushes, and shows what this peer has in part, for as long as it runs.
    pub async fn run_late(self: Arc<Self>) {
        let Some(transport) = self.means.transport.clone() else { return };
        let (mut forgotten, mut unkept) = (0, false);
        loop {
            tokio::time::sleep(PERIOD).await;
            while let Some(view) = self.newest_view() {
                self.sift(&view, &mut unkept).await;
                let next = match view.state {
                    promesh_cluster::PeerState::Ready => self.late.lock().next(&view, clock::monotonic()),
                    _ => None,
                };
                let Some(showing) = next else { break };
                let answers = self.show_late(&transport, &view, &showing).await;
                let view = self.newest_view().unwrap_or(view);
                self.late.lock().shown(&showing, &answers, &view, clock::monotonic());
                self.figures.late_shown.fetch_add(1, Ordering::Relaxed);
            }
            let now_forgotten = self.late.lock().forgotten();
            if now_forgotten > forgotten {
                forgotten = now_forgotten;
                let windows = forgotten;
                tracing::error!(
                    windows,
                    "late samples came for more windows than can be remembered: others may lack the oldest"
                );
            }
        }
    }

    fn newest_view(&self) -> Option<Arc<MeshView>> {
        self.means.view.borrow().clone()
    }

    /// Takes in what was pushed, and keeps the list if that changed it, or could not be kept before.
    async fn sift(&self, view: &MeshView, unkept: &mut bool) {
        let now = clock::now();
        let oldest = now.wall.before(self.means.db.retention().time.unwrap_or(RETENTION_UNLIMITED));
        let (windows, kept) = {
            let mut late = self.late.lock();
            for (span, shards) in self.means.lanes.pushed.take() {
                late.note(span, &shards);
            }
            late.sift(view, |span| self.means.db.is_sealed(window_of(span), now));
            late.drop_before(oldest);
            (late.len(), late.to_keep())
        };
        self.figures.late_windows.store(windows as u64, Ordering::Relaxed);
        let Some(kept) = kept else { return };
        let folder = self.means.folder.clone();
        let written = tokio::task::spawn_blocking(move || folder.keep_late(&kept)).await;
        let failed = written.unwrap_or_else(|error| Err(std::io::Error::other(error))).err();
        if let Some(error) = &failed {
            self.late.lock().not_kept();
            if !*unkept {
                tracing::error!(%error, "the list of what this peer has in part could not be written: it is tried again");
            }
        }
        *unkept = failed.is_some();
    }

    /// Has everybody compare a part; by peer, what it has of it now.
    async fn show_late(
        &self,
        transport: &Transport,
        view: &MeshView,
        showing: &Showing,
    ) -> Vec<(PeerId, Option<ShardSet>)> {
        let (window, shards) = (window_of(showing.span), &showing.shards);
        let asking = showing.to.iter().filter_map(|peer| view.peer(*peer)).map(|peer| async move {
            let answer = match wire::compare_shards(transport, peer.address, window, shards).await {
                Ok(Some(has)) => Ok(has),
                // An older build compares all that it claims.
                Ok(None) => wire::compare(transport, peer.address, window).await.map(|()| {
                    let last = promesh_model::Timestamp(window.end.ms() - 1);
                    let held = view.possession.get(&peer.id).map(|held| held.touching(window.start, last));
                    held.unwrap_or_default().intersection(shards)
                }),
                Err(why) => Err(why),
            };
            if let Err(why) = &answer {
                tracing::debug!(window = %window.start, peer = %peer.id, why, "late pushes were not compared with ours");
            }
            (peer.id, answer.ok())
        });
        join_all(asking).await
    }
}

fn window_of((start, end): Span) -> Window {
    Window { start, end }
}
