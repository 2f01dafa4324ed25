//! Traces of a peer, as a collector hears of them.

use crate::support::stub::Stub;
use crate::support::{Peer, exchange, pause, wall};

/// Ids whose bytes are text, so that they are found in what is sent: `the-trace-of-one` and `a-parent`.
const TRACEPARENT: &str = "traceparent: 00-7468652d74726163652d6f662d6f6e65-612d706172656e74-01\r\n";

#[test]
fn a_query_continues_the_trace_of_who_asks_and_a_reload_ends_the_sending() {
    let root = tempfile::tempdir().expect("a folder");
    let collector = Stub::start();
    let config = root.path().join("p.yml");
    let write = |tracing: &str, port: u16| {
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs:\n- {{job_name: own, static_configs: [{{targets: ['127.0.0.1:{port}', '{}']}}]}}\n{tracing}",
            collector.address
        );
        std::fs::write(&config, text).expect("written");
    };
    let rules = "groups: [{name: counted, rules: [{record: twice, expr: up * 2}]}]\n";
    std::fs::write(root.path().join("rules.yml"), rules).expect("written");
    let mut peer = Peer::new(root.path(), "one", &config, &[]);
    let section = |fraction: &str| {
        format!(
            "tracing: {{client_type: http, endpoint: '{}', insecure: true, sampling_fraction: {fraction}, headers: {{x-own: v}}}}\n",
            collector.address
        )
    };
    write(&section("1"), peer.web);
    peer.start();
    peer.wait_ready();
    let asked = |path: &str| exchange(peer.web, "GET", path, TRACEPARENT, b"");
    assert_eq!(asked("/api/v1/query?query=up+%2B+4711").0, 200);
    assert_eq!(asked("/api/v1/query?query=nonsense(").0, 400);
    let sent = || -> Vec<_> { collector.asked().into_iter().filter(|asked| asked.what == "POST /v1/traces").collect() };
    let until = wall() + 30.0;
    let wanted = [
        "/api/v1/query",
        "the-trace-of-one",
        "a-parent",
        "promqlExec",
        "up + 4711",
        "scrape.job",
        "HTTP GET",
        "counted",
        "service.name",
        "promesh",
    ];
    loop {
        let bodies: Vec<String> = sent().into_iter().map(|asked| asked.body).collect();
        match wanted.iter().find(|text| !bodies.iter().any(|body| body.contains(**text))) {
            None => break,
            Some(text) => assert!(wall() < until, "no word of {text:?} in {} requests:\n{}", bodies.len(), peer.log()),
        }
        pause(100);
    }
    assert!(sent()[0].headers.contains(&("x-own".to_owned(), "v".to_owned())));
    // Who is scraped can continue the scrape's trace.
    let scrapes = collector.asked().into_iter().filter(|asked| asked.what == "GET /metrics");
    let carried = scrapes.flat_map(|asked| asked.headers).filter(|(name, _)| name == "traceparent");
    assert!(carried.count() > 0);

    // A share of nothing keeps what others began; no section ends it all, and what waited is sent.
    write(&section("0"), peer.web);
    assert_eq!(crate::support::post(peer.web, "/-/reload").0, 200);
    pause(7_000);
    let before = sent().len();
    pause(6_000);
    assert_eq!(sent().len(), before, "nobody began a trace that is kept");
    assert_eq!(asked("/api/v1/query?query=up+%2B+4712").0, 200);
    write("", peer.web);
    assert_eq!(crate::support::post(peer.web, "/-/reload").0, 200);
    let until = wall() + 10.0;
    while !sent().iter().any(|asked| asked.body.contains("up + 4712")) {
        assert!(wall() < until, "what was begun before the reload is lost: {}", peer.log());
        pause(100);
    }
    let before = sent().len();
    assert_eq!(asked("/api/v1/query?query=up+%2B+4713").0, 200);
    pause(6_000);
    assert_eq!(sent().len(), before);
}

#[test]
fn a_collector_that_is_away_is_named_once_and_costs_nothing_else() {
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("p.yml");
    let away = crate::support::free_port();
    let text = format!("tracing: {{endpoint: '127.0.0.1:{away}', insecure: true, sampling_fraction: 1}}\n");
    std::fs::write(&config, text).expect("written");
    let mut peer = Peer::new(root.path(), "one", &config, &[]);
    peer.start();
    peer.wait_ready();
    peer.wait("the log says so", 30_000, || peer.log().contains("traces cannot be sent").then_some(()));
    for _ in 0..3 {
        assert_eq!(crate::support::get(peer.web, "/api/v1/query?query=1").0, 200);
        pause(2_000);
    }
    assert_eq!(peer.log().matches("traces cannot be sent").count(), 1, "{}", peer.log());
    let began = wall();
    assert_eq!(peer.terminate(), Some(0));
    assert!(wall() - began < 15.0, "its end waits for the collector");
}
