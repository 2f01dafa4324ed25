//! `lightsail_sd_configs`: instances of Amazon Lightsail.
//!
//! Source: prometheus `discovery/aws`; Amazon Lightsail's API, `GetInstances`, version 2016-11-28.

use std::sync::Arc;
use std::time::Duration;

use promesh_config::prometheus::LightsailSd;
use promesh_model::Labels;
use promesh_model::time::Clock;
use serde_json::{Value, json};

use crate::api::{self, Meta, PAGES_MAX, host_port, list, text, texts};
use crate::aws::{Aws, AwsSettings};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

pub(crate) struct Poller {
    config: LightsailSd,
    pub(crate) aws: Aws,
}

impl Poller {
    pub(crate) fn new(config: &LightsailSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        let settings = AwsSettings {
            region: config.region.clone(),
            endpoint: config.endpoint.clone(),
            access_key: config.access_key.clone(),
            secret_key: config.secret_key.clone(),
            profile: config.profile.clone(),
            role_arn: config.role_arn.clone(),
            external_id: config.external_id.clone(),
        };
        let aws = Aws::new(settings, &config.http, config.refresh_interval, clock)?;
        Ok(Poller { config: config.clone(), aws })
    }

    /// `None` for an instance without an address.
    fn target(&self, region: &str, instance: &Value) -> Option<Labels> {
        let private = text(instance, "privateIpAddress");
        if private.is_empty() {
            return None;
        }
        let mut meta = Meta::of("lightsail");
        meta.set("region", region);
        meta.take(
            instance,
            &[
                ("private_ip", "privateIpAddress"),
                ("public_ip", "publicIpAddress"),
                ("availability_zone", "location.availabilityZone"),
                ("blueprint_id", "blueprintId"),
                ("bundle_id", "bundleId"),
                ("instance_name", "name"),
                ("instance_state", "state.name"),
                ("instance_support_code", "supportCode"),
            ],
        );
        meta.join("ipv6_addresses", &texts(instance, "ipv6Addresses"), ",");
        let tags = list(instance, "tags").iter().filter(|tag| tag["key"].is_string() && tag["value"].is_string());
        meta.each("tag_", tags.map(|tag| (text(tag, "key"), text(tag, "value"))));
        Some(meta.address(host_port(&private, self.config.port)).build())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let region = self.aws.region().await?;
        let (mut targets, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let body = if token.is_empty() { json!({}) } else { json!({"pageToken": token}) };
            let answer = self.aws.json("lightsail", "Lightsail_20161128.GetInstances", &body).await?;
            targets.extend(list(&answer, "instances").iter().filter_map(|instance| self.target(&region, instance)));
            token = text(&answer, "nextPageToken");
            if token.is_empty() {
                return Ok(api::group(&region, targets));
            }
        }
        Err(DiscoveryError::Answer("the pages of instances do not end".to_owned()))
    }
}
