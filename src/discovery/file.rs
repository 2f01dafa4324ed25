//! `file_sd_configs`: JSON and YAML files of groups, read again when they change.
//!
//! Changes are found by looking at the files' times every second: that works alike on every file system, and for
//! symbolic links that are swapped, as in Kubernetes' config maps.
//!
//! Source: prometheus `discovery/file`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use promesh_config::prometheus::FileSd;
use promesh_config::source::glob_matches;
use promesh_config::yaml::{self, FilePath, Reader, Yaml as _};
use promesh_model::LabelsBuilder;
use tracing::warn;

use crate::manager::Sink;
use crate::{DiscoveryError, TargetGroup, WrittenGroup};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What tells a file from its former self.
type Stamp = (Option<SystemTime>, u64);

/// Follows the files for ever.
pub(crate) async fn run(config: FileSd, sink: Sink) {
    let mut files: BTreeMap<PathBuf, (Stamp, Vec<TargetGroup>)> = BTreeMap::new();
    let refresh_looks = (config.refresh_interval.as_secs().max(1)) as u32;
    let mut look = 0u32;
    loop {
        let read_all = look.is_multiple_of(refresh_looks);
        look = look.wrapping_add(1);
        let (patterns, before) = (config.files.clone(), files);
        let looked = tokio::task::spawn_blocking(move || look_at(&patterns, before, read_all)).await;
        let Ok(now) = looked else { return };
        files = now;
        sink.publish(files.values().flat_map(|(_, groups)| groups.iter().cloned()).collect());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The files as they are now. One that cannot be read keeps its former groups.
fn look_at(
    patterns: &[FilePath],
    mut before: BTreeMap<PathBuf, (Stamp, Vec<TargetGroup>)>,
    read_all: bool,
) -> BTreeMap<PathBuf, (Stamp, Vec<TargetGroup>)> {
    let mut now = BTreeMap::new();
    for path in patterns.iter().flat_map(|pattern| matching(&pattern.0)) {
        let former = before.remove(&path);
        let stamp = std::fs::metadata(&path).map(|data| (data.modified().ok(), data.len())).unwrap_or((None, 0));
        if let Some((former_stamp, groups)) = &former
            && *former_stamp == stamp
            && !read_all
        {
            now.insert(path, (stamp, groups.clone()));
            continue;
        }
        match read_groups(&path) {
            Ok(groups) => drop(now.insert(path, (stamp, groups))),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read target file, its last targets stay");
                let groups = former.map(|(_, groups)| groups).unwrap_or_default();
                now.insert(path, (stamp, groups));
            }
        }
    }
    now
}

/// The files that a pattern names; stars stand in its last part only.
fn matching(pattern: &str) -> Vec<PathBuf> {
    if !pattern.contains(['*', '?', '[']) {
        return vec![PathBuf::from(pattern)];
    }
    let folder = Path::new(pattern).parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(Path::new(pattern).parent()?.join(entry.ok()?.file_name())))
        .filter(|path| glob_matches(pattern, &path.to_string_lossy()).unwrap_or(false))
        .collect();
    found.sort();
    found
}

/// The groups of one file, each marked with the file that it came from.
pub(crate) fn read_groups(path: &Path) -> Result<Vec<TargetGroup>, DiscoveryError> {
    let broken = |error: io::Error| DiscoveryError::Answer(error.to_string());
    if std::fs::metadata(path).map_err(broken)?.len() > FILE_BYTES_MAX {
        return Err(DiscoveryError::Answer(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(path).map_err(broken)?;
    let shown = path.to_string_lossy();
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let groups = if is_json { from_json(&bytes, &shown)? } else { from_yaml(&bytes, &shown)? };
    let mark = |mut group: TargetGroup| {
        let mut labels: LabelsBuilder = group.labels.to_builder();
        labels.set("__meta_filepath", &shown);
        group.labels = labels.build();
        group
    };
    Ok(groups.into_iter().map(mark).collect())
}

fn from_json(bytes: &[u8], path: &str) -> Result<Vec<TargetGroup>, DiscoveryError> {
    let written: Vec<Option<WrittenGroup>> =
        serde_json::from_slice(bytes).map_err(|error| DiscoveryError::Answer(error.to_string()))?;
    let nothing = || DiscoveryError::Answer("nil target group item found".to_owned());
    written
        .into_iter()
        .enumerate()
        .map(|(index, group)| group.ok_or_else(nothing)?.into_group(format!("{path}:{index}")))
        .collect()
}

fn from_yaml(bytes: &[u8], path: &str) -> Result<Vec<TargetGroup>, DiscoveryError> {
    let answer = |problem: yaml::Problem| DiscoveryError::Answer(problem.to_string());
    let node = yaml::parse(path, bytes).map_err(answer)?;
    let mut reader = Reader::new(path, bytes, Path::new(""));
    let groups: Vec<promesh_config::prometheus::StaticGroup> = Vec::read(&node, &mut reader);
    if let Some(problem) = reader.into_problems().into_iter().next() {
        return Err(answer(problem));
    }
    let group = |(index, group): (usize, promesh_config::prometheus::StaticGroup)| {
        TargetGroup::of_addresses(&format!("{path}:{index}"), group.targets.iter().map(String::as_str), &group.labels)
    };
    Ok(groups.into_iter().enumerate().map(group).collect())
}
