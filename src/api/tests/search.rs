//! Names that resemble what is typed.

use super::{ApiOptions, Fixture, get, options, over, over_with};

async fn check(path: &str, expected: &str) {
    let router = over_with(ApiOptions { enable_search: true, ..options() });
    let reply = get(&router, &format!("/api/v1/search/{path}")).await;
    assert_eq!(reply.text().trim_end(), expected, "{path}");
}

fn refused(error: &str) -> String {
    serde_json::json!({"status": "error", "errorType": "bad_data", "error": error}).to_string()
}

#[tokio::test]
async fn names_come_in_batches_with_a_last_line() {
    let all = "start=0&end=2000000000";
    let done = "{\"status\":\"success\",\"has_more\":false}";
    let empty = format!("{{\"results\":[]}}\n{done}");
    check(&format!("metric_names?{all}&search[]=nonsense"), &empty).await;
    check(&format!("label_values?{all}&label=none"), &empty).await;
    let router = over_with(ApiOptions { enable_search: true, ..options() });
    let reply = get(&router, &format!("/api/v1/search/label_names?{all}&batch_size=1&limit=2&include_score=1")).await;
    assert_eq!(reply.header("content-type"), "application/x-ndjson; charset=utf-8");
    let text = reply.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[..2].iter().all(|line| line["results"][0]["score"] == 1.0), "{text}");
    assert_eq!(lines[0]["results"][0]["name"], "__name__", "{text}");
    assert_eq!(lines[2]["status"], "success");
}

#[tokio::test]
async fn bad_parameters_are_refused_with_upstreams_texts() {
    for (parameters, error) in [
        ("metric_names?fuzz_threshold=101", "invalid fuzz_threshold \"101\": must be 0-100"),
        ("metric_names?fuzz_threshold=x", "invalid fuzz_threshold \"x\": must be 0-100"),
        ("metric_names?fuzz_alg=x", "unsupported fuzz_alg \"x\": must be one of [subsequence jarowinkler]"),
        ("metric_names?case_sensitive=x", "invalid case_sensitive \"x\": must be boolean"),
        ("metric_names?include_metadata=x", "invalid include_metadata \"x\": must be boolean"),
        ("label_names?sort_dir=asc", "sort_dir is only valid when sort_by is set"),
        ("label_names?sort_by=score&sort_dir=asc", "sort_dir is not supported for sort_by=score"),
        ("label_names?sort_by=alpha&sort_dir=up", "invalid sort_dir \"up\": must be \"asc\" or \"dsc\""),
        ("label_names?sort_by=score", "sort_by=score requires search[] to be set"),
        ("label_names?sort_by=x", "invalid sort_by \"x\" for label_names: must be \"alpha\" or \"score\""),
        ("label_values?label=a&limit=-1", "invalid limit \"-1\": must be non-negative integer"),
        ("label_values?label=a&batch_size=x", "invalid batch_size \"x\": must be non-negative integer"),
        ("label_values?search[]=a", "missing required parameter \"label\""),
    ] {
        check(parameters, &refused(error)).await;
    }
    let reply = get(&over(Fixture::default()), "/api/v1/search/metric_names").await;
    assert!(reply.text().contains("search API disabled"), "{}", reply.text());
}
