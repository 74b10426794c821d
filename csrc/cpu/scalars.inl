// Storage types and the types they are computed in: bfloat16 and half are bits, widened to float
// when a block is packed and rounded to nearest even when a result is stored; integers of 8 and 16
// bits, which only pooling takes, are widened to 32. Plain integer
// arithmetic without branches, so that the compiler turns loops over it into vector code
// everywhere.

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class S>
struct Compute {
  using type = S;
};
template <>
struct Compute<BFloat16> {
  using type = float;
};
template <>
struct Compute<Half> {
  using type = float;
};
template <>
struct Compute<int8_t> {
  using type = int32_t;
};
template <>
struct Compute<uint8_t> {
  using type = int32_t;
};
template <>
struct Compute<int16_t> {
  using type = int32_t;
};

template <class T>
struct Bits {  // an integer as wide
  using type = uint32_t;
};
template <>
struct Bits<double> {
  using type = uint64_t;
};
template <>
struct Bits<int64_t> {
  using type = uint64_t;
};

template <class To, class From>
inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &value, sizeof(To));
  return result;
}

// The conversions, for one number (Word is uint32_t) or a vector of them.
template <class Float, class Word>
inline Float widen_bfloat16(Word bits) {
  return bits_as<Float>(bits << 16);
}

template <class Float, class Word>
inline Float widen_half(Word bits) {
  Word magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  Word normal = (magnitude << 13) + (112u << 23);  // exponent bias 15 to 127
  Word special = normal + (112u << 23);            // Inf and NaN: exponent to 255
  // A subnormal is magnitude · 2^-24: exact as the difference of two floats of exponent 2^-14.
  Word subnormal =
      bits_as<Word>(bits_as<Float>((magnitude << 13) + (113u << 23)) - bits_as<float>(113u << 23));
  Word finite = magnitude < 0x0400u ? subnormal : normal;
  return bits_as<Float>((magnitude >= 0x7c00u ? special : finite) | sign);
}

template <class Word, class Float>
inline Word narrow_bfloat16(Float value) {
  Word bits = bits_as<Word>(value);
  Word rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  Word nan = (bits >> 16) | 0x40u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}

template <class Word, class Float>
inline Word narrow_half(Float value) {
  Word bits = bits_as<Word>(value), magnitude = bits & 0x7fffffffu;
  Word normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Adding 0.5 leaves the 24 bits of a float's significand at half's subnormal spacing, rounded.
  Word subnormal = bits_as<Word>(bits_as<Float>(magnitude) + 0.5f) - bits_as<uint32_t>(0.5f);
  Word finite = magnitude < (113u << 23) ? subnormal : normal;
  Word infinite =
      magnitude > 0x7f800000u ? (magnitude >> 13 & 0x3ffu) | 0x7e00u : (magnitude & 0u) | 0x7c00u;
  Word result = magnitude >= 0x477ff000u ? infinite : finite;
  return result | (bits >> 16 & 0x8000u);
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return widen_bfloat16<float>(uint32_t{value.bits}); }
inline float widen(Half value) { return widen_half<float>(uint32_t{value.bits}); }

template <class I>
inline typename Compute<I>::type widen(I integer) {
  return integer;
}

inline void narrow(float value, float& to) { to = value; }
inline void narrow(double value, double& to) { to = value; }
inline void narrow(float value, BFloat16& to) {
  to.bits = static_cast<uint16_t>(narrow_bfloat16<uint32_t>(value));
}
inline void narrow(float value, Half& to) {
  to.bits = static_cast<uint16_t>(narrow_half<uint32_t>(value));
}
template <class T, class I>
inline void narrow(T integer, I& to) {
  to = static_cast<I>(integer);
}

template <class X>
inline constexpr X least(X a, X b) {
  return b < a ? b : a;
}
template <class X>
inline constexpr X most(X a, X b) {
  return a < b ? b : a;
}
inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return quotient_up(a, b) * b; }
// std::gcd, but of this instruction set.
inline int64_t greatest_divisor(int64_t a, int64_t b) {
  return b == 0 ? a : greatest_divisor(b, a % b);
}

// a·b of a block that may be too large for any way: what is beyond 2^40 counts as that, so that
// neither this nor its product with channels overflows.
inline int64_t area(int64_t a, int64_t b) {
  constexpr int64_t most = int64_t{1} << 40;
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) || product > most ? most : product;
}
