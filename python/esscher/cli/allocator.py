"""How the C library's allocator treats large arrays, for programs that are Esscher's own."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> bool:
    """Let this process keep the memory that large arrays leave, for the next ones; whether that could be arranged.

    Otherwise each large array is mapped anew, and every page of it is zeroed by the kernel on first use: a fifth of the
    time of a forward pass on a CPU. It holds for all threads, from then on; the process grows to its peak and stays
    there. Elsewhere than on glibc nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _ARENA_MAX: 1}
    return all(mallopt(name, value) for name, value in settings.items())
