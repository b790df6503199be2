/* Small data on its way to the device: see backend_private.h. */
#include <string.h>

#include "cuda/host/backend_private.h"

bool mailbox_open(struct cuda_backend *c, size_t half_bytes, struct error *e)
{
    struct mailbox *m = &c->mailbox;
    m->half_bytes = half_bytes;
    if (!cuda_check(c, cudaMallocHost((void **)&m->pinned, 2 * half_bytes), "taking pinned memory"))
        return cuda_fail(c, e);
    for (uint32_t i = 0; i < 2; i++)
        if (!cuda_check(c, cudaEventCreateWithFlags(&m->passed[i], cudaEventDisableTiming),
                        "creating an event"))
            return cuda_fail(c, e);
    return cuda_take(c, &m->device, 2 * half_bytes, "the mailbox", e);
}

void mailbox_close(struct cuda_backend *c)
{
    struct mailbox *m = &c->mailbox;
    cudaFreeHost(m->pinned);
    cudaFree(m->device);
    for (uint32_t i = 0; i < 2; i++)
        if (m->passed[i])
            cudaEventDestroy(m->passed[i]);
}

void *mailbox_send(struct cuda_backend *c, const void *data, size_t bytes)
{
    struct mailbox *m = &c->mailbox;
    if (m->at + bytes > m->half_bytes) {
        cuda_check(c, cudaEventRecord(m->passed[m->half], c->stream), "recording an event");
        m->is_out[m->half] = true;
        m->half ^= 1;
        if (m->is_out[m->half])
            cuda_check(c, cudaEventSynchronize(m->passed[m->half]), "waiting for the device");
        m->at = 0;
    }
    size_t at = m->half * m->half_bytes + m->at;
    memcpy(m->pinned + at, data, bytes);
    cuda_check(
        c,
        cudaMemcpyAsync(m->device + at, m->pinned + at, bytes, cudaMemcpyHostToDevice, c->stream),
        "sending to the device");
    m->at += (bytes + 255) / 256 * 256;
    return m->device + at;
}
