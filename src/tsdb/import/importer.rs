//! Records into a head.

use std::collections::{BTreeMap, HashMap};

use promesh_model::ingest::{Batch, Exemplar, HistogramSample, Metadata, SeriesIndex, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::time::Timestamp;

use super::ImportReport;
use super::records::{Fields, Record, Reference};
use crate::head::{Head, HeadTombstone};

/// Reads records into a head.
pub struct Importer<'a> {
    head: &'a Head,
    series: HashMap<Reference, SeriesRef>,
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
        if record.first() == Some(&1)
            // Damage is counted when the record is read whole.
            && let (Record::Series(entries), _) = Record::parse(record)
        {
            self.series(entries);
        }
    }

    /// Reads one record. What is damaged in it is left out, with what comes after in it.
    pub fn record(&mut self, record: &[u8]) {
        self.report.records += 1;
        let (record, damage) = Record::parse(record);
        self.report.damaged += u64::from(damage.is_some());
        match record {
            Record::Series(entries) => self.series(entries),
            Record::Samples(entries) => {
                for (reference, at, bits) in entries {
                    let Some(series) = self.find(reference) else { continue };
                    self.batch.timestamps.push((self.batch.series.len() as u32, Timestamp(at)));
                    self.batch.series.push(series);
                    self.batch.values.push(f64::from_bits(bits));
                }
            }
            Record::Tombstones(entries) => self.tombstones(entries),
            Record::Exemplars(entries) => {
                for (reference, at, bits, labels) in entries {
                    let Some(series) = self.find(reference) else { continue };
                    let exemplar = Exemplar { labels, value: f64::from_bits(bits), timestamp: Timestamp(at) };
                    self.batch.exemplars.push((series, exemplar));
                }
            }
            Record::Metadata(entries) => {
                for (of, kind, fields) in entries {
                    self.metadata(of, kind, fields);
                }
            }
            Record::Histograms(entries) => {
                for (reference, at, value) in entries {
                    let Some(series) = self.find(reference) else { continue };
                    let (timestamp, start) = (Timestamp(at), Timestamp(0));
                    self.batch.histograms.push(HistogramSample { series, timestamp, value, start });
                }
            }
            Record::Other => {}
        }
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

    fn series(&mut self, entries: Vec<(Reference, Labels)>) {
        for (reference, labels) in entries {
            if let Ok(series) = self.head.resolve(&labels) {
                self.series.insert(reference, series);
            }
        }
    }

    fn find(&mut self, reference: Reference) -> Option<SeriesRef> {
        let found = self.series.get(&reference).copied();
        self.report.orphans += u64::from(found.is_none());
        found
    }

    fn tombstones(&mut self, entries: Vec<(Reference, i64, i64)>) {
        self.flush();
        for (reference, min, max) in entries {
            let known = self.find(reference).and_then(|series| self.head.labels(series));
            if let Some(labels) = known {
                self.head.apply_tombstones(&[HeadTombstone { labels, min, max }]);
            }
        }
    }

    fn metadata(&mut self, reference: Reference, kind: u8, fields: Fields) {
        const KINDS: [&str; 8] =
            ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"];
        let kind = KINDS.get(usize::from(kind)).unwrap_or(&KINDS[0]).to_string();
        let mut metadata = Metadata { kind, ..Metadata::default() };
        for (name, value) in fields {
            match name.as_str() {
                "UNIT" => metadata.unit = value,
                "HELP" => metadata.help = value,
                _ => {}
            }
        }
        let known = self.find(reference).and_then(|series| self.head.labels(series));
        if let Some(name) = known.as_ref().and_then(Labels::metric_name) {
            self.metadata.insert(name.to_owned(), metadata);
        }
    }
}
