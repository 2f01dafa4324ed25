//! Providers and what they found, per job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use promesh_config::prometheus::{Discoveries, Discovery};
use promesh_config::yaml::{self, Show};
use promesh_model::shard::{ShardSet, shard_of_names};
use promesh_model::time::Clock;
use promesh_model::{ShardId, Timestamp};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::kinds::{self, Asked, Means};
use crate::share::{Asker, Known, Told};
use crate::stats::{Counters, ProviderStats, Stats};
use crate::{DiscoveryError, Groups, MESH_SCOPE, TargetGroup};

/// What is known now: the groups of each job. A job whose providers found nothing yet has an entry without groups.
pub type Discovered = BTreeMap<String, Groups>;

/// Changes are published together when they come within this time of each other.
const COALESCE: Duration = Duration::from_millis(100);
/// How long to wait before settings that could not be used are tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Runs providers. Must live within a tokio runtime; dropping it stops them.
///
/// Alone it asks every back end itself. Once [`Manager::share`] was called it asks only those whose shard it acts for,
/// and hears of the others from other peers.
pub struct Manager {
    shared: Arc<Shared>,
    published: watch::Receiver<Arc<Discovered>>,
    means: Means,
    stop: CancellationToken,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    publish: watch::Sender<Arc<Discovered>>,
    /// Counts answers of back ends that this peer asks.
    answers: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    providers: BTreeMap<u128, Running>,
    jobs: BTreeMap<String, Job>,
    asker: Asker,
    /// The shards that this peer acts for; `None` as long as nothing is shared.
    acting: Option<ShardSet>,
    updates: u64,
}

struct Job {
    providers: Vec<u128>,
    /// What its former providers had found: shown until each of the new ones has answered once, so that a changed
    /// setting does not end the scraping of what it is going to find again.
    before: Groups,
}

struct Running {
    discovery: Discovery,
    /// The first job that has it.
    job: String,
    asked: Asked,
    /// What other peers know it by.
    content: u128,
    shard: ShardId,
    /// Stops the task that asks; `None` while another peer asks.
    task: Option<CancellationToken>,
    known: Known,
    /// It has been asked at least once, or told of.
    heard: bool,
    counters: Counters,
}

/// Where a provider puts what it found.
#[derive(Clone)]
pub(crate) struct Sink {
    shared: Arc<Shared>,
    provider: u128,
}

impl Sink {
    /// All groups of the provider, as of now, from something that is never wrong about what is gone.
    pub(crate) fn publish(&self, groups: Vec<TargetGroup>) {
        self.note(|running, _, _| {
            let groups: Groups = groups.into_iter().map(Arc::new).collect();
            let changed = running.known.groups != groups;
            running.known.groups = groups;
            changed
        });
    }

    /// What a back end answered, and how long it took.
    pub(crate) fn answered(&self, groups: Vec<TargetGroup>, took: Duration) {
        self.note(|running, asker, now| {
            running.counters.refreshed(took);
            running.known.answered(asker, groups, now)
        });
        self.shared.answers.send_modify(|count| *count += 1);
    }

    /// As [`Sink::answered`], by a back end that lists all there is.
    pub(crate) fn listed(&self, groups: Vec<TargetGroup>, took: Duration) {
        self.note(|running, asker, now| {
            running.counters.refreshed(took);
            running.known.listed(asker, groups, now)
        });
        self.shared.answers.send_modify(|count| *count += 1);
    }

    /// A back end did not answer, or with nonsense.
    pub(crate) fn failed(&self, took: Duration) {
        self.note(|running, _, _| {
            running.counters.refreshed(took);
            running.counters.failures += 1;
            false
        });
    }

    fn note(&self, change: impl FnOnce(&mut Running, Asker, Timestamp) -> bool) {
        let now = self.shared.clock.now().wall;
        let mut state = self.shared.state();
        let asker = state.asker;
        let Some(running) = state.providers.get_mut(&self.provider) else { return };
        let changed = change(running, asker, now) | !running.heard;
        running.heard = true;
        state.updates += 1;
        drop(state);
        if changed {
            self.shared.changed.notify_one();
        }
    }

