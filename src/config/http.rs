//! How an HTTP client speaks: authentication, TLS, proxies, headers. Shared by scraping, discovery, remote write,
//! Alertmanagers and receivers.
//!
//! Source: prometheus/common `config/http_config.go`.

use std::collections::BTreeMap;
use std::path::Path;

use promesh_model::Secret;

use crate::section;
use crate::yaml::{self, ConfigErrors, FilePath, Node, Reader, Show, Yaml};

/// Loads a file of HTTP client settings. Relative paths in it mean `dir`.
///
/// # Errors
/// Everything wrong with it.
pub fn load_http_config(file: &str, text: &[u8], dir: &Path) -> Result<HttpClientConfig, ConfigErrors> {
    let node = yaml::parse(file, text).map_err(|problem| ConfigErrors(vec![problem]))?;
    let mut reader = Reader::new(file, text, dir);
    let config = HttpClientConfig::read(&node, &mut reader);
    let unbuilt = reader.take_unbuilt();
    let problems = [reader.into_problems(), unbuilt].concat();
    if problems.is_empty() { Ok(config) } else { Err(ConfigErrors(problems)) }
}

section! {
    /// How an HTTP client speaks. After reading, `bearer_token` and its file have become `authorization`.
    pub struct HttpClientConfig "http_config" => check_http {
        /// User name and password.
        pub basic_auth: Option<BasicAuth>,
        /// An `Authorization` header.
        pub authorization: Option<Authorization>,
        /// OAuth 2 client credentials.
        pub oauth2: Option<OAuth2>,
        /// Old form of `authorization`; empty after reading.
        pub bearer_token: Secret,
        /// Old form of `authorization`; empty after reading.
        pub bearer_token_file: FilePath,
        /// TLS.
        pub tls_config: TlsConfig,
        /// Whether 3xx answers are followed. Default true.
        pub follow_redirects: bool = true,
        /// Whether HTTP/2 may be spoken. Default true.
        pub enable_http2: bool = true,
        /// Headers of every request, by name.
        pub http_headers: BTreeMap<String, Header>,
        ; inline {
            /// Proxies.
            pub proxy: ProxyConfig,
        }
    }
}

section! {
    /// Where requests go instead of straight to their target.
    pub struct ProxyConfig "proxy" => check_proxy {
        /// The proxy: `http`, `https` or `socks5`.
        pub proxy_url: Option<ProxyUrl>,
        /// Hosts, domains, addresses and networks that are asked directly, comma separated.
        pub no_proxy: String,
        /// Whether `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` of the process count.
        pub proxy_from_environment: bool,
        /// Headers of `CONNECT` requests.
        pub proxy_connect_header: BTreeMap<String, Vec<Secret>>,
    }
}

section! {
    /// User name and password, each given or in a file that is read again for every request.
    pub struct BasicAuth "basic_auth" {
        /// The user.
        pub username: String,
        /// A file with the user.
        pub username_file: FilePath,
        /// Name in a secret manager; there is none, so it is refused.
        pub username_ref: String,
        /// The password.
        pub password: Secret,
        /// A file with the password.
        pub password_file: FilePath,
        /// Name in a secret manager; there is none, so it is refused.
        pub password_ref: String,
    }
}

section! {
    /// An `Authorization` header: type and credentials.
    pub struct Authorization "authorization" {
        /// `Bearer` when nothing is given.
        pub r#type: String,
        /// What follows the type.
        pub credentials: Secret,
        /// A file with it, read again for every request.
        pub credentials_file: FilePath,
        /// Name in a secret manager; there is none, so it is refused.
        pub credentials_ref: String,
    }
}

