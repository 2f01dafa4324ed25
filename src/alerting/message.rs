//! What peers tell one another about alerts, and what lies on disk. Both are lists of parts in frames; a part's form
//! never changes, a new form is a new frame kind.

use std::collections::BTreeSet;

use promesh_model::codec::{self, BULK_BYTES_MAX, DecodeError};
use promesh_model::{PeerId, Timestamp, frame};
use serde::{Deserialize, Serialize};

use crate::alert::{AlertKey, AlertValue, PostedAlert};
use crate::claims::{Session, Vote};
use crate::electorate::Electorate;
use crate::nflog::{Ballot, Done, KeyId};
use crate::silence::{SilenceId, SilenceValue};

/// The frame kind of messages between peers.
pub const MESSAGE_KIND: u8 = 0x41;
/// The frame kind of messages between peers that may say what those of [`MESSAGE_KIND`] cannot.
pub const LATER_MESSAGE_KIND: u8 = 0x5a;
/// The frame kind of records on disk.
pub const RECORD_KIND: u8 = 0x42;
/// How many parts go into one message.
pub const PARTS_MAX: usize = 500;

/// A message from one peer's alerting to another's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertMessage {
    /// In order.
    pub parts: Vec<Part>,
}

/// Which of the three maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MapName {
    /// Alerts; on electors.
    Alerts,
    /// Silences; everywhere.
    Silences,
    /// The notification log; on electors.
    Log,
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// "I live": from elector to elector and to those that may become one, every 500 ms.
    Beat {
        /// Which life of mine.
        boot: u64,
        /// Counts my beats.
        sequence: u64,
        /// The electorate as I know it.
        electorate: Option<Electorate>,
        /// Sums over my maps: alerts, silences, log.
        roots: [u64; 3],
    },
    /// "I heard your beat."
    BeatHeard {
        /// Of the beat.
        boot: u64,
        /// Of the beat.
        sequence: u64,
        /// Whether I have compared all ranges with you since I started.
        caught_up: bool,
    },
    /// An alert.
    Alert(AlertKey, AlertValue),
    /// A silence.
    Silence(SilenceId, SilenceValue),
    /// A notification that was sent.
    Done(KeyId, Done),
    /// Alerts that somebody posted to a peer outside the electorate.
    Forward(Vec<PostedAlert>),
    /// Acknowledge once everything before in this message is durable.
    AckWanted(u64),
    /// It is.
    Acked(u64),
    /// Sums of a map's ranges: send me what differs; and yours, if you have not.
    Sums {
        /// Of which map.
        map: MapName,
        /// One for each range.
        sums: Vec<u128>,
        /// Whether this answers another's sums.
        answer: bool,
    },
    /// "You have all that differed in this map."
    Compared(MapName),
    /// "I want to send this notification."
    Intent(Intent),
    /// The answer.
    Answer(Answer),
    /// "I do not send it after all."
    Release(KeyId, Ballot),
    /// The electorate, to those who do not know it.
    Electorate(Electorate),
    /// Paxos, first phase: "let me decide the electorate of this number".
    Prepare {
        /// The number to decide.
        number: u64,
        /// The proposal's.
        ballot: Ballot,
    },
    /// "I will hear no lesser ballot", with what I accepted before.
    Promise {
        /// The number to decide.
        number: u64,
        /// The ballot promised; greater than asked when that was refused.
        ballot: Ballot,
        /// What I accepted.
        accepted: Option<(Ballot, Vec<PeerId>)>,
    },
    /// Paxos, second phase.
    Accept {
        /// The number to decide.
        number: u64,
        /// The proposal's.
        ballot: Ballot,
        /// The members proposed.
        members: Vec<PeerId>,
    },
    /// "I have."
    Accepted {
        /// The number decided.
        number: u64,
        /// The ballot accepted; greater than asked when that was refused.
        ballot: Ballot,
    },
    /// As [`Part::Forward`], with the instant at which a rule was evaluated, for each alert. Only in frames of
    /// [`LATER_MESSAGE_KIND`].
    ForwardEvaluated(Vec<(PostedAlert, Option<Timestamp>)>),
}

impl Part {
    /// Whether peers that know no other frames than those of [`MESSAGE_KIND`] cannot read it.
    pub fn is_later(&self) -> bool {
        matches!(self, Part::ForwardEvaluated(_))
    }
}

/// A wish to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What.
    pub key: KeyId,
    /// By which ballot.
    pub ballot: Ballot,
    /// Whose life answers for it.
    pub session: Session,
    /// The instant it is due.
    pub flush: Timestamp,
    /// Alerts to tell as firing.
    pub firing: BTreeSet<u64>,
    /// Alerts to tell as resolved.
    pub resolved: BTreeSet<u64>,
    /// The electorate that is asked; a provisional one has the number of the one it stands for.
    pub electorate: u64,
}

/// What a voter says to an intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What about.
    pub key: KeyId,
    /// The intent's.
    pub ballot: Ballot,
    /// Whether it is accepted.
    pub verdict: Verdict,
    /// The newest that I know to be sent.
    pub done: Option<Done>,
}

/// A voter's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Go ahead, once a majority says so.
    Accepted,
    /// Another live session has an open intent.
    Busy,
    /// I have accepted this greater number.
    Behind(u64),
    /// I know a later electorate.
    OldElectorate,
}

