// correlate_weight for depthwise layers and narrow groups: vectors run along the filters, across
// the groups, and bands (bands.inl) hold what they meet:
//
//     result[d][tap][lane] = Σ_position grad[position][lane] ·
//                                       band[offset(d, tap) + position][lane]
//
// or one element of the band for all lanes, or what each lane picks of a pixel, as in channels.inl.
// Some (d, tap) stay in registers while the kernel walks the positions of a row. Scratch a task:
// the band, the gradients of its rows.

template <class T>
struct Gradients {
  const T* data;
  int64_t pixel, line, plane;  // strides, the last from vector to vector of a pixel's channels
  const T* at(int64_t row, int64_t channel) const {
    constexpr int64_t lanes = Vector<T>::lanes;
    return data + row * line + channel / lanes * plane + channel % lanes;
  }
};

template <class T, int64_t LANES, Meets MEETS, int COUNT>
void add_rows(int64_t rows, int64_t columns, Gradients<T> grads, const T* from, int64_t line,
              const int64_t* offsets, T* sums) {
  using V = typename Some<T, LANES>::type;
  constexpr int64_t step = Vector<T>::lanes;
  bool in_tensor = grads.pixel != step;
  V sum[COUNT] = {};
  for (int64_t i = 0; i < rows; ++i, from += line) {
    const T* at[COUNT];
    for (int k = 0; k < COUNT; ++k) at[k] = from + offsets[k];
    const T* grad = grads.data + i * grads.line;
    for (int64_t j = 0; j < columns; ++j, grad += grads.pixel) {
      V g = *reinterpret_cast<const V*>(grad);
      if (in_tensor) __builtin_prefetch(grad + step, 0, 2);  // the next block's
#pragma GCC unroll 16
      for (int k = 0; k < COUNT; ++k) sum[k] += g * met<T, LANES, MEETS>(at[k] + j * step);
    }
  }
  for (int k = 0; k < COUNT; ++k) *reinterpret_cast<V*>(sums + k * LANES) += sum[k];
}

template <class T, int64_t LANES, Meets MEETS, int COUNT = kAcross>
void add_some(int64_t count, int64_t rows, int64_t columns, Gradients<T> grads, const T* from,
              int64_t line, const int64_t* offsets, T* sums) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return add_some<T, LANES, MEETS, COUNT - 1>(count, rows, columns, grads, from, line, offsets,
                                                  sums);
  add_rows<T, LANES, MEETS, COUNT>(rows, columns, grads, from, line, offsets, sums);
}

// Where lanes pick what they meet: neighbouring taps of a row share a pixel's picks, in DEPTH
// orders. The sums of an order are `depth_step` behind those of the one before.
template <class T, int DEPTH, int TAPS>
void add_picks(int64_t rows, int64_t columns, Gradients<T> grads, const T* from, int64_t line,
               const typename Lanes<T>::type* orders, T* sums, int64_t depth_step) {
  using V = typename Vector<T>::type;
  constexpr int64_t step = Vector<T>::lanes;
  typename Lanes<T>::type order[DEPTH];
  for (int d = 0; d < DEPTH; ++d) order[d] = orders[d];
  bool in_tensor = grads.pixel != step;
  V sum[DEPTH][TAPS] = {};
  for (int64_t i = 0; i < rows; ++i, from += line) {
    V seen[DEPTH][TAPS];  // picks of the last pixels, in turn
    const T *pixel = from, *grad = grads.data + i * grads.line;
    auto see = [&](int place) {
      V value = load<T>(pixel);
      pixel += step;
      for (int d = 0; d < DEPTH; ++d) seen[d][place] = pick<T>(value, order[d]);
    };
    for (int s = 0; s < TAPS - 1; ++s) see(s);
    for (int64_t j = 0; j < columns; j += TAPS)
#pragma GCC unroll 3
      for (int u = 0; u < TAPS; ++u) {
        if (j + u >= columns) break;
        see((u + TAPS - 1) % TAPS);
        V g = load<T>(grad);
        if (in_tensor) __builtin_prefetch(grad + step, 0, 2);  // the next block's
        grad += grads.pixel;
#pragma GCC unroll 8
        for (int d = 0; d < DEPTH; ++d)
#pragma GCC unroll 3
          for (int s = 0; s < TAPS; ++s) sum[d][s] += g * seen[d][(u + s) % TAPS];
      }
  }
  for (int d = 0; d < DEPTH; ++d)
    for (int s = 0; s < TAPS; ++s) {
      T* to = sums + d * depth_step + s * step;
      store<T>(load<T>(to) + sum[d][s], to);
    }
}

