//! Parts of aggregations that can run where the samples are.
//!
//! A holder evaluates the vector of an aggregation over the series it has and folds the result into a [`Partial`]: the
//! state of each group at each instant. Partials travel, [merge](Partial::merge) in any order, and the asker
//! [finishes](Partial::finish) them. Sums are pairs of floats, so that the order of merging shows in no digit that
//! people see; `topk` and `bottomk` carry their candidates and resolve ties by labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_model::value::format_float;
use promesh_model::{CounterReset, FloatHistogram, Labels, Timestamp};
use serde::{Deserialize, Serialize};

use crate::engine::{Note, Operation};
use crate::parser::{Aggregate, AggregateOp, Expr, Span};
use crate::{Annotations, MatrixSeries, SampleValue, Value, VectorSample};

/// An aggregation whose states merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PartialOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    /// With how many.
    Topk(usize),
    /// With how many.
    Bottomk(usize),
    /// With the label that takes the value.
    CountValues(String),
}

impl PartialOp {
    /// The mergeable form of an aggregation; `None` when it has none, or when its parameter is no literal.
    pub fn of(aggregate: &Aggregate) -> Option<PartialOp> {
        let count = || match aggregate.param.as_deref().map(Expr::unparenthesised) {
            // A parameter below one picks nothing; one beyond any number of series picks all.
            Some(Expr::Number(number)) if (1.0..1e9).contains(&number.value) => Some(number.value as usize),
            _ => None,
        };
        let text = || match aggregate.param.as_deref().map(Expr::unparenthesised) {
            Some(Expr::String(text)) if !text.value.is_empty() => Some(text.value.clone()),
            _ => None,
        };
        Some(match aggregate.op {
            AggregateOp::Sum => PartialOp::Sum,
            AggregateOp::Avg => PartialOp::Avg,
            AggregateOp::Count => PartialOp::Count,
            AggregateOp::Min => PartialOp::Min,
            AggregateOp::Max => PartialOp::Max,
            AggregateOp::Group => PartialOp::Group,
            AggregateOp::Stddev => PartialOp::Stddev,
            AggregateOp::Stdvar => PartialOp::Stdvar,
            AggregateOp::Topk => PartialOp::Topk(count()?),
            AggregateOp::Bottomk => PartialOp::Bottomk(count()?),
            AggregateOp::CountValues => PartialOp::CountValues(text()?),
            AggregateOp::Quantile | AggregateOp::Limitk | AggregateOp::LimitRatio => return None,
        })
    }

    fn ignores_histograms(&self) -> Option<&'static str> {
        Some(match self {
            PartialOp::Min => "min",
            PartialOp::Max => "max",
            PartialOp::Stddev => "stddev",
            PartialOp::Stdvar => "stdvar",
            PartialOp::Topk(_) => "topk",
            PartialOp::Bottomk(_) => "bottomk",
            _ => return None,
        })
    }
}

/// A sum as two floats: together twice as precise as one.
type Pair = (f64, f64);

fn add(sum: Pair, term: Pair) -> Pair {
    let high = sum.0 + term.0;
    if !high.is_finite() {
        return (high, 0.0);
    }
    let part = high - sum.0;
    let error = (sum.0 - (high - part)) + (term.0 - part);
    (high, error + sum.1 + term.1)
}

/// The floats of one group at one instant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Floats {
    count: u64,
    sum: Pair,
    /// The mean and the sum of squared distances from it.
    mean: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Floats {
    fn one(value: f64) -> Floats {
        let squares = if value.is_finite() { 0.0 } else { f64::NAN };
        Floats { count: 1, sum: (value, 0.0), mean: value, squares, min: value, max: value }
    }

    /// Takes one more; only what an operation needs is kept up to date.
    fn take(&mut self, value: f64, op: &PartialOp) {
        if self.count == 0 {
            *self = Floats::one(value);
            return;
        }
        match op {
            PartialOp::Sum => {
                self.sum = add(self.sum, (value, 0.0));
                self.count += 1;
            }
            PartialOp::Count | PartialOp::Group => self.count += 1,
            PartialOp::Min => {
                self.min = if self.min.is_nan() || value < self.min { value } else { self.min };
                self.count += 1;
            }
            PartialOp::Max => {
                self.max = if self.max.is_nan() || value > self.max { value } else { self.max };
                self.count += 1;
            }
            _ => self.merge(&Floats::one(value)),
        }
    }

    /// Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
    fn merge(&mut self, other: &Floats) {
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let delta = other.mean - self.mean;
        self.mean += delta * (b / (a + b));
        self.squares += other.squares + delta * delta * (a * b / (a + b));
        self.sum = add(self.sum, other.sum);
        self.count += other.count;
        // NaN gives way to anything.
        self.min = if self.min.is_nan() || other.min < self.min { other.min } else { self.min };
        self.max = if self.max.is_nan() || other.max > self.max { other.max } else { self.max };
    }
}

