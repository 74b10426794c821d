// correlate with each source element copied at most once: what a block of output rows needs of some
// channels lies in a padded block, channels innermost, and every tap is a shift of it:
//
//     result[i, j][k] = Σ_tap Σ_c block[i·step + r][j·step + s][c] · filter[tap][c][k]
//
// Vectors run along the result's channels, a tile is a piece of an output row, and the sums of all
// taps of a chunk of channels stay in registers. Against packed patches (correlate.inl) the copy is
// smaller by the number of taps, so that it may turn any layout; taps that meet only the padding's
// zeros are left out, unless the filter has a NaN or Inf to meet them. Where no tap meets the
// padding and channels are neighbours the source is a block itself: tiles read it where it lies,
// and the first of a piece asks for what lies further on. Where pairs of numbers are multiplied and
// there are one or three channels, a pair may span two pixels: the taps of a row are one run of
// numbers. A filter that serves one task is packed by it, panel for panel, and never goes to
// memory. Scratch a task: the block, the sums that cannot lie in the result itself, its panels.

constexpr int64_t kDirectDepth = 576;       // (tap, channel) of a chunk, about
constexpr int64_t kDirectBytes = 1 << 18;   // of a padded block and of sums: both stay in the L2
constexpr int64_t kDirectSharing = 128;     // positions that share a chunk of the filter, at least
constexpr int64_t kDirectFilter = 1 << 15;  // elements of a filter's panels that share a tile
constexpr int64_t kDirectTurned = 1 << 14;  // bytes of sums that are turned together, at most

template <class S>
struct DirectBlocks {
  using E = typename Element<S>::type;
  using T = typename Sum<E>::type;
  bool folds;                          // the taps of a row into the channels
  int64_t taps, depth, channel_block;  // of a panel, the last two in elements
  int64_t panels, panel_block, row_block, sample_block;
  bool lies_as_block;  // whether the source needs no copy

