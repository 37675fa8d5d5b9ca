//! Accesses: as wide as the alignment allows, at most 16 bytes each.

use super::function::{Class, Emitter, Regs, registers};
use crate::kir::{Elem, Mem, Space, Type};

/// An access to `address + m.offset`.
pub struct Access<'a> {
    /// Alignment, offset, constness.
    pub m: Mem,
    /// What is loaded or stored.
    pub value: Type,
    /// The type of the pointer.
    pub pointer: Type,
    /// Its register.
    pub address: &'a str,
}

impl Access<'_> {
    fn space(&self) -> &'static str {
        match self.pointer {
            Type::Ptr(Space::Scratch) => ".shared",
            Type::Ptr(Space::Cluster) => ".shared::cluster",
            _ => ".global",
        }
    }

    /// What follows the space in a load: PTX 7.4 has the hint, which keeps the first-level cache for what is read again.
    fn load_modifiers(&self) -> &'static str {
        match (self.m.constant && self.space() == ".global", self.m.once) {
            (true, true) => ".nc.L1::no_allocate",
            (true, false) => ".nc",
            (false, true) => ".L1::no_allocate",
            (false, false) => "",
        }
    }

    /// The same of a store: first to leave the second-level cache.
    fn store_modifiers(&self) -> &'static str {
        if self.m.once { ".cs" } else { "" }
    }

    fn at(&self, bytes: usize) -> String {
        match i64::from(self.m.offset) + bytes as i64 {
            0 => format!("[{}]", self.address),
            offset => format!("[{}{offset:+}]", self.address),
        }
    }
}

fn braces(regs: &[String]) -> String {
    if let [one] = regs { one.clone() } else { format!("{{{}}}", regs.join(", ")) }
}

/// Registers that one instruction moves: a power of two, as many as the alignment allows and as remain.
fn group(left: usize, unit: usize, align: u16) -> usize {
    [4, 2].into_iter().find(|n| *n <= left && n * unit <= usize::from(align)).unwrap_or(1)
}

impl Emitter<'_> {
    /// Whether pairs of bf16 have to be taken apart: an odd number, or pairs that may lie across a boundary.
    fn in_halves(a: &Access<'_>) -> bool {
        let Type::Vec(Elem::Bf16, n) = a.value else { return false };
        n > 1 && (n % 2 == 1 || a.m.align < 4)
    }

    pub fn load(&mut self, a: &Access<'_>, regs: &Regs) {
        let (space, how, n) = (a.space(), a.load_modifiers(), usize::from(a.value.lanes()));
        if Self::in_halves(a) {
            for (i, pair) in regs.iter().enumerate() {
                let halves: Vec<_> = (0..2).map(|_| self.fresh(Class::Half)).collect();
                for (h, half) in halves.iter().enumerate() {
                    match 2 * i + h < n {
                        true => self.line(&format!("ld{space}{how}.b16 {half}, {}", a.at(2 * (2 * i + h)))),
                        false => self.line(&format!("mov.b16 {half}, 0")),
                    }
                }
                self.line(&format!("mov.b32 {pair}, {{{}, {}}}", halves[0], halves[1]));
            }
            return;
        }
        self.walk(a, regs, |e, group, vector, unit, at| {
            e.line(&format!("ld{space}{how}{vector}.{unit} {}, {at}", braces(group)));
        });
    }

    pub fn store(&mut self, a: &Access<'_>, regs: &Regs) {
        let (class, _) = registers(a.value);
        let regs: Regs = regs.iter().map(|r| self.in_register(r, class)).collect();
        let (space, how, n) = (a.space(), a.store_modifiers(), usize::from(a.value.lanes()));
        if Self::in_halves(a) {
            for (i, pair) in regs.iter().enumerate() {
                let halves: Vec<_> = (0..2).map(|_| self.fresh(Class::Half)).collect();
                self.line(&format!("mov.b32 {{{}, {}}}, {pair}", halves[0], halves[1]));
                for (h, half) in halves.iter().enumerate().filter(|(h, _)| 2 * i + h < n) {
                    self.line(&format!("st{space}{how}.b16 {}, {half}", a.at(2 * (2 * i + h))));
                }
            }
            return;
        }
        self.walk(a, &regs, |e, group, vector, unit, at| {
            e.line(&format!("st{space}{how}{vector}.{unit} {at}, {}", braces(group)));
        });
    }

    fn walk(&mut self, a: &Access<'_>, regs: &Regs, mut one: impl FnMut(&mut Self, &[String], &str, &str, &str)) {
        let class = registers(a.value).0;
        let unit = if class == Class::Half { 2 } else { 4 };
        let mut from = 0;
        while from < regs.len() {
            let n = group(regs.len() - from, unit, a.m.align);
            let vector = if n == 1 { String::new() } else { format!(".v{n}") };
            one(self, &regs[from..from + n], &vector, class.ty(), &a.at(from * unit));
            from += n;
        }
    }
}
