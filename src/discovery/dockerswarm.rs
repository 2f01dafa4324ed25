//! `dockerswarm_sd_configs`: the services, tasks or nodes of a Docker swarm.
//!
//! Source: prometheus `discovery/moby`; Docker's engine API.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_config::prometheus::DockerSwarmSd;
use promesh_model::Labels;
use serde_json::Value;

use crate::api::{self, Meta, host_port, list, pairs, shown, text};
use crate::docker::{Engine, add};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup, label_name};

/// Labels of services, nodes and networks by their ids, the kind's prefix left out.
type ById = BTreeMap<String, Vec<(String, String)>>;

pub(crate) struct Poller {
    config: DockerSwarmSd,
    engine: Engine,
}

impl Poller {
    pub(crate) fn new(config: &DockerSwarmSd) -> Result<Poller, DiscoveryError> {
        let engine = Engine::new(&config.host, &config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), engine })
    }

    async fn services(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let services = self.engine.list("services", &self.config.filters).await?;
        let networks = self.engine.networks().await?;
        let mut targets = Vec::new();
        for service in services.as_array().into_iter().flatten() {
            let mut common = Meta::of("dockerswarm");
            add(&mut common, Some(&service_labels(service)));
            common.set("service_task_container_hostname", text(service, "Spec.TaskTemplate.ContainerSpec.Hostname"));
            common.set("service_task_container_image", text(service, "Spec.TaskTemplate.ContainerSpec.Image"));
            common.set("service_updating_status", text(service, "UpdateStatus.State"));
            for network in list(service, "Endpoint.VirtualIPs") {
                let host = without_mask(&text(network, "Addr"))?;
                let mut shared = common.clone();
                add(&mut shared, networks.get(&text(network, "NetworkID")));
                let before = targets.len();
                for port in tcp(list(service, "Endpoint.Ports")) {
                    let mut target = shared.clone();
                    target.set("service_endpoint_port_name", text(port, "Name"));
                    target.set("service_endpoint_port_publish_mode", text(port, "PublishMode"));
                    targets.push(target.address(host_port(&host, text(port, "PublishedPort"))).build());
                }
                if targets.len() == before {
                    targets.push(shared.address(host_port(&host, self.config.port)).build());
                }
            }
        }
        Ok(targets)
    }

    async fn tasks(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let tasks = self.engine.list("tasks", &self.config.filters).await?;
        let services = self.engine.list("services", &[]).await?;
        let services: BTreeMap<String, &Value> =
            services.as_array().into_iter().flatten().map(|service| (text(service, "ID"), service)).collect();
        let nodes = self.engine.list("nodes", &[]).await?;
        let nodes: ById =
            nodes.as_array().into_iter().flatten().map(|node| (text(node, "ID"), node_labels(node, false))).collect();
        let networks = self.engine.networks().await?;
        let mut targets = Vec::new();
        for task in tasks.as_array().into_iter().flatten() {
            let service = services.get(&text(task, "ServiceID"));
            let mut common = Meta::of("dockerswarm");
            common.take(
                task,
                &[("task_id", "ID"), ("task_desired_state", "DesiredState"), ("task_state", "Status.State")],
            );
            common.set("task_slot", task["Slot"].as_i64().unwrap_or(0).to_string());
            common.set("task_container_id", text(task, "Status.ContainerStatus.ContainerID"));
            let own = pairs(task, "Spec.ContainerSpec.Labels").map(|(name, value)| (name, shown(value)));
            common.each("container_label_", own);
            add(&mut common, service.map(|service| service_labels(service)).as_ref());
            let node = nodes.get(&text(task, "NodeID"));
            add(&mut common, node);
            let address = node.and_then(|node| node.iter().find(|(name, _)| name == "node_address"));
            let address = address.map_or("", |(_, address)| address.as_str());
            for port in tcp(list(task, "Status.PortStatus.Ports")) {
                let mut target = common.clone();
                target.set("task_port_publish_mode", text(port, "PublishMode"));
                targets.push(target.address(host_port(address, text(port, "PublishedPort"))).build());
            }
            let ports = service.map_or(&[][..], |service| list(service, "Endpoint.Ports"));
            for attached in list(task, "NetworksAttachments") {
                let mut shared = common.clone();
                add(&mut shared, networks.get(&text(attached, "Network.ID")));
                for address in list(attached, "Addresses") {
                    let host = without_mask(&shown(address))?;
                    let before = targets.len();
                    for port in tcp(ports) {
                        let mut target = shared.clone();
                        target.set("task_port_publish_mode", text(port, "PublishMode"));
                        targets.push(target.address(host_port(&host, text(port, "PublishedPort"))).build());
                    }
                    if targets.len() == before {
                        targets.push(shared.clone().address(host_port(&host, self.config.port)).build());
                    }
                }
            }
        }
        Ok(targets)
    }

    async fn nodes(&self) -> Result<Vec<Labels>, DiscoveryError> {
        let nodes = self.engine.list("nodes", &self.config.filters).await?;
        let target = |node: &Value| {
            let mut meta = Meta::of("dockerswarm");
            add(&mut meta, Some(&node_labels(node, true)));
            meta.address(host_port(&text(node, "Status.Addr"), self.config.port)).build()
        };
        Ok(nodes.as_array().into_iter().flatten().map(target).collect())
    }
}

