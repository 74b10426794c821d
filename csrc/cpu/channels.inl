// correlate for depthwise layers and narrow groups: vectors run along the result's channels, across
// the groups, and a band (bands.inl) holds what they meet:
//
//     result[position][lane] = bias[lane] + Σ_{d,tap} filter[d][tap][lane] ·
//                                                     band[offset(d, tap) + position][lane]
//
// or, where a group's channels fill half a vector or more, one element of the band for all lanes.
// Some neighbours of a row stay in registers while the kernel walks the taps; rows of the filter
// that lie in the padding are left out. Scratch a task: the band, and as many pixels of the result
// where that is not written at once.

constexpr int64_t kAcross = 14;  // sums in registers; with the filter's vector, they fill 16

template <class T, int64_t LANES>
struct Some {
  typedef T type __attribute__((vector_size(LANES * sizeof(T)), aligned(alignof(T)), may_alias));
};

// A term of the sums is a vector of the filter times, for each position, what its lanes meet
// (bands.inl): a vector, or one element for all of them.
template <class T, int64_t LANES, Meets MEETS>
inline auto met(const T* at) {
  if constexpr (MEETS == Meets::element)
    return *at;
  else
    return *reinterpret_cast<const typename Some<T, LANES>::type*>(at);
}

// Taps of a row whose pixels lie beside each other share loads: up to three, where 32 registers
// hold the sums, their pixels and the filter.
constexpr int64_t kTogether = FULLCONV_VECTOR_BYTES == 64 ? 3 : 1;

// A panel's filter, [depth][height][width]; of its rows, first to last - 1 meet the source.
struct Terms {
  int64_t depth, height, width, first, last;
};

template <class T, int64_t LANES, Meets MEETS, int TAPS, int COUNT>
inline void add_taps(const T* filter, const T* from, typename Lanes<T>::type order,
                     typename Some<T, LANES>::type (&sum)[COUNT]) {
  decltype(met<T, LANES, MEETS>(from) + T()) pixel[COUNT + TAPS - 1];
#pragma GCC unroll 16
  for (int i = 0; i < COUNT + TAPS - 1; ++i) {
    pixel[i] = met<T, LANES, MEETS>(from + i * Vector<T>::lanes);
    if constexpr (MEETS == Meets::picked) pixel[i] = pick<T>(pixel[i], order);
  }
#pragma GCC unroll 16
  for (int s = 0; s < TAPS; ++s) {
    auto f = *reinterpret_cast<const typename Some<T, LANES>::type*>(filter + s * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < COUNT; ++i) sum[i] += f * pixel[i + s];
  }
}

