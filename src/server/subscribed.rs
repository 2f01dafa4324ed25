//! Whose streams to us bring what we asked for: a copy begins only then.
//!
//! A subscription goes by the live stream, a copy by a connection of its own. A copy that overtook the subscription left
//! a hole: what was written between the two came with neither. So the other side confirms a subscription on its stream,
//! and a copy waits for that. Who does not confirm in time, an older build or a peer whose stream is still being opened,
//! is copied from all the same, and once more when the confirmation comes after all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use promesh_model::PeerId;
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

/// "From here on this stream has my batches of the shards that you asked for": the hash of that request.
pub const SUBSCRIBED: u8 = 73;
/// How long a copy waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    /// What was asked of a peer and is not confirmed yet.
    asked: BTreeMap<PeerId, u64>,
    /// Peers that were copied from before they confirmed.
    hasty: BTreeSet<PeerId>,
}

/// What was asked of others, and whether they confirmed it.
#[derive(Debug, Default)]
pub struct Subscribed {
    state: Mutex<State>,
    confirmed: Notify,
}

/// What confirms a request.
pub fn mark(request: &[u8]) -> u64 {
    xxh3_64(request)
}

impl Subscribed {
    /// A request goes out; it replaces the one before.
    pub fn asks(&self, peer: PeerId, request: &[u8]) {
        self.state.lock().asked.insert(peer, mark(request));
    }

    /// A peer confirms a request; says whether copies were made too early, so that something may be missing.
    pub fn confirms(&self, peer: PeerId, mark: u64) -> bool {
        let mut state = self.state.lock();
        if state.asked.get(&peer) != Some(&mark) {
            return false;
        }
        state.asked.remove(&peer);
        self.confirmed.notify_waiters();
        state.hasty.remove(&peer)
    }

    /// Waits until a peer has confirmed what was asked of it, or no longer.
    pub async fn wait(&self, peer: PeerId) {
        let confirmed = async {
            loop {
                let next = self.confirmed.notified();
                tokio::pin!(next);
                next.as_mut().enable();
                if !self.state.lock().asked.contains_key(&peer) {
                    return;
                }
                next.await;
            }
        };
        if tokio::time::timeout(PATIENCE, confirmed).await.is_err() {
            self.state.lock().hasty.insert(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_waits_for_the_confirmation_of_the_newest_request() {
        let (subscribed, peer) = (Subscribed::default(), PeerId(1));
        subscribed.asks(peer, b"one");
        subscribed.asks(peer, b"two");
        assert!(!subscribed.confirms(peer, mark(b"one")));
        let waits = tokio::time::timeout(PATIENCE / 10, subscribed.wait(peer));
        assert!(waits.await.is_err(), "the newest request is not confirmed");
        let (waited, confirmed) = tokio::join!(tokio::time::timeout(PATIENCE / 2, subscribed.wait(peer)), async {
            tokio::task::yield_now().await;
            subscribed.confirms(peer, mark(b"two"))
        });
        assert!(waited.is_ok() && !confirmed, "nothing was copied too early");
    }

    #[tokio::test]
    async fn who_confirms_too_late_is_copied_from_again() {
        let (subscribed, peer) = (Subscribed::default(), PeerId(1));
        subscribed.asks(peer, b"one");
        subscribed.wait(peer).await;
        assert!(subscribed.confirms(peer, mark(b"one")));
        subscribed.asks(peer, b"one");
        assert!(!subscribed.confirms(peer, mark(b"one")), "once");
    }
}
