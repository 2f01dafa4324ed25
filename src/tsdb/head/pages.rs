//! Where series lie: pages of 256 under one lock each, so that a batch, whose series were made together, takes few
//! locks. Pages never move, so finding one takes no lock.

use std::sync::OnceLock;

use parking_lot::{Mutex, MutexGuard};

use super::series::Series;

/// Series on a page.
pub const PAGE_SLOTS: usize = 256;

/// A place for a series.
#[derive(Debug, Default)]
pub struct Slot {
    /// How often the place was emptied: a reference names it, so that a collected series is not mistaken.
    pub generation: u32,
    /// The series, if one is there.
    pub series: Option<Series>,
}

/// A page.
#[derive(Debug)]
pub struct Page(Mutex<Box<[Slot]>>);

impl Page {
    /// Locks the page.
    pub fn lock(&self) -> MutexGuard<'_, Box<[Slot]>> {
        self.0.lock()
    }
}

/// All pages: bucket *n* has 2ⁿ of them and is made when first needed.
#[derive(Debug)]
pub struct Pages {
    buckets: [OnceLock<Box<[OnceLock<Page>]>>; BUCKETS],
    free: Mutex<FreeSlots>,
}

const BUCKETS: usize = 24;

#[derive(Debug, Default)]
struct FreeSlots {
    /// Slots that were emptied, to be filled from the end.
    emptied: Vec<u32>,
    /// The next slot that was never used.
    next: u32,
}

impl Default for Pages {
    fn default() -> Self {
        Pages { buckets: std::array::from_fn(|_| OnceLock::new()), free: Mutex::default() }
    }
}

impl Pages {
    /// The page of a slot.
    #[inline]
    pub fn page(&self, slot: u32) -> Option<&Page> {
        let (bucket, offset) = bucket_of(slot as usize / PAGE_SLOTS);
        self.buckets.get(bucket)?.get()?.get(offset)?.get()
    }

    /// All pages from the first on.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Page)> {
        (0u32..).map(|number| number * PAGE_SLOTS as u32).map_while(|first| self.page(first).map(|page| (first, page)))
    }

    /// Puts a series in a free slot; answers the slot and its generation, or nothing when 2³¹ series are there.
    pub fn insert(&self, series: Series) -> Option<(u32, u32)> {
        let slot = {
            let mut free = self.free.lock();
            match free.emptied.pop() {
                Some(slot) => slot,
                None => {
                    let slot = free.next;
                    self.make_page(slot)?;
                    free.next += 1;
                    slot
                }
            }
        };
        let mut page = self.page(slot)?.lock();
        let place = &mut page[slot as usize % PAGE_SLOTS];
        debug_assert!(place.series.is_none(), "a free slot is empty");
        place.series = Some(series);
        Some((slot, place.generation))
    }

    /// Gives emptied slots back, once nothing names them any more.
    pub fn free(&self, slots: &mut Vec<u32>) {
        // The lowest are used first, next to each other.
        slots.sort_unstable_by(|a, b| b.cmp(a));
        self.free.lock().emptied.append(slots);
    }

    fn make_page(&self, slot: u32) -> Option<()> {
        let (bucket, offset) = bucket_of(slot as usize / PAGE_SLOTS);
        let pages =
            self.buckets.get(bucket)?.get_or_init(|| std::iter::repeat_with(OnceLock::new).take(1 << bucket).collect());
        pages[offset]
            .get_or_init(|| Page(Mutex::new(std::iter::repeat_with(Slot::default).take(PAGE_SLOTS).collect())));
        Some(())
    }
}

fn bucket_of(page: usize) -> (usize, usize) {
    let number = page + 1;
    let bucket = number.ilog2() as usize;
    (bucket, number - (1 << bucket))
}
