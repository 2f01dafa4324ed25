//! Postings: for each label name and value, the slots of the series that have it.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use promesh_model::matcher::{MatchOp, Matcher};
use roaring::{MultiOps, RoaringBitmap};

use super::symbols::{Symbol, Symbols};

/// The slots of the series with one label pair: most pairs have few.
#[derive(Clone, Debug)]
pub enum PostingList {
    /// A few, sorted.
    Few(Vec<u32>),
    /// Many.
    Many(Box<RoaringBitmap>),
}

const FEW_MAX: usize = 64;

impl PostingList {
    fn insert(&mut self, slot: u32) {
        match self {
            PostingList::Few(slots) => {
                if let Err(at) = slots.binary_search(&slot) {
                    if slots.len() == FEW_MAX {
                        let mut many: RoaringBitmap = slots.iter().copied().collect();
                        many.insert(slot);
                        *self = PostingList::Many(Box::new(many));
                    } else {
                        if slots.len() == slots.capacity() {
                            slots.reserve_exact((slots.len() / 2).max(1));
                        }
                        slots.insert(at, slot);
                    }
                }
            }
            PostingList::Many(slots) => {
                slots.insert(slot);
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        match self {
            PostingList::Few(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                }
            }
            PostingList::Many(slots) => {
                slots.remove(slot);
            }
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            PostingList::Few(slots) => slots.len(),
            PostingList::Many(slots) => slots.len() as usize,
        }
    }

    fn to_bitmap(&self) -> RoaringBitmap {
        match self {
            PostingList::Few(slots) => slots.iter().copied().collect(),
            PostingList::Many(slots) => (**slots).clone(),
        }
    }

    fn intersects(&self, slots: &RoaringBitmap) -> bool {
        match self {
            PostingList::Few(few) => few.iter().any(|slot| slots.contains(*slot)),
            PostingList::Many(many) => !many.is_disjoint(slots),
        }
    }

    fn keep_in(&self, slots: &mut RoaringBitmap) {
        match self {
            PostingList::Few(few) => *slots = few.iter().copied().filter(|slot| slots.contains(*slot)).collect(),
            PostingList::Many(many) => *slots &= &**many,
        }
    }
}

type Values = HashMap<Symbol, PostingList, RandomState>;

/// All lists of the head.
#[derive(Debug, Default)]
pub struct Postings {
    names: HashMap<Symbol, Values, RandomState>,
    all: RoaringBitmap,
}

impl Postings {
    /// Enters a series' labels, given as name, value, name, value ….
    pub fn insert(&mut self, slot: u32, labels: &[Symbol]) {
        self.all.insert(slot);
        for pair in labels.chunks_exact(2) {
            let values = self.names.entry(pair[0]).or_default();
            values.entry(pair[1]).or_insert_with(|| PostingList::Few(Vec::new())).insert(slot);
        }
    }

    /// Takes a series' labels out again.
    pub fn remove(&mut self, slot: u32, labels: &[Symbol]) {
        self.all.remove(slot);
        for pair in labels.chunks_exact(2) {
            let Some(values) = self.names.get_mut(&pair[0]) else { continue };
            if let Some(list) = values.get_mut(&pair[1]) {
                list.remove(slot);
                if list.len() == 0 {
                    values.remove(&pair[1]);
                }
            }
            if values.is_empty() {
                self.names.remove(&pair[0]);
            }
        }
    }

    /// The slots of the series that satisfy all matchers.
    pub fn select(&self, matchers: &[Matcher], symbols: &Symbols) -> RoaringBitmap {
        let (mut wanted, mut unwanted): (Vec<&Matcher>, Vec<&Matcher>) = (Vec::new(), Vec::new());
        for matcher in matchers {
            // What matches the empty value is satisfied by absence too: subtract those that contradict it.
            if matcher.matches("") { unwanted.push(matcher) } else { wanted.push(matcher) }
        }
        wanted.sort_by_key(|matcher| matcher_cost(matcher));
        let mut slots: Option<RoaringBitmap> = None;
        for matcher in wanted {
            let lists = self.lists(matcher, symbols, false);
            match &mut slots {
                None => slots = Some(union(&lists)),
                Some(slots) if lists.len() == 1 => lists[0].keep_in(slots),
                Some(slots) => *slots &= union(&lists),
            }
            if slots.as_ref().is_some_and(RoaringBitmap::is_empty) {
                return RoaringBitmap::new();
            }
        }
        let mut slots = slots.unwrap_or_else(|| self.all.clone());
        for matcher in unwanted {
            if slots.is_empty() {
                break;
            }
            slots -= union(&self.lists(matcher, symbols, true));
        }
        slots
    }

