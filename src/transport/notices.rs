//! What is logged of trouble from outside: each kind once an address, and of a few addresses only.
//!
//! Whoever floods a port may write any sender into its packets: a line an address would be a flood of lines. After an hour
//! the addresses are forgotten, so that a peer that is set up wrongly later is told of too.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use crate::counters::RefusalReason;

/// Addresses that are named for one kind of trouble; of further ones nothing is said.
const ADDRESSES_MAX: usize = 8;
/// When they are forgotten.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// What is wrong with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trouble {
    /// A handshake that came to nothing.
    Refused(RefusalReason),
    /// Datagrams that are nothing of ours.
    Garbage,
    /// Datagrams that were here before.
    Repeated,
    /// Streams of a peer that are no frames, or too long ones.
    Malformed,
}

/// Whom what was said of.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<HashSet<(Trouble, IpAddr)>>);

impl Notices {
    /// Says it, unless it was said of this address, or of enough others.
    pub fn say(&self, trouble: Trouble, remote: SocketAddr, why: impl std::fmt::Display) {
        if !self.is_news(trouble, remote.ip()) {
            return;
        }
        match trouble {
            Trouble::Refused(reason) => {
                let reason = reason.name();
                warn!(%remote, reason, %why, "refused a peer; further ones from this address are only counted");
            }
            Trouble::Garbage => {
                warn!(%remote, "datagrams come that are nothing of ours; further ones from this address are only counted");
            }
            Trouble::Repeated => {
                warn!(%remote, "a datagram came a second time, by a line that repeats or by who heard it; further ones are only counted");
            }
            Trouble::Malformed => {
                warn!(%remote, %why, "stopped a stream of a peer; further ones from this address are only counted");
            }
        }
    }

    fn is_news(&self, trouble: Trouble, from: IpAddr) -> bool {
        let mut said = self.0.lock();
        let is_said = said.contains(&(trouble, from));
        let news = !is_said && said.iter().filter(|(other, _)| *other == trouble).count() < ADDRESSES_MAX;
        if news {
            said.insert((trouble, from));
        }
        news
    }

    /// Begins anew.
    pub fn forget(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_an_address_and_of_a_few_addresses() {
        let notices = Notices::default();
        let of = |trouble: Trouble, addresses: std::ops::Range<u8>| {
            addresses.filter(|last| notices.is_news(trouble, IpAddr::from([10, 0, 0, *last]))).count()
        };
        let busy = Trouble::Refused(RefusalReason::Busy);
        assert_eq!([of(Trouble::Garbage, 0..1), of(Trouble::Garbage, 0..1), of(busy, 0..1)], [1, 0, 1]);
        assert_eq!([of(Trouble::Garbage, 0..200), of(busy, 0..200)], [ADDRESSES_MAX - 1; 2]);
        notices.forget();
        assert_eq!(of(Trouble::Garbage, 0..1), 1);
    }
}
