// Products of two tiles in registers: each thread, or each warp on tensor cores, keeps a part of
// the result and adds to it tile by tile.
//
// A policy's thread has value(i, j) for row(i) and column(j), i below kRows and j below kColumns.
// The depth is added in order, so an element's sum does not depend on its place in the tile; the
// number of a pair of tiles says how far the sums have come.
#pragma once

#include "tiles.cuh"

namespace fullconv::cuda {

template <class S, int SIZE>
struct alignas(sizeof(S) * SIZE) Vector {
  S element[SIZE];

  static __device__ __forceinline__ Vector load(const S* from) {
    return *reinterpret_cast<const Vector*>(from);
  }
};

// A thread's lanes of a factor. Along lanes, they are groups of a vector; neighbouring threads have
// neighbouring groups or lanes, so that their reads fall into different banks.
template <class TILE, int THREADS>
struct Lanes {
  using S = typename TILE::S;
  static constexpr int kCount = TILE::kLanes / THREADS, kVector = 16 / sizeof(S);
  static constexpr int kDepth = 8 / sizeof(S);  // loaded at once; more would take more registers
  static_assert(kCount % kVector == 0);

  static __device__ __forceinline__ int lane(int thread, int i) {
    if constexpr (TILE::kAlongLanes)
      return i / kVector * (THREADS * kVector) + thread * kVector + i % kVector;
    else
      return i * THREADS + thread;
  }

  static __device__ __forceinline__ void load(const TILE& tile, int thread, int depth,
                                              S (&to)[kDepth][kCount]) {
    if constexpr (TILE::kAlongLanes) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
#pragma unroll
        for (int i = 0; i < kCount; i += kVector) {
          auto vector = Vector<S, kVector>::load(tile.at(lane(thread, i), depth + d));
#pragma unroll
          for (int e = 0; e < kVector; ++e) to[d][i + e] = vector.element[e];
        }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        auto vector = Vector<S, kDepth>::load(tile.at(lane(thread, i), depth));
#pragma unroll
        for (int d = 0; d < kDepth; ++d) to[d][i] = vector.element[d];
      }
    }
  }
};

// float or double, by multiply-adds: THREADS_A x THREADS_B threads. Sums start anew after kChain
// products and are added up in a second set of registers, for the rounding.
template <class TILE_A, class TILE_B, int THREADS_A, int THREADS_B>
struct Scalars {
  using A = TILE_A;
  using B = TILE_B;
  using T = typename A::S;
  using LanesA = Lanes<A, THREADS_A>;
  using LanesB = Lanes<B, THREADS_B>;
  static constexpr int kThreads = THREADS_A * THREADS_B;
  static constexpr int kChain = 64;
  static constexpr int kResident = 256;  // threads of a multiprocessor that registers are left for
  static constexpr int kRows = LanesA::kCount, kColumns = LanesB::kCount;
  static constexpr int kDepth = LanesA::kDepth;

  T sum[kRows][kColumns] = {}, total[kRows][kColumns] = {};

  static __device__ __forceinline__ int row(int i) {
    return LanesA::lane(threadIdx.x / THREADS_B, i);
  }
  static __device__ __forceinline__ int column(int j) {
    return LanesB::lane(threadIdx.x % THREADS_B, j);
  }
  __device__ __forceinline__ T value(int i, int j) const { return total[i][j] + sum[i][j]; }

  __device__ __forceinline__ void add(const A& a, const B& b, int number) {
#pragma unroll
    for (int depth = 0; depth < A::kDepth; depth += kDepth) {
      T rows[kDepth][kRows], columns[kDepth][kColumns];
      LanesA::load(a, threadIdx.x / THREADS_B, depth, rows);
      LanesB::load(b, threadIdx.x % THREADS_B, depth, columns);
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
          for (int j = 0; j < kColumns; ++j) sum[i][j] += rows[d][i] * columns[d][j];
    }
    constexpr int pairs = kChain / A::kDepth;
    if (number % pairs == pairs - 1) start_anew();
  }

 private:
  __device__ __forceinline__ void start_anew() {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        total[i][j] += sum[i][j];
        sum[i][j] = 0;
      }
  }
};

// Fragments of tensor cores. 16-bit ones are loaded by matrices, TF32's element by element.
template <class S>
struct Fragments {
  static constexpr int kDepth = 16;

  template <class TILE>
  static __device__ __forceinline__ void load_a(const TILE& tile, int lane, int depth,
                                                uint32_t (&to)[4]) {
    int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    int m = matrix % 2 * 8, k = matrix / 2 * 8;
    load(tile, lane + m, depth + k, row, to);
  }

