use std::path::PathBuf;

use axum::Router;
use axum::routing::get;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::serve::{ServeOptions, serve};

struct Server {
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
}

async fn started(web: &str, files: &[(&str, String)]) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let path: PathBuf = folder.path().join("web.yml");
    std::fs::write(&path, web).expect("written");
    let guard = Guard::load(&path, 7).expect("it loads");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = Router::new().route("/", get(|| async { "inside" }));
    let options = ServeOptions { guard: Some(guard), ..ServeOptions::new(8, Duration::from_secs(5)) };
    let (_, routes) = tokio::sync::watch::channel(router);
    tokio::spawn(serve(listener, routes, options, std::future::pending()));
    Server { folder, address }
}

async fn ask(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin), more: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return String::new();
    }
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn clear(server: &Server, more: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    ask(&mut stream, more).await
}

fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {encoded}\r\n")
}

#[tokio::test]
async fn only_users_of_the_file_come_in_and_a_changed_file_counts() {
    let hash = bcrypt::hash("right", 4).expect("hashed");
    let web =
        format!("basic_auth_users: {{alice: '{hash}'}}\nhttp_server_config: {{headers: {{X-Frame-Options: deny}}}}\n");
    let server = started(&web, &[]).await;
    let answer = clear(&server, "").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("www-authenticate: Basic") && answer.contains("x-frame-options: deny"), "{answer}");
    assert!(clear(&server, &basic("alice", "wrong")).await.starts_with("HTTP/1.1 401"));
    assert!(clear(&server, &basic("bob", "right")).await.starts_with("HTTP/1.1 401"));
    for _ in 0..2 {
        let answer = clear(&server, &basic("alice", "right")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-frame-options: deny"), "{answer}");
    }
    let changed = bcrypt::hash("other", 4).expect("hashed");
    std::fs::write(server.folder.path().join("web.yml"), format!("basic_auth_users: {{alice: '{changed}'}}\n"))
        .expect("written");
    tokio::time::sleep(LOOK_PERIOD + Duration::from_millis(100)).await;
    assert!(clear(&server, &basic("alice", "right")).await.starts_with("HTTP/1.1 401"));
    assert!(clear(&server, &basic("alice", "other")).await.starts_with("HTTP/1.1 200"));
    // What cannot be read leaves the old one in use.
    std::fs::write(server.folder.path().join("web.yml"), "basic_auth_users: {alice: clear}\n").expect("written");
    tokio::time::sleep(LOOK_PERIOD + Duration::from_millis(100)).await;
    assert!(clear(&server, &basic("alice", "other")).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn more_requests_than_the_rate_are_refused() {
    let server = started("rate_limit: {interval: 1h, burst: 2}\n", &[]).await;
    assert!(clear(&server, "").await.starts_with("HTTP/1.1 200"));
    assert!(clear(&server, "").await.starts_with("HTTP/1.1 200"));
    assert!(clear(&server, "").await.starts_with("HTTP/1.1 429"));
}

struct Made {
    cert: String,
    key: String,
}

fn signed(name: &str, issuer: Option<&(rcgen::CertifiedIssuer<'_, rcgen::KeyPair>, ())>) -> Made {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let cert = match issuer {
        Some((issuer, ())) => params.signed_by(&key, issuer).expect("signed"),
        None => params.self_signed(&key).expect("signed"),
    };
    Made { cert: cert.pem(), key: key.serialize_pem() }
}

/// A request over TLS; empty when the handshake, or what follows it, fails.
async fn secured(server: &Server, trusted: &str, own: Option<&Made>) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).expect("PEM")).expect("added");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    let config = match own {
        Some(made) => {
            let chain = vec![CertificateDer::from_pem_slice(made.cert.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(server.address).await.expect("connects");
    let name = ServerName::try_from("here.example").expect("a name");
    match tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(mut stream) => ask(&mut stream, "").await,
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_in_use_without_a_restart() {
    let (first, second) = (signed("here.example", None), signed("here.example", None));
    let web = "tls_server_config: {cert_file: a.crt, key_file: a.key}\n";
    let server = started(web, &[("a.crt", first.cert.clone()), ("a.key", first.key.clone())]).await;
    assert!(secured(&server, &first.cert, None).await.starts_with("HTTP/1.1 200"));
    assert_eq!(secured(&server, &second.cert, None).await, "");
    std::fs::write(server.folder.path().join("a.crt"), &second.cert).expect("written");
    std::fs::write(server.folder.path().join("a.key"), &second.key).expect("written");
    tokio::time::sleep(LOOK_PERIOD + Duration::from_millis(100)).await;
    assert!(secured(&server, &second.cert, None).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn clients_show_a_certificate_with_an_allowed_name() {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let issuer = (rcgen::CertifiedIssuer::self_signed(params, key).expect("signed"), ());
    let (own, good, wrong) =
        (signed("here.example", None), signed("good.example", Some(&issuer)), signed("bad.example", Some(&issuer)));
    let stranger = signed("good.example", None);
    let web = "tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n  client_ca_file: ca.crt\n  \
               client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [good.example]\n";
    let files = [("a.crt", own.cert.clone()), ("a.key", own.key.clone()), ("ca.crt", issuer.0.pem())];
    let server = started(web, &files).await;
    assert!(secured(&server, &own.cert, Some(&good)).await.starts_with("HTTP/1.1 200"));
    assert_eq!(secured(&server, &own.cert, Some(&wrong)).await, "");
    assert_eq!(secured(&server, &own.cert, Some(&stranger)).await, "");
    assert_eq!(secured(&server, &own.cert, None).await, "");
}
