//! The message from JSON, in protobuf's mapping with OTLP's own rules: ids in hex, 64-bit numbers as text or numbers.

use serde_json::Value;

use crate::DecodeError;
use crate::message::*;

type Read<T> = Result<T, DecodeError>;

/// Reads an `ExportMetricsServiceRequest` in JSON.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn decode_json(bytes: &[u8]) -> Result<Metrics, DecodeError> {
    let root: Value = serde_json::from_slice(bytes).map_err(|error| DecodeError::Json(error.to_string()))?;
    if !root.is_object() {
        return Err(DecodeError::Json("not an object".to_owned()));
    }
    let mut points = POINTS_MAX;
    let resources = list(&root, "resourceMetrics").iter().map(|value| resource(value, &mut points));
    Ok(Metrics { resources: resources.collect::<Read<_>>()? })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn resource(value: &Value, points: &mut usize) -> Read<Resource> {
    let scopes = list(value, "scopeMetrics").iter().map(|value| scope(value, points));
    let scopes = scopes.collect::<Read<_>>()?;
    Ok(Resource { attributes: attributes(&value["resource"], "attributes")?, scopes })
}

fn scope(value: &Value, points: &mut usize) -> Read<Scope> {
    let metrics = list(value, "metrics").iter().map(|value| metric(value, points)).collect::<Read<_>>()?;
    let scope = &value["scope"];
    Ok(Scope {
        name: text(scope, "name"),
        version: text(scope, "version"),
        schema_url: text(value, "schemaUrl"),
        attributes: attributes(scope, "attributes")?,
        metrics,
    })
}

fn metric(value: &Value, points: &mut usize) -> Read<Metric> {
    let data = if value["gauge"].is_object() {
        Data::Gauge(data(&value["gauge"], points, number)?)
    } else if value["sum"].is_object() {
        let sum = &value["sum"];
        Data::Sum {
            points: data(sum, points, number)?,
            temporality: temporality(sum),
            monotonic: sum["isMonotonic"].as_bool().unwrap_or(false),
        }
    } else if value["histogram"].is_object() {
        let histogram = &value["histogram"];
        Data::Histogram { points: data(histogram, points, explicit)?, temporality: temporality(histogram) }
    } else if value["exponentialHistogram"].is_object() {
        let histogram = &value["exponentialHistogram"];
        Data::Exponential { points: data(histogram, points, exponential)?, temporality: temporality(histogram) }
    } else if value["summary"].is_object() {
        Data::Summary(data(&value["summary"], points, summary)?)
    } else {
        Data::Nothing
    };
    Ok(Metric { name: text(value, "name"), description: text(value, "description"), unit: text(value, "unit"), data })
}

fn temporality(value: &Value) -> Temporality {
    match &value["aggregationTemporality"] {
        Value::String(name) if name.ends_with("DELTA") => Temporality::Delta,
        Value::String(name) if name.ends_with("CUMULATIVE") => Temporality::Cumulative,
        number => Temporality::of(number.as_u64().unwrap_or(0)),
    }
}

fn data<T>(value: &Value, points: &mut usize, point: fn(&Value) -> Read<T>) -> Read<Vec<T>> {
    let all = list(value, "dataPoints");
    *points = points.checked_sub(all.len()).ok_or(DecodeError::TooMany("points"))?;
    all.iter().map(point).collect()
}

fn attributes(value: &Value, key: &str) -> Read<Attributes> {
    let all = list(value, key);
    if all.len() > ATTRIBUTES_MAX {
        return Err(DecodeError::TooMany("attributes"));
    }
    Ok(all.iter().map(|pair| (text(pair, "key"), any_value(&pair["value"]).into_text())).collect())
}

