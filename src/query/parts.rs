//! Aggregations computed where their samples are: each shard by one holder that has the whole span, the rest from samples.
//!
//! A holder that fails, has not all of it, or is late is dropped: its shards are computed by others that have all of it. Where
//! there is none a late one is waited for while it is heard, as its samples would come later still; of one that failed the
//! samples are read, and the part is computed here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SelectionCursor, SeriesColumns, SeriesCursor,
    StorageError,
};
use promesh_model::{PeerId, Timestamp};
use promesh_node::MeshView;
use promesh_node::reading::{HEDGE, LATE, Plan, plan_alone};
use promesh_promql::{Engine, Part, PartAnswer, Parts, QueryError};
use promesh_transport::{Class, FrameReceiver};
use tokio::time::sleep;

use crate::answer::{Asking, MeshQueryable, PATIENCE, next, not_heard};
use crate::serve::restricted;
use crate::wire::{PART, PART_STATE, WirePart};

/// What parts did for this peer.
#[derive(Debug, Default)]
pub struct PartCounters {
    /// Parts that other peers computed for it.
    pub answered: AtomicU64,
    /// The bytes of those answers.
    pub bytes: AtomicU64,
    /// Parts that were dropped and computed by others, or from samples.
    pub dropped: AtomicU64,
    /// Parts it computed for others.
    pub served: AtomicU64,
}

/// Parts of queries over all peers.
#[derive(Clone)]
pub struct MeshParts {
    mesh: MeshQueryable,
    engine: Arc<Engine>,
    counters: Arc<PartCounters>,
}

impl std::fmt::Debug for MeshParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshParts").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl MeshParts {
    /// Parts over what `mesh` reads, computed here by `engine`.
    pub fn new(mesh: MeshQueryable, engine: Arc<Engine>, counters: Arc<PartCounters>) -> MeshParts {
        MeshParts { mesh, engine, counters }
    }
}

fn of_query(error: QueryError) -> StorageError {
    match error {
        QueryError::Cancelled | QueryError::Timeout => StorageError::Cancelled,
        QueryError::TooManySamples => StorageError::TooManySamples,
        other => StorageError::Failed(other.to_string()),
    }
}

