/* Threads of an emulated block. Each is a function call until it waits. Then its fiber is parked,
 * and another fiber, from a pool that is never freed, continues a thread that can run. A kernel
 * that never waits runs whole on one fiber. What a barrier or a warp primitive must know of a
 * waiting thread is in its `thread`; the last one to arrive does the work for all. */
#include "cuda/emulated/fibers.h"

#include <cstdarg>
#include <mutex>
#include <numeric>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu
{
bool shuffled;

/* Contexts of execution and the switch between them. */

constexpr size_t stack_bytes = EMU_ASAN ? 512 * 1024 : 128 * 1024;

struct context {
    char *stack = nullptr; /* lowest byte; of the host's stack known once it was left */
    size_t bytes = 0;
    void *fake_stack = nullptr, *tsan = nullptr;
#if defined(__x86_64__)
    void *sp = nullptr;
#else
    ucontext_t machine;
#endif
};

static context host;
static context *running = &host, *previous;

#if defined(__x86_64__)
/* Saves the registers that the System V ABI wants preserved, and the stack pointer; loads those of
 * another. */
extern "C" void emu_switch_stack(void **save, void *load);
asm(".text\n"
    ".type emu_switch_stack,@function\n"
    "emu_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emu_switch_stack,.-emu_switch_stack\n");
#endif

/* Called first on a context that was just switched to. */
static void arrived()
{
#if EMU_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(running->fake_stack, &bottom, &bytes);
    if (previous == &host) {
        host.stack = (char *)bottom;
        host.bytes = bytes;
    }
#endif
}

static void switch_to(context *next)
{
    previous = running;
    running = next;
#if EMU_ASAN
    __sanitizer_start_switch_fiber(&previous->fake_stack, next->stack, next->bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    if (previous == &host)
        host.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(next->tsan, 0);
#endif
#if defined(__x86_64__)
    emu_switch_stack(&previous->sp, next->sp);
#else
    swapcontext(&previous->machine, &next->machine);
#endif
    arrived();
}

static void fiber_main();

static void prepare(context *c)
{
#if EMU_ASAN
    __asan_unpoison_memory_region(c->stack, c->bytes); /* left by an abandoned run */
    c->fake_stack = nullptr;
#endif
#if defined(__x86_64__)
    void **top = (void **)(c->stack + c->bytes);
    *--top = nullptr; /* fiber_main's return address: it never returns */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    c->sp = top;
#else
    getcontext(&c->machine);
    c->machine.uc_stack.ss_sp = c->stack;
    c->machine.uc_stack.ss_size = c->bytes;
    c->machine.uc_link = nullptr;
    makecontext(&c->machine, fiber_main, 0);
#endif
}

/* Never freed, so that a leak checker at exit still sees them. */
static std::vector<context *> &all_fibers = *new std::vector<context *>;
static std::vector<context *> &idle_fibers = *new std::vector<context *>;

static context *take_fiber()
{
    if (idle_fibers.empty()) {
        size_t guard = (size_t)sysconf(_SC_PAGESIZE);
        char *memory = (char *)mmap(nullptr, guard + stack_bytes, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE)) {
            perror("emulated CUDA: a stack for a thread");
            abort();
        }
        context *c = new context;
        c->stack = memory + guard;
        c->bytes = stack_bytes;
#if defined(__SANITIZE_THREAD__)
        c->tsan = __tsan_create_fiber(0);
#endif
        prepare(c);
        all_fibers.push_back(c);
        idle_fibers.push_back(c);
    }
    context *c = idle_fibers.back();
    idle_fibers.pop_back();
    return c;
}

/* The block that is running. */

enum class state { fresh, ready, at_barrier, at_meeting, left };

struct copy {
    void *to;
    unsigned char bytes[16];
};
struct thread {
    unsigned number;
    uint3 index;
    state now;
    context *parked;
    /* while it waits */
    const char *what;
    where at;
    barrier kind;
    int value; /* the predicate it brought to a barrier, then the answer */
    unsigned mask;
    combine_fn combine;
    void *mine;
    leavers policy;
    /* cp.async: copies in the order issued, and how many of them each committed group ends at */
    std::vector<copy> copies;
    std::vector<size_t> groups;
};

static struct {
    const char *name;
    const std::function<void()> *body;
    unsigned n_threads, n_live, n_at_barrier;
    std::vector<thread> threads;
    /* Bit l of [w] says that lane l of warp w: can run; waits at a warp primitive; has not left. */
    uint32_t ready[32], meeting[32], live[32], ready_warps;
    thread *current;
    char *shared;
    uint64_t serial;
    bool faulted;
} block;

static uint64_t random_state;
static void (*fault_handler)(const char *, void *);
static void *fault_context;

static uint32_t draw(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state * 0x9e3779b97f4a7c15ull >> 32) * n >> 32);
}