fn tcp(ports: &[Value]) -> impl Iterator<Item = &Value> {
    ports.iter().filter(|port| port["Protocol"] == "tcp")
}

/// An address whose network's length follows it.
fn without_mask(address: &str) -> Result<String, DiscoveryError> {
    let (host, _) = address
        .split_once('/')
        .ok_or_else(|| DiscoveryError::Answer(format!("error while parsing address {address:?}")))?;
    Ok(host.to_owned())
}

fn service_labels(service: &Value) -> Vec<(String, String)> {
    let mode = ["Global", "Replicated"].into_iter().find(|mode| service["Spec"]["Mode"][mode].is_object());
    let mut labels = vec![
        ("service_id".to_owned(), text(service, "ID")),
        ("service_name".to_owned(), text(service, "Spec.Name")),
        ("service_mode".to_owned(), mode.unwrap_or("").to_ascii_lowercase()),
    ];
    let own = pairs(service, "Spec.Labels");
    labels.extend(own.map(|(name, value)| (format!("service_label_{}", label_name(name)), shown(value))));
    labels
}

/// `whole`: also what only targets of the role nodes have.
fn node_labels(node: &Value, whole: bool) -> Vec<(String, String)> {
    let mut fields = vec![
        ("id", "ID"),
        ("role", "Spec.Role"),
        ("address", "Status.Addr"),
        ("availability", "Spec.Availability"),
        ("hostname", "Description.Hostname"),
        ("platform_architecture", "Description.Platform.Architecture"),
        ("platform_os", "Description.Platform.OS"),
        ("status", "Status.State"),
    ];
    if whole {
        fields.push(("engine_version", "Description.Engine.EngineVersion"));
    }
    let mut labels: Vec<(String, String)> =
        fields.iter().map(|(name, path)| (format!("node_{name}"), text(node, path))).collect();
    let manager = &node["ManagerStatus"];
    if whole && manager.is_object() {
        labels.push(("node_manager_leader".to_owned(), manager["Leader"].as_bool().unwrap_or(false).to_string()));
        labels.push(("node_manager_reachability".to_owned(), text(manager, "Reachability")));
        labels.push(("node_manager_address".to_owned(), text(manager, "Addr")));
    }
    let own = pairs(node, "Spec.Labels");
    labels.extend(own.map(|(name, value)| (format!("node_label_{}", label_name(name)), shown(value))));
    labels
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let targets = match self.config.role.as_str() {
            "services" => self.services().await?,
            "tasks" => self.tasks().await?,
            _ => self.nodes().await?,
        };
        Ok(api::group("DockerSwarm", targets))
    }
}
