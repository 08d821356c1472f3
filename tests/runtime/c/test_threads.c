/* What an op expects of onnxruntime's threads, from those that have come for earlier runs. */
#include "ort/threads.h"
#include "support.h"

#include <pthread.h>

static void no_work(void *argument, size_t index) {
    (void)argument;
    (void)index;
}

static void *take_task(void *watch) {
    threads_task(watch, 1);
    return NULL;
}

/* A run whose tasks the caller does, and so many other threads. Threads that have ended may share an identity, so all
 * are alive at once. */
static size_t run(threads_seen *seen, size_t size, size_t others) {
    const size_t expected = threads_expected(seen, size);
    threads_watch watch = {.task = no_work, .size = size};
    pthread_t threads[4];
    threads_task(&watch, 0);
    threads_task(&watch, 0); /* who comes twice counts once */
    for (size_t i = 0; i < others; i++)
        if (pthread_create(&threads[i], NULL, take_task, &watch))
            abort();
    for (size_t i = 0; i < others; i++)
        pthread_join(threads[i], NULL);
    threads_note(seen, &watch);
    return expected;
}

int main(void) {
    tally tally = {0, 0};
    threads_seen seen = {0};
    const size_t first = run(&seen, 10, 0);
    CHECK(&tally, first >= 1, "%zu threads are expected at first", first);
    for (size_t i = 0; i < 14; i++)
        run(&seen, 20, 0);
    CHECK(&tally, run(&seen, 10, 0) == first, "fifteen runs alone change what is expected");
    CHECK(&tally, run(&seen, 20, 0) == 1, "after sixteen runs alone others are expected");
    CHECK(&tally, threads_expected(&seen, 21) == first, "others are not expected of a larger run");
    size_t runs = 18;
    while (runs++ < 400 && threads_expected(&seen, 20) == 1)
        ;
    CHECK(&tally, first == 1 || runs == 257, "others are asked for again at run %zu", runs);
    run(&seen, 20, 1); /* others come at last */
    const size_t then = run(&seen, 10, 1);
    CHECK(&tally, then == 2, "%zu threads are expected where two have come", then);
    for (size_t i = 0; i < 32; i++)
        run(&seen, 20, 0);
    CHECK(&tally, run(&seen, 20, 0) == 2, "others are not expected because they were late");
    return finish(&tally, "test_threads");
}
