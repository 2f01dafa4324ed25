//! `stackit_sd_configs`: servers of a project of STACKIT.
//!
//! Source: prometheus `discovery/stackit`; STACKIT's IaaS API v1 and its service accounts' key flow.

use std::sync::Arc;
use std::time::Duration;

use promesh_client::Request;
use promesh_config::prometheus::StackitSd;
use promesh_model::time::Clock;
use promesh_model::{Labels, Secret, Timestamp};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::api::{self, Api, Meta, host_port, list, pairs, secret_header, segment, text};
use crate::refresh::Refresh;
use crate::signing::{RsaHash, web_token};
use crate::{DiscoveryError, TargetGroup};

const TOKEN_URL: &str = "https://service-account.api.stackit.cloud/token";
const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) struct Poller {
    config: StackitSd,
    api: Api,
    token_url: String,
    clock: Arc<dyn Clock>,
    token: Option<(Secret, Timestamp)>,
}

impl Poller {
    pub(crate) fn new(config: &StackitSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        Poller::at(config, clock, TOKEN_URL)
    }

    pub(crate) fn at(config: &StackitSd, clock: Arc<dyn Clock>, token_url: &str) -> Result<Poller, DiscoveryError> {
        let api = Api::new(&config.http, config.refresh_interval)?;
        Ok(Poller { config: config.clone(), api, token_url: token_url.to_owned(), clock, token: None })
    }

    /// The service account's key and private key, as given or in files; `None` without one.
    fn keys(&self) -> Result<Option<(Value, String)>, DiscoveryError> {
        let config = &self.config;
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map_err(|error| DiscoveryError::Settings(format!("unable to read file {path}: {error}")))
        };
        let from = |given: &Secret, path: &str| -> Result<String, DiscoveryError> {
            match (given.expose(), path) {
                ("", "") => Ok(String::new()),
                ("", path) => read(path),
                (given, _) => Ok(given.to_owned()),
            }
        };
        let mut key = from(&config.service_account_key, &config.service_account_key_path)?;
        let mut private = from(&config.private_key, &config.private_key_path)?;
        if key.is_empty() && !config.credentials_file_path.is_empty() {
            let file: Value = serde_json::from_str(&read(&config.credentials_file_path)?)
                .map_err(|_| DiscoveryError::Settings(format!("{}: it is no JSON", config.credentials_file_path)))?;
            let path = |name: &str| text(&file, name);
            key = from(&Secret::new(path("STACKIT_SERVICE_ACCOUNT_KEY")), &path("STACKIT_SERVICE_ACCOUNT_KEY_PATH"))?;
            private = from(&Secret::new(path("STACKIT_PRIVATE_KEY")), &path("STACKIT_PRIVATE_KEY_PATH"))?;
        }
        if key.is_empty() {
            return Ok(None);
        }
        let key: Value = serde_json::from_str(&key)
            .map_err(|_| DiscoveryError::Settings("service_account_key: it is no JSON".to_owned()))?;
        if private.is_empty() {
            private = text(&key, "credentials.privateKey");
        }
        Ok(Some((key, private)))
    }

    /// `None`: the HTTP settings say how to show who asks.
    async fn token(&mut self) -> Result<Option<Secret>, DiscoveryError> {
        let now = self.clock.now().wall;
        if let Some((token, until)) = &self.token
            && now < *until
        {
            return Ok(Some(token.clone()));
        }
        let Some((key, private)) = self.keys()? else { return Ok(None) };
        let issued = now.ms().div_euclid(1000);
        let credentials = &key["credentials"];
        let claims = json!({
            "iss": credentials["iss"], "sub": credentials["sub"], "aud": credentials["aud"],
            "jti": format!("{}-{}", text(credentials, "kid"), now.ms()), "iat": issued, "exp": issued + 600,
        });
        let assertion = web_token(&private, &text(credentials, "kid"), &claims, RsaHash::Sha512)?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let form = [("grant_type", grant), ("assertion", assertion.expose())];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let answer = self.api.json(Request::post(api::url(&self.token_url, "", &[])?, FORM, body)).await?;
        let token = Secret::new(text(&answer, "access_token"));
        if token.is_empty() {
            return Err(DiscoveryError::Answer("STACKIT answered without a token".to_owned()));
        }
        let lives = answer["expires_in"].as_u64().unwrap_or(300).saturating_sub(60);
        self.token = Some((token.clone(), now.after(Duration::from_secs(lives))));
        Ok(Some(token))
    }

    /// `None` for a server without an address.
    fn target(&self, server: &Value) -> Option<Labels> {
        let mut meta = Meta::of("stackit");
        meta.set("project", &self.config.project);
        meta.take(
            server,
            &[
                ("id", "id"),
                ("name", "name"),
                ("availability_zone", "availabilityZone"),
                ("status", "status"),
                ("power_status", "powerStatus"),
                ("type", "machineType"),
            ],
        );
        let cards = list(server, "nics");
        let first = |field: &str| cards.iter().map(|card| text(card, field)).find(|address| !address.is_empty());
        let public = first("publicIp").unwrap_or_default();
        let address = if public.is_empty() { first("ipv4")? } else { public.clone() };
        meta.set("public_ipv4", public);
        meta.each("private_ipv4_", cards.iter().map(|card| (text(card, "networkName"), text(card, "ipv4"))));
        let labels = || pairs(server, "labels").filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
        meta.each("labelpresent_", labels().map(|(name, _)| (name, "true".to_owned()))).each("label_", labels());
        Some(meta.address(host_port(&address, self.config.port)).build())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let base = match self.config.endpoint.as_str() {
            "" => format!("https://iaas.api.{}.stackit.cloud", self.config.region),
            given => given.to_owned(),
        };
        let path = format!("v1/projects/{}/servers", segment(&self.config.project));
        let mut request = Request::get(api::url(&base, &path, &[("details", "true")])?);
        if let Some(token) = self.token().await? {
            secret_header(&mut request, "authorization", &format!("Bearer {}", token.expose()))?;
        }
        let answer = self.api.json(request).await?;
        Ok(api::group("stackit", list(&answer, "items").iter().filter_map(|server| self.target(server)).collect()))
    }
}
