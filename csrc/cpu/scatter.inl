// full_convolve in its scatter form: a matrix product, then every product is added where it
// belongs.
//
//     columns[(tap, c)][position] = Σ_k filter[k][c][tap] · grad[k][position]
//     result[c][index(position, tap)] += columns[(tap, c)][position]
//
// The gather form (correlate.inl on the phases) needs no additions, but it multiplies with the
// zeros around the gradient, and its tiles have a row for each input channel. So this one is for
// few input channels, for filters that reach far over the gradient's edge, and for every padding
// but zeros: a mirrored element's index is as good as any other.
//
// A task owns some channels of a band of one sample's rows, in compute precision, and goes through
// all outputs that reach into it. Scratch a task: the band, a block of columns, a chunk of
// gradients.

template <class S>
struct ScatterBlocks {
  using T = typename Compute<S>::type;
  static constexpr int64_t kBlock = 1 << 16;  // elements of a band, and of a block of columns

  int64_t taps, channels, channel_block, band, position_block;
  Chunks depth;

  explicit ScatterBlocks(const ScatterJob& job)
      : taps(job.h.taps * job.w.taps),
        channels(job.components * job.channels),
        depth(job.components, job.filters, 1, kDepthBlock) {
    channel_block = least(channels, least<int64_t>(64, 1 + 512 / (taps + 1)));
    channel_block = channels > 0 ? quotient_up(channels, channel_blocks()) : 1;
    band = least(job.h.limit, 1 + kBlock / (channel_block * job.w.limit + 1));
    int64_t fitting = least<int64_t>(256, 1 + kBlock / (channel_block * taps + 1));
    position_block = round_up(fitting, kColumns<T>);
  }
  int64_t channel_blocks() const { return quotient_up(channels, channel_block); }
  int64_t bands(const ScatterJob& job) const { return quotient_up(job.h.limit, band); }
  int64_t rows(int64_t block) const {
    return taps * least(channel_block, channels - block * channel_block);
  }
  int64_t panels() const { return quotient_up(taps * channel_block, kRows); }
};

template <class S>
struct Scatter {
  using T = typename Compute<S>::type;
  using Blocks = ScatterBlocks<S>;

  static double cost(const ScatterJob& job) {
    constexpr int64_t lanes = Vector<T>::lanes;
    double positions = job.h.positions * job.w.positions, filters = job.components * job.filters;
    double vectors = quotient_up(job.h.positions * job.w.positions, lanes);
    int64_t rows = job.components * job.channels * job.h.taps * job.w.taps;
    double products = vectors * filters * (1.45 * round_up(rows, kRows));
    double result = job.components * job.channels * job.h.limit * job.w.limit;
    if (job.result.c == 1)
      return job.groups * (products + positions * (2.4 * filters + 2.9 * rows) + 4.9 * result);
    double adding = job.w.step == 1 ? 2.4 : 4.7;
    return job.groups *
           (products + 8 * vectors * filters + adding * positions * rows + 16 * result / lanes);
  }

  static int64_t pack_filter_tasks(const ScatterJob& job) {
    Blocks blocks(job);
    return job.segments * job.groups * blocks.channel_blocks() * blocks.panels();
  }

  static int64_t packed_filter_size(const ScatterJob& job) {
    return pack_filter_tasks(job) * kRows * Blocks(job).depth.depth() * sizeof(T);
  }

