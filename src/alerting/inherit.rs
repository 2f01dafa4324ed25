//! What an Alertmanager left behind: its `nflog` and `silences` files as records of ours, so that whoever is switched over
//! is not paged again, and stays silenced.
//!
//! Both files are protobuf messages one after another, each behind its length. Entries of the log name alerts by the XXH64
//! of their labels, and nothing else of them is there: such a [`Done`] keeps these hashes, and [`Done::hash`] gives those
//! of our alerts to compare with, until the first telling of ours takes its place.
//!
//! The same file read twice, or by every peer, gives the same records: versions follow from the instants in it.
//!
//! Source: alertmanager nflog/nflogpb/nflog.proto, silence/silencepb/silence.proto, notify/notify.go `hashAlert` (0.33).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use promesh_config::alertmanager::{MatcherMode, Matchers};
use promesh_model::{Labels, MatchOp, Matcher, Timestamp};
use prost::Message;
use xxhash_rust::xxh64::xxh64;

use crate::message::DiskRecord;
use crate::nflog::{Done, INHERITED, LogKey};
use crate::records::{Register, Version, WrittenBy};
use crate::route::RouteTree;
use crate::silence::{SilenceBody, SilenceId, SilenceValue};

/// The longest message of a file that is read.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a file gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inherited {
    /// To be made durable and joined.
    pub records: Vec<DiskRecord>,
    /// What was left out, each with its reason. Entries past their retention are not worth a word.
    pub left_out: Vec<String>,
}

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InheritError {
    /// Not protobuf, or cut off.
    #[error("message {number}, at byte {at}: {why}")]
    Unreadable {
        /// Which message, from one.
        number: usize,
        /// Where it begins.
        at: usize,
        /// What is wrong.
        why: String,
    },
}

/// The log of notifications. The routes say which of a key's twins there are: upstream keeps one entry for all of them.
///
/// # Errors
/// When it is no such file; nothing of it is to be used then.
pub fn notification_log(file: &[u8], tree: &RouteTree, now: Timestamp) -> Result<Inherited, InheritError> {
    let mut inherited = Inherited::default();
    for entry in messages::<MeshEntry>(file)? {
        let (Some(told), Some(expires_at)) = (entry.entry, entry.expires_at) else {
            inherited.left_out.push("an entry of the log that says nothing".to_owned());
            continue;
        };
        let (Some(receiver), Some(at)) = (told.receiver, told.timestamp) else {
            inherited.left_out.push("an entry of the log without receiver or time".to_owned());
            continue;
        };
        if expires_at.ms() <= now {
            continue;
        }
        let Ok(group_key) = String::from_utf8(told.group_key) else {
            inherited
                .left_out
                .push(format!("an entry of receiver {:?}: its group key is not UTF-8", receiver.group_name));
            continue;
        };
        let twins = tree.twins(&group_key, &receiver.group_name);
        let done = Done {
            key: LogKey {
                group_key,
                receiver: receiver.group_name,
                integration: receiver.integration,
                index: receiver.idx,
                twin: 0,
            },
            flush: at.ms(),
            ballot: INHERITED,
            at: at.ms(),
            firing: told.firing_alerts.into_iter().collect(),
            resolved: told.resolved_alerts.into_iter().collect(),
            data: told.receiver_data.into_iter().filter_map(|(name, value)| Some((name, value.shown()?))).collect(),
        };
        for twin in 0..twins.max(1) {
            let done = Done { key: LogKey { twin, ..done.key.clone() }, ..done.clone() };
            inherited.records.push(DiskRecord::Done(done.key.id(), done));
        }
    }
    Ok(inherited)
}

/// Silences, with their ids.
///
/// # Errors
/// When it is no such file; nothing of it is to be used then.
pub fn silences(file: &[u8], now: Timestamp) -> Result<Inherited, InheritError> {
    let mut inherited = Inherited::default();
    for entry in messages::<MeshSilence>(file)? {
        let Some(silence) = entry.silence else { continue };
        if entry.expires_at.is_some_and(|at| at.ms() <= now) {
            continue;
        }
        let name = silence.id.clone();
        match silence.record() {
            Ok((id, value)) => inherited.records.push(DiskRecord::Silence(id, value)),
            Err(why) => inherited.left_out.push(format!("silence {name:?}: {why}")),
        }
    }
    Ok(inherited)
}

