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

// Calls f(sample, first row, first column, tiles, index of the first) for each strip of a block:
// tiles side by side.
template <class F>
inline void for_strips(const Tiles& plan, int64_t first, int64_t count, F f) {
  for (int64_t at = 0, piece; at < count; at += piece) {
    int64_t column = (first + at) % plan.w.tiles, line = (first + at) / plan.w.tiles;
    piece = least(least(count - at, kStripTiles), plan.w.phase_tiles - column % plan.w.phase_tiles);
    f(line / plan.h.tiles, plan.h.first(line % plan.h.tiles), plan.w.first(column), piece, at);
  }
}

// to[point][tile][channel] = matrix · tile · matrixᵀ for tiles of SIZE x SIZE elements, the first
// of which starts at `origin`, a row and a column.
template <class S, class E, int SIZE, class T>
void transform_tiles(const View& source, int64_t channels, const AxisMap& h, const AxisMap& w,
                     std::pair<int64_t, int64_t> origin, const Tiles& plan, int64_t first,
                     int64_t count, T* strip, T* to, int64_t line, int64_t plane) {
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t c = 0; c < channels; c += lanes)
    for_strips(plan, first, count,
               [&](int64_t n, int64_t row, int64_t column, int64_t tiles, int64_t at) {
                 int64_t columns = plan.w.step * (tiles - 1) + SIZE;
                 load_strip(static_cast<const S*>(source.data) + n * source.n + c * source.c,
                            source, least(lanes, channels - c), h, w,
                            {origin.first + row, origin.second + column, SIZE, columns,
                             plan.h.dilation, plan.w.dilation},
                            strip);
                 for (int64_t tile = 0; tile < tiles; ++tile)
                   evaluate_tile<E, SIZE>(strip + tile * plan.w.step * lanes, columns,
                                          to + (at + tile) * line + c, plane);
               });
}
