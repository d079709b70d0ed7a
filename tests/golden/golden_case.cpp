#include "golden_case.hpp"

namespace golden {

Matrix Case::targets(const std::string& name) const {
  if (!loss.has_labels()) return file.batch<double>(name);
  const Labels labels = file.labels(name);
  const Index examples = file.shape(name)[0];
  return labels.cast<double>().reshaped(labels.size() / examples, examples);
}

std::vector<Matrix> Case::samples(const std::string& name, Index examples) const {
  const Index count = file.shape(name)[0];
  const kfac::Vector<double> all = loss.has_labels()
                                       ? kfac::Vector<double>(file.labels(name).cast<double>())
                                       : file.vector<double>(name);
  const Index size = all.size() / count;
  std::vector<Matrix> result;
  for (Index m = 0; m < count; ++m)
    result.push_back(all.segment(m * size, size).reshaped(size / examples, examples));
  return result;
}

std::vector<kfac::LayerView<double>> curved_layers(Model& model) {
  std::vector<kfac::LayerView<double>> result;
  for (const auto& layer : model.layers())
    if (layer.kronecker) result.push_back(layer);
  return result;
}

Matrix augmented(const kfac::LayerView<double>& layer, const double* data) {
  return kfac::ConstMatrixMap<double>(data, layer.kronecker->outputs, layer.kronecker->columns());
}

}  // namespace golden