/// How many bytes an Alertmanager's record of a silence has, which its limit is about.
pub fn silence_bytes(id: SilenceId, body: &SilenceBody, retention: Duration) -> usize {
    let instant = |at: Timestamp| {
        let nanos = at.ms().rem_euclid(1000) as i32 * 1_000_000;
        Some(Instant { seconds: at.ms().div_euclid(1000), nanos })
    };
    let matcher = |matcher: &Matcher| SilenceMatcher {
        r#type: match matcher.op {
            MatchOp::Equal => 0,
            MatchOp::Regex => 1,
            MatchOp::NotEqual => 2,
            MatchOp::NotRegex => 3,
        },
        name: matcher.name.clone(),
        pattern: matcher.value.clone(),
    };
    let sets = body.matcher_sets.iter().map(|set| MatcherSet { matchers: set.iter().map(matcher).collect() });
    let silence = Silence {
        id: id.to_string(),
        starts_at: instant(body.starts_at),
        ends_at: instant(body.ends_at),
        updated_at: instant(body.updated_at),
        created_by: body.created_by.clone(),
        comment: body.comment.clone(),
        annotations: body.annotations.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        matcher_sets: sets.collect(),
        ..Silence::default()
    };
    let entry = MeshSilence { silence: Some(silence), expires_at: instant(body.ends_at.after(retention)) };
    entry.encoded_len()
}

/// What an Alertmanager's log calls an alert.
pub fn hash(labels: &Labels) -> u64 {
    let mut bytes = Vec::new();
    for (name, value) in labels.iter() {
        for part in [name, value] {
            bytes.extend_from_slice(part.as_bytes());
            bytes.push(0xff);
        }
    }
    xxh64(&bytes, 0)
}

fn messages<M: Message + Default>(file: &[u8]) -> Result<Vec<M>, InheritError> {
    let (mut rest, mut found) = (file, Vec::new());
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        let bad = |why: String| InheritError::Unreadable { number: found.len() + 1, at, why };
        let length = prost::decode_length_delimiter(&mut rest).map_err(|error| bad(error.to_string()))?;
        if length > MESSAGE_BYTES_MAX || length > rest.len() {
            return Err(bad(format!("it should have {length} bytes, {} are left", rest.len())));
        }
        let (message, after) = rest.split_at(length);
        found.push(M::decode(message).map_err(|error| bad(error.to_string()))?);
        rest = after;
    }
    Ok(found)
}

#[derive(Clone, PartialEq, Message)]
struct Instant {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Instant {
    fn ms(&self) -> Timestamp {
        Timestamp(self.seconds.saturating_mul(1000).saturating_add(i64::from(self.nanos) / 1_000_000))
    }
}

#[derive(Clone, PartialEq, Message)]
struct MeshEntry {
    #[prost(message, optional, tag = "1")]
    entry: Option<Entry>,
    #[prost(message, optional, tag = "2")]
    expires_at: Option<Instant>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    group_key: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    receiver: Option<EntryReceiver>,
    #[prost(message, optional, tag = "5")]
    timestamp: Option<Instant>,
    #[prost(uint64, repeated, tag = "6")]
    firing_alerts: Vec<u64>,
    #[prost(uint64, repeated, tag = "7")]
    resolved_alerts: Vec<u64>,
    #[prost(map = "string, message", tag = "8")]
    receiver_data: HashMap<String, DataValue>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryReceiver {
    #[prost(string, tag = "1")]
    group_name: String,
    #[prost(string, tag = "2")]
    integration: String,
    #[prost(uint32, tag = "3")]
    idx: u32,
}

/// One of three; the last on the wire stands, and there is only one.
#[derive(Clone, PartialEq, Message)]
struct DataValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(int64, optional, tag = "2")]
    integer: Option<i64>,
    #[prost(double, optional, tag = "3")]
    float: Option<f64>,
}

impl DataValue {
    fn shown(self) -> Option<String> {
        self.text.or(self.integer.map(|n| n.to_string())).or(self.float.map(|n| n.to_string()))
    }
}

