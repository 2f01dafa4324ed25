//! `ionos_sd_configs`: the servers of a data centre of IONOS Cloud.
//!
//! Source: prometheus `discovery/ionos`; IONOS' cloud API v6.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_config::prometheus::IonosSd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, host_port, list, segment, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const BASE: &str = "https://api.ionos.com/cloudapi/v6";

pub(crate) struct Poller {
    config: IonosSd,
    api: Api,
    base: String,
}

impl Poller {
    pub(crate) fn new(config: &IonosSd) -> Result<Poller, DiscoveryError> {
        Poller::at(config, BASE)
    }

    pub(crate) fn at(config: &IonosSd, base: &str) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned() })
    }

    /// `None` for a server without an address.
    fn target(&self, servers_id: &str, server: &Value) -> Option<Labels> {
        // The newest card first, as upstream has it.
        let (mut all, mut by_card) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
        for card in list(server, "entities.nics.items").iter().filter(|card| card["properties"].is_object()) {
            let name = card["properties"]["name"].as_str().unwrap_or("unnamed").to_owned();
            let ips = texts(card, "properties.ips");
            all.splice(0..0, ips.clone());
            by_card.entry(name).or_default().splice(0..0, ips);
        }
        let address = host_port(all.first()?, self.config.port);
        let mut meta = Meta::of("ionos_server");
        meta.set("servers_id", servers_id).join("ip", &all, ",");
        meta.take(
            server,
            &[
                ("availability_zone", "properties.availabilityZone"),
                ("cpu_family", "properties.cpuFamily"),
                ("id", "id"),
                ("lifecycle", "metadata.state"),
                ("name", "properties.name"),
                ("state", "properties.vmState"),
                ("type", "properties.type"),
                ("boot_cdrom_id", "properties.bootCdrom.id"),
                ("boot_volume_id", "properties.bootVolume.id"),
            ],
        );
        if let Some(volume) = list(server, "entities.volumes.items").first() {
            meta.set("boot_image_id", text(volume, "properties.image"));
        }
        meta.each("nic_ip_", by_card.into_iter().map(|(name, ips)| (name, api::joined(&ips, ","))));
        Some(meta.address(address).build())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let path = format!("datacenters/{}/servers", segment(&self.config.datacenter_id));
        let servers = self.api.get(api::url(&self.base, &path, &[("depth", "3")])?).await?;
        let id = text(&servers, "id");
        Ok(api::group("ionos", list(&servers, "items").iter().filter_map(|server| self.target(&id, server)).collect()))
    }
}
