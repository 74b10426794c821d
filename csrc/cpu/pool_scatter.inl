// max_scatter: each gradient is added to the element of the input that its window chose. A task
// owns a band of input rows of some channels, clears it, and goes through the windows that reach
// into it in their order; an index outside the band is another task's or, outside the plane,
// nobody's. 16-bit sums are kept in float, in scratch: a band of kBand elements, or one row's.

template <class S>
struct PoolScatter {
  using T = typename Compute<S>::type;

  static bool fits(const PoolJob&) { return true; }

  static int64_t tasks(const PoolJob& job) {
    Cut cut(job);
    return quotient_up(job.batch * cut.blocks, cut.together) * cut.bands;
  }
  static int64_t scratch(const PoolJob& job) {
    Cut cut(job);
    return kDirect ? 0 : cut.rows * job.w.positions * cut.channels * sizeof(T);
  }

  static void run(const PoolJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    int64_t row = task % cut.bands * cut.rows;
    Band band(job, row, least(cut.rows, job.h.positions - row));
    int64_t block = task / cut.bands * cut.together;
    int64_t end = least(block + cut.together, job.batch * cut.blocks);
    for (; block < end; ++block)
      run_block(job, cut, band, block / cut.blocks, block % cut.blocks * cut.channels, scratch);
  }

 private:
  static constexpr bool kDirect = std::is_same_v<S, T>;
  static constexpr int64_t kBand = 1 << 16;  // 256 KiB of float, in the second-level cache
  static constexpr int64_t kChannels = 256;  // whose memory is read well

  // A task: a band of a block of channels, or some blocks whose planes are small.
  struct Cut {
    int64_t blocks, channels, rows, bands, together;
    explicit Cut(const PoolJob& job) {
      // Of channels that lie beside each other as many as let a plane be one band: rows of windows
      // that reach into two are walked twice.
      int64_t plane = job.h.positions * job.w.positions;
      blocks = job.result.c == 1 ? quotient_up(job.channels, most(kChannels, kBand / plane))
                                 : job.channels;
      channels = quotient_up(job.channels, blocks);
      blocks = quotient_up(job.channels, channels);
      rows = most<int64_t>(1, least(job.h.positions, kBand / (job.w.positions * channels)));
      bands = quotient_up(job.h.positions, rows);
      together = bands > 1 ? 1 : most<int64_t>(1, kBand / 8 / (plane * channels));
    }
  };

  struct Band {  // some rows of the input, and the rows of windows that reach into them
    int64_t row, rows, begin, end;
    Band(const PoolJob& job, int64_t row, int64_t rows)
        : row(row), rows(rows), begin(0), end(job.source_rows) {
      if (job.stray) return;  // any window may
      Met met(job.h, row, rows);
      begin = met.begin, end = met.end;
    }
  };

  struct Sums {  // of `count` elements from index `first` of a plane on, some channels
    T* data;
    int64_t step, first, count;

    void clear(int64_t channels) const {
      if (channels == step)
        for (int64_t i = 0; i < count * channels; ++i) data[i] = 0;
      else
        for (int64_t p = 0; p < count; ++p)
          for (int64_t c = 0; c < channels; ++c) data[p * step + c] = 0;
    }
  };

  // Along a row of one pixel's channels (STEP 1), or of one channel's pixels (STEP 0).
  template <int64_t STEP>
  static void add_line(const Sums& sums, const S* grad, int64_t grad_step, const int64_t* index,
                       int64_t index_step, int64_t length) {
    T* data = sums.data;
    int64_t step = sums.step, first = sums.first;
    uint64_t count = static_cast<uint64_t>(sums.count);
    for (int64_t i = 0; i < length; ++i) {
      uint64_t at = static_cast<uint64_t>(index[i * index_step] - first);
      if (at < count)
        data[static_cast<int64_t>(at) * step + i * STEP] += widen(grad[i * grad_step]);
    }
  }

  static void run_block(const PoolJob& job, const Cut& cut, const Band& band, int64_t n,
                        int64_t channel, void* scratch) {
    int64_t channels = least(cut.channels, job.channels - channel);
    const View& out = job.result;  // fresh, so rows lie behind each other: h = width · w
    S* result = static_cast<S*>(out.data) + n * out.n + channel * out.c + band.row * out.h;
    Sums sums{static_cast<T*>(scratch), cut.channels, band.row * job.width, band.rows * job.width};
    if constexpr (kDirect) sums.data = result, sums.step = out.w;

    sums.clear(channels);
    add(job, band, n, channel, channels, sums);
    if constexpr (!kDirect) {
      if (channels == sums.step && channels == out.w)
        for (int64_t i = 0; i < sums.count * channels; ++i) narrow(sums.data[i], result[i]);
      else
        for (int64_t p = 0; p < sums.count; ++p)
          for (int64_t c = 0; c < channels; ++c)
            narrow(sums.data[p * sums.step + c], result[p * out.w + c]);
    }
  }

  static void add(const PoolJob& job, const Band& band, int64_t n, int64_t channel,
                  int64_t channels, const Sums& sums) {
    const View &from = job.source, &chosen = job.indices;
    const S* grads = static_cast<const S*>(from.data) + n * from.n + channel * from.c;
    const int64_t* indices =
        static_cast<const int64_t*>(chosen.data) + n * chosen.n + channel * chosen.c;
    int64_t columns = job.source_columns;
    if (channels == 1 && from.h == columns * from.w && chosen.h == columns * chosen.w) {
      if (band.begin < band.end)  // rows behind each other are one
        add_line<0>(sums, grads + band.begin * from.h, from.w, indices + band.begin * chosen.h,
                    chosen.w, (band.end - band.begin) * columns);
      return;
    }
    for (int64_t i = band.begin; i < band.end; ++i) {
      const S* grad = grads + i * from.h;
      const int64_t* index = indices + i * chosen.h;
      if (channels == 1)
        add_line<0>(sums, grad, from.w, index, chosen.w, columns);
      else
        for (int64_t j = 0; j < columns; ++j)
          add_line<1>(sums, grad + j * from.w, from.c, index + j * chosen.w, chosen.c, channels);
    }
  }
};
