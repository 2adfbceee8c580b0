// Activations, and the depthwise convolution that runs into one.
#pragma once

#include "gemm.h"

namespace mobileformer {

enum Kind : int64_t { NONE = 0, RELU = 1, RELU6 = 2, DYNAMIC = 3 };

// What follows a convolution.
struct Activation {
  Kind kind = NONE;
  // DYNAMIC: slopes of each token, [tokens][2][stride]: first slopes, then second ones.
  const float* table = nullptr;
  int64_t tokens = 0;
  int64_t stride = 0;
  // Share of each token per position, [positions][tokens]; null for one token alone.
  const float* mixture = nullptr;

  int64_t count() const { return kind == DYNAMIC ? tokens : 0; }
};

// The slopes of LANES channels, kept in registers while the positions pass by.
template <int T>
struct Slopes {
  Vec first[T > 0 ? T : 1], second[T > 0 ? T : 1];

  Slopes(const Activation& act, int64_t channel) {
    for (int t = 0; t < T; ++t) {
      first[t] = load(act.table + 2 * t * act.stride + channel);
      second[t] = load(act.table + (2 * t + 1) * act.stride + channel);
    }
  }

  // max(a1 x, a2 x); `shares` are those of the position.
  Vec apply(Vec x, const float* shares) const {
    if constexpr (T == 1) return larger(first[0] * x, second[0] * x);
    Vec a1 = shares[0] * first[0], a2 = shares[0] * second[0];
#pragma GCC unroll 8
    for (int t = 1; t < T; ++t) {
      a1 += shares[t] * first[t];
      a2 += shares[t] * second[t];
    }
    return larger(a1 * x, a2 * x);
  }
};

template <>
struct Slopes<0> {
  Vec floor, ceiling;

  Slopes(const Activation& act, int64_t) {
    floor = splat(act.kind == NONE ? -INFINITY : 0.0f);
    ceiling = splat(act.kind == RELU6 ? 6.0f : INFINITY);
  }
  Vec apply(Vec x, const float*) const { return smaller(larger(x, floor), ceiling); }
};

// Calls f with the number of tokens as a constant, at most 6; 0 for static activations.
template <typename F>
void with_tokens(int64_t tokens, F f) {
  switch (tokens) {
    case 0: return f(std::integral_constant<int, 0>());
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    default: return f(std::integral_constant<int, 6>());
  }
}

// Activates x[count, channels] in place; `position` is the first one's number in the mixture.
inline void activate(const Activation& act, float* x, int64_t ld, int64_t count, int64_t channels,
                     int64_t position) {
  if (act.kind == NONE) return;
  with_tokens(act.count(), [&](auto tokens) {
    constexpr int T = decltype(tokens)::value;
    for (int64_t c = 0; c < channels; c += LANES) {
      const Slopes<T> slopes(act, c);
      const float* shares = act.mixture + position * T;
      for (int64_t i = 0; i < count; ++i, shares += T) {
        float* at = x + i * ld + c;
        store(at, slopes.apply(load(at), shares));
      }
    }
  });
}

// One row of a depthwise 3x3 convolution with `filters` per channel, and its activation.
//
// rows: three input rows, [columns][ld], whose column 0 is the border. `weight` is [filters]
// [channels / PAD][10][PAD], nine taps and the bias. out: [count][out_ld], filter after filter, each
// of `channels` channels without gaps; out_ld leaves room for PAD more.
inline void depthwise(const float* const rows[3], int64_t ld, int64_t channels, int64_t filters,
                      int64_t stride, int64_t column, int64_t count, const float* weight,
                      const Activation& act, int64_t position, float* out, int64_t out_ld) {
  with_tokens(act.count(), [&](auto tokens) {
    constexpr int T = decltype(tokens)::value;
    for (int64_t f = 0; f < filters; ++f)
      for (int64_t block = 0; block < channels; block += PAD, weight += 10 * PAD)
        for (int64_t lane = 0; lane < PAD && block + lane < channels; lane += LANES) {
          const int64_t c = block + lane;
          // A last vector that sticks out is overwritten by the next filter's first.
          const Slopes<T> slopes(act, f * channels + c);
          Vec w[10];
#pragma GCC unroll 10
          for (int i = 0; i < 10; ++i) w[i] = load(weight + i * PAD + lane);
          const float* shares = act.mixture + position * T;
          const float* top = rows[0] + column * stride * ld + c;
          const float* middle = rows[1] + column * stride * ld + c;
          const float* bottom = rows[2] + column * stride * ld + c;
          float* at = out + f * channels + c;
          for (int64_t i = 0; i < count; ++i) {
            Vec sum = w[9];
#pragma GCC unroll 3
            for (int j = 0; j < 3; ++j) {
              sum += w[j] * load(top + j * ld);
              sum += w[3 + j] * load(middle + j * ld);
              sum += w[6 + j] * load(bottom + j * ld);
            }
            store(at, slopes.apply(sum, shares));
            top += stride * ld, middle += stride * ld, bottom += stride * ld;
            at += out_ld, shares += T;
          }
        }
  });
}

}  // namespace mobileformer
