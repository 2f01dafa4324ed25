//! A peer from its first breath to its last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_cluster::{Membership, MembershipInput, PeerRecord, PeerState};
use promesh_discovery::{Asker, Manager};
use promesh_model::storage::Queryable;
use promesh_model::{Generation, PeerId};
use promesh_node::{Digests, Input, Mesh, MeshConfig, MeshView};
use promesh_promql::Engine;
use promesh_query::{Holder, MeshParts, MeshQueryable, PartCounters};
use promesh_replication::Origin;
use promesh_transport::{PeerKey, TlsIdentity, Transport, TransportEvent, TransportOptions};
use promesh_tsdb::{Db, DbOptions, ReplayDecoder, ReplayProgress, SetAside};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::clock;
use crate::definitions;
use crate::deletes::Deletes;
use crate::facts::Facts;
use crate::gateway::PushGroups;
use crate::hands::Hands;
use crate::history::{History, HistoryMeans};
use crate::house::peer_addresses;
use crate::identity::PeerFolder;
use crate::ingest::{Ingest, Lanes, LogDecoder};
use crate::journal::Journal;
use crate::live::Live;
use crate::minds::{self, Addresses, Minds, ToMesh};
use crate::operate;
use crate::options::{ClusterOptions, Options, TrustOptions, WalSync};
use crate::outgoing::Outgoing;
use crate::outside::Outside;
use crate::paging::{self, Configuration, Paging};
use crate::pushing::Pushing;
use crate::queries::Queries;
use crate::reach::Reach;
use crate::reading::Reading;
use crate::ruling::{Means, Ruling};
use crate::scraping::Scraping;
use crate::sending::Sending;
use crate::serving::Serving;
use crate::settings::{self, Current, Settings};
use crate::telemetry::Telemetry;
use crate::trust::Trust;
use crate::twins::Own;

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

/// A failure to start: what, for people.
struct StartError(String);

impl<E: std::fmt::Display> From<E> for StartError {
    fn from(error: E) -> StartError {
        StartError(error.to_string())
    }
}

/// Parts of others' queries that are computed at once: they have turns of their own, so that neither keeps the other out.
const PARTS_AT_ONCE: usize = 16;

fn context<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}

/// Runs a peer until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    for warning in &options.warnings {
        tracing::warn!("{warning}");
    }
    // Another provider in the tree would make TLS ambiguous; ours is named everywhere and installed for the rest.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the system gives no threads");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(live(options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError(error)) => {
            for line in error.lines() {
                tracing::error!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn live(options: Options) -> Result<(), StartError> {
    let (settings, delivery) = settings::load(&options)?;
    let guard = settings::guard(&options)?;
    let mut stop = Signals::new()?;
    let progress = Arc::new(ReplayProgress::default());
    let mut serving = Serving::start(&options, guard.as_ref(), &progress).await?;
    let lanes = Arc::new(Lanes::default());
    let (db, set_aside, folder) = open(&options, &lanes, progress).await?;
    let (id, generation) = folder.next_life(clock::wall()).map_err(context("this peer's identity"))?;
    let cluster = match &options.cluster {
        Some(cluster) => Some(join(cluster, id, &folder).await?),
        None => None,
    };
    let options = Arc::new(options);
    let peer = Arc::new(Peer::start(
        options,
        (settings, delivery),
        (db, set_aside),
        lanes,
        folder,
        (id, generation),
        cluster,
        serving.address,
    )?);
    peer.tell_facts().await;
    serving.hand_over(&peer);
    peer.accompany();
    tracing::info!(peer = %id, generation = generation.0, configuration = %peer.options.config_file.path.display(), "started: ready once it holds what it should");
    loop {
        tokio::select! {
            _ = stop.terminate.recv() => break,
            _ = stop.interrupt.recv() => break,
            () = peer.quit_asked() => break,
            why = peer.refused() => return Err(StartError(why)),
            _ = stop.hangup.recv() => {
                // Said and counted where it happens.
                let _ = peer.reload().await;
            }
        }
    }
    peer.stop().await;
    drop(serving);
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn open(
    options: &Options,
    lanes: &Arc<Lanes>,
    progress: Arc<ReplayProgress>,
) -> Result<(Arc<Db>, Vec<SetAside>, PeerFolder), StartError> {
    let path = options.storage.path.clone();
    let lanes = Arc::clone(lanes);
    let storage = &options.storage;
    let mut db_options = DbOptions {
        retention: Some(storage.retention_time),
        retention_bytes: storage.retention_bytes,
        block_span_max: storage.block_span_max,
        seed: uuid::Uuid::new_v4().as_u128() as u64,
        progress: Arc::clone(&progress),
        ..DbOptions::default()
    };
    if !options.features.exemplar_storage {
        db_options.head.exemplars_max = 0;
    }
    if let Some(bytes) = storage.wal_bytes_max {
        db_options.log_bytes_max = bytes;
    }
    let opened = tokio::task::spawn_blocking(move || {
        let decoders = || -> Box<dyn ReplayDecoder> { Box::new(LogDecoder(Arc::clone(&lanes))) };
        let began = clock::now();
        let opened = Db::open(&path, db_options, &decoders, began);
        opened.map(|(db, report)| (db, report, clock::monotonic().since(began.monotonic)))
    });
    let (db, report, took) = say_progress(&progress, opened).await?.map_err(context("the data directory"))?;
    let replay = &report.replay;
    tracing::info!(samples = replay.samples, series = db.head().series_count(), ?took, "Log replay completed");
    if let Some(error) = &replay.first_error {
        tracing::warn!(frames = replay.undecodable, error, "frames of the log could not be read back");
    }
    let folder = PeerFolder::open(db.dir()).map_err(context("this peer's folder"))?;
    Ok((Arc::new(db), report.set_aside, folder))
}

/// How often somebody who waits for the log hears how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// Says how far the log is read back for as long as `work` takes.
async fn say_progress<T>(progress: &ReplayProgress, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PROGRESS_PERIOD) => {
                let [first, last, current] = progress.segments();
                tracing::info!(first, last, current, "reading the log back: not ready yet");
            }
        }
    }
}

