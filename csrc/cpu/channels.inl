// correlate for depthwise layers and narrow groups: vectors run along the result's channels, across
// the groups, and a band (bands.inl) holds what they meet:
//
//     result[position][lane] = bias[lane] + Σ_{d,tap} filter[d][tap][lane] ·
//                                                     band[offset(d, tap) + position][lane]
//
// Some neighbours of a row stay in registers while the kernel walks the taps: a multiply-add for
// each load. Scratch a task: the band, and as many pixels of the result where that is not written
// at once.

constexpr int64_t kAcross = 14;  // sums in registers; with the filter's vector, they fill 16

template <class T, int COUNT>
void sum_across(int64_t depth, const T* filter, const T* from, const int64_t* offsets,
                typename Vector<T>::type start, T* to, int64_t step) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V sum[COUNT];
#pragma GCC unroll 16
  for (int i = 0; i < COUNT; ++i) sum[i] = start;
  for (int64_t k = 0; k < depth; ++k) {
    V f = load<T>(filter + k * lanes);
    const T* at = from + offsets[k];
#pragma GCC unroll 16
    for (int i = 0; i < COUNT; ++i) sum[i] += f * load<T>(at + i * lanes);
  }
#pragma GCC unroll 16
  for (int i = 0; i < COUNT; ++i) store<T>(sum[i], to + i * step);
}

template <class T, int COUNT = kAcross>
void sum_some(int64_t count, int64_t depth, const T* filter, const T* from, const int64_t* offsets,
              typename Vector<T>::type start, T* to, int64_t step) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return sum_some<T, COUNT - 1>(count, depth, filter, from, offsets, start, to, step);
  sum_across<T, COUNT>(depth, filter, from, offsets, start, to, step);
}

template <class S>
struct Channels {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static bool narrow_groups(const CorrelateJob& job) {
    return job.components == 1 && blocks(job).fit();
  }
  static bool fits(const CorrelateJob& job) {
    return narrow_groups(job) && Band<S>::fits(job.h, job.w, job.depth);
  }

