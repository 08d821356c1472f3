/* How many planes vertical counters may have: the counting loops are compiled for each of these numbers. */
#ifndef BNNCC_COUNTERS_H
#define BNNCC_COUNTERS_H

#define FOR_COUNTER_NUMBERS(DO) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(16)
#define COUNTER_NUMBER(n) n,

#endif /* BNNCC_COUNTERS_H */
