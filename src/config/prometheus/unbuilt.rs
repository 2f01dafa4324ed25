//! Discovery kinds that are read and not built: their fields and rules are upstream's, so that a file is judged alike.
//!
//! Source: prometheus `discovery/*`, the `SDConfig` of each.

use promesh_model::secret::MASK;

use crate::http::{HttpClientConfig, HttpUrl};
use crate::yaml::{Kind, Node, Position, Reader, Section as _, Show, Yaml as _};

/// A kind: its name, whether HTTP settings stand among its fields, its fields, its rules.
type UnbuiltKind = (&'static str, bool, &'static str, fn(&Section<'_>, &mut Reader<'_>));

const AWS: &str = "region endpoint access_key secret_key profile role_arn external_id port refresh_interval clusters \
                   filters request_concurrency";

const KINDS: [UnbuiltKind; 32] = [
    (
        "aws",
        true,
        "role region endpoint access_key secret_key profile role_arn external_id refresh_interval port filters clusters",
        check_filters,
    ),
    (
        "azure",
        true,
        "environment port subscription_id tenant_id client_id client_secret refresh_interval authentication_method resource_group",
        check_azure,
    ),
    ("digitalocean", true, "refresh_interval port role", no_rules),
    ("docker", true, "host port filters host_networking_host refresh_interval match_first_network", check_host),
    ("dockerswarm", true, "host role port filters refresh_interval", check_swarm),
    (
        "ec2",
        true,
        "endpoint region access_key secret_key profile role_arn external_id refresh_interval port filters",
        check_filters,
    ),
    ("ecs", true, AWS, no_rules),
    ("elasticache", true, AWS, no_rules),
    ("eureka", true, "server refresh_interval", check_eureka),
    ("gce", false, "project zone filter refresh_interval port tag_separator", check_gce),
    ("hetzner", true, "refresh_interval port role label_selector", check_hetzner),
    ("ionos", true, "datacenter_id refresh_interval port", check_ionos),
    ("kuma", true, "refresh_interval fetch_timeout server client_id", check_kuma),
    (
        "lightsail",
        true,
        "endpoint region access_key secret_key profile role_arn external_id refresh_interval port",
        no_rules,
    ),
    ("linode", true, "refresh_interval port tag_separator region", no_rules),
    ("lockstatic", false, "targets labels", no_rules),
    ("marathon", true, "servers refresh_interval auth_token auth_token_file", check_marathon),
    ("msk", true, AWS, no_rules),
    ("nerve", false, "servers paths timeout", check_zookeeper),
    ("nomad", true, "allow_stale namespace refresh_interval region server tag_separator", no_rules),
    (
        "oci",
        true,
        "auth tenancy user fingerprint key_file key_passphrase key_passphrase_file region compartments port refresh_interval",
        check_oci,
    ),
    (
        "openstack",
        false,
        "identity_endpoint username userid password project_name project_id domain_name domain_id application_credential_name application_credential_id application_credential_secret role region refresh_interval port all_tenants tls_config availability",
        check_openstack,
    ),
    ("outscale", true, "endpoint region access_key secret_key secret_key_file refresh_interval port", check_outscale),
    (
        "ovhcloud",
        false,
        "endpoint application_key application_secret consumer_key refresh_interval service",
        check_ovhcloud,
    ),
    ("puppetdb", true, "refresh_interval url query include_parameters port", check_puppetdb),
    ("rds", true, AWS, check_filters),
    (
        "scaleway",
        true,
        "project_id api_url zone access_key secret_key secret_key_file name_filter tags_filter refresh_interval port role",
        check_scaleway,
    ),
    ("serverset", false, "servers paths timeout", check_zookeeper),
    (
        "stackit",
        true,
        "project refresh_interval port region endpoint service_account_key private_key service_account_key_path private_key_path credentials_file_path",
        check_stackit,
    ),
    ("triton", false, "account role dns_suffix endpoint groups port refresh_interval tls_config version", check_triton),
    ("uyuni", true, "server username password entitlement separator refresh_interval", check_uyuni),
    ("vultr", true, "refresh_interval port", no_rules),
];

/// Whether Prometheus has this kind and we do not.
pub(super) fn is_kind(name: &str) -> bool {
    KINDS.iter().any(|(kind, ..)| *kind == name)
}

/// A section of a kind that is not built.
struct Section<'a> {
    node: &'a Node,
    http: HttpClientConfig,
}

