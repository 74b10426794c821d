// The processor's matrix unit (Intel's AMX, "tiles"): products of two small matrices of pairs of
// bfloat16, with sums in float,
//
//     sum[i][j] += Σ_k a[i][k].first · b[k][j].first + a[i][k].second · b[k][j].second
//
// for i < rows, k < depth, j < 16. Of the eight tiles 0 to 3 hold sums, 4 and 5 two blocks of a (a
// `half` each), 6 and 7 two vectors of b, so that each load serves two products. A product takes
// as many cycles as it has rows, however deep it is.
//
// Subnormal numbers are zeros to it, and sums that come out subnormal too; it adds the products of
// the pairs' first numbers and those of their second apart, each rounded to nearest even.

constexpr int64_t kUnitRows = 16, kUnitDepth = 16;

// Where a run of products begins: in a's rows, in bytes, and in b's panel.
struct RunPlace {
  int64_t a, b;
};

class MatrixUnit {
 public:
  // Loading a shape takes as long as four products: once a task.
  MatrixUnit(int64_t rows, int64_t depth) : depth_(depth) {
    struct alignas(64) {
      uint8_t palette, start, reserved[14];
      uint16_t bytes[16];
      uint8_t rows[16];
    } shape{1, 0, {}, {}, {}};
    for (int tile = 0; tile < 8; ++tile) {
      bool a = tile == 4 || tile == 5;
      shape.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : depth);
      shape.bytes[tile] = static_cast<uint16_t>(a ? depth * sizeof(Pair) : 64);
    }
    in_memory();
    _tile_loadconfig(&shape);
  }
  ~MatrixUnit() { _tile_release(); }
  MatrixUnit(const MatrixUnit&) = delete;

  // sums = Σ over `count` runs of `steps` times `depth`, or added to what they are.
  template <int HALVES, int VECTORS>
  void add_products(const RunPlace* runs, int64_t count, int64_t steps, const char* a,
                    const char* second, int64_t line, const Pair* b) const {
    in_memory();
    for (const RunPlace* run = runs; run < runs + count; ++run) {
      const char *at = a + run->a, *other = second + run->a;
      const Pair* with = b + run->b;
      for (int64_t step = 0; step < steps; ++step) {
        _tile_stream_loadd(6, with, kColumns<Pair> * sizeof(Pair));
        _tile_loadd(4, at, line);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (VECTORS > 1) {
          _tile_stream_loadd(7, with + kColumns<Pair> / 2, kColumns<Pair> * sizeof(Pair));
          _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (HALVES > 1) {
          _tile_loadd(5, other, line);
          _tile_dpbf16ps(2, 5, 6);
          if constexpr (VECTORS > 1) _tile_dpbf16ps(3, 5, 7);
        }
        at += depth_ * sizeof(Pair), other += depth_ * sizeof(Pair);
        with += depth_ * kColumns<Pair>;
      }
    }
  }

  void add_products(int64_t halves, bool wide, const RunPlace* runs, int64_t count, int64_t steps,
                    const char* a, const char* second, int64_t line, const Pair* b) const {
    if (halves > 1)
      wide ? add_products<2, 2>(runs, count, steps, a, second, line, b)
           : add_products<2, 1>(runs, count, steps, a, second, line, b);
    else
      wide ? add_products<1, 2>(runs, count, steps, a, second, line, b)
           : add_products<1, 1>(runs, count, steps, a, second, line, b);
  }

  static void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  // The sums of each half, lines of kColumns.
  static void load_sums(const float* first, const float* second) {
    constexpr int64_t line = kColumns<float> * sizeof(float), next = kColumns<float> / 2;
    in_memory();
    _tile_loadd(0, first, line);
    _tile_loadd(1, first + next, line);
    _tile_loadd(2, second, line);
    _tile_loadd(3, second + next, line);
  }
  static void store_sums(float* first, float* second) {
    constexpr int64_t line = kColumns<float> * sizeof(float), next = kColumns<float> / 2;
    _tile_stored(2, second, line);
    _tile_stored(3, second + next, line);
    _tile_stored(0, first, line);
    _tile_stored(1, first + next, line);
    in_memory();
  }

  static void store_rounded(Vector<float>::type low, Vector<float>::type high, BFloat16* to) {
    __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    __builtin_memcpy(to, &rounded, sizeof(rounded));
  }
  // The first `count` numbers of two vectors, or `count` from `first` on of one.
  static void store_rounded(Vector<float>::type low, Vector<float>::type high, int64_t count,
                            BFloat16* to) {
    __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    _mm512_mask_storeu_epi16(to, _bzhi_u32(~0u, count), rounded);
  }
  static void store_rounded(Vector<float>::type value, int64_t first, int64_t count, BFloat16* to) {
    __m256i rounded = (__m256i)_mm512_cvtneps_pbh((__m512)value);
    _mm256_mask_storeu_epi16(to - first, _bzhi_u32(~0u, count) << first, rounded);
  }

  // to[i][pitch] = from[i][depth], as numbers, with zeros behind the depth: some positions'
  // channels where they make up no whole pair.
  static bool spreads(int64_t depth, int64_t pitch) { return depth % 2 != 0 && 2 * pitch <= 32; }
  static void spread(const BFloat16* from, int64_t depth, int64_t count, Pair* to, int64_t pitch) {
    alignas(64) uint16_t order[32] = {};
    uint32_t shown = 0;
    int64_t line = 2 * pitch, some = 32 / line;
    for (int64_t i = 0; i < some * line; ++i)
      if (i % line < depth) {
        order[i] = static_cast<uint16_t>(i / line * depth + i % line);
        shown |= 1u << i;
      }
    __m512i lanes = _mm512_load_si512(order);
    for (int64_t i = 0; i < count; i += some, from += some * depth, to += some * pitch) {
      int64_t now = least(some, count - i);
      __m512i numbers = _mm512_maskz_loadu_epi16(_bzhi_u32(~0u, now * depth), from);
      _mm512_mask_storeu_epi16(to, _bzhi_u32(~0u, now * line),
                               _mm512_maskz_permutexvar_epi16(shown, lanes, numbers));
    }
  }

 private:
  // The compiler does not see what tiles read: all that is to be in memory is there from here on.
  static void in_memory() { __asm__ volatile("" ::: "memory"); }

  int64_t depth_;
};