  explicit DirectBlocks(const CorrelateJob& job)
      : folds(folds_taps(job)),
        taps(folds ? job.h.taps : job.h.taps * job.w.taps),
        depth(elements<E>(folds ? job.w.taps * job.depth : job.depth)) {
    constexpr int64_t lanes = Vector<T>::lanes;
    int64_t wanted =
        least(depth, least<int64_t>(256, round_up(quotient_up(kDirectDepth, taps), lanes)));
    // Where taps reach far fewer, so that there is room for as many rows as should share a filter.
    row_block = least(job.h.positions, quotient_up(kDirectSharing, job.w.positions));
    while (wanted > lanes && block_bytes(job, wanted) > kDirectBytes)
      wanted = round_up(wanted / 2, lanes);
    if (folds) wanted = depth;
    channel_block = quotient_up(depth, quotient_up(depth, wanted));
    if (channel_block < depth) channel_block = round_up(channel_block, lanes);
    panels = quotient_up(job.rows, kColumns<T>);
    panel_block = least(panels, quotient_up(256, kColumns<T>));
    panel_block = quotient_up(panels, quotient_up(panels, panel_block));

    lies_as_block = is_block<S, E>(job.source, job.depth, panels, job.h, job.w);
    int64_t sums = job.w.positions * panel_block * kColumns<T> * sizeof(T);
    row_block = least(job.h.positions, 1 + kDirectBytes / sums);
    while (row_block > 1 && block_bytes(job, channel_block) > kDirectBytes) --row_block;
    row_block = quotient_up(job.h.positions, row_blocks(job));
    sample_block = 1;
    if (row_block == job.h.positions)
      sample_block =
          least(job.batch, 1 + kDirectBytes / (sums * row_block + block_bytes(job, channel_block)));
    // Few tasks would leave threads idle: cut a small result finer.
    while (tasks(job) < 8 && sample_block > 1) sample_block = quotient_up(sample_block, 2);
    while (tasks(job) < 8 && panel_block > 1) panel_block = quotient_up(panel_block, 2);
    while (tasks(job) < 8 && row_block > 4) row_block = quotient_up(row_block, 2);
  }
  static bool folds_taps(const CorrelateJob& job) {
    if (kNumbers<E> == 1 || job.depth % 2 == 0 || job.depth >= kFewLines) return false;
    return job.w.taps > 1 && std::abs(job.w.offset[1] - job.w.offset[0]) == 1 &&
           elements<E>(job.w.taps * job.depth) * job.h.taps <= kDirectDepth;
  }
  int64_t pixel(const CorrelateJob& job, int64_t channels) const {  // numbers of a block's
    return folds ? job.depth : channels * kNumbers<E>;
  }
  // Of the block's rows that taps meet: where these are far apart, few.
  int64_t block_bytes(const CorrelateJob& job, int64_t channels) const {
    PaddedBlock block(job.h, job.w, row_block);
    int64_t rows = least(block.height, job.h.taps * row_block);
    return area(rows, block.width) * pixel(job, channels) * sizeof(Number<E>);
  }
  int64_t copied_size(const CorrelateJob& job) const {  // of a task's samples, in elements
    int64_t block = PaddedBlock(job.h, job.w, row_block).positions() * pixel(job, channel_block);
    return lies_as_block ? 0 : elements<E>(sample_block * block + folds);
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
  bool keeps_filter(const CorrelateJob& job) const {
    return sample_blocks(job) * row_blocks(job) > 1;
  }
  // Panels that share a tile.
  int64_t panels_together() const {
    int64_t panel = channel_block * taps * kColumns<T>;
    return least(panel_block, most<int64_t>(1, kDirectFilter / panel));
  }
};

template <class S>
struct Direct {
  using E = typename Element<S>::type;
  using T = typename Sum<E>::type;
  using V = typename Vector<T>::type;
  using Blocks = DirectBlocks<S>;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static double cost(const CorrelateJob& job) {
    if (job.components != 1 || job.depth == 0 || job.batch == 0) return kNever;
    int64_t taps = job.h.taps * job.w.taps, positions = job.h.positions * job.w.positions;
    if (taps * positions * job.rows == 0) return kNever;
    if (PaddedBlock(job.h, job.w, 1).positions() * least<int64_t>(job.depth, 64) > 1 << 18)
      return kNever;
    double vectors = quotient_up(job.rows, lanes), depth = elements<E>(job.depth);
    if (Blocks::folds_taps(job)) depth = 1.0 * elements<E>(job.w.taps * job.depth) / job.w.taps;
    double loads = job.h.positions * quotient_up(job.w.positions, kRows) * taps;
    double products = depth * vectors * (1.05 * terms_of(job.h) * terms_of(job.w) + 2.4 * loads);
    bool few = Blocks::folds_taps(job) || elements<E>(job.depth) < kFewLines;
    double filling = (job.source.c == 1 ? 4.5 : 0.8 * lanes) * quotient_up(job.depth, lanes);
    if (job.source.c != 1 && few) filling = 1;
    if (job.source.c == 1 && job.depth % lanes != 0 && job.groups > 1) filling += 15;
    PaddedBlock block(job.h, job.w, job.h.positions);
    filling *= area(least(block.height, job.h.taps * job.h.positions), block.width);
    bool whole = job.result.c == 1 && job.rows % lanes == 0;  // vectors
    bool apart = job.result.c != 1 && job.w.position_step > 1;
    double storing = vectors * positions * (whole ? 12 : apart ? 3.5 * lanes : 36);
    if (job.result.c != 1 && !apart) {  // turned by squares, whose lines may meet in one cache set
      bool meet = job.result.c * static_cast<int64_t>(sizeof(S)) % 4096 == 0;
      int64_t together = rows_turned(job, quotient_up(job.rows, kColumns<T>));
      double squares = 1.0 * quotient_up(together * job.w.positions, lanes) / together;
      storing = vectors * (5.0 * positions + job.h.positions * squares * lanes * (meet ? 31 : 17));
    }
    return job.groups * (products + filling + storing + 20 * job.h.positions * taps);
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    if (!blocks.keeps_filter(job)) return 0;
    return job.segments * job.groups * quotient_up(blocks.panels, kPackedPanels) *
           quotient_up(blocks.depth, blocks.channel_block);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    Blocks blocks(job);
    if (!blocks.keeps_filter(job)) return 0;
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
    int64_t unit = task / quotient_up(blocks.panels, kPackedPanels);
    int64_t size = kColumns<T> * blocks.depth * blocks.taps;
    pack_panels(job, filter, unit, panel, kPackedPanels, channel, blocks.channel_block,
                static_cast<E*>(packed) + (unit * blocks.panels + panel) * size +
                    channel * blocks.taps * kColumns<T>,
                size);
  }

