//! What only some peers know, asked of all: how targets fared, metadata, exemplars, cardinality; and what all must do:
//! deleting, cleaning up, reading the configuration again.
//!
//! A question goes to every living peer at once, each answers with frames of JSON; one that does not answer in time is
//! left out of what is shown, and named where something had to be done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use promesh_api::backend::SeriesExemplars;
use promesh_gateway::Group;
use promesh_model::ingest::{Exemplar, Metadata};
use promesh_model::{Labels, Matcher, PeerId, Timestamp};
use promesh_transport::{Class, FrameSender, Responder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::deletes::Delete;
use crate::peer::Peer;

/// "Tell me what you know, or do this." Answered by frames of kind [`ITEMS`].
pub const ASK: u8 = 65;
/// A piece of an answer: a JSON list.
pub(crate) const ITEMS: u8 = 66;
/// How long the slowest peer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for what takes a disk.
const WORK_PATIENCE: Duration = Duration::from_secs(60);
/// Items in one frame.
const PIECE_ITEMS: usize = 500;

/// What is asked. Kept as JSON on the wire, so that a newer peer may ask more; an unknown question is refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    /// How the targets fared that you scraped: [`TargetNews`].
    Targets,
    /// Metadata of the targets that you scraped: [`MetadataNews`].
    Metadata,
    /// Exemplars of these selectors: [`ExemplarNews`].
    Exemplars {
        /// Each satisfied by itself.
        selectors: Vec<Vec<Matcher>>,
        /// First instant, in ms.
        start: i64,
        /// Last instant, in ms.
        end: i64,
    },
    /// Delete samples, and remember it.
    Delete(Delete),
    /// Free the space of deleted samples.
    CleanTombstones,
    /// Read the configuration again.
    Reload,
    /// Take in what was pushed: words about groups.
    Groups(Vec<Group>),
}

/// How one target fared where it was last scraped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetNews {
    /// The target's labels after relabelling.
    pub labels: Labels,
    /// Its job.
    pub pool: String,
    /// When the last scrape began, in ms.
    pub at: i64,
    /// How long it took, in seconds.
    pub duration: f64,
    /// Why it failed; empty if it did not.
    pub error: String,
}

/// Metadata of a target's families.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MetadataNews {
    /// The target's labels.
    pub labels: Labels,
    /// When it was scraped, in ms: of two peers' words the newer counts.
    pub at: i64,
    /// By family.
    pub families: Vec<(String, Metadata)>,
}

/// Exemplars of one series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExemplarNews {
    labels: Labels,
    exemplars: Vec<(Labels, u64, i64)>,
}

/// What became of something that a peer was to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Did {
    /// Why not; empty if it did.
    pub error: String,
}

impl ExemplarNews {
    fn of(series: SeriesExemplars) -> ExemplarNews {
        let one = |exemplar: Exemplar| (exemplar.labels, exemplar.value.to_bits(), exemplar.timestamp.ms());
        ExemplarNews { labels: series.labels, exemplars: series.exemplars.into_iter().map(one).collect() }
    }

    /// As the API shows them.
    pub fn into_series(self) -> SeriesExemplars {
        let one = |(labels, value, at): (Labels, u64, i64)| Exemplar {
            labels,
            value: f64::from_bits(value),
            timestamp: Timestamp(at),
        };
        SeriesExemplars { labels: self.labels, exemplars: self.exemplars.into_iter().map(one).collect() }
    }
}

impl Peer {
    /// Asks all other living peers; what each said, or why it said nothing.
    pub async fn ask_all<T: DeserializeOwned>(&self, question: &Question) -> Vec<(PeerId, Result<Vec<T>, String>)> {
        let (Some(view), Some(transport)) = (self.view.borrow().clone(), &self.transport) else { return Vec::new() };
        let asked: Arc<[u8]> = serde_json::to_vec(question).expect("questions have text keys only").into();
        let works = matches!(question, Question::Delete(_) | Question::CleanTombstones | Question::Reload);
        let patience = if works { WORK_PATIENCE } else { PATIENCE };
        let living = view.peers.iter().filter(|peer| peer.alive && !peer.silent);
        let asking = living.map(|peer| {
            let (transport, asked, id, address) = (transport.clone(), Arc::clone(&asked), peer.id, peer.address);
            async move {
                let answer = async {
                    let frames = transport.request_stream(address, Class::Bulk, ASK, &asked, patience).await;
                    let mut frames = frames.map_err(|error| error.to_string())?;
                    let mut items = Vec::new();
                    loop {
                        match frames.recv().await.map_err(|error| error.to_string())? {
                            Some((ITEMS, piece)) => {
                                let piece: Vec<T> =
                                    serde_json::from_slice(&piece).map_err(|error| error.to_string())?;
                                items.extend(piece);
                            }
                            Some((_, why)) => return Err(String::from_utf8_lossy(&why).into_owned()),
                            None => return Ok(items),
                        }
                    }
                };
                let answer = tokio::time::timeout(patience, answer).await;
                (id, answer.unwrap_or_else(|_| Err("no answer in time".to_owned())))
            }
        });
        join_all(asking).await
    }

