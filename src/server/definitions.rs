//! This peer's configuration as digests, for the mesh's vote on which version it runs.

use std::path::Path;

use promesh_model::Timestamp;
use promesh_node::{Digests, Piece};
use xxhash_rust::xxh3::xxh3_128;

use crate::options::Options;
use crate::settings::Settings;

/// The piece that a scrape job is.
pub fn job(name: &str) -> Piece {
    Piece::Job(name.to_owned())
}

/// The piece that a rule group is, by its file relative to the configuration's folder.
pub fn group(file: &str, name: &str) -> Piece {
    Piece::Group { file: file.to_owned(), name: name.to_owned() }
}

/// A rule file's path as peers with other folders agree on it.
pub fn relative<'a>(file: &'a str, options: &Options) -> std::borrow::Cow<'a, str> {
    let folder = options.config_file.path.parent().unwrap_or(Path::new(""));
    Path::new(file).strip_prefix(folder).unwrap_or(Path::new(file)).to_string_lossy()
}

/// The digests of some settings, read at `now`, and of an alerting configuration; what is as `before` keeps its date.
pub fn digests(
    settings: &Settings,
    options: &Options,
    alerting: Option<u128>,
    before: &Digests,
    now: Timestamp,
) -> Digests {
    let jobs = settings.jobs.iter().map(|found| {
        let digest = promesh_config::prometheus::Loaded::job_digest(found);
        (job(&found.job_name), digest)
    });
    let global = &settings.loaded.config.global;
    let groups = settings.rules.iter().flat_map(|file| {
        let path = relative(&file.path, options).into_owned();
        file.groups.iter().map(move |found| {
            // What a group leaves to the globals is as much what it means.
            let interval = if found.interval.is_zero() { global.evaluation_interval } else { found.interval };
            let offset = found.query_offset.unwrap_or(global.rule_query_offset);
            let mut meant = found.digest().to_le_bytes().to_vec();
            meant.extend(interval.as_nanos().to_le_bytes());
            meant.extend(offset.as_nanos().to_le_bytes());
            (group(&path, &found.name), xxh3_128(&meant))
        })
    });
    let alerting = alerting.map(|digest| (Piece::Alerting, digest));
    Digests::of(jobs.chain(groups).chain(alerting), global.external_labels.clone(), before, now)
}
