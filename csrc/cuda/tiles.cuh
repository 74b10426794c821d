// Tiles of a matrix product in shared memory, and how they get there: asynchronous copies of up to
// 16 bytes, several tiles ahead of the multiplication.
//
// Both factors are stored by lanes (rows of the first, columns of the second) and depth (what is
// summed over). A tile lies along whichever of the two is contiguous in memory, so that
// neighbouring threads copy neighbouring elements, VECTOR of them at once.
#pragma once

#include "places.cuh"

namespace fullconv::cuda {

enum class Along { lanes, depth };

template <class ELEMENT, int LANES, int DEPTH, Along ALONG, int VECTOR>
struct Tile {
  using S = ELEMENT;
  static constexpr int kLanes = LANES, kDepth = DEPTH, kVector = VECTOR;
  static constexpr Along kAlong = ALONG;
  static constexpr bool kAlongLanes = ALONG == Along::lanes;
  static constexpr int kWidth = kAlongLanes ? LANES : DEPTH;
  static constexpr int kLanePlaces = kAlongLanes ? LANES / VECTOR : LANES;
  static constexpr int kDepthPlaces = kAlongLanes ? DEPTH : DEPTH / VECTOR;
  // Rows a few elements longer than they are wide: reads of tensor cores' fragments, and of vectors
  // of neighbouring lanes, fall into different banks.
  static constexpr int kPitch = kWidth + (kAlongLanes ? 8 : 16 / static_cast<int>(sizeof(S)));

  alignas(16) S data[kAlongLanes ? DEPTH : LANES][kPitch];

  __device__ __forceinline__ S* at(int lane, int depth) {
    return kAlongLanes ? &data[depth][lane] : &data[lane][depth];
  }
  __device__ __forceinline__ const S* at(int lane, int depth) const {
    return kAlongLanes ? &data[depth][lane] : &data[lane][depth];
  }
};

// The copies of one tile by all threads of a block.
template <class TILE, int THREADS>
struct Fetch {
  using S = typename TILE::S;
  static constexpr int kBytes = TILE::kVector * static_cast<int>(sizeof(S));
  static constexpr int kCopies = TILE::kLanes * TILE::kDepth / TILE::kVector / THREADS;
  static constexpr bool kStaged = kBytes < 4;  // an asynchronous copy has four bytes or more
  static_assert(TILE::kLanes * TILE::kDepth % (TILE::kVector * THREADS) == 0);

  S staged[kStaged ? kCopies : 1];

  static __device__ __forceinline__ int lane(int unit) {
    return TILE::kAlongLanes ? unit % TILE::kLanePlaces : unit / TILE::kDepthPlaces;
  }
  static __device__ __forceinline__ int depth(int unit) {
    return TILE::kAlongLanes ? unit / TILE::kLanePlaces : unit % TILE::kDepthPlaces;
  }
  static __device__ __forceinline__ S* target(TILE& tile, int unit) {
    constexpr int along_lanes = TILE::kAlongLanes ? TILE::kVector : 1;
    constexpr int along_depth = TILE::kAlongLanes ? 1 : TILE::kVector;
    return tile.at(lane(unit) * along_lanes, depth(unit) * along_depth);
  }

  __device__ __forceinline__ void start(TILE& tile, const Source<S>& source, const Place* lanes,
                                        const Place* depths) {
#pragma unroll(kStaged ? kCopies : 1)
    for (int i = 0; i < kCopies; ++i) {
      int unit = threadIdx.x + i * THREADS;
      int64_t offset = source.find(lanes[lane(unit)], depths[depth(unit)]);
      const S* from = source.data + (offset < 0 ? 0 : offset);
      if constexpr (kStaged)
        staged[i] = offset < 0 ? S(0.f) : *from;
      else
        gpu::copy_async<kBytes>(target(tile, unit), offset < 0 ? source.data : from, offset >= 0);
    }
  }

