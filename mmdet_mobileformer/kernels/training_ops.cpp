// The operators of a training step; mmdet_mobileformer/layers/fused.py says what they compute.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>

#include "activation.h"
#include "depthwise.h"
#include "training.h"

namespace mobileformer {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

// Runs f with a zero of the tensor's type.
template <typename F>
void with_type(const Tensor& like, F f) {
  if (like.scalar_type() == at::kDouble)
    f(0.0);
  else
    f(0.0f);
}

template <typename S>
const S* read(const Tensor& t) {
  TORCH_CHECK(t.scalar_type() == c10::CppTypeToScalarType<S>::value && t.is_contiguous() &&
                  t.device().is_cpu(),
              "mobileformer: the kernels of training take contiguous tensors of one type on the CPU");
  return t.const_data_ptr<S>();
}

template <typename S>
NormAct<S> norm_act_of(const Tensor& x, const Tensor& scale, const Tensor& shift, const Maybe& table,
                       const Maybe& mixture, double top) {
  NormAct<S> m;
  m.batch = x.size(0), m.channels = x.size(1), m.cells = x.size(2) * x.size(3);
  m.tokens = table ? table->size(2) : 0;
  m.x = read<S>(x), m.scale = read<S>(scale), m.shift = read<S>(shift);
  m.table = table ? read<S>(*table) : nullptr;
  m.mixture = mixture ? read<S>(*mixture) : nullptr;
  m.top = static_cast<S>(top);
  TORCH_CHECK(scale.numel() == m.channels && shift.numel() == m.channels &&
                  (!table || table->numel() == m.batch * 2 * m.channels * m.tokens) &&
                  (!mixture || mixture->numel() == m.batch * m.tokens * m.cells),
              "mobileformer: features, statistics, table and mixture do not fit each other");
  TORCH_CHECK(m.tokens <= 6 && (mixture || m.tokens <= 1), "mobileformer: 1 to 6 tokens");
  return m;
}

Tensor norm_act(const Tensor& x, const Tensor& scale, const Tensor& shift, const Maybe& table,
                const Maybe& mixture, double top) {
  Tensor z = at::empty_like(x);
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const auto m = norm_act_of<S>(x, scale, shift, table, mixture, top);
    S* to = z.mutable_data_ptr<S>();
    at::parallel_for(0, m.batch * m.chunks(), 1, [&](int64_t begin, int64_t end) {
      with_tokens(m.tokens, [&](auto tokens) {
        forward_chunks<S, decltype(tokens)::value>(m, begin, end, to);
      });
    });
  });
  return z;
}

// Turns the gradient of the activated features into that of y = x * scale + shift, in place; gives its sums
// over positions, alone and times (x - mean), and the gradients of the table and the mixture (empty without).
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(
    Tensor& grad, const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& mean,
    const Maybe& table, const Maybe& mixture, double top) {
  Tensor grad_mixture = mixture ? at::empty_like(*mixture) : at::empty({0}, x.options());
  const int64_t channels = x.size(1), table_size = table ? table->numel() : 0;
  // A row for each thread: sums of y's gradient, these weighted, the table's; put together below.
  Tensor own = at::zeros({at::get_num_threads(), 2 * channels + table_size}, x.options());
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const auto m = norm_act_of<S>(x, scale, shift, table, mixture, top);
    read<S>(grad);
    const S* middle = read<S>(mean);
    S* rows = own.mutable_data_ptr<S>();
    at::parallel_for(0, m.batch * m.chunks(), 1, [&](int64_t begin, int64_t end) {
      S* row = rows + at::get_thread_num() * own.size(1);
      const NormActGradients<S> to{grad.mutable_data_ptr<S>(),
                                   mixture ? grad_mixture.mutable_data_ptr<S>() : nullptr,
                                   row + 2 * channels, row, row + channels};
      with_tokens(m.tokens, [&](auto tokens) {
        backward_chunks<S, decltype(tokens)::value>(m, middle, begin, end, to);
      });
    });
  });
  const Tensor sums = own.sum(0);
  Tensor grad_table = sums.slice(0, 2 * channels);
  if (table) grad_table = grad_table.view(table->sizes());
  return {sums.slice(0, 0, channels), sums.slice(0, channels, 2 * channels), grad_table,
          grad_mixture};
}

// grad = grad * a + x * b + c per channel, in place: BatchNorm's own backward pass.
void normalise_backward(Tensor& grad, const Tensor& x, const Tensor& a, const Tensor& b,
                        const Tensor& c) {
  const int64_t channels = x.size(1), cells = x.size(2) * x.size(3);
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const S *from = read<S>(x), *of_grad = read<S>(a), *of_x = read<S>(b), *add = read<S>(c);
    read<S>(grad);
    S* to = grad.mutable_data_ptr<S>();
    at::parallel_for(0, x.size(0) * channels, 8, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const S p = of_grad[plane % channels], q = of_x[plane % channels], r = add[plane % channels];
        S* __restrict__ out = to + plane * cells;
        const S* __restrict__ in = from + plane * cells;
        for (int64_t i = 0; i < cells; ++i) out[i] = out[i] * p + in[i] * q + r;
      }
    });
  });
}

std::tuple<Tensor, Tensor> statistics(const Tensor& x) {
  const int64_t channels = x.size(1), cells = x.size(2) * x.size(3);
  Tensor mean = at::empty({channels}, x.options()), variance = at::empty({channels}, x.options());
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const S* from = read<S>(x);
    S *means = mean.mutable_data_ptr<S>(), *variances = variance.mutable_data_ptr<S>();
    at::parallel_for(0, channels, 4, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        channel_statistics(from, x.size(0), channels, cells, c, means + c, variances + c);
    });
  });
  return {mean, variance};
}

