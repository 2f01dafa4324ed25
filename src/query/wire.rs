//! Parts of queries on the wire. Forms never change in place: a new form is a new kind.

use std::sync::Arc;

use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::{HistogramPoint, ListRequest, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::{FloatHistogram, Matcher, Timestamp};
use promesh_promql::Part;
use serde::{Deserialize, Serialize};

/// "Select these series of these shards."
pub(crate) const SELECT: u8 = 40;
/// A piece of the answer.
pub(crate) const SERIES: u8 = 41;
/// The end of an answer, with warnings.
pub(crate) const DONE: u8 = 42;
/// "List names, values or series."
pub(crate) const LIST: u8 = 43;
/// A piece of a list of texts.
pub(crate) const TEXTS: u8 = 44;
/// A piece of a list of label sets.
pub(crate) const LABEL_SETS: u8 = 45;
/// The part failed at the holder, and why.
pub(crate) const FAILED: u8 = 46;

/// "Compute this aggregation over these shards."
pub(crate) const PART: u8 = 70;
/// Its state.
pub(crate) const PART_STATE: u8 = 71;
/// The holder has not all of the samples, or cannot tell: they are to be read instead. With the reason.
pub(crate) const PART_SHORT: u8 = 72;

#[derive(Serialize, Deserialize)]
pub(crate) struct WirePart {
    pub(crate) part: Part,
    pub(crate) shards: ShardSet,
    pub(crate) samples_max: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireSelect {
    pub(crate) requests: Vec<WireRequest>,
    pub(crate) shards: ShardSet,
    pub(crate) samples_max: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireRequest {
    matchers: Vec<Matcher>,
    start: i64,
    end: i64,
    step_ms: i64,
    range_ms: i64,
    func: String,
    grouping: Vec<String>,
    by: bool,
    limit: u64,
}

impl WireRequest {
    pub(crate) fn of(request: &SelectRequest) -> WireRequest {
        let hints = &request.hints;
        WireRequest {
            matchers: request.matchers.clone(),
            start: request.start.ms(),
            end: request.end.ms(),
            step_ms: hints.step_ms,
            range_ms: hints.range_ms,
            func: hints.func.clone(),
            grouping: hints.grouping.clone(),
            by: hints.by,
            limit: hints.limit as u64,
        }
    }

    pub(crate) fn into_request(self) -> SelectRequest {
        let hints = SelectHints {
            step_ms: self.step_ms,
            range_ms: self.range_ms,
            func: self.func,
            grouping: self.grouping,
            by: self.by,
            limit: usize::try_from(self.limit).unwrap_or(0),
            // An older asker does not say; a newer one saves little by it.
            newest_only: false,
            shards: None,
        };
        SelectRequest { matchers: self.matchers, start: Timestamp(self.start), end: Timestamp(self.end), hints }
    }
}

/// One series. Instants are differences, so that a regular series costs a byte or two a sample beside its value.
#[derive(Serialize, Deserialize)]
pub(crate) struct WireSeries {
    labels: Labels,
    deltas: Vec<i64>,
    values: Vec<u64>,
    starts: Vec<i64>,
    histograms: Vec<(i64, i64, FloatHistogram)>,
}

impl WireSeries {
    pub(crate) fn of(series: SeriesColumns) -> WireSeries {
        let mut previous = 0;
        let delta = |at: i64| at.wrapping_sub(std::mem::replace(&mut previous, at));
        let point = |p: HistogramPoint| (p.timestamp, p.start, Arc::unwrap_or_clone(p.value));
        WireSeries {
            labels: series.labels,
            deltas: series.timestamps.into_iter().map(delta).collect(),
            values: series.values.into_iter().map(f64::to_bits).collect(),
            starts: series.start_timestamps,
            histograms: series.histograms.into_iter().map(point).collect(),
        }
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let histograms = self.histograms.iter().map(|(_, _, h)| 128 + 8 * h.positive_buckets.len()).sum::<usize>();
        64 + self.labels.as_packed().len() + self.values.len() * 12 + histograms
    }

    /// `None` when the columns are not of one length.
    pub(crate) fn into_columns(self) -> Option<SeriesColumns> {
        if self.deltas.len() != self.values.len() || !(self.starts.is_empty() || self.starts.len() == self.values.len())
        {
            return None;
        }
        let mut at = 0i64;
        let mut instant = |delta: i64| {
            at = at.wrapping_add(delta);
            at
        };
        let point = |(timestamp, start, value)| HistogramPoint { timestamp, start, value: Arc::new(value) };
        Some(SeriesColumns {
            labels: self.labels,
            timestamps: self.deltas.into_iter().map(&mut instant).collect(),
            values: self.values.into_iter().map(f64::from_bits).collect(),
            start_timestamps: self.starts,
            histograms: self.histograms.into_iter().map(point).collect(),
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Listed {
    Names,
    Values(String),
    Series,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireList {
    pub(crate) what: Listed,
    matcher_sets: Vec<Vec<Matcher>>,
    start: i64,
    end: i64,
    limit: u64,
}

impl WireList {
    pub(crate) fn of(what: Listed, request: &ListRequest) -> WireList {
        WireList {
            what,
            matcher_sets: request.matcher_sets.clone(),
            start: request.start.ms(),
            end: request.end.ms(),
            limit: request.limit as u64,
        }
    }

    pub(crate) fn request(&self) -> ListRequest {
        ListRequest {
            matcher_sets: self.matcher_sets.clone(),
            start: Timestamp(self.start),
            end: Timestamp(self.end),
            limit: usize::try_from(self.limit).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use promesh_model::MatchOp;
    use promesh_model::codec::{self, RPC_BYTES_MAX};
    use promesh_promql::parts::{Partial, PartialOp};
    use promesh_promql::{MatrixSeries, PartAnswer, Value};

    use super::*;

    #[test]
    fn series_come_back() {
        let columns = SeriesColumns {
            labels: Labels::from_pairs([("a", "b")]),
            timestamps: vec![i64::MIN, -5, 1_000],
            values: vec![1.5, f64::NAN, promesh_model::value::stale_nan()],
            start_timestamps: Vec::new(),
            histograms: vec![HistogramPoint { timestamp: 7, start: 0, value: Arc::default() }],
        };
        let back = WireSeries::of(columns.clone()).into_columns().expect("columns of one length");
        assert_eq!(back.timestamps, columns.timestamps);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back.values), bits(&columns.values));
        assert_eq!(back.histograms, columns.histograms);
        let torn = WireSeries { values: vec![1], ..WireSeries::of(columns) };
        assert!(torn.into_columns().is_none());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what it wrote and writes it once more: a form whose reading differs from its writing shows.
    fn shown<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> String {
        let bytes = codec::encode(value);
        let again = codec::decode::<T, RPC_BYTES_MAX>(&bytes).expect("own bytes");
        assert_eq!(codec::encode(&again), bytes);
        hex(&bytes)
    }

    fn select() -> WireSelect {
        let hints = SelectHints {
            step_ms: 15_000,
            range_ms: 300_000,
            func: "rate".to_owned(),
            grouping: vec!["job".to_owned()],
            by: true,
            limit: 7,
            ..SelectHints::default()
        };
        let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
        let matchers = ops.map(|op| Matcher::new(op, "a", "b").expect("it compiles"));
        let request =
            SelectRequest { matchers: matchers.into(), start: Timestamp(1_000), end: Timestamp(2_000), hints };
        WireSelect { requests: vec![WireRequest::of(&request)], shards: shards(), samples_max: 5 }
    }

    fn shards() -> ShardSet {
        [promesh_model::ShardId(70)].into_iter().collect()
    }

    fn series() -> WireSeries {
        let mut histogram = FloatHistogram { schema: 1, count: 2.0, sum: 3.5, ..FloatHistogram::default() };
        histogram.positive_buckets = vec![2.0];
        WireSeries::of(SeriesColumns {
            labels: Labels::from_pairs([("a", "b")]),
            timestamps: vec![1_000, 2_000],
            values: vec![1.5, 2.5],
            start_timestamps: vec![500, 500],
            histograms: vec![HistogramPoint { timestamp: 7, start: 3, value: Arc::new(histogram) }],
        })
    }

    /// The state of an aggregation over two series.
    fn state(op: PartialOp) -> PartAnswer {
        let mut partial = Partial::new(op, &["job".to_owned()], false);
        for (instance, value) in [("x", 1.5), ("y", 2.5)] {
            let labels = Labels::from_pairs([("instance", instance), ("job", "j")]);
            let floats = vec![(Timestamp(1_000), value)];
            partial.fold(&Value::Matrix(vec![MatrixSeries { labels, floats, histograms: Vec::new() }]));
        }
        PartAnswer { partial, warnings: vec!["w".to_owned()], infos: vec!["i".to_owned()], samples: 2 }
    }

    /// Every operation; the compiler asks for a further one.
    fn operations() -> Vec<PartialOp> {
        use PartialOp::{Avg, Bottomk, Count, CountValues, Group, Max, Min, Stddev, Stdvar, Sum, Topk};
        let all =
            vec![Sum, Avg, Count, Min, Max, Group, Stddev, Stdvar, Topk(2), Bottomk(1), CountValues("v".to_owned())];
        for op in &all {
            match op {
                Sum | Avg | Count | Min | Max | Group | Stddev | Stdvar | Topk(_) | Bottomk(_) | CountValues(_) => {}
            }
        }
        all
    }

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let list = |what| {
            let matcher_sets = vec![vec![Matcher::new(MatchOp::Equal, "a", "b").expect("it compiles")]];
            WireList { what, matcher_sets, start: 1_000, end: 2_000, limit: 7 }
        };
        let part = Part {
            query: "sum(a)".to_owned(),
            span: (0, 6),
            start: 1_000,
            end: 2_000,
            step: 500,
            lookback: 300_000,
            from: -299_000,
            to: 2_000,
            joins: true,
        };
        let texts = vec!["a".to_owned(), "b".to_owned()];
        let mut seen = String::new();
        for (name, kind, bytes) in [
            ("select", SELECT, shown(&select())),
            ("series", SERIES, shown(&(3u32, vec![series()]))),
            ("done", DONE, shown(&texts)),
            ("list names", LIST, shown(&list(Listed::Names))),
            ("list values", LIST, shown(&list(Listed::Values("v".to_owned())))),
            ("list series", LIST, shown(&list(Listed::Series))),
            ("texts", TEXTS, shown(&texts)),
            ("label sets", LABEL_SETS, shown(&vec![Labels::from_pairs([("a", "b")])])),
            ("failed", FAILED, hex(b"why")),
            ("part", PART, shown(&WirePart { part, shards: shards(), samples_max: 5 })),
            ("part short", PART_SHORT, hex(b"why")),
        ] {
            seen.push_str(&format!("{kind} {name} {bytes}\n"));
        }
        for op in operations() {
            let name = format!("{op:?}");
            seen.push_str(&format!("{PART_STATE} {name} {}\n", shown(&state(op))));
        }
        expect_test::expect![[r#"
            40 select 01040001610162010161016202016101620301610162fbd007fba00ffb3075fcc0270900047261746501036a6f62010700014605
            41 series 0301040161016202fbd007fbd00702fd000000000000f83ffd000000000000044002fbe803fbe803010e0600020000000000000000000000000000000000000000000000400000000000000c4000000100000000000000400000
            42 done 0201610162
            43 list names 0001010001610162fbd007fba00f07
            43 list values 01017601010001610162fbd007fba00f07
            43 list series 0201010001610162fbd007fba00f07
            44 texts 0201610162
            45 label sets 010401610162
            46 failed 776879
            70 part 0673756d2861290006fbd007fba00ffbe803fcc0270900fcef1f0900fba00f0100014605
            72 part short 776879
            71 Sum 0001036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd0070200000000000010400000000000000000000000000000f83f0000000000000000000000000000f83f000000000000f83f00000000000000000001017701016902
            71 Avg 0101036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000104000000000000000000000000000000040000000000000e03f000000000000f83f000000000000044000000000000000000001017701016902
            71 Count 0201036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000f83f0000000000000000000000000000f83f0000000000000000000000000000f83f000000000000f83f00000000000000000001017701016902
            71 Min 0301036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000f83f0000000000000000000000000000f83f0000000000000000000000000000f83f000000000000f83f00000000000000000001017701016902
            71 Max 0401036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000f83f0000000000000000000000000000f83f0000000000000000000000000000f83f000000000000044000000000000000000001017701016902
            71 Group 0501036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000f83f0000000000000000000000000000f83f0000000000000000000000000000f83f000000000000f83f00000000000000000001017701016902
            71 Stddev 0601036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000104000000000000000000000000000000040000000000000e03f000000000000f83f000000000000044000000000000000000001017701016902
            71 Stdvar 0701036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00702000000000000104000000000000000000000000000000040000000000000e03f000000000000f83f000000000000044000000000000000000001017701016902
            71 Topk(2) 080201036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd007000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000200000000000004401108696e7374616e63650179036a6f62016a000000000000f83f1108696e7374616e63650178036a6f62016a000001017701016902
            71 Bottomk(1) 090101036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd0070000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001000000000000f83f1108696e7374616e63650178036a6f62016a000001017701016902
            71 CountValues("v") 0a017601036a6f62000106036a6f62016a1108696e7374616e63650178036a6f62016a01fbd00700000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000203312e350103322e35010001017701016902
        "#]].assert_eq(&seen);
    }
}
