// What a training step does to the features between two convolutions: BatchNorm and an activation, forward
// and backward, on planes (N, C, H, W), in float or double.
//
// Nothing but the convolutions' results is kept for the backward pass. The slopes of a dynamic ReLU are
// mixed from the tokens' in registers, in both directions: what autograd would keep and read again is
// many times the size of the features.
#pragma once

#include <algorithm>
#include <cstring>

#include "gemm.h"

namespace mobileformer {

// Vectors of as many bytes as gemm.h's, of either type.
template <typename S>
struct Lanes {
  static constexpr int64_t N = LANES * 4 / sizeof(S);
  typedef S Vec __attribute__((vector_size(LANES * 4), aligned(sizeof(S)), may_alias));

  static Vec load(const S* p) { return *reinterpret_cast<const Vec*>(p); }
  static void store(S* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
  static int64_t round_up(int64_t n) { return (n + N - 1) / N * N; }
  static S sum_of(Vec v) {
    S total = 0;
    for (int64_t i = 0; i < N; ++i) total += v[i];
    return total;
  }
};

// Positions that are treated together: their shares of the tokens stay in the first cache.
constexpr int64_t POSITIONS = 512;

// y = x * scale + shift per channel, then max(a1 y, a2 y) with the slopes of `tokens` tokens, or, without
// tokens, min(max(y, 0), top).
template <typename S>
struct NormAct {
  int64_t batch, channels, cells, tokens;
  const S *x, *scale, *shift;  // [n][c][cells], [c], [c]
  const S *table, *mixture;    // [n][2 c][tokens], [n][tokens][cells] or null: one token everywhere
  S top;

  int64_t chunks() const { return (cells + POSITIONS - 1) / POSITIONS; }

  // Runs f(image, shares [tokens][POSITIONS], first position, count) for each chunk in [begin, end).
  template <int T, typename F>
  void for_chunks(int64_t begin, int64_t end, F f) const {
    S shares[std::max(T, 1) * POSITIONS];
    if (mixture == nullptr) std::fill(shares, shares + POSITIONS, S(1));
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t n = chunk / chunks(), first = chunk % chunks() * POSITIONS;
      const int64_t count = std::min(POSITIONS, cells - first);
      for (int64_t t = 0; mixture != nullptr && t < T; ++t)
        copy_padded(mixture + (n * T + t) * cells + first, count, shares + t * POSITIONS);
      f(n, shares, first, count);
    }
  }

  // `count` numbers in whole vectors: where they are if they fill vectors, else a copy with zeros behind.
  static const S* whole(const S* from, int64_t count, S* copy) {
    if (count % Lanes<S>::N == 0) return from;
    copy_padded(from, count, copy);
    return copy;
  }

  static void copy_padded(const S* from, int64_t count, S* to) {
    std::memcpy(to, from, count * sizeof(S));
    std::fill(to + count, to + Lanes<S>::round_up(count), S(0));
  }
};

// One channel's slopes.
template <typename S, int T>
struct ChannelSlopes {
  using V = Lanes<S>;
  const S *first = nullptr, *second = nullptr;

  ChannelSlopes(const NormAct<S>& m, int64_t n, int64_t channel) {
    if constexpr (T > 0) {
      first = m.table + (n * 2 * m.channels + channel) * T;
      second = first + m.channels * T;
    }
  }

  // shares: [tokens][POSITIONS] from the positions on.
  void at(const S* shares, typename V::Vec& a1, typename V::Vec& a2) const {
    a1 = typename V::Vec{}, a2 = typename V::Vec{};
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const auto share = V::load(shares + t * POSITIONS);
      a1 += first[t] * share;
      a2 += second[t] * share;
    }
  }
};

// The activated features of the chunks [begin, end).
template <typename S, int T>
void forward_chunks(const NormAct<S>& m, int64_t begin, int64_t end, S* z) {
  using V = Lanes<S>;
  using Vec = typename V::Vec;
  S in_copy[POSITIONS], out_copy[POSITIONS];
  m.template for_chunks<T>(begin, end, [&](int64_t n, const S* shares, int64_t first, int64_t count) {
    for (int64_t c = 0; c < m.channels; ++c) {
      const int64_t at = (n * m.channels + c) * m.cells + first;
      const S* in = NormAct<S>::whole(m.x + at, count, in_copy);
      S* out = in == in_copy ? out_copy : z + at;
      const ChannelSlopes<S, T> slopes(m, n, c);
      for (int64_t i = 0; i < count; i += V::N) {
        const Vec y = V::load(in + i) * m.scale[c] + m.shift[c];
        if constexpr (T > 0) {
          Vec a1, a2;
          slopes.at(shares + i, a1, a2);
          const Vec one = a1 * y, two = a2 * y;
          V::store(out + i, one > two ? one : two);
        } else {
          const Vec over = y > Vec{} ? y : Vec{}, top = m.top - Vec{};
          V::store(out + i, over < top ? over : top);
        }
      }
      if (out == out_copy) std::memcpy(z + at, out, count * sizeof(S));
    }
  });
}

