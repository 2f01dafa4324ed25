//! Pushed samples on their way to the owner of their shard, and what became of them. Forms never change in place: a new
//! form is a new kind.

use std::sync::Arc;

use promesh_api::backend::{Push, PushOutcome, PushedSeries};
use promesh_model::ingest::{Exemplar, HistogramValue, IngestError, Metadata};
use promesh_model::{FloatHistogram, Histogram, Labels, Timestamp};
use serde::{Deserialize, Serialize};

/// "Take these samples: their shards are yours."
pub const PUSH: u8 = 60;
/// What became of them.
pub const PUSHED: u8 = 61;
/// "Keep a copy of these batches."
pub const COPY: u8 = 62;
/// They are in the log.
pub const COPIED: u8 = 63;
/// On a live stream: "your batch with this sequence is in my log."
pub const ACKNOWLEDGED: u8 = 64;

/// [`PUSH`] in the form of [`super::dense`]; whoever does not know it refuses, and is sent the other form.
pub const PUSH_DENSE: u8 = 84;

/// A part of a push.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WirePush {
    /// How often it was passed on.
    pub hops: u8,
    /// How long whoever sent it waits, in ms.
    pub patience_ms: u32,
    /// The series with their samples.
    pub series: Vec<WireSeries>,
    /// Metadata by family.
    pub metadata: Vec<(String, Metadata)>,
}

/// One series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WireSeries {
    labels: Labels,
    start: i64,
    floats: Vec<(i64, u64)>,
    histograms: Vec<(i64, WireHistogram)>,
    exemplars: Vec<(Labels, u64, i64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum WireHistogram {
    Integer(Histogram),
    Float(FloatHistogram),
}

impl WireSeries {
    /// One series of a push.
    pub fn of(push: &Push, series: &PushedSeries) -> WireSeries {
        let Rest { histograms, exemplars } = rest_of(push, series);
        WireSeries {
            labels: series.labels.clone(),
            start: series.start.ms(),
            floats: push.samples[series.samples.clone()].iter().map(|(at, v)| (at.ms(), v.to_bits())).collect(),
            histograms,
            exemplars,
        }
    }
}

/// What a series has beside floats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rest {
    histograms: Vec<(i64, WireHistogram)>,
    exemplars: Vec<(Labels, u64, i64)>,
}

/// What a series of a push has beside floats.
pub fn rest_of(push: &Push, series: &PushedSeries) -> Rest {
    let histogram = |(at, value): &(Timestamp, HistogramValue)| {
        let value = match value {
            HistogramValue::Integer(value) => WireHistogram::Integer(Histogram::clone(value)),
            HistogramValue::Float(value) => WireHistogram::Float(FloatHistogram::clone(value)),
        };
        (at.ms(), value)
    };
    let exemplar = |one: &Exemplar| (one.labels.clone(), one.value.to_bits(), one.timestamp.ms());
    Rest {
        histograms: push.histograms[series.histograms.clone()].iter().map(histogram).collect(),
        exemplars: push.exemplars[series.exemplars.clone()].iter().map(exemplar).collect(),
    }
}

impl Rest {
    /// Adds it to the end of a push.
    pub fn add_to(self, push: &mut Push) {
        push.histograms.extend(self.histograms.into_iter().map(|(at, value)| {
            let value = match value {
                WireHistogram::Integer(value) => HistogramValue::Integer(Arc::new(value)),
                WireHistogram::Float(value) => HistogramValue::Float(Arc::new(value)),
            };
            (Timestamp(at), value)
        }));
        push.exemplars.extend(self.exemplars.into_iter().map(|(labels, value, at)| Exemplar {
            labels,
            value: f64::from_bits(value),
            timestamp: Timestamp(at),
        }));
    }
}

