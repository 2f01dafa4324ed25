//! The file of `--web.config.file`: TLS, headers, users and request rate of the HTTP side.
//!
//! Source: prometheus exporter-toolkit `docs/web-configuration.md`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use promesh_model::Secret;

use crate::section;
use crate::yaml::{self, ConfigErrors, FilePath, Node, Reader, read_section};

section! {
    /// The whole file.
    pub struct WebConfig "web.Config" => check_web {
        /// TLS; without it HTTP is spoken in the clear.
        pub tls_server_config: Option<TlsServerConfig>,
        /// HTTP/2 and headers.
        pub http_server_config: HttpServerConfig,
        /// Names of users and bcrypt hashes of their passwords; without any everybody may come in.
        pub basic_auth_users: BTreeMap<String, Secret>,
        /// Requests a time; without it as many as come.
        pub rate_limit: RateLimit,
    }
}

section! {
    /// What the server shows, and whom it lets in.
    pub struct TlsServerConfig "web.TLSConfig" => check_tls {
        /// The certificate chain, in PEM.
        pub cert: String,
        /// A file with it.
        pub cert_file: FilePath,
        /// Its key, in PEM.
        pub key: Secret,
        /// A file with it.
        pub key_file: FilePath,
        /// `NoClientCert`, `RequestClientCert`, `RequireAnyClientCert`, `VerifyClientCertIfGiven` or
        /// `RequireAndVerifyClientCert`.
        pub client_auth_type: String,
        /// Who signs clients' certificates, in PEM.
        pub client_ca: String,
        /// A file with it.
        pub client_ca_file: FilePath,
        /// Names of which a client's certificate must have one; any without.
        pub client_allowed_sans: Vec<String>,
        /// `TLS12` or `TLS13`.
        pub min_version: String = "TLS12".to_owned(),
        /// `TLS12` or `TLS13`.
        pub max_version: String = "TLS13".to_owned(),
        /// Go's names of cipher suites of TLS 1.2; all that are safe without any.
        pub cipher_suites: Vec<String>,
        /// Go's names of curves, best first; the usual ones without any.
        pub curve_preferences: Vec<String>,
        /// Whether the server's order counts. It always does.
        pub prefer_server_cipher_suites: bool = true,
    }
}

section! {
    /// HTTP.
    pub struct HttpServerConfig "web.HTTPConfig" => check_http {
        /// Whether HTTP/2 is spoken over TLS.
        pub http2: bool = true,
        /// Headers of every answer.
        pub headers: BTreeMap<String, String>,
    }
}

section! {
    /// A token bucket.
    pub struct RateLimit "web.RateLimiterConfig" {
        /// Between two requests, on average; zero for no limit.
        pub interval: Duration,
        /// Requests at once.
        pub burst: u64,
    }
}

/// The headers that may be set, as upstream knows them.
const HEADERS: [&str; 5] = [
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
];

/// The kinds of client authentication.
pub const CLIENT_AUTH_TYPES: [&str; 5] = [
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
];

fn check_web(config: &mut WebConfig, node: &Node, reader: &mut Reader<'_>) {
    if config.tls_server_config.is_some() && node.get("tls_server_config").is_some_and(Node::is_null) {
        config.tls_server_config = None;
    }
    let users = node.get("basic_auth_users");
    for (user, hash) in &config.basic_auth_users {
        // `$2a$`, `$2b$`, `$2y$`: a cost of two digits, then 53 characters.
        let text = hash.expose();
        let sound = text.len() == 60 && text.starts_with("$2") && text.is_ascii();
        if !sound {
            let at = users.map_or(node.at, |users| users.at_key(user));
            reader.problem(at, format!("the password of user {user:?} is not a bcrypt hash"));
        }
    }
}

