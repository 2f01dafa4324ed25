//! What may follow an operand: ranges, subqueries, `offset`, `@`, `anchored`, `smoothed`, and the durations in them.

use super::ast::{
    At, BinaryOp, DurationExpr, DurationNode, DurationOp, Expr, MatrixSelector, NumberLiteral, Span, Subquery,
    VectorSelector,
};
use super::grammar::{Parsed, Parser, Stop, is_preprocessor};
use super::token::{Kind, Preprocessor};
use super::{DEPTH_MAX, literals};

/// A duration did not parse; whoever wanted it says what was expected there.
struct NoDuration;

/// Seconds to whole milliseconds, by way of whole nanoseconds as upstream rounds.
pub(crate) fn seconds_to_ms(seconds: f64) -> i64 {
    (seconds * 1e9).round() as i64 / 1_000_000
}

/// Whether so many seconds do not fit Go's durations of 2^63 nanoseconds.
fn out_of_range(seconds: f64) -> bool {
    seconds.abs() > (1u64 << 63) as f64 / 1e9
}

/// A parsed duration as selectors keep it: milliseconds, or an expression.
fn split(node: DurationNode) -> (i64, Option<DurationExpr>) {
    match node {
        DurationNode::Number(number) => (seconds_to_ms(number.value), None),
        DurationNode::Expr(expr) => (0, Some(*expr)),
    }
}

impl DurationNode {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            DurationNode::Number(number) => number.span,
            DurationNode::Expr(expr) => expr.span,
        }
    }
}

const ANY_DURATION: &str = "number, duration, step(), or range()";

