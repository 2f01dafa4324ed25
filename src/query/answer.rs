//! Asking: parts go out at once, come back in any order, and are joined.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use promesh_model::PeerId;
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SelectionCursor, SeriesColumns, SeriesCursor,
    StorageError,
};
use promesh_model::{Monotonic, Timestamp};
use promesh_node::MeshView;
use promesh_node::reading::{Reading, is_heard};
use promesh_transport::{Class, FrameReceiver, Transport};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::serve::restricted;
use crate::wire::{
    DONE, FAILED, LABEL_SETS, LIST, Listed, SELECT, SERIES, TEXTS, WireList, WireRequest, WireSelect, WireSeries,
};

/// A part from which nothing comes for so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Reads over all peers. Used from threads that may block, never from within the runtime.
#[derive(Clone)]
pub struct MeshQueryable {
    local: Arc<dyn Queryable>,
    view: watch::Receiver<Option<Arc<MeshView>>>,
    transport: Option<Transport>,
    runtime: Handle,
    clock: fn() -> Monotonic,
}

/// How long a listing waits for the slowest peer.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// What a part gave, a selection a request.
type Part = Vec<Selection>;

impl MeshQueryable {
    /// Reads `local` and, through `transport`, the peers of the newest view; `clock` says who is late.
    pub fn new(
        local: Arc<dyn Queryable>,
        view: watch::Receiver<Option<Arc<MeshView>>>,
        transport: Option<Transport>,
        runtime: Handle,
        clock: fn() -> Monotonic,
    ) -> MeshQueryable {
        MeshQueryable { local, view, transport, runtime, clock }
    }

    /// Whether this peer alone has all samples of some requests.
    fn all_here(&self, requests: &[SelectRequest]) -> bool {
        let Some((view, _)) = self.others() else { return true };
        let (start, end) = span(requests);
        ShardSet::all().difference(&view.own.covering_live(start, end)).is_empty()
    }

    /// The view and the transport, when there is anybody else to ask.
    pub(crate) fn others(&self) -> Option<(Arc<MeshView>, Transport)> {
        let view = self.view.borrow().clone()?;
        let transport = self.transport.clone()?;
        (!view.peers.is_empty()).then_some((view, transport))
    }
}

/// From the first to the last instant of some requests.
fn span(requests: &[SelectRequest]) -> (Timestamp, Timestamp) {
    let start = requests.iter().map(|request| request.start).min().unwrap_or_default();
    let end = requests.iter().map(|request| request.end).max().unwrap_or_default();
    (start, end)
}

/// One query's parts.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) local: Arc<dyn Queryable>,
    pub(crate) view: Arc<MeshView>,
    /// Who is there by now.
    pub(crate) newest: watch::Receiver<Option<Arc<MeshView>>>,
    pub(crate) transport: Transport,
    pub(crate) requests: Arc<Vec<SelectRequest>>,
    pub(crate) budget: Budget,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) clock: fn() -> Monotonic,
}

