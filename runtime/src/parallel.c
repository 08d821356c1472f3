/* Spreads work over the caller's threads. */
#include "parallel.h"
#include "checked.h"

static const size_t least_steps = 20000;

size_t parallel_threads(const bnncc_parallel *parallel) {
    const size_t guess = 8, most = 64;
    if (!parallel)
        return 1;
    return parallel->threads ? smaller(parallel->threads, most) : guess;
}

/* More pieces than threads keep all threads busy to the end; scratch memory grows with the pieces. */
size_t parallel_pieces(const bnncc_parallel *parallel, size_t count, size_t cost) {
    bool overflow = false;
    const size_t threads = parallel_threads(parallel), most_pieces = 4 * threads;
    if (threads == 1 || count <= 1)
        return 1;
    const size_t steps = times(count, cost, &overflow);
    const size_t worthwhile = overflow ? most_pieces : steps / least_steps + 1;
    return smaller(smaller(count, worthwhile), most_pieces);
}

typedef struct piece_job {
    parallel_piece *work;
    void *argument;
    size_t count, pieces;
} piece_job;

/* The first count % pieces pieces have one item more than the others. */
static void run_piece(void *argument, size_t piece) {
    const piece_job *job = argument;
    const size_t share = job->count / job->pieces, extra = job->count % job->pieces;
    const size_t begin = piece * share + smaller(piece, extra);
    job->work(job->argument, piece, begin, begin + share + (piece < extra));
}

void parallel_run(const bnncc_parallel *parallel, size_t count, size_t pieces, parallel_piece *work, void *argument) {
    piece_job job = {work, argument, count, pieces};
    if (count == 0)
        return;
    if (parallel && pieces > 1)
        parallel->run(parallel->context, run_piece, &job, pieces);
    else
        for (size_t piece = 0; piece < pieces; piece++)
            run_piece(&job, piece);
}

typedef struct range_job {
    parallel_work *work;
    void *argument;
} range_job;

static void run_range(void *argument, size_t piece, size_t begin, size_t end) {
    const range_job *job = argument;
    (void)piece;
    job->work(job->argument, begin, end);
}

void parallel_ranges(const bnncc_parallel *parallel, size_t count, size_t cost, parallel_work *work, void *argument) {
    range_job job = {work, argument};
    parallel_run(parallel, count, parallel_pieces(parallel, count, cost), run_range, &job);
}
