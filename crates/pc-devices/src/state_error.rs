//! Why a saved state was turned down.

/// A field of a saved state holds a value that the device can never reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} state: field {field} is out of range")]
pub struct InvalidState {
    /// The device that was to be restored.
    pub device: &'static str,
    /// The field as it is named in the state structure.
    pub field: &'static str,
}

/// `Ok` when `valid`, else names the field.
pub(crate) fn check(
    valid: bool,
    device: &'static str,
    field: &'static str,
) -> Result<(), InvalidState> {
    if valid {
        Ok(())
    } else {
        Err(InvalidState { device, field })
    }
}
