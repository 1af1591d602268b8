//! The numbers that token columns are made of.

use bytemuck::{Pod, TransparentWrapper, Zeroable, cast_slice, pod_read_unaligned};

use crate::simd::Machine;

/// A floating-point type that widens to f64 without loss: f32, f64 or [`Bf16`].
pub trait Real: sealed::Load {
    /// As f64, which every value of the type is exactly.
    fn to_f64(self) -> f64;
}

pub(crate) mod sealed {
    use crate::simd::Machine;

    /// Loads of as many values as there are lanes of f32.
    pub trait Load: Copy + Default + Send + Sync {
        /// Whether f32 holds every value.
        const FITS_F32: bool;

        /// Read them as f64.
        #[inline(always)]
        fn load<M: Machine>(m: M, values: &[Self]) -> [M::f64s; 2] {
            m.widen(Self::load_f32(m, values))
        }

        /// Read them as f32: exact if [`Load::FITS_F32`].
        fn load_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s;

        /// As [`Load::load`] for fewer values, with 0 for the others.
        #[inline(always)]
        fn load_part<M: Machine>(m: M, values: &[Self]) -> [M::f64s; 2] {
            m.widen(Self::load_part_f32(m, values))
        }

        /// As [`Load::load_f32`] for fewer values, with 0 for the others.
        fn load_part_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s;
    }
}

impl Real for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl sealed::Load for f32 {
    const FITS_F32: bool = true;

    #[inline(always)]
    fn load_f32<M: Machine>(_: M, values: &[Self]) -> M::f32s {
        pod_read_unaligned(cast_slice(values))
    }

    #[inline(always)]
    fn load_part_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s {
        m.partial_load_f32s(values)
    }
}

impl Real for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

impl sealed::Load for f64 {
    const FITS_F32: bool = false;

    #[inline(always)]
    fn load<M: Machine>(_: M, values: &[Self]) -> [M::f64s; 2] {
        pod_read_unaligned(cast_slice(values))
    }

    #[inline(always)]
    fn load_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s {
        let mut narrow = [0.0; MAX_LANES];
        for (narrow, &value) in narrow.iter_mut().zip(values) {
            *narrow = value as f32;
        }
        f32::load_f32(m, &narrow[..M::F32_LANES])
    }

    #[inline(always)]
    fn load_part<M: Machine>(m: M, values: &[Self]) -> [M::f64s; 2] {
        let (low, high) = values.split_at(values.len().min(M::F64_LANES));
        [m.partial_load_f64s(low), m.partial_load_f64s(high)]
    }

    #[inline(always)]
    fn load_part_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s {
        Self::load_f32(m, values)
    }
}

/// The most lanes of f32 that any instruction set has.
pub(crate) const MAX_LANES: usize = 16;

/// A bfloat16: the upper half of an f32's bits.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable, TransparentWrapper)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// Read bits as bfloat16, without a copy.
    #[must_use]
    pub fn from_bits(bits: &[u16]) -> &[Self] {
        Self::wrap_slice(bits)
    }
}

impl Real for Bf16 {
    fn to_f64(self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.0) << 16))
    }
}

impl sealed::Load for Bf16 {
    const FITS_F32: bool = true;

    #[inline(always)]
    fn load_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s {
        m.widen_bf16(Self::peel_slice(values))
    }

    #[inline(always)]
    fn load_part_f32<M: Machine>(m: M, values: &[Self]) -> M::f32s {
        let mut filled = [Self(0); MAX_LANES];
        filled[..values.len()].copy_from_slice(values);
        Self::load_f32(m, &filled[..M::F32_LANES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_is_half_an_f32() {
        let values: Vec<f64> = Bf16::from_bits(&[0x3f80, 0xc0a0, 0xff80, 0]).iter().map(|x| x.to_f64()).collect();
        assert_eq!(values, [1.0, -5.0, f64::NEG_INFINITY, 0.0]);
    }
}
