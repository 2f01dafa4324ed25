//! Functions of one sample, of a group and of a range, each by its definition.

use std::collections::BTreeMap;

use promesh_model::Labels;
use promesh_promql::parser::{AggregateOp, BinaryOp};

use super::evaluator::{Range, Refusal, Sample, Vector, without_name};

pub fn arithmetic(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    Some(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Atan2 => a.atan2(b),
        _ => return None,
    })
}

pub fn compares(op: BinaryOp, a: f64, b: f64) -> bool {
    match op {
        BinaryOp::Equal => a == b,
        BinaryOp::NotEqual => a != b,
        BinaryOp::Greater => a > b,
        BinaryOp::Less => a < b,
        BinaryOp::GreaterEqual => a >= b,
        BinaryOp::LessEqual => a <= b,
        other => panic!("no comparison: {other}"),
    }
}

/// What `+ - * /` make of operands of which one is a histogram.
pub fn histogram_arithmetic(op: BinaryOp, a: &Sample, b: &Sample) -> Option<Sample> {
    Some(Sample::Histogram(match (op, a, b) {
        (BinaryOp::Add, Sample::Histogram(a), Sample::Histogram(b)) => {
            let mut sum = a.clone();
            sum.add(b).ok()?;
            sum
        }
        (BinaryOp::Sub, Sample::Histogram(a), Sample::Histogram(b)) => {
            let mut difference = a.clone();
            difference.sub(b).ok()?;
            difference
        }
        (BinaryOp::Mul, Sample::Histogram(histogram), Sample::Float(factor))
        | (BinaryOp::Mul, Sample::Float(factor), Sample::Histogram(histogram)) => {
            let mut scaled = histogram.clone();
            scaled.scale(*factor);
            scaled
        }
        (BinaryOp::Div, Sample::Histogram(histogram), Sample::Float(divisor)) => {
            let mut scaled = histogram.clone();
            scaled.divide(*divisor);
            scaled
        }
        _ => return None,
    }))
}

pub fn negated(vector: Vector) -> Vector {
    let negative = |sample| match sample {
        Sample::Float(value) => Sample::Float(-value),
        Sample::Histogram(mut histogram) => {
            histogram.scale(-1.0);
            Sample::Histogram(histogram)
        }
    };
    vector.into_iter().map(|(labels, sample)| (without_name(&labels), negative(sample))).collect()
}

/// Functions of one value.
pub fn of_one(name: &str, sample: &Sample, params: &[f64]) -> Option<f64> {
    match (name, sample) {
        ("histogram_count", Sample::Histogram(histogram)) => return Some(histogram.count),
        ("histogram_sum", Sample::Histogram(histogram)) => return Some(histogram.sum),
        ("histogram_avg", Sample::Histogram(histogram)) => return Some(histogram.sum / histogram.count),
        _ => {}
    }
    let value = sample.float().filter(|_| !name.starts_with("histogram"))?;
    let clamp =
        |low: f64, high: f64| (low <= high).then(|| if value.is_nan() { value } else { value.max(low).min(high) });
    Some(match name {
        "abs" => value.abs(),
        "ceil" => value.ceil(),
        "floor" => value.floor(),
        "sqrt" => value.sqrt(),
        "ln" => value.ln(),
        "sgn" if value == 0.0 || value.is_nan() => value,
        "sgn" => value.signum(),
        "round" => {
            let nearest = params.first().copied().unwrap_or(1.0);
            (value / nearest + 0.5).floor() * nearest
        }
        "clamp" => clamp(params[0], params[1])?,
        "clamp_min" => clamp(params[0], f64::INFINITY)?,
        "clamp_max" => clamp(f64::NEG_INFINITY, params[0])?,
        other => panic!("{other} is not built here"),
    })
}

pub fn relabelled(name: &str, labels: &Labels, texts: &[&str]) -> Labels {
    let mut builder = labels.to_builder();
    if name == "label_join" {
        let values: Vec<&str> = texts[2..].iter().map(|name| labels.value(name)).collect();
        builder.set(texts[0], &values.join(texts[1]));
        return builder.build();
    }
    let regex = regex::Regex::new(&format!("^(?s:{})$", texts[3])).expect("a valid expression");
    if let Some(captures) = regex.captures(labels.value(texts[2])) {
        // The generator writes numbered captures in braces, which this library and Go read alike.
        let mut value = String::new();
        captures.expand(texts[1], &mut value);
        builder.set(texts[0], &value);
    }
    builder.build()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / values.len() as f64
}

fn quantile(q: f64, values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if q.is_nan() || sorted.is_empty() {
        return f64::NAN;
    }
    if !(0.0..=1.0).contains(&q) {
        return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let rank = q * (sorted.len() - 1) as f64;
    let (below, part) = (rank.floor(), rank - rank.floor());
    let above = (below as usize + 1).min(sorted.len() - 1);
    sorted[below as usize] * (1.0 - part) + sorted[above] * part
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, |a, b| if a < b || b.is_nan() { a } else { b })
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, |a, b| if a > b || b.is_nan() { a } else { b })
}

