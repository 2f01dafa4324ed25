//! Rule files: groups of recording and alerting rules, as meant, with the places of their expressions.
//!
//! Expressions and templates are texts here; who parses them reports with [`Located::at`].
//!
//! Source: prometheus `model/rulefmt`.

use std::path::Path;
use std::time::Duration;

use promesh_model::Labels;
use promesh_model::labels::METRIC_NAME;
use promesh_model::relabel::NameScheme;

use crate::Source;
use crate::section;
use crate::yaml::{self, ConfigErrors, FilePath, Node, Position, Problem, Reader, Show, Yaml, read_section};

/// A value and where it stands. Two of them are equal when their values are.
#[derive(Clone, Debug, Default)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it begins.
    pub at: Position,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Yaml> Yaml for Located<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        Located { value: T::read(node, reader), at: node.at }
    }
    fn show(&self, show: Show) -> Node {
        self.value.show(show)
    }
    fn is_zero(&self) -> bool {
        self.value.is_zero()
    }
}

section! {
    /// One file.
    pub struct RuleGroups "rule_groups" {
        /// Its groups.
        pub groups: Vec<RuleGroup>,
        /// Namespace of Mimir's and Cortex' tools; without meaning here.
        pub namespace: String,
    }
}

section! {
    /// Rules that are evaluated together, one after the other.
    pub struct RuleGroup "rule_group" => check_group {
        /// Unique in its file.
        pub name: String,
        /// How often; zero: the global interval.
        pub interval: Duration,
        /// How far in the past; nothing: the global offset.
        pub query_offset: Option<Duration>,
        /// Most series or alerts of a rule; zero: no limit.
        pub limit: usize,
        /// The rules.
        pub rules: Vec<Rule>,
        /// Labels of every rule; a rule's own win.
        pub labels: Labels,
    }
}

section! {
    /// A recording or an alerting rule.
    pub struct Rule "rule" => check_rule {
        /// The series that is written.
        pub record: Located<String>,
        /// The alert that fires.
        pub alert: Located<String>,
        /// What is evaluated.
        pub expr: Located<String>,
        /// How long it must hold before it fires.
        pub r#for: Duration,
        /// How long it keeps firing after.
        pub keep_firing_for: Duration,
        /// Labels of what is written or fires.
        pub labels: Labels,
        /// Texts of an alert.
        pub annotations: Labels,
    }
}

/// A file of rules, read.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleFile {
    /// Its path.
    pub path: String,
    /// Its groups.
    pub groups: Vec<RuleGroup>,
    /// Its text, for messages about expressions and templates.
    pub text: String,
}

impl RuleFile {
    /// A problem at a place of this file.
    pub fn problem(&self, at: Position, message: impl Into<String>) -> Problem {
        let mut reader = Reader::new(&self.path, self.text.as_bytes(), Path::new(""));
        reader.problem(at, message);
        reader.into_problems().pop().expect("one was just added")
    }
}

impl RuleGroup {
    /// The digest of its content: equal for equal rules, whatever the file's path and comments.
    pub fn digest(&self) -> u128 {
        crate::prometheus::content_digest(self)
    }
}

