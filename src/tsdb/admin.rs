//! What an operator asks for: deleting series, cleaning up after that, snapshots.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use promesh_model::matcher::Matcher;
use promesh_model::time::Now;

use crate::block::{Block, BlockError};
use crate::db::Db;
use crate::head::CutKind;
use crate::maintain::MaintainError;

impl Db {
    /// Deletes the samples in `start ..= end` of the series that satisfy all matchers of one of the sets. They are gone
    /// from answers at once, from the disk when their blocks are written anew. Samples that are appended later stay.
    ///
    /// # Errors
    /// When the disk refuses; what was deleted until then stays deleted.
    pub fn delete_series(&self, matcher_sets: &[Vec<Matcher>], start: i64, end: i64) -> Result<(), MaintainError> {
        let _one_at_a_time = self.deleting.lock();
        for matchers in matcher_sets {
            let planned = self.head.plan_delete(matchers, start, end);
            if !planned.is_empty() {
                self.head_tombstones.lock().extend(planned.iter().cloned());
                self.save_checkpoint()?;
                self.head.apply_tombstones(&planned);
            }
            for block in self.blocks.overlapping(start, end) {
                block.delete(&*self.options.fs, matchers, start, end)?;
            }
        }
        Ok(())
    }

    /// Writes every block anew of which something was deleted.
    ///
    /// # Errors
    /// When the disk refuses or a block is damaged; blocks not reached yet are as they were.
    pub fn clean_tombstones(&self, now: Now) -> Result<(), MaintainError> {
        let _one_at_a_time = self.maintenance.lock();
        let due: Vec<Arc<Block>> =
            self.blocks.list().into_iter().filter(|block| !block.tombstones().is_empty()).collect();
        due.iter().try_for_each(|block| self.compact_these(std::slice::from_ref(block), now))
    }

    /// Makes a copy of all samples as blocks under `snapshots/`; answers the folder's name. Blocks are linked, not
    /// copied. Without the head, its samples are left out.
    ///
    /// # Errors
    /// When the disk refuses; then no folder of that name is there.
    pub fn snapshot(&self, with_head: bool, now: Now) -> Result<String, MaintainError> {
        let _one_at_a_time = self.maintenance.lock();
        let name = format!("{}-{:016x}", file_time(now), self.options.seed ^ now.monotonic.0);
        let dir = self.dir.join("snapshots").join(&name);
        let made = self.fill_snapshot(&dir, with_head, now);
        if made.is_err() {
            let _ = self.options.fs.remove_dir_all(&dir);
        }
        made.map(|()| name)
    }

    fn fill_snapshot(&self, dir: &Path, with_head: bool, now: Now) -> Result<(), MaintainError> {
        let fs = &*self.options.fs;
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| BlockError::Disk { path, source }
        };
        fs.create_dir_all(dir).map_err(disk(dir))?;
        for block in self.blocks.list() {
            let to = dir.join(block.meta().ulid.to_string());
            link_block(fs, block.dir(), &to).map_err(disk(&to))?;
        }
        let (start, newest) = (self.head.oldest_time().ms(), self.head.max_time().ms());
        if with_head && start <= newest {
            let sorted = self.head.sorted_series();
            // Late samples of windows that are in blocks wait in the head for a block of their own.
            for window in self.head.late_windows(start) {
                let span = (window, (window + self.head.window_ms()).min(start));
                self.write_head_block(dir, &sorted, span, CutKind::LateCopy, now)?;
            }
            self.write_head_block(dir, &sorted, (start, newest + 1), CutKind::Copy, now)?;
        }
        fs.sync_dir(dir).map_err(disk(dir))?;
        Ok(())
    }
}

/// `20261122T200000Z`, as Prometheus begins the names of snapshots.
fn file_time(now: Now) -> String {
    let text = promesh_model::Timestamp(now.wall.ms().div_euclid(1000) * 1000).to_string();
    text.chars().filter(|c| c.is_ascii_alphanumeric()).collect()
}

fn link_block(fs: &dyn crate::fs::Fs, from: &Path, to: &Path) -> io::Result<()> {
    fs.create_dir_all(&to.join("chunks"))?;
    let mut names: Vec<PathBuf> = vec!["meta.json".into(), "index".into(), "tombstones".into()];
    names.extend(fs.list(&from.join("chunks"))?.into_iter().map(|entry| Path::new("chunks").join(entry.name)));
    for name in names {
        if fs.exists(&from.join(&name)) {
            fs.link(&from.join(&name), &to.join(&name))?;
        }
    }
    fs.sync_dir(&to.join("chunks"))?;
    fs.sync_dir(to)
}
