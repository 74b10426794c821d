// Vectors of any storage type, whole or in part: widened when loaded, rounded when stored.

template <class T>
struct Vector {
  typedef T type
      __attribute__((vector_size(FULLCONV_VECTOR_BYTES), aligned(alignof(T)), may_alias));
  static constexpr int64_t lanes = FULLCONV_VECTOR_BYTES / sizeof(T);
};

typedef uint32_t Words __attribute__((vector_size(FULLCONV_VECTOR_BYTES)));
typedef uint16_t HalfWords __attribute__((vector_size(FULLCONV_VECTOR_BYTES / 2)));

typedef Vector<float>::type Floats;

// 16-bit numbers widened, and rounded back: a vector at once, by the processor's own instructions
// where it has them, which give the bits that scalars.inl gives. GCC 12 has five for one of
// __builtin_convertvector, and warns of an undefined vector in intrinsics without a mask.
#if FULLCONV_VECTOR_BYTES == 64
inline Words words(HalfWords bits) {
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)bits);
}
inline Floats widen_halves(HalfWords bits) {
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits);
}
inline HalfWords narrow_halves(Floats value) {
  return (HalfWords)_mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
}
#elif FULLCONV_VECTOR_BYTES == 32
inline Words words(HalfWords bits) { return (Words)_mm256_cvtepu16_epi32((__m128i)bits); }
inline Floats widen_halves(HalfWords bits) { return (Floats)_mm256_cvtph_ps((__m128i)bits); }
inline HalfWords narrow_halves(Floats value) {
  return (HalfWords)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
}
#else
inline Words words(HalfWords bits) { return __builtin_convertvector(bits, Words); }
inline Floats widen_halves(HalfWords bits) { return widen_half<Floats>(words(bits)); }
inline HalfWords narrow_halves(Floats value) {
  return __builtin_convertvector(narrow_half<Words>(value), HalfWords);
}
#endif

inline HalfWords narrow_bfloat16s(Floats value) {
#ifdef FULLCONV_BF16_PAIRS
  return (HalfWords)_mm512_cvtneps_pbh((__m512)value);
#else
  return __builtin_convertvector(narrow_bfloat16<Words>(value), HalfWords);
#endif
}

template <class T, class S>
inline typename Vector<T>::type load(const S* from) {
  using V = typename Vector<T>::type;
  if constexpr (sizeof(S) == sizeof(T)) {
    return *reinterpret_cast<const V*>(from);
  } else if constexpr (std::is_integral_v<S>) {
    typedef S Some __attribute__((vector_size(sizeof(V) / sizeof(T) * sizeof(S))));
    Some some;
    __builtin_memcpy(&some, from, sizeof(some));
    return __builtin_convertvector(some, V);
  } else {
    HalfWords bits;
    __builtin_memcpy(&bits, from, sizeof(bits));
    if constexpr (std::is_same_v<S, Half>)
      return widen_halves(bits);
    else
      return widen_bfloat16<V>(words(bits));
  }
}

template <class T, class S>
inline void store(typename Vector<T>::type value, S* to) {
  if constexpr (sizeof(S) == sizeof(T)) {
    *reinterpret_cast<typename Vector<T>::type*>(to) = value;
  } else if constexpr (std::is_integral_v<S>) {
    typedef S Some __attribute__((vector_size(sizeof(value) / sizeof(T) * sizeof(S))));
    Some some = __builtin_convertvector(value, Some);
    __builtin_memcpy(to, &some, sizeof(some));
  } else {
    HalfWords bits;
    if constexpr (std::is_same_v<S, Half>)
      bits = narrow_halves(value);
    else
      bits = narrow_bfloat16s(value);
    __builtin_memcpy(to, &bits, sizeof(bits));
  }
}

#if FULLCONV_VECTOR_BYTES == 64

// The first elements of a vector, by AVX-512's masks: what they leave out is not touched.
template <class S>
inline auto load_masked(const S* from, uint32_t mask) {
  if constexpr (sizeof(S) == 8)
    return _mm512_maskz_loadu_epi64(static_cast<__mmask8>(mask), from);
  else if constexpr (sizeof(S) == 4)
    return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), from);
  else
    return _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from);
}

template <class S>
inline void store_masked(const S* from, uint32_t mask, S* to) {
  decltype(load_masked(from, mask)) value;
  __builtin_memcpy(&value, from, sizeof(value));
  if constexpr (sizeof(S) == 8)
    _mm512_mask_storeu_epi64(to, static_cast<__mmask8>(mask), value);
  else if constexpr (sizeof(S) == 4)
    _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(mask), value);
  else
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(mask), value);
}

// The first `count` lanes; the others are zero.
template <class T, class S>
inline typename Vector<T>::type load_some(const S* from, int64_t count) {
  if (count >= Vector<T>::lanes) return load<T>(from);
  auto some = load_masked(from, (1u << count) - 1);
  return load<T>(reinterpret_cast<const S*>(&some));
}

