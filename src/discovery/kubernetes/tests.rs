use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as told;

use super::*;
use crate::kinds_tests::shown;
use crate::tests::{Standing, discoveries};
use crate::{ADDRESS, Manager};

/// A small API server. Lists are what a test puts there; all watches are fed from one channel, a watch at a time.
#[derive(Clone)]
struct Api(Arc<State>);

struct State {
    address: String,
    /// Bodies by path; a further page under `path?page`.
    lists: Mutex<BTreeMap<String, String>>,
    /// Whether the next watch is told that its version is gone.
    gone: Mutex<bool>,
    asked: Mutex<Vec<String>>,
    feed: mpsc::UnboundedSender<Feed>,
    fed: tokio::sync::Mutex<mpsc::UnboundedReceiver<Feed>>,
}

enum Feed {
    Line(String),
    Close,
}

impl Api {
    async fn start() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (feed, fed) = mpsc::unbounded_channel();
        let api = Api(Arc::new(State {
            address: format!("http://{}", listener.local_addr().unwrap()),
            lists: Mutex::default(),
            gone: Mutex::default(),
            asked: Mutex::default(),
            feed,
            fed: tokio::sync::Mutex::new(fed),
        }));
        let kept = api.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let api = kept.clone();
                tokio::spawn(async move { api.answer(socket).await });
            }
        });
        api
    }

    fn list(&self, path: &str, body: &str) {
        self.0.lists.lock().unwrap().insert(path.to_owned(), body.to_owned());
    }

    fn tell(&self, kind: &str, object: &str) {
        let line = format!("{{\"type\": \"{kind}\", \"object\": {}}}\n", object.replace('\n', " "));
        self.0.feed.send(Feed::Line(line)).unwrap();
    }

    fn close(&self) {
        self.0.feed.send(Feed::Close).unwrap();
    }

    /// What was asked, without what every request has.
    fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap().clone()
    }

    async fn answer(&self, mut socket: TcpStream) -> Option<()> {
        let mut request = [0; 8192];
        let count = socket.read(&mut request).await.ok()?;
        let text = String::from_utf8_lossy(&request[..count]).to_lowercase();
        let asked = text.split(' ').nth(1)?.to_owned();
        let token = text.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or("");
        let (path, query) = asked.split_once('?').unwrap_or((&asked, ""));
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or("");
        let is_watch = value("watch=") == "1";
        let short =
            if is_watch { format!("watch {path} {}", value("resourceversion=")) } else { format!("list {path}") };
        self.0.asked.lock().unwrap().push(format!("{short} {token}").trim_end().to_owned());
        let head = |status: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
        if !is_watch {
            assert_eq!(value("limit="), "500", "{asked}");
            let page = value("continue=");
            let key = if page.is_empty() { path.to_owned() } else { format!("{path}?{page}") };
            let body = self.0.lists.lock().unwrap().get(&key).cloned();
            let (status, body) = body.map_or(("404 Not Found", String::new()), |body| ("200 OK", body));
            return socket.write_all((head(status) + &body).as_bytes()).await.ok();
        }
        assert!(query.contains("allowwatchbookmarks=true"), "{asked}");
        if std::mem::take(&mut *self.0.gone.lock().unwrap()) {
            return socket.write_all((head("410 Gone") + "{\"code\": 410}").as_bytes()).await.ok();
        }
        socket.write_all(head("200 OK").as_bytes()).await.ok()?;
        let mut fed = self.0.fed.lock().await;
        while let Some(Feed::Line(line)) = fed.recv().await {
            // In two pieces: a line need not come whole.
            let (first, rest) = line.split_at(line.len() / 2);
            socket.write_all(first.as_bytes()).await.ok()?;
            socket.flush().await.ok()?;
            tokio::task::yield_now().await;
            socket.write_all(rest.as_bytes()).await.ok()?;
        }
        Some(())
    }
}

/// A manager that follows, and what it found.
fn follow(settings: &str) -> (Manager, told::Receiver<Arc<crate::Discovered>>) {
    let (_tell, peers) = told::channel::<Arc<[String]>>(Arc::from([]));
    let manager = Manager::new(peers, Arc::new(Standing));
    let receiver = manager.subscribe();
    manager.apply([("j", &discoveries(&format!("  kubernetes_sd_configs: [{{{settings}}}]\n")))]).unwrap();
    (manager, receiver)
}