unsigned lane()
{
    return block.current->number % 32;
}

void *dynamic_shared()
{
    return block.shared;
}

uint64_t block_serial()
{
    return block.serial;
}

void report(const char *message)
{
    if (!fault_handler) {
        fprintf(stderr, "emulated CUDA: %s\n", message);
        abort();
    }
    fault_handler(message, fault_context);
}

static std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static std::string text(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    return line;
}

static std::string place()
{
    const uint3 &t = block.current->index;
    return text("kernel %s, block (%u,%u,%u), thread (%u,%u,%u): ", block.name, blockIdx.x,
                blockIdx.y, blockIdx.z, t.x, t.y, t.z);
}

/* Leaves every thread where it is. Their frames are not unwound, so the message is stored
 * outside them, and nothing of theirs is used again. */
static std::string message;
[[noreturn]] static void abandon()
{
    report(message.c_str());
    block.faulted = true;
    switch_to(&host);
    abort(); /* no thread comes back */
}

void fault(where at, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    message = place() + what + text(" (%s:%d)", at.file, at.line);
    abandon();
}

static void make_ready(thread *t)
{
    t->now = state::ready;
    block.ready[t->number / 32] |= 1u << t->number % 32;
    block.ready_warps |= 1u << t->number / 32;
}

static unsigned nth_bit(uint32_t bits, uint32_t n)
{
    while (n--)
        bits &= bits - 1;
    return (unsigned)__builtin_ctz(bits);
}

static std::string waits(const thread &t)
{
    std::string s = text("thread (%u,%u,%u) waits at %s (%s:%d)", t.index.x, t.index.y, t.index.z,
                         t.what, t.at.file, t.at.line);
    if (t.now == state::at_meeting)
        s += text(" with mask %08x", t.mask);
    return s;
}

/* No thread can run and some are left: reports which wait where, in groups of the same place. */
[[noreturn]] static void deadlock()
{
    const thread *last = nullptr;
    unsigned n_groups = 0;
    message.clear();
    for (thread &t : block.threads) {
        if (t.now == state::left)
            continue;
        if (!last) {
            block.current = &t;
            message = place() + "waits for ever: ";
        }
        if (last && last->now == t.now && last->at.line == t.at.line && last->mask == t.mask)
            continue;
        last = &t;
        if (n_groups++ < 6)
            message += (n_groups > 1 ? "; " : "") + waits(t);
    }
    message += text("; %u of %u threads are left", block.n_live, block.n_threads);
    abandon();
}

/* Takes the next thread to run out of the ready ones. */
static thread *pick()
{
    if (!block.ready_warps)
        deadlock();
    unsigned w = nth_bit(block.ready_warps,
                         shuffled ? draw((uint32_t)__builtin_popcount(block.ready_warps)) : 0);
    unsigned l =
        nth_bit(block.ready[w], shuffled ? draw((uint32_t)__builtin_popcount(block.ready[w])) : 0);
    block.ready[w] &= ~(1u << l);
    if (!block.ready[w])
        block.ready_warps &= ~(1u << w);
    return &block.threads[32 * w + l];
}

static void set_current(thread *t)
{
    block.current = t;
    threadIdx = t->index;
}

/* Switches to another thread; returns when this one is picked again. */
static void yield()
{
    thread *self = block.current, *next = pick();
    if (next != self) {
        self->parked = running;
        set_current(next);
        switch_to(next->now == state::fresh ? take_fiber() : next->parked);
    }
}

void maybe_yield()
{
    if (shuffled && !draw(4)) {
        make_ready(block.current);
        yield();
    }
}

/* A fault of thread t, which may be found by another; `message` says what it is. */
[[noreturn]] static void fault_of(thread *t)
{
    block.current = t;
    message = place() + message + text(" (%s:%d)", t->at.file, t->at.line);
    abandon();
}

static void finish_barrier()
{
    int count = 0;
    thread *first = nullptr;
    for (thread &t : block.threads) {
        if (t.now != state::at_barrier)
            continue;
        if (!first)
            first = &t;
        if (t.at.line != first->at.line || t.kind != first->kind ||
            strcmp(t.at.file, first->at.file)) {
            message = "a barrier in divergent code: " + waits(t) + ", " + waits(*first);
            fault_of(&t);
        }
        count += t.value != 0;
    }
    for (thread &t : block.threads) {
        if (t.now != state::at_barrier)
            continue;
        t.value = t.kind == barrier::count ? count
                  : t.kind == barrier::all ? count == (int)block.n_live
                                           : count > 0;
        make_ready(&t);
    }
    block.n_at_barrier = 0;
}

