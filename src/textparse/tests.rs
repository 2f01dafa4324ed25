use super::*;

/// The events of an exposition as lines of text, ending with the error if there is one.
pub(crate) fn events(parser: &mut dyn Parser) -> String {
    let mut out = String::new();
    loop {
        let shown = match parser.next(None) {
            Ok(None) => return out,
            Ok(Some(Event::Sample(sample))) => {
                let mut labels = RawLabels::default();
                parser.labels(&mut labels);
                let mut line = format!("{} {}", labels_text(&labels), sample.value);
                if let Some(timestamp) = sample.timestamp {
                    line.push_str(&format!(" @{timestamp}"));
                }
                if let Some(start) = sample.start {
                    line.push_str(&format!(" from {start}"));
                }
                while let Some((exemplar, _)) = parser.exemplar() {
                    line.push_str(&format!(" # {} {}", exemplar.labels, exemplar.value));
                }
                line
            }
            Ok(Some(event)) => format!("{event:?}"),
            Err(error) => {
                out.push_str(&format!("error: {error}\n"));
                return out;
            }
        };
        out.push_str(&shown);
        out.push('\n');
    }
}

fn labels_text(labels: &RawLabels) -> String {
    let pairs: Vec<_> = labels.0.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(","))
}

fn check_text(input: &str, expected: expect_test::Expect) {
    expected.assert_eq(&events(&mut TextParser::new(input.as_bytes())));
}

