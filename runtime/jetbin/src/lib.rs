//! The artifact format of jetc: types, checked reader, writer.
//!
//! `docs/format.md` is the specification.

mod candidates;
mod check;
mod error;
mod features;
mod file;
mod partition;
pub mod print;
mod reader;
mod record;
mod types;
mod view;
mod writer;

pub use candidates::CandidateList;
pub use error::*;
pub use features::{FEATURES, has_feature};
pub use partition::partition;
pub use reader::{Reader, SectionView, WeightPlace, hex};
pub use types::*;
pub use view::{ProgramView, StepView, Table, WeightView};
pub use writer::{Writer, WriterOptions, Written};

/// A reader of another major version must refuse.
pub const MAJOR: u16 = 1;
/// A reader of an older minor version must refuse.
pub const MINOR: u16 = 4;
