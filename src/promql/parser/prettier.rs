//! Trees as text over several lines, for `format_query`.
//!
//! A node whose text is longer than a line is broken: its operands go on lines of their own, indented by its depth.
//!
//! Source: prometheus `promql/parser/prettier.go`.

use super::ast::Expr;
use super::printer::{AggregateText, OperatorText, SubqueryText};

/// Characters that fit on one line, as upstream.
const LINE_CHARACTERS_MAX: usize = 100;

/// Formats an expression for people.
pub fn prettify(expr: &Expr) -> String {
    prettify_within(expr, LINE_CHARACTERS_MAX)
}

/// Formats for lines of another width; upstream's tests use 10.
pub(crate) fn prettify_within(expr: &Expr, characters_max: usize) -> String {
    let mut out = String::new();
    Prettier { characters_max }.write(expr, 0, &mut out);
    out
}

struct Prettier {
    characters_max: usize,
}

impl Prettier {
    fn fits(&self, text: &str) -> bool {
        text.len() <= self.characters_max
    }

    fn write(&self, expr: &Expr, level: usize, out: &mut String) {
        let indent = "  ".repeat(level);
        let text = expr.to_string();
        match expr {
            Expr::Unary(node) => {
                let mut operand = String::new();
                self.write(&node.expr, level, &mut operand);
                let sign = if node.negative { "-" } else { "+" };
                out.push_str(&format!("{indent}{sign}{}", operand.trim()));
            }
            // Upstream does not indent a subquery that fits.
            Expr::Subquery(_) if self.fits(&text) => out.push_str(&text),
            Expr::Subquery(node) => {
                self.write(&node.expr, level, out);
                out.push_str(&SubqueryText(node).to_string());
            }
            _ if self.fits(&text) => out.push_str(&format!("{indent}{text}")),
            Expr::Aggregate(node) => {
                out.push_str(&format!("{indent}{}(\n", AggregateText(node)));
                if let Some(param) = &node.param {
                    self.write(param, level + 1, out);
                    out.push_str(",\n");
                }
                self.write(&node.expr, level + 1, out);
                out.push_str(&format!("\n{indent})"));
            }
            Expr::Binary(node) => {
                self.write(&node.lhs, level + 1, out);
                out.push_str(&format!("\n{indent}{}\n", OperatorText(node)));
                self.write(&node.rhs, level + 1, out);
            }
            Expr::Call(node) => {
                out.push_str(&format!("{indent}{}(\n", node.function.name));
                for (index, arg) in node.args.iter().enumerate() {
                    out.push_str(if index > 0 { ",\n" } else { "" });
                    self.write(arg, level + 1, out);
                }
                out.push_str(&format!("\n{indent})"));
            }
            Expr::Paren(node) => {
                out.push_str(&format!("{indent}(\n"));
                self.write(&node.expr, level + 1, out);
                out.push_str(&format!("\n{indent})"));
            }
            Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) => {
                out.push_str(&format!("{indent}{text}"));
            }
        }
    }
}
