//! Direct questions beside SWIM: whether the next two in the ring answer, and a suspect whether it knows.
//!
//! SWIM probes at random and spreads its news by chance. A dead peer is thus probed after half a second as a rule, but
//! after two or three now and then; and a suspicion that by bad luck never reached the suspect, or whose refutation
//! never came back, kills a living peer: where one packet in twenty is lost, some such in a hundred runs of ten minutes.
//! Two rules close both ends:
//!
//! * The ring. Members sorted by id form a ring, and each peer asks the two after it, four times a second. Who answers
//!   nothing three times, and nobody whom others ask for us either, is suspected: so a death is suspected within a
//!   second, whatever the size of the mesh. Each has two that ask, so two deaths side by side are found as soon.
//! * The buddy. Who keeps the clock of a suspicion asks the suspect until it is refuted or Down, and the question says
//!   what it is suspected of: ten chances, which need nobody else.
//!
//! The questions are pings and ping requests as SWIM has them, so a peer that knows nothing of this file answers too.
//! Sources: Lifeguard (Dadgar et al., 2018), buddy system; Rapid (Suresh et al., 2018), observers on a ring.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use foca::{Codec, Header, Member, Message, ProbeNumber, State, Timer, TimerToken};
use promesh_model::Monotonic;

use crate::swim::{Node, SwimCodec};

/// How often questions are asked.
pub(crate) const ASK_PERIOD: Duration = Duration::from_millis(250);
/// How many members after it each peer asks.
const RING: usize = 2;
/// Who did not answer so many questions is suspected.
const SILENT_MAX: u32 = 3;
/// How many others are asked to ask for us.
pub(crate) const HELPERS: usize = 3;
/// Of the questions; a probe of SWIM under way with the same number is answered by them as well as by its own.
const NUMBER: ProbeNumber = 0;

/// One that is asked because it comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    node: Node,
    /// Questions since its last answer.
    silent: u32,
}

/// Whom to ask now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// To be asked whether they answer.
    pub(crate) direct: Vec<Node>,
    /// To be asked for through others as well.
    pub(crate) through_others: Vec<Node>,
    /// These have been silent too long.
    pub(crate) silent: Vec<Node>,
}

/// Who is asked, and who has answered.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    /// When the next questions are due; none while there is nobody to ask.
    pub(crate) next: Option<Monotonic>,
    /// What foca marks its timers with in this connection of its own to the mesh.
    pub(crate) token: TimerToken,
    /// Who is suspected by this peer's own clock, in which incarnation.
    pub(crate) suspects: Vec<(Node, u16)>,
    ring: Vec<Watched>,
}

impl Asks {
    /// Takes the members that are not Down, and this peer's own place among them.
    pub(crate) fn set_ring(&mut self, own: &Node, active: impl Iterator<Item = Node>) {
        let mut active: Vec<Node> = active.collect();
        // From the one after this peer, around to the one before it.
        active.sort_by_key(|node| (node.id < own.id, node.id));
        active.truncate(RING);
        let silent = |node: &Node| self.ring.iter().find(|watched| watched.node == *node).map_or(0, |was| was.silent);
        self.ring = active.into_iter().map(|node| Watched { node, silent: silent(&node) }).collect();
    }

    /// Takes note of a timer that foca will be given: whom it is the clock of.
    pub(crate) fn note(&mut self, timer: &Timer<Node>) {
        match timer {
            // A new connection to the mesh: earlier clocks are void, foca heeds them no more.
            Timer::ProbeRandomMember(token) if *token != self.token => {
                self.token = *token;
                self.suspects.clear();
            }
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                let suspect = (*member_id, *incarnation);
                if !self.suspects.contains(&suspect) {
                    self.suspects.push(suspect);
                }
            }
            _ => {}
        }
    }

    /// Whether there is anybody to ask.
    pub(crate) fn is_idle(&self) -> bool {
        self.ring.is_empty() && self.suspects.is_empty()
    }

    /// Looks for an answer in a packet.
    pub(crate) fn hear(&mut self, packet: &[u8]) {
        let Ok(Header { src, message, .. }) = SwimCodec.decode_header(packet) else { return };
        let answered = match message {
            Message::Ack(_) => src,
            Message::ForwardedAck { origin, .. } => origin,
            _ => return,
        };
        for watched in self.ring.iter_mut().filter(|watched| watched.node == answered) {
            watched.silent = 0;
        }
    }

    /// This process stood still: the answers lie unread.
    pub(crate) fn forgive(&mut self) {
        self.ring.iter_mut().for_each(|watched| watched.silent = 0);
    }

    /// The questions that are due.
    pub(crate) fn round(&mut self) -> Round {
        let mut round = Round::default();
        for watched in &mut self.ring {
            // Whoever refutes the suspicion begins anew.
            if watched.silent >= SILENT_MAX {
                round.silent.push(watched.node);
                watched.silent = 0;
            }
            watched.silent += 1;
            round.direct.push(watched.node);
            if watched.silent > 1 {
                round.through_others.push(watched.node);
            }
        }
        round
    }
}

