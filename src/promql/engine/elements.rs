//! One element with another: what an operator makes of floats and histograms.
//!
//! Source: prometheus `promql.scalarBinop` and `promql.vectorElemBinop`.

use std::sync::Arc;

use promesh_model::{CounterReset, FloatHistogram};

use super::annotations::{Note, Operation};
use super::grid::{Sample, Shared};
use crate::parser::BinaryOp;

/// What an operator gave.
#[derive(Debug, Default)]
pub(crate) struct Element {
    /// The value; of a comparison, its left side.
    pub value: Option<Sample>,
    /// Whether a comparison holds; true for arithmetic that worked.
    pub keep: bool,
    /// A remark although there is a value.
    pub info: Option<Note>,
    /// Why there is none.
    pub failure: Option<Note>,
}

impl Element {
    fn of(sample: Sample) -> Element {
        Element { value: Some(sample), keep: true, ..Element::default() }
    }

    fn compared(left: Sample, keep: bool) -> Element {
        Element { value: Some(left), keep, ..Element::default() }
    }

    fn failed(note: Note) -> Element {
        Element { failure: Some(note), ..Element::default() }
    }
}

/// Arithmetic of two floats; `None` for comparisons and what floats cannot do.
#[inline]
pub(crate) fn arithmetic(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
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

/// Whether a comparison of two floats holds; `None` for other operators.
#[inline]
pub(crate) fn comparison(op: BinaryOp, a: f64, b: f64) -> Option<bool> {
    Some(match op {
        BinaryOp::Equal => a == b,
        BinaryOp::NotEqual => a != b,
        BinaryOp::Greater => a > b,
        BinaryOp::Less => a < b,
        BinaryOp::GreaterEqual => a >= b,
        BinaryOp::LessEqual => a <= b,
        _ => return None,
    })
}

/// An operator on two scalars; comparisons give 0 or 1.
pub(crate) fn scalars(op: BinaryOp, a: f64, b: f64) -> f64 {
    arithmetic(op, a, b)
        .or_else(|| comparison(op, a, b).map(|holds| f64::from(u8::from(holds))))
        // Trim operators and sets never have two scalars: the parser sees to the sets, the trims give nothing.
        .unwrap_or(f64::NAN)
}

/// An operator on two samples.
pub(crate) fn elements(op: BinaryOp, left: &Sample, right: &Sample) -> Element {
    match (left, right) {
        (Sample::Float(a), Sample::Float(b)) => {
            if let Some(value) = arithmetic(op, *a, *b) {
                return Element::of(Sample::Float(value));
            }
            match comparison(op, *a, *b) {
                Some(keep) => Element::compared(Sample::Float(*a), keep),
                None => Element::failed(Note::IncompatibleTypes("float", op.as_str(), "float")),
            }
        }
        (Sample::Float(a), Sample::Histogram(b)) => match op {
            BinaryOp::Mul => changed(b, |histogram| {
                histogram.scale(*a).compact(0);
            }),
            _ => Element::failed(Note::IncompatibleTypes("float", op.as_str(), "histogram")),
        },
        (Sample::Histogram(a), Sample::Float(b)) => match op {
            BinaryOp::Mul => changed(a, |histogram| {
                histogram.scale(*b).compact(0);
            }),
            BinaryOp::Div => changed(a, |histogram| {
                histogram.divide(*b).compact(0);
            }),
            BinaryOp::TrimUpper => changed(a, |histogram| histogram.trim_above(*b)),
            BinaryOp::TrimLower => changed(a, |histogram| histogram.trim_below(*b)),
            _ => Element::failed(Note::IncompatibleTypes("histogram", op.as_str(), "float")),
        },
        (Sample::Histogram(a), Sample::Histogram(b)) => histograms(op, a, b),
    }
}

fn changed(histogram: &Shared, change: impl FnOnce(&mut FloatHistogram)) -> Element {
    let mut histogram = (**histogram).clone();
    change(&mut histogram);
    Element::of(Sample::Histogram(Arc::new(histogram)))
}

fn histograms(op: BinaryOp, a: &Shared, b: &Shared) -> Element {
    match op {
        BinaryOp::Add | BinaryOp::Sub => combine(op, a, b),
        BinaryOp::Equal => Element::compared(Sample::Histogram(Arc::clone(a)), a.same_data(b)),
        BinaryOp::NotEqual => Element::compared(Sample::Histogram(Arc::clone(a)), !a.same_data(b)),
        _ => Element::failed(Note::IncompatibleTypes("histogram", op.as_str(), "histogram")),
    }
}

fn combine(op: BinaryOp, a: &Shared, b: &Shared) -> Element {
    let mut result = (**a).clone();
    let (combined, operation) = match op {
        BinaryOp::Add => (result.add(b), Operation::Addition),
        _ => (result.sub(b), Operation::Subtraction),
    };
    let Ok(combined) = combined else {
        return Element::failed(Note::IncompatibleBucketLayout(op.as_str()));
    };
    if op == BinaryOp::Sub {
        result.counter_reset = CounterReset::Gauge;
    }
    // Upstream drops the element when resets collide: the remark takes its place.
    if combined.reset_collision {
        return Element::failed(Note::ResetCollision(operation));
    }
    result.compact(0);
    let info = combined.bounds_reconciled.then_some(Note::BoundsReconciled(operation));
    Element { info, ..Element::of(Sample::Histogram(Arc::new(result))) }
}
