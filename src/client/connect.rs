//! Connections: straight or through a proxy, plain or TLS.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use promesh_config::http::HttpClientConfig;
use promesh_model::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::ClientError;
use crate::auth::basic;
use crate::proxy::Proxies;
use crate::tls::{Inside, Tls};

/// Makes the connections of one client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Settings>);

struct Settings {
    /// Where everything goes, whatever the URLs say: a daemon of this machine.
    socket: Option<PathBuf>,
    proxies: Proxies,
    proxy_headers: Vec<(String, Vec<Secret>)>,
    tls: Tls,
    /// Counts connections, where these are spread over all addresses of a host.
    spread: Option<AtomicUsize>,
}

impl Connector {
    /// With a `socket` everything goes there.
    pub(crate) fn new(config: &HttpClientConfig, socket: Option<PathBuf>) -> Result<Connector, ClientError> {
        let headers = config.proxy.proxy_connect_header.iter();
        Ok(Connector(Arc::new(Settings {
            socket,
            proxies: Proxies::new(&config.proxy),
            proxy_headers: headers.map(|(name, values)| (name.clone(), values.clone())).collect(),
            tls: Tls::new(&config.tls_config, if config.enable_http2 { Inside::Http2 } else { Inside::Http1 })?,
            spread: None,
        })))
    }

    /// The same with connections spread over all addresses that a host's name has.
    pub(crate) fn spread(mut self) -> Connector {
        let settings = Arc::get_mut(&mut self.0).expect("nobody else has it yet");
        settings.spread = Some(AtomicUsize::new(0));
        self
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let settings = Arc::clone(&self.0);
        Box::pin(async move { settings.connect(&uri).await })
    }
}

impl Settings {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        if let Some(path) = &self.socket {
            let socket = UnixStream::connect(path)
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("dial unix {}: {error}", path.display())))?;
            return Ok(Stream::new(Box::new(socket), false, false));
        }
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| invalid("a URL without host"))?;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let (socket, through_http_proxy): (Box<dyn Socket>, bool) = match self.proxies.choose(https, host, port) {
            None => (Box::new(dial(host, port, self.spread.as_ref()).await?), false),
            Some(proxy) => self.through(proxy, https, host, port).await?,
        };
        if !https {
            return Ok(Stream::new(socket, through_http_proxy, false));
        }
        let config = self.tls.current().map_err(|error| invalid(&error.to_string()))?;
        let name = self.tls.server_name(host).map_err(|error| invalid(&error.to_string()))?;
        let stream = TlsConnector::from(config)
            .connect(name, socket)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("tls: {error}")))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Stream::new(Box::new(stream), false, http2))
    }

    /// A socket that reaches the host through a proxy, and whether requests on it name the host themselves.
    async fn through(&self, proxy: &Url, https: bool, host: &str, port: u16) -> io::Result<(Box<dyn Socket>, bool)> {
        let proxy_host = proxy.host_str().ok_or_else(|| invalid("a proxy URL without host"))?;
        let proxy_port = proxy.port_or_known_default().unwrap_or(1080);
        let socket = dial(proxy_host, proxy_port, self.spread.as_ref())
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("proxyconnect: {error}")))?;
        if matches!(proxy.scheme(), "socks5" | "socks5h") {
            return Ok((Box::new(socks5(socket, proxy, host, port).await?), false));
        }
        let mut socket: Box<dyn Socket> = Box::new(socket);
        if proxy.scheme() == "https" {
            let config = self.tls.current().map_err(|error| invalid(&error.to_string()))?;
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = rustls_pki_types::ServerName::try_from(proxy_host.to_owned())
                .map_err(|_| invalid("the proxy's name cannot be checked by TLS"))?;
            socket = Box::new(TlsConnector::from(Arc::new(config)).connect(name, socket).await?);
        }
        if !https {
            return Ok((socket, true));
        }
        self.tunnel(&mut socket, proxy, host, port).await?;
        Ok((socket, false))
    }

    /// `CONNECT`.
    async fn tunnel(&self, socket: &mut Box<dyn Socket>, proxy: &Url, host: &str, port: u16) -> io::Result<()> {
        const HEAD_BYTES_MAX: usize = 16 << 10;
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if !proxy.username().is_empty() {
            let authorization = basic(proxy.username(), proxy.password().unwrap_or(""));
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        for (name, values) in &self.proxy_headers {
            for value in values {
                if value.expose().contains(['\r', '\n']) || name.contains(['\r', '\n', ':']) {
                    return Err(invalid("proxy_connect_header holds a line end"));
                }
                request.push_str(&format!("{name}: {}\r\n", value.expose()));
            }
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        // Byte by byte: what follows the head belongs to TLS.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= HEAD_BYTES_MAX {
                return Err(invalid("the proxy's answer is too long"));
            }
            head.push(socket.read_u8().await?);
        }
        let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let status = String::from_utf8_lossy(status);
        match status.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(io::Error::other(format!("proxy refused: {status}"))),
        }
    }
}

/// With `spread` each connection begins with another address of the host, and takes the next one where that fails.
async fn dial(host: &str, port: u16, spread: Option<&AtomicUsize>) -> io::Result<TcpStream> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket = match spread {
        None => TcpStream::connect((host, port)).await,
        Some(count) => match tokio::net::lookup_host((host, port)).await {
            Ok(addresses) => TcpStream::connect(&*in_turn(addresses.collect(), count)).await,
            Err(error) => Err(error),
        },
    };
    let socket = socket.map_err(|error| io::Error::new(error.kind(), format!("dial tcp {host}:{port}: {error}")))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Addresses in the order in which they are tried: sorted, since resolvers shuffle them, and begun one further each time.
