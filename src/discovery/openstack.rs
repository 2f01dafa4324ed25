//! `openstack_sd_configs`: instances, hypervisors or load balancers of OpenStack.
//!
//! Source: prometheus `discovery/openstack`; OpenStack's identity v3, compute, networking and load balancer v2 APIs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_client::Request;
use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::OpenStackSd;
use promesh_model::Labels;
use serde_json::{Value, json};
use url::Url;

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, pairs, secret_header, shown, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

pub(crate) struct Poller {
    config: OpenStackSd,
    api: Api,
}

/// A token and where its services are.
struct Session {
    token: String,
    catalog: Value,
}

impl Poller {
    pub(crate) fn new(config: &OpenStackSd) -> Result<Poller, DiscoveryError> {
        let mut config = config.clone();
        if config.identity_endpoint.is_empty() {
            from_environment(&mut config)?;
        }
        let http = HttpClientConfig { tls_config: config.tls_config.clone(), ..HttpClientConfig::default() };
        Ok(Poller { api: Api::new(&http, config.refresh_interval)?, config })
    }

    async fn log_in(&self) -> Result<Session, DiscoveryError> {
        let base = self.config.identity_endpoint.trim_end_matches('/');
        let base = if base.ends_with("/v3") { base.to_owned() } else { format!("{base}/v3") };
        let body = json!({"auth": authentication(&self.config)}).to_string();
        let request = Request::post(api::url(&base, "auth/tokens", &[])?, "application/json", body);
        let (headers, body) = self
            .api
            .send(request)
            .await
            .map_err(|error| DiscoveryError::Answer(format!("could not authenticate to OpenStack: {error}")))?;
        let token = headers.get("x-subject-token").and_then(|token| token.to_str().ok());
        let token = token.ok_or_else(|| DiscoveryError::Answer("OpenStack answered without a token".to_owned()))?;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| DiscoveryError::Answer(error.to_string()))?;
        Ok(Session { token: token.to_owned(), catalog: answer["token"]["catalog"].clone() })
    }

    /// A service's address of the wanted region and availability.
    fn endpoint(&self, session: &Session, kinds: &[&str]) -> Result<String, DiscoveryError> {
        let services = session.catalog.as_array().into_iter().flatten();
        let endpoints = services.filter(|service| kinds.contains(&text(service, "type").as_str()));
        let wanted = |endpoint: &&Value| {
            let region = [text(endpoint, "region_id"), text(endpoint, "region")];
            region.contains(&self.config.region) && text(endpoint, "interface") == self.config.availability
        };
        let found = endpoints.flat_map(|service| list(service, "endpoints")).find(wanted);
        let missing = || {
            let (region, kind) = (&self.config.region, kinds[0]);
            DiscoveryError::Answer(format!(
                "the catalogue has no {} endpoint of {kind} in {region}",
                self.config.availability
            ))
        };
        found.map(|endpoint| text(endpoint, "url")).ok_or_else(missing)
    }

    /// The network and load balancer APIs lie below their version, which the catalogue may name or not.
    fn versioned(&self, session: &Session, kinds: &[&str]) -> Result<String, DiscoveryError> {
        let endpoint = self.endpoint(session, kinds)?;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(if endpoint.ends_with("/v2.0") { endpoint } else { format!("{endpoint}/v2.0") })
    }

    /// All pages of a list.
    async fn pages(
        &self,
        session: &Session,
        base: &str,
        path: &str,
        query: &[(&str, &str)],
        what: &str,
    ) -> Result<Vec<Value>, DiscoveryError> {
        let first = api::url(base, path, query)?;
        let (mut url, mut all) = (first.clone(), Vec::new());
        for _ in 0..PAGES_MAX {
            let mut request = Request::get(url.clone());
            secret_header(&mut request, "x-auth-token", &session.token)?;
            let answer = self.api.json(request).await?;
            all.extend_from_slice(list(&answer, what));
            let links = list(&answer, &format!("{what}_links"));
            let Some(next) = links.iter().find(|link| link["rel"] == "next").map(|link| text(link, "href")) else {
                return Ok(all);
            };
            let next = Url::parse(&next).map_err(|error| DiscoveryError::Answer(format!("{path}: {error}")))?;
            // Behind a proxy the link names the inner host: what is asked for next is in its query.
            url.set_query(next.query());
        }
        Err(DiscoveryError::Answer(format!("{path}: the pages do not end")))
    }

    async fn hypervisors(&self, session: &Session) -> Result<Vec<Labels>, DiscoveryError> {
        let base = self.endpoint(session, &["compute"])?;
        let found = self.pages(session, &base, "os-hypervisors/detail", &[], "hypervisors").await?;
        let target = |hypervisor: &Value| {
            let mut meta = Meta::of("openstack_hypervisor");
            meta.take(
                hypervisor,
                &[
                    ("id", "id"),
                    ("hostname", "hypervisor_hostname"),
                    ("host_ip", "host_ip"),
                    ("status", "status"),
                    ("state", "state"),
                    ("type", "hypervisor_type"),
                ],
            );
            meta.address(host_port(&text(hypervisor, "host_ip"), self.config.port)).build()
        };
        Ok(found.iter().map(target).collect())
    }

    async fn instances(&self, session: &Session) -> Result<Vec<Labels>, DiscoveryError> {
        let network = self.versioned(session, &["network"])?;
        let ports = self.pages(session, &network, "ports", &[], "ports").await?;
        let devices: BTreeMap<String, String> =
            ports.iter().map(|port| (text(port, "id"), text(port, "device_id"))).collect();
        let (mut floating, mut floating_present) = (BTreeMap::new(), BTreeSet::new());
        for ip in self.pages(session, &network, "floatingips", &[], "floatingips").await? {
            let fixed = text(&ip, "fixed_ip_address");
            let Some(device) = devices.get(&text(&ip, "port_id")).filter(|_| !fixed.is_empty()) else { continue };
            let address = text(&ip, "floating_ip_address");
            floating_present.insert(address.clone());
            floating.insert((device.clone(), fixed), address);
        }
        let base = self.endpoint(session, &["compute"])?;
        let query: &[_] = if self.config.all_tenants { &[("all_tenants", "true")] } else { &[] };
        let mut targets = Vec::new();
        for server in self.pages(session, &base, "servers/detail", query, "servers").await? {
            let mut common = Meta::of("openstack");
            common.take(
                &server,
                &[
                    ("instance_id", "id"),
                    ("instance_status", "status"),
                    ("instance_name", "name"),
                    ("project_id", "tenant_id"),
                    ("user_id", "user_id"),
                    ("instance_image", "image.id"),
                ],
            );
            // The name came with microversion 2.47, instead of the id.
            let flavours = [text(&server, "flavor.original_name"), text(&server, "flavor.id")];
            let Some(flavour) = flavours.iter().find(|flavour| !flavour.is_empty()) else { continue };
            common.set("instance_flavor", flavour);
            common.each("tag_", pairs(&server, "metadata").map(|(name, value)| (name, shown(value))));
            for (pool, addresses) in pairs(&server, "addresses") {
                for address in addresses.as_array().into_iter().flatten().map(|address| text(address, "addr")) {
                    if address.is_empty() || floating_present.contains(&address) {
                        continue;
                    }
                    let mut meta = common.clone();
                    meta.set("address_pool", pool).set("private_ip", &address);
                    if let Some(public) = floating.get(&(text(&server, "id"), address.clone())) {
                        meta.set("public_ip", public);
                    }
                    targets.push(meta.address(host_port(&address, self.config.port)).build());
                }
            }
        }
        Ok(targets)
    }

    async fn load_balancers(&self, session: &Session) -> Result<Vec<Labels>, DiscoveryError> {
        let base = self.versioned(session, &["load-balancer"])?;
        let network = self.versioned(session, &["network"])?;
        let balancers = self.pages(session, &base, "lbaas/loadbalancers", &[], "loadbalancers").await?;
        let listeners = self.pages(session, &base, "lbaas/listeners", &[], "listeners").await?;
        let floating = self.pages(session, &network, "floatingips", &[], "floatingips").await?;
        let target = |balancer: &Value| {
            let of_balancer =
                |listener: &&Value| list(listener, "loadbalancers").iter().any(|one| one["id"] == balancer["id"]);
            let mut own = listeners.iter().filter(of_balancer);
            let listener = own.find(|listener| listener["protocol"] == "PROMETHEUS")?;
            let mut meta = Meta::of("openstack");
            meta.take(
                balancer,
                &[
                    ("loadbalancer_id", "id"),
                    ("loadbalancer_name", "name"),
                    ("loadbalancer_operating_status", "operating_status"),
                    ("loadbalancer_provisioning_status", "provisioning_status"),
                    ("loadbalancer_availability_zone", "availability_zone"),
                    ("loadbalancer_vip", "vip_address"),
                    ("loadbalancer_provider", "provider"),
                    ("project_id", "project_id"),
                ],
            );
            meta.set("loadbalancer_tags", texts(balancer, "tags").join(","));
            let port = text(balancer, "vip_port_id");
            if let Some(ip) = floating.iter().find(|ip| !port.is_empty() && text(ip, "port_id") == port) {
                meta.set("loadbalancer_floating_ip", text(ip, "floating_ip_address"));
            }
            Some(meta.address(host_port(&text(balancer, "vip_address"), text(listener, "protocol_port"))).build())
        };
        Ok(balancers.iter().filter_map(target).collect())
    }
}