int sync_block(const char *what, barrier kind, int predicate, where at)
{
    thread *t = block.current;
    t->what = what;
    t->at = at;
    t->kind = kind;
    t->value = predicate;
    t->mask = 0;
    t->now = state::at_barrier;
    if (++block.n_at_barrier == block.n_live)
        finish_barrier();
    yield();
    return t->value;
}

static bool everybody_came(unsigned warp, const thread &t, unsigned expected)
{
    if (expected & ~block.meeting[warp])
        return false;
    for (unsigned rest = expected; rest; rest &= rest - 1) {
        const thread &o = block.threads[32 * warp + (unsigned)__builtin_ctz(rest)];
        if (o.combine != t.combine || o.mask != t.mask)
            return false;
    }
    return true;
}

static void finish_meeting(unsigned warp, const thread &t, unsigned expected)
{
    void *lanes[32] = {};
    for (unsigned rest = expected; rest; rest &= rest - 1) {
        unsigned l = (unsigned)__builtin_ctz(rest);
        lanes[l] = block.threads[32 * warp + l].mine;
    }
    t.combine(lanes, expected, t.at);
    block.meeting[warp] &= ~expected;
    for (unsigned rest = expected; rest; rest &= rest - 1)
        make_ready(&block.threads[32 * warp + (unsigned)__builtin_ctz(rest)]);
}

[[noreturn]] static void fault_names_gone(thread *t, unsigned gone)
{
    message = text("%s with mask %08x names lane %d, which has left the kernel or never was",
                   t->what, t->mask, __builtin_ctz(gone));
    fault_of(t);
}

void meet(const char *what, unsigned mask, combine_fn combine, void *mine, leavers policy, where at)
{
    thread *t = block.current;
    unsigned warp = t->number / 32, expected = mask;
    t->what = what;
    t->at = at;
    t->mask = mask;
    t->combine = combine;
    t->mine = mine;
    t->policy = policy;
    if (!(mask >> t->number % 32 & 1))
        fault(at, "%s by lane %u, which is not in its own mask %08x", what, t->number % 32, mask);
    unsigned gone = mask & ~block.live[warp];
    if (gone && policy == leavers::fault)
        fault_names_gone(t, gone);
    expected &= ~gone;
    t->now = state::at_meeting;
    block.meeting[warp] |= 1u << t->number % 32;
    if (everybody_came(warp, *t, expected))
        finish_meeting(warp, *t, expected);
    yield();
}

/* The current thread has returned from the kernel: threads that wait for it go on, or are at
 * fault. */
static void leave()
{
    thread *self = block.current;
    unsigned warp = self->number / 32, bit = 1u << self->number % 32;
    self->now = state::left;
    block.live[warp] &= ~bit;
    self->copies.clear();
    self->groups.clear();
    block.n_live--;
    if (block.n_at_barrier && block.n_at_barrier == block.n_live)
        finish_barrier();
    for (uint32_t rest = block.meeting[warp]; rest; rest &= rest - 1) {
        thread &t = block.threads[32 * warp + (unsigned)__builtin_ctz(rest)];
        if (t.now != state::at_meeting || !(t.mask & bit)) /* an earlier one may have met by now */
            continue;
        if (t.policy == leavers::fault)
            fault_names_gone(&t, bit);
        unsigned expected = t.mask & block.live[warp];
        if (everybody_came(warp, t, expected))
            finish_meeting(warp, t, expected);
    }
}

/* What every fiber runs: the picked thread if it is fresh, then others, until one is parked
 * elsewhere or the block is done. An idle fiber sleeps in switch_to here. */
static void fiber_main()
{
    arrived();
    for (;;) {
        block.current->now = state::ready;
        (*block.body)();
        leave();
        context *next = &host;
        if (block.n_live) {
            set_current(pick());
            if (block.current->now == state::fresh)
                continue;
            next = block.current->parked;
        }
        idle_fibers.push_back(running);
        switch_to(next);
    }
}

/* cp.async. The source is read when the copy is issued, under the sanitizer's eyes; the target
 * changes only at the wait that covers it. */

void copy_later(void *to, const void *from, size_t bytes, where at)
{
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes > 16)
        fault(at, "cp.async of %zu bytes from %p to %p: both must be multiples of 16", bytes, from,
              to);
    copy c = {to, {}};
    memcpy(c.bytes, to, 16); /* must be memory, too */
    memset(c.bytes, 0, 16);
    memcpy(c.bytes, from, bytes);
    block.current->copies.push_back(c);
}

