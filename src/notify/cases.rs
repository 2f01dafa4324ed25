//! What receivers get, to the byte, and what their answers mean.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promesh_alerting::nflog::LogKey;
use promesh_alerting::{Notification, NotifiedAlert, Outcome};
use promesh_client::Gate;
use promesh_config::alertmanager::{IntegrationName, load};
use promesh_model::{Labels, Monotonic, Timestamp};
use promesh_template::Template;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{Message, Notifiers};

mod talks;

fn notification(kind: &'static str) -> Notification {
    let alert = |instance: &str, ends_at: Option<i64>| NotifiedAlert {
        labels: Labels::from_pairs([("alertname", "Down"), ("job", "node"), ("instance", instance)]),
        annotations: Labels::from_pairs([("summary", "it is <down>")]),
        starts_at: Timestamp(1_704_096_930_000),
        ends_at: ends_at.map(Timestamp),
        generator_url: "http://prom/graph".to_owned(),
    };
    Notification {
        key: LogKey {
            group_key: "{}:{alertname=\"Down\"}".to_owned(),
            receiver: "team".to_owned(),
            integration: kind.to_owned(),
            index: 0,
            twin: 0,
        },
        integration: IntegrationName { kind, index: 0, send_resolved: true },
        flush: Timestamp(1_704_096_960_000),
        now: Timestamp(1_704_096_960_000),
        group_labels: Labels::from_pairs([("alertname", "Down")]),
        route_labels: Labels::from_pairs([("owner", "{{ .GroupLabels.alertname }} team")]),
        alerts: vec![alert("a", None), alert("b", Some(1_704_096_950_500))],
        reason: "first notification",
        idempotency_key: "00ff".to_owned(),
        degraded: false,
        data: Default::default(),
        is_new: true,
        fails_at: Monotonic(u64::MAX),
    }
}

fn notifiers(receiver: &str) -> Notifiers {
    let text = format!("route: {{receiver: team}}\nreceivers:\n- name: team\n{receiver}");
    let config = load("a.yml", text.as_bytes(), Path::new("")).expect(&text);
    Notifiers::new(Arc::new(config), Template::alertmanager(), "http://am".to_owned()).expect("usable settings")
}

/// The requests of a receiver as text: method, URL, headers, body.
async fn shown(receiver: &str, kind: &'static str) -> String {
    let notifiers = notifiers(receiver);
    let notification = notification(kind);
    let message = Message::new(&notification, &notifiers.template, "http://am");
    let plan = notifiers.calls(&notifiers.config.receivers[0], kind, 0, &message).await.expect("it can be built");
    let call = |call: &crate::Call| {
        let headers: Vec<String> = call.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        format!("{} {}\n{}{}", call.method, call.url, headers.concat(), call.body)
    };
    plan.calls.iter().map(call).collect::<Vec<_>>().join("\n---\n")
}