impl Parts for MeshParts {
    fn compute(&self, part: &Part, budget: &Budget) -> Result<Option<PartAnswer>, QueryError> {
        let Some((view, transport)) = self.mesh.others() else { return Ok(None) };
        let (from, to) = (Timestamp(part.from), Timestamp(part.to));
        let plan = plan_alone(&view, &ShardSet::all(), from, to, &[]);
        if plan.remote.is_empty() && plan.unanswered.is_empty() {
            // All of it is here.
            return Ok(None);
        }
        let asking = self.mesh.asking(view, transport, Vec::new(), budget, (from, to));
        let work = Work { part: Arc::new(part.clone()), asking, parts: self.clone() };
        let answers = self.mesh.runtime().block_on(work.gather(plan, Vec::new()));
        let mut answers = match answers {
            Ok(answers) => answers.into_iter(),
            Err(StorageError::Failed(why)) => {
                // What cannot be computed apart can still be computed as a whole.
                tracing::debug!(why, "parts of a query are computed from samples");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(mut whole) = answers.next() else { return Ok(None) };
        for answer in answers {
            whole.partial.merge(&answer.partial);
            whole.warnings.extend(answer.warnings);
            whole.infos.extend(answer.infos);
            whole.samples += answer.samples;
        }
        Ok(Some(whole))
    }
}

/// One part on its way.
#[derive(Clone)]
struct Work {
    part: Arc<Part>,
    asking: Asking,
    parts: MeshParts,
}

type Answered = Result<Option<PartAnswer>, StorageError>;
type Gathered = Result<Vec<PartAnswer>, StorageError>;

impl Work {
    /// Has a plan's shards computed, all at once; what nobody alone has, or only peers that failed before, from samples.
    fn gather(self, plan: Plan, avoided: Vec<PeerId>) -> Pin<Box<dyn Future<Output = Gathered> + Send>> {
        Box::pin(async move {
            let own = self.clone().compute_local(plan.local);
            let rest = self.clone().over_samples(plan.unanswered, avoided.clone());
            let ask = |(peer, shards)| self.clone().ask(peer, shards, avoided.clone());
            let (own, rest, others) = tokio::join!(own, rest, join_all(plan.remote.into_iter().map(ask)));
            let mut gathered: Vec<PartAnswer> = own?.into_iter().chain(rest?).collect();
            for other in others {
                gathered.extend(other?);
            }
            Ok(gathered)
        })
    }

    async fn compute_local(self, shards: ShardSet) -> Answered {
        if shards.is_empty() {
            return Ok(None);
        }
        let storage = Local { local: Arc::clone(&self.asking.local), shards, identified: self.part.joins };
        self.compute_over(Arc::new(storage)).await
    }

    async fn compute_over(self, storage: Arc<dyn Queryable>) -> Answered {
        let compute =
            move || self.parts.engine.part(&*storage, &self.part, self.asking.budget).map(Some).map_err(of_query);
        tokio::task::spawn_blocking(compute).await.unwrap_or_else(|error| Err(StorageError::Failed(error.to_string())))
    }

    /// Computes here what is read from others.
    async fn over_samples(self, shards: ShardSet, avoided: Vec<PeerId>) -> Answered {
        if shards.is_empty() {
            return Ok(None);
        }
        let identified = self.part.joins;
        let remote = Remote { asking: self.asking.clone(), parts: self.parts.clone(), shards, avoided, identified };
        self.compute_over(Arc::new(remote)).await
    }

    /// Has one peer compute its shards; where it does not, others that have them, by what is known then.
    async fn ask(mut self, peer: PeerId, shards: ShardSet, mut avoided: Vec<PeerId>) -> Gathered {
        let why = match self.clone().ask_in_time(peer, shards.clone(), &avoided).await {
            Ok(answer) => return Ok(vec![answer]),
            Err(error @ (StorageError::Cancelled | StorageError::TooManySamples)) => return Err(error),
            Err(why) => why,
        };
        self.parts.counters.dropped.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, %why, "a part is dropped and computed by others");
        avoided.push(peer);
        if let Some(newest) = self.asking.newest.borrow().clone() {
            self.asking.view = newest;
        }
        let plan = plan_alone(&self.asking.view, &shards, self.asking.start, self.asking.end, &avoided);
        self.gather(plan, avoided).await
    }

    /// What a peer answers unless it is late: its transport has the question soon, and it is heard until it answers.
    async fn ask_in_time(self, peer: PeerId, shards: ShardSet, avoided: &[PeerId]) -> Result<PartAnswer, StorageError> {
        let mut newest = self.asking.newest.clone();
        let without_it: Vec<PeerId> = avoided.iter().copied().chain([peer]).collect();
        let late = || StorageError::Failed("no answer in time".to_owned());
        let answer = async {
            let (asking, others) = (self.ask_peer(peer, shards.clone()), self.others_have(&shards, &without_it));
            let mut frames = unless_late(HEDGE, asking, others).await.ok_or_else(late)??;
            let (reading, others) = (self.read_answer(peer, &mut frames), self.others_have(&shards, &without_it));
            unless_late(LATE, reading, others).await.ok_or_else(late)?
        };
        tokio::select! {
            answer = answer => answer,
            () = not_heard(&mut newest, peer) => Err(StorageError::Failed("it is not heard any more".to_owned())),
        }
    }

    /// Waits until others have all of some shards, each alone.
    async fn others_have(&self, shards: &ShardSet, avoided: &[PeerId]) {
        let (start, end) = (self.asking.start, self.asking.end);
        let have = |view: &Option<Arc<MeshView>>| {
            let have = |view: &Arc<MeshView>| plan_alone(view, shards, start, end, avoided).unanswered.is_empty();
            view.as_ref().is_some_and(have)
        };
        if self.asking.newest.clone().wait_for(have).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks, and waits until the question has arrived.
    async fn ask_peer(&self, peer: PeerId, shards: ShardSet) -> Result<FrameReceiver, StorageError> {
        let address = self.asking.view.peer(peer).ok_or_else(|| of_peer(peer, "unknown"))?.address;
        let samples_max = u64::from(u32::MAX);
        let asked = codec::encode(&WirePart { part: (*self.part).clone(), shards, samples_max });
        let asking = self.asking.transport.request_stream(address, Class::Bulk, PART, &asked, PATIENCE);
        let mut frames = asking.await.map_err(|error| of_peer(peer, error))?;
        frames.arrival().await.map_err(|error| of_peer(peer, error))?;
        Ok(frames)
    }

    async fn read_answer(&self, peer: PeerId, frames: &mut FrameReceiver) -> Result<PartAnswer, StorageError> {
        let (kind, payload) = next(frames).await.map_err(|error| of_peer(peer, error))?;
        if kind != PART_STATE {
            return Err(of_peer(peer, String::from_utf8_lossy(&payload)));
        }
        let answer = codec::decode::<PartAnswer, BULK_BYTES_MAX>(&payload).map_err(|error| of_peer(peer, error))?;
        self.parts.counters.answered.fetch_add(1, Ordering::Relaxed);
        self.parts.counters.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        Ok(answer)
    }
}

/// What comes in time, or before there is somebody else to ask.
async fn unless_late<T>(
    patience: Duration,
    answer: impl Future<Output = T>,
    others: impl Future<Output = ()>,
) -> Option<T> {
    let late = async {
        sleep(patience).await;
        others.await;
    };
    tokio::select! {
        answer = answer => Some(answer),
        () = late => None,
    }
}

fn of_peer(peer: PeerId, error: impl std::fmt::Display) -> StorageError {
    StorageError::Failed(format!("peer {peer}: {error}"))
}

/// Computes a part for another peer; `Failed` says why it cannot be computed here alone.
pub(crate) fn compute_here(
    local: &Arc<dyn Queryable>,
    view: Option<&MeshView>,
    engine: &Engine,
    asked: WirePart,
) -> Result<PartAnswer, StorageError> {
    let (from, to) = (Timestamp(asked.part.from), Timestamp(asked.part.to));
    let short = |why: &str| StorageError::Failed(why.to_owned());
    let view = view.ok_or_else(|| short("this peer does not know yet what it has"))?;
    if !asked.shards.difference(&view.own.covering(from, to)).is_empty() {
        return Err(short("this peer has not all samples of the span"));
    }
    let storage = Local { local: Arc::clone(local), shards: asked.shards, identified: asked.part.joins };
    engine.part(&storage, &asked.part, Budget::new(asked.samples_max)).map_err(of_query)
}

/// Refuses series whose labels do not decide their shard by job and instance alone.
fn check_identity(labels: &Labels) -> Result<(), StorageError> {
    let known = ["job", "instance"].iter().all(|name| labels.get(name).is_some());
    if known { Ok(()) } else { Err(StorageError::Failed(format!("{labels} has no job or instance to be joined by"))) }
}

fn check_identities(selections: &[Selection]) -> Result<(), StorageError> {
    selections.iter().flat_map(|selection| &selection.series).try_for_each(|series| check_identity(&series.labels))
}

/// Some shards of local storage.
struct Local {
    local: Arc<dyn Queryable>,
    shards: ShardSet,
    /// Whether each series must have job and instance.
    identified: bool,
}

/// Some shards of other peers' storage, read as samples.
struct Remote {
    asking: Asking,
    parts: MeshParts,
    shards: ShardSet,
    avoided: Vec<PeerId>,
    identified: bool,
}

/// Series whose identity is checked.
struct Identified<'a>(Box<dyn SeriesCursor + 'a>);

impl SeriesCursor for Identified<'_> {
    fn next(&mut self, series: &mut SeriesColumns) -> Result<bool, StorageError> {
        let found = self.0.next(series)?;
        if found {
            check_identity(&series.labels)?;
        }
        Ok(found)
    }