section! {
    /// OAuth 2: client credentials, or a signed assertion (RFC 7523).
    pub struct OAuth2 "oauth2" {
        /// Who asks.
        pub client_id: String,
        /// Its secret.
        pub client_secret: Secret,
        /// A file with the secret.
        pub client_secret_file: FilePath,
        /// Name in a secret manager; there is none, so it is refused.
        pub client_secret_ref: String,
        /// Key id of an assertion.
        pub client_certificate_key_id: String,
        /// PEM key that signs assertions.
        pub client_certificate_key: Secret,
        /// A file with the key.
        pub client_certificate_key_file: FilePath,
        /// Name in a secret manager; there is none, so it is refused.
        pub client_certificate_key_ref: String,
        /// `client_credentials` when empty, or `urn:ietf:params:oauth:grant-type:jwt-bearer`.
        pub grant_type: String,
        /// RS256 when empty, RS384 or RS512.
        pub signature_algorithm: String,
        /// Issuer of assertions; the client id when empty.
        pub iss: String,
        /// Audience of assertions; the token URL when empty.
        pub audience: String,
        /// Further claims of assertions.
        pub claims: BTreeMap<String, String>,
        /// Asked scopes.
        pub scopes: Vec<String>,
        /// Who gives the tokens.
        pub token_url: String,
        /// Further form fields.
        pub endpoint_params: BTreeMap<String, String>,
        /// TLS towards the token URL.
        pub tls_config: TlsConfig,
        ; inline {
            /// Proxies towards the token URL.
            pub proxy: ProxyConfig,
        }
    }
}

section! {
    /// TLS of a client.
    pub struct TlsConfig "tls_config" => check_tls {
        /// PEM of the authorities that are trusted; the system's when neither this nor the file is given.
        pub ca: String,
        /// PEM of the client's certificate.
        pub cert: String,
        /// PEM of the client's key.
        pub key: Secret,
        /// A file with the authorities.
        pub ca_file: FilePath,
        /// A file with the certificate.
        pub cert_file: FilePath,
        /// A file with the key.
        pub key_file: FilePath,
        /// Name in a secret manager; there is none, so it is refused.
        pub ca_ref: String,
        /// Name in a secret manager; there is none, so it is refused.
        pub cert_ref: String,
        /// Name in a secret manager; there is none, so it is refused.
        pub key_ref: String,
        /// The name that the server's certificate must have; the host of the URL when empty.
        pub server_name: String,
        /// Whether any certificate is taken.
        pub insecure_skip_verify: bool,
        /// The oldest version spoken.
        pub min_version: Option<TlsVersion>,
        /// The newest version spoken.
        pub max_version: Option<TlsVersion>,
    }
}

section! {
    /// The values of one header.
    pub struct Header "http_header" {
        /// Given values.
        pub values: Vec<String>,
        /// Given values that are not shown.
        pub secrets: Vec<Secret>,
        /// Files with values, read again for every request.
        pub files: Vec<FilePath>,
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.0: known to the file, spoken by nobody here.
    Tls10,
    /// 1.1: known to the file, spoken by nobody here.
    Tls11,
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

impl Yaml for TlsVersion {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match reader.scalar(node, "TLS version").unwrap_or_default() {
            "TLS10" => TlsVersion::Tls10,
            "TLS11" => TlsVersion::Tls11,
            "TLS12" => TlsVersion::Tls12,
            "TLS13" => TlsVersion::Tls13,
            other => {
                reader.problem(node.at, format!("unknown TLS version: {other}"));
                TlsVersion::Tls12
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(match self {
            TlsVersion::Tls10 => "TLS10",
            TlsVersion::Tls11 => "TLS11",
            TlsVersion::Tls12 => "TLS12",
            TlsVersion::Tls13 => "TLS13",
        })
    }
}

/// A URL. Shown with its password as `xxxxx`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(url::Url);

impl HttpUrl {
    /// Reads a URL with a scheme and a host.
    ///
    /// # Errors
    /// What is wrong with it, without repeating a password in it.
    pub fn parse(text: &str) -> Result<HttpUrl, String> {
        url::Url::parse(text).map(HttpUrl).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase if !text.contains("://") => "missing scheme for URL".to_owned(),
            url::ParseError::EmptyHost => "missing host for URL".to_owned(),
            error => format!("invalid URL: {error}"),
        })
    }

    /// The URL itself, password included.
    pub fn url(&self) -> &url::Url {
        &self.0
    }

    /// For people.
    pub fn redacted(&self) -> String {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Fails only for URLs that cannot have a password.
            let _ = shown.set_password(Some("xxxxx"));
        }
        shown.to_string()
    }
}

