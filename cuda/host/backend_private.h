/* Private to the CUDA backend, shared by backend*.cu. Everything here runs on the engine thread.
 * The device works through one stream, so operations take effect in the order of the calls. */
#ifndef WINNOW_CUDA_HOST_BACKEND_PRIVATE_H
#define WINNOW_CUDA_HOST_BACKEND_PRIVATE_H

#include "cuda/host/buddy.h"
#include "cuda/host/backend.h"
#include "cuda/kernels/kernels.h"
#include "cuda/kernels/page.h"

/* Small data on its way to the device: pinned memory and its copy there, used in turn in two
 * halves. A half is used again when the device has passed what was sent with it. */
struct mailbox {
    uint8_t *pinned, *device;
    size_t half_bytes, at;
    uint32_t half;
    cudaEvent_t passed[2];
    bool is_out[2];
};

/* A step's description (step.h) in pinned memory, and the offsets of its parts in both copies. */
struct image {
    uint8_t *pinned, *device;
    size_t bytes;
    size_t header, tokens, positions, sink_positions, output_rows, segments, heads;
    cudaEvent_t sent; /* the last copy is done */
    bool is_out;
};

/* What the segments of one wave need. */
struct wave {
    uint32_t first, n; /* segments */
    uint32_t n_single, max_rows, max_slots;
    bool scores_rows; /* some segment of several rows leaves scores */
};

/* A recorded decode step. It fits steps with the same key. */
struct graph_key {
    uint32_t n_rows, max_slots; /* rounded up to a bucket */
    uint32_t drop_slots;        /* of heads that drop, likewise; 0: none does */
    bool sink_query;
};
struct graph {
    struct graph_key key;
    cudaGraphExec_t exec;
    uint64_t used; /* step number */
};
enum { MAX_GRAPHS = 64 };

enum step_mode { STEP_NONE, STEP_PLAIN, STEP_RECORD, STEP_REPLAY };

struct weight_copy {
    const void *data; /* of the file: tied matrices are copied once */
    struct device_weight w;
    uint32_t n_users;
    struct weight_copy *next;
};

struct cuda_backend {
    struct cuda_options o;
    cudaStream_t stream;
    uint64_t memory_bytes; /* the device's, all of it */
    cudaError_t failed;    /* the first error; it stays */
    const char *failed_at;
    struct blas *blas;
    struct weight_copy *weights;
    uint8_t *matmul_scratch, *select_scratch, *attention_memory;
    uint64_t select_bytes;
    struct attention_workspace attention;
    struct mailbox mailbox;

    /* The step at hand */
    struct device_step step;
    struct image image;
    enum step_mode mode;
    uint32_t n_rows;
    struct graph_key key; /* of the step, if it is a decode step */
    struct wave *waves;   /* [max_rows] */
    struct graph graphs[MAX_GRAPHS];
    uint32_t n_graphs;
    uint64_t n_steps;

    /* Picking tokens */
    int32_t *picked, *picked_pinned; /* of one launch */
    uint8_t *pick_scratch;

    /* The pool, and state memory */
    enum plan_storage storage;
    uint8_t *pool;
    struct state_memory state_memory;
    uint8_t *state;
    struct buddy *buddy;
    uint64_t
        *given; /* [n_given] offsets that stay taken until no page table change can reach them */
    size_t n_given, given_capacity;
    struct table_change *changes; /* [n_changes] host */
    size_t n_changes, changes_capacity;
    uint64_t
        *pending; /* hash of the entries that change: flush number << 32 | index of the change */
    uint32_t n_flushes;
    uint32_t *n_kept;                   /* device [n_kv_heads] */
    float *read_k;                      /* device [2][head_dim]: kv_read */
    int32_t *read_position;             /* device [1] */
    int32_t seen_positions[PAGE_SLOTS]; /* of page seen_page, as kv_read found them ... */
    uint32_t seen_page;                 /* ... until something is written; UINT32_MAX: none */
};

/* Notes the first error that is not cudaSuccess. Returns whether there has been none. */
bool cuda_check(struct cuda_backend *c, cudaError_t error, const char *doing);
/* Fills e from the first error; returns false. */
bool cuda_fail(const struct cuda_backend *c, struct error *e);
/* Device memory, zeroed (raw: not initialised). False: "out_of_memory", with what it was for. */
bool cuda_take_raw(struct cuda_backend *c, void *pointer, uint64_t bytes, const char *what,
                   struct error *e);
bool cuda_take(struct cuda_backend *c, void *pointer, uint64_t bytes, const char *what,
               struct error *e);

/* backend_mailbox.cu. mailbox_send: sends n bytes from host memory and returns where they will
 * be on the device, for work launched before the next call that may reuse the place (some calls
 * later). At most half_bytes at once. */
bool mailbox_open(struct cuda_backend *c, size_t half_bytes, struct error *e);
void mailbox_close(struct cuda_backend *c);
void *mailbox_send(struct cuda_backend *c, const void *data, size_t bytes);

/* backend_step.cu */
bool step_open(struct cuda_backend *c, struct error *e);
void step_close(struct cuda_backend *c);
/* Recorded steps hold the pool's address, page size and storage, so they must be forgotten with
 * the pool. */
void step_forget(struct cuda_backend *c);
bool cuda_step_begin(void *self, struct step *step, struct error *e);
bool cuda_step_end(void *self, struct error *e);
/* What the device needs to know of a job's plan, which is the same for all heads of a layer. */
struct step_choice step_choice_of(const struct select_job *job);
/* The rows that a launch is sized for when an operation is called for n (a multiple of the
 * step's rows): a recorded step computes a whole bucket. */
uint64_t step_rows(const struct cuda_backend *c, uint64_t n);

/* backend_pick.cu */
bool pick_open(struct cuda_backend *c, struct error *e);
void pick_close(struct cuda_backend *c);
bool cuda_pick(void *self, int32_t *tokens, const float *logits, uint32_t n_vocab,
               const struct token_pick *picks, uint32_t n, struct error *e);

/* backend_state.cu. For a pool of n_pages pages. */
bool state_open(struct cuda_backend *c, uint64_t n_pages, uint64_t page_bytes, struct error *e);
/* How much of `bytes` the pool may take so that its state memory fits as well. */
uint64_t state_leaves(uint64_t bytes, uint64_t page_bytes);
void state_close(struct cuda_backend *c);
/* Page tables on the device follow the host's. Not while recording. */
void state_flush(struct cuda_backend *c);

/* backend_kv.cu */
void cuda_kv_set_storage(void *self, enum plan_storage storage);
size_t cuda_page_bytes(void *self, uint32_t head_dim);
bool cuda_kv_alloc(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e);
void cuda_kv_free(void *self);
void cuda_kv_copy(void *self, const uint32_t *from, const uint32_t *to, uint32_t n);
void cuda_write(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                const struct kv_rows *rows);
void cuda_attend(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                 const struct attention *a);
bool cuda_drop(void *self, const struct step *step, uint32_t layer, uint32_t wave, struct error *e);
bool cuda_compress(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e);
int32_t cuda_kv_read(void *self, uint32_t page, uint32_t index, uint32_t head_dim, float *k,
                     float *v);

#endif
