//! Who may talk to whom: one secret, from it the cluster's CA, from that a certificate for each peer.
//!
//! Every peer derives the same Ed25519 CA key from the secret and the cluster's label, and signs its own certificate
//! with it. There is nothing to hand out but the secret, and a peer with another secret or another label has another
//! CA: the handshake fails before a byte of ours is sent. Certificates live 30 days and start a day in the past, so
//! that clocks may differ; they are renewed at two thirds.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use promesh_model::{PeerId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::event::Class;
use crate::pki::PkiFiles;

/// The fewest bytes of a secret, surrounding white space aside.
pub const SECRET_BYTES_MIN: usize = 32;
const SECRET_BYTES_MAX: usize = 64 << 10;
/// The name in every certificate; peers are told apart by their URN, not by DNS.
const SERVER_NAME: &str = "peer.promesh.internal";
const DAY_MS: i64 = 86_400_000;
const LIFETIME_DAYS: i64 = 30;
/// Not a secret, and not meant to be one: it makes a lone developer's loopback peers find each other.
const DEVELOPMENT_SECRET: &[u8] = b"promesh development key: loopback addresses only, protects nothing";
/// PKCS#8 around a raw Ed25519 seed (RFC 8410 §7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];

/// Why a peer has no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A secret of too few bytes is guessed too soon; one of too many is not a secret but a mistaken file.
    #[error(
        "the cluster secret has {0} bytes; it needs {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} (`promesh cluster secret` prints one)"
    )]
    SecretLength(usize),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{path}: {what}")]
    Content {
        /// Which.
        path: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// The certificate or the TLS configuration could not be made.
    #[error("TLS identity: {0}")]
    Tls(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        IdentityError::Tls(error.to_string())
    }
}

impl From<rustls::Error> for IdentityError {
    fn from(error: rustls::Error) -> Self {
        IdentityError::Tls(error.to_string())
    }
}

pub(crate) fn file_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File { path: path.display().to_string(), source }
}

/// The cryptography that everything here is told to use; a second provider in the tree would make rustls' own choice
/// panic.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system's random source answers, else no key of this process could be trusted");
    bytes
}

/// A new secret: 32 random bytes in base64, ready for `--cluster.secret-file`.
pub fn generate_secret() -> String {
    STANDARD.encode(random_bytes::<32>())
}

/// What all peers of a cluster know and nobody else. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct ClusterSecret {
    bytes: Zeroizing<Vec<u8>>,
    development: bool,
}

impl std::fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(promesh_model::secret::MASK)
    }
}

impl ClusterSecret {
    /// Takes a secret's bytes; surrounding white space does not count.
    ///
    /// # Errors
    /// `SecretLength` for fewer than 32 bytes or more than 64 KiB.
    pub fn new(bytes: &[u8]) -> Result<ClusterSecret, IdentityError> {
        let bytes = bytes.trim_ascii();
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(IdentityError::SecretLength(bytes.len()));
        }
        Ok(ClusterSecret { bytes: Zeroizing::new(bytes.to_vec()), development: false })
    }

    /// Reads `--cluster.secret-file`.
    ///
    /// # Errors
    /// `File` when it cannot be read, else as [`ClusterSecret::new`].
    pub fn read(path: &Path) -> Result<ClusterSecret, IdentityError> {
        let bytes = Zeroizing::new(fs::read(path).map_err(|source| file_error(path, source))?);
        ClusterSecret::new(&bytes)
    }

    /// The key every build knows, for peers on loopback addresses without a secret. That the addresses are loopback is
    /// checked where the flags are.
    pub fn development() -> ClusterSecret {
        ClusterSecret { bytes: Zeroizing::new(DEVELOPMENT_SECRET.to_vec()), development: true }
    }

    /// Whether this is the key that every build knows.
    pub fn is_development(&self) -> bool {
        self.development
    }

    fn derive(&self, purpose: &str, info: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"promesh cluster v1"), &self.bytes)
            .expand_multi_info(&[purpose.as_bytes(), b"\0", info], out.as_mut())
            .expect("32 bytes are within what HKDF-SHA256 gives");
        out
    }

    fn authority(&self, label: &str) -> Result<CertifiedIssuer<'static, KeyPair>, IdentityError> {
        let seed = self.derive("ca ed25519", label.as_bytes());
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(48));
        pkcs8.extend_from_slice(&ED25519_PKCS8_PREFIX);
        pkcs8.extend_from_slice(seed.as_ref());
        let der = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        // Alike in every cluster: a certificate seen on the wire says nothing about the label.
        params.distinguished_name = common_name("promesh cluster CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(CertifiedIssuer::self_signed(params, key)?)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A peer's own key pair. Kept in the data directory, so that a restarted peer is known by the same key.
pub struct PeerKey(KeyPair);

impl std::fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(promesh_model::secret::MASK)
    }
}

