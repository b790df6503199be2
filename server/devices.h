/* The devices that this program was linked with. Commands pick one with device_pick
 * (engine/compute/device.h) and pass it down. */
#ifndef WINNOW_SERVER_DEVICES_H
#define WINNOW_SERVER_DEVICES_H

#include "engine/compute/device.h"

extern const struct device_table server_devices;

#endif
