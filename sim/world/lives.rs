//! What befalls peers: they start, stop, die, and what lies between them breaks and heals.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use promesh_cluster::{Membership, PeerRecord, PeerState};
use promesh_model::{Generation, Labels, Timestamp};
use promesh_node::{Digests, Input, Mesh, MeshConfig, Peer, PeerInput};
use rand::RngExt;

use super::history::WINDOW_MS;
use super::{EPOCH_MS, Event, MS, SECOND, SYNC_PERIOD, World, address, job};
use crate::disk::Store;
use crate::faults::Fault;
use crate::network::{Healed, IDLE_TIMEOUT_NS};
use crate::paging::PagingEvent;

/// Two clocks differ by twice that at most, which is where a peer warns of it. Unbounded steps add up: within an hour to
/// more than the second that some slots last.
const SKEW_MS_MAX: i64 = 250;

impl World {
    pub(crate) fn start(&mut self, peer: usize) {
        if self.peers[peer].mind.is_some() {
            return;
        }
        self.peers[peer].boot += 1;
        let now = self.clock(peer);
        let boot = self.peers[peer].boot;
        let mut disk = std::mem::take(&mut self.peers[peer].store.disk);
        disk.generation = (disk.generation + 1).max(now.wall.ms() as u64);
        let config = MeshConfig {
            replication_factor: self.replication_factor,
            start_hold: Duration::from_secs(10),
            has_seeds: peer != 0,
            persisted: disk.members.clone(),
            remembered: disk.away.clone(),
            possession: disk.possession.clone(),
            rank_tables: Some(Arc::clone(&self.rank_tables)),
            newest_sample: disk.log[..disk.synced].iter().map(|header| header.slot).max(),
            window: Duration::from_millis(if self.seals { WINDOW_MS as u64 } else { 7_200_000 }),
        };
        let record = PeerRecord {
            id: self.peers[peer].id,
            generation: Generation(disk.generation),
            version: 1,
            state: PeerState::Joining,
            zone: self.peers[peer].zone.clone(),
            weight: 4,
            protocol: (1, 1),
            web_address: None,
            root: 0,
        };
        let seed = self.rng.random();
        let membership = Membership::new(record.clone(), address(peer), seed, now);
        let mesh = Mesh::new(config, record, now);
        let simulated = &mut self.peers[peer];
        simulated.store = Store::open(disk);
        simulated.subscribers.clear();
        simulated.fetches.clear();
        simulated.next_wake = u64::MAX;
        simulated.paused_until = 0;
        self.note_logged(peer);
        let mind = self.with_alerting(peer, Peer::new(membership, mesh, now));
        self.peers[peer].mind = Some(mind);
        let version = self.peers[peer].store.disk.digests.digest(&job()).unwrap_or(1);
        self.load(peer, version);
        let sources = Arc::clone(&self.catalog);
        self.feed(peer, PeerInput::Mesh(Input::Sources(sources)));
        self.schedule(self.now + SYNC_PERIOD, Event::Sync { peer, boot });
        self.schedule(self.now + MS, Event::Seek { peer, boot });
        if self.reads.on {
            self.schedule(self.now + SECOND, Event::Read { peer, boot });
        }
        if self.seals {
            self.schedule(self.now + 5 * SECOND, Event::History { peer, boot });
        }
    }

    /// Reads a version of the configuration.
    pub(super) fn load(&mut self, peer: usize, version: u128) {
        let now = self.clock(peer).wall;
        let disk = &mut self.peers[peer].store.disk;
        // The first version was there long before.
        let now = if version == 1 { Timestamp(EPOCH_MS) } else { now };
        disk.digests = Digests::of([(job(), version)], Labels::default(), &disk.digests, now);
        let digests = disk.digests.clone();
        self.elected = None;
        self.feed(peer, PeerInput::Mesh(Input::Definitions(digests)));
    }

    /// The process ends; with it its connections. A clean stop has synced before.
    pub(super) fn stop(&mut self, peer: usize) {
        self.peers[peer].store.sync();
        self.kill(peer);
    }

    pub(super) fn kill(&mut self, peer: usize) {
        // What it had not synced and nobody else who lives has, died with it.
        let disk = &self.peers[peer].store.disk;
        let others = || self.peers.iter().enumerate().filter(|(other, one)| *other != peer && one.mind.is_some());
        let unsynced = disk.log[disk.synced..].iter().map(|header| (header.source, header.slot));
        let alone: Vec<_> =
            unsynced.filter(|batch| !others().any(|(_, other)| other.store.kept.contains_key(batch))).collect();
        self.unfinished.extend(alone);
        self.peers[peer].mind = None;
        self.peers[peer].boot += 1;
        for other in &mut self.peers {
            other.subscribers.remove(&peer);
        }
        self.forget_copies(peer);
        self.shown.retain(|(who, _), _| *who != peer);
        self.stop_reading(peer);
        self.note_standing(peer);
        self.paging_killed(peer);
    }

