//! The language evaluated in the plainest way: one instant, one sample at a time, by the words of the documentation.
//!
//! It shares the parser and the arithmetic of single histograms with the engine, nothing else.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::labels::METRIC_NAME;
use promesh_model::matcher::matches_all;
use promesh_model::value::is_stale;
use promesh_model::{FloatHistogram, Labels, MatchOp};
use promesh_promql::parser::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Call, Cardinality, Expr, Matching, ValueType, VectorSelector,
};

use super::functions;

/// A float or a histogram.
#[derive(Clone, Debug)]
pub enum Sample {
    Float(f64),
    Histogram(FloatHistogram),
}

impl Sample {
    pub fn float(&self) -> Option<f64> {
        if let Sample::Float(value) = self { Some(*value) } else { None }
    }
}

/// Labels and samples by time.
pub type Series = (Labels, Vec<(i64, Sample)>);
/// One sample a series.
pub type Vector = Vec<(Labels, Sample)>;

/// Why there is no answer.
#[derive(Debug)]
pub enum Refusal {
    /// The query is wrong for these data.
    Error(&'static str),
    /// The answer hangs on the last bit of a number, or on the order of equals.
    Undecided,
}

#[derive(Debug)]
pub enum Answer {
    Scalar(f64),
    Vector(Vector),
}

/// The data and the query's range.
pub struct Plain<'d> {
    pub data: &'d [Series],
    pub start: i64,
    pub end: i64,
    pub lookback: i64,
    pub default_step: i64,
}

/// A range: its samples and where it ends.
pub struct Range {
    pub series: Vec<Series>,
    pub width: i64,
    pub end: i64,
}

pub fn without_name(labels: &Labels) -> Labels {
    labels.without(|name| matches!(name, METRIC_NAME | "__type__" | "__unit__"))
}

/// As a result: each label set once.
fn distinct(vector: Vector) -> Result<Vector, Refusal> {
    let mut seen = BTreeSet::new();
    if vector.iter().all(|(labels, _)| seen.insert(labels.clone())) {
        Ok(vector)
    } else {
        Err(Refusal::Error("vector cannot contain metrics with the same labelset"))
    }
}

