//! From a tree to a plan: what to ask storage for, which parts do not depend on the step, durations as numbers.
//!
//! Source: prometheus `promql.PreprocessExpr`, `promql.durationVisitor` and `Engine.populateSeries`.

use std::collections::{HashMap, HashSet};

use promesh_model::storage::{SelectHints, SelectRequest};
use promesh_model::{Matcher, Timestamp};

use super::QueryError;
use super::grid::Steps;
use crate::parser::{
    AggregateOp, At, BinaryOp, DurationExpr, DurationNode, DurationOp, Expr, Function, Matching, MatrixSelector, Span,
    Subquery, ValueType, VectorSelector,
};

/// A node of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    /// Where it stands in the query.
    pub span: Span,
    pub value_type: ValueType,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Number(f64),
    Text(String),
    Vector(Selector),
    /// A range selector and its width in ms.
    Range(Selector, i64),
    Subquery(Box<SubqueryNode>),
    Call(&'static Function, Vec<Node>),
    Aggregate(Box<AggregateNode>),
    Binary(Box<BinaryNode>),
    Negate(Box<Node>),
    /// `+` before a selector.
    Plus(Box<Node>),
    /// Evaluated once, at the first step, and repeated.
    Invariant(Box<Node>),
    Info(Box<InfoNode>),
    /// A value that was computed elsewhere, by its number.
    Given(usize),
    /// One of the plan's [`Planned::shared`].
    Shared(usize),
}

/// A part of the query that may stand in it more than once, letter for letter.
#[derive(Debug)]
pub(crate) struct SharedNode {
    pub node: Node,
    /// How many nodes of the plan are this one.
    pub uses: u32,
}

/// A selector: which of the requests holds its series, and from when.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub request: usize,
    pub offset: i64,
    pub at: Option<i64>,
    pub anchored: bool,
    pub smoothed: bool,
    pub matchers: Vec<Matcher>,
    /// Whether only count and sum of histograms are looked at: then their buckets need not be carried along.
    pub stats_only: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct SubqueryNode {
    pub expr: Node,
    pub range: i64,
    pub step: i64,
    pub offset: i64,
    pub at: Option<i64>,
}

#[derive(Clone, Debug)]
pub(crate) struct AggregateNode {
    pub op: AggregateOp,
    pub expr: Node,
    pub param: Option<Node>,
    pub grouping: Vec<String>,
    pub without: bool,
    /// Where the whole aggregation stands.
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(crate) struct BinaryNode {
    pub op: BinaryOp,
    pub lhs: Node,
    pub rhs: Node,
    pub return_bool: bool,
    pub matching: Option<Matching>,
}

#[derive(Clone, Debug)]
pub(crate) struct InfoNode {
    pub arg: Node,
    /// Those of the second argument.
    pub matchers: Option<Vec<Matcher>>,
    /// The instant at which info series are looked up, if it is fixed.
    pub at: Option<i64>,
    pub offset: i64,
}

/// A plan.
pub(crate) struct Planned {
    pub root: Node,
    pub requests: Vec<SelectRequest>,
    /// How many nodes read each request.
    pub readers: Vec<u32>,
    pub shared: Vec<SharedNode>,
}

/// What stands above a selector.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Above {
    subquery_offset: i64,
    subquery_range: i64,
    subquery_at: Option<i64>,
    /// Step of the innermost subquery.
    interval: i64,
    /// The subqueries themselves, outermost first: range, step, offset and instant.
    subqueries: Vec<(i64, i64, i64, Option<i64>)>,
    func: String,
    grouping: Vec<String>,
    by: bool,
    /// A function that looks at counts and sums of histograms only.
    stats: bool,
    /// Something that looks at buckets, or compares histograms that are not neighbours.
    buckets: bool,
}

struct Planner<'q> {
    start: i64,
    end: i64,
    interval: i64,
    lookback: i64,
    default_step: i64,
    requests: Vec<SelectRequest>,
    readers: Vec<u32>,
    given: Vec<Span>,
    /// The query, as far as its parts may be shared.
    text: &'q str,
    /// Its parts that stand in it more than once.
    repeated: HashSet<&'q str>,
    shared: Vec<SharedNode>,
    /// The shared nodes by their texts and what stands above them.
    known: HashMap<(&'q str, Above), usize>,
}

/// A planned node, whether it is the same at every step, and whether that is worth wrapping it.
type Invariance = (Node, bool, bool);

