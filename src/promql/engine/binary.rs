//! Binary operators: scalars, a vector with a scalar, two vectors, sets.
//!
//! Two vectors are matched once per query: every series gets the number of its match group. Where each group has one
//! series on the "one" side, whole columns are combined; only where the partner may change from step to step are steps
//! taken one by one.

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, LabelsBuilder};

use super::QueryError;
use super::annotations::Note;
use super::elements::{self, arithmetic, comparison, scalars};
use super::eval::Evaluator;
use super::grid::{Floats, Grid, Row, Sample, Steps, absent, is_absent, is_metadata};
use super::plan::{BinaryNode, Node};
use crate::parser::{BinaryOp, Cardinality, Matching, Span, ValueType};

/// Whether the result is no longer the metric it was made of.
fn changes_metric(op: BinaryOp) -> bool {
    !op.is_comparison() && !op.is_set() && !matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

impl Evaluator<'_> {
    pub fn binary(&mut self, node: &Node, binary: &BinaryNode, steps: Steps) -> Result<Grid, QueryError> {
        let is_scalar = |node: &Node| node.value_type == ValueType::Scalar;
        match (is_scalar(&binary.lhs), is_scalar(&binary.rhs)) {
            (true, true) => {
                let (a, b) = (self.scalar(&binary.lhs, steps)?, self.scalar(&binary.rhs, steps)?);
                self.hold(steps.count)?;
                Ok(Grid::scalar(a.iter().zip(&b).map(|(a, b)| scalars(binary.op, *a, *b)).collect()))
            }
            (false, true) => {
                let grid = self.grid(&binary.lhs, steps)?;
                let scalar = self.scalar(&binary.rhs, steps)?;
                self.with_scalar(node.span, binary, grid, &scalar, false)
            }
            (true, false) => {
                let scalar = self.scalar(&binary.lhs, steps)?;
                let grid = self.grid(&binary.rhs, steps)?;
                self.with_scalar(node.span, binary, grid, &scalar, true)
            }
            (false, false) => {
                let left = self.grid(&binary.lhs, steps)?;
                let right = self.grid(&binary.rhs, steps)?;
                let held = left.samples() + right.samples();
                let matching = binary
                    .matching
                    .as_ref()
                    .ok_or_else(|| QueryError::Execution("two vectors without matching".to_owned()))?;
                let result = match binary.op {
                    BinaryOp::And | BinaryOp::Unless => filter_by(left, &right, matching, binary.op == BinaryOp::And),
                    BinaryOp::Or => union(left, right, matching)?,
                    _ => self.vectors(node.span, binary, matching, left, right, steps)?,
                };
                self.hold(result.samples())?;
                self.release(held);
                Ok(result)
            }
        }
    }

    fn with_scalar(
        &mut self,
        span: Span,
        binary: &BinaryNode,
        mut grid: Grid,
        scalar: &Floats,
        swapped: bool,
    ) -> Result<Grid, QueryError> {
        let BinaryNode { op, return_bool, .. } = *binary;
        let mut last_failure: Vec<Option<Note>> = Vec::new();
        for row in &mut grid.rows {
            for (step, value) in row.floats.iter_mut().enumerate() {
                if !is_absent(*value) {
                    let (a, b) = if swapped { (scalar[step], *value) } else { (*value, scalar[step]) };
                    *value = match (arithmetic(op, a, b), comparison(op, a, b)) {
                        (Some(result), _) => result,
                        (None, Some(holds)) if return_bool => f64::from(u8::from(holds)),
                        (None, Some(true)) => *value,
                        (None, Some(false)) => absent(),
                        (None, None) => {
                            let note = Note::IncompatibleTypes("float", op.as_str(), "float");
                            remember(&mut last_failure, scalar.len(), step, note);
                            absent()
                        }
                    };
                }
            }
            if row.histograms.is_some() {
                histograms_with_scalar(op, return_bool, row, scalar, swapped, &mut last_failure);
            }
        }
        for note in last_failure.into_iter().flatten() {
            self.annotations.add(span, note);
        }
        grid.drop_empty();
        if changes_metric(op) || return_bool {
            self.drop_names(&mut grid);
        }
        if !self.options.delayed_name_removal {
            grid.merge_duplicates()?;
        }
        Ok(grid)
    }

    /// Arithmetic and comparisons between two vectors.
    fn vectors(
        &mut self,
        span: Span,
        binary: &BinaryNode,
        matching: &Matching,
        left: Grid,
        right: Grid,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let mut groups = MatchGroups::default();
        let many_groups = groups.number(&many, matching);
        let one_groups = groups.number(&one, matching);
        let (fill_many, fill_one) = (matching.fill_left, matching.fill_right);
        let mut join = Join {
            binary,
            matching,
            swapped,
            many,
            one,
            many_groups,
            one_groups,
            group_count: groups.count(),
            drop_names: !self.options.delayed_name_removal && binary.return_bool,
            fill_many,
            fill_one,
            out: Vec::new(),
            out_index: HashMap::default(),
            last_note: Vec::new(),
            steps: steps.count,
        };
        if let Some(partners) = join.fixed_partners() {
            join.run_columns(&partners);
        } else {
            for step in 0..steps.count {
                if step % 64 == 0 {
                    self.check()?;
                }
                join.run_step(step)?;
            }
        }
        for note in std::mem::take(&mut join.last_note).into_iter().flatten() {
            self.annotations.add(span, note);
        }
        let mut grid = Grid { rows: join.out };
        grid.drop_empty();
        if !(self.options.delayed_name_removal && steps.count == 1) {
            grid.merge_duplicates()?;
        }
        Ok(grid)
    }
}

