//! `promesh push metrics`: metrics from files or standard input, sent by remote write.

use std::io::Read as _;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_client::{HttpClient, Request};
use promesh_config::http::HttpClientConfig;
use promesh_model::{Labels, duration};
use promesh_remote::{Item, OutSeries, Value, encode};
use promesh_textparse::{Event, Parser as _, RawLabels, TextParser};

use super::{Done, Failure};
use crate::clock;

/// What is read of one input at most.
const INPUT_BYTES_MAX: u64 = 256 << 20;

pub(super) fn command() -> Command {
    Command::new("push").about("Push to a server").subcommand_required(true).subcommand(
        Command::new("metrics").about("Push metrics by remote write, for tests").args([
            Arg::new("label")
                .long("label")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Label of every series; job=promtool without any. Can be repeated"),
            Arg::new("timeout").long("timeout").default_value("30s").help("How long a request may take"),
            Arg::new("header")
                .long("header")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Header of every request. Can be repeated"),
            Arg::new("url").value_name("URL").required(true).help("Where remote write is received"),
            Arg::new("files").value_name("FILE").num_args(0..).help("Files with metrics; standard input without any"),
        ]),
    )
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (_, matches) = matches.subcommand().expect("clap demands one");
    let pairs = |name: &str| -> Result<Vec<(String, String)>, Failure> {
        let given = matches.get_many::<String>(name).into_iter().flatten();
        let pair = |text: &String| {
            let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Failure::usage(format!("--{name}={text}: expected NAME=VALUE")))
        };
        given.map(pair).collect()
    };
    let mut labels = pairs("label")?;
    if labels.is_empty() {
        labels.push(("job".to_owned(), "promtool".to_owned()));
    }
    let timeout = matches.get_one::<String>("timeout").expect("an argument with a default");
    let timeout = duration::parse(timeout).map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    let url = matches.get_one::<String>("url").expect("a required argument");
    let url = url::Url::parse(url).map_err(|error| Failure::usage(format!("{url:?} is not a URL: {error}")))?;
    let inputs = inputs(matches)?;
    let headers = pairs("header")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let mut failed = false;
    runtime.block_on(async {
        let client = HttpClient::new(&HttpClientConfig::default()).map_err(|error| Failure::new(error.to_string()))?;
        for (name, text) in inputs {
            println!("Parsing {name}");
            let message = match items(&text, &labels) {
                Ok(items) => encode::v1(&items.iter().collect::<Vec<_>>()),
                Err(error) => {
                    eprintln!("  FAILED: {error}");
                    failed = true;
                    continue;
                }
            };
            let body = snap::raw::Encoder::new().compress_vec(&message).expect("inputs are far below 4 GiB");
            let mut request = Request::post(url.clone(), "application/x-protobuf", body);
            for (name, value) in [("content-encoding", "snappy"), ("x-prometheus-remote-write-version", "0.1.0")]
                .iter()
                .copied()
                .chain(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            {
                let name = http::HeaderName::from_bytes(name.as_bytes());
                let value = http::HeaderValue::from_str(value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(Failure::usage("--header: not a header"));
                };
                request.headers.insert(name, value);
            }
            match client.fetch(request, timeout, 1 << 20).await {
                Ok((status, ..)) if status.is_success() => println!("  SUCCESS: metrics pushed to remote write."),
                Ok((status, _, body)) => {
                    eprintln!("  FAILED: {status}: {}", String::from_utf8_lossy(&body).trim());
                    failed = true;
                }
                Err(error) => {
                    eprintln!("  FAILED: {error}");
                    failed = true;
                }
            }
        }
        Ok(())
    })?;
    if failed { Err(Failure::quiet()) } else { Ok(()) }
}

fn inputs(matches: &ArgMatches) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let files: Vec<&String> = matches.get_many::<String>("files").into_iter().flatten().collect();
    if files.is_empty() {
        let mut text = Vec::new();
        let read = std::io::stdin().take(INPUT_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
        return Ok(vec![("standard input".to_owned(), text)]);
    }
    let read = |name: &String| {
        let text = std::fs::read(name).map_err(|error| Failure::new(format!("{name}: {error}")))?;
        Ok((name.clone(), text))
    };
    files.into_iter().map(read).collect()
}

/// Every sample of an exposition, of now where it has no instant of its own.
fn items(text: &[u8], more: &[(String, String)]) -> Result<Vec<Item>, String> {
    let now = clock::wall().ms();
    let mut parser = TextParser::new(text);
    let mut raw = RawLabels::default();
    let mut items = Vec::new();
    loop {
        let sample = match parser.next(None).map_err(|error| error.to_string())? {
            None => return Ok(items),
            Some(Event::Sample(sample)) => sample,
            Some(_) => continue,
        };
        raw.0.clear();
        parser.labels(&mut raw);
        let pairs = more.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut labels = Labels::from_pairs(pairs).to_builder();
        for (name, value) in &raw.0 {
            labels.set(name, value);
        }
        items.push(Item {
            series: Arc::new(OutSeries::new(labels.build(), None)),
            at: sample.timestamp.unwrap_or(now),
            start: 0,
            value: Value::Float(sample.value),
            may_repeat: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_keep_their_instants_and_get_the_labels() {
        let found = items(b"a{x=\"y\"} 1 1700000000000\nb 2\n", &[("job".to_owned(), "j".to_owned())]).expect("parses");
        let shown: Vec<String> = found.iter().map(|item| item.series.labels.as_metric().to_string()).collect();
        assert_eq!(shown, ["a{job=\"j\", x=\"y\"}", "b{job=\"j\"}"]);
        assert_eq!(found[0].at, 1_700_000_000_000);
        assert!(items(b"a{ 1\n", &[]).is_err());
    }
}
