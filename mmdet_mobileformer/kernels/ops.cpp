// The operators of the folded model; mmdet_mobileformer/deploy/parts.py says what they compute.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>

#include "activation.h"
#include "rows.h"
#include "tokens.h"

namespace mobileformer {

using at::Tensor;
using Maybe = std::optional<Tensor>;

const float* floats(const Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous() && t.device().is_cpu(),
              "mobileformer: the compiled kernels take contiguous float32 tensors on the CPU");
  return t.const_data_ptr<float>();
}
const float* floats(const Maybe& t) { return t ? floats(*t) : nullptr; }
const bool* flags(const Maybe& t) {
  if (!t) return nullptr;
  TORCH_CHECK(t->scalar_type() == at::kBool && t->is_contiguous(), "mobileformer: masks are bool");
  return t->const_data_ptr<bool>();
}

Activation activation(int64_t kind, const Maybe& table, const Maybe& mixture) {
  Activation act;
  act.kind = static_cast<Kind>(kind);
  if (kind != DYNAMIC) return act;
  act.table = floats(table);
  act.tokens = table->size(1);
  act.stride = table->size(3);
  act.mixture = floats(mixture);
  TORCH_CHECK(act.tokens <= 6 && (act.tokens == 1 || act.mixture), "mobileformer: 1 to 6 tokens");
  return act;
}

// Scratch memory of a thread, kept: fresh pages cost more than what is computed in them.
float* scratch(int64_t size, int slot) {
  thread_local std::vector<float> buffers[8];
  auto& buffer = buffers[slot];
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
  return buffer.data();
}

// What follows a tile of finished features: both bridges, and the tile's way to memory.
struct Bridges {
  int64_t batch, height, width, channels;
  int64_t heads = 0, read = 0, asked = 0;
  const float *keys = nullptr, *values = nullptr, *queries = nullptr, *looks = nullptr;
  const float *places = nullptr, *rows = nullptr, *columns = nullptr;
  bool one_place = true, one_position = true;
  const bool* mask = nullptr;
  float *out = nullptr, *attended = nullptr, *mean = nullptr;
  std::vector<Tensor> results;  // out, attended, mean

  Bridges(const at::TensorOptions& options, int64_t n, int64_t h, int64_t w, int64_t c, int64_t heads,
          const Maybe& key, const Maybe& value, const Maybe& query, const Maybe& look,
          const Maybe& place, const Maybe& row, const Maybe& column, const Maybe& valid, bool want_mean,
          bool want_out)
      : batch(n), height(h), width(w), channels(c), heads(heads) {
    keys = floats(key), values = floats(value), queries = floats(query), looks = floats(look);
    places = floats(place), rows = floats(row), columns = floats(column), mask = flags(valid);
    if (key) read = key->size(1);
    if (query) asked = query->size(1);
    if (place) one_place = place->size(0) == 1;
    if (row) one_position = row->size(0) == 1;
    results = {at::empty(want_out ? at::IntArrayRef{n, h, w, c} : at::IntArrayRef{0}, options),
               at::empty({query ? n : 0, asked, c}, options),
               at::empty({want_mean ? n : 0, h * w, asked}, options)};
    if (want_out) out = results[0].mutable_data_ptr<float>();
    attended = results[1].mutable_data_ptr<float>();
    if (want_mean) mean = results[2].mutable_data_ptr<float>();
  }

  int64_t cells() const { return height * width; }
  Heads reading() const { return {heads, read, channels / std::max<int64_t>(heads, 1)}; }
  Heads asking() const { return {heads, asked, channels / std::max<int64_t>(heads, 1)}; }
};

// The bridges of one image and one thread.
struct BridgeState {
  const Bridges& b;
  int64_t n;
  std::optional<Reading> reading;
  std::optional<Queries> queries;
  std::optional<Gathered> gathered;

  BridgeState(const Bridges& bridges, int64_t image) : b(bridges), n(image) {
    if (b.keys)
      reading.emplace(b.reading(), b.keys + n * b.read * b.channels,
                      b.values + n * b.read * b.channels);
    if (!b.queries) return;
    const Heads h = b.asking();
    queries.emplace(h, b.queries + n * b.asked * b.channels,
                    b.looks ? b.looks + n * b.heads * b.asked * 4 : nullptr);
    gathered.emplace(h);
  }

