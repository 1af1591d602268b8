//! Flat arrays of `NumPy`, in and out, and values that groups divide.

use std::convert::Infallible;

use esscher_core::{Offsets, Result};
use numpy::{Element, IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::gate::{self, Threads};

/// An array that comes in, without a copy.
pub type Array<'py, T> = PyReadonlyArray1<'py, T>;

/// Numbers that go out as a new array, without a copy.
pub struct New<T>(pub Vec<T>);

impl<'py, T: Element> IntoPyObject<'py> for New<T> {
    type Target = PyArray1<T>;
    type Output = Bound<'py, Self::Target>;
    type Error = Infallible;

    fn into_pyobject(self, py: Python<'py>) -> std::result::Result<Self::Output, Infallible> {
        Ok(self.0.into_pyarray(py))
    }
}

/// As [`gate::run`], with `values` that `groups` divide; each is read about `times` times.
pub fn with_grouped_values<T: Send>(
    py: Python<'_>,
    threads: Option<Threads>,
    (values, groups): (&Array<'_, f64>, &Array<'_, i64>),
    times: usize,
    work: impl FnOnce(&[f64], &Offsets<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let (values, groups) = (values.as_slice()?, groups.as_slice()?);
    gate::run(py, threads, values.len() * times, || work(values, &Offsets::new("groups", groups, values.len())?))
}
