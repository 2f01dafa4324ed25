//! Who this peer is across its lives: a UUID, a generation that only grows, what it held, whom it knew.

use std::io;
use std::path::{Path, PathBuf};

use promesh_model::{Generation, PeerId, Timestamp};
use promesh_node::{Digests, KeptParts, Piece, Possession, Version};
use serde::{Deserialize, Serialize};

use crate::acquaintances::KnownMember;
use crate::history::KnownBlocks;

/// The folder below the data directory.
const FOLDER: &str = "peer";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    id: Option<String>,
    generation: u64,
}

/// One piece of the configuration, as kept.
#[derive(Debug, Serialize, Deserialize)]
struct StoredVersion {
    piece: Piece,
    digest: Option<String>,
    changed: i64,
}

/// What is kept below the data directory.
#[derive(Clone, Debug)]
pub struct PeerFolder(PathBuf);

impl PeerFolder {
    /// The folder, made if need be.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(data: &Path) -> io::Result<PeerFolder> {
        let folder = data.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        Ok(PeerFolder(folder))
    }

    /// Where the TLS key of this peer lies.
    pub fn key_path(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    /// This peer's UUID, drawn once, and a generation larger than any before; durable when this returns.
    ///
    /// # Errors
    /// When the files cannot be read or written, or hold something else.
    pub fn next_life(&self, now: Timestamp) -> io::Result<(PeerId, Generation)> {
        let path = self.0.join("identity.json");
        let mut stored: Stored = read_json(&path)?.unwrap_or_default();
        let id = match &stored.id {
            Some(text) => text.parse().map_err(|error| invalid(&path, error))?,
            None => PeerId(uuid::Uuid::new_v4().as_u128()),
        };
        stored.id = Some(id.to_string());
        stored.generation = (stored.generation + 1).max(u64::try_from(now.ms()).unwrap_or(0));
        write_json(&path, &stored)?;
        Ok((id, Generation(stored.generation)))
    }

    /// What this peer held when it last said so.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn possession(&self) -> io::Result<Possession> {
        Ok(read_json(&self.0.join("holdings.json"))?.unwrap_or_default())
    }

    /// Keeps what this peer holds, and what others may have that it lacks.
    ///
    /// # Errors
    /// As the system says.
    pub fn keep_possession(&self, possession: &Possession) -> io::Result<()> {
        write_json(&self.0.join("holdings.json"), possession)
    }

    /// Of which windows this peer had late pushes that others did not know of.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn late(&self) -> io::Result<KeptParts> {
        Ok(read_json(&self.0.join("late.json"))?.unwrap_or_default())
    }

    /// Keeps them.
    ///
    /// # Errors
    /// As the system says.
    pub fn keep_late(&self, late: &KeptParts) -> io::Result<()> {
        write_json(&self.0.join("late.json"), late)
    }

    /// The blocks that were here when this peer last ran; none if no build wrote them down.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn blocks(&self) -> io::Result<Option<KnownBlocks>> {
        read_json(&self.0.join("blocks.json"))
    }

    /// Keeps them.
    ///
    /// # Errors
    /// As the system says.
    pub fn keep_blocks(&self, blocks: &KnownBlocks) -> io::Result<()> {
        write_json(&self.0.join("blocks.json"), blocks)
    }

    /// What this peer's configuration said when it last ran, with the dates of its changes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn digests(&self) -> io::Result<Digests> {
        let path = self.0.join("definitions.json");
        let kept: Vec<StoredVersion> = read_json(&path)?.unwrap_or_default();
        let version = |stored: StoredVersion| {
            let digest = stored.digest.map(|text| u128::from_str_radix(&text, 16)).transpose();
            let digest = digest.map_err(|error| invalid(&path, error))?;
            Ok((stored.piece, Version { digest, changed: Timestamp(stored.changed) }))
        };
        Ok(Digests::restored(kept.into_iter().map(version).collect::<io::Result<Vec<_>>>()?))
    }

    /// Keeps them.
    ///
    /// # Errors
    /// As the system says.
    pub fn keep_digests(&self, digests: &Digests) -> io::Result<()> {
        let stored = |(piece, version): (&Piece, &Version)| StoredVersion {
            piece: piece.clone(),
            digest: version.digest.map(|digest| format!("{digest:032x}")),
            changed: version.changed.ms(),
        };
        write_json(&self.0.join("definitions.json"), &digests.versions().map(stored).collect::<Vec<_>>())
    }

    /// Whom this peer knew when it last ran.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn members(&self) -> io::Result<Vec<KnownMember>> {
        Ok(read_json(&self.0.join("members.json"))?.unwrap_or_default())
    }

    /// Keeps them.
    ///
    /// # Errors
    /// As the system says.
    pub fn keep_members(&self, members: &[KnownMember]) -> io::Result<()> {
        write_json(&self.0.join("members.json"), &members)
    }
}

fn invalid(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| invalid(path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Written beside, synced, renamed: a crash leaves the old content or the new.
fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    use std::io::Write as _;
    let beside = path.with_extension("tmp");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_the_generation_grows() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = PeerFolder::open(data.path()).expect("made");
        let (id, first) = folder.next_life(Timestamp(1000)).expect("written");
        // A clock that went back makes no generation again.
        let (again, second) = folder.next_life(Timestamp(5)).expect("written");
        assert_eq!(id, again);
        assert!(second > first && first == Generation(1000));
    }

    #[test]
    fn a_restart_is_no_change_of_the_configuration() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = PeerFolder::open(data.path()).expect("made");
        let job = |name: &str| Piece::Job(name.to_owned());
        let labels = promesh_model::Labels::default;
        let before = Digests::of([(job("a"), 1), (job("b"), 2)], labels(), &Digests::default(), Timestamp(5));
        let present = Digests::of([(job("a"), 1)], labels(), &before, Timestamp(7));
        folder.keep_digests(&present).expect("written");
        let restored = folder.digests().expect("read");
        assert_eq!(Digests::of([(job("a"), 1)], labels(), &restored, Timestamp(99)), present);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = PeerFolder::open(data.path()).expect("made");
        std::fs::write(data.path().join("peer/identity.json"), "{").expect("written");
        let error = folder.next_life(Timestamp(0)).expect_err("half a file");
        assert!(error.to_string().contains("identity.json"), "{error}");
    }
}