    /// At most how many series satisfy all matchers: what the list of one label value says. Nothing when finding them
    /// takes a walk over the values of a label.
    pub fn count_at_most(&self, matchers: &[Matcher], symbols: &Symbols) -> Option<usize> {
        const LITERALS_MAX: usize = 16;
        let named = |matcher: &Matcher| matcher.literals().is_some_and(|literals| literals.len() <= LITERALS_MAX);
        // What the empty value satisfies or contradicts takes the values that are not empty.
        let found_by_name = |matcher: &Matcher| {
            let satisfied = matcher.matches("");
            named(matcher) && matcher.op.is_negative() == satisfied
        };
        if !matchers.iter().all(found_by_name) {
            return None;
        }
        let equal = matchers.iter().filter(|matcher| matcher.op == MatchOp::Equal);
        let count =
            |matcher: &Matcher| -> usize { self.lists(matcher, symbols, false).first().map_or(0, |list| list.len()) };
        equal.map(count).min()
    }

    /// The lists of the values of a matcher's label that satisfy it, or that contradict it.
    fn lists(&self, matcher: &Matcher, symbols: &Symbols, contradicting: bool) -> Vec<&PostingList> {
        let Some(values) = symbols.find(&matcher.name).and_then(|name| self.names.get(&name)) else {
            return Vec::new();
        };
        let find = |text: &str| symbols.find(text).and_then(|value| values.get(&value));
        // The values that a non-negated form of the matcher names.
        if matcher.op.is_negative() == contradicting
            && let Some(literals) = matcher.literals()
        {
            return literals.iter().filter_map(|literal| find(literal)).collect();
        }
        values
            .iter()
            .filter(|(value, _)| matcher.matches(symbols.text(**value)) != contradicting)
            .map(|(_, list)| list)
            .collect()
    }

    /// Names of the labels of some series, or of all.
    pub fn names<'a>(&'a self, of: Option<&'a RoaringBitmap>) -> impl Iterator<Item = Symbol> + 'a {
        self.names
            .iter()
            .filter(move |(_, values)| of.is_none_or(|slots| values.values().any(|list| list.intersects(slots))))
            .map(|(name, _)| *name)
    }

    /// Values of a label with their lists.
    pub fn values(&self, name: Symbol) -> impl Iterator<Item = (Symbol, &PostingList)> {
        self.names.get(&name).into_iter().flatten().map(|(value, list)| (*value, list))
    }

    /// Values of a label of some series, or of all.
    pub fn values_of<'a>(&'a self, name: Symbol, of: Option<&'a RoaringBitmap>) -> impl Iterator<Item = Symbol> + 'a {
        self.values(name).filter(move |(_, list)| of.is_none_or(|slots| list.intersects(slots))).map(|(value, _)| value)
    }
}

/// Equality first: it leaves the least to intersect with.
fn matcher_cost(matcher: &Matcher) -> usize {
    matcher.literals().map_or(usize::MAX, <[String]>::len)
}

fn union(lists: &[&PostingList]) -> RoaringBitmap {
    if let [one] = lists {
        return one.to_bitmap();
    }
    let many = lists.iter().filter_map(|list| match list {
        PostingList::Many(slots) => Some(&**slots),
        PostingList::Few(_) => None,
    });
    let mut slots: RoaringBitmap = many.union();
    let mut few: Vec<u32> = lists
        .iter()
        .filter_map(|list| match list {
            PostingList::Few(slots) => Some(slots),
            PostingList::Many(_) => None,
        })
        .flatten()
        .copied()
        .collect();
    few.sort_unstable();
    if slots.is_empty() {
        few.dedup();
        return RoaringBitmap::from_sorted_iter(few).expect("it was just sorted");
    }
    slots.extend(few);
    slots
}
