//! What taking part in a mesh takes: a key, trust, a port, seeds.

use std::net::SocketAddr;

use promesh_model::PeerId;
use promesh_transport::{PeerKey, TlsIdentity, Transport, TransportEvent, TransportOptions};
use tokio::sync::mpsc;

use crate::clock;
use crate::failure::{StartError, context};
use crate::identity::PeerFolder;
use crate::options::{ClusterOptions, TrustOptions};
use crate::trust::Trust;

/// What taking part in a mesh takes.
pub(crate) struct Joined {
    pub transport: Transport,
    pub events: mpsc::Receiver<TransportEvent>,
    pub own: SocketAddr,
    pub seeds: Vec<String>,
    pub trust: Trust,
    pub identity: TlsIdentity,
}

/// Opens the port by which this peer meets others.
///
/// # Errors
/// When a key, the secret or the port cannot be had.
pub(crate) async fn join(cluster: &ClusterOptions, id: PeerId, folder: &PeerFolder) -> Result<Joined, StartError> {
    if cluster.trust == TrustOptions::Development {
        tracing::warn!("no --cluster.secret-file: peers trust a key that every build knows; loopback addresses only");
    }
    let trust = Trust::new(cluster, id, PeerKey::load_or_create(&folder.key_path())?);
    let identity = trust.identity(clock::wall())?;
    let boot = u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("eight bytes"));
    let transport_options =
        TransportOptions { segmentation_offload: cluster.segmentation_offload, ..TransportOptions::new(boot) };
    let (transport, events) = Transport::bind(cluster.listen, &identity, transport_options)
        .map_err(context(format!("cannot listen on UDP {} (--cluster.listen-address)", cluster.listen)))?;
    let listening = transport.local_addr();
    tracing::info!(address = %listening, "Listening on UDP for peers");
    let own = cluster.advertise.unwrap_or(listening);
    // A seed that is this peer itself is no seed.
    let mut seeds = Vec::new();
    for seed in &cluster.seeds {
        let resolved: Vec<SocketAddr> = match tokio::net::lookup_host(seed.as_str()).await {
            Ok(found) => found.collect(),
            Err(_) => Vec::new(),
        };
        if resolved.is_empty() || resolved.iter().any(|address| *address != own) {
            seeds.push(seed.clone());
        }
    }
    Ok(Joined { transport, events, own, seeds, trust, identity })
}