template <class T, class S>
inline void store_some(typename Vector<T>::type value, int64_t count, S* to) {
  if (count >= Vector<T>::lanes) return store<T>(value, to);
  S some[Vector<T>::lanes];
  store<T>(value, some);
  store_masked(some, (1u << count) - 1, to);
}

#else

// Fewer than 2·SIZE elements, as two blocks that overlap.
template <int64_t SIZE, class S>
inline void copy_few(const S* from, int64_t count, S* to) {
  if constexpr (SIZE > 0) {
    if (count < SIZE) return copy_few<SIZE / 2>(from, count, to);
    uint64_t second = count - SIZE;  // of int64_t, GCC 12 warns that it might be less than 0
    __builtin_memcpy(to, from, SIZE * sizeof(S));
    __builtin_memcpy(to + second, from + second, SIZE * sizeof(S));
  }
}

// The first `count` lanes; the others are zero.
template <class T, class S>
inline typename Vector<T>::type load_some(const S* from, int64_t count) {
  constexpr int64_t lanes = Vector<T>::lanes;
  if (count >= lanes) return load<T>(from);
  S some[lanes] = {};
  copy_few<lanes / 2>(from, count, some);
  return load<T>(some);
}

template <class T, class S>
inline void store_some(typename Vector<T>::type value, int64_t count, S* to) {
  constexpr int64_t lanes = Vector<T>::lanes;
  if (count >= lanes) return store<T>(value, to);
  S some[lanes];
  store<T>(value, some);
  copy_few<lanes / 2>(some, count, to);
}

#endif

// Whether some lane is not zero: of a sum of numbers times 0, whether there was a NaN or Inf.
template <class V>
inline bool any_lane(const V& value) {
  for (size_t lane = 0; lane < sizeof(V) / sizeof(value[0]); ++lane)
    if (value[lane] != 0) return true;
  return false;
}

// Sets a flag that other tasks may set too.
inline void mark(bool* flag, bool found) {
  if (found) __atomic_store_n(flag, true, __ATOMIC_RELAXED);
}

// Integers as wide as T: which lanes a shuffle takes.
template <class T>
struct Lanes {
  using Integer = decltype(static_cast<std::make_signed_t<typename Bits<T>::type>>(0));
  typedef Integer type __attribute__((vector_size(FULLCONV_VECTOR_BYTES)));
};

// Lanes of the two vectors, those of the second counted on.
template <class T, int... FROM>
inline typename Vector<T>::type shuffle(typename Vector<T>::type a, typename Vector<T>::type b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, FROM...);
#else
  return __builtin_shuffle(a, b, typename Lanes<T>::type{FROM...});
#endif
}

// The lanes of a and b by turns: a has the first half of them, b the second.
template <class T, int... I>
inline void interleave(typename Vector<T>::type& a, typename Vector<T>::type& b,
                       std::integer_sequence<int, I...> /*lanes*/) {
  constexpr int lanes = Vector<T>::lanes;
  typename Vector<T>::type first = shuffle<T, (I / 2 + I % 2 * lanes)...>(a, b);
  b = shuffle<T, (lanes / 2 + I / 2 + I % 2 * lanes)...>(a, b);
  a = first;
}
template <class T>
inline void interleave(typename Vector<T>::type& a, typename Vector<T>::type& b) {
  interleave<T>(a, b, std::make_integer_sequence<int, Vector<T>::lanes>());
}

// The even lanes of a, then those of b.
template <class T, int... I>
inline typename Vector<T>::type evens(typename Vector<T>::type a, typename Vector<T>::type b,
                                      std::integer_sequence<int, I...> /*lanes*/) {
  return shuffle<T, 2 * I...>(a, b);
}
template <class T>
inline typename Vector<T>::type evens(typename Vector<T>::type a, typename Vector<T>::type b) {
  return evens<T>(a, b, std::make_integer_sequence<int, Vector<T>::lanes>());
}

// The first `count` of a vector of elements that lie STEP apart, 1 or 2; the others are zero.
template <class T, int STEP, int... I, class S>
inline typename Vector<T>::type load_apart(const S* from, int64_t count,
                                           std::integer_sequence<int, I...> /*lanes*/) {
  constexpr int lanes = Vector<T>::lanes;
  if constexpr (STEP == 1) return load_some<T>(from, count);
  // The second half ends with the last element: what lies behind it is not read.
  typename Vector<T>::type first, second = {};
  if (count >= lanes) {
    first = load<T>(from);
    second = load<T>(from + lanes - 1);
  } else {
    first = load_some<T>(from, 2 * count - 1);
    if (2 * count > lanes) second = load_some<T>(from + lanes - 1, 2 * count - lanes);
  }
  return shuffle<T, (2 * I + (2 * I >= lanes))...>(first, second);
}
template <class T, int STEP, class S>
inline typename Vector<T>::type load_apart(const S* from, int64_t count = Vector<T>::lanes) {
  return load_apart<T, STEP>(from, count, std::make_integer_sequence<int, Vector<T>::lanes>());
}