impl Parser<'_> {
    /// `expr[range]` or `expr[range:step]`.
    pub fn brackets(&mut self, expr: Expr) -> Parsed<Expr> {
        let open = self.advance();
        let range =
            self.positive_duration().map_err(|_| self.unexpected("subquery or range selector", ANY_DURATION))?;
        let (range_ms, range_expr) = split(range);
        if let Some(close) = self.take(Kind::RightBracket) {
            let span = Span::new(expr.span().start, close.span.end);
            let selector = self.selector_before_range(expr, Span::new(open.span.start, close.span.end));
            return Ok(Expr::Matrix(MatrixSelector { selector, range_ms, range_expr, span }));
        }
        self.expect(Kind::Colon, "subquery or range", "\":\" or \"]\"")?;
        let (mut step_ms, mut step_expr) = (0, None);
        if self.kind() != Kind::RightBracket {
            const EXPECTED: &str = "number, duration, step(), range(), or \"]\"";
            let step = self.positive_duration().map_err(|_| self.unexpected("subquery selector", EXPECTED))?;
            (step_ms, step_expr) = split(step);
        }
        let close = self.expect(Kind::RightBracket, "subquery selector", "\"]\"")?;
        Ok(Expr::Subquery(Subquery {
            span: Span::new(expr.span().start, close.span.end),
            expr: Box::new(expr),
            range_ms,
            range_expr,
            step_ms,
            step_expr,
            offset_ms: 0,
            offset_expr: None,
            at: None,
        }))
    }

    fn selector_before_range(&mut self, expr: Expr, brackets: Span) -> VectorSelector {
        let Expr::Vector(selector) = expr else {
            self.error(brackets, "ranges only allowed for vector selectors");
            return VectorSelector {
                name: String::new(),
                matchers: Vec::new(),
                offset_ms: 0,
                offset_expr: None,
                at: None,
                anchored: false,
                smoothed: false,
                may_match_all: false,
                span: expr.span(),
            };
        };
        if selector.offset_ms != 0 || selector.offset_expr.is_some() {
            self.error(brackets, "no offset modifiers allowed before range");
        } else if selector.at.is_some() {
            self.error(brackets, "no @ modifiers allowed before range");
        }
        selector
    }

    /// `expr offset …`.
    pub fn offset(&mut self, mut expr: Expr) -> Parsed<Expr> {
        self.advance();
        let node = self.offset_duration().map_err(|_| self.unexpected("offset", ANY_DURATION))?;
        let end = self.last_end();
        let before = expr.span();
        let (offset_ms, offset_expr, span) = match &mut expr {
            Expr::Vector(s) => (&mut s.offset_ms, &mut s.offset_expr, &mut s.span),
            Expr::Matrix(s) => (&mut s.selector.offset_ms, &mut s.selector.offset_expr, &mut s.span),
            Expr::Subquery(s) => (&mut s.offset_ms, &mut s.offset_expr, &mut s.span),
            _ => {
                const MESSAGE: &str = "offset modifier must be preceded by an instant vector selector or range \
                                       vector selector or a subquery";
                self.error(before, MESSAGE);
                return Ok(expr);
            }
        };
        let twice = *offset_ms != 0 || offset_expr.is_some();
        if !twice {
            (*offset_ms, *offset_expr) = split(node);
        }
        span.end = end;
        if twice {
            self.error(before, "offset may not be set multiple times");
        }
        Ok(expr)
    }

    /// `expr @ …`.
    pub fn at_modifier(&mut self, mut expr: Expr) -> Parsed<Expr> {
        self.advance();
        let before = expr.span();
        let at = match self.kind() {
            Kind::Preprocessor(word @ (Preprocessor::Start | Preprocessor::End)) => {
                self.advance();
                self.expect(Kind::LeftParen, "@", "timestamp")?;
                self.expect(Kind::RightParen, "@", "timestamp")?;
                if word == Preprocessor::Start { At::Start } else { At::End }
            }
            _ => At::Timestamp(self.at_timestamp(before)?),
        };
        let end = self.last_end();
        let (slot, span) = match &mut expr {
            Expr::Vector(s) => (&mut s.at, &mut s.span),
            Expr::Matrix(s) => (&mut s.selector.at, &mut s.span),
            Expr::Subquery(s) => (&mut s.at, &mut s.span),
            _ => {
                const MESSAGE: &str = "@ modifier must be preceded by an instant vector selector or range vector \
                                       selector or a subquery";
                self.error(before, MESSAGE);
                return Ok(expr);
            }
        };
        if slot.is_some() {
            self.error(before, "@ <timestamp> may not be set multiple times");
        } else {
            *slot = Some(at);
            span.end = end;
        }
        Ok(expr)
    }

    fn at_timestamp(&mut self, before: Span) -> Parsed<i64> {
        let sign = self.sign();
        if !matches!(self.kind(), Kind::Number | Kind::Duration) {
            return Err(self.unexpected("@", "timestamp"));
        }
        let seconds = sign * self.number_literal()?.value;
        if !seconds.is_finite() || seconds >= i64::MAX as f64 || seconds <= i64::MIN as f64 {
            let printed = if seconds.is_infinite() {
                (if seconds > 0.0 { "+Inf" } else { "-Inf" }).to_owned()
            } else {
                format!("{seconds:.6}")
            };
            self.error(before, format!("timestamp out of bounds for @ modifier: {printed}"));
        }
        Ok((seconds * 1000.0).round() as i64)
    }

    /// `expr anchored` or `expr smoothed`.
    pub fn extended(&mut self, mut expr: Expr, smooth: bool) -> Expr {
        self.advance();
        let word = if smooth { "smoothed" } else { "anchored" };
        let before = expr.span();
        if !self.options.extended_range_selectors {
            self.error(before, format!("{word} modifier is experimental and not enabled"));
            return expr;
        }
        let selector = match &mut expr {
            Expr::Vector(selector) => selector,
            Expr::Matrix(matrix) => &mut matrix.selector,
            other => {
                let why = if matches!(other, Expr::Subquery(_)) { "supported for subqueries" } else { "implemented" };
                let not = if matches!(other, Expr::Subquery(_)) { "is not" } else { "not" };
                self.error(before, format!("{word} modifier {not} {why}"));
                return expr;
            }
        };
        let set = if smooth { &mut selector.smoothed } else { &mut selector.anchored };
        *set = true;
        if selector.smoothed && selector.anchored {
            self.error(before, "anchored and smoothed modifiers cannot be used together");
        }
        expr
    }

    fn last_end(&self) -> usize {
        self.previous().span.end
    }

    // Durations.

    fn positive_duration(&mut self) -> Result<DurationNode, NoDuration> {
        let node = self.duration_expr(0, 0)?;
        if let DurationNode::Number(number) = &node
            && number.value <= 0.0
        {
            self.error(number.span, "duration must be greater than 0");
        }
        Ok(node)
    }

    /// What may stand after `offset`: less than elsewhere, so that `foo offset -2^2` is `(foo offset -2)^2`.
    fn offset_duration(&mut self) -> Result<DurationNode, NoDuration> {
        let Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) = self.kind() else {
            return match self.kind() {
                Kind::LeftParen => self.duration_expr(0, 0),
                _ => self.duration_primary(0),
            };
        };
        let sign = self.advance();
        let operand = match self.kind() {
            Kind::Number | Kind::Duration => self.duration_primary(0)?,
            kind if is_preprocessor(kind, self.kind_after()).is_some() => {
                let node = self.duration_primary(0)?;
                let rhs_end = node.span().end;
                let span = Span::new(sign.span.start, rhs_end);
                let op = if op == BinaryOp::Sub { DurationOp::Sub } else { DurationOp::Add };
                return Ok(DurationNode::Expr(Box::new(DurationExpr {
                    op,
                    lhs: None,
                    rhs: Some(node),
                    wrapped: false,
                    span,
                })));
            }
            Kind::LeftParen => self.duration_primary(0)?,
            _ => {
                let operand = self.duration_expr(DURATION_POWER, 0)?;
                let signed = self.signed_duration(op, sign.span, operand);
                return self.duration_operators(signed, 0, 0);
            }
        };
        Ok(self.signed_duration(op, sign.span, operand))
    }

    fn signed_duration(&mut self, op: BinaryOp, sign: Span, operand: DurationNode) -> DurationNode {
        let negative = op == BinaryOp::Sub;
        match operand {
            DurationNode::Number(mut number) => {
                if negative {
                    number.value = -number.value;
                }
                if out_of_range(number.value) {
                    self.error(sign, "duration out of range");
                    number.value = 0.0;
                }
                number.span.start = sign.start;
                DurationNode::Number(number)
            }
            DurationNode::Expr(expr) if negative => {
                let span = Span::new(sign.start, expr.span.end);
                let rhs = Some(DurationNode::Expr(expr));
                DurationNode::Expr(Box::new(DurationExpr { op: DurationOp::Sub, lhs: None, rhs, wrapped: false, span }))
            }
            plain => plain,
        }
    }

    fn duration_expr(&mut self, floor: u8, depth: usize) -> Result<DurationNode, NoDuration> {
        if depth >= DEPTH_MAX {
            return Err(NoDuration);
        }
        let left = match self.kind() {
            Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                let sign = self.advance();
                let operand = self.duration_expr(DURATION_POWER, depth + 1)?;
                self.signed_duration(op, sign.span, operand)
            }
            _ => self.duration_primary(depth)?,
        };
        self.duration_operators(left, floor, depth)
    }

    fn duration_operators(
        &mut self,
        mut left: DurationNode,
        floor: u8,
        depth: usize,
    ) -> Result<DurationNode, NoDuration> {
        let mut links = depth;
        while let Some((op, precedence)) = duration_operator(self.kind()) {
            if precedence < floor {
                break;
            }
            links += 1;
            if links >= DEPTH_MAX {
                return Err(NoDuration);
            }
            let sign = self.advance();
            let right_floor = if op == DurationOp::Pow { precedence } else { precedence + 1 };
            let right = self.duration_expr(right_floor, links)?;
            self.require_duration_exprs(left.span());
            let zero = matches!(&right, DurationNode::Number(number) if number.value == 0.0);
            let span = Span::new(left.span().start, right.span().end);
            left = match op {
                DurationOp::Div | DurationOp::Mod if zero => {
                    let what = if op == DurationOp::Div { "division by zero" } else { "modulo by zero" };
                    self.error(sign.span, what);
                    DurationNode::Number(NumberLiteral { value: 0.0, duration: false, span: Span::default() })
                }
                _ => DurationNode::Expr(Box::new(DurationExpr {
                    op,
                    lhs: Some(left),
                    rhs: Some(right),
                    wrapped: false,
                    span,
                })),
            };
        }
        Ok(left)
    }

    fn require_duration_exprs(&mut self, span: Span) {
        if !self.options.duration_expressions {
            self.error(span, "experimental duration expression is not enabled");
        }
    }

    fn duration_primary(&mut self, depth: usize) -> Result<DurationNode, NoDuration> {
        let start = self.token().span.start;
        match self.kind() {
            Kind::Number | Kind::Duration => {
                let mut number = self.number_literal().map_err(|Stop| NoDuration)?;
                if out_of_range(number.value) {
                    self.error(number.span, "duration out of range");
                    number.value = 0.0;
                }
                Ok(DurationNode::Number(number))
            }
            Kind::LeftParen => {
                self.advance();
                let inner = self.duration_expr(0, depth + 1)?;
                let end = self.take(Kind::RightParen).ok_or(NoDuration)?.span.end;
                self.require_duration_exprs(inner.span());
                Ok(wrapped(inner, Span::new(start, end)))
            }
            Kind::Preprocessor(word) => self.duration_call(word, start, depth),
            _ => Err(NoDuration),
        }
    }

    fn duration_call(&mut self, word: Preprocessor, start: usize, depth: usize) -> Result<DurationNode, NoDuration> {
        let op = match word {
            Preprocessor::Step => DurationOp::Step,
            Preprocessor::Range => DurationOp::Range,
            Preprocessor::MaxOf => DurationOp::MaxOf,
            Preprocessor::MinOf => DurationOp::MinOf,
            Preprocessor::Start | Preprocessor::End => return Err(NoDuration),
        };
        self.advance();
        self.take(Kind::LeftParen).ok_or(NoDuration)?;
        let (mut lhs, mut rhs) = (None, None);
        if matches!(op, DurationOp::MaxOf | DurationOp::MinOf) {
            lhs = Some(self.duration_expr(0, depth + 1)?);
            self.take(Kind::Comma).ok_or(NoDuration)?;
            rhs = Some(self.duration_expr(0, depth + 1)?);
        }
        let end = self.take(Kind::RightParen).ok_or(NoDuration)?.span.end;
        let span = Span::new(start, end);
        self.require_duration_exprs(span);
        Ok(DurationNode::Expr(Box::new(DurationExpr { op, lhs, rhs, wrapped: false, span })))
    }
}