impl std::fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Yaml for HttpUrl {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "URL").unwrap_or_default();
        HttpUrl::parse(text).unwrap_or_else(|message| {
            reader.problem(node.at, message);
            HttpUrl::parse("http://invalid.invalid/").expect("a constant URL")
        })
    }
    fn show(&self, show: Show) -> Node {
        Node::text(match show {
            Show::Masked => self.redacted(),
            Show::Content => self.0.to_string(),
        })
    }
}

/// A proxy's URL. Unlike other URLs it may be a bare host, as Go's parser lets it be: then it is spoken to by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyUrl(HttpUrl);

impl ProxyUrl {
    /// A proxy; without a scheme it is asked in plain HTTP.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<ProxyUrl, String> {
        match HttpUrl::parse(&format!("http://{text}")) {
            Ok(bare) if !text.contains("://") => Ok(ProxyUrl(bare)),
            _ => HttpUrl::parse(text).map(ProxyUrl),
        }
    }
}

impl std::ops::Deref for ProxyUrl {
    type Target = HttpUrl;
    fn deref(&self) -> &HttpUrl {
        &self.0
    }
}

impl Yaml for ProxyUrl {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "URL").unwrap_or_default();
        match HttpUrl::parse(&format!("http://{text}")) {
            Ok(bare) if !text.contains("://") => ProxyUrl(bare),
            _ => ProxyUrl(HttpUrl::read(node, reader)),
        }
    }
    fn show(&self, show: Show) -> Node {
        self.0.show(show)
    }
}

/// Headers that the client sets itself or that would break a request.
///
/// Source: prometheus/common `config.ReservedHeaders`.
pub(crate) const RESERVED_HEADERS: [&str; 18] = [
    "authorization",
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
    "x-prometheus-scrape-timeout-seconds",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// The name of an assertion as a grant type.
pub const GRANT_TYPE_JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn given(parts: &[bool]) -> usize {
    parts.iter().filter(|given| **given).count()
}

fn check_http(http: &mut HttpClientConfig, node: &Node, reader: &mut Reader<'_>) {
    let bearer = !http.bearer_token.is_empty();
    let bearer_file = !http.bearer_token_file.is_empty();
    if bearer && bearer_file {
        reader.problem(
            node.at_key("bearer_token_file"),
            "at most one of bearer_token & bearer_token_file must be configured",
        );
    }
    if (http.basic_auth.is_some() || http.oauth2.is_some()) && (bearer || bearer_file) {
        let at = node.at_key(if bearer { "bearer_token" } else { "bearer_token_file" });
        reader.problem(at, "at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured");
    }
    if http.authorization.is_some() && (bearer || bearer_file) {
        let at = node.at_key("authorization");
        reader.problem(at, "authorization is not compatible with bearer_token & bearer_token_file");
    } else if http.authorization.is_some() && (http.basic_auth.is_some() || http.oauth2.is_some())
        || http.basic_auth.is_some() && http.oauth2.is_some()
    {
        let at = node.at_key(if http.oauth2.is_some() { "oauth2" } else { "authorization" });
        reader.problem(at, "at most one of basic_auth, oauth2 & authorization must be configured");
    }
    if let Some(auth) = &http.basic_auth {
        check_basic_auth(auth, node.get("basic_auth").unwrap_or(node), reader);
    }
    if let Some(authorization) = &mut http.authorization {
        check_authorization(authorization, node.get("authorization").unwrap_or(node), reader);
    } else if bearer || bearer_file {
        http.authorization = Some(Authorization {
            r#type: "Bearer".to_owned(),
            credentials: std::mem::take(&mut http.bearer_token),
            credentials_file: std::mem::take(&mut http.bearer_token_file),
            credentials_ref: String::new(),
        });
    }
    if let Some(oauth2) = &http.oauth2 {
        check_oauth2(oauth2, node.get("oauth2").unwrap_or(node), reader);
    }
    for name in http.http_headers.keys() {
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            let at = node.get("http_headers").map_or(node.at, |headers| headers.at_key(name));
            reader.problem(at, format!("setting header \"{}\" is not allowed", canonical_header(name)));
        }
    }
}

