//! Beside a real Alertmanager: switching over from one, the same requests from the same alerts, amtool's output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::remote::Prometheus;
use crate::support::hook::Hook;
use crate::support::paging::{firing, instant, resolved, write};
use crate::support::stub::{Asked, Stub};
use crate::support::{free_port, get, pause, program, send_json, wall};

/// Alertmanager, or what stands for it.
struct Manager {
    port: u16,
    log: PathBuf,
    child: Child,
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Manager {
    /// `binary` with Alertmanager's flags; ours if there is none.
    fn start(binary: Option<&Path>, folder: &Path, config: &Path, flags: &[&str]) -> Manager {
        let port = free_port();
        std::fs::create_dir_all(folder).expect("a folder");
        let log = folder.join(if binary.is_some() { "real.log" } else { "ours.log" });
        let mut command = match binary {
            Some(binary) => Command::new(binary),
            None => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_promesh"));
                command.arg("alertmanager");
                command
            }
        };
        let child = command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--web.external-url=http://am.example/", "--web.route-prefix=/"])
            .args(flags)
            // No mesh, unless there is to be one.
            .args(flags.iter().all(|flag| !flag.starts_with("--cluster.listen")).then_some("--cluster.listen-address="))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        let started = Manager { port, log, child };
        for _ in 0..400 {
            if get(port, "/-/ready").0 == 200 {
                return started;
            }
            pause(50);
        }
        panic!("it does not start: {}", started.said());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn post(&self, alerts: &Value) {
        let (status, body) = send_json(self.port, "/api/v2/alerts", alerts);
        assert_eq!(status, 200, "{body}\n{}", self.said());
    }

    /// SIGTERM, and its end.
    fn stop(mut self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success() && self.child.wait().expect("it ends").success(), "{}", self.said());
    }
}

fn posted(name: &str, ended: bool) -> Value {
    let (start, end) = (wall() - 60.0, if ended { wall() - 1.0 } else { wall() + 3600.0 });
    json!({"labels": {"alertname": name, "ü": "\"x\""}, "startsAt": instant(start), "endsAt": instant(end)})
}

#[test]
fn who_switches_over_from_alertmanager_is_not_paged_again_and_stays_silenced() {
    let Some(real) = program("alertmanager") else { return };
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let repeat = 20.0;
    let route = format!("group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: {repeat}s");
    // Twins: two routes of one key and receiver have one entry in the log of the real one.
    let twins = "routes: [{matchers: [alertname=Twin], continue: true}, {matchers: [alertname=Twin]}]";
    let config = write(root.path().join("am.yml"), &hook.config(&format!("{route}, {twins}")));
    let before = Manager::start(Some(&real), root.path(), &config, &[]);
    before.post(&json!([posted("Told", false), posted("Ends", false)]));
    let silence = json!({"matchers": [{"name": "alertname", "value": "Quiet|Mute", "isRegex": true}],
        "startsAt": instant(wall()), "endsAt": instant(wall() + 3600.0), "createdBy": "me", "comment": "why \"so\""});
    let (status, answer) = send_json(before.port, "/api/v2/silences", &silence);
    assert_eq!(status, 200, "{answer}");
    before.post(&json!([posted("Quiet", false), posted("Twin", false)]));
    let told = hook.wait_for(3, 15.0);
    pause(2_500);
    let known = hook.taken();
    let first = told.iter().map(|told| told.at).fold(f64::MAX, f64::min);
    let silences: Value = serde_json::from_str(&get(before.port, "/api/v2/silences").1).expect("JSON");
    before.stop();
    let left = |name: &str| std::fs::read(root.path().join("data").join(name)).expect("it is there");
    let files = [left("nflog"), left("silences")];

    let after = Manager::start(None, root.path(), &config, &[]);
    after.post(&json!([posted("Told", false), posted("Quiet", false), posted("Twin", false), posted("Ends", true)]));
    hook.wait_taken(known.len() + 1, 10.0);
    pause(3_000);
    assert!(wall() - first < repeat, "the machine is too slow for this test");
    assert_eq!(hook.taken()[known.len()..], [resolved("Ends")], "{}", after.said());
    let kept: Value = serde_json::from_str(&get(after.port, "/api/v2/silences").1).expect("JSON");
    assert_eq!(kept, silences, "with their ids and comments");
    assert_eq!([left("nflog"), left("silences")], files, "they are as they were");
    // The old log counts on: what it says is repeated when its time has come.
    hook.wait_taken(known.len() + 3, repeat + 10.0);
    let repeated = hook.told();
    let late = repeated.iter().filter(|told| told.what() == firing("Told")).map(|told| told.at - first);
    assert!(late.skip(1).all(|late| late >= repeat), "{repeated:?}");

    // A second start reads nothing again: the silence that was ended since stays ended.
    let id = answer.split('"').nth(3).expect("an id").to_owned();
    assert_eq!(crate::support::delete(after.port, &format!("/api/v2/silence/{id}")).0, 200);
    after.stop();
    let again = Manager::start(None, root.path(), &config, &[]);
    let kept = get(again.port, "/api/v2/silences").1;
    assert!(kept.contains("expired") && !kept.contains("active"), "{kept}");
    again.stop();
    std::fs::write(root.path().join("data/nflog"), "no protobuf").expect("written");
    let refused = Command::new(env!("CARGO_BIN_EXE_promesh"))
        .arg("alertmanager")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", root.path().join("data").display()))
        .args(["--web.listen-address=127.0.0.1:0", "--cluster.listen-address="])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("nflog") && said.contains("move it away"), "{said}");
}

