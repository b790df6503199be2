/* See devices.h. */
#include "server/devices.h"

#include "cuda/host/device.h"
#include "engine/cpu/device.h"

static const struct device_kind *const kinds[] = {&device_cpu, &device_cuda};

const struct device_table server_devices = {kinds, sizeof kinds / sizeof *kinds};
