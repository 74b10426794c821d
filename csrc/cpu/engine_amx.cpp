// The engine for AVX-512 with a matrix unit of bfloat16 (AMX), for bfloat16 alone.
#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"
#include "pooling.h"

namespace {

// Linux saves the tiles of a process that has asked for them.
bool tiles_are_permitted() {
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

}  // namespace

#define FULLCONV_NAME amx
#define FULLCONV_OTHERS avx512
#define FULLCONV_BF16_PAIRS
#define FULLCONV_MATRIX_UNIT
#define FULLCONV_VECTOR_BYTES 64
#define FULLCONV_TILE_ROWS 14
#define FULLCONV_SUPPORTED                                                     \
  (__builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && \
   avx512_bf16_instruction_set.supported() && tiles_are_permitted())

// From here on, headers are done: what follows is for this instruction set alone.
#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((                                                                               \
        target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,bmi,bmi2"))), \
    apply_to = function)
#else
#pragma GCC target( \
    "amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,bmi,bmi2,prefer-vector-width=512")
#endif

#include "engine.inl"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