#[test]
fn a_real_prometheus_has_it_for_an_alertmanager() {
    let Some(real) = program("prometheus") else { return };
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let route = "group_by: [alertname], group_wait: 0s, group_interval: 1s";
    let manager = Manager::start(None, root.path(), &write(root.path().join("am.yml"), &hook.config(route)), &[]);
    // A Prometheus knows its Alertmanagers after five seconds, and says an alert again after a minute only.
    let [from, to] = [10.0, 16.0].map(|seconds| wall() + seconds);
    let rule = format!("{{alert: Late, expr: vector(time()) > {from:.0} < {to:.0}, labels: {{severity: page}}}}");
    write(root.path().join("rules.yml"), &format!("groups: [{{name: g, interval: 1s, rules: [{rule}]}}]\n"));
    let config = format!(
        "rule_files: [rules.yml]\nalerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]}}\n",
        manager.port
    );
    let _running = Prometheus::start(&real, root.path(), &config);
    hook.wait_taken(2, 40.0);
    pause(1_500);
    assert_eq!(hook.taken(), [firing("Late"), resolved("Late")], "{}", manager.said());
}

/// Both on the same file but for the address in it.
fn side_by_side(root: &Path, real: &Path, config: &str, at: [std::net::SocketAddr; 2], flags: &[&str]) -> [Manager; 2] {
    let file = |name: &str, at: std::net::SocketAddr| {
        std::fs::create_dir_all(root.join(name)).expect("a folder");
        write(root.join(name).join("am.yml"), &config.replace("ADDRESS", &at.to_string()))
    };
    let theirs = Manager::start(Some(real), &root.join("real"), &file("real", at[0]), flags);
    let ours = Manager::start(None, &root.join("ours"), &file("ours", at[1]), flags);
    [theirs, ours]
}

const WEBHOOKS: &str = r#"
route:
  receiver: all
  group_by: [alertname, 'ü"']
  group_wait: 1s
  group_interval: 2s
  repeat_interval: 1h
  routes:
  - {receiver: few, matchers: ['alertname=~"Many"'], continue: true}
  - {receiver: few, matchers: ['broken=~"a.*"'], continue: true}
  - {receiver: all, matchers: ['alertname=~".*"']}
receivers:
- name: all
  webhook_configs: [{url: 'http://ADDRESS/all'}]
- name: few
  webhook_configs:
  - {url: 'http://ADDRESS/few', max_alerts: 2}
  - {url: 'http://ADDRESS/{{ .GroupLabels.alertname }}/t', send_resolved: false}
"#;

