//! Looking for others while this peer knows nobody alive.
//!
//! Whoever was known before is asked at once, and seeds as soon as their names are known. A name server that says nothing,
//! or an address behind which nobody is, holds up nobody else: each name and each address has its own time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::hands::Hands;

/// How often a peer that knows nobody alive looks for others.
const PERIOD: Duration = Duration::from_millis(500);

/// What the names of seeds last led to. A name that is not known any more leads where it led.
#[derive(Default)]
struct Found {
    addresses: Mutex<BTreeMap<String, BTreeSet<SocketAddr>>>,
    changed: Notify,
}

/// Looks for others for as long as the peer runs, while it knows nobody alive: at `known`, where members were when it last
/// ran, where those were that it met since, and where `seeds` lead, whose names are looked up again and again.
pub async fn seek(hands: Arc<Hands>, seeds: Vec<String>, known: Vec<SocketAddr>, own: SocketAddr) {
    let found = Arc::new(Found::default());
    for seed in seeds {
        tokio::spawn(look_up(Arc::clone(&hands), seed, Arc::clone(&found)));
    }
    let asking: Arc<Mutex<BTreeSet<SocketAddr>>> = Arc::default();
    let said = Arc::new(AtomicBool::new(false));
    loop {
        if hands.is_alone() {
            let mut addresses: BTreeSet<SocketAddr> = known.iter().copied().chain(hands.met()).collect();
            addresses.extend(found.addresses.lock().values().flatten());
            addresses.remove(&own);
            for address in addresses {
                if !asking.lock().insert(address) {
                    continue;
                }
                let (hands, asking, said) = (Arc::clone(&hands), Arc::clone(&asking), Arc::clone(&said));
                tokio::spawn(async move {
                    if !hands.exchange(address).await && hands.is_alone() && !said.swap(true, Ordering::Relaxed) {
                        tracing::info!(%address, "nobody answers there yet, trying on, and wherever else others may be");
                    }
                    asking.lock().remove(&address);
                });
            }
        }
        let _ = tokio::time::timeout(PERIOD, found.changed.notified()).await;
    }
}

/// Looks up one seed again and again while nobody alive is known.
async fn look_up(hands: Arc<Hands>, seed: String, found: Arc<Found>) {
    let mut is_unknown = false;
    loop {
        if hands.is_alone() {
            match tokio::net::lookup_host(seed.as_str()).await {
                Ok(addresses) => {
                    is_unknown = false;
                    let addresses: BTreeSet<SocketAddr> = addresses.collect();
                    if found.addresses.lock().insert(seed.clone(), addresses.clone()) != Some(addresses) {
                        found.changed.notify_one();
                    }
                }
                // Once, and again when it was known in between: this loop turns twice a second.
                Err(error) => {
                    if !std::mem::replace(&mut is_unknown, true) {
                        tracing::warn!(seed, %error, "a seed's name is not known, trying on");
                    }
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}
