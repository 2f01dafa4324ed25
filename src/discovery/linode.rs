//! `linode_sd_configs`: instances of Linode.
//!
//! Everything is listed at every refresh; upstream skips that while the account's events say that nothing happened.
//!
//! Source: prometheus `discovery/linode`; Linode's API v4.

use std::time::Duration;

use ::http::HeaderValue;
use promesh_client::Request;
use promesh_config::prometheus::LinodeSd;
use promesh_model::Labels;
use serde_json::{Value, json};

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, shown, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const BASE: &str = "https://api.linode.com";

pub(crate) struct Poller {
    config: LinodeSd,
    api: Api,
    base: String,
}

impl Poller {
    pub(crate) fn new(config: &LinodeSd) -> Result<Poller, DiscoveryError> {
        Poller::at(config, BASE)
    }

    pub(crate) fn at(config: &LinodeSd, base: &str) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned() })
    }

    async fn pages(&self, path: &str) -> Result<Vec<Value>, DiscoveryError> {
        let mut all = Vec::new();
        for page in 1..=PAGES_MAX {
            let page_text = page.to_string();
            let url = api::url(&self.base, path, &[("page", &page_text), ("page_size", "500")])?;
            let mut request = Request::get(url);
            if !self.config.region.is_empty() {
                let filter = json!({"region": self.config.region}).to_string();
                let filter = HeaderValue::from_str(&filter)
                    .map_err(|_| DiscoveryError::Settings("region: it cannot be sent".to_owned()))?;
                request.headers.insert("x-filter", filter);
            }
            let answer = self.api.json(request).await?;
            all.extend_from_slice(list(&answer, "data"));
            if answer["pages"].as_u64().unwrap_or(1) <= page as u64 {
                return Ok(all);
            }
        }
        Err(DiscoveryError::Answer(format!("{path}: the pages do not end")))
    }

    /// `None` for an instance without an address.
    fn target(&self, instance: &Value, ips: &[Value], ranges: &[Value]) -> Option<Labels> {
        let (mut public, mut private, mut extra) = (None, None, Vec::new());
        for address in list(instance, "ipv4") {
            for detail in ips.iter().filter(|detail| detail["address"] == *address) {
                let is_public = detail["public"].as_bool().unwrap_or(false);
                match if is_public { &mut public } else { &mut private } {
                    slot @ None => *slot = Some(detail),
                    Some(_) => extra.push(shown(address)),
                }
            }
        }
        if list(instance, "ipv4").is_empty() {
            return None;
        }
        let six = text(instance, "ipv6");
        let six = six.split('/').next().unwrap_or("");
        let six_detail = ips.iter().find(|detail| !six.is_empty() && text(detail, "address") == six);
        let routed = ranges.iter().filter(|range| !six.is_empty() && text(range, "route_target") == six);
        let routed: Vec<String> =
            routed.map(|range| format!("{}/{}", text(range, "range"), text(range, "prefix"))).collect();
        let mut meta = Meta::of("linode");
        meta.take(
            instance,
            &[
                ("instance_id", "id"),
                ("instance_label", "label"),
                ("image", "image"),
                ("region", "region"),
                ("type", "type"),
                ("status", "status"),
                ("group", "group"),
                ("hypervisor", "hypervisor"),
                ("specs_vcpus", "specs.vcpus"),
            ],
        );
        meta.set("gpus", instance["specs"]["gpus"].as_i64().unwrap_or(0).to_string());
        for (name, field) in
            [("specs_disk_bytes", "disk"), ("specs_memory_bytes", "memory"), ("specs_transfer_bytes", "transfer")]
        {
            meta.set(name, (instance["specs"][field].as_i64().unwrap_or(0) << 20).to_string());
        }
        let enabled = instance["backups"]["enabled"].as_bool().unwrap_or(false);
        meta.set("backups", if enabled { "enabled" } else { "disabled" });
        for (name, detail) in [("private_ipv4", private), ("public_ipv4", public), ("public_ipv6", six_detail)] {
            let Some(detail) = detail else { continue };
            meta.set(name, text(detail, "address"));
            let reverse = text(detail, "rdns");
            if reverse != "null" {
                meta.set(&format!("{name}_rdns"), reverse);
            }
        }
        let separator = &self.config.tag_separator;
        meta.join("tags", &texts(instance, "tags"), separator);
        meta.join("extra_ips", &extra, separator).join("ipv6_ranges", &routed, separator);
        let address = public.map(|detail| text(detail, "address")).unwrap_or_default();
        Some(meta.address(host_port(&address, self.config.port)).build())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let instances = self.pages("v4/linode/instances").await?;
        let ips = self.pages("v4/networking/ips").await?;
        let ranges = self.pages("v4/networking/ipv6/ranges").await?;
        let targets = instances.iter().filter_map(|instance| self.target(instance, &ips, &ranges)).collect();
        Ok(api::group("Linode", targets))
    }
}
