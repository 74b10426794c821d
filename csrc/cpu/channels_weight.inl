// correlate_weight for depthwise layers and narrow groups: vectors run along the filters, across
// the groups, and bands (bands.inl) hold what they meet:
//
//     result[d][tap][lane] = Σ_position grad[position][lane] ·
//                                       band[offset(d, tap) + position][lane]
//
// Some (d, tap) stay in registers while the kernel walks the positions of a row. Scratch a task:
// the band, the gradients of its rows.

template <class T, int COUNT>
void add_rows(int64_t rows, int64_t columns, const T* grad, const T* from, int64_t line,
              const int64_t* offsets, T* sums) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V sum[COUNT] = {};
  for (int64_t i = 0; i < rows; ++i, from += line, grad += lanes) {  // a pixel behind each row
    const T* at[COUNT];
    for (int k = 0; k < COUNT; ++k) at[k] = from + offsets[k];
    for (int64_t j = 0; j < columns; ++j, grad += lanes) {
      V g = load<T>(grad);
#pragma GCC unroll 16
      for (int k = 0; k < COUNT; ++k) sum[k] += g * load<T>(at[k] + j * lanes);
    }
  }
  for (int k = 0; k < COUNT; ++k) store<T>(load<T>(sums + k * lanes) + sum[k], sums + k * lanes);
}

template <class T, int COUNT = kAcross>
void add_some(int64_t count, int64_t rows, int64_t columns, const T* grad, const T* from,
              int64_t line, const int64_t* offsets, T* sums) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return add_some<T, COUNT - 1>(count, rows, columns, grad, from, line, offsets, sums);
  add_rows<T, COUNT>(rows, columns, grad, from, line, offsets, sums);
}

template <class S>
struct ChannelsWeight {
  using T = typename Compute<S>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static bool fits(const WeightJob& job) {
    return job.components == 1 && blocks(job).fit() && Band<S>::fits(job.h, job.w, job.channels);
  }

  // Parts of the batch's bands, no more than 64.
  static int64_t splits(const WeightJob& job) {
    int64_t units = job.batch * Cut(job).bands;
    return least<int64_t>(64, units > 0 ? units : 1);
  }
  // [segment][split][block][depth][tap][lane]
  static int64_t partial_size(const WeightJob& job) {
    return job.segments * job.splits * blocks(job).count() * terms(job) * lanes * sizeof(T);
  }
  static int64_t tasks(const WeightJob& job) { return job.segments * job.splits * Cut(job).parts; }

  static int64_t scratch(const WeightJob& job) {
    Cut cut(job);
    OneTap own(job.h, job.w);
    return Band<S>::scratch(LineLayout(job.h, job.w, 0, cut.rows, 1), job.channels) +
           Band<S>::scratch(LineLayout(own.h, own.w, 0, cut.rows, 1), 1) +
           terms(job) * sizeof(int64_t);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    ChannelBlocks all = blocks(job);
    OneTap own(job.h, job.w);
    int64_t part = task % cut.parts, split = task / cut.parts % job.splits;
    int64_t segment = task / cut.parts / job.splits, units = job.batch * cut.bands;
    int64_t first = all.count() * part / cut.parts, end = all.count() * (part + 1) / cut.parts;
    T* sums = partial(job, segment, split, first);
    clear(sums, 1, (end - first) * terms(job) * lanes);
    for (int64_t unit = units * split / job.splits; unit < units * (split + 1) / job.splits;
         ++unit) {
      int64_t n = segment * job.batch + unit / cut.bands, row = unit % cut.bands * cut.rows;
      int64_t rows = least(cut.rows, job.h.positions - row);
      LineLayout layout(job.h, job.w, row, rows, 1), grads(own.h, own.w, row, rows, 1);
      T* data = static_cast<T*>(scratch);
      T* grad_data = data + job.channels * layout.plane() * lanes;
      int64_t* offsets = reinterpret_cast<int64_t*>(grad_data + grads.plane() * lanes);
      int64_t* place = offsets + terms(job);
      Band<S> band(job.h, job.w, row, rows, job.channels, job.filters, data, place);
      Band<S> grad(own.h, own.w, row, rows, 1, 1, grad_data, place + layout.line());
      band.find_offsets(offsets);
      const S* input = static_cast<const S*>(job.input.data) + n * job.input.n;
      const S* output = static_cast<const S*>(job.grad.data) + n * job.grad.n;
      for (int64_t block = first; block < end; ++block) {
        band.fill(input + all.first(block) * job.channels * job.input.c,
                  all.some(block) * job.channels, job.input);
        grad.fill(output + all.first(block) * job.filters * job.grad.c,
                  all.some(block) * job.filters, job.grad);
        add_band(job, rows, grad, band, offsets, sums + (block - first) * terms(job) * lanes);
      }
    }
  }

  static int64_t reduce_tasks(const WeightJob& job) { return job.segments * blocks(job).count(); }

  static void reduce(const WeightJob& job, int64_t task) {
    ChannelBlocks all = blocks(job);
    int64_t block = task % all.count(), segment = task / all.count();
    T* sum = partial(job, segment, 0, block);
    for (int64_t split = 1; split < job.splits; ++split) {
      const T* part = partial(job, segment, split, block);
      for (int64_t i = 0; i < terms(job) * lanes; ++i) sum[i] += part[i];
    }
    S* to = static_cast<S*>(job.result) + segment * job.segment +
            all.first(block) * job.filters * job.k;
    for (int64_t term = 0; term < terms(job); ++term, sum += lanes) {
      int64_t d = term / taps(job), tap = term % taps(job);
      S* at = to + d * job.c + tap / job.w.taps * job.r + tap % job.w.taps * job.s;
      for (int64_t k = 0; k < all.some(block) * job.filters; ++k) narrow(sum[k], at[k * job.k]);
    }
  }

 private:
  static ChannelBlocks blocks(const WeightJob& job) {
    return {job.channels, job.filters, job.groups, lanes};
  }
  static int64_t taps(const WeightJob& job) { return job.h.taps * job.w.taps; }
  static int64_t terms(const WeightJob& job) { return job.channels * taps(job); }
  static T* partial(const WeightJob& job, int64_t segment, int64_t split, int64_t block) {
    int64_t index = (segment * job.splits + split) * blocks(job).count() + block;
    return static_cast<T*>(job.partial) + index * terms(job) * lanes;
  }

  // A task: some of the bands of rows of all samples, for some of the blocks of channels.
  struct Cut {
    int64_t rows, bands, parts;
    explicit Cut(const WeightJob& job)
        : rows(Band<S>::row_block(job.h, job.w, job.channels)),
          bands(quotient_up(job.h.positions, rows)),
          parts(blocks(job).parts(rows * job.w.positions * terms(job))) {}
  };

  // The sums start anew every kChain positions or so, for the rounding.
  static void add_band(const WeightJob& job, int64_t rows, const Band<S>& grad, const Band<S>& band,
                       const int64_t* offsets, T* sums) {
    int64_t pieces = quotient_up(terms(job), kAcross), piece = quotient_up(terms(job), pieces);
    int64_t line = job.h.step * band.layout.line() * lanes,
            chain = quotient_up(kChain, job.w.positions);
    for (int64_t i = 0; i < rows; i += chain)
      for (int64_t k = 0; k < terms(job); k += piece)
        add_some<T>(least(piece, terms(job) - k), least(chain, rows - i), job.w.positions,
                    grad.data + i * grad.layout.line() * lanes, band.data + i * line, line,
                    offsets + k, sums + k * lanes);
  }
};