    fn take_warnings(&mut self) -> Vec<String> {
        self.0.take_warnings()
    }
}

/// Parts read samples and nothing else.
fn no_listing<T>() -> Result<Listing<T>, StorageError> {
    Err(StorageError::Failed("a part of a query lists nothing".to_owned()))
}

impl Queryable for Local {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        let selections = self.local.select(&restricted(requests, &self.shards), budget)?;
        if self.identified {
            check_identities(&selections)?;
        }
        Ok(selections)
    }

    fn cursors<'a>(
        &'a self,
        requests: &[SelectRequest],
        budget: &Budget,
    ) -> Result<Vec<Box<dyn SeriesCursor + 'a>>, StorageError> {
        let cursors = self.local.cursors(&restricted(requests, &self.shards), budget)?;
        if !self.identified {
            return Ok(cursors);
        }
        let identified = |inner| Box::new(Identified(inner)) as Box<dyn SeriesCursor + 'a>;
        Ok(cursors.into_iter().map(identified).collect())
    }

    fn label_names(&self, _: &ListRequest, _: &Budget) -> Result<Listing<String>, StorageError> {
        no_listing()
    }

    fn label_values(&self, _: &str, _: &ListRequest, _: &Budget) -> Result<Listing<String>, StorageError> {
        no_listing()
    }

    fn series(&self, _: &ListRequest, _: &Budget) -> Result<Listing<Labels>, StorageError> {
        no_listing()
    }
}

impl Queryable for Remote {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        let asking = Asking { requests: Arc::new(requests.to_vec()), budget: budget.clone(), ..self.asking.clone() };
        let selections = self.parts.mesh.read(asking, self.shards.clone(), self.avoided.clone())?;
        if self.identified {
            check_identities(&selections)?;
        }
        Ok(selections)
    }

    fn cursors<'a>(
        &'a self,
        requests: &[SelectRequest],
        budget: &Budget,
    ) -> Result<Vec<Box<dyn SeriesCursor + 'a>>, StorageError> {
        let boxed = |selection| Box::new(SelectionCursor::from(selection)) as Box<dyn SeriesCursor + 'a>;
        Ok(self.select(requests, budget)?.into_iter().map(boxed).collect())
    }

    fn label_names(&self, _: &ListRequest, _: &Budget) -> Result<Listing<String>, StorageError> {
        no_listing()
    }

    fn label_values(&self, _: &str, _: &ListRequest, _: &Budget) -> Result<Listing<String>, StorageError> {
        no_listing()
    }

    fn series(&self, _: &ListRequest, _: &Budget) -> Result<Listing<Labels>, StorageError> {
        no_listing()
    }
}
