//! Types and the rules that the grammar cannot express.
//!
//! Source: prometheus `promql/parser/parse.go`, `checkAST`.

use promesh_model::labels::{METRIC_NAME, quoted};

use super::ast::{Aggregate, AggregateOp, Binary, Call, Cardinality, Expr, Span, ValueType, VectorSelector};
use super::functions::Variadic;
use super::grammar::Parser;
use super::lexer::is_space;

impl Parser<'_> {
    /// Checks a tree, notes what is wrong, settles what depends on types. Gives the tree's type.
    pub fn check(&mut self, expr: &mut Expr) -> ValueType {
        let span = expr.span();
        match expr {
            Expr::Aggregate(aggregate) => self.check_aggregate(aggregate),
            Expr::Binary(binary) => self.check_binary(binary, span),
            Expr::Call(call) => self.check_call(call),
            Expr::Paren(paren) => {
                self.check(&mut paren.expr);
            }
            Expr::Unary(unary) => {
                let operand = self.check(&mut unary.expr);
                if !matches!(operand, ValueType::Scalar | ValueType::Vector) {
                    let message = format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got \"{}\"",
                        operand.documented()
                    );
                    self.error(span, message);
                }
            }
            Expr::Subquery(subquery) => {
                let inner = self.check(&mut subquery.expr);
                if inner != ValueType::Vector {
                    let message = format!("subquery is only allowed on instant vector, got {} instead", inner.as_str());
                    self.error(span, message);
                }
            }
            Expr::Matrix(matrix) => self.check_selector(&matrix.selector),
            Expr::Vector(selector) => self.check_selector(selector),
            Expr::Number(_) | Expr::String(_) => {}
        }
        expr.value_type()
    }

    fn expect_type(&mut self, expr: &mut Expr, wanted: ValueType, context: &str) {
        let got = self.check(expr);
        if got != wanted {
            let message = format!("expected type {} in {context}, got {}", wanted.documented(), got.documented());
            self.error(expr.span(), message);
        }
    }

    fn check_aggregate(&mut self, aggregate: &mut Aggregate) {
        self.expect_type(&mut aggregate.expr, ValueType::Vector, "aggregation expression");
        let Some(param) = &mut aggregate.param else { return };
        let wanted = if aggregate.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
        self.expect_type(param, wanted, "aggregation parameter");
    }

    fn check_binary(&mut self, binary: &mut Binary, span: Span) {
        let lhs = self.check(&mut binary.lhs);
        let rhs = self.check(&mut binary.rhs);
        let op = binary.op;
        let op_span = self.operator_span(binary);
        if binary.return_bool && !op.is_comparison() {
            self.error(op_span, "bool modifier can only be used on comparison operators");
        }
        if op.is_comparison() && !binary.return_bool && lhs == ValueType::Scalar && rhs == ValueType::Scalar {
            self.error(op_span, "comparisons between scalars must use BOOL modifier");
        }
        let Some(matching) = &mut binary.matching else { return };
        if op.is_set() && matching.cardinality == Cardinality::OneToOne {
            matching.cardinality = Cardinality::ManyToMany;
        }
        if matching.on
            && let Some(twice) = matching.labels.iter().find(|label| matching.include.contains(label))
        {
            let message = format!("label {} must not occur in ON and GROUP clause at once", quoted(twice));
            self.error(op_span, message);
        }
        for (operand, value_type) in [(&binary.lhs, lhs), (&binary.rhs, rhs)] {
            if !matches!(value_type, ValueType::Scalar | ValueType::Vector) {
                self.error(operand.span(), "binary expression must contain only scalar and instant vector types");
            }
        }
        let vectors = lhs == ValueType::Vector && rhs == ValueType::Vector;
        let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
        if !vectors {
            if !matching.labels.is_empty() {
                self.error(span, "vector matching only allowed between instant vectors");
            }
            if filled {
                self.error(span, "filling in missing series only allowed between instant vectors");
            }
            binary.matching = None;
        } else if op.is_set() {
            if matches!(matching.cardinality, Cardinality::OneToMany | Cardinality::ManyToOne) {
                self.error(span, format!("no grouping allowed for \"{op}\" operation"));
            }
            if matching.cardinality != Cardinality::ManyToMany {
                self.error(span, "set operations must always be many-to-many");
            }
            if filled {
                self.error(span, "filling in missing series not allowed for set operators");
            }
        }
        if (lhs == ValueType::Scalar || rhs == ValueType::Scalar) && op.is_set() {
            self.error(span, format!("set operator \"{op}\" not allowed in binary scalar expression"));
        }
    }

    /// Where the operator and its modifiers stand.
    fn operator_span(&self, binary: &Binary) -> Span {
        let (start, end) = (binary.lhs.span().end, binary.rhs.span().start);
        let Some(between) = self.input.get(start..end) else { return Span::new(start, start) };
        let leading = between.len() - between.trim_start_matches(is_space).len();
        let trailing = between.len() - between.trim_end_matches(is_space).len();
        Span::new(start + leading, end.saturating_sub(trailing))
    }

    fn check_call(&mut self, call: &mut Call) {
        let function = call.function;
        let (listed, given) = (function.args.len(), call.args.len());
        let name = quoted(function.name);
        let least = listed.saturating_sub(1);
        match function.variadic {
            Variadic::None if listed != given => {
                self.error(call.span, format!("expected {listed} argument(s) in call to {name}, got {given}"));
            }
            Variadic::UpTo(_) | Variadic::Any if given < least => {
                self.error(call.span, format!("expected at least {least} argument(s) in call to {name}, got {given}"));
            }
            Variadic::UpTo(more) if given > least + more => {
                let most = least + more;
                self.error(call.span, format!("expected at most {most} argument(s) in call to {name}, got {given}"));
            }
            _ => {}
        }
        if function.name == "info" && given > 1 {
            self.check_info_selector(call);
        }
        for (index, arg) in call.args.iter_mut().enumerate() {
            if index >= listed && function.variadic == Variadic::None {
                break;
            }
            let wanted = function.args[index.min(listed - 1)];
            let got = self.check(arg);
            if got != wanted {
                let message = format!(
                    "expected type {} in call to function {name}, got {}",
                    wanted.documented(),
                    got.documented()
                );
                self.error(arg.span(), message);
            }
        }
    }

    /// The second argument of `info` is a selector of labels, not of metrics.
    fn check_info_selector(&mut self, call: &mut Call) {
        let got = call.args[1].value_type();
        if got != ValueType::Vector {
            let message =
                format!("expected type instant vector in call to function \"info\", got {}", got.documented());
            self.error(call.span, message);
        }
        let span = call.args[1].span();
        match &mut call.args[1] {
            Expr::Vector(selector) if selector.name.is_empty() => selector.may_match_all = true,
            Expr::Vector(_) => self.error(span, "expected label selectors only, got vector selector instead"),
            _ => self.error(span, "expected label selectors only"),
        }
    }

    fn check_selector(&mut self, selector: &VectorSelector) {
        if !selector.name.is_empty() {
            let (_, before) = selector.matchers.split_last().expect("the name made a matcher");
            for twice in before.iter().filter(|matcher| matcher.name == METRIC_NAME) {
                let message = format!(
                    "metric name must not be set twice: {} or {}",
                    quoted(&selector.name),
                    quoted(&twice.value)
                );
                self.error(selector.span, message);
            }
        } else if !selector.may_match_all && selector.matchers.iter().all(|matcher| matcher.matches("")) {
            self.error(selector.span, "vector selector must contain at least one non-empty matcher");
        }
    }
}
