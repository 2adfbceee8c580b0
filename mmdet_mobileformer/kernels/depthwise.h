// Depthwise 3x3 convolutions of padding 1 in training: planes (N, C, H, W), float or double, several
// filters per channel, stride 1 or 2, forward and backward.
#pragma once

#include <vector>

#include "training.h"

namespace mobileformer {

// A plane with a border of zeros, whose three taps of a row are three pointers.
//
// With stride 2 the even and the odd columns stand apart, so that neighbouring outputs read
// neighbouring numbers.
template <typename S>
struct BorderedPlane {
  using V = Lanes<S>;
  int64_t height, width, stride, out_width, row;
  std::vector<S> data;

  BorderedPlane(int64_t height, int64_t width, int64_t stride)
      : height(height), width(width), stride(stride), out_width((width - 1) / stride + 1),
        // A vector may begin at the last output and, for the third tap, one or two further.
        row(V::round_up(out_width + 2) + V::N),
        data((height + 3) * row * stride, S(0)) {}

  void fill(const S* plane) {
    for (int64_t y = 0; y < height; ++y) {
      S* even = data.data() + (y + 1) * row * stride;
      const S* from = plane + y * width;
      if (stride == 1) {
        std::memcpy(even + 1, from, width * sizeof(S));
        continue;
      }
      S* odd = even + row;
      for (int64_t i = 0; i < (width + 1) / 2; ++i) odd[i] = from[2 * i];
      for (int64_t i = 0; i < width / 2; ++i) even[i + 1] = from[2 * i + 1];
    }
  }

  // The taps of output row y under kernel row k.
  void taps(int64_t y, int64_t k, const S* (&to)[3]) const {
    const S* even = data.data() + (y * stride + k) * row * stride;
    to[0] = even;
    to[1] = stride == 1 ? even + 1 : even + row;
    to[2] = stride == 1 ? even + 2 : even + 1;
  }
};

// Sizes; outputs are (N, C * filters, ceil(H / stride), ceil(W / stride)).
template <typename S>
struct Depthwise {
  using V = Lanes<S>;
  using Vec = typename V::Vec;
  int64_t batch, channels, height, width, filters, stride;
  const S *x, *weight;  // [n][c][height][width], [c][filters][9]

  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t out_cells() const { return out_height() * out_width(); }

  // Channels [begin, end) of all images.
  void forward(int64_t begin, int64_t end, S* out) const {
    BorderedPlane<S> plane(height, width, stride);
    std::vector<S> line(V::round_up(out_width()));
    for (int64_t c = begin; c < end; ++c)
      for (int64_t n = 0; n < batch; ++n) {
        plane.fill(x + (n * channels + c) * height * width);
        for (int64_t f = 0; f < filters; ++f) {
          const S* w = weight + (c * filters + f) * 9;
          S* to = out + ((n * channels + c) * filters + f) * out_cells();
          for (int64_t y = 0; y < out_height(); ++y) {
            const S* t[3][3];
            for (int64_t k = 0; k < 3; ++k) plane.taps(y, k, t[k]);
            for (int64_t i = 0; i < out_width(); i += V::N) V::store(&line[i], nine(t, w, i));
            std::memcpy(to + y * out_width(), line.data(), out_width() * sizeof(S));
          }
        }
      }
  }

  // Gradients of x and of the weights, channels [begin, end) of all images; grad as the output.
  void backward(int64_t begin, int64_t end, const S* grad, S* grad_x, S* grad_weight) const {
    BorderedPlane<S> plane(height, width, stride);
    // Outputs' gradients with zeros around: what follows reads one row and column beyond each edge.
    std::vector<BorderedPlane<S>> ups(filters, BorderedPlane<S>(out_height(), out_width(), 1));
    std::vector<S> line(2 * (V::round_up(width + 2) + V::N));
    for (int64_t c = begin; c < end; ++c) {
      std::fill(grad_weight + c * filters * 9, grad_weight + (c + 1) * filters * 9, S(0));
      for (int64_t n = 0; n < batch; ++n) {
        plane.fill(x + (n * channels + c) * height * width);
        for (int64_t f = 0; f < filters; ++f) {
          ups[f].fill(grad + ((n * channels + c) * filters + f) * out_cells());
          weights(plane, ups[f], grad_weight + (c * filters + f) * 9);
        }
        S* to = grad_x + (n * channels + c) * height * width;
        const S* w = weight + c * filters * 9;
        for (int64_t y = 0; y < height; ++y) {
          if (stride == 1)
            features_row(ups, w, y, line.data());
          else
            features_row_of_two(ups, w, y, line.data());
          std::memcpy(to + y * width, line.data(), width * sizeof(S));
        }
      }
    }
  }

