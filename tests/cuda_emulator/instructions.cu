// Do the instructions that gpu.h wraps what they should, each alone? Runs on the emulator, and on a
// GPU: make cuda-test.
//
// The layouts of matrices over a warp's lanes are CUTLASS's (cute/atom/mma_traits_sm80.hpp and
// copy_traits_sm75.hpp), not those that kernels or the emulator were written from. Fragments filled
// by them must give the product of the matrices.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../csrc/cuda/gpu.h"

using namespace fullconv;

// Where value v of lane t lies: t % 4 and t / 4, and each bit of v, have a stride of their own.
struct Layout {
  int lane_4, lane_8;
  int value[4];

  int operator()(int lane, int v) const {
    int index = lane % 4 * lane_4 + lane / 4 * lane_8;
    for (int bit = 0; bit < 4; ++bit) index += (v >> bit & 1) * value[bit];
    return index;
  }
};

// Column-major: a is m + 16·k, b is n + 8·k, sum is m + 16·n.
constexpr Layout kA16{32, 1, {16, 8, 128}}, kB16{16, 1, {8, 64}};
constexpr Layout kA32{16, 1, {8, 64}}, kB32{8, 1, {32}};
constexpr Layout kSum{32, 1, {16, 8}};
// Elements of four 8x8 matrices, row by row.
constexpr Layout kRows{2, 8, {1, 64, 128}}, kTransposed{16, 1, {8, 64, 128}};

template <class S>
__global__ void multiply(const uint32_t* a, const uint32_t* b, float* sum) {
  int lane = threadIdx.x;
  uint32_t rows[4], columns[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) rows[i] = a[lane * 4 + i], sums[i] = sum[lane * 4 + i];
  for (int i = 0; i < 2; ++i) columns[i] = b[lane * 2 + i];
  gpu::multiply_matrices<S>(sums, rows, columns);
  for (int i = 0; i < 4; ++i) sum[lane * 4 + i] = sums[i];
}

template <bool TRANSPOSED>
__global__ void load(const uint16_t* from, uint32_t* to) {
  auto& shared = gpu::dynamic_shared<uint16_t[256]>();
  for (int i = threadIdx.x; i < 256; i += 32) shared[i] = from[i];
  __syncthreads();
  uint32_t matrices[4];
  gpu::load_matrices<TRANSPOSED>(matrices, &shared[threadIdx.x * 8]);
  for (int i = 0; i < 4; ++i) to[threadIdx.x * 4 + i] = matrices[i];
}

template <class T>
T* allocate(int count) {
  void* memory = nullptr;
  if (cudaError_t error = cudaMallocManaged(&memory, count * sizeof(T))) {
    std::printf("%s\n", cudaGetErrorString(error));
    std::exit(1);
  }
  return static_cast<T*>(memory);
}

template <class... PARAMETERS, class... ARGUMENTS>
bool run(void (*kernel)(PARAMETERS...), ARGUMENTS... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{1, 1, 1};
  config.blockDim = dim3{32, 1, 1};
  config.dynamicSmemBytes = 1024;
  return cudaLaunchKernelEx(&config, kernel, arguments...) == cudaSuccess &&
         cudaDeviceSynchronize() == cudaSuccess;
}

int element(int i) { return i * 37 % 13 - 6; }

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
uint32_t bits_of(__half value) {
  uint16_t bits;
  std::memcpy(&bits, &value, 2);
  return bits;
}
uint32_t bits_of(__nv_bfloat16 value) {
  uint16_t bits;
  std::memcpy(&bits, &value, 2);
  return bits;
}

template <class S>
bool check_product(const char* name, const Layout& layout_a, const Layout& layout_b) {
  constexpr int per_register = 4 / sizeof(S), depth = 8 * per_register;
  uint32_t *a = allocate<uint32_t>(128), *b = allocate<uint32_t>(64);
  float* sum = allocate<float>(128);
  std::memset(a, 0, 512), std::memset(b, 0, 256);
  for (int lane = 0; lane < 32; ++lane) {
    for (int v = 0; v < 4 * per_register; ++v)
      a[lane * 4 + v / per_register] |= bits_of(S(float(element(layout_a(lane, v)))))
                                        << 16 * (v % per_register);
    for (int v = 0; v < 2 * per_register; ++v)
      b[lane * 2 + v / per_register] |= bits_of(S(float(element(layout_b(lane, v) + 5))))
                                        << 16 * (v % per_register);
    for (int v = 0; v < 4; ++v) sum[lane * 4 + v] = lane;
  }
  bool right = run(multiply<S>, a, b, sum);
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < 4; ++v) {
      int at = kSum(lane, v), m = at % 16, n = at / 16, expected = lane;
      for (int k = 0; k < depth; ++k) expected += element(m + 16 * k) * element(n + 8 * k + 5);
      right = right && sum[lane * 4 + v] == expected;
    }
  std::printf("%s %s\n", name, right ? "right" : "WRONG");
  return right;
}

