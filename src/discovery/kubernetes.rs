//! `kubernetes_sd_configs`: pods, services, nodes, endpoints, endpoint slices and ingresses.
//!
//! Each kind of object that a role looks at is listed once and then followed ([`watch`]); what is there now is made into
//! groups again whenever something changed, soon but not for every single change.
//!
//! Source: prometheus `discovery/kubernetes`; Kubernetes' API concepts, "Efficient detection of changes".

mod account;
mod endpoints;
mod objects;
mod roles;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_client::HttpClient;
use promesh_config::http::HttpUrl;
use promesh_config::prometheus::{KubernetesRole, KubernetesSd};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use url::Url;

use crate::manager::Sink;
use crate::{DiscoveryError, TargetGroup};
use objects::Object;
use watch::{Change, Watcher};

/// Changes within this time are told together; with many objects, within so many times what telling takes.
const TELL_AFTER: Duration = Duration::from_millis(500);
const TELL_AFTER_TIMES: u32 = 10;
/// Without any change it is told again that all is as it was, sooner when there is nothing: that is believed only when it
/// is told twice.
const TELL_AGAIN: Duration = Duration::from_secs(30);
const TELL_NOTHING_AGAIN: Duration = Duration::from_secs(5);
/// Changes that wait to be looked at; a watch waits for room.
const CHANGES_MAX: usize = 1024;

/// Objects of one kind by `namespace/name`.
pub(crate) type Store = BTreeMap<String, Object>;

