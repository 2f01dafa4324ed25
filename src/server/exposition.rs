//! This peer's own metrics, in the text format, under upstream's names where the meaning is the same.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use promesh_node::{MeshView, PeerInfo};

use crate::clock;
use crate::peer::Peer;
use crate::telemetry::{HANDLE_BUCKETS_NS, LIMITS};

/// A page of metrics as it grows.
pub struct Page(String);

impl Page {
    /// A family's head.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A family of one sample.
    pub fn value(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// One sample of the family that was begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let pairs: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}={}", promesh_model::labels::quoted(value))).collect();
        let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// One histogram of the family that was begun last; the last bucket has no bound.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds: &[String], buckets: &[u64], sum: f64) {
        let mut count = 0;
        let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
        for (bound, bucket) in bounds.zip(buckets) {
            count += bucket;
            let with_bound: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&format!("{name}_bucket"), &with_bound, count as f64);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count as f64);
    }

    /// A family of samples that differ in one label.
    pub fn labelled(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[(String, f64)]) {
        self.family(name, kind, help);
        for (of, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}={}}} {value}", promesh_model::labels::quoted(of));
        }
    }
}

/// The page.
pub async fn metrics(peer: &Peer) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    storage(&mut page, peer);
    scraping(&mut page, peer);
    discovery(&mut page, peer);
    peer.ruling.metrics(&mut page);
    peer.paging.metrics(&mut page).await;
    alertmanager_configuration(&mut page, peer);
    peer.outside.metrics(&mut page);
    peer.sending.metrics(&mut page);
    peer.reading.metrics(&mut page);
    mesh(&mut page, peer);
    history(&mut page, peer);
    watch(&mut page, peer);
    pushes(&mut page, peer);
    process(&mut page, peer);
    page.0.push_str(&peer.http_meter.exposition());
    if peer.options.alerting_only {
        let bounded = &peer.http_meter.bounded;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let name = "alertmanager_http_requests_in_flight";
        page.family(name, "gauge", "Current number of HTTP requests being processed.");
        page.sample(name, &[("method", "get")], load(&bounded.in_flight));
        let name = "alertmanager_http_concurrency_limit_exceeded_total";
        page.family(name, "counter", "Requests that were refused because so many were running.");
        page.sample(name, &[("method", "get")], load(&bounded.refused));
    }
    page.0
}

fn pushes(page: &mut Page, peer: &Peer) {
    let counters = &peer.pushing.counters;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let name = "promesh_push_parts_forwarded_total";
    page.value(name, "counter", "Parts of pushes sent on to their owners.", load(&counters.forwarded));
    let name = "promesh_push_batches_recopied_total";
    page.value(name, "counter", "Pushed batches whose copy no stream confirmed in time.", load(&counters.recopied));
    let name = "promesh_push_given_up_total";
    page.value(name, "counter", "Pushes answered 503.", load(&counters.given_up));
    let name = "promesh_push_unconfirmed";
    page.value(name, "gauge", "Pushed batches that wait for another peer's word.", peer.ingest.acks.len() as f64);
}

fn storage(page: &mut Page, peer: &Peer) {
    let db = peer.ingest.db();
    let head = db.head();
    let (created, removed) = head.series_created_and_removed();
    let telemetry = &peer.telemetry;
    let appended = telemetry.samples_appended.load(Ordering::Relaxed) as f64;
    page.value("prometheus_tsdb_head_series", "gauge", "Series in the head.", head.series_count() as f64);
    page.value("prometheus_tsdb_head_series_created_total", "counter", "Series made in the head.", created as f64);
    page.value("prometheus_tsdb_head_series_removed_total", "counter", "Series removed from it.", removed as f64);
    page.value("prometheus_tsdb_head_samples_appended_total", "counter", "Samples appended by this peer.", appended);
    page.value("prometheus_tsdb_head_max_time", "gauge", "Newest sample, ms.", head.max_time().ms().max(0) as f64);
    page.value("prometheus_tsdb_wal_storage_size_bytes", "gauge", "Size of the log.", db.log().bytes() as f64);
    page.value(
        "prometheus_config_last_reload_successful",
        "gauge",
        "Whether the last attempt to load the configuration succeeded.",
        telemetry.reload_successful.load(Ordering::Relaxed) as f64,
    );
    page.value(
        "prometheus_config_last_reload_success_timestamp_seconds",
        "gauge",
        "When the configuration was last loaded.",
        telemetry.reload_success_at.load(Ordering::Relaxed) as f64,
    );
    let failures = telemetry.append_failures.load(Ordering::Relaxed) as f64;
    page.value("promesh_append_failures_total", "counter", "Batches that storage refused.", failures);
}

