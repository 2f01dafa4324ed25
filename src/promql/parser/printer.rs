//! Trees as text, on one line, as upstream prints them.
//!
//! Source: prometheus `promql/parser/printer.go`.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use promesh_model::labels::{METRIC_NAME, is_classic_label_name, quoted};
use promesh_model::value::{format_float, format_float_g};
use promesh_model::{MatchOp, duration};

use super::ast::{
    Aggregate, At, Binary, Cardinality, DurationExpr, DurationNode, DurationOp, Expr, Matching, MatrixSelector,
    NumberLiteral, Subquery, VectorSelector,
};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Aggregate(node) => node.fmt(f),
            Expr::Binary(node) => write!(f, "{} {} {}", node.lhs, OperatorText(node), node.rhs),
            Expr::Call(node) => {
                write!(f, "{}(", node.function.name)?;
                for (index, arg) in node.args.iter().enumerate() {
                    write!(f, "{}{arg}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            Expr::Matrix(node) => node.fmt(f),
            Expr::Number(node) => node.fmt(f),
            Expr::Paren(node) => write!(f, "({})", node.expr),
            Expr::String(node) => f.write_str(&quoted(&node.value)),
            Expr::Subquery(node) => write!(f, "{}{}", node.expr, SubqueryText(node)),
            Expr::Unary(node) => write!(f, "{}{}", if node.negative { "-" } else { "+" }, node.expr),
            Expr::Vector(node) => node.fmt(f),
        }
    }
}

/// `sum by (a, b) ` of an aggregation.
pub(super) struct AggregateText<'a>(pub &'a Aggregate);

impl Display for AggregateText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Aggregate { op, grouping, without, .. } = self.0;
        match (without, grouping.is_empty()) {
            (true, _) => write!(f, "{op} without ({}) ", LabelList(grouping)),
            (false, false) => write!(f, "{op} by ({}) ", LabelList(grouping)),
            (false, true) => write!(f, "{op}"),
        }
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", AggregateText(self))?;
        if let Some(param) = &self.param {
            write!(f, "{param}, ")?;
        }
        write!(f, "{})", self.expr)
    }
}

struct LabelList<'a>(&'a [String]);

impl Display for LabelList<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            if is_classic_label_name(label) { f.write_str(label)? } else { f.write_str(&quoted(label))? }
        }
        Ok(())
    }
}

/// `== bool on (a) group_left ()` of a binary operation.
pub(super) struct OperatorText<'a>(pub &'a Binary);

impl Display for OperatorText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.op, if self.0.return_bool { " bool" } else { "" })?;
        self.0.matching.as_ref().map_or(Ok(()), |matching| matching.fmt(f))
    }
}

impl Display for Matching {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let grouped = match self.cardinality {
            Cardinality::ManyToOne => Some("left"),
            Cardinality::OneToMany => Some("right"),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        if self.on || !self.labels.is_empty() || grouped.is_some() {
            write!(f, " {} ({})", if self.on { "on" } else { "ignoring" }, LabelList(&self.labels))?;
        }
        if let Some(side) = grouped {
            write!(f, " group_{side} ({})", LabelList(&self.include))?;
        }
        match (self.fill_left, self.fill_right) {
            (Some(left), Some(right)) if left == right => write!(f, " fill ({})", format_float_g(left)),
            (left, right) => {
                for (side, value) in [("left", left), ("right", right)] {
                    if let Some(value) = value {
                        write!(f, " fill_{side} ({})", format_float_g(value))?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Display for DurationNode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DurationNode::Number(number) => number.fmt(f),
            DurationNode::Expr(expr) => expr.fmt(f),
        }
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.wrapped {
            f.write_str("(")?;
        }
        let op = self.op.as_str();
        match (self.op, &self.lhs, &self.rhs) {
            (DurationOp::MinOf | DurationOp::MaxOf, Some(lhs), Some(rhs)) => write!(f, "{op}({lhs}, {rhs})")?,
            (_, Some(lhs), Some(rhs)) => write!(f, "{lhs} {op} {rhs}")?,
            (DurationOp::Sub, None, Some(rhs)) => write!(f, "-{rhs}")?,
            (_, None, Some(rhs)) => write!(f, "{rhs}")?,
            (_, _, None) => write!(f, "{op}()")?,
        }
        if self.wrapped { f.write_str(")") } else { Ok(()) }
    }
}

fn ms_text(ms: i64) -> String {
    let text = duration::format(Duration::from_millis(ms.unsigned_abs()));
    if ms < 0 { format!("-{text}") } else { text }
}

fn range_text(ms: i64, expr: Option<&DurationExpr>) -> String {
    expr.map_or_else(|| ms_text(ms), DurationExpr::to_string)
}

struct AtText(Option<At>);

impl Display for AtText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(At::Timestamp(ms)) => write!(f, " @ {:.3}", ms as f64 / 1000.0),
            Some(At::Start) => f.write_str(" @ start()"),
            Some(At::End) => f.write_str(" @ end()"),
        }
    }
}

fn offset_text(ms: i64, expr: Option<&DurationExpr>) -> String {
    match (expr, ms) {
        (Some(expr), _) => format!(" offset {expr}"),
        (None, 0) => String::new(),
        (None, ms) => format!(" offset {}", ms_text(ms)),
    }
}

fn extended_text(selector: &VectorSelector) -> &'static str {
    match (selector.anchored, selector.smoothed) {
        (true, _) => " anchored",
        (_, true) => " smoothed",
        _ => "",
    }
}

/// `name{matchers}` without modifiers.
struct BareSelector<'a>(&'a VectorSelector);

impl Display for BareSelector<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let VectorSelector { name, matchers, .. } = self.0;
        let is_name = |matcher: &promesh_model::Matcher| {
            matcher.name == METRIC_NAME && matcher.op == MatchOp::Equal && matcher.value == *name && !name.is_empty()
        };
        let mut texts: Vec<String> = matchers.iter().filter(|m| !is_name(m)).map(ToString::to_string).collect();
        texts.sort_unstable();
        f.write_str(name)?;
        if texts.is_empty() { Ok(()) } else { write!(f, "{{{}}}", texts.join(",")) }
    }
}

impl Display for VectorSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let offset = offset_text(self.offset_ms, self.offset_expr.as_ref());
        write!(f, "{}{}{}{offset}", BareSelector(self), AtText(self.at), extended_text(self))
    }
}

impl Display for MatrixSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let selector = &self.selector;
        let range = range_text(self.range_ms, self.range_expr.as_ref());
        let offset = offset_text(selector.offset_ms, selector.offset_expr.as_ref());
        let (bare, extended, at) = (BareSelector(selector), extended_text(selector), AtText(selector.at));
        write!(f, "{bare}[{range}]{extended}{at}{offset}")
    }
}

/// `[5m:1m] @ 1 offset 2s` of a subquery.
pub(super) struct SubqueryText<'a>(pub &'a Subquery);

impl Display for SubqueryText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let node = self.0;
        let range = range_text(node.range_ms, node.range_expr.as_ref());
        let step = match (node.step_ms, &node.step_expr) {
            (0, None) => String::new(),
            (ms, expr) => range_text(ms, expr.as_ref()),
        };
        write!(f, "[{range}:{step}]{}{}", AtText(node.at), offset_text(node.offset_ms, node.offset_expr.as_ref()))
    }
}

impl Display for NumberLiteral {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.duration {
            f.write_str(&ms_text(super::seconds_to_ms(self.value)))
        } else {
            f.write_str(&format_float(self.value))
        }
    }
}
