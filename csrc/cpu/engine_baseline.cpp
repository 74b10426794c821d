// The engine for every processor: 128-bit vectors, as x86-64 and AArch64 have them.
#include "engine.h"
#include "pooling.h"

#define FULLCONV_NAME baseline
#define FULLCONV_VECTOR_BYTES 16
#define FULLCONV_TILE_ROWS 6
#define FULLCONV_SUPPORTED true

#include "engine.inl"
