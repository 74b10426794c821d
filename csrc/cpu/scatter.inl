// full_convolve in its scatter form: a matrix product, then every product is added where it
// belongs.
//
//     columns[(tap, c)][position] = Σ_k filter[k][c][tap] · grad[k][position]
//     result[c][index(position, tap)] += columns[(tap, c)][position]
//
// The gather form (correlate.inl on the phases) needs no additions, but it multiplies with the
// zeros around the gradient, and its tiles have a row for each input channel. So this one is for
// few input channels, for filters that reach far over the gradient's edge, and for every padding
// but zeros: a mirrored element's index is as good as any other. With a single tap there is nothing
// to add, so the gather form has its products and stores them once.
//
// A task owns some channels of a band of one sample's rows, in compute precision, and goes through
// all outputs that reach into it. Of the gradient a panel of positions is copied, or turned, while
// the tiles of the one before it ask for its lines. Scratch a task: the band, a block of columns, a
// panel of gradients.

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
    // Few tasks would leave threads idle.
    while (tasks(job) < 8 && band > 8 * job.h.taps) band = quotient_up(band, 2);
    int64_t fitting = least<int64_t>(256, 1 + kBlock / (channel_block * taps + 1));
    position_block = round_up(fitting, kColumns<T>);
  }
  int64_t channel_blocks() const { return quotient_up(channels, channel_block); }
  int64_t bands(const ScatterJob& job) const { return quotient_up(job.h.limit, band); }
  int64_t tasks(const ScatterJob& job) const {
    return job.segments * job.batch * job.groups * channel_blocks() * bands(job);
  }
  int64_t rows(int64_t block) const {
    return taps * least(channel_block, channels - block * channel_block);
  }
  int64_t panels() const { return quotient_up(taps * channel_block, kRows); }
  // Of a block that begins at `position`: whole rows, or a part of one that depends on nothing but
  // the row's length. So an element's sum has one order, wherever its band begins.
  int64_t next_positions(const ScatterJob& job, int64_t position, int64_t end) const {
    int64_t width = job.w.positions, whole = position_block / width * width;
    return whole > 0 ? least(whole, end - position)
                     : least(position_block, width - position % width);
  }
};

template <class S>
struct Scatter {
  using T = typename Compute<S>::type;
  using Blocks = ScatterBlocks<S>;

