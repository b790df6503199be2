/* Tokens picked from logits on the device (`pick` of engine/compute/backend.h): picks go there
 * through the mailbox, sample.cu picks, tokens come back into pinned memory. It runs after a
 * step on the same stream, outside the recorded graph, because the number of rows that pick
 * changes from step to step. */
#include <string.h>

#include "cuda/host/backend_private.h"

/* Picks of one launch: probabilities take n_vocab floats each. */
static uint32_t picks_at_once(const struct cuda_options *o)
{
    const uint32_t most = 256;
    return o->max_logits < most ? o->max_logits : most;
}

bool pick_open(struct cuda_backend *c, struct error *e)
{
    const uint32_t n = picks_at_once(&c->o);
    const size_t bytes = n * sizeof *c->picked;
    if (!cuda_check(c, cudaMallocHost((void **)&c->picked_pinned, bytes), "taking pinned memory"))
        return cuda_fail(c, e);
    return cuda_take(c, &c->picked, bytes, "a list", e) &&
           cuda_take(c, &c->pick_scratch, sample_scratch_bytes(n, c->o.n_vocab),
                     "working memory of sampling", e);
}

void pick_close(struct cuda_backend *c)
{
    cudaFreeHost(c->picked_pinned);
    cudaFree(c->picked);
    cudaFree(c->pick_scratch);
}

bool cuda_pick(void *self, int32_t *tokens, const float *logits, uint32_t n_vocab,
               const struct token_pick *picks, uint32_t n, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    const uint32_t at_once = picks_at_once(&c->o);
    for (uint32_t done = 0, some; done < n && !c->failed; done += some) {
        some = n - done < at_once ? n - done : at_once;
        const struct token_pick *sent =
            (const struct token_pick *)mailbox_send(c, picks + done, some * sizeof *picks);
        launch_sample(c->stream, c->picked, logits, some, n_vocab, sent, c->pick_scratch);
        cuda_check(c, cudaGetLastError(), "picking tokens");
        cuda_check(c,
                   cudaMemcpyAsync(c->picked_pinned, c->picked, some * sizeof *tokens,
                                   cudaMemcpyDeviceToHost, c->stream),
                   "reading tokens");
        cuda_check(c, cudaStreamSynchronize(c->stream), "computing a step");
        memcpy(tokens + done, c->picked_pinned, some * sizeof *tokens);
    }
    return !c->failed || cuda_fail(c, e);
}
