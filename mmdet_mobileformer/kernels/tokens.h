// The two bridges between a feature map and tokens, tile by tile of the map.
#pragma once

#include <vector>

#include "gemm.h"

namespace mobileformer {

constexpr float NEVER = -1e30f;

// Sizes that both bridges share: `heads` heads of `dim` channels, `count` tokens.
struct Heads {
  int64_t heads, count, dim;

  int64_t channels() const { return heads * dim; }
  int64_t lanes() const { return padded(count); }
  // Values of a head fill whole vectors, or else are computed for all channels (and dropped).
  bool whole() const { return dim % PAD == 0; }
  int64_t width() const { return whole() ? dim : padded(channels()); }
  int64_t first(int64_t head) const { return whole() ? head * dim : 0; }
};

// Tokens [count][channels] as packed matrices [dim, lanes] per head: what features are multiplied with.
inline void pack_columns(const Heads& h, const float* tokens, float* out) {
  const int64_t lanes = h.lanes();
  std::fill(out, out + h.heads * h.dim * lanes, 0.0f);
  for (int64_t head = 0; head < h.heads; ++head, out += h.dim * lanes)
    for (int64_t t = 0; t < h.count; ++t) {
      const int64_t panel = t / PANEL * PANEL, width = std::min(PANEL, lanes - panel);
      for (int64_t c = 0; c < h.dim; ++c)
        out[panel * h.dim + c * width + t - panel] = tokens[t * h.channels() + head * h.dim + c];
    }
}

// Tokens [count][channels] as packed matrices [count, width] per head: what attention is multiplied with.
inline void pack_rows(const Heads& h, const float* tokens, float* out) {
  const int64_t columns = h.width();
  std::fill(out, out + h.heads * h.count * columns, 0.0f);
  for (int64_t head = 0; head < h.heads; ++head, out += h.count * columns)
    for (int64_t c = 0; c < h.dim; ++c) {
      const int64_t column = head * h.dim - h.first(head) + c;
      const int64_t panel = column / PANEL * PANEL, width = std::min(PANEL, columns - panel);
      for (int64_t t = 0; t < h.count; ++t)
        out[panel * h.count + t * width + column - panel] = tokens[t * h.channels() + head * h.dim + c];
    }
}

// Mobile<-Former: features read tokens.
struct Reading {
  Heads h;
  std::vector<float> keys, values;

  Reading(const Heads& heads, const float* key, const float* value)
      : h(heads),
        keys(heads.heads * heads.dim * heads.lanes()),
        values(heads.heads * heads.count * heads.width()) {
    pack_columns(h, key, keys.data());
    pack_rows(h, value, values.data());
  }

  // x[count, channels] += attention; `located` is x with its position. scores: [count][lanes].
  void tile(float* x, const float* located, int64_t ld, int64_t count, float* scores) const {
    const int64_t lanes = h.lanes();
    for (int64_t head = 0; head < h.heads; ++head) {
      score(head, located, ld, count, scores);
      for (int64_t i = 0; i < count; ++i) normalise(scores + i * lanes);
      multiply(count, h.count, h.width(), scores, lanes, 1,
               values.data() + head * h.count * h.width(), true, 0, x + h.first(head), ld);
    }
  }

 private:
  void score(int64_t head, const float* located, int64_t ld, int64_t count, float* scores) const {
    const int64_t lanes = h.lanes();
    for (int64_t i = 0; i < count; ++i)
      for (int64_t t = 0; t < lanes; ++t) scores[i * lanes + t] = t < h.count ? 0.0f : NEVER;
    multiply(count, h.dim, lanes, located + head * h.dim, ld, 1,
             keys.data() + head * h.dim * lanes, true, 0, scores, lanes);
  }

  void normalise(float* row) const {
    const int64_t lanes = h.lanes();
    Vec most = load(row);
    for (int64_t t = LANES; t < lanes; t += LANES) most = larger(most, load(row + t));
    const Vec top = splat(max_of(most));
    Vec total = {};
    for (int64_t t = 0; t < lanes; t += LANES) {
      const Vec e = exponential(load(row + t) - top);
      total += e;
      store(row + t, e);
    }
    const Vec share = splat(1.0f / sum_of(total));
    for (int64_t t = 0; t < lanes; t += LANES) store(row + t, load(row + t) * share);
  }
};

// Mobile->Former: tokens gather from features. What they ask for:
struct Queries {
  Heads h;
  std::vector<float> queries, look;
  // The first so many heads ask for nothing and look where the first does: their weights are the same.
  int64_t alike = 0;

  // `looks` [heads][count][4], or null: where the heads look whatever the features are.
  Queries(const Heads& heads, const float* query, const float* looks)
      : h(heads), queries(heads.heads * heads.dim * heads.lanes()) {
    pack_columns(h, query, queries.data());
    if (looks == nullptr) return;
    look.resize(h.heads * 4 * h.lanes());
    for (int64_t head = 0; head < h.heads; ++head) {
      const Heads one{1, h.count, 4};
      pack_columns(one, looks + head * h.count * 4, look.data() + head * 4 * h.lanes());
    }
    while (alike < h.heads && asks_nothing(query, alike) &&
           std::equal(looks, looks + h.count * 4, looks + alike * h.count * 4))
      ++alike;
  }

