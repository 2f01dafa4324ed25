//! The records of Prometheus' logs.
//!
//! ```text
//! 1 series        (ref u64 | labels)…                        labels: count | (name | value)…
//! 2 samples       base ref u64 | base t u64 | (Δref | Δt | value u64)…
//! 3 tombstones    (ref u64 | min | max)…
//! 4 exemplars     as samples, each with labels
//! 6 metadata      (ref | kind u8 | count | (field | value)…)…
//! 7, 9 and 8, 10  as samples, with integer and with float histograms; 9 and 10 with custom buckets
//! ```
//! Fixed numbers are big endian, the others varints.
//!
//! Source: prometheus `tsdb/record/record.go`.

use std::sync::Arc;

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterReset, FloatHistogram, Histogram, Span};
use promesh_model::ingest::HistogramValue;
use promesh_model::labels::Labels;

use crate::block::Damage;
use crate::block::codec::Reader;

/// Which series a record's entry is about, by the number that another record gave it.
pub type Reference = u64;

/// Texts by name.
pub type Fields = Vec<(String, String)>;

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Numbers of series.
    Series(Vec<(Reference, Labels)>),
    /// Floats: instant and bits.
    Samples(Vec<(Reference, i64, u64)>),
    /// Deleted spans, inclusive.
    Tombstones(Vec<(Reference, i64, i64)>),
    /// Exemplars: instant, bits, labels.
    Exemplars(Vec<(Reference, i64, u64, Labels)>),
    /// Metadata: the kind's number, then fields by name.
    Metadata(Vec<(Reference, u8, Fields)>),
    /// Histograms.
    Histograms(Vec<(Reference, i64, HistogramValue)>),
    /// Another kind. Markers of mapped chunks say where samples lie that the log has too.
    Other,
}

impl Record {
    /// Reads one record; of a damaged one, what comes before the damage, and what is wrong.
    pub fn parse(record: &[u8]) -> (Record, Option<Damage>) {
        let Some(kind) = record.first() else { return (Record::Other, None) };
        let mut reader = Reader::at(record, 1);
        let reader = &mut reader;
        match kind {
            1 => all(reader, Record::Series, |reader| Ok((reader.u64()?, labels(reader)?))),
            2 => based(reader, Record::Samples, |reader, of, at| Ok((of, at, reader.u64()?))),
            3 => all(reader, Record::Tombstones, |reader| Ok((reader.u64()?, reader.varint()?, reader.varint()?))),
            4 => based(reader, Record::Exemplars, |reader, of, at| Ok((of, at, reader.u64()?, labels(reader)?))),
            6 => all(reader, Record::Metadata, |reader| {
                let (reference, kind) = (reader.uvarint()?, reader.u8()?);
                let field = |reader: &mut Reader<'_>| Ok((reader.text()?.to_owned(), reader.text()?.to_owned()));
                Ok((reference, kind, list(reader, field)?))
            }),
            7 | 9 => based(reader, Record::Histograms, |reader, of, at| Ok((of, at, integer(reader)?))),
            8 | 10 => based(reader, Record::Histograms, |reader, of, at| Ok((of, at, float(reader)?))),
            _ => (Record::Other, None),
        }
    }
}

/// Entries up to the end.
fn all<T>(
    reader: &mut Reader<'_>,
    record: impl FnOnce(Vec<T>) -> Record,
    mut entry: impl FnMut(&mut Reader<'_>) -> Result<T, Damage>,
) -> (Record, Option<Damage>) {
    let mut entries = Vec::new();
    while !reader.is_at_end() {
        match entry(reader) {
            Ok(entry) => entries.push(entry),
            Err(damage) => return (record(entries), Some(damage)),
        }
    }
    (record(entries), None)
}

/// Entries whose reference and instant are given as differences to the first ones.
fn based<T>(
    reader: &mut Reader<'_>,
    record: impl FnOnce(Vec<T>) -> Record,
    mut entry: impl FnMut(&mut Reader<'_>, Reference, i64) -> Result<T, Damage>,
) -> (Record, Option<Damage>) {
    let mut base = None;
    all(reader, record, |reader| {
        let (reference, at) = match base {
            Some(base) => base,
            None => *base.insert((reader.u64()?, reader.u64()? as i64)),
        };
        let reference = reference.wrapping_add(reader.varint()? as u64);
        let at = at.wrapping_add(reader.varint()?);
        entry(reader, reference, at)
    })
}

fn labels(reader: &mut Reader<'_>) -> Result<Labels, Damage> {
    let mut pairs = Vec::new();
    for _ in 0..reader.length()? {
        pairs.push((reader.text()?, reader.text()?));
    }
    Ok(Labels::from_pairs(pairs))
}

fn hint(byte: u8) -> CounterReset {
    match byte {
        1 => CounterReset::Reset,
        2 => CounterReset::NotReset,
        3 => CounterReset::Gauge,
        _ => CounterReset::Unknown,
    }
}

fn float_number(reader: &mut Reader<'_>) -> Result<f64, Damage> {
    Ok(f64::from_bits(reader.u64()?))
}

fn list<T>(reader: &mut Reader<'_>, one: impl Fn(&mut Reader<'_>) -> Result<T, Damage>) -> Result<Vec<T>, Damage> {
    let mut found = Vec::new();
    for _ in 0..reader.length()? {
        found.push(one(reader)?);
    }
    Ok(found)
}

fn span(reader: &mut Reader<'_>) -> Result<Span, Damage> {
    let offset = i32::try_from(reader.varint()?).map_err(|_| reader.damage("a span beyond 2^31"))?;
    let length = u32::try_from(reader.uvarint()?).map_err(|_| reader.damage("a span beyond 2^32"))?;
    Ok(Span { offset, length })
}

fn schema(reader: &mut Reader<'_>) -> Result<i32, Damage> {
    i32::try_from(reader.varint()?).map_err(|_| reader.damage("a schema beyond 2^31"))
}

fn bounds(schema: i32, reader: &mut Reader<'_>) -> Result<Arc<[f64]>, Damage> {
    Ok(if schema == CUSTOM_BUCKETS_SCHEMA { list(reader, float_number)?.into() } else { Arc::from([]) })
}

fn integer(reader: &mut Reader<'_>) -> Result<HistogramValue, Damage> {
    let mut h = Histogram {
        counter_reset: hint(reader.u8()?),
        schema: schema(reader)?,
        zero_threshold: float_number(reader)?,
        zero_count: reader.uvarint()?,
        count: reader.uvarint()?,
        sum: float_number(reader)?,
        positive_spans: list(reader, span)?,
        negative_spans: list(reader, span)?,
        positive_buckets: list(reader, |reader| reader.varint())?,
        negative_buckets: list(reader, |reader| reader.varint())?,
        custom_values: Arc::from([]),
    };
    h.custom_values = bounds(h.schema, reader)?;
    Ok(HistogramValue::Integer(Arc::new(h)))
}

fn float(reader: &mut Reader<'_>) -> Result<HistogramValue, Damage> {
    let mut h = FloatHistogram {
        counter_reset: hint(reader.u8()?),
        schema: schema(reader)?,
        zero_threshold: float_number(reader)?,
        zero_count: float_number(reader)?,
        count: float_number(reader)?,
        sum: float_number(reader)?,
        positive_spans: list(reader, span)?,
        negative_spans: list(reader, span)?,
        positive_buckets: list(reader, float_number)?,
        negative_buckets: list(reader, float_number)?,
        custom_values: Arc::from([]),
    };
    h.custom_values = bounds(h.schema, reader)?;
    Ok(HistogramValue::Float(Arc::new(h)))
}