/// Compares two numbers; near equals may lie either way in another order of adding.
fn decided(a: f64, b: f64) -> Result<(), Refusal> {
    let near = a != b && (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
    if near { Err(Refusal::Undecided) } else { Ok(()) }
}

impl Plain<'_> {
    pub fn eval(&self, expr: &Expr, at: i64) -> Result<Answer, Refusal> {
        Ok(match expr {
            Expr::Number(number) => Answer::Scalar(number.value),
            Expr::Paren(paren) => self.eval(&paren.expr, at)?,
            Expr::Unary(unary) if !unary.negative => self.eval(&unary.expr, at)?,
            Expr::Unary(unary) => match self.eval(&unary.expr, at)? {
                Answer::Scalar(value) => Answer::Scalar(-value),
                Answer::Vector(vector) => Answer::Vector(distinct(functions::negated(vector))?),
            },
            Expr::Vector(selector) => {
                let found = self.newest(selector, at).into_iter();
                Answer::Vector(found.map(|(labels, _, sample)| (labels, sample)).collect())
            }
            Expr::Call(call) => self.call(call, at)?,
            Expr::Aggregate(aggregate) => Answer::Vector(self.aggregate(aggregate, at)?),
            Expr::Binary(binary) => self.binary(binary, at)?,
            Expr::Matrix(_) | Expr::Subquery(_) | Expr::String(_) => panic!("no value of its own: {expr:?}"),
        })
    }

    pub fn vector(&self, expr: &Expr, at: i64) -> Result<Vector, Refusal> {
        match self.eval(expr, at)? {
            Answer::Vector(vector) => Ok(vector),
            Answer::Scalar(_) => panic!("a vector: {expr:?}"),
        }
    }

    pub fn scalar(&self, expr: &Expr, at: i64) -> Result<f64, Refusal> {
        match self.eval(expr, at)? {
            Answer::Scalar(value) => Ok(value),
            Answer::Vector(_) => panic!("a scalar: {expr:?}"),
        }
    }

    fn reference(&self, modifier: Option<At>, offset: i64, at: i64) -> i64 {
        let at = match modifier {
            None => at,
            Some(At::Timestamp(fixed)) => fixed,
            Some(At::Start) => self.start,
            Some(At::End) => self.end,
        };
        at - offset
    }

    /// The newest sample of each series at an instant, with its own.
    pub fn newest(&self, selector: &VectorSelector, at: i64) -> Vec<(Labels, i64, Sample)> {
        let reference = self.reference(selector.at, selector.offset_ms, at);
        let mut found = Vec::new();
        for (labels, samples) in self.data.iter().filter(|(labels, _)| matches_all(&selector.matchers, labels)) {
            let newest = samples.iter().rev().find(|(at, _)| *at <= reference);
            let Some((at, sample)) = newest.filter(|(at, _)| *at > reference - self.lookback) else { continue };
            let stale = match sample {
                Sample::Float(value) => is_stale(*value),
                Sample::Histogram(histogram) => is_stale(histogram.sum),
            };
            if !stale {
                found.push((labels.clone(), *at, sample.clone()));
            }
        }
        found
    }

    /// The samples of a range argument.
    pub fn range(&self, expr: &Expr, at: i64) -> Result<Range, Refusal> {
        match expr {
            Expr::Paren(paren) => self.range(&paren.expr, at),
            Expr::Matrix(matrix) => {
                let (selector, width) = (&matrix.selector, matrix.range_ms);
                let end = self.reference(selector.at, selector.offset_ms, at);
                let fresh = |sample: &Sample| !sample.float().is_some_and(is_stale);
                let inside = |(at, sample): &&(i64, Sample)| *at > end - width && *at <= end && fresh(sample);
                let series = self.data.iter().filter(|(labels, _)| matches_all(&selector.matchers, labels));
                let series = series.map(|(labels, samples)| {
                    (labels.clone(), samples.iter().filter(inside).cloned().collect::<Vec<_>>())
                });
                Ok(Range { series: series.filter(|(_, samples)| !samples.is_empty()).collect(), width, end })
            }
            Expr::Subquery(subquery) => {
                let (width, end) = (subquery.range_ms, self.reference(subquery.at, subquery.offset_ms, at));
                let step = if subquery.step_ms == 0 { self.default_step } else { subquery.step_ms };
                let mut series: BTreeMap<Labels, Vec<(i64, Sample)>> = BTreeMap::new();
                for inner in (end - width + 1..=end).filter(|inner| inner.rem_euclid(step) == 0) {
                    match self.eval(&subquery.expr, inner)? {
                        Answer::Vector(vector) => {
                            for (labels, sample) in vector {
                                series.entry(labels).or_default().push((inner, sample));
                            }
                        }
                        Answer::Scalar(value) => {
                            series.entry(Labels::empty()).or_default().push((inner, Sample::Float(value)));
                        }
                    }
                }
                Ok(Range { series: series.into_iter().collect(), width, end })
            }
            other => panic!("a range: {other:?}"),
        }
    }

    fn call(&self, call: &Call, at: i64) -> Result<Answer, Refusal> {
        let name = call.function.name;
        let range = call.args.iter().position(|arg| arg.value_type() == ValueType::Matrix);
        if let Some(range) = range {
            let params = call.args.iter().enumerate().filter(|(index, _)| *index != range);
            let params = params.map(|(_, arg)| self.scalar(arg, at)).collect::<Result<Vec<_>, _>>()?;
            let found = self.range(&call.args[range], at)?;
            if name == "absent_over_time" {
                let gone = found.series.is_empty();
                let labels = demanded(&call.args[range]);
                return Ok(Answer::Vector(if gone { vec![(labels, Sample::Float(1.0))] } else { Vec::new() }));
            }
            let mut out = Vec::new();
            for (labels, samples) in &found.series {
                let value = functions::over_range(name, samples, &found, &params, at)?;
                let keeps = matches!(name, "last_over_time" | "first_over_time");
                let labels = if keeps { labels.clone() } else { without_name(labels) };
                out.extend(value.map(|value| (labels, value)));
            }
            return Ok(Answer::Vector(distinct(out)?));
        }
        Ok(match name {
            "time" => Answer::Scalar(at as f64 / 1000.0),
            "vector" => Answer::Vector(vec![(Labels::empty(), Sample::Float(self.scalar(&call.args[0], at)?))]),
            "scalar" => {
                let vector = self.vector(&call.args[0], at)?;
                let floats: Vec<f64> = vector.iter().filter_map(|(_, sample)| sample.float()).collect();
                Answer::Scalar(if floats.len() == 1 { floats[0] } else { f64::NAN })
            }
            // The order is another test's business.
            "sort_desc" => {
                let mut vector = self.vector(&call.args[0], at)?;
                vector.retain(|(_, sample)| sample.float().is_some());
                Answer::Vector(vector)
            }
            "absent" => {
                let gone = self.vector(&call.args[0], at)?.is_empty();
                let labels = demanded(&call.args[0]);
                Answer::Vector(if gone { vec![(labels, Sample::Float(1.0))] } else { Vec::new() })
            }
            "timestamp" => {
                let seconds = |at: i64| Sample::Float(at as f64 / 1000.0);
                let stamped: Vector = match &call.args[0] {
                    Expr::Vector(selector) => {
                        let found = self.newest(selector, at).into_iter();
                        found.map(|(labels, at, _)| (without_name(&labels), seconds(at))).collect()
                    }
                    other => {
                        let vector = self.vector(other, at)?.into_iter();
                        vector.map(|(labels, _)| (without_name(&labels), seconds(at))).collect()
                    }
                };
                Answer::Vector(distinct(stamped)?)
            }
            "label_replace" | "label_join" => {
                let texts: Vec<&str> = call.args[1..].iter().map(text_of).collect();
                let vector = self.vector(&call.args[0], at)?.into_iter();
                let relabelled = |(labels, sample)| (functions::relabelled(name, &labels, &texts), sample);
                Answer::Vector(distinct(vector.map(relabelled).collect())?)
            }
            "histogram_quantile" => {
                let q = self.scalar(&call.args[0], at)?;
                Answer::Vector(functions::histogram_quantile(q, &self.vector(&call.args[1], at)?)?)
            }
            _ => {
                let params = call.args[1..].iter().map(|arg| self.scalar(arg, at)).collect::<Result<Vec<_>, _>>()?;
                let mut out = Vec::new();
                for (labels, sample) in self.vector(&call.args[0], at)? {
                    let value = functions::of_one(name, &sample, &params);
                    out.extend(value.map(|value| (without_name(&labels), Sample::Float(value))));
                }
                Answer::Vector(distinct(out)?)
            }
        })
    }

    fn aggregate(&self, node: &Aggregate, at: i64) -> Result<Vector, Refusal> {
        let listed = |name: &str| node.grouping.iter().any(|label| label == name);
        let group_of = |labels: &Labels| {
            if node.without {
                labels.without(|name| name == METRIC_NAME || listed(name))
            } else {
                labels.without(|name| !listed(name))
            }
        };
        let mut groups: BTreeMap<Labels, Vector> = BTreeMap::new();
        for (labels, sample) in self.vector(&node.expr, at)? {
            groups.entry(group_of(&labels)).or_default().push((labels, sample));
        }
        if node.op == AggregateOp::CountValues {
            return self.count_values(node, groups);
        }
        let param = match &node.param {
            Some(param) => self.scalar(param, at)?,
            None => 0.0,
        };
        let mut out = Vec::new();
        for (labels, members) in groups {
            match node.op {
                AggregateOp::Topk | AggregateOp::Bottomk => {
                    out.extend(best(members, param, node.op == AggregateOp::Topk)?);
                }
                op => out.extend(functions::of_group(op, param, &members).map(|value| (labels, value))),
            }
        }
        Ok(out)
    }

    fn count_values(&self, node: &Aggregate, groups: BTreeMap<Labels, Vector>) -> Result<Vector, Refusal> {
        let label = node.param.as_deref().map_or("", text_of);
        let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
        for (group, members) in groups {
            for value in members.iter().filter_map(|(_, sample)| sample.float()) {
                let mut labels = group.to_builder();
                labels.set(label, &promesh_model::value::format_float(value));
                *counts.entry(labels.build()).or_default() += 1.0;
            }
        }
        Ok(counts.into_iter().map(|(labels, count)| (labels, Sample::Float(count))).collect())
    }

    fn binary(&self, node: &Binary, at: i64) -> Result<Answer, Refusal> {
        let (left, right) = (self.eval(&node.lhs, at)?, self.eval(&node.rhs, at)?);
        Ok(match (left, right) {
            (Answer::Scalar(a), Answer::Scalar(b)) => {
                if node.op.is_comparison() {
                    decided(a, b)?;
                }
                let value = functions::arithmetic(node.op, a, b);
                Answer::Scalar(value.unwrap_or_else(|| f64::from(u8::from(functions::compares(node.op, a, b)))))
            }
            (Answer::Vector(vector), Answer::Scalar(scalar)) => {
                Answer::Vector(self.with_scalar(node, vector, scalar, false)?)
            }
            (Answer::Scalar(scalar), Answer::Vector(vector)) => {
                Answer::Vector(self.with_scalar(node, vector, scalar, true)?)
            }
            (Answer::Vector(left), Answer::Vector(right)) => {
                let matching = node.matching.as_ref().expect("two vectors are matched");
                Answer::Vector(if node.op.is_set() {
                    sets(node.op, left, right, matching)
                } else {
                    join(node, matching, left, right)?
                })
            }
        })
    }

    fn with_scalar(&self, node: &Binary, vector: Vector, scalar: f64, swapped: bool) -> Result<Vector, Refusal> {
        let mut out = Vec::new();
        for (labels, sample) in vector {
            let number = Sample::Float(scalar);
            let (a, b) = if swapped { (&number, &sample) } else { (&sample, &number) };
            let Some((value, holds)) = element(node.op, a, b)? else { continue };
            let kept = if swapped && node.op.is_comparison() { sample.clone() } else { value };
            if node.return_bool {
                out.push((without_name(&labels), Sample::Float(f64::from(u8::from(holds)))));
            } else if node.op.is_comparison() {
                out.extend(holds.then_some((labels, kept)));
            } else {
                out.push((without_name(&labels), kept));
            }
        }
        distinct(out)
    }
}

