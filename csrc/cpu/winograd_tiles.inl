// Tiles of images and parts of filters: what Winograd's ways share, which are correlations of RH x
// RW taps with stride 1.
//
// Taps that lie d apart meet positions whose inputs are s apart. Counted in steps of lcm(s, d),
// both are 1 apart: taps fall into s/gcd(s, d) phases, each of which meets its own part of the
// source, and positions into d/gcd(s, d), each with its own part of the result (a filter of stride
// 2 and dilation 1 falls into two an axis, an image under a filter of dilation 2 too). A tile takes
// its elements, lcm(s, d) apart, from one phase of both.
//
// Taps of a phase fall into parts of R or R - 1 neighbours, whose results add up: 5 are 3 and 2, 7
// are 4 and 3. One of R - 1 is one of R whose last tap is 0, and that is all that the point ∞
// sees of it: the product there is left out, and m outputs of t taps take m + t - 1, the fewest.

// The tiles of one axis, `m` positions of a phase each; phase by phase.
struct TiledAxis {
  int64_t positions, step, m;
  int64_t tap_phases, dilation;  // phases of the taps, and of the positions
  int64_t phase_tiles, tiles;

  TiledAxis(const AxisMap& axis, int64_t m) : positions(axis.positions), step(axis.step), m(m) {
    int64_t apart = axis.taps > 1 ? std::abs(axis.offset[1] - axis.offset[0]) : step;
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
template <>
constexpr int kPoints<1> = 1;
template <int R>
constexpr int kOutputs = kPoints<R> + 1 - R;

// Whether fewer products are less work: direct sums multiply in pairs where a processor can, which
// leaves nothing to win for 2 x 2 taps, or for one row or column of them.
template <class S, int RH, int RW>
constexpr bool kSaves = (RH > 2 && RW > 2) || kNumbers<typename Element<S>::type> == 1;

// Taps of an axis, neighbours in one phase, in the order of the source.
struct TapPart {
  int64_t first, next;  // index of the first tap, and the step to the next
  int64_t taps, points;
  int64_t before;  // points of the parts before this one

  int64_t origin(const AxisMap& axis) const { return axis.base[0] + axis.offset[first]; }
  int64_t tap(const AxisMap& axis, int64_t r) const { return axis.tap[first + r * next]; }
};

// The parts of an axis' taps, of R or R - 1 each; of R = 1, each its own.
template <int R>
struct TapParts {
  int64_t taps, phases;
  bool even, forwards;  // equally far from each other; in the order of the source

  explicit TapParts(const AxisMap& axis)
      : taps(axis.taps), even(axis.position_step != 0 && axis.positions > 0) {
    int64_t apart = taps > 1 ? axis.offset[1] - axis.offset[0] : 1;
    forwards = apart > 0;
    for (int64_t r = 2; r < taps; ++r) even &= axis.offset[r] - axis.offset[r - 1] == apart;
    phases = even ? least(taps, TiledAxis(axis, 1).tap_phases) : 0;
  }
  int64_t count() const {
    int64_t sum = 0;
    for (int64_t phase = 0; phase < phases; ++phase) sum += of_phase(phase);
    return sum;
  }
  int64_t points() const { return points_of(count(), taps); }
  bool fit() const {
    for (int64_t phase = 0; phase < phases; ++phase)
      if (taps_of(phase) < of_phase(phase) * (R - 1)) return false;
    return even;
  }
  TapPart at(int64_t index) const {
    int64_t phase = 0, before = 0, i = index;
    for (; i >= of_phase(phase); ++phase) {
      i -= of_phase(phase);
      before += taps_of(phase);
    }
    int64_t all = taps_of(phase), whole = all - of_phase(phase) * (R - 1);  // parts of R taps
    int64_t first = i * (R - 1) + least(i, whole), some = i < whole ? R : R - 1;
    return {phase + phases * (forwards ? first : all - 1 - first), forwards ? phases : -phases,
            some, points_of(1, some), points_of(index, before + first)};
  }

 private:
  int64_t taps_of(int64_t phase) const { return quotient_up(taps - phase, phases); }
  int64_t of_phase(int64_t phase) const { return quotient_up(taps_of(phase), R); }  // parts
  static int64_t points_of(int64_t parts, int64_t taps) { return parts * (kOutputs<R> - 1) + taps; }
};

// Tiles side by side: of which sample, their first row and column, how many, and the index of the
// first in its block.
struct Strip {
  int64_t sample, row, column, tiles, at;
};

// The strip that begins at index `at` of a block of `count` tiles.
inline Strip strip_at(const Tiles& plan, int64_t first, int64_t count, int64_t at) {
  int64_t column = (first + at) % plan.w.tiles, line = (first + at) / plan.w.tiles;
  int64_t tiles = least(least(count - at, kStripColumns / plan.w.m),
                        plan.w.phase_tiles - column % plan.w.phase_tiles);
  return {line / plan.h.tiles, plan.h.first(line % plan.h.tiles), plan.w.first(column), tiles, at};
}

// Where transformed tiles go: the steps from tile to tile, from one vector of channels to the next,
// and from point to point, of those that there are.
struct TileSteps {
  int64_t tile, vector, point;
  Points points;
};

// Tiles transformed by H's matrix and W's, the first of which starts at `origin`, a row and a
// column. While a strip is transformed the lines of the next are asked for, row by row: a vector of
// channels leaves gaps that hardware does not foresee.
template <class S, class H, class W, class T>
void transform_tiles(const View& source, int64_t channels, const AxisMap& h, const AxisMap& w,
                     std::pair<int64_t, int64_t> origin, const Tiles& plan, int64_t first,
                     int64_t count, T* strip, T* to, const TileSteps& steps) {
  constexpr int64_t lanes = Vector<T>::lanes;
  auto columns = [&](const Strip& now) { return plan.w.m * (now.tiles - 1) + W::columns; };
  auto place = [&](const Strip& now) {
    return Place{origin.first + now.row * h.step,
                 origin.second + now.column * w.step,
                 H::columns,
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
        for (int64_t i = H::columns * tile / now.tiles; i < H::columns * (tile + 1) / now.tiles;
             ++i)
          prefetch_row(from(next, next_c), source, least(lanes, channels - next_c), h, w,
                       place(next), i);
      evaluate_tile<H, W>(strip + tile * plan.w.m * lanes, columns(now), steps.points,
                          to + (now.at + tile) * steps.tile + c / lanes * steps.vector, steps.point,
                          steps.tile);
    }
    now = next, c = next_c;
  }
}
