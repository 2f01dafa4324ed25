//! What one test sees: series that come in with time, groups that are evaluated over them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promesh_config::rules;
use promesh_model::{FloatHistogram, Labels, Monotonic, Now, Timestamp};
use promesh_promql::parser::{self, ParseOptions, SeriesValue};
use promesh_promql::script::MemoryStorage;
use promesh_promql::{Engine, EngineOptions, Features, QueryOptions, SampleValue, Value, VectorSample};
use promesh_rules::{Appended, Evaluation, Group, Output, ResultSample, RuleView, SampleValue as RuleValue, Settings};
use promesh_template::QuerySample;

use super::file::{ExpectedSample, TestFile, TestGroup};
use super::without_unknown_fields;
use crate::files::Disk;
use crate::ruling::{group_spec, query_sample};

/// Evaluations of one test; more are a mistake in it.
const INSTANTS_MAX: u128 = 1_000_000;

/// A sample that comes in at its instant.
struct Incoming {
    at: i64,
    labels: Labels,
    value: SeriesValue,
}

/// Everything of one test.
pub struct World {
    start: Timestamp,
    step: Duration,
    last: Duration,
    engine: Engine,
    storage: MemoryStorage,
    /// By falling instant: the next is the last.
    incoming: Vec<Incoming>,
    groups: Vec<Group>,
}

/// One sample of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its labels, the name among them.
    pub labels: Labels,
    value: f64,
    /// A histogram as the script language writes it; empty for a float.
    histogram: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.histogram.is_empty() {
            write!(f, "{} {}", self.labels.as_metric(), promesh_model::value::format_float(self.value))
        } else {
            write!(f, "{} {}", self.labels.as_metric(), self.histogram)
        }
    }
}

impl Answer {
    /// What a test expects.
    ///
    /// # Errors
    /// When labels or histogram do not parse.
    pub fn expected(sample: &ExpectedSample) -> Result<Answer, String> {
        let labels = match sample.labels.trim() {
            "" => Labels::empty(),
            text => {
                let series = parser::parse_series(text).map_err(|error| format!("labels {text:?}: {error}"))?;
                series.labels
            }
        };
        let histogram = match sample.histogram.trim() {
            "" => String::new(),
            text => {
                let series = parser::parse_series(&format!("{{}} {text}"));
                let series = series.map_err(|error| format!("histogram {text:?}: {error}"))?;
                match series.values.first() {
                    Some(SeriesValue::Histogram { value, .. }) => expression(value),
                    _ => return Err(format!("histogram {text:?}: expected a histogram")),
                }
            }
        };
        Ok(Answer { labels, value: sample.value, histogram })
    }

    fn of(sample: VectorSample) -> Answer {
        match sample.value {
            SampleValue::Float(value) => Answer { labels: sample.labels, value, histogram: String::new() },
            SampleValue::Histogram(value) => {
                Answer { labels: sample.labels, value: 0.0, histogram: expression(&value) }
            }
        }
    }

    /// Whether two are the same; fuzzily, when their values are neighbours.
    pub fn is_same(&self, other: &Answer, fuzzy: bool) -> bool {
        let (a, b) = (self.value, other.value);
        let same_value = a == b || (a.is_nan() && b.is_nan()) || (fuzzy && (a.next_up() == b || a.next_down() == b));
        self.labels == other.labels && self.histogram == other.histogram && same_value
    }
}

fn expression(value: &FloatHistogram) -> String {
    let mut value = value.clone();
    value.compact(0);
    value.test_expression()
}

impl World {
    /// Loads rules and series.
    ///
    /// # Errors
    /// Everything wrong with them.
    pub fn new(file: &TestFile, group: &TestGroup, path: &Path, lenient: bool) -> Result<World, Vec<String>> {
        let one = |why: String| vec![why];
        let start = start_of(&group.start_timestamp).map_err(one)?;
        let features =
            Features { parse: ParseOptions::everything(), start_timestamps: false, type_and_unit_labels: false };
        let engine = Engine::new(EngineOptions { max_samples: 10_000_000, features, ..EngineOptions::default() });
        let interval = if group.interval.is_zero() { file.evaluation_interval } else { group.interval };
        let incoming = incoming(group, start, interval).map_err(one)?;
        let groups = load_groups(file, group, &engine, path, lenient)?;
        let ends = group.alert_rule_test.iter().map(|test| test.eval_time);
        let last = ends.chain(group.promql_expr_test.iter().map(|test| test.eval_time)).max().unwrap_or_default();
        if last.as_nanos() / file.evaluation_interval.as_nanos().max(1) > INSTANTS_MAX {
            return Err(one(format!("more than {INSTANTS_MAX} evaluations: make evaluation_interval longer")));
        }
        Ok(World {
            start,
            step: file.evaluation_interval,
            last,
            engine,
            storage: MemoryStorage::default(),
            incoming,
            groups,
        })
    }

