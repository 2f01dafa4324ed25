use promesh_model::{Labels, Timestamp};

use crate::value::{ListKind, Value};
use crate::{Environment, Functions, Limits, MissingKey, QuerySample, Template};

struct Case {
    text: &'static str,
    input: Value,
    samples: Vec<(Labels, Value)>,
    missing_key: MissingKey,
    html: bool,
}

fn case(text: &'static str) -> Case {
    Case { text, input: Value::Nil, samples: Vec::new(), missing_key: MissingKey::Zero, html: false }
}

fn run(case: &Case) -> Result<String, String> {
    let query = |_: &str| {
        Ok(case
            .samples
            .iter()
            .map(|(labels, value)| QuerySample { labels: labels.clone(), value: value.clone() })
            .collect())
    };
    let environment = Environment {
        now: Timestamp(1_353_755_652_000),
        external_url: "http://testhost:9090/path/prefix",
        query: Some(&query),
        route_labels_rendered: false,
    };
    let template = Template::parse("test", case.text, Functions::Prometheus)
        .map_err(|error| error.to_string())?
        .missing_key(case.missing_key);
    let limits = Limits::default();
    if case.html {
        template.render_html(&case.input, &environment, &limits)
    } else {
        template.render(&case.input, &environment, &limits)
    }
    .map_err(|error| error.to_string())
}

fn gives(case: Case, expected: &str) {
    assert_eq!(run(&case).as_deref(), Ok(expected), "{}", case.text);
}

fn fails(case: Case, expected: &str) {
    assert_eq!(run(&case).as_ref().map_err(String::as_str), Err(expected), "{}", case.text);
}

fn list<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::list(ListKind::Any, items.into_iter().map(Into::into).collect())
}

fn metric(instance: &str, value: f64) -> (Labels, Value) {
    (Labels::from_pairs([("__name__", "metric"), ("instance", instance)]), Value::Float(value))
}

#[test]
fn plain_values() {
    gives(case("plain text"), "plain text");
    gives(case("{{ 1 }}"), "1");
    gives(Case { html: true, ..case("{{ \"<b>\" }}") }, "&lt;b&gt;");
    gives(Case { html: true, ..case("{{ \"<b>\" | safeHtml }}") }, "<b>");
    gives(case("{{ \"<b>\" }}"), "<b>");
    gives(case("{{define \"x\"}}{{.arg0}} {{.arg1}}{{end}}{{template \"x\" (args 1 \"2\")}}"), "1 2");
    gives(case("{{ .Foo }}"), "<no value>");
    gives(Case { html: true, ..case("{{ .Foo }}") }, "");
    gives(case("{{ reReplaceAll \"(a)b\" \"x$1\" \"ab\" }}"), "xa");
    gives(case("{{ \"aa bb CC\" | title }}"), "Aa Bb CC");
    gives(case("{{ \"aa bb CC\" | toUpper }}|{{ \"aa bb CC\" | toLower }}"), "AA BB CC|aa bb cc");
    gives(case("{{ match \"a+\" \"aa\" }} {{ match \"a+\" \"b\" }}"), "true false");
    gives(
        case("{{ graphLink \"up\" }} {{ tableLink \"up{a='b'}\" }}"),
        "/graph?g0.expr=up&g0.tab=0 /graph?g0.expr=up%7Ba%3D%27b%27%7D&g0.tab=1",
    );
    gives(case("{{ pathPrefix }} {{ externalURL }}"), "/path/prefix http://testhost:9090/path/prefix");
    gives(case("{{ parseDuration \"1h2m10ms\" }}"), "3720.01");
    gives(case("{{ \"a b&c\" | urlQueryEscape }}"), "a+b%26c");
}

#[test]
fn queries() {
    let with = |text, samples| Case { samples, ..case(text) };
    gives(with("{{ query \"1.5\" | first | value }}", vec![(Labels::empty(), Value::Float(1.5))]), "1.5");
    gives(with("{{ query \"m\" | first | label \"instance\" }}", vec![metric("a", 11.0)]), "a");
    gives(with("{{ query \"m\" | first | label \"foo\" }}", vec![metric("a", 11.0)]), "");
    gives(with("{{ $x := query \"m\" | first }}{{ $x.Labels.foo }}", vec![metric("a", 11.0)]), "");
    let named = vec![(Labels::from_pairs([("__value__", "a")]), Value::Float(11.0))];
    gives(with("{{ query \"m\" | first | strvalue }}", named), "a");
    gives(
        with(
            "{{ range query \"m\" | sortByLabel \"instance\" }}{{.Labels.instance}}:{{.Value}}: {{end}}",
            vec![metric("b", 21.0), metric("a", 11.0)],
        ),
        "a:11: b:21: ",
    );
    let histogram = vec![(Labels::empty(), Value::opaque("*histogram.FloatHistogram", "{count:3, sum:10}"))];
    gives(with("{{ query \"m\" | first | value }}", histogram), "{count:3, sum:10}");
}

