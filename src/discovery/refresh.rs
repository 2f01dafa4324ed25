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

/// Asks for ever. A failure leaves what was found before; so does one empty answer after another that was not: a back
/// end that lost its mind for a moment must not end the scraping of everything.
pub(crate) async fn run(mut poller: impl Refresh, sink: Sink) {
    let mut had_targets = false;
    let mut empty_answers = 0;
    loop {
        match poller.refresh().await {
            Ok(groups) => {
                let empty = groups.iter().all(|group| group.targets.is_empty());
                empty_answers = if empty { empty_answers + 1 } else { 0 };
                if empty && had_targets && empty_answers < 2 {
                    warn!("an empty answer after one with targets: waiting for another one");
                } else {
                    had_targets = !empty;
                    sink.publish(groups);
                }
            }
            Err(error) => warn!(%error, "refreshing targets failed, the last ones stay"),
        }
        tokio::time::sleep(poller.interval()).await;
    }
}
