//! `peer_sd_configs`: all peers of this mesh, by the addresses that they advertise.

use std::sync::Arc;

use promesh_config::prometheus::PeerSd;
use tokio::sync::watch;

use crate::TargetGroup;
use crate::manager::Sink;

/// Follows the addresses until whoever tells them is gone.
pub(crate) async fn run(config: PeerSd, mut peers: watch::Receiver<Arc<[String]>>, sink: Sink) {
    loop {
        let mut addresses = peers.borrow_and_update().to_vec();
        addresses.sort();
        addresses.dedup();
        sink.publish(vec![TargetGroup::of_addresses("peers", addresses.iter().map(String::as_str), &config.labels)]);
        if peers.changed().await.is_err() {
            // What was told last stays true; the manager ends this task.
            std::future::pending::<()>().await;
        }
    }
}
