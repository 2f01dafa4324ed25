//! Kinds that ask a cloud's or a platform's API, against a small server with that API's answers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use promesh_config::prometheus::Discovery;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::refresh::Refresh;
use crate::tests::{Standing, discoveries};
use crate::{TargetGroup, azure, gce};

/// What came: method and path with query, headers in lower case, body.
#[derive(Clone, Debug, Default)]
struct Asked {
    line: String,
    head: String,
    body: String,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// A server; `answer` gives the body for a method and path. A body may begin with header lines and an empty line.
async fn serve(answer: impl Fn(&Asked) -> Option<String> + Send + Sync + 'static) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (answer, log) = (Arc::new(answer), Log::default());
    let kept = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&kept));
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                while let Some(asked) = read(&mut socket).await {
                    log.lock().unwrap().push(asked.clone());
                    let (status, text) =
                        answer(&asked).map_or(("404 Not Found", String::new()), |text| ("200 OK", text));
                    let (headers, body) = match text.split_once("\r\n\r\n") {
                        Some((headers, body)) => (format!("{headers}\r\n"), body.to_owned()),
                        None => (String::new(), text),
                    };
                    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
                    let _ = socket.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
                }
            });
        }
    });
    (address, log)
}

async fn read(socket: &mut BufReader<tokio::net::TcpStream>) -> Option<Asked> {
    let mut asked = Asked::default();
    let mut length = 0;
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
        if asked.line.is_empty() {
            asked.line = line.rsplit_once(' ').map_or("", |(line, _)| line).to_owned();
        } else if line == "\r\n" {
            break;
        } else {
            let lower = line.to_ascii_lowercase();
            length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap_or(0));
            asked.head.push_str(&lower);
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    asked.body = String::from_utf8_lossy(&body).into_owned();
    Some(asked)
}

/// A server with an answer for each method and path; what stands after a `?` in a request counts only where it is given.
async fn table(answers: &[(&'static str, &str)]) -> (String, Log) {
    let answers: Vec<(&str, String)> = answers.iter().map(|(line, body)| (*line, (*body).to_owned())).collect();
    serve(move |asked| {
        let exact = answers.iter().find(|(line, _)| *line == asked.line);
        let without_query = asked.line.split('?').next().unwrap_or("");
        exact.or(answers.iter().find(|(line, _)| *line == without_query)).map(|(_, body)| body.clone())
    })
    .await
}

fn config(text: &str) -> Discovery {
    discoveries(text).0.remove(0)
}

/// The groups that a poller finds, its targets in order.
async fn found(mut poller: impl Refresh) -> String {
    shown(&poller.refresh().await.expect("it answers"))
}

fn shown(groups: &[TargetGroup]) -> String {
    let mut out = String::new();
    for group in groups {
        out.push_str(&format!("{} {}\n", group.source, group.labels));
        for target in &group.targets {
            out.push_str(&format!("  {target}\n"));
        }
    }
    out
}

fn upstream(path: &str) -> Option<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/sd");
    if !folder.exists() {
        eprintln!("conformance data is absent: these cases did not run");
        return None;
    }
    Some(std::fs::read_to_string(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
}

macro_rules! poller {
    ($kind:ident, $text:expr, $make:expr) => {{
        let Discovery::$kind(config) = config($text) else { panic!("another kind") };
        $make(&config).expect("its settings can be used")
    }};
}

#[tokio::test]
async fn docker_containers_have_a_target_for_each_port_and_network() {
    let Some(containers) = upstream("moby/dockerprom/containers/json.json") else { return };
    let networks = upstream("moby/dockerprom/networks.json").unwrap();
    let (base, log) = table(&[("GET /containers/json", &containers), ("GET /networks", &networks)]).await;
    let text = format!("  docker_sd_configs: [{{host: '{base}', filters: [{{name: label, values: [a, b]}}]}}]\n");
    let seen = found(poller!(Docker, &text, crate::docker::Poller::new)).await;
    expect_test::expect_file!["tests/docker.txt"].assert_eq(&seen);
    let line = &log.lock().unwrap()[0].line;
    assert_eq!(line, "GET /containers/json?filters=%7B%22label%22%3A%7B%22a%22%3Atrue%2C%22b%22%3Atrue%7D%7D");
}

#[tokio::test]
async fn docker_is_reached_over_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(1..) = socket.read(&mut request).await {
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await;
                }
            });
        }
    });
    let text = format!("  docker_sd_configs: [{{host: 'unix://{}'}}]\n", path.display());
    assert_eq!(found(poller!(Docker, &text, crate::docker::Poller::new)).await, "Docker {}\n");
    let gone = "  docker_sd_configs: [{host: 'unix:///nowhere/docker.sock'}]\n";
    let error = poller!(Docker, gone, crate::docker::Poller::new).refresh().await.expect_err("nobody listens");
    assert!(error.to_string().contains("dial unix /nowhere/docker.sock"), "{error}");
}

