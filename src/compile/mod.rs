//! The composer: a checkpoint through all crates to one artifact.
//!
//! ```text
//! frontend -> graph -> passes (fuse, per target and phase) -> codegen (a kernel for each group) -> memory plan -> jetbin
//! ```

mod cubin;
mod dump;
mod options;
pub mod price;
mod program;
mod recipe;
mod states;
mod target;
mod weights;

pub use options::{CompileRequest, ProgramSummary, Settings, Summary, TargetSummary, settle};
pub use recipe::BYTES;
pub use states::{Limits, SlotPlan, plan_slot};

use anyhow::{Context, Result, bail};
use cubin::Assembler;
use dump::Dump;
use jet_frontend::{ModelConfig, ModelSpec, Sidecar, WeightFormat, WeightSource, WeightsFile, graph};
use jet_ir::{Graph, OutputKind};
use jetbin::{Cubin, DeviceKind, Facts, SectionKind, Writer, WriterOptions};
use std::time::Instant;
use target::{Compiled, compile_target};
pub use target::{Selected, in_parts, narrowed, select_few, select_phase, select_plan, target_desc, target_graph};
use weights::WeightTable;

/// Hears how far a compilation is.
pub trait Progress {
    /// A phase begins that handles so many bytes (0: a short one).
    fn begin(&mut self, what: &str, bytes: u64);
    /// So many more bytes are done.
    fn advance(&mut self, bytes: u64);
}

/// A silent [`Progress`].
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&mut self, _: &str, _: u64) {}
    fn advance(&mut self, _: u64) {}
}

/// A source that has been read and checked: everything about the model but its programs.
pub struct Model {
    /// Where it comes from.
    pub spec: ModelSpec,
    /// Its configuration.
    pub config: ModelConfig,
    /// What the request, the model.toml and the defaults settle.
    pub settings: Settings,
    /// Its tensors.
    pub weights: Box<dyn WeightSource>,
    /// What travels with it.
    pub sidecar: Sidecar,
    /// What it computes, op by op.
    pub graph: Graph,
    /// Things that the user should know.
    pub warnings: Vec<String>,
}

impl Model {
    /// Reads and checks what a request names.
    ///
    /// # Errors
    /// Bad configuration, checkpoint or settings, with everything that is wrong.
    pub fn open(request: &CompileRequest) -> Result<Model> {
        let spec = ModelSpec::open(&request.source)?;
        let config = spec.read_config()?;
        let settled = settle(request, &spec, &config);
        let mut settings = settled.map_err(|problems| anyhow::anyhow!(problems.join("\n")))?;
        let weights = spec.open_weights(&config)?;
        let sidecar = spec.read_sidecar()?;
        let mut warnings: Vec<String> =
            config.warnings().iter().chain(sidecar.warnings()).map(ToString::to_string).collect();
        if request.options.weights.or(spec.compile.weights).is_none() && !all_bf16(&config, weights.as_ref())? {
            settings.weights = WeightFormat::F32;
            warnings.push(
                "weights: the checkpoint is not all bf16, so matrices are stored as f32; `--weights bf16` rounds them"
                    .into(),
            );
        }
        if sidecar.tokenizer.is_none() {
            warnings.push("tokenizer.json: not found, the artifact takes token ids only".into());
        }
        let graph = source_graph(&config, settings.weights)?;
        Ok(Model { spec, config, settings, weights, sidecar, graph, warnings })
    }

    fn facts(&self) -> Result<Facts> {
        let number = |what: &str, n: usize| u32::try_from(n).with_context(|| format!("{what} {n} is beyond 32 bits"));
        let attends = self.graph.ids().any(|id| self.graph.leaf(id).is_some_and(|(_, name)| name == graph::ROPE));
        let Limits { max_context, max_batch, prefill_chunk } = self.settings.limits;
        Ok(Facts {
            name: model_name(self.config.parameter_count()),
            vocab_size: number("vocab_size", self.config.vocab)?,
            hidden_size: number("hidden_size", self.config.hidden)?,
            n_layers: number("num_hidden_layers", self.config.layers.len())?,
            rope_dim: if attends { number("head_dim", self.config.head_dim)? } else { 0 },
            max_context,
            max_batch,
            prefill_chunk,
            eos_ids: self.sidecar.eos_token_ids(&self.config),
        })
    }
}

/// The graph that is compiled: the model's, with the probes that programs can offer.
///
/// # Errors
/// Sizes that do not fit together.
pub fn source_graph(config: &ModelConfig, weights: WeightFormat) -> Result<Graph> {
    let mut graph = graph::model_graph(config, weights)?;
    // Read from the rows that the kernel of the logits stages: as an output it would keep the norm out of that kernel.
    graph.outputs.retain(|o| o.kind != OutputKind::Probe || o.name != "last_hidden");
    Ok(graph)
}

