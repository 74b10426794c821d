// correlate with each source element copied once: what a block of output rows needs of some
// channels lies in a padded block, channels innermost, and every tap is a shift of it:
//
//     result[i, j][k] = Σ_tap Σ_c block[i·step + r][j·step + s][c] · filter[tap][c][k]
//
// Vectors run along the result's channels, a tile is a piece of an output row, and the sums of all
// taps of a chunk of channels stay in registers. Against packed patches (correlate.inl) the copy is
// smaller by the number of taps, so that it may turn any layout; taps that meet only the padding's
// zeros are left out, unless the filter has a NaN or Inf to meet them. Scratch a task: the block,
// the sums that cannot lie in the result itself.

constexpr int64_t kDirectDepth = 576;       // (tap, channel) of a chunk, about
constexpr int64_t kDirectBytes = 1 << 18;   // of a padded block and of sums: both stay in the L2
constexpr int64_t kDirectFilter = 1 << 15;  // elements of a filter's panels that share a tile

// One tap of a chunk: where it begins in the block and in the panel of the filter.
struct TapPlace {
  int64_t source, filter;
};

template <class T, int ROWS, int VECTORS>
void direct_tile(const TapPlace* taps, int64_t count, int64_t run, const T* a, int64_t lda,
                 const T* b, T* c, int64_t ldc, bool add, const T* bias) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V sum[ROWS][VECTORS] = {};
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(c + i * ldc + v * lanes, 1);
  for (const TapPlace* tap = taps; tap < taps + count; ++tap) {
    const T *at = a + tap->source, *with = b + tap->filter;
    for (int64_t k = 0; k < run; ++k, ++at, with += kColumns<T>) {
      V columns[VECTORS];
      for (int v = 0; v < VECTORS; ++v) columns[v] = load<T>(with + v * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v) sum[i][v] += at[i * lda] * columns[v];
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) {
      T* to = c + i * ldc + v * lanes;
      if (add) sum[i][v] += load<T>(to);
      if (bias) sum[i][v] += load<T>(bias + v * lanes);
      store<T>(sum[i][v], to);
    }
}

template <class T, int VECTORS, int ROWS = kRows>
void direct_tile_of(int64_t rows, const TapPlace* taps, int64_t count, int64_t run, const T* a,
                    int64_t lda, const T* b, T* c, int64_t ldc, bool add, const T* bias) {
  if constexpr (ROWS > 1)
    if (rows < ROWS)
      return direct_tile_of<T, VECTORS, ROWS - 1>(rows, taps, count, run, a, lda, b, c, ldc, add,
                                                  bias);
  direct_tile<T, ROWS, VECTORS>(taps, count, run, a, lda, b, c, ldc, add, bias);
}

// A padded block: rows and columns of the source, counted as base + offset, by some channels.
struct PaddedBlock {
  int64_t low_h, low_w;   // the smallest offsets
  int64_t height, width;  // of the block

  PaddedBlock(const AxisMap& h, const AxisMap& w, int64_t rows) {
    low_h = least(h.offset[0], h.offset[h.taps - 1]);  // offsets run one way
    low_w = least(w.offset[0], w.offset[w.taps - 1]);
    height = h.step * (rows - 1) + h.offset[0] + h.offset[h.taps - 1] - 2 * low_h + 1;
    width = w.step * (w.positions - 1) + w.offset[0] + w.offset[w.taps - 1] - 2 * low_w + 1;
  }
  int64_t positions() const { return height * width; }
};

// Elements [0, count) of each of `channels` lines to[element][channel]; `end` is the tensor's.
template <class S, class T>
void copy_turned(const S* from, const View& strides, int64_t channels, int64_t count, T* to,
                 int64_t pitch, const S* end) {
  constexpr int64_t lanes = Vector<T>::lanes;
  int64_t turned = 0;
  if (strides.w == 1 && strides.c > 0)
    for (; turned + lanes <= channels; turned += lanes)
      for (int64_t x = 0; x < count; x += lanes) {
        const S* at = from + turned * strides.c + x;
        int64_t some = least(lanes, count - x);
        if (at + (lanes - 1) * strides.c + lanes > end) {
          for (int64_t c = 0; c < lanes; ++c)
            copy(to + x * pitch + turned + c, pitch, at + c * strides.c, 1, some);
          continue;
        }
        typename Vector<T>::type square[lanes];
        load_turned<T>(at, strides.c, square);
        T* place = to + x * pitch + turned;
        if (some == lanes) {
#pragma GCC unroll 16
          for (int64_t i = 0; i < lanes; ++i) store<T>(square[i], place + i * pitch);
        } else {
          for (int64_t i = 0; i < some; ++i) store<T>(square[i], place + i * pitch);
        }
      }
  for (int64_t c = turned; c < channels; ++c)
    copy(to + c, pitch, from + c * strides.c, strides.w, count);
}

