use super::*;
use crate::Labels;

fn check(rule: Rule, input: &[(&str, &str)], expected: Option<&str>) {
    rule.validate().expect("a valid rule");
    let built = apply(&[rule], Labels::from_pairs(input.iter().copied()).to_builder());
    assert_eq!(built.map(|labels| labels.build().to_string()).as_deref(), expected);
}

#[test]
fn templates_expand_as_in_go() {
    let pattern = Pattern::new("(?P<host>[^:]+):(\\d+)(x)?").unwrap();
    let captures = pattern.captures("a:80").unwrap();
    for (template, expected) in [
        ("$1-$2", "a-80"),
        ("${1}x$2x", "ax"),
        ("${host}/$host", "a/a"),
        ("$$1 $", "$1 $"),
        ("$9${3}[$]", "[$]"),
        ("${1", "${1"),
        ("$01", ""),
        ("$0", "a:80"),
    ] {
        assert_eq!(expand(template, |group| of(&captures, group, "a:80")), expected, "{template}");
    }
}

#[test]
fn hashmod_is_upstreams() {
    let rule = Rule {
        source_labels: vec!["c".into()],
        target_label: "d".into(),
        modulus: 1000,
        action: Action::HashMod,
        ..Rule::default()
    };
    check(rule, &[("c", "baz")], Some(r#"{c="baz", d="976"}"#));
}

#[test]
fn an_empty_replacement_removes_the_label() {
    let rule = Rule { target_label: "a".into(), replacement: String::new(), ..Rule::default() };
    check(rule, &[("a", "1"), ("b", "2")], Some(r#"{b="2"}"#));
}

#[test]
fn anchors_do_not_repair_patterns() {
    assert!(Pattern::new("a)(b").is_err());
}

mod conformance {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    fn tables() -> Option<Vec<Value>> {
        let path = "../../../shared/conformance/go_tables/model_relabel_relabel_test.json";
        let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)) else {
            eprintln!("conformance data is absent: these cases did not run");
            return None;
        };
        let json: Value = serde_json::from_str(&text).unwrap();
        Some(json["tables"].as_array().unwrap().clone())
    }

    fn table(tables: &[Value], func: &str) -> Vec<Value> {
        let found = tables.iter().find(|table| table["func"] == func).unwrap();
        found["value"].as_array().unwrap().clone()
    }

    fn labels(value: &Value) -> Labels {
        let map = value["args"][0].as_object().unwrap();
        let pairs = map.iter().filter(|(name, _)| *name != "$type");
        Labels::from_pairs(pairs.map(|(name, value)| (name.as_str(), value.as_str().unwrap())))
    }

    fn rule(value: &Value) -> Rule {
        let defaults = Rule::default();
        let text = |key: &str, default: &str| value[key].as_str().unwrap_or(default).to_owned();
        let sources = value["SourceLabels"]["elts"].as_array().cloned().unwrap_or_default();
        let pattern = value["Regex"]["args"][0].as_str().map(|pattern| Pattern::new(pattern).unwrap());
        let legacy = value["NameValidationScheme"]["$id"] == "model.LegacyValidation";
        Rule {
            source_labels: sources.iter().map(|source| source.as_str().unwrap().to_owned()).collect(),
            separator: text("Separator", ";"),
            regex: pattern.unwrap_or(defaults.regex),
            modulus: value["Modulus"].as_u64().unwrap_or(0),
            target_label: text("TargetLabel", ""),
            replacement: text("Replacement", "$1"),
            action: Action::from_name(value["Action"]["$id"].as_str().unwrap()).unwrap(),
            scheme: if legacy { NameScheme::Legacy } else { NameScheme::Utf8 },
        }
    }

    #[test]
    fn label_sets_come_out_as_upstream() {
        let Some(tables) = tables() else { return };
        for case in table(&tables, "TestRelabel") {
            let rules: Vec<Rule> = case["relabel"].as_array().unwrap().iter().map(rule).collect();
            let out = apply(&rules, labels(&case["input"]).to_builder()).map(|labels| labels.build());
            let expected = (case["drop"] != true).then(|| labels(&case["output"]));
            assert_eq!(out, expected, "{case}");
        }
    }

    #[test]
    fn rules_are_valid_as_upstream() {
        let Some(tables) = tables() else { return };
        for case in table(&tables, "TestRelabelValidate") {
            let verdict = rule(&case["config"]).validate();
            match case["expected"].as_str() {
                None => assert_eq!(verdict, Ok(()), "{case}"),
                Some(reason) => assert!(verdict.is_err_and(|why| why.contains(reason)), "{case}"),
            }
        }
        for case in table(&tables, "TestTargetLabelLegacyValidity") {
            let legacy = Rule { scheme: NameScheme::Legacy, ..Rule::default() };
            assert_eq!(legacy.is_name_template(case[0].as_str().unwrap()), case[1] == true, "{case}");
        }
    }
}
