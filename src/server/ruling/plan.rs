//! From rule files to groups: checked as a whole, so that a bad rule leaves all of the old ones in use.

use std::sync::Arc;

use hashbrown::HashMap;
use promesh_config::rules::{RuleFile, RuleGroup};
use promesh_config::{ConfigErrors, Problem};
use promesh_model::shard::shard_of_names;
use promesh_model::{Labels, Matcher, ShardId};
use promesh_node::Piece;
use promesh_promql::Engine;
use promesh_replication::SourceId;
use promesh_rules::{AlertingSpec, GroupSpec, RecordingSpec, RuleSpec, Settings as GroupSettings};

use super::phase::{after_scrapes, scrapes_of};
use crate::definitions;
use crate::options::Options;
use crate::settings::Settings;

/// A group that is to be evaluated by whoever owns its shard.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its identity, alike on all peers.
    pub source: SourceId,
    /// Where it is owned.
    pub shard: ShardId,
    /// Where in its interval its slots lie, if that follows from what it reads.
    pub phase_ms: Option<i64>,
    /// What it is.
    pub spec: GroupSpec,
    /// Its file as this peer found it, for people.
    pub path: String,
    /// The identity of each rule's batches, in order.
    pub rule_sources: Vec<SourceId>,
    /// What it shares with others.
    pub settings: Arc<GroupSettings>,
}

impl Planned {
    /// Whether nothing changed that an evaluation would notice.
    pub fn is_same(&self, other: &Planned) -> bool {
        self.spec == other.spec
            && self.phase_ms == other.phase_ms
            && self.settings.external_labels == other.settings.external_labels
            && self.settings.query_offset == other.settings.query_offset
    }

    pub(super) fn piece(&self) -> Piece {
        definitions::group(&self.spec.file, &self.spec.name)
    }

    pub(super) fn interval_ms(&self) -> i64 {
        interval_ms(&self.spec)
    }
}

fn interval_ms(spec: &GroupSpec) -> i64 {
    promesh_model::time::ms_of(spec.interval).max(1)
}

/// The matchers of every selector of a group's expressions.
fn selectors_of(spec: &GroupSpec, engine: &Engine) -> Vec<Vec<Matcher>> {
    let parsed = spec.rules.iter().filter_map(|rule| engine.parse(rule.expression()).ok());
    parsed.flat_map(|expr| expr.selectors().into_iter().map(<[_]>::to_vec).collect::<Vec<_>>()).collect()
}

/// All groups of the settings.
///
/// # Errors
/// Every expression and every template that does not parse, with its place.
pub fn plan(
    settings: &Settings,
    options: &Options,
    external_url: &str,
    engine: &Engine,
) -> Result<Vec<Planned>, String> {
    let global = &settings.loaded.config.global;
    let shared = Arc::new(GroupSettings {
        external_labels: global.external_labels.clone(),
        external_url: external_url.to_owned(),
        resend_delay: options.rules.resend_delay,
        query_offset: global.rule_query_offset,
        for_grace_period: options.rules.grace_period,
        for_outage_tolerance: options.rules.outage_tolerance,
        incomplete_hold: options.rules.incomplete_hold,
    });
    let mut planned = Vec::new();
    let mut problems = Vec::new();
    let scrapes = scrapes_of(&settings.jobs);
    let parse = |text: &str| engine.parse(text).err().map(|error| error.to_string());
    for file in &settings.rules {
        // Peers may keep their configuration in different folders, and agree all the same.
        let relative = definitions::relative(&file.path, options).into_owned();
        for group in &file.groups {
            problems.extend(problems_of(file, group, &parse));
            let spec = group_spec(group, &relative, global.evaluation_interval);
            let source = source_of(&["rules", &relative, &group.name]);
            let phase_ms = after_scrapes(source, interval_ms(&spec), &selectors_of(&spec, engine), &scrapes);
            planned.push(Planned {
                source,
                phase_ms,
                shard: shard_of_names(&[&relative, &group.name]),
                rule_sources: rule_sources(source, &spec),
                spec,
                path: file.path.clone(),
                settings: Arc::clone(&shared),
            });
        }
    }
    if problems.is_empty() { Ok(planned) } else { Err(ConfigErrors(problems).to_string()) }
}

/// What the file's form does not show: expressions and templates that do not parse; `parse` says what is wrong with one.
pub fn problems_of(file: &RuleFile, group: &RuleGroup, parse: &dyn Fn(&str) -> Option<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for rule in &group.rules {
        if let Some(error) = parse(&rule.expr.value) {
            problems.push(file.problem(rule.expr.at, format!("could not parse expression: {error}")));
        }
        if let RuleSpec::Alerting(alerting) = rule_spec(rule, group)
            && let Err(error) = alerting.check()
        {
            problems.push(file.problem(rule.alert.at, error.to_string()));
        }
    }
    problems
}

/// A group as meant; without an interval of its own it has the default.
pub fn group_spec(group: &RuleGroup, file: &str, default_interval: std::time::Duration) -> GroupSpec {
    GroupSpec {
        file: file.to_owned(),
        name: group.name.clone(),
        interval: if group.interval.is_zero() { default_interval } else { group.interval },
        limit: group.limit,
        query_offset: group.query_offset,
        rules: group.rules.iter().map(|rule| rule_spec(rule, group)).collect(),
    }
}

