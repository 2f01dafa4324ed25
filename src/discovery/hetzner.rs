//! `hetzner_sd_configs`: cloud servers and dedicated servers of Hetzner.
//!
//! Source: prometheus `discovery/hetzner`; Hetzner's cloud API and Robot API.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_config::prometheus::HetznerSd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, pairs, shown, text};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const CLOUD: &str = "https://api.hetzner.cloud/v1";
const ROBOT: &str = "https://robot-ws.your-server.de";

pub(crate) struct Poller {
    config: HetznerSd,
    api: Api,
    base: String,
}

impl Poller {
    pub(crate) fn new(config: &HetznerSd) -> Result<Poller, DiscoveryError> {
        Poller::at(config, if config.role == "robot" { ROBOT } else { CLOUD })
    }

    pub(crate) fn at(config: &HetznerSd, base: &str) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned() })
    }

    /// All pages of a list of the cloud API.
    async fn pages(&self, what: &str, selector: &str) -> Result<Vec<Value>, DiscoveryError> {
        let mut all = Vec::new();
        let mut page = "1".to_owned();
        for _ in 0..PAGES_MAX {
            let query = [("page", page.as_str()), ("per_page", "50"), ("label_selector", selector)];
            let answer = self.api.get(api::url(&self.base, what, &query)?).await?;
            all.extend_from_slice(list(&answer, what));
            page = text(&answer, "meta.pagination.next_page");
            if page.is_empty() {
                return Ok(all);
            }
        }
        Err(DiscoveryError::Answer(format!("{what}: the pages do not end")))
    }

    async fn cloud(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let servers = self.pages("servers", &self.config.label_selector).await?;
        let networks = self.pages("networks", "").await?;
        let names: BTreeMap<String, String> =
            networks.iter().map(|network| (text(network, "id"), text(network, "name"))).collect();
        Ok(servers.iter().map(|server| self.cloud_target(server, &names)).collect())
    }

    fn cloud_target(&self, server: &Value, networks: &BTreeMap<String, String>) -> Labels {
        let mut meta = Meta::of("hetzner");
        // Answers of older versions of the API have the location in the data centre only.
        let location = if server["location"].is_object() { "location" } else { "datacenter.location" };
        let (name, zone) = (format!("{location}.name"), format!("{location}.network_zone"));
        meta.set("role", "hcloud");
        meta.take(
            server,
            &[
                ("server_id", "id"),
                ("server_name", "name"),
                ("public_ipv4", "public_net.ipv4.ip"),
                ("public_ipv6_network", "public_net.ipv6.ip"),
                ("server_status", "status"),
                ("hcloud_location", &name),
                ("hcloud_location_network_zone", &zone),
                ("hcloud_datacenter_location", &name),
                ("hcloud_datacenter_location_network_zone", &zone),
                ("hcloud_server_type", "server_type.name"),
                ("hcloud_cpu_cores", "server_type.cores"),
                ("hcloud_cpu_type", "server_type.cpu_type"),
                ("hcloud_disk_size_gb", "server_type.disk"),
                ("hcloud_image_name", "image.name"),
                ("hcloud_image_description", "image.description"),
                ("hcloud_image_os_version", "image.os_version"),
                ("hcloud_image_os_flavor", "image.os_flavor"),
            ],
        );
        let memory = server["server_type"]["memory"].as_f64().unwrap_or(0.0);
        meta.set("hcloud_memory_size_gb", (memory as i64).to_string());
        let private = list(server, "private_net")
            .iter()
            .filter_map(|net| Some((networks.get(&text(net, "network"))?, text(net, "ip"))));
        meta.each("hcloud_private_ipv4_", private);
        meta.each("hcloud_labelpresent_", pairs(server, "labels").map(|(name, _)| (name, "true".to_owned())));
        meta.each("hcloud_label_", pairs(server, "labels").map(|(name, value)| (name, shown(value))));
        meta.address(host_port(&text(server, "public_net.ipv4.ip"), self.config.port)).build()
    }

    async fn robot(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let servers = self.api.get(api::url(&self.base, "server", &[])?).await?;
        let target = |entry: &Value| {
            let server = &entry["server"];
            let mut meta = Meta::of("hetzner");
            meta.set("role", "robot");
            meta.take(
                server,
                &[
                    ("server_id", "server_number"),
                    ("server_name", "server_name"),
                    ("public_ipv4", "server_ip"),
                    ("server_status", "status"),
                    ("robot_product", "product"),
                ],
            );
            let datacenter = text(server, "dc").to_lowercase();
            meta.set("datacenter", &datacenter).set("robot_datacenter", &datacenter);
            meta.set("robot_cancelled", server["cancelled"].as_bool().unwrap_or(false).to_string());
            let six = list(server, "subnet").iter().find(|subnet| text(subnet, "ip").contains(':'));
            if let Some(subnet) = six {
                meta.set("public_ipv6_network", format!("{}/{}", text(subnet, "ip"), text(subnet, "mask")));
            }
            meta.address(host_port(&text(server, "server_ip"), self.config.port)).build()
        };
        Ok(servers.as_array().into_iter().flatten().map(target).collect())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let targets = if self.config.role == "robot" { self.robot().await? } else { self.cloud().await? };
        Ok(api::group("hetzner", targets))
    }
}
