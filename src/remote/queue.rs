//! Samples that wait to be sent.
//!
//! Every series has a lane, and a lane is with one sender at a time, so that a series' samples arrive in order whatever
//! fails and is tried again. A sender takes what has waited longest, over as many free lanes as make a full request: with
//! one sender requests are large, with many they go side by side.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use promesh_model::ingest::{Exemplar, HistogramValue, Metadata};
use promesh_model::{Labels, Monotonic};
use tokio::sync::Notify;

/// Lanes of a queue: more than senders, so that each finds some.
const LANES: usize = 64;

/// A series as it is sent: with external labels, relabelled.
#[derive(Clone, Debug, PartialEq)]
pub struct OutSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its family's metadata, where the protocol says it with the series.
    pub metadata: Option<Metadata>,
    hash: u64,
    lane: usize,
}

impl OutSeries {
    /// A series.
    pub fn new(labels: Labels, metadata: Option<Metadata>) -> OutSeries {
        let hash = xxhash_rust::xxh3::xxh3_64(labels.as_packed());
        OutSeries { labels, metadata, hash, lane: (hash % LANES as u64) as usize }
    }

    /// Whether two are one series, whoever made them.
    pub fn is_same(&self, other: &OutSeries) -> bool {
        self.hash == other.hash && self.labels == other.labels
    }
}

/// What is sent of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(HistogramValue),
    /// An exemplar.
    Exemplar(Exemplar),
}

/// One thing to be sent.
#[derive(Clone, Debug)]
pub struct Item {
    /// Of which series.
    pub series: Arc<OutSeries>,
    /// When, in ms.
    pub at: i64,
    /// Since when it counts, in ms; zero if not said.
    pub start: i64,
    /// What.
    pub value: Value,
    /// Whether the receiver may have it already.
    pub may_repeat: bool,
}

#[derive(Default)]
struct Lane {
    items: VecDeque<(Monotonic, Item)>,
    /// With a sender: the first instant of what it has.
    taken: Option<i64>,
}

struct Lanes {
    lanes: Vec<Lane>,
    waiting: usize,
    next: usize,
}

/// A queue of one receiver.
pub struct Queue {
    state: Mutex<Lanes>,
    capacity: usize,
    /// Something was added, or a lane was given back.
    changed: Notify,
    /// Room was made.
    room: Notify,
}

/// What a sender took; its lanes are free again once it is given back.
#[derive(Debug)]
pub struct Taken {
    /// In order, series by series within a lane.
    pub items: Vec<Item>,
    lanes: Vec<usize>,
}

impl Queue {
    /// A queue for so many items.
    pub fn new(capacity: usize) -> Queue {
        let lanes = (0..LANES).map(|_| Lane::default()).collect();
        let state = Mutex::new(Lanes { lanes, waiting: 0, next: 0 });
        Queue { state, capacity: capacity.max(1), changed: Notify::new(), room: Notify::new() }
    }

