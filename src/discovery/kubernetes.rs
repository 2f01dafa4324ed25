//! `kubernetes_sd_configs`: pods, services, nodes, endpoint slices and ingresses.
//!
//! Objects are listed; then a watch is held as a doorbell: whatever it says, the lists are read again, at most every few
//! seconds. That is dearer for the API server than following each event, and cannot drift from what it holds.
//!
//! Source: prometheus `discovery/kubernetes`; Kubernetes' API concepts, "Efficient detection of changes".

mod objects;
mod roles;

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::StatusCode;
use promesh_client::{HttpClient, Request, Response};
use promesh_config::http::{Authorization, HttpClientConfig, HttpUrl, TlsConfig};
use promesh_config::prometheus::{KubernetesRole, KubernetesSd};
use promesh_config::yaml::FilePath;
use tracing::warn;
use url::Url;

use crate::DiscoveryError;
use crate::manager::Sink;
use objects::{Object, ObjectList};

const LIST_BYTES_MAX: usize = 1 << 30;
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a watch is held before the lists are read again anyway.
const WATCH_SECONDS: u64 = 300;
const LIST_INTERVAL_MIN: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Objects of one kind by `namespace/name`.
pub(crate) type Store = BTreeMap<String, Object>;

/// Everything that a role looks at.
#[derive(Debug, Default)]
pub(crate) struct Stores(BTreeMap<&'static str, Store>);

impl Stores {
    pub(crate) fn all(&self, kind: &str) -> impl Iterator<Item = (&str, &Object)> {
        self.0.get(kind).into_iter().flatten().map(|(name, object)| (name.as_str(), object))
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        self.0.get(kind)?.get(name)
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
        let unbuilt = |what: &str| {
            let message =
                format!("kubernetes_sd_configs: {what} is not supported yet: use http_sd_configs or file_sd_configs");
            Err(DiscoveryError::Settings(message))
        };
        if !config.kubeconfig_file.is_empty() {
            return unbuilt("kubeconfig_file");
        }
        let role = config.role.unwrap_or(KubernetesRole::Pod);
        if role == KubernetesRole::Endpoints {
            return unbuilt("role endpoints (endpointslice is)");
        }
        let attach = &config.attach_metadata;
        if attach.deployment || attach.job || attach.cronjob {
            return unbuilt("attach_metadata of deployment, job and cronjob");
        }
        let (base, http) = match &config.api_server {
            Some(url) => (url.clone(), config.http.clone()),
            None => in_cluster()?,
        };
        let mut namespaces = config.namespaces.names.clone();
        if config.namespaces.own_namespace {
            let path = format!("{SERVICE_ACCOUNT}/namespace");
            let own = std::fs::read_to_string(&path).map_err(|error| {
                DiscoveryError::Settings(format!("could not determine the pod's namespace: {path}: {error}"))
            })?;
            namespaces.push(own.trim().to_owned());
        }
        Ok(Follower { role, client: HttpClient::new(&http)?, base, namespaces, config: config.clone() })
    }

    /// Follows for ever.
    pub(crate) async fn run(self, sink: Sink) {
        loop {
            let began = tokio::time::Instant::now();
            match self.list_all().await {
                Ok((stores, versions)) => {
                    let groups = roles::groups(self.role, &self.config.attach_metadata, &stores);
                    sink.listed(groups, began.elapsed());
                    tokio::time::sleep(LIST_INTERVAL_MIN).await;
                    self.wait_for_change(versions).await;
                }
                Err(error) => {
                    warn!(%error, "listing Kubernetes' objects failed, the last targets stay");
                    sink.failed(began.elapsed());
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// What is there now.
    #[cfg(test)]
    pub(crate) async fn groups_now(&self) -> Result<Vec<crate::TargetGroup>, DiscoveryError> {
        let (stores, _) = self.list_all().await?;
        Ok(roles::groups(self.role, &self.config.attach_metadata, &stores))
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
            KubernetesRole::Endpoints | KubernetesRole::EndpointSlice => {
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

    async fn list_all(&self) -> Result<(Stores, Vec<(Url, String)>), DiscoveryError> {
        let mut stores = Stores::default();
        let mut versions = Vec::new();
        for kind in self.kinds() {
            let store = stores.0.entry(kind.0).or_default();
            for url in self.urls(kind) {
                let (status, _, body) =
                    self.client.fetch(Request::get(url.clone()), LIST_TIMEOUT, LIST_BYTES_MAX).await?;
                if status != StatusCode::OK {
                    return Err(DiscoveryError::Answer(format!("the API answered {status} for {}", url.path())));
                }
                let list: ObjectList = serde_json::from_slice(&body)
                    .map_err(|error| DiscoveryError::Answer(format!("{}: {error}", url.path())))?;
                store.extend(list.items.into_iter().map(|object| (object.key(), object)));
                versions.push((url, list.metadata.resource_version));
            }
        }
        Ok((stores, versions))
    }

    /// Returns when any of the lists has changed, a watch has ended, or none could be held.
    async fn wait_for_change(&self, versions: Vec<(Url, String)>) {
        let mut watches = tokio::task::JoinSet::new();
        for (mut url, version) in versions {
            let seconds = WATCH_SECONDS.to_string();
            url.query_pairs_mut().extend_pairs([
                ("watch", "1"),
                ("resourceVersion", version.as_str()),
                ("timeoutSeconds", &seconds),
            ]);
            let client = self.client.clone();
            watches.spawn(async move {
                let held = Duration::from_secs(WATCH_SECONDS + 30);
                match client.send(Request::get(url), held).await {
                    Ok(Response { status: StatusCode::OK, body, .. }) => {
                        let _ = tokio::time::timeout(held, promesh_client::first_bytes(body)).await;
                    }
                    _ => tokio::time::sleep(RETRY_INTERVAL).await,
                }
            });
        }
        watches.join_next().await;
    }
}

/// The API of the cluster that this pod runs in, and the pod's own account.
fn in_cluster() -> Result<(HttpUrl, HttpClientConfig), DiscoveryError> {
    let outside = || {
        DiscoveryError::Settings(
            "kubernetes_sd_configs: not in a cluster (KUBERNETES_SERVICE_HOST is not set): give api_server".to_owned(),
        )
    };
    let host = std::env::var("KUBERNETES_SERVICE_HOST").map_err(|_| outside())?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").map_err(|_| outside())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = HttpUrl::parse(&format!("https://{host}:{port}")).map_err(DiscoveryError::Settings)?;
    let http = HttpClientConfig {
        authorization: Some(Authorization {
            r#type: "Bearer".to_owned(),
            credentials_file: FilePath(format!("{SERVICE_ACCOUNT}/token")),
            ..Authorization::default()
        }),
        tls_config: TlsConfig { ca_file: FilePath(format!("{SERVICE_ACCOUNT}/ca.crt")), ..TlsConfig::default() },
        ..HttpClientConfig::default()
    };
    Ok((url, http))
}
