//! Discovery from the APIs of clouds. Fields, defaults and refusals are upstream's.
//!
//! Source: prometheus `discovery/*`, the `SDConfig` of each.

use std::time::Duration;

use promesh_model::Secret;

use super::polled;
use crate::http::{HttpClientConfig, HttpUrl, TlsConfig};
use crate::section;
use crate::yaml::{FilePath, Node, Reader};

section! {
    /// A condition on what is listed.
    pub struct Filter "filter" {
        /// What is looked at.
        pub name: String,
        /// One of which it must be.
        pub values: Vec<String>,
    }
}

polled! {
    /// Instances of Amazon EC2.
    pub struct Ec2Sd "ec2_sd_config" => check_ec2 {
        /// Another endpoint than the region's.
        pub endpoint: String,
        /// The region; that of the environment or the instance when empty.
        pub region: String,
        /// The key's id.
        pub access_key: String,
        /// The key.
        pub secret_key: Secret,
        /// A profile of the shared credentials file.
        pub profile: String,
        /// A role to assume.
        pub role_arn: String,
        /// Told when a role is assumed.
        pub external_id: String,
        /// Which instances.
        pub filters: Vec<Filter>,
    }
}

polled! {
    /// Instances of Amazon Lightsail.
    pub struct LightsailSd "lightsail_sd_config" {
        /// Another endpoint than the region's.
        pub endpoint: String,
        /// The region; that of the environment or the instance when empty.
        pub region: String,
        /// The key's id.
        pub access_key: String,
        /// The key.
        pub secret_key: Secret,
        /// A profile of the shared credentials file.
        pub profile: String,
        /// A role to assume.
        pub role_arn: String,
        /// Told when a role is assumed.
        pub external_id: String,
    }
}

section! {
    /// Instances of Google Compute Engine.
    pub struct GceSd "gce_sd_config" => check_gce {
        /// The project.
        pub project: String,
        /// The zone.
        pub zone: String,
        /// Which instances.
        pub filter: String,
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        /// The port of targets. Default 80.
        pub port: u16 = 80,
        /// What stands between tags. Default `,`.
        pub tag_separator: String = ",".to_owned(),
    }
}

section! {
    /// Virtual machines of Azure.
    pub struct AzureSd "azure_sd_config" => check_azure {
        /// Which of Azure's clouds. Default AzurePublicCloud.
        pub environment: String = "AzurePublicCloud".to_owned(),
        /// The port of targets. Default 80.
        pub port: u16 = 80,
        /// The subscription.
        pub subscription_id: String,
        /// The tenant.
        pub tenant_id: String,
        /// The client.
        pub client_id: String,
        /// Its secret.
        pub client_secret: Secret,
        /// How often. Default 5m.
        pub refresh_interval: Duration = Duration::from_secs(300),
        /// OAuth, ManagedIdentity, SDK or WorkloadIdentity. Default OAuth.
        pub authentication_method: String = "OAuth".to_owned(),
        /// The resource group; all when empty.
        pub resource_group: String,
        ; inline {
            /// How it is asked.
            pub http: HttpClientConfig,
        }
    }
}

section! {
    /// Instances, hypervisors or load balancers of OpenStack.
    pub struct OpenStackSd "openstack_sd_config" => check_openstack {
        /// Keystone; the environment says how when empty.
        pub identity_endpoint: String,
        /// The user's name.
        pub username: String,
        /// The user's id.
        pub userid: String,
        /// The user's password.
        pub password: Secret,
        /// The project's name.
        pub project_name: String,
        /// The project's id.
        pub project_id: String,
        /// The domain's name.
        pub domain_name: String,
        /// The domain's id.
        pub domain_id: String,
        /// An application credential's name.
        pub application_credential_name: String,
        /// Its id.
        pub application_credential_id: String,
        /// Its secret.
        pub application_credential_secret: Secret,
        /// instance, hypervisor or loadbalancer.
        pub role: String,
        /// The region.
        pub region: String,
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        /// The port of targets. Default 80.
        pub port: u16 = 80,
        /// Whether instances of all projects are listed.
        pub all_tenants: bool,
        /// TLS.
        pub tls_config: TlsConfig,
        /// Which endpoints of the catalogue: admin, internal or public. Default public.
        pub availability: String = "public".to_owned(),
    }
}