fn rule_spec(rule: &promesh_config::rules::Rule, group: &RuleGroup) -> RuleSpec {
    let labels = merged(&group.labels, &rule.labels);
    let expression = rule.expr.value.clone();
    if rule.record.value.is_empty() {
        RuleSpec::Alerting(AlertingSpec {
            alert: rule.alert.value.clone(),
            expression,
            hold: rule.r#for,
            keep_firing_for: rule.keep_firing_for,
            labels,
            annotations: rule.annotations.clone(),
        })
    } else {
        RuleSpec::Recording(RecordingSpec { record: rule.record.value.clone(), expression, labels })
    }
}

/// A rule's own labels win.
fn merged(group: &Labels, rule: &Labels) -> Labels {
    let mut labels = group.to_builder();
    for (name, value) in rule.iter() {
        labels.set(name, value);
    }
    labels.build()
}

/// A rule's batches are a source of their own: one slot has one batch of a source. Named by what the rule is, not by its
/// place, so that a rule put before it does not take over its series.
fn rule_sources(group: SourceId, spec: &GroupSpec) -> Vec<SourceId> {
    let group = format!("{:032x}", group.0);
    let mut seen: HashMap<(&str, &Labels), usize> = HashMap::new();
    let source = |rule: &RuleSpec, ordinal: usize| {
        source_of(&["rule", &group, rule.name(), &rule.labels().to_string(), &ordinal.to_string()])
    };
    let mut sources = Vec::with_capacity(spec.rules.len());
    for rule in &spec.rules {
        let ordinal = seen.entry((rule.name(), rule.labels())).or_default();
        sources.push(source(rule, *ordinal));
        *ordinal += 1;
    }
    sources
}

/// 0xff never occurs in UTF-8, so no two lists of texts are one.
fn source_of(names: &[&str]) -> SourceId {
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0xff);
    }
    SourceId(xxhash_rust::xxh3::xxh3_128(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::FileOption;

    fn planned(text: &str) -> Result<Vec<Planned>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, "rule_files: [rules.yml]\nglobal: {evaluation_interval: 7s}\n").expect("written");
        std::fs::write(folder.path().join("rules.yml"), text).expect("written");
        let settings = Settings::load(&FileOption { path: path.clone(), is_given: true }, "/").expect("it loads");
        let options = Options { config_file: FileOption { path, is_given: true }, ..Options::defaults() };
        plan(&settings, &options, "http://here/", &Engine::default())
    }

    #[test]
    fn peers_with_other_folders_agree_on_identities() {
        let text = "groups: [{name: g, labels: {a: b, c: d}, rules: [{record: r, expr: up, labels: {a: x}}, {record: r, expr: up}, {record: r, expr: up}]}]";
        let (one, other) = (planned(text).expect("it plans"), planned(text).expect("it plans"));
        assert_eq!((one[0].source, one[0].shard), (other[0].source, other[0].shard));
        assert_eq!(one[0].rule_sources, other[0].rule_sources);
        assert!(one[0].is_same(&other[0]));
        assert_ne!(one[0].rule_sources[1], one[0].rule_sources[2]);
        assert_eq!(one[0].spec.file, "rules.yml");
        assert_eq!(one[0].interval_ms(), 7_000);
        assert_eq!(*one[0].spec.rules[0].labels(), Labels::from_pairs([("a", "x"), ("c", "d")]));
    }

    #[test]
    fn a_group_is_evaluated_just_after_the_one_target_it_reads() {
        let phase = |jobs: &str, expr: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("prometheus.yml");
            let text =
                format!("rule_files: [rules.yml]\nglobal: {{evaluation_interval: 10s}}\nscrape_configs:\n{jobs}");
            std::fs::write(&path, text).expect("written");
            let rules = format!("groups: [{{name: g, rules: [{{record: r, expr: '{expr}'}}]}}]");
            std::fs::write(folder.path().join("rules.yml"), rules).expect("written");
            let settings = Settings::load(&FileOption { path: path.clone(), is_given: true }, "/").expect("it loads");
            let options = Options { config_file: FileOption { path, is_given: true }, ..Options::defaults() };
            plan(&settings, &options, "http://here/", &Engine::default()).expect("it plans")[0].phase_ms
        };
        let one = "- {job_name: a, scrape_interval: 5s, static_configs: [{targets: ['a:1']}]}\n";
        let found = "- {job_name: b, scrape_interval: 5s, file_sd_configs: [{files: [b.json]}]}\n";
        let other = "- {job_name: c, scrape_interval: 3s, static_configs: [{targets: ['c:1']}]}\n";
        let alone = phase(one, "x").expect("one target");
        assert!((0..10_000).contains(&alone));
        assert_eq!(phase(&format!("{one}{found}"), "x"), None, "who knows what it reads");
        assert_eq!(phase(&format!("{one}{found}{other}"), "x{job=\"a\"} > 1"), Some(alone));
        assert_eq!(phase(&format!("{one}{other}"), "x{job=~\"a|c\"}"), None, "two intervals");
        assert_eq!(phase(other, "x"), None, "no interval of scrapes fits the group's");
    }

    #[test]
    fn what_does_not_parse_is_named_with_its_place() {
        let error = planned(
            "groups:\n- name: g\n  rules:\n  - {record: r, expr: 'sum('}\n  - {alert: A, expr: up, labels: {x: '{{ $y }}'}}\n",
        );
        let error = error.expect_err("both are wrong");
        assert!(error.contains("rules.yml:4:") && error.contains("rules.yml:5:"), "{error}");
    }
}
