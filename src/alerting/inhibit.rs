//! Inhibition: an alert is quiet while a graver one that explains it fires. Sources are indexed as alerts come and go.

use std::collections::{BTreeMap, BTreeSet};

use promesh_config::alertmanager::{AlertmanagerConfig, Matchers};
use promesh_model::Labels;

use crate::alert::AlertKey;

/// One rule with its index of sources by the values of its `equal` labels.
#[derive(Clone, Debug)]
struct Rule {
    name: String,
    source: Matchers,
    target: Matchers,
    equal: Vec<String>,
    sources: BTreeMap<Vec<String>, BTreeSet<AlertKey>>,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Inhibitor {
    rules: Vec<Rule>,
}

impl Inhibitor {
    /// The rules of a configuration, without sources yet.
    pub fn new(config: &AlertmanagerConfig) -> Inhibitor {
        let rule = |rule: &promesh_config::alertmanager::InhibitRule| Rule {
            name: rule.name.clone(),
            source: rule.source(),
            target: rule.target(),
            equal: rule.equal.clone(),
            sources: BTreeMap::new(),
        };
        Inhibitor { rules: config.inhibit_rules.iter().map(rule).collect() }
    }

    /// An alert began to fire, or ended.
    pub fn note(&mut self, key: AlertKey, labels: &Labels, firing: bool) {
        for rule in &mut self.rules {
            if !rule.source.matches(labels) {
                continue;
            }
            let values = rule.values(labels);
            if firing {
                rule.sources.entry(values).or_default().insert(key);
            } else if let Some(sources) = rule.sources.get_mut(&values) {
                sources.remove(&key);
                if sources.is_empty() {
                    rule.sources.remove(&values);
                }
            }
        }
    }

    /// The alert that mutes this one, with the rule's name. An alert that is both source and target of a rule is not
    /// muted by another such.
    pub fn inhibited_by<'a>(
        &'a self,
        labels: &Labels,
        labels_of: impl Fn(AlertKey) -> Option<&'a Labels>,
    ) -> Option<(AlertKey, &'a str)> {
        self.rules.iter().filter(|rule| rule.target.matches(labels)).find_map(|rule| {
            let two_sided = rule.source.matches(labels);
            let mut sources = rule.sources.get(&rule.values(labels))?.iter();
            let counts =
                |key: &&AlertKey| !two_sided || labels_of(**key).is_some_and(|source| !rule.target.matches(source));
            sources.find(counts).map(|key| (*key, rule.name.as_str()))
        })
    }
}

impl Rule {
    fn values(&self, labels: &Labels) -> Vec<String> {
        self.equal.iter().map(|name| labels.value(name).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn targets_are_muted_by_sources_with_equal_labels() {
        let text = "
route: {receiver: a}
receivers: [{name: a}]
inhibit_rules:
- {name: graver, source_matchers: [severity=critical], target_matchers: ['severity=~\"critical|warning\"'], equal: [host, zone]}
";
        let config = promesh_config::alertmanager::load("a.yml", text.as_bytes(), Path::new("")).expect("it loads");
        let mut inhibitor = Inhibitor::new(&config);
        let alert = |severity: &str, host: &str| Labels::from_pairs([("severity", severity), ("host", host)]);
        let (critical, other) = (alert("critical", "x"), alert("critical", "y"));
        let all: BTreeMap<AlertKey, Labels> =
            [&critical, &other].map(|labels| (AlertKey::of(labels), labels.clone())).into();
        inhibitor.note(AlertKey::of(&critical), &critical, true);
        let muted = |inhibitor: &Inhibitor, labels: &Labels| {
            inhibitor.inhibited_by(labels, |key| all.get(&key)).map(|(key, _)| key)
        };
        assert_eq!(muted(&inhibitor, &alert("warning", "x")), Some(AlertKey::of(&critical)));
        assert_eq!(muted(&inhibitor, &alert("warning", "y")), None);
        assert_eq!(muted(&inhibitor, &critical), None, "an alert does not mute itself");
        inhibitor.note(AlertKey::of(&critical), &critical, false);
        assert_eq!(muted(&inhibitor, &alert("warning", "x")), None);
    }
}
