//! Links that lose, delay, repeat, reorder and break one way.
//!
//! Datagrams suffer all of it. Streams, as QUIC gives them, are ordered and lose nothing while their connection lives;
//! a cut longer than the idle timeout ends the connection and what was under way.

use rand::RngExt;
use rand::rngs::StdRng;

/// A cut that lasts longer ends connections.
pub(crate) const IDLE_TIMEOUT_NS: u64 = 5_000_000_000;
const MS: u64 = 1_000_000;

/// One direction between two peers.
#[derive(Clone, Debug)]
struct Link<M> {
    /// Counts the connections that ended: what was sent on an earlier one does not arrive.
    connection: u32,
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
    /// By sender, then receiver; rows grow as they are used.
    links: Vec<Vec<Link<M>>>,
    pub(crate) loss: f64,
}

impl<M> Network<M> {
    pub(crate) fn new() -> Network<M> {
        Network { links: Vec::new(), loss: 0.0 }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link<M> {
        if self.links.len() <= from {
            self.links.resize_with(from + 1, Vec::new);
        }
        let row = &mut self.links[from];
        if row.len() <= to {
            let empty = || Link { connection: 0, cut_since: None, broken: false, held: Vec::new(), last_delivery: 0 };
            row.resize_with(to + 1, empty);
        }
        &mut row[to]
    }

    /// Which connection from one peer to another this is.
    pub(crate) fn connection(&mut self, from: usize, to: usize) -> u32 {
        self.link(from, to).connection
    }

    /// The connection of two peers ended, both ways.
    pub(crate) fn disconnect(&mut self, from: usize, to: usize) {
        self.link(from, to).connection += 1;
        self.link(to, from).connection += 1;
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
        let link = |a: usize, b: usize| self.links.get(a).and_then(|row| row.get(b));
        let cut = |a, b| link(a, b).is_some_and(|link| link.cut_since.is_some());
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

    /// When a stream message sent now arrives, and the message; `None` while the link is cut, which holds it.
    pub(crate) fn stream(
        &mut self,
        from: usize,
        to: usize,
        message: M,
        now: u64,
        rng: &mut StdRng,
    ) -> Option<(u64, M)> {
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
        Some((at, message))
    }
}
