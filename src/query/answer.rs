//! Asking: parts go out at once, come back in any order, and are joined.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use promesh_model::PeerId;
use promesh_model::Timestamp;
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SelectionCursor, SeriesColumns, SeriesCursor,
    StorageError,
};
use promesh_node::MeshView;
use promesh_transport::{Class, FrameReceiver, Transport};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::plan::{is_usable, left_out, plan};
use crate::serve::{in_shards, restricted};
use crate::wire::{
    DONE, FAILED, LABEL_SETS, LIST, Listed, SELECT, SERIES, TEXTS, WireList, WireRequest, WireSelect, WireSeries,
};

/// A part unanswered for so long is asked of the next holder too.
pub const HEDGE: Duration = Duration::from_millis(200);
/// A part from which nothing comes for so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Reads over all peers. Used from threads that may block, never from within the runtime.
#[derive(Clone)]
pub struct MeshQueryable {
    local: Arc<dyn Queryable>,
    view: watch::Receiver<Option<Arc<MeshView>>>,
    transport: Option<Transport>,
    runtime: Handle,
}

/// How long a listing waits for the slowest peer.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// What a part gave, a selection a request.
type Part = Vec<Selection>;
type PartFuture = Pin<Box<dyn Future<Output = Result<Part, StorageError>> + Send>>;

