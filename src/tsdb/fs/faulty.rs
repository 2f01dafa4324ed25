//! A file system in memory that fails as disks do: it loses what was not synced, tears writes, fills up, answers EIO.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirEntry, DiskSpace, FileBytes, FileWriter, Fs, SyncHandle};

/// A file system in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultyFs(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a process sees.
    live: Names,
    /// What a power cut leaves: names as of the last `sync_dir` of their folder, contents as of the last `sync`.
    durable: Names,
    faults: Faults,
    locks: BTreeSet<PathBuf>,
    /// Counts every operation that changes something.
    operations: u64,
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Bytes that a failed sync could not write. They are read back as written, and a later sync, which finds nothing
    /// left to do, does not make them durable: that is how Linux behaves.
    forgotten: Vec<Range<usize>>,
}

#[derive(Debug, Default)]
struct Faults {
    bytes_free: Option<u64>,
    fail_at: Option<(u64, Fault)>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation answers EIO once.
    Io,
    /// The write is cut in half, then EIO; every operation after it fails too, as for a process that is gone.
    Crash,
}

impl FaultyFs {
    /// An empty file system.
    pub fn new() -> FaultyFs {
        FaultyFs::default()
    }

    /// The power goes: unsynced bytes and names are lost, except that each file keeps a part of its unsynced tail, as
    /// `keep` says (given the length of the tail, how much of it survives). All locks are free.
    pub fn crash(&self, mut keep: impl FnMut(usize) -> usize) {
        let mut state = self.0.lock();
        let mut files = BTreeMap::new();
        for (path, content) in &state.durable.files {
            let content = content.lock();
            let mut bytes = content.synced.clone();
            if let Some(tail) = content.bytes.strip_prefix(content.synced.as_slice()) {
                bytes.extend_from_slice(&tail[..keep(tail.len()).min(tail.len())]);
            }
            files.insert(
                path.clone(),
                Arc::new(Mutex::new(Content { synced: bytes.clone(), bytes, forgotten: Vec::new() })),
            );
        }
        state.live = Names { files, dirs: state.durable.dirs.clone() };
        state.durable = state.live.clone();
        state.faults = Faults::default();
        state.locks.clear();
    }

    /// Only so many more bytes can be written; `None` for no limit.
    pub fn set_bytes_free(&self, bytes: Option<u64>) {
        self.0.lock().faults.bytes_free = bytes;
    }

    /// Plans a fault for the so-manieth changing operation from now.
    pub fn fail_after(&self, operations: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.faults.fail_at = Some((state.operations + operations, fault));
    }

    /// Plans no fault any more.
    pub fn heal(&self) {
        self.0.lock().faults = Faults::default();
    }

    /// How many changing operations there were.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Changes a file's bytes behind everybody's back.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = self.0.lock().live.files.get(path) {
            let mut content = content.lock();
            change(&mut content.bytes);
            content.synced = content.bytes.clone();
            content.forgotten.clear();
        }
    }

    /// The paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.lock().live.files.keys().cloned().collect()
    }
}

impl State {
    fn change(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.faults.fail_at {
            Some((at, Fault::Io)) if self.operations == at => Err(io::Error::other("injected EIO")),
            Some((at, Fault::Crash)) if self.operations >= at => Err(io::Error::other("injected crash")),
            _ => Ok(()),
        }
    }

    fn has_crashed(&self) -> bool {
        matches!(self.faults.fail_at, Some((at, Fault::Crash)) if self.operations > at)
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        self.live.files.get(path).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }
}

fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

fn child_name<'a>(folder: &Path, candidate: &'a Path) -> Option<&'a std::ffi::OsStr> {
    if candidate.parent() == Some(folder) { candidate.file_name() } else { None }
}

