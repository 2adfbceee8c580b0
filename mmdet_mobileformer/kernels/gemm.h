// Vectors and small matrix products that stay in cache.
//
// Plain C++ with the compiler's vector types (GCC, Clang): no intrinsics, so one source serves AVX-512,
// AVX2 and NEON. The vector width is chosen from what the compiler was told to build for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace mobileformer {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
constexpr int64_t ROWS = 12;  // rows x 2 vectors of sums, 2 of b: within 32 registers
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
constexpr int64_t ROWS = 6;
#else
constexpr int64_t LANES = 4;
constexpr int64_t ROWS = 6;
#endif

// Channels are padded to this in every buffer, whatever the machine: one layout of the weights.
constexpr int64_t PAD = 16;
// Columns of a panel of packed weights.
constexpr int64_t PANEL = 32;
// Depth of a product before the sums go back to memory: a panel of b then stays in the first cache.
constexpr int64_t DEPTH = 256;

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline int64_t padded(int64_t n) { return (n + PAD - 1) / PAD * PAD; }
inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline Vec splat(float v) { return v - Vec{}; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

inline float sum_of(Vec v) {
  float total = 0;
  for (int64_t i = 0; i < LANES; ++i) total += v[i];
  return total;
}

inline float max_of(Vec v) {
  float most = v[0];
  for (int64_t i = 1; i < LANES; ++i) most = std::max(most, v[i]);
  return most;
}

// exp(x) for x <= 88, to 2 units in the last place; what is below -87 gives 1e-38, nearly zero.
inline Vec exponential(Vec x) {
  x = larger(x, splat(-87.0f));
  // Adding 1.5 * 2^23 rounds to the nearest whole number.
  Vec n = x * 1.44269504f + 12582912.0f;
  n = n - 12582912.0f;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return p * (Vec)exponent;
}

// c[M, NV * LANES] += a[M, k] * b[k, NV * LANES]; a[m, i] is a[m * a_row + i * a_col].
template <int64_t M, int64_t NV>
void micro(const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t ldb, int64_t k,
           float* c, int64_t ldc) {
  Vec sums[M][NV];
#pragma GCC unroll 16
  for (int64_t m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int64_t v = 0; v < NV; ++v) sums[m][v] = load(c + m * ldc + v * LANES);
  for (int64_t i = 0; i < k; ++i) {
    Vec bv[NV];
#pragma GCC unroll 4
    for (int64_t v = 0; v < NV; ++v) bv[v] = load(b + i * ldb + v * LANES);
#pragma GCC unroll 16
    for (int64_t m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int64_t v = 0; v < NV; ++v) sums[m][v] += a[m * a_row + i * a_col] * bv[v];
  }
#pragma GCC unroll 16
  for (int64_t m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int64_t v = 0; v < NV; ++v) store(c + m * ldc + v * LANES, sums[m][v]);
}

template <int64_t M>
void micro_rows(int64_t rows, const float* a, int64_t a_row, int64_t a_col, const float* b,
                int64_t ldb, int64_t k, float* c, int64_t ldc, int64_t vectors) {
  if constexpr (M > 0) {
    if (rows < M) return micro_rows<M - 1>(rows, a, a_row, a_col, b, ldb, k, c, ldc, vectors);
    for (; vectors >= 2; vectors -= 2, b += 2 * LANES, c += 2 * LANES)
      micro<M, 2>(a, a_row, a_col, b, ldb, k, c, ldc);
    if (vectors) micro<M, 1>(a, a_row, a_col, b, ldb, k, c, ldc);
  }
}

// c[rows, columns] += a[rows, depth] * b[depth, columns]; columns is a multiple of PAD.
//
// `packed` b is as layout.py packs it: panels of PANEL columns (the last may be PAD wide), each with
// its rows one after the other. Otherwise b is a matrix whose rows lie `ldb` apart.
inline void multiply(int64_t rows, int64_t depth, int64_t columns, const float* a, int64_t a_row,
                     int64_t a_col, const float* b, bool packed, int64_t ldb, float* c,
                     int64_t ldc) {
  for (int64_t first = 0; first < depth; first += DEPTH) {
    const int64_t k = std::min(DEPTH, depth - first);
    for (int64_t column = 0; column < columns; column += PANEL) {
      const int64_t width = std::min(PANEL, columns - column);
      const int64_t step = packed ? width : ldb;
      const float* panel = (packed ? b + column * depth : b + column) + first * step;
      for (int64_t row = 0; row < rows; row += ROWS)
        micro_rows<ROWS>(std::min(ROWS, rows - row), a + row * a_row + first * a_col, a_row, a_col,
                         panel, step, k, c + row * ldc + column, ldc, width / LANES);
    }
  }
}

// Rows of c filled with one row, of whole vectors.
inline void fill_rows(float* c, int64_t rows, int64_t ldc, const float* row, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) std::memcpy(c + r * ldc, row, columns * sizeof(float));
}

}  // namespace mobileformer
