//! Packed weights: which ones the kernels ask for, and their bytes, streamed into the artifact.

use anyhow::{Context, Result, anyhow, bail};
use jet_codegen::pack::PackSpec;
use jet_frontend::weights::to_bf16;
use jet_frontend::{WeightDtype, WeightSource};
use jet_ir::quant::{Format, quantise};
use jet_ir::{Elem, Graph, Id, Leaf, Mat, NodeKind, Value};
use jetbin::{DType, WeightDesc, Writer};
use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

/// Bytes that one thread packs before they are written.
const BATCH_BYTES: usize = 4 << 20;

/// Where the rows of one source of a packed weight come from.
#[derive(Clone, Debug)]
enum Rows {
    /// A tensor of the checkpoint, read row by row.
    Tensor(String),
    /// A term over weights, evaluated at compile time: one column.
    Folded(Vec<f32>),
}

/// One packed weight of the artifact.
#[derive(Clone, Debug)]
struct Packed {
    spec: PackSpec,
    /// Each source as a term: a tensor's name, or `neg(exp(name))`.
    terms: Vec<String>,
    /// Tensors that the terms mention.
    tensors: Vec<String>,
    rows: Vec<Rows>,
}

/// All packed weights that kernels have asked for, each once.
pub struct WeightTable<'s> {
    source: &'s dyn WeightSource,
    known: HashMap<(PackSpec, Vec<String>), u32>,
    packed: Vec<Packed>,
}

