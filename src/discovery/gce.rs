//! `gce_sd_configs`: instances of a zone of Google Compute Engine.
//!
//! Tokens come from Google's default credentials: a file that the environment names, the one of `gcloud`, or the
//! instance's own account.
//!
//! Source: prometheus `discovery/gce`; Compute Engine's API v1, `instances.list`; Google's AIP-4110.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use promesh_client::Request;
use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::GceSd;
use promesh_model::time::Clock;
use promesh_model::{Labels, Secret, Timestamp};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::api::{self, Api, Meta, PAGES_MAX, list, pairs, secret_header, segment, shown, text, texts};
use crate::refresh::Refresh;
use crate::signing::{RsaHash, web_token};
use crate::{DiscoveryError, TargetGroup};

const BASE: &str = "https://compute.googleapis.com/compute/v1";
const SCOPE: &str = "https://www.googleapis.com/auth/compute.readonly";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) struct Poller {
    config: GceSd,
    api: Api,
    base: String,
    clock: Arc<dyn Clock>,
    token: Option<(Secret, Timestamp)>,
    environment: fn(&str) -> Option<String>,
}

fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Poller {
    pub(crate) fn new(config: &GceSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        Poller::at(config, clock, BASE, of_process)
    }

    pub(crate) fn at(
        config: &GceSd,
        clock: Arc<dyn Clock>,
        base: &str,
        environment: fn(&str) -> Option<String>,
    ) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&HttpClientConfig::default(), config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, base: base.to_owned(), clock, token: None, environment })
    }

    async fn token(&mut self) -> Result<Secret, DiscoveryError> {
        let now = self.clock.now().wall;
        if let Some((token, until)) = &self.token
            && now < *until
        {
            return Ok(token.clone());
        }
        let answer = match self.credentials_file() {
            Some(path) => self.of_file(&path, now).await?,
            None => self.of_instance().await?,
        };
        let token = Secret::new(text(&answer, "access_token"));
        if token.is_empty() {
            return Err(DiscoveryError::Answer("Google answered without a token".to_owned()));
        }
        // A minute before it expires it is fetched anew.
        let lives = answer["expires_in"].as_u64().unwrap_or(300).saturating_sub(60);
        self.token = Some((token.clone(), now.after(Duration::from_secs(lives))));
        Ok(token)
    }

    fn credentials_file(&self) -> Option<PathBuf> {
        if let Some(given) = (self.environment)("GOOGLE_APPLICATION_CREDENTIALS") {
            return Some(PathBuf::from(given));
        }
        let home = PathBuf::from((self.environment)("HOME")?);
        Some(home.join(".config/gcloud/application_default_credentials.json")).filter(|path| path.exists())
    }

    async fn of_file(&self, path: &PathBuf, now: Timestamp) -> Result<Value, DiscoveryError> {
        let settings = |what: &dyn std::fmt::Display| DiscoveryError::Settings(format!("{}: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| settings(&error))?;
        let file: Value = serde_json::from_slice(&bytes).map_err(|_| settings(&"it is no JSON"))?;
        let url = Some(text(&file, "token_uri")).filter(|url| !url.is_empty()).unwrap_or_else(|| TOKEN_URL.to_owned());
        let form = match text(&file, "type").as_str() {
            "service_account" => {
                let issued = now.ms().div_euclid(1000);
                let claims = json!({
                    "iss": file["client_email"], "scope": SCOPE, "aud": url, "iat": issued, "exp": issued + 3600,
                });
                let token =
                    web_token(&text(&file, "private_key"), &text(&file, "private_key_id"), &claims, RsaHash::Sha256)?;
                vec![
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned()),
                    ("assertion", token.expose().to_owned()),
                ]
            }
            "authorized_user" => vec![
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", text(&file, "client_id")),
                ("client_secret", text(&file, "client_secret")),
                ("refresh_token", text(&file, "refresh_token")),
            ],
            other => return Err(settings(&format!("credentials of type {other:?} are not supported yet"))),
        };
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.api.json(Request::post(api::url(&url, "", &[])?, FORM, body)).await
    }

    async fn of_instance(&self) -> Result<Value, DiscoveryError> {
        let host = (self.environment)("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_owned());
        let path = "computeMetadata/v1/instance/service-accounts/default/token";
        let mut request = Request::get(api::url(&format!("http://{host}"), path, &[("scopes", SCOPE)])?);
        secret_header(&mut request, "metadata-flavor", "Google")?;
        self.api.json(request).await.map_err(|error| {
            DiscoveryError::Settings(format!(
                "no Google credentials: no file (GOOGLE_APPLICATION_CREDENTIALS), and the instance gives none: {error}"
            ))
        })
    }

    /// `None` for an instance without a network card.
    fn target(&self, instance: &Value) -> Option<Labels> {
        let cards = list(instance, "networkInterfaces");
        let first = cards.first()?;
        let mut meta = Meta::of("gce");
        meta.set("project", &self.config.project);
        meta.take(
            instance,
            &[
                ("zone", "zone"),
                ("instance_id", "id"),
                ("instance_name", "name"),
                ("instance_status", "status"),
                ("machine_type", "machineType"),
            ],
        );
        meta.take(first, &[("network", "network"), ("subnetwork", "subnetwork"), ("private_ip", "networkIP")]);
        meta.each("interface_ipv4_", cards.iter().map(|card| (text(card, "name"), text(card, "networkIP"))));
        meta.join("tags", &texts(instance, "tags.items"), &self.config.tag_separator);
        let metadata = list(instance, "metadata.items").iter().filter(|item| item["value"].is_string());
        meta.each("metadata_", metadata.map(|item| (text(item, "key"), text(item, "value"))));
        meta.each("label_", pairs(instance, "labels").map(|(name, value)| (name, shown(value))));
        if let Some(access) = list(first, "accessConfigs").first().filter(|access| access["type"] == "ONE_TO_ONE_NAT") {
            meta.set("public_ip", text(access, "natIP"));
        }
        Some(meta.address(format!("{}:{}", text(first, "networkIP"), self.config.port)).build())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let path = format!("projects/{}/zones/{}/instances", segment(&self.config.project), segment(&self.config.zone));
        let source = format!("GCE_{}_{}", self.config.project, self.config.zone);
        let (mut targets, mut page) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let query = [("filter", self.config.filter.as_str()), ("pageToken", &page)];
            let mut request = Request::get(api::url(&self.base, &path, &query)?);
            let token = self.token().await?;
            secret_header(&mut request, "authorization", &format!("Bearer {}", token.expose()))?;
            let answer = self.api.json(request).await?;
            targets.extend(list(&answer, "items").iter().filter_map(|instance| self.target(instance)));
            page = text(&answer, "nextPageToken");
            if page.is_empty() {
                return Ok(api::group(&source, targets));
            }
        }
        Err(DiscoveryError::Answer("the pages of instances do not end".to_owned()))
    }
}
