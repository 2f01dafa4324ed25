//! The `Authorization` header: basic, a type with credentials, OAuth 2.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use promesh_config::http::{Authorization, BasicAuth, HttpClientConfig};
use promesh_config::yaml::FilePath;
use promesh_model::Secret;
use url::Url;

use crate::ClientError;
use crate::oauth2::TokenSource;

/// How a client shows who it is.
pub(crate) enum Auth {
    None,
    Basic(BasicAuth),
    Typed(Authorization),
    OAuth2(Box<TokenSource>),
}

impl Auth {
    pub(crate) fn new(config: &HttpClientConfig) -> Result<Auth, ClientError> {
        Ok(if let Some(basic) = &config.basic_auth {
            Auth::Basic(basic.clone())
        } else if let Some(typed) = &config.authorization {
            Auth::Typed(typed.clone())
        } else if let Some(oauth2) = &config.oauth2 {
            Auth::OAuth2(Box::new(TokenSource::new(oauth2)?))
        } else {
            Auth::None
        })
    }

    /// The header's value. Files are read anew each time, so that rotated secrets count at once.
    pub(crate) async fn header(&self, url: &Url) -> Result<Option<HeaderValue>, ClientError> {
        let text = match self {
            Auth::None if url.username().is_empty() && url.password().is_none() => return Ok(None),
            Auth::None => {
                let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
                basic(&decoded(url.username()), &decoded(url.password().unwrap_or("")))
            }
            Auth::Basic(auth) => {
                let user = if auth.username_file.is_empty() {
                    auth.username.clone()
                } else {
                    read_trimmed(auth.username_file.as_path())?
                };
                basic(&user, secret_of(&auth.password, &auth.password_file)?.expose())
            }
            Auth::Typed(auth) => {
                let credentials = secret_of(&auth.credentials, &auth.credentials_file)?;
                format!("{} {}", auth.r#type, credentials.expose())
            }
            Auth::OAuth2(source) => source.header().await?,
        };
        let mut value = HeaderValue::from_str(text.trim_end())
            .map_err(|_| ClientError::Auth("the credentials hold a sign that cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A secret, given or in a file.
pub(crate) fn secret_of(given: &Secret, file: &FilePath) -> Result<Secret, ClientError> {
    if file.is_empty() { Ok(given.clone()) } else { read_trimmed(file.as_path()).map(Secret::new) }
}

/// A small file without the white space around its content.
pub(crate) fn read_trimmed(path: &Path) -> Result<String, ClientError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ClientError::Auth(format!("unable to read file {}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}
