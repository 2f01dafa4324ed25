//! The configuration in use, and the way to another.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use promesh_config::prometheus::{self, Discovery, Loaded, RetentionConfig, ScrapeConfig};
use promesh_config::rules::{self, RuleFile};
use promesh_config::yaml::{self, Kind, Node};
use promesh_config::{ConfigErrors, Source as _};
use promesh_model::duration::format;
use promesh_promql::EngineOptions;
use promesh_tsdb::Retention;
use xxhash_rust::xxh3::Xxh3;

use crate::files::Disk;
use crate::gateway;
use crate::options::{FileOption, Options, RETENTION_UNLIMITED, StorageOptions};
use crate::paging::Configuration;

/// What a peer scrapes that was given no configuration: all peers, itself among them, below the prefix that all share.
fn built_in(route_prefix: &str) -> String {
    let path = serde_json::Value::from(format!("{}/metrics", route_prefix.trim_end_matches('/')));
    format!("scrape_configs:\n- job_name: promesh\n  metrics_path: {path}\n  peer_sd_configs: [{{}}]\n")
}

/// Everything that the files say.
#[derive(Debug)]
pub struct Settings {
    /// The main file with the files of its scrape configurations.
    pub loaded: Loaded,
    /// The jobs.
    pub jobs: Vec<Arc<ScrapeConfig>>,
    /// The rule files.
    pub rules: Vec<RuleFile>,
    /// See [`Settings::digest_of`].
    pub digest: Option<u128>,
}

impl Settings {
    /// Of a peer that only delivers alerts: it scrapes and evaluates nothing.
    pub fn nothing() -> Settings {
        let loaded = prometheus::load_text("(built in)", b"scrape_configs: []\n", Path::new(""), &Disk);
        let loaded = loaded.expect("the empty configuration is valid: a test says so");
        Settings { loaded, jobs: Vec::new(), rules: Vec::new(), digest: None }
    }

    /// Reads the files. Without a file, unless one was named, the built-in configuration; `route_prefix` is for that.
    ///
    /// # Errors
    /// Everything wrong, each with file, line and column.
    pub fn load(file: &FileOption, route_prefix: &str) -> Result<Settings, String> {
        let path = &file.path;
        // Before the files are read: what changes meanwhile must look changed.
        let digest = Settings::digest_of(file);
        let loaded = if file.is_given || path.exists() {
            prometheus::load(path, &Disk).map_err(|errors| errors.to_string())?
        } else {
            prometheus::load_text("(built in)", built_in(route_prefix).as_bytes(), Path::new(""), &Disk)
                .expect("the built-in configuration is valid: a test says so")
        };
        // What is wrong with rule files is said together with what is not built of the main one.
        let names = loaded.config.global.scheme();
        let mut problems = loaded.unsupported.clone();
        let rules = rules::load(&loaded.config.rule_files, names, &Disk).unwrap_or_else(|errors| {
            problems.extend(errors.0);
            Vec::new()
        });
        if !problems.is_empty() {
            return Err(ConfigErrors(problems).to_string());
        }
        let jobs = loaded.jobs.iter().cloned().map(Arc::new).collect();
        Ok(Settings { loaded, jobs, rules, digest })
    }

    /// Adds the job that scrapes pushed groups, if there are any.
    ///
    /// # Errors
    /// When the configuration has a job of that name.
    fn with_gateway(mut self, enabled: bool) -> Result<Settings, String> {
        if !enabled {
            return Ok(self);
        }
        if self.jobs.iter().any(|job| job.job_name == gateway::JOB) {
            let job = gateway::JOB;
            return Err(format!(
                "--web.enable-pushgateway scrapes pushed groups as the job {job:?}, which the configuration has, too: \
                 please name that job otherwise"
            ));
        }
        let global = &self.loaded.config.global;
        let (interval, timeout) = (format(global.scrape_interval), format(global.scrape_timeout));
        let text = format!(
            "global: {{scrape_interval: {interval}, scrape_timeout: {timeout}}}\nscrape_configs:\n- job_name: {}\n  \
             honor_labels: true\n  metrics_path: {}\n  static_configs: [{{targets: [{}]}}]\n",
            gateway::JOB,
            promesh_api::gateway::EXPOSED_AT,
            gateway::JOB,
        );
        let loaded = prometheus::load_text("(built in)", text.as_bytes(), Path::new(""), &Disk);
        let loaded = loaded.map_err(|errors| errors.to_string())?;
        self.jobs.extend(loaded.jobs.into_iter().map(Arc::new));
        Ok(self)
    }

