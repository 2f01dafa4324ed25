//! Links that lose, delay, repeat, reorder and break one way.
//!
//! Datagrams suffer all of it. Streams, as QUIC gives them, are ordered and lose nothing while their connection lives;
//! a cut longer than the idle timeout ends the connection and what was under way.

use std::collections::HashMap;

use rand::RngExt;
use rand::rngs::StdRng;

/// A cut that lasts longer ends connections.
pub(crate) const IDLE_TIMEOUT_NS: u64 = 5_000_000_000;
const MS: u64 = 1_000_000;

/// One direction between two peers.
#[derive(Clone, Debug, Default)]
struct Link<M> {
    cut_since: Option<u64>,
    /// The connection did not survive a cut of this direction.
    broken: bool,
    /// Stream messages that wait for the cut to end.
    held: Vec<M>,
    /// The newest delivery on the stream: later messages do not overtake it.
    last_delivery: u64,
}

/// What the end of a cut brings.
pub(crate) enum Healed<M> {
    /// The other direction is still cut, or there was no cut.
    Nothing,
    /// The connection lives: these arrive.
    Delivered(Vec<M>),
    /// The connection ended: both ends have to connect anew.
    Reset,
}

#[derive(Clone, Debug)]
pub(crate) struct Network<M> {
    links: HashMap<(usize, usize), Link<M>>,
    pub(crate) loss: f64,
}

impl<M: Clone> Network<M> {
    pub(crate) fn new() -> Network<M> {
        Network { links: HashMap::new(), loss: 0.0 }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link<M> {
        let empty = || Link { cut_since: None, broken: false, held: Vec::new(), last_delivery: 0 };
        self.links.entry((from, to)).or_insert_with(empty)
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, now: u64) {
        self.link(from, to).cut_since.get_or_insert(now);
    }

    /// Ends a cut of one direction. Once both directions work again, gives the stream messages that arrive after all,
    /// or says that the connection did not survive.
    pub(crate) fn heal(&mut self, from: usize, to: usize, now: u64) -> Healed<M> {
        let Some(since) = self.link(from, to).cut_since.take() else { return Healed::Nothing };
        self.link(from, to).broken |= now - since > IDLE_TIMEOUT_NS;
        if self.link(to, from).cut_since.is_some() {
            return Healed::Nothing;
        }
        let broken = std::mem::take(&mut self.link(from, to).broken) | std::mem::take(&mut self.link(to, from).broken);
        let mut held = std::mem::take(&mut self.link(from, to).held);
        held.append(&mut self.link(to, from).held);
        if broken { Healed::Reset } else { Healed::Delivered(held) }
    }

    /// Streams need both directions: without acknowledgements nothing more is sent.
    pub(crate) fn streams_blocked(&self, from: usize, to: usize) -> bool {
        let cut = |a, b| self.links.get(&(a, b)).is_some_and(|link| link.cut_since.is_some());
        cut(from, to) || cut(to, from)
    }

    /// When a datagram sent now arrives, for each time it does.
    pub(crate) fn datagram(&mut self, from: usize, to: usize, now: u64, rng: &mut StdRng) -> Vec<u64> {
        let loss = self.loss;
        let link = self.link(from, to);
        if link.cut_since.is_some() || rng.random_bool(loss) {
            return Vec::new();
        }
        let copies = if rng.random_bool(0.002) { 2 } else { 1 };
        (0..copies).map(|_| now + rng.random_range(MS / 10..3 * MS)).collect()
    }

    /// When a stream message sent now arrives; `None` while the link is cut, which holds it.
    pub(crate) fn stream(&mut self, from: usize, to: usize, message: M, now: u64, rng: &mut StdRng) -> Option<u64> {
        let loss = self.loss;
        let blocked = self.streams_blocked(from, to);
        let link = self.link(from, to);
        if blocked {
            link.held.push(message);
            return None;
        }
        // A lost packet costs a retransmission, and what follows waits behind it.
        let resent = if rng.random_bool(loss) { rng.random_range(20 * MS..150 * MS) } else { 0 };
        let at = (now + rng.random_range(MS / 10..3 * MS) + resent).max(link.last_delivery + 1);
        link.last_delivery = at;
        Some(at)
    }
}
