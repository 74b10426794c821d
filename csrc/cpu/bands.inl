// Bands: what some rows of a result meet of the source, copied to cache with the channels of a
// block in the lanes of vectors, whatever the tensor's layout. For narrow groups and depthwise
// layers, where a vector of result channels spans whole groups:
//
//     band[d][v][u][lane] = source[group(lane)·depth + d] at row v, column u
//
// so that a sum over (d, tap) is one product of vectors a step for all groups of the block. A
// tensor with its channels beside each other is read a vector a pixel, one with its columns beside
// each other as square blocks of channels by positions, transposed in registers. The padding
// stands in the band, and lines fall apart by the stride as in LineLayout.

constexpr int64_t kStepsOfTask = 32768;
constexpr int64_t kBandBytes = 1 << 17;  // of a band: half of a small second-level cache

template <class T>
inline typename Vector<T>::type pick(typename Vector<T>::type value, typename Lanes<T>::type from) {
#if defined(__clang__)
  typename Vector<T>::type result = {};
  for (int64_t i = 0; i < Vector<T>::lanes; ++i) result[i] = value[from[i]];
  return result;
#else
  return __builtin_shuffle(value, from);
#endif
}

// What the lanes of a panel meet of a pixel:
//
//     vector    depthwise layers: each lane meets its own channel
//     picked    few channels a group: a panel spans whole groups, and each lane meets a channel of
//               its group, picked from the pixel's vector when that is loaded
//     element   the panels of a group meet one channel of its source at a time
enum class Meets { vector, picked, element };

// How groups fall into blocks of about a vector of source channels, and a block's result channels
// into panels, the vectors of a sum.
struct ChannelBlocks {
  int64_t depth, rows, groups, lanes;  // source and result channels of a group

  Meets meets() const {
    bool halves = depth * rows > 1 && 2 * rows >= lanes && rows % (lanes > 1 ? lanes / 2 : 1) == 0;
    bool full = rows < lanes && depth <= rows;  // whole groups fill a vector, and meet one
    if (halves && !full) return Meets::element;
    return depth * rows > 1 ? Meets::picked : Meets::vector;
  }
  bool elements() const { return meets() == Meets::element; }
  // Whether that is worth it: full panels, and groups so small that a block of them stays in cache.
  bool fit() const {
    if (depth <= 0 || rows <= 0) return false;
    if (elements()) return groups > 1 && rows <= 4 * lanes && depth <= 4 * lanes;
    return rows <= lanes && lanes / rows * depth <= lanes && 2 * groups * rows > lanes;
  }
  int64_t whole() const {  // groups of a block
    if (!elements()) return lanes / rows;
    int64_t groups = least(lanes / depth, 4 * lanes / rows);
    return groups > 1 ? groups : 1;
  }
  int64_t count() const { return quotient_up(groups, whole()); }
  int64_t first(int64_t block) const { return block * whole(); }
  int64_t some(int64_t block) const { return least(whole(), groups - first(block)); }

  int64_t width() const { return elements() && rows % lanes != 0 ? lanes / 2 : lanes; }
  int64_t panels(int64_t groups) const {  // of the first groups
    return elements() ? groups * rows / width() : quotient_up(groups, whole());
  }
  int64_t panel_rows() const { return elements() ? width() : whole() * rows; }

  // Vectors a pixel.
  int64_t planes() const { return elements() ? quotient_up(whole() * depth, lanes) : 1; }
  int64_t result_planes() const { return elements() ? quotient_up(whole() * rows, lanes) : 1; }

  // Parts that the blocks fall into, so that a task has some ten thousand of a block's `steps`.
  int64_t parts(int64_t steps) const { return quotient_up(count(), 1 + kStepsOfTask / steps); }
};

// One map that reaches what some maps of a row reach together, with two taps: the outermost.
struct JoinedColumns {
  AxisMap map{};
  int64_t taps = 0, positions = 0;  // of all maps

