//! Functions of histograms, classic and native.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use promesh_model::histogram::kahan_add;
use promesh_model::labels::METRIC_NAME;
use promesh_model::value::format_float_g;
use promesh_model::{FloatHistogram, Labels};

use super::super::QueryError;
use super::super::annotations::Note;
use super::super::eval::{Evaluator, text_of};
use super::super::grid::{Grid, Row, Shared, Steps, is_absent};
use super::super::plan::Node;
use super::quantile::{self, ClassicBucket};

/// The label with a classic bucket's upper bound.
const BUCKET_LABEL: &str = "le";

/// The rows of a vector that make one histogram: classic buckets and, perhaps at other steps, native ones.
struct Group {
    /// Labels without the bucket's bound.
    labels: Labels,
    drop_name: bool,
    /// Rows with classic buckets and their bounds.
    classic: Vec<(usize, f64)>,
    /// Rows with native histograms.
    native: Vec<usize>,
}

/// The histograms of a vector.
struct Groups {
    groups: Vec<Group>,
    /// Rows of floats whose bound could not be read, with what stood there.
    bad: Vec<(usize, String)>,
}

/// One histogram at one step.
enum Found<'a> {
    Native(&'a FloatHistogram),
    Classic(&'a mut Vec<ClassicBucket>),
}

fn bound_of(labels: &Labels) -> Option<f64> {
    let text = labels.value(BUCKET_LABEL);
    if text.is_empty() || text.contains(char::is_whitespace) {
        return None;
    }
    crate::parser::parse_number(text.trim_start_matches('+')).ok()
}

fn groups(grid: &Grid) -> Groups {
    let mut index: HashMap<Labels, usize, RandomState> = HashMap::default();
    let mut found = Groups { groups: Vec::new(), bad: Vec::new() };
    for (number, row) in grid.rows.iter().enumerate() {
        let mut group_of = |labels: Labels| {
            let at = *index.entry(labels.clone()).or_insert(found.groups.len());
            if at == found.groups.len() {
                let (classic, native) = (Vec::new(), Vec::new());
                found.groups.push(Group { labels, drop_name: row.drop_name, classic, native });
            }
            at
        };
        let native = row.histograms.is_some().then(|| group_of(row.labels.clone()));
        let has_floats = row.floats.iter().any(|value| !is_absent(*value));
        let bound = bound_of(&row.labels).filter(|_| has_floats);
        let classic = bound.map(|bound| (group_of(row.labels.without(|name| name == BUCKET_LABEL)), bound));
        if let Some(group) = native {
            found.groups[group].native.push(number);
        }
        match classic {
            Some((group, bound)) => found.groups[group].classic.push((number, bound)),
            None if has_floats => found.bad.push((number, row.labels.value(BUCKET_LABEL).to_owned())),
            None => {}
        }
    }
    found
}

impl Evaluator<'_> {
    pub(super) fn histogram_number(&mut self, name: &str, arg: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let number: fn(&FloatHistogram) -> f64 = match name {
            "histogram_count" => |histogram| histogram.count,
            "histogram_sum" => |histogram| histogram.sum,
            "histogram_avg" => |histogram| histogram.sum / histogram.count,
            "histogram_stddev" => |histogram| variance(histogram).sqrt(),
            _ => variance,
        };
        let mut grid = self.grid(arg, steps)?;
        grid.rows.retain(|row| row.histograms.is_some());
        for row in &mut grid.rows {
            let column = row.histograms.take().unwrap_or_default();
            let value = |histogram: Option<Shared>| histogram.map_or(super::super::grid::absent(), |h| number(&h));
            row.floats = column.into_iter().map(value).collect();
        }
        self.finish_renamed(grid)
    }

    /// Visits every histogram of a vector at every step; what `visit` gives goes into a row of the histogram's labels.
    fn each_histogram(
        &mut self,
        arg: &Node,
        steps: Steps,
        mut visit: impl FnMut(&mut Self, usize, &str, Found<'_>) -> f64,
    ) -> Result<Grid, QueryError> {
        let grid = self.grid(arg, steps)?;
        let Groups { groups, bad } = groups(&grid);
        let delayed = self.options.delayed_name_removal;
        let name_of = |labels: &Labels| if delayed { labels.value(METRIC_NAME).to_owned() } else { String::new() };
        for (number, label) in bad {
            let name = name_of(&grid.rows[number].labels);
            self.annotations.add(arg.span, Note::BadBucketLabel(name, label));
        }
        let mut result = Grid::default();
        let mut buckets = Vec::new();
        for group in &groups {
            self.check()?;
            let mut row = Row::empty(group.labels.clone(), steps.count);
            let name = group.labels.value(METRIC_NAME);
            for step in 0..steps.count {
                buckets.clear();
                let counted = group.classic.iter().map(|(number, upper)| (grid.rows[*number].floats[step], *upper));
                buckets.extend(
                    counted
                        .filter(|(count, _)| !is_absent(*count))
                        .map(|(count, upper)| ClassicBucket { upper, count }),
                );
                let native = group.native.iter().find_map(|number| grid.rows[*number].histogram(step));
                row.floats[step] = match native {
                    Some(_) if !buckets.is_empty() => {
                        self.annotations.add(arg.span, Note::MixedClassicNative(name_of(&group.labels)));
                        continue;
                    }
                    Some(histogram) => visit(self, step, name, Found::Native(histogram)),
                    None if buckets.is_empty() => continue,
                    None => {
                        let name = if delayed { name } else { "" };
                        visit(self, step, name, Found::Classic(&mut buckets))
                    }
                };
            }
            row.drop_name = group.drop_name;
            if !row.is_empty() {
                result.rows.push(row);
            }
        }
        self.release(grid.samples());
        self.hold(result.samples())?;
        Ok(result)
    }

    pub(super) fn histogram_quantile(&mut self, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let q = self.scalar(&args[0], steps)?;
        for q in q.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
            self.annotations.add(args[0].span, Note::InvalidQuantile(*q));
        }
        let span = args[1].span;
        let grid = self.each_histogram(&args[1], steps, |evaluator, step, name, found| {
            evaluator.quantile_of(q[step], steps.at(step), name, span, found)
        })?;
        self.finish_renamed(grid)
    }

    fn quantile_of(&mut self, q: f64, at: i64, name: &str, span: crate::parser::Span, found: Found<'_>) -> f64 {
        match found {
            Found::Native(histogram) => {
                quantile::of_histogram(q, histogram, |note| self.annotations.add(span, note(name.to_owned())))
            }
            Found::Classic(buckets) => {
                let (value, forced) = quantile::of_classic(q, buckets);
                if let Some(forced) = forced {
                    let note = Note::ForcedMonotonicity {
                        metric: name.to_owned(),
                        at,
                        bucket_min: forced.bucket_min,
                        bucket_max: forced.bucket_max,
                        diff_max: forced.diff_max,
                    };
                    self.annotations.add(span, note);
                }
                value
            }
        }
    }

    /// Several quantiles at once, told apart by a label.
    pub(super) fn histogram_quantiles(&mut self, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let label = text_of(&args[1]).to_owned();
        let span = args[0].span;
        let mut result = Grid::default();
        for arg in &args[2..] {
            let q = self.scalar(arg, steps)?;
            for q in q.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
                self.annotations.add(arg.span, Note::InvalidQuantile(*q));
            }
            let grid = self.each_histogram(&args[0], steps, |evaluator, step, name, found| {
                evaluator.quantile_of(q[step], steps.at(step), name, span, found)
            })?;
            for row in grid.rows {
                split_by_quantile(&row, &q, &label, &mut result);
            }
        }
        self.finish_renamed(result)
    }

    pub(super) fn histogram_fraction(&mut self, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let (lower, upper) = (self.scalar(&args[0], steps)?, self.scalar(&args[1], steps)?);
        let span = args[2].span;
        let grid = self.each_histogram(&args[2], steps, |evaluator, step, name, found| match found {
            Found::Native(histogram) => {
                let note = |note: fn(String) -> Note| evaluator.annotations.add(span, note(name.to_owned()));
                quantile::fraction_of_histogram(lower[step], upper[step], histogram, note)
            }
            Found::Classic(buckets) => quantile::fraction_of_classic(lower[step], upper[step], buckets),
        })?;
        self.finish_renamed(grid)
    }
}