/// What the cases are about: quotes, UTF-8, empty and common labels, a line break, which to Alertmanager's expressions no
/// dot is, and a beginning that both are told.
fn cases(start: f64, ended: bool) -> Value {
    let alert = |labels: Value, annotations: Value| {
        let mut alert = json!({"labels": labels, "annotations": annotations, "startsAt": instant(start),
            "generatorURL": "http://prom.example/graph?g0.expr=up+%3D%3D+0&g0.tab=1"});
        if ended {
            alert["endsAt"] = json!(instant(start + 1.0));
        }
        alert
    };
    json!([
        alert(json!({"alertname": "Plain", "job": "b", "instance": "i1"}), json!({"summary": "a <b> & \"c\""})),
        alert(json!({"alertname": "Plain", "job": "a", "instance": "i2"}), json!({"summary": "x"})),
        alert(json!({"alertname": "Quo\"te\\d", "ü\"": "日\n本", "e": ""}), json!({})),
        alert(json!({"alertname": "Many", "n": "3", "job": "x", "shared": "s"}), json!({"d": "1", "c": "c"})),
        alert(json!({"alertname": "Many", "n": "1", "job": "x", "shared": "s"}), json!({"d": "2", "c": "c"})),
        alert(json!({"alertname": "Many", "n": "2", "job": "x", "shared": "s"}), json!({"d": "3", "c": "c"})),
        alert(json!({"alertname": "Line", "broken": "a\nb"}), json!({})),
    ])
}

#[test]
fn the_same_alerts_give_the_same_webhooks_as_a_real_alertmanager() {
    let Some(real) = program("alertmanager") else { return };
    let root = tempfile::tempdir().expect("a folder");
    let stubs = [Stub::start(), Stub::start()];
    let both = side_by_side(root.path(), &real, WEBHOOKS, [stubs[0].address, stubs[1].address], &[]);
    // Upstream tells at once what began longer ago than group_wait; here that counts from when the mesh heard of it.
    let start = wall();
    for (ended, count) in [(false, 6), (true, 11)] {
        both.iter().for_each(|manager| manager.post(&cases(start, ended)));
        stubs.iter().for_each(|stub| drop(stub.wait(count, 15.0)));
        pause(1_500);
    }
    let [theirs, mut ours] = stubs.map(|stub| bodies(&stub.asked()));
    // A field of 0.34.
    if theirs.iter().all(|body| !body.contains("routeLabels")) {
        ours.iter_mut().for_each(|body| *body = body.replace("\"routeLabels\":{},", ""));
    }
    assert_eq!(theirs.len(), 11, "{theirs:#?}");
    // As texts: the order of fields is the same, too.
    assert_eq!(ours, theirs, "{}", both[1].said());
}

/// By path and body; what only says who sends is left out.
fn bodies(asked: &[Asked]) -> Vec<String> {
    let mut all: Vec<String> = asked.iter().map(|asked| format!("{} {}", asked.what, asked.body.trim())).collect();
    all.sort();
    all
}

/// Headers that are about the connection, or say who asks.
const OWN: [&str; 6] = ["host", "user-agent", "accept-encoding", "content-length", "connection", "idempotency-key"];

