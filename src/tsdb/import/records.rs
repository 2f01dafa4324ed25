//! The records of Prometheus' logs.
//!
//! Source: prometheus `tsdb/record/record.go`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterReset, FloatHistogram, Histogram, Span};
use promesh_model::ingest::{Batch, Exemplar, HistogramSample, HistogramValue, Metadata, SeriesIndex, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::time::Timestamp;

use super::ImportReport;
use crate::block::Damage;
use crate::block::codec::Reader;
use crate::head::{Head, HeadTombstone};

/// Reads records into a head.
pub struct Importer<'a> {
    head: &'a Head,
    series: HashMap<u64, SeriesRef>,
    batch: Batch,
    metadata: BTreeMap<String, Metadata>,
    pub report: ImportReport,
}

/// Samples put into the head at once.
const BATCH_SAMPLES: usize = 4096;

impl<'a> Importer<'a> {
    /// Begins.
    pub fn new(head: &'a Head) -> Importer<'a> {
        let (batch, metadata) = (Batch::default(), BTreeMap::new());
        Importer { head, series: HashMap::new(), batch, metadata, report: ImportReport::default() }
    }

    /// Reads the series of a record and nothing else of it.
    pub fn series_only(&mut self, record: &[u8]) {
        if record.first() == Some(&1) {
            // Damage is counted when the record is read whole.
            let _ = self.series(&mut Reader::at(record, 1));
        }
    }

    /// Reads one record. What is damaged in it is left out, with what comes after in it.
    pub fn record(&mut self, record: &[u8]) {
        self.report.records += 1;
        let Some(kind) = record.first() else { return };
        let mut reader = Reader::at(record, 1);
        let read = match kind {
            1 => self.series(&mut reader),
            2 => self.samples(&mut reader),
            3 => self.tombstones(&mut reader),
            4 => self.exemplars(&mut reader),
            6 => self.metadata(&mut reader),
            7 | 9 => self.histograms(&mut reader, integer),
            8 | 10 => self.histograms(&mut reader, float),
            // Markers of mapped chunks say where samples lie that the log has too.
            _ => Ok(()),
        };
        self.report.damaged += u64::from(read.is_err());
        if self.batch.series.len() + self.batch.histograms.len() >= BATCH_SAMPLES {
            self.flush();
        }
    }

    /// Ends; answers what was read.
    pub fn finish(mut self) -> ImportReport {
        self.flush();
        self.head.restore_metadata(self.metadata);
        self.report.series = self.series.len() as u64;
        self.report
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let outcome = self.head.append_anywhere(&batch);
        self.report.samples += outcome.appended + outcome.late;
    }

    fn series(&mut self, reader: &mut Reader<'_>) -> Result<(), Damage> {
        while !reader.is_at_end() {
            let reference = reader.u64()?;
            let labels = labels(reader)?;
            if let Ok(series) = self.head.resolve(&labels) {
                self.series.insert(reference, series);
            }
        }
        Ok(())
    }

    /// The reference and the instant that a sample of a record gives as differences to the first ones.
    fn based(base: (u64, i64), reader: &mut Reader<'_>) -> Result<(u64, i64), Damage> {
        Ok((base.0.wrapping_add(reader.varint()? as u64), base.1.wrapping_add(reader.varint()?)))
    }

    fn find(&mut self, reference: u64) -> Option<SeriesRef> {
        let found = self.series.get(&reference).copied();
        self.report.orphans += u64::from(found.is_none());
        found
    }

    fn samples(&mut self, reader: &mut Reader<'_>) -> Result<(), Damage> {
        if reader.is_at_end() {
            return Ok(());
        }
        let base = (reader.u64()?, reader.u64()? as i64);
        while !reader.is_at_end() {
            let (reference, at) = Self::based(base, reader)?;
            let value = f64::from_bits(reader.u64()?);
            if let Some(series) = self.find(reference) {
                self.batch.timestamps.push((self.batch.series.len() as u32, Timestamp(at)));
                self.batch.series.push(series);
                self.batch.values.push(value);
            }
        }
        Ok(())
    }

    fn histograms(
        &mut self,
        reader: &mut Reader<'_>,
        decode: fn(&mut Reader<'_>) -> Result<HistogramValue, Damage>,
    ) -> Result<(), Damage> {
        if reader.is_at_end() {
            return Ok(());
        }
        let base = (reader.u64()?, reader.u64()? as i64);
        while !reader.is_at_end() {
            let (reference, at) = Self::based(base, reader)?;
            let value = decode(reader)?;
            if let Some(series) = self.find(reference) {
                let (timestamp, start) = (Timestamp(at), Timestamp(0));
                self.batch.histograms.push(HistogramSample { series, timestamp, value, start });
            }
        }
        Ok(())
    }

    fn exemplars(&mut self, reader: &mut Reader<'_>) -> Result<(), Damage> {
        if reader.is_at_end() {
            return Ok(());
        }
        let base = (reader.u64()?, reader.u64()? as i64);
        while !reader.is_at_end() {
            let (reference, at) = Self::based(base, reader)?;
            let value = f64::from_bits(reader.u64()?);
            let labels = labels(reader)?;
            if let Some(series) = self.find(reference) {
                self.batch.exemplars.push((series, Exemplar { labels, value, timestamp: Timestamp(at) }));
            }
        }
        Ok(())
    }

    fn tombstones(&mut self, reader: &mut Reader<'_>) -> Result<(), Damage> {
        self.flush();
        while !reader.is_at_end() {
            let (reference, min, max) = (reader.u64()?, reader.varint()?, reader.varint()?);
            let known = self.find(reference).and_then(|series| self.head.labels(series));
            if let Some(labels) = known {
                self.head.apply_tombstones(&[HeadTombstone { labels, min, max }]);
            }
        }
        Ok(())
    }

    fn metadata(&mut self, reader: &mut Reader<'_>) -> Result<(), Damage> {
        const KINDS: [&str; 8] =
            ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"];
        while !reader.is_at_end() {
            let reference = reader.uvarint()?;
            let kind = usize::from(reader.u8()?);
            let mut metadata =
                Metadata { kind: KINDS.get(kind).unwrap_or(&KINDS[0]).to_string(), ..Metadata::default() };
            for _ in 0..reader.length()? {
                let (name, value) = (reader.text()?, reader.text()?);
                match name {
                    "UNIT" => metadata.unit = value.to_owned(),
                    "HELP" => metadata.help = value.to_owned(),
                    _ => {}
                }
            }
            let known = self.find(reference).and_then(|series| self.head.labels(series));
            if let Some(name) = known.as_ref().and_then(Labels::metric_name) {
                self.metadata.insert(name.to_owned(), metadata);
            }
        }
        Ok(())
    }
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