/// One row a value of the quantile, which may change from step to step.
fn split_by_quantile(row: &Row, q: &[f64], label: &str, result: &mut Grid) {
    let mut made: Vec<(u64, Row)> = Vec::new();
    for (step, value) in row.floats.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
        let key = q[step].to_bits();
        let at = made.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            let mut labels = row.labels.to_builder();
            labels.set(label, &open_metrics_float(q[step]));
            let mut fresh = Row::empty(labels.build(), row.floats.len());
            fresh.drop_name = row.drop_name;
            made.push((key, fresh));
            made.len() - 1
        });
        made[at].1.floats[step] = *value;
    }
    result.rows.extend(made.into_iter().map(|(_, row)| row));
}

/// A float as `OpenMetrics` labels write it: with a point or an exponent.
fn open_metrics_float(value: f64) -> String {
    let text = format_float_g(value);
    if value.is_finite() && !text.contains(['e', '.']) { text + ".0" } else { text }
}

/// The estimated variance of the observations.
fn variance(histogram: &FloatHistogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let (mut sum, mut compensation) = (0.0, 0.0);
    for bucket in histogram.all_buckets().into_iter().filter(|bucket| bucket.count != 0.0) {
        let middle = if histogram.is_custom() {
            f64::midpoint(bucket.upper, bucket.lower)
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let magnitude = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -magnitude } else { magnitude }
        };
        let delta = middle - mean;
        (sum, compensation) = kahan_add(bucket.count * delta * delta, sum, compensation);
    }
    (sum + compensation) / histogram.count
}