/// The histograms of one group at one instant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Histograms {
    count: u64,
    sum: Option<FloatHistogram>,
    reset: bool,
    not_reset: bool,
    reconciled: bool,
    /// A metric whose buckets did not fit the others.
    incompatible: Option<String>,
}

impl Histograms {
    fn one(value: &Arc<FloatHistogram>, labels: &Labels, op: &PartialOp, known: &Histograms) -> Histograms {
        let sums = matches!(op, PartialOp::Sum | PartialOp::Avg);
        let unlike = known.sum.as_ref().is_some_and(|sum| sum.is_custom() != value.is_custom());
        Histograms {
            count: 1,
            sum: sums.then(|| (**value).clone()),
            reset: value.counter_reset == CounterReset::Reset,
            not_reset: value.counter_reset == CounterReset::NotReset,
            reconciled: false,
            incompatible: (sums && unlike).then(|| labels.metric_name().unwrap_or_default().to_owned()),
        }
    }

    fn merge(&mut self, other: &Histograms) {
        self.count += other.count;
        self.reset |= other.reset;
        self.not_reset |= other.not_reset;
        self.reconciled |= other.reconciled;
        if self.incompatible.is_none() {
            self.incompatible.clone_from(&other.incompatible);
        }
        match (&mut self.sum, &other.sum) {
            (Some(sum), Some(term)) => match sum.add(term) {
                Ok(combined) => self.reconciled |= combined.bounds_reconciled,
                Err(_) => self.incompatible = Some(self.incompatible.take().unwrap_or_default()),
            },
            (sum @ None, Some(term)) => *sum = Some(term.clone()),
            (_, None) => {}
        }
    }
}

/// One group at one instant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cell {
    floats: Floats,
    histograms: Histograms,
    /// Candidates of `topk` and `bottomk`, best first.
    candidates: Vec<(f64, Labels)>,
    /// Counts of values.
    values: BTreeMap<String, u64>,
}

/// The state of an aggregation over some of its series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    op: PartialOp,
    grouping: Vec<String>,
    without: bool,
    groups: BTreeMap<Labels, Group>,
    ignored_histograms: bool,
}

/// The state of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Group {
    /// The least label set in it: groups of a vector stand in the order of their first series.
    first: Labels,
    /// By instant in ms.
    cells: Vec<(i64, Cell)>,
}

impl Group {
    /// The cell at an instant, sought from `from` on; answers its place.
    fn cell(&mut self, from: usize, at: i64) -> usize {
        let near = self.cells.get(from).filter(|(known, _)| *known == at);
        let place = match near {
            Some(_) => from,
            None => self.cells.partition_point(|(known, _)| *known < at),
        };
        if self.cells.get(place).is_none_or(|(known, _)| *known != at) {
            self.cells.insert(place, (at, Cell::default()));
        }
        place
    }
}

impl Partial {
    /// The state of no series.
    pub fn new(op: PartialOp, grouping: &[String], without: bool) -> Partial {
        Partial { op, grouping: grouping.to_vec(), without, groups: BTreeMap::new(), ignored_histograms: false }
    }

    /// Folds in what the aggregation's vector is at this holder: a vector, or a matrix of a range query. Each series
    /// must come from one holder only.
    pub fn fold(&mut self, value: &Value) {
        match value {
            Value::Vector(samples) => {
                for sample in samples {
                    let floats = match &sample.value {
                        SampleValue::Float(value) => vec![(sample.at, *value)],
                        SampleValue::Histogram(_) => Vec::new(),
                    };
                    let histograms = match &sample.value {
                        SampleValue::Histogram(value) => vec![(sample.at, Arc::clone(value))],
                        SampleValue::Float(_) => Vec::new(),
                    };
                    self.fold_series(&sample.labels, &floats, &histograms);
                }
            }
            Value::Matrix(series) => {
                for series in series {
                    self.fold_series(&series.labels, &series.floats, &series.histograms);
                }
            }
            Value::Scalar { .. } | Value::String { .. } => {}
        }
    }

