//! From a message to series, as Prometheus' OTLP endpoint does it.
//!
//! Source: prometheus `storage/remote/otlptranslator/prometheusremotewrite`.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_config::prometheus::OtlpConfig;
use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};
use promesh_model::ingest::{Exemplar, HistogramValue, Metadata};
use promesh_model::labels::{LabelsBuilder, METRIC_NAME};
use promesh_model::value::stale_nan;
use promesh_model::{Histogram, Labels, Timestamp};

use crate::message::*;
use crate::names::{self, Strategy};

/// Upstream's width of the zero bucket where none is said.
const ZERO_THRESHOLD: f64 = 1e-128;
/// The finest and the coarsest resolution of native histograms.
const SCHEMAS: (i32, i32) = (-4, 8);
/// The attributes that identify a service.
const IDENTIFYING: [&str; 3] = ["service.namespace", "service.name", "service.instance.id"];
/// Points of `target_info` for one resource.
const INFO_POINTS_MAX: u64 = 1_000;

/// How a message is translated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `otlp` section.
    pub config: OtlpConfig,
    /// Differences are stored as they are, as gauges.
    pub native_delta: bool,
    /// The query engine's lookback, in ms: `target_info` must never be further apart.
    pub lookback_ms: i64,
}

/// A value of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(HistogramValue),
}

/// A series with its samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TranslatedSeries {
    /// Its samples by instant.
    pub samples: Vec<(Timestamp, Sample)>,
    /// Its exemplars.
    pub exemplars: Vec<Exemplar>,
    /// When counting began; zero if not said.
    pub start: Timestamp,
}

/// What a message says, in Prometheus' words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translated {
    /// Series by labels.
    pub series: BTreeMap<Labels, TranslatedSeries>,
    /// Metadata by family.
    pub metadata: Vec<(String, Metadata)>,
    /// Metrics that cannot be translated, and why.
    pub problems: Vec<String>,
}

struct Translator<'a> {
    settings: &'a Settings,
    strategy: Strategy,
    out: Translated,
}

/// What all points of a metric share.
struct Context<'a> {
    name: String,
    resource: &'a Resource,
    scope: &'a Scope,
}

fn ms(ns: u64) -> Timestamp {
    Timestamp((ns / 1_000_000) as i64)
}

/// Translates a message. What cannot be is a problem, said by name; the rest goes on.
pub fn translate(metrics: &Metrics, settings: &Settings) -> Translated {
    let strategy = Strategy::of(&settings.config);
    let mut translator = Translator { settings, strategy, out: Translated::default() };
    for resource in &metrics.resources {
        translator.resource(resource);
    }
    for series in translator.out.series.values_mut() {
        series.samples.sort_by_key(|(at, _)| *at);
        series.samples.dedup_by_key(|(at, _)| *at);
        series.exemplars.sort_by_key(|exemplar| exemplar.timestamp);
    }
    translator.out
}

