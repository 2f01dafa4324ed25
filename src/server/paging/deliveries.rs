//! Notifications on their way: attempts side by side, each under the lease that the mind moves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_alerting::{ClaimId, Input, Notification, Outcome};
use promesh_client::Gate;
use promesh_model::Monotonic;
use promesh_notify::Notifiers;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::mind::ToAlerting;
use crate::clock;

/// Attempts at once towards one integration of one receiver: a slow one delays no other, and none takes all sockets.
const ATTEMPTS_MAX: usize = 256;
/// Upper bounds of the buckets of how long an attempt took, in seconds, as upstream.
pub const LATENCY_BUCKETS: [f64; 5] = [1.0, 5.0, 10.0, 15.0, 20.0];

/// What happened to the notifications of one kind of integration.
#[derive(Clone, Debug, Default)]
pub struct Delivered {
    /// Notifications, each however often it was tried within its `group_interval`.
    pub notifications: u64,
    /// Of them those that were refused for good, or not taken within `group_interval`, by the reason of the last attempt as
    /// upstream names it.
    pub failed: BTreeMap<&'static str, u64>,
    /// Notifications that were taken.
    pub taken: u64,
    /// Attempts.
    pub requests: u64,
    /// Attempts that failed.
    pub requests_failed: u64,
    /// Attempts whose lease ran out before the first byte.
    pub expired: u64,
    /// Sent without a majority of the electorate.
    pub degraded: u64,
    /// Attempts by how long they took, as [`LATENCY_BUCKETS`], the rest last.
    pub latency: [u64; LATENCY_BUCKETS.len() + 1],
    /// How long all took, in seconds.
    pub latency_sum: f64,
}

/// One integration of one receiver: the receiver's name, the kind, its place among those of its kind.
type Place = (String, &'static str, u32);

/// All attempts of this peer.
pub struct Deliveries {
    notifiers: ArcSwap<Notifiers>,
    mind: ToAlerting,
    runtime: Handle,
    leases: Mutex<HashMap<ClaimId, Arc<AtomicU64>>>,
    permits: Mutex<HashMap<Place, Arc<Semaphore>>>,
    figures: Mutex<BTreeMap<&'static str, Delivered>>,
    under_way: TaskTracker,
}

impl Deliveries {
    /// None yet. Called within the runtime.
    pub fn new(notifiers: Notifiers, mind: ToAlerting) -> Deliveries {
        Deliveries {
            notifiers: ArcSwap::from_pointee(notifiers),
            mind,
            runtime: Handle::current(),
            leases: Mutex::default(),
            permits: Mutex::default(),
            figures: Mutex::default(),
            under_way: TaskTracker::new(),
        }
    }

    /// Attempts from now on use these; those that run end with what they began with.
    pub fn apply(&self, notifiers: Notifiers) {
        self.notifiers.store(Arc::new(notifiers));
    }

    /// Begins an attempt; the mind is told how it ended.
    pub fn begin(self: &Arc<Self>, claim: ClaimId, notification: Box<Notification>, not_after: Monotonic) {
        let lease = Arc::new(AtomicU64::new(not_after.0));
        self.leases.lock().insert(claim, Arc::clone(&lease));
        let own = Arc::clone(self);
        self.under_way.spawn_on(async move { own.attempt(claim, &notification, lease).await }, &self.runtime);
    }

    /// Leases move.
    pub fn lease_until(&self, claims: &[ClaimId], not_after: Monotonic) {
        let leases = self.leases.lock();
        for lease in claims.iter().filter_map(|claim| leases.get(claim)) {
            lease.fetch_max(not_after.0, Ordering::Relaxed);
        }
    }

    async fn attempt(&self, claim: ClaimId, notification: &Notification, lease: Arc<AtomicU64>) {
        let integration = &notification.integration;
        let permits = {
            let key = (notification.key.receiver.clone(), integration.kind, integration.index);
            let mut permits = self.permits.lock();
            Arc::clone(permits.entry(key).or_insert_with(|| Arc::new(Semaphore::new(ATTEMPTS_MAX))))
        };
        let _permit = permits.acquire().await;
        let gate = Gate::new(move || clock::monotonic().0 <= lease.load(Ordering::Relaxed));
        let notifiers = self.notifiers.load_full();
        let began = clock::monotonic();
        let outcome = notifiers.deliver(notification, gate).await;
        let took = clock::monotonic().since(began);
        self.leases.lock().remove(&claim);
        self.count(notification, &outcome, took);
        log(notification, &outcome, took);
        self.mind.tell(Input::Notified { claim, outcome });
    }

    fn count(&self, notification: &Notification, outcome: &Outcome, took: Duration) {
        let mut figures = self.figures.lock();
        let delivered = figures.entry(notification.integration.kind).or_default();
        let reason = match outcome {
            Outcome::Expired => {
                delivered.expired += 1;
                return;
            }
            Outcome::Sent { .. } => None,
            Outcome::Refused { .. } => Some("clientError"),
            Outcome::Retry { why, .. } if why.contains("status code 5") => Some("serverError"),
            Outcome::Retry { why, .. } if why.starts_with("no answer within") => Some("contextDeadlineExceeded"),
            Outcome::Retry { .. } => Some("other"),
        };
        delivered.requests += 1;
        delivered.degraded += u64::from(notification.degraded);
        delivered.notifications += u64::from(notification.is_new);
        let is_over = matches!(outcome, Outcome::Refused { .. }) || clock::monotonic() >= notification.fails_at;
        match reason {
            None => delivered.taken += 1,
            Some(reason) => {
                delivered.requests_failed += 1;
                *delivered.failed.entry(reason).or_default() += u64::from(is_over);
            }
        }
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BUCKETS.iter().position(|most| seconds <= *most).unwrap_or(LATENCY_BUCKETS.len());
        delivered.latency[bucket] += 1;
        delivered.latency_sum += seconds;
    }

    /// What happened so far, by kind of integration.
    pub fn figures(&self) -> BTreeMap<&'static str, Delivered> {
        self.figures.lock().clone()
    }

    /// Lets attempts that run end.
    pub async fn drain(&self, patience: Duration) {
        self.under_way.close();
        let _ = tokio::time::timeout(patience, self.under_way.wait()).await;
    }
}

fn log(notification: &Notification, outcome: &Outcome, took: Duration) {
    let (receiver, kind) = (&notification.key.receiver, notification.integration.kind);
    let (group, reason) = (&notification.key.group_key, notification.reason);
    match outcome {
        Outcome::Sent { .. } => tracing::debug!(receiver, kind, group, reason, ?took, "notification sent"),
        Outcome::Retry { why, .. } => {
            tracing::warn!(receiver, kind, group, why, ?took, "a notification failed, it is tried again");
        }
        Outcome::Refused { why } => tracing::error!(receiver, kind, group, why, "a notification was refused for good"),
        Outcome::Expired => tracing::warn!(receiver, kind, group, "a notification was not begun in time, asking anew"),
    }
}
