// correlate_weight over the padded block: each input element is copied once for all taps, or read
// where it lies if no tap meets the padding, each gradient once for a chunk of channels:
//
//     result[(tap, c)][k] = Σ_(i, j) block[i·step + r][j·step + s][c] · grads[i, j][k]
//
// Vectors run along the filters; a tile is a few neighbours (channels, and with few of them the
// taps of a row too) whose sums stay in registers over a chain of output rows. A task owns a part
// of the sum for a chunk of channels and some panels of filters; the parts follow from the shape
// alone and are added in order by a second pass. Scratch a task: the block, its gradients, the
// sums.
//
// Pairs (elements.inl) are of rows: an element of the gradients is of rows i and i + 1, one of the
// block of rows v and v + step, so that every tap stays a shift. A last row without a second is a
// block of its own, where no tap's pair shows what only another tap meets.

constexpr int64_t kWeightRows = 576;       // (tap, channel) of a chunk, about
constexpr int64_t kWeightBytes = 5 << 16;  // of sums, which stay in the L2
constexpr int64_t kWeightPanel = 1 << 19;  // of a panel's, so that the input needs no copy
constexpr int64_t kWeightChain = 128;      // positions added one after the other, about
constexpr int64_t kWeightPart = 512;       // positions of a part, at least
constexpr int64_t kWeightSkip = 16;        // products that cost as much as to look at a gradient

// A block of the input, copied or where it lies: how far its rows and columns are apart, and how
// far ahead the next one lies. Tiles ask for that, a line a step: so much the memory has time for.
template <class E>
struct InputBlock {
  const E* at;
  int64_t row, column, ahead;
};

// Gradients of a panel: elements of a position are neighbours, positions `step` apart.
template <class E>
struct PanelGrads {
  const E* at;
  int64_t line, step, ahead;

  PanelGrads from(int64_t row, int64_t column) const {
    return {at + row * line + column * step, line, step, ahead};
  }
};

template <class E, int ROWS, int VECTORS>
void weight_tile(int64_t rows, int64_t columns, const E* a, int64_t line, int64_t step,
                 int64_t ahead, PanelGrads<E> b, typename Sum<E>::type* c) {
  using T = typename Sum<E>::type;
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  constexpr bool asks = kFillsLines<E> && ROWS * VECTORS > kRows;  // else loads take all the time
  V sum[ROWS][VECTORS] = {};
  for (int64_t i = 0; i < rows; ++i, a += line, b.at += b.line) {
    const E *at = a, *with = b.at;
    for (int64_t j = 0; j < columns; ++j, at += step, with += b.step) {
      typename Vector<E>::type grads[VECTORS];
      for (int v = 0; v < VECTORS; ++v) grads[v] = load<E>(with + v * lanes);
      // What the next tile meets here.
      for (int m = ROWS; kFillsLines<E> && m < 2 * ROWS; m += kLine<E>) __builtin_prefetch(at + m);
      if (asks) {
        __builtin_prefetch(at + ahead, 0, 2);
        __builtin_prefetch(with + b.ahead, 0, 2);
      }
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m)
        for (int v = 0; v < VECTORS; ++v) sum[m][v] = multiply_add(at[m], grads[v], sum[m][v]);
    }
  }
  for_sums(sum, [&](V& value, int m, int v) {
    T* to = c + m * kColumns<T> + v * lanes;
    store<T>(load<T>(to) + value, to);
  });
}

template <class E, int VECTORS, int ROWS = kRows>
void weight_tile_of(int64_t some, int64_t rows, int64_t columns, const E* a, int64_t line,
                    int64_t step, int64_t ahead, PanelGrads<E> b, typename Sum<E>::type* c) {
  if constexpr (ROWS > 1)
    if (some < ROWS)
      return weight_tile_of<E, VECTORS, ROWS - 1>(some, rows, columns, a, line, step, ahead, b, c);
  weight_tile<E, ROWS, VECTORS>(rows, columns, a, line, step, ahead, b, c);
}