// Where the gradients go; [n]... as in NormAct. The sums belong to one thread and are added to.
template <typename S>
struct NormActGradients {
  S *y;               // of the activated features, which becomes that of x * scale + shift
  S *mixture;         // of the shares, or null
  S *table;           // sums
  S *sum, *weighted;  // sums over positions of y's and of y's times (x - mean)
};

template <typename S, int T>
void backward_chunks(const NormAct<S>& m, const S* mean, int64_t begin, int64_t end,
                       const NormActGradients<S>& to) {
  using V = Lanes<S>;
  using Vec = typename V::Vec;
  S in_copy[POSITIONS], up_copy[POSITIONS], to_shares[std::max(T, 1) * POSITIONS];
  m.template for_chunks<T>(begin, end, [&](int64_t n, const S* shares, int64_t first, int64_t count) {
    std::fill(to_shares, to_shares + std::max(T, 1) * POSITIONS, S(0));
    for (int64_t c = 0; c < m.channels; ++c) {
      const int64_t at = (n * m.channels + c) * m.cells + first;
      const S* in = NormAct<S>::whole(m.x + at, count, in_copy);
      S* up = in == in_copy ? up_copy : to.y + at;
      if (up == up_copy) NormAct<S>::copy_padded(to.y + at, count, up);
      const ChannelSlopes<S, T> slopes(m, n, c);
      Vec of_first[T > 0 ? T : 1] = {}, of_second[T > 0 ? T : 1] = {}, sum = {}, weighted = {};
      for (int64_t i = 0; i < count; i += V::N) {
        const Vec x = V::load(in + i), y = x * m.scale[c] + m.shift[c], g = V::load(up + i);
        Vec down;
        if constexpr (T > 0) {
          Vec a1, a2;
          slopes.at(shares + i, a1, a2);
          const Vec both = g * y;
          // Where the first product is the larger one, as in the plain form.
          const auto won = (a1 > a2) ^ (y < S(0));
          down = (won ? a1 : a2) * g;
          const Vec one = won ? both : Vec{}, two = both - one;
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            const Vec share = V::load(shares + t * POSITIONS + i);
            of_first[t] += one * share;
            of_second[t] += two * share;
            S* more = to_shares + t * POSITIONS + i;
            V::store(more, V::load(more) + slopes.first[t] * one + slopes.second[t] * two);
          }
        } else {
          const Vec top = m.top - Vec{};
          down = y > Vec{} ? g : Vec{};
          down = y < top ? down : Vec{};
        }
        // Beyond the last position g is zero, and so is all that is added up.
        V::store(up + i, down);
        sum += down;
        weighted += down * (x - mean[c]);
      }
      if (up == up_copy) std::memcpy(to.y + at, up, count * sizeof(S));
      to.sum[c] += V::sum_of(sum);
      to.weighted[c] += V::sum_of(weighted);
      for (int t = 0; t < T; ++t) {
        S* rows = to.table + (n * 2 * m.channels + c) * T;
        rows[t] += V::sum_of(of_first[t]);
        rows[m.channels * T + t] += V::sum_of(of_second[t]);
      }
    }
    for (int64_t t = 0; to.mixture != nullptr && t < T; ++t)
      std::memcpy(to.mixture + (n * T + t) * m.cells + first, to_shares + t * POSITIONS, count * sizeof(S));
  });
}

// Mean and biased variance of one channel, [n][c][cells]: chunks in cache, then put together (Chan et al.).
template <typename S>
void channel_statistics(const S* x, int64_t batch, int64_t channels, int64_t cells, int64_t c, S* mean,
                        S* variance) {
  using V = Lanes<S>;
  using Vec = typename V::Vec;
  double total = 0, middle = 0, squares = 0;
  for (int64_t n = 0; n < batch; ++n) {
    const S* plane = x + (n * channels + c) * cells;
    for (int64_t first = 0; first < cells; first += 4 * POSITIONS) {
      const int64_t count = std::min(4 * POSITIONS, cells - first), whole = count / V::N * V::N;
      Vec sum = {}, square = {};
      for (int64_t i = 0; i < whole; i += V::N) sum += V::load(plane + first + i);
      double own = V::sum_of(sum);
      for (int64_t i = whole; i < count; ++i) own += plane[first + i];
      own /= count;
      const Vec at = S(own) - Vec{};
      for (int64_t i = 0; i < whole; i += V::N) {
        const Vec away = V::load(plane + first + i) - at;
        square += away * away;
      }
      double spread = V::sum_of(square);
      for (int64_t i = whole; i < count; ++i) {
        const double away = plane[first + i] - own;
        spread += away * away;
      }
      const double apart = own - middle, all = total + count;
      middle += apart * count / all;
      squares += spread + apart * apart * total * count / all;
      total = all;
    }
  }
  *mean = S(middle);
  *variance = S(squares / total);
}

}  // namespace mobileformer
