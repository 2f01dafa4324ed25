//! Bodies and filters that nobody should send: each is taken or refused with a reason, and nothing else happens.

use promesh_config::alertmanager::MatcherMode;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::api::{AlertFilter, parse_alerts, parse_rfc3339, parse_silence};

const MODES: [MatcherMode; 3] = [MatcherMode::Fallback, MatcherMode::Classic, MatcherMode::Utf8Strict];

/// Something like a value of these bodies: right, of another kind, or not even JSON.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"2026-01-02T03:04:05Z\"".to_owned()),
        Just("\"0001-01-01T00:00:00Z\"".to_owned()),
        Just("\"9999-12-31T23:59:60.999999999-23:59\"".to_owned()),
        Just("{\"a\":\"b\",\"\":\"x\"}".to_owned()),
        Just("[{\"name\":\"a\",\"value\":\"(\",\"isRegex\":true}]".to_owned()),
        Just("[{\"name\":\"ü\",\"value\":\"x\",\"isRegex\":false,\"isEqual\":false}]".to_owned()),
        Just("[]".to_owned()),
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        "\"\\PC{0,12}\"",
        "[\\[\\]{}\",:a-z0-9\\\\]{0,12}",
    ]
}

fn object(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec((prop::sample::select(names), value()), 0..8).prop_map(|fields| {
        let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

/// The same cases every time, so that what lands does not hang on luck.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn posted_alerts_are_taken_or_refused(
        alerts in prop::collection::vec(object(&["labels", "annotations", "startsAt", "endsAt", "generatorURL", "x"]), 0..4),
        mode in prop::sample::select(&MODES[..]),
    ) {
        let body = format!("[{}]", alerts.join(","));
        if let Ok((good, bad)) = parse_alerts(body.as_bytes(), mode) {
            prop_assert_eq!(good.len() + bad.len(), alerts.len());
            prop_assert!(good.iter().all(|alert| !alert.labels.is_empty()));
        }
    }

    #[test]
    fn posted_silences_are_taken_or_refused(
        body in object(&["id", "matchers", "startsAt", "endsAt", "createdBy", "comment", "annotations", "x"]),
        mode in prop::sample::select(&MODES[..]),
    ) {
        if let Ok((_, silence)) = parse_silence(body.as_bytes()) {
            // What passes the check silences something, but not everything.
            if silence.check(mode).is_ok() {
                prop_assert!(silence.matcher_sets.iter().all(|set| !set.iter().all(|matcher| matcher.matches(""))));
            }
        }
    }

    #[test]
    fn any_bytes_are_no_body(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = (parse_alerts(&body, MatcherMode::Fallback), parse_silence(&body));
        let _ = crate::inherit::silences(&body, promesh_model::Timestamp(0));
    }

    #[test]
    fn filters_and_instants_are_read_or_refused(text in "(\\PC|[=!~\"{},\\\\0-9T:Z+.-]){0,24}") {
        let _ = parse_rfc3339(&text);
        for mode in MODES {
            let _ = AlertFilter::parse([("filter", text.as_str()), ("receiver", text.as_str())], mode);
        }
    }
}
