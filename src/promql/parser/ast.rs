//! The tree of an expression. Every node knows where in the text it stands.

use std::fmt;

use promesh_model::Matcher;

use super::functions::Function;

/// Bytes `start..end` of the query's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// `start..end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// `line:column` of the start, both counted from 1, columns in bytes, as upstream prints positions.
    pub fn position(self, query: &str) -> String {
        if query.is_empty() {
            return "unknown position".to_owned();
        }
        let Some(before) = query.as_bytes().get(..self.start) else { return "invalid position".to_owned() };
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        format!("{line}:{column}")
    }
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One sample a series, all at one instant.
    Vector,
    /// A number without labels.
    Scalar,
    /// Samples of series over a range.
    Matrix,
    /// A text.
    String,
}

impl ValueType {
    /// As the API names it: `vector`, `scalar`, `matrix`, `string`.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Vector => "vector",
            ValueType::Scalar => "scalar",
            ValueType::Matrix => "matrix",
            ValueType::String => "string",
        }
    }

    /// As the documentation names it.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
            other => other.as_str(),
        }
    }
}

/// A binary operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    /// `</`: drop observations above.
    TrimUpper,
    /// `>/`: drop observations below.
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    /// As PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Greater => ">",
            BinaryOp::Less => "<",
            BinaryOp::GreaterEqual => ">=",
            BinaryOp::LessEqual => "<=",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
        }
    }

    /// `== != > < >= <=`.
    pub fn is_comparison(self) -> bool {
        use BinaryOp::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
        matches!(self, Equal | NotEqual | Greater | Less | GreaterEqual | LessEqual)
    }

    /// `and or unless`.
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }

    /// How tightly it binds; all but `^` associate to the left.
    pub(crate) fn precedence(self) -> u8 {
        match self {
            BinaryOp::Or => 1,
            BinaryOp::And | BinaryOp::Unless => 2,
            BinaryOp::TrimUpper | BinaryOp::TrimLower => 3,
            op if op.is_comparison() => 3,
            BinaryOp::Add | BinaryOp::Sub => 4,
            BinaryOp::Pow => 6,
            _ => 5,
        }
    }
}

impl fmt::Display for BinaryOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An aggregation operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AggregateOp {
    Avg,
    Bottomk,
    Count,
    CountValues,
    Group,
    Max,
    Min,
    Quantile,
    Stddev,
    Stdvar,
    Sum,
    Topk,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    /// All of them.
    pub const ALL: [AggregateOp; 14] = [
        AggregateOp::Avg,
        AggregateOp::Bottomk,
        AggregateOp::Count,
        AggregateOp::CountValues,
        AggregateOp::Group,
        AggregateOp::Max,
        AggregateOp::Min,
        AggregateOp::Quantile,
        AggregateOp::Stddev,
        AggregateOp::Stdvar,
        AggregateOp::Sum,
        AggregateOp::Topk,
        AggregateOp::Limitk,
        AggregateOp::LimitRatio,
    ];

    /// As PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Avg => "avg",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::Count => "count",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Group => "group",
            AggregateOp::Max => "max",
            AggregateOp::Min => "min",
            AggregateOp::Quantile => "quantile",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Sum => "sum",
            AggregateOp::Topk => "topk",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
        }
    }

    /// Whether it takes a parameter before the vector.
    pub fn has_param(self) -> bool {
        self.has_scalar_param() || self == AggregateOp::CountValues
    }

    /// Whether its parameter is a number.
    pub fn has_scalar_param(self) -> bool {
        use AggregateOp::{Bottomk, LimitRatio, Limitk, Quantile, Topk};
        matches!(self, Topk | Bottomk | Quantile | Limitk | LimitRatio)
    }

    /// Whether it needs the experimental functions switched on.
    pub fn is_experimental(self) -> bool {
        matches!(self, AggregateOp::Limitk | AggregateOp::LimitRatio)
    }

    /// Whether it picks input series instead of making one series a group.
    pub fn keeps_series(self) -> bool {
        use AggregateOp::{Bottomk, LimitRatio, Limitk, Topk};
        matches!(self, Topk | Bottomk | Limitk | LimitRatio)
    }
}

