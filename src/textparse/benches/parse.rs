//! What a line costs: seen before at the same place, and new.
//!
//! `cargo bench -p promesh-textparse`; throughput is in lines. The exposition is one pod's: 34 families, 300 series,
//! about 130 bytes a line.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use promesh_textparse::{Event, OpenMetricsParser, Parser, RawLabels, SeriesKey, TextParser};

const SERIES: usize = 300;

fn exposition(open_metrics: bool) -> Vec<u8> {
    let mut text = String::new();
    for line in 0..SERIES {
        if line % 9 == 0 {
            let family = line / 9;
            text.push_str(&format!("# HELP app_family_{family}_total What the family number {family} counts.\n"));
            text.push_str(&format!("# TYPE app_family_{family}_total gauge\n"));
        }
        text.push_str(&format!(
            "app_family_{}_total{{handler=\"/api/v1/resource/{line}\",method=\"GET\",code=\"200\",region=\"eu-west-1\",shard=\"{}\"}} {}\n",
            line / 9,
            line % 7,
            line as f64 * 1234.5
        ));
    }
    if open_metrics {
        text.push_str("# EOF\n");
    }
    text.into_bytes()
}

fn parser(open_metrics: bool, body: &[u8]) -> Box<dyn Parser + '_> {
    if open_metrics { Box::new(OpenMetricsParser::new(body)) } else { Box::new(TextParser::new(body)) }
}

fn keys(open_metrics: bool, body: &[u8]) -> Vec<SeriesKey> {
    let mut parser = parser(open_metrics, body);
    let mut keys = Vec::new();
    while let Some(event) = parser.next(None).expect("well-formed") {
        if let Event::Sample(sample) = event {
            keys.push(sample.key);
        }
    }
    keys
}

fn run(parser: &mut dyn Parser, keys: &[SeriesKey], with_labels: bool, labels: &mut RawLabels) -> f64 {
    let (mut sum, mut place) = (0.0, 0);
    while let Some(event) = parser.next(keys.get(place).copied()).expect("well-formed") {
        if let Event::Sample(sample) = event {
            place += 1;
            sum += sample.value;
            if with_labels {
                parser.labels(labels);
            }
        }
    }
    sum
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("line");
    group.throughput(Throughput::Elements(SERIES as u64));
    for (name, open_metrics) in [("text", false), ("openmetrics", true)] {
        let body = exposition(open_metrics);
        let keys = keys(open_metrics, &body);
        let mut labels = RawLabels::default();
        group.bench_function(format!("{name}/seen"), |b| {
            b.iter(|| run(parser(open_metrics, &body).as_mut(), &keys, false, &mut labels));
        });
        group.bench_function(format!("{name}/new"), |b| {
            b.iter(|| run(parser(open_metrics, &body).as_mut(), &[], true, &mut labels));
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
