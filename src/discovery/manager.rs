//! Providers and what they found, per job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use promesh_config::prometheus::{Discoveries, Discovery};
use promesh_config::yaml::{self, Show};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::{DiscoveryError, Groups, TargetGroup};

/// What is known now: the groups of each job. A job whose providers found nothing yet has an entry without groups.
pub type Discovered = BTreeMap<String, Groups>;

/// Changes are published together when they come within this time of each other.
const COALESCE: Duration = Duration::from_millis(100);

/// Runs providers. Must live within a tokio runtime; dropping it stops them.
#[derive(Debug)]
pub struct Manager {
    shared: Arc<Shared>,
    published: watch::Receiver<Arc<Discovered>>,
    peers: watch::Receiver<Arc<[String]>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    publish: watch::Sender<Arc<Discovered>>,
}

#[derive(Debug, Default)]
struct State {
    providers: BTreeMap<u128, Running>,
    jobs: BTreeMap<String, Vec<u128>>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    groups: Groups,
}

/// Where a provider puts what it found.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    shared: Arc<Shared>,
    provider: u128,
}

impl Sink {
    /// All groups of the provider, as of now.
    pub(crate) fn publish(&self, groups: Vec<TargetGroup>) {
        let mut state = self.shared.state();
        let Some(running) = state.providers.get_mut(&self.provider) else { return };
        let same = running.groups.len() == groups.len()
            && running.groups.iter().zip(&groups).all(|(present, new)| **present == *new);
        if !same {
            running.groups = groups.into_iter().map(Arc::new).collect();
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_now(&self) {
        let state = self.state();
        let discovered: Discovered = state
            .jobs
            .iter()
            .map(|(job, providers)| {
                let found = providers.iter().filter_map(|provider| state.providers.get(provider));
                (job.clone(), found.flat_map(|running| running.groups.iter().cloned()).collect())
            })
            .collect();
        drop(state);
        self.publish.send_if_modified(|present| {
            let changed = **present != discovered;
            if changed {
                *present = Arc::new(discovered);
            }
            changed
        });
    }
}

impl Manager {
    /// A manager without jobs. `peers`: the web addresses of all peers, for `peer_sd_configs`.
    pub fn new(peers: watch::Receiver<Arc<[String]>>) -> Manager {
        let (publish, published) = watch::channel(Arc::new(Discovered::new()));
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Notify::new(), publish });
        let stop = CancellationToken::new();
        let (worker, stopped) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            while stopped.run_until_cancelled(worker.changed.notified()).await.is_some() {
                tokio::time::sleep(COALESCE).await;
                worker.publish_now();
            }
        });
        Manager { shared, published, peers, stop }
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
        let mut starts: BTreeMap<u128, Provider> = BTreeMap::new();
        for (job, discoveries) in jobs {
            let providers = wanted.entry(job.to_owned()).or_default();
            for discovery in &discoveries.0 {
                let id = identity(discovery);
                providers.push(id);
                if !starts.contains_key(&id) && !self.shared.state().providers.contains_key(&id) {
                    let provider = Provider::new(discovery, &self.peers)
                        .map_err(|error| DiscoveryError::Settings(format!("job {job:?}: {error}")))?;
                    starts.insert(id, provider);
                }
            }
        }
        let used: BTreeSet<u128> = wanted.values().flatten().copied().collect();
        let mut state = self.shared.state();
        state.providers.retain(|id, running| {
            let kept = used.contains(id);
            if !kept {
                running.stop.cancel();
            }
            kept
        });
        state.jobs = wanted;
        for (id, provider) in starts {
            let stop = self.stop.child_token();
            let groups = match provider {
                Provider::Fixed(groups) => groups.into_iter().map(Arc::new).collect(),
                Provider::Running(run, kind) => {
                    let sink = Sink { shared: Arc::clone(&self.shared), provider: id };
                    let span = tracing::info_span!("discovery", kind);
                    let stopped = stop.clone();
                    tokio::spawn(
                        async move {
                            stopped.run_until_cancelled(run(sink)).await;
                        }
                        .instrument(span),
                    );
                    Groups::new()
                }
            };
            state.providers.insert(id, Running { stop, groups });
        }
        drop(state);
        self.shared.publish_now();
        Ok(())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.cancel();
        self.shared.changed.notify_one();
    }
}

type Run = Box<dyn FnOnce(Sink) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A provider before it runs.
enum Provider {
    Fixed(Vec<TargetGroup>),
    Running(Run, &'static str),
}

impl Provider {
    fn new(discovery: &Discovery, peers: &watch::Receiver<Arc<[String]>>) -> Result<Provider, DiscoveryError> {
        Ok(match discovery {
            Discovery::Static(groups) => Provider::Fixed(
                groups
                    .iter()
                    .enumerate()
                    .map(|(index, group)| {
                        let addresses = group.targets.iter().map(String::as_str);
                        TargetGroup::of_addresses(&index.to_string(), addresses, &group.labels)
                    })
                    .collect(),
            ),
            Discovery::File(file) => {
                let file = file.clone();
                Provider::Running(Box::new(|sink| Box::pin(crate::file::run(file, sink))), "file")
            }
            Discovery::Http(http) => {
                let poller = crate::http::Poller::new(http)?;
                Provider::Running(Box::new(|sink| Box::pin(crate::refresh::run(poller, sink))), "http")
            }
            Discovery::Dns(dns) => {
                let poller = crate::dns::Poller::new(dns)?;
                Provider::Running(Box::new(|sink| Box::pin(crate::refresh::run(poller, sink))), "dns")
            }
            Discovery::Consul(consul) => {
                let poller = crate::consul::Poller::new(consul)?;
                Provider::Running(Box::new(|sink| Box::pin(crate::refresh::run(poller, sink))), "consul")
            }
            Discovery::Kubernetes(kubernetes) => {
                let follower = crate::kubernetes::Follower::new(kubernetes)?;
                Provider::Running(Box::new(|sink| Box::pin(follower.run(sink))), "kubernetes")
            }
            Discovery::Peer(peer) => {
                let (peer, peers) = (peer.clone(), peers.clone());
                Provider::Running(Box::new(|sink| Box::pin(crate::peer::run(peer, peers, sink))), "peer")
            }
            Discovery::Unbuilt(unbuilt) => {
                return Err(DiscoveryError::Settings(format!(
                    "{}_sd_configs is not supported yet: use http_sd_configs or file_sd_configs",
                    unbuilt.kind
                )));
            }
        })
    }
}

/// Equal for discoveries that do the same: content with secrets, and paths.
fn identity(discovery: &Discovery) -> u128 {
    let discoveries = Discoveries(vec![discovery.clone()]);
    let mut text = Vec::new();
    for show in [Show::Masked, Show::Content] {
        let mut fields = Vec::new();
        yaml::Section::show_fields(&discoveries, show, &mut fields);
        text.extend_from_slice(yaml::print(&yaml::Node::new(yaml::Kind::Map(fields))).as_bytes());
    }
    xxh3_128(&text)
}