polled! {
    /// Servers of Hetzner.
    pub struct HetznerSd "hetzner_sd_config" => check_hetzner {
        /// robot or hcloud.
        pub role: String,
        /// Which servers, for hcloud.
        pub label_selector: String,
    }
}

polled! {
    /// Droplets or databases of DigitalOcean.
    pub struct DigitalOceanSd "digitalocean_sd_config" => check_digitalocean {
        /// droplets or databases. Default droplets.
        pub role: String = "droplets".to_owned(),
    }
}

polled! {
    /// Instances of Linode.
    pub struct LinodeSd "linode_sd_config" {
        /// What stands between tags. Default `,`.
        pub tag_separator: String = ",".to_owned(),
        /// The region; all when empty.
        pub region: String,
    }
}

polled! {
    /// Instances or bare metal of Scaleway.
    pub struct ScalewaySd "scaleway_sd_config" => check_scaleway {
        /// The project.
        pub project_id: String,
        /// The API. Default https://api.scaleway.com.
        pub api_url: String = "https://api.scaleway.com".to_owned(),
        /// The zone. Default fr-par-1.
        pub zone: String = "fr-par-1".to_owned(),
        /// The key's id.
        pub access_key: String,
        /// The key.
        pub secret_key: Secret,
        /// A file with the key.
        pub secret_key_file: FilePath,
        /// Which names.
        pub name_filter: String,
        /// Which tags.
        pub tags_filter: Vec<String>,
        /// instance or baremetal.
        pub role: String,
    }
}

polled! {
    /// Servers of a data centre of IONOS.
    pub struct IonosSd "ionos_sd_config" => check_ionos {
        /// The data centre.
        pub datacenter_id: String,
    }
}

section! {
    /// Servers of OVHcloud.
    pub struct OvhCloudSd "ovhcloud_sd_config" => check_ovhcloud {
        /// Which of OVHcloud's APIs, or its URL. Default ovh-eu.
        pub endpoint: String = "ovh-eu".to_owned(),
        /// The application.
        pub application_key: String,
        /// Its secret.
        pub application_secret: Secret,
        /// Who uses it.
        pub consumer_key: Secret,
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        /// vps or dedicated_server.
        pub service: String,
    }
}

polled! {
    /// Instances of Vultr.
    pub struct VultrSd "vultr_sd_config" {}
}

polled! {
    /// Servers of STACKIT.
    pub struct StackitSd "stackit_sd_config" => check_stackit {
        /// The project.
        pub project: String,
        /// The region. Default eu01.
        pub region: String = "eu01".to_owned(),
        /// Another endpoint than the region's.
        pub endpoint: String,
        /// The key of a service account.
        pub service_account_key: Secret,
        /// Its private key, when it is not in it.
        pub private_key: Secret,
        /// A file with the key of a service account.
        pub service_account_key_path: String,
        /// A file with its private key.
        pub private_key_path: String,
        /// A file that says where both are.
        pub credentials_file_path: String,
    }
}

polled! {
    /// Virtual machines of Outscale.
    pub struct OutscaleSd "outscale_sd_config" => check_outscale {
        /// Another endpoint than the region's.
        pub endpoint: String,
        /// The region. Default eu-west-2.
        pub region: String = "eu-west-2".to_owned(),
        /// The key's id.
        pub access_key: String,
        /// The key.
        pub secret_key: Secret,
        /// A file with the key.
        pub secret_key_file: FilePath,
    }
}

