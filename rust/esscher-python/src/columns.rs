//! Token columns as they come from Python: what they are made of, and how they divide into rows.

use esscher_core::padded::Mask;
use esscher_core::{Masked, Padded, Ragged, Result, Rows};
use numpy::{Element, PyReadonlyArray2, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays::Array;

/// float32, float64, or bfloat16 as the uint16 of its bits: flat for ragged rows, two-dimensional for padded ones.
#[derive(FromPyObject)]
pub enum Column<'py> {
    F32(PyReadonlyArrayDyn<'py, f32>),
    F64(PyReadonlyArrayDyn<'py, f64>),
    Bf16(PyReadonlyArrayDyn<'py, u16>),
}

/// Offsets of ragged rows or lengths of padded ones, offsets and mask of ragged rows with gaps, or the mask of padded
/// ones as bytes or integers.
#[derive(FromPyObject)]
pub enum Layout<'py> {
    Borders(Array<'py, i64>),
    Gaps(Array<'py, i64>, Array<'py, u8>),
    Bytes(PyReadonlyArray2<'py, u8>),
    Integers(PyReadonlyArray2<'py, i64>),
}

/// A column's values and what divides them, borrowed from Python.
#[derive(Clone, Copy)]
pub struct Source<'a, T> {
    values: &'a [T],
    division: Division<'a>,
}

#[derive(Clone, Copy)]
enum Division<'a> {
    Offsets(&'a [i64]),
    Gaps { offsets: &'a [i64], mask: &'a [u8] },
    Mask { rows: usize, width: usize, mask: Mask<'a> },
}

impl<'a, T: Copy> Source<'a, T> {
    /// How many values there are, padding included.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The same division, of the values that `f` makes of these.
    pub fn map<U>(self, f: impl FnOnce(&'a [T]) -> &'a [U]) -> Source<'a, U> {
        Source { values: f(self.values), division: self.division }
    }
}

impl<'a, T: Copy + Send + Sync> Source<'a, T> {
    /// The rows, checked.
    pub fn rows(self, name: &'static str) -> Result<Box<dyn Rows<T> + 'a>> {
        Ok(match self.division {
            Division::Offsets(offsets) => Box::new(Ragged::new(name, self.values, offsets)?),
            Division::Gaps { offsets, mask } => {
                Box::new(Masked::new(name, Ragged::new(name, self.values, offsets)?, mask)?)
            }
            Division::Mask { rows, width, mask } => Box::new(Padded::new(name, self.values, rows, width, mask)?),
        })
    }
}

/// Borrow an array and its layout.
pub fn source<'a, T: Element>(
    values: &'a PyReadonlyArrayDyn<'_, T>,
    layout: &'a Layout<'_>,
) -> PyResult<Source<'a, T>> {
    if !values.is_c_contiguous() {
        return Err(PyValueError::new_err("the values of a column must lie row after row, without gaps"));
    }
    let padded = |mask| match *values.shape() {
        [rows, width] => Ok(Division::Mask { rows, width, mask }),
        _ => Err(PyValueError::new_err("a mask is for an array of two dimensions")),
    };
    let division = match layout {
        Layout::Borders(offsets) if values.ndim() == 1 => Division::Offsets(offsets.as_slice()?),
        Layout::Gaps(offsets, mask) => Division::Gaps { offsets: offsets.as_slice()?, mask: mask.as_slice()? },
        Layout::Borders(lengths) => padded(Mask::Lengths(lengths.as_slice()?))?,
        Layout::Bytes(mask) if mask.is_c_contiguous() => padded(Mask::Bytes(mask.as_slice()?))?,
        Layout::Integers(mask) if mask.is_c_contiguous() => padded(Mask::Integers(mask.as_slice()?))?,
        _ => return Err(PyValueError::new_err("a mask must lie row after row, without gaps")),
    };
    Ok(Source { values: values.as_slice()?, division })
}
