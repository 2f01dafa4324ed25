//! From files and discovery to what this peer does: at the start, at a reload, and whenever targets come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use promesh_discovery::Discovered;
use promesh_node::{Digests, Input, MeshView};
use tokio::sync::watch;

use crate::clock;
use crate::definitions;
use crate::peer::Peer;
use crate::settings;

/// Exemplars kept unless the configuration says otherwise, as in Prometheus.
const EXEMPLARS_MAX: i64 = 100_000;

impl Peer {
    pub(crate) async fn follow_discovery(self: Arc<Self>) {
        let mut discovered = self.discovery.subscribe();
        let mut view = self.view.clone();
        loop {
            let found = Arc::clone(&discovered.borrow_and_update());
            self.apply_targets(&found);
            loop {
                tokio::select! {
                    changed = discovered.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    changed = view.changed() => match changed {
                        Ok(()) => self.end_what_is_gone(&mut view),
                        Err(_) => return,
                    },
                }
            }
        }
    }

    pub(crate) fn apply_targets(&self, discovered: &Discovered) {
        let jobs = self.settings.load().jobs.clone();
        let name = self.web_address.to_string();
        let mut sources = self.scraping.apply(&jobs, discovered, &name);
        if let Some(own) = self.own_address {
            let view = self.view.borrow().clone();
            self.loopback.look(&self.scraping.targets(), view.as_deref(), own);
        }
        sources.extend(self.ruling.specs());
        self.minds.tell(Input::Sources(Arc::new(sources.into_iter().collect())));
    }

    /// Ends the series of sources that are gone, once the version without them is known to stand, or not to.
    fn end_what_is_gone(&self, view: &mut watch::Receiver<Option<Arc<MeshView>>>) {
        let Some(view) = view.borrow_and_update().clone() else { return };
        // The vote seen there is not yet the one over what was just loaded.
        if view.digests == *self.digests.load() {
            self.scraping.end_what_is_gone(&view);
            self.ruling.end_what_is_gone(&view);
        }
    }

    /// Publishes what the configuration says.
    pub(crate) fn publish(&self, digests: Digests) {
        if let Err(error) = self.hands.folder.keep_digests(&digests) {
            tracing::error!(%error, "when the configuration changed could not be written");
        }
        self.digests.store(Arc::new(digests.clone()));
        self.minds.tell(Input::Definitions(digests));
    }

    /// Reads the configuration again; what is wrong leaves the old one in use.
    ///
    /// # Errors
    /// Everything wrong with the new one.
    pub async fn reload(&self) -> Result<(), String> {
        let _one_at_a_time = self.reloading.lock().await;
        let began = clock::monotonic();
        let options = Arc::clone(&self.options);
        let loaded = tokio::task::spawn_blocking(move || settings::load(&options)).await;
        let loaded = loaded.map_err(|error| error.to_string()).and_then(|loaded| loaded);
        let applied = loaded.and_then(|(mut settings, delivery)| {
            settings.keep_unchanged(&self.settings.load());
            let planned = self.ruling.plan(&settings)?;
            let notifiers = self.paging.prepare(&delivery)?;
            let jobs = settings.jobs.iter().map(|job| (job.job_name.as_str(), &job.discovery));
            self.discovery.apply(jobs).map_err(|error| error.to_string())?;
            Ok((settings, planned, delivery, notifiers))
        });
        match applied {
            Ok((settings, planned, delivery, notifiers)) => {
                self.outgoing.apply(&settings.loaded.config);
                self.paging.apply(delivery, notifiers);
                if let Err(error) = self.reading.apply(&settings.loaded.config) {
                    tracing::error!(error, "the servers of remote_read stay as they were");
                }
                if let Err(error) = self.outside.apply(&settings.loaded.config) {
                    tracing::error!(error, "the Alertmanagers outside stay as they were");
                }
                if let Err(error) = self.sending.apply(&settings.loaded.config) {
                    tracing::error!(error, "remote write stays as it was");
                }
                let (alerting, before) = (self.paging.configuration().published(), self.digests.load_full());
                self.publish(definitions::digests(&settings, &self.options, alerting, &before, clock::wall()));
                self.settings.store(Arc::new(settings));
                self.scraping.reopen_logs();
                self.apply_storage();
                self.apply_tracing();
                self.ruling.apply(planned);
                let settings = self.settings.load();
                settings::warn(&settings, &self.paging.configuration(), self.ruling.has_alerts());
                let found = Arc::clone(&self.discovery.subscribe().borrow());
                self.apply_targets(&found);
                self.telemetry.reload_successful.store(1, Ordering::Relaxed);
                self.telemetry.reload_success_at.store(clock::wall().ms() as u64 / 1000, Ordering::Relaxed);
                let took = clock::monotonic().since(began);
                tracing::info!(file = %self.options.config_file.path.display(), ?took, "Completed loading of configuration file");
                Ok(())
            }
            Err(error) => {
                self.telemetry.reload_successful.store(0, Ordering::Relaxed);
                tracing::error!(error, "the configuration could not be loaded, the old one stays in use");
                Err(error)
            }
        }
    }

    /// Follows `tracing:` of the configuration, else that of `alertmanager.yml`.
    pub(crate) fn apply_tracing(&self) {
        let (settings, delivery) = (self.settings.load(), self.paging.configuration());
        let section = settings.loaded.config.tracing.as_ref().or(delivery.config.tracing.as_ref());
        if let Err(error) = self.tracing.follow(section, &crate::traces::client) {
            tracing::error!(%error, "traces go on as they did");
        }
    }

    /// What the configuration says of storage.
    pub(crate) fn apply_storage(&self) {
        let settings = self.settings.load();
        let (db, storage) = (self.ingest.db(), &settings.loaded.config.storage);
        db.head().set_out_of_order(promesh_model::time::ms_of(storage.tsdb.out_of_order_time_window));
        db.set_retention(settings::retention(&self.options.storage, &storage.tsdb.retention));
        if self.options.features.exemplar_storage {
            let max = storage.exemplars.as_ref().map_or(EXEMPLARS_MAX, |exemplars| exemplars.max_exemplars);
            db.head().set_exemplars_max(usize::try_from(max).unwrap_or(0));
        }
        let log = settings.loaded.config.global.query_log_file.as_path();
        if let Err(error) = self.queries.log_to(log) {
            tracing::warn!(path = %log.display(), %error, "queries are not logged there");
        }
    }

    /// With `--config.auto-reload`: reloads whenever the files say something else. What could not be loaded is tried
    /// again at every look, since the reason may lie in a file that is not looked at.
    pub(crate) async fn follow_files(self: Arc<Self>) {
        let Some(interval) = self.options.auto_reload else { return };
        let alerts = self.options.alertmanager.config_file.path.clone();
        let look = || {
            let (options, alerts) = (Arc::clone(&self.options), alerts.clone());
            tokio::task::spawn_blocking(move || (settings::digest(&options), std::fs::read(alerts).ok()))
        };
        let Ok((_, mut delivery)) = look().await else { return };
        loop {
            tokio::time::sleep(interval).await;
            let Ok((present, alerts)) = look().await else { return };
            if present != self.settings.load().digest || alerts != delivery {
                tracing::info!("Configuration file change detected, reloading the configuration.");
                // What is wrong is said and counted where it happens.
                if self.reload().await.is_ok() {
                    delivery = alerts;
                }
            }
        }
    }
}