impl Translator<'_> {
    fn resource(&mut self, resource: &Resource) {
        let (mut first, mut last) = (u64::MAX, 0);
        for scope in &resource.scopes {
            for metric in &scope.metrics {
                if metric.name.is_empty() {
                    self.out.problems.push("a metric has no name".to_owned());
                    continue;
                }
                let name = names::metric(metric, self.strategy);
                let context = Context { name, resource, scope };
                if let Err(why) = self.metric(metric, &context, (&mut first, &mut last)) {
                    self.out.problems.push(format!("metric {:?}: {why}", metric.name));
                    continue;
                }
                let metadata = Metadata {
                    kind: kind(metric).to_owned(),
                    unit: metric.unit.clone(),
                    help: metric.description.clone(),
                };
                self.out.metadata.push((context.name, metadata));
            }
        }
        if last > 0 {
            self.target_info(resource, first, last);
        }
    }

    fn metric(
        &mut self,
        metric: &Metric,
        context: &Context<'_>,
        (first, last): (&mut u64, &mut u64),
    ) -> Result<(), String> {
        let mut seen = |point: &Point| {
            *first = (*first).min(point.time_ns);
            *last = (*last).max(point.time_ns);
        };
        let check = |temporality: Temporality| match temporality {
            Temporality::Cumulative => Ok(()),
            Temporality::Delta if self.settings.native_delta => Ok(()),
            _ => Err("invalid temporality and type combination".to_owned()),
        };
        match &metric.data {
            Data::Nothing => Err("it has no data points of a known kind".to_owned()),
            Data::Gauge(points) => {
                for point in points {
                    seen(&point.point);
                    self.number(point, context);
                }
                Ok(())
            }
            Data::Sum { points, temporality, .. } => {
                check(*temporality)?;
                for point in points {
                    seen(&point.point);
                    self.number(point, context);
                }
                Ok(())
            }
            Data::Histogram { points, temporality } => {
                check(*temporality)?;
                for point in points {
                    seen(&point.point);
                    if self.settings.config.convert_histograms_to_nhcb {
                        self.custom_buckets(point, context)?;
                    } else {
                        self.classic(point, context);
                    }
                }
                Ok(())
            }
            Data::Exponential { points, temporality } => {
                check(*temporality)?;
                for point in points {
                    seen(&point.point);
                    self.exponential(point, context)?;
                }
                Ok(())
            }
            Data::Summary(points) => {
                for point in points {
                    seen(&point.point);
                    self.summary(point, context);
                }
                Ok(())
            }
        }
    }

    /// The labels of a point, all but the name.
    fn labels(&self, point: &Point, context: &Context<'_>) -> LabelsBuilder {
        let config = &self.settings.config;
        let mut labels = LabelsBuilder::default();
        let set = |labels: &mut LabelsBuilder, name: &str, value: &str| {
            if !name.is_empty() && !value.is_empty() {
                labels.set(name, value);
            }
        };
        // Names that become one are joined, in the order of what they were.
        let mut joined: BTreeMap<String, Vec<(&str, &str)>> = BTreeMap::new();
        for (name, value) in point.attributes.iter().filter(|(name, _)| !name.is_empty()) {
            joined.entry(names::label(name, self.strategy, config)).or_default().push((name, value));
        }
        if config.promote_scope_metadata {
            let scope = context.scope;
            for (name, value) in [("name", &scope.name), ("version", &scope.version), ("schema_url", &scope.schema_url)]
            {
                set(&mut labels, &format!("otel_scope_{name}"), value);
            }
            for (name, value) in &scope.attributes {
                set(&mut labels, &names::label(&format!("otel_scope_{name}"), self.strategy, config), value);
            }
        }
        for (name, mut values) in joined {
            values.sort_unstable();
            let values: Vec<&str> = values.into_iter().map(|(_, value)| value).collect();
            set(&mut labels, &name, &values.join(";"));
        }
        for (name, value) in &context.resource.attributes {
            let promoted = if config.promote_all_resource_attributes {
                !config.ignore_resource_attributes.contains(name)
            } else {
                config.promote_resource_attributes.contains(name)
            };
            let name = names::label(name, self.strategy, config);
            // A point's own attributes win.
            if promoted && labels.get(&name).is_none() {
                set(&mut labels, &name, value);
            }
        }
        let (job, instance) = identity(context.resource);
        set(&mut labels, "job", &job);
        set(&mut labels, "instance", &instance);
        labels
    }

    fn push(&mut self, labels: &LabelsBuilder, name: &str, point: &Point, sample: Sample) -> Labels {
        let mut labels = labels.clone();
        labels.set(METRIC_NAME, name);
        let labels = labels.build();
        let series = self.out.series.entry(labels.clone()).or_default();
        series.samples.push((ms(point.time_ns), sample));
        series.start = ms(point.start_ns);
        labels
    }

    fn number(&mut self, number: &Number, context: &Context<'_>) {
        let labels = self.labels(&number.point, context);
        let value = if number.point.no_value { stale_nan() } else { number.value };
        let series = self.push(&labels, &context.name, &number.point, Sample::Float(value));
        self.exemplars(&series, &number.point);
    }

    fn exemplars(&mut self, series: &Labels, point: &Point) {
        let config = &self.settings.config;
        let one = |exemplar: &crate::message::Exemplar| {
            let mut labels = LabelsBuilder::default();
            for (name, value) in &exemplar.attributes {
                if !name.is_empty() && !value.is_empty() {
                    labels.set(&names::label(name, self.strategy, config), value);
                }
            }
            for (name, value) in [("trace_id", &exemplar.trace_id), ("span_id", &exemplar.span_id)] {
                if !value.is_empty() {
                    labels.set(name, value);
                }
            }
            Exemplar { labels: labels.build(), value: exemplar.value, timestamp: ms(exemplar.time_ns) }
        };
        let found: Vec<Exemplar> = point.exemplars.iter().map(one).collect();
        if let Some(series) = self.out.series.get_mut(series) {
            series.exemplars.extend(found);
        }
    }

    fn classic(&mut self, histogram: &Explicit, context: &Context<'_>) {
        let point = &histogram.point;
        let labels = self.labels(point, context);
        let value = |value: f64| Sample::Float(if point.no_value { stale_nan() } else { value });
        if let Some(sum) = histogram.sum {
            self.push(&labels, &format!("{}_sum", context.name), point, value(sum));
        }
        self.push(&labels, &format!("{}_count", context.name), point, value(histogram.count as f64));
        let bucket = format!("{}_bucket", context.name);
        let mut cumulative = 0u64;
        let mut made: Vec<(f64, Labels)> = Vec::new();
        for (bound, count) in histogram.bounds.iter().zip(&histogram.buckets) {
            cumulative = cumulative.saturating_add(*count);
            let mut labels = labels.clone();
            labels.set("le", &promesh_model::value::format_float(*bound));
            made.push((*bound, self.push(&labels, &bucket, point, value(cumulative as f64))));
        }
        let mut labels = labels;
        labels.set("le", "+Inf");
        made.push((f64::INFINITY, self.push(&labels, &bucket, point, value(histogram.count as f64))));
        // An exemplar belongs to the smallest bucket that its value is in.
        for exemplar in &point.exemplars {
            if let Some((_, series)) = made.iter().find(|(bound, _)| exemplar.value <= *bound) {
                let alone = Point { exemplars: vec![exemplar.clone()], ..Point::default() };
                self.exemplars(series, &alone);
            }
        }
    }

    fn custom_buckets(&mut self, histogram: &Explicit, context: &Context<'_>) -> Result<(), String> {
        let point = &histogram.point;
        let rises = histogram.bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises || histogram.buckets.len() > histogram.bounds.len() + 1 {
            return Err("its bounds do not rise, or it has more buckets than bounds".to_owned());
        }
        let (spans, deltas) = spans_of(0, &histogram.buckets);
        let value = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count: if point.no_value { 0 } else { histogram.buckets.iter().sum::<u64>().max(histogram.count) },
            sum: if point.no_value { stale_nan() } else { histogram.sum.unwrap_or(0.0) },
            positive_spans: spans,
            positive_buckets: deltas,
            custom_values: histogram.bounds.clone().into(),
            ..Histogram::default()
        };
        let labels = self.labels(point, context);
        let sample = Sample::Histogram(HistogramValue::Integer(Arc::new(value)));
        let series = self.push(&labels, &context.name, point, sample);
        self.exemplars(&series, point);
        Ok(())
    }

    fn exponential(&mut self, histogram: &Exponential, context: &Context<'_>) -> Result<(), String> {
        let point = &histogram.point;
        if histogram.scale < SCHEMAS.0 {
            let (scale, min) = (histogram.scale, SCHEMAS.0);
            return Err(format!("cannot convert exponential to native histogram. Scale must be >= {min}, was {scale}"));
        }
        let mut histogram = histogram.clone();
        histogram.coarsen(SCHEMAS.1.min(histogram.scale));
        // Prometheus' bucket i ends where OpenTelemetry's bucket i begins.
        let shifted = |offset: i32| offset.saturating_add(1);
        let (positive_spans, positive_buckets) = spans_of(shifted(histogram.positive.0), &histogram.positive.1);
        let (negative_spans, negative_buckets) = spans_of(shifted(histogram.negative.0), &histogram.negative.1);
        let zero_threshold = if histogram.zero_threshold == 0.0 { ZERO_THRESHOLD } else { histogram.zero_threshold };
        let value = Histogram {
            schema: histogram.scale,
            zero_threshold,
            zero_count: histogram.zero_count,
            count: if point.no_value { 0 } else { histogram.count },
            sum: if point.no_value { stale_nan() } else { histogram.sum.unwrap_or(0.0) },
            positive_spans,
            positive_buckets,
            negative_spans,
            negative_buckets,
            ..Histogram::default()
        };
        let labels = self.labels(point, context);
        let sample = Sample::Histogram(HistogramValue::Integer(Arc::new(value)));
        let series = self.push(&labels, &context.name, point, sample);
        self.exemplars(&series, point);
        Ok(())
    }

    fn summary(&mut self, summary: &Summary, context: &Context<'_>) {
        let point = &summary.point;
        let labels = self.labels(point, context);
        let value = |value: f64| Sample::Float(if point.no_value { stale_nan() } else { value });
        self.push(&labels, &format!("{}_sum", context.name), point, value(summary.sum));
        self.push(&labels, &format!("{}_count", context.name), point, value(summary.count as f64));
        for (quantile, found) in &summary.quantiles {
            let mut labels = labels.clone();
            labels.set("quantile", &promesh_model::value::format_float(*quantile));
            self.push(&labels, &context.name, point, value(*found));
        }
    }

    /// What a resource is, as a series of its own.
    fn target_info(&mut self, resource: &Resource, first: u64, last: u64) {
        let config = &self.settings.config;
        let (job, instance) = identity(resource);
        let mut labels = LabelsBuilder::default();
        let mut others = 0;
        for (name, value) in &resource.attributes {
            let identifies = IDENTIFYING.contains(&name.as_str());
            if name.is_empty() || value.is_empty() || (identifies && !config.keep_identifying_resource_attributes) {
                continue;
            }
            others += usize::from(!identifies);
            labels.set(&names::label(name, self.strategy, config), value);
        }
        if others == 0 || (job.is_empty() && instance.is_empty()) {
            return;
        }
        for (name, value) in [("job", &job), ("instance", &instance)] {
            if !value.is_empty() {
                labels.set(name, value);
            }
        }
        labels.set(METRIC_NAME, "target_info");
        let series = self.out.series.entry(labels.build()).or_default();
        let step = (self.settings.lookback_ms.max(2) / 2) as u64 * 1_000_000;
        let points = (last.saturating_sub(first) / step).min(INFO_POINTS_MAX);
        let early = (0..=points).map(|n| first + n * step).filter(|at| *at < last);
        series.samples.extend(early.chain([last]).map(|at| (ms(at), Sample::Float(1.0))));
    }
}

