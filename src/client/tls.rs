//! TLS of a client: whom it trusts and how it shows who it is.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use promesh_config::http::{TlsConfig, TlsVersion};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use xxhash_rust::xxh3::xxh3_128;

use crate::ClientError;

/// What is spoken inside, as it is offered in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, or HTTP/1.1.
    Http2,
    /// Something else, that nothing is said about: mail servers refuse who offers them HTTP.
    Other,
}

/// TLS settings whose files may change while we run.
pub struct Tls {
    settings: TlsConfig,
    inside: Inside,
    built: Mutex<(u128, Arc<ClientConfig>)>,
}

/// What the files of the settings hold.
struct Material {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Tls {
    /// Of settings, and for what is spoken inside.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else.
    pub fn new(settings: &TlsConfig, inside: Inside) -> Result<Tls, ClientError> {
        let material = Material::read(settings)?;
        let built = Mutex::new((material.digest(), build(settings, &material, inside)?));
        Ok(Tls { settings: settings.clone(), inside, built })
    }

    /// The configuration for a new connection: rebuilt when a file changed since the last one.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn current(&self) -> Result<Arc<ClientConfig>, ClientError> {
        let settings = &self.settings;
        let any_file = !settings.ca_file.is_empty() || !settings.cert_file.is_empty() || !settings.key_file.is_empty();
        if !any_file {
            return Ok(Arc::clone(&self.built.lock().1));
        }
        let material = Material::read(settings)?;
        let digest = material.digest();
        let mut built = self.built.lock();
        if built.0 != digest {
            *built = (digest, build(settings, &material, self.inside)?);
        }
        Ok(Arc::clone(&built.1))
    }

    /// The name that the server must prove: configured, or the URL's host.
    ///
    /// # Errors
    /// When it is none that a certificate can hold.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, ClientError> {
        let name = if self.settings.server_name.is_empty() { host } else { &self.settings.server_name };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(name.clone())
            .map_err(|_| ClientError::Settings(format!("{name:?} is not a name that TLS can check")))
    }
}

impl Material {
    fn read(settings: &TlsConfig) -> Result<Material, ClientError> {
        let part = |given: &str, file: &Path, what: &str| -> Result<Option<Vec<u8>>, ClientError> {
            if !given.is_empty() {
                return Ok(Some(given.as_bytes().to_vec()));
            }
            if file.as_os_str().is_empty() {
                return Ok(None);
            }
            let bytes = std::fs::read(file).map_err(|error| {
                ClientError::Settings(format!("unable to load specified {what} {}: {error}", file.display()))
            })?;
            Ok(Some(bytes))
        };
        Ok(Material {
            ca: part(&settings.ca, settings.ca_file.as_path(), "CA cert")?,
            cert: part(&settings.cert, settings.cert_file.as_path(), "client cert")?,
            key: part(settings.key.expose(), settings.key_file.as_path(), "client key")?,
        })
    }

    fn digest(&self) -> u128 {
        let parts = [&self.ca, &self.cert, &self.key];
        let hashes: Vec<u8> =
            parts.iter().flat_map(|part| xxh3_128(part.as_deref().unwrap_or_default()).to_le_bytes()).collect();
        xxh3_128(&hashes)
    }
}

fn build(settings: &TlsConfig, material: &Material, inside: Inside) -> Result<Arc<ClientConfig>, ClientError> {
    let bad = |what: &str, error: &dyn std::fmt::Display| ClientError::Settings(format!("tls_config: {what}: {error}"));
    // The provider is named: two of them in one process would make the default one a panic.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(settings)?)
        .map_err(|error| bad("versions", &error))?;
    let builder = if settings.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { provider, trust: Trust::Anybody }))
    } else {
        match &material.ca {
            Some(given) => {
                let trust = Trust::given(given, roots(material)?, Arc::clone(&provider))?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { provider, trust }))
            }
            None => builder.with_root_certificates(roots(material)?),
        }
    };
    let mut config = match (&material.cert, &material.key) {
        (Some(cert), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
            let chain = chain.map_err(|error| bad("client certificate", &error))?;
            // The error is not told: it could quote the key.
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("client key", &"not a private key in PEM"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| bad("client certificate", &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match inside {
        Inside::Http1 => vec![b"http/1.1".to_vec()],
        Inside::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Inside::Other => Vec::new(),
    };
    Ok(Arc::new(config))
}

fn versions(settings: &TlsConfig) -> Result<Vec<&'static SupportedProtocolVersion>, ClientError> {
    let min = settings.min_version.unwrap_or(TlsVersion::Tls12);
    let max = settings.max_version.unwrap_or(TlsVersion::Tls13);
    let spoken = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
    let versions: Vec<_> =
        spoken.into_iter().filter(|(version, _)| (min..=max).contains(version)).map(|(_, version)| version).collect();
    if versions.is_empty() {
        return Err(ClientError::Settings(
            "tls_config: TLS 1.0 and 1.1 are not spoken: allow TLS12 or TLS13".to_owned(),
        ));
    }
    Ok(versions)
}

fn roots(material: &Material) -> Result<RootCertStore, ClientError> {
    let mut store = RootCertStore::empty();
    match &material.ca {
        Some(pem) => {
            for cert in CertificateDer::pem_slice_iter(pem) {
                let cert = cert.map_err(|error| ClientError::Settings(format!("tls_config: CA: {error}")))?;
                store.add(cert).map_err(|error| ClientError::Settings(format!("tls_config: CA: {error}")))?;
            }
            if store.is_empty() {
                return Err(ClientError::Settings(
                    "tls_config: unable to use specified CA cert: none found".to_owned(),
                ));
            }
        }
        None => {
            // Without any (a scratch container) every server is refused, which its error then says.
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
    }
    Ok(store)
}

/// Whose certificates are taken.
#[derive(Debug)]
enum Trust {
    /// `insecure_skip_verify`: anybody's; signatures are still checked.
    Anybody,
    /// As WebPKI has it; and a certificate that stands in `ca_file` itself proves its server, though it may also sign
    /// others: `openssl req -x509` makes such ones unless told otherwise, WebPKI refuses them, and Go takes them.
    Given { by_chain: Arc<WebPkiServerVerifier>, given: Vec<CertificateDer<'static>> },
}

impl Trust {
    fn given(pem: &[u8], roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Trust, ClientError> {
        let by_chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let by_chain = by_chain.map_err(|error| ClientError::Settings(format!("tls_config: CA: {error}")))?;
        Ok(Trust::Given { by_chain, given: CertificateDer::pem_slice_iter(pem).flatten().collect() })
    }
}

fn proves_itself(
    given: &[CertificateDer<'static>],
    cert: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> bool {
    let is_named = || ParsedCertificate::try_from(cert).is_ok_and(|cert| verify_server_name(&cert, name).is_ok());
    let is_valid = || {
        let seconds =
            i64::try_from(now.as_secs()).ok().and_then(|at| x509_parser::time::ASN1Time::from_timestamp(at).ok());
        let parsed = x509_parser::parse_x509_certificate(cert).ok();
        parsed.zip(seconds).is_some_and(|((_, cert), now)| cert.validity().is_valid_at(now))
    };
    given.iter().any(|given| given == cert) && is_named() && is_valid()
}

/// Checks servers: their certificates as [`Trust`] says, their signatures always.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Given { by_chain, given } = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        match by_chain.verify_server_cert(cert, intermediates, name, ocsp, now) {
            Err(_) if proves_itself(given, cert, name, now) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