template <int TAPS>
constexpr int kOrders =
    (FULLCONV_VECTOR_BYTES == 64 ? 4 : 2) * (TAPS == 1 ? 2 : 1);  // whose sums fit the registers

template <class T, int TAPS, int DEPTH = kOrders<TAPS>>
void add_some_picks(int64_t depth, int64_t rows, int64_t columns, Gradients<T> grads, const T* from,
                    int64_t line, const typename Lanes<T>::type* orders, T* sums,
                    int64_t depth_step) {
  if constexpr (DEPTH > 1)
    if (depth < DEPTH)
      return add_some_picks<T, TAPS, DEPTH - 1>(depth, rows, columns, grads, from, line, orders,
                                                sums, depth_step);
  add_picks<T, DEPTH, TAPS>(rows, columns, grads, from, line, orders, sums, depth_step);
}

template <class S>
struct ChannelsWeight {
  using T = typename Compute<S>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static double cost(const WeightJob& job) {
    ChannelBlocks all = blocks(job);
    double positions = job.h.positions * job.w.positions;
    if (job.components != 1 || !all.fit() || terms(job) * positions == 0) return kNever;
    if (!Band<S>::fits(job.h, job.w, vectors(job))) return kNever;
    double panels = all.panels(job.groups);
    double products = panels * terms(job) * (positions + 3.9 * job.h.positions);
    double pixels = all.count() * Band<S>::vectors_of_all(job.h, job.w, vectors(job));
    pixels *= job.input.c == 1 ? 0.95 : 16;
    if (all.meets() == Meets::picked) products *= 1.4;  // by hand
    double grads = job.grad.c == 1 ? 30 * panels : 2.0 * job.groups * job.filters;
    // Of depthwise layers and picked lanes the 30 stands for waiting for memory, too.
    if (all.elements() && in_tensor(job, job.groups * job.filters)) grads = 0;
    return job.batch * (products + pixels + grads * positions);
  }

  // Parts of the batch's bands, no more than 64.
  static int64_t splits(const WeightJob& job) {
    int64_t units = job.batch * Cut(job).bands;
    return least<int64_t>(64, units > 0 ? units : 1);
  }
  // [segment][split][panel][depth][tap][lane]
  static int64_t partial_size(const WeightJob& job) {
    return job.segments * job.splits * blocks(job).panels(job.groups) * panel_size(job) * sizeof(T);
  }
  static int64_t tasks(const WeightJob& job) { return job.segments * job.splits * Cut(job).parts; }

