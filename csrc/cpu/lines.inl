// correlate without packing, for few result channels: what a block of rows needs of the source is
// copied once to padded lines, and the micro-kernel reads each tap as a shifted load from them:
//
//     result[row][position] = filter[row][(c, tap)] · lines[offset(c, tap) + position]
//
// Lines fall apart by the stride, line[v mod step][v / step], so that neighbours in a row stay
// neighbours for every tap. Packing writes each element once for each tap, which many result
// channels pay for and few do not; depthwise layers are the extreme, with one of each a group.
// Scratch a task: the lines (kLines elements, or those of one row), a row of some result channels.

constexpr int64_t kLines = 1 << 15;  // 128 KiB of float: they stay in the second-level cache

template <class T>
struct Shifted {
  const T* lines;
  const int64_t* offset;
  const T* at(int64_t k) const { return lines + offset[k]; }
  void prefetch(int64_t) const {}
};

struct LineLayout {
  int64_t first_v, height;  // source rows, counted as base + offset
  int64_t first_u, phases, phase_length;

  LineLayout(const AxisMap& h, const AxisMap& w, int64_t row, int64_t rows, int64_t unit) {
    auto [low_h, high_h] = reach(h);
    auto [low_w, high_w] = reach(w);
    first_v = h.base[0] + h.step * row + low_h;
    height = h.step * (rows - 1) + high_h - low_h + 1;
    first_u = w.base[0] + low_w;
    phases = w.step;
    phase_length = round_up(w.positions, unit) + (high_w - low_w) / w.step + 1;
  }
  int64_t line() const { return phases * phase_length; }
  int64_t plane() const { return area(height, line()); }

  // Where a tap of the first row's first position is.
  int64_t offset(const AxisMap& h, const AxisMap& w, int64_t row, int64_t tap) const {
    int64_t v = h.base[0] + h.step * row + h.offset[tap / w.taps] - first_v;
    int64_t u = w.base[0] + w.offset[tap % w.taps] - first_u;
    return v * line() + u % phases * phase_length + u / phases;
  }

 private:
  static std::pair<int64_t, int64_t> reach(const AxisMap& axis) {  // offsets run one way
    int64_t first = axis.offset[0], last = axis.offset[axis.taps - 1];
    return first < last ? std::pair<int64_t, int64_t>(first, last)
                        : std::pair<int64_t, int64_t>(last, first);
  }
};

inline int64_t shown_source(const AxisMap& axis, int64_t index) {
  return index >= 0 && index < axis.limit ? index : shown_index(index, axis.limit, axis.padding);
}

// An index that positions beyond the last one would meet shows a zero, whatever the padding mode.
inline int64_t source_or_none(const AxisMap& axis, int64_t index) {
  int64_t shown = shown_source(axis, index);
  return shown < axis.limit ? shown : -1;
}

// Line i of one channel: what its virtual row shows, phase by phase.
template <class S, class T>
void fill_line(const LineLayout& layout, int64_t i, const S* channel, const View& strides,
               const AxisMap& h, const AxisMap& w, T* to) {
  int64_t y = shown_source(h, layout.first_v + i);
  if (y < 0) return clear(to, 1, layout.line());
  const S* row = channel + y * strides.h;
  for (int64_t phase = 0; phase < layout.phases; ++phase, to += layout.phase_length) {
    int64_t u = layout.first_u + phase, step = layout.phases;  // to[a] shows u + a·step
    int64_t length = layout.phase_length;
    int64_t low = u >= 0 ? 0 : least(length, quotient_up(-u, step));
    int64_t high = u >= w.limit ? 0 : least(length, quotient_up(w.limit - u, step));
    if (high < low) high = low;
    auto edge = [&](int64_t from, int64_t end) {
      if (w.padding == Padding::zeros) return clear(to + from, 1, end - from);
      for (int64_t a = from; a < end; ++a) {
        int64_t x = shown_source(w, u + a * step);
        to[a] = x < 0 || x >= w.limit ? T(0) : widen(row[x * strides.w]);
      }
    };
    edge(0, low);
    copy(to + low, 1, row + (u + low * step) * strides.w, step * strides.w, high - low);
    edge(high, length);
  }
}

template <class S>
struct Lines {
  using T = typename Compute<S>::type;

  static double cost(const CorrelateJob& job) {
    if (job.h.taps * job.w.taps == 0 || job.h.positions * job.w.positions == 0) return kNever;
    if (sources(job) * LineLayout(job.h, job.w, 0, 1, unit(job)).plane() > 4 * kLines)
      return kNever;
    constexpr int64_t lanes = Vector<T>::lanes;
    LineLayout layout(job.h, job.w, 0, job.h.positions, unit(job)),
        one(job.h, job.w, 0, 1, unit(job));
    double vectors = job.h.positions * quotient_up(job.w.positions, lanes);
    double rows = job.components * job.rows, panels = quotient_up(job.components * job.rows, kRows);
    double products = sources(job) * job.h.taps * job.w.taps * vectors * (0.9 * rows + 4 * panels);
    bool in_order = job.source.w == 1 && job.w.step == 1;
    double blocks = quotient_up(job.h.positions, row_block(job));
    double height = layout.height + (blocks - 1) * (one.height - job.h.step);
    double line = layout.line() * (20.0 / lanes + (in_order ? 0 : 1)) + 50;
    double storing =
        vectors * rows * (job.result.w * job.w.position_step == 1 ? 30 : 30 + 2.0 * lanes);
    return job.groups * (products + sources(job) * height * line + storing);
  }

