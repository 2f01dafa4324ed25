//! Random data and random expressions over them.
//!
//! Samples are small multiples of an eighth, so that sums and products are exact in whatever order. What is not exact
//! (rates, means, deviations) never goes where its last bit would decide about presence: into comparisons, `changes`,
//! counters, rounding or a divisor.

use promesh_model::histogram::Span;
use promesh_model::value::STALE_NAN_BITS;
use promesh_model::{FloatHistogram, Labels};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::evaluator::{Sample, Series};

pub const STEP: i64 = 15_000;
pub const POINTS: usize = 40;

/// Samples of a gauge: values, gaps, ends.
fn gauge() -> impl Strategy<Value = Vec<Option<f64>>> {
    let value = prop_oneof![
        9 => (-800i32..800).prop_map(|n| Some(f64::from(n) / 8.0)),
        1 => Just(Some(f64::from_bits(STALE_NAN_BITS))),
        2 => Just(None),
    ];
    vec(value, POINTS)
}

/// Steps of a counter: growth, gaps, resets.
fn growth() -> impl Strategy<Value = Vec<Option<i32>>> {
    vec(prop_oneof![8 => (0i32..40).prop_map(Some), 1 => Just(Some(-1)), 2 => Just(None)], POINTS)
}

fn counted(growth: &[Option<i32>]) -> Vec<Option<f64>> {
    let mut value = 0;
    let mut next = |step: &Option<i32>| {
        step.map(|step| {
            value = if step < 0 { 0 } else { value + step };
            f64::from(value)
        })
    };
    growth.iter().map(&mut next).collect()
}

fn timed(points: Vec<Option<f64>>, jitter: i64) -> Vec<(i64, Sample)> {
    let at = |index: usize| index as i64 * STEP + if index.is_multiple_of(3) { jitter } else { 0 };
    let points = points.into_iter().enumerate();
    points.filter_map(|(index, value)| Some((at(index), Sample::Float(value?)))).collect()
}

fn labels(name: &str, number: usize, more: &[(&str, &str)]) -> Labels {
    let instance = format!("i{}", number % 4);
    let mut pairs =
        vec![("__name__", name), ("group", ["a", "b", "c"][number % 3]), ("instance", &instance), ("zone", "z")];
    pairs.extend_from_slice(more);
    Labels::from_pairs(pairs)
}

fn histogram(count: u32, schema: i32) -> FloatHistogram {
    let count = f64::from(count);
    FloatHistogram {
        schema,
        zero_threshold: 0.001,
        zero_count: count,
        count: count * 4.0,
        sum: count * 2.5,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![count, count * 2.0],
        ..FloatHistogram::default()
    }
}

/// Gauges `m` and `n`, counters `c_total`, classic buckets `b_bucket`, native histograms `h`.
pub fn data() -> impl Strategy<Value = Vec<Series>> {
    let jitter = || select(vec![0i64, 0, 4_000]);
    let gauges = vec((gauge(), jitter()), 2..6);
    let counters = vec((growth(), jitter()), 1..5);
    let others = vec(gauge(), 1..4);
    let buckets = vec(growth(), 0..3);
    let native = vec((growth(), 0i32..3), 0..3);
    (gauges, others, counters, buckets, native).prop_map(|(gauges, others, counters, buckets, native)| {
        let mut data = Vec::new();
        for (number, (points, jitter)) in gauges.into_iter().enumerate() {
            data.push((labels("m", number, &[]), timed(points, jitter)));
        }
        for (number, points) in others.into_iter().enumerate() {
            data.push((labels("n", number, &[("extra", ["x", "y"][number % 2])]), timed(points, 0)));
        }
        for (number, (growth, jitter)) in counters.iter().enumerate() {
            data.push((labels("c_total", number, &[]), timed(counted(growth), *jitter)));
        }
        for (number, growth) in buckets.iter().enumerate() {
            for (bound, part) in [("0.5", 1.0), ("2", 3.0), ("+Inf", 4.0)] {
                let points = counted(growth).into_iter().map(|value| value.map(|value| value * part)).collect();
                data.push((labels("b_bucket", number, &[("le", bound)]), timed(points, 0)));
            }
        }
        for (number, (growth, schema)) in native.iter().enumerate() {
            let points = timed(counted(growth), 0).into_iter();
            let whole = |(at, sample): (i64, Sample)| {
                (at, Sample::Histogram(histogram(sample.float().unwrap_or(0.0) as u32, *schema)))
            };
            data.push((labels("h", number, &[]), points.map(whole).collect()));
        }
        data
    })
}

type Text = BoxedStrategy<String>;

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    select(texts)
}

fn width() -> impl Strategy<Value = &'static str> + Clone {
    one_of(&["15s", "40s", "1m", "2m", "4m"])
}