const SERVICES: &str = r##"
global: {opsgenie_api_url: 'http://ADDRESS/opsgenie/', victorops_api_url: 'http://ADDRESS/victorops/'}
route: {receiver: all, group_by: [alertname], group_wait: 1s, group_interval: 2s, repeat_interval: 1h}
receivers:
- name: all
  slack_configs:
  - {api_url: 'http://ADDRESS/slack1', channel: '#a'}
  - {api_url: 'http://ADDRESS/slack2', channel: '#a', title: 't {{ .Status }}', fields: [{title: f, value: '{{ .CommonLabels.alertname }}', short: true}],
     actions: [{type: button, text: go, url: 'http://x/?a=1&b=2', style: danger, confirm: {text: sure}}], link_names: true, color: good,
     image_url: 'http://i', thumb_url: 'http://t', mrkdwn_in: [text], short_fields: true, username: u, icon_emoji: ':x:', callback_id: c}
  pagerduty_configs:
  - {url: 'http://ADDRESS/pagerduty1', routing_key: k}
  - {url: 'http://ADDRESS/pagerduty2', routing_key: k, details: {a: '{{ .Status }}', b: y, c: 0x1F, d: 1_000, e: 1.50, f: '1', g: Off, h: ~}}
  - {url: 'http://ADDRESS/pagerduty3', routing_key: k, severity: warning, class: c, component: m, group: g, source: s,
     images: [{src: 'http://i', alt: a, href: 'http://h'}], links: [{href: 'http://l', text: t}], client: c, client_url: 'http://c'}
  opsgenie_configs:
  - {api_key: k}
  - {api_key: k, message: m, description: d, source: s, details: {x: y}, responders: [{name: n, type: team}], tags: 'a, b', note: n,
     priority: P1, entity: e, actions: 'x,y', update_alerts: true}
  victorops_configs:
  - {api_key: k, routing_key: r}
  - {api_key: k, routing_key: r, message_type: WARNING, custom_fields: {f: '{{ .Status }}'}}
  telegram_configs:
  - {api_url: 'http://ADDRESS', bot_token: T1, chat_id: 1}
  - {api_url: 'http://ADDRESS', bot_token: T2, chat_id: -5, message: 'm <b>{{ .Status }}</b>', parse_mode: HTML, disable_notifications: true, message_thread_id: 7}
  discord_configs:
  - {webhook_url: 'http://ADDRESS/discord1'}
  - {webhook_url: 'http://ADDRESS/discord2', title: t, message: m, content: c, username: u, avatar_url: 'http://a'}
  msteams_configs:
  - {webhook_url: 'http://ADDRESS/msteams1'}
  - {webhook_url: 'http://ADDRESS/msteams2', title: t, text: x, summary: s}
  msteamsv2_configs:
  - {webhook_url: 'http://ADDRESS/msteamsv21'}
  - {webhook_url: 'http://ADDRESS/msteamsv22', title: t, text: x}
  webex_configs:
  - {api_url: 'http://ADDRESS/webex', room_id: r, http_config: {authorization: {credentials: x}}}
  wechat_configs:
  - {api_url: 'http://ADDRESS/wechat/', api_secret: s, corp_id: c, agent_id: a, to_user: u, to_party: p, to_tag: t}
  - {api_url: 'http://ADDRESS/wechatm/', api_secret: s, corp_id: c, message_type: markdown, message: '**{{ .Status }}**'}
  rocketchat_configs:
  - {api_url: 'http://ADDRESS/rocket/', token: t, token_id: i, channel: '#c'}
  - {api_url: 'http://ADDRESS/rocket2/', token: t, token_id: i, channel: '#c', title: t, text: x, emoji: ':x:', color: red, fields: [{title: f, value: v, short: true}],
     actions: [{type: button, text: go, url: 'http://x', msg: m}], image_url: 'http://i', thumb_url: 'http://t', title_link: 'http://l', link_names: true}
  jira_configs:
  - {api_url: 'http://ADDRESS/jira/rest/api/2/', project: OPS, issue_type: Bug, http_config: {basic_auth: {username: u, password: p}}}
  - {api_url: 'http://ADDRESS/jira2/rest/api/2/', project: OPS, issue_type: Bug, summary: s, description: d, labels: [a, '{{ .Status }}'], priority: High,
     fields: {customfield_1: x, customfield_2: {value: '{{ .CommonLabels.alertname }}'}, customfield_3: [{name: none}], customfield_4: yes, customfield_5: 010, customfield_6: 2024-01-02}, reopen_transition: r, resolve_transition: v}
  mattermost_configs:
  - {webhook_url: 'http://ADDRESS/mattermost1'}
  - {webhook_url: 'http://ADDRESS/mattermost2', channel: c, username: u, text: t, fields: [{title: f, value: '{{ .Status }}'}, {title: g, value: v, short: true}],
     icon_url: 'http://i', icon_emoji: ':x:', type: custom_t, props: {card: '{{ .Status }}'}, priority: {priority: Urgent, requested_ack: true, persistent_notifications: true}}
  - {webhook_url: 'http://ADDRESS/mattermost3', text: 'all {{ .Status }}', attachments: [{text: a, color: red, fields: [{title: f, value: v}]}, {pretext: p, footer: z}],
     props: {card: ''}, priority: {priority: whatever, requested_ack: true, persistent_notifications: true}}
  incidentio_configs:
  - {url: 'http://ADDRESS/incidentio1', alert_source_token: t}
  - {url: 'http://ADDRESS/incidentio2', alert_source_token: t, max_alerts: 1}
  sns_configs:
  - {api_url: 'http://ADDRESS/sns/', topic_arn: 'arn:aws:sns:us-east-1:1:t', sigv4: {region: us-east-1, access_key: a, secret_key: s}, attributes: {k: v}}
