//! Texts that are nearly a configuration, nearly a matcher: they load, or every problem has its place.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::matchers::{MatcherMode, matcher_text, parse, parse_one};
use super::{load, load_in};

const GOOD: &str = "
global: {resolve_timeout: 5m, slack_api_url: 'http://h/x', http_config: {basic_auth: {username: u, password: p}}}
templates: ['*.tmpl']
route:
  receiver: a
  group_by: ['...']
  group_wait: 1s
  routes:
  - {matchers: ['x=~\"y|z\"', 'ü!=1'], receiver: b, continue: true, mute_time_intervals: [t], labels: {k: v}}
  - {match: {a: b}, match_re: {c: 'd.*'}, repeat_interval: 4h}
inhibit_rules: [{source_matchers: [a=b], target_matchers: ['c!~\"d\"'], equal: [e]}]
time_intervals: [{name: t, time_intervals: [{times: [{start_time: '09:00', end_time: '17:00'}], weekdays: ['monday:friday'], months: [january]}]}]
receivers:
- name: a
  webhook_configs: [{url: 'http://h/{{ .Status }}', max_alerts: 2, payload: {a: [1, '{{ .X }}', null]}}]
  email_configs: [{to: x@y, from: z@y, smarthost: 'h:25', headers: {Subject: s}}]
- name: b
  pagerduty_configs: [{routing_key: k, details: {a: b}}]
  slack_configs: [{channel: '#c', fields: [{title: t, value: v}]}]
";

/// A text with so many small wounds: bytes cut, doubled or put in the place of others.
fn wounded() -> impl Strategy<Value = String> {
    let wound = (any::<prop::sample::Index>(), 0usize..12, "[-:{}\\[\\]'\",|>&*!#%@ \n\tü0a]{0,3}");
    prop::collection::vec(wound, 1..4).prop_map(|wounds| {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, length, put) in wounds {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        text.into_iter().collect()
    })
}

#[test]
fn the_text_that_is_wounded_is_good() {
    assert!(load("a.yml", GOOD.as_bytes(), Path::new("")).is_ok());
}

/// The same cases every time, so that what lands does not hang on luck.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn wounded_configurations_load_or_say_where_they_are_wrong(text in wounded()) {
        match load("a.yml", text.as_bytes(), Path::new("")) {
            // What loads is printed as something that loads as the same.
            Ok(config) => {
                let again = load("b.yml", config.masked().as_bytes(), Path::new(""));
                prop_assert!(again.is_ok(), "{}\n{}", again.unwrap_err(), config.masked());
            }
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                prop_assert!(errors.0.iter().all(|problem| !problem.message.is_empty()));
            }
        }
    }

    #[test]
    fn any_bytes_are_no_configuration(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for mode in [MatcherMode::Classic, MatcherMode::Utf8Strict] {
            prop_assert!(load_in("a.yml", &bytes, Path::new(""), mode).is_err());
        }
    }

    #[test]
    fn matchers_are_read_or_refused_and_what_is_printed_means_the_same(
        text in "(\\PC|[a-z=!~\"{},\\\\ \n]|=~|!~|\\\\x[0-9a-f]{2}|\\\\u[0-9a-f]{4}){0,16}",
    ) {
        for mode in [MatcherMode::Fallback, MatcherMode::Classic, MatcherMode::Utf8Strict] {
            let _ = parse(&text, mode);
            let Ok(one) = parse_one(&text, mode) else { continue };
            let printed = matcher_text(&one);
            match parse_one(&printed, mode) {
                Ok(again) => prop_assert_eq!(matcher_text(&again), printed),
                // The classic grammar cannot read all that it is given, nor what the other printed.
                Err(why) => prop_assert!(mode != MatcherMode::Utf8Strict, "{text:?} {printed:?} {why}"),
            }
        }
    }
}
