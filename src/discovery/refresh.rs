//! Kinds that are asked again and again.

use std::time::Duration;

use tracing::warn;

use crate::manager::Sink;
use crate::{DiscoveryError, TargetGroup};

/// Something that answers with all groups when asked.
pub(crate) trait Refresh: Send + Sync + 'static {
    /// How often it is asked.
    fn interval(&self) -> Duration;

    /// Asks.
    fn refresh(&mut self) -> impl Future<Output = Result<Vec<TargetGroup>, DiscoveryError>> + Send;
}

/// A mistyped interval of nothing must not become a flood.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Asks for ever, first when the mesh's rhythm says so. A failure leaves what was found before.
pub(crate) async fn run(mut poller: impl Refresh, sink: Sink) {
    let interval = poller.interval().max(INTERVAL_MIN);
    tokio::time::sleep(sink.wait(interval)).await;
    let mut ticks = tokio::time::interval(interval);
    // An answer that took longer than an interval is followed by a whole one.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = tokio::time::Instant::now();
        match poller.refresh().await {
            Ok(groups) => sink.answered(groups, began.elapsed()),
            Err(error) => {
                warn!(%error, "refreshing targets failed, the last ones stay");
                sink.failed(began.elapsed());
            }
        }
    }
}