impl MeshQueryable {
    /// Begins a query by one view.
    pub(crate) fn asking(
        &self,
        view: Arc<MeshView>,
        transport: Transport,
        requests: Vec<SelectRequest>,
        budget: &Budget,
        (start, end): (Timestamp, Timestamp),
    ) -> Asking {
        Asking {
            local: Arc::clone(&self.local),
            view,
            newest: self.view.clone(),
            transport,
            requests: Arc::new(requests),
            budget: budget.clone(),
            start,
            end,
            clock: self.clock,
        }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Reads some shards; of some peers only what nobody else has.
    pub(crate) fn read(
        &self,
        asking: Asking,
        shards: ShardSet,
        avoided: Vec<PeerId>,
    ) -> Result<Vec<Selection>, StorageError> {
        let requests = Arc::clone(&asking.requests);
        let mut joined = self.runtime.block_on(asking.read(shards, avoided))?;
        for (selection, request) in joined.iter_mut().zip(&*requests) {
            tidy(selection, request.hints.limit);
        }
        Ok(joined)
    }
}

impl Queryable for MeshQueryable {
    fn cursors<'a>(
        &'a self,
        requests: &[SelectRequest],
        budget: &Budget,
    ) -> Result<Vec<Box<dyn SeriesCursor + 'a>>, StorageError> {
        if self.all_here(requests) {
            return self.local.cursors(requests, budget);
        }
        let boxed = |selection| Box::new(SelectionCursor::from(selection)) as Box<dyn SeriesCursor + 'a>;
        Ok(self.select(requests, budget)?.into_iter().map(boxed).collect())
    }

    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        let Some((view, transport)) = self.others() else { return self.local.select(requests, budget) };
        let (start, end) = span(requests);
        let asking = self.asking(view, transport, requests.to_vec(), budget, (start, end));
        self.read(asking, ShardSet::all(), Vec::new())
    }

    fn at_hand(&self, requests: &[SelectRequest]) -> Option<(&dyn Queryable, usize)> {
        if self.all_here(requests) { self.local.at_hand(requests) } else { None }
    }

    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError> {
        let own = self.local.label_names(request, budget)?;
        Ok(self.list_texts(own, WireList::of(Listed::Names, request), request.limit))
    }

    fn label_values(
        &self,
        name: &str,
        request: &ListRequest,
        budget: &Budget,
    ) -> Result<Listing<String>, StorageError> {
        let own = self.local.label_values(name, request, budget)?;
        Ok(self.list_texts(own, WireList::of(Listed::Values(name.to_owned()), request), request.limit))
    }

    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError> {
        let own = self.local.series(request, budget)?;
        let asked = codec::encode(&WireList::of(Listed::Series, request));
        let theirs = self.list(&asked, |kind, payload| {
            (kind == LABEL_SETS).then(|| codec::decode::<Vec<Labels>, BULK_BYTES_MAX>(payload).unwrap_or_default())
        });
        Ok(join_lists(own, theirs, request.limit))
    }
}

impl MeshQueryable {
    fn list_texts(&self, own: Listing<String>, asked: WireList, limit: usize) -> Listing<String> {
        let theirs = self.list(&codec::encode(&asked), |kind, payload| {
            (kind == TEXTS).then(|| codec::decode::<Vec<String>, BULK_BYTES_MAX>(payload).unwrap_or_default())
        });
        join_lists(own, theirs, limit)
    }

    /// Asks every reachable peer; one that does not answer has a replica that does.
    fn list<T>(&self, asked: &[u8], read: impl Fn(u8, &[u8]) -> Option<Vec<T>> + Sync) -> Vec<T> {
        let Some((view, transport)) = self.others() else { return Vec::new() };
        let living = view.peers.iter().filter(|peer| is_heard(peer));
        let parts = living.map(|peer| {
            let (transport, read, mut newest) = (transport.clone(), &read, self.view.clone());
            async move {
                let mut items = Vec::new();
                let asked = async {
                    let asking = transport.request_stream(peer.address, Class::Bulk, LIST, asked, PATIENCE);
                    let Ok(mut frames) = asking.await else { return };
                    while let Ok(Some((kind, payload))) = frames.recv().await {
                        match read(kind, &payload) {
                            Some(piece) => items.extend(piece),
                            None => break,
                        }
                    }
                };
                // Each of the others has a part of what it has; together they have all.
                tokio::select! {
                    () = asked => {}
                    () = not_heard(&mut newest, peer.id) => {}
                    () = tokio::time::sleep(LIST_PATIENCE) => {}
                }
                items
            }
        });
        // Timers have to be made within the runtime.
        let answers = self.runtime.block_on(async move { join_all(parts).await });
        answers.into_iter().flatten().collect()
    }
}