template <class S>
struct DirectWeightBlocks {
  using E = typename Element<S>::type;
  using T = typename Sum<E>::type;
  int64_t taps, channel_block, panels, panel_block;
  int64_t rows, row_block;  // those that fill elements, of a block
  int64_t chain;            // in elements
  bool lies_as_block;       // whether the input needs no copy

  explicit DirectWeightBlocks(const WeightJob& job)
      : taps(job.h.taps * job.w.taps), rows(job.h.positions / kNumbers<E> * kNumbers<E>) {
    constexpr int64_t lanes = Vector<T>::lanes;
    panels = quotient_up(job.filters, kColumns<T>);
    bool in_place =
        kNumbers<E> == 1 && is_block<S, E>(job.input, job.channels, panels, job.h, job.w);
    int64_t line = taps * kColumns<T> * sizeof(T);  // of sums
    int64_t wanted = least<int64_t>(256, round_up(quotient_up(kWeightRows, taps), lanes));
    if (in_place && job.channels * line <= kWeightPanel) wanted = most(wanted, job.channels);
    // Where taps reach far fewer, so that there is room for the rows of a chain.
    chain = quotient_up(kWeightChain, job.w.positions);
    int64_t chained = block_size(job, least(rows, chain * kNumbers<E>)) * sizeof(E);
    while (!in_place && wanted > lanes && chained * least(wanted, job.channels) > kDirectBytes)
      wanted = round_up(wanted / 2, lanes);
    channel_block = quotient_up(job.channels, quotient_up(job.channels, wanted));
    if (channel_block < job.channels) channel_block = round_up(channel_block, lanes);
    lies_as_block = in_place && channel_block == job.channels;
    int64_t sums = channel_block * line;
    panel_block = sums < kWeightBytes ? least(panels, kWeightBytes / sums) : 1;
    if (lies_as_block && panel_block < panels)  // a task more copies nothing, and spares adding
      while (panel_block > 1 && job.groups * quotient_up(panels, panel_block) < 16) --panel_block;
    panel_block = quotient_up(panels, quotient_up(panels, panel_block));
    row_block = most(kNumbers<E>, least(rows, 4 * chain * kNumbers<E>));
    // Without a halo to copy again it pays that gradients and the block asked for fit the L2 too.
    auto bytes = [&](int64_t some) {
      int64_t grads = lies_as_block ? some * job.w.positions * panel_block * kColumns<T> : 0;
      return (block_size(job, some) * channel_block + grads) * sizeof(E);
    };
    while (row_block > (lies_as_block ? least(rows, chain) : kNumbers<E>) &&
           bytes(row_block) > (lies_as_block ? kDirectBytes / 2 : kDirectBytes))
      row_block -= kNumbers<E>;
    if (rows > 0)
      row_block = round_up(quotient_up(rows, quotient_up(rows, row_block)), kNumbers<E>);
  }
  // A block of `count` rows; each of its own stands for a pair's second row too.
  static PaddedBlock block(const WeightJob& job, int64_t count) {
    return PaddedBlock(job.h, job.w, most<int64_t>(1, count - kNumbers<E> + 1));
  }
  // Positions of its rows that taps meet: where these are far apart, few.
  int64_t block_size(const WeightJob& job, int64_t count) const {
    PaddedBlock block = DirectWeightBlocks::block(job, count);
    return area(least(block.height, job.h.taps * count), block.width);
  }
  int64_t row_blocks(const WeightJob& job) const {
    return quotient_up(rows, row_block) + (job.h.positions - rows);
  }
  int64_t row(int64_t index) const { return least(index * row_block, rows); }
  int64_t count(int64_t row) const { return row < rows ? least(row_block, rows - row) : 1; }
  int64_t channel_blocks(const WeightJob& job) const {
    return quotient_up(job.channels, channel_block);
  }
  int64_t panel_blocks() const { return quotient_up(panels, panel_block); }
  int64_t units(const WeightJob& job) const { return job.batch * row_blocks(job); }
  int64_t owners(const WeightJob& job) const {
    return job.segments * job.groups * channel_blocks(job) * panel_blocks();
  }
  int64_t size(const WeightJob& job) const {  // of one task's sums, at most
    return panel_block * channel_block * taps * kColumns<T>;
  }
};

