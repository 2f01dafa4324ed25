//! Membership and mesh as one: how a peer's machines feed each other.

use bytes::Bytes;
use promesh_cluster::{Membership, MembershipInput, MembershipOutput, Snapshot};
use promesh_model::{Monotonic, Now};
use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::mesh::{Input, Mesh, Output};

/// What happens to a peer.
#[derive(Debug)]
pub enum PeerInput {
    /// A SWIM packet.
    Datagram(Bytes),
    /// Another peer's membership state.
    Snapshot(Snapshot),
    /// Something for the mesh.
    Mesh(Input),
    /// A deadline has come.
    Timeout,
}

/// What a peer wants done.
#[derive(Debug)]
pub enum PeerOutput {
    /// Send a SWIM packet.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// The packet.
        bytes: Bytes,
    },
    /// Exchange membership states with a peer.
    Exchange {
        /// Its address.
        to: SocketAddr,
    },
    /// Something of the mesh.
    Mesh(Output),
}

/// A peer's machines.
pub struct Peer {
    /// Who is alive.
    pub membership: Membership,
    /// Who does what.
    pub mesh: Mesh,
    outputs: VecDeque<PeerOutput>,
}

impl Peer {
    /// Joins two machines of one peer.
    pub fn new(membership: Membership, mesh: Mesh, now: Now) -> Peer {
        let mut peer = Peer { membership, mesh, outputs: VecDeque::new() };
        peer.pump(now);
        peer
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: PeerInput, now: Now) {
        match input {
            PeerInput::Datagram(bytes) => self.membership.handle(MembershipInput::Datagram(bytes), now),
            PeerInput::Snapshot(snapshot) => self.membership.handle(MembershipInput::Snapshot(snapshot), now),
            PeerInput::Mesh(input) => self.mesh.handle(input, now),
            PeerInput::Timeout => {
                if self.membership.poll_timeout().is_some_and(|at| at <= now.monotonic) {
                    self.membership.handle(MembershipInput::Timeout, now);
                }
                if self.mesh.poll_timeout(now).is_some_and(|at| at <= now.monotonic) {
                    self.mesh.handle(Input::Timeout, now);
                }
            }
        }
        self.pump(now);
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<PeerOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Peer::handle`] with `Timeout`.
    pub fn poll_timeout(&self, now: Now) -> Option<Monotonic> {
        [self.membership.poll_timeout(), self.mesh.poll_timeout(now)].into_iter().flatten().min()
    }

    fn pump(&mut self, now: Now) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.membership.poll_output() {
                quiet = false;
                match output {
                    MembershipOutput::Datagram { to, bytes } => {
                        self.outputs.push_back(PeerOutput::Datagram { to, bytes });
                    }
                    MembershipOutput::Exchange { to } => self.outputs.push_back(PeerOutput::Exchange { to }),
                    MembershipOutput::Members(members) => self.mesh.handle(Input::Members(members), now),
                }
            }
            while let Some(output) = self.mesh.poll_output() {
                quiet = false;
                match output {
                    Output::Record(record) => self.membership.handle(MembershipInput::Record(record), now),
                    output => self.outputs.push_back(PeerOutput::Mesh(output)),
                }
            }
            if quiet {
                return;
            }
        }
    }
}
