//! `ovhcloud_sd_configs`: virtual private servers and dedicated servers of OVHcloud.
//!
//! Source: prometheus `discovery/ovhcloud`; OVHcloud's API, "First steps with the API".

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use promesh_client::Request;
use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::OvhCloudSd;
use promesh_model::Labels;
use promesh_model::time::Clock;
use serde_json::Value;
use tracing::warn;

use crate::api::{self, Api, Meta, secret_header, segment, shown, text, texts};
use crate::refresh::Refresh;
use crate::signing::hex;
use crate::{DiscoveryError, TargetGroup};

const ENDPOINTS: [(&str, &str); 7] = [
    ("ovh-eu", "https://eu.api.ovh.com/1.0"),
    ("ovh-ca", "https://ca.api.ovh.com/1.0"),
    ("ovh-us", "https://api.us.ovhcloud.com/1.0"),
    ("kimsufi-eu", "https://eu.api.kimsufi.com/1.0"),
    ("kimsufi-ca", "https://ca.api.kimsufi.com/1.0"),
    ("soyoustart-eu", "https://eu.api.soyoustart.com/1.0"),
    ("soyoustart-ca", "https://ca.api.soyoustart.com/1.0"),
];

pub(crate) struct Poller {
    config: OvhCloudSd,
    api: Api,
    base: String,
    clock: Arc<dyn Clock>,
    /// Their clock's lead over ours, in seconds.
    lead: Option<i64>,
}

impl Poller {
    pub(crate) fn new(config: &OvhCloudSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        let known = ENDPOINTS.iter().find(|(name, _)| *name == config.endpoint).map(|(_, url)| (*url).to_owned());
        let given = Some(config.endpoint.clone()).filter(|endpoint| endpoint.contains("://"));
        let base = known.or(given).ok_or_else(|| {
            let names: Vec<&str> = ENDPOINTS.iter().map(|(name, _)| *name).collect();
            DiscoveryError::Settings(format!(
                "unknown endpoint {:?}: a URL or one of {}",
                config.endpoint,
                names.join(", ")
            ))
        })?;
        let api = Api::new(&HttpClientConfig::default(), config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base, clock, lead: None })
    }

    async fn ask(&mut self, path: &str) -> Result<Value, DiscoveryError> {
        let now = self.clock.now().wall.ms().div_euclid(1000);
        let lead = match self.lead {
            Some(lead) => lead,
            None => {
                let theirs = self.api.get(api::url(&self.base, "auth/time", &[])?).await?;
                let theirs = theirs.as_i64();
                theirs.ok_or_else(|| DiscoveryError::Answer("auth/time: it is no number".to_owned()))? - now
            }
        };
        self.lead = Some(lead);
        let at = now + lead;
        let mut request = Request::get(api::url(&self.base, path, &[])?);
        let (secret, consumer) = (self.config.application_secret.expose(), self.config.consumer_key.expose());
        let signed = format!("{secret}+{consumer}+GET+{}++{at}", request.url);
        // The scheme is theirs: it asks for SHA-1.
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, signed.as_bytes());
        secret_header(&mut request, "x-ovh-application", &self.config.application_key)?;
        secret_header(&mut request, "x-ovh-timestamp", &at.to_string())?;
        secret_header(&mut request, "x-ovh-consumer", consumer)?;
        secret_header(&mut request, "x-ovh-signature", &format!("$1${}", hex(digest.as_ref())))?;
        self.api.json(request).await
    }

    async fn server(
        &mut self,
        path: &str,
        name: &str,
    ) -> Result<(Value, Option<IpAddr>, Option<IpAddr>), DiscoveryError> {
        let details = self.ask(&format!("{path}/{}", segment(name))).await?;
        let ips = self.ask(&format!("{path}/{}/ips", segment(name))).await?;
        let ips: Vec<IpAddr> = ips.as_array().into_iter().flatten().filter_map(|ip| address(&shown(ip))).collect();
        if ips.is_empty() {
            return Err(DiscoveryError::Answer("could not parse IP addresses from list".to_owned()));
        }
        let last = |four: bool| ips.iter().rev().find(|ip| ip.is_ipv4() == four).copied();
        Ok((details, last(true), last(false)))
    }
}

/// An address, or a network of one.
fn address(text: &str) -> Option<IpAddr> {
    let alone = text.strip_suffix("/32").unwrap_or(text);
    alone.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified())
}

const VPS: [(&str, &str); 16] = [
    ("offer", "model.offer"),
    ("model_vcore", "model.vcore"),
    ("maximum_additional_ip", "model.maximumAdditionnalIp"),
    ("version", "model.version"),
    ("model_name", "model.name"),
    ("disk", "model.disk"),
    ("memory", "model.memory"),
    ("zone", "zone"),
    ("display_name", "displayName"),
    ("cluster", "cluster"),
    ("state", "state"),
    ("name", "name"),
    ("netboot_mode", "netbootMode"),
    ("memory_limit", "memoryLimit"),
    ("offer_type", "offerType"),
    ("vcore", "vcore"),
];

const DEDICATED: [(&str, &str); 11] = [
    ("state", "state"),
    ("commercial_range", "commercialRange"),
    ("link_speed", "linkSpeed"),
    ("rack", "rack"),
    ("no_intervention", "noIntervention"),
    ("os", "os"),
    ("support_level", "supportLevel"),
    ("server_id", "serverId"),
    ("reverse", "reverse"),
    ("datacenter", "datacenter"),
    ("name", "name"),
];

fn target(is_vps: bool, server: &Value, four: Option<IpAddr>, six: Option<IpAddr>) -> Labels {
    let mut meta = Meta::of(if is_vps { "ovhcloud_vps" } else { "ovhcloud_dedicated_server" });
    if is_vps {
        meta.take(server, &VPS).set("datacenter", format!("[{}]", texts(server, "model.datacenter").join(" ")));
    } else {
        meta.take(server, &DEDICATED);
    }
    let shown = |ip: Option<IpAddr>| ip.map_or_else(String::new, |ip| ip.to_string());
    meta.set("ipv4", shown(four)).set("ipv6", shown(six));
    meta.plain("instance", text(server, "name")).address(shown(four.or(six))).build()
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let is_vps = self.config.service == "vps";
        let path = if is_vps { "vps" } else { "dedicated/server" };
        let names = self.ask(path).await?;
        let mut targets = Vec::new();
        for name in names.as_array().into_iter().flatten().map(shown) {
            match self.server(path, &name).await {
                Ok((server, four, six)) => targets.push(target(is_vps, &server, four, six)),
                Err(error) => warn!(%error, server = name, "no details of a server, it is left out"),
            }
        }
        Ok(api::group(&format!("ovhcloud_{}", self.config.service), targets))
    }
}