  static int64_t scratch(const WeightJob& job) {
    Cut cut(job);
    OneTap own(job.h, job.w);
    return Band<S>::scratch(LineLayout(job.h, job.w, 0, cut.rows, 1), vectors(job)) +
           Band<S>::scratch(LineLayout(own.h, own.w, 0, cut.rows, 1), blocks(job).result_planes()) +
           terms(job) * sizeof(int64_t);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    ChannelBlocks all = blocks(job);
    OneTap own(job.h, job.w);
    int64_t part = task % cut.parts, split = task / cut.parts % job.splits;
    int64_t segment = task / cut.parts / job.splits, units = job.batch * cut.bands;
    int64_t first = all.count() * part / cut.parts, end = all.count() * (part + 1) / cut.parts;
    int64_t panel = all.panels(all.first(first));
    clear(partial(job, segment, split, panel), 1,
          (all.panels(least(all.first(end), job.groups)) - panel) * panel_size(job));
    for (int64_t unit = units * split / job.splits; unit < units * (split + 1) / job.splits;
         ++unit) {
      int64_t n = segment * job.batch + unit / cut.bands, row = unit % cut.bands * cut.rows;
      int64_t rows = least(cut.rows, job.h.positions - row);
      LineLayout layout(job.h, job.w, row, rows, 1), grads(own.h, own.w, row, rows, 1);
      T* data = static_cast<T*>(scratch);
      T* grad_data = data + vectors(job) * layout.plane() * lanes;
      int64_t* offsets =
          reinterpret_cast<int64_t*>(grad_data + all.result_planes() * grads.plane() * lanes);
      int64_t* place = offsets + terms(job);
      Band<S> band(job.h, job.w, row, rows, all.planes(), data, place);
      Band<S> grad(own.h, own.w, row, rows, all.result_planes(), grad_data, place + layout.line());
      band.find_offsets(all.meets(), job.channels, job.w, offsets);
      const S* input = static_cast<const S*>(job.input.data) + n * job.input.n;
      const S* output = static_cast<const S*>(job.grad.data) + n * job.grad.n;
      for (int64_t block = first; block < end; ++block) {
        band.fill(input + all.first(block) * job.channels * job.input.c,
                  all.some(block) * job.channels, job.input);
        const S* from = output + all.first(block) * job.filters * job.grad.c;
        int64_t count = all.some(block) * job.filters;
        Gradients<T> grads{grad.data, lanes, grad.layout.line() * lanes, grad.plane()};
        if (in_tensor(job, count))
          grads = {reinterpret_cast<const T*>(from + row * job.grad.h), job.grad.w, job.grad.h,
                   lanes};
        else
          grad.fill(from, count, job.grad);
        T* sums = partial(job, segment, split, all.panels(all.first(block)));
        if (all.meets() == Meets::vector)
          add_block<lanes, Meets::vector>(job, block, rows, grads, band, offsets, sums);
        else if (all.meets() == Meets::picked)
          add_picked_block(job, block, rows, grads, band, offsets, sums);
        else if (all.width() == lanes)
          add_block<lanes, Meets::element>(job, block, rows, grads, band, offsets, sums);
        else
          add_block<kHalf, Meets::element>(job, block, rows, grads, band, offsets, sums);
      }
    }
  }

  static int64_t reduce_tasks(const WeightJob& job) {
    return job.segments * blocks(job).panels(job.groups);
  }

  static void reduce(const WeightJob& job, int64_t task) {
    ChannelBlocks all = blocks(job);
    int64_t panel = task % all.panels(job.groups), segment = task / all.panels(job.groups);
    T* sum = partial(job, segment, 0, panel);
    add_parts(sum, job.splits, all.panels(job.groups) * panel_size(job), panel_size(job));
    int64_t first = panel * all.panel_rows();
    int64_t count = least(all.panel_rows(), job.groups * job.filters - first);
    S* to = static_cast<S*>(job.result) + segment * job.segment + first * job.k;
    TapsOfLine taps(job.w);
    for (int64_t d = 0; d < job.channels; ++d)
      for (int64_t r = 0; r < job.h.taps; ++r)
        for (int64_t s = 0; s < job.w.taps; ++s, sum += all.width()) {
          S* at = to + d * job.c + r * job.r + taps.at(s) * job.s;
          for (int64_t k = 0; k < count; ++k) narrow(sum[k], at[k * job.k]);
        }
  }

