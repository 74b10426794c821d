#include "kernels.inl"

namespace fullconv::cuda {
const Kernels kernels_f16 = Launch<__half>::table;
}