// to[STEP·i] = value[i] for the first `count` lanes; what lies between is not touched.
template <class T, int STEP, class S>
inline void store_apart(typename Vector<T>::type value, int64_t count, S* to) {
  constexpr int64_t lanes = Vector<T>::lanes;
  if constexpr (STEP == 1) return store_some<T>(value, count, to);
  S some[2 * lanes];
#if FULLCONV_VECTOR_BYTES == 64
  uint32_t mask = count < lanes ? (1u << 2 * count) - 1 : ~0u;
  if constexpr (sizeof(S) == sizeof(T)) {
    typename Vector<T>::type rest = value;
    interleave<T>(value, rest);
    store<T>(value, some);
    store<T>(rest, some + lanes);
    store_masked(some, mask & 0x5555, to);
    store_masked(some + lanes, mask >> lanes & 0x5555, to + lanes);
    return;
  }
#endif
  store<T>(value, some);
#pragma GCC unroll 16
  for (int64_t i = 0; i < lanes; ++i)
    if (i < count) to[2 * i] = some[i];
}

// v[i][j] becomes v[j][i], by log2(lanes) perfect shuffles of all vectors.
template <class T>
inline void transpose(typename Vector<T>::type* v) {
  constexpr int lanes = Vector<T>::lanes;
  for (int round = 1; round < lanes; round *= 2) {
    typename Vector<T>::type mixed[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i) {
      mixed[2 * i] = v[i], mixed[2 * i + 1] = v[i + lanes / 2];
      interleave<T>(mixed[2 * i], mixed[2 * i + 1]);
    }
    for (int i = 0; i < lanes; ++i) v[i] = mixed[i];
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

// to[i·step + line] = from[line·stride + i·APART] for `count` elements of up to a vector of lines.
// The last whole square overlaps the one before it.
template <int APART = 1, class S, class T>
inline void load_transposed(const S* from, int64_t stride, int64_t lines, int64_t count, T* to,
                            int64_t step) {
  constexpr int64_t lanes = Vector<T>::lanes;
  typename Vector<T>::type square[lanes];
  if (lines >= lanes && count >= lanes) {
    for (int64_t i = 0; i < count; i += lanes) {
      int64_t at = least(i, count - lanes);
#pragma GCC unroll 16
      for (int64_t line = 0; line < lanes; ++line)
        square[line] = load_apart<T, APART>(from + line * stride + at * APART);
      transpose<T>(square);
#pragma GCC unroll 16
      for (int64_t k = 0; k < lanes; ++k) store<T>(square[k], to + (at + k) * step);
    }
    return;
  }
  for (int64_t i = 0; i < count; i += lanes) {
#pragma GCC unroll 16
    for (int64_t line = 0; line < lanes; ++line)
      square[line] = line < lines
                         ? load_apart<T, APART>(from + line * stride + i * APART, count - i)
                         : typename Vector<T>::type{};
    transpose<T>(square);
#pragma GCC unroll 16
    for (int64_t k = 0; k < lanes; ++k)
      if (k < count - i) store<T>(square[k], to + (i + k) * step);
  }
}

// to[line·stride + i·APART] = from[i·step + line]: the same way back.
template <int APART = 1, class S, class T>
inline void store_transposed(const T* from, int64_t step, int64_t count, int64_t lines, S* to,
                             int64_t stride) {
  constexpr int64_t lanes = Vector<T>::lanes;
  typename Vector<T>::type square[lanes];
  if (lines >= lanes && count >= lanes) {
    for (int64_t i = 0; i < count; i += lanes) {
      int64_t at = least(i, count - lanes);
      load_turned<T>(from + at * step, step, square);
#pragma GCC unroll 16
      for (int64_t line = 0; line < lanes; ++line)
        store_apart<T, APART>(square[line], lanes, to + line * stride + at * APART);
    }
    return;
  }
  for (int64_t i = 0; i < count; i += lanes) {
#pragma GCC unroll 16
    for (int64_t k = 0; k < lanes; ++k)
      square[k] = k < count - i ? load<T>(from + (i + k) * step) : typename Vector<T>::type{};
    transpose<T>(square);
#pragma GCC unroll 16
    for (int64_t line = 0; line < lanes; ++line)
      if (line < lines)
        store_apart<T, APART>(square[line], count - i, to + line * stride + i * APART);
  }
}

// One past the last of a tensor's elements in memory: squares may read beyond a line, not beyond
// this.
template <class S>
inline const S* end_of(const View& view, int64_t n, int64_t c, int64_t h, int64_t w) {
  return static_cast<const S*>(view.data) + (n - 1) * view.n + (c - 1) * view.c + (h - 1) * view.h +
         (w - 1) * view.w + 1;
}
