/* Burns a core for so long. Called through ctypes, which lets other Python threads work meanwhile. */
#define _GNU_SOURCE
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

void spin(double seconds) {
    double end = now() + seconds;
    while (now() < end) ;
}
