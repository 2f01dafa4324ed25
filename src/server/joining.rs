//! What taking part in a mesh takes: a key, trust, a port, seeds.

use std::net::SocketAddr;
use std::time::Duration;

use promesh_model::PeerId;
use promesh_transport::{PeerKey, TlsIdentity, Transport, TransportEvent, TransportOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock;
use crate::failure::{StartError, context};
use crate::identity::PeerFolder;
use crate::options::{ClusterOptions, TrustOptions};
use crate::trust::Trust;

/// A start waits no longer for a name server to say whether a seed is this peer itself.
const NAME_PATIENCE: Duration = Duration::from_secs(1);

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
    let seeds = others(&cluster.seeds, own).await;
    Ok(Joined { transport, events, own, seeds, trust, identity })
}

/// The seeds that are not this peer itself. Of a name that is not known in time it may be another.
async fn others(seeds: &[String], own: SocketAddr) -> Vec<String> {
    let mut looking = JoinSet::new();
    for (place, seed) in seeds.iter().cloned().enumerate() {
        looking.spawn(async move {
            let found = tokio::time::timeout(NAME_PATIENCE, tokio::net::lookup_host(seed.as_str())).await;
            let is_own = found.is_ok_and(|found| found.is_ok_and(|found| leads_only_to(found, own)));
            (place, seed, is_own)
        });
    }
    let mut looked = looking.join_all().await;
    looked.sort_unstable();
    looked.into_iter().filter(|(.., is_own)| !is_own).map(|(_, seed, _)| seed).collect()
}

fn leads_only_to(mut addresses: impl Iterator<Item = SocketAddr>, own: SocketAddr) -> bool {
    addresses.next() == Some(own) && addresses.all(|address| address == own)
}