impl MeshQueryable {
    /// Reads `local` and, through `transport`, the peers of the newest view.
    pub fn new(
        local: Arc<dyn Queryable>,
        view: watch::Receiver<Option<Arc<MeshView>>>,
        transport: Option<Transport>,
        runtime: Handle,
    ) -> MeshQueryable {
        MeshQueryable { local, view, transport, runtime }
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
}

impl MeshQueryable {
    pub(crate) fn local(&self) -> Arc<dyn Queryable> {
        Arc::clone(&self.local)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn newest(&self) -> watch::Receiver<Option<Arc<MeshView>>> {
        self.view.clone()
    }

    /// Reads some shards without some peers.
    pub(crate) fn read(
        &self,
        asking: Asking,
        shards: ShardSet,
        excluded: Vec<PeerId>,
    ) -> Result<Vec<Selection>, StorageError> {
        let requests = Arc::clone(&asking.requests);
        let mut joined = self.runtime.block_on(asking.read(shards, excluded))?;
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
        let asking = Asking {
            local: Arc::clone(&self.local),
            view,
            newest: self.newest(),
            transport,
            requests: Arc::new(requests.to_vec()),
            budget: budget.clone(),
            start,
            end,
        };
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
        let living = view.peers.iter().filter(|peer| peer.alive && !peer.silent);
        let parts = living.map(|peer| {
            let (transport, read) = (transport.clone(), &read);
            async move {
                let mut items = Vec::new();
                let asking = transport.request_stream(peer.address, Class::Bulk, LIST, asked, PATIENCE);
                let Ok(mut frames) = asking.await else { return items };
                while let Ok(Some((kind, payload))) = frames.recv().await {
                    match read(kind, &payload) {
                        Some(piece) => items.extend(piece),
                        None => break,
                    }
                }
                items
            }
        });
        // The timer has to be made within the runtime.
        let answers = self
            .runtime
            .block_on(async move { tokio::time::timeout(LIST_PATIENCE, join_all(parts)).await.unwrap_or_default() });
        answers.into_iter().flatten().collect()
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

impl Asking {
    /// Reads some shards without some peers.
    fn read(self, shards: ShardSet, excluded: Vec<PeerId>) -> PartFuture {
        Box::pin(async move {
            let plan = plan(&self.view, &shards, self.start, self.end, &excluded);
            let mut parts: Vec<PartFuture> = Vec::new();
            if !plan.local.is_empty() {
                parts.push(Box::pin(self.clone().read_local(plan.local)));
            }
            for (peer, theirs) in plan.remote {
                parts.push(Box::pin(self.clone().read_remote(peer, theirs, excluded.clone())));
            }
            let mut joined: Part = self.requests.iter().map(|_| Selection::default()).collect();
            let missing = plan.unanswered.union(&self.left_out(&shards, &excluded)).len();
            if missing > 0 {
                let warning = format!("{missing} of 16384 shards have no peer that answers: series may be missing");
                joined.iter_mut().take(1).for_each(|selection| selection.warnings.push(warning.clone()));
            }
            for part in join_all(parts).await {
                for (selection, piece) in joined.iter_mut().zip(part?) {
                    selection.series.extend(piece.series);
                    selection.warnings.extend(piece.warnings);
                }
            }
            Ok(joined)
        })
    }

    async fn read_local(self, shards: ShardSet) -> Result<Part, StorageError> {
        let read = move || {
            let mut selections = self.local.select(&restricted(&self.requests, &shards), &self.budget)?;
            for selection in &mut selections {
                selection.series.retain(|series| in_shards(&shards, &series.labels));
            }
            Ok(selections)
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(StorageError::Failed(error.to_string())))
    }

    /// Asks one peer; when it fails, or has not answered after [`HEDGE`], the others that hold the same. An answer with holes
    /// must not win while the first is merely slow: if nobody else has all that it has, it is waited for as long as it is
    /// heard.
    async fn read_remote(
        self,
        peer: PeerId,
        shards: ShardSet,
        mut excluded: Vec<PeerId>,
    ) -> Result<Part, StorageError> {
        let mut racing: JoinSet<Result<Part, StorageError>> = JoinSet::new();
        racing.spawn(self.clone().ask(peer, shards.clone()));
        let before = excluded.clone();
        excluded.push(peer);
        let mut others_have_all = None;
        let mut others_asked = false;
        let mut failure = None;
        loop {
            let patience = if others_asked { Duration::MAX } else { HEDGE };
            match tokio::time::timeout(patience, racing.join_next()).await {
                Ok(Some(Ok(Ok(part)))) => return Ok(part),
                Ok(Some(Ok(Err(error @ (StorageError::Cancelled | StorageError::TooManySamples))))) => {
                    return Err(error);
                }
                Ok(Some(Ok(Err(error)))) => failure = Some(error),
                Ok(Some(Err(_))) => failure = Some(StorageError::Failed("a part of the query panicked".to_owned())),
                Ok(None) => return Err(failure.unwrap_or(StorageError::Failed("no peer answered".to_owned()))),
                Err(_) => {}
            }
            if others_asked {
                continue;
            }
            let gone =
                self.newest.borrow().clone().filter(|view| !view.peer(peer).is_some_and(|peer| is_usable(peer, &[])));
            if racing.is_empty() || *others_have_all.get_or_insert_with(|| self.others_have_all(&shards, &excluded)) {
                others_asked = true;
                racing.spawn(self.clone().read(shards.clone(), excluded.clone()));
            } else if let Some(view) = gone {
                // As it is for who asks now.
                others_asked = true;
                racing.spawn(Asking { view, ..self.clone() }.read(shards.clone(), before.clone()));
            }
        }
    }

    /// Of some shards, those of which some peers have what nobody else has.
    fn left_out(&self, shards: &ShardSet, excluded: &[PeerId]) -> ShardSet {
        left_out(&self.view, shards, self.start, self.end, excluded)
    }

    /// Whether some shards can be read as whole without some peers as with them.
    fn others_have_all(&self, shards: &ShardSet, excluded: &[PeerId]) -> bool {
        plan(&self.view, shards, self.start, self.end, excluded).unanswered.is_empty()
            && self.left_out(shards, excluded).is_empty()
    }

    async fn ask(self, peer: PeerId, shards: ShardSet) -> Result<Part, StorageError> {
        let failed = |error: String| StorageError::Failed(format!("peer {peer}: {error}"));
        let address = self.view.peer(peer).ok_or_else(|| failed("unknown".to_owned()))?.address;
        let requests = self.requests.iter().map(WireRequest::of).collect();
        let asked = codec::encode(&WireSelect { requests, shards, samples_max: u64::from(u32::MAX) });
        let asking = self.transport.request_stream(address, Class::Bulk, SELECT, &asked, PATIENCE);
        let mut frames = asking.await.map_err(|error| failed(error.to_string()))?;
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