#[derive(Clone, PartialEq, Message)]
struct MeshSilence {
    #[prost(message, optional, tag = "1")]
    silence: Option<Silence>,
    #[prost(message, optional, tag = "2")]
    expires_at: Option<Instant>,
}

#[derive(Clone, PartialEq, Message)]
struct Silence {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, repeated, tag = "2")]
    matchers: Vec<SilenceMatcher>,
    #[prost(message, optional, tag = "3")]
    starts_at: Option<Instant>,
    #[prost(message, optional, tag = "4")]
    ends_at: Option<Instant>,
    #[prost(message, optional, tag = "5")]
    updated_at: Option<Instant>,
    /// Of versions before 0.6.
    #[prost(message, repeated, tag = "7")]
    comments: Vec<Comment>,
    #[prost(string, tag = "8")]
    created_by: String,
    #[prost(string, tag = "9")]
    comment: String,
    #[prost(btree_map = "string, string", tag = "10")]
    annotations: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "11")]
    matcher_sets: Vec<MatcherSet>,
    #[prost(message, repeated, tag = "12")]
    receiver_matcher_sets: Vec<MatcherSet>,
}

#[derive(Clone, PartialEq, Message)]
struct Comment {
    #[prost(string, tag = "1")]
    author: String,
    #[prost(string, tag = "2")]
    comment: String,
}

#[derive(Clone, PartialEq, Message)]
struct MatcherSet {
    #[prost(message, repeated, tag = "1")]
    matchers: Vec<SilenceMatcher>,
}

#[derive(Clone, PartialEq, Message)]
struct SilenceMatcher {
    #[prost(int32, tag = "1")]
    r#type: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    pattern: String,
}

impl SilenceMatcher {
    fn matcher(&self) -> Result<Matcher, String> {
        let op = match self.r#type {
            0 => MatchOp::Equal,
            1 => MatchOp::Regex,
            2 => MatchOp::NotEqual,
            3 => MatchOp::NotRegex,
            other => return Err(format!("a matcher of unknown type {other}")),
        };
        Matcher::within_lines(op, &*self.name, &*self.pattern).map_err(|error| error.to_string())
    }
}

impl Silence {
    fn record(self) -> Result<(SilenceId, SilenceValue), String> {
        let id: SilenceId = self.id.parse().map_err(|_| "its id is no UUID".to_owned())?;
        // It would silence more than it should.
        if !self.receiver_matcher_sets.is_empty() {
            return Err("it speaks of some receivers only, and that is not built".to_owned());
        }
        let sets =
            if self.matcher_sets.is_empty() { vec![MatcherSet { matchers: self.matchers }] } else { self.matcher_sets };
        let read = |set: &MatcherSet| -> Result<Vec<Matcher>, String> {
            Ok(Matchers::sorted(set.matchers.iter().map(SilenceMatcher::matcher).collect::<Result<_, _>>()?).0)
        };
        let (Some(starts_at), Some(ends_at)) = (self.starts_at, self.ends_at) else {
            return Err("it has no beginning or no end".to_owned());
        };
        let updated_at = self.updated_at.map_or(Timestamp(0), |at| at.ms());
        let old = self.comments.into_iter().next().unwrap_or_default();
        let or_old = |new: String, old: String| if new.is_empty() { old } else { new };
        let body = SilenceBody {
            matcher_sets: sets.iter().map(read).collect::<Result<_, _>>()?,
            starts_at: starts_at.ms(),
            ends_at: ends_at.ms(),
            updated_at,
            created_by: or_old(self.created_by, old.author),
            comment: or_old(self.comment, old.comment),
            annotations: self.annotations.iter().collect(),
        };
        // UTF-8 names were good when it was written, whatever the mode is now.
        body.check(MatcherMode::default()).map_err(|error| error.to_string())?;
        // Of the same silence in the files of several peers the one that was written last stands.
        let counter = u64::try_from(updated_at.0).unwrap_or(0).max(1);
        let version = Version { counter, peer: WrittenBy::default() };
        Ok((id, SilenceValue { body: Register { version, value: body }, expired_at: None }))
    }
}