impl<'s> WeightTable<'s> {
    /// An empty table over a source of tensors.
    pub fn new(source: &'s dyn WeightSource) -> WeightTable<'s> {
        WeightTable { source, known: HashMap::new(), packed: vec![] }
    }

    /// Index of the weight made of the constants `sources` of `graph` in the layout `spec`.
    ///
    /// # Errors
    /// A source that is not a constant, or a tensor that cannot be read.
    pub fn index(&mut self, graph: &Graph, spec: PackSpec, sources: &[Id]) -> Result<u32> {
        let terms: Vec<String> = sources.iter().map(|id| term(graph, *id)).collect::<Result<_>>()?;
        if let Some(&known) = self.known.get(&(spec, terms.clone())) {
            return Ok(known);
        }
        let mut tensors = vec![];
        sources.iter().for_each(|id| mentions(graph, *id, &mut tensors));
        let rows = sources.iter().map(|id| self.rows(graph, *id)).collect::<Result<_>>()?;
        let index = self.packed.len() as u32;
        self.packed.push(Packed { spec, terms: terms.clone(), tensors, rows });
        self.known.insert((spec, terms), index);
        Ok(index)
    }

    /// Bytes of all packed weights, without the space between them.
    pub fn bytes(&self) -> u64 {
        self.packed.iter().map(|p| p.spec.bytes() as u64).sum()
    }

    fn rows(&self, graph: &Graph, id: Id) -> Result<Rows> {
        match &graph.node(id).kind {
            NodeKind::Leaf(Leaf::Weight, name) => Ok(Rows::Tensor(name.clone())),
            _ => Ok(Rows::Folded(self.fold(graph, id)?.data)),
        }
    }

    /// The value of a term over weights.
    fn fold(&self, graph: &Graph, id: Id) -> Result<Mat<f32>> {
        let node = graph.node(id);
        match &node.kind {
            NodeKind::Leaf(Leaf::Weight, name) => {
                let (rows, cols) = match node.ty {
                    jet_ir::Type::Tensor { rows: jet_ir::Rows::Fixed(rows), cols, .. } => (rows, cols),
                    other => bail!("{name} is {other}, not a weight"),
                };
                Ok(Mat { rows, cols, data: self.source.read_all(name)? })
            }
            NodeKind::Leaf(leaf, name) => bail!("{} `{name}` is not known at compile time", leaf.name()),
            NodeKind::Op(op) => {
                let args =
                    node.args.iter().map(|a| Ok(Value::Mat(self.fold(graph, *a)?))).collect::<Result<Vec<_>>>()?;
                Ok(op.eval(&args.iter().collect::<Vec<_>>()).mat().clone())
            }
        }
    }

    /// Packs and writes every weight in order; `progress` hears of the bytes.
    ///
    /// # Errors
    /// A tensor that cannot be read, or the file system.
    pub fn write(&self, writer: &mut Writer, progress: &mut dyn FnMut(u64)) -> Result<()> {
        for packed in &self.packed {
            let dtype = dtype(packed.spec.elem)?;
            let name = packed.terms.join(" | ");
            let desc = WeightDesc { name, dtype, layout: packed.spec.to_string(), sources: packed.tensors.clone() };
            writer.weight(&desc, |out| {
                self.stream(packed, out, progress).map_err(|e| std::io::Error::other(format!("{e:#}")))
            })?;
        }
        Ok(())
    }

    /// Packs batches on all cores and writes them in order.
    fn stream(&self, packed: &Packed, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let (items, item_bytes) = (packed.spec.items(), packed.spec.item_bytes().max(1));
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let per_batch = (BATCH_BYTES / item_bytes).clamp(1, items.div_ceil(threads).max(1));
        let mut buffers =
            vec![vec![0u8; per_batch.min(items.max(1)) * item_bytes]; threads.min(items.div_ceil(per_batch))];
        let mut next = 0;
        while next < items {
            let mut batches: Vec<(Range<usize>, &mut [u8])> = vec![];
            for buffer in &mut buffers {
                let range = next..(next + per_batch).min(items);
                next = range.end;
                if !range.is_empty() {
                    let bytes = range.len() * item_bytes;
                    batches.push((range, &mut buffer[..bytes]));
                }
            }
            std::thread::scope(|scope| -> Result<()> {
                let pack = |(range, bytes): (Range<usize>, &mut [u8])| self.pack(packed, range, bytes);
                let workers: Vec<_> = batches
                    .iter_mut()
                    .map(|(r, b)| (r.clone(), &mut **b))
                    .map(|job| scope.spawn(move || pack(job)))
                    .collect();
                workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            })?;
            for (_, bytes) in &batches {
                out.write_all(bytes).context("cannot write packed weights")?;
                progress(bytes.len() as u64);
            }
        }
        Ok(())
    }

    fn pack(&self, packed: &Packed, items: Range<usize>, out: &mut [u8]) -> Result<()> {
        let (mut bits, mut floats) = (vec![], vec![0f32; packed.spec.cols]);
        packed.spec.pack(items, out, |source, row, to| match (&packed.rows[source], packed.spec.elem) {
            (Rows::Folded(values), _) => {
                to.copy_from_slice(&values[row].to_le_bytes());
                Ok(())
            }
            (Rows::Tensor(name), Elem::Q8 | Elem::Q4) => {
                self.quantised_row(name, row, packed.spec.elem, &mut floats, to)
            }
            (Rows::Tensor(name), Elem::Bf16) => self.bf16_row(name, row, &mut floats, &mut bits, to),
            (Rows::Tensor(name), _) => {
                self.source.read_rows(name, row..row + 1, &mut floats)?;
                copy(floats.iter().map(|f| f.to_le_bytes()), to);
                Ok(())
            }
        })
    }

    fn quantised_row(&self, name: &str, row: usize, elem: Elem, floats: &mut [f32], image: &mut [u8]) -> Result<()> {
        let format = Format::of(elem).with_context(|| format!("{name}: {} is not quantised", elem.name()))?;
        self.source.read_rows(name, row..row + 1, floats)?;
        quantise(format, floats, image).map_err(|e| anyhow!("{name}: row {row}, {e}"))
    }

    fn bf16_row(&self, name: &str, row: usize, floats: &mut [f32], bits: &mut Vec<u16>, to: &mut [u8]) -> Result<()> {
        if self.source.info(name)?.dtype == WeightDtype::Bf16 {
            let row = self.source.bf16_rows(name, row..row + 1, bits)?;
            copy(row.iter().map(|b| b.to_le_bytes()), to);
        } else {
            self.source.read_rows(name, row..row + 1, floats)?;
            bits.resize(floats.len(), 0);
            to_bf16(floats, bits);
            copy(bits.iter().map(|b| b.to_le_bytes()), to);
        }
        Ok(())
    }
}

/// What the artifact calls an element type.
fn dtype(elem: Elem) -> Result<DType> {
    Ok(match elem {
        Elem::F32 => DType::F32,
        Elem::Bf16 => DType::Bf16,
        Elem::Q8 => DType::Q8,
        Elem::Q4 => DType::Q4,
        Elem::F16 | Elem::I32 => bail!("weights of {} cannot be stored, which is a defect of jetc", elem.name()),
    })
}

fn copy<const N: usize>(from: impl Iterator<Item = [u8; N]>, to: &mut [u8]) {
    to.as_chunks_mut::<N>().0.iter_mut().zip(from).for_each(|(slot, bytes)| *slot = bytes);
}

/// A constant as text that names it across graphs.
fn term(graph: &Graph, id: Id) -> Result<String> {
    let node = graph.node(id);
    match &node.kind {
        NodeKind::Leaf(Leaf::Weight, name) => Ok(name.clone()),
        NodeKind::Leaf(leaf, name) => bail!("{} `{name}` is not known at compile time", leaf.name()),
        NodeKind::Op(op) => {
            let args = node.args.iter().map(|a| term(graph, *a)).chain(op.attrs().into_iter().map(Ok));
            Ok(format!("{}({})", op.info().name, args.collect::<Result<Vec<_>>>()?.join(", ")))
        }
    }
}

fn mentions(graph: &Graph, id: Id, out: &mut Vec<String>) {
    match &graph.node(id).kind {
        NodeKind::Leaf(_, name) if !out.contains(name) => out.push(name.clone()),
        NodeKind::Leaf(..) => {}
        NodeKind::Op(_) => graph.node(id).args.iter().for_each(|a| mentions(graph, *a, out)),
    }
}