/// What taking part in a mesh takes.
struct Joined {
    transport: Transport,
    events: mpsc::Receiver<TransportEvent>,
    own: SocketAddr,
    seeds: Vec<String>,
    trust: Trust,
    identity: TlsIdentity,
}

async fn join(cluster: &ClusterOptions, id: PeerId, folder: &PeerFolder) -> Result<Joined, StartError> {
    if cluster.trust == TrustOptions::Development {
        tracing::warn!("no --cluster.secret-file: peers trust a key that every build knows; loopback addresses only");
    }
    let trust = Trust::new(cluster, id, PeerKey::load_or_create(&folder.key_path())?);
    let identity = trust.identity(clock::wall())?;
    let boot = u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("eight bytes"));
    let transport_options =
        TransportOptions { segmentation_offload: cluster.segmentation_offload, ..TransportOptions::new(boot) };
    let (transport, events) = Transport::bind(cluster.listen, &identity, transport_options)
        .map_err(context(format!("cannot listen on UDP {} (--cluster.listen-address)", cluster.listen)))?;
    let listening = transport.local_addr();
    tracing::info!(address = %listening, "Listening on UDP for peers");
    let own = cluster.advertise.unwrap_or(listening);
    // A seed that is this peer itself is no seed.
    let mut seeds = Vec::new();
    for seed in &cluster.seeds {
        let resolved: Vec<SocketAddr> = match tokio::net::lookup_host(seed.as_str()).await {
            Ok(found) => found.collect(),
            Err(_) => Vec::new(),
        };
        if resolved.is_empty() || resolved.iter().any(|address| *address != own) {
            seeds.push(seed.clone());
        }
    }
    Ok(Joined { transport, events, own, seeds, trust, identity })
}

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
    refused: watch::Receiver<Option<String>>,
    /// Peers that are down in the mesh and answer all the same.
    pub reach: Arc<Reach>,
    /// When the certificate in use ends, in ms since the epoch.
    pub certificate_ends: Option<Arc<AtomicI64>>,
    pub(crate) stage: AtomicU8,
    pub(crate) left: watch::Receiver<bool>,
    quit: tokio::sync::Notify,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(crate) reloading: tokio::sync::Mutex<()>,
}

