// Tiles of images: what Winograd's ways share.
//
// A filter of dilation d meets, from one position, only every d-th element: an axis falls into d
// phases, each of them an axis of dilation 1, and a tile takes its elements, d apart, from one.

// The tiles of one axis, `step` positions of a phase each; phase by phase.
struct TiledAxis {
  int64_t positions, step;
  int64_t dilation, phase_tiles, tiles;

  TiledAxis(const AxisMap& axis, int64_t step)
      : positions(axis.positions),
        step(step),
        dilation(std::abs(axis.offset[1] - axis.offset[0])),
        phase_tiles(quotient_up(quotient_up(positions, dilation), step)),
        tiles(phase_tiles * least(dilation, positions)) {}

  int64_t first(int64_t tile) const {  // position
    return tile / phase_tiles + tile % phase_tiles * step * dilation;
  }
  int64_t positions_from(int64_t first) const {  // to the end of the phase
    return first < positions ? quotient_up(positions - first, dilation) : 0;
  }
};

struct Tiles {  // of an image
  TiledAxis h, w;
  int64_t count() const { return h.tiles * w.tiles; }
};

// A pair of axis maps that Winograd's ways can do: R taps, equally far from each other, stride 1.
template <int R>
inline bool taps_in_steps(const AxisMap& axis) {
  if (axis.taps != R || axis.step != 1 || axis.position_step != 1 || axis.positions == 0)
    return false;
  int64_t step = axis.offset[1] - axis.offset[0];
  for (int64_t r = 2; r < R; ++r)
    if (axis.offset[r] - axis.offset[r - 1] != step) return false;
  return true;
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
  auto columns = [&](const Strip& now) { return plan.w.step * (now.tiles - 1) + SIZE; };
  auto place = [&](const Strip& now) {
    return Place{
        origin.first + now.row, origin.second + now.column, SIZE, columns(now), plan.h.dilation,
        plan.w.dilation};
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
      evaluate_tile<E, SIZE>(strip + tile * plan.w.step * lanes, columns(now),
                             to + (now.at + tile) * steps.tile + c / lanes * steps.vector,
                             steps.point, steps.tile);
    }
    now = next, c = next_c;
  }
}
