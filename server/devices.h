/* The devices that this program was linked with. Whoever starts an engine or a measurement picks
 * from this table (device_pick of engine/compute/device.h). */
#ifndef WINNOW_SERVER_DEVICES_H
#define WINNOW_SERVER_DEVICES_H

#include "engine/compute/device.h"

extern const struct device_table server_devices;

#endif
