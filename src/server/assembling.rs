//! Putting a peer together, floor by floor: minds, the network, batches in, queries, alerts, the hands.
//!
//! Each step takes what the steps before it made; what only one step needs stays in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_cluster::{Membership, PeerRecord, PeerState};
use promesh_discovery::{Asker, Manager};
use promesh_model::storage::Queryable;
use promesh_model::{Generation, Now, PeerId, Timestamp};
use promesh_node::{Input, Mesh, MeshConfig, MeshView};
use promesh_promql::Engine;
use promesh_query::{Holder, MeshParts, MeshQueryable, PartCounters};
use promesh_replication::Origin;
use promesh_transport::{Transport, TransportEvent};
use promesh_tsdb::{Db, SetAside};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::acquaintances::{self, KnownMember};
use crate::clock;
use crate::definitions;
use crate::deletes::Deletes;
use crate::failure::{StartError, context};
use crate::gateway::PushGroups;
use crate::hands::Hands;
use crate::history::{History, HistoryMeans};
use crate::house::peer_addresses;
use crate::identity::PeerFolder;
use crate::ingest::{Ingest, Lanes, StoreError};
use crate::joining::Joined;
use crate::journal::Journal;
use crate::live::Live;
use crate::lone;
use crate::minds::{Addresses, Minds, Reach};
use crate::operate;
use crate::options::{Options, WalSync};
use crate::outgoing::Outgoing;
use crate::outside::Outside;
use crate::paging::{self, Configuration, Paging};
use crate::peer::{Peer, STARTING};
use crate::pushing::Pushing;
use crate::queries::Queries;
use crate::reading::Reading;
use crate::ruling::{Means, Ruling};
use crate::scraping::Scraping;
use crate::sending::Sending;
use crate::settings::{self, Settings};
use crate::telemetry::Telemetry;
use crate::twins::Own;

/// Parts of others' queries that are computed at once: they have turns of their own, so that neither keeps the other out.
const PARTS_AT_ONCE: usize = 16;

type View = watch::Receiver<Option<Arc<MeshView>>>;

/// What a peer is put together from.
pub(crate) struct Assembly {
    pub options: Arc<Options>,
    pub settings: Settings,
    pub delivery: Configuration,
    pub db: Arc<Db>,
    /// Blocks that were damaged.
    pub set_aside: Vec<SetAside>,
    /// Whose ledgers the log was read back into.
    pub lanes: Arc<Lanes>,
    pub folder: PeerFolder,
    pub id: PeerId,
    pub generation: Generation,
    pub web_address: SocketAddr,
}

/// The minds before they are started.
struct Thinking {
    mesh: Mesh,
    membership: Option<Membership>,
    /// The members known before.
    known: Vec<KnownMember>,
}

/// The way to others; nothing of it where the cluster is off.
#[derive(Default)]
struct Linked {
    transport: Option<Transport>,
    events: Option<mpsc::Receiver<TransportEvent>>,
    own_address: Option<SocketAddr>,
    seeds: Vec<String>,
    certificate_ends: Option<Arc<AtomicI64>>,
}

impl Linked {
    fn of(joined: Option<Joined>) -> Linked {
        let Some(joined) = joined else { return Linked::default() };
        let ends = Arc::new(AtomicI64::new(joined.identity.expires_at().ms()));
        tokio::spawn(joined.trust.renew(joined.transport.clone(), joined.identity, Arc::clone(&ends)));
        Linked {
            transport: Some(joined.transport),
            events: Some(joined.events),
            own_address: Some(joined.own),
            seeds: joined.seeds,
            certificate_ends: Some(ends),
        }
    }
}

/// What queries need.
struct Asking {
    engine: Arc<Engine>,
    counters: Arc<PartCounters>,
    parts: Arc<MeshParts>,
    reading: Arc<Reading>,
    storage: Arc<dyn Queryable>,
    queries: Arc<Queries>,
    /// Where they run.
    runtime: Handle,
    /// Computes parts of others' queries.
    holder: Holder,
}

/// From rules to notifications.
struct Alerting {
    paging: Arc<Paging>,
    threads: Vec<JoinHandle<()>>,
    outgoing: Arc<Outgoing>,
    outside: Arc<Outside>,
    ruling: Arc<Ruling>,
}