/// What an operator makes of two samples, and whether it holds if it is a comparison; nothing when it is none for them.
fn element(op: BinaryOp, a: &Sample, b: &Sample) -> Result<Option<(Sample, bool)>, Refusal> {
    if let (Sample::Float(a), Sample::Float(b)) = (a, b) {
        if op.is_comparison() {
            decided(*a, *b)?;
            return Ok(Some((Sample::Float(*a), functions::compares(op, *a, *b))));
        }
        return Ok(functions::arithmetic(op, *a, *b).map(|value| (Sample::Float(value), true)));
    }
    Ok(functions::histogram_arithmetic(op, a, b).map(|value| (value, true)))
}

fn match_key(labels: &Labels, matching: &Matching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.on {
        labels.without(|name| !listed(name))
    } else {
        labels.without(|name| name == METRIC_NAME || listed(name))
    }
}

fn sets(op: BinaryOp, left: Vector, right: Vector, matching: &Matching) -> Vector {
    let keys = |vector: &Vector| vector.iter().map(|(labels, _)| match_key(labels, matching)).collect::<BTreeSet<_>>();
    let (left_keys, right_keys) = (keys(&left), keys(&right));
    let in_right = |(labels, _): &(Labels, Sample)| right_keys.contains(&match_key(labels, matching));
    match op {
        BinaryOp::And => left.into_iter().filter(in_right).collect(),
        BinaryOp::Unless => left.into_iter().filter(|element| !in_right(element)).collect(),
        _ => {
            let others = right.into_iter().filter(|(labels, _)| !left_keys.contains(&match_key(labels, matching)));
            left.into_iter().chain(others).collect()
        }
    }
}

