//! Kinds that ask a back end, against a small one with canned answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use promesh_config::prometheus::Discovery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::refresh::Refresh as _;
use crate::tests::discoveries;
use crate::{Manager, TargetGroup};

/// Answers each request with what `answer` says for its path and query; nothing is a 404.
async fn serve(answer: impl Fn(&str) -> Option<&'static str> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = [0; 8192];
                while let Ok(count @ 1..) = socket.read(&mut request).await {
                    let text = String::from_utf8_lossy(&request[..count]).into_owned();
                    let path = text.split(' ').nth(1).unwrap_or("");
                    if path.contains("watch=1") {
                        // A watch without events: its head, then silence.
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                        std::future::pending::<()>().await;
                    }
                    let (status, body) = answer(path).map_or(("404 Not Found", "{}"), |body| ("200 OK", body));
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = socket.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
                }
            });
        }
    });
    address
}

fn shown(groups: &[impl AsRef<TargetGroup>]) -> String {
    let mut out = String::new();
    for group in groups.iter().map(AsRef::as_ref) {
        out.push_str(&format!("{} {}\n", group.source, group.labels));
        for target in &group.targets {
            out.push_str(&format!("  {target}\n"));
        }
    }
    out
}

impl AsRef<TargetGroup> for TargetGroup {
    fn as_ref(&self) -> &TargetGroup {
        self
    }
}

