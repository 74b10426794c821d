// The engine for AVX2 and what came with it (FMA, F16C, BMI): 16 registers of 256 bits.
#if defined(__x86_64__)
#include <immintrin.h>

#include "engine.h"
#include "pooling.h"

#define FULLCONV_NAME avx2
#define FULLCONV_VECTOR_BYTES 32
#define FULLCONV_TILE_ROWS 6
#define FULLCONV_SUPPORTED                                            \
  (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && \
   __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") && \
   __builtin_cpu_supports("bmi2"))

// From here on, headers are done: what follows is for this instruction set alone.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif

#include "engine.inl"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