fn modifiers() -> impl Strategy<Value = &'static str> + Clone {
    one_of(&[
        "",
        "",
        "",
        "",
        "",
        " offset 45s",
        " offset -30s",
        " @ 200",
        " @ start()",
        " @ end()",
        " @ end() offset 1m",
    ])
}

fn gauges() -> Text {
    let names = one_of(&[
        "m",
        "m",
        "n",
        "c_total",
        "m{group=\"a\"}",
        "m{group!=\"b\"}",
        "n{instance=~\"i[01]\"}",
        "m{instance!~\"i1|i3\"}",
        "{__name__=~\"m|n\", group=~\"a|b\"}",
        "m{extra=\"\"}",
        "n{extra=\"x\"}",
        "nothing{group=\"a\"}",
    ]);
    names.prop_map(str::to_owned).boxed()
}

/// A range: of a selector, or of an exact expression.
fn ranges(inner: Text) -> Text {
    let of_selector = (gauges(), width(), modifiers())
        .prop_map(|(selector, width, modifier)| format!("{selector}[{width}]{modifier}"));
    let of_expression = (inner, width(), one_of(&["10s", "20s", "45s", ""]), modifiers())
        .prop_map(|(inner, width, step, modifier)| format!("({inner})[{width}:{step}]{modifier}"));
    prop_oneof![3 => of_selector, 1 => of_expression].boxed()
}

fn clause() -> impl Strategy<Value = &'static str> + Clone {
    one_of(&["", " by (group)", " by (instance, group)", " without (instance)", " without (group)", " by (nothing)"])
}

const CARDINALITIES: &[&str] = &[
    "",
    "on (group, instance)",
    "ignoring (extra)",
    "ignoring (group)",
    "on (instance)",
    "on (group) group_left ()",
    "on (group) group_left (extra)",
    "on (instance) group_right ()",
    "on (instance) group_right (extra)",
    "ignoring (instance) group_left ()",
];

fn joined(left: Text, right: Text, ops: &'static [&'static str]) -> Text {
    let plain = (left.clone(), one_of(ops), one_of(CARDINALITIES), right.clone());
    let plain = plain.prop_map(|(a, op, matching, b)| format!("({a}) {op} {matching} ({b})"));
    // Both sides brought to few labels: then more of them match.
    let grouped =
        (left, one_of(ops), one_of(&["on (group) group_left ()", "on (group)", "on (group) group_left (zone)"]), right);
    let grouped = grouped.prop_map(|(a, op, matching, b)| format!("({a}) {op} {matching} sum by (group) ({b})"));
    prop_oneof![3 => plain, 1 => grouped].boxed()
}

/// A vector whose numbers are exact.
pub fn exact() -> Text {
    let leaf = prop_oneof![
        6 => (gauges(), modifiers()).prop_map(|(selector, modifier)| format!("{selector}{modifier}")),
        1 => Just("vector(time())".to_owned()),
        1 => (gauges(), modifiers()).prop_map(|(selector, modifier)| format!("timestamp({selector}{modifier})")),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let aggregation = (one_of(&["sum", "min", "max", "count", "group"]), clause(), inner.clone());
        let picked = (one_of(&["topk", "bottomk"]), clause(), 0..4, inner.clone());
        let ranged = (
            one_of(&["sum", "min", "max", "count", "first", "last", "present", "ts_of_first", "ts_of_last", "ts_of_min", "ts_of_max"]),
            ranges(inner.clone()),
        );
        let pairs = (one_of(&["changes", "resets", "idelta"]), ranges(inner.clone()));
        let single = (one_of(&["abs", "ceil", "floor", "sgn", "-", "+", "round"]), inner.clone());
        let clamped = (one_of(&[", 0, 50)", ", 7, 3)", ", -20, 20)"]), inner.clone());
        let scalars = one_of(&["%e + 3", "5 - %e", "%e * 2", "%e > 10", "3 <= bool %e", "20 > %e", "%e == bool 1", "%e % 7", "%e / 4", "%e != 0"]);
        let others = one_of(&[
            "absent(%e)",
            "vector(scalar(%e))",
            "sort_desc(%e)",
            "label_replace(%e, \"zone\", \"${1}-q\", \"instance\", \"i(.*)\")",
            "label_replace(%e, \"zone\", \"$1\", \"group\", \"(b|c)\")",
            "label_join(%e, \"both\", \"-\", \"group\", \"instance\")",
            "count_values by (group) (\"v\", %e)",
            "absent_over_time((%e)[1m:20s])",
            "timestamp(%e)",
        ]);
        let set = one_of(&["and", "or", "unless"]);
        let matching = one_of(&["", "on (group)", "on (instance)", "ignoring (group)", "on ()"]);
        prop_oneof![
            3 => aggregation.prop_map(|(op, clause, e)| format!("{op}{clause} ({e})")),
            2 => picked.prop_map(|(op, clause, k, e)| format!("{op}{clause} ({k}, {e})")),
            4 => ranged.prop_map(|(function, range)| format!("{function}_over_time({range})")),
            2 => pairs.prop_map(|(function, range)| format!("{function}({range})")),
            2 => single.prop_map(|(function, e)| format!("{function}({e})")),
            1 => clamped.prop_map(|(bounds, e)| format!("clamp({e}{bounds}")),
            3 => (scalars, inner.clone()).prop_map(|(form, e)| form.replace("%e", &format!("({e})"))),
            2 => (others, inner.clone()).prop_map(|(form, e)| form.replace("%e", &e)),
            3 => (inner.clone(), set, matching, inner.clone()).prop_map(|(a, op, m, b)| format!("({a}) {op} {m} ({b})")),
            4 => joined(inner.clone(), inner, &["+", "-", ">", "<= bool", "==", "!="]),
        ]
    })
    .boxed()
}

