//! `azure_sd_configs`: virtual machines of a subscription of Azure, those of scale sets among them.
//!
//! Source: prometheus `discovery/azure`; Azure's resource manager API; Microsoft's identity platform, client
//! credentials and managed identities.

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use promesh_client::Request;
use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::AzureSd;
use promesh_model::time::Clock;
use promesh_model::{Labels, Secret, Timestamp};
use serde_json::Value;
use tracing::warn;
use url::{Url, form_urlencoded};

use crate::api::{self, Api, Meta, PAGES_MAX, host_port, list, pairs, secret_header, segment, shown, text};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const COMPUTE: &str = "2024-07-01";
const NETWORK: &str = "2024-05-01";
/// Network cards of scale sets have an API of their own.
const SCALE_SET_NETWORK: &str = "2018-10-01";
const IDENTITY: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
const FORM: &str = "application/x-www-form-urlencoded";

/// One of Azure's clouds: its resource manager and its authority.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) manager: String,
    pub(crate) authority: String,
}

impl Cloud {
    fn named(name: &str) -> Result<Cloud, DiscoveryError> {
        let (manager, authority) = match name.to_ascii_uppercase().as_str() {
            "AZUREPUBLICCLOUD" | "AZURECLOUD" | "AZUREGERMANCLOUD" => {
                ("management.azure.com", "login.microsoftonline.com")
            }
            "AZURECHINACLOUD" => ("management.chinacloudapi.cn", "login.chinacloudapi.cn"),
            "AZUREUSGOVERNMENT" | "AZUREUSGOVERNMENTCLOUD" => {
                ("management.usgovcloudapi.net", "login.microsoftonline.us")
            }
            _ => {
                let message = format!("there is no cloud configuration matching the name {name:?}");
                return Err(DiscoveryError::Settings(message));
            }
        };
        Ok(Cloud { manager: format!("https://{manager}"), authority: format!("https://{authority}") })
    }
}

pub(crate) struct Poller {
    config: AzureSd,
    cloud: Cloud,
    api: Api,
    /// For the machine's own identity, which no proxy reaches.
    local: Api,
    clock: Arc<dyn Clock>,
    token: Option<(Secret, Timestamp)>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Poller {
    pub(crate) fn new(config: &AzureSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        Poller::at(config, clock, Cloud::named(&config.environment)?)
    }

    pub(crate) fn at(config: &AzureSd, clock: Arc<dyn Clock>, cloud: Cloud) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        let local = Api::new(&HttpClientConfig::default(), Duration::from_secs(10))?;
        Ok(Poller { config: config.clone(), cloud, api, local, clock, token: None })
    }

    async fn token(&mut self) -> Result<Secret, DiscoveryError> {
        let now = self.clock.now().wall;
        if let Some((token, until)) = &self.token
            && now < *until
        {
            return Ok(token.clone());
        }
        let answer = match self.config.authentication_method.as_str() {
            "OAuth" => {
                let secret = self.config.client_secret.expose().to_owned();
                let (tenant, client) = (self.config.tenant_id.clone(), self.config.client_id.clone());
                self.by_form(&tenant, &client, &[("client_secret", secret)]).await?
            }
            "WorkloadIdentity" => self.by_workload().await?,
            "ManagedIdentity" => self.by_machine().await?,
            _ => self.by_whatever_is_there().await?,
        };
        let token = Secret::new(text(&answer, "access_token"));
        if token.is_empty() {
            return Err(DiscoveryError::Answer("Azure answered without a token".to_owned()));
        }
        // A text from machines, a number from others.
        let lives: u64 = text(&answer, "expires_in").parse().unwrap_or(300);
        self.token = Some((token.clone(), now.after(Duration::from_secs(lives.saturating_sub(60)))));
        Ok(token)
    }