/// Waits until a peer is not heard any more.
pub(crate) async fn not_heard(newest: &mut watch::Receiver<Option<Arc<MeshView>>>, peer: PeerId) {
    let gone = |view: &Option<Arc<MeshView>>| view.as_ref().is_some_and(|view| !view.peer(peer).is_some_and(is_heard));
    if newest.wait_for(gone).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn join_lists<T: Ord>(own: Listing<T>, theirs: Vec<T>, limit: usize) -> Listing<T> {
    let all: BTreeSet<T> = own.items.into_iter().chain(theirs).collect();
    let mut items: Vec<T> = all.into_iter().collect();
    let mut warnings = own.warnings;
    if limit > 0 && items.len() > limit {
        items.truncate(limit);
        if warnings.is_empty() {
            warnings.push("results truncated due to limit".to_owned());
        }
    }
    Listing { items, warnings }
}

/// What became of a question to one peer.
enum News {
    Arrived,
    Ended(Result<Part, StorageError>),
}

/// How a warning of what an answer may lack goes on, after the number of shards.
const MISSING: &str = " of 16384 shards have no peer that answers: series may be missing";

impl Asking {
    /// Reads some shards; of peers that did not do before what was asked of them, only what nobody else has.
    async fn read(self, shards: ShardSet, avoided: Vec<PeerId>) -> Result<Part, StorageError> {
        let now = self.clock;
        let mut reading = Reading::new(&self.view, &shards, self.start, self.end, avoided);
        let (mut view, mut newest, mut is_told) = (Arc::clone(&self.view), self.newest.clone(), true);
        let (news, mut told) = mpsc::unbounded_channel();
        let mut asks = JoinSet::new();
        let mut joined: Part = self.requests.iter().map(|_| Selection::default()).collect();
        let mut failures = Vec::new();
        loop {
            for (ask, peer, shards) in reading.ask(&view, now()) {
                let asked = self.clone().ask_noted(&view, (ask, peer), shards, &news);
                asks.spawn(asked);
            }
            if reading.is_done() {
                break;
            }
            let wake = async {
                match reading.wakes_at(now()) {
                    Some(at) => tokio::time::sleep(at.since(now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((ask, became)) = told.recv() => match became {
                    News::Arrived => reading.arrived(ask),
                    News::Ended(Ok(part)) => {
                        reading.answered(ask);
                        join_parts(&mut joined, part);
                    }
                    News::Ended(Err(error @ (StorageError::Cancelled | StorageError::TooManySamples))) => return Err(error),
                    News::Ended(Err(error)) => {
                        reading.failed(ask);
                        failures.push(error);
                    }
                },
                changed = newest.changed(), if is_told => match changed {
                    Ok(()) => view = newest.borrow_and_update().clone().unwrap_or(view),
                    Err(_) => is_told = false,
                },
                () = wake => {}
            }
        }
        let missing = reading.missing().len();
        if missing > 0 {
            let failed = failures.iter().map(ToString::to_string);
            let warnings = std::iter::once(format!("{missing}{MISSING}")).chain(failed);
            joined.iter_mut().take(1).for_each(|selection| selection.warnings.extend(warnings.clone()));
        }
        Ok(joined)
    }

    /// Asks one peer, or reads here, and says what comes of it.
    fn ask_noted(
        self,
        view: &MeshView,
        (ask, peer): (usize, PeerId),
        shards: ShardSet,
        news: &mpsc::UnboundedSender<(usize, News)>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (news, address) = (news.clone(), view.peer(peer).map(|peer| peer.address));
        async move {
            let arrived = || {
                let _ = news.send((ask, News::Arrived));
            };
            let work = async {
                match address {
                    None => self.read_local(shards).await,
                    Some(address) => self.ask((peer, address), shards, arrived).await,
                }
            };
            let panicked = |_| Err(StorageError::Failed("a part of the query panicked".to_owned()));
            let ended = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
            // Nobody listens once the answer is whole.
            let _ = news.send((ask, News::Ended(ended)));
        }
    }

    async fn read_local(self, shards: ShardSet) -> Result<Part, StorageError> {
        let read = move || self.local.select(&restricted(&self.requests, &shards), &self.budget);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(StorageError::Failed(error.to_string())))
    }

    async fn ask(
        self,
        (peer, address): (PeerId, SocketAddr),
        shards: ShardSet,
        arrived: impl FnOnce(),
    ) -> Result<Part, StorageError> {
        let failed = |error: String| StorageError::Failed(format!("peer {peer}: {error}"));
        let requests = self.requests.iter().map(WireRequest::of).collect();
        let asked = codec::encode(&WireSelect { requests, shards, samples_max: u64::from(u32::MAX) });
        let asking = self.transport.request_stream(address, Class::Bulk, SELECT, &asked, PATIENCE);
        let mut frames = asking.await.map_err(|error| failed(error.to_string()))?;
        frames.arrival().await.map_err(|error| failed(error.to_string()))?;
        arrived();
        let mut part: Part = self.requests.iter().map(|_| Selection::default()).collect();
        loop {
            let (kind, payload) = next(&mut frames).await.map_err(failed)?;
            match kind {
                SERIES => {
                    let piece = codec::decode::<(u32, Vec<WireSeries>), BULK_BYTES_MAX>(&payload);
                    let (index, series) = piece.map_err(|error| failed(error.to_string()))?;
                    let selection = part.get_mut(index as usize).ok_or_else(|| failed("no such request".to_owned()))?;
                    for series in series {
                        let columns = series.into_columns().ok_or_else(|| failed("torn columns".to_owned()))?;
                        self.budget.take(columns.values.len() + columns.histograms.len())?;
                        selection.series.push(columns);
                    }
                }
                DONE => {
                    let warnings = codec::decode::<Vec<String>, BULK_BYTES_MAX>(&payload).unwrap_or_default();
                    if let Some(selection) = part.first_mut() {
                        selection.warnings.extend(warnings);
                    }
                    return Ok(part);
                }
                FAILED => return Err(failed(String::from_utf8_lossy(&payload).into_owned())),
                other => return Err(failed(format!("answered with a frame of kind {other}"))),
            }
        }
    }
}

pub(crate) async fn next(frames: &mut FrameReceiver) -> Result<(u8, bytes::Bytes), String> {
    match tokio::time::timeout(PATIENCE, frames.recv()).await {
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(Ok(None)) => Err("the answer ends early".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn join_parts(joined: &mut Part, part: Part) {
    for (selection, piece) in joined.iter_mut().zip(part) {
        selection.series.extend(piece.series);
        selection.warnings.extend(piece.warnings);
    }
}

/// Label order, each series once, each warning once.
fn tidy(selection: &mut Selection, limit: usize) {
    selection.series.sort_by(|a, b| a.labels.cmp(&b.labels));
    selection.series.dedup_by(|later, earlier| {
        let same = later.labels == earlier.labels;
        if same {
            merge(earlier, std::mem::take(later));
        }
        same
    });
    if limit > 0 {
        selection.series.truncate(limit);
    }
    selection.warnings.sort();
    selection.warnings.dedup();
}

/// Joins two readings of one series; of two samples for one instant the first stands.
fn merge(into: &mut SeriesColumns, from: SeriesColumns) {
    let with_starts = |series: &SeriesColumns| !series.start_timestamps.is_empty();
    let starts = with_starts(into) || with_starts(&from);
    let rows = |series: SeriesColumns| {
        let padding = series.values.len().saturating_sub(series.start_timestamps.len());
        let starts = series.start_timestamps.into_iter().chain(std::iter::repeat_n(0, padding));
        series.timestamps.into_iter().zip(series.values).zip(starts)
    };
    let mut histograms = std::mem::take(&mut into.histograms);
    histograms.extend(from.histograms.iter().cloned());
    histograms.sort_by_key(|point| point.timestamp);
    histograms.dedup_by_key(|point| point.timestamp);
    let labels = into.labels.clone();
    let mut all: Vec<((i64, f64), i64)> = rows(std::mem::take(into)).chain(rows(from)).collect();
    all.sort_by_key(|((at, _), _)| *at);
    all.dedup_by_key(|((at, _), _)| *at);
    *into = SeriesColumns {
        labels,
        timestamps: all.iter().map(|((at, _), _)| *at).collect(),
        values: all.iter().map(|((_, value), _)| *value).collect(),
        start_timestamps: if starts { all.iter().map(|(_, start)| *start).collect() } else { Vec::new() },
        histograms,
    };
}
