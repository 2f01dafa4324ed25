//! Keeping the log durable, storage at its work, and an eye on the disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use promesh_node::{Input, MeshView};
use tokio::sync::watch;

use crate::clock;
use crate::run::Peer;

/// How often the log is synced.
const SYNC_PERIOD: Duration = Duration::from_millis(400);
/// How often storage looks for work, and the disk for room.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(2);

impl Peer {
    /// Syncs the log and lets storage do its work, on a thread of its own.
    pub(crate) fn keep_house(&self) {
        let (ingest, minds) = (Arc::clone(&self.ingest), self.minds.clone());
        let body = move || {
            let mut next_maintenance = clock::monotonic();
            let mut full = false;
            let mut failing = false;
            loop {
                std::thread::sleep(SYNC_PERIOD);
                let db = ingest.db();
                let synced = db.sync();
                if synced.is_err() != failing {
                    failing = synced.is_err();
                    match synced {
                        Ok(_) => tracing::info!("the log can be made durable again"),
                        Err(error) => tracing::error!(%error, "the log cannot be made durable"),
                    }
                }
                let now = clock::now();
                if now.monotonic < next_maintenance {
                    continue;
                }
                next_maintenance = now.monotonic + MAINTENANCE_PERIOD;
                if let Err(error) = db.maintain(now) {
                    tracing::error!(%error, "storage could not do its work, it is tried again");
                }
                ingest.forget_idle(now.wall);
                let is_full = disk_is_full(db.dir(), full);
                if is_full != full {
                    full = is_full;
                    tracing::warn!(full, "the disk's free room has crossed its limit");
                    minds.tell(Input::DiskFull(full));
                }
            }
        };
        let spawned = std::thread::Builder::new().name("storage".to_owned()).spawn(body);
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for storage: the log is not synced");
        }
    }
}

/// Less than a twentieth and less than 1 GiB is free; twice that ends it.
fn disk_is_full(path: &std::path::Path, was_full: bool) -> bool {
    let Ok(disk) = rustix::fs::statvfs(path) else { return was_full };
    let limit = (disk.f_blocks * disk.f_frsize / 20).min(1 << 30);
    let free = disk.f_bavail * disk.f_frsize;
    if was_full { free < 2 * limit } else { free < limit }
}

/// The web addresses of all peers, this one included, sorted: alike on every peer.
pub(crate) fn peer_addresses(
    mut view: watch::Receiver<Option<Arc<MeshView>>>,
    own: SocketAddr,
) -> watch::Receiver<Arc<[String]>> {
    let list = move |view: &Option<Arc<MeshView>>| -> Arc<[String]> {
        // A peer that is down stays a target: its `up` is 0, as for any other.
        let others = view.iter().flat_map(|view| view.peers.iter()).filter_map(|peer| peer.web_address);
        let mut all: Vec<String> = others.chain([own]).map(|address| address.to_string()).collect();
        all.sort();
        all.dedup();
        all.into()
    };
    let (sender, receiver) = watch::channel(list(&view.borrow()));
    tokio::spawn(async move {
        while view.changed().await.is_ok() {
            let present = list(&view.borrow_and_update());
            sender.send_if_modified(|known| {
                let changed = *known != present;
                *known = present;
                changed
            });
        }
    });
    receiver
}
