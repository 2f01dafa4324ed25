//! Endpoints and endpoint slices → groups: an address and a port of a service each, and the other ports of its pods.

use promesh_model::LabelsBuilder;
use serde_json::Value;

use super::objects::{Object, elements, key_of, scalar};
use super::roles::{Built, View, containers, host_port, pod_labels, set, set_container, set_container_port, set_meta};
use crate::ADDRESS;

/// What an endpoint says beside its address.
struct Endpoint<'a> {
    /// The object that it stands for.
    reference: &'a Value,
    node_name: &'a Value,
    /// Its own labels, by their names behind the prefix.
    labels: &'a [(&'static str, &'a Value)],
}

/// The targets of one object, and the pods behind them with the ports that they have there.
#[derive(Default)]
struct Found<'a> {
    targets: Vec<LabelsBuilder>,
    pods: Vec<(&'a Object, Vec<&'a Value>)>,
}

impl<'a> View<'a> {
    pub(super) fn endpoints_group(&self, endpoints: &'a Object) -> Built {
        let namespace = &endpoints.metadata.namespace;
        let mut labels = LabelsBuilder::default();
        set(&mut labels, "namespace", namespace);
        set_meta(&mut labels, endpoints, "endpoints", true);
        // Endpoints are named for their service.
        self.add_service(&mut labels, namespace, &endpoints.metadata.name);
        self.add_namespace(&mut labels, namespace);
        let mut found = Found::default();
        for subset in endpoints.list("/subsets") {
            for port in elements(&subset["ports"]) {
                for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                    for address in elements(&subset[list]) {
                        let endpoint = Endpoint {
                            reference: &address["targetRef"],
                            node_name: &address["nodeName"],
                            labels: &[
                                ("endpoint_port_name", &port["name"]),
                                ("endpoint_port_protocol", &port["protocol"]),
                                ("endpoint_ready", &Value::Bool(ready)),
                                ("endpoint_hostname", &address["hostname"]),
                                ("endpoint_node_name", &address["nodeName"]),
                                ("endpoint_address_target_kind", &address["targetRef"]["kind"]),
                                ("endpoint_address_target_name", &address["targetRef"]["name"]),
                            ],
                        };
                        self.add_endpoint(&mut found, &address["ip"], port, &endpoint, namespace);
                    }
                }
            }
        }
        Some((labels, found.with_other_ports()))
    }

    pub(super) fn slice_group(&self, slice: &'a Object) -> Built {
        let namespace = &slice.metadata.namespace;
        let mut labels = LabelsBuilder::default();
        set(&mut labels, "namespace", namespace);
        set(&mut labels, "endpointslice_address_type", slice.text("/addressType"));
        set_meta(&mut labels, slice, "endpointslice", true);
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        if let Some(service) = service {
            self.add_service(&mut labels, namespace, service);
        }
        self.add_namespace(&mut labels, namespace);
        let mut found = Found::default();
        for endpoint in slice.list("/endpoints") {
            let (conditions, reference) = (&endpoint["conditions"], &endpoint["targetRef"]);
            for port in slice.list("/ports") {
                let endpoint_of = Endpoint {
                    reference,
                    node_name: &endpoint["nodeName"],
                    labels: &[
                        ("endpointslice_port_name", &port["name"]),
                        ("endpointslice_port_protocol", &port["protocol"]),
                        ("endpointslice_port", &port["port"]),
                        ("endpointslice_port_app_protocol", &port["appProtocol"]),
                        ("endpointslice_endpoint_conditions_ready", &conditions["ready"]),
                        ("endpointslice_endpoint_conditions_serving", &conditions["serving"]),
                        ("endpointslice_endpoint_conditions_terminating", &conditions["terminating"]),
                        ("endpointslice_endpoint_hostname", &endpoint["hostname"]),
                        ("endpointslice_endpoint_node_name", &endpoint["nodeName"]),
                        ("endpointslice_endpoint_zone", &endpoint["zone"]),
                        ("endpointslice_address_target_kind", &reference["kind"]),
                        ("endpointslice_address_target_name", &reference["name"]),
                    ],
                };
                for address in elements(&endpoint["addresses"]) {
                    self.add_endpoint(&mut found, address, port, &endpoint_of, namespace);
                }
            }
        }
        Some((labels, found.with_other_ports()))
    }

    fn add_service(&self, labels: &mut LabelsBuilder, namespace: &str, name: &str) {
        if let Some(service) = self.stores.get("service", &key_of(namespace, name)) {
            set_meta(labels, service, "service", true);
        }
    }

    fn add_endpoint(
        &self,
        found: &mut Found<'a>,
        address: &Value,
        port: &'a Value,
        endpoint: &Endpoint<'_>,
        namespace: &str,
    ) {
        let pod = self.pod_of(endpoint.reference, namespace);
        let mut target = pod.map(pod_labels).unwrap_or_default();
        target.set(ADDRESS, &host_port(&scalar(address), &port["port"]));
        for (name, value) in endpoint.labels {
            set(&mut target, name, &scalar(value));
        }
        if self.attach.node {
            let of_node = endpoint.reference["kind"] == "Node";
            self.add_node(&mut target, &scalar(if of_node { &endpoint.reference["name"] } else { endpoint.node_name }));
        }
        if let Some(pod) = pod {
            for (container, is_init) in containers(pod) {
                let same = elements(&container["ports"]).iter().find(|own| own["containerPort"] == port["port"]);
                if let Some(own) = same {
                    set_container(&mut target, container, is_init);
                    set_container_port(&mut target, own);
                }
            }
            match found.pods.iter_mut().find(|(seen, _)| std::ptr::eq(*seen, pod)) {
                Some((_, ports)) => ports.push(&port["port"]),
                None => found.pods.push((pod, vec![&port["port"]])),
            }
        }
        found.targets.push(target);
    }

    fn pod_of(&self, reference: &Value, namespace: &str) -> Option<&'a Object> {
        if reference["kind"] != "Pod" {
            return None;
        }
        let named = scalar(&reference["namespace"]);
        let namespace = if named.is_empty() { namespace } else { &named };
        self.stores.get("pod", &key_of(namespace, &scalar(&reference["name"])))
    }
}

impl Found<'_> {
    /// All targets; ports of a pod's containers that no service leads to are targets too.
    fn with_other_ports(mut self) -> Vec<LabelsBuilder> {
        for (pod, covered) in &self.pods {
            let address = pod.text("/status/podIP");
            for (container, is_init) in containers(pod).filter(|_| !address.is_empty()) {
                for port in elements(&container["ports"]) {
                    if covered.iter().any(|covered| **covered == port["containerPort"]) {
                        continue;
                    }
                    let mut target = pod_labels(pod);
                    target.set(ADDRESS, &host_port(address, &port["containerPort"]));
                    set_container(&mut target, container, is_init);
                    set_container_port(&mut target, port);
                    self.targets.push(target);
                }
            }
        }
        self.targets
    }
}
