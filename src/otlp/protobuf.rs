//! The message from protobuf, on borrowed bytes.

use crate::DecodeError;
use crate::message::*;

/// How deep values of attributes nest.
const DEPTH_MAX: usize = 16;

type Read<T> = Result<T, DecodeError>;

const TRUNCATED: DecodeError = DecodeError::Malformed("it ends within a field");
const WRONG_TYPE: DecodeError = DecodeError::Malformed("a field has another type than it must have");

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Read<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> 3).map_err(|_| DecodeError::Malformed("a field number is out of range"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => Wire::Fixed64(u64::from_le_bytes(*array(&mut self.0)?)),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| TRUNCATED)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(TRUNCATED)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            5 => {
                let _: &[u8; 4] = array(&mut self.0)?;
                Wire::Fixed32
            }
            _ => return Err(WRONG_TYPE),
        };
        Ok(Some((number, wire)))
    }
}

fn varint(bytes: &mut &[u8]) -> Read<u64> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index as u32).min(63);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(TRUNCATED)
}

fn array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Read<&'a [u8; N]> {
    let (array, rest) = bytes.split_first_chunk().ok_or(TRUNCATED)?;
    *bytes = rest;
    Ok(array)
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Read<&'a [u8]> {
        if let Wire::Bytes(bytes) = self { Ok(bytes) } else { Err(WRONG_TYPE) }
    }

    fn fields(&self) -> Read<Fields<'a>> {
        self.bytes().map(Fields)
    }

    fn text(&self) -> Read<String> {
        let text = std::str::from_utf8(self.bytes()?);
        text.map(str::to_owned).map_err(|_| DecodeError::Malformed("a text is not UTF-8"))
    }

    fn unsigned(&self) -> Read<u64> {
        if let Wire::Varint(value) = self { Ok(*value) } else { Err(WRONG_TYPE) }
    }

    fn zigzag(&self) -> Read<i64> {
        self.unsigned().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn fixed(&self) -> Read<u64> {
        if let Wire::Fixed64(value) = self { Ok(*value) } else { Err(WRONG_TYPE) }
    }

    fn double(&self) -> Read<f64> {
        self.fixed().map(f64::from_bits)
    }

    /// A repeated fixed number, packed or one by one.
    fn each_fixed(&self, out: &mut Vec<u64>) -> Read<()> {
        match self {
            Wire::Fixed64(value) => out.push(*value),
            Wire::Bytes(bytes) => {
                if out.len() + bytes.len() / 8 > BUCKETS_MAX {
                    return Err(DecodeError::TooMany("buckets"));
                }
                let mut bytes = *bytes;
                while !bytes.is_empty() {
                    out.push(u64::from_le_bytes(*array(&mut bytes)?));
                }
            }
            _ => return Err(WRONG_TYPE),
        }
        if out.len() > BUCKETS_MAX { Err(DecodeError::TooMany("buckets")) } else { Ok(()) }
    }

    fn each_varint(&self, out: &mut Vec<u64>) -> Read<()> {
        match self {
            Wire::Varint(value) => out.push(*value),
            Wire::Bytes(bytes) => {
                let mut bytes = *bytes;
                while !bytes.is_empty() && out.len() <= BUCKETS_MAX {
                    out.push(varint(&mut bytes)?);
                }
            }
            _ => return Err(WRONG_TYPE),
        }
        if out.len() > BUCKETS_MAX { Err(DecodeError::TooMany("buckets")) } else { Ok(()) }
    }
}

/// What of the bounds is still free.
struct Limits {
    points: usize,
}

impl Limits {
    fn take_point(&mut self) -> Read<()> {
        self.points = self.points.checked_sub(1).ok_or(DecodeError::TooMany("points"))?;
        Ok(())
    }
}

/// Reads an `ExportMetricsServiceRequest`.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn decode_protobuf(bytes: &[u8]) -> Result<Metrics, DecodeError> {
    let mut limits = Limits { points: POINTS_MAX };
    let mut metrics = Metrics::default();
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        if number == 1 {
            metrics.resources.push(resource(wire.fields()?, &mut limits)?);
        }
    }
    Ok(metrics)
}

/// The bytes of each resource, as a message that has it alone.
pub(crate) fn resources(bytes: &[u8]) -> Read<Vec<&[u8]>> {
    let (mut all, mut fields) = (Vec::new(), Fields(bytes));
    loop {
        let begun = fields.0;
        let Some((number, _)) = fields.next()? else { return Ok(all) };
        if number == 1 {
            all.push(&begun[..begun.len() - fields.0.len()]);
        }
    }
}