    /// Folds in one series, its samples by time.
    pub(crate) fn fold_series(
        &mut self,
        labels: &Labels,
        floats: &[(Timestamp, f64)],
        histograms: &[(Timestamp, Arc<FloatHistogram>)],
    ) {
        let ignores = self.op.ignores_histograms().is_some();
        self.ignored_histograms |= ignores && !histograms.is_empty();
        if floats.is_empty() && (ignores || histograms.is_empty()) {
            return;
        }
        let key = crate::engine::group_labels(labels, &self.grouping, self.without);
        let group = self.groups.entry(key).or_insert_with(|| Group { first: labels.clone(), cells: Vec::new() });
        if *labels < group.first {
            group.first = labels.clone();
        }
        let mut place = 0;
        for (at, value) in floats {
            place = group.cell(place, at.0);
            let cell = &mut group.cells[place].1;
            match &self.op {
                PartialOp::CountValues(_) => *cell.values.entry(format_float(*value)).or_default() += 1,
                PartialOp::Topk(_) | PartialOp::Bottomk(_) => {
                    let candidates = vec![(*value, labels.clone())];
                    cell.merge(&Cell { candidates, ..Cell::default() }, &self.op);
                }
                op => cell.floats.take(*value, op),
            }
            place += 1;
        }
        for (at, value) in histograms.iter().filter(|_| !ignores) {
            let place = group.cell(0, at.0);
            let cell = &mut group.cells[place].1;
            if matches!(self.op, PartialOp::CountValues(_)) {
                *cell.values.entry(value.to_string()).or_default() += 1;
                continue;
            }
            let fresh = Histograms::one(value, labels, &self.op, &cell.histograms);
            cell.histograms.merge(&fresh);
        }
    }

    /// Takes in the state over other series.
    ///
    /// # Panics
    /// Never; a state of another aggregation is ignored, because nothing can be made of it.
    pub fn merge(&mut self, other: &Partial) {
        if (&self.op, &self.grouping, self.without) != (&other.op, &other.grouping, other.without) {
            return;
        }
        self.ignored_histograms |= other.ignored_histograms;
        for (labels, theirs) in &other.groups {
            let fresh = || Group { first: theirs.first.clone(), cells: Vec::new() };
            let group = self.groups.entry(labels.clone()).or_insert_with(fresh);
            if theirs.first < group.first {
                group.first = theirs.first.clone();
            }
            let mut place = 0;
            for (at, cell) in &theirs.cells {
                place = group.cell(place, *at);
                group.cells[place].1.merge(cell, &self.op);
                place += 1;
            }
        }
    }

    /// The aggregation's value, and what is to be said about it. `span` is where its vector stands in the query; a
    /// vector when `instant`, else a matrix.
    pub fn finish(&self, span: Span, instant: bool, annotations: &mut Annotations) -> Value {
        if let Some(what) = self.op.ignores_histograms().filter(|_| self.ignored_histograms) {
            annotations.add(span, Note::IgnoredInAggregation(what));
        }
        let mut groups: Vec<(&Labels, &Group)> = self.groups.iter().collect();
        if instant {
            groups.sort_by(|a, b| a.1.first.cmp(&b.1.first));
            let mut samples = Vec::new();
            for (labels, group) in groups {
                for (at, cell) in &group.cells {
                    let found = self.results(labels, cell, span, annotations).into_iter();
                    samples.extend(found.map(|(labels, value)| VectorSample { labels, at: Timestamp(*at), value }));
                }
            }
            if matches!(self.op, PartialOp::CountValues(_)) {
                samples.sort_by(|a, b| a.labels.cmp(&b.labels));
            }
            return Value::Vector(samples);
        }
        let mut series: BTreeMap<Labels, Vec<(i64, SampleValue)>> = BTreeMap::new();
        for (labels, group) in groups {
            for (at, cell) in &group.cells {
                for (labels, value) in self.results(labels, cell, span, annotations) {
                    series.entry(labels).or_default().push((*at, value));
                }
            }
        }
        Value::Matrix(series.into_iter().map(|(labels, cells)| matrix_series(labels, cells)).collect())
    }

