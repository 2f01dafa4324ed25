//! Where targets come from.

mod clouds;
mod platforms;

use std::time::Duration;

use promesh_model::{Labels, Secret};

pub use clouds::*;
pub use platforms::*;

use super::scrape::MeshScope;
use crate::http::{BasicAuth, HttpClientConfig, HttpUrl};
use crate::section;
use crate::yaml::{FilePath, Key, Kind, Node, Position, Reader, Section, Show, Yaml, read_section};

/// Declares the kinds that are built: how each is read, shown and named.
macro_rules! kinds {
    ($( $(#[$meta:meta])* $variant:ident($section:ty) $name:literal ),* $(,)?) => {
        /// One discovery of a job or of a set of Alertmanagers.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Discovery {
            /// Written in the file.
            Static(Vec<StaticGroup>),
            $( $(#[$meta])* $variant(Box<$section>), )*
            /// Asked by every peer for itself, and what it finds is scraped by it: `mesh_scope: everywhere`.
            Everywhere(Box<Discovery>),
            /// A kind of Prometheus that is not built.
            Unbuilt(UnbuiltSd),
        }

        impl Discovery {
            fn is_built(kind: &str) -> bool {
                matches!(kind, $( $name )|*)
            }

            fn read_kind(kind: &str, key: &Key, node: &Node, reader: &mut Reader<'_>) -> Discovery {
                match kind {
                    $( $name => Discovery::$variant(Box::new(read_section(node, reader))), )*
                    _ => {
                        super::unbuilt::check(kind, node, reader);
                        Discovery::Unbuilt(UnbuiltSd { kind: kind.to_owned(), at: key.at, node: node.clone() })
                    }
                }
            }

            /// Its kind, as in `<kind>_sd_configs`.
            pub fn kind(&self) -> &str {
                match self {
                    Discovery::Static(_) => "static",
                    $( Discovery::$variant(_) => $name, )*
                    Discovery::Everywhere(inner) => inner.kind(),
                    Discovery::Unbuilt(unbuilt) => &unbuilt.kind,
                }
            }

            fn show_kind(&self, show: Show) -> Node {
                match self {
                    Discovery::Static(groups) => groups.show(show),
                    $( Discovery::$variant(section) => section.show(show), )*
                    Discovery::Everywhere(inner) => {
                        let mut node = inner.show_kind(show);
                        if let Kind::Map(fields) = &mut node.kind {
                            let key = Key { text: SCOPE.to_owned(), at: Position::default() };
                            fields.push((key, MeshScope::Everywhere.show(show)));
                        }
                        node
                    }
                    Discovery::Unbuilt(unbuilt) => super::unbuilt::show(&unbuilt.node, show),
                }
            }
        }
    };
}

/// The field of every kind that says where in the mesh it is asked.
const SCOPE: &str = "mesh_scope";

kinds! {
    /// Files of groups.
    File(FileSd) "file",
    /// A URL that answers with groups.
    Http(HttpSd) "http",
    /// DNS.
    Dns(DnsSd) "dns",
    /// Consul.
    Consul(ConsulSd) "consul",
    /// Kubernetes.
    Kubernetes(KubernetesSd) "kubernetes",
    /// All peers of this mesh.
    Peer(PeerSd) "peer",
    /// Docker.
    Docker(DockerSd) "docker",
    /// Docker swarms.
    DockerSwarm(DockerSwarmSd) "dockerswarm",
    /// Amazon EC2.
    Ec2(Ec2Sd) "ec2",
    /// Amazon Lightsail.
    Lightsail(LightsailSd) "lightsail",
    /// Google Compute Engine.
    Gce(GceSd) "gce",
    /// Azure.
    Azure(AzureSd) "azure",
    /// Nomad.
    Nomad(NomadSd) "nomad",
    /// OpenStack.
    OpenStack(OpenStackSd) "openstack",
    /// Hetzner.
    Hetzner(HetznerSd) "hetzner",
    /// DigitalOcean.
    DigitalOcean(DigitalOceanSd) "digitalocean",
    /// Linode.
    Linode(LinodeSd) "linode",
    /// Scaleway.
    Scaleway(ScalewaySd) "scaleway",
    /// Eureka.
    Eureka(EurekaSd) "eureka",
    /// PuppetDB.
    PuppetDb(PuppetDbSd) "puppetdb",
    /// IONOS.
    Ionos(IonosSd) "ionos",
    /// OVHcloud.
    OvhCloud(OvhCloudSd) "ovhcloud",
    /// Kuma.
    Kuma(KumaSd) "kuma",
    /// Marathon.
    Marathon(MarathonSd) "marathon",
    /// Nerve.
    Nerve(NerveSd) "nerve",
    /// Serversets.
    Serverset(ServersetSd) "serverset",
    /// Triton.
    Triton(TritonSd) "triton",
    /// Uyuni.
    Uyuni(UyuniSd) "uyuni",
    /// Vultr.
    Vultr(VultrSd) "vultr",
    /// STACKIT.
    Stackit(StackitSd) "stackit",
    /// Outscale.
    Outscale(OutscaleSd) "outscale",
}

/// A section with what most kinds have: an interval, a port and how it is asked.
macro_rules! polled {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $title:literal $(=> $check:path)? {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty $(= $default:expr)? ),* $(,)?
        }
    ) => {
        $crate::section! {
            $(#[$meta])*
            pub struct $name $title $(=> $check)? {
                $( $(#[$field_meta])* pub $field: $type $(= $default)?, )*
                /// How often it is asked. Default 1m.
                pub refresh_interval: Duration = Duration::from_secs(60),
                /// The port of targets. Default 80.
                pub port: u16 = 80,
                ; inline {
                    /// How it is asked.
                    pub http: HttpClientConfig,
                }
            }
        }
    };
}
use polled;

/// All discoveries of a job, in the order written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discoveries(pub Vec<Discovery>);

section! {
    /// Targets written in the file.
    pub struct StaticGroup "static_configs" {
        /// `host:port`s.
        pub targets: Vec<String>,
        /// Labels of all of them.
        pub labels: Labels,
    }
}

section! {
    /// Files of groups, JSON or YAML.
    pub struct FileSd "file_sd_config" => check_file {
        /// Patterns; `*` in the last part only.
        pub files: Vec<FilePath>,
        /// How often files are read again even if nothing said that they changed. Default 5m.
        pub refresh_interval: Duration = Duration::from_secs(300),
    }
}

section! {
    /// A URL that answers with groups in JSON.
    pub struct HttpSd "http_sd_config" => check_http_sd {
        /// The URL.
        pub url: String,
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Names of the DNS.
    pub struct DnsSd "dns_sd_config" => check_dns {
        /// What is asked for.
        pub names: Vec<String>,
        /// How often. Default 30s.
        pub refresh_interval: Duration = Duration::from_secs(30),
        /// Which records. Default SRV.
        pub r#type: DnsRecord = DnsRecord::Srv,
        /// The port of targets, for all but SRV.
        pub port: u16,
    }
}

/// A type of DNS record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    /// Host and port.
    Srv,
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
    /// Mail.
    Mx,
    /// Name servers.
    Ns,
}

impl Yaml for DnsRecord {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "string").unwrap_or_default();
        match text.to_ascii_uppercase().as_str() {
            "SRV" => DnsRecord::Srv,
            "A" => DnsRecord::A,
            "AAAA" => DnsRecord::Aaaa,
            "MX" => DnsRecord::Mx,
            "NS" => DnsRecord::Ns,
            _ => {
                reader.problem(node.at, format!("invalid DNS-SD records type {text}"));
                DnsRecord::Srv
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(match self {
            DnsRecord::Srv => "SRV",
            DnsRecord::A => "A",
            DnsRecord::Aaaa => "AAAA",
            DnsRecord::Mx => "MX",
            DnsRecord::Ns => "NS",
        })
    }
}

section! {
    /// Services of Consul.
    pub struct ConsulSd "consul_sd_config" => check_consul {
        /// Its address. Default localhost:8500.
        pub server: String = "localhost:8500".to_owned(),
        /// What stands before `/v1`.
        pub path_prefix: String,
        /// Its token.
        pub token: Secret,
        /// The data centre; its own when empty.
        pub datacenter: String,
        /// The namespace.
        pub namespace: String,
        /// The partition.
        pub partition: String,
        /// What stands between tags. Default `,`.
        pub tag_separator: String = ",".to_owned(),
        /// `http` or `https`. Default `http`.
        pub scheme: String = "http".to_owned(),
        /// Old form of basic_auth.
        pub username: String,
        /// Old form of basic_auth.
        pub password: Secret,
        /// Whether any server of theirs may answer. Default true.
        pub allow_stale: bool = true,
        /// How often at most. Default 30s.
        pub refresh_interval: Duration = Duration::from_secs(30),
        /// Which services; all when empty.
        pub services: Vec<String>,
        /// Tags that a service must have.
        pub tags: Vec<String>,
        /// Metadata that a node must have.
        pub node_meta: std::collections::BTreeMap<String, String>,
        /// Filter of the catalogue.
        pub filter: String,
        /// Filter of the health API.
        pub health_filter: String,
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Objects of Kubernetes.
    pub struct KubernetesSd "kubernetes_sd_config" => check_kubernetes {
        /// Its API; the cluster that we run in when nothing is given.
        pub api_server: Option<HttpUrl>,
        /// Which objects.
        pub role: Option<KubernetesRole>,
        /// A kubeconfig.
        pub kubeconfig_file: FilePath,
        /// Which namespaces.
        pub namespaces: KubernetesNamespaces,
        /// Which objects of each role.
        pub selectors: Vec<KubernetesSelector>,
        /// Labels of related objects.
        pub attach_metadata: KubernetesMetadata,
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Which namespaces; all when nothing is given.
    pub struct KubernetesNamespaces "namespaces" {
        /// Our own.
        pub own_namespace: bool,
        /// These.
        pub names: Vec<String>,
    }
}

section! {
    /// Which objects of a role.
    pub struct KubernetesSelector "selector" {
        /// The role.
        pub role: Option<KubernetesRole>,
        /// A label selector.
        pub label: String,
        /// A field selector.
        pub field: String,
    }
}

section! {
    /// Labels of related objects.
    pub struct KubernetesMetadata "attach_metadata" {
        /// The node's.
        pub node: bool,
        /// The namespace's.
        pub namespace: bool,
        /// The deployment's name.
        pub deployment: bool,
        /// The job's name.
        pub job: bool,
        /// The cron job's name.
        pub cronjob: bool,
    }
}

section! {
    /// All peers of this mesh by their web addresses, alike on every peer.
    pub struct PeerSd "peer_sd_config" {
        /// Labels of all of them.
        pub labels: Labels,
    }
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubernetesRole {
    /// `pod`
    Pod,
    /// `service`
    Service,
    /// `endpoints`
    Endpoints,
    /// `endpointslice`
    EndpointSlice,
    /// `node`
    Node,
    /// `ingress`
    Ingress,
}

impl KubernetesRole {
    const ALL: [KubernetesRole; 6] = [
        KubernetesRole::Pod,
        KubernetesRole::Service,
        KubernetesRole::Endpoints,
        KubernetesRole::EndpointSlice,
        KubernetesRole::Node,
        KubernetesRole::Ingress,
    ];

    /// As in a file.
    pub fn name(self) -> &'static str {
        match self {
            KubernetesRole::Pod => "pod",
            KubernetesRole::Service => "service",
            KubernetesRole::Endpoints => "endpoints",
            KubernetesRole::EndpointSlice => "endpointslice",
            KubernetesRole::Node => "node",
            KubernetesRole::Ingress => "ingress",
        }
    }

    /// The roles whose objects a discovery of this role looks at.
    fn selectable(self) -> &'static [KubernetesRole] {
        match self {
            KubernetesRole::Pod => &[KubernetesRole::Pod, KubernetesRole::Node],
            KubernetesRole::Service => &[KubernetesRole::Service],
            KubernetesRole::Endpoints => &[KubernetesRole::Pod, KubernetesRole::Service, KubernetesRole::Endpoints],
            KubernetesRole::EndpointSlice => {
                &[KubernetesRole::Pod, KubernetesRole::Service, KubernetesRole::EndpointSlice]
            }
            KubernetesRole::Node => &[KubernetesRole::Node],
            KubernetesRole::Ingress => &[KubernetesRole::Ingress],
        }
    }
}

impl Yaml for KubernetesRole {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "string").unwrap_or_default();
        Self::ALL.into_iter().find(|role| role.name() == text).unwrap_or_else(|| {
            reader.problem(node.at, format!("unknown Kubernetes SD role {text:?}"));
            KubernetesRole::Pod
        })
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.name())
    }
}

/// A discovery that is not built: what was written, and where.
#[derive(Clone, Debug)]
pub struct UnbuiltSd {
    /// Its kind: `ec2`.
    pub kind: String,
    /// Where its key stands.
    pub at: Position,
    node: Node,
}

/// Where it stands is no part of what it says.
impl PartialEq for UnbuiltSd {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.node == other.node
    }
}

impl Section for Discoveries {
    const NAME: &'static str = "scrape config";

    fn set_field(&mut self, key: &Key, value: &Node, reader: &mut Reader<'_>) -> bool {
        let kind = match key.text.as_str() {
            "static_configs" => {
                self.read_static(value, reader);
                return true;
            }
            other => match other.strip_suffix("_sd_configs") {
                Some(kind) => kind,
                None => return false,
            },
        };
        if !Discovery::is_built(kind) && !super::unbuilt::is_kind(kind) {
            return false;
        }
        if !matches!(value.kind, Kind::List(_) | Kind::Null) {
            reader.mismatch(value, "list");
        }
        for element in value.elements() {
            if element.is_null() {
                reader.problem(element.at, format!("empty or null section in {}", key.text));
                continue;
            }
            self.0.push(read_discovery(kind, key, element, reader));
        }
        true
    }

    fn check(&mut self, _: &Node, _: &mut Reader<'_>) {}

    fn show_fields(&self, show: Show, fields: &mut Vec<(Key, Node)>) {
        for discovery in &self.0 {
            let shown = discovery.show_kind(show);
            let (name, shown) = match discovery {
                Discovery::Static(_) => ("static_configs".to_owned(), shown.elements().to_vec()),
                _ => (format!("{}_sd_configs", discovery.kind()), vec![shown]),
            };
            match fields.iter_mut().find(|(key, _)| key.text == name) {
                Some((_, Node { kind: Kind::List(list), .. })) => list.extend(shown),
                _ => fields.push((Key { text: name, at: Position::default() }, Node::new(Kind::List(shown)))),
            }
        }
    }
}

/// Reads an element; `mesh_scope` is a field of every kind.
fn read_discovery(kind: &str, key: &Key, node: &Node, reader: &mut Reader<'_>) -> Discovery {
    let Some(written) = node.get(SCOPE) else { return Discovery::read_kind(kind, key, node, reader) };
    let scope = MeshScope::read(written, reader);
    let mut rest = node.clone();
    if let Kind::Map(fields) = &mut rest.kind {
        fields.retain(|(key, _)| key.text != SCOPE);
    }
    let discovery = Discovery::read_kind(kind, key, &rest, reader);
    match scope {
        MeshScope::Everywhere => Discovery::Everywhere(Box::new(discovery)),
        MeshScope::Once => discovery,
    }
}

impl Discoveries {
    fn read_static(&mut self, value: &Node, reader: &mut Reader<'_>) {
        for element in value.elements().iter().filter(|element| element.is_null()) {
            reader.problem(element.at, "empty or null section in static_configs");
        }
        let groups = value.elements().iter().filter(|element| !element.is_null());
        let groups: Vec<StaticGroup> = groups.map(|element| read_section(element, reader)).collect();
        if !matches!(value.kind, Kind::List(_) | Kind::Null) {
            reader.mismatch(value, "list");
        }
        if !groups.is_empty() {
            self.0.push(Discovery::Static(groups));
        }
    }

    /// Without relabelling a static target must be an address: people put URLs there.
    pub(super) fn check_static_addresses(&self, node: &Node, reader: &mut Reader<'_>) {
        let Some(list) = node.get("static_configs") else { return };
        for target in list.elements().iter().filter_map(|group| group.get("targets")).flat_map(Node::elements) {
            if let Kind::Scalar { text, .. } = &target.kind
                && text.contains('/')
            {
                reader.problem(target.at, format!("{text:?} is not a valid hostname"));
            }
        }
    }

    /// What is written correctly and not built.
    pub(super) fn unbuilt(&self) -> impl Iterator<Item = &UnbuiltSd> {
        self.0.iter().filter_map(|discovery| match discovery {
            Discovery::Unbuilt(unbuilt) => Some(unbuilt),
            Discovery::Everywhere(inner) => match &**inner {
                Discovery::Unbuilt(unbuilt) => Some(unbuilt),
                _ => None,
            },
            _ => None,
        })
    }
}

fn check_file(file: &mut FileSd, node: &Node, reader: &mut Reader<'_>) {
    if file.files.is_empty() {
        reader.problem(node.at, "file service discovery config must contain at least one path name");
    }
    for FilePath(path) in &file.files {
        let ending = path.rsplit('.').next().unwrap_or("");
        let ending_known = path.contains('.') && matches!(ending, "json" | "yml" | "yaml" | "JSON" | "YML" | "YAML");
        let star_last = path.find('*').is_none_or(|star| !path[star + 1..].contains('/'));
        if !ending_known || !star_last {
            reader.problem(node.at_key("files"), format!("path name {path:?} is not valid for file discovery"));
        }
    }
}

fn check_http_sd(http: &mut HttpSd, node: &Node, reader: &mut Reader<'_>) {
    if http.url.is_empty() {
        reader.problem(node.at, "URL is missing");
        return;
    }
    let at = node.at_key("url");
    match HttpUrl::parse(&http.url) {
        Ok(url) if !matches!(url.url().scheme(), "http" | "https") => {
            reader.problem(at, "URL scheme must be 'http' or 'https'");
        }
        Ok(_) => {}
        Err(message) if message.contains("scheme") => reader.problem(at, "URL scheme must be 'http' or 'https'"),
        Err(message) if message.contains("host") => reader.problem(at, "host is missing in URL"),
        Err(message) => reader.problem(at, message),
    }
}

fn check_dns(dns: &mut DnsSd, node: &Node, reader: &mut Reader<'_>) {
    if dns.names.is_empty() {
        reader.problem(node.at, "DNS-SD config must contain at least one SRV record name");
    }
    if dns.r#type != DnsRecord::Srv && dns.port == 0 {
        reader.problem(node.at, "a port is required in DNS-SD configs for all record types except SRV");
    }
}

fn check_consul(consul: &mut ConsulSd, node: &Node, reader: &mut Reader<'_>) {
    if consul.server.trim().is_empty() {
        reader.problem(node.at, "consul SD configuration requires a server address");
    }
    if !consul.username.is_empty() || !consul.password.is_empty() {
        if consul.http.basic_auth.is_some() {
            let message =
                "at most one of consul SD configuration username and password and basic auth can be configured";
            reader.problem(node.at_key("basic_auth"), message);
        }
        consul.http.basic_auth = Some(BasicAuth {
            username: consul.username.clone(),
            password: consul.password.clone(),
            ..BasicAuth::default()
        });
    }
    if !consul.token.is_empty() && (consul.http.authorization.is_some() || consul.http.oauth2.is_some()) {
        let message = "at most one of consul SD token, authorization, or oauth2 can be configured";
        reader.problem(node.at_key("token"), message);
    }
}

fn check_kubernetes(kubernetes: &mut KubernetesSd, node: &Node, reader: &mut Reader<'_>) {
    let Some(role) = kubernetes.role else {
        reader.problem(node.at, "role missing (one of: pod, service, endpoints, endpointslice, node, ingress)");
        return;
    };
    let api_server = kubernetes.api_server.is_some();
    let kubeconfig = !kubernetes.kubeconfig_file.is_empty();
    let own_namespace = kubernetes.namespaces.own_namespace;
    let custom_http = kubernetes.http != HttpClientConfig::default();
    let at = |key: &str| node.at_key(key);
    if api_server && kubeconfig {
        reader.problem(at("kubeconfig_file"), "cannot use 'kubeconfig_file' and 'api_server' simultaneously");
    }
    if kubeconfig && custom_http {
        reader.problem(node.at, "cannot use a custom HTTP client configuration together with 'kubeconfig_file'");
    } else if !api_server && custom_http {
        let message = "to use custom HTTP client configuration please provide the 'api_server' URL explicitly";
        reader.problem(node.at, message);
    }
    if api_server && own_namespace {
        reader.problem(at("namespaces"), "cannot use 'api_server' and 'namespaces.own_namespace' simultaneously");
    }
    if kubeconfig && own_namespace {
        reader.problem(at("namespaces"), "cannot use 'kubeconfig_file' and 'namespaces.own_namespace' simultaneously");
    }
    check_selectors(role, &kubernetes.selectors, node.get("selectors").unwrap_or(node), reader);
}

fn check_selectors(role: KubernetesRole, selectors: &[KubernetesSelector], list: &Node, reader: &mut Reader<'_>) {
    for (index, (selector, node)) in selectors.iter().zip(list.elements()).enumerate() {
        let name = selector.role.map_or("", KubernetesRole::name);
        if selectors[..index].iter().any(|earlier| earlier.role == selector.role) {
            reader.problem(node.at, format!("duplicated selector role: {name}"));
        }
        if selector.role.is_none_or(|wanted| !role.selectable().contains(&wanted)) {
            let allowed: Vec<_> = role.selectable().iter().map(|role| role.name()).collect();
            let message = format!("{} role supports only {} selectors", role.name(), allowed.join(", "));
            reader.problem(node.at, message);
        }
        for term in selector.field.split(',').filter(|term| !term.is_empty()) {
            if !term.contains('=') {
                let message = format!("invalid selector: '{}'; can't understand '{term}'", selector.field);
                reader.problem(node.at_key("field"), message);
            }
        }
    }
}
