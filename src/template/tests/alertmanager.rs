use promesh_model::{Labels, Timestamp};

use crate::clock::Time;
use crate::data::{Alert, Data, kv, nil_kv};
use crate::value::{ListKind, MapKind, Value};
use crate::{Environment, Limits, Template};

const NOW: Timestamp = Timestamp(1_704_096_930_000);

fn run(text: &str, data: &Value, html: bool) -> Result<String, String> {
    let template = Template::alertmanager().with_text("", text).map_err(|error| error.to_string())?;
    let environment = Environment::at(NOW);
    let limits = Limits::default();
    if html { template.render_html(data, &environment, &limits) } else { template.render(data, &environment, &limits) }
        .map_err(|error| error.to_string())
}

fn gives(text: &str, data: Value, expected: &str) {
    assert_eq!(run(text, &data, false).as_deref(), Ok(expected), "{text}");
}

fn gives_html(text: &str, data: Value, expected: &str) {
    assert_eq!(run(text, &data, true).as_deref(), Ok(expected), "{text}");
}

fn fails(text: &str, expected: &str) {
    assert_eq!(run(text, &Value::Nil, false).as_ref().map_err(String::as_str), Err(expected), "{text}");
}

fn alert(firing: bool, labels: &[(&str, &str)]) -> Alert {
    Alert {
        labels: Labels::from_pairs(labels.iter().copied()),
        annotations: Labels::from_pairs([("summary", "it is <down>")]),
        firing,
        starts_at: Time::from(NOW),
        ends_at: if firing { Time::zero() } else { Time::from(NOW) },
        generator_url: "http://prom/graph?a=b".to_owned(),
        fingerprint: "9266ef3da838ad95".to_owned(),
    }
}

fn data() -> Data {
    Data {
        receiver: "team-x".to_owned(),
        alerts: vec![
            alert(true, &[("alertname", "Down"), ("job", "node"), ("severity", "critical"), ("instance", "a")]),
            alert(false, &[("alertname", "Down"), ("job", "node"), ("severity", "warning"), ("instance", "b")]),
        ],
        reason: "first notification".to_owned(),
        group_labels: Labels::from_pairs([("alertname", "Down")]),
        route_labels: Labels::from_pairs([
            ("rl1", "rl1"),
            ("rl2", "{{ .GroupLabels.alertname }}"),
            ("rl3", "{{ routeLabels \"rl2\" }} recursive"),
            ("loop", "{{ routeLabels \"loop\" }}"),
        ]),
        external_url: "http://am.example.com".to_owned(),
    }
}

#[test]
fn functions() {
    let nil = || Value::Nil;
    gives("{{ \"abc DEF\" | title }} {{ \" a b \" | trimSpace }}|", nil(), "Abc Def a b|");
    gives("{{ . | join \",\" }}", Value::strings(["a", "b"]), "a,b");
    gives("{{ if match \"^a\" \"abc\"}}abc{{ end }}", nil(), "abc");
    gives("{{ \"search?q=test%20foo\" | urlUnescape }}", nil(), "search?q=test foo");
    gives(
        "{{ \"test\" | base64encode }} {{ \"flush>>\" | base64encode }} {{ \"dGVzdA==\" | base64decode }}",
        nil(),
        "dGVzdA== Zmx1c2g-Pg== test",
    );
    gives("{{- $t := dict -}}{{ $t }}{{ dict \"b\" 2 \"a\" 1 }}", nil(), "map[]map[a:1 b:2]");
    gives("{{- $t := list \"a\" \"b\" -}}{{ $t = append $t \"c\" -}}{{ $t }}{{ list }}", nil(), "[a b c][]");
    gives(
        "{{ . | date \"2006-01-02\" }} {{ . | tz \"Europe/Paris\" }}",
        Value::Time(Time::from(NOW)),
        "2024-01-01 2024-01-01 09:15:30 +0100 CET",
    );
    gives("{{ since . | humanizeDuration }}", Value::Time(Time::from(Timestamp(NOW.0 - 3_600_000))), "1h 0m 0s");
    gives(
        "{{ toDate \"2006-01-02\" \"2024-03-15\" | date \"02 Jan 2006\" }} {{ toDate \"2006-01-02\" \"no\" | date \"2006\" }}",
        nil(),
        "15 Mar 2024 0001",
    );
    gives("{{ now | date \"2006-01-02T15:04:05-0700\" }}", nil(), "2024-01-01T08:15:30+0000");
    fails(
        "{{ dict \"a\" }}",
        "template: :1:3: executing \"\" at <dict \"a\">: error calling dict: dict requires an even number of arguments",
    );
    fails(
        "{{ dict 1 \"a\" }}",
        "template: :1:3: executing \"\" at <dict 1 \"a\">: error calling dict: dict keys must be strings",
    );
    fails(
        "{{ mustToDate \"2006-01-02\" \"not-a-date\" }}",
        "template: :1:3: executing \"\" at <mustToDate \"2006-01-02\" \"not-a-date\">: error calling mustToDate: parsing time \"not-a-date\" as \"2006-01-02\": cannot parse \"not-a-date\" as \"2006\"",
    );
    fails(
        "{{ tz \"Invalid/Timezone\" now }}",
        "template: :1:3: executing \"\" at <tz \"Invalid/Timezone\" now>: error calling tz: unknown time zone Invalid/Timezone",
    );
    fails("{{ toUpper 1 }}", "template: :1:11: executing \"\" at <1>: expected string; found 1");
    fails(
        "{{ toUpper (list) }}",
        "template: :1:12: executing \"\" at <list>: wrong type for value; expected string; got []interface {}",
    );
    fails(
        "{{ toUpper }}",
        "template: :1:3: executing \"\" at <toUpper>: wrong number of args for toUpper: want 1 got 0",
    );
}