template <class S>
struct DirectWeight {
  using E = typename Element<S>::type;
  using T = typename Sum<E>::type;
  using V = typename Vector<T>::type;
  using Blocks = DirectWeightBlocks<S>;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static double cost(const WeightJob& job) {
    if (job.components != 1 || job.filters == 0 || job.channels == 0 || job.batch == 0)
      return kNever;
    int64_t taps = job.h.taps * job.w.taps, positions = job.h.positions * job.w.positions;
    if (taps * positions == 0) return kNever;
    if (PaddedBlock(job.h, job.w, 1).positions() * least<int64_t>(job.channels, 64) > 1 << 18)
      return kNever;
    double vectors = quotient_up(job.filters, lanes), rows = elements<E>(job.h.positions);
    double products = terms_of(job.h) * terms_of(job.w) * job.channels / kNumbers<E>;
    bool beside = job.w.offset[job.w.taps - 1] - job.w.offset[0] == job.w.taps - 1;
    double tiles = beside ? quotient_up(job.w.taps * job.channels, kRows)
                          : job.w.taps * quotient_up(job.channels, kRows);
    double loads = rows * job.w.positions * job.h.taps * tiles;
    double chains =
        quotient_up(elements<E>(job.h.positions), quotient_up(kWeightChain, job.w.positions));
    double sums = chains * taps * job.channels;
    PaddedBlock block(job.h, job.w, job.h.positions);
    double filling = (job.input.c == 1 ? 2.5 : 0.7 * lanes) * quotient_up(job.channels, lanes);
    if (job.input.c != 1 && job.channels < kFewLines) filling = 0.7;
    Blocks blocks(job);
    double line = 100 * kNumbers<E> * kNumbers<E>;
    filling = block.positions() * filling + line * block.height * blocks.channel_blocks(job);
    if (!blocks.lies_as_block) filling *= blocks.panel_blocks();
    double grads = job.grad.c != 1 ? 17 : job.filters % lanes != 0 ? 18 : 0;
    return job.groups * job.batch *
           (vectors * (0.9 * products + 3.3 * loads + 13 * sums + grads * positions) + filling);
  }

  // As many parts as make 16 tasks, if each is worth adding its sums.
  static int64_t splits(const WeightJob& job) {
    Blocks blocks(job);
    int64_t owners = blocks.owners(job);
    if (owners == 0) return 1;
    int64_t worth = job.batch * job.h.positions * job.w.positions / kWeightPart;
    return most<int64_t>(1, least(least(blocks.units(job), worth), quotient_up(16, owners)));
  }
  static int64_t partial_size(const WeightJob& job) {
    return job.splits == 1 ? 0 : tasks(job) * Blocks(job).size(job) * sizeof(T);
  }
  static int64_t tasks(const WeightJob& job) { return job.splits * Blocks(job).owners(job); }

