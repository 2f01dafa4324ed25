//! The blocks of a data directory: which are open, which are set aside, which go.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::block::meta::BlockMeta;
use crate::block::ulid::Ulid;
use crate::block::writer::TEMPORARY_SUFFIX;
use crate::block::{Block, BlockError};
use crate::fs::Fs;

/// The end of the name of a block that is being removed.
const DELETION_SUFFIX: &str = ".tmp-for-deletion";
/// The end of the name of a block that is damaged: kept for people, not read.
const ASIDE_SUFFIX: &str = ".set-aside";

/// Opens the blocks of a folder for a tool: nothing is changed, no lock is taken, so a running process is not disturbed.
///
/// # Errors
/// As [`Blocks::open`].
pub fn open_blocks_read_only(fs: Arc<dyn Fs>, dir: &Path) -> Result<(Vec<Arc<Block>>, Vec<SetAside>), BlockError> {
    let (blocks, aside) = Blocks::open(fs, dir, true)?;
    Ok((blocks.list(), aside))
}

/// The open blocks, by their first instant.
#[derive(Debug)]
pub struct Blocks {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    open: RwLock<Vec<Arc<Block>>>,
}

/// A block that does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Its folder's name.
    pub name: String,
    /// The first instant it may have held and the first after it, in ms, where that can still be read.
    pub span: Option<(i64, i64)>,
    /// Why.
    pub why: String,
}

impl Blocks {
    /// Opens all blocks of a folder; finishes what a crash interrupted; sets damaged ones aside.
    ///
    /// # Errors
    /// When the folder cannot be read, or a block's files cannot for a reason that is not damage.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, read_only: bool) -> Result<(Blocks, Vec<SetAside>), BlockError> {
        let disk = |source| BlockError::Disk { path: dir.to_owned(), source };
        let (mut blocks, mut aside) = (Vec::new(), Vec::new());
        for entry in fs.list(dir).map_err(disk)?.into_iter().filter(|entry| entry.is_dir) {
            let path = dir.join(&entry.name);
            let unfinished = [TEMPORARY_SUFFIX, DELETION_SUFFIX, ".tmp"].iter().any(|end| entry.name.ends_with(end));
            if unfinished && !read_only {
                fs.remove_dir_all(&path).map_err(|source| BlockError::Disk { path, source })?;
                continue;
            }
            if entry.name.parse::<Ulid>().is_err() {
                continue;
            }
            match Block::open(&*fs, &path) {
                Ok(block) => blocks.push(Arc::new(block)),
                Err(error) if !is_damage(&error) => return Err(error),
                Err(error) => {
                    let meta = fs.map(&path.join("meta.json")).ok().and_then(|bytes| BlockMeta::parse(&bytes).ok());
                    let span = meta.map(|meta| (meta.min_time, meta.max_time));
                    if !read_only {
                        let away = dir.join(format!("{}{ASIDE_SUFFIX}", entry.name));
                        fs.rename(&path, &away).map_err(|source| BlockError::Disk { path: away, source })?;
                    }
                    aside.push(SetAside { name: entry.name, span, why: error.to_string() });
                }
            }
        }
        let all = Blocks { fs, dir: dir.to_owned(), open: RwLock::new(blocks) };
        all.sort();
        // A crash came between a merged block and the removal of what it was merged from.
        let merged: BTreeSet<Ulid> = all.list().iter().flat_map(|block| parents(block)).collect();
        if read_only {
            all.open.write().retain(|block| !merged.contains(&block.meta().ulid));
        } else {
            all.remove(|block| merged.contains(&block.meta().ulid)).map_err(disk)?;
        }
        Ok((all, aside))
    }

    fn sort(&self) {
        self.open.write().sort_by_key(|block| (block.meta().min_time, block.meta().max_time, block.meta().ulid));
    }

    /// All blocks, by their first instant.
    pub fn list(&self) -> Vec<Arc<Block>> {
        self.open.read().clone()
    }

    /// The blocks that may have samples in `start ..= end`, by their first instant.
    pub fn overlapping(&self, start: i64, end: i64) -> Vec<Arc<Block>> {
        self.open.read().iter().filter(|block| block.overlaps(start, end)).cloned().collect()
    }

    /// Opens a block that was just made, in place of those it was merged from.
    ///
    /// # Errors
    /// When it does not open; the others are still there.
    pub fn add(&self, ulid: Ulid) -> Result<Arc<Block>, BlockError> {
        let block = Arc::new(Block::open(&*self.fs, &crate::block::writer::block_dir(&self.dir, ulid))?);
        let replaced: BTreeSet<Ulid> = parents(&block).collect();
        {
            let mut open = self.open.write();
            open.retain(|other| !replaced.contains(&other.meta().ulid));
            open.push(Arc::clone(&block));
        }
        self.sort();
        Ok(block)
    }

    /// Removes blocks, from the list first and then from the disk; answers how many. Queries that read one go on.
    ///
    /// # Errors
    /// When the disk refuses; the next start tries again.
    pub fn remove(&self, goes: impl Fn(&Block) -> bool) -> io::Result<usize> {
        let gone: Vec<Arc<Block>> = {
            let mut open = self.open.write();
            let gone = open.iter().filter(|block| goes(block)).cloned().collect();
            open.retain(|block| !goes(block));
            gone
        };
        for block in &gone {
            self.remove_dir(block.meta().ulid)?;
        }
        Ok(gone.len())
    }

    /// Removes a block's folder, which is no longer read.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_dir(&self, ulid: Ulid) -> io::Result<()> {
        let from = self.dir.join(ulid.to_string());
        let to = self.dir.join(format!("{ulid}{DELETION_SUFFIX}"));
        self.fs.rename(&from, &to)?;
        self.fs.sync_dir(&self.dir)?;
        self.fs.remove_dir_all(&to)
    }

    /// The bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.open.read().iter().map(|block| block.bytes()).sum()
    }

    /// The end of the newest block of samples that came in order.
    pub fn max_time(&self) -> Option<i64> {
        self.open.read().iter().filter(|block| !block.meta().is_out_of_order()).map(|block| block.meta().max_time).max()
    }
}

fn parents(block: &Block) -> impl Iterator<Item = Ulid> + '_ {
    block.meta().compaction.parents.iter().map(|parent| parent.ulid).filter(|ulid| *ulid != block.meta().ulid)
}

fn is_damage(error: &BlockError) -> bool {
    match error {
        BlockError::Damaged { .. } => true,
        BlockError::Disk { source, .. } => source.kind() == io::ErrorKind::NotFound,
    }
}
