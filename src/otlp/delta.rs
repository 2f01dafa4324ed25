//! Differences added up to sums.
//!
//! A stream that says only what was new since its last point becomes one that counts from its first: each point is added
//! to what came before, if it is later. A stream that was silent for long is forgotten and begins anew.

use hashbrown::HashMap;
use promesh_model::ShardId;
use promesh_model::shard::ShardSet;

use crate::message::{Data, Explicit, Exponential, Metrics, Number, Point, Temporality};
use crate::split::shard_of_resource;

/// Streams remembered; further ones are dropped.
const STREAMS_MAX: usize = 500_000;
/// Silence after which a stream is forgotten, in ns.
const STALE_NS: u64 = 5 * 60 * 1_000_000_000;

/// A stream: resource, scope, metric and attributes.
type Key = u128;

#[derive(Clone, Debug)]
enum Sum {
    Number(Number),
    Explicit(Explicit),
    Exponential(Exponential),
}

/// What has been added up so far.
#[derive(Debug, Default)]
pub struct DeltaState {
    streams: HashMap<Key, (ShardId, Sum)>,
    newest_ns: u64,
}

trait Adds: Clone {
    fn point(&mut self) -> &mut Point;
    fn time(&self) -> u64;
    /// Adds what is new; false when the two do not fit together.
    fn add(&mut self, new: &Self) -> bool;
    fn wrap(self) -> Sum;
    fn unwrap(sum: &Sum) -> Option<&Self>;
}

impl Adds for Number {
    fn point(&mut self) -> &mut Point {
        &mut self.point
    }
    fn time(&self) -> u64 {
        self.point.time_ns
    }
    fn add(&mut self, new: &Self) -> bool {
        self.value += new.value;
        true
    }
    fn wrap(self) -> Sum {
        Sum::Number(self)
    }
    fn unwrap(sum: &Sum) -> Option<&Self> {
        if let Sum::Number(found) = sum { Some(found) } else { None }
    }
}

