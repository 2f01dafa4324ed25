//! Rule groups: sources like targets, evaluated when the mind says so, their series batches like any other.
//!
//! A slot of a group is a batch for each of its rules, under the rule's own identity, and at its end an empty one under
//! the group's: it tells everybody that the slot is done, and by whom. A peer whose newest evaluation is not the one
//! named there has lost the group meanwhile: it begins anew from the replicated series.

mod evaluate;
mod metrics;
mod pages;
mod phase;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use promesh_model::storage::Queryable;
use promesh_model::{Monotonic, Timestamp};
use promesh_node::{MeshView, SourceSpec};
use promesh_promql::Engine;
use promesh_replication::SourceId;
use promesh_rules::{Group, RuleSpec};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::ingest::Ingest;
use crate::options::Options;
use crate::outgoing::Outgoing;
use crate::queries::Queries;
use crate::settings::Settings;

pub use evaluate::query_sample;
use metrics::Counters;
pub use pages::{RULES, Shown};
pub use plan::{Planned, group_spec, problems_of};

/// Groups evaluated at once: each takes a thread that may block, and its queries take more.
const EVALUATIONS_MAX: usize = 64;

/// What an evaluation changes.
struct State {
    group: Group,
    /// The newest slot that was evaluated here.
    evaluated: Timestamp,
    /// Whether the newest read missed no shard.
    is_whole: bool,
    /// Since when state could not be read back for want of shards.
    unread_since: Option<Monotonic>,
}

/// One group.
struct Entry {
    planned: Planned,
    state: Mutex<State>,
    /// The group as it was before a reload changed it; taken over by the next evaluation.
    predecessor: Mutex<Option<Arc<Entry>>>,
    /// What its newest evaluation here showed.
    shown: Mutex<Option<Shown>>,
    counters: Counters,
    /// When it was planned so: what passed before, nobody was to evaluate, or at other instants.
    since: Timestamp,
}

#[derive(Default)]
struct Table {
    entries: HashMap<SourceId, Arc<Entry>>,
    /// In the order of the files.
    order: Vec<SourceId>,
}

/// What groups need of the peer.
pub struct Means {
    /// Its command line.
    pub options: Arc<Options>,
    /// The URL under which people reach it.
    pub external_url: String,
    /// Batches in.
    pub ingest: Arc<Ingest>,
    /// Evaluates expressions.
    pub engine: Arc<Engine>,
    /// The data of all peers.
    pub storage: Arc<dyn Queryable>,
    /// The mesh as it is seen here.
    pub view: watch::Receiver<Option<Arc<MeshView>>>,
    /// Where alerts go.
    pub outgoing: Arc<Outgoing>,
    /// Takes note of queries.
    pub queries: Arc<Queries>,
}

/// All rule groups of the configuration, and the evaluations of those that this peer acts for.
pub struct Ruling {
    means: Means,
    table: ArcSwap<Table>,
    permits: Arc<Semaphore>,
    under_way: TaskTracker,
    /// Groups that are gone, and whose series nobody is known to have ended yet.
    gone: Mutex<Vec<(SourceId, Arc<Entry>)>>,
    runtime: Handle,
}