fn join(node: &Binary, matching: &Matching, left: Vector, right: Vector) -> Result<Vector, Refusal> {
    // Nothing is going to match: not even duplicates are looked for.
    if left.is_empty() || right.is_empty() {
        return Ok(Vec::new());
    }
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    let mut partners: BTreeMap<Labels, &(Labels, Sample)> = BTreeMap::new();
    for partner in &one {
        if partners.insert(match_key(&partner.0, matching), partner).is_some() {
            return Err(Refusal::Error("found duplicate series for the match group"));
        }
    }
    let mut used: BTreeSet<(Labels, Labels)> = BTreeSet::new();
    let mut out = Vec::new();
    for (labels, sample) in &many {
        let key = match_key(labels, matching);
        let Some((one_labels, one_sample)) = partners.get(&key) else { continue };
        let (a, b) = if swapped { (one_sample, sample) } else { (sample, one_sample) };
        let Some((value, holds)) = element(node.op, a, b)? else { continue };
        let mut result =
            if node.op.is_comparison() && !node.return_bool { labels.clone() } else { without_name(labels) };
        if matching.cardinality == Cardinality::OneToOne {
            let listed = |name: &str| matching.labels.iter().any(|label| label == name);
            result = result.without(|name| listed(name) != matching.on);
        }
        let mut builder = result.to_builder();
        for name in &matching.include {
            builder.set(name, one_labels.value(name));
        }
        let result = builder.build();
        // Of a one-to-one match a group has one, of the others a group has each label set once.
        let known = if matching.cardinality == Cardinality::OneToOne { Labels::empty() } else { result.clone() };
        if !used.insert((key, known)) {
            return Err(Refusal::Error("multiple matches for labels"));
        }
        if node.return_bool {
            out.push((result, Sample::Float(f64::from(u8::from(holds)))));
        } else if holds {
            out.push((result, value));
        }
    }
    distinct(out)
}

