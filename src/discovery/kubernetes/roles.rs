//! Objects → groups, one kind of object a role.

use promesh_config::prometheus::{KubernetesMetadata, KubernetesRole};
use promesh_model::LabelsBuilder;
use serde_json::Value;

use super::Stores;
use super::objects::{Object, elements, scalar};
use crate::{ADDRESS, TargetGroup, label_name};

const PREFIX: &str = "__meta_kubernetes_";

/// All groups of a role.
pub(crate) fn groups(role: KubernetesRole, attach: &KubernetesMetadata, stores: &Stores) -> Vec<TargetGroup> {
    let view = View { attach, stores };
    let kind = role.name();
    let build = |object: &Object| match role {
        KubernetesRole::Pod => view.pod_group(object),
        KubernetesRole::Service => view.service_group(object),
        KubernetesRole::Node => node_group(object),
        KubernetesRole::Ingress => view.ingress_group(object),
        KubernetesRole::Endpoints => view.endpoints_group(object),
        KubernetesRole::EndpointSlice => view.slice_group(object),
    };
    stores
        .all(kind)
        .filter_map(|(name, object)| {
            let (labels, targets) = build(object)?;
            Some(TargetGroup {
                source: format!("{kind}/{name}"),
                targets: targets.iter().map(LabelsBuilder::build).collect(),
                labels: labels.build(),
            })
        })
        .collect()
}

pub(super) type Built = Option<(LabelsBuilder, Vec<LabelsBuilder>)>;

pub(super) struct View<'a> {
    pub(super) attach: &'a KubernetesMetadata,
    pub(super) stores: &'a Stores,
}

pub(super) fn set(labels: &mut LabelsBuilder, name: &str, value: &str) {
    labels.set(&format!("{PREFIX}{name}"), value);
}

/// Name, labels and annotations.
pub(super) fn set_meta(labels: &mut LabelsBuilder, object: &Object, resource: &str, with_name: bool) {
    if with_name {
        set(labels, &format!("{resource}_name"), &object.metadata.name);
    }
    for (what, pairs) in [("label", &object.metadata.labels), ("annotation", &object.metadata.annotations)] {
        for (name, value) in pairs.iter().flatten() {
            let name = label_name(name);
            set(labels, &format!("{resource}_{what}_{name}"), value);
            set(labels, &format!("{resource}_{what}present_{name}"), "true");
        }
    }
}

pub(super) fn host_port(host: &str, port: &Value) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = scalar(port);
    if port.is_empty() { host } else { format!("{host}:{port}") }
}

/// Containers and whether each only initialises.
pub(super) fn containers(pod: &Object) -> impl Iterator<Item = (&Value, bool)> {
    let main = pod.list("/spec/containers").iter().map(|container| (container, false));
    main.chain(pod.list("/spec/initContainers").iter().map(|container| (container, true)))
}

pub(super) fn set_container(labels: &mut LabelsBuilder, container: &Value, is_init: bool) {
    set(labels, "pod_container_name", &scalar(&container["name"]));
    set(labels, "pod_container_image", &scalar(&container["image"]));
    set(labels, "pod_container_init", if is_init { "true" } else { "false" });
}

pub(super) fn set_container_port(labels: &mut LabelsBuilder, port: &Value) {
    set(labels, "pod_container_port_name", &scalar(&port["name"]));
    set(labels, "pod_container_port_number", &scalar(&port["containerPort"]));
    set(labels, "pod_container_port_protocol", &protocol(&port["protocol"]));
}

fn protocol(value: &Value) -> String {
    let text = scalar(value);
    if text.is_empty() { "TCP".to_owned() } else { text }
}

fn container_id(pod: &Object, name: &Value, is_init: bool) -> String {
    let list = if is_init { "/status/initContainerStatuses" } else { "/status/containerStatuses" };
    let status = pod.list(list).iter().find(|status| status["name"] == *name);
    status.map_or_else(String::new, |status| scalar(&status["containerID"]))
}

pub(super) fn pod_labels(pod: &Object) -> LabelsBuilder {
    let mut labels = LabelsBuilder::default();
    let ready = pod.list("/status/conditions").iter().find(|condition| condition["type"] == "Ready");
    let ready = ready.map_or("unknown".to_owned(), |condition| scalar(&condition["status"]).to_ascii_lowercase());
    set(&mut labels, "pod_ip", pod.text("/status/podIP"));
    set(&mut labels, "pod_ready", &ready);
    set(&mut labels, "pod_phase", pod.text("/status/phase"));
    set(&mut labels, "pod_node_name", pod.text("/spec/nodeName"));
    set(&mut labels, "pod_host_ip", pod.text("/status/hostIP"));
    set(&mut labels, "pod_uid", &pod.metadata.uid);
    set_meta(&mut labels, pod, "pod", true);
    let owners = pod.metadata.owner_references.iter().flatten();
    if let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) {
        set(&mut labels, "pod_controller_kind", &owner.kind);
        set(&mut labels, "pod_controller_name", &owner.name);
    }
    labels
}

