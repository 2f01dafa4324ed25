//! `vultr_sd_configs`: instances of Vultr.
//!
//! Source: prometheus `discovery/vultr`; Vultr's API v2.

use std::time::Duration;

use promesh_config::prometheus::VultrSd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const BASE: &str = "https://api.vultr.com";

pub(crate) struct Poller {
    config: VultrSd,
    api: Api,
    base: String,
}

impl Poller {
    pub(crate) fn new(config: &VultrSd) -> Result<Poller, DiscoveryError> {
        Poller::at(config, BASE)
    }

    pub(crate) fn at(config: &VultrSd, base: &str) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned() })
    }

    fn target(&self, instance: &Value) -> Labels {
        let mut meta = Meta::of("vultr_instance");
        meta.take(
            instance,
            &[
                ("id", "id"),
                ("label", "label"),
                ("os", "os"),
                ("os_id", "os_id"),
                ("region", "region"),
                ("plan", "plan"),
                ("vcpu_count", "vcpu_count"),
                ("ram_mb", "ram"),
                ("allowed_bandwidth_gb", "allowed_bandwidth"),
                ("disk_gb", "disk"),
                ("main_ip", "main_ip"),
                ("main_ipv6", "v6_main_ip"),
                ("internal_ip", "internal_ip"),
                ("hostname", "hostname"),
                ("server_status", "server_status"),
            ],
        );
        meta.join("features", &texts(instance, "features"), ",").join("tags", &texts(instance, "tags"), ",");
        meta.address(host_port(&text(instance, "main_ip"), self.config.port)).build()
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let (mut targets, mut cursor) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let url = api::url(&self.base, "v2/instances", &[("per_page", "100"), ("cursor", &cursor)])?;
            let answer = self.api.get(url).await?;
            targets.extend(list(&answer, "instances").iter().map(|instance| self.target(instance)));
            cursor = text(&answer, "meta.links.next");
            if cursor.is_empty() {
                return Ok(api::group("Vultr", targets));
            }
        }
        Err(DiscoveryError::Answer("the pages of instances do not end".to_owned()))
    }
}
