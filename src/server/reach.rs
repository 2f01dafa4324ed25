//! Peers that are down in the mesh and whose web server answers: their UDP port is blocked, not their process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use promesh_model::PeerId;
use promesh_node::MeshView;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How often down peers are looked at.
const PERIOD: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(1);

/// Who answers by TCP alone.
#[derive(Debug, Default)]
pub struct Reach(Mutex<BTreeSet<PeerId>>);

impl Reach {
    /// Whether a peer that is down in the mesh answered by TCP when it was last tried.
    pub fn is_open(&self, peer: PeerId) -> bool {
        self.0.lock().contains(&peer)
    }

    /// Looks again and again for as long as the process runs.
    pub async fn watch(self: Arc<Self>, view: watch::Receiver<Option<Arc<MeshView>>>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let down: Vec<_> = {
                let view = view.borrow();
                let peers = view.iter().flat_map(|view| view.peers.iter());
                peers.filter(|peer| !peer.alive).filter_map(|peer| Some((peer.id, peer.web_address?))).collect()
            };
            let mut open = BTreeSet::new();
            for (peer, address) in down {
                let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
                if matches!(connected, Ok(Ok(_))) {
                    open.insert(peer);
                }
            }
            let mut known = self.0.lock();
            for peer in open.difference(&known) {
                tracing::warn!(%peer, "a peer answers by TCP and not by UDP: is its cluster port blocked?");
            }
            *known = open;
        }
    }
}