    /// What the others know; those that do not answer are left out.
    pub async fn gather<T: DeserializeOwned>(&self, question: &Question) -> Vec<T> {
        let answers = self.ask_all(question).await;
        answers.into_iter().filter_map(|(_, answer)| answer.ok()).flatten().collect()
    }

    /// Has all others do something.
    ///
    /// # Errors
    /// Who did not, and why.
    pub async fn have_all(&self, question: &Question) -> Result<(), String> {
        let problem = |(peer, answer): (PeerId, Result<Vec<Did>, String>)| match answer {
            Ok(did) => {
                did.into_iter().find(|did| !did.error.is_empty()).map(|did| format!("peer {peer}: {}", did.error))
            }
            Err(why) => Some(format!("peer {peer}: {why}")),
        };
        let problems: Vec<String> = self.ask_all::<Did>(question).await.into_iter().filter_map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Answers one question of another peer.
    pub async fn answer(self: Arc<Self>, bytes: Bytes, responder: Responder) {
        let question = match serde_json::from_slice::<Question>(&bytes) {
            Ok(question) => question,
            Err(error) => {
                let _ = responder.refuse(&format!("not a question that is known here: {error}")).await;
                return;
            }
        };
        let frames = responder.stream();
        match question {
            Question::Targets => tell(&frames, self.own_target_news()).await,
            Question::Metadata => tell(&frames, self.own_metadata()).await,
            Question::Exemplars { selectors, start, end } => {
                let found = self.own_exemplars(selectors, start, end).await;
                tell(&frames, found.into_iter().map(ExemplarNews::of).collect()).await;
            }
            Question::Delete(delete) => tell(&frames, did(self.delete_here(delete).await)).await,
            Question::CleanTombstones => tell(&frames, did(self.clean_here().await)).await,
            Question::Reload => tell(&frames, did(self.reload().await)).await,
            Question::Groups(words) => tell(&frames, did(self.hear_groups(words).await)).await,
        }
    }

    /// How the targets fared that this peer scraped.
    pub fn own_target_news(&self) -> Vec<TargetNews> {
        let mut news = Vec::new();
        self.scraping.look(|target, status| {
            news.extend(status.at.map(|at| TargetNews {
                labels: target.labels.clone(),
                pool: target.pool().to_owned(),
                at: at.ms(),
                duration: status.duration.as_secs_f64(),
                error: status.error.clone(),
            }));
        });
        news
    }

    /// Metadata of the targets that this peer scraped.
    pub fn own_metadata(&self) -> Vec<MetadataNews> {
        let mut news = Vec::new();
        self.scraping.look(|target, status| {
            news.extend(status.at.map(|at| MetadataNews {
                labels: target.labels.clone(),
                at: at.ms(),
                families: status.metadata.clone(),
            }));
        });
        news
    }

    /// Exemplars that lie here.
    pub async fn own_exemplars(
        self: &Arc<Self>,
        selectors: Vec<Vec<Matcher>>,
        start: i64,
        end: i64,
    ) -> Vec<SeriesExemplars> {
        let peer = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || {
            let found = peer.ingest.db().head().exemplars(&selectors, start, end);
            let series = found.into_iter().map(|one| SeriesExemplars { labels: one.labels, exemplars: one.exemplars });
            series.collect()
        });
        found.await.unwrap_or_default()
    }

    /// Frees the space of deleted samples here.
    pub async fn clean_here(self: &Arc<Self>) -> Result<(), String> {
        let peer = Arc::clone(self);
        let cleaned = tokio::task::spawn_blocking(move || peer.ingest.db().clean_tombstones(crate::clock::now()));
        cleaned.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn did(done: Result<(), String>) -> Vec<Did> {
    vec![Did { error: done.err().unwrap_or_default() }]
}

async fn tell<T: Serialize>(frames: &FrameSender, items: Vec<T>) {
    for piece in items.chunks(PIECE_ITEMS) {
        let Ok(piece) = serde_json::to_vec(piece) else { continue };
        if frames.send(ITEMS, &piece).await.is_err() {
            return;
        }
    }
}

/// Exemplars of several peers as one list: each series once, each exemplar once, by time.
pub fn join_exemplars(all: Vec<SeriesExemplars>) -> Vec<SeriesExemplars> {
    let mut joined: std::collections::BTreeMap<Labels, Vec<Exemplar>> = std::collections::BTreeMap::new();
    for series in all {
        joined.entry(series.labels).or_default().extend(series.exemplars);
    }
    let tidy = |(labels, mut exemplars): (Labels, Vec<Exemplar>)| {
        exemplars.sort_by(|a, b| (a.timestamp, &a.labels).cmp(&(b.timestamp, &b.labels)));
        exemplars.dedup_by(|later, earlier| later.timestamp == earlier.timestamp && later.labels == earlier.labels);
        SeriesExemplars { labels, exemplars }
    };
    joined.into_iter().map(tidy).collect()
}