#[tokio::test]
async fn swarms_have_services_tasks_and_nodes() {
    let Some(services) = upstream("moby/swarmprom/services.json") else { return };
    let file = |name: &str| upstream(&format!("moby/swarmprom/{name}.json")).unwrap();
    let (base, _) = table(&[
        ("GET /services", &services),
        ("GET /tasks", &file("tasks")),
        ("GET /nodes", &file("nodes")),
        ("GET /networks", &file("networks")),
    ])
    .await;
    let mut seen = String::new();
    for role in ["services", "tasks", "nodes"] {
        let text = format!("  dockerswarm_sd_configs: [{{host: '{base}', role: {role}}}]\n");
        seen.push_str(&found(poller!(DockerSwarm, &text, crate::dockerswarm::Poller::new)).await);
    }
    expect_test::expect_file!["tests/dockerswarm.txt"].assert_eq(&seen);
}

#[tokio::test]
async fn linode_instances_are_told_with_their_addresses() {
    let Some(instances) = upstream("linode/no_region_filter/v4/linode/instances.json") else { return };
    let file = |name: &str| upstream(&format!("linode/no_region_filter/v4/networking/{name}.json")).unwrap();
    let (base, log) = table(&[
        ("GET /v4/linode/instances", &instances),
        ("GET /v4/networking/ips", &file("ips")),
        ("GET /v4/networking/ipv6/ranges", &file("ipv6/ranges")),
    ])
    .await;
    let text = "  linode_sd_configs: [{authorization: {credentials: tokenstring}, region: us-east}]\n";
    let seen = found(poller!(Linode, text, |config| crate::linode::Poller::at(config, &base))).await;
    expect_test::expect_file!["tests/linode.txt"].assert_eq(&seen);
    let head = &log.lock().unwrap()[0].head;
    assert!(head.contains("x-filter: {\"region\":\"us-east\"}") && head.contains("bearer tokenstring"), "{head}");
}

#[tokio::test]
async fn scaleway_instances_and_bare_metal_are_found() {
    let Some(instances) = upstream("scaleway/instance.json") else { return };
    let (base, log) = table(&[
        ("GET /instance/v1/zones/fr-par-1/servers", &instances),
        ("GET /ipam/v1/regions/fr-par/ips", r#"{"ips": [{"address": "10.9.0.1/24", "is_ipv6": false, "resource": {"id": "nic-1"}}]}"#),
        (
            "GET /baremetal/v1/zones/fr-par-1/servers",
            r#"{"servers": [{"id": "s1", "name": "metal", "zone": "fr-par-1", "status": "ready", "project_id": "p", "offer_id": "o1", "install": {"os_id": "u"},
                "tags": ["a", "b"], "ips": [{"version": "IPv6", "address": "2001:db8::1"}, {"version": "IPv4", "address": "192.0.2.1"}]}]}"#,
        ),
        ("GET /baremetal/v1/zones/fr-par-1/offers", r#"{"offers": [{"id": "o1", "name": "GP-BM1-S"}]}"#),
        ("GET /baremetal/v1/zones/fr-par-1/os", r#"{"os": [{"id": "u", "name": "Ubuntu", "version": "24.04"}]}"#),
    ])
    .await;
    let mut seen = String::new();
    for role in ["instance", "baremetal"] {
        let text = format!(
            "  scaleway_sd_configs: [{{role: {role}, project_id: p, access_key: k, secret_key: hidden, api_url: '{base}'}}]\n"
        );
        seen.push_str(&found(poller!(Scaleway, &text, crate::scaleway::Poller::new)).await);
    }
    expect_test::expect_file!["tests/scaleway.txt"].assert_eq(&seen);
    assert!(log.lock().unwrap()[0].head.contains("x-auth-token: hidden"));
}