  explicit JoinedColumns(const AxisMap* maps, int64_t count) {
    map = maps[0];
    map.positions = 0;
    int64_t low = 0, high = 0;
    for (const AxisMap* from = maps; from < maps + count; ++from) {
      positions += from->positions;
      if (from->taps == 0 || from->positions == 0) continue;
      int64_t first = from->offset[0], last = from->offset[from->taps - 1];
      int64_t begin = from->base[0] + least(first, last);
      int64_t end = from->base[from->positions - 1] + (first < last ? last : first);
      low = taps == 0 ? begin : least(low, begin);
      high = taps == 0 || end > high ? end : high;
      taps += from->taps;
      if (from->positions > map.positions) map.positions = from->positions;
    }
    reach_[0] = low;
    reach_[1] = high - map.step * (map.positions - 1);
    map.taps = 2;
    map.base = &base_;
    map.offset = reach_;
  }
  JoinedColumns(const JoinedColumns&) = delete;

 private:
  int64_t base_ = 0, reach_[2];
};

// The taps of a row in the order of a line, which falls apart by the stride: one phase after the
// other, each from left to right, so that taps of pixels beside each other follow one another.
struct TapsOfLine {
  const AxisMap& w;
  int64_t phases = 1;

  explicit TapsOfLine(const AxisMap& w) : w(w) {
    if (w.taps > 1) phases = w.step / greatest_divisor(w.step, std::abs(w.offset[1] - w.offset[0]));
  }
  int64_t at(int64_t s) const {  // index of the tap
    int64_t phase = 0;
    for (int64_t some; phases > 1; ++phase, s -= some)
      if (s < (some = quotient_up(w.taps - phase, phases))) break;
    return from_left(w, phase + s * phases);
  }
};

// How many taps, up to three and at most `most`, meet pixels that lie `step` behind one another.
inline int64_t neighbours(const int64_t* offsets, int64_t most, int64_t step) {
  auto follow = [&](int64_t tap) { return offsets[tap] - offsets[tap - 1] == step; };
  if (most < 2 || !follow(1)) return 1;
  return most > 2 && follow(2) ? 3 : 2;
}

// The channels of a pixel that the result's lanes meet, in each of `depth` orders.
template <class T>
void find_orders(int64_t depth, int64_t rows, typename Lanes<T>::type* order) {
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t d = 0; d < depth; ++d)
    for (int64_t lane = 0; lane < lanes; ++lane) order[d][lane] = (lane / rows * depth + d) % lanes;
}

template <class S>
struct Band {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  const AxisMap &h, &w;
  LineLayout layout;
  int64_t planes;  // vectors a pixel
  T* data;
  int64_t* place;     // [layout.line()] where a column stands in its line
  int64_t low, high;  // columns of the source that the band has

  // For `count` rows of the result from `row` on. Blocks are filled in turn: each brings its own
  // channels, the zeros around them stay.
  Band(const AxisMap& h, const AxisMap& w, int64_t row, int64_t count, int64_t planes, T* data,
       int64_t* place)
      : h(h), w(w), layout(h, w, row, count, 1), planes(planes), data(data), place(place) {
    for (int64_t phase = 0; phase < layout.phases; ++phase)
      for (int64_t i = 0; i < layout.phase_length; ++i)
        place[i * layout.phases + phase] = (phase * layout.phase_length + i) * lanes;
    int64_t end = layout.first_u + layout.line();
    low = least(end, layout.first_u > 0 ? layout.first_u : 0);
    high = w.limit < low ? low : least(end, w.limit);
    for (int64_t i = 0; i < layout.height; ++i) {
      bool shown = shown_source(h, layout.first_v + i) >= 0;
      for (int64_t u = layout.first_u; u < end; ++u)
        if (!shown || u < low || u >= high)
          for (int64_t p = 0; p < planes; ++p)
            store<T>(V{}, line(i) + p * plane() + place[u - layout.first_u]);
    }
  }