void copies_commit()
{
    block.current->groups.push_back(block.current->copies.size());
}

void copies_wait(int groups_left)
{
    thread *t = block.current;
    if (t->groups.size() <= (size_t)groups_left)
        return;
    size_t n_groups = t->groups.size() - (size_t)groups_left;
    size_t n_copies = t->groups[n_groups - 1];
    for (size_t i = 0; i < n_copies; i++)
        memcpy(t->copies[i].to, t->copies[i].bytes, 16);
    t->copies.erase(t->copies.begin(), t->copies.begin() + (long)n_copies);
    t->groups.erase(t->groups.begin(), t->groups.begin() + (long)n_groups);
    for (size_t &end : t->groups)
        end -= n_copies;
}

/* Grids. */

void canary_set(void *end)
{
    memset(end, 0xc5, canary_bytes);
}

bool canary_holds(const void *end)
{
    for (size_t i = 0; i < canary_bytes; i++) {
        if (((const unsigned char *)end)[i] != 0xc5)
            return false;
    }
    return true;
}

static bool run_block(size_t shared_bytes)
{
    block.serial++;
    memset(block.shared, 0xff, shared_bytes);
    block.n_live = block.n_threads;
    block.n_at_barrier = 0;
    for (unsigned w = 0; 32 * w < block.n_threads; w++) {
        unsigned left = block.n_threads - 32 * w;
        block.ready[w] = block.live[w] = left < 32 ? (1u << left) - 1 : ~0u;
        block.meeting[w] = 0;
        block.ready_warps |= 1u << w;
    }
    for (thread &t : block.threads)
        t.now = state::fresh;
    set_current(pick());
    switch_to(take_fiber());
    if (!block.faulted && !canary_holds(block.shared + shared_bytes)) {
        message = place() +
                  "this thread or another of the block wrote past the end of dynamic shared memory";
        report(message.c_str());
        block.faulted = true;
    }
    return !block.faulted;
}

static void make_threads(dim3 dim)
{
    block.n_threads = dim.x * dim.y * dim.z;
    block.threads.resize(block.n_threads);
    for (unsigned n = 0; n < block.n_threads; n++) {
        thread &t = block.threads[n];
        t.number = n;
        t.index = {n % dim.x, n / dim.x % dim.y, n / dim.x / dim.y};
    }
}

/* After a fault fibers sleep in threads that will never go on; all start anew. */
static void clear_fault()
{
    idle_fibers = all_fibers;
    for (context *c : all_fibers)
        prepare(c);
    for (thread &t : block.threads) {
        t.copies.clear();
        t.groups.clear();
    }
    memset(block.ready, 0, sizeof block.ready);
    block.ready_warps = 0;
    block.faulted = false;
}

bool run_grid(const char *name, dim3 grid, dim3 dim, size_t shared_bytes,
              const std::function<void()> &body)
{
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    block.name = name;
    block.body = &body;
    gridDim = grid;
    blockDim = dim;
    make_threads(dim);
    void *shared = nullptr;
    if (posix_memalign(&shared, 1024, shared_bytes + canary_bytes))
        abort();
    block.shared = (char *)shared;
    canary_set(block.shared + shared_bytes);

    uint64_t n_blocks = (uint64_t)grid.x * grid.y * grid.z;
    std::vector<uint32_t> order;
    if (shuffled) {
        order.resize(n_blocks);
        std::iota(order.begin(), order.end(), 0);
        for (uint32_t i = (uint32_t)n_blocks; i > 1; i--)
            std::swap(order[i - 1], order[draw(i)]);
    }
    bool ok = true;
    for (uint64_t i = 0; ok && i < n_blocks; i++) {
        unsigned b = (unsigned)(shuffled ? order[i] : i);
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        ok = run_block(shared_bytes);
    }
    if (!ok)
        clear_fault();
    free(shared);
    return ok;
}
} // namespace emu

extern "C" void emu_set_seed(uint64_t seed)
{
    emu::shuffled = seed != 0;
    emu::random_state = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < 8; i++)
        emu::draw(2);
}

extern "C" void emu_on_fault(void (*handler)(const char *, void *), void *context)
{
    emu::fault_handler = handler;
    emu::fault_context = context;
}

__attribute__((constructor)) static void seed_from_environment()
{
    const char *seed = getenv("WINNOW_EMU_SEED");
    if (seed)
        emu_set_seed(strtoull(seed, nullptr, 10));
}
