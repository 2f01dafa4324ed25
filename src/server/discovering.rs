//! Discovery in the mesh: whoever acts for a discovery's shard asks its back end, the others follow what it finds.
//!
//! Each peer holds one stream from every other living peer. What is told there is what that peer asks itself, whole
//! when the stream begins and whenever something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use promesh_discovery::{Manager, Told};
use promesh_model::{PeerId, codec};
use promesh_node::MeshView;
use promesh_scrape::Target;
use promesh_transport::{Class, FrameSender, Transport};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// "Tell me what you ask of back ends, now and whenever it changes."
pub const FOLLOW: u8 = 30;
/// The end of something told; what came before it in frames of the kind [`FOLLOW`] belongs to it.
const TOLD: u8 = 31;
const PART_BYTES: usize = 256 << 10;
/// The most that is told of one discovery.
const TOLD_BYTES_MAX: usize = 256 << 20;
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const BACK_OFF: Duration = Duration::from_millis(500);

/// Tells another peer, until it is gone.
pub async fn answer(manager: Arc<Manager>, frames: FrameSender) {
    let mut known = BTreeMap::new();
    let mut answers = manager.answers();
    loop {
        answers.mark_unchanged();
        for told in manager.tell(&mut known) {
            if tell(&frames, &told).await.is_none() {
                return;
            }
        }
        tokio::select! {
            changed = answers.changed() => if changed.is_err() { return },
            _ = frames.closed() => return,
        }
    }
}

async fn tell(frames: &FrameSender, told: &Told) -> Option<()> {
    let bytes = codec::encode(told);
    let mut parts = bytes.chunks(PART_BYTES).peekable();
    while let Some(part) = parts.next() {
        let kind = if parts.peek().is_some() { FOLLOW } else { TOLD };
        frames.send(kind, part).await.ok()?;
    }
    Some(())
}

/// Follows the view: acts for the shards that this peer has, and listens to every living peer.
pub async fn follow(manager: Arc<Manager>, transport: Transport, mut view: watch::Receiver<Option<Arc<MeshView>>>) {
    let mut listening: BTreeMap<PeerId, (SocketAddr, AbortOnDropHandle<()>)> = BTreeMap::new();
    loop {
        if let Some(view) = view.borrow_and_update().clone() {
            manager.act_for(&view.acting);
            let living: BTreeMap<PeerId, SocketAddr> =
                view.peers.iter().filter(|peer| peer.alive).map(|peer| (peer.id, peer.address)).collect();
            listening.retain(|peer, (address, _)| living.get(peer) == Some(address));
            for (peer, address) in living {
                listening.entry(peer).or_insert_with(|| {
                    let task = tokio::spawn(listen(Arc::clone(&manager), transport.clone(), peer, address));
                    (address, AbortOnDropHandle::new(task))
                });
            }
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Listens to one peer for ever.
async fn listen(manager: Arc<Manager>, transport: Transport, peer: PeerId, address: SocketAddr) {
    loop {
        let asked = transport.request_stream(address, Class::Bulk, FOLLOW, &[], OPEN_TIMEOUT).await;
        if let Ok(mut frames) = asked {
            let mut bytes: Vec<u8> = Vec::new();
            while let Ok(Some((kind, part))) = frames.recv().await {
                if bytes.len() + part.len() > TOLD_BYTES_MAX {
                    tracing::warn!(%peer, "a peer tells more of a discovery than can be taken");
                    break;
                }
                bytes.extend_from_slice(&part);
                if kind == TOLD {
                    match codec::decode::<Told, TOLD_BYTES_MAX>(&std::mem::take(&mut bytes)) {
                        Ok(told) => manager.hear(told),
                        Err(error) => {
                            tracing::warn!(%peer, %error, "what a peer tells of a discovery is unreadable");
                            break;
                        }
                    }
                }
            }
        }
        tokio::time::sleep(BACK_OFF).await;
    }
}

/// Jobs whose targets lie on this machine while the mesh has others, each warned of once.
#[derive(Debug, Default)]
pub struct Loopback(Mutex<BTreeSet<String>>);

impl Loopback {
    /// Warns of jobs that other hosts' peers would scrape from themselves.
    pub fn look(&self, targets: &[(Target, crate::scraping::ScrapeStatus)], view: Option<&MeshView>, own: SocketAddr) {
        let elsewhere = |address: SocketAddr| address.ip() != own.ip() && !address.ip().is_loopback();
        if !view.is_some_and(|view| view.peers.iter().any(|peer| elsewhere(peer.address))) {
            return;
        }
        let local = targets.iter().filter(|(target, _)| !target.pinned && is_loopback(&target.url));
        for (target, _) in local {
            if self.0.lock().insert(target.pool().to_owned()) {
                tracing::warn!(
                    job = target.pool(),
                    url = %promesh_client::redacted(&target.url),
                    "a loopback target in a mesh of several hosts is another one on each: name the host, or set mesh_scope: everywhere"
                );
            }
        }
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use promesh_discovery::{Asker, TargetGroup};
    use promesh_model::{Generation, Labels, Timestamp};

    use super::*;

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let labels = Labels::from_pairs([("__meta_x", "y")]);
        let group = TargetGroup::of_addresses("s", ["a:1"], &labels);
        let asker = Asker { peer: PeerId(1), generation: Generation(2) };
        let told = Told { discovery: 7, asker, version: 9, asked_at: Timestamp(11), groups: Some(vec![group]) };
        let bytes = codec::encode(&told);
        assert_eq!(codec::decode::<Told, TOLD_BYTES_MAX>(&bytes).expect("it decodes"), told);
        assert_eq!((FOLLOW, TOLD), (30, 31));
        let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect!["07010212160101017301100b5f5f616464726573735f5f03613a310b085f5f6d6574615f780179"]
            .assert_eq(&shown);
    }

    #[test]
    fn loopback_is_told_from_other_hosts() {
        for (url, expected) in [
            ("http://localhost:9100/", true),
            ("http://127.0.0.2/", true),
            ("http://[::1]:80/", true),
            ("http://10.0.0.1/", false),
            ("http://host/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().expect("a URL")), expected, "{url}");
        }
    }
}