    /// How long to wait before the first question.
    pub(crate) fn wait(&self, interval: Duration) -> Duration {
        let now = self.shared.clock.now().wall;
        let state = self.shared.state();
        state.providers.get(&self.provider).map_or(Duration::ZERO, |running| running.known.wait(interval, now))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_now(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let mut discovered = Discovered::new();
        for (name, job) in &mut state.jobs {
            let found = || job.providers.iter().filter_map(|provider| state.providers.get(provider));
            let mut groups: Groups = found().flat_map(Running::shown).collect();
            if found().all(|running| running.heard) {
                job.before.clear();
            }
            // What is found anew comes first: of two alike the first counts.
            groups.extend(job.before.iter().cloned());
            discovered.insert(name.clone(), groups);
        }
        self.publish.send_if_modified(|present| {
            let changed = **present != discovered;
            if changed {
                *present = Arc::new(discovered);
            }
            changed
        });
    }
}

impl Running {
    fn new(discovery: &Discovery, job: &str) -> Running {
        let content = digest(discovery, &[Show::Content]);
        let is_written = matches!(discovery, Discovery::Static(_));
        let mut known = Known::default();
        if let Discovery::Static(groups) = discovery {
            known.groups = kinds::written(groups).into_iter().map(Arc::new).collect();
        }
        Running {
            discovery: discovery.clone(),
            job: job.to_owned(),
            asked: kinds::asked(discovery),
            content,
            shard: shard_of_names(&["discovery", &format!("{content:032x}")]),
            task: None,
            known,
            heard: is_written,
            counters: Counters::default(),
        }
    }

    /// Its groups; those of a discovery that every peer has for itself say so.
    fn shown(&self) -> Groups {
        if !matches!(self.discovery, Discovery::Everywhere(_)) {
            return self.known.groups.clone();
        }
        let marked = |group: &Arc<TargetGroup>| {
            let mut labels = group.labels.to_builder();
            labels.set(MESH_SCOPE, "everywhere");
            Arc::new(TargetGroup { labels: labels.build(), ..(**group).clone() })
        };
        self.known.groups.iter().map(marked).collect()
    }

