//! Slices as vectors: whole ones, then a masked load of what is left.

use crate::{
    real::sealed::Load,
    simd::{Kernel, Machine, dispatch},
};

/// `each!(m, values, |chunk| ..)`: run the body on whole chunks of as many values as there are lanes of f32, then on
/// the rest. `each!(m, left, right, |left, right| ..)`: the same over two slices of one length.
///
/// A macro, so that the body is inlined into the kernel: a closure that stays a call is compiled for the oldest
/// machine. A single loop with a branch on the length of the chunk was 2 to 5 % slower.
macro_rules! each {
    ($m:expr, $values:expr, |$chunk:ident| $body:expr) => {
        $crate::vectors::each_chunk(
            $crate::vectors::lanes($m),
            $values,
            #[inline(always)]
            |$chunk| $body,
        )
    };
    ($m:expr, $left:expr, $right:expr, |$l:ident, $r:ident| $body:expr) => {
        $crate::vectors::each_pair(
            $crate::vectors::lanes($m),
            $left,
            $right,
            #[inline(always)]
            |$l, $r| $body,
        )
    };
}
pub(crate) use each;

/// `map!(m, values, |x| ..)`: replace each value in place, a vector at a time.
macro_rules! map {
    ($m:expr, $values:expr, |$x:ident| $body:expr) => {
        $crate::vectors::map_in_place(
            $m,
            $values,
            #[inline(always)]
            |$x| $body,
        )
    };
}
pub(crate) use map;

/// `both!(pair, |x| ..)`: apply the body to both vectors of a pair. `map` of an array may stay a call: it made the
/// scores of two models 3 times slower.
macro_rules! both {
    ($pair:expr, |$x:ident| $body:expr) => {{
        let [low, high] = $pair;
        let low = {
            let $x = low;
            $body
        };
        let $x = high;
        [low, $body]
    }};
}
pub(crate) use both;

/// The number of lanes of f32.
#[inline(always)]
pub(crate) fn lanes<M: Machine>(_: M) -> usize {
    M::F32_LANES
}

/// See [`each!`].
#[inline(always)]
pub(crate) fn each_chunk<T>(len: usize, values: &[T], mut f: impl FnMut(&[T])) {
    let chunks = values.chunks_exact(len);
    let rest = chunks.remainder();
    for chunk in chunks {
        f(chunk);
    }
    if !rest.is_empty() {
        f(rest);
    }
}

/// See [`each!`].
#[inline(always)]
pub(crate) fn each_pair<T>(len: usize, left: &[T], right: &[T], mut f: impl FnMut(&[T], &[T])) {
    let (left, right) = (left.chunks_exact(len), right.chunks_exact(len));
    let rest = (left.remainder(), right.remainder());
    for (left, right) in left.zip(right) {
        f(left, right);
    }
    if !rest.0.is_empty() {
        f(rest.0, rest.1);
    }
}

/// At most as many values as there are lanes of f32, as f64; the other lanes are `fill`.
///
/// The rest of a row is a masked load. Copying it into a filled array first made sums of rows of 1 to 30 tokens 1.3
/// times slower and their KL 1.9 times: the load has to wait for the stores.
#[inline(always)]
pub(crate) fn load<M: Machine, T: Load>(m: M, values: &[T], fill: f64) -> [M::f64s; 2] {
    if values.len() == M::F32_LANES {
        return T::load(m, values);
    }
    let [low, high] = T::load_part(m, values);
    if fill == 0.0 {
        return [low, high];
    }
    let len = values.len() as u64;
    let there = |from: u64| m.mask_between_m64s(0, len.saturating_sub(from)).mask();
    let fill = m.splat_f64s(fill);
    [m.select_f64s(there(0), low, fill), m.select_f64s(there(M::F64_LANES as u64), high, fill)]
}

/// As [`load`], as f32.
#[inline(always)]
pub(crate) fn load_f32<M: Machine, T: Load>(m: M, values: &[T], fill: f32) -> M::f32s {
    if values.len() == M::F32_LANES {
        return T::load_f32(m, values);
    }
    let part = T::load_part_f32(m, values);
    if fill == 0.0 {
        return part;
    }
    let there = m.mask_between_m32s(0, values.len() as u32).mask();
    m.select_f32s(there, part, m.splat_f32s(fill))
}

/// See [`map!`].
#[inline(always)]
pub(crate) fn map_in_place<M: Machine>(m: M, values: &mut [f64], f: impl Fn(M::f64s) -> M::f64s) {
    let (head, rest) = M::as_mut_simd_f64s(values);
    for x in head {
        *x = f(*x);
    }
    let last = f(m.partial_load_f64s(rest));
    m.partial_store_f64s(rest, last);
}

/// The largest value, `-inf` of an empty slice. NaN is skipped.
#[inline(always)]
pub(crate) fn max<M: Machine>(m: M, values: &[f64]) -> f64 {
    let mut max = [m.splat_f64s(f64::NEG_INFINITY); 2];
    each!(m, values, |chunk| {
        let x = load(m, chunk, f64::NEG_INFINITY);
        max = [m.max_f64s(x[0], max[0]), m.max_f64s(x[1], max[1])];
    });
    m.reduce_max_f64s(m.max_f64s(max[0], max[1]))
}

/// [`max`] with the best instructions of this machine.
pub(crate) fn largest(values: &[f64]) -> f64 {
    struct Max<'a>(&'a [f64]);
    impl Kernel for Max<'_> {
        type Output = f64;

        #[inline(always)]
        fn run<M: Machine>(self, m: M) -> f64 {
            max(m, self.0)
        }
    }
    dispatch(Max(values))
}