#[test]
fn json() {
    gives("{{ \"t<\" | toJson }} {{ 42 | toJson }} {{ true | toJson }}", Value::Nil, "\"t\\u003c\" 42 true");
    gives("{{ . | toJson }}", Value::map(MapKind::Strings, [("key", "value")]), "{\"key\":\"value\"}");
    let bare = Value::record(
        "template.Alert",
        vec![
            ("Status", "status", Value::text("firing")),
            ("Labels", "labels", nil_kv()),
            ("EndsAt", "endsAt", Value::Time(Time::zero())),
        ],
    );
    let record = Value::record("*template.Data", vec![("Alerts", "alerts", Value::list(ListKind::Alerts, vec![bare]))]);
    gives(
        "{{ .Alerts.Firing | toJson }}",
        record.clone(),
        "[{\"status\":\"firing\",\"labels\":null,\"endsAt\":\"0001-01-01T00:00:00Z\"}]",
    );
    gives(
        "{{- $l := list -}}{{ range .Alerts }}{{ $l = append $l (dict \"status\" .Status \"labels\" .Labels) }}{{ end }}{{ toJson $l }}",
        record,
        "[{\"labels\":null,\"status\":\"firing\"}]",
    );
}

#[test]
fn methods_on_data() {
    let labels = kv(&Labels::from_pairs([("b", "2"), ("alertname", "x"), ("a", "1")]));
    gives(
        "{{ . }}|{{ .SortedPairs.Names }}|{{ .Values.Join \"-\" }}",
        labels.clone(),
        "alertname=x, a=1, b=2|[alertname a b]|x-1-2",
    );
    gives("{{ (.Remove (stringSlice \"a\" \"b\")).SortedPairs }} {{ .missing }}{{ .a }}", labels, "alertname=x 1");
    gives(
        "{{ range .Alerts.Firing }}{{ .Labels.instance }}{{ .StartsAt.Format \"15:04\" }}{{ end }} {{ len .Alerts.Resolved }}",
        data().to_value(),
        "a08:15 1",
    );
    gives(
        "{{ .CommonLabels }} {{ (index .Alerts 1).EndsAt.Unix }}",
        data().to_value(),
        "alertname=Down, job=node 1704096930",
    );
    let error = run("{{ .Nope }}", &data().to_value(), false).unwrap_err();
    assert_eq!(error, "template: :1:3: executing \"\" at <.Nope>: can't evaluate field Nope in type *template.Data");
}