impl PeerKey {
    /// A new key.
    ///
    /// # Errors
    /// `Tls` when the system gives no randomness.
    pub fn generate() -> Result<PeerKey, IdentityError> {
        Ok(PeerKey(KeyPair::generate_for(&rcgen::PKCS_ED25519)?))
    }

    /// Reads the key at `path`, or makes one and stores it there, readable by the owner only.
    ///
    /// # Errors
    /// `File` and `Content` for a file that cannot be used; a damaged key is never replaced unasked.
    pub fn load_or_create(path: &Path) -> Result<PeerKey, IdentityError> {
        match fs::read_to_string(path) {
            Ok(pem) => {
                let pem = Zeroizing::new(pem);
                let what = |error| format!("not a private key in PEM ({error}); remove it to have a new one made");
                let content = |error| IdentityError::Content { path: path.display().to_string(), what: what(error) };
                Ok(PeerKey(KeyPair::from_pem(&pem).map_err(content)?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = PeerKey::generate()?;
                let pem = Zeroizing::new(key.0.serialize_pem());
                write_private(path, pem.as_bytes()).map_err(|source| file_error(path, source))?;
                Ok(key)
            }
            Err(source) => Err(file_error(path, source)),
        }
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What a peer shows and what it demands: certificate, key, trusted CA, and the keys that make a restarted peer answer
/// packets of its former life.
#[derive(Clone)]
pub struct TlsIdentity {
    pub(crate) peer: PeerId,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: [Arc<ClientConfig>; 2],
    /// The name asked of the other side's certificate; none: its IP address.
    pub(crate) server_name: Option<String>,
    /// Signs stateless resets and connection ids; the same in each life of a peer, so that its partners learn at once,
    /// not by time-out, that it restarted.
    pub(crate) reset_key: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("peer", &self.peer).field("not_after", &self.not_after).finish()
    }
}

impl TlsIdentity {
    /// An identity from the cluster's secret: a certificate of 30 days that starts a day before `now`.
    ///
    /// # Errors
    /// `Tls` when the key does not sign.
    pub fn from_secret(
        secret: &ClusterSecret,
        label: &str,
        peer: PeerId,
        key: &PeerKey,
        now: Timestamp,
    ) -> Result<TlsIdentity, IdentityError> {
        TlsIdentity::from_secrets(secret, &[], label, peer, key, now)
    }

    /// The same while a secret is being changed: peers whose certificates come from one of the `also_trusted` secrets
    /// belong to the cluster too.
    ///
    /// # Errors
    /// `Tls` when the key does not sign.
    pub fn from_secrets(
        secret: &ClusterSecret,
        also_trusted: &[ClusterSecret],
        label: &str,
        peer: PeerId,
        key: &PeerKey,
        now: Timestamp,
    ) -> Result<TlsIdentity, IdentityError> {
        let issuer = secret.authority(label)?;
        let first_day = now.ms().div_euclid(DAY_MS) - 1;
        let leaf = leaf_params(peer, first_day).signed_by(&key.0, &issuer)?;
        // Only the subject and the key of a trust anchor count, so each peer's own CA certificate serves as well as any.
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone())?;
        for other in also_trusted {
            roots.add(other.authority(label)?.der().clone())?;
        }
        let material = Material {
            peer,
            roots_for_clients: roots.clone(),
            roots_for_servers: roots,
            server_chain: vec![leaf.der().clone()],
            server_key: PrivatePkcs8KeyDer::from(key.0.serialize_der()).into(),
            client_chain: vec![leaf.der().clone()],
            client_key: PrivatePkcs8KeyDer::from(key.0.serialize_der()).into(),
            server_name: Some(SERVER_NAME.to_owned()),
            reset_key: *secret.derive("stateless reset", &peer.to_bytes()),
            not_before: Timestamp(first_day * DAY_MS),
            not_after: Timestamp((first_day + 1 + LIFETIME_DAYS) * DAY_MS),
        };
        material.build()
    }

    /// An identity from an own PKI, in the format of Alertmanager's `--cluster.tls-config`. Certificates there name no
    /// peers: the id is the one that the hello claims.
    ///
    /// # Errors
    /// `File`, `Content` and `Tls`, each naming the file.
    pub fn from_pki(files: &PkiFiles, peer: PeerId) -> Result<TlsIdentity, IdentityError> {
        files.material(peer)?.build()
    }

    /// When to make the next certificate: two thirds through this one's life, less up to a tenth of it by `seed`, so
    /// that peers started together do not renew together.
    pub fn renew_at(&self, seed: u64) -> Timestamp {
        let life = self.not_after.ms() - self.not_before.ms();
        let jitter = (life / 10).max(1);
        Timestamp(self.not_before.ms() + life * 2 / 3 - (seed % jitter as u64) as i64)
    }

    /// When the certificate ends.
    pub fn expires_at(&self) -> Timestamp {
        self.not_after
    }

    /// Whose it is.
    pub fn peer(&self) -> PeerId {
        self.peer
    }
}

/// What an identity is made of, whichever way it came.
pub(crate) struct Material {
    pub peer: PeerId,
    pub roots_for_clients: RootCertStore,
    pub roots_for_servers: RootCertStore,
    pub server_chain: Vec<CertificateDer<'static>>,
    pub server_key: PrivateKeyDer<'static>,
    pub client_chain: Vec<CertificateDer<'static>>,
    pub client_key: PrivateKeyDer<'static>,
    pub server_name: Option<String>,
    pub reset_key: [u8; 32],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Material {
    fn build(self) -> Result<TlsIdentity, IdentityError> {
        let tls13 = [&rustls::version::TLS13];
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots_for_clients), provider())
            .build()
            .map_err(|error| IdentityError::Tls(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&tls13)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.server_chain, self.server_key)?;
        server.alpn_protocols = Class::ALL.iter().map(|class| class.alpn().to_vec()).collect();
        // No resumption: a renewed or revoked certificate counts from the next connection on; and so no 0-RTT.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&tls13)?
            .with_root_certificates(self.roots_for_servers)
            .with_client_auth_cert(self.client_chain, self.client_key)?;
        client.resumption = Resumption::disabled();
        let client = Class::ALL.map(|class| {
            let mut client = client.clone();
            client.alpn_protocols = vec![class.alpn().to_vec()];
            Arc::new(client)
        });
        Ok(TlsIdentity {
            peer: self.peer,
            server: Arc::new(server),
            client,
            server_name: self.server_name,
            reset_key: self.reset_key,
            not_before: self.not_before,
            not_after: self.not_after,
        })
    }
}

fn leaf_params(peer: PeerId, first_day: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let start_of = |day| {
        let (year, month, day) = promesh_model::time::civil_from_days(day);
        rcgen::date_time_ymd(year as i32, month as u8, day as u8)
    };
    params.not_before = start_of(first_day);
    params.not_after = start_of(first_day + 1 + LIFETIME_DAYS);
    params.distinguished_name = common_name("promesh peer");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let ascii = |name: &str| name.try_into().expect("plain ASCII");
    params.subject_alt_names = vec![SanType::DnsName(ascii(SERVER_NAME)), SanType::URI(ascii(&urn(peer)))];
    params
}

fn urn(peer: PeerId) -> String {
    format!("urn:uuid:{}", Uuid::from_u128(peer.0).hyphenated())
}

/// What a verified certificate says: the peer it names, if it names one, and a hash of its public key.
pub(crate) fn read_certificate(der: &[u8]) -> Option<(Option<PeerId>, [u8; 32])> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let key: [u8; 32] = Sha256::digest(certificate.public_key().raw).into();
    let names = certificate.subject_alternative_name().ok().flatten();
    let peer = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("urn:uuid:")?.parse().ok(),
            _ => None,
        })
    });
    Some((peer, key))
}