fn all_bf16(config: &ModelConfig, weights: &dyn WeightSource) -> Result<bool> {
    for spec in config.tensors().iter().filter(|t| t.shape.len() == 2) {
        if weights.info(&spec.name)?.dtype != jet_frontend::WeightDtype::Bf16 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compiles what `request` names and writes the artifact; on an error nothing appears at its path.
///
/// # Errors
/// Bad input, a model or target without kernels, or the file system.
pub fn compile(request: &CompileRequest, progress: &mut dyn Progress) -> Result<Summary> {
    let start = Instant::now();
    progress.begin("reading", 0);
    let model = Model::open(request)?;
    let dump = Dump::create(request.dump.as_deref())?;
    dump.write("model.jir", &model.graph)?;
    let mut weights = WeightTable::new(model.weights.as_ref());
    let mut compiled = vec![];
    for (index, name) in model.settings.targets.iter().enumerate() {
        progress.begin(&format!("compiling for {name}"), 0);
        compiled.push(compile_target(&model, (index as u32, name), &mut weights, &dump)?);
    }
    let assembler = assemble(request, &mut compiled, progress)?;
    let external = match model.settings.weights_file {
        WeightsFile::Embed => None,
        WeightsFile::External => Some(request.output.with_extension("weights")),
    };
    let mut writer = Writer::create(&request.output, WriterOptions { external_weights: external, sync: false })?;
    write_sections(&mut writer, &model, (&compiled, assembler.as_ref()))?;
    let before = start.elapsed().as_secs_f64();
    progress.begin("packing weights", weights.bytes());
    weights.write(&mut writer, &mut |bytes| progress.advance(bytes))?;
    let packing = start.elapsed().as_secs_f64() - before;
    let written = writer.finish()?;
    Ok(Summary {
        bytes: written.bytes,
        weight_bytes: written.weight_bytes,
        identity: written.identity.iter().map(|b| format!("{b:02x}")).collect(),
        targets: compiled.into_iter().map(|c| c.summary).collect(),
        warnings: model.warnings,
        seconds: (start.elapsed().as_secs_f64(), packing),
    })
}

/// Assembles the code of all GPU targets at once, if there is an assembler and nobody said no.
fn assemble(
    request: &CompileRequest,
    compiled: &mut [Compiled],
    progress: &mut dyn Progress,
) -> Result<Option<Assembler>> {
    let mut gpus: Vec<&mut Compiled> = compiled.iter_mut().filter(|c| c.desc.device == DeviceKind::Cuda).collect();
    if request.no_cubin || gpus.is_empty() {
        return Ok(None);
    }
    let Some(assembler) = Assembler::find()? else { return Ok(None) };
    let names: Vec<_> = gpus.iter().map(|c| c.desc.name.as_str()).collect();
    progress.begin(&format!("assembling for {}", names.join(", ")), 0);
    let each = |target: &mut Compiled| -> Result<()> {
        let cubin = assembler.assemble(&target.desc.arch, &target.code)?;
        target.summary.assembled = Some((cubin.len(), assembler.version.clone()));
        target.cubin = Some(cubin);
        Ok(())
    };
    let each = &each;
    std::thread::scope(|scope| {
        let threads: Vec<_> = gpus.iter_mut().map(|target| scope.spawn(move || each(target))).collect();
        let joined =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("assembling panicked, a defect of jetc")));
        joined.collect::<Result<()>>()
    })?;
    Ok(Some(assembler))
}

/// A name for people that depends on the model alone: `jet-nemotron-2.0b`, `jet-nemotron-4.0m`.
fn model_name(parameters: u64) -> String {
    let (unit, letter) = if parameters < 1_000_000_000 { (1e6, 'm') } else { (1e9, 'b') };
    format!("jet-nemotron-{:.1}{letter}", parameters as f64 / unit)
}

fn write_sections(
    writer: &mut Writer,
    model: &Model,
    (compiled, assembler): (&[Compiled], Option<&Assembler>),
) -> Result<()> {
    writer.bytes(SectionKind::Recipe, recipe::recipe(model, assembler.map(|a| a.version.as_str()))?.as_bytes())?;
    writer.bytes(SectionKind::Model, &std::fs::read(&model.spec.config)?)?;
    let facts = model.facts()?;
    writer.facts(&facts)?;
    if facts.rope_dim > 0 {
        writer.inv_freq(&model.config.inv_freq())?;
    }
    for (index, target) in compiled.iter().enumerate() {
        if writer.target(&target.desc, &target.kernels, &target.code)? != index as u32 {
            bail!("target {} has another index in the artifact", target.desc.name);
        }
        writer.states(index as u32, target.slot.slot_bytes, &target.slot.states)?;
        if target.desc.device == DeviceKind::Cuda {
            writer.launches(index as u32, &target.launches)?;
        }
        if let (Some(bytes), Some(assembler)) = (&target.cubin, assembler) {
            writer.cubin(index as u32, Cubin { version: assembler.release, bytes })?;
        }
        for program in &target.programs {
            writer.program(program)?;
        }
        if let Some(few) = &target.few {
            writer.program_of_few(few)?;
        }
    }
    let sidecar = &model.sidecar;
    if let Some(tokenizer) = &sidecar.tokenizer {
        writer.bytes(SectionKind::Tokenizer, tokenizer)?;
    }
    if let Some(template) = &sidecar.chat_template {
        writer.bytes(SectionKind::ChatTemplate, template.as_bytes())?;
    }
    writer.bytes(SectionKind::Generation, sidecar.generation.to_json().to_string().as_bytes())?;
    if !sidecar.licenses.is_empty() {
        let texts =
            sidecar.licenses.iter().map(|(name, text)| format!("{name}\n\n{}\n", String::from_utf8_lossy(text)));
        writer.bytes(SectionKind::License, texts.collect::<String>().as_bytes())?;
    }
    Ok(())
}
