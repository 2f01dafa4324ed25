//! Where the API is and as whom it is asked: the cluster that we run in, or a kubeconfig.
//!
//! Source: Kubernetes' "Organizing Cluster Access Using kubeconfig Files" and "Accessing the API from within a Pod".

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use promesh_config::http::{Authorization, BasicAuth, HttpClientConfig, HttpUrl, ProxyUrl, TlsConfig};
use promesh_config::yaml::{FilePath, Kind, Node, join_dir, parse};
use promesh_model::Secret;

use crate::DiscoveryError;

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API of the cluster that this pod runs in, and the pod's own account.
///
/// # Errors
/// When it runs in none.
pub(super) fn in_cluster() -> Result<(HttpUrl, HttpClientConfig), DiscoveryError> {
    let outside = || {
        DiscoveryError::Settings(
            "kubernetes_sd_configs: not in a cluster (KUBERNETES_SERVICE_HOST is not set): give api_server or \
             kubeconfig_file"
                .to_owned(),
        )
    };
    let host = std::env::var("KUBERNETES_SERVICE_HOST").map_err(|_| outside())?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").map_err(|_| outside())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = HttpUrl::parse(&format!("https://{host}:{port}")).map_err(DiscoveryError::Settings)?;
    let http = HttpClientConfig {
        authorization: Some(Authorization {
            r#type: "Bearer".to_owned(),
            credentials_file: FilePath(format!("{SERVICE_ACCOUNT}/token")),
            ..Authorization::default()
        }),
        tls_config: TlsConfig { ca_file: FilePath(format!("{SERVICE_ACCOUNT}/ca.crt")), ..TlsConfig::default() },
        ..HttpClientConfig::default()
    };
    Ok((url, http))
}

/// The namespace of the pod that we run in.
///
/// # Errors
/// When it runs in none.
pub(super) fn own_namespace() -> Result<String, DiscoveryError> {
    let path = format!("{SERVICE_ACCOUNT}/namespace");
    let own = std::fs::read_to_string(&path).map_err(|error| {
        DiscoveryError::Settings(format!("could not determine the pod's namespace: {path}: {error}"))
    })?;
    Ok(own.trim().to_owned())
}

/// The API and the account of a kubeconfig's current context.
///
/// # Errors
/// When the file cannot be read, lacks what its context names, or wants a way of proving oneself that is not built.
pub(super) fn of_kubeconfig(path: &Path) -> Result<(HttpUrl, HttpClientConfig), DiscoveryError> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| DiscoveryError::Settings(format!("{shown}: {error}")))?;
    // The line that is wrong is not shown: it could be a key.
    let root = parse(&shown, &bytes)
        .map_err(|problem| DiscoveryError::Settings(format!("{shown}: line {}: not YAML", problem.at.line)))?;
    let file = Kubeconfig { root: &root, dir: path.parent().unwrap_or(Path::new("/")) };
    file.account().map_err(|why| DiscoveryError::Settings(format!("{shown}: {why}")))
}

struct Kubeconfig<'a> {
    root: &'a Node,
    dir: &'a Path,
}

fn text<'a>(node: &'a Node, key: &str) -> &'a str {
    match node.get(key).map(|value| &value.kind) {
        Some(Kind::Scalar { text, .. }) => text,
        _ => "",
    }
}

/// What stands in base64 under a key; empty when there is none.
fn decoded(node: &Node, key: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(text(node, key).trim()).map_err(|_| format!("{key} is not base64"))?;
    String::from_utf8(bytes).map_err(|_| format!("{key} is not text"))
}

