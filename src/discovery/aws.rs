//! What kinds of Amazon share: where keys and regions come from, and signed requests.
//!
//! Keys, in this order: those of the configuration; a profile; the environment; a web identity; a container's; the
//! instance's. With a role, what was found assumes it.
//!
//! Source: AWS SDKs and Tools Reference Guide, "Standardized credential providers"; prometheus `discovery/aws`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use promesh_client::{HttpClient, Request};
use promesh_config::http::HttpClientConfig;
use promesh_model::time::Clock;
use promesh_model::{Secret, Timestamp};
use serde_json::Value;
use url::form_urlencoded;

use crate::DiscoveryError;
use crate::api::{self, Api, secret_header, text};
use crate::signing::{AwsKey, sign_aws};
use crate::xml::Element;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const INSTANCE: &str = "http://169.254.169.254";
/// Keys are fetched anew so long before they expire.
const EXPIRY_MARGIN: Duration = Duration::from_secs(300);
/// Keys that do not say when they expire are read again after this.
const REREAD: Duration = Duration::from_secs(900);

/// What a configuration says of keys and regions.
#[derive(Clone, Debug, Default)]
pub(crate) struct AwsSettings {
    pub(crate) region: String,
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: Secret,
    pub(crate) profile: String,
    pub(crate) role_arn: String,
    pub(crate) external_id: String,
}

/// One account in one region.
pub(crate) struct Aws {
    settings: AwsSettings,
    api: Api,
    /// For the addresses of the machine itself, which no proxy reaches.
    local: Api,
    clock: Arc<dyn Clock>,
    key: Option<(AwsKey, Timestamp)>,
    region: Option<String>,
    environment: fn(&str) -> Option<String>,
}

fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Aws {
    pub(crate) fn new(
        settings: AwsSettings,
        http: &HttpClientConfig,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Aws, DiscoveryError> {
        let local = Api::over(HttpClient::new(&HttpClientConfig::default())?, Duration::from_secs(5));
        let api = Api::new(http, timeout)?;
        Ok(Aws { settings, api, local, clock, key: None, region: None, environment: of_process })
    }

    #[cfg(test)]
    pub(crate) fn with_environment(mut self, environment: fn(&str) -> Option<String>) -> Aws {
        self.environment = environment;
        self
    }

    /// The region: of the configuration, the environment, the profile or the instance.
    pub(crate) async fn region(&mut self) -> Result<String, DiscoveryError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        let given = Some(self.settings.region.clone()).filter(|region| !region.is_empty());
        let named = || (self.environment)("AWS_REGION").or_else(|| (self.environment)("AWS_DEFAULT_REGION"));
        let region = match given.or_else(named).or_else(|| self.of_profile("region")) {
            Some(region) => region,
            None => self.of_instance("latest/meta-data/placement/region").await.map_err(|error| {
                DiscoveryError::Settings(format!("no region is configured and the instance does not say one: {error}"))
            })?,
        };
        self.region = Some(region.clone());
        Ok(region)
    }

    /// A service's address.
    async fn endpoint(&mut self, service: &str) -> Result<String, DiscoveryError> {
        if !self.settings.endpoint.is_empty() {
            return Ok(self.settings.endpoint.clone());
        }
        let region = self.region().await?;
        let ending = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Ok(format!("https://{service}.{region}.{ending}"))
    }

    /// Asks a service whose requests are forms and whose answers are XML.
    pub(crate) async fn form(&mut self, service: &str, form: &[(String, String)]) -> Result<Element, DiscoveryError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(api::url(&self.endpoint(service).await?, "", &[])?, FORM, body);
        Element::parse(&self.signed(service, request).await?)
    }

    /// Asks a service whose requests and answers are JSON. `target` names the operation.
    pub(crate) async fn json(&mut self, service: &str, target: &str, body: &Value) -> Result<Value, DiscoveryError> {
        let url = api::url(&self.endpoint(service).await?, "", &[])?;
        let mut request = Request::post(url, "application/x-amz-json-1.1", body.to_string());
        secret_header(&mut request, "x-amz-target", target)?;
        let answer = self.signed(service, request).await?;
        serde_json::from_slice(&answer).map_err(|error| DiscoveryError::Answer(format!("{target}: {error}")))
    }

    async fn signed(&mut self, service: &str, mut request: Request) -> Result<Vec<u8>, DiscoveryError> {
        let key = self.key().await?;
        let region = self.region().await?;
        sign_aws(&mut request, &key, (&region, service), self.clock.now().wall)?;
        let (status, _, body) = self.api.exchange(request).await?;
        if status.is_success() {
            return Ok(body);
        }
        if matches!(status.as_u16(), 401 | 403) {
            // Keys were rotated, or the instance has another role now.
            self.key = None;
        }
        let said = Element::parse(&body).ok();
        let said = said.as_ref().and_then(|root| find(root, "Message").or_else(|| find(root, "message")));
        let said = said.map_or_else(String::new, |message| format!(": {message}"));
        Err(DiscoveryError::Answer(format!("{service}: server returned HTTP status {status}{said}")))
    }

    async fn key(&mut self) -> Result<AwsKey, DiscoveryError> {
        let now = self.clock.now().wall;
        if let Some((key, until)) = &self.key
            && now.after(EXPIRY_MARGIN) < *until
        {
            return Ok(key.clone());
        }
        let (mut key, mut until) = self.find_key(now).await?;
        if !self.settings.role_arn.is_empty() {
            (key, until) = self.assume(&key, now).await?;
        }
        self.key = Some((key.clone(), until));
        Ok(key)
    }

    async fn find_key(&mut self, now: Timestamp) -> Result<(AwsKey, Timestamp), DiscoveryError> {
        let lasting = now.after(EXPIRY_MARGIN + REREAD);
        let plain = |id: String, secret: String, token: Option<String>| AwsKey {
            id,
            secret: Secret::new(secret),
            token: token.map(Secret::new).unwrap_or_default(),
        };
        let settings = &self.settings;
        if !settings.access_key.is_empty() && !settings.secret_key.is_empty() {
            let secret = settings.secret_key.expose().to_owned();
            return Ok((plain(settings.access_key.clone(), secret, None), lasting));
        }
        let environment = self.environment;
        if settings.profile.is_empty()
            && let (Some(id), Some(secret)) = (environment("AWS_ACCESS_KEY_ID"), environment("AWS_SECRET_ACCESS_KEY"))
        {
            return Ok((plain(id, secret, environment("AWS_SESSION_TOKEN")), lasting));
        }
        if let (Some(id), Some(secret)) =
            (self.of_profile("aws_access_key_id"), self.of_profile("aws_secret_access_key"))
        {
            return Ok((plain(id, secret, self.of_profile("aws_session_token")), lasting));
        }
        if !settings.profile.is_empty() {
            return Err(DiscoveryError::Settings(format!("the profile {:?} has no keys", settings.profile)));
        }
        if let (Some(file), Some(role)) = (environment("AWS_WEB_IDENTITY_TOKEN_FILE"), environment("AWS_ROLE_ARN")) {
            return self.of_web_identity(&file, &role, now).await;
        }
        if let Some(answer) = self.of_container().await? {
            return temporary(&answer, now);
        }
        let role = self.of_instance("latest/meta-data/iam/security-credentials/").await.map_err(|error| {
            DiscoveryError::Settings(format!(
                "no AWS keys: neither access_key and secret_key, profile, environment, web identity nor container has any, and the instance gives none: {error}"
            ))
        })?;
        let path = format!("latest/meta-data/iam/security-credentials/{}", role.lines().next().unwrap_or(""));
        let answer = self.of_instance(&path).await?;
        let answer = serde_json::from_str(&answer).map_err(|error| DiscoveryError::Answer(error.to_string()))?;
        temporary(&answer, now)
    }

    /// A value of the profile: keys before other settings.
    fn of_profile(&self, name: &str) -> Option<String> {
        let profile = match self.settings.profile.as_str() {
            "" => (self.environment)("AWS_PROFILE").unwrap_or_else(|| "default".to_owned()),
            given => given.to_owned(),
        };
        let home = || (self.environment)("HOME").map(|home| PathBuf::from(home).join(".aws"));
        let file = |variable: &str, name: &str| {
            (self.environment)(variable).map(PathBuf::from).or_else(|| Some(home()?.join(name)))
        };
        let files = [
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile.clone()),
            (file("AWS_CONFIG_FILE", "config"), format!("profile {profile}")),
            (file("AWS_CONFIG_FILE", "config"), profile),
        ];
        files.into_iter().find_map(|(file, section)| {
            let text = std::fs::read_to_string(file?).ok()?;
            value_of(&text, &section, name)
        })
    }

    /// What a container's agent gives, in ECS and in EKS; `None` outside.
    async fn of_container(&self) -> Result<Option<Value>, DiscoveryError> {
        let environment = self.environment;
        let relative =
            environment("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("http://169.254.170.2{path}"));
        let Some(url) = relative.or_else(|| environment("AWS_CONTAINER_CREDENTIALS_FULL_URI")) else { return Ok(None) };
        let mut request = Request::get(api::url(&url, "", &[])?);
        let from_file =
            environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").and_then(|file| std::fs::read_to_string(file).ok());
        if let Some(token) = from_file.or_else(|| environment("AWS_CONTAINER_AUTHORIZATION_TOKEN")) {
            secret_header(&mut request, "authorization", token.trim())?;
        }
        // `api::url` ends an empty path with a slash, and the agent knows the path without.
        let path = request.url.path().trim_end_matches('/').to_owned();
        request.url.set_path(&path);
        self.local.json(request).await.map(Some)
    }

    /// What the instance says of itself, by the second version of its service.
    async fn of_instance(&self, path: &str) -> Result<String, DiscoveryError> {
        if (self.environment)("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Err(DiscoveryError::Settings("AWS_EC2_METADATA_DISABLED is set".to_owned()));
        }
        let base = (self.environment)("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE.to_owned());
        let mut session = Request::get(api::url(&base, "latest/api/token", &[])?);
        session.method = Method::PUT;
        secret_header(&mut session, "x-aws-ec2-metadata-token-ttl-seconds", "300")?;
        let (_, token) = self.local.send(session).await?;
        let mut request = Request::get(api::url(&base, path, &[])?);
        secret_header(&mut request, "x-aws-ec2-metadata-token", String::from_utf8_lossy(&token).trim())?;
        let (_, body) = self.local.send(request).await?;
        Ok(String::from_utf8_lossy(&body).trim().to_owned())
    }

    async fn of_web_identity(
        &mut self,
        file: &str,
        role: &str,
        now: Timestamp,
    ) -> Result<(AwsKey, Timestamp), DiscoveryError> {
        let token = std::fs::read_to_string(file)
            .map_err(|error| DiscoveryError::Settings(format!("unable to read file {file}: {error}")))?;
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", "promesh"),
            ("WebIdentityToken", token.trim()),
        ];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(api::url(&self.security_service().await?, "", &[])?, FORM, body);
        let (_, answer) = self.api.send(request).await?;
        assumed(&Element::parse(&answer)?, now)
    }

    async fn assume(&mut self, key: &AwsKey, now: Timestamp) -> Result<(AwsKey, Timestamp), DiscoveryError> {
        let mut form = vec![
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", self.settings.role_arn.as_str()),
            ("RoleSessionName", "promesh"),
        ];
        if !self.settings.external_id.is_empty() {
            form.push(("ExternalId", &self.settings.external_id));
        }
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let region = self.region().await?;
        let mut request = Request::post(api::url(&self.security_service().await?, "", &[])?, FORM, body);
        sign_aws(&mut request, key, (&region, "sts"), now)?;
        let (_, answer) = self.api.send(request).await?;
        assumed(&Element::parse(&answer)?, now)
    }

    async fn security_service(&mut self) -> Result<String, DiscoveryError> {
        if let Some(endpoint) = (self.environment)("AWS_ENDPOINT_URL_STS") {
            return Ok(endpoint);
        }
        let region = self.region().await?;
        let ending = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Ok(format!("https://sts.{region}.{ending}"))
    }
}