impl WirePush {
    /// As the API gives pushes.
    pub fn into_push(self) -> Push {
        let mut push = Push { metadata: self.metadata, ..Push::default() };
        for series in self.series {
            let begun = (push.samples.len(), push.histograms.len(), push.exemplars.len());
            push.samples.extend(series.floats.into_iter().map(|(at, v)| (Timestamp(at), f64::from_bits(v))));
            Rest { histograms: series.histograms, exemplars: series.exemplars }.add_to(&mut push);
            push.series.push(PushedSeries {
                labels: series.labels,
                samples: begun.0..push.samples.len(),
                histograms: begun.1..push.histograms.len(),
                exemplars: begun.2..push.exemplars.len(),
                start: Timestamp(series.start),
            });
        }
        push
    }
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WireOutcome {
    /// It was taken, but for what was refused.
    Taken {
        /// Float samples.
        floats: u64,
        /// Histogram samples.
        histograms: u64,
        /// Exemplars.
        exemplars: u64,
        /// What was refused, and why.
        refused: Vec<(Labels, WireRefusal)>,
    },
    /// Nothing can be said yet: it is to be repeated.
    Later(String),
    /// It will never be taken.
    Failed(String),
}

/// Why a sample was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireRefusal {
    /// [`IngestError::OutOfOrder`].
    OutOfOrder,
    /// [`IngestError::OutOfBounds`].
    OutOfBounds,
    /// [`IngestError::TooOld`].
    TooOld,
    /// [`IngestError::Duplicate`].
    Duplicate,
    /// [`IngestError::InvalidLabels`].
    InvalidLabels(String),
    /// [`IngestError::InvalidHistogram`].
    InvalidHistogram(String),
    /// [`IngestError::UnknownSeries`].
    UnknownSeries,
    /// [`IngestError::Disk`].
    Disk(String),
}

impl From<IngestError> for WireRefusal {
    fn from(error: IngestError) -> WireRefusal {
        match error {
            IngestError::UnknownSeries => WireRefusal::UnknownSeries,
            IngestError::OutOfOrder => WireRefusal::OutOfOrder,
            IngestError::OutOfBounds => WireRefusal::OutOfBounds,
            IngestError::TooOld => WireRefusal::TooOld,
            IngestError::Duplicate => WireRefusal::Duplicate,
            IngestError::InvalidLabels(why) => WireRefusal::InvalidLabels(why),
            IngestError::InvalidHistogram(why) => WireRefusal::InvalidHistogram(why),
            IngestError::Disk(why) => WireRefusal::Disk(why),
        }
    }
}

impl From<WireRefusal> for IngestError {
    fn from(refusal: WireRefusal) -> IngestError {
        match refusal {
            WireRefusal::UnknownSeries => IngestError::UnknownSeries,
            WireRefusal::OutOfOrder => IngestError::OutOfOrder,
            WireRefusal::OutOfBounds => IngestError::OutOfBounds,
            WireRefusal::TooOld => IngestError::TooOld,
            WireRefusal::Duplicate => IngestError::Duplicate,
            WireRefusal::InvalidLabels(why) => IngestError::InvalidLabels(why),
            WireRefusal::InvalidHistogram(why) => IngestError::InvalidHistogram(why),
            WireRefusal::Disk(why) => IngestError::Disk(why),
        }
    }
}