fn resource(mut fields: Fields<'_>, limits: &mut Limits) -> Read<Resource> {
    let mut resource = Resource::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                let mut inner = wire.fields()?;
                while let Some((number, wire)) = inner.next()? {
                    if number == 1 {
                        attribute(&wire, &mut resource.attributes)?;
                    }
                }
            }
            2 => resource.scopes.push(scope(wire.fields()?, limits)?),
            _ => {}
        }
    }
    Ok(resource)
}

fn scope(mut fields: Fields<'_>, limits: &mut Limits) -> Read<Scope> {
    let mut scope = Scope::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                let mut inner = wire.fields()?;
                while let Some((number, wire)) = inner.next()? {
                    match number {
                        1 => scope.name = wire.text()?,
                        2 => scope.version = wire.text()?,
                        3 => attribute(&wire, &mut scope.attributes)?,
                        _ => {}
                    }
                }
            }
            2 => scope.metrics.push(metric(wire.fields()?, limits)?),
            3 => scope.schema_url = wire.text()?,
            _ => {}
        }
    }
    Ok(scope)
}

fn attribute(wire: &Wire<'_>, out: &mut Attributes) -> Read<()> {
    if out.len() >= ATTRIBUTES_MAX {
        return Err(DecodeError::TooMany("attributes"));
    }
    let mut fields = wire.fields()?;
    let (mut key, mut value) = (String::new(), String::new());
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => key = wire.text()?,
            2 => value = any_value(wire.fields()?, 0)?.into_text(),
            _ => {}
        }
    }
    out.push((key, value));
    Ok(())
}

fn any_value(mut fields: Fields<'_>, depth: usize) -> Read<AnyValue> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::TooMany("levels of a value"));
    }
    let mut found = AnyValue::Nothing;
    while let Some((number, wire)) = fields.next()? {
        found = match number {
            1 => AnyValue::Text(wire.text()?),
            2 => AnyValue::Bool(wire.unsigned()? != 0),
            3 => AnyValue::Int(wire.unsigned()? as i64),
            4 => AnyValue::Double(wire.double()?),
            5 => {
                let mut list = Vec::new();
                let mut inner = wire.fields()?;
                while let Some((number, wire)) = inner.next()? {
                    if number == 1 && list.len() < ATTRIBUTES_MAX {
                        list.push(any_value(wire.fields()?, depth + 1)?);
                    }
                }
                AnyValue::List(list)
            }
            6 => {
                let mut map = Vec::new();
                let mut inner = wire.fields()?;
                while let Some((number, wire)) = inner.next()? {
                    if number != 1 || map.len() >= ATTRIBUTES_MAX {
                        continue;
                    }
                    let (mut key, mut value) = (String::new(), AnyValue::Nothing);
                    let mut pair = wire.fields()?;
                    while let Some((number, wire)) = pair.next()? {
                        match number {
                            1 => key = wire.text()?,
                            2 => value = any_value(wire.fields()?, depth + 1)?,
                            _ => {}
                        }
                    }
                    map.push((key, value));
                }
                AnyValue::Map(map)
            }
            7 => AnyValue::Bytes(wire.bytes()?.to_vec()),
            _ => found,
        };
    }
    Ok(found)
}

fn metric(mut fields: Fields<'_>, limits: &mut Limits) -> Read<Metric> {
    let mut metric = Metric::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => metric.name = wire.text()?,
            2 => metric.description = wire.text()?,
            3 => metric.unit = wire.text()?,
            5 => metric.data = Data::Gauge(data(wire.fields()?, limits, self::number)?.0),
            7 => {
                let (points, temporality, monotonic) = data(wire.fields()?, limits, self::number)?;
                metric.data = Data::Sum { points, temporality, monotonic };
            }
            9 => {
                let (points, temporality, _) = data(wire.fields()?, limits, explicit)?;
                metric.data = Data::Histogram { points, temporality };
            }
            10 => {
                let (points, temporality, _) = data(wire.fields()?, limits, exponential)?;
                metric.data = Data::Exponential { points, temporality };
            }
            11 => metric.data = Data::Summary(data(wire.fields()?, limits, summary)?.0),
            _ => {}
        }
    }
    Ok(metric)
}

/// Points, and what is said of all of them.
fn data<T>(
    mut fields: Fields<'_>,
    limits: &mut Limits,
    point: fn(Fields<'_>) -> Read<T>,
) -> Read<(Vec<T>, Temporality, bool)> {
    let (mut points, mut temporality, mut monotonic) = (Vec::new(), Temporality::default(), false);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                limits.take_point()?;
                points.push(point(wire.fields()?)?);
            }
            2 => temporality = Temporality::of(wire.unsigned()?),
            3 => monotonic = wire.unsigned()? != 0,
            _ => {}
        }
    }
    Ok((points, temporality, monotonic))
}