impl Section<'_> {
    fn text(&self, key: &str) -> &str {
        match self.node.get(key).map(|node| &node.kind) {
            Some(Kind::Scalar { text, .. }) => text,
            _ => "",
        }
    }

    fn at(&self, key: &str) -> Position {
        self.node.at_key(key)
    }

    /// Each key must be given, in these words.
    fn require(&self, keys: &[(&str, &str)], reader: &mut Reader<'_>) {
        for (key, message) in keys {
            if self
                .node
                .get(key)
                .is_none_or(|node| node.is_null() || self.text(key).is_empty() && node.elements().is_empty())
            {
                reader.problem(self.node.at, *message);
            }
        }
    }

    /// One of two ways to give a secret.
    fn require_one_secret(&self, reader: &mut Reader<'_>) {
        match (self.text("secret_key").is_empty(), self.text("secret_key_file").is_empty()) {
            (true, true) => reader.problem(self.node.at, "one of secret_key & secret_key_file must be configured"),
            (false, false) => {
                let at = self.at("secret_key_file");
                reader.problem(at, "at most one of secret_key & secret_key_file must be configured");
            }
            _ => {}
        }
    }

    fn one_of(&self, key: &str, allowed: &[&str], message: impl Fn(&str) -> String, reader: &mut Reader<'_>) {
        let text = self.text(key);
        if !text.is_empty() && !allowed.contains(&text) {
            reader.problem(self.at(key), message(text));
        }
    }
}

/// Checks a section of a kind that is not built: its fields strictly, then its rules.
pub(super) fn check(kind: &str, node: &Node, reader: &mut Reader<'_>) {
    let Some((name, with_http, fields, rules)) = KINDS.iter().find(|(name, ..)| *name == kind) else { return };
    let mut section = Section { node, http: HttpClientConfig::default() };
    let problems_before = reader.problem_count();
    for (key, value) in reader.entries(node, &format!("{kind}_sd_config")) {
        let known = fields.split_whitespace().any(|field| field == key.text);
        if !known && (!with_http || !section.http.set_field(key, value, reader)) {
            reader.problem(key.at, format!("field {} not found in type {name}_sd_config", key.text));
        }
    }
    if reader.problem_count() == problems_before {
        section.http.check(node, reader);
        rules(&section, reader);
    }
}

fn no_rules(_: &Section<'_>, _: &mut Reader<'_>) {}

fn check_filters(section: &Section<'_>, reader: &mut Reader<'_>) {
    for filter in section.node.get("filters").map_or(&[][..], Node::elements) {
        if filter.get("values").is_none_or(|values| values.elements().is_empty()) {
            reader.problem(filter.at, "EC2 SD configuration filter values cannot be empty");
        }
    }
}

fn check_azure(section: &Section<'_>, reader: &mut Reader<'_>) {
    let message = |method: &str| {
        format!(
            "unknown authentication_type {method:?}. Supported types are \"OAuth\", \"ManagedIdentity\", \"SDK\" or \"WorkloadIdentity\""
        )
    };
    section.one_of("authentication_method", &["OAuth", "ManagedIdentity", "SDK", "WorkloadIdentity"], message, reader);
    section.require(&[("subscription_id", "azure SD configuration requires a subscription_id")], reader);
    if matches!(section.text("authentication_method"), "" | "OAuth") {
        section.require(
            &[
                ("tenant_id", "azure SD configuration requires a tenant_id"),
                ("client_id", "azure SD configuration requires a client_id"),
                ("client_secret", "azure SD configuration requires a client_secret"),
            ],
            reader,
        );
    }
}

fn check_host(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("host", "host missing")], reader);
}

fn check_swarm(section: &Section<'_>, reader: &mut Reader<'_>) {
    check_host(section, reader);
    section.require(&[("role", "role missing (one of: tasks, services, nodes)")], reader);
    let message = |role: &str| format!("invalid role {role}, expected tasks, services, or nodes");
    section.one_of("role", &["tasks", "services", "nodes"], message, reader);
}

fn check_eureka(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("server", "eureka_sd: empty or null eureka server")], reader);
    if !section.text("server").is_empty() && HttpUrl::parse(section.text("server")).is_err() {
        reader.problem(section.at("server"), "eureka_sd: invalid eureka server URL");
    }
}

fn check_gce(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(
        &[("project", "GCE SD configuration requires a project"), ("zone", "GCE SD configuration requires a zone")],
        reader,
    );
}

fn check_hetzner(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("role", "role missing (one of: robot, hcloud)")], reader);
    section.one_of("role", &["robot", "hcloud"], |role| format!("unknown role {role:?}"), reader);
}

fn check_ionos(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("datacenter_id", "datacenter id can't be empty")], reader);
}

fn check_kuma(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("server", "kuma SD server must not be empty")], reader);
}

fn check_marathon(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("servers", "marathon_sd: must contain at least one Marathon server")], reader);
    let (token, file) = (!section.text("auth_token").is_empty(), !section.text("auth_token_file").is_empty());
    if token && file {
        let message = "marathon_sd: at most one of auth_token & auth_token_file must be configured";
        reader.problem(section.at("auth_token_file"), message);
    }
    if !token && !file {
        return;
    }
    let at = section.at(if token { "auth_token" } else { "auth_token_file" });
    if section.http.basic_auth.is_some() {
        reader.problem(at, "marathon_sd: at most one of basic_auth, auth_token & auth_token_file must be configured");
    }
    if section.node.get("bearer_token").is_some() || section.node.get("bearer_token_file").is_some() {
        reader.problem(at, "marathon_sd: at most one of bearer_token, bearer_token_file, auth_token & auth_token_file must be configured");
    }
    if section.node.get("authorization").is_some() {
        reader
            .problem(at, "marathon_sd: at most one of auth_token, auth_token_file & authorization must be configured");
    }
}