section! {
    /// Containers or compute nodes of Triton.
    pub struct TritonSd "triton_sd_config" => check_triton {
        /// The account.
        pub account: String,
        /// container or cn. Default container.
        pub role: String = "container".to_owned(),
        /// Ends the names of targets.
        pub dns_suffix: String,
        /// The discovery's host.
        pub endpoint: String,
        /// Which groups; all when empty.
        pub groups: Vec<String>,
        /// The port of the discovery and of targets. Default 9163.
        pub port: u16 = 9163,
        /// How often. Default 1m.
        pub refresh_interval: Duration = Duration::from_secs(60),
        /// TLS.
        pub tls_config: TlsConfig,
        /// The version of its API. Default 1.
        pub version: u64 = 1,
    }
}

/// Says of each empty field what upstream says.
pub(super) fn require(fields: &[(&str, &str)], node: &Node, reader: &mut Reader<'_>) {
    for (value, message) in fields {
        if value.is_empty() {
            reader.problem(node.at, *message);
        }
    }
}

/// A field must be one of these, when it says anything.
pub(super) fn one_of(field: (&str, &str), allowed: &[&str], message: String, node: &Node, reader: &mut Reader<'_>) {
    let (key, value) = field;
    if !value.is_empty() && !allowed.contains(&value) {
        reader.problem(node.at_key(key), message);
    }
}

/// One of two ways to give a secret.
fn require_one_secret(secret: &Secret, file: &FilePath, node: &Node, reader: &mut Reader<'_>) {
    match (secret.is_empty(), file.is_empty()) {
        (true, true) => reader.problem(node.at, "one of secret_key & secret_key_file must be configured"),
        (false, false) => {
            let at = node.at_key("secret_key_file");
            reader.problem(at, "at most one of secret_key & secret_key_file must be configured");
        }
        _ => {}
    }
}

fn check_ec2(ec2: &mut Ec2Sd, node: &Node, reader: &mut Reader<'_>) {
    for (filter, node) in ec2.filters.iter().zip(node.get("filters").map_or(&[][..], Node::elements)) {
        if filter.values.is_empty() {
            reader.problem(node.at, "EC2 SD configuration filter values cannot be empty");
        }
    }
}

fn check_gce(gce: &mut GceSd, node: &Node, reader: &mut Reader<'_>) {
    let fields = [
        (gce.project.as_str(), "GCE SD configuration requires a project"),
        (gce.zone.as_str(), "GCE SD configuration requires a zone"),
    ];
    require(&fields, node, reader);
}

fn check_azure(azure: &mut AzureSd, node: &Node, reader: &mut Reader<'_>) {
    let methods = ["OAuth", "ManagedIdentity", "SDK", "WorkloadIdentity"];
    let method = azure.authentication_method.as_str();
    let message = format!(
        "unknown authentication_type {method:?}. Supported types are \"OAuth\", \"ManagedIdentity\", \"SDK\" or \"WorkloadIdentity\""
    );
    one_of(("authentication_method", method), &methods, message, node, reader);
    require(&[(&azure.subscription_id, "azure SD configuration requires a subscription_id")], node, reader);
    if method == "OAuth" {
        let fields = [
            (azure.tenant_id.as_str(), "azure SD configuration requires a tenant_id"),
            (azure.client_id.as_str(), "azure SD configuration requires a client_id"),
            (azure.client_secret.expose(), "azure SD configuration requires a client_secret"),
        ];
        require(&fields, node, reader);
    }
}

fn check_openstack(openstack: &mut OpenStackSd, node: &Node, reader: &mut Reader<'_>) {
    let (role, availability) = (openstack.role.as_str(), openstack.availability.as_str());
    let message = format!("unknown OpenStack SD role {role:?}");
    one_of(("role", role), &["instance", "hypervisor", "loadbalancer"], message, node, reader);
    let message = format!("unknown availability {availability}, must be one of admin, internal or public");
    one_of(("availability", availability), &["admin", "internal", "public"], message, node, reader);
    let fields = [
        (role, "role missing (one of: instance, hypervisor, loadbalancer)"),
        (openstack.region.as_str(), "openstack SD configuration requires a region"),
    ];
    require(&fields, node, reader);
}

fn check_hetzner(hetzner: &mut HetznerSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(&hetzner.role, "role missing (one of: robot, hcloud)")], node, reader);
    let message = format!("unknown role {:?}", hetzner.role);
    one_of(("role", &hetzner.role), &["robot", "hcloud"], message, node, reader);
}

