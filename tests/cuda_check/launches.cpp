// Says with how many threads and how much shared memory every kernel is launched, without a GPU:
// the launchers of csrc/cuda run against a CUDA runtime, below, that only writes down what it is
// told. Prints a line of name, threads and bytes for each launch of a kernel that differs.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "launch.h"
#include "layers.h"

namespace {

std::map<const void*, std::string> names;  // by the address that stands for a kernel on the host
std::set<std::tuple<std::string, unsigned, size_t>> launches;

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  names[host] = name;
}
cudaError_t __cudaGetKernel(void**, const void*) { return cudaErrorNotSupported; }
cudaError_t __cudaLaunchKernel(void*, dim3, dim3, void**, size_t, cudaStream_t) {
  return cudaErrorNotSupported;
}
unsigned __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return 1; }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "CUDA error"; }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* launch, const void* kernel, void**) {
  const dim3& block = launch->blockDim;
  launches.emplace(names.at(kernel), block.x * block.y * block.z, launch->dynamicSmemBytes);
  return cudaSuccess;
}

}  // extern "C"

namespace {

using namespace fullconv;

alignas(16) char memory[16];  // stands for all tensors, which no one reads

Array tensor(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last) {
  Array array{memory, {n, c, h, w}, {c * h * w, h * w, w, 1}, 0};
  if (channels_last) array = {memory, {n, c, h, w}, {c * h * w, 1, w * c, c}, 0};
  return array;
}

struct Layer {
  int64_t batch, groups, channels, filters, size, kernel, stride, pad, segments;
  Padding padding;
};

// Wide and narrow, with lines that can be copied 16 bytes at once and with others, depthwise,
// strided, per sample, mirrored.
constexpr Layer layers[] = {
    {2, 1, 64, 128, 16, 3, 1, 1, 1, Padding::zeros},
    {2, 1, 63, 127, 15, 3, 1, 1, 1, Padding::zeros},
    {2, 1, 64, 128, 16, 1, 1, 0, 1, Padding::zeros},
    {2, 1, 16, 16, 16, 1, 1, 0, 1, Padding::zeros},
    {2, 1, 16, 16, 16, 3, 1, 1, 1, Padding::zeros},
    {2, 1, 3, 5, 15, 5, 2, 2, 1, Padding::zeros},
    {2, 1, 64, 128, 16, 3, 2, 1, 1, Padding::zeros},
    {2, 32, 32, 32, 16, 3, 1, 1, 1, Padding::zeros},
    {2, 32, 32, 32, 15, 3, 2, 1, 1, Padding::reflect},
    {2, 33, 33, 33, 16, 3, 1, 1, 1, Padding::zeros},
    {4, 1, 64, 128, 16, 3, 1, 1, 4, Padding::circular},
    {64, 1, 8, 8, 64, 3, 1, 1, 1, Padding::replicate},
};

void run(const Layer& l, Dtype dtype, bool tf32, bool last) {
  Axis axis{l.size, l.kernel, l.stride, l.pad, l.pad, 1, l.padding};
  Geometry geometry{l.groups, axis, axis, Algorithm::automatic};
  cuda::Context context{nullptr, tf32, [](int64_t) { return memory; }};
  Array x = tensor(l.batch, l.channels, l.size, l.size, last);
  Array f = tensor(l.filters, l.channels / l.groups, l.kernel, l.kernel, last);
  Array o = tensor(l.batch, l.filters, axis.outputs(), axis.outputs(), last);
  f.segment_stride = l.segments > 1 ? f.size[0] * f.stride[0] : 0;
  for (const char* problem :
       {cuda::correlate(context, dtype, geometry, l.segments, x, f, nullptr, o),
        cuda::full_convolve(context, dtype, geometry, l.segments, o, f, nullptr, x),
        cuda::correlate_weight(context, dtype, geometry, l.segments, x, o, f),
        cuda::channel_sum(context, dtype, o, memory)})
    if (problem) std::fprintf(stderr, "%s\n", problem);
}

// Every kind of pooling that the type has, and relu of whole tensors and of parts.
void run(Element element, int64_t channels, bool last) {
  bool integer = element >= Element::i8;
  Window window{8, 2, 2, 0, 1, false};
  Array x = tensor(2, channels, 8, 8, last), o = tensor(2, channels, 4, 4, last);
  auto strided = [](const Array& a) { return Strided{a.data, {a.stride, a.stride + 4}}; };
  cuda::Context context{};
  std::vector<int64_t> size{x.size, x.size + 4};
  const char* problem = cuda::relu(context, element, size, strided(x), nullptr, strided(x));
  if (problem) std::fprintf(stderr, "%s\n", problem);
  Array part = x;
  part.stride[0] *= 2;
  cuda::relu(context, element, size, strided(part), nullptr, strided(x));
  for (Pooling pooling : {Pooling::max, Pooling::max_gather, Pooling::max_scatter, Pooling::average,
                          Pooling::average_adjoint}) {
    bool adjoint = pooling == Pooling::max_scatter || pooling == Pooling::average_adjoint;
    problem = cuda::pool(context, element, pooling, {window, window, true, 0}, adjoint ? o : x, &o,
                         adjoint ? x : o);
    if (problem && !integer) std::fprintf(stderr, "%s\n", problem);
  }
}

}  // namespace

int main() {
  for (Element element : {Element::f32, Element::f64, Element::bf16, Element::f16, Element::i8,
                          Element::u8, Element::i16, Element::i32, Element::i64})
    for (int64_t channels : {16, 17}) run(element, channels, true);
  for (const Layer& layer : layers)
    for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16, Dtype::c64, Dtype::c128})
      for (bool tf32 : {false, true})
        for (bool last : {false, true}) run(layer, dtype, tf32, last);
  for (const auto& [name, threads, bytes] : launches)
    std::printf("%s %u %zu\n", name.c_str(), threads, bytes);
}