    /// The instants of evaluations, from the start.
    pub fn instants(&self) -> impl Iterator<Item = Duration> + use<> {
        let (step, last) = (self.step, self.last);
        std::iter::successors(Some(Duration::ZERO), move |at| Some(*at + step)).take_while(move |at| *at <= last)
    }

    /// Evaluates all groups at an instant; what went wrong.
    pub fn evaluate(&mut self, at: Duration) -> Vec<String> {
        let instant = self.start.after(at);
        self.come_in(instant.ms());
        let now = Now { monotonic: Monotonic(at.as_nanos() as u64), wall: instant };
        let mut errors = Vec::new();
        for group in &mut self.groups {
            run_slot(group, instant, now, &self.engine, &mut self.storage);
            for rule in group.view().rules {
                let (RuleView::Alerting { name, last_error, .. } | RuleView::Recording { name, last_error, .. }) = rule;
                if !last_error.is_empty() {
                    let time = promesh_model::duration::format(at);
                    errors.push(format!("    rule: {name}, time: {time}, err: {last_error}"));
                }
            }
        }
        errors
    }

    fn come_in(&mut self, until: i64) {
        while let Some(sample) = self.incoming.pop_if(|sample| sample.at <= until) {
            match sample.value {
                SeriesValue::Omitted => {}
                SeriesValue::Float(value) => self.storage.append(&sample.labels, sample.at, 0, value),
                SeriesValue::Histogram { value, .. } => {
                    self.storage.append_histogram(&sample.labels, sample.at, 0, &value);
                }
            }
        }
    }

    /// Labels and annotations of the instances of an alert that fire.
    pub fn firing(&self, name: &str) -> Vec<(Labels, Labels)> {
        let mut firing = Vec::new();
        for rule in self.groups.iter().flat_map(|group| group.view().rules) {
            if let RuleView::Alerting { name: found, alerts, .. } = rule
                && found == name
            {
                let alerts = alerts.into_iter().filter(|alert| alert.state == "firing");
                firing.extend(alerts.map(|alert| (alert.labels, alert.annotations)));
            }
        }
        firing
    }

    /// The answer of an expression at an instant.
    ///
    /// # Errors
    /// What the engine says.
    pub fn query(&self, expression: &str, at: Duration) -> Result<Vec<Answer>, String> {
        let vector = instant_vector(&self.engine, &self.storage, expression, self.start.after(at))?;
        Ok(vector.into_iter().map(Answer::of).collect())
    }
}

fn instant_vector(
    engine: &Engine,
    storage: &MemoryStorage,
    expression: &str,
    at: Timestamp,
) -> Result<Vec<VectorSample>, String> {
    let outcome = engine.instant(storage, expression, at, &QueryOptions::default());
    match outcome.map_err(|error| error.to_string())?.value {
        Value::Vector(vector) => Ok(vector),
        Value::Scalar { at, value } => {
            Ok(vec![VectorSample { labels: Labels::empty(), at, value: SampleValue::Float(value) }])
        }
        Value::String { .. } | Value::Matrix(_) => Err("rule result is not a vector or scalar".to_owned()),
    }
}