    /// Jobs that say what they said before stay the very same value: everything made of them is known to be unchanged
    /// without being compared.
    pub fn keep_unchanged(&mut self, before: &Settings) {
        for job in &mut self.jobs {
            if let Some(known) = before.jobs.iter().find(|known| known.job_name == job.job_name && **known == *job) {
                *job = Arc::clone(known);
            }
        }
    }

    /// What the files said when they were read, in one number. `None` when the main file cannot be read: its problem is
    /// said by [`Settings::load`].
    ///
    /// Files of secrets, certificates and targets are not among them: those are read anew when they are used.
    pub fn digest_of(file: &FileOption) -> Option<u128> {
        if !file.is_given && !file.path.exists() {
            return Some(0);
        }
        let text = std::fs::read(&file.path).ok()?;
        let mut hasher = Xxh3::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&text);
        let folder = file.path.parent().unwrap_or(Path::new(""));
        let node = yaml::parse(&file.path.to_string_lossy(), &text).ok();
        for key in ["rule_files", "scrape_config_files"] {
            let patterns = node.as_ref().and_then(|node| node.get(key)).map_or(&[][..], Node::elements);
            for pattern in patterns {
                let Kind::Scalar { text, .. } = &pattern.kind else { continue };
                let pattern = folder.join(text);
                for path in Disk.glob(&pattern.to_string_lossy()).unwrap_or_default() {
                    add(path.as_os_str().as_encoded_bytes());
                    add(&std::fs::read(&path).unwrap_or_default());
                }
            }
        }
        Some(hasher.digest128())
    }
}

/// All files of a peer; what is wrong with either half is said together.
///
/// # Errors
/// Everything wrong, each with file, line and column.
pub fn load(options: &Options) -> Result<(Settings, Configuration), String> {
    let settings = if options.alerting_only {
        Ok(Settings::nothing())
    } else {
        Settings::load(&options.config_file, &options.web.route_prefix)
            .and_then(|settings| settings.with_gateway(options.web.enable_pushgateway))
    };
    match (
        settings,
        Configuration::load(&options.alertmanager.config_file, &Disk, options.alertmanager.limits.matchers),
    ) {
        (Ok(settings), Ok(delivery)) => Ok((settings, delivery)),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        (Err(one), Err(other)) => Err(format!("{one}\n{other}")),
    }
}

/// What the files of [`Settings`] say now, as [`Settings::digest`] has it.
pub fn digest(options: &Options) -> Option<u128> {
    if options.alerting_only { None } else { Settings::digest_of(&options.config_file) }
}

/// Says what of the files has no effect, and where alerts go when that is not what somebody might think.
pub fn warn(settings: &Settings, delivery: &Configuration, has_alerts: bool) {
    for remark in settings.loaded.remarks.iter().chain(&delivery.remarks) {
        let at = format!("{}:{}:{}", remark.file, remark.at.line, remark.at.column);
        tracing::warn!(at, "{}", remark.message);
    }
    let outside: Vec<String> = settings.loaded.config.alerting.alertmanagers.iter().map(described).collect();
    match (delivery.is_given, outside.is_empty()) {
        (true, false) => tracing::warn!(
            inside = %delivery.file.display(),
            outside = outside.join(", "),
            "alerts are delivered from inside and sent to Alertmanagers outside: receivers of both are told twice"
        ),
        (false, true) if has_alerts => tracing::warn!(
            "alerts of rules are shown and stored, and nobody is told: there is no alertmanager.yml \
             (--alertmanager.config.file) and no alerting section with Alertmanagers"
        ),
        _ => {}
    }
}

