use proptest::prelude::*;

use crate::{Environment, Functions, Limits, Template, TemplateError, Value};
use promesh_model::Timestamp;

fn run(text: &str) -> Result<String, TemplateError> {
    let template = Template::parse("t", text, Functions::Alertmanager)?;
    template.render(&Value::Nil, &Environment::at(Timestamp(0)), &Limits::default())
}

#[test]
fn endless_templates_end_with_a_reason() {
    let limit = |text: &str| match run(text) {
        Err(TemplateError::Limit(reason)) => reason,
        other => panic!("{text}: {other:?}"),
    };
    assert!(limit("{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}").contains("nests too deep"));
    assert!(limit("{{range 9000000000000}}{{range 9000000000000}}{{end}}{{end}}").contains("too long"));
    assert!(limit("{{range 1000000}}{{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}}{{end}}").contains("too long"));
}

#[test]
fn deep_nesting_is_refused() {
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(run(&parentheses).unwrap_err().to_string().contains("nested deeper"));
    let blocks = "{{if 1}}".repeat(50_000);
    assert!(run(&blocks).unwrap_err().to_string().contains("nested deeper"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\{\\{|\\}\\}|[-.$|()\"`'a-f0-9 ]|range|if|end|else|with|define|template|printf|\\PC){0,40}") {
        let _ = run(&text);
        let template = Template::parse("t", &text, Functions::Prometheus);
        if let Ok(template) = template {
            let _ = template.render_html(&Value::Nil, &Environment::at(Timestamp(0)), &Limits::default());
        }
    }
}