fn run_slot(group: &mut Group, slot: Timestamp, now: Now, engine: &Engine, storage: &mut MemoryStorage) {
    group.begin(slot, now);
    while let Some(output) = group.poll_output() {
        match output {
            Output::Restore(request) => group.restored(request.token, Some(&[]), now),
            Output::Evaluate { token, expression, at, .. } => {
                let result = instant_vector(engine, storage, &expression, at);
                let sample = |sample: VectorSample| ResultSample {
                    labels: sample.labels,
                    value: match sample.value {
                        SampleValue::Float(value) => RuleValue::Float(value),
                        SampleValue::Histogram(value) => RuleValue::Histogram(value),
                    },
                };
                let result = result.map(|vector| Evaluation {
                    vector: vector.into_iter().map(sample).collect(),
                    ..Evaluation::default()
                });
                let view = &*storage;
                let query = |text: &str| -> Result<Vec<QuerySample>, String> {
                    let vector = instant_vector(engine, view, text, at)?;
                    Ok(vector.into_iter().map(query_sample).collect())
                };
                group.evaluated(token, result, Some(&query), now);
            }
            Output::Append { token, samples, .. } => {
                for sample in samples {
                    match sample.value {
                        RuleValue::Float(value) => storage.append(&sample.labels, sample.at.ms(), 0, value),
                        RuleValue::Histogram(value) => {
                            storage.append_histogram(&sample.labels, sample.at.ms(), 0, &value);
                        }
                    }
                }
                group.appended(token, &Appended::Stored, now);
            }
            Output::Alerts(_) | Output::Finished { .. } => {}
        }
    }
}

/// RFC 3339, Unix seconds, or nothing for the epoch.
fn start_of(text: &str) -> Result<Timestamp, String> {
    if text.is_empty() {
        return Ok(Timestamp(0));
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok(Timestamp::from_secs_f64(seconds));
    }
    promesh_api::parse_time(text).map_err(|_| format!("start_timestamp {text:?} is neither RFC 3339 nor Unix seconds"))
}

fn incoming(group: &TestGroup, start: Timestamp, interval: Duration) -> Result<Vec<Incoming>, String> {
    let step = promesh_model::time::ms_of(interval);
    let mut all = Vec::new();
    for input in &group.input_series {
        let text = format!("{} {}", input.series, input.values);
        let series = parser::parse_series(&text).map_err(|error| format!("input series {text:?}: {error}"))?;
        for (index, value) in series.values.into_iter().enumerate() {
            let at = start.ms().saturating_add(step.saturating_mul(index as i64));
            all.push(Incoming { at, labels: series.labels.clone(), value });
        }
    }
    // Of two values for one instant the later written stays: stable, then reversed as a whole.
    all.sort_by_key(|sample| sample.at);
    all.reverse();
    Ok(all)
}

fn load_groups(
    file: &TestFile,
    test: &TestGroup,
    engine: &Engine,
    path: &Path,
    lenient: bool,
) -> Result<Vec<Group>, Vec<String>> {
    let settings = Arc::new(Settings {
        external_labels: test.external_labels.clone(),
        external_url: test.external_url.clone(),
        ..Settings::default()
    });
    let files = load_files(file, lenient).map_err(|why| vec![format!("{}: {why}", path.display())])?;
    let mut problems = Vec::new();
    let mut groups = Vec::new();
    for rule_file in &files {
        for group in &rule_file.groups {
            for rule in &group.rules {
                if let Err(error) = engine.parse(&rule.expr.value) {
                    let problem = rule_file.problem(rule.expr.at, format!("could not parse expression: {error}"));
                    problems.push(problem.to_string());
                }
            }
            let spec = group_spec(group, &rule_file.path, file.evaluation_interval);
            match Group::new(spec, Arc::clone(&settings)) {
                Ok(made) => groups.push(made),
                Err(error) => problems.push(format!("{}: group {:?}, {error}", rule_file.path, group.name)),
            }
        }
    }
    // As upstream: groups that are not named come first.
    let place = |group: &Group| {
        file.group_eval_order.iter().position(|name| *name == group.spec().name).map_or(0, |place| place + 1)
    };
    groups.sort_by_key(place);
    if problems.is_empty() { Ok(groups) } else { Err(problems) }
}

fn load_files(file: &TestFile, lenient: bool) -> Result<Vec<rules::RuleFile>, String> {
    if !lenient {
        return rules::load(&file.rule_files, Default::default(), &Disk).map_err(|errors| errors.to_string());
    }
    let mut files = Vec::new();
    for pattern in &file.rule_files {
        let paths = promesh_config::Source::glob(&Disk, &pattern.0).map_err(|error| error.to_string())?;
        for path in paths {
            let name = path.to_string_lossy().into_owned();
            let text = std::fs::read(&path).map_err(|error| format!("{name}: {error}"))?;
            let text = without_unknown_fields(&name, &text)?;
            files.push(rules::load_text(&name, &text, Default::default()).map_err(|errors| errors.to_string())?);
        }
    }
    Ok(files)
}
