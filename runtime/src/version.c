/* The library's version, which the build reads from pyproject.toml. */
#include "bnncc.h"

const char *bnncc_version(void) { return BNNCC_VERSION; }