  static double cost(const ScatterJob& job) {
    bool zeros = job.h.padding == Padding::zeros && job.w.padding == Padding::zeros;
    if (zeros && job.h.taps * job.w.taps == 1) return kNever;
    constexpr int64_t lanes = Vector<T>::lanes;
    double filters = job.components * job.filters;
    double vectors = quotient_up(job.h.positions * job.w.positions, lanes);
    int64_t rows = job.components * job.channels * job.h.taps * job.w.taps;
    double products = 1.05 * filters * most(rows, kRows / 2) + 9 * filters;
    // The filter of a block is read for each panel of positions, from where it fits.
    Blocks blocks(job);
    double size = filters * blocks.taps * blocks.channel_block * sizeof(T);
    if (size > 1 << 16) products += (size > 1 << 19 ? 2.5 : 0.3) / kVectors * filters * rows;
    double adding = vectors * 8 * rows + 23 * job.h.positions * rows;
    double result = job.components * job.channels * job.h.limit * job.w.limit;
    bool beside = job.result.w == 1 && job.w.step <= 2;  // stored by vectors
    bool far = job.result.w * sizeof(S) >= 512;          // pixels, of which few lines fit a cache
    double storing = result * (beside ? 21.0 / lanes : far ? 28 : 2.7);
    return job.groups * (vectors * products + adding + storing + 2000);
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

  static int64_t tasks(const ScatterJob& job) { return Blocks(job).tasks(job); }

  static int64_t scratch(const ScatterJob& job) {
    Blocks blocks(job);
    int64_t band = blocks.channel_block * blocks.band * Band(job).line();
    int64_t columns = blocks.taps * blocks.channel_block * blocks.position_block;
    return kColumns<T> * sizeof(Run) + (band + columns + kDepthBlock * kColumns<T>)*sizeof(T);
  }

  static void run(const ScatterJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    Band band(job);
    band.first = task % blocks.bands(job) * blocks.band;
    band.rows = least(blocks.band, job.h.limit - band.first);
    task /= blocks.bands(job);
    int64_t block = task % blocks.channel_blocks();
    task /= blocks.channel_blocks();
    int64_t group = task % job.groups, sample = task / job.groups, segment = sample / job.batch;
    int64_t rows = blocks.rows(block);
    band.channels = rows / blocks.taps;
    Run* runs = static_cast<Run*>(scratch);  // first: they are aligned to more than T is
    T* grads = reinterpret_cast<T*>(runs + kColumns<T>);
    T* columns = grads + kDepthBlock * kColumns<T>;
    band.data = columns + blocks.taps * blocks.channel_block * blocks.position_block;
    clear(band.data, 1, band.channels * band.rows * band.line());

    int64_t unit = (segment * job.groups + group) * blocks.channel_blocks() + block;
    int64_t panel = blocks.depth.depth() * kRows;
    const T* filter = static_cast<const T*>(job.filter) + unit * blocks.panels() * panel;
    const S* grad = static_cast<const S*>(job.grad.data) + sample * job.grad.n +
                    group * job.filters * job.grad.c;
    OneTap maps(job.h, job.w);
    Patches<S> patches{grad, job.grad, maps.h, maps.w};
    for (int64_t row = 0, end; row < job.h.positions; row = end) {
      for (end = row; end < job.h.positions && reaches(job, band, end);) ++end;
      int64_t position = row * job.w.positions, last = end * job.w.positions;
      if (end == row) ++end;
      for (int64_t count; position < last; position += count) {
        count = blocks.next_positions(job, position, last);
        for (int64_t index = 0; index < blocks.depth.count(); ++index)
          multiply_grads(blocks, job, patches, index, position, count, rows, filter, grads, runs,
                         columns);
        if (blocks.depth.count() > 0)
          add(job, band, columns, blocks.position_block, position, count);
      }
    }
    store_band(job, sample, group, block * blocks.channel_block, band);
  }

 private:
  // Some rows of the result. A line falls apart by the stride, line[x mod step][x / step], so that
  // the elements that a tap of neighbouring positions meets are neighbours.
  struct Band {
    T* data = nullptr;  // [channels][rows][line()]
    int64_t channels = 0, first = 0, rows = 0;
    int64_t phases, length;

    explicit Band(const ScatterJob& job)
        : phases(least(job.w.step, job.w.limit)), length(quotient_up(job.w.limit, phases)) {}
    int64_t line() const { return phases * length; }
    bool has(int64_t y) const { return y >= first && y < first + rows; }
    T* row(int64_t c, int64_t y) const { return data + (c * rows + y - first) * line(); }
    int64_t place(int64_t x) const { return x % phases * length + x / phases; }
  };

  static bool reaches(const ScatterJob& job, const Band& band, int64_t row) {
    for (int64_t tap = 0; tap < job.h.taps; ++tap)
      if (band.has(source_index(job.h, tap, row))) return true;
    return false;
  }

  // columns (+)= filter · grads for some positions and a chunk of the filters.
  static void multiply_grads(const Blocks& blocks, const ScatterJob& job, const Patches<S>& grads,
                             int64_t index, int64_t position, int64_t count, int64_t rows,
                             const T* filter, T* panel, Run* runs, T* columns) {
    constexpr int64_t width = kColumns<T>;
    Chunk chunk = blocks.depth.at(index);
    int64_t depth = chunk.depth(), ld = blocks.position_block;
    int64_t step = job.components == 1 ? step_of_positions(job.grad, job.h, job.w) : 0;
    int64_t stride = job.grad.c, pitch = step == 1 ? stride : width;
    const S* from = grads.data + chunk.channel * stride + position * step;
    for (int64_t j = 0; j < count; j += width, from += width * step) {
      int64_t some = least(width, count - j);
      if (step == 1)
        copy_panel(from, stride, depth, some, panel);
      else if (step > 0 && stride == 1)
        turn_panel(from, step, depth, some, panel);
      else
        pack<Panels::positions>(
            Patches<S>{grads.data + chunk.component, grads.strides, grads.h, grads.w}, chunk,
            position + j, some, Packed<T>{panel, width, 0}, runs);
      for (int64_t i = 0; i < rows; i += kRows) {
        const T* a = filter + i * blocks.depth.depth() + chunk.first * kRows;
        CopiedPanel<T, S> with{panel, i == 0 ? from + width * step : from, i == 0 ? pitch : 0};
        auto multiply = some > Vector<T>::lanes
                            ? tile_of<T, Rows::panels, 2, kRows, CopiedPanel<T, S>>
                            : tile_of<T, Rows::panels, 1, kRows, CopiedPanel<T, S>>;
        multiply(rows - i, depth, a, 0, with, columns + i * ld + j, ld, index > 0);
      }
    }
  }

  // Adds the products of `count` positions to what the band has of their sources.
  static void add(const ScatterJob& job, const Band& band, const T* columns, int64_t ld,
                  int64_t position, int64_t count) {
    const AxisMap &h = job.h, &w = job.w;
    for_rows(h, w, position, count,
             [&](int64_t, int64_t row, int64_t column, int64_t piece, int64_t at) {
               int64_t end = column + piece;
               for (int64_t s = 0; s < w.taps; ++s) {
                 int64_t low = least(end, most(column, w.inner[s].first));
                 int64_t high = most(low, least(end, w.inner[s].second));
                 int64_t place = low < high ? band.place(w.base[low] + w.offset[s]) : 0;
                 for (int64_t r = 0; r < h.taps; ++r) {
                   int64_t y = source_index(h, r, row);
                   if (!band.has(y)) continue;
                   for (int64_t c = 0; c < band.channels; ++c) {
                     const T* from =
                         columns + ((r * w.taps + s) * band.channels + c) * ld + at - column;
                     T* line = band.row(c, y);
                     add_mirrored(w, s, column, low, from, band, line);
                     add_vectors(from + low, high - low, line + place);
                     add_mirrored(w, s, high, end, from, band, line);
                   }
                 }
               }
             });
  }

  static void add_vectors(const T* from, int64_t count, T* to) {
    constexpr int64_t lanes = Vector<T>::lanes;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) store<T>(load<T>(to + i) + load<T>(from + i), to + i);
    int64_t left = count - i;
    if (left > 0)
      store_some<T>(load_some<T>(to + i, left) + load_some<T>(from + i, left), left, to + i);
  }

