//! Remote write 1.0: `prometheus.WriteRequest`.
//!
//! Source: prometheus `prompb/remote.proto`, `prompb/types.proto`.

use promesh_model::Timestamp;
use promesh_model::ingest::Metadata;

use super::decode::{Decoded, Pairs, exemplar, histogram, metric_type, sample};
use super::proto::{Fields, ProtoError};

/// Reads a whole message; samples after `latest` are left out and said.
pub(crate) fn decode(body: &[u8], latest: Timestamp) -> Result<Decoded, ProtoError> {
    let mut decoded = Decoded::default();
    let mut pairs = Pairs::default();
    for field in Fields(body) {
        let field = field?;
        match field.number {
            1 => series(field.message()?, latest, &mut pairs, &mut decoded)?,
            3 => metadata(field.message()?, &mut decoded)?,
            _ => {}
        }
    }
    Ok(decoded)
}

fn series<'a>(
    fields: Fields<'a>,
    latest: Timestamp,
    pairs: &mut Pairs<'a>,
    decoded: &mut Decoded,
) -> Result<(), ProtoError> {
    let begun = decoded.begin();
    pairs.clear();
    let mut too_new = false;
    for field in fields {
        let field = field?;
        match field.number {
            1 => label(field.message()?, pairs)?,
            2 => {
                let (at, value) = sample(field.message()?)?;
                too_new |= at > latest;
                decoded.push.samples.push((at, value));
            }
            3 => {
                let found = read_exemplar(field.message()?)?;
                decoded.push.exemplars.extend(found);
            }
            4 => {
                let found = histogram(field.message()?)?;
                too_new |= found.0 > latest;
                decoded.push.histograms.push(found);
            }
            _ => {}
        }
    }
    let labels = pairs.series().and_then(|labels| match too_new {
        true => Err(format!("out of bounds for series {labels}")),
        false => Ok(labels),
    });
    decoded.finish(begun, labels, Timestamp(0));
    Ok(())
}

fn label<'a>(fields: Fields<'a>, pairs: &mut Pairs<'a>) -> Result<(), ProtoError> {
    let (mut name, mut value) = ("", "");
    for field in fields {
        let field = field?;
        match field.number {
            1 => name = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    pairs.push(name, value);
    Ok(())
}

fn read_exemplar(fields: Fields<'_>) -> Result<Option<promesh_model::ingest::Exemplar>, ProtoError> {
    let mut pairs = Pairs::default();
    let (mut value, mut at) = (0.0, 0);
    for field in fields {
        let field = field?;
        match field.number {
            1 => label(field.message()?, &mut pairs)?,
            2 => value = field.double()?,
            3 => at = field.signed()?,
            _ => {}
        }
    }
    Ok(exemplar(pairs.labels(), value, Timestamp(at)))
}

fn metadata(fields: Fields<'_>, decoded: &mut Decoded) -> Result<(), ProtoError> {
    let mut name = "";
    let mut metadata = Metadata { kind: metric_type(0).to_owned(), ..Metadata::default() };
    for field in fields {
        let field = field?;
        match field.number {
            1 => metadata.kind = metric_type(field.unsigned()?).to_owned(),
            2 => name = field.text()?,
            4 => metadata.help = field.text()?.to_owned(),
            5 => metadata.unit = field.text()?.to_owned(),
            _ => {}
        }
    }
    if !name.is_empty() {
        decoded.push.metadata.push((name.to_owned(), metadata));
    }
    Ok(())
}
