//! A square of cells for pairs of small numbers.

/// `width` × `width` cells. Reads outside give the default, writes outside are lost.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Grid<T> {
    width: usize,
    cells: Vec<T>,
}

impl<T: Copy + Default> Grid<T> {
    pub(super) fn new(width: usize, fill: T) -> Self {
        Self {
            width,
            cells: vec![fill; width * width],
        }
    }

    pub(super) fn at(&self, row: usize, column: usize) -> T {
        if column >= self.width {
            return T::default();
        }
        let cell = self.cells.get(row * self.width + column);
        cell.copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, row: usize, column: usize, value: T) {
        if column >= self.width {
            return;
        }
        if let Some(cell) = self.cells.get_mut(row * self.width + column) {
            *cell = value;
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Sets a cell and its mirror image.
    pub(super) fn set_both(&mut self, row: usize, column: usize, value: T) {
        self.set(row, column, value);
        self.set(column, row, value);
    }
}
