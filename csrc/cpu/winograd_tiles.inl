// Tiles of images: what Winograd's ways share, which are correlations of R x R taps with stride 1.
//
// Taps that lie d apart meet positions whose inputs are s apart. Counted in steps of lcm(s, d),
// both are 1 apart: taps fall into s/gcd(s, d) phases, each of which meets its own part of the
// source, and positions into d/gcd(s, d), each with its own part of the result (a filter of stride
// 2 and dilation 1 falls into two an axis, an image under a filter of dilation 2 too). A tile takes
// its elements, lcm(s, d) apart, from one phase of both.

// std::gcd, but of this instruction set.
inline int64_t greatest_divisor(int64_t a, int64_t b) {
  return b == 0 ? a : greatest_divisor(b, a % b);
}

// The tiles of one axis, `m` positions of a phase each; phase by phase.
struct TiledAxis {
  int64_t positions, step, m;
  int64_t tap_phases, dilation;  // phases of the taps, and of the positions
  int64_t phase_tiles, tiles;

  TiledAxis(const AxisMap& axis, int64_t m) : positions(axis.positions), step(axis.step), m(m) {
    int64_t apart = std::abs(axis.offset[1] - axis.offset[0]);
    int64_t shared = greatest_divisor(step, apart);
    tap_phases = step / shared;
    dilation = apart / shared;
    phase_tiles = quotient_up(quotient_up(positions, dilation), m);
    tiles = phase_tiles * least(dilation, positions);
  }

  int64_t first(int64_t tile) const {  // position
    return tile / phase_tiles + tile % phase_tiles * m * dilation;
  }
  int64_t positions_from(int64_t first) const {  // to the end of the phase
    return first < positions ? quotient_up(positions - first, dilation) : 0;
  }
  int64_t spacing() const { return dilation * step; }  // of a tile's elements, in the source
};

struct Tiles {  // of an image
  TiledAxis h, w;
  int64_t count() const { return h.tiles * w.tiles; }
};

// Points of a transform for R taps, and the outputs of a tile.
template <int R>
constexpr int kPoints = R == 2 ? 4 : 6;
template <int R>
constexpr int kOutputs = kPoints<R> + 1 - R;

// Whether fewer products are less work: direct sums multiply in pairs where a processor can, which
// leaves nothing to win for 2 x 2 taps.
template <class S, int R>
constexpr bool kSaves = R > 2 || kNumbers<typename Element<S>::type> == 1;

// Whether the taps of an axis, equally far from each other, are R in each phase.
template <int R>
inline bool falls_into_taps(const AxisMap& axis) {
  if (axis.taps < R || axis.position_step == 0 || axis.positions == 0) return false;
  int64_t apart = axis.offset[1] - axis.offset[0];
  for (int64_t r = 2; r < axis.taps; ++r)
    if (axis.offset[r] - axis.offset[r - 1] != apart) return false;
  return axis.taps % R == 0 && axis.taps / R == TiledAxis(axis, 1).tap_phases;
}

// Tiles side by side: of which sample, their first row and column, how many, and the index of the
// first in its block.
struct Strip {
  int64_t sample, row, column, tiles, at;
};

// The strip that begins at index `at` of a block of `count` tiles.
inline Strip strip_at(const Tiles& plan, int64_t first, int64_t count, int64_t at) {
  int64_t column = (first + at) % plan.w.tiles, line = (first + at) / plan.w.tiles;
  int64_t tiles =
      least(least(count - at, kStripTiles), plan.w.phase_tiles - column % plan.w.phase_tiles);
  return {line / plan.h.tiles, plan.h.first(line % plan.h.tiles), plan.w.first(column), tiles, at};
}

// Where transformed tiles go: the steps from tile to tile, from one vector of channels to the next,
// and from point to point.
struct TileSteps {
  int64_t tile, vector, point;
};

// to = matrix · tile · matrixᵀ for tiles of SIZE x SIZE elements, the first of which starts at
// `origin`, a row and a column. While a strip is transformed the lines of the next are asked for,
// row by row: a vector of channels leaves gaps that hardware does not foresee.
template <class S, class E, int SIZE, class T>
void transform_tiles(const View& source, int64_t channels, const AxisMap& h, const AxisMap& w,
                     std::pair<int64_t, int64_t> origin, const Tiles& plan, int64_t first,
                     int64_t count, T* strip, T* to, const TileSteps& steps) {
  constexpr int64_t lanes = Vector<T>::lanes;
  auto columns = [&](const Strip& now) { return plan.w.m * (now.tiles - 1) + SIZE; };
  auto place = [&](const Strip& now) {
    return Place{origin.first + now.row * h.step,
                 origin.second + now.column * w.step,
                 SIZE,
                 columns(now),
                 plan.h.dilation * h.step,
                 plan.w.dilation * w.step};
  };
  auto from = [&](const Strip& now, int64_t c) {
    return static_cast<const S*>(source.data) + now.sample * source.n + c * source.c;
  };
  Strip now = strip_at(plan, first, count, 0);
  for (int64_t c = 0; c < channels;) {
    load_strip(from(now, c), source, least(lanes, channels - c), h, w, place(now), strip);
    int64_t next_c = now.at + now.tiles < count ? c : c + lanes;
    Strip next = strip_at(plan, first, count, next_c == c ? now.at + now.tiles : 0);
    for (int64_t tile = 0; tile < now.tiles; ++tile) {
      if (next_c < channels)
        for (int64_t i = SIZE * tile / now.tiles; i < SIZE * (tile + 1) / now.tiles; ++i)
          prefetch_row(from(next, next_c), source, least(lanes, channels - next_c), h, w,
                       place(next), i);
      evaluate_tile<E, SIZE>(strip + tile * plan.w.m * lanes, columns(now),
                             to + (now.at + tile) * steps.tile + c / lanes * steps.vector,
                             steps.point, steps.tile);
    }
    now = next, c = next_c;
  }
}