impl Fs for FaultyFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        for ancestor in path.ancestors() {
            // Folders are few and made early; losing one is tested through the rename of blocks.
            state.live.dirs.insert(ancestor.to_owned());
            state.durable.dirs.insert(ancestor.to_owned());
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        if !state.live.dirs.contains(path) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such folder"));
        }
        let mut entries: Vec<DirEntry> = Vec::new();
        for (file, content) in &state.live.files {
            if let Some(name) = child_name(path, file) {
                let bytes = content.lock().bytes.len() as u64;
                entries.push(DirEntry { name: name.to_string_lossy().into_owned(), is_dir: false, bytes });
            }
        }
        for dir in &state.live.dirs {
            if let Some(name) = child_name(path, dir) {
                entries.push(DirEntry { name: name.to_string_lossy().into_owned(), is_dir: true, bytes: 0 });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        let mut state = self.0.lock();
        state.change()?;
        let content = Arc::new(Mutex::new(Content::default()));
        state.live.files.insert(path.to_owned(), Arc::clone(&content));
        Ok(Box::new(FaultyFile { fs: self.clone(), content }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        let content = self.0.lock().file(path)?;
        Ok(Box::new(FaultyFile { fs: self.clone(), content }))
    }

    fn map(&self, path: &Path) -> io::Result<FileBytes> {
        let content = self.0.lock().file(path)?;
        let bytes = content.lock().bytes.clone();
        Ok(FileBytes::owned(bytes))
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let content = self.0.lock().file(path)?;
        let content = content.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.bytes.len());
        let end = start.saturating_add(length).min(content.bytes.len());
        Ok(content.bytes[start..end].to_vec())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        if state.live.dirs.contains(to) && state.live.files.keys().any(|file| file.starts_with(to)) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "folder is not empty"));
        }
        let files: Vec<_> = state.live.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in files {
            let content = state.live.files.remove(&path).expect("the key was just listed");
            state.live.files.insert(moved(&path, from, to).expect("it starts with `from`"), content);
        }
        let dirs: Vec<_> = state.live.dirs.iter().filter(|path| path.starts_with(from)).cloned().collect();
        for path in dirs {
            state.live.dirs.remove(&path);
            state.live.dirs.insert(moved(&path, from, to).expect("it starts with `from`"));
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        let content = state.file(from)?;
        state.live.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.file(path)?;
        state.live.files.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.live.files.retain(|file, _| !file.starts_with(path));
        state.live.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        let State { live, durable, .. } = &mut *state;
        let inside = |candidate: &PathBuf| candidate.parent() == Some(path);
        let gone: Vec<PathBuf> =
            durable.dirs.iter().filter(|dir| inside(dir) && !live.dirs.contains(*dir)).cloned().collect();
        for dir in gone {
            durable.dirs.retain(|other| !other.starts_with(&dir));
            durable.files.retain(|file, _| !file.starts_with(&dir));
        }
        durable.files.retain(|file, _| !inside(file) || live.files.contains_key(file));
        for (file, content) in live.files.iter().filter(|(file, _)| inside(file)) {
            durable.files.insert(file.clone(), Arc::clone(content));
        }
        // A folder that was renamed here brings the names that were durable in it under its old name; storage syncs a
        // folder before it renames it, so all of them were.
        for dir in live.dirs.iter().filter(|dir| inside(dir)) {
            durable.dirs.extend(live.dirs.iter().filter(|other| other.starts_with(dir)).cloned());
            for (file, content) in live.files.iter().filter(|(file, _)| file.starts_with(dir)) {
                durable.files.entry(file.clone()).or_insert_with(|| Arc::clone(content));
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.0.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "locked"));
        }
        Ok(Box::new(FaultyLock { fs: self.clone(), path: path.to_owned() }))
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        let available = self.0.lock().faults.bytes_free.unwrap_or(1 << 40);
        Ok(DiskSpace { total: 1 << 40, available })
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.0.lock();
        state.live.files.contains_key(path) || state.live.dirs.contains(path)
    }
}

struct FaultyFile {
    fs: FaultyFs,
    content: Arc<Mutex<Content>>,
}

impl FileWriter for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.fs.0.lock();
        let was_gone = state.has_crashed();
        if let Err(error) = state.change() {
            if !was_gone {
                self.content.lock().bytes.extend_from_slice(&bytes[..bytes.len() / 2]);
            }
            return Err(error);
        }
        let room = state.faults.bytes_free.unwrap_or(u64::MAX);
        let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.content.lock().bytes.extend_from_slice(&bytes[..fits]);
        if let Some(free) = &mut state.faults.bytes_free {
            *free -= fits as u64;
        }
        if fits < bytes.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        sync_content(&self.fs, &self.content)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.fs.0.lock().change()?;
        let mut content = self.content.lock();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        content.bytes.truncate(length);
        content.forgotten.iter_mut().for_each(|lost| lost.end = lost.end.min(length));
        content.forgotten.retain(|lost| lost.start < lost.end);
        // A cut may reach the disk at any time; the pessimist lets it be there at once.
        content.synced.truncate(length);
        Ok(())
    }

    fn sync_handle(&self) -> io::Result<Box<dyn SyncHandle>> {
        Ok(Box::new(FaultySync { fs: self.fs.clone(), content: Arc::clone(&self.content) }))
    }
}

struct FaultySync {
    fs: FaultyFs,
    content: Arc<Mutex<Content>>,
}

impl SyncHandle for FaultySync {
    fn sync(&self) -> io::Result<()> {
        sync_content(&self.fs, &self.content)
    }
}

fn sync_content(fs: &FaultyFs, content: &Mutex<Content>) -> io::Result<()> {
    let (changed, is_gone) = {
        let mut state = fs.0.lock();
        let changed = state.change();
        (changed, matches!(state.faults.fail_at, Some((_, Fault::Crash))))
    };
    let mut content = content.lock();
    // A process that is gone is told of no failed write, and the system goes on writing what it had.
    if changed.is_err() && !is_gone {
        let lost = content.synced.len()..content.bytes.len();
        content.forgotten.push(lost);
    }
    changed?;
    let mut synced = content.bytes.clone();
    for lost in &content.forgotten {
        synced[lost.clone()].fill(0);
    }
    content.synced = synced;
    Ok(())
}

struct FaultyLock {
    fs: FaultyFs,
    path: PathBuf,
}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        self.fs.0.lock().locks.remove(&self.path);
    }
}
