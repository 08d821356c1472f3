/* How many of a session's threads take part in an op's work, which onnxruntime does not tell: seen from earlier runs.
 */
#define _POSIX_C_SOURCE 200809L /* sysconf, pthread_self */
#include "threads.h"

#include <pthread.h>
#include <unistd.h>

enum { PATIENCE = 3, ASK_AGAIN = 64 };
static const size_t most_threads = sizeof((threads_watch *)0)->come / sizeof(_Atomic size_t);

size_t threads_expected(threads_seen *seen) {
    const unsigned run = atomic_fetch_add_explicit(&seen->runs, 1, memory_order_relaxed);
    const unsigned most = atomic_load_explicit(&seen->most, memory_order_relaxed);
    const unsigned alone = atomic_load_explicit(&seen->alone, memory_order_relaxed);
    if (run % ASK_AGAIN == 0 || (most < 2 && alone < PATIENCE)) {
        const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        return cpus < 1 ? 1 : (size_t)cpus < most_threads ? (size_t)cpus : most_threads;
    }
    return alone < PATIENCE ? most : 1;
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
        atomic_fetch_add_explicit(&seen->alone, 1, memory_order_relaxed);
        return;
    }
    atomic_store_explicit(&seen->alone, 0, memory_order_relaxed);
    unsigned most = atomic_load_explicit(&seen->most, memory_order_relaxed);
    while (most < count && !atomic_compare_exchange_weak(&seen->most, &most, count))
        ;
}