fn in_turn(mut addresses: Vec<SocketAddr>, count: &AtomicUsize) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    if !addresses.is_empty() {
        let first = count.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
    }
    addresses
}

/// SOCKS 5 with a name, so that the proxy resolves it; with a user and password if the URL has them.
///
/// Source: RFC 1928, RFC 1929.
async fn socks5(mut socket: TcpStream, proxy: &Url, host: &str, port: u16) -> io::Result<TcpStream> {
    let failed = |what: &str| io::Error::other(format!("socks: {what}"));
    let with_password = !proxy.username().is_empty();
    socket.write_all(&[5, 1, if with_password { 2 } else { 0 }]).await?;
    let mut answer = [0u8; 2];
    socket.read_exact(&mut answer).await?;
    match (answer[1], with_password) {
        (0, _) => {}
        (2, true) => {
            let (user, password) = (proxy.username().as_bytes(), proxy.password().unwrap_or("").as_bytes());
            let length = |text: &[u8]| u8::try_from(text.len()).map_err(|_| failed("user or password too long"));
            let mut message = vec![1, length(user)?];
            message.extend_from_slice(user);
            message.push(length(password)?);
            message.extend_from_slice(password);
            socket.write_all(&message).await?;
            socket.read_exact(&mut answer).await?;
            if answer[1] != 0 {
                return Err(failed("user or password refused"));
            }
        }
        _ => return Err(failed("no way to authenticate in common")),
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let length = u8::try_from(host.len()).map_err(|_| failed("host name too long"))?;
    let mut request = vec![5, 1, 0, 3, length];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    socket.write_all(&request).await?;
    let mut head = [0u8; 4];
    socket.read_exact(&mut head).await?;
    if head[1] != 0 {
        return Err(failed(&format!("connection refused with code {}", head[1])));
    }
    let address_bytes = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(socket.read_u8().await?),
        _ => return Err(failed("malformed answer")),
    };
    let mut rest = vec![0; address_bytes + 2];
    socket.read_exact(&mut rest).await?;
    Ok(socket)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.to_owned())
}

/// Anything that bytes flow through.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// What broke a connection, for the request that was on it: a server that refuses a certificate says so in an alert
/// after the handshake, and the task that reads the alert need not be the one that waits for the answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broken(Arc<OnceLock<String>>);

impl Broken {
    /// What broke the connection on which `error` happened, if that is known.
    pub(crate) fn of(error: &hyper_util::client::legacy::Error) -> Option<String> {
        let mut extensions = http::Extensions::new();
        error.connect_info()?.get_extras(&mut extensions);
        extensions.get::<Broken>()?.0.get().cloned()
    }

    fn note(&self, error: &io::Error) {
        // The first error is the cause, later ones follow from it.
        let _ = self.0.set(error.to_string());
    }
}

/// A connection as hyper wants it.
pub(crate) struct Stream {
    io: TokioIo<Box<dyn Socket>>,
    through_http_proxy: bool,
    http2: bool,
    broken: Broken,
}

impl Stream {
    fn new(io: Box<dyn Socket>, through_http_proxy: bool, http2: bool) -> Stream {
        Stream { io: TokioIo::new(io), through_http_proxy, http2, broken: Broken::default() }
    }
}

impl Stream {
    /// A write fails once the server has gone away. What it said before that, in an alert, is the better error: it is
    /// waited for, since a broken socket always becomes readable, be it with nothing.
    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = result else { return result };
        let mut last_words = [0; 64];
        loop {
            let mut room = hyper::rt::ReadBuf::new(&mut last_words);
            let error = match Pin::new(&mut self.io).poll_read(cx, room.unfilled()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !room.filled().is_empty() => continue,
                Poll::Ready(Ok(())) => error,
                Poll::Ready(Err(said)) => said,
            };
            self.broken.note(&error);
            return Poll::Ready(Err(error));
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.through_http_proxy).extra(self.broken.clone());
        if self.http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &result {
            self.broken.note(error);
        }
        result
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(cx, result)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.written(cx, result)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_over_all_addresses_and_past_one_that_refuses() {
        let first = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = first.local_addr().expect("an address").port();
        let third = tokio::net::TcpListener::bind(("127.0.0.3", port)).await.expect("the same port elsewhere");
        let addresses = ["127.0.0.3", "127.0.0.1", "127.0.0.2", "127.0.0.1"].map(|ip| format!("{ip}:{port}"));
        let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let count = AtomicUsize::new(0);
        let mut reached = Vec::new();
        for _ in 0..6 {
            let socket = TcpStream::connect(&*in_turn(addresses.clone(), &count)).await.expect("somebody listens");
            reached.push(socket.peer_addr().expect("an address").ip().to_string());
        }
        // Nobody listens at the second one.
        assert_eq!(reached, ["127.0.0.1", "127.0.0.3", "127.0.0.3", "127.0.0.1", "127.0.0.3", "127.0.0.3"]);
        drop(third);
        assert_eq!(in_turn(Vec::new(), &count), Vec::new());
    }

    #[tokio::test]
    async fn a_name_is_looked_up_where_connections_are_spread() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let count = AtomicUsize::new(0);
        assert!(dial("localhost", port, Some(&count)).await.is_ok());
        let error = dial("nowhere.invalid", port, Some(&count)).await.expect_err("there is no such name");
        assert!(error.to_string().starts_with("dial tcp nowhere.invalid:"), "{error}");
    }
}
