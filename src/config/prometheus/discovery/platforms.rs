//! Discovery from what runs services: container engines, schedulers, registries. Fields, defaults and refusals are
//! upstream's.
//!
//! Source: prometheus `discovery/*`, the `SDConfig` of each.

use std::time::Duration;

use promesh_model::Secret;

use super::clouds::{Filter, check_url, one_of, require};
use super::polled;
use crate::http::{HttpClientConfig, HttpUrl};
use crate::section;
use crate::yaml::{FilePath, Node, Reader};

polled! {
    /// Containers of a Docker engine.
    pub struct DockerSd "docker_sd_config" => check_docker {
        /// The engine: `unix:///var/run/docker.sock`, `tcp://…` or `http://…`.
        pub host: String,
        /// Which containers.
        pub filters: Vec<Filter>,
        /// Where containers in the host's network are reached. Default localhost.
        pub host_networking_host: String = "localhost".to_owned(),
        /// Whether only the first network of a container counts. Default true.
        pub match_first_network: bool = true,
    }
}

polled! {
    /// Tasks, services or nodes of a Docker swarm.
    pub struct DockerSwarmSd "dockerswarm_sd_config" => check_swarm {
        /// The engine: `unix:///var/run/docker.sock`, `tcp://…` or `http://…`.
        pub host: String,
        /// tasks, services or nodes.
        pub role: String,
        /// Which of them.
        pub filters: Vec<Filter>,
    }
}

section! {
    /// Services of Nomad.
    pub struct NomadSd "nomad_sd_config" => check_nomad {
        /// Whether any server of theirs may answer. Default true.
        pub allow_stale: bool = true,
        /// The namespace. Default default.
        pub namespace: String = "default".to_owned(),
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        /// The region. Default global.
        pub region: String = "global".to_owned(),
        /// Its address. Default http://localhost:4646.
        pub server: String = "http://localhost:4646".to_owned(),
        /// What stands between tags. Default `,`.
        pub tag_separator: String = ",".to_owned(),
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Applications of Eureka.
    pub struct EurekaSd "eureka_sd_config" => check_eureka {
        /// Its URL.
        pub server: String,
        /// How often. Default 30s.
        pub refresh_interval: Duration = Duration::from_secs(30),
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

polled! {
    /// Resources of PuppetDB.
    pub struct PuppetDbSd "puppetdb_sd_config" => check_puppetdb {
        /// Its URL.
        pub url: String,
        /// What is asked, in PQL.
        pub query: String,
        /// Whether parameters become labels: they may be secret.
        pub include_parameters: bool,
    }
}

section! {
    /// Applications of Marathon.
    pub struct MarathonSd "marathon_sd_config" => check_marathon {
        /// Its URLs.
        pub servers: Vec<String>,
        /// How often. Default 30s.
        pub refresh_interval: Duration = Duration::from_secs(30),
        /// A token of DC/OS.
        pub auth_token: Secret,
        /// A file with it.
        pub auth_token_file: FilePath,
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Data planes of Kuma.
    pub struct KumaSd "kuma_sd_config" => check_kuma {
        /// Its monitoring assignment service.
        pub server: String,
        /// How often. Default 15s.
        pub refresh_interval: Duration = Duration::from_secs(15),
        /// How long it may hold a request. Default 2m.
        pub fetch_timeout: Duration = Duration::from_secs(120),
        /// Who asks; the host's name when empty.
        pub client_id: String,
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Monitored systems of Uyuni.
    pub struct UyuniSd "uyuni_sd_config" => check_uyuni {
        /// Its URL.
        pub server: String,
        /// The user.
        pub username: String,
        /// The password.
        pub password: Secret,
        /// Which systems. Default monitoring_entitled.
        pub entitlement: String = "monitoring_entitled".to_owned(),
        /// What stands between groups. Default `,`.
        pub separator: String = ",".to_owned(),
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Members of serversets in ZooKeeper.
    pub struct ServersetSd "serverset_sd_config" => check_serverset {
        /// ZooKeeper's servers.
        pub servers: Vec<String>,
        /// Where the sets are.
        pub paths: Vec<String>,
        /// Of a session. Default 10s.
        pub timeout: Duration = Duration::from_secs(10),
    }
}

section! {
    /// Members of Nerve services in ZooKeeper.
    pub struct NerveSd "nerve_sd_config" => check_nerve {
        /// ZooKeeper's servers.
        pub servers: Vec<String>,
        /// Where the services are.
        pub paths: Vec<String>,
        /// Of a session. Default 10s.
        pub timeout: Duration = Duration::from_secs(10),
    }
}

fn check_host(host: &str, node: &Node, reader: &mut Reader<'_>) {
    require(&[(host, "host missing")], node, reader);
    if !host.is_empty() && url::Url::parse(host).is_err() {
        let message =
            format!("host {host:?} is no URL: unix:///var/run/docker.sock, tcp://host:2375 or http://host:2375");
        reader.problem(node.at_key("host"), message);
    }
}

fn check_docker(docker: &mut DockerSd, node: &Node, reader: &mut Reader<'_>) {
    check_host(&docker.host, node, reader);
}

fn check_swarm(swarm: &mut DockerSwarmSd, node: &Node, reader: &mut Reader<'_>) {
    check_host(&swarm.host, node, reader);
    require(&[(&swarm.role, "role missing (one of: tasks, services, nodes)")], node, reader);
    let message = format!("invalid role {}, expected tasks, services, or nodes", swarm.role);
    one_of(("role", &swarm.role), &["tasks", "services", "nodes"], message, node, reader);
}

fn check_nomad(nomad: &mut NomadSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(nomad.server.trim(), "nomad SD configuration requires a server address")], node, reader);
}

fn check_eureka(eureka: &mut EurekaSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(&eureka.server, "eureka_sd: empty or null eureka server")], node, reader);
    if !eureka.server.is_empty() && HttpUrl::parse(&eureka.server).is_err() {
        reader.problem(node.at_key("server"), "eureka_sd: invalid eureka server URL");
    }
}

fn check_puppetdb(puppetdb: &mut PuppetDbSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(&puppetdb.url, "URL is missing"), (&puppetdb.query, "query missing")], node, reader);
    if puppetdb.url.is_empty() {
        return;
    }
    match HttpUrl::parse(&puppetdb.url) {
        Ok(url) if matches!(url.url().scheme(), "http" | "https") => {}
        Err(message) if message.contains("host") => reader.problem(node.at_key("url"), "host is missing in URL"),
        _ => reader.problem(node.at_key("url"), "URL scheme must be 'http' or 'https'"),
    }
}

