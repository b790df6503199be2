/* CUDA's row in the table of devices (engine/compute/device.h). Every binary has it; one built
 * without nvcc counts no device and says why. */
#ifndef WINNOW_CUDA_HOST_DEVICE_H
#define WINNOW_CUDA_HOST_DEVICE_H

#include "engine/compute/device.h"

extern const struct device_kind device_cuda;

#endif
