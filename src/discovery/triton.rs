//! `triton_sd_configs`: containers or compute nodes of Triton.
//!
//! Source: prometheus `discovery/triton`; Triton's container monitor, CMON.

use std::time::Duration;

use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::TritonSd;

use crate::api::{self, Api, Meta, list, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

pub(crate) struct Poller {
    config: TritonSd,
    api: Api,
    base: String,
}

impl Poller {
    pub(crate) fn new(config: &TritonSd) -> Result<Poller, DiscoveryError> {
        Poller::at(config, &format!("https://{}", api::host_port(&config.endpoint, config.port)))
    }

    pub(crate) fn at(config: &TritonSd, base: &str) -> Result<Poller, DiscoveryError> {
        let http = HttpClientConfig { tls_config: config.tls_config.clone(), ..HttpClientConfig::default() };
        let api = Api::new(&http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned() })
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let nodes = self.config.role == "cn";
        let path = format!("v{}/{}", self.config.version, if nodes { "gz/discover" } else { "discover" });
        let url = api::url(&self.base, &path, &[("groups", &self.config.groups.join(","))])?;
        let source = url.to_string();
        let answer = self.api.get(url).await?;
        let found = list(&answer, if nodes { "cns" } else { "containers" });
        let (id, fields): (_, &[_]) = if nodes {
            ("server_uuid", &[("machine_id", "server_uuid"), ("machine_alias", "server_hostname")])
        } else {
            (
                "vm_uuid",
                &[
                    ("machine_id", "vm_uuid"),
                    ("machine_alias", "vm_alias"),
                    ("machine_brand", "vm_brand"),
                    ("machine_image", "vm_image_uuid"),
                    ("server_id", "server_uuid"),
                ],
            )
        };
        let targets = found.iter().map(|one| {
            let mut meta = Meta::of("triton");
            meta.take(one, fields).join("groups", &texts(one, "groups"), ",");
            meta.address(format!("{}.{}:{}", text(one, id), self.config.dns_suffix, self.config.port)).build()
        });
        Ok(api::group(&source, targets.collect()))
    }
}