const DURATION_POWER: u8 = 3;

fn duration_operator(kind: Kind) -> Option<(DurationOp, u8)> {
    let Kind::Operator(op) = kind else { return None };
    Some(match op {
        BinaryOp::Add => (DurationOp::Add, 1),
        BinaryOp::Sub => (DurationOp::Sub, 1),
        BinaryOp::Mul => (DurationOp::Mul, 2),
        BinaryOp::Div => (DurationOp::Div, 2),
        BinaryOp::Mod => (DurationOp::Mod, 2),
        BinaryOp::Pow => (DurationOp::Pow, DURATION_POWER),
        _ => return None,
    })
}

/// Marks a duration as parenthesised, so that it prints so. A bare number becomes a unary plus to carry the mark.
fn wrapped(node: DurationNode, span: Span) -> DurationNode {
    match node {
        DurationNode::Expr(mut expr) => {
            expr.wrapped = true;
            DurationNode::Expr(expr)
        }
        number => DurationNode::Expr(Box::new(DurationExpr {
            op: DurationOp::Add,
            lhs: None,
            rhs: Some(number),
            wrapped: true,
            span,
        })),
    }
}

/// Reads a plain decimal number out of a series description.
pub(crate) fn repetition(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        let quoted = promesh_model::labels::quoted(text);
        let why = if literals::number(text).is_ok_and(|n| n >= 0.0 && n.fract() == 0.0) {
            "value out of range"
        } else {
            "invalid syntax"
        };
        format!("invalid repetition in series values: strconv.ParseUint: parsing {quoted}: {why}")
    })
}