fn number(mut fields: Fields<'_>) -> Read<Number> {
    let mut found = Number::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            2 => found.point.start_ns = wire.fixed()?,
            3 => found.point.time_ns = wire.fixed()?,
            4 => found.value = wire.double()?,
            5 => found.point.exemplars.push(exemplar(wire.fields()?)?),
            6 => found.value = wire.fixed()? as i64 as f64,
            7 => attribute(&wire, &mut found.point.attributes)?,
            8 => found.point.no_value = wire.unsigned()? & 1 == 1,
            _ => {}
        }
    }
    Ok(found)
}

fn explicit(mut fields: Fields<'_>) -> Read<Explicit> {
    let mut found = Explicit::default();
    let mut bounds = Vec::new();
    while let Some((number, wire)) = fields.next()? {
        match number {
            2 => found.point.start_ns = wire.fixed()?,
            3 => found.point.time_ns = wire.fixed()?,
            4 => found.count = wire.fixed()?,
            5 => found.sum = Some(wire.double()?),
            6 => wire.each_fixed(&mut found.buckets)?,
            7 => wire.each_fixed(&mut bounds)?,
            8 => found.point.exemplars.push(exemplar(wire.fields()?)?),
            9 => attribute(&wire, &mut found.point.attributes)?,
            10 => found.point.no_value = wire.unsigned()? & 1 == 1,
            _ => {}
        }
    }
    found.bounds = bounds.into_iter().map(f64::from_bits).collect();
    Ok(found)
}

fn exponential(mut fields: Fields<'_>) -> Read<Exponential> {
    let mut found = Exponential::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => attribute(&wire, &mut found.point.attributes)?,
            2 => found.point.start_ns = wire.fixed()?,
            3 => found.point.time_ns = wire.fixed()?,
            4 => found.count = wire.fixed()?,
            5 => found.sum = Some(wire.double()?),
            6 => found.scale = i32::try_from(wire.zigzag()?).map_err(|_| DecodeError::Malformed("a scale"))?,
            7 => found.zero_count = wire.fixed()?,
            8 => found.positive = buckets(wire.fields()?)?,
            9 => found.negative = buckets(wire.fields()?)?,
            10 => found.point.no_value = wire.unsigned()? & 1 == 1,
            11 => found.point.exemplars.push(exemplar(wire.fields()?)?),
            14 => found.zero_threshold = wire.double()?,
            _ => {}
        }
    }
    Ok(found)
}

fn buckets(mut fields: Fields<'_>) -> Read<(i32, Vec<u64>)> {
    let (mut offset, mut counts) = (0, Vec::new());
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => offset = i32::try_from(wire.zigzag()?).map_err(|_| DecodeError::Malformed("a bucket offset"))?,
            2 => wire.each_varint(&mut counts)?,
            _ => {}
        }
    }
    Ok((offset, counts))
}

fn summary(mut fields: Fields<'_>) -> Read<Summary> {
    let mut found = Summary::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            2 => found.point.start_ns = wire.fixed()?,
            3 => found.point.time_ns = wire.fixed()?,
            4 => found.count = wire.fixed()?,
            5 => found.sum = wire.double()?,
            6 => {
                let (mut quantile, mut value) = (0.0, 0.0);
                let mut inner = wire.fields()?;
                while let Some((number, wire)) = inner.next()? {
                    match number {
                        1 => quantile = wire.double()?,
                        2 => value = wire.double()?,
                        _ => {}
                    }
                }
                if found.quantiles.len() >= BUCKETS_MAX {
                    return Err(DecodeError::TooMany("quantiles"));
                }
                found.quantiles.push((quantile, value));
            }
            7 => attribute(&wire, &mut found.point.attributes)?,
            8 => found.point.no_value = wire.unsigned()? & 1 == 1,
            _ => {}
        }
    }
    Ok(found)
}

fn exemplar(mut fields: Fields<'_>) -> Read<Exemplar> {
    let mut found = Exemplar::default();
    while let Some((number, wire)) = fields.next()? {
        match number {
            2 => found.time_ns = wire.fixed()?,
            3 => found.value = wire.double()?,
            4 => found.span_id = hex(wire.bytes()?),
            5 => found.trace_id = hex(wire.bytes()?),
            6 => found.value = wire.fixed()? as i64 as f64,
            7 => attribute(&wire, &mut found.attributes)?,
            _ => {}
        }
    }
    Ok(found)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(64).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode_protobuf(&bytes);
            let nested: Vec<u8> = [vec![0x0a, bytes.len().min(127) as u8], bytes].concat();
            let _ = decode_protobuf(&nested);
        }
    }
}
