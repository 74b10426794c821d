// The engine for every processor: 128-bit vectors, as x86-64 has 16 and AArch64 (NEON) 32 of.
#include "engine.h"
#include "pooling.h"

#define FULLCONV_NAME baseline
#define FULLCONV_VECTOR_BYTES 16
#if defined(__aarch64__)
// NEON multiplies no operand in memory, and GCC loads a column of a tile at once: of 32 registers
// 10x2 sums, 2 of b and 10 of a fill all. With 11 rows there are sums in memory.
#define FULLCONV_TILE_ROWS 10
#else
#define FULLCONV_TILE_ROWS 6
#endif
#define FULLCONV_SUPPORTED true

#include "engine.inl"
