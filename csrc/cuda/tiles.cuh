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
  // An asynchronous copy has four bytes or more.
  static constexpr bool kStaged = VECTOR * sizeof(S) < 4;
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

// Lanes of a tile that one of a block's threads copies elements of: the same in every tile.
template <class TILE, int THREADS>
constexpr int kLanesOfThread =
    TILE::kAlongLanes ? (TILE::kLanePlaces - 1) / THREADS + 1
                      : TILE::kLanes * TILE::kDepth / TILE::kVector / THREADS;

// The copies of one tile by all threads of a block. If HELD, a thread has its lanes' places in
// registers.
template <class TILE, int THREADS, bool HELD, class SOURCE>
struct Fetch {
  using S = typename TILE::S;
  static constexpr int kBytes = TILE::kVector * static_cast<int>(sizeof(S));
  static constexpr int kCopies = TILE::kLanes * TILE::kDepth / TILE::kVector / THREADS;
  static constexpr bool kStaged = TILE::kStaged;
  static constexpr int kLanes = kLanesOfThread<TILE, THREADS>;
  static_assert(TILE::kLanes * TILE::kDepth % (TILE::kVector * THREADS) == 0);
  static_assert(TILE::kAlongLanes ? kLanes * THREADS % TILE::kLanePlaces == 0
                                  : THREADS % TILE::kDepthPlaces == 0);

  SOURCE source;
  const Place* lanes;
  Place held[HELD ? kLanes : 1];
  S staged[kStaged ? kCopies : 1];

  __device__ __forceinline__ Fetch(const SOURCE& from, const Place* lane_places)
      : source(from), lanes(lane_places) {
    if constexpr (HELD)
#pragma unroll
      for (int i = 0; i < kLanes; ++i) held[i] = lanes[lane(threadIdx.x + i * THREADS)];
  }

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

  __device__ __forceinline__ void start(TILE& tile, const Place* depths) {
    Place deep = depths[depth(threadIdx.x)];
#pragma unroll(kStaged ? kCopies : 4)
    for (int i = 0; i < kCopies; ++i) {
      int unit = threadIdx.x + i * THREADS;
      if (TILE::kAlongLanes && i > 0) deep = depths[depth(unit)];
      auto shown = source.find(HELD ? held[HELD ? i % kLanes : 0] : lanes[lane(unit)], deep);
      if constexpr (kStaged)
        staged[i] = shown.any ? *shown.at : S(0.f);
      else
        gpu::copy_async<kBytes>(target(tile, unit), shown.at, shown.any);
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
  static constexpr bool kStaged = A::kStaged || B::kStaged;
  static constexpr int kBlocks = (kStaged ? 256 : MULTIPLY::kResident) / kThreads;
  static_assert(A::kDepthPlaces + B::kDepthPlaces <= kThreads);
  // More places than these would not fit in the registers besides the sums.
  static constexpr bool kHeld = kLanesOfThread<A, kThreads> + kLanesOfThread<B, kThreads> <= 3;

  struct Shared {
    A a[STAGES];
    B b[STAGES];
    Place a_lanes[A::kLanePlaces], b_lanes[B::kLanePlaces];
    Place a_depths[2][A::kDepthPlaces], b_depths[2][B::kDepthPlaces];
  };

  template <class OPERAND_A, class OPERAND_B>
  static __device__ __forceinline__ void run(Shared& shared, const OPERAND_A& a, const OPERAND_B& b,
                                             int chunks, MULTIPLY& multiply) {
    const int thread = threadIdx.x;
    auto find_depths = [&](int chunk) {
      uint32_t depth = chunk * kDepth;
      if (thread < A::kDepthPlaces) {
        shared.a_depths[chunk % 2][thread] = a.depth(depth + thread * (kDepth / A::kDepthPlaces));
      } else if (thread < A::kDepthPlaces + B::kDepthPlaces) {
        int place = thread - A::kDepthPlaces;
        shared.b_depths[chunk % 2][place] = b.depth(depth + place * (kDepth / B::kDepthPlaces));
      }
    };

    for (int i = thread; i < A::kLanePlaces; i += kThreads)
      shared.a_lanes[i] = a.lane(i * (A::kLanes / A::kLanePlaces));
    for (int i = thread; i < B::kLanePlaces; i += kThreads)
      shared.b_lanes[i] = b.lane(i * (B::kLanes / B::kLanePlaces));
    find_depths(0);
    __syncthreads();
    Fetch<A, kThreads, kHeld, typename OPERAND_A::From> fetch_a{a.source(), shared.a_lanes};
    Fetch<B, kThreads, kHeld, typename OPERAND_B::From> fetch_b{b.source(), shared.b_lanes};
    auto start = [&](int chunk) {
      if (chunk < chunks) {
        int stage = chunk % STAGES;
        fetch_a.start(shared.a[stage], shared.a_depths[chunk % 2]);
        fetch_b.start(shared.b[stage], shared.b_depths[chunk % 2]);
      }
      gpu::commit_copies();
    };
    auto finish = [&](int chunk) {
      if (chunk < chunks) {
        fetch_a.finish(shared.a[chunk % STAGES]);
        fetch_b.finish(shared.b[chunk % STAGES]);
      }
    };

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
