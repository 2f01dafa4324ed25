//! `docker_sd_configs`: the containers of a Docker engine, one target for each port and network.
//!
//! Source: prometheus `discovery/moby`; Docker's engine API, `/containers/json` and `/networks`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use promesh_client::HttpClient;
use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::{DockerSd, Filter};
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, host_port, list, pairs, shown, text};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup, label_name};

/// A Docker engine.
pub(crate) struct Engine {
    api: Api,
    base: String,
}

impl Engine {
    /// Reaches an engine by `unix`, `tcp`, `http` or `https`. As upstream, HTTP settings count for the last two.
    pub(crate) fn new(host: &str, http: &HttpClientConfig, timeout: Duration) -> Result<Engine, DiscoveryError> {
        let (scheme, rest) = host.split_once("://").unwrap_or(("", host));
        let plain = HttpClientConfig::default();
        let (client, base) = match scheme {
            "unix" => (HttpClient::over_socket(&plain, PathBuf::from(rest))?, "http://docker".to_owned()),
            "tcp" => (HttpClient::new(&plain)?, format!("http://{rest}")),
            "http" | "https" => (HttpClient::new(http)?, host.to_owned()),
            other => {
                let message = format!("host: {other:?} is not supported yet: use unix, tcp, http or https");
                return Err(DiscoveryError::Settings(message));
            }
        };
        Ok(Engine { api: Api::over(client, timeout), base })
    }

    /// One list of the engine.
    pub(crate) async fn list(&self, path: &str, filters: &[Filter]) -> Result<Value, DiscoveryError> {
        self.api.get(api::url(&self.base, path, &[("filters", &written(filters))])?).await
    }

    /// The labels of each network by its id.
    pub(crate) async fn networks(&self) -> Result<BTreeMap<String, Vec<(String, String)>>, DiscoveryError> {
        let networks = self.list("networks", &[]).await?;
        let labels = |network: &Value| {
            let flag = |name: &str| network[name].as_bool().unwrap_or(false).to_string();
            let mut labels = vec![
                ("network_id".to_owned(), text(network, "Id")),
                ("network_name".to_owned(), text(network, "Name")),
                ("network_scope".to_owned(), text(network, "Scope")),
                ("network_internal".to_owned(), flag("Internal")),
                ("network_ingress".to_owned(), flag("Ingress")),
            ];
            labels.extend(
                pairs(network, "Labels")
                    .map(|(name, value)| (format!("network_label_{}", label_name(name)), shown(value))),
            );
            (text(network, "Id"), labels)
        };
        Ok(networks.as_array().into_iter().flatten().map(labels).collect())
    }
}

/// Filters as the engine reads them: `{"name": {"value": true}}`.
fn written(filters: &[Filter]) -> String {
    let mut map: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for filter in filters {
        map.entry(&filter.name).or_default().extend(filter.values.iter().map(|value| (value.as_str(), true)));
    }
    if map.is_empty() { String::new() } else { serde_json::json!(map).to_string() }
}

/// The given labels under the kind's own prefix.
pub(crate) fn add(meta: &mut Meta, labels: Option<&Vec<(String, String)>>) {
    for (name, value) in labels.into_iter().flatten() {
        meta.set(name, value);
    }
}

pub(crate) struct Poller {
    config: DockerSd,
    engine: Engine,
}

impl Poller {
    pub(crate) fn new(config: &DockerSd) -> Result<Poller, DiscoveryError> {
        let engine = Engine::new(&config.host, &config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), engine })
    }

    /// One container's targets.
    fn targets(
        &self,
        container: &Value,
        all: &BTreeMap<&str, &Value>,
        network_labels: &BTreeMap<String, Vec<(String, String)>>,
    ) -> Vec<Labels> {
        let Some(name) = list(container, "Names").first() else { return Vec::new() };
        let mode = text(container, "HostConfig.NetworkMode");
        let mut common = Meta::of("docker");
        common.set("container_id", text(container, "Id"));
        common.set("container_name", shown(name));
        common.set("container_network_mode", &mode);
        common.set("container_image", text(container, "Image"));
        common.set("container_image_id", text(container, "ImageID"));
        common.each("container_label_", pairs(container, "Labels").map(|(name, value)| (name, shown(value))));
        let mut targets = Vec::new();
        for network in self.networks_of(container, all) {
            let address = [text(network, "IPAddress"), text(network, "GlobalIPv6Address")];
            let address = address.into_iter().find(|address| !address.is_empty()).unwrap_or_default();
            let mut shared = common.clone();
            shared.set("network_ip", &address);
            add(&mut shared, network_labels.get(&text(network, "NetworkID")));
            let before = targets.len();
            for port in list(container, "Ports").iter().filter(|port| port["Type"] == "tcp") {
                let private = text(port, "PrivatePort");
                let mut target = shared.clone();
                target.set("port_private", &private);
                if port["PublicPort"].as_u64().is_some_and(|port| port > 0) {
                    target.set("port_public", text(port, "PublicPort"));
                    target.set("port_public_ip", text(port, "IP"));
                }
                targets.push(target.address(host_port(&address, private)).build());
            }
            if targets.len() == before {
                // Nothing is exposed over TCP; containers in the host's network never have ports.
                let address = match mode.as_str() {
                    "host" => self.config.host_networking_host.clone(),
                    _ => host_port(&address, self.config.port),
                };
                targets.push(shared.address(address).build());
            }
        }
        targets
    }

    /// The networks that count for a container: those of the container whose network it shares, if it has none itself.
    fn networks_of<'a>(&self, container: &'a Value, all: &BTreeMap<&str, &'a Value>) -> Vec<&'a Value> {
        let attached = |container: &'a Value| -> Vec<&'a Value> {
            // By name, as an object's entries are sorted here.
            pairs(container, "NetworkSettings.Networks").map(|(_, network)| network).collect()
        };
        let mut present = container;
        let mut networks = attached(present);
        // A chain of shared networks longer than this is a circle.
        for _ in 0..all.len() {
            if !networks.is_empty() {
                break;
            }
            let mode = text(present, "HostConfig.NetworkMode");
            let Some(other) = mode.strip_prefix("container:").and_then(|id| all.get(id)) else { break };
            present = other;
            networks = attached(present);
        }
        networks.retain(|network| !network.is_null());
        if self.config.match_first_network {
            networks.truncate(1);
        }
        networks
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let containers = self.engine.list("containers/json", &self.config.filters).await?;
        let networks = self.engine.networks().await?;
        let containers = containers.as_array().map_or(&[][..], Vec::as_slice);
        let all = containers.iter().filter_map(|one| Some((one["Id"].as_str()?, one))).collect();
        let targets = containers.iter().flat_map(|container| self.targets(container, &all, &networks)).collect();
        Ok(api::group("Docker", targets))
    }
}
