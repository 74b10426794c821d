// correlate_weight by Winograd's minimal filtering (transforms.inl), for R x R filters of stride 1:
// tiles of r x r output gradients, r = 7 - R, act as the filter that 6 x 6 inputs are correlated
// with, and the sum over tiles and samples is taken between the transforms, as one matrix product
// for each of the 36 points:
//
//     product[point][c][k] += Σ_tile inputs[point][tile][c] · grads[point][tile][k]
//
// A task owns a block of channels by a block of filters and a part of the tiles, which follow from
// the shape alone; reduce adds the parts in order. With dilation d the elements of a tile are d
// apart. Scratch a task: the products of its block, one chunk of tiles of both operands.

template <class S, int R>
struct WinogradWeightBlocks {
  using T = typename Compute<S>::type;
  static constexpr int64_t r = 7 - R, lanes = Vector<T>::lanes;
  static constexpr int64_t kChannels = 128, kFilters = 128;
  static constexpr int64_t kBytes = 3 << 19;  // that stay in the second-level cache

  Tiles image;
  int64_t tiles;  // of a segment
  int64_t channel_blocks, channel_block, filter_blocks, filter_block, chunk;

  explicit WinogradWeightBlocks(const WeightJob& job)
      : image{TiledAxis(job.h, r), TiledAxis(job.w, r)},
        tiles(job.batch * image.count()),
        channel_blocks(quotient_up(job.channels, kChannels)),
        channel_block(quotient_up(job.channels, channel_blocks)),
        filter_blocks(quotient_up(job.filters, kFilters)),
        filter_block(round_up(quotient_up(job.filters, filter_blocks), lanes)),
        chunk(bytes(64) > kBytes && bytes(32) <= kBytes ? 32 : 64) {}

  // Of the products and of both operands for so many tiles. Products that do not fit are read and
  // written less often the longer a chunk of tiles is.
  int64_t bytes(int64_t count) const {
    int64_t point = channel_block * product_line() + count * (input_line() + grad_line());
    return kPoints * kPoints * point * static_cast<int64_t>(sizeof(T));
  }

  // Lines and planes are longer than their data, so that they do not fall into one cache set.
  int64_t input_line() const { return round_up(channel_block, lanes) + lanes; }
  int64_t grad_line() const { return round_up(filter_block, kColumns<T>) + lanes; }
  int64_t product_line() const { return round_up(filter_block, kColumns<T>); }
  int64_t product_plane() const { return channel_block * product_line() + lanes; }
};

template <class S, int R>
struct WinogradWeight {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Blocks = WinogradWeightBlocks<S, R>;
  static constexpr int64_t r = Blocks::r, lanes = Vector<T>::lanes, all = kPoints * kPoints;
  static constexpr int64_t kStripColumns = r * kStripTiles + R - 1;

  static double cost(const WeightJob& job) {
    if (job.algorithm == Algorithm::direct || job.exact || job.components != 1) return kNever;
    if (!taps_in_steps<R>(job.h) || !taps_in_steps<R>(job.w)) return kNever;
    if (job.channels == 0 || job.filters == 0 || job.batch == 0) return kNever;
    if (job.algorithm == Algorithm::winograd) return 0;
    Blocks blocks(job);
    if (all * blocks.image.count() >= terms_of(job.h) * terms_of(job.w)) return kNever;
    double channels = quotient_up(job.channels, lanes), filters = quotient_up(job.filters, lanes);
    double transforms = (job.input.c == 1 ? 1700 : 2300) * channels * blocks.filter_blocks +
                        1800 * filters * blocks.channel_blocks;
    return job.groups * (blocks.tiles * (1.2 * all * job.channels * filters + transforms) +
                         300.0 * splits(job) * job.channels * filters);
  }