  static int64_t scratch(const LineLayout& layout, int64_t vectors) {
    return vectors * layout.plane() * FULLCONV_VECTOR_BYTES + layout.line() * sizeof(int64_t);
  }
  // Rows of the result whose band has kBandBytes, evened out.
  static int64_t row_block(const AxisMap& h, const AxisMap& w, int64_t vectors) {
    LineLayout one(h, w, 0, 1, 1);
    int64_t lines = kBandBytes / (FULLCONV_VECTOR_BYTES * vectors * one.line());
    int64_t most = lines > one.height ? 1 + (lines - one.height) / h.step : 1;
    return quotient_up(h.positions, quotient_up(h.positions, most));
  }
  // Vectors of all bands of a sample, which overlap by what the taps reach.
  static double vectors_of_all(const AxisMap& h, const AxisMap& w, int64_t vectors) {
    int64_t rows = row_block(h, w, vectors);
    return 1.0 * vectors * quotient_up(h.positions, rows) * LineLayout(h, w, 0, rows, 1).plane();
  }
  static bool fits(const AxisMap& h, const AxisMap& w, int64_t vectors) {
    if (h.taps * w.taps == 0 || h.positions * w.positions == 0) return false;
    return LineLayout(h, w, 0, 1, 1).plane() * vectors * FULLCONV_VECTOR_BYTES <= 8 * kBandBytes;
  }

  int64_t plane() const { return layout.plane() * lanes; }
  T* line(int64_t i) const { return data + i * layout.line() * lanes; }

  // Where the first position of `columns` in a row meets its terms, [depth][tap], the taps of each
  // row in the order of a line.
  int64_t* find_offsets(Meets meets, int64_t depth, const AxisMap& columns,
                        int64_t* offsets) const {
    TapsOfLine taps(columns);
    for (int64_t d = 0; d < depth; ++d) {
      int64_t channel = meets == Meets::element ? d / lanes * plane() + d % lanes : 0;
      for (int64_t r = 0; r < h.taps; ++r)
        for (int64_t s = 0; s < columns.taps; ++s)
          *offsets++ = channel + (h.offset[r] - low_offset(h)) * layout.line() * lanes +
                       place[columns.base[0] + columns.offset[taps.at(s)] - layout.first_u];
    }
    return offsets;
  }

  // `source` is the first of the block's `channels` in its sample.
  void fill(const S* source, int64_t channels, const View& strides) {
    T* start = data;
    for (int64_t p = 0; p < planes && channels > 0; ++p, data += plane(), channels -= lanes)
      fill_plane(source + p * lanes * strides.c, least(channels, lanes), strides);
    data = start;
  }

 private:
  void fill_plane(const S* source, int64_t channels, const View& strides) const {
    bool joined = high - low == w.limit && strides.h == w.limit * strides.w;
    for (int64_t i = 0, count; i < layout.height; i += count) {
      count = 1;
      int64_t v = layout.first_v + i, y = shown_source(h, v);
      if (y < 0) continue;
      if (joined && y == v) count = least(layout.height - i, h.limit - y);
      const S* row = source + y * strides.h;
      if (high > low) {
        const S* from = row + low * strides.w;
        if (strides.c == 1)
          fill_pixels(from, channels, strides, i, count);
        else if (strides.w == 1 && count * (high - low) >= lanes)
          fill_planes(from, channels, strides, i, count);
        else
          fill_scattered(from, channels, strides, i, count);
      }
      if (w.padding == Padding::zeros) continue;
      for (int64_t k = i; k < i + count; ++k, row += strides.h) {
        fill_edge(row, channels, strides, k, layout.first_u, low);
        fill_edge(row, channels, strides, k, high, layout.first_u + layout.line());
      }
    }
  }

  static V gather(const S* pixel, int64_t channels, int64_t stride) {
    T values[lanes] = {};
    for (int64_t c = 0; c < channels; ++c) values[c] = widen(pixel[c * stride]);
    return load<T>(values);
  }