impl Peer {
    #[allow(clippy::too_many_arguments)] // each is made before the next and none belongs to another
    fn start(
        options: Arc<Options>,
        (settings, delivery): (Settings, Configuration),
        (db, set_aside): (Arc<Db>, Vec<SetAside>),
        lanes: Arc<Lanes>,
        folder: PeerFolder,
        (id, generation): (PeerId, Generation),
        joined: Option<Joined>,
        web_address: SocketAddr,
    ) -> Result<Peer, StartError> {
        let now = clock::now();
        let telemetry = Arc::new(Telemetry::default());
        let known = folder.members().map_err(context("the members known before"))?;
        let record = PeerRecord {
            id,
            generation,
            version: 1,
            state: PeerState::Joining,
            zone: options.cluster.as_ref().map(|cluster| cluster.zone.clone()).unwrap_or_default(),
            weight: options.cluster.as_ref().map_or(4, |cluster| cluster.weight as u8),
            protocol: (1, 1),
            web_address: Some(web_address),
            root: 0,
        };
        let newest = db.head().max_time();
        let persisted = if joined.is_some() {
            known.iter().filter_map(|member| member.id.parse().ok()).collect()
        } else {
            Vec::new()
        };
        let config = MeshConfig {
            replication_factor: options.cluster.as_ref().map_or(1, |cluster| cluster.replication_factor as usize),
            start_hold: options.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.start_hold),
            has_seeds: joined.as_ref().is_some_and(|joined| !joined.seeds.is_empty()),
            persisted,
            possession: folder.possession().map_err(context("what this peer held before"))?,
            rank_tables: None,
            newest_sample: (newest > promesh_model::Timestamp::MIN).then_some(newest),
        };
        let seed = generation.0 ^ id.0 as u64;
        let membership = joined.as_ref().map(|joined| Membership::new(record.clone(), joined.own, seed, now));
        let mesh = Mesh::new(config, record, now);
        let addresses: Addresses = Arc::new(ArcSwap::from_pointee(BTreeMap::new()));
        let (minds, tasks, threads) = minds::start(membership, mesh, Arc::clone(&addresses), Arc::clone(&telemetry));

