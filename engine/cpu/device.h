/* The CPU's row in the table of devices (engine/compute/device.h). */
#ifndef WINNOW_ENGINE_CPU_DEVICE_H
#define WINNOW_ENGINE_CPU_DEVICE_H

#include "engine/compute/device.h"

extern const struct device_kind device_cpu;

#endif
