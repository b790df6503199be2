/* The CPU as a kind of device: see device.h. */
#include "engine/cpu/device.h"

static uint32_t count(const char **reason)
{
    *reason = "";
    return 1;
}

static bool open_cpu(struct backend *b, const struct device_options *o, const struct model *m,
                     struct error *e)
{
    (void)m; /* the CPU allocates its buffers when they are needed */
    return backend_cpu_open(b, o->n_threads, o->isa, e);
}

const struct device_kind device_cpu = {
    .name = "cpu", .usual_rows = 256, .count = count, .open = open_cpu};