impl WireOutcome {
    /// What a push came to.
    pub fn taken(outcome: PushOutcome) -> WireOutcome {
        let refused = outcome.refused.into_iter().map(|(labels, error)| (labels, error.into())).collect();
        WireOutcome::Taken {
            floats: outcome.samples as u64,
            histograms: outcome.histograms as u64,
            exemplars: outcome.exemplars as u64,
            refused,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use promesh_model::codec::{self, RPC_BYTES_MAX};

    use super::*;

    pub fn sample_push() -> Push {
        let histogram = HistogramValue::Integer(Arc::new(Histogram { count: 3, sum: 1.5, ..Histogram::default() }));
        let exemplar = Exemplar { labels: Labels::from_pairs([("id", "x")]), value: 2.0, timestamp: Timestamp(9) };
        let one = |labels: Labels, samples, histograms, exemplars| PushedSeries {
            labels,
            samples,
            histograms,
            exemplars,
            start: Timestamp(5),
        };
        Push {
            series: vec![
                one(Labels::from_pairs([("__name__", "a")]), 0..2, 0..0, 0..1),
                one(Labels::from_pairs([("__name__", "b"), ("job", "j")]), 2..2, 0..1, 1..1),
            ],
            samples: vec![(Timestamp(-1), 0.5), (Timestamp(7), f64::INFINITY)],
            histograms: vec![(Timestamp(8), histogram)],
            exemplars: vec![exemplar],
            metadata: vec![("a".to_owned(), Metadata { kind: "gauge".to_owned(), ..Metadata::default() })],
        }
    }

    #[test]
    fn a_push_comes_back_as_it_was() {
        let push = sample_push();
        let series = push.series.iter().map(|series| WireSeries::of(&push, series)).collect();
        let wire = WirePush { hops: 1, patience_ms: 5_000, series, metadata: push.metadata.clone() };
        let bytes = codec::encode(&wire);
        let back = codec::decode::<WirePush, RPC_BYTES_MAX>(&bytes).expect("decodes");
        assert_eq!(back.into_push(), push);
    }

    /// Every reason; the compiler asks for a further one.
    fn refusals() -> Vec<WireRefusal> {
        use WireRefusal::{
            Disk, Duplicate, InvalidHistogram, InvalidLabels, OutOfBounds, OutOfOrder, TooOld, UnknownSeries,
        };
        let why = || "w".to_owned();
        let all = vec![
            OutOfOrder,
            OutOfBounds,
            TooOld,
            Duplicate,
            InvalidLabels(why()),
            InvalidHistogram(why()),
            UnknownSeries,
            Disk(why()),
        ];
        for one in &all {
            match one {
                OutOfOrder | OutOfBounds | TooOld | Duplicate | UnknownSeries => {}
                InvalidLabels(_) | InvalidHistogram(_) | Disk(_) => {}
            }
        }
        all
    }

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let push = sample_push();
        let series = push.series.iter().map(|series| WireSeries::of(&push, series)).collect();
        let wire = WirePush { hops: 1, patience_ms: 5_000, series, metadata: push.metadata.clone() };
        let refused = vec![(Labels::from_pairs([("a", "b")]), IngestError::TooOld.into())];
        let taken = WireOutcome::Taken { floats: 3, histograms: 0, exemplars: 1, refused };
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let later = WireOutcome::Later("x".to_owned());
        let failed = WireOutcome::Failed("y".to_owned());
        let mut shown = String::new();
        for (kind, bytes) in [
            (PUSH, codec::encode(&wire)),
            (PUSHED, codec::encode(&taken)),
            (PUSHED, codec::encode(&later)),
            (PUSHED, codec::encode(&failed)),
            (COPY, codec::encode(&vec![vec![1u8, 2], vec![3]])),
            (COPIED, Vec::new()),
            (ACKNOWLEDGED, codec::encode(&300u64)),
        ] {
            shown.push_str(&format!("{kind} {}\n", hex(bytes)));
        }
        // Its bytes are beside its form.
        assert_eq!(PUSH_DENSE, 84);
        for refusal in refusals() {
            let bytes = codec::encode(&refusal);
            assert_eq!(codec::decode::<WireRefusal, RPC_BYTES_MAX>(&bytes).expect("own bytes"), refusal);
            shown.push_str(&format!("{refusal:?} {}\n", hex(bytes)));
        }
        expect_test::expect![[r#"
            60 01fb8813020b085f5f6e616d655f5f01610a0201fd000000000000e03f0efd000000000000f07f0001050269640178fd00000000000000401211085f5f6e616d655f5f0162036a6f62016a0a00011000000000000000000000000003000000000000f83f0000000000000101610567617567650000
            61 0003000101040161016202
            61 010178
            61 020179
            62 020201020103
            63 
            64 fb2c01
            OutOfOrder 00
            OutOfBounds 01
            TooOld 02
            Duplicate 03
            InvalidLabels("w") 040177
            InvalidHistogram("w") 050177
            UnknownSeries 06
            Disk("w") 070177
        "#]].assert_eq(&shown);
    }
}
