//! Serving the routes on a listener: so many connections at once, none that dawdles, a clean end.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tower::util::MapRequest;
use tracing::{debug, warn};

use crate::first_line::FirstLine;
use crate::guard::{Admission, Guard};

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// From where a request came; an extension of every request that is served here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub IpAddr);

/// Limits of the HTTP side.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Connections at once; shared between listeners that get the same semaphore.
    pub connections: Arc<Semaphore>,
    /// How long the head of a request may take, and a connection may be idle between requests.
    pub read_timeout: Duration,
    /// How long running requests may take to end once it stops.
    pub stop_grace: Duration,
    /// Who may come in; everybody, in the clear, without one.
    pub guard: Option<Guard>,
}

impl ServeOptions {
    /// Limits with so many connections.
    pub fn new(connections_max: usize, read_timeout: Duration) -> ServeOptions {
        let connections = Arc::new(Semaphore::new(connections_max.max(1)));
        ServeOptions { connections, read_timeout, stop_grace: Duration::from_secs(5), guard: None }
    }
}

/// Serves until `stop` is done, then lets running requests end within the grace. A connection keeps the routes that
/// stood when it came.
pub async fn serve(
    listener: TcpListener,
    routes: watch::Receiver<Router>,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) {
    let (stopping, watcher) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        // A place first: what cannot be served waits in the kernel's queue.
        let accepted = async {
            let place = Arc::clone(&options.connections).acquire_owned().await.expect("never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let (watcher, read_timeout) = (watcher.clone(), options.read_timeout);
                let guard = options.guard.clone();
                let router = guarded(routes.borrow().clone(), guard.as_ref());
                tokio::spawn(async move {
                    take(stream, client.ip(), guard.as_ref(), router, read_timeout, watcher).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: others must close first.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(watcher);
    stopping.send_replace(true);
    // Every connection holds a watcher; when the last is gone, so are they.
    let _ = timeout(options.stop_grace, stopping.closed()).await;
}

/// Nobody comes in whom the guard does not know.
fn guarded(router: Router, guard: Option<&Guard>) -> Router {
    match guard {
        Some(guard) => router.layer(axum::middleware::from_fn_with_state(guard.clone(), crate::guard::admit)),
        None => router,
    }
}

/// Serves one connection, after a handshake where one is wanted.
async fn take(
    stream: TcpStream,
    client: IpAddr,
    guard: Option<&Guard>,
    router: Router,
    read_timeout: Duration,
    stopping: watch::Receiver<bool>,
) {
    // An answer in several writes must not wait for the other side's acknowledgement.
    let _ = stream.set_nodelay(true);
    match guard.map_or(Admission::Clear, Guard::admission) {
        Admission::Clear => run(stream, client, router, read_timeout, stopping).await,
        Admission::Tls(secured) => match timeout(HANDSHAKE_MAX.min(read_timeout), secured.accept(stream)).await {
            Ok(Ok(stream)) => run(stream, client, router, read_timeout, stopping).await,
            Ok(Err(error)) => debug!(error, "TLS handshake failed"),
            Err(_) => debug!("TLS handshake took too long"),
        },
    }
}

async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    client: IpAddr,
    router: Router,
    read_timeout: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(read_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(read_timeout);
    let service = MapRequest::new(router, move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ClientAddress(client));
        request
    });
    let connection = builder.serve_connection(TokioIo::new(FirstLine::new(stream)), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let told_to_stop = async {
        // An error means that nobody can say so any more, which says it as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = told_to_stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}
