//! The rows that stages hand to each other: a block each.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Int32Array, RecordBatch, UInt32Array, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

use crate::error::Error;

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Of this shuffle; of none, see [`NO_SHUFFLE`].
    pub(crate) shuffle: u64,
    /// Made by this map task.
    pub(crate) map: u32,
    /// For this partition.
    pub(crate) reduce: u32,
    /// What Ballista hashes to find the partition.
    pub(crate) token: i32,
    /// The block's bytes.
    pub(crate) block: Vec<u8>,
}

/// In rows of sources, which say only which partition is to be made, and of results.
pub(crate) const NO_SHUFFLE: u64 = u64::MAX;
/// The column Ballista hashes.
pub(crate) const TOKEN: usize = 3;

pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("shuffle", DataType::UInt64, false),
        Field::new("map", DataType::UInt32, false),
        Field::new("reduce", DataType::UInt32, false),
        Field::new("token", DataType::Int32, false),
        Field::new("block", DataType::Binary, false),
    ]))
}

pub(crate) fn to_batch(rows: &[Row]) -> Result<RecordBatch> {
    let mut blocks = BinaryBuilder::new();
    rows.iter().for_each(|row| blocks.append_value(&row.block));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(
            rows.iter().map(|r| r.shuffle),
        )),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.map))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.reduce))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.token))),
        Arc::new(blocks.finish()),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// Takes in the rows of a batch, by the partition they are for.
pub(crate) fn sort_in(
    batch: &RecordBatch,
    rows: &mut BTreeMap<u32, Vec<Row>>,
) -> Result<(), Error> {
    fn column<'a, T: 'static>(batch: &'a RecordBatch, i: usize) -> Result<&'a T, Error> {
        batch
            .columns()
            .get(i)
            .and_then(|column| column.as_any().downcast_ref::<T>())
            .ok_or_else(|| Error::Rows {
                what: format!("column {i} is not a block's"),
            })
    }
    let shuffles = column::<UInt64Array>(batch, 0)?;
    let maps = column::<UInt32Array>(batch, 1)?;
    let reduces = column::<UInt32Array>(batch, 2)?;
    let tokens = column::<Int32Array>(batch, TOKEN)?;
    let blocks = column::<BinaryArray>(batch, 4)?;
    for i in 0..batch.num_rows() {
        rows.entry(reduces.value(i)).or_default().push(Row {
            shuffle: shuffles.value(i),
            map: maps.value(i),
            reduce: reduces.value(i),
            token: tokens.value(i),
            block: blocks.value(i).to_vec(),
        });
    }
    Ok(())
}