/// A vector whose numbers depend on the order of adding, by their last bits.
fn inexact() -> Text {
    let ranged = (
        one_of(&[
            "rate",
            "increase",
            "delta",
            "irate",
            "deriv",
            "stddev_over_time",
            "stdvar_over_time",
            "avg_over_time",
            "mad_over_time",
        ]),
        ranges(exact()),
    );
    let with_number = (
        one_of(&[
            "predict_linear(%r, 60)",
            "quantile_over_time(0.3, %r)",
            "quantile_over_time(0.9, %r)",
            "double_exponential_smoothing(%r, 0.3, 0.6)",
        ]),
        ranges(exact()),
    );
    let aggregation = (one_of(&["avg", "stddev", "stdvar", "quantile"]), clause(), exact());
    let buckets = (width(), one_of(&["sum by (le)", "sum by (le, group)", "max by (le, instance)"]), modifiers());
    prop_oneof![
        6 => ranged.prop_map(|(function, range)| format!("{function}({range})")),
        2 => with_number.prop_map(|(form, range)| form.replace("%r", &range)),
        3 => aggregation.prop_map(|(op, clause, e)| match op {
            "quantile" => format!("quantile{clause} (0.35, {e})"),
            _ => format!("{op}{clause} ({e})"),
        }),
        1 => buckets.prop_map(|(width, by, modifier)| format!("histogram_quantile(0.4373, {by} (rate(b_bucket[{width}]{modifier})))")),
        1 => exact().prop_map(|e| format!("sqrt(abs({e}))")),
        1 => exact().prop_map(|e| format!("ln(abs({e}))")),
    ]
    .boxed()
}

/// A vector of native histograms. Joins of which only counts and sums are looked at are left out: there the reader's
/// hints about resets may collide, and then upstream drops the element.
fn native(joins: bool) -> Text {
    let leaf = prop_oneof![
        (modifiers()).prop_map(|modifier| format!("h{modifier}")),
        (
            one_of(&["rate", "increase", "sum_over_time", "avg_over_time", "last_over_time", "first_over_time"]),
            width(),
            modifiers()
        )
            .prop_map(|(function, width, modifier)| format!("{function}(h[{width}]{modifier})")),
        (one_of(&["last", "sum", "avg"]), width())
            .prop_map(|(function, width)| format!("{function}_over_time(h[{width}:20s])")),
    ];
    leaf.prop_recursive(2, 4, 2, move |inner| {
        let join = (inner.clone(), one_of(&["+", "-"]), one_of(&["", "on (group)", "on (group) group_left ()"]), inner.clone())
            .prop_map(|(a, op, matching, b)| format!("({a}) {op} {matching} ({b})"));
        prop_oneof![
            2 => (one_of(&["sum", "avg"]), clause(), inner.clone()).prop_map(|(op, clause, e)| format!("{op}{clause} ({e})")),
            2 => (one_of(&["%e * 2", "%e / 4", "-(%e)", "3 * %e", "%e + 1", "%e and on (group) m", "%e or m"]), inner.clone())
                .prop_map(|(form, e)| form.replace("%e", &format!("({e})"))),
            u32::from(joins) => join,
        ]
    })
    .boxed()
}

/// Any vector.
pub fn expression() -> Text {
    let numbers =
        (one_of(&["histogram_count", "histogram_sum", "histogram_avg", "count", "abs", "min"]), native(false));
    prop_oneof![
        5 => exact(),
        4 => inexact(),
        2 => (one_of(&["sum", "avg", "max", "min", "count"]), clause(), inexact()).prop_map(|(op, clause, e)| format!("{op}{clause} ({e})")),
        2 => joined(inexact(), inexact(), &["+", "-", "*"]),
        1 => joined(exact(), inexact(), &["+", "*"]),
        1 => (inexact(), one_of(&["and", "unless"]), exact()).prop_map(|(a, op, b)| format!("({a}) {op} on (group) ({b})")),
        2 => native(true),
        2 => numbers.prop_map(|(function, e)| format!("{function}({e})")),
    ]
    .boxed()
}
