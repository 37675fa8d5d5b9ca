//! Names of a kernel: registers, shared variables, parameters, and the registers that hold constants.

use super::Parsed;
use crate::lex::Place;
use crate::module::{Files, Kernel, Preset};
use crate::types::{R32, R64, RP, Reg, Type};
use std::collections::HashMap;

/// A declared shared variable; without a size it is the dynamic shared memory.
#[derive(Clone, Debug)]
pub struct Shared<'t> {
    pub name: &'t str,
    pub place: Place,
    pub align: u32,
    pub bytes: Option<u32>,
}

#[derive(Clone, Debug)]
enum Entry<'t> {
    Register(Reg, Type),
    /// A variable of the module, which takes memory in the kernels that mention it.
    Unplaced(Shared<'t>),
    Placed(Preset),
    Param(usize),
}

/// What names mean at a point of the text.
#[derive(Default)]
pub struct Names<'t> {
    /// Of the module and the parameters; of each block.
    outer: HashMap<String, Entry<'t>>,
    scopes: Vec<HashMap<String, Entry<'t>>>,
    body: HashMap<String, Entry<'t>>,
    files: Files,
    shared_bytes: u32,
    dynamic_align: u32,
    constants32: HashMap<Preset, R32>,
    constants64: HashMap<Preset, R64>,
    truth: HashMap<bool, RP>,
}

/// More registers than any kernel needs; bounds what a hostile text can make us allocate.
const MAX_REGISTERS: u32 = 1 << 18;

impl<'t> Names<'t> {
    fn scope(&mut self) -> &mut HashMap<String, Entry<'t>> {
        self.scopes.last_mut().unwrap_or(&mut self.body)
    }

    pub fn enter(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub fn leave(&mut self) {
        self.scopes.pop();
    }

    fn find(&self, name: &str) -> Option<&Entry<'t>> {
        let inner = self.scopes.iter().rev().find_map(|s| s.get(name));
        inner.or_else(|| self.body.get(name)).or_else(|| self.outer.get(name))
    }

    fn declare(&mut self, name: String, entry: Entry<'t>, place: Place) -> Parsed<()> {
        if self.scope().contains_key(&name) {
            return Err(place.error(format!("found a second declaration of `{name}`")));
        }
        self.scope().insert(name, entry);
        Ok(())
    }

    /// A register of its file.
    fn fresh(&mut self, ty: Type) -> Reg {
        let next = |n: &mut u32| {
            *n += 1;
            *n - 1
        };
        match ty {
            Type::Pred => Reg::P(RP(next(&mut self.files.pred))),
            _ if ty.bytes() == 8 => Reg::D(R64(next(&mut self.files.long))),
            _ => Reg::W(R32(next(&mut self.files.short))),
        }
    }

    pub fn register(&mut self, name: &str, ty: Type, place: Place) -> Parsed<()> {
        if name == "_" {
            return Err(place.error("found `_`, expected the name of a register"));
        }
        if self.files.short + self.files.long + self.files.pred >= MAX_REGISTERS {
            return Err(place.error(format!("found more than {MAX_REGISTERS} registers")));
        }
        let reg = self.fresh(ty);
        self.declare(name.to_string(), Entry::Register(reg, ty), place)
    }

    /// `name0` to `name<count - 1>`.
    pub fn registers(&mut self, name: &str, count: u32, ty: Type, place: Place) -> Parsed<()> {
        (0..count).try_for_each(|n| self.register(&format!("{name}{n}"), ty, place))
    }

    pub fn find_register(&self, name: &str) -> Option<(Reg, Type)> {
        match self.find(name) {
            Some(Entry::Register(reg, ty)) => Some((*reg, *ty)),
            _ => None,
        }
    }

    pub fn param(&mut self, name: String, index: usize) {
        self.outer.insert(name, Entry::Param(index));
    }

    pub fn find_param(&self, name: &str) -> Option<usize> {
        match self.find(name) {
            Some(Entry::Param(index)) => Some(*index),
            _ => None,
        }
    }

    pub fn module_variable(&mut self, variable: Shared<'t>) -> Parsed<()> {
        if self.outer.contains_key(variable.name) {
            return Err(variable.place.error(format!("found a second variable `{}`", variable.name)));
        }
        self.outer.insert(variable.name.to_string(), Entry::Unplaced(variable));
        Ok(())
    }

    /// A variable of the kernel.
    pub fn variable(&mut self, variable: Shared<'t>) -> Parsed<()> {
        let preset = self.place(&variable)?;
        self.declare(variable.name.to_string(), Entry::Placed(preset), variable.place)
    }

    fn place(&mut self, variable: &Shared<'t>) -> Parsed<Preset> {
        let Some(bytes) = variable.bytes else {
            self.dynamic_align = self.dynamic_align.max(variable.align);
            return Ok(Preset::Dynamic(0));
        };
        let at = self.shared_bytes.next_multiple_of(variable.align);
        self.shared_bytes = at.saturating_add(bytes);
        if self.shared_bytes > 1 << 24 {
            return Err(variable.place.error(format!("found {} bytes of shared variables", self.shared_bytes)));
        }
        Ok(Preset::Shared(at))
    }

    /// The address of a shared variable.
    pub fn find_shared(&mut self, name: &str) -> Parsed<Option<Preset>> {
        match self.find(name).cloned() {
            Some(Entry::Placed(preset)) => Ok(Some(preset)),
            Some(Entry::Unplaced(variable)) => {
                let preset = self.place(&variable)?;
                self.outer.insert(name.to_string(), Entry::Placed(preset));
                Ok(Some(preset))
            }
            _ => Ok(None),
        }
    }

    /// A register that holds a constant.
    pub fn constant32(&mut self, value: Preset) -> R32 {
        *self.constants32.entry(value).or_insert_with(|| {
            self.files.short += 1;
            R32(self.files.short - 1)
        })
    }

    pub fn constant64(&mut self, value: Preset) -> R64 {
        *self.constants64.entry(value).or_insert_with(|| {
            self.files.long += 1;
            R64(self.files.long - 1)
        })
    }

    pub fn truth(&mut self, value: bool) -> RP {
        *self.truth.entry(value).or_insert_with(|| {
            self.files.pred += 1;
            RP(self.files.pred - 1)
        })
    }

    /// Hands over what the kernel needs to know.
    pub fn finish(self, kernel: &mut Kernel) {
        kernel.files = self.files;
        kernel.shared_bytes = self.shared_bytes;
        kernel.dynamic_align = self.dynamic_align;
        kernel.presets32 = self.constants32.into_iter().map(|(value, reg)| (reg, value)).collect();
        kernel.presets64 = self.constants64.into_iter().map(|(value, reg)| (reg, value)).collect();
        kernel.presets_pred = self.truth.into_iter().map(|(value, reg)| (reg, value)).collect();
    }
}