/// `job` and `instance` of a resource.
pub(crate) fn identity(resource: &Resource) -> (String, String) {
    let of = |wanted: &str| {
        let found = resource.attributes.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let (namespace, name) = (of(IDENTIFYING[0]), of(IDENTIFYING[1]));
    let job = match (namespace, name) {
        (_, "") => String::new(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    (job, of(IDENTIFYING[2]).to_owned())
}

fn kind(metric: &Metric) -> &'static str {
    match &metric.data {
        Data::Gauge(_) => "gauge",
        Data::Sum { monotonic: true, temporality: Temporality::Cumulative, .. } => "counter",
        Data::Sum { .. } => "gauge",
        Data::Histogram { .. } | Data::Exponential { .. } => "histogram",
        Data::Summary(_) => "summary",
        Data::Nothing => "unknown",
    }
}

/// Spans and differences of counts that begin at an index; gaps of more than two empty buckets are left out.
fn spans_of(first: i32, counts: &[u64]) -> (Vec<Span>, Vec<i64>) {
    const GAP_MAX: usize = 2;
    let mut spans: Vec<Span> = Vec::new();
    let mut deltas = Vec::new();
    let (mut previous, mut end) = (0i64, 0i64);
    let mut empty = 0;
    for (place, count) in counts.iter().enumerate() {
        if *count == 0 {
            empty += 1;
            continue;
        }
        let index = i64::from(first) + place as i64;
        match spans.last_mut() {
            Some(span) if empty <= GAP_MAX => {
                for _ in 0..empty {
                    deltas.push(-previous);
                    previous = 0;
                }
                span.length += empty as u32 + 1;
            }
            _ => spans.push(Span { offset: (index - end) as i32, length: 1 }),
        }
        deltas.push(*count as i64 - previous);
        (previous, end, empty) = (*count as i64, index + 1, 0);
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests;