fn check_zookeeper(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(
        &[
            ("servers", "serverset SD config must contain at least one Zookeeper server"),
            ("paths", "serverset SD config must contain at least one path"),
        ],
        reader,
    );
}

fn check_oci(section: &Section<'_>, reader: &mut Reader<'_>) {
    let message =
        |auth: &str| format!("oci_sd: unknown auth method {auth:?}, expected \"api_key\" or \"instance_principal\"");
    section.one_of("auth", &["api_key", "instance_principal"], message, reader);
}

fn check_openstack(section: &Section<'_>, reader: &mut Reader<'_>) {
    let role = |role: &str| format!("unknown OpenStack SD role {role:?}");
    section.one_of("role", &["instance", "hypervisor", "loadbalancer"], role, reader);
    let availability = |text: &str| format!("unknown availability {text}, must be one of admin, internal or public");
    section.one_of("availability", &["admin", "internal", "public"], availability, reader);
    section.require(
        &[
            ("role", "role missing (one of: instance, hypervisor, loadbalancer)"),
            ("region", "openstack SD configuration requires a region"),
        ],
        reader,
    );
}

fn check_outscale(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(
        &[
            ("region", "outscale SD configuration requires a region"),
            ("access_key", "outscale SD configuration requires access_key"),
        ],
        reader,
    );
    section.require_one_secret(reader);
}

fn check_ovhcloud(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(
        &[
            ("application_key", "application key can not be empty"),
            ("application_secret", "application secret can not be empty"),
            ("consumer_key", "consumer key can not be empty"),
        ],
        reader,
    );
    let message = |service: &str| format!("unknown service: {service}");
    section.one_of("service", &["vps", "dedicated_server"], message, reader);
}

fn check_puppetdb(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(&[("url", "URL is missing"), ("query", "query missing")], reader);
    let text = section.text("url");
    if text.is_empty() {
        return;
    }
    match HttpUrl::parse(text) {
        Ok(url) if matches!(url.url().scheme(), "http" | "https") => {}
        Err(message) if message.contains("host") => reader.problem(section.at("url"), "host is missing in URL"),
        _ => reader.problem(section.at("url"), "URL scheme must be 'http' or 'https'"),
    }
}

fn check_scaleway(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(
        &[
            ("role", "role missing (one of: instance, baremetal)"),
            ("project_id", "project_id is mandatory"),
            ("access_key", "access_key is mandatory"),
        ],
        reader,
    );
    section.one_of("role", &["instance", "baremetal"], |role| format!("unknown role {role:?}"), reader);
    section.require_one_secret(reader);
}

fn check_stackit(section: &Section<'_>, reader: &mut Reader<'_>) {
    let endpoint = section.text("endpoint");
    if !endpoint.is_empty()
        && let Err(message) = HttpUrl::parse(endpoint)
    {
        reader.problem(section.at("endpoint"), format!("stackit_sd: invalid endpoint {endpoint:?}: {message}"));
    }
}

fn check_triton(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.one_of(
        "role",
        &["container", "cn"],
        |_| "triton SD configuration requires role to be 'container' or 'cn'".to_owned(),
        reader,
    );
    section.require(
        &[
            ("account", "triton SD configuration requires an account"),
            ("dns_suffix", "triton SD configuration requires a dns_suffix"),
            ("endpoint", "triton SD configuration requires an endpoint"),
        ],
        reader,
    );
}

fn check_uyuni(section: &Section<'_>, reader: &mut Reader<'_>) {
    section.require(
        &[
            ("server", "Uyuni SD configuration requires server host"),
            ("username", "Uyuni SD configuration requires a username"),
            ("password", "Uyuni SD configuration requires a password"),
        ],
        reader,
    );
}

/// The section for people: every value of a field that could be secret is masked.
pub(super) fn show(node: &Node, show: Show) -> Node {
    if show == Show::Content {
        return node.clone();
    }
    masked(node, false)
}

fn masked(node: &Node, secret: bool) -> Node {
    match &node.kind {
        Kind::Scalar { .. } if secret => String::from(MASK).show(Show::Masked),
        Kind::Map(entries) => Node::new(Kind::Map(
            entries.iter().map(|(key, value)| (key.clone(), masked(value, secret || is_secret(&key.text)))).collect(),
        )),
        Kind::List(elements) => Node::new(Kind::List(elements.iter().map(|element| masked(element, secret)).collect())),
        _ => node.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let words = ["password", "passphrase", "secret", "token", "key", "credentials", "authorization"];
    words.iter().any(|word| key.contains(word))
        && !key.ends_with("_file")
        && !key.ends_with("_path")
        && key != "access_key"
}
