//! CSV files as datasets, read through Arrow.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_csv::ReaderBuilder;

use crate::context::Context;
use crate::data::Data;
use crate::rdd::Rdd;
use crate::task::TaskError;

impl Context {
    /// The rows of CSV files, a partition for each file, since only its start tells what is quoted in it. `reader` says
    /// how they are read, `rows` makes elements of a batch of columns.
    ///
    /// An action fails when a file cannot be read, or a row does not fit the schema.
    ///
    /// # Panics
    ///
    /// When there are no files.
    pub fn csv_files<T: Data>(
        &self,
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
        reader: impl Fn() -> ReaderBuilder + Send + Sync + 'static,
        rows: impl Fn(&RecordBatch) -> Vec<T> + Send + Sync + 'static,
    ) -> Rdd<T> {
        let paths: Vec<PathBuf> = paths.into_iter().map(|p| p.as_ref().to_owned()).collect();
        assert!(!paths.is_empty(), "a dataset has at least one partition");
        self.rdd(
            "csvFiles",
            paths.len(),
            vec![],
            None,
            move |p, task, sink| {
                let failed = |source| TaskError::Source {
                    path: paths[p].clone(),
                    source,
                };
                let file = File::open(&paths[p]).map_err(failed)?;
                let wrong = |error| failed(io::Error::other(error));
                for batch in reader().build(file).map_err(wrong)? {
                    let batch = batch.map_err(wrong)?;
                    task.took(batch.num_rows())?;
                    sink(rows(&batch))?;
                }
                Ok(())
            },
        )
    }
}