impl Ruling {
    /// No groups yet. Called within the runtime.
    pub fn new(means: Means) -> Ruling {
        Ruling {
            means,
            table: ArcSwap::default(),
            permits: Arc::new(Semaphore::new(EVALUATIONS_MAX)),
            under_way: TaskTracker::new(),
            gone: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// The groups of some settings.
    ///
    /// # Errors
    /// Every expression and template that does not parse, with its place.
    pub fn plan(&self, settings: &Settings) -> Result<Vec<Planned>, String> {
        plan::plan(settings, &self.means.options, &self.means.external_url, &self.means.engine)
    }

    /// Makes the groups these. Unchanged ones go on; changed ones keep the state of rules that stay. The
    /// series of those that are gone end with [`Ruling::end_what_is_gone`].
    pub fn apply(self: &Arc<Self>, planned: Vec<Planned>) {
        let before = self.table.load_full();
        let mut table = Table::default();
        for planned in planned {
            let source = planned.source;
            let known = before.entries.get(&source);
            let entry = match known.filter(|known| known.planned.is_same(&planned)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Entry::new(planned, known.cloned())),
            };
            table.order.push(source);
            table.entries.insert(source, entry);
        }
        let gone = before.entries.iter().filter(|(source, _)| !table.entries.contains_key(*source));
        self.gone.lock().extend(gone.map(|(source, entry)| (*source, Arc::clone(entry))));
        self.table.store(Arc::new(table));
    }

    /// Ends the series of groups that are gone, where this peer is the one to say so; while the mesh runs a version with
    /// them against ours, they go on.
    pub fn end_what_is_gone(self: &Arc<Self>, view: &MeshView) {
        let table = self.table.load();
        self.gone.lock().retain(|(source, entry)| {
            if table.entries.contains_key(source) {
                return false;
            }
            if !view.elected.may_act(view.me, entry.planned.piece().id()) {
                return true;
            }
            if view.acting.contains(entry.planned.shard) {
                let (ruling, entry) = (Arc::clone(self), Arc::clone(entry));
                self.under_way.spawn_blocking(move || ruling.end_series(&entry));
            }
            false
        });
    }

    /// What the mind is to schedule.
    pub fn specs(&self) -> Vec<SourceSpec> {
        let table = self.table.load();
        let spec = |source: &SourceId| {
            let planned = &table.entries.get(source)?.planned;
            let (shard, interval_ms) = (planned.shard, planned.interval_ms());
            let (piece, phase_ms) = (planned.piece().id(), planned.phase_ms);
            Some(SourceSpec { source: *source, shard, interval_ms, phase_ms, piece, pinned: false })
        };
        table.order.iter().filter_map(spec).collect()
    }

    /// Starts a slot; false when the source is no rule group.
    pub fn start(self: &Arc<Self>, spec: &SourceSpec, slot: Timestamp, rank: u8) -> bool {
        let Some(entry) = self.table.load().entries.get(&spec.source).cloned() else { return false };
        let (ruling, permits) = (Arc::clone(self), Arc::clone(&self.permits));
        self.under_way.spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            let evaluated = tokio::task::spawn_blocking(move || ruling.evaluate(&entry, slot, rank)).await;
            if let Err(error) = evaluated {
                tracing::error!(%error, "the evaluation of a rule group ended badly");
            }
        });
        true
    }

    /// Whether any rule fires alerts.
    pub fn has_alerts(&self) -> bool {
        self.table.load().entries.values().any(|entry| entry.has_alerts())
    }

    /// Lets the evaluations that were started end.
    pub async fn drain(&self, patience: Duration) {
        self.under_way.close();
        let _ = tokio::time::timeout(patience, self.under_way.wait()).await;
    }
}

impl Entry {
    fn new(planned: Planned, predecessor: Option<Arc<Entry>>) -> Entry {
        let state = State { group: fresh(&planned), evaluated: Timestamp::MIN, is_whole: true, unread_since: None };
        let shown = predecessor.as_ref().and_then(|old| old.shown.lock().clone());
        Entry {
            planned,
            state: Mutex::new(state),
            counters: predecessor.as_ref().map_or_else(Counters::default, |old| Counters::continued(&old.counters)),
            since: clock::wall(),
            predecessor: Mutex::new(predecessor),
            shown: Mutex::new(shown),
        }
    }

    /// Counts the slots between one that is evaluated and the newest that anybody evaluated before, or the beginning.
    fn note_gap(&self, slot: Timestamp, before: Option<Timestamp>) {
        let interval = promesh_model::time::ms_of(self.planned.spec.interval).max(1);
        let passed = before.map_or(0, |before| (slot.ms() - before.max(self.since).ms()) / interval - 1);
        self.counters.passed(u64::try_from(passed).unwrap_or(0));
    }

    /// Takes over what the group was before reloads changed it.
    fn inherit(&self, state: &mut State) {
        let Some(old) = self.predecessor.lock().take() else { return };
        let mut before = old.state.lock();
        old.inherit(&mut before);
        state.group.adopt(before.group.clone());
        state.evaluated = before.evaluated;
    }

    /// As upstream names groups in its metrics.
    fn name(&self) -> String {
        format!("{};{}", self.planned.path, self.planned.spec.name)
    }

    fn has_alerts(&self) -> bool {
        self.planned.spec.rules.iter().any(|rule| matches!(rule, RuleSpec::Alerting(_)))
    }
}

/// A group that remembers nothing and will read back what the peer before it wrote.
fn fresh(planned: &Planned) -> Group {
    Group::new(planned.spec.clone(), Arc::clone(&planned.settings)).expect("planning checked every template")
}
