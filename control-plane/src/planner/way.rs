//! Ways between pairs of nodes.

use super::grid::Grid;

/// Who stands between two nodes: nobody, one or two others, by their places in the problem, in the order from the one to
/// the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Way {
    /// Nobody.
    #[default]
    Straight,
    /// One node.
    Over(usize),
    /// Two nodes.
    OverTwo(usize, usize),
}

impl Way {
    /// The same way from the other end.
    pub(super) fn back(self) -> Self {
        match self {
            Self::OverTwo(first, second) => Self::OverTwo(second, first),
            way @ (Self::Straight | Self::Over(_)) => way,
        }
    }

    /// Who stands between, in order.
    pub(super) fn between(self) -> impl Iterator<Item = usize> {
        let (first, second) = match self {
            Self::Straight => (None, None),
            Self::Over(node) => (Some(node), None),
            Self::OverTwo(first, second) => (Some(first), Some(second)),
        };
        first.into_iter().chain(second)
    }
}

/// A way for every pair, the same in both directions.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Ways(Grid<Way>);

impl Ways {
    /// All straight.
    pub(super) fn straight(count: usize) -> Self {
        Self(Grid::new(count, Way::Straight))
    }

    /// The way from one node to another.
    pub(super) fn of(&self, from: usize, to: usize) -> Way {
        self.0.at(from, to)
    }

    /// Sets the way from one node to another, and back.
    pub(super) fn set(&mut self, from: usize, to: usize, way: Way) {
        self.0.set(from, to, way);
        self.0.set(to, from, way.back());
    }

    pub(super) fn is_straight(&self, from: usize, to: usize) -> bool {
        self.of(from, to) == Way::Straight
    }
}
