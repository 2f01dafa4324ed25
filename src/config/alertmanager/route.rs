//! The route tree and the inhibition rules, as written and as meant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_model::labels::is_classic_label_name;
use promesh_model::{Labels, MatchOp, Matcher};

use super::matchers::{Matchers, is_label_name};
use crate::section;
use crate::yaml::{Node, Position, Reader, Show, Yaml};
use promesh_model::labels::quoted;

section! {
    /// A node of the route tree.
    pub struct Route "route" => check_route {
        /// Who is notified; the parent's when empty.
        pub receiver: String,
        /// Labels that make groups; `...` for all.
        pub group_by: Option<Vec<String>>,
        /// Old form of `matchers`.
        pub r#match: BTreeMap<String, String>,
        /// Old form of `matchers`.
        pub match_re: MatchRegexps,
        /// What an alert must be.
        pub matchers: Matchers,
        /// Intervals in which it is silent.
        pub mute_time_intervals: Vec<String>,
        /// Intervals outside of which it is silent.
        pub active_time_intervals: Vec<String>,
        /// Whether the siblings after it are tried too.
        pub r#continue: bool,
        /// Its children.
        pub routes: Vec<Route>,
        /// How long a new group gathers.
        pub group_wait: Option<Duration>,
        /// How long until news of a group are sent.
        pub group_interval: Option<Duration>,
        /// How long until a group without news is sent again.
        pub repeat_interval: Option<Duration>,
        /// Labels for templates; values may be templates.
        pub labels: Labels,
    }
}

section! {
    /// Alerts that match the target are muted while one matches the source.
    pub struct InhibitRule "inhibit_rule" => check_inhibit {
        /// For people.
        pub name: String,
        /// Old form of `source_matchers`.
        pub source_match: BTreeMap<String, String>,
        /// Old form of `source_matchers`.
        pub source_match_re: MatchRegexps,
        /// What mutes.
        pub source_matchers: Matchers,
        /// Old form of `target_matchers`.
        pub target_match: BTreeMap<String, String>,
        /// Old form of `target_matchers`.
        pub target_match_re: MatchRegexps,
        /// What is muted.
        pub target_matchers: Matchers,
        /// Labels that both must have alike.
        pub equal: Vec<String>,
    }
}

/// Label names with anchored expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchRegexps(pub Vec<Matcher>);

impl Yaml for MatchRegexps {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let mut matchers = Vec::new();
        for (key, value) in reader.entries(node, "map") {
            if !is_classic_label_name(&key.text) {
                reader.problem(key.at, format!("invalid label name {}", quoted(&key.text)));
            } else if value.is_null() {
                reader.problem(key.at, format!("invalid regexp value for {}", quoted(&key.text)));
            } else if let Some(text) = reader.scalar(value, "string") {
                match Matcher::within_lines(MatchOp::Regex, &*key.text, text) {
                    Ok(matcher) => matchers.push(matcher),
                    Err(error) => reader.problem(value.at, error.to_string()),
                }
            }
        }
        MatchRegexps(matchers)
    }
    fn show(&self, show: Show) -> Node {
        self.0
            .iter()
            .map(|matcher| (matcher.name.clone(), matcher.value.clone()))
            .collect::<BTreeMap<_, _>>()
            .show(show)
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

fn check_names<'a>(names: impl Iterator<Item = &'a String>, at: &Node, key: &str, reader: &mut Reader<'_>) {
    for name in names {
        if !is_classic_label_name(name) {
            let at = at.get(key).map_or(at.at, |node| node.at_key(name));
            reader.problem(at, format!("invalid label name {}", quoted(name)));
        }
    }
}

fn check_route(route: &mut Route, node: &Node, reader: &mut Reader<'_>) {
    check_names(route.r#match.keys(), node, "match", reader);
    let at = node.at_key("group_by");
    let names = route.group_by.as_deref().unwrap_or(&[]);
    check_label_names(names.iter().filter(|name| *name != "..."), at, "group_by", reader);
    if names.len() > 1 && names.iter().any(|name| name == "...") && names.iter().any(|name| name != "...") {
        reader.problem(at, "cannot have wildcard group_by (`...`) and other labels at the same time");
    }
    let labels: Vec<String> = route.labels.iter().map(|(name, _)| name.to_owned()).collect();
    let mode = reader.matcher_mode;
    for name in labels.iter().filter(|name| !is_label_name(name, mode)) {
        reader.problem(node.at_key("labels"), format!("invalid label name {} in route labels", quoted(name)));
    }
    let mut seen = BTreeSet::new();
    for name in names.iter().filter(|name| *name != "...") {
        if !seen.insert(name) {
            reader.problem(at, format!("duplicated label {} in group_by", quoted(name)));
        }
    }
    for (name, value) in [("group_interval", route.group_interval), ("repeat_interval", route.repeat_interval)] {
        if value.is_some_and(|value| value.is_zero()) {
            reader.problem(node.at_key(name), format!("{name} cannot be zero"));
        }
    }
}

fn check_inhibit(rule: &mut InhibitRule, node: &Node, reader: &mut Reader<'_>) {
    check_names(rule.source_match.keys(), node, "source_match", reader);
    check_names(rule.target_match.keys(), node, "target_match", reader);
    check_label_names(rule.equal.iter(), node.at_key("equal"), "equal", reader);
}

/// Names that UTF-8 labels may have, unless the classic mode is on.
fn check_label_names<'a>(names: impl Iterator<Item = &'a String>, at: Position, list: &str, reader: &mut Reader<'_>) {
    for name in names {
        if !is_label_name(name, reader.matcher_mode) {
            reader.problem(at, format!("invalid label name {} in {list} list", quoted(name)));
        }
    }
}

fn combined(exact: &BTreeMap<String, String>, patterns: &MatchRegexps, matchers: &Matchers) -> Matchers {
    let exact = exact.iter().map(|(name, value)| Matcher::equal(name, value));
    Matchers::sorted(exact.chain(patterns.0.iter().cloned()).chain(matchers.0.iter().cloned()).collect())
}

impl Route {
    /// All of its matchers, old forms included, sorted.
    pub fn all_matchers(&self) -> Matchers {
        combined(&self.r#match, &self.match_re, &self.matchers)
    }

    /// Whether it says anything about who matches.
    pub fn has_matchers(&self) -> bool {
        !(self.r#match.is_empty() && self.match_re.0.is_empty() && self.matchers.0.is_empty())
    }
}

impl InhibitRule {
    /// What mutes.
    pub fn source(&self) -> Matchers {
        combined(&self.source_match, &self.source_match_re, &self.source_matchers)
    }

    /// What is muted.
    pub fn target(&self) -> Matchers {
        combined(&self.target_match, &self.target_match_re, &self.target_matchers)
    }
}
