//! `marathon_sd_configs`: the tasks of Marathon's applications, a group for each application.
//!
//! Source: prometheus `discovery/marathon`; Marathon's API, `/v2/apps`.

use std::time::Duration;

use promesh_client::Request;
use promesh_config::prometheus::MarathonSd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Api, Meta, host_port, list, pairs, secret_header, shown, text};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup, secret_of};

pub(crate) struct Poller {
    config: MarathonSd,
    api: Api,
    /// Servers take turns.
    turn: usize,
}

impl Poller {
    pub(crate) fn new(config: &MarathonSd) -> Result<Poller, DiscoveryError> {
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, config: config.clone(), turn: 0 })
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let server = &self.config.servers[self.turn % self.config.servers.len()];
        self.turn += 1;
        let mut request = Request::get(api::url(server, "v2/apps/", &[("embed", "apps.tasks")])?);
        let token = secret_of(&self.config.auth_token, &self.config.auth_token_file)?;
        if !token.is_empty() {
            secret_header(&mut request, "authorization", &format!("token={}", token.expose()))?;
        }
        let answer = self.api.json(request).await?;
        Ok(list(&answer, "apps").iter().map(group).collect())
    }
}

fn group(app: &Value) -> TargetGroup {
    let mut meta = Meta::of("marathon");
    meta.take(app, &[("app", "id"), ("image", "container.docker.image")]);
    meta.each("app_label_", pairs(app, "labels").map(|(name, value)| (name, shown(value))));
    TargetGroup { source: text(app, "id"), targets: targets(app), labels: meta.build() }
}

fn targets(app: &Value) -> Vec<Labels> {
    let in_container_network = list(app, "networks").first().is_some_and(|network| network["mode"] == "container");
    // Where mappings stand depends on Marathon's version.
    let mappings = ["container.portMappings", "container.docker.portMappings"];
    let mapped = mappings.into_iter().map(|path| list(app, path)).find(|mappings| !mappings.is_empty());
    let defined = list(app, "portDefinitions");
    let (declared, prefix) =
        mapped.map_or((defined, "port_definition_label_"), |mapped| (mapped, "port_mapping_label_"));
    let port_of = |entry: &Value| {
        let field = match (mapped.is_some(), in_container_network) {
            (true, true) => "containerPort",
            (true, false) => "hostPort",
            // Without required ports this is the service's port, and the task knows its own.
            (false, _) if app["requirePorts"] == true => "port",
            (false, _) => return 0,
        };
        entry[field].as_u64().unwrap_or(0)
    };
    let mut found = Vec::new();
    for task in list(app, "tasks") {
        let own: Vec<u64> = list(task, "ports").iter().filter_map(Value::as_u64).collect();
        let ports = if declared.is_empty() { own.clone() } else { declared.iter().map(port_of).collect() };
        let host = list(task, "ipAddresses").first().filter(|_| in_container_network);
        let host = host.map_or_else(|| text(task, "host"), |address| text(address, "ipAddress"));
        for (index, port) in ports.iter().enumerate() {
            // Zero: Mesos chose one, and the task knows which.
            let port = if *port == 0 && own.len() == ports.len() { own[index] } else { *port };
            let mut meta = Meta::of("marathon");
            meta.set("task", text(task, "id")).set("port_index", index.to_string());
            if let Some(entry) = declared.get(index) {
                meta.each(prefix, pairs(entry, "labels").map(|(name, value)| (name, shown(value))));
            }
            found.push(meta.address(host_port(&host, port)).build());
        }
    }
    found
}