  // x: [count][padded(channels)], the features of the positions from `cell` on.
  void tile(float* x, int64_t cell, int64_t count) {
    const int64_t ld = padded(b.channels);
    float* scores = scratch(2 * TILE * padded(std::max(b.read, b.asked)), 0);
    if (reading) reading->tile(x, locate(x, cell, count), ld, count, scores);
    if (b.out) {
      float* to = b.out + (n * b.cells() + cell) * b.channels;
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(to + i * b.channels, x + i * ld, b.channels * sizeof(float));
    }
    if (gathered)
      gathered->tile(*queries, x, locate(x, cell, count), ld, count,
                     b.mask ? b.mask + n * b.cells() + cell : nullptr,
                     b.places ? b.places + ((b.one_place ? 0 : n) * b.cells() + cell) * 4 : nullptr,
                     b.mean ? b.mean + (n * b.cells() + cell) * b.asked : nullptr, scores);
  }

 private:
  const float* locate(const float* x, int64_t cell, int64_t count) {
    if (!b.rows) return x;
    const int64_t ld = padded(b.channels), half = b.channels / 2, image = b.one_position ? 0 : n;
    float* located = scratch(TILE * ld, 1);
    for (int64_t i = 0; i < count; ++i) {
      const float* row = b.rows + (image * b.height + (cell + i) / b.width) * half;
      const float* column = b.columns + (image * b.width + (cell + i) % b.width) * half;
      for (int64_t c = 0; c < half; ++c) {
        located[i * ld + c] = x[i * ld + c] + row[c];
        located[i * ld + half + c] = x[i * ld + half + c] + column[c];
      }
    }
    return located;
  }
};

// Runs f(image, first row, end row, state) in parallel and puts together what was gathered.
template <typename F>
void in_bands(const Bridges& b, F f) {
  const int64_t threads = at::get_num_threads();
  const int64_t bands = b.batch % threads == 0 ? 1 : std::min(threads, b.height);
  std::vector<std::optional<Gathered>> parts(b.batch * bands);
  at::parallel_for(0, b.batch * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t n = chunk / bands, band = chunk % bands;
      BridgeState state(b, n);
      f(n, b.height * band / bands, b.height * (band + 1) / bands, state);
      parts[chunk] = std::move(state.gathered);
    }
  });
  if (!b.queries) return;
  for (int64_t n = 0; n < b.batch; ++n) {
    Gathered& all = *parts[n * bands];
    for (int64_t band = 1; band < bands; ++band) all.add(b.asking(), *parts[n * bands + band]);
    all.write(b.asking(), b.attended + n * b.asked * b.channels);
  }
}

