// correlate without packing, for few result channels: what a block of rows needs of the source is
// copied once to padded lines, and the micro-kernel reads each tap as a shifted load from them:
//
//     result[row][position] = filter[row][(c, tap)] · lines[offset(c, tap) + position]
//
// Lines fall apart by the stride, line[v mod step][v / step], so that neighbours in a row stay
// neighbours for every tap. Packing writes each element once for each tap, which many result
// channels pay for and few do not; depthwise layers are the extreme, with one of each a group.
// A tile of few channels takes up to eight vectors, for its sums should keep the multiply-add units
// busy: those of a row, or where rows have fewer, vectors below each other in the rows. Taps that
// meet only the padding's zeros in all of these are left out, unless the filter has a NaN or Inf to
// meet them.
// Scratch a task: the lines (kLines elements, or those of one row), the sums of a tile's rows, the
// part of a panel of the filter that is left of it.

constexpr int64_t kLines = 1 << 15;       // 128 KiB of float: they stay in the second-level cache
constexpr int64_t kFirstLevel = 1 << 15;  // bytes of the first-level cache

template <class T>
struct Shifted {
  static constexpr int64_t step = Vector<T>::lanes, sum_step = step;
  const T* lines;
  const int64_t* offset;
  const T* at(int64_t k) const { return lines + offset[k]; }
  void prefetch(int64_t) const {}
};
// The same for a tile whose vectors lie below each other, in some rows of the result.
template <class T>
struct Stacked : Shifted<T> {
  int64_t step, sum_step;
};

struct LineLayout {
  int64_t first_v, height;  // source rows, counted as base + offset
  int64_t first_u, phases, phase_length;

  LineLayout(const AxisMap& h, const AxisMap& w, int64_t row, int64_t rows, int64_t unit) {
    first_v = h.base[0] + h.step * row + low_offset(h);
    height = h.step * (rows - 1) + high_offset(h) - low_offset(h) + 1;
    first_u = w.base[0] + low_offset(w);
    phases = w.step;
    phase_length = round_up(w.positions, unit) + (high_offset(w) - low_offset(w)) / w.step + 1;
  }
  int64_t line() const { return phases * phase_length; }
  int64_t plane() const { return area(height, line()); }

  // Where a tap of the first row's first position is.
  int64_t offset(const AxisMap& h, const AxisMap& w, int64_t row, int64_t tap) const {
    int64_t v = h.base[0] + h.step * row + h.offset[tap / w.taps] - first_v;
    int64_t u = w.base[0] + w.offset[tap % w.taps] - first_u;
    return v * line() + u % phases * phase_length + u / phases;
  }
};

// Elements that lie beside each other, by whole vectors but for a few.
template <class S, class T>
void copy_vectors(T* to, const S* from, int64_t count) {
  constexpr int64_t lanes = Vector<T>::lanes;
  if (count < lanes) return store_some<T>(load_some<T>(from, count), count, to);
  for (int64_t i = 0; i < count - lanes; i += lanes) store<T>(load<T>(from + i), to + i);
  store<T>(load<T>(from + count - lanes), to + count - lanes);
}

// Every second element, from the first on.
template <class S, class T>
void copy_seconds(T* to, const S* from, int64_t count) {
  constexpr int64_t lanes = Vector<T>::lanes;
  int64_t i = 0;
  for (; i + lanes < count; i += lanes)  // and the element behind the last
    store<T>(evens<T>(load<T>(from + 2 * i), load<T>(from + 2 * i + lanes)), to + i);
  copy(to + i, 1, from + 2 * i, 2, count - i);
}