impl fmt::Display for AggregateOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A number, written plainly or as a duration in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberLiteral {
    /// Its value; seconds for a duration.
    pub value: f64,
    /// Whether it was written as a duration.
    pub duration: bool,
    /// Where it stands.
    pub span: Span,
}

/// A text.
#[derive(Clone, Debug, PartialEq)]
pub struct StringLiteral {
    /// The text without quotes.
    pub value: String,
    /// Where it stands.
    pub span: Span,
}

/// The operator of a [`DurationExpr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Step,
    Range,
    MaxOf,
    MinOf,
}

impl DurationOp {
    /// As PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            DurationOp::Add => "+",
            DurationOp::Sub => "-",
            DurationOp::Mul => "*",
            DurationOp::Div => "/",
            DurationOp::Mod => "%",
            DurationOp::Pow => "^",
            DurationOp::Step => "step",
            DurationOp::Range => "range",
            DurationOp::MaxOf => "max_of",
            DurationOp::MinOf => "min_of",
        }
    }
}

/// A part of a duration expression.
#[derive(Clone, Debug, PartialEq)]
pub enum DurationNode {
    /// A number of seconds.
    Number(NumberLiteral),
    /// Something computed.
    Expr(Box<DurationExpr>),
}

/// A duration that is computed when the query's step and range are known.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationExpr {
    /// What is done.
    pub op: DurationOp,
    /// Left operand; absent for `step()`, `range()` and unary operators.
    pub lhs: Option<DurationNode>,
    /// Right operand; absent for `step()` and `range()`.
    pub rhs: Option<DurationNode>,
    /// Whether it stands in parentheses.
    pub wrapped: bool,
    /// Where it stands.
    pub span: Span,
}

/// The `@` modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// An instant, in ms since the epoch.
    Timestamp(i64),
    /// `@ start()`.
    Start,
    /// `@ end()`.
    End,
}

/// A vector selector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// The metric name before the braces; empty if none.
    pub name: String,
    /// All conditions, that on the name last.
    pub matchers: Vec<Matcher>,
    /// The offset as written, in milliseconds.
    pub offset_ms: i64,
    /// The offset when it has to be computed.
    pub offset_expr: Option<DurationExpr>,
    /// The `@` modifier.
    pub at: Option<At>,
    /// `anchored`.
    pub anchored: bool,
    /// `smoothed`.
    pub smoothed: bool,
    /// Whether it may match everything: the second argument of `info`.
    pub may_match_all: bool,
    /// Where it stands.
    pub span: Span,
}

/// A range selector.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    /// The selector before the brackets; it carries the modifiers.
    pub selector: VectorSelector,
    /// Width in milliseconds.
    pub range_ms: i64,
    /// The width when it has to be computed.
    pub range_expr: Option<DurationExpr>,
    /// Where it stands.
    pub span: Span,
}

/// A subquery.
#[derive(Clone, Debug, PartialEq)]
pub struct Subquery {
    /// What is evaluated.
    pub expr: Box<Expr>,
    /// Width in milliseconds.
    pub range_ms: i64,
    /// The width when it has to be computed.
    pub range_expr: Option<DurationExpr>,
    /// Step in milliseconds; 0: the default.
    pub step_ms: i64,
    /// The step when it has to be computed.
    pub step_expr: Option<DurationExpr>,
    /// The offset as written, in milliseconds.
    pub offset_ms: i64,
    /// The offset when it has to be computed.
    pub offset_expr: Option<DurationExpr>,
    /// The `@` modifier.
    pub at: Option<At>,
    /// Where it stands.
    pub span: Span,
}

/// A function call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The function.
    pub function: &'static Function,
    /// Its arguments.
    pub args: Vec<Expr>,
    /// Where it stands.
    pub span: Span,
}

/// An aggregation.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// How.
    pub op: AggregateOp,
    /// What.
    pub expr: Box<Expr>,
    /// The parameter of `topk` and its kin.
    pub param: Option<Box<Expr>>,
    /// Labels of the `by` or `without` clause.
    pub grouping: Vec<String>,
    /// Whether the clause is `without`.
    pub without: bool,
    /// Where it stands.
    pub span: Span,
}

/// How many series of one side match one of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cardinality {
    OneToOne,
    ManyToOne,
    OneToMany,
    ManyToMany,
}