impl Adds for Explicit {
    fn point(&mut self) -> &mut Point {
        &mut self.point
    }
    fn time(&self) -> u64 {
        self.point.time_ns
    }
    fn add(&mut self, new: &Self) -> bool {
        if self.bounds != new.bounds || self.buckets.len() != new.buckets.len() {
            return false;
        }
        self.count = self.count.saturating_add(new.count);
        self.sum = self.sum.zip(new.sum).map(|(a, b)| a + b);
        for (bucket, more) in self.buckets.iter_mut().zip(&new.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        true
    }
    fn wrap(self) -> Sum {
        Sum::Explicit(self)
    }
    fn unwrap(sum: &Sum) -> Option<&Self> {
        if let Sum::Explicit(found) = sum { Some(found) } else { None }
    }
}

impl Adds for Exponential {
    fn point(&mut self) -> &mut Point {
        &mut self.point
    }
    fn time(&self) -> u64 {
        self.point.time_ns
    }
    fn add(&mut self, new: &Self) -> bool {
        let mut new = new.clone();
        // To the coarser of both resolutions.
        let scale = self.scale.min(new.scale);
        self.coarsen(scale);
        new.coarsen(scale);
        self.count = self.count.saturating_add(new.count);
        self.sum = self.sum.zip(new.sum).map(|(a, b)| a + b);
        self.zero_count = self.zero_count.saturating_add(new.zero_count);
        self.zero_threshold = self.zero_threshold.max(new.zero_threshold);
        add_buckets(&mut self.positive, &new.positive) && add_buckets(&mut self.negative, &new.negative)
    }
    fn wrap(self) -> Sum {
        Sum::Exponential(self)
    }
    fn unwrap(sum: &Sum) -> Option<&Self> {
        if let Sum::Exponential(found) = sum { Some(found) } else { None }
    }
}

impl Exponential {
    /// Halves the resolution until the scale is this.
    pub(crate) fn coarsen(&mut self, scale: i32) {
        let steps = (self.scale - scale).clamp(0, 30) as u32;
        if steps == 0 {
            return;
        }
        for side in [&mut self.positive, &mut self.negative] {
            let (offset, counts) = (side.0, std::mem::take(&mut side.1));
            let first = offset >> steps;
            let mut merged: Vec<u64> = Vec::new();
            for (place, count) in counts.into_iter().enumerate() {
                let index = ((i64::from(offset) + place as i64) >> steps) - i64::from(first);
                let index = index as usize;
                if merged.len() <= index {
                    merged.resize(index + 1, 0);
                }
                merged[index] = merged[index].saturating_add(count);
            }
            *side = (first, merged);
        }
        self.scale = scale;
    }
}

/// Adds counts index by index; false when they lie too far apart.
fn add_buckets(sum: &mut (i32, Vec<u64>), new: &(i32, Vec<u64>)) -> bool {
    if new.1.is_empty() {
        return true;
    }
    if sum.1.is_empty() {
        *sum = new.clone();
        return true;
    }
    let first = i64::from(sum.0.min(new.0));
    let end = (i64::from(sum.0) + sum.1.len() as i64).max(i64::from(new.0) + new.1.len() as i64);
    if end - first > crate::message::BUCKETS_MAX as i64 {
        return false;
    }
    let mut merged = vec![0u64; (end - first) as usize];
    for (offset, counts) in [(sum.0, &sum.1), (new.0, &new.1)] {
        for (place, count) in counts.iter().enumerate() {
            let index = (i64::from(offset) - first) as usize + place;
            merged[index] = merged[index].saturating_add(*count);
        }
    }
    *sum = (first as i32, merged);
    true
}

impl DeltaState {
    /// Makes every stream of differences one of sums; points that are not later than the last one are dropped.
    pub fn accumulate(&mut self, metrics: &mut Metrics) {
        for resource in &mut metrics.resources {
            let of_resource = hash(0, &resource.attributes);
            let shard = shard_of_resource(resource);
            for scope in &mut resource.scopes {
                let of_scope = hash(of_resource ^ text_hash(&[&scope.name, &scope.version]), &scope.attributes);
                for metric in &mut scope.metrics {
                    let of_metric = of_scope ^ text_hash(&[&metric.name, &metric.unit]);
                    match &mut metric.data {
                        Data::Sum { points, temporality: temporality @ Temporality::Delta, .. } => {
                            *temporality = Temporality::Cumulative;
                            self.add_up(shard, of_metric, points);
                        }
                        Data::Histogram { points, temporality: temporality @ Temporality::Delta } => {
                            *temporality = Temporality::Cumulative;
                            self.add_up(shard, of_metric, points);
                        }
                        Data::Exponential { points, temporality: temporality @ Temporality::Delta } => {
                            *temporality = Temporality::Cumulative;
                            self.add_up(shard, of_metric, points);
                        }
                        _ => {}
                    }
                }
            }
        }
        if self.streams.len() > STREAMS_MAX / 2 {
            let newest = self.newest_ns;
            self.streams.retain(|_, (_, sum)| {
                let time = match sum {
                    Sum::Number(found) => found.time(),
                    Sum::Explicit(found) => found.time(),
                    Sum::Exponential(found) => found.time(),
                };
                newest.saturating_sub(time) < STALE_NS
            });
        }
    }

    /// Forgets the streams of all other shards: somebody else adds them up now, and what this peer knows of them would be
    /// wrong by what that one has added, should they come back.
    pub fn keep_only(&mut self, shards: &ShardSet) {
        self.streams.retain(|_, (shard, _)| shards.contains(*shard));
    }

