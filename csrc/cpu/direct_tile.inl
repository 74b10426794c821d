// The micro-kernel of direct.inl: a tile of the result, positions of a row by one or two vectors of
// channels, whose sums stay in registers while the taps of a chunk of channels are walked:
//
//     c[position][k] (+)= Σ_tap Σ_i a[source(tap) + position·lda + i] · b[filter(tap)][i][k]
//
// A tap is a run of numbers in the block, and as many lines of the filter's panel.

// One tap of a chunk: where it begins in the block and in the panel of the filter.
struct TapPlace {
  int64_t source, filter;
};

// Of each tap `run` numbers. c may be the result itself, rounded to its type, where nothing more is
// added; what the next tile writes is asked for. So is `later`, a line a step.
template <class E, class C, int ROWS, int VECTORS>
void direct_tile(const TapPlace* taps, int64_t count, int64_t run, const Number<E>* a, int64_t lda,
                 const Number<E>* later, const E* b, C* c, int64_t ldc, bool add,
                 const typename Sum<E>::type* bias) {
  using T = typename Sum<E>::type;
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V sum[ROWS][VECTORS] = {};
  for (int i = ROWS; i < 2 * ROWS; ++i)
    for (int v = 0; v < VECTORS; v += kLine<C> / lanes)
      __builtin_prefetch(c + i * ldc + v * lanes, 1);
  for (const TapPlace* tap = taps; tap < taps + count; ++tap) {
    const Number<E>* at = a + tap->source;
    const E* with = b + tap->filter;
    auto multiply = [&](auto half) {
      typename Vector<E>::type columns[VECTORS];
      for (int v = 0; v < VECTORS; ++v) columns[v] = load<E>(with + v * lanes);
      prefetch_ahead(with);
      if constexpr (kFillsLines<E>) {
        __builtin_prefetch(later, 0, 2);
        later += kLine<E> * kNumbers<E>;
      }
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        E element = element_at<E>(at + i * lda);
        if constexpr (half) element &= kFirstOnly;
        for (int v = 0; v < VECTORS; ++v) sum[i][v] = multiply_add(element, columns[v], sum[i][v]);
      }
    };
    for (int64_t k = 0; k < run / kNumbers<E>; ++k, at += kNumbers<E>, with += kColumns<E>)
      multiply(std::false_type());
    if constexpr (kNumbers<E> > 1)
      if (run % kNumbers<E> != 0) multiply(std::true_type());
  }
  auto place = [&](int i, int v) { return c + i * ldc + v * lanes; };
  if (add) for_sums(sum, [&](V& value, int i, int v) { value += load<T>(place(i, v)); });
  if (bias) for_sums(sum, [&](V& value, int, int v) { value += load<T>(bias + v * lanes); });
  for_sums(sum, [&](V& value, int i, int v) { store<T>(value, place(i, v)); });
}

template <class E, class C, int VECTORS, int ROWS = kRows>
void direct_tile_of(int64_t rows, const TapPlace* taps, int64_t count, int64_t run,
                    const Number<E>* a, int64_t lda, const Number<E>* later, const E* b, C* c,
                    int64_t ldc, bool add, const typename Sum<E>::type* bias) {
  if constexpr (ROWS > 1)
    if (rows < ROWS)
      return direct_tile_of<E, C, VECTORS, ROWS - 1>(rows, taps, count, run, a, lda, later, b, c,
                                                     ldc, add, bias);
  direct_tile<E, C, ROWS, VECTORS>(taps, count, run, a, lda, later, b, c, ldc, add, bias);
}