  static int64_t tasks(const CorrelateJob& job) { return Blocks(job).tasks(job); }

  static int64_t scratch(const CorrelateJob& job) {
    Blocks blocks(job);
    int64_t sums = blocks.row_block * job.w.positions * blocks.panel_block * kColumns<T>;
    return blocks.copied_size(job) * sizeof(E) + blocks.sample_block * sums * sizeof(T) +
           (lanes + blocks.panel_block) * kColumns<T> * sizeof(T) + blocks.taps * sizeof(TapPlace) +
           own_filter_size(job) * sizeof(E);
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
    E* own_filter = static_cast<E*>(scratch);
    TapPlace* taps = reinterpret_cast<TapPlace*>(own_filter + own_filter_size(job));
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
    T* sums = reinterpret_cast<T*>(padded + blocks.copied_size(job));
    int64_t line = blocks.taps * kColumns<T>;
    const E* filter = static_cast<const E*>(job.filter) +
                      (task * blocks.panels + place.panel) * blocks.depth * line;
    for (int64_t channel = 0; channel < blocks.depth; channel += blocks.channel_block) {
      int64_t channels = least(blocks.channel_block, blocks.depth - channel);
      Number<E>* numbers = reinterpret_cast<Number<E>*>(padded);
      int64_t pixel = blocks.pixel(job, channels);
      SourceBlock from{numbers, block.positions() * pixel, block.width * pixel, pixel};
      if (blocks.lies_as_block) {
        const View& view = job.source;
        const S* at = static_cast<const S*>(view.data) + place.sample * view.n +
                      (job.h.base[place.row] + block.low_h) * view.h +
                      (job.w.base[0] + block.low_w) * view.w + place.group * job.depth;
        from = {reinterpret_cast<const Number<E>*>(at) + channel * kNumbers<E>, view.n, view.h,
                view.w};
      }
      for (int64_t n = 0; n < place.samples && !blocks.lies_as_block; ++n)
        fill_block(job, block, place.group, place.sample + n, place.row, channel, channels,
                   numbers + n * from.sample);
      int64_t together = blocks.panels_together();
      for (int64_t panel = 0; panel < panels; panel += together) {
        int64_t count = least(together, panels - panel);
        FilterPanels with;
        if (blocks.keeps_filter(job))
          with = {filter + (panel * blocks.depth + channel) * line, blocks.depth * line,
                  *job.special};
        else
          with = {own_filter, channels * line,
                  pack_panels(job, job.unpacked, task, place.panel + panel, count, channel,
                              channels, own_filter, channels * line)};
        multiply_panels(job, blocks, place, block, channel, channels, from, taps, with, panel,
                        panel + count, bias, sums);
      }
    }
    if (blocks.channel_block == blocks.depth) return;
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t n = 0; n < place.samples; ++n)
        for (int64_t i = 0, some, together = rows_turned(job, 1); i < place.rows; i += some) {
          some = least(together, place.rows - i);
          store_rows(job, blocks, place, n, i, some, panel,
                     sums + panel * place.size(job) +
                         (n * place.rows + i) * job.w.positions * kColumns<T>);
        }
  }

