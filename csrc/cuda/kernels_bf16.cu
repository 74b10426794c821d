#include "kernels.inl"

namespace fullconv::cuda {
const Kernels kernels_bf16 = Launch<__nv_bfloat16>::table;
}