#[tokio::test]
async fn webhooks_get_version_4() {
    let body = shown("  webhook_configs: [{url: 'http://hook/{{ .Status }}', max_alerts: 1}]", "webhook").await;
    expect_test::expect![[r#"
        POST http://hook/firing
        idempotency-key: 00ff
        {"receiver":"team","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"Down","instance":"a","job":"node"},"annotations":{"summary":"it is \u003cdown\u003e"},"startsAt":"2024-01-01T08:15:30Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://prom/graph","fingerprint":"fa1f18494c760c21"}],"notification_reason":"first notification","groupLabels":{"alertname":"Down"},"commonLabels":{"alertname":"Down","instance":"a","job":"node"},"commonAnnotations":{"summary":"it is \u003cdown\u003e"},"routeLabels":{"owner":"Down team"},"externalURL":"http://am","version":"4","groupKey":"{}:{alertname=\"Down\"}","truncatedAlerts":1}
    "#]].assert_eq(&body);
    let own = "  webhook_configs: [{url: 'http://hook/', payload: {text: '{{ .Status }}', count: '{{ len .Alerts }}', labels: '{{ .CommonLabels | toJson }}', n: 3}}]";
    let body = shown(own, "webhook").await;
    assert!(
        body.ends_with(r#"{"text":"firing","count":2,"labels":{"alertname":"Down","job":"node"},"n":3}"#),
        "{body}"
    );
}

#[tokio::test]
async fn golden_payloads() {
    let mut all = String::new();
    for (kind, receiver) in [
        (
            "slack",
            "  slack_configs: [{api_url: 'http://slack/x', channel: '#a', fields: [{title: t, value: '{{ len .Alerts }}'}]}]",
        ),
        ("pagerduty", "  pagerduty_configs: [{routing_key: k, details: {firing: x, resolved: yes}}]"),
        (
            "opsgenie",
            "  opsgenie_configs: [{api_key: k, tags: 'a,b', update_alerts: true, responders: [{name: 'x,y', type: teams}]}]",
        ),
        ("discord", "  discord_configs: [{webhook_url: 'http://discord/x', message: m}]"),
        ("msteams", "  msteams_configs: [{webhook_url: 'http://teams/x', text: t}]"),
        ("msteamsv2", "  msteamsv2_configs: [{webhook_url: 'http://teams/x', text: t}]"),
        ("telegram", "  telegram_configs: [{bot_token: secret, chat_id: 7, message: '{{ \"<\" }}b'}]"),
        ("webex", "  webex_configs: [{room_id: r, message: m, http_config: {authorization: {credentials: c}}}]"),
        ("mattermost", "  mattermost_configs: [{webhook_url: 'http://mm/x', text: t}]"),
        ("rocketchat", "  rocketchat_configs: [{token: t, token_id: i, channel: c}]"),
        ("pushover", "  pushover_configs: [{token: t, user_key: u, message: m}]"),
        ("victorops", "  victorops_configs: [{api_key: k, routing_key: r, state_message: s}]"),
    ] {
        all.push_str(&format!("== {kind}\n{}\n", shown(receiver, kind).await));
    }
    expect_test::expect![[r##"
        == slack
        POST http://slack/x
        {"channel":"#a","username":"Alertmanager","attachments":[{"title":"[FIRING:1] Down (node)","title_link":"http://am/#/alerts?receiver=team","text":"","fallback":"[FIRING:1] Down (node) | http://am/#/alerts?receiver=team","callback_id":"","fields":[{"title":"t","value":"2","short":false}],"footer":"","color":"danger","mrkdwn_in":["fallback","pretext","text"]}]}
        == pagerduty
        POST https://events.pagerduty.com/v2/enqueue
        {"routing_key":"k","dedup_key":"af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e","event_action":"trigger","payload":{"summary":"[FIRING:1] Down (node)","source":"Alertmanager","severity":"error","custom_details":{"firing":"x","num_firing":1,"num_resolved":1,"resolved":true}},"client":"Alertmanager","client_url":"http://am/#/alerts?receiver=team"}
        == opsgenie
        POST https://api.opsgenie.com/v2/alerts
        authorization: GenieKey k
        {"alias":"af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e","message":"[FIRING:1] Down (node)","description":"it is <down>\nAlerts Firing:\nLabels:\n - alertname = Down\n - instance = a\n - job = node\nAnnotations:\n - summary = it is <down>\nSource: http://prom/graph\n\nAlerts Resolved:\nLabels:\n - alertname = Down\n - instance = b\n - job = node\nAnnotations:\n - summary = it is <down>\nSource: http://prom/graph\n","details":{"alertname":"Down","job":"node"},"source":"http://am/#/alerts?receiver=team","responders":[{"name":"x","type":"team"},{"name":"y","type":"team"}],"tags":["a","b"]}
        ---
        PUT https://api.opsgenie.com/v2/alerts/af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e/message?identifierType=alias
        authorization: GenieKey k
        {"message":"[FIRING:1] Down (node)"}
        ---
        PUT https://api.opsgenie.com/v2/alerts/af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e/description?identifierType=alias
        authorization: GenieKey k
        {"description":"it is <down>\nAlerts Firing:\nLabels:\n - alertname = Down\n - instance = a\n - job = node\nAnnotations:\n - summary = it is <down>\nSource: http://prom/graph\n\nAlerts Resolved:\nLabels:\n - alertname = Down\n - instance = b\n - job = node\nAnnotations:\n - summary = it is <down>\nSource: http://prom/graph\n"}
        == discord
        POST http://discord/x
        {"content":"","embeds":[{"title":"[FIRING:1] Down (node)","description":"m","color":10038562}]}
        == msteams
        POST http://teams/x
        {"@context":"http://schema.org/extensions","type":"MessageCard","title":"[FIRING:1] Down (node)","summary":"[FIRING:1] Down (node)","text":"t","themeColor":"8C1A1A"}
        == msteamsv2
        POST http://teams/x
        {"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive","contentUrl":null,"content":{"$schema":"http://adaptivecards.io/schemas/adaptive-card.json","type":"AdaptiveCard","version":"1.2","body":[{"type":"TextBlock","text":"[FIRING:1] Down (node)","weight":"Bolder","size":"Medium","wrap":true,"style":"heading","color":"Attention"},{"type":"TextBlock","text":"t","wrap":true}],"msteams":{"width":"full"}}}]}
        == telegram
        POST https://api.telegram.org/botsecret/sendMessage
        {"chat_id":"7","text":"&lt;b","disable_web_page_preview":"true","parse_mode":"HTML"}
        == webex
        POST https://webexapis.com/v1/messages
        {"markdown":"m","roomId":"r"}
        == mattermost
        POST http://mm/x
        {"username":"Alertmanager","attachments":[{"fallback":"[FIRING:1] Down (node) | http://am/#/alerts?receiver=team","color":"danger","text":"t","title":"[FIRING:1] Down (node)","title_link":"http://am/#/alerts?receiver=team"}]}
        == rocketchat
        POST https://open.rocket.chat/api/v1/chat.postMessage
        x-auth-token: t
        x-user-id: i
        {"channel":"c","attachments":[{"title":"[FIRING:1] Down (node)","title_link":"http://am/#/alerts?receiver=team","color":"red"}]}
        == pushover
        POST https://api.pushover.net/1/messages.json
        token=t&user=u&title=%5BFIRING%3A1%5D+Down+%28node%29&message=m&url=http%3A%2F%2Fam%2F%23%2Falerts%3Freceiver%3Dteam&url_title=&priority=2&retry=60&expire=3600&device=&sound=
        == victorops
        POST https://alert.victorops.com/integrations/generic/20131114/alert/k/r
        {"message_type":"CRITICAL","entity_id":"af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e","entity_display_name":"[FIRING:1] Down (node)","monitoring_tool":"Alertmanager","state_message":"s"}
    "##]].assert_eq(&all);
}

#[tokio::test]
async fn a_failing_template_does_not_keep_a_page_from_going_out() {
    let receiver =
        "  discord_configs: [{webhook_url: 'http://discord/x', message: '{{ .Nope }}', title: '{{ template \"x\" }}'}]";
    let body = shown(receiver, "discord").await;
    assert!(
        body.contains("[template failed: template: :1:3: executing") && body.contains("firing {alertname="),
        "{body}"
    );
}

#[tokio::test]
async fn a_hostile_template_ends_and_the_page_goes_out_marked() {
    let deep = r#"{{ define "a" }}{{ template "a" . }}{{ template "a" . }}{{ end }}{{ template "a" . }}"#;
    let wide = "{{ define \"b\" }}{{ range .Alerts }}{{ template \"b\" $ }}{{ end }}{{ end }}{{ template \"b\" . }}";
    for text in [deep, wide] {
        let quoted = serde_json::Value::from(text);
        let body =
            shown(&format!("  discord_configs: [{{webhook_url: 'http://discord/x', message: {quoted}}}]"), "discord")
                .await;
        let marked = body.contains("[template failed: ") && body.contains("firing {alertname=");
        assert!(marked, "{body}");
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.expect("readable");
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0)
        });
        if whole || read == 0 {
            return text;
        }
    }
}

/// Answers each request with the next answer; gives what was asked.
async fn stub(answers: Vec<&'static str>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a client");
            asked.push(read_request(&mut stream).await);
            stream.write_all(answer.as_bytes()).await.expect("writable");
        }
        asked
    });
    (format!("http://{address}/hook"), task)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BUSY: &str =
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow";
const BAD: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbad";

