/* How many of a session's threads take part in an op's work, which onnxruntime does not tell: seen from earlier runs.
 */
#ifndef BNNCC_ORT_THREADS_H
#define BNNCC_ORT_THREADS_H

#include <stdatomic.h>
#include <stddef.h>

/* What has been seen of one op. To be zero at first; runs of several threads may share it. */
typedef struct threads_seen {
    atomic_uint runs;          /* expectations so far */
    atomic_uint most;          /* threads that have taken part in a run; 0 as long as none has but the caller */
    atomic_uint alone;         /* runs in which none did ... */
    _Atomic size_t alone_size; /* ... and the size of the largest of them */
} threads_seen;

/* How many threads a run may count on, whose work goes with `size`: at first as many as there are CPUs, eight at most,
 * then as many as have come. Where none ever came, as in a session of one thread, or because they sleep too deeply for
 * so short a run, they are counted on for larger runs only, and now and then, ever more seldom. */
size_t threads_expected(threads_seen *seen, size_t size);

/* One run's tasks, and the threads that have come for them. */
typedef struct threads_watch {
    void (*task)(void *argument, size_t index);
    void *argument;
    size_t size;
    _Atomic size_t come[64];
} threads_watch;

/* The task to hand out instead of the run's own, with the watch as its argument. */
void threads_task(void *watch, size_t index);
/* Once all tasks are done. */
void threads_note(threads_seen *seen, threads_watch *watch);

#endif /* BNNCC_ORT_THREADS_H */
