#pragma once

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// A weight to be drawn: that of a linear map, or of one group of a convolution.
template <RealScalar S>
struct Weight {
  MatrixMap<S> values;  ///< outputs x inputs; of a convolution the inputs are (channel, kernel)
  Shape kernel;         ///< of a convolution; else without axes

  /// The number of entries of the kernel.
  Index taps() const { return kernel.rank() == 0 ? 1 : kernel.size(); }
  /// So many inputs add up to an output.
  Index fan_in() const { return values.cols(); }
  /// So many outputs has an input part in.
  Index fan_out() const { return values.rows() * taps(); }
};

/// What follows a layer, for `gain`.
enum class Nonlinearity { Linear, Sigmoid, Tanh, ReLU, LeakyReLU, SELU };

/// The factor by which weights are larger for what follows them, as torch.nn.init.calculate_gain.
/// That of ReLU also serves GELU and the like.
inline double gain(Nonlinearity nonlinearity, double negative_slope = 0.01) {
  switch (nonlinearity) {
    case Nonlinearity::Tanh:
      return 5.0 / 3.0;
    case Nonlinearity::ReLU:
      return std::numbers::sqrt2;
    case Nonlinearity::LeakyReLU:
      return std::sqrt(2.0 / (1.0 + negative_slope * negative_slope));
    case Nonlinearity::SELU:
      return 0.75;
    case Nonlinearity::Linear:
    case Nonlinearity::Sigmoid:
      break;
  }
  return 1.0;
}

/// Of which passes an initialisation keeps the variance.
enum class Fan {
  In,   ///< forward
  Out,  ///< back
};

/// All entries the same.
struct Constant {
  double value = 0;

  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng&) const {
    MatrixMap<S>(weight.values).setConstant(static_cast<S>(value));
  }
};

/// Normal, of standard deviation gain sqrt(2 / (fan_in + fan_out)): a compromise between keeping
/// the variance of activations and that of gradients.
/// \source Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
///         networks, 2010, eq. 12
struct XavierNormal {
  double gain = 1;

  double deviation(Index fan_in, Index fan_out) const {
    return gain * std::sqrt(2.0 / static_cast<double>(fan_in + fan_out));
  }
  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng& rng) const {
    MatrixMap<S> values = weight.values;
    rng.fill_normal(values);
    values *= static_cast<S>(deviation(weight.fan_in(), weight.fan_out()));
  }
};

/// Uniform, of the same variance: in +-gain sqrt(6 / (fan_in + fan_out)).
/// \source Glorot and Bengio, 2010, eq. 16
struct XavierUniform {
  double gain = 1;

  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng& rng) const {
    MatrixMap<S> values = weight.values;
    const double bound =
        std::numbers::sqrt3 * XavierNormal{gain}.deviation(weight.fan_in(), weight.fan_out());
    rng.fill_uniform(values, -bound, bound);
  }
};

/// Normal, of standard deviation gain / sqrt(fan).
/// \source He, Zhang, Ren and Sun, Delving deep into rectifiers, 2015, eqs. 10 and 14
struct KaimingNormal {
  Fan fan = Fan::In;
  double gain = std::numbers::sqrt2;  ///< that of ReLU

  double deviation(Index fan_in, Index fan_out) const {
    return gain / std::sqrt(static_cast<double>(fan == Fan::In ? fan_in : fan_out));
  }
  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng& rng) const {
    MatrixMap<S> values = weight.values;
    rng.fill_normal(values);
    values *= static_cast<S>(deviation(weight.fan_in(), weight.fan_out()));
  }
};

/// Uniform, of the same variance: in +-gain sqrt(3 / fan).
struct KaimingUniform {
  Fan fan = Fan::In;
  double gain = std::numbers::sqrt2;  ///< that of ReLU

  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng& rng) const {
    MatrixMap<S> values = weight.values;
    const double bound =
        std::numbers::sqrt3 * KaimingNormal{fan, gain}.deviation(weight.fan_in(), weight.fan_out());
    rng.fill_uniform(values, -bound, bound);
  }
};

/// Draws weights of a layer: one of the types above, `Orthogonal` and `DeltaOrthogonal` of
/// orthogonal_initializers.hpp, or a function of one's own.
template <class I, class S>
concept WeightInitializer = RealScalar<S> &&
    requires(const I& initializer, const Weight<S>& weight, Rng& rng) {
  initializer(weight, rng);
};

struct InitializeOptions {
  double bias = 0;  ///< what biases become
};

namespace detail {

/// Draws the weights of one leaf, if it is a linear map.
template <RealScalar S, class Initializer>
void initialize_leaf(const std::vector<ParameterInfo>& parameters, S* data,
                     const Initializer& initializer, Rng& rng, const InitializeOptions& options) {
  for (const ParameterInfo& info : parameters) {
    MatrixMap<S> values(data + info.offset, info.rows, info.columns);
    if (info.name.starts_with("weight"))
      initializer(Weight<S>{values, info.kernel}, rng);
    else if (info.name.starts_with("bias"))
      values.setConstant(static_cast<S>(options.bias));
  }
}

}  // namespace detail

/// Draws the weights of a layer, or of all layers of a network, anew:
///
///     kfac::initialize(model, kfac::KaimingNormal{}, rng);
///     kfac::initialize(conv, kfac::XavierUniform{.gain = kfac::gain(kfac::Nonlinearity::Tanh)},
///     rng);
///
/// That is, of linear maps: Linear, Conv, ConvTranspose and what is made of them, group by group
/// and in order, and their biases. Scales and shifts of normalisation and embeddings stay as they
/// are. Fans count the inputs of a group; of a ConvTranspose those at all entries of its kernel,
/// whatever its stride.
template <Layer L, WeightInitializer<typename L::Scalar> Initializer>
void initialize(L& target, const Initializer& initializer, Rng& rng,
                const InitializeOptions& options = {}) {
  using S = typename L::Scalar;
  if constexpr (KroneckerLayer<L>) {
    if (!target.kronecker_structure().diagonal_input)
      detail::initialize_leaf(target.parameter_info(), target.parameters().data(), initializer, rng,
                              options);
  } else if constexpr (requires(S * gradient, std::vector<LayerView<S>> & views) {
                         target.append_layers(gradient, views);
                       }) {
    Vector<S> unused(target.parameter_count());
    std::vector<LayerView<S>> layers;
    target.append_layers(unused.data(), layers);
    for (LayerView<S>& layer : layers)
      if (layer.kronecker && !layer.kronecker->diagonal_input)
        detail::naming_layer(layer.name, [&] {
          detail::initialize_leaf<S>(layer.parameter_info, layer.parameters.data(), initializer,
                                     rng, options);
        });
  }
}

}  // namespace kfac