    pub(crate) fn note_fault(&mut self, at: u64) {
        self.faults_at.push(at);
        self.last_fault = self.last_fault.max(at);
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        self.note_fault(self.now);
        if matches!(fault, Fault::Kill(_) | Fault::Pause(..) | Fault::Cut(..)) {
            self.losses.insert(self.now);
        }
        if self.verbose {
            println!("{:9.3} s {fault:?}", self.now as f64 / 1e9);
        }
        match fault {
            Fault::Kill(peer) => self.kill(peer),
            Fault::Start(peer) => self.start(peer),
            Fault::Pause(peer, lasts) => {
                self.peers[peer].paused_until = self.peers[peer].paused_until.max(self.now + lasts);
                self.note_fault(self.now + lasts);
                self.note_standing(peer);
                if self.paging.is_some() {
                    self.schedule(self.now + lasts, Event::Paging(PagingEvent::Weigh));
                    self.note_standstill(self.now + lasts, lasts);
                }
                if lasts > IDLE_TIMEOUT_NS {
                    self.schedule(self.now + lasts, Event::Resumed(peer));
                }
            }
            Fault::Cut(from, to) => self.network.cut(from, to, self.now),
            Fault::Heal(from, to) => match self.network.heal(from, to, self.now) {
                Healed::Nothing => {}
                Healed::Delivered(envelopes) => {
                    for envelope in envelopes {
                        self.resend(envelope);
                    }
                }
                Healed::Reset => self.reset(from, to),
            },
            Fault::Loss(thousandths) => self.network.loss = f64::from(thousandths) / 1000.0,
            Fault::Step(peer, ms) => {
                let skew = &mut self.peers[peer].skew_ms;
                *skew = (*skew + ms).clamp(-SKEW_MS_MAX, SKEW_MS_MAX);
            }
            Fault::SlowDisk(peer, takes) => self.peers[peer].sync_takes = takes,
            Fault::FullDisk(peer, full) => self.feed(peer, PeerInput::Mesh(Input::DiskFull(full))),
            Fault::Refusing(peer, refuses) => {
                // That it refuses is noticed by what cannot be stored.
                self.peers[peer].store.refuses = refuses;
                if !refuses {
                    self.peers[peer].store.refused = false;
                    self.feed(peer, PeerInput::Mesh(Input::DiskRefuses(false)));
                }
            }
            Fault::Reload(peer, version) => self.load(peer, version),
            Fault::Terminate(peer) => self.feed(peer, PeerInput::Mesh(Input::Leave)),
            Fault::Wipe(peer) => {
                if self.peers[peer].mind.is_none() {
                    self.peers[peer].store = Store::default();
                }
            }
            Fault::Backfill(ago_ms) => self.backfill(ago_ms),
        }
        self.weigh_doubts();
    }

    /// The connection of two peers ended: what was under way is lost, both hear of it, and connect anew.
    pub(super) fn reset(&mut self, from: usize, to: usize) {
        self.network.disconnect(from, to);
        for (one, other) in [(from, to), (to, from)] {
            self.peers[one].subscribers.remove(&other);
            let boot = self.peers[one].boot;
            let lost = Event::StreamLost { peer: one, boot, from: self.peers[other].id };
            // A process that stands still hears of it when it goes on.
            if self.peers[one].paused_until > self.now { self.schedule(self.now, lost) } else { self.happen(lost) }
        }
    }

    /// Puts the peers into so many zones.
    pub(crate) fn set_zones(&mut self, zones: usize) {
        for (number, peer) in self.peers.iter_mut().enumerate() {
            peer.zone = format!("zone-{}", number % zones);
        }
    }

    /// Everything works again and every peer runs.
    pub(crate) fn heal_all(&mut self) {
        self.network.loss = 0.0;
        self.resume_all();
        let count = self.peers.len();
        for from in 0..count {
            self.peers[from].sync_takes = 0;
            for to in 0..count {
                self.strike(Fault::Heal(from, to));
            }
        }
        for peer in 0..count {
            self.start(peer);
            self.feed(peer, PeerInput::Mesh(Input::DiskFull(false)));
            self.strike(Fault::Refusing(peer, false));
        }
    }

    /// Who stands still goes on, and what waited for it reaches it now, in order.
    fn resume_all(&mut self) {
        let now = self.now;
        if self.peers.iter().any(|peer| peer.paused_until > now) && self.paging.is_some() {
            self.paging().starts.push(now);
        }
        let resumed = std::mem::take(&mut self.events).into_iter().map(|Reverse((at, tie, number, place))| {
            let waited = tie == number && self.pending[place].as_ref().and_then(Event::touched).is_some();
            Reverse((if waited { now } else { at }, tie, number, place))
        });
        self.events = resumed.collect();
        for peer in &mut self.peers {
            peer.paused_until = 0;
        }
    }
}