/// Where Alertmanagers outside are: their addresses if they are written down, else how they are found.
fn described(outside: &prometheus::AlertmanagerConfig) -> String {
    let targets = |discovery: &Discovery| match discovery {
        Discovery::Static(groups) => groups.iter().flat_map(|group| group.targets.clone()).collect(),
        _ => vec!["discovered ones".to_owned()],
    };
    outside.discovery.0.iter().flat_map(targets).collect::<Vec<String>>().join(", ")
}

/// The URL under which people reach this peer.
pub fn external_url(options: &Options, web_address: SocketAddr) -> String {
    options.web.external_url.as_ref().map_or_else(|| format!("http://{web_address}/"), ToString::to_string)
}

/// The query engine's switches.
pub fn engine_options(options: &Options, settings: &Settings) -> EngineOptions {
    let parse = promesh_promql::parser::ParseOptions {
        experimental_functions: options.features.promql_experimental_functions,
        extended_range_selectors: options.features.promql_extended_range_selectors,
        fill_modifiers: options.features.promql_binop_fill_modifiers,
        ..promesh_promql::parser::ParseOptions::default()
    };
    let features = promesh_promql::Features {
        parse,
        start_timestamps: options.features.use_start_timestamps,
        type_and_unit_labels: options.features.type_and_unit_labels,
    };
    EngineOptions {
        lookback_delta: options.query.lookback,
        max_samples: options.query.samples_max,
        default_step: settings.loaded.config.global.evaluation_interval,
        delayed_name_removal: options.features.promql_delayed_name_removal,
        features,
    }
}

/// The settings in use.
pub type Current = ArcSwap<Settings>;

/// What guards the HTTP side, if a file says so.
///
/// # Errors
/// Everything wrong with the file.
pub fn guard(options: &Options) -> Result<Option<promesh_api::Guard>, String> {
    let seed = uuid::Uuid::new_v4().as_u128() as u64;
    let load = |path: &std::path::PathBuf| promesh_api::Guard::load(path, seed);
    options.web.config_file.as_ref().map(load).transpose().map_err(|error| format!("--web.config.file: {error}"))
}