// Depthwise convolution, activation, pointwise convolution, bridges: row by row, in cache.
void run_mobile(const RowSource& source, const Bridges& b, int64_t in_height, int64_t in_width,
                int64_t channels, int64_t filters, int64_t stride, const float* depthwise_weight,
                const Activation& act, int64_t table_size, const float* weight, const float* bias,
                const float* residual, bool from_source, const bool* mask) {
  const int64_t ld = padded(channels), hidden = channels * filters, hidden_ld = padded(hidden) + PAD;
  const int64_t out_ld = padded(b.channels), row_size = (in_width + 2) * ld;
  in_bands(b, [&](int64_t n, int64_t first, int64_t end, BridgeState& state) {
    // Three rows with a border of zeros on either side, and a row of zeros.
    float* ring = scratch(4 * row_size, 2);
    std::fill(ring, ring + 4 * row_size, 0.0f);
    const float* zeros = ring + 3 * row_size;
    float* inner = scratch(TILE * hidden_ld, 3);
    float* tile = scratch(TILE * out_ld, 4);
    Activation own = act;
    if (own.table) own.table += n * table_size;
    int64_t made = std::max<int64_t>(first * stride - 1, 0);
    for (int64_t y = first; y < end; ++y) {
      for (; made < std::min(y * stride + 2, in_height); ++made) {
        float* row = ring + made % 3 * row_size + ld;
        source.make(n, made, row);
        const bool* padding = mask ? mask + (n * in_height + made) * in_width : nullptr;
        for (int64_t i = 0; padding && i < in_width; ++i)
          if (padding[i]) std::fill(row + i * ld, row + (i + 1) * ld, 0.0f);
      }
      const float* rows[3];
      for (int64_t i = 0; i < 3; ++i) {
        const int64_t at = y * stride + i - 1;
        rows[i] = at >= 0 && at < in_height ? ring + at % 3 * row_size : zeros;
      }
      for (int64_t x = 0, count; x < b.width; x += count) {
        count = tile_width(b.width - x);
        const int64_t cell = y * b.width + x;
        depthwise(rows, ld, channels, filters, stride, x, count, depthwise_weight, own,
                  n * b.cells() + cell, inner, hidden_ld);
        fill_rows(tile, count, out_ld, bias, out_ld);
        if (residual || from_source)
          for (int64_t i = 0; i < count; ++i) {
            const float* more = from_source ? rows[1] + (x + i + 1) * ld
                                            : residual + (n * b.cells() + cell + i) * b.channels;
            for (int64_t c = 0; c < b.channels; ++c) tile[i * out_ld + c] += more[c];
          }
        multiply(count, hidden, out_ld, inner, hidden_ld, 1, weight, true, 0, tile, out_ld);
        state.tile(tile, cell, count);
      }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> mobile(
    const Tensor& x, at::string_view source, at::IntArrayRef grid, const Maybe& first_weight,
    const Maybe& first_bias, int64_t act1, const Maybe& slopes1, const Tensor& depthwise_weight,
    int64_t channels, int64_t stride, int64_t act2, const Maybe& slopes2, const Maybe& mixture,
    const Tensor& weight, const Tensor& bias, int64_t out_channels, const Maybe& residual,
    bool from_source, const Maybe& mask, const Maybe& out_mask, int64_t heads, const Maybe& keys,
    const Maybe& values, const Maybe& queries, const Maybe& looks, const Maybe& places,
    const Maybe& position_rows, const Maybe& position_columns, bool want_mean) {
  const int64_t n = x.size(0), height = grid[0], width = grid[1];
  const int64_t out_height = (height - 1) / stride + 1, out_width = (width - 1) / stride + 1;
  const Bridges b(x.options(), n, out_height, out_width, out_channels, heads, keys, values, queries,
                  looks, places, position_rows, position_columns, out_mask, want_mean, true);
  std::unique_ptr<RowSource> rows;
  if (source == "stem") {
    auto stem = std::make_unique<StemRows>();
    stem->image = floats(x), stem->height = x.size(2), stem->width = x.size(3);
    stem->channels = channels, stem->weight = floats(first_weight), stem->bias = floats(first_bias);
    rows = std::move(stem);
  } else if (source == "resize") {
    auto resized = std::make_unique<ResizedRows>();
    resized->x = floats(x), resized->in_height = x.size(1), resized->in_width = x.size(2);
    resized->height = height, resized->width = width, resized->channels = channels;
    rows = std::move(resized);
  } else if (source == "expand") {
    auto expanded = std::make_unique<ExpandedRows>();
    expanded->x = floats(x), expanded->height = height, expanded->width = width;
    expanded->channels = x.size(3), expanded->hidden = channels;
    expanded->weight = floats(first_weight), expanded->bias = floats(first_bias);
    expanded->act = activation(act1, slopes1, mixture);
    expanded->table_size = slopes1 ? slopes1->size(1) * 2 * slopes1->size(3) : 0;
    rows = std::move(expanded);
  } else {
    rows = std::make_unique<MapRows>(floats(x), height, width, channels);
  }
  const int64_t filters = depthwise_weight.size(0);
  run_mobile(*rows, b, height, width, channels, filters, stride, floats(depthwise_weight),
             activation(act2, slopes2, mixture), slopes2 ? slopes2->size(1) * 2 * slopes2->size(3) : 0,
             floats(weight), floats(bias), floats(residual), from_source, flags(mask));
  return {b.results[0], b.results[1], b.results[2]};
}

std::tuple<Tensor, Tensor, Tensor> bridge(const Tensor& x, const Maybe& out_mask, int64_t heads,
                                          const Maybe& keys, const Maybe& values,
                                          const Maybe& queries, const Maybe& looks,
                                          const Maybe& places, const Maybe& position_rows,
                                          const Maybe& position_columns, bool want_mean) {
  const int64_t channels = x.size(3), ld = padded(channels);
  const Bridges b(x.options(), x.size(0), x.size(1), x.size(2), channels, heads, keys, values,
                  queries, looks, places, position_rows, position_columns, out_mask, want_mean,
                  keys.has_value());
  const float* from = floats(x);
  in_bands(b, [&](int64_t n, int64_t first, int64_t end, BridgeState& state) {
    float* tile = scratch(TILE * ld, 4);
    for (int64_t cell = first * b.width, count; cell < end * b.width; cell += count) {
      count = tile_width(end * b.width - cell);
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(tile + i * ld, from + (n * b.cells() + cell + i) * channels,
                    channels * sizeof(float));
        std::fill(tile + i * ld + channels, tile + (i + 1) * ld, 0.0f);
      }
      state.tile(tile, cell, count);
    }
  });
  return {b.results[0], b.results[1], b.results[2]};
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t out_channels,
              int64_t act) {
  auto sizes = x.sizes().vec();
  const int64_t channels = sizes.back(), rows = x.numel() / channels, ld = padded(out_channels);
  sizes.back() = out_channels;
  Tensor out = at::empty(sizes, x.options());
  const float *from = floats(x), *w = floats(weight), *add = floats(bias);
  float* to = out.mutable_data_ptr<float>();
  const Activation own = activation(act, {}, {});
  const int64_t tiles = (rows + TILE - 1) / TILE;
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    const bool direct = ld == out_channels;
    float* buffer = direct ? nullptr : scratch(TILE * ld, 4);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = t * TILE, count = std::min(TILE, rows - row);
      float* tile = direct ? to + row * ld : buffer;
      fill_rows(tile, count, ld, add, ld);
      multiply(count, channels, ld, from + row * channels, channels, 1, w, true, 0, tile, ld);
      activate(own, tile, ld, count, ld, 0);
      for (int64_t i = 0; !direct && i < count; ++i)
        std::memcpy(to + (row + i) * out_channels, tile + i * ld, out_channels * sizeof(float));
    }
  });
  return out;
}

