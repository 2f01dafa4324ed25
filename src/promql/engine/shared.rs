//! Parts that stand in a query more than once, letter for letter: evaluated once, their rows and remarks used again.
//!
//! A part's remarks name places in the query, so those of the second are those of the first, further on. Samples are
//! counted as often as the part stands there, as upstream counts them.

use std::sync::Arc;

use super::QueryError;
use super::annotations::Annotations;
use super::eval::Evaluator;
use super::grid::{Grid, Steps};
use super::plan::SharedNode;
use crate::parser::Span;

/// The parts of one query, and the values of those that will be asked for again.
#[derive(Default)]
pub(crate) struct SharedParts {
    nodes: Arc<Vec<SharedNode>>,
    values: Vec<Option<Value>>,
}

struct Value {
    grid: Grid,
    steps: Steps,
    /// Where it stood when it was evaluated.
    span: Span,
    annotations: Annotations,
    samples: u64,
    /// How many nodes have not asked yet.
    left: u32,
}

impl SharedParts {
    pub fn nodes(&self) -> Arc<Vec<SharedNode>> {
        Arc::clone(&self.nodes)
    }

    /// Whether a part stands in the plan once, after all.
    pub fn is_single(&self, number: usize) -> bool {
        self.nodes[number].uses == 1
    }
}

impl Evaluator<'_> {
    pub fn share(&mut self, nodes: Vec<SharedNode>) {
        let values = nodes.iter().map(|_| None).collect();
        self.shared = SharedParts { nodes: Arc::new(nodes), values };
    }

    /// The value of a part at some place of the query.
    pub fn shared_grid(&mut self, number: usize, span: Span, steps: Steps) -> Result<Grid, QueryError> {
        let nodes = self.shared.nodes();
        let SharedNode { node, uses, .. } = &nodes[number];
        if *uses == 1 {
            return self.grid(node, steps);
        }
        if let Some(mut value) = self.shared.values[number].take() {
            if value.steps != steps {
                return Err(QueryError::Execution("a part of the query was needed at other steps".to_owned()));
            }
            self.annotations.add_again(&value.annotations, value.span, span);
            self.count_all(value.samples);
            value.left -= 1;
            if value.left == 0 {
                // What was held for the copy is held for the value now.
                return Ok(value.grid);
            }
            let grid = value.grid.clone();
            self.shared.values[number] = Some(value);
            self.hold(grid.samples())?;
            return Ok(grid);
        }
        let (before, counted) = (std::mem::take(&mut self.annotations), self.counted());
        let grid = self.grid(node, steps)?;
        let annotations = std::mem::replace(&mut self.annotations, before);
        self.annotations.add_again(&annotations, node.span, span);
        let (samples, left) = (self.counted() - counted, uses - 1);
        self.hold(grid.samples())?;
        self.shared.values[number] =
            Some(Value { grid: grid.clone(), steps, span: node.span, annotations, samples, left });
        Ok(grid)
    }
}
