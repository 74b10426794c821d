// Panels of a filter for vectors along the result's channels: for some channels of the depth,
// [tap][channel][column]. The filter may lie in any way; where columns, channels or taps are
// neighbours, whole vectors are read, and turned where they lie across the columns.

constexpr int64_t kPackedPanels = 8;  // at once, so that neighbouring columns are read at once
constexpr int64_t kAhead = 64;        // elements to prefetch of each of a square's lines

template <class S, class T>
struct FilterChunk {
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  const S* from;  // first column, first channel of the chunk
  const FilterView& filter;
  const AxisMap& h;
  const AxisMap& w;
  int64_t columns, channels;
  T* to;
  int64_t panel;   // elements from panel to panel
  V special = {};  // to which a NaN or Inf, times 0, adds a NaN

  // Says whether there was a NaN or Inf.
  bool pack() {
    int64_t whole = columns / lanes * lanes, end = round_up(columns, kColumns<T>);
    bool neighbours = taps_are_neighbours();
    if (filter.row == 1)
      copy_columns(whole);
    else
      for (int64_t column = 0; column < whole; column += lanes)
        if (neighbours && taps() > 1 && filter.depth == taps())
          turn(column, from, taps() * channels,
               [&](int64_t i) { return place(i % taps(), i / taps(), column); });
        else if (neighbours && 4 * taps() >= lanes)
          for (int64_t c = 0; c < channels; ++c)
            turn(column, from + c * filter.depth, taps(),
                 [&](int64_t i) { return place(i, c, column); });
        else if (filter.depth == 1)
          for (int64_t t = 0; t < taps(); ++t)
            turn(column, from + tap(t), channels, [&](int64_t i) { return place(t, i, column); });
        else
          gather(column, column + lanes);
    gather(whole, end);
    return any_nan<T>(special);
  }

 private:
  int64_t taps() const { return h.taps * w.taps; }
  int64_t tap(int64_t index) const {
    return h.tap[index / w.taps] * filter.r + w.tap[index % w.taps] * filter.s;
  }
  bool taps_are_neighbours() const {
    for (int64_t index = 0; index < taps(); ++index)
      if (tap(index) != index) return false;
    return true;
  }
  T* place(int64_t tap, int64_t channel, int64_t column) const {
    return to + column / kColumns<T> * panel + (tap * channels + channel) * kColumns<T> +
           column % kColumns<T>;
  }
  void put(V value, T* place) {
    special += value * 0;
    store<T>(value, place);
  }

  void copy_columns(int64_t end) {
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t t = 0; t < taps(); ++t) {
        const S* at = from + c * filter.depth + tap(t);
        for (int64_t column = 0; column < end; column += lanes)
          put(load<T>(at + column), place(t, c, column));
      }
  }

  // `lanes` columns of `count` neighbours: place(i)[column] = at[column·row + i].
  template <class F>
  void turn(int64_t column, const S* at, int64_t count, F place) {
    const S* end =
        from + (columns - 1) * filter.row + (channels - 1) * filter.depth + tap(taps() - 1) + 1;
    at += column * filter.row;
    for (int64_t i = 0; i < count; i += lanes, at += lanes) {
      int64_t some = least(lanes, count - i);
      for (int64_t lane = 0; lane < lanes; ++lane)
        __builtin_prefetch(at + lane * filter.row + kAhead);
      V square[lanes] = {};
      if (at + (lanes - 1) * filter.row + lanes <= end)
        load_turned<T>(at, filter.row, square);
      else
        for (int64_t x = 0; x < some; ++x)
          for (int64_t lane = 0; lane < lanes; ++lane)
            square[x][lane] = widen(at[lane * filter.row + x]);
      for (int64_t x = 0; x < some; ++x) put(square[x], place(i + x));
    }
  }

  // Element by element; zeros behind the last column.
  void gather(int64_t column, int64_t end) {
    for (; column < end; column += lanes)
      for (int64_t t = 0; t < taps(); ++t)
        for (int64_t c = 0; c < channels; ++c) {
          const S* at = from + tap(t) + c * filter.depth;
          V value = {};
          for (int64_t lane = 0; lane < lanes && column + lane < columns; ++lane)
            value[lane] = widen(at[(column + lane) * filter.row]);
          put(value, place(t, c, column));
        }
  }
};
