// Each instruction that csrc/cuda/gpu.h wraps, alone, on the device at hand: what a lane gives and
// gets is as the PTX ISA says. Compiled by nvcc it tests a GPU, without it the emulator; both must
// agree with the plain loops below.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "gpu.h"

namespace {

using namespace fullconv;

// Words that host and device see.
template <class T>
T* words(int count) {
#if defined(__CUDACC__)
  void* memory = nullptr;
  if (cudaError_t error = cudaMallocManaged(&memory, count * sizeof(T))) {
    std::printf("no memory: %s\n", cudaGetErrorString(error));
    std::exit(1);
  }
#else
  void* memory = std::aligned_alloc(16, (count * sizeof(T) + 15) / 16 * 16);
#endif
  return static_cast<T*>(memory);
}

int failures = 0;

void expect(bool good, const char* what) {
  failures += !good;
  if (!good) std::printf("%s: wrong\n", what);
}

// Runs a kernel with one warp, and waits for it.
template <class... ARGUMENTS>
void run(const char* what, void (*kernel)(ARGUMENTS...), ARGUMENTS... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{1, 1, 1};
  config.blockDim = dim3{32, 1, 1};
  config.dynamicSmemBytes = 4096;
  cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
#if defined(__CUDACC__)
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
#endif
  if (error != cudaSuccess) std::printf("%s: %s\n", what, cudaGetErrorString(error));
  expect(error == cudaSuccess, what);
}

// Each thread copies BYTES of its four words twice, odd ones unwanted; the first group is awaited
// alone.
template <int BYTES>
__global__ void copies(const uint32_t* from, uint32_t* to) {
  struct Shared {
    uint32_t first[32][4], second[32][4];
  };
  Shared& shared = gpu::dynamic_shared<Shared>();
  int lane = threadIdx.x;
  for (int i = 0; i < 4; ++i) shared.first[lane][i] = shared.second[lane][i] = 7;
  gpu::copy_async<BYTES>(shared.first[lane], from + 4 * lane, lane % 2 == 0);
  gpu::commit_copies();
  gpu::copy_async<BYTES>(shared.second[lane], from + 4 * lane, lane % 2 == 1);
  gpu::commit_copies();
  gpu::wait_for_copies<1>();
  for (int i = 0; i < 4; ++i) to[8 * lane + i] = shared.first[lane][i];
  gpu::wait_for_copies<0>();
  for (int i = 0; i < 4; ++i) to[8 * lane + 4 + i] = shared.second[lane][i];
}

template <int BYTES>
void test_copies() {
  uint32_t *from = words<uint32_t>(128), *to = words<uint32_t>(256);
  for (int i = 0; i < 128; ++i) from[i] = 1000 + i;
  run("copy_async", copies<BYTES>, static_cast<const uint32_t*>(from), to);
  for (int lane = 0; lane < 32; ++lane)
    for (int group = 0; group < 2; ++group)
      for (int i = 0; i < 4; ++i) {
        uint32_t copied = lane % 2 == group ? 1000 + 4 * lane + i : 0;
        expect(to[8 * lane + 4 * group + i] == (4 * i < BYTES ? copied : 7), "copy_async");
      }
}

template <bool TRANSPOSED>
__global__ void matrices(uint32_t* to) {
  auto& rows = gpu::dynamic_shared<uint16_t[32][8]>();
  int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) rows[lane][i] = 8 * lane + i;
  __syncthreads();
  uint32_t found[4];
  gpu::load_matrices<TRANSPOSED>(found, rows[lane]);
  for (int i = 0; i < 4; ++i) to[4 * lane + i] = found[i];
}

template <bool TRANSPOSED>
void test_matrices() {
  uint32_t* to = words<uint32_t>(128);
  run("load_matrices", matrices<TRANSPOSED>, to);
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      for (int half = 0; half < 2; ++half) {
        int row = lane / 4, column = 2 * (lane % 4) + half;
        int element = TRANSPOSED ? 8 * column + row : 8 * row + column;
        expect((to[4 * lane + matrix] >> 16 * half & 0xffff) == uint32_t(64 * matrix + element),
               "load_matrices");
      }
}