/// Reads all files that patterns name, each once, in order.
///
/// # Errors
/// Every problem of every file.
pub fn load(patterns: &[FilePath], names: NameScheme, source: &dyn Source) -> Result<Vec<RuleFile>, ConfigErrors> {
    let mut files: Vec<RuleFile> = Vec::new();
    let mut problems = Vec::new();
    for FilePath(pattern) in patterns {
        let paths = source.glob(pattern).unwrap_or_else(|error| {
            problems.push(whole_file(pattern, format!("error retrieving rule files: {error}")));
            Vec::new()
        });
        for path in paths {
            let path_text = path.to_string_lossy().into_owned();
            if files.iter().any(|file| file.path == path_text) {
                continue;
            }
            match source.read(&path) {
                Ok(text) => match load_text(&path_text, &text, names) {
                    Ok(file) => files.push(file),
                    Err(ConfigErrors(more)) => problems.extend(more),
                },
                Err(error) => problems.push(whole_file(&path_text, format!("cannot read rules: {error}"))),
            }
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(ConfigErrors(problems)) }
}

/// Reads one file.
///
/// # Errors
/// Every problem of the file.
pub fn load_text(path: &str, text: &[u8], names: NameScheme) -> Result<RuleFile, ConfigErrors> {
    let node = yaml::parse(path, text).map_err(|problem| ConfigErrors(vec![problem]))?;
    let mut reader = Reader::new(path, text, Path::new(""));
    let read: RuleGroups = read_section(&node, &mut reader);
    let list = node.get("groups").map_or(&[][..], Node::elements);
    for (index, (group, node)) in read.groups.iter().zip(list).enumerate() {
        if read.groups[..index].iter().any(|earlier| earlier.name == group.name) {
            let message = format!("groupname: {:?} is repeated in the same file", group.name);
            reader.problem(node.at_key("name"), message);
        }
        check_names(group, names, node, &mut reader);
    }
    let problems = reader.into_problems();
    if !problems.is_empty() {
        return Err(ConfigErrors(problems));
    }
    Ok(RuleFile { path: path.to_owned(), groups: read.groups, text: String::from_utf8_lossy(text).into_owned() })
}

fn whole_file(file: &str, message: String) -> Problem {
    Problem { file: file.to_owned(), at: Position::default(), message, snippet: String::new() }
}

fn check_group(group: &mut RuleGroup, node: &Node, reader: &mut Reader<'_>) {
    if group.name.is_empty() {
        reader.problem(node.at, "Groupname must not be empty");
    }
}

fn check_rule(rule: &mut Rule, node: &Node, reader: &mut Reader<'_>) {
    let (record, alert) = (!rule.record.value.is_empty(), !rule.alert.value.is_empty());
    match (record, alert) {
        (true, true) => reader.problem(node.at_key("alert"), "only one of 'record' and 'alert' must be set"),
        (false, false) => reader.problem(node.at, "one of 'record' or 'alert' must be set"),
        _ => {}
    }
    if rule.expr.value.trim().is_empty() {
        reader.problem(node.at_key("expr"), "field 'expr' must be set in rule");
    }
    if !record {
        return;
    }
    for (key, given) in [
        ("annotations", !rule.annotations.is_empty()),
        ("for", !rule.r#for.is_zero()),
        ("keep_firing_for", !rule.keep_firing_for.is_zero()),
    ] {
        if given {
            reader.problem(node.at_key(key), format!("invalid field '{key}' in recording rule"));
        }
    }
}

fn check_names(group: &RuleGroup, names: NameScheme, node: &Node, reader: &mut Reader<'_>) {
    check_label_names(&group.labels, "label", names, node, reader);
    let nodes = node.get("rules").map_or(&[][..], Node::elements);
    for (rule, node) in group.rules.iter().zip(nodes) {
        let record = &rule.record.value;
        if !record.is_empty() && (!names.is_metric_name(record) || record.contains(['{', '}'])) {
            reader.problem(rule.record.at, format!("invalid recording rule name: {record}"));
        }
        check_label_names(&rule.labels, "label", names, node, reader);
        check_label_names(&rule.annotations, "annotation", names, node, reader);
    }
}

fn check_label_names(labels: &Labels, what: &str, names: NameScheme, node: &Node, reader: &mut Reader<'_>) {
    for (name, _) in labels.iter() {
        if !names.is_label_name(name) || (what == "label" && name == METRIC_NAME) {
            let key = format!("{what}s");
            let at = node.get(&key).map_or(node.at, |labels| labels.at_key(name));
            reader.problem(at, format!("invalid {what} name: {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: expect_test::Expect) {
        let shown = match load_text("r.yml", text.as_bytes(), NameScheme::Utf8) {
            Ok(file) => format!("{:?}", file.groups.iter().map(|group| &group.name).collect::<Vec<_>>()),
            Err(errors) => errors.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn rules_are_refused_with_their_place() {
        check(
            "groups:\n- name: g\n  rules:\n  - {record: a, alert: b, expr: c}\n  - {record: d, expr: e, for: 1m}\n  - {alert: f}\n- name: g\n",
            expect_test::expect![[r#"
                r.yml:4:17: only one of 'record' and 'alert' must be set
                  4 |   - {record: a, alert: b, expr: c}
                    |                 ^
                r.yml:5:26: invalid field 'for' in recording rule
                  5 |   - {record: d, expr: e, for: 1m}
                    |                          ^
                r.yml:6:5: field 'expr' must be set in rule
                  6 |   - {alert: f}
                    |     ^
                r.yml:7:3: groupname: "g" is repeated in the same file
                  7 | - name: g
                    |   ^"#]],
        );
    }

    #[test]
    fn digests_see_rules_and_not_comments() {
        let digest = |text: &str| load_text("r.yml", text.as_bytes(), NameScheme::Utf8).unwrap().groups[0].digest();
        let plain = digest("groups: [{name: g, rules: [{record: a, expr: b}]}]");
        assert_eq!(plain, digest("# x\ngroups:\n- name: g\n  rules:\n  - record: a # y\n    expr: b\n"));
        assert_ne!(plain, digest("groups: [{name: g, rules: [{record: a, expr: c}]}]"));
    }

    #[test]
    fn files_of_upstream_load_and_bad_ones_do_not() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/rules");
        if !folder.exists() {
            eprintln!("conformance data is absent: these cases did not run");
            return;
        }
        let mut seen = 0;
        for folder in [folder.clone(), folder.join("rulefmt")] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                // Expressions are parsed by promql, not here.
                if path.is_dir() || name == "bad_expr.bad.yaml" {
                    continue;
                }
                let names = if name.starts_with("legacy") { NameScheme::Legacy } else { NameScheme::Utf8 };
                let loaded = load_text(&name, &std::fs::read(&path).unwrap(), names);
                let bad = name.contains(".bad.") || name == "invalid_rules.yaml";
                // Upstream refuses this name for its expression too.
                assert_eq!(loaded.is_err(), bad, "{name}: {loaded:?}");
                seen += 1;
            }
        }
        assert!(seen > 20);
    }
}
