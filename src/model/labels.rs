//! Label sets: sorted, immutable, one allocation, cheap to clone.
//!
//! A set is packed as `name length, name, value length, value …` in name order, lengths as LEB128. Equal sets have
//! equal bytes, so equality and hashing never look inside.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

/// The label that holds a series' metric name.
pub const METRIC_NAME: &str = "__name__";

/// A label set. Names are unique and sorted by bytes; no value is empty (an empty value is an absent label).
#[derive(Clone, Eq)]
pub struct Labels(Arc<[u8]>);

impl Labels {
    /// The empty set.
    pub fn empty() -> Labels {
        Labels(Arc::from([].as_slice()))
    }

    /// A set from pairs in any order. A name given twice keeps the last value; empty values are left out.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Labels {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// A set from pairs already in strictly rising name order without empty values: no sorting, one allocation.
    ///
    /// # Panics
    /// In debug builds, when the pairs are not as said.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
        let mut packed = Vec::with_capacity(256);
        let mut previous: Option<&str> = None;
        for (name, value) in pairs {
            debug_assert!(previous.is_none_or(|previous| previous < name), "label names rise strictly");
            debug_assert!(!value.is_empty(), "an empty value is an absent label");
            push_text(&mut packed, name);
            push_text(&mut packed, value);
            previous = Some(name);
        }
        Labels(packed.into())
    }

    /// The pairs in name order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.0 }
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a label, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        // Names are sorted: stop at the first one past it.
        for (candidate, value) in self {
            match candidate.cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return Some(value),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The value of a label; empty when it is absent, which means the same in PromQL.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The metric name, if there is one.
    pub fn metric_name(&self) -> Option<&str> {
        self.get(METRIC_NAME)
    }

    /// The packed bytes: equal for equal sets; to be read back by [`Labels::from_packed`].
    pub fn as_packed(&self) -> &[u8] {
        &self.0
    }

    /// Reads packed bytes from outside.
    ///
    /// # Errors
    /// [`PackedError`] when they are not the canonical form: sorted unique names, UTF-8, no empty name or value.
    pub fn from_packed(bytes: &[u8]) -> Result<Labels, PackedError> {
        let mut rest = bytes;
        let mut previous: &str = "";
        while !rest.is_empty() {
            let name = take_text_checked(&mut rest)?;
            let value = take_text_checked(&mut rest)?;
            if name <= previous || value.is_empty() {
                return Err(PackedError);
            }
            previous = name;
        }
        Ok(Labels(bytes.into()))
    }

    /// A 128-bit hash that is the same on every machine and in every release: it may go on the wire and to disk.
    pub fn stable_hash(&self) -> u128 {
        xxh3_128(&self.0)
    }

    /// A builder that starts from this set.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { pairs: self.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    /// The set without some labels.
    pub fn without(&self, dropped: impl Fn(&str) -> bool) -> Labels {
        let mut packed = Vec::with_capacity(self.0.len());
        self.pack_kept(&mut packed, |name| !dropped(name));
        Labels(packed.into())
    }

    /// Appends the packed bytes of the set of those labels whose names are kept, for a table keyed by part of a set:
    /// nothing is allocated but `out`.
    pub fn pack_kept(&self, out: &mut Vec<u8>, keep: impl Fn(&str) -> bool) {
        let mut rest = &self.0[..];
        while !rest.is_empty() {
            let pair = rest;
            let name = take_text(&mut rest);
            let value = take_length(&mut rest).expect("packed by push_text or checked by from_packed");
            rest = &rest[value..];
            if keep(name) {
                out.extend_from_slice(&pair[..pair.len() - rest.len()]);
            }
        }
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels::empty()
    }
}

/// Bytes that are not a packed label set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a packed label set: names must be sorted, unique and UTF-8, values not empty")]
pub struct PackedError;

/// Collects labels in any order.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: BTreeMap<String, String>,
}