"##;

/// How a request is compared: by everything but what differs by its nature.
fn comparable(asked: &Asked) -> (String, Vec<(String, String)>, Value) {
    let headers =
        asked.headers.iter().filter(|(name, _)| !OWN.contains(&name.as_str()) && !name.starts_with("x-promesh"));
    let mut headers: Vec<(String, String)> = headers.cloned().collect();
    // AWS' client speaks of itself, of the time and of both in its signature.
    headers.retain(|(name, _)| !name.starts_with("x-amz") && !name.starts_with("amz-"));
    for (name, value) in &mut headers {
        if name == "authorization" && value.starts_with("AWS4") {
            *value = value.split('/').next().unwrap_or("").to_owned();
        }
    }
    let body = serde_json::from_str(&asked.body).map(sorted).unwrap_or_else(|_| {
        let mut pairs: Vec<&str> = asked.body.split('&').collect();
        pairs.sort_unstable();
        json!(pairs)
    });
    (asked.what.clone(), headers, body)
}

/// JSON with its keys in order, which depends on the language's maps.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            // `routeLabels` is a field of 0.34.
            let kept = fields.into_iter().filter(|(name, value)| name != "routeLabels" || *value != json!({}));
            let fields: BTreeMap<String, Value> = kept.map(|(name, value)| (name, sorted(value))).collect();
            fields.into_iter().collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[test]
