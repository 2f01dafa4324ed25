//! `promesh test rules`: promtool's unit tests of rule files.
//!
//! A test loads series, evaluates all groups at every interval up to its last question, and compares: firing alerts at
//! instants, and the answers of expressions once all is evaluated. Samples after the instant of an evaluation are not
//! there yet, so a negative offset sees nothing of the future.
//!
//! Source: prometheus cmd/promtool/unittest.go, docs/configuration/unit_testing_rules.md.

mod file;
mod world;

use std::path::Path;

use promesh_model::Labels;
use regex::Regex;

use super::{Done, Failure};
pub(super) use file::without_unknown_fields;
use file::{AlertTest, ExprTest, TestFile, TestGroup};
use world::{Answer, World};

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub(super) struct UnitOptions {
    /// Only tests whose name one of these finds; all without any.
    pub run: Vec<Regex>,
    /// Unknown fields of rule files are passed over.
    pub ignore_unknown_fields: bool,
    /// Differences are shown line by line.
    pub diff: bool,
}

/// Runs the tests of some files and prints as promtool does; what failed goes to standard error.
pub(super) fn run(files: &[&Path], options: &UnitOptions) -> Done {
    let mut failed = false;
    for file in files {
        println!("Unit Testing:  {}", file.display());
        let failures = run_file(file, options);
        if failures.is_empty() {
            println!("  SUCCESS");
        } else {
            failed = true;
            eprintln!("  FAILED:");
            for failure in failures {
                eprintln!("{failure}");
                eprintln!();
            }
        }
        println!();
    }
    if failed { Err(Failure::quiet()) } else { Ok(()) }
}

/// What failed of one file.
pub(super) fn run_file(path: &Path, options: &UnitOptions) -> Vec<String> {
    let file = match TestFile::read(path) {
        Ok(file) => file,
        Err(why) => return vec![why],
    };
    let mut failures = Vec::new();
    for group in &file.tests {
        if !options.run.is_empty() && !options.run.iter().any(|wanted| wanted.is_match(&group.name)) {
            continue;
        }
        let prefix = if group.name.is_empty() { String::new() } else { format!("  name: {},\n", group.name) };
        let found = run_group(&file, group, path, options);
        failures.extend(found.into_iter().map(|failure| format!("{prefix}{failure}")));
    }
    failures
}

fn run_group(file: &TestFile, group: &TestGroup, path: &Path, options: &UnitOptions) -> Vec<String> {
    let mut world = match World::new(file, group, path, options.ignore_unknown_fields) {
        Ok(world) => world,
        Err(failures) => return failures,
    };
    let mut failures = Vec::new();
    let mut alert_tests: Vec<&AlertTest> = group.alert_rule_test.iter().collect();
    alert_tests.sort_by_key(|test| test.eval_time);
    let mut waiting = alert_tests.into_iter().peekable();
    let step = file.evaluation_interval;
    for at in world.instants() {
        let errors = world.evaluate(at);
        if !errors.is_empty() {
            failures.extend(errors);
            return failures;
        }
        while let Some(test) = waiting.next_if(|test| test.eval_time < at + step) {
            failures.extend(check_alerts(&world, test, options));
        }
    }
    for test in &group.promql_expr_test {
        failures.extend(check_expression(&world, test, file.fuzzy_compare, options));
    }
    failures
}

fn check_alerts(world: &World, test: &AlertTest, options: &UnitOptions) -> Option<String> {
    let with_name = |labels: &Labels| {
        let mut labels = labels.to_builder();
        labels.set("alertname", &test.alertname);
        labels.build()
    };
    let mut expected: Vec<(Labels, Labels)> =
        test.exp_alerts.iter().map(|alert| (with_name(&alert.exp_labels), alert.exp_annotations.clone())).collect();
    let mut found = world.firing(&test.alertname);
    expected.sort();
    found.sort();
    if expected == found {
        return None;
    }
    let show = |alerts: &[(Labels, Labels)]| -> Vec<String> {
        alerts.iter().map(|(labels, annotations)| format!("Labels:{labels} Annotations:{annotations}")).collect()
    };
    let time = promesh_model::duration::format(test.eval_time);
    let head = format!("    alertname: {}, time: {time},", test.alertname);
    Some(format!("{head}{}", difference(&show(&expected), &show(&found), options.diff)))
}