 private:
  struct SourceBlock {  // a block, copied or where it lies, and its steps in numbers
    const Number<E>* at;
    int64_t sample, row, column;
  };
  struct FilterPanels {  // of a chunk of channels
    const E* data;
    int64_t size;  // from panel to panel
    bool special;  // whether there may be a NaN or Inf
  };
  // A task's own, of all panels that share a tile.
  static int64_t own_filter_size(const CorrelateJob& job) {
    Blocks blocks(job);
    if (blocks.keeps_filter(job)) return 0;
    return blocks.panels_together() * blocks.channel_block * blocks.taps * kColumns<T>;
  }
  // At most `count` panels of (segment, group) `unit`, of at most so many channels; a panel is
  // [tap][channel][column]. Says whether they have a NaN or Inf.
  static bool pack_panels(const CorrelateJob& job, const FilterView& filter, int64_t unit,
                          int64_t panel, int64_t count, int64_t channel, int64_t channels, E* to,
                          int64_t size) {
    int64_t first = panel * kColumns<T>;
    bool folded = Blocks::folds_taps(job);
    FilterChunk<S, E> chunk{static_cast<const S*>(filter.data) +
                                unit / job.groups * filter.segment +
                                unit % job.groups * filter.group + first * filter.row +
                                channel * kNumbers<E> * filter.depth,
                            filter,
                            job.h,
                            job.w,
                            least(count * kColumns<T>, job.rows - first),
                            least(channels * kNumbers<E>, job.depth - channel * kNumbers<E>),
                            to,
                            size,
                            folded ? channels : least(channels, elements<E>(job.depth) - channel),
                            folded};
    bool special = chunk.pack();
    mark(job.special, special);
    return special;
  }

  struct Place {  // what a task owns
    int64_t group, sample, samples, row, rows, panel;
    int64_t size(const CorrelateJob& job) const {  // of a panel's sums
      return samples * rows * job.w.positions * kColumns<T>;
    }
  };