/// Upstream reports one remark a step: the last.
fn remember(notes: &mut Vec<Option<Note>>, steps: usize, step: usize, note: Note) {
    if notes.is_empty() {
        notes.resize(steps, None);
    }
    notes[step] = Some(note);
}

fn histograms_with_scalar(
    op: BinaryOp,
    return_bool: bool,
    row: &mut Row,
    scalar: &Floats,
    swapped: bool,
    failures: &mut Vec<Option<Note>>,
) {
    let steps = row.floats.len();
    for step in 0..steps {
        let Some(histogram) = row.histograms.as_mut().and_then(|column| column[step].take()) else { continue };
        let (number, histogram) = (Sample::Float(scalar[step]), Sample::Histogram(histogram));
        let element = if swapped {
            elements::elements(op, &number, &histogram)
        } else {
            elements::elements(op, &histogram, &number)
        };
        if let Some(note) = element.failure {
            remember(failures, steps, step, note);
            continue;
        }
        // Compared with a number, a histogram always fails: `return_bool` has nothing to turn into 0 or 1.
        debug_assert!(!return_bool, "comparisons of histograms with numbers fail");
        if element.keep {
            row.set(step, element.value);
        }
    }
    if row.histograms.as_ref().is_some_and(|column| column.iter().all(Option::is_none)) {
        row.histograms = None;
    }
}

/// Numbers of match groups: series with the same matching labels have the same number.
#[derive(Default)]
struct MatchGroups {
    numbers: HashMap<Vec<u8>, u32, RandomState>,
}

impl MatchGroups {
    fn number(&mut self, grid: &Grid, matching: &Matching) -> Vec<u32> {
        let mut key = Vec::new();
        let mut number = |row: &Row| {
            key.clear();
            pack_match_labels(&row.labels, matching, &mut key);
            if let Some(number) = self.numbers.get(&key) {
                return *number;
            }
            let next = self.numbers.len() as u32;
            self.numbers.insert(key.clone(), next);
            next
        };
        grid.rows.iter().map(&mut number).collect()
    }

    fn count(&self) -> usize {
        self.numbers.len()
    }
}

/// The packed labels by which a series is matched.
fn pack_match_labels(labels: &Labels, matching: &Matching, out: &mut Vec<u8>) {
    let listed = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.on {
        labels.pack_kept(out, listed);
    } else {
        labels.pack_kept(out, |name| name != METRIC_NAME && !listed(name));
    }
}

/// The labels by which a series is matched.
fn match_labels(labels: &Labels, matching: &Matching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.on {
        labels.without(|name| !listed(name))
    } else {
        labels.without(|name| name == METRIC_NAME || listed(name))
    }
}