// Line i of one channel: what its virtual row shows, phase by phase.
template <class S, class T>
void fill_line(const LineLayout& layout, int64_t i, const S* channel, const View& strides,
               const AxisMap& h, const AxisMap& w, T* to) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  int64_t y = shown_source(h, layout.first_v + i);
  if (y < 0) return clear(to, 1, layout.line());
  const S* row = channel + y * strides.h;
  for (int64_t phase = 0; phase < layout.phases; ++phase, to += layout.phase_length) {
    int64_t u = layout.first_u + phase, step = layout.phases;  // to[a] shows u + a·step
    int64_t length = layout.phase_length;
    auto steps = [&](int64_t from, int64_t end) {  // seldom are there many
      return step == 1 ? end - from : quotient_up(end - from, step);
    };
    int64_t low = u >= 0 ? 0 : least(length, steps(u, 0));
    int64_t high = u >= w.limit ? 0 : least(length, steps(u, w.limit));
    if (high < low) high = low;
    const S* from = row + (u + low * step) * strides.w;
    auto edge = [&](int64_t first, int64_t end) {
      if (w.padding == Padding::zeros) {  // and beyond, for the source is copied over them
        for (int64_t a = first; a < end; a += lanes) store<T>(V{}, to + least(a, length - lanes));
      } else {
        for (int64_t a = first; a < end; ++a) {
          int64_t x = shown_source(w, u + a * step);
          to[a] = x < 0 || x >= w.limit ? T(0) : widen(row[x * strides.w]);
        }
      }
    };
    edge(0, low);
    edge(high, length);
    if (step * strides.w == 1)
      copy_vectors(to + low, from, high - low);
    else if (step * strides.w == 2)
      copy_seconds(to + low, from, high - low);
    else
      copy(to + low, 1, from, step * strides.w, high - low);
  }
}

template <class S>
struct Lines {
  using T = typename Compute<S>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static double cost(const CorrelateJob& job) {
    if (job.h.taps * job.w.taps == 0 || job.h.positions * job.w.positions == 0) return kNever;
    if (sources(job) * LineLayout(job.h, job.w, 0, 1, lanes).plane() > 4 * kLines) return kNever;
    LineLayout layout(job.h, job.w, 0, job.h.positions, lanes), one(job.h, job.w, 0, 1, lanes);
    double rows = job.components * job.rows, vectors = quotient_up(job.w.positions, lanes);
    double all = job.h.taps * job.h.positions, together = rows_together(job);
    double left_out = all - terms_of(job.h);  // if each row had its own taps
    left_out -= left_out * least<double>(1, (together - 1) / job.h.taps);
    // Of the loads, those that no other tap shares: where they are most, and more than the
    // first-level cache holds, each panel waits for them.
    double own = least(1.0, 1.0 * job.w.step / job.w.taps);
    double met = 2 * own * sources(job) * job.h.taps * job.w.taps * lanes * sizeof(T);
    double loads = own > 0.5 && met >= kFirstLevel ? 4 + 7 * own : 4;
    double products =
        sources(job) * job.w.taps * vectors * (all - left_out) *
        ((vectors > 1 || together > 1 ? 0.9 : 1.1) * rows + 1.2 + loads * (panels(job) - 1));
    double apart = job.source.w != 1 || job.w.step > 2 ? 2.1 : job.w.step == 2 ? 1.6 : 0;
    double blocks = quotient_up(job.h.positions, row_block(job));
    double height = layout.height + (blocks - 1) * (one.height - job.h.step);
    double line = layout.line() * (12.0 / lanes + apart) + 46;
    bool beside = job.result.w * job.w.position_step == 1;
    double storing = beside ? 22 + 16 * vectors : (36 + 1.2 * lanes) * vectors;
    storing *= job.h.positions * rows;
    double tasks = quotient_up(job.groups, bundle(job)) * blocks;
    return job.groups * (products + sources(job) * height * line + storing) +
           (600 + 2.5 * sources(job) * job.h.taps * job.w.taps) * tasks;
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return job.segments * job.groups * panels(job);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return pack_filter_tasks(job) * panel(job) * chunks(job).depth() * sizeof(T);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Correlate<S>::pack_panel(along_positions(job), filter, chunks(job), panel(job), packed, task);
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * quotient_up(job.groups, bundle(job)) *
           quotient_up(job.h.positions, row_block(job));
  }

  static int64_t scratch(const CorrelateJob& job) {
    int64_t plane = LineLayout(job.h, job.w, 0, row_block(job), lanes).plane();
    int64_t depth = chunks(job).depth();
    int64_t elements = bundle(job) * sources(job) * plane + sums(job) + depth * panel(job);
    return elements * sizeof(T) + 2 * round_up(depth, 8) * sizeof(int64_t);
  }

