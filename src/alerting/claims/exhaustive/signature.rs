//! What makes two states one: everything that can still matter, without the order of voters that claim nothing.

use super::state::{Message, State};
use super::*;

/// What a voter said to a claim.
#[derive(Hash)]
struct Word {
    answer: Option<(Verdict, u64)>,
    is_void: bool,
    /// Whether it accepted the round that is being confirmed.
    is_confirmed: bool,
}

impl State {
    /// A hash that does not know the order of voters that claim nothing.
    pub(super) fn signature(&self, bounds: Bounds) -> u64 {
        let mut out = DefaultHasher::new();
        (self.now, self.crashes, &self.sent.len()).hash(&mut out);
        let (last, rivals) = (bounds.electors - 1, bounds.rivals);
        let alike =
            |peer: usize| peer >= rivals && !(bounds.change != Change::None && peer == last) && !bounds.is_pair();
        let mut voters: Vec<u64> =
            (0..bounds.electors).filter(|peer| alike(*peer)).map(|peer| self.voter_signature(peer, bounds)).collect();
        voters.sort_unstable();
        voters.hash(&mut out);
        let named = |message: &&Message| !alike(message.to()) && message.from().is_none_or(|from| !alike(from));
        self.net.iter().filter(named).for_each(|message| message.hash(&mut out));
        for peer in (0..bounds.electors).filter(|peer| !alike(*peer)) {
            let this = &self.peers[peer];
            (this.up, this.boot, &this.voter, this.done, this.number, this.rounds, this.beats_sent, this.decided)
                .hash(&mut out);
            this.shown.hash(&mut out);
            (this.beats.sequence, &this.beats.sent).hash(&mut out);
            let claim = this.claim.as_ref().map(|(candidacy, sending)| {
                let time = (candidacy.is_fresh(self.clock()), candidacy.confirms(self.clock()));
                (candidacy.ballot(), candidacy.behind(), candidacy.electorate(), time, *sending)
            });
            claim.hash(&mut out);
            for other in (0..bounds.electors).filter(|other| !alike(*other)) {
                self.word_of(other, peer).hash(&mut out);
            }
        }
        for sent in &self.sent {
            (sent.peer, sent.boot, sent.candidacy.ballot(), sent.electorate, sent.lease, sent.kept, sent.clean)
                .hash(&mut out);
        }
        out.finish()
    }

    /// What a voter is to a rival: its word, and when it last heard; then, and for what was sent.
    fn word_of(&self, voter: usize, rival: usize) -> (Option<Word>, Option<Monotonic>, Vec<Word>) {
        let this = &self.peers[rival];
        let word = |candidacy: &Candidacy| Word {
            answer: candidacy.answer_of(id(voter)),
            is_void: candidacy.is_void(id(voter)),
            is_confirmed: candidacy.confirms_word_of(id(voter)),
        };
        let sent = self.sent.iter().filter(|sent| sent.peer == rival).map(|sent| word(&sent.candidacy)).collect();
        (this.claim.as_ref().map(|(candidacy, _)| word(candidacy)), this.beats.heard.get(&id(voter)).copied(), sent)
    }

    fn voter_signature(&self, peer: usize, bounds: Bounds) -> u64 {
        let mut out = DefaultHasher::new();
        let this = &self.peers[peer];
        (this.up, this.boot, this.done, this.number, this.decided, &this.shown).hash(&mut out);
        (&this.voter.votes, &this.voter.heard, this.voter.started).hash(&mut out);
        for message in &self.net {
            let anonymous = match *message {
                Message::Answer { from, to, boot, ballot, verdict, done } if from == peer => {
                    Message::Answer { from: 99, to, boot, ballot, verdict, done }
                }
                Message::Heard { from, to, boot, sequence } if from == peer => {
                    Message::Heard { from: 99, to, boot, sequence }
                }
                Message::Intent { from, to, boot, ballot, number } if to == peer => {
                    Message::Intent { from, to: 99, boot, ballot, number }
                }
                Message::Release { to, ballot } if to == peer => Message::Release { to: 99, ballot },
                Message::Beat { from, to, boot, sequence } if to == peer => {
                    Message::Beat { from, to: 99, boot, sequence }
                }
                Message::Done { to, ballot } if to == peer => Message::Done { to: 99, ballot },
                _ => continue,
            };
            anonymous.hash(&mut out);
        }
        for rival in 0..bounds.rivals {
            self.word_of(peer, rival).hash(&mut out);
        }
        out.finish()
    }
}
