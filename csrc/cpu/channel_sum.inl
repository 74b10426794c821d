// channel_sum: the gradient of a bias, summed in double over everything but the channels. A task
// owns a cache line of channels; the elements of a channel's plane go to kParts sums in turn, so
// that a result depends on neither threads nor memory format. Where channels are neighbours in
// memory, and not few, those of a pixel are added at once.

template <class S>
struct ChannelSum {
  using T = typename Compute<S>::type;
  static constexpr int64_t lanes = Vector<T>::lanes, kTogether = most(kLine<S>, lanes);
  static constexpr int64_t kParts = 8;

  static int64_t tasks(const ChannelSumJob& job) {
    return quotient_up(job.components * job.channels, kTogether);
  }

  static void run(const ChannelSumJob& job, int64_t task) {
    const View& grad = job.grad;
    const S* data = static_cast<const S*>(grad.data);
    int64_t first = task * kTogether;
    int64_t count = least(kTogether, job.components * job.channels - first);
    double sums[kParts][kTogether] = {};
    if (grad.c == job.components && count > kTogether / 4)
      add_pixels(job, data + first, count, sums);
    else
      for (int64_t i = 0, c = first; i < count; ++i, ++c)
        add_plane(job, data + c / job.components * grad.c + c % job.components, i, sums);
    for (int64_t i = 0; i < count; ++i) {
      double total = 0;
      for (int64_t part = 0; part < kParts; ++part) total += sums[part][i];
      narrow(static_cast<T>(total), static_cast<S*>(job.result)[first + i]);
    }
  }

 private:
  static void add_pixels(const ChannelSumJob& job, const S* from, int64_t count,
                         double (&sums)[kParts][kTogether]) {
    T pixel[kTogether];
    for (int64_t n = 0; n < job.batch; ++n)
      for (int64_t h = 0; h < job.height; ++h)
        for (int64_t w = 0; w < job.width; ++w) {
          const S* at = from + n * job.grad.n + h * job.grad.h + w * job.grad.w;
          for (int64_t i = 0; i < kTogether; i += lanes)
            store<T>(load_some<T>(at + i, most<int64_t>(count - i, 0)), pixel + i);
          double* sum = sums[(h * job.width + w) % kParts];
          for (int64_t i = 0; i < kTogether; ++i) sum[i] += pixel[i];
        }
  }

  static void add_plane(const ChannelSumJob& job, const S* channel, int64_t i,
                        double (&sums)[kParts][kTogether]) {
    const View& grad = job.grad;
    bool whole = grad.h == job.width * grad.w;  // rows that follow each other are one
    int64_t rows = whole ? 1 : job.height, length = whole ? job.height * job.width : job.width;
    double sum[kParts] = {};
    for (int64_t n = 0; n < job.batch; ++n)
      for (int64_t h = 0; h < rows; ++h) {
        const S* row = channel + n * grad.n + h * grad.h;
        auto add = [&](int64_t w) { sum[(h * length + w) % kParts] += widen(row[w * grad.w]); };
        int64_t w = 0;
        while (w < length && (h * length + w) % kParts != 0) add(w++);
        for (; w + kParts <= length; w += kParts)
          for (int64_t part = 0; part < kParts; ++part)
            sum[part] += widen(row[(w + part) * grad.w]);
        while (w < length) add(w++);
      }
    for (int64_t part = 0; part < kParts; ++part) sums[part][i] = sum[part];
  }
};