  static void run(const CorrelateJob& given, int64_t task, void* scratch) {
    CorrelateJob job = along_positions(given);
    int64_t block = row_block(job), parts = quotient_up(job.h.positions, block);
    int64_t row = task % parts * block, rows = least(block, job.h.positions - row);
    task /= parts;
    int64_t bundles = quotient_up(job.groups, bundle(job));
    int64_t first = task % bundles * bundle(job), groups = least(bundle(job), job.groups - first);
    int64_t sample = task / bundles, segment = sample / job.batch;
    LineLayout layout(job.h, job.w, row, rows, lanes);

    int64_t taps = job.h.taps * job.w.taps, depth = sources(job) * taps, plane = layout.plane();
    int64_t* offsets = static_cast<int64_t*>(scratch);
    int64_t* some_offsets = offsets + round_up(depth, 8);
    T* some_filter = reinterpret_cast<T*>(some_offsets + round_up(depth, 8));
    T* result = some_filter + depth * panel(job);
    T* lines = result + sums(job);
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n +
                      first * job.depth * job.source.c;
    int64_t channels = groups * sources(job);
    auto fill = [&](int64_t d, int64_t i) {
      const S* channel = source + (d / sources(job) * job.depth + d % job.depth) * job.source.c;
      fill_line(layout, i, channel + d % sources(job) / job.depth, job.source, job.h, job.w,
                lines + d * plane + i * layout.line());
    };
    if (job.source.c == 1)  // in the order of memory
      for (int64_t i = 0; i < layout.height; ++i)
        for (int64_t d = 0; d < channels; ++d) fill(d, i);
    else
      for (int64_t d = 0; d < channels; ++d)
        for (int64_t i = 0; i < layout.height; ++i) fill(d, i);
    for (int64_t tap = 0; tap < taps; ++tap) {
      int64_t offset = layout.offset(job.h, job.w, row, tap);
      for (int64_t d = 0; d < sources(job); ++d) offsets[d * taps + tap] = offset + d * plane;
    }
    const T* filter = static_cast<const T*>(job.filter) +
                      (segment * job.groups + first) * panels(job) * panel(job) * depth;
    int64_t pitch = job.h.step * layout.line(), width = row_width(job);
    for (int64_t i = 0, together; i < rows; i += together) {
      together = next_part(rows_together(job), rows - i);
      auto [first_tap, end_tap] = met(job, row + i, together);
      const T* with = filter;
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t m = 0; m < job.components * job.rows; m += panel(job)) {
          Terms terms{with, offsets, depth};
          if (end_tap - first_tap < job.h.taps)
            terms = part_of(terms, job, first_tap, end_tap, some_filter, some_offsets);
          int64_t some = least(panel(job), job.components * job.rows - m);
          View out = job.result;
          if (out.c != 1)  // rows of many channels, while the sums take their time
            prefetch_strip<true>(together, job.w.positions, some,
                                 static_cast<S*>(out.data) + sample * out.n +
                                     ((first + g) * job.rows + m) * out.c +
                                     job.h.position[row + i] * out.h + job.w.position[0] * out.w,
                                 out);
          multiply_lines(job, together, pitch, some, terms,
                         lines + g * sources(job) * plane + i * pitch, result);
          with += panel(job) * depth;
          for (int64_t k = 0; k < together; ++k) {
            int64_t position = sample % job.batch * job.h.positions + row + i + k;
            Correlate<S>::template store<false>(job, segment, first + g, m, some,
                                                position * job.w.positions, job.w.positions,
                                                result + k * width, together * width);
          }
        }
    }
  }

 private:
  struct Terms {  // of a sum: the filter, and where in the lines its elements meet the source
    const T* filter;
    const int64_t* offsets;
    int64_t depth;
  };

  static CorrelateJob along_positions(CorrelateJob job) {
    job.rows_along_vectors = false;
    return job;
  }
  // A channel's taps follow each other, for they share its lines.
  static Chunks chunks(const CorrelateJob& job) {
    Chunks all(job.components, job.depth, job.h.taps * job.w.taps, kDepthBlock);
    all.channel_block = 1;
    all.tap_block = job.h.taps * job.w.taps;
    return all;
  }
  static int64_t panel(const CorrelateJob& job) { return least(kRows, job.components * job.rows); }
  static int64_t panels(const CorrelateJob& job) {  // of a group
    return quotient_up(job.components * job.rows, panel(job));
  }
  static int64_t sources(const CorrelateJob& job) { return job.components * job.depth; }
  static int64_t row_width(const CorrelateJob& job) { return round_up(job.w.positions, lanes); }

  // Groups of a task: a cache line of channels that lie beside each other.
  static int64_t bundle(const CorrelateJob& job) {
    return job.source.c == 1 ? least(job.groups, quotient_up(64 / sizeof(S), job.depth + 1)) : 1;
  }

  // As many rows as the lines hold.
  static int64_t row_block(const CorrelateJob& job) {
    LineLayout one(job.h, job.w, 0, 1, lanes);
    int64_t spare = kLines / (bundle(job) * sources(job) * one.line() + 1) - one.height;
    int64_t rows = spare > 0 ? 1 + spare / job.h.step : 1;
    return least(rows, job.h.positions);
  }

  // Vectors of a tile that holds so many channels: few take more, so that there are enough sums
  // to keep the multiply-add units busy.
  static int64_t tile_vectors(int64_t channels) {
    return channels == 1 ? 8 : channels <= 3 ? 4 : 2;
  }
  // Rows of the result that share a tile: one, if its vectors fill whole tiles.
  static int64_t rows_together(const CorrelateJob& job) {
    int64_t vectors = row_width(job) / lanes, tile = tile_vectors(panel(job));
    return vectors % tile == 0 ? 1 : tile;
  }
  static int64_t sums(const CorrelateJob& job) {  // of these rows
    return panel(job) * rows_together(job) * row_width(job);
  }
  // The next 1, 2, 4 or 8 of what is left.
  static int64_t next_part(int64_t whole, int64_t left) {
    while (whole > left) whole /= 2;
    return whole;
  }

  // The rows of taps that meet the source in one of some rows of the result, from the first to
  // behind the last. The others meet only the padding's zeros.
  static std::pair<int64_t, int64_t> met(const CorrelateJob& job, int64_t row, int64_t rows) {
    int64_t first = 0, end = job.h.taps;
    if (job.h.padding != Padding::zeros || *job.special) return {first, end};
    auto is_met = [&](int64_t r) {
      return job.h.inner[r].first < row + rows && job.h.inner[r].second > row;
    };
    while (first < end && !is_met(first)) ++first;
    while (first < end && !is_met(end - 1)) --end;
    return {first, end};
  }

  // The terms of some rows of taps, copied to `filter` and `offsets`.
  static Terms part_of(const Terms& all, const CorrelateJob& job, int64_t first, int64_t end,
                       T* filter, int64_t* offsets) {
    int64_t taps = job.h.taps * job.w.taps, some = (end - first) * job.w.taps;
    for (int64_t d = 0; d < sources(job); ++d) {
      int64_t from = d * taps + first * job.w.taps;
      for (int64_t k = 0; k < some; ++k) offsets[d * some + k] = all.offsets[from + k];
      copy(filter + d * some * panel(job), 1, all.filter + from * panel(job), 1, some * panel(job));
    }
    return {filter, offsets, sources(job) * some};
  }

  // Some rows of the result, for up to a tile of its channels: the vectors of a single row, or
  // vectors below each other in the rows.
  static void multiply_lines(const CorrelateJob& job, int64_t rows, int64_t pitch, int64_t channels,
                             const Terms& terms, const T* line, T* to) {
    int64_t vectors = row_width(job) / lanes, width = row_width(job);
    for (int64_t v = 0, some; v < vectors; v += some) {
      Shifted<T> from{line + v * lanes, terms.offsets};
      if (rows == 1) {
        some = next_part(tile_vectors(channels), vectors - v);
        multiply_tile(some, channels, terms, panel(job), from, to + v * lanes, width);
      } else {
        some = 1;
        multiply_tile(rows, channels, terms, panel(job), Stacked<T>{from, pitch, width},
                      to + v * lanes, rows * width);
      }
    }
  }
  template <class B>
  static void multiply_tile(int64_t vectors, int64_t channels, const Terms& terms, int64_t panel,
                            const B& from, T* to, int64_t ld) {
    auto multiply = vectors == 8   ? tile_of<T, Rows::columns, 8, 1, B>
                    : vectors == 4 ? tile_of<T, Rows::columns, 4, 3, B>
                    : vectors == 2 ? tile_of<T, Rows::columns, 2, kRows, B>
                                   : tile_of<T, Rows::columns, 1, kRows, B>;
    multiply(channels, terms.depth, terms.filter, panel, from, to, ld, false);
  }
};