// The bits of small integers.
template <class S>
__device__ uint32_t bits_of(int value);
template <>
__device__ uint32_t bits_of<__half>(int value) {
  __half number = __float2half(static_cast<float>(value));
  uint16_t bits;
  memcpy(&bits, &number, 2);
  return bits;
}
template <>
__device__ uint32_t bits_of<__nv_bfloat16>(int value) {
  __nv_bfloat16 number = __float2bfloat16(static_cast<float>(value));
  uint16_t bits;
  memcpy(&bits, &number, 2);
  return bits;
}
template <>
__device__ uint32_t bits_of<float>(int value) {
  return gpu::round_to_tf32(static_cast<float>(value));
}

// sum[16][8] += a[16][DEPTH]·b[DEPTH][8]: every element goes to, and comes from, the lane and
// register that the PTX ISA's figures of m16n8k16 and m16n8k8 show.
template <class S>
__global__ void products(const int* a, const int* b, float* sum) {
  constexpr int depth = sizeof(S) == 2 ? 16 : 8, packed = sizeof(S) == 2 ? 2 : 1;
  int group = threadIdx.x / 4, member = threadIdx.x % 4;
  uint32_t a_bits[4] = {}, b_bits[2] = {};
  float result[4];
  for (int i = 0; i < 4; ++i)
    for (int part = 0; part < packed; ++part) {
      int row = group + i % 2 * 8, column = member * packed + part + i / 2 * (depth / 2);
      a_bits[i] |= bits_of<S>(a[row * depth + column]) << 16 * part;
    }
  for (int i = 0; i < 2; ++i)
    for (int part = 0; part < packed; ++part) {
      int row = member * packed + part + i * (depth / 2);
      b_bits[i] |= bits_of<S>(b[row * 8 + group]) << 16 * part;
    }
  for (int i = 0; i < 4; ++i) result[i] = sum[(group + i / 2 * 8) * 8 + 2 * member + i % 2];
  gpu::multiply_matrices<S>(result, a_bits, b_bits);
  for (int i = 0; i < 4; ++i) sum[(group + i / 2 * 8) * 8 + 2 * member + i % 2] = result[i];
}

template <class S>
void test_products(const char* what) {
  constexpr int depth = sizeof(S) == 2 ? 16 : 8;
  int *a = words<int>(16 * depth), *b = words<int>(depth * 8);
  float* sum = words<float>(128);
  for (int i = 0; i < 16 * depth; ++i) a[i] = i * 37 % 23 - 11;
  for (int i = 0; i < depth * 8; ++i) b[i] = i * 29 % 19 - 9;
  for (int i = 0; i < 128; ++i) sum[i] = static_cast<float>(i);
  run(what, products<S>, static_cast<const int*>(a), static_cast<const int*>(b), sum);
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      int exact = row * 8 + column;
      for (int k = 0; k < depth; ++k) exact += a[row * depth + k] * b[k * 8 + column];
      expect(sum[row * 8 + column] == static_cast<float>(exact), what);
    }
}

__global__ void roundings(const float* from, uint32_t* to) {
  to[threadIdx.x] = gpu::round_to_tf32(from[threadIdx.x]);
}

// TF32 keeps 10 of float's 23 bits, rounded to the nearest, ties away from zero.
void test_rounding() {
  float* from = words<float>(32);
  uint32_t* to = words<uint32_t>(32);
  float ulp = 1.0f / 1024;
  for (int i = 0; i < 32; ++i) from[i] = (i % 2 ? -1 : 1) * (1 + ulp * static_cast<float>(i) / 4);
  run("round_to_tf32", roundings, static_cast<const float*>(from), to);
  for (int i = 0; i < 32; ++i) {
    float rounded;
    std::memcpy(&rounded, &to[i], 4);
    expect(rounded == (i % 2 ? -1 : 1) * (1 + ulp * static_cast<float>((i + 2) / 4)),
           "round_to_tf32");
  }
}

}  // namespace

int main() {
  test_copies<4>();
  test_copies<8>();
  test_copies<16>();
  test_matrices<false>();
  test_matrices<true>();
  test_products<__half>("multiply_matrices, float16");
  test_products<__nv_bfloat16>("multiply_matrices, bfloat16");
  test_products<float>("multiply_matrices, TF32");
  test_rounding();
  if (failures == 0) std::printf("every instruction of gpu.h does what it should\n");
  return failures != 0;
}
