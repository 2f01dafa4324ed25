//! Requests with the answers of a real Prometheus.

use axum::body::Body;
use http::Method;
use serde_json::Value;

use super::{Fixture, Reply, get, over, request, send};

/// One row of the table.
#[derive(Debug, Default)]
struct Row {
    method: String,
    path: String,
    form: String,
    status: u16,
    content_type: String,
    body: String,
    /// Why it is answered otherwise here.
    differs: Option<String>,
}

fn rows() -> Vec<Row> {
    let table = include_str!("table.txt");
    table.split("\n\n").filter_map(row).collect()
}

fn row(block: &str) -> Option<Row> {
    let mut row = Row::default();
    let mut body = Vec::new();
    // The table's own heading; elsewhere a number sign begins an exposition.
    let lines = if block.starts_with("# Requests") { "" } else { block };
    for line in lines.lines() {
        if let Some(why) = line.strip_prefix("! ") {
            row.differs = Some(why.to_owned());
        } else if row.method.is_empty() {
            let (method, path) = line.split_once(' ')?;
            (row.method, row.path) = (method.to_owned(), path.to_owned());
        } else if let Some(form) = line.strip_prefix("> ") {
            row.form = form.to_owned();
        } else if row.status == 0 {
            let (status, content_type) = line.split_once(' ').unwrap_or((line, ""));
            (row.status, row.content_type) = (status.parse().expect("a status"), content_type.to_owned());
        } else {
            body.push(line);
        }
    }
    row.body = body.join("\n");
    (row.status != 0).then_some(row)
}

async fn ask(router: &axum::Router, row: &Row) -> Reply {
    let method: Method = row.method.parse().expect("a method");
    let builder = request(method, &row.path).header("content-type", "application/x-www-form-urlencoded");
    send(router, builder.body(Body::from(row.form.clone())).expect("a request")).await
}

/// Equal as JSON if both are JSON, else as texts.
fn same(ours: &str, theirs: &str) -> bool {
    match (serde_json::from_str::<Value>(ours), serde_json::from_str::<Value>(theirs)) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        _ => ours == theirs,
    }
}

