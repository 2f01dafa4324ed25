//! One list of objects, kept current: read once, then followed change by change.
//!
//! A list says at which version it was read; a watch from that version tells every later change, and in bookmarks how far
//! it has come when nothing changed. An ended watch goes on from the last version that was told. A version that the API
//! no longer has (410) is the one reason to read the list again.
//!
//! Source: Kubernetes' API concepts, "Efficient detection of changes", "Retrieving large results sets in chunks".

use std::time::Duration;

use ::http::StatusCode;
use promesh_client::{HttpClient, LineReader, Request, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};
use url::Url;

use super::Store;
use super::objects::{Object, ObjectList};
use crate::DiscoveryError;

/// What a page of a list or a change may have: an object in etcd has 1.5 MiB at most.
const PAGE_BYTES_MAX: usize = 1 << 30;
const CHANGE_BYTES_MAX: usize = 16 << 20;
const OBJECTS_PER_PAGE: &str = "500";
const PAGES_MAX: usize = 100_000;
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the API is asked to hold a watch, and how long it may be silent beyond that.
const WATCH_SECONDS: u64 = 300;
const WATCH_GRACE: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What happened to a list.
#[derive(Debug)]
pub(super) enum Change {
    /// These objects are there and no others; it took so long to read them.
    Listed(Store, Duration),
    /// An object by its key: as it is now, or gone.
    Object(String, Option<Box<Object>>),
    /// It could not be read or followed.
    Failed(Duration),
}

/// Follows one list.
pub(super) struct Watcher {
    pub(super) client: HttpClient,
    /// Of the list, with its selectors.
    pub(super) url: Url,
    /// Its place among the lists.
    pub(super) place: usize,
    pub(super) tell: mpsc::Sender<(usize, Change)>,
}

/// How a watch ended.
enum Ended {
    /// As watches do: it goes on from the last version.
    Over,
    /// Its version is too old: the list must be read again.
    Expired,
    /// The API does not want it; nobody listens any more.
    Refused(String),
}

#[derive(Deserialize)]
struct Told {
    r#type: String,
    object: Box<serde_json::value::RawValue>,
}

/// The object of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

impl Watcher {
    /// Follows until nobody listens.
    pub(super) async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            let refused = match self.list().await {
                Ok((store, version)) => {
                    if !self.say(Change::Listed(store, began.elapsed())).await {
                        return;
                    }
                    match self.follow(version).await {
                        None => {
                            // A version that is too old at once, again and again, must not become a flood of lists.
                            pause = if began.elapsed() > PAUSE_MAX { PAUSE_MIN } else { pause };
                            None
                        }
                        Some(why) => Some(why),
                    }
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = refused {
                warn!(%error, path = self.url.path(), "following Kubernetes' objects failed, the last targets stay");
                if !self.say(Change::Failed(began.elapsed())).await {
                    return;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// False when nobody listens.
    async fn say(&self, change: Change) -> bool {
        self.tell.send((self.place, change)).await.is_ok()
    }

    /// All objects, page by page, and their version.
    async fn list(&self) -> Result<(Store, String), DiscoveryError> {
        let (mut store, mut next) = (Store::new(), String::new());
        for _ in 0..PAGES_MAX {
            let mut url = self.url.clone();
            url.query_pairs_mut().append_pair("limit", OBJECTS_PER_PAGE);
            if !next.is_empty() {
                url.query_pairs_mut().append_pair("continue", &next);
            }
            let (status, _, body) = self.client.fetch(Request::get(url), LIST_TIMEOUT, PAGE_BYTES_MAX).await?;
            if status != StatusCode::OK {
                let said: Status = serde_json::from_slice(&body).unwrap_or_default();
                let message = format!("the API answered {status} for {}: {}", self.url.path(), said.message);
                return Err(DiscoveryError::Answer(message));
            }
            let list: ObjectList = serde_json::from_slice(&body)
                .map_err(|error| DiscoveryError::Answer(format!("{}: {error}", self.url.path())))?;
            store.extend(list.items.into_iter().map(|object| (object.key(), object)));
            next = list.metadata.r#continue;
            if next.is_empty() {
                return Ok((store, list.metadata.resource_version));
            }
        }
        Err(DiscoveryError::Answer(format!("the pages of {} do not end", self.url.path())))
    }

    /// Watches from a version on; returns when the list must be read again, and why if that is a failure.
    async fn follow(&self, mut version: String) -> Option<String> {
        let mut pause = PAUSE_MIN;
        loop {
            let before = version.clone();
            match self.watch(&mut version).await {
                Ended::Expired => {
                    debug!(path = self.url.path(), version, "the version is too old, the list is read again");
                    return None;
                }
                Ended::Refused(why) => return Some(why),
                Ended::Over => {
                    pause = if before == version { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
                    sleep(pause).await;
                }
            }
        }
    }

    async fn watch(&self, version: &mut String) -> Ended {
        let mut url = self.url.clone();
        url.query_pairs_mut().extend_pairs([
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version.as_str()),
            ("timeoutSeconds", &WATCH_SECONDS.to_string()),
        ]);
        let held = Duration::from_secs(WATCH_SECONDS) + WATCH_GRACE;
        let mut lines = match self.client.send(Request::get(url), held).await {
            Ok(Response { status: StatusCode::OK, body, .. }) => LineReader::new(body),
            Ok(Response { status: StatusCode::GONE, .. }) => return Ended::Expired,
            Ok(response) => return Ended::Refused(format!("the API answered {} to a watch", response.status)),
            Err(error) => return Ended::Refused(error.to_string()),
        };
        loop {
            let line = match timeout(held, lines.next(CHANGE_BYTES_MAX)).await {
                Ok(Ok(Some(line))) => line,
                // The connection broke off, as it may at any time.
                Err(_) | Ok(Ok(None)) | Ok(Err(promesh_client::BodyError::Broken(_))) => return Ended::Over,
                Ok(Err(error)) => return Ended::Refused(error.to_string()),
            };
            match self.told(&line, version).await {
                Ok(()) => {}
                Err(ended) => return ended,
            }
        }
    }

    async fn told(&self, line: &[u8], version: &mut String) -> Result<(), Ended> {
        let unreadable = |error: serde_json::Error| Ended::Refused(format!("a change that is none: {error}"));
        let told: Told = serde_json::from_slice(line).map_err(unreadable)?;
        if told.r#type == "ERROR" {
            let status: Status = serde_json::from_str(told.object.get()).map_err(unreadable)?;
            return Err(match status.code {
                410 => Ended::Expired,
                _ => Ended::Refused(format!("the watch ended: {} {}", status.code, status.message)),
            });
        }
        let object: Object = serde_json::from_str(told.object.get()).map_err(unreadable)?;
        version.clone_from(&object.metadata.resource_version);
        let key = object.key();
        let change = match told.r#type.as_str() {
            "ADDED" | "MODIFIED" => Change::Object(key, Some(Box::new(object))),
            "DELETED" => Change::Object(key, None),
            // A bookmark, or something newer: only the version counts.
            _ => return Ok(()),
        };
        if self.say(change).await { Ok(()) } else { Err(Ended::Refused("nobody listens".to_owned())) }
    }
}
