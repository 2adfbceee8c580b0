// Where the depthwise convolution of a Mobile block gets its input rows from.
#pragma once

#include "activation.h"

namespace mobileformer {

// Positions that are computed together: what they hold stays in the second cache.
constexpr int64_t TILE = 48;

// The next tile's width: the remaining ones are about equally wide.
inline int64_t tile_width(int64_t remaining) {
  const int64_t tiles = (remaining + TILE - 1) / TILE;
  return (remaining + tiles - 1) / tiles;
}

// Makes a row [width][padded(channels)] of image n; each channel beyond `channels` is zero.
struct RowSource {
  virtual ~RowSource() = default;
  virtual void make(int64_t n, int64_t row, float* out) const = 0;
};

// Rows of a map [n][height][width][channels].
struct MapRows : RowSource {
  const float* x;
  int64_t height, width, channels;

  MapRows(const float* x, int64_t height, int64_t width, int64_t channels)
      : x(x), height(height), width(width), channels(channels) {}

  void make(int64_t n, int64_t row, float* out) const override {
    const int64_t ld = padded(channels);
    const float* from = x + (n * height + row) * width * channels;
    if (ld == channels) {
      std::memcpy(out, from, width * channels * sizeof(float));
      return;
    }
    for (int64_t i = 0; i < width; ++i, from += channels, out += ld) {
      std::memcpy(out, from, channels * sizeof(float));
      std::fill(out + channels, out + ld, 0.0f);
    }
  }
};

// A pointwise convolution of such rows, and its activation.
struct ExpandedRows : RowSource {
  const float* x;
  int64_t height, width, channels, hidden;
  const float *weight, *bias;
  Activation act;
  int64_t table_size;  // floats of a table per image

  void make(int64_t n, int64_t row, float* out) const override {
    const int64_t ld = padded(hidden), first = (n * height + row) * width;
    Activation own = act;
    if (own.table) own.table += n * table_size;
    for (int64_t i = 0, count; i < width; i += count) {
      count = tile_width(width - i);
      float* at = out + i * ld;
      fill_rows(at, count, ld, bias, ld);
      multiply(count, channels, ld, x + (first + i) * channels, channels, 1, weight, true, 0, at, ld);
      activate(own, at, ld, count, ld, first + i);
    }
  }
};

// The stem: a 3x3 convolution of stride 2 over images [n][3][height][width], and ReLU6.
struct StemRows : RowSource {
  const float* image;
  int64_t height, width, channels;
  const float *weight, *bias;

  int64_t out_width() const { return (width + 1) / 2; }

  void make(int64_t n, int64_t row, float* out) const override {
    const int64_t ld = padded(channels);
    Activation relu6;
    relu6.kind = RELU6;
    float taps[27 * TILE];
    for (int64_t i = 0, count; i < out_width(); i += count) {
      count = tile_width(out_width() - i);
      gather(n, row, i, count, taps);
      float* at = out + i * ld;
      fill_rows(at, count, ld, bias, ld);
      multiply(count, 27, ld, taps, 1, TILE, weight, true, 0, at, ld);
      activate(relu6, at, ld, count, ld, 0);
    }
  }

 private:
  // taps[27][TILE]: what the kernel sees at each position; zero outside the image.
  void gather(int64_t n, int64_t row, int64_t first, int64_t count, float* taps) const {
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t ky = 0; ky < 3; ++ky) {
        const int64_t y = 2 * row + ky - 1;
        const bool inside = y >= 0 && y < height;
        const float* line = image + ((n * 3 + c) * height + (inside ? y : 0)) * width;
        for (int64_t kx = 0; kx < 3; ++kx, taps += TILE) {
          if (!inside) {
            std::fill(taps, taps + count, 0.0f);
            continue;
          }
          const int64_t x = 2 * first + kx - 1;
          const int64_t begin = x < 0, end = std::min(count, (width - x + 1) / 2);
          std::fill(taps, taps + count, 0.0f);
          for (int64_t i = begin; i < end; ++i) taps[i] = line[x + 2 * i];
        }
      }
  }
};

// A map [n][in_height][in_width][channels] resized bilinearly (align_corners=False).
struct ResizedRows : RowSource {
  const float* x;
  int64_t in_height, in_width, height, width, channels;

  void make(int64_t n, int64_t row, float* out) const override {
    const int64_t ld = padded(channels);
    int64_t top, bottom;
    const float down = between(row, in_height, height, top, bottom);
    const float* upper = x + (n * in_height + top) * in_width * channels;
    const float* lower = x + (n * in_height + bottom) * in_width * channels;
    for (int64_t i = 0; i < width; ++i, out += ld) {
      int64_t left, right;
      const float along = between(i, in_width, width, left, right);
      const float *a = upper + left * channels, *b = upper + right * channels;
      const float *c = lower + left * channels, *d = lower + right * channels;
      const float wa = (1 - down) * (1 - along), wb = (1 - down) * along;
      const float wc = down * (1 - along), wd = down * along;
      for (int64_t k = 0; k < channels; ++k) out[k] = wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
      std::fill(out + channels, out + ld, 0.0f);
    }
  }

 private:
  // The two cells around an output cell's centre, and how far it lies towards the second.
  static float between(int64_t at, int64_t from, int64_t to, int64_t& first, int64_t& second) {
    const float scale = static_cast<float>(from) / to;
    const float place = std::max(0.0f, (at + 0.5f) * scale - 0.5f);
    first = std::min(static_cast<int64_t>(place), from - 1);
    second = std::min(first + 1, from - 1);
    return place - first;
  }
};

}  // namespace mobileformer