#[tokio::test]
async fn ionos_ovhcloud_and_puppetdb_answers_of_upstream_are_read() {
    let Some(servers) = upstream("ionos/servers.json") else { return };
    let (base, _) = table(&[("GET /datacenters/8feda53f-15f0-447f-badf-ebe32dad2fc0/servers", &servers)]).await;
    let text = "  ionos_sd_configs: [{datacenter_id: 8feda53f-15f0-447f-badf-ebe32dad2fc0}]\n";
    // Every sign but letters and digits is escaped in the path; servers read it as it was.
    let escaped = |path: &str| path.replace('-', "%2D");
    let (escaped_base, _) = table(&[(
        Box::leak(escaped("GET /datacenters/8feda53f-15f0-447f-badf-ebe32dad2fc0/servers").into_boxed_str()),
        &servers,
    )])
    .await;
    drop(base);
    let mut seen = found(poller!(Ionos, text, |config| crate::ionos::Poller::at(config, &escaped_base))).await;

    let file = |name: &str| upstream(&format!("ovhcloud/{name}.json")).unwrap();
    let (base, log) = table(&[
        ("GET /auth/time", "1767225605"),
        ("GET /vps", &file("vps/vps")),
        ("GET /vps/abc", &file("vps/vps_details")),
        ("GET /vps/abc/ips", &file("vps/vps_abc_ips")),
        ("GET /dedicated/server", &file("dedicated_server/dedicated_servers")),
        ("GET /dedicated/server/abcde", &file("dedicated_server/dedicated_servers_details")),
        ("GET /dedicated/server/abcde/ips", &file("dedicated_server/dedicated_servers_abcde_ips")),
    ])
    .await;
    for service in ["vps", "dedicated_server"] {
        let text = format!(
            "  ovhcloud_sd_configs: [{{endpoint: '{base}', application_key: a, application_secret: b, consumer_key: c, service: {service}}}]\n"
        );
        let make = |config: &_| crate::ovhcloud::Poller::new(config, Arc::new(Standing));
        seen.push_str(&found(poller!(OvhCloud, &text, make)).await);
    }
    let asked = log.lock().unwrap()[1].clone();
    assert!(
        asked.head.contains("x-ovh-timestamp: 1767225605") && asked.head.contains("x-ovh-signature: $1$"),
        "{asked:?}"
    );

    let (base, log) = table(&[("POST /pdb/query/v4", &upstream("puppetdb/vhosts.json").unwrap())]).await;
    let text =
        format!("  puppetdb_sd_configs: [{{url: '{base}', query: 'vhosts', include_parameters: true, port: 9100}}]\n");
    seen.push_str(&found(poller!(PuppetDb, &text, crate::puppetdb::Poller::new)).await.replace(&base, "BASE"));
    assert_eq!(log.lock().unwrap()[0].body, r#"{"query":"vhosts"}"#);
    expect_test::expect_file!["tests/ionos_ovhcloud_puppetdb.txt"].assert_eq(&seen);
}

#[tokio::test]
async fn hetzner_nomad_and_digitalocean_are_read_page_by_page() {
    let (base, log) = table(&[
        (
            "GET /servers?page=1&per_page=50&label_selector=a",
            r#"{"servers": [{"id": 42, "name": "my-server", "status": "running", "public_net": {"ipv4": {"ip": "1.2.3.4"}, "ipv6": {"ip": "2001:db8::/64"}},
                "private_net": [{"network": 4711, "ip": "10.0.0.2"}], "location": {"name": "fsn1", "network_zone": "eu-central"},
                "server_type": {"name": "cx11", "cores": 1, "cpu_type": "shared", "memory": 1.0, "disk": 25},
                "image": {"name": "ubuntu-20.04", "description": "Ubuntu 20.04", "os_flavor": "ubuntu", "os_version": "20.04"}, "labels": {"my-key": "my-value", "my": ""}}],
                "meta": {"pagination": {"next_page": 2}}}"#,
        ),
        (
            "GET /servers?page=2&per_page=50&label_selector=a",
            r#"{"servers": [{"id": 43, "name": "other", "datacenter": {"location": {"name": "nbg1", "network_zone": "eu"}}, "public_net": {"ipv4": {"ip": "1.2.3.5"}}}], "meta": {"pagination": {"next_page": null}}}"#,
        ),
        ("GET /networks", r#"{"networks": [{"id": 4711, "name": "my-net"}], "meta": {}}"#),
        (
            "GET /server",
            r#"[{"server": {"server_ip": "123.123.123.123", "server_number": 321, "server_name": "server1", "product": "DS 3000", "dc": "NBG1-DC1", "status": "ready",
                "cancelled": false, "subnet": [{"ip": "2a01:4f8:111:4221::", "mask": "64"}]}}]"#,
        ),
    ])
    .await;
    let mut seen = String::new();
    for role in ["hcloud", "robot"] {
        let text = format!(
            "  hetzner_sd_configs: [{{role: {role}, label_selector: a, basic_auth: {{username: u, password: p}}}}]\n"
        );
        seen.push_str(&found(poller!(Hetzner, &text, |config| crate::hetzner::Poller::at(config, &base))).await);
    }
    assert!(log.lock().unwrap().iter().all(|asked| asked.head.contains("authorization: basic")));

    let (base, _) = table(&[
        ("GET /v1/services?namespace=default&region=global&stale", r#"[{"Namespace": "default", "Services": [{"ServiceName": "redis", "Tags": ["a"]}]}]"#),
        (
            "GET /v1/service/redis?namespace=default&region=global&stale",
            r#"[{"Address": "127.0.0.1", "Datacenter": "dc1", "ID": "_nomad-task-1", "Namespace": "default", "NodeID": "n1", "Port": 6379, "ServiceName": "redis", "Tags": ["cache", "db"]}]"#,
        ),
    ])
    .await;
    seen.push_str(
        &found(poller!(Nomad, &format!("  nomad_sd_configs: [{{server: '{base}'}}]\n"), crate::nomad::Poller::new))
            .await,
    );

    let (base, _) = table(&[
        (
            "GET /v2/droplets?page=1&per_page=100",
            r#"{"droplets": [{"id": 3164444, "name": "example.com", "size_slug": "s-1vcpu-1gb", "status": "active", "features": ["backups", "ipv6"], "tags": ["t"], "vpc_uuid": "v",
                "image": {"slug": "ubuntu-16-04-x64", "name": "16.04.6"}, "region": {"slug": "nyc3"},
                "networks": {"v4": [{"ip_address": "104.236.32.182", "type": "public"}, {"ip_address": "10.0.0.4", "type": "private"}], "v6": [{"ip_address": "2604:A880::1", "type": "public"}]}}],
                "links": {"pages": {"next": "https://api.digitalocean.com/v2/droplets?page=2"}}}"#,
        ),
        ("GET /v2/droplets?page=2&per_page=100", r#"{"droplets": [{"id": 1, "networks": {"v4": []}}], "links": {}}"#),
        (
            "GET /v2/databases?page=1&per_page=100",
            r#"{"databases": [{"id": "d", "name": "pg", "engine": "pg", "version": "16", "status": "online", "region": "nyc1", "size": "s", "num_nodes": 2, "tags": ["prod"],
                "connection": {"host": "public.example"}, "private_connection": {"host": "private.example"}}]}"#,
        ),
    ])
    .await;
    for role in ["droplets", "databases"] {
        let text = format!("  digitalocean_sd_configs: [{{role: {role}}}]\n");
        seen.push_str(
            &found(poller!(DigitalOcean, &text, |config| crate::digitalocean::Poller::at(config, &base))).await,
        );
    }
    expect_test::expect_file!["tests/hetzner_nomad_digitalocean.txt"].assert_eq(&seen);
}