 private:
  static Vec nine(const S* const (&t)[3][3], const S* w, int64_t i) {
    Vec sum = {};
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k)
#pragma GCC unroll 3
      for (int l = 0; l < 3; ++l) sum += w[3 * k + l] * V::load(t[k][l] + i);
    return sum;
  }

  void weights(const BorderedPlane<S>& plane, const BorderedPlane<S>& up, S* to) const {
    Vec sums[9] = {};
    for (int64_t y = 0; y < out_height(); ++y) {
      const S *t[3][3], *g[3];
      for (int64_t k = 0; k < 3; ++k) plane.taps(y, k, t[k]);
      // The middle tap; zeros follow the last column.
      up.taps(y, 1, g);
      for (int64_t i = 0; i < out_width(); i += V::N) {
        const Vec v = V::load(g[1] + i);
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k)
#pragma GCC unroll 3
          for (int l = 0; l < 3; ++l) sums[3 * k + l] += v * V::load(t[k][l] + i);
      }
    }
    for (int64_t k = 0; k < 9; ++k) to[k] += V::sum_of(sums[k]);
  }

  // Stride 1: the same convolution with the kernel turned around, added up over the filters.
  void features_row(const std::vector<BorderedPlane<S>>& ups, const S* w, int64_t y, S* line) const {
    for (int64_t f = 0; f < filters; ++f, w += 9) {
      const S* t[3][3];
      for (int64_t k = 0; k < 3; ++k) ups[f].taps(y, k, t[k]);
      S turned[9];
      std::reverse_copy(w, w + 9, turned);
      for (int64_t i = 0; i < width; i += V::N)
        V::store(line + i, f == 0 ? nine(t, turned, i) : V::load(line + i) + nine(t, turned, i));
    }
  }

  // Stride 2: input column 2j is read by output j (tap 1) alone, column 2j - 1 by j (tap 0) and j - 1
  // (tap 2), and rows likewise.
  void features_row_of_two(const std::vector<BorderedPlane<S>>& ups, const S* w, int64_t y,
                           S* line) const {
    const int64_t outs = out_width(), half = V::round_up(outs + 1);
    S *to_even = line + V::round_up(width + 2), *to_odd = to_even + half;
    std::fill(to_even, to_odd + half, S(0));
    for (int64_t f = 0; f < filters; ++f, w += 9) {
      // Row of the bordered gradients (one below the output's) and of the kernel.
      const int64_t rows[2] = {y / 2 + 1, (y + 1) / 2 + 1};
      const int64_t kernel_rows[2] = {y % 2 == 0 ? 1 : 2, 0};
      for (int64_t part = 0; part < (y % 2 == 0 ? 1 : 2); ++part) {
        const S *g = ups[f].data.data() + rows[part] * ups[f].row, *k = w + 3 * kernel_rows[part];
        for (int64_t i = 0; i <= outs; i += V::N) {
          const Vec at = V::load(g + 1 + i), before = V::load(g + i);
          V::store(to_even + i, V::load(to_even + i) + k[1] * at);
          V::store(to_odd + i, V::load(to_odd + i) + k[0] * at + k[2] * before);
        }
      }
    }
    for (int64_t i = 0; 2 * i < width; ++i) line[2 * i] = to_even[i];
    for (int64_t i = 1; 2 * i - 1 < width; ++i) line[2 * i - 1] = to_odd[i];
  }
};

}  // namespace mobileformer
