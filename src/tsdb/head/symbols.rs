//! Symbols: every label name and value of the head once, counted, under a small number.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// The number of a text in the head's symbol table. Free again when no series uses it.
pub type Symbol = u32;

/// The table.
#[derive(Debug, Default)]
pub struct Symbols {
    entries: Vec<Entry>,
    free: Vec<Symbol>,
    index: HashTable<Symbol>,
    hasher: RandomState,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

impl Symbols {
    /// The symbol of a text, if a series uses it.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        let hash = self.hasher.hash_one(text);
        self.index.find(hash, |symbol| &*self.entries[*symbol as usize].text == text).copied()
    }

    /// The symbol of a text, new if need be, with one more use.
    pub fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.find(text) {
            self.entries[symbol as usize].uses += 1;
            return symbol;
        }
        let entry = Entry { text: text.into(), uses: 1 };
        let symbol = match self.free.pop() {
            Some(symbol) => {
                self.entries[symbol as usize] = entry;
                symbol
            }
            None => {
                let symbol = Symbol::try_from(self.entries.len()).expect("memory ends before 2^32 symbols do");
                self.entries.push(entry);
                symbol
            }
        };
        self.bytes += text.len();
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash_of = |symbol: &Symbol| hasher.hash_one(&*entries[*symbol as usize].text);
        self.index.insert_unique(hasher.hash_one(text), symbol, hash_of);
        symbol
    }

    /// One use less; the last one frees the symbol.
    pub fn release(&mut self, symbol: Symbol) {
        let entry = &mut self.entries[symbol as usize];
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let text = std::mem::replace(&mut entry.text, Arc::from(""));
        self.bytes -= text.len();
        if let Ok(found) = self.index.find_entry(self.hasher.hash_one(&*text), |other| *other == symbol) {
            found.remove();
        }
        self.free.push(symbol);
    }

    /// The text of a symbol in use.
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.entries[symbol as usize].text
    }

    /// All texts in use, sorted, and for each symbol its place among them (`u32::MAX` for free symbols).
    pub fn ranked(&self) -> (Vec<Arc<str>>, Vec<u32>) {
        let mut used: Vec<Symbol> =
            (0..self.entries.len() as Symbol).filter(|symbol| self.entries[*symbol as usize].uses > 0).collect();
        used.sort_unstable_by(|a, b| self.text(*a).cmp(self.text(*b)));
        let mut ranks = vec![u32::MAX; self.entries.len()];
        for (rank, symbol) in used.iter().enumerate() {
            ranks[*symbol as usize] = rank as u32;
        }
        (used.into_iter().map(|symbol| Arc::clone(&self.entries[symbol as usize].text)).collect(), ranks)
    }

    /// How many symbols are in use.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The bytes of their texts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