#[test]
fn html_is_escaped_for_its_place() {
    gives_html("{{ \"<b>\" }}{{ \"<b>\" | safeHtml }}", Value::Nil, "&lt;b&gt;<b>");
    gives_html(
        "<a href=\"/search?{{ \"q=test%20foo\" }}\"></a>",
        Value::Nil,
        "<a href=\"/search?q%3dtest%2520foo\"></a>",
    );
    gives_html(
        "<a href=\"/search?{{ \"q=test%20foo\" | safeUrl }}\"></a>",
        Value::Nil,
        "<a href=\"/search?q=test%20foo\"></a>",
    );
    gives_html(
        "<a href=\"{{ \"javascript:alert(1)\" }}\" title='{{ \"it's\" }}'>",
        Value::Nil,
        "<a href=\"#ZgotmplZ\" title='it&#39;s'>",
    );
    gives_html(
        "<!-- {{ \"x\" }} --><script>var a = {{ \"</script>\" }}; b = '{{ \"'\" }}'</script>",
        Value::Nil,
        "<script>var a = \"\\u003c/script\\u003e\"; b = '\\''</script>",
    );
    gives_html("<p style=\"color: {{ \"red; x:expression(1)\" }}\">", Value::Nil, "<p style=\"color: ZgotmplZ\">");
}

#[test]
fn route_labels_are_templates_until_rendered() {
    gives(
        "{{ routeLabels \"rl1\" }} {{ routeLabels \"rl2\" }} {{ routeLabels \"rl3\" }}[{{ routeLabels \"no\" }}]",
        data().to_value(),
        "rl1 Down Down recursive[]",
    );
    let error = run("{{ routeLabels \"loop\" }}", &data().to_value(), false).unwrap_err();
    assert!(error.contains("route label cycle detected: loop -> loop"), "{error}");
    let template = Template::alertmanager().with_text("", "{{ routeLabels \"rl2\" }}").unwrap();
    let environment = Environment { route_labels_rendered: true, ..Environment::at(NOW) };
    let text = template.render(&data().to_value(), &environment, &Limits::default()).unwrap();
    assert_eq!(text, "{{ .GroupLabels.alertname }}");
}

#[test]
fn default_templates_give_receivers_their_fields() {
    gives("{{ template \"slack.default.title\" . }}", data().to_value(), "[FIRING:1] Down (node)");
    gives(
        "{{ template \"slack.default.fallback\" . }}",
        data().to_value(),
        "[FIRING:1] Down (node) | http://am.example.com/#/alerts?receiver=team-x",
    );
    gives(
        "{{ template \"jira.default.priority\" . }} {{ template \"slack.default.color\" . }}",
        data().to_value(),
        "High danger",
    );
    gives(
        "{{ template \"pagerduty.default.instances\" .Alerts.Resolved }}",
        data().to_value(),
        "Labels:\n - alertname = Down\n - instance = b\n - job = node\n - severity = warning\nAnnotations:\n - summary = it is <down>\nSource: http://prom/graph?a=b\n",
    );
    let opsgenie = run("{{ template \"opsgenie.default.description\" . }}", &data().to_value(), false).unwrap();
    assert!(opsgenie.starts_with("it is <down>\nAlerts Firing:\nLabels:\n - alertname = Down\n"), "{opsgenie}");
    let email = run("{{ template \"email.default.html\" . }}", &data().to_value(), true).unwrap();
    assert!(
        email.contains("it is &lt;down&gt;")
            && email.contains("href=\"http://am.example.com/#/alerts?receiver=team-x\""),
        "{email}"
    );
}

#[test]
fn every_upstream_default_exists() {
    let template = Template::alertmanager();
    for (receiver, names) in [
        ("slack", "title username fallback callbackid pretext titlelink iconemoji iconurl text footer color"),
        ("pagerduty", "description client clientURL instances"),
        ("opsgenie", "message description source"),
        ("wechat", "message to_user to_party to_tag agent_id"),
        ("victorops", "state_message entity_display_name monitoring_tool"),
        ("pushover", "title message url"),
        ("sns", "subject message"),
        ("telegram", "message"),
        ("discord", "content title message"),
        ("webex", "message"),
        ("msteams", "summary title text"),
        ("msteamsv2", "title text"),
        ("jira", "summary description priority"),
        ("rocketchat", "title alias titlelink emoji iconurl text"),
        ("mattermost", "color username title titlelink fallback text"),
        ("email", "subject html"),
    ] {
        for name in names.split(' ') {
            assert!(template.defines(&format!("{receiver}.default.{name}")), "{receiver}.default.{name}");
        }
    }
}
