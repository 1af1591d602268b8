//! Software prefetch.

/// Ask for the cache line that holds `values[i]`, if there is one, before it is needed.
#[inline(always)]
#[allow(unsafe_code, reason = "prefetching is an intrinsic on a raw pointer")]
pub(crate) fn prefetch<T>(values: &[T], i: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(i) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the pointer is to a live element; a prefetch neither reads nor writes, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, i);
}
