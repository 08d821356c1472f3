/* Orders of work that a thread pool might choose. */
#ifndef BNNCC_TESTS_ORDERS_H
#define BNNCC_TESTS_ORDERS_H

#include "support.h"

#include <pthread.h>

typedef struct order {
    const char *name;
    bnncc_parallel parallel;
} order;

static void run_forwards(void *context, void (*task)(void *, size_t), void *argument, size_t count) {
    (void)context;
    for (size_t i = 0; i < count; i++)
        task(argument, i);
}

static void run_backwards(void *context, void (*task)(void *, size_t), void *argument, size_t count) {
    (void)context;
    for (size_t i = count; i > 0; i--)
        task(argument, i - 1);
}

static void run_even_then_odd(void *context, void (*task)(void *, size_t), void *argument, size_t count) {
    (void)context;
    for (size_t first = 0; first < 2; first++)
        for (size_t i = first; i < count; i += 2)
            task(argument, i);
}

typedef struct thread_share {
    void (*task)(void *, size_t);
    void *argument;
    size_t first, step, count;
} thread_share;

static void *run_share(void *argument) {
    const thread_share *share = argument;
    for (size_t i = share->first; i < share->count; i += share->step)
        share->task(share->argument, i);
    return NULL;
}

/* Three threads at a time, each with every third piece. */
static void run_threads(void *context, void (*task)(void *, size_t), void *argument, size_t count) {
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    thread_share shares[THREADS];
    bool started[THREADS];
    (void)context;
    for (size_t t = 0; t < THREADS; t++) {
        shares[t] = (thread_share){task, argument, t, THREADS, count};
        started[t] = pthread_create(&threads[t], NULL, run_share, &shares[t]) == 0;
        if (!started[t])
            run_share(&shares[t]);
    }
    for (size_t t = 0; t < THREADS; t++)
        if (started[t])
            pthread_join(threads[t], NULL);
}

static const order orders[] = {
    {"no threads", {NULL, NULL, 0}},         {"forwards", {run_forwards, NULL, 0}},
    {"backwards", {run_backwards, NULL, 2}}, {"even, then odd", {run_even_then_odd, NULL, 5}},
    {"threads", {run_threads, NULL, 3}},
};
enum { ORDERS = sizeof orders / sizeof orders[0] };

static inline const bnncc_parallel *parallel_of(const order *order) {
    return order->parallel.run ? &order->parallel : NULL;
}

#endif /* BNNCC_TESTS_ORDERS_H */
