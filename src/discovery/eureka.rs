//! `eureka_sd_configs`: the instances of applications that registered with Eureka.
//!
//! Source: prometheus `discovery/eureka`; Eureka's REST operations, `/apps`.

use std::time::Duration;

use ::http::{HeaderValue, header};
use promesh_client::Request;
use promesh_config::prometheus::EurekaSd;
use promesh_model::Labels;

use crate::api::{self, Api, Meta, host_port};
use crate::refresh::Refresh;
use crate::xml::Element;
use crate::{DiscoveryError, TargetGroup};

pub(crate) struct Poller {
    config: EurekaSd,
    api: Api,
}

impl Poller {
    pub(crate) fn new(config: &EurekaSd) -> Result<Poller, DiscoveryError> {
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, config: config.clone() })
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let mut request = Request::get(api::url(&self.config.server, "apps", &[])?);
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/xml"));
        let (_, body) = self.api.send(request).await?;
        let root = Element::parse(&body)?;
        let of = |element: &'static str| move |candidate: &&Element| candidate.name == element;
        let mut targets = Vec::new();
        for application in root.children.iter().filter(of("application")) {
            let instances = application.children.iter().filter(of("instance"));
            targets.extend(instances.map(|instance| target(application.at("name"), instance)));
        }
        Ok(api::group("eureka", targets))
    }
}

fn target(application: &str, instance: &Element) -> Labels {
    let mut meta = Meta::of("eureka");
    meta.set("app_name", application);
    for (name, path) in [
        ("hostname", "hostName"),
        ("homepage_url", "homePageUrl"),
        ("statuspage_url", "statusPageUrl"),
        ("healthcheck_url", "healthCheckUrl"),
        ("ip_addr", "ipAddr"),
        ("vip_address", "vipAddress"),
        ("secure_vip_address", "secureVipAddress"),
        ("status", "status"),
        ("id", "instanceId"),
        ("datacenterinfo_name", "dataCenterInfo.name"),
    ] {
        meta.set(&format!("app_instance_{name}"), instance.at(path));
    }
    let country: i64 = instance.at("countryId").parse().unwrap_or(0);
    meta.set("app_instance_country_id", country.to_string());
    for (name, field) in [("port", "port"), ("secure_port", "securePort")] {
        if let Some(port) = instance.child(field) {
            let enabled = port.attribute("enabled").unwrap_or("false");
            meta.set(&format!("app_instance_{name}"), &port.text);
            meta.set(&format!("app_instance_{name}_enabled"), enabled);
        }
    }
    for (prefix, path) in
        [("app_instance_datacenterinfo_metadata_", "dataCenterInfo.metadata"), ("app_instance_metadata_", "metadata")]
    {
        meta.each(prefix, instance.list(path).iter().map(|item| (&item.name, item.text.clone())));
    }
    let port = instance.child("port").map_or("80", |port| port.text.as_str());
    meta.plain("instance", instance.at("instanceId"));
    meta.address(host_port(instance.at("hostName"), port)).build()
}
