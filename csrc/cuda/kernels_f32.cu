#include "kernels.inl"

namespace fullconv::cuda {
const Kernels kernels_f32 = Launch<float>::table;
}