impl Cardinality {
    /// As upstream writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Cardinality::OneToOne => "one-to-one",
            Cardinality::ManyToOne => "many-to-one",
            Cardinality::OneToMany => "one-to-many",
            Cardinality::ManyToMany => "many-to-many",
        }
    }
}

/// How the two vectors of a binary operation are matched.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// How many to how many.
    pub cardinality: Cardinality,
    /// Labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Whether it is `on`.
    pub on: bool,
    /// Labels of `group_left` or `group_right`.
    pub include: Vec<String>,
    /// What stands for a missing left side.
    pub fill_left: Option<f64>,
    /// What stands for a missing right side.
    pub fill_right: Option<f64>,
}

/// A binary operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Box<Expr>,
    /// Right operand.
    pub rhs: Box<Expr>,
    /// Whether a comparison gives 0 or 1 instead of filtering.
    pub return_bool: bool,
    /// Matching; absent unless both sides are vectors.
    pub matching: Option<Matching>,
}

/// `+` or `-` before an expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Unary {
    /// Whether it is `-`.
    pub negative: bool,
    /// The operand.
    pub expr: Box<Expr>,
    /// Where it stands.
    pub span: Span,
}

/// An expression in parentheses.
#[derive(Clone, Debug, PartialEq)]
pub struct Paren {
    /// The expression.
    pub expr: Box<Expr>,
    /// Where it stands.
    pub span: Span,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Expr {
    Aggregate(Aggregate),
    Binary(Binary),
    Call(Call),
    Matrix(MatrixSelector),
    Number(NumberLiteral),
    Paren(Paren),
    String(StringLiteral),
    Subquery(Subquery),
    Unary(Unary),
    Vector(VectorSelector),
}

impl Expr {
    /// What it evaluates to.
    pub fn value_type(&self) -> ValueType {
        match self {
            Expr::Aggregate(_) | Expr::Vector(_) => ValueType::Vector,
            Expr::Matrix(_) | Expr::Subquery(_) => ValueType::Matrix,
            Expr::Number(_) => ValueType::Scalar,
            Expr::String(_) => ValueType::String,
            Expr::Call(call) => call.function.returns,
            Expr::Paren(paren) => paren.expr.value_type(),
            Expr::Unary(unary) => unary.expr.value_type(),
            Expr::Binary(binary) => {
                let scalar = |expr: &Expr| expr.value_type() == ValueType::Scalar;
                if scalar(&binary.lhs) && scalar(&binary.rhs) { ValueType::Scalar } else { ValueType::Vector }
            }
        }
    }

    /// Where it stands in the text.
    pub fn span(&self) -> Span {
        match self {
            Expr::Aggregate(node) => node.span,
            Expr::Binary(node) => Span::new(node.lhs.span().start, node.rhs.span().end),
            Expr::Call(node) => node.span,
            Expr::Matrix(node) => node.span,
            Expr::Number(node) => node.span,
            Expr::Paren(node) => node.span,
            Expr::String(node) => node.span,
            Expr::Subquery(node) => node.span,
            Expr::Unary(node) => node.span,
            Expr::Vector(node) => node.span,
        }
    }

    /// The expression without parentheses around it.
    pub fn unparenthesised(&self) -> &Expr {
        let mut expr = self;
        while let Expr::Paren(paren) = expr {
            expr = &paren.expr;
        }
        expr
    }

    /// The expressions directly below, in upstream's order.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Aggregate(node) => std::iter::once(&*node.expr).chain(node.param.as_deref()).collect(),
            Expr::Binary(node) => vec![&node.lhs, &node.rhs],
            Expr::Call(node) => node.args.iter().collect(),
            Expr::Paren(node) => vec![&node.expr],
            Expr::Subquery(node) => vec![&node.expr],
            Expr::Unary(node) => vec![&node.expr],
            Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) => Vec::new(),
        }
    }

    /// The matchers of every selector, left to right.
    pub fn selectors(&self) -> Vec<&[Matcher]> {
        match self {
            Expr::Vector(selector) => vec![&selector.matchers],
            Expr::Matrix(matrix) => vec![&matrix.selector.matchers],
            other => other.children().into_iter().flat_map(Expr::selectors).collect(),
        }
    }
}