#[tokio::test]
async fn every_request_is_answered_as_prometheus_answers_it() {
    let router = over(Fixture::default());
    let (mut wrong, mut count) = (Vec::new(), 0);
    for row in rows() {
        let reply = ask(&router, &row).await;
        let body = reply.text();
        let ours = (reply.status.as_u16(), reply.header("content-type"), body.trim_end_matches('\n'));
        let agrees = ours.0 == row.status && ours.1 == row.content_type && same(ours.2, &row.body);
        if agrees == row.differs.is_some() {
            wrong.push(format!(
                "{} {} {}\n  theirs {} {} {}\n  ours   {} {} {}",
                row.method, row.path, row.form, row.status, row.content_type, row.body, ours.0, ours.1, ours.2
            ));
        }
        count += 1;
    }
    assert!(count > 100, "{count} rows");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn answers_with_data_have_the_shape_of_prometheus() {
    let router = over(Fixture::default());
    for (path, expected) in [
        (
            "/api/v1/query?query=up",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","instance":"127.0.0.1:39490","job":"self"},"value":[1795379892.504,"1"]}]}}"#,
        ),
        (
            "/api/v1/series?match[]=up",
            r#"{"status":"success","data":[{"__name__":"up","instance":"127.0.0.1:39490","job":"self"}]}"#,
        ),
        ("/api/v1/labels?match[]=up", r#"{"status":"success","data":["__name__","instance","job"]}"#),
        (
            "/api/v1/labels?limit=2",
            r#"{"status":"success","data":["__name__","instance"],"warnings":["results truncated due to limit"]}"#,
        ),
        ("/api/v1/label/job/values", r#"{"status":"success","data":["self"]}"#),
        ("/api/v1/label/U__job/values", r#"{"status":"success","data":["self"]}"#),
        ("/federate?match[]=up", "# TYPE up untyped\nup{instance=\"127.0.0.1:39490\",job=\"self\"} 1 1795379892504\n"),
        (
            "/api/v1/targets?state=dropped",
            r#"{"status":"success","data":{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{"self":0}}}"#,
        ),
        (
            "/api/v1/targets?state=bogus",
            r#"{"status":"success","data":{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":null}}"#,
        ),
        ("/api/v1/scrape_pools", r#"{"status":"success","data":{"scrapePools":["self"]}}"#),
        (
            "/api/v1/targets/metadata?metric=go_goroutines",
            r#"{"status":"success","data":[{"target":{"instance":"127.0.0.1:39490","job":"self"},"type":"gauge","help":"Number of goroutines that currently exist.","unit":""}]}"#,
        ),
        (
            "/api/v1/metadata?limit=1&metric=go_goroutines",
            r#"{"status":"success","data":{"go_goroutines":[{"type":"gauge","unit":"","help":"Number of goroutines that currently exist."}]}}"#,
        ),
        (
            "/api/v1/rules?type=record&rule_name[]=r1",
            r#"{"status":"success","data":{"groups":[{"name":"g","file":"rules.yml","rules":[{"name":"r1","query":"up","health":"ok","evaluationTime":0.5,"lastEvaluation":"2026-11-22T20:37:17Z","type":"recording"}],"interval":60,"limit":0,"evaluationTime":0.5,"lastEvaluation":"2026-11-22T20:37:17Z"}]}}"#,
        ),
        (
            r#"/api/v1/rules?match[]={severity="page"}&exclude_alerts=true"#,
            r#"{"status":"success","data":{"groups":[{"name":"g","file":"rules.yml","rules":[{"state":"firing","name":"A","query":"up == 1","duration":0,"keepFiringFor":0,"labels":{"severity":"page"},"annotations":{"summary":"hello"},"alerts":null,"health":"ok","evaluationTime":0.5,"lastEvaluation":"2026-11-22T20:37:17Z","type":"alerting"}],"interval":60,"limit":0,"evaluationTime":0.5,"lastEvaluation":"2026-11-22T20:37:17Z"}]}}"#,
        ),
        (
            "/api/v1/alerts",
            r#"{"status":"success","data":{"alerts":[{"labels":{"alertname":"A","severity":"page"},"annotations":{"summary":"hello"},"state":"firing","activeAt":"2026-11-22T20:27:17.4Z","value":"1e+00"}]}}"#,
        ),
    ] {
        let reply = get(&router, path).await;
        let text = reply.text();
        assert!(same(&text, expected), "{path}\n  ours   {text}\n  theirs {expected}");
    }
}

#[tokio::test]
async fn rules_come_in_pages() {
    let router = over(Fixture::default());
    let first = get(&router, "/api/v1/rules?group_limit=1").await;
    let first: Value = serde_json::from_slice(&first.body).expect("JSON");
    assert_eq!(first["data"]["groups"][0]["name"], "g");
    let token = first["data"]["groupNextToken"].as_str().expect("there is more");
    let second = get(&router, &format!("/api/v1/rules?group_limit=1&group_next_token={token}")).await;
    let second: Value = serde_json::from_slice(&second.body).expect("JSON");
    assert_eq!(second["data"]["groups"][0]["name"], "h");
    assert!(second["data"].get("groupNextToken").is_none());
}

#[tokio::test]
async fn statistics_are_given_when_asked_for() {
    let router = over(Fixture::default());
    let reply = get(&router, "/api/v1/query?query=up&stats=all").await;
    let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(answer["data"]["stats"]["samples"]["totalQueryableSamples"], 1);
    assert!(answer["data"]["stats"]["timings"]["execTotalTime"].is_number());
    assert!(answer["data"]["stats"]["samples"]["totalQueryableSamplesPerStep"].is_array());
    assert!(!get(&router, "/api/v1/query?query=up").await.text().contains("stats"));
}