fn check_basic_auth(auth: &BasicAuth, node: &Node, reader: &mut Reader<'_>) {
    if given(&[!auth.username.is_empty(), !auth.username_file.is_empty(), !auth.username_ref.is_empty()]) > 1 {
        reader.problem(node.at, "at most one of basic_auth username, username_file & username_ref must be configured");
    }
    if given(&[!auth.password.is_empty(), !auth.password_file.is_empty(), !auth.password_ref.is_empty()]) > 1 {
        reader.problem(node.at, "at most one of basic_auth password, password_file & password_ref must be configured");
    }
    refuse_references(&[("username_ref", &auth.username_ref), ("password_ref", &auth.password_ref)], node, reader);
}

fn check_authorization(authorization: &mut Authorization, node: &Node, reader: &mut Reader<'_>) {
    let sources = [
        !authorization.credentials.is_empty(),
        !authorization.credentials_file.is_empty(),
        !authorization.credentials_ref.is_empty(),
    ];
    if given(&sources) > 1 {
        reader.problem(node.at, "at most one of authorization credentials & credentials_file must be configured");
    }
    authorization.r#type = match authorization.r#type.trim() {
        "" => "Bearer".to_owned(),
        given => given.to_owned(),
    };
    if authorization.r#type.eq_ignore_ascii_case("basic") {
        reader
            .problem(node.at_key("type"), "authorization type cannot be set to \"basic\", use \"basic_auth\" instead");
    }
    refuse_references(&[("credentials_ref", &authorization.credentials_ref)], node, reader);
}

fn check_oauth2(oauth2: &OAuth2, node: &Node, reader: &mut Reader<'_>) {
    if oauth2.client_id.is_empty() {
        reader.problem(node.at, "oauth2 client_id must be configured");
    }
    if oauth2.token_url.is_empty() {
        reader.problem(node.at, "oauth2 token_url must be configured");
    }
    if oauth2.grant_type == GRANT_TYPE_JWT_BEARER {
        let message = "oauth2 grant_type jwt-bearer is not built yet: use client_credentials";
        reader.unbuilt(node.at_key("grant_type"), message);
        let sources = [
            !oauth2.client_certificate_key.is_empty(),
            !oauth2.client_certificate_key_file.is_empty(),
            !oauth2.client_certificate_key_ref.is_empty(),
        ];
        if given(&sources) > 1 {
            reader.problem(node.at, "at most one of oauth2 client_certificate_key, client_certificate_key_file & client_certificate_key_ref must be configured using grant-type=urn:ietf:params:oauth:grant-type:jwt-bearer");
        }
        if !matches!(oauth2.signature_algorithm.as_str(), "" | "RS256" | "RS384" | "RS512") {
            reader.problem(node.at_key("signature_algorithm"), "valid signature algorithms are RS256, RS384 and RS512");
        }
    } else if given(&[
        !oauth2.client_secret.is_empty(),
        !oauth2.client_secret_file.is_empty(),
        !oauth2.client_secret_ref.is_empty(),
    ]) > 1
    {
        reader.problem(node.at, "at most one of oauth2 client_secret, client_secret_file & client_secret_ref must be configured using grant-type=client_credentials");
    }
    refuse_references(
        &[
            ("client_secret_ref", &oauth2.client_secret_ref),
            ("client_certificate_key_ref", &oauth2.client_certificate_key_ref),
        ],
        node,
        reader,
    );
}

fn check_proxy(proxy: &mut ProxyConfig, node: &Node, reader: &mut Reader<'_>) {
    if !proxy.proxy_connect_header.is_empty() && !proxy.proxy_from_environment && proxy.proxy_url.is_none() {
        reader.problem(
            node.at_key("proxy_connect_header"),
            "if proxy_connect_header is configured, proxy_url or proxy_from_environment must also be configured",
        );
    }
    if proxy.proxy_from_environment && proxy.proxy_url.is_some() {
        let at = node.at_key("proxy_from_environment");
        reader.problem(at, "if proxy_from_environment is configured, proxy_url must not be configured");
    }
    if proxy.proxy_from_environment && !proxy.no_proxy.is_empty() {
        let at = node.at_key("no_proxy");
        reader.problem(at, "if proxy_from_environment is configured, no_proxy must not be configured");
    }
    if proxy.proxy_url.is_none() && !proxy.no_proxy.is_empty() {
        let at = node.at_key("no_proxy");
        reader.problem(at, "if no_proxy is configured, proxy_url must also be configured");
    }
}

