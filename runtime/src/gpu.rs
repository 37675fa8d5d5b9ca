//! What the real GPU and the simulated one share: the walk over a list of launches.

use crate::device::{DeviceError, Launch};

/// Calls `each` for every launch that has work, with the name of its kernel and its words; a failure names the kernel.
pub fn walk(
    names: &[String],
    launches: &[Launch],
    words: &[u64],
    mut each: impl FnMut(&str, &Launch, &[u64]) -> Result<(), String>,
) -> Result<(), DeviceError> {
    for launch in launches.iter().filter(|l| l.active > 0) {
        let unknown = || DeviceError::new("launch", format!("kernel {} of {}", launch.kernel, names.len()));
        let name = names.get(launch.kernel as usize).ok_or_else(unknown)?;
        each(name, launch, launch.words_of(words, 0))
            .map_err(|e| DeviceError::new("launch", format!("{name}: {e}")))?;
    }
    Ok(())
}
