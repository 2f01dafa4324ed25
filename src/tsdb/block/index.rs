//! The index of a block: symbols, series, postings; read in place.
//!
//! ```text
//! 0xBAAAD700 | version u8 | symbols | series… | postings… | postings offset table | table of contents
//! ```
//! A series is known by a number: its place divided by 16 in version 2, its place in version 1, which kept no
//! symbol numbers but places of symbols.
//!
//! Source: prometheus `tsdb/docs/format/index.md`.

use promesh_model::labels::Labels;
use promesh_model::matcher::{MatchOp, Matcher};
use roaring::{MultiOps, RoaringBitmap};

use super::codec::Reader;
use super::{ChunkMeta, Damage};
use crate::fs::FileBytes;

/// The first bytes of an index.
pub const MAGIC: u32 = 0xBAAA_D700;
/// Bytes of the table of contents at the end.
pub const TOC_BYTES: usize = 52;
/// Of how many values the place of one is kept in memory.
const SAMPLED: usize = 32;
/// The tables of version 1 are in no order: the places of all values are kept, sorted.
const SAMPLED_V1: usize = 1;

/// An index, mapped.
#[derive(Debug)]
pub struct Index {
    bytes: FileBytes,
    version: u8,
    symbols: Symbols,
    names: Vec<NameTable>,
    /// Of how many values the place of one is in `names`.
    stride: usize,
    /// Where the list of all series is.
    all: Option<u64>,
}

#[derive(Debug)]
struct Symbols {
    /// Their places: labels are made of symbols for every series answered, so a step to each must be one.
    places: Vec<u32>,
}

/// The entries of one label name in the postings offset table.
#[derive(Debug)]
struct NameTable {
    name: String,
    count: usize,
    /// Places of every so-manieth entry.
    sampled: Vec<u32>,
}

/// A series' labels as numbers of symbols.
#[derive(Debug)]
pub struct SymbolLabels(Vec<(u32, u32)>);

impl SymbolLabels {
    /// The labels themselves.
    ///
    /// # Errors
    /// When a symbol is not there, or the labels are not in order.
    pub fn resolve(&self, index: &Index) -> Result<Labels, Damage> {
        let mut pairs = Vec::with_capacity(self.0.len());
        for (name, value) in &self.0 {
            pairs.push((index.symbol(*name)?, index.symbol(*value)?));
        }
        let ordered = pairs.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if ordered && pairs.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()) {
            Ok(Labels::from_sorted(pairs))
        } else if ordered {
            // Prometheus could write an empty value once: it is an absent label.
            Ok(Labels::from_pairs(pairs))
        } else {
            Err(Damage::new(0, "labels of a series are not in order"))
        }
    }
}

