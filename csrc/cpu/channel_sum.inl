// channel_sum: the gradient of a bias, summed in double over everything but the channels. A task
// owns 16 channels, so that the order of the sum is the tensor's own.

template <class S>
struct ChannelSum {
  static constexpr int64_t kChannels = 16;

  static int64_t tasks(const ChannelSumJob& job) {
    return quotient_up(job.components * job.channels, kChannels);
  }

  static void run(const ChannelSumJob& job, int64_t task) {
    const View& grad = job.grad;
    int64_t first = task * kChannels,
            count = least(kChannels, job.components * job.channels - first);
    for (int64_t i = first; i < first + count; ++i) {
      const S* channel =
          static_cast<const S*>(grad.data) + i / job.components * grad.c + i % job.components;
      constexpr int64_t lanes = 8;
      double sum[lanes] = {};
      for (int64_t n = 0; n < job.batch; ++n)
        for (int64_t h = 0; h < job.height; ++h) {
          const S* line = channel + n * grad.n + h * grad.h;
          int64_t w = 0;
          for (; w + lanes <= job.width; w += lanes)
            for (int64_t lane = 0; lane < lanes; ++lane)
              sum[lane] += widen(line[(w + lane) * grad.w]);
          for (; w < job.width; ++w) sum[w % lanes] += widen(line[w * grad.w]);
        }
      double total = 0;
      for (double part : sum) total += part;
      narrow(static_cast<typename Compute<S>::type>(total), static_cast<S*>(job.result)[i]);
    }
  }
};