  // As many parts as make 16 tasks, of at least one chunk of tiles each.
  static int64_t splits(const WeightJob& job) {
    Blocks blocks(job);
    int64_t owners = job.segments * job.groups * blocks.channel_blocks * blocks.filter_blocks;
    int64_t wanted = owners > 0 ? quotient_up(16, owners) : 1;
    return least(wanted, quotient_up(blocks.tiles, blocks.chunk));
  }
  static int64_t partial_size(const WeightJob& job) {
    return job.splits == 1 ? 0
                           : job.splits * job.segments * job.groups * R * R * job.channels *
                                 line(job) * static_cast<int64_t>(sizeof(T));
  }
  static int64_t tasks(const WeightJob& job) {
    Blocks blocks(job);
    return job.splits * job.segments * job.groups * blocks.channel_blocks * blocks.filter_blocks;
  }
  static int64_t scratch(const WeightJob& job) {
    Blocks blocks(job);
    int64_t lines = blocks.chunk * (blocks.input_line() + blocks.grad_line());
    return (all * (blocks.product_plane() + lines) + kPoints * kStripColumns * lanes) * sizeof(T);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    int64_t k = task % blocks.filter_blocks * blocks.filter_block;
    task /= blocks.filter_blocks;
    int64_t c = task % blocks.channel_blocks * blocks.channel_block;
    task /= blocks.channel_blocks;
    int64_t group = task % job.groups, segment = task / job.groups % job.segments;
    int64_t split = task / job.groups / job.segments;
    int64_t channels = least(blocks.channel_block, job.channels - c);
    int64_t filters = least(blocks.filter_block, job.filters - k);

    T* products = static_cast<T*>(scratch);
    T* inputs = products + all * blocks.product_plane();
    T* grads = inputs + all * blocks.chunk * blocks.input_line();
    T* strip = grads + all * blocks.chunk * blocks.grad_line();
    View input = job.input, grad = job.grad;
    input.data = static_cast<S*>(input.data) + segment * job.batch * input.n +
                 (group * job.channels + c) * input.c;
    grad.data = static_cast<S*>(grad.data) + segment * job.batch * grad.n +
                (group * job.filters + k) * grad.c;
    OneTap maps(job.h, job.w);
    int64_t tile = blocks.tiles * split / job.splits, end = blocks.tiles * (split + 1) / job.splits;
    int64_t chunk = quotient_up(end - tile, quotient_up(end - tile, blocks.chunk));
    for (bool add = false; tile < end; tile += chunk, add = true) {
      int64_t count = least(chunk, end - tile);
      transform_tiles<S, InputEvaluation, kPoints>(
          input, channels, job.h, job.w,
          {job.h.base[0] + job.h.offset[0], job.w.base[0] + job.w.offset[0]}, blocks.image, tile,
          count, strip, inputs, blocks.input_line(), blocks.chunk * blocks.input_line());
      transform_tiles<S, FilterEvaluation<r>, r>(
          grad, filters, maps.h, maps.w, {0, 0}, blocks.image, tile, count, strip, grads,
          blocks.grad_line(), blocks.chunk * blocks.grad_line());
      for (int64_t point = 0; point < all; ++point)
        multiply_transposed(channels, filters, count,
                            inputs + point * blocks.chunk * blocks.input_line(),
                            blocks.input_line(), grads + point * blocks.chunk * blocks.grad_line(),
                            blocks.grad_line(), products + point * blocks.product_plane(),
                            blocks.product_line(), add);
    }
    transform_back(job, split, segment, group, c, channels, k, filters, products);
  }

  static int64_t reduce_tasks(const WeightJob& job) {
    if (job.splits == 1) return 0;
    return job.segments * job.groups * quotient_up(job.channels, lanes);
  }

