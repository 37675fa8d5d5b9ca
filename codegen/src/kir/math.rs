//! Lane-polymorphic mathematics over the scalar operations, for every target.

use super::{F32, V};

impl<'k> V<'k, F32> {
    /// `1 / (1 + e^-x)`.
    pub fn sigmoid(self) -> Self {
        ((-self).exp() + 1.0).rcp()
    }

    /// `x * sigmoid(x)`.
    pub fn silu(self) -> Self {
        self / ((-self).exp() + 1.0)
    }

    /// `ln(1 + x)` of a finite `x >= 0`. What rounding takes from `1 + x` is given back: `ln(1 + x) = ln u + (x - (u - 1)) / u`.
    pub fn log1p(self) -> Self {
        let u = self + 1.0;
        (self - (u - 1.0)) / u + u.log()
    }

    /// `ln(1 + e^x)`; `x` itself above 20, as in PyTorch.
    pub fn softplus(self) -> Self {
        let linear = self.k.splat(20.0, self.lanes()).lt(self);
        linear.select(self, self.exp().log1p())
    }

    /// `x * x`.
    pub fn square(self) -> Self {
        self * self
    }

    /// The largest lane.
    pub fn max_lanes(self) -> Self {
        let (n, wide) = (self.lanes(), self.k.target.lanes);
        if n > 4 && n.is_power_of_two() && n <= wide {
            // halves of a register, which are a shuffle away; of several registers they would be lanes one by one
            let half = |from: u16| V::pack(&(from..from + n / 2).map(|i| self.lane(i)).collect::<Vec<_>>());
            return half(0).max(half(n / 2)).max_lanes();
        }
        let mut lanes: Vec<_> = (0..n).map(|i| self.lane(i)).collect();
        // by pairs, so that the chain is short
        while lanes.len() > 1 {
            lanes = lanes.chunks(2).map(|pair| pair[1..].iter().fold(pair[0], |a, b| a.max(*b))).collect();
        }
        lanes[0]
    }
}
