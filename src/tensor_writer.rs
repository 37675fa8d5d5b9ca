//! Writes a safetensors file tensor by tensor, without holding it in memory.

use jet_frontend::tensor_file::ElementType;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A tensor to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Name, unique in the file.
    pub name: String,
    /// Type of the elements.
    pub element: ElementType,
    /// Length of every axis.
    pub shape: Vec<usize>,
}

impl Planned {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.element.bytes() as u64
    }
}

/// A file under construction. It gets its name when it is finished; dropped before that, it leaves nothing behind.
pub struct TensorWriter {
    out: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    expected: u64,
    written: u64,
}

impl TensorWriter {
    /// Starts a file that will hold these tensors, in this order.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path, tensors: &[Planned]) -> io::Result<TensorWriter> {
        let mut offset = 0;
        let mut header = serde_json::Map::new();
        for tensor in tensors {
            let end = offset + tensor.bytes();
            let entry = serde_json::json!({ "dtype": tensor.element.name(), "shape": tensor.shape, "data_offsets": [offset, end] });
            header.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(name);
        let out = BufWriter::with_capacity(1 << 20, File::create_new(&temporary)?);
        let mut writer = TensorWriter { out, temporary, path: path.into(), expected: offset, written: 0 };
        writer.out.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.out.write_all(&header)?;
        Ok(writer)
    }

    /// Appends little-endian elements.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If the file system fails, or not all of the planned bytes were appended.
    pub fn finish(mut self) -> io::Result<()> {
        if self.written != self.expected {
            let text = format!("{} bytes of tensors written, {} planned", self.written, self.expected);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.out.flush()?;
        std::fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for TensorWriter {
    fn drop(&mut self) {
        // After `finish` the temporary name is gone; before, nobody can use a part of a file.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned() -> [Planned; 2] {
        [
            Planned { name: "b".into(), element: ElementType::Bf16, shape: vec![3] },
            Planned { name: "a".into(), element: ElementType::F32, shape: vec![2, 1] },
        ]
    }

    #[test]
    fn a_file_holds_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut writer = TensorWriter::create(&path, &planned()).unwrap();
        writer.append(&[1, 2, 3, 4, 5, 6]).unwrap();
        writer.append(&1.5f32.to_le_bytes()).unwrap();
        writer.append(&2.5f32.to_le_bytes()).unwrap();
        writer.finish().unwrap();
        let file = jet_frontend::tensor_file::TensorFile::open(&path).unwrap();
        assert_eq!(file.read_f32("a").unwrap(), [1.5, 2.5]);
        assert_eq!(file.bytes(file.entry("b").unwrap()), [1, 2, 3, 4, 5, 6]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut writer = TensorWriter::create(&path, &planned()).unwrap();
        writer.append(&[0; 13]).unwrap();
        assert!(writer.finish().unwrap_err().to_string().starts_with("13 bytes of tensors written, 14 planned"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