// Softmax of PAD scores times `scale`, of which those beyond `count` are NEVER.
void softmax(float* scores, int64_t count, float scale) {
  const float top = *std::max_element(scores, scores + count);
  Vec total = {};
  for (int64_t t = 0; t < PAD; t += LANES) {
    const Vec e = exponential((load(scores + t) - top) * scale);
    total += e;
    store(scores + t, e);
  }
  const Vec share = splat(1.0f / sum_of(total));
  for (int64_t t = 0; t < PAD; t += LANES) store(scores + t, load(scores + t) * share);
}

// Scores [n][height * width][tokens] to shares [n][out_height * out_width][tokens], pooling if smaller.
Tensor token_mixture(const Tensor& scores, int64_t height, int64_t width, int64_t out_height,
                     int64_t out_width, const Maybe& mask) {
  const int64_t n = scores.size(0), tokens = scores.size(2);
  Tensor out = at::empty({n, out_height * out_width, tokens}, scores.options());
  const float* from = floats(scores);
  const bool* padding = flags(mask);
  float* to = out.mutable_data_ptr<float>();
  TORCH_CHECK(tokens <= PAD, "mobileformer: at most 16 tokens");
  at::parallel_for(0, n * out_height, 8, [&](int64_t begin, int64_t end) {
    float pooled[PAD];
    for (int64_t line = begin; line < end; ++line) {
      const int64_t image = line / out_height, y = line % out_height;
      const int64_t top = y * height / out_height;
      const int64_t bottom = ((y + 1) * height + out_height - 1) / out_height;
      for (int64_t x = 0; x < out_width; ++x) {
        const int64_t left = x * width / out_width;
        const int64_t right = ((x + 1) * width + out_width - 1) / out_width;
        std::fill(pooled, pooled + tokens, 0.0f);
        std::fill(pooled + tokens, pooled + PAD, NEVER);
        int64_t cells = 0;
        for (int64_t v = top; v < bottom; ++v)
          for (int64_t u = left; u < right; ++u) {
            const int64_t cell = (image * height + v) * width + u;
            // A single cell is its own mean: padding may hold anything.
            if (padding && padding[cell] && (bottom - top) * (right - left) > 1) continue;
            for (int64_t t = 0; t < tokens; ++t) pooled[t] += from[cell * tokens + t];
            ++cells;
          }
        softmax(pooled, tokens, 1.0f / std::max<int64_t>(cells, 1));
        std::memcpy(to + (line * out_width + x) * tokens, pooled, tokens * sizeof(float));
      }
    }
  });
  return out;
}

}  // namespace mobileformer

TORCH_LIBRARY(mobileformer, m) {
  m.def(
      "mobile(Tensor x, str source, SymInt[] grid, Tensor? first_weight, Tensor? first_bias, int act1, "
      "Tensor? slopes1, Tensor depthwise_weight, int channels, int stride, int act2, "
      "Tensor? slopes2, Tensor? mixture, Tensor weight, Tensor bias, int out_channels, "
      "Tensor? residual, bool from_source, Tensor? mask, Tensor? out_mask, int heads, "
      "Tensor? keys, Tensor? values, Tensor? queries, Tensor? looks, Tensor? places, "
      "Tensor? position_rows, Tensor? position_columns, bool want_mean) -> (Tensor, Tensor, Tensor)");
  m.def(
      "bridge(Tensor x, Tensor? out_mask, int heads, Tensor? keys, Tensor? values, "
      "Tensor? queries, Tensor? looks, Tensor? places, Tensor? position_rows, "
      "Tensor? position_columns, bool want_mean) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("linear(Tensor x, Tensor weight, Tensor bias, int out_channels, int act) -> Tensor");
  m.def(
      "token_mixture(Tensor scores, SymInt height, SymInt width, SymInt out_height, SymInt out_width, "
      "Tensor? mask) -> Tensor");
}

TORCH_LIBRARY_IMPL(mobileformer, CPU, m) {
  m.impl("mobile", &mobileformer::mobile);
  m.impl("bridge", &mobileformer::bridge);
  m.impl("linear", &mobileformer::linear);
  m.impl("token_mixture", &mobileformer::token_mixture);
}
