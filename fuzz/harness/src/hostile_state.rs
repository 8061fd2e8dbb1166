//! Saved states that nobody saved: a good one with some of its leaves replaced.

use arbitrary::{Result, Unstructured};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Replaces up to four leaves of `state`; `None` when the outcome has another shape than a state.
pub(crate) fn hostile<S>(u: &mut Unstructured<'_>, state: &S) -> Result<Option<S>>
where
    S: Serialize + DeserializeOwned,
{
    let mut value = serde_json::to_value(state).expect("a state is plain data");
    for _ in 0..u.int_in_range(0..=4)? {
        let count = leaves(&mut value).len();
        let chosen = u.choose_index(count.max(1))?;
        if let Some(leaf) = leaves(&mut value).into_iter().nth(chosen) {
            replace(u, leaf)?;
        }
    }
    Ok(serde_json::from_value(value).ok())
}

fn leaves(value: &mut Value) -> Vec<&mut Value> {
    if value.as_array().is_some_and(|items| !items.is_empty()) {
        let items = value.as_array_mut().expect("just seen");
        return items.iter_mut().flat_map(leaves).collect();
    }
    if value.is_object() {
        let fields = value.as_object_mut().expect("just seen");
        return fields.values_mut().flat_map(leaves).collect();
    }
    vec![value]
}

fn replace(u: &mut Unstructured<'_>, leaf: &mut Value) -> Result<()> {
    *leaf = match leaf {
        Value::Bool(set) => Value::Bool(!*set),
        Value::Array(_) => Value::Array(vec![Value::from(u.arbitrary::<u8>()?)]),
        Value::String(_) => return Ok(()),
        _ => match u.int_in_range(0..=4)? {
            0 => Value::Null,
            1 => Value::from(u.arbitrary::<u8>()?),
            2 => Value::from(u.arbitrary::<u32>()?),
            3 => Value::from(u.arbitrary::<u64>()?),
            _ => Value::from(u.arbitrary::<i64>()?),
        },
    };
    Ok(())
}
