//! A running peer: what it consists of, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_cluster::MembershipInput;
use promesh_config::bytesize::ByteSize;
use promesh_discovery::Manager;
use promesh_model::storage::Queryable;
use promesh_model::{Generation, PeerId, duration};
use promesh_node::{Digests, Input, MeshView};
use promesh_promql::Engine;
use promesh_query::{MeshParts, PartCounters};
use promesh_transport::Transport;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::deletes::Deletes;
use crate::facts::Facts;
use crate::gateway::PushGroups;
use crate::hands::Hands;
use crate::history::History;
use crate::ingest::Ingest;
use crate::journal::Journal;
use crate::live::Live;
use crate::minds::{Minds, ToMesh};
use crate::operate;
use crate::options::{Options, RETENTION_UNLIMITED};
use crate::outgoing::Outgoing;
use crate::outside::Outside;
use crate::paging::Paging;
use crate::pushing::Pushing;
use crate::queries::Queries;
use crate::reach::Reach;
use crate::reading::Reading;
use crate::ruling::Ruling;
use crate::scraping::Scraping;
use crate::sending::Sending;
use crate::settings::Current;
use crate::telemetry::Telemetry;

/// How long a stopping peer waits for scrapes under way.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long it waits for its shards to be taken, at most; the mind waits a little less.
const LEAVE_MAX: Duration = Duration::from_secs(12);

/// Where the process stands.
pub const STARTING: u8 = 0;
/// It answers.
pub const READY: u8 = 1;
/// It is on its way out.
pub const STOPPING: u8 = 2;

/// A running peer.
pub struct Peer {
    /// Its command line.
    pub options: Arc<Options>,
    /// Its configuration.
    pub settings: Current,
    /// Batches in.
    pub ingest: Arc<Ingest>,
    /// Its targets.
    pub scraping: Arc<Scraping>,
    /// Its rule groups.
    pub ruling: Arc<Ruling>,
    /// Where their alerts go.
    pub(crate) outgoing: Arc<Outgoing>,
    /// Its alerting half.
    pub paging: Arc<Paging>,
    /// Pushed samples.
    pub pushing: Arc<Pushing>,
    /// Other servers that queries read from.
    pub(crate) reading: Arc<Reading>,
    /// Alerts to Alertmanagers outside.
    pub outside: Arc<Outside>,
    /// Samples on their way out.
    pub sending: Arc<Sending>,
    /// Streams of differences that came by OTLP.
    pub otlp_deltas: Arc<Mutex<promesh_otlp::DeltaState>>,
    /// What was deleted.
    pub deletes: Arc<Deletes>,
    /// Sealed history.
    pub history: Arc<History>,
    /// Requests of the HTTP side.
    pub http_meter: Arc<promesh_api::metered::HttpMeter>,
    /// Groups that batch jobs pushed.
    pub push_groups: Arc<PushGroups>,
    /// Where traces go.
    pub(crate) tracing: promesh_trace::Tracing,
    /// The mesh as it sees it.
    pub view: watch::Receiver<Option<Arc<MeshView>>>,
    /// The newest changes.
    pub journal: Arc<Journal>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// To other peers.
    pub transport: Option<Transport>,
    /// Streams to them.
    pub live: Option<Live>,
    /// Where others reach its QUIC endpoint.
    pub own_address: Option<SocketAddr>,
    /// Where others reach its HTTP server.
    pub web_address: SocketAddr,
    /// Who it is, in which life.
    pub id: PeerId,
    /// See `id`.
    pub generation: Generation,
    /// When it started.
    pub started_at: promesh_model::Timestamp,
    /// The query engine.
    pub engine: Arc<Engine>,
    /// The data of all peers.
    pub storage: Arc<dyn Queryable>,
    /// Where queries run.
    pub(crate) queries_run: Handle,
    /// Aggregations computed by the peers that have their samples.
    pub parts: Arc<MeshParts>,
    /// What those did.
    pub part_counters: Arc<PartCounters>,
    /// What queries run and ran.
    pub queries: Arc<Queries>,
    /// What peers tell about themselves to people.
    pub facts: tokio::sync::OnceCell<Arc<Facts>>,
    pub(crate) hands: Arc<Hands>,
    pub(crate) minds: Minds,
    pub(crate) discovery: Arc<Manager>,
    pub(crate) loopback: crate::discovering::Loopback,
    /// What the configuration in use says.
    pub(crate) digests: ArcSwap<Digests>,
    pub(crate) orders: Mutex<Option<mpsc::Receiver<operate::Relayed>>>,
    pub(crate) refused: watch::Receiver<Option<String>>,
    /// Peers that are down in the mesh and answer all the same.
    pub reach: Arc<Reach>,
    /// When the certificate in use ends, in ms since the epoch.
    pub certificate_ends: Option<Arc<AtomicI64>>,
    pub(crate) stage: AtomicU8,
    pub(crate) left: watch::Receiver<bool>,
    pub(crate) quit: tokio::sync::Notify,
    pub(crate) threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(crate) reloading: tokio::sync::Mutex<()>,
}