// Rows of one sample's channels to a padded block of `pitch` elements a position; first_v is the
// block's first row.
template <class S, class T>
void fill_padded(const PaddedBlock& block, int64_t first_v, const S* from, const View& strides,
                 const AxisMap& h, const AxisMap& w, int64_t channels, T* to, int64_t pitch,
                 const S* end) {
  int64_t first_u = w.base[0] + block.low_w, line = block.width * pitch;
  int64_t low = first_u < 0 ? least(block.width, -first_u) : 0;
  int64_t high = least(block.width, w.limit - first_u);
  if (high < low) high = low;
  for (int64_t i = 0; i < block.height; ++i, to += line) {
    int64_t y = shown_source(h, first_v + i);
    if (y < 0 || y >= h.limit) {
      clear(to, 1, line);
      continue;
    }
    const S* row = from + y * strides.h;
    auto edge = [&](int64_t x, int64_t last) {
      for (; x < last; ++x) {
        int64_t shown = shown_source(w, first_u + x);
        if (shown < 0 || shown >= w.limit)
          clear(to + x * pitch, 1, channels);
        else
          copy(to + x * pitch, 1, row + shown * strides.w, strides.c, channels);
      }
    };
    edge(0, low);
    const S* inner = row + (first_u + low) * strides.w;
    if (strides.c == 1 && strides.w == channels && channels == pitch)
      copy(to + low * pitch, 1, inner, 1, (high - low) * pitch);
    else if (strides.c == 1)
      for (int64_t x = low; x < high; ++x, inner += strides.w)
        copy(to + x * pitch, 1, inner, 1, channels);
    else
      copy_turned(inner, strides, channels, high - low, to + low * pitch, pitch, end);
    edge(high, block.width);
  }
}

template <class S>
struct DirectBlocks {
  using T = typename Compute<S>::type;
  int64_t taps, channel_block, panels, panel_block, row_block, sample_block;

  explicit DirectBlocks(const CorrelateJob& job) : taps(job.h.taps * job.w.taps) {
    constexpr int64_t lanes = Vector<T>::lanes;
    int64_t wanted =
        least(job.depth, least<int64_t>(256, round_up(quotient_up(kDirectDepth, taps), lanes)));
    channel_block = quotient_up(job.depth, quotient_up(job.depth, wanted));
    if (channel_block < job.depth) channel_block = round_up(channel_block, lanes);
    panels = quotient_up(job.rows, kColumns<T>);
    panel_block = least(panels, quotient_up(256, kColumns<T>));
    panel_block = quotient_up(panels, quotient_up(panels, panel_block));

    int64_t sums = job.w.positions * panel_block * kColumns<T> * sizeof(T);
    row_block = least(job.h.positions, 1 + kDirectBytes / sums);
    while (row_block > 1 && block_bytes(job) > kDirectBytes) --row_block;
    row_block = quotient_up(job.h.positions, row_blocks(job));
    sample_block = 1;
    if (row_block == job.h.positions)
      sample_block = least(job.batch, 1 + kDirectBytes / (sums * row_block + block_bytes(job)));
    // Few tasks would leave threads idle: cut a small result finer.
    while (tasks(job) < 8 && sample_block > 1) sample_block = quotient_up(sample_block, 2);
    while (tasks(job) < 8 && panel_block > 1) panel_block = quotient_up(panel_block, 2);
    while (tasks(job) < 8 && row_block > 4) row_block = quotient_up(row_block, 2);
  }
  int64_t block_bytes(const CorrelateJob& job) const {
    return PaddedBlock(job.h, job.w, row_block).positions() * channel_block * sizeof(T);
  }
  int64_t row_blocks(const CorrelateJob& job) const {
    return quotient_up(job.h.positions, row_block);
  }
  int64_t panel_blocks() const { return quotient_up(panels, panel_block); }
  int64_t sample_blocks(const CorrelateJob& job) const {
    return quotient_up(job.batch, sample_block);
  }
  int64_t tasks(const CorrelateJob& job) const {
    return job.segments * job.groups * panel_blocks() * sample_blocks(job) * row_blocks(job);
  }
};

