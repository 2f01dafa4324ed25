//! Upstream's tables of the parser, printer and prettier, read from the conformance data when it is there.

use serde_json::Value;

use super::prettier::prettify_within;
use super::{ParseOptions, parse, parse_series, prettify};

fn tables(name: &str) -> Option<Vec<Value>> {
    let path = format!("{}/../../../shared/conformance/go_tables/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).ok()?;
    let file: Value = serde_json::from_str(&text).expect("the table is JSON");
    Some(file["tables"].as_array().expect("a list of tables").clone())
}

fn cases<'a>(tables: &'a [Value], var: &'a str, func: &'a str) -> impl Iterator<Item = &'a Value> {
    let wanted = move |table: &&Value| table["var"] == var && (func.is_empty() || table["func"] == func);
    tables.iter().filter(wanted).flat_map(|table| table["value"].as_array().into_iter().flatten())
}

/// The text of `errors.New("…")`; formats with arguments are not spelt out in the tables.
fn message(error: &Value) -> Option<&str> {
    (error["$call"] == "errors.New").then(|| error["args"][0].as_str()).flatten()
}

#[test]
fn expressions_parse_or_fail_as_upstreams_do() {
    let Some(tables) = tables("promql_parser_parse_test") else { return };
    let options = ParseOptions::everything();
    let (mut failures, mut count) = (Vec::new(), 0);
    for case in cases(&tables, "testExpr", "") {
        let Some(input) = case["input"].as_str() else { continue };
        // Expressions of Go that the extractor could not evaluate stand where a text should be.
        count += 1;
        let fails = case["fail"] == true;
        match (parse(input, &options), fails) {
            (Ok(_), false) => {}
            (Ok(expr), true) => failures.push(format!("accepted: {input} as {expr}")),
            (Err(error), false) => failures.push(format!("refused: {input}: {error}")),
            (Err(error), true) => {
                let first = &case["errors"]["elts"][0];
                let Some(wanted) = message(&first["Err"]) else { continue };
                let start = first["PositionRange"]["Start"].as_u64().unwrap_or(0) as usize;
                let got = &error.0[0];
                if got.message != wanted || got.span.start != start {
                    failures.push(format!("{input}: {}@{} instead of {wanted}@{start}", got.message, got.span.start));
                }
            }
        }
    }
    assert!(count > 200, "only {count} cases");
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn expressions_print_as_upstreams_do() {
    let Some(tables) = tables("promql_parser_printer_test") else { return };
    let options = ParseOptions::everything();
    let mut failures = Vec::new();
    for case in cases(&tables, "inputs", "TestExprString") {
        let Some(input) = case["in"].as_str() else { continue };
        let wanted = case["out"].as_str().filter(|out| !out.is_empty()).unwrap_or(input);
        match parse(input, &options) {
            Ok(expr) if expr.to_string() == wanted => {}
            Ok(expr) => failures.push(format!("{input}: {expr} instead of {wanted}")),
            Err(error) => failures.push(format!("{input}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn expressions_are_prettified_as_upstreams_are() {
    let Some(tables) = tables("promql_parser_prettier_test") else { return };
    let options = ParseOptions::everything();
    let (mut failures, mut count) = (Vec::new(), 0);
    for case in cases(&tables, "inputs", "") {
        let (Some(input), Some(wanted)) = (case["in"].as_str(), case["out"].as_str()) else { continue };
        count += 1;
        match parse(input, &options) {
            // Upstream's tests set the width of a line to 10.
            Ok(expr) if prettify_within(&expr, 10) == wanted => {}
            Ok(expr) => failures.push(format!("{input}:\n{}\ninstead of\n{wanted}", prettify_within(&expr, 10))),
            Err(error) => failures.push(format!("{input}: {error}")),
        }
    }
    assert!(count > 30, "only {count} cases");
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn series_descriptions_parse_or_fail_as_upstreams_do() {
    let Some(tables) = tables("promql_parser_parse_test") else { return };
    let mut failures = Vec::new();
    for case in cases(&tables, "testSeries", "").chain(cases(&tables, "range", "TestParseHistogramSeries")) {
        let Some(input) = case["input"].as_str() else { continue };
        let wanted = case["expectedError"].as_str();
        let fails = case["fail"] == true || wanted.is_some();
        match (parse_series(input), fails) {
            (Ok(series), false) => {
                let values = case["expectedValues"]["args"].as_array().or(case["expected"].as_array());
                if values.is_some_and(|values| values.len() != series.values.len()) {
                    failures.push(format!("{input}: {} values", series.values.len()));
                }
            }
            (Ok(_), true) => failures.push(format!("accepted: {input}")),
            (Err(error), false) => failures.push(format!("refused: {input}: {error}")),
            // The number of a token in upstream's generated parser is shown by one of its messages: not by ours.
            (Err(error), true) => {
                let got = error.to_string();
                if wanted.is_some_and(|wanted| wanted != got && !wanted.contains("<Item")) {
                    failures.push(format!("{input}: {got} instead of {wanted:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn whatever_prints_parses_to_the_same_text() {
    let options = ParseOptions::everything();
    for text in ["-1^2", "a - (b - c)", "a[5m:] @ end() offset -1m", "{\"a.b\", c!~\"d\"}", "sum without () (a) / 2"] {
        let expr = parse(text, &options).expect(text);
        let printed = expr.to_string();
        let again = parse(&printed, &options).expect(&printed);
        assert_eq!(again.to_string(), printed);
        assert_eq!(parse(&prettify(&expr), &options).expect(text).to_string(), printed);
    }
}
