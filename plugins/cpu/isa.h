// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace vq4dit {

// Kernels that are compiled in and that this processor can run, best last; never empty.
const std::vector<const Kernels*>& available_kernels();

// The kernels of this name, or the best ones where the name is empty; throws Error naming the
// available ones.
const Kernels& kernels_by_name(const std::string& name);

}  // namespace vq4dit
