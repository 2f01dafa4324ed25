//! The minds at work: each waits for input or its next deadline, whichever comes first.
//!
//! The mesh has a thread of its own. Membership lives on the thread of the connections, as almost all that it hears and says
//! are small packets: between the socket and the mind they wake nobody. What either wants said to other peers it says
//! itself; all else is for the hands.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_cluster::{Membership, MembershipInput, MembershipOutput, Snapshot};
use promesh_model::{Monotonic, PeerId, Timestamp};
use promesh_node::{Input, Mesh, Output, SourceSpec};
use promesh_replication::BatchHeader;
use promesh_transport::Transport;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::telemetry::Telemetry;

/// A `handle` that takes longer is a WARN: everything else waits meanwhile.
const HANDLE_MAX: Duration = Duration::from_millis(5);
/// The longest sleep, so that a stepped wall clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Where peers are reached, by id.
pub type Addresses = Arc<ArcSwap<BTreeMap<PeerId, SocketAddr>>>;

/// What is said to membership.
pub enum ToMembership {
    /// Something happened.
    Input(MembershipInput),
    /// Somebody wants all it knows.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// What is said to the thread of the mesh.
pub enum ToMesh {
    /// Something happened.
    Input(Input),
    /// The peer stops: end the thread.
    Stop,
}

/// Ways to the minds.
#[derive(Clone)]
pub struct Minds {
    /// To membership.
    pub membership: mpsc::UnboundedSender<ToMembership>,
    /// To the mesh.
    pub mesh: Sender<ToMesh>,
    /// Headers of batches that were stored, until the mesh next wakes for something: it takes note of them before anything
    /// else, so that they need not wake it.
    appended: Arc<Mutex<Vec<BatchHeader>>>,
    starter: Arc<OnceLock<Starter>>,
}

/// Starts the slot of a source, with this peer's rank; answers `false` where the source is none of its.
pub type Starter = Box<dyn Fn(SourceSpec, Timestamp, u8) -> bool + Send + Sync>;

impl Minds {
    /// Tells the mesh. A mind that has ended hears nothing.
    pub fn tell(&self, input: Input) {
        let _ = self.mesh.send(ToMesh::Input(input));
    }

    /// Has slots started by this first, on the mesh's own thread: a scrape's beginning wakes nobody in between. It must not
    /// block. Called once.
    pub fn start_with(&self, starter: Starter) {
        let _ = self.starter.set(starter);
    }

    /// Tells the mesh of a batch that was stored.
    pub fn note_appended(&self, header: BatchHeader) {
        self.appended.lock().push(header);
    }

    /// Tells membership.
    pub fn tell_membership(&self, input: MembershipInput) {
        let _ = self.membership.send(ToMembership::Input(input));
    }

    /// All that membership knows.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (answer, asked) = oneshot::channel();
        self.membership.send(ToMembership::Snapshot(answer)).ok()?;
        asked.await.ok()
    }
}

/// What the hands have to do.
pub enum Task {
    /// Exchange what is known of members with whoever is there.
    Exchange(SocketAddr),
    /// What the mesh wants, and what could not be said at once.
    Mesh(Output),
}

/// What the minds are told by, until they are started.
pub struct Inboxes {
    membership: mpsc::UnboundedReceiver<ToMembership>,
    mesh: Receiver<ToMesh>,
}

/// Membership and where its packets go; `own` is this peer's address.
pub struct Reach {
    /// Who is there.
    pub membership: Membership,
    /// The way to them.
    pub transport: Transport,
    /// Where this peer is itself.
    pub own: SocketAddr,
}

/// Says what the mesh wants said; gives back what is not to be said. It must not block.
pub type Speaker = Box<dyn Fn(Output) -> Option<Output> + Send>;

impl Minds {
    /// Ways to minds that are not started yet: what they are told waits.
    pub fn new() -> (Minds, Inboxes) {
        let (membership, membership_inbox) = mpsc::unbounded_channel();
        let (mesh, mesh_inbox) = channel();
        let minds = Minds { membership, mesh, appended: Arc::default(), starter: Arc::default() };
        (minds, Inboxes { membership: membership_inbox, mesh: mesh_inbox })
    }
}