impl LabelsBuilder {
    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() {
            self.pairs.remove(name);
        } else if let Some(present) = self.pairs.get_mut(name) {
            present.clear();
            present.push_str(value);
        } else {
            self.pairs.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.pairs.remove(name);
        self
    }

    /// The present value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.get(name).map(String::as_str)
    }

    /// The pairs in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The finished set.
    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.iter())
    }
}

fn push_text(packed: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    while length >= 0x80 {
        packed.push(length as u8 | 0x80);
        length >>= 7;
    }
    packed.push(length as u8);
    packed.extend_from_slice(text.as_bytes());
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let mut length = 0usize;
    for shift in (0..35).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            // The shortest form only, else equal sets could have unequal bytes.
            return (shift == 0 || byte != 0).then_some(length);
        }
    }
    None
}

fn take_text_checked<'a>(rest: &mut &'a [u8]) -> Result<&'a str, PackedError> {
    let length = take_length(rest).ok_or(PackedError)?;
    let (text, tail) = rest.split_at_checked(length).ok_or(PackedError)?;
    *rest = tail;
    std::str::from_utf8(text).map_err(|_| PackedError)
}

#[allow(unsafe_code)]
fn take_text<'a>(rest: &mut &'a [u8]) -> &'a str {
    let length = take_length(rest).expect("packed by push_text or checked by from_packed");
    let (text, tail) = rest.split_at(length);
    *rest = tail;
    // SAFETY: a `Labels` is made by `from_sorted`, which packs `&str`s, or by `from_packed`, which checks UTF-8; its
    // bytes never change.
    unsafe { std::str::from_utf8_unchecked(text) }
}

/// The pairs of a set in name order.
#[derive(Clone)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let name = take_text(&mut self.rest);
        let value = take_text(&mut self.rest);
        Some((name, value))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Label by label, name before value, as Prometheus sorts series.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        // Series that are compared share most of their pairs: only the first that differs is looked into.
        let same = common_prefix(&self.0, &other.0);
        let (mut ours, mut theirs) = (&self.0[..], &other.0[..]);
        loop {
            let at = self.0.len() - ours.len();
            let mut next = ours;
            if next.is_empty() {
                break;
            }
            for _ in 0..2 {
                let length = take_length(&mut next).expect("packed by push_text or checked by from_packed");
                next = &next[length..];
            }
            let pair = ours.len() - next.len();
            if at + pair > same {
                break;
            }
            (ours, theirs) = (next, &theirs[pair..]);
        }
        Iter { rest: ours }.cmp(Iter { rest: theirs })
    }
}

/// How many bytes two texts begin with alike.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = 8;
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD)).take_while(|(a, b)| a == b).count() * WORD;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Labels::from_pairs(pairs)
    }
}

/// `{a="b", c="d"}`, as Prometheus prints a label set. Names outside the classic charset are quoted.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_braced(f, self.iter())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_metric(), f)
    }
}

impl Labels {
    /// Prints as PromQL writes a series: `up{job="node"}`; the name goes inside the braces when it is not classic.
    pub fn as_metric(&self) -> impl fmt::Display + '_ {
        struct Metric<'a>(&'a Labels);
        impl fmt::Display for Metric<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = self.0.value(METRIC_NAME);
                if name.is_empty() {
                    return write_braced(f, self.0.iter());
                }
                let others = self.0.iter().filter(|(name, _)| *name != METRIC_NAME);
                if is_classic_metric_name(name) {
                    f.write_str(name)?;
                    if self.0.len() == 1 { Ok(()) } else { write_braced(f, others) }
                } else {
                    write!(f, "{{{}", quoted(name))?;
                    for (name, value) in others {
                        f.write_str(", ")?;
                        write_pair(f, name, value)?;
                    }
                    f.write_char('}')
                }
            }
        }
        Metric(self)
    }
}

fn write_braced<'a>(f: &mut fmt::Formatter<'_>, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> fmt::Result {
    f.write_char('{')?;
    for (index, (name, value)) in pairs.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write_pair(f, name, value)?;
    }
    f.write_char('}')
}