/// `query` is the text that `expr` stands in; where it is empty, no part of it is shared.
#[allow(clippy::too_many_arguments)]
pub(crate) fn plan(
    query: &str,
    expr: &Expr,
    steps: Steps,
    end: i64,
    instant: bool,
    lookback: i64,
    default_step: i64,
    given: &[Span],
) -> Result<Planned, QueryError> {
    let interval = if instant { 0 } else { steps.interval };
    let (requests, readers) = (Vec::new(), Vec::new());
    let (start, given) = (steps.start, given.to_vec());
    let repeated = repeated(query, expr);
    let text = if repeated.is_empty() { "" } else { query };
    let (shared, known) = (Vec::new(), HashMap::new());
    let mut planner = Planner {
        start,
        end,
        interval,
        lookback,
        default_step,
        requests,
        readers,
        given,
        text,
        repeated,
        shared,
        known,
    };
    let (root, _, wrap) = planner.node(expr, &Above::default())?;
    let root = if wrap { invariant(root) } else { root };
    Ok(Planned { root, requests: planner.requests, readers: planner.readers, shared: planner.shared })
}

/// The texts of parts that are worth being evaluated once and stand in a query more than once.
fn repeated<'q>(query: &'q str, expr: &Expr) -> HashSet<&'q str> {
    fn gather<'q>(query: &'q str, expr: &Expr, once: &mut HashSet<&'q str>, more: &mut HashSet<&'q str>) -> bool {
        let worth = match expr {
            // It looks through its argument, at the selectors in it.
            Expr::Call(call) if call.function.name == "info" => return false,
            // It evaluates its argument more than once.
            Expr::Call(call) if call.function.name == "histogram_quantiles" => return false,
            Expr::Call(call) => call.args.iter().any(|arg| arg.value_type() == ValueType::Matrix),
            other => matches!(other, Expr::Aggregate(_)),
        };
        let span = expr.span();
        if worth
            && let Some(text) = query.get(span.start..span.end)
            && !once.insert(text)
        {
            more.insert(text);
        }
        expr.children().into_iter().all(|child| gather(query, child, once, more))
    }
    let (mut once, mut more) = (HashSet::new(), HashSet::new());
    if gather(query, expr, &mut once, &mut more) { more } else { HashSet::new() }
}

fn invariant(node: Node) -> Node {
    // A number is cheaper to repeat than to wrap.
    if matches!(node.kind, Kind::Number(_)) {
        return node;
    }
    let (span, value_type) = (node.span, node.value_type);
    Node { kind: Kind::Invariant(Box::new(node)), span, value_type }
}

fn wrap_if((node, _, wrap): Invariance) -> Node {
    if wrap { invariant(node) } else { node }
}

