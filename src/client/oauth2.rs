//! OAuth 2 client credentials: a token is fetched when there is none and again before it expires.
//!
//! Source: RFC 6749 §4.4; Go `golang.org/x/oauth2/clientcredentials`.

use std::pin::Pin;
use std::time::Duration;

use promesh_config::http::{GRANT_TYPE_JWT_BEARER, HttpClientConfig, OAuth2};
use promesh_model::Secret;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded;

use crate::auth::{basic, secret_of};
use crate::{ClientError, HttpClient, Request};

/// Fetches tokens.
pub(crate) struct TokenSource {
    settings: OAuth2,
    url: Url,
    client: HttpClient,
    token: Mutex<Option<Token>>,
}

struct Token {
    header: Secret,
    expires: Option<Instant>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// A token is not used in its last seconds, so that it does not expire on the way.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_BYTES_MAX: usize = 1 << 20;

impl TokenSource {
    pub(crate) fn new(settings: &OAuth2) -> Result<TokenSource, ClientError> {
        if settings.grant_type == GRANT_TYPE_JWT_BEARER {
            return Err(ClientError::Settings(
                "oauth2: grant_type jwt-bearer is not supported yet: use client_credentials".to_owned(),
            ));
        }
        let url = Url::parse(&settings.token_url)
            .map_err(|error| ClientError::Settings(format!("oauth2: token_url: {error}")))?;
        let http = HttpClientConfig {
            tls_config: settings.tls_config.clone(),
            proxy: settings.proxy.clone(),
            ..HttpClientConfig::default()
        };
        Ok(TokenSource { settings: settings.clone(), url, client: HttpClient::new(&http)?, token: Mutex::new(None) })
    }

    pub(crate) async fn header(&self) -> Result<String, ClientError> {
        let mut token = self.token.lock().await;
        if let Some(token) = &*token
            && token.expires.is_none_or(|expires| expires.elapsed() == Duration::ZERO)
        {
            return Ok(token.header.expose().to_owned());
        }
        let fresh = self.fetch().await?;
        let header = fresh.header.expose().to_owned();
        *token = Some(fresh);
        Ok(header)
    }

    async fn fetch(&self) -> Result<Token, ClientError> {
        let body = self.ask().await?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| ClientError::Auth("oauth2: cannot read the token that was answered".to_owned()))?;
        if answer.access_token.is_empty() {
            return Err(ClientError::Auth("oauth2: server response missing access_token".to_owned()));
        }
        let seconds = answer.expires_in.and_then(|value| match value {
            serde_json::Value::String(text) => text.parse::<u64>().ok(),
            value => value.as_u64(),
        });
        let lifetime = seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.min(1 << 31)));
        let kind = match answer.token_type.to_ascii_lowercase().as_str() {
            "" | "bearer" => "Bearer",
            "mac" => "MAC",
            "basic" => "Basic",
            _ => answer.token_type.as_str(),
        };
        Ok(Token {
            header: Secret::new(format!("{kind} {}", answer.access_token)),
            expires: lifetime.map(|lifetime| now_after(lifetime.saturating_sub(EXPIRY_MARGIN))),
        })
    }

    /// The credentials go in a header first; a server that refuses that gets them in the form.
    ///
    /// A boxed future: a client that fetches tokens is a client too, so its future would contain itself.
    fn ask(&self) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, ClientError>> + Send + '_>> {
        Box::pin(async {
            let secret = secret_of(&self.settings.client_secret, &self.settings.client_secret_file)?;
            let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let mut status = http::StatusCode::OK;
            for in_form in [false, true] {
                let request = self.token_request(in_form, &secret, encode)?;
                let (answered, _, body) = self.client.fetch(request, TOKEN_TIMEOUT, TOKEN_BYTES_MAX).await?;
                if answered.is_success() {
                    return Ok(body);
                }
                status = answered;
            }
            Err(ClientError::Auth(format!("oauth2: cannot fetch token: {status}")))
        })
    }

    fn token_request(
        &self,
        in_form: bool,
        secret: &Secret,
        encode: impl Fn(&str) -> String,
    ) -> Result<Request, ClientError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !self.settings.scopes.is_empty() {
            form.append_pair("scope", &self.settings.scopes.join(" "));
        }
        form.extend_pairs(&self.settings.endpoint_params);
        if in_form {
            form.append_pair("client_id", &self.settings.client_id).append_pair("client_secret", secret.expose());
        }
        let body = form.finish().into_bytes();
        let mut request = Request::post(self.url.clone(), "application/x-www-form-urlencoded", body);
        if !in_form {
            let value = basic(&encode(&self.settings.client_id), &encode(secret.expose()));
            let value = value.parse().map_err(|_| ClientError::Auth("oauth2: client_id cannot be sent".to_owned()))?;
            request.headers.insert(http::header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// A deadline of the runtime's own clock, which is what elapses between requests.
fn now_after(span: Duration) -> Instant {
    Instant::now() + span
}
