//! `nomad_sd_configs`: the services that Nomad knows itself.
//!
//! Source: prometheus `discovery/nomad`; Nomad's API, `/v1/services`.

use std::time::Duration;

use promesh_config::prometheus::NomadSd;
use serde_json::Value;

use crate::api::{self, Api, Meta, host_port, list, segment, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

pub(crate) struct Poller {
    config: NomadSd,
    api: Api,
}

impl Poller {
    pub(crate) fn new(config: &NomadSd) -> Result<Poller, DiscoveryError> {
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, config: config.clone() })
    }

    async fn ask(&self, path: &str) -> Result<Value, DiscoveryError> {
        let query = [("namespace", self.config.namespace.as_str()), ("region", &self.config.region)];
        let mut url = api::url(&self.config.server, path, &query)?;
        if self.config.allow_stale {
            url.query_pairs_mut().append_key_only("stale");
        }
        self.api.get(url).await
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let mut targets = Vec::new();
        let namespaces = self.ask("v1/services").await?;
        for service in namespaces.as_array().into_iter().flatten().flat_map(|namespace| list(namespace, "Services")) {
            let name = text(service, "ServiceName");
            let instances = self.ask(&format!("v1/service/{}", segment(&name))).await?;
            for instance in instances.as_array().into_iter().flatten() {
                let mut meta = Meta::of("nomad");
                meta.take(
                    instance,
                    &[
                        ("address", "Address"),
                        ("dc", "Datacenter"),
                        ("node_id", "NodeID"),
                        ("namespace", "Namespace"),
                        ("service_address", "Address"),
                        ("service_id", "ID"),
                        ("service_port", "Port"),
                        ("service", "ServiceName"),
                    ],
                );
                meta.join("tags", &texts(instance, "Tags"), &self.config.tag_separator);
                let address = host_port(&text(instance, "Address"), text(instance, "Port"));
                targets.push(meta.address(address).build());
            }
        }
        Ok(api::group("Nomad", targets))
    }
}
