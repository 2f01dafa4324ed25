//! Streams between the peers of a world, and what comes of what arrives on them.

use promesh_alerting::AlertMessage;
use promesh_model::Timestamp;
use promesh_node::{Input, PeerInput};

use super::event::{Envelope, Event};
use super::{Wire, World};

impl World {
    pub(crate) fn send(&mut self, from: usize, to: usize, wire: Wire) {
        if self.measuring {
            self.sent_bytes += wire.bytes();
        }
        let (from_boot, to_boot) = (self.peers[from].boot, self.peers[to].boot);
        let connection = self.network.connection(from, to);
        self.resend(Envelope { from, from_boot, to, to_boot, connection, wire });
    }

    pub(super) fn resend(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from, envelope.to);
        if let Some((at, envelope)) = self.network.stream(from, to, envelope, self.now, &mut self.rng) {
            self.schedule(at, Event::Stream(Box::new(envelope)));
        }
    }

    pub(super) fn arrive(&mut self, envelope: Envelope) {
        let Envelope { from, from_boot, to, to_boot, connection, wire } = envelope;
        // A process that died took its connections with it; what was under way when one ended is lost.
        if !self.is_up(to, to_boot)
            || self.peers[from].boot != from_boot
            || self.network.connection(from, to) != connection
        {
            return;
        }
        let id = self.peers[from].id;
        match wire {
            Wire::Mind(message) => self.feed(to, PeerInput::Mesh(Input::Message { from: id, message })),
            Wire::Alerting(message) => {
                // As it is on a stream: not all that a part holds is a part of its form.
                let message = AlertMessage::decode(&message.encode()).expect("own bytes");
                let input = promesh_alerting::Input::Message { from: id, message };
                self.feed(to, PeerInput::Alerting(input));
            }
            Wire::Batch(header) => self.append(to, header),
            Wire::Subscribe(shards) => {
                self.peers[to].subscribers.insert(from, shards);
            }
            Wire::Ask(snapshot) => {
                let answer = self.peers[to].mind.as_ref().expect("checked").membership.snapshot();
                self.feed(to, PeerInput::Snapshot(snapshot));
                self.send(to, from, Wire::Answer(answer));
            }
            Wire::Answer(snapshot) => self.feed(to, PeerInput::Snapshot(snapshot)),
            Wire::Fetch { token, shards, since } => {
                // What left the log is history, and copied as that.
                let logged = if self.seals { self.logged_from(to) } else { Timestamp::MIN };
                let donor = &self.peers[to];
                // Nearly all that a large mesh copies is there already.
                let span = (since.unwrap_or(logged), logged);
                let batches = donor.store.export_to(&self.peers[from].store, &shards, span);
                let possession = donor.mind.as_ref().expect("checked").mesh.possession();
                let held = possession.whole_from(&shards).map(|from| from.max(logged));
                let whole_from = since.or(held);
                self.send(to, from, Wire::Fetched { token, batches, whole_from });
            }
            Wire::Window { token, window, shards } => self.donate_window(to, from, token, window, &shards),
            Wire::WindowIs { token, batches } => self.take_window(to, token, batches),
            Wire::Late { token, span, shards, batches } => self.take_late((to, from), token, span, &shards, batches),
            Wire::LateTaken { token, has } => self.late_taken(to, id, token, has),
            Wire::Read { token, ask, shards, span } => self.take_read((to, from), (token, ask), shards, span),
            Wire::ReadHeard { token, ask } => self.take_answer(to, token, ask, None),
            Wire::ReadIs { token, ask, keys } => self.take_answer(to, token, ask, Some(keys)),
            Wire::Fetched { token, .. } if self.refuses(to) => {
                if self.peers[to].fetches.remove(&token).is_some() {
                    self.feed(to, PeerInput::Mesh(Input::Fetched { token, whole_from: None }));
                }
            }
            Wire::Fetched { token, batches, whole_from } => {
                batches.into_iter().for_each(|header| self.peers[to].store.copy(header));
                if self.peers[to].fetches.remove(&token).is_some() {
                    self.peers[to].store.sync();
                    self.feed(to, PeerInput::Mesh(Input::Fetched { token, whole_from }));
                }
            }
        }
    }
}
