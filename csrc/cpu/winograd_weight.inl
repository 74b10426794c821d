// correlate_weight by Winograd's minimal filtering (transforms.inl), for filters of one part, RH x
// RW taps or one less (winograd_tiles.inl): tiles of rh x rw output gradients, r = N + 1 - R, act
// as the filter that NH x NW inputs are correlated with, and the sum over tiles and samples is
// taken between the transforms, as one matrix product for each of the NH · NW points:
//
//     product[point][c][k] += Σ_tile inputs[point][tile][c] · grads[point][tile][k]
//
// A task owns a block of channels by a block of filters and a part of the tiles, which follow from
// the shape alone; reduce adds the parts in order. Scratch a task: the products of its block, one
// chunk of tiles of both operands.
//
// Of everything in it a vector's points lie beside each other: [tile][vector][point][lane] and
// [c][vector][point][lane]. Stores to as many places far apart would make a transform take 1.5 to 3
// times as long.

template <class S, int RH, int RW>
struct WinogradWeightBlocks {
  using T = typename Compute<S>::type;
  static constexpr int64_t rh = kOutputs<RH>, rw = kOutputs<RW>, lanes = Vector<T>::lanes;
  static constexpr int64_t NH = kPoints<RH>, NW = kPoints<RW>, all = NH * NW;
  static constexpr int64_t kChannels = 128, kFilters = 128;
  // Tiles: of a chunk, once for each of which the products are read and written, and that are worth
  // a task.
  static constexpr int64_t kChunk = 512 / sizeof(T), kPart = 64;
  static constexpr int64_t kPitch = (all + 1) * lanes;  // odd, for the cache sets

  Tiles image;
  int64_t tiles;  // of a segment
  int64_t channel_blocks, channel_block, filter_blocks, filter_block, chunk;

  explicit WinogradWeightBlocks(const WeightJob& job)
      : image{TiledAxis(job.h, rh), TiledAxis(job.w, rw)},
        tiles(job.batch * image.count()),
        channel_blocks(quotient_up(job.channels, kChannels)),
        channel_block(quotient_up(job.channels, channel_blocks)),
        filter_blocks(quotient_up(job.filters, kFilters)),
        filter_block(round_up(quotient_up(job.filters, filter_blocks), lanes)),
        chunk(least(tiles, kChunk)) {}

  int64_t input_line() const { return quotient_up(channel_block, lanes) * kPitch; }
  int64_t filter_line() const { return filter_block / lanes * kPitch; }  // of grads and products
};

template <class S, int RH, int RW>
struct WinogradWeight {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Blocks = WinogradWeightBlocks<S, RH, RW>;
  static constexpr int64_t rh = Blocks::rh, rw = Blocks::rw, lanes = Vector<T>::lanes;
  static constexpr int64_t NH = Blocks::NH, NW = Blocks::NW, all = Blocks::all, kTaps = RH * RW;
  static constexpr int64_t kPitch = Blocks::kPitch;
  static constexpr int64_t kStrip = NH * (kStripColumns + RW - 1) * lanes;  // the largest

  static double cost(const WeightJob& job) {
    if (job.algorithm == Algorithm::direct || job.exact || job.components != 1) return kNever;
    if (job.channels == 0 || job.filters == 0 || job.batch == 0) return kNever;
    if (job.h.taps > RH || job.w.taps > RW) return kNever;
    TapParts<RH> h(job.h);
    TapParts<RW> w(job.w);
    if (!h.fit() || !w.fit() || h.count() * w.count() != 1) return kNever;
    double points = 1.0 * h.points() * w.points();
    bool forced = job.algorithm == Algorithm::winograd;
    Blocks blocks(job);
    if (!forced &&
        (!kSaves<S, RH, RW> || points * blocks.image.count() >= terms_of(job.h) * terms_of(job.w)))
      return kNever;
    double channels = quotient_up(job.channels, lanes), filters = quotient_up(job.filters, lanes);
    constexpr bool line = RH == 1 || RW == 1;
    double point = line ? 25 : 20;
    if (int64_t from = blocks.image.w.spacing(); job.input.c != 1 && from > 1)
      point += line && from > 2 ? 40 : 5;  // columns that are not turned
    double transforms =
        all * point * (channels * blocks.filter_blocks + filters * blocks.channel_blocks);
    double products = 1.2 * points * job.channels * filters;
    double results = 12.5 * all * splits(job);
    if (job.c != 1 && !is_whole(job)) results += 40 * job.h.taps * job.w.taps;  // tap by tap
    double cost =
        job.groups * (blocks.tiles * (products + transforms) + results * job.channels * filters);
    return forced ? kForced * cost : cost;
  }

