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

// c may be the result itself, rounded to its type, where nothing more is added.
template <class E, class C, int ROWS, int VECTORS>
void direct_tile(const TapPlace* taps, int64_t count, int64_t run, const E* a, int64_t lda,
                 const E* b, C* c, int64_t ldc, bool add, const typename Sum<E>::type* bias) {
  using T = typename Sum<E>::type;
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V sum[ROWS][VECTORS] = {};
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(c + i * ldc + v * lanes, 1);
  for (const TapPlace* tap = taps; tap < taps + count; ++tap) {
    const E *at = a + tap->source, *with = b + tap->filter;
    for (int64_t k = 0; k < run; ++k, ++at, with += kColumns<E>) {
      typename Vector<E>::type columns[VECTORS];
      for (int v = 0; v < VECTORS; ++v) columns[v] = load<E>(with + v * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v)
          sum[i][v] = multiply_add(at[i * lda], columns[v], sum[i][v]);
    }
  }
  auto place = [&](int i, int v) { return c + i * ldc + v * lanes; };
  if (add) for_sums(sum, [&](V& value, int i, int v) { value += load<T>(place(i, v)); });
  if (bias) for_sums(sum, [&](V& value, int, int v) { value += load<T>(bias + v * lanes); });
  for_sums(sum, [&](V& value, int i, int v) { store<T>(value, place(i, v)); });
}

template <class E, class C, int VECTORS, int ROWS = kRows>
void direct_tile_of(int64_t rows, const TapPlace* taps, int64_t count, int64_t run, const E* a,
                    int64_t lda, const E* b, C* c, int64_t ldc, bool add,
                    const typename Sum<E>::type* bias) {
  if constexpr (ROWS > 1)
    if (rows < ROWS)
      return direct_tile_of<E, C, VECTORS, ROWS - 1>(rows, taps, count, run, a, lda, b, c, ldc, add,
                                                     bias);
  direct_tile<E, C, ROWS, VECTORS>(taps, count, run, a, lda, b, c, ldc, add, bias);
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
  int64_t positions() const { return area(height, width); }
  // Whether a tap meets a row, counted as offset, from every step-th position on.
  static bool is_read(const AxisMap& h, int64_t row, int64_t step) {
    for (int64_t r = 0; r < h.taps; ++r)
      if ((row - h.offset[r]) % step == 0) return true;
    return false;
  }
};

constexpr int64_t kFewLines = 4;  // fewer are copied element by element, not turned

// Elements [0, count) of each of `channels` lines to[element][channel]; `end` is the tensor's.
template <class S, class E>
void copy_turned(Source<S, E> from, int64_t channel_step, int64_t position_step, int64_t channels,
                 int64_t count, E* to, int64_t pitch, const S* end) {
  constexpr int64_t lanes = Vector<E>::lanes;
  int64_t turned = 0;
  if (position_step == 1 && channel_step > 0)
    for (; turned + kFewLines <= channels; turned += lanes) {
      int64_t lines = least(lanes, channels - turned);
      for (int64_t x = 0; x < count; x += lanes) {
        Source<S, E> at = from + turned * channel_step + x;
        int64_t some = least(lanes, count - x);
        if (at.from + (lines - 1) * channel_step + at.reach() + lanes > end) {
          for (int64_t c = 0; c < lines; ++c)
            copy(to + x * pitch + turned + c, pitch, at + c * channel_step, 1, some);
          continue;
        }
        typename Vector<E>::type square[lanes];
        load_turned<1>(at, channel_step, lines, square);
        E* place = to + x * pitch + turned;
        if (some == lanes && lines == lanes) {
#pragma GCC unroll 16
          for (int64_t i = 0; i < lanes; ++i) store<E>(square[i], place + i * pitch);
        } else {
          for (int64_t i = 0; i < some; ++i) store_some<E>(square[i], lines, place + i * pitch);
        }
      }
    }
  for (int64_t c = turned; c < channels; ++c)
    copy(to + c, pitch, from + c * channel_step, position_step, count);
}

