//! `alertmanager.yml` with its template files: all of it is good, or the old one stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use promesh_config::alertmanager::{self, AlertmanagerConfig, MatcherMode};
use promesh_config::{Problem, Source};
use promesh_template::Template;
use xxhash_rust::xxh3::xxh3_128;

use crate::options::FileOption;

/// What is in force without a file: alerts are kept and shown, and nobody is told.
const NOBODY: &str = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";

/// A configuration of delivery.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// As meant.
    pub config: Arc<AlertmanagerConfig>,
    /// The default templates and those of its files.
    pub template: Template,
    /// For people, secrets masked.
    pub shown: String,
    /// The file.
    pub file: PathBuf,
    /// What peers compare: the content as meant and the templates' contents.
    pub digest: u128,
    /// Whether there is a file; else nobody is told of anything.
    pub is_given: bool,
    /// What of it has no effect here.
    pub remarks: Vec<Problem>,
}

impl Configuration {
    /// Reads the file. Without one, unless it was named on the command line, nobody is told of anything.
    ///
    /// # Errors
    /// Everything wrong with it, each with file, line and column.
    pub fn load(file: &FileOption, source: &dyn Source, mode: MatcherMode) -> Result<Configuration, String> {
        let path = &file.path;
        if !file.is_given && source.glob(&path.to_string_lossy()).is_ok_and(|found| found.is_empty()) {
            let mut nobody = Configuration::parse(Path::new("(built in)"), NOBODY.as_bytes(), source, mode)?;
            nobody.is_given = false;
            return Ok(nobody);
        }
        let text = source.read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Configuration::parse(path, &text, source, mode)
    }

    fn parse(path: &Path, text: &[u8], source: &dyn Source, mode: MatcherMode) -> Result<Configuration, String> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let config = alertmanager::load_in(&path.to_string_lossy(), text, folder, mode);
        let alertmanager::Loaded { config, remarks } = config.map_err(|errors| errors.to_string())?;
        let mut template = Template::alertmanager();
        let mut bytes = config.digest().to_le_bytes().to_vec();
        for pattern in &config.templates {
            let found = source.glob(&pattern.0).map_err(|error| format!("templates: {}: {error}", pattern.0))?;
            for file in found {
                let text = source.read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
                let text = String::from_utf8(text).map_err(|_| format!("{}: it is not UTF-8", file.display()))?;
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                template.add(&name, &text).map_err(|error| format!("{}: {error}", file.display()))?;
                bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        let shown = config.masked();
        Ok(Configuration {
            config: Arc::new(config),
            template,
            shown,
            file: path.to_owned(),
            digest: xxh3_128(&bytes),
            is_given: true,
            remarks,
        })
    }

    /// What other peers are told: those without a file take no part in the vote, and send nothing.
    pub fn published(&self) -> Option<u128> {
        self.is_given.then_some(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use promesh_config::source::MemorySource;

    use super::*;

    fn load(files: &[(&str, &str)], is_given: bool) -> Result<Configuration, String> {
        let files = files.iter().map(|(path, text)| ((*path).into(), text.as_bytes().to_vec()));
        let file = FileOption { path: "etc/alertmanager.yml".into(), is_given };
        Configuration::load(&file, &MemorySource(files.collect()), MatcherMode::default())
    }

    const FILE: &str = "templates: ['*.tmpl']\nroute: {receiver: a}\nreceivers: [{name: a}]\n";

    #[test]
    fn without_a_file_nobody_is_told_and_the_peer_takes_no_part_in_the_vote() {
        let absent = load(&[], false).expect("it may be absent");
        assert_eq!(absent.published(), None);
        assert!(load(&[], true).unwrap_err().contains("etc/alertmanager.yml"));
        assert!(load(&[("etc/alertmanager.yml", FILE)], false).expect("it loads").published().is_some());
    }

    #[test]
    fn templates_are_part_of_what_peers_compare_and_are_checked() {
        let with = |text: &str| load(&[("etc/alertmanager.yml", FILE), ("etc/x.tmpl", text)], false);
        let one = with("{{ define \"a\" }}one{{ end }}").expect("it loads");
        assert!(one.template.defines("a"));
        assert_ne!(one.digest, with("{{ define \"a\" }}two{{ end }}").expect("it loads").digest);
        let error = with("{{ define \"a\" }}").unwrap_err();
        assert!(error.contains("etc/x.tmpl") && error.contains("x.tmpl:1"), "{error}");
        let error = load(&[("etc/alertmanager.yml", "route:\n  reciever: a\n")], false).unwrap_err();
        assert!(error.contains("alertmanager.yml:2:3"), "{error}");
    }
}