fn check_expression(world: &World, test: &ExprTest, fuzzy: bool, options: &UnitOptions) -> Option<String> {
    let time = promesh_model::duration::format(test.eval_time);
    let head = format!("    expr: {:?}, time: {time},", test.expr);
    let mut found = match world.query(&test.expr, test.eval_time) {
        Ok(found) => found,
        Err(error) => return Some(format!("{head} err: {error}")),
    };
    let mut expected = Vec::new();
    for sample in &test.exp_samples {
        match Answer::expected(sample) {
            Ok(answer) => expected.push(answer),
            Err(error) => return Some(format!("{head} err: {error}")),
        }
    }
    expected.sort_by(|a, b| a.labels.cmp(&b.labels));
    found.sort_by(|a, b| a.labels.cmp(&b.labels));
    let same = expected.len() == found.len() && expected.iter().zip(&found).all(|(a, b)| a.is_same(b, fuzzy));
    if same {
        return None;
    }
    let show = |answers: &[Answer]| answers.iter().map(Answer::to_string).collect::<Vec<_>>();
    Some(format!("{head}{}", difference(&show(&expected), &show(&found), options.diff)))
}

fn difference(expected: &[String], found: &[String], line_by_line: bool) -> String {
    if line_by_line {
        let gone = expected.iter().filter(|line| !found.contains(line)).map(|line| format!("\n      - {line}"));
        let new = found.iter().filter(|line| !expected.contains(line)).map(|line| format!("\n      + {line}"));
        return format!("\n    diff (- expected, + got):{}", gone.chain(new).collect::<String>());
    }
    let list = |lines: &[String]| match lines.is_empty() {
        true => "nil".to_owned(),
        false => lines.join("\n             "),
    };
    format!("\n        exp: {}\n        got: {}", list(expected), list(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What promtool says of upstream's own inputs: the test names in its `TestRulesUnitTest`.
    #[test]
    fn upstreams_inputs_get_promtools_verdicts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/promtool");
        if !folder.exists() {
            eprintln!("conformance data is absent: these cases did not run");
            return;
        }
        let all = UnitOptions::default();
        let run = |names: &[&str]| UnitOptions {
            run: names.iter().map(|name| Regex::new(name).expect("a regex")).collect(),
            ..UnitOptions::default()
        };
        let lenient = UnitOptions { ignore_unknown_fields: true, ..UnitOptions::default() };
        for (file, options, sound) in [
            ("unittest.yml", &all, true),
            ("long-period.yml", &all, true),
            ("at-modifier-test.yml", &all, true),
            ("negative-offset-test.yml", &all, true),
            ("no-test-group-interval.yml", &all, true),
            ("start-time-test.yml", &all, true),
            ("failing.yml", &all, false),
            ("bad-input-series.yml", &all, false),
            ("bad-promql.yml", &all, false),
            ("bad-rules-error-test.yml", &all, false),
            ("bad-rules-syntax-test.yml", &all, false),
            ("rules_run.yml", &all, false),
            ("rules_run.yml", &run(&["correct"]), true),
            ("rules_run.yml", &run(&["wrong"]), false),
            ("rules_run.yml", &run(&["correct", "wrong"]), false),
            ("rules_run_fuzzy.yml", &run(&["correct"]), true),
            ("rules_run_fuzzy.yml", &run(&["wrong"]), false),
            ("rules_run_no_fuzzy.yml", &all, false),
            ("rules_run_extrafields.yml", &all, false),
            ("rules_run_extrafields.yml", &lenient, true),
        ] {
            let failures = run_file(&folder.join(file), options);
            assert_eq!(failures.is_empty(), sound, "{file} {:?}: {failures:#?}", options.run);
        }
    }
}