    /// The order of Azure's own libraries: the environment, a workload's identity, the machine's.
    async fn by_whatever_is_there(&self) -> Result<Value, DiscoveryError> {
        let own = Some(self.config.tenant_id.clone()).filter(|tenant| !tenant.is_empty());
        let parts = (variable("AZURE_TENANT_ID").or(own), variable("AZURE_CLIENT_ID"), variable("AZURE_CLIENT_SECRET"));
        if let (Some(tenant), Some(client), Some(secret)) = parts {
            return self.by_form(&tenant, &client, &[("client_secret", secret)]).await;
        }
        if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
            return self.by_workload().await;
        }
        self.by_machine().await
    }

    async fn by_workload(&self) -> Result<Value, DiscoveryError> {
        let needed = |name: &str| {
            variable(name).ok_or_else(|| DiscoveryError::Settings(format!("no workload identity: {name} is not set")))
        };
        let file = needed("AZURE_FEDERATED_TOKEN_FILE")?;
        let assertion = std::fs::read_to_string(&file)
            .map_err(|error| DiscoveryError::Settings(format!("unable to read file {file}: {error}")))?;
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
        let form = [("client_assertion_type", kind), ("client_assertion", assertion.trim().to_owned())];
        self.by_form(&needed("AZURE_TENANT_ID")?, &needed("AZURE_CLIENT_ID")?, &form).await
    }

    async fn by_form(&self, tenant: &str, client: &str, form: &[(&str, String)]) -> Result<Value, DiscoveryError> {
        let path = format!("{}/oauth2/v2.0/token", segment(tenant));
        let scope = format!("{}/.default", self.cloud.manager);
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "client_credentials"), ("client_id", client), ("scope", &scope)])
            .extend_pairs(form)
            .finish();
        self.api.json(Request::post(api::url(&self.cloud.authority, &path, &[])?, FORM, body)).await
    }

    async fn by_machine(&self) -> Result<Value, DiscoveryError> {
        let resource = format!("{}/", self.cloud.manager);
        let query =
            [("api-version", "2018-02-01"), ("resource", &resource), ("client_id", self.config.client_id.as_str())];
        let mut url = Url::parse(IDENTITY).expect("a constant URL");
        url.query_pairs_mut().extend_pairs(query.iter().filter(|(_, value)| !value.is_empty()));
        let mut request = Request::get(url);
        secret_header(&mut request, "metadata", "true")?;
        self.local.json(request).await
    }

    async fn ask(&mut self, url: Url) -> Result<Option<Value>, DiscoveryError> {
        let mut request = Request::get(url.clone());
        let token = self.token().await?;
        secret_header(&mut request, "authorization", &format!("Bearer {}", token.expose()))?;
        let (status, _, body) = self.api.exchange(request).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| DiscoveryError::Answer(format!("{}: {error}", url.path()))),
            status => Err(DiscoveryError::Answer(format!("{}: server returned HTTP status {status}", url.path()))),
        }
    }

    /// All pages of a list.
    async fn pages(&mut self, path: &str) -> Result<Vec<Value>, DiscoveryError> {
        let first = api::url(&self.cloud.manager, path, &[("api-version", COMPUTE)])?;
        let (mut url, mut all) = (first.clone(), Vec::new());
        for _ in 0..PAGES_MAX {
            let missing = || DiscoveryError::Answer(format!("{path}: it does not exist"));
            let answer = self.ask(url).await?.ok_or_else(missing)?;
            all.extend_from_slice(list(&answer, "value"));
            let next = text(&answer, "nextLink");
            if next.is_empty() {
                return Ok(all);
            }
            url = Url::parse(&next).map_err(|error| DiscoveryError::Answer(format!("nextLink: {error}")))?;
            // The token goes where it was meant for and nowhere else.
            if url.origin() != first.origin() {
                return Err(DiscoveryError::Answer(format!("{path}: nextLink leads to another host")));
            }
        }
        Err(DiscoveryError::Answer(format!("{path}: the pages do not end")))
    }

    fn below(&self, group: &str, what: &str) -> String {
        let subscription = segment(&self.config.subscription_id);
        let group = if group.is_empty() { String::new() } else { format!("/resourceGroups/{}", segment(group)) };
        format!("subscriptions/{subscription}{group}/providers/Microsoft.Compute/{what}")
    }

    /// `None` for a machine that is not allocated, or whose card is gone.
    async fn target(&mut self, vm: &Value, scale_set: &str) -> Result<Option<Labels>, DiscoveryError> {
        let mut meta = Meta::of("azure");
        meta.set("subscription_id", &self.config.subscription_id).set("tenant_id", &self.config.tenant_id);
        meta.take(
            vm,
            &[
                ("machine_id", "id"),
                ("machine_name", "name"),
                ("machine_computer_name", "properties.osProfile.computerName"),
                ("machine_os_type", "properties.storageProfile.osDisk.osType"),
                ("machine_location", "location"),
                ("machine_size", "properties.hardwareProfile.vmSize"),
            ],
        );
        meta.set("machine_resource_group", resource_group(&text(vm, "id"))?).set("machine_scale_set", scale_set);
        meta.each("machine_tag_", pairs(vm, "tags").map(|(name, value)| (name, shown(value))));
        for card in list(vm, "properties.networkProfile.networkInterfaces") {
            let id = text(card, "id");
            let version = if scale_set.is_empty() { NETWORK } else { SCALE_SET_NETWORK };
            let query = [("api-version", version), ("$expand", "IPConfigurations/PublicIPAddress")];
            let url = api::url(&self.cloud.manager, &id, &query)?;
            let Some(card) = self.ask(url).await? else {
                warn!(card = id, "a machine's network interface does not exist");
                return Ok(None);
            };
            match card["properties"]["primary"].as_bool() {
                // Machines that are not allocated have cards that do not say.
                None if card["properties"].is_object() => return Ok(None),
                None | Some(false) => continue,
                Some(true) => {}
            }
            let Some(ip) = list(&card, "properties.ipConfigurations").first() else { continue };
            meta.set("machine_public_ip", text(ip, "properties.publicIPAddress.properties.ipAddress"));
            let private = text(ip, "properties.privateIPAddress");
            if private.is_empty() {
                let name = text(vm, "name");
                return Err(DiscoveryError::Answer(format!("unable to find a private IP for VM {name}")));
            }
            meta.set("machine_private_ip", &private);
            return Ok(Some(meta.address(host_port(&private, self.config.port)).build()));
        }
        Ok(None)
    }
}

/// The resource group of an id: `/subscriptions/…/resourceGroups/NAME/…`.
fn resource_group(id: &str) -> Result<String, DiscoveryError> {
    let mut parts = id.split('/').skip_while(|part| !part.eq_ignore_ascii_case("resourceGroups"));
    parts.nth(1).map(str::to_owned).ok_or_else(|| DiscoveryError::Answer(format!("invalid ID '{id}'")))
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let group = self.config.resource_group.clone();
        let machines = self.pages(&self.below(&group, "virtualMachines")).await?;
        let mut machines: Vec<(Value, String)> = machines.into_iter().map(|vm| (vm, String::new())).collect();
        for set in self.pages(&self.below(&group, "virtualMachineScaleSets")).await? {
            let (name, group) = (text(&set, "name"), resource_group(&text(&set, "id"))?);
            let what = format!("virtualMachineScaleSets/{}/virtualMachines", segment(&name));
            let path = self.below(&group, &what);
            machines.extend(self.pages(&path).await?.into_iter().map(|vm| (vm, name.clone())));
        }
        let mut targets = Vec::new();
        for (vm, scale_set) in &machines {
            targets.extend(self.target(vm, scale_set).await?);
        }
        Ok(api::group("", targets))
    }
}