  // Some channels of one sample.
  static void fill_block(const CorrelateJob& job, const PaddedBlock& block, int64_t group,
                         int64_t sample, int64_t row, int64_t channel, int64_t channels,
                         Number<E>* to) {
    int64_t first = channel * kNumbers<E>;
    const S* from = static_cast<const S*>(job.source.data) + sample * job.source.n +
                    (group * job.depth + first) * job.source.c;
    if (Blocks::folds_taps(job))
      fill_channels(job, block, row, from, job.depth, job.depth, to, job.depth);
    else
      fill_channels(job, block, row, from, job.depth - first, channels, reinterpret_cast<E*>(to),
                    channels);
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
                              const SourceBlock& from, TapPlace* taps, const FilterPanels& filter,
                              int64_t panel, int64_t end, const T* bias, T* sums) {
    int64_t width = job.w.positions, tile = quotient_up(width, quotient_up(width, kRows));
    bool skips = job.h.padding == Padding::zeros && !filter.special;
    int64_t step_of_a = job.w.step * from.column;
    bool whole = channels == blocks.depth, last = channel + channels == blocks.depth;
    if (!last) bias = nullptr;
    // Neighbouring taps of a row lie beside each other: they are one run.
    int64_t span = job.w.offset[job.w.taps - 1] - job.w.offset[0];
    bool beside = whole && span == job.w.taps - 1 && from.column == channels * kNumbers<E>;
    int64_t together = beside || blocks.folds ? job.w.taps : 1;
    int64_t run = blocks.folds ? job.w.taps * job.depth : together * channels * kNumbers<E>;
    int64_t filter_row = blocks.folds ? channels : job.w.taps * channels;
    bool cut = skips && together == 1 && row_cost(job.w, tile, true) < row_cost(job.w, tile, false);
    int64_t turned = least(place.rows, rows_turned(job, end - panel));
    for (int64_t n = 0; n < place.samples; ++n)
      for (int64_t i = 0; i < place.rows; ++i) {
        int64_t row = place.row + i;
        const Number<E>* line = from.at + n * from.sample + i * job.h.step * from.row;
        // Sums that are whole are stored soon, and their place is used again.
        auto row_of = [&](int64_t p) {
          int64_t at =
              whole ? (p - panel) * turned + i % turned : (p * place.samples + n) * place.rows + i;
          return sums + at * width * kColumns<T>;
        };
        for (int64_t p = panel; p < end && last && job.result.c != 1; ++p)
          prefetch_strip<true>(1, width * job.w.position_step, columns_of(job, place.panel + p),
                               row_of_result(job, place, n, i, place.panel + p), job.result);
        for (int64_t j = 0, some; j < width; j += some) {
          int64_t count = 0;
          some = piece(job.w, j, tile, cut);
          for (int64_t r = 0; r < job.h.taps; ++r)
            for (int64_t s = 0; s < job.w.taps; s += together) {
              auto [top, bottom] = job.h.inner[r];
              auto [left, right] = job.w.inner[s];
              if (skips && (row < top || row >= bottom)) continue;
              if (skips && together == 1 && (j + some <= left || j >= right)) continue;
              int64_t column = together == 1 ? job.w.offset[s] - block.low_w : 0;
              int64_t at = (job.h.offset[r] - block.low_h) * from.row + column * from.column;
              taps[count++] = {at, (r * filter_row + s * channels) * kColumns<T>};
            }
          const Number<E>* a = line + j * step_of_a;
          const Number<E>* later = a + (blocks.lies_as_block ? kBytesAhead / sizeof(Number<E>) : 0);
          for (int64_t p = panel; p < end; ++p) {
            bool wide = columns_of(job, place.panel + p) > lanes;
            auto multiply = [&](auto* to, int64_t step) {
              using C = std::remove_reference_t<decltype(*to)>;
              (wide ? direct_tile_of<E, C, 2>
                    : direct_tile_of<E, C, 1>)(some, taps, count, run, a, step_of_a,
                                               p == panel ? later : a,
                                               filter.data + (p - panel) * filter.size, to, step,
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
        int64_t before = i % turned;  // rows that wait for this one
        if (!whole || (before + 1 < turned && i + 1 < place.rows)) continue;
        for (int64_t p = panel; p < end; ++p)
          store_rows(job, blocks, place, n, i - before, before + 1, p,
                     row_of(p) - before * width * kColumns<T>);
      }
  }

  static S* row_of_result(const CorrelateJob& job, const Place& place, int64_t n, int64_t i,
                          int64_t panel) {
    const View& out = job.result;
    return static_cast<S*>(out.data) + (place.sample + n) * out.n +
           (place.group * job.rows + panel * kColumns<T>)*out.c +
           job.h.position[place.row + i] * out.h;
  }

  // Rows of the result that follow each other in memory, of so many panels: they are turned as one,
  // by squares of which only the last overlaps another.
  static int64_t rows_turned(const CorrelateJob& job, int64_t panels) {
    const View& out = job.result;
    int64_t row = job.w.positions * kColumns<T> * sizeof(T);
    bool one = out.c != 1 && job.h.position_step * out.h == job.w.positions * out.w &&
               job.w.position_step == 1;
    return one ? most<int64_t>(1, least(job.h.positions, kDirectTurned / (row * panels))) : 1;
  }

  static void store_rows(const CorrelateJob& job, const Blocks& blocks, const Place& place,
                         int64_t n, int64_t i, int64_t rows, int64_t panel, const T* sums) {
    const View& out = job.result;
    panel += place.panel;
    if (in_place(job, blocks, panel)) return;
    int64_t columns = columns_of(job, panel), positions = rows * job.w.positions;
    S* to = row_of_result(job, place, n, i, panel);
    if (out.c != 1)
      return store_turned(sums, columns, positions, to + job.w.position[0] * out.w, out.c,
                          job.w.position_step * out.w);
    for (int64_t j = 0; j < positions; ++j, sums += kColumns<T>)
      for (int64_t k = 0; k < columns; k += lanes)
        store_some<T>(load<T>(sums + k), least(lanes, columns - k),
                      to + job.w.position[j] * out.w + k);
  }

  // to[column·stride + position·step] = sums[position][column], line by line: where lines are a
  // power of two apart, few of them fit the first-level cache.
  static void store_turned(const T* sums, int64_t columns, int64_t positions, S* to, int64_t stride,
                           int64_t step) {
    for (int64_t k = 0; k < columns; k += lanes) {
      int64_t rows = least(lanes, columns - k);
      S* line = to + k * stride;
      if (step == 1)
        store_transposed<1>(sums + k, kColumns<T>, positions, rows, line, stride);
      else if (step == 2)
        store_transposed<2>(sums + k, kColumns<T>, positions, rows, line, stride);
      else
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < positions; ++j)
            narrow(sums[j * kColumns<T> + k + i], line[i * stride + j * step]);
    }
  }
};