fn the_same_alerts_give_the_same_requests_to_every_service_as_a_real_alertmanager() {
    let Some(real) = program("alertmanager") else { return };
    let root = tempfile::tempdir().expect("a folder");
    let stubs = [Stub::start(), Stub::start()];
    let both = side_by_side(root.path(), &real, SERVICES, [stubs[0].address, stubs[1].address], &[]);
    let mut different = Vec::new();
    let start = wall();
    for ended in [false, true] {
        let before = stubs.clone().map(|stub| stub.asked().len());
        let alert = |n: usize| cases(start, ended)[n].clone();
        both.iter().for_each(|manager| manager.post(&json!([alert(0), alert(1)])));
        let mut sides = Vec::new();
        for (stub, before) in stubs.iter().zip(before) {
            // Quiet for two seconds: all has come.
            let mut count = 0;
            while count == 0 || stub.asked().len() > count {
                count = stub.asked().len();
                pause(2_500);
            }
            let mut by_path: BTreeMap<String, Vec<_>> = BTreeMap::new();
            for asked in &stub.asked()[before..] {
                let asked = comparable(asked);
                by_path.entry(asked.0.clone()).or_default().push((asked.1, asked.2.to_string()));
            }
            by_path.values_mut().for_each(|requests| requests.sort());
            sides.push(by_path);
        }
        let paths: std::collections::BTreeSet<&String> = sides.iter().flat_map(BTreeMap::keys).collect();
        for path in paths {
            let [theirs, ours] = [sides[0].get(path), sides[1].get(path)];
            if theirs != ours {
                different.push(format!("ended: {ended} {path}\n theirs {theirs:?}\n   ours {ours:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{}\n{}", different.join("\n"), both[1].said());
}

/// A template that would run for ever, in depth and in breadth.
const HOSTILE: &str = r#"
{{ define "deep" }}{{ template "deep" . }}{{ end }}
{{ define "wide" }}{{ range 9000000000000 }}{{ range 9000000000000 }}x{{ end }}{{ end }}{{ end }}
{{ define "long" }}{{ range 9000000000000 }}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{{ end }}{{ end }}
"#;

#[test]
fn a_hostile_template_ends_and_the_page_goes_out_with_a_marked_text() {
    let root = tempfile::tempdir().expect("a folder");
    let stub = Stub::start();
    write(root.path().join("x.tmpl"), HOSTILE);
    let slack = |name: &str| {
        format!("  - {{api_url: 'http://{}/slack/{name}', title: '{{{{ template \"{name}\" . }}}}'}}\n", stub.address)
    };
    let config = format!(
        "templates: [x.tmpl]\nroute: {{receiver: all, group_wait: 0s}}\nreceivers:\n- name: all\n  slack_configs:\n{}{}{}",
        slack("deep"),
        slack("wide"),
        slack("long")
    );
    let config = write(root.path().join("am.yml"), &config);
    let manager = Manager::start(None, root.path(), &config, &[]);
    manager.post(&json!([posted("A", false)]));
    let mut asked = stub.wait(3, 30.0);
    asked.sort();
    assert_eq!(asked.len(), 3, "{}", manager.said());
    for asked in asked {
        let body: Value = serde_json::from_str(&asked.body).expect("JSON");
        let title = body["attachments"][0]["title"].as_str().expect("a title").to_owned();
        assert!(title.starts_with("[template failed: ") && title.contains("firing"), "{}: {title}", asked.what);
    }
    assert_eq!(get(manager.port, "/-/healthy").0, 200);
    assert!(manager.said().contains("template"), "{}", manager.said());
}

/// The answers of both to the same requests.
fn same_answers(both: &[Manager; 2], requests: &[(&str, Value)]) {
    for (path, body) in requests {
        let ask = |manager: &Manager| {
            let (status, answer) =
                if body.is_null() { get(manager.port, path) } else { send_json(manager.port, path, body) };
            // Ids and sizes are each one's own.
            let answer = if answer.contains("silenceID") { "an id".to_owned() } else { answer };
            let answer: String = answer.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            (status, answer.trim().to_owned())
        };
        assert_eq!(ask(&both[1]), ask(&both[0]), "{path} {body}");
    }
}

#[test]
fn matcher_modes_and_limits_are_those_of_a_real_alertmanager() {
    let Some(real) = program("alertmanager") else { return };
    let config = "route: {receiver: all}\nreceivers: [{name: all}]\n";
    let silence = |name: &str, comment: &str| {
        json!({"matchers": [{"name": name, "value": "x", "isRegex": false}], "startsAt": instant(wall()),
            "endsAt": instant(wall() + 600.0), "createdBy": "me", "comment": comment})
    };
    let alert = |name: &str| json!([{"labels": {"alertname": "A", name: "x"}}]);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    for mode in ["", "classic-mode", "utf8-strict-mode"] {
        let root = tempfile::tempdir().expect("a folder");
        let flag = format!("--enable-feature={mode}");
        let both = side_by_side(root.path(), &real, config, [address; 2], &[&flag]);
        let mut requests = Vec::new();
        for filter in ["foo=a%20b", "%22a%20b%22=c", "%7Ba=b%7D", "a=b,c=d", "%C3%BC=x", "foo=", "foo", "a%3D%5C"] {
            let path = format!("/api/v2/alerts?filter={filter}");
            requests.push((path.clone(), Value::Null));
            requests.push((path.replace("alerts", "silences"), Value::Null));
        }
        for name in ["fine", "ü", "a b", "0"] {
            requests.push(("/api/v2/alerts".to_owned(), alert(name)));
            requests.push(("/api/v2/silences".to_owned(), silence(name, "c")));
        }
        let requests: Vec<(&str, Value)> = requests.iter().map(|(path, body)| (path.as_str(), body.clone())).collect();
        same_answers(&both, &requests);
    }
    let root = tempfile::tempdir().expect("a folder");
    let limits =
        ["--silences.max-silences=2", "--silences.max-silence-size-bytes=300", "--alerts.per-alertname-limit=2"];
    let both = side_by_side(root.path(), &real, config, [address; 2], &limits);
    let posts = |value: Value| ("/api/v2/silences", value);
    same_answers(
        &both,
        &[
            posts(silence("a", &"long".repeat(100))),
            posts(silence("a", "c")),
            posts(silence("b", "c")),
            posts(silence("c", "one too many")),
            (
                "/api/v2/alerts",
                json!([{"labels": {"alertname": "A", "n": "1"}}, {"labels": {"alertname": "A", "n": "2"}}]),
            ),
            (
                "/api/v2/alerts",
                json!([{"labels": {"alertname": "A", "n": "3"}}, {"labels": {"alertname": "B", "n": "1"}}]),
            ),
            ("/api/v2/alerts", json!([{"labels": {"alertname": "A", "n": "1"}}])),
        ],
    );
    for manager in &both {
        let alerts: Value = serde_json::from_str(&get(manager.port, "/api/v2/alerts").1).expect("JSON");
        let mut names: Vec<String> =
            alerts.as_array().into_iter().flatten().map(|alert| alert["labels"].to_string()).collect();
        names.sort();
        let left = [r#"{"alertname":"A","n":"1"}"#, r#"{"alertname":"A","n":"2"}"#, r#"{"alertname":"B","n":"1"}"#];
        assert_eq!(names, left);
        let metrics = get(manager.port, "/metrics").1;
        let limited = metrics.lines().find(|line| line.starts_with("alertmanager_alerts_limited_total"));
        assert!(limited.is_some_and(|line| line.ends_with(" 1")), "{limited:?}");
    }
}

/// What upstream's mixin asks for, and the labels that it relies on.
const MIXIN: [(&str, &[&str]); 13] = [
    ("alertmanager_alerts", &["state"]),
    ("alertmanager_alerts_invalid_total", &["version"]),
    ("alertmanager_alerts_received_total", &["status", "version"]),
    ("alertmanager_cluster_failed_peers", &[]),
    ("alertmanager_cluster_members", &[]),
    ("alertmanager_config_hash", &[]),
    ("alertmanager_config_last_reload_successful", &[]),
    ("alertmanager_notification_latency_seconds_bucket", &["integration", "le"]),
    ("alertmanager_notification_latency_seconds_count", &["integration"]),
    ("alertmanager_notification_latency_seconds_sum", &["integration"]),
    ("alertmanager_notifications_failed_total", &["integration", "reason"]),
    ("alertmanager_notifications_total", &["integration"]),
    ("process_start_time_seconds", &[]),
];

#[test]
fn the_mixins_metrics_are_there_with_the_labels_of_a_real_alertmanager() {
    let Some(real) = program("alertmanager") else { return };
    let root = tempfile::tempdir().expect("a folder");
    let hooks = [Stub::start(), Stub::start()];
    let mesh = ["--cluster.listen-address=127.0.0.1:0"];
    let config = "route: {receiver: all, group_wait: 0s}\nreceivers: [{name: all, webhook_configs: [{url: 'http://ADDRESS/'}]}]\n";
    let both = side_by_side(root.path(), &real, config, [hooks[0].address, hooks[1].address], &mesh);
    both.iter().for_each(|manager| manager.post(&json!([posted("A", false)])));
    hooks.iter().for_each(|hook| drop(hook.wait(1, 30.0)));
    pause(500);
    let [theirs, ours] = both.map(|manager| get(manager.port, "/metrics").1);
    for (name, labels) in MIXIN {
        let names = |page: &str| -> Vec<Vec<String>> {
            let series = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(['{', ' ']));
            let names = |rest: &str| -> Vec<String> {
                let pairs = rest.split_once('}').map_or("", |(pairs, _)| pairs);
                pairs.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())).collect()
            };
            let mut all: Vec<_> = series
                .map(|rest| {
                    let mut names = names(rest);
                    names.sort();
                    names
                })
                .collect();
            all.sort();
            all.dedup();
            all
        };
        let expected = [labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>()];
        assert_eq!((names(&ours), names(&theirs)), (expected.to_vec(), expected.to_vec()), "{name}");
    }
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

#[test]
fn amtools_work_is_done_with_its_output_and_exit_codes() {
    let (Some(real), Some(amtool)) = (program("alertmanager"), program("amtool")) else { return };
    let root = tempfile::tempdir().expect("a folder");
    let file = write(root.path().join("am.yml"), &WEBHOOKS.replace("ADDRESS", "127.0.0.1:1"));
    let bad = write(root.path().join("bad.yml"), "route: {receiver: a}\n");
    let (file, bad) = (file.to_string_lossy(), bad.to_string_lossy());
    let ours = Path::new(env!("CARGO_BIN_EXE_promesh"));
    // amtool and ours talk to both: four ways, one output.
    let real = Manager::start(Some(&real), &root.path().join("real"), Path::new(&*file), &[]);
    let own = Manager::start(None, &root.path().join("own"), Path::new(&*file), &[]);
    for (server, writer) in [(&real, ours), (&own, &*amtool)] {
        let url = format!("--alertmanager.url=http://127.0.0.1:{}", server.port);
        let both = |own: &[&str], amtools: &[&str]| {
            let with_url = |arguments: &[&str]| -> Vec<String> {
                let url = Some(url.clone())
                    .filter(|_| !arguments.iter().any(|argument| argument.starts_with("--config.file")));
                arguments.iter().map(|argument| (*argument).to_owned()).chain(url).collect()
            };
            let run = |program: &Path, arguments: &[&str]| {
                let arguments = with_url(arguments);
                let output = run(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
                (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code(), output.stderr)
            };
            let (mine, theirs) = (run(ours, own), run(&amtool, amtools));
            assert_eq!((&mine.0, mine.1), (&theirs.0, theirs.1), "{own:?}: {}", String::from_utf8_lossy(&mine.2));
            mine.0
        };
        let is_ours = writer == ours;
        let write = |own: &[&str], amtools: &[&str]| {
            let arguments: Vec<&str> = if is_ours { own } else { amtools }.iter().copied().chain([&*url]).collect();
            let output = run(writer, &arguments);
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let details = [
            "foo",
            "node=bar",
            "--annotation=summary=\"it is\"",
            "--start=2026-01-02T03:04:05Z",
            "--end=2099-01-01T00:00:00Z",
        ];
        write(&[&["alerts", "add"], &details[..]].concat(), &[&["alert", "add"], &details[..]].concat());
        let silence =
            ["zed!=x", "job=~\"y.*\"", "-c", "two words", "-a", "me", "--start=2098-01-01T00:00:00Z", "-d", "2h"];
        let id = write(&[&["silences", "add"], &silence[..]].concat(), &[&["silence", "add"], &silence[..]].concat());
        assert_eq!(id.len(), 36, "{id}");
        for form in ["simple", "extended", "json"] {
            for arguments in [&[][..], &["foo"], &["node=~\"b.*\""], &["-s"], &["--receiver=al.*"], &["{a=b}"]] {
                both(
                    &[&["alerts", "query", "-o", form], arguments].concat(),
                    &[&["-o", form, "alert", "query"], arguments].concat(),
                );
            }
            for arguments in [&[][..], &["job=~\"y.*\""], &["--within=1h"], &["--created-by=you"], &["--expired"]] {
                both(
                    &[&["silences", "query", "-o", form], arguments].concat(),
                    &[&["-o", form, "silence", "query"], arguments].concat(),
                );
            }
        }
        assert!(both(&["silences", "query", "-q"], &["silence", "query", "-q"]).contains(&id));
        both(
            &["silences", "update", "-d", "3h", "-c", "new", &id],
            &["silence", "update", "-d", "3h", "-c", "new", &id],
        );
        both(&["silences", "add", "a=b"], &["silence", "add", "a=b"]);
        both(&["silences", "expire", &id], &["silence", "expire", &id]);
        both(&["silences", "expire"], &["silence", "expire"]);
        both(&["config", "routes"], &["config", "routes"]);
        both(&["config", "show"], &["config", "show"]);
        let config = format!("--config.file={file}");
        let labels = ["alertname=Many", "--tree", "--verify.receivers=few,all"];
        both(
            &[&["config", "routes", "test", &config], &labels[..]].concat(),
            &[&["config", "routes", "test", &config], &labels[..]].concat(),
        );
        both(
            &["config", "routes", "test", &config, "a=b", "--verify.receivers=few"],
            &["config", "routes", "test", &config, "a=b", "--verify.receivers=few"],
        );
    }
    let codes = |arguments: &[&str]| {
        (run(ours, arguments).status.code(), run(ours, &[&["check-config"], &arguments[2..]].concat()).status.code())
    };
    assert_eq!(codes(&["check", "alertmanager", &file]), (Some(0), Some(0)));
    assert_eq!(codes(&["check", "alertmanager", &file, &bad]), (Some(1), Some(1)));
    assert_eq!(run(ours, &["check", "alertmanager", &file]).stdout, run(&amtool, &["check-config", &file]).stdout);
}
