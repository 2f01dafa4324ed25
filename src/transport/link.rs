//! One connection to one peer, and the table of them.
//!
//! Per address and class there is at most one connection that new things go out on. Two made at once from both sides
//! are both served; the one dialled by the smaller peer id is used, and the dialler of the other closes it a moment
//! later. A connection of another boot of the same peer replaces the old one at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use promesh_model::PeerId;
use quinn::VarInt;
use tokio::sync::watch;

use crate::counters::RefusalReason;
use crate::event::Class;

pub(crate) const CODE_CLOSED: VarInt = VarInt::from_u32(16);
pub(crate) const CODE_DUPLICATE: VarInt = VarInt::from_u32(17);
pub(crate) const CODE_REPLACED: VarInt = VarInt::from_u32(18);
pub(crate) const CODE_REFUSED: VarInt = VarInt::from_u32(19);
/// How long the less wanted of two connections lives on, for what is under way on it.
pub(crate) const DUPLICATE_GRACE: Duration = Duration::from_secs(1);
/// Datagrams that wait for a connection; older ones are worthless to SWIM.
const DATAGRAMS_PENDING_MAX: usize = 8;

/// A connection whose hello is done.
#[derive(Debug)]
pub(crate) struct Link {
    pub connection: quinn::Connection,
    pub addr: SocketAddr,
    pub class: Class,
    pub peer: PeerId,
    /// Hash of the peer's public key.
    pub key: [u8; 32],
    /// Which life of the peer.
    pub boot: u64,
    /// The protocol version that the pair speaks.
    pub version: u16,
    pub dialed_by: PeerId,
}

impl Link {
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

/// Why there is no connection to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialFailure {
    Oneself,
    Unreachable(Arc<str>),
}

#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    Down,
    Dialing,
    Up(Arc<Link>),
    /// Dialled in vain; the next attempt waits.
    Cooling(DialFailure),
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub state: watch::Sender<LinkState>,
    pub pending: Vec<Bytes>,
    pub failures: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Slot { state: watch::Sender::new(LinkState::Down), pending: Vec::new(), failures: 0 }
    }
}

impl Slot {
    pub fn open_link(&self) -> Option<Arc<Link>> {
        match &*self.state.borrow() {
            LinkState::Up(link) if link.is_open() => Some(Arc::clone(link)),
            _ => None,
        }
    }

    /// Keeps a datagram until there is a connection; says whether an older one had to go.
    pub fn keep(&mut self, datagram: Bytes) -> bool {
        let full = self.pending.len() == DATAGRAMS_PENDING_MAX;
        if full {
            self.pending.remove(0);
        }
        self.pending.push(datagram);
        full
    }
}

/// What the table made of a new connection.
#[derive(Debug)]
pub(crate) struct Installed {
    pub link: Arc<Link>,
    /// Connections that are now less wanted; closed by their dialler after a grace.
    pub retired: Option<Arc<Link>>,
    /// Connections to a former life of the peer: to be closed at once.
    pub replaced: Vec<Arc<Link>>,
    /// Whether the peer was not connected before in this class and life.
    pub is_new: bool,
    /// Datagrams that waited.
    pub pending: Vec<Bytes>,
}

/// All connections, by address and class.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub slots: HashMap<(SocketAddr, Class), Slot>,
}

impl Links {
    /// Takes a connection in.
    ///
    /// # Errors
    /// `KeyChanged` when a living connection to the same peer id has another key.
    pub fn install(&mut self, link: Link) -> Result<Installed, RefusalReason> {
        let same_peer_other_key =
            |slot: &Slot| slot.open_link().is_some_and(|old| old.peer == link.peer && old.key != link.key);
        if self.slots.values().any(same_peer_other_key) {
            return Err(RefusalReason::KeyChanged);
        }
        let replaced = self.take_former_lives(&link);
        let link = Arc::new(link);
        let slot = self.slots.entry((link.addr, link.class)).or_default();
        let old = slot.open_link();
        let wins = old.as_ref().is_none_or(|old| link.dialed_by <= old.dialed_by);
        if wins {
            slot.failures = 0;
            slot.state.send_replace(LinkState::Up(Arc::clone(&link)));
        }
        let is_new = old.is_none();
        let retired = if wins { old } else { Some(Arc::clone(&link)) };
        Ok(Installed { link, retired, replaced, is_new, pending: std::mem::take(&mut slot.pending) })
    }

    /// Takes out the connections at this address that belong to another boot or another peer.
    fn take_former_lives(&mut self, link: &Link) -> Vec<Arc<Link>> {
        let mut former = Vec::new();
        for class in Class::ALL {
            let Some(slot) = self.slots.get(&(link.addr, class)) else { continue };
            if let Some(old) = slot.open_link()
                && (old.boot, old.peer) != (link.boot, link.peer)
            {
                slot.state.send_replace(LinkState::Down);
                former.push(old);
            }
        }
        former
    }

    /// Forgets a closed connection; says whether it was the one in use.
    pub fn remove(&mut self, link: &Arc<Link>) -> bool {
        let Some(slot) = self.slots.get(&(link.addr, link.class)) else { return false };
        let in_use = matches!(&*slot.state.borrow(), LinkState::Up(current) if Arc::ptr_eq(current, link));
        if in_use {
            slot.state.send_replace(LinkState::Down);
        }
        in_use
    }

    pub fn open_links(&self) -> impl Iterator<Item = Arc<Link>> + '_ {
        self.slots.values().filter_map(Slot::open_link)
    }
}
