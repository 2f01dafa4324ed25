//! The configuration in use, and the way to another.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use promesh_config::prometheus::{self, Loaded, ScrapeConfig};
use promesh_config::rules::{self, RuleFile};
use promesh_promql::EngineOptions;

use crate::files::Disk;
use crate::options::{FileOption, Options};

/// What a peer scrapes that was given no configuration: all peers, itself among them.
const BUILT_IN: &str = "scrape_configs:\n- job_name: promesh\n  peer_sd_configs: [{}]\n";

/// Everything that the files say.
#[derive(Debug)]
pub struct Settings {
    /// The main file with the files of its scrape configurations.
    pub loaded: Loaded,
    /// The jobs.
    pub jobs: Vec<Arc<ScrapeConfig>>,
    /// The rule files.
    pub rules: Vec<RuleFile>,
}

impl Settings {
    /// Reads the files. Without a file, unless one was named, the built-in configuration.
    ///
    /// # Errors
    /// Everything wrong, each with file, line and column.
    pub fn load(file: &FileOption) -> Result<Settings, String> {
        let path = &file.path;
        let loaded = if file.is_given || path.exists() {
            prometheus::load(path, &Disk).map_err(|errors| errors.to_string())?
        } else {
            prometheus::load_text("(built in)", BUILT_IN.as_bytes(), Path::new(""), &Disk)
                .expect("the built-in configuration is valid: a test says so")
        };
        loaded.require_supported().map_err(|errors| errors.to_string())?;
        let names = loaded.config.global.scheme();
        let rules = rules::load(&loaded.config.rule_files, names, &Disk).map_err(|errors| errors.to_string())?;
        let jobs = loaded.jobs.iter().cloned().map(Arc::new).collect();
        Ok(Settings { loaded, jobs, rules })
    }
}

/// Delivery from inside is not built: a configuration for it must not look as if it were in force.
///
/// # Errors
/// When there is one.
pub fn refuse_delivery(options: &Options) -> Result<(), String> {
    let file = &options.alertmanager.config_file;
    if file.is_given || file.path.exists() {
        let path = file.path.display();
        return Err(format!(
            "{path} (--alertmanager.config.file): delivery of alerts is not built: start without this file"
        ));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_a_file_scrapes_all_peers() {
        let folder = tempfile::tempdir().expect("a folder");
        let absent = FileOption { path: folder.path().join("prometheus.yml"), is_given: false };
        let settings = Settings::load(&absent).expect("the built-in configuration");
        assert_eq!(settings.jobs[0].job_name, "promesh");
        assert!(Settings::load(&FileOption { is_given: true, ..absent }).is_err());
    }
}