impl Peer {
    /// How many targets lie in shards that this peer acts for.
    pub fn targets_owned(&self) -> usize {
        let view = self.view.borrow().clone();
        let acting = |shard| view.as_ref().is_some_and(|view| view.acting.contains(shard));
        let mut owned = 0;
        self.scraping.look(|target, _| owned += usize::from(acting(target.shard)));
        owned
    }

    /// How long samples are kept at present.
    pub fn retention_time(&self) -> Duration {
        self.ingest.db().retention().time.unwrap_or(RETENTION_UNLIMITED)
    }

    /// How long and how much is kept, for people: `15d or 10GiB`.
    pub fn retention_shown(&self) -> String {
        let retention = self.ingest.db().retention();
        let time = Some(self.retention_time()).filter(|time| *time < RETENTION_UNLIMITED).map(duration::format);
        let bytes = retention.bytes.map(|bytes| ByteSize(i64::try_from(bytes).unwrap_or(i64::MAX)).to_string());
        let part = retention.percent.map(|percent| format!("{percent}%"));
        let all: Vec<String> = [time, bytes, part].into_iter().flatten().collect();
        all.join(" or ")
    }

    /// Where the process stands.
    pub fn stage(&self) -> u8 {
        self.stage.load(Ordering::Relaxed)
    }

    /// Asks the process to stop.
    pub fn ask_to_quit(&self) {
        self.quit.notify_one();
    }

    /// Tells the mesh mind.
    pub fn tell(&self, input: Input) {
        self.minds.tell(input);
    }

    /// Why this peer must not run, once another says so.
    pub(crate) async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        match refused.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            _ => std::future::pending().await,
        }
    }

    pub(crate) async fn quit_asked(&self) {
        self.quit.notified().await;
    }

    /// Gives everything away, finishes what was started, makes it durable, says goodbye.
    pub(crate) async fn stop(&self) {
        self.stage.store(STOPPING, Ordering::Relaxed);
        tracing::info!("stopping: giving shards away");
        self.minds.tell(Input::Leave);
        let mut left = self.left.clone();
        let _ = tokio::time::timeout(LEAVE_MAX, left.wait_for(|left| *left)).await;
        tokio::join!(self.scraping.drain(DRAIN_MAX), self.ruling.drain(DRAIN_MAX), self.paging.drain(DRAIN_MAX));
        if self.options.alertmanager.drain_on_shutdown {
            self.outside.drain(Duration::from_secs(3)).await;
        }
        self.sending.flush(self.options.remote.flush_deadline).await;
        self.tracing.stop().await;
        // What was streamed last has to reach the holders before the connections end.
        let drained = async {
            while self.live.as_ref().is_some_and(|live| live.backlog().values().any(|bytes| *bytes > 0)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
        self.minds.tell_membership(MembershipInput::Leave);
        // Who answers after it has said goodbye; then that is on its way.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.minds.snapshot()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let _ = self.minds.mesh.send(ToMesh::Stop);
        self.paging.stop();
        let db = Arc::clone(self.ingest.db());
        let synced = tokio::task::spawn_blocking(move || db.sync()).await;
        if let Ok(Err(error)) = synced {
            tracing::error!(%error, "the end of the log could not be made durable");
        }
        if let Some(transport) = &self.transport {
            transport.close().await;
        }
        self.threads.lock().clear();
        tracing::info!("See you next time!");
    }
}
