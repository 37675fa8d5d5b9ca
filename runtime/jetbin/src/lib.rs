//! The artifact format of jetc: types, checked reader, writer.
