/* Stands in for the CUDA backend in a binary that was built without nvcc. */
#include "cuda/host/backend.h"

static const char no_cuda[] = "this winnow was built without CUDA (nvcc was not found)";

uint32_t cuda_device_count(const char **reason)
{
    *reason = no_cuda;
    return 0;
}

bool backend_cuda_open(struct backend *b, const struct cuda_options *options, struct error *e)
{
    (void)b;
    (void)options;
    return error_set(e, "device_unavailable", "--device", "%s", no_cuda);
}
