//! `scaleway_sd_configs`: instances and bare metal of Scaleway.
//!
//! Source: prometheus `discovery/scaleway`; Scaleway's instance, Elastic Metal and IPAM APIs.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_client::Request;
use promesh_config::prometheus::ScalewaySd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, secret_header, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup, secret_of};

const PAGE: usize = 50;

pub(crate) struct Poller {
    config: ScalewaySd,
    api: Api,
}

impl Poller {
    pub(crate) fn new(config: &ScalewaySd) -> Result<Poller, DiscoveryError> {
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, config: config.clone() })
    }

    async fn pages(&self, path: &str, what: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, DiscoveryError> {
        let mut all = Vec::new();
        for page in 1..=PAGES_MAX {
            let (page, size) = (page.to_string(), PAGE.to_string());
            let query = [query, &[("page", &page), ("per_page", &size), ("page_size", &size)]].concat();
            let mut request = Request::get(api::url(&self.config.api_url, path, &query)?);
            let key = secret_of(&self.config.secret_key, &self.config.secret_key_file)?;
            secret_header(&mut request, "x-auth-token", key.expose())?;
            let answer = self.api.json(request).await?;
            let found = list(&answer, what);
            all.extend_from_slice(found);
            if found.len() < PAGE {
                return Ok(all);
            }
        }
        Err(DiscoveryError::Answer(format!("{path}: the pages do not end")))
    }

    fn filters(&self) -> (String, &str) {
        (self.config.tags_filter.join(","), &self.config.name_filter)
    }

    async fn instances(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let (tags, name) = self.filters();
        let path = format!("instance/v1/zones/{}/servers", self.config.zone);
        let query = [("project", self.config.project_id.as_str()), ("name", name), ("tags", &tags)];
        let servers = self.pages(&path, "servers", &query).await?;
        let private = self.private_addresses(&servers).await?;
        Ok(servers.iter().filter_map(|server| self.instance(server, &private)).collect())
    }

    /// Addresses of network cards in private networks, for servers that have no other address.
    async fn private_addresses(&self, servers: &[Value]) -> Result<BTreeMap<String, String>, DiscoveryError> {
        let lonely = servers
            .iter()
            .filter(|server| ["private_ip", "public_ip", "ipv6"].into_iter().all(|address| server[address].is_null()));
        let cards: Vec<String> =
            lonely.flat_map(|server| list(server, "private_nics")).map(|nic| text(nic, "id")).collect();
        let mut found = BTreeMap::new();
        let path = format!("ipam/v1/regions/{}/ips", region(&self.config.zone));
        for some in cards.chunks(PAGE) {
            let mut query: Vec<(&str, &str)> = vec![("resource_types", "instance_private_nic")];
            query.extend(some.iter().map(|card| ("resource_ids", card.as_str())));
            for ip in self.pages(&path, "ips", &query).await? {
                if !ip["is_ipv6"].as_bool().unwrap_or(false) {
                    let address = text(&ip, "address");
                    found.insert(text(&ip, "resource.id"), address.split('/').next().unwrap_or("").to_owned());
                }
            }
        }
        Ok(found)
    }

    /// `None` for an instance without an address.
    fn instance(&self, server: &Value, private: &BTreeMap<String, String>) -> Option<Labels> {
        let mut meta = Meta::of("scaleway_instance");
        meta.take(
            server,
            &[
                ("boot_type", "boot_type"),
                ("hostname", "hostname"),
                ("id", "id"),
                ("name", "name"),
                ("organization_id", "organization"),
                ("project_id", "project"),
                ("status", "state"),
                ("type", "commercial_type"),
                ("zone", "zone"),
                ("image_arch", "image.arch"),
                ("image_id", "image.id"),
                ("image_name", "image.name"),
                ("location_cluster_id", "location.cluster_id"),
                ("location_hypervisor_id", "location.hypervisor_id"),
                ("location_node_id", "location.node_id"),
                ("security_group_id", "security_group.id"),
                ("security_group_name", "security_group.name"),
            ],
        );
        meta.set("region", region(&text(server, "zone"))).join("tags", &texts(server, "tags"), ",");
        for (name, family) in [("public_ipv6_addresses", "inet6"), ("public_ipv4_addresses", "inet")] {
            let ips = list(server, "public_ips").iter().filter(|ip| ip["family"] == family);
            meta.join(name, &ips.map(|ip| text(ip, "address")).collect::<Vec<_>>(), ",");
        }
        // The last one that is there wins: private before public before IPv6.
        let six = text(server, "ipv6.address");
        meta.set("public_ipv6", &six);
        let public = text(server, "public_ip.address");
        if server["public_ip"]["family"] != "inet6" {
            meta.set("public_ipv4", &public);
        }
        let mut own = text(server, "private_ip");
        if [&own, &public, &six].into_iter().all(String::is_empty) {
            let cards = list(server, "private_nics").iter();
            own = cards.filter_map(|card| private.get(&text(card, "id"))).next().cloned().unwrap_or_default();
        }
        meta.set("private_ipv4", &own);
        let address = [own, public, six].into_iter().find(|address| !address.is_empty())?;
        Some(meta.address(host_port(&address, self.config.port)).build())
    }

    async fn bare_metal(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let (tags, name) = self.filters();
        let base = format!("baremetal/v1/zones/{}", self.config.zone);
        let query = [("project_id", self.config.project_id.as_str()), ("name", name), ("tags", &tags)];
        let servers = self.pages(&format!("{base}/servers"), "servers", &query).await?;
        let offers = self.pages(&format!("{base}/offers"), "offers", &[]).await?;
        let systems = self.pages(&format!("{base}/os"), "os", &[]).await?;
        let target = |server: &Value| {
            let mut meta = Meta::of("scaleway_baremetal");
            meta.take(
                server,
                &[("id", "id"), ("name", "name"), ("zone", "zone"), ("status", "status"), ("project_id", "project_id")],
            );
            if let Some(offer) = offers.iter().find(|offer| offer["id"] == server["offer_id"]) {
                meta.set("type", text(offer, "name"));
            }
            let installed = &server["install"]["os_id"];
            if let Some(system) = systems.iter().find(|system| !installed.is_null() && system["id"] == *installed) {
                meta.set("os_name", text(system, "name")).set("os_version", text(system, "version"));
            }
            meta.join("tags", &texts(server, "tags"), ",");
            let first = |version: &str| {
                let ip = list(server, "ips").iter().find(|ip| ip["version"] == version);
                ip.map_or_else(String::new, |ip| text(ip, "address"))
            };
            let (four, six) = (first("IPv4"), first("IPv6"));
            meta.set("public_ipv4", &four).set("public_ipv6", &six);
            let address = if four.is_empty() { six } else { four };
            if !address.is_empty() {
                meta.address(host_port(&address, self.config.port));
            }
            meta.build()
        };
        Ok(servers.iter().map(target).collect())
    }
}

/// `fr-par-1` lies in `fr-par`.
fn region(zone: &str) -> &str {
    zone.rsplit_once('-').map_or(zone, |(region, _)| region)
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let targets = if self.config.role == "baremetal" { self.bare_metal().await? } else { self.instances().await? };
        Ok(api::group("scaleway", targets))
    }
}
