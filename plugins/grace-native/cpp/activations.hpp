// Activation functions with derivatives, and readouts: energy and its gradient in one step.
#pragma once

#include "weights.hpp"

namespace grace {

enum Activation { kTanh = 0, kSilu = 1, kSigmoid = 2, kScaledSilu = 3, kIdentity = 4 };

template <class Real> inline void activate(int kind, Real x, Real &value, Real &slope) {
  if (kind == kTanh) {
    value = std::tanh(x), slope = 1 - value * value;
  } else if (kind == kIdentity) {
    value = x, slope = 1;
  } else {
    const Real s = 1 / (1 + std::exp(-x));
    if (kind == kSigmoid) {
      value = s, slope = s * (1 - s);
    } else {
      const Real c = kind == kScaledSilu ? Real(1.6759) : Real(1);
      value = c * x * s, slope = c * s * (1 + x * (1 - s));
    }
  }
}

// Networks without bias on scalar channels. E += multiplier * (linear * x_0 + net(x_first..)).
// x is the sum of the sources, or (normalised) one source of its own; the gradient is added to every source.
template <class Real> class NetworkReadout : public Operation<Real> {
 public:
  NetworkReadout(Reader &r, int elements, bool trained) {
    sources_.resize(r.next());
    for (auto &s : sources_) s.x = Ref::read(r), s.g = Ref::read(r), s.linear = Real(*r.numbers(1)), s.scale = nullptr;
    channels_ = r.integer(), first_ = r.integer(), multiplier_ = Real(*r.numbers(1));
    epsilon_ = Real(*r.numbers(1)), per_source_norm_ = r.next();
    const int norms = r.integer();  // 0: none, 1: of the sum, otherwise one per source
    for (int i = 0; i < norms; ++i) {
      const double *s = r.numbers(channels_ - first_);
      norms_.emplace_back(s, s + channels_ - first_);
    }
    layers_.resize(r.next());
    activation_ = r.integer();
    const bool dependent = r.next();
    dependent_ = dependent;
    for (auto &layer : layers_) {
      const int out = r.integer(), in = r.integer(), sets = dependent ? elements : 1;
      const double *w = r.numbers(size_t(sets) * out * in);
      layer.forward.pack(w, sets, out, in);
      std::vector<double> transposed(size_t(sets) * out * in);
      for (int e = 0; e < sets; ++e)
        for (int o = 0; o < out; ++o)
          for (int i = 0; i < in; ++i) transposed[(size_t(e) * in + i) * out + o] = w[(size_t(e) * out + o) * in + i];
      layer.backward.pack(transposed.data(), sets, in, out);
    }
    if (!trained) return;
    slots_.linear = r.next(), slots_.norms = r.next();
    size_ = std::max(slots_.linear + int64_t(sources_.size()), slots_.norms + int64_t(norms) * (channels_ - first_));
    for (auto &layer : layers_) {
      slots_.layers.push_back(r.next());
      size_ = std::max(size_, slots_.layers.back() + int64_t(dependent ? elements : 1) * layer.forward.outputs * layer.forward.inputs);
    }
  }
  int64_t gradient_size() const override { return size_; }
  void run(Tile<Real> &tile) const override {
    constexpr int T = lanes<Real>;
    const int n = channels_ - first_, ns = int(sources_.size());
    size_t need = size_t(ns + 3) * n * T;
    int widest = 0;
    for (const auto &l : layers_) need += 2 * size_t(l.forward.outputs) * T, widest = std::max(widest, l.forward.outputs);
    need += size_t(widest) * T;
    tile.work.reserve(need + n * T);
    Real *branch = tile.work.data(), *x = branch + size_t(ns) * n * T, *g = x + n * T, *next = g + n * T;
    for (const auto &s : sources_)
      for (int a = 0; a < T; ++a) tile.energy[a] += multiplier_ * s.linear * tile.at(s.x)[a];
    const bool trained = tile.gradient && !slots_.layers.empty();
    if (trained)
      for (int s = 0; s < ns; ++s)
        for (int a = 0; a < T; ++a)
          tile.gradient[slots_.linear + s] += double(tile.seed[a] * multiplier_ * tile.at(sources_[s].x)[a]);
    std::vector<Real> &inverse = const_cast<std::vector<Real> &>(inverse_scratch(ns));
    std::memset(x, 0, size_t(n) * T * sizeof(Real));
    for (int s = 0; s < ns; ++s) {
      Real *b = branch + size_t(s) * n * T;
      for (int c = 0; c < n; ++c) std::memcpy(b + c * T, channel(tile, sources_[s].x, first_ + c), T * sizeof(Real));
      if (per_source_norm_) normalise(b, n, norms_[s].data(), inverse.data() + s * T, x);
      else for (int i = 0; i < n * T; ++i) x[i] += b[i];
    }
    if (!per_source_norm_ && !norms_.empty()) {
      std::memcpy(branch, x, size_t(n) * T * sizeof(Real));
      std::memset(x, 0, size_t(n) * T * sizeof(Real));
      normalise(branch, n, norms_[0].data(), inverse.data(), x);
    }
    network(tile, x, g, next);
    for (int s = 0; s < ns; ++s) {
      Real *b = branch + size_t(per_source_norm_ ? s : 0) * n * T;
      if (trained && !norms_.empty() && (per_source_norm_ || s == 0)) {
        const Real *scale = inverse.data() + s * T;
        double *to = tile.gradient + slots_.norms + int64_t(s) * n;
        for (int c = 0; c < n; ++c)
          for (int a = 0; a < T; ++a) to[c] += double(tile.seed[a] * g[c * T + a] * b[c * T + a] * scale[a]);
      }
      if (per_source_norm_ || !norms_.empty())
        through_norm(b, n, norms_[per_source_norm_ ? s : 0].data(), inverse.data() + (per_source_norm_ ? s : 0) * T, g, next);
      const Real *own = per_source_norm_ || !norms_.empty() ? next : g;
      for (int c = 0; c < n; ++c) {
        Real *to = channel(tile, sources_[s].g, first_ + c);
        for (int a = 0; a < T; ++a) to[a] += own[c * T + a];
      }
      Real *to = tile.at(sources_[s].g);
      for (int a = 0; a < T; ++a) to[a] += multiplier_ * sources_[s].linear;
    }
  }

 private:
  struct Input { Ref x, g; Real linear; void *scale; };
  struct Layer { Packed<Real> forward, backward; };
  static std::vector<Real> &inverse_scratch(int ns) {
    static thread_local std::vector<Real> values;
    if (values.size() < size_t(ns + 1) * lanes<Real>) values.resize(size_t(ns + 1) * lanes<Real>);
    return values;
  }
  static Real *channel(Tile<Real> &tile, const Ref &x, int c) { return tile.at(x) + c * x.stride * lanes<Real>; }
  // x += b scale / sqrt(mean b^2 + eps)
  void normalise(const Real *b, int n, const double *scale, Real *inverse, Real *x) const {
    constexpr int T = lanes<Real>;
    for (int a = 0; a < T; ++a) {
      Real total = 0;
      for (int c = 0; c < n; ++c) total += b[c * T + a] * b[c * T + a];
      inverse[a] = 1 / std::sqrt(total / n + epsilon_);
      for (int c = 0; c < n; ++c) x[c * T + a] += b[c * T + a] * Real(scale[c]) * inverse[a];
    }
  }
  void through_norm(const Real *b, int n, const double *scale, const Real *inverse, const Real *g, Real *to) const {
    constexpr int T = lanes<Real>;
    for (int a = 0; a < T; ++a) {
      Real dot = 0;
      for (int c = 0; c < n; ++c) dot += g[c * T + a] * Real(scale[c]) * b[c * T + a];
      const Real k = dot * inverse[a] * inverse[a] * inverse[a] / n;
      for (int c = 0; c < n; ++c) to[c * T + a] = g[c * T + a] * Real(scale[c]) * inverse[a] - k * b[c * T + a];
    }
  }
  // adds multiplier * net(x) to the energy and leaves multiplier * dnet/dx in g
  void network(Tile<Real> &tile, const Real *x, Real *g, Real *scratch) const {
    constexpr int T = lanes<Real>;
    const int element = dependent_ ? tile.element : 0;
    const int depth = int(layers_.size());
    Real *value = scratch;
    std::vector<std::pair<Real *, Real *>> &hidden = stack();
    hidden.clear();
    const Real *input = x;
    int inputs = channels_ - first_;
    for (int i = 0; i < depth; ++i) {
      const int out = layers_[i].forward.outputs;
      Real *slope = value + out * T;
      const Source<Real> source{input, T, inputs};
      multiply<Real>(layers_[i].forward, element, &source, 1, T, value, T, false);
      if (i + 1 < depth)
        for (int k = 0; k < out * T; ++k) activate<Real>(activation_, value[k], value[k], slope[k]);
      hidden.push_back({value, slope});
      input = value, inputs = out, value = slope + out * T;
    }
    for (int a = 0; a < T; ++a) tile.energy[a] += multiplier_ * input[a];
    Real *last = hidden.back().first;
    for (int a = 0; a < T; ++a) last[a] = multiplier_;
    for (int i = depth - 1; i >= 0; --i) {
      const Source<Real> source{hidden[i].first, T, layers_[i].forward.outputs};
      Real *to = i ? hidden[i - 1].first : g;
      if (tile.gradient && !slots_.layers.empty()) {
        const int out = layers_[i].forward.outputs, in = layers_[i].forward.inputs;
        Real *seeded = value;  // free behind the last layer
        with_seeds<Real>(tile, hidden[i].first, T, out, T, seeded);
        weight_gradient<Real>(seeded, T, out, i ? hidden[i - 1].first : x, T, in, T,
                              tile.gradient + slots_.layers[i] + int64_t(element) * out * in, in);
      }
      multiply<Real>(layers_[i].backward, element, &source, 1, T, to, T, false);
      if (i)
        for (int k = 0; k < layers_[i].forward.inputs * T; ++k) to[k] *= hidden[i - 1].second[k];
    }
  }
  static std::vector<std::pair<Real *, Real *>> &stack() {
    static thread_local std::vector<std::pair<Real *, Real *>> values;
    return values;
  }
  std::vector<Input> sources_;
  int channels_, first_, activation_;
  Real multiplier_, epsilon_;
  bool per_source_norm_, dependent_ = false;
  std::vector<std::vector<double>> norms_;
  std::vector<Layer> layers_;
  struct { int64_t linear = 0, norms = 0; std::vector<int64_t> layers; } slots_;  // of the gradient by the weights
  int64_t size_ = 0;
};

// E += multiplier sum_k c_k F_(e_k)(rho_k), rho = sum of the sources
template <class Real> class FinnisSinclairReadout : public Operation<Real> {
 public:
  explicit FinnisSinclairReadout(Reader &r) {
    sources_.resize(r.next());
    for (auto &s : sources_) s.first = Ref::read(r), s.second = Ref::read(r);
    multiplier_ = Real(*r.numbers(1));
    const int n = r.integer();
    const double *p = r.numbers(2 * size_t(n));
    parameters_.assign(p, p + 2 * size_t(n));
  }
  void run(Tile<Real> &tile) const override {
    constexpr int T = lanes<Real>;
    for (size_t k = 0; 2 * k < parameters_.size(); ++k) {
      const double c = parameters_[2 * k], e = parameters_[2 * k + 1], q = 1 / e;
      const double p1 = e == 1 ? 0 : std::pow(q, q / (1 - q)), p2 = e == 1 ? 0 : std::pow(q, 1 / (1 - q));
      for (int a = 0; a < T; ++a) {
        Real rho = 0;
        for (const auto &s : sources_) rho += tile.at(s.first)[k * s.first.stride * T + a];
        Real value = rho, slope = 1;
        if (e != 1) {
          const Real x = std::abs(rho), decay = std::exp(-x), inner = Real(p1) * decay + x, power = std::pow(inner, Real(e));
          value = std::copysign(power - Real(p2) * decay, rho) * (rho == 0 ? 0 : 1);
          slope = rho == 0 ? 0 : Real(e) * power / inner * (1 - Real(p1) * decay) + Real(p2) * decay;
        }
        tile.energy[a] += multiplier_ * Real(c) * value;
        for (const auto &s : sources_) tile.at(s.second)[k * s.second.stride * T + a] += multiplier_ * Real(c) * slope;
      }
    }
  }

 private:
  std::vector<std::pair<Ref, Ref>> sources_;
  Real multiplier_;
  std::vector<double> parameters_;
};

// E += sum over channels of w_c x_c
template <class Real> class LinearReadout : public Operation<Real> {
 public:
  LinearReadout(Reader &r, bool trained) {
    x_ = Ref::read(r), g_ = Ref::read(r);
    const int n = r.integer();
    const double *w = r.numbers(n);
    weights_.assign(w, w + n);
    if (trained) slot_ = r.next();
  }
  int64_t gradient_size() const override { return slot_ < 0 ? 0 : slot_ + int64_t(weights_.size()); }
  void run(Tile<Real> &tile) const override {
    constexpr int T = lanes<Real>;
    for (size_t c = 0; c < weights_.size(); ++c)
      for (int a = 0; a < T; ++a) {
        tile.energy[a] += Real(weights_[c]) * tile.at(x_)[c * x_.stride * T + a];
        tile.at(g_)[c * g_.stride * T + a] += Real(weights_[c]);
        if (tile.gradient && slot_ >= 0) tile.gradient[slot_ + c] += double(tile.seed[a] * tile.at(x_)[c * x_.stride * T + a]);
      }
  }

 private:
  Ref x_, g_;
  std::vector<double> weights_;
  int64_t slot_ = -1;
};

}  // namespace grace
