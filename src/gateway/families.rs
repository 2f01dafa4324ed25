//! The families of a pushed body, with the labels that they have once they lie in their group.

use std::collections::BTreeMap;

use promesh_model::Labels;
use promesh_model::labels::METRIC_NAME;
use promesh_textparse::{Event, HistogramOptions, OpenMetricsParser, Parser, ProtobufParser, RawLabels, TextParser};
use serde::{Deserialize, Serialize};

/// The samples of one push; a batch job has hundreds.
const SAMPLES_MAX: usize = 1_000_000;

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4, or anything unnamed.
    Text,
    /// OpenMetrics.
    OpenMetrics,
    /// Delimited protobuf.
    Protobuf,
}

/// One metric family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// `counter`, `gauge`, `histogram`, `summary` …; `unknown` if nobody said so.
    pub kind: String,
    /// Its help text.
    pub help: String,
    /// Its samples, in their order: all labels, and the value's bits, since JSON has no NaN.
    pub samples: Vec<(Labels, u64)>,
    /// Whether any came with an instant of its own: then the push is refused.
    pub stamped: bool,
}

impl Family {
    fn new(kind: &str) -> Family {
        Family { kind: kind.to_owned(), help: String::new(), samples: Vec::new(), stamped: false }
    }

    /// Whether a sample's name is one of those of this family, called `family`.
    fn has(&self, family: &str, name: &str) -> bool {
        let Some(end) = name.strip_prefix(family) else { return false };
        let ends: &[&str] = match self.kind.as_str() {
            "counter" => &["_total", "_created"],
            "summary" => &["_sum", "_count", "_created"],
            "histogram" | "gaugehistogram" => &["_bucket", "_sum", "_count", "_gsum", "_gcount", "_created"],
            "info" => &["_info"],
            _ => &[],
        };
        end.is_empty() || ends.contains(&end)
    }
}

/// Reads a body. Each sample gets the labels of its group, whatever it says itself; without an `instance` it gets none from
/// whoever scrapes it either.
///
/// # Errors
/// What is wrong with the body.
pub fn read_families(body: &[u8], format: Format, group: &Labels) -> Result<BTreeMap<String, Family>, String> {
    let mut parser: Box<dyn Parser + '_> = match format {
        Format::Text => Box::new(TextParser::new(body)),
        Format::OpenMetrics => Box::new(OpenMetricsParser::new(body)),
        Format::Protobuf => {
            let options = HistogramOptions { native: false, classic_too: true, to_custom_buckets: false };
            Box::new(ProtobufParser::new(body, options))
        }
    };
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let (mut raw, mut count) = (RawLabels::default(), 0);
    loop {
        let sample = match parser.next(None).map_err(|error| error.to_string())? {
            None => return Ok(families),
            Some(Event::Type { family, kind }) => {
                current = family.into_owned();
                let known = families.entry(current.clone()).or_insert_with(|| Family::new(kind));
                if !known.samples.is_empty() && known.kind != kind {
                    return Err(format!("the type of {current} is said after its samples, or twice"));
                }
                known.kind = kind.to_owned();
                continue;
            }
            Some(Event::Help { family, text }) => {
                current = family.into_owned();
                let known = families.entry(current.clone()).or_insert_with(|| Family::new("unknown"));
                known.help = text.into_owned();
                continue;
            }
            Some(Event::Unit { .. }) => continue,
            Some(Event::Histogram(_)) => return Err("native histograms cannot be pushed".to_owned()),
            Some(Event::Sample(sample)) => sample,
        };
        count += 1;
        if count > SAMPLES_MAX {
            return Err(format!("more than {SAMPLES_MAX} samples in one push"));
        }
        parser.labels(&mut raw);
        let name = raw.0.iter().find(|(name, _)| name == METRIC_NAME).map_or("", |(_, value)| value.as_str());
        if !families.get(&current).is_some_and(|family| family.has(&current, name)) {
            current = family_of(&families, name);
        }
        let family = families.entry(current.clone()).or_insert_with(|| Family::new("unknown"));
        family.stamped |= sample.timestamp.is_some();
        family.samples.push((within(&raw, group), sample.value.to_bits()));
    }
}

/// The family that a sample belongs to by its name: one that was spoken of, else its own.
fn family_of(families: &BTreeMap<String, Family>, name: &str) -> String {
    let known = |base: &str| families.get(base).is_some_and(|family| family.has(base, name));
    let ends = ["_bucket", "_sum", "_count"].into_iter().filter_map(|end| name.strip_suffix(end));
    ends.chain([name]).find(|base| known(base)).unwrap_or(name).to_owned()
}

/// The labels of a sample within its group.
fn within(raw: &RawLabels, group: &Labels) -> Labels {
    let mut labels = Labels::empty().to_builder();
    for (name, value) in &raw.0 {
        labels.set(name, value);
    }
    for (name, value) in group.iter() {
        labels.set(name, value);
    }
    labels.build()
}