fn check_tls(tls: &mut TlsConfig, node: &Node, reader: &mut Reader<'_>) {
    let (ca, cert, key) = (!tls.ca.is_empty(), !tls.cert.is_empty(), !tls.key.is_empty());
    let (ca_file, cert_file, key_file) = (!tls.ca_file.is_empty(), !tls.cert_file.is_empty(), !tls.key_file.is_empty());
    if ca && ca_file {
        reader.problem(node.at_key("ca_file"), "at most one of ca, ca_file & ca_ref must be configured");
    }
    if cert && cert_file {
        reader.problem(node.at_key("cert_file"), "at most one of cert, cert_file & cert_ref must be configured");
    }
    if key && key_file {
        reader.problem(node.at_key("key_file"), "at most one of key and key_file must be configured");
    }
    if (cert || cert_file) && !(key || key_file) {
        reader.problem(
            node.at,
            "exactly one of key or key_file must be configured when a client certificate is configured",
        );
    }
    if (key || key_file) && !(cert || cert_file) {
        reader.problem(node.at, "exactly one of cert or cert_file must be configured when a client key is configured");
    }
    if let (Some(min), Some(max)) = (tls.min_version, tls.max_version)
        && max < min
    {
        reader.problem(
            node.at_key("max_version"),
            "tls_config.max_version must be greater than or equal to tls_config.min_version if both are specified",
        );
    }
    refuse_references(&[("ca_ref", &tls.ca_ref), ("cert_ref", &tls.cert_ref), ("key_ref", &tls.key_ref)], node, reader);
}

/// Prometheus itself has no secret manager either; a reference that nobody resolves would be an empty secret.
fn refuse_references(references: &[(&str, &String)], node: &Node, reader: &mut Reader<'_>) {
    for (field, value) in references {
        if !value.is_empty() {
            reader.problem(node.at_key(field), format!("cannot use {field} without a secret manager"));
        }
    }
}

/// `content-type` → `Content-Type`.
fn canonical_header(name: &str) -> String {
    let mut upper = true;
    let canonical = name.chars().map(|c| {
        let shown = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        upper = c == '-';
        shown
    });
    canonical.collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::yaml;

    fn check(text: &str, expected: expect_test::Expect) {
        let node = yaml::parse("p.yml", text.as_bytes()).expect("well-formed");
        let mut reader = Reader::new("p.yml", text.as_bytes(), Path::new("/etc/p"));
        let http = HttpClientConfig::read(&node, &mut reader);
        let problems = reader.into_problems();
        let shown = if problems.is_empty() {
            yaml::print(&http.show(Show::Masked))
        } else {
            ConfigErrors(problems).to_string()
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn bearer_token_becomes_authorization_and_is_masked() {
        check(
            "bearer_token: hunter2\ntls_config: {ca_file: ca.pem}\nproxy_url: http://u:p@proxy:3128\n",
            expect_test::expect![[r#"
                authorization:
                  type: Bearer
                  credentials: <secret>
                tls_config:
                  ca_file: /etc/p/ca.pem
                follow_redirects: true
                enable_http2: true
                proxy_url: http://u:xxxxx@proxy:3128/
            "#]],
        );
    }

    #[test]
    fn all_problems_of_a_section_are_told_without_secrets() {
        check(
            "basic_auth:\n  password: hunter2\n  pass: hunter3\nfollow_redirects: 7\nfoo: bar\n",
            expect_test::expect![[r#"
                p.yml:3:3: field pass not found in type basic_auth
                  3 |   pass: <secret>
                    |   ^
                p.yml:4:19: cannot unmarshal !!int `7` into bool
                  4 | follow_redirects: 7
                    |                   ^
                p.yml:5:1: field foo not found in type http_config
                  5 | foo: bar
                    | ^"#]],
        );
    }

    #[test]
    fn one_way_to_authenticate_only() {
        check(
            "basic_auth: {username: a}\nbearer_token: b\n",
            expect_test::expect![[r#"
                p.yml:2:1: at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured
                  2 | bearer_token: <secret>
                    | ^"#]],
        );
    }
}