fn write_pair(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    if is_classic_label_name(name) {
        write!(f, "{name}={}", quoted(value))
    } else {
        write!(f, "{}={}", quoted(name), quoted(value))
    }
}

/// Whether a text is a label name of the classic charset `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_classic_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a text is a metric name of the classic charset `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_classic_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b':'))
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
}

/// A text in double quotes with Go's escapes.
///
/// Source: Go `strconv.Quote`.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A map for formats that people read, the packed bytes for the others.
impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let mut map = serializer.serialize_map(None)?;
            for (name, value) in self.iter() {
                map.serialize_entry(name, value)?;
            }
            map.end()
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of label names to values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut builder = LabelsBuilder::default();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    builder.set(&name, &value);
                }
                Ok(builder.build())
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Labels, E> {
                Labels::from_packed(bytes).map_err(E::custom)
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Labels, E> {
                self.visit_bytes(&bytes)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Labels, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element::<u8>()? {
                    bytes.push(byte);
                }
                Labels::from_packed(&bytes).map_err(de::Error::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_map(LabelsVisitor)
        } else {
            deserializer.deserialize_bytes(LabelsVisitor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_print_as_prometheus_does() {
        let labels = Labels::from_pairs([("job", "a\"b\n"), ("__name__", "up"), ("über", "x"), ("gone", "")]);
        assert_eq!(labels.to_string(), r#"{__name__="up", job="a\"b\n", "über"="x"}"#);
        assert_eq!(labels.as_metric().to_string(), r#"up{job="a\"b\n", "über"="x"}"#);
        assert_eq!(Labels::from_pairs([("__name__", "a.b"), ("c", "d")]).as_metric().to_string(), r#"{"a.b", c="d"}"#);
        assert_eq!(Labels::empty().as_metric().to_string(), "{}");
        assert_eq!(Labels::from_pairs([("__name__", "up")]).as_metric().to_string(), "up");
    }

    #[test]
    fn long_values_survive_packing() {
        let long = "x".repeat(100_000);
        let labels = Labels::from_pairs([("a", long.as_str()), ("b", "c")]);
        assert_eq!(labels.get("a"), Some(long.as_str()));
        assert_eq!(labels.get("b"), Some("c"));
        assert_eq!(labels.get("aa"), None);
    }

    #[test]
    fn packed_bytes_from_outside_are_checked() {
        for bad in [&b"\x01"[..], b"\x01b\x01c\x01a\x01d", b"\x01a\x00", b"\x01\xff\x01b", b"\x81\x00a\x01b"] {
            assert_eq!(Labels::from_packed(bad), Err(PackedError));
        }
    }

    fn arb_pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::vec(("[a-c]{1,3}", "[xy]{1,12}"), 0..6)
    }

    proptest! {
        #[test]
        fn sets_sort_label_by_label(a in arb_pairs(), b in arb_pairs(), shared in arb_pairs()) {
            let a: Labels = a.iter().chain(&shared).map(|(n, v)| (n, v)).collect();
            let b: Labels = b.iter().chain(&shared).map(|(n, v)| (n, v)).collect();
            prop_assert_eq!(a.cmp(&b), a.iter().cmp(b.iter()));
            prop_assert_eq!(a.without(|name| name < "b"), a.iter().filter(|(name, _)| *name >= "b").collect());
        }

        #[test]
        fn packing_and_serde_give_the_set_back(pairs in prop::collection::btree_map("\\PC{1,9}", "\\PC{1,200}", 0..9)) {
            let labels: Labels = pairs.iter().collect();
            prop_assert_eq!(&Labels::from_packed(labels.as_packed()).unwrap(), &labels);
            let seen: Vec<_> = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(seen, pairs.into_iter().collect::<Vec<_>>());
            let json = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels.clone());
            let bytes = crate::codec::encode(&labels);
            prop_assert_eq!(crate::codec::decode::<Labels, { crate::codec::RPC_BYTES_MAX }>(&bytes).unwrap(), labels);
        }
    }
}
