//! `consul_sd_configs`: the services of a Consul catalogue and the nodes that run them.
//!
//! Asked every `refresh_interval`; upstream's blocking queries would tell changes sooner at one held request a service.
//!
//! Source: prometheus `discovery/consul`; Consul's catalogue and health API.

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::{HeaderValue, StatusCode};
use promesh_client::{HttpClient, Request};
use promesh_config::http::HttpUrl;
use promesh_config::prometheus::ConsulSd;
use promesh_model::{Labels, LabelsBuilder};
use serde::Deserialize;

use crate::refresh::Refresh;
use crate::{ADDRESS, DiscoveryError, TargetGroup, label_name};

const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The lists of a whole mesh of services are many requests; each has this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Poller {
    config: ConsulSd,
    client: HttpClient,
    base: HttpUrl,
    datacenter: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceEntry {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    node: String,
    address: String,
    datacenter: String,
    tagged_addresses: Option<BTreeMap<String, String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    address: String,
    port: u32,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    namespace: String,
    partition: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    status: String,
}

impl Poller {
    pub(crate) fn new(config: &ConsulSd) -> Result<Poller, DiscoveryError> {
        let path = config.path_prefix.trim_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        let base = HttpUrl::parse(&format!("{}://{}{slash}{path}/", config.scheme, config.server))
            .map_err(|error| DiscoveryError::Settings(format!("consul_sd_configs: server: {error}")))?;
        Ok(Poller {
            client: HttpClient::new(&config.http)?,
            base,
            datacenter: config.datacenter.clone(),
            config: config.clone(),
        })
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, DiscoveryError> {
        let mut url = self.base.url().join(path).map_err(|error| DiscoveryError::Answer(error.to_string()))?;
        {
            let mut query = url.query_pairs_mut();
            let own = [
                ("dc", self.datacenter.as_str()),
                ("ns", &self.config.namespace),
                ("partition", &self.config.partition),
            ];
            query
                .extend_pairs(own.into_iter().chain(parameters.iter().copied()).filter(|(_, value)| !value.is_empty()));
            if self.config.allow_stale {
                query.append_key_only("stale");
            }
        }
        let mut request = Request::get(url);
        if !self.config.token.is_empty() {
            let mut value = HeaderValue::from_str(self.config.token.expose())
                .map_err(|_| DiscoveryError::Settings("consul_sd_configs: token cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            request.headers.insert("x-consul-token", value);
        }
        let (status, _, body) = self.client.fetch(request, REQUEST_TIMEOUT, ANSWER_BYTES_MAX).await?;
        if status != StatusCode::OK {
            return Err(DiscoveryError::Answer(format!("consul answered {status} for {path}")));
        }
        serde_json::from_slice(&body).map_err(|error| DiscoveryError::Answer(format!("{path}: {error}")))
    }

    /// The services that the configuration wants.
    async fn services(&self) -> Result<Vec<String>, DiscoveryError> {
        let wanted = &self.config;
        if !wanted.services.is_empty()
            && wanted.tags.is_empty()
            && wanted.node_meta.is_empty()
            && wanted.filter.is_empty()
        {
            return Ok(wanted.services.clone());
        }
        let meta: Vec<String> = wanted.node_meta.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let mut parameters: Vec<(&str, &str)> = meta.iter().map(|pair| ("node-meta", pair.as_str())).collect();
        parameters.push(("filter", &wanted.filter));
        let catalogue: BTreeMap<String, Vec<String>> = self.ask("v1/catalog/services", &parameters).await?;
        let found = catalogue.into_iter().filter(|(name, tags)| {
            (wanted.services.is_empty() || wanted.services.contains(name))
                && wanted.tags.iter().all(|tag| tags.contains(tag))
        });
        Ok(found.map(|(name, _)| name).collect())
    }

    async fn own_datacenter(&mut self) -> Result<(), DiscoveryError> {
        if self.datacenter.is_empty() {
            let agent: serde_json::Value = self.ask("v1/agent/self", &[]).await?;
            let datacenter = agent["Config"]["Datacenter"].as_str();
            let unknown = || DiscoveryError::Answer("consul does not say its datacenter".to_owned());
            self.datacenter = datacenter.ok_or_else(unknown)?.to_owned();
        }
        Ok(())
    }

    async fn group(&self, service: &str) -> Result<TargetGroup, DiscoveryError> {
        let tags = self.config.tags.iter().map(|tag| ("tag", tag.as_str()));
        let meta: Vec<String> = self.config.node_meta.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let mut parameters: Vec<(&str, &str)> = tags.collect();
        parameters.extend(meta.iter().map(|pair| ("node-meta", pair.as_str())));
        parameters.push(("filter", &self.config.health_filter));
        let path = format!(
            "v1/health/service/{}",
            percent_encoding::utf8_percent_encode(service, percent_encoding::NON_ALPHANUMERIC)
        );
        let entries: Vec<ServiceEntry> = self.ask(&path, &parameters).await?;
        let labels =
            Labels::from_pairs([("__meta_consul_service", service), ("__meta_consul_dc", self.datacenter.as_str())]);
        let targets = entries.iter().map(|entry| self.target(entry)).collect();
        Ok(TargetGroup { source: service.to_owned(), targets, labels })
    }

    fn target(&self, entry: &ServiceEntry) -> Labels {
        let separator = &self.config.tag_separator;
        let (node, service) = (&entry.node, &entry.service);
        let mut labels = LabelsBuilder::default();
        let tags = service.tags.as_deref().unwrap_or_default().join(separator);
        // Around the tags too, so that a rule can match a whole tag wherever it stands.
        labels.set("__meta_consul_tags", &format!("{separator}{tags}{separator}"));
        let host = if service.address.is_empty() { &node.address } else { &service.address };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        labels.set(ADDRESS, &format!("{host}:{}", service.port));
        for (name, value) in [
            ("address", node.address.as_str()),
            ("node", &node.node),
            ("dc", &node.datacenter),
            ("namespace", &service.namespace),
            ("partition", &service.partition),
            ("service_address", &service.address),
            ("service_id", &service.id),
            ("service", &service.service),
            ("health", health(&entry.checks)),
            ("service_port", &service.port.to_string()),
        ] {
            labels.set(&format!("__meta_consul_{name}"), value);
        }
        for (kind, pairs) in
            [("metadata", &node.meta), ("service_metadata", &service.meta), ("tagged_address", &node.tagged_addresses)]
        {
            for (name, value) in pairs.iter().flatten() {
                labels.set(&format!("__meta_consul_{kind}_{}", label_name(name)), value);
            }
        }
        labels.build()
    }
}

/// The worst of the checks.
fn health(checks: &[Check]) -> &'static str {
    let any = |status: &str| checks.iter().any(|check| check.status == status);
    ["maintenance", "critical", "warning"].into_iter().find(|status| any(status)).unwrap_or("passing")
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        self.own_datacenter().await?;
        let mut groups = Vec::new();
        for service in self.services().await? {
            groups.push(self.group(&service).await?);
        }
        Ok(groups)
    }
}
