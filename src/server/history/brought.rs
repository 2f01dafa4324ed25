//! What came with the data directory: blocks that this peer did not put there itself, such as an operator's of a snapshot.
//!
//! Nobody knows of them. Claims say what peers hold, whoever claims a window may lack what is here, and this peer may have
//! samples of shards that it does not claim. So the others compare such windows with it, twice: a peer that copied a window
//! from one that had not compared it yet has the second time.
//!
//! The blocks that are its own are written down as they come and go; others that are there at a start are strangers. Of those
//! made in the seconds before a crash some are its own: these are compared in vain. What was not shown to everybody is
//! written down as well, and shown after the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use promesh_model::{PeerId, Timestamp};
use promesh_tsdb::{Db, Window};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::identity::PeerFolder;

/// How often others compare a window.
pub(super) const SHOWINGS: u32 = 2;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBlocks {
    /// Names of the blocks that were here.
    blocks: BTreeSet<String>,
    /// Beginnings of windows that others have yet to compare.
    to_show: Vec<i64>,
}

/// Windows that others are to compare, and who has compared how much of it.
#[derive(Default)]
pub(super) struct Brought {
    pub(super) windows: Vec<Window>,
    pub(super) shown: BTreeMap<(Window, PeerId), u32>,
    /// When everybody had compared everything for the first time.
    pub(super) shown_once: Option<promesh_model::Monotonic>,
    kept: Option<KnownBlocks>,
}

impl Brought {
    /// What is here that was not here when this peer last looked. Of a peer that never held anything all is; of one whose
    /// earlier build wrote no blocks down, nothing.
    pub(super) fn at_start(db: &Db, known: Option<KnownBlocks>, is_new: bool) -> Brought {
        let stranger = |name: &String| known.as_ref().map_or(is_new, |known| !known.blocks.contains(name));
        let spans: Vec<(i64, i64)> = db
            .blocks()
            .iter()
            .filter(|block| stranger(&block.meta().ulid.to_string()))
            .map(|block| (block.meta().min_time, block.meta().max_time))
            .collect();
        let unshown: BTreeSet<i64> = known.iter().flat_map(|known| known.to_show.iter().copied()).collect();
        let is_strange = |window: &Window| {
            let overlaps = |(from, to): &(i64, i64)| *from < window.end.ms() && *to > window.start.ms();
            is_new || unshown.contains(&window.start.ms()) || spans.iter().any(overlaps)
        };
        let windows = db.sealed_windows(clock::now()).into_iter().filter(is_strange).collect();
        Brought { windows, kept: known, ..Brought::default() }
    }

    /// Writes down what changed.
    pub(super) fn keep(&mut self, db: &Db, folder: &PeerFolder) -> io::Result<()> {
        let now = KnownBlocks {
            blocks: db.blocks().iter().map(|block| block.meta().ulid.to_string()).collect(),
            to_show: self.windows.iter().map(|window| window.start.ms()).collect(),
        };
        if self.kept.as_ref() != Some(&now) {
            folder.keep_blocks(&now)?;
            self.kept = Some(now);
        }
        Ok(())
    }

    /// Forgets the windows that all of some peers have compared often enough, and those that retention dropped.
    pub(super) fn forget(&mut self, peers: &[PeerId], oldest: Timestamp) {
        let done = |window: &Window| {
            let often = |peer: &PeerId| self.shown.get(&(*window, *peer)).is_some_and(|shown| *shown >= SHOWINGS);
            window.end <= oldest || (!peers.is_empty() && peers.iter().all(often))
        };
        let rest: Vec<Window> = self.windows.iter().filter(|window| !done(window)).copied().collect();
        self.windows = rest;
        if self.windows.is_empty() {
            self.shown.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_shown_until_everybody_has_seen_it_twice_or_it_is_gone() {
        let window = |hour: i64| Window { start: Timestamp(hour * 3_600_000), end: Timestamp((hour + 2) * 3_600_000) };
        let (one, two) = (PeerId(1), PeerId(2));
        let mut brought = Brought { windows: vec![window(0), window(2), window(4)], ..Brought::default() };
        for (hour, peer, times) in [(2, one, 2), (2, two, 1), (4, one, 2), (4, two, 2)] {
            brought.shown.insert((window(hour), peer), times);
        }
        brought.forget(&[], Timestamp(0));
        assert_eq!(brought.windows.len(), 3, "nobody is there");
        brought.forget(&[one, two], window(0).end);
        assert_eq!(brought.windows, [window(2)]);
        brought.shown.insert((window(2), two), 2);
        brought.forget(&[one, two], window(0).end);
        assert!(brought.windows.is_empty() && brought.shown.is_empty());
    }
}