impl Assembly {
    /// Puts a peer together and sets it going.
    ///
    /// # Errors
    /// When something that it needs cannot be had; the process then ends.
    pub(crate) fn assemble(self, joined: Option<Joined>) -> Result<Peer, StartError> {
        let now = clock::now();
        let telemetry = Arc::new(Telemetry::default());
        let Thinking { mesh, membership, known } = self.think(joined.as_ref(), now)?;
        let (minds, inboxes) = Minds::new();
        let addresses: Addresses = Arc::new(ArcSwap::from_pointee(BTreeMap::new()));
        let where_known = known.iter().map(|member| member.address).collect();
        let linked = Linked::of(joined);
        let transport = linked.transport.clone();
        let (view_sender, view) = watch::channel(None);
        let (left_sender, left) = watch::channel(false);
        let (refused_sender, refused) = watch::channel(None);
        let (order_sender, orders) = mpsc::channel(operate::WAITING_MAX);
        let journal = Arc::new(Journal::default());

        let ingest = self.ingest(&minds);
        let scraping = self.scraping(&ingest, &telemetry, &minds)?;
        let live = transport
            .clone()
            .map(|transport| Live::new(transport, Arc::clone(&addresses), minds.clone(), Arc::clone(&ingest)));
        let sending = self.sending(&ingest, &scraping, &view, live.clone())?;
        let deletes = Arc::new(Deletes::open(self.db.dir()).map_err(context("the list of deletes"))?);
        let copying = lone::copying().map_err(context("threads for copies"))?;
        let history = self.history(&deletes, (&view, &minds), transport.clone(), &addresses, &copying)?;
        let push_groups = PushGroups::scraped(self.db.dir(), &scraping).map_err(context("the pushed groups"))?;
        let sync_each = self.options.storage.wal_sync == WalSync::Always;
        let pushing = Arc::new(Pushing::new(
            Arc::clone(&ingest),
            view.clone(),
            transport.clone(),
            sync_each,
            Arc::clone(&telemetry),
        ));
        let asking = self.asking(&view, transport.clone())?;
        let alerting = self.alerting(&linked, &addresses, &view, &ingest, &asking, now)?;

        let before = self.folder.digests().map_err(context("what the configuration said before"))?;
        let published = alerting.paging.configuration();
        let digests = definitions::digests(&self.settings, &self.options, published.published(), &before, now.wall);
        let discovery = self.discovery(&view, transport.as_ref())?;
        let hands = Arc::new(Hands {
            discovery: Arc::clone(&discovery),
            transport: transport.clone(),
            minds: minds.clone(),
            ingest: Arc::clone(&ingest),
            holder: asking.holder,
            addresses: Arc::clone(&addresses),
            live: live.clone(),
            scraping: Arc::clone(&scraping),
            ruling: Arc::clone(&alerting.ruling),
            paging: Arc::clone(&alerting.paging),
            pushing: Arc::clone(&pushing),
            sending: Arc::clone(&sending),
            deletes: Arc::clone(&deletes),
            history: Arc::clone(&history),
            peer: std::sync::OnceLock::new(),
            view: view_sender,
            journal: Arc::clone(&journal),
            folder: self.folder,
            telemetry: Arc::clone(&telemetry),
            left: left_sender,
            chitchat: Mutex::default(),
            incoming: Mutex::default(),
            subscribed: crate::subscribed::Subscribed::default(),
            orders: order_sender,
            known: Mutex::new(known),
            possession_unkept: std::sync::atomic::AtomicBool::new(false),
            own: Own {
                id: self.id,
                generation: self.generation,
                address: linked.own_address.unwrap_or(self.web_address),
            },
            refused: refused_sender,
            runtime: Handle::current(),
            listening: lone::runtime("listening").map_err(context("a thread for what others write"))?,
            reading: asking.runtime.clone(),
            copying,
        });
        let (task_sender, tasks) = mpsc::unbounded_channel();
        let reach = match (membership, linked.own_address, &transport) {
            (Some(membership), Some(own), Some(transport)) => {
                Some(Reach { membership, transport: transport.clone(), own })
            }
            _ => None,
        };
        let speaker = Arc::clone(&hands);
        let say = Box::new(move |output| speaker.say(output));
        let thinking = inboxes.start(&minds, reach, mesh, addresses, Arc::clone(&telemetry), (say, task_sender));
        let thread = thinking.map_err(context("a thread for the mesh"))?;
        tokio::spawn(Arc::clone(&hands).run(tasks));
        if let (Some(events), Some(transport)) = (linked.events, &transport) {
            transport.spawn(Arc::clone(&hands).receive(events));
        }
        if let Some(own) = linked.own_address {
            tokio::spawn(crate::seeking::seek(Arc::clone(&hands), linked.seeds, where_known, own));
        }
        telemetry.reload_successful.store(1, Ordering::Relaxed);
        telemetry.reload_success_at.store(now.wall.ms() as u64 / 1000, Ordering::Relaxed);
        let peer = Peer {
            tracing: promesh_trace::Tracing::default(),
            options: self.options,
            settings: ArcSwap::from_pointee(self.settings),
            ingest,
            scraping,
            ruling: alerting.ruling,
            outgoing: alerting.outgoing,
            paging: alerting.paging,
            pushing,
            reading: asking.reading,
            queries_run: asking.runtime,
            outside: alerting.outside,
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
            own_address: linked.own_address,
            web_address: self.web_address,
            id: self.id,
            generation: self.generation,
            started_at: now.wall,
            engine: asking.engine,
            storage: asking.storage,
            parts: asking.parts,
            part_counters: asking.counters,
            queries: asking.queries,
            facts: tokio::sync::OnceCell::new(),
            hands,
            minds,
            discovery,
            digests: ArcSwap::default(),
            orders: Mutex::new(Some(orders)),
            refused,
            reach: Arc::default(),
            certificate_ends: linked.certificate_ends,
            loopback: crate::discovering::Loopback::default(),
            stage: AtomicU8::new(STARTING),
            left,
            quit: tokio::sync::Notify::new(),
            threads: Mutex::new(std::iter::once(thread).chain(alerting.threads).collect()),
            reloading: tokio::sync::Mutex::new(()),
        };
        peer.publish(digests);
        peer.apply_storage();
        peer.apply_tracing();
        peer.keep_house();
        Ok(peer)
    }