/// Sum or mean of samples of one kind; nothing of a mixture.
fn total<'s>(samples: impl Iterator<Item = &'s Sample>, as_mean: bool) -> Option<Sample> {
    let samples: Vec<&Sample> = samples.collect();
    let floats: Vec<f64> = samples.iter().filter_map(|sample| sample.float()).collect();
    if floats.len() == samples.len() {
        return Some(Sample::Float(if as_mean { mean(&floats) } else { floats.iter().sum() }));
    }
    let mut sum = None;
    for sample in &samples {
        let Sample::Histogram(histogram) = sample else { return None };
        match &mut sum {
            None => sum = Some(histogram.clone()),
            Some(sum) => drop(sum.add(histogram).ok()?),
        }
    }
    let mut sum = sum?;
    if as_mean {
        sum.divide(samples.len() as f64);
    }
    Some(Sample::Histogram(sum))
}

pub fn of_group(op: AggregateOp, param: f64, members: &Vector) -> Option<Sample> {
    let floats: Vec<f64> = members.iter().filter_map(|(_, sample)| sample.float()).collect();
    let samples = members.iter().map(|(_, sample)| sample);
    Some(match op {
        AggregateOp::Sum => total(samples, false)?,
        AggregateOp::Avg => total(samples, true)?,
        AggregateOp::Count => Sample::Float(members.len() as f64),
        AggregateOp::Group => Sample::Float(1.0),
        _ if floats.is_empty() => return None,
        AggregateOp::Min => Sample::Float(least(&floats)),
        AggregateOp::Max => Sample::Float(most(&floats)),
        AggregateOp::Stdvar => Sample::Float(variance(&floats)),
        AggregateOp::Stddev => Sample::Float(variance(&floats).sqrt()),
        AggregateOp::Quantile => Sample::Float(quantile(param, &floats)),
        other => panic!("{other} is not built here"),
    })
}

/// The quantile of classic histograms, each made of the elements that differ in `le` only.
pub fn histogram_quantile(q: f64, vector: &Vector) -> Result<Vector, Refusal> {
    let mut found: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (labels, sample) in vector {
        let (Some(count), Ok(bound)) = (sample.float(), labels.value("le").replace("+Inf", "inf").parse()) else {
            continue;
        };
        found.entry(without_name(&labels.without(|name| name == "le"))).or_default().push((bound, count));
    }
    let mut out = Vec::new();
    for (labels, mut buckets) in found {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        if buckets.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            // Several metrics in one histogram: their counts are added in an order that is not defined.
            return Err(Refusal::Undecided);
        }
        for at in 1..buckets.len() {
            buckets[at].1 = buckets[at].1.max(buckets[at - 1].1);
        }
        out.push((labels, Sample::Float(classic_quantile(q, &buckets))));
    }
    Ok(out)
}

fn classic_quantile(q: f64, buckets: &[(f64, f64)]) -> f64 {
    let (last_bound, observations) = buckets[buckets.len() - 1];
    if last_bound != f64::INFINITY || buckets.len() < 2 || observations == 0.0 {
        return f64::NAN;
    }
    let rank = q * observations;
    let at = buckets[..buckets.len() - 1].iter().position(|(_, count)| *count >= rank).unwrap_or(buckets.len() - 1);
    if at == buckets.len() - 1 {
        return buckets[at - 1].0;
    }
    let (upper, count) = buckets[at];
    if at == 0 && upper <= 0.0 {
        return upper;
    }
    let (lower, before) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    lower + (upper - lower) * ((rank - before) / (count - before))
}