#[test]
fn text_gives_series_types_and_help() {
    check_text(
        "# HELP a some \\\\ \\n text\n# TYPE a histogram\na_bucket{le=\"1\",x=\"q\\\"\\n\",} 2\na_sum 1.5 1234\n# plain\n\n{\"my.name\",\"l.b\"=\"v\"} NaN",
        expect_test::expect![[r#"
            Help { family: "a", text: "some \\ \n text" }
            Type { family: "a", kind: "histogram" }
            {__name__="a_bucket",le="1.0",x="q\"\n"} 2
            {__name__="a_sum"} 1.5 @1234
            {__name__="my.name",l.b="v"} NaN
        "#]],
    );
}

#[test]
fn bad_lines_end_the_exposition_with_their_place() {
    check_text(
        "a 1\nb 1 x\nc 1\n",
        expect_test::expect![[r#"
        {__name__="a"} 1
        error: expected timestamp or new record at line 2: "b 1 x"
    "#]],
    );
    check_text(
        "a{b='c'} 1\n",
        expect_test::expect![[r#"
        error: expected label value at line 1: "a{b='c'} 1"
    "#]],
    );
    check_text(
        "{b=\"c\"} 1\n",
        expect_test::expect![[r#"
        error: metric name not set at line 1: "{b=\"c\"} 1"
    "#]],
    );
}

#[test]
fn a_right_hint_skips_the_labels_and_a_wrong_one_does_not_harm() {
    let input = b"a{b=\"c\"} 1\nd 2\n";
    let mut parser = TextParser::new(input);
    let Ok(Some(Event::Sample(first))) = parser.next(None) else { panic!("a sample") };
    assert!(!first.as_hinted);
    let mut parser = TextParser::new(input);
    let Ok(Some(Event::Sample(again))) = parser.next(Some(first.key)) else { panic!("a sample") };
    assert!(again.as_hinted && again.value == 1.0 && again.key == first.key);
    let Ok(Some(Event::Sample(other))) = parser.next(Some(first.key)) else { panic!("a sample") };
    assert!(!other.as_hinted && other.value == 2.0);
}

fn check_open_metrics(input: &str, expected: expect_test::Expect) {
    expected.assert_eq(&events(&mut OpenMetricsParser::new(input.as_bytes())));
}

#[test]
fn open_metrics_gives_units_exemplars_and_seconds() {
    check_open_metrics(
        "# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n# HELP a_seconds x\\n\na_seconds_bucket{le=\"1\"} 2 1.5 # {t=\"#}\"} 0.5 99.25\na_seconds_count 3\n# EOF\n",
        expect_test::expect![[r##"
            Type { family: "a_seconds", kind: "histogram" }
            Unit { family: "a_seconds", unit: "seconds" }
            Help { family: "a_seconds", text: "x\n" }
            {__name__="a_seconds_bucket",le="1.0"} 2 @1500 # {t="#}"} 0.5
            {__name__="a_seconds_count"} 3
        "##]],
    );
}

#[test]
fn open_metrics_must_end_and_hold_no_other_blanks() {
    for (input, error) in [
        ("a 1\n", "data does not end with # EOF"),
        ("a 1", "data does not end with # EOF"),
        ("", "data does not end with # EOF"),
        ("a  1\n# EOF", "expected value after metric"),
        ("a 1 \n# EOF", "invalid timestamp"),
        ("# EOF\na 1\n", "unexpected data after # EOF"),
        ("# hello\n# EOF", "expected a valid start token"),
        ("\na 1\n# EOF", "expected a valid start token"),
        ("a{b=\"c\" d=\"e\"} 1\n# EOF", "expected comma or brace close"),
        ("# UNIT a_b c\n# EOF", "unit \"c\" not a suffix of metric \"a_b\""),
        ("a 1 # {\"b\"} 1\n# EOF", "expected label name"),
    ] {
        let shown = events(&mut OpenMetricsParser::new(input.as_bytes()));
        assert!(shown.contains(&format!("error: {error}")), "{input:?}: {shown}");
    }
    assert_eq!(events(&mut OpenMetricsParser::new(b"# EOF")), "");
}

#[test]
fn classic_histograms_of_text_become_custom_buckets() {
    let input = "# TYPE h histogram\nh_bucket{x=\"1\",le=\"1\"} 2\nh_bucket{x=\"1\",le=\"+Inf\"} 5\nh_sum{x=\"1\"} 7\nh_count{x=\"1\"} 5\nh_bucket{x=\"2\",le=\"1\"} 1\nh_count{x=\"2\"} 1\nh_created 9\n# TYPE g gauge\ng 1\n";
    for classic_too in [false, true] {
        let mut parser = CustomBucketsParser::new(Box::new(TextParser::new(input.as_bytes())), classic_too);
        let mut labels = RawLabels::default();
        let mut seen = Vec::new();
        while let Some(event) = parser.next(None).unwrap() {
            match event {
                Event::Histogram(histogram) => {
                    let HistogramValue::Integer(value) = &histogram.value else { panic!("whole counts") };
                    let shown = format!("{} {:?}", value.count, value.custom_values);
                    parser.labels(&mut labels);
                    seen.push(format!("{} {shown}", labels_text(&labels)));
                }
                Event::Sample(sample) => {
                    parser.labels(&mut labels);
                    seen.push(format!("{} {}", labels.0[0].1, sample.value));
                }
                _ => {}
            }
        }
        let native = ["{__name__=\"h\",x=\"1\"} 5 [1.0]", "{__name__=\"h\",x=\"2\"} 1 [1.0]"];
        let expected: Vec<&str> = if classic_too {
            vec![
                "h_bucket 2",
                "h_bucket 5",
                "h_sum 7",
                "h_count 5",
                native[0],
                "h_bucket 1",
                "h_count 1",
                "h_created 9",
                native[1],
                "g 1",
            ]
        } else {
            vec![native[0], "h_created 9", native[1], "g 1"]
        };
        assert_eq!(seen, expected);
    }
}

mod conformance {
    use super::*;
    use std::path::{Path, PathBuf};

    fn folder() -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
        if !folder.exists() {
            eprintln!("conformance data is absent: these cases did not run");
            return None;
        }
        Some(folder)
    }

    #[test]
    fn expositions_of_upstream_are_read_alike_with_and_without_hints() {
        let Some(folder) = folder() else { return };
        for entry in std::fs::read_dir(folder.join("scrape_parse")).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let open_metrics = path.to_string_lossy().ends_with(".om.txt");
            if open_metrics && !bytes.ends_with(b"# EOF\n") && !bytes.ends_with(b"# EOF") {
                bytes.extend_from_slice(b"# EOF\n");
            }
            let parser = || -> Box<dyn Parser + '_> {
                if open_metrics { Box::new(OpenMetricsParser::new(&bytes)) } else { Box::new(TextParser::new(&bytes)) }
            };
            let shown = events(parser().as_mut());
            assert!(!shown.contains("error:"), "{}: {}", path.display(), shown.lines().last().unwrap_or(""));
            let first = values(parser().as_mut(), &[]);
            let again = values(parser().as_mut(), &first);
            assert!(first.len() > 5 && first == again, "{}", path.display());
        }
    }

    /// Keys and values; with the keys of another run as hints, each of which must be right.
    fn values(parser: &mut dyn Parser, hints: &[(SeriesKey, u64)]) -> Vec<(SeriesKey, u64)> {
        let mut out: Vec<(SeriesKey, u64)> = Vec::new();
        loop {
            let hint = hints.get(out.len()).map(|(key, _)| *key);
            match parser.next(hint).unwrap() {
                None => return out,
                Some(Event::Sample(sample)) => {
                    assert_eq!(sample.as_hinted, hint.is_some());
                    out.push((sample.key, sample.value.to_bits()));
                }
                Some(_) => {}
            }
        }
    }

    /// What the specification forbids and Prometheus 3.5.3 scrapes nevertheless, as its parser does not look at families
    /// as a whole: what works there must work here. Recorded by scraping each case with a real one.
    const TOLERATED: &[(&str, &[u32])] = &[
        ("clashing_names", &[0, 1]),
        ("counter_values", &[1, 4, 5, 6, 7, 9, 10, 12, 13, 14, 16, 17, 18, 19]),
        ("exemplars", &[6]),
        ("exemplars_on_unallowed_metric_types", &[0, 1]),
        ("exemplars_on_unallowed_samples", &[0, 2, 3]),
        ("grouping_or_ordering", &[2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("histograms", &[1, 3, 6, 7, 9, 10, 11, 14]),
        ("info_and_stateset_values", &[0]),
        ("metadata_in_wrong_place", &[1, 2]),
        ("missing_or_extra_commas", &[2]),
        ("missing_or_invalid_labels_for_a_type", &[0, 1, 2, 4, 5]),
        ("repeated_metadata", &[1]),
        ("stateset_info_values", &[1]),
        ("unit", &[7]),
    ];

    fn repeats_a_label(input: &[u8]) -> bool {
        let (mut parser, mut labels) = (OpenMetricsParser::new(input), RawLabels::default());
        while let Ok(Some(event)) = parser.next(None) {
            if matches!(event, Event::Sample(_)) {
                parser.labels(&mut labels);
                let names: std::collections::BTreeSet<&String> = labels.0.iter().map(|(name, _)| name).collect();
                if names.len() < labels.0.len() {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn what_open_metrics_allows_is_read_and_what_prometheus_refuses_is_refused() {
        let Some(folder) = folder() else { return };
        let tolerated: std::collections::BTreeSet<String> = TOLERATED
            .iter()
            .flat_map(|(group, numbers)| numbers.iter().map(move |number| format!("bad_{group}_{number}")))
            .collect();
        let (mut read, mut refused) = (0, 0);
        for entry in std::fs::read_dir(folder.join("openmetrics_parsers")).unwrap() {
            let case = entry.unwrap().path();
            let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let test = std::fs::read_to_string(case.join("test.json")).unwrap();
            let test: serde_json::Value = serde_json::from_str(&test).unwrap();
            let input = std::fs::read(case.join("metrics")).unwrap();
            let shown = events(&mut OpenMetricsParser::new(&input));
            let expected = test["shouldParse"] == true || tolerated.contains(&name);
            // Labels given twice are for whoever makes a series of them to refuse: the parser tells them as they stand.
            let is_read = !shown.contains("error:") && !repeats_a_label(&input);
            assert_eq!(is_read, expected, "{name}: {shown}");
            *(if expected { &mut read } else { &mut refused }) += 1;
        }
        assert!(read > 80 && refused > 60, "{read} {refused}");
    }
}