async fn until(receiver: &mut told::Receiver<Arc<crate::Discovered>>, wanted: &[&str]) {
    let found = |known: &crate::Discovered| -> Vec<String> {
        let groups = known.get("j").cloned().unwrap_or_default();
        groups.iter().flat_map(|group| &group.targets).map(|target| target.value(ADDRESS).to_owned()).collect()
    };
    let wait = async {
        while found(&receiver.borrow_and_update()) != wanted {
            receiver.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
        panic!("wanted {wanted:?}, found {:?}", found(&receiver.borrow()));
    }
}

fn pod(name: &str, address: &str, version: u32) -> String {
    format!(
        r#"{{"kind": "Pod", "metadata": {{"name": "{name}", "namespace": "ns", "resourceVersion": "{version}"}},
            "spec": {{"containers": [{{"name": "c", "image": "i"}}]}}, "status": {{"podIP": "{address}"}}}}"#
    )
}

fn list(version: u32, next: &str, items: &[String]) -> String {
    let meta = format!(r#"{{"resourceVersion": "{version}", "continue": "{next}"}}"#);
    format!(r#"{{"metadata": {meta}, "items": [{}]}}"#, items.join(","))
}

const PODS: &str = "/api/v1/pods";

#[tokio::test]
async fn changes_are_followed_from_version_to_version_and_one_too_old_is_listed_again() {
    let api = Api::start().await;
    api.list(PODS, &list(10, "p2", &[pod("a", "10.0.0.1", 3)]));
    api.list("/api/v1/pods?p2", &list(10, "", &[pod("b", "10.0.0.2", 4)]));
    let (_manager, mut found) = follow(&format!("role: pod, api_server: '{}'", api.0.address));
    until(&mut found, &["10.0.0.1", "10.0.0.2"]).await;
    api.tell("ADDED", &pod("c", "10.0.0.3", 11));
    until(&mut found, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    api.tell("MODIFIED", &pod("a", "10.0.0.9", 12));
    until(&mut found, &["10.0.0.9", "10.0.0.2", "10.0.0.3"]).await;
    api.tell("BOOKMARK", r#"{"kind": "Pod", "metadata": {"resourceVersion": "20"}}"#);
    api.close();
    // The next watch goes on from the bookmark.
    api.tell("DELETED", &pod("b", "10.0.0.2", 21));
    until(&mut found, &["10.0.0.9", "10.0.0.3"]).await;
    api.list(PODS, &list(30, "", &[pod("d", "10.0.0.4", 25)]));
    api.tell("ERROR", r#"{"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}"#);
    api.close();
    until(&mut found, &["10.0.0.4"]).await;
    // Also when it is said before the watch begins.
    api.list(PODS, &list(40, "", &[pod("d", "10.0.0.4", 25), pod("e", "10.0.0.5", 35)]));
    *api.0.gone.lock().unwrap() = true;
    api.close();
    until(&mut found, &["10.0.0.4", "10.0.0.5"]).await;
    // That nothing is left is believed too.
    api.tell("DELETED", &pod("d", "10.0.0.4", 41));
    api.tell("DELETED", &pod("e", "10.0.0.5", 42));
    until(&mut found, &[]).await;
    let expected = [
        "list /api/v1/pods",
        "list /api/v1/pods",
        "watch /api/v1/pods 10",
        "watch /api/v1/pods 20",
        "list /api/v1/pods",
        "watch /api/v1/pods 30",
        "watch /api/v1/pods 30",
        "list /api/v1/pods",
        "watch /api/v1/pods 40",
    ];
    assert_eq!(api.asked(), expected);
}

#[tokio::test]
async fn a_refused_list_keeps_the_targets_and_is_asked_again() {
    let api = Api::start().await;
    api.list(PODS, &list(10, "", &[pod("a", "10.0.0.1", 3)]));
    let (_manager, mut found) = follow(&format!("role: pod, api_server: '{}'", api.0.address));
    until(&mut found, &["10.0.0.1"]).await;
    api.0.lists.lock().unwrap().clear();
    api.tell("ERROR", r#"{"kind": "Status", "code": 500, "message": "etcd is away"}"#);
    api.close();
    let wait = async {
        while api.asked().iter().filter(|asked| asked.starts_with("list")).count() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it asks again");
    until(&mut found, &["10.0.0.1"]).await;
    api.list(PODS, &list(50, "", &[pod("b", "10.0.0.2", 45)]));
    until(&mut found, &["10.0.0.2"]).await;
}

#[tokio::test]
async fn a_kubeconfig_says_where_and_as_whom_to_ask() {
    let api = Api::start().await;
    api.list("/base/api/v1/namespaces/ns/pods", &list(1, "", &[pod("a", "10.0.0.1", 1)]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let text = format!(
        "current-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{}/base'}}}}]\nusers: [{{name: u, user: {{tokenFile: token}}}}]\n",
        api.0.address
    );
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("token"), "one\n").unwrap();
    let settings = format!("role: pod, kubeconfig_file: '{}', namespaces: {{names: [ns]}}", path.display());
    let (_manager, mut found) = follow(&settings);
    until(&mut found, &["10.0.0.1"]).await;
    std::fs::write(folder.path().join("token"), "two\n").unwrap();
    api.tell("BOOKMARK", r#"{"metadata": {"resourceVersion": "2"}}"#);
    api.close();
    api.tell("ADDED", &pod("b", "10.0.0.2", 3));
    until(&mut found, &["10.0.0.1", "10.0.0.2"]).await;
    let path = "/base/api/v1/namespaces/ns/pods";
    let expected =
        [format!("list {path} bearer one"), format!("watch {path} 1 bearer one"), format!("watch {path} 2 bearer two")];
    assert_eq!(api.asked(), expected);
}

/// The groups of a role over these lists.
async fn groups_of(settings: &str, lists: &[(&str, &str)]) -> String {
    let api = Api::start().await;
    for (path, body) in lists {
        api.list(path, body);
    }
    let (_manager, mut found) = follow(&format!("{settings}, api_server: '{}'", api.0.address));
    let wait = async {
        while found.borrow_and_update().get("j").is_none_or(Vec::is_empty) {
            found.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the objects come");
    shown(&found.borrow()["j"])
}

const POD_LIST: &str = r#"{"metadata": {"resourceVersion": "7"}, "items": [
  {"metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app.io/name": "x"}, "ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "controller": true}]},
   "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}, {"name": "side", "image": "j"}]},
   "status": {"podIP": "10.1.0.1", "hostIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "c", "containerID": "docker://1"}]}},
  {"metadata": {"name": "starting", "namespace": "ns"}, "spec": {}, "status": {}}]}"#;

#[tokio::test]
async fn pods_become_groups() {
    let groups = groups_of("role: pod, namespaces: {names: [ns]}", &[("/api/v1/namespaces/ns/pods", POD_LIST)]).await;
    expect_test::expect![[r#"
        pod/ns/p {__meta_kubernetes_namespace="ns", __meta_kubernetes_pod_controller_kind="ReplicaSet", __meta_kubernetes_pod_controller_name="rs", __meta_kubernetes_pod_host_ip="10.0.0.1", __meta_kubernetes_pod_ip="10.1.0.1", __meta_kubernetes_pod_label_app_io_name="x", __meta_kubernetes_pod_labelpresent_app_io_name="true", __meta_kubernetes_pod_name="p", __meta_kubernetes_pod_node_name="n1", __meta_kubernetes_pod_phase="Running", __meta_kubernetes_pod_ready="true", __meta_kubernetes_pod_uid="u"}
          {__address__="10.1.0.1:8080", __meta_kubernetes_pod_container_id="docker://1", __meta_kubernetes_pod_container_image="i", __meta_kubernetes_pod_container_init="false", __meta_kubernetes_pod_container_name="c", __meta_kubernetes_pod_container_port_name="web", __meta_kubernetes_pod_container_port_number="8080", __meta_kubernetes_pod_container_port_protocol="TCP"}
          {__address__="10.1.0.1", __meta_kubernetes_pod_container_image="j", __meta_kubernetes_pod_container_init="false", __meta_kubernetes_pod_container_name="side"}
    "#]].assert_eq(&groups);
}

const SERVICE_LIST: &str = r#"{"metadata": {}, "items": [{"metadata": {"name": "s", "namespace": "ns", "labels": {"t": "1"}}, "spec": {"type": "ClusterIP", "clusterIP": "10.9.0.1", "ports": [{"name": "web", "port": 80}]}}]}"#;

const SLICE_LIST: &str = r#"{"metadata": {}, "items": [{"metadata": {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
                "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "p", "namespace": "ns"}}]}]}"#;

const NODE_LIST: &str = r#"{"metadata": {}, "items": [{"metadata": {"name": "n1"}, "spec": {"providerID": "x"}, "status": {"addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}]}"#;

const INGRESS_LIST: &str = r#"{"metadata": {}, "items": [{"metadata": {"name": "i", "namespace": "ns"}, "spec": {"tls": [{"hosts": ["*.example.com"]}], "rules": [{"host": "a.example.com", "http": {"paths": [{"path": "/x"}]}}, {"host": "b.org"}]}}]}"#;

#[tokio::test]
async fn slices_nodes_services_and_ingresses_become_groups() {
    let lists = [
        (PODS, POD_LIST),
        ("/api/v1/services", SERVICE_LIST),
        ("/apis/discovery.k8s.io/v1/endpointslices", SLICE_LIST),
        ("/api/v1/nodes", NODE_LIST),
        ("/apis/networking.k8s.io/v1/ingresses", INGRESS_LIST),
    ];
    let mut seen = String::new();
    for role in ["endpointslice", "service", "node", "ingress"] {
        seen.push_str(&groups_of(&format!("role: {role}"), &lists).await);
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

#[tokio::test]
async fn endpoints_become_groups() {
    let endpoints = r#"{"metadata": {}, "items": [{"metadata": {"name": "s", "namespace": "ns", "labels": {"t": "1"}}, "subsets": [{
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "other", "port": 9090, "protocol": "TCP"}],
        "addresses": [{"ip": "10.1.0.1", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "p", "namespace": "ns"}}],
        "notReadyAddresses": [{"ip": "10.1.0.2", "hostname": "h", "targetRef": {"kind": "Node", "name": "n1"}}]}]}]}"#;
    let lists = [
        (PODS, POD_LIST),
        ("/api/v1/services", SERVICE_LIST),
        ("/api/v1/endpoints", endpoints),
        ("/api/v1/nodes", NODE_LIST),
    ];
    let groups = groups_of("role: endpoints, attach_metadata: {node: true}", &lists).await;
    expect_test::expect![[r#"
        endpoints/ns/s {__meta_kubernetes_endpoints_label_t="1", __meta_kubernetes_endpoints_labelpresent_t="true", __meta_kubernetes_endpoints_name="s", __meta_kubernetes_namespace="ns", __meta_kubernetes_service_label_t="1", __meta_kubernetes_service_labelpresent_t="true", __meta_kubernetes_service_name="s"}
          {__address__="10.1.0.1:8080", __meta_kubernetes_endpoint_address_target_kind="Pod", __meta_kubernetes_endpoint_address_target_name="p", __meta_kubernetes_endpoint_node_name="n1", __meta_kubernetes_endpoint_port_name="web", __meta_kubernetes_endpoint_port_protocol="TCP", __meta_kubernetes_endpoint_ready="true", __meta_kubernetes_node_name="n1", __meta_kubernetes_pod_container_image="i", __meta_kubernetes_pod_container_init="false", __meta_kubernetes_pod_container_name="c", __meta_kubernetes_pod_container_port_name="web", __meta_kubernetes_pod_container_port_number="8080", __meta_kubernetes_pod_container_port_protocol="TCP", __meta_kubernetes_pod_controller_kind="ReplicaSet", __meta_kubernetes_pod_controller_name="rs", __meta_kubernetes_pod_host_ip="10.0.0.1", __meta_kubernetes_pod_ip="10.1.0.1", __meta_kubernetes_pod_label_app_io_name="x", __meta_kubernetes_pod_labelpresent_app_io_name="true", __meta_kubernetes_pod_name="p", __meta_kubernetes_pod_node_name="n1", __meta_kubernetes_pod_phase="Running", __meta_kubernetes_pod_ready="true", __meta_kubernetes_pod_uid="u"}
          {__address__="10.1.0.2:8080", __meta_kubernetes_endpoint_address_target_kind="Node", __meta_kubernetes_endpoint_address_target_name="n1", __meta_kubernetes_endpoint_hostname="h", __meta_kubernetes_endpoint_port_name="web", __meta_kubernetes_endpoint_port_protocol="TCP", __meta_kubernetes_endpoint_ready="false", __meta_kubernetes_node_name="n1"}
          {__address__="10.1.0.1:9090", __meta_kubernetes_endpoint_address_target_kind="Pod", __meta_kubernetes_endpoint_address_target_name="p", __meta_kubernetes_endpoint_node_name="n1", __meta_kubernetes_endpoint_port_name="other", __meta_kubernetes_endpoint_port_protocol="TCP", __meta_kubernetes_endpoint_ready="true", __meta_kubernetes_node_name="n1", __meta_kubernetes_pod_controller_kind="ReplicaSet", __meta_kubernetes_pod_controller_name="rs", __meta_kubernetes_pod_host_ip="10.0.0.1", __meta_kubernetes_pod_ip="10.1.0.1", __meta_kubernetes_pod_label_app_io_name="x", __meta_kubernetes_pod_labelpresent_app_io_name="true", __meta_kubernetes_pod_name="p", __meta_kubernetes_pod_node_name="n1", __meta_kubernetes_pod_phase="Running", __meta_kubernetes_pod_ready="true", __meta_kubernetes_pod_uid="u"}
          {__address__="10.1.0.2:9090", __meta_kubernetes_endpoint_address_target_kind="Node", __meta_kubernetes_endpoint_address_target_name="n1", __meta_kubernetes_endpoint_hostname="h", __meta_kubernetes_endpoint_port_name="other", __meta_kubernetes_endpoint_port_protocol="TCP", __meta_kubernetes_endpoint_ready="false", __meta_kubernetes_node_name="n1"}
    "#]].assert_eq(&groups);
}
