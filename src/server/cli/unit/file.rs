//! The files of unit tests, as written.

use std::path::Path;
use std::time::Duration;

use promesh_config::section;
use promesh_config::yaml::{self, FilePath, Key, Kind, Node, Reader, read_section};
use promesh_model::Labels;

section! {
    /// One file of tests.
    pub struct TestFile "unitTestFile" => check_file {
        /// Rule files, patterns allowed.
        pub rule_files: Vec<FilePath>,
        /// Between two evaluations; zero stands for 1m.
        pub evaluation_interval: Duration,
        /// Groups that are evaluated in this order, after all others.
        pub group_eval_order: Vec<String>,
        /// Whether values that are neighbours are the same.
        pub fuzzy_compare: bool,
        /// The tests.
        pub tests: Vec<TestGroup>,
    }
}

section! {
    /// One test.
    pub struct TestGroup "testGroup" {
        /// Between two values of a series; zero stands for the evaluation interval.
        pub interval: Duration,
        /// The series.
        pub input_series: Vec<InputSeries>,
        /// Alerts that should fire.
        pub alert_rule_test: Vec<AlertTest>,
        /// Expressions and their answers.
        pub promql_expr_test: Vec<ExprTest>,
        /// What templates see as `$externalLabels`.
        pub external_labels: Labels,
        /// What templates see as `$externalURL`.
        pub external_url: String,
        /// Its name.
        pub name: String,
        /// The instant that stands for zero: RFC 3339 or Unix seconds.
        pub start_timestamp: String,
    }
}

section! {
    /// A series in the language of `.test` scripts.
    pub struct InputSeries "series" {
        /// Its name and labels.
        pub series: String,
        /// Its values.
        pub values: String,
    }
}

section! {
    /// Alerts at an instant.
    pub struct AlertTest "alertTestCase" {
        /// When.
        pub eval_time: Duration,
        /// Which.
        pub alertname: String,
        /// What should fire.
        pub exp_alerts: Vec<ExpectedAlert>,
    }
}

section! {
    /// An alert that should fire.
    pub struct ExpectedAlert "alert" {
        /// Its labels, but its name.
        pub exp_labels: Labels,
        /// Its annotations.
        pub exp_annotations: Labels,
    }
}

section! {
    /// An expression at an instant.
    pub struct ExprTest "promqlTestCase" {
        /// The expression.
        pub expr: String,
        /// When.
        pub eval_time: Duration,
        /// Its answer.
        pub exp_samples: Vec<ExpectedSample>,
    }
}

section! {
    /// A sample of an answer.
    pub struct ExpectedSample "sample" {
        /// Name and labels, as a selector of one series.
        pub labels: String,
        /// Its value.
        pub value: f64,
        /// Its histogram.
        pub histogram: String,
    }
}

fn check_file(file: &mut TestFile, _: &Node, _: &mut Reader<'_>) {
    if file.evaluation_interval.is_zero() {
        file.evaluation_interval = Duration::from_secs(60);
    }
}

impl TestFile {
    /// Reads a file strictly.
    ///
    /// # Errors
    /// Everything wrong with it, with its place.
    pub fn read(path: &Path) -> Result<TestFile, String> {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.to_string_lossy().into_owned();
        let node = yaml::parse(&name, &text).map_err(|problem| problem.to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut reader = Reader::new(&name, &text, folder);
        let file: TestFile = read_section(&node, &mut reader);
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(file) } else { Err(yaml::ConfigErrors(problems).to_string()) }
    }
}

/// A rule file's text without fields that nobody knows.
///
/// # Errors
/// When it is no YAML.
pub fn without_unknown_fields(name: &str, text: &[u8]) -> Result<Vec<u8>, String> {
    let mut node = yaml::parse(name, text).map_err(|problem| problem.to_string())?;
    let group = ["name", "interval", "query_offset", "limit", "rules", "labels"];
    let rule = ["record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"];
    keep(&mut node, &["groups", "namespace"]);
    for node in elements(&mut node, "groups") {
        keep(node, &group);
        for node in elements(node, "rules") {
            keep(node, &rule);
        }
    }
    Ok(yaml::print(&node).into_bytes())
}

fn keep(node: &mut Node, known: &[&str]) {
    if let Kind::Map(entries) = &mut node.kind {
        entries.retain(|(key, _): &(Key, Node)| known.contains(&key.text.as_str()));
    }
}

fn elements<'a>(node: &'a mut Node, key: &str) -> &'a mut [Node] {
    let Kind::Map(entries) = &mut node.kind else { return &mut [] };
    match entries.iter_mut().find(|(candidate, _)| candidate.text == key).map(|(_, value)| &mut value.kind) {
        Some(Kind::List(list)) => list,
        _ => &mut [],
    }
}