 private:
  bool asks_nothing(const float* query, int64_t head) const {
    for (int64_t t = 0; t < h.count; ++t)
      for (int64_t c = 0; c < h.dim; ++c)
        if (query[t * h.channels() + head * h.dim + c] != 0.0f) return false;
    return true;
  }
};

// A softmax over positions that come in tiles: largest score, sum and weighted features so far.
struct Gathered {
  std::vector<float> most, total, sums;

  explicit Gathered(const Heads& h)
      : most(h.heads * h.lanes(), NEVER),
        total(h.heads * h.lanes(), 0.0f),
        sums(h.heads * h.count * h.width(), 0.0f) {}

  // One tile. `mask`: which positions are padding, or null. `places`: [count][4] for the looks.
  // `mean`: [count][tokens], the scores' mean over the heads, or null. scores: twice [count][lanes].
  void tile(const Queries& q, const float* x, const float* located, int64_t ld, int64_t count,
            const bool* mask, const float* places, float* mean, float* scores) {
    const Heads& h = q.h;
    const int64_t lanes = h.lanes();
    float* means = scores + count * lanes;
    if (mean) std::fill(means, means + count * lanes, 0.0f);
    for (int64_t head = 0, alike; head < h.heads; head += alike) {
      const bool asks = head >= q.alike;
      alike = asks ? 1 : q.alike;
      std::fill(scores, scores + count * lanes, 0.0f);
      if (asks)
        multiply(count, h.dim, lanes, located + head * h.dim, ld, 1,
                 q.queries.data() + head * h.dim * lanes, true, 0, scores, lanes);
      for (int64_t i = 0; mean && i < count * lanes; i += LANES)
        store(means + i, load(means + i) + load(scores + i));
      if (!q.look.empty())
        multiply(count, 4, lanes, places, 4, 1, q.look.data() + head * 4 * lanes, true, 0, scores,
                 lanes);
      if (mask)
        for (int64_t i = 0; i < count; ++i)
          if (mask[i]) std::fill(scores + i * lanes, scores + (i + 1) * lanes, NEVER);
      weigh(h, head, alike, count, scores);
      for (int64_t one = head; one < head + alike; ++one)
        multiply(h.count, count, h.width(), scores, 1, lanes, x + h.first(one), false, ld,
                 sums.data() + one * h.count * h.width(), h.width());
    }
    for (int64_t i = 0; mean && i < count; ++i)
      for (int64_t t = 0; t < h.count; ++t)
        mean[i * h.count + t] = means[i * lanes + t] * (1.0f / h.heads);
  }

  // Takes in what another thread gathered.
  void add(const Heads& h, const Gathered& other) {
    for (int64_t head = 0; head < h.heads; ++head)
      for (int64_t t = 0; t < h.count; ++t) {
        const int64_t at = head * h.lanes() + t;
        const float top = std::max(most[at], other.most[at]);
        const float mine = std::exp(most[at] - top), theirs = std::exp(other.most[at] - top);
        most[at] = top;
        total[at] = total[at] * mine + other.total[at] * theirs;
        float* sum = sums.data() + (head * h.count + t) * h.width();
        const float* more = other.sums.data() + (head * h.count + t) * h.width();
        for (int64_t c = 0; c < h.width(); ++c) sum[c] = sum[c] * mine + more[c] * theirs;
      }
  }

  // The attended vectors, [count][channels].
  void write(const Heads& h, float* out) const {
    for (int64_t head = 0; head < h.heads; ++head)
      for (int64_t t = 0; t < h.count; ++t)
        for (int64_t c = 0; c < h.dim; ++c)
          out[t * h.channels() + head * h.dim + c] =
              sums[(head * h.count + t) * h.width() + head * h.dim - h.first(head) + c] /
              total[head * h.lanes() + t];
  }

 private:
  // Scores to weights, of `alike` heads from `head` on; where a score exceeds all before it, the sums so
  // far shrink.
  void weigh(const Heads& h, int64_t head, int64_t alike, int64_t count, float* scores) {
    const int64_t lanes = h.lanes();
    for (int64_t t = 0; t < lanes; t += LANES) {
      const Vec before = load(most.data() + head * lanes + t);
      Vec top = before;
      for (int64_t i = 0; i < count; ++i) top = larger(top, load(scores + i * lanes + t));
      const Vec shrink = exponential(before - top);
      Vec all = load(total.data() + head * lanes + t) * shrink;
      for (int64_t i = 0; i < count; ++i) {
        const Vec score = load(scores + i * lanes + t);
        // Padding has no weight, even before the first valid position.
        const Vec e = score > NEVER ? exponential(score - top) : Vec{};
        all += e;
        store(scores + i * lanes + t, e);
      }
      for (int64_t one = head; one < head + alike; ++one) {
        store(total.data() + one * lanes + t, all);
        store(most.data() + one * lanes + t, top);
        for (int64_t lane = 0; lane < LANES && t + lane < h.count; ++lane) {
          if (shrink[lane] == 1.0f) continue;
          float* row = sums.data() + (one * h.count + t + lane) * h.width();
          for (int64_t c = 0; c < h.width(); ++c) row[c] *= shrink[lane];
        }
      }
    }
  }
};

}  // namespace mobileformer
