//! Remote write 2.0: `io.prometheus.write.v2.Request`.
//!
//! Source: prometheus `prompb/io/prometheus/write/v2/types.proto`.

use promesh_model::Timestamp;
use promesh_model::ingest::Metadata;
use promesh_model::labels::METRIC_NAME;

use super::decode::{Decoded, Pairs, Starts, exemplar, histogram, metric_type, sample};
use super::proto::{Fields, ProtoError};

/// The texts that everything else refers to by number; the first is empty.
struct Symbols<'a>(Vec<&'a str>);

impl<'a> Symbols<'a> {
    fn get(&self, reference: u32) -> Result<&'a str, ProtoError> {
        self.0.get(reference as usize).copied().ok_or(ProtoError::Symbol(reference))
    }

    /// Looks references up, in pairs of name and value.
    fn pairs(&self, references: &[u32], pairs: &mut Pairs<'a>) -> Result<(), ProtoError> {
        if !references.len().is_multiple_of(2) {
            return Err(ProtoError::OddLabels(references.len()));
        }
        pairs.clear();
        for pair in references.chunks_exact(2) {
            pairs.push(self.get(pair[0])?, self.get(pair[1])?);
        }
        Ok(())
    }
}

/// Reads a whole message; samples after `latest` are left out and said.
pub(crate) fn decode(body: &[u8], latest: Timestamp) -> Result<Decoded, ProtoError> {
    let mut symbols = Symbols(Vec::new());
    for field in Fields(body) {
        let field = field?;
        if field.number == 4 {
            symbols.0.push(field.text()?);
        }
    }
    let mut reader =
        Reader { symbols, latest, references: Vec::new(), pairs: Pairs::default(), starts: Starts::default() };
    let mut decoded = Decoded::default();
    for field in Fields(body) {
        let field = field?;
        if field.number == 5 {
            reader.series(field.message()?, &mut decoded)?;
        }
    }
    Ok(decoded)
}

struct Reader<'a> {
    symbols: Symbols<'a>,
    latest: Timestamp,
    references: Vec<u32>,
    pairs: Pairs<'a>,
    starts: Starts,
}

impl<'a> Reader<'a> {
    fn series(&mut self, fields: Fields<'a>, decoded: &mut Decoded) -> Result<(), ProtoError> {
        let begun = decoded.begin();
        self.references.clear();
        self.starts.clear();
        let (mut too_new, mut start, mut metadata) = (false, Timestamp(0), None);
        for field in fields {
            let field = field?;
            match field.number {
                1 => field.each_varint(|value| self.references.push(u32::try_from(value).unwrap_or(u32::MAX)))?,
                2 => {
                    let (at, value, start) = sample(field.message()?)?;
                    too_new |= at > self.latest;
                    decoded.push.samples.push((at, value));
                    self.starts.samples.push(start);
                }
                3 => {
                    let (at, value, start) = histogram(field.message()?)?;
                    too_new |= at > self.latest;
                    decoded.push.histograms.push((at, value));
                    self.starts.histograms.push(start);
                }
                4 => {
                    let found = self.exemplar(field.message()?)?;
                    decoded.push.exemplars.extend(found);
                }
                5 => metadata = Some(self.metadata(field.message()?)?),
                // Before 2.0 was settled it was said once for all samples, as Prometheus up to 3.7 does.
                6 => start = Timestamp(field.signed()?),
                _ => {}
            }
        }
        // A bad reference is a fault of this series, not of the message's form.
        let found = self.symbols.pairs(&self.references, &mut self.pairs).map_err(|error| error.to_string());
        let labels = found.and_then(|()| self.pairs.series()).and_then(|labels| match too_new {
            true => Err(format!("out of bounds for series {labels}")),
            false => Ok(labels),
        });
        if let (Ok(labels), Some(metadata)) = (&labels, metadata)
            && metadata != Metadata::default()
        {
            decoded.push.metadata.push((labels.value(METRIC_NAME).to_owned(), metadata));
        }
        match self.starts.single() {
            Some(Timestamp(0)) => decoded.finish(begun, labels, start),
            Some(start) => decoded.finish(begun, labels, start),
            None => decoded.finish_runs(begun, labels, &self.starts),
        }
        Ok(())
    }

    fn exemplar(&self, fields: Fields<'a>) -> Result<Option<promesh_model::ingest::Exemplar>, ProtoError> {
        let mut references = Vec::new();
        let (mut value, mut at) = (0.0, 0);
        for field in fields {
            let field = field?;
            match field.number {
                1 => field.each_varint(|value| references.push(u32::try_from(value).unwrap_or(u32::MAX)))?,
                2 => value = field.double()?,
                3 => at = field.signed()?,
                _ => {}
            }
        }
        let mut pairs = Pairs::default();
        let labels = self.symbols.pairs(&references, &mut pairs).map_err(|error| error.to_string());
        Ok(exemplar(labels.and_then(|()| pairs.labels()), value, Timestamp(at)))
    }

    fn metadata(&self, fields: Fields<'a>) -> Result<Metadata, ProtoError> {
        let mut metadata = Metadata::default();
        for field in fields {
            let field = field?;
            let reference = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            match field.number {
                1 => metadata.kind = metric_type(field.unsigned()?).to_owned(),
                3 => metadata.help = self.symbols.get(reference(field.unsigned()?))?.to_owned(),
                4 => metadata.unit = self.symbols.get(reference(field.unsigned()?))?.to_owned(),
                _ => {}
            }
        }
        Ok(metadata)
    }
}