  // As many parts as make 16 tasks, but no more than there are times kPart tiles.
  static int64_t splits(const WeightJob& job) {
    Blocks blocks(job);
    int64_t owners = job.segments * job.groups * blocks.channel_blocks * blocks.filter_blocks;
    int64_t wanted = owners > 0 ? quotient_up(16, owners) : 1;
    return least(wanted, quotient_up(blocks.tiles, Blocks::kPart));
  }
  static int64_t partial_size(const WeightJob& job) {
    if (job.splits == 1) return 0;
    int64_t vectors = quotient_up(job.filters, lanes) * job.channels * kTaps;
    return job.splits * job.segments * job.groups * vectors * static_cast<int64_t>(sizeof(V));
  }
  static int64_t tasks(const WeightJob& job) {
    Blocks blocks(job);
    return job.splits * job.segments * job.groups * blocks.channel_blocks * blocks.filter_blocks;
  }
  static int64_t scratch(const WeightJob& job) {
    Blocks blocks(job);
    int64_t lines = blocks.channel_block * blocks.filter_line() +
                    blocks.chunk * (blocks.input_line() + blocks.filter_line());
    return (lines + kStrip) * sizeof(T);
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
    T* inputs = products + blocks.channel_block * blocks.filter_line();
    T* grads = inputs + blocks.chunk * blocks.input_line();
    T* strip = grads + blocks.chunk * blocks.filter_line();
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
      transform_tiles<S, InputEvaluation<NH>, InputEvaluation<NW>>(
          input, channels, job.h, job.w,
          {job.h.base[0] + job.h.offset[0], job.w.base[0] + job.w.offset[0]}, blocks.image, tile,
          count, strip, inputs, {blocks.input_line(), kPitch, lanes, {NH, NW}});
      transform_tiles<S, FilterEvaluation<NH, rh>, FilterEvaluation<NW, rw>>(
          grad, filters, maps.h, maps.w, {0, 0}, blocks.image, tile, count, strip, grads,
          {blocks.filter_line(), kPitch, lanes, {NH, NW}});
      for (int64_t i = 0; i < NH; ++i)
        for (int64_t j = 0; j < NW; ++j) {
          bool is_there = i < job.h.taps + rh - 1 && j < job.w.taps + rw - 1;
          if (!is_there && add) continue;  // else it is a sum of nothing
          int64_t point = (i * NW + j) * lanes;
          multiply(channels, filters, is_there ? count : 0, inputs + point, blocks.input_line(),
                   grads + point, products + point, blocks.filter_line(), add);
        }
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
    V sums[lanes * kTaps];
    for (int64_t k = 0; k < job.filters; k += lanes) {
      for (int64_t i = 0; i < channels * kTaps; ++i) sums[i] = V{};
      for (int64_t split = 0; split < job.splits; ++split) {
        const V* part = partial(job, split, segment, group, c, k);
        for (int64_t i = 0; i < channels * kTaps; ++i) sums[i] += part[i];
      }
      store_taps(job, segment, group, c, channels, k, reinterpret_cast<const T*>(sums));
    }
  }

 private:
  // [split][segment][group][vector of filters][channel][tap]
  static V* partial(const WeightJob& job, int64_t split, int64_t segment, int64_t group, int64_t c,
                    int64_t k) {
    int64_t owner = (split * job.segments + segment) * job.groups + group;
    int64_t vector = owner * quotient_up(job.filters, lanes) + k / lanes;
    return static_cast<V*>(job.partial) + (vector * job.channels + c) * kTaps;
  }