/// `and` and `unless`: the left side where the right side has, or has not, the same match group.
fn filter_by(mut left: Grid, right: &Grid, matching: &Matching, wanted: bool) -> Grid {
    let mut groups = MatchGroups::default();
    let left_groups = groups.number(&left, matching);
    let right_groups = groups.number(right, matching);
    let mut rows_of = vec![Vec::new(); groups.count()];
    for (row, group) in right.rows.iter().zip(&right_groups) {
        rows_of[*group as usize].push(row);
    }
    for (row, group) in left.rows.iter_mut().zip(&left_groups) {
        let partners = &rows_of[*group as usize];
        for step in 0..row.floats.len() {
            if row.is_present(step) && partners.iter().any(|partner| partner.is_present(step)) != wanted {
                row.set(step, None);
            }
        }
    }
    left.drop_empty();
    left
}

/// `or`: the left side, and the right side where the left has nothing of the match group.
fn union(left: Grid, mut right: Grid, matching: &Matching) -> Result<Grid, QueryError> {
    let mut groups = MatchGroups::default();
    let left_groups = groups.number(&left, matching);
    let right_groups = groups.number(&right, matching);
    let steps = left.rows.first().or(right.rows.first()).map_or(0, |row| row.floats.len());
    let mut present = vec![false; groups.count() * steps];
    for (row, group) in left.rows.iter().zip(&left_groups) {
        let base = *group as usize * steps;
        for step in 0..steps {
            present[base + step] |= row.is_present(step);
        }
    }
    for (row, group) in right.rows.iter_mut().zip(&right_groups) {
        let base = *group as usize * steps;
        for step in 0..steps {
            if present[base + step] {
                row.set(step, None);
            }
        }
    }
    right.drop_empty();
    let mut result = left;
    result.rows.append(&mut right.rows);
    // A series may come from either side, at different steps.
    if steps > 1 {
        result.merge_duplicates()?;
    }
    Ok(result)
}

/// A join in progress. "Many" is the side whose series each appear once in the result; "one" is looked up.
struct Join<'a> {
    binary: &'a BinaryNode,
    matching: &'a Matching,
    swapped: bool,
    many: Grid,
    one: Grid,
    many_groups: Vec<u32>,
    one_groups: Vec<u32>,
    group_count: usize,
    drop_names: bool,
    fill_many: Option<f64>,
    fill_one: Option<f64>,
    out: Vec<Row>,
    /// Result rows by the rows they were made of; `u32::MAX` stands for a fill value.
    out_index: HashMap<(u32, u32), usize, RandomState>,
    last_note: Vec<Option<Note>>,
    steps: usize,
}

/// The labels of the results of each group at one step.
type Made = Vec<HashSet<Labels, RandomState>>;

const FILLED: u32 = u32::MAX;

