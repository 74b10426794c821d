// The engine for AVX-512: 32 registers of 512 bits.
#if defined(__x86_64__)
#include <immintrin.h>

#include "engine.h"
#include "pooling.h"

#define FULLCONV_NAME avx512
#define FULLCONV_VECTOR_BYTES 64
#define FULLCONV_TILE_ROWS 14
#define FULLCONV_SUPPORTED                                                     \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&  \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && \
   avx2_instruction_set.supported())

// From here on, headers are done: what follows is for this instruction set alone.
#if defined(__clang__)
#pragma clang attribute push(                                                   \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi,bmi2"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi,bmi2,prefer-vector-width=512")
#endif

#include "engine.inl"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