fn check_digitalocean(digitalocean: &mut DigitalOceanSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(&digitalocean.role, "role missing (one of: droplets, databases)")], node, reader);
    let message = format!("unknown DigitalOcean SD role {:?}", digitalocean.role);
    one_of(("role", &digitalocean.role), &["droplets", "databases"], message, node, reader);
}

fn check_scaleway(scaleway: &mut ScalewaySd, node: &Node, reader: &mut Reader<'_>) {
    let fields = [
        (scaleway.role.as_str(), "role missing (one of: instance, baremetal)"),
        (scaleway.project_id.as_str(), "project_id is mandatory"),
        (scaleway.access_key.as_str(), "access_key is mandatory"),
    ];
    require(&fields, node, reader);
    let message = format!("unknown role {:?}", scaleway.role);
    one_of(("role", &scaleway.role), &["instance", "baremetal"], message, node, reader);
    require_one_secret(&scaleway.secret_key, &scaleway.secret_key_file, node, reader);
    check_url("api_url", &scaleway.api_url, "", node, reader);
}

fn check_ionos(ionos: &mut IonosSd, node: &Node, reader: &mut Reader<'_>) {
    require(&[(&ionos.datacenter_id, "datacenter id can't be empty")], node, reader);
}

fn check_ovhcloud(ovhcloud: &mut OvhCloudSd, node: &Node, reader: &mut Reader<'_>) {
    let fields = [
        (ovhcloud.endpoint.as_str(), "endpoint can not be empty"),
        (ovhcloud.application_key.as_str(), "application key can not be empty"),
        (ovhcloud.application_secret.expose(), "application secret can not be empty"),
        (ovhcloud.consumer_key.expose(), "consumer key can not be empty"),
    ];
    require(&fields, node, reader);
    if !matches!(ovhcloud.service.as_str(), "vps" | "dedicated_server") {
        reader.problem(node.at_key("service"), format!("unknown service: {}", ovhcloud.service));
    }
}

fn check_stackit(stackit: &mut StackitSd, node: &Node, reader: &mut Reader<'_>) {
    if stackit.endpoint.is_empty() && stackit.region.is_empty() {
        reader.problem(node.at, "stackit_sd: endpoint and region missing");
    }
    let prefix = format!("stackit_sd: invalid endpoint {:?}: ", stackit.endpoint);
    check_url("endpoint", &stackit.endpoint, &prefix, node, reader);
}

/// A URL, when there is one.
pub(super) fn check_url(key: &str, url: &str, prefix: &str, node: &Node, reader: &mut Reader<'_>) {
    if !url.is_empty()
        && let Err(message) = HttpUrl::parse(url)
    {
        reader.problem(node.at_key(key), format!("{prefix}{message}"));
    }
}

fn check_outscale(outscale: &mut OutscaleSd, node: &Node, reader: &mut Reader<'_>) {
    let fields = [
        (outscale.region.as_str(), "outscale SD configuration requires a region"),
        (outscale.access_key.as_str(), "outscale SD configuration requires access_key"),
    ];
    require(&fields, node, reader);
    require_one_secret(&outscale.secret_key, &outscale.secret_key_file, node, reader);
}

fn check_triton(triton: &mut TritonSd, node: &Node, reader: &mut Reader<'_>) {
    if !matches!(triton.role.as_str(), "container" | "cn") {
        reader.problem(node.at_key("role"), "triton SD configuration requires role to be 'container' or 'cn'");
    }
    let fields = [
        (triton.account.as_str(), "triton SD configuration requires an account"),
        (triton.dns_suffix.as_str(), "triton SD configuration requires a dns_suffix"),
        (triton.endpoint.as_str(), "triton SD configuration requires an endpoint"),
    ];
    require(&fields, node, reader);
    if triton.refresh_interval.is_zero() {
        let message = "triton SD configuration requires RefreshInterval to be a positive integer";
        reader.problem(node.at_key("refresh_interval"), message);
    }
}