  // Of positions whose source is the padding.
  static void add_mirrored(const AxisMap& w, int64_t tap, int64_t first, int64_t end, const T* from,
                           const Band& band, T* line) {
    if (w.padding == Padding::zeros) return;
    for (int64_t i = first; i < end; ++i)
      if (int64_t x = source_index(w, tap, i); x >= 0) line[band.place(x)] += from[i];
  }

  static void store_band(const ScatterJob& job, int64_t sample, int64_t group, int64_t first,
                         const Band& band) {
    const View& out = job.result;
    const S* bias = static_cast<const S*>(job.bias);
    for (int64_t i = 0; i < band.channels; ++i) {
      int64_t c = group * job.channels + (first + i) % job.channels;
      int64_t component = (first + i) / job.channels;
      T added = bias ? widen(bias[c * job.bias_stride + component]) : T(0);
      S* to = static_cast<S*>(out.data) + sample * out.n + c * out.c + component;
      for (int64_t y = band.first; y < band.first + band.rows; ++y)
        store_line(band, band.row(i, y), job.w.limit, added, to + y * out.h, out.w);
    }
  }

  // A line, put together again.
  static void store_line(const Band& band, const T* line, int64_t width, T added, S* to,
                         int64_t step) {
    constexpr int64_t lanes = Vector<T>::lanes;
    int64_t i = 0, phases = band.phases;
    for (; step == 1 && phases <= 2 && phases * (i + lanes) <= width; i += lanes) {
      typename Vector<T>::type first = load<T>(line + i) + added;
      if (phases == 2) {
        typename Vector<T>::type second = load<T>(line + band.length + i) + added;
        interleave<T>(first, second);
        store<T>(second, to + 2 * i + lanes);
      }
      store<T>(first, to + phases * i);
    }
    for (int64_t phase = 0; phase < phases; ++phase, line += band.length) {
      S* at = to + phase * step;
      int64_t count = quotient_up(width - phase, phases), apart = phases * step;
      for (int64_t k = i; k < count; ++k) narrow(line[k] + added, at[k * apart]);
    }
  }
};