    /// The minds, with what this peer knew in its life before.
    fn think(&self, joined: Option<&Joined>, now: Now) -> Result<Thinking, StartError> {
        let known = self.folder.members().map_err(context("the members known before"))?;
        let cluster = self.options.cluster.as_ref();
        let record = PeerRecord {
            id: self.id,
            generation: self.generation,
            version: 1,
            state: PeerState::Joining,
            zone: cluster.map(|cluster| cluster.zone.clone()).unwrap_or_default(),
            weight: cluster.map_or(4, |cluster| cluster.weight as u8),
            protocol: (1, 1),
            web_address: Some(self.web_address),
            root: 0,
        };
        let newest = self.db.head().max_time();
        let (persisted, remembered) = match joined {
            Some(_) => acquaintances::split(&known, now.wall),
            None => (Vec::new(), Vec::new()),
        };
        let config = MeshConfig {
            replication_factor: cluster.map_or(1, |cluster| cluster.replication_factor as usize),
            start_hold: cluster.map_or(Duration::ZERO, |cluster| cluster.start_hold),
            has_seeds: joined.is_some_and(|joined| !joined.seeds.is_empty()),
            persisted,
            remembered,
            possession: self.folder.possession().map_err(context("what this peer held before"))?,
            rank_tables: None,
            newest_sample: (newest > Timestamp::MIN).then_some(newest),
            window: Duration::from_millis(self.db.head().window_ms().unsigned_abs()),
        };
        let seed = self.generation.0 ^ self.id.0 as u64;
        let membership = joined.map(|joined| Membership::new(record.clone(), joined.own, seed, now));
        let mesh = Mesh::new(config, record, now);
        Ok(Thinking { mesh, membership, known })
    }

    fn ingest(&self, minds: &Minds) -> Arc<Ingest> {
        let origin = Origin { writer: self.id, generation: self.generation };
        let (told, warned) = (minds.clone(), minds.clone());
        let appended = Box::new(move |header| told.note_appended(header));
        let refused = Box::new(move |error: &StoreError| {
            tracing::error!(%error, "the disk refuses what is to be stored: this peer gives its shards away");
            warned.tell(Input::DiskRefuses(true));
        });
        Arc::new(Ingest::new(Arc::clone(&self.db), Arc::clone(&self.lanes), origin, appended, refused))
    }

    fn scraping(
        &self,
        ingest: &Arc<Ingest>,
        telemetry: &Arc<Telemetry>,
        minds: &Minds,
    ) -> Result<Arc<Scraping>, StartError> {
        let extra = self.options.features.extra_scrape_metrics;
        let scraping = Scraping::new(Arc::clone(ingest), Arc::clone(telemetry), extra);
        let scraping = Arc::new(scraping.map_err(context("threads for scrapes"))?);
        let scraper = Arc::clone(&scraping);
        minds.start_with(Box::new(move |spec, slot, rank| scraper.start(spec, slot, rank)));
        Ok(scraping)
    }

    fn sending(
        &self,
        ingest: &Arc<Ingest>,
        scraping: &Arc<Scraping>,
        view: &View,
        live: Option<Live>,
    ) -> Result<Arc<Sending>, StartError> {
        let sending = Sending::new(Arc::clone(ingest), view.clone(), Arc::clone(scraping), self.id, self.db.dir());
        sending.apply(&self.settings.loaded.config)?;
        let tap = Arc::clone(&sending);
        ingest.set_tap(Box::new(move |shard, batch| tap.tap(shard, batch)));
        tokio::spawn(Arc::clone(&sending).run(live));
        Ok(sending)
    }

