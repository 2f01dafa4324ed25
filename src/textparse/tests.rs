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
