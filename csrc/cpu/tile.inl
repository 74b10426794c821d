// The micro-kernel: a tile of the product of two packed blocks, held in vector registers.
//
//     c[i][j] (+)= Σ_k a[i][k] · b[k][j]      i < ROWS, j < VECTORS·lanes
//
// b is packed in panels of kColumns columns, a is packed in panels of kRows rows (a[k·kRows + i])
// or row by row (a[i·lda + k]), whichever the tensor at hand makes a plain copy. One template,
// written with the compiler's vector types, serves float and double and every instruction set.

// The tile fills the registers: kRows·kVectors accumulators, a row of b and one broadcast element
// of a. Of 32 registers 14x2 leaves 2; of 16, 6x2 leaves 2.
constexpr int64_t kRows = FULLCONV_TILE_ROWS;
constexpr int64_t kVectors = 2;
template <class T>
constexpr int64_t kColumns = kVectors * Vector<T>::lanes;

enum class Rows { panels, strided, columns };  // how a lies, the last: a[k·lda + i]

template <class T>
struct Block {  // one operand of a block product
  const T* data;
  int64_t stride;  // between panels, or between rows of a `strided` a
};

template <class T>
constexpr int64_t kLine = 64 / sizeof(T);  // elements of a cache line

// Asks for the line of a packed panel that is read some rows later: the hardware alone fetches a
// filter from the third-level cache at half the rate at which tiles could take it.
constexpr int64_t kBytesAhead = 1 << 13;
template <class T>
inline void prefetch_ahead(const T* row) {
  for (int64_t i = 0; i < kColumns<T>; i += kLine<T>)
    __builtin_prefetch(reinterpret_cast<const char*>(row + i) + kBytesAhead);
}

// Where row k of b is: in a packed panel, or at a place of its own (lines.inl). From vector to
// vector it is `step` there, and `sum_step` in c.
template <class T>
struct Panel {
  static constexpr int64_t step = Vector<T>::lanes, sum_step = step;
  const T* data;
  const T* at(int64_t k) const { return data + k * kColumns<T>; }
  void prefetch(int64_t k) const { prefetch_ahead(at(k)); }
};

// Or in lines that are longer than a panel is wide, and whose vectors may lie apart.
template <class T, int64_t STEP = Vector<T>::lanes>
struct LongLines {
  static constexpr int64_t step = STEP, sum_step = step;
  const T* data;
  int64_t line;
  const T* at(int64_t k) const { return data + k * line; }
  void prefetch(int64_t) const {}
};

// f(sum, row, vector) for all sums of a tile. Unrolled, so that none ever lies in memory.
template <int ROWS, int VECTORS, class V, class F>
inline void for_sums(V (&sum)[ROWS][VECTORS], F f) {
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) f(sum[i][v], i, v);
}

template <class T, Rows LAYOUT, int ROWS, int VECTORS, class B>
void tile(int64_t depth, const T* a, int64_t lda, const B& b, T* c, int64_t ldc, bool add) {
  using V = typename Vector<T>::type;
  const int64_t row = LAYOUT == Rows::strided ? lda : 1;
  const int64_t next = LAYOUT == Rows::panels ? kRows : LAYOUT == Rows::columns ? lda : 1;
  V sum[ROWS][VECTORS] = {};
  for (int i = ROWS; i < 2 * ROWS; ++i)  // what the next tile writes
    for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(c + i * ldc + v * b.sum_step, 1);
  for (int64_t k = 0; k < depth; ++k, a += next) {
    V columns[VECTORS];
    for (int v = 0; v < VECTORS; ++v) columns[v] = load<T>(b.at(k) + v * b.step);
    b.prefetch(k);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int v = 0; v < VECTORS; ++v) sum[i][v] += a[i * row] * columns[v];
  }
  auto place = [&](int i, int v) { return c + i * ldc + v * b.sum_step; };
  if (add) for_sums(sum, [&](V& value, int i, int v) { value += load<T>(place(i, v)); });
  for_sums(sum, [&](V& value, int i, int v) { store<T>(value, place(i, v)); });
}

// One instance for each number of rows that a block can leave over.
template <class T, Rows LAYOUT, int VECTORS, int ROWS = kRows, class B>
void tile_of(int64_t rows, int64_t depth, const T* a, int64_t lda, const B& b, T* c, int64_t ldc,
             bool add) {
  if constexpr (ROWS > 1)
    if (rows < ROWS)
      return tile_of<T, LAYOUT, VECTORS, ROWS - 1>(rows, depth, a, lda, b, c, ldc, add);
  tile<T, LAYOUT, ROWS, VECTORS>(depth, a, lda, b, c, ldc, add);
}

// c (+)= a · b for a block of rows x columns; c has room for whole vectors of columns.
template <class T, Rows LAYOUT>
void multiply(int64_t rows, int64_t columns, int64_t depth, Block<T> a, Block<T> b, T* c,
              int64_t ldc, bool add) {
  for (int64_t j = 0, panel = 0; j < columns; j += kColumns<T>, ++panel)
    for (int64_t i = 0; i < rows; i += kRows) {
      const T* from = a.data + (LAYOUT == Rows::panels ? i / kRows : i) * a.stride;
      Panel<T> with{b.data + panel * b.stride};
      if (columns - j > Vector<T>::lanes)
        tile_of<T, LAYOUT, 2>(rows - i, depth, from, a.stride, with, c + i * ldc + j, ldc, add);
      else
        tile_of<T, LAYOUT, 1>(rows - i, depth, from, a.stride, with, c + i * ldc + j, ldc, add);
    }
}