/// What is shown to Keystone.
fn authentication(config: &OpenStackSd) -> Value {
    let domain = |id: &str, name: &str| match (id, name) {
        ("", "") => Value::Null,
        ("", name) => json!({"name": name}),
        (id, _) => json!({"id": id}),
    };
    let own_domain = domain(&config.domain_id, &config.domain_name);
    let user = |password: bool| {
        let mut user = json!({});
        if config.userid.is_empty() {
            user["name"] = config.username.as_str().into();
            if !own_domain.is_null() {
                user["domain"] = own_domain.clone();
            }
        } else {
            user["id"] = config.userid.as_str().into();
        }
        if password {
            user["password"] = config.password.expose().into();
        }
        user
    };
    if !config.application_credential_secret.is_empty() {
        let mut credential = json!({"secret": config.application_credential_secret.expose()});
        if config.application_credential_id.is_empty() {
            credential["name"] = config.application_credential_name.as_str().into();
            credential["user"] = user(false);
        } else {
            credential["id"] = config.application_credential_id.as_str().into();
        }
        return json!({"identity": {"methods": ["application_credential"], "application_credential": credential}});
    }
    let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user(true)}}});
    if !config.project_id.is_empty() {
        auth["scope"] = json!({"project": {"id": config.project_id}});
    } else if !config.project_name.is_empty() {
        auth["scope"] = json!({"project": {"name": config.project_name, "domain": own_domain}});
    }
    auth
}

