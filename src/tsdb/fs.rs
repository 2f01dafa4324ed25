//! The file system as storage sees it: a small trait, so that a faulty one can stand in for the real one.
//!
//! What is written is in the page cache after [`FileWriter::append`] and on disk after [`FileWriter::sync`]; a new
//! name is on disk after [`Fs::sync_dir`] of its folder. Storage relies on nothing else: not on the order in which
//! unsynced writes reach the disk, not on the atomicity of a write.

mod faulty;
mod real;

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

pub use faulty::{Fault, FaultyFs};
pub use real::RealFs;

/// The operations that storage needs.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// As the system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// What lies in a folder, by name.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// A new, empty file for writing; an older one of that name is emptied.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWriter>>;

    /// Opens a file to append to it.
    ///
    /// # Errors
    /// As the system says.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>>;

    /// The whole content of a file, by mapping where that is possible. Only for files that nobody writes any more.
    ///
    /// # Errors
    /// As the system says.
    fn map(&self, path: &Path) -> io::Result<FileBytes>;

    /// Up to `length` bytes from `offset`; fewer at the end of the file.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Renames a file or folder; the new name appears at once with all of it or not at all.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, or copies it where the system knows no second names.
    ///
    /// # Errors
    /// As the system says.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all in it.
    ///
    /// # Errors
    /// As the system says.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes a lock file for this process; it is free again when the answer is dropped or the process dies.
    ///
    /// # Errors
    /// `WouldBlock` when another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// The size of the file system that a folder lies on, and what is free of it for us.
    ///
    /// # Errors
    /// As the system says.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// Whether a file or folder is there.
    fn exists(&self, path: &Path) -> bool;
}

/// A file that is being written, front to back.
pub trait FileWriter: Send {
    /// Appends all of `bytes`. After an error the file may hold a part of them: see [`FileWriter::truncate`].
    ///
    /// # Errors
    /// As the system says.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// As the system says. What was written since the last success may or may not be durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to a length that it had before.
    ///
    /// # Errors
    /// As the system says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// A second handle to sync by, so that a sync does not stop who appends.
    ///
    /// # Errors
    /// As the system says.
    fn sync_handle(&self) -> io::Result<Box<dyn SyncHandle>>;
}

/// Syncs a file that someone else writes.
pub trait SyncHandle: Send + Sync {
    /// Makes everything appended before the call durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&self) -> io::Result<()>;
}

/// One thing in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Its length in bytes, if it is a file.
    pub bytes: u64,
}

/// The size of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it, in bytes.
    pub total: u64,
    /// What is free for this process, in bytes.
    pub available: u64,
}

/// A file's content.
#[derive(Clone)]
pub struct FileBytes(Inner);

#[derive(Clone)]
enum Inner {
    Mapped(Arc<memmap2::Mmap>),
    Owned(Arc<[u8]>),
}

impl FileBytes {
    /// Content that lies in memory.
    pub fn owned(bytes: Vec<u8>) -> FileBytes {
        FileBytes(Inner::Owned(bytes.into()))
    }
}

impl Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBytes({})", self.len())
    }
}

/// Writes a small file so that after a crash the old or the new content is there, never a mixture.
///
/// # Errors
/// As the system says; the old content is still there.
pub fn replace_file(fs: &dyn Fs, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs.create(&temporary)?;
    file.append(content)?;
    file.sync()?;
    drop(file);
    fs.rename(&temporary, path)?;
    fs.sync_dir(path.parent().unwrap_or(Path::new(".")))
}