#[test]
fn errors_are_gos_to_the_column() {
    fails(case("{{\u{a0}}}"), "template: test:1: unrecognized character in action: U+00A0");
    fails(case("{{"), "template: test:1: unclosed action");
    fails(
        Case { missing_key: MissingKey::Error, ..case("{{ .Foo }}") },
        "template: test:1:3: executing \"test\" at <.Foo>: nil data; no entry for key \"Foo\"",
    );
    fails(
        case("{{ query \"missing\" | first }}"),
        "template: test:1:21: executing \"test\" at <first>: error calling first: first() called on vector with no elements",
    );
    fails(
        case("{{ (query \"missing\").banana }}"),
        "template: test:1:10: executing \"test\" at <\"missing\">: can't evaluate field banana in type template.queryResult",
    );
    fails(
        case("{{ humanize \"one\" }}"),
        "template: test:1:3: executing \"test\" at <humanize \"one\">: error calling humanize: strconv.ParseFloat: parsing \"one\": invalid syntax",
    );
    fails(
        case("{{ \"one\" | humanizePercentage }}"),
        "template: test:1:11: executing \"test\" at <humanizePercentage>: error calling humanizePercentage: strconv.ParseFloat: parsing \"one\": invalid syntax",
    );
    fails(
        Case { input: list([i64::MIN, i64::MAX]), ..case("{{ range . }}{{ humanizeTimestamp . }}:{{ end }}") },
        "template: test:1:16: executing \"test\" at <humanizeTimestamp .>: error calling humanizeTimestamp: -9.223372036854776e+18 cannot be represented as a nanoseconds timestamp since it overflows int64",
    );
    for (text, expected) in [
        ("{{ if }}{{ end }}", "missing value for if"),
        ("{{ if 1 }}", "unexpected EOF"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ foo }}", "function \"foo\" not defined"),
        ("{{ $x }}", "undefined variable \"$x\""),
        ("{{ 1 | 2 }}", "non executable command in pipeline stage 2"),
        ("{{ (1 }}", "unclosed left paren"),
        ("{{ break }}", "{{break}} outside {{range}}"),
        ("{{ \"a }}", "unterminated quoted string"),
        ("{{ /* a */ }}", "unexpected \"/\" in command"),
        ("{{/* a }}", "unclosed comment"),
        ("{{ 1.Foo }}", "bad number syntax: \"1.Foo\""),
        ("{{ template \"x\" 1 2 }}{{ range $a, $b, $c := . }}{{ end }}", "too many declarations in range"),
    ] {
        fails(case(text), &format!("template: test:1: {expected}"));
    }
}

#[test]
fn humanized_numbers() {
    let check = |text, input: Value, expected: &str| gives(Case { input, ..case(text) }, expected);
    let each = "{{ range . }}{{ humanize . }}:{{ end }}";
    check(each, list([0.0, 1.0, 1_234_567.0, 0.12]), "0:1:1.235M:120m:");
    check(each, list(["0.0", "1.0", "1234567.0", ".12"]), "0:1:1.235M:120m:");
    check(each, list([0, -1, 1, 1_234_567, i64::MAX]), "0:-1:1:1.235M:9.223E:");
    check(each, Value::list(ListKind::Any, vec![Value::Uint(u64::MAX)]), "18.45E:");
    let each = "{{ range . }}{{ humanize1024 . }}:{{ end }}";
    check(each, list([0.0, 1.0, 1_048_576.0, 0.12]), "0:1:1Mi:0.12:");
    check(each, list([0, -1, 1, 1_234_567, i64::MAX]), "0:-1:1:1.177Mi:8Ei:");
    let each = "{{ range . }}{{ humanizeDuration . }}:{{ end }}";
    let spans = [0.0, 1.0, 60.0, 3600.0, 86_400.0, 90_000.0, -183_845.0, 899.99];
    check(each, list(spans), "0s:1s:1m 0s:1h 0m 0s:1d 0h 0m 0s:1d 1h 0m 0s:-2d 3h 4m 5s:14m 59s:");
    let small = [0.1, 0.0001, 0.12345, 60.1, 60.5, 1.2345, 12.345];
    check(each, list(small), "100ms:100us:123.5ms:1m 0s:1m 0s:1.234s:12.35s:");
    check(
        "{{ range . }}{{ humanize . }}:{{ humanize1024 . }}:{{ humanizeDuration . }}:{{humanizeTimestamp .}}:{{ end }}",
        list(["+Inf", "-Inf", "NaN"]),
        "+Inf:+Inf:+Inf:+Inf:-Inf:-Inf:-Inf:-Inf:NaN:NaN:NaN:NaN:",
    );
    gives(
        case(
            "{{ -0.22222 | humanizePercentage }}:{{ 0.0 | humanizePercentage }}:{{ 0.1234567 | humanizePercentage }}:{{ 1.23456 | humanizePercentage }}",
        ),
        "-22.22%:0%:12.35%:123.5%",
    );
    check("{{ range . }}{{ humanizePercentage . }}:{{ end }}", list([1_234_567, i64::MAX]), "1.235e+08%:9.223e+20%:");
}