impl Inboxes {
    /// Starts both minds. Without a way to others (the cluster is off) there is only the mesh.
    pub fn start(
        self,
        minds: &Minds,
        reach: Option<Reach>,
        mesh: Mesh,
        addresses: Addresses,
        telemetry: Arc<Telemetry>,
        (say, tasks): (Speaker, mpsc::UnboundedSender<Task>),
    ) -> std::io::Result<JoinHandle<()>> {
        if let Some(reach) = reach {
            let transport = reach.transport.clone();
            transport.spawn(run_membership(reach, self.membership, minds.clone(), tasks.clone(), addresses));
        }
        let (own, inbox) = (minds.clone(), self.mesh);
        let body = move || run_mesh(mesh, &inbox, &own, (&say, &tasks), &telemetry);
        std::thread::Builder::new().name("mesh".to_owned()).spawn(body)
    }
}

/// How long to wait at most.
fn patience(until: Option<Monotonic>) -> Duration {
    until.map_or(SLEEP_MAX, |at| at.since(clock::monotonic()).min(SLEEP_MAX))
}

async fn run_membership(
    reach: Reach,
    mut inbox: mpsc::UnboundedReceiver<ToMembership>,
    minds: Minds,
    tasks: mpsc::UnboundedSender<Task>,
    addresses: Addresses,
) {
    let Reach { membership: mut machine, transport, own } = reach;
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                // It may be told of this peer's former life, which had the same address.
                MembershipOutput::Datagram { to, .. } | MembershipOutput::Exchange { to } if to == own => {}
                MembershipOutput::Datagram { to, bytes } => {
                    // What can happen to a datagram is counted.
                    let _ = transport.send_datagram(to, bytes);
                }
                MembershipOutput::Members(members) => {
                    let known = members.iter().map(|member| (member.id, member.address)).collect();
                    addresses.store(Arc::new(known));
                    minds.tell(Input::Members(members));
                }
                MembershipOutput::Exchange { to } => {
                    if tasks.send(Task::Exchange(to)).is_err() {
                        return;
                    }
                }
            }
        }
        let input = match tokio::time::timeout(patience(machine.poll_timeout()), inbox.recv()).await {
            Ok(Some(ToMembership::Input(input))) => input,
            Ok(Some(ToMembership::Snapshot(answer))) => {
                let _ = answer.send(machine.snapshot());
                continue;
            }
            Ok(None) => return,
            Err(_) => MembershipInput::Timeout,
        };
        machine.handle(input, clock::now());
    }
}

fn run_mesh(
    mut machine: Mesh,
    inbox: &Receiver<ToMesh>,
    minds: &Minds,
    (say, tasks): (&Speaker, &mpsc::UnboundedSender<Task>),
    telemetry: &Telemetry,
) {
    let mut noted = Vec::new();
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Record(record) => {
                    let _ = minds.membership.send(ToMembership::Input(MembershipInput::Record(record)));
                }
                Output::Inquire(peer) => {
                    let _ = minds.membership.send(ToMembership::Input(MembershipInput::Inquire(peer)));
                }
                Output::Start { spec, slot, rank }
                    if minds.starter.get().is_some_and(|start| start(spec, slot, rank)) => {}
                other => {
                    if say(other).is_some_and(|rest| tasks.send(Task::Mesh(rest)).is_err()) {
                        return;
                    }
                }
            }
        }
        let input = match inbox.recv_timeout(patience(machine.poll_timeout(clock::now()))) {
            Ok(ToMesh::Input(input)) => input,
            Ok(ToMesh::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => Input::Timeout,
        };
        let now = clock::now();
        std::mem::swap(&mut noted, &mut *minds.appended.lock());
        for header in noted.drain(..) {
            machine.handle(Input::Appended(header), now);
        }
        machine.handle(input, now);
        let took = clock::monotonic().since(now.monotonic);
        telemetry.handled(took);
        if took > HANDLE_MAX {
            tracing::debug!(?took, "the mesh took long over one input");
        }
    }
}
