//! `digitalocean_sd_configs`: droplets and managed databases of DigitalOcean.
//!
//! Source: prometheus `discovery/digitalocean`; DigitalOcean's API v2.

use std::time::Duration;

use promesh_config::prometheus::DigitalOceanSd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const BASE: &str = "https://api.digitalocean.com";

pub(crate) struct Poller {
    config: DigitalOceanSd,
    api: Api,
    base: String,
}

impl Poller {
    pub(crate) fn new(config: &DigitalOceanSd) -> Result<Poller, DiscoveryError> {
        Poller::at(config, BASE)
    }

    pub(crate) fn at(config: &DigitalOceanSd, base: &str) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned() })
    }

    async fn pages(&self, what: &str) -> Result<Vec<Value>, DiscoveryError> {
        let mut all = Vec::new();
        for page in 1..=PAGES_MAX {
            let query = [("page", page.to_string()), ("per_page", "100".to_owned())];
            let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = self.api.get(api::url(&self.base, &format!("v2/{what}"), &query)?).await?;
            let found = list(&answer, what);
            all.extend_from_slice(found);
            if found.is_empty() || text(&answer, "links.pages.next").is_empty() {
                return Ok(all);
            }
        }
        Err(DiscoveryError::Answer(format!("{what}: the pages do not end")))
    }

    /// `None` for a droplet without an address.
    fn droplet(&self, droplet: &Value) -> Option<Labels> {
        let address = |family: &str, kind: &str| {
            let networks = list(droplet, &format!("networks.{family}"));
            networks.iter().find(|net| net["type"] == kind).map_or_else(String::new, |net| text(net, "ip_address"))
        };
        if list(droplet, "networks.v4").is_empty() {
            return None;
        }
        let public = address("v4", "public");
        let mut meta = Meta::of("digitalocean");
        meta.take(
            droplet,
            &[
                ("droplet_id", "id"),
                ("droplet_name", "name"),
                ("image", "image.slug"),
                ("image_name", "image.name"),
                ("region", "region.slug"),
                ("size", "size_slug"),
                ("status", "status"),
                ("vpc", "vpc_uuid"),
            ],
        );
        meta.set("private_ipv4", address("v4", "private")).set("public_ipv4", &public);
        meta.set("public_ipv6", address("v6", "public"));
        meta.join("features", &texts(droplet, "features"), ",").join("tags", &texts(droplet, "tags"), ",");
        Some(meta.address(host_port(&public, self.config.port)).build())
    }

    fn database(&self, cluster: &Value) -> Labels {
        let mut meta = Meta::of("digitalocean");
        meta.take(
            cluster,
            &[
                ("db_id", "id"),
                ("db_name", "name"),
                ("db_engine", "engine"),
                ("db_version", "version"),
                ("db_status", "status"),
                ("db_region", "region"),
                ("db_size", "size"),
                ("db_num_nodes", "num_nodes"),
                ("db_private_host", "private_connection.host"),
                ("db_host", "connection.host"),
            ],
        );
        meta.each("db_tag_", texts(cluster, "tags").into_iter().map(|tag| (tag, "true".to_owned())));
        let hosts = [text(cluster, "private_connection.host"), text(cluster, "connection.host")];
        if let Some(host) = hosts.iter().find(|host| !host.is_empty()) {
            meta.address(host_port(host, self.config.port));
        }
        meta.build()
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        if self.config.role == "databases" {
            let clusters = self.pages("databases").await?;
            let targets = clusters.iter().map(|cluster| self.database(cluster)).collect();
            return Ok(api::group("DigitalOcean Databases", targets));
        }
        let droplets = self.pages("droplets").await?;
        Ok(api::group("DigitalOcean", droplets.iter().filter_map(|droplet| self.droplet(droplet)).collect()))
    }
}