fn check_tls(tls: &mut TlsServerConfig, node: &Node, reader: &mut Reader<'_>) {
    let given = |text: &str, file: &FilePath| !text.is_empty() || !file.is_empty();
    for (name, text, file) in [("cert", tls.cert.as_str(), &tls.cert_file), ("key", tls.key.expose(), &tls.key_file)] {
        if !given(text, file) {
            reader.problem(node.at, format!("missing one of {name} or {name}_file"));
        }
        if !text.is_empty() && !file.is_empty() {
            reader.problem(node.at_key(name), format!("only one of {name} and {name}_file may be given"));
        }
    }
    let kind = tls.client_auth_type.as_str();
    if !kind.is_empty() && !CLIENT_AUTH_TYPES.contains(&kind) {
        let at = node.at_key("client_auth_type");
        reader.problem(at, format!("invalid ClientAuth: {kind:?} is none of {}", CLIENT_AUTH_TYPES.join(", ")));
    }
    let has_ca = given(&tls.client_ca, &tls.client_ca_file);
    let verifies = matches!(kind, "VerifyClientCertIfGiven" | "RequireAndVerifyClientCert");
    if has_ca && matches!(kind, "" | "NoClientCert") {
        reader.problem(node.at, "Client CA's have been configured without a Client Auth Policy");
    }
    if verifies && !has_ca {
        reader.problem(node.at, format!("client_auth_type {kind} needs client_ca or client_ca_file"));
    }
    if !tls.client_allowed_sans.is_empty() && !verifies {
        reader.problem(node.at_key("client_allowed_sans"), "client_allowed_sans needs certificates to be verified");
    }
    for (name, version) in [("min_version", &tls.min_version), ("max_version", &tls.max_version)] {
        match version.as_str() {
            "TLS12" | "TLS13" => {}
            "TLS10" | "TLS11" => {
                reader.problem(node.at_key(name), format!("{version} is not spoken: allow TLS12 or TLS13"));
            }
            other => reader.problem(node.at_key(name), format!("unknown TLS version: {other}")),
        }
    }
    if tls.min_version == "TLS13" && tls.max_version == "TLS12" {
        reader.problem(node.at_key("max_version"), "max_version is below min_version");
    }
}

fn check_http(http: &mut HttpServerConfig, node: &Node, reader: &mut Reader<'_>) {
    let headers = node.get("headers");
    for (name, value) in &http.headers {
        let at = headers.map_or(node.at, |headers| headers.at_key(name));
        let Some(known) = HEADERS.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
            reader.problem(at, format!("HTTP header {name:?} can not be configured"));
            continue;
        };
        let allowed: &[&str] = match *known {
            "X-Content-Type-Options" => &["", "nosniff"],
            "X-Frame-Options" => &["", "deny", "sameorigin"],
            _ => continue,
        };
        if !allowed.contains(&value.to_ascii_lowercase().as_str()) {
            let list = allowed[1..].join(", ");
            reader.problem(at, format!("invalid value for {known}: expected one of: {list}, but got: {value:?}"));
        }
    }
}

/// Reads a file's text; paths in it are from its own folder.
///
/// # Errors
/// Everything wrong with it.
pub fn load_text(path: &Path, text: &[u8]) -> Result<WebConfig, ConfigErrors> {
    let name = path.to_string_lossy();
    let node = yaml::parse(&name, text).map_err(|problem| ConfigErrors(vec![problem]))?;
    if node.is_null() {
        return Ok(WebConfig::default());
    }
    let mut reader = Reader::new(&name, text, path.parent().unwrap_or(Path::new("")));
    let config: WebConfig = read_section(&node, &mut reader);
    let problems = reader.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(ConfigErrors(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match load_text(Path::new("web.yml"), text.as_bytes()) {
            Ok(_) => "good".to_owned(),
            Err(errors) => errors.0.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; "),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn files_are_taken_or_refused_as_upstream_does() {
        let hash = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        check("", "good");
        check("tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n", "good");
        check("tls_server_config:\n  cert_file: a.crt\n", "missing one of key or key_file");
        check("tls_server_config: {}\n", "missing one of cert or cert_file; missing one of key or key_file");
        check(&format!("basic_auth_users: {{a: '{hash}'}}\n"), "good");
        check("basic_auth_users: {a: secret}\n", "the password of user \"a\" is not a bcrypt hash");
        check(
            "http_server_config: {headers: {X-Frame-Options: deny, Server: x}}\n",
            "HTTP header \"Server\" can not be configured",
        );
        check("rate_limit: {interval: 100ms, burst: 5}\n", "good");
        check("tls_config: {}\n", "field tls_config not found in type web.Config");
        let tls = |more: &str| format!("tls_server_config:\n  cert_file: a\n  key_file: b\n  {more}\n");
        check(&tls("client_ca_file: c"), "Client CA's have been configured without a Client Auth Policy");
        check(
            &tls("client_auth_type: RequireAndVerifyClientCert"),
            "client_auth_type RequireAndVerifyClientCert needs client_ca or client_ca_file",
        );
        check(&tls("min_version: TLS11"), "TLS11 is not spoken: allow TLS12 or TLS13");
        check(
            &tls("client_auth_type: Perhaps"),
            "invalid ClientAuth: \"Perhaps\" is none of NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert",
        );
    }
}
