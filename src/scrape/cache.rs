//! The lines of the previous scrape, in their order.
//!
//! 24 bytes a line: the hash and length of its `name{labels}`, and what it stands for. A scrape walks it with a cursor:
//! as long as lines come in the same order each costs one hash of its bytes. Where they do not, the line is looked for
//! a few places ahead (lines vanished), then anywhere (lines moved), by a table that is built only then.

use hashbrown::HashMap;
use promesh_model::ingest::SeriesRef;
use promesh_textparse::SeriesKey;

/// What a line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// This series.
    Series(SeriesRef),
    /// This series of native histograms.
    Histogram(SeriesRef),
    /// Nothing: a rule dropped it.
    Dropped,
    /// A series that another line of the scrape gives already.
    Repeated(SeriesRef),
}

/// Packed into the number, as series numbers are small: the two highest bits say which.
const DROPPED: u64 = u64::MAX;
const REPEATED: u64 = 1 << 63;
const HISTOGRAM: u64 = 1 << 62;

impl Line {
    fn pack(self) -> u64 {
        match self {
            Line::Series(SeriesRef(number)) => number,
            Line::Repeated(SeriesRef(number)) => number | REPEATED,
            Line::Histogram(SeriesRef(number)) => number | HISTOGRAM,
            Line::Dropped => DROPPED,
        }
    }

    fn unpack(packed: u64) -> Line {
        match packed {
            DROPPED => Line::Dropped,
            _ if packed & REPEATED != 0 => Line::Repeated(SeriesRef(packed & !REPEATED)),
            _ if packed & HISTOGRAM != 0 => Line::Histogram(SeriesRef(packed & !HISTOGRAM)),
            _ => Line::Series(SeriesRef(packed)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    packed: u64,
    bytes: u32,
}

impl Entry {
    fn key(&self) -> SeriesKey {
        SeriesKey { hash: self.hash, bytes: self.bytes }
    }
}

/// The lines of the previous scrape and, while one runs, those of the present.
#[derive(Debug, Default)]
pub(crate) struct LineCache {
    before: Vec<Entry>,
    /// Empty as long as the present lines are the first `cursor` of the previous ones.
    now: Vec<Entry>,
    has_left: bool,
    cursor: usize,
    moved: HashMap<SeriesKey, u32>,
}

/// How far ahead a line is looked for before the table is built.
const LOOK_AHEAD: usize = 8;

impl LineCache {
    /// A scrape begins.
    pub(crate) fn begin(&mut self) {
        self.now.clear();
        self.has_left = false;
        self.cursor = 0;
    }

    /// From here on the lines are not those of the scrape before: the usual case, in which they are, copies nothing.
    #[cold]
    fn leave(&mut self) {
        self.has_left = true;
        self.now.reserve_exact(self.before.len());
        self.now.extend_from_slice(&self.before[..self.cursor]);
    }

    /// What the next line is expected to be.
    #[inline]
    pub(crate) fn hint(&self) -> Option<SeriesKey> {
        self.before.get(self.cursor).map(Entry::key)
    }

    /// The expected line came.
    #[inline]
    pub(crate) fn take_hinted(&mut self) -> Line {
        let entry = self.before[self.cursor];
        self.cursor += 1;
        if self.has_left {
            self.now.push(entry);
        }
        Line::unpack(entry.packed)
    }

    /// Another line came: where it stood before, if it did.
    pub(crate) fn take(&mut self, key: SeriesKey) -> Option<Line> {
        let index = self.find(key)?;
        let entry = self.before[index];
        if index != self.cursor && !self.has_left {
            self.leave();
        }
        self.cursor = index + 1;
        if self.has_left {
            self.now.push(entry);
        }
        Some(Line::unpack(entry.packed))
    }

    fn find(&mut self, key: SeriesKey) -> Option<usize> {
        let ahead = self.before.iter().enumerate().skip(self.cursor).take(LOOK_AHEAD);
        if let Some((index, _)) = ahead.into_iter().find(|(_, entry)| entry.key() == key) {
            return Some(index);
        }
        if self.moved.is_empty() && !self.before.is_empty() {
            let keys = self.before.iter().enumerate().map(|(index, entry)| (entry.key(), index as u32));
            self.moved.extend(keys);
        }
        self.moved.get(&key).map(|index| *index as usize)
    }

    /// A line that was not there before.
    pub(crate) fn add(&mut self, key: SeriesKey, line: Line) {
        if !self.has_left {
            self.leave();
        }
        self.now.push(Entry { hash: key.hash, packed: line.pack(), bytes: key.bytes });
    }

    /// Marks lines that give a series which another line gave already, by their place among the lines that gave one.
    pub(crate) fn mark_repeated(&mut self, is_repeated: impl Fn(usize) -> bool) {
        if !self.has_left {
            self.leave();
        }
        let mut place = 0;
        for entry in &mut self.now {
            if let Line::Series(series) = Line::unpack(entry.packed) {
                if is_repeated(place) {
                    entry.packed = Line::Repeated(series).pack();
                }
                place += 1;
            }
        }
    }

    /// The scrape succeeded: its lines are the previous ones from now on.
    pub(crate) fn finish(&mut self) {
        if self.has_left {
            std::mem::swap(&mut self.before, &mut self.now);
        } else {
            self.before.truncate(self.cursor);
        }
        self.drop_scratch();
    }

    /// The scrape failed: the lines before it stay.
    pub(crate) fn abandon(&mut self) {
        self.drop_scratch();
    }

    /// What only a running scrape needs is not kept between scrapes: there are thousands of targets.
    fn drop_scratch(&mut self) {
        self.now = Vec::new();
        self.moved = HashMap::new();
        if self.before.capacity() > self.before.len() * 5 / 4 + 16 {
            self.before.shrink_to_fit();
        }
    }

    /// Forgets lines of series that storage no longer knows: they are resolved again.
    pub(crate) fn forget(&mut self, unknown: impl Fn(SeriesRef) -> bool) {
        self.before.retain(|entry| match Line::unpack(entry.packed) {
            Line::Series(series) | Line::Histogram(series) | Line::Repeated(series) => !unknown(series),
            Line::Dropped => true,
        });
    }

    /// How many lines are remembered.
    pub(crate) fn len(&self) -> usize {
        self.before.len()
    }
}
