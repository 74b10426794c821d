// The engine of one instruction set. A file that includes this has chosen the target, and defines
//
//     FULLCONV_NAME           name and namespace of the instruction set
//     FULLCONV_VECTOR_BYTES   its vectors
//     FULLCONV_TILE_ROWS      rows of a tile that fill its registers
//     FULLCONV_SUPPORTED      whether this processor has it
//
// and, if it has vdpbf16ps, FULLCONV_BF16_PAIRS, with FULLCONV_MATRIX_UNIT if there is one. Then
// its engine for bfloat16 is its own, the others are those of FULLCONV_OTHERS.
//
// All code below has internal linkage: an inline function shared between instruction sets
// would be merged by the linker, and the copy it keeps may hold instructions the processor lacks.

#define FULLCONV_JOIN_(a, b) a##b
#define FULLCONV_JOIN(a, b) FULLCONV_JOIN_(a, b)
#define FULLCONV_STRING_(a) #a
#define FULLCONV_STRING(a) FULLCONV_STRING_(a)

namespace fullconv {
namespace {

#include "scalars.inl"
#include "vectors.inl"
#include "elements.inl"
#include "cost.inl"
#include "tile.inl"
#include "pack.inl"
#include "filter_panels.inl"
#include "correlate.inl"
#include "strips.inl"
#include "lines.inl"
#include "bands.inl"
#include "channels.inl"
#include "depthwise.inl"
#include "padded_block.inl"
#include "direct_tile.inl"
#include "direct.inl"
#include "panels.inl"
#include "pointwise.inl"
#include "dots.inl"
#include "linear.inl"
#include "unreached.inl"
#ifdef FULLCONV_MATRIX_UNIT
#include "matrix_unit.inl"
#include "amx.inl"
#endif
#include "scatter.inl"
#include "weight_sums.inl"
#include "weight.inl"
#include "channels_weight.inl"
#include "depthwise_weight.inl"
#include "lines_weight.inl"
#include "direct_weight.inl"
#ifdef FULLCONV_MATRIX_UNIT
#include "amx_weight.inl"
#endif
#include "channel_sum.inl"
#include "transforms.inl"
#include "winograd_tiles.inl"
#include "winograd.inl"
#include "winograd_weight.inl"
#include "relu.inl"
#include "pool.inl"
#include "pool_channels.inl"
#include "pool_lines.inl"
#include "pool_turned.inl"
#include "pool_scatter.inl"
#include "pool_gather.inl"

template <class Way, class Job = CorrelateJob>
constexpr FilterWay<Job> filter_way(const char* name) {
  return {name,
          Way::cost,
          Way::packed_filter_size,
          Way::pack_filter_tasks,
          Way::pack_filter,
          Way::tasks,
          Way::scratch,
          Way::run};
}

template <class Way>
constexpr WeightWay weight_way(const char* name) {
  return {name,         Way::cost, Way::splits,       Way::partial_size, Way::tasks,
          Way::scratch, Way::run,  Way::reduce_tasks, Way::reduce};
}

template <class S>
constexpr Engine make_engine() {
  return {
      filter_way<Channels<S>>("channels"),
      {
#ifdef FULLCONV_MATRIX_UNIT
          filter_way<Amx<S>>("amx"),
#endif
          filter_way<Unreached<S>>("unreached"), filter_way<Winograd<S, 3, 3>>("winograd"),
          filter_way<Winograd<S, 5, 5>>("winograd"), filter_way<Winograd<S, 2, 2>>("winograd"),
          filter_way<Winograd<S, 4, 4>>("winograd"), filter_way<Winograd<S, 1, 4>>("winograd"),
          filter_way<Winograd<S, 4, 1>>("winograd"), filter_way<Winograd<S, 1, 3>>("winograd"),
          filter_way<Winograd<S, 3, 1>>("winograd"), filter_way<Depthwise<S>>("depthwise"),
          filter_way<Dots<S>>("dots"), filter_way<Linear<S>>("linear"),
          filter_way<Pointwise<S>>("pointwise"), filter_way<Direct<S>>("direct"),
          filter_way<Lines<S>>("lines"), filter_way<Correlate<S>>("gemm")},
      filter_way<Scatter<S>, ScatterJob>("scatter"),
      {
#ifdef FULLCONV_MATRIX_UNIT
          weight_way<AmxWeight<S>>("amx"),
#endif
          weight_way<ChannelsWeight<S>>("channels"), weight_way<DepthwiseWeight<S>>("depthwise"),
          weight_way<WinogradWeight<S, 3, 3>>("winograd"),
          weight_way<WinogradWeight<S, 5, 5>>("winograd"),
          weight_way<WinogradWeight<S, 2, 2>>("winograd"),
          weight_way<WinogradWeight<S, 4, 4>>("winograd"),
          weight_way<WinogradWeight<S, 1, 4>>("winograd"),
          weight_way<WinogradWeight<S, 4, 1>>("winograd"),
          weight_way<WinogradWeight<S, 1, 3>>("winograd"),
          weight_way<WinogradWeight<S, 3, 1>>("winograd"), weight_way<LinesWeight<S>>("lines"),
          weight_way<DirectWeight<S>>("direct"), weight_way<Weight<S>>("gemm")},
      ChannelSum<S>::tasks,
      ChannelSum<S>::run};
}

template <class Way>
constexpr PoolWay pool_way() {
  return {Way::fits, Way::tasks, Way::scratch, Way::run};
}

template <class S, Pooling... POOLINGS>
constexpr PoolEngine make_pool_engine() {
  PoolEngine engine{Relu<S>::tasks, Relu<S>::run, {}};
  auto enter = [&](Pooling pooling, auto... ways) {
    PoolWay* to = engine.pool[static_cast<int64_t>(pooling)];
    ((*to++ = ways), ...);
  };
  (enter(POOLINGS, pool_way<PoolChannels<S, POOLINGS>>(), pool_way<PoolTurned<S, POOLINGS>>(),
         pool_way<PoolLines<S, POOLINGS>>()),
   ...);
  if constexpr (!std::is_integral_v<S>) {
    enter(Pooling::max_gather, pool_way<PoolGather<S>>());
    enter(Pooling::max_scatter, pool_way<PoolChannels<S, Pooling::max_scatter>>(),
          pool_way<PoolScatter<S>>());
  }
  return engine;
}

template <class S>
constexpr PoolEngine make_float_pool_engine() {
  return make_pool_engine<S, Pooling::max, Pooling::max_indices, Pooling::average,
                          Pooling::average_adjoint>();
}

bool supported() { return FULLCONV_SUPPORTED; }

}  // namespace

#define FULLCONV_ENGINE(type) FULLCONV_JOIN(FULLCONV_NAME, _##type##_engine)
#ifndef FULLCONV_OTHERS
#define FULLCONV_OTHERS FULLCONV_NAME
extern const Engine FULLCONV_ENGINE(f32) = make_engine<float>();
extern const Engine FULLCONV_ENGINE(f64) = make_engine<double>();
extern const Engine FULLCONV_ENGINE(f16) = make_engine<Half>();
// In Element's order.
extern const PoolEngine FULLCONV_JOIN(FULLCONV_NAME, _pool_engines)[kElements] = {
    make_float_pool_engine<float>(),
    make_float_pool_engine<double>(),
    make_float_pool_engine<BFloat16>(),
    make_float_pool_engine<Half>(),
    make_pool_engine<int8_t, Pooling::max, Pooling::max_indices>(),
    make_pool_engine<uint8_t, Pooling::max, Pooling::max_indices>(),
    make_pool_engine<int16_t, Pooling::max, Pooling::max_indices>(),
    make_pool_engine<int32_t, Pooling::max, Pooling::max_indices>(),
    make_pool_engine<int64_t, Pooling::max, Pooling::max_indices, Pooling::average>(),
};
#endif
extern const Engine FULLCONV_ENGINE(bf16) = make_engine<BFloat16>();

extern const InstructionSet FULLCONV_JOIN(FULLCONV_NAME, _instruction_set) = {
    FULLCONV_STRING(FULLCONV_NAME),
    supported,
    &FULLCONV_JOIN(FULLCONV_OTHERS, _f32_engine),
    &FULLCONV_JOIN(FULLCONV_OTHERS, _f64_engine),
    &FULLCONV_ENGINE(bf16),
    &FULLCONV_JOIN(FULLCONV_OTHERS, _f16_engine),
    FULLCONV_JOIN(FULLCONV_OTHERS, _pool_engines),
};

}  // namespace fullconv