impl<'a> Kubeconfig<'a> {
    /// The element of a list with this name.
    fn named(&self, list: &str, name: &str, of: &str) -> Result<&'a Node, String> {
        let elements = self.root.get(list).map_or(&[][..], Node::elements);
        let found = elements.iter().find(|element| text(element, "name") == name);
        found.and_then(|element| element.get(of)).ok_or_else(|| format!("{list} has no {name:?}"))
    }

    fn file(&self, node: &Node, key: &str) -> FilePath {
        let path = text(node, key);
        if path.is_empty() { FilePath::default() } else { FilePath(join_dir(self.dir, path)) }
    }

    fn account(&self) -> Result<(HttpUrl, HttpClientConfig), String> {
        let context = self.named("contexts", text(self.root, "current-context"), "context")?;
        let cluster = self.named("clusters", text(context, "cluster"), "cluster")?;
        let url = HttpUrl::parse(text(cluster, "server"))?;
        let mut http = HttpClientConfig {
            tls_config: TlsConfig {
                ca: decoded(cluster, "certificate-authority-data")?,
                server_name: text(cluster, "tls-server-name").to_owned(),
                insecure_skip_verify: text(cluster, "insecure-skip-tls-verify") == "true",
                ..TlsConfig::default()
            },
            ..HttpClientConfig::default()
        };
        if http.tls_config.ca.is_empty() {
            http.tls_config.ca_file = self.file(cluster, "certificate-authority");
        }
        if !text(cluster, "proxy-url").is_empty() {
            http.proxy.proxy_url = Some(ProxyUrl::parse(text(cluster, "proxy-url"))?);
        }
        if !text(context, "user").is_empty() {
            self.prove(self.named("users", text(context, "user"), "user")?, &mut http)?;
        }
        Ok((url, http))
    }

    /// Who we are: a certificate, and a token or a password.
    fn prove(&self, user: &Node, http: &mut HttpClientConfig) -> Result<(), String> {
        for key in ["exec", "auth-provider", "as"] {
            if user.get(key).is_some_and(|node| !node.is_null()) {
                return Err(format!("a user with {key:?} is not supported yet: give it a token or a certificate"));
            }
        }
        let tls = &mut http.tls_config;
        (tls.cert, tls.key) =
            (decoded(user, "client-certificate-data")?, Secret::new(decoded(user, "client-key-data")?));
        if tls.cert.is_empty() {
            tls.cert_file = self.file(user, "client-certificate");
        }
        if tls.key.is_empty() {
            tls.key_file = self.file(user, "client-key");
        }
        let bearer = |credentials: Secret, credentials_file: FilePath| Authorization {
            r#type: "Bearer".to_owned(),
            credentials,
            credentials_file,
            ..Authorization::default()
        };
        if !text(user, "tokenFile").is_empty() {
            // It goes before a token, and is read again for each request.
            http.authorization = Some(bearer(Secret::default(), self.file(user, "tokenFile")));
        } else if !text(user, "token").is_empty() {
            http.authorization = Some(bearer(Secret::new(text(user, "token").to_owned()), FilePath::default()));
        } else if !text(user, "username").is_empty() {
            http.basic_auth = Some(BasicAuth {
                username: text(user, "username").to_owned(),
                password: Secret::new(text(user, "password").to_owned()),
                ..BasicAuth::default()
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(HttpUrl, HttpClientConfig), String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        std::fs::write(&path, text).expect("written");
        of_kubeconfig(&path).map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "DIR"))
    }

    const FILE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: work\n\
        contexts:\n- {name: other, context: {cluster: x, user: x}}\n- {name: work, context: {cluster: c, user: u}}\n\
        clusters:\n- name: c\n  cluster: {server: 'https://10.0.0.1:6443/base', certificate-authority-data: Y2E=, tls-server-name: api}\n\
        users:\n- name: u\n  user: ";

    #[test]
    fn the_current_context_says_where_and_as_whom() {
        let (url, http) = check(&format!("{FILE}{{token: hunter2}}\n")).expect("readable");
        assert_eq!(url.url().as_str(), "https://10.0.0.1:6443/base");
        assert_eq!((http.tls_config.ca.as_str(), http.tls_config.server_name.as_str()), ("ca", "api"));
        assert_eq!(http.authorization.expect("a token").credentials.expose(), "hunter2");

        let files = "{client-certificate: c.pem, client-key: /keys/k.pem, tokenFile: t, token: unused}\n";
        let (_, http) = check(&format!("{FILE}{files}")).expect("readable");
        assert!(http.tls_config.cert_file.0.ends_with("/c.pem") && http.tls_config.cert_file.0.len() > 6);
        assert_eq!(http.tls_config.key_file.0, "/keys/k.pem");
        let token = http.authorization.expect("a token");
        assert!(token.credentials_file.0.ends_with("/t") && token.credentials.is_empty());

        let (_, http) = check(&format!("{FILE}{{username: a, password: b}}\n")).expect("readable");
        assert_eq!(http.basic_auth.expect("a password").username, "a");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_no_secret_is_shown() {
        for (user, reason) in [
            ("{exec: {command: aws}}", "a user with \"exec\" is not supported yet: give it a token or a certificate"),
            ("{client-key-data: hunter2!}", "client-key-data is not base64"),
            ("{token: [hunter2", "not YAML"),
        ] {
            let error = check(&format!("{FILE}{user}\n")).expect_err(user);
            assert!(error.contains(reason) && !error.contains("hunter2"), "{user}: {error}");
        }
        let error = check("current-context: none\n").expect_err("no context");
        assert_eq!(error, "DIR/config: contexts has no \"none\"");
        assert!(of_kubeconfig(Path::new("/nowhere")).expect_err("no file").to_string().contains("/nowhere"));
    }
}