fn node_group(node: &Object) -> Built {
    let mut labels = LabelsBuilder::default();
    set(&mut labels, "node_provider_id", node.text("/spec/providerID"));
    for condition in node.list("/status/conditions") {
        let name = label_name(&scalar(&condition["type"]).to_ascii_lowercase());
        set(&mut labels, &format!("node_condition_{name}"), &scalar(&condition["status"]).to_ascii_lowercase());
    }
    set_meta(&mut labels, node, "node", true);
    let addresses = node.list("/status/addresses");
    let of_kind = |kind: &str| addresses.iter().find(|address| address["type"] == kind);
    let order = ["InternalIP", "InternalDNS", "ExternalIP", "ExternalDNS", "LegacyHostIP", "Hostname"];
    let address = order.into_iter().find_map(of_kind)?;
    let mut target = LabelsBuilder::default();
    let port = node.at("/status/daemonEndpoints/kubeletEndpoint/Port");
    let port = if port.is_null() { &Value::from(0) } else { port };
    target.set(ADDRESS, &host_port(&scalar(&address["address"]), port));
    target.set("instance", &node.metadata.name);
    for address in addresses.iter().rev() {
        // The first address of a kind stands, so it is written last.
        set(
            &mut target,
            &format!("node_address_{}", label_name(&scalar(&address["type"]))),
            &scalar(&address["address"]),
        );
    }
    Some((labels, vec![target]))
}

impl View<'_> {
    pub(super) fn add_node(&self, labels: &mut LabelsBuilder, name: &str) {
        if let Some(node) = self.stores.get("node", name) {
            set(labels, "node_name", name);
            set_meta(labels, node, "node", false);
        }
    }

    pub(super) fn add_namespace(&self, labels: &mut LabelsBuilder, name: &str) {
        if self.attach.namespace
            && let Some(namespace) = self.stores.get("namespace", name)
        {
            set_meta(labels, namespace, "namespace", false);
        }
    }

    fn pod_group(&self, pod: &Object) -> Built {
        let address = pod.text("/status/podIP");
        // A pod that is starting or was evicted has no address.
        if address.is_empty() {
            return None;
        }
        let node = pod.text("/spec/nodeName");
        if self.attach.node && self.stores.get("node", node).is_none() {
            // Its node was left out by a selector.
            return None;
        }
        let mut labels = pod_labels(pod);
        set(&mut labels, "namespace", &pod.metadata.namespace);
        if self.attach.node {
            self.add_node(&mut labels, node);
        }
        self.add_namespace(&mut labels, &pod.metadata.namespace);
        let mut targets = Vec::new();
        for (container, is_init) in containers(pod) {
            let mut target = LabelsBuilder::default();
            set_container(&mut target, container, is_init);
            set(&mut target, "pod_container_id", &container_id(pod, &container["name"], is_init));
            let ports = elements(&container["ports"]);
            if ports.is_empty() {
                target.set(ADDRESS, &host_port(address, &Value::Null));
                targets.push(target.clone());
            }
            for port in ports {
                let mut target = target.clone();
                target.set(ADDRESS, &host_port(address, &port["containerPort"]));
                set_container_port(&mut target, port);
                targets.push(target);
            }
        }
        Some((labels, targets))
    }

    fn service_group(&self, service: &Object) -> Built {
        let mut labels = LabelsBuilder::default();
        let namespace = &service.metadata.namespace;
        set(&mut labels, "namespace", namespace);
        set_meta(&mut labels, service, "service", true);
        self.add_namespace(&mut labels, namespace);
        let kind = service.text("/spec/type");
        let host = format!("{}.{namespace}.svc", service.metadata.name);
        let target = |port: &Value| {
            let mut target = LabelsBuilder::default();
            target.set(ADDRESS, &host_port(&host, &port["port"]));
            set(&mut target, "service_port_name", &scalar(&port["name"]));
            set(&mut target, "service_port_number", &scalar(&port["port"]));
            set(&mut target, "service_port_protocol", &protocol(&port["protocol"]));
            set(&mut target, "service_type", kind);
            match kind {
                "ExternalName" => set(&mut target, "service_external_name", service.text("/spec/externalName")),
                _ => set(&mut target, "service_cluster_ip", service.text("/spec/clusterIP")),
            }
            if kind == "LoadBalancer" {
                let addresses = service.list("/status/loadBalancer/ingress").iter().map(|entry| scalar(&entry["ip"]));
                let addresses: Vec<String> = addresses.filter(|address| !address.is_empty()).collect();
                set(&mut target, "service_loadbalancer_ip", &addresses.join(","));
            }
            target
        };
        let targets = service.list("/spec/ports").iter().map(target).collect();
        Some((labels, targets))
    }

    fn ingress_group(&self, ingress: &Object) -> Built {
        let mut labels = LabelsBuilder::default();
        set(&mut labels, "namespace", &ingress.metadata.namespace);
        set(&mut labels, "ingress_class_name", ingress.text("/spec/ingressClassName"));
        set_meta(&mut labels, ingress, "ingress", true);
        self.add_namespace(&mut labels, &ingress.metadata.namespace);
        let tls = ingress.list("/spec/tls");
        let mut targets = Vec::new();
        for rule in ingress.list("/spec/rules") {
            let host = scalar(&rule["host"]);
            let secured =
                tls.iter().flat_map(|entry| elements(&entry["hosts"])).any(|pattern| covers(&scalar(pattern), &host));
            let paths = elements(&rule["http"]["paths"]);
            let mut paths: Vec<String> = paths.iter().map(|path| scalar(&path["path"])).collect();
            if paths.is_empty() {
                paths.push(String::new());
            }
            for path in paths {
                let mut target = LabelsBuilder::default();
                target.set(ADDRESS, &host);
                set(&mut target, "ingress_scheme", if secured { "https" } else { "http" });
                set(&mut target, "ingress_host", &host);
                set(&mut target, "ingress_path", if path.is_empty() { "/" } else { &path });
                targets.push(target);
            }
        }
        Some((labels, targets))
    }
}

/// `*.example.com` covers one label before the domain.
fn covers(pattern: &str, host: &str) -> bool {
    pattern == host
        || pattern.strip_prefix('*').is_some_and(|domain| {
            host.strip_suffix(domain).is_some_and(|first| !first.is_empty() && !first.contains('.'))
        })
}