// Rows to a padded block of `pitch` elements a position, `channels` of them at `to`; row(v) is
// where the elements of row v are, if any tap reads them, first_v the block's first row.
template <class S, class E, class Row>
void fill_padded(const PaddedBlock& block, int64_t first_v, Row row, int64_t channel_step,
                 int64_t position_step, const AxisMap& w, int64_t channels, E* to, int64_t pitch,
                 const S* end) {
  int64_t first_u = w.base[0] + block.low_w, line = block.width * pitch;
  int64_t low = first_u < 0 ? least(block.width, -first_u) : 0;
  int64_t high = least(block.width, w.limit - first_u);
  if (high < low) high = low;
  for (int64_t i = 0; i < block.height; ++i, to += line) {
    Source<S, E> source = row(first_v + i);
    if (!source.from) continue;
    auto edge = [&](int64_t x, int64_t last) {
      for (; x < last; ++x) {
        int64_t shown = source.shown == 0 ? -1 : source_or_none(w, first_u + x);
        if (shown < 0)
          clear(to + x * pitch, 1, channels);
        else
          copy(to + x * pitch, 1, source + shown * position_step, channel_step, channels);
      }
    };
    if (source.shown == 0) {
      edge(0, block.width);
      continue;
    }
    edge(0, low);
    Source<S, E> inner = source + (first_u + low) * position_step;
    if (!beside_each_other(source, channel_step))
      copy_turned(inner, channel_step, position_step, channels, high - low, to + low * pitch, pitch,
                  end);
    else if (position_step == channels * channel_step && channels == pitch)
      copy(to + low * pitch, 1, inner, channel_step, (high - low) * pitch);
    else
      for (int64_t x = low; x < high; ++x, inner = inner + position_step)
        copy(to + x * pitch, 1, inner, channel_step, channels);
    edge(high, block.width);
  }
}

template <class S>
struct DirectBlocks {
  using E = typename Element<S>::type;
  using T = typename Sum<E>::type;
  int64_t taps, depth, channel_block;  // depths in elements
  int64_t panels, panel_block, row_block, sample_block;

  explicit DirectBlocks(const CorrelateJob& job)
      : taps(job.h.taps * job.w.taps), depth(elements<E>(job.depth)) {
    constexpr int64_t lanes = Vector<T>::lanes;
    int64_t wanted =
        least(depth, least<int64_t>(256, round_up(quotient_up(kDirectDepth, taps), lanes)));
    channel_block = quotient_up(depth, quotient_up(depth, wanted));
    if (channel_block < depth) channel_block = round_up(channel_block, lanes);
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
    return PaddedBlock(job.h, job.w, row_block).positions() * channel_block * sizeof(E);
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
  using E = typename Element<S>::type;
  using T = typename Sum<E>::type;
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
           quotient_up(blocks.depth, blocks.channel_block);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    Blocks blocks(job);
    return job.segments * job.groups * blocks.panels * kColumns<T> * blocks.depth * blocks.taps *
           sizeof(E);
  }

