// The spatial-aware dynamic ReLU of a training step: planes (N, C, H, W), forward and backward.
//
// The slopes of a position are mixed from the tokens' in registers, in both directions: what autograd
// would keep and read again is four times the size of the features.
#pragma once

#include <vector>

#include "gemm.h"

namespace mobileformer {

// Positions that are treated together: their shares of the tokens stay in the first cache.
constexpr int64_t POSITIONS = 512;

// Sizes: images, channels, tokens, and positions of a plane.
struct Mixed {
  int64_t batch, channels, tokens, cells;
  const float *x, *table, *mixture;  // [n][c][cells], [n][2 c][tokens], [n][tokens][cells]

  int64_t chunks() const { return (cells + POSITIONS - 1) / POSITIONS; }
};

// One channel's slopes at LANES positions.
template <int T>
struct MixedSlopes {
  const float *first, *second;

  MixedSlopes(const Mixed& m, int64_t n, int64_t channel)
      : first(m.table + (n * 2 * m.channels + channel) * T), second(first + m.channels * T) {}

  // shares: [tokens][POSITIONS] from the positions on.
  void at(const float* shares, Vec& a1, Vec& a2) const {
    a1 = Vec{}, a2 = Vec{};
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const Vec share = load(shares + t * POSITIONS);
      a1 += first[t] * share;
      a2 += second[t] * share;
    }
  }
};

// Copies `count` floats per row of whole vectors, zeros behind.
inline void copy_padded(const float* from, int64_t count, float* to) {
  std::memcpy(to, from, count * sizeof(float));
  std::fill(to + count, to + padded(count), 0.0f);
}

// Runs f(image, channel-independent shares, first position, count) for each chunk in [begin, end).
template <int T, typename F>
void for_chunks(const Mixed& m, int64_t begin, int64_t end, F f) {
  float shares[T * POSITIONS];
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t n = chunk / m.chunks(), first = chunk % m.chunks() * POSITIONS;
    const int64_t count = std::min(POSITIONS, m.cells - first);
    for (int64_t t = 0; t < T; ++t)
      copy_padded(m.mixture + (n * T + t) * m.cells + first, count, shares + t * POSITIONS);
    f(n, shares, first, count);
  }
}

// y = max(a1 x, a2 x) for the chunks [begin, end).
template <int T>
void mixed_forward(const Mixed& m, int64_t begin, int64_t end, float* y) {
  float in[POSITIONS], out[POSITIONS];
  for_chunks<T>(m, begin, end, [&](int64_t n, const float* shares, int64_t first, int64_t count) {
    for (int64_t c = 0; c < m.channels; ++c) {
      const int64_t at = (n * m.channels + c) * m.cells + first;
      copy_padded(m.x + at, count, in);
      const MixedSlopes<T> slopes(m, n, c);
      for (int64_t i = 0; i < count; i += LANES) {
        Vec a1, a2;
        slopes.at(shares + i, a1, a2);
        const Vec v = load(in + i);
        store(out + i, larger(a1 * v, a2 * v));
      }
      std::memcpy(y + at, out, count * sizeof(float));
    }
  });
}

// Gradients for the chunks [begin, end). grad_table is the thread's own, [n][2 c][tokens], and added to.
template <int T>
void mixed_backward(const Mixed& m, int64_t begin, int64_t end, const float* grad, float* grad_x,
                    float* grad_table, float* grad_mixture) {
  float in[POSITIONS], up[POSITIONS], out[POSITIONS], to_shares[T * POSITIONS];
  for_chunks<T>(m, begin, end, [&](int64_t n, const float* shares, int64_t first, int64_t count) {
    std::fill(to_shares, to_shares + T * POSITIONS, 0.0f);
    for (int64_t c = 0; c < m.channels; ++c) {
      const int64_t at = (n * m.channels + c) * m.cells + first;
      copy_padded(m.x + at, count, in);
      copy_padded(grad + at, count, up);
      const MixedSlopes<T> slopes(m, n, c);
      Vec of_first[T] = {}, of_second[T] = {};
      for (int64_t i = 0; i < count; i += LANES) {
        Vec a1, a2;
        slopes.at(shares + i, a1, a2);
        const Vec v = load(in + i), g = load(up + i), both = g * v;
        // Where the first product is the larger one, as in the plain form.
        const auto won = (a1 > a2) ^ (v < 0.0f);
        store(out + i, (won ? a1 : a2) * g);
        const Vec one = won ? both : Vec{}, two = both - one;
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const Vec share = load(shares + t * POSITIONS + i);
          of_first[t] += one * share;
          of_second[t] += two * share;
          float* to = to_shares + t * POSITIONS + i;
          store(to, load(to) + slopes.first[t] * one + slopes.second[t] * two);
        }
      }
      std::memcpy(grad_x + at, out, count * sizeof(float));
      float* rows = grad_table + (n * 2 * m.channels + c) * T;
      for (int t = 0; t < T; ++t) {
        rows[t] += sum_of(of_first[t]);
        rows[m.channels * T + t] += sum_of(of_second[t]);
      }
    }
    for (int64_t t = 0; t < T; ++t)
      std::memcpy(grad_mixture + (n * T + t) * m.cells + first, to_shares + t * POSITIONS,
                  count * sizeof(float));
  });
}

}  // namespace mobileformer
