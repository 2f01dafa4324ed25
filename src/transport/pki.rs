//! An own PKI instead of the cluster's secret: `--cluster.tls-config`, in Alertmanager's format.

use std::fs;
use std::path::{Path, PathBuf};

use promesh_model::{PeerId, Timestamp};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::identity::{IdentityError, Material, file_error};

/// The files of an own PKI, as `--cluster.tls-config` names them; paths are relative to that file's folder.
///
/// Source: Alertmanager `docs/https.md`, "Gossip Traffic".
#[derive(Clone, Debug)]
pub struct PkiFiles {
    path: PathBuf,
    written: Written,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tls_server_config: ServerSection,
    tls_client_config: ClientSection,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerSection {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    #[serde(default)]
    client_auth_type: Option<String>,
    #[serde(default)]
    min_version: Option<String>,
    #[serde(default)]
    max_version: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSection {
    ca_file: PathBuf,
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    server_name: Option<String>,
    #[serde(default)]
    insecure_skip_verify: bool,
    #[serde(default)]
    min_version: Option<String>,
    #[serde(default)]
    max_version: Option<String>,
}

impl PkiFiles {
    /// Reads the file that names the files.
    ///
    /// # Errors
    /// `File` when it cannot be read, `Content` when it is not as said or asks for less than mutual TLS 1.3.
    pub fn read(path: &Path) -> Result<PkiFiles, IdentityError> {
        let text = fs::read_to_string(path).map_err(|source| file_error(path, source))?;
        let content = |what: String| IdentityError::Content { path: path.display().to_string(), what };
        let written: Written = serde_saphyr::from_str(&text).map_err(|error| content(error.to_string()))?;
        let files = PkiFiles { path: path.to_owned(), written };
        files.check().map_err(content)?;
        Ok(files)
    }

    fn check(&self) -> Result<(), String> {
        let (server, client) = (&self.written.tls_server_config, &self.written.tls_client_config);
        if server.client_auth_type.as_deref().is_some_and(|kind| kind != "RequireAndVerifyClientCert") {
            return Err("client_auth_type must be RequireAndVerifyClientCert: peers always prove who they are".into());
        }
        if client.insecure_skip_verify {
            return Err("insecure_skip_verify is refused: peers always check who they talk to".into());
        }
        let versions = [&server.min_version, &server.max_version, &client.min_version, &client.max_version];
        let too_old = |version: &&Option<String>| version.as_deref().is_some_and(|version| version != "TLS13");
        if let Some(version) = versions[1..2].iter().chain(&versions[3..]).find(|version| too_old(version)) {
            return Err(format!("max_version {version:?}: QUIC needs TLS13"));
        }
        Ok(())
    }

    pub(crate) fn material(&self, peer: PeerId) -> Result<Material, IdentityError> {
        let (server, client) = (&self.written.tls_server_config, &self.written.tls_client_config);
        let server_chain = self.certificates(&server.cert_file)?;
        let server_key = self.key(&server.key_file)?;
        let (not_before, not_after) = validity(&server_chain).unwrap_or_default();
        let mut reset = Sha256::new();
        reset.update(b"promesh stateless reset");
        reset.update(server_key.secret_der());
        Ok(Material {
            peer,
            roots_for_clients: self.roots(&server.client_ca_file)?,
            roots_for_servers: self.roots(&client.ca_file)?,
            server_chain,
            server_key,
            client_chain: self.certificates(&client.cert_file)?,
            client_key: self.key(&client.key_file)?,
            server_name: client.server_name.clone(),
            reset_key: reset.finalize().into(),
            not_before,
            not_after,
        })
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let path = self.resolve(path);
        let pem = fs::read(&path).map_err(|source| file_error(&path, source))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let content = |what: String| IdentityError::Content { path: path.display().to_string(), what };
        let chain = chain.map_err(|error| content(format!("not PEM: {error}")))?;
        if chain.is_empty() { Err(content("holds no certificate".into())) } else { Ok(chain) }
    }

    fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
        let path = self.resolve(path);
        let pem = zeroize::Zeroizing::new(fs::read(&path).map_err(|source| file_error(&path, source))?);
        let what = |error| format!("holds no private key in PEM: {error}");
        let content = |error| IdentityError::Content { path: path.display().to_string(), what: what(error) };
        PrivateKeyDer::from_pem_slice(&pem).map_err(content)
    }

    fn roots(&self, path: &Path) -> Result<RootCertStore, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(path)? {
            roots.add(certificate)?;
        }
        Ok(roots)
    }
}

fn validity(chain: &[CertificateDer<'_>]) -> Option<(Timestamp, Timestamp)> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let ms = |instant: x509_parser::time::ASN1Time| Timestamp(instant.timestamp().saturating_mul(1000));
    Some((ms(leaf.validity().not_before), ms(leaf.validity().not_after)))
}