/// The k largest or smallest.
fn best(members: Vector, k: f64, largest: bool) -> Result<Vector, Refusal> {
    let mut floats: Vec<(Labels, f64)> =
        members.into_iter().filter_map(|(labels, sample)| Some((labels, sample.float()?))).collect();
    if floats.iter().any(|(_, value)| value.is_nan()) {
        return Err(Refusal::Undecided);
    }
    floats.sort_by(|a, b| if largest { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
    let k = k.max(0.0) as usize;
    if k > 0 && k < floats.len() {
        let (last, next) = (floats[k - 1].1, floats[k].1);
        if last == next {
            return Err(Refusal::Undecided);
        }
        decided(last, next)?;
    }
    Ok(floats.into_iter().take(k).map(|(labels, value)| (labels, Sample::Float(value))).collect())
}

/// The labels that a selector demands by one equality and nothing else.
fn demanded(expr: &Expr) -> Labels {
    let matchers = match expr {
        Expr::Vector(selector) => &selector.matchers,
        Expr::Matrix(matrix) => &matrix.selector.matchers,
        _ => return Labels::empty(),
    };
    let named = matchers.iter().filter(|matcher| matcher.name != METRIC_NAME);
    let alone = |name: &str| matchers.iter().filter(|other| other.name == name).count() == 1;
    let equal = named.filter(|matcher| matcher.op == MatchOp::Equal && alone(&matcher.name));
    Labels::from_pairs(equal.map(|matcher| (&matcher.name, &matcher.value)))
}

fn text_of(expr: &Expr) -> &str {
    match expr {
        Expr::String(text) => &text.value,
        other => panic!("a text: {other:?}"),
    }
}
