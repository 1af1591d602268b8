//! What [`pulp::Simd`] lacks: shifts of 64-bit lanes, and conversions.

use bytemuck::cast;
use pulp::{Scalar256b, Simd};

/// An instruction set that kernels are compiled for. It has twice as many lanes of f32 as of f64.
pub trait Machine: Simd {
    /// Each lane's bits, moved up by 52.
    fn shift_into_exponent(self, bits: Self::u64s) -> Self::u64s;

    /// Each lane's bits, moved down by 52.
    fn shift_out_of_exponent(self, bits: Self::u64s) -> Self::u64s;

    /// The lower and the upper half of the lanes, in f64.
    fn widen(self, values: Self::f32s) -> [Self::f64s; 2];

    /// bfloat16 from its bits, as many as there are lanes of f32.
    fn widen_bf16(self, bits: &[u16]) -> Self::f32s;

    /// `a * b + c`, rounded once where that is one instruction.
    #[inline(always)]
    fn fma(self, a: Self::f64s, b: Self::f64s, c: Self::f64s) -> Self::f64s {
        self.mul_add_e_f64s(a, b, c)
    }

    /// As [`Machine::fma`].
    #[inline(always)]
    fn fma_f32(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s {
        self.mul_add_e_f32s(a, b, c)
    }
}

impl Machine for Scalar256b {
    #[inline(always)]
    fn shift_into_exponent(self, bits: Self::u64s) -> Self::u64s {
        let bits: [u64; 4] = cast(bits);
        cast([bits[0] << 52, bits[1] << 52, bits[2] << 52, bits[3] << 52])
    }

    #[inline(always)]
    fn shift_out_of_exponent(self, bits: Self::u64s) -> Self::u64s {
        let bits: [u64; 4] = cast(bits);
        cast([bits[0] >> 52, bits[1] >> 52, bits[2] >> 52, bits[3] >> 52])
    }

    #[inline(always)]
    fn widen(self, values: Self::f32s) -> [Self::f64s; 2] {
        let x: [f32; 8] = cast(values);
        let wide = |i: usize| cast([f64::from(x[i]), f64::from(x[i + 1]), f64::from(x[i + 2]), f64::from(x[i + 3])]);
        [wide(0), wide(4)]
    }

    #[inline(always)]
    fn widen_bf16(self, bits: &[u16]) -> Self::f32s {
        let mut wide = [0u32; 8];
        for (wide, &bits) in wide.iter_mut().zip(bits) {
            *wide = u32::from(bits) << 16;
        }
        cast(wide)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128, __m128i, __m256, __m256d, __m256i, __m512d, __m512i};

    use bytemuck::{cast, cast_slice, pod_read_unaligned};
    use pulp::x86::{V3, V4};

    use super::Machine;

    impl Machine for V3 {
        #[inline(always)]
        fn shift_into_exponent(self, bits: Self::u64s) -> Self::u64s {
            cast(self.avx2._mm256_slli_epi64::<52>(cast::<_, __m256i>(bits)))
        }

        #[inline(always)]
        fn shift_out_of_exponent(self, bits: Self::u64s) -> Self::u64s {
            cast(self.avx2._mm256_srli_epi64::<52>(cast::<_, __m256i>(bits)))
        }

        #[inline(always)]
        fn widen(self, values: Self::f32s) -> [Self::f64s; 2] {
            let [low, high]: [__m128; 2] = cast(values);
            [self.avx._mm256_cvtps_pd(low), self.avx._mm256_cvtps_pd(high)].map(cast::<__m256d, _>)
        }

        #[inline(always)]
        fn widen_bf16(self, bits: &[u16]) -> Self::f32s {
            let wide = self.avx2._mm256_cvtepu16_epi32(pod_read_unaligned::<__m128i>(cast_slice(bits)));
            cast(self.avx2._mm256_slli_epi32::<16>(wide))
        }
    }

    impl Machine for V4 {
        #[inline(always)]
        fn shift_into_exponent(self, bits: Self::u64s) -> Self::u64s {
            cast(self.avx512f._mm512_slli_epi64::<52>(cast::<_, __m512i>(bits)))
        }

        #[inline(always)]
        fn shift_out_of_exponent(self, bits: Self::u64s) -> Self::u64s {
            cast(self.avx512f._mm512_srli_epi64::<52>(cast::<_, __m512i>(bits)))
        }

        #[inline(always)]
        fn widen(self, values: Self::f32s) -> [Self::f64s; 2] {
            let [low, high]: [__m256; 2] = cast(values);
            [self.avx512f._mm512_cvtps_pd(low), self.avx512f._mm512_cvtps_pd(high)].map(cast::<__m512d, _>)
        }

        #[inline(always)]
        fn widen_bf16(self, bits: &[u16]) -> Self::f32s {
            let wide = self.avx512f._mm512_cvtepu16_epi32(pod_read_unaligned::<__m256i>(cast_slice(bits)));
            cast(self.avx512f._mm512_slli_epi32::<16>(wide))
        }
    }
}
