use std::io::Write as _;

use promesh_config::http::BasicAuth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers every request of every connection with what `answer` makes of the request's text.
async fn serve(answer: impl Fn(String) -> Vec<u8> + Send + Sync + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut piece).await {
                    request.extend_from_slice(&piece[..count]);
                    if request.windows(4).any(|window| window == b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&std::mem::take(&mut request)).into_owned();
                        if socket.write_all(&answer(text)).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

fn plain(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

const SECOND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn gzip_is_undone_and_the_cap_counts_uncompressed_bytes() {
    let body = "metric_name 1\n".repeat(100_000);
    let zipped = gzipped(body.as_bytes());
    let url = serve(move |_| plain("200 OK", "Content-Encoding: gzip\r\n", &zipped)).await;
    let client = HttpClient::new(&HttpClientConfig::default()).unwrap();
    let (status, _, read) = client.fetch(Request::get(url.clone()), SECOND, 10 << 20).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(read == body.as_bytes());
    let error = client.fetch(Request::get(url), SECOND, 1 << 20).await.unwrap_err().to_string();
    assert!(error.contains("body size limit exceeded"), "{error}");
}

#[tokio::test]
async fn a_cut_gzip_body_is_an_error() {
    let mut zipped = gzipped(b"metric_name 1\n");
    zipped.truncate(zipped.len() - 9);
    let url = serve(move |_| plain("200 OK", "Content-Encoding: gzip\r\n", &zipped)).await;
    let client = HttpClient::new(&HttpClientConfig::default()).unwrap();
    let error = client.fetch(Request::get(url), SECOND, 1 << 20).await.unwrap_err().to_string();
    assert!(error.contains("gzip"), "{error}");
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let other = serve(|request| plain("200 OK", "", request.to_ascii_lowercase().as_bytes())).await;
    let target = other.clone();
    let first = serve(move |request| {
        let has = request.to_ascii_lowercase().contains("authorization: basic dtpw");
        let status = if has { "302 Found" } else { "401 Unauthorized" };
        plain(status, &format!("Location: {target}\r\n"), b"")
    })
    .await;
    let basic = BasicAuth { username: "u".into(), password: promesh_model::Secret::new("p"), ..BasicAuth::default() };
    let client = HttpClient::new(&HttpClientConfig { basic_auth: Some(basic), ..Default::default() }).unwrap();
    let (status, _, echo) = client.fetch(Request::get(first), SECOND, 1 << 20).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(!String::from_utf8(echo).unwrap().contains("authorization"));
    let (_, _, echo) = client.fetch(Request::get(other), SECOND, 1 << 20).await.unwrap();
    assert!(String::from_utf8(echo).unwrap().contains("authorization: basic dtpw"));
}

#[tokio::test]
async fn redirects_end() {
    let url = serve(|_| plain("302 Found", "Location: /again\r\n", b"")).await;
    let client = HttpClient::new(&HttpClientConfig::default()).unwrap();
    let error = client.send(Request::get(url), SECOND).await.unwrap_err().to_string();
    assert_eq!(error, "redirect: stopped after 10 redirects");
}

#[tokio::test]
async fn errors_say_where_without_passwords() {
    let client = HttpClient::new(&HttpClientConfig::default()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = Url::parse(&format!("http://user:hunter2@127.0.0.1:{port}/metrics")).unwrap();
    let error = client.send(Request::get(url), SECOND).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("Get \"http://user:xxxxx@127.0.0.1:{port}/metrics\": ")), "{error}");
    assert!(error.contains("refused") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn connections_are_reused() {
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while let Ok(1..) = socket.read(&mut piece).await {
                    socket.write_all(&plain("200 OK", "", b"x")).await.unwrap();
                }
            });
        }
    });
    let client = HttpClient::new(&HttpClientConfig::default()).unwrap();
    for _ in 0..5 {
        client.fetch(Request::get(url.clone()), SECOND, 100).await.unwrap();
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// A TLS server that speaks both versions of HTTP; answers what a client says first, and in which version.
async fn first_words(config: &str) -> (Option<Vec<u8>>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut tls = builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    let text = format!("scrape_configs: [{{job_name: j, tls_config: {{insecure_skip_verify: true}}{config}}}]");
    let file = promesh_config::prometheus::load_text(
        "p.yml",
        text.as_bytes(),
        std::path::Path::new("/"),
        &promesh_config::source::MemorySource::default(),
    );
    let client = HttpClient::new(&file.unwrap().jobs[0].http).unwrap();
    tokio::spawn(async move { client.send(Request::get(url), Duration::from_secs(30)).await });
    let (socket, _) = listener.accept().await.unwrap();
    let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(tls)).accept(socket).await.unwrap();
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let mut words = [0; 14];
    stream.read_exact(&mut words).await.unwrap();
    (protocol, String::from_utf8_lossy(&words).into_owned())
}