    fn add_up<T: Adds>(&mut self, shard: ShardId, metric: Key, points: &mut Vec<T>) {
        points.retain_mut(|point| {
            let key = hash(metric, &point.point().attributes);
            self.newest_ns = self.newest_ns.max(point.time());
            let known = self.streams.get(&key).and_then(|(_, sum)| T::unwrap(sum));
            let mut sum = match known {
                Some(known) if point.time() <= known.time() => return false,
                Some(known) if point.time() - known.time() < STALE_NS => {
                    let mut sum = known.clone();
                    if !sum.add(point) {
                        return false;
                    }
                    let (at, exemplars, no_value) =
                        (point.time(), std::mem::take(&mut point.point().exemplars), point.point().no_value);
                    let into = sum.point();
                    (into.time_ns, into.exemplars, into.no_value) = (at, exemplars, no_value);
                    sum
                }
                _ if self.streams.len() >= STREAMS_MAX => return false,
                _ => point.clone(),
            };
            let mut kept = sum.clone();
            kept.point().exemplars.clear();
            self.streams.insert(key, (shard, kept.wrap()));
            std::mem::swap(point, &mut sum);
            true
        });
    }
}

fn text_hash(texts: &[&str]) -> Key {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0xff);
    }
    xxhash_rust::xxh3::xxh3_128(&bytes)
}

fn hash(seed: Key, attributes: &[(String, String)]) -> Key {
    let mut sorted: Vec<&(String, String)> = attributes.iter().collect();
    sorted.sort();
    let mut bytes = seed.to_le_bytes().to_vec();
    for (name, value) in sorted {
        for text in [name, value] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0xff);
        }
    }
    xxhash_rust::xxh3::xxh3_128(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Metric, Resource, Scope};

    fn message(data: Data) -> Metrics {
        let metric = Metric { name: "a".to_owned(), data, ..Metric::default() };
        let scope = Scope { metrics: vec![metric], ..Scope::default() };
        Metrics { resources: vec![Resource { scopes: vec![scope], ..Resource::default() }] }
    }

    fn sum(time_ns: u64, value: f64) -> Metrics {
        let point = Point { time_ns, ..Point::default() };
        let points = vec![Number { point, value }];
        message(Data::Sum { points, temporality: Temporality::Delta, monotonic: true })
    }

    fn value(metrics: &Metrics) -> Option<f64> {
        match &metrics.resources[0].scopes[0].metrics[0].data {
            Data::Sum { points, temporality: Temporality::Cumulative, .. } => points.first().map(|point| point.value),
            _ => panic!("not a cumulative sum"),
        }
    }

    #[test]
    fn differences_add_up_and_what_comes_late_is_dropped() {
        let mut state = DeltaState::default();
        let mut add = |time: u64, more: f64| {
            let mut metrics = sum(time, more);
            state.accumulate(&mut metrics);
            value(&metrics)
        };
        assert_eq!(add(10, 1.0), Some(1.0));
        assert_eq!(add(20, 2.0), Some(3.0));
        assert_eq!(add(20, 5.0), None);
        assert_eq!(add(15, 5.0), None);
        assert_eq!(add(20 + STALE_NS, 4.0), Some(4.0));
    }

    #[test]
    fn what_another_peer_adds_up_is_forgotten() {
        let mut state = DeltaState::default();
        let shard = shard_of_resource(&sum(0, 0.0).resources[0]);
        let add = |state: &mut DeltaState, time: u64| {
            let mut metrics = sum(time, 1.0);
            state.accumulate(&mut metrics);
            value(&metrics)
        };
        assert_eq!((add(&mut state, 10), add(&mut state, 20)), (Some(1.0), Some(2.0)));
        state.keep_only(&std::iter::once(shard).collect());
        assert_eq!(add(&mut state, 30), Some(3.0));
        state.keep_only(&ShardSet::default());
        assert_eq!(add(&mut state, 40), Some(1.0));
    }

    #[test]
    fn exponential_buckets_are_added_at_the_coarser_resolution() {
        let mut sum = Exponential { scale: 1, positive: (2, vec![1, 1, 1, 1]), count: 4, ..Exponential::default() };
        let new = Exponential { scale: 0, positive: (0, vec![5]), count: 5, ..Exponential::default() };
        assert!(sum.add(&new));
        assert_eq!((sum.scale, sum.positive, sum.count), (0, (0, vec![5, 2, 2]), 9));
    }
}