/// What lies on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DiskRecord {
    /// An alert, to be joined.
    Alert(AlertKey, AlertValue),
    /// A silence, to be joined.
    Silence(SilenceId, SilenceValue),
    /// A notification that was sent, to be joined.
    Done(KeyId, Done),
    /// What this peer accepted as a voter; the last stands.
    Vote(KeyId, Vote),
    /// The electorate; the last stands.
    Electorate(Electorate),
    /// What this peer promised and accepted about the next electorate; the last stands.
    Paxos {
        /// The number to decide.
        number: u64,
        /// No lesser ballot is heard.
        promised: Ballot,
        /// What was accepted.
        accepted: Option<(Ballot, Vec<PeerId>)>,
    },
}

/// Bytes that are no message or record of ours.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The frame is wrong.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    /// Its content is wrong.
    #[error(transparent)]
    Content(#[from] DecodeError),
    /// A frame of something else.
    #[error("frame kind {0:#04x} is no alerting message")]
    Kind(u8),
}

impl AlertMessage {
    /// As a frame.
    pub fn encode(&self) -> Vec<u8> {
        let is_later = self.parts.iter().any(Part::is_later);
        framed(if is_later { LATER_MESSAGE_KIND } else { MESSAGE_KIND }, &codec::encode(self))
    }

    /// From a frame.
    ///
    /// # Errors
    /// As [`MessageError`] says.
    pub fn decode(bytes: &[u8]) -> Result<AlertMessage, MessageError> {
        let payload = payload(MESSAGE_KIND, bytes).or_else(|_| payload(LATER_MESSAGE_KIND, bytes))?;
        Ok(codec::decode::<_, BULK_BYTES_MAX>(payload)?)
    }
}

/// Records as one frame.
pub fn encode_records(records: &[DiskRecord]) -> Vec<u8> {
    framed(RECORD_KIND, &codec::encode(records))
}

/// Records of one frame.
///
/// # Errors
/// As [`MessageError`] says.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<DiskRecord>, MessageError> {
    Ok(codec::decode::<_, BULK_BYTES_MAX>(payload(RECORD_KIND, bytes)?)?)
}

fn framed(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + frame::HEADER_BYTES);
    frame::write(&mut out, kind, content);
    out
}

fn payload(kind: u8, bytes: &[u8]) -> Result<&[u8], MessageError> {
    let (frame, used) = frame::read(bytes, BULK_BYTES_MAX)?;
    if used != bytes.len() {
        return Err(MessageError::Content(DecodeError::TrailingBytes(bytes.len() - used)));
    }
    if frame.kind == kind { Ok(frame.payload) } else { Err(MessageError::Kind(frame.kind)) }
}

#[cfg(test)]
mod tests {
    use promesh_model::Labels;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn bytes_are_golden_and_decode() {
        let ballot = Ballot { number: 3, peer: PeerId(7) };
        let electorate = Electorate { number: 2, members: vec![PeerId(1), PeerId(7)] };
        let intent = Intent {
            key: KeyId(9),
            ballot,
            session: Session { peer: PeerId(7), boot: 5 },
            flush: Timestamp(1000),
            firing: [1, 2].into(),
            resolved: BTreeSet::new(),
            electorate: 2,
        };
        let message = AlertMessage {
            parts: vec![
                Part::Beat { boot: 5, sequence: 1, electorate: Some(electorate.clone()), roots: [1, 2, 3] },
                Part::BeatHeard { boot: 5, sequence: 1, caught_up: true },
                Part::Intent(intent),
                Part::Answer(Answer { key: KeyId(9), ballot, verdict: Verdict::Behind(4), done: None }),
                Part::Release(KeyId(9), ballot),
                Part::AckWanted(1),
                Part::Prepare { number: 3, ballot },
                Part::Promise { number: 3, ballot, accepted: Some((ballot, vec![PeerId(1)])) },
            ],
        };
        let bytes = message.encode();
        expect_test::expect!["706d014138000000e98efca7080005010102020107010203010501010a0903070705fbd00702010200020b0903070204000c09030706010e0303070f0303070103070101"].assert_eq(&hex(&bytes));
        assert_eq!(AlertMessage::decode(&bytes).expect("own bytes"), message);
        let alert = PostedAlert { labels: Labels::from_pairs([("a", "b")]), own_rule: true, ..PostedAlert::default() };
        let later = AlertMessage { parts: vec![Part::ForwardEvaluated(vec![(alert, Some(Timestamp(7)))])] };
        let later_bytes = later.encode();
        expect_test::expect!["706d015a0f0000004b89300301120104016101620000000001010e"].assert_eq(&hex(&later_bytes));
        assert_eq!(AlertMessage::decode(&later_bytes).expect("own bytes"), later);
        let records =
            vec![DiskRecord::Electorate(electorate), DiskRecord::Paxos { number: 3, promised: ballot, accepted: None }];
        let bytes = encode_records(&records);
        expect_test::expect!["706d01420b000000f28941150204020201070503030700"].assert_eq(&hex(&bytes));
        assert_eq!(decode_records(&bytes).expect("own bytes"), records);
        assert!(AlertMessage::decode(&bytes).is_err());
        for length in 0..bytes.len() {
            assert!(decode_records(&bytes[..length]).is_err());
        }
    }
}
