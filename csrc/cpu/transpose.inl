// Squares of vectors: where a tensor's lines run across the micro-kernel's, they are turned over a
// square of lanes x lanes at a time.
//
// One step interleaves row i with row i + lanes/2. That rotates the bits of (row, lane) by one
// place, so log2(lanes) steps swap row and lane.

// a[0], b[0], a[1], b[1], ... of the vectors' low or high halves.
template <class T, bool HIGH, size_t... I>
inline typename Vector<T>::type interleave(typename Vector<T>::type a, typename Vector<T>::type b,
                                           std::index_sequence<I...>) {
  constexpr int64_t lanes = Vector<T>::lanes;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * lanes + HIGH * lanes / 2)...);
#else
  typedef typename Bits<T>::type Index __attribute__((vector_size(FULLCONV_VECTOR_BYTES)));
  return __builtin_shuffle(a, b, Index{(I / 2 + I % 2 * lanes + HIGH * lanes / 2)...});
#endif
}

template <class T>
inline void transpose(typename Vector<T>::type (&square)[Vector<T>::lanes]) {
  constexpr int64_t lanes = Vector<T>::lanes;
  using Lanes = std::make_index_sequence<lanes>;
#pragma GCC unroll 4
  for (int64_t step = 1; step < lanes; step *= 2) {
    typename Vector<T>::type next[lanes];
#pragma GCC unroll 8
    for (int64_t i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave<T, false>(square[i], square[i + lanes / 2], Lanes{});
      next[2 * i + 1] = interleave<T, true>(square[i], square[i + lanes / 2], Lanes{});
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; ++i) square[i] = next[i];
  }
}

// Loads `lanes` lines of `lanes` elements and turns them: square[i] is element i of each line.
template <class T, class S>
inline void load_turned(const S* from, int64_t stride,
                        typename Vector<T>::type (&square)[Vector<T>::lanes]) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < Vector<T>::lanes; ++i) square[i] = load<T>(from + i * stride);
  transpose<T>(square);
}

template <class T, class S>
inline void store(typename Vector<T>::type value, S* to) {
  if constexpr (sizeof(S) == sizeof(T)) {
    *reinterpret_cast<typename Vector<T>::type*>(to) = value;
  } else {
    for (int64_t i = 0; i < Vector<T>::lanes; ++i) narrow(value[i], to[i]);
  }
}

// One past the last of a tensor's elements in memory: squares may read beyond a line, not beyond
// this.
template <class S>
inline const S* end_of(const View& view, int64_t n, int64_t c, int64_t h, int64_t w) {
  return static_cast<const S*>(view.data) + (n - 1) * view.n + (c - 1) * view.c + (h - 1) * view.h +
         (w - 1) * view.w + 1;
}

template <class T>
inline bool any_nan(typename Vector<T>::type values) {
  bool any = false;
  for (int64_t lane = 0; lane < Vector<T>::lanes; ++lane) any |= values[lane] != values[lane];
  return any;
}