  // [segment][block][depth][tap][lane]
  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return job.segments * blocks(job).count();
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return pack_filter_tasks(job) * terms(job) * lanes * sizeof(T);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    ChannelBlocks all = blocks(job);
    int64_t block = task % all.count(), segment = task / all.count();
    T* to = static_cast<T*>(packed) + task * terms(job) * lanes;
    const S* from = static_cast<const S*>(filter.data) + segment * filter.segment +
                    all.first(block) * filter.group;
    if (all.some(block) * job.rows < lanes) clear(to, 1, terms(job) * lanes);
    for (int64_t g = 0; g < all.some(block); ++g)
      for (int64_t m = 0; m < job.rows; ++m) {
        T* lane = to + g * job.rows + m;
        for (int64_t d = 0; d < job.depth; ++d)
          for (int64_t r = 0; r < job.h.taps; ++r) {
            const S* at = from + g * filter.group + m * filter.row + d * filter.depth +
                          job.h.tap[r] * filter.r;
            for (int64_t s = 0; s < job.w.taps; ++s, lane += lanes)
              *lane = widen(at[job.w.tap[s] * filter.s]);
          }
      }
    V special = {};  // to which a NaN or Inf, times 0, adds a NaN
    for (int64_t k = 0; k < terms(job); ++k) special += load<T>(to + k * lanes) * 0;
    for (int64_t lane = 0; lane < lanes; ++lane)
      if (special[lane] != 0) __atomic_store_n(job.special, true, __ATOMIC_RELAXED);
  }

  static int64_t tasks(const CorrelateJob& job) {
    Cut cut(job);
    return job.segments * job.batch * cut.bands * cut.parts;
  }

  static int64_t scratch(const CorrelateJob& job) {
    Cut cut(job);
    return Band<S>::scratch(LineLayout(job.h, job.w, 0, cut.rows, 1), job.depth) +
           cut.rows * job.w.positions * FULLCONV_VECTOR_BYTES + terms(job) * sizeof(int64_t);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    int64_t part = task % cut.parts, row = task / cut.parts % cut.bands * cut.rows;
    int64_t sample = task / cut.parts / cut.bands;
    int64_t rows = least(cut.rows, job.h.positions - row);

    LineLayout layout(job.h, job.w, row, rows, 1);
    T* data = static_cast<T*>(scratch);
    T* pixels = data + job.depth * layout.plane() * lanes;
    int64_t* offsets = reinterpret_cast<int64_t*>(pixels + rows * job.w.positions * lanes);
    Band<S> band(job.h, job.w, row, rows, job.depth, job.rows, data, offsets + terms(job));
    band.find_offsets(offsets);

    ChannelBlocks all = blocks(job);
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n;
    for (int64_t block = all.count() * part / cut.parts;
         block < all.count() * (part + 1) / cut.parts; ++block) {
      band.fill(source + all.first(block) * job.depth * job.source.c, all.some(block) * job.depth,
                job.source);
      run_block(job, sample, block, row, rows, band, offsets, pixels);
    }
  }

 private:
  // A task: a band of rows of one sample, for some of the blocks of channels.
  struct Cut {
    int64_t rows, bands, parts;
    explicit Cut(const CorrelateJob& job)
        : rows(Band<S>::row_block(job.h, job.w, job.depth)),
          bands(quotient_up(job.h.positions, rows)),
          parts(blocks(job).parts(rows * job.w.positions * terms(job))) {}
  };

  static void run_block(const CorrelateJob& job, int64_t sample, int64_t block, int64_t row,
                        int64_t rows, const Band<S>& band, const int64_t* offsets, T* pixels) {
    ChannelBlocks all = blocks(job);
    int64_t count = all.some(block) * job.rows, channel = all.first(block) * job.rows;
    T bias[lanes] = {};
    if (job.bias)
      copy(bias, 1, static_cast<const S*>(job.bias) + channel * job.bias_stride, job.bias_stride,
           count);
    const T* filter = static_cast<const T*>(job.filter) +
                      (sample / job.batch * all.count() + block) * terms(job) * lanes;
    S* result = static_cast<S*>(job.result.data) + sample * job.result.n + channel * job.result.c;
    bool direct =
        sizeof(S) == sizeof(T) && job.result.c == 1 && count == lanes && job.w.position_step > 0;
    int64_t pieces = quotient_up(job.w.positions, kAcross);
    int64_t piece = quotient_up(job.w.positions, pieces);
    int64_t step = direct ? job.w.position_step * job.result.w : lanes;
    for (int64_t i = 0; i < rows; ++i) {
      T* to = direct ? reinterpret_cast<T*>(result + job.h.position[row + i] * job.result.h +
                                            job.w.position[0] * job.result.w)
                     : pixels + i * job.w.positions * lanes;
      const T* from = band.line(i * job.h.step);
      for (int64_t j = 0; j < job.w.positions; j += piece)
        sum_some<T>(least(piece, job.w.positions - j), terms(job), filter, from + j * lanes,
                    offsets, load<T>(bias), to + j * step, step);
    }
    if (!direct) store_pixels(job, result, count, row, rows, pixels);
  }

  static ChannelBlocks blocks(const CorrelateJob& job) {
    return {job.depth, job.rows, job.groups, lanes};
  }
  static int64_t taps(const CorrelateJob& job) { return job.h.taps * job.w.taps; }
  static int64_t terms(const CorrelateJob& job) { return job.depth * taps(job); }
  // Scatters rows of pixels to `count` channels from `to` on.
  static void store_pixels(const CorrelateJob& job, S* to, int64_t count, int64_t row, int64_t rows,
                           const T* pixels) {
    const View& out = job.result;
    const AxisMap &h = job.h, &w = job.w;
    bool planar = out.w == 1 && w.position_step == 1;
    if (planar && h.position_step == 1 && out.h == w.positions && rows * w.positions >= lanes)
      return store_run(out, to + h.position[row] * out.h + w.position[0], count, pixels,
                       rows * w.positions);
    for (int64_t i = row; i < row + rows; ++i, pixels += w.positions * lanes) {
      S* line = to + h.position[i] * out.h;
      if (planar && w.positions >= lanes) {
        store_run(out, line + w.position[0], count, pixels, w.positions);
        continue;
      }
      for (int64_t j = 0; j < w.positions; ++j) {
        S* at = line + w.position[j] * out.w;
        if (out.c == 1 && count == lanes)
          store<T>(load<T>(pixels + j * lanes), at);
        else
          for (int64_t c = 0; c < count; ++c) narrow(pixels[j * lanes + c], at[c * out.c]);
      }
    }
  }

  // `run` pixels that lie beside each other in each of the channels.
  static void store_run(const View& out, S* to, int64_t count, const T* pixels, int64_t run) {
    for (int64_t p = 0; p < run; p += lanes) {  // the last block ends with the run
      int64_t first = least(p, run - lanes);
      V block[lanes];
      for (int64_t k = 0; k < lanes; ++k) block[k] = load<T>(pixels + (first + k) * lanes);
      transpose<T>(block);
      for (int64_t c = 0; c < count; ++c) store<T>(block[c], to + c * out.c + first);
    }
  }
};