#[tokio::test]
async fn eureka_marathon_kuma_triton_and_vultr_answers_are_read() {
    let (base, _) = table(&[(
        "GET /eureka/apps",
        r#"<applications><versions__delta>1</versions__delta><application><name>CONFIG-SERVICE</name><instance><instanceId>config:8080</instanceId><hostName>config.test.com</hostName>
            <app>CONFIG-SERVICE</app><ipAddr>192.133.87.237</ipAddr><status>UP</status><port enabled="true">8080</port><securePort enabled="false">8443</securePort><countryId>1</countryId>
            <dataCenterInfo class="x"><name>MyOwn</name><metadata><instance-id>i-1</instance-id></metadata></dataCenterInfo>
            <metadata><management.port>8090</management.port></metadata><homePageUrl>http://config.test.com:8080/</homePageUrl><vipAddress>config</vipAddress></instance></application></applications>"#,
    )])
    .await;
    let text = format!("  eureka_sd_configs: [{{server: '{base}/eureka'}}]\n");
    let mut seen = found(poller!(Eureka, &text, crate::eureka::Poller::new)).await;

    let (base, log) = table(&[(
        "GET /v2/apps/",
        r#"{"apps": [
            {"id": "test-service", "labels": {"prometheus": "yes"}, "container": {"docker": {"image": "repo/image:tag"}, "portMappings": [{"hostPort": 0, "containerPort": 80, "labels": {"m": "1"}}, {"hostPort": 0}]},
             "tasks": [{"id": "test-task-1", "host": "mesos-slave1", "ports": [31000, 32000]}]},
            {"id": "net", "networks": [{"mode": "container"}], "container": {"portMappings": [{"containerPort": 8080}]}, "tasks": [{"id": "t2", "host": "h", "ipAddresses": [{"ipAddress": "1.2.3.4"}]}]},
            {"id": "defs", "requirePorts": false, "portDefinitions": [{"port": 1, "labels": {"d": "x"}}], "tasks": [{"id": "t3", "host": "h3", "ports": [12345]}]},
            {"id": "plain", "tasks": [{"id": "t4", "host": "h4", "ports": [1, 2]}]}]}"#,
    )])
    .await;
    let text = format!("  marathon_sd_configs: [{{servers: ['{base}'], auth_token: secret}}]\n");
    seen.push_str(&found(poller!(Marathon, &text, crate::marathon::Poller::new)).await);
    assert!(log.lock().unwrap()[0].head.contains("authorization: token=secret"));

    let (base, log) = table(&[(
        "POST /v3/discovery:monitoringassignments?fetch-timeout=2m",
        r#"{"versionInfo": "v1", "nonce": "n1", "typeUrl": "type.googleapis.com/kuma.observability.v1.MonitoringAssignment", "resources": [
            {"@type": "type.googleapis.com/kuma.observability.v1.MonitoringAssignment", "mesh": "metrics", "service": "prometheus",
             "targets": [{"name": "prometheus-01", "scheme": "http", "address": "10.1.4.32:9090", "metricsPath": "/custom-metrics", "labels": {"kuma.io/protocol": "http"}}], "labels": {"team": "infra"}}]}"#,
    )])
    .await;
    let text = format!("  kuma_sd_configs: [{{server: '{base}', client_id: me}}]\n");
    let mut poller = poller!(Kuma, &text, crate::kuma::Poller::new);
    seen.push_str(&shown(&poller.refresh().await.unwrap()));
    poller.refresh().await.unwrap();
    let asked = log.lock().unwrap()[1].body.clone();
    assert!(asked.contains(r#""version_info":"v1""#) && asked.contains(r#""response_nonce":"n1""#), "{asked}");

    let (base, _) = table(&[
        ("GET /v1/discover?groups=foo%2Cbar", r#"{"containers": [{"groups": ["foo", "bar"], "server_uuid": "44454c4c", "vm_alias": "server01", "vm_brand": "lx", "vm_image_uuid": "7b27a514", "vm_uuid": "ad466fbf"}]}"#),
        ("GET /v1/gz/discover", r#"{"cns": [{"server_uuid": "44454c4c", "server_hostname": "server01"}]}"#),
    ])
    .await;
    for more in ["groups: [foo, bar]", "role: cn"] {
        let text =
            format!("  triton_sd_configs: [{{account: a, dns_suffix: triton.example.com, endpoint: e, {more}}}]\n");
        let groups = found(poller!(Triton, &text, |config| crate::triton::Poller::at(config, &base))).await;
        seen.push_str(&groups.replace(&base, "BASE"));
    }

    let (base, _) = table(&[
        (
            "GET /v2/instances?per_page=100",
            r#"{"instances": [{"id": "dbdbd38c", "os": "CentOS SELinux 8 x64", "os_id": 381, "ram": 2048, "disk": 55, "main_ip": "149.28.234.27", "vcpu_count": 1, "region": "atl", "plan": "vc2-1c-2gb",
                "allowed_bandwidth": 2000, "v6_main_ip": "", "hostname": "h", "label": "", "internal_ip": "", "server_status": "installingbooting", "features": ["backups"], "tags": ["tag1", "tag2"]}], "meta": {"links": {"next": "b"}}}"#,
        ),
        ("GET /v2/instances?per_page=100&cursor=b", r#"{"instances": [{"id": "2", "main_ip": "45.63.1.222"}], "meta": {"links": {"next": ""}}}"#),
    ])
    .await;
    seen.push_str(
        &found(poller!(Vultr, "  vultr_sd_configs: [{}]\n", |config| crate::vultr::Poller::at(config, &base))).await,
    );
    expect_test::expect_file!["tests/eureka_marathon_kuma_triton_vultr.txt"].assert_eq(&seen);
}

#[tokio::test]
async fn amazon_and_outscale_are_asked_with_signatures() {
    let instances = r#"<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet><item><ownerId>owner-id</ownerId><instancesSet>
        <item><instanceId>instance-id</instanceId><imageId>ami</imageId><privateIpAddress>4.3.2.1</privateIpAddress><privateDnsName>priv</privateDnsName><ipAddress>42.42.42.2</ipAddress><dnsName>pub</dnsName>
          <instanceType>m5</instanceType><instanceState><name>running</name></instanceState><placement><availabilityZone>azname-b</availabilityZone></placement><architecture>x86_64</architecture>
          <vpcId>vpc-1</vpcId><subnetId>azid-1</subnetId><networkInterfaceSet>
            <item><subnetId>azid-2</subnetId><attachment><deviceIndex>1</deviceIndex></attachment><ipv6AddressesSet><item><ipv6Address>2001:db8::2</ipv6Address><isPrimaryIpv6>true</isPrimaryIpv6></item></ipv6AddressesSet></item>
            <item><subnetId>azid-1</subnetId><attachment><deviceIndex>0</deviceIndex></attachment><ipv6AddressesSet><item><ipv6Address>2001:db8::1</ipv6Address><isPrimaryIpv6>false</isPrimaryIpv6></item></ipv6AddressesSet></item>
          </networkInterfaceSet><tagSet><item><key>tag-1</key><value>value</value></item></tagSet></item>
        <item><instanceId>no-address</instanceId></item></instancesSet></item></reservationSet>TOKEN</DescribeInstancesResponse>"#;
    let (base, log) = serve(move |asked| {
        Some(if asked.body.contains("Action=DescribeAvailabilityZones") {
            "<r><availabilityZoneInfo><item><zoneName>azname-b</zoneName><zoneId>azid-b</zoneId></item></availabilityZoneInfo></r>".to_owned()
        } else if asked.body.contains("NextToken=more") {
            instances.replace("TOKEN", "").replace("4.3.2.1", "4.3.2.2")
        } else {
            instances.replace("TOKEN", "<nextToken>more</nextToken>")
        })
    })
    .await;
    let text = format!(
        "  ec2_sd_configs: [{{endpoint: '{base}', region: eu-x, access_key: AK, secret_key: hidden, filters: [{{name: tag:x, values: [a, b]}}]}}]\n"
    );
    let mut seen = found(poller!(Ec2, &text, |config| crate::ec2::Poller::new(config, Arc::new(Standing)))).await;
    let asked = log.lock().unwrap()[1].clone();
    assert!(asked.body.contains("Filter.1.Name=tag%3Ax&Filter.1.Value.1=a&Filter.1.Value.2=b"), "{}", asked.body);
    assert!(asked.head.contains("credential=ak/20260101/eu-x/ec2/aws4_request"), "{}", asked.head);
    assert!(!asked.head.contains("hidden"));

    // Without keys in the configuration the instance's own are used.
    let (base, log) = table(&[
        ("PUT /latest/api/token", "session"),
        ("GET /latest/meta-data/placement/region", "eu-y"),
        ("GET /latest/meta-data/iam/security-credentials/", "role"),
        ("GET /latest/meta-data/iam/security-credentials/role", r#"{"AccessKeyId": "IK", "SecretAccessKey": "s", "Token": "temporary"}"#),
        (
            "POST /",
            r#"{"instances": [{"name": "i", "privateIpAddress": "10.1.1.1", "publicIpAddress": "1.1.1.1", "ipv6Addresses": ["::1"], "location": {"availabilityZone": "z"},
                "state": {"name": "running"}, "tags": [{"key": "k-1", "value": "v"}, {"key": "only"}]}, {"name": "no address"}]}"#,
        ),
    ])
    .await;
    static BASE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BASE.set(base.clone()).unwrap();
    let text = format!("  lightsail_sd_configs: [{{endpoint: '{base}'}}]\n");
    let mut poller = poller!(Lightsail, &text, |config| crate::lightsail::Poller::new(config, Arc::new(Standing)));
    poller.aws = poller
        .aws
        .with_environment(|name| (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| BASE.get().unwrap().clone()));
    seen.push_str(&found(poller).await);
    let asked = log.lock().unwrap().last().cloned().unwrap();
    assert!(
        asked.head.contains("x-amz-security-token: temporary")
            && asked.head.contains("x-amz-target: lightsail_20161128.getinstances")
    );

    let (base, log) = table(&[("POST /ReadVms", r#"{"Vms": [{"VmId": "i-1", "State": "running", "PrivateIp": "10.0.0.1", "Placement": {"SubregionName": "a"}, "Tags": [{"Key": "k", "Value": "v"}]}]}"#)]).await;
    let text = format!("  outscale_sd_configs: [{{endpoint: '{base}', access_key: AK, secret_key: hidden}}]\n");
    seen.push_str(
        &found(poller!(Outscale, &text, |config| crate::outscale::Poller::new(config, Arc::new(Standing)))).await,
    );
    assert!(log.lock().unwrap()[0].head.contains("/eu-west-2/oapi/aws4_request"));
    expect_test::expect_file!["tests/amazon_outscale.txt"].assert_eq(&seen);
}

#[tokio::test]
async fn google_azure_and_stackit_give_tokens_first() {
    let (base, log) = table(&[
        ("GET /computeMetadata/v1/instance/service-accounts/default/token", r#"{"access_token": "gtoken", "expires_in": 3000}"#),
        (
            "GET /projects/p/zones/z/instances",
            r#"{"items": [{"id": "123", "name": "i1", "status": "RUNNING", "zone": "zones/z", "machineType": "mt", "labels": {"env-x": "prod"}, "tags": {"items": ["http", "db"]},
                "metadata": {"items": [{"key": "k-1", "value": "v"}, {"key": "none"}]},
                "networkInterfaces": [{"name": "nic0", "network": "n", "subnetwork": "s", "networkIP": "10.0.0.1", "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "natIP": "8.8.8.8"}]}]}, {"name": "bare"}]}"#,
        ),
    ])
    .await;
    static METADATA: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    METADATA.set(base.replace("http://", "")).unwrap();
    let environment = |name: &str| (name == "GCE_METADATA_HOST").then(|| METADATA.get().unwrap().clone());
    let make = |config: &_| gce::Poller::at(config, Arc::new(Standing), &base, environment);
    let mut seen = found(poller!(Gce, "  gce_sd_configs: [{project: p, zone: z}]\n", make)).await;
    let asked = log.lock().unwrap().clone();
    assert!(
        asked[0].head.contains("metadata-flavor: google") && asked[1].head.contains("authorization: bearer gtoken")
    );

    let vm = r#"{"id": "/subscriptions/s/resourceGroups/RG/providers/Microsoft.Compute/virtualMachines/vm", "name": "vm", "type": "t", "location": "l", "tags": {"k-1": "v"},
        "properties": {"hardwareProfile": {"vmSize": "size"}, "osProfile": {"computerName": "c"}, "storageProfile": {"osDisk": {"osType": "Linux"}}, "networkProfile": {"networkInterfaces": [{"id": "/nic/1"}]}}}"#;
    let (base, log) = table(&[
        ("POST /t/oauth2/v2.0/token", r#"{"access_token": "atoken", "expires_in": 3599}"#),
        ("GET /subscriptions/sub/providers/Microsoft.Compute/virtualMachines", &format!(r#"{{"value": [{vm}]}}"#)),
        (
            "GET /subscriptions/sub/providers/Microsoft.Compute/virtualMachineScaleSets",
            r#"{"value": [{"id": "/subscriptions/s/resourceGroups/RG/x", "name": "set"}]}"#,
        ),
        ("GET /subscriptions/sub/resourceGroups/RG/providers/Microsoft.Compute/virtualMachineScaleSets/set/virtualMachines", &format!(r#"{{"value": [{}]}}"#, vm.replace("/nic/1", "/nic/2"))),
        ("GET /nic/1", r#"{"properties": {"primary": true, "ipConfigurations": [{"properties": {"privateIPAddress": "10.0.0.4", "publicIPAddress": {"properties": {"ipAddress": "20.0.0.1"}}}}]}}"#),
        ("GET /nic/2", r#"{"properties": {"primary": true, "ipConfigurations": [{"properties": {"privateIPAddress": "10.0.0.5"}}]}}"#),
    ])
    .await;
    let cloud = azure::Cloud { manager: base.clone(), authority: base.clone() };
    let text = "  azure_sd_configs: [{subscription_id: sub, tenant_id: t, client_id: c, client_secret: hidden}]\n";
    let make = |config: &_| azure::Poller::at(config, Arc::new(Standing), cloud.clone());
    seen.push_str(&found(poller!(Azure, text, make)).await);
    let asked = log.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|asked| asked.line.contains("/token")).count(), 1, "the token is kept");
    assert!(asked[0].body.contains("client_secret=hidden") && asked[1].head.contains("authorization: bearer atoken"));

    let (base, _) = table(&[(
        "GET /v1/projects/p/servers",
        r#"{"items": [{"id": "s", "name": "n", "availabilityZone": "eu01-3", "labels": {"provisionSTACKITServerAgent": "true", "number": 1}, "machineType": "t1.1", "powerStatus": "RUNNING", "status": "ACTIVE",
            "nics": [{"ipv4": "10.0.0.153", "networkName": "my-net", "publicIp": "192.0.2.1"}]}, {"id": "bare", "nics": []}]}"#,
    )])
    .await;
    let text =
        format!("  stackit_sd_configs: [{{project: p, endpoint: '{base}', authorization: {{credentials: x}}}}]\n");
    let make = |config: &_| crate::stackit::Poller::new(config, Arc::new(Standing));
    seen.push_str(&found(poller!(Stackit, &text, make)).await);
    expect_test::expect_file!["tests/google_azure_stackit.txt"].assert_eq(&seen);
}

#[tokio::test]
async fn openstack_is_logged_into_and_its_three_roles_are_read() {
    let catalog = |base: &str| {
        let endpoint = |path: &str| {
            format!(
                r#"[{{"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": "{base}{path}"}}]"#
            )
        };
        format!(
            r#"{{"token": {{"catalog": [{{"type": "compute", "endpoints": {}}}, {{"type": "network", "endpoints": {}}}, {{"type": "load-balancer", "endpoints": {}}}]}}}}"#,
            endpoint("/compute/v2.1/p"),
            endpoint("/network"),
            endpoint("/lb")
        )
    };
    let (base, log) = serve(move |asked| {
        let host = asked.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("").to_owned();
        let path = asked.line.split('?').next().unwrap_or("");
        Some(match path {
            "POST /identity/v3/auth/tokens" => format!("X-Subject-Token: ostoken\r\n\r\n{}", catalog(&format!("http://{host}"))),
            "GET /compute/v2.1/p/os-hypervisors/detail" => r#"{"hypervisors": [{"id": 721, "hypervisor_hostname": "nc14.cloud.com", "host_ip": "172.16.70.14", "status": "enabled", "state": "up", "hypervisor_type": "QEMU"}]}"#.to_owned(),
            "GET /compute/v2.1/p/servers/detail" => r#"{"servers": [{"id": "i1", "name": "herp", "status": "ACTIVE", "tenant_id": "t", "user_id": "u", "flavor": {"original_name": "m1.medium"}, "image": {"id": "img"}, "metadata": {"env-x": "prod"},
                "addresses": {"private": [{"addr": "10.0.0.32"}, {"addr": "10.10.10.2"}]}}]}"#.to_owned(),
            "GET /network/v2.0/ports" => r#"{"ports": [{"id": "p1", "device_id": "i1"}]}"#.to_owned(),
            "GET /network/v2.0/floatingips" => r#"{"floatingips": [{"port_id": "p1", "fixed_ip_address": "10.0.0.32", "floating_ip_address": "10.10.10.2"}]}"#.to_owned(),
            "GET /lb/v2.0/lbaas/loadbalancers" => r#"{"loadbalancers": [{"id": "lb1", "name": "lb", "operating_status": "ONLINE", "provisioning_status": "ACTIVE", "availability_zone": "az1", "vip_address": "10.0.0.32", "vip_port_id": "p1", "provider": "amphora", "project_id": "t", "tags": ["a", "b"]}, {"id": "lb2"}]}"#.to_owned(),
            "GET /lb/v2.0/lbaas/listeners" => r#"{"listeners": [{"protocol": "PROMETHEUS", "protocol_port": 9273, "loadbalancers": [{"id": "lb1"}]}]}"#.to_owned(),
            _ => return None,
        })
    })
    .await;
    let mut seen = String::new();
    for role in ["hypervisor", "instance", "loadbalancer"] {
        let text = format!(
            "  openstack_sd_configs: [{{identity_endpoint: '{base}/identity', username: u, password: hidden, domain_name: d, project_name: p, role: {role}, region: RegionOne, all_tenants: true}}]\n"
        );
        seen.push_str(&found(poller!(OpenStack, &text, crate::openstack::Poller::new)).await);
    }
    expect_test::expect_file!["tests/openstack.txt"].assert_eq(&seen);
    let asked = log.lock().unwrap().clone();
    assert!(asked[0].body.contains(r#""password":"hidden""#) && asked[1].head.contains("x-auth-token: ostoken"));
    assert!(asked.iter().any(|asked| asked.line.contains("servers/detail?all_tenants=true")));
}

#[tokio::test]
async fn uyuni_is_asked_by_xml_rpc() {
    let value = |inner: &str| {
        format!(
            "<?xml version=\"1.0\"?><methodResponse><params><param><value>{inner}</value></param></params></methodResponse>"
        )
    };
    let (base, log) = serve(move |asked| {
        let member = |name: &str, value: &str| format!("<member><name>{name}</name><value>{value}</value></member>");
        let list = |members: String| format!("<array><data><value><struct>{members}</struct></value></data></array>");
        let group = list(member("id", "<int>2</int>") + &member("name", "group-a"));
        Some(if asked.body.contains("auth.login") {
            value("<string>utoken</string>")
        } else if asked.body.contains("listSystemGroups") {
            value(&list(member("id", "<int>1</int>") + &member("system_groups", &group)))
        } else if asked.body.contains("listEndpoints") {
            value(&list(
                member("system_id", "<i4>1</i4>")
                    + &member("endpoint_name", "node")
                    + &member("port", "<int>9100</int>")
                    + &member("exporter_name", "node_exporter")
                    + &member("tls_enabled", "<boolean>1</boolean>")
                    + &member("path", "/metrics")
                    + &member("module", ""),
            ))
        } else {
            value(&list(
                member("system_id", "<int>1</int>")
                    + &member("hostname", "h1")
                    + &member("primary_fqdn", "h1.example")
                    + &member("ip", "10.0.0.1"),
            ))
        })
    })
    .await;
    let text = format!("  uyuni_sd_configs: [{{server: '{base}', username: u, password: 'a<b'}}]\n");
    let seen = found(poller!(Uyuni, &text, |config| crate::uyuni::Poller::new(config, Arc::new(Standing)))).await;
    expect_test::expect![[r#"
        BASE/rpc/api {}
          {__address__="h1:9100", __meta_uyuni_endpoint_name="node", __meta_uyuni_exporter="node_exporter", __meta_uyuni_groups="group-a", __meta_uyuni_metrics_path="/metrics", __meta_uyuni_minion_hostname="h1", __meta_uyuni_primary_fqdn="h1.example", __meta_uyuni_scheme="https", __meta_uyuni_system_id="1"}
    "#]]
    .assert_eq(&seen.replace(&base, "BASE"));
    assert!(log.lock().unwrap()[0].body.contains("<string>a&lt;b</string>"));
}

/// ZooKeeper's side of the few packets that are exchanged.
async fn zookeeper(nodes: &'static [(&'static str, &'static str, &'static [&'static str])]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut connected = false;
            while let Ok(length) = socket.read_u32().await {
                let mut packet = vec![0; length as usize];
                socket.read_exact(&mut packet).await.unwrap();
                let mut body = Vec::new();
                if !connected {
                    connected = true;
                    body.resize(36, 0);
                } else if packet.len() > 12 {
                    let path = std::str::from_utf8(&packet[12..packet.len() - 1]).unwrap();
                    body.extend_from_slice(&packet[..4]);
                    body.extend_from_slice(&[0; 8]);
                    match nodes.iter().find(|(name, ..)| *name == path) {
                        None => body.extend_from_slice(&(-101i32).to_be_bytes()),
                        Some((_, data, children)) => {
                            body.extend_from_slice(&0i32.to_be_bytes());
                            if packet[7] == 4 {
                                body.extend_from_slice(&(data.len() as u32).to_be_bytes());
                                body.extend_from_slice(data.as_bytes());
                                body.resize(body.len() + 68, 0);
                            } else {
                                body.extend_from_slice(&(children.len() as u32).to_be_bytes());
                                for child in *children {
                                    body.extend_from_slice(&(child.len() as u32).to_be_bytes());
                                    body.extend_from_slice(child.as_bytes());
                                }
                            }
                        }
                    }
                } else {
                    break;
                }
                socket.write_all(&(body.len() as u32).to_be_bytes()).await.unwrap();
                socket.write_all(&body).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn zookeeper_holds_serversets_and_nerve_members() {
    let address = zookeeper(&[
        ("/a", "", &["member_1", "junk", "gone"]),
        (
            "/a/member_1",
            r#"{"serviceEndpoint": {"host": "h", "port": 31000}, "additionalEndpoints": {"health-x": {"host": "h2", "port": 31001}}, "status": "ALIVE", "shard": 7}"#,
            &[],
        ),
        ("/a/junk", "not JSON", &[]),
        ("/n", "", &["x"]),
        ("/n/x", r#"{"host": "10.0.0.1", "port": 80, "name": "i-1"}"#, &[]),
    ])
    .await;
    let text = format!("  serverset_sd_configs: [{{servers: ['127.0.0.1:1', '{address}'], paths: [/a]}}]\n");
    let Discovery::Serverset(serverset) = config(&text) else { panic!("serverset") };
    let mut seen = found(crate::zookeeper::Poller::serverset(&serverset)).await;
    let text = format!("  nerve_sd_configs: [{{servers: ['{address}'], paths: [/n]}}]\n");
    let Discovery::Nerve(nerve) = config(&text) else { panic!("nerve") };
    seen.push_str(&found(crate::zookeeper::Poller::nerve(&nerve)).await);
    expect_test::expect![[r#"
        /a/member_1 {}
          {__address__="h:31000", __meta_serverset_endpoint_host="h", __meta_serverset_endpoint_host_health_x="h2", __meta_serverset_endpoint_port="31000", __meta_serverset_endpoint_port_health_x="31001", __meta_serverset_path="/a/member_1", __meta_serverset_shard="7", __meta_serverset_status="ALIVE"}
        /n/x {}
          {__address__="10.0.0.1:80", __meta_nerve_endpoint_host="10.0.0.1", __meta_nerve_endpoint_name="i-1", __meta_nerve_endpoint_port="80", __meta_nerve_path="/n/x"}
    "#]]
    .assert_eq(&seen);
}

#[tokio::test]
async fn a_refusal_is_said_with_its_status_and_without_secrets() {
    let (base, _) = serve(|_| None).await;
    let text = format!(
        "  puppetdb_sd_configs: [{{url: '{base}', query: q, basic_auth: {{username: u, password: hidden}}}}]\n"
    );
    let error = poller!(PuppetDb, &text, crate::puppetdb::Poller::new).refresh().await.expect_err("a 404");
    assert!(error.to_string().contains("404") && !error.to_string().contains("hidden"), "{error}");
}