impl Planner<'_> {
    fn node(&mut self, expr: &Expr, above: &Above) -> Result<Invariance, QueryError> {
        let span = expr.span();
        let text = self.text.get(span.start..span.end).filter(|text| self.repeated.contains(text));
        let may_be_shared = matches!(expr, Expr::Aggregate(_) | Expr::Call(_)) && !self.given.contains(&span);
        let Some(text) = text.filter(|_| may_be_shared) else {
            return self.own_node(expr, above);
        };
        // What functions and aggregations tell storage of themselves replaces what stands above them.
        let above = Above { func: String::new(), grouping: Vec::new(), by: false, ..above.clone() };
        let number = match self.known.get(&(text, above.clone())) {
            Some(number) => *number,
            None => {
                let (node, same, wrap) = self.own_node(expr, &above)?;
                if same {
                    // Evaluated once, wherever it stands: that is at one step here and at all of them there.
                    return Ok((node, same, wrap));
                }
                self.shared.push(SharedNode { node, uses: 0 });
                self.known.insert((text, above), self.shared.len() - 1);
                self.shared.len() - 1
            }
        };
        self.shared[number].uses += 1;
        Ok((Node { kind: Kind::Shared(number), span, value_type: expr.value_type() }, false, false))
    }

    fn own_node(&mut self, expr: &Expr, above: &Above) -> Result<Invariance, QueryError> {
        let (span, value_type) = (expr.span(), expr.value_type());
        let make = |kind| Node { kind, span, value_type };
        Ok(match expr {
            Expr::Number(number) => (make(Kind::Number(number.value)), true, true),
            Expr::String(text) => (make(Kind::Text(text.value.clone())), true, false),
            Expr::Paren(paren) => self.node(&paren.expr, above)?,
            Expr::Unary(unary) => {
                let (node, same, wrap) = self.node(&unary.expr, above)?;
                match node.kind {
                    _ if unary.negative => (make(Kind::Negate(Box::new(node))), same, wrap),
                    // To functions that look at the selector itself this is no selector.
                    Kind::Vector(_) => (make(Kind::Plus(Box::new(node))), same, wrap),
                    _ => (node, same, wrap),
                }
            }
            Expr::Vector(selector) => {
                let selector = self.selector(selector, 0, above)?;
                let fixed = selector.at.is_some();
                (make(Kind::Vector(selector)), fixed, fixed)
            }
            Expr::Matrix(matrix) => {
                let (selector, range) = self.matrix(matrix, above)?;
                let fixed = selector.at.is_some();
                (make(Kind::Range(selector, range)), fixed, false)
            }
            Expr::Subquery(subquery) => {
                let node = self.subquery(subquery, above)?;
                let fixed = node.at.is_some();
                (make(Kind::Subquery(Box::new(node))), fixed, false)
            }
            Expr::Binary(binary) => {
                let trims = matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
                let buckets = above.buckets || trims;
                let above = Above { func: String::new(), grouping: Vec::new(), by: false, buckets, ..above.clone() };
                let lhs = self.node(&binary.lhs, &above)?;
                let rhs = self.node(&binary.rhs, &above)?;
                let same = lhs.1 && rhs.1;
                let (lhs, rhs) = if same { (lhs.0, rhs.0) } else { (wrap_if(lhs), wrap_if(rhs)) };
                let (op, return_bool, matching) = (binary.op, binary.return_bool, binary.matching.clone());
                (make(Kind::Binary(Box::new(BinaryNode { op, lhs, rhs, return_bool, matching }))), same, same)
            }
            Expr::Aggregate(aggregate) if self.given.contains(&aggregate.span) => {
                let number = self.given.iter().position(|given| *given == aggregate.span).unwrap_or_default();
                (make(Kind::Given(number)), false, false)
            }
            Expr::Aggregate(aggregate) => {
                let above = Above {
                    func: aggregate.op.as_str().to_owned(),
                    grouping: aggregate.grouping.clone(),
                    by: !aggregate.without,
                    ..above.clone()
                };
                let (expr, same, wrap) = self.node(&aggregate.expr, &above)?;
                let param = match &aggregate.param {
                    Some(param) => Some(self.node(param, &above)?.0),
                    None => None,
                };
                let (op, without) = (aggregate.op, aggregate.without);
                let grouping = aggregate.grouping.clone();
                (
                    make(Kind::Aggregate(Box::new(AggregateNode { op, expr, param, grouping, without, span }))),
                    same,
                    wrap,
                )
            }
            Expr::Call(call) if call.function.name == "info" => self.info(expr, &call.args, above)?,
            Expr::Call(call) => match self.query_context(call.function.name) {
                Some(value) => (make(Kind::Number(value)), true, true),
                None => self.call(expr, call.function, &call.args, above)?,
            },
        })
    }

    /// The value of `start()`, `end()`, `range()` or `step()`.
    fn query_context(&self, name: &str) -> Option<f64> {
        Some(match name {
            "start" => self.start as f64 / 1000.0,
            "end" => self.end as f64 / 1000.0,
            "range" => self.end.saturating_sub(self.start) as f64 / 1000.0,
            "step" if self.start == self.end => 0.0,
            "step" => self.interval as f64 / 1000.0,
            _ => return None,
        })
    }

    fn call(
        &mut self,
        expr: &Expr,
        function: &'static Function,
        args: &[Expr],
        above: &Above,
    ) -> Result<Invariance, QueryError> {
        let stats = matches!(function.name, "histogram_count" | "histogram_sum" | "histogram_avg");
        let buckets = matches!(function.name, "histogram_quantile" | "histogram_quantiles" | "histogram_fraction");
        let above = Above {
            func: function.name.to_owned(),
            grouping: Vec::new(),
            by: false,
            stats: above.stats || stats,
            buckets: above.buckets || buckets,
            ..above.clone()
        };
        let readers_before = self.readers.clone();
        let planned = args.iter().map(|arg| self.node(arg, &above)).collect::<Result<Vec<_>, _>>()?;
        if function.name == "histogram_quantiles" {
            // It reads its vector once for each quantile.
            for (at, readers) in self.readers.iter_mut().enumerate() {
                *readers += u32::from(readers_before.get(at).is_none_or(|before| before < readers));
            }
        }
        let all_same = planned.iter().all(|(_, same, _)| *same);
        // `timestamp` depends on the step unless it looks at a selector that is fixed.
        let fixed_timestamp = function.name == "timestamp"
            && planned.iter().all(|(node, same, _)| *same && matches!(node.kind, Kind::Vector(_)));
        let same = all_same && (!depends_on_step(function.name) || fixed_timestamp);
        let args = if same {
            planned.into_iter().map(|(node, ..)| node).collect()
        } else {
            planned.into_iter().map(wrap_if).collect()
        };
        let node = Node { kind: Kind::Call(function, args), span: expr.span(), value_type: function.returns };
        Ok((node, same, same))
    }

    fn info(&mut self, expr: &Expr, args: &[Expr], above: &Above) -> Result<Invariance, QueryError> {
        let above = Above { func: "info".to_owned(), grouping: Vec::new(), by: false, ..above.clone() };
        let (arg, same, wrap) = self.node(&args[0], &above)?;
        let matchers = match args.get(1).map(Expr::unparenthesised) {
            Some(Expr::Vector(selector)) => Some(selector.matchers.clone()),
            _ => None,
        };
        let same = same && matchers.is_none();
        let (at, offset) = reference_of(&arg).unwrap_or((None, 0));
        let arg = if wrap && !same { invariant(arg) } else { arg };
        let node = InfoNode { arg, matchers, at, offset };
        let node = Node { kind: Kind::Info(Box::new(node)), span: expr.span(), value_type: ValueType::Vector };
        Ok((node, same, same))
    }

    fn at(&self, at: Option<At>) -> Option<i64> {
        at.map(|at| match at {
            At::Timestamp(ms) => ms,
            At::Start => self.start,
            At::End => self.end,
        })
    }

    fn matrix(&mut self, matrix: &MatrixSelector, above: &Above) -> Result<(Selector, i64), QueryError> {
        let range = self.duration(matrix.range_ms, matrix.range_expr.as_ref(), false)?;
        Ok((self.selector(&matrix.selector, range, above)?, range))
    }

    fn subquery(&mut self, subquery: &Subquery, above: &Above) -> Result<SubqueryNode, QueryError> {
        let offset = self.duration(subquery.offset_ms, subquery.offset_expr.as_ref(), true)?;
        let step = self.duration(subquery.step_ms, subquery.step_expr.as_ref(), false)?;
        let range = self.duration(subquery.range_ms, subquery.range_expr.as_ref(), false)?;
        let step = if step == 0 { self.default_step } else { step };
        let at = self.at(subquery.at);
        let mut inner = above.clone();
        inner.interval = step;
        inner.subqueries.push((range, step, offset, at));
        inner.buckets = true;
        if at.is_some() {
            // The modifier makes whatever stands further out irrelevant.
            (inner.subquery_offset, inner.subquery_range, inner.subquery_at) = (offset, range, at);
        } else {
            inner.subquery_offset = inner.subquery_offset.saturating_add(offset);
            inner.subquery_range = inner.subquery_range.saturating_add(range);
        }
        let (expr, same, _) = self.node(&subquery.expr, &inner)?;
        let expr = if same { invariant(expr) } else { expr };
        Ok(SubqueryNode { expr, range, step, offset, at })
    }

    fn selector(&mut self, selector: &VectorSelector, range: i64, above: &Above) -> Result<Selector, QueryError> {
        let offset = self.duration(selector.offset_ms, selector.offset_expr.as_ref(), true)?;
        let at = self.at(selector.at);
        let (mut start, mut end) = match above.subquery_at {
            Some(at) => (at, at),
            None => (self.start, self.end),
        };
        if let Some(at) = at {
            (start, end) = (at, at);
        } else {
            start = start.saturating_sub(above.subquery_offset).saturating_sub(above.subquery_range);
            end = end.saturating_sub(above.subquery_offset);
        }
        // Looked at from one instant only, a series is its newest sample.
        let newest_only = range == 0 && start == end && !selector.smoothed;
        // Left-open: one millisecond less than the whole lookback or range.
        start = start.saturating_sub(range.max(if range == 0 { self.lookback } else { 0 }) - 1);
        if range > 0 && (selector.anchored || selector.smoothed) {
            start = start.saturating_sub(self.lookback);
        }
        if selector.smoothed {
            end = end.saturating_add(self.lookback);
        }
        let request = SelectRequest {
            matchers: selector.matchers.clone(),
            start: Timestamp(start.saturating_sub(offset)),
            end: Timestamp(end.saturating_sub(offset)),
            hints: SelectHints {
                step_ms: if above.interval > 0 { above.interval } else { self.interval },
                range_ms: range,
                func: above.func.clone(),
                grouping: above.grouping.clone(),
                by: above.by,
                limit: 0,
                newest_only,
                shards: None,
            },
        };
        let known = self.requests.iter().position(|known| *known == request);
        let request = known.unwrap_or_else(|| {
            self.requests.push(request);
            self.readers.push(0);
            self.requests.len() - 1
        });
        self.readers[request] += 1;
        let (anchored, smoothed, matchers) = (selector.anchored, selector.smoothed, selector.matchers.clone());
        let stats_only = above.stats && !above.buckets;
        Ok(Selector { request, offset, at, anchored, smoothed, matchers, stats_only })
    }

    /// A duration as milliseconds.
    fn duration(&self, ms: i64, expr: Option<&DurationExpr>, negative: bool) -> Result<i64, QueryError> {
        let Some(expr) = expr else { return Ok(ms) };
        let failed = |why: &str| QueryError::BadData(format!("{}:{}: {why}", expr.span.start, expr.span.end));
        let seconds = self.evaluate(expr)?;
        if !seconds.is_finite() {
            return Err(failed("duration is NaN or infinite"));
        }
        if seconds <= 0.0 && !negative {
            return Err(failed("duration must be greater than 0"));
        }
        if seconds.abs() > (1u64 << 63) as f64 / 1e9 {
            return Err(failed("duration is out of range"));
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn evaluate(&self, expr: &DurationExpr) -> Result<f64, QueryError> {
        let operand = |node: &Option<DurationNode>| match node {
            None => Ok(0.0),
            Some(DurationNode::Number(number)) => Ok(number.value),
            Some(DurationNode::Expr(expr)) => self.evaluate(expr),
        };
        let (lhs, rhs) = (operand(&expr.lhs)?, operand(&expr.rhs)?);
        let by_zero =
            |what: &str| QueryError::BadData(format!("{}:{}: {what} by zero", expr.span.start, expr.span.end));
        Ok(match expr.op {
            DurationOp::Step => self.interval as f64 / 1000.0,
            DurationOp::Range => self.end.saturating_sub(self.start) as f64 / 1000.0,
            DurationOp::MinOf => lhs.min(rhs),
            DurationOp::MaxOf => lhs.max(rhs),
            DurationOp::Add => lhs + rhs,
            DurationOp::Sub => lhs - rhs,
            DurationOp::Mul => lhs * rhs,
            DurationOp::Div if rhs == 0.0 => return Err(by_zero("division")),
            DurationOp::Div => lhs / rhs,
            DurationOp::Mod if rhs == 0.0 => return Err(by_zero("modulo")),
            DurationOp::Mod => lhs % rhs,
            DurationOp::Pow => lhs.powf(rhs),
        })
    }
}

/// Functions that look at the clock of the query, or at the timestamps of their argument.
fn depends_on_step(name: &str) -> bool {
    matches!(
        name,
        "days_in_month"
            | "day_of_month"
            | "day_of_week"
            | "day_of_year"
            | "hour"
            | "minute"
            | "month"
            | "year"
            | "predict_linear"
            | "time"
            | "timestamp"
    )
}

/// When the first selector below is looked up: the instant if it is fixed, and the offsets up to where it is.
fn reference_of(node: &Node) -> Option<(Option<i64>, i64)> {
    match &node.kind {
        Kind::Vector(selector) | Kind::Range(selector, _) => Some((selector.at, selector.offset)),
        Kind::Subquery(subquery) => reference_of(&subquery.expr).map(|(at, offset)| match at {
            Some(_) => (at, offset),
            None => (subquery.at, offset.saturating_add(subquery.offset)),
        }),
        Kind::Call(_, args) => args.iter().find_map(reference_of),
        Kind::Aggregate(node) => reference_of(&node.expr).or_else(|| node.param.as_ref().and_then(reference_of)),
        Kind::Binary(node) => reference_of(&node.lhs).or_else(|| reference_of(&node.rhs)),
        Kind::Negate(node) | Kind::Plus(node) | Kind::Invariant(node) => reference_of(node),
        Kind::Info(info) => reference_of(&info.arg),
        // No part of a query with `info` is shared.
        Kind::Number(_) | Kind::Text(_) | Kind::Given(_) | Kind::Shared(_) => None,
    }
}