#[test]
fn times() {
    let input = list([0, -1, 1, 1_234_567, 9_223_372_036]);
    gives(
        Case { input, ..case("{{ range . }}{{ humanizeTimestamp . }}:{{ end }}") },
        "1970-01-01 00:00:00 +0000 UTC:1969-12-31 23:59:59 +0000 UTC:1970-01-01 00:00:01 +0000 UTC:1970-01-15 06:56:07 +0000 UTC:2262-04-11 23:47:16 +0000 UTC:",
    );
    gives(case("{{ 1435065584.128 | humanizeTimestamp }}"), "2015-06-23 13:19:44.128 +0000 UTC");
    gives(case("{{ (\"1435065584.128\" | toTime).Format \"2006\" }}"), "2015");
    gives(case("{{ (1800 | toDuration).String }}"), "30m0s");
    gives(case("{{ now }}"), "1.353755652e+09");
    gives(case("{{ (now | toTime).Format \"Mon Jan 2 15:04:05 2006\" }}"), "Sat Nov 24 11:14:12 2012");
    gives(case("{{ (\"-30m\" | parseDuration | toDuration | (now | toTime).Add).UnixMilli }}"), "1353753852000");
}

#[test]
fn hosts_lose_ports_and_domains() {
    for (host, port, domain) in [
        ("foo.example.com", "foo.example.com", "foo"),
        ("foo.example.com:12345", "foo.example.com", "foo:12345"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:12345", "192.0.2.1", "192.0.2.1:12345"),
        ("2001:0DB8::1", "2001:0DB8::1", "2001:0DB8::1"),
        ("[2001:0DB8::1]:12345", "2001:0DB8::1", "[2001:0DB8::1]:12345"),
        ("[2001:0DB8::1]::12345", "[2001:0DB8::1]::12345", "[2001:0DB8::1]::12345"),
    ] {
        gives(
            Case { input: Value::text(host), ..case("{{ . | stripPort }} {{ . | stripDomain }}") },
            &format!("{port} {domain}"),
        );
    }
}

#[test]
fn the_language_itself() {
    gives(case("{{range $i, $e := args 1 2}}{{$i}}={{$e}} {{else}}none{{end}}"), "arg0=1 arg1=2 ");
    gives(case("{{range 5}}{{if eq . 3}}{{break}}{{end}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}"), "02");
    gives(case("{{with 0}}a{{else with 2}}b{{.}}{{end}}"), "b2");
    gives(case("{{if false}}a{{else if eq 1 2}}b{{else}}c{{end}}"), "c");
    gives(case("a  {{- 1 -}}  b {{- /* gone */ -}} c"), "a1bc");
    gives(case("{{block \"x\" 3}}[{{.}}]{{end}}{{template \"x\" 4}}"), "[3][4]");
    gives(case("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}"), "2");
    gives(
        case("{{printf \"%5.2f|%-4d|%04d|%q|%v|%x|%t|%s\" 3.14159 7 42 \"a\" nil 255 true \"s\"}}"),
        " 3.14|7   |0042|\"a\"|<nil>|ff|true|s",
    );
    gives(
        case("{{printf \"%d\" \"a\"}} {{printf \"%d\"}} {{printf \"x\" 1}}"),
        "%!d(string=a) %!d(MISSING) x%!(EXTRA int=1)",
    );
    gives(case("{{and 1 0 (index nil 1)}} {{or 0 \"x\"}} {{not 1}}"), "0 x false");
    gives(case("{{slice \"abcdef\" 1 3}} {{index \"abc\" 1}} {{len \"abc\"}}"), "bc 98 3");
    gives(case("{{1e3}} {{0x10}} {{1_000}} {{'a'}} {{1000000.0}} {{0.00001}}"), "1000 16 1000 97 1e+06 1e-05");
    gives(case("{{println 1 \"a\" 2}}{{print 1 2 \"a\" 3}}"), "1 a 2\n1 2a3");
    gives(case("{{html \"<&+\"}} {{js \"'<\"}} {{urlquery \"a b\"}}"), "&lt;&amp;&#43; \\'\\u003C a+b");
}