#[test]
fn who_speaks_no_http_is_offered_none() {
    // Exim ends the handshake with "no application protocol" else, as RFC 7301 says it must.
    let offered = |inside| {
        let settings = promesh_config::http::TlsConfig::default();
        Tls::new(&settings, inside).unwrap().current().unwrap().alpn_protocols.len()
    };
    assert_eq!([Inside::Other, Inside::Http1, Inside::Http2].map(offered), [0, 1, 2]);
}

#[tokio::test]
async fn http2_is_spoken_where_both_can_and_the_settings_allow_it() {
    assert_eq!(first_words("").await, (Some(b"h2".to_vec()), "PRI * HTTP/2.0".to_owned()));
    let (protocol, words) = first_words(", enable_http2: false").await;
    assert_eq!((protocol.as_deref(), words.as_str()), (Some(&b"http/1.1"[..]), "GET / HTTP/1.1"));
}

/// Fetches from a server that shows this certificate, which is in the client's `ca_file`.
async fn fetch_trusting(mut params: rcgen::CertificateParams, name: &str) -> Result<StatusCode, String> {
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let tls = Arc::new(builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(tls).accept(socket).await {
            let mut piece = [0; 1000];
            let _ = stream.read(&mut piece).await;
            stream.write_all(&plain("200 OK", "", b"x")).await.unwrap();
        }
    });
    let tls_config =
        promesh_config::http::TlsConfig { ca: cert.pem(), server_name: name.to_owned(), ..Default::default() };
    let client = HttpClient::new(&HttpClientConfig { tls_config, ..Default::default() }).unwrap();
    let answer = client.fetch(Request::get(url), SECOND, 100).await;
    answer.map(|(status, ..)| status).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_certificate_in_the_ca_file_proves_its_own_server() {
    // What `openssl req -x509` makes: its own issuer, and allowed to sign others.
    let named = || rcgen::CertificateParams::new(vec!["exporter".to_owned()]).unwrap();
    assert_eq!(fetch_trusting(named(), "exporter").await, Ok(StatusCode::OK));
    assert!(fetch_trusting(named(), "another").await.is_err());
    let mut expired = named();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    assert!(fetch_trusting(expired, "exporter").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_refused_after_the_handshake_hears_why() {
    // In TLS 1.3 the client is done before the server has looked at its certificate.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["exporter".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let wanted = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut tls = builder
        .with_client_cert_verifier(wanted.build().unwrap())
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls));
            tokio::spawn(async move { acceptor.accept(socket).await.map(drop) });
        }
    });
    for enable_http2 in [true, false] {
        let tls_config = promesh_config::http::TlsConfig { insecure_skip_verify: true, ..Default::default() };
        let config = HttpClientConfig { tls_config, enable_http2, ..Default::default() };
        // Many at once: who is first, the task that reads the alert or the one that sends the request, is chance.
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let (client, url) = (HttpClient::new(&config).unwrap(), url.clone());
                tokio::spawn(async move { client.fetch(Request::get(url), SECOND, 100).await })
            })
            .collect();
        for answer in asked {
            let error = answer.await.unwrap().unwrap_err().to_string();
            assert!(error.contains("CertificateRequired"), "{error}");
        }
    }
}
