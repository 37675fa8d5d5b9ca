//! Looking at values inside the model while it runs.

use crate::device::Device;
use crate::error::Result;
use crate::plan::PlannedProbe;
use crate::session::bytes_of_mut;
use jetbin::ProbeKind;

/// What is called with every value that the program has a probe for.
pub type Observer<'o> = Option<&'o mut dyn FnMut(Observation<'_>)>;

/// A value, right after the step that made it.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// What it is.
    pub kind: ProbeKind,
    /// The row of the call that the first row here belongs to.
    pub first_row: u32,
    /// `[rows, hidden_size]`.
    pub values: &'a [f32],
    /// Columns.
    pub hidden_size: usize,
}

/// A value on its way to an observer.
pub(crate) struct Seen {
    kind: ProbeKind,
    first_row: u32,
    values: Vec<f32>,
    hidden_size: usize,
}

impl Seen {
    /// Reads the rows of a window, first row and number of rows.
    pub fn read(device: &mut dyn Device, probe: &PlannedProbe, window: (u32, u32), hidden: usize) -> Result<Self> {
        let (first, rows) = window;
        let skipped = if probe.follows_window { u64::from(first) } else { 0 };
        let mut values = vec![0.0; rows as usize * hidden];
        for (row, values) in (skipped..).zip(values.chunks_exact_mut(hidden)) {
            device.download(probe.address + row * probe.row_bytes, bytes_of_mut(values))?;
        }
        Ok(Self { kind: probe.probe.kind, first_row: first, values, hidden_size: hidden })
    }

    /// What the observer sees.
    pub fn view(&self) -> Observation<'_> {
        let Self { kind, first_row, ref values, hidden_size } = *self;
        Observation { kind, first_row, values, hidden_size }
    }
}