    fn results(
        &self,
        labels: &Labels,
        cell: &Cell,
        span: Span,
        annotations: &mut Annotations,
    ) -> Vec<(Labels, SampleValue)> {
        let floats = &cell.floats;
        let count = floats.count as f64;
        let one = |value: f64| vec![(labels.clone(), SampleValue::Float(value))];
        match &self.op {
            PartialOp::Topk(_) | PartialOp::Bottomk(_) => {
                cell.candidates.iter().map(|(value, labels)| (labels.clone(), SampleValue::Float(*value))).collect()
            }
            PartialOp::CountValues(label) => {
                let named = |value: &str| {
                    let mut labels = labels.to_builder();
                    labels.set(label, value);
                    labels.build()
                };
                cell.values.iter().map(|(value, n)| (named(value), SampleValue::Float(*n as f64))).collect()
            }
            PartialOp::Count => one((floats.count + cell.histograms.count) as f64),
            PartialOp::Group => one(1.0),
            PartialOp::Min => one(floats.min),
            PartialOp::Max => one(floats.max),
            PartialOp::Stdvar => one(floats.squares / count),
            PartialOp::Stddev => one((floats.squares / count).sqrt()),
            PartialOp::Sum | PartialOp::Avg if cell.histograms.count > 0 => self
                .histogram_result(cell, span, annotations)
                .map(|histogram| (labels.clone(), SampleValue::Histogram(Arc::new(histogram))))
                .into_iter()
                .collect(),
            PartialOp::Sum => one(floats.sum.0 + floats.sum.1),
            // Where the sum overflows, the mean need not.
            PartialOp::Avg if floats.sum.0.is_infinite() => one(floats.mean),
            PartialOp::Avg => one(floats.sum.0 / count + floats.sum.1 / count),
        }
    }

    fn histogram_result(&self, cell: &Cell, span: Span, annotations: &mut Annotations) -> Option<FloatHistogram> {
        let histograms = &cell.histograms;
        if cell.floats.count > 0 {
            annotations.add(span, Note::MixedFloatsHistogramsAggregation);
            return None;
        }
        if let Some(metric) = &histograms.incompatible {
            annotations.add(span, Note::MixedExponentialCustom(metric.clone()));
            return None;
        }
        if histograms.reset && histograms.not_reset {
            annotations.add(span, Note::ResetCollision(Operation::Aggregation));
        }
        if histograms.reconciled {
            annotations.add(span, Note::BoundsReconciled(Operation::Aggregation));
        }
        let mut result = histograms.sum.clone()?;
        if self.op == PartialOp::Avg {
            result.divide(histograms.count as f64);
        }
        result.compact(0);
        Some(result)
    }
}

impl Cell {
    fn merge(&mut self, other: &Cell, op: &PartialOp) {
        if other.floats.count > 0 {
            self.floats.merge(&other.floats);
        }
        if other.histograms.count > 0 {
            self.histograms.merge(&other.histograms);
        }
        for (value, count) in &other.values {
            *self.values.entry(value.clone()).or_default() += count;
        }
        let (PartialOp::Topk(k) | PartialOp::Bottomk(k)) = op else { return };
        self.candidates.extend(other.candidates.iter().cloned());
        let largest = matches!(op, PartialOp::Topk(_));
        self.candidates.sort_by(|a, b| {
            let order = if largest { b.0.partial_cmp(&a.0) } else { a.0.partial_cmp(&b.0) };
            order.unwrap_or_else(|| a.0.is_nan().cmp(&b.0.is_nan())).then_with(|| a.1.cmp(&b.1))
        });
        self.candidates.truncate(*k);
    }
}

fn matrix_series(labels: Labels, cells: Vec<(i64, SampleValue)>) -> MatrixSeries {
    let mut series = MatrixSeries { labels, floats: Vec::new(), histograms: Vec::new() };
    for (at, value) in cells {
        match value {
            SampleValue::Float(value) => series.floats.push((Timestamp(at), value)),
            SampleValue::Histogram(value) => series.histograms.push((Timestamp(at), value)),
        }
    }
    series
}