        let origin = Origin { writer: id, generation };
        let told = minds.clone();
        let appended = Box::new(move |header| told.note_appended(header));
        let ingest = Arc::new(Ingest::new(Arc::clone(&db), lanes, origin, appended));
        let extra = options.features.extra_scrape_metrics;
        let scraping = Scraping::new(Arc::clone(&ingest), Arc::clone(&telemetry), extra);
        let scraping = Arc::new(scraping.map_err(context("threads for scrapes"))?);
        let scraper = Arc::clone(&scraping);
        minds.start_with(Box::new(move |spec, slot, rank| scraper.start(spec, slot, rank)));
        let (view_sender, view) = watch::channel(None);
        let (left_sender, left) = watch::channel(false);
        let journal = Arc::new(Journal::default());
        let mut certificate_ends = None;
        let (transport, events, own_address, seeds) = match joined {
            Some(joined) => {
                let ends = Arc::new(AtomicI64::new(joined.identity.expires_at().ms()));
                certificate_ends = Some(Arc::clone(&ends));
                tokio::spawn(joined.trust.renew(joined.transport.clone(), joined.identity, ends));
                (Some(joined.transport), Some(joined.events), Some(joined.own), joined.seeds)
            }
            None => (None, None, None, Vec::new()),
        };
        let local: Arc<dyn Queryable> = Arc::clone(&db) as Arc<dyn Queryable>;
        let live = transport
            .clone()
            .map(|transport| Live::new(transport, Arc::clone(&addresses), minds.clone(), Arc::clone(&ingest)));
        let sending = Sending::new(Arc::clone(&ingest), view.clone(), Arc::clone(&scraping), id, db.dir());
        sending.apply(&settings.loaded.config)?;
        let tap = Arc::clone(&sending);
        ingest.set_tap(Box::new(move |shard, batch| tap.tap(shard, batch)));
        tokio::spawn(Arc::clone(&sending).run(live.clone()));
        let deletes = Arc::new(Deletes::open(db.dir()).map_err(context("the list of deletes"))?);
        let history = Arc::new(History::new(
            HistoryMeans {
                db: Arc::clone(&db),
                deletes: Arc::clone(&deletes),
                view: view.clone(),
                transport: transport.clone(),
                addresses: Arc::clone(&addresses),
                minds: minds.clone(),
                replace_after: options.cluster.as_ref().map_or(Duration::MAX, |cluster| cluster.replace_after),
                retention: options.storage.retention_time,
            },
            &set_aside,
        ));
        tokio::spawn(Arc::clone(&history).run());
        let push_groups = PushGroups::scraped(db.dir(), &scraping).map_err(context("the pushed groups"))?;
        let sync_each = options.storage.wal_sync == WalSync::Always;
        let pushing = Arc::new(Pushing::new(Arc::clone(&ingest), view.clone(), transport.clone(), sync_each));
        let runtime = tokio::runtime::Handle::current();
        let mesh_storage = MeshQueryable::new(Arc::clone(&local), view.clone(), transport.clone(), runtime);
        let reading = Arc::new(Reading::new(Arc::new(mesh_storage.clone()), Arc::clone(&db)));
        reading.apply(&settings.loaded.config)?;
        let engine = Arc::new(Engine::new(settings::engine_options(&options, &settings)));
        let counters = Arc::new(PartCounters::default());
        let parts = Arc::new(MeshParts::new(mesh_storage.clone(), Arc::clone(&engine), Arc::clone(&counters)));
        let storage: Arc<dyn Queryable> = Arc::clone(&reading) as Arc<dyn Queryable>;
        let (queries, unfinished) =
            Queries::open(db.dir(), options.query.concurrency).map_err(context("the file of running queries"))?;
        let queries = Arc::new(queries);
        if !unfinished.is_empty() {
            let queries = serde_json::Value::Array(unfinished);
            tracing::info!(%queries, "These queries didn't finish in prometheus' last run:");
        }
        let holder = Holder {
            local,
            view: view.clone(),
            engine: Arc::clone(&engine),
            turns: Arc::new(Semaphore::new(PARTS_AT_ONCE)),
            counters: Arc::clone(&counters),
        };
        let external_url = settings::external_url(&options, web_address);
        let means = paging::Means {
            options: &options,
            data: db.dir(),
            who: (id, generation),
            external_url: &external_url,
            transport: transport.clone(),
            has_seeds: !seeds.is_empty(),
            addresses: Arc::clone(&addresses),
            own_address,
            view: view.clone(),
        };
        let (paging, paging_threads) = Paging::start(means, delivery, now)?;
        let outgoing = Arc::new(Outgoing::new(&external_url));
        outgoing.apply(&settings.loaded.config);
        let pager = Arc::clone(&paging);
        outgoing.to(Box::new(move |alerts| pager.take(alerts)));
        let alerts = &options.alertmanager;
        let peers = peer_addresses(view.clone(), web_address);
        let outside = Outside::new(peers, alerts.queue_capacity, alerts.batch_size);
        outside.apply(&settings.loaded.config)?;
        let other = Arc::clone(&outside);
        outgoing.to(Box::new(move |alerts| other.take(alerts)));
        let ruling = Arc::new(Ruling::new(Means {
            options: Arc::clone(&options),
            external_url,
            outgoing: Arc::clone(&outgoing),
            ingest: Arc::clone(&ingest),
            engine: Arc::clone(&engine),
            storage: Arc::clone(&storage),
            view: view.clone(),
            queries: Arc::clone(&queries),
        }));
        ruling.apply(ruling.plan(&settings)?);
        settings::warn_of_delivery(&settings, &paging.configuration(), ruling.has_alerts());
        let before = folder.digests().map_err(context("what the configuration said before"))?;
        let digests = definitions::digests(&settings, &options, paging.configuration().published(), &before, now.wall);
        let (refused_sender, refused) = watch::channel(None);
        let (order_sender, orders) = mpsc::channel(operate::WAITING_MAX);
        let machine = Arc::new(crate::scraping::MachineClock);
        let discovery = Arc::new(Manager::new(peer_addresses(view.clone(), web_address), machine));
        if let Some(transport) = &transport {
            discovery.share(Asker { peer: id, generation });
            tokio::spawn(crate::discovering::follow(Arc::clone(&discovery), transport.clone(), view.clone()));
        }
        let hands = Arc::new(Hands {
            discovery: Arc::clone(&discovery),
            transport: transport.clone(),
            minds: minds.clone(),
            ingest: Arc::clone(&ingest),
            holder,
            addresses,
            live: live.clone(),
            scraping: Arc::clone(&scraping),
            ruling: Arc::clone(&ruling),
            paging: Arc::clone(&paging),
            pushing: Arc::clone(&pushing),
            sending: Arc::clone(&sending),
            deletes: Arc::clone(&deletes),
            history: Arc::clone(&history),
            peer: std::sync::OnceLock::new(),
            view: view_sender,
            journal: Arc::clone(&journal),
            folder,
            telemetry: Arc::clone(&telemetry),
            left: left_sender,
            chitchat: Mutex::default(),
            incoming: Mutex::default(),
            subscribed: crate::subscribed::Subscribed::default(),
            orders: order_sender,
            own: Own { id, generation, address: own_address.unwrap_or(web_address) },
            refused: refused_sender,
        });
        tokio::spawn(Arc::clone(&hands).run(tasks));
        if let Some(events) = events {
            tokio::spawn(Arc::clone(&hands).receive(events));
        }
        if let Some(own) = own_address {
            let known = known.into_iter().map(|member| member.address).collect();
            tokio::spawn(Arc::clone(&hands).seek(seeds, known, own));
        }
        discovery.apply(settings.jobs.iter().map(|job| (job.job_name.as_str(), &job.discovery)))?;
        telemetry.reload_successful.store(1, Ordering::Relaxed);
        telemetry.reload_success_at.store(now.wall.ms() as u64 / 1000, Ordering::Relaxed);
        let peer = Peer {
            options,
            settings: ArcSwap::from_pointee(settings),
            ingest,
            scraping,
            ruling,
            outgoing,
            paging,
            pushing,
            reading,
            outside,
            sending,
            otlp_deltas: Arc::default(),
            deletes,
            history,
            push_groups,
            http_meter: Arc::default(),
            view,
            journal,
            telemetry,
            transport,
            live,
            own_address,
            web_address,
            id,
            generation,
            started_at: now.wall,
            engine,
            storage,
            parts,
            part_counters: counters,
            queries,
            facts: tokio::sync::OnceCell::new(),
            hands,
            minds,
            discovery,
            digests: ArcSwap::default(),
            orders: Mutex::new(Some(orders)),
            refused,
            reach: Arc::default(),
            certificate_ends,
            loopback: crate::discovering::Loopback::default(),
            stage: AtomicU8::new(STARTING),
            left,
            quit: tokio::sync::Notify::new(),
            threads: Mutex::new(threads.into_iter().chain(paging_threads).collect()),
            reloading: tokio::sync::Mutex::new(()),
        };
        peer.publish(digests);
        peer.apply_storage();
        peer.keep_house();
        Ok(peer)
    }

    /// How many targets lie in shards that this peer acts for.
    pub fn targets_owned(&self) -> usize {
        let view = self.view.borrow().clone();
        let acting = |shard| view.as_ref().is_some_and(|view| view.acting.contains(shard));
        let mut owned = 0;
        self.scraping.look(|target, _| owned += usize::from(acting(target.shard)));
        owned
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
    async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        match refused.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            _ => std::future::pending().await,
        }
    }

    async fn quit_asked(&self) {
        self.quit.notified().await;
    }

    /// Gives everything away, finishes what was started, makes it durable, says goodbye.
    async fn stop(&self) {
        self.stage.store(STOPPING, Ordering::Relaxed);
        tracing::info!("stopping: giving shards away");
        self.minds.tell(Input::Leave);
        let mut left = self.left.clone();
        let _ = tokio::time::timeout(LEAVE_MAX, left.wait_for(|left| *left)).await;
        tokio::join!(self.scraping.drain(DRAIN_MAX), self.ruling.drain(DRAIN_MAX), self.paging.drain(DRAIN_MAX));
        if self.options.alertmanager.drain_on_shutdown {
            self.outside.drain(Duration::from_secs(3)).await;
        }
        self.sending.flush().await;
        // What was streamed last has to reach the holders before the connections end.
        let drained = async {
            while self.live.as_ref().is_some_and(|live| live.backlog().values().any(|bytes| *bytes > 0)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
        self.minds.tell_membership(MembershipInput::Leave);
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