template <bool TRANSPOSED>
bool check_load(const char* name, const Layout& layout) {
  uint16_t* from = allocate<uint16_t>(256);
  uint32_t* to = allocate<uint32_t>(128);
  for (int i = 0; i < 256; ++i) from[i] = i;
  bool right = run(load<TRANSPOSED>, from, to);
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < 8; ++v)
      right = right && int(to[lane * 4 + v / 2] >> 16 * (v % 2) & 0xffff) == layout(lane, v);
  std::printf("%s %s\n", name, right ? "right" : "WRONG");
  return right;
}

// Each thread copies BYTES of its four words twice, even lanes at first, odd ones then; the first
// group of copies is awaited alone.
template <int BYTES>
__global__ void copy(const uint32_t* from, uint32_t* to) {
  struct Shared {
    uint32_t word[2][32][4];
  };
  Shared& shared = gpu::dynamic_shared<Shared>();
  int lane = threadIdx.x;
  for (int group = 0; group < 2; ++group) {
    for (int i = 0; i < 4; ++i) shared.word[group][lane][i] = 7;
    gpu::copy_async<BYTES>(shared.word[group][lane], from + lane * 4, lane % 2 == group);
    gpu::commit_copies();
  }
  gpu::wait_for_copies<1>();
  for (int i = 0; i < 4; ++i) to[lane * 4 + i] = shared.word[0][lane][i];
  gpu::wait_for_copies<0>();
  for (int i = 0; i < 4; ++i) to[128 + lane * 4 + i] = shared.word[1][lane][i];
}

// What is copied, zeros where it is unwanted, and the words behind as they were.
template <int BYTES>
bool check_copy(const char* name) {
  uint32_t *from = allocate<uint32_t>(128), *to = allocate<uint32_t>(256);
  for (int i = 0; i < 128; ++i) from[i] = 1000 + i;
  bool right = run(copy<BYTES>, from, to);
  for (int i = 0; i < 256; ++i) {
    uint32_t copied = i / 4 % 2 == i / 128 ? from[i % 128] : 0;
    right = right && to[i] == (i % 4 < BYTES / 4 ? copied : 7);
  }
  std::printf("%s %s\n", name, right ? "right" : "WRONG");
  return right;
}

__global__ void round_each(const float* from, float* to) {
  uint32_t bits = gpu::round_to_tf32(from[threadIdx.x]);
  memcpy(&to[threadIdx.x], &bits, 4);
}

// To the nearest of 10 bits behind the point, ties away from zero.
bool check_rounding(const char* name) {
  float *from = allocate<float>(32), *to = allocate<float>(32);
  auto number = [](int sign, float steps) { return (sign % 2 ? -1 : 1) * (1 + steps / 1024); };
  for (int i = 0; i < 32; ++i) from[i] = number(i, i / 4.0f);
  bool right = run(round_each, from, to);
  for (int i = 0; i < 32; ++i) right = right && to[i] == number(i, float((i + 2) / 4));
  std::printf("%s %s\n", name, right ? "right" : "WRONG");
  return right;
}

int main() {
  bool right = check_product<__half>("mma f16", kA16, kB16);
  right &= check_product<__nv_bfloat16>("mma bf16", kA16, kB16);
  right &= check_product<float>("mma tf32", kA32, kB32);
  right &= check_load<false>("ldmatrix", kRows);
  right &= check_load<true>("ldmatrix.trans", kTransposed);
  right &= check_copy<4>("cp.async 4");
  right &= check_copy<8>("cp.async 8");
  right &= check_copy<16>("cp.async 16");
  right &= check_rounding("cvt.rna.tf32");
  return right ? 0 : 1;
}
