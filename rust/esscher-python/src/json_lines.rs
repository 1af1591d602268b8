//! Lines of JSON, and Arrow's buffers of their columns.

use esscher_core::json_lines::{self, Column, Kind, Values, bits};
use numpy::{Element, IntoPyArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::gate::{self, Threads};

/// The columns that lines hold, given one text after the other.
#[pyclass]
#[derive(Default)]
pub struct JsonLines(json_lines::Scan);

#[pymethods]
impl JsonLines {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Look through the lines behind those already seen.
    #[pyo3(signature = (text, threads=None))]
    fn see(&mut self, py: Python<'_>, text: &[u8], threads: Option<Threads>) -> PyResult<()> {
        gate::run(py, threads, text.len(), || self.0.see(text))
    }

    /// How many lines hold an object.
    #[getter]
    fn rows(&self) -> usize {
        self.0.rows
    }

    /// The columns and the kinds of their values: the name of a kind, a list of one kind, or the kinds of an object's keys.
    #[getter]
    fn kinds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        object_of(py, &Kind::Record(self.0.columns()))
    }
}

/// The rows of a text in batches, each as the parts of a column of objects, and how many lines there were.
#[pyfunction]
#[pyo3(signature = (text, kinds, before, threads=None))]
pub fn read_json_lines<'py>(
    py: Python<'py>,
    text: &[u8],
    kinds: Bound<'py, PyDict>,
    before: usize,
    threads: Option<Threads>,
) -> PyResult<(Vec<Parts<'py>>, usize)> {
    let kinds = members(&kinds)?;
    let batches = gate::run(py, threads, text.len(), || json_lines::read(text, &kinds, before))?;
    let lines = batches.iter().map(|batch| batch.lines).sum();
    let rows = batches.into_iter().map(|batch| Ok((batch.rows, vec![None], all_parts(py, batch.columns)?)));
    Ok((rows.collect::<PyResult<_>>()?, lines))
}

/// Length, buffers and children of a column, as Arrow lays them out.
type Parts<'py> = (usize, Vec<Option<Bound<'py, PyAny>>>, Vec<Bound<'py, PyAny>>);

const NAMES: [(Kind, &str); 6] = [
    (Kind::Null, "null"),
    (Kind::Boolean, "bool"),
    (Kind::Integer, "int64"),
    (Kind::Double, "double"),
    (Kind::Text, "string"),
    (Kind::Json, "json"),
];

fn object_of<'py>(py: Python<'py>, kind: &Kind) -> PyResult<Bound<'py, PyAny>> {
    match kind {
        Kind::List(kind) => Ok(PyList::new(py, [object_of(py, kind)?])?.into_any()),
        Kind::Record(kinds) => {
            let members = PyDict::new(py);
            for (name, kind) in kinds {
                members.set_item(name, object_of(py, kind)?)?;
            }
            Ok(members.into_any())
        }
        _ => {
            let name = NAMES.iter().find(|(named, _)| named == kind).map(|(_, name)| *name);
            Ok(name.into_pyobject(py)?.into_any())
        }
    }
}

fn kind_of(object: &Bound<'_, PyAny>) -> PyResult<Kind> {
    if let Ok(kinds) = object.cast::<PyDict>() {
        return members(kinds).map(Kind::Record);
    }
    if let Ok(list) = object.cast::<PyList>() {
        return kind_of(&list.get_item(0)?).map(|kind| Kind::List(Box::new(kind)));
    }
    let name: &str = &object.extract::<String>()?;
    let named = NAMES.iter().find(|(_, other)| *other == name).map(|(kind, _)| kind.clone());
    named.ok_or_else(|| PyValueError::new_err(format!("no column of JSON lines is read as {name}")))
}

fn members(kinds: &Bound<'_, PyDict>) -> PyResult<Vec<(String, Kind)>> {
    kinds.iter().map(|(name, kind)| Ok((name.extract()?, kind_of(&kind)?))).collect()
}

fn all_parts(py: Python<'_>, columns: Vec<Column>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    columns.into_iter().map(|column| parts(py, column)).collect()
}

fn parts(py: Python<'_>, column: Column) -> PyResult<Bound<'_, PyAny>> {
    let len = column.len();
    let (valid, values) = column.into_parts();
    let valid = valid.map(|bits| buffer(py, bits));
    let (buffers, children) = match values {
        Values::Null => (vec![valid], vec![]),
        Values::Boolean(values) => (vec![valid, Some(buffer(py, bits(&values)))], vec![]),
        Values::Integer(values) => (vec![valid, Some(buffer(py, values))], vec![]),
        Values::Double(values) => (vec![valid, Some(buffer(py, values))], vec![]),
        Values::Text(offsets, bytes) | Values::Json(offsets, bytes) => {
            (vec![valid, Some(buffer(py, offsets)), Some(buffer(py, bytes))], vec![])
        }
        Values::List(offsets, elements) => (vec![valid, Some(buffer(py, offsets))], vec![parts(py, *elements)?]),
        Values::Record(record) => (vec![valid], all_parts(py, record.into_columns())?),
    };
    Ok((len, buffers, children).into_pyobject(py)?.into_any())
}

fn buffer<T: Element>(py: Python<'_>, values: Vec<T>) -> Bound<'_, PyAny> {
    values.into_pyarray(py).into_any()
}