  // One panel: kRows of the (tap, c) of a block of channels.
  static void pack_filter(const ScatterJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Blocks blocks(job);
    int64_t panel = task % blocks.panels(), unit = task / blocks.panels();
    int64_t block = unit % blocks.channel_blocks(), group = unit / blocks.channel_blocks();
    int64_t rows = blocks.rows(block), width = rows / blocks.taps, first = panel * kRows;
    int64_t lanes = rows > first ? least(kRows, rows - first) : 0;
    T* to = static_cast<T*>(packed) + task * kRows * blocks.depth.depth();
    const S* from = static_cast<const S*>(filter.data) + group / job.groups * filter.segment +
                    group % job.groups * filter.group;
    int64_t place[kRows];
    T sign[kRows];
    for (int64_t component = 0; component < job.components; ++component) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        int64_t tap = (first + lane) / width;
        int64_t c = block * blocks.channel_block + (first + lane) % width;
        bool imaginary = c / job.channels != component;
        place[lane] = c % job.channels * filter.row + tap / job.w.taps * filter.r +
                      tap % job.w.taps * filter.s + imaginary;
        sign[lane] = imaginary && c < job.channels ? -1 : 1;
      }
      for (int64_t k = 0; k < job.filters; ++k, to += kRows) {
        const S* at = from + k * filter.depth;
        for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = sign[lane] * widen(at[place[lane]]);
        clear(to + lanes, 1, kRows - lanes);
      }
    }
  }

  static int64_t tasks(const ScatterJob& job) {
    Blocks blocks(job);
    return job.segments * job.batch * job.groups * blocks.channel_blocks() * blocks.bands(job);
  }

  static int64_t scratch(const ScatterJob& job) {
    Blocks blocks(job);
    int64_t band = blocks.channel_block * blocks.band * job.w.limit;
    int64_t columns = blocks.taps * blocks.channel_block * blocks.position_block;
    return blocks.position_block * sizeof(Run) +
           (band + columns + kDepthBlock * blocks.position_block) * sizeof(T);
  }

  static void run(const ScatterJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    Band band;
    band.first = task % blocks.bands(job) * blocks.band;
    band.rows = least(blocks.band, job.h.limit - band.first);
    task /= blocks.bands(job);
    int64_t block = task % blocks.channel_blocks();
    task /= blocks.channel_blocks();
    int64_t group = task % job.groups, sample = task / job.groups, segment = sample / job.batch;
    int64_t rows = blocks.rows(block);
    band.channels = rows / blocks.taps;
    Run* runs = static_cast<Run*>(scratch);  // first: they are aligned to more than T is
    band.data = reinterpret_cast<T*>(runs + blocks.position_block);
    clear(band.data, 1, band.channels * band.rows * job.w.limit);

    T* columns = band.data + blocks.channel_block * blocks.band * job.w.limit;
    T* grads = columns + blocks.taps * blocks.channel_block * blocks.position_block;
    int64_t unit = (segment * job.groups + group) * blocks.channel_blocks() + block;
    int64_t panel = blocks.depth.depth() * kRows;
    const T* filter = static_cast<const T*>(job.filter) + unit * blocks.panels() * panel;
    const S* grad = static_cast<const S*>(job.grad.data) + sample * job.grad.n +
                    group * job.filters * job.grad.c;
    OneTap maps(job.h, job.w);
    for (int64_t row = 0, end; row < job.h.positions; row = end) {
      for (end = row; end < job.h.positions && reaches(job, band, end);) ++end;
      int64_t position = row * job.w.positions, last = end * job.w.positions;
      if (end == row) ++end;
      for (int64_t count; position < last; position += count) {
        count = least(blocks.position_block, last - position);
        for (int64_t index = 0; index < blocks.depth.count(); ++index) {
          Chunk chunk = blocks.depth.at(index);
          pack<Panels::positions>(Patches<S>{grad + chunk.component, job.grad, maps.h, maps.w},
                                  chunk, position, count,
                                  Packed<T>{grads, kColumns<T>, chunk.depth() * kColumns<T>}, runs);
          multiply<T, Rows::panels>(
              rows, count, chunk.depth(), {filter + chunk.first * kRows, panel},
              {grads, chunk.depth() * kColumns<T>}, columns, blocks.position_block, index > 0);
        }
        if (blocks.depth.count() > 0)
          add(job, band, columns, blocks.position_block, position, count);
      }
    }
    store(job, sample, group, block * blocks.channel_block, band);
  }

 private:
  struct Band {
    T* data;  // [channels][rows][W]
    int64_t channels, first, rows;
    bool has(int64_t y) const { return y >= first && y < first + rows; }
  };

  static bool reaches(const ScatterJob& job, const Band& band, int64_t row) {
    for (int64_t tap = 0; tap < job.h.taps; ++tap)
      if (band.has(source_index(job.h, tap, row))) return true;
    return false;
  }

  static void add(const ScatterJob& job, const Band& band, const T* columns, int64_t ld,
                  int64_t position, int64_t count) {
    const AxisMap &h = job.h, &w = job.w;
    for (int64_t tap = 0; tap < h.taps * w.taps; ++tap) {
      int64_t tap_w = tap % w.taps;
      auto rows = [&](int64_t, int64_t row, int64_t column, int64_t piece, int64_t at) {
        int64_t y = source_index(h, tap / w.taps, row);
        if (!band.has(y)) return;
        int64_t end = column + piece;
        int64_t low = least(end, w.inner[tap_w].first), high = least(end, w.inner[tap_w].second);
        if (low < column) low = column;
        if (high < low) high = low;
        for (int64_t c = 0; c < band.channels; ++c) {
          const T* from = columns + (tap * band.channels + c) * ld + at - column;
          T* line = band.data + (c * band.rows + y - band.first) * w.limit;
          for (int64_t i = column; i < low; ++i) add_one(line, source_index(w, tap_w, i), from[i]);
          T* inner = line + w.base[low < end ? low : 0] + w.offset[tap_w];
          if (w.step == 1)
            for (int64_t i = 0; i < high - low; ++i) inner[i] += from[low + i];
          else
            for (int64_t i = 0; i < high - low; ++i) inner[i * w.step] += from[low + i];
          for (int64_t i = high; i < end; ++i) add_one(line, source_index(w, tap_w, i), from[i]);
        }
      };
      for_rows(h, w, position, count, rows);
    }
  }

  static void add_one(T* line, int64_t x, T value) {
    if (x >= 0) line[x] += value;
  }

  static void store(const ScatterJob& job, int64_t sample, int64_t group, int64_t first,
                    const Band& band) {
    const View& out = job.result;
    const S* bias = static_cast<const S*>(job.bias);
    for (int64_t i = 0; i < band.channels; ++i) {
      int64_t c = group * job.channels + (first + i) % job.channels,
              component = (first + i) / job.channels;
      T added = bias ? widen(bias[c * job.bias_stride + component]) : T(0);
      for (int64_t y = 0; y < band.rows; ++y) {
        const T* line = band.data + (i * band.rows + y) * job.w.limit;
        S* to = static_cast<S*>(out.data) + sample * out.n + c * out.c + (band.first + y) * out.h +
                component;
        if (out.w == 1)
          for (int64_t x = 0; x < job.w.limit; ++x) narrow(line[x] + added, to[x]);
        else
          for (int64_t x = 0; x < job.w.limit; ++x) narrow(line[x] + added, to[x * out.w]);
      }
    }
  }
};
