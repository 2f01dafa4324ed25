//! Membership, mesh and alerting as one: how a peer's machines feed each other.

use bytes::Bytes;
use promesh_alerting::Alerting;
use promesh_cluster::{Membership, MembershipInput, MembershipOutput, Snapshot};
use promesh_model::{Monotonic, Now};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::alerting::alert_members;
use crate::mesh::{Input, Mesh, Output};
use crate::view::MeshView;

/// What happens to a peer.
#[derive(Debug)]
pub enum PeerInput {
    /// A SWIM packet.
    Datagram(Bytes),
    /// Another peer's membership state.
    Snapshot(Snapshot),
    /// Something for the mesh.
    Mesh(Input),
    /// Something for alerting.
    Alerting(promesh_alerting::Input),
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
    /// Something of alerting.
    Alerting(promesh_alerting::Output),
}

/// A peer's machines.
pub struct Peer {
    /// Who is alive.
    pub membership: Membership,
    /// Who does what.
    pub mesh: Mesh,
    /// Who is told of what; none on a peer without receivers.
    pub alerting: Option<Alerting>,
    /// Of the alerting configuration; all peers of one composition run the same.
    digest: Option<u128>,
    zone: String,
    view: Option<Arc<MeshView>>,
    /// The mesh's next deadline as it was after the last input: asked at that very instant it may name a later one.
    mesh_deadline: Option<Monotonic>,
    outputs: VecDeque<PeerOutput>,
}

impl Peer {
    /// Joins two machines of one peer.
    pub fn new(membership: Membership, mesh: Mesh, now: Now) -> Peer {
        let mut peer = Peer {
            membership,
            mesh,
            alerting: None,
            digest: None,
            zone: String::new(),
            view: None,
            mesh_deadline: None,
            outputs: VecDeque::new(),
        };
        peer.pump(now);
        peer
    }

    /// Adds the third machine of a peer in a zone; its configuration has this digest here and at every other peer.
    pub fn with_alerting(mut self, alerting: Alerting, digest: u128, zone: &str, now: Now) -> Peer {
        self.alerting = Some(alerting);
        self.digest = Some(digest);
        self.zone = zone.to_owned();
        // A lone peer's only view may have come before.
        self.tell_members(now);
        self.pump(now);
        self
    }

    fn tell_members(&mut self, now: Now) {
        if let (Some(alerting), Some(view)) = (&mut self.alerting, &self.view) {
            let members = alert_members(view, (&self.zone, None), |_| self.digest);
            alerting.handle(promesh_alerting::Input::View { members, view: view.number }, now);
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: PeerInput, now: Now) {
        match input {
            PeerInput::Datagram(bytes) => self.membership.handle(MembershipInput::Datagram(bytes), now),
            PeerInput::Snapshot(snapshot) => self.membership.handle(MembershipInput::Snapshot(snapshot), now),
            PeerInput::Mesh(input) => self.mesh.handle(input, now),
            PeerInput::Alerting(input) => {
                if let Some(alerting) = &mut self.alerting {
                    alerting.handle(input, now);
                }
            }
            PeerInput::Timeout => {
                if self.membership.poll_timeout().is_some_and(|at| at <= now.monotonic) {
                    self.membership.handle(MembershipInput::Timeout, now);
                }
                if self.mesh_deadline.is_some_and(|at| at <= now.monotonic) {
                    self.mesh.handle(Input::Timeout, now);
                }
                if let Some(alerting) = &mut self.alerting
                    && alerting.poll_timeout().is_some_and(|at| at <= now.monotonic)
                {
                    alerting.handle(promesh_alerting::Input::Timeout, now);
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
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let alerting = self.alerting.as_ref().and_then(Alerting::poll_timeout);
        [self.membership.poll_timeout(), self.mesh_deadline, alerting].into_iter().flatten().min()
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
                    Output::Inquire(peer) => self.membership.handle(MembershipInput::Inquire(peer), now),
                    Output::View(view) => {
                        self.view = Some(Arc::clone(&view));
                        self.tell_members(now);
                        self.outputs.push_back(PeerOutput::Mesh(Output::View(view)));
                    }
                    output => self.outputs.push_back(PeerOutput::Mesh(output)),
                }
            }
            while let Some(output) = self.alerting.as_mut().and_then(Alerting::poll_output) {
                quiet = false;
                self.outputs.push_back(PeerOutput::Alerting(output));
            }
            if quiet {
                self.mesh_deadline = self.mesh.poll_timeout(now);
                return;
            }
        }
    }
}
