//! A part of a push, densely: neighbouring series share most of their labels, instants and the shape of their values.
//!
//! ```text
//! hops u8 | patience ms | metadata (length, codec) | count of series | series…
//! series:  count of labels | a bit a label: as at the same place of the series before | the others, name and value |
//!          flags | [start] | [count of floats] | floats… | [rest: histograms and exemplars (length, codec)]
//! float:   instant, as a difference to the float before (zigzag) | bytes of the value u8 | the value's high bytes
//! ```
//! Numbers are LEB128 unless they say otherwise. One float a series, no start and no rest are what flags of zero say. The
//! form never changes: another one is another kind.

use promesh_api::backend::{Push, PushedSeries};
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::{Labels, Timestamp};

use super::wire::{self, Rest};

/// Labels may share so much that a few bytes stand for many: this much they may come to.
const LABEL_BYTES_MAX: usize = 256 << 20;
/// Another count of floats than one.
const FLOATS: u8 = 1;
/// A start timestamp.
const START: u8 = 2;
/// Histograms or exemplars.
const REST: u8 = 4;

/// What goes with the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// How often it was passed on.
    pub hops: u8,
    /// How long whoever sent it waits, in ms.
    pub patience_ms: u32,
}

/// Writes series of a push from the first on until they take about `bytes_max`; answers the bytes and how many series are
/// in them. Metadata goes with the first series.
pub fn encode(push: &Push, first: usize, envelope: Envelope, bytes_max: usize) -> (Vec<u8>, usize) {
    let mut out = vec![envelope.hops];
    put_number(&mut out, u64::from(envelope.patience_ms));
    let metadata = if first == 0 { codec::encode(&push.metadata) } else { codec::encode(&Vec::<(String, ())>::new()) };
    put_bytes(&mut out, &metadata);
    let (mut body, mut count) = (Vec::new(), 0);
    let mut last = Last::default();
    for series in &push.series[first..] {
        last.put_labels(&mut body, &series.labels);
        last.put_samples(&mut body, push, series);
        count += 1;
        if body.len() >= bytes_max {
            break;
        }
    }
    put_number(&mut out, count as u64);
    out.extend_from_slice(&body);
    (out, count)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// When the bytes are no such part.
pub fn decode(bytes: &[u8]) -> Result<(Envelope, Push), &'static str> {
    let mut reader = Reader(bytes);
    let hops = reader.byte()?;
    let patience_ms = u32::try_from(reader.number()?).map_err(|_| "a patience beyond 2^32 ms")?;
    let metadata = codec::decode::<_, BULK_BYTES_MAX>(reader.bytes()?).map_err(|_| "metadata")?;
    let mut push = Push { metadata, ..Push::default() };
    let count = reader.number()? as usize;
    if count > reader.0.len() {
        return Err("more series than bytes");
    }
    let mut last = Last::default();
    push.series.reserve(count);
    for _ in 0..count {
        let labels = last.take_labels(&mut reader)?;
        last.take_samples(&mut reader, &mut push, labels)?;
    }
    if reader.0.is_empty() { Ok((Envelope { hops, patience_ms }, push)) } else { Err("bytes after the end") }
}

/// What the series before was like.
#[derive(Default)]
struct Last {
    labels: Option<Labels>,
    at: i64,
    /// The bytes that labels came to, all in all.
    unpacked: usize,
    packed: Vec<u8>,
}

impl Last {
    fn put_labels(&mut self, out: &mut Vec<u8>, labels: &Labels) {
        let count = labels.len();
        put_number(out, count as u64);
        let mask_at = out.len();
        out.resize(mask_at + count.div_ceil(8), 0);
        let before = self.labels.take();
        let mut theirs = before.iter().flat_map(Labels::iter);
        for (place, pair) in labels.iter().enumerate() {
            if theirs.next() == Some(pair) {
                out[mask_at + place / 8] |= 1 << (place % 8);
            } else {
                put_bytes(out, pair.0.as_bytes());
                put_bytes(out, pair.1.as_bytes());
            }
        }
        self.labels = Some(labels.clone());
    }

