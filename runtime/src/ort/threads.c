/* How many of a session's threads take part in an op's work, which onnxruntime does not tell: seen from earlier runs.
 */
#define _POSIX_C_SOURCE 200809L /* sysconf, pthread_self */
#include "threads.h"
#include "checked.h"

#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

/* Threads that sleep come some runs later, once they are called. */
enum { PATIENCE = 16, FIRST_GUESS = 8, ASK_FIRST = 256, ASK_LEAST = 4096 };
static const size_t most_threads = sizeof((threads_watch *)0)->come / sizeof(_Atomic size_t);

/* So many runs from the 256th, the 512th, ..., and then from every 4096th on. */
static bool asks_again(unsigned run) {
    const unsigned first = run - run % PATIENCE;
    return first >= ASK_FIRST && ((first & (first - 1)) == 0 || first % ASK_LEAST == 0);
}

/* CPUs, asked for once: the C library reads a file to answer. */
static size_t cpu_count(void) {
    static atomic_long found;
    long online = atomic_load_explicit(&found, memory_order_relaxed);
    if (!online) {
        online = sysconf(_SC_NPROCESSORS_ONLN);
        online = online < 1 ? 1 : online;
        atomic_store_explicit(&found, online, memory_order_relaxed);
    }
    return (size_t)online;
}

size_t threads_expected(threads_seen *seen, size_t size) {
    const unsigned run = atomic_fetch_add_explicit(&seen->runs, 1, memory_order_relaxed);
    const size_t most = atomic_load_explicit(&seen->most, memory_order_relaxed);
    if (!asks_again(run)) {
        if (most)
            return most;
        if (atomic_load_explicit(&seen->alone, memory_order_relaxed) >= PATIENCE &&
            size <= atomic_load_explicit(&seen->alone_size, memory_order_relaxed))
            return 1;
    }
    return smaller(smaller(cpu_count(), most_threads), 2 * most > FIRST_GUESS ? 2 * most : FIRST_GUESS);
}

void threads_task(void *argument, size_t index) {
    threads_watch *watch = argument;
    const size_t me = (size_t)pthread_self();
    for (size_t i = 0; i < most_threads; i++) {
        size_t other = 0;
        if (atomic_compare_exchange_strong(&watch->come[i], &other, me) || other == me)
            break;
    }
    watch->task(watch->argument, index);
}

void threads_note(threads_seen *seen, threads_watch *watch) {
    unsigned count = 0;
    while (count < most_threads && atomic_load_explicit(&watch->come[count], memory_order_relaxed))
        count++;
    if (count < 2) {
        size_t size = atomic_load_explicit(&seen->alone_size, memory_order_relaxed);
        while (size < watch->size && !atomic_compare_exchange_weak(&seen->alone_size, &size, watch->size))
            ;
        atomic_fetch_add_explicit(&seen->alone, 1, memory_order_relaxed);
        return;
    }
    unsigned most = atomic_load_explicit(&seen->most, memory_order_relaxed);
    while (most < count && !atomic_compare_exchange_weak(&seen->most, &most, count))
        ;
}