    fn is_mine(&self, acting: Option<&ShardSet>) -> bool {
        self.asked == Asked::ByEach || acting.is_none_or(|acting| acting.contains(self.shard))
    }
}

impl Manager {
    /// A manager without jobs. `peers`: the web addresses of all peers, for `peer_sd_configs`.
    pub fn new(peers: watch::Receiver<Arc<[String]>>, clock: Arc<dyn Clock>) -> Manager {
        let (publish, published) = watch::channel(Arc::new(Discovered::new()));
        let state = Mutex::default();
        let (answers, _) = watch::channel(0);
        let means = Means { clock: Arc::clone(&clock), peers };
        let shared = Arc::new(Shared { state, changed: Notify::new(), publish, answers, clock });
        let stop = CancellationToken::new();
        let (worker, stopped) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            while stopped.run_until_cancelled(worker.changed.notified()).await.is_some() {
                tokio::time::sleep(COALESCE).await;
                worker.publish_now();
            }
        });
        Manager { shared, published, means, stop }
    }

    /// What is known now and when it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Discovered>> {
        self.published.clone()
    }

    /// Runs the discoveries of these jobs and no others. A provider that was running before goes on as it was; what
    /// is written in the file itself is published at once.
    ///
    /// # Errors
    /// Settings that cannot be used: a certificate that is not there, a kind that is not built. Nothing has changed
    /// then.
    pub fn apply<'a>(&self, jobs: impl IntoIterator<Item = (&'a str, &'a Discoveries)>) -> Result<(), DiscoveryError> {
        let mut wanted: BTreeMap<String, Vec<u128>> = BTreeMap::new();
        let mut fresh: BTreeMap<u128, Running> = BTreeMap::new();
        for (job, discoveries) in jobs {
            let providers = wanted.entry(job.to_owned()).or_default();
            for discovery in &discoveries.0 {
                let id = digest(discovery, &[Show::Masked, Show::Content]);
                providers.push(id);
                if !fresh.contains_key(&id) && !self.shared.state().providers.contains_key(&id) {
                    let _ = kinds::prepare(discovery, &self.means)
                        .map_err(|error| DiscoveryError::Settings(format!("job {job:?}: {error}")))?;
                    fresh.insert(id, Running::new(discovery, job));
                }
            }
        }
        let published = Arc::clone(&self.published.borrow());
        let used: BTreeSet<u128> = wanted.values().flatten().copied().collect();
        let mut state = self.shared.state();
        state.providers.retain(|id, running| {
            let kept = used.contains(id);
            if let (false, Some(task)) = (kept, &running.task) {
                task.cancel();
            }
            kept
        });
        state.providers.extend(fresh);
        let job = |(name, providers): (String, Vec<u128>)| {
            let before = published.get(&name).cloned().unwrap_or_default();
            (name, Job { providers, before })
        };
        state.jobs = wanted.into_iter().map(job).collect();
        self.start_and_stop(&mut state);
        drop(state);
        self.shared.publish_now();
        Ok(())
    }

    /// Starts the tasks of providers that this peer is to ask, and stops those that it is not to ask any more.
    fn start_and_stop(&self, state: &mut State) {
        let acting = state.acting.as_ref();
        for (id, running) in &mut state.providers {
            match (running.is_mine(acting), &running.task) {
                (true, None) if !matches!(running.discovery, Discovery::Static(_)) => {
                    running.task = Some(self.spawn(*id, &running.discovery));
                }
                (false, Some(task)) => {
                    task.cancel();
                    running.task = None;
                }
                _ => {}
            }
        }
    }

    fn spawn(&self, provider: u128, discovery: &Discovery) -> CancellationToken {
        let stop = self.stop.child_token();
        let sink = Sink { shared: Arc::clone(&self.shared), provider };
        let span = tracing::info_span!("discovery", kind = discovery.kind());
        let (discovery, means, stopped) = (discovery.clone(), self.means.clone(), stop.clone());
        let work = async move {
            // The settings could be used when they were applied; a file may have gone since.
            let run = loop {
                match kinds::prepare(&discovery, &means) {
                    Ok(run) => break run,
                    Err(error) => tracing::error!(%error, "the settings cannot be used now, trying on"),
                }
                sink.failed(Duration::ZERO);
                tokio::time::sleep(RETRY).await;
            };
            run(sink).await;
        };
        tokio::spawn(
            async move {
                stopped.run_until_cancelled(work).await;
            }
            .instrument(span),
        );
        stop
    }

    /// From now on back ends are asked by whoever acts for their shard: this peer, known by `asker`, for none yet.
    pub fn share(&self, asker: Asker) {
        let mut state = self.shared.state();
        state.asker = asker;
        state.acting = Some(ShardSet::default());
        self.start_and_stop(&mut state);
    }

    /// The shards that this peer acts for. Without effect before [`Manager::share`].
    pub fn act_for(&self, shards: &ShardSet) {
        let mut state = self.shared.state();
        if state.acting.as_ref().is_some_and(|acting| acting != shards) {
            state.acting = Some(shards.clone());
            self.start_and_stop(&mut state);
        }
    }

    /// Changes whenever a back end answered this peer.
    pub fn answers(&self) -> watch::Receiver<u64> {
        self.shared.answers.subscribe()
    }

    /// What this peer asked, for one who was told `known`: by discovery the version and the instant last told. Remembers
    /// there what it gives.
    pub fn tell(&self, known: &mut BTreeMap<u128, (i64, Timestamp)>) -> Vec<Told> {
        let state = self.shared.state();
        let mut news = Vec::new();
        for running in state.providers.values() {
            let asks = running.asked == Asked::Once && running.task.is_some() && running.known.asker == state.asker;
            let (version, asked_at) = (running.known.version, running.known.asked_at);
            let told = known.get(&running.content).copied().unwrap_or_default();
            if asks && version != 0 && told != (version, asked_at) {
                news.push(running.known.told(running.content, told.0));
                known.insert(running.content, (version, asked_at));
            }
        }
        news
    }

    /// Another peer tells what it asked.
    pub fn hear(&self, told: Told) {
        let mut state = self.shared.state();
        let mut changed = false;
        let concerned = |running: &&mut Running| running.asked == Asked::Once && running.content == told.discovery;
        for running in state.providers.values_mut().filter(concerned) {
            changed |= running.known.hear(told.clone()) | !running.heard;
            running.heard |= running.known.version != 0;
        }
        drop(state);
        if changed {
            self.shared.changed.notify_one();
        }
    }

    /// Figures for this peer's metrics.
    pub fn stats(&self) -> Stats {
        let state = self.shared.state();
        let provider = |running: &Running| ProviderStats {
            kind: running.discovery.kind().to_owned(),
            job: running.job.clone(),
            asks: running.task.is_some(),
            counters: running.counters,
        };
        let providers = state.providers.values().filter(|running| !matches!(running.discovery, Discovery::Static(_)));
        let targets = |(job, groups): (&String, &Groups)| {
            (job.clone(), groups.iter().map(|group| group.targets.len()).sum::<usize>())
        };
        Stats {
            providers: providers.map(provider).collect(),
            targets: self.published.borrow().iter().map(targets).collect(),
            updates: state.updates,
        }
    }
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manager({} jobs)", self.published.borrow().len())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.cancel();
        self.shared.changed.notify_one();
    }
}

/// Equal for discoveries that are shown alike in each of these ways.
fn digest(discovery: &Discovery, shows: &[Show]) -> u128 {
    let discoveries = Discoveries(vec![discovery.clone()]);
    let mut text = Vec::new();
    for show in shows {
        let mut fields = Vec::new();
        yaml::Section::show_fields(&discoveries, *show, &mut fields);
        text.extend_from_slice(yaml::print(&yaml::Node::new(yaml::Kind::Map(fields))).as_bytes());
    }
    xxh3_128(&text)
}
