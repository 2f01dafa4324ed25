//! Remote write 1.0: `prometheus.WriteRequest`.
//!
//! Source: prometheus `prompb/remote.proto`, `prompb/types.proto`.

use promesh_model::Timestamp;
use promesh_model::ingest::Metadata;

use super::decode::{Decoded, Pairs, exemplar, histogram, metric_type, sample};
use super::known::{KnownLabels, WireKey};
use super::proto::{Fields, ProtoError, leading_bytes};

/// Reads a whole message; samples after `latest` are left out and said.
pub(crate) fn decode(body: &[u8], latest: Timestamp, known: &KnownLabels) -> Result<Decoded, ProtoError> {
    let mut decoded = Decoded::default();
    let mut pairs = Pairs::default();
    for field in Fields(body) {
        let field = field?;
        match field.number {
            1 => series(field.bytes()?, latest, known, &mut pairs, &mut decoded)?,
            3 => metadata(field.message()?, &mut decoded)?,
            _ => {}
        }
    }
    Ok(decoded)
}

fn series<'a>(
    message: &'a [u8],
    latest: Timestamp,
    known: &KnownLabels,
    pairs: &mut Pairs<'a>,
    decoded: &mut Decoded,
) -> Result<(), ProtoError> {
    let begun = decoded.begin();
    let (labels, rest) = message.split_at(leading_bytes(message, 1));
    let key = WireKey::of(labels);
    let seen = known.get(key);
    pairs.clear();
    // Labels that follow samples are not in the key: none are known, and all are read.
    let mut is_whole = true;
    let mut too_new = false;
    let fields = Fields(if seen.is_some() { rest } else { message });
    for field in fields {
        let field = field?;
        match field.number {
            1 => {
                is_whole &= field.is_within(labels);
                label(field.message()?, pairs)?;
            }
            2 => {
                let (at, value, _) = sample(field.message()?)?;
                too_new |= at > latest;
                decoded.push.samples.push((at, value));
            }
            3 => {
                let found = read_exemplar(field.message()?)?;
                decoded.push.exemplars.extend(found);
            }
            4 => {
                let (at, value, _) = histogram(field.message()?)?;
                too_new |= at > latest;
                decoded.push.histograms.push((at, value));
            }
            _ => {}
        }
    }
    let labels = match seen {
        Some(labels) if is_whole => Ok(labels),
        seen => {
            if seen.is_some() {
                pairs.clear();
                for field in Fields(message) {
                    let field = field?;
                    if field.number == 1 {
                        label(field.message()?, pairs)?;
                    }
                }
            }
            let labels = pairs.series();
            if let (Ok(labels), true) = (&labels, is_whole) {
                known.insert(key, labels.clone());
            }
            labels
        }
    };
    decoded.is_ahead |= too_new;
    let labels = labels.and_then(|labels| match too_new {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn one_label(name: &str, value: &str) -> Vec<u8> {
        field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat())
    }

    fn one_sample(at: u8) -> Vec<u8> {
        field(2, &[&[9][..], &1.5f64.to_le_bytes(), &[16, at]].concat())
    }

    /// What is known from earlier pushes changes nothing but the time it takes.
    fn check(messages: &[Vec<u8>]) {
        let latest = Timestamp(100);
        let warm = KnownLabels::default();
        for _ in 0..2 {
            for message in messages {
                let body = field(1, message);
                let fresh = decode(&body, latest, &KnownLabels::default());
                assert_eq!(format!("{:?}", decode(&body, latest, &warm)), format!("{fresh:?}"));
            }
        }
    }

    #[test]
    fn known_labels_are_those_that_were_sent() {
        let (name, other) = (one_label("__name__", "up"), one_label("job", "a"));
        let (twice, broken) = (one_label("job", "b"), one_label("job", "\u{e9}")[..8].to_vec());
        check(&[
            [name.clone(), other.clone(), one_sample(5)].concat(),
            [other.clone(), name.clone(), one_sample(6)].concat(),
            // Labels behind the samples belong to the series too.
            [name.clone(), one_sample(7), other.clone()].concat(),
            [name.clone(), other.clone(), one_sample(7), twice].concat(),
            [name.clone(), one_sample(120)].concat(),
            one_sample(9),
            [name, broken].concat(),
        ]);
    }

    proptest! {
        #[test]
        fn known_labels_never_change_an_answer(
            messages in prop::collection::vec(prop::collection::vec((0u8..8, any::<u8>()), 0..6), 1..8),
        ) {
            let part = |(what, number): &(u8, u8)| match what {
                0 => one_label("__name__", "up"),
                1 => one_label("job", if number % 2 == 0 { "a" } else { "b" }),
                2 => one_label("instance", ""),
                3 => vec![*number],
                _ => one_sample(number % 128),
            };
            let messages: Vec<Vec<u8>> = messages.iter().map(|parts| parts.iter().flat_map(part).collect()).collect();
            check(&messages);
        }
    }
}
