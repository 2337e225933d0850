// XXH3 with the widest vectors that the processor has. Debian builds libxxhash for the oldest x86-64, where a chunk of
// 64 KiB is hashed at 5 GB/s; the same library's dispatched functions give the same hashes at 22 GB/s (AVX-512).
#pragma once

#define XXH_STATIC_LINKING_ONLY  // a streaming state on the stack
#include <xxhash.h>

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
// Replaces the functions of <xxhash.h> by macros.
#include <xxh_x86dispatch.h>
#endif