/// Without an endpoint the environment says everything, as OpenStack's own tools have it.
fn from_environment(config: &mut OpenStackSd) -> Result<(), DiscoveryError> {
    let variable = |names: &[&str]| {
        names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty())).unwrap_or_default()
    };
    config.identity_endpoint = variable(&["OS_AUTH_URL"]);
    if config.identity_endpoint.is_empty() {
        return Err(DiscoveryError::Settings("neither identity_endpoint nor OS_AUTH_URL is set".to_owned()));
    }
    config.username = variable(&["OS_USERNAME"]);
    config.userid = variable(&["OS_USERID", "OS_USER_ID"]);
    config.password = promesh_model::Secret::new(variable(&["OS_PASSWORD"]));
    config.project_id = variable(&["OS_PROJECT_ID", "OS_TENANT_ID"]);
    config.project_name = variable(&["OS_PROJECT_NAME", "OS_TENANT_NAME"]);
    config.domain_id = variable(&["OS_DOMAIN_ID", "OS_USER_DOMAIN_ID"]);
    config.domain_name = variable(&["OS_DOMAIN_NAME", "OS_USER_DOMAIN_NAME"]);
    config.application_credential_id = variable(&["OS_APPLICATION_CREDENTIAL_ID"]);
    config.application_credential_name = variable(&["OS_APPLICATION_CREDENTIAL_NAME"]);
    config.application_credential_secret = promesh_model::Secret::new(variable(&["OS_APPLICATION_CREDENTIAL_SECRET"]));
    Ok(())
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let session = self.log_in().await?;
        let targets = match self.config.role.as_str() {
            "hypervisor" => self.hypervisors(&session).await?,
            "loadbalancer" => self.load_balancers(&session).await?,
            _ => self.instances(&session).await?,
        };
        Ok(api::group(&format!("OS_{}", self.config.region), targets))
    }
}
