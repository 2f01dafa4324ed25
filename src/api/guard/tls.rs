//! TLS of the HTTP side, from the file's words to rustls.

use std::path::Path;
use std::sync::Arc;

use promesh_config::web::TlsServerConfig;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How a connection is taken.
pub(crate) enum Admission {
    /// As it comes.
    Clear,
    /// After a handshake.
    Tls(Secured),
}

/// What a handshake takes.
pub(crate) struct Secured {
    config: Arc<ServerConfig>,
    allowed_sans: Arc<[String]>,
}

/// TLS settings with the content of their files.
pub(super) struct Tls {
    /// With and without HTTP/2.
    configs: [Arc<ServerConfig>; 2],
    allowed_sans: Arc<[String]>,
}

impl Secured {
    /// Shakes hands.
    ///
    /// # Errors
    /// What the other side did wrong, for a log.
    pub(crate) async fn accept(self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let stream = TlsAcceptor::from(self.config).accept(stream).await.map_err(|error| error.to_string())?;
        if !self.allowed_sans.is_empty() {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            // Without one the handshake has decided already whether that is allowed.
            if let Some(certificate) = shown
                && !has_name(certificate, &self.allowed_sans)
            {
                return Err("the client's certificate has none of client_allowed_sans".to_owned());
            }
        }
        Ok(stream)
    }
}

fn has_name(certificate: &CertificateDer<'_>, allowed: &[String]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| {
        let text = match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => (*text).to_owned(),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
                Err(_) => match <[u8; 16]>::try_from(*bytes) {
                    Ok(v6) => std::net::Ipv6Addr::from(v6).to_string(),
                    Err(_) => return false,
                },
            },
            _ => return false,
        };
        allowed.contains(&text)
    })
}

impl Tls {
    /// Reads what the settings name; its bytes go to `seen`, to notice a change.
    ///
    /// # Errors
    /// What cannot be used, without quoting a key.
    pub(super) fn build(settings: &TlsServerConfig, seen: &mut Vec<u8>) -> Result<Tls, String> {
        let cert = part(&settings.cert, settings.cert_file.as_path(), "cert_file", seen)?;
        let key = part(settings.key.expose(), settings.key_file.as_path(), "key_file", seen)?;
        let ca = part(&settings.client_ca, settings.client_ca_file.as_path(), "client_ca_file", seen)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
        let chain = chain.map_err(|error| format!("certificate: {error}"))?;
        if chain.is_empty() {
            return Err("certificate: no certificate in PEM was found".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| "key: not a private key in PEM".to_owned())?;
        let provider = Arc::new(provider(settings)?);
        let versions: Vec<_> = [("TLS12", &rustls::version::TLS12), ("TLS13", &rustls::version::TLS13)]
            .into_iter()
            .filter(|(name, _)| (settings.min_version.as_str()..=settings.max_version.as_str()).contains(name))
            .map(|(_, version)| version)
            .collect();
        let verifier = verifier(settings, &ca, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions);
        let builder = builder.map_err(|error| error.to_string())?.with_client_cert_verifier(verifier);
        let clear = builder.with_single_cert(chain, key).map_err(|error| format!("certificate and key: {error}"))?;
        let with_protocols = |protocols: &[&[u8]]| {
            let mut config = clear.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Tls {
            configs: [with_protocols(&[b"http/1.1"]), with_protocols(&[b"h2", b"http/1.1"])],
            allowed_sans: settings.client_allowed_sans.clone().into(),
        })
    }

    pub(super) fn secured(&self, http2: bool) -> Secured {
        let config = Arc::clone(&self.configs[usize::from(http2)]);
        Secured { config, allowed_sans: Arc::clone(&self.allowed_sans) }
    }
}

fn part(given: &str, file: &Path, what: &str, seen: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    let bytes = if !given.is_empty() || file.as_os_str().is_empty() {
        given.as_bytes().to_vec()
    } else {
        std::fs::read(file).map_err(|error| format!("{what} {}: {error}", file.display()))?
    };
    seen.extend_from_slice(&bytes);
    seen.push(0);
    Ok(bytes)
}

/// rustls' choices, narrowed to what the file names in Go's words.
fn provider(settings: &TlsServerConfig) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    if !settings.cipher_suites.is_empty() {
        let mut wanted = Vec::new();
        for name in &settings.cipher_suites {
            // rustls calls those of TLS 1.3 TLS13_…, Go TLS_…; a _SHA256 at the end of ChaCha's is in both.
            let is_it = |suite: &&rustls::SupportedCipherSuite| {
                let own = format!("{:?}", suite.suite());
                own == *name || own.strip_prefix("TLS13_").is_some_and(|rest| name.strip_prefix("TLS_") == Some(rest))
            };
            match provider.cipher_suites.iter().find(is_it) {
                Some(suite) => wanted.push(*suite),
                None => return Err(format!("cipher_suites: {name} is unknown or not safe, and not spoken")),
            }
        }
        // As in Go: the list is about TLS 1.2, those of 1.3 cannot be switched off.
        let of_13 = |suite: &&rustls::SupportedCipherSuite| matches!(suite, rustls::SupportedCipherSuite::Tls13(_));
        wanted.extend(provider.cipher_suites.iter().filter(of_13));
        provider.cipher_suites = wanted;
    }
    if !settings.curve_preferences.is_empty() {
        let mut wanted = Vec::new();
        for name in &settings.curve_preferences {
            let own = match name.as_str() {
                "CurveP256" => rustls::NamedGroup::secp256r1,
                "CurveP384" => rustls::NamedGroup::secp384r1,
                "X25519" => rustls::NamedGroup::X25519,
                other => {
                    return Err(format!("curve_preferences: {other} is not spoken: CurveP256, CurveP384, X25519 are"));
                }
            };
            wanted.extend(provider.kx_groups.iter().find(|group| group.name() == own));
        }
        provider.kx_groups = wanted;
    }
    Ok(provider)
}

fn verifier(
    settings: &TlsServerConfig,
    ca: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let kind = settings.client_auth_type.as_str();
    match kind {
        "" | "NoClientCert" => Ok(WebPkiClientVerifier::no_client_auth()),
        "RequestClientCert" | "RequireAnyClientCert" => {
            let mandatory = kind == "RequireAnyClientCert";
            Ok(Arc::new(AnyClient { provider: Arc::clone(provider), mandatory }))
        }
        _ => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(ca) {
                let certificate = certificate.map_err(|error| format!("client_ca: {error}"))?;
                roots.add(certificate).map_err(|error| format!("client_ca: {error}"))?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let builder = if kind == "VerifyClientCertIfGiven" { builder.allow_unauthenticated() } else { builder };
            builder
                .build()
                .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
                .map_err(|error| format!("client_ca: {error}"))
        }
    }
}

/// Any certificate will do; its key must still be the client's.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
    mandatory: bool,
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
