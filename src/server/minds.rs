//! The threads of the minds: each waits for input or its next deadline, whichever comes first.

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

/// What is said to the thread of membership.
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
    pub membership: Sender<ToMembership>,
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
    /// For membership.
    Membership(MembershipOutput),
    /// For the mesh.
    Mesh(Output),
}

/// Starts both threads. Without a membership (the cluster is off) there is only the mesh.
pub fn start(
    membership: Option<Membership>,
    mesh: Mesh,
    addresses: Addresses,
    telemetry: Arc<Telemetry>,
) -> (Minds, mpsc::UnboundedReceiver<Task>, Vec<JoinHandle<()>>) {
    let (to_membership, membership_inbox) = channel();
    let (to_mesh, mesh_inbox) = channel();
    let (tasks, hands) = mpsc::unbounded_channel();
    let minds = Minds { membership: to_membership, mesh: to_mesh, appended: Arc::default(), starter: Arc::default() };
    let mut threads = Vec::new();
    if let Some(machine) = membership {
        let (minds, tasks) = (minds.clone(), tasks.clone());
        let body = move || run_membership(machine, &membership_inbox, &minds, &tasks, &addresses);
        threads.push(spawn("membership", body));
    }
    let own = minds.clone();
    threads.push(spawn("mesh", move || run_mesh(mesh, &mesh_inbox, &own, &tasks, &telemetry)));
    (minds, hands, threads)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("the system gives a peer its two threads")
}

fn wait<T>(inbox: &Receiver<T>, until: Option<Monotonic>) -> Result<Option<T>, ()> {
    let sleep = until.map_or(SLEEP_MAX, |at| at.since(clock::monotonic()).min(SLEEP_MAX));
    match inbox.recv_timeout(sleep) {
        Ok(message) => Ok(Some(message)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(()),
    }
}

fn run_membership(
    mut machine: Membership,
    inbox: &Receiver<ToMembership>,
    minds: &Minds,
    tasks: &mpsc::UnboundedSender<Task>,
    addresses: &Addresses,
) {
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                MembershipOutput::Members(members) => {
                    let known = members.iter().map(|member| (member.id, member.address)).collect();
                    addresses.store(Arc::new(known));
                    minds.tell(Input::Members(members));
                }
                other => {
                    if tasks.send(Task::Membership(other)).is_err() {
                        return;
                    }
                }
            }
        }
        let input = match wait(inbox, machine.poll_timeout()) {
            Ok(Some(ToMembership::Input(input))) => input,
            Ok(Some(ToMembership::Snapshot(answer))) => {
                let _ = answer.send(machine.snapshot());
                continue;
            }
            Ok(None) => MembershipInput::Timeout,
            Err(()) => return,
        };
        machine.handle(input, clock::now());
    }
}

fn run_mesh(
    mut machine: Mesh,
    inbox: &Receiver<ToMesh>,
    minds: &Minds,
    tasks: &mpsc::UnboundedSender<Task>,
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
                    if tasks.send(Task::Mesh(other)).is_err() {
                        return;
                    }
                }
            }
        }
        let input = match wait(inbox, machine.poll_timeout(clock::now())) {
            Ok(Some(ToMesh::Input(input))) => input,
            Ok(Some(ToMesh::Stop)) | Err(()) => return,
            Ok(None) => Input::Timeout,
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
