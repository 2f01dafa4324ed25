//! Pushed groups on every peer: written down before they are acknowledged, told to all, scraped once in the mesh.
//!
//! A push is a word about its group ([`Group`]); words merge in any order. Who took a push writes its word to a file, tells
//! all living peers and acknowledges once one of them has written it too. Whoever comes later is told everything. All groups
//! together are one target of a built-in job, so that one peer at a time exposes them, and another goes on when it dies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use promesh_api::gateway::{Gateway, GatewayError};
use promesh_gateway::{Family, Group, Groups};
use promesh_model::{Generation, Labels, PeerId, Timestamp};

use crate::asking::{Did, Question};
use crate::clock;
use crate::lines::Lines;
use crate::peer::Peer;
use crate::scraping::Scraping;

/// The built-in job that scrapes the groups.
pub const JOB: &str = "pushgateway";
/// How often it is looked who has to be told.
const TELL_PERIOD: Duration = Duration::from_secs(1);
/// A word this long does not fit a message between peers with all around it.
const WORD_BYTES_MAX: usize = 12 << 20;
/// What goes into one message when all is told.
const PIECE_BYTES: usize = 1 << 20;
/// The file is written anew when it has so many lines more than twice the groups.
const SPARE_LINES: usize = 1_000;

/// What changes a group, and why it is not what was asked for, if it is not.
type Word = (Group, Option<String>);

/// The groups, here and in a file.
pub struct PushGroups {
    state: Mutex<State>,
}

struct State {
    groups: Groups,
    lines: Lines,
    /// Whether some peer may not have heard all.
    untold: bool,
}

impl PushGroups {
    /// Reads the file below `records/` of the data directory.
    ///
    /// # Errors
    /// When it cannot be read or is not what was written.
    pub fn open(data: &Path) -> io::Result<PushGroups> {
        let (lines, words) = Lines::open::<Group>(data.join("records").join("push_groups.jsonl"))?;
        let mut groups = Groups::default();
        groups.merge(words);
        Ok(PushGroups { state: Mutex::new(State { groups, lines, untold: false }) })
    }

    /// The same, as what the built-in job scrapes.
    ///
    /// # Errors
    /// As [`PushGroups::open`].
    pub fn scraped(data: &Path, scraping: &Scraping) -> io::Result<Arc<PushGroups>> {
        let groups = Arc::new(PushGroups::open(data)?);
        let exposed = Arc::clone(&groups);
        scraping.provide(JOB, Box::new(move || exposed.read(Groups::exposition).into_bytes()));
        Ok(groups)
    }

    /// Looks at the groups.
    pub fn read<T>(&self, look: impl FnOnce(&Groups) -> T) -> T {
        look(&self.state.lock().groups)
    }

    /// Makes a word of what is known, writes it down and takes it in.
    ///
    /// # Errors
    /// When `word` refuses: what it left behind is written all the same. When it is too long, or the disk refuses.
    fn change(&self, word: impl FnOnce(&Groups) -> Word) -> Result<Group, GatewayError> {
        let mut state = self.state.lock();
        let (word, refused) = word(&state.groups);
        if let Err(error) = state.write(std::slice::from_ref(&word)) {
            return Err(GatewayError::Failed(format!("{}: {error}", state.lines.path().display())));
        }
        refused.map_or(Ok(word), |why| Err(GatewayError::Refused(why)))
    }

    /// Takes in what another peer says; what is known already is not written again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn hear(&self, words: Vec<Group>) -> io::Result<()> {
        let mut state = self.state.lock();
        let known: BTreeMap<&Labels, &Group> = state.groups.all().map(|group| (&group.labels, group)).collect();
        let is_news = |word: &Group| {
            known.get(&word.labels).is_none_or(|known| {
                let mut merged = (*known).clone();
                merged.merge(word.clone());
                merged != **known
            })
        };
        let news: Vec<Group> = words.into_iter().filter(is_news).collect();
        state.write(&news)
    }

    /// Forgets groups deleted before an instant.
    fn forget_before(&self, at: Timestamp) {
        self.state.lock().groups.forget_before(at.ms());
    }

    fn all(&self) -> Vec<Group> {
        self.state.lock().groups.all().cloned().collect()
    }
}

impl State {
    /// Writes words durably, then takes them in. Now and then the whole file is written anew.
    fn write(&mut self, words: &[Group]) -> io::Result<()> {
        if words.is_empty() {
            return Ok(());
        }
        if let Some(length) = words.iter().map(length).find(|length| *length > WORD_BYTES_MAX) {
            return Err(io::Error::other(format!("a push of {length} bytes is too long")));
        }
        if self.lines.count() > 2 * self.groups.len() + SPARE_LINES {
            self.lines.replace(self.groups.all())?;
        }
        self.lines.append(words)?;
        self.groups.merge(words.iter().cloned());
        Ok(())
    }
}

/// How long a word is as text.
fn length(word: &Group) -> usize {
    serde_json::to_vec(word).map_or(usize::MAX, |text| text.len())
}

/// The gateway of a peer, for the API.
pub struct PeerGateway(pub Arc<Peer>);

#[async_trait]
impl Gateway for PeerGateway {
    async fn push(&self, group: Labels, families: BTreeMap<String, Family>, replace: bool) -> Result<(), GatewayError> {
        let me = self.0.id;
        let at = clock::wall().ms();
        self.change(move |groups| match groups.push(&group, families, replace, me, at) {
            Ok(word) => (word, None),
            Err(error) => (groups.failure(&group, me, at), Some(error.to_string())),
        })
        .await
    }