    fn history(
        &self,
        deletes: &Arc<Deletes>,
        (view, minds): (&View, &Minds),
        transport: Option<Transport>,
        addresses: &Addresses,
        copying: &Handle,
    ) -> Result<Arc<History>, StartError> {
        let means = HistoryMeans {
            db: Arc::clone(&self.db),
            deletes: Arc::clone(deletes),
            view: view.clone(),
            transport,
            addresses: Arc::clone(addresses),
            minds: minds.clone(),
            replace_after: self.options.cluster.as_ref().map_or(Duration::MAX, |cluster| cluster.replace_after),
            lanes: Arc::clone(&self.lanes),
            folder: self.folder.clone(),
            is_new: self.folder.possession().is_ok_and(|held| held.extents().is_empty()),
            known_blocks: self.folder.blocks().unwrap_or_else(|error| {
                tracing::warn!(%error, "which blocks were here is not known");
                None
            }),
        };
        let history = History::new(means, &self.set_aside).map_err(context("the list of late pushes"))?;
        let history = Arc::new(history);
        copying.spawn(Arc::clone(&history).run());
        copying.spawn(Arc::clone(&history).run_late());
        Ok(history)
    }

    fn asking(&self, view: &View, transport: Option<Transport>) -> Result<Asking, StartError> {
        let local: Arc<dyn Queryable> = Arc::clone(&self.db) as Arc<dyn Queryable>;
        let runtime = lone::reading().map_err(context("threads for queries"))?;
        let of_all = MeshQueryable::new(Arc::clone(&local), view.clone(), transport, runtime.clone(), clock::monotonic);
        let reading = Arc::new(Reading::new(Arc::new(of_all.clone()), Arc::clone(&self.db)));
        reading.apply(&self.settings.loaded.config)?;
        let engine = Arc::new(Engine::new(settings::engine_options(&self.options, &self.settings)));
        let counters = Arc::new(PartCounters::default());
        let parts = Arc::new(MeshParts::new(of_all, Arc::clone(&engine), Arc::clone(&counters)));
        let storage: Arc<dyn Queryable> = Arc::clone(&reading) as Arc<dyn Queryable>;
        let (queries, unfinished) = Queries::open(self.db.dir(), self.options.query.concurrency)
            .map_err(context("the file of running queries"))?;
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
        Ok(Asking { engine, counters, parts, reading, storage, queries: Arc::new(queries), runtime, holder })
    }

    fn alerting(
        &self,
        linked: &Linked,
        addresses: &Addresses,
        view: &View,
        ingest: &Arc<Ingest>,
        asking: &Asking,
        now: Now,
    ) -> Result<Alerting, StartError> {
        let external_url = settings::external_url(&self.options, self.web_address);
        let means = paging::Means {
            options: &self.options,
            data: self.db.dir(),
            who: (self.id, self.generation),
            external_url: &external_url,
            transport: linked.transport.clone(),
            has_seeds: !linked.seeds.is_empty(),
            addresses: Arc::clone(addresses),
            own_address: linked.own_address,
            view: view.clone(),
        };
        let (paging, threads) = Paging::start(means, self.delivery.clone(), now)?;
        let outgoing = Arc::new(Outgoing::new(&external_url));
        outgoing.apply(&self.settings.loaded.config);
        let pager = Arc::clone(&paging);
        outgoing.to(Box::new(move |alerts| pager.take(alerts)));
        let alerts = &self.options.alertmanager;
        let peers = peer_addresses(view.clone(), self.web_address);
        let outside = Outside::new(peers, alerts.queue_capacity, alerts.batch_size);
        outside.apply(&self.settings.loaded.config)?;
        let other = Arc::clone(&outside);
        outgoing.to(Box::new(move |alerts| other.take(alerts)));
        let ruling = Arc::new(Ruling::new(Means {
            options: Arc::clone(&self.options),
            external_url,
            outgoing: Arc::clone(&outgoing),
            ingest: Arc::clone(ingest),
            engine: Arc::clone(&asking.engine),
            storage: Arc::clone(&asking.storage),
            view: view.clone(),
            queries: Arc::clone(&asking.queries),
        }));
        ruling.apply(ruling.plan(&self.settings)?);
        settings::warn(&self.settings, &paging.configuration(), ruling.has_alerts());
        Ok(Alerting { paging, threads, outgoing, outside, ruling })
    }

    fn discovery(&self, view: &View, transport: Option<&Transport>) -> Result<Arc<Manager>, StartError> {
        let machine = Arc::new(crate::scraping::MachineClock);
        let discovery = Arc::new(Manager::new(peer_addresses(view.clone(), self.web_address), machine));
        if let Some(transport) = transport {
            discovery.share(Asker { peer: self.id, generation: self.generation });
            tokio::spawn(crate::discovering::follow(Arc::clone(&discovery), transport.clone(), view.clone()));
        }
        discovery.apply(self.settings.jobs.iter().map(|job| (job.job_name.as_str(), &job.discovery)))?;
        Ok(discovery)
    }
}