  // Two fragments, eight lanes apart.
  template <class TILE>
  static __device__ __forceinline__ void load_b(const TILE& tile, int lane, int depth,
                                                uint32_t (&to)[2][2]) {
    int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    int n = matrix / 2 * 8, k = matrix % 2 * 8;
    uint32_t both[4];
    load(tile, lane + n, depth + k, row, both);
    to[0][0] = both[0], to[0][1] = both[1], to[1][0] = both[2], to[1][1] = both[3];
  }

 private:
  template <class TILE>
  static __device__ __forceinline__ void load(const TILE& tile, int lane, int depth, int row,
                                              uint32_t (&to)[4]) {
    constexpr bool transposed = TILE::kAlongLanes;
    gpu::load_matrices<transposed>(
        to, transposed ? tile.at(lane, depth + row) : tile.at(lane + row, depth));
  }
};

template <>
struct Fragments<float> {
  static constexpr int kDepth = 8;

  template <class TILE>
  static __device__ __forceinline__ void load_a(const TILE& tile, int lane, int depth,
                                                uint32_t (&to)[4]) {
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      to[i] = gpu::round_to_tf32(*tile.at(lane + group + i % 2 * 8, depth + member + i / 2 * 4));
  }

  template <class TILE>
  static __device__ __forceinline__ void load_b(const TILE& tile, int lane, int depth,
                                                uint32_t (&to)[2][2]) {
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        to[n][i] = gpu::round_to_tf32(*tile.at(lane + n * 8 + group, depth + member + i * 4));
  }
};

// float16, bfloat16, or float rounded to TF32, on tensor cores: WARPS_A x WARPS_B warps.
template <class TILE_A, class TILE_B, int WARPS_A, int WARPS_B>
struct TensorCores {
  using A = TILE_A;
  using B = TILE_B;
  using T = float;
  static constexpr int kThreads = 32 * WARPS_A * WARPS_B;
  static constexpr int kResident = 512;
  static constexpr int kTilesA = A::kLanes / WARPS_A / 16, kTilesB = B::kLanes / WARPS_B / 8;
  static constexpr int kRows = 2 * kTilesA, kColumns = 2 * kTilesB;
  static_assert(kTilesA > 0 && kTilesB % 2 == 0);

  float sum[kTilesA][kTilesB][4] = {};

  static __device__ __forceinline__ int first_row() {
    return threadIdx.x / 32 / WARPS_B * (A::kLanes / WARPS_A);
  }
  static __device__ __forceinline__ int first_column() {
    return threadIdx.x / 32 % WARPS_B * (B::kLanes / WARPS_B);
  }
  static __device__ __forceinline__ int row(int i) {
    return first_row() + i / 2 * 16 + i % 2 * 8 + threadIdx.x % 32 / 4;
  }
  static __device__ __forceinline__ int column(int j) {
    return first_column() + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
  }
  __device__ __forceinline__ T value(int i, int j) const {
    return sum[i / 2][j / 2][i % 2 * 2 + j % 2];
  }

  __device__ __forceinline__ void add(const A& a, const B& b, int) {
    using Fragment = Fragments<typename A::S>;
#pragma unroll
    for (int depth = 0; depth < A::kDepth; depth += Fragment::kDepth) {
      uint32_t rows[kTilesA][4], columns[kTilesB / 2][2][2];
#pragma unroll
      for (int i = 0; i < kTilesA; ++i) Fragment::load_a(a, first_row() + i * 16, depth, rows[i]);
#pragma unroll
      for (int j = 0; j < kTilesB / 2; ++j)
        Fragment::load_b(b, first_column() + j * 16, depth, columns[j]);
#pragma unroll
      for (int i = 0; i < kTilesA; ++i)
#pragma unroll
        for (int j = 0; j < kTilesB; ++j)
          gpu::multiply_matrices<typename A::S>(sum[i][j], rows[i], columns[j / 2][j % 2]);
    }
  }
};

// How tiles are multiplied: a kernel's columns and depth, and the stages of its pipeline. ROWS is
// 32 or 128.
template <class ELEMENT>
struct ByScalars {
  using S = ELEMENT;
  static constexpr int kRows = 64, kColumns = 128, kDepth = 16, kStages = 2;
  template <class A, class B>
  using Multiply = Scalars<A, B, A::kLanes / 8, 16>;
};

template <>
struct ByScalars<double> {
  using S = double;
  static constexpr int kRows = 64, kColumns = 64, kDepth = 8, kStages = 2;
  template <class A, class B>
  using Multiply = Scalars<A, B, A::kLanes / 8, 16>;
};

template <class ELEMENT>
struct ByTensorCores {
  using S = ELEMENT;
  static constexpr int kRows = 128, kColumns = 128, kDepth = sizeof(S) == 2 ? 32 : 16;
  static constexpr int kStages = 3;
  template <class A, class B>
  using Multiply = TensorCores<A, B, A::kLanes == kRows ? 2 : 1, 4>;
};

}  // namespace fullconv::cuda
