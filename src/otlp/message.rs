//! The message, as far as it has a meaning here.
//!
//! Source: opentelemetry-proto `metrics/v1/metrics.proto`, `common/v1/common.proto`.

/// Attributes: names and their values as text, in the order written.
pub type Attributes = Vec<(String, String)>;

/// Points of one message.
pub const POINTS_MAX: usize = 1_000_000;
/// Attributes of one thing.
pub const ATTRIBUTES_MAX: usize = 1_024;
/// Buckets of one histogram.
pub const BUCKETS_MAX: usize = 16_384;

/// A whole message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// What each resource sent.
    pub resources: Vec<Resource>,
}

/// A resource and its metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// What it is.
    pub attributes: Attributes,
    /// Its scopes.
    pub scopes: Vec<Scope>,
}

/// An instrumentation scope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its schema.
    pub schema_url: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its metrics.
    pub metrics: Vec<Metric>,
}

/// One metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its unit, in UCUM.
    pub unit: String,
    /// What it measured.
    pub data: Data,
}

/// Whether values count from the start, or from the last point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Temporality {
    /// It was not said.
    #[default]
    Unspecified,
    /// From the last point.
    Delta,
    /// From the start.
    Cumulative,
}

impl Temporality {
    /// By its number.
    pub fn of(number: u64) -> Temporality {
        match number {
            1 => Temporality::Delta,
            2 => Temporality::Cumulative,
            _ => Temporality::Unspecified,
        }
    }
}

/// A metric's points.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Data {
    /// None of a kind that is known.
    #[default]
    Nothing,
    /// Values of the moment.
    Gauge(Vec<Number>),
    /// Sums.
    Sum {
        /// The points.
        points: Vec<Number>,
        /// From when they count.
        temporality: Temporality,
        /// Whether they only rise.
        monotonic: bool,
    },
    /// Histograms with explicit bounds.
    Histogram {
        /// The points.
        points: Vec<Explicit>,
        /// From when they count.
        temporality: Temporality,
    },
    /// Histograms with exponential bounds.
    Exponential {
        /// The points.
        points: Vec<Exponential>,
        /// From when they count.
        temporality: Temporality,
    },
    /// Quantiles.
    Summary(Vec<Summary>),
}

/// What every point has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// What it is about.
    pub attributes: Attributes,
    /// When counting began, in ns; zero if not said.
    pub start_ns: u64,
    /// When, in ns.
    pub time_ns: u64,
    /// Whether there is no value: the series has ended.
    pub no_value: bool,
    /// Exemplars.
    pub exemplars: Vec<Exemplar>,
}

/// A number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Number {
    /// Whose.
    pub point: Point,
    /// Its value.
    pub value: f64,
}

/// A histogram with explicit bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explicit {
    /// Whose.
    pub point: Point,
    /// All observations.
    pub count: u64,
    /// Their sum, if it is known.
    pub sum: Option<f64>,
    /// Observations by bucket, one more than bounds.
    pub buckets: Vec<u64>,
    /// Upper bounds.
    pub bounds: Vec<f64>,
}

/// A histogram with exponential bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exponential {
    /// Whose.
    pub point: Point,
    /// All observations.
    pub count: u64,
    /// Their sum, if it is known.
    pub sum: Option<f64>,
    /// The resolution: bounds are powers of 2^(2^-scale).
    pub scale: i32,
    /// Observations near zero.
    pub zero_count: u64,
    /// How near; zero if not said.
    pub zero_threshold: f64,
    /// Above zero: the first bucket's index, and counts.
    pub positive: (i32, Vec<u64>),
    /// Below zero.
    pub negative: (i32, Vec<u64>),
}

/// A summary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Whose.
    pub point: Point,
    /// All observations.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Quantiles and their values.
    pub quantiles: Vec<(f64, f64)>,
}

/// An exemplar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exemplar {
    /// Attributes that the series does not have.
    pub attributes: Attributes,
    /// When, in ns.
    pub time_ns: u64,
    /// Its value.
    pub value: f64,
    /// Hex; empty if none.
    pub trace_id: String,
    /// Hex; empty if none.
    pub span_id: String,
}

/// An attribute's value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AnyValue {
    /// None.
    #[default]
    Nothing,
    /// A text.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// A list.
    List(Vec<AnyValue>),
    /// Names and values.
    Map(Vec<(String, AnyValue)>),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl AnyValue {
    /// As a label's value: texts as they are, lists and maps as JSON, bytes in base 64.
    ///
    /// Source: opentelemetry-collector pdata `Value.AsString`.
    pub fn into_text(self) -> String {
        match self {
            AnyValue::Nothing => String::new(),
            AnyValue::Text(text) => text,
            AnyValue::Bool(value) => value.to_string(),
            AnyValue::Int(value) => value.to_string(),
            AnyValue::Double(value) => promesh_model::value::format_float(value),
            AnyValue::Bytes(bytes) => base64(&bytes),
            nested => nested.into_json().to_string(),
        }
    }

    fn into_json(self) -> serde_json::Value {
        match self {
            AnyValue::Nothing => serde_json::Value::Null,
            AnyValue::Text(text) => text.into(),
            AnyValue::Bool(value) => value.into(),
            AnyValue::Int(value) => value.into(),
            AnyValue::Double(value) => value.into(),
            AnyValue::Bytes(bytes) => base64(&bytes).into(),
            AnyValue::List(list) => list.into_iter().map(AnyValue::into_json).collect(),
            AnyValue::Map(mut map) => {
                // Go's maps are written in the order of their keys.
                map.sort_by(|a, b| a.0.cmp(&b.0));
                map.into_iter().map(|(key, value)| (key, value.into_json())).collect()
            }
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                out.push(ALPHABET[(group >> (18 - 6 * place) & 63) as usize] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}