/// Functions of a range. Series of these tests have floats or histograms, never both.
pub fn over_range(
    name: &str,
    samples: &[(i64, Sample)],
    range: &Range,
    params: &[f64],
    at: i64,
) -> Result<Option<Sample>, Refusal> {
    let newest = samples.last().map(|(_, sample)| sample.clone());
    let all = samples.iter().map(|(_, sample)| sample);
    match name {
        "last_over_time" => return Ok(newest),
        "first_over_time" => return Ok(samples.first().map(|(_, sample)| sample.clone())),
        "count_over_time" => return Ok(Some(Sample::Float(samples.len() as f64))),
        "present_over_time" => return Ok(Some(Sample::Float(1.0))),
        "sum_over_time" => return Ok(total(all, false)),
        "avg_over_time" => return Ok(total(all, true)),
        "rate" | "increase" | "delta" => return Ok(extrapolated(name, samples, range)),
        _ => {}
    }
    let points: Vec<(i64, f64)> = samples.iter().filter_map(|(at, sample)| Some((*at, sample.float()?))).collect();
    if points.is_empty() {
        return Ok(None);
    }
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let pairs = || values.windows(2);
    let seconds = |found: Option<&(i64, f64)>| found.map_or(f64::NAN, |(at, _)| *at as f64 / 1000.0);
    let value = match name {
        "min_over_time" => least(&values),
        "max_over_time" => most(&values),
        "stddev_over_time" => variance(&values).sqrt(),
        "stdvar_over_time" => variance(&values),
        "quantile_over_time" => quantile(params[0], &values),
        "mad_over_time" => {
            let median = quantile(0.5, &values);
            quantile(0.5, &values.iter().map(|value| (value - median).abs()).collect::<Vec<_>>())
        }
        // From NaN to NaN nothing changes.
        "changes" => pairs().filter(|p| p[0] != p[1] && !(p[0].is_nan() && p[1].is_nan())).count() as f64,
        "resets" => pairs().filter(|pair| pair[1] < pair[0]).count() as f64,
        "ts_of_first_over_time" => seconds(points.first()),
        "ts_of_last_over_time" => seconds(points.last()),
        // Only where all are NaN is the least one.
        "ts_of_min_over_time" => {
            let least = least(&values);
            seconds(points.iter().rev().find(|(_, value)| *value == least || least.is_nan()))
        }
        "ts_of_max_over_time" => {
            let most = most(&values);
            seconds(points.iter().rev().find(|(_, value)| *value == most || most.is_nan()))
        }
        _ if points.len() < 2 => return Ok(None),
        "irate" | "idelta" => {
            let ((before_at, before), (last_at, last)) = (points[points.len() - 2], points[points.len() - 1]);
            let change = if name == "irate" && last < before { last } else { last - before };
            if name == "irate" { change / ((last_at - before_at) as f64 / 1000.0) } else { change }
        }
        "deriv" => line(&points, points[0].0).0,
        "predict_linear" => {
            let (slope, intercept) = line(&points, at);
            slope * params[0] + intercept
        }
        "double_exponential_smoothing" => {
            let (mut level, mut trend) = (values[0], values[1] - values[0]);
            for (index, value) in values.iter().enumerate().skip(1) {
                let before = level;
                level = params[0] * value + (1.0 - params[0]) * (level + trend);
                if index + 1 < values.len() {
                    trend = params[1] * (level - before) + (1.0 - params[1]) * trend;
                }
            }
            level
        }
        other => panic!("{other} is not built here"),
    };
    Ok(Some(Sample::Float(value)))
}

/// Slope, and value at an instant, of the least-squares line.
fn line(points: &[(i64, f64)], origin: i64) -> (f64, f64) {
    let xs: Vec<f64> = points.iter().map(|(at, _)| (at - origin) as f64 / 1000.0).collect();
    let ys: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let (x_mean, y_mean) = (mean(&xs), mean(&ys));
    let both = xs.iter().zip(&ys).map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>();
    let slope = both / xs.iter().map(|x| (x - x_mean) * (x - x_mean)).sum::<f64>();
    (slope, y_mean - slope * x_mean)
}

/// The change over a range, carried on to its edges.
fn extrapolated(name: &str, samples: &[(i64, Sample)], range: &Range) -> Option<Sample> {
    if samples.len() < 2 {
        return None;
    }
    let counter = name != "delta";
    let (first, last) = (&samples[0], &samples[samples.len() - 1]);
    let sampled = (last.0 - first.0) as f64 / 1000.0;
    let interval = sampled / (samples.len() - 1) as f64;
    let edge = |gap: f64| if gap >= interval * 1.1 { interval / 2.0 } else { gap };
    let mut to_start = edge((first.0 - (range.end - range.width)) as f64 / 1000.0);
    let to_end = edge((range.end - last.0) as f64 / 1000.0);
    let per = if name == "rate" { range.width as f64 / 1000.0 } else { 1.0 };
    match (&first.1, &last.1) {
        (Sample::Float(from), Sample::Float(to)) => {
            let mut change = to - from;
            for pair in samples.windows(2).filter(|_| counter) {
                let (before, now) = (pair[0].1.float()?, pair[1].1.float()?);
                change += if now < before { before } else { 0.0 };
            }
            if counter && change > 0.0 && *from >= 0.0 {
                to_start = to_start.min(sampled * from / change);
            }
            Some(Sample::Float(change * ((sampled + to_start + to_end) / sampled) / per))
        }
        (Sample::Histogram(from), Sample::Histogram(to)) => {
            let mut change = to.clone();
            change.sub(from).ok()?;
            for pair in samples.windows(2).filter(|_| counter) {
                let (Sample::Histogram(before), Sample::Histogram(now)) = (&pair[0].1, &pair[1].1) else { return None };
                if now.detect_reset(before) {
                    change.add(before).ok()?;
                }
            }
            // A histogram counts as a counter by its count of observations.
            if counter && change.count > 0.0 && from.count >= 0.0 {
                to_start = to_start.min(sampled * from.count / change.count);
            }
            change.scale((sampled + to_start + to_end) / sampled / per);
            Some(Sample::Histogram(change))
        }
        _ => None,
    }
}