  // After the multiplication that reads the tile before: what start could not copy.
  __device__ __forceinline__ void finish(TILE& tile) {
    if constexpr (kStaged) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) *target(tile, threadIdx.x + i * THREADS) = staged[i];
    }
  }
};

// The loop over the depth, in chunks: while one pair of tiles is multiplied, the next ones are on
// their way. An operand says where the places of its lanes and depths are.
template <class MULTIPLY, int STAGES>
struct Pipeline {
  using A = typename MULTIPLY::A;
  using B = typename MULTIPLY::B;
  static constexpr int kThreads = MULTIPLY::kThreads, kDepth = A::kDepth;
  // Blocks on a multiprocessor that registers are left for; what is staged takes many.
  static constexpr bool kStaged = Fetch<A, kThreads>::kStaged || Fetch<B, kThreads>::kStaged;
  static constexpr int kBlocks = (kStaged ? 256 : MULTIPLY::kResident) / kThreads;
  static_assert(A::kDepthPlaces + B::kDepthPlaces <= kThreads);

  struct Shared {
    A a[STAGES];
    B b[STAGES];
    Source<typename A::S> a_source;
    Source<typename B::S> b_source;
    Place a_lanes[A::kLanePlaces], b_lanes[B::kLanePlaces];
    Place a_depths[2][A::kDepthPlaces], b_depths[2][B::kDepthPlaces];
  };

  template <class OPERAND_A, class OPERAND_B>
  static __device__ __forceinline__ void run(Shared& shared, const OPERAND_A& a, const OPERAND_B& b,
                                             int chunks, MULTIPLY& multiply) {
    const int thread = threadIdx.x;
    auto find_depths = [&](int chunk) {
      int64_t depth = int64_t{chunk} * kDepth;
      if (thread < A::kDepthPlaces) {
        shared.a_depths[chunk % 2][thread] = a.depth(depth + thread * (kDepth / A::kDepthPlaces));
      } else if (thread < A::kDepthPlaces + B::kDepthPlaces) {
        int place = thread - A::kDepthPlaces;
        shared.b_depths[chunk % 2][place] = b.depth(depth + place * (kDepth / B::kDepthPlaces));
      }
    };
    Fetch<A, kThreads> fetch_a;
    Fetch<B, kThreads> fetch_b;
    auto start = [&](int chunk) {
      if (chunk < chunks) {
        int stage = chunk % STAGES;
        fetch_a.start(shared.a[stage], shared.a_source, shared.a_lanes, shared.a_depths[chunk % 2]);
        fetch_b.start(shared.b[stage], shared.b_source, shared.b_lanes, shared.b_depths[chunk % 2]);
      }
      gpu::commit_copies();
    };
    auto finish = [&](int chunk) {
      if (chunk < chunks) {
        fetch_a.finish(shared.a[chunk % STAGES]);
        fetch_b.finish(shared.b[chunk % STAGES]);
      }
    };

    if (thread == 0) shared.a_source = a.source(), shared.b_source = b.source();
    for (int i = thread; i < A::kLanePlaces; i += kThreads)
      shared.a_lanes[i] = a.lane(i * (A::kLanes / A::kLanePlaces));
    for (int i = thread; i < B::kLanePlaces; i += kThreads)
      shared.b_lanes[i] = b.lane(i * (B::kLanes / B::kLanePlaces));
    find_depths(0);
    __syncthreads();
    for (int chunk = 0; chunk < STAGES - 1; ++chunk) {
      start(chunk);
      finish(chunk);
      find_depths(chunk + 1);
      if (chunk + 1 < STAGES - 1) __syncthreads();
    }
    for (int chunk = 0; chunk < chunks; ++chunk) {
      gpu::wait_for_copies<STAGES - 2>();
      __syncthreads();
      start(chunk + STAGES - 1);
      find_depths(chunk + STAGES);
      multiply.add(shared.a[chunk % STAGES], shared.b[chunk % STAGES], chunk);
      finish(chunk + STAGES - 1);
    }
  }
};

}  // namespace fullconv::cuda