impl Index {
    /// Reads the tables; checks their checksums.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn open(bytes: FileBytes) -> Result<Index, Damage> {
        let mut reader = Reader::at(&bytes, 0);
        if reader.u32()? != MAGIC {
            return Err(Damage::new(0, "not an index"));
        }
        let version = reader.u8()?;
        if !(1..=2).contains(&version) {
            return Err(Damage::new(4, format!("index version {version}, not 1 or 2")));
        }
        let toc = bytes.len().checked_sub(TOC_BYTES).ok_or(Damage::new(bytes.len(), "the file ends early"))?;
        let mut reader = Reader::at(&bytes, toc);
        let content = reader.take(TOC_BYTES - 4)?;
        reader.check(content)?;
        let place = |field: usize| u64::from_be_bytes(content[field * 8..][..8].try_into().expect("eight bytes"));
        let at = |field: usize| usize::try_from(place(field)).map_err(|_| Damage::new(toc, "a place beyond memory"));
        let symbols = read_symbols(&bytes, at(0)?)?;
        let (stride, tables) = match version {
            1 => (SAMPLED_V1, read_names_v1(&bytes, at(5)?)?),
            _ => (SAMPLED, read_names(&bytes, at(5)?)?),
        };
        let (names, all) = tables;
        Ok(Index { version, symbols, names, stride, all, bytes })
    }

    /// What chunk references and tombstones call a series.
    pub fn series_ref(&self, series: u32) -> u64 {
        u64::from(series)
    }

    /// A symbol.
    ///
    /// # Errors
    /// When it is not there.
    pub fn symbol(&self, number: u32) -> Result<&str, Damage> {
        if self.version == 1 {
            return Reader::at(&self.bytes, number as usize).text();
        }
        let number = number as usize;
        if number >= self.symbols.places.len() {
            return Err(Damage::new(0, format!("no symbol {number}")));
        }
        Reader::at(&self.bytes, self.symbols.places[number] as usize).text()
    }

    /// All symbols, in order.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn all_symbols(&self) -> Result<Vec<&str>, Damage> {
        let mut reader = Reader::at(&self.bytes, self.symbols.places.first().copied().unwrap_or(0) as usize);
        (0..self.symbols.places.len()).map(|_| reader.text()).collect()
    }

    /// A series: its labels, and its chunks into `chunks`.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn series(&self, series: u32, chunks: &mut Vec<ChunkMeta>) -> Result<SymbolLabels, Damage> {
        chunks.clear();
        let place = if self.version == 1 { series as usize } else { series as usize * 16 };
        let mut reader = Reader::at(&self.bytes, place);
        let length = reader.length()?;
        let start = reader.position();
        let content = reader.take(length)?;
        reader.check(content)?;
        let mut reader = Reader::at(&self.bytes[..start + length], start);
        let number = |reader: &mut Reader<'_>| {
            u32::try_from(reader.uvarint()?).map_err(|_| reader.damage("a symbol number beyond 2^32"))
        };
        let count = bounded(reader.length()?, length, &reader)?;
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            labels.push((number(&mut reader)?, number(&mut reader)?));
        }
        let count = bounded(reader.length()?, length, &reader)?;
        let (mut end, mut reference) = (0i64, 0i64);
        for place in 0..count {
            let min = if place == 0 { reader.varint()? } else { end.wrapping_add(reader.uvarint()? as i64) };
            end = min.wrapping_add(reader.uvarint()? as i64);
            reference = if place == 0 { reader.uvarint()? as i64 } else { reference.wrapping_add(reader.varint()?) };
            chunks.push(ChunkMeta { min, max: end, reference: reference as u64 });
        }
        Ok(SymbolLabels(labels))
    }

    /// Names of labels, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|table| table.name.as_str())
    }

    /// Values of a label that some of the given series have, or any.
    ///
    /// # Errors
    /// When the table or a list is damaged.
    pub fn values_of(&self, name: &str, of: Option<&RoaringBitmap>) -> Result<Vec<String>, Damage> {
        let mut values = Vec::new();
        self.for_each_value(name, |value, place| {
            let wanted = match of {
                None => true,
                Some(series) => !self.postings_at(place)?.is_disjoint(series),
            };
            if wanted {
                values.push(value.to_owned());
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// How many values each label name has.
    pub fn value_counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.names.iter().map(|table| (table.name.as_str(), table.count))
    }

    /// Whether no series can satisfy all matchers, as far as that shows without a look at a list: false says nothing.
    pub fn lacks(&self, matchers: &[Matcher]) -> bool {
        let named = matchers.iter().filter(|matcher| matcher.op == MatchOp::Equal && !matcher.value.is_empty());
        named.into_iter().any(|matcher| matches!(self.find(&matcher.name, &matcher.value), Ok(None)))
    }

    /// The series that satisfy all matchers.
    ///
    /// # Errors
    /// When a list is damaged.
    pub fn select(&self, matchers: &[Matcher]) -> Result<RoaringBitmap, Damage> {
        let (mut wanted, unwanted): (Vec<&Matcher>, Vec<&Matcher>) =
            matchers.iter().partition(|matcher| !matcher.matches(""));
        wanted.sort_by_key(|matcher| matcher.literals().map_or(usize::MAX, <[String]>::len));
        let mut series: Option<RoaringBitmap> = None;
        for matcher in wanted {
            let found = self.lists(matcher, false)?;
            let joined = match series {
                Some(series) => series & found,
                None => found,
            };
            if joined.is_empty() {
                return Ok(joined);
            }
            series = Some(joined);
        }
        let mut series = match (series, self.all) {
            (Some(series), _) => series,
            (None, Some(all)) => self.postings_at(all)?,
            (None, None) => RoaringBitmap::new(),
        };
        for matcher in unwanted {
            if series.is_empty() {
                break;
            }
            // Matching the empty value is satisfied by absence too: subtract what contradicts.
            series -= self.lists(matcher, true)?;
        }
        Ok(series)
    }

    fn lists(&self, matcher: &Matcher, contradicting: bool) -> Result<RoaringBitmap, Damage> {
        let mut lists = Vec::new();
        if matcher.op.is_negative() == contradicting
            && let Some(literals) = matcher.literals()
        {
            for literal in literals {
                if let Some(place) = self.find(&matcher.name, literal)? {
                    lists.push(self.postings_at(place)?);
                }
            }
        } else {
            self.for_each_value(&matcher.name, |value, place| {
                if matcher.matches(value) != contradicting {
                    lists.push(self.postings_at(place)?);
                }
                Ok(())
            })?;
        }
        Ok(if lists.len() == 1 { lists.swap_remove(0) } else { lists.union() })
    }

    fn table(&self, name: &str) -> Option<&NameTable> {
        let found = self.names.binary_search_by(|table| table.name.as_str().cmp(name)).ok()?;
        Some(&self.names[found])
    }

    /// Where the list of a label pair is.
    fn find(&self, name: &str, value: &str) -> Result<Option<u64>, Damage> {
        let Some(table) = self.table(name) else { return Ok(None) };
        let (mut low, mut high) = (0, table.sampled.len());
        while low < high {
            let middle = (low + high) / 2;
            let (found, _) = read_entry(&mut Reader::at(&self.bytes, table.sampled[middle] as usize))?;
            if found.1 <= value { low = middle + 1 } else { high = middle }
        }
        let Some(block) = low.checked_sub(1) else { return Ok(None) };
        let mut reader = Reader::at(&self.bytes, table.sampled[block] as usize);
        for _ in 0..self.stride.min(table.count - block * self.stride) {
            let ((_, found), place) = read_entry(&mut reader)?;
            if found >= value {
                return Ok((found == value).then_some(place));
            }
        }
        Ok(None)
    }

    fn for_each_value(&self, name: &str, mut value: impl FnMut(&str, u64) -> Result<(), Damage>) -> Result<(), Damage> {
        let Some(table) = self.table(name) else { return Ok(()) };
        let mut reader = Reader::at(&self.bytes, 0);
        for number in 0..table.count {
            if number % self.stride == 0 {
                reader = Reader::at(&self.bytes, table.sampled[number / self.stride] as usize);
            }
            let ((_, found), place) = read_entry(&mut reader)?;
            value(found, place)?;
        }
        Ok(())
    }

    /// The list at a place; its checksum is checked.
    fn postings_at(&self, place: u64) -> Result<RoaringBitmap, Damage> {
        let place = usize::try_from(place).map_err(|_| Damage::new(0, "a place beyond memory"))?;
        let mut reader = Reader::at(&self.bytes, place).section()?;
        let count = reader.u32()? as usize;
        let content = reader.take(count.saturating_mul(4))?;
        let series = content.chunks_exact(4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        RoaringBitmap::from_sorted_iter(series).map_err(|_| Damage::new(place, "a list of series that does not rise"))
    }
}

fn bounded(count: usize, bytes: usize, reader: &Reader<'_>) -> Result<usize, Damage> {
    if count <= bytes { Ok(count) } else { Err(reader.damage("more parts than bytes")) }
}

fn read_symbols(bytes: &[u8], at: usize) -> Result<Symbols, Damage> {
    let mut reader = Reader::at(bytes, at).section()?;
    let count = reader.u32()? as usize;
    let mut places = Vec::new();
    for _ in 0..count {
        places.push(place(&reader)?);
        reader.bytes()?;
    }
    Ok(Symbols { places })
}

fn place(reader: &Reader<'_>) -> Result<u32, Damage> {
    u32::try_from(reader.position()).map_err(|_| reader.damage("an index of more than 4 GiB"))
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<((&'a str, &'a str), u64), Damage> {
    if reader.u8()? != 2 {
        return Err(reader.damage("an entry of the postings table that names no label pair"));
    }
    Ok(((reader.text()?, reader.text()?), reader.uvarint()?))
}

/// The tables of the label names, and the place of the list of all series.
type Names = (Vec<NameTable>, Option<u64>);

fn read_names_v1(bytes: &[u8], at: usize) -> Result<Names, Damage> {
    let mut reader = Reader::at(bytes, at).section()?;
    let count = reader.u32()?;
    let (mut all, mut entries) = (None, std::collections::BTreeMap::new());
    for _ in 0..count {
        let entry_at = place(&reader)?;
        let (pair, list) = read_entry(&mut reader)?;
        if pair.0.is_empty() {
            all = Some(list);
        } else {
            entries.insert(pair, entry_at);
        }
    }
    let mut names: Vec<NameTable> = Vec::new();
    for ((name, _), entry_at) in entries {
        match names.last_mut() {
            Some(table) if table.name == name => {
                table.sampled.push(entry_at);
                table.count += 1;
            }
            _ => names.push(NameTable { name: name.to_owned(), count: 1, sampled: vec![entry_at] }),
        }
    }
    Ok((names, all))
}

fn read_names(bytes: &[u8], at: usize) -> Result<Names, Damage> {
    let mut reader = Reader::at(bytes, at).section()?;
    let count = reader.u32()?;
    let (mut names, mut all): (Vec<NameTable>, Option<u64>) = (Vec::new(), None);
    for _ in 0..count {
        let entry_at = place(&reader)?;
        let ((name, _), list) = read_entry(&mut reader)?;
        if name.is_empty() {
            all = Some(list);
            continue;
        }
        match names.last_mut() {
            Some(table) if table.name == name => {
                if table.count % SAMPLED == 0 {
                    table.sampled.push(entry_at);
                }
                table.count += 1;
            }
            Some(table) if table.name.as_str() > name => {
                return Err(reader.damage("the postings table is not in order"));
            }
            _ => names.push(NameTable { name: name.to_owned(), count: 1, sampled: vec![entry_at] }),
        }
    }
    Ok((names, all))
}
