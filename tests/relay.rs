//! A UDP relay before a peer: what others send it goes through here, and can be lost, delayed or cut in one direction.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::Peer;

/// What happens to packets on their way to one peer, and to the answers.
#[derive(Debug, Default)]
pub struct Faults {
    /// Packets of so many in a thousand are lost, in each direction.
    pub loss: AtomicU64,
    /// Packets wait so many ms, and up to as many more.
    pub delay_ms: AtomicU64,
    /// After so many packets in a thousand an earlier one comes again, as a line that repeats, or somebody who listens, sends it.
    pub repeats: AtomicU64,
    /// From these ports nothing reaches the peer.
    pub cut_in: Mutex<BTreeSet<u16>>,
    /// And to these nothing comes back, on connections that they opened.
    pub cut_out: Mutex<BTreeSet<u16>>,
}

/// The relay of one peer.
pub struct Relay {
    pub address: SocketAddr,
    pub faults: Arc<Faults>,
}

impl Relay {
    /// Relays from a port of its own to the peer's.
    pub fn before(peer: u16) -> Relay {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a free port"));
        let address = front.local_addr().expect("bound");
        let faults = Arc::new(Faults::default());
        let to: SocketAddr = ([127, 0, 0, 1], peer).into();
        let shared = Arc::clone(&faults);
        std::thread::spawn(move || forward(&front, to, &shared));
        Relay { address, faults }
    }
}

impl Faults {
    fn set(set: &Mutex<BTreeSet<u16>>, port: u16, cut: bool) {
        let mut set = set.lock().expect("no holder panics");
        if cut {
            set.insert(port)
        } else {
            set.remove(&port)
        };
    }

    fn has(set: &Mutex<BTreeSet<u16>>, port: u16) -> bool {
        set.lock().expect("no holder panics").contains(&port)
    }
}

/// Cuts, or heals, what one peer sends another, whichever of the two opened the connection.
pub fn cut(peers: &[Peer], relays: &[Relay], from: usize, to: usize, cut: bool) {
    Faults::set(&relays[to].faults.cut_in, peers[from].cluster, cut);
    Faults::set(&relays[from].faults.cut_out, peers[to].cluster, cut);
}

/// Each sender has a socket of its own towards the peer, so that answers find back.
fn forward(front: &Arc<UdpSocket>, to: SocketAddr, faults: &Arc<Faults>) {
    let backs: Mutex<BTreeMap<SocketAddr, Arc<UdpSocket>>> = Mutex::default();
    let mut buffer = [0; 65_536];
    let mut dice = Dice(0x9e37_79b9);
    let mut heard: VecDeque<Vec<u8>> = VecDeque::new();
    while let Ok((length, from)) = front.recv_from(&mut buffer) {
        let mut backs = backs.lock().expect("no holder panics");
        let back = backs.entry(from).or_insert_with(|| {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a free port"));
            let (socket, front, faults) = (Arc::clone(&back), Arc::clone(front), Arc::clone(faults));
            std::thread::spawn(move || answer(&socket, &front, from, &faults));
            back
        });
        if !Faults::has(&faults.cut_in, from.port()) && !dice.loses(faults) {
            send(back, &buffer[..length], to, faults, &mut dice);
            repeat(back, &buffer[..length], to, faults, &mut dice, &mut heard);
        }
    }
}

fn answer(back: &UdpSocket, front: &Arc<UdpSocket>, to: SocketAddr, faults: &Faults) {
    let mut buffer = [0; 65_536];
    let mut dice = Dice(0x1234_5678);
    while let Ok((length, _)) = back.recv_from(&mut buffer) {
        if !Faults::has(&faults.cut_out, to.port()) && !dice.loses(faults) {
            send(front, &buffer[..length], to, faults, &mut dice);
        }
    }
}

/// Sends one of the last packets again, now and then.
fn repeat(
    socket: &Arc<UdpSocket>,
    packet: &[u8],
    to: SocketAddr,
    faults: &Faults,
    dice: &mut Dice,
    heard: &mut VecDeque<Vec<u8>>,
) {
    let repeats = faults.repeats.load(Ordering::Relaxed);
    if repeats == 0 {
        return;
    }
    heard.push_back(packet.to_vec());
    if heard.len() > 500 {
        heard.pop_front();
    }
    if dice.next() % 1000 < repeats {
        let again = &heard[dice.next() as usize % heard.len()];
        send(socket, again, to, faults, dice);
    }
}

fn send(socket: &Arc<UdpSocket>, packet: &[u8], to: SocketAddr, faults: &Faults, dice: &mut Dice) {
    let delay = faults.delay_ms.load(Ordering::Relaxed);
    if delay == 0 {
        let _ = socket.send_to(packet, to);
        return;
    }
    let (socket, packet, wait) = (Arc::clone(socket), packet.to_vec(), delay + dice.next() % delay);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(wait));
        let _ = socket.send_to(&packet, to);
    });
}

/// A small generator: the same packets are lost in every run that sends the same ones.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn loses(&mut self, faults: &Faults) -> bool {
        self.next() % 1000 < faults.loss.load(Ordering::Relaxed)
    }
}