 private:
  // A task: some of the bands of rows of all samples, for some of the blocks of channels.
  struct Cut {
    int64_t rows, bands, parts;
    explicit Cut(const WeightJob& job)
        : rows(Band<S>::row_block(job.h, job.w, vectors(job))),
          bands(quotient_up(job.h.positions, rows)),
          parts(blocks(job).parts(rows * job.w.positions * terms(job))) {}
  };

  static constexpr int64_t kHalf = lanes > 1 ? lanes / 2 : 1;
  static ChannelBlocks blocks(const WeightJob& job) {
    return {job.channels, job.filters, job.groups, lanes};
  }
  static int64_t vectors(const WeightJob& job) { return blocks(job).planes(); }
  // Whether gradients of so many filters are read where they lie: whole vectors, once or twice.
  static bool in_tensor(const WeightJob& job, int64_t filters) {
    return sizeof(S) == sizeof(T) && job.grad.c == 1 && filters % blocks(job).width() == 0 &&
           terms(job) <= 2 * kAcross;
  }
  static int64_t terms(const WeightJob& job) { return job.channels * job.h.taps * job.w.taps; }
  static int64_t panel_size(const WeightJob& job) { return terms(job) * blocks(job).width(); }
  static T* partial(const WeightJob& job, int64_t segment, int64_t split, int64_t panel) {
    int64_t index = (segment * job.splits + split) * blocks(job).panels(job.groups) + panel;
    return static_cast<T*>(job.partial) + index * panel_size(job);
  }

  static void add_picked_block(const WeightJob& job, int64_t block, int64_t rows,
                               const Gradients<T>& grads, const Band<S>& band,
                               const int64_t* offsets, T* sums) {
    int64_t taps = job.h.taps * job.w.taps, line = job.h.step * band.layout.line() * lanes;
    int64_t chain = quotient_up(kChain, job.w.positions);
    typename Lanes<T>::type orders[lanes];
    find_orders<T>(job.channels, job.filters, orders);
    for (int64_t i = 0; i < rows; i += chain)
      for (int64_t tap = 0, some; tap < taps; tap += some) {
        some = neighbours(offsets + tap, job.w.taps - tap % job.w.taps, lanes);
        auto add = some == 3   ? add_some_picks<T, 3>
                   : some == 2 ? add_some_picks<T, 2>
                               : add_some_picks<T, 1>;
        int64_t most = some > 1 ? kOrders<2> : kOrders<1>;
        for (int64_t d = 0; d < job.channels; d += most)
          add(least(most, job.channels - d), least(chain, rows - i), job.w.positions,
              {grads.at(i, 0), grads.pixel, grads.line, grads.plane},
              band.data + i * line + offsets[tap], line, orders + d,
              sums + (d * taps + tap) * lanes, taps * lanes);
      }
  }

  // The sums start anew every kChain positions or so, for the rounding.
  template <int64_t LANES, Meets MEETS>
  static void add_block(const WeightJob& job, int64_t block, int64_t rows,
                        const Gradients<T>& grads, const Band<S>& band, const int64_t* offsets,
                        T* sums) {
    ChannelBlocks all = blocks(job);
    int64_t piece = quotient_up(terms(job), quotient_up(terms(job), kAcross));
    int64_t line = job.h.step * band.layout.line() * lanes;
    int64_t chain = quotient_up(kChain, job.w.positions);
    for (int64_t channel = 0; channel < all.some(block) * job.filters;
         channel += all.panel_rows(), sums += panel_size(job)) {
      int64_t start = MEETS == Meets::element ? channel / job.filters * job.channels : 0;
      for (int64_t i = 0; i < rows; i += chain)
        for (int64_t k = 0; k < terms(job); k += piece)
          add_some<T, LANES, MEETS>(
              least(piece, terms(job) - k), least(chain, rows - i), job.w.positions,
              Gradients<T>{grads.at(i, channel), grads.pixel, grads.line, grads.plane},
              band.data + i * line + start, line, offsets + k, sums + k * LANES);
    }
  }
};
