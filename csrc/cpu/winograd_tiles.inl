// Tiles of images: what Winograd's ways share.

struct Tiles {
  int64_t rows, columns;  // of an image
  int64_t step;           // from tile to tile, in elements
};

// A pair of axis maps that Winograd's ways can do: R taps beside each other, stride 1.
template <int R>
inline bool taps_beside_each_other(const AxisMap& axis) {
  if (axis.taps != R || axis.step != 1 || axis.position_step != 1 || axis.positions == 0)
    return false;
  int64_t step = axis.offset[1] - axis.offset[0];
  return (step == 1 || step == -1) && axis.offset[R - 1] - axis.offset[0] == step * (R - 1);
}

// Calls f(sample, tile's row, first column, tiles, index of the first) for each strip of a block.
template <class F>
inline void for_strips(const Tiles& plan, int64_t first, int64_t count, F f) {
  for (int64_t at = 0, piece; at < count; at += piece) {
    int64_t column = (first + at) % plan.columns, line = (first + at) / plan.columns;
    piece = least(least(count - at, kStripTiles), plan.columns - column);
    f(line / plan.rows, line % plan.rows, column, piece, at);
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
    for_strips(
        plan, first, count, [&](int64_t n, int64_t row, int64_t column, int64_t tiles, int64_t at) {
          int64_t columns = plan.step * (tiles - 1) + SIZE;
          load_strip(
              static_cast<const S*>(source.data) + n * source.n + c * source.c, source,
              least(lanes, channels - c), h, w,
              {origin.first + plan.step * row, origin.second + plan.step * column, SIZE, columns},
              strip);
          for (int64_t tile = 0; tile < tiles; ++tile)
            evaluate_tile<E, SIZE>(strip + tile * plan.step * lanes, columns,
                                   to + (at + tile) * line + c, plane);
        });
}