  static int64_t packed_filter_size(const CorrelateJob& job) {
    return Correlate<S>::packed_filter_size(along_positions(job));
  }
  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return Correlate<S>::pack_filter_tasks(along_positions(job));
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Correlate<S>::pack_filter(along_positions(job), filter, packed, task);
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * quotient_up(job.groups, bundle(job)) *
           quotient_up(job.h.positions, row_block(job));
  }

  static int64_t scratch(const CorrelateJob& job) {
    int64_t plane = LineLayout(job.h, job.w, 0, row_block(job), unit(job)).plane();
    int64_t elements = bundle(job) * sources(job) * plane + kRows * width(job);
    return elements * sizeof(T) +
           round_up(sources(job) * job.h.taps * job.w.taps, 8) * sizeof(int64_t);
  }

  static void run(const CorrelateJob& given, int64_t task, void* scratch) {
    CorrelateJob job = along_positions(given);
    CorrelateBlocks<S> blocks(job);
    int64_t block = row_block(job), parts = quotient_up(job.h.positions, block);
    int64_t row = task % parts * block, rows = least(block, job.h.positions - row);
    task /= parts;
    int64_t bundles = quotient_up(job.groups, bundle(job));
    int64_t first = task % bundles * bundle(job), groups = least(bundle(job), job.groups - first);
    int64_t sample = task / bundles, segment = sample / job.batch;
    LineLayout layout(job.h, job.w, row, rows, unit(job));

    int64_t depth = blocks.chunks.depth(), plane = layout.plane();
    int64_t* offsets = static_cast<int64_t*>(scratch);
    T* result = reinterpret_cast<T*>(offsets + round_up(depth, 8));
    T* lines = result + kRows * width(job);
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n +
                      first * job.depth * job.source.c;
    for (int64_t i = 0; i < layout.height; ++i)
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t d = 0; d < sources(job); ++d) {
          const S* channel = source + (g * job.depth + d % job.depth) * job.source.c;
          T* to = lines + (g * sources(job) + d) * plane + i * layout.line();
          fill_line(layout, i, channel + d / job.depth, job.source, job.h, job.w, to);
        }
    for (int64_t index = 0; index < blocks.chunks.count(); ++index) {
      Chunk chunk = blocks.chunks.at(index);
      for (int64_t k = 0; k < chunk.depth(); ++k)
        offsets[chunk.first + k] =
            (chunk.component * job.depth + chunk.channel + k % chunk.channels) * plane +
            layout.offset(job.h, job.w, row, chunk.tap + k / chunk.channels);
    }
    int64_t panels = quotient_up(blocks.rows, kRows), panel = depth * kRows;
    const T* filter =
        static_cast<const T*>(job.filter) + (segment * job.groups + first) * panels * panel;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t g = 0; g < groups; ++g) {
        const T* line = lines + g * sources(job) * plane + i * job.h.step * layout.line();
        int64_t position = (sample % job.batch * job.h.positions + row + i) * job.w.positions;
        for (int64_t m = 0; m < blocks.rows; m += kRows) {
          int64_t some = least(kRows, blocks.rows - m);
          multiply_line(some, depth, filter + (g * panels + m / kRows) * panel, line, offsets,
                        result, width(job), job.w.positions);
          Correlate<S>::template store<false>(job, segment, first + g, m, some, position,
                                              job.w.positions, result, width(job));
        }
      }
  }

 private:
  static CorrelateJob along_positions(CorrelateJob job) {
    job.rows_along_vectors = false;
    return job;
  }
  static int64_t sources(const CorrelateJob& job) { return job.components * job.depth; }
  // What a row's columns are rounded up to: multiply_line takes four vectors, or the last one or
  // two.
  static int64_t unit(const CorrelateJob& job) {
    constexpr int64_t lanes = Vector<T>::lanes;
    return job.w.positions <= 2 * lanes ? lanes : 4 * lanes;
  }
  static int64_t width(const CorrelateJob& job) { return round_up(job.w.positions, unit(job)); }

  // Groups of a task: a cache line of channels that lie beside each other.
  static int64_t bundle(const CorrelateJob& job) {
    return job.source.c == 1 ? least(job.groups, quotient_up(64 / sizeof(S), job.depth + 1)) : 1;
  }

  // As many rows as the lines hold.
  static int64_t row_block(const CorrelateJob& job) {
    LineLayout one(job.h, job.w, 0, 1, unit(job));
    int64_t spare = kLines / (bundle(job) * sources(job) * one.line() + 1) - one.height;
    int64_t rows = spare > 0 ? 1 + spare / job.h.step : 1;
    return least(rows, job.h.positions);
  }

  // One row of the result, for up to a tile of its channels. Few channels take four vectors at
  // once: their sums are as many as keep the multiply-add units busy.
  static void multiply_line(int64_t rows, int64_t depth, const T* filter, const T* line,
                            const int64_t* offsets, T* to, int64_t ld, int64_t positions) {
    constexpr int64_t lanes = Vector<T>::lanes;
    for (int64_t j = 0; j < positions;) {
      Shifted<T> from{line + j, offsets};
      if (rows <= 3 && positions - j > 2 * lanes) {
        tile_of<T, Rows::panels, 4, 3>(rows, depth, filter, 0, from, to + j, ld, false);
        j += 4 * lanes;
      } else if (positions - j > lanes) {
        tile_of<T, Rows::panels, 2>(rows, depth, filter, 0, from, to + j, ld, false);
        j += 2 * lanes;
      } else {
        tile_of<T, Rows::panels, 1>(rows, depth, filter, 0, from, to + j, ld, false);
        j += lanes;
      }
    }
  }
};