#[tokio::test]
async fn consul_services_become_groups() {
    let address = serve(|path| match path.split('?').next().unwrap_or("") {
        "/v1/agent/self" => Some(r#"{"Config": {"Datacenter": "dc1"}}"#),
        "/v1/catalog/services" => Some(r#"{"web": ["a", "b"], "db": ["c"]}"#),
        "/v1/health/service/web" => Some(
            r#"[{"Node": {"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": {"rack-id": "7"}},
                 "Service": {"ID": "web-1", "Service": "web", "Address": "", "Port": 80, "Tags": ["a", "b"]},
                 "Checks": [{"Status": "passing"}, {"Status": "warning"}]}]"#,
        ),
        _ => None,
    })
    .await;
    let config = discoveries(&format!("  consul_sd_configs: [{{server: '{address}', tags: [a]}}]\n"));
    let Discovery::Consul(consul) = &config.0[0] else { panic!("consul") };
    let groups = crate::consul::Poller::new(consul).unwrap().refresh().await.unwrap();
    expect_test::expect![[r#"
        web {__meta_consul_dc="dc1", __meta_consul_service="web"}
          {__address__="10.0.0.1:80", __meta_consul_address="10.0.0.1", __meta_consul_dc="dc1", __meta_consul_health="warning", __meta_consul_metadata_rack_id="7", __meta_consul_node="n1", __meta_consul_service="web", __meta_consul_service_id="web-1", __meta_consul_service_port="80", __meta_consul_tags=",a,b,"}
    "#]].assert_eq(&shown(&groups));
}

const PODS: &str = r#"{"metadata": {"resourceVersion": "7"}, "items": [
  {"metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app.io/name": "x"}, "ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "controller": true}]},
   "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}, {"name": "side", "image": "j"}]},
   "status": {"podIP": "10.1.0.1", "hostIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "c", "containerID": "docker://1"}]}},
  {"metadata": {"name": "starting", "namespace": "ns"}, "spec": {}, "status": {}}]}"#;

#[tokio::test]
async fn kubernetes_pods_become_groups() {
    let address = serve(|path| (path == "/api/v1/namespaces/ns/pods?labelSelector=a%3Db").then_some(PODS)).await;
    let settings = format!(
        "  kubernetes_sd_configs:\n  - role: pod\n    api_server: http://{address}\n    namespaces: {{names: [ns]}}\n    selectors: [{{role: pod, label: a=b}}]\n"
    );
    let (_tell, peers) = watch::channel::<Arc<[String]>>(Arc::from([]));
    let manager = Manager::new(peers, Arc::new(crate::tests::Standing));
    let mut receiver = manager.subscribe();
    manager.apply([("j", &discoveries(&settings))]).unwrap();
    let wait = async {
        while receiver.borrow_and_update()["j"].is_empty() {
            receiver.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the pod comes");
    let groups = receiver.borrow()["j"].clone();
    expect_test::expect![[r#"
        pod/ns/p {__meta_kubernetes_namespace="ns", __meta_kubernetes_pod_controller_kind="ReplicaSet", __meta_kubernetes_pod_controller_name="rs", __meta_kubernetes_pod_host_ip="10.0.0.1", __meta_kubernetes_pod_ip="10.1.0.1", __meta_kubernetes_pod_label_app_io_name="x", __meta_kubernetes_pod_labelpresent_app_io_name="true", __meta_kubernetes_pod_name="p", __meta_kubernetes_pod_node_name="n1", __meta_kubernetes_pod_phase="Running", __meta_kubernetes_pod_ready="true", __meta_kubernetes_pod_uid="u"}
          {__address__="10.1.0.1:8080", __meta_kubernetes_pod_container_id="docker://1", __meta_kubernetes_pod_container_image="i", __meta_kubernetes_pod_container_init="false", __meta_kubernetes_pod_container_name="c", __meta_kubernetes_pod_container_port_name="web", __meta_kubernetes_pod_container_port_number="8080", __meta_kubernetes_pod_container_port_protocol="TCP"}
          {__address__="10.1.0.1", __meta_kubernetes_pod_container_image="j", __meta_kubernetes_pod_container_init="false", __meta_kubernetes_pod_container_name="side"}
    "#]].assert_eq(&shown(&groups));
}

#[tokio::test]
async fn kubernetes_slices_nodes_services_and_ingresses_become_groups() {
    let address = serve(|path| match path {
        "/api/v1/pods" => Some(PODS),
        "/api/v1/services" => Some(
            r#"{"metadata": {}, "items": [{"metadata": {"name": "s", "namespace": "ns", "labels": {"t": "1"}}, "spec": {"type": "ClusterIP", "clusterIP": "10.9.0.1", "ports": [{"name": "web", "port": 80}]}}]}"#,
        ),
        "/apis/discovery.k8s.io/v1/endpointslices" => Some(
            r#"{"metadata": {}, "items": [{"metadata": {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
                "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "p", "namespace": "ns"}}]}]}"#,
        ),
        "/api/v1/nodes" => Some(
            r#"{"metadata": {}, "items": [{"metadata": {"name": "n1"}, "spec": {"providerID": "x"}, "status": {"addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}]}"#,
        ),
        "/apis/networking.k8s.io/v1/ingresses" => Some(
            r#"{"metadata": {}, "items": [{"metadata": {"name": "i", "namespace": "ns"}, "spec": {"tls": [{"hosts": ["*.example.com"]}], "rules": [{"host": "a.example.com", "http": {"paths": [{"path": "/x"}]}}, {"host": "b.org"}]}}]}"#,
        ),
        _ => None,
    })
    .await;
    let mut seen = String::new();
    for role in ["endpointslice", "service", "node", "ingress"] {
        let settings = format!("  kubernetes_sd_configs: [{{role: {role}, api_server: 'http://{address}'}}]\n");
        let config = discoveries(&settings);
        let Discovery::Kubernetes(kubernetes) = &config.0[0] else { panic!("kubernetes") };
        let follower = crate::kubernetes::Follower::new(kubernetes).unwrap();
        seen.push_str(&shown(&follower.groups_now().await.unwrap()));
    }
    expect_test::expect![[r#"
        endpointslice/ns/s-1 {__meta_kubernetes_endpointslice_address_type="IPv4", __meta_kubernetes_endpointslice_label_kubernetes_io_service_name="s", __meta_kubernetes_endpointslice_labelpresent_kubernetes_io_service_name="true", __meta_kubernetes_endpointslice_name="s-1", __meta_kubernetes_namespace="ns", __meta_kubernetes_service_label_t="1", __meta_kubernetes_service_labelpresent_t="true", __meta_kubernetes_service_name="s"}
          {__address__="10.1.0.1:8080", __meta_kubernetes_endpointslice_address_target_kind="Pod", __meta_kubernetes_endpointslice_address_target_name="p", __meta_kubernetes_endpointslice_endpoint_conditions_ready="true", __meta_kubernetes_endpointslice_port="8080", __meta_kubernetes_endpointslice_port_name="web", __meta_kubernetes_endpointslice_port_protocol="TCP", __meta_kubernetes_pod_container_image="i", __meta_kubernetes_pod_container_init="false", __meta_kubernetes_pod_container_name="c", __meta_kubernetes_pod_container_port_name="web", __meta_kubernetes_pod_container_port_number="8080", __meta_kubernetes_pod_container_port_protocol="TCP", __meta_kubernetes_pod_controller_kind="ReplicaSet", __meta_kubernetes_pod_controller_name="rs", __meta_kubernetes_pod_host_ip="10.0.0.1", __meta_kubernetes_pod_ip="10.1.0.1", __meta_kubernetes_pod_label_app_io_name="x", __meta_kubernetes_pod_labelpresent_app_io_name="true", __meta_kubernetes_pod_name="p", __meta_kubernetes_pod_node_name="n1", __meta_kubernetes_pod_phase="Running", __meta_kubernetes_pod_ready="true", __meta_kubernetes_pod_uid="u"}
        service/ns/s {__meta_kubernetes_namespace="ns", __meta_kubernetes_service_label_t="1", __meta_kubernetes_service_labelpresent_t="true", __meta_kubernetes_service_name="s"}
          {__address__="s.ns.svc:80", __meta_kubernetes_service_cluster_ip="10.9.0.1", __meta_kubernetes_service_port_name="web", __meta_kubernetes_service_port_number="80", __meta_kubernetes_service_port_protocol="TCP", __meta_kubernetes_service_type="ClusterIP"}
        node/n1 {__meta_kubernetes_node_name="n1", __meta_kubernetes_node_provider_id="x"}
          {__address__="10.0.0.1:10250", __meta_kubernetes_node_address_Hostname="h", __meta_kubernetes_node_address_InternalIP="10.0.0.1", instance="n1"}
        ingress/ns/i {__meta_kubernetes_ingress_name="i", __meta_kubernetes_namespace="ns"}
          {__address__="a.example.com", __meta_kubernetes_ingress_host="a.example.com", __meta_kubernetes_ingress_path="/x", __meta_kubernetes_ingress_scheme="https"}
          {__address__="b.org", __meta_kubernetes_ingress_host="b.org", __meta_kubernetes_ingress_path="/", __meta_kubernetes_ingress_scheme="http"}
    "#]].assert_eq(&seen);
}

/// A name server that answers every SRV question with two records.
async fn name_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut packet = [0u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let question_end = 12 + packet[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let mut answer = packet[..question_end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
            for (host, port) in [("a", 9100u16), ("b", 9101)] {
                // The question's name, SRV, IN, 60 s, the length, then priority, weight, port, target.
                answer.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 11, 0, 0, 0, 0]);
                answer.extend_from_slice(&port.to_be_bytes());
                answer.extend_from_slice(&[1, host.as_bytes()[0], 1, b'x', 0]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn dns_records_become_targets() {
    let mut connection = ConnectionConfig::udp();
    connection.port = name_server().await;
    let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
    let settings = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let resolver = TokioResolver::builder_with_config(settings, TokioRuntimeProvider::default()).build().unwrap();
    let config = discoveries("  dns_sd_configs: [{names: [_p._tcp.x.]}]\n");
    let Discovery::Dns(dns) = &config.0[0] else { panic!("dns") };
    let groups = crate::dns::Poller::with_resolver(dns, resolver).refresh().await.unwrap();
    expect_test::expect![[r#"
        _p._tcp.x. {}
          {__address__="a.x:9100", __meta_dns_name="_p._tcp.x.", __meta_dns_srv_record_port="9100", __meta_dns_srv_record_target="a.x."}
          {__address__="b.x:9101", __meta_dns_name="_p._tcp.x.", __meta_dns_srv_record_port="9101", __meta_dns_srv_record_target="b.x."}
    "#]].assert_eq(&shown(&groups));
}