  // Some panels of one chunk of channels; a panel is [chunk of channels][tap][channel][column].
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Blocks blocks(job);
    int64_t chunks = quotient_up(blocks.depth, blocks.channel_block);
    int64_t channel = task % chunks * blocks.channel_block;
    task /= chunks;
    int64_t panel = task % quotient_up(blocks.panels, kPackedPanels) * kPackedPanels;
    int64_t unit = task / quotient_up(blocks.panels, kPackedPanels), first = panel * kColumns<T>;
    int64_t size = kColumns<T> * blocks.depth * blocks.taps;
    FilterChunk<S, E> chunk{
        static_cast<const S*>(filter.data) + unit / job.groups * filter.segment +
            unit % job.groups * filter.group + first * filter.row +
            channel * kNumbers<E> * filter.depth,
        filter,
        job.h,
        job.w,
        least(kPackedPanels * kColumns<T>, job.rows - first),
        least(blocks.channel_block * kNumbers<E>, job.depth - channel * kNumbers<E>),
        static_cast<E*>(packed) + (unit * blocks.panels + panel) * size +
            channel * blocks.taps * kColumns<T>,
        size};
    if (chunk.pack()) __atomic_store_n(job.special, true, __ATOMIC_RELAXED);
  }

  static int64_t tasks(const CorrelateJob& job) { return Blocks(job).tasks(job); }

  static int64_t scratch(const CorrelateJob& job) {
    Blocks blocks(job);
    int64_t block = PaddedBlock(job.h, job.w, blocks.row_block).positions() * blocks.channel_block;
    int64_t sums = blocks.row_block * job.w.positions * blocks.panel_block * kColumns<T>;
    return blocks.sample_block * (block * sizeof(E) + sums * sizeof(T)) +
           (lanes + blocks.panel_block) * kColumns<T> * sizeof(T) + blocks.taps * sizeof(TapPlace);
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
    E* padded = reinterpret_cast<E*>(biases + blocks.panel_block * kColumns<T>);
    const T* bias = job.bias ? biases : nullptr;
    if (job.bias) {
      int64_t first = place.panel * kColumns<T>,
              count = least(panels * kColumns<T>, job.rows - first);
      copy(biases, 1,
           static_cast<const S*>(job.bias) + (place.group * job.rows + first) * job.bias_stride,
           job.bias_stride, count);
      clear(biases + count, 1, panels * kColumns<T> - count);
    }
    T* sums =
        reinterpret_cast<T*>(padded + blocks.sample_block * blocks.channel_block *
                                          PaddedBlock(job.h, job.w, blocks.row_block).positions());
    const E* filter = static_cast<const E*>(job.filter) + (task * blocks.panels + place.panel) *
                                                              kColumns<T> * blocks.depth *
                                                              blocks.taps;
    for (int64_t channel = 0; channel < blocks.depth; channel += blocks.channel_block) {
      int64_t channels = least(blocks.channel_block, blocks.depth - channel);
      for (int64_t n = 0; n < place.samples; ++n)
        fill_block(job, block, place.group, place.sample + n, place.row, channel, channels,
                   padded + n * block.positions() * channels);
      int64_t together = most<int64_t>(1, kDirectFilter / (channels * blocks.taps * kColumns<T>));
      for (int64_t panel = 0; panel < panels; panel += together)
        multiply_panels(job, blocks, place, block, channel, channels, padded, taps, filter, panel,
                        least(panels, panel + together), bias, sums);
    }
    if (blocks.channel_block == blocks.depth) return;
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t n = 0; n < place.samples; ++n)
        for (int64_t i = 0; i < place.rows; ++i)
          store_row(job, blocks, place, n, i, panel,
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

  // Some channels of one sample, as elements; of a depth that fills no last element, that apart.
  static void fill_block(const CorrelateJob& job, const PaddedBlock& block, int64_t group,
                         int64_t sample, int64_t row, int64_t channel, int64_t channels, E* to) {
    const View& view = job.source;
    const S* end =
        end_of<S>(view, job.segments * job.batch, job.groups * job.depth, job.h.limit, job.w.limit);
    int64_t first = channel * kNumbers<E>, step = kNumbers<E> * view.c;
    int64_t complete = least(channels, (job.depth - first) / kNumbers<E>);
    const S* from =
        static_cast<const S*>(view.data) + sample * view.n + (group * job.depth + first) * view.c;
    int64_t first_v = job.h.base[row] + block.low_h;
    auto fill = [&](int64_t index, int64_t count) {
      Source<S, E> source = element_of_line<E>(from, view.c, index, job.depth - first);
      auto row_at = [&](int64_t v) {
        if (!block.is_read(job.h, v - job.h.base[row], job.h.step)) return Source<S, E>::unread();
        int64_t y = source_or_none(job.h, v);
        return y < 0 ? Source<S, E>{from, 0, 0} : source + y * view.h;
      };
      fill_padded(block, first_v, row_at, step, view.w, job.w, count, to + index, channels, end);
    };
    if (complete > 0) fill(0, complete);
    if (complete < channels) fill(complete, 1);
  }

  static int64_t columns_of(const CorrelateJob& job, int64_t panel) {
    return least(kColumns<T>, job.rows - panel * kColumns<T>);
  }
  // Whole vectors of channels beside each other: sums may lie in the result, if they are of its
  // type or need no other chunk.
  static bool in_place(const CorrelateJob& job, const Blocks& blocks, int64_t panel) {
    return (std::is_same_v<S, T> || blocks.channel_block == blocks.depth) && job.result.c == 1 &&
           job.w.position_step != 0 && columns_of(job, panel) % lanes == 0;
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
  static void multiply_panels(const CorrelateJob& job, const Blocks& blocks, const Place& place,
                              const PaddedBlock& block, int64_t channel, int64_t channels,
                              const E* padded, TapPlace* taps, const E* filter, int64_t panel,
                              int64_t end, const T* bias, T* sums) {
    int64_t width = job.w.positions, tile = quotient_up(width, quotient_up(width, kRows));
    bool skips = job.h.padding == Padding::zeros && !*job.special;
    bool whole = channels == blocks.depth;
    if (channel + channels < blocks.depth) bias = nullptr;
    // Neighbouring taps of a row lie beside each other: they are one run.
    int64_t span = job.w.offset[job.w.taps - 1] - job.w.offset[0];
    int64_t together = whole && span == job.w.taps - 1 ? job.w.taps : 1;
    bool cut = skips && together == 1 && row_cost(job.w, tile, true) < row_cost(job.w, tile, false);
    int64_t part = blocks.depth * blocks.taps * kColumns<T>;  // of a panel of the filter
    filter += channel * blocks.taps * kColumns<T>;
    for (int64_t n = 0; n < place.samples; ++n)
      for (int64_t i = 0; i < place.rows; ++i) {
        int64_t row = place.row + i;
        const E* line = padded + (n * block.positions() + i * job.h.step * block.width) * channels;
        // Sums that are whole are stored at once, and their place is used again.
        auto row_of = [&](int64_t p) {
          return whole ? sums + (p - panel) * width * kColumns<T>
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
            bool wide = columns_of(job, place.panel + p) > lanes;
            auto multiply = [&](auto* to, int64_t step) {
              using C = std::remove_reference_t<decltype(*to)>;
              (wide ? direct_tile_of<E, C, 2>
                    : direct_tile_of<E, C, 1>)(some, taps, count, together * channels,
                                               line + j * job.w.step * channels,
                                               job.w.step * channels, filter + p * part, to, step,
                                               channel > 0,
                                               bias ? bias + p * kColumns<T> : nullptr);
            };
            if (in_place(job, blocks, place.panel + p)) {
              int64_t step = job.w.position_step * job.result.w;
              multiply(static_cast<S*>(job.result.data) + (place.sample + n) * job.result.n +
                           job.h.position[row] * job.result.h + job.w.position[0] * job.result.w +
                           j * step + place.group * job.rows + (place.panel + p) * kColumns<T>,
                       step);
            } else {
              multiply(row_of(p) + j * kColumns<T>, kColumns<T>);
            }
          }
        }
        for (int64_t p = panel; p < end && whole; ++p)
          store_row(job, blocks, place, n, i, p, row_of(p));
      }
  }

  static void store_row(const CorrelateJob& job, const Blocks& blocks, const Place& place,
                        int64_t n, int64_t i, int64_t panel, const T* sums) {
    const View& out = job.result;
    panel += place.panel;
    if (in_place(job, blocks, panel)) return;
    int64_t columns = columns_of(job, panel), width = job.w.positions;
    S* to = static_cast<S*>(out.data) + (place.sample + n) * out.n +
            (place.group * job.rows + panel * kColumns<T>)*out.c +
            job.h.position[place.row + i] * out.h;
    if (out.w == 1 && job.w.position_step == 1)
      return store_turned(sums, columns, width, to + job.w.position[0], out.c);
    for (int64_t j = 0; j < width; ++j, sums += kColumns<T>) {
      S* at = to + job.w.position[j] * out.w;
      for (int64_t k = 0; k < columns; k += lanes)
        if (int64_t some = least(lanes, columns - k); out.c == 1)
          store_some<T>(load<T>(sums + k), some, at + k);
        else
          for (int64_t x = k; x < k + some; ++x) narrow(sums[x], at[x * out.c]);
    }
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