fn find<'a>(element: &'a Element, name: &str) -> Option<&'a str> {
    if element.name == name {
        return Some(&element.text);
    }
    element.children.iter().find_map(|child| find(child, name))
}

/// The keys in an answer of the security token service.
fn assumed(root: &Element, now: Timestamp) -> Result<(AwsKey, Timestamp), DiscoveryError> {
    let field =
        |name: &str| find(root, name).ok_or_else(|| DiscoveryError::Answer(format!("sts: the answer has no {name}")));
    let key = AwsKey {
        id: field("AccessKeyId")?.to_owned(),
        secret: Secret::new(field("SecretAccessKey")?.to_owned()),
        token: Secret::new(field("SessionToken")?.to_owned()),
    };
    // Roles last an hour unless somebody said otherwise; half of it is safe.
    Ok((key, now.after(EXPIRY_MARGIN + Duration::from_secs(1800))))
}

/// The keys in an answer of an instance or a container's agent.
fn temporary(answer: &Value, now: Timestamp) -> Result<(AwsKey, Timestamp), DiscoveryError> {
    let (id, secret) = (text(answer, "AccessKeyId"), text(answer, "SecretAccessKey"));
    if id.is_empty() || secret.is_empty() {
        return Err(DiscoveryError::Answer("the instance or container answered without keys".to_owned()));
    }
    let token = Secret::new(text(answer, "Token"));
    Ok((AwsKey { id, secret: Secret::new(secret), token }, now.after(EXPIRY_MARGIN + REREAD)))
}

/// A value of a section of a file of profiles.
fn value_of(text: &str, section: &str, name: &str) -> Option<String> {
    let mut within = false;
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            within = header.trim_end_matches(']').trim() == section;
        } else if within
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == name
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_says_its_own_values() {
        let text = "[default]\nregion = eu-west-1\n\n[profile dev]\n region=us-east-2\naws_access_key_id =\n";
        assert_eq!(value_of(text, "default", "region").as_deref(), Some("eu-west-1"));
        assert_eq!(value_of(text, "profile dev", "region").as_deref(), Some("us-east-2"));
        assert_eq!(value_of(text, "profile dev", "aws_access_key_id"), None);
        assert_eq!(value_of(text, "other", "region"), None);
    }
}
