//! Trees as JSON, in the shape of the API's `parse_query`.
//!
//! Source: prometheus `web/api/v1/translate_ast.go`.

use promesh_model::Matcher;
use promesh_model::value::format_float;
use serde_json::{Value, json};

use super::ast::{At, DurationExpr, DurationNode, Expr, VectorSelector};
use super::functions::Variadic;

/// The tree as `parse_query` gives it.
pub fn to_json(expr: &Expr) -> Value {
    match expr {
        Expr::Aggregate(node) => json!({
            "type": "aggregation", "op": node.op.as_str(), "expr": to_json(&node.expr),
            "param": node.param.as_deref().map(to_json), "grouping": node.grouping, "without": node.without,
        }),
        Expr::Binary(node) => {
            let matching = node.matching.as_ref().map(|m| {
                json!({
                    "card": m.cardinality.as_str(), "labels": m.labels, "on": m.on, "include": m.include,
                    "fillValues": {"lhs": m.fill_left, "rhs": m.fill_right},
                })
            });
            json!({
                "type": "binaryExpr", "op": node.op.as_str(), "lhs": to_json(&node.lhs), "rhs": to_json(&node.rhs),
                "matching": matching, "bool": node.return_bool,
            })
        }
        Expr::Call(node) => {
            let function = node.function;
            let variadic = match function.variadic {
                Variadic::None => 0,
                Variadic::UpTo(more) => more as i64,
                Variadic::Any => -1,
            };
            let types: Vec<&str> = function.args.iter().map(|value_type| value_type.as_str()).collect();
            json!({
                "type": "call",
                "func": {
                    "name": function.name, "argTypes": types, "variadic": variadic,
                    "returnType": function.returns.as_str(),
                },
                "args": node.args.iter().map(to_json).collect::<Vec<_>>(),
            })
        }
        Expr::Matrix(node) => {
            let mut object = selector("matrixSelector", &node.selector);
            object["range"] = node.range_ms.into();
            object["rangeExpr"] = duration(node.range_expr.as_ref());
            object
        }
        Expr::Subquery(node) => json!({
            "type": "subquery", "expr": to_json(&node.expr), "range": node.range_ms,
            "rangeExpr": duration(node.range_expr.as_ref()), "offset": node.offset_ms,
            "offsetExpr": duration(node.offset_expr.as_ref()), "step": node.step_ms,
            "stepExpr": duration(node.step_expr.as_ref()), "timestamp": timestamp(node.at),
            "startOrEnd": start_or_end(node.at),
        }),
        Expr::Number(node) => json!({"type": "numberLiteral", "val": format_float(node.value)}),
        Expr::Paren(node) => json!({"type": "parenExpr", "expr": to_json(&node.expr)}),
        Expr::String(node) => json!({"type": "stringLiteral", "val": node.value}),
        Expr::Unary(node) => json!({
            "type": "unaryExpr", "op": if node.negative { "-" } else { "+" }, "expr": to_json(&node.expr),
        }),
        Expr::Vector(node) => selector("vectorSelector", node),
    }
}

fn selector(kind: &str, node: &VectorSelector) -> Value {
    let matcher = |m: &Matcher| json!({"name": m.name, "value": m.value, "type": m.op.as_str()});
    json!({
        "type": kind, "name": node.name, "offset": node.offset_ms, "offsetExpr": duration(node.offset_expr.as_ref()),
        "matchers": node.matchers.iter().map(matcher).collect::<Vec<_>>(), "timestamp": timestamp(node.at),
        "startOrEnd": start_or_end(node.at), "anchored": node.anchored, "smoothed": node.smoothed,
    })
}

fn timestamp(at: Option<At>) -> Option<i64> {
    match at {
        Some(At::Timestamp(ms)) => Some(ms),
        _ => None,
    }
}

fn start_or_end(at: Option<At>) -> Option<&'static str> {
    match at {
        Some(At::Start) => Some("start"),
        Some(At::End) => Some("end"),
        _ => None,
    }
}

fn duration(expr: Option<&DurationExpr>) -> Value {
    let Some(expr) = expr else { return Value::Null };
    let part = |node: Option<&DurationNode>| match node {
        None => Value::Null,
        Some(DurationNode::Expr(expr)) => duration(Some(expr)),
        Some(DurationNode::Number(number)) => json!({
            "type": "numberLiteral", "val": format_float(number.value), "duration": number.duration,
        }),
    };
    json!({
        "type": "durationExpr", "op": expr.op.as_str(), "lhs": part(expr.lhs.as_ref()), "rhs": part(expr.rhs.as_ref()),
        "wrapped": expr.wrapped,
    })
}