fn scraping(page: &mut Page, peer: &Peer) {
    let telemetry = &peer.telemetry;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    page.value("promesh_scrapes_total", "counter", "Scrapes begun by this peer.", load(&telemetry.scrapes));
    page.value("promesh_scrapes_failed_total", "counter", "Scrapes that failed.", load(&telemetry.scrapes_failed));
    let help = "Slots that came too late to be scraped under their instant.";
    page.value("promesh_scrape_slots_missed_total", "counter", help, load(&telemetry.slots_missed));
    let name = "promesh_scrape_slot_delay_seconds";
    page.family(name, "histogram", "How long after their slots scrapes of this peer began.");
    let (buckets, count, sum_ms) = telemetry.slot_delay.cumulative();
    for (bound_ms, count) in buckets {
        let _ = writeln!(page.0, "{name}_bucket{{le=\"{}\"}} {count}", bound_ms as f64 / 1000.0);
    }
    let sum = sum_ms as f64 / 1000.0;
    let _ = writeln!(page.0, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    let mut pools: std::collections::BTreeMap<String, f64> = std::collections::BTreeMap::new();
    peer.scraping.look(|target, _| match pools.get_mut(target.pool()) {
        Some(count) => *count += 1.0,
        None => drop(pools.insert(target.pool().to_owned(), 1.0)),
    });
    let pools: Vec<(String, f64)> = pools.into_iter().collect();
    page.labelled(
        "prometheus_target_scrape_pool_targets",
        "gauge",
        "Targets of a job, whoever scrapes them.",
        "scrape_job",
        &pools,
    );
    for ((_, name), counter) in LIMITS.iter().zip(&telemetry.exceeded_limits) {
        page.value(name, "counter", "Scrapes of this peer that failed by this limit.", load(counter));
    }
    let refused: Vec<(String, f64)> = peer.scraping.refused().into_keys().map(|job| (job, 1.0)).collect();
    let name = "promesh_scrape_pool_refused";
    page.labelled(
        name,
        "gauge",
        "Jobs not scraped, as they have more targets than target_limit.",
        "scrape_job",
        &refused,
    );
    let name = "prometheus_target_scrapes_sample_duplicate_timestamp_total";
    page.value(name, "counter", "Samples repeated within a scrape.", load(&telemetry.samples_repeated));
    let name = "prometheus_target_scrapes_sample_out_of_bounds_total";
    page.value(name, "counter", "Samples too far in the future to be taken.", load(&telemetry.samples_ahead));
}

fn discovery(page: &mut Page, peer: &Peer) {
    let stats = peer.discovery.stats();
    page.family("prometheus_sd_discovered_targets", "gauge", "Targets that were discovered.");
    for (job, count) in &stats.targets {
        page.sample("prometheus_sd_discovered_targets", &[("config", job), ("name", "scrape")], *count as f64);
    }
    // Settings that cannot be used are refused as a whole.
    page.family("prometheus_sd_failed_configs", "gauge", "Discoveries that could not be set up.");
    page.sample("prometheus_sd_failed_configs", &[("name", "scrape")], 0.0);
    page.family("prometheus_sd_received_updates_total", "counter", "Times that a discovery said something.");
    page.sample("prometheus_sd_received_updates_total", &[("name", "scrape")], stats.updates as f64);
    page.family("promesh_discovery_asked", "gauge", "Whether this peer asks a discovery's back end.");
    for one in &stats.providers {
        let labels = [("config", one.job.as_str()), ("mechanism", &one.kind)];
        page.sample("promesh_discovery_asked", &labels, f64::from(u8::from(one.asks)));
    }
    page.family("prometheus_sd_refresh_failures_total", "counter", "Questions to back ends that failed.");
    for one in &stats.providers {
        let labels = [("config", one.job.as_str()), ("mechanism", &one.kind)];
        page.sample("prometheus_sd_refresh_failures_total", &labels, one.counters.failures as f64);
    }
    page.family("prometheus_sd_refresh_duration_seconds", "summary", "How long questions to back ends took.");
    for one in &stats.providers {
        let labels = [("config", one.job.as_str()), ("mechanism", &one.kind)];
        page.sample("prometheus_sd_refresh_duration_seconds_sum", &labels, one.counters.took.as_secs_f64());
        page.sample("prometheus_sd_refresh_duration_seconds_count", &labels, one.counters.refreshes as f64);
    }
}

/// Both files are loaded or neither.
fn alertmanager_configuration(page: &mut Page, peer: &Peer) {
    let telemetry = &peer.telemetry;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let help = "Whether the last attempt to load the configuration succeeded.";
    let loaded = load(&telemetry.reload_successful);
    page.value("alertmanager_config_last_reload_successful", "gauge", help, loaded);
    let help = "When the configuration was last loaded.";
    let at = load(&telemetry.reload_success_at);
    page.value("alertmanager_config_last_reload_success_timestamp_seconds", "gauge", help, at);
    // 48 bits of the digest: what a float holds, as upstream has it.
    let hash = (peer.paging.configuration().digest & 0xffff_ffff_ffff) as f64;
    page.value("alertmanager_config_hash", "gauge", "Hash of the configuration of delivery.", hash);
}

/// What an operator of a mesh watches; `examples/promesh-alerts.yml` has the alerts over it.
fn watch(page: &mut Page, peer: &Peer) {
    let Some(view) = peer.view.borrow().clone() else { return };
    let states = crate::cluster_view::by_state(peer);
    let states: Vec<(String, f64)> =
        states.into_iter().map(|(state, count)| (state.to_owned(), count as f64)).collect();
    page.labelled("promesh_cluster_members", "gauge", "Members by state, this one included.", "state", &states);
    let flag = |set: bool| f64::from(u8::from(set));
    let gauges: [(&str, &str, f64); 7] = [
        ("promesh_cluster_split", "Whether this peer has no majority.", flag(view.is_split())),
        ("promesh_shards_owned", "Shards whose slots this peer starts.", view.acting.len() as f64),
        ("promesh_shards_held", "Shards held whole here.", view.own.open_shards().len() as f64),
        (
            "promesh_shards_under_replicated",
            "Shards with fewer whole copies than wanted.",
            view.under_replicated() as f64,
        ),
        (
            "promesh_targets_unscraped",
            "Targets and groups without a batch in their last two slots.",
            view.unscraped as f64,
        ),
        ("promesh_config_differs", "Pieces of this configuration that the mesh runs otherwise.", differing(&view)),
        ("promesh_copies_running", "Copies from other peers under way.", view.fetching.len() as f64),
    ];
    for (name, help, value) in gauges {
        page.value(name, "gauge", help, value);
    }
    if let Some(ends) = &peer.certificate_ends {
        let ends = ends.load(Ordering::Relaxed) as f64 / 1000.0;
        page.value("promesh_certificate_expiry_timestamp_seconds", "gauge", "When the certificate ends.", ends);
    }
    let others = |figure: &dyn Fn(&PeerInfo) -> Option<f64>| -> Vec<(String, f64)> {
        view.peers.iter().filter_map(|other| Some((other.id.to_string(), figure(other)?))).collect()
    };
    let offsets = others(&|other| Some(other.clock_offset_ms? as f64 / 1000.0));
    page.labelled("promesh_clock_offset_seconds", "gauge", "Clocks of others less this one.", "peer", &offsets);
    let gaps = others(&|other| Some(other.beat_gap?.as_secs_f64()));
    page.labelled("promesh_beat_gap_seconds", "gauge", "The usual gap between a peer's beats.", "peer", &gaps);
    let name = "promesh_ownership_changes_total";
    page.family(name, "counter", "Changes of ownership and state, by what and why.");
    for ((what, reason), count) in peer.journal.counts() {
        let _ = writeln!(page.0, "{name}{{what=\"{what}\",reason=\"{reason}\"}} {count}");
    }
}

fn differing(view: &MeshView) -> f64 {
    view.elected.differs(view.me).count() as f64
}

fn mesh(page: &mut Page, peer: &Peer) {
    let telemetry = &peer.telemetry;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    page.value(
        "promesh_replication_sent_bytes_total",
        "counter",
        "Bytes of batches streamed to holders.",
        peer.ingest.streamed_bytes() as f64,
    );
    page.value(
        "promesh_replication_sent_samples_total",
        "counter",
        "Samples streamed to holders.",
        peer.ingest.streamed_samples() as f64,
    );
    let parts = &peer.part_counters;
    let counts = [
        (
            "promesh_query_parts_answered_total",
            "Parts of queries that other peers computed for this one.",
            &parts.answered,
        ),
        ("promesh_query_parts_answered_bytes_total", "Bytes of those answers.", &parts.bytes),
        (
            "promesh_query_parts_dropped_total",
            "Parts that were dropped and computed by others, or from samples.",
            &parts.dropped,
        ),
        ("promesh_query_parts_served_total", "Parts of queries that this peer computed for others.", &parts.served),
    ];
    for (name, help, counter) in counts {
        page.value(name, "counter", help, load(counter));
    }
    page.value("promesh_split_slots_total", "counter", "Slots two writers wrote.", peer.ingest.split_slots() as f64);
    let help = "Batches that came when a later slot of their source was here already.";
    page.value("promesh_late_batches_total", "counter", help, peer.ingest.late_batches() as f64);
    let help = "Samples of which two peers had kept different values: the better stays.";
    page.value("promesh_merge_conflicts_total", "counter", help, peer.ingest.db().head().counts().settled as f64);
    page.value(
        "promesh_replication_dropped_batches_total",
        "counter",
        "Batches that found no room in a holder's stream.",
        peer.ingest.dropped() as f64,
    );
    page.value(
        "promesh_replication_received_batches_total",
        "counter",
        "Batches received from other peers.",
        load(&telemetry.batches_received),
    );
    page.value(
        "promesh_replication_key_frames_wanted_total",
        "counter",
        "Times a received batch had no base here.",
        load(&telemetry.key_frames_wanted),
    );
    let help = "Batches from peers that were not taken, being too far ahead of the clock here: they are owed.";
    page.value("promesh_replication_ahead_batches_total", "counter", help, load(&telemetry.ahead.batches));
    let help = "Samples of copies that were left for the same reason.";
    page.value("promesh_replication_ahead_samples_total", "counter", help, load(&telemetry.ahead.samples));
    page.value("promesh_copied_bytes_total", "counter", "Chunks copied, in bytes.", load(&telemetry.copied_bytes));
    let name = "promesh_mesh_handle_seconds";
    page.family(name, "histogram", "How long the mesh mind took over an input.");
    let bounds = HANDLE_BUCKETS_NS.map(|ns| (ns as f64 / 1e9).to_string());
    let buckets: Vec<u64> = telemetry.handle_buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
    page.histogram(name, &[], &bounds, &buckets, load(&telemetry.handled_ns) / 1e9);
    page.value(
        "promesh_clock_jumps_total",
        "counter",
        "How often the wall clock was set by more than a second.",
        load(&telemetry.clock_jumps),
    );
    if let Some(transport) = &peer.transport {
        let counters = transport.counters();
        page.value(
            "promesh_transport_garbage_datagrams_total",
            "counter",
            "Datagrams that were nothing of ours.",
            counters.datagrams_garbage as f64,
        );
        page.value(
            "promesh_transport_reset_datagrams_total",
            "counter",
            "Datagrams from a peer's address that look like the end of its former life's connections.",
            counters.datagrams_reset as f64,
        );
        page.value(
            "promesh_transport_repeated_datagrams_total",
            "counter",
            "Datagrams that had come before: repeated by the line, or by who heard them.",
            counters.datagrams_repeated as f64,
        );
        let refused = promesh_transport::RefusalReason::ALL
            .map(|reason| (reason.name().to_owned(), counters.refused_for(reason) as f64));
        let name = "promesh_transport_refused_total";
        page.labelled(name, "counter", "Handshakes from outside that were refused.", "reason", &refused);
        let dropped = [
            ("promesh_transport_dropped_datagrams_total", "Datagrams dropped here.", counters.datagrams_dropped),
            ("promesh_transport_dropped_messages_total", "Messages dropped here.", counters.messages_dropped),
            ("promesh_transport_malformed_streams_total", "Streams stopped for what came.", counters.streams_malformed),
        ];
        for (name, help, count) in dropped {
            page.value(name, "counter", help, count as f64);
        }
        let by_class = |bytes: [u64; 2]| -> Vec<(String, f64)> {
            ["control", "bulk"].into_iter().zip(bytes).map(|(class, bytes)| (class.to_owned(), bytes as f64)).collect()
        };
        let (sent, received) = (by_class(counters.bytes_out), by_class(counters.bytes_in));
        let name = "promesh_transport_sent_bytes_total";
        page.labelled(name, "counter", "Bytes of frames and datagrams sent to peers.", "class", &sent);
        let name = "promesh_transport_received_bytes_total";
        page.labelled(name, "counter", "Bytes of frames and datagrams received from peers.", "class", &received);
    }
}

/// Copying and comparing sealed history.
fn history(page: &mut Page, peer: &Peer) {
    let figures = &peer.history.figures;
    let counters = [
        ("promesh_history_copied_bytes_total", "Bytes of sealed windows copied from other peers.", &figures.bytes),
        ("promesh_history_copied_windows_total", "Sealed windows copied whole.", &figures.windows),
        ("promesh_history_copied_series_total", "Series of sealed windows that were copied.", &figures.series),
        (
            "promesh_history_copy_failures_total",
            "Copies of windows that failed and were tried again.",
            &figures.failures,
        ),
        ("promesh_history_compared_total", "Comparisons of a sealed window with another peer.", &figures.compared),
        ("promesh_history_differed_total", "Comparisons that found something missing here.", &figures.differed),
        ("promesh_history_damaged_blocks_total", "Blocks found damaged and set aside.", &figures.damaged),
        (
            "promesh_history_late_shown_total",
            "How often a window was shown to others for late pushes that they may lack.",
            &figures.late_shown,
        ),
    ];
    for (name, help, counter) in counters {
        page.value(name, "counter", help, counter.load(Ordering::Relaxed) as f64);
    }
    let left = figures.windows_left.load(Ordering::Relaxed) as f64;
    page.value("promesh_history_windows_left", "gauge", "Sealed windows that this peer still has to copy.", left);
    let late = figures.late_windows.load(Ordering::Relaxed) as f64;
    let help = "Sealed windows that this peer has late pushes of and does not claim, until enough others have them.";
    page.value("promesh_history_late_windows", "gauge", help, late);
    let under = figures.under_replicated.load(Ordering::Relaxed) as f64;
    let help = "Shards of sealed windows with fewer living copies than wanted.";
    page.value("promesh_history_under_replicated", "gauge", help, under);
}

fn process(page: &mut Page, peer: &Peer) {
    page.family("prometheus_build_info", "gauge", "What was built.");
    let _ = writeln!(page.0, "prometheus_build_info{{version={:?}}} 1", env!("CARGO_PKG_VERSION"));
    let started = peer.started_at.as_secs_f64();
    page.value("process_start_time_seconds", "gauge", "When the process started.", started);
    let uptime = clock::wall().since(peer.started_at).as_secs_f64();
    page.value("promesh_uptime_seconds", "gauge", "For how long it has run.", uptime);
    if let Some(used) = process_statistics() {
        page.value("process_cpu_seconds_total", "counter", "User and system CPU time.", used.cpu_seconds);
        page.value("process_resident_memory_bytes", "gauge", "Resident memory.", used.resident_bytes);
        page.value("process_virtual_memory_bytes", "gauge", "Virtual memory.", used.virtual_bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.value("process_open_fds", "gauge", "Open file descriptors.", open.count() as f64);
    }
}

struct Used {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
}

/// From /proc; none where there is none.
///
/// Source: proc(5), `/proc/[pid]/stat`.
fn process_statistics() -> Option<Used> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may contain anything; the fields begin after its closing bracket.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Used {
        cpu_seconds: (number(11)? + number(12)?) / TICKS_PER_SECOND,
        virtual_bytes: number(20)?,
        resident_bytes: number(21)? * rustix::param::page_size() as f64,
    })
}