#[tokio::test]
async fn answers_become_outcomes() {
    let (url, task) = stub(vec![OK, BUSY, BAD]).await;
    let notifiers = notifiers(&format!("  webhook_configs: [{{url: '{url}'}}]"));
    let notification = notification("webhook");
    let open = || Gate::new(|| true);
    assert_eq!(notifiers.deliver(&notification, open()).await, Outcome::Sent { data: Default::default() });
    let retry =
        Outcome::Retry { after: Some(Duration::from_secs(7)), why: "unexpected status code 429: slow".to_owned() };
    assert_eq!(notifiers.deliver(&notification, open()).await, retry);
    let refused = Outcome::Refused { why: "unexpected status code 400: bad".to_owned() };
    assert_eq!(notifiers.deliver(&notification, open()).await, refused);
    let asked = task.await.expect("the stub ends");
    let first = asked[0].to_ascii_lowercase();
    assert!(first.starts_with("post /hook http/1.1\r\n") && first.contains("\r\nidempotency-key: 00ff\r\n"), "{first}");
    assert!(first.contains("\r\ncontent-type: application/json\r\n") && first.contains("\"version\":\"4\""), "{first}");
}

#[tokio::test]
async fn nothing_is_sent_after_the_lease() {
    let (url, task) = stub(vec![OK]).await;
    let notifiers = notifiers(&format!("  webhook_configs: [{{url: '{url}'}}]"));
    let outcome = notifiers.deliver(&notification("webhook"), Gate::new(|| false)).await;
    assert_eq!(outcome, Outcome::Expired);
    // The client may have closed before it said anything.
    let asked = tokio::time::timeout(Duration::from_secs(2), task).await;
    let body = matches!(asked, Ok(Ok(asked)) if asked[0].contains("groupKey"));
    assert!(!body, "the receiver got a body");
}