  // products[c][k] (+)= Σ_tile inputs[tile][c] · grads[tile][k], at one point. A tile of it has the
  // channels of one vector or of a part of one, and fills the registers: 8x3 of 32, 4x3 of 16.
  static void multiply(int64_t channels, int64_t filters, int64_t tiles, const T* inputs,
                       int64_t input_line, const T* grads, T* products, int64_t filter_line,
                       bool add) {
    using Grads = LongLines<T, kPitch>;
    constexpr int kChannels = least<int64_t>(lanes, kRows >= 8 ? 8 : 4), kMost = 3;
    int64_t vectors = quotient_up(filters, lanes), panels = quotient_up(vectors, kMost);
    for (int64_t panel = 0; panel < panels; ++panel) {
      int64_t k = vectors * panel / panels, some = vectors * (panel + 1) / panels - k;
      auto tile = some == kMost ? tile_of<T, Rows::columns, kMost, kChannels, Grads>
                  : some == 2   ? tile_of<T, Rows::columns, 2, kChannels, Grads>
                                : tile_of<T, Rows::columns, 1, kChannels, Grads>;
      for (int64_t c = 0; c < channels; c += kChannels)
        tile(channels - c, tiles, inputs + c / lanes * kPitch + c % lanes, input_line,
             {grads + k * kPitch, filter_line}, products + c * filter_line + k * kPitch,
             filter_line, add);
    }
  }

  static void transform_back(const WeightJob& job, int64_t split, int64_t segment, int64_t group,
                             int64_t first_c, int64_t channels, int64_t first_k, int64_t filters,
                             const T* products) {
    Blocks blocks(job);
    V special = {}, taps[lanes * kTaps];
    for (int64_t c = 0; c < channels; c += lanes)
      for (int64_t k = 0; k < filters; k += lanes) {
        int64_t some = least(lanes, channels - c);
        for (int64_t i = 0; i < some; ++i)
          special += interpolate_tile<NH, NW, RH, RW>(
              products + (c + i) * blocks.filter_line() + k / lanes * kPitch, lanes, kPitch, V{},
              reinterpret_cast<T*>(taps + i * kTaps), RW);
        if (job.splits == 1) {
          store_taps(job, segment, group, first_c + c, some, first_k + k,
                     reinterpret_cast<const T*>(taps));
        } else {
          V* part = partial(job, split, segment, group, first_c + c, first_k + k);
          for (int64_t i = 0; i < some * kTaps; ++i) part[i] = taps[i];
        }
      }
    mark(job.spread + segment, any_lane(special));
  }

  // Whether the taps of all channels lie side by side.
  static bool is_whole(const WeightJob& job) {
    return job.h.taps == RH && job.w.taps == RW && job.s == 1 && job.r == RW && job.c == kTaps;
  }

  // A vector of filters of up to a vector of channels: taps[channel][tap][lane].
  static void store_taps(const WeightJob& job, int64_t segment, int64_t group, int64_t c,
                         int64_t channels, int64_t k, const T* taps) {
    S* to = static_cast<S*>(job.result) + segment * job.segment +
            (group * job.filters + k) * job.k + c * job.c;
    int64_t filters = least(lanes, job.filters - k);
    if (is_whole(job)) return store_transposed(taps, lanes, channels * kTaps, filters, to, job.k);
    for (int64_t r = 0; r < job.h.taps && job.c == 1; ++r)
      for (int64_t s = 0; s < job.w.taps; ++s)
        store_transposed(taps + (r * RW + s) * lanes, kTaps * lanes, channels, filters,
                         to + r * job.r + s * job.s, job.k);
    // A filter after the other: their places may all meet one set of a cache.
    for (int64_t lane = 0; lane < filters && job.c != 1; ++lane)
      for (int64_t i = 0; i < channels; ++i)
        for (int64_t r = 0; r < job.h.taps; ++r)
          for (int64_t s = 0; s < job.w.taps; ++s)
            narrow(taps[((i * RH + r) * RW + s) * lanes + lane],
                   to[lane * job.k + i * job.c + r * job.r + s * job.s]);
  }
};
