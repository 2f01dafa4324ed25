//! The configuration in use, and the way to another.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use promesh_config::prometheus::{self, Loaded, ScrapeConfig};
use promesh_config::rules::{self, RuleFile};

use crate::files::Disk;
use crate::options::FileOption;

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
