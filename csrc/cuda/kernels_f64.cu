#include "kernels.inl"

namespace fullconv::cuda {
const Kernels kernels_f64 = Launch<double>::table;
}
