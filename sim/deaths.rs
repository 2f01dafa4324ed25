//! False deaths, and how soon true ones are known, on links that lose datagrams.

use std::fmt;

use rand::RngExt;

use crate::members::{Members, id};
use crate::world::SECOND;

/// How long peers have to meet before deaths count.
const MEETING: u64 = 10 * SECOND;
/// What is not noticed within this, is not noticed.
const NOTICE_MAX: u64 = 20 * SECOND;

/// What a mesh of memberships alone, that nothing befalls but loss, came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    /// How often a peer took another, living one for dead: each in each peer's own eyes, however short.
    pub deaths: u64,
    /// Peers that at the end did not see all others alive.
    pub blind: usize,
    /// SWIM datagrams that a peer sent a second.
    pub datagrams: f64,
    /// Bytes in them.
    pub datagram_bytes: f64,
    /// Bytes of exchanges that a peer sent a second.
    pub exchange_bytes: f64,
}

/// Lets so many peers live for so many seconds.
pub fn count(peers: usize, seconds: u64, loss: f64, seed: u64) -> Quiet {
    let mut members = Members::new(peers, loss, seed);
    members.run_until(MEETING);
    let (downs, sent) = (members.downs(), members.sent);
    members.run_until((seconds * SECOND).max(MEETING + SECOND));
    let spans = peers as f64 * (members.now - MEETING) as f64 / SECOND as f64;
    let rate = |now: u64, before: u64| (now - before) as f64 / spans;
    Quiet {
        deaths: members.downs() - downs,
        blind: members.blind(),
        datagrams: rate(members.sent.datagrams, sent.datagrams),
        datagram_bytes: rate(members.sent.datagram_bytes, sent.datagram_bytes),
        exchange_bytes: rate(members.sent.exchange_bytes, sent.exchange_bytes),
    }
}

/// How long after kills the first, the median and the last of the others held the dead for dead, in seconds; infinite
/// where that took longer than twenty.
#[derive(Clone, Debug, Default)]
pub struct Detection {
    /// One for each kill: first, median, last.
    pub kills: Vec<[f64; 3]>,
    /// How often a peer took another, living one for dead.
    pub deaths: u64,
}

/// Kills so many peers, one after the other, each of which comes back before the next.
pub fn detection(peers: usize, kills: usize, loss: f64, seed: u64) -> Detection {
    let mut members = Members::new(peers, loss, seed);
    members.run_until(MEETING);
    let (mut detection, mut expected) = (Detection::default(), members.downs());
    for _ in 0..kills {
        let pause = members.rng.random_range(5 * SECOND..8 * SECOND);
        members.run_until(members.now + pause);
        let victim = members.rng.random_range(0..peers);
        let killed = members.now;
        let downs = members.downs();
        members.kill(victim);
        members.told.clear();
        members.run_until(killed + NOTICE_MAX);
        let seen = |told: &[(u64, usize, _)], peer| {
            let mut of = told.iter().filter(|(_, by, who)| *by == peer && *who == id(victim));
            of.next().map_or(f64::INFINITY, |(at, ..)| (at - killed) as f64 / SECOND as f64)
        };
        let mut after: Vec<f64> = members.living().map(|peer| seen(&members.told, peer)).collect();
        after.sort_by(f64::total_cmp);
        detection.kills.push([after[0], after[after.len() / 2], after[after.len() - 1]]);
        let rightly = after.iter().filter(|at| at.is_finite()).count() as u64;
        detection.deaths += (members.downs() - downs).saturating_sub(rightly) + downs - expected;
        expected = members.downs();
        let seed = members.living().next().expect("two live");
        members.start(victim, seed);
    }
    detection
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kills", self.kills.len())?;
        for (place, name) in ["first", "median", "last"].into_iter().enumerate() {
            let mut times: Vec<f64> = self.kills.iter().map(|kill| kill[place]).collect();
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1];
            let (median, p99, max) = (at(0.5), at(0.99), at(1.0));
            write!(f, "; {name} to know: {median:.2} s median, {p99:.2} s p99, {max:.2} s max")?;
        }
        write!(f, "; {} false deaths", self.deaths)
    }
}