    /// Adds items in order; gives back all of them when there is no room for all.
    ///
    /// # Errors
    /// The items, untouched.
    pub fn push(&self, items: Vec<Item>, now: Monotonic) -> Result<(), Vec<Item>> {
        let mut state = self.state.lock();
        if state.waiting + items.len() > self.capacity && state.waiting > 0 {
            return Err(items);
        }
        state.waiting += items.len();
        for item in items {
            let lane = item.series.lane;
            state.lanes[lane].items.push_back((now, item));
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// How many items wait or are with a sender.
    pub fn pending(&self) -> usize {
        self.state.lock().waiting
    }

    /// Waits until at least half of the room is free.
    pub async fn half_empty(&self) {
        loop {
            let room = self.room.notified();
            if self.pending() * 2 <= self.capacity {
                return;
            }
            room.await;
        }
    }

    /// The first instant of anything that has not arrived, in ms; none when all has.
    pub fn oldest(&self) -> Option<i64> {
        let state = self.state.lock();
        let waiting = state.lanes.iter().flat_map(|lane| lane.items.iter().map(|(_, item)| item.at));
        waiting.chain(state.lanes.iter().filter_map(|lane| lane.taken)).min()
    }

    /// Takes up to `count` items of free lanes if there are so many, or some have waited for `patience`.
    pub fn take(&self, count: usize, patience: Duration, now: Monotonic) -> Option<Taken> {
        let mut state = self.state.lock();
        let free = state.lanes.iter().filter(|lane| lane.taken.is_none());
        let (mut ready, mut oldest) = (0, None);
        for lane in free {
            ready += lane.items.len();
            if let Some((since, _)) = lane.items.front() {
                oldest = Some(oldest.map_or(*since, |oldest: Monotonic| oldest.min(*since)));
            }
        }
        let waited = oldest.is_some_and(|since| now.since(since) >= patience);
        if ready == 0 || (ready < count && !waited) {
            return None;
        }
        let mut taken = Taken { items: Vec::with_capacity(count.min(ready)), lanes: Vec::new() };
        for step in 0..LANES {
            let index = (state.next + step) % LANES;
            let lane = &mut state.lanes[index];
            if lane.taken.is_some() || lane.items.is_empty() || taken.items.len() >= count {
                continue;
            }
            let wanted = (count - taken.items.len()).min(lane.items.len());
            let begin = taken.items.len();
            taken.items.extend(lane.items.drain(..wanted).map(|(_, item)| item));
            lane.taken = taken.items[begin..].iter().map(|item| item.at).min();
            // One series' samples side by side make a smaller request; their own order stays.
            taken.items[begin..].sort_by_key(|item| item.series.hash);
            taken.lanes.push(index);
        }
        state.next = taken.lanes.last().map_or(0, |last| last + 1);
        Some(taken)
    }

    /// What was taken has arrived, or will never.
    pub fn give_back(&self, taken: &Taken, items: usize) {
        let mut state = self.state.lock();
        for lane in &taken.lanes {
            state.lanes[*lane].taken = None;
        }
        state.waiting -= items;
        drop(state);
        self.changed.notify_one();
        self.room.notify_waiters();
    }

    /// Waits until something was added or given back.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(series: &Arc<OutSeries>, at: i64) -> Item {
        Item { series: Arc::clone(series), at, start: 0, value: Value::Float(at as f64), may_repeat: false }
    }

    fn series(name: &str) -> Arc<OutSeries> {
        Arc::new(OutSeries::new(Labels::from_pairs([("__name__", name)]), None))
    }

    #[test]
    fn a_series_is_with_one_sender_at_a_time_and_in_order() {
        let queue = Queue::new(100);
        let now = Monotonic(0);
        let a = series("a");
        queue.push((0..5).map(|at| item(&a, at)).collect(), now).expect("room");
        let first = queue.take(3, Duration::ZERO, now).expect("some");
        assert_eq!(first.items.iter().map(|item| item.at).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(queue.take(3, Duration::ZERO, now).is_none());
        assert_eq!(queue.oldest(), Some(0));
        queue.give_back(&first, 3);
        assert_eq!(queue.oldest(), Some(3));
        assert_eq!(queue.pending(), 2);
        let second = queue.take(3, Duration::ZERO, now).expect("some");
        assert_eq!(second.items.iter().map(|item| item.at).collect::<Vec<_>>(), [3, 4]);
        queue.give_back(&second, 2);
        assert_eq!(queue.oldest(), None);
    }

    #[test]
    fn one_series_made_twice_stays_in_order() {
        for _ in 0..8 {
            let queue = Queue::new(100);
            let (first, second) = (series("a"), series("a"));
            let items = vec![item(&second, 1), item(&first, 2), item(&second, 3), item(&first, 4)];
            queue.push(items, Monotonic(0)).expect("room");
            let taken = queue.take(9, Duration::ZERO, Monotonic(0)).expect("some");
            assert_eq!(taken.items.iter().map(|item| item.at).collect::<Vec<_>>(), [1, 2, 3, 4]);
        }
    }

    #[test]
    fn few_items_wait_for_others_and_what_finds_no_room_comes_back() {
        let queue = Queue::new(3);
        let a = series("a");
        queue.push(vec![item(&a, 1)], Monotonic(0)).expect("room");
        assert!(queue.take(2, Duration::from_secs(5), Monotonic(0)).is_none());
        assert_eq!(queue.push(vec![item(&a, 2), item(&a, 3), item(&a, 4)], Monotonic(0)).expect_err("full").len(), 3);
        let later = Monotonic(0) + Duration::from_secs(5);
        assert_eq!(queue.take(2, Duration::from_secs(5), later).expect("it waited").items.len(), 1);
    }
}
