//! Kinds that ask a back end, against a small one with canned answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use promesh_config::prometheus::Discovery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::TargetGroup;
use crate::refresh::Refresh as _;
use crate::tests::discoveries;

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
                    let (status, body) = answer(path).map_or(("404 Not Found", "{}"), |body| ("200 OK", body));
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = socket.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
                }
            });
        }
    });
    address
}

pub(crate) fn shown(groups: &[impl AsRef<TargetGroup>]) -> String {
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
