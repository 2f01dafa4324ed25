//! `outscale_sd_configs`: virtual machines of Outscale.
//!
//! Source: prometheus `discovery/outscale`; Outscale's API, `ReadVms`.

use std::sync::Arc;
use std::time::Duration;

use promesh_client::Request;
use promesh_config::prometheus::OutscaleSd;
use promesh_model::time::Clock;
use promesh_model::{Labels, Secret};
use serde_json::{Value, json};

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, text};
use crate::refresh::Refresh;
use crate::signing::{AwsKey, sign_aws};
use crate::{DiscoveryError, TargetGroup, secret_of};

pub(crate) struct Poller {
    config: OutscaleSd,
    api: Api,
    clock: Arc<dyn Clock>,
}

impl Poller {
    pub(crate) fn new(config: &OutscaleSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, config: config.clone(), clock })
    }

    async fn ask(&self, body: &Value) -> Result<Value, DiscoveryError> {
        let base = match self.config.endpoint.as_str() {
            "" => format!("https://api.{}.outscale.com/api/v1", self.config.region),
            given => given.to_owned(),
        };
        let mut request = Request::post(api::url(&base, "ReadVms", &[])?, "application/json", body.to_string());
        let key = AwsKey {
            id: self.config.access_key.clone(),
            secret: secret_of(&self.config.secret_key, &self.config.secret_key_file)?,
            token: Secret::default(),
        };
        sign_aws(&mut request, &key, (&self.config.region, "oapi"), self.clock.now().wall)?;
        self.api.json(request).await
    }

    /// `None` for a machine without an address.
    fn target(&self, vm: &Value) -> Option<Labels> {
        let addresses = [text(vm, "PrivateIp"), text(vm, "PublicIp")];
        let address = addresses.into_iter().find(|address| !address.is_empty())?;
        let mut meta = Meta::of("outscale_vm");
        meta.set("region", &self.config.region);
        meta.take(
            vm,
            &[
                ("instance_id", "VmId"),
                ("state", "State"),
                ("subregion", "Placement.SubregionName"),
                ("private_ip", "PrivateIp"),
                ("public_ip", "PublicIp"),
            ],
        );
        meta.each("tag_", list(vm, "Tags").iter().map(|tag| (text(tag, "Key"), text(tag, "Value"))));
        Some(meta.address(host_port(&address, self.config.port)).build())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let (mut targets, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let body = if token.is_empty() { json!({}) } else { json!({"NextPageToken": token}) };
            let answer = self.ask(&body).await?;
            targets.extend(list(&answer, "Vms").iter().filter_map(|vm| self.target(vm)));
            token = text(&answer, "NextPageToken");
            if token.is_empty() {
                return Ok(api::group(&self.config.region, targets));
            }
        }
        Err(DiscoveryError::Answer("the pages of machines do not end".to_owned()))
    }
}
