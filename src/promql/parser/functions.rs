//! The functions of PromQL: names, argument types, results.
//!
//! Source: prometheus `promql/parser/functions.go`.

use super::ast::ValueType;
use ValueType::{Matrix, Scalar, String as Text, Vector};

/// How many arguments a function takes beyond those listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variadic {
    /// Exactly those listed.
    None,
    /// The last listed one may be left out, and up to so many may stand in its place.
    UpTo(usize),
    /// The last listed one may be left out or repeated without end.
    Any,
}

/// A function's signature.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Types of its arguments; the last one counts for all further ones.
    pub args: &'static [ValueType],
    /// How many arguments beyond `args`.
    pub variadic: Variadic,
    /// Type of its result.
    pub returns: ValueType,
    /// Whether it needs the experimental functions switched on.
    pub experimental: bool,
}

const fn plain(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, variadic: Variadic::None, returns, experimental: false }
}

const fn new(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, variadic: Variadic::None, returns, experimental: true }
}

const fn math(name: &'static str) -> Function {
    plain(name, &[Vector], Vector)
}

const fn over_time(name: &'static str) -> Function {
    plain(name, &[Matrix], Vector)
}

const fn date(name: &'static str) -> Function {
    Function { name, args: &[Vector], variadic: Variadic::UpTo(1), returns: Vector, experimental: false }
}

/// All functions, sorted by name.
pub static FUNCTIONS: [Function; 90] = [
    math("abs"),
    math("absent"),
    over_time("absent_over_time"),
    math("acos"),
    math("acosh"),
    math("asin"),
    math("asinh"),
    math("atan"),
    math("atanh"),
    over_time("avg_over_time"),
    math("ceil"),
    over_time("changes"),
    plain("clamp", &[Vector, Scalar, Scalar], Vector),
    plain("clamp_max", &[Vector, Scalar], Vector),
    plain("clamp_min", &[Vector, Scalar], Vector),
    math("cos"),
    math("cosh"),
    over_time("count_over_time"),
    date("day_of_month"),
    date("day_of_week"),
    date("day_of_year"),
    date("days_in_month"),
    math("deg"),
    over_time("delta"),
    over_time("deriv"),
    new("double_exponential_smoothing", &[Matrix, Scalar, Scalar], Vector),
    new("end", &[], Scalar),
    math("exp"),
    over_time("first_over_time"),
    math("floor"),
    math("histogram_avg"),
    math("histogram_count"),
    plain("histogram_fraction", &[Scalar, Scalar, Vector], Vector),
    plain("histogram_quantile", &[Scalar, Vector], Vector),
    Function {
        name: "histogram_quantiles",
        args: &[Vector, Text, Scalar, Scalar],
        variadic: Variadic::UpTo(9),
        returns: Vector,
        experimental: true,
    },
    math("histogram_stddev"),
    math("histogram_stdvar"),
    math("histogram_sum"),
    date("hour"),
    over_time("idelta"),
    over_time("increase"),
    Function {
        name: "info",
        args: &[Vector, Vector],
        variadic: Variadic::UpTo(1),
        returns: Vector,
        experimental: true,
    },
    over_time("irate"),
    Function {
        name: "label_join",
        args: &[Vector, Text, Text, Text],
        variadic: Variadic::Any,
        returns: Vector,
        experimental: false,
    },
    plain("label_replace", &[Vector, Text, Text, Text, Text], Vector),
    over_time("last_over_time"),
    math("ln"),
    math("log10"),
    math("log2"),
    new("mad_over_time", &[Matrix], Vector),
    new("max_of", &[Scalar, Scalar], Scalar),
    over_time("max_over_time"),
    new("min_of", &[Scalar, Scalar], Scalar),
    over_time("min_over_time"),
    date("minute"),
    date("month"),
    plain("pi", &[], Scalar),
    plain("predict_linear", &[Matrix, Scalar], Vector),
    over_time("present_over_time"),
    plain("quantile_over_time", &[Scalar, Matrix], Vector),
    math("rad"),
    new("range", &[], Scalar),
    over_time("rate"),
    over_time("resets"),
    Function {
        name: "round",
        args: &[Vector, Scalar],
        variadic: Variadic::UpTo(1),
        returns: Vector,
        experimental: false,
    },
    plain("scalar", &[Vector], Scalar),
    math("sgn"),
    math("sin"),
    math("sinh"),
    math("sort"),
    Function {
        name: "sort_by_label",
        args: &[Vector, Text],
        variadic: Variadic::Any,
        returns: Vector,
        experimental: true,
    },
    Function {
        name: "sort_by_label_desc",
        args: &[Vector, Text],
        variadic: Variadic::Any,
        returns: Vector,
        experimental: true,
    },
    math("sort_desc"),
    math("sqrt"),
    new("start", &[], Scalar),
    new("start_timestamp", &[Vector], Vector),
    over_time("stddev_over_time"),
    over_time("stdvar_over_time"),
    new("step", &[], Scalar),
    over_time("sum_over_time"),
    math("tan"),
    math("tanh"),
    plain("time", &[], Scalar),
    math("timestamp"),
    new("ts_of_first_over_time", &[Matrix], Vector),
    new("ts_of_last_over_time", &[Matrix], Vector),
    new("ts_of_max_over_time", &[Matrix], Vector),
    new("ts_of_min_over_time", &[Matrix], Vector),
    plain("vector", &[Scalar], Vector),
    date("year"),
];

/// The function of this name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by_key(&name, |function| function.name).ok().map(|index| &FUNCTIONS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_sorted_for_the_search() {
        assert!(FUNCTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