template <class S>
struct Direct {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Blocks = DirectBlocks<S>;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static bool fits(const CorrelateJob& job) {
    if (job.components != 1 || job.depth == 0 || job.batch == 0) return false;
    if (job.rows_along_vectors ? 2 * job.rows <= lanes : job.rows < lanes) return false;
    if (job.h.taps * job.w.taps == 0 || job.h.positions == 0) return false;
    if (job.w.positions < kRows / 3) return false;
    return PaddedBlock(job.h, job.w, 1).positions() * least<int64_t>(job.depth, 64) <= 1 << 18;
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    return job.segments * job.groups * quotient_up(blocks.panels, kPackedPanels) *
           quotient_up(job.depth, blocks.channel_block);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return job.segments * job.groups * Blocks(job).panels * kColumns<T> * job.depth * job.h.taps *
           job.w.taps * sizeof(T);
  }

  // Some panels of one chunk of channels; a panel is [chunk of channels][tap][channel][column].
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Blocks blocks(job);
    int64_t chunks = quotient_up(job.depth, blocks.channel_block);
    int64_t channel = task % chunks * blocks.channel_block;
    task /= chunks;
    int64_t panel = task % quotient_up(blocks.panels, kPackedPanels) * kPackedPanels;
    int64_t unit = task / quotient_up(blocks.panels, kPackedPanels), first = panel * kColumns<T>;
    int64_t size = kColumns<T> * job.depth * blocks.taps;
    FilterChunk<S, T> chunk{
        static_cast<const S*>(filter.data) + unit / job.groups * filter.segment +
            unit % job.groups * filter.group + first * filter.row + channel * filter.depth,
        filter,
        job.h,
        job.w,
        least(kPackedPanels * kColumns<T>, job.rows - first),
        least(blocks.channel_block, job.depth - channel),
        static_cast<T*>(packed) + (unit * blocks.panels + panel) * size +
            channel * blocks.taps * kColumns<T>,
        size};
    if (chunk.pack()) __atomic_store_n(job.special, true, __ATOMIC_RELAXED);
  }

  static int64_t tasks(const CorrelateJob& job) { return Blocks(job).tasks(job); }

  static int64_t scratch(const CorrelateJob& job) {
    Blocks blocks(job);
    int64_t block = PaddedBlock(job.h, job.w, blocks.row_block).positions() * blocks.channel_block;
    int64_t sums = blocks.row_block * job.w.positions * blocks.panel_block * kColumns<T>;
    return (blocks.sample_block * (block + sums) +
            (lanes + blocks.panel_block) * kColumns<T>)*sizeof(T) +
           blocks.taps * sizeof(TapPlace);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    Place place;
    place.row = task % blocks.row_blocks(job) * blocks.row_block;
    place.rows = least(blocks.row_block, job.h.positions - place.row);
    task /= blocks.row_blocks(job);
    int64_t sample = task % blocks.sample_blocks(job) * blocks.sample_block;
    place.samples = least(blocks.sample_block, job.batch - sample);
    task /= blocks.sample_blocks(job);
    place.panel = task % blocks.panel_blocks() * blocks.panel_block;
    int64_t panels = least(blocks.panel_block, blocks.panels - place.panel);
    task /= blocks.panel_blocks();
    place.group = task % job.groups;
    place.sample = task / job.groups * job.batch + sample;

    PaddedBlock block(job.h, job.w, place.rows);
    TapPlace* taps = static_cast<TapPlace*>(scratch);
    T* biases = reinterpret_cast<T*>(taps + blocks.taps);
    T* padded = biases + blocks.panel_block * kColumns<T>;
    const T* bias = job.bias ? biases : nullptr;
    if (job.bias) {
      int64_t first = place.panel * kColumns<T>,
              count = least(panels * kColumns<T>, job.rows - first);
      copy(biases, 1,
           static_cast<const S*>(job.bias) + (place.group * job.rows + first) * job.bias_stride,
           job.bias_stride, count);
      clear(biases + count, 1, panels * kColumns<T> - count);
    }
    T* sums = padded + blocks.sample_block * blocks.channel_block *
                           PaddedBlock(job.h, job.w, blocks.row_block).positions();
    const T* filter = static_cast<const T*>(job.filter) +
                      (task * blocks.panels + place.panel) * kColumns<T> * job.depth * blocks.taps;
    const S* source =
        static_cast<const S*>(job.source.data) + place.group * job.depth * job.source.c;
    const S* end = end_of<S>(job.source, job.segments * job.batch, job.groups * job.depth,
                             job.h.limit, job.w.limit);
    for (int64_t channel = 0; channel < job.depth; channel += blocks.channel_block) {
      int64_t channels = least(blocks.channel_block, job.depth - channel);
      for (int64_t n = 0; n < place.samples; ++n)
        fill_padded(block, job.h.base[place.row] + block.low_h,
                    source + (place.sample + n) * job.source.n + channel * job.source.c, job.source,
                    job.h, job.w, channels, padded + n * block.positions() * channels, channels,
                    end);
      int64_t together = most<int64_t>(1, kDirectFilter / (channels * blocks.taps * kColumns<T>));
      for (int64_t panel = 0; panel < panels; panel += together)
        multiply_panels(job, place, block, channel, channels, padded, taps, filter, panel,
                        least(panels, panel + together), bias, sums);
    }
    if (blocks.channel_block == job.depth) return;
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t n = 0; n < place.samples; ++n)
        for (int64_t i = 0; i < place.rows; ++i)
          store_row(job, place, n, i, panel,
                    sums + panel * place.size(job) +
                        (n * place.rows + i) * job.w.positions * kColumns<T>);
  }

 private:
  struct Place {  // what a task owns
    int64_t group, sample, samples, row, rows, panel;
    int64_t size(const CorrelateJob& job) const {  // of a panel's sums
      return samples * rows * job.w.positions * kColumns<T>;
    }
  };

  static int64_t columns_of(const CorrelateJob& job, int64_t panel) {
    return least(kColumns<T>, job.rows - panel * kColumns<T>);
  }
  // Whole vectors of channels beside each other: sums may lie in the result.
  static bool in_place(const CorrelateJob& job, int64_t panel) {
    return std::is_same_v<S, T> && job.result.c == 1 && job.w.position_step != 0 &&
           columns_of(job, panel) % lanes == 0;
  }

  // How many positions a tile has that begins at j. Where the taps are far apart it may pay to cut
  // the row where one of them enters or leaves the padding, so that each tile knows its taps.
  static int64_t piece(const AxisMap& w, int64_t j, int64_t tile, bool cut) {
    int64_t end = least(j + tile, w.positions);
    for (int64_t s = 0; cut && s < w.taps; ++s)
      for (int64_t edge : {w.inner[s].first, w.inner[s].second})
        if (edge > j && edge < end) end = edge;
    return end - j;
  }
  // Of a row's tiles: products, and the filter's two vectors, which each of a tile's taps loads.
  static int64_t row_cost(const AxisMap& w, int64_t tile, bool cut) {
    int64_t cost = 0;
    for (int64_t j = 0, some; j < w.positions; j += some) {
      some = piece(w, j, tile, cut);
      for (int64_t s = 0; s < w.taps; ++s)
        if (j + some > w.inner[s].first && j < w.inner[s].second) cost += some + 2;
    }
    return cost;
  }

  // The products of a chunk of channels with some panels, which share a tile's patches.
  static void multiply_panels(const CorrelateJob& job, const Place& place, const PaddedBlock& block,
                              int64_t channel, int64_t channels, const T* padded, TapPlace* taps,
                              const T* filter, int64_t panel, int64_t end, const T* bias, T* sums) {
    int64_t width = job.w.positions, tile = quotient_up(width, quotient_up(width, kRows));
    bool skips = job.h.padding == Padding::zeros && !*job.special;
    if (channel + channels < job.depth) bias = nullptr;
    // Neighbouring taps of a row lie beside each other: they are one run.
    int64_t span = job.w.offset[job.w.taps - 1] - job.w.offset[0];
    int64_t together = channels == job.depth && span == job.w.taps - 1 ? job.w.taps : 1;
    bool cut = skips && together == 1 && row_cost(job.w, tile, true) < row_cost(job.w, tile, false);
    int64_t part = job.depth * job.h.taps * job.w.taps * kColumns<T>;  // of a panel of the filter
    filter += channel * job.h.taps * job.w.taps * kColumns<T>;
    for (int64_t n = 0; n < place.samples; ++n)
      for (int64_t i = 0; i < place.rows; ++i) {
        int64_t row = place.row + i;
        const T* line = padded + (n * block.positions() + i * job.h.step * block.width) * channels;
        // Sums that are whole are stored at once, and their place is used again.
        auto row_of = [&](int64_t p) {
          return channels == job.depth
                     ? sums + (p - panel) * width * kColumns<T>
                     : sums + p * place.size(job) + (n * place.rows + i) * width * kColumns<T>;
        };
        for (int64_t j = 0, some; j < width; j += some) {
          int64_t count = 0;
          some = piece(job.w, j, tile, cut);
          for (int64_t r = 0; r < job.h.taps; ++r)
            for (int64_t s = 0; s < job.w.taps; s += together) {
              auto [top, bottom] = job.h.inner[r];
              auto [left, right] = job.w.inner[s];
              if (skips && (row < top || row >= bottom)) continue;
              if (skips && together == 1 && (j + some <= left || j >= right)) continue;
              int64_t at =
                  (job.h.offset[r] - block.low_h) * block.width + job.w.offset[s] - block.low_w;
              taps[count++] = {at * channels, (r * job.w.taps + s) * channels * kColumns<T>};
            }
          for (int64_t p = panel; p < end; ++p) {
            T* to = row_of(p) + j * kColumns<T>;
            int64_t step = kColumns<T>;
            if constexpr (std::is_same_v<S, T>)
              if (in_place(job, place.panel + p)) {
                step = job.w.position_step * job.result.w;
                to = static_cast<T*>(job.result.data) + (place.sample + n) * job.result.n +
                     job.h.position[row] * job.result.h + job.w.position[0] * job.result.w +
                     j * step + place.group * job.rows + (place.panel + p) * kColumns<T>;
              }
            auto multiply = columns_of(job, place.panel + p) > lanes ? direct_tile_of<T, 2>
                                                                     : direct_tile_of<T, 1>;
            multiply(some, taps, count, together * channels, line + j * job.w.step * channels,
                     job.w.step * channels, filter + p * part, to, step, channel > 0,
                     bias ? bias + p * kColumns<T> : nullptr);
          }
        }
        for (int64_t p = panel; p < end && channels == job.depth; ++p)
          store_row(job, place, n, i, p, row_of(p));
      }
  }

  static void store_row(const CorrelateJob& job, const Place& place, int64_t n, int64_t i,
                        int64_t panel, const T* sums) {
    const View& out = job.result;
    panel += place.panel;
    if (in_place(job, panel)) return;
    int64_t columns = columns_of(job, panel), width = job.w.positions;
    S* to = static_cast<S*>(out.data) + (place.sample + n) * out.n +
            (place.group * job.rows + panel * kColumns<T>)*out.c +
            job.h.position[place.row + i] * out.h;
    if (out.w == 1 && job.w.position_step == 1)
      store_turned(sums, columns, width, to + job.w.position[0], out.c);
    else
      for (int64_t j = 0; j < width; ++j)
        for (int64_t k = 0; k < columns; ++k)
          narrow(sums[j * kColumns<T> + k], to[job.w.position[j] * out.w + k * out.c]);
  }

  // to[column][position] = sums[position][column]; behind the sums there is room to read.
  static void store_turned(const T* sums, int64_t columns, int64_t positions, S* to,
                           int64_t stride) {
    for (int64_t k = 0; k < columns; k += lanes)
      for (int64_t j = 0; j < positions; j += lanes) {
        V square[lanes];
        load_turned<T>(sums + j * kColumns<T> + k, kColumns<T>, square);
        int64_t some = least(lanes, positions - j), rows = least(lanes, columns - k);
        S* at = to + k * stride + j;
        if (some == lanes && rows == lanes) {
#pragma GCC unroll 16
          for (int64_t i = 0; i < lanes; ++i) store<T>(square[i], at + i * stride);
        } else {
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t x = 0; x < some; ++x) narrow(square[i][x], at[i * stride + x]);
        }
      }
  }
};