    async fn delete(&self, group: Labels) -> Result<(), GatewayError> {
        let me = self.0.id;
        let at = clock::wall().ms();
        self.change(move |groups| (groups.delete(&group, me, at), None)).await
    }

    fn read(&self, look: &mut dyn FnMut(&Groups)) {
        self.0.push_groups.read(look);
    }
}

impl PeerGateway {
    async fn change(&self, word: impl FnOnce(&Groups) -> Word + Send + 'static) -> Result<(), GatewayError> {
        let peer = Arc::clone(&self.0);
        let changed = tokio::task::spawn_blocking(move || peer.push_groups.change(word)).await;
        let word = changed.map_err(|error| GatewayError::Failed(error.to_string()))??;
        let told = self.0.ask_all::<Did>(&Question::Groups(vec![word])).await;
        let took = |answer: &Result<Vec<Did>, String>| {
            answer.as_ref().is_ok_and(|did| did.iter().all(|did| did.error.is_empty()))
        };
        let copies = told.iter().filter(|(_, answer)| took(answer)).count();
        if copies < told.len() {
            self.0.push_groups.state.lock().untold = true;
        }
        if copies == 0 && !told.is_empty() {
            let why = "no other peer has written it down yet: please push again";
            return Err(GatewayError::Unavailable(why.to_owned()));
        }
        Ok(())
    }
}

impl Peer {
    /// Takes in pushed groups that another peer tells of.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn hear_groups(self: &Arc<Self>, words: Vec<Group>) -> Result<(), String> {
        let peer = Arc::clone(self);
        let heard = tokio::task::spawn_blocking(move || peer.push_groups.hear(words)).await;
        heard.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Tells all groups to whoever is newly there or may have missed some, and forgets those deleted long ago.
    pub async fn follow_groups(self: Arc<Self>) {
        let mut told: BTreeSet<(PeerId, Generation)> = BTreeSet::new();
        loop {
            tokio::time::sleep(TELL_PERIOD).await;
            let retention = promesh_model::time::ms_of(self.retention_time());
            self.push_groups.forget_before(Timestamp(clock::wall().ms().saturating_sub(retention)));
            let view = self.view.borrow().clone();
            let living = view.iter().flat_map(|view| view.peers.iter()).filter(|peer| peer.alive && !peer.silent);
            let present: BTreeSet<(PeerId, Generation)> = living.map(|peer| (peer.id, peer.generation)).collect();
            let untold = std::mem::take(&mut self.push_groups.state.lock().untold);
            if present.is_subset(&told) && !untold {
                continue;
            }
            let mut reached_all = true;
            for piece in pieces(self.push_groups.all()) {
                reached_all &= self.have_all(&Question::Groups(piece)).await.is_ok();
            }
            if reached_all {
                told = present;
            } else {
                self.push_groups.state.lock().untold = true;
            }
        }
    }
}

/// Groups in messages of bounded length, each group whole.
fn pieces(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let mut pieces: Vec<Vec<Group>> = Vec::new();
    let mut bytes = usize::MAX;
    for group in groups {
        let length = length(&group);
        if bytes.saturating_add(length) > PIECE_BYTES {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes = bytes.saturating_add(length);
        pieces.last_mut().expect("one was just begun").push(group);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use promesh_gateway::{Format, grouping_key, read_families};

    use super::*;

    fn pushed(groups: &PushGroups, job: &str, body: &str) {
        let key = grouping_key(&format!("job/{job}")).expect("a key");
        let families = read_families(body.as_bytes(), Format::Text, &key).expect("parses");
        let word = groups.change(|known| (known.push(&key, families, false, PeerId(1), 5_000).expect("taken"), None));
        word.expect("written");
    }

    #[test]
    fn groups_outlive_a_restart_a_torn_end_and_many_pushes() {
        let folder = tempfile::tempdir().expect("a folder");
        let groups = PushGroups::open(folder.path()).expect("opens");
        pushed(&groups, "a", "x 1\n");
        pushed(&groups, "b", "x 2\n");
        let path = folder.path().join("records/push_groups.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("there");
        text.push_str("{\"labels\":{\"jo");
        std::fs::write(&path, text).expect("written");
        let again = PushGroups::open(folder.path()).expect("opens");
        assert_eq!(again.all(), groups.all());
        // What follows a torn end is read again.
        pushed(&again, "c", "x 3\n");
        for number in 0..1_100 {
            pushed(&again, "a", &format!("x {number}\n"));
        }
        let lines = std::fs::read_to_string(&path).expect("there").lines().count();
        assert!(lines < 1_050, "{lines} lines");
        let last = PushGroups::open(folder.path()).expect("opens");
        assert_eq!(last.all(), again.all());
        assert!(last.read(Groups::exposition).contains("x{instance=\"\",job=\"a\"} 1099\n"));
    }

    #[test]
    fn what_is_known_is_not_written_again_and_pieces_have_all() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (here, there) =
            (PushGroups::open(one.path()).expect("opens"), PushGroups::open(two.path()).expect("opens"));
        let body: String = (0..5_000).map(|n| format!("x{{n=\"{n}\"}} {n}\n")).collect();
        for job in 0..5 {
            pushed(&here, &format!("j{job}"), &body);
        }
        let told = pieces(here.all());
        assert!(told.len() > 1, "{} pieces", told.len());
        for piece in told.iter().chain(&told) {
            there.hear(piece.clone()).expect("written");
        }
        assert_eq!(there.all(), here.all());
        let text = std::fs::read_to_string(two.path().join("records/push_groups.jsonl")).expect("there");
        assert_eq!(text.lines().count(), 5);
    }
}
