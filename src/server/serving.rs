//! The HTTP side of a peer: listening from the first moment, answering for itself once there is a peer to ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use promesh_api::{ApiOptions, Guard, Router, ServeOptions};
use promesh_cluster::PeerState;
use promesh_node::MeshView;
use promesh_template::clock::duration_text;
use promesh_tsdb::ReplayProgress;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::backend::PeerBackend;
use crate::operate;
use crate::options::Options;
use crate::peer::{Peer, READY, STARTING};

/// How long running requests may take once the peer has given its shards away.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// What listens, and what it answers with.
pub(crate) struct Serving {
    /// The first address that it listens on.
    pub address: SocketAddr,
    routes: watch::Sender<Router>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Listens, and says to whoever comes that the peer starts.
    ///
    /// # Errors
    /// An address that is taken, or not this machine's: which.
    pub async fn start(
        options: &Options,
        guard: Option<&Guard>,
        progress: &Arc<ReplayProgress>,
    ) -> Result<Serving, String> {
        let progress = Arc::clone(progress);
        let (routes, _) = watch::channel(promesh_api::starting(&api_options(options), move || progress.segments()));
        let (stop, _) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(options.web.connections_max.max(1)));
        let mut bound = Vec::new();
        for address in &options.web.listen {
            let refused = |error| format!("cannot listen on TCP {address} (--web.listen-address): {error}");
            let listener = TcpListener::bind(address).await.map_err(refused)?;
            let address = listener.local_addr().map_err(refused)?;
            tracing::info!(%address, "Listening on");
            bound.push((address, listener));
        }
        let Some((address, _)) = bound.first() else { return Err("no --web.listen-address".to_owned()) };
        let address = *address;
        let mut tasks = Vec::new();
        for (_, listener) in bound {
            let serve_options = ServeOptions {
                connections: Arc::clone(&connections),
                read_timeout: options.web.read_timeout,
                stop_grace: STOP_GRACE,
                guard: guard.cloned(),
            };
            let mut stopped = stop.subscribe();
            let stop = async move {
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            tasks.push(tokio::spawn(promesh_api::serve(listener, routes.subscribe(), serve_options, stop)));
        }
        Ok(Serving { address, routes, stop, tasks })
    }

    /// From now on the peer answers, until it has given everything away.
    pub fn hand_over(&mut self, peer: &Arc<Peer>) {
        let backend = Arc::new(PeerBackend(Arc::clone(peer)));
        self.routes.send_modify(|routes| *routes = promesh_api::router(backend, api_options(&peer.options)));
        let (mut left, stop) = (peer.left.clone(), self.stop.clone());
        self.tasks.push(tokio::spawn(async move {
            let _ = left.wait_for(|left| *left).await;
            stop.send_replace(true);
        }));
    }
}

impl Peer {
    /// Starts what goes on beside the answers: targets, orders, deletes, an eye on who is down.
    pub(crate) fn accompany(self: &Arc<Self>) {
        tokio::spawn(Arc::clone(self).follow_discovery());
        tokio::spawn(Arc::clone(self).forget_sums());
        if let Some(orders) = self.orders.lock().take() {
            tokio::spawn(operate::obey(Arc::clone(self), orders));
        }
        tokio::spawn(Arc::clone(self).become_ready());
        let _ = self.hands.peer.set(Arc::downgrade(self));
        tokio::spawn(Arc::clone(self).follow_deletes());
        tokio::spawn(Arc::clone(self).follow_groups());
        if self.transport.is_some() {
            tokio::spawn(Arc::clone(&self.reach).watch(self.view.clone()));
        }
        tokio::spawn(Arc::clone(self).follow_files());
    }

    /// Ready once the mind is: it holds what it should, or waits for nobody.
    async fn become_ready(self: Arc<Self>) {
        let mut view = self.view.clone();
        let ready = |view: &Option<Arc<MeshView>>| {
            view.as_ref().is_some_and(|view| !matches!(view.state, PeerState::Joining | PeerState::Syncing))
        };
        if view.wait_for(ready).await.is_ok()
            && self.stage.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            tracing::info!(web = %self.web_address, "Server is ready to receive web requests.");
        }
    }
}

fn api_options(options: &Options) -> ApiOptions {
    let web = &options.web;
    ApiOptions {
        route_prefix: web.route_prefix.clone(),
        external_path: web.external_url.as_ref().map_or("/", |url| url.path()).to_owned(),
        page_title: web.page_title.clone(),
        cors_origin: web.cors_origin.clone(),
        enable_lifecycle: web.enable_lifecycle,
        alerting_only: options.alerting_only,
        get_concurrency: web.get_concurrency,
        timeout: web.timeout,
        timeout_shown: duration_text(i64::try_from(web.timeout.as_nanos()).unwrap_or(i64::MAX)),
        enable_admin_api: web.enable_admin_api,
        enable_remote_write_receiver: web.enable_remote_write_receiver,
        enable_otlp_receiver: web.enable_otlp_receiver,
        read_samples_max: options.remote.read_samples_max,
        read_concurrency: options.remote.read_concurrency,
        read_frame_bytes_max: options.remote.read_frame_bytes_max,
        enable_search: options.features.search_api,
        search_limit_max: web.search_limit_max,
        remote_write_messages: web.remote_write_messages.clone(),
        notifications_subscribers_max: web.notifications_subscribers_max,
        query_concurrency: options.query.concurrency,
        query_timeout: options.query.timeout,
    }
}