/// Everything that a role looks at: lists, each of one kind.
#[derive(Debug, Default)]
pub(crate) struct Stores(Vec<(&'static str, Store)>);

impl Stores {
    pub(crate) fn all(&self, kind: &str) -> impl Iterator<Item = (&str, &Object)> {
        let lists = self.0.iter().filter(move |(of, _)| *of == kind);
        lists.flat_map(|(_, store)| store.iter().map(|(name, object)| (name.as_str(), object)))
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        self.0.iter().filter(|(of, _)| *of == kind).find_map(|(_, store)| store.get(name))
    }
}

pub(crate) struct Follower {
    config: KubernetesSd,
    role: KubernetesRole,
    client: HttpClient,
    base: HttpUrl,
    namespaces: Vec<String>,
}

impl Follower {
    /// # Errors
    /// Settings that cannot be used, a service account that is not there, a part that is not built.
    pub(crate) fn new(config: &KubernetesSd) -> Result<Follower, DiscoveryError> {
        let attach = &config.attach_metadata;
        if attach.deployment || attach.job || attach.cronjob {
            let message = "kubernetes_sd_configs: attach_metadata of deployment, job and cronjob is not supported yet: use \
                           http_sd_configs or file_sd_configs";
            return Err(DiscoveryError::Settings(message.to_owned()));
        }
        let (base, http) = match &config.api_server {
            Some(url) => (url.clone(), config.http.clone()),
            None if !config.kubeconfig_file.is_empty() => account::of_kubeconfig(config.kubeconfig_file.as_path())?,
            None => account::in_cluster()?,
        };
        let mut namespaces = config.namespaces.names.clone();
        if config.namespaces.own_namespace {
            namespaces.push(account::own_namespace()?);
        }
        let role = config.role.unwrap_or(KubernetesRole::Pod);
        Ok(Follower { role, client: HttpClient::new(&http)?, base, namespaces, config: config.clone() })
    }

    /// Follows for ever.
    pub(crate) async fn run(self, sink: Sink) {
        let (tell, mut changes) = mpsc::channel(CHANGES_MAX);
        // Dropped with this future, and the watchers with it.
        let mut watchers = tokio::task::JoinSet::new();
        let mut lists = Lists::default();
        for (place, (kind, url)) in self.lists().into_iter().enumerate() {
            lists.stores.0.push((kind, Store::new()));
            lists.missing.push(true);
            watchers.spawn(Watcher { client: self.client.clone(), url, place, tell: tell.clone() }.run());
        }
        drop(tell);
        let (mut due, mut patience) = (None::<Instant>, TELL_AFTER);
        loop {
            let wake = due.unwrap_or_else(|| Instant::now() + TELL_AGAIN);
            tokio::select! {
                Some((place, change)) = changes.recv() => {
                    if let Change::Failed(took) = change {
                        sink.failed(took);
                    } else if lists.apply(place, change) {
                        let soon = Instant::now() + patience;
                        due = Some(due.map_or(soon, |due| due.min(soon)));
                    }
                }
                () = sleep_until(wake) => {
                    if due.is_none() {
                        continue;
                    }
                    let began = Instant::now();
                    let groups = roles::groups(self.role, &self.config.attach_metadata, &lists.stores);
                    let is_empty = groups.iter().all(|group: &TargetGroup| group.targets.is_empty());
                    patience = TELL_AFTER.max(began.elapsed() * TELL_AFTER_TIMES);
                    sink.listed(groups, std::mem::take(&mut lists.took) + began.elapsed());
                    due = Some(Instant::now() + if is_empty { TELL_NOTHING_AGAIN } else { TELL_AGAIN });
                }
            }
        }
    }

    /// The lists to follow: their kind, and where.
    fn lists(&self) -> Vec<(&'static str, Url)> {
        self.kinds().into_iter().flat_map(|kind| self.urls(kind).into_iter().map(move |url| (kind.0, url))).collect()
    }

    /// The kinds of objects to look at, with their paths.
    fn kinds(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let pods = ("pod", "api/v1", "pods");
        let services = ("service", "api/v1", "services");
        let nodes = ("node", "api/v1", "nodes");
        let mut kinds = match self.role {
            KubernetesRole::Pod => vec![pods],
            KubernetesRole::Service => vec![services],
            KubernetesRole::Node => vec![nodes],
            KubernetesRole::Ingress => vec![("ingress", "apis/networking.k8s.io/v1", "ingresses")],
            KubernetesRole::Endpoints => vec![("endpoints", "api/v1", "endpoints"), services, pods],
            KubernetesRole::EndpointSlice => {
                vec![("endpointslice", "apis/discovery.k8s.io/v1", "endpointslices"), services, pods]
            }
        };
        if self.config.attach_metadata.node && !kinds.contains(&nodes) {
            kinds.push(nodes);
        }
        if self.config.attach_metadata.namespace {
            kinds.push(("namespace", "api/v1", "namespaces"));
        }
        kinds
    }

    /// The URLs that a kind is asked at: one a namespace, or one for all.
    fn urls(&self, kind: (&'static str, &'static str, &'static str)) -> Vec<Url> {
        let (name, group, plural) = kind;
        let cluster_wide = matches!(name, "node" | "namespace") || self.namespaces.is_empty();
        let paths = if cluster_wide {
            vec![format!("{group}/{plural}")]
        } else {
            self.namespaces.iter().map(|namespace| format!("{group}/namespaces/{namespace}/{plural}")).collect()
        };
        let selector =
            self.config.selectors.iter().find(|selector| selector.role.is_some_and(|role| role.name() == name));
        let prefix = self.base.url().path().trim_end_matches('/').to_owned();
        paths
            .into_iter()
            .map(|path| {
                let mut url = self.base.url().clone();
                url.set_path(&format!("{prefix}/{path}"));
                if let Some(selector) = selector {
                    let pairs = [("labelSelector", &selector.label), ("fieldSelector", &selector.field)];
                    url.query_pairs_mut().extend_pairs(pairs.into_iter().filter(|(_, text)| !text.is_empty()));
                }
                url
            })
            .collect()
    }
}

/// What is known of all lists.
#[derive(Default)]
struct Lists {
    stores: Stores,
    /// Which were never read.
    missing: Vec<bool>,
    /// How long reading took since it was told last.
    took: Duration,
}

impl Lists {
    /// True when something is to be told: all lists were read, and one has changed.
    fn apply(&mut self, place: usize, change: Change) -> bool {
        let store = &mut self.stores.0[place].1;
        match change {
            Change::Listed(all, took) => {
                *store = all;
                self.missing[place] = false;
                self.took = self.took.max(took);
            }
            Change::Object(key, Some(object)) => {
                store.insert(key, *object);
            }
            Change::Object(key, None) => {
                store.remove(&key);
            }
            Change::Failed(_) => return false,
        }
        !self.missing.contains(&true)
    }
}

#[cfg(test)]
mod tests;