fn check_marathon(marathon: &mut MarathonSd, node: &Node, reader: &mut Reader<'_>) {
    if marathon.servers.is_empty() {
        reader.problem(node.at, "marathon_sd: must contain at least one Marathon server");
    }
    let (token, file) = (!marathon.auth_token.is_empty(), !marathon.auth_token_file.is_empty());
    if token && file {
        let message = "marathon_sd: at most one of auth_token & auth_token_file must be configured";
        reader.problem(node.at_key("auth_token_file"), message);
    }
    if !token && !file {
        return;
    }
    let at = node.at_key(if token { "auth_token" } else { "auth_token_file" });
    if marathon.http.basic_auth.is_some() {
        reader.problem(at, "marathon_sd: at most one of basic_auth, auth_token & auth_token_file must be configured");
    }
    if node.get("bearer_token").is_some() || node.get("bearer_token_file").is_some() {
        reader.problem(at, "marathon_sd: at most one of bearer_token, bearer_token_file, auth_token & auth_token_file must be configured");
    }
    if node.get("authorization").is_some() {
        reader
            .problem(at, "marathon_sd: at most one of auth_token, auth_token_file & authorization must be configured");
    }
}

fn check_kuma(kuma: &mut KumaSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(&kuma.server, "kuma SD server must not be empty: ")], node, reader);
    let prefix = format!("kuma SD server must not be empty and have a scheme: {}: ", kuma.server);
    check_url("server", &kuma.server, &prefix, node, reader);
}

fn check_uyuni(uyuni: &mut UyuniSd, node: &Node, reader: &mut Reader<'_>) {
    let fields = [
        (uyuni.server.as_str(), "Uyuni SD configuration requires server host"),
        (uyuni.username.as_str(), "Uyuni SD configuration requires a username"),
        (uyuni.password.expose(), "Uyuni SD configuration requires a password"),
    ];
    require(&fields, node, reader);
    check_url("server", &uyuni.server, "Uyuni Server URL is not valid: ", node, reader);
}

fn check_serverset(serverset: &mut ServersetSd, node: &Node, reader: &mut Reader<'_>) {
    check_zookeeper("serverset", &serverset.servers, &serverset.paths, node, reader);
}

fn check_nerve(nerve: &mut NerveSd, node: &Node, reader: &mut Reader<'_>) {
    check_zookeeper("nerve", &nerve.servers, &nerve.paths, node, reader);
}

fn check_zookeeper(kind: &str, servers: &[String], paths: &[String], node: &Node, reader: &mut Reader<'_>) {
    if servers.is_empty() {
        reader.problem(node.at, format!("{kind} SD config must contain at least one Zookeeper server"));
    }
    if paths.is_empty() {
        reader.problem(node.at, format!("{kind} SD config must contain at least one path"));
    }
    for path in paths.iter().filter(|path| !path.starts_with('/')) {
        reader.problem(node.at_key("paths"), format!("{kind} SD config paths must begin with '/': {path}"));
    }
}