impl Join<'_> {
    /// The partner of each row of the "many" side, or [`FILLED`], if partners never change and no step can fail: each group
    /// has one series on the "one" side, in one-to-one matching on the other too, no value is filled in, and no two
    /// results of a group can have the same labels.
    fn fixed_partners(&self) -> Option<Vec<u32>> {
        if self.fill_many.is_some() || self.fill_one.is_some() || self.steps == 1 {
            return None;
        }
        let mut one_of = vec![FILLED; self.group_count];
        for (row, group) in self.one_groups.iter().enumerate() {
            if std::mem::replace(&mut one_of[*group as usize], row as u32) != FILLED {
                return None;
            }
        }
        let partners: Vec<u32> = self.many_groups.iter().map(|group| one_of[*group as usize]).collect();
        let mut groups_seen = vec![false; self.group_count];
        let mut results_seen: HashSet<(u32, Labels), RandomState> = HashSet::default();
        let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        let same_labels = self.matching.include.is_empty() && !changes_metric(self.binary.op) && !self.drop_names;
        for (many, (group, one)) in self.many_groups.iter().zip(&partners).enumerate() {
            let new = if one_to_one {
                !std::mem::replace(&mut groups_seen[*group as usize], true)
            } else {
                // Results that keep their labels differ as their rows do.
                *one == FILLED || same_labels || results_seen.insert((*group, self.result_labels(many as u32, *one)))
            };
            if !new {
                return None;
            }
        }
        Some(partners)
    }

    fn run_columns(&mut self, partners: &[u32]) {
        for (many, one) in partners.iter().enumerate() {
            let one = *one;
            if one == FILLED {
                continue;
            }
            let (left, right) = (&self.many.rows[many], &self.one.rows[one as usize]);
            if left.histograms.is_none() && right.histograms.is_none() && self.plain_columns(many, one as usize) {
                continue;
            }
            for step in 0..self.steps {
                let samples = (self.many.rows[many].sample(step), self.one.rows[one as usize].sample(step));
                if let (Some(left), Some(right)) = samples {
                    let result = self.combine(&left, &right, step);
                    self.put(many as u32, one, step, result);
                }
            }
        }
    }

    /// Combines two columns of floats; false when the operator is none for floats.
    fn plain_columns(&mut self, many: usize, one: usize) -> bool {
        let op = self.binary.op;
        let (a, b) = (&self.many.rows[many].floats, &self.one.rows[one].floats);
        let (a, b) = if self.swapped { (b, a) } else { (a, b) };
        let pairs = a.iter().zip(b);
        let both = |a: f64, b: f64| !is_absent(a) && !is_absent(b);
        let floats: Floats = if arithmetic(op, 1.0, 1.0).is_some() {
            pairs
                .map(|(a, b)| if both(*a, *b) { arithmetic(op, *a, *b).unwrap_or(f64::NAN) } else { absent() })
                .collect()
        } else if comparison(op, 1.0, 1.0).is_some() {
            let return_bool = self.binary.return_bool;
            pairs
                .map(|(a, b)| match (both(*a, *b), comparison(op, *a, *b)) {
                    (true, Some(holds)) if return_bool => f64::from(u8::from(holds)),
                    (true, Some(true)) => *a,
                    _ => absent(),
                })
                .collect()
        } else {
            return false;
        };
        let labels = self.result_labels(many as u32, one as u32);
        self.out.push(Row { labels, drop_name: self.binary.return_bool, floats, histograms: None });
        true
    }

    /// One step of the general case, with upstream's errors.
    ///
    /// Source: prometheus `evaluator.VectorBinop`.
    fn run_step(&mut self, step: usize) -> Result<(), QueryError> {
        let gone = |grid: &Grid| !grid.rows.iter().any(|row| row.is_present(step));
        if self.fill_many.is_none() && self.fill_one.is_none() && (gone(&self.many) || gone(&self.one)) {
            // Nothing is going to match: upstream does not even look for duplicates.
            return Ok(());
        }
        let mut partner = vec![FILLED; self.group_count];
        for row in 0..self.one.rows.len() {
            if !self.one.rows[row].is_present(step) {
                continue;
            }
            let slot = &mut partner[self.one_groups[row] as usize];
            if *slot != FILLED {
                let known = *slot as usize;
                return Err(self.many_to_many(known, row));
            }
            *slot = row as u32;
        }
        let mut matched = vec![false; self.group_count];
        let mut made: Made = Vec::new();
        for many in 0..self.many.rows.len() {
            let Some(left) = self.many.rows[many].sample(step) else { continue };
            let group = self.many_groups[many] as usize;
            let one = partner[group];
            let right = match (one, self.fill_one) {
                (FILLED, None) => continue,
                (FILLED, Some(fill)) => Sample::Float(fill),
                (row, _) => match self.one.rows[row as usize].sample(step) {
                    Some(sample) => sample,
                    None => continue,
                },
            };
            self.element(many as u32, one, &left, &right, step, group, &mut matched, &mut made)?;
        }
        let Some(fill) = self.fill_many else { return Ok(()) };
        for row in 0..self.one.rows.len() {
            let Some(right) = self.one.rows[row].sample(step) else { continue };
            let group = self.one_groups[row] as usize;
            if !matched[group] {
                self.element(FILLED, row as u32, &Sample::Float(fill), &right, step, group, &mut matched, &mut made)?;
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn element(
        &mut self,
        many: u32,
        one: u32,
        left: &Sample,
        right: &Sample,
        step: usize,
        group: usize,
        matched: &mut [bool],
        made: &mut Made,
    ) -> Result<(), QueryError> {
        let Some(result) = self.combine(left, right, step) else { return Ok(()) };
        if self.matching.cardinality == Cardinality::OneToOne {
            if std::mem::replace(&mut matched[group], true) {
                const WHY: &str =
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                return Err(QueryError::Execution(WHY.to_owned()));
            }
        } else {
            matched[group] = true;
            if made.is_empty() {
                made.resize(self.group_count, HashSet::default());
            }
            let labels = self.labels_of(many, one);
            // A group may have all series of the many side: looking through them would take their square.
            if !made[group].insert(labels) {
                const WHY: &str = "multiple matches for labels: grouping labels must ensure unique matches";
                return Err(QueryError::Execution(WHY.to_owned()));
            }
        }
        self.put(many, one, step, Some(result));
        Ok(())
    }

    /// What the operator makes of two samples; `None` when it failed. The inner `None` is a comparison that does not
    /// hold.
    #[allow(clippy::option_option)]
    fn combine(&mut self, many: &Sample, one: &Sample, step: usize) -> Option<Option<Sample>> {
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        let element = elements::elements(self.binary.op, left, right);
        let failed = element.failure.is_some();
        if let Some(note) = element.failure.or(element.info) {
            remember(&mut self.last_note, self.steps, step, note);
        }
        if failed {
            return None;
        }
        if self.binary.return_bool {
            return Some(Some(Sample::Float(f64::from(u8::from(element.keep)))));
        }
        Some(element.value.filter(|_| element.keep))
    }

    #[allow(clippy::option_option)]
    fn put(&mut self, many: u32, one: u32, step: usize, result: Option<Option<Sample>>) {
        let Some(Some(sample)) = result else { return };
        let at = match self.out_index.get(&(many, one)) {
            Some(at) => *at,
            None => {
                let mut row = Row::empty(self.result_labels(many, one), self.steps);
                row.drop_name = self.binary.return_bool;
                self.out.push(row);
                self.out_index.insert((many, one), self.out.len() - 1);
                self.out.len() - 1
            }
        };
        self.out[at].set(step, Some(sample));
    }

    fn labels_of(&self, many: u32, one: u32) -> Labels {
        match self.out_index.get(&(many, one)) {
            Some(at) => self.out[*at].labels.clone(),
            None => self.result_labels(many, one),
        }
    }

    fn side(&self, grid: &Grid, row: u32, other: &Grid, other_row: u32) -> Labels {
        match grid.rows.get(row as usize) {
            Some(row) => row.labels.clone(),
            // A fill value has the labels by which its partner is matched.
            None => match_labels(&other.rows[other_row as usize].labels, self.matching),
        }
    }

    /// The labels of a result.
    ///
    /// Source: prometheus `promql.resultMetric`.
    fn result_labels(&self, many: u32, one: u32) -> Labels {
        let many_labels = self.side(&self.many, many, &self.one, one);
        let mut labels = many_labels.to_builder();
        if self.drop_names || changes_metric(self.binary.op) {
            for name in [METRIC_NAME, "__type__", "__unit__"] {
                debug_assert!(is_metadata(name));
                labels.remove(name);
            }
        }
        let Matching { on, cardinality, include, .. } = self.matching;
        let listed = &self.matching.labels;
        if *cardinality == Cardinality::OneToOne {
            keep(&mut labels, |name| listed.iter().any(|label| label == name) == *on);
        }
        if !include.is_empty() {
            let one_labels = self.side(&self.one, one, &self.many, many);
            for name in include {
                labels.set(name, one_labels.value(name));
            }
        }
        labels.build()
    }

    fn many_to_many(&self, known: usize, row: usize) -> QueryError {
        let (a, b) = (&self.one.rows[row].labels, &self.one.rows[known].labels);
        let group = match_labels(a, self.matching);
        let mut texts = [a.to_string(), b.to_string()];
        texts.sort();
        let side = if self.swapped { "left" } else { "right" };
        QueryError::Execution(format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{}, {}];\
             many-to-many matching not allowed: matching labels must be unique on one side",
            texts[0], texts[1]
        ))
    }
}

fn keep(labels: &mut LabelsBuilder, wanted: impl Fn(&str) -> bool) {
    let unwanted: Vec<String> = labels.iter().map(|(name, _)| name.to_owned()).filter(|name| !wanted(name)).collect();
    for name in unwanted {
        labels.remove(&name);
    }
}
