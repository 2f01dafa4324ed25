//! Labels of a sample: the exposition's, the target's, and the rules.

use promesh_config::prometheus::ScrapeConfig;
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, LabelsBuilder, relabel};
use promesh_textparse::RawLabels;

/// What a series of a target is called in storage. `None`: a rule dropped it.
///
/// # Errors
/// Why the whole scrape fails: a repeated or invalid name, a limit passed. The words are upstream's.
pub(crate) fn of_series(raw: &RawLabels, target: &Labels, job: &ScrapeConfig) -> Result<Option<Labels>, String> {
    let mut names: Vec<&str> = raw.0.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("label name {:?} is not unique: invalid sample", pair[0]));
    }
    let mut labels = LabelsBuilder::default();
    for (name, value) in &raw.0 {
        labels.set(name, value);
    }
    if job.honor_labels {
        honour(&mut labels, raw, target);
    } else {
        resolve_conflicts(&mut labels, target);
    }
    let Some(labels) = relabel::apply(&job.metric_relabel_configs, labels) else { return Ok(None) };
    let labels = labels.build();
    // Rules may remove everything: upstream drops such a series like one that a rule dropped.
    if labels.is_empty() {
        return Ok(None);
    }
    check(&labels, job)?;
    Ok(Some(labels))
}

/// The exposition wins, also by an empty value.
fn honour(labels: &mut LabelsBuilder, raw: &RawLabels, target: &Labels) {
    for (name, value) in target {
        if !raw.0.iter().any(|(present, _)| present == name) {
            labels.set(name, value);
        }
    }
}

/// The target wins; what the exposition said is kept as `exported_…`.
fn resolve_conflicts(labels: &mut LabelsBuilder, target: &Labels) {
    let mut conflicts = Vec::new();
    for (name, value) in target {
        if let Some(exposed) = labels.get(name) {
            conflicts.push((name, exposed.to_owned()));
        }
        labels.set(name, value);
    }
    // The shortest names first, so that a conflict about `exported_a` itself finds its place after `a`'s.
    conflicts.sort_by_key(|(name, _)| name.len());
    for (name, exposed) in conflicts {
        let mut kept = format!("exported_{name}");
        while labels.get(&kept).is_some() || target.get(&kept).is_some() {
            kept.insert_str(0, "exported_");
        }
        labels.set(&kept, &exposed);
    }
}

fn check(labels: &Labels, job: &ScrapeConfig) -> Result<(), String> {
    let scheme = job.names();
    let Some(metric) = labels.metric_name() else { return Err("missing metric name (__name__ label)".to_owned()) };
    let valid = scheme.is_metric_name(metric)
        && labels.iter().all(|(name, _)| name == METRIC_NAME || scheme.is_label_name(name));
    if !valid {
        return Err(format!("invalid metric name or label names: {}", labels.as_metric()));
    }
    let (limit, name_limit, value_limit) = (job.label_limit, job.label_name_length_limit, job.label_value_length_limit);
    if limit > 0 && labels.len() > limit {
        return Err(format!(
            "label_limit exceeded (metric: {metric:.50}, number of labels: {}, limit: {limit})",
            labels.len()
        ));
    }
    for (name, value) in labels {
        if name_limit > 0 && name.len() > name_limit {
            return Err(format!(
                "label_name_length_limit exceeded (metric: {metric:.50}, label name: {name:.50}, length: {}, limit: {name_limit})",
                name.len()
            ));
        }
        if value_limit > 0 && value.len() > value_limit {
            return Err(format!(
                "label_value_length_limit exceeded (metric: {metric:.50}, label name: {name:.50}, value: {value:.50}, length: {}, limit: {value_limit})",
                value.len()
            ));
        }
    }
    Ok(())
}