  void fill_edge(const S* row, int64_t channels, const View& strides, int64_t i, int64_t u,
                 int64_t end) const {
    for (; u < end; ++u) {
      int64_t x = shown_source(w, u);
      if (x >= 0 && x < w.limit)  // else it is beyond what any tap reaches
        store<T>(gather(row + x * strides.w, channels, strides.c),
                 line(i) + place[u - layout.first_u]);
    }
  }

  // The three ways to read `count` rows, from line i on.
  void fill_pixels(const S* from, int64_t channels, const View& strides, int64_t i,
                   int64_t count) const {
    const int64_t* at = place + low - layout.first_u;
    int64_t width = high - low, step = strides.w;
    for (int64_t k = i; k < i + count; ++k, from += strides.h) {
      T* to = line(k);
      if (channels == lanes)
        for (int64_t x = 0; x < width; ++x) {
          __builtin_prefetch(from + x * step + lanes, 0, 2);  // the next block's
          store<T>(load<T>(from + x * step), to + at[x]);
        }
      else
        for (int64_t x = 0; x < width; ++x)
          store<T>(load_some<T>(from + x * step, channels), to + at[x]);
    }
  }

  void fill_planes(const S* from, int64_t channels, const View& strides, int64_t i,
                   int64_t count) const {
    const int64_t* at = place + low - layout.first_u;
    int64_t width = high - low;
    for (int64_t p = 0; p < width * count; p += lanes) {  // the last block ends with the rows
      int64_t first = least(p, width * count - lanes), x = first % width;
      V block[lanes];
      for (int64_t c = 0; c < lanes; ++c)
        block[c] = load<T>(from + least(c, channels - 1) * strides.c + first);
      transpose<T>(block);
      T* to = line(i + first / width);
      for (int64_t k = 0; k < lanes; ++k) {
        store<T>(block[k], to + at[x]);
        if (++x == width) x = 0, to += layout.line() * lanes;
      }
    }
  }

  void fill_scattered(const S* from, int64_t channels, const View& strides, int64_t i,
                      int64_t count) const {
    const int64_t* at = place + low - layout.first_u;
    for (int64_t k = i; k < i + count; ++k, from += strides.h)
      for (int64_t x = 0; x < high - low; ++x)
        store<T>(gather(from + x * strides.w, channels, strides.c), line(k) + at[x]);
  }
};

// Writes whole rows of pixels, `count` channels of them, from their first channel's place on.
template <class S>
struct Pixels {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static void write(const CorrelateJob& job, S* to, int64_t count, int64_t row, int64_t rows,
                    int64_t columns, const T* pixels) {
    const View& out = job.result;
    if (out.w == 1 && job.h.position_step == 1 && out.h == columns && rows * columns >= lanes)
      return write_run(out, to + job.h.position[row] * out.h, count, pixels, rows * columns);
    for (int64_t i = row; i < row + rows; ++i, pixels += columns * lanes) {
      S* line = to + job.h.position[i] * out.h;
      if (out.w == 1 && columns >= lanes) {
        write_run(out, line, count, pixels, columns);
        continue;
      }
      for (int64_t j = 0; j < columns; ++j)
        if (out.c == 1 && count == lanes)
          store<T>(load<T>(pixels + j * lanes), line + j * out.w);
        else
          for (int64_t c = 0; c < count; ++c)
            narrow(pixels[j * lanes + c], line[j * out.w + c * out.c]);
    }
  }

 private:
  // `run` pixels that lie beside each other in each of the channels.
  static void write_run(const View& out, S* to, int64_t count, const T* pixels, int64_t run) {
    for (int64_t p = 0; p < run; p += lanes) {  // the last block ends with the run
      int64_t first = least(p, run - lanes);
      V block[lanes];
      for (int64_t k = 0; k < lanes; ++k) block[k] = load<T>(pixels + (first + k) * lanes);
      transpose<T>(block);
      for (int64_t c = 0; c < count; ++c) store<T>(block[c], to + c * out.c + first);
    }
  }
};
