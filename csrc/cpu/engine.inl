// The engine of one instruction set. A file that includes this has chosen the target, and defines
//
//     FULLCONV_NAME           name and namespace of the instruction set
//     FULLCONV_VECTOR_BYTES   its vectors
//     FULLCONV_TILE_ROWS      rows of a tile that fill its registers
//     FULLCONV_SUPPORTED      whether this processor has it
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
#include "tile.inl"
#include "pack.inl"
#include "correlate.inl"
#include "scatter.inl"
#include "weight.inl"
#include "channel_sum.inl"

template <class S>
constexpr Engine make_engine() {
  return {
      Correlate<S>::packed_filter_size,
      Correlate<S>::pack_filter_tasks,
      Correlate<S>::pack_filter,
      Correlate<S>::tasks,
      Correlate<S>::scratch,
      Correlate<S>::run,
      Scatter<S>::packed_filter_size,
      Scatter<S>::pack_filter_tasks,
      Scatter<S>::pack_filter,
      Scatter<S>::tasks,
      Scatter<S>::scratch,
      Scatter<S>::run,
      Weight<S>::splits,
      Weight<S>::partial_size,
      Weight<S>::tasks,
      Weight<S>::scratch,
      Weight<S>::run,
      Weight<S>::reduce_tasks,
      Weight<S>::reduce,
      ChannelSum<S>::tasks,
      ChannelSum<S>::run,
  };
}

bool supported() { return FULLCONV_SUPPORTED; }

}  // namespace

extern const InstructionSet FULLCONV_JOIN(FULLCONV_NAME, _instruction_set) = {
    FULLCONV_STRING(FULLCONV_NAME), supported,
    make_engine<float>(),           make_engine<double>(),
    make_engine<BFloat16>(),        make_engine<Half>(),
};

}  // namespace fullconv