  // Adds the parts of a vector of channels and stores them.
  static void reduce(const WeightJob& job, int64_t task) {
    int64_t blocks = quotient_up(job.channels, lanes), c = task % blocks * lanes;
    int64_t group = task / blocks % job.groups, segment = task / blocks / job.groups;
    int64_t channels = least(lanes, job.channels - c);
    V sums[lanes * R * R];
    for (int64_t k = 0; k < job.filters; k += lanes) {
      for (int64_t i = 0; i < channels * R * R; ++i) {
        sums[i] = V{};
        for (int64_t split = 0; split < job.splits; ++split)
          sums[i] += *reinterpret_cast<const V*>(partial(job, split, segment, group, c, k) +
                                                 i * line(job));
      }
      store_taps(job, segment, group, c, channels, k, reinterpret_cast<const T*>(sums));
    }
  }

 private:
  static int64_t line(const WeightJob& job) { return round_up(job.filters, lanes); }
  // [split][segment][group][channel][tap][filter]
  static T* partial(const WeightJob& job, int64_t split, int64_t segment, int64_t group, int64_t c,
                    int64_t k) {
    int64_t owner = (split * job.segments + segment) * job.groups + group;
    return static_cast<T*>(job.partial) + (owner * job.channels + c) * R * R * line(job) + k;
  }

  // c[i][j] (+)= Σ_t a[t][i] · b[t][j]
  static void multiply_transposed(int64_t rows, int64_t columns, int64_t depth, const T* a,
                                  int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
                                  bool add) {
    int64_t height = quotient_up(rows, quotient_up(rows, kRows));  // tiles of equal height
    for (int64_t j = 0; j < columns; j += kColumns<T>)
      for (int64_t i = 0; i < rows; i += height) {
        int64_t some = least(height, rows - i);
        LongLines<T> with{b + j, ldb};
        if (columns - j > lanes)
          tile_of<T, Rows::columns, 2>(some, depth, a + i, lda, with, c + i * ldc + j, ldc, add);
        else
          tile_of<T, Rows::columns, 1>(some, depth, a + i, lda, with, c + i * ldc + j, ldc, add);
      }
  }

  static void transform_back(const WeightJob& job, int64_t split, int64_t segment, int64_t group,
                             int64_t first_c, int64_t channels, int64_t first_k, int64_t filters,
                             const T* products) {
    Blocks blocks(job);
    V special = {}, taps[lanes * R * R];
    for (int64_t c = 0; c < channels; c += lanes)
      for (int64_t k = 0; k < filters; k += lanes) {
        int64_t some = least(lanes, channels - c);
        for (int64_t i = 0; i < some; ++i)
          special += interpolate_tile<R>(products + (c + i) * blocks.product_line() + k,
                                         blocks.product_plane(), blocks.product_line(), V{},
                                         reinterpret_cast<T*>(taps + i * R * R), R);
        if (job.splits == 1)
          store_taps(job, segment, group, first_c + c, some, first_k + k,
                     reinterpret_cast<const T*>(taps));
        else
          for (int64_t i = 0; i < some * R * R; ++i)
            *reinterpret_cast<V*>(partial(job, split, segment, group, first_c + c, first_k + k) +
                                  i * line(job)) = taps[i];
      }
    mark(job.spread + segment, any_lane(special));
  }

  // A vector of filters of up to a vector of channels: taps[channel][tap][lane].
  static void store_taps(const WeightJob& job, int64_t segment, int64_t group, int64_t c,
                         int64_t channels, int64_t k, const T* taps) {
    S* to = static_cast<S*>(job.result) + segment * job.segment +
            (group * job.filters + k) * job.k + c * job.c;
    int64_t filters = least(lanes, job.filters - k);
    if (job.s == 1 && job.r == R && job.c == R * R)
      return store_transposed(taps, lanes, channels * R * R, filters, to, job.k);
    for (int64_t tap = 0; tap < R * R; ++tap) {
      S* at = to + tap / R * job.r + tap % R * job.s;
      const T* from = taps + tap * lanes;
      if (job.c == 1)
        store_transposed(from, R * R * lanes, channels, filters, at, job.k);
      else
        for (int64_t i = 0; i < channels * filters; ++i)
          narrow(from[i / filters * R * R * lanes + i % filters],
                 at[i / filters * job.c + i % filters * job.k]);
    }
  }
};