/// A ping; a suspect's says what it is suspected of.
pub(crate) fn question(own: Node, to: Node, suspicion: Option<u16>) -> Bytes {
    let mut packet = packet(own, to, Message::Ping(NUMBER));
    if let Some(incarnation) = suspicion {
        packet.put_u16(1);
        let suspicion = Member::new(to, incarnation, State::Suspect);
        SwimCodec.encode_member(&suspicion, &mut packet).expect("a vector has room");
    }
    packet.into()
}

/// Asks one member to ask another.
pub(crate) fn request(own: Node, to: Node, target: Node) -> Bytes {
    packet(own, to, Message::PingReq { target, probe_number: NUMBER }).into()
}

/// A packet of foca's form. Which incarnation this peer is in only foca knows: the lowest changes nobody's mind.
fn packet(src: Node, dst: Node, message: Message<Node>) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = Header { src, src_incarnation: 0, dst, message };
    SwimCodec.encode_header(&header, &mut packet).expect("a vector has room");
    packet
}

#[cfg(test)]
mod tests {
    use promesh_model::{Generation, PeerId};

    use super::*;

    fn node(id: u16) -> Node {
        let address = (std::net::Ipv4Addr::LOCALHOST, id).into();
        Node { id: PeerId(u128::from(id)), generation: Generation(1), renewal: 0, address }
    }

    fn ids(nodes: &[Node]) -> Vec<u16> {
        nodes.iter().map(|node| node.address.port()).collect()
    }

    /// What is asked, asked through others and found silent in each of some rounds.
    fn check(asks: &mut Asks, rounds: &[(&[u16], &[u16], &[u16])]) {
        for (number, (direct, through_others, silent)) in rounds.iter().enumerate() {
            let round = asks.round();
            let asked = (ids(&round.direct), ids(&round.through_others), ids(&round.silent));
            assert_eq!(asked, (direct.to_vec(), through_others.to_vec(), silent.to_vec()), "round {number}");
        }
    }

    fn answer(from: u16, message: Message<Node>) -> Vec<u8> {
        packet(node(from), node(7), message)
    }

    #[test]
    fn the_two_after_it_are_asked_around_the_end_of_the_ring() {
        let mut asks = Asks::default();
        asks.set_ring(&node(7), [3, 9, 5].map(node).into_iter());
        check(&mut asks, &[(&[9, 3], &[], &[])]);
        asks.set_ring(&node(4), [3, 9, 5].map(node).into_iter());
        check(&mut asks, &[(&[5, 9], &[9], &[])]);
        asks.set_ring(&node(4), [9].map(node).into_iter());
        check(&mut asks, &[(&[9], &[9], &[])]);
        asks.set_ring(&node(4), [].into_iter());
        assert!(asks.is_idle());
    }

    #[test]
    fn who_answers_nobody_three_times_is_silent() {
        let mut asks = Asks::default();
        asks.set_ring(&node(7), [8, 9].map(node).into_iter());
        check(&mut asks, &[(&[8, 9], &[], &[]), (&[8, 9], &[8, 9], &[])]);
        asks.hear(&answer(8, Message::Ack(200)));
        check(&mut asks, &[(&[8, 9], &[9], &[]), (&[8, 9], &[8], &[9])]);
        asks.hear(&answer(2, Message::ForwardedAck { origin: node(8), probe_number: NUMBER }));
        check(&mut asks, &[(&[8, 9], &[9], &[]), (&[8, 9], &[8, 9], &[]), (&[8, 9], &[8], &[9])]);
    }

    /// Over a one-way cut the deaf one is heard still.
    #[test]
    fn only_an_answer_shows_that_a_question_arrived() {
        let mut asks = Asks::default();
        asks.set_ring(&node(7), [8].map(node).into_iter());
        for round in 0..4 {
            asks.hear(&answer(8, Message::Ping(1)));
            asks.hear(&answer(8, Message::Gossip));
            assert_eq!(asks.round().silent.len(), usize::from(round == 3), "round {round}");
        }
        asks.forgive();
        assert!(asks.round().silent.is_empty());
    }
}
