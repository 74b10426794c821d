// Panels of a filter for vectors along the result's channels: for some channels of the depth,
// [tap][channel][column], as elements. The filter may lie in any way; where columns, channels or
// taps are neighbours, whole vectors are read, and turned where they lie across the columns. The
// taps of a row may be folded into the channels: [row of taps][tap and channel][column].

constexpr int64_t kPackedPanels = 8;  // at once, so that neighbouring columns are read at once
constexpr int64_t kAhead = 64;        // elements to prefetch of each of a square's lines

template <class S, class E>
struct FilterChunk {
  using V = typename Vector<E>::type;
  static constexpr int64_t lanes = Vector<E>::lanes;

  const S* from;  // first column, first channel of the chunk
  const FilterView& filter;
  const AxisMap& h;
  const AxisMap& w;
  int64_t columns, channels;
  E* to;
  int64_t panel;  // elements from panel to panel
  int64_t pitch;  // channels from tap to tap
  bool folded = false;
  Special<E> special = {};

  // Says whether there was a NaN or Inf.
  bool pack() {
    int64_t whole = columns / lanes * lanes, end = round_up(columns, kColumns<E>);
    bool neighbours = taps_are_neighbours();
    if (filter.row == 1)
      copy_columns(whole);
    else if (folded)
      gather(0, whole, 0);
    else
      for (int64_t column = 0; column < whole; column += lanes)
        if (neighbours && taps() > 1 && filter.depth == taps() && kNumbers<E> == 1)
          turn<1>(column, channel(0), taps() * channels,
                  [&](int64_t i) { return place(i % taps(), i / taps(), column); });
        else if (neighbours && 4 * taps() >= lanes)
          for (int64_t c = 0; c < depth(); ++c)
            turn<1>(column, channel(c), taps(), [&](int64_t i) { return place(i, c, column); });
        else if (filter.depth == 1) {
          int64_t complete = channels / kNumbers<E>;
          for (int64_t t = 0; t < taps(); ++t)
            turn<kNumbers<E>>(column, channel(0) + tap(t), complete,
                              [&](int64_t i) { return place(t, i, column); });
          gather(column, column + lanes, complete);
        } else {
          gather(column, column + lanes, 0);
        }
    gather(whole, end, 0);
    return special.any();
  }

 private:
  int64_t depth() const { return elements<E>(folded ? w.taps * channels : channels); }
  int64_t taps() const { return folded ? h.taps : h.taps * w.taps; }
  int64_t tap(int64_t index) const {
    if (folded) return h.tap[index] * filter.r;
    return h.tap[index / w.taps] * filter.r + w.tap[index % w.taps] * filter.s;
  }
  bool taps_are_neighbours() const {
    for (int64_t index = 0; index < taps(); ++index)
      if (tap(index) != index) return false;
    return true;
  }
  Source<S, E> channel(int64_t index) const {
    if (!folded) return element_of_line<E>(from, filter.depth, index, channels);
    auto number = [&](int64_t i) {
      return w.tap[from_left(w, i / channels)] * filter.s + i % channels * filter.depth;
    };
    int64_t first = index * kNumbers<E>, next = first + 1;
    if (next == w.taps * channels) return Source<S, E>::first_only(from + number(first));
    return {from + number(first), number(next) - number(first)};
  }
  E* place(int64_t tap, int64_t channel, int64_t column) const {
    return to + column / kColumns<E> * panel + (tap * pitch + channel) * kColumns<E> +
           column % kColumns<E>;
  }
  void put(V value, E* place) {
    special.see(value);
    store<E>(value, place);
  }

  void copy_columns(int64_t end) {
    for (int64_t c = 0; c < depth(); ++c)
      for (int64_t t = 0; t < taps(); ++t) {
        Source<S, E> at = channel(c) + tap(t);
        for (int64_t column = 0; column < end; column += lanes)
          put((at + column).vector(), place(t, c, column));
      }
  }

  // `lanes` columns of `count` elements STEP apart: place(i)[column] = at[column·row + i·STEP].
  template <int64_t STEP, class F>
  void turn(int64_t column, Source<S, E> at, int64_t count, F place) {
    const S* end =
        from + (columns - 1) * filter.row + (channels - 1) * filter.depth + tap(taps() - 1) + 1;
    at = at + column * filter.row;
    for (int64_t i = 0; i < count; i += lanes, at = at + lanes * STEP) {
      int64_t some = least(lanes, count - i);
      for (int64_t lane = 0; lane < lanes; ++lane)
        __builtin_prefetch(at.from + lane * filter.row + kAhead);
      V square[lanes] = {};
      if (at.from + (lanes - 1) * filter.row + at.reach() + lanes * STEP <= end)
        load_turned<STEP>(at, filter.row, lanes, square);
      else
        for (int64_t x = 0; x < some; ++x)
          for (int64_t lane = 0; lane < lanes; ++lane)
            square[x][lane] = at[lane * filter.row + x * STEP];
      for (int64_t x = 0; x < some; ++x) put(square[x], place(i + x));
    }
  }

  // Element by element, from some channel on; zeros behind the last column. A channel's taps lie
  // far from the next one's: they are asked for some channels ahead.
  void gather(int64_t column, int64_t end, int64_t first) {
    constexpr int64_t ahead = 8;
    for (; column < end; column += lanes) {
      int64_t some = least(lanes, columns - column);
      for (int64_t c = first; c < depth(); ++c) {
        const S* next = (channel(c) + tap(0)).from + ahead * kNumbers<E> * filter.depth;
        for (int64_t lane = 0; lane < some; ++lane)
          __builtin_prefetch(next + (column + lane) * filter.row);
        for (int64_t t = 0; t < taps(); ++t) {
          Source<S, E> at = channel(c) + tap(t);
          V value = {};
          for (int64_t lane = 0; lane < some; ++lane)
            value[lane] = at[(column + lane) * filter.row];
          put(value, place(t, c, column));
        }
      }
    }
  }
};