/// How long and how much is kept: as the configuration says, else as the command line does.
pub(crate) fn retention(flags: &StorageOptions, config: &RetentionConfig) -> Retention {
    let size = u64::try_from(config.size.0).ok().filter(|bytes| *bytes > 0);
    Retention {
        time: Some(if config.time.is_zero() { flags.retention_time } else { config.time.min(RETENTION_UNLIMITED) }),
        bytes: size.or(flags.retention_bytes),
        percent: Some(config.percentage).filter(|percent| *percent > 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_a_file_scrapes_all_peers() {
        let folder = tempfile::tempdir().expect("a folder");
        let absent = FileOption { path: folder.path().join("prometheus.yml"), is_given: false };
        for (prefix, path) in [("/", "/metrics"), ("/mesh", "/mesh/metrics"), ("/a \"b\": c", "/a \"b\": c/metrics")] {
            let settings = Settings::load(&absent, prefix).expect("the built-in configuration");
            assert_eq!((&*settings.jobs[0].job_name, &*settings.jobs[0].metrics_path), ("promesh", path));
        }
        assert!(Settings::load(&FileOption { is_given: true, ..absent }, "/").is_err());
        assert!(Settings::nothing().jobs.is_empty());
    }

    #[test]
    fn pushed_groups_are_a_job_of_their_own_unless_its_name_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = FileOption { path: folder.path().join("prometheus.yml"), is_given: true };
        let load = |text: &str| {
            std::fs::write(&file.path, text).expect("written");
            Settings::load(&file, "/").expect("it loads").with_gateway(true)
        };
        let settings = load("global: {scrape_interval: 5s, scrape_timeout: 2s}\n").expect("no job is called so");
        let job = settings.jobs.last().expect("a job");
        assert_eq!((&*job.job_name, job.honor_labels), ("pushgateway", true));
        assert_eq!((job.scrape_interval.as_secs(), job.scrape_timeout.as_secs()), (5, 2));
        let error = load("scrape_configs: [{job_name: pushgateway}]\n").expect_err("the name is taken");
        assert!(error.contains("--web.enable-pushgateway") && error.contains("pushgateway"), "{error}");
    }

    #[test]
    fn the_digest_changes_with_every_file_that_is_read_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        let file = FileOption { path: folder.path().join("prometheus.yml"), is_given: true };
        let mut last = Settings::digest_of(&file);
        assert_eq!(last, None);
        let mut changed = |name: &str, text: &str, expected: bool| {
            write(name, text);
            let now = Settings::digest_of(&file);
            assert_eq!(now != last, expected, "{name}");
            last = now;
        };
        let main = "rule_files: ['*.rules']\nscrape_config_files: [jobs.yml]\n";
        changed("prometheus.yml", main, true);
        changed("a.rules", "groups: []", true);
        changed("jobs.yml", "scrape_configs: []", true);
        changed("other.yml", "x", false);
        changed("b.rules", "groups: []", true);
        changed("prometheus.yml", "rule_files: [", true);
    }

    #[test]
    fn an_unchanged_job_stays_the_same_value() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = FileOption { path: folder.path().join("prometheus.yml"), is_given: true };
        let load = |b: &str| {
            let text = format!("scrape_configs: [{{job_name: a}}, {{job_name: b, metrics_path: {b}}}]");
            std::fs::write(&file.path, text).expect("written");
            Settings::load(&file, "/").expect("it loads")
        };
        let before = load("/x");
        let mut after = load("/y");
        after.keep_unchanged(&before);
        assert!(Arc::ptr_eq(&before.jobs[0], &after.jobs[0]));
        assert_eq!(after.jobs[1].metrics_path, "/y");
    }

    #[test]
    fn problems_of_all_files_are_said_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = FileOption { path: folder.path().join("prometheus.yml"), is_given: true };
        let main = "rule_files: [r.yml]\nscrape_configs:\n- job_name: a\n  rds_sd_configs: [{region: x}]\n";
        std::fs::write(&file.path, main).expect("written");
        std::fs::write(folder.path().join("r.yml"), "groups:\n- name: g\n  rule: []\n").expect("written");
        let error = Settings::load(&file, "/").expect_err("both are wrong");
        assert!(error.contains("prometheus.yml:4:3") && error.contains("r.yml:3:3"), "{error}");
    }

    #[test]
    fn retention_is_the_configurations_else_the_command_lines() {
        let options = |args: &[&str]| Options::parse(["promesh"].iter().chain(args)).expect("good flags").storage;
        let config = |text: &str| {
            let text = format!("storage: {{tsdb: {{retention: {{{text}}}}}}}");
            let loaded = prometheus::load_text("p.yml", text.as_bytes(), Path::new(""), &Disk).expect("good");
            loaded.config.storage.tsdb.retention
        };
        let day = std::time::Duration::from_secs(86_400);
        let of = |args: &[&str], text: &str| retention(&options(args), &config(text));
        let by_flags = ["--storage.tsdb.retention.time=3d", "--storage.tsdb.retention.size=1MB"];
        assert_eq!(of(&[], ""), Retention { time: Some(15 * day), bytes: None, percent: None });
        assert_eq!(of(&by_flags, ""), Retention { time: Some(3 * day), bytes: Some(1 << 20), percent: None });
        assert_eq!(
            of(&by_flags, "time: 1d, size: 2MB, percentage: 30"),
            Retention { time: Some(day), bytes: Some(2 << 20), percent: Some(30.0) }
        );
    }
}
