//! What peers tell about themselves to people, by chitchat.
//!
//! Nothing here decides anything: who is alive and who owns what is membership's and the mesh's affair, and without
//! chitchat's traffic only these facts would be missing from the cluster endpoint. Its gossip goes where membership
//! says that somebody lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat};
use promesh_model::{Generation, PeerId};
use promesh_node::MeshView;
use promesh_transport::Transport;
use promesh_transport::chitchat::{ChitchatInbox, ChitchatTransport};
use tokio::sync::watch;

use crate::hands::CHITCHAT;
use crate::peer::Peer;

/// How often facts are gossiped: known everywhere within two seconds.
const GOSSIP_PERIOD: Duration = Duration::from_millis(500);
/// Facts of peers that are gone are kept for so long; more would grow the digests.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);
/// A fact is a figure or a name; the transport takes no message with more.
const VALUE_BYTES_MAX: usize = 32 << 10;

/// The facts of all peers.
pub struct Facts(ChitchatHandle);

impl Facts {
    /// Starts gossiping; what arrives for chitchat goes into the inbox.
    ///
    /// # Errors
    /// When the loopback sockets of its codec cannot be had.
    pub async fn start(
        transport: Transport,
        own: SocketAddr,
        (id, generation): (PeerId, Generation),
        label: &str,
        own_facts: Vec<(String, String)>,
    ) -> Result<(Facts, ChitchatInbox), String> {
        let (wire, inbox) = ChitchatTransport::new(transport, CHITCHAT);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId {
                node_id: Arc::from(id.to_string()),
                generation_id: generation.0,
                gossip_advertise_addr: own,
            },
            cluster_id: label.to_owned(),
            gossip_interval: GOSSIP_PERIOD,
            listen_addr: own,
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                dead_node_grace_period: FORGET_AFTER,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: FORGET_AFTER,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V0,
        };
        let handle = spawn_chitchat(config, own_facts, &wire).await.map_err(|error| error.to_string())?;
        Ok((Facts(handle), inbox))
    }

    /// States a fact about this peer.
    pub async fn state(&self, facts: &[(&str, String)]) {
        let known = self.0.chitchat();
        let mut chitchat = known.lock().await;
        for (key, value) in facts.iter().filter(|(_, value)| value.len() <= VALUE_BYTES_MAX) {
            if chitchat.self_node_state().get(key) != Some(value.as_str()) {
                chitchat.self_node_state().set(*key, value.as_str());
            }
        }
    }

    /// What each peer says of itself, in its newest life.
    pub async fn all(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let known = self.0.chitchat();
        let chitchat = known.lock().await;
        let mut newest: BTreeMap<String, (u64, BTreeMap<String, String>)> = BTreeMap::new();
        for (id, state) in chitchat.node_states() {
            let facts = state.key_values().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let peer = newest.entry(id.node_id.to_string()).or_default();
            if id.generation_id >= peer.0 {
                *peer = (id.generation_id, facts);
            }
        }
        newest.into_iter().map(|(id, (_, facts))| (id, facts)).collect()
    }

    /// Introduces chitchat to whoever membership says is alive.
    pub async fn follow(self: Arc<Self>, mut view: watch::Receiver<Option<Arc<MeshView>>>) {
        let mut known: Vec<SocketAddr> = Vec::new();
        while view.changed().await.is_ok() {
            let living: Vec<SocketAddr> = {
                let view = view.borrow_and_update();
                let peers = view.iter().flat_map(|view| view.peers.iter());
                peers.filter(|peer| peer.alive).map(|peer| peer.address).collect()
            };
            for address in living.iter().filter(|address| !known.contains(address)) {
                let _ = self.0.gossip(*address);
            }
            known = living;
        }
    }
}

impl Peer {
    /// Begins to gossip facts for people; a peer goes on without.
    pub(crate) async fn tell_facts(self: &Arc<Self>) {
        let (Some(transport), Some(own), Some(cluster)) = (&self.transport, self.own_address, &self.options.cluster)
        else {
            return;
        };
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let constant = vec![
            ("name".to_owned(), name),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("started".to_owned(), self.started_at.to_string()),
        ];
        let who = (self.id, self.generation);
        // All that chitchat says and hears passes the thread of the connections: there it wakes no other.
        let (tell, told) = tokio::sync::oneshot::channel();
        let (over, label) = (transport.clone(), cluster.label.clone());
        transport.spawn(async move {
            let _ = tell.send(Facts::start(over, own, who, &label, constant).await);
        });
        let (facts, inbox) = match told.await.unwrap_or_else(|_| Err("the transport is closed".to_owned())) {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!(error, "facts for people are not gossiped: chitchat did not start");
                return;
            }
        };
        *self.hands.chitchat.lock() = Some(inbox);
        let facts = Arc::new(facts);
        tokio::spawn(Arc::clone(&facts).follow(self.view.clone()));
        let _ = self.facts.set(Arc::clone(&facts));
        let peer = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let series = peer.ingest.db().head().series_count().to_string();
                let owned = peer.targets_owned().to_string();
                facts.state(&[("series", series), ("targetsOwned", owned)]).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
}
