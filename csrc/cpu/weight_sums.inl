// Where a task's sums belong in a filter's gradient: some channels of a group by some panels of
// filters, [panel][tap][channel][column], and how they get there.

struct WeightPlace {
  int64_t segment, group, channel, channels, panel, panels;

  template <class Blocks>
  WeightPlace(const WeightJob& job, const Blocks& blocks, int64_t owner) {
    panel = owner % blocks.panel_blocks() * blocks.panel_block;
    panels = least(blocks.panel_block, blocks.panels - panel);
    owner /= blocks.panel_blocks();
    channel = owner % blocks.channel_blocks(job) * blocks.channel_block;
    channels = least(blocks.channel_block, job.channels - channel);
    owner /= blocks.channel_blocks(job);
    group = owner % job.groups;
    segment = owner / job.groups;
  }
};

// to[column·stride + i·step] = from(i)[column].
template <class S, class F>
void store_lines(int64_t columns, int64_t count, F from, S* to, int64_t stride, int64_t step) {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t i = 0; i < count; i += lanes)
    for (int64_t k = 0; k < columns; k += lanes) {
      int64_t some = least(lanes, count - i), rows = least(lanes, columns - k);
      S* at = to + k * stride + i * step;
      if (step != 1 || some < lanes || rows < lanes) {
        for (int64_t x = 0; x < some; ++x)
          for (int64_t m = 0; m < rows; ++m) narrow(from(i + x)[k + m], at[m * stride + x * step]);
        continue;
      }
      V square[lanes];
      for (int64_t x = 0; x < lanes; ++x) square[x] = load<T>(from(i + x) + k);
      transpose<T>(square);
      for (int64_t m = 0; m < lanes; ++m) store<T>(square[m], at + m * stride);
    }
}

// `pitch` channels lie between a tap's sums and the next's.
template <class S, class T>
void store_sums(const WeightJob& job, const WeightPlace& place, int64_t pitch, const T* sums) {
  S* to = static_cast<S*>(job.result) + place.segment * job.segment +
          place.group * job.filters * job.k + place.channel * job.c;
  int64_t taps = job.h.taps * job.w.taps;
  // Whether they are one line of memory: in the order of the sums, or tap by tap of each channel.
  bool as_sums =
      job.c == 1 && job.s == pitch && job.r == job.w.taps * pitch && pitch == place.channels;
  bool by_tap = job.s == 1 && job.r == job.w.taps && job.c == taps;
  for (int64_t panel = place.panel; panel < place.panel + place.panels; ++panel) {
    int64_t columns = least(kColumns<T>, job.filters - panel * kColumns<T>);
    S* first = to + panel * kColumns<T> * job.k;
    if (as_sums) {
      auto from = [&](int64_t i) { return sums + i * kColumns<T>; };
      store_lines(columns, taps * pitch, from, first, job.k, 1);
    } else if (by_tap) {
      auto from = [&](int64_t i) { return sums + (i % taps * pitch + i / taps) * kColumns<T>; };
      store_lines(columns, taps * place.channels, from, first, job.k, 1);
    }
    for (int64_t tap = 0; tap < taps && !as_sums && !by_tap; ++tap) {
      auto from = [&](int64_t c) { return sums + (tap * pitch + c) * kColumns<T>; };
      store_lines(columns, place.channels, from,
                  first + tap / job.w.taps * job.r + tap % job.w.taps * job.s, job.k, job.c);
    }
    sums += taps * pitch * kColumns<T>;
  }
}