    fn take_labels(&mut self, reader: &mut Reader<'_>) -> Result<Labels, &'static str> {
        let count = reader.number()? as usize;
        let mask = reader.take(count.div_ceil(8))?;
        self.packed.clear();
        let before = self.labels.take();
        let mut theirs = before.iter().flat_map(Labels::iter);
        for place in 0..count {
            let shared = theirs.next();
            if mask[place / 8] >> (place % 8) & 1 == 0 {
                for _ in 0..2 {
                    put_bytes(&mut self.packed, reader.bytes()?);
                }
            } else {
                let (name, value) = shared.ok_or("a label as in the series before, which has none there")?;
                put_bytes(&mut self.packed, name.as_bytes());
                put_bytes(&mut self.packed, value.as_bytes());
            }
        }
        self.unpacked += self.packed.len();
        if self.unpacked > LABEL_BYTES_MAX {
            return Err("too many labels");
        }
        let labels = Labels::from_packed(&self.packed).map_err(|_| "labels out of order, or no text")?;
        self.labels = Some(labels.clone());
        Ok(labels)
    }

    fn put_samples(&mut self, out: &mut Vec<u8>, push: &Push, series: &PushedSeries) {
        let floats = &push.samples[series.samples.clone()];
        let has_rest = !(series.histograms.is_empty() && series.exemplars.is_empty());
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.push(flag(floats.len() != 1, FLOATS) | flag(series.start.ms() != 0, START) | flag(has_rest, REST));
        if series.start.ms() != 0 {
            put_signed(out, series.start.ms());
        }
        if floats.len() != 1 {
            put_number(out, floats.len() as u64);
        }
        for (at, value) in floats {
            put_signed(out, at.ms().wrapping_sub(self.at));
            self.at = at.ms();
            let bits = value.to_bits();
            let count = 8 - bits.trailing_zeros() as usize / 8;
            out.push(count as u8);
            out.extend_from_slice(&bits.to_be_bytes()[..count]);
        }
        if has_rest {
            put_bytes(out, &codec::encode(&wire::rest_of(push, series)));
        }
    }

    fn take_samples(&mut self, reader: &mut Reader<'_>, push: &mut Push, labels: Labels) -> Result<(), &'static str> {
        let flags = reader.byte()?;
        if flags > FLOATS | START | REST {
            return Err("flags that nobody writes");
        }
        let start = if flags & START == 0 { 0 } else { reader.signed()? };
        let count = if flags & FLOATS == 0 { 1 } else { reader.number()? };
        let begun = (push.samples.len(), push.histograms.len(), push.exemplars.len());
        for _ in 0..count {
            self.at = self.at.wrapping_add(reader.signed()?);
            let length = usize::from(reader.byte()?);
            let mut bits = [0; 8];
            bits.get_mut(..length).ok_or("a value of more than eight bytes")?.copy_from_slice(reader.take(length)?);
            push.samples.push((Timestamp(self.at), f64::from_bits(u64::from_be_bytes(bits))));
        }
        if flags & REST != 0 {
            let rest = codec::decode::<Rest, BULK_BYTES_MAX>(reader.bytes()?).map_err(|_| "histograms or exemplars")?;
            rest.add_to(push);
        }
        push.series.push(PushedSeries {
            labels,
            samples: begun.0..push.samples.len(),
            histograms: begun.1..push.histograms.len(),
            exemplars: begun.2..push.exemplars.len(),
            start: Timestamp(start),
        });
        Ok(())
    }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_number(out, (value << 1 ^ value >> 63) as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }

    fn signed(&mut self) -> Result<i64, &'static str> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = usize::try_from(self.number()?).map_err(|_| "a length beyond memory")?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use promesh_model::value::STALE_NAN_BITS;
    use proptest::prelude::*;

    use super::super::wire::tests::sample_push;
    use super::*;

    const ENVELOPE: Envelope = Envelope { hops: 1, patience_ms: 5_000 };

    /// Encodes in pieces of at least one series, and joins what comes out of them.
    fn there_and_back(push: &Push, bytes_max: usize) -> Push {
        let (mut whole, mut first) = (Push::default(), 0);
        while first < push.series.len() {
            let (bytes, count) = encode(push, first, ENVELOPE, bytes_max);
            let (envelope, part) = decode(&bytes).expect("its own bytes");
            assert_eq!((envelope, part.series.len()), (ENVELOPE, count));
            whole.metadata.extend(part.metadata.iter().cloned());
            (0..count).for_each(|index| super::super::append(&mut whole, &part, index));
            first += count;
        }
        whole
    }

    #[test]
    fn a_push_comes_back_as_it_was() {
        let push = sample_push();
        assert_eq!(there_and_back(&push, usize::MAX), push);
        assert_eq!(there_and_back(&push, 1), push);
    }

    fn arb_push() -> impl Strategy<Value = Push> {
        let value = prop_oneof![
            Just(0.0),
            Just(f64::from_bits(STALE_NAN_BITS)),
            Just(-1.5),
            any::<f64>(),
            (0..99i32).prop_map(f64::from)
        ];
        let sample = (any::<i64>(), value).prop_map(|(at, value)| (Timestamp(at), value));
        let labels = proptest::collection::btree_map("[a-d]", "[a-b]{1,200}", 0..5);
        let series = (labels, proptest::collection::vec(sample, 0..4), prop_oneof![Just(0), any::<i64>()]);
        proptest::collection::vec(series, 0..30).prop_map(|all| {
            let mut push = Push::default();
            for (labels, samples, start) in all {
                let begun = push.samples.len();
                push.samples.extend(samples);
                push.series.push(PushedSeries {
                    labels: Labels::from_pairs(labels),
                    samples: begun..push.samples.len(),
                    histograms: 0..0,
                    exemplars: 0..0,
                    start: Timestamp(start),
                });
            }
            push
        })
    }

    fn bits(push: &Push) -> Vec<(i64, u64)> {
        push.samples.iter().map(|(at, value)| (at.ms(), value.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn any_push_comes_back_bit_by_bit(push in arb_push(), bytes_max in 1usize..400) {
            let back = there_and_back(&push, bytes_max);
            prop_assert_eq!(&back.series, &push.series);
            prop_assert_eq!(bits(&back), bits(&push));
        }

        #[test]
        fn bytes_that_are_none_are_refused_and_never_panic(
            push in arb_push(), place in 0usize..500, byte in any::<u8>(), cut in 0usize..500,
        ) {
            let (mut bytes, _) = encode(&push, 0, ENVELOPE, usize::MAX);
            let place = place % bytes.len();
            bytes[place] = byte;
            let _ = decode(&bytes);
            bytes.truncate(cut);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn labels_that_share_everything_cannot_fill_the_memory() {
        let long = "x".repeat(60_000);
        let series = |_| PushedSeries {
            labels: Labels::from_pairs([("a", &long)]),
            samples: 0..0,
            histograms: 0..0,
            exemplars: 0..0,
            start: Timestamp(0),
        };
        let push = Push { series: (0..5_000).map(series).collect(), ..Push::default() };
        let (bytes, _) = encode(&push, 0, ENVELOPE, usize::MAX);
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        assert_eq!(decode(&bytes), Err("too many labels"));
    }

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        assert_eq!(super::super::PUSH_DENSE, 84);
        let (bytes, _) = encode(&sample_push(), 0, ENVELOPE, usize::MAX);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect![[
            "0188270b0101610567617567650000020100085f5f6e616d655f5f0161070a0201023fe010027ff0120001050269640178fd0000000000000040120200085f5f6e616d655f5f0162036a6f62016a070a001d011000000000000000000000000003000000000000f83f000000000000"
        ]]
        .assert_eq(&hex);
    }

    /// A push as a server of node exporters sends it: what a sample costs on its way, beside the earlier form.
    #[test]
    fn a_sample_costs_a_fraction_of_its_labels() {
        let mut push = Push::default();
        for metric in 0..50 {
            for cpu in 0..8 {
                for mode in ["idle", "iowait", "system", "user"] {
                    let (name, cpu) = (format!("node_cpu_seconds_{metric}_total"), cpu.to_string());
                    let labels = [
                        ("__name__", name.as_str()),
                        ("cpu", &cpu),
                        ("instance", "host-17.example.org:9100"),
                        ("job", "node"),
                        ("mode", mode),
                        ("region", "eu-central-1"),
                    ];
                    let begun = push.samples.len();
                    push.samples.push((Timestamp(1_700_000_000_000), f64::from(begun as u32) * 1.01));
                    push.series.push(PushedSeries {
                        labels: Labels::from_pairs(labels),
                        samples: begun..begun + 1,
                        histograms: 0..0,
                        exemplars: 0..0,
                        start: Timestamp(0),
                    });
                }
            }
        }
        let series = push.series.iter().map(|series| wire::WireSeries::of(&push, series)).collect();
        let plain = wire::WirePush { hops: 1, patience_ms: 5_000, series, metadata: Vec::new() };
        let (plain, dense) = (codec::encode(&plain).len(), encode(&push, 0, ENVELOPE, usize::MAX).0.len());
        let samples = push.samples.len();
        println!("{} B a sample instead of {}", dense / samples, plain / samples);
        assert!(dense * 4 < plain, "{} of {} B a sample", dense / samples, plain / samples);
    }
}