  static int64_t scratch(const WeightJob& job) {
    Blocks blocks(job);
    int64_t padded = Blocks::block(job, blocks.row_block).positions() * blocks.channel_block;
    return (padded + kRows + grads_size(job, blocks)) * sizeof(E) + blocks.size(job) * sizeof(T);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    int64_t owner = task / job.splits, split = task % job.splits;
    WeightPlace place(job, blocks, owner);
    T* sums = static_cast<T*>(scratch);
    E* grads = reinterpret_cast<E*>(sums + blocks.size(job));
    E* padded = grads + grads_size(job, blocks);
    if (job.splits > 1) sums = static_cast<T*>(job.partial) + task * blocks.size(job);
    clear(sums, 1, place.panels * place.channels * blocks.taps * kColumns<T>);
    const S* input = static_cast<const S*>(job.input.data) +
                     (place.group * job.channels + place.channel) * job.input.c;
    const S* grad = static_cast<const S*>(job.grad.data) + place.group * job.filters * job.grad.c;
    const S* input_end = end_of<S>(job.input, job.segments * job.batch, job.groups * job.channels,
                                   job.h.limit, job.w.limit);
    const S* grad_end = end_of<S>(job.grad, job.segments * job.batch, job.groups * job.filters,
                                  job.h.positions, job.w.positions);
    int64_t units = blocks.units(job);
    for (int64_t unit = units * split / job.splits; unit < units * (split + 1) / job.splits;
         ++unit) {
      int64_t n = place.segment * job.batch + unit / blocks.row_blocks(job);
      int64_t row = blocks.row(unit % blocks.row_blocks(job)), count = blocks.count(row);
      int64_t pair = count > 1 ? kNumbers<E> : 1;  // rows of an element
      PaddedBlock block = Blocks::block(job, count);
      const S* sample = input + n * job.input.n;
      auto input_row = [&](int64_t v) {
        if (!block.is_read(job.h, v - job.h.base[row], pair * job.h.step))
          return Source<S, E>::unread();
        int64_t second = pair > 1 ? source_or_none(job.h, v + job.h.step) : -1;
        return Source<S, E>::lines(sample, job.input.h, source_or_none(job.h, v), second);
      };
      InputBlock<E> in{padded, block.width * place.channels, place.channels, 0};
      if constexpr (std::is_same_v<S, E>)
        if (blocks.lies_as_block)
          in = {sample + (job.h.base[row] + block.low_h) * job.input.h +
                    (job.w.base[0] + block.low_w) * job.input.w,
                job.input.h, job.input.w, count * job.h.step * job.input.h};
      if (in.at == padded)
        fill_padded(block, job.h.base[row] + block.low_h, input_row, job.input.c, job.input.w,
                    job.w, place.channels, padded, place.channels, input_end);
      int64_t ahead = in.ahead;
      for (int64_t panel = 0; panel < place.panels; ++panel) {
        in.ahead = panel * kLine<E> < kRows ? ahead + panel * kLine<E> : 0;
        int64_t columns = columns_of(job, place.panel + panel);
        const S* from = grad + n * job.grad.n + row * job.grad.h +
                        (place.panel + panel) * kColumns<T> * job.grad.c;
        add_products(job, blocks, place, block, in, row, count / pair, pair,
                     panel_grads(job, columns, count / pair, pair, from, grads, grad_end), columns,
                     sums + panel * place.channels * blocks.taps * kColumns<T>);
      }
    }
    if (job.splits == 1) store_sums<S>(job, place, place.channels, sums);
  }

  static int64_t reduce_tasks(const WeightJob& job) {
    return job.splits == 1 ? 0 : Blocks(job).owners(job);
  }

  static void reduce(const WeightJob& job, int64_t owner) {
    Blocks blocks(job);
    WeightPlace place(job, blocks, owner);
    T* sum = static_cast<T*>(job.partial) + owner * job.splits * blocks.size(job);
    add_parts(sum, job.splits, blocks.size(job),
              place.panels * place.channels * blocks.taps * kColumns<T>);
    store_sums<S>(job, place, place.channels, sum);
  }

 private:
  static int64_t columns_of(const WeightJob& job, int64_t panel) {
    return least(kColumns<T>, job.filters - panel * kColumns<T>);
  }

  static int64_t grads_size(const WeightJob& job, const Blocks& blocks) {  // of one panel
    return elements<E>(blocks.row_block) * job.w.positions * kColumns<E>;
  }

  // A panel's gradients of some rows: where they lie, if whole vectors of them do, or copied to
  // [position][column]; behind the columns lie zeros. `rows` and positions are elements, of `pair`
  // rows each.
  static PanelGrads<E> panel_grads(const WeightJob& job, int64_t columns, int64_t rows,
                                   int64_t pair, const S* grad, E* to, const S* end) {
    if constexpr (std::is_same_v<S, E>)
      if (job.grad.c == 1 && columns % lanes == 0)
        return {grad, job.grad.h, job.grad.w, rows * job.grad.h};
    int64_t width = job.w.positions;
    PanelGrads<E> packed{to, width * kColumns<T>, kColumns<T>, 0};
    if (columns % lanes != 0) clear(to, 1, rows * width * kColumns<T>);
    if (pair == 1 && job.grad.h == width * job.grad.w) width *= rows, rows = 1;
    for (int64_t i = 0; i < rows; ++i, to += width * kColumns<T>) {
      Source<S, E> row =
          Source<S, E>::lines(grad, job.grad.h, i * pair, pair > 1 ? i * pair + 1 : -1);
      if (job.grad.c != 1)
        copy_turned(row, job.grad.c, job.grad.w, columns, width, to, kColumns<T>, end);
      else
        for (int64_t j = 0; j < width; ++j)
          copy(to + j * kColumns<T>, 1, row + j * job.grad.w, 1, columns);
    }
    return packed;
  }