fn any_value(value: &Value) -> AnyValue {
    let Some((kind, inner)) = value.as_object().and_then(|object| object.iter().next()) else {
        return AnyValue::Nothing;
    };
    match kind.as_str() {
        "stringValue" => AnyValue::Text(inner.as_str().unwrap_or_default().to_owned()),
        "boolValue" => AnyValue::Bool(inner.as_bool().unwrap_or(false)),
        "intValue" => AnyValue::Int(integer(inner).unwrap_or(0)),
        "doubleValue" => AnyValue::Double(double(inner).unwrap_or(0.0)),
        "arrayValue" => AnyValue::List(list(inner, "values").iter().map(any_value).collect()),
        "kvlistValue" => {
            let pair = |pair: &Value| (text(pair, "key"), any_value(&pair["value"]));
            AnyValue::Map(list(inner, "values").iter().map(pair).collect())
        }
        // Bytes come in base 64 already, which is how they are shown.
        "bytesValue" => AnyValue::Text(inner.as_str().unwrap_or_default().to_owned()),
        _ => AnyValue::Nothing,
    }
}

/// 64 bits as text or number.
fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Numbers, and `NaN` and the infinities as texts.
fn double(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| match value.as_str()? {
        "NaN" => Some(promesh_model::value::normal_nan()),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    })
}

fn point(value: &Value) -> Read<Point> {
    let instant = |key: &str| unsigned(&value[key]).unwrap_or(0);
    Ok(Point {
        attributes: attributes(value, "attributes")?,
        start_ns: instant("startTimeUnixNano"),
        time_ns: instant("timeUnixNano"),
        no_value: unsigned(&value["flags"]).unwrap_or(0) & 1 == 1,
        exemplars: list(value, "exemplars").iter().map(exemplar).collect::<Read<_>>()?,
    })
}

fn value_of(value: &Value) -> f64 {
    double(&value["asDouble"]).or_else(|| integer(&value["asInt"]).map(|value| value as f64)).unwrap_or(0.0)
}

fn number(value: &Value) -> Read<Number> {
    Ok(Number { point: point(value)?, value: value_of(value) })
}

fn counts(values: &[Value]) -> Read<Vec<u64>> {
    if values.len() > BUCKETS_MAX {
        return Err(DecodeError::TooMany("buckets"));
    }
    Ok(values.iter().map(|value| unsigned(value).unwrap_or(0)).collect())
}

fn explicit(value: &Value) -> Read<Explicit> {
    let bounds = list(value, "explicitBounds");
    if bounds.len() > BUCKETS_MAX {
        return Err(DecodeError::TooMany("buckets"));
    }
    Ok(Explicit {
        point: point(value)?,
        count: unsigned(&value["count"]).unwrap_or(0),
        sum: double(&value["sum"]),
        buckets: counts(list(value, "bucketCounts"))?,
        bounds: bounds.iter().map(|bound| double(bound).unwrap_or(0.0)).collect(),
    })
}

fn exponential(value: &Value) -> Read<Exponential> {
    let small = |value: &Value| integer(value).and_then(|value| i32::try_from(value).ok()).unwrap_or(0);
    let buckets = |value: &Value| Ok((small(&value["offset"]), counts(list(value, "bucketCounts"))?));
    Ok(Exponential {
        point: point(value)?,
        count: unsigned(&value["count"]).unwrap_or(0),
        sum: double(&value["sum"]),
        scale: small(&value["scale"]),
        zero_count: unsigned(&value["zeroCount"]).unwrap_or(0),
        zero_threshold: double(&value["zeroThreshold"]).unwrap_or(0.0),
        positive: buckets(&value["positive"])?,
        negative: buckets(&value["negative"])?,
    })
}

fn summary(value: &Value) -> Read<Summary> {
    let quantiles = list(value, "quantileValues");
    if quantiles.len() > BUCKETS_MAX {
        return Err(DecodeError::TooMany("quantiles"));
    }
    let pair = |pair: &Value| (double(&pair["quantile"]).unwrap_or(0.0), double(&pair["value"]).unwrap_or(0.0));
    Ok(Summary {
        point: point(value)?,
        count: unsigned(&value["count"]).unwrap_or(0),
        sum: double(&value["sum"]).unwrap_or(0.0),
        quantiles: quantiles.iter().map(pair).collect(),
    })
}

fn exemplar(value: &Value) -> Read<Exemplar> {
    Ok(Exemplar {
        attributes: attributes(value, "filteredAttributes")?,
        time_ns: unsigned(&value["timeUnixNano"]).unwrap_or(0),
        value: value_of(value),
        trace_id: text(value, "traceId").to_ascii_lowercase(),
        span_id: text(value, "spanId").to_ascii_lowercase(),
    })
}