template <class T, class C, int64_t LANES, Meets MEETS, int COUNT>
void sum_across(const Terms& terms, const typename Lanes<T>::type* orders, const T* filter,
                const T* from, const int64_t* offsets, const T* start, C* to, int64_t step) {
  using V = typename Some<T, LANES>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V sum[COUNT];
#pragma GCC unroll 16
  for (int i = 0; i < COUNT; ++i) {
    sum[i] = *reinterpret_cast<const V*>(start);
    __builtin_prefetch(to + i * step + lanes, 0, 2);
  }
  for (int64_t d = 0; d < terms.depth; ++d) {
    typename Lanes<T>::type order{};
    if constexpr (MEETS == Meets::picked) order = orders[d];
    for (int64_t r = terms.first; r < terms.last; ++r) {
      int64_t k = (d * terms.height + r) * terms.width, end = k + terms.width;
      for (int64_t some; k < end; k += some) {
        const T *factors = filter + k * LANES, *pixels = from + offsets[k];
        some = neighbours(offsets + k, least(kTogether, end - k), lanes);
        if (some == 3)
          add_taps<T, LANES, MEETS, 3>(factors, pixels, order, sum);
        else if (some == 2)
          add_taps<T, LANES, MEETS, 2>(factors, pixels, order, sum);
        else
          add_taps<T, LANES, MEETS, 1>(factors, pixels, order, sum);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < COUNT; ++i)
    if constexpr (LANES == lanes)
      store<T>(sum[i], to + i * step);
    else
      *reinterpret_cast<V*>(to + i * step) = sum[i];
}

template <class T, class C, int64_t LANES, Meets MEETS, int COUNT = kAcross>
void sum_some(int64_t count, const Terms& terms, const typename Lanes<T>::type* orders,
              const T* filter, const T* from, const int64_t* offsets, const T* start, C* to,
              int64_t step) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return sum_some<T, C, LANES, MEETS, COUNT - 1>(count, terms, orders, filter, from, offsets,
                                                     start, to, step);
  sum_across<T, C, LANES, MEETS, COUNT>(terms, orders, filter, from, offsets, start, to, step);
}

template <class S>
struct Channels {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static double cost(const CorrelateJob& job) {
    ChannelBlocks all = blocks(job);
    JoinedColumns columns(job.columns, job.column_maps);
    if (job.components != 1 || !all.fit() || columns.taps == 0 ||
        columns.map.positions * job.h.positions == 0 ||
        !Band<S>::fits(job.h, columns.map, vectors(job)))
      return kNever;
    double panels = all.panels(job.groups), products = 0;
    for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w)
      products += 1.0 * job.h.positions * w->positions * job.depth * job.h.taps * w->taps;
    double pixels = all.count() * Band<S>::vectors_of_all(job.h, columns.map, vectors(job));
    if (all.meets() == Meets::picked) products *= 1.4;  // by hand, as are the next three
    if (all.meets() != Meets::vector && (job.h.step > 1 || job.w.step > 1)) products *= 1.6;
    if (all.elements()) products += 1000 * job.h.positions + 1700;
    pixels *= job.source.c == 1 ? 0.82 : 16;
    double storing = 2.2 * job.groups * job.rows;
    if (job.result.c == 1)  // a panel that fills no vector is stored by elements: 60, by hand
      storing = 35 * panels + (job.groups * job.rows % lanes != 0 ? 60 : 0);
    return panels * products + pixels + storing * job.h.positions * columns.positions;
  }

  // [segment][panel][map of columns][depth][tap][lane]
  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return job.segments * blocks(job).panels(job.groups);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return pack_filter_tasks(job) * terms(job) * blocks(job).width() * sizeof(T);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    ChannelBlocks all = blocks(job);
    int64_t panels = all.panels(job.groups), width = all.width();
    int64_t channel = task % panels * all.panel_rows();
    int64_t count = least(all.panel_rows(), job.groups * job.rows - channel);
    T* to = static_cast<T*>(packed) + task * terms(job) * width;
    const S* from = static_cast<const S*>(filter.data) + task / panels * filter.segment;
    if (count < width) clear(to, 1, terms(job) * width);
    T special[lanes] = {};  // to which a NaN or Inf, times 0, adds a NaN
    for (int64_t i = 0; i < count; ++i) {
      T* lane = to + i;
      const S* row =
          from + (channel + i) / job.rows * filter.group + (channel + i) % job.rows * filter.row;
      for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w) {
        TapsOfLine taps(*w);
        for (int64_t d = 0; d < job.depth; ++d)
          for (int64_t r = 0; r < job.h.taps; ++r) {
            const S* at = row + d * filter.depth + job.h.tap[r] * filter.r;
            for (int64_t s = 0; s < w->taps; ++s, lane += width)
              *lane = widen(at[w->tap[taps.at(s)] * filter.s]);
          }
      }
    }
    for (int64_t k = 0; k < terms(job); ++k, to += width)
      for (int64_t i = 0; i < width; ++i) special[i] += to[i] * 0;
    mark(job.special, any_lane(special));
  }

  static int64_t tasks(const CorrelateJob& job) {
    Cut cut(job);
    return job.segments * job.batch * cut.bands * cut.parts;
  }

  static int64_t scratch(const CorrelateJob& job) {
    Cut cut(job);
    JoinedColumns columns(job.columns, job.column_maps);
    return Band<S>::scratch(LineLayout(job.h, columns.map, 0, cut.rows, 1), vectors(job)) +
           blocks(job).result_planes() * cut.rows * columns.positions * FULLCONV_VECTOR_BYTES +
           terms(job) * sizeof(int64_t);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    ChannelBlocks all = blocks(job);
    JoinedColumns columns(job.columns, job.column_maps);
    int64_t part = task % cut.parts, row = task / cut.parts % cut.bands * cut.rows;
    int64_t sample = task / cut.parts / cut.bands;
    int64_t rows = least(cut.rows, job.h.positions - row);

    LineLayout layout(job.h, columns.map, row, rows, 1);
    T* data = static_cast<T*>(scratch);
    T* pixels = data + vectors(job) * layout.plane() * lanes;
    int64_t* offsets =
        reinterpret_cast<int64_t*>(pixels + all.result_planes() * rows * columns.positions * lanes);
    Band<S> band(job.h, columns.map, row, rows, all.planes(), data, offsets + terms(job));
    int64_t* next = offsets;
    for (int64_t i = 0; i < job.column_maps; ++i)
      next = band.find_offsets(all.meets(), job.depth, job.columns[i], next);
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n;
    for (int64_t block = all.count() * part / cut.parts;
         block < all.count() * (part + 1) / cut.parts; ++block) {
      band.fill(source + all.first(block) * job.depth * job.source.c, all.some(block) * job.depth,
                job.source);
      if (all.meets() == Meets::vector)
        run_block<lanes, Meets::vector>(job, sample, block, row, rows, band, offsets, pixels);
      else if (all.meets() == Meets::picked)
        run_block<lanes, Meets::picked>(job, sample, block, row, rows, band, offsets, pixels);
      else if (all.width() == lanes)
        run_block<lanes, Meets::element>(job, sample, block, row, rows, band, offsets, pixels);
      else
        run_block<kHalf, Meets::element>(job, sample, block, row, rows, band, offsets, pixels);
    }
  }

 private:
  // A task: a band of rows of one sample, for some of the blocks of channels.
  struct Cut {
    int64_t rows, bands, parts;
    explicit Cut(const CorrelateJob& job)
        : rows(Band<S>::row_block(job.h, JoinedColumns(job.columns, job.column_maps).map,
                                  vectors(job))),
          bands(quotient_up(job.h.positions, rows)),
          parts(blocks(job).parts(rows * job.columns[0].positions * terms(job))) {}
  };

  template <int64_t LANES, Meets MEETS>
  static void run_block(const CorrelateJob& job, int64_t sample, int64_t block, int64_t row,
                        int64_t rows, const Band<S>& band, const int64_t* offsets, T* pixels) {
    ChannelBlocks all = blocks(job);
    const View& out = job.result;
    int64_t first = all.first(block) * job.rows, count = all.some(block) * job.rows;
    int64_t columns = JoinedColumns(job.columns, job.column_maps).positions;
    int64_t plane = rows * columns * lanes;
    S* result = static_cast<S*>(out.data) + sample * out.n + first * out.c;
    constexpr bool stores = sizeof(S) == sizeof(T) || LANES == lanes;  // sums in the result itself
    bool direct = stores && out.c == 1 && count % LANES == 0;
    int64_t pixel = direct ? out.w : lanes;
    int64_t panel = sample / job.batch * all.panels(job.groups) + all.panels(all.first(block));
    const T* filter = static_cast<const T*>(job.filter) + panel * terms(job) * LANES;
    typename Lanes<T>::type orders[lanes];
    if (MEETS == Meets::picked) find_orders<T>(job.depth, job.rows, orders);
    for (int64_t channel = 0; channel < count;
         channel += all.panel_rows(), filter += terms(job) * LANES) {
      T bias[lanes] = {};
      if (job.bias)
        copy(bias, 1, static_cast<const S*>(job.bias) + (first + channel) * job.bias_stride,
             job.bias_stride, least(all.panel_rows(), count - channel));
      // The panel's group starts some elements into the pixel.
      int64_t start = MEETS == Meets::element ? channel / job.rows * job.depth : 0;
      for (int64_t i = 0; i < rows; ++i) {
        const T* from = band.line(i * job.h.step) + start;
        if constexpr (stores)
          if (direct) {
            S* to = result + channel + job.h.position[row + i] * out.h;
            run_row<LANES, MEETS>(job, row + i, orders, filter, from, offsets, bias, to, pixel);
            continue;
          }
        T* to = pixels + channel / lanes * plane + i * columns * lanes + channel % lanes;
        run_row<LANES, MEETS>(job, row + i, orders, filter, from, offsets, bias, to, pixel);
      }
    }
    if (direct) return;
    for (int64_t channel = 0; channel < count; channel += lanes, pixels += plane)
      Pixels<S>::write(job, result + channel * out.c, least(lanes, count - channel), row, rows,
                       columns, pixels);
  }

  // A row of a panel, one map of its columns after the other, each in even pieces.
  template <int64_t LANES, Meets MEETS, class C>
  static void run_row(const CorrelateJob& job, int64_t row, const typename Lanes<T>::type* orders,
                      const T* filter, const T* from, const int64_t* offsets, const T* bias, C* to,
                      int64_t pixel) {
    Terms terms = terms_of(job, row);
    for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w) {
      terms.width = w->taps;
      int64_t piece = quotient_up(w->positions, quotient_up(w->positions, kAcross));
      if (w->position_step == 0) piece = 1;  // columns that no tap reaches
      for (int64_t j = 0; j < w->positions; j += piece)
        sum_some<T, C, LANES, MEETS>(least(piece, w->positions - j), terms, orders, filter,
                                     from + j * lanes, offsets, bias, to + w->position[j] * pixel,
                                     w->position_step * pixel);
      int64_t all = job.depth * job.h.taps * w->taps;
      filter += all * LANES;
      offsets += all;
    }
  }

  // Rows of the filter that lie in the padding add nothing but what a NaN or Inf times 0 is.
  static Terms terms_of(const CorrelateJob& job, int64_t row) {
    Terms terms{job.depth, job.h.taps, 0, 0, job.h.taps};
    if (*job.special) return terms;
    auto zero = [&](int64_t r) {
      return shown_source(job.h, job.h.base[row] + job.h.offset[r]) < 0;
    };
    while (terms.first < terms.last && zero(terms.first)) ++terms.first;
    while (terms.first < terms.last && zero(terms.last - 1)) --terms.last;
    return terms;
  }

  static constexpr int64_t kHalf = lanes > 1 ? lanes / 2 : 1;
  static ChannelBlocks blocks(const CorrelateJob& job) {
    return {job.depth, job.rows, job.groups, lanes};
  }
  static int64_t vectors(const CorrelateJob& job) { return blocks(job).planes(); }
  static int64_t terms(const CorrelateJob& job) {
    return job.depth * job.h.taps * JoinedColumns(job.columns, job.column_maps).taps;
  }
};