  // Adds one panel's products over a block of rows, chain by chain.
  static void add_products(const WeightJob& job, const Blocks& blocks, const WeightPlace& place,
                           const PaddedBlock& block, InputBlock<E> in, int64_t row, int64_t rows,
                           int64_t pair, PanelGrads<E> grads, int64_t columns, T* sums) {
    int64_t step = job.w.step * in.column, line = pair * job.h.step * in.row;
    int64_t span = job.w.offset[job.w.taps - 1] - job.w.offset[0];
    int64_t together = span == job.w.taps - 1 ? job.w.taps : 1;
    if (in.column != job.channels) together = 1;
    int64_t run = together * place.channels;  // neighbours in the block and in the sums
    int64_t tile = quotient_up(run, quotient_up(run, kRows));
    auto multiply = columns > lanes ? weight_tile_of<E, 2> : weight_tile_of<E, 1>;
    bool skips = pays_to_skip(job, place) && finite(grads, rows, job.w.positions, columns);
    for (int64_t i = 0; i < rows; i += blocks.chain) {
      int64_t height = least(blocks.chain, rows - i);
      for (int64_t r = 0; r < job.h.taps; ++r)
        for (int64_t s = 0; s < job.w.taps; s += together) {
          int64_t tap = (job.h.offset[r] - block.low_h) * in.row +
                        (job.w.offset[s] - block.low_w) * in.column;
          // Positions that meet the input, or all for the products of zeros with a NaN or Inf.
          int64_t top = i, bottom = i + height, left = 0, right = job.w.positions;
          if (skips) {
            top = most(top, (job.h.inner[r].first - row) / pair);
            bottom = least(bottom, quotient_up(job.h.inner[r].second - row, pair));
          }
          if (skips && together == 1) left = job.w.inner[s].first, right = job.w.inner[s].second;
          const E* at = in.at + tap + top * line + left * step;
          // Rows that lie one behind the other are one.
          int64_t lines = bottom - top, columns_of_line = right - left;
          if (line == step * columns_of_line && grads.line == grads.step * columns_of_line)
            columns_of_line *= lines, lines = lines > 0;
          T* to = sums + (r * job.w.taps + s) * place.channels * kColumns<T>;
          for (int64_t m = 0; m < run && top < bottom && left < right; m += tile) {
            // Each line once, a panel's gradients by its first tiles.
            bool first = r + s == 0;
            PanelGrads<E> with = grads.from(top, left);
            with.ahead = first && m < kVectors * tile ? with.ahead + m / tile * lanes : 0;
            int64_t ahead = first ? in.ahead : 0;
            multiply(least(tile, run - m), lines, columns_of_line, at + m, line, step, ahead, with,
                     to + m * kColumns<T>);
          }
        }
    }
  }

  // Whether the products with zeros cost more than to see that all gradients are finite.
  static bool pays_to_skip(const WeightJob& job, const WeightPlace& place) {
    if (job.h.padding != Padding::zeros) return false;
    int64_t positions = job.h.positions * job.w.positions;
    double left_out = 1.0 * positions * job.h.taps * job.w.taps - terms_of(job.h) * terms_of(job.w);
    return left_out * place.channels > kWeightSkip * positions;
  }

  static bool finite(PanelGrads<E> grads, int64_t rows, int64_t width, int64_t columns) {
    Special<E> special;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j)
        for (int64_t k = 0; k < columns; k += lanes) special.see(load<E>(grads.from(i, j).at + k));
    return !special.any();
  }
};
