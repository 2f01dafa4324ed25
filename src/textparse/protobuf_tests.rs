use super::*;
use crate::tests::events;

/// Writes messages for tests.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }
    fn double(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }
    fn delimited(self) -> Vec<u8> {
        let mut out = Message::default();
        out.varint(self.0.len() as u64);
        out.0.extend_from_slice(&self.0);
        out.0
    }
}

fn m() -> Message {
    Message::default()
}

fn family(name: &str, kind: u64, metric: Message) -> Vec<u8> {
    m().bytes(1, name.as_bytes()).bytes(2, b"Words.").number(3, kind).message(4, metric).delimited()
}

fn exposition() -> Vec<u8> {
    let label = || m().bytes(1, b"x").bytes(2, b"y");
    let instant = m().number(1, 10).number(2, 5_000_000);
    let exemplar = || m().message(1, m().bytes(1, b"t").bytes(2, b"z")).double(2, 0.5).message(3, m().number(1, 7));
    let counter = m().double(1, 3.0).message(2, exemplar()).message(3, instant);
    let counter = m().message(1, label()).message(3, counter).number(6, 1234);
    let bucket = m().number(1, 2).double(2, 0.5).message(3, exemplar());
    let zigzag = |value: i64| ((value << 1) ^ (value >> 63)) as u64;
    let native = m()
        .number(1, 6)
        .double(2, 1.5)
        .message(3, bucket)
        .number(5, zigzag(3))
        .double(6, 0.001)
        .number(7, 1)
        .message(12, m().number(1, zigzag(-2)).number(2, 3))
        .bytes(13, &[zigzag(2) as u8, zigzag(-2) as u8, zigzag(3) as u8]);
    let summary = m().number(1, 4).double(2, 9.0).message(3, m().double(1, 0.5).double(2, 2.0));
    [
        family("c_total", 0, counter),
        family("h", 4, m().message(7, native)),
        family("s", 2, m().message(4, summary)),
        family("empty", 1, m().message(2, m())),
    ]
    .concat()
}

#[test]
fn protobuf_gives_counters_summaries_and_classic_parts() {
    let input = exposition();
    expect_test::expect![[r#"
        Help { family: "c_total", text: "Words." }
        Type { family: "c_total", kind: "counter" }
        {__name__="c_total",x="y"} 3 @1234 from 10005 # {t="z"} 0.5
        Help { family: "h", text: "Words." }
        Type { family: "h", kind: "histogram" }
        {__name__="h_count"} 6
        {__name__="h_sum"} 1.5
        {__name__="h_bucket",le="0.5"} 2 # {t="z"} 0.5
        {__name__="h_bucket",le="+Inf"} 6
        Help { family: "s", text: "Words." }
        Type { family: "s", kind: "summary" }
        {__name__="s_count"} 4
        {__name__="s_sum"} 9
        {__name__="s",quantile="0.5"} 2
        Help { family: "empty", text: "Words." }
        Type { family: "empty", kind: "gauge" }
        {__name__="empty"} 0
    "#]]
    .assert_eq(&events(&mut ProtobufParser::new(&input, HistogramOptions::default())));
}

#[test]
fn native_histograms_are_read_without_empty_buckets() {
    let input = exposition();
    let options = HistogramOptions { native: true, ..HistogramOptions::default() };
    let mut parser = ProtobufParser::new(&input, options);
    let histogram = loop {
        match parser.next(None).unwrap().expect("there is a histogram") {
            Event::Histogram(histogram) => break histogram,
            _ => continue,
        }
    };
    assert!(parser.exemplar().is_some_and(|(exemplar, own)| own && exemplar.timestamp.0 == 7000));
    let HistogramValue::Integer(value) = histogram.value else { panic!("integer counts") };
    let spans: Vec<_> = value.positive_spans.iter().map(|span| (span.offset, span.length)).collect();
    assert_eq!((value.schema, value.count, value.zero_count), (3, 6, 1));
    assert_eq!((spans, value.positive_buckets.clone()), (vec![(-2, 1), (1, 1)], vec![2, 1]));
    let mut labels = RawLabels::default();
    parser.labels(&mut labels);
    assert_eq!(labels.0, [("__name__".to_owned(), "h".to_owned())]);
}

#[test]
fn spans_that_do_not_fit_are_refused() {
    let native = m().number(1, 6).message(12, m().number(2, u64::from(u32::MAX)));
    let input = family("h", 4, m().message(7, native));
    let options = HistogramOptions { native: true, ..HistogramOptions::default() };
    let shown = events(&mut ProtobufParser::new(&input, options));
    assert!(shown.contains("positive side: spans do not describe 0 buckets"), "{shown}");
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_end_in_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..200, byte: u8) {
            let options = HistogramOptions { native: true, classic_too: true, to_custom_buckets: true };
            events(&mut ProtobufParser::new(&bytes, options));
            // Nearly right ones go deeper.
            let mut nearly = exposition();
            let at = at % nearly.len();
            nearly[at] = byte;
            events(&mut ProtobufParser::new(&nearly, options));
            events(&mut ProtobufParser::new(&nearly, HistogramOptions::default()));
        }

        #[test]
        fn any_text_ends_in_events_or_an_error(text in "[a-c{}\",=#\\\\ \n\t0-9.eHELPTYUNIO+-]{0,120}") {
            for wrap in [false, true] {
                for open_metrics in [false, true] {
                    let bytes = text.as_bytes();
                    let inner: Box<dyn Parser + '_> =
                        if open_metrics { Box::new(OpenMetricsParser::new(bytes)) } else { Box::new(TextParser::new(bytes)) };
                    if wrap {
                        events(&mut CustomBucketsParser::new(inner, true));
                    } else {
                        let mut inner = inner;
                        events(inner.as_mut());
                    }
                }
            }
        }

        #[test]
        fn what_is_written_is_read(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,9}",
            pairs in prop::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,5}", "\\PC{0,9}", 0..4),
            value: f64,
            timestamp in prop::option::of(0i64..1 << 50),
        ) {
            let escape = |text: &String| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let inside: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
            let own = timestamp.map(|ms| format!(" {ms}")).unwrap_or_default();
            let line = format!("{name}{{{}}} {value}{own}\n", inside.join(","));
            let mut parser = TextParser::new(line.as_bytes());
            let Ok(Some(Event::Sample(sample))) = parser.next(None) else { panic!("a sample: {line}") };
            prop_assert!(sample.value == value || value.is_nan());
            prop_assert_eq!(sample.timestamp, timestamp);
            let mut labels = RawLabels::default();
            parser.labels(&mut labels);
            prop_assert_eq!(&labels.0[0].1, &name);
            prop_assert_eq!(labels.0[1..].to_vec(), pairs.into_iter().collect::<Vec<_>>());
        }
    }
}