template <typename S>
Depthwise<S> depthwise_of(const Tensor& x, const Tensor& weight, int64_t stride) {
  TORCH_CHECK(weight.size(0) % x.size(1) == 0 && weight.size(1) == 1 && weight.size(2) == 3 &&
                  weight.size(3) == 3 && (stride == 1 || stride == 2),
              "mobileformer: depthwise convolutions are 3x3, of stride 1 or 2");
  return {x.size(0), x.size(1), x.size(2), x.size(3), weight.size(0) / x.size(1),
          stride,    read<S>(x), read<S>(weight)};
}

Tensor depthwise_conv(const Tensor& x, const Tensor& weight, int64_t stride) {
  Tensor out = at::empty({x.size(0), weight.size(0), (x.size(2) - 1) / stride + 1,
                          (x.size(3) - 1) / stride + 1},
                         x.options());
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const auto conv = depthwise_of<S>(x, weight, stride);
    S* to = out.mutable_data_ptr<S>();
    at::parallel_for(0, conv.channels, 1,
                     [&](int64_t begin, int64_t end) { conv.forward(begin, end, to); });
  });
  return out;
}

std::tuple<Tensor, Tensor> depthwise_conv_backward(const Tensor& grad, const Tensor& x,
                                                   const Tensor& weight, int64_t stride) {
  Tensor grad_x = at::empty_like(x), grad_weight = at::empty_like(weight);
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const auto conv = depthwise_of<S>(x, weight, stride);
    const S* from = read<S>(grad);
    S *to = grad_x.mutable_data_ptr<S>(), *to_weight = grad_weight.mutable_data_ptr<S>();
    at::parallel_for(0, conv.channels, 1, [&](int64_t begin, int64_t end) {
      conv.backward(begin, end, from, to, to_weight);
    });
  });
  return {grad_x, grad_weight};
}

// A 32-bit mixing function of a number or a vector: every bit of the result depends on every bit given.
template <typename U>
inline U mix(U bits) {
  bits ^= bits >> 16, bits *= 0x7feb352du;
  bits ^= bits >> 15, bits *= 0x846ca68bu;
  return bits ^ bits >> 16;
}

// Numbers of a block, which one thread drops.
constexpr int64_t DROPPED = 1 << 14;

// x / (1 - p) with probability 1 - p and zero otherwise; the same for the same seed.
Tensor seeded_dropout(const Tensor& x, double p, int64_t seed) {
  TORCH_CHECK(p >= 0 && p < 1, "mobileformer: dropout takes a probability in [0, 1)");
  Tensor y = at::empty_like(x);
  const auto least = static_cast<uint32_t>(p * 4294967296.0);
  with_type(x, [&](auto zero) {
    using S = decltype(zero);
    const S* from = read<S>(x);
    S* to = y.mutable_data_ptr<S>();
    const S more = S(1 / (1 - p));
    at::parallel_for(0, (x.numel() + DROPPED - 1) / DROPPED, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const auto low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
        const auto counter = static_cast<uint32_t>(block * DROPPED) + high;
        const auto count = static_cast<int32_t>(std::min(DROPPED, x.numel() - block * DROPPED));
        const S* __restrict__ in = from + block * DROPPED;
        S* __restrict__ out = to + block * DROPPED;
        int32_t i = 0;
        if constexpr (std::is_same_v<S, float>) {
          typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
          Bits at;
          for (int32_t lane = 0; lane < LANES; ++lane) at[lane] = counter + lane;
          for (; i + LANES <= count; i += LANES, at += LANES) {
            const auto kept = mix<Bits>(mix<Bits>(at) ^ low) >= least;
            const Vec v = load(in + i) * more;
            store(out + i, kept ? v : Vec{});
          }
        }
        for (; i < count; ++i)
          out[i] = mix(mix(static_cast<uint32_t>(i) + counter) ^ low) >= least ? in[i] * more : S(0);
      }
    });
  });
  return y;
}

}  // namespace
}  // namespace mobileformer

TORCH_LIBRARY_FRAGMENT(mobileformer, m) {
  m.def("channel_statistics(Tensor x) -> (Tensor, Tensor)");
  m.def("norm_act(Tensor x, Tensor scale, Tensor shift, Tensor? table, Tensor? mixture, float top) -> Tensor");
  m.def(
      "norm_act_backward_(Tensor(a!) grad, Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor? table, "
      "Tensor? mixture, float top) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("normalise_backward_(Tensor(a!) grad, Tensor x, Tensor a, Tensor b, Tensor c) -> ()");
  m.def("depthwise_conv(Tensor x, Tensor weight, int stride) -> Tensor");
  m.def(
      "depthwise_conv_backward(Tensor grad, Tensor x, Tensor weight, int stride) -> (Tensor, Tensor)");
  m.def("seeded_dropout(Tensor x, float p, int seed) -> Tensor");
}

TORCH_LIBRARY_IMPL(mobileformer, CPU, m) {
  m.impl("channel_statistics", &mobileformer::statistics);
  m.impl("norm_act", &mobileformer::norm_act);
  m.impl("norm_act_backward_", &mobileformer::norm_act_backward);
  m.impl("normalise_backward_", &mobileformer::normalise_backward);
  m.impl("depthwise_conv", &mobileformer::depthwise_conv);
  m.impl("depthwise_conv_backward", &mobileformer::depthwise_conv_backward);
  m.impl("seeded_dropout", &mobileformer::seeded_dropout);
}
